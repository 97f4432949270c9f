//! One run of a fleet: every event in its order, real limiters on a simulated table.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use zae_limiter::Limit;
use zae_limiter::reconciler::{Action, Machine};
use zae_limiter::store::{MemoryStore, StoreError, StoreErrorKind, WriteOutcome};
use zae_limiter_core::item::BucketWrite;
use zae_limiter_core::{Bucket, BucketCache, BucketKey, BucketRef, Clock, ManualClock, estimate};
use zae_limiter_core::{Request, Shortage};

use super::demand::Demand;
use super::{CLOSING, Fleet, IdealBucket, KeyReport, OVERSLEPT, RESOURCE, Report, WindowBound};

/// What happens at some time. What happens at the same time happens in the order in which it was
/// decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    /// A request arrives at a process.
    Arrival(usize),
    /// A write reaches the table.
    Apply(u64),
    /// Its answer reaches the process.
    Answer(u64),
    /// The reconciler of a process looks at its queue.
    Wake(usize),
    /// A process dies.
    Crash,
}

/// A caller who waits for a write.
#[derive(Clone, Copy, Debug)]
struct Caller {
    arrived: u64,
    tokens: u64,
}

#[derive(Debug)]
struct Seat {
    bucket: BucketRef,
    waiting: VecDeque<Caller>,
}

#[derive(Debug)]
struct Process {
    /// Tells a process from the one that died in its place.
    incarnation: u64,
    cache: BucketCache,
    machine: Machine,
    seats: BTreeMap<usize, Seat>,
    wakes_at: u64,
    demanded: u64,
    admitted: u64,
}

#[derive(Debug)]
struct Flight {
    process: usize,
    incarnation: u64,
    key: usize,
    bucket: Arc<Bucket>,
    write: BucketWrite,
    planned_at: u64,
    answers_at: u64,
    outcome: Option<WriteOutcome>,
}

/// What is known of a key that no process knows.
#[derive(Debug)]
struct Ledger {
    /// What a limiter that knows everything at once would admit.
    ideal: IdealBucket,
    bound: WindowBound,
    /// For when the table remembers that the bucket was full: the moment at which the write that
    /// made it was planned.
    born: Option<u64>,
    /// When those who were admitted had asked, and for how much.
    paid: Vec<(u64, u64)>,
    admitted: u64,
    writes: u64,
}

/// What an observer of the table and of the callers would note.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Happening {
    /// A process admitted a request of a key.
    Admitted {
        /// Nanoseconds since the beginning.
        at: u64,
        /// Which process.
        process: usize,
        /// Which key.
        key: usize,
        /// For how many tokens.
        tokens: u64,
    },
    /// A write reached the table.
    Written {
        /// Nanoseconds since the beginning.
        at: u64,
        /// Which process.
        process: usize,
        /// Which key.
        key: usize,
        /// Whether its conditions held.
        applied: bool,
    },
}

pub(super) struct Simulation<'a> {
    fleet: &'a Fleet,
    demand: Demand,
    rng: fastrand::Rng,
    clock: Clock,
    hands: ManualClock,
    now: u64,
    events: BinaryHeap<Reverse<(u64, u64, Event)>>,
    events_so_far: u64,
    limits: Arc<[Limit]>,
    store: MemoryStore,
    processes: Vec<Process>,
    ledgers: Vec<Ledger>,
    flights: BTreeMap<u64, Flight>,
    flights_so_far: u64,
    /// Buckets that the reconciler of a process has been told of.
    told: VecDeque<(usize, Arc<Bucket>)>,
    closing: bool,
    report: Report,
}

impl<'a> Simulation<'a> {
    pub(super) fn new(fleet: &'a Fleet, seed: u64) -> Self {
        let mut rng = fastrand::Rng::with_seed(seed);
        let (clock, hands) = Clock::manual();
        // Epochs of the table begin at some moment of the run.
        hands.advance(Duration::from_nanos(rng.u64(..10_000_000_000)));
        let ledger = || Ledger {
            ideal: IdealBucket::new(fleet.limit.terms()),
            bound: WindowBound::new(fleet.limit.terms(), fleet.lease_ttl()),
            born: None,
            paid: Vec::new(),
            admitted: 0,
            writes: 0,
        };
        Self {
            demand: Demand {
                processes: fleet.processes,
                total: fleet.demand,
                shape: fleet.shape,
                arrivals: fleet.arrivals,
            },
            rng,
            clock,
            hands,
            now: 0,
            events: BinaryHeap::new(),
            events_so_far: 0,
            limits: [fleet.limit.clone()].into(),
            store: MemoryStore::new(),
            processes: (0..fleet.processes)
                .map(|at| Process::new(fleet, 0, at as u64))
                .collect(),
            ledgers: (0..fleet.keys).map(|_| ledger()).collect(),
            flights: BTreeMap::new(),
            flights_so_far: 0,
            told: VecDeque::new(),
            closing: false,
            report: Report::default(),
            fleet,
        }
    }

