//! What a lease has of one bucket.

use zae_limiter_core::{BucketRef, Charges, Payer, Payment, Payments, ValidationError};

use crate::engine::Engine;
use crate::strict::{BucketChange, Change};
use crate::target::{Limits, Loan, Target};
use crate::{Error, Limit};

/// What a lease has of one bucket.
#[derive(Clone, Debug)]
pub(crate) struct Part<'a> {
    pub(crate) bucket: BucketRef,
    pub(crate) limits: Limits<'a>,
    pub(crate) payments: Payments,
}

impl Part<'_> {
    pub(super) fn slot(&self, name: &str) -> Result<u32, Error> {
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
    pub(super) fn target<'b>(&'b self, name: &'b str, tokens: u64) -> Target<'b> {
        let named = self.slot(name).is_ok().then_some((name, tokens));
        Target {
            bucket: self.bucket.clone(),
            limits: Loan::Borrowed(&self.limits),
            consume: named.into_iter().collect(),
            ticket: None,
        }
    }

    /// The same bucket, for the same charges.
    pub(super) fn again(&self) -> Target<'_> {
        let named = |(slot, tokens)| (self.limits[slot as usize].name(), tokens);
        Target {
            bucket: self.bucket.clone(),
            limits: Loan::Borrowed(&self.limits),
            consume: self.payments.charges().iter().map(named).collect(),
            ticket: None,
        }
    }

    /// Charges more, whatever there is; returns the debit that the table is to be told of at once.
    pub(super) fn charge(
        &mut self,
        engine: &Engine,
        slot: u32,
        tokens: u64,
    ) -> Option<BucketChange> {
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
    pub(super) fn give_back(
        &self,
        engine: &Engine,
        payments: &[Payment],
        credits: &mut Vec<BucketChange>,
    ) {
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
