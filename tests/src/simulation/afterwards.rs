//! What callers do with their leases: more, less, or nothing after all, again and again, at bad moments.

use std::sync::Arc;

use smallvec::SmallVec;
use zae_limiter::Limit;
use zae_limiter_core::{Charges, Payer, Payments, Request};

use super::acquire::Caller;
use super::random::NAMES;
use super::recovery::Measure;
use super::report::Fault;
use super::scenario::Nanos;
use super::world::{Event, World};

/// How often a lease is corrected at most, before it is abandoned.
const CORRECTIONS_MAX: u32 = 4;

/// A lease that is not just dropped.
#[derive(Debug)]
pub(super) struct Lease {
    pub(super) caller: Caller,
    incarnation: u64,
    /// When it was admitted.
    pub(super) since: Nanos,
    parts: SmallVec<[Part; 2]>,
    pub(super) limits: Arc<[Limit]>,
    /// How often it is corrected again.
    corrections: u32,
    /// When that is.
    pub(super) at: Nanos,
}

/// What a lease has of one bucket.
#[derive(Clone, Debug)]
struct Part {
    bucket: usize,
    payments: Payments,
    /// Tokens that a block or the table has paid, and not had back.
    paid: [u64; NAMES.len()],
    /// Of those, what was charged afterwards: no admissions.
    charged: [u64; NAMES.len()],
}

/// What becomes of a lease.
#[derive(Clone, Copy, Debug)]
enum Correction {
    /// It turns out to cost more.
    Adjusted(u64),
    /// It consumes more, if the block has it.
    Consumes(u64),
    /// Half of it is given back.
    Released,
    /// All of it is.
    RolledBack,
}

