//! Comparing two contestants in one run: short rounds in turn, and the median of the ratios.
//!
//! On a machine that others use too, the two sides of a round suffer alike; two long
//! measurements, one after the other, do not.

use std::fmt;
use std::time::Duration;

/// Something that can be done many times and timed.
pub struct Contestant<'a> {
    name: String,
    run: Box<dyn FnMut(u64) -> Duration + 'a>,
}

impl fmt::Debug for Contestant<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Contestant")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

impl<'a> Contestant<'a> {
    /// `run` does it so many times and says how long that took.
    pub fn new(name: impl Into<String>, run: impl FnMut(u64) -> Duration + 'a) -> Self {
        Self {
            name: name.into(),
            run: Box::new(run),
        }
    }

    /// What it is called.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Does it so many times.
    pub fn run(&mut self, times: u64) -> Duration {
        (self.run)(times)
    }

    #[allow(clippy::cast_precision_loss)]
    fn nanos_each(&mut self, times: u64) -> f64 {
        self.run(times).as_nanos() as f64 / times as f64
    }

    /// How many times fill `round`.
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    fn times_in(&mut self, round: Duration) -> u64 {
        let mut times = 1;
        loop {
            let took = self.run(times).max(Duration::from_nanos(1));
            if took >= round / 4 {
                let more = round.as_secs_f64() / took.as_secs_f64();
                return ((times as f64 * more) as u64).max(1);
            }
            times *= 4;
        }
    }
}

/// How two contestants compare.
#[derive(Clone, Debug)]
pub struct Comparison {
    /// The median of the first one's nanoseconds.
    pub first_nanos: f64,
    /// The median of the second one's nanoseconds.
    pub second_nanos: f64,
    /// The median, over the rounds, of the first one's time by the second one's.
    pub ratio: f64,
    /// A quarter of the rounds had less, and a quarter had more.
    pub quartiles: [f64; 2],
}

/// Compares `first` with `second` in `rounds` rounds, in each of which either has its turn for
/// about `turn`.
pub fn compare(
    first: &mut Contestant<'_>,
    second: &mut Contestant<'_>,
    rounds: usize,
    turn: Duration,
) -> Comparison {
    let times = (first.times_in(turn), second.times_in(turn));
    let (mut ratios, mut firsts, mut seconds) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..rounds.max(1) {
        // Who begins changes, so that neither always finds what the other left in the caches.
        let (a, b) = if round % 2 == 0 {
            let a = first.nanos_each(times.0);
            (a, second.nanos_each(times.1))
        } else {
            let b = second.nanos_each(times.1);
            (first.nanos_each(times.0), b)
        };
        firsts.push(a);
        seconds.push(b);
        ratios.push(a / b);
    }
    Comparison {
        first_nanos: quantile(&mut firsts, 0.5),
        second_nanos: quantile(&mut seconds, 0.5),
        ratio: quantile(&mut ratios, 0.5),
        quartiles: [quantile(&mut ratios, 0.25), quantile(&mut ratios, 0.75)],
    }
}

#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    clippy::cast_sign_loss
)]
fn quantile(values: &mut [f64], quantile: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    values[((values.len() - 1) as f64 * quantile) as usize]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_of_the_rounds_counts() {
        let steady = |nanos| move |times| Duration::from_nanos(nanos * times);
        let mut slow = Contestant::new("slow", steady(300));
        let mut calls = 0;
        let mut fast = Contestant::new("fast", |times| {
            calls += 1;
            Duration::from_nanos(if calls % 5 == 0 { 9_000 } else { 100 } * times)
        });
        let found = compare(&mut slow, &mut fast, 40, Duration::from_micros(50));
        assert_eq!((found.first_nanos, found.second_nanos), (300.0, 100.0));
        assert!((found.ratio - 3.0).abs() < 1e-9, "{found:?}");
    }
}
