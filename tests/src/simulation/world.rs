//! One run: every event in its order, real limiters on a simulated table.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::sync::Arc;

use slab::Slab;
use zae_limiter::reconciler::Action;
use zae_limiter_core::item::BucketItem;
use zae_limiter_core::{Bucket, Clock, WallTime};

use super::acquire::Caller;
use super::afterwards::Lease;
use super::ledger::Ledgers;
use super::network::{Flight, Owner};
use super::payments::Paying;
use super::process::Process;
use super::random::NAMES;
use super::recovery::Measure;
use super::report::{Fault, Report, Violation};
use super::scenario::{Change, Nanos, Scenario, Traffic};
use super::trace::Trace;
use crate::fleet::{Demand, OVERSLEPT};

/// How many renewal periods are waited for debts to be paid, at most.
const DEBT_PERIODS_MAX: u64 = 1_000;
/// How often a fleet is measured at most, until it is well.
const MEASURED_MAX: u32 = 5;

/// What happens at some time. What happens at the same time happens in the order in which it was
/// decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Event {
    /// A request arrives at a process, as one of a stream.
    Arrival(usize, u32),
    /// A write reaches the table.
    Apply(usize),
    /// A process learns, or concludes, how its write ended.
    Answer(usize, usize),
    /// The reconciler of a process looks at its queue.
    Wake(usize),
    /// A caller does something with a lease.
    Afterwards(usize, usize),
    /// A throttled payment of a process goes on.
    Resume(usize, usize),
    /// A process learns whether the table answers; the incarnation that asked.
    Probed(usize, u64),
    /// A process dies.
    Crash(usize),
    /// A process stands still until then.
    Freeze(usize, Nanos),
    /// A wall clock is set.
    SetClock(usize, i64),
    /// An administrator makes the change of this number.
    Change(usize),
    /// Other requests come than before.
    Demand,
    /// No more faults begin.
    Calm,
    /// The last fault is over.
    Over,
    /// From here on the fleet is expected to be well.
    Recovered,
    /// It can be said whether it is.
    Measured,
}

impl Event {
    /// Whose event it is, if a process that stands still sees it later.
    fn process(self) -> Option<usize> {
        match self {
            Self::Arrival(process, _)
            | Self::Answer(process, _)
            | Self::Wake(process)
            | Self::Resume(process, _)
            | Self::Probed(process, _)
            | Self::Afterwards(process, _) => Some(process),
            _ => None,
        }
    }
}

pub(super) struct World<'a> {
    pub(super) scenario: &'a Scenario,
    pub(super) rng: fastrand::Rng,
    pub(super) now: Nanos,
    /// The wall time at the beginning.
    epoch: Nanos,
    end: Nanos,
    pub(super) calm: bool,
    events: BinaryHeap<Reverse<(Nanos, u64, Event)>>,
    events_so_far: u64,
    demand: Demand,
    pub(super) processes: Vec<Process>,
    /// The table.
    pub(super) items: Vec<Option<BucketItem>>,
    /// Who stands above whom, in the table.
    pub(super) parents: Vec<Option<usize>>,
    pub(super) flights: Slab<Flight>,
    pub(super) callers: Slab<Caller>,
    pub(super) waits: u64,
    pub(super) leases: Slab<Lease>,
    pub(super) payments: Slab<Paying>,
    /// Buckets that the reconciler of a process has been told of.
    pub(super) told: VecDeque<(usize, Arc<Bucket>)>,
    pub(super) ledgers: Ledgers,
    pub(super) measure: Option<Measure>,
    pub(super) trace: Trace,
    pub(super) report: Report,
}

