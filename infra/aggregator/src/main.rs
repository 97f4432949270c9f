//! The Lambda function: `bootstrap` of the runtime `provided.al2023`.

use std::env;
use std::process::ExitCode;

use aws_config::BehaviorVersion;
use aws_lambda_events::event::dynamodb::Event;
use lambda_runtime::{Error, LambdaEvent, service_fn};
use tracing::level_filters::LevelFilter;
use tracing_subscriber::Layer;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use zae_limiter_aggregator::{Aggregator, DynamoDbSnapshots, Settings, handle};
use zae_limiter_core::Clock;

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let lines = tracing_subscriber::fmt::layer()
        .json()
        .flatten_event(true)
        .with_target(false);
    tracing_subscriber::registry()
        .with(lines.with_filter(filter()))
        .init();
    match serve().await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(logger = "zae_limiter_aggregator", %error, "Lambda runtime failed");
            ExitCode::FAILURE
        }
    }
}

/// What is logged: as Lambda's own logging settings say, else from INFO on; of what others log in
/// this process, only what is wrong.
fn filter() -> Targets {
    let level = env::var("AWS_LAMBDA_LOG_LEVEL").ok();
    let level = level.and_then(|level| level.parse().ok());
    let level = level.unwrap_or(LevelFilter::INFO);
    Targets::new()
        .with_default(level.min(LevelFilter::WARN))
        .with_target("zae_limiter_aggregator", level)
}

async fn serve() -> Result<(), Error> {
    let settings = Settings::from_variables(|name| env::var(name).ok())?;
    let config = aws_config::load_defaults(BehaviorVersion::latest()).await;
    let client = aws_sdk_dynamodb::Client::new(&config);
    let store = DynamoDbSnapshots::new(client, settings.table_name);
    let aggregator = Aggregator::new(store, settings.windows, settings.retention_days);
    let (aggregator, clock) = (&aggregator, &Clock::system());
    let handler = |event: LambdaEvent<Event>| async move {
        Ok::<_, Error>(handle(aggregator, clock, event).await)
    };
    lambda_runtime::run(service_fn(handler)).await
}
