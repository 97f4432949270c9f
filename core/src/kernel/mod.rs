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
pub(crate) use self::guards::overdraft_max;
pub use self::plan::DirectDemand;
pub(crate) use self::renewal::{Applied, Report, Sighting};
pub use self::renewal::{Ask, Offer, Settled, SettledLimit, WriteEffect};
pub use self::spending::{Position, Unsettled};
pub use self::trickle::Trickle;
use item::BucketItem;
use plan::{RingEntry, Seen};
use renewal::InFlight;

/// What one process holds of a bucket, owes to it and is owed by it, and the write under way. Limits
/// go by their places.
#[derive(Debug)]
pub(crate) struct Kernel {
    accounts: SmallVec<[Account; 2]>,
    /// The item as it was last seen, and when.
    seen: Seen,
    seen_at: MonotonicTime,
    /// When it was last found that somebody else writes to the bucket.
    last_foreign_write_at: MonotonicTime,
    /// When the block stops being spendable.
    expires_at: MonotonicTime,
    /// Counts blocks: what is given back goes to the block that paid, or else to the table.
    generation: u32,
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

/// The time, on both clocks.
#[derive(Clone, Copy, Debug)]
pub struct Now {
    /// For how long things last here.
    pub monotonic: MonotonicTime,
    /// For what is written to the table.
    pub wall: WallTime,
}

/// How many writes of a bucket may be found to have been made at once: answers to direct writes that
/// overlap arrive together.
const AT_ONCE_MAX: u64 = 1_000;

impl Kernel {
    /// Of a bucket of which nothing is held, with so many limits.
    pub(crate) fn new(limits: usize, generation: u32) -> Self {
        let mut accounts = SmallVec::new();
        accounts.resize_with(limits, Account::default);
        Self {
            accounts,
            seen: Seen::Never,
            seen_at: MonotonicTime::ZERO,
            last_foreign_write_at: MonotonicTime::ZERO,
            expires_at: MonotonicTime::ZERO,
            generation,
            in_flight: None,
        }
    }

    /// One more limit, of which nothing is held.
    pub(crate) fn add_limit(&mut self) {
        self.accounts.push(Account::default());
    }

    /// Whether nothing of a limit is held or owed, and no write tells it by its place.
    pub(crate) fn is_unused(&self, at: usize) -> bool {
        self.in_flight.is_none() && self.accounts[at].is_unused()
    }

    /// Forgets a limit that is unused.
    pub(crate) fn remove_limit(&mut self, at: usize) {
        debug_assert!(self.is_unused(at), "what is held must not be forgotten");
        self.accounts.remove(at);
    }

    /// Which block it is.
    pub(crate) fn generation(&self) -> u32 {
        self.generation
    }

    /// From now on nothing is given back to this block: what it has paid goes back to the table.
    pub(crate) fn begin_generation(&mut self) {
        self.generation = self.generation.wrapping_add(1);
    }

    /// When the block stops being spendable.
    pub(crate) fn expires_at(&self) -> MonotonicTime {
        self.expires_at
    }

    /// The item as it was last seen.
    pub(crate) fn seen(&self) -> &Seen {
        &self.seen
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

    /// Whether others hold tokens of a limit in live blocks.
    pub(crate) fn others_hold(&self, at: usize, limit: &str, now: WallTime) -> bool {
        let found = self.seen.item().and_then(|item| item.limit(limit));
        let entry = self.accounts[at].entry;
        found.is_some_and(|found| plan::others_hold(found, now, entry))
    }

    /// The bucket is seen again by a process that looks about once per `period`. If it has not looked for
    /// longer, others may have been silent for the same reason: that says nothing of them.
    pub(crate) fn forget_silence(&mut self, now: MonotonicTime, period: std::time::Duration) {
        let unseen = now.since(self.seen_at);
        if unseen > period * 3 / 2 {
            self.last_foreign_write_at = self.last_foreign_write_at.after(unseen);
        }
    }

    /// What the bucket was found as, or was left as by so many writes of this process, of which the last
    /// was sent then. Of answers to writes that were under way at once, the last to come may be the oldest: it
    /// says nothing new.
    pub(crate) fn saw(
        &mut self,
        now: MonotonicTime,
        sent: MonotonicTime,
        item: Option<BucketItem>,
        writes: u64,
    ) -> Sighting {
        let sequence = |item: Option<&BucketItem>| item.map_or(0, |item| item.sequence);
        let (found, known) = (sequence(item.as_ref()), sequence(self.seen.item()));
        if found < known && self.seen_at >= sent {
            return Sighting { remade: false };
        }
        let since = found.saturating_sub(known);
        if since > writes {
            self.last_foreign_write_at = now;
        }
        // Numbers begin with the microsecond in which the item is made, and go up by one per write. An
        // item that was made again does not know what was entered into the one before.
        let elapsed = now.since(self.seen_at).as_micros();
        let at_most = elapsed + u128::from(writes + AT_ONCE_MAX);
        let remade = self.seen.item().is_some() && u128::from(since) > at_most;
        if remade {
            for account in &mut self.accounts {
                account.entry = None;
            }
        }
        self.seen = item.into();
        self.seen_at = now;
        Sighting { remade }
    }
}

impl Account {
    fn is_settled(&self) -> bool {
        self.debt == 0 && self.credit == 0 && self.revoked == 0
    }

    fn is_unused(&self) -> bool {
        self.is_settled() && self.unspent() == 0 && self.lent == 0
    }

    /// All that is held and not spent.
    fn unspent(&self) -> u64 {
        self.stock + self.trickle.pending()
    }
}
