//! An acquire that is waited for.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;
use std::time::Duration;

use super::home::Home;
use super::{BucketHandle, Lease};
use crate::{Available, Error, FailureMode, Limit, LimitStatus};

/// An [acquire](crate::Acquire) that is being put together. Call [`wait`](Self::wait),
/// [`try_acquire`](Self::try_acquire) or [`run`](Self::run).
///
/// ```
/// use std::time::Duration;
/// use zae_limiter::{Limit, blocking::RateLimiter};
///
/// let limiter = RateLimiter::builder("my-app").in_memory().connect_blocking()?;
/// let limits = [Limit::per_second("rps", 10)?];
/// let acquire = || limiter.acquire("user", "api").limits(&limits).consume("rps", 10);
/// acquire().wait()?.commit();
/// assert!(acquire().wait().is_err());
/// assert!(acquire().time_until_available()? <= Duration::from_secs(1));
/// acquire().wait_up_to(Duration::from_secs(3)).wait()?.commit(); // a second later
/// # Ok::<(), zae_limiter::Error>(())
/// ```
#[derive(Clone, Debug)]
#[must_use = "an acquire does nothing until it is waited for"]
pub struct Acquire<'a> {
    acquire: crate::Acquire<'a>,
    home: &'a Arc<Home>,
}

/// Setters that are those of the same name.
macro_rules! setters {
    ($($(#[$doc:meta])+ $name:ident($arg:ident: $type:ty);)+) => {$(
        $(#[$doc])+
        #[doc = concat!(
            "See [`crate::Acquire::", stringify!($name), "`], also for an example.",
        )]
        #[inline]
        pub fn $name(mut self, $arg: $type) -> Self {
            self.acquire = self.acquire.$name($arg);
            self
        }
    )+};
}

impl<'a> Acquire<'a> {
    #[inline]
    pub(super) fn new(acquire: crate::Acquire<'a>, home: &'a Arc<Home>) -> Self {
        Self { acquire, home }
    }

    setters! {
        /// The limits in force.
        limits(limits: &'a [Limit]);
        /// Whether the entity's parent is charged too.
        /// Default: false, or what the entity says.
        cascade(cascade: bool);
        /// Whether stored limits are in force. Default: false.
        use_stored_limits(stored: bool);
        /// Whether this acquire is a conditional write. Default: as the limiter is set.
        strict(strict: bool);
        /// What to answer when the table cannot be reached. Default: as the limiter is set.
        failure_mode(failure_mode: FailureMode);
        /// How long to wait for tokens, in the queue. Default: zero.
        wait_up_to(wait_limit: Duration);
    }

    /// Tokens to consume of the limit called `name`. See [`crate::Acquire::consume`].
    ///
    /// See the example of [`Acquire`].
    #[inline]
    pub fn consume(mut self, name: &'a str, tokens: u64) -> Self {
        self.acquire = self.acquire.consume(name, tokens);
        self
    }

    /// Acquires: at once if the tokens are in hand, else when the table has answered.
    ///
    /// See the example of [`Acquire`].
    ///
    /// # Errors
    /// Those of a [`crate::Acquire`] that is awaited.
    #[inline]
    pub fn wait(self) -> Result<Lease<'a>, Error> {
        let home = self.home;
        let lease = match self.acquire.hit() {
            Some(lease) => lease,
            None => home.wait(self.acquire.into_future())?,
        };
        Ok(Lease::new(lease, home))
    }

