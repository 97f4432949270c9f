//! The Lambda function's handler: an event in, the records that failed out.

use aws_lambda_events::event::dynamodb::{Event, EventRecord};
use aws_lambda_events::event::streams::{DynamoDbBatchItemFailure, DynamoDbEventResponse};
use lambda_runtime::{Context, LambdaEvent};
use tracing::{error, info};
use zae_limiter_core::Clock;

use crate::aggregator::{Aggregator, Report};
use crate::change::Record;
use crate::snapshot::SnapshotStore;

/// What log lines say they are from.
const LOGGER: &str = "zae_limiter_aggregator::lambda";

/// Counts the records of `event`, and answers with those that are to be delivered again. (Lambda
/// goes on from the first of them.) It never fails as a whole.
pub async fn handle<S: SnapshotStore>(
    aggregator: &Aggregator<S>,
    clock: &Clock,
    event: LambdaEvent<Event>,
) -> DynamoDbEventResponse {
    let LambdaEvent { payload, context } = event;
    let begun = clock.now();
    let Context {
        request_id,
        env_config,
        ..
    } = &context;
    let function_name = env_config.function_name.as_str();
    let record_count = payload.records.len();
    info!(
        logger = LOGGER,
        request_id, function_name, record_count, "Lambda invocation started"
    );
    let records: Vec<_> = payload.records.iter().map(read).collect();
    info!(
        logger = LOGGER,
        request_id, function_name, record_count, "Batch processing started"
    );
    let report = aggregator.process(&records).await;
    for failed in &report.failed {
        let (position, error) = (failed.position.as_str(), failed.cause.to_string());
        error!(
            logger = LOGGER,
            request_id, function_name, position, error, "Record failed"
        );
    }
    let Report {
        processed,
        deltas_extracted,
        snapshots_updated,
        failed,
    } = &report;
    let error_count = failed.len();
    let processing_time_ms = clock.now().since(begun).as_secs_f64() * 1_000.0;
    info!(
        logger = LOGGER,
        request_id,
        function_name,
        record_count,
        processed,
        deltas_extracted,
        snapshots_updated,
        error_count,
        processing_time_ms,
        "Batch processing completed"
    );
    info!(
        logger = LOGGER,
        request_id,
        function_name,
        record_count,
        processed,
        error_count,
        processing_time_ms,
        "Lambda invocation completed"
    );
    let mut response = DynamoDbEventResponse::default();
    for failed in report.failed {
        let mut failure = DynamoDbBatchItemFailure::default();
        failure.item_identifier = Some(failed.position);
        response.batch_item_failures.push(failure);
    }
    response
}

fn read(record: &EventRecord) -> Record {
    let change = &record.change;
    // An image that is not there is read as an empty one.
    let image = |item| Some(item).filter(|item: &&serde_dynamo::Item| !item.is_empty());
    Record::read(
        change.sequence_number.clone().unwrap_or_default(),
        &change.keys,
        image(&change.old_image),
        image(&change.new_image),
    )
}
