//! What all clones and leases of a limiter share, and the ways of paying that they have in
//! common. It knows both modes, but not which one a caller chooses.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use crossbeam::queue::{ArrayQueue, SegQueue};
use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio::sync::{Notify, oneshot};
use tokio::time;
use zae_limiter_core::item::{BucketItem, BucketWrite};
use zae_limiter_core::{Bucket, BucketCache, BucketKey, BucketRef, Clock, Limit, MonotonicTime};

use crate::breaker::{self, Breaker};
use crate::catalog::{Catalog, Family};
use crate::metrics::Counters;
use crate::settings::{FailureMode, LeasedOptions, Mode, Settings};
use crate::store::{Store, StoreError, StoreErrorKind, WriteOutcome};
use crate::wait_queue::WaitQueues;
use crate::{Error, LimitScope, ValidationError};

/// How many buckets that run low may wait for the reconciler. More are looked at when their time
/// comes.
const LOW_MAX: usize = 4_096;
/// How many sets of limits are kept to be shared between buckets.
const LIMIT_SETS_MAX: usize = 64;

#[derive(Debug)]
pub(crate) struct Engine {
    pub(crate) name: String,
    pub(crate) store: Arc<dyn Store>,
    pub(crate) clock: Clock,
    pub(crate) cache: BucketCache,
    pub(crate) strict: bool,
    pub(crate) leased: LeasedOptions,
    pub(crate) failure_mode: FailureMode,
    pub(crate) acquire_timeout: Duration,
    pub(crate) idle_ttl: Duration,
    pub(crate) catalog: Catalog,
    /// Whether an acquire that does not say asks the entity.
    pub(crate) cascade_by_entity: bool,
    /// Buckets that run low. Bounded, so that a hit never allocates.
    low: ArrayQueue<Arc<Bucket>>,
    /// Buckets that callers wait for, or that owe or are owed.
    urgent: SegQueue<Arc<Bucket>>,
    /// Wakes the driver.
    pub(crate) bell: Notify,
    waiting: Box<[Notify]>,
    pub(crate) breaker: Arc<Breaker>,
    pub(crate) counters: Counters,
    /// Callers waiting for tokens.
    pub(crate) wait_queues: WaitQueues,
    limit_sets: Mutex<VecDeque<Arc<[Limit]>>>,
    closed: AtomicBool,
    /// Where the reconciler runs, and what goes on without its callers: those may be in a runtime that stands
    /// still meanwhile, or in none.
    runtime: Handle,
    /// How many of them there are.
    background: AtomicUsize,
}

impl Engine {
    pub(crate) fn new(
        name: String,
        store: Arc<dyn Store>,
        clock: Clock,
        settings: &Settings,
    ) -> Self {
        let leased = match settings.mode {
            Mode::Leased(options) => options,
            Mode::Strict => LeasedOptions::default(),
        };
        let renewal = Duration::from_millis(leased.renewal_interval_ms);
        Self {
            name,
            store,
            clock,
            cache: BucketCache::new(),
            strict: settings.mode == Mode::Strict,
            leased,
            failure_mode: settings.failure_mode,
            acquire_timeout: Duration::from_millis(settings.acquire_timeout_ms),
            idle_ttl: Duration::from_millis(settings.idle_ttl_ms),
            catalog: Catalog::new(settings),
            cascade_by_entity: settings.cascade_by_entity,
            low: ArrayQueue::new(LOW_MAX),
            urgent: SegQueue::new(),
            bell: Notify::new(),
            waiting: (0..256).map(|_| Notify::new()).collect(),
            breaker: Arc::new(Breaker::new(renewal, fastrand::u64(..))),
            counters: Counters::default(),
            wait_queues: WaitQueues::default(),
            limit_sets: Mutex::new(VecDeque::new()),
            closed: AtomicBool::new(false),
            runtime: Handle::current(),
            background: AtomicUsize::new(0),
        }
    }

