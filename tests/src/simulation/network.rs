//! Writes on their way to the table and back, and what becomes of them.

use std::sync::Arc;

use smallvec::SmallVec;
use zae_limiter::store::{StoreError, StoreErrorKind, WriteOutcome};
use zae_limiter_core::Bucket;
use zae_limiter_core::item::{BucketItem, BucketWrite, LimitAction, LimitWrite};
use zae_limiter_core::plan::{self, Moved};

use super::ledger::{forgets_early, slot};
use super::payments::Paying;
use super::random::NAMES;
use super::report::Fault;
use super::scenario::{Nanos, duration};
use super::world::{Event, World};

/// What a write does, limit by limit, in the order of the write.
pub(super) type AllMoved = SmallVec<[Moved; 2]>;

/// Who made a write.
#[derive(Debug)]
pub(super) enum Owner {
    /// The reconciler, for a bucket.
    Renewal(Arc<Bucket>, AllMoved),
    /// The strict payment of this number; whether what it debits is admitted.
    Payment {
        number: usize,
        admits: bool,
        /// Of what it gives back, what was charged afterwards, and never admitted.
        charged: [u64; NAMES.len()],
        asked_at: Nanos,
    },
}

/// A write under way.
#[derive(Debug)]
pub(super) struct Flight {
    process: usize,
    incarnation: u64,
    bucket: usize,
    owner: Owner,
    write: BucketWrite,
    /// What it credits of what callers have given back.
    credits: [u64; NAMES.len()],
    planned_at: Nanos,
    /// How far the process's wall clock was behind the one that is ever furthest ahead.
    behind: Nanos,
    fate: Fate,
    /// What the table said, once it was asked.
    said: Option<WriteOutcome>,
    /// It took place.
    applied: bool,
    answered: bool,
}

/// What becomes of a write.
#[derive(Clone, Copy, Debug)]
struct Fate {
    /// When it reaches the table, if it does.
    applied_at: Option<Nanos>,
    /// When the process hears of it, or stops waiting.
    answered_at: Nanos,
    answer: Answer,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Answer {
    /// What the table said.
    Told,
    /// Surely not made.
    Failed(StoreErrorKind),
    /// Nothing.
    Nothing,
}

impl Flight {
    /// When nothing of it is under way any more.
    pub(super) fn over_at(&self) -> Nanos {
        self.fate.applied_at.unwrap_or(0).max(self.fate.answered_at)
    }

    /// What it debits, of a limit.
    fn debit(&self, at: usize, write: &LimitWrite) -> u64 {
        match &self.owner {
            Owner::Renewal(_, moved) => moved.get(at).map_or(0, |moved| moved.debit),
            Owner::Payment { .. } => consumed(write).max(0).cast_unsigned(),
        }
    }

    /// Which of the limits that requests name it debits.
    fn debited(&self) -> [bool; NAMES.len()] {
        let mut debited = [false; NAMES.len()];
        for (at, write) in self.write.limits.iter().enumerate() {
            debited[slot(&write.name)] = self.debit(at, write) > 0;
        }
        debited
    }

    /// What it debits less what it credits, of each limit that requests name.
    fn net(&self) -> [i128; NAMES.len()] {
        let mut net = [0; NAMES.len()];
        for (at, write) in self.write.limits.iter().enumerate() {
            net[slot(&write.name)] = match &self.owner {
                Owner::Renewal(_, moved) => moved.get(at).map_or(0, |moved| {
                    i128::from(moved.debit) - i128::from(moved.credit)
                }),
                Owner::Payment { .. } => i128::from(consumed(write)),
            };
        }
        net
    }
}

impl World<'_> {
    pub(super) fn send(&mut self, process: usize, bucket: usize, owner: Owner, write: BucketWrite) {
        let fate = self.fate();
        let p = &mut self.processes[process];
        let credits = match &owner {
            Owner::Renewal(_, moved) if !moved.is_empty() => {
                let mut credits = p.credits(bucket);
                for (slot, credit) in credits.iter_mut().enumerate() {
                    *credit -= p.pool(bucket, slot).credit_of_charged.min(*credit);
                }
                credits
            }
            _ => [0; NAMES.len()],
        };
        let flight = Flight {
            process,
            incarnation: p.incarnation,
            bucket,
            owner,
            write,
            credits,
            planned_at: self.now,
            behind: self.scenario.furthest_ahead().abs_diff(p.offset),
            fate,
            said: None,
            applied: false,
            answered: false,
        };
        let net = flight.net();
        let renews = matches!(flight.owner, Owner::Renewal(..));
        let number = self.flights.insert(flight);
        if renews {
            p.seat(bucket).flight = Some(number);
        }
        self.report.writes += 1;
        self.trace
            .note(self.now, process, [bucket as u64, number as u64], || {
                format!("writes {net:?} to bucket {bucket}, flight {number}: {fate:?}")
            });
        if let Some(at) = fate.applied_at {
            self.plan(at, Event::Apply(number));
        }
        self.plan(fate.answered_at, Event::Answer(process, number));
    }

