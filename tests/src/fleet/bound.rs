//! The bound, over all windows: `admitted <= burst + rate * (window + lease_ttl + clock skew)`.
//!
//! It knows the numbers of the limit and what was admitted when, and nothing of how.
//!
//! # When the numbers change
//!
//! At any moment the bucket's level and what is out in blocks are at most `burst + rate *
//! (lease_ttl + skew)` (see ARCHITECTURE.md). A change of the numbers keeps the level, or cuts it
//! to the new burst; blocks of the old numbers live on for one `lease_ttl`. So a window that
//! starts within `lease_ttl + skew` after a change may start with the larger of the old and the
//! new sum, any other with the current one; and what flows in during a window is the integral of
//! the rate that was in force, by the clock that is furthest ahead. Up to a `lease_ttl` of refill
//! may be borrowed from after the window: at the rate that is in force by then.
//!
//! A bucket that is deleted and made again is full: that is a gift of one burst, and of what it was
//! in debt, to every window that contains it; and clocks that are apart count once more. The blocks
//! of before are still out beside it, and the new ring does not count them until its epochs have
//! turned: a window that starts before then may start with another burst.

use std::time::Duration;

use zae_limiter_core::Terms;

/// Watches admissions as they come, and remembers the worst of all windows.
///
/// With `A(t)` the tokens admitted until `t`, `R(t)` those that have flowed in, and `S(t)` what a
/// window that starts at `t` may start with, a window keeps the bound if `A(end) - R(end) <=
/// A(start) - R(start) + S(start)`. So the worst window that ends now starts where the right side
/// was lowest, and one number stands for all starts. Integers only.
#[derive(Clone, Debug)]
pub struct WindowBound {
    /// What one token is worth: a whole number of what flows in during a nanosecond, whatever
    /// the terms.
    token: i128,
    lease_ttl: u64,
    late: u64,
    terms: Terms,
    /// What flows in during a nanosecond.
    rate: i128,
    /// What a window may start with, under the current terms.
    start: i128,
    /// The same under terms that were in force, until when it counts.
    before: Option<(i128, u64)>,
    at: u64,
    refilled: i128,
    admitted: i128,
    lowest: i128,
    worst: i128,
}

impl WindowBound {
    /// Nothing has been admitted yet of a limit with these numbers. `lease_ttl` is what is added
    /// to every window.
    #[must_use]
    pub fn new(terms: &Terms, lease_ttl: Duration) -> Self {
        Self::changing(terms, lease_ttl, 1)
    }

    /// The same for a limit whose refill periods, now and later, all divide `terms`' times
    /// `periods`.
    #[must_use]
    pub fn changing(terms: &Terms, lease_ttl: Duration, periods: u64) -> Self {
        let mut bound = Self {
            token: i128::from(terms.refill_period_seconds * periods) * 1_000_000_000,
            lease_ttl: u64::try_from(lease_ttl.as_nanos()).unwrap_or(u64::MAX),
            late: 0,
            terms: *terms,
            rate: 0,
            start: 0,
            before: None,
            at: 0,
            refilled: 0,
            admitted: 0,
            lowest: i128::MAX,
            worst: i128::MIN,
        };
        (bound.rate, bound.start) = bound.numbers(terms);
        bound
    }

    fn numbers(&self, terms: &Terms) -> (i128, i128) {
        let rate = self.token / (i128::from(terms.refill_period_seconds) * 1_000_000_000)
            * i128::from(terms.refill_amount);
        let start =
            i128::from(terms.burst) * self.token + rate * i128::from(self.lease_ttl + self.late);
        (rate, start)
    }

    fn flow_until(&mut self, at: u64) {
        self.refilled += i128::from(at - self.at) * self.rate;
        self.at = at;
    }

    fn start_now(&self) -> i128 {
        match self.before {
            Some((before, until)) if self.at <= until => self.start.max(before),
            _ => self.start,
        }
    }

    /// A window that starts now.
    fn open(&mut self) {
        let start = self.admitted - self.refilled + self.start_now();
        self.lowest = self.lowest.min(start);
    }

    /// `tokens` were admitted `at` nanoseconds; times never go back.
    #[inline]
    pub fn admit(&mut self, at: u64, tokens: u64) {
        self.flow_until(at);
        self.open();
        self.admitted += i128::from(tokens) * self.token;
        self.worst = self.worst.max(self.admitted - self.refilled - self.lowest);
    }

    /// `tokens` that were admitted before were given back.
    pub fn give_back(&mut self, tokens: u64) {
        self.admitted -= i128::from(tokens) * self.token;
    }

    /// Of what was given back before, the table gets so many tokens only after this, until some time: a
    /// window that begins in between may begin with as much more.
    pub fn give_back_late(&mut self, at: u64, tokens: u64, until: u64) {
        self.flow_until(at);
        let more = i128::from(tokens) * self.token;
        let until = self.before.map_or(until, |(_, before)| until.max(before));
        self.before = Some((self.start_now() + more, until));
    }

