//! Tokens that are out in blocks, as the table's ring counts them: what a write may do beside them,
//! and what comes back of a block that nobody counts any more. What it is for is in [`crate::plan`].

use std::time::Duration;

use super::arithmetic::{Terms, Ticks};
use super::item::{LimitItem, Ring, RingChange, RingGuard};
use super::plan::Transfer;
use crate::sabotage::Sabotage;
use crate::{Limit, WallTime};

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
    /// The demand that was reported, in thousandths of a token per second.
    pub(crate) demand_milli: i64,
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

    /// A ring that begins with it, in which others hold so many tokens.
    pub(super) fn first_ring(self, others: i64) -> Ring {
        let mut ring = Ring {
            lease_ttl_ms: self.lease_ttl_ms,
            epoch: self.epoch,
            ..Ring::default()
        };
        let slot = Ring::slot(self.epoch);
        ring.held[slot] = others + self.held;
        ring.demand_milli[slot] = self.demand_milli;
        ring
    }

    fn held_in(&self, ring: &Ring, epoch: u64) -> i64 {
        let counted = self.lease_ttl_ms == ring.lease_ttl_ms && self.epoch + 1 >= epoch;
        if counted { self.held } else { 0 }
    }
}

impl Holding {
    /// What it enters into a ring that begins now.
    pub(super) fn first_entry(&self, now: WallTime) -> RingEntry {
        let lease_ttl_ms = millis(self.lease_ttl);
        RingEntry {
            lease_ttl_ms,
            epoch: now.as_millis() / lease_ttl_ms,
            held: tokens(self.tokens),
            demand_milli: self.demand_milli,
            demand_before_milli: 0,
        }
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
    /// What of them refill has displaced. As long as the ring counts the block, nothing
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
        let displaced = if found.terms == *declared {
            found.terms.refill(self.held_for).min(tokens)
        } else {
            tokens
        };
        displaced + Ticks::from(self.revoked) * token
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
pub fn excess(found: &LimitItem, now: WallTime) -> u64 {
    let Some(out) = Outstanding::of(found, now, None) else {
        return 0;
    };
    let terms = out.terms;
    let all = terms.level(found.z, now).max(0) + Ticks::from(out.others) * terms.token();
    let most = terms.full() + terms.refill(out.lease_ttl());
    let tokens = (all - most + terms.token() - 1).div_euclid(terms.token());
    u64::try_from(tokens.max(0)).unwrap_or(u64::MAX)
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
    let out = found.and_then(|found| Outstanding::of(found, now, entered));
    let (lease_ttl, others) = out.map_or((lease_ttl, 0), |out| (out.lease_ttl(), out.others));
    let others = others.unsigned_abs();
    let meanwhile = limit.terms().tokens_in(lease_ttl / 16);
    blocks_max(limit.terms(), lease_ttl).saturating_sub(others + meanwhile)
}

/// When the refill has flowed in that the last `scheduled` tokens were debited for, but for the overdraft allowance:
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

/// The epoch that counts at `now`. Another's clock may be a little ahead; an epoch far in the
/// future is a broken one.
fn epoch(ring: &Ring, now: WallTime) -> u64 {
    let by_clock = now.as_millis() / ring.lease_ttl_ms.max(1);
    let ahead = ring.epoch == by_clock + 1;
    if ahead { ring.epoch } else { by_clock }
}

/// Tokens of a limit that are out in live blocks, as its ring counts them.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Outstanding {
    terms: Terms,
    ring: Ring,
    /// The epoch that counts.
    pub(crate) epoch: u64,
    live: bool,
    /// Granted in this epoch, and in the one before.
    held: i64,
    held_before: i64,
    /// What the process has entered itself.
    own: i64,
    /// All but that.
    pub(crate) others: i64,
}

impl Outstanding {
    /// None where no process has held a block.
    pub(crate) fn of(found: &LimitItem, now: WallTime, entered: Option<RingEntry>) -> Option<Self> {
        let ring = found.ring?;
        let epoch = epoch(&ring, now);
        let live = ring.is_live(epoch) && ring.epoch <= epoch;
        let (held, held_before) = if live { ring.held_in(epoch) } else { (0, 0) };
        let own = entered.map_or(0, |own| own.held_in(&ring, epoch));
        Some(Self {
            terms: found.terms,
            ring,
            epoch,
            live,
            held,
            held_before,
            own,
            others: (held + held_before - own).max(0),
        })
    }

