//! Tokens that are out in blocks, as the table's ring counts them: what a write may do beside them,
//! and what comes back of a block that nobody counts any more. What it is for is in [`crate::plan`].

use std::time::Duration;

use super::arithmetic::{Terms, Ticks};
use super::item::{BucketItem, LimitItem, Ring, RingChange, RingGuard};
use super::plan::Transfer;
use crate::sabotage::Sabotage;
use crate::{Limit, MonotonicTime, WallTime};

/// Tokens that were asked for by direct acquires, and that the table has not been told of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DirectDemand {
    /// How many.
    pub tokens: u64,
    /// Since when.
    pub since: MonotonicTime,
    /// For how long.
    pub during: Duration,
    /// For how long such acquires go on, without a pause of a `lease_ttl`.
    pub going_on: Duration,
}

/// What a process holds in its block, to be entered into the ring.
#[derive(Clone, Copy, Debug)]
pub struct Holding {
    /// How long the block lives.
    pub lease_ttl: Duration,
    /// Tokens that it holds after the write.
    pub tokens: u64,
    /// The demand that it reports, in thousandths of a token per second.
    pub demand_milli: i64,
    /// What it entered last.
    pub entered: Option<RingEntry>,
}

/// What a process has entered into the ring of a limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RingEntry {
    lease_ttl_ms: u64,
    epoch: u64,
    held: i64,
    demand_milli: i64,
    /// What still stands in the epoch before.
    demand_before_milli: i64,
}

impl RingEntry {
    /// The same entry after a write of unknown outcome: the tokens may be counted twice, never
    /// too few times, until the epoch ends.
    #[must_use]
    pub fn in_doubt(self) -> Self {
        Self { held: 0, ..self }
    }

    /// The demand that was reported, in thousandths of a token per second.
    #[must_use]
    pub fn demand_milli(self) -> i64 {
        self.demand_milli
    }

    /// What stands in a ring that did not have what was entered `before`, and from which this has
    /// taken it out.
    #[must_use]
    pub fn beside(self, before: Option<Self>) -> Self {
        match before.filter(|before| before.epoch == self.epoch) {
            Some(before) => Self {
                held: self.held - before.held,
                demand_milli: self.demand_milli - before.demand_milli,
                ..self
            },
            None => self,
        }
    }

    /// What was held of that, where so much is given back or was spent since.
    fn held_of(self, before: u64) -> i64 {
        self.held.min(tokens(before))
    }

    fn held_in(&self, ring: &Ring, epoch: u64) -> i64 {
        let counted = self.lease_ttl_ms == ring.lease_ttl_ms && self.epoch + 1 >= epoch;
        if counted { self.held } else { 0 }
    }
}

impl Holding {
    /// A ring that begins now, in which others hold so many tokens beside this.
    pub(crate) fn first_ring(
        &self,
        now: WallTime,
        others: i64,
        entry: &mut Option<RingEntry>,
    ) -> Ring {
        let lease_ttl_ms = millis(self.lease_ttl);
        let mut ring = Ring {
            lease_ttl_ms,
            epoch: now.as_millis() / lease_ttl_ms,
            ..Ring::default()
        };
        let slot = Ring::slot(ring.epoch);
        ring.held[slot] = others + tokens(self.tokens);
        ring.demand_milli[slot] = self.demand_milli;
        *entry = Some(RingEntry {
            lease_ttl_ms,
            epoch: ring.epoch,
            held: tokens(self.tokens),
            demand_milli: self.demand_milli,
            demand_before_milli: 0,
        });
        ring
    }
}

/// Tokens of a block that go back to the bucket.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Returned {
    /// How many.
    pub tokens: u64,
    /// How many more that were held under other terms than those declared now.
    pub revoked: u64,
    /// How long ago the block was granted.
    pub held_for: Duration,
}

