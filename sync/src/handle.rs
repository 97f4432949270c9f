//! A handle to one bucket, for callers that keep one per key.

use std::sync::Arc;

use zae_limiter_core::{BucketRef, Request};

use crate::acquire::Acquire;
use crate::engine::Engine;
use crate::{Error, Lease, Limit};

/// A bucket that need not be looked up again: made by [`Acquire::handle`].
///
/// ```
/// use zae_limiter::{Limit, RateLimiter};
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), zae_limiter::Error> {
/// let limiter = RateLimiter::builder("my-app").in_memory().connect().await?;
/// let limits = [Limit::per_second("rps", 1_000)?];
/// let bucket = limiter.acquire("api-key-123", "search").limits(&limits).handle().await?;
/// for _ in 0..3 {
///     bucket.acquire(&[("rps", 1)]).await?;
/// }
/// # Ok(()) }
/// ```
#[derive(Clone, Debug)]
#[repr(align(64))] // one cache line: with ten thousand handles, a second one would be a miss more
pub struct BucketHandle {
    bucket: BucketRef,
    engine: Arc<Engine>,
    limits: Arc<[Limit]>,
    fingerprint: u64,
    cascade: Option<bool>,
}

impl BucketHandle {
    pub(crate) fn new(
        engine: &Arc<Engine>,
        bucket: BucketRef,
        limits: Arc<[Limit]>,
        cascade: Option<bool>,
    ) -> Self {
        Self {
            engine: engine.clone(),
            fingerprint: Request::new(&limits, &[]).fingerprint(),
            bucket,
            limits,
            cascade,
        }
    }

    /// As [`Acquire::try_acquire`], on this bucket.
    ///
    /// ```
    /// # use zae_limiter::{Limit, RateLimiter};
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), zae_limiter::Error> {
    /// # let limiter = RateLimiter::builder("my-app").in_memory().connect().await?;
    /// let limits = [Limit::per_second("rps", 1_000)?];
    /// let bucket = limiter.acquire("key-1", "search").limits(&limits).handle().await?;
    /// bucket.acquire(&[("rps", 1)]).await?.commit(); // fetches a block
    /// bucket.acquire(&[("rps", 1)]).await?.commit();
    /// match bucket.try_acquire(&[("rps", 1)]) {
    ///     Ok(lease) => lease.commit(),
    ///     Err(error) => println!("not now: {error}"),
    /// }
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// As [`Acquire::try_acquire`].
    #[inline]
    pub fn try_acquire<'a>(&'a self, consume: &[(&'a str, u64)]) -> Result<Lease<'a>, Error> {
        match self.hit(consume) {
            Some(lease) => Ok(lease),
            None => self.by_name(consume).try_acquire(),
        }
    }

    /// As an awaited [`Acquire`], on this bucket.
    ///
    /// See the example of [`BucketHandle`].
    ///
    /// # Errors
    /// As an [`Acquire`].
    pub async fn acquire<'a>(&'a self, consume: &[(&'a str, u64)]) -> Result<Lease<'a>, Error> {
        match self.hit(consume) {
            Some(lease) => Ok(lease),
            None => self.by_name(consume).await,
        }
    }

    #[inline(always)]
    pub(crate) fn hit<'a>(&'a self, consume: &[(&'a str, u64)]) -> Option<Lease<'a>> {
        if self.cascade.unwrap_or(self.engine.cascade_by_entity) || self.engine.strict {
            return None;
        }
        let bucket = &self.bucket;
        let request = Request::known(&self.limits, self.fingerprint, consume);
        let hit = bucket.hit(&self.engine.clock, &request)?;
        if hit.hint {
            self.engine.runs_low(bucket);
        }
        Some(Lease::handle_hit(&self.engine, bucket, &self.limits, hit))
    }

    #[cold]
    fn by_name<'a>(&'a self, consume: &[(&'a str, u64)]) -> Acquire<'a> {
        let key = self.bucket.key();
        let acquire =
            Acquire::new(&self.engine, key.entity_id(), key.resource()).limits(&self.limits);
        let acquire = match self.cascade {
            Some(cascade) => acquire.cascade(cascade),
            None => acquire,
        };
        consume.iter().fold(acquire, |acquire, &(name, tokens)| {
            acquire.consume(name, tokens)
        })
    }
}
