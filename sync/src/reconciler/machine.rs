//! The reconciler as a pure state machine: buckets and outcomes in, writes out.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use zae_limiter_core::plan::Plan;
use zae_limiter_core::renewal::{Outcome, RenewalSettings, Step, Why};
use zae_limiter_core::{Bucket, BucketKey, Clock, MonotonicTime, WriteEffect};

use super::report::{self, ShutdownReport};
use crate::breaker::Breaker;
use crate::store::{StoreError, StoreErrorKind, WriteOutcome};

/// What the embedder of a [`Machine`] is to do.
///
/// See the example of [`Machine`].
#[derive(Debug)]
pub enum Action {
    /// Make this write, and report how it ended with [`Machine::done`].
    Write(Arc<Bucket>, Plan),
    /// Forget the bucket, if nobody else holds it.
    Forget(Arc<Bucket>),
    /// See whether the table answers, and report it with [`Machine::probed`].
    Probe,
}

/// Decides when which bucket is looked at. Its work is proportional to the buckets in use: one
/// that is idle costs an entry in a queue until it is forgotten.
///
/// ```
/// use std::sync::Arc;
/// use std::time::Duration;
/// use zae_limiter::breaker::Breaker;
/// use zae_limiter::reconciler::{Action, Machine};
/// use zae_limiter::store::WriteOutcome;
/// use zae_limiter::{Clock, Limit};
/// use zae_limiter_core::item::BucketItem;
/// use zae_limiter_core::renewal::RenewalSettings;
/// use zae_limiter_core::{BucketCache, Request};
///
/// let (clock, _hands) = Clock::manual();
/// let settings = RenewalSettings::new(Duration::from_secs(1), Duration::from_secs(5));
/// let breaker = Arc::new(Breaker::new(settings.renewal, 7));
/// let mut machine = Machine::new(settings, Duration::from_secs(600), breaker, 7);
///
/// let limits: Arc<[Limit]> = [Limit::per_minute("rpm", 100)?].into();
/// let bucket = BucketCache::new().get_or_insert("user", "api", &limits)?;
/// let request = Request::new(&limits, &[("rpm", 1)]);
/// bucket.want(&request); // somebody waits
/// let Some(Action::Write(asked, plan)) = machine.look(&clock, bucket.bucket().clone()) else {
///     panic!("a debit is due");
/// };
/// let mut table = None; // where a store would be
/// let left = BucketItem::apply(&mut table, &plan.write).expect("a full bucket");
/// machine.done(&clock, asked, WriteOutcome::Applied(left));
/// assert!(bucket.take(&clock, &request).is_ok());
/// # Ok::<(), zae_limiter::Error>(())
/// ```
#[derive(Debug)]
pub struct Machine {
    settings: RenewalSettings,
    idle_ttl: Duration,
    breaker: Arc<Breaker>,
    rng: fastrand::Rng,
    /// Tokens that writes have given back since the shutdown began.
    returned: u64,
    /// What writes of unknown outcome may have done since then, by bucket.
    in_doubt: HashMap<BucketKey, WriteEffect>,
    /// The buckets to look at again, by address; the queue may hold stale times of theirs.
    watched: HashMap<usize, Watched>,
    queue: BinaryHeap<Reverse<(MonotonicTime, usize)>>,
    /// The buckets that are not in use, in the order in which they are to be forgotten, each
    /// with the rest that it was at. Who is woken and rests again is in it twice, and the first
    /// time is void.
    idle: VecDeque<(MonotonicTime, u32, Arc<Bucket>)>,
}

#[derive(Debug)]
struct Watched {
    bucket: Arc<Bucket>,
    state: Watch,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Watch {
    /// Look at it then.
    Due(MonotonicTime),
    /// A write is under way since.
    Writing(MonotonicTime),
}

impl Machine {
    /// A machine that watches nothing yet. A bucket that has been idle for `idle_ttl` is
    /// forgotten; while `breaker` is open nothing is written; the jitter of its pauses follows from
    /// `seed`.
    ///
    /// See the example of [`Machine`].
    #[must_use]
    pub fn new(
        settings: RenewalSettings,
        idle_ttl: Duration,
        breaker: Arc<Breaker>,
        seed: u64,
    ) -> Self {
        Self {
            settings,
            idle_ttl,
            breaker,
            rng: fastrand::Rng::with_seed(seed),
            returned: 0,
            in_doubt: HashMap::new(),
            watched: HashMap::new(),
            queue: BinaryHeap::new(),
            idle: VecDeque::new(),
        }
    }

    /// How many buckets are in use, and looked at again and again.
    ///
    /// See the example of [`Machine`].
    #[must_use]
    pub fn watched(&self) -> usize {
        self.watched.len()
    }

    /// How many writes are under way.
    ///
    /// See the example of [`Machine`].
    #[must_use]
    pub fn writing(&self) -> usize {
        let writing = |w: &&Watched| matches!(w.state, Watch::Writing(_));
        self.watched.values().filter(writing).count()
    }

