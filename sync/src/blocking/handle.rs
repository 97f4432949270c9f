//! A handle to one bucket, for callers that keep one per key.

use std::sync::Arc;

use super::Lease;
use super::home::Home;
use crate::Error;

/// A bucket that need not be looked up again: made by [`Acquire::handle`](super::Acquire::handle).
///
/// ```
/// use zae_limiter::{Limit, blocking::RateLimiter};
///
/// let limiter = RateLimiter::builder("my-app").in_memory().connect_blocking()?;
/// let limits = [Limit::per_second("rps", 1_000)?];
/// let bucket = limiter.acquire("api-key-123", "search").limits(&limits).handle()?;
/// for _ in 0..3 {
///     bucket.acquire(&[("rps", 1)])?.commit();
/// }
/// # Ok::<(), zae_limiter::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct BucketHandle {
    handle: crate::BucketHandle,
    home: Arc<Home>,
}

impl BucketHandle {
    pub(super) fn new(handle: crate::BucketHandle, home: &Arc<Home>) -> Self {
        let home = home.clone();
        Self { handle, home }
    }

    /// As [`Acquire::try_acquire`](super::Acquire::try_acquire), on this bucket.
    ///
    /// See the example of [`BucketHandle`].
    ///
    /// # Errors
    /// Those of [`crate::Acquire::try_acquire`].
    #[inline]
    pub fn try_acquire<'a>(&'a self, consume: &[(&'a str, u64)]) -> Result<Lease<'a>, Error> {
        let lease = self.handle.try_acquire(consume)?;
        Ok(Lease::new(lease, &self.home))
    }

    /// As [`Acquire::wait`](super::Acquire::wait), on this bucket.
    ///
    /// See the example of [`BucketHandle`].
    ///
    /// # Errors
    /// Those of a [`crate::Acquire`] that is awaited.
    #[inline]
    pub fn acquire<'a>(&'a self, consume: &[(&'a str, u64)]) -> Result<Lease<'a>, Error> {
        let lease = match self.handle.hit(consume) {
            Some(lease) => lease,
            None => self.home.wait(self.handle.acquire(consume))?,
        };
        Ok(Lease::new(lease, &self.home))
    }
}