    /// Decides what becomes of a write that is sent now.
    fn fate(&mut self) -> Fate {
        let scenario = self.scenario;
        let (now, latency) = (self.now, scenario.latency);
        let there = self.rng.u64(latency / 4..=latency * 3 / 4);
        let back = self.rng.u64(latency / 4..=latency * 3 / 4);
        let told = |there, back| Fate {
            applied_at: Some(now + there),
            answered_at: now + there + back,
            answer: Answer::Told,
        };
        if self.calm {
            return told(there, back);
        }
        let faults = &scenario.faults;
        let gives_up = now + faults.patience;
        let failed = |kind| Fate {
            applied_at: None,
            answered_at: now + there + back,
            answer: Answer::Failed(kind),
        };
        let nothing = |applied_at| Fate {
            applied_at,
            answered_at: gives_up,
            answer: Answer::Nothing,
        };
        if self.in_window(&faults.denied) {
            self.count(Fault::Denied);
            failed(StoreErrorKind::AccessDenied)
        } else if self.in_window(&faults.unreachable) {
            self.count(Fault::Unreachable);
            if self.rng.bool() {
                failed(StoreErrorKind::Unreachable)
            } else {
                nothing(None)
            }
        } else if self.chance(faults.throttled) {
            self.count(Fault::Throttling);
            failed(StoreErrorKind::Throttled)
        } else if self.chance(faults.lost_writes) {
            self.count(Fault::LostWrite);
            nothing(None)
        } else if self.chance(faults.lost_replies) {
            self.count(Fault::LostReply);
            nothing(Some(now + there))
        } else if self.chance(faults.late_writes) {
            self.count(Fault::LateWrite);
            nothing(Some(gives_up + self.rng.u64(..=faults.delay)))
        } else if self.chance(faults.delayed) {
            self.count(Fault::Delay);
            let there = there + self.rng.u64(..=faults.delay);
            let back = back + self.rng.u64(..=faults.delay);
            if now + there + back > gives_up {
                nothing(Some(now + there))
            } else {
                told(there, back)
            }
        } else {
            told(there, back)
        }
    }

    /// A write reaches the table.
    pub(super) fn apply(&mut self, number: usize) {
        let flight = &mut self.flights[number];
        let bucket = flight.bucket;
        let outcome = BucketItem::apply(&mut self.items[bucket], &flight.write);
        flight.applied = outcome.is_ok();
        let (applied, process, planned_at) = (flight.applied, flight.process, flight.planned_at);
        let debited = flight.debited();
        self.trace.note(
            self.now,
            process,
            [number as u64, u64::from(applied)],
            || {
                let happens = if applied { "is applied" } else { "is refused" };
                format!("flight {number} {happens}: {:?}", self.items[bucket])
            },
        );
        if applied {
            self.written(number);
        }
        let flight = &mut self.flights[number];
        if flight.answered {
            // The process has given up on it; the books learn that it took place after all.
            let (flight, p) = (self.flights.remove(number), &mut self.processes[process]);
            let renewed = matches!(flight.owner, Owner::Renewal(..));
            if applied && renewed && p.incarnation == flight.incarnation {
                for (slot, net) in flight.net().into_iter().enumerate() {
                    let pool = p.pool(bucket, slot);
                    pool.debited += net;
                    pool.lost += net;
                }
            }
        } else {
            flight.said = Some(match outcome {
                Ok(item) => WriteOutcome::Applied(item),
                Err(found) => WriteOutcome::Refused(found),
            });
        }
        if applied {
            self.check_out(bucket, planned_at, debited);
        }
    }

