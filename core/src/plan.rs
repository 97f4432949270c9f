//! From what a process wants of a bucket to the one conditional write that gets it.
//!
//! A plan is made from the item as it was last seen, without reading it again. If the guess was
//! stale, the guards refuse the write and the store answers with the item as it is; the second
//! plan is then right. Debits commute, so nothing is retried because somebody else was there too.
//!
//! # What the guards keep
//!
//! For every limit, at the moment of every write: `level + held by others <= burst + rate *
//! lease_ttl`, where the level is clamped to the burst. As long as others hold no more than
//! `rate * lease_ttl`, that is true by itself, and the guard only says how much more they may
//! have taken since. Where they hold more (blocks paid from a large burst), the guard narrows
//! to the sum, and what exceeds it overflows, as it would have in a bucket that nobody had
//! borrowed from. Everything that can be admitted later comes out of this sum and of refill,
//! hence the bound: `admitted <= burst + rate * (window + lease_ttl)`.
//!
//! A guard knows the time at which it was planned, and the write arrives later: until then more
//! flows in. So the guards leave an eighth of the `lease_ttl` unused ([`flight_max`]). An answer
//! that took longer is compared with the bound once more ([`excess`]).
//!
//! A block that expired so long ago that the ring has dropped it is returned less what has flowed
//! in since it was granted ([`Returned`]): others may have drawn on that in its place.

use std::time::Duration;

use crate::item::{
    BucketItem, BucketWrite, LimitAction, LimitChange, LimitGuard, LimitItem, LimitWrite, Ring,
    RingChange, RingGuard, ZChange,
};
use crate::sabotage::Sabotage;
use crate::{Limit, Ticks, WallTime};

/// What is known of a bucket's item.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Seen {
    /// Nothing: this process has not looked yet.
    #[default]
    Never,
    /// The table had none.
    Missing,
    /// This is what the last write left, or the last refusal found.
    Item(BucketItem),
}

impl Seen {
    /// The item, if it is known that there is one.
    #[must_use]
    pub fn item(&self) -> Option<&BucketItem> {
        match self {
            Self::Item(item) => Some(item),
            Self::Never | Self::Missing => None,
        }
    }
}

impl From<Option<BucketItem>> for Seen {
    fn from(found: Option<BucketItem>) -> Self {
        found.map_or(Self::Missing, Self::Item)
    }
}

/// What one write is to do to one limit.
#[derive(Clone, Copy, Debug)]
pub struct Transfer<'a> {
    /// The limit, with the terms that are to be in force.
    pub limit: &'a Limit,
    /// Tokens to debit, only if they are there.
    pub take: u64,
    /// Tokens to debit whatever the level: into debt if need be.
    pub owe: u64,
    /// Tokens to credit.
    pub give: u64,
    /// Those of them that were held in a block.
    pub returned: Returned,
    /// Tokens that others have probably taken since the bucket was seen. A guess: it decides
    /// which write is tried first, never what a write may do.
    pub others_took: u64,
    /// When the caller asked, if that was before now: a debit may count as made at any time
    /// since. A bucket that was found not to be full then is not full then, however long the
    /// answer took; as of now it might be full again, and the guess wrong once more.
    pub asked_at: Option<WallTime>,
    /// Whether callers want tokens of this limit, even if none are taken now: then its terms are
    /// in force. A bucket in debt would else be refilled by old terms until it is out of debt.
    pub in_demand: bool,
    /// How far a debit may run ahead of the refill.
    pub ahead: Duration,
    /// Net consumption to report, in tokens.
    pub consumed: i64,
    /// What the process holds, in leased mode.
    pub holding: Option<Holding>,
}

impl<'a> Transfer<'a> {
    fn is_debit(&self) -> bool {
        self.take > 0 || self.owe > 0
    }

    /// A transfer of nothing, to be filled in.
    #[must_use]
    pub fn new(limit: &'a Limit) -> Self {
        Self {
            limit,
            take: 0,
            owe: 0,
            give: 0,
            returned: Returned::default(),
            others_took: 0,
            asked_at: None,
            in_demand: false,
            ahead: Duration::ZERO,
            consumed: 0,
            holding: None,
        }
    }
}

/// Tokens of a block that go back to the bucket.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Returned {
    /// How many.
    pub tokens: u64,
    /// How long ago the block was granted.
    pub held_for: Duration,
}

