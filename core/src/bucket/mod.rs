//! A cached bucket: what this process holds of one (entity, resource), behind one lock.
//!
//! The hot path is [`BucketRef::hit`] in `shared.rs`: a hit is paid from the bucket's fast balance without
//! the lock, the I/O, or an allocation. All else happens under the lock, on the state in `state.rs`; what
//! there is of a bucket in use, in `active.rs`. Here is only what passes the lock.

mod active;
mod demand_meter;
mod shared;
mod state;
#[cfg(test)]
mod tests;

use std::ops::{Deref, DerefMut};
use std::sync::Arc;

use smallvec::SmallVec;

use self::active::Active;
pub use self::active::Unsettled;
pub use self::shared::{BucketRef, Hit};
use self::state::State;
use crate::estimate::Knowledge;
use crate::fast_balance::{COUNTER_MAX, COUNTERS, Filling, OwnedFastBalance};
use crate::kernel::item::BucketItem;
use crate::kernel::plan::Seen;
use crate::kernel::{Now, Payer, Position, WriteEffect};
use crate::local::{LocalLevel, local_time};
use crate::policy::DemandReports;
use crate::renewal::{Outcome, Reason, RenewalSettings, Step, Why};
use crate::request::{Charges, Request, Ticket, fingerprint};
use crate::sabotage::Sabotage;
use crate::sync::{Mutex, MutexGuard};
use crate::{BucketKey, Clock, Limit, MonotonicTime, Share, ValidationError};

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
    balance: OwnedFastBalance,
    key: BucketKey,
    /// Guards all that changes, but for the fast balance. Two buckets are locked at once only by
    /// [`Bucket::lock_both`], the one at the lower address first. Nothing foreign is called
    /// while it is held.
    state: Mutex<State>,
}

/// The state under its lock. What was left in the fast balance is in the stock; it goes back to the fast balance when
/// the guard is dropped.
struct Locked<'a> {
    balance: &'a OwnedFastBalance,
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
        let withheld = state.closed || state.wait_queue.is_some();
        if let Some(active) = state.active.as_deref_mut() {
            filling.generation = active.kernel.lineage().generation();
            let told = state.hinted || active.kernel.is_writing();
            for at in 0..active.limits.len().min(COUNTERS) {
                let most = if withheld { 0 } else { COUNTER_MAX };
                filling.tokens[at] = active.kernel.lend(at, most);
                filling.low_water[at] = if told { 0 } else { active.low_water(at) };
            }
            filling.expires = active.expires_tick;
        }
        self.balance.fill(&filling);
    }
}

impl Bucket {
    /// A bucket of which this process holds nothing.
    pub(crate) fn new(balance: OwnedFastBalance, key: BucketKey, limits: Arc<[Limit]>) -> Self {
        Self {
            balance,
            key,
            state: Mutex::new(State::new(limits)),
        }
    }

    fn lock(&self) -> Locked<'_> {
        let mut state = self.state.lock();
        let left = self.balance.empty();
        if let Some(active) = state.active.as_deref_mut() {
            for (at, left) in (0..active.limits.len()).zip(left) {
                let spent = active.kernel.take_in(at, left);
                if spent > 0 {
                    active.paid(at, spent);
                }
            }
        }
        Locked {
            balance: &self.balance,
            state,
        }
    }

    /// Both locks, this bucket's first.
    fn lock_both<'a>(&'a self, other: &'a Self) -> (Locked<'a>, Locked<'a>) {
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

    /// Makes `limits` known to the bucket. A limit of the same name is replaced; what is held
    /// under other terms is given back by the next renewal. Other limits stay, while they are in use.
    ///
    /// # Errors
    /// [`ValidationError`] if that would be more than [`LIMITS_MAX`](crate::LIMITS_MAX); then none becomes known.
    pub fn declare(&self, limits: &Arc<[Limit]>) -> Result<(), ValidationError> {
        self.lock().declare(limits)
    }
}

