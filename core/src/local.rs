//! Limiting without the table: a process lets its configured share of each limit through.
//!
//! What is taken here was never debited, so it counts for nothing once the table is back. A token
//! costs `1 / share` tokens of a bucket with the limit's own numbers: rate and burst are both cut
//! to the share, exactly.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::bucket::{Active, Bucket, State};
use crate::{Charges, Clock, Limit, Request, Terms, Ticks, ValidationError, WallTime};

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

impl Bucket {
    /// Takes the tokens of a valid `request` from this process's share. The limits have to be
    /// declared.
    pub fn take_share(&self, request: &Request<'_>, clock: &Clock, share: Share) -> bool {
        let at = time(clock);
        let mut mine = self.lock();
        let paid = mine.share_of(at, request, share);
        paid.map(|charges| mine.spend_share(at, &charges, share))
            .is_some()
    }

    /// Takes the tokens of two valid requests from this process's shares of two buckets, or from
    /// neither.
    pub fn take_both_shares(
        &self,
        request: &Request<'_>,
        other: &Self,
        others_request: &Request<'_>,
        clock: &Clock,
        share: Share,
    ) -> bool {
        let at = time(clock);
        let (mut mine, mut theirs) = self.lock_both(other);
        let charges = (
            mine.share_of(at, request, share),
            theirs.share_of(at, others_request, share),
        );
        let (Some(a), Some(b)) = charges else {
            return false;
        };
        mine.spend_share(at, &a, share);
        theirs.spend_share(at, &b, share);
        true
    }

    /// Takes tokens of `limit` from this process's share, whatever it has.
    pub fn charge_share(&self, clock: &Clock, limit: &str, tokens: u64, share: Share) {
        let mut state = self.lock();
        if let Some(slot) = state.slot(limit) {
            state
                .active()
                .charge_share(time(clock), slot, tokens, share);
        }
    }

    /// Gives tokens, by the order of `limits`, back to this process's share.
    pub fn give_share_back(
        &self,
        clock: &Clock,
        limits: &[Limit],
        charges: &Charges,
        share: Share,
    ) {
        let mut state = self.lock();
        for (at, tokens) in charges.iter() {
            if let Some(slot) = state.slot(limits[at as usize].name()) {
                let active = state.active();
                active.local_level(time(clock), slot, share);
                let terms = *active.limits[slot].terms();
                if let Some(z) = &mut active.books.account(slot).local {
                    *z -= share.cost(&terms, tokens);
                }
            }
        }
    }

    /// What this process has of its share, for a request that it could not pay.
    pub fn share_levels(
        &self,
        clock: &Clock,
        request: &Request<'_>,
        share: Share,
    ) -> Vec<LocalLevel> {
        let mut state = self.lock();
        let at = time(clock);
        let limits = state.limits.clone();
        let of = |(slot, limit): (usize, &Limit)| {
            let terms = *limit.terms();
            let level = state.active().local_level(at, slot, share);
            let named = request.consume().iter().find(|(n, _)| *n == limit.name());
            let missing = share.cost(&terms, named.map_or(0, |(_, tokens)| *tokens)) - level;
            let tokens = level.max(0) * Ticks::from(share.millionths) / Ticks::from(MILLION);
            LocalLevel {
                limit: limit.clone(),
                tokens: u64::try_from(terms.to_tokens(tokens)).unwrap_or(0),
                retry_after: terms.time_until(-missing.max(0), 0),
            }
        };
        limits.iter().enumerate().map(of).collect()
    }
}

impl State {
    /// What `request` charges, if this process's share pays for it.
    fn share_of(&mut self, at: WallTime, request: &Request<'_>, share: Share) -> Option<Charges> {
        let charges = self.resolve(request)?;
        let active = self.active();
        let enough = charges.iter().all(|(slot, tokens)| {
            let cost = share.cost(active.limits[slot as usize].terms(), tokens);
            active.local_level(at, slot as usize, share) >= cost
        });
        enough.then_some(charges)
    }

    fn spend_share(&mut self, at: WallTime, charges: &Charges, share: Share) {
        let active = self.active();
        for (slot, tokens) in charges.iter() {
            active.charge_share(at, slot as usize, tokens, share);
        }
    }
}

impl Active {
    fn local_level(&mut self, at: WallTime, slot: usize, share: Share) -> Ticks {
        let terms = *self.limits[slot].terms();
        let empty = terms.empty_at(at);
        let full = empty - share.full(&terms);
        let account = self.books.account(slot);
        let z = account.local.map_or(full, |z| z.max(full));
        account.local = Some(z);
        empty - z
    }

    fn charge_share(&mut self, at: WallTime, slot: usize, tokens: u64, share: Share) {
        let cost = share.cost(self.limits[slot].terms(), tokens);
        self.local_level(at, slot, share);
        if let Some(z) = &mut self.books.account(slot).local {
            *z += cost;
        }
    }
}

/// A time that no time server sets back, for what never leaves the process.
fn time(clock: &Clock) -> WallTime {
    WallTime::from_nanos(clock.now().as_nanos())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::{BucketCache, BucketRef};

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
