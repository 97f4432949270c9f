//! Strict payments: the real state machines, with the writes between their steps simulated.

use std::sync::Arc;
use std::time::Duration;

use smallvec::SmallVec;
use zae_limiter::Limit;
use zae_limiter::store::{StoreError, StoreErrorKind, WriteOutcome};
use zae_limiter::strict::{self, BucketPayment, Due, Next, NextOfPayment, NotWritten, Payment};
use zae_limiter_core::item::BucketWrite;
use zae_limiter_core::{BucketRef, Charges, MonotonicTime, Payer};

use super::acquire::Caller;
use super::afterwards::{Change, Lease};
use super::network::Owner;
use super::random::NAMES;
use super::report::Fault;
use super::scenario::Nanos;
use super::world::{Event, World, number_of};

/// A strict payment under way.
#[derive(Debug)]
pub(super) struct Paying {
    process: usize,
    incarnation: u64,
    began: Nanos,
    /// Since when there is something to correct.
    since: Nanos,
    what: What,
    /// Bucket by bucket, what its writes have debited, less what was credited, and less what was
    /// left to the reconciler to credit.
    net: SmallVec<[(usize, [i128; NAMES.len()]); 2]>,
    /// A write had no answer.
    in_doubt: bool,
}

#[derive(Debug)]
#[allow(clippy::large_enum_variant)] // there are few at a time
enum What {
    /// Of an acquire, whose caller loses interest at some time.
    Acquire(Caller, Payment, Option<Nanos>),
    /// Of a correction by so many tokens.
    Correction(BucketPayment, [i128; NAMES.len()], Change),
}

enum Step {
    Write(BucketRef, BucketWrite),
    Pause(u32),
    Done(Result<(), NotWritten>),
}

impl Paying {
    /// Since when the lease has paid that is corrected.
    pub(super) fn corrects(&self) -> Option<Nanos> {
        matches!(self.what, What::Correction(..)).then_some(self.since)
    }
}

impl What {
    /// Whether its debits are admissions.
    fn admits(&self) -> bool {
        matches!(self, Self::Acquire(..))
    }
}

fn charges(limits: &[Limit], tokens: [u64; NAMES.len()]) -> Charges {
    let named = tokens.iter().take(limits.len()).enumerate();
    let named = named.filter(|(_, tokens)| **tokens > 0);
    named.fold(Charges::default(), |charges, (slot, tokens)| {
        charges.with(slot as u32, *tokens)
    })
}

