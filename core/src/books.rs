//! The books of a bucket that is in use: what it held, owed and wanted, and the write under way.
//! Plain state; what is done with it is in [`crate::renewal`].

use std::collections::VecDeque;
use std::time::Duration;

use smallvec::SmallVec;

use crate::asked::Asked;
use crate::block::Schedule;
use crate::bucket::Slot;
use crate::hours::{Hour, PastHour};
use crate::item::BucketItem;
use crate::plan::{Entry, Seen};
use crate::renewal::Reason;
use crate::sizing::{Demand, Grant};
use crate::{Limit, MonotonicTime, Ticks};

/// What only the reconciler and the slow path need to know of a bucket.
#[derive(Debug)]
pub(crate) struct Books {
    pub(crate) accounts: SmallVec<[Account; 2]>,
    pub(crate) seen: Seen,
    pub(crate) seen_at: MonotonicTime,
    /// When it was last found that somebody else writes to the bucket.
    pub(crate) company_at: MonotonicTime,
    /// The table could not be reached; until then it is not asked again.
    pub(crate) unavailable_until: MonotonicTime,
    /// Why it is not asked.
    pub(crate) trouble: Option<Reason>,
    pub(crate) failures: u32,
    /// The table took no more writes; until then the next one waits, and its callers with it.
    pub(crate) throttled_until: MonotonicTime,
    /// How often that was, of late.
    pub(crate) throttled: u32,
    pub(crate) observed_at: MonotonicTime,
    /// When the bucket is to be looked at next.
    pub(crate) look_at: MonotonicTime,
    /// Until when demand is not judged, because the process has stood still.
    pub(crate) dazed_until: MonotonicTime,
    /// How far the wall clock was ahead of the monotonic one when the bucket was last looked at.
    pub(crate) wall_ahead: i128,
    pub(crate) used_at: MonotonicTime,
    pub(crate) renew_at: MonotonicTime,
    /// Whether the reconciler knows that it may have to tell the table what strict acquires ask.
    pub(crate) is_to_tell: bool,
    pub(crate) tries: u32,
    /// The hour of what is not reported.
    pub(crate) hour: Hour,
    /// What was set aside of hours before, the oldest first.
    pub(crate) past: VecDeque<PastHour>,
    pub(crate) flight: Option<Box<Flight>>,
}

/// The books of one limit.
#[derive(Debug, Default)]
pub(crate) struct Account {
    pub(crate) schedule: Schedule,
    /// Consumed beyond what was held: to be debited whatever the level.
    pub(crate) debt: u64,
    /// Consumption taken back: to be credited.
    pub(crate) credit: u64,
    /// Consumption taken back: to be reported.
    pub(crate) taken_back: u64,
    /// Held under terms that no longer apply: to be credited.
    pub(crate) recalled: u64,
    /// What callers wait for since they were last woken, also while a write is on its way for it.
    pub(crate) wanted: u64,
    pub(crate) wanted_least: u64,
    pub(crate) demand: Demand,
    pub(crate) observed_spent: u64,
    /// Spent and reported, but not observed as demand yet.
    pub(crate) unobserved: u64,
    /// Charged afterwards, and to be observed as demand little by little.
    pub(crate) late: u64,
    /// Of what is to be observed, asked for by callers who wait.
    pub(crate) waiting: u64,
    /// And by callers who were woken since: it is counted again when they are served, or refused, or
    /// wait once more.
    pub(crate) woken: u64,
    pub(crate) entered: Option<Entry>,
    /// What the fleet's demand per second cannot be more than, by what it leaves in the bucket.
    pub(crate) fleet_max: Option<f64>,
    /// How many tokens of its share the process has not had, or had beyond it (negative), since it has
    /// less than it needs; and when that was last reckoned.
    pub(crate) behind: f64,
    pub(crate) shared_at: Option<MonotonicTime>,
    /// The time at which this process's share was last empty, if it lives on that.
    pub(crate) local: Option<Ticks>,
    /// Asked of the table in strict mode, since then, and not told to it.
    pub(crate) asked: u64,
    pub(crate) asked_since: MonotonicTime,
    /// Since when such acquires go on, without a pause of a `lease_ttl`.
    pub(crate) asking_since: MonotonicTime,
    /// An acquire's write is on its way that tells it of what was asked before.
    pub(crate) telling: bool,
}

/// A write under way.
#[derive(Debug)]
pub(crate) struct Flight {
    pub(crate) planned_at: MonotonicTime,
    pub(crate) only_converts: bool,
    /// The hour in which it was planned.
    pub(crate) hour: Hour,
    /// Whether it reports what was first set aside, in place of what came after.
    pub(crate) reports_past: bool,
    pub(crate) slots: SmallVec<[InFlight; 2]>,
}

#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct InFlight {
    pub(crate) kept: u64,
    pub(crate) surplus: u64,
    pub(crate) grant: Grant,
    pub(crate) spent: u64,
    pub(crate) taken_back: u64,
    pub(crate) owed: u64,
    pub(crate) credited: u64,
    pub(crate) recalled: u64,
    pub(crate) wanted: u64,
    pub(crate) wanted_least: u64,
    pub(crate) asked: Option<Asked>,
    pub(crate) entry: Option<Entry>,
    /// Whether other terms have been declared since it was planned.
    pub(crate) outdated: bool,
}