/// Payments from the block, and what callers do with them afterwards.
impl Bucket {
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
        Ok(state.pay(now, &charges))
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
            (Ok(a), Ok(b)) => Ok([mine.pay(now, &a), theirs.pay(now, &b)]),
            (Ok(a), Err(b)) if Sabotage::HalfCascade.is_planted() => {
                mine.pay(now, &a);
                Err([None, Some(b)])
            }
            (a, b) => Err([a.err(), b.err()]),
        }
    }

    /// Whether the bucket knows the limits charged, or can come to know them. If not, it can
    /// neither owe nor be owed of them.
    #[must_use]
    pub fn has_room_for(&self, limits: &[Limit], charges: &Charges) -> bool {
        let mut state = self.lock();
        let mut charges = charges.iter();
        charges.all(|(at, _)| state.register(&limits[at as usize]).is_some())
    }

    /// Charges tokens of `limit` whatever the block holds: the rest is owed to the table.
    ///
    /// Returns which block has paid, and whether the reconciler is to be told.
    pub fn charge_anyway(&self, clock: &Clock, limit: &Limit, tokens: u64) -> Paid {
        let now = clock.now();
        let mut state = self.lock();
        let Some(at) = state.register(limit) else {
            return Paid::default();
        };
        let active = state.active();
        let owes = active.charge(now, at, tokens);
        Paid {
            generation: active.kernel.lineage().generation(),
            hint: owes && state.ask_for_a_look(),
        }
    }

    /// Gives tokens of an earlier charge, by the order of `limits`, back to its payer: what is owed is cancelled
    /// first, then they go to the block that paid if it is still the same, and to the table with the next
    /// renewal otherwise, unless the item that was debited is gone.
    ///
    /// Returns whether the reconciler is to be told.
    pub fn give_back(
        &self,
        clock: &Clock,
        payer: Payer,
        limits: &[Limit],
        charges: &Charges,
    ) -> bool {
        let now = clock.now();
        let mut state = self.lock();
        let mut slots: SmallVec<[(usize, u64); 2]> = SmallVec::new();
        for (at, tokens) in charges.iter() {
            if let Some(at) = state.register(&limits[at as usize]) {
                slots.push((at, tokens));
            }
        }
        let active = state.active();
        for (at, tokens) in slots {
            active.give_back(now, at, payer, tokens);
        }
        !active.kernel.is_settled() && state.ask_for_a_look()
    }

    /// Registers what a caller is waiting for. Returns whether the reconciler is to be told.
    pub fn want(&self, request: &Request<'_>) -> bool {
        let mut state = self.lock();
        state.want(request);
        state.ask_for_a_look()
    }

    /// All waiting callers are about to be woken: each checks for itself, and [wants](Self::want) anew.
    pub fn wake(&self) {
        if let Some(active) = self.lock().active.as_deref_mut() {
            active.meter.wake();
        }
    }

    /// Registers what a caller that does not wait asked for in vain: that is demand as well, and
    /// the next block is to have it.
    pub fn missed(&self, request: &Request<'_>) {
        let mut state = self.lock();
        if let Some(charges) = state.resolve(request) {
            let active = state.active();
            for (at, tokens) in charges.iter() {
                active.meter.refused(at as usize, tokens);
            }
        }
    }

    /// What is known about each limit without asking the table, and how long the tokens of
    /// `request` will take. What others wait for in the queue is as good as gone.
    #[must_use]
    pub fn knowledge(&self, clock: &Clock, request: &Request<'_>) -> Vec<(Limit, Knowledge)> {
        self.lock().knowledge(now(clock), request)
    }

    /// Calls `see` with each limit and what is held of it, and when the block expires; not at all
    /// while the bucket is not in use. For tests that keep books of their own.
    pub fn positions(&self, mut see: impl FnMut(&Limit, Position, MonotonicTime)) {
        let state = self.lock();
        let Some(active) = state.active.as_deref() else {
            return;
        };
        for (at, limit) in active.limits.iter().enumerate() {
            see(
                limit,
                active.kernel.position(at),
                active.kernel.expires_at(),
            );
        }
    }
}

/// The queue of waiting callers.
impl Bucket {
    /// A caller begins to wait for what `request` asks for. Until
    /// [`leave_queue`](Self::leave_queue), only a holder of this ticket or of one from before may take
    /// that ([`Request::with_ticket`]).
    pub fn join_queue(&self, request: &Request<'_>) -> Ticket {
        self.lock().wait_queue.get_or_insert_default().join(request)
    }

    /// A caller does not wait any longer.
    pub fn leave_queue(&self, ticket: Ticket) {
        let mut state = self.lock();
        if state
            .wait_queue
            .as_mut()
            .is_some_and(|queue| !queue.leave(ticket))
        {
            state.wait_queue = None;
        }
    }

