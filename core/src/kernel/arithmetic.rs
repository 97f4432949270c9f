//! The arithmetic of one limit: a token bucket kept as a single number.
//!
//! This is the generic cell rate algorithm (ITU-T I.371, annex A) read as a bucket: a limit is
//! stored as `z`, the virtual time at which its bucket was last empty. The bucket holds
//! `min(burst, (now - z) * rate)` tokens; a debit moves `z` forward, a credit moves it back, and
//! refill needs no write at all. `z` may lie ahead of now: then the bucket is in debt.
//!
//! Time is scaled so that everything is an exact integer. With `refill_amount` tokens per
//! `refill_period`, a **tick** is `1 / refill_amount` of a nanosecond: a nanosecond of refill is
//! `refill_amount` ticks and a token is `refill_period` (in nanoseconds) ticks, so odd rates do
//! not drift. With the maxima of [`Limit`](crate::Limit) no sum exceeds 10^33.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::WallTime;

/// A quantity of refill, or a virtual time, in the scale of one limit.
pub type Ticks = i128;

/// The numbers of a limit, as they stand in the table beside the state that they explain.
///
/// ```
/// use zae_limiter_core::{Limit, Terms};
///
/// let terms = Terms { capacity: 100, burst: 150, refill_amount: 100, refill_period_seconds: 60 };
/// assert_eq!(Limit::new("rpm", terms)?, Limit::per_minute("rpm", 100)?.burst(150)?);
/// # Ok::<(), zae_limiter_core::ValidationError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "crate::limit::UncheckedTerms")]
pub struct Terms {
    /// Tokens per period, as declared.
    pub capacity: u64,
    /// The most tokens that the bucket holds.
    pub burst: u64,
    /// Tokens that flow in during each period.
    pub refill_amount: u64,
    /// The period, in seconds.
    pub refill_period_seconds: u64,
}

impl Terms {
    /// What one token is worth.
    #[must_use]
    pub fn token(&self) -> Ticks {
        Ticks::from(self.refill_period_seconds) * 1_000_000_000
    }

    /// What flows in during `duration`.
    #[must_use]
    pub fn refill(&self, duration: Duration) -> Ticks {
        Ticks::try_from(duration.as_nanos()).unwrap_or(Ticks::MAX >> 64)
            * Ticks::from(self.refill_amount)
    }

    /// The virtual time `now`: the `z` of a bucket that is empty.
    #[must_use]
    pub fn empty_at(&self, now: WallTime) -> Ticks {
        Ticks::from(now.as_nanos()) * Ticks::from(self.refill_amount)
    }

    /// The `z` of a bucket that is exactly full at `now`.
    #[must_use]
    pub fn full_at(&self, now: WallTime) -> Ticks {
        self.empty_at(now) - self.full()
    }

    /// By when a bucket that stands at `z` is full, in seconds since the Unix epoch, rounded up.
    #[must_use]
    pub fn full_by(&self, z: Ticks) -> u64 {
        let second = Ticks::from(self.refill_amount) * 1_000_000_000;
        let seconds = (z + self.full() + second - 1).div_euclid(second);
        u64::try_from(seconds.max(0)).unwrap_or(u64::MAX)
    }

    /// A whole bucket.
    #[must_use]
    pub fn full(&self) -> Ticks {
        Ticks::from(self.burst) * self.token()
    }

    /// The level of the bucket, clamped to full; negative in debt.
    #[must_use]
    pub fn level(&self, z: Ticks, now: WallTime) -> Ticks {
        (self.empty_at(now) - z).min(self.full())
    }

    /// The level in whole tokens, rounded down; negative in debt.
    #[must_use]
    pub fn tokens(&self, z: Ticks, now: WallTime) -> i64 {
        self.to_tokens(self.level(z, now))
    }

    /// `ticks` in whole tokens, rounded down.
    #[must_use]
    pub fn to_tokens(&self, ticks: Ticks) -> i64 {
        let tokens = ticks.div_euclid(self.token());
        i64::try_from(tokens).unwrap_or(if tokens < 0 { i64::MIN } else { i64::MAX })
    }

    /// Whole tokens that flow in during `duration`, rounded down.
    #[must_use]
    pub fn tokens_in(&self, duration: Duration) -> u64 {
        u64::try_from(self.to_tokens(self.refill(duration))).unwrap_or(0)
    }

