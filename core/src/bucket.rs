//! A cached bucket: what this process holds of one (entity, resource), behind one lock.
//!
//! The hot path is [`BucketRef::hit`]: a hit is paid from the bucket's purse without the lock, the
//! I/O, or an allocation. All else happens under the lock. What the reconciler does with the same
//! state is in [`crate::renewal`].

use std::ops::{Deref, DerefMut};
use std::sync::Arc;

use parking_lot::{Mutex, MutexGuard};
use smallvec::SmallVec;

use crate::books::Books;
use crate::item::BucketItem;
use crate::line::Line;
use crate::plan::Seen;
use crate::purse::{Filling, LANE_MAX, LANES, OwnPurse, PurseRef};
use crate::request::{Charges, LIMITS_MAX, Request, fingerprint};
use crate::sabotage::Sabotage;
use crate::{BucketKey, Clock, Limit, MonotonicTime, Tick, ValidationError};

/// A request that was paid from the block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Paid {
    /// Which block paid.
    pub generation: u32,
    /// Whether the block runs low: tell the reconciler.
    pub hint: bool,
}

/// Why a request was not paid from the block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shortage {
    /// The table has said no not long ago, and cannot have changed its mind.
    Refused,
    /// The table has to be asked.
    Miss,
    /// The table could not be asked not long ago.
    Unavailable,
    /// The bucket does not know these limits; [`Bucket::declare`] them.
    Undeclared,
}

/// One limit of a bucket that is in use.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Slot {
    /// Spendable until the block expires.
    pub(crate) stock: u64,
    /// Below it, the reconciler is told.
    pub(crate) low_water: u64,
    /// Of the stock, what is in the purse while nobody holds the lock.
    in_purse: u64,
    /// Consumed since the last write that reported it.
    pub(crate) spent: u64,
    /// Asked for, and refused or waited for, since demand was last observed.
    pub(crate) refused: u64,
    /// Until then a miss is a refusal,
    pub(crate) denied_until: MonotonicTime,
    /// of so many tokens or more: fewer than the table has refused may be there.
    pub(crate) denied_from: u64,
}

impl Slot {
    /// Whether so many tokens would be refused, if they are not in hand.
    pub(crate) fn denies(&self, now: MonotonicTime, tokens: u64) -> bool {
        now < self.denied_until && tokens >= self.denied_from
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

/// A cached bucket.
#[derive(Debug)]
pub struct Bucket {
    purse: OwnPurse,
    key: BucketKey,
    /// Guards all that changes, but for the purse. Two buckets are locked at once only by
    /// [`Bucket::lock_both`], the one at the lower address first. Nothing foreign is called
    /// while it is held.
    state: Mutex<State>,
}

/// The state under its lock. What was spent from the purse is in the slots; it goes back to the
/// purse when the guard is dropped.
pub(crate) struct Locked<'a> {
    purse: &'a OwnPurse,
    state: MutexGuard<'a, State>,
}

impl Deref for Locked<'_> {
    type Target = State;
    fn deref(&self) -> &State {
        &self.state
    }
}

impl DerefMut for Locked<'_> {
    fn deref_mut(&mut self) -> &mut State {
        &mut self.state
    }
}

impl Drop for Locked<'_> {
    fn drop(&mut self) {
        let state = &mut *self.state;
        let mut filling = Filling {
            fingerprint: fingerprint(&state.limits),
            ..Filling::default()
        };
        let waiting = state.line.is_some();
        if let Some(active) = state.active.as_deref_mut() {
            filling.generation = active.generation;
            let told = state.hinted || active.books.is_writing();
            for (lane, slot) in active.slots.iter_mut().take(LANES).enumerate() {
                slot.in_purse = if waiting { 0 } else { slot.stock.min(LANE_MAX) };
                slot.stock -= slot.in_purse;
                filling.tokens[lane] = slot.in_purse;
                filling.low_water[lane] = if told { 0 } else { slot.low_water };
            }
            filling.expires = active.expires_tick;
        }
        self.purse.fill(&filling);
    }
}

/// A shared bucket, and the way to its purse that does not lead through it. Cheap to clone.
#[derive(Clone, Debug)]
pub struct BucketRef {
    purse: PurseRef,
    bucket: Arc<Bucket>,
}

impl BucketRef {
    pub(crate) fn new(bucket: Bucket) -> Self {
        Self {
            purse: bucket.purse.share(),
            bucket: Arc::new(bucket),
        }
    }

    /// The bucket itself.
    #[must_use]
    pub fn bucket(&self) -> &Arc<Bucket> {
        &self.bucket
    }

