//! What a lease holds, and how that is paid and given back.

use std::collections::BTreeMap;
use std::mem;
use std::sync::Arc;
use std::time::Duration;

use smallvec::SmallVec;
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout_at};
use zae_limiter_core::sabotage::Sabotage;
use zae_limiter_core::{BucketRef, Charges, Payer, Payment, Payments, ValidationError};

use super::Part;
use crate::admission::Admission;
use crate::engine::Engine;
use crate::resolve::{Failure, Lookup};
use crate::strict::{self, BucketChange, NotWritten};
use crate::target::{Loan, Targets};
use crate::{Error, FailureMode, Limit};

/// A lease that is looked at, or that a miss made.
#[derive(Debug)]
pub(super) struct Held<'a> {
    pub(super) engine: Loan<'a, Arc<Engine>, Arc<Engine>>,
    /// The entity's bucket first, then its parent's.
    pub(super) parts: SmallVec<[Part<'a>; 2]>,
    /// What was paid under limits, or for a parent, that a look-up has replaced since. Not added to any more.
    pub(super) earlier: Vec<Part<'a>>,
    /// Whether more is paid by writes, and what happens if it cannot be: as for the acquire.
    pub(super) strict: bool,
    pub(super) failure_mode: FailureMode,
    /// What has to be looked up before more is charged: it was not known when the lease was admitted. As long
    /// as it is there, the table has paid nothing.
    pub(super) lookup: Option<Lookup<'a>>,
    pub(super) begun: Option<Begun>,
}

/// A correction upwards that is being written. It counts as made until it is known not to be.
#[derive(Debug)]
pub(super) struct Begun {
    limit: Arc<str>,
    tokens: u64,
    /// If not: which part's bucket is why.
    ended: oneshot::Receiver<Result<(), (usize, NotWritten)>>,
}

/// Buckets, and the limits in force for them.
type Found = SmallVec<[(BucketRef, Arc<[Limit]>); 2]>;