impl<'a> World<'a> {
    pub(super) fn new(scenario: &'a Scenario, prints: bool) -> Self {
        let mut rng = fastrand::Rng::with_seed(scenario.seed);
        // Epochs of the table begin at some moment of the run.
        let phase = rng.u64(..60_000_000_000);
        let mut processes: Vec<_> = (0..scenario.processes)
            .map(|_| Process::new(scenario, 0, rng.u64(..)))
            .collect();
        for p in &mut processes {
            let wall = p.clock.wall().as_nanos();
            p.start_at(wall + phase);
        }
        Self {
            rng,
            now: 0,
            epoch: Clock::manual().0.wall().as_nanos() + phase,
            end: scenario.end,
            calm: false,
            events: BinaryHeap::new(),
            events_so_far: 0,
            demand: demand(scenario, &scenario.demand),
            processes,
            items: vec![None; scenario.buckets()],
            parents: vec![None; scenario.children],
            flights: Slab::new(),
            callers: Slab::new(),
            waits: 0,
            leases: Slab::new(),
            payments: Slab::new(),
            told: VecDeque::new(),
            ledgers: Ledgers::new(scenario),
            measure: None,
            trace: Trace::new(prints),
            report: Report::default(),
            scenario,
        }
    }

    /// Plays it through, or until a promise is broken.
    pub(super) fn run(mut self) -> Report {
        let scenario = self.scenario;
        let faults = &scenario.faults;
        for &(at, process, offset) in &faults.clocks {
            self.plan(at, Event::SetClock(process, offset));
        }
        for (number, &(at, _)) in scenario.changes.iter().enumerate() {
            self.plan(at, Event::Change(number));
        }
        for &(at, process) in &faults.crashes {
            self.plan(at, Event::Crash(process));
        }
        for &(at, process, length) in &faults.freezes {
            self.plan(at, Event::Freeze(process, at + length));
        }
        self.plan(scenario.recovery_at, Event::Demand);
        self.plan(scenario.calm_at, Event::Calm);
        self.start_streams();
        while let Some(Reverse((at, _, event))) = self.events.pop() {
            if at > self.end || self.report.violation.is_some() {
                break;
            }
            self.now = at;
            self.happen(event);
        }
        self.report.trace = self.trace.hash();
        self.report
    }

    pub(super) fn plan(&mut self, at: Nanos, event: Event) {
        self.events_so_far += 1;
        self.events.push(Reverse((at, self.events_so_far, event)));
    }

    fn happen(&mut self, event: Event) {
        if let Some(process) = event.process() {
            let until = self.processes[process].frozen_until;
            if until > self.now {
                self.plan(until, event);
                return;
            }
            self.processes[process].sync(self.now);
        }
        match event {
            Event::Arrival(process, stream) => self.arrive(process, stream),
            Event::Apply(flight) => self.apply(flight),
            Event::Answer(_, flight) => self.answer(flight),
            Event::Wake(process) => self.wake(process),
            Event::Afterwards(_, lease) => self.afterwards(lease),
            Event::Resume(_, payment) => self.pay_on(payment),
            Event::Probed(process, incarnation) => self.probed(process, incarnation),
            Event::Crash(process) => self.crash(process),
            Event::Freeze(process, until) => self.freeze(process, until),
            Event::SetClock(process, offset) => self.set_clock(process, offset),
            Event::Change(number) => self.change(self.scenario.changes[number].1),
            Event::Demand => self.change_demand(),
            Event::Calm => self.calm_down(),
            Event::Over => self.expect_recovery(),
            Event::Recovered => self.start_measuring(),
            Event::Measured => self.finish_measuring(),
        }
        if !self.told.is_empty() {
            self.tell();
        }
    }

    /// A promise was broken.
    #[cold]
    pub(super) fn violated(&mut self, what: String) {
        let at = self.now;
        self.report.violation.get_or_insert(Violation { at, what });
    }

    pub(super) fn check(&mut self, promise: Result<(), String>) {
        if let Err(what) = promise {
            self.violated(what);
        }
    }

    /// The wall time on the clock of the furthest ahead.
    pub(super) fn latest_wall(&self) -> WallTime {
        let offsets = self.processes.iter().map(|p| p.offset);
        let most = offsets.max().unwrap_or(0);
        WallTime::from_nanos((self.epoch + self.now).saturating_add_signed(most))
    }

    fn start_streams(&mut self) {
        (0..self.processes.len()).for_each(|process| self.start_stream(process));
    }

