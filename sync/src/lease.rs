//! A lease: what an acquire hands to the caller.

use std::borrow::Borrow;
use std::collections::BTreeMap;
use std::ops::Deref;
use std::sync::Arc;

use smallvec::SmallVec;
use zae_limiter_core::{BucketRef, Charges, Hit, ValidationError};

use crate::acquire::Acquire;
use crate::engine::Engine;
use crate::error::RateLimitExceeded;
use crate::strict::{self, Change, NotWritten};
use crate::{Error, FailureMode, Limit, Share};

/// Something borrowed from the caller, or shared.
#[derive(Clone, Debug)]
pub(crate) enum Loan<'a, B: ?Sized, S: Borrow<B>> {
    Borrowed(&'a B),
    Shared(S),
}

impl<B: ?Sized, S: Borrow<B>> Deref for Loan<'_, B, S> {
    type Target = B;
    fn deref(&self) -> &B {
        match self {
            Self::Borrowed(borrowed) => borrowed,
            Self::Shared(shared) => shared.borrow(),
        }
    }
}

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
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Degraded {
    /// The limits were not checked ([`FailureMode::Open`]).
    Open,
    /// This process's share of the limits has paid ([`FailureMode::Local`]).
    Local,
}

/// What a lease has of one bucket.
#[derive(Clone, Debug)]
pub(crate) struct Part {
    pub(crate) bucket: BucketRef,
    pub(crate) payer: Payer,
}

/// What an acquire was granted. It can be added to, corrected afterwards, and given back.
///
/// **Dropping a lease keeps what was consumed**: forgetting a call can never switch a limiter
/// off. [`rollback`](Self::rollback) gives it back, and [`Acquire::run`] does so if the work
/// fails.
///
/// A lease borrows from the limiter and from what the acquire was given;
/// [`into_owned`](Self::into_owned) frees it of that, to be moved into a task.
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
    limits: Loan<'a, [Limit], Arc<[Limit]>>,
    /// By the order of the limits.
    charges: Charges,
    parts: SmallVec<[Part; 2]>,
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

    pub(crate) fn new(
        engine: &'a Arc<Engine>,
        limits: &'a [Limit],
        charges: Charges,
        parts: SmallVec<[Part; 2]>,
    ) -> Self {
        Self(Kind::Held(Box::new(Held {
            engine: Loan::Borrowed(engine),
            limits: Loan::Borrowed(limits),
            charges,
            parts,
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
            } => {
                let bucket = engine.bucket(entity_id, resource, limits).ok();
                (*engine, *limits, bucket, hit)
            }
            Kind::HandleHit {
                engine,
                limits,
                bucket,
                hit,
            } => (*engine, *limits, Some((*bucket).clone()), hit),
            Kind::Held(_) => unreachable!("only a hit is looked up"),
        };
        let payer = Payer::Block {
            generation: hit.generation,
            hint: false,
        };
        let parts = bucket.into_iter().map(|bucket| Part { bucket, payer });
        Held {
            engine: Loan::Borrowed(engine),
            limits: Loan::Borrowed(limits),
            charges: hit.charges(),
            parts: parts.collect(),
        }
    }

    /// How it was admitted, if that was without the table's tokens, because the table could not be
    /// used ([`FailureMode`]).
    #[must_use]
    pub fn degraded(&self) -> Option<Degraded> {
        let Kind::Held(held) = &self.0 else {
            return None;
        };
        match held.parts.first()?.payer {
            Payer::Block { .. } | Payer::Table => None,
            Payer::Nobody => Some(Degraded::Open),
            Payer::Share(_) => Some(Degraded::Local),
        }
    }

    /// Whether it was admitted without the table's tokens.
    #[must_use]
    pub fn is_degraded(&self) -> bool {
        self.degraded().is_some()
    }

    /// Tokens consumed by now, by limit name; what a parent was charged with is not added.
    #[must_use]
    pub fn consumed(&self) -> BTreeMap<&str, u64> {
        let (limits, charges) = match &self.0 {
            Kind::Hit { limits, hit, .. } | Kind::HandleHit { limits, hit, .. } => {
                (*limits, hit.charges())
            }
            Kind::Held(held) => (&*held.limits, held.charges.clone()),
        };
        let named = |(at, tokens)| (limits[at as usize].name(), tokens);
        charges.iter().map(named).collect()
    }

    /// The same lease without anything borrowed.
    pub fn into_owned(self) -> Lease<'static> {
        let held = self.into_held();
        let limits = held.engine.shared(&held.limits);
        Lease(Kind::Held(Box::new(Held {
            engine: Loan::Shared((*held.engine).clone()),
            limits: Loan::Shared(limits),
            charges: held.charges,
            parts: held.parts,
        })))
    }

    /// Consumes more, if the limits allow it.
    ///
    /// # Errors
    /// As an acquire; then nothing more was consumed.
    pub async fn consume(&mut self, name: &str, tokens: u64) -> Result<(), Error> {
        let held = self.held();
        let slot = held.slot(name)?;
        let more = {
            let Some(child) = held.parts.first() else {
                return Ok(()); // its bucket could not be named
            };
            let (entity_id, resource) = (
                child.bucket.key().entity_id(),
                child.bucket.key().resource(),
            );
            let acquire = Acquire::new(&held.engine, entity_id, resource)
                .limits(&held.limits)
                .consume(name, tokens)
                .cascade(held.parts.len() > 1)
                .strict(matches!(child.payer, Payer::Table));
            let acquire = match child.payer {
                Payer::Block { .. } | Payer::Table => acquire,
                Payer::Nobody => acquire.failure_mode(FailureMode::Open),
                Payer::Share(share) => acquire.failure_mode(FailureMode::Local(share)),
            };
            acquire.await?.into_held().parts
        };
        // What was paid by another block is given back to the table, if at all.
        held.parts = more;
        let consumed = held.charges.tokens(slot) + tokens;
        held.charges = held.charges.with(slot, consumed);
        Ok(())
    }

    /// Corrects what was consumed of a limit by `delta` tokens. It may go into debt and never
    /// fails for lack of tokens: the work is done, and later acquires wait for the refill.
    ///
    /// In leased mode the correction is noted here and now, and reaches the table with the next
    /// renewal. In strict mode it is one write.
    ///
    /// # Errors
    /// [`Error::Validation`] for an unknown limit, or if more is given back than was consumed;
    /// in strict mode [`Error::Unavailable`] if the table does not answer.
    pub async fn adjust(&mut self, name: &str, delta: i64) -> Result<(), Error> {
        let held = self.held();
        let slot = held.slot(name)?;
        let consumed = held.charges.tokens(slot);
        let tokens = delta.unsigned_abs();
        if tokens > Limit::TOKENS_MAX {
            let rule = format!("must be at most {} tokens", Limit::TOKENS_MAX);
            return Err(ValidationError::new("delta", delta, rule).into());
        }
        if delta < 0 && tokens > consumed {
            let rule = format!("gives back more than the {consumed} tokens consumed of {name}");
            return Err(ValidationError::new("delta", delta, rule).into());
        }
        let correction = Charges::of(slot, tokens);
        for part in &held.parts {
            if delta < 0 {
                held.give_back(part, &correction).await;
            } else {
                held.charge(part, name, &correction, tokens).await?;
            }
        }
        let consumed = if delta < 0 {
            consumed - tokens
        } else {
            consumed + tokens
        };
        held.charges = held.charges.with(slot, consumed);
        Ok(())
    }

    /// Gives `tokens` of a limit back: `adjust(name, -tokens)`.
    ///
    /// # Errors
    /// As [`adjust`](Self::adjust).
    pub async fn release(&mut self, name: &str, tokens: u64) -> Result<(), Error> {
        let delta = i64::try_from(tokens).unwrap_or(i64::MAX);
        self.adjust(name, -delta).await
    }

    /// Gives back all that was consumed. A credit that does not reach the table is lost, never
    /// repeated: that only admits less, until refill heals it.
    pub async fn rollback(self) {
        let held = self.into_held();
        for part in &held.parts {
            held.give_back(part, &held.charges).await;
        }
    }

    /// [`rollback`](Self::rollback) for who cannot wait.
    pub(crate) fn rollback_in_background(self) {
        let held = self.into_held();
        for part in &held.parts {
            held.give_back_later(part, &held.charges);
        }
    }
}