impl Returned {
    /// What of them has been displaced_by_refill by refill. As long as the ring counts the block, nothing
    /// may be drawn in its place. After that the bucket may have refilled into the room that the
    /// block had left, and all of it may have been drawn; and where the burst was cut, also before
    /// this process knew (it `declared` what it knew), all that was not in the bucket by then.
    #[must_use]
    pub fn displaced_by_refill(&self, declared: &Terms, found: &LimitItem, now: WallTime) -> Ticks {
        let counted = found.ring.is_some_and(|ring| {
            let granted = now.before(self.held_for).as_millis() / ring.lease_ttl_ms.max(1);
            granted + 1 >= epoch(&ring, now)
        });
        if counted {
            return 0;
        }
        let token = found.terms.token();
        let tokens = Ticks::from(self.tokens) * token;
        let displaced_by_refill = if found.terms == *declared {
            found.terms.refill(self.held_for).min(tokens)
        } else {
            tokens
        };
        displaced_by_refill + Ticks::from(self.revoked) * token
    }
}

/// How long a write may be on its way without being [compared](excess) with the bound again.
#[must_use]
pub fn flight_max(lease_ttl: Duration) -> Duration {
    lease_ttl / 32
}

/// By how many tokens all blocks, and the level if there is any, are over `burst + rate * lease_ttl`
/// together, rounded up.
#[must_use]
pub fn excess(item: &BucketItem, now: WallTime, limit: &Limit) -> u64 {
    let Some(found) = item.limit(limit.name()) else {
        return 0;
    };
    let Some(ring) = found.ring else {
        return 0;
    };
    let terms = found.terms;
    let held = Outstanding::of(&ring, epoch(&ring, now), None).others;
    let out = terms.level(found.z, now).max(0) + Ticks::from(held) * terms.token();
    let most = terms.full() + terms.refill(Duration::from_millis(ring.lease_ttl_ms));
    let tokens = (out - most + terms.token() - 1).div_euclid(terms.token());
    u64::try_from(tokens.max(0)).unwrap_or(u64::MAX)
}

/// The demand that the fleet has reported, in thousandths of a token per second, as far as that is not
/// too long ago.
#[must_use]
pub fn fleet_demand_milli(found: &LimitItem, now: WallTime) -> i64 {
    found.ring.map_or(0, |ring| {
        let epoch = now.as_millis() / ring.lease_ttl_ms.max(1);
        if ring.is_live(epoch) {
            ring.demand_milli_in(epoch)
        } else {
            0
        }
    })
}

/// Whether others hold tokens of a limit in live blocks.
#[must_use]
pub fn others_hold(found: &LimitItem, now: WallTime, entered: Option<RingEntry>) -> bool {
    let others = |ring: &Ring| Outstanding::of(ring, epoch(ring, now), entered).others;
    found.ring.as_ref().is_some_and(|ring| others(ring) > 0)
}

/// What of `level` may be drawn: where others hold more than the limit refills in a `lease_ttl`, a
/// part of it overflows.
#[must_use]
pub fn drawable(
    found: &LimitItem,
    now: WallTime,
    entered: Option<RingEntry>,
    level: Ticks,
) -> Ticks {
    let Some(ring) = found.ring else {
        return level;
    };
    let others = Outstanding::of(&ring, epoch(&ring, now), entered).others;
    level - Headroom::of(&found.terms, &ring, others, level).map_or(0, |rest| rest.overflow)
}

/// How many tokens all processes together may hold: what the bucket could give at once. What has
/// overflowed lowers the level, but is in nobody's hand.
fn blocks_max(terms: &Terms, lease_ttl: Duration) -> u64 {
    if Sabotage::HeldUnbounded.is_planted() {
        return 1 << 62;
    }
    terms.burst + terms.tokens_in(lease_ttl - flight_max(lease_ttl))
}

/// How many tokens a process may hold, beside what others hold and may take meanwhile.
#[must_use]
pub fn block_max(
    limit: &Limit,
    found: Option<&LimitItem>,
    now: WallTime,
    entered: Option<RingEntry>,
    lease_ttl: Duration,
) -> u64 {
    let ring = found.and_then(|found| found.ring);
    let others = |ring: &Ring| Outstanding::of(ring, epoch(ring, now), entered).others;
    let lease_ttl = ring.as_ref().map_or(lease_ttl, ring_ttl);
    let others = ring.as_ref().map_or(0, others).unsigned_abs();
    let meanwhile = limit.terms().tokens_in(lease_ttl / 16);
    blocks_max(limit.terms(), lease_ttl).saturating_sub(others + meanwhile)
}

