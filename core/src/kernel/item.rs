//! The bucket as the table keeps it, and what one conditional write may do to it.
//!
//! A [`BucketWrite`] is data: guards that must hold, and changes that commute. The DynamoDB store
//! translates it into one `UpdateItem`; the in-memory store calls [`BucketItem::apply`]. Both mean
//! the same by it, and the conformance suite holds them to that.
//!
//! # The ring
//!
//! Tokens that processes hold in blocks are neither in the bucket nor spent. Each limit counts
//! them by **epoch**, a span of one `lease_ttl`: a block granted in an epoch has expired when the
//! next one ends, so the last two epochs cover every live block, and a crashed process drops out
//! by itself. The fleet's demand is counted the same way. Three slots are used in turn; each
//! write clears the slot of the coming epoch, so that no write is spent on turning the ring.

use std::sync::Arc;

use super::arithmetic::{Terms, Ticks};
use crate::WallTime;
use crate::sabotage::Sabotage;

/// All limits of one (entity, resource), as one item of the table.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BucketItem {
    /// Which item it is of all that the bucket has had: the number from which its writes are counted. An
    /// item that is deleted and made again is another one.
    pub incarnation: u64,
    /// The number of the last write: one more than that of the write before.
    pub sequence: u64,
    /// When that was consumed which the last write reported, in milliseconds since the Unix epoch.
    pub consumed_at_ms: u64,
    /// When the table may forget the item, in seconds since the Unix epoch. It never falls, and no limit
    /// fills later.
    pub expires_at_seconds: u64,
    /// The limits, in the order of their names.
    pub limits: Vec<(Arc<str>, LimitItem)>,
}

/// One limit of a bucket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LimitItem {
    /// The numbers that `z` is to be read with.
    pub terms: Terms,
    /// The virtual time at which the bucket was last empty.
    pub z: Ticks,
    /// Net consumption since the item exists, in tokens.
    pub consumed: i64,
    /// What is out in blocks; absent where no process has held any.
    pub ring: Option<Ring>,
}

/// Tokens out in blocks and demand reported, by epoch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ring {
    /// How long an epoch, and a block, lasts, in milliseconds.
    pub lease_ttl_ms: u64,
    /// The epoch of the last write.
    pub epoch: u64,
    /// Tokens granted in an epoch and not yet accounted for, at `epoch % 3`.
    pub held: [i64; 3],
    /// Demand reported in an epoch, in thousandths of a token per second, at `epoch % 3`.
    pub demand_milli: [i64; 3],
}

impl Ring {
    /// Where an epoch stands in the ring.
    #[must_use]
    pub fn slot(epoch: u64) -> usize {
        (epoch % 3) as usize
    }

    /// Whether blocks that it counts may be live in `epoch`.
    #[must_use]
    pub fn is_live(&self, epoch: u64) -> bool {
        self.epoch + 1 >= epoch
    }

    /// Tokens granted in `epoch` and in the one before.
    #[must_use]
    pub fn held_in(&self, epoch: u64) -> (i64, i64) {
        let last = epoch.wrapping_add(2); // the slot before this one, of three
        (self.held[Self::slot(epoch)], self.held[Self::slot(last)])
    }
}

/// A conditional write to one bucket: all of its guards hold and all of it happens, or nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BucketWrite {
    /// Which [incarnation](BucketItem::incarnation) of the item it is for; none if for any. A guard.
    pub incarnation: Option<u64>,
    /// What it does, limit by limit.
    pub limits: Vec<LimitWrite>,
    /// Where the numbers of the writes begin, if this is the first one of the item. From the
    /// clock: so an item that was deleted and made again goes on with higher numbers.
    pub sequence_from: u64,
    /// When that was consumed which it reports, in milliseconds since the Unix epoch.
    pub consumed_at_ms: u64,
    /// For how long the table has to keep the item.
    pub kept: Kept,
}

/// For how long the table has to keep an item, in seconds since the Unix epoch.
///
/// An item that is forgotten is full, so it must not be forgotten before it is. The time never falls:
/// a write that charges one limit does not know how the others stand by now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kept {
    /// For as long as it is kept anyway: no limit fills later than before.
    AsItIs,
    /// It has to be kept until then at least, as it is already. A guard.
    AtLeast(u64),
    /// It is kept until then from now on, and was not for so long before. A change, and a guard.
    Until(u64),
}

