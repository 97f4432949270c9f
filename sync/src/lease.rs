//! A lease: what an acquire hands to the caller.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use smallvec::SmallVec;
use zae_limiter_core::{BucketRef, Charges, Hit, ValidationError};

use crate::admission::Admission;
use crate::engine::Engine;

use crate::strict::{self, Change, NotWritten};
use crate::target::{Limits, Loan, Target, Targets};
use crate::{Error, FailureMode, Limit, LimitStatus, RateLimitExceeded, Share, status};

/// Who paid for a part of a lease.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Payer {
    /// The token block of this generation.
    Block { generation: u32, hint: bool },
    /// The table itself.
    Table,
    /// Nobody: the table could not be asked, and the failure mode is open.
    Nobody,
    /// This process's share of the limit: the table could not be asked.
    Share(Share),
}

/// How an admission came about while the table could not be used.
///
/// See the example of [`Lease::degraded`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Degraded {
    /// The limits were not checked ([`FailureMode::Open`]).
    Open,
    /// This process's share of the limits has paid ([`FailureMode::Local`]).
    Local,
}

/// What a lease has of one bucket.
#[derive(Clone, Debug)]
pub(crate) struct Part<'a> {
    pub(crate) bucket: BucketRef,
    pub(crate) limits: Limits<'a>,
    /// By the order of the limits.
    pub(crate) charges: Charges,
    pub(crate) payer: Payer,
}

/// What an acquire was granted. It can be added to, corrected afterwards, and given back.
///
/// **Dropping a lease keeps what was consumed**: forgetting a call can never switch a limiter
/// off. [`rollback`](Self::rollback) gives it back, and [`Acquire::run`](crate::Acquire::run) does so if the work
/// fails.
///
/// A lease borrows from the limiter and from what the acquire was given;
/// [`into_owned`](Self::into_owned) frees it of that, to be moved into a task.
///
/// ```
/// # use zae_limiter::{Limit, RateLimiter};
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), zae_limiter::Error> {
/// # let limiter = RateLimiter::builder("my-app").in_memory().connect().await?;
/// let limits = [Limit::per_day("tokens", 1_000)?];
/// let acquire = limiter.acquire("user", "gpt-4").limits(&limits).consume("tokens", 500);
/// let mut lease = acquire.await?; // an estimate
/// lease.consume("tokens", 100).await?; // more, if the limit allows it
/// lease.adjust("tokens", -80).await?; // what it took in the end
/// assert_eq!(lease.consumed()["tokens"], 520);
/// lease.commit(); // as dropping it does
/// # Ok(()) }
/// ```
#[derive(Debug)]
#[must_use = "a lease that is dropped keeps what was consumed; drop it explicitly if that is meant"]
pub struct Lease<'a>(Kind<'a>);

/// Most leases are hits that nobody looks at again: a hit holds on to nothing, and is what it
/// takes to find out more.
#[derive(Debug)]
enum Kind<'a> {
    Hit {
        engine: &'a Arc<Engine>,
        limits: &'a [Limit],
        entity_id: &'a str,
        resource: &'a str,
        hit: Hit,
    },
    HandleHit {
        engine: &'a Arc<Engine>,
        limits: &'a [Limit],
        bucket: &'a BucketRef,
        hit: Hit,
    },
    Held(Box<Held<'a>>),
}

/// A lease that is looked at, or that a miss made.
#[derive(Debug)]
struct Held<'a> {
    engine: Loan<'a, Arc<Engine>, Arc<Engine>>,
    /// The entity's bucket first, then its parent's.
    parts: SmallVec<[Part<'a>; 2]>,
}

impl<'a> Lease<'a> {
    #[inline(always)]
    pub(crate) fn hit(
        engine: &'a Arc<Engine>,
        entity_id: &'a str,
        resource: &'a str,
        limits: &'a [Limit],
        hit: Hit,
    ) -> Self {
        Self(Kind::Hit {
            engine,
            limits,
            entity_id,
            resource,
            hit,
        })
    }

    #[inline(always)]
    pub(crate) fn handle_hit(
        engine: &'a Arc<Engine>,
        bucket: &'a BucketRef,
        limits: &'a [Limit],
        hit: Hit,
    ) -> Self {
        Self(Kind::HandleHit {
            engine,
            limits,
            bucket,
            hit,
        })
    }

