//! A scenario: a fleet, what is asked of it, and what goes wrong. Plain data.

use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use zae_limiter::{LeasedOptions, Limit};
use zae_limiter_core::policy::{MakePolicy, Steering};

use crate::fleet::{Arrivals, Shape};

/// Nanoseconds, since the beginning or of some length.
pub type Nanos = u64;

/// All that one run is about. Faults happen until [`calm_at`](Self::calm_at); the rest of the
/// run shows whether the fleet recovers.
#[derive(Clone, Debug)]
pub struct Scenario {
    /// Decides what is left to chance.
    pub seed: u64,
    /// About how many acquires it was drawn for.
    pub requests: u64,
    /// How many limiters there are.
    pub processes: usize,
    /// Of a thousand acquires of each process, how many are strict.
    pub strict: Vec<u32>,
    /// What decides how much is taken, and when.
    pub policy: MakePolicy,
    /// How blocks are held.
    pub options: LeasedOptions,
    /// When an idle bucket is forgotten.
    pub idle_ttl: Nanos,
    /// The limits as they are declared at first, then as they are changed. All entities have the
    /// same.
    pub limits: Vec<Arc<[Limit]>>,
    /// Of a thousand requests, how many do not name the second limit.
    pub unnamed: u32,
    /// How many entities requests go to, in turn.
    pub children: usize,
    /// How many entities stand above them.
    pub parents: usize,
    /// Of a thousand acquires, how many charge the parent too.
    pub cascade: u32,
    /// How long an acquire waits for the table.
    pub acquire_timeout: Nanos,
    /// For how long a process remembers a parent.
    pub entity_ttl: Nanos,
    /// How long a write takes on average.
    pub latency: Nanos,
    /// What is asked for at first.
    pub demand: Traffic,
    /// What is asked for when the faults end, from a while before.
    pub recovery: Traffic,
    /// When that begins.
    pub recovery_at: Nanos,
    /// What is done with leases.
    pub leases: Afterwards,
    /// What goes wrong.
    pub faults: Faults,
    /// What administrators do, in the order of time.
    pub changes: Vec<(Nanos, Change)>,
    /// When the last fault begins, at the latest.
    pub calm_at: Nanos,
    /// When the run ends.
    pub end: Nanos,
}

/// What is asked for.
#[derive(Clone, Debug)]
pub struct Traffic {
    /// Requests per second, of all processes together.
    pub per_second: f64,
    /// Tokens per request and limit, drawn evenly.
    pub tokens: RangeInclusive<u64>,
    /// How it is spread over the processes.
    pub shape: Shape,
    /// How requests follow each other.
    pub arrivals: Arrivals,
}

/// What callers do with their leases: of a thousand, how many.
#[derive(Clone, Copy, Debug, Default)]
pub struct Afterwards {
    /// Consume more afterwards, whatever the limit.
    pub adjusted: u32,
    /// Give a part back.
    pub released: u32,
    /// Give all back.
    pub rolled_back: u32,
    /// Of a thousand acquires that the table could not be asked for, how many are admitted anyway.
    pub open: u32,
    /// Which limit turns out to cost more.
    pub limit: usize,
}

/// What goes wrong until [`Scenario::calm_at`].
#[derive(Clone, Debug, Default)]
pub struct Faults {
    /// Of a thousand writes, how many are lost on their way to the table.
    pub lost_writes: u32,
    /// How many are applied, and the answer is lost.
    pub lost_replies: u32,
    /// How many are applied after the process has given up waiting.
    pub late_writes: u32,
    /// How many take much longer, there and back: up to [`delay`](Self::delay).
    pub delayed: u32,
    /// The longest delay.
    pub delay: Nanos,
    /// How many are throttled.
    pub throttled: u32,
    /// How long a process waits for an answer.
    pub patience: Nanos,
    /// When the table is down: of the writes some are surely not made, the others in doubt.
    pub unreachable: Vec<(Nanos, Nanos)>,
    /// When the processes' credentials are not valid.
    pub denied: Vec<(Nanos, Nanos)>,
    /// When a process dies without a word, and a fresh one takes its place.
    pub crashes: Vec<(Nanos, usize)>,
    /// When a process stands still, and for how long.
    pub freezes: Vec<(Nanos, usize, Nanos)>,
    /// When the wall clock of a process is set this far from the true time.
    pub clocks: Vec<(Nanos, usize, i64)>,
}

/// What an administrator does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// From now on a process declares the limits of this number.
    Limits(usize, usize),
    /// An entity's bucket is deleted from the table.
    DeleteBucket(usize),
    /// One limit of an entity is deleted from the table.
    DeleteLimit(usize, usize),
    /// A child has this parent, or none.
    Parent(usize, Option<usize>),
}

impl Scenario {
    /// How many buckets there are: the children's come first.
    #[must_use]
    pub fn buckets(&self) -> usize {
        self.children + self.parents
    }

    /// How far apart the wall clocks of any two processes are at most, at any two times.
    #[must_use]
    pub fn skew(&self) -> Nanos {
        let offsets = || self.faults.clocks.iter().map(|&(_, _, offset)| offset);
        let (most, least) = (offsets().max(), offsets().min());
        most.unwrap_or(0).max(0).abs_diff(least.unwrap_or(0).min(0))
    }

    /// How far the wall clock that is ever furthest ahead is ahead of the true time.
    #[must_use]
    pub fn furthest_ahead(&self) -> i64 {
        let offsets = self.faults.clocks.iter().map(|&(_, _, offset)| offset);
        offsets.max().unwrap_or(0).max(0)
    }

    /// How long tokens may be out in blocks.
    #[must_use]
    pub fn lease_ttl(&self) -> Nanos {
        // Another policy may take blocks that nobody has asked for.
        if self.is_shipped() && self.strict.iter().all(|strict| *strict == 1_000) {
            0
        } else {
            self.options.lease_ttl_ms * 1_000_000
        }
    }

    /// The same fleet under another policy, of which nothing is promised but safety.
    #[must_use]
    pub fn under(self, policy: MakePolicy) -> Self {
        // Callers who are not served are not to wait, and look again at each write, for long.
        let acquire_timeout = self.renewal() / 2;
        Self {
            policy,
            acquire_timeout,
            ..self
        }
    }

    /// Whether it is the policy that ships.
    pub(super) fn is_shipped(&self) -> bool {
        std::ptr::fn_addr_eq(self.policy, Steering::boxed as MakePolicy)
    }

    /// How often a block is renewed.
    #[must_use]
    pub fn renewal(&self) -> Nanos {
        self.options.renewal_interval_ms * 1_000_000
    }
}

/// `nanos` as a duration.
pub(super) fn duration(nanos: Nanos) -> Duration {
    Duration::from_nanos(nanos)
}
