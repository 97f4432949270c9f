//! How many records a core folds per second, and how many writes come of a thousand of them:
//! `cargo run --release -p zae-limiter-aggregator --example throughput`.
//!
//! From the event as Lambda hands it over, in JSON, to the writes; the table answers at once. What
//! counts is the time on a core, as Linux has it, so that others on the machine do not. Fails if a
//! row is below what is promised.

#![allow(clippy::unwrap_used)] // a program to look at

use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use aws_lambda_events::event::dynamodb::Event;
use lambda_runtime::{Context, LambdaEvent};
use serde_json::{Value, json};
use zae_limiter_aggregator::{
    Added, Addition, Aggregator, SnapshotError, SnapshotKey, SnapshotStore, handle,
};
use zae_limiter_core::Clock;
use zae_limiter_core::usage::Window;

/// For how long each row is measured.
const MEASURED: Duration = Duration::from_secs(3);
/// How many records a core folds per second at least.
const PROMISED: f64 = 20_000.0;

/// A table that takes everything, and counts.
#[derive(Debug, Default)]
struct Counting(AtomicU64);

#[async_trait]
impl SnapshotStore for Counting {
    async fn add(&self, _: &SnapshotKey, _: &Addition) -> Result<Added, SnapshotError> {
        self.0.fetch_add(1, Ordering::Relaxed);
        Ok(Added::Done)
    }
}

fn image(bucket: usize, sequence: u64) -> Value {
    let n = |number: u64| json!({ "N": number.to_string() });
    let terms = json!({ "M": {
        "capacity": n(1_000), "burst": n(1_000), "refill_amount": n(1_000),
        "refill_period_seconds": n(60),
    } });
    let ring: Vec<_> = (0..8).map(n).collect();
    let limit = |consumed| {
        json!({ "M": {
            "z": n(1_767_225_600_123_456_789), "consumed": n(consumed), "terms": terms,
            "ring": { "L": ring },
        } })
    };
    json!({
        "PK": { "S": format!("ENTITY#user-{bucket}") },
        "SK": { "S": "#BUCKET#gpt-4" },
        "GSI2PK": { "S": "RESOURCE#gpt-4" },
        "GSI2SK": { "S": format!("BUCKET#user-{bucket}") },
        "entity_id": { "S": format!("user-{bucket}") },
        "resource": { "S": "gpt-4" },
        "ttl": n(1_768_000_000),
        "seq": n(1_767_225_600_000_000 + sequence),
        "consumed_at_ms": n(1_767_225_600_000 + sequence),
        "limit#rpm": limit(sequence),
        "limit#tpm": limit(sequence * 480),
    })
}

/// A batch of records of so many buckets.
fn event(records: usize, buckets: usize) -> Vec<u8> {
    let record = |at: usize| {
        let (bucket, sequence) = (at % buckets, (at / buckets) as u64);
        let (old, new) = (image(bucket, sequence), image(bucket, sequence + 1));
        json!({
            "eventID": format!("{at:032x}"), "eventName": "MODIFY", "eventVersion": "1.1",
            "eventSource": "aws:dynamodb", "awsRegion": "us-east-1",
            "eventSourceARN": "arn:aws:dynamodb:us-east-1:1:table/ZAEL-x/stream/2026",
            "dynamodb": {
                "ApproximateCreationDateTime": 1_767_225_600.0,
                "Keys": { "PK": new["PK"], "SK": new["SK"] },
                "OldImage": old, "NewImage": new,
                "SequenceNumber": format!("{at:021}"), "SizeBytes": 900,
                "StreamViewType": "NEW_AND_OLD_IMAGES",
            },
        })
    };
    let records: Vec<_> = (0..records).map(record).collect();
    serde_json::to_vec(&json!({ "Records": records })).unwrap()
}

/// For how long this program has been on a core; it has one thread.
fn on_core() -> Duration {
    let text = std::fs::read_to_string("/proc/self/schedstat").expect("a Linux machine");
    let nanos = text.split_whitespace().next().unwrap();
    Duration::from_nanos(nanos.parse().unwrap())
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let clock = Clock::system();
    println!(
        "| records per batch | buckets in it | windows | records/s and core | writes per 1,000 records |"
    );
    println!("|---|---|---|---|---|");
    let mut slowest = f64::INFINITY;
    for (records, buckets) in [(100, 1), (100, 20), (100, 100), (1_000, 20), (1_000, 200)] {
        for windows in [&Window::ALL[..2], &Window::ALL[..]] {
            let aggregator = Aggregator::new(Counting::default(), windows.to_vec(), 90);
            let body = event(records, buckets);
            let (begun, mut batches) = (on_core(), 0_u64);
            while on_core() - begun < MEASURED {
                let event: Event = serde_json::from_slice(&body).unwrap();
                let event = LambdaEvent::new(event, Context::default());
                let answer = handle(&aggregator, &clock, event).await;
                assert!(answer.batch_item_failures.is_empty());
                batches += 1;
            }
            let seconds = (on_core() - begun).as_secs_f64();
            let records_done = batches * records as u64;
            let per_second = records_done as f64 / seconds;
            slowest = slowest.min(per_second);
            let writes = aggregator.store().0.load(Ordering::Relaxed);
            let per_thousand = writes as f64 * 1_000.0 / records_done as f64;
            let windows = windows.len();
            println!("| {records} | {buckets} | {windows} | {per_second:.0} | {per_thousand:.0} |");
        }
    }
    if slowest < PROMISED {
        eprintln!(
            "{slowest:.0} records/s and core are fewer than the {PROMISED} that are promised"
        );
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}
