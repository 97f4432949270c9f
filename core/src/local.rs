//! Limiting without the table: a process lets its configured share of each limit through.
//!
//! What is taken here was never debited, so it counts for nothing once the table is back. A token
//! costs `1 / share` tokens of a bucket with the limit's own numbers: rate and burst are both cut
//! to the share, exactly.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use smallvec::SmallVec;

use crate::{Clock, Limit, Terms, Ticks, ValidationError, WallTime};

const MILLION: u32 = 1_000_000;

/// A part of a limit: more than 0, at most 1, in millionths.
///
/// ```
/// use zae_limiter_core::Share;
///
/// let share = Share::new(0.05).unwrap(); // a fleet of 20
/// assert_eq!(share.as_f64(), 0.05);
/// assert!(Share::new(0.0).is_err());
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "f64", into = "f64")]
pub struct Share {
    millionths: u32,
}

impl Share {
    /// The share `share` of a limit. In a fleet of `n` processes, `1 / n` lets the fleet have as
    /// much as the limit allows.
    ///
    /// See the example of [`Share`].
    ///
    /// # Errors
    /// [`ValidationError`] unless it is more than 0 and at most 1.
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    pub fn new(share: f64) -> Result<Self, ValidationError> {
        if !(share > 0.0 && share <= 1.0) {
            let rule = "must be more than 0 and at most 1";
            return Err(ValidationError::new("share", share, rule));
        }
        let millionths = (share * f64::from(MILLION)).round() as u32;
        Ok(Self {
            millionths: millionths.max(1),
        })
    }

    /// As a number.
    ///
    /// See the example of [`Share`].
    #[must_use]
    pub fn as_f64(self) -> f64 {
        f64::from(self.millionths) / f64::from(MILLION)
    }

    /// What `tokens` cost.
    fn cost(self, terms: &Terms, tokens: u64) -> Ticks {
        let whole = Ticks::from(tokens) * terms.token() * Ticks::from(MILLION);
        whole / Ticks::from(self.millionths)
    }

    /// The most that can be saved up: one token at least, or nothing would ever get through.
    fn full(self, terms: &Terms) -> Ticks {
        terms.full().max(self.cost(terms, 1))
    }

    /// Whether `tokens` of a limit can ever be taken at once.
    ///
    /// ```
    /// # use zae_limiter_core::{Limit, Share};
    /// let limit = Limit::per_minute("rpm", 100)?;
    /// let tenth = Share::new(0.1)?;
    /// assert!(tenth.can_ever(&limit, 10) && !tenth.can_ever(&limit, 11));
    /// # Ok::<(), zae_limiter_core::ValidationError>(())
    /// ```
    #[must_use]
    pub fn can_ever(self, limit: &Limit, tokens: u64) -> bool {
        self.cost(limit.terms(), tokens) <= self.full(limit.terms())
    }
}

impl TryFrom<f64> for Share {
    type Error = ValidationError;
    fn try_from(share: f64) -> Result<Self, ValidationError> {
        Self::new(share)
    }
}

impl From<Share> for f64 {
    fn from(share: Share) -> Self {
        share.as_f64()
    }
}

/// What a process has of its share of one limit.
#[derive(Clone, Debug)]
pub struct LocalLevel {
    /// The limit.
    pub limit: Limit,
    /// Tokens that may be taken now.
    pub tokens: u64,
    /// How long until what was asked for may be taken.
    pub retry_after: Duration,
}

/// The shares of one bucket's limits that a process lives on while the table cannot be asked: of each
/// limit the time at which the share was last empty, if it was ever used.
#[derive(Debug, Default)]
pub(crate) struct LocalShares(SmallVec<[Option<Ticks>; 2]>);

impl LocalShares {
    fn of(&mut self, at: usize) -> &mut Option<Ticks> {
        if at >= self.0.len() {
            self.0.resize(at + 1, None);
        }
        &mut self.0[at]
    }

    pub(crate) fn remove_limit(&mut self, at: usize) {
        if at < self.0.len() {
            self.0.remove(at);
        }
    }