impl Account {
    /// Somebody waits for `tokens`, behind others who want so many.
    pub(crate) fn want(&mut self, tokens: u64, ahead: u64) {
        let least = if self.wanted == 0 {
            u64::MAX
        } else {
            self.wanted_least
        };
        self.wanted_least = least.min(tokens);
        self.wanted = self.wanted.max(ahead) + tokens;
        self.waiting += tokens;
        self.demand.learn_request(tokens);
    }

    /// The demand per second that counts beside that of others, in thousandths, as the table keeps
    /// it: nobody can have more than all.
    #[allow(clippy::cast_possible_truncation)]
    pub(crate) fn claim_milli(&self, limit: &Limit) -> i64 {
        let claim = self.demand.mean().min(limit.tokens_per_second());
        (claim * 1_000.0).ceil() as i64
    }

    /// The same in tokens: no less than the others think, where a limit refills some tokens per day.
    pub(crate) fn claim(&self, limit: &Limit) -> f64 {
        self.claim_milli(limit) as f64 / 1_000.0
    }

    pub(crate) fn is_surging(&self, limit: &Limit) -> bool {
        let known = self.entered.map_or(0, Entry::demand_milli);
        self.claim_milli(limit) > known.saturating_mul(2)
    }

    /// What was spent has been reported to the table. As demand it is yet to be observed.
    pub(crate) fn report(&mut self, slot: &mut Slot, spent: u64) {
        self.unobserved += slot.spent.saturating_sub(self.observed_spent);
        slot.spent -= spent.min(slot.spent);
        self.observed_spent = slot.spent;
    }

    /// Whether nobody has asked for tokens lately, and nothing is on its way.
    pub(crate) fn is_unused(&self) -> bool {
        let quiet = self.wanted == 0 && self.unobserved == 0 && self.demand.milli() == 0;
        quiet
            && self.asked == 0
            && !self.telling
            && self.is_settled()
            && self.schedule.pending() == 0
    }

    pub(crate) fn is_settled(&self) -> bool {
        self.debt == 0 && self.credit == 0 && self.taken_back == 0 && self.recalled == 0
    }
}

impl Books {
    pub(crate) fn new(slots: usize) -> Self {
        let mut accounts = SmallVec::new();
        accounts.resize_with(slots, Account::default);
        Self {
            accounts,
            seen: Seen::Never,
            seen_at: MonotonicTime::ZERO,
            company_at: MonotonicTime::ZERO,
            unavailable_until: MonotonicTime::ZERO,
            trouble: None,
            failures: 0,
            throttled_until: MonotonicTime::ZERO,
            throttled: 0,
            observed_at: MonotonicTime::ZERO,
            look_at: MonotonicTime::NEVER,
            dazed_until: MonotonicTime::ZERO,
            wall_ahead: 0,
            used_at: MonotonicTime::ZERO,
            renew_at: MonotonicTime::ZERO,
            is_to_tell: false,
            tries: 0,
            hour: Hour::default(),
            past: VecDeque::new(),
            flight: None,
        }
    }

    pub(crate) fn account(&mut self, slot: usize) -> &mut Account {
        if slot >= self.accounts.len() {
            self.accounts.resize_with(slot + 1, Account::default);
        }
        &mut self.accounts[slot]
    }

    /// Whoever waits is woken, and looks for himself.
    pub(crate) fn wake(&mut self) {
        for account in &mut self.accounts {
            account.wanted = 0;
            account.wanted_least = 0;
            account.woken += std::mem::take(&mut account.waiting);
        }
    }

    /// Whether everything is done that the table is to be told of, but for what was spent.
    pub(crate) fn is_settled(&self) -> bool {
        self.past.is_empty() && self.accounts.iter().all(Account::is_settled)
    }

    /// What the write under way debits of what is owed, and reports of what was spent.
    pub(crate) fn under_way(&self, slot: usize) -> (u64, u64) {
        let flight = self.flight.as_ref().filter(|f| !f.only_converts);
        let slot = flight.and_then(|flight| flight.slots.get(slot));
        slot.map_or((0, 0), |slot| (slot.owed, slot.spent))
    }

    pub(crate) fn is_writing(&self) -> bool {
        self.flight.is_some()
    }

    /// The bucket is seen again. Who has not seen it for some periods had no reason to look, nor perhaps had
    /// others: that they were silent meanwhile says nothing.
    pub(crate) fn forget_silence(&mut self, now: MonotonicTime, renewal: Duration) {
        let unseen = now.since(self.seen_at);
        if unseen > renewal * 3 / 2 {
            self.company_at = self.company_at.after(unseen);
        }
    }

    /// What the bucket was found as, or was left as by so many writes of this process. Returns whether
    /// it has been made again since it was last seen: then it does not know what was entered before.
    pub(crate) fn saw(
        &mut self,
        now: MonotonicTime,
        item: Option<BucketItem>,
        writes: u64,
    ) -> bool {
        let sequence = |item: Option<&BucketItem>| item.map_or(0, |item| item.sequence);
        let since = sequence(item.as_ref()).saturating_sub(sequence(self.seen.item()));
        if since > writes {
            self.company_at = now;
        }
        // Numbers begin with the microsecond in which the item is made, and go up by one per write.
        let elapsed = now.since(self.seen_at).as_micros();
        let again = self.seen.item().is_some() && u128::from(since) > elapsed + u128::from(writes);
        if again {
            for account in &mut self.accounts {
                account.entered = None;
            }
        }
        self.seen = item.into();
        self.seen_at = now;
        again
    }
}
