//! What the outcome of a renewal's write means for the bucket.

use std::time::Duration;

use smallvec::SmallVec;

use super::{Now, Outcome, Reason, RenewalSettings};
use crate::MonotonicTime;
use crate::block::Schedule;
use crate::books::{Flight, InFlight};
use crate::bucket::Active;
use crate::item::BucketItem;
use crate::plan::{self, Entry};
use crate::sabotage::Sabotage;
use crate::sizing::Situation;

/// How often one renewal is planned anew before it gives way.
const TRIES_MAX: u32 = 6;

/// How often a bucket is remembered to have been throttled at most.
const THROTTLED_MAX: u32 = 2;

impl Active {
    /// Whether the renewal is to be planned anew at once.
    pub(super) fn complete(
        &mut self,
        now: Now,
        settings: &RenewalSettings,
        outcome: Outcome,
    ) -> bool {
        let Some(mut flight) = self.books.flight.take() else {
            return false;
        };
        let applied = matches!(outcome, Outcome::Applied(_) | Outcome::Unknown(_));
        if !applied || flight.only_converts {
            for (at, f) in flight.slots.iter().enumerate() {
                if let Some(asked) = &f.asked {
                    self.books.account(at).take_back(asked);
                }
            }
        }
        match outcome {
            Outcome::Applied(item) => {
                let excess = self.excess(now, settings, &flight, &item);
                if flight.only_converts && now.monotonic >= self.expires_at {
                    self.recall_converted();
                }
                let books = &mut self.books;
                books.forget_silence(now.monotonic, settings.renewal);
                let before: SmallVec<[_; 2]> = books.accounts.iter().map(|a| a.entered).collect();
                if books.saw(now.monotonic, Some(item), 1) {
                    for (f, before) in flight.slots.iter_mut().zip(before) {
                        f.entry = f.entry.map(|entry| entry.beside(before));
                    }
                }
                books.failures = 0;
                books.throttled /= 2;
                books.unavailable_until = MonotonicTime::ZERO;
                books.trouble = None;
                if flight.only_converts {
                    return true;
                }
                books.tries = 0;
                let settings = self.stretched(settings);
                self.land(now, &settings, &flight, &excess);
                false
            }
            Outcome::Refused(found) => {
                self.turn_back(&flight);
                let books = &mut self.books;
                books.forget_silence(now.monotonic, settings.renewal);
                books.saw(now.monotonic, found, 0);
                books.tries += 1;
                if books.tries < TRIES_MAX {
                    return true;
                }
                books.tries = 0;
                // The table answers, and somebody else was faster each time: no reason to tell
                // callers that it is out of reach. They wait a little longer.
                books.throttled_until = now.monotonic.after(settings.pause(0));
                false
            }
            Outcome::Throttled => {
                self.turn_back(&flight);
                let books = &mut self.books;
                let pause = settings.pause(books.throttled);
                books.throttled_until = now.monotonic.after(pause);
                books.throttled = (books.throttled + 1).min(THROTTLED_MAX);
                false
            }
            Outcome::Failed(reason) => {
                self.turn_back(&flight);
                self.back_off(now, settings, Some(reason));
                false
            }
            Outcome::Unknown(reason) => {
                if flight.only_converts {
                    self.turn_back(&flight);
                } else {
                    self.lose(&flight);
                }
                self.back_off(now, settings, Some(reason));
                false
            }
        }
    }

    /// What the write has brought too much, limit by limit, because it was on its way for longer
    /// than its guards allow for. Nobody may spend that.
    fn excess(
        &self,
        now: Now,
        settings: &RenewalSettings,
        flight: &Flight,
        item: &BucketItem,
    ) -> SmallVec<[u64; 2]> {
        let flown = now.monotonic.since(flight.planned_at);
        let late = flown > plan::flight_max(settings.lease_ttl) && flown < settings.lease_ttl;
        let excess = |limit| {
            if late {
                plan::excess(item, now.wall, limit)
            } else {
                0
            }
        };
        self.limits.iter().map(excess).collect()
    }

