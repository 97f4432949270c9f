//! A lease: what an acquire hands to the caller.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use smallvec::SmallVec;
use tokio::sync::oneshot;
use zae_limiter_core::sabotage::Sabotage;
use zae_limiter_core::{BucketRef, Charges, Hit, Payer, Payment, Payments, ValidationError};

use crate::admission::Admission;
use crate::engine::Engine;
use crate::strict::{self, BucketChange, Change, NotWritten};
use crate::target::{Limits, Loan, Target, Targets};
use crate::{Error, FailureMode, Limit, LimitStatus, RateLimitExceeded, status};

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
    pub(crate) payments: Payments,
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
    /// Whether more is paid by writes, and what happens if it cannot be: as the acquire was told.
    strict: bool,
    failure_mode: FailureMode,
    begun: Option<Begun>,
}

/// A correction upwards that the table is being told of. It counts as made until it is known not to be.
#[derive(Debug)]
struct Begun {
    limit: Arc<str>,
    tokens: u64,
    /// If not: which part's bucket is why.
    ended: oneshot::Receiver<Result<(), (usize, NotWritten)>>,
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
        Self(Kind::Held(Box::new(Held {
            engine: Loan::Borrowed(admission.engine),
            parts,
            strict: admission.strict,
            failure_mode: admission.failure_mode,
            begun: None,
        })))
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
        Held {
            parts: smallvec::smallvec![part],
            strict: false,
            failure_mode: engine.failure_mode,
            begun: None,
            engine: Loan::Borrowed(engine),
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
        match held.child().payments.first() {
            Payer::Block(_) | Payer::Table => None,
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
            Kind::Held(held) => (&*held.child().limits, held.child().payments.charges()),
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
        Lease(Kind::Held(Box::new(self.into_held().into_owned())))
    }

    /// Consumes more, if the limits allow it; paid for as the acquire was, from the block in hand or by a
    /// write.
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
        let held = self.held();
        held.child().slot(name)?;
        let _ = held.settle().await;
        let more = held.pay_for(name, tokens).await?;
        for (part, payer) in held.parts.iter_mut().zip(more) {
            if let Ok(slot) = part.slot(name) {
                part.payments.add(payer, slot, tokens);
            }
        }
        Ok(())
    }

    /// Corrects what was consumed of a limit by `delta` tokens. It may go into debt and never
    /// fails for lack of tokens: the work is done, and later acquires wait for the refill.
    ///
    /// In leased mode the correction is noted here and now, and reaches the table with the next
    /// renewal. In strict mode it is one write per bucket; where one of two cannot be corrected, neither is.
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
        let held = self.held();
        let slot = held.child().slot(name)?;
        let tokens = delta.unsigned_abs();
        if tokens > Limit::TOKENS_MAX {
            let rule = format!("must be at most {} tokens", Limit::TOKENS_MAX);
            return Err(ValidationError::new("delta", delta, rule).into());
        }
        let _ = held.settle().await;
        if delta >= 0 {
            held.charge(name, tokens);
            return held.settle().await;
        }
        let consumed = held.child().payments.tokens(slot);
        if tokens > consumed {
            let rule = format!("gives back more than the {consumed} tokens consumed of {name}");
            return Err(ValidationError::new("delta", delta, rule).into());
        }
        let mut credits = Vec::new();
        for part in &mut held.parts {
            // A parent may have other limits.
            if let Ok(slot) = part.slot(name) {
                let back = if Sabotage::CancelledCreditRepeated.is_planted() {
                    part.payments.clone().take_back(slot, tokens)
                } else {
                    part.payments.take_back(slot, tokens)
                };
                part.give_back(&held.engine, &back, &mut credits);
            }
        }
        ended(strict::credit(&held.engine, credits)).await;
        if Sabotage::CancelledCreditRepeated.is_planted() {
            for part in &mut held.parts {
                let _ = part
                    .slot(name)
                    .map(|slot| part.payments.take_back(slot, tokens));
            }
        }
        Ok(())
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

impl<'a> Held<'a> {
    /// What it has of the entity's own bucket.
    fn child(&self) -> &Part<'a> {
        &self.parts[0]
    }

