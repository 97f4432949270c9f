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

    /// Whether it is of this bucket.
    pub(super) fn is_of(&self, bucket: &BucketRef) -> bool {
        self.bucket.key() == bucket.key()
    }

    /// The same bucket, to be charged with so much; what is not limited there is left out.
    pub(super) fn target<'b>(
        &'b self,
        consume: impl IntoIterator<Item = (&'b str, u64)>,
    ) -> Target<'b> {
        let named = consume
            .into_iter()
            .filter(|(name, _)| self.slot(name).is_ok());
        Target {
            bucket: self.bucket.clone(),
            limits: Loan::Borrowed(&self.limits),
            consume: named.collect(),
            ticket: None,
        }
    }

    /// Charges more, whatever there is, without the table if a payer is given. Returns the debit that is to be
    /// written at once.
    pub(super) fn charge(
        &mut self,
        engine: &Engine,
        strict: bool,
        slot: u32,
        tokens: u64,
        without_table: Option<Payer>,
    ) -> Option<BucketChange> {
        let charges = Charges::of(slot, tokens);
        let limit = &self.limits[slot as usize];
        let has_room = || self.bucket.has_room_for(&self.limits, &charges);
        let payer = match without_table {
            Some(Payer::Share(share)) if has_room() => {
                (self.bucket).charge_share(&engine.clock, limit.name(), tokens, share);
                Payer::Share(share)
            }
            Some(_) => Payer::Nobody,
            None if !strict && has_room() => {
                let paid = self.bucket.charge_anyway(&engine.clock, limit, tokens);
                if paid.hint {
                    engine.needs_renewal(&self.bucket);
                }
                Payer::Block(paid.generation)
            }
            None => Payer::Table(match self.payments.last() {
                Payer::Table(Some(debited)) => Some(debited),
                _ => self.bucket.incarnation(),
            }),
        };
        self.payments.add(payer, slot, tokens);
        matches!(payer, Payer::Table(_)).then(|| self.change(engine, Change::DebitAnyway, charges))
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
                Payer::Block(_) if bucket.has_room_for(limits, charges) => {
                    if bucket.give_back(clock, *payer, limits, charges) {
                        engine.needs_renewal(bucket);
                    }
                }
                Payer::Block(_) => {
                    credits.push(self.change(engine, Change::Credit(None), charges.clone()));
                }
                Payer::Table(debited) => {
                    credits.push(self.change(engine, Change::Credit(*debited), charges.clone()));
                }
                Payer::Nobody => {}
                Payer::Share(share) => bucket.give_share_back(clock, limits, charges, *share),
            }
        }
        engine.wake(bucket.bucket());
    }
}