    fn level(&mut self, at: usize, now: WallTime, terms: &Terms, share: Share) -> Ticks {
        let empty = terms.empty_at(now);
        let full = empty - share.full(terms);
        let z = self.of(at);
        let level = z.map_or(full, |z| z.max(full));
        *z = Some(level);
        empty - level
    }

    /// Whether the share holds `tokens`.
    pub(crate) fn covers(
        &mut self,
        at: usize,
        now: WallTime,
        terms: &Terms,
        share: Share,
        tokens: u64,
    ) -> bool {
        self.level(at, now, terms, share) >= share.cost(terms, tokens)
    }

    /// Takes `tokens`, whatever there is; gives them back if they are negative.
    pub(crate) fn charge(
        &mut self,
        at: usize,
        now: WallTime,
        terms: &Terms,
        share: Share,
        tokens: i64,
    ) {
        self.level(at, now, terms, share);
        if let Some(z) = self.of(at) {
            *z += share.cost(terms, tokens.unsigned_abs()) * Ticks::from(tokens.signum());
        }
    }

    /// How the share of a limit stands for a request of `tokens`.
    pub(crate) fn status(
        &mut self,
        at: usize,
        now: WallTime,
        limit: &Limit,
        share: Share,
        tokens: u64,
    ) -> LocalLevel {
        let terms = *limit.terms();
        let level = self.level(at, now, &terms, share);
        let missing = share.cost(&terms, tokens) - level;
        let left = level.max(0) * Ticks::from(share.millionths) / Ticks::from(MILLION);
        LocalLevel {
            limit: limit.clone(),
            tokens: u64::try_from(terms.to_tokens(left)).unwrap_or(0),
            retry_after: terms.time_until(-missing.max(0), 0),
        }
    }
}

/// A time that no time server sets back, for what never leaves the process.
pub(crate) fn local_time(clock: &Clock) -> WallTime {
    WallTime::from_nanos(clock.now().as_nanos())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::{BucketCache, BucketRef, Charges, Request};

    fn bucket(limits: &Arc<[Limit]>, id: &str) -> (BucketCache, BucketRef) {
        let cache = BucketCache::new();
        let bucket = cache.get_or_insert(id, "api", limits).expect("names");
        (cache, bucket)
    }

    #[test]
    fn a_share_is_a_share_of_rate_and_burst() {
        let (clock, hands) = Clock::manual();
        let limit = Limit::per_second("rps", 100).and_then(|limit| limit.burst(200));
        let limits: Arc<[Limit]> = [limit.expect("a limit")].into();
        let (_cache, bucket) = bucket(&limits, "e");
        let share = Share::new(0.1).expect("a share");
        let take = |tokens| {
            let consume = [("rps", tokens)];
            bucket.take_share(&Request::new(&limits, &consume), &clock, share)
        };
        assert_eq!((0..100).filter(|_| take(1)).count(), 20);
        hands.advance(Duration::from_millis(1_050));
        assert_eq!((0..100).filter(|_| take(1)).count(), 10);
        hands.advance(Duration::from_secs(60));
        assert!(!take(21) && take(20) && !take(1));
        bucket.give_share_back(&clock, &limits, &Charges::of(0, 20), share);
        assert!(take(20));
        bucket.charge_share(&clock, "rps", 20, share);
        hands.advance(Duration::from_secs(2));
        assert!(!take(1), "it was in debt");
        let request = [("rps", 1)];
        let levels = bucket.share_levels(&clock, &Request::new(&limits, &request), share);
        assert_eq!(levels[0].retry_after, Duration::from_millis(100));
    }

    #[test]
    fn both_pay_or_neither_and_a_small_share_is_a_token_at_least() {
        let (clock, _hands) = Clock::manual();
        let limits: Arc<[Limit]> = [Limit::per_hour("rph", 10).expect("a limit")].into();
        let (_children, child) = bucket(&limits, "child");
        let (_parents, parent) = bucket(&limits, "parent");
        let share = Share::new(0.001).expect("a share");
        let consume = [("rph", 1)];
        let request = Request::new(&limits, &consume);
        assert!(parent.take_share(&request, &clock, share));
        assert!(!child.take_both_shares(&request, &parent, &request, &clock, share));
        assert!(child.take_share(&request, &clock, share), "it lost nothing");
        assert!(!share.can_ever(&limits[0], 2));
    }
}
