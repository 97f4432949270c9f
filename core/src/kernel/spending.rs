//! What callers take from a block and give back, and what the reconciler takes out of it.

use super::plan::{RingEntry, Seen};
use super::{Kernel, Payer};
use crate::MonotonicTime;
use crate::sabotage::Sabotage;

/// What a process holds of one limit, and owes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Position {
    /// Spendable, unless the block has expired.
    pub stock: u64,
    /// Debited, and spendable later.
    pub pending: u64,
    /// Out of circulation: on its way back with the write under way.
    pub returning: u64,
    /// What the write under way brings beyond what is held already.
    pub coming: u64,
    /// Held under other terms, to be credited.
    pub revoked: u64,
    /// Given back by callers, to be credited.
    pub credit: u64,
    /// Consumed beyond what was held, to be debited.
    pub debt: u64,
    /// Consumed since the write that granted the block was planned.
    pub spent: u64,
}

impl Position {
    /// Debited from the table or owed by it, and not consumed.
    pub(crate) fn held(&self) -> u64 {
        self.stock + self.pending + self.returning + self.revoked + self.credit
    }

    /// What the process would have once all debts and credits are settled, whether the block has expired or not.
    #[must_use]
    pub fn net(&self) -> i128 {
        i128::from(self.held()) - i128::from(self.debt)
    }
}

impl Kernel {
    /// Moves what the trickles have released into the stock; whether that was anything.
    pub(crate) fn release(&mut self, now: MonotonicTime) -> bool {
        let mut any = false;
        for account in &mut self.accounts {
            let fresh = account.trickle.release(now);
            account.stock += fresh;
            any |= fresh > 0;
        }
        any
    }

    /// Tokens in hand: to be spent at once, if the block has not expired.
    pub(crate) fn in_hand(&self, now: MonotonicTime, at: usize) -> u64 {
        let live = now < self.expires_at || Sabotage::ExpiredSpent.is_planted();
        if live { self.accounts[at].stock } else { 0 }
    }

    /// What flows in later of what was debited.
    pub(crate) fn trickle(&self, at: usize) -> &super::Trickle {
        &self.accounts[at].trickle
    }

    /// Puts up to `most` tokens of the stock into the fast balance; returns how many.
    pub(crate) fn lend(&mut self, at: usize, most: u64) -> u64 {
        let account = &mut self.accounts[at];
        account.lent = account.stock.min(most);
        account.stock -= account.lent;
        account.lent
    }

    /// Takes back what is `left` of them; returns how many were spent.
    pub(crate) fn take_in(&mut self, at: usize, left: u64) -> u64 {
        let account = &mut self.accounts[at];
        let spent = std::mem::take(&mut account.lent).saturating_sub(left);
        account.stock += left;
        account.spent += spent;
        spent
    }

    /// Charges `tokens` whatever the block holds; the rest is owed to the table. Returns that.
    pub(crate) fn charge(&mut self, now: MonotonicTime, at: usize, tokens: u64) -> u64 {
        let paid = self.in_hand(now, at).min(tokens);
        let account = &mut self.accounts[at];
        account.stock -= paid;
        account.spent = account.spent.saturating_add(tokens);
        account.debt = account.debt.saturating_add(tokens - paid);
        tokens - paid
    }

    /// Gives back what `payer` was charged. It cancels debt first, then goes to the block that paid if that is
    /// still the one, and else to the table. Returns how much went to the block; none if the item that was
    /// debited is gone, and nothing was given back.
    pub(crate) fn give_back(
        &mut self,
        now: MonotonicTime,
        at: usize,
        payer: Payer,
        tokens: u64,
    ) -> Option<u64> {
        let same = payer == Payer::Block(self.lineage.generation) && now < self.expires_at;
        if let (Payer::Table(debited), Seen::Never) = (payer, &self.seen) {
            self.lineage.incarnation = self.lineage.incarnation.or(debited);
        }
        let is_of_this_item = match (payer, &self.seen) {
            (Payer::Block(generation), _) => self.lineage.is_of_this_item(generation),
            (Payer::Table(None), Seen::Never | Seen::Item(_)) => true,
            (Payer::Table(debited), Seen::Never) => self.lineage.incarnation == debited,
            (Payer::Table(_), Seen::Item(item)) => payer.debited(item),
            (Payer::Table(_), Seen::Missing) | (Payer::Nobody | Payer::Share(_), _) => false,
        };
        if !is_of_this_item {
            return None;
        }
        let flight = self.under_way(at);
        let account = &mut self.accounts[at];
        // What is spent beyond what a write under way settles: only that can be undone here.
        let spent = account.spent.saturating_sub(flight.spent);
        let debt = if Sabotage::DebtRefunded.is_planted() {
            0
        } else {
            account.debt.saturating_sub(flight.owed)
        };
        let cancelled = tokens.min(debt);
        account.debt -= cancelled;
        let left = tokens - cancelled;
        let to_block = if same {
            left.min(spent.saturating_sub(cancelled))
        } else {
            0
        };
        account.stock += to_block;
        account.credit += left - to_block;
        account.spent -= (cancelled + to_block).min(spent);
        Some(to_block)
    }

    /// Takes what is held of a limit out of circulation, to be given back: its terms are others now.
    pub(crate) fn revoke(&mut self, at: usize) {
        let account = &mut self.accounts[at];
        let stock = std::mem::take(&mut account.stock);
        account.revoked += stock + account.trickle.cancel(u64::MAX);
        self.outdate(at);
        self.lineage.begin_generation();
    }

    /// What stands in the ring for this process.
    pub(crate) fn entry(&self, at: usize) -> Option<RingEntry> {
        self.accounts[at].entry
    }

    /// What the process holds and owes of a limit.
    pub(crate) fn position(&self, at: usize) -> Position {
        let account = &self.accounts[at];
        let flight = self.under_way(at);
        Position {
            stock: account.stock,
            pending: account.trickle.pending(),
            returning: flight.surplus,
            coming: flight.brings(),
            revoked: account.revoked,
            credit: account.credit,
            debt: account.debt,
            spent: account.spent,
        }
    }
}
