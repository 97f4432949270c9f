//! Whether a fleet is well again after its last fault: what it admits, of what could be.

use std::iter::zip;
use std::time::Duration;

use zae_limiter::Limit;
use zae_limiter_core::item::{BucketItem, LimitItem, Ring};
use zae_limiter_core::{Ticks, WallTime, estimate};

use super::acquire::Caller;
use super::random::NAMES;
use super::report::Recovery;
use super::scenario::{Nanos, Scenario};
use super::world::World;
use crate::fleet::{Arrivals, IdealBucket};

/// A process's share of so few requests per renewal period is measured by what chance leaves of it.
const FEW_REQUESTS: f64 = 8.0;
/// For how many renewal periods a fleet is measured, at least and at most.
const MEASURED_PERIODS: f64 = 12.0;
const MEASURED_PERIODS_MAX: f64 = 100.0;
/// And for how many requests.
const MEASURED_REQUESTS: f64 = 600.0;

/// What is measured since the fleet is expected to be well.
#[derive(Debug)]
pub(super) struct Measure {
    since: Nanos,
    /// Until when requests count; they may be answered later.
    until: Nanos,
    /// What is allowed: debts count, tokens that are there do not, for they may be out in blocks.
    allowed: Ideal,
    /// What could be had: those count, too.
    could: Ideal,
    /// Which bucket a child shares with others: its parent's, or its own.
    shares: Vec<usize>,
    /// Whether only some requests are charged to that, so that either bucket may be the one that is used up.
    some_cascade: bool,
    /// Which processes are served in the order in which they come, and come in the same order always:
    /// those have their share together.
    in_turn: Vec<bool>,
    /// What was asked for and admitted, by process and child.
    tallies: Vec<Vec<Tally>>,
}

/// A limiter that knows everything at once. It begins with what the table says, what processes owe to it
/// and perhaps what they hold.
#[derive(Debug, Default)]
struct Ideal {
    buckets: Vec<[Option<IdealBucket>; NAMES.len()]>,
    /// What it has admitted, by child and limit.
    admitted: Vec<[u64; NAMES.len()]>,
    /// How often it has refused because of a limit: one may be used up long before the other, and
    /// what is admitted of that is a matter of what callers ask for beside it.
    lacking: [u64; NAMES.len()],
}

/// What all processes hold of a limit of a bucket together, less what they owe.
fn held(world: &World<'_>, bucket: usize, slot: usize) -> i128 {
    let processes = world.processes.iter();
    processes
        .map(|p| p.counts_on(bucket, world.now)[slot])
        .sum()
}

impl Ideal {
    /// One that begins with no more than `level_max` in any bucket.
    fn new(world: &World<'_>, level_max: Ticks) -> Self {
        let wall = world.latest_wall();
        let of = |(bucket, item): (usize, &Option<BucketItem>)| {
            let mut ideal = [None, None];
            let limits = world.processes[0].limits.iter();
            for (slot, (limit, ideal)) in limits.zip(&mut ideal).enumerate() {
                let held = held(world, bucket, slot);
                let level = estimate::level(item.as_ref(), wall, limit);
                let level = (level + held * limit.terms().token()).min(level_max);
                *ideal = Some(IdealBucket::starting(limit.terms(), world.now, level));
            }
            ideal
        };
        Self {
            buckets: world.items.iter().enumerate().map(of).collect(),
            admitted: vec![[0; NAMES.len()]; world.scenario.children],
            lacking: [0; NAMES.len()],
        }
    }

    fn arrive(&mut self, now: Nanos, caller: &Caller) {
        let mut has = true;
        for bucket in caller.buckets() {
            let limits = self.buckets[bucket].iter_mut().zip(caller.tokens);
            for ((ideal, tokens), lacking) in limits.zip(&mut self.lacking) {
                if !ideal.as_mut().is_none_or(|ideal| ideal.has(now, tokens)) {
                    has = false;
                    *lacking += 1;
                }
            }
        }
        if has {
            add(&mut self.admitted[caller.child], caller.tokens);
            self.charge(now, caller, caller.tokens);
        }
    }

    fn charge(&mut self, now: Nanos, caller: &Caller, tokens: [u64; NAMES.len()]) {
        for bucket in caller.buckets() {
            for (ideal, tokens) in self.buckets[bucket].iter_mut().zip(tokens) {
                if let Some(ideal) = ideal {
                    ideal.charge(now, tokens);
                }
            }
        }
    }
}

