//! An acquire: what is asked for, and how it is answered.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use smallvec::SmallVec;
use tokio::time;
use zae_limiter_core::item::BucketItem;
use zae_limiter_core::plan;
use zae_limiter_core::{
    BucketRef, Paid, Request, Shortage, ValidationError, validate_identifier, validate_name,
};

use crate::engine::Engine;
use crate::error::{LimitStatus, RateLimitExceeded};
use crate::lease::{Lease, Part, Payer};
use crate::strict::{NotWritten, StrictPayment};
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
    engine: &'a Arc<Engine>,
    entity_id: &'a str,
    resource: &'a str,
    limits: &'a [Limit],
    consume: SmallVec<[(&'a str, u64); 2]>,
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
    fn request(&self) -> Request<'_> {
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
            return Err(would_wait());
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
            Answer::Unavailable(at) => self.fail(&buckets[at], self.engine.failure()),
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
                return Answer::Exceeded(self.exceeded(buckets, is(Shortage::Refused)));
            }
            let unavailable = is(Shortage::Unavailable);
            if let Some(at) = unavailable.iter().position(|u| *u) {
                return Answer::Unavailable(at);
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

    /// The answer when the table could not be asked.
    fn fail(
        &self,
        bucket: &BucketRef,
        failure: Option<Arc<crate::store::StoreError>>,
    ) -> Result<Lease<'a>, Error> {
        match self.engine.unavailable(bucket, failure) {
            Error::Unavailable { .. } if self.failure_mode == FailureMode::Open => {
                tracing::warn!(bucket = ?bucket.key(), "admitted without asking the table");
                Ok(Lease::degraded(self.engine, self.limits))
            }
            error => Err(error),
        }
    }

    fn exceeded(&self, buckets: &[BucketRef], refused: [bool; 2]) -> RateLimitExceeded {
        let mut statuses = Vec::new();
        for (bucket, refused) in buckets.iter().zip(refused) {
            let knowledge = bucket.knowledge(&self.engine.clock, &self.consume);
            for limit in self.limits {
                let known = knowledge.iter().find(|(l, _)| l.name() == limit.name());
                let Some((_, known)) = known else { continue };
                let named = self.consume.iter().find(|(n, _)| *n == limit.name());
                let requested = named.map_or(0, |(_, tokens)| *tokens);
                let short = known.in_hand < requested;
                statuses.push(LimitStatus {
                    entity_id: bucket.key().entity_id().to_owned(),
                    resource: self.resource.to_owned(),
                    limit: limit.clone(),
                    available: i64::try_from(known.in_hand).unwrap_or(i64::MAX),
                    requested,
                    exceeded: refused && short && known.denied,
                    retry_after: if short {
                        known.retry_after
                    } else {
                        Duration::ZERO
                    },
                });
            }
        }
        // Between the refusal and this look, tokens may have come in.
        if !statuses.iter().any(|s| s.exceeded)
            && let Some(status) = statuses.iter_mut().max_by_key(|s| s.retry_after)
        {
            status.exceeded = true;
        }
        RateLimitExceeded::new(statuses)
    }

    async fn wait(self) -> Result<Lease<'a>, Error> {
        self.validate()?;
        if self.engine.is_closed() {
            return Err(Error::Closed);
        }
        let parent = if self.cascade {
            match self.engine.parent(self.entity_id).await {
                Ok(parent) => parent,
                Err(Error::Store(error)) => {
                    let buckets = self.buckets(None)?;
                    return self.fail(&buckets[0], Some(error));
                }
                Err(error) => return Err(error),
            }
        } else {
            None
        };
        let buckets = self.buckets(parent.as_deref())?;
        let deadline = self.engine.acquire_timeout;
        let answer = if self.strict {
            time::timeout(deadline, self.pay_strictly(&buckets)).await
        } else {
            time::timeout(deadline, self.pay_from_blocks(&buckets)).await
        };
        answer.unwrap_or_else(|_| self.fail(&buckets[0], self.engine.failure()))
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
                Answer::Unavailable(at) => return self.fail(&buckets[at], self.engine.failure()),
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
        let payment = StrictPayment {
            engine: self.engine.clone(),
            buckets: buckets.into(),
            limits: self.engine.shared(self.limits),
            charges: self.request().charges().unwrap_or_default(),
        };
        let buckets = payment.buckets.clone();
        match payment.pay().await {
            Ok(()) => {
                let paid = [
                    Some(Payer::Table),
                    (buckets.len() > 1).then_some(Payer::Table),
                ];
                Ok(self.lease(&buckets, paid))
            }
            Err((at, NotWritten::Exceeded(found))) => {
                Err(self.exceeded_in_table(&buckets, at, found.as_ref()).into())
            }
            Err((at, not_written)) => self.fail(&buckets[at], not_written.failure()),
        }
    }

    fn exceeded_in_table(
        &self,
        buckets: &[BucketRef],
        refused: usize,
        found: Option<&BucketItem>,
    ) -> RateLimitExceeded {
        let now = self.engine.clock.wall();
        let mut statuses = Vec::new();
        for (at, bucket) in buckets.iter().enumerate() {
            let seen = bucket.seen();
            let item = if at == refused { found } else { seen.item() };
            for limit in self.limits {
                let named = self.consume.iter().find(|(n, _)| *n == limit.name());
                let requested = named.map_or(0, |(_, tokens)| *tokens);
                let level = plan::level(item, now, limit);
                let retry_after = limit.terms().time_until(level, requested);
                statuses.push(LimitStatus {
                    entity_id: bucket.key().entity_id().to_owned(),
                    resource: self.resource.to_owned(),
                    limit: limit.clone(),
                    available: limit.terms().to_tokens(level),
                    requested,
                    exceeded: at == refused && requested > 0 && !retry_after.is_zero(),
                    retry_after: if requested == 0 {
                        Duration::ZERO
                    } else {
                        retry_after
                    },
                });
            }
        }
        // Refill may have come in since the table said no.
        if !statuses.iter().any(|s| s.exceeded)
            && let Some(status) = statuses.iter_mut().find(|s| s.requested > 0)
        {
            status.exceeded = true;
        }
        RateLimitExceeded::new(statuses)
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
        if self.cascade {
            self.engine.parent(self.entity_id).await?;
        }
        let limits = self.engine.shared(self.limits);
        let bucket = self.engine.bucket(self.entity_id, self.resource, &limits)?;
        bucket.declare(&limits);
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
