//! When requests arrive at which process.

use std::time::Duration;

/// How the demand is spread over the processes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// Every process has the same.
    Even,
    /// 80 % of it is on one process, and another one every five seconds.
    Shifting,
    /// The second process has half as much as the first, the third a third.
    Skewed,
    /// Every process has all of its five seconds' demand in the first half second, one process
    /// after the other.
    Bursts,
}

/// How requests follow each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arrivals {
    /// At even distances.
    Regular,
    /// Independently of each other.
    Poisson,
}

/// How long the hot process of [`Shape::Shifting`] stays the same, in nanoseconds.
const HOT_NANOS: u64 = Duration::from_secs(5).as_nanos() as u64;
/// How long a burst lasts, and of how many such spans one has a burst.
const BURST_NANOS: u64 = HOT_NANOS / BURST_EVERY;
const BURST_EVERY: u64 = 10;

/// What all processes of a fleet are asked for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Demand {
    pub(crate) processes: usize,
    /// Requests per second.
    pub(crate) total: f64,
    pub(crate) shape: Shape,
    pub(crate) arrivals: Arrivals,
}

impl Demand {
    fn per_nano(&self, process: usize, at: u64) -> f64 {
        let even = 1.0 / self.processes as f64;
        let share = match self.shape {
            Shape::Shifting if self.processes > 1 => {
                let hot = (at / HOT_NANOS) as usize % self.processes;
                let rest = 0.2 / (self.processes - 1) as f64;
                if process == hot { 0.8 } else { rest }
            }
            Shape::Skewed => {
                let all: f64 = (1..=self.processes).map(|n| 1.0 / n as f64).sum();
                1.0 / (process + 1) as f64 / all
            }
            Shape::Bursts => {
                let turn = at / BURST_NANOS % BURST_EVERY;
                let mine = turn == process as u64 % BURST_EVERY;
                if mine { even * BURST_EVERY as f64 } else { 0.0 }
            }
            Shape::Even | Shape::Shifting => even,
        };
        self.total * share / 1e9
    }

    /// When the first request arrives at `process`.
    pub(crate) fn first(&self, process: usize, rng: &mut fastrand::Rng) -> u64 {
        let distance = match self.arrivals {
            Arrivals::Regular => rng.f64(),
            Arrivals::Poisson => exponential(rng),
        };
        self.after(process, 0, distance)
    }

    /// When the next request arrives at `process`, after one at `at`.
    pub(crate) fn next(&self, process: usize, at: u64, rng: &mut fastrand::Rng) -> u64 {
        let distance = match self.arrivals {
            Arrivals::Regular => 1.0,
            Arrivals::Poisson => exponential(rng),
        };
        self.after(process, at, distance)
    }

    /// When the demand since `at` adds up to `requests`.
    fn after(&self, process: usize, mut at: u64, mut requests: f64) -> u64 {
        let span = match self.shape {
            Shape::Even | Shape::Skewed => u64::MAX,
            Shape::Shifting => HOT_NANOS,
            Shape::Bursts => BURST_NANOS,
        };
        loop {
            let rate = self.per_nano(process, at);
            let turn = (at / span + 1).saturating_mul(span);
            let until_turn = (turn - at) as f64 * rate;
            if requests < until_turn || span == u64::MAX {
                return at.saturating_add(((requests / rate) as u64).max(1));
            }
            requests -= until_turn;
            at = turn;
        }
    }
}

fn exponential(rng: &mut fastrand::Rng) -> f64 {
    -(1.0 - rng.f64()).ln()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn requests(demand: &Demand, process: usize, until: u64) -> usize {
        let mut rng = fastrand::Rng::with_seed(7);
        let first = demand.first(process, &mut rng);
        let next = |at: &u64| Some(demand.next(process, *at, &mut rng));
        std::iter::successors(Some(first), next)
            .take_while(|at| *at < until)
            .count()
    }

    #[test]
    fn the_total_is_what_was_asked_for() {
        for shape in [Shape::Even, Shape::Shifting, Shape::Skewed, Shape::Bursts] {
            for (arrivals, tolerance) in [(Arrivals::Regular, 8), (Arrivals::Poisson, 500)] {
                let demand = Demand {
                    processes: 4,
                    total: 1_000.0,
                    shape,
                    arrivals,
                };
                let all: usize = (0..4).map(|p| requests(&demand, p, 20_000_000_000)).sum();
                assert!(
                    all.abs_diff(20_000) <= tolerance,
                    "{shape:?} {arrivals:?}: {all}"
                );
            }
        }
    }

    #[test]
    fn the_hot_process_has_most_of_it() {
        let demand = Demand {
            processes: 4,
            total: 1_000.0,
            shape: Shape::Shifting,
            arrivals: Arrivals::Regular,
        };
        assert!(requests(&demand, 0, HOT_NANOS).abs_diff(4_000) <= 1);
        assert!(requests(&demand, 1, HOT_NANOS).abs_diff(333) <= 1);
    }
}