impl<'a> Held<'a> {
    pub(super) fn new(admission: &Admission<'a>, parts: SmallVec<[Part<'a>; 2]>) -> Self {
        Self {
            engine: Loan::Borrowed(admission.engine),
            parts,
            earlier: Vec::new(),
            strict: admission.strict,
            failure_mode: admission.failure_mode,
            lookup: None,
            begun: None,
        }
    }

    /// What it has of the entity's own bucket.
    pub(super) fn child(&self) -> &Part<'a> {
        &self.parts[0]
    }

    pub(super) fn into_owned(self) -> Held<'static> {
        let engine = (*self.engine).clone();
        let shared = |limits: &[Limit]| engine.shared(limits);
        let own = |part: Part<'_>| Part {
            limits: Loan::Shared(shared(&part.limits)),
            bucket: part.bucket,
            payments: part.payments,
        };
        Held {
            parts: self.parts.into_iter().map(own).collect(),
            earlier: self.earlier.into_iter().map(own).collect(),
            strict: self.strict,
            failure_mode: self.failure_mode,
            lookup: self.lookup.map(|lookup| lookup.into_owned(shared)),
            begun: self.begun,
            engine: Loan::Shared(engine),
        }
    }

    fn admission(&self) -> Admission<'_> {
        Admission {
            engine: &self.engine,
            strict: self.strict,
            failure_mode: self.failure_mode,
            wait_limit: Duration::ZERO,
        }
    }

    /// When a call that begins now has to be answered.
    fn deadline(&self) -> Instant {
        Instant::now() + self.engine.acquire_timeout
    }

    /// Tokens that were charged to the bucket of a part, by limit.
    pub(super) fn charged<'b>(&'b self, part: &'b Part<'a>) -> BTreeMap<&'b str, u64> {
        let mut charged = BTreeMap::new();
        let earlier = self
            .earlier
            .iter()
            .filter(|earlier| earlier.is_of(&part.bucket));
        for part in std::iter::once(part).chain(earlier) {
            for (slot, tokens) in part.payments.charges().iter() {
                *charged
                    .entry(part.limits[slot as usize].name())
                    .or_default() += tokens;
            }
        }
        charged
    }

    /// The same buckets, to be charged with as much again.
    pub(super) fn again(&self) -> Targets<'_> {
        let again = |part| Part::target(part, self.charged(part));
        self.parts.iter().map(again).collect()
    }

    /// Consumes more, or fails as an acquire does.
    pub(super) async fn consume(&mut self, name: &str, tokens: u64) -> Result<(), Error> {
        let _ = self.settle().await;
        if tokens == 0 {
            return self.child().slot(name).map(drop);
        }
        self.check_name(name)?;
        let deadline = self.deadline();
        let known = self.look_up(deadline).await?;
        self.child().slot(name)?;
        let payers = self.pay_for(name, tokens, known, deadline).await?;
        for (part, payer) in self.parts.iter_mut().zip(payers) {
            if let Ok(slot) = part.slot(name) {
                part.payments.add(payer, slot, tokens);
            }
        }
        Ok(())
    }

    /// Pays for more, as the acquire was paid; returns the payer of each part.
    async fn pay_for(
        &self,
        name: &str,
        tokens: u64,
        known: Result<(), Failure>,
        deadline: Instant,
    ) -> Result<SmallVec<[Payer; 2]>, Error> {
        let more = |part| Part::target(part, [(name, tokens)]);
        let mut targets: Targets<'_> = self.parts.iter().map(more).collect();
        for target in &targets {
            target.request().validate()?;
        }
        let admission = self.admission();
        let more = match known {
            Err(failure) => admission.fail(&targets, 0, failure)?,
            Ok(()) => match timeout_at(deadline, admission.pay(&mut targets)).await {
                Ok(lease) => lease?,
                Err(_) => admission.fail(&targets, 0, None)?,
            },
        };
        let parts = more.into_held().parts.into_iter();
        Ok(parts.map(|part| part.payments.last()).collect())
    }

    /// Refuses a name that is none of the limits, unless the limits themselves have to be looked up.
    fn check_name(&self, name: &str) -> Result<(), Error> {
        match &self.lookup {
            Some(lookup) if lookup.stored => Ok(()),
            _ => self.child().slot(name).map(drop),
        }
    }

    /// Looks up what was not known when the lease was admitted. If the table cannot be asked, that is left to
    /// the next call, and the failure is returned.
    async fn look_up(&mut self, deadline: Instant) -> Result<Result<(), Failure>, Error> {
        let Some(lookup) = &self.lookup else {
            return Ok(Ok(()));
        };
        let found = match self.find(lookup, deadline).await? {
            Ok(found) => found,
            Err(failure) => return Ok(Err(failure)),
        };
        let admitted_by = self.child().payments.first();
        let mut before = mem::take(&mut self.parts);
        for (bucket, limits) in found {
            let same = |part: &Part<'_>| part.is_of(&bucket) && *part.limits == *limits;
            self.parts.push(match before.iter().position(same) {
                Some(at) => before.remove(at),
                None => Part {
                    payments: Payments::new(admitted_by, Charges::default()),
                    limits: Loan::Shared(limits),
                    bucket,
                },
            });
        }
        self.earlier.extend(before);
        self.lookup = None;
        Ok(Ok(()))
    }

    /// The buckets that are to be charged, and the limits in force.
    async fn find(
        &self,
        lookup: &Lookup<'_>,
        deadline: Instant,
    ) -> Result<Result<Found, Failure>, Error> {
        let key = self.child().bucket.key();
        let acquire = lookup.acquire(self.admission(), key.entity_id(), key.resource());
        let targets = Box::pin(acquire.targets_by(deadline)).await?;
        Ok(targets.map(|targets| {
            let shared = |limits: &[Limit]| self.engine.shared(limits);
            let found = targets.into_iter();
            found
                .map(|target| (target.bucket, shared(&target.limits)))
                .collect()
        }))
    }

    /// Charges more, whatever there is.
    pub(super) async fn charge_more(&mut self, name: &str, tokens: u64) -> Result<(), Error> {
        let _ = self.settle().await;
        self.check_name(name)?;
        let without_table = match self.look_up(self.deadline()).await? {
            Ok(()) => {
                // The failure mode that admitted it pays on, until the table is back.
                let last = self.child().payments.last();
                let is_away = self.engine.breaker.is_open();
                (is_away && matches!(last, Payer::Nobody | Payer::Share(_))).then_some(last)
            }
            Err(failure) => Some(self.payer_by_failure_mode(failure)?),
        };
        self.child().slot(name)?;
        self.charge(name, tokens, without_table);
        self.settle().await
    }

    /// What pays while the table cannot be asked.
    fn payer_by_failure_mode(&self, failure: Failure) -> Result<Payer, Error> {
        let bucket = &self.child().bucket;
        let failure = failure.or_else(|| self.engine.trouble(bucket));
        let error = self.engine.unavailable(bucket, failure);
        match (&error, self.failure_mode) {
            (Error::Unavailable { .. }, FailureMode::Open) => Ok(Payer::Nobody),
            (Error::Unavailable { .. }, FailureMode::Local(share)) => Ok(Payer::Share(share)),
            _ => Err(error),
        }
    }

    /// Charges `tokens` more. If the table has to be written to, that has begun then, and
    /// [`settle`](Self::settle) says how it ends.
    fn charge(&mut self, name: &str, tokens: u64, without_table: Option<Payer>) {
        let mut debits = Vec::new();
        for (at, part) in self.parts.iter_mut().enumerate() {
            // A parent may have other limits.
            if let Ok(slot) = part.slot(name)
                && let Some(debit) =
                    part.charge(&self.engine, self.strict, slot, tokens, without_table)
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
    pub(super) async fn settle(&mut self) -> Result<(), Error> {
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
                // It was not debited.
                back.retain(|payment| !matches!(payment.payer, Payer::Table(_)));
                part.give_back(&self.engine, &back, &mut Vec::new());
            }
        }
        let failure = failure.or_else(|| self.engine.trouble(&self.parts[at].bucket));
        Err(self.engine.unavailable(&self.parts[at].bucket, failure))
    }

    /// Gives some tokens of a limit back to their payers.
    pub(super) async fn release(&mut self, name: &str, tokens: u64) -> Result<(), Error> {
        let _ = self.settle().await;
        let consumed = self.charged(self.child()).get(name).copied();
        if consumed.is_none() {
            self.child().slot(name)?;
        }
        let consumed = consumed.unwrap_or(0);
        if tokens > consumed {
            let rule = format!("gives back more than the {consumed} tokens consumed of {name}");
            let delta = format!("-{tokens}");
            return Err(ValidationError::new("delta", delta, rule).into());
        }
        let mut credits = Vec::new();
        let mut left: SmallVec<[(BucketRef, u64); 2]> = SmallVec::new();
        // What was paid last goes back first.
        for part in self.parts.iter_mut().chain(self.earlier.iter_mut().rev()) {
            let Ok(slot) = part.slot(name) else {
                continue; // a parent may have other limits
            };
            let at = left.iter().position(|(bucket, _)| part.is_of(bucket));
            let at = at.unwrap_or_else(|| {
                left.push((part.bucket.clone(), tokens));
                left.len() - 1
            });
            let back = if Sabotage::CancelledCreditRepeated.is_planted() {
                part.payments.clone().take_back(slot, left[at].1)
            } else {
                part.payments.take_back(slot, left[at].1)
            };
            left[at].1 -= back.iter().map(|p| p.charges.tokens(slot)).sum::<u64>();
            part.give_back(&self.engine, &back, &mut credits);
        }
        super::afterwards::ended(strict::credit(&self.engine, credits)).await;
        if Sabotage::CancelledCreditRepeated.is_planted() {
            for part in &mut self.parts {
                if let Ok(slot) = part.slot(name) {
                    let _ = part.payments.take_back(slot, tokens);
                }
            }
        }
        Ok(())
    }

    /// Gives back what can be given back here; returns what is to be credited to the table.
    pub(super) fn give_all_back(&self) -> Vec<BucketChange> {
        let mut credits = Vec::new();
        for part in self.parts.iter().chain(&self.earlier) {
            let all: SmallVec<[Payment; 1]> = part.payments.iter().rev().cloned().collect();
            part.give_back(&self.engine, &all, &mut credits);
        }
        credits
    }
}
