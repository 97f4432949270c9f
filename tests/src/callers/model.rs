//! The books that are kept beside the callers: what each limit of each entity has admitted, what is consumed
//! net, and what the table may hold in the end.

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

/// Of one limit of one entity.
#[derive(Debug)]
struct Account {
    bound: WindowBound,
    /// Consumed of what the table has paid or will, less what was given back.
    consumed: i64,
    /// Consumed for which it is not known who has paid.
    unknown: i64,
}

/// The books.
#[derive(Debug)]
pub(super) struct Model {
    accounts: HashMap<(&'static str, String), Account>,
    allowance: Duration,
    /// Whether every token can be accounted for.
    pub(super) exact: bool,
    /// Whether the bound is that of the limits as they are: they were not changed, nor made anew.
    pub(super) bounded: bool,
    /// Whether windows are looked at. What is given back counts from when the table has it, which may
    /// be long after, where time jumps.
    pub(super) windows: bool,
    /// By how many tokens a level may be lower than the books: of a block that was returned late a part of
    /// a token has been displaced by refill.
    pub(super) tolerance: i64,
}

/// A part of what a lease has of one limit: the last is given back first.
#[derive(Clone, Copy, Debug)]
pub(super) struct Piece {
    pub(super) tokens: u64,
    /// Whether it was charged afterwards, and never admitted.
    pub(super) charged: bool,
    /// Whether the table pays for it; none if that is not known.
    pub(super) paid: Option<bool>,
}

impl Model {
    pub(super) fn new(allowance: Duration) -> Self {
        Self {
            accounts: HashMap::new(),
            allowance,
            exact: true,
            bounded: true,
            windows: true,
            tolerance: 0,
        }
    }

    fn account(&mut self, entity: &'static str, limit: &Limit) -> &mut Account {
        let allowance = self.allowance;
        let key = (entity, limit.name().to_owned());
        self.accounts.entry(key).or_insert_with(|| Account {
            bound: WindowBound::new(limit.terms(), allowance),
            consumed: 0,
            unknown: 0,
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
        let bounded = self.bounded && self.windows;
        let account = self.account(entity, limit);
        let tokens = piece.tokens.cast_signed();
        match piece.paid {
            Some(true) => account.consumed += tokens,
            Some(false) => {}
            None => account.unknown += tokens,
        }
        if piece.paid == Some(true) && !piece.charged {
            account.bound.admit(at, piece.tokens);
            if bounded && !account.bound.holds() {
                let by = account.bound.broken_by();
                return Err(Broken(format!(
                    "the bound of {} of {entity} is broken by {by:.3} tokens",
                    limit.name()
                )));
            }
        }
        Ok(())
    }

    /// It was given back.
    pub(super) fn give_back(&mut self, entity: &'static str, limit: &Limit, piece: Piece) {
        let account = self.account(entity, limit);
        let tokens = piece.tokens.cast_signed();
        match piece.paid {
            Some(true) => account.consumed -= tokens,
            Some(false) => {}
            None => account.unknown -= tokens,
        }
        if piece.paid == Some(true) && !piece.charged {
            account.bound.give_back(piece.tokens);
        }
    }

    /// What the table holds, and has counted, when everybody has gone home, so long after the beginning.
    pub(super) fn finish(
        &mut self,
        entity: &'static str,
        limit: &Limit,
        elapsed: Duration,
        level: i64,
        counted: i64,
    ) -> Result<(), Broken> {
        let (exact, bounded, tolerance) = (self.exact, self.bounded, self.tolerance);
        let account = self.account(entity, limit);
        let burst = limit.burst_tokens().cast_signed();
        // Nothing flows in but refill; what nobody is known to have paid may have been paid.
        let refilled = limit.terms().tokens_in(elapsed).cast_signed();
        let most = (burst - account.consumed)
            .saturating_add(refilled)
            .min(burst);
        let what = format!("{} of {entity}", limit.name());
        if bounded && level > most {
            return Err(Broken(format!(
                "{what}: the level is {level}, more than {most}"
            )));
        }
        if exact && refilled == 0 && level + tolerance < most {
            return Err(Broken(format!("{what}: the level is {level}, not {most}")));
        }
        if exact && counted != account.consumed {
            let consumed = account.consumed;
            return Err(Broken(format!(
                "{what}: usage is {counted}, not {consumed}"
            )));
        }
        Ok(())
    }
}