/// When the refill has flowed in that the last `scheduled` tokens were debited for, but for the overdraft_allowance:
/// how long until the first, and until the last of them.
#[must_use]
pub fn flows_in(
    found: &LimitItem,
    now: WallTime,
    lease_ttl: Duration,
    scheduled: u64,
) -> (Duration, Duration) {
    let terms = found.terms;
    let ahead = found.z - terms.empty_at(now) - terms.refill(overdraft_max(lease_ttl));
    let first = ahead - Ticks::from(scheduled) * terms.token();
    (terms.time_for(first), terms.time_for(ahead))
}

/// What overflows of `level`, which may be above full, in a bucket as `found`: for what others hold, and
/// for what flowed in beside blocks. Of its own block the process gives back, or has spent, `before`.
#[must_use]
pub fn overflow(
    found: &LimitItem,
    now: WallTime,
    entered: Option<RingEntry>,
    before: u64,
    level: Ticks,
) -> Ticks {
    let Some(ring) = found.ring else {
        return 0;
    };
    let out = Outstanding::of(&ring, epoch(&ring, now), entered);
    let own = entered.map_or(0, |entered| entered.held_of(before));
    let found_level = found.terms.level(found.z, now);
    overflow_of(&found.terms, &ring, out.others, own, found_level, level)
}

fn overflow_of(
    terms: &Terms,
    ring: &Ring,
    others: i64,
    own: i64,
    found_level: Ticks,
    level: Ticks,
) -> Ticks {
    let clamped = level.min(terms.full());
    let beside_others = Headroom::of(terms, ring, others, clamped).map_or(0, |rest| rest.overflow);
    let most = terms.full() + terms.refill(guarded_ttl(ring_ttl(ring)));
    let over = found_level + Ticks::from(others + own) * terms.token() - most;
    beside_others.max(over - (level - clamped))
}

/// Until when at least all that flows in overflows, for what others hold; none if it does not.
#[must_use]
pub fn overflows_for(
    found: &LimitItem,
    now: WallTime,
    entered: Option<RingEntry>,
) -> Option<Duration> {
    let ring = found
        .ring
        .filter(|_| drawable(found, now, entered, 0) < 0)?;
    let turns_ms = (epoch(&ring, now) + 1) * ring.lease_ttl_ms;
    Some(Duration::from_millis(
        turns_ms.saturating_sub(now.as_millis()),
    ))
}

/// The epoch that counts at `now`. Another's clock may be a little ahead; an epoch far in the
/// future is a broken one.
fn epoch(ring: &Ring, now: WallTime) -> u64 {
    let by_clock = now.as_millis() / ring.lease_ttl_ms.max(1);
    let ahead = ring.epoch == by_clock + 1;
    if ahead { ring.epoch } else { by_clock }
}

/// Tokens that are out in live blocks.
#[derive(Clone, Copy, Debug, Default)]
struct Outstanding {
    live: bool,
    /// Granted in this epoch, and in the one before.
    held: i64,
    held_before: i64,
    /// All but the process's own.
    others: i64,
}

impl Outstanding {
    fn of(ring: &Ring, epoch: u64, entered: Option<RingEntry>) -> Self {
        let live = ring.is_live(epoch) && ring.epoch <= epoch;
        let (held, held_before) = if live { ring.held_in(epoch) } else { (0, 0) };
        let own = entered.map_or(0, |own| own.held_in(ring, epoch));
        Self {
            live,
            held,
            held_before,
            others: (held + held_before - own).max(0),
        }
    }
}

/// What is left of the level where others hold more than the limit refills in a `lease_ttl`.
struct Headroom {
    /// What is too much.
    overflow: Ticks,
    /// By how much the level, or what others hold, may still grow.
    headroom: Ticks,
}

impl Headroom {
    fn of(terms: &Terms, ring: &Ring, others: i64, level: Ticks) -> Option<Self> {
        let guarded = guarded_ttl(ring_ttl(ring));
        if others <= tokens(terms.tokens_in(guarded)) {
            return None;
        }
        let most = terms.full() + terms.refill(guarded);
        let headroom = most - level - Ticks::from(others) * terms.token();
        let room = terms.refill(guarded) / 16;
        Some(if headroom < 0 {
            Self {
                overflow: room - headroom,
                headroom: room,
            }
        } else {
            Self {
                overflow: 0,
                headroom,
            }
        })
    }
}

