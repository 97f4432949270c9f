//! What becomes of a lease: more is consumed, corrected, kept or given back.

use tokio::sync::oneshot;
use zae_limiter_core::ValidationError;

use super::Lease;
use crate::{Error, Limit, strict};

impl Lease<'_> {
    /// Consumes more, if the limits allow it; paid for as the acquire was, from the block in hand or by a
    /// write.
    ///
    /// If the lease was admitted by a [failure mode](crate::FailureMode) before its parent or its stored
    /// limits were known, they are looked up first, and are charged for what is added from then on. If the
    /// table is still away, the failure mode decides again.
    ///
    /// Dropping the future consumes nothing: a write that it had begun is undone in the background.
    ///
    /// ```
    /// # use zae_limiter::{ErrorKind, Limit, RateLimiter};
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), zae_limiter::Error> {
    /// # let limiter = RateLimiter::builder("my-app").in_memory().connect().await?;
    /// let limits = [Limit::per_day("jobs", 10)?];
    /// let mut lease = limiter.acquire("user", "batch").limits(&limits).consume("jobs", 4).await?;
    /// lease.consume("jobs", 5).await?;
    /// let refused = lease.consume("jobs", 5).await.unwrap_err();
    /// assert_eq!(refused.kind(), ErrorKind::RateLimitExceeded);
    /// assert_eq!(lease.consumed()["jobs"], 9);
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// As an acquire; then nothing more was consumed.
    pub async fn consume(&mut self, name: &str, tokens: u64) -> Result<(), Error> {
        self.held().consume(name, tokens).await
    }

    /// Corrects what was consumed of a limit by `delta` tokens. It may go into debt and never
    /// fails for lack of tokens: the work is done, and later acquires wait for the refill.
    ///
    /// In leased mode the correction is noted here and now, and reaches the table with the next
    /// renewal. In strict mode it is one write per bucket; where one of two cannot be corrected, neither is.
    /// While the table is away, what is added to a [degraded](Self::degraded) lease is paid for as it was
    /// admitted; when the table is back, it is charged like that of any other lease. What was not known when
    /// it was admitted is looked up before that, as by [`consume`](Self::consume).
    ///
    /// What is given back goes to its payer, the last payment first: to the block in hand, to
    /// the table, or to nobody, where the table did not pay ([`degraded`](Self::degraded)). What was
    /// charged beyond the block is owed to the table, and giving back cancels that first.
    ///
    /// Dropping the future does not stop a correction: a write that it had begun goes on in the
    /// background, and is counted once, also if the lease is corrected again or rolled back meanwhile.
    ///
    /// ```
    /// # use zae_limiter::{Limit, RateLimiter};
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), zae_limiter::Error> {
    /// # let limiter = RateLimiter::builder("my-app").in_memory().connect().await?;
    /// let limits = [Limit::per_day("tokens", 1_000)?];
    /// let acquire = || limiter.acquire("user", "gpt-4").limits(&limits).consume("tokens", 900);
    /// let mut lease = acquire().await?;
    /// lease.adjust("tokens", 400).await?; // it was 1,300: 300 of debt
    /// assert_eq!(limiter.available("user", "gpt-4", &limits).await?[0].estimate, -300);
    /// assert!(acquire().await.is_err());
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// [`Error::Validation`] for an unknown limit, or if more is given back than was consumed;
    /// in strict mode [`Error::Unavailable`] if the table does not answer; then nothing was corrected.
    pub async fn adjust(&mut self, name: &str, delta: i64) -> Result<(), Error> {
        let tokens = delta.unsigned_abs();
        if tokens > Limit::TOKENS_MAX {
            let rule = format!("must be at most {} tokens", Limit::TOKENS_MAX);
            return Err(ValidationError::new("delta", delta, rule).into());
        }
        if delta > 0 {
            self.held().charge_more(name, tokens).await
        } else {
            self.held().release(name, tokens).await
        }
    }

    /// Gives `tokens` of a limit back: `adjust(name, -tokens)`, also where the future is dropped.
    ///
    /// ```
    /// # use zae_limiter::{Limit, RateLimiter};
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), zae_limiter::Error> {
    /// # let limiter = RateLimiter::builder("my-app").in_memory().connect().await?;
    /// let limits = [Limit::per_day("tokens", 1_000)?];
    /// let mut lease = limiter.acquire("user", "gpt-4").limits(&limits).consume("tokens", 900).await?;
    /// lease.release("tokens", 650).await?;
    /// assert_eq!(lease.consumed()["tokens"], 250);
    /// assert!(lease.release("tokens", 251).await.is_err());
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// As [`adjust`](Self::adjust).
    pub async fn release(&mut self, name: &str, tokens: u64) -> Result<(), Error> {
        let delta = i64::try_from(tokens).unwrap_or(i64::MAX);
        self.adjust(name, -delta).await
    }

    /// Keeps what was consumed, as dropping the lease does.
    ///
    /// See the example of [`Lease`].
    pub fn commit(self) {}

    /// Gives back all that was consumed, to its payers. A credit that does not reach the table is
    /// lost, never repeated: that only admits less, until refill heals it.
    ///
    /// It begins with the call, and goes on in the background if the future is dropped. In leased mode
    /// it is done when the call returns; in strict mode it is one write per bucket, which the future waits for.
    ///
    /// ```
    /// # use zae_limiter::{Limit, RateLimiter};
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), zae_limiter::Error> {
    /// # let limiter = RateLimiter::builder("my-app").in_memory().connect().await?;
    /// let limits = [Limit::per_day("jobs", 10)?];
    /// let acquire = || limiter.acquire("user", "batch").limits(&limits).consume("jobs", 10).strict(true);
    /// acquire().await?.rollback().await;
    /// acquire().await?.commit(); // all ten are there again
    /// # Ok(()) }
    /// ```
    pub fn rollback(self) -> impl Future<Output = ()> + Send + use<> {
        let held = self.into_held();
        let ended = if held.begun.is_none() {
            strict::credit(&held.engine, held.give_all_back())
        } else {
            // What is to be credited is known when that has ended.
            let mut held = held.into_owned();
            let engine = (*held.engine).clone();
            Some(engine.spawn(async move {
                let _ = held.settle().await;
                ended(strict::credit(&held.engine, held.give_all_back())).await;
            }))
        };
        self::ended(ended)
    }
}

/// Waits for writes that go on without it.
pub(super) async fn ended(writes: Option<oneshot::Receiver<()>>) {
    if let Some(writes) = writes {
        let _ = writes.await; // not if the runtime ends
    }
}
