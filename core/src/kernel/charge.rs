//! What of a lease was paid by whom, payment by payment, for as long as the lease lives.
//!
//! Only what the table was debited may be credited to it. So no payment is forgotten when another is
//! added, and what is given back goes to its payer, the last payment first.

use super::item::BucketItem;
use crate::sabotage::Sabotage;
use crate::{Charges, Share};
use smallvec::{SmallVec, smallvec};

/// What pays for a charge.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Payer {
    /// The token block of this generation.
    Block(u32),
    /// The table itself: this incarnation of the item. None where no answer has said which.
    Table(Option<u64>),
    /// Nobody: the table could not be asked, and the failure mode is open.
    Nobody,
    /// This process's share of the limit: the table could not be asked.
    Share(Share),
}

impl Payer {
    /// Whether a payment by the table was debited from this item, as far as is known. What is credited to
    /// another item comes from nowhere.
    #[must_use]
    pub fn debited(self, item: &BucketItem) -> bool {
        let is_another = |incarnation| incarnation != item.incarnation;
        match self {
            Self::Table(debited) => {
                !debited.is_some_and(is_another) || Sabotage::DeletedCredited.is_planted()
            }
            Self::Block(_) | Self::Nobody | Self::Share(_) => false,
        }
    }
}

/// Tokens that one payer has paid, by the order of the limits.
#[derive(Clone, Debug)]
pub struct Payment {
    /// Who.
    pub payer: Payer,
    /// What.
    pub charges: Charges,
}

impl Payment {
    fn join(&mut self, other: &Self) {
        for (slot, tokens) in other.charges.iter() {
            let charges = &mut self.charges;
            *charges = charges.with(slot, charges.tokens(slot) + tokens);
        }
    }
}

/// All payments for what a lease has of one bucket, the oldest first, and how it was admitted: that stays,
/// even if all of it is given back.
#[derive(Clone, Debug)]
pub struct Payments {
    admitted: Payer,
    paid: SmallVec<[Payment; 2]>,
}

impl Payments {
    /// An acquire was paid like this.
    #[must_use]
    pub fn new(payer: Payer, charges: Charges) -> Self {
        Self {
            admitted: payer,
            paid: smallvec![Payment { payer, charges }],
        }
    }

    /// How it was admitted.
    #[must_use]
    pub fn first(&self) -> Payer {
        self.admitted
    }

    /// How the last addition was paid.
    #[must_use]
    pub fn last(&self) -> Payer {
        self.paid.last().map_or(self.admitted, |last| last.payer)
    }

    /// Tokens of one limit.
    #[must_use]
    pub fn tokens(&self, slot: u32) -> u64 {
        self.iter().map(|paid| paid.charges.tokens(slot)).sum()
    }

    /// Tokens of all limits.
    #[must_use]
    pub fn charges(&self) -> Charges {
        let join = |all: Charges, (slot, tokens)| all.with(slot, all.tokens(slot) + tokens);
        let charges = self.iter().flat_map(|payment| payment.charges.iter());
        charges.fold(Charges::default(), join)
    }

    /// All payments, the oldest first.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = &Payment> {
        self.paid.iter()
    }

    /// Somebody has paid for more of one limit.
    pub fn add(&mut self, payer: Payer, slot: u32, tokens: u64) {
        let charges = Charges::of(slot, tokens);
        let payment = Payment { payer, charges };
        if Sabotage::PayerOverwritten.is_planted() {
            self.paid.iter_mut().for_each(|paid| paid.payer = payer);
        }
        match self.paid.last_mut() {
            Some(last) if last.payer == payer => last.join(&payment),
            _ => {
                self.join_old_blocks(payer);
                self.paid.push(payment);
            }
        }
    }

    /// A lease that outlives many blocks is not to grow: what blocks before the last have paid goes back to
    /// the table in any case.
    fn join_old_blocks(&mut self, payer: Payer) {
        if let [.., before, last] = &mut self.paid[..]
            && let (Payer::Block(older), Payer::Block(old), Payer::Block(_)) =
                (before.payer, last.payer, payer)
        {
            // A hit may name the block before the one that has paid it.
            let oldest = if old.wrapping_sub(older) < u32::MAX / 2 {
                older
            } else {
                old
            };
            before.payer = Payer::Block(oldest);
            before.join(last);
            self.paid.pop();
        }
    }

    /// Takes out up to `tokens` of one limit, the last payment first: what each payer is to have back.
    #[must_use]
    pub fn take_back(&mut self, slot: u32, tokens: u64) -> SmallVec<[Payment; 1]> {
        let mut left = tokens;
        let mut back = SmallVec::new();
        for payment in self.paid.iter_mut().rev() {
            let paid = payment.charges.tokens(slot);
            let tokens = left.min(paid);
            if tokens == 0 {
                continue;
            }
            left -= tokens;
            payment.charges = payment.charges.with(slot, paid - tokens);
            let (payer, charges) = (payment.payer, Charges::of(slot, tokens));
            back.push(Payment { payer, charges });
        }
        let is_left = |payment: &mut Payment| payment.charges.iter().any(|(_, tokens)| tokens > 0);
        self.paid.retain(is_left);
        back
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn back(payments: &mut Payments, tokens: u64) -> Vec<(Payer, u64)> {
        let back = payments.take_back(0, tokens).into_iter();
        back.map(|payment| (payment.payer, payment.charges.tokens(0)))
            .collect()
    }

    #[test]
    fn last_payer_is_paid_back_first() {
        let mut payments = Payments::new(Payer::Nobody, Charges::of(0, 300));
        payments.add(Payer::Table(None), 0, 1);
        payments.add(Payer::Table(None), 0, 2);
        payments.add(Payer::Table(None), 1, 9);
        assert_eq!((payments.tokens(0), payments.tokens(1)), (303, 9));
        assert_eq!(payments.charges().tokens(0), 303);
        assert_eq!(back(&mut payments, 2), [(Payer::Table(None), 2)]);
        assert_eq!(
            back(&mut payments, 100),
            [(Payer::Table(None), 1), (Payer::Nobody, 99)]
        );
        assert_eq!(back(&mut payments, 999), [(Payer::Nobody, 201)]);
        assert_eq!(
            (payments.first(), payments.last()),
            (Payer::Nobody, Payer::Table(None)),
            "of another limit"
        );
        assert_eq!(back(&mut payments, 1), []);
        assert_eq!(payments.tokens(1), 9);
    }

    #[test]
    fn long_stream_stays_small() {
        let mut payments = Payments::new(Payer::Block(u32::MAX - 10), Charges::of(0, 1));
        for generation in 0..1_000u32 {
            payments.add(Payer::Block(generation.wrapping_sub(9)), 0, 1);
            payments.add(Payer::Block(generation.wrapping_sub(9)), 0, 1);
        }
        assert!(payments.iter().count() <= 4);
        assert_eq!(payments.tokens(0), 2_001);
        assert_eq!(back(&mut payments, 2), [(Payer::Block(990), 2)]);
    }
}