/// How much refill that is to come may be spent at once: by processes whose view of the bucket was
/// stale, and by strict acquires beside others that reserve it.
pub(crate) fn overdraft_max(lease_ttl: Duration) -> Duration {
    lease_ttl / 32 * 5
}

fn ring_ttl(ring: &Ring) -> Duration {
    Duration::from_millis(ring.lease_ttl_ms)
}

/// What the guards go by: flights and overdraft_allowance take the rest.
fn guarded_ttl(lease_ttl: Duration) -> Duration {
    lease_ttl - flight_max(lease_ttl) - overdraft_max(lease_ttl)
}

/// The ring as seen, what is out, and what a write makes of it.
pub(crate) struct WriteGuards {
    ring: Option<(Ring, u64)>,
    out: Outstanding,
    /// What the process held until now, spent since or not.
    own: i64,
    pub(crate) change: RingChange,
}

/// What the books allow a write to do.
pub(crate) struct Allowance {
    pub(crate) guard: RingGuard,
    /// How far over full the bucket may be found and still be debited as it is. A full bucket
    /// that several processes draw on would else be now a little over full, now not, and every
    /// second guess wrong.
    pub(crate) full_tolerance: Ticks,
    /// How far below empty the level may be after a debit that is spent at once. Processes that
    /// draw on an empty bucket would else each be refused for what the others drew meanwhile; and
    /// strict acquires always, where others reserve the refill before it is there.
    pub(crate) overdraft_allowance: Ticks,
    /// What overflows for the others' sake.
    pub(crate) overflow: Ticks,
    /// How much higher than seen the level may be; none where it does not matter.
    pub(crate) level_rise_max: Option<Ticks>,
}

impl WriteGuards {
    /// Of the limit as `found`, for a write of `t`; what it enters goes to `entry`.
    pub(crate) fn of(
        found: &LimitItem,
        now: WallTime,
        t: &Transfer<'_>,
        entry: &mut Option<RingEntry>,
    ) -> Self {
        let holding = t.holding;
        let Some(ring) = found.ring else {
            let change = |h: Holding| RingChange::Reset(h.first_ring(now, 0, entry));
            return Self {
                ring: None,
                out: Outstanding::default(),
                own: 0,
                change: holding.map_or(RingChange::Keep, change),
            };
        };
        let epoch = epoch(&ring, now);
        let entered = holding.and_then(|h| h.entered);
        let out = Outstanding::of(&ring, epoch, entered);
        let mut change = match holding {
            Some(h) if out.live && ring.lease_ttl_ms >= millis(h.lease_ttl) => {
                Self::add(&ring, epoch, &h, entry)
            }
            Some(h) => RingChange::Reset(h.first_ring(now, out.others, entry)),
            None => RingChange::Keep,
        };
        let direct = t
            .direct
            .map_or(0, |direct| direct_milli(&ring, epoch, now, direct));
        match &mut change {
            RingChange::Add { demand_milli, .. } => *demand_milli += direct,
            RingChange::Reset(ring) => ring.demand_milli[Ring::slot(ring.epoch)] += direct,
            // Where none holds anything, nobody is told: the ring is to die with the last of them.
            keep if out.others > 0 && direct > 0 => {
                *keep = RingChange::Add {
                    epoch,
                    held: 0,
                    held_before: 0,
                    demand_milli: direct,
                    demand_before_milli: 0,
                };
            }
            RingChange::Keep => {}
        }
        Self {
            ring: Some((ring, epoch)),
            out,
            own: entered.map_or(0, |entered| entered.held_of(t.held_before())),
            change,
        }
    }

    fn add(ring: &Ring, epoch: u64, h: &Holding, entry: &mut Option<RingEntry>) -> RingChange {
        let entered = h.entered.filter(|e| e.lease_ttl_ms == ring.lease_ttl_ms);
        let same = entered.filter(|e| e.epoch == epoch).unwrap_or_default();
        let last = entered.filter(|e| e.epoch + 1 == epoch).unwrap_or_default();
        // Demand that has fallen must not count for as long as a block lives.
        let stood = same.demand_before_milli + last.demand_milli;
        let stands = stood.min(h.demand_milli);
        *entry = Some(RingEntry {
            lease_ttl_ms: ring.lease_ttl_ms,
            epoch,
            held: tokens(h.tokens),
            demand_milli: h.demand_milli,
            demand_before_milli: stands,
        });
        RingChange::Add {
            epoch,
            held: tokens(h.tokens) - same.held,
            held_before: -last.held,
            demand_milli: h.demand_milli - same.demand_milli,
            demand_before_milli: stands - stood,
        }
    }

