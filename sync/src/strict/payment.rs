//! What a strict acquire writes, as a pure state machine: outcomes in, writes out.
//!
//! [`BucketPayment`] makes one change of one bucket, planned anew until it is right.
//! [`Payment`] debits an entity's bucket and its parent's, both or neither. Neither knows how a
//! write is made, nor what time it is.

use std::sync::Arc;

use smallvec::SmallVec;
use zae_limiter_core::item::{BucketItem, BucketWrite};
use zae_limiter_core::plan::{self, Seen, Transfer};
use zae_limiter_core::policy::DemandReports;
use zae_limiter_core::{
    BucketRef, Charges, Clock, Limit, MonotonicTime, Payer, WallTime, estimate,
};

use crate::store::{StoreError, StoreErrorKind, WriteOutcome};

/// How often a write is planned anew. The second plan is right unless the bucket went from full
/// to not full, or its terms changed, in the very moment.
const TRIES_MAX: u32 = 16;

/// Why a write is not known to have happened.
#[derive(Debug)]
pub enum NotWritten {
    /// The bucket does not hold the tokens.
    Exceeded {
        /// What was found.
        found: Option<BucketItem>,
        /// The time by which it was judged.
        at: WallTime,
    },
    /// The table did not do it; none if every plan was stale when it arrived.
    Failed(Option<Arc<StoreError>>),
    /// The table may have done it.
    InDoubt(Arc<StoreError>),
}

impl NotWritten {
    /// What kept the table from answering.
    #[must_use]
    pub fn failure(self) -> Option<Arc<StoreError>> {
        match self {
            Self::Exceeded { .. } => None,
            Self::Failed(error) => error,
            Self::InDoubt(error) => Some(error),
        }
    }
}

/// What is done to a bucket.
///
/// See the example of [`BucketPayment`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// The tokens are taken, if all are there.
    Debit,
    /// The tokens are taken whatever is there: into debt if need be.
    DebitAnyway,
    /// The tokens are given back to the incarnation of the item that was debited, if that is known. At most
    /// once: what may have reached the table is not repeated.
    Credit(Option<u64>),
}

impl Change {
    fn is_credit(self) -> bool {
        matches!(self, Self::Credit(_))
    }

    /// What the item was that was debited, where tokens are given back.
    fn debited(self) -> Option<u64> {
        match self {
            Self::Credit(debited) => debited,
            Self::Debit | Self::DebitAnyway => None,
        }
    }
}

/// What is to be done next.
///
/// See the example of [`BucketPayment`].
#[derive(Debug)]
pub enum Next {
    /// Make this write, and report how it ended.
    Write(BucketRef, BucketWrite),
    /// The table is throttled: wait a moment, the longer the higher this number.
    Pause(u32),
    /// It is over.
    Done(Result<(), NotWritten>),
}

/// One change of one bucket.
///
/// ```
/// use std::sync::Arc;
/// use zae_limiter::store::WriteOutcome;
/// use zae_limiter::strict::{BucketPayment, Change, Due, Next};
/// use zae_limiter::{Clock, Limit};
/// use zae_limiter_core::item::BucketItem;
/// use zae_limiter_core::{BucketCache, Charges};
///
/// let (clock, _hands) = Clock::manual();
/// let limits: Arc<[Limit]> = [Limit::per_minute("rpm", 100)?].into();
/// let bucket = BucketCache::new().get_or_insert("user", "api", &limits)?;
/// let due = Due::new(bucket, limits, Charges::of(0, 5));
/// let mut payment = BucketPayment::new(&clock, Change::Debit, due);
/// let Next::Write(_, write) = payment.next(&clock) else {
///     panic!("a debit is one write");
/// };
/// let mut table = None; // where a store would be
/// let left = BucketItem::apply(&mut table, &write).expect("a full bucket");
/// payment.done(&clock, WriteOutcome::Applied(left));
/// assert!(matches!(payment.next(&clock), Next::Done(Ok(()))));
/// # Ok::<(), zae_limiter::Error>(())
/// ```
#[derive(Debug)]
pub struct BucketPayment {
    due: Due,
    change: Change,
    seen: Seen,
    asked_at: WallTime,
    planned_at: WallTime,
    sent: MonotonicTime,
    only_converts: bool,
    /// What the write under way reports of direct demand.
    reports: DemandReports,
    tries: u32,
    throttled: u32,
    pausing: bool,
    result: Option<Result<(), NotWritten>>,
}

impl BucketPayment {
    /// A change of the bucket that is due.
    ///
    /// See the example of [`BucketPayment`].
    #[must_use]
    pub fn new(clock: &Clock, change: Change, due: Due) -> Self {
        if change == Change::Debit {
            due.record_demand(clock);
        }
        Self::counted(clock, change, due)
    }

