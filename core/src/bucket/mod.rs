//! A cached bucket: what this process holds of one (entity, resource), behind one lock.
//!
//! The hot path is [`BucketRef::hit`] in `shared.rs`: a hit is paid from the bucket's purse without
//! the lock, the I/O, or an allocation. All else happens under the lock, on the state in `state.rs`.
//! What the reconciler does with the same state is in [`crate::renewal`].

mod shared;
mod state;

use std::ops::{Deref, DerefMut};
use std::sync::Arc;

use parking_lot::{Mutex, MutexGuard};
use smallvec::SmallVec;

pub use self::shared::{BucketRef, Hit};
pub(crate) use self::state::{Active, Slot, State};
use crate::item::BucketItem;
use crate::plan::Seen;
use crate::purse::{Filling, LANE_MAX, LANES, OwnPurse};
use crate::request::{Charges, Request, fingerprint};
use crate::sabotage::Sabotage;
use crate::{BucketKey, Clock, Limit, MonotonicTime, ValidationError};

/// A request that was paid from the block.
#[derive(Default, Clone, Copy, Debug, PartialEq, Eq)]
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

impl Bucket {
    /// A bucket of which this process holds nothing.
    pub(crate) fn new(purse: OwnPurse, key: BucketKey, limits: Arc<[Limit]>) -> Self {
        Self {
            purse,
            key,
            state: Mutex::new(State::new(limits)),
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
    /// [`ValidationError`] if that would be more than [`LIMITS_MAX`](crate::LIMITS_MAX); then none becomes known.
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
    /// Returns which block has paid, and whether the reconciler is to be told.
    pub fn charge_anyway(&self, clock: &Clock, limit: &Limit, tokens: u64) -> Paid {
        let now = clock.now();
        let mut state = self.lock();
        let _ = state.know(limit);
        let Some(slot) = state.slot(limit.name()) else {
            return Paid::default();
        };
        let active = state.active();
        let live = now < active.expires_at;
        let s = &mut active.slots[slot];
        let paid = if live { s.stock.min(tokens) } else { 0 };
        s.stock -= paid;
        s.spent += tokens;
        let account = active.books.account(slot);
        account.debt += tokens - paid;
        // It was not asked for in a moment.
        account.observed_spent += tokens;
        account.late += tokens;
        let generation = active.generation;
        let hint = paid < tokens && state.ask_for_a_look();
        Paid { generation, hint }
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
            let (owed, reported) = active.books.under_way(slot);
            let s = &mut active.slots[slot];
            s.denied_until = MonotonicTime::ZERO;
            let account = active.books.account(slot);
            // What was charged beyond the block is owed before anything is stock.
            let cancelled = tokens.min(account.debt.saturating_sub(owed));
            account.debt -= cancelled;
            let unreported = s.spent.saturating_sub(reported);
            let to_block = if same {
                (tokens - cancelled).min(unreported.saturating_sub(cancelled))
            } else {
                0
            };
            s.stock += to_block;
            account.credit += tokens - cancelled - to_block;
            let unspent = (cancelled + to_block).min(unreported);
            s.spent -= unspent;
            account.taken_back += tokens - unspent;
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

    /// All who wait are about to be woken: each looks for himself, and [wants](Self::want) anew.
    pub fn wake(&self) {
        if let Some(active) = self.lock().active.as_deref_mut() {
            active.books.wake();
        }
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
        let active = state.active();
        let books = &mut active.books;
        // Of answers to writes that were under way at once, the last to come may be the oldest.
        let sequence = |item: Option<&BucketItem>| item.map_or(0, |item| item.sequence);
        let newer = sequence(item.as_ref()) >= sequence(books.seen.item());
        if newer || books.seen_at <= sent {
            books.saw(now, item, 0);
        }
        (fresh || active.has_untold(clock.wall())) && state.ask_for_a_look()
    }
}
