//! What was measured in one run.

use std::time::Duration;

use super::Happening;

/// What was measured in one run. Tokens, requests and writes are those of all keys together.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Report {
    /// Requests that arrived.
    pub requests: u64,
    /// Tokens that they asked for.
    pub demanded: u64,
    /// Tokens that were admitted.
    pub admitted: u64,
    /// Tokens that one bucket which knows everything at once would have admitted.
    pub allowed: u64,
    /// Requests that were refused.
    pub refused: u64,
    /// Requests that were answered later than at once.
    pub waited: u64,
    /// Requests that still waited when their process closed or died.
    pub unanswered: u64,
    /// How often somebody had to wait for a write, some of them more than once.
    pub tries_in_vain: u64,
    /// The longest that a request was waited for.
    pub longest_wait: Duration,
    /// Writes, closing included, refused ones included.
    pub writes: u64,
    /// Writes before the fleet was closed.
    pub writes_open: u64,
    /// Writes that the table refused or lost.
    pub writes_refused: u64,
    /// Admitted by demanded, process by process.
    pub shares: Vec<f64>,
    /// What was measured key by key.
    pub keys: Vec<KeyReport>,
    /// All that happened, in its order.
    pub history: Vec<Happening>,
}

/// What was measured of one key, after all processes had closed.
#[derive(Clone, Debug, PartialEq)]
pub struct KeyReport {
    /// Tokens that were admitted.
    pub admitted: u64,
    /// Writes, refused ones included.
    pub writes: u64,
    /// Whether all windows kept the bound.
    pub bound_holds: bool,
    /// How much of the bound the worst window has used.
    pub bound_used: f64,
    /// Tokens in the table.
    pub level: i128,
    /// Tokens in a bucket from which exactly what was admitted has been taken, as it was asked
    /// for.
    pub level_of_admitted: i128,
    /// Whether that bucket was full in between, and lost refill.
    pub overflowed: bool,
    /// Consumption that the table was told of.
    pub consumed: i64,
}

#[allow(clippy::cast_precision_loss)]
impl Report {
    /// Tokens admitted, of those that could have been.
    #[must_use]
    pub fn admitted_of_allowed(&self) -> f64 {
        self.admitted as f64 / self.allowed as f64
    }

    /// Writes per million requests, while the fleet was open.
    #[must_use]
    pub fn writes_per_million(&self) -> f64 {
        self.writes_open as f64 * 1e6 / self.requests as f64
    }

    /// The share of requests that were answered at once.
    #[must_use]
    pub fn at_once(&self) -> f64 {
        1.0 - (self.waited + self.unanswered) as f64 / self.requests as f64
    }

    /// Jain's index of the processes' shares: 1 if all are served alike, 1/n if one has it all.
    #[must_use]
    pub fn fairness(&self) -> f64 {
        let sum: f64 = self.shares.iter().sum();
        let squares: f64 = self.shares.iter().map(|share| share * share).sum();
        sum * sum / (self.shares.len() as f64 * squares)
    }

    /// Whether all windows of all keys kept the bound.
    #[must_use]
    pub fn bound_holds(&self) -> bool {
        self.keys.iter().all(|key| key.bound_holds)
    }

    /// How much of the bound the worst window of all keys has used.
    #[must_use]
    pub fn bound_used(&self) -> f64 {
        self.keys
            .iter()
            .fold(0.0, |worst, key| key.bound_used.max(worst))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fairness_is_one_for_equals_and_falls_to_one_by_n() {
        let of = |shares: &[f64]| {
            let report = Report {
                shares: shares.to_vec(),
                ..Report::default()
            };
            report.fairness()
        };
        assert!((of(&[0.3, 0.3, 0.3]) - 1.0).abs() < 1e-9);
        assert!((of(&[0.9, 0.0, 0.0]) - 1.0 / 3.0).abs() < 1e-9);
    }
}