impl Returned {
    /// What of them has been replaced by refill. As long as the ring counts the block, nothing
    /// may be drawn in its place. After that the bucket may have refilled into the room that the
    /// block had left, and all of it may have been drawn.
    #[must_use]
    pub fn replaced(&self, found: &LimitItem, now: WallTime) -> Ticks {
        let counted = found.ring.is_some_and(|ring| {
            let granted = now.before(self.held_for).as_millis() / ring.lease_ttl_ms.max(1);
            granted + 1 >= epoch(&ring, now)
        });
        if counted {
            return 0;
        }
        let refilled = found.terms.refill(self.held_for);
        refilled.min(Ticks::from(self.tokens) * found.terms.token())
    }
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
    pub entered: Option<Entry>,
}

/// What a process has entered into the ring of a limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Entry {
    lease_ttl_ms: u64,
    epoch: u64,
    held: i64,
    demand_milli: i64,
}

impl Entry {
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

    fn held_in(&self, ring: &Ring, epoch: u64) -> i64 {
        let counted = self.lease_ttl_ms == ring.lease_ttl_ms && self.epoch + 1 >= epoch;
        if counted { self.held } else { 0 }
    }
}

/// A write, and what it means once it is applied.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The write.
    pub write: BucketWrite,
    /// Whether it only brings the stored terms up to date, so that the transfers need another.
    pub only_converts: bool,
    /// What is entered into the ring, in the order of the transfers.
    pub entries: Vec<Option<Entry>>,
    /// The tokens that it moves, in the order of the transfers; none where it does nothing to
    /// the limit, or only converts.
    pub moved: Vec<Option<Moved>>,
}

/// The tokens that a write moves from and to one limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Moved {
    /// Out of the bucket.
    pub debit: u64,
    /// Into the bucket.
    pub credit: u64,
}

