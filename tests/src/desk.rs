//! One process and one table, by hand: every write is made when the test says so.

use std::sync::Arc;
use std::time::Duration;

use zae_limiter::breaker::Breaker;
use zae_limiter::reconciler::{Action, Machine};
use zae_limiter::store::{StoreError, StoreErrorKind, WriteOutcome};
use zae_limiter_core::item::BucketItem;
use zae_limiter_core::plan::Plan;
use zae_limiter_core::renewal::RenewalSettings;
use zae_limiter_core::{
    BucketCache, BucketRef, Clock, Limit, ManualClock, Paid, Request, Shortage,
};

/// How often a caller who waits is woken at most.
const TRIES_MAX: u32 = 8;

/// More than any test needs.
const WRITES_MAX: u32 = 20_000;

/// How a write ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// It is applied if its guards hold, and the process hears of it.
    Answered,
    /// The table does not do it, and says so.
    Refused,
    /// The table takes no more writes for now.
    Throttled,
    /// It is applied if its guards hold, and the process hears nothing.
    Unheard,
    /// Neither.
    Lost,
}

/// A process with the default renewal of a second and lease of five, and one bucket.
#[derive(Debug)]
pub struct Desk {
    /// Its clock.
    pub clock: Clock,
    /// The hands of its clock.
    pub hands: ManualClock,
    /// The bucket.
    pub bucket: BucketRef,
    /// The limits that it declares.
    pub limits: Arc<[Limit]>,
    /// Whether the table is out of reach: writes and probes fail.
    pub cut_off: bool,
    /// Writes that it has made.
    pub writes: u32,
    machine: Machine,
    cache: BucketCache,
}

impl Desk {
    /// A process that knows nothing yet.
    ///
    /// # Panics
    /// Never.
    #[must_use]
    pub fn new(limits: &[Limit]) -> Self {
        let (clock, hands) = Clock::manual();
        let settings = RenewalSettings::new(Duration::from_secs(1), Duration::from_secs(5));
        let limits: Arc<[Limit]> = limits.into();
        let cache = BucketCache::new();
        let bucket = cache.get_or_insert("entity", "api", &limits);
        let breaker = Arc::new(Breaker::new(settings.renewal, 1));
        Self {
            machine: Machine::new(settings, Duration::from_secs(600), breaker, 1),
            clock,
            hands,
            bucket: bucket.expect("a name"),
            limits,
            cut_off: false,
            writes: 0,
            cache,
        }
    }

    /// Asks for tokens of the first limit; registers as waiting if the table has to be asked.
    ///
    /// # Errors
    /// The shortage.
    pub fn take(&mut self, tokens: u64) -> Result<Paid, Shortage> {
        let limits = self.limits.clone();
        self.take_of(&[(limits[0].name(), tokens)])
    }

    /// The same for any of its limits.
    ///
    /// # Errors
    /// The shortage.
    pub fn take_of(&mut self, consume: &[(&str, u64)]) -> Result<Paid, Shortage> {
        let request = Request::new(&self.limits, consume);
        let mut taken = self.bucket.take(&self.clock, &request);
        if taken == Err(Shortage::Undeclared) {
            self.bucket.declare(&self.limits).expect("few limits");
            taken = self.bucket.take(&self.clock, &request);
        }
        if taken == Err(Shortage::Miss) {
            self.bucket.want(&request);
        }
        taken
    }

    /// The reconciler looks at the bucket: the write that it wants.
    pub fn look(&mut self) -> Option<Plan> {
        let action = self.machine.look(&self.clock, self.bucket.bucket().clone());
        Self::plan(action)
    }

    fn plan(action: Option<Action>) -> Option<Plan> {
        match action {
            Some(Action::Write(_, plan)) => Some(plan),
            _ => None,
        }
    }

    /// A write of the reconciler ends; returns the next that it wants.
    ///
    /// # Panics
    /// If it never stops writing.
    pub fn end(&mut self, table: &mut Option<BucketItem>, plan: &Plan, end: End) -> Option<Plan> {
        let applied = match end {
            End::Answered | End::Unheard => Some(BucketItem::apply(table, &plan.write)),
            End::Refused | End::Throttled | End::Lost => None,
        };
        let outcome = match (end, applied) {
            (End::Answered, Some(Ok(item))) => WriteOutcome::Applied(item),
            (End::Answered, Some(Err(found))) => WriteOutcome::Refused(found),
            (End::Refused, _) => WriteOutcome::Failed(error()),
            (End::Throttled, _) => WriteOutcome::Failed(throttled()),
            _ => WriteOutcome::Unknown(error()),
        };
        self.writes += 1;
        assert!(self.writes < WRITES_MAX, "it writes without end");
        let bucket = self.bucket.bucket().clone();
        let action = self.machine.done(&self.clock, bucket, outcome);
        Self::plan(action)
    }

    /// The reconciler looks, and all that it wants is written.
    pub fn renew(&mut self, table: &mut Option<BucketItem>) {
        let plan = self.look();
        self.follow(table, plan);
    }

    fn follow(&mut self, table: &mut Option<BucketItem>, mut plan: Option<Plan>) {
        while let Some(next) = plan {
            let end = if self.cut_off {
                End::Refused
            } else {
                End::Answered
            };
            plan = self.end(table, &next, end);
        }
    }

    /// Time passes, and the reconciler does what comes due.
    pub fn pass(&mut self, table: &mut Option<BucketItem>, length: Duration) {
        let end = self.clock.now().after(length);
        loop {
            while let Some(action) = self.machine.tick(&self.clock) {
                self.act(table, action);
            }
            let now = self.clock.now();
            if now >= end {
                return;
            }
            let next = self.machine.next_due().unwrap_or(end);
            let next = next.max(now.after(Duration::from_millis(1))).min(end);
            self.hands.advance(next.since(now));
        }
    }

    fn act(&mut self, table: &mut Option<BucketItem>, action: Action) {
        match action {
            Action::Write(_, plan) => self.follow(table, Some(plan)),
            Action::Forget(bucket) => {
                self.cache.forget(&bucket);
            }
            Action::Probe => {
                let answer = if self.cut_off { Err(error()) } else { Ok(()) };
                self.machine.probed(&self.clock, answer);
            }
        }
    }

    /// Asks for tokens, and again after the table was asked, as often as it takes.
    ///
    /// # Errors
    /// The shortage.
    pub fn acquire(
        &mut self,
        table: &mut Option<BucketItem>,
        tokens: u64,
    ) -> Result<Paid, Shortage> {
        let mut taken = self.take(tokens);
        for _ in 0..TRIES_MAX {
            if taken != Err(Shortage::Miss) {
                break;
            }
            self.renew(table);
            taken = self.take(tokens);
        }
        taken
    }

    /// All that it holds and is not owed, in tokens of the first limit.
    #[must_use]
    pub fn holds(&self) -> i128 {
        let mut holds = 0;
        let name = self.limits[0].name();
        self.bucket.positions(|limit, position, _| {
            if limit.name() == name {
                holds = position.net();
            }
        });
        holds
    }
}

fn throttled() -> StoreError {
    StoreError::new(StoreErrorKind::Throttled, "by hand")
}

fn error() -> StoreError {
    StoreError::new(StoreErrorKind::Unreachable, "by hand")
}
