//! What is asked of the table in strict mode: demand that processes which lease are to know of, who
//! would else take all that flows in.
//!
//! A strict write tells the ring of what was asked for since the last that did, refusals included;
//! over an epoch that adds up to the mean, or over what is left of the epoch in which they began. Of
//! several under way at once one tells. Where those are refused time and again, the reconciler tells,
//! by a write of its own.

use std::sync::Arc;
use std::time::Duration;

use smallvec::SmallVec;

use crate::books::Account;
use crate::bucket::{Active, Bucket, State};
use crate::plan;
use crate::{Charges, Clock, Limit, MonotonicTime, WallTime};

/// For how long acquires try to tell the table of what was asked, as a part of `lease_ttl`, if the
/// reconciler is going to look. Then it is left to that.
const TRYING: u32 = 5;

/// How long whoever has told of more than the limit says nothing at most: it may be raised.
const SILENT_MAX: Duration = Duration::from_secs(60);

/// Tokens that were asked of the table, and that it has not been told of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Asked {
    /// How many.
    pub tokens: u64,
    /// Since when.
    pub since: MonotonicTime,
    /// For how long.
    pub during: Duration,
    /// For how long such acquires go on, without a pause of a `lease_ttl`.
    pub going_on: Duration,
}

/// What a write tells, limit by limit.
pub type Told = SmallVec<[Option<Asked>; 2]>;

impl Bucket {
    /// An acquire asks the table for `charges`, which count by the order of `limits`; those become known.
    pub fn asks(&self, clock: &Clock, limits: &Arc<[Limit]>, charges: &Charges) {
        let mut state = self.lock();
        if !limits.iter().all(|limit| state.limits.contains(limit)) {
            // Of more than there is room for nobody is told.
            let _ = state.declare(limits);
        }
        let now = clock.now();
        for (at, tokens) in charges.iter() {
            let limit = &limits[at as usize];
            let lease_ttl = state.active.as_deref().and_then(|a| a.lease_ttl(limit));
            if let Some(account) = account(&mut state, limit) {
                account.ask(now, tokens, lease_ttl.unwrap_or_default());
            }
        }
    }

    /// What the next write of an acquire is to tell the table of, in the order of `charges`.
    #[must_use]
    pub fn tell(&self, clock: &Clock, limits: &[Limit], charges: &Charges) -> Told {
        let mut state = self.lock();
        let now = clock.now();
        let tell = |(at, charged): (u32, u64)| {
            let limit = &limits[at as usize];
            let active = state.active.as_deref()?;
            let lease_ttl = active.lease_ttl(limit);
            let trying = lease_ttl.filter(|_| active.books.is_to_tell);
            let trying = trying.map(|lease_ttl| lease_ttl / TRYING);
            let account = account(&mut state, limit)?;
            let late = trying.is_some_and(|trying| now.since(account.asked_since) > trying);
            if account.telling || late {
                return None;
            }
            let asked = account.tell(now, limit, charged);
            account.telling = asked.is_some();
            asked
        };
        charges.iter().map(tell).collect()
    }

    /// The write of an acquire that was to tell of it has ended.
    pub fn told(&self, limits: &[Limit], charges: &Charges, told: &Told, applied: bool) {
        let mut state = self.lock();
        for ((at, _), asked) in charges.iter().zip(told) {
            let account = account(&mut state, &limits[at as usize]);
            if let (Some(asked), Some(account)) = (asked, account) {
                account.telling = false;
                if !applied {
                    account.take_back(asked);
                }
            }
        }
    }

    /// Whether the reconciler is to be told, because it has to tell the table.
    #[must_use]
    pub fn is_to_tell(&self, clock: &Clock) -> bool {
        let mut state = self.lock();
        let active = state.active.as_deref();
        active.is_some_and(|active| active.has_untold(clock.wall())) && state.ask_for_a_look()
    }
}

