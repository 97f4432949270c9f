//! Whether a fleet is well again after its last fault: what it admits, of what could be.

use zae_limiter_core::item::BucketItem;
use zae_limiter_core::plan;

use super::acquire::Caller;
use super::process::Process;
use super::random::NAMES;
use super::report::Recovery;
use super::scenario::{Nanos, Scenario};
use super::world::World;
use crate::fleet::IdealBucket;

/// What is measured since the fleet is expected to be well.
#[derive(Debug)]
pub(super) struct Measure {
    since: Nanos,
    /// What a limiter that knows everything at once would have, beginning with what the table
    /// says and what processes owe to it: debts count, tokens do not, for they may be out in
    /// blocks.
    ideal: Vec<[Option<IdealBucket>; NAMES.len()]>,
    allowed: u64,
}

impl Measure {
    pub(super) fn new(world: &World<'_>) -> Self {
        let wall = world.latest_wall();
        let limits = &world.processes[0].limits;
        let of = |(bucket, item): (usize, &Option<BucketItem>)| {
            let mut ideal = [None, None];
            for (slot, (limit, ideal)) in limits.iter().zip(&mut ideal).enumerate() {
                let debts = world.processes.iter().map(|p| p.holds(bucket)[slot].min(0));
                let debts: i128 = debts.sum();
                let level = plan::level(item.as_ref(), wall, limit);
                let level = (level + debts * limit.terms().token()).min(0);
                *ideal = Some(IdealBucket::starting(limit.terms(), world.now, level));
            }
            ideal
        };
        Self {
            since: world.now,
            ideal: world.items.iter().enumerate().map(of).collect(),
            allowed: 0,
        }
    }

    fn counts(&self, caller: &Caller) -> bool {
        caller.sent >= self.since
    }

    pub(super) fn arrive(world: &mut World<'_>, caller: &Caller) {
        let now = world.now;
        let Some(measure) = world.measure.as_mut().filter(|m| m.counts(caller)) else {
            return;
        };
        let tokens: u64 = caller.tokens.iter().sum();
        world.processes[caller.process].demanded += tokens;
        let mut has = true;
        for bucket in caller.buckets() {
            for (ideal, tokens) in measure.ideal[bucket].iter_mut().zip(caller.tokens) {
                has &= ideal.as_mut().is_none_or(|ideal| ideal.has(now, tokens));
            }
        }
        if !has {
            return;
        }
        measure.allowed += tokens;
        for bucket in caller.buckets() {
            for (ideal, tokens) in measure.ideal[bucket].iter_mut().zip(caller.tokens) {
                if let Some(ideal) = ideal {
                    ideal.charge(now, tokens);
                }
            }
        }
    }

    /// A lease turned out to cost more.
    pub(super) fn adjusted(world: &mut World<'_>, caller: &Caller, tokens: [u64; NAMES.len()]) {
        let now = world.now;
        let Some(measure) = world.measure.as_mut() else {
            return;
        };
        for bucket in caller.buckets() {
            for (ideal, tokens) in measure.ideal[bucket].iter_mut().zip(tokens) {
                if let Some(ideal) = ideal {
                    ideal.charge(now, tokens);
                }
            }
        }
    }

    pub(super) fn admitted(world: &mut World<'_>, caller: &Caller) {
        if world.measure.as_ref().is_some_and(|m| m.counts(caller)) {
            world.processes[caller.process].admitted += caller.tokens.iter().sum::<u64>();
        }
    }

    #[allow(clippy::cast_precision_loss)]
    pub(super) fn recovery(&self, processes: &[Process]) -> Recovery {
        let shares = processes.iter().filter(|p| p.demanded > 0);
        let shares: Vec<_> = shares
            .map(|p| p.admitted as f64 / p.demanded as f64)
            .collect();
        let sum: f64 = shares.iter().sum();
        let squares: f64 = shares.iter().map(|share| share * share).sum();
        Recovery {
            admitted: processes.iter().map(|p| p.admitted).sum(),
            allowed: self.allowed,
            fairness: if squares == 0.0 {
                1.0
            } else {
                sum * sum / (shares.len() as f64 * squares)
            },
        }
    }
}

impl Scenario {
    /// Whether leased mode promises to serve what is asked for after the last fault: where a
    /// process's share of a limit is fewer than three requests per renewal period, it does not
    /// (README), and what cannot be asked for a few dozen times cannot be measured.
    #[must_use]
    #[allow(clippy::cast_precision_loss)]
    pub fn promises_recovery(&self) -> bool {
        let Some(limits) = self.limits.last() else {
            return false;
        };
        let renewal = self.renewal() as f64 / 1e9;
        let most = *self.recovery.tokens.end() as f64;
        let share = |rate: f64| rate * renewal / self.processes as f64 / most;
        let plenty = |limit: &zae_limiter::Limit| share(limit.tokens_per_second()) >= 3.0;
        let asked = self.recovery.per_second * renewal / (self.processes * self.children) as f64;
        limits.iter().all(plenty) && asked >= 3.0
    }
}
