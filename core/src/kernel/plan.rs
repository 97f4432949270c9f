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
//! What flows in between two writes adds to the sum. So the next one goes by what was held at the
//! last, its own block included, whether it was spent since or not.
//!
//! What overflows lowers the level, perhaps far below empty, while blocks stay as they were. So
//! what is held is bounded by itself, too: the new block and what others hold together
//! ([`block_max`]). And refill that is to come is not spent before it has come ([`flows_in`]).
//!
//! A guard knows the time at which it was planned, and the write arrives later: until then more
//! flows in; and what a debit draws on may be refill that is to come, if others were faster. So the
//! guards leave a fifth of the `lease_ttl` unused: for flights ([`flight_max`]) and for overdrafts. An
//! answer that took longer is compared with the bound once more ([`excess`]).
//!
//! A block that expired so long ago that the ring has dropped it is returned less what has flowed
//! in since it was granted ([`Returned`]): others may have drawn on that in its place.

use std::time::Duration;

use super::arithmetic::{Terms, Ticks};
use super::guards::{Allowance, WriteGuards};
pub use super::guards::{Holding, Returned, RingEntry, block_max, excess, flight_max, flows_in};
use super::item::{
    BucketItem, BucketWrite, Kept, LimitAction, LimitChange, LimitGuard, LimitItem, LimitWrite,
    RingChange, RingGuard, ZChange,
};
use crate::sabotage::Sabotage;
use crate::{Limit, WallTime};

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

    /// A limit of it.
    #[must_use]
    pub fn limit(&self, name: &str) -> Option<&LimitItem> {
        self.item()?.limit(name)
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
    /// Tokens that have to be left, beside those, or nothing is debited: others were first.
    pub leave: u64,
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
    /// Of what is taken, what is not spent before it has flowed in.
    pub trickle: u64,
    /// Of what is taken, what the process had in hand before.
    pub in_hand: u64,
    /// Tokens that were spent of what was held in a block.
    pub spent: u64,
    /// How far that may run ahead of the refill.
    pub ahead: Duration,
    /// Net consumption to report, in tokens.
    pub consumed: i64,
    /// What the process holds, in leased mode.
    pub holding: Option<Holding>,
    /// What direct acquires ask for, to be told to processes that lease, in thousandths of a token per second.
    pub direct_milli: i64,
}

impl<'a> Transfer<'a> {
    /// What the block held: what is given back of it, and what was spent.
    pub(crate) fn held_before(&self) -> u64 {
        self.returned.tokens.saturating_add(self.spent)
    }

    fn is_debit(&self) -> bool {
        self.take > 0 || self.owe > 0
    }

    /// The lowest level at which the debit may be made. Only what is trickle may be refill that is
    /// to come; what is spent at once has to be there, but for some `overdraft_allowance`. What is given back and
    /// taken again at once is no draw: the sum of the level and of what is held stays as it was.
    pub(crate) fn level_min(&self, terms: &Terms, overdraft_allowance: Ticks) -> Ticks {
        let token = terms.token();
        let due = self.owe + self.leave;
        let ahead = terms.refill(self.ahead).max(overdraft_allowance);
        let min = Ticks::from(self.take + due) * token - ahead;
        let stock = self.take.saturating_sub(self.trickle);
        if stock <= self.in_hand {
            return min;
        }
        min.max(Ticks::from(stock + due) * token - overdraft_allowance)
    }