    /// How long until a bucket that stands at `level` holds `tokens`, rounded up to a
    /// nanosecond; zero if it holds them.
    #[must_use]
    pub fn time_until(&self, level: Ticks, tokens: u64) -> Duration {
        let missing = Ticks::from(tokens) * self.token() - level;
        self.time_for(missing)
    }

    /// How long `ticks` take to flow in, rounded up to a nanosecond.
    #[must_use]
    pub fn time_for(&self, ticks: Ticks) -> Duration {
        if ticks <= 0 {
            return Duration::ZERO;
        }
        let amount = Ticks::from(self.refill_amount);
        Duration::from_nanos(u64::try_from((ticks + amount - 1) / amount).unwrap_or(u64::MAX))
    }

    /// `z` as these terms write it, for a bucket that stood at `z` under `old`: the same level,
    /// cut to the new burst, rounded down by less than a tick.
    #[must_use]
    pub fn converted(&self, old: &Terms, z: Ticks, now: WallTime) -> Ticks {
        let level = old.level(z, now);
        // Whole tokens and the rest apart: the product of two large scales would overflow.
        let (tokens, rest) = (level.div_euclid(old.token()), level.rem_euclid(old.token()));
        let level = tokens * self.token() + rest * self.token() / old.token();
        self.empty_at(now) - level.min(self.full())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Limit;
    use proptest::prelude::*;

    const T0: WallTime = WallTime::from_nanos(1_767_225_600_000_000_000);

    fn terms(burst: u64, amount: u64, seconds: u64) -> Terms {
        Terms {
            capacity: 1,
            burst,
            refill_amount: amount,
            refill_period_seconds: seconds,
        }
    }

    #[test]
    fn an_odd_rate_does_not_drift() {
        // 7 tokens per 13 s, taken as soon as they are there, 10^9 times in closed form: after n
        // debits and n * 13/7 s the bucket stands where it stood.
        let t = terms(10, 7, 13);
        let n: i128 = 1_000_000_000;
        let z = t.full_at(T0) + n * t.token();
        let later = T0.after(Duration::from_secs(13 * 1_000_000_000 / 7 + 1));
        let drift = t.tokens(z, later) - 10;
        assert_eq!(drift, 0);
    }

    #[test]
    fn a_full_bucket_stays_full() {
        let t = terms(5, 1, 60);
        assert_eq!(t.tokens(0, T0), 5);
        assert_eq!(t.tokens(t.full_at(T0) + 6 * t.token(), T0), -1);
    }

    proptest! {
        #[test]
        fn waiting_as_told_is_enough_and_not_a_nanosecond_too_long(
            burst in 1..=Limit::TOKENS_MAX, amount in 1..=Limit::TOKENS_MAX,
            seconds in 1..=Limit::PERIOD_MAX.as_secs(), spent in 0u64..1_000_000,
        ) {
            let t = terms(burst, amount, seconds);
            let spent = spent.min(burst);
            let z = t.full_at(T0) + Ticks::from(spent) * t.token();
            let wait = t.time_until(t.level(z, T0), burst);
            // A wait of over 5 centuries does not fit the clock, and is of no interest.
            prop_assume!(wait.as_nanos() < u128::from(u64::MAX - T0.as_nanos()));
            prop_assert_eq!(t.tokens(z, T0.after(wait)), i64::try_from(burst).unwrap());
            if !wait.is_zero() {
                let early = T0.after(wait).before(Duration::from_nanos(1));
                prop_assert!(t.tokens(z, early) < i64::try_from(burst).unwrap());
            }
        }

        #[test]
        fn converting_never_mints(
            burst in 1..=Limit::TOKENS_MAX, amount in 1..=Limit::TOKENS_MAX,
            seconds in 1..=Limit::PERIOD_MAX.as_secs(),
            burst2 in 1..=Limit::TOKENS_MAX, amount2 in 1..=Limit::TOKENS_MAX,
            seconds2 in 1..=Limit::PERIOD_MAX.as_secs(), level in -1_000_000i128..1_000_000,
        ) {
            let (old, new) = (terms(burst, amount, seconds), terms(burst2, amount2, seconds2));
            let z = old.empty_at(T0) - level * old.token();
            let before = old.tokens(z, T0);
            let after = new.tokens(new.converted(&old, z, T0), T0);
            prop_assert_eq!(after, before.min(i64::try_from(burst2).unwrap()));
        }
    }
}