    /// Takes the tokens of a valid `request` from the purse, if it can: one compare-and-swap, no
    /// lock, no I/O, no await, no allocation. Only the first two limits have a place in the
    /// purse.
    #[inline(always)]
    #[must_use]
    pub fn hit(&self, clock: &Clock, request: &Request<'_>) -> Option<Hit> {
        let lanes = request.lanes()?;
        let payment = self.purse.pay(clock.tick(), request.fingerprint(), lanes)?;
        Some(Hit {
            lanes,
            generation: payment.generation,
            hint: payment.low && self.bucket.runs_low(),
        })
    }

    /// Takes the tokens of a valid `request` from the block, all of them or none.
    ///
    /// # Errors
    /// The [`Shortage`], if the block cannot pay; then nothing is taken.
    #[inline]
    pub fn take(&self, clock: &Clock, request: &Request<'_>) -> Result<Paid, Shortage> {
        match self.hit(clock, request) {
            Some(hit) => Ok(Paid {
                generation: hit.generation,
                hint: hit.hint,
            }),
            None => self.bucket.take_under_lock(clock, request),
        }
    }
}

/// A request that was paid from the purse.
#[derive(Clone, Copy, Debug)]
pub struct Hit {
    lanes: u64,
    /// Which block paid.
    pub generation: u32,
    /// Whether the block runs low: tell the reconciler.
    pub hint: bool,
}

impl Hit {
    /// What was taken, in the order of the request's limits.
    #[must_use]
    pub fn charges(&self) -> Charges {
        Charges::of_lanes(self.lanes)
    }
}

impl Deref for BucketRef {
    type Target = Bucket;
    fn deref(&self) -> &Bucket {
        &self.bucket
    }
}

impl Bucket {
    /// A bucket of which this process holds nothing.
    pub(crate) fn new(purse: OwnPurse, key: BucketKey, limits: Arc<[Limit]>) -> Self {
        Self {
            purse,
            key,
            state: Mutex::new(State {
                limits,
                active: None,
                generation: 0,
                hinted: false,
                line: None,
            }),
        }
    }