    /// What a process that holds a block adds to a ring that is live, and has entered then.
    fn enter(&self, h: &Holding) -> (RingChange, Option<RingEntry>) {
        let (lease_ttl_ms, epoch) = (self.ring.lease_ttl_ms, self.epoch);
        let entered = h.entered.filter(|e| e.lease_ttl_ms == lease_ttl_ms);
        let same = entered.filter(|e| e.epoch == epoch).unwrap_or_default();
        let last = entered.filter(|e| e.epoch + 1 == epoch).unwrap_or_default();
        // Demand that has fallen must not count for as long as a block lives.
        let stood = same.demand_before_milli + last.demand_milli;
        let entry = RingEntry {
            lease_ttl_ms,
            epoch,
            held: tokens(h.tokens),
            demand_milli: h.demand_milli,
            demand_before_milli: stood.min(h.demand_milli),
        };
        let change = RingChange::Add {
            epoch,
            held: entry.held - same.held,
            held_before: -last.held,
            demand_milli: entry.demand_milli - same.demand_milli,
            demand_before_milli: entry.demand_before_milli - stood,
        };
        (change, Some(entry))
    }

    /// What the ring counts of the process's own block, of which it gives back or has spent so many tokens.
    pub(crate) fn own_of(&self, before: u64) -> i64 {
        self.own.min(tokens(before))
    }

    pub(crate) fn lease_ttl(&self) -> Duration {
        Duration::from_millis(self.ring.lease_ttl_ms)
    }

    /// When the epoch that counts ends.
    pub(crate) fn epoch_end(&self) -> WallTime {
        WallTime::from_millis((self.epoch + 1) * self.ring.lease_ttl_ms)
    }

    /// What the guards go by, in tokens of refill: flights and overdrafts take the rest.
    fn guarded(&self) -> Duration {
        self.lease_ttl() - flight_max(self.lease_ttl()) - overdraft_max(self.lease_ttl())
    }

    /// What is left of `level` where others hold more than the limit refills in a `lease_ttl`; none where
    /// they do not.
    pub(crate) fn headroom(&self, level: Ticks) -> Option<Headroom> {
        let (terms, guarded) = (&self.terms, self.guarded());
        if self.others <= tokens(terms.tokens_in(guarded)) {
            return None;
        }
        let most = terms.full() + terms.refill(guarded);
        let headroom = most - level - Ticks::from(self.others) * terms.token();
        let room = terms.refill(guarded) / 16;
        Some(Headroom {
            overflow: if headroom < 0 { room - headroom } else { 0 },
            left: if headroom < 0 { room } else { headroom },
        })
    }