    /// Requests go to a process from now on, and to nobody in its place.
    pub(super) fn start_stream(&mut self, process: usize) {
        let distance = self.demand.first(process, &mut self.rng);
        let p = &mut self.processes[process];
        p.stream += 1;
        p.next_arrival = self.now + distance;
        let arrival = Event::Arrival(process, p.stream);
        self.plan(self.now.saturating_add(distance), arrival);
    }

    /// The next request of a stream; none if this one is over.
    pub(super) fn next_request(&mut self, process: usize, stream: u32) -> Option<Nanos> {
        let p = &mut self.processes[process];
        if p.stream != stream {
            return None;
        }
        let sent = p.next_arrival;
        p.next_arrival = self.demand.next(process, sent, &mut self.rng);
        let at = p.next_arrival.max(self.now);
        self.plan(at, Event::Arrival(process, stream));
        Some(sent)
    }

    /// The last fault has begun: when is it over?
    fn calm_down(&mut self) {
        self.calm = true;
        let lasting = self.flights.iter().map(|(_, flight)| flight.over_at());
        let frozen = self.processes.iter().map(|p| p.frozen_until);
        let corrected = self.leases.iter().map(|(_, lease)| lease.at);
        // Whoever was refused by what has been deleted learns of that within a lease, and of another
        // parent when he has forgotten the one before.
        let changed = self.scenario.changes.iter().filter_map(|(at, change)| {
            let lasts = match change {
                Change::DeleteBucket(_) | Change::DeleteLimit(..) => self.scenario.lease_ttl(),
                Change::Parent(..) if *at > 0 => self.scenario.entity_ttl,
                Change::Parent(..) | Change::Limits(..) => return None,
            };
            Some(at + lasts)
        });
        let lasting = lasting.chain(frozen).chain(corrected).chain(changed);
        let over = lasting.max().unwrap_or(0).max(self.now);
        // Callers who wait with limits of before declare them again and again, until they give up.
        let stale = if self.scenario.limits.len() > 1 {
            self.scenario.acquire_timeout
        } else {
            0
        };
        self.end = over + stale;
        self.plan(self.end, Event::Over);
    }

    /// When debts are paid, of which nothing is allowed before, and two renewal periods have passed,
    /// the fleet is to be well.
    fn expect_recovery(&mut self) {
        if self.is_correcting() {
            self.end = self.now + self.scenario.latency.max(1);
            self.plan(self.end, Event::Over);
            return;
        }
        let renewal = self.scenario.renewal();
        let debt = Measure::until_unblocked(self).as_nanos();
        let debt = Nanos::try_from(debt).unwrap_or(Nanos::MAX);
        let recovered = self.now + debt.min(DEBT_PERIODS_MAX * renewal) + 2 * renewal;
        self.plan(recovered, Event::Recovered);
        self.end = Nanos::MAX;
    }

    fn start_measuring(&mut self) {
        self.measure = Some(Measure::new(self));
        // Who asks last is to have an answer.
        let answered = self.now + self.scenario.measured_for() + self.scenario.renewal();
        self.plan(answered, Event::Measured);
    }

    /// A fleet that is not well is measured again. That it never is breaks a promise.
    fn finish_measuring(&mut self) {
        let promised = self.scenario.promised_recovery();
        self.end = self.now;
        let Some((measure, promised)) = self.measure.take().zip(promised) else {
            return;
        };
        let last = measure.recovery(promised);
        let recovery = self.report.recovery.get_or_insert(last);
        recovery.measured += 1;
        if last.is_well() {
            return;
        }
        if recovery.measured == MEASURED_MAX {
            self.violated(format!(
                "the fleet does not recover: it admits {:.2} of what is allowed, fairness {:.2}",
                last.admitted_of_allowed(),
                last.fairness
            ));
            return;
        }
        self.end = Nanos::MAX;
        self.start_measuring();
    }

    fn change_demand(&mut self) {
        self.demand = demand(self.scenario, &self.scenario.recovery);
        self.start_streams();
    }