    /// A lease of these parts; the entity's is among them.
    pub(crate) fn new(engine: &'a Arc<Engine>, parts: SmallVec<[Part<'a>; 2]>) -> Self {
        debug_assert!(!parts.is_empty());
        let engine = Loan::Borrowed(engine);
        Self(Kind::Held(Box::new(Held { engine, parts })))
    }

    /// All of it, in one form.
    fn held(&mut self) -> &mut Held<'a> {
        if !matches!(self.0, Kind::Held(_)) {
            self.0 = Kind::Held(Box::new(self.looked_up()));
        }
        match &mut self.0 {
            Kind::Held(held) => held,
            Kind::Hit { .. } | Kind::HandleHit { .. } => unreachable!("it was made one above"),
        }
    }

    fn into_held(mut self) -> Held<'a> {
        self.held();
        match self.0 {
            Kind::Held(held) => *held,
            Kind::Hit { .. } | Kind::HandleHit { .. } => unreachable!("it was made one above"),
        }
    }

    /// A hit with its bucket, which is looked up again.
    fn looked_up(&self) -> Held<'a> {
        let (engine, limits, bucket, hit) = match &self.0 {
            Kind::Hit {
                engine,
                limits,
                entity_id,
                resource,
                hit,
            } => match engine.bucket(entity_id, resource, limits) {
                Ok(bucket) => (*engine, *limits, bucket, hit),
                Err(_) => unreachable!("it was found by these names"),
            },
            Kind::HandleHit {
                engine,
                limits,
                bucket,
                hit,
            } => (*engine, *limits, (*bucket).clone(), hit),
            Kind::Held(_) => unreachable!("only a hit is looked up"),
        };
        let part = Part {
            bucket,
            limits: Loan::Borrowed(limits),
            charges: hit.charges(),
            payer: Payer::Block {
                generation: hit.generation,
                hint: false,
            },
        };
        Held {
            engine: Loan::Borrowed(engine),
            parts: smallvec::smallvec![part],
        }
    }

    /// How it was admitted, if that was without the table's tokens, because the table could not be
    /// used ([`FailureMode`]).
    ///
    /// ```
    /// # use zae_limiter::{Degraded, FailureMode, Limit, RateLimiter};
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), zae_limiter::Error> {
    /// use zae_limiter::store::{Fault, FaultyStore, MemoryStore};
    ///
    /// let table = FaultyStore::new(MemoryStore::new());
    /// let limiter = RateLimiter::builder("my-app").store(table.clone());
    /// let limiter = limiter.failure_mode(FailureMode::Open).connect().await?;
    /// let limits = [Limit::per_minute("rpm", 100)?];
    /// let acquire = || limiter.acquire("user", "api").limits(&limits).consume("rpm", 1);
    /// assert_eq!(acquire().strict(true).await?.degraded(), None);
    /// table.fail_all(Some(Fault::Unreachable));
    /// assert_eq!(acquire().strict(true).await?.degraded(), Some(Degraded::Open));
    /// # Ok(()) }
    /// ```
    #[must_use]
    pub fn degraded(&self) -> Option<Degraded> {
        let Kind::Held(held) = &self.0 else {
            return None;
        };
        match held.child().payer {
            Payer::Block { .. } | Payer::Table => None,
            Payer::Nobody => Some(Degraded::Open),
            Payer::Share(_) => Some(Degraded::Local),
        }
    }

    /// Whether it was admitted without the table's tokens.
    ///
    /// See the example of [`degraded`](Self::degraded).
    #[must_use]
    pub fn is_degraded(&self) -> bool {
        self.degraded().is_some()
    }

    /// Tokens consumed by now, by limit name; what a parent was charged with is not added.
    ///
    /// See the example of [`Lease`].
    #[must_use]
    pub fn consumed(&self) -> BTreeMap<&str, u64> {
        let (limits, charges) = match &self.0 {
            Kind::Hit { limits, hit, .. } | Kind::HandleHit { limits, hit, .. } => {
                (*limits, hit.charges())
            }
            Kind::Held(held) => (&*held.child().limits, held.child().charges.clone()),
        };
        let named = |(at, tokens)| (limits[at as usize].name(), tokens);
        charges.iter().map(named).collect()
    }

    /// How each limit stands now, as far as this process knows, for as much again as was consumed:
    /// an estimate, without asking the table. [`http`](crate::http) makes headers of it.
    ///
    /// ```
    /// # use zae_limiter::{Limit, RateLimiter};
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), zae_limiter::Error> {
    /// # let limiter = RateLimiter::builder("my-app").in_memory().connect().await?;
    /// let limits = [Limit::per_day("jobs", 10)?];
    /// let lease = limiter.acquire("user", "batch").limits(&limits).consume("jobs", 8).await?;
    /// let status = &lease.statuses()[0];
    /// assert_eq!((status.available, status.exceeded), (2, true)); // not another 8
    /// # Ok(()) }
    /// ```
    #[must_use]
    pub fn statuses(&self) -> Vec<LimitStatus> {
        let looked_up;
        let held = match &self.0 {
            Kind::Held(held) => held,
            Kind::Hit { .. } | Kind::HandleHit { .. } => {
                looked_up = self.looked_up();
                &looked_up
            }
        };
        let targets: Targets<'_> = held.parts.iter().map(Part::again).collect();
        status::estimated(&held.engine.clock, &targets)
    }

    /// The same lease without anything borrowed.
    ///
    /// ```
    /// # use zae_limiter::{Limit, RateLimiter};
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), zae_limiter::Error> {
    /// # let limiter = RateLimiter::builder("my-app").in_memory().connect().await?;
    /// let limits = [Limit::per_day("jobs", 10)?];
    /// let lease = limiter.acquire("user", "batch").limits(&limits).consume("jobs", 8).await?;
    /// let mut lease = lease.into_owned();
    /// let task = tokio::spawn(async move { lease.adjust("jobs", -3).await });
    /// task.await.unwrap()?;
    /// # Ok(()) }
    /// ```
    pub fn into_owned(self) -> Lease<'static> {
        let held = self.into_held();
        let engine = (*held.engine).clone();
        let own = |part: Part<'_>| Part {
            limits: Loan::Shared(engine.shared(&part.limits)),
            bucket: part.bucket,
            charges: part.charges,
            payer: part.payer,
        };
        let parts = held.parts.into_iter().map(own).collect();
        let engine = Loan::Shared(engine);
        Lease(Kind::Held(Box::new(Held { engine, parts })))
    }

    /// Consumes more, if the limits allow it.
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
        let held = self.held();
        held.child().slot(name)?;
        let more: SmallVec<[Payer; 2]> = {
            let parts = held.parts.iter();
            let mut targets: Targets<'_> = parts.map(|part| part.target(name, tokens)).collect();
            let payer = held.child().payer;
            let admission = Admission {
                engine: &held.engine,
                strict: matches!(payer, Payer::Table),
                failure_mode: match payer {
                    Payer::Block { .. } | Payer::Table => held.engine.failure_mode,
                    Payer::Nobody => FailureMode::Open,
                    Payer::Share(share) => FailureMode::Local(share),
                },
                patience: Duration::ZERO,
            };
            for target in &targets {
                target.request().validate()?;
            }
            let within = admission.pay(&mut targets);
            let within = tokio::time::timeout(held.engine.acquire_timeout, within);
            let more = match within.await {
                Ok(lease) => lease?,
                Err(_) => admission.fail(&targets, 0, None)?,
            };
            let parts = more.into_held().parts.into_iter();
            parts.map(|part| part.payer).collect()
        };
        for (part, payer) in held.parts.iter_mut().zip(more) {
            // What another block has paid before is given back to the table, if at all.
            part.payer = payer;
            if let Ok(slot) = part.slot(name) {
                let consumed = part.charges.tokens(slot) + tokens;
                part.charges = part.charges.with(slot, consumed);
            }
        }
        Ok(())
    }

    /// Corrects what was consumed of a limit by `delta` tokens. It may go into debt and never
    /// fails for lack of tokens: the work is done, and later acquires wait for the refill.
    ///
    /// In leased mode the correction is noted here and now, and reaches the table with the next
    /// renewal. In strict mode it is one write.
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
    /// in strict mode [`Error::Unavailable`] if the table does not answer.
    pub async fn adjust(&mut self, name: &str, delta: i64) -> Result<(), Error> {
        let held = self.held();
        let consumed = held.child().charges.tokens(held.child().slot(name)?);
        let tokens = delta.unsigned_abs();
        if tokens > Limit::TOKENS_MAX {
            let rule = format!("must be at most {} tokens", Limit::TOKENS_MAX);
            return Err(ValidationError::new("delta", delta, rule).into());
        }
        if delta < 0 && tokens > consumed {
            let rule = format!("gives back more than the {consumed} tokens consumed of {name}");
            return Err(ValidationError::new("delta", delta, rule).into());
        }
        for part in &mut held.parts {
            // A parent may have other limits.
            let Ok(slot) = part.slot(name) else { continue };
            let consumed = part.charges.tokens(slot);
            let consumed = if delta < 0 {
                let back = tokens.min(consumed);
                part.give_back(&held.engine, &Charges::of(slot, back)).await;
                consumed - back
            } else {
                part.charge(&held.engine, name, &Charges::of(slot, tokens))
                    .await?;
                consumed + tokens
            };
            part.charges = part.charges.with(slot, consumed);
        }
        Ok(())
    }

    /// Gives `tokens` of a limit back: `adjust(name, -tokens)`.
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

    /// Gives back all that was consumed. A credit that does not reach the table is lost, never
    /// repeated: that only admits less, until refill heals it.
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
    pub async fn rollback(self) {
        let held = self.into_held();
        for part in &held.parts {
            part.give_back(&held.engine, &part.charges).await;
        }
    }

    /// [`rollback`](Self::rollback) for who cannot wait.
    pub(crate) fn rollback_in_background(self) {
        let held = self.into_held();
        for part in &held.parts {
            part.give_back_later(&held.engine, &part.charges);
        }
    }
}

