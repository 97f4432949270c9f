//! An acquire: what is asked for, and how it is answered.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use smallvec::SmallVec;
use tokio::time;
use zae_limiter_core::{BucketRef, Request, ValidationError, validate_identifier, validate_name};

use crate::admission::{Admission, Answer};
use crate::engine::Engine;
use crate::lease::Lease;
use crate::scoped::Scope;
use crate::target::Consume;
use crate::{BucketHandle, Error, FailureMode, Limit, ScopedLease};

/// The longest wait: the longest period of a limit. More would overflow clocks.
const WAIT_LIMIT_MAX: Duration = Limit::PERIOD_MAX;

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
    pub(crate) admission: Admission<'a>,
    pub(crate) entity_id: &'a str,
    pub(crate) resource: &'a str,
    pub(crate) limits: &'a [Limit],
    pub(crate) consume: Consume<'a>,
    pub(crate) cascade: Option<bool>,
    pub(crate) stored: bool,
}

impl<'a> Acquire<'a> {
    #[inline]
    pub(crate) fn new(engine: &'a Arc<Engine>, entity_id: &'a str, resource: &'a str) -> Self {
        Self {
            admission: Admission {
                engine,
                strict: engine.strict,
                failure_mode: engine.failure_mode,
                wait_limit: Duration::ZERO,
            },
            entity_id,
            resource,
            limits: &[],
            consume: SmallVec::new(),
            cascade: None,
            stored: false,
        }
    }

