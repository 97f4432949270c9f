//! The bound, over all windows: `admitted <= burst + rate * (window + lease_ttl)`.
//!
//! It knows the numbers of the limit and what was admitted when, and nothing of how.

use std::time::Duration;

use zae_limiter_core::Terms;

/// Watches admissions as they come, and remembers the worst of all windows.
///
/// With `A(t)` the tokens admitted until `t`, what a window admitted beyond its own refill is
/// `(A(end) - rate * end) - (A(start) - rate * start)`. So the worst window that ends now starts
/// where the second difference was lowest, and one number stands for all starts. Integers only.
#[derive(Clone, Debug)]
pub struct WindowBound {
    /// What one token, and one nanosecond, is worth.
    token: i128,
    nanosecond: i128,
    allowed: i128,
    admitted: i128,
    lowest: Option<i128>,
    worst: i128,
}

impl WindowBound {
    /// Nothing has been admitted yet of a limit with these numbers.
    #[must_use]
    pub fn new(terms: &Terms, lease_ttl: Duration) -> Self {
        let token = i128::from(terms.refill_period_seconds) * 1_000_000_000;
        let nanosecond = i128::from(terms.refill_amount);
        let borrowed = nanosecond * i128::try_from(lease_ttl.as_nanos()).unwrap_or(i128::MAX >> 64);
        Self {
            token,
            nanosecond,
            allowed: i128::from(terms.burst) * token + borrowed,
            admitted: 0,
            lowest: None,
            worst: 0,
        }
    }

    /// `tokens` were admitted `at` nanoseconds; times never go back.
    pub fn admit(&mut self, at: u64, tokens: u64) {
        let refilled = i128::from(at) * self.nanosecond;
        let before = self.admitted - refilled;
        let lowest = self.lowest.map_or(before, |lowest| lowest.min(before));
        self.admitted += i128::from(tokens) * self.token;
        self.lowest = Some(lowest);
        self.worst = self.worst.max(self.admitted - refilled - lowest);
    }

    /// Whether every window kept the bound.
    #[must_use]
    pub fn holds(&self) -> bool {
        self.worst <= self.allowed
    }

    /// How much of the bound the worst window has used; more than one is a violation, by
    /// however little ([`holds`](Self::holds) is exact).
    #[must_use]
    #[allow(clippy::cast_precision_loss)]
    pub fn used(&self) -> f64 {
        self.worst as f64 / self.allowed as f64
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
    fn a_violation_is_not_forgotten() {
        let bound = after(&[(0, 71), (1_000 * SECOND, 1)]);
        assert!(!bound.holds());
        assert!(bound.used() > 1.0);
    }
}
