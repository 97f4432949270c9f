//! What a bucket keeps under its lock: the limits, what is held of each, and the books.

use std::sync::Arc;

use smallvec::SmallVec;

use super::{Paid, Shortage};
use crate::books::Books;
use crate::line::Line;
use crate::request::{Charges, LIMITS_MAX, Request, fingerprint};
use crate::sabotage::Sabotage;
use crate::{Limit, MonotonicTime, Tick, ValidationError};

/// One limit of a bucket that is in use.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Slot {
    /// Spendable until the block expires.
    pub(crate) stock: u64,
    /// Below it, the reconciler is told.
    pub(crate) low_water: u64,
    /// Of the stock, what is in the purse while nobody holds the lock.
    pub(super) in_purse: u64,
    /// Consumed since the last write that reported it.
    pub(crate) spent: u64,
    /// Asked for, and refused or waited for, since demand was last observed.
    pub(crate) refused: u64,
    /// Until then a miss is a refusal,
    pub(crate) denied_until: MonotonicTime,
    /// of so many tokens or more: fewer than the table has refused may be there,
    pub(crate) denied_from: u64,
    /// and of no more than this: for more than what is scheduled the table has to be asked.
    pub(crate) denied_to: u64,
}

impl Slot {
    /// Whether so many tokens would be refused, if they are not in hand.
    pub(crate) fn denies(&self, now: MonotonicTime, tokens: u64) -> bool {
        now < self.denied_until && (self.denied_from..=self.denied_to).contains(&tokens)
    }

    /// Whether nothing is held of it, and nothing is to be told of it.
    fn is_empty(&self) -> bool {
        self.stock == 0 && self.spent == 0 && self.refused == 0
    }
}

#[derive(Debug)]
pub(crate) struct State {
    pub(crate) limits: Arc<[Limit]>,
    /// None: nothing is held, nothing is owed, nobody has asked for a while.
    pub(crate) active: Option<Box<Active>>,
    /// Counts blocks; a refund goes to the block that paid, or else to the table.
    generation: u32,
    /// The reconciler has been told, and has not looked yet.
    pub(crate) hinted: bool,
    /// Who waits. Meanwhile nothing is in the purse.
    pub(crate) line: Option<Box<Line>>,
}

/// What a bucket needs while it is in use.
#[derive(Debug)]
pub(crate) struct Active {
    pub(crate) limits: Arc<[Limit]>,
    pub(crate) slots: SmallVec<[Slot; 2]>,
    /// When the block stops being spendable.
    pub(crate) expires_at: MonotonicTime,
    pub(crate) expires_tick: Tick,
    pub(crate) generation: u32,
    pub(crate) books: Books,
}

impl State {
    pub(super) fn new(limits: Arc<[Limit]>) -> Self {
        Self {
            limits,
            active: None,
            generation: 0,
            hinted: false,
            line: None,
        }
    }

    /// What the bucket needs while it is in use, from now on.
    pub(crate) fn active(&mut self) -> &mut Active {
        let (limits, generation) = (&self.limits, self.generation);
        self.active.get_or_insert_with(|| {
            Box::new(Active {
                slots: limits.iter().map(|_| Slot::default()).collect(),
                books: Books::new(limits.len()),
                limits: limits.clone(),
                expires_at: MonotonicTime::ZERO,
                expires_tick: Tick::default(),
                generation,
            })
        })
    }

    /// The bucket is not in use any more.
    pub(crate) fn rest(&mut self) {
        if let Some(active) = self.active.take() {
            self.generation = active.generation.wrapping_add(1);
        }
    }

    /// Counts the times that the bucket was not in use; none if it is.
    pub(crate) fn rest_number(&self) -> Option<u32> {
        self.active.is_none().then_some(self.generation)
    }

    pub(crate) fn ask_for_a_look(&mut self) -> bool {
        !std::mem::replace(&mut self.hinted, true)
    }

    pub(crate) fn slot(&self, limit: &str) -> Option<usize> {
        self.limits.iter().position(|known| known.name() == limit)
    }

    /// The slots and amounts of a request; none if a limit is not known with these terms.
    pub(crate) fn resolve(&self, request: &Request<'_>) -> Option<Charges> {
        if fingerprint(&self.limits) == request.fingerprint() {
            return request.charges();
        }
        if !request
            .limits()
            .iter()
            .all(|limit| self.limits.contains(limit))
        {
            return None;
        }
        let mut charges = Charges::default();
        for (name, amount) in request.consume() {
            let slot = self.limits.iter().position(|limit| limit.name() == *name)?;
            charges.push(slot as u32, *amount);
        }
        Some(charges)
    }

    pub(super) fn check(
        &mut self,
        now: MonotonicTime,
        request: &Request<'_>,
    ) -> Result<Charges, Shortage> {
        let charges = self.resolve(request).ok_or(Shortage::Undeclared)?;
        let needed = self.needed(request, &charges);
        let Some(active) = self.active.as_deref_mut() else {
            let nothing = charges.iter().all(|(_, tokens)| tokens == 0);
            return if nothing {
                Ok(charges)
            } else {
                Err(Shortage::Miss)
            };
        };
        if active.has(now, &needed) || active.release(now) && active.has(now, &needed) {
            return Ok(charges);
        }
        Err(active.shortage(now, &charges, &needed))
    }