impl Active {
    /// How long blocks live of those that lease, as far as is known.
    fn lease_ttl(&self, limit: &Limit) -> Option<Duration> {
        let ring = self.books.seen.item()?.limit(limit.name())?.ring?;
        Some(Duration::from_millis(ring.lease_ttl_ms))
    }

    /// Whether there is something to tell that the reconciler does not know of.
    pub(crate) fn has_untold(&self, now: WallTime) -> bool {
        !self.books.is_to_tell && self.untold_since(now).is_some()
    }

    /// Since when strict acquires have asked for what the table does not know, to which it matters: others
    /// lease.
    pub(crate) fn untold_since(&self, now: WallTime) -> Option<MonotonicTime> {
        let seen = self.books.seen.item()?;
        let accounts = self.limits.iter().zip(&self.books.accounts);
        let untold = accounts.filter(|(limit, account)| {
            let found = seen.limit(limit.name());
            let leased = |found| plan::others_hold(found, now, account.entered);
            (account.asked > 0 || account.telling) && found.is_some_and(leased)
        });
        untold.map(|(_, account)| account.asked_since).min()
    }
}

impl Account {
    fn ask(&mut self, now: MonotonicTime, tokens: u64, lease_ttl: Duration) {
        if self.asked == 0 && now.since(self.asked_since) >= lease_ttl {
            self.asking_since = now;
        }
        if self.asked_since == MonotonicTime::ZERO {
            self.asked_since = now;
        }
        self.asked = self.asked.saturating_add(tokens);
    }

    /// What a write is to tell the table of.
    pub(crate) fn tell(
        &mut self,
        now: MonotonicTime,
        limit: &Limit,
        charged: u64,
    ) -> Option<Asked> {
        if self.asked == 0 {
            return None;
        }
        let asked = std::mem::take(&mut self.asked);
        let since = self.asked_since;
        if since > now {
            return None; // all that the limit gives has been told of
        }
        let during = now.since(since);
        // Nobody's demand counts for more than the whole limit, in both modes together.
        let rate = limit.tokens_per_second();
        let rest = (rate - self.claim(limit)).max(rate / 8.0);
        let most = ((rest * during.as_secs_f64()) as u64).max(charged).max(1);
        self.asked_since = if asked > most {
            let silent = Duration::try_from_secs_f64(most as f64 / rest).unwrap_or(SILENT_MAX);
            since.after(silent.min(during.saturating_add(SILENT_MAX)))
        } else {
            now
        };
        Some(Asked {
            tokens: asked.min(most),
            since,
            during,
            going_on: now.since(self.asking_since),
        })
    }

    /// It was not told.
    pub(crate) fn take_back(&mut self, asked: &Asked) {
        self.asked_since = if self.asked == 0 {
            asked.since
        } else {
            self.asked_since.min(asked.since)
        };
        self.asked = self.asked.saturating_add(asked.tokens);
    }
}

/// None of a bucket that is not in use: it is not to be in use for that.
fn account<'a>(state: &'a mut State, limit: &Limit) -> Option<&'a mut Account> {
    let slot = state.slot(limit.name())?;
    Some(state.active.as_deref_mut()?.books.account(slot))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each write may tell of one token, and of what was asked for meanwhile.
    #[test]
    fn nobody_tells_of_more_than_the_limit() {
        let limit = Limit::per_second("rps", 13).expect("a limit");
        for pause in [1, 5, 80, 90, 700] {
            let (mut account, mut told, mut asked) = (Account::default(), 0, 0);
            let mut now = MonotonicTime::from_nanos(1);
            while asked < 100_000 {
                account.ask(now, 50, Duration::from_secs(5));
                asked += 50;
                told += account.tell(now, &limit, 1).map_or(0, |asked| asked.tokens);
                now = now.after(Duration::from_millis(pause));
            }
            let most = 13.0 * Duration::from_nanos(now.as_nanos()).as_secs_f64();
            let told = told as f64 / most;
            assert!((0.9..1.1).contains(&told), "{told} of it, every {pause} ms");
        }
    }
}
