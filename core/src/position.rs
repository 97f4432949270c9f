//! What a process holds of a bucket and owes to it, for who keeps its books from outside.

use crate::bucket::{Active, Bucket};
use crate::{Limit, MonotonicTime};

/// What a process holds of one limit.
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
    pub recalled: u64,
    /// Given back by callers, to be credited.
    pub credit: u64,
    /// Consumed beyond what was held, to be debited.
    pub debt: u64,
}

impl Position {
    /// What the process would have if everybody paid up, whether the block has expired or not.
    #[must_use]
    pub fn net(&self) -> i128 {
        let held = self.stock + self.pending + self.returning + self.recalled + self.credit;
        i128::from(held) - i128::from(self.debt)
    }
}

impl Bucket {
    /// Calls `see` with each limit and what is held of it, and when the block expires; not at all
    /// while the bucket is not in use.
    pub fn positions(&self, mut see: impl FnMut(&Limit, Position, MonotonicTime)) {
        let state = self.lock();
        let Some(active) = state.active.as_deref() else {
            return;
        };
        for (slot, limit) in active.limits.iter().enumerate() {
            see(limit, active.position(slot), active.expires_at);
        }
    }
}

impl Active {
    fn position(&self, slot: usize) -> Position {
        let account = &self.books.accounts[slot];
        let flight = self.books.flight.as_ref().filter(|f| !f.only_converts);
        // A limit that was declared since then is not in it.
        let flight = flight.and_then(|flight| flight.slots.get(slot));
        Position {
            stock: self.slots[slot].stock,
            pending: account.schedule.pending(),
            returning: flight.map_or(0, |f| f.surplus),
            coming: flight.map_or(0, |f| f.grant.stock + f.grant.scheduled - f.kept),
            recalled: account.recalled,
            credit: account.credit,
            debt: account.debt,
        }
    }
}
