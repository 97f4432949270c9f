//! The safety kernel: what one process may debit from a bucket, spend, give back and forget.
//!
//! Whatever a [policy](crate::policy) asks for, and whatever callers do with their leases, the bound
//! holds (see ARCHITECTURE.md): that is decided here and nowhere else. The kernel computes with
//! integers only, keeps its state to itself, and knows neither policy nor reconciler, cache or
//! waiters. What it is asked for it clamps; what a guard rests on it computes itself.
//!
//! * `arithmetic`: a limit as one number (GCRA).
//! * `item`: the bucket as the table keeps it, and what one conditional write may do to it.
//! * `plan`, `guards`: from transfers to one write, and what must be true of the table for it.
//! * `trickle`: refill that was debited ahead of time, and is released as it flows in.
//! * `spending`: what callers take from a block and give back.
//! * `renewal`: the write that renews a block, and what its outcome means.
//! * `charge`: who has paid for what of a lease.
//!
//! # Corrections
//!
//! One rule: what was charged beyond the block is **owed** before anything is stock. Giving tokens back
//! cancels debt first, as far as no write is under way that pays it; the rest goes to the block if that is
//! the one that paid, and else to the table, as a **credit** of the next write. So a correction never turns
//! debt into stock, and a block never holds more than it was granted.

#![deny(clippy::float_arithmetic)]

mod arithmetic;
mod charge;
mod guards;
pub mod item;
pub mod plan;
mod renewal;
mod spending;
mod trickle;

use smallvec::SmallVec;

use crate::{MonotonicTime, WallTime};

pub use self::arithmetic::{Terms, Ticks};
pub use self::charge::{Payer, Payment, Payments};
pub(crate) use self::guards::{Outstanding, WriteGuards, overdraft_max};
pub(crate) use self::renewal::{Applied, Report};
pub use self::renewal::{Ask, Settled, SettledLimit, WriteEffect};
pub use self::spending::Position;
pub use self::trickle::Trickle;
use item::BucketItem;
use plan::{RingEntry, Seen};
use renewal::InFlight;

/// What one process holds of a bucket, owes to it and is owed by it, and the write under way. Limits
/// go by their places.
#[derive(Debug, Default)]
pub(crate) struct Kernel {
    accounts: SmallVec<[Account; 2]>,
    /// The item as it was last seen, and when.
    seen: Seen,
    seen_at: MonotonicTime,
    /// When the block stops being spendable.
    expires_at: MonotonicTime,
    lineage: Lineage,
    in_flight: Option<Box<InFlight>>,
}

/// One limit.
#[derive(Debug, Default)]
struct Account {
    /// Spendable until the block expires.
    stock: u64,
    /// Of what was stock, what is in the fast balance while nobody holds the bucket's lock.
    lent: u64,
    /// Debited, and spendable as it flows in.
    trickle: Trickle,
    /// Consumed beyond what was held: to be debited whatever the level.
    debt: u64,
    /// Given back to the table: to be credited.
    credit: u64,
    /// Held under terms that no longer apply: to be credited.
    revoked: u64,
    /// Consumed since the write that granted the block was planned.
    spent: u64,
    /// What stands in the ring for this process.
    entry: Option<RingEntry>,
}

/// Which blocks, and which items of the table, a bucket has had. It outlasts the kernel.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Lineage {
    /// Counts blocks: what is given back goes to the block that paid, or else to the table.
    generation: u32,
    /// The first block of this item. What older ones have paid was debited from an item that is gone.
    first_generation: u32,
    /// The item; none if it is not known, or not there.
    incarnation: Option<u64>,
}

/// The time, on both clocks.
#[derive(Clone, Copy, Debug)]
pub struct Now {
    /// For how long things last here.
    pub monotonic: MonotonicTime,
    /// For what is written to the table.
    pub wall: WallTime,
}

impl Lineage {
    /// Which block it is.
    pub(crate) fn generation(&self) -> u32 {
        self.generation
    }

    /// Which item it is, as far as is known.
    pub(crate) fn incarnation(&self) -> Option<u64> {
        self.incarnation
    }

