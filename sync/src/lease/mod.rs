//! A lease: what an acquire hands to the caller.

mod afterwards;
mod held;
mod part;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use smallvec::SmallVec;
use zae_limiter_core::{BucketRef, Hit, Payer, Payments};

use self::held::Held;
pub(crate) use self::part::Part;
use crate::admission::Admission;
use crate::engine::Engine;
use crate::resolve::Lookup;
use crate::target::Loan;
use crate::{Limit, LimitStatus, RateLimitExceeded, status};

/// How an admission came about while the table could not be used.
///
/// See the example of [`Lease::degraded`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Degraded {
    /// The limits were not checked ([`FailureMode::Open`](crate::FailureMode::Open)).
    Open,
    /// This process's share of the limits has paid ([`FailureMode::Local`](crate::FailureMode::Local)).
    Local,
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

    /// A lease of these parts, admitted like this; the entity's is among them.
    pub(crate) fn new(admission: &Admission<'a>, parts: SmallVec<[Part<'a>; 2]>) -> Self {
        debug_assert!(!parts.is_empty());
        Self(Kind::Held(Box::new(Held::new(admission, parts))))
    }

    /// More is charged only after what was not known is looked up.
    pub(crate) fn look_up_later(&mut self, lookup: Lookup<'a>) {
        self.held().lookup = Some(lookup);
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
            payments: Payments::new(Payer::Block(hit.generation), hit.charges()),
        };
        let admission = Admission {
            engine,
            strict: false,
            failure_mode: engine.failure_mode,
            wait_limit: Duration::ZERO,
        };
        Held::new(&admission, smallvec::smallvec![part])
    }

    /// How it was admitted, if that was without the table's tokens, because the table could not be
    /// used ([`FailureMode`](crate::FailureMode)).
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
        match held.child().payments.first() {
            Payer::Block(_) | Payer::Table(_) => None,
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
        match &self.0 {
            Kind::Hit { limits, hit, .. } | Kind::HandleHit { limits, hit, .. } => {
                let named = |(at, tokens)| (limits[at as usize].name(), tokens);
                hit.charges().iter().map(named).collect()
            }
            Kind::Held(held) => held.charged(held.child()),
        }
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
        status::estimated(&held.engine.clock, &held.again())
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
        Lease(Kind::Held(Box::new(self.into_held().into_owned())))
    }
}

// A rejection is a value that callers keep; a lease must be free to move between threads.
const _: fn() = || {
    fn is_send<T: Send>() {}
    is_send::<Lease<'static>>();
    is_send::<RateLimitExceeded>();
};
