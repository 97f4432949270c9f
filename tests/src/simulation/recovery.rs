//! Whether a fleet is well again after its last fault: what it admits, of what could be.

use std::time::Duration;

use zae_limiter::Limit;
use zae_limiter_core::item::BucketItem;
use zae_limiter_core::plan;

use super::acquire::Caller;
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
    /// What it would have admitted, by child.
    allowed: Vec<u64>,
    /// What was asked for and admitted, by process and child.
    tallies: Vec<Vec<Tally>>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Tally {
    demanded: u64,
    admitted: u64,
}

#[allow(clippy::cast_precision_loss)]
impl Measure {
    /// How long it takes until no bucket is in debt any more.
    pub(super) fn until_paid(world: &World<'_>) -> Duration {
        let wall = world.latest_wall();
        let limits = &world.processes[0].limits;
        let of = |(bucket, item): (usize, &Option<BucketItem>)| {
            let of = |(slot, limit): (usize, &Limit)| {
                let terms = limit.terms();
                let held: i128 = world.processes.iter().map(|p| p.holds(bucket)[slot]).sum();
                let level = plan::level(item.as_ref(), wall, limit) + held * terms.token();
                terms.time_until(level, 0)
            };
            limits.iter().enumerate().map(of).max()
        };
        let longest = world.items.iter().enumerate().filter_map(of).max();
        longest.unwrap_or_default()
    }

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
            allowed: vec![0; world.scenario.children],
            tallies: vec![
                vec![Tally::default(); world.scenario.children];
                world.scenario.processes
            ],
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
        measure.tallies[caller.process][caller.child].demanded += tokens;
        let mut has = true;
        for bucket in caller.buckets() {
            for (ideal, tokens) in measure.ideal[bucket].iter_mut().zip(caller.tokens) {
                has &= ideal.as_mut().is_none_or(|ideal| ideal.has(now, tokens));
            }
        }
        if !has {
            return;
        }
        measure.allowed[caller.child] += tokens;
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
        if let Some(measure) = world.measure.as_mut().filter(|m| m.counts(caller)) {
            let tally = &mut measure.tallies[caller.process][caller.child];
            tally.admitted += caller.tokens.iter().sum::<u64>();
        }
    }

    pub(super) fn recovery(&self) -> Recovery {
        // Not all processes ask for the same children, of which some may have less than others. One
        // bucket that knows everything is no measure either: of those who come at regular times it
        // serves the same ones always.
        let of_allowed = |child: usize| {
            let demanded = self.tallies.iter().map(|tallies| tallies[child].demanded);
            self.allowed[child] as f64 / demanded.sum::<u64>() as f64
        };
        Recovery {
            admitted: self.tallies.iter().flatten().map(|t| t.admitted).sum(),
            allowed: self.allowed.iter().sum(),
            fairness: self.fairness(|_| 1.0).max(self.fairness(of_allowed)),
        }
    }

    /// Jain's index of what was admitted to each process, by what it asked for, where a child's
    /// tokens weigh as told. What nothing was allowed of is in debt, and counts for nobody.
    fn fairness(&self, weight: impl Fn(usize) -> f64) -> f64 {
        let open = || (0..self.allowed.len()).filter(|child| self.allowed[*child] > 0);
        let share = |tallies: &Vec<Tally>| {
            let entitled = open().map(|child| tallies[child].demanded as f64 * weight(child));
            let entitled: f64 = entitled.sum();
            let admitted: u64 = open().map(|child| tallies[child].admitted).sum();
            (entitled > 0.0).then(|| admitted as f64 / entitled)
        };
        let shares: Vec<f64> = self.tallies.iter().filter_map(share).collect();
        let sum: f64 = shares.iter().sum();
        let squares: f64 = shares.iter().map(|share| share * share).sum();
        if squares == 0.0 {
            return 1.0;
        }
        sum * sum / (shares.len() as f64 * squares)
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
        let plenty = |limit: &Limit| share(limit.tokens_per_second()) >= 3.0;
        let asked = self.recovery.per_second * renewal / (self.processes * self.children) as f64;
        limits.iter().all(plenty) && asked >= 3.0
    }
}
