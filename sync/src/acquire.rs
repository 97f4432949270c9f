//! An acquire: what is asked for, and how it is answered.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use smallvec::SmallVec;
use tokio::time;
use zae_limiter_core::{
    BucketRef, Paid, Request, Shortage, ValidationError, validate_identifier, validate_name,
};

use crate::engine::Engine;
use crate::error::RateLimitExceeded;
use crate::lease::{Lease, Part, Payer};
use crate::status;
use crate::store::StoreError;
use crate::strict::{self, NotWritten, Payment};
use crate::{BucketHandle, Error, FailureMode, Limit};

/// An acquire that is being put together. `.await` it, or call
/// [`try_acquire`](Self::try_acquire) or [`run`](Self::run).
///
/// ```
/// use zae_limiter::{Limit, RateLimiter};
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), zae_limiter::Error> {
/// let limiter = RateLimiter::builder("my-app").in_memory().connect().await?;
/// let limits = [Limit::per_minute("rpm", 100)?, Limit::per_minute("tpm", 10_000)?];
/// let mut lease = limiter
///     .acquire("api-key-123", "gpt-4")
///     .limits(&limits)
///     .consume("rpm", 1)
///     .consume("tpm", 500)
///     .await?;
/// lease.adjust("tpm", 120).await?; // it was 620 tokens in the end
/// assert_eq!(lease.consumed()["tpm"], 620);
/// # Ok(()) }
/// ```
#[derive(Clone, Debug)]
#[must_use = "an acquire does nothing until it is awaited"]
pub struct Acquire<'a> {
    pub(crate) engine: &'a Arc<Engine>,
    entity_id: &'a str,
    pub(crate) resource: &'a str,
    pub(crate) limits: &'a [Limit],
    pub(crate) consume: SmallVec<[(&'a str, u64); 2]>,
    cascade: bool,
    strict: bool,
    failure_mode: FailureMode,
}

impl<'a> Acquire<'a> {
    #[inline]
    pub(crate) fn new(engine: &'a Arc<Engine>, entity_id: &'a str, resource: &'a str) -> Self {
        Self {
            engine,
            entity_id,
            resource,
            limits: &[],
            consume: SmallVec::new(),
            cascade: false,
            strict: engine.strict,
            failure_mode: engine.failure_mode,
        }
    }

    /// The limits in force. What the table holds under other terms is converted.
    #[inline]
    pub fn limits(mut self, limits: &'a [Limit]) -> Self {
        self.limits = limits;
        self
    }

    /// Tokens to consume of the limit called `name`. Limits that are not named neither gate nor
    /// are charged.
    #[inline]
    pub fn consume(mut self, name: &'a str, tokens: u64) -> Self {
        self.consume.push((name, tokens));
        self
    }

    /// Whether the entity's parent is charged too, under the same limits. Nothing is admitted
    /// unless both have the tokens. Default: false.
    pub fn cascade(mut self, cascade: bool) -> Self {
        self.cascade = cascade;
        self
    }

    /// Whether this acquire is a conditional write, whatever the limiter's mode. Default: as the
    /// limiter is set.
    pub fn strict(mut self, strict: bool) -> Self {
        self.strict = strict;
        self
    }

    /// What to answer when the table cannot be reached. Default: as the limiter is set.
    pub fn failure_mode(mut self, failure_mode: FailureMode) -> Self {
        self.failure_mode = failure_mode;
        self
    }

    #[inline(always)]
    pub(crate) fn request(&self) -> Request<'_> {
        Request::new(self.limits, &self.consume)
    }

    /// Checks what cannot be right whatever the table holds, before it is asked.
    fn validate(&self) -> Result<(), ValidationError> {
        validate_identifier("entity_id", self.entity_id)?;
        validate_name("resource", self.resource)?;
        self.request().validate()
    }

    /// Answers at once: from the tokens in hand, or from what is known of the limit.
    ///
    /// No I/O, no await; no allocation on a hit that charges at most the first two limits of an
    /// entity without cascade.
    ///
    /// # Errors
    /// [`Error::RateLimitExceeded`] if the limit is known not to allow it; [`Error::WouldWait`]
    /// if the table has to be asked (always in strict mode); [`Error::Validation`];
    /// [`Error::Unavailable`].
    #[inline]
    pub fn try_acquire(self) -> Result<Lease<'a>, Error> {
        match self.hit() {
            Some(lease) => Ok(lease),
            None => self.miss(),
        }
    }

    #[inline(always)]
    fn hit(&self) -> Option<Lease<'a>> {
        if self.cascade || self.strict {
            return None;
        }
        let engine = self.engine;
        let request = self.request();
        let take = |bucket: &BucketRef| {
            let hit = bucket.hit(&engine.clock, &request)?;
            if hit.hint {
                engine.tell_low(bucket);
            }
            Some(hit)
        };
        let hit = engine.cache.with(self.entity_id, self.resource, take)??;
        let (entity_id, resource) = (self.entity_id, self.resource);
        Some(Lease::hit(engine, entity_id, resource, self.limits, hit))
    }

    #[cold]
    fn miss(self) -> Result<Lease<'a>, Error> {
        self.validate()?;
        let would_wait = || Error::WouldWait {
            entity_id: self.entity_id.to_owned(),
            resource: self.resource.to_owned(),
        };
        if self.engine.is_closed() {
            return Err(Error::Closed);
        }
        if self.strict {
            let wait = |buckets: SmallVec<_>| self.fail(&buckets, 0, None);
            return if self.engine.breaker.is_open() {
                wait(self.buckets(None)?)
            } else {
                Err(would_wait())
            };
        }
        let parent = if self.cascade {
            self.engine
                .known_parent(self.entity_id)
                .ok_or_else(would_wait)?
        } else {
            None
        };
        let buckets = self.buckets(parent.as_deref())?;
        match self.take(&buckets) {
            Answer::Paid(lease) => Ok(lease),
            Answer::Exceeded(exceeded) => Err(exceeded.into()),
            Answer::Unavailable(at) => self.fail(&buckets, at, None),
            Answer::Ask(asked) => {
                self.ask(&buckets, asked);
                Err(would_wait())
            }
        }
    }

    /// The entity's bucket, and its parent's.
    fn buckets(&self, parent: Option<&str>) -> Result<SmallVec<[BucketRef; 2]>, Error> {
        let mut buckets = SmallVec::new();
        for entity_id in [Some(self.entity_id), parent].into_iter().flatten() {
            buckets.push(self.engine.bucket(entity_id, self.resource, self.limits)?);
        }
        Ok(buckets)
    }

    /// Tries to pay from the blocks in hand.
    fn take(&self, buckets: &[BucketRef]) -> Answer<'a> {
        let request = self.request();
        let clock = &self.engine.clock;
        loop {
            let (paid, short) = match buckets {
                [child, parent] => match child.take_both(parent, clock, &request) {
                    Ok([a, b]) => ([Some(a), Some(b)], [None, None]),
                    Err(short) => ([None, None], short),
                },
                [child, ..] => match child.take(clock, &request) {
                    Ok(paid) => ([Some(paid), None], [None, None]),
                    Err(short) => ([None, None], [Some(short), None]),
                },
                [] => return Answer::Ask([false, false]),
            };
            let is = |what: Shortage| short.map(|s| s == Some(what));
            if short == [None, None] {
                return Answer::Paid(self.lease(buckets, paid.map(|p| p.map(Payer::from))));
            }
            let undeclared = is(Shortage::Undeclared);
            if undeclared.contains(&true) {
                for (bucket, _) in buckets.iter().zip(undeclared).filter(|(_, u)| *u) {
                    bucket.declare(&self.engine.shared(self.limits));
                    self.engine.tell(bucket);
                }
                continue;
            }
            if is(Shortage::Refused).contains(&true) {
                return Answer::Exceeded(status::of_blocks(self, buckets, is(Shortage::Refused)));
            }
            let unavailable = is(Shortage::Unavailable);
            if let Some(at) = unavailable.iter().position(|u| *u) {
                return Answer::Unavailable(at);
            }
            if self.engine.breaker.is_open() {
                return Answer::Unavailable(0);
            }
            return Answer::Ask(is(Shortage::Miss));
        }
    }

    fn ask(&self, buckets: &[BucketRef], asked: [bool; 2]) {
        for (bucket, _) in buckets.iter().zip(asked).filter(|(_, asked)| *asked) {
            if bucket.want(&self.request()) {
                self.engine.tell(bucket);
            }
        }
    }

    fn lease(&self, buckets: &[BucketRef], paid: [Option<Payer>; 2]) -> Lease<'a> {
        let charges = self.request().charges().unwrap_or_default();
        let parts = buckets.iter().zip(paid).filter_map(|(bucket, payer)| {
            let bucket = bucket.clone();
            payer.map(|payer| Part { bucket, payer })
        });
        for (bucket, payer) in buckets.iter().zip(paid) {
            if matches!(payer, Some(Payer::Block { hint: true, .. })) {
                self.engine.tell_low(bucket);
            }
        }
        Lease::new(self.engine, self.limits, charges, parts.collect())
    }

    /// The answer when the bucket `at` could not be asked for, for the reason of `failure`, if
    /// that is not the one that it or the table is known to have.
    #[cold]
    fn fail(
        &self,
        buckets: &[BucketRef],
        at: usize,
        failure: Option<Arc<StoreError>>,
    ) -> Result<Lease<'a>, Error> {
        let engine = self.engine;
        let failure = failure.or_else(|| engine.trouble(&buckets[at]));
        let error = engine.unavailable(&buckets[at], failure);
        if !matches!(error, Error::Unavailable { .. }) {
            return Err(error);
        }
        let paid_by = |payer| {
            tracing::debug!(bucket = ?buckets[at].key(), ?payer, %error, "admitted without the table");
            let payers = [Some(payer), (buckets.len() > 1).then_some(payer)];
            Ok(self.lease(buckets, payers))
        };
        match self.failure_mode {
            FailureMode::Closed => {}
            FailureMode::Open => {
                engine.counters.admitted_open.add_one();
                return paid_by(Payer::Nobody);
            }
            FailureMode::Local(share) => {
                let request = self.request();
                for bucket in buckets {
                    bucket.declare(&engine.shared(self.limits));
                }
                let parent = buckets.get(1).map(|parent| &**parent);
                if buckets[0].take_share(parent, &engine.clock, &request, share) {
                    engine.counters.admitted_local.add_one();
                    return paid_by(Payer::Share(share));
                }
                let exceeded = status::of_share(self, buckets, share);
                if exceeded.is_some() {
                    engine.counters.refused_local.add_one();
                }
                if let Some(exceeded) = exceeded {
                    return Err(exceeded.into());
                }
            }
        }
        engine.counters.unavailable.add_one();
        Err(error)
    }

    async fn wait(self) -> Result<Lease<'a>, Error> {
        self.validate()?;
        let in_time = time::timeout(self.engine.acquire_timeout, self.pay()).await;
        in_time.unwrap_or_else(|_| {
            let parent = self.engine.known_parent(self.entity_id).flatten();
            let buckets = self.buckets(parent.as_deref().filter(|_| self.cascade))?;
            self.fail(&buckets, 0, None)
        })
    }

    async fn pay(&self) -> Result<Lease<'a>, Error> {
        if self.engine.is_closed() {
            return Err(Error::Closed);
        }
        let parent = if self.cascade {
            match self.engine.parent(self.entity_id).await {
                Ok(parent) => parent,
                Err(failure) => return self.fail(&self.buckets(None)?, 0, failure),
            }
        } else {
            None
        };
        let buckets = self.buckets(parent.as_deref())?;
        if self.strict {
            self.pay_strictly(&buckets).await
        } else {
            self.pay_from_blocks(&buckets).await
        }
    }

    async fn pay_from_blocks(&self, buckets: &[BucketRef]) -> Result<Lease<'a>, Error> {
        let bell = |at: usize| {
            let bucket = buckets.get(at).unwrap_or(&buckets[0]);
            self.engine.waiting_for(bucket.bucket()).notified()
        };
        loop {
            // Enlisted before the look: a write that ends in between is not missed.
            let (mut first, mut second) = (std::pin::pin!(bell(0)), std::pin::pin!(bell(1)));
            first.as_mut().enable();
            second.as_mut().enable();
            match self.take(buckets) {
                Answer::Paid(lease) => return Ok(lease),
                Answer::Exceeded(exceeded) => return Err(exceeded.into()),
                Answer::Unavailable(at) => return self.fail(buckets, at, None),
                Answer::Ask(asked) => self.ask(buckets, asked),
            }
            if self.engine.is_closed() {
                return Err(Error::Closed);
            }
            tokio::select! {
                () = first => {}
                () = second => {}
            }
        }
    }

    /// Pays with one write per bucket. The writes go on if the caller loses interest; then what
    /// they took is given back.
    async fn pay_strictly(&self, buckets: &[BucketRef]) -> Result<Lease<'a>, Error> {
        let engine = self.engine;
        if engine.breaker.is_open() {
            return self.fail(buckets, 0, None);
        }
        let limits = engine.shared(self.limits);
        let charges = self.request().charges().unwrap_or_default();
        let payment = Payment::new(&engine.clock, buckets.into(), limits, charges);
        match strict::pay(engine, payment).await {
            Ok(()) => {
                let paid = [
                    Some(Payer::Table),
                    (buckets.len() > 1).then_some(Payer::Table),
                ];
                Ok(self.lease(buckets, paid))
            }
            Err((at, NotWritten::Exceeded(found))) => {
                Err(status::of_table(self, buckets, at, found.as_ref()).into())
            }
            Err((at, not_written)) => self.fail(buckets, at, not_written.failure()),
        }
    }

    /// Acquires, runs `work`, and keeps what was consumed if it succeeds. If it fails, panics or
    /// is cancelled, everything is given back.
    ///
    /// # Errors
    /// Those of the acquire, and those of `work`.
    pub async fn run<T, E>(
        self,
        work: impl AsyncFnOnce(&mut Lease<'a>) -> Result<T, E>,
    ) -> Result<T, E>
    where
        E: From<Error>,
    {
        let mut guard = RollbackOnDrop(Some(self.await?));
        let result = match guard.0.as_mut() {
            Some(lease) => work(lease).await,
            None => return Err(Error::Closed.into()),
        };
        if let (Some(lease), Err(_)) = (guard.0.take(), &result) {
            lease.rollback().await;
        } else {
            drop(guard.0.take());
        }
        result
    }

    /// A handle to the bucket that skips looking it up: for a caller that keeps one per key.
    ///
    /// # Errors
    /// [`Error::Validation`], and for a cascade those of reading the entity.
    pub async fn handle(self) -> Result<BucketHandle, Error> {
        self.validate()?;
        let limits = self.engine.shared(self.limits);
        let bucket = self.engine.bucket(self.entity_id, self.resource, &limits)?;
        bucket.declare(&limits);
        if self.cascade {
            let parent = self.engine.parent(self.entity_id).await;
            parent.map_err(|failure| self.engine.unavailable(&bucket, failure))?;
        }
        Ok(BucketHandle::new(self.engine, bucket, limits, self.cascade))
    }
}