    /// When [`tick`](Self::tick) is to be called next; none if there is nothing to wait for.
    ///
    /// See the example of [`Machine`].
    #[must_use]
    pub fn next_due(&self) -> Option<MonotonicTime> {
        let look = self.queue.peek().map(|Reverse((at, _))| *at);
        let forget = self.idle.front().map(|(at, ..)| *at);
        let probe = self.breaker.next_probe();
        look.into_iter().chain(forget).chain(probe).min()
    }

    /// Somebody says that `bucket` wants a look.
    ///
    /// See the example of [`Machine`].
    pub fn look(&mut self, clock: &Clock, bucket: Arc<Bucket>) -> Option<Action> {
        let key = address(&bucket);
        if let Some(watched) = self.watched.get(&key)
            && matches!(watched.state, Watch::Writing(_))
        {
            return None; // the outcome is looked at anyway
        }
        self.check(clock, bucket)
    }

    /// The write for `bucket` has ended.
    ///
    /// See the example of [`Machine`].
    pub fn done(
        &mut self,
        clock: &Clock,
        bucket: Arc<Bucket>,
        outcome: WriteOutcome,
    ) -> Option<Action> {
        let now = clock.now();
        let sent = match self.watched.get(&address(&bucket)) {
            Some(watched) if let Watch::Writing(since) = watched.state => since,
            _ => now,
        };
        let outcome = self.judge(sent, now, outcome);
        if matches!(outcome, Outcome::Applied(_) | Outcome::Refused(_)) {
            self.settings.learn_latency(now.since(sent));
        }
        self.settings.jitter = self.rng.f64();
        if self.is_closing() {
            self.account(&bucket, &outcome);
        }
        let step = bucket.complete(clock, &self.settings, self.why(), outcome);
        self.follow(clock, bucket, step)
    }

    /// Keeps the accounts of a shutdown: a write of `bucket` is about to end like this.
    fn account(&mut self, bucket: &Bucket, outcome: &Outcome) {
        let effect = bucket.in_flight();
        match outcome {
            Outcome::Applied(_) => self.returned += effect.returned,
            Outcome::Unknown(_) if effect != WriteEffect::default() => {
                let doubt = self.in_doubt.entry(bucket.key().clone()).or_default();
                report::add(doubt, &effect);
            }
            _ => {}
        }
    }

    /// What a write that ended like this means, for the bucket and for the table.
    fn judge(&self, sent: MonotonicTime, now: MonotonicTime, outcome: WriteOutcome) -> Outcome {
        let failed = |error: StoreError| {
            let error = Arc::new(error);
            self.breaker.failed(sent, now, error.clone());
            error
        };
        match outcome {
            WriteOutcome::Applied(item) => {
                self.breaker.answered(now);
                Outcome::Applied(item)
            }
            WriteOutcome::Refused(found) => {
                self.breaker.answered(now);
                Outcome::Refused(found)
            }
            WriteOutcome::Failed(error) if error.kind() == StoreErrorKind::Throttled => {
                failed(error);
                Outcome::Throttled
            }
            WriteOutcome::Failed(error) => Outcome::Failed(failed(error)),
            WriteOutcome::Unknown(error) => Outcome::Unknown(failed(error)),
        }
    }

    /// The probe has ended. If the table answers again, everything that waited for that is due;
    /// each bucket is written at most once for it. During a shutdown buckets keep their pauses: no
    /// caller waits, and a table that answers probes may still fail every write.
    pub fn probed(&mut self, clock: &Clock, result: Result<(), StoreError>) {
        if !self.breaker.probed(clock.now(), result) {
            return;
        }
        let now = clock.now();
        let closing = self.is_closing();
        for (key, watched) in &mut self.watched {
            if !matches!(watched.state, Watch::Writing(_)) {
                if !closing {
                    watched.bucket.resume();
                }
                watched.state = Watch::Due(now);
                self.queue.push(Reverse((now, *key)));
            }
        }
    }

    /// What is next to be done of what has come due; none if nothing has.
    pub fn tick(&mut self, clock: &Clock) -> Option<Action> {
        let now = clock.now();
        if self.breaker.begin_probe(now) {
            return Some(Action::Probe);
        }
        while let Some(&Reverse((at, key))) = self.queue.peek()
            && at <= now
        {
            self.queue.pop();
            let due = self.watched.get(&key).filter(|w| w.state == Watch::Due(at));
            let Some(bucket) = due.map(|watched| watched.bucket.clone()) else {
                continue;
            };
            let action = self.check(clock, bucket);
            if action.is_some() {
                return action;
            }
        }
        while let Some((_, rest, bucket)) = self.idle.pop_front_if(|(at, ..)| *at <= now) {
            if bucket.idle_generation() == Some(rest) {
                return Some(Action::Forget(bucket));
            }
        }
        None
    }

