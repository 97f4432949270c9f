//! How demand follows what is asked for.

use std::time::Duration;

/// By what factor demand may have grown from one moment to the next, beyond what a period shows.
const GROWTH_MAX: f64 = 32.0;

/// An estimate of what one process asks for of one limit.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Demand {
    /// Quickly up, slowly down: a block that is too small is waited for.
    per_second: f64,
    /// Up as slowly as down, but where it is more than chance: what counts beside the demand of others.
    mean: f64,
    /// Tokens per request, as callers who had to wait asked for them.
    per_request: f64,
    /// How often something had been asked for when it was observed; counted to two.
    observations: u8,
}

impl Demand {
    /// Tokens per second.
    #[must_use]
    pub(super) fn per_second(self) -> f64 {
        self.per_second
    }

    /// Tokens per second in the mean, which may be less.
    #[must_use]
    pub(super) fn mean(self) -> f64 {
        self.mean
    }

    /// Tokens per request; at least one.
    #[must_use]
    pub(super) fn per_request(self) -> f64 {
        self.per_request.max(1.0)
    }

    /// Whether it is more than one moment's impression.
    #[must_use]
    pub(super) fn is_established(self) -> bool {
        self.observations > 1
    }

    /// So many callers asked for `tokens` together: each counts a quarter.
    #[allow(clippy::cast_precision_loss)]
    pub(super) fn learn_requests(&mut self, requests: u32, tokens: u64) {
        if requests == 0 {
            return;
        }
        let mean = tokens as f64 / f64::from(requests);
        let weight = if self.per_request == 0.0 {
            1.0
        } else {
            1.0 - 0.75f64.powi(requests.min(64).cast_signed())
        };
        self.per_request += (mean - self.per_request) * weight;
    }

    /// In thousandths of a token per second, rounded down.
    #[must_use]
    #[allow(clippy::cast_possible_truncation)]
    pub(super) fn milli(self) -> i64 {
        (self.per_second * 1_000.0) as i64
    }

    /// What `tokens` in `elapsed` look like, per second. A few at once after a silence are no rate:
    /// they are spread over a part of a period, the fewer they are the larger.
    #[allow(clippy::cast_precision_loss)]
    fn impression(self, tokens: u64, elapsed: Duration, renewal: Duration) -> f64 {
        let requests = (tokens as f64 / self.per_request()).clamp(1.0, 8.0);
        let spread = renewal.as_secs_f64() / (2.0 * requests);
        let seen = tokens as f64 / elapsed.as_secs_f64().max(spread);
        if !self.is_established() {
            return seen;
        }
        // Nor is what had piled up, where the process stood still.
        seen.min((GROWTH_MAX * self.per_second).max(2.0 * tokens as f64 / renewal.as_secs_f64()))
    }

    /// Whether `tokens` in `elapsed` can be judged yet. That demand has grown much shows at once; what
    /// looks like less than before may be a matter of how short the time was.
    #[must_use]
    pub(super) fn is_telling(self, tokens: u64, elapsed: Duration, renewal: Duration) -> bool {
        elapsed >= renewal / 8 || self.impression(tokens, elapsed, renewal) > 1.5 * self.per_second
    }

    /// `tokens` were asked for in `elapsed`, with `renewal` as the time that matters.
    #[allow(clippy::cast_precision_loss)]
    pub(super) fn observe(&mut self, tokens: u64, elapsed: Duration, renewal: Duration) {
        let seen = self.impression(tokens, elapsed, renewal);
        self.observations = (self.observations + u8::from(tokens > 0)).min(2);
        let weight = (elapsed.as_secs_f64() / renewal.as_secs_f64()).min(1.0);
        let followed = |estimate: f64, up: f64| {
            let expected = estimate * elapsed.as_secs_f64();
            let chance = 0.5 * expected + 3.0 * (expected * self.per_request()).sqrt();
            let surplus = tokens as f64 - expected;
            let weight = if surplus < -chance {
                weight.max(0.8)
            } else if surplus > chance {
                weight.max(0.5)
            } else if seen > estimate {
                up
            } else {
                0.6 * weight
            };
            estimate + (seen - estimate) * weight
        };
        let mean = followed(self.mean, 0.6 * weight);
        self.per_second = followed(self.per_second, weight.max(0.5));
        self.mean = mean;
        if self.per_second < 1e-3 {
            *self = Self::default();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A bucket is looked at often, and judged when something shows.
    #[test]
    fn uneven_requests_do_not_look_like_more_in_the_mean() {
        let second = Duration::from_secs(1);
        let mut seed: u32 = 1;
        let mut chance = || {
            seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            f64::from(seed) / f64::from(u32::MAX)
        };
        for per_second in [6.0, 20.0, 60.0] {
            let mut demand = Demand::default();
            let (mut mean, mut tokens, mut elapsed) = (0.0, 0, Duration::ZERO);
            const LOOKS: u32 = 200_000;
            for _ in 0..LOOKS {
                tokens += u64::from(chance() < per_second / 200.0);
                elapsed += second / 200;
                if demand.is_telling(tokens, elapsed, second) {
                    demand.observe(tokens, elapsed, second);
                    (tokens, elapsed) = (0, Duration::ZERO);
                }
                mean += demand.mean() / f64::from(LOOKS);
            }
            // Less of few: a single one is spread.
            assert!(
                (0.7..1.1).contains(&(mean / per_second)),
                "{mean} of {per_second}"
            );
        }
    }

    #[test]
    fn backlog_of_a_stopped_process_is_not_its_demand() {
        let (second, mut demand) = (Duration::from_secs(1), Demand::default());
        for _ in 0..20 {
            demand.observe(100, second, second);
        }
        demand.observe(5_000, second / 100, second);
        assert!(demand.per_second() < 10_000.0, "{demand:?}");
        // Where it is nothing but that, it may be all.
        let mut demand = Demand::default();
        demand.observe(5_000, second / 100, second);
        assert!(demand.per_second() > 10_000.0, "{demand:?}");
    }
}
