//! What the reconciler does with one bucket, as pure steps: [`Bucket::check`] says what is to
//! happen, the embedder makes the write, [`Bucket::complete`] takes its outcome in.
//!
//! One renewal is one write. It gives back what is unspent, takes the next block, reports
//! consumption and settles adjustments, as one net change. While it is under way the process
//! goes on spending what it keeps in any case.

use std::any::Any;
use std::sync::Arc;
use std::time::Duration;

use smallvec::SmallVec;

use crate::block::Schedule;
use crate::books::{Account, Flight, InFlight};
use crate::bucket::{Active, Bucket, Slot};
use crate::item::{BucketItem, Ring};
use crate::plan::{self, Entry, Holding, Plan, Returned, Transfer};
use crate::sabotage::Sabotage;
use crate::sizing::{AHEAD_PERIODS, Grant, Situation};
use crate::{Clock, Limit, MonotonicTime, WallTime};

/// What the reconciler is set to.
#[derive(Clone, Copy, Debug)]
pub struct RenewalSettings {
    /// How often a block in use is renewed.
    pub renewal: Duration,
    /// How long a block is spendable.
    pub lease_ttl: Duration,
    /// How long a write takes, as measured.
    pub latency: Duration,
    /// Drawn anew for every pause, from 0 to 1: processes that fail together do not come back
    /// together.
    pub jitter: f64,
}

impl RenewalSettings {
    /// For a bucket whose writes were throttled so many times: fewer and larger ones.
    fn stretched(self, throttled: u32) -> Self {
        let longest = (self.lease_ttl / 2).max(self.renewal);
        Self {
            renewal: (self.renewal * 2u32.pow(throttled.min(8))).min(longest),
            ..self
        }
    }

    /// How long to wait after so many failures in a row.
    fn pause(&self, failures: u32) -> Duration {
        let longest = self.renewal / 4 * 2u32.pow(failures.min(4));
        longest.mul_f64(0.5 + 0.5 * self.jitter)
    }
}

/// The time, on both clocks.
#[derive(Clone, Copy, Debug)]
pub struct Now {
    /// For how long things last here.
    pub monotonic: MonotonicTime,
    /// For what is written to the table.
    pub wall: WallTime,
}

impl Now {
    /// What `clock` says.
    #[must_use]
    pub fn of(clock: &Clock) -> Self {
        Self {
            monotonic: clock.now(),
            wall: clock.wall(),
        }
    }
}

/// What is to happen with a bucket.
#[derive(Clone, Debug)]
pub enum Step {
    /// Make this write and report its outcome with [`Bucket::complete`].
    Write(Plan),
    /// Look again then, or when told.
    Wait(MonotonicTime),
    /// Nothing is held and nothing is owed: the bucket may be forgotten.
    Idle,
}

/// How a write ended.
#[derive(Clone, Debug)]
pub enum Outcome {
    /// It was applied, and left this.
    Applied(BucketItem),
    /// A guard did not hold; this was found.
    Refused(Option<BucketItem>),
    /// It was not applied, for a reason that has nothing to do with the bucket.
    Failed(Reason),
    /// It was not applied, because there are too many writes.
    Throttled,
    /// It may have been applied.
    Unknown(Reason),
}

/// Why a write has failed, in the embedder's own words.
pub type Reason = Arc<dyn Any + Send + Sync>;

/// Why a bucket is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// It is time, or somebody asked.
    Due,
    /// The process stops: everything is to be given back.
    Closing,
    /// The table cannot be reached: nothing is to be written until it can.
    Suspended,
}

/// How often one renewal is planned anew before it gives way.
const TRIES_MAX: u32 = 6;

/// How many times a throttled bucket's renewals are stretched at most.
const THROTTLED_MAX: u32 = 4;

/// How often a write of a closing process may fail before it gives up.
const CLOSING_FAILURES_MAX: u32 = 3;

impl Bucket {
    /// Looks at the bucket: is a write due?
    pub fn check(&self, clock: &Clock, settings: &RenewalSettings, why: Why) -> Step {
        let now = Now::of(clock);
        let mut state = self.lock();
        state.hinted = false;
        let step = match state.active.as_deref_mut() {
            Some(active) => active.check(now, &active.stretched(settings), why),
            None => Step::Idle,
        };
        if matches!(step, Step::Idle) {
            state.rest();
        }
        step
    }