impl World<'_> {
    /// Somebody was admitted; perhaps that was not the last of it.
    pub(super) fn keep_lease(&mut self, caller: &Caller, payers: [Option<Payer>; 2]) {
        let leases = self.scenario.leases;
        let chance = leases.adjusted + leases.released + leases.rolled_back;
        if self.calm || !self.chance(chance) {
            return;
        }
        let mut charges = Charges::default();
        for (slot, tokens) in caller.tokens.into_iter().enumerate() {
            charges = charges.with(slot as u32, tokens);
        }
        let part = |(bucket, payer): (usize, Option<Payer>)| {
            let payer = payer?;
            let paid = matches!(payer, Payer::Block(_) | Payer::Table(_));
            Some(Part {
                bucket,
                payments: Payments::new(payer, charges.clone()),
                paid: if paid {
                    caller.tokens
                } else {
                    [0; NAMES.len()]
                },
                charged: [0; NAMES.len()],
            })
        };
        let lease = Lease {
            caller: *caller,
            incarnation: self.processes[caller.process].incarnation,
            since: self.now,
            parts: caller.buckets().zip(payers).filter_map(part).collect(),
            limits: self.scenario.limits[caller.version].clone(),
            corrections: self.rng.u32(..CORRECTIONS_MAX),
            at: 0,
        };
        self.correct_later(lease);
    }

    /// At once, soon, within some periods, or just before or after the block has expired.
    fn correct_later(&mut self, mut lease: Lease) {
        let (scenario, process) = (self.scenario, lease.caller.process);
        let after = match self.rng.u32(..4) {
            0 => 0,
            1 => self.rng.u64(..=3 * scenario.latency),
            2 => self.rng.u64(..=2 * scenario.renewal()),
            _ => {
                let seat = self.processes[process].seats[lease.caller.child].as_ref();
                let expires = seat.map_or(0, |seat| seat.expires_at).max(self.now);
                let around = self.rng.u64(..=2 * scenario.latency);
                (expires - self.now + around).saturating_sub(scenario.latency)
            }
        };
        lease.at = self.now + after;
        let at = lease.at;
        let number = self.leases.insert(lease);
        self.plan(at, Event::Afterwards(process, number));
    }

    fn draw_correction(&mut self, lease: &Lease) -> Correction {
        let leases = self.scenario.leases;
        let all = leases.adjusted + leases.released + leases.rolled_back;
        let drawn = self.rng.u32(..all.max(1));
        if drawn < leases.adjusted {
            let slot = self.corrected(lease);
            let burst = lease.limits[slot].burst_tokens();
            let most = if slot == 0 { burst / 8 } else { burst * 2 };
            let tokens = self.rng.u64(1..=lease.caller.tokens[slot] * 4 + most);
            if self.rng.u32(..4) == 0 {
                Correction::Consumes(tokens.min(lease.caller.tokens[0]).max(1))
            } else {
                Correction::Adjusted(tokens)
            }
        } else if drawn < leases.adjusted + leases.released {
            Correction::Released
        } else {
            Correction::RolledBack
        }
    }

    /// Which limit turns out to cost more.
    fn corrected(&self, lease: &Lease) -> usize {
        self.scenario.leases.limit.min(lease.limits.len() - 1)
    }

    pub(super) fn afterwards(&mut self, number: usize) {
        let mut lease = self.leases.remove(number);
        if self.processes[lease.caller.process].incarnation != lease.incarnation {
            return;
        }
        let correction = self.draw_correction(&lease);
        match correction {
            Correction::Adjusted(tokens) => {
                self.count(Fault::IntoDebt);
                let mut all = [0; NAMES.len()];
                all[self.corrected(&lease)] = tokens;
                Measure::adjusted(self, &lease.caller, all);
                for at in 0..lease.parts.len() {
                    self.charge_more(&mut lease, at, tokens);
                }
            }
            Correction::Consumes(tokens) => self.consume_more(&mut lease, tokens),
            Correction::Released | Correction::RolledBack => {
                let all = matches!(correction, Correction::RolledBack);
                let fault = if all {
                    Fault::RolledBack
                } else {
                    Fault::Released
                };
                self.count(fault);
                for at in 0..lease.parts.len() {
                    self.give_back(&mut lease, at, all);
                }
                if all {
                    return;
                }
            }
        }
        if lease.corrections > 0 && !self.calm {
            lease.corrections -= 1;
            self.correct_later(lease);
        }
    }

    /// A lease turns out to cost more.
    fn charge_more(&mut self, lease: &mut Lease, at: usize, tokens: u64) {
        let slot = self.corrected(lease);
        let (process, limits) = (lease.caller.process, lease.limits.clone());
        let part = &mut lease.parts[at];
        let bucket = part.bucket;
        match part.payments.last() {
            Payer::Block(_) => {
                let p = &mut self.processes[process];
                let known = p.seat(bucket).bucket.clone();
                let paid = known.charge_anyway(&p.clock, &limits[slot], tokens);
                p.pool(bucket, slot).consumed += i128::from(tokens);
                part.payments
                    .add(Payer::Block(paid.generation), slot as u32, tokens);
                part.charged[slot] += tokens;
                part.paid[slot] += tokens;
                if paid.hint {
                    self.told.push_back((process, known.bucket().clone()));
                }
                self.settle(process, bucket, false);
            }
            // Whether it is charged is not known before the write has ended, so that is the last of it.
            Payer::Table(debited) => {
                lease.corrections = 0;
                let mut all = [0; NAMES.len()];
                all[slot] = tokens;
                self.correct_table(lease, bucket, all, Change::Charged, debited);
            }
            other => part.payments.add(other, slot as u32, tokens),
        }
        let now = self.now;
        self.trace.note(now, process, [bucket as u64, 1], || {
            format!("adjusts by {tokens} of bucket {bucket}")
        });
    }

    /// A lease consumes more of the entity's own first limit, if the block has it, whatever has paid before.
    fn consume_more(&mut self, lease: &mut Lease, tokens: u64) {
        let process = lease.caller.process;
        let part = &mut lease.parts[0];
        let p = &mut self.processes[process];
        let seat = p.seat(part.bucket);
        let (bucket, expires_at) = (seat.bucket.clone(), seat.expires_at);
        let consume = [(NAMES[0], tokens)];
        let Ok(paid) = bucket.take(&p.clock, &Request::new(&lease.limits, &consume)) else {
            return;
        };
        part.payments.add(Payer::Block(paid.generation), 0, tokens);
        part.paid[0] += tokens;
        p.pool(part.bucket, 0).consumed += i128::from(tokens);
        if paid.hint {
            self.told.push_back((process, bucket.bucket().clone()));
        }
        let (bucket, now) = (part.bucket, self.now);
        if now >= expires_at {
            self.violated(format!(
                "process {process} consumes an expired block of {bucket}"
            ));
        }
        let admitted = self.ledgers.admit(bucket, 0, now, tokens);
        self.check(admitted);
        self.settle(process, bucket, false);
    }

    /// A lease gives back half of each limit, or all.
    fn give_back(&mut self, lease: &mut Lease, at: usize, all: bool) {
        let (process, limits) = (lease.caller.process, lease.limits.clone());
        for slot in 0..limits.len() {
            let part = &mut lease.parts[at];
            let has = part.payments.tokens(slot as u32);
            let tokens = if all { has } else { has.div_ceil(2) };
            for payment in part.payments.take_back(slot as u32, tokens) {
                let part = &mut lease.parts[at];
                let tokens = payment.charges.tokens(slot as u32);
                let paid = matches!(payment.payer, Payer::Block(_) | Payer::Table(_));
                let charged = if paid {
                    tokens.min(part.charged[slot])
                } else {
                    0
                };
                part.charged[slot] -= charged;
                let bucket = part.bucket;
                if paid && part.paid[slot] < tokens {
                    self.violated(format!(
                        "{tokens} go back to bucket {bucket} that it has not paid"
                    ));
                    return;
                }
                part.paid[slot] -= if paid { tokens } else { 0 };
                match payment.payer {
                    Payer::Block(generation) => {
                        let back = (slot, tokens, charged);
                        self.give_back_to_block(lease, bucket, generation, back);
                    }
                    Payer::Table(debited) => {
                        let (mut back, mut of_charged) = ([0; NAMES.len()], [0; NAMES.len()]);
                        (back[slot], of_charged[slot]) = (tokens, charged);
                        let change = Change::GivenBack(of_charged);
                        self.correct_table(lease, bucket, back, change, debited);
                    }
                    Payer::Nobody | Payer::Share(_) => {}
                }
            }
        }
        let bucket = lease.parts[at].bucket;
        let now = self.now;
        self.trace.note(now, process, [bucket as u64, 0], || {
            format!(
                "gives back {} of bucket {bucket}",
                if all { "all" } else { "half" }
            )
        });
        self.ring(process, bucket);
    }

    /// Of the tokens of a limit that go back, so many were `charged` afterwards, and never admitted.
    fn give_back_to_block(
        &mut self,
        lease: &Lease,
        bucket: usize,
        generation: u32,
        (slot, tokens, charged): (usize, u64, u64),
    ) {
        let (process, limits) = (lease.caller.process, &lease.limits);
        let again = self.ledgers.is_made_again(bucket, slot, lease.since);
        let p = &mut self.processes[process];
        let known = p.seat(bucket).bucket.clone();
        let before = p.holds(bucket)[slot] - i128::from(p.credits(bucket)[slot]);
        p.pool(bucket, slot).consumed -= i128::from(tokens);
        let charges = Charges::of(slot as u32, tokens);
        let tell = known.give_back(&p.clock, Payer::Block(generation), limits, &charges);
        // What the block takes back can be admitted again at once; the rest when it has reached the table, or
        // never, if the item is gone that was debited.
        let after = p.holds(bucket)[slot] - i128::from(p.credits(bucket)[slot]);
        let at_once = u64::try_from(after - before).unwrap_or_default();
        p.pool(bucket, slot).credit_of_charged += charged.saturating_sub(at_once);
        (self.ledgers).give_back(bucket, slot, at_once.saturating_sub(charged));
        if tell {
            self.told.push_back((process, known.bucket().clone()));
        }
        self.settle(process, bucket, again);
    }
}

/// How a lease is corrected that the table has paid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Change {
    /// It costs more.
    Charged,
    /// Some of it is given back, of which so many tokens were charged afterwards, and never admitted.
    GivenBack([u64; NAMES.len()]),
}