    /// Begins `work`, which goes on also if nobody waits for its end. A shutdown waits for it.
    pub(crate) fn spawn<T: Send + 'static>(
        self: &Arc<Self>,
        work: impl Future<Output = T> + Send + 'static,
    ) -> oneshot::Receiver<T> {
        let counted = InBackground::new(self);
        self.run_apart(async move {
            let _counted = counted;
            work.await
        })
    }

    /// Begins `work` where the reconciler runs, so that it does not depend on how often its caller is polled.
    fn run_apart<T: Send + 'static>(
        &self,
        work: impl Future<Output = T> + Send + 'static,
    ) -> oneshot::Receiver<T> {
        let (answer, answered) = oneshot::channel();
        self.runtime.spawn(async move {
            let _ = answer.send(work.await);
        });
        answered
    }

    /// Whether writes are made that go on without their callers.
    pub(crate) fn has_background_work(&self) -> bool {
        self.background.load(Ordering::Acquire) > 0
    }

    /// The bucket; made if it is not known yet.
    pub(crate) fn bucket(
        &self,
        entity_id: &str,
        resource: &str,
        limits: &[Limit],
    ) -> Result<BucketRef, ValidationError> {
        match self.cache.get(entity_id, resource) {
            Some(bucket) => Ok(bucket),
            None => {
                let limits = self.shared(limits);
                self.cache.get_or_insert(entity_id, resource, &limits)
            }
        }
    }

    /// The same limits, in memory only once however many buckets have them.
    pub(crate) fn shared(&self, limits: &[Limit]) -> Arc<[Limit]> {
        let mut sets = self.limit_sets.lock();
        if let Some(known) = sets.iter().find(|set| ***set == *limits) {
            return known.clone();
        }
        let fresh: Arc<[Limit]> = limits.into();
        sets.push_front(fresh.clone());
        sets.truncate(LIMIT_SETS_MAX);
        fresh
    }

    /// The family of an entity, as of at most `entity_ttl_ms` ago.
    pub(crate) async fn family(
        self: &Arc<Self>,
        id: &str,
    ) -> Result<Arc<Family>, Option<Arc<StoreError>>> {
        if let Some(known) = self.known_family(id) {
            return Ok(known);
        }
        let (engine, id) = (self.clone(), id.to_owned());
        self.load(async move {
            let (store, clock) = (&*engine.store, &engine.clock);
            engine.catalog.family(store, clock, &id).await
        })
        .await
    }

    /// The family of an entity, if it is known without asking the table.
    pub(crate) fn known_family(&self, id: &str) -> Option<Arc<Family>> {
        let old = self.breaker.is_open();
        self.catalog.known_family(&self.clock, id, old)
    }

    /// The family of an entity, as the table last said.
    pub(crate) fn last_known_family(&self, id: &str) -> Option<Arc<Family>> {
        self.catalog.known_family(&self.clock, id, true)
    }

    /// The limits stored for an entity and a resource, as of at most `limits_ttl_ms` ago: the
    /// entity's for the resource, the entity's own, the resource's, the system's.
    pub(crate) async fn stored_limits(
        self: &Arc<Self>,
        scopes: &[LimitScope],
    ) -> Result<Option<Arc<[Limit]>>, Option<Arc<StoreError>>> {
        if let Some(known) = self.known_stored_limits(scopes) {
            return Ok(known);
        }
        let (engine, scopes) = (self.clone(), scopes.to_vec());
        self.load(async move {
            let (store, clock) = (&*engine.store, &engine.clock);
            engine.catalog.limits(store, clock, &scopes).await
        })
        .await
    }

    /// The stored limits, if they are known without asking the table.
    #[allow(clippy::option_option)] // not known, or known to be none
    pub(crate) fn known_stored_limits(
        &self,
        scopes: &[LimitScope],
    ) -> Option<Option<Arc<[Limit]>>> {
        let old = self.breaker.is_open();
        self.catalog.known_limits(&self.clock, scopes, old)
    }

    /// The stored limits, as the table last said.
    #[allow(clippy::option_option)] // not known, or known to be none
    pub(crate) fn last_known_stored_limits(
        &self,
        scopes: &[LimitScope],
    ) -> Option<Option<Arc<[Limit]>>> {
        self.catalog.known_limits(&self.clock, scopes, true)
    }

    /// Loads what all callers share. None of them drives it, so none can hold up the others.
    async fn load<T: Send + 'static>(
        self: &Arc<Self>,
        load: impl Future<Output = Result<T, Arc<StoreError>>> + Send + 'static,
    ) -> Result<T, Option<Arc<StoreError>>> {
        if self.breaker.is_open() {
            return Err(self.breaker.failure());
        }
        let engine = self.clone();
        let loaded = self.run_apart(async move {
            let sent = engine.clock.now();
            let loaded = load.await;
            match &loaded {
                Ok(_) => engine.breaker.answered(engine.clock.now()),
                Err(error) => engine.failed(sent, error),
            }
            loaded
        });
        match loaded.await {
            Ok(loaded) => loaded.map_err(Some),
            Err(_) => Err(None), // the runtime ends
        }
    }

    /// A block runs low: no allocation, no wait.
    pub(crate) fn runs_low(&self, bucket: &BucketRef) {
        // Where the queue is full, the reconciler comes by anyway.
        if self.low.push(bucket.bucket().clone()).is_ok() {
            self.bell.notify_one();
        }
    }

    /// A caller waits for the bucket, or it owes or is owed.
    pub(crate) fn needs_renewal(&self, bucket: &BucketRef) {
        self.urgent.push(bucket.bucket().clone());
        self.bell.notify_one();
    }

    /// The next bucket that the reconciler is to look at.
    pub(crate) fn next_to_renew(&self) -> Option<Arc<Bucket>> {
        self.urgent.pop().or_else(|| self.low.pop())
    }

    /// What is notified when a write for the bucket has ended.
    pub(crate) fn waiting_for(&self, bucket: &Arc<Bucket>) -> &Notify {
        // Buckets are at least 64 bytes apart; some share a bell, and then look in vain.
        let at = Arc::as_ptr(bucket).addr() >> 6;
        &self.waiting[(at ^ at >> 8) % self.waiting.len()]
    }

    /// Wakes all callers waiting for tokens of the bucket.
    pub(crate) fn wake(&self, bucket: &Arc<Bucket>) {
        bucket.wake();
        self.waiting_for(bucket).notify_waiters();
    }

    /// Wakes all waiting callers.
    pub(crate) fn wake_all(&self) {
        self.waiting.iter().for_each(Notify::notify_waiters);
    }

    /// Makes one write, and counts it. A store that does not answer is given up.
    pub(crate) async fn ask(&self, key: &BucketKey, write: &BucketWrite) -> WriteOutcome {
        let timeout = self.acquire_timeout;
        let answer = time::timeout(timeout, self.store.write_bucket(key, write)).await;
        let outcome = answer.unwrap_or_else(|_| {
            let message = format!("no answer from {} within {timeout:?}", self.name);
            WriteOutcome::Unknown(StoreError::new(StoreErrorKind::Unreachable, message))
        });
        self.counters.count_write(&outcome);
        if let WriteOutcome::Failed(error) | WriteOutcome::Unknown(error) = &outcome {
            tracing::debug!(limiter = self.name, ?key, %error, kind = ?error.kind(), "a write has failed");
        }
        outcome
    }

    /// Makes one write outside the reconciler.
    pub(crate) async fn write(&self, bucket: &BucketRef, write: &BucketWrite) -> WriteOutcome {
        let sent = self.clock.now();
        let outcome = self.ask(bucket.key(), write).await;
        match &outcome {
            WriteOutcome::Applied(_) | WriteOutcome::Refused(_) => {
                self.breaker.answered(self.clock.now());
            }
            WriteOutcome::Failed(error) | WriteOutcome::Unknown(error) => self.failed(sent, error),
        }
        outcome
    }

    /// Reads one bucket.
    pub(crate) async fn read(&self, bucket: &BucketRef) -> Result<Option<BucketItem>, Error> {
        if self.breaker.is_open() {
            return Err(self.unavailable(bucket, self.breaker.failure()));
        }
        let sent = self.clock.now();
        let read = self.store.read_bucket(bucket.key());
        match time::timeout(self.acquire_timeout, read).await {
            Ok(Ok(found)) => {
                self.breaker.answered(self.clock.now());
                Ok(found)
            }
            Ok(Err(error)) => {
                self.failed(sent, &error);
                Err(self.unavailable(bucket, Some(Arc::new(error))))
            }
            Err(_) => Err(self.unavailable(bucket, self.breaker.failure())),
        }
    }

    fn failed(&self, sent: MonotonicTime, error: &StoreError) {
        let error = Arc::new(error.clone());
        if self.breaker.failed(sent, self.clock.now(), error) {
            self.bell.notify_one(); // there are probes to be made
        }
    }

    /// The breaker has opened or closed.
    pub(crate) fn table_is(&self, answering: bool) {
        let limiter = &self.name;
        if answering {
            tracing::info!(limiter, "the table answers again");
        } else {
            let error = self.breaker.failure();
            let error = error.as_ref().map(tracing::field::display);
            tracing::warn!(limiter, error, "the table cannot be used");
            self.wake_all(); // nobody waits for an answer that does not come
        }
    }

    /// How long a request that was throttled for the `attempt`th time is put off.
    pub(crate) fn backoff(&self, attempt: u32) -> Duration {
        const FIRST: Duration = Duration::from_millis(25);
        const LONGEST: Duration = Duration::from_secs(1);
        breaker::backoff(FIRST, LONGEST, attempt, &mut fastrand::Rng::new())
    }

    /// Why a bucket's tokens cannot be asked for: its own trouble, or the table's.
    pub(crate) fn trouble(&self, bucket: &BucketRef) -> Option<Arc<StoreError>> {
        let own = bucket.trouble(&self.clock);
        let own = own.and_then(|reason| reason.downcast::<StoreError>().ok());
        own.or_else(|| self.breaker.failure())
    }

    /// The error when the table could not be asked.
    pub(crate) fn unavailable(
        &self,
        bucket: &BucketRef,
        failure: Option<Arc<StoreError>>,
    ) -> Error {
        let key = bucket.key();
        self.unavailable_for(key.entity_id(), key.resource(), failure)
    }

    pub(crate) fn unavailable_for(
        &self,
        entity_id: &str,
        resource: &str,
        failure: Option<Arc<StoreError>>,
    ) -> Error {
        use StoreErrorKind::{Throttled, Unreachable};
        match failure {
            Some(error) if !matches!(error.kind(), Throttled | Unreachable) => Error::Store(error),
            failure => Error::Unavailable {
                table_name: self.name.clone(),
                entity_id: entity_id.to_owned(),
                resource: resource.to_owned(),
                reason: failure.as_ref().map_or_else(
                    || "the table did not answer in time".to_owned(),
                    ToString::to_string,
                ),
                source: failure,
            },
        }
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    pub(crate) fn close(&self) -> bool {
        !self.closed.swap(true, Ordering::AcqRel)
    }
}

/// Work that goes on without its caller, as it is counted.
#[derive(Debug)]
struct InBackground(Arc<Engine>);

impl InBackground {
    fn new(engine: &Arc<Engine>) -> Self {
        engine.background.fetch_add(1, Ordering::AcqRel);
        Self(engine.clone())
    }
}

impl Drop for InBackground {
    fn drop(&mut self) {
        // The last one wakes the driver, which may wait for that.
        if self.0.background.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.0.bell.notify_one();
        }
    }
}