    /// What must be true of every write that is applied.
    fn written(&mut self, number: usize) {
        let flight = &self.flights[number];
        let bucket = flight.bucket;
        let Some(item) = &self.items[bucket] else {
            return;
        };
        let mut problem = None;
        let mut again = false;
        let behind = flight.behind + (self.now - flight.planned_at);
        for (at, write) in flight.write.limits.iter().enumerate() {
            let debit = flight.debit(at, write);
            let now = self.now;
            match (self.ledgers).written(bucket, now, write, debit, behind, item) {
                Ok(made_again) => again |= made_again,
                Err(what) => problem = Some(what),
            }
            self.ledgers
                .give_back(bucket, slot(&write.name), flight.credits[slot(&write.name)]);
            // A strict acquire is admitted by the table.
            if let Owner::Payment {
                number,
                admits,
                asked_at,
                charged,
            } = flight.owner
            {
                let (slot, tokens) = (slot(&write.name), consumed(write));
                if tokens < 0 {
                    let paying = self.payments.get(number);
                    let since = paying.and_then(Paying::corrects);
                    if since.is_some_and(|since| self.ledgers.is_another(bucket, slot, since)) {
                        let what = "is credited with what was debited before it was deleted";
                        problem = Some(format!("limit {slot} of bucket {bucket} {what}"));
                    }
                    let admitted = tokens.unsigned_abs().saturating_sub(charged[slot]);
                    self.ledgers.give_back(bucket, slot, admitted);
                } else if admits && tokens > 0 {
                    let tokens = tokens.unsigned_abs();
                    let (now, late) = (self.now, self.now - asked_at);
                    let admitted = self.ledgers.admit_late(bucket, slot, now, tokens, late);
                    problem = admitted.err().or(problem);
                }
            }
        }
        if forgets_early(item) {
            problem = Some(format!(
                "bucket {bucket} would be forgotten before it is full"
            ));
        }
        if again {
            self.count(Fault::BucketMadeAgain);
        }
        if let Some(what) = problem {
            self.violated(what);
        }
    }

    /// A process learns how its write ended.
    pub(super) fn answer(&mut self, number: usize) {
        let flight = &mut self.flights[number];
        flight.answered = true;
        let outcome = match flight.fate.answer {
            Answer::Told => flight.said.take(),
            Answer::Failed(kind) => Some(WriteOutcome::Failed(StoreError::new(kind, "simulated"))),
            Answer::Nothing => None,
        };
        let outcome = outcome.unwrap_or_else(|| {
            WriteOutcome::Unknown(StoreError::new(StoreErrorKind::Unreachable, "simulated"))
        });
        let (process, bucket, net) = (flight.process, flight.bucket, flight.net());
        let (incarnation, planned_at) = (flight.incarnation, flight.planned_at);
        let (applied, applied_at) = (flight.applied, flight.fate.applied_at);
        let owner = match &flight.owner {
            Owner::Renewal(bucket, moved) => Ok((bucket.clone(), moved.is_empty())),
            Owner::Payment { number, .. } => Err(*number),
        };
        let under_way =
            !applied && flight.said.is_none() && flight.fate.applied_at > Some(self.now);
        if !under_way {
            self.flights.remove(number);
        }
        let (renewed, converts) = match owner {
            Ok(renewal) => renewal,
            Err(payment) => {
                let paid = if applied { net } else { [0; NAMES.len()] };
                self.paid(payment, bucket, planned_at, outcome, paid);
                return;
            }
        };
        let p = &mut self.processes[process];
        if p.incarnation != incarnation {
            return;
        }
        p.seat(bucket).flight = None;
        let unknown = matches!(outcome, WriteOutcome::Unknown(_));
        let landed = matches!(outcome, WriteOutcome::Applied(_));
        if landed && !converts {
            p.seat(bucket).expires_at = planned_at + self.scenario.options.lease_ttl_ms * 1_000_000;
        }
        if let WriteOutcome::Refused(found) = &outcome {
            let sequence = found.as_ref().map_or(0, |item| item.sequence);
            let last = p.seat(bucket).refused.replace((sequence, self.now));
            self.report.futile += u64::from(last == Some((sequence, planned_at)));
        }
        if (landed || unknown) && !converts {
            for slot in 0..NAMES.len() {
                p.pool(bucket, slot).credit_of_charged = 0;
            }
        }
        let before = p.holds(bucket);
        let action = p.machine.done(&p.clock, renewed, outcome);
        let after = p.holds(bucket);
        for slot in 0..NAMES.len() {
            let again = self.ledgers.is_made_again(bucket, slot, planned_at);
            let pool = p.pool(bucket, slot);
            if applied {
                pool.debited += net[slot];
            }
            // What it would have given back went with the item, when the process learned of that.
            let dropped = again || pool.deleted.is_some();
            let found = after[slot] - before[slot];
            if unknown && (found > 0 || found > net[slot] && !dropped) {
                self.report.violation.get_or_insert(super::Violation {
                    at: self.now,
                    what: format!(
                        "process {process} made {found} tokens of bucket {bucket} out of a write \
                         of {} that may have been made, or not",
                        net[slot]
                    ),
                });
            }
        }
        self.trace.note(self.now, process, [number as u64, 3], || {
            format!("hears of flight {number}; it holds {before:?}, then {after:?}")
        });
        // What a write brings too much that was on its way for long is not spent.
        let late = landed && self.now - planned_at > self.flight_max();
        self.settle(process, bucket, unknown || late);
        if landed {
            self.learn(process, bucket, applied_at);
        }
        self.act(process, action);
        self.ring(process, bucket);
        self.mind_breaker(process);
        self.sleep(process);
    }