    /// Until when at least all that flows in overflows, for what others hold.
    fn overflows_for(&self, now: Now, at: usize) -> Option<Duration> {
        let found = self.books.seen.item()?.limit(self.limits[at].name())?;
        plan::overflows_for(found, now.wall, self.books.accounts[at].entered)
    }

    /// Recalls what has expired of limits that the write has converted: after it the table says what
    /// this process declares, and no more that the block was granted under other terms than it had.
    fn recall_converted(&mut self) {
        for at in 0..self.limits.len() {
            let limit = &self.limits[at];
            let seen = self.books.seen.item();
            let found = seen.and_then(|item| item.limit(limit.name()));
            if found.is_some_and(|found| found.terms != *limit.terms()) {
                self.recall(at);
            }
        }
    }

    /// The write was applied: the block is as if freshly granted.
    fn land(&mut self, now: Now, settings: &RenewalSettings, flight: &Flight, excess: &[u64]) {
        let expires_at = flight.planned_at.after(settings.lease_ttl);
        let mut renew_at = expires_at.before(settings.renewal);
        let lead = lead_time(settings);
        for (at, f) in flight.slots.iter().enumerate() {
            let account = self.books.account(at);
            account.report(&mut self.slots[at], f.spent);
            account.debt -= f.owed.min(account.debt);
            account.credit -= f.credited.min(account.credit);
            account.taken_back -= f.taken_back.min(account.taken_back);
            account.recalled -= f.recalled.min(account.recalled);
            account.entered = f.entry;
            let (situation, _) = self.situation(now, settings, at, 0);
            let overflows_for = self.overflows_for(now, at).unwrap_or(settings.lease_ttl);
            let slot = &mut self.slots[at];
            let account = self.books.account(at);
            account.fleet_max = situation.fleet_max(&f.grant, account.fleet_max);
            let granted = f.grant.stock + f.grant.scheduled;
            let shared_at = f.grant.short.then_some(flight.planned_at);
            account.behind = match (account.shared_at, shared_at) {
                (Some(from), Some(to)) => {
                    situation.behind_after(&f.grant, f.kept + f.surplus, to.since(from))
                }
                _ => 0.0,
            };
            account.shared_at = shared_at;
            let held = slot.stock + account.schedule.pending() + (granted - f.kept);
            let held = held.saturating_sub(excess[at]);
            let scheduled = f.grant.scheduled.min(held);
            let mut schedule = Schedule::new(flight.planned_at, f.grant.length, scheduled);
            let seen = self.books.seen.item();
            if let Some(found) = seen.and_then(|item| item.limit(self.limits[at].name())) {
                let (first, last) = plan::flows_in(found, now.wall, settings.lease_ttl, scheduled);
                schedule.delay(now.monotonic.after(first), now.monotonic.after(last));
            }
            let account = self.books.account(at);
            account.schedule = schedule;
            slot.stock = held - scheduled;
            slot.low_water = if scheduled > 0 || f.grant.short {
                0
            } else {
                low_water(account.demand.per_second(), lead, held)
            };
            if f.grant.scheduled > 0 {
                // Also where all of it was spent while the write was on its way.
                renew_at = renew_at.min(schedule.end().before(settings.latency * 2));
            }
            // A grant that was short by a guess at what the others took says nothing, if the table
            // turns out to hold what the caller wants.
            let there = f.wanted > 0 && situation.level >= f.wanted_least as f64;
            // Nor does one more write bring sooner what the schedule is to release to a process of which
            // more is known than who waits.
            let refused = if f.grant.short {
                !(there && f.grant.scheduled == 0)
            } else {
                f.grant.scheduled > f.wanted && situation.level < f.wanted_least.max(1) as f64
            };
            slot.denied_until = if refused {
                let renewed_by = renew_at.after(settings.latency * 4);
                denied_until(
                    now.monotonic,
                    settings,
                    &situation,
                    f,
                    renewed_by,
                    overflows_for,
                )
            } else {
                MonotonicTime::ZERO
            };
            let nothing_at_all = f.grant.scheduled > 0 || situation.level < 1.0;
            slot.denied_from = if nothing_at_all {
                1
            } else {
                f.wanted_least.max(1)
            };
            slot.denied_to = if f.grant.short { u64::MAX } else { held };
        }
        for (at, f) in flight.slots.iter().enumerate() {
            if f.outdated {
                self.recall(at);
            }
        }
        self.books.reported_past(flight);
        self.expires_at = expires_at;
        self.books.renew_at = if self.unspent() > 0 {
            renew_at
        } else {
            MonotonicTime::NEVER
        };
        self.release(now.monotonic);
    }