    /// Takes in how the write of the last [`Step::Write`] ended; says what comes next.
    pub fn complete(
        &self,
        clock: &Clock,
        settings: &RenewalSettings,
        why: Why,
        outcome: Outcome,
    ) -> Step {
        let now = Now::of(clock);
        let mut state = self.lock();
        state.hinted = false;
        let Some(active) = state.active.as_deref_mut() else {
            return Step::Idle;
        };
        let again = active.complete(now, &active.stretched(settings), outcome);
        active.expires_tick = clock.tick_before(active.expires_at);
        let settings = active.stretched(settings);
        let step = if again && why != Why::Suspended {
            active.plan(now, &settings, why)
        } else {
            active.check(now, &settings, why)
        };
        if matches!(step, Step::Idle) {
            state.rest();
        }
        step
    }

    /// The table can be reached again: whatever pause the bucket was in is over.
    pub fn resume(&self) {
        if let Some(active) = self.lock().active.as_deref_mut() {
            active.books.unavailable_until = MonotonicTime::ZERO;
            active.books.failures = 0;
        }
    }

    /// Why the bucket cannot be asked for, if it is in a pause after a failure.
    #[must_use]
    pub fn trouble(&self, clock: &Clock) -> Option<Reason> {
        let state = self.lock();
        let books = &state.active.as_deref()?.books;
        let reason = books.trouble.clone();
        reason.filter(|_| clock.now() < books.unavailable_until)
    }

    /// Which rest it is at, if it is not in use.
    #[must_use]
    pub fn rest(&self) -> Option<u32> {
        self.lock().rest_number()
    }
}

impl Active {
    fn stretched(&self, settings: &RenewalSettings) -> RenewalSettings {
        settings.stretched(self.books.throttled)
    }

    fn check(&mut self, now: Now, settings: &RenewalSettings, why: Why) -> Step {
        self.release(now.monotonic);
        let used = self.observe(now.monotonic, settings);
        let books = &mut self.books;
        if books.flight.is_some() {
            return Step::Wait(now.monotonic.after(settings.renewal));
        }
        if why == Why::Suspended {
            return Step::Wait(MonotonicTime::NEVER);
        }
        let pause = books.unavailable_until.max(books.throttled_until);
        if now.monotonic < pause && why == Why::Due {
            return Step::Wait(pause);
        }
        if used {
            books.used_at = now.monotonic;
        }
        let idle = now.monotonic.since(books.used_at) >= settings.renewal;
        let settled = books.accounts.iter().all(Account::is_settled);
        let wanted = books.accounts.iter().any(|a| a.wanted > 0);
        let closing = why == Why::Closing;
        if closing && books.failures > CLOSING_FAILURES_MAX {
            return Step::Idle; // the block expires by itself
        }
        if !wanted && (idle || closing) && settled && self.unspent() == 0 {
            // What was seen of the bucket and of its demand spares the next caller a wrong guess.
            let known_until = self.books.seen_at.max(self.books.used_at);
            let known_until = known_until.after(settings.lease_ttl * 2);
            let denied_until = self.slots.iter().map(|slot| slot.denied_until).max();
            let until = denied_until.map_or(known_until, |until| until.max(known_until));
            if self.slots.iter().all(|slot| slot.spent == 0) {
                return if closing || until <= now.monotonic {
                    Step::Idle
                } else {
                    Step::Wait(until)
                };
            }
        }
        let renew_at = self.books.renew_at;
        let excess = (0..self.slots.len()).any(|slot| {
            let unspent = self.slots[slot].stock + self.books.account(slot).schedule.pending();
            let (situation, _) = self.situation(now, settings, slot, unspent);
            situation.is_excess(unspent)
        });
        let due =
            now.monotonic >= renew_at || idle || closing || wanted || excess || self.runs_low();
        if due && !(renew_at == MonotonicTime::NEVER && !idle && !closing && !wanted) {
            return self.plan(now, settings, why);
        }
        Step::Wait(renew_at.min(now.monotonic.after(settings.renewal / 4)))
    }