    /// Answers at once: from the tokens in hand, or from what is known of the limit.
    ///
    /// ```
    /// use zae_limiter::{ErrorKind, Limit, blocking::RateLimiter};
    ///
    /// let limiter = RateLimiter::builder("my-app").in_memory().connect_blocking()?;
    /// let limits = [Limit::per_minute("rpm", 100)?];
    /// let acquire = || limiter.acquire("user", "api").limits(&limits).consume("rpm", 1);
    /// // Nothing is in hand yet.
    /// assert_eq!(acquire().try_acquire().unwrap_err().kind(), ErrorKind::WouldWait);
    /// acquire().wait()?.commit();
    /// # Ok::<(), zae_limiter::Error>(())
    /// ```
    ///
    /// # Errors
    /// Those of [`crate::Acquire::try_acquire`].
    #[inline]
    pub fn try_acquire(self) -> Result<Lease<'a>, Error> {
        let lease = self.acquire.try_acquire()?;
        Ok(Lease::new(lease, self.home))
    }

    /// Acquires, runs `work`, and keeps what was consumed if it succeeds. If it fails or panics,
    /// everything is given back.
    ///
    /// ```
    /// use zae_limiter::{Error, Limit, blocking::RateLimiter};
    ///
    /// let limiter = RateLimiter::builder("my-app").in_memory().connect_blocking()?;
    /// let limits = [Limit::per_day("jobs", 10)?];
    /// let acquire = || limiter.acquire("user", "batch").limits(&limits);
    /// let failed: Result<(), Box<dyn std::error::Error>> =
    ///     acquire().consume("jobs", 10).run(|_lease| Err("out of paper".into()));
    /// assert_eq!(failed.unwrap_err().to_string(), "out of paper");
    /// let pages: u32 = acquire().consume("jobs", 10).run(|_lease| Ok::<_, Error>(3))?;
    /// assert_eq!(pages, 3);
    /// assert!(acquire().consume("jobs", 1).wait().is_err());
    /// # Ok::<(), Error>(())
    /// ```
    ///
    /// # Errors
    /// Those of the acquire, and those of `work`.
    pub fn run<T, E>(self, work: impl FnOnce(&mut Lease<'a>) -> Result<T, E>) -> Result<T, E>
    where
        E: From<Error>,
    {
        let mut lease = self.wait()?;
        match catch_unwind(AssertUnwindSafe(|| work(&mut lease))) {
            Ok(Ok(done)) => {
                lease.commit();
                Ok(done)
            }
            Ok(Err(error)) => {
                lease.rollback();
                Err(error)
            }
            Err(panic) => {
                lease.rollback();
                resume_unwind(panic)
            }
        }
    }

    /// A handle to the bucket that skips looking it up: for a caller that keeps one per key.
    ///
    /// See the example of [`BucketHandle`].
    ///
    /// # Errors
    /// Those of [`crate::Acquire::handle`].
    pub fn handle(self) -> Result<BucketHandle, Error> {
        let handle = self.home.wait(self.acquire.handle())?;
        Ok(BucketHandle::new(handle, self.home))
    }

    /// How much of each limit may be consumed. Nothing is consumed.
    ///
    /// ```
    /// use zae_limiter::{Limit, blocking::RateLimiter};
    ///
    /// let limiter = RateLimiter::builder("my-app").in_memory().connect_blocking()?;
    /// let limits = [Limit::per_day("jobs", 10)?];
    /// let acquire = || limiter.acquire("user", "batch").limits(&limits);
    /// acquire().consume("jobs", 8).wait()?.commit();
    /// assert_eq!(acquire().available()?[0].estimate, 2);
    /// assert!(acquire().consume("jobs", 3).check()?[0].exceeded);
    /// # Ok::<(), zae_limiter::Error>(())
    /// ```
    ///
    /// # Errors
    /// Those of [`crate::Acquire::available`].
    pub fn available(self) -> Result<Vec<Available>, Error> {
        self.home.wait(self.acquire.available())
    }

    /// How each limit would answer this acquire, which is not made.
    ///
    /// See the example of [`available`](Self::available).
    ///
    /// # Errors
    /// Those of [`crate::Acquire::check`].
    pub fn check(self) -> Result<Vec<LimitStatus>, Error> {
        self.home.wait(self.acquire.check())
    }

    /// How long until this acquire could be made, as far as is known; zero if at once.
    ///
    /// See the example of [`Acquire`].
    ///
    /// # Errors
    /// Those of [`crate::Acquire::time_until_available`].
    pub fn time_until_available(self) -> Result<Duration, Error> {
        self.home.wait(self.acquire.time_until_available())
    }
}
