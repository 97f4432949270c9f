//! Looks at the limits without consuming anything.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::time::Instant;
use zae_limiter_core::Knowledge;

use crate::target::{Target, Targets};
use crate::{Acquire, Error, LimitStatus, status};

/// How much of a limit may be consumed.
///
/// ```
/// # use zae_limiter::{Limit, RateLimiter};
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), zae_limiter::Error> {
/// # let limiter = RateLimiter::builder("my-app").in_memory().connect().await?;
/// let limits = [Limit::per_day("tokens", 1_000)?];
/// limiter.acquire("user", "gpt-4").limits(&limits).consume("tokens", 400).await?.commit();
/// let tokens = &limiter.available("user", "gpt-4", &limits).await?[0];
/// assert_eq!((tokens.limit_name.as_str(), tokens.estimate), ("tokens", 600));
/// assert!(tokens.age.is_some());
/// # Ok(()) }
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Available {
    /// Whose bucket it is: the entity's or its parent's.
    pub entity_id: String,
    /// The limit's name.
    pub limit_name: String,
    /// Tokens that are surely spendable here and now, without the table. None of those that
    /// callers in the queue wait for ([`Acquire::wait_up_to`]).
    pub in_hand: u64,
    /// The best estimate for the whole bucket: what is in hand, and what the table held when it
    /// was last seen, with the refill since, without what callers of this process wait for.
    /// Negative: debt, or refill to come that is spoken for.
    pub estimate: i64,
    /// How old the estimate is; none if the table has no such bucket, which is then full.
    pub age: Option<Duration>,
}

impl<'a> Acquire<'a> {
    /// How much of each limit may be consumed: of the entity's limits, and with cascade of its
    /// parent's. Nothing is consumed.
    ///
    /// In leased mode the answer comes from memory, unless nothing is known of a bucket yet; in
    /// strict mode, and then, the table is read.
    ///
    /// ```
    /// use zae_limiter::{Limit, RateLimiter};
    ///
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), zae_limiter::Error> {
    /// let limiter = RateLimiter::builder("my-app").in_memory().connect().await?;
    /// let limits = [Limit::per_minute("rpm", 100)?];
    /// let acquire = || limiter.acquire("user", "api").limits(&limits);
    /// acquire().consume("rpm", 30).await.map(drop)?;
    /// assert_eq!(acquire().available().await?[0].estimate, 70);
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// [`Error::Validation`], [`Error::Unavailable`] and [`Error::Store`].
    pub async fn available(self) -> Result<Vec<Available>, Error> {
        let mut available = Vec::new();
        for target in self.looked_at().await? {
            let known = target
                .bucket
                .knowledge(&self.admission.engine.clock, &target.request());
            for limit in target.limits.iter() {
                let found = known.iter().find(|(known, _)| known.name() == limit.name());
                let known = found.map_or_else(|| Knowledge::nothing(limit), |(_, known)| *known);
                available.push(Available {
                    entity_id: target.bucket.key().entity_id().to_owned(),
                    limit_name: limit.name().to_owned(),
                    in_hand: known.in_hand,
                    estimate: known.estimate,
                    age: known.age,
                });
            }
        }
        Ok(available)
    }

    /// How each limit would answer this acquire, which is not made. An estimate, as
    /// [`available`](Self::available) is: others may come first.
    ///
    /// ```
    /// # use zae_limiter::{Limit, RateLimiter};
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), zae_limiter::Error> {
    /// # let limiter = RateLimiter::builder("my-app").in_memory().connect().await?;
    /// let limits = [Limit::per_day("jobs", 10)?, Limit::per_minute("rpm", 60)?];
    /// let acquire = limiter.acquire("user", "batch").limits(&limits);
    /// for status in acquire.consume("jobs", 10).consume("rpm", 1).check().await? {
    ///     assert!(!status.exceeded);
    /// }
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// As [`available`](Self::available).
    pub async fn check(self) -> Result<Vec<LimitStatus>, Error> {
        let targets = self.looked_at().await?;
        Ok(status::estimated(&self.admission.engine.clock, &targets))
    }

    /// How long until this acquire could be made, as far as is known; zero if at once.
    ///
    /// ```
    /// use std::time::Duration;
    /// use zae_limiter::{Limit, RateLimiter};
    ///
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), zae_limiter::Error> {
    /// let limiter = RateLimiter::builder("my-app").in_memory().connect().await?;
    /// let limits = [Limit::per_minute("rpm", 60)?];
    /// let acquire = || limiter.acquire("user", "api").limits(&limits).consume("rpm", 60);
    /// assert_eq!(acquire().time_until_available().await?, Duration::ZERO);
    /// acquire().await.map(drop)?;
    /// assert!(acquire().time_until_available().await? > Duration::from_secs(55));
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// As [`available`](Self::available).
    pub async fn time_until_available(self) -> Result<Duration, Error> {
        let statuses = self.check().await?;
        let longest = statuses.iter().map(|status| status.retry_after).max();
        Ok(longest.unwrap_or_default())
    }

    /// The targets, each with something known of its bucket.
    async fn looked_at(&self) -> Result<Targets<'a>, Error> {
        self.validate()?;
        let engine = self.admission.engine;
        let deadline = Instant::now() + engine.acquire_timeout;
        let targets = match Box::pin(self.targets_by(deadline)).await? {
            Ok(targets) => targets,
            Err(failure) => {
                return Err(engine.unavailable_for(self.entity_id, self.resource, failure));
            }
        };
        for target in &targets {
            let Target { bucket, limits, .. } = target;
            bucket.declare(&engine.shared(limits))?;
            let known = bucket.knowledge(&engine.clock, &target.request());
            if self.admission.strict || known.iter().any(|(_, known)| known.age.is_none()) {
                let sent = engine.clock.now();
                let item = engine.read(bucket).await?;
                if bucket.saw(&engine.clock, sent, item) {
                    engine.needs_renewal(bucket);
                }
            }
        }
        Ok(targets)
    }
}
