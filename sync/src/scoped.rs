//! The lease of one piece of work: what becomes of it depends on how the work ends.

use std::mem;
use std::ops::{Deref, DerefMut};
use std::sync::Arc;

use parking_lot::Mutex;

use crate::Lease;

/// The lease that [`Acquire::run`](crate::Acquire::run) passes to the work.
///
/// It is used as a [`Lease`]: take it as `mut` to correct what was consumed. Dropping it decides
/// nothing; `run` keeps or gives back what was consumed when the work has ended, whatever the work
/// did with it.
///
/// ```
/// # use zae_limiter::{Error, Limit, RateLimiter};
/// use zae_limiter::ScopedLease;
///
/// /// The work of a request, as a function of its own.
/// async fn answer(mut lease: ScopedLease<'_>) -> Result<String, Error> {
///     lease.adjust("tokens", 20).await?;
///     Ok(String::from("42"))
/// }
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), zae_limiter::Error> {
/// # let limiter = RateLimiter::builder("my-app").in_memory().connect().await?;
/// let limits = [Limit::per_day("tokens", 1_000)?];
/// let acquire = limiter.acquire("user", "gpt-4").limits(&limits).consume("tokens", 600);
/// assert_eq!(acquire.run(answer).await?, "42");
/// # Ok(()) }
/// ```
#[derive(Debug)]
pub struct ScopedLease<'a> {
    /// None only while it is dropped.
    lease: Option<Lease<'a>>,
    outcome: Arc<Mutex<Outcome<'a>>>,
}

/// How the work has ended, and where the lease is.
#[derive(Debug)]
enum Outcome<'a> {
    /// The work goes on. It holds the lease, unless it has dropped it already.
    Open(Option<Lease<'a>>),
    Keep,
    RollBack,
}

/// The end of `run` that waits for the work. Dropped early, it gives everything back: the work
/// has panicked, or the caller has lost interest.
#[derive(Debug)]
pub(crate) struct Scope<'a>(Arc<Mutex<Outcome<'a>>>);

impl<'a> Scope<'a> {
    pub(crate) fn new(lease: Lease<'a>) -> (Self, ScopedLease<'a>) {
        let outcome = Arc::new(Mutex::new(Outcome::Open(None)));
        let scope = Self(outcome.clone());
        let lease = Some(lease);
        (scope, ScopedLease { lease, outcome })
    }

    /// The work has succeeded.
    pub(crate) fn keep(self) {
        self.end(Outcome::Keep);
    }

    /// The work has failed.
    pub(crate) async fn roll_back(self) {
        if let Some(lease) = self.end(Outcome::RollBack) {
            lease.rollback().await;
        }
    }

    /// Notes how the work has ended. Returns the lease, unless the work still has it somewhere;
    /// then the same is done when it is dropped there.
    fn end(&self, outcome: Outcome<'a>) -> Option<Lease<'a>> {
        let mut current = self.0.lock();
        match mem::replace(&mut *current, outcome) {
            Outcome::Open(lease) => lease,
            ended => {
                *current = ended;
                None
            }
        }
    }
}

impl Drop for Scope<'_> {
    fn drop(&mut self) {
        if let Some(lease) = self.end(Outcome::RollBack) {
            drop(lease.rollback()); // goes on in the background
        }
    }
}

impl Drop for ScopedLease<'_> {
    fn drop(&mut self) {
        let Some(lease) = self.lease.take() else {
            return;
        };
        let mut outcome = self.outcome.lock();
        match &mut *outcome {
            Outcome::Open(place) => *place = Some(lease),
            Outcome::Keep => lease.commit(),
            Outcome::RollBack => {
                drop(outcome); // nothing foreign is called under the lock
                drop(lease.rollback()); // goes on in the background
            }
        }
    }
}

impl<'a> Deref for ScopedLease<'a> {
    type Target = Lease<'a>;
    fn deref(&self) -> &Lease<'a> {
        match &self.lease {
            Some(lease) => lease,
            None => unreachable!("it is taken out only while it is dropped"),
        }
    }
}

impl<'a> DerefMut for ScopedLease<'a> {
    fn deref_mut(&mut self) -> &mut Lease<'a> {
        match &mut self.lease {
            Some(lease) => lease,
            None => unreachable!("it is taken out only while it is dropped"),
        }
    }
}