    pub(super) fn run(mut self) -> Report {
        for process in 0..self.processes.len() {
            let at = self.demand.first(process, &mut self.rng);
            self.plan(at, Event::Arrival(process));
        }
        if let Some(crash_every) = self.fleet.crash_every {
            self.plan(nanos(crash_every), Event::Crash);
        }
        let end = nanos(self.fleet.duration + self.fleet.silence);
        self.play_until(end);
        self.report.writes_open = self.report.writes;
        self.close();
        self.play_until(end + nanos(CLOSING));
        self.finish()
    }

    fn play_until(&mut self, end: u64) {
        while let Some(&Reverse((at, _, event))) = self.events.peek() {
            if at > end || self.has_closed() {
                break;
            }
            self.events.pop();
            self.advance_to(at);
            self.happen(event);
        }
        if !self.closing {
            self.advance_to(end);
        }
    }

    fn has_closed(&self) -> bool {
        let idle = |process: &Process| process.machine.watched() == 0;
        self.closing && self.flights.is_empty() && self.processes.iter().all(idle)
    }

    fn advance_to(&mut self, at: u64) {
        self.hands.advance(Duration::from_nanos(at - self.now));
        self.now = at;
    }

    fn plan(&mut self, at: u64, event: Event) {
        self.events_so_far += 1;
        self.events.push(Reverse((at, self.events_so_far, event)));
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Arrival(process) => self.arrive(process),
            Event::Apply(flight) => self.apply(flight),
            Event::Answer(flight) => self.answer(flight),
            Event::Wake(process) => self.wake(process),
            Event::Crash => self.crash(),
        }
        self.tell();
    }

    fn arrive(&mut self, process: usize) {
        let duration = nanos(self.fleet.duration);
        if self.now >= duration {
            return;
        }
        let next = self.demand.next(process, self.now, &mut self.rng);
        self.plan(next, Event::Arrival(process));
        let key = (self.report.requests % self.fleet.keys as u64) as usize;
        let caller = Caller {
            arrived: self.now,
            tokens: self.rng.u64(self.fleet.tokens.clone()),
        };
        self.report.requests += 1;
        self.report.demanded += caller.tokens;
        self.processes[process].demanded += caller.tokens;
        if self.ledgers[key].ideal.take(self.now, caller.tokens) {
            self.report.allowed += caller.tokens;
        }
        self.attempt(process, key, caller);
    }

    /// One try of a caller: as `Acquire` does it.
    fn attempt(&mut self, process: usize, key: usize, caller: Caller) {
        let p = &mut self.processes[process];
        let seat = p.seats.entry(key).or_insert_with(|| {
            let id = entity_id(key);
            let bucket = p.cache.get_or_insert(&id, RESOURCE, &self.limits);
            Seat {
                bucket: bucket.expect("numbers are names"),
                waiting: VecDeque::new(),
            }
        });
        let consume = [(self.limits[0].name(), caller.tokens)];
        let request = Request::new(&self.limits, &consume);
        match seat.bucket.take(&self.clock, &request) {
            Ok(paid) => {
                if paid.hint {
                    self.told.push_back((process, seat.bucket.bucket().clone()));
                }
                p.admitted += caller.tokens;
                self.admitted(process, key, caller);
            }
            Err(Shortage::Miss) => {
                if seat.bucket.want(&request) {
                    self.told.push_back((process, seat.bucket.bucket().clone()));
                }
                seat.waiting.push_back(caller);
                self.report.tries_in_vain += 1;
            }
            Err(_) => {
                self.report.refused += 1;
                self.waited(caller);
            }
        }
    }

    fn admitted(&mut self, process: usize, key: usize, caller: Caller) {
        let (at, tokens) = (self.now, caller.tokens);
        self.report.admitted += tokens;
        let ledger = &mut self.ledgers[key];
        ledger.admitted += tokens;
        ledger.bound.admit(at, tokens);
        ledger.paid.push((caller.arrived, tokens));
        self.waited(caller);
        self.note(Happening::Admitted {
            at,
            process,
            key,
            tokens,
        });
    }

    fn waited(&mut self, caller: Caller) {
        let waited = self.now - caller.arrived;
        self.report.waited += u64::from(waited > 0);
        let longest = &mut self.report.longest_wait;
        *longest = (*longest).max(Duration::from_nanos(waited));
    }

    fn note(&mut self, happening: Happening) {
        self.report.history.push(happening);
    }

    /// The reconcilers look at what they have been told of.
    fn tell(&mut self) {
        while let Some((process, bucket)) = self.told.pop_front() {
            let action = self.processes[process].machine.look(&self.clock, bucket);
            self.act(process, action);
            self.sleep(process);
        }
    }

    fn sleep(&mut self, process: usize) {
        let Some(due) = self.processes[process].machine.next_due() else {
            return;
        };
        let until = nanos((due.since(self.clock.now())) + OVERSLEPT);
        let at = self.now.saturating_add(until);
        if at < self.processes[process].wakes_at {
            self.processes[process].wakes_at = at;
            self.plan(at, Event::Wake(process));
        }
    }

    fn wake(&mut self, process: usize) {
        if self.processes[process].wakes_at != self.now {
            return; // it has been woken before, or has died
        }
        self.processes[process].wakes_at = u64::MAX;
        let mut actions = Vec::new();
        while let Some(action) = self.processes[process].machine.tick(&self.clock) {
            actions.push(action);
        }
        // The machine's order among buckets that are due at once is that of their addresses.
        actions.sort_by_key(|action| match action {
            Action::Write(bucket, _) | Action::Forget(bucket) => key_of(bucket),
            Action::Probe => 0,
        });
        for action in actions {
            self.act(process, Some(action));
        }
        self.sleep(process);
    }

    fn act(&mut self, process: usize, action: Option<Action>) {
        match action {
            None => {}
            Some(Action::Forget(bucket)) => {
                let p = &mut self.processes[process];
                let key = key_of(&bucket);
                if p.seats
                    .get(&key)
                    .is_some_and(|seat| seat.waiting.is_empty())
                {
                    p.seats.remove(&key);
                }
                p.cache.forget(&bucket);
            }
            Some(Action::Probe) => {
                let p = &mut self.processes[process];
                p.machine.probed(&self.clock, Ok(()));
            }
            Some(Action::Write(bucket, plan)) => self.send(process, bucket, plan.write),
        }
    }

    fn send(&mut self, process: usize, bucket: Arc<Bucket>, write: BucketWrite) {
        let jitter = nanos(self.fleet.jitter);
        let shortest = nanos(self.fleet.latency.saturating_sub(self.fleet.jitter));
        let takes = (shortest + self.rng.u64(..=2 * jitter)).max(2);
        self.flights_so_far += 1;
        let flight = Flight {
            process,
            incarnation: self.processes[process].incarnation,
            key: key_of(&bucket),
            bucket,
            write,
            planned_at: self.now,
            answers_at: self.now + takes,
            outcome: None,
        };
        self.flights.insert(self.flights_so_far, flight);
        self.plan(self.now + takes / 2, Event::Apply(self.flights_so_far));
    }

    fn apply(&mut self, number: u64) {
        let Some(flight) = self.flights.get_mut(&number) else {
            return;
        };
        let unanswered = self.rng.u32(..1_000) < self.fleet.unanswered_writes;
        let lost = unanswered && self.rng.bool();
        let unknown = || {
            let error = StoreError::new(StoreErrorKind::Unreachable, "no answer");
            WriteOutcome::Unknown(error)
        };
        let outcome = if lost {
            unknown()
        } else {
            self.store.write(flight.bucket.key(), &flight.write)
        };
        let (process, key, answers_at) = (flight.process, flight.key, flight.answers_at);
        if !lost {
            self.ledgers[key].born.get_or_insert(flight.planned_at);
        }
        let applied = matches!(outcome, WriteOutcome::Applied(_));
        flight.outcome = Some(if unanswered { unknown() } else { outcome });
        self.report.writes += 1;
        self.report.writes_refused += u64::from(!applied);
        self.ledgers[key].writes += 1;
        self.plan(answers_at, Event::Answer(number));
        let at = self.now;
        self.note(Happening::Written {
            at,
            process,
            key,
            applied,
        });
    }

    fn answer(&mut self, number: u64) {
        let Some(flight) = self.flights.remove(&number) else {
            return;
        };
        let (process, key) = (flight.process, flight.key);
        let p = &mut self.processes[process];
        if p.incarnation != flight.incarnation {
            return;
        }
        let Some(outcome) = flight.outcome else {
            return;
        };
        let action = p.machine.done(&self.clock, flight.bucket, outcome);
        let woken = p
            .seats
            .get_mut(&key)
            .map(|seat| std::mem::take(&mut seat.waiting));
        self.act(process, action);
        for caller in woken.into_iter().flatten() {
            if self.closing {
                self.report.unanswered += 1;
            } else {
                self.attempt(process, key, caller);
            }
        }
        self.sleep(process);
    }

    fn crash(&mut self) {
        let victim = self.rng.usize(..self.processes.len());
        let dead = &self.processes[victim];
        let waiting: usize = dead.seats.values().map(|seat| seat.waiting.len()).sum();
        self.report.unanswered += waiting as u64;
        let mut fresh = Process::new(self.fleet, dead.incarnation + 1, victim as u64);
        (fresh.demanded, fresh.admitted) = (dead.demanded, dead.admitted);
        self.processes[victim] = fresh;
        if let Some(crash_every) = self.fleet.crash_every {
            self.plan(self.now + nanos(crash_every), Event::Crash);
        }
    }

    /// Every process shuts down.
    fn close(&mut self) {
        self.closing = true;
        self.events
            .retain(|Reverse((_, _, event))| matches!(event, Event::Apply(_) | Event::Answer(_)));
        for process in 0..self.processes.len() {
            let p = &mut self.processes[process];
            let buckets: Vec<_> = p
                .seats
                .values()
                .map(|seat| seat.bucket.bucket().clone())
                .collect();
            let deadline = self.clock.now().after(CLOSING);
            p.machine.close(&self.clock, deadline, buckets);
            p.wakes_at = self.now;
            self.wake(process);
        }
    }

    fn finish(mut self) -> Report {
        for seat in self.processes.iter().flat_map(|p| p.seats.values()) {
            self.report.unanswered += seat.waiting.len() as u64;
        }
        let shares = self.processes.iter().filter(|p| p.demanded > 0);
        let shares = shares.map(|p| p.admitted as f64 / p.demanded as f64);
        self.report.shares = shares.collect();
        let wall = self.clock.wall();
        for (key, ledger) in self.ledgers.iter_mut().enumerate() {
            let id = BucketKey::new(&entity_id(key), RESOURCE).expect("numbers are names");
            let item = self.store.bucket(&id);
            let limit = &self.fleet.limit;
            let found = item.as_ref().and_then(|item| item.limit(limit.name()));
            ledger.paid.sort_unstable();
            let mut paid = IdealBucket::new(limit.terms());
            ledger
                .paid
                .iter()
                .for_each(|&(at, tokens)| paid.charge(at, tokens));
            self.report.keys.push(KeyReport {
                admitted: ledger.admitted,
                writes: ledger.writes,
                bound_holds: ledger.bound.holds(),
                bound_used: ledger.bound.used(),
                level: limit
                    .terms()
                    .to_tokens(estimate::level(item.as_ref(), wall, limit))
                    .into(),
                level_of_admitted: paid.tokens(self.now),
                overflowed: paid.has_overflowed(),
                consumed: found.map_or(0, |limit| limit.consumed),
            });
        }
        self.report
    }
}

impl Process {
    fn new(fleet: &Fleet, incarnation: u64, seed: u64) -> Self {
        Self {
            incarnation,
            cache: BucketCache::new(),
            machine: fleet.machine(seed),
            seats: BTreeMap::new(),
            wakes_at: u64::MAX,
            demanded: 0,
            admitted: 0,
        }
    }
}

fn entity_id(key: usize) -> String {
    key.to_string()
}

fn key_of(bucket: &Arc<Bucket>) -> usize {
    bucket.key().entity_id().parse().unwrap_or_default()
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}