/// Gives a lease back if nobody took it out.
struct RollbackOnDrop<'a>(Option<Lease<'a>>);

impl Drop for RollbackOnDrop<'_> {
    fn drop(&mut self) {
        if let Some(lease) = self.0.take() {
            lease.rollback_in_background();
        }
    }
}

/// How the blocks in hand answer.
enum Answer<'a> {
    Paid(Lease<'a>),
    Exceeded(RateLimitExceeded),
    Unavailable(usize),
    Ask([bool; 2]),
}

impl From<Paid> for Payer {
    fn from(paid: Paid) -> Self {
        Self::Block {
            generation: paid.generation,
            hint: paid.hint,
        }
    }
}

/// An acquire that waits for the table.
trait Waiting<'a>: Future<Output = Result<Lease<'a>, Error>> + Send + 'a {}
impl<'a, F: Future<Output = Result<Lease<'a>, Error>> + Send + 'a> Waiting<'a> for F {}

/// The future of an [`Acquire`]. It is ready at the first poll if the tokens are in hand.
#[must_use = "futures do nothing unless they are polled"]
pub struct AcquireFuture<'a> {
    acquire: Option<Acquire<'a>>,
    waiting: Option<Pin<Box<dyn Waiting<'a>>>>,
}

impl std::fmt::Debug for AcquireFuture<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AcquireFuture")
            .field("acquire", &self.acquire)
            .finish_non_exhaustive()
    }
}

impl<'a> Future for AcquireFuture<'a> {
    type Output = Result<Lease<'a>, Error>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        if let Some(acquire) = &self.acquire {
            if let Some(lease) = acquire.hit() {
                self.acquire = None;
                return Poll::Ready(Ok(lease));
            }
            let acquire = self.acquire.take();
            self.waiting = acquire.map(|a| Box::pin(a.wait()) as Pin<Box<dyn Waiting<'a>>>);
        }
        match &mut self.waiting {
            Some(waiting) => waiting.as_mut().poll(context),
            None => Poll::Pending, // polled after it was ready
        }
    }
}

impl<'a> IntoFuture for Acquire<'a> {
    type Output = Result<Lease<'a>, Error>;
    type IntoFuture = AcquireFuture<'a>;

    fn into_future(self) -> AcquireFuture<'a> {
        AcquireFuture {
            acquire: Some(self),
            waiting: None,
        }
    }
}