    fn into_owned(self) -> Held<'static> {
        let engine = (*self.engine).clone();
        let own = |part: Part<'_>| Part {
            limits: Loan::Shared(engine.shared(&part.limits)),
            bucket: part.bucket,
            payments: part.payments,
        };
        Held {
            parts: self.parts.into_iter().map(own).collect(),
            strict: self.strict,
            failure_mode: self.failure_mode,
            begun: self.begun,
            engine: Loan::Shared(engine),
        }
    }

    /// Pays for more, as the acquire was paid; says who has paid, by part.
    async fn pay_for(&self, name: &str, tokens: u64) -> Result<SmallVec<[Payer; 2]>, Error> {
        let parts = self.parts.iter();
        let mut targets: Targets<'_> = parts.map(|part| part.target(name, tokens)).collect();
        for target in &targets {
            target.request().validate()?;
        }
        let admission = Admission {
            engine: &self.engine,
            strict: self.strict,
            failure_mode: self.failure_mode,
            patience: Duration::ZERO,
        };
        let within = admission.pay(&mut targets);
        let more = match tokio::time::timeout(self.engine.acquire_timeout, within).await {
            Ok(lease) => lease?,
            Err(_) => admission.fail(&targets, 0, None)?,
        };
        let parts = more.into_held().parts.into_iter();
        Ok(parts.map(|part| part.payments.last()).collect())
    }

    /// Charges `tokens` more, whatever there is. If the table has to be told, that has begun then, and
    /// [`settle`](Self::settle) says how it ends.
    fn charge(&mut self, name: &str, tokens: u64) {
        let mut debits = Vec::new();
        for (at, part) in self.parts.iter_mut().enumerate() {
            // A parent may have other limits.
            if let Ok(slot) = part.slot(name)
                && let Some(debit) = part.charge(&self.engine, slot, tokens)
            {
                debits.push((at, debit));
            }
        }
        self.begun = (!debits.is_empty()).then(|| Begun {
            limit: name.into(),
            tokens,
            ended: strict::debit_anyway(&self.engine, debits),
        });
    }

    /// How that has ended which was begun; another call may have begun it, and its caller gone away.
    async fn settle(&mut self) -> Result<(), Error> {
        let Some(begun) = &mut self.begun else {
            return Ok(());
        };
        let ended = (&mut begun.ended).await;
        let Some(begun) = self.begun.take() else {
            return Ok(());
        };
        let (at, failure) = match ended {
            Ok(Ok(())) => return Ok(()),
            Ok(Err((at, not_written))) => (at, not_written.failure()),
            Err(_) => (0, None), // the runtime ends
        };
        for part in &mut self.parts {
            if let Ok(slot) = part.slot(&begun.limit) {
                let mut back = part.payments.take_back(slot, begun.tokens);
                back.retain(|payment| payment.payer != Payer::Table); // it was not debited
                part.give_back(&self.engine, &back, &mut Vec::new());
            }
        }
        let failure = failure.or_else(|| self.engine.trouble(&self.parts[at].bucket));
        Err(self.engine.unavailable(&self.parts[at].bucket, failure))
    }

    /// Gives back what can be given back here; returns what is to be credited to the table.
    fn give_all_back(&self) -> Vec<BucketChange> {
        let mut credits = Vec::new();
        for part in &self.parts {
            let all: SmallVec<[Payment; 1]> = part.payments.iter().rev().cloned().collect();
            part.give_back(&self.engine, &all, &mut credits);
        }
        credits
    }
}

/// Waits for writes that go on without it.
async fn ended(writes: Option<oneshot::Receiver<()>>) {
    if let Some(writes) = writes {
        let _ = writes.await; // not if the runtime ends
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
            ticket: None,
        }
    }

    /// The same bucket, for the same charges.
    fn again(&self) -> Target<'_> {
        let named = |(slot, tokens)| (self.limits[slot as usize].name(), tokens);
        Target {
            bucket: self.bucket.clone(),
            limits: Loan::Borrowed(&self.limits),
            consume: self.payments.charges().iter().map(named).collect(),
            ticket: None,
        }
    }

    /// Charges more, whatever there is; returns the debit that the table is to be told of at once.
    fn charge(&mut self, engine: &Engine, slot: u32, tokens: u64) -> Option<BucketChange> {
        let charges = Charges::of(slot, tokens);
        let last = self.payments.last();
        let limit = &self.limits[slot as usize];
        let payer = match last {
            Payer::Block(_) if self.bucket.has_room_for(&self.limits, &charges) => {
                let paid = self.bucket.charge_anyway(&engine.clock, limit, tokens);
                if paid.hint {
                    engine.tell(&self.bucket);
                }
                Payer::Block(paid.generation)
            }
            Payer::Block(_) | Payer::Table => Payer::Table,
            Payer::Nobody => Payer::Nobody,
            Payer::Share(share) => {
                (self.bucket).charge_share(&engine.clock, limit.name(), tokens, share);
                last
            }
        };
        self.payments.add(payer, slot, tokens);
        (payer == Payer::Table).then(|| self.change(engine, Change::DebitAnyway, charges))
    }

    fn change(&self, engine: &Engine, change: Change, charges: Charges) -> BucketChange {
        BucketChange {
            change,
            bucket: self.bucket.clone(),
            limits: engine.shared(&self.limits),
            charges,
        }
    }

    /// Gives tokens back to their payers; what the table is to be credited with at once is added
    /// to `credits`.
    fn give_back(&self, engine: &Engine, payments: &[Payment], credits: &mut Vec<BucketChange>) {
        let (clock, bucket, limits) = (&engine.clock, &self.bucket, &*self.limits);
        for Payment { payer, charges } in payments {
            match payer {
                Payer::Block(generation) if bucket.has_room_for(limits, charges) => {
                    if bucket.give_back(clock, Some(*generation), limits, charges) {
                        engine.tell(bucket);
                    }
                }
                Payer::Block(_) | Payer::Table => {
                    credits.push(self.change(engine, Change::Credit, charges.clone()));
                }
                Payer::Nobody => {}
                Payer::Share(share) => bucket.give_share_back(clock, limits, charges, *share),
            }
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
