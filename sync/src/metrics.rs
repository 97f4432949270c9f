//! What a limiter counts: cheap counters, and the snapshot that users read.

use std::sync::atomic::{AtomicU64, Ordering};

use serde::{Deserialize, Serialize};

use crate::store::{StoreErrorKind, WriteOutcome};

/// A number that only grows. It orders nothing.
#[derive(Debug, Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    pub(crate) fn add_one(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Counters off the path of a hit.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    writes: Counter,
    writes_refused: Counter,
    writes_throttled: Counter,
    writes_failed: Counter,
    writes_unknown: Counter,
    pub(crate) probes: Counter,
    pub(crate) unavailable: Counter,
    pub(crate) admitted_open: Counter,
    pub(crate) admitted_local: Counter,
    pub(crate) refused_local: Counter,
}

impl Counters {
    pub(crate) fn count_write(&self, outcome: &WriteOutcome) {
        self.writes.add_one();
        match outcome {
            WriteOutcome::Applied(_) => {}
            WriteOutcome::Refused(_) => self.writes_refused.add_one(),
            WriteOutcome::Failed(error) if error.kind() == StoreErrorKind::Throttled => {
                self.writes_throttled.add_one();
            }
            WriteOutcome::Failed(_) => self.writes_failed.add_one(),
            WriteOutcome::Unknown(_) => self.writes_unknown.add_one(),
        }
    }

    pub(crate) fn snapshot(&self) -> Metrics {
        Metrics {
            writes: self.writes.get(),
            writes_refused: self.writes_refused.get(),
            writes_throttled: self.writes_throttled.get(),
            writes_failed: self.writes_failed.get(),
            writes_unknown: self.writes_unknown.get(),
            probes: self.probes.get(),
            unavailable: self.unavailable.get(),
            admitted_open: self.admitted_open.get(),
            admitted_local: self.admitted_local.get(),
            refused_local: self.refused_local.get(),
            ..Metrics::default()
        }
    }
}

/// What a limiter has counted since it was connected
/// ([`RateLimiter::metrics`](crate::RateLimiter::metrics)). Each number is exact; together they
/// are not of one moment.
///
/// ```
/// # use zae_limiter::{Limit, RateLimiter};
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), zae_limiter::Error> {
/// # let limiter = RateLimiter::builder("my-app").in_memory().connect().await?;
/// let limits = [Limit::per_day("jobs", 10)?];
/// limiter.acquire("user", "batch").limits(&limits).consume("jobs", 1).await?.commit();
/// let metrics = limiter.metrics();
/// assert_eq!((metrics.writes, metrics.cached_buckets), (1, 1));
/// assert!(!metrics.breaker_open);
/// # Ok(()) }
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)] // those of another version may count something else
#[non_exhaustive]
pub struct Metrics {
    /// Writes of buckets that were sent, whatever became of them.
    pub writes: u64,
    /// Those whose condition did not hold. They cost as much as any other.
    pub writes_refused: u64,
    /// Those that the table took no more of.
    pub writes_throttled: u64,
    /// Those that were surely not applied, for any other reason.
    pub writes_failed: u64,
    /// Those of which nobody knows whether they were applied.
    pub writes_unknown: u64,
    /// Looks of the breaker whether the table is back.
    pub probes: u64,
    /// Acquires that were answered [`Error::Unavailable`](crate::Error::Unavailable).
    pub unavailable: u64,
    /// Acquires that were admitted without the limits being checked
    /// ([`FailureMode::Open`](crate::FailureMode::Open)).
    pub admitted_open: u64,
    /// Acquires that were admitted from this process's share
    /// ([`FailureMode::Local`](crate::FailureMode::Local)).
    pub admitted_local: u64,
    /// Acquires that this process's share had no tokens for.
    pub refused_local: u64,
    /// How often the breaker has opened.
    pub breaker_opened: u64,
    /// Whether it is open: the table cannot be used.
    pub breaker_open: bool,
    /// Buckets in memory.
    pub cached_buckets: usize,
    /// Looks for an entity or for somebody's stored limits that memory has answered.
    pub catalog_hits: u64,
    /// Those that had to wait for the table: every one is a load, or coalesced with one.
    pub catalog_misses: u64,
    /// Reads of entities and of stored limits.
    pub catalog_loads: u64,
    /// Looks that were answered by the read of another.
    pub catalog_coalesced: u64,
    /// Entities and owners of stored limits that were dropped from memory, or not let in, because
    /// there were too many.
    pub catalog_evictions: u64,
    /// Entities and owners of stored limits in memory, about.
    pub catalog_entries: u64,
}