#[derive(Clone, Copy, Debug, Default)]
struct Tally {
    demanded: [u64; NAMES.len()],
    admitted: [u64; NAMES.len()],
}

fn add(sums: &mut [u64; NAMES.len()], tokens: [u64; NAMES.len()]) {
    for (sum, tokens) in sums.iter_mut().zip(tokens) {
        *sum += tokens;
    }
}

/// How long it takes until the ring does not count any more what the dead held, if that is so much that
/// all that flows in overflows. The living hold so many tokens.
fn until_dropped(found: &LimitItem, held: i128, now: WallTime) -> Duration {
    let Some(mut ring) = found.ring else {
        return Duration::ZERO;
    };
    let out: i64 = ring.held.iter().sum();
    ring.held = [0; 3];
    ring.held[Ring::slot(ring.epoch)] = out - i64::try_from(held).unwrap_or_default();
    let dead = LimitItem {
        ring: Some(ring),
        ..*found
    };
    if estimate::drawable(&dead, now, 0) == 0 {
        return Duration::ZERO;
    }
    let dropped_ms = (ring.epoch + 2) * ring.lease_ttl_ms;
    Duration::from_millis(dropped_ms.saturating_sub(now.as_millis()))
}

#[allow(clippy::cast_precision_loss)]
impl Measure {
    /// How long it takes until no bucket is in debt any more, and nothing overflows any more
    /// for what the dead held.
    pub(super) fn until_unblocked(world: &World<'_>) -> Duration {
        let wall = world.latest_wall();
        let limits = &world.processes[0].limits;
        let of = |(bucket, item): (usize, &Option<BucketItem>)| {
            let of = |(slot, limit): (usize, &Limit)| {
                let terms = limit.terms();
                let held = held(world, bucket, slot);
                let level = estimate::level(item.as_ref(), wall, limit) + held * terms.token();
                let found = item.as_ref().and_then(|item| item.limit(limit.name()));
                let dropped =
                    found.map_or(Duration::ZERO, |found| until_dropped(found, held, wall));
                terms.time_until(level, 0).max(dropped)
            };
            limits.iter().enumerate().map(of).max()
        };
        let longest = world.items.iter().enumerate().filter_map(of).max();
        longest.unwrap_or_default()
    }

    pub(super) fn new(world: &World<'_>) -> Self {
        let shares = |child: usize| match world.parents[child] {
            Some(parent) if world.scenario.cascade > 0 => parent,
            _ => child,
        };
        let regular = world.scenario.recovery.arrivals == Arrivals::Regular;
        let in_turn = |strict: &u32| regular && *strict == 1_000;
        Self {
            since: world.now,
            until: world.now + world.scenario.measured_for(),
            allowed: Ideal::new(world, 0),
            could: Ideal::new(world, Ticks::MAX),
            shares: (0..world.scenario.children).map(shares).collect(),
            some_cascade: (1..1_000).contains(&world.scenario.cascade),
            in_turn: world.scenario.strict.iter().map(in_turn).collect(),
            tallies: vec![
                vec![Tally::default(); world.scenario.children];
                world.scenario.processes
            ],
        }
    }

    fn counts(&self, caller: &Caller) -> bool {
        (self.since..self.until).contains(&caller.sent)
    }

    pub(super) fn arrive(world: &mut World<'_>, caller: &Caller) {
        let now = world.now;
        let Some(measure) = world.measure.as_mut().filter(|m| m.counts(caller)) else {
            return;
        };
        let tally = &mut measure.tallies[caller.process][caller.child];
        add(&mut tally.demanded, caller.tokens);
        measure.allowed.arrive(now, caller);
        measure.could.arrive(now, caller);
    }

    /// A lease turned out to cost more.
    pub(super) fn adjusted(world: &mut World<'_>, caller: &Caller, tokens: [u64; NAMES.len()]) {
        let now = world.now;
        if let Some(measure) = world.measure.as_mut() {
            measure.allowed.charge(now, caller, tokens);
            measure.could.charge(now, caller, tokens);
        }
    }

