//! The write that renews a block: it gives back what is unspent, takes the next block, and settles debts and
//! credits, as one net change. What is asked for ([`Ask`]), and what came of it ([`Settled`]).

use std::time::Duration;

use smallvec::SmallVec;

use super::item::BucketItem;
use super::plan::{self, Holding, Plan, Returned, RingEntry, Transfer};
use super::{Kernel, Now, Trickle};
use crate::sabotage::Sabotage;
use crate::{Limit, MonotonicTime};

/// What a policy asks for of one limit. Nothing of it is trusted: it is clamped to what may be had.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ask {
    /// Tokens to be spent at once.
    pub stock: u64,
    /// Tokens of the coming refill, to be spent as they flow in.
    pub trickle: u64,
    /// Over which time they are released.
    pub over: Duration,
    /// How far the block may run ahead of the refill.
    pub ahead: Duration,
    /// The demand to report, in thousandths of a token per second.
    pub demand_milli: i64,
    /// Whether it is reported even if nothing is held.
    pub reports: bool,
    /// Whether callers want tokens of this limit: then its terms are in force.
    pub in_demand: bool,
    /// Tokens that others have probably taken since the bucket was seen. A guess: it decides which write
    /// is tried first, never what a write may do.
    pub others_took: u64,
}

/// What a write tells the table beside what it moves, for one limit.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Report {
    /// Net consumption, in tokens.
    pub(crate) consumed: i64,
    /// Demand of direct acquires, in thousandths of a token per second.
    pub(crate) direct_milli: i64,
}

/// A write that was applied, and what the process holds by it.
#[derive(Clone, Debug)]
pub struct Settled {
    /// When it was planned.
    pub planned_at: MonotonicTime,
    /// When the block expires.
    pub expires_at: MonotonicTime,
    /// Limit by limit.
    pub limits: SmallVec<[SettledLimit; 2]>,
}

/// What came of an [`Ask`].
#[derive(Clone, Copy, Debug)]
pub struct SettledLimit {
    /// Tokens that were debited to be spent at once.
    pub stock: u64,
    /// Tokens of the coming refill that were debited.
    pub trickle: u64,
    /// Tokens of the block before that were given back, those that were debited again included.
    pub gave_back: u64,
    /// Tokens that are held now.
    pub held: u64,
    /// When the last of the trickle is released.
    pub trickle_end: MonotonicTime,
}

/// A write under way.
#[derive(Debug)]
pub(super) struct InFlight {
    planned_at: MonotonicTime,
    only_converts: bool,
    limits: SmallVec<[LimitInFlight; 2]>,
}

#[derive(Clone, Copy, Debug, Default)]
pub(super) struct LimitInFlight {
    /// What the next block is to be.
    stock: u64,
    trickle: u64,
    over: Duration,
    /// Of what is held, what is kept in any case, and what is given back.
    kept: u64,
    pub(super) surplus: u64,
    pub(super) spent: u64,
    pub(super) owed: u64,
    credited: u64,
    revoked: u64,
    entry: Option<RingEntry>,
    /// Whether other terms have been declared since it was planned.
    outdated: bool,
}

impl LimitInFlight {
    /// What it brings beyond what is held already.
    pub(super) fn brings(&self) -> u64 {
        self.stock + self.trickle - self.kept
    }
}

/// What the write under way does once it is applied, summed over the limits of a bucket, in tokens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WriteEffect {
    /// What it gives back.
    pub returned: u64,
    /// What it debits, beyond what is held already.
    pub debited: u64,
    /// Consumption that it reports.
    pub reported: i64,
}

impl InFlight {
    /// What it would bring or give back belongs to an item that is gone.
    pub(super) fn bring_nothing(&mut self) {
        for limit in &mut self.limits {
            let (spent, owed) = (limit.spent, limit.owed);
            *limit = LimitInFlight {
                spent,
                owed,
                ..LimitInFlight::default()
            };
        }
    }
}

/// How a write that was applied has ended.
pub(crate) enum Applied {
    /// It has brought the stored terms up to date, and nothing else: the transfers need another.
    Converted,
    /// The block is as if freshly granted.
    Settled(Settled),
}

impl Kernel {
    /// `tokens` of the block, on their way back.
    pub(crate) fn returned(
        &self,
        now: MonotonicTime,
        at: usize,
        lease_ttl: Duration,
        tokens: u64,
    ) -> Returned {
        Returned {
            tokens,
            revoked: self.accounts[at].revoked,
            held_for: now.since(self.expires_at.before(lease_ttl)),
        }
    }