    /// What overflows of `level`, which may be above full, in a bucket that was found with `found_level`: for
    /// what others hold, and for what flowed in beside blocks. Of its own block the process gives back, or
    /// has spent, so much as it has entered of `before`.
    pub(crate) fn overflow(&self, own: i64, found_level: Ticks, level: Ticks) -> Ticks {
        let terms = &self.terms;
        let clamped = level.min(terms.full());
        let beside_others = self.headroom(clamped).map_or(0, |rest| rest.overflow);
        let most = terms.full() + terms.refill(self.guarded());
        let over = found_level + Ticks::from(self.others + own) * terms.token() - most;
        beside_others.max(over - (level - clamped))
    }
}

/// What is left of the level where others hold more than the limit refills in a `lease_ttl`.
#[derive(Clone, Copy)]
pub(crate) struct Headroom {
    /// What is too much.
    pub(crate) overflow: Ticks,
    /// By how much the level, or what others hold, may still grow.
    left: Ticks,
}

/// How much refill that is to come may be spent at once: by processes whose view of the bucket was
/// stale, and by strict acquires beside others that reserve it.
pub(crate) fn overdraft_max(lease_ttl: Duration) -> Duration {
    lease_ttl / 32 * 5
}

/// What is out, and what a write makes of the ring that counts it.
pub(crate) struct WriteGuards {
    out: Option<Outstanding>,
    /// What the process held until now, spent since or not.
    own: i64,
    pub(super) change: RingChange,
    /// What this process enters into it.
    pub(super) entry: Option<RingEntry>,
}

/// What the guards allow a write to do.
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
    /// Of the limit as `found`, for a write of `t`.
    pub(crate) fn of(found: &LimitItem, now: WallTime, t: &Transfer<'_>) -> Self {
        let entered = t.holding.and_then(|h| h.entered);
        let out = Outstanding::of(found, now, entered);
        let others = out.map_or(0, |out| out.others);
        let (mut change, entry) = match (t.holding, out) {
            (None, _) => (RingChange::Keep, None),
            (Some(h), Some(out)) if out.live && out.ring.lease_ttl_ms >= millis(h.lease_ttl) => {
                out.enter(&h)
            }
            (Some(h), _) => {
                let entry = h.first_entry(now);
                (RingChange::Reset(entry.first_ring(others)), Some(entry))
            }
        };
        match (&mut change, out) {
            (RingChange::Add { demand_milli, .. }, _) => *demand_milli += t.direct_milli,
            (RingChange::Reset(ring), Some(_)) => {
                ring.demand_milli[Ring::slot(ring.epoch)] += t.direct_milli;
            }
            // Where none holds anything, nobody is told: the ring is to die with the last of them.
            (keep, Some(out)) if others > 0 && t.direct_milli > 0 => {
                *keep = RingChange::Add {
                    epoch: out.epoch,
                    held: 0,
                    held_before: 0,
                    demand_milli: t.direct_milli,
                    demand_before_milli: 0,
                };
            }
            _ => {}
        }
        Self {
            out,
            own: out.map_or(0, |out| out.own_of(t.held_before())),
            change,
            entry,
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
        let overdraft = |lease_ttl| terms.refill(overdraft_max(lease_ttl));
        let Some(out) = self.out else {
            return Allowance {
                guard: RingGuard::Absent,
                full_tolerance: 0,
                overdraft_allowance: holding.map_or(0, |h| overdraft(h.lease_ttl)),
                overflow: 0,
                level_rise_max: None,
            };
        };
        // By how much others may come to hold more beside the block that is taken, if one is.
        let block = holding.filter(|holding| holding.tokens > 0);
        let room = block.map_or(i64::MAX, |block| {
            tokens(blocks_max(terms, out.lease_ttl())) - out.others - tokens(block.tokens)
        });
        let tight = out.headroom(level.min(terms.full()));
        let level_rise_max = tight.map(|rest| rest.left / 2);
        let free = tokens(terms.tokens_in(out.guarded())) - out.others;
        let tolerant = tight.is_none() && holding.is_some();
        let full_tolerance = if tolerant { free / 3 } else { 0 };
        let overdraws = tolerant || tight.is_none() && out.others > 0;
        let more = level_rise_max.map_or(free - full_tolerance, |rise| terms.to_tokens(rise));
        Allowance {
            guard: self.guard(&out, room.min(more)),
            full_tolerance: Ticks::from(full_tolerance) * terms.token(),
            overdraft_allowance: if overdraws {
                overdraft(out.lease_ttl())
            } else {
                0
            },
            overflow: out.overflow(self.own, found_level, level).max(0),
            level_rise_max,
        }
    }

    /// Others may hold so many tokens `more` than was seen.
    fn guard(&self, out: &Outstanding, more: i64) -> RingGuard {
        if !out.live || matches!(self.change, RingChange::Reset(_)) {
            return RingGuard::Unchanged(out.ring);
        }
        // Blocks of the epoch before are renewed, and so counted in this one; new ones are entered
        // before only by those who write before the epoch has begun.
        let more_before = if out.ring.epoch < out.epoch {
            more / 4
        } else {
            0
        };
        RingGuard::Live {
            lease_ttl_ms: out.ring.lease_ttl_ms,
            epoch: out.epoch,
            held_max: out.held + more - more_before,
            held_before_max: out.held_before + more_before,
        }
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis())
        .unwrap_or(u64::MAX)
        .max(1)
}

fn tokens(n: u64) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}
