//! What a bucket probably holds, and what of that a process could have: read by the policy, and told to
//! callers. An estimate may be wrong; the kernel decides without it.

use std::time::Duration;

use crate::kernel::item::{BucketItem, LimitItem, Ring};
use crate::kernel::plan::{self, RingEntry, Transfer};
use crate::kernel::{Kernel, Now, Outstanding, WriteGuards};
use crate::{Limit, MonotonicTime, Terms, Ticks, WallTime};

/// What may be asked for of one limit, and what is known of the fleet.
#[derive(Clone, Debug)]
pub struct Offer {
    /// The numbers of the limit.
    pub terms: Terms,
    /// Tokens that are spendable here and now.
    pub in_hand: u64,
    /// All tokens that are held and not spent.
    pub unspent: u64,
    /// The most that this process may hold.
    pub block_max: u64,
    /// The demand that the fleet has reported, in thousandths of a token per second.
    pub fleet_demand_milli: i64,
    /// The demand that this process has reported.
    pub reported_milli: i64,
    /// For how long at least all that flows in overflows, for what others hold; none if it does not.
    pub overflows_for: Option<Duration>,
    /// Whether the table has the bucket, as far as is known.
    pub seen: bool,
    /// When the bucket was last seen.
    pub seen_at: MonotonicTime,
    /// The level at which the bucket was seen.
    pub level_seen: Ticks,
    /// Where the level would stand now if this process gave everything back and nobody else had written.
    level_unclamped: Ticks,
    debt: Ticks,
    outstanding: Option<OutstandingSeen>,
}

/// What others held when the bucket was seen, and this process.
#[derive(Clone, Copy, Debug)]
struct OutstandingSeen {
    out: Outstanding,
    own: i64,
    level: Ticks,
}

impl Offer {
    /// Of a limit, to a process that `returns` what it holds, or keeps it.
    pub(crate) fn of(
        kernel: &Kernel,
        now: Now,
        (at, limit): (usize, &Limit),
        lease_ttl: Duration,
        returns: bool,
    ) -> Self {
        let (terms, position, entry) = (*limit.terms(), kernel.position(at), kernel.entry(at));
        let unspent = if returns {
            position.stock + position.pending
        } else {
            0
        };
        let seen = kernel.seen().item();
        let found = seen.and_then(|item| item.limit(limit.name()));
        let since = now.monotonic.since(kernel.seen_at());
        // As it stood when it was seen: what flowed in since then and what others took met in the
        // bucket, so only the difference can have overflowed.
        let level_seen = level(seen, now.wall.before(since), limit);
        let comes_back = Ticks::from(unspent + position.credit + position.revoked);
        let displaced = found.map_or(0, |found| {
            let returned = kernel.returned(now.monotonic, at, lease_ttl, unspent);
            let displaced = returned.displaced_by_refill(&terms, found, now.wall);
            if found.terms == terms {
                displaced
            } else {
                Ticks::from(found.terms.to_tokens(displaced)) * terms.token()
            }
        });
        let before = unspent.saturating_add(position.spent);
        let outstanding = |found: &LimitItem| {
            let out = Outstanding::of(found, now.wall, entry)?;
            Some(OutstandingSeen {
                own: out.own_of(before),
                level: found.terms.level(found.z, now.wall),
                out,
            })
        };
        Self {
            terms,
            in_hand: kernel.in_hand(now.monotonic, at),
            unspent,
            block_max: plan::block_max(limit, found, now.wall, entry, lease_ttl),
            fleet_demand_milli: found.map_or(0, |found| fleet_demand_milli(found, now.wall)),
            reported_milli: entry.map_or(0, |entry| entry.demand_milli),
            overflows_for: found.and_then(|found| overflows_for(found, now.wall, entry)),
            seen: seen.is_some(),
            seen_at: kernel.seen_at(),
            level_seen,
            level_unclamped: level_seen + comes_back * terms.token() - displaced
                + terms.refill(since),
            debt: Ticks::from(position.debt) * terms.token(),
            outstanding: found.and_then(outstanding),
        }
    }

