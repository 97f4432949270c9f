//! A fleet in one thread: many limiters against one table, in simulated time.
//!
//! The core and the reconciler's [`Machine`] are the real ones, the table is a [`MemoryStore`](zae_limiter::store::MemoryStore).
//! Requests, writes and answers are events in a queue; one seed decides all that is left to
//! chance, so a run can be repeated to the last nanosecond. It knows no runtime and never sleeps.

mod bound;
mod demand;
mod ideal;
mod report;
mod simulation;

use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use zae_limiter::breaker::Breaker;
use zae_limiter::reconciler::Machine;
use zae_limiter::{LeasedOptions, Limit};
use zae_limiter_core::renewal::RenewalSettings;

pub use bound::WindowBound;
pub(crate) use demand::Demand;
pub use demand::{Arrivals, Shape};
pub use ideal::IdealBucket;
pub use report::{KeyReport, Report};
pub use simulation::Happening;

use simulation::Simulation;

pub(crate) const RESOURCE: &str = "api";
/// As the driver has it: what it sleeps longer than it was told to.
pub(crate) const OVERSLEPT: Duration = Duration::from_micros(500);
const IDLE_TTL: Duration = Duration::from_secs(600);
/// Nobody waits for ever: what a closing fleet has not given back by then is lost.
const CLOSING: Duration = Duration::from_secs(60);

/// A fleet, and what is asked of it. Plain data; change what a run is about and [`run`](Self::run).
#[derive(Clone, Debug)]
pub struct Fleet {
    /// How many limiters there are.
    pub processes: usize,
    /// The limit, the same for every key.
    pub limit: Limit,
    /// How many buckets there are; requests go to them in turn.
    pub keys: usize,
    /// Requests per second, of all processes together.
    pub demand: f64,
    /// Tokens per request, drawn evenly.
    pub tokens: RangeInclusive<u64>,
    /// How the demand is spread over the processes.
    pub shape: Shape,
    /// How requests follow each other.
    pub arrivals: Arrivals,
    /// How long the demand lasts.
    pub duration: Duration,
    /// How long nothing is asked for after that, before the fleet shuts down.
    pub silence: Duration,
    /// How long a write takes on average. It is applied half-way.
    pub latency: Duration,
    /// How far from it a write's latency may be, at most.
    pub jitter: Duration,
    /// How blocks are held.
    pub options: LeasedOptions,
    /// Of a thousand writes, how many have no answer: every second of them is not applied either.
    pub unanswered_writes: u32,
    /// How often a process dies without a word and a fresh one takes its place.
    pub crash_every: Option<Duration>,
}

impl Fleet {
    /// `processes` that are asked for `load` times what `limit` allows, evenly, for 30 seconds;
    /// a write takes 10 ms, give or take 3.
    #[must_use]
    pub fn new(processes: usize, limit: Limit, load: f64) -> Self {
        Self {
            processes,
            demand: limit.tokens_per_second() * load,
            limit,
            keys: 1,
            tokens: 1..=1,
            shape: Shape::Even,
            arrivals: Arrivals::Regular,
            duration: Duration::from_secs(30),
            silence: Duration::ZERO,
            latency: Duration::from_millis(10),
            jitter: Duration::from_millis(3),
            options: LeasedOptions::default(),
            unanswered_writes: 0,
            crash_every: None,
        }
    }

    /// Plays it through. The same seed plays the same.
    #[must_use]
    pub fn run(&self, seed: u64) -> Report {
        Simulation::new(self, seed).run()
    }

    fn machine(&self, seed: u64) -> Machine {
        let renewal = Duration::from_millis(self.options.renewal_interval_ms);
        let settings = RenewalSettings::new(renewal, self.lease_ttl());
        let breaker = Arc::new(Breaker::new(settings.renewal, seed));
        Machine::new(settings, IDLE_TTL, breaker, seed)
    }

    fn lease_ttl(&self) -> Duration {
        Duration::from_millis(self.options.lease_ttl_ms)
    }
}
