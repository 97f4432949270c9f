//! What a blocking acquire hands to the caller.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::home::Home;
use crate::target::Loan;
use crate::{Degraded, Error, LimitStatus};

/// A [lease](crate::Lease) whose methods wait. **Dropping it keeps what was consumed.**
///
/// ```
/// use zae_limiter::{Limit, blocking::RateLimiter};
///
/// let limiter = RateLimiter::builder("my-app").in_memory().connect_blocking()?;
/// let limits = [Limit::per_day("tokens", 1_000)?];
/// let acquire = limiter.acquire("user", "gpt-4").limits(&limits).consume("tokens", 800);
/// let mut lease = acquire.wait()?;
/// assert!(lease.consume("tokens", 300).is_err());
/// lease.adjust("tokens", 300)?; // it was more; 100 tokens of debt
/// assert_eq!(lease.consumed()["tokens"], 1_100);
/// lease.rollback();
/// # Ok::<(), zae_limiter::Error>(())
/// ```
#[derive(Debug)]
#[must_use = "a lease that is dropped keeps what was consumed; commit it if that is meant"]
pub struct Lease<'a> {
    lease: crate::Lease<'a>,
    home: Loan<'a, Arc<Home>, Arc<Home>>,
}

impl<'a> Lease<'a> {
    #[inline]
    pub(super) fn new(lease: crate::Lease<'a>, home: &'a Arc<Home>) -> Self {
        let home = Loan::Borrowed(home);
        Self { lease, home }
    }

    /// How it was admitted, if that was without the table's tokens.
    /// See [`crate::Lease::degraded`].
    ///
    /// See the example there.
    #[must_use]
    pub fn degraded(&self) -> Option<Degraded> {
        self.lease.degraded()
    }

    /// Whether it was admitted without the table's tokens.
    ///
    /// See the example of [`crate::Lease::degraded`].
    #[must_use]
    pub fn is_degraded(&self) -> bool {
        self.lease.is_degraded()
    }

    /// Tokens consumed by now, by limit name; what a parent was charged with is not added.
    ///
    /// See the example of [`Lease`].
    #[must_use]
    pub fn consumed(&self) -> BTreeMap<&str, u64> {
        self.lease.consumed()
    }

    /// How each limit stands now, for as much again as was consumed.
    /// See [`crate::Lease::statuses`].
    ///
    /// See the example there.
    #[must_use]
    pub fn statuses(&self) -> Vec<LimitStatus> {
        self.lease.statuses()
    }

    /// The same lease without anything borrowed. It keeps the limiter's thread alive.
    ///
    /// ```
    /// use zae_limiter::{Limit, blocking::RateLimiter};
    ///
    /// let limiter = RateLimiter::builder("my-app").in_memory().connect_blocking()?;
    /// let limits = [Limit::per_day("jobs", 10)?];
    /// let lease = limiter.acquire("user", "batch").limits(&limits).consume("jobs", 8).wait()?;
    /// let mut lease = lease.into_owned();
    /// std::thread::spawn(move || lease.release("jobs", 3)).join().unwrap()?;
    /// # Ok::<(), zae_limiter::Error>(())
    /// ```
    pub fn into_owned(self) -> Lease<'static> {
        Lease {
            lease: self.lease.into_owned(),
            home: Loan::Shared((*self.home).clone()),
        }
    }

    /// Consumes more, if the limits allow it.
    ///
    /// See the example of [`Lease`].
    ///
    /// # Errors
    /// As an acquire; then nothing more was consumed.
    pub fn consume(&mut self, name: &str, tokens: u64) -> Result<(), Error> {
        self.home.wait(self.lease.consume(name, tokens))
    }

    /// Corrects what was consumed of a limit by `delta` tokens. It may go into debt.
    ///
    /// See the example of [`Lease`].
    ///
    /// # Errors
    /// Those of [`crate::Lease::adjust`].
    pub fn adjust(&mut self, name: &str, delta: i64) -> Result<(), Error> {
        self.home.wait(self.lease.adjust(name, delta))
    }

    /// Gives `tokens` of a limit back.
    ///
    /// See the example of [`into_owned`](Self::into_owned).
    ///
    /// # Errors
    /// Those of [`crate::Lease::release`].
    pub fn release(&mut self, name: &str, tokens: u64) -> Result<(), Error> {
        self.home.wait(self.lease.release(name, tokens))
    }

    /// Keeps what was consumed, as dropping the lease does.
    ///
    /// See the example of [`Acquire`](super::Acquire).
    pub fn commit(self) {
        self.lease.commit();
    }

    /// Gives back all that was consumed. See [`crate::Lease::rollback`].
    ///
    /// See the example of [`Lease`].
    pub fn rollback(self) {
        self.home.wait(self.lease.rollback());
    }
}
