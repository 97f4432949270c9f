//! What callers feel of a table that hangs, and how soon all is well again: measured, in real
//! time, on a table in memory that is made to fail.

use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use serde::Serialize;
use zae_limiter::store::{Fault, FaultyStore, MemoryStore};
use zae_limiter::{
    BucketHandle, Error, ErrorKind, FailureMode, LeasedOptions, Limit, Mode, RateLimiter, Settings,
};

type Faulty = FaultyStore<MemoryStore>;

/// Latencies of acquires, in nanoseconds.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Latency {
    /// How many were measured.
    pub acquires: u64,
    /// Half took no longer.
    pub p50_ns: u64,
    /// All but one of a thousand took no longer.
    pub p999_ns: u64,
}

impl Latency {
    fn of(histogram: &Histogram<u64>) -> Self {
        Self {
            acquires: histogram.len(),
            p50_ns: histogram.value_at_quantile(0.5),
            p999_ns: histogram.value_at_quantile(0.999),
        }
    }
}

async fn limiter(
    options: LeasedOptions,
    acquire_timeout: Duration,
) -> Result<(Faulty, RateLimiter), Error> {
    let store = FaultyStore::new(MemoryStore::new());
    let settings = Settings {
        mode: Mode::Leased(options),
        failure_mode: FailureMode::Closed,
        acquire_timeout_ms: u64::try_from(acquire_timeout.as_millis()).unwrap_or(u64::MAX),
        ..Settings::default()
    };
    let limiter = RateLimiter::builder("stall").store(store.clone());
    Ok((store, limiter.settings(settings).connect().await?))
}

/// Times each of `attempts` for `duration`: 50 times one, 50 times the next, and then a pause that
/// leaves the processor alone, as a service with other work would.
fn measure<const N: usize>(duration: Duration, attempts: [&mut dyn FnMut(); N]) -> [Latency; N] {
    let histogram = || Histogram::<u64>::new(3).unwrap_or_else(|_| unreachable!("3 is valid"));
    let mut histograms = [(); N].map(|()| histogram());
    let begun = Instant::now();
    let mut round = 0;
    while begun.elapsed() < duration {
        round += 1;
        for turn in 0..N {
            let which = (round + turn) % N; // nobody is always the first after the pause
            for _ in 0..50 {
                let at = Instant::now();
                attempts[which]();
                let nanos = u64::try_from(at.elapsed().as_nanos()).unwrap_or(u64::MAX);
                histograms[which].saturating_record(nanos);
            }
        }
        std::thread::sleep(Duration::from_micros(200));
    }
    histograms.map(|histogram| Latency::of(&histogram))
}

/// A limiter with plenty in hand.
async fn well_stocked(span: Duration) -> Result<(Faulty, RateLimiter, BucketHandle), Error> {
    let options = LeasedOptions {
        renewal_interval_ms: 20_000,
        lease_ttl_ms: 80_000,
    };
    let (store, limiter) = limiter(options, span * 2).await?;
    let limits = [Limit::per_second("rps", 1_000_000_000)?];
    let handle = limiter
        .acquire("user", "api")
        .limits(&limits)
        .handle()
        .await?;
    // More is asked for now than later, so that what is in hand lasts.
    for _ in 0..5 {
        handle.acquire(&[("rps", 50_000_000)]).await.map(drop)?;
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
    Ok((store, limiter, handle))
}

/// Acquires with tokens in hand, of a limiter whose table answers and of one whose table hangs
/// for `span`; both in the same time, by turns.
///
/// # Errors
/// If an acquire had no tokens in hand.
pub async fn hits_while_the_table_hangs(span: Duration) -> Result<[Latency; 2], Error> {
    let (_, _kept, healthy) = well_stocked(span).await?;
    let (store, _kept_too, hanging) = well_stocked(span).await?;
    store.fail_all(Some(Fault::Delay(span * 2)));
    let measured = tokio::task::spawn_blocking(move || {
        let (mut failed, mut failed_too) = (None, None);
        let hit = |handle: &BucketHandle| handle.try_acquire(&[("rps", 1)]).map(drop).err();
        let latencies = measure(
            span,
            [
                &mut || failed = failed.take().or_else(|| hit(&healthy)),
                &mut || failed_too = failed_too.take().or_else(|| hit(&hanging)),
            ],
        );
        failed.or(failed_too).map_or(Ok(latencies), Err)
    });
    measured.await.unwrap_or(Err(Error::ShutDown))
}

/// Acquires without tokens in hand while the breaker is open.
///
/// # Errors
/// If one was answered anything else than that the table is unavailable.
pub async fn refusals_while_the_breaker_is_open(span: Duration) -> Result<Latency, Error> {
    let (store, limiter) = limiter(LeasedOptions::default(), Duration::from_secs(5)).await?;
    let limits = [Limit::per_second("rps", 1_000)?];
    store.fail_all(Some(Fault::Unreachable));
    let acquire = || {
        let acquire = limiter.acquire("user", "api").limits(&limits);
        acquire.consume("rps", 1)
    };
    while !limiter.metrics().breaker_open {
        let _ = acquire().await;
    }
    let mut other = None;
    let latency = tokio::task::block_in_place(|| {
        let mut attempt = || match acquire().try_acquire() {
            Err(error) if error.kind() == ErrorKind::Unavailable => {}
            Err(error) => other = Some(error),
            Ok(_) => {}
        };
        measure(span, [&mut attempt])
    });
    other.map_or(Ok(latency[0]), Err)
}

/// The end of an outage.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Recovery {
    /// From the table's return to the first acquire admitted from the table, in seconds.
    pub first_admission_s: f64,
    /// From the table's return until all of 100 buckets are served, in seconds.
    pub all_served_s: f64,
    /// Writes per bucket until then.
    pub writes_per_bucket: f64,
}

/// 100 buckets in use, a table that swallows all for `outage`, and its return.
///
/// # Errors
/// If the fleet cannot be served before the outage.
pub async fn recovery(outage: Duration) -> Result<Recovery, Error> {
    const BUCKETS: usize = 100;
    let (store, limiter) = limiter(LeasedOptions::default(), Duration::from_secs(5)).await?;
    let limits = [Limit::per_second("rps", 1_000)?];
    let ids: Vec<String> = (0..BUCKETS).map(|i| format!("user-{i}")).collect();
    let acquire = |id| limiter.acquire(id, "api").limits(&limits).consume("rps", 1);
    for id in &ids {
        acquire(id).await.map(drop)?;
    }
    store.fail_all(Some(Fault::LostBeforeApply));
    let begun = Instant::now();
    while begun.elapsed() < outage {
        for id in &ids {
            let _ = acquire(id).try_acquire();
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    store.reset();
    let healed = Instant::now();
    let mut first = None;
    let mut waiting: Vec<&String> = ids.iter().collect();
    while !waiting.is_empty() {
        waiting.retain(|id| acquire(id).try_acquire().is_err());
        if waiting.len() < BUCKETS {
            first.get_or_insert(healed.elapsed());
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    Ok(Recovery {
        first_admission_s: first.unwrap_or_default().as_secs_f64(),
        all_served_s: healed.elapsed().as_secs_f64(),
        writes_per_bucket: store.writes() as f64 / BUCKETS as f64,
    })
}