    /// The write that makes what is asked for, as far as it may be; what it gives back is out of circulation
    /// from now on. None if there is nothing to write: credits for a bucket that is gone.
    pub(crate) fn plan(
        &mut self,
        now: Now,
        lease_ttl: Duration,
        limits: &[Limit],
        asks: &[Ask],
        reports: &[Report],
    ) -> Option<Plan> {
        self.release(now.monotonic);
        // What was given back while a write was under way that was to pay for it, and did not, cancels debt.
        for account in &mut self.accounts {
            let both = account.debt.min(account.credit);
            account.debt -= both;
            account.credit -= both;
        }
        let mut in_flight: SmallVec<[LimitInFlight; 2]> = SmallVec::new();
        let mut transfers: SmallVec<[Transfer<'_>; 2]> = SmallVec::new();
        for (at, limit) in limits.iter().enumerate() {
            let ask = self.clamp(now, at, limit, lease_ttl, asks[at]);
            let (transfer, flight) = self.transfer(now, at, limit, lease_ttl, &ask);
            transfers.push(Transfer {
                consumed: reports[at].consumed,
                direct_milli: reports[at].direct_milli,
                ..transfer
            });
            in_flight.push(flight);
        }
        let mut plan = plan::plan(&self.seen, now.wall, &transfers)?;
        plan.write.incarnation = plan.write.incarnation.or(self.lineage.incarnation);
        if !plan.only_converts {
            for ((account, f), entry) in self
                .accounts
                .iter_mut()
                .zip(&mut in_flight)
                .zip(&plan.entries)
            {
                f.entry = *entry;
                let unreleased = account.trickle.cancel(f.surplus);
                if !Sabotage::ReturnForgotten.is_planted() {
                    account.stock -= (f.surplus - unreleased).min(account.stock);
                }
            }
            self.lineage.begin_generation();
        }
        self.in_flight = Some(Box::new(InFlight {
            planned_at: now.monotonic,
            only_converts: plan.only_converts,
            limits: in_flight,
        }));
        Some(plan)
    }

    /// What may be had of what is asked for.
    fn clamp(&self, now: Now, at: usize, limit: &Limit, lease_ttl: Duration, ask: Ask) -> Ask {
        let found = self.seen.limit(limit.name());
        let entry = self.accounts[at].entry;
        let most = plan::block_max(limit, found, now.wall, entry, lease_ttl);
        let stock = ask.stock.min(most);
        let demand_max = limit.terms().refill_amount.saturating_mul(1_000);
        let demand_max = demand_max.div_ceil(limit.terms().refill_period_seconds);
        Ask {
            stock,
            trickle: ask.trickle.min(most - stock),
            over: ask.over.min(lease_ttl),
            ahead: ask.ahead.min(lease_ttl),
            demand_milli: ask.demand_milli.clamp(0, demand_max.cast_signed()),
            ..ask
        }
    }

    /// What a write does to a limit that makes what is asked for, and what it means here.
    fn transfer<'a>(
        &self,
        now: Now,
        at: usize,
        limit: &'a Limit,
        lease_ttl: Duration,
        ask: &Ask,
    ) -> (Transfer<'a>, LimitInFlight) {
        let account = &self.accounts[at];
        let (unspent, taken) = (account.unspent(), ask.stock + ask.trickle);
        // A process that has never held anything leaves the ring alone, unless the others are to know of it.
        let enters = taken > 0 || account.entry.is_some() || ask.reports;
        let transfer = Transfer {
            take: taken,
            owe: account.debt,
            give: unspent + account.credit + account.revoked,
            returned: self.returned(now.monotonic, at, lease_ttl, unspent),
            others_took: ask.others_took,
            in_demand: ask.in_demand,
            trickle: ask.trickle,
            in_hand: self.in_hand(now.monotonic, at).min(ask.stock),
            spent: account.spent,
            ahead: ask.ahead,
            holding: enters.then_some(Holding {
                lease_ttl,
                tokens: taken,
                demand_milli: ask.demand_milli,
                entered: account.entry,
            }),
            ..Transfer::new(limit)
        };
        let flight = LimitInFlight {
            stock: ask.stock,
            trickle: ask.trickle,
            over: ask.over,
            kept: unspent.min(taken),
            surplus: unspent.saturating_sub(taken),
            spent: account.spent,
            owed: account.debt,
            credited: account.credit,
            revoked: account.revoked,
            ..LimitInFlight::default()
        };
        (transfer, flight)
    }

    /// What the write under way does to a limit: nothing if there is none, if it only converts, or if the
    /// limit was declared since then.
    pub(super) fn under_way(&self, at: usize) -> LimitInFlight {
        let flight = self.in_flight.as_ref().filter(|f| !f.only_converts);
        let limit = flight.and_then(|flight| flight.limits.get(at).copied());
        limit.unwrap_or_default()
    }

    /// What the write under way does once it is applied: nothing if there is none, or it only converts.
    pub(crate) fn in_flight(&self) -> WriteEffect {
        let mut sum = WriteEffect::default();
        for f in (0..self.accounts.len()).map(|at| self.under_way(at)) {
            sum.returned += f.surplus + f.credited + f.revoked;
            sum.debited += f.brings() + f.owed;
        }
        sum
    }

    /// What the write under way brings of a limit is of other terms.
    pub(super) fn outdate(&mut self, at: usize) {
        let flight = self.in_flight.as_mut();
        if let Some(flight) = flight.and_then(|flight| flight.limits.get_mut(at)) {
            flight.outdated = true;
        }
    }