    pub(crate) fn lock(&self) -> Locked<'_> {
        let mut state = self.state.lock();
        let left = self.purse.empty();
        if let Some(active) = state.active.as_deref_mut() {
            for (slot, left) in active.slots.iter_mut().zip(left) {
                slot.stock += left;
                slot.spent += slot.in_purse - left;
                slot.in_purse = 0;
            }
        }
        Locked {
            purse: &self.purse,
            state,
        }
    }

    /// Both locks, this bucket's first.
    pub(crate) fn lock_both<'a>(&'a self, other: &'a Self) -> (Locked<'a>, Locked<'a>) {
        debug_assert!(
            !std::ptr::eq(self, other),
            "an entity is not its own parent"
        );
        if std::ptr::from_ref(self) < std::ptr::from_ref(other) {
            let mine = self.lock();
            (mine, other.lock())
        } else {
            let theirs = other.lock();
            (self.lock(), theirs)
        }
    }

    /// Which bucket it is.
    #[must_use]
    pub fn key(&self) -> &BucketKey {
        &self.key
    }

    /// The limits as they were last declared.
    #[must_use]
    pub fn limits(&self) -> Arc<[Limit]> {
        self.state.lock().limits.clone()
    }

    /// A payment has left the block low: is the reconciler to be told?
    #[cold]
    fn runs_low(&self) -> bool {
        self.lock().ask_for_a_look()
    }

    #[cold]
    fn take_under_lock(&self, clock: &Clock, request: &Request<'_>) -> Result<Paid, Shortage> {
        let now = clock.now();
        let mut state = self.lock();
        let charges = state.check(now, request)?;
        Ok(state.spend(&charges))
    }

    /// Takes the tokens of two valid requests from two buckets, or from neither.
    ///
    /// # Errors
    /// The [`Shortage`] of each that cannot pay; then nothing is taken from either.
    pub fn take_both(
        &self,
        request: &Request<'_>,
        other: &Self,
        others_request: &Request<'_>,
        clock: &Clock,
    ) -> Result<[Paid; 2], [Option<Shortage>; 2]> {
        let (mut mine, mut theirs) = self.lock_both(other);
        let now = clock.now();
        match (mine.check(now, request), theirs.check(now, others_request)) {
            (Ok(a), Ok(b)) => Ok([mine.spend(&a), theirs.spend(&b)]),
            (Ok(a), Err(b)) if Sabotage::HalfCascade.is_planted() => {
                mine.spend(&a);
                Err([None, Some(b)])
            }
            (a, b) => Err([a.err(), b.err()]),
        }
    }

    /// Makes `limits` known to the bucket. A limit of the same name is replaced; what is held
    /// under other terms is given back by the next renewal. Other limits stay, while they are in use.
    ///
    /// # Errors
    /// [`ValidationError`] if that would be more than [`LIMITS_MAX`]; then none becomes known.
    pub fn declare(&self, limits: &Arc<[Limit]>) -> Result<(), ValidationError> {
        self.lock().declare(limits)
    }

    /// Whether the bucket knows the limits charged, or can come to know them. If not, it can
    /// neither owe nor be owed of them.
    #[must_use]
    pub fn has_room_for(&self, limits: &[Limit], charges: &Charges) -> bool {
        let mut state = self.lock();
        charges
            .iter()
            .all(|(at, _)| state.know(&limits[at as usize]))
    }

    /// Charges tokens of `limit` whatever the block holds: the rest is owed to the table.
    ///
    /// Returns whether the reconciler is to be told.
    pub fn charge_anyway(&self, clock: &Clock, limit: &Limit, tokens: u64) -> bool {
        let now = clock.now();
        let mut state = self.lock();
        let _ = state.know(limit);
        let Some(slot) = state.slot(limit.name()) else {
            return false;
        };
        let active = state.active();
        let live = now < active.expires_at;
        let s = &mut active.slots[slot];
        let paid = if live { s.stock.min(tokens) } else { 0 };
        s.stock -= paid;
        s.spent += tokens;
        active.books.account(slot).debt += tokens - paid;
        paid < tokens && state.ask_for_a_look()
    }

    /// Gives tokens of an earlier charge, by the order of `limits`, back: to the block that paid
    /// if it is still the same, to the table with the next renewal otherwise.
    ///
    /// Returns whether the reconciler is to be told.
    pub fn give_back(
        &self,
        clock: &Clock,
        generation: Option<u32>,
        limits: &[Limit],
        charges: &Charges,
    ) -> bool {
        let now = clock.now();
        let mut state = self.lock();
        let charged = charges.iter().map(|(at, _)| &limits[at as usize]);
        for limit in charged {
            let _ = state.know(limit);
        }
        let slots: SmallVec<[_; 2]> = charges
            .iter()
            .filter_map(|(at, tokens)| Some((state.slot(limits[at as usize].name())?, tokens)))
            .collect();
        let active = state.active();
        let same = Some(active.generation) == generation && now < active.expires_at;
        for (slot, tokens) in slots {
            let s = &mut active.slots[slot];
            s.denied_until = MonotonicTime::ZERO;
            let refunded = if same { tokens.min(s.spent) } else { 0 };
            s.stock += refunded;
            s.spent -= refunded;
            let account = active.books.account(slot);
            account.credit += tokens - refunded;
            account.taken_back += tokens - refunded;
        }
        !same && state.ask_for_a_look()
    }

    /// Registers what a caller is waiting for. Returns whether the reconciler is to be told.
    pub fn want(&self, request: &Request<'_>) -> bool {
        let mut state = self.lock();
        let Some(charges) = state.resolve(request) else {
            return false;
        };
        let needed = state.needed(request, &charges);
        let active = state.active();
        for (slot, tokens) in charges.iter() {
            active.slots[slot as usize].refused += tokens;
            let ahead = needed.tokens(slot) - tokens;
            active.books.account(slot as usize).want(tokens, ahead);
        }
        state.ask_for_a_look()
    }

    /// Registers what a caller asked for in vain who does not wait: that is demand as well, and
    /// the next block is to have it.
    pub fn missed(&self, request: &Request<'_>) {
        let mut state = self.lock();
        if let Some(charges) = state.resolve(request) {
            let active = state.active();
            for (slot, tokens) in charges.iter() {
                active.slots[slot as usize].refused += tokens;
            }
        }
    }

    /// The item as it was last seen in the table.
    #[must_use]
    pub fn seen(&self) -> Seen {
        let state = self.state.lock();
        let active = state.active.as_ref();
        active.map_or(Seen::Never, |active| active.books.seen.clone())
    }

    /// Remembers what a strict write that was sent at `sent` found or left in the table. Returns
    /// whether the reconciler is to be told.
    pub fn saw(&self, clock: &Clock, sent: MonotonicTime, item: Option<BucketItem>) -> bool {
        let now = clock.now();
        let mut state = self.lock();
        let fresh = state.active.is_none();
        let books = &mut state.active().books;
        // Of answers to writes that were under way at once, the last to come may be the oldest.
        let sequence = |item: Option<&BucketItem>| item.map_or(0, |item| item.sequence);
        let newer = sequence(item.as_ref()) >= sequence(books.seen.item());
        if newer || books.seen_at <= sent {
            books.saw(now, item, 0);
        }
        fresh && state.ask_for_a_look()
    }
}

impl State {
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

    fn check(&mut self, now: MonotonicTime, request: &Request<'_>) -> Result<Charges, Shortage> {
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

    fn spend(&mut self, charges: &Charges) -> Paid {
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
    fn know(&mut self, limit: &Limit) -> bool {
        if self.slot(limit.name()).is_some() {
            return true;
        }
        self.active();
        self.declare(&[limit.clone()].into()).is_ok()
    }

    fn declare(&mut self, limits: &Arc<[Limit]>) -> Result<(), ValidationError> {
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