    pub(super) fn admitted(world: &mut World<'_>, caller: &Caller) {
        if let Some(measure) = world.measure.as_mut().filter(|m| m.counts(caller)) {
            let tally = &mut measure.tallies[caller.process][caller.child];
            add(&mut tally.admitted, caller.tokens);
        }
    }

    /// In tokens of the limit that is used up the most.
    pub(super) fn recovery(&self, promised: f64) -> Recovery {
        let limits = 0..NAMES.len();
        let limit = limits
            .rev()
            .max_by_key(|limit| self.allowed.lacking[*limit]);
        let limit = limit.unwrap_or_default();
        let admitted = self.tallies.iter().flatten().map(|t| t.admitted[limit]);
        // Not all processes ask for the same children, of which some may have less than others:
        // because of their own bucket, or because of one that they share. One bucket that knows
        // everything is no measure either: of those who come at regular times it serves the same
        // ones always.
        let could = |child: usize, shares: &dyn Fn(usize) -> usize| {
            let shared = shares(child);
            let children = || (0..self.shares.len()).filter(move |at| shares(*at) == shared);
            let demanded =
                |child: usize| self.tallies.iter().map(move |t| t[child].demanded[limit]);
            let could: u64 = children().map(|at| self.could.admitted[at][limit]).sum();
            let demanded: u64 = children().flat_map(demanded).sum();
            could as f64 / demanded as f64
        };
        let even = self.fairness(limit, |_| 1.0);
        let shared = self.fairness(limit, |child| could(child, &|child| self.shares[child]));
        let own = self.fairness(limit, |child| could(child, &|child| child));
        let own = if self.some_cascade { own } else { 0.0 };
        Recovery {
            admitted: admitted.sum(),
            allowed: self.allowed.admitted.iter().map(|a| a[limit]).sum(),
            fairness: even.max(shared).max(own),
            promised,
            ..Recovery::default()
        }
    }

    /// Jain's index of what was admitted to each process, by what it asked for, where a child's
    /// tokens weigh as told. What nothing was allowed of is in debt, and counts for nobody.
    fn fairness(&self, limit: usize, weight: impl Fn(usize) -> f64) -> f64 {
        let allowed = &self.allowed.admitted;
        let open = || (0..allowed.len()).filter(|child| allowed[*child][limit] > 0);
        let sums = |tallies: &Vec<Tally>| {
            let entitled = |child: usize| tallies[child].demanded[limit] as f64 * weight(child);
            let admitted = |child: usize| tallies[child].admitted[limit];
            let admitted: u64 = open().map(admitted).sum();
            (admitted as f64, open().map(entitled).sum::<f64>())
        };
        let mut sums: Vec<_> = self.tallies.iter().map(sums).collect();
        let in_turn = || zip(&self.in_turn, 0..).filter_map(|(in_turn, at)| in_turn.then_some(at));
        let add = |a: (f64, f64), b: (f64, f64)| (a.0 + b.0, a.1 + b.1);
        let together = in_turn().map(|at| sums[at]).fold((0.0, 0.0), add);
        in_turn().for_each(|at| sums[at] = together);
        let asked = sums.iter().filter(|(_, entitled)| *entitled > 0.0);
        let shares: Vec<f64> = asked
            .map(|(admitted, entitled)| admitted / entitled)
            .collect();
        let sum: f64 = shares.iter().sum();
        let squares: f64 = shares.iter().map(|share| share * share).sum();
        if squares == 0.0 {
            return 1.0;
        }
        sum * sum / (shares.len() as f64 * squares)
    }
}

impl Scenario {
    /// The least that a limit refills after the last change, in tokens per second.
    fn tightest(&self) -> f64 {
        let limits = self.limits.last().into_iter().flat_map(|last| last.iter());
        limits
            .map(Limit::tokens_per_second)
            .fold(f64::INFINITY, f64::min)
    }

    /// The least that a limit holds after the last change, in tokens.
    #[allow(clippy::cast_precision_loss)]
    fn least_burst(&self) -> f64 {
        let limits = self.limits.last().into_iter().flat_map(|last| last.iter());
        limits.map(Limit::burst_tokens).min().unwrap_or(u64::MAX) as f64
    }