    /// From now on everything is given back, until `deadline` at the latest. Call
    /// [`tick`](Self::tick) until nothing is [`watched`](Self::watched). Called again, it changes the
    /// deadline.
    ///
    /// ```
    /// # use std::sync::Arc;
    /// # use std::time::Duration;
    /// # use zae_limiter::breaker::Breaker;
    /// # use zae_limiter::reconciler::{Action, Machine};
    /// # use zae_limiter::store::WriteOutcome;
    /// # use zae_limiter::{Clock, Limit};
    /// # use zae_limiter_core::item::BucketItem;
    /// # use zae_limiter_core::renewal::RenewalSettings;
    /// # use zae_limiter_core::{BucketCache, Request};
    /// # let (clock, _hands) = Clock::manual();
    /// # let settings = RenewalSettings::new(Duration::from_secs(1), Duration::from_secs(5));
    /// # let breaker = Arc::new(Breaker::new(settings.renewal, 7));
    /// # let mut machine = Machine::new(settings, Duration::from_secs(600), breaker, 7);
    /// # let limits: Arc<[Limit]> = [Limit::per_minute("rpm", 100)?].into();
    /// # let cache = BucketCache::new();
    /// # let bucket = cache.get_or_insert("user", "api", &limits)?;
    /// # bucket.want(&Request::new(&limits, &[("rpm", 10)]));
    /// # let mut table = None;
    /// let mut action = machine.look(&clock, bucket.bucket().clone()); // debits a block
    /// while let Some(Action::Write(asked, plan)) = action {
    ///     let outcome = match BucketItem::apply(&mut table, &plan.write) {
    ///         Ok(item) => WriteOutcome::Applied(item),
    ///         Err(found) => WriteOutcome::Refused(found),
    ///     };
    ///     machine.done(&clock, asked, outcome);
    ///     machine.close(&clock, clock.now().after(Duration::from_secs(3)), cache.all());
    ///     action = machine.tick(&clock); // gives it back
    /// }
    /// assert_eq!(machine.watched(), 0);
    /// let report = machine.report(cache.all());
    /// assert!(report.returned >= 10 && report.is_complete());
    /// # Ok::<(), zae_limiter::Error>(())
    /// ```
    pub fn close(
        &mut self,
        clock: &Clock,
        deadline: MonotonicTime,
        buckets: impl IntoIterator<Item = Arc<Bucket>>,
    ) {
        self.settings.closes_by = Some(deadline);
        let now = clock.now();
        for bucket in buckets {
            self.settings.jitter = self.rng.f64();
            bucket.close(clock, &self.settings);
            let key = address(&bucket);
            let watched = self.watched.entry(key).or_insert(Watched {
                bucket,
                state: Watch::Due(now),
            });
            if !matches!(watched.state, Watch::Writing(_)) {
                watched.state = Watch::Due(now);
                self.queue.push(Reverse((now, key)));
            }
        }
    }

    /// How the shutdown has gone so far, with what is left in `buckets`: all that the process knows.
    ///
    /// See the example of [`Machine::close`].
    #[must_use]
    pub fn report(&self, buckets: impl IntoIterator<Item = Arc<Bucket>>) -> ShutdownReport {
        ShutdownReport::of(self.returned, self.in_doubt.clone(), buckets)
    }

    fn is_closing(&self) -> bool {
        self.settings.closes_by.is_some()
    }

    fn why(&self) -> Why {
        if self.breaker.is_open() {
            Why::Suspended
        } else {
            Why::Due
        }
    }

    fn check(&mut self, clock: &Clock, bucket: Arc<Bucket>) -> Option<Action> {
        let step = bucket.check(clock, &self.settings, self.why());
        self.follow(clock, bucket, step)
    }

    fn follow(&mut self, clock: &Clock, bucket: Arc<Bucket>, step: Step) -> Option<Action> {
        let key = address(&bucket);
        let (state, action) = match step {
            Step::Write(plan) => (
                Watch::Writing(clock.now()),
                Some(Action::Write(bucket.clone(), plan)),
            ),
            Step::Wait(until) => (Watch::Due(until.max(clock.now())), None),
            Step::Idle => {
                self.watched.remove(&key);
                self.shrink();
                if let Some(rest) = bucket.idle_generation() {
                    let until = clock.now().after(self.idle_ttl);
                    self.idle.push_back((until, rest, bucket));
                }
                return None;
            }
        };
        if let Watch::Due(at) = state
            && at != MonotonicTime::NEVER
        {
            self.queue.push(Reverse((at, key)));
        }
        self.watched.insert(key, Watched { bucket, state });
        action
    }
}

impl Machine {
    /// Gives memory back after a time with many more buckets in use.
    fn shrink(&mut self) {
        const FEW: usize = 1_024;
        let used = self.watched.len().max(FEW);
        if self.watched.capacity() > 8 * used {
            self.watched.shrink_to(2 * used);
            let watched = &self.watched;
            let due = |(at, key): (MonotonicTime, usize)| {
                watched.get(&key).is_some_and(|w| w.state == Watch::Due(at))
            };
            self.queue.retain(|Reverse(entry)| due(*entry));
            self.queue.shrink_to(2 * used);
        }
    }
}

fn address(bucket: &Arc<Bucket>) -> usize {
    Arc::as_ptr(bucket).addr()
}