    /// A transfer of nothing, to be filled in.
    #[must_use]
    pub fn new(limit: &'a Limit) -> Self {
        Self {
            limit,
            take: 0,
            leave: 0,
            owe: 0,
            give: 0,
            returned: Returned::default(),
            others_took: 0,
            asked_at: None,
            in_demand: false,
            trickle: 0,
            in_hand: 0,
            spent: 0,
            ahead: Duration::ZERO,
            consumed: 0,
            holding: None,
            direct_milli: 0,
        }
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
    pub entries: Vec<Option<RingEntry>>,
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
    let convert = |t| Some((conversion(found(t)?, now, t)?, None));
    let mut planned: Vec<Option<Planned>> = transfers.iter().map(convert).collect();
    let only_converts = planned.iter().any(Option::is_some);
    if !only_converts {
        // Processes that share a full bucket come to think at the same time that somebody should cut
        // it to its burst. What each saw last is unlike, and so is the moment at which it tries.
        let sequence = seen.map_or(0, |item| item.sequence);
        let jitter = Ticks::from(sequence.wrapping_mul(0x9e37_79b9) % 128);
        let plan = |t| match found(t) {
            // The likely guess, which shows the item if it is wrong.
            None if never_seen && !t.is_debit() => Some(update(&full(now, t), now, t, jitter)),
            None => create(now, t),
            Some(limit) => Some(update(limit, now, t, jitter)),
        };
        planned = transfers.iter().map(plan).collect();
    }
    let mut write = BucketWrite {
        incarnation: seen.map(|item| item.incarnation),
        sequence_from: now.as_micros(),
        consumed_at_ms: now.as_millis(),
        kept: Kept::AsItIs,
        limits: Vec::new(),
    };
    let (mut entries, mut moved) = (Vec::new(), Vec::new());
    for (t, planned) in transfers.iter().zip(planned) {
        let moves = Moved {
            debit: t.take + t.owe,
            credit: t.give,
        };
        moved.push((planned.is_some() && !only_converts).then_some(moves));
        let (action, entry) = planned.unzip();
        entries.push(entry.flatten());
        let name = t.limit.shared_name().clone();
        (write.limits).extend(action.map(|action| LimitWrite { name, action }));
    }
    keep(&mut write, seen, now);
    (!write.limits.is_empty()).then_some(Plan {
        write,
        only_converts,
        entries,
        moved,
    })
}

/// What is done to a limit, and what this process enters into its ring by that.
type Planned = (LimitAction, Option<RingEntry>);

/// For how long the item is kept beyond the time at which it is full: a block of it may live, and a
/// clock be wrong, for no longer.
const KEPT_BEYOND_FULL: Duration = Duration::from_secs(2 * 86_400);
/// For how long an item is kept at least from a write that says so: the next ones need not.
const KEPT_FOR: Duration = Duration::from_secs(7 * 86_400);
/// The latest time at which an item is to be forgotten, in seconds since the Unix epoch: clocks end
/// there, in 2554.
const KEPT_UNTIL_MAX: u64 = u64::MAX / 1_000_000_000;

/// Forgetting an item makes it full, so `write` sees to it that it is not forgotten before all of its
/// limits are, charged or not, and guards that others have not made it longer meanwhile.
fn keep(write: &mut BucketWrite, seen: Option<&BucketItem>, now: WallTime) {
    let raises = |w: &LimitWrite| match &w.action {
        LimitAction::Create(_) => true,
        LimitAction::Update { change, .. } => {
            let lowers = matches!(change.z, ZChange::Add(ticks) if ticks <= 0);
            !lowers || change.terms.is_some() || change.ring != RingChange::Keep
        }
    };
    if !write.limits.iter().any(raises) {
        return;
    }
    let found = |name: &str| seen.and_then(|item| item.limit(name));
    let written = write.limits.iter().map(|w| w.full_at(found(&w.name)));
    if Sabotage::KeptForOneWrite.is_planted() {
        let kept = written.max().unwrap_or(0).max(now.as_secs()) + KEPT_FOR.as_secs();
        write.kept = Kept::Until(kept);
        return;
    }
    let stored = seen.map_or(&[][..], |item| &item.limits[..]).iter();
    let stored = stored.map(|(_, limit)| limit.terms.full_by(limit.z));
    let full_by = written.chain(stored).max().unwrap_or(0).max(now.as_secs());
    let needed = full_by
        .saturating_add(KEPT_BEYOND_FULL.as_secs())
        .min(KEPT_UNTIL_MAX);
    let kept = seen.map_or(0, |item| item.expires_at_seconds);
    let until = if kept >= needed {
        write.kept = Kept::AtLeast(kept);
        kept
    } else {
        let spare = (full_by - now.as_secs()).max(KEPT_FOR.as_secs());
        let until = needed.saturating_add(spare).min(KEPT_UNTIL_MAX);
        write.kept = Kept::Until(until);
        until
    };
    if until == KEPT_UNTIL_MAX {
        return; // nobody waits for that
    }
    for w in &mut write.limits {
        w.fills_by(until - KEPT_BEYOND_FULL.as_secs());
    }
}

fn conversion(found: &LimitItem, now: WallTime, t: &Transfer<'_>) -> Option<LimitAction> {
    let terms = *t.limit.terms();
    // A credit alone is made in the terms that are found: it must not bring back old ones.
    if found.terms == terms || !(t.is_debit() || t.in_demand) {
        return None;
    }
    Some(LimitAction::Update {
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
    })
}

/// A limit of which nothing is taken and nothing is held.
fn full(now: WallTime, t: &Transfer<'_>) -> LimitItem {
    let terms = *t.limit.terms();
    LimitItem {
        terms,
        z: terms.full_at(now),
        consumed: 0,
        ring: None,
    }
}

fn create(now: WallTime, t: &Transfer<'_>) -> Option<Planned> {
    if !t.is_debit() && !Sabotage::Resurrected.is_planted() {
        return None; // a credit never brings back what was deleted
    }
    let entry = t.holding.map(|holding| holding.first_entry(now));
    let mut limit = full(now, t);
    limit.z += Ticks::from(t.take + t.owe) * limit.terms.token();
    limit.consumed = t.consumed;
    limit.ring = entry.map(|entry| entry.first_ring(0));
    Some((LimitAction::Create(limit), entry))
}

fn update(found: &LimitItem, now: WallTime, t: &Transfer<'_>, jitter: Ticks) -> Planned {
    let terms = found.terms;
    let displaced = t.returned.displaced_by_refill(t.limit.terms(), found, now);
    let give = Ticks::from(t.give) * terms.token() - displaced;
    let guards = WriteGuards::of(found, now, t);
    let unclamped = terms.empty_at(now) - found.z + give;
    let allowed = guards.share(&terms, terms.level(found.z, now), unclamped, t.holding);
    let (z_min, z_max, z) = move_z(found, now, t, jitter, &allowed, give);
    let guard = LimitGuard {
        terms,
        z_min,
        z_max,
        ring: allowed.guard,
    };
    let change = LimitChange {
        z,
        terms: None,
        consumed: t.consumed,
        ring: guards.change,
    };
    (LimitAction::Update { guard, change }, guards.entry)
}

/// How `z` moves, and between which bounds it has to be found. `give` is what comes back, in ticks.
fn move_z(
    found: &LimitItem,
    now: WallTime,
    t: &Transfer<'_>,
    jitter: Ticks,
    allowed: &Allowance,
    give: Ticks,
) -> (Option<Ticks>, Option<Ticks>, ZChange) {
    let terms = found.terms;
    let token = terms.token();
    let full_at = terms.full_at(t.asked_at.unwrap_or(now));
    let empty_at = terms.empty_at(now);
    let debit = Ticks::from(t.take + t.owe) * token;
    let unclamped = empty_at - found.z + give;
    let level = unclamped.min(terms.full());
    // What the bucket holds beyond full must not hide what overflows for the others' sake.
    let hidden = (unclamped - level).max(0);
    let above_full = if allowed.overflow > 0 { hidden } else { 0 };
    // Where the level is watched beside what others hold, z must not lie much lower than seen.
    let watched = allowed.level_rise_max.map(|rise| found.z - rise);
    if debit == 0 {
        // A write that draws on nothing cannot make more overflow than there is.
        let overflow = allowed.overflow.min(level.max(0));
        let added = overflow + above_full - give;
        return (watched, fallen(found, overflow), ZChange::Add(added));
    }
    if Sabotage::RewindMints.is_planted() && empty_at - found.z < -2 * terms.full() {
        return (None, None, ZChange::Set(full_at + debit));
    }
    let overdraft = allowed.overdraft_allowance;
    let latest = (t.take > 0).then(|| empty_at - t.level_min(&terms, overdraft) - allowed.overflow);
    let expected_z = found.z + Ticks::from(t.others_took) * token;
    let over_full = expected_z - give < full_at - allowed.full_tolerance * (128 + jitter) / 256;
    if over_full && latest.is_none_or(|latest| full_at <= latest) {
        let z = ZChange::Set(full_at + debit + allowed.overflow);
        return (None, Some(full_at + give - 1), z);
    }
    let full = full_at + give - allowed.full_tolerance;
    let z_min = watched.map_or(full, |z| z.max(full));
    let z_max = latest.map(|latest| latest + give - above_full);
    let z_max = z_max
        .into_iter()
        .chain(fallen(found, allowed.overflow))
        .min();
    let mut added = debit + allowed.overflow + above_full - give;
    if Sabotage::RefillTwice.is_planted() {
        added -= terms.refill(t.ahead / 8);
    }
    (Some(z_min), z_max, ZChange::Add(added))
}

/// What another has let overflow since the bucket was seen is not to overflow once more.
fn fallen(found: &LimitItem, overflow: Ticks) -> Option<Ticks> {
    (overflow > 0).then(|| found.z + overflow / 2)
}
