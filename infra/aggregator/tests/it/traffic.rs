//! Real traffic on a real table, and its stream.

use std::time::Duration;

use aws_lambda_events::event::dynamodb::{Event, EventRecord};
use aws_sdk_dynamodbstreams::Client;
use aws_sdk_dynamodbstreams::config::{BehaviorVersion, Config, Credentials, Region};
use aws_sdk_dynamodbstreams::types::ShardIteratorType;
use zae_limiter::store::DynamoDbStore;
use zae_limiter::{Limit, Mode, PageRequest, RateLimiter, UsageQuery, Window};
use zae_limiter_tests::{REGION, client_for, endpoint};

/// A client of the streams of the service that the tests may use.
pub(crate) fn streams() -> Client {
    let credentials = Credentials::new("test", "test", None, None, "tests");
    let config = Config::builder()
        .behavior_version(BehaviorVersion::latest())
        .region(Region::new(REGION))
        .endpoint_url(endpoint())
        .credentials_provider(credentials);
    Client::from_conf(config.build())
}

/// Acquires in both modes; some are taken back, some are more in the end. `strict-user` consumes 3
/// of rpm and 290 of tpm, `leased-user` 8 of rpm.
pub(crate) async fn traffic(store: DynamoDbStore) {
    let rpm = Limit::per_minute("rpm", 1_000).unwrap();
    let tpm = Limit::per_minute("tpm", 100_000).unwrap();
    let limits = [rpm, tpm];
    let builder = RateLimiter::builder("traffic").store(store.clone());
    let strict = builder.mode(Mode::Strict).connect().await.unwrap();
    for round in 0..4 {
        let acquire = strict.acquire("strict-user", "api").limits(&limits);
        let mut lease = acquire.consume("rpm", 1).consume("tpm", 100).await.unwrap();
        match round {
            0 => lease.rollback().await,
            1 => lease.adjust("tpm", -40).await.unwrap(),
            2 => lease.adjust("tpm", 30).await.unwrap(),
            _ => {}
        }
    }
    let builder = RateLimiter::builder("traffic").store(store);
    let leased = builder.connect().await.unwrap();
    for round in 0..10 {
        let acquire = leased.acquire("leased-user", "api").limits(&limits);
        let lease = acquire.consume("rpm", 1).await.unwrap();
        if round % 5 == 0 {
            lease.rollback().await;
        }
    }
    leased.shutdown(Duration::from_secs(20)).await;
    strict.shutdown(Duration::from_secs(20)).await;
}

/// All that is in the stream of a table, as Lambda is told of it.
pub(crate) async fn stream_of(table: &str) -> Vec<EventRecord> {
    let tables = client_for(&endpoint());
    let described = tables
        .describe_table()
        .table_name(table)
        .send()
        .await
        .unwrap();
    let arn = described.table.unwrap().latest_stream_arn.unwrap();
    let client = streams();
    let stream = client
        .describe_stream()
        .stream_arn(&arn)
        .send()
        .await
        .unwrap();
    let mut records = Vec::new();
    for shard in stream.stream_description.unwrap().shards() {
        let request = client.get_shard_iterator().stream_arn(&arn);
        let request = request.shard_id(shard.shard_id().unwrap());
        let request = request.shard_iterator_type(ShardIteratorType::TrimHorizon);
        let mut iterator = request.send().await.unwrap().shard_iterator;
        while let Some(next) = iterator {
            let page = client
                .get_records()
                .shard_iterator(next)
                .send()
                .await
                .unwrap();
            let found = page.records.unwrap_or_default();
            iterator = page.next_shard_iterator.filter(|_| !found.is_empty());
            records.extend(found.into_iter().map(event_record));
        }
    }
    records
}

fn event_record(record: aws_sdk_dynamodbstreams::types::Record) -> EventRecord {
    let change = record.dynamodb.unwrap();
    let item = |image: Option<_>| image.map(serde_dynamo::Item::from).unwrap_or_default();
    let mut made = EventRecord::default();
    made.event_name = record.event_name.unwrap().as_str().to_owned();
    made.change.keys = item(change.keys);
    made.change.old_image = item(change.old_image);
    made.change.new_image = item(change.new_image);
    made.change.sequence_number = change.sequence_number;
    made
}

/// Records as the event that Lambda hands over.
pub(crate) fn event(records: &[EventRecord]) -> String {
    let mut event = Event::default();
    event.records = records.to_vec();
    serde_json::to_string(&event).unwrap()
}

/// What the table says of the usage of the traffic, by hour, day and month.
pub(crate) async fn check_usage(store: DynamoDbStore) {
    let limiter = RateLimiter::builder("traffic")
        .store(store)
        .connect()
        .await
        .unwrap();
    for window in Window::ALL {
        let query = UsageQuery::of_resource("api").unwrap().window(window);
        let page = PageRequest::default().size(1);
        let first = limiter.get_usage(&query, &page).await.unwrap();
        assert_eq!(first.items.len(), 1);
        let all = limiter.summarize_usage(&query).await.unwrap();
        assert_eq!(
            (all.limits["rpm"].total, all.limits["tpm"].total),
            (11, 290)
        );
        for (id, rpm) in [("strict-user", 3), ("leased-user", 8)] {
            let query = UsageQuery::entity(id).unwrap().window(window);
            let query = query.resource("api").unwrap();
            let usage = limiter.summarize_usage(&query).await.unwrap();
            assert_eq!(usage.limits["rpm"].total, rpm, "{id} {window}");
        }
    }
    limiter.shutdown(Duration::from_secs(5)).await;
}