    /// What the bucket holds once this process has given back what it holds, less what it owes, and less
    /// what others have taken since it was seen; negative: reserved ahead. In [`Ticks`] of the limit.
    #[must_use]
    pub fn level(&self, others_took: Ticks) -> Ticks {
        let level = self.level_unclamped - others_took;
        let overflow = self
            .outstanding
            .map_or(0, |seen| seen.out.overflow(seen.own, seen.level, level));
        level.min(self.terms.full()) - overflow - self.debt
    }
}

/// Whether `take` tokens beside the rest of the transfer are there in the bucket as seen.
#[must_use]
pub fn fits(seen: Option<&BucketItem>, now: WallTime, t: &Transfer<'_>) -> bool {
    let terms = t.limit.terms();
    let found_level = level(seen, now, t.limit);
    let level = found_level + Ticks::from(t.give) * terms.token();
    let found = seen.and_then(|item| item.limit(t.limit.name()));
    let (overdraft_allowance, overflow) = found.map_or((0, 0), |found| {
        let converted = LimitItem {
            terms: *terms,
            z: terms.converted(&found.terms, found.z, now),
            ..*found
        };
        let guards = WriteGuards::of(&converted, now, t);
        let share = guards.share(terms, found_level, level, t.holding);
        (share.overdraft_allowance, share.overflow)
    });
    level.min(terms.full()) - overflow >= t.level_min(terms, overdraft_allowance)
}

/// The level of a limit in a bucket as seen; a bucket that is not there is full.
#[must_use]
pub fn level(seen: Option<&BucketItem>, now: WallTime, limit: &Limit) -> Ticks {
    let terms = limit.terms();
    match seen.and_then(|item| item.limit(limit.name())) {
        None => terms.full(),
        Some(found) => terms.empty_at(now) - terms.converted(&found.terms, found.z, now),
    }
}

/// The demand that the fleet has reported, in thousandths of a token per second, as far as that is not
/// too long ago.
fn fleet_demand_milli(found: &LimitItem, now: WallTime) -> i64 {
    let in_ring = |ring: Ring| {
        let epoch = now.as_millis() / ring.lease_ttl_ms.max(1);
        let [this, last] = [epoch, epoch.wrapping_add(2)].map(Ring::slot);
        // The last epoch's sum, less what has fallen since, or this one's if it is more already.
        let demand = ring.demand_milli[this].max(ring.demand_milli[last]);
        ring.is_live(epoch).then_some(demand)
    };
    found.ring.and_then(in_ring).unwrap_or(0)
}

/// For how long at least all that flows in overflows, for what others hold; none if it does not.
fn overflows_for(found: &LimitItem, now: WallTime, entry: Option<RingEntry>) -> Option<Duration> {
    let out = Outstanding::of(found, now, entry)?;
    out.headroom(0).filter(|rest| rest.overflow > 0)?;
    Some(out.epoch_end().since(now))
}

/// Whether others hold tokens of a limit in live blocks, beside what the process has entered.
pub(crate) fn others_hold(found: &LimitItem, now: WallTime, entry: Option<RingEntry>) -> bool {
    Outstanding::of(found, now, entry).is_some_and(|out| out.others > 0)
}

/// What of `level` may be drawn by a direct acquire: where blocks hold more than the limit refills in a
/// `lease_ttl`, a part of it overflows.
#[must_use]
pub fn drawable(found: &LimitItem, now: WallTime, level: Ticks) -> Ticks {
    let rest = Outstanding::of(found, now, None).and_then(|out| out.headroom(level));
    level - rest.map_or(0, |rest| rest.overflow)
}

/// What is known about a limit of a bucket without asking the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Knowledge {
    /// Surely spendable here and now.
    pub in_hand: u64,
    /// The best estimate for the whole bucket, what is in hand included; negative: debt.
    pub estimate: i64,
    /// How old the estimate is; none if the table has never been seen.
    pub age: Option<Duration>,
    /// Whether `requested` tokens, if they are not in hand, would be refused without asking the
    /// table.
    pub denied: bool,
    /// How long until `requested` tokens may be had here.
    pub retry_after: Duration,
}

impl Knowledge {
    /// Of a bucket that is not in use: for all that is known, it is full.
    #[must_use]
    pub fn nothing(limit: &Limit) -> Self {
        Self {
            in_hand: 0,
            estimate: i64::try_from(limit.burst_tokens()).unwrap_or(i64::MAX),
            age: None,
            denied: false,
            retry_after: Duration::ZERO,
        }
    }
}