    /// What is claimed before `request`, of its limits, in their order.
    #[must_use]
    pub fn ahead_of(&self, request: &Request<'_>) -> Charges {
        let state = self.lock();
        let mut ahead = Charges::default();
        for (slot, limit) in request.limits().iter().enumerate() {
            ahead.push(slot as u32, state.ahead_of(request, limit.name()));
        }
        ahead
    }
}

/// The reconciler.
impl Bucket {
    /// Looks at the bucket: is a write due?
    pub fn check(&self, clock: &Clock, settings: &RenewalSettings, why: Why) -> Step {
        let now = now(clock);
        let mut state = self.lock();
        state.hinted = false;
        let step = match state.active.as_deref_mut() {
            Some(active) => active.check(now, settings, why),
            None => Step::Idle,
        };
        state.follow(step, now, settings)
    }

    /// Takes in how the write of the last [`Step::Write`] ended; says what comes next. Callers who wait
    /// are to be woken, and ask again.
    pub fn complete(
        &self,
        clock: &Clock,
        settings: &RenewalSettings,
        why: Why,
        outcome: Outcome,
    ) -> Step {
        let now = now(clock);
        let mut state = self.lock();
        state.hinted = false;
        let Some(active) = state.active.as_deref_mut() else {
            return Step::Idle;
        };
        let step = active.complete(now, settings, why, outcome);
        active.expires_tick = clock.tick_before(active.kernel.expires_at());
        state.follow(step, now, settings)
    }

    /// The table can be reached again: whatever pause the bucket was in is over.
    pub fn resume(&self) {
        if let Some(active) = self.lock().active.as_deref_mut() {
            active.pauses.resume();
        }
    }

    /// A shutdown has begun, whose deadline is in `settings`: the bucket pays for nothing any more.
    /// A pause that it is in ends no later than the first one of a shutdown, however rare renewals
    /// are.
    pub fn close(&self, clock: &Clock, settings: &RenewalSettings) {
        let mut state = self.lock();
        state.closed = true;
        if let Some(active) = state.active.as_deref_mut() {
            active.pauses.close(clock.now(), settings);
        }
    }

    /// What is open between this process and the table. What the write under way settles counts
    /// as open.
    #[must_use]
    pub fn unsettled(&self) -> Unsettled {
        let state = self.lock();
        let active = state.active.as_deref();
        active.map_or_else(Unsettled::default, Active::unsettled)
    }

    /// What the write under way does once it is applied; nothing if there is none.
    #[must_use]
    pub fn in_flight(&self) -> WriteEffect {
        let state = self.lock();
        let active = state.active.as_deref();
        active.map_or_else(WriteEffect::default, Active::in_flight)
    }

    /// Why the bucket cannot be asked for, if it is in a pause after a failure.
    #[must_use]
    pub fn trouble(&self, clock: &Clock) -> Option<Reason> {
        let state = self.lock();
        state.active.as_deref()?.pauses.trouble(clock.now())
    }

    /// Counts the times that the bucket was not in use; none if it is.
    #[must_use]
    pub fn idle_generation(&self) -> Option<u32> {
        self.lock().idle_generation()
    }
}

/// Direct acquires, which are writes of their own.
impl Bucket {
    /// The item as it was last seen in the table.
    #[must_use]
    pub fn seen(&self) -> Seen {
        let state = self.state.lock();
        let active = state.active.as_ref();
        active.map_or(Seen::Never, |active| active.kernel.seen().clone())
    }

    /// Which incarnation of the item was last seen.
    #[must_use]
    pub fn incarnation(&self) -> Option<u64> {
        self.state.lock().lineage().incarnation()
    }

    /// Remembers what a direct write that was sent at `sent` found or left in the table. Returns
    /// whether the reconciler is to be told.
    pub fn saw(&self, clock: &Clock, sent: MonotonicTime, item: Option<BucketItem>) -> bool {
        let now = now(clock);
        let mut state = self.lock();
        let fresh = state.active.is_none();
        let active = state.active();
        active.saw(now.monotonic, sent, item);
        (fresh || active.is_reconciler_to_report(now.wall)) && state.ask_for_a_look()
    }