impl World<'_> {
    /// A strict acquire.
    pub(super) fn pay_strictly(&mut self, caller: Caller) {
        let gone = self.chance(20).then(|| {
            let patience = self.rng.u64(..=3 * self.scenario.latency);
            self.now + patience
        });
        let p = &mut self.processes[caller.process];
        if p.breaker.is_open() {
            self.report.unavailable += 1;
            return;
        }
        let buckets: SmallVec<[BucketRef; 2]> = caller
            .buckets()
            .map(|bucket| p.seat(bucket).bucket.clone())
            .collect();
        let charges = charges(&p.limits, caller.tokens);
        let due = |bucket| Due::new(bucket, p.limits.clone(), charges.clone());
        let payment = Payment::new(&p.clock, buckets.into_iter().map(due).collect());
        let what = What::Acquire(caller, payment, gone.filter(|_| !self.calm));
        self.begin(caller.process, self.now, what);
    }

    /// A lease that the table paid is corrected by `tokens`.
    pub(super) fn correct_table(
        &mut self,
        lease: &Lease,
        bucket: usize,
        tokens: [u64; NAMES.len()],
        correction: Change,
        debited: Option<u64>,
    ) {
        let (process, limits) = (lease.caller.process, lease.limits.clone());
        let p = &mut self.processes[process];
        let more = correction == Change::Charged;
        let change = if more {
            strict::Change::DebitAnyway
        } else {
            strict::Change::Credit(debited)
        };
        let charges = charges(&limits, tokens);
        let known = p.seat(bucket).bucket.clone();
        let due = Due::new(known, limits, charges);
        let payment = BucketPayment::new(&p.clock, change, due);
        let signed = tokens.map(|tokens| {
            let tokens = i128::from(tokens);
            if more { tokens } else { -tokens }
        });
        let what = What::Correction(payment, signed, correction);
        self.begin(process, lease.since, what);
    }

    fn begin(&mut self, process: usize, since: Nanos, what: What) {
        let number = self.payments.insert(Paying {
            process,
            incarnation: self.processes[process].incarnation,
            began: self.now,
            since,
            what,
            net: SmallVec::new(),
            in_doubt: false,
        });
        self.pay_on(number);
    }

    /// Whether a lease is yet to cost more or less, or the table is being told of that.
    pub(super) fn is_correcting(&self) -> bool {
        if !self.leases.is_empty() {
            return true; // by a process that stood still until now
        }
        let mut payments = self.payments.iter().map(|(_, paying)| paying);
        payments.any(|paying| {
            let lives = self.processes[paying.process].incarnation == paying.incarnation;
            lives && !paying.what.admits()
        })
    }

    /// The next step of a payment.
    pub(super) fn pay_on(&mut self, number: usize) {
        let paying = &mut self.payments[number];
        let process = paying.process;
        let p = &mut self.processes[process];
        if p.incarnation != paying.incarnation {
            self.payments.remove(number);
            return;
        }
        loop {
            let step = match &mut paying.what {
                What::Acquire(_, payment, _) => match payment.next(&p.clock) {
                    NextOfPayment::Write(bucket, write) => Step::Write(bucket, write),
                    NextOfPayment::Pause(attempt) => Step::Pause(attempt),
                    NextOfPayment::Done(result) => Step::Done(result.map_err(|(_, why)| why)),
                },
                What::Correction(payment, ..) => match payment.next(&p.clock) {
                    Next::Write(bucket, write) => Step::Write(bucket, write),
                    Next::Pause(attempt) => Step::Pause(attempt),
                    Next::Done(result) => Step::Done(result),
                },
            };
            match step {
                Step::Write(bucket, write) => {
                    let admits = paying.what.admits();
                    let charged = match paying.what {
                        What::Correction(_, _, Change::GivenBack(charged)) => charged,
                        _ => [0; NAMES.len()],
                    };
                    let owner = Owner::Payment {
                        number,
                        admits,
                        charged,
                        asked_at: paying.began,
                    };
                    self.send(process, number_of(&bucket), owner, write);
                }
                Step::Pause(attempt) => {
                    let pause = Duration::from_millis(25) * 2u32.pow(attempt.min(5));
                    let at = self.now + pause.as_nanos() as Nanos;
                    self.plan(at, Event::Resume(process, number));
                }
                Step::Done(Ok(())) => {
                    if let What::Acquire(_, payment, gone) = &mut paying.what
                        && gone.take_if(|gone| *gone <= self.now).is_some()
                    {
                        self.report.count(Fault::CallerGone);
                        payment.give_back();
                        continue;
                    }
                    self.end(number, Ok(()));
                }
                Step::Done(Err(why)) => self.end(number, Err(why)),
            }
            return;
        }
    }

    /// A write of a payment has ended; it debited `net`.
    pub(super) fn paid(
        &mut self,
        number: usize,
        bucket: usize,
        sent: Nanos,
        outcome: WriteOutcome,
        net: [i128; NAMES.len()],
    ) {
        let paying = &mut self.payments[number];
        let process = paying.process;
        let p = &mut self.processes[process];
        if p.incarnation != paying.incarnation {
            self.payments.remove(number);
            return;
        }
        let waited = self.now - sent;
        let sent = MonotonicTime::from_nanos(p.clock.now().as_nanos() - waited);
        match &outcome {
            WriteOutcome::Applied(_) | WriteOutcome::Refused(_) => {
                p.breaker.answered(p.clock.now());
            }
            WriteOutcome::Failed(error) | WriteOutcome::Unknown(error) => {
                let error = Arc::new(StoreError::new(error.kind(), "simulated"));
                p.breaker.failed(sent, p.clock.now(), error);
            }
        }
        paying.in_doubt |= matches!(outcome, WriteOutcome::Unknown(_));
        let before = p.holds(bucket);
        let told = match &mut paying.what {
            What::Acquire(_, payment, _) => payment.done(&p.clock, outcome),
            What::Correction(payment, ..) => {
                let known = p.seats[bucket].as_ref().map(|seat| seat.bucket.clone());
                payment.done(&p.clock, outcome).then_some(known).flatten()
            }
        };
        let charged = match paying.what {
            What::Correction(_, _, Change::GivenBack(charged)) => charged,
            _ => [0; NAMES.len()],
        };
        let credited =
            matches!(paying.what, What::Correction(..)) && net.iter().any(|net| *net < 0);
        let after = p.holds(bucket);
        let entry = match paying.net.iter().position(|(known, _)| *known == bucket) {
            Some(at) => at,
            None => {
                paying.net.push((bucket, [0; NAMES.len()]));
                paying.net.len() - 1
            }
        };
        for slot in 0..NAMES.len() {
            // A credit that surely was not made is left to the reconciler.
            let left = after[slot] - before[slot];
            p.pool(bucket, slot).consumed -= left;
            if left > 0 {
                p.pool(bucket, slot).credit_of_charged += charged[slot];
            }
            paying.net[entry].1[slot] += net[slot] - left;
        }
        if let Some(bucket) = told {
            self.told.push_back((process, bucket.bucket().clone()));
        }
        self.trace.note(self.now, process, [number as u64, 8], || {
            format!("payment {number} has debited {net:?} of bucket {bucket}")
        });
        self.settle(process, bucket, false);
        if credited {
            self.ring(process, bucket);
        }
        self.pay_on(number);
        self.mind_breaker(process);
        self.sleep(process);
    }

    fn end(&mut self, number: usize, result: Result<(), NotWritten>) {
        let paying = self.payments.remove(number);
        let mut problem = None;
        for (bucket, net) in &paying.net {
            let due = match &paying.what {
                What::Acquire(caller, _, _) if result.is_ok() => caller.tokens.map(i128::from),
                What::Acquire(..) => [0; NAMES.len()],
                What::Correction(_, tokens, _) => match (&result, tokens[0] < 0 || tokens[1] < 0) {
                    (Err(_), false) => [0; NAMES.len()],
                    _ => *tokens,
                },
            };
            for slot in 0..NAMES.len() {
                let lost = net[slot] - due[slot];
                let made_at = self.ledgers.of(*bucket, slot).made_at;
                // A credit that was planned while the limit was gone leaves it out; and what a
                // process has seen may be as old as an answer, or as its breaker is open.
                let known_at = paying
                    .began
                    .saturating_sub(2 * self.scenario.faults.patience);
                let unknown = self.processes[paying.process]
                    .pool(*bucket, slot)
                    .deleted
                    .is_some();
                let again = self.ledgers.is_made_again(*bucket, slot, paying.since);
                let gone = self.is_gone(*bucket, slot) || made_at >= known_at || unknown || again;
                let excused = paying.in_doubt || gone;
                if lost < 0 || lost > 0 && !excused {
                    problem = Some(format!(
                        "a strict payment of bucket {bucket} debited {net:?}, for {due:?}: {result:?}"
                    ));
                }
            }
        }
        if let Some(what) = problem {
            self.violated(what);
        }
        let What::Acquire(caller, payment, gone) = &paying.what else {
            return;
        };
        match &result {
            Ok(()) => {
                let [child, parent] = payment.debited().map(Payer::Table);
                self.admitted(caller, [Some(child), caller.parent.map(|_| parent)]);
            }
            Err(NotWritten::Exceeded { .. }) => self.report.refused += 1,
            Err(_) if gone.is_none() => self.report.unavailable += 1,
            Err(_) => {}
        }
    }

    /// A process asks whether the table answers.
    pub(super) fn probe(&mut self, process: usize) {
        let incarnation = self.processes[process].incarnation;
        let at = self.now + self.scenario.latency;
        self.plan(at, Event::Probed(process, incarnation));
    }

    pub(super) fn probed(&mut self, process: usize, incarnation: u64) {
        let faults = &self.scenario.faults;
        let down = !self.calm && self.in_window(&faults.unreachable);
        let denied = !self.calm && self.in_window(&faults.denied);
        let p = &mut self.processes[process];
        if p.incarnation != incarnation {
            return;
        }
        let result = if denied {
            Err(StoreError::new(StoreErrorKind::AccessDenied, "simulated"))
        } else if down {
            Err(StoreError::new(StoreErrorKind::Unreachable, "simulated"))
        } else {
            Ok(())
        };
        p.machine.probed(&p.clock, result);
        self.mind_breaker(process);
        self.sleep(process);
    }

    /// When the breaker opens, nobody waits for an answer that does not come.
    pub(super) fn mind_breaker(&mut self, process: usize) {
        let p = &mut self.processes[process];
        let open = p.breaker.is_open();
        if std::mem::replace(&mut p.suspended, open) == open {
            return;
        }
        self.trace
            .note(self.now, process, [9, u64::from(open)], || {
                let state = if open { "opens" } else { "closes" };
                format!("its breaker {state}")
            });
        if open {
            for bucket in 0..self.scenario.buckets() {
                self.ring(process, bucket);
            }
        }
    }
}
