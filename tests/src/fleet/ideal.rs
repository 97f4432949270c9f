//! A token bucket as the textbook has it: one level, in integers, in one place, without delay.
//!
//! It is what a fleet is measured against, and shares no arithmetic with what it measures.

use zae_limiter_core::Terms;

/// The bucket; full at time zero.
#[derive(Clone, Debug)]
pub struct IdealBucket {
    token: i128,
    nanosecond: i128,
    full: i128,
    level: i128,
    at: u64,
    untouched: bool,
    overflowed: bool,
}

impl IdealBucket {
    /// A full bucket with these numbers.
    #[must_use]
    pub fn new(terms: &Terms) -> Self {
        let token = i128::from(terms.refill_period_seconds) * 1_000_000_000;
        let full = i128::from(terms.burst) * token;
        Self {
            token,
            nanosecond: i128::from(terms.refill_amount),
            full,
            level: full,
            at: 0,
            untouched: true,
            overflowed: false,
        }
    }

    /// The same bucket with no more than `level` in it `at` nanoseconds, in the scale of
    /// [`Terms::token`].
    #[must_use]
    pub fn starting(terms: &Terms, at: u64, level: i128) -> Self {
        let bucket = Self::new(terms);
        Self {
            at,
            level: level.min(bucket.full),
            ..bucket
        }
    }

    /// Whether `tokens` are there `at` nanoseconds.
    pub fn has(&mut self, at: u64, tokens: u64) -> bool {
        self.flow_until(at);
        self.level >= i128::from(tokens) * self.token
    }

    fn flow_until(&mut self, at: u64) {
        self.level += i128::from(at - self.at) * self.nanosecond;
        self.at = at;
        if self.level >= self.full {
            self.overflowed |= !self.untouched;
            self.level = self.full;
        }
    }

    /// Takes `tokens` `at` nanoseconds if they are there; says whether they were. Times never go
    /// back.
    pub fn take(&mut self, at: u64, tokens: u64) -> bool {
        let there = self.has(at, tokens);
        if there {
            self.charge(at, tokens);
        }
        there
    }

    /// Takes `tokens` whatever the level, into debt if need be.
    pub fn charge(&mut self, at: u64, tokens: u64) {
        self.flow_until(at);
        self.level -= i128::from(tokens) * self.token;
        self.untouched = false;
    }

    /// Whole tokens `at` nanoseconds, rounded down.
    pub fn tokens(&mut self, at: u64) -> i128 {
        self.flow_until(at);
        self.level.div_euclid(self.token)
    }

    /// Whether refill was lost since the first token was taken, because the bucket was full.
    #[must_use]
    pub fn has_overflowed(&self) -> bool {
        self.overflowed
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use zae_limiter_core::Limit;

    #[test]
    fn admits_its_burst_and_then_its_rate() {
        let limit = Limit::per_second("l", 10).expect("a limit");
        let mut bucket = IdealBucket::new(limit.terms());
        let at = 5_000_000_000;
        assert_eq!((0..100).filter(|_| bucket.take(at, 1)).count(), 10);
        assert!(!bucket.take(at + 99_999_999, 1));
        assert!(bucket.take(at + 100_000_000, 1));
        bucket.charge(at + 100_000_000, 3);
        assert_eq!(bucket.tokens(at + 100_000_000), -3);
        assert!(!bucket.has_overflowed());
        assert_eq!(bucket.tokens(2 * at), 10);
        assert!(bucket.has_overflowed());
    }
}