    /// The same, where what it asks for has been counted.
    fn counted(clock: &Clock, change: Change, due: Due) -> Self {
        let now = clock.wall();
        Self {
            seen: due.bucket.seen(),
            due,
            change,
            asked_at: now,
            planned_at: now,
            sent: clock.now(),
            only_converts: false,
            reports: DemandReports::new(),
            tries: 0,
            throttled: 0,
            pausing: false,
            result: None,
        }
    }

    /// What it does to each limit.
    fn transfers(&self) -> SmallVec<[Transfer<'_>; 2]> {
        let mut transfers = self.due.transfers(self.change, self.asked_at);
        let found = |limit: &Limit| self.seen.item()?.limit(limit.name());
        for (transfer, direct) in transfers.iter_mut().zip(&self.reports) {
            let direct = direct.zip(found(transfer.limit));
            transfer.direct_milli =
                direct.map_or(0, |(direct, found)| direct.milli(found, self.planned_at));
        }
        transfers
    }

    /// The next write, or how it ended.
    ///
    /// See the example of [`BucketPayment`].
    pub fn next(&mut self, clock: &Clock) -> Next {
        if let Some(result) = self.result.take() {
            return Next::Done(result);
        }
        if std::mem::take(&mut self.pausing) {
            return Next::Pause(self.throttled - 1);
        }
        self.tries += 1;
        self.planned_at = clock.wall();
        if self.change == Change::Debit && self.seen.item().is_none() {
            // A bucket that is not there is full; even so, it may hold too little beside the wait queue.
            let fits = |t: &Transfer<'_>| estimate::fits(None, self.planned_at, t);
            if !self.transfers().iter().all(fits) {
                let at = self.planned_at;
                return Next::Done(Err(NotWritten::Exceeded { found: None, at }));
            }
        }
        self.sent = clock.now();
        if self.change == Change::Debit {
            self.reports = self.due.report_demand(clock);
        }
        let debited = self.change.debited();
        let seen = self.seen.item().filter(|_| debited.is_some());
        if seen.is_some_and(|item| !Payer::Table(debited).debited(item)) {
            return Next::Done(Ok(())); // it was debited from an item that is gone
        }
        let Some(mut plan) = plan::plan(&self.seen, self.planned_at, &self.transfers()) else {
            return Next::Done(Ok(())); // nothing to do, or a credit for a bucket that is gone
        };
        plan.write.incarnation = plan.write.incarnation.or(debited);
        self.only_converts = plan.only_converts;
        Next::Write(self.due.bucket.clone(), plan.write)
    }

    /// Takes in how the last write ended. Returns whether the reconciler is to be told of the
    /// bucket.
    ///
    /// See the example of [`BucketPayment`].
    pub fn done(&mut self, clock: &Clock, outcome: WriteOutcome) -> bool {
        // As with a renewal: what may have been reported is not reported again.
        let applied = matches!(outcome, WriteOutcome::Applied(_) | WriteOutcome::Unknown(_));
        self.acknowledge_demand(applied && !self.only_converts);
        let look = match outcome {
            WriteOutcome::Applied(item) => {
                if !self.only_converts {
                    self.result = Some(Ok(()));
                }
                self.seen = Seen::Item(item.clone());
                self.due.bucket.saw(clock, self.sent, Some(item))
            }
            WriteOutcome::Refused(found) => {
                let at = self.planned_at;
                let fits = |t: &Transfer<'_>| t.take == 0 || estimate::fits(found.as_ref(), at, t);
                let fits = self.transfers().iter().all(fits);
                if !fits {
                    let found = found.clone();
                    self.result = Some(Err(NotWritten::Exceeded { found, at }));
                }
                self.seen = found.clone().into();
                self.due.bucket.saw(clock, self.sent, found)
            }
            WriteOutcome::Failed(error)
                if error.kind() == StoreErrorKind::Throttled && !self.change.is_credit() =>
            {
                // It was not done, so it may be done again; the caller's deadline ends that.
                self.throttled += 1;
                self.pausing = true;
                self.tries -= 1;
                false
            }
            WriteOutcome::Failed(error) => self.fail(clock, Some(Arc::new(error))),
            WriteOutcome::Unknown(error) => {
                self.result = Some(Err(NotWritten::InDoubt(Arc::new(error))));
                false
            }
        };
        // Others were faster each time.
        let given_up = self.result.is_none() && self.tries == TRIES_MAX;
        given_up && self.fail(clock, None) || look
    }

