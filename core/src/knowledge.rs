//! What a process knows of a bucket without asking the table.

use std::time::Duration;

use crate::bucket::{Active, Bucket};
use crate::plan::{self, Seen};
use crate::renewal::Now;
use crate::{Clock, Limit, Request};

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

impl Bucket {
    /// What is known about each limit without asking the table, and how long the tokens of
    /// `request` will take. What others wait for in line is as good as gone.
    #[must_use]
    pub fn knowledge(&self, clock: &Clock, request: &Request<'_>) -> Vec<(Limit, Knowledge)> {
        let now = Now::of(clock);
        let mut state = self.lock();
        let limits = state.limits.clone();
        if let Some(active) = state.active.as_deref_mut() {
            active.release(now.monotonic);
        }
        let of = |(slot, limit): (usize, &Limit)| {
            let wanted = request.consume().iter().find(|(n, _)| *n == limit.name());
            let wanted = wanted.map_or(0, |&(_, tokens)| tokens);
            let ahead = state.ahead_of(request, limit.name());
            let knowledge = match &state.active {
                Some(active) => active.knowledge(now, slot, limit, wanted, ahead),
                None => Knowledge::nothing(limit),
            };
            (limit.clone(), knowledge)
        };
        limits.iter().enumerate().map(of).collect()
    }
}

impl Active {
    #[allow(clippy::cast_possible_truncation)]
    fn knowledge(
        &self,
        now: Now,
        slot: usize,
        limit: &Limit,
        requested: u64,
        ahead: u64,
    ) -> Knowledge {
        let terms = limit.terms();
        let live = now.monotonic < self.expires_at;
        let held = if live { self.slots[slot].stock } else { 0 };
        let in_hand = held.saturating_sub(ahead);
        let needed = if requested == 0 { 0 } else { requested + ahead };
        let books = &self.books;
        let account = &books.accounts[slot];
        let (pending, debt) = (account.schedule.pending(), account.debt);
        let level = plan::level(books.seen.item(), now.wall, limit);
        let estimate = (terms.to_tokens(level) + signed(held + pending) - signed(debt))
            .min(signed(limit.burst_tokens()))
            - signed(ahead);
        let missing = needed.saturating_sub(held);
        let scheduled = account.schedule.time_until(now.monotonic, missing);
        let refilled = terms.time_until(level, needed.saturating_sub(held + pending) + debt);
        let retry_after = if held >= needed && debt == 0 {
            Duration::ZERO
        } else {
            let denied = self.slots[slot].denied_until.since(now.monotonic);
            scheduled.unwrap_or(refilled.max(denied))
        };
        Knowledge {
            in_hand,
            estimate,
            age: (books.seen != Seen::Never).then(|| now.monotonic.since(books.seen_at)),
            denied: self.slots[slot].denies(now.monotonic, needed),
            retry_after,
        }
    }
}

fn signed(tokens: u64) -> i64 {
    i64::try_from(tokens).unwrap_or(i64::MAX)
}
