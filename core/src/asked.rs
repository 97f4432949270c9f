//! What is asked of the table in strict mode, at each try: demand that processes which lease are to know of.
//! Each strict write tells the ring of what was asked for since the one before, refusals included;
//! over an epoch that adds up to the mean. Who leases would else take all that flows in.

use std::time::Duration;

use smallvec::SmallVec;

use crate::books::Account;
use crate::bucket::{Bucket, State};
use crate::{Charges, Clock, Limit, MonotonicTime};

/// Tokens that were asked of the table, and that it has not been told of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Asked {
    /// How many.
    pub tokens: u64,
    /// For how long.
    pub during: Duration,
}

impl Bucket {
    /// An acquire asks the table for `charges`, which count by the order of `limits`.
    pub fn asks(&self, clock: &Clock, limits: &[Limit], charges: &Charges) {
        let now = clock.now();
        let mut state = self.lock();
        for (at, tokens) in charges.iter() {
            if let Some(account) = account(&mut state, &limits[at as usize]) {
                if account.asked_since == MonotonicTime::ZERO {
                    account.asked_since = now;
                }
                account.asked = account.asked.saturating_add(tokens);
            }
        }
    }

    /// What the next write is to tell the table of, in the order of `charges`.
    #[must_use]
    pub fn tell(&self, clock: &Clock, limits: &[Limit], charges: &Charges) -> SmallVec<[Asked; 2]> {
        let now = clock.now();
        let mut state = self.lock();
        let tell = |(at, charged): (u32, u64)| {
            let limit = &limits[at as usize];
            let Some(account) = account(&mut state, limit) else {
                return Asked::default();
            };
            let during = now.since(std::mem::replace(&mut account.asked_since, now));
            // As of those that lease, nobody's demand counts for more than the whole limit.
            let all = (limit.tokens_per_second() * during.as_secs_f64()).ceil() as u64;
            let tokens = std::mem::take(&mut account.asked).min(all.max(charged));
            Asked { tokens, during }
        };
        charges.iter().map(tell).collect()
    }

    /// The write that was to tell of it was not made.
    pub fn untold(&self, clock: &Clock, limits: &[Limit], charges: &Charges, asked: &[Asked]) {
        let now = clock.now();
        let mut state = self.lock();
        for ((at, _), asked) in charges.iter().zip(asked) {
            if let Some(account) = account(&mut state, &limits[at as usize]) {
                account.asked = account.asked.saturating_add(asked.tokens);
                account.asked_since = account.asked_since.min(now.before(asked.during));
            }
        }
    }
}

/// None of a bucket that is not in use: it is not to be in use for that.
fn account<'a>(state: &'a mut State, limit: &Limit) -> Option<&'a mut Account> {
    let slot = state.slot(limit.name())?;
    Some(state.active.as_deref_mut()?.books.account(slot))
}
