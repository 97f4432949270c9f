//! The model: what each limit of each entity has admitted, what is consumed net, and so what the table may
//! hold and has to count in the end.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::time::Duration;

use zae_limiter::Limit;

use super::sequence::Faults;
use crate::fleet::WindowBound;

/// Within which time a table that does not fail has what was given back: a few renewals.
const REPORTED_WITHIN: Duration = Duration::from_secs(5);

/// A promise that was broken, in words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Broken(pub String);

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What is known of one limit of one entity.
#[derive(Debug)]
struct LimitRecord {
    bound: WindowBound,
    /// What the table has paid or will pay, less what was given back.
    consumed: i64,
    /// What was given back, and when.
    given_back: Vec<(u64, u64)>,
    /// Whether tokens were given back of which the bucket had been refilled: they fill what others left.
    overfilled: bool,
}

/// What is expected of the limiters.
#[derive(Debug)]
pub(super) struct Model {
    limits: HashMap<(&'static str, String), LimitRecord>,
    /// Of each name the limit with the most tokens that was in force.
    largest: Vec<Limit>,
    /// What is added to every window.
    allowance: Duration,
    /// Within which time the table has what was given back; none if that may take any time.
    reported_within: Option<Duration>,
    /// Whether every token can be accounted for.
    exact: bool,
    /// By how many tokens a level may be lower than expected: of a block that was returned late a part of a
    /// token has been displaced by refill.
    tolerance: i64,
    /// Whether limits were changed. A level is cut to the burst then, and leases go on under the limits of before.
    changed: bool,
    /// The entities that were deleted, with leases of theirs under way.
    deleted: HashSet<&'static str>,
    /// The entities whose bucket has begun to count anew.
    counted_anew: HashSet<&'static str>,
}

/// What the table says of a limit in the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counted {
    /// The tokens that it holds, in debt if negative.
    pub level: i64,
    /// The tokens that it has counted as consumed.
    pub usage: i64,
}

/// Who pays for a piece.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PaidBy {
    /// The table does, or a block that it has paid for.
    Table,
    /// A failure mode lets it through.
    Nobody,
    /// One of the two.
    Unknown,
}

/// A part of what a lease has consumed of one limit: the last is given back first.
#[derive(Clone, Copy, Debug)]
pub(super) struct Piece {
    pub(super) tokens: u64,
    paid_by: PaidBy,
    /// Whether the limit was asked; a correction upwards is charged whatever there is.
    admitted: bool,
    /// Whether days have passed since: the bucket may have been full again in between.
    refilled: bool,
}

impl Piece {
    pub(super) fn admitted(tokens: u64, paid_by: PaidBy) -> Self {
        Self {
            tokens,
            paid_by,
            admitted: true,
            refilled: false,
        }
    }

    pub(super) fn charged(tokens: u64, paid_by: PaidBy) -> Self {
        Self {
            admitted: false,
            ..Self::admitted(tokens, paid_by)
        }
    }

    /// Days have passed.
    pub(super) fn refill(&mut self) {
        self.refilled = true;
    }

    /// Takes so many tokens out of it, or as many as there are.
    pub(super) fn split_off(&mut self, tokens: u64) -> Self {
        let tokens = self.tokens.min(tokens);
        self.tokens -= tokens;
        Self { tokens, ..*self }
    }
}

impl Model {
    /// `certain` says whether it is known of each call and write what has become of it.
    pub(super) fn new(
        limits: &[Limit],
        allowance: Duration,
        faults: Faults,
        certain: bool,
    ) -> Self {
        Self {
            limits: HashMap::new(),
            largest: limits.to_vec(),
            allowance,
            reported_within: (faults == Faults::None).then_some(REPORTED_WITHIN),
            exact: faults != Faults::Any && certain,
            tolerance: i64::from(faults != Faults::None),
            changed: false,
            deleted: HashSet::new(),
            counted_anew: HashSet::new(),
        }
    }

    fn limit(&mut self, entity: &'static str, limit: &Limit) -> &mut LimitRecord {
        let allowance = self.allowance;
        let key = (entity, limit.name().to_owned());
        self.limits.entry(key).or_insert_with(|| LimitRecord {
            bound: WindowBound::new(limit.terms(), allowance),
            consumed: 0,
            given_back: Vec::new(),
            overfilled: false,
        })
    }

    /// These limits, of the same names, are in force from now on.
    pub(super) fn change(&mut self, limits: &[Limit]) {
        self.changed = true;
        for (largest, limit) in self.largest.iter_mut().zip(limits) {
            if limit.burst_tokens() > largest.burst_tokens() {
                *largest = limit.clone();
            }
        }
    }

