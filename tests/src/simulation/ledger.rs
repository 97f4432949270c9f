//! The promises: books kept from outside, of every bucket and every process, and what must be
//! true of them.
//!
//! * **The bound**, over all windows: [`WindowBound`].
//! * **Conservation**: what a process has debited it has spent, holds, or has lost; and it loses
//!   only where a fault explains it, and never finds anything. This is what shows a credit that
//!   is made twice, a debt that is dropped, a return that is forgotten, half a cascade.
//! * **Expiry**: no block is spent later than `lease_ttl` after the last write that is known to
//!   have been applied was planned.
//! * **What is out**: after every write, the level and all live blocks together are within the
//!   bound's start.
//! * **Creation**: a bucket or limit is made only for who takes tokens from it.

use zae_limiter_core::WallTime;
use zae_limiter_core::item::{BucketItem, LimitAction, LimitItem, LimitWrite};

use super::random::{NAMES, PERIODS_MULTIPLE};
use super::scenario::{Nanos, Scenario, duration};
use crate::fleet::WindowBound;

/// What is known of one limit of one bucket.
#[derive(Debug)]
pub(super) struct Ledger {
    pub(super) bound: Option<WindowBound>,
    /// Whether the table has had it before.
    pub(super) born: bool,
    /// By how many tokens it was below empty when it was last deleted.
    below: u64,
    /// Until when the table did not have it the last time.
    pub(super) made_at: Nanos,
    /// Which item it was made in, and when that was another one than before.
    incarnation: Option<u64>,
    made_again_at: Option<Nanos>,
    /// Until when blocks may be out that a change of the numbers, or a deletion, left behind.
    pub(super) unsettled_until: Nanos,
}

/// What one process has done with one limit of one bucket, in tokens.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Pool {
    /// Debited from the table, less credited, by writes whose outcome it knows of.
    pub(super) debited: i128,
    /// Consumed by callers, less given back.
    pub(super) consumed: i128,
    /// Of what is to be credited to the table, what was charged afterwards, and never admitted.
    pub(super) credit_of_charged: u64,
    /// What is not accounted for.
    pub(super) lost: i128,
    /// When the item, or the limit in it, was deleted, if the process cannot know of a new one yet.
    pub(super) deleted: Option<Nanos>,
}

impl Pool {
    /// Compares with what the process `holds` now. `excused` says why tokens may have been lost.
    pub(super) fn settle(&mut self, holds: i128, excused: bool) -> Result<(), String> {
        let lost = self.debited - self.consumed - holds;
        let before = std::mem::replace(&mut self.lost, lost);
        if lost < before {
            Err(format!("{} tokens from nowhere: {self:?}", before - lost))
        } else if lost > before && !excused && self.deleted.is_none() {
            Err(format!(
                "{} tokens lost for no reason: {self:?}",
                lost - before
            ))
        } else {
            Ok(())
        }
    }
}

/// Which limit it is, of those that requests name.
pub(super) fn slot(name: &str) -> usize {
    usize::from(name == NAMES[1])
}

/// The books of all buckets.
#[derive(Debug)]
pub(super) struct Ledgers {
    ledgers: Vec<Ledger>,
    allowance: Nanos,
}

impl Ledgers {
    pub(super) fn new(scenario: &Scenario) -> Self {
        let ledger = || Ledger {
            bound: None,
            born: false,
            below: 0,
            made_at: 0,
            incarnation: None,
            made_again_at: None,
            unsettled_until: 0,
        };
        let all = scenario.buckets() * NAMES.len();
        Self {
            ledgers: std::iter::repeat_with(ledger).take(all).collect(),
            allowance: scenario.lease_ttl() + scenario.skew(),
        }
    }

    pub(super) fn of(&mut self, bucket: usize, slot: usize) -> &mut Ledger {
        &mut self.ledgers[bucket * NAMES.len() + slot]
    }

    /// Tokens were admitted; the table has been written before, or there were none to admit.
    #[inline]
    pub(super) fn admit(
        &mut self,
        bucket: usize,
        slot: usize,
        at: Nanos,
        tokens: u64,
    ) -> Result<(), String> {
        let Some(bound) = &mut self.of(bucket, slot).bound else {
            return Err("admitted from a bucket that never was".to_owned());
        };
        bound.admit(at, tokens);
        if bound.holds() {
            return Ok(());
        }
        let by = bound.broken_by();
        Err(format!(
            "the bound of limit {slot} of bucket {bucket} is broken by {by:.3} tokens"
        ))
    }

