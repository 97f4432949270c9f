//! What callers do with their leases: more, less, or nothing after all, at bad moments.

use std::sync::Arc;

use zae_limiter::Limit;
use zae_limiter_core::Charges;

use super::acquire::Caller;
use super::random::NAMES;
use super::recovery::Measure;
use super::report::Fault;
use super::scenario::Nanos;
use super::world::{Event, World};

/// Who paid for a part of a lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Payer {
    /// The block of this generation.
    Block(u32),
    /// The table itself.
    Table,
}

/// A lease that is not just dropped.
#[derive(Debug)]
pub(super) struct Lease {
    caller: Caller,
    incarnation: u64,
    payers: [Option<Payer>; 2],
    limits: Arc<[Limit]>,
    end: End,
    /// When that is.
    pub(super) at: Nanos,
}

/// What becomes of a lease.
#[derive(Clone, Copy, Debug)]
enum End {
    Adjusted(u64),
    Released,
    RolledBack,
}

impl World<'_> {
    /// Somebody was admitted; perhaps that was not the last of it.
    pub(super) fn keep_lease(&mut self, caller: &Caller, payers: [Option<Payer>; 2]) {
        if self.calm {
            return;
        }
        let leases = self.scenario.leases;
        let chance = self.rng.u32(..1_000);
        let p = &self.processes[caller.process];
        let end = if chance < leases.adjusted {
            let burst = p.limits[0].burst_tokens();
            End::Adjusted(self.rng.u64(1..=caller.tokens[0] * 4 + burst / 8))
        } else if chance < leases.adjusted + leases.released {
            End::Released
        } else if chance < leases.adjusted + leases.released + leases.rolled_back {
            End::RolledBack
        } else {
            return;
        };
        let scenario = self.scenario;
        let after = match self.rng.u32(..4) {
            0 => 0,
            1 => self.rng.u64(..=3 * scenario.latency),
            2 => self.rng.u64(..=2 * scenario.renewal()),
            // Just before, or just after, the block has expired.
            _ => {
                let seat = p.seats[caller.child].as_ref();
                let expires = seat.map_or(0, |seat| seat.expires_at).max(self.now);
                let around = self.rng.u64(..=2 * scenario.latency);
                (expires - self.now + around).saturating_sub(scenario.latency)
            }
        };
        let at = self.now + after;
        let lease = Lease {
            caller: *caller,
            incarnation: p.incarnation,
            payers,
            limits: scenario.limits[caller.version].clone(),
            end,
            at,
        };
        let number = self.leases.insert(lease);
        self.plan(at, Event::Afterwards(caller.process, number));
    }

    pub(super) fn afterwards(&mut self, number: usize) {
        let lease = self.leases.remove(number);
        if self.processes[lease.caller.process].incarnation != lease.incarnation {
            return;
        }
        let tokens = match lease.end {
            End::Adjusted(tokens) => {
                self.count(Fault::IntoDebt);
                [tokens, 0]
            }
            End::Released => {
                self.count(Fault::Released);
                lease.caller.tokens.map(|tokens| tokens.div_ceil(2))
            }
            End::RolledBack => {
                self.count(Fault::RolledBack);
                lease.caller.tokens
            }
        };
        let more = matches!(lease.end, End::Adjusted(_));
        if more {
            Measure::adjusted(self, &lease.caller, tokens);
        }
        for (bucket, payer) in lease.caller.buckets().zip(lease.payers) {
            match payer {
                Some(Payer::Block(generation)) => {
                    self.correct_block(&lease, bucket, generation, tokens, more);
                }
                Some(Payer::Table) => {
                    let limits = lease.limits.clone();
                    self.correct_table(lease.caller.process, bucket, limits, tokens, more);
                }
                None => {}
            }
        }
    }

    fn correct_block(
        &mut self,
        lease: &Lease,
        bucket: usize,
        generation: u32,
        tokens: [u64; NAMES.len()],
        more: bool,
    ) {
        let process = lease.caller.process;
        let p = &mut self.processes[process];
        let known = p.seat(bucket).bucket.clone();
        let before = p.credits(bucket);
        let mut charges = Charges::default();
        let mut tell = false;
        for (slot, limit) in lease.limits.iter().enumerate() {
            let tokens = tokens[slot];
            if tokens == 0 {
                continue;
            }
            let pool = p.pool(bucket, slot);
            if more {
                pool.consumed += i128::from(tokens);
                tell |= known.charge_anyway(&p.clock, limit, tokens).hint;
            } else {
                pool.consumed -= i128::from(tokens);
                charges = charges.with(slot as u32, tokens);
            }
        }
        if !more {
            tell |= known.give_back(&p.clock, Some(generation), &lease.limits, &charges);
            // What the block takes back can be admitted again at once; the rest when it has
            // reached the table.
            let after = p.credits(bucket);
            for slot in 0..lease.limits.len() {
                let refunded = tokens[slot] - (after[slot] - before[slot]);
                self.ledgers.give_back(bucket, slot, refunded);
            }
        }
        if tell {
            self.told.push_back((process, known.bucket().clone()));
        }
        let at = self.now;
        self.trace
            .note(at, process, [bucket as u64, u64::from(more)], || {
                let what = if more { "adjusts by" } else { "gives back" };
                format!("{what} {tokens:?} of bucket {bucket}, generation {generation}")
            });
        self.settle(process, bucket, false);
        if !more {
            self.ring(process, bucket);
        }
    }
}
