//! What a lease holds, and how that is paid and given back.

use std::sync::Arc;
use std::time::Duration;

use smallvec::SmallVec;
use tokio::sync::oneshot;
use zae_limiter_core::{Payer, Payment};

use super::Part;
use crate::admission::Admission;
use crate::engine::Engine;
use crate::strict::{self, BucketChange, NotWritten};
use crate::target::{Loan, Targets};
use crate::{Error, FailureMode};

/// A lease that is looked at, or that a miss made.
#[derive(Debug)]
pub(super) struct Held<'a> {
    pub(super) engine: Loan<'a, Arc<Engine>, Arc<Engine>>,
    /// The entity's bucket first, then its parent's.
    pub(super) parts: SmallVec<[Part<'a>; 2]>,
    /// Whether more is paid by writes, and what happens if it cannot be: as the acquire was told.
    pub(super) strict: bool,
    pub(super) failure_mode: FailureMode,
    pub(super) begun: Option<Begun>,
}

/// A correction upwards that the table is being told of. It counts as made until it is known not to be.
#[derive(Debug)]
pub(super) struct Begun {
    pub(super) limit: Arc<str>,
    pub(super) tokens: u64,
    /// If not: which part's bucket is why.
    pub(super) ended: oneshot::Receiver<Result<(), (usize, NotWritten)>>,
}

impl<'a> Held<'a> {
    /// What it has of the entity's own bucket.
    pub(super) fn child(&self) -> &Part<'a> {
        &self.parts[0]
    }

    pub(super) fn into_owned(self) -> Held<'static> {
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
    pub(super) async fn pay_for(
        &self,
        name: &str,
        tokens: u64,
    ) -> Result<SmallVec<[Payer; 2]>, Error> {
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
    pub(super) fn charge(&mut self, name: &str, tokens: u64) {
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
                back.retain(|payment| payment.payer != Payer::Table); // it was not debited
                part.give_back(&self.engine, &back, &mut Vec::new());
            }
        }
        let failure = failure.or_else(|| self.engine.trouble(&self.parts[at].bucket));
        Err(self.engine.unavailable(&self.parts[at].bucket, failure))
    }

    /// Gives back what can be given back here; returns what is to be credited to the table.
    pub(super) fn give_all_back(&self) -> Vec<BucketChange> {
        let mut credits = Vec::new();
        for part in &self.parts {
            let all: SmallVec<[Payment; 1]> = part.payments.iter().rev().cloned().collect();
            part.give_back(&self.engine, &all, &mut credits);
        }
        credits
    }
}