    /// Every window may be longer by `late` than by what was said before: a debit was made that
    /// counts from the moment at which it was asked for, that long ago.
    pub fn loosen(&mut self, at: u64, late: u64) {
        if late <= self.late {
            return;
        }
        self.flow_until(at);
        let more = self.rate * i128::from(late - self.late);
        self.late = late;
        self.start += more;
        self.lowest = self.lowest.saturating_add(more);
        if let Some((before, _)) = &mut self.before {
            *before += more;
        }
    }

    /// The bucket is full again, because it was deleted; it was `below` empty by so many tokens. It
    /// is made again by whoever has a clock that is `behind` the one that is furthest ahead, which
    /// sees so much refill at once.
    pub fn gift(&mut self, at: u64, below: u64, behind: u64) {
        self.flow_until(at);
        let full = i128::from(self.terms.burst + below) * self.token;
        self.refilled += full + self.rate * i128::from(behind);
        let until = at.saturating_add(3 * self.lease_ttl);
        self.before = Some((self.start_now() + full, until));
    }

    /// From now on these numbers are in force. Whoever changed them has a clock that is `behind`
    /// the one that is furthest ahead.
    pub fn change(&mut self, at: u64, terms: &Terms, behind: u64) {
        if self.terms == *terms {
            return;
        }
        self.flow_until(at);
        // By the clock that is ahead, what flowed in meanwhile did so at the old rate; from now
        // on it did at the new one, until the bucket was full.
        let more = (self.numbers(terms).0 - self.rate) * i128::from(behind);
        self.refilled += more.clamp(0, i128::from(terms.burst) * self.token);
        self.before = Some((self.start_now(), at.saturating_add(self.lease_ttl)));
        let faster = self.numbers(terms).0 - self.rate;
        // A window that has begun ends at the new rate, and with it what is borrowed at its end.
        let borrowed = faster.max(0) * i128::from(self.lease_ttl + self.late);
        self.lowest = self.lowest.saturating_add(borrowed);
        self.terms = *terms;
        (self.rate, self.start) = self.numbers(terms);
    }

    /// The numbers that are in force.
    #[must_use]
    pub fn terms(&self) -> &Terms {
        &self.terms
    }

    /// Whether every window kept the bound.
    #[inline]
    #[must_use]
    pub fn holds(&self) -> bool {
        self.worst <= 0
    }

    /// By how many tokens the worst window has broken the bound.
    #[must_use]
    #[allow(clippy::cast_precision_loss)]
    pub fn broken_by(&self) -> f64 {
        self.worst as f64 / self.token as f64
    }

    /// How much of the bound the worst window has used; more than one is a violation, by
    /// however little ([`holds`](Self::holds) is exact). Only where the numbers never changed.
    #[must_use]
    #[allow(clippy::cast_precision_loss)]
    pub fn used(&self) -> f64 {
        if self.worst == i128::MIN {
            return 0.0;
        }
        (self.worst + self.start) as f64 / self.start as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use zae_limiter_core::Limit;

    const SECOND: u64 = 1_000_000_000;

    /// 10 per second, burst 20, and 5 s of borrowed refill: 70 at once.
    fn bound() -> WindowBound {
        let limit = Limit::per_second("l", 10).and_then(|limit| limit.burst(20));
        WindowBound::new(limit.expect("a limit").terms(), Duration::from_secs(5))
    }

    fn after(history: &[(u64, u64)]) -> WindowBound {
        let mut bound = bound();
        for &(at, tokens) in history {
            bound.admit(at, tokens);
        }
        bound
    }

    #[test]
    fn one_token_too_many_is_seen_in_any_window() {
        assert!(after(&[(0, 70)]).holds());
        assert!(!after(&[(0, 71)]).holds(), "a window of length zero");
        assert!(after(&[(0, 60), (SECOND, 20)]).holds());
        assert!(!after(&[(0, 60), (SECOND, 21)]).holds());
        // From its beginning on this history is well within the bound; its end is not.
        assert!(after(&[(0, 1), (100 * SECOND, 30), (101 * SECOND, 50)]).holds());
        assert!(!after(&[(0, 1), (100 * SECOND, 30), (101 * SECOND, 51)]).holds());
    }

    #[test]
    fn a_nanosecond_too_early_is_seen() {
        assert!(after(&[(0, 70), (SECOND / 10, 1)]).holds());
        assert!(!after(&[(0, 70), (SECOND / 10 - 1, 1)]).holds());
    }

    #[test]
    fn a_cut_counts_after_a_lease() {
        let cut = |at| {
            let limit = Limit::per_second("l", 1).expect("a limit");
            let mut bound = bound();
            bound.change(SECOND, limit.terms(), 0);
            bound.admit(at, 7);
            bound
        };
        assert!(cut(6 * SECOND).holds());
        assert!(!cut(6 * SECOND + 1).holds(), "1 + 1 * 5 at once");
    }

    #[test]
    fn what_comes_back_may_be_admitted_again() {
        let mut bound = after(&[(0, 70)]);
        bound.give_back(5);
        bound.admit(0, 5);
        assert!(bound.holds());
        bound.admit(0, 1);
        assert!(!bound.holds());
    }

    #[test]
    fn a_violation_is_not_forgotten() {
        let bound = after(&[(0, 71), (1_000 * SECOND, 1)]);
        assert!(!bound.holds());
        assert!(bound.used() > 1.0);
    }
}