impl Kept {
    fn holds(self, found: Option<&BucketItem>) -> bool {
        let kept = found.map_or(0, |item| item.expires_at_seconds);
        match self {
            Self::AsItIs => true,
            Self::AtLeast(least) => kept >= least,
            Self::Until(until) => kept < until || Sabotage::KeptForOneWrite.is_planted(),
        }
    }
}

/// What a write does to one limit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LimitWrite {
    /// Which limit.
    pub name: Arc<str>,
    /// What happens to it.
    pub action: LimitAction,
}

/// A guarded change of one limit.
#[allow(clippy::large_enum_variant)] // a write has a handful of them, and lives for one call
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LimitAction {
    /// The limit is stored like this, provided that the item does not have it yet.
    Create(LimitItem),
    /// The limit changes, provided that it is there and within the guard.
    Update {
        /// What must be true.
        guard: LimitGuard,
        /// What happens then.
        change: LimitChange,
    },
}

/// What must be true of a limit for it to be changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LimitGuard {
    /// The terms under which the write was planned.
    pub terms: Terms,
    /// The lowest `z`.
    pub z_min: Option<Ticks>,
    /// The highest `z`.
    pub z_max: Option<Ticks>,
    /// What must be true of the ring.
    pub ring: RingGuard,
}

/// The change of one limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LimitChange {
    /// The change of `z`.
    pub z: ZChange,
    /// The terms to store; none if they stand.
    pub terms: Option<Terms>,
    /// Net consumption to add, in tokens.
    pub consumed: i64,
    /// The change of the ring.
    pub ring: RingChange,
}

/// What must be true of a limit's ring for a write to happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RingGuard {
    /// Nothing.
    Any,
    /// No process has held a block.
    Absent,
    /// The last write was in `epoch` or the one before, and no more is held than this.
    Live {
        /// The length of the epochs, in milliseconds.
        lease_ttl_ms: u64,
        /// The current epoch.
        epoch: u64,
        /// The most tokens granted in this epoch.
        held_max: i64,
        /// The most tokens granted in the epoch before.
        held_before_max: i64,
    },
    /// Nobody has touched it since it was seen, but to report demand of the same epoch.
    Unchanged(Ring),
}

/// The change of a `z`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ZChange {
    /// Becomes this.
    Set(Ticks),
    /// Grows by this.
    Add(Ticks),
}

/// The change of a ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RingChange {
    /// None.
    Keep,
    /// Adds to the slots of `epoch` and of the one before, and clears the slot of the next.
    /// Only under [`RingGuard::Live`].
    Add {
        /// The current epoch.
        epoch: u64,
        /// Tokens granted.
        held: i64,
        /// Tokens of the epoch before (less than zero: accounted for).
        held_before: i64,
        /// Demand to report, in thousandths of a token per second.
        demand_milli: i64,
        /// The same for the epoch before (less than zero: demand has fallen since).
        demand_before_milli: i64,
    },
    /// Starts over with this.
    Reset(Ring),
}

impl BucketItem {
    /// The limit called `name`.
    #[must_use]
    pub fn limit(&self, name: &str) -> Option<&LimitItem> {
        let found = self.limits.iter().find(|(n, _)| &**n == name);
        found.map(|(_, limit)| limit)
    }

    /// Applies `write` to what is stored, if every guard holds; otherwise changes nothing.
    ///
    /// # Errors
    /// The item as it stands, if a guard does not hold.
    pub fn apply(stored: &mut Option<Self>, write: &BucketWrite) -> Result<Self, Option<Self>> {
        let found = stored.as_ref().map(|item| item.incarnation);
        let same = write.incarnation.is_none() || write.incarnation == found;
        let holds = |w: &LimitWrite| {
            let found = stored.as_ref().and_then(|item| item.limit(&w.name));
            match w.action {
                LimitAction::Create(_) => found.is_none(),
                LimitAction::Update { guard, .. } => found.is_some_and(|limit| guard.holds(limit)),
            }
        };
        if !same || !write.kept.holds(stored.as_ref()) || !write.limits.iter().all(holds) {
            return Err(stored.clone());
        }
        let item = stored.get_or_insert_with(|| Self {
            incarnation: write.sequence_from,
            sequence: write.sequence_from,
            ..Self::default()
        });
        item.sequence += 1;
        item.consumed_at_ms = write.consumed_at_ms;
        if let Kept::Until(until) = write.kept {
            item.expires_at_seconds = until;
        }
        for w in &write.limits {
            match w.action {
                LimitAction::Create(limit) => {
                    let at = item.limits.partition_point(|(name, _)| *name < w.name);
                    item.limits.insert(at, (w.name.clone(), limit));
                }
                LimitAction::Update { change, .. } => {
                    let mut limits = item.limits.iter_mut();
                    if let Some((_, limit)) = limits.find(|(name, _)| *name == w.name) {
                        limit.change(change);
                    }
                }
            }
        }
        Ok(item.clone())
    }
}