    /// What a process has seen of a bucket may say that a limit is there again that was deleted.
    fn learn(&mut self, process: usize, bucket: usize, as_of: Option<Nanos>) {
        let p = &mut self.processes[process];
        let seen = p.seat(bucket).bucket.seen();
        for (slot, name) in NAMES.into_iter().enumerate() {
            // As long as the process believes that the limit is gone it drops what it owes
            // it; and a write that came before the deletion says nothing of it.
            let there = seen.item().is_some_and(|item| item.limit(name).is_some());
            let deleted = &mut p.pool(bucket, slot).deleted;
            *deleted = deleted.filter(|at| !there || as_of < Some(*at));
        }
    }

    /// How long a write may be on its way before its answer is compared with the bound.
    fn flight_max(&self) -> Nanos {
        let lease_ttl = duration(self.scenario.options.lease_ttl_ms * 1_000_000);
        plan::flight_max(lease_ttl).as_nanos() as Nanos
    }

    /// After a write that has drawn on the level: what is out in live blocks, beside it. Of a write that was on its way
    /// for long, a part will not be spent: what flowed in meanwhile, at most.
    fn check_out(&mut self, bucket: usize, planned_at: Nanos, debited: [bool; NAMES.len()]) {
        let mut held = [0; NAMES.len()];
        for p in &self.processes {
            let Some(seat) = &p.seats[bucket] else {
                continue;
            };
            let flight = seat.flight.map(|number| &self.flights[number]);
            let coming = flight.filter(|f| f.applied && f.fate.answer == Answer::Told);
            let renews =
                |f: &&Flight| matches!(&f.owner, Owner::Renewal(_, moved) if !moved.is_empty());
            let coming = coming.filter(renews);
            let ttl = self.scenario.options.lease_ttl_ms * 1_000_000;
            let renewed = coming.map_or(0, |f| f.planned_at + ttl);
            let expires_at = seat.expires_at.max(renewed);
            // By a clock that is ahead, the ring counts a block for that much shorter.
            if expires_at <= self.now + self.scenario.skew() {
                continue;
            }
            let back = flight.is_some_and(|f| !f.applied && f.fate.answer != Answer::Nothing);
            seat.bucket.positions(|limit, position, _| {
                let mut tokens = position.stock + position.pending;
                if coming.is_some() {
                    tokens += position.coming;
                }
                if back {
                    tokens += position.returning;
                }
                held[slot(limit.name())] += tokens;
            });
        }
        let flown = self.now - planned_at;
        let late = flown.saturating_sub(self.flight_max());
        let wall = self.latest_wall().before(duration(late));
        let Some(item) = &self.items[bucket] else {
            return;
        };
        let mut result = Ok(());
        for (slot, held) in held.into_iter().enumerate() {
            if debited[slot] && self.ledgers.of(bucket, slot).unsettled_until < self.now {
                let checked = self
                    .ledgers
                    .check_out(bucket, NAMES[slot], item, wall, held);
                result = result.and(checked);
            }
        }
        self.check(result);
    }
}

/// The consumption that a write reports.
fn consumed(write: &LimitWrite) -> i64 {
    match write.action {
        LimitAction::Create(limit) => limit.consumed,
        LimitAction::Update { change, .. } => change.consumed,
    }
}