    /// Which incarnation of the item was last seen.
    #[must_use]
    pub fn incarnation(&self) -> Option<u64> {
        self.seen.item().map(|item| item.incarnation)
    }

    /// The write that was to report demand has ended.
    fn acknowledge_demand(&mut self, applied: bool) {
        let reports = std::mem::take(&mut self.reports);
        if reports.iter().any(Option::is_some) {
            let Due {
                bucket,
                limits,
                charges,
                ..
            } = &self.due;
            bucket.acknowledge_demand(limits, charges, &reports, applied);
        }
    }

    /// It was not written. What surely did not reach the table is left to the reconciler, who is to be
    /// told then.
    fn fail(&mut self, clock: &Clock, error: Option<Arc<StoreError>>) -> bool {
        self.result = Some(Err(NotWritten::Failed(error)));
        self.change.is_credit() && self.due.give_back(clock, self.change.debited())
    }
}

impl Drop for BucketPayment {
    /// What it was to report is left to others.
    fn drop(&mut self) {
        self.acknowledge_demand(false);
    }
}

/// What one bucket is to pay.
///
/// See the example of [`Payment`].
#[derive(Clone, Debug)]
pub struct Due {
    /// The bucket.
    pub bucket: BucketRef,
    /// The limits in force there.
    pub limits: Arc<[Limit]>,
    /// What it is charged, by the order of the limits.
    pub charges: Charges,
    /// What a debit has to leave to those who came before, likewise.
    pub ahead: Charges,
}

impl Due {
    /// What `bucket` is to pay at once, whoever waits for it.
    #[must_use]
    pub fn new(bucket: BucketRef, limits: Arc<[Limit]>, charges: Charges) -> Self {
        Self {
            bucket,
            limits,
            charges,
            ahead: Charges::default(),
        }
    }

    fn record_demand(&self, clock: &Clock) {
        self.bucket
            .record_demand(clock, &self.limits, &self.charges);
    }

    fn report_demand(&self, clock: &Clock) -> DemandReports {
        self.bucket
            .report_demand(clock, &self.limits, &self.charges)
    }

    fn give_back(&self, clock: &Clock, debited: Option<u64>) -> bool {
        let payer = Payer::Table(debited);
        (self.bucket).give_back(clock, payer, &self.limits, &self.charges)
    }

    /// What `change` does to each limit.
    fn transfers(&self, change: Change, asked_at: WallTime) -> SmallVec<[Transfer<'_>; 2]> {
        let of = |(at, tokens): (u32, u64)| {
            let signed = i64::try_from(tokens).unwrap_or(i64::MAX);
            let fresh = Transfer {
                asked_at: Some(asked_at),
                consumed: signed,
                ..Transfer::new(&self.limits[at as usize])
            };
            match change {
                Change::Debit => Transfer {
                    take: tokens,
                    leave: self.ahead.tokens(at),
                    ..fresh
                },
                Change::DebitAnyway => Transfer {
                    owe: tokens,
                    ..fresh
                },
                Change::Credit(_) => Transfer {
                    give: tokens,
                    consumed: -signed,
                    ..fresh
                },
            }
        };
        self.charges.iter().map(of).collect()
    }
}

/// The writes of one strict acquire: both buckets are debited, or neither.
///
/// ```
/// use std::sync::Arc;
/// use zae_limiter::store::WriteOutcome;
/// use zae_limiter::strict::{Due, NextOfPayment, Payment};
/// use zae_limiter::{Clock, Limit};
/// use zae_limiter_core::item::BucketItem;
/// use zae_limiter_core::{BucketCache, Charges};
///
/// let (clock, _hands) = Clock::manual();
/// let limits: Arc<[Limit]> = [Limit::per_minute("rpm", 100)?].into();
/// let (cache, mut tables) = (BucketCache::new(), [None, None]);
/// let due = |id| {
///     let (limits, charges) = (limits.clone(), Charges::of(0, 5));
///     let bucket = cache.get_or_insert(id, "api", &limits)?;
///     Ok::<_, zae_limiter::Error>(Due::new(bucket, limits, charges))
/// };
/// let mut payment = Payment::new(&clock, [due("child")?, due("parent")?].into_iter().collect());
/// for table in &mut tables {
///     let NextOfPayment::Write(_, write) = payment.next(&clock) else {
///         panic!("two debits are two writes");
///     };
///     let left = BucketItem::apply(table, &write).expect("a full bucket");
///     payment.done(&clock, WriteOutcome::Applied(left));
/// }
/// assert!(matches!(payment.next(&clock), NextOfPayment::Done(Ok(()))));
/// # Ok::<(), zae_limiter::Error>(())
/// ```
#[derive(Debug)]
pub struct Payment {
    dues: SmallVec<[Due; 2]>,
    /// Which bucket is debited when.
    order: SmallVec<[usize; 2]>,
    /// The buckets that have been debited and not credited again, and which incarnations of their items.
    paid: SmallVec<[(usize, Option<u64>); 2]>,
    current: Option<(usize, BucketPayment)>,
    failed: Option<(usize, NotWritten)>,
}