    fn runs_low(&self) -> bool {
        let mut slots = self.slots.iter();
        slots.any(|slot| slot.stock < slot.low_water)
    }

    /// All that is held and not spent.
    fn unspent(&self) -> u64 {
        let stock: u64 = self.slots.iter().map(|slot| slot.stock).sum();
        let accounts = self.books.accounts.iter();
        stock
            + accounts
                .map(|account| account.schedule.pending())
                .sum::<u64>()
    }

    /// Brings the demand up to date; whether anything was asked for since the last time.
    fn observe(&mut self, now: MonotonicTime, settings: &RenewalSettings) -> bool {
        let slots = self.slots.clone();
        let books = &mut self.books;
        let fresh = books.observed_at == MonotonicTime::ZERO;
        let elapsed = if fresh {
            settings.renewal / 4
        } else {
            now.since(books.observed_at)
        };
        let asked = |(account, slot): (&Account, &Slot)| {
            account.unobserved + slot.spent.saturating_sub(account.observed_spent) + slot.refused
        };
        let any = books
            .accounts
            .iter()
            .zip(&slots)
            .any(|pair| asked(pair) > 0);
        if elapsed < settings.renewal / 100 {
            return any;
        }
        for (account, slot) in books.accounts.iter_mut().zip(&slots) {
            let tokens = asked((account, slot));
            account.demand.observe(tokens, elapsed, settings.renewal);
            account.observed_spent = slot.spent;
            account.unobserved = 0;
        }
        books.observed_at = now;
        for slot in &mut self.slots {
            slot.refused = 0;
        }
        any
    }

    #[allow(clippy::cast_precision_loss)]
    fn situation(
        &self,
        now: Now,
        settings: &RenewalSettings,
        slot: usize,
        unspent: u64,
    ) -> (Situation, f64) {
        let limit = &self.limits[slot];
        let terms = limit.terms();
        let seen = self.books.seen.item();
        let account = &self.books.accounts[slot];
        let demand = account.demand.per_second();
        let rate = limit.tokens_per_second();
        let ring = seen.and_then(|item| item.limit(limit.name())?.ring);
        let fleet = ring.map_or(0.0, |ring: Ring| {
            let epoch = now.wall.as_millis() / ring.lease_ttl_ms.max(1);
            let reported = if ring.is_live(epoch) {
                ring.demand_milli_in(epoch)
            } else {
                0
            };
            reported as f64 / 1_000.0
        });
        let fleet = fleet.max(demand);
        let since = now.monotonic.since(self.books.seen_at);
        // As it stood when it was seen: what flowed in since then and what the others took met
        // in the bucket, so only the difference can have overflowed.
        let level = plan::level(seen, now.wall.before(since), limit) as f64 / terms.token() as f64;
        // The others went on taking since the bucket was last seen.
        let others = (fleet - demand).min(rate * (1.0 - demand / fleet.max(1e-9)));
        let since = since.as_secs_f64();
        let taken = if seen.is_some() && others > 0.0 {
            others * since.min(settings.lease_ttl.as_secs_f64())
        } else {
            0.0
        };
        let returned = self.returned(now.monotonic, settings, unspent);
        let found = seen.and_then(|item| item.limit(limit.name()));
        let replaced = found.map_or(0, |found| returned.replaced(found, now.wall));
        let comes_back = unspent as f64 - replaced as f64 / terms.token() as f64;
        let level = level + comes_back + rate * since - taken;
        let level = level.min(limit.burst_tokens() as f64);
        let situation = Situation {
            level: level - account.debt as f64,
            rate,
            demand,
            per_request: account.demand.per_request(),
            established: account.demand.is_established(),
            fleet_demand: fleet,
            surging: account.is_surging(),
            wanted: account.wanted,
            wanted_least: account.wanted_least,
            renewal: settings.renewal,
            lease_ttl: settings.lease_ttl,
        };
        (situation, taken)
    }