impl LimitWrite {
    /// By when the limit is full, if it is written like this and was `found` so.
    pub(crate) fn full_at(&self, found: Option<&LimitItem>) -> u64 {
        match (&self.action, found) {
            (LimitAction::Create(limit), _) => limit.terms.full_by(limit.z),
            (LimitAction::Update { change, .. }, Some(found)) => {
                let mut limit = *found;
                limit.change(*change);
                limit.terms.full_by(limit.z)
            }
            (LimitAction::Update { .. }, None) => 0,
        }
    }

    /// Guards that the limit is full at `seconds` after it has grown.
    pub(crate) fn fills_by(&mut self, seconds: u64) {
        let LimitAction::Update { guard, change } = &mut self.action else {
            return;
        };
        let ZChange::Add(ticks @ 1..) = change.z else {
            return;
        };
        let full_at = guard
            .terms
            .full_at(WallTime::from_millis(seconds.saturating_mul(1_000)));
        let latest = full_at - ticks;
        guard.z_max = Some(guard.z_max.map_or(latest, |z_max| z_max.min(latest)));
    }
}

impl LimitGuard {
    fn holds(&self, limit: &LimitItem) -> bool {
        limit.terms == self.terms
            && self.z_min.is_none_or(|min| limit.z >= min)
            && self.z_max.is_none_or(|max| limit.z <= max)
            && self.ring.holds(limit.ring.as_ref())
    }
}

impl RingGuard {
    fn holds(&self, found: Option<&Ring>) -> bool {
        match (self, found) {
            (Self::Any, _) => true,
            (Self::Absent, found) => found.is_none(),
            (Self::Unchanged(_) | Self::Live { .. }, None) => false,
            (Self::Unchanged(seen), Some(found)) => {
                found.held == seen.held
                    && (found.lease_ttl_ms, found.epoch) == (seen.lease_ttl_ms, seen.epoch)
            }
            (
                &Self::Live {
                    lease_ttl_ms,
                    epoch,
                    held_max,
                    held_before_max,
                },
                Some(ring),
            ) => {
                let (held, before) = ring.held_in(epoch);
                ring.lease_ttl_ms == lease_ttl_ms
                    && (ring.epoch == epoch || ring.epoch + 1 == epoch)
                    && held <= held_max
                    && before <= held_before_max
            }
        }
    }
}

impl LimitItem {
    fn change(&mut self, change: LimitChange) {
        match change.z {
            ZChange::Set(z) => self.z = z,
            ZChange::Add(ticks) => self.z += ticks,
        }
        self.terms = change.terms.unwrap_or(self.terms);
        self.consumed += change.consumed;
        match change.ring {
            RingChange::Keep => {}
            RingChange::Reset(ring) => self.ring = Some(ring),
            RingChange::Add {
                epoch,
                held,
                held_before,
                demand_milli,
                demand_before_milli,
            } => {
                let ring = self.ring.get_or_insert_default();
                let slot = |later: u64| Ring::slot(epoch.wrapping_add(later));
                ring.epoch = epoch;
                ring.held[slot(0)] += held;
                ring.held[slot(2)] += held_before; // the slot before this one, of three
                ring.demand_milli[slot(0)] += demand_milli;
                ring.demand_milli[slot(2)] += demand_before_milli;
                ring.held[slot(1)] = 0;
                ring.demand_milli[slot(1)] = 0;
            }
        }
    }
}