    /// The write under way was applied, and left `item`; none if there was none.
    pub(crate) fn applied(
        &mut self,
        now: Now,
        lease_ttl: Duration,
        limits: &[Limit],
        item: BucketItem,
    ) -> Option<Applied> {
        let mut flight = self.in_flight.take()?;
        let late = now.monotonic.since(flight.planned_at);
        let late = late > plan::flight_max(lease_ttl) && late < lease_ttl;
        if flight.only_converts && now.monotonic >= self.expires_at {
            self.revoke_converted(limits);
        }
        let incarnation = Some(item.incarnation);
        self.saw(now.monotonic, flight.planned_at, Some(item));
        if self.lineage.incarnation != incarnation {
            flight.bring_nothing();
            for (account, f) in self.accounts.iter_mut().zip(&flight.limits) {
                account.credit -= f.owed.min(account.credit); // of the debt that it has paid
            }
        }
        if flight.only_converts {
            return Some(Applied::Converted);
        }
        let settled = self.land(now, lease_ttl, limits, &flight, late);
        Some(Applied::Settled(settled))
    }

    /// Revokes what has expired of limits that the write has converted: after it the table says what this
    /// process declares, and no more that the block was granted under other terms than it had.
    fn revoke_converted(&mut self, limits: &[Limit]) {
        for (at, limit) in limits.iter().enumerate() {
            let found = self.seen.limit(limit.name());
            if found.is_some_and(|found| found.terms != *limit.terms()) {
                self.revoke(at);
            }
        }
    }

    /// The block is as if freshly granted, less what it has brought too much: because its write was on its
    /// way for longer than its guards allow for.
    fn land(
        &mut self,
        now: Now,
        lease_ttl: Duration,
        limits: &[Limit],
        flight: &InFlight,
        late: bool,
    ) -> Settled {
        self.expires_at = flight.planned_at.after(lease_ttl);
        let mut settled = SmallVec::new();
        for (at, f) in flight.limits.iter().enumerate() {
            let found = self.seen.limit(limits[at].name());
            let account = &mut self.accounts[at];
            account.settle(f);
            account.debt -= f.owed.min(account.debt);
            account.entry = f.entry;
            let excess = found
                .filter(|_| late)
                .map_or(0, |found| plan::excess(found, now.wall));
            let held = (account.unspent() + f.brings()).saturating_sub(excess);
            let pending = f.trickle.min(held);
            let mut trickle = Trickle::new(flight.planned_at, f.over, pending);
            if let Some(found) = found {
                let (first, last) = plan::flows_in(found, now.wall, lease_ttl, pending);
                trickle.delay(now.monotonic.after(first), now.monotonic.after(last));
            }
            account.trickle = trickle;
            account.stock = held - pending;
            settled.push(SettledLimit {
                stock: f.stock,
                trickle: f.trickle,
                gave_back: f.kept + f.surplus,
                held,
                trickle_end: trickle.end(),
            });
        }
        for (at, f) in flight.limits.iter().enumerate() {
            if f.outdated {
                self.revoke(at);
            }
        }
        Settled {
            planned_at: flight.planned_at,
            expires_at: self.expires_at,
            limits: settled,
        }
    }

    /// A guard of the write under way did not hold; this was found.
    pub(crate) fn refused(&mut self, now: MonotonicTime, found: Option<BucketItem>) {
        let flight = self.in_flight.as_ref();
        let sent = flight.map_or(now, |flight| flight.planned_at);
        self.not_applied();
        self.saw(now, sent, found);
    }

    /// The write under way was not applied: what it would have given back is still here.
    pub(crate) fn not_applied(&mut self) {
        let Some(flight) = self.in_flight.take().filter(|f| !f.only_converts) else {
            return;
        };
        for (account, f) in self.accounts.iter_mut().zip(&flight.limits) {
            if f.outdated {
                account.revoked += f.surplus;
            } else {
                account.stock += f.surplus;
            }
        }
    }

    /// The write under way may have been applied. Then the process holds the new block, else the old one:
    /// what is in both is kept, for as long as the old one lives; a credit is never repeated, a debit is.
    pub(crate) fn may_have_been_applied(&mut self) {
        let Some(flight) = self.in_flight.take().filter(|f| !f.only_converts) else {
            return;
        };
        for (account, f) in self.accounts.iter_mut().zip(&flight.limits) {
            let credit = account.credit;
            account.settle(f);
            if Sabotage::CreditRetried.is_planted() {
                account.credit = credit;
            }
            if Sabotage::DebtDropped.is_planted() {
                account.debt -= f.owed.min(account.debt);
            }
            account.entry = f.entry.map(RingEntry::in_doubt);
        }
    }
}

impl super::Account {
    /// What a write has told the table, or may have: it is not told again.
    fn settle(&mut self, f: &LimitInFlight) {
        self.spent -= f.spent.min(self.spent);
        self.credit -= f.credited.min(self.credit);
        self.revoked -= f.revoked.min(self.revoked);
    }
}