    /// The table admits what was asked for `late` ago. The bucket is debited as of then (see
    /// `Transfer::asked_at`): if it was full, it refills from then on.
    pub(super) fn admit_late(
        &mut self,
        bucket: usize,
        slot: usize,
        at: Nanos,
        tokens: u64,
        late: Nanos,
    ) -> Result<(), String> {
        if let Some(bound) = &mut self.of(bucket, slot).bound {
            bound.loosen(at, late);
        }
        self.admit(bucket, slot, at, tokens)
    }

    /// Tokens that were admitted were given back.
    pub(super) fn give_back(&mut self, bucket: usize, slot: usize, tokens: u64) {
        if let Some(bound) = &mut self.of(bucket, slot).bound {
            bound.give_back(tokens);
        }
    }

    /// Whether it was made again since then, as far as a process knew: it may have had a block of the one before.
    pub(super) fn is_made_again(&mut self, bucket: usize, slot: usize, since: Nanos) -> bool {
        let known = since.saturating_sub(self.allowance);
        let made_again_at = self.of(bucket, slot).made_again_at;
        made_again_at.is_some_and(|at| at >= known)
    }

    /// Whether it was made again after then.
    pub(super) fn is_another(&mut self, bucket: usize, slot: usize, since: Nanos) -> bool {
        let made_again_at = self.of(bucket, slot).made_again_at;
        made_again_at.is_some_and(|at| at > since)
    }

    /// Something was deleted from the table.
    pub(super) fn deleted(
        &mut self,
        bucket: usize,
        slot: usize,
        at: Nanos,
        limit: &LimitItem,
        wall: WallTime,
    ) {
        let level = limit.terms.tokens(limit.z, wall);
        self.of(bucket, slot).below = level.min(0).unsigned_abs();
        // The ring is made anew with the limit, and processes subtract from it what they had
        // entered into the old one, until its epochs have turned.
        self.of(bucket, slot).unsettled_until = at + 3 * self.allowance;
    }

    /// A write was applied, and left `item`. Its time stamp was `behind` the clock that is
    /// furthest ahead. Returns whether a deleted limit was made again.
    pub(super) fn written(
        &mut self,
        bucket: usize,
        at: Nanos,
        write: &LimitWrite,
        debit: u64,
        behind: Nanos,
        item: &BucketItem,
    ) -> Result<bool, String> {
        let slot = slot(&write.name);
        let allowance = self.allowance;
        let ledger = self.of(bucket, slot);
        let Some(limit) = item.limit(&write.name) else {
            return Err(format!("limit {slot} of bucket {bucket} has vanished"));
        };
        let mut again = false;
        if matches!(write.action, LimitAction::Create(_)) {
            if debit == 0 {
                return Err(format!("a credit made limit {slot} of bucket {bucket}"));
            }
            again = std::mem::replace(&mut ledger.born, true);
            let before = ledger.incarnation.replace(item.incarnation);
            if before.is_some_and(|before| before != item.incarnation) {
                ledger.made_again_at = Some(at);
            }
            ledger.made_at = at;
        }
        let bound = ledger.bound.get_or_insert_with(|| {
            WindowBound::changing(
                &limit.terms,
                duration(allowance),
                PERIODS_MULTIPLE / limit.terms.refill_period_seconds,
            )
        });
        if bound.terms() != &limit.terms {
            bound.change(at, &limit.terms, behind);
            ledger.unsettled_until = ledger.unsettled_until.max(at + allowance);
        }
        if again {
            bound.gift(at, std::mem::take(&mut ledger.below), behind);
        }
        Ok(again)
    }

    /// After a write: `held` tokens of the limit `name` are out in live blocks; `wall` is what the clock that is furthest ahead says.
    pub(super) fn check_out(
        &mut self,
        bucket: usize,
        name: &str,
        item: &BucketItem,
        wall: WallTime,
        held: u64,
    ) -> Result<(), String> {
        let Some(found) = item.limit(name) else {
            return Ok(());
        };
        let terms = &found.terms;
        let out = terms.level(found.z, wall).max(0) + i128::from(held) * terms.token();
        let most = terms.full() + terms.refill(duration(self.allowance));
        if out <= most {
            return Ok(());
        }
        let over = (out - most) as f64 / terms.token() as f64;
        let level = terms.tokens(found.z, wall);
        Err(format!(
            "bucket {bucket}, limit {name}: level {level} and {held} out are {over:.3} tokens too much"
        ))
    }
}

/// Whether the table would forget the bucket while it is not full.
pub(super) fn forgets_early(item: &BucketItem) -> bool {
    let expires_at = WallTime::from_nanos(item.expires_at_seconds.saturating_mul(1_000_000_000));
    let full = |limit: &LimitItem| limit.terms.level(limit.z, expires_at) >= limit.terms.full();
    !item.limits.iter().all(|(_, limit)| full(limit))
}
