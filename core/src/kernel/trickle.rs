//! Token blocks: what one process holds of one limit, already debited from the table.
//!
//! Two kinds, in one block. **Stock** was there when it was debited and is spendable at once. A
//! **trickle** is a share of the coming refill, debited ahead of time and released evenly, as
//! the bucket itself would have refilled: it keeps a fleet that wants more than the
//! limit from writing for every few tokens. (The term is that of CockroachDB's tenant token bucket.)

use std::time::Duration;

use crate::MonotonicTime;

/// Tokens that become spendable evenly between two times.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Trickle {
    start: MonotonicTime,
    length_nanos: u64,
    total: u64,
    released: u64,
}

impl Trickle {
    /// `total` tokens, released evenly over `length` from `start` on.
    #[must_use]
    pub fn new(start: MonotonicTime, length: Duration, total: u64) -> Self {
        Self {
            start,
            length_nanos: u64::try_from(length.as_nanos()).unwrap_or(u64::MAX).max(1),
            total,
            released: 0,
        }
    }

    /// Releases nothing before `start`, and the last token not before `end`.
    pub fn delay(&mut self, start: MonotonicTime, end: MonotonicTime) {
        let end = self.end().max(end);
        self.start = self.start.max(start);
        self.length_nanos = (end.as_nanos() - self.start.as_nanos()).max(1);
    }

    /// Tokens that are not released yet.
    #[must_use]
    pub fn pending(&self) -> u64 {
        self.total - self.released
    }

    /// Takes back up to `tokens` that are not released yet; the rest is released more slowly.
    /// Returns how many it took.
    pub fn cancel(&mut self, tokens: u64) -> u64 {
        let cancelled = tokens.min(self.pending());
        self.total -= cancelled;
        cancelled
    }

    /// Takes out what is due by `now`.
    pub fn release(&mut self, now: MonotonicTime) -> u64 {
        let elapsed = now.as_nanos().saturating_sub(self.start.as_nanos());
        let due = if elapsed >= self.length_nanos {
            self.total
        } else {
            // total < 10^13 and elapsed < length: the quotient is below total.
            (u128::from(self.total) * u128::from(elapsed) / u128::from(self.length_nanos)) as u64
        };
        let fresh = due.saturating_sub(self.released);
        self.released += fresh;
        fresh
    }

    /// How long after `now` another `tokens` will have been released, going on at the same rate
    /// beyond the end; none if nothing is trickled.
    #[must_use]
    pub fn time_until(&self, now: MonotonicTime, tokens: u64) -> Option<Duration> {
        if self.total == 0 {
            return None;
        }
        let due = u128::from(self.released) + u128::from(tokens);
        let nanos = (due * u128::from(self.length_nanos)).div_ceil(u128::from(self.total));
        let nanos = u64::try_from(nanos).unwrap_or(u64::MAX);
        Some(self.start.after(Duration::from_nanos(nanos)).since(now))
    }

    /// When the last token is released.
    #[must_use]
    pub fn end(&self) -> MonotonicTime {
        self.start.after(Duration::from_nanos(self.length_nanos))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn at(millis: u64) -> MonotonicTime {
        MonotonicTime::from_nanos(millis * 1_000_000)
    }

    #[test]
    fn releases_evenly_and_says_when() {
        let mut trickle = Trickle::new(at(1_000), Duration::from_secs(1), 4);
        assert_eq!(trickle.release(at(1_249)), 0);
        assert_eq!(
            trickle.time_until(at(1_249), 1),
            Some(Duration::from_millis(1))
        );
        assert_eq!(trickle.release(at(1_250)), 1);
        assert_eq!(
            trickle.release(at(1_100)),
            0,
            "time gone back releases nothing"
        );
        assert_eq!(trickle.release(at(9_000)), 3);
        assert_eq!(trickle.pending(), 0);
    }

    proptest! {
        #[test]
        fn never_more_than_its_share(
            total in 0u64..1_000_000, length in 1u64..10_000, steps in prop::collection::vec(0u64..500, 0..50),
        ) {
            let mut trickle = Trickle::new(at(0), Duration::from_millis(length), total);
            let (mut now, mut released) = (0, 0);
            for step in steps {
                now += step;
                released += trickle.release(at(now));
                prop_assert!(released * length <= total * now.min(length));
                prop_assert_eq!(released + trickle.pending(), total);
            }
        }
    }
}
