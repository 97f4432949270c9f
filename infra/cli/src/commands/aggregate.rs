//! `aggregate`: writes usage snapshots from here, where no function in Lambda does.

use clap::{Args, ValueEnum};
use serde_json::json;
use zae_limiter::table_name;
use zae_limiter_aggregator::{Aggregator, DynamoDbSnapshots, DynamoDbStream, Follower, StartAt};
use zae_limiter_core::usage::Window;

use crate::failure::Failure;
use crate::output::Output;
use crate::place::Place;
use crate::progress::stopped;

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    place: Place,
    /// Over which windows usage is summed up: hourly, daily, monthly, separated by commas.
    #[arg(long, value_name = "WINDOWS", default_value = "hourly,daily")]
    snapshot_windows: String,
    /// For how many days usage snapshots are kept.
    #[arg(long, value_name = "DAYS", default_value_t = 90,
          value_parser = clap::value_parser!(u32).range(1..=3650))]
    retention_days: u32,
    /// Where to begin: with what the stream still knows, which is a day, or with what happens from
    /// now on. What has been counted is not counted again.
    #[arg(long, value_enum, default_value_t = Start::Horizon)]
    start: Start,
    /// End after this many seconds. Default: when interrupted.
    #[arg(long, value_name = "SECONDS")]
    seconds: Option<u64>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Start {
    Horizon,
    Latest,
}

pub(crate) async fn run(arguments: Arguments, output: &Output) -> Result<(), Failure> {
    let windows = Window::parse_list(&arguments.snapshot_windows)?;
    let name = table_name(arguments.place.name())?;
    let config = arguments.place.aws().await;
    let tables = aws_sdk_dynamodb::Client::new(&config);
    let streams = aws_sdk_dynamodbstreams::Client::new(&config);
    // That the table is there, and what is wrong if not, in our own words.
    arguments.place.limiter().await?;
    let stream = DynamoDbStream::of_table(&tables, streams, &name).await;
    let stream = stream.map_err(|error| Failure::aws(error.to_string()))?;
    let snapshots = DynamoDbSnapshots::new(tables, &name);
    let aggregator = Aggregator::new(snapshots, windows, arguments.retention_days);
    let start_at = match arguments.start {
        Start::Horizon => StartAt::Horizon,
        Start::Latest => StartAt::Latest,
    };
    if !output.json {
        eprintln!("following the stream of {name}; interrupt it to end");
    }
    let end = async {
        let Some(seconds) = arguments.seconds else {
            return stopped().await;
        };
        tokio::select! {
            () = stopped() => {}
            () = tokio::time::sleep(std::time::Duration::from_secs(seconds)) => {}
        }
    };
    let mut follower = Follower::new(stream, aggregator, start_at);
    let followed = follower.run(end).await;
    let done = followed.map_err(|error| Failure::aws(error.to_string()))?;
    let json = json!({
        "records": done.records,
        "snapshots_updated": done.snapshots_updated,
        "skipped": done.skipped,
    });
    output.show(&json, || {
        let (records, snapshots) = (done.records, done.snapshots_updated);
        format!(
            "{records} records, {snapshots} snapshots written, {} skipped",
            done.skipped
        )
    })
}