    /// An acquire asks the table for `charges`, which count by the order of `limits`; those become known.
    pub fn record_demand(&self, clock: &Clock, limits: &Arc<[Limit]>, charges: &Charges) {
        let mut state = self.lock();
        if !limits.iter().all(|limit| state.limits.contains(limit)) {
            // The demand for more than there is room for is not reported.
            let _ = state.declare(limits);
        }
        let now = clock.now();
        for (at, tokens) in charges.iter() {
            let Some(at) = state.slot(limits[at as usize].name()) else {
                continue;
            };
            // A bucket that is not in use is not to be in use for that.
            if let Some(active) = state.active.as_deref_mut() {
                active.record_demand(at, now, tokens);
            }
        }
    }

    /// What the next write of an acquire is to report, in the order of `charges`.
    #[must_use]
    pub fn report_demand(
        &self,
        clock: &Clock,
        limits: &[Limit],
        charges: &Charges,
    ) -> DemandReports {
        let mut state = self.lock();
        let now = clock.now();
        let mut report = |(at, charged): (u32, u64)| {
            let at = state.slot(limits[at as usize].name())?;
            let active = state.active.as_deref_mut()?;
            active.report_demand(at, now, charged)
        };
        charges.iter().map(&mut report).collect()
    }

    /// The write of an acquire that was to report demand has ended.
    pub fn acknowledge_demand(
        &self,
        limits: &[Limit],
        charges: &Charges,
        reports: &DemandReports,
        applied: bool,
    ) {
        let mut state = self.lock();
        for ((at, _), report) in charges.iter().zip(reports) {
            let at = state.slot(limits[at as usize].name());
            let active = state.active.as_deref_mut();
            if let (Some(report), Some(at), Some(active)) = (report, at, active) {
                active.direct.acknowledge(at, report, applied);
            }
        }
    }

    /// Whether the reconciler is to be told, because it has to report demand.
    #[must_use]
    pub fn is_reconciler_to_report(&self, clock: &Clock) -> bool {
        let mut state = self.lock();
        let active = state.active.as_deref();
        let reports = active.is_some_and(|active| active.is_reconciler_to_report(clock.wall()));
        reports && state.ask_for_a_look()
    }
}

/// This process's share of the limits, while the table cannot be asked.
impl Bucket {
    /// Takes the tokens of a valid `request` from this process's share. The limits have to be
    /// declared.
    pub fn take_share(&self, request: &Request<'_>, clock: &Clock, share: Share) -> bool {
        let now = local_time(clock);
        let mut mine = self.lock();
        let paid = mine.share_of(now, request, share);
        paid.map(|charges| mine.charge_share(now, &charges, share))
            .is_some()
    }

    /// Takes the tokens of two valid requests from this process's shares of two buckets, or from
    /// neither.
    pub fn take_both_shares(
        &self,
        request: &Request<'_>,
        other: &Self,
        others_request: &Request<'_>,
        clock: &Clock,
        share: Share,
    ) -> bool {
        let now = local_time(clock);
        let (mut mine, mut theirs) = self.lock_both(other);
        let charges = (
            mine.share_of(now, request, share),
            theirs.share_of(now, others_request, share),
        );
        let (Some(a), Some(b)) = charges else {
            return false;
        };
        mine.charge_share(now, &a, share);
        theirs.charge_share(now, &b, share);
        true
    }

    /// Takes tokens of `limit` from this process's share, whatever it has.
    pub fn charge_share(&self, clock: &Clock, limit: &str, tokens: u64, share: Share) {
        let mut state = self.lock();
        if let Some(at) = state.slot(limit) {
            state.charge_share(local_time(clock), &Charges::of(at as u32, tokens), share);
        }
    }

    /// Gives tokens, by the order of `limits`, back to this process's share.
    pub fn give_share_back(
        &self,
        clock: &Clock,
        limits: &[Limit],
        charges: &Charges,
        share: Share,
    ) {
        let (mut state, now) = (self.lock(), local_time(clock));
        for (at, tokens) in charges.iter() {
            if let Some(at) = state.slot(limits[at as usize].name()) {
                let active = state.active();
                let terms = *active.limits[at].terms();
                (active.local).charge(at, now, &terms, share, -tokens.cast_signed());
            }
        }
    }

    /// What this process has of its share, for a request that it could not pay.
    pub fn share_levels(
        &self,
        clock: &Clock,
        request: &Request<'_>,
        share: Share,
    ) -> Vec<LocalLevel> {
        (self.lock()).share_levels(local_time(clock), request, share)
    }
}

/// The time, on both clocks.
fn now(clock: &Clock) -> Now {
    Now {
        monotonic: clock.now(),
        wall: clock.wall(),
    }
}
