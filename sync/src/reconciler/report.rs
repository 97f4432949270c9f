//! What a shutdown has given back, and what it has not.

use std::collections::HashMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use zae_limiter_core::{Bucket, BucketKey, WriteEffect};

/// What a shutdown has given back to the table, and what it has not: to the token.
///
/// Numbers of tokens are sums over all buckets and all of their limits. Tokens that callers have
/// consumed are in none of them. Neither are tokens of a bucket that was deleted meanwhile: there
/// is nothing to give them back to.
///
/// ```
/// use std::time::Duration;
/// use zae_limiter::store::{Fault, FaultyStore, MemoryStore};
/// use zae_limiter::{Limit, RateLimiter};
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), zae_limiter::Error> {
/// let table = FaultyStore::new(MemoryStore::new());
/// let limiter = RateLimiter::builder("my-app").store(table.clone()).connect().await?;
/// let limits = [Limit::per_day("jobs", 1_000)?];
/// let lease = limiter.acquire("user", "api").limits(&limits).consume("jobs", 100).await?;
/// lease.rollback().await; // 100 tokens and more are in hand, for the next acquires
///
/// table.fail_all(Some(Fault::Throttled));
/// let report = limiter.shutdown(Duration::from_millis(300)).await;
/// assert!(!report.is_complete() && report.buckets == 1);
/// assert!(report.unreturned >= 100 && report.returned == 0);
/// assert_eq!(report.in_doubt, 0); // a throttled write was not made: that is certain
/// # Ok(()) }
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)] // that of another version may say something else
#[non_exhaustive]
pub struct ShutdownReport {
    /// Tokens that writes of the shutdown have given back. Of a block that has expired, those that
    /// refill has replaced in the table by then count as given back: nothing is missing for them.
    pub returned: u64,
    /// Tokens that the table may be missing, in live or in expired blocks or in writes of unknown
    /// outcome. Nobody can spend them any more; refill replaces them.
    pub unreturned: u64,
    /// Of `unreturned`, the tokens in writes of unknown outcome: under way at the deadline, or
    /// without an answer. The table may have them. It is missing `unreturned` tokens at most,
    /// and `unreturned - in_doubt` at least.
    pub in_doubt: u64,
    /// Tokens that callers have consumed beyond what was debited, and that were not debited for
    /// certain. The table may have that many too many.
    pub owed: u64,
    /// Consumption in tokens of which the table was not told for certain, net of what was taken
    /// back: [usage](crate::RateLimiter::get_usage) lacks it. What buckets consumed and took back
    /// may cancel out; `buckets` is 0 only if nothing is left of either.
    pub unreported: i64,
    /// How many buckets have anything in `unreturned`, `owed` or `unreported`.
    pub buckets: usize,
}

impl ShutdownReport {
    /// Whether everything was given back, debited and reported.
    ///
    /// See the example of [`ShutdownReport`].
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.buckets == 0
    }

    /// Nothing was given back of what is left in `buckets`.
    pub(crate) fn without_shutdown(buckets: impl IntoIterator<Item = Arc<Bucket>>) -> Self {
        Self::of(0, HashMap::new(), buckets)
    }

    /// `returned` tokens were given back; of what is left in `buckets`, the writes under way are
    /// in doubt, beside those that are already.
    pub(super) fn of(
        returned: u64,
        mut in_doubt: HashMap<BucketKey, WriteEffect>,
        buckets: impl IntoIterator<Item = Arc<Bucket>>,
    ) -> Self {
        let mut report = Self {
            returned,
            ..Self::default()
        };
        for bucket in buckets {
            let mut left = bucket.unsettled();
            let effect = bucket.in_flight();
            let mut doubt = in_doubt.remove(bucket.key()).unwrap_or_default();
            add(&mut doubt, &effect);
            left.tokens = left.tokens.saturating_sub(effect.returned);
            left.consumption -= effect.reported;
            report.add(left.tokens, left.debt, left.consumption, &doubt);
        }
        // Buckets that were forgotten since.
        for doubt in in_doubt.values() {
            report.add(0, 0, 0, doubt);
        }
        report
    }

    fn add(&mut self, tokens: u64, debt: u64, consumption: i64, doubt: &WriteEffect) {
        let in_doubt = doubt.returned + doubt.debited;
        let unreturned = tokens + in_doubt;
        let unreported = consumption + doubt.reported;
        self.unreturned += unreturned;
        self.in_doubt += in_doubt;
        self.owed += debt;
        self.unreported += unreported;
        self.buckets += usize::from(unreturned > 0 || debt > 0 || unreported != 0);
    }
}

/// Adds what another write does.
pub(super) fn add(sum: &mut WriteEffect, effect: &WriteEffect) {
    sum.returned += effect.returned;
    sum.debited += effect.debited;
    sum.reported += effect.reported;
}