impl<'a> Held<'a> {
    /// What it has of the entity's own bucket.
    fn child(&self) -> &Part<'a> {
        &self.parts[0]
    }
}

impl Part<'_> {
    fn slot(&self, name: &str) -> Result<u32, Error> {
        let found = self.limits.iter().position(|limit| limit.name() == name);
        match found {
            Some(slot) => Ok(slot as u32),
            None => {
                let names: Vec<_> = self.limits.iter().map(Limit::name).collect();
                let rule = format!("is not one of the limits: {}", names.join(", "));
                Err(ValidationError::new("limit name", name, rule).into())
            }
        }
    }

    /// The same bucket, to be charged with more.
    fn target<'b>(&'b self, name: &'b str, tokens: u64) -> Target<'b> {
        let named = self.slot(name).is_ok().then_some((name, tokens));
        Target {
            bucket: self.bucket.clone(),
            limits: Loan::Borrowed(&self.limits),
            consume: named.into_iter().collect(),
            in_turn: false,
        }
    }

    /// The same bucket, for the same charges.
    fn again(&self) -> Target<'_> {
        let named = |(slot, tokens)| (self.limits[slot as usize].name(), tokens);
        Target {
            bucket: self.bucket.clone(),
            limits: Loan::Borrowed(&self.limits),
            consume: self.charges.iter().map(named).collect(),
            in_turn: false,
        }
    }

    async fn charge(&self, engine: &Engine, name: &str, correction: &Charges) -> Result<(), Error> {
        let tokens = correction.iter().map(|(_, tokens)| tokens).sum();
        match self.payer {
            Payer::Block { .. } if self.bucket.has_room_for(&self.limits, correction) => {
                let limit = self.limits.iter().find(|limit| limit.name() == name);
                let charge = |limit| self.bucket.charge_anyway(&engine.clock, limit, tokens);
                if limit.is_some_and(charge) {
                    engine.tell(&self.bucket);
                }
                Ok(())
            }
            Payer::Block { .. } | Payer::Table => {
                let debit = Change::DebitAnyway;
                let debit = strict::change(engine, debit, &self.bucket, &self.limits, correction);
                let unavailable =
                    |error: NotWritten| engine.unavailable(&self.bucket, error.failure());
                let within = tokio::time::timeout(engine.acquire_timeout, debit).await;
                let late = |_| Err(NotWritten::Failed(engine.trouble(&self.bucket)));
                within.unwrap_or_else(late).map_err(unavailable)
            }
            Payer::Nobody => Ok(()),
            Payer::Share(share) => {
                self.bucket.charge_share(&engine.clock, name, tokens, share);
                Ok(())
            }
        }
    }

    async fn give_back(&self, engine: &Engine, charges: &Charges) {
        let table = match self.payer {
            Payer::Table => true,
            Payer::Block { .. } => !self.bucket.has_room_for(&self.limits, charges),
            Payer::Nobody | Payer::Share(_) => false,
        };
        if table {
            let credit = Change::Credit;
            // If it fails for sure, the reconciler makes it good.
            let _ = strict::change(engine, credit, &self.bucket, &self.limits, charges).await;
            engine.wake(self.bucket.bucket());
        } else {
            self.give_back_later(engine, charges);
        }
    }

    /// Gives tokens back to the block that paid, or has the reconciler credit them.
    fn give_back_later(&self, engine: &Engine, charges: &Charges) {
        let (clock, bucket) = (&engine.clock, &self.bucket);
        let generation = match self.payer {
            Payer::Block { generation, .. } => Some(generation),
            Payer::Table => None,
            Payer::Nobody => return,
            Payer::Share(share) => {
                bucket.give_share_back(clock, &self.limits, charges, share);
                return;
            }
        };
        if bucket.give_back(clock, generation, &self.limits, charges) {
            engine.tell(bucket);
        }
        engine.wake(bucket.bucket());
    }
}

// A rejection is a value that callers keep; a lease must be free to move between threads.
const _: fn() = || {
    fn is_send<T: Send>() {}
    is_send::<Lease<'static>>();
    is_send::<RateLimitExceeded>();
};