    /// From now on nothing is given back to this block: what it has paid goes back to the table.
    pub(crate) fn begin_generation(&mut self) {
        self.generation = self.generation.wrapping_add(1);
    }

    /// The item is gone, or another one.
    fn begin_item(&mut self) {
        self.begin_generation();
        self.first_generation = self.generation;
    }

    /// Whether a block was debited from the item that is there now, as far as is known.
    fn is_of_this_item(&self, generation: u32) -> bool {
        generation.wrapping_sub(self.first_generation) <= u32::MAX / 2
    }
}

impl Kernel {
    /// Of a bucket of which nothing is held, with so many limits.
    pub(crate) fn new(limits: usize, lineage: Lineage) -> Self {
        Self {
            accounts: (0..limits).map(|_| Account::default()).collect(),
            lineage,
            ..Self::default()
        }
    }

    /// One more limit, of which nothing is held.
    pub(crate) fn add_limit(&mut self) {
        self.accounts.push(Account::default());
    }

    /// Whether nothing of a limit is held or owed, and no write tells it by its place.
    pub(crate) fn is_unused(&self, at: usize) -> bool {
        let account = &self.accounts[at];
        let holds = account.unspent() > 0 || account.lent > 0;
        self.in_flight.is_none() && account.is_settled() && !holds
    }

    /// Forgets a limit that is unused.
    pub(crate) fn remove_limit(&mut self, at: usize) {
        debug_assert!(self.is_unused(at), "what is held must not be forgotten");
        self.accounts.remove(at);
    }

    /// Which block it is, and of which item.
    pub(crate) fn lineage(&self) -> Lineage {
        self.lineage
    }

    /// When the block stops being spendable.
    pub(crate) fn expires_at(&self) -> MonotonicTime {
        self.expires_at
    }

    /// The item as it was last seen.
    pub(crate) fn seen(&self) -> &Seen {
        &self.seen
    }

    /// The number of the write that left it so.
    pub(crate) fn sequence(&self) -> u64 {
        self.seen.item().map_or(0, |item| item.sequence)
    }

    /// When that was.
    pub(crate) fn seen_at(&self) -> MonotonicTime {
        self.seen_at
    }

    /// Whether a write of the reconciler is under way.
    pub(crate) fn is_writing(&self) -> bool {
        self.in_flight.is_some()
    }

    /// Whether nothing is owed to the table or by it.
    pub(crate) fn is_settled(&self) -> bool {
        self.accounts.iter().all(Account::is_settled)
    }

    /// The bucket was found as this, or was left so by a write of this process, of which the last was sent
    /// then. Of answers to writes that were under way at once, the last to come may be the oldest: it says
    /// nothing new.
    pub(crate) fn saw(
        &mut self,
        now: MonotonicTime,
        sent: MonotonicTime,
        item: Option<BucketItem>,
    ) {
        let found = item.as_ref().map_or(0, |item| item.sequence);
        if found < self.sequence() && self.seen_at >= sent {
            return;
        }
        let incarnation = item.as_ref().map(|item| item.incarnation);
        let known = std::mem::replace(&mut self.lineage.incarnation, incarnation);
        if known.is_some() && known != incarnation {
            self.forget_item();
        }
        self.seen = item.into();
        self.seen_at = now;
    }

    /// A block goes with the item that it was debited from, and so does what was to be credited to that. What
    /// was consumed beyond is owed still.
    fn forget_item(&mut self) {
        self.lineage.begin_item();
        for account in &mut self.accounts {
            *account = Account {
                debt: account.debt,
                spent: account.spent,
                ..Account::default()
            };
        }
        if let Some(flight) = &mut self.in_flight {
            flight.bring_nothing();
        }
    }
}

impl Account {
    fn is_settled(&self) -> bool {
        self.debt == 0 && self.credit == 0 && self.revoked == 0
    }

    /// All that is held and not spent.
    fn unspent(&self) -> u64 {
        self.stock + self.trickle.pending()
    }
}