    /// `tokens` of the block, on their way back.
    fn returned(&self, now: MonotonicTime, settings: &RenewalSettings, tokens: u64) -> Returned {
        Returned {
            tokens,
            held_for: now.since(self.expires_at.before(settings.lease_ttl)),
        }
    }

    fn plan(&mut self, now: Now, settings: &RenewalSettings, why: Why) -> Step {
        self.release(now.monotonic);
        let keeps = why == Why::Due
            && (now.monotonic.since(self.books.used_at) < settings.renewal
                || self.books.accounts.iter().any(|a| a.wanted > 0));
        let limits = self.limits.clone();
        let mut slots: SmallVec<[InFlight; 2]> = SmallVec::new();
        let mut transfers: SmallVec<[Transfer<'_>; 2]> = SmallVec::new();
        for (at, limit) in limits.iter().enumerate() {
            let slot = self.slots[at];
            let pending = self.books.account(at).schedule.pending();
            let unspent = slot.stock + pending;
            let (situation, others_took) = self.situation(now, settings, at, unspent);
            let grant = if keeps {
                situation.grant()
            } else {
                Grant::default()
            };
            let of_block = unspent + self.books.account(at).recalled;
            let returned = self.returned(now.monotonic, settings, of_block);
            let account = self.books.account(at);
            let taken = grant.stock + grant.scheduled;
            transfers.push(Transfer {
                limit,
                take: taken,
                owe: account.debt,
                give: of_block + account.credit,
                returned,
                others_took: others_took as u64,
                asked_at: None,
                in_demand: keeps && (account.wanted > 0 || account.demand.milli() > 0),
                ahead: settings.renewal.mul_f64(AHEAD_PERIODS),
                consumed: signed(slot.spent) - signed(account.credit),
                // Who has never held anything leaves the ring alone.
                holding: (taken > 0 || account.entered.is_some()).then_some(Holding {
                    lease_ttl: settings.lease_ttl,
                    tokens: taken,
                    demand_milli: if keeps { account.demand.milli() } else { 0 },
                    entered: account.entered,
                }),
            });
            slots.push(InFlight {
                kept: unspent.min(taken),
                surplus: unspent.saturating_sub(taken),
                grant,
                spent: slot.spent,
                owed: account.debt,
                credited: account.credit,
                recalled: account.recalled,
                wanted: account.wanted,
                wanted_least: account.wanted_least,
                entry: None,
            });
        }
        let Some(plan) = plan::plan(&self.books.seen, now.wall, &transfers) else {
            // Credits for a bucket that is gone: there is nothing to credit them to.
            return Step::Idle;
        };
        self.set_off(now, &plan, slots);
        Step::Write(plan)
    }

    /// Takes out of circulation what the write gives back, and remembers the rest.
    fn set_off(&mut self, now: Now, plan: &Plan, mut slots: SmallVec<[InFlight; 2]>) {
        for (at, flight) in slots.iter_mut().enumerate() {
            flight.entry = plan.entries[at];
            if plan.only_converts {
                continue;
            }
            let account = self.books.account(at);
            let cancelled = account.schedule.cancel(flight.surplus);
            account.wanted = 0;
            let slot = &mut self.slots[at];
            if !Sabotage::ReturnForgotten.is_planted() {
                slot.stock -= (flight.surplus - cancelled).min(slot.stock);
            }
            if flight.surplus > 0 {
                // The table will have more than when it said no.
                slot.denied_until = MonotonicTime::ZERO;
            }
        }
        if !plan.only_converts {
            self.generation = self.generation.wrapping_add(1);
        }
        self.books.flight = Some(Flight {
            planned_at: now.monotonic,
            only_converts: plan.only_converts,
            slots,
        });
    }

    /// Whether the renewal is to be planned anew at once.
    fn complete(&mut self, now: Now, settings: &RenewalSettings, outcome: Outcome) -> bool {
        let Some(flight) = self.books.flight.take() else {
            return false;
        };
        match outcome {
            Outcome::Applied(item) => {
                let excess = self.excess(now, settings, &flight, &item);
                let books = &mut self.books;
                books.saw(now.monotonic, Some(item));
                books.failures = 0;
                books.throttled = books.throttled.saturating_sub(1);
                books.unavailable_until = MonotonicTime::ZERO;
                books.trouble = None;
                if flight.only_converts {
                    return true;
                }
                books.tries = 0;
                self.land(now, settings, &flight, &excess);
                false
            }
            Outcome::Refused(found) => {
                self.turn_back(&flight);
                let books = &mut self.books;
                books.saw(now.monotonic, found);
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

    /// The write was applied: the block is as if freshly granted.
    fn land(&mut self, now: Now, settings: &RenewalSettings, flight: &Flight, excess: &[u64]) {
        let expires_at = flight.planned_at.after(settings.lease_ttl);
        let mut renew_at = expires_at.before(settings.renewal);
        let lead = lead_time(settings);
        for (at, f) in flight.slots.iter().enumerate() {
            let (situation, _) = self.situation(now, settings, at, 0);
            let slot = &mut self.slots[at];
            let account = self.books.account(at);
            let granted = f.grant.stock + f.grant.scheduled;
            let held = slot.stock + account.schedule.pending() + (granted - f.kept);
            let held = held.saturating_sub(excess[at]);
            let scheduled = f.grant.scheduled.min(held);
            account.schedule = Schedule::new(flight.planned_at, f.grant.length, scheduled);
            slot.stock = held - scheduled;
            account.report(slot, f.spent);
            account.debt -= f.owed.min(account.debt);
            account.credit -= f.credited.min(account.credit);
            account.recalled -= f.recalled.min(account.recalled);
            account.entered = f.entry;
            account.wanted = 0; // whoever came meanwhile is woken, and looks for himself
            slot.low_water = if scheduled > 0 || f.grant.short {
                0
            } else {
                low_water(account.demand.per_second(), lead, held)
            };
            if scheduled > 0 {
                renew_at = renew_at.min(account.schedule.end().before(settings.latency * 2));
            }
            // A grant that was short by a guess at what the others took says nothing, if the table
            // turns out to hold what the caller wants.
            let there = f.wanted > 0 && situation.level >= f.wanted_least as f64;
            slot.denied_until = if f.grant.short && !(there && f.grant.scheduled == 0) {
                let renewed_by = renew_at.after(settings.latency * 4);
                denied_until(
                    now.monotonic,
                    settings,
                    &situation,
                    f,
                    renewed_by,
                    &self.limits[at],
                )
            } else {
                MonotonicTime::ZERO
            };
        }
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
        for (at, f) in flight.slots.iter().enumerate() {
            self.slots[at].stock += f.surplus;
            let account = self.books.account(at);
            if f.wanted > 0 {
                account.wanted += f.wanted;
                account.wanted_least = f.wanted_least;
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
            if !Sabotage::CreditRetried.is_planted() {
                account.credit -= f.credited.min(account.credit);
            }
            if Sabotage::DebtDropped.is_planted() {
                account.debt -= f.owed.min(account.debt);
            }
            account.recalled -= f.recalled.min(account.recalled);
            account.entered = f.entry.map(Entry::in_doubt);
        }
    }

    /// Nobody is answered from the table for a while.
    fn back_off(&mut self, now: Now, settings: &RenewalSettings, reason: Option<Reason>) {
        let books = &mut self.books;
        let pause = settings.pause(books.failures);
        books.trouble = reason;
        books.failures += 1;
        books.unavailable_until = now.monotonic.after(pause);
        for account in &mut books.accounts {
            account.wanted = 0;
        }
    }
}

fn signed(tokens: u64) -> i64 {
    i64::try_from(tokens).unwrap_or(i64::MAX)
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
    limit: &Limit,
) -> MonotonicTime {
    let tokens = flight.wanted_least.max(1) as f64;
    let missing = ((tokens - situation.level) / limit.tokens_per_second()).max(0.0);
    let refilled = Duration::try_from_secs_f64(missing).unwrap_or(settings.lease_ttl);
    let earliest = if situation.fleet_demand > situation.rate && flight.grant.scheduled > 0 {
        return renewed_by;
    } else {
        refilled.max(settings.renewal / 8)
    };
    // Others may give back, and an administrator may raise the limit: ask again some day.
    now.after(earliest.min(settings.lease_ttl))
}
