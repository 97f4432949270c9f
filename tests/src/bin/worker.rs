//! A process that acquires at a steady rate and writes down what was admitted, until it is told
//! to end (SIGTERM) or killed.

use std::error::Error;
use std::io::Write;
use std::path::PathBuf;
use std::time::Duration;

use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::config::timeout::TimeoutConfig;
use clap::Parser;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::{self, MissedTickBehavior};
use zae_limiter::store::DynamoDbStore;
use zae_limiter::{Error as LimiterError, Limit, RateLimiter, Settings};
use zae_limiter_tests::config_for;
use zae_limiter_tests::journal::Journal;
use zae_limiter_tests::worker::READY;

/// Acquires at a steady rate, one after the other, and writes down what was admitted.
#[derive(Debug, Parser)]
struct Arguments {
    /// The table's full name
    #[arg(long)]
    table: String,
    /// Where the table is
    #[arg(long)]
    endpoint_url: String,
    /// Whose bucket to acquire from
    #[arg(long)]
    entity: String,
    /// Of what
    #[arg(long, default_value = "api")]
    resource: String,
    /// The limit, as JSON: name, capacity, burst, refill_amount, refill_period_seconds
    #[arg(long, value_parser = from_json::<Limit>)]
    limit: Limit,
    /// Tokens per acquire
    #[arg(long, default_value_t = 1)]
    tokens: u64,
    /// Acquires per second
    #[arg(long)]
    per_second: u32,
    /// The limiter's settings, as JSON: mode, failure_mode and so on
    #[arg(long, default_value = "{}", value_parser = from_json::<Settings>)]
    settings: Settings,
    /// How long a call of the table may take
    #[arg(long, default_value_t = 2_000)]
    operation_timeout_ms: u64,
    /// How long giving back may take at the end
    #[arg(long, default_value_t = 60_000)]
    shutdown_ms: u64,
    /// Ends by itself after so long: nobody may be left to end it
    #[arg(long, default_value_t = 300)]
    seconds_max: u64,
    /// Where to write down what was admitted
    #[arg(long)]
    journal: PathBuf,
}

fn from_json<T: serde::de::DeserializeOwned>(text: &str) -> Result<T, serde_json::Error> {
    serde_json::from_str(text)
}

#[tokio::main(worker_threads = 2)]
async fn main() -> Result<(), Box<dyn Error>> {
    let arguments = Arguments::parse();
    // Before it says that it is ready: from then on it ends in order.
    let mut terminated = signal(SignalKind::terminate())?;
    let limiter = connect(&arguments).await?;
    let mut journal = Journal::open(&arguments.journal)?;
    println!("{READY}");
    std::io::stdout().flush()?;

    let limits = [arguments.limit.clone()];
    let (mut refused, mut unavailable) = (0, 0);
    let mut ticks = time::interval(Duration::from_secs(1) / arguments.per_second.max(1));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let end = time::sleep(Duration::from_secs(arguments.seconds_max));
    tokio::pin!(end);
    loop {
        tokio::select! {
            biased;
            _ = terminated.recv() => break,
            () = &mut end => break,
            _ = ticks.tick() => {}
        }
        let acquire = limiter.acquire(&arguments.entity, &arguments.resource);
        let acquire = acquire.limits(&limits);
        match acquire.consume(limits[0].name(), arguments.tokens).await {
            // One after the other: between an admission and its line there is nothing else.
            Ok(lease) => journal.admitted(arguments.tokens, lease.is_degraded())?,
            Err(LimiterError::RateLimitExceeded(_)) => refused += 1,
            Err(LimiterError::Unavailable { .. }) => unavailable += 1,
            Err(error) => return Err(error.into()),
        }
    }
    let deadline = Duration::from_millis(arguments.shutdown_ms);
    let report = limiter.shutdown(deadline).await;
    journal.ended(refused, unavailable, report.unreturned)?;
    Ok(())
}

async fn connect(arguments: &Arguments) -> Result<RateLimiter, LimiterError> {
    let timeout = Duration::from_millis(arguments.operation_timeout_ms);
    let timeouts = TimeoutConfig::builder().operation_timeout(timeout).build();
    let config = config_for(&arguments.endpoint_url).timeout_config(timeouts);
    let store = DynamoDbStore::new(Client::from_conf(config.build()), &arguments.table);
    let builder = RateLimiter::builder("worker").store(store);
    builder.settings(arguments.settings.clone()).connect().await
}