    /// Which part of what is allowed a fleet is to admit after its last fault, by the requests per
    /// renewal period that are a process's share of a limit: chance is all the more where they are
    /// few, and of fewer than three nothing is promised (README).
    #[must_use]
    #[allow(clippy::cast_precision_loss)]
    pub fn promised_recovery(&self) -> Option<f64> {
        let renewal = self.renewal() as f64 / 1e9;
        let most = *self.recovery.tokens.end() as f64;
        let share = self.tightest() * renewal / self.processes as f64 / most;
        let asked = self.recovery.per_second * renewal / (self.processes * self.children) as f64;
        // What flows in while a strict write is on its way overflows, where there is room for little.
        let strict = self.strict.iter().any(|strict| *strict > 0);
        if !self.is_shipped()
            || share < 3.0
            || asked < 3.0
            || strict && self.least_burst() < 3.0 * most
        {
            None
        } else if share < FEW_REQUESTS {
            Some(0.9)
        } else {
            Some(0.97)
        }
    }

    /// For how long a fleet is measured that is expected to be well: some renewal periods, and until
    /// there were so many requests that three of a hundred are no chance.
    #[must_use]
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_precision_loss,
        clippy::cast_sign_loss
    )]
    pub(super) fn measured_for(&self) -> Nanos {
        let renewal = self.renewal() as f64 / 1e9;
        let tokens = (1 + self.recovery.tokens.end()) as f64 / 2.0;
        let allowed = self.tightest() / tokens * self.children as f64;
        let per_second = self.recovery.per_second.min(allowed);
        let periods = MEASURED_REQUESTS / (per_second * renewal);
        let periods = periods.clamp(MEASURED_PERIODS, MEASURED_PERIODS_MAX);
        periods.ceil() as u64 * self.renewal()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The first limit is the one that is used up; a process's row is what it asked for and had of
    /// each child.
    fn measure(allowed: &[u64], shares: &[usize], rows: &[&[(u64, u64)]]) -> Measure {
        let tally = |&(demanded, admitted): &(u64, u64)| Tally {
            demanded: [demanded, 0],
            admitted: [admitted, 0],
        };
        let ideal = || Ideal {
            admitted: allowed.iter().map(|allowed| [*allowed, 0]).collect(),
            lacking: [1, 0],
            ..Ideal::default()
        };
        Measure {
            since: 0,
            until: 0,
            allowed: ideal(),
            could: ideal(),
            shares: shares.to_vec(),
            some_cascade: false,
            in_turn: vec![false; rows.len()],
            tallies: rows
                .iter()
                .map(|row| row.iter().map(tally).collect())
                .collect(),
        }
    }

    fn recovery(allowed: &[u64], shares: &[usize], rows: &[&[(u64, u64)]]) -> Recovery {
        measure(allowed, shares, rows).recovery(0.97)
    }

    #[test]
    fn who_has_nothing_of_what_others_have_starves() {
        let recovery = recovery(&[100], &[0], &[&[(100, 100)], &[(100, 0)]]);
        assert!(!recovery.is_well() && recovery.fairness < 0.51);
    }

    #[test]
    fn who_comes_after_others_always_has_his_share_with_them() {
        let rows: [&[_]; 3] = [&[(100, 66)], &[(100, 0)], &[(100, 33)]];
        let recovery = |in_turn: [bool; 3]| {
            let mut measure = measure(&[99], &[0], &rows);
            measure.in_turn = in_turn.to_vec();
            measure.recovery(0.97)
        };
        assert!(!recovery([false; 3]).is_well());
        assert!(recovery([true, true, false]).is_well());
        assert!(!recovery([false, true, true]).is_well());
    }

    #[test]
    fn who_has_less_than_is_allowed_is_not_well() {
        let rows: [&[_]; 2] = [&[(100, 48)], &[(100, 48)]];
        assert!(!recovery(&[100], &[0], &rows).is_well());
    }

    #[test]
    fn who_shares_a_parent_has_less_than_who_does_not() {
        let rows: [&[_]; 3] = [
            &[(100, 50), (0, 0), (0, 0)],
            &[(0, 0), (100, 50), (0, 0)],
            &[(0, 0), (0, 0), (100, 100)],
        ];
        // Of those who share it, one bucket that knows everything would have served only one.
        assert!(recovery(&[90, 10, 100], &[3, 3, 2], &rows).is_well());
        assert!(!recovery(&[90, 10, 100], &[0, 1, 2], &rows).is_well());
    }
}