    /// The write was not applied: what it would have given back is still here.
    fn turn_back(&mut self, flight: &Flight) {
        if flight.only_converts {
            return;
        }
        self.set_aside_unreported(flight);
        for (at, f) in flight.slots.iter().enumerate() {
            let account = self.books.account(at);
            if f.outdated {
                account.recalled += f.surplus;
            } else {
                self.slots[at].stock += f.surplus;
            }
        }
    }

    /// The write may have been applied. Then the process holds the new block, else the old one:
    /// what is in both is kept, for as long as the old one lives; a credit is never repeated; a
    /// debit is.
    fn lose(&mut self, flight: &Flight) {
        for (at, f) in flight.slots.iter().enumerate() {
            let slot = &mut self.slots[at];
            let account = self.books.account(at);
            account.report(slot, f.spent);
            account.taken_back -= f.taken_back.min(account.taken_back);
            if !Sabotage::CreditRetried.is_planted() {
                account.credit -= f.credited.min(account.credit);
            }
            if Sabotage::DebtDropped.is_planted() {
                account.debt -= f.owed.min(account.debt);
            }
            account.recalled -= f.recalled.min(account.recalled);
            account.entered = f.entry.map(Entry::in_doubt);
        }
        self.books.reported_past(flight);
    }

    /// Nobody is answered from the table for a while.
    fn back_off(&mut self, now: Now, settings: &RenewalSettings, reason: Option<Reason>) {
        let books = &mut self.books;
        let pause = settings.pause(books.failures);
        books.trouble = reason;
        books.failures += 1;
        books.unavailable_until = if Sabotage::PausedForEver.is_planted() {
            MonotonicTime::NEVER
        } else {
            now.monotonic.after(pause)
        };
        // They are told, and do not ask again.
        for account in &mut books.accounts {
            account.waiting = 0;
        }
    }
}

/// How long before a block runs out the next one has to be asked for.
fn lead_time(settings: &RenewalSettings) -> Duration {
    let safe = settings.latency * 4 + Duration::from_millis(5);
    safe.min(settings.renewal / 4)
}

/// The stock below which the next block has to be asked for.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
fn low_water(demand: f64, lead: Duration, held: u64) -> u64 {
    let needed = (demand * lead.as_secs_f64()).ceil() as u64;
    // A block that is born low would be renewed for ever.
    needed.min(held / 2)
}

/// Until when the process says no by itself, after a grant that was not enough.
fn denied_until(
    now: MonotonicTime,
    settings: &RenewalSettings,
    situation: &Situation,
    flight: &InFlight,
    renewed_by: MonotonicTime,
    overflows_for: Duration,
) -> MonotonicTime {
    let tokens = flight.wanted_least.max(1) as f64;
    let missing = ((tokens - situation.level) / situation.rate).max(0.0);
    let refilled = Duration::try_from_secs_f64(missing).unwrap_or(settings.lease_ttl);
    let earliest = if situation.fleet_demand > situation.rate && flight.grant.scheduled > 0 {
        return renewed_by;
    } else {
        refilled.min(overflows_for).max(settings.renewal / 8)
    };
    // Others may give back, and an administrator may raise the limit: ask again some day.
    now.after(earliest.min(settings.lease_ttl))
}