    /// The entity was deleted, and made again.
    pub(super) fn delete(&mut self, entity: &'static str) {
        self.deleted.insert(entity);
        self.counted_anew.insert(entity);
    }

    /// The table has forgotten the bucket of an entity.
    pub(super) fn forget(&mut self, entity: &'static str) {
        self.counted_anew.insert(entity);
    }

    /// The time is `to` at once, after `from`.
    pub(super) fn skip(&mut self, from: u64, to: u64) {
        let (since, until) = (
            self.reported_within
                .map_or(0, |within| from.saturating_sub(nanos(within))),
            self.reported_by(to),
        );
        self.tolerance = 1;
        for record in self.limits.values_mut() {
            let late = record.given_back.iter().filter(|(at, _)| *at >= since);
            let late = late.map(|(_, tokens)| tokens).sum();
            record.bound.give_back_late(to, late, until);
        }
    }

    /// Whether all processes should be able to give back all that they have.
    pub(super) fn returns_all(&self) -> bool {
        self.exact && !self.changed && self.deleted.is_empty()
    }

    /// A piece was charged at a time, in nanoseconds.
    pub(super) fn charge(
        &mut self,
        entity: &'static str,
        limit: &Limit,
        at: u64,
        piece: Piece,
    ) -> Result<(), Broken> {
        if piece.paid_by != PaidBy::Table {
            return Ok(());
        }
        let bounded = !self.changed && !self.deleted.contains(entity);
        let record = self.limit(entity, limit);
        record.consumed += piece.tokens.cast_signed();
        if !piece.admitted {
            return Ok(());
        }
        record.bound.admit(at, piece.tokens);
        if bounded && !record.bound.holds() {
            let by = record.bound.broken_by();
            return Err(Broken(format!(
                "the bound of {} of {entity} is broken by {by:.3} tokens",
                limit.name()
            )));
        }
        Ok(())
    }

    /// A piece was given back.
    pub(super) fn give_back(&mut self, entity: &'static str, limit: &Limit, at: u64, piece: Piece) {
        let until = self.reported_by(at);
        let is_paid = piece.paid_by == PaidBy::Table;
        let record = self.limit(entity, limit);
        if is_paid {
            record.consumed -= piece.tokens.cast_signed();
        }
        // What was refilled meanwhile and comes back now can be admitted, whatever it was consumed for.
        if piece.refilled || (is_paid && piece.admitted) {
            record.bound.give_back(piece.tokens);
            record.given_back.push((at, piece.tokens));
        }
        record.overfilled |= piece.refilled;
        if record.overfilled {
            record.bound.give_back_late(at, piece.tokens, until);
        }
    }

    /// When the table has what is given back now.
    fn reported_by(&self, at: u64) -> u64 {
        let within = self.reported_within.map_or(u64::MAX, nanos);
        at.saturating_add(within)
    }

    /// An acquire was given up, or its work failed: if it had consumed these tokens, they were given back.
    pub(super) fn undone(&mut self, entity: &'static str, limit: &Limit, at: u64, tokens: u64) {
        let record = self.limit(entity, limit);
        record.given_back.push((at, tokens));
    }

    /// All leases are kept and all processes shut down, so long after the beginning.
    pub(super) fn finish(
        &mut self,
        entity: &'static str,
        limit: &Limit,
        elapsed: Duration,
        counted: Counted,
    ) -> Result<(), Broken> {
        let deleted = self.deleted.contains(entity);
        let level_exact = self.exact && !self.changed && !deleted;
        let usage_exact = self.exact && !self.counted_anew.contains(entity);
        let Counted { level, usage } = counted;
        let consumed = self.limit(entity, limit).consumed;
        let mut largest = self.largest.iter();
        let largest = largest
            .find(|largest| largest.name() == limit.name())
            .unwrap_or(limit);
        // Nothing flows in but refill. What is not known to be paid may have been paid.
        let refilled = largest.terms().tokens_in(elapsed).cast_signed();
        let most = (largest.burst_tokens().cast_signed() - consumed).saturating_add(refilled);
        let most = most.min(limit.burst_tokens().cast_signed());
        let what = format!("{} of {entity}", limit.name());
        if !deleted && level > most {
            return Err(Broken(format!(
                "{what}: the level is {level}, more than {most}"
            )));
        }
        if level_exact && refilled == 0 && level + self.tolerance < most {
            return Err(Broken(format!("{what}: the level is {level}, not {most}")));
        }
        if usage_exact && usage != consumed {
            return Err(Broken(format!("{what}: usage is {usage}, not {consumed}")));
        }
        Ok(())
    }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}