    /// The reconcilers look at what they have been told of.
    pub(super) fn tell(&mut self) {
        while let Some((process, bucket)) = self.told.pop_front() {
            let p = &mut self.processes[process];
            let action = p.machine.look(&p.clock, bucket);
            self.act(process, action);
            self.sleep(process);
        }
    }

    pub(super) fn sleep(&mut self, process: usize) {
        let p = &mut self.processes[process];
        let Some(due) = p.machine.next_due() else {
            return;
        };
        let until = (due.since(p.clock.now()) + OVERSLEPT).as_nanos();
        let at = self
            .now
            .saturating_add(u64::try_from(until).unwrap_or(u64::MAX));
        if at < p.wakes_at {
            p.wakes_at = at;
            self.plan(at, Event::Wake(process));
        }
    }

    fn wake(&mut self, process: usize) {
        let p = &mut self.processes[process];
        if p.wakes_at > self.now {
            return; // it has been woken before, or has died
        }
        p.wakes_at = Nanos::MAX;
        let mut actions = Vec::new();
        while let Some(action) = p.machine.tick(&p.clock) {
            actions.push(action);
        }
        // The machine's order among buckets that are due at once is that of their addresses.
        actions.sort_by_key(|action| match action {
            Action::Write(bucket, _) | Action::Forget(bucket) => number_of(bucket),
            Action::Probe => usize::MAX,
        });
        for action in actions {
            self.act(process, Some(action));
        }
        self.sleep(process);
    }

    pub(super) fn act(&mut self, process: usize, action: Option<Action>) {
        match action {
            None => {}
            Some(Action::Forget(bucket)) => {
                let p = &mut self.processes[process];
                let number = number_of(&bucket);
                if p.seats[number]
                    .as_ref()
                    .is_some_and(|s| s.waiting.is_empty())
                {
                    p.seats[number] = None;
                }
                p.cache.forget(&bucket);
            }
            Some(Action::Probe) => self.probe(process),
            Some(Action::Write(bucket, plan)) => {
                let moved = plan.moved.iter().flatten().copied().collect();
                let number = number_of(&bucket);
                self.send(process, number, Owner::Renewal(bucket, moved), plan.write);
            }
        }
    }

    /// Compares what a process holds of a bucket with what it should.
    pub(super) fn settle(&mut self, process: usize, bucket: usize, excused: bool) {
        let gone: [_; NAMES.len()] = std::array::from_fn(|slot| self.is_gone(bucket, slot));
        let p = &mut self.processes[process];
        let mut result = Ok(());
        for (slot, holds) in p.holds(bucket).into_iter().enumerate() {
            let pool = p.pool(bucket, slot);
            result = result.and(pool.settle(holds, excused || gone[slot]));
        }
        if let Err(what) = result {
            self.violated(format!("process {process}, bucket {bucket}: {what}"));
        }
    }

    /// Whether the table has no such limit: then there is nothing that a credit could go to.
    pub(super) fn is_gone(&self, bucket: usize, slot: usize) -> bool {
        let item = self.items[bucket].as_ref();
        item.is_none_or(|item| item.limit(NAMES[slot]).is_none())
    }

    pub(super) fn in_window(&self, windows: &[(Nanos, Nanos)]) -> bool {
        windows
            .iter()
            .any(|&(from, to)| (from..to).contains(&self.now))
    }

    pub(super) fn chance(&mut self, permille: u32) -> bool {
        permille > 0 && self.rng.u32(..1_000) < permille
    }

    pub(super) fn count(&mut self, fault: Fault) {
        self.report.count(fault);
    }
}

fn demand(scenario: &Scenario, traffic: &Traffic) -> Demand {
    Demand {
        processes: scenario.processes,
        total: traffic.per_second,
        shape: traffic.shape,
        arrivals: traffic.arrivals,
    }
}

/// Which bucket it is: entities are called by numbers.
pub(super) fn number_of(bucket: &Bucket) -> usize {
    bucket.key().entity_id().parse().unwrap_or_default()
}