    /// The limits in force. What the table holds under other terms is converted.
    ///
    /// One bucket has at most 16 of them. In leased mode that counts all that are in use in this
    /// process: one is until some ten seconds after it was last consumed. Any more are an
    /// [`Error::Validation`], and nothing is charged.
    ///
    /// ```
    /// # use zae_limiter::{Limit, RateLimiter};
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), zae_limiter::Error> {
    /// # let limiter = RateLimiter::builder("my-app").in_memory().connect().await?;
    /// let limits = [Limit::per_minute("rpm", 100)?, Limit::per_minute("tpm", 10_000)?.burst(50_000)?];
    /// let acquire = limiter.acquire("user", "gpt-4").limits(&limits);
    /// acquire.consume("rpm", 1).consume("tpm", 500).await?.commit();
    /// # Ok(()) }
    /// ```
    #[inline]
    pub fn limits(mut self, limits: &'a [Limit]) -> Self {
        self.limits = limits;
        self
    }

    /// Tokens to consume of the limit called `name`. Limits that are not named neither gate nor
    /// are charged.
    ///
    /// ```
    /// # use zae_limiter::{ErrorKind, Limit, RateLimiter};
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), zae_limiter::Error> {
    /// # let limiter = RateLimiter::builder("my-app").in_memory().connect().await?;
    /// let limits = [Limit::per_minute("rpm", 100)?, Limit::per_minute("tpm", 10_000)?];
    /// let acquire = || limiter.acquire("user", "gpt-4").limits(&limits);
    /// let lease = acquire().consume("rpm", 1).await?; // tpm is neither asked nor charged
    /// assert_eq!(lease.consumed().len(), 1);
    /// let error = acquire().consume("rps", 1).await.unwrap_err();
    /// assert_eq!(error.kind(), ErrorKind::Validation);
    /// # Ok(()) }
    /// ```
    #[inline]
    pub fn consume(mut self, name: &'a str, tokens: u64) -> Self {
        self.consume.push((name, tokens));
        self
    }

    /// Whether the entity's parent is charged too, under the same limits. Nothing is admitted
    /// unless both have the tokens. Default: false, or what the entity says
    /// ([`Settings::cascade_by_entity`](crate::Settings::cascade_by_entity)).
    ///
    /// ```
    /// # use zae_limiter::{Limit, NewEntity, RateLimiter};
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), zae_limiter::Error> {
    /// # let limiter = RateLimiter::builder("my-app").in_memory().connect().await?;
    /// limiter.create_entity(NewEntity::new("project-1")).await?;
    /// limiter.create_entity(NewEntity::new("key-1").parent("project-1")).await?;
    /// let limits = [Limit::per_day("jobs", 10)?];
    /// let acquire = |id| limiter.acquire(id, "batch").limits(&limits);
    /// acquire("key-1").consume("jobs", 8).cascade(true).await?.commit();
    /// assert!(acquire("project-1").consume("jobs", 8).await.is_err()); // 2 are left of its 10
    /// # Ok(()) }
    /// ```
    pub fn cascade(mut self, cascade: bool) -> Self {
        self.cascade = Some(cascade);
        self
    }

    /// Whether stored limits are in force: those of the entity for the resource, else the
    /// entity's own, else those of the resource, else the system's, else those of
    /// [`limits`](Self::limits), which may then be left out. Entity and parent are looked up each
    /// for itself. Default: false.
    ///
    /// ```
    /// use zae_limiter::{Limit, LimitScope, RateLimiter};
    ///
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), zae_limiter::Error> {
    /// let limiter = RateLimiter::builder("my-app").in_memory().connect().await?;
    /// limiter.set_limits(&LimitScope::system(), &[Limit::per_minute("rpm", 10)?]).await?;
    /// limiter.set_limits(&LimitScope::entity("vip")?, &[Limit::per_minute("rpm", 500)?]).await?;
    /// let acquire = |id| limiter.acquire(id, "gpt-4").use_stored_limits(true).consume("rpm", 20);
    /// assert!(acquire("vip").await.is_ok());
    /// assert!(acquire("somebody").await.is_err());
    /// # Ok(()) }
    /// ```
    pub fn use_stored_limits(mut self, stored: bool) -> Self {
        self.stored = stored;
        self
    }

    /// Whether this acquire is a conditional write, whatever the limiter's mode. Default: as the
    /// limiter is set.
    ///
    /// ```
    /// # use zae_limiter::{Limit, RateLimiter};
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), zae_limiter::Error> {
    /// # let limiter = RateLimiter::builder("my-app").in_memory().connect().await?;
    /// let limits = [Limit::per_day("exports", 3)?];
    /// let acquire = limiter.acquire("user", "reports").limits(&limits).consume("exports", 1);
    /// acquire.strict(true).await?.commit(); // exact to the last token, for a request to the table
    /// # Ok(()) }
    /// ```
    pub fn strict(mut self, strict: bool) -> Self {
        self.admission.strict = strict;
        self
    }

    /// What to answer when the table cannot be reached. Default: as the limiter is set.
    ///
    /// ```
    /// # use zae_limiter::{FailureMode, Limit, RateLimiter};
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), zae_limiter::Error> {
    /// # let limiter = RateLimiter::builder("my-app").in_memory().connect().await?;
    /// let limits = [Limit::per_minute("rpm", 100)?];
    /// let acquire = limiter.acquire("user", "health").limits(&limits).consume("rpm", 1);
    /// let lease = acquire.failure_mode(FailureMode::Open).await?;
    /// assert!(!lease.is_degraded()); // the table answers
    /// # Ok(()) }
    /// ```
    pub fn failure_mode(mut self, failure_mode: FailureMode) -> Self {
        self.admission.failure_mode = failure_mode;
        self
    }

    /// How long to wait for tokens, if the limits do not allow it at once. If they cannot be had
    /// in time, as far as that is known, the answer comes at once. Dropping the future leaves the
    /// queue and consumes nothing. More than ten years count as ten years. Default: zero.
    ///
    /// Callers of this process who wait for the same bucket form a queue, and nobody takes what
    /// those before them wait for. An acquire is admitted at once if enough is left beyond that:
    /// also one that waits, and also behind callers who wait for other limits. One that does not
    /// wait is refused otherwise, with a `retry_after` that counts the queue in. A request for no
    /// tokens never waits. With [`cascade`](Self::cascade) it is first the entity's queue, and the
    /// parent's once that is all that is lacking. Other processes are not in the queue: they draw on
    /// the same table.
    ///
    /// # Errors
    /// When the time is over: [`Error::RateLimitExceeded`], with the limits that lack tokens and
    /// when they will have them.
    ///
    /// ```
    /// use std::time::Duration;
    /// use zae_limiter::{Limit, RateLimiter};
    ///
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), zae_limiter::Error> {
    /// let limiter = RateLimiter::builder("my-app").in_memory().connect().await?;
    /// let limits = [Limit::per_second("rps", 10)?];
    /// let acquire = || limiter.acquire("user", "api").limits(&limits).consume("rps", 10);
    /// acquire().await.map(drop)?;
    /// assert!(acquire().await.is_err());
    /// acquire().wait_up_to(Duration::from_secs(3)).await.map(drop)?; // a second later
    ///
    /// let late = acquire().wait_up_to(Duration::from_millis(50)).await.unwrap_err();
    /// let exceeded = late.as_exceeded().expect("a second is too long");
    /// assert_eq!(exceeded.violations().count(), 1);
    /// assert!(exceeded.retry_after() > Duration::ZERO);
    /// # Ok(()) }
    /// ```
    pub fn wait_up_to(mut self, wait_limit: Duration) -> Self {
        self.admission.wait_limit = wait_limit.min(WAIT_LIMIT_MAX);
        self
    }

    #[inline(always)]
    fn request(&self) -> Request<'_> {
        Request::new(self.limits, &self.consume)
    }

    /// Checks what cannot be right whatever the table holds, before it is asked.
    pub(crate) fn validate(&self) -> Result<(), ValidationError> {
        validate_identifier("entity_id", self.entity_id)?;
        validate_name("resource", self.resource)?;
        if self.stored && self.limits.is_empty() {
            return Ok(()); // what is stored is checked when it is known
        }
        self.request().validate()
    }

    /// Answers at once: from the tokens in hand, or from what is known of the limit.
    ///
    /// No I/O, no await; no allocation on a hit that charges at most the first two limits of an
    /// entity without cascade.
    ///
    /// ```
    /// # use zae_limiter::{ErrorKind, Limit, RateLimiter};
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), zae_limiter::Error> {
    /// # let limiter = RateLimiter::builder("my-app").in_memory().connect().await?;
    /// let limits = [Limit::per_minute("rpm", 100)?];
    /// let acquire = || limiter.acquire("user", "api").limits(&limits).consume("rpm", 1);
    /// // Nothing is in hand yet.
    /// assert_eq!(acquire().try_acquire().unwrap_err().kind(), ErrorKind::WouldWait);
    /// acquire().await?.commit();
    /// # Ok(()) }
    /// ```
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
    pub(crate) fn hit(&self) -> Option<Lease<'a>> {
        let Admission { engine, strict, .. } = self.admission;
        if self.stored || strict || self.may_cascade() {
            return None;
        }
        let request = self.request();
        let take = |bucket: &BucketRef| {
            let hit = bucket.hit(&engine.clock, &request)?;
            if hit.hint {
                engine.runs_low(bucket);
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
        let Admission { engine, strict, .. } = self.admission;
        if engine.is_closed() {
            return Err(Error::ShutDown);
        }
        let Some(targets) = self.known_targets()? else {
            return if engine.breaker.is_open() {
                self.without_table(None) // nobody waits to know more
            } else {
                Err(would_wait())
            };
        };
        if let Some(lease) = self.admission.free(&targets)? {
            return Ok(lease);
        }
        if strict {
            return if engine.breaker.is_open() {
                self.admission.fail(&targets, 0, None)
            } else {
                Err(would_wait())
            };
        }
        match self.admission.take(&targets)? {
            Answer::Paid(lease) => Ok(lease),
            Answer::Exceeded(exceeded) => Err(exceeded.into()),
            Answer::Unavailable(at) => self.admission.fail(&targets, at, None),
            Answer::Ask(asked) => {
                self.admission.ask(&targets, asked);
                Err(would_wait())
            }
        }
    }

    async fn wait(self) -> Result<Lease<'a>, Error> {
        self.validate()?;
        let Admission {
            engine, wait_limit, ..
        } = self.admission;
        let in_time = time::timeout(engine.acquire_timeout + wait_limit, self.pay()).await;
        match in_time {
            Ok(answer) => answer,
            Err(_) => self.without_table(None),
        }
    }

    async fn pay(&self) -> Result<Lease<'a>, Error> {
        match self.targets().await? {
            Ok(mut targets) => self.admission.pay(&mut targets).await,
            Err(failure) => self.without_table(failure),
        }
    }

    /// Acquires, runs `work`, and keeps what was consumed if it succeeds. If it fails, panics or
    /// is cancelled, everything is given back, with what the work itself consumed or corrected.
    ///
    /// The future is [`Send`] if that of the work is, so it can be spawned, boxed, or be part of a
    /// web handler.
    ///
    /// ```
    /// # use zae_limiter::{Error, Limit, RateLimiter};
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), zae_limiter::Error> {
    /// # let limiter = RateLimiter::builder("my-app").in_memory().connect().await?;
    /// let limits = [Limit::per_day("tokens", 1_000)?];
    /// let acquire = || limiter.acquire("user", "gpt-4").limits(&limits).consume("tokens", 600);
    /// let failed = acquire().run(async |_lease| Err::<(), _>(Error::Settings("no model".into()))).await;
    /// assert!(failed.is_err()); // and the 600 are back
    /// let words = acquire()
    ///     .run(async |mut lease| {
    ///         lease.adjust("tokens", 50).await?; // it took 650
    ///         Ok::<_, Error>(480)
    ///     })
    ///     .await?;
    /// assert_eq!(words, 480);
    /// assert!(acquire().await.is_err());
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// Those of the acquire, and those of `work`.
    pub async fn run<T, E, F>(self, work: impl FnOnce(ScopedLease<'a>) -> F) -> Result<T, E>
    where
        F: Future<Output = Result<T, E>>,
        E: From<Error>,
    {
        // Not an `AsyncFnOnce(&mut Lease)`: inside a future that has to be `Send`, the compiler
        // does not find that a closure is general enough in the lifetime of the borrow.
        let (scope, lease) = Scope::new(self.await?);
        let result = work(lease).await;
        if result.is_ok() {
            scope.keep();
        } else {
            scope.roll_back().await;
        }
        result
    }

    /// A handle to the bucket that skips looking it up: for a caller that keeps one per key. It waits for
    /// nothing but, for a cascade, the entity: not longer than an acquire does
    /// ([`Settings::acquire_timeout_ms`](crate::Settings::acquire_timeout_ms)).
    ///
    /// See the example of [`BucketHandle`].
    ///
    /// # Errors
    /// [`Error::Validation`], and for a cascade those of reading the entity.
    pub async fn handle(self) -> Result<BucketHandle, Error> {
        self.validate()?;
        let engine = self.admission.engine;
        if self.stored {
            let rule = "a handle keeps its limits; look the stored ones up with get_limits";
            return Err(ValidationError::new("use_stored_limits", true, rule).into());
        }
        let limits = engine.shared(self.limits);
        let bucket = engine.bucket(self.entity_id, self.resource, &limits)?;
        bucket.declare(&limits)?;
        if self.may_cascade() {
            let family = engine.family(self.entity_id);
            let family = time::timeout(engine.acquire_timeout, family).await;
            let family = family.unwrap_or_else(|_| Err(engine.breaker.failure()));
            family.map_err(|failure| engine.unavailable(&bucket, failure))?;
        }
        Ok(BucketHandle::new(engine, bucket, limits, self.cascade))
    }
}

/// An acquire that waits for the table.
trait Waiting<'a>: Future<Output = Result<Lease<'a>, Error>> + Send + 'a {}
impl<'a, F: Future<Output = Result<Lease<'a>, Error>> + Send + 'a> Waiting<'a> for F {}

/// The future of an [`Acquire`]. It is ready at the first poll if the tokens are in hand.
///
/// ```
/// # use zae_limiter::{Acquire, AcquireFuture, Error, Lease};
/// use std::future::IntoFuture;
///
/// /// An acquire that is kept, to be polled with other things.
/// fn begin(acquire: Acquire<'_>) -> AcquireFuture<'_> {
///     acquire.into_future()
/// }
/// # async fn both(a: Acquire<'_>, b: Acquire<'_>) -> (Result<(), Error>, Result<(), Error>) {
/// let (one, two) = tokio::join!(begin(a), begin(b));
/// # (one.map(Lease::commit), two.map(Lease::commit)) }
/// ```
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