    pub(super) fn spend(&mut self, charges: &Charges) -> Paid {
        let mut low = false;
        let mut generation = self.generation;
        if let Some(active) = self.active.as_deref_mut() {
            generation = active.generation;
            for (slot, tokens) in charges.iter() {
                let slot = &mut active.slots[slot as usize];
                slot.stock -= tokens.min(slot.stock);
                slot.spent += tokens;
                low |= slot.stock < slot.low_water;
            }
        }
        Paid {
            generation,
            hint: low && self.ask_for_a_look(),
        }
    }

    /// A limit that somebody owes or is owed of is known, even if nobody declares it any more.
    pub(super) fn know(&mut self, limit: &Limit) -> bool {
        if self.slot(limit.name()).is_some() {
            return true;
        }
        self.active();
        self.declare(&[limit.clone()].into()).is_ok()
    }

    pub(crate) fn declare(&mut self, limits: &Arc<[Limit]>) -> Result<(), ValidationError> {
        self.make_room(limits)?;
        let Some(active) = self.active.as_deref_mut() else {
            self.limits = limits.clone();
            return Ok(());
        };
        let mut merged = self.limits.to_vec();
        for limit in limits.iter() {
            match merged.iter().position(|known| known.name() == limit.name()) {
                Some(at) if merged[at] == *limit => {}
                Some(at) => {
                    merged[at] = limit.clone();
                    active.recall(at);
                }
                None => {
                    merged.push(limit.clone());
                    active.slots.push(Slot::default());
                    active.books.account(merged.len() - 1);
                }
            }
        }
        let same = merged[..] == limits[..];
        self.limits = if same { limits.clone() } else { merged.into() };
        active.limits = self.limits.clone();
        Ok(())
    }

    /// One write changes all limits of a bucket, so there is an end to their number.
    fn make_room(&mut self, limits: &[Limit]) -> Result<(), ValidationError> {
        let Some(active) = self.active.as_deref_mut() else {
            return Ok(());
        };
        let declared = |known: &Limit| limits.iter().any(|limit| limit.name() == known.name());
        let others = |known: &[Limit]| known.iter().filter(|known| !declared(known)).count();
        if others(&self.limits) + limits.len() > LIMITS_MAX {
            self.limits = active.forget_unused(declared);
        }
        match others(&self.limits) + limits.len() {
            all if all > LIMITS_MAX => {
                let known: Vec<_> = self.limits.iter().map(Limit::name).collect();
                let names: Vec<_> = limits.iter().map(Limit::name).collect();
                let rule = format!(
                    "would be {all} limits in one bucket, which holds at most {LIMITS_MAX}; in use \
                     are {}, and each until some ten seconds after its last use",
                    known.join(", ")
                );
                Err(ValidationError::new("limits", names.join(", "), rule))
            }
            _ => Ok(()),
        }
    }
}

impl Active {
    fn has(&self, now: MonotonicTime, charges: &Charges) -> bool {
        let live = now < self.expires_at || Sabotage::ExpiredSpent.is_planted();
        charges
            .iter()
            .all(|(slot, tokens)| tokens == 0 || live && self.slots[slot as usize].stock >= tokens)
    }

    fn shortage(&mut self, now: MonotonicTime, charges: &Charges, needed: &Charges) -> Shortage {
        let denied = needed.iter().any(|(slot, tokens)| {
            let slot = &self.slots[slot as usize];
            // An expired block that would do is given back and may be had again.
            slot.denies(now, tokens) && slot.stock < tokens
        });
        if denied {
            for (slot, tokens) in charges.iter() {
                self.slots[slot as usize].refused += tokens;
            }
            Shortage::Refused
        } else if now < self.books.unavailable_until {
            Shortage::Unavailable
        } else {
            Shortage::Miss
        }
    }

    /// Moves what the schedules have released into the stock.
    pub(crate) fn release(&mut self, now: MonotonicTime) -> bool {
        let mut any = false;
        for (slot, account) in self.slots.iter_mut().zip(&mut self.books.accounts) {
            let fresh = account.schedule.release(now);
            slot.stock += fresh;
            any |= fresh > 0;
        }
        any
    }

    /// Forgets the limits of which nothing is held, owed or asked for any more, but for those that
    /// are to be `kept`. Returns those that are left.
    fn forget_unused(&mut self, kept: impl Fn(&Limit) -> bool) -> Arc<[Limit]> {
        // A write under way and hours to be reported tell limits by their places.
        if self.books.is_writing() || !self.books.past.is_empty() {
            return self.limits.clone();
        }
        let mut left = self.limits.to_vec();
        for at in (0..left.len()).rev() {
            let (slot, account) = (&self.slots[at], &self.books.accounts[at]);
            if slot.is_empty() && account.is_unused() && !kept(&left[at]) {
                left.remove(at);
                self.slots.remove(at);
                self.books.accounts.remove(at);
            }
        }
        self.limits = left.into();
        self.limits.clone()
    }

    /// Takes what is held of a limit out of circulation, to be given back.
    pub(crate) fn recall(&mut self, at: usize) {
        let slot = &mut self.slots[at];
        let stock = std::mem::take(&mut slot.stock);
        slot.low_water = 0;
        slot.denied_until = MonotonicTime::ZERO;
        let account = self.books.account(at);
        account.recalled += stock + account.schedule.cancel(u64::MAX);
        let flight = self.books.flight.as_mut();
        if let Some(flight) = flight.and_then(|flight| flight.slots.get_mut(at)) {
            flight.outdated = true;
        }
        self.generation = self.generation.wrapping_add(1);
    }
}
