//! The model: what each limit of each entity has admitted, what is consumed net, and so what the table may
//! hold and has to count in the end.

use std::collections::HashMap;
use std::fmt;
use std::time::Duration;

use zae_limiter::Limit;

use crate::fleet::WindowBound;

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
}

/// What is expected of the limiters.
#[derive(Debug)]
pub(super) struct Model {
    limits: HashMap<(&'static str, String), LimitRecord>,
    allowance: Duration,
    /// Whether every token can be accounted for.
    pub(super) exact: bool,
    /// Whether the bound is that of the limits as they are: they were not changed, nor made anew.
    pub(super) bounded: bool,
    /// Whether windows are compared. What is given back counts from when the table has it, which may be long
    /// after where time jumps.
    pub(super) windows: bool,
    /// By how many tokens a level may be lower than expected: of a block that was returned late a part of a
    /// token has been displaced by refill.
    pub(super) tolerance: i64,
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
}

impl Piece {
    pub(super) fn admitted(tokens: u64, paid_by: PaidBy) -> Self {
        Self {
            tokens,
            paid_by,
            admitted: true,
        }
    }

    pub(super) fn charged(tokens: u64, paid_by: PaidBy) -> Self {
        Self {
            admitted: false,
            ..Self::admitted(tokens, paid_by)
        }
    }

    /// Takes so many tokens out of it, or as many as there are.
    pub(super) fn split_off(&mut self, tokens: u64) -> Self {
        let tokens = self.tokens.min(tokens);
        self.tokens -= tokens;
        Self { tokens, ..*self }
    }
}

impl Model {
    pub(super) fn new(allowance: Duration) -> Self {
        Self {
            limits: HashMap::new(),
            allowance,
            exact: true,
            bounded: true,
            windows: true,
            tolerance: 0,
        }
    }

    fn limit(&mut self, entity: &'static str, limit: &Limit) -> &mut LimitRecord {
        let allowance = self.allowance;
        let key = (entity, limit.name().to_owned());
        self.limits.entry(key).or_insert_with(|| LimitRecord {
            bound: WindowBound::new(limit.terms(), allowance),
            consumed: 0,
        })
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
        let bounded = self.bounded && self.windows;
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
    pub(super) fn give_back(&mut self, entity: &'static str, limit: &Limit, piece: Piece) {
        if piece.paid_by != PaidBy::Table {
            return;
        }
        let record = self.limit(entity, limit);
        record.consumed -= piece.tokens.cast_signed();
        if piece.admitted {
            record.bound.give_back(piece.tokens);
        }
    }

    /// All leases are kept and all processes shut down, so long after the beginning.
    pub(super) fn finish(
        &mut self,
        entity: &'static str,
        limit: &Limit,
        elapsed: Duration,
        counted: Counted,
    ) -> Result<(), Broken> {
        let (exact, bounded, tolerance) = (self.exact, self.bounded, self.tolerance);
        let Counted { level, usage } = counted;
        let consumed = self.limit(entity, limit).consumed;
        let burst = limit.burst_tokens().cast_signed();
        // Nothing flows in but refill. What is not known to be paid may have been paid.
        let refilled = limit.terms().tokens_in(elapsed).cast_signed();
        let most = (burst - consumed).saturating_add(refilled).min(burst);
        let what = format!("{} of {entity}", limit.name());
        if bounded && level > most {
            return Err(Broken(format!(
                "{what}: the level is {level}, more than {most}"
            )));
        }
        if exact && refilled == 0 && level + tolerance < most {
            return Err(Broken(format!("{what}: the level is {level}, not {most}")));
        }
        if exact && usage != consumed {
            return Err(Broken(format!("{what}: usage is {usage}, not {consumed}")));
        }
        Ok(())
    }
}