    /// `level` is what the bucket holds with this write's credit, before its debit; it was found with
    /// `found_level`.
    pub(crate) fn share(
        &self,
        terms: &Terms,
        found_level: Ticks,
        level: Ticks,
        holding: Option<Holding>,
    ) -> Allowance {
        let overdraft_allowance = |lease_ttl| terms.refill(overdraft_max(lease_ttl));
        let Some((ring, _)) = self.ring else {
            return Allowance {
                guard: RingGuard::Absent,
                full_tolerance: 0,
                overdraft_allowance: holding.map_or(0, |h| overdraft_allowance(h.lease_ttl)),
                overflow: 0,
                level_rise_max: None,
            };
        };
        let lease_ttl = ring_ttl(&ring);
        let headroom = tokens(terms.tokens_in(guarded_ttl(lease_ttl))) - self.out.others;
        // By how much others may come to hold more beside the block that is taken, if one is.
        let block = holding.filter(|holding| holding.tokens > 0);
        let room = block.map_or(i64::MAX, |block| {
            tokens(blocks_max(terms, lease_ttl)) - self.out.others - tokens(block.tokens)
        });
        let overflow = overflow_of(terms, &ring, self.out.others, self.own, found_level, level);
        let level = level.min(terms.full());
        if let Some(rest) = Headroom::of(terms, &ring, self.out.others, level) {
            return Allowance {
                guard: self.guard(room.min(terms.to_tokens(rest.headroom / 2))),
                full_tolerance: 0,
                overdraft_allowance: 0,
                overflow,
                level_rise_max: Some(rest.headroom / 2),
            };
        }
        let full_tolerance = if holding.is_some() { headroom / 3 } else { 0 };
        Allowance {
            guard: self.guard(room.min(headroom - full_tolerance)),
            full_tolerance: Ticks::from(full_tolerance) * terms.token(),
            overdraft_allowance: if holding.is_some() || self.out.others > 0 {
                overdraft_allowance(lease_ttl)
            } else {
                0
            },
            overflow: overflow.max(0),
            level_rise_max: None,
        }
    }

    /// Others may hold so many tokens `more` than was seen.
    fn guard(&self, more: i64) -> RingGuard {
        let Some((ring, epoch)) = self.ring else {
            return RingGuard::Absent;
        };
        if !self.out.live || matches!(self.change, RingChange::Reset(_)) {
            return RingGuard::Unchanged(ring);
        }
        // Blocks of the epoch before are renewed, and so counted in this one; new ones are entered
        // before only by those who write before the epoch has begun.
        let more_before = if ring.epoch < epoch { more / 4 } else { 0 };
        RingGuard::Live {
            lease_ttl_ms: ring.lease_ttl_ms,
            epoch,
            held_max: self.out.held + more - more_before,
            held_before_max: self.out.held_before + more_before,
        }
    }
}

/// Over which part of an epoch at least: a few requests at its end are no rate.
const DIRECT_OVER_MIN: u64 = 4;

/// What is direct for in strict mode is demand beside that of processes that lease: the mean of an
/// epoch, in thousandths of a token per second. Of who began in the middle of one it is the mean of
/// the rest: the next epoch would else have gone by before it was known.
fn direct_milli(ring: &Ring, epoch: u64, now: WallTime, direct: DirectDemand) -> i64 {
    let lease_ttl_ms = ring.lease_ttl_ms;
    let gone_ms = now.as_millis().saturating_sub(epoch * lease_ttl_ms);
    let began_ms = gone_ms.saturating_sub(millis(direct.going_on));
    let rest_ms = lease_ttl_ms.saturating_sub(began_ms);
    let during_ms = rest_ms
        .max(lease_ttl_ms / DIRECT_OVER_MIN)
        .max(millis(direct.during));
    let demand_milli = u128::from(direct.tokens) * 1_000_000 / u128::from(during_ms);
    i64::try_from(demand_milli).unwrap_or(i64::MAX)
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis())
        .unwrap_or(u64::MAX)
        .max(1)
}

fn tokens(n: u64) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}