/// Plans the write that makes `transfers` on a bucket that was last `seen` like this; none if
/// there is nothing to write.
#[must_use]
pub fn plan(seen: &Seen, now: WallTime, transfers: &[Transfer<'_>]) -> Option<Plan> {
    let never_seen = *seen == Seen::Never;
    let seen = seen.item();
    let found = |t: &Transfer<'_>| seen.and_then(|item| item.limit(t.limit.name()));
    let conversions: Vec<LimitWrite> = transfers
        .iter()
        .filter_map(|t| conversion(found(t)?, now, t))
        .collect();
    let only_converts = !conversions.is_empty();
    // Processes that share a full bucket come to think at the same time that somebody should cut
    // it to its burst. What each saw last is unlike, and so is the moment at which it tries.
    let nudge = Ticks::from(
        seen.map_or(0, |item| item.sequence)
            .wrapping_mul(0x9e37_79b9)
            % 128,
    );
    let mut entries = vec![None; transfers.len()];
    let mut moved = vec![None; transfers.len()];
    let limits = if only_converts {
        conversions
    } else {
        let planned = transfers.iter().zip(entries.iter_mut().zip(&mut moved));
        planned
            .filter_map(|(t, (entry, moved))| {
                let action = match found(t) {
                    None if never_seen && !t.is_debit() => credit_unseen(t),
                    None => create(now, t, entry)?,
                    Some(limit) => update(limit, now, t, nudge, entry),
                };
                *moved = Some(Moved {
                    debit: t.take + t.owe,
                    credit: t.give,
                });
                Some(LimitWrite {
                    name: t.limit.shared_name().clone(),
                    action,
                })
            })
            .collect()
    };
    let write = BucketWrite {
        expires_at_seconds: expires_at_seconds(now, transfers, seen),
        limits,
    };
    (!write.limits.is_empty()).then_some(Plan {
        write,
        only_converts,
        entries,
        moved,
    })
}

/// Whether `take` tokens beside the rest of the transfer are there in the bucket as seen.
#[must_use]
pub fn fits(seen: Option<&BucketItem>, now: WallTime, t: &Transfer<'_>) -> bool {
    let terms = t.limit.terms();
    let spare = level(seen, now, t.limit) + Ticks::from(t.give) * terms.token();
    let needed = Ticks::from(t.take + t.owe) * terms.token();
    spare.min(terms.full()) - needed >= -terms.refill(t.ahead)
}

/// How long a write may be on its way without being [compared](excess) with the bound again.
#[must_use]
pub fn flight_max(lease_ttl: Duration) -> Duration {
    lease_ttl / 8
}

/// By how many tokens the level and all blocks together are over `burst + rate * lease_ttl`,
/// rounded up.
#[must_use]
pub fn excess(item: &BucketItem, now: WallTime, limit: &Limit) -> u64 {
    let Some(found) = item.limit(limit.name()) else {
        return 0;
    };
    let Some(ring) = found.ring else {
        return 0;
    };
    let terms = found.terms;
    let (held, held_before) = held_in(&ring, epoch(&ring, now));
    let out = terms.level(found.z, now) + Ticks::from(held + held_before) * terms.token();
    let most = terms.full() + terms.refill(Duration::from_millis(ring.lease_ttl_ms));
    let tokens = (out - most + terms.token() - 1).div_euclid(terms.token());
    u64::try_from(tokens.max(0)).unwrap_or(u64::MAX)
}

/// The epoch that counts at `now`. Another's clock may be a little ahead; an epoch far in the
/// future is a broken one.
fn epoch(ring: &Ring, now: WallTime) -> u64 {
    let by_clock = now.as_millis() / ring.lease_ttl_ms.max(1);
    let ahead = ring.epoch == by_clock + 1;
    if ahead { ring.epoch } else { by_clock }
}

/// Tokens of live blocks, granted in `epoch` and in the one before.
fn held_in(ring: &Ring, epoch: u64) -> (i64, i64) {
    let live = ring.is_live(epoch) && ring.epoch <= epoch;
    if live { ring.held_in(epoch) } else { (0, 0) }
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

/// The table may forget a bucket a week after it must be full again: forgetting a bucket makes
/// it full, so it must never erase debt.
fn expires_at_seconds(now: WallTime, transfers: &[Transfer<'_>], seen: Option<&BucketItem>) -> u64 {
    const MARGIN: u64 = 7 * 86_400;
    let full_after = |t: &Transfer<'_>| {
        let terms = t.limit.terms();
        let level = level(seen, now, t.limit) - Ticks::from(t.take + t.owe) * terms.token();
        terms
            .time_until(level.min(0), t.limit.burst_tokens())
            .as_secs()
    };
    let longest = transfers.iter().map(full_after).max().unwrap_or(0);
    let expires = now.as_secs().saturating_add(longest.saturating_mul(2));
    // DynamoDB's TTL is a number of seconds; keep to what every reader can hold.
    expires.saturating_add(MARGIN).min(u64::from(u32::MAX) * 16)
}

fn conversion(found: &LimitItem, now: WallTime, t: &Transfer<'_>) -> Option<LimitWrite> {
    let terms = *t.limit.terms();
    // A credit alone is made in the terms that are found: it must not bring back old ones.
    if found.terms == terms || !(t.is_debit() || t.in_demand) {
        return None;
    }
    Some(LimitWrite {
        name: t.limit.shared_name().clone(),
        action: LimitAction::Update {
            guard: LimitGuard {
                terms: found.terms,
                z_min: Some(found.z),
                z_max: Some(found.z),
                ring: RingGuard::Any,
            },
            change: LimitChange {
                z: ZChange::Set(terms.converted(&found.terms, found.z, now)),
                terms: Some(terms),
                consumed: 0,
                ring: RingChange::Keep,
            },
        },
    })
}

fn create(now: WallTime, t: &Transfer<'_>, entry: &mut Option<Entry>) -> Option<LimitAction> {
    if !t.is_debit() && !Sabotage::Resurrected.is_planted() {
        return None; // a credit never brings back what was deleted
    }
    let terms = *t.limit.terms();
    Some(LimitAction::Create(LimitItem {
        terms,
        z: terms.full_at(now) + Ticks::from(t.take + t.owe) * terms.token(),
        consumed: t.consumed,
        ring: t.holding.map(|h| {
            let ttl = millis(h.lease_ttl);
            enter(fresh_ring(ttl, now.as_millis() / ttl), &h, entry)
        }),
    }))
}

/// A credit to a bucket that is not known: the likely guess, which shows the item if it is wrong.
fn credit_unseen(t: &Transfer<'_>) -> LimitAction {
    let terms = *t.limit.terms();
    LimitAction::Update {
        guard: LimitGuard {
            terms,
            z_min: None,
            z_max: None,
            ring: RingGuard::Absent,
        },
        change: LimitChange {
            z: ZChange::Add(-Ticks::from(t.give) * terms.token()),
            terms: None,
            consumed: t.consumed,
            ring: RingChange::Keep,
        },
    }
}

fn update(
    found: &LimitItem,
    now: WallTime,
    t: &Transfer<'_>,
    nudge: Ticks,
    entry: &mut Option<Entry>,
) -> LimitAction {
    let terms = found.terms;
    let token = terms.token();
    let full_at = terms.full_at(t.asked_at.unwrap_or(now));
    let empty_at = terms.empty_at(now);
    let give = Ticks::from(t.give) * token - t.returned.replaced(found, now);
    let debit = Ticks::from(t.take + t.owe) * token;

    let books = Books::of(found, now, t, entry);
    let unclamped = empty_at - found.z + give;
    let level = unclamped.min(terms.full());
    let share = books.share(&terms, level, t.holding.is_some());
    // What the bucket holds beyond full must not hide what overflows for the others' sake.
    let above_full = if share.overflow > 0 {
        (unclamped - level).max(0)
    } else {
        0
    };
    let expected_z = found.z + Ticks::from(t.others_took) * token;
    let over_full = expected_z - give < full_at - share.brim * (128 + nudge) / 256;

    // Where the level is watched beside what others hold, z must not lie much lower than seen.
    let watched = share.level_rise_max.map(|rise| found.z - rise);
    let added = debit + share.overflow + above_full - give;
    let latest = (t.take > 0).then(|| empty_at + terms.refill(t.ahead) - debit - share.overflow);
    let rewound = Sabotage::RewindMints.is_planted() && empty_at - found.z < -2 * terms.full();
    let (z_min, z_max, z) = if rewound {
        (None, None, ZChange::Set(full_at + debit))
    } else if debit == 0 {
        (watched, None, ZChange::Add(added))
    } else if over_full && latest.is_none_or(|latest| full_at <= latest) {
        let z = ZChange::Set(full_at + debit + share.overflow);
        (None, Some(full_at + give - 1), z)
    } else {
        let brim = full_at + give - share.brim;
        let z_min = watched.map_or(brim, |z| z.max(brim));
        let z_max = latest.map(|latest| latest + give - above_full);
        (Some(z_min), z_max, ZChange::Add(added))
    };
    let z = match z {
        ZChange::Add(ticks) if Sabotage::RefillTwice.is_planted() => {
            ZChange::Add(ticks - terms.refill(t.ahead / 8))
        }
        z => z,
    };
    LimitAction::Update {
        guard: LimitGuard {
            terms,
            z_min,
            z_max,
            ring: share.guard,
        },
        change: LimitChange {
            z,
            terms: None,
            consumed: t.consumed,
            ring: books.change,
        },
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis())
        .unwrap_or(u64::MAX)
        .max(1)
}

fn fresh_ring(lease_ttl_ms: u64, epoch: u64) -> Ring {
    Ring {
        lease_ttl_ms,
        epoch,
        ..Ring::default()
    }
}

fn tokens(n: u64) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}

/// Adds `holding` to `ring` as of the ring's epoch, and says what was entered.
fn enter(mut ring: Ring, holding: &Holding, entry: &mut Option<Entry>) -> Ring {
    let slot = Ring::slot(ring.epoch);
    ring.held[slot] += tokens(holding.tokens);
    ring.demand_milli[slot] += holding.demand_milli;
    *entry = Some(Entry {
        lease_ttl_ms: ring.lease_ttl_ms,
        epoch: ring.epoch,
        held: tokens(holding.tokens),
        demand_milli: holding.demand_milli,
    });
    ring
}

/// The ring as seen, what others hold in it, and what this write makes of it.
struct Books {
    ring: Option<(Ring, u64)>,
    live: bool,
    held: i64,
    held_before: i64,
    others: i64,
    change: RingChange,
}

/// What the books allow a write to do.
struct Share {
    guard: RingGuard,
    /// How far over full the bucket may be found and still be debited as it is. A full bucket
    /// that several processes draw on would else be now a little over full, now not, and every
    /// second guess wrong.
    brim: Ticks,
    /// What overflows for the others' sake.
    overflow: Ticks,
    /// How much higher than seen the level may be; none where it does not matter.
    level_rise_max: Option<Ticks>,
}

impl Books {
    fn of(found: &LimitItem, now: WallTime, t: &Transfer<'_>, entry: &mut Option<Entry>) -> Self {
        let own_ttl = t.holding.map(|h| millis(h.lease_ttl));
        let Some(ring) = found.ring else {
            let change = t.holding.map_or(RingChange::Keep, |h| {
                let ttl = millis(h.lease_ttl);
                RingChange::Reset(enter(fresh_ring(ttl, now.as_millis() / ttl), &h, entry))
            });
            return Self {
                ring: None,
                live: false,
                held: 0,
                held_before: 0,
                others: 0,
                change,
            };
        };
        let epoch = epoch(&ring, now);
        let live = ring.is_live(epoch) && ring.epoch <= epoch;
        let (held, held_before) = held_in(&ring, epoch);
        let own = t.holding.and_then(|h| h.entered);
        let own_held = own.map_or(0, |own| own.held_in(&ring, epoch));
        let others = (held + held_before - own_held).max(0);
        let change = match (t.holding, own_ttl) {
            (Some(h), Some(ttl)) if live && ring.lease_ttl_ms >= ttl => {
                Self::add(&ring, epoch, &h, entry)
            }
            (Some(h), Some(ttl)) => {
                let mut restarted = fresh_ring(ttl, now.as_millis() / ttl);
                restarted.held[Ring::slot(restarted.epoch)] = others;
                RingChange::Reset(enter(restarted, &h, entry))
            }
            _ => RingChange::Keep,
        };
        Self {
            ring: Some((ring, epoch)),
            live,
            held,
            held_before,
            others,
            change,
        }
    }

    fn add(ring: &Ring, epoch: u64, h: &Holding, entry: &mut Option<Entry>) -> RingChange {
        let entered = h.entered.filter(|e| e.lease_ttl_ms == ring.lease_ttl_ms);
        let same = entered.filter(|e| e.epoch == epoch).unwrap_or_default();
        let last = entered.filter(|e| e.epoch + 1 == epoch).unwrap_or_default();
        *entry = Some(Entry {
            lease_ttl_ms: ring.lease_ttl_ms,
            epoch,
            held: tokens(h.tokens),
            demand_milli: h.demand_milli,
        });
        RingChange::Add {
            epoch,
            held: tokens(h.tokens) - same.held,
            held_before: -last.held,
            demand_milli: h.demand_milli - same.demand_milli,
        }
    }

    /// `level` is what the bucket holds with this write's credit, before its debit.
    fn share(&self, terms: &crate::Terms, level: Ticks, leased: bool) -> Share {
        let Some((ring, epoch)) = self.ring else {
            return Share {
                guard: RingGuard::Absent,
                brim: 0,
                overflow: 0,
                level_rise_max: None,
            };
        };
        let lease_ttl = Duration::from_millis(ring.lease_ttl_ms);
        let lease_ttl = lease_ttl - flight_max(lease_ttl);
        let allowed = tokens(terms.tokens_in(lease_ttl));
        // Blocks of the epoch before are renewed, and so counted in this one; new ones are entered
        // before only by those who write before the epoch has begun.
        let live = |more: i64| {
            let more_before = if ring.epoch < epoch { more / 4 } else { 0 };
            if self.live && !matches!(self.change, RingChange::Reset(_)) {
                RingGuard::Live {
                    lease_ttl_ms: ring.lease_ttl_ms,
                    epoch,
                    held_max: self.held + more - more_before,
                    held_before_max: self.held_before + more_before,
                }
            } else {
                RingGuard::Unchanged(ring)
            }
        };
        let spare = allowed - self.others;
        if spare >= 0 {
            let brim = if leased { spare / 3 } else { 0 };
            return Share {
                guard: live(spare - brim),
                brim: Ticks::from(brim) * terms.token(),
                overflow: 0,
                level_rise_max: None,
            };
        }
        let most = terms.full() + terms.refill(lease_ttl);
        let spare = most - level - Ticks::from(self.others) * terms.token();
        let (overflow, spare) = if spare < 0 {
            let room = terms.refill(lease_ttl) / 4;
            (room - spare, room)
        } else {
            (0, spare)
        };
        Share {
            guard: live(terms.to_tokens(spare / 2)),
            brim: 0,
            overflow,
            level_rise_max: Some(spare / 2),
        }
    }
}