/// What is to be done next.
///
/// See the example of [`Payment`].
#[derive(Debug)]
pub enum NextOfPayment {
    /// Make this write, and report how it ended.
    Write(BucketRef, BucketWrite),
    /// The table is throttled: wait a moment, the longer the higher this number.
    Pause(u32),
    /// It is over: all buckets have paid, or the one of this number is why none has.
    Done(Result<(), (usize, NotWritten)>),
}

impl Payment {
    /// A payment by the entity's bucket and, if there are two, its parent's.
    ///
    /// See the example of [`Payment`].
    #[must_use]
    pub fn new(clock: &Clock, dues: SmallVec<[Due; 2]>) -> Self {
        // The child first: a parent is shared by many, and must not lose tokens, even for a
        // moment, to children that are out of theirs. But if the parent is known to be out, it
        // may say so before the child has paid for nothing.
        let mut order: SmallVec<[usize; 2]> = (0..dues.len()).collect();
        if let [_, parent] = &dues[..] {
            let (now, seen) = (clock.wall(), parent.bucket.seen());
            let debits = parent.transfers(Change::Debit, now);
            if !debits.iter().all(|t| estimate::fits(seen.item(), now, t)) {
                order.reverse();
            }
        }
        // All are asked, also those that are not reached because another has refused.
        for due in &dues {
            due.record_demand(clock);
        }
        Self {
            dues,
            order,
            paid: SmallVec::new(),
            current: None,
            failed: None,
        }
    }

    /// The next write, or how it ended.
    ///
    /// See the example of [`Payment`].
    pub fn next(&mut self, clock: &Clock) -> NextOfPayment {
        loop {
            if let Some((at, payment)) = &mut self.current {
                let at = *at;
                match payment.next(clock) {
                    Next::Write(bucket, write) => return NextOfPayment::Write(bucket, write),
                    Next::Pause(attempt) => return NextOfPayment::Pause(attempt),
                    Next::Done(result) => {
                        let debited = payment.incarnation();
                        self.ended(at, debited, result);
                    }
                }
            }
            let (at, change) = if self.failed.is_some() {
                match self.paid.pop() {
                    Some((at, debited)) => (at, Change::Credit(debited)),
                    None => return NextOfPayment::Done(self.failed.take().map_or(Ok(()), Err)),
                }
            } else {
                match self.order.get(self.paid.len()) {
                    Some(at) => (*at, Change::Debit),
                    None => return NextOfPayment::Done(Ok(())),
                }
            };
            let payment = BucketPayment::counted(clock, change, self.dues[at].clone());
            self.current = Some((at, payment));
        }
    }

    /// Takes in how the last write ended. Returns the bucket of which the reconciler is to be
    /// told.
    ///
    /// See the example of [`Payment`].
    pub fn done(&mut self, clock: &Clock, outcome: WriteOutcome) -> Option<BucketRef> {
        let (at, payment) = self.current.as_mut()?;
        let at = *at;
        let mut buckets = self.dues.iter().map(|due| &due.bucket).enumerate();
        let bucket = if payment.done(clock, outcome) {
            buckets.nth(at)
        } else {
            // Also of the one that is not reached, because the other has refused.
            buckets.find(|(other, bucket)| *other != at && bucket.is_reconciler_to_report(clock))
        };
        bucket.map(|(_, bucket)| bucket.clone())
    }

    /// Nobody waits for the payment any more: what was paid is to be given back. Go on with
    /// [`next`](Self::next).
    pub fn give_back(&mut self) {
        self.failed = Some((0, NotWritten::Failed(None)));
    }

    /// Which incarnation of the item each bucket was debited from, in the order of the buckets.
    #[must_use]
    pub fn debited(&self) -> [Option<u64>; 2] {
        let of = |at| self.paid.iter().find(|(paid, _)| *paid == at);
        [0, 1].map(|at| of(at).and_then(|(_, debited)| *debited))
    }

    fn ended(&mut self, at: usize, debited: Option<u64>, result: Result<(), NotWritten>) {
        self.current = None;
        match result {
            _ if self.failed.is_some() => {} // a credit is made at most once
            Ok(()) => self.paid.push((at, debited)),
            Err(error) => self.failed = Some((at, error)),
        }
    }
}