impl Held<'_> {
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

    async fn charge(
        &self,
        part: &Part,
        name: &str,
        correction: &Charges,
        tokens: u64,
    ) -> Result<(), Error> {
        let engine = &*self.engine;
        match part.payer {
            Payer::Block { .. } => {
                let limit = self.limits.iter().find(|limit| limit.name() == name);
                let charge = |limit| part.bucket.charge_anyway(&engine.clock, limit, tokens);
                if limit.is_some_and(charge) {
                    engine.tell(&part.bucket);
                }
                Ok(())
            }
            Payer::Table => {
                let debit = Change::DebitAnyway;
                let debit = strict::change(engine, debit, &part.bucket, &self.limits, correction);
                let unavailable =
                    |error: NotWritten| engine.unavailable(&part.bucket, error.failure());
                let within = tokio::time::timeout(engine.acquire_timeout, debit).await;
                let late = |_| Err(NotWritten::Failed(engine.trouble(&part.bucket)));
                within.unwrap_or_else(late).map_err(unavailable)
            }
            Payer::Nobody => Ok(()),
            Payer::Share(share) => {
                let clock = &engine.clock;
                part.bucket.charge_share(clock, name, tokens, share);
                Ok(())
            }
        }
    }

    async fn give_back(&self, part: &Part, charges: &Charges) {
        match part.payer {
            Payer::Table => {
                let (engine, credit) = (&self.engine, Change::Credit);
                // If it fails for sure, the reconciler makes it good.
                let _ = strict::change(engine, credit, &part.bucket, &self.limits, charges).await;
            }
            Payer::Block { .. } | Payer::Nobody | Payer::Share(_) => {
                self.give_back_later(part, charges);
            }
        }
    }

    /// Gives tokens back to the block that paid, or has the reconciler credit them.
    fn give_back_later(&self, part: &Part, charges: &Charges) {
        let clock = &self.engine.clock;
        let generation = match part.payer {
            Payer::Block { generation, .. } => Some(generation),
            Payer::Table => None,
            Payer::Nobody => return,
            Payer::Share(share) => {
                (part.bucket).give_share_back(clock, &self.limits, charges, share);
                return;
            }
        };
        if part
            .bucket
            .give_back(clock, generation, &self.limits, charges)
        {
            self.engine.tell(&part.bucket);
        }
    }
}

// A rejection is a value that callers keep; a lease must be free to move between threads.
const _: fn() = || {
    fn is_send<T: Send>() {}
    is_send::<Lease<'static>>();
    is_send::<RateLimitExceeded>();
};
