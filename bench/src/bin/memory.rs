//! How much memory a cached bucket takes, beside its key: counted by the allocator.
//!
//! ```text
//! cargo run --release -p zae-limiter-bench --bin memory
//! ```

use std::alloc::System;
use std::error::Error;
use std::time::{Duration, Instant};

use clap::Parser;
use comfy_table::presets::UTF8_FULL_CONDENSED;
use comfy_table::{CellAlignment, Table};
use stats_alloc::{INSTRUMENTED_SYSTEM, StatsAlloc};
use tokio::task::JoinSet;
use zae_limiter::store::MemoryStore;
use zae_limiter::{Clock, LeasedOptions, Limit, ManualClock, Mode, RateLimiter, Settings};
use zae_limiter_bench::{CountingStore, grouped};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// What is claimed of a bucket, in bytes.
const CLAIMED_BYTES: f64 = 300.0;
/// How many acquires wait at once while the buckets are made.
const AT_ONCE: usize = 64;
const RENEWAL_MS: u64 = 60_000;
/// How many renewal intervals the buckets are left alone.
const IDLE_RENEWALS: u64 = 9;
/// In how many steps an interval passes: a bucket is looked at so often, and a clock that goes on by
/// more looks like a process that has stood still.
const LOOKS: u64 = 4;

/// Counts the memory of cached buckets with two limits each.
#[derive(Debug, Parser)]
struct Arguments {
    /// How many buckets.
    #[arg(long, default_value_t = 1_000_000)]
    buckets: usize,
}

/// Bytes asked of the allocator and not given back.
fn in_use() -> i64 {
    let stats = ALLOCATOR.stats();
    stats.bytes_allocated as i64 - stats.bytes_deallocated as i64
}

fn name(at: usize) -> String {
    format!("key-{at:07}")
}

/// One key is in every bucket, and its text is not the bucket's doing. Up to 23 bytes lie in the
/// key itself; ours are so short.
fn key_bytes(resource: &str) -> usize {
    name(0).len() + resource.len()
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let Arguments { buckets } = Arguments::parse();
    let (clock, hands) = Clock::manual();
    let options = LeasedOptions {
        renewal_interval_ms: RENEWAL_MS,
        lease_ttl_ms: 3 * RENEWAL_MS,
    };
    let settings = Settings {
        mode: Mode::Leased(options),
        acquire_timeout_ms: 60_000,
        idle_ttl_ms: 24 * 3_600_000,
        ..Settings::default()
    };
    let store = CountingStore::new(MemoryStore::new());
    let limiter = RateLimiter::builder("memory")
        .settings(settings)
        .clock(clock);
    let limiter = limiter.store(store.clone()).connect().await?;
    eprintln!("making {} buckets ...", grouped(buckets as u64));
    fill(&limiter, buckets).await?;
    let used = in_use();
    eprintln!("waiting until all are idle ...");
    rest(&limiter, &hands, &store, buckets).await?;
    let idle = in_use();
    let cached = limiter.metrics().cached_buckets;
    limiter.shutdown(Duration::from_secs(60)).await;
    drop(limiter);
    // The reconciler and its writes end in the background.
    tokio::time::sleep(Duration::from_millis(500)).await;
    // What is left is the table itself, and the rest of the program.
    let without = in_use();
    drop(store);
    print(cached, used - without, idle - without);
    Ok(())
}

fn limits() -> Result<[Limit; 2], zae_limiter::ValidationError> {
    Ok([
        Limit::per_minute("rpm", 1_000)?,
        Limit::per_minute("tpm", 100_000)?,
    ])
}

/// One acquire on each bucket.
async fn fill(limiter: &RateLimiter, buckets: usize) -> Result<(), Box<dyn Error>> {
    let mut tasks = JoinSet::new();
    for part in 0..AT_ONCE {
        let limiter = limiter.clone();
        let limits = limits()?;
        tasks.spawn(async move {
            for at in (part..buckets).step_by(AT_ONCE) {
                let key = name(at);
                let acquire = limiter.acquire(&key, "api").limits(&limits);
                drop(acquire.consume("rpm", 1).consume("tpm", 100).await?);
            }
            Ok::<_, zae_limiter::Error>(())
        });
    }
    while let Some(done) = tasks.join_next().await {
        done??;
    }
    Ok(())
}

/// Time passes, and nobody asks, until every bucket has given everything back.
async fn rest(
    limiter: &RateLimiter,
    hands: &ManualClock,
    store: &CountingStore,
    buckets: usize,
) -> Result<(), Box<dyn Error>> {
    let limits = limits()?;
    for round in 0..IDLE_RENEWALS {
        for look in 0..LOOKS {
            hands.advance(Duration::from_millis(RENEWAL_MS / LOOKS));
            // The clock is not the runtime's: a bucket that is new wakes the reconciler.
            let new = format!("waker-{round}-{look}");
            let waker = limiter.acquire(&new, "api").limits(&limits);
            drop(waker.consume("rpm", 1).await?);
            settle().await;
        }
        let (round, writes) = (round + 1, grouped(store.writes()));
        eprintln!("  {round} of {IDLE_RENEWALS} renewal intervals; {writes} writes by now");
    }
    let last = name(buckets - 1);
    let available = limiter.available(&last, "api", &limits).await?;
    if available.iter().any(|limit| limit.in_hand > 0) {
        return Err(format!("{last} still holds tokens: {available:?}").into());
    }
    Ok(())
}

/// Waits until memory does not change any more.
async fn settle() {
    let deadline = Instant::now() + Duration::from_secs(60);
    let mut last = ALLOCATOR.stats().allocations;
    loop {
        tokio::time::sleep(Duration::from_millis(300)).await;
        let now = ALLOCATOR.stats().allocations;
        if now - last < 100 || Instant::now() > deadline {
            return;
        }
        last = now;
    }
}

fn print(buckets: usize, used: i64, idle: i64) {
    let mut table = Table::new();
    table.load_style(UTF8_FULL_CONDENSED).set_header([
        "cached buckets, two limits each",
        "bytes in all",
        "bytes per bucket",
        "above the key",
        "claim",
        "met",
    ]);
    for (state, bytes) in [("freshly used", used), ("idle", idle)] {
        let each = bytes as f64 / buckets as f64;
        let above = each - key_bytes("api") as f64;
        let met = if above <= CLAIMED_BYTES { "yes" } else { "NO" };
        table.add_row([
            format!("{}, {state}", grouped(buckets as u64)),
            grouped(bytes.max(0).unsigned_abs()),
            format!("{each:.1}"),
            format!("{above:.1}"),
            format!("<= {CLAIMED_BYTES}"),
            met.to_owned(),
        ]);
    }
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    println!("{table}");
    println!("Bytes as asked of the allocator, by what shutting the limiter down sets free; the");
    println!(
        "in-memory table is not counted. The text of a key is {} bytes.",
        key_bytes("api")
    );
}
