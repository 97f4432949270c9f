//! Which write a renewal is: what the bucket will need, from what was last seen of it.

use smallvec::SmallVec;

use super::{Now, RenewalSettings, Step, Why};
use crate::books::{Account, Flight, InFlight};
use crate::bucket::{Active, Slot};
use crate::item::Ring;
use crate::plan::{self, Holding, Plan, Returned, Transfer};
use crate::sabotage::Sabotage;
use crate::sizing::{AHEAD_PERIODS_MAX, Grant, Situation};
use crate::{MonotonicTime, Ticks};

/// For how many renewal periods nobody else has written to a bucket that one process has alone.
const ALONE_PERIODS: f64 = 1.2;
/// How many renewal periods of refill may be reserved there: where it is more, nobody has a reason to
/// write before that has flowed in.
const ALONE_RESERVED: f64 = 1.0;
/// The share of such a bucket that it takes at least. The rest is for strict processes: who is
/// refused does not write.
const ALONE_SHARE_MIN: f64 = 0.8;
/// And at most.
const ALONE_SHARE_MAX: f64 = 0.95;
/// For how long a process that has stood still lets come what piled up meanwhile, as a part of a
/// renewal period: that was asked for in all the time, not in a moment.
const DAZED: u32 = 8;

impl Active {
    /// Brings the demand up to date; whether anything was asked for since the last time.
    pub(super) fn observe(&mut self, now: MonotonicTime, settings: &RenewalSettings) -> bool {
        let slots = self.slots.clone();
        let books = &mut self.books;
        let fresh = books.observed_at == MonotonicTime::ZERO;
        let elapsed = if fresh {
            settings.renewal / 4
        } else {
            now.since(books.observed_at)
        };
        let heard = |(account, slot): (&Account, &Slot)| {
            account.unobserved + slot.spent.saturating_sub(account.observed_spent) + slot.refused
        };
        // What was charged afterwards is spread over about a renewal period.
        let drained = -(-elapsed.as_secs_f64() / settings.renewal.as_secs_f64()).exp_m1();
        let late =
            |account: &Account| ((account.late as f64 * drained).ceil() as u64).min(account.late);
        // Whoever waits is counted once; but a first impression is of few, who are impatient.
        let asked = |pair: (&Account, &Slot)| {
            let established = pair.0.demand.is_established();
            let again = if established { pair.0.woken } else { 0 };
            heard(pair).saturating_sub(again) + late(pair.0)
        };
        let pairs = || books.accounts.iter().zip(&slots);
        let any = pairs().any(|pair| heard(pair) > 0);
        let telling = |pair: (&Account, &Slot)| {
            let demand = pair.0.demand;
            demand.is_telling(asked(pair), elapsed, settings.renewal)
        };
        if now.since(books.look_at) > settings.renewal / 2 {
            books.dazed_until = now.after(settings.renewal / DAZED);
        }
        let dazed = now < books.dazed_until;
        if dazed || elapsed < settings.renewal / 100 || !pairs().any(telling) {
            return any;
        }
        for (account, slot) in books.accounts.iter_mut().zip(&slots) {
            let tokens = asked((account, slot));
            account.demand.observe(tokens, elapsed, settings.renewal);
            account.woken = 0;
            account.late -= late(account);
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
    pub(super) fn situation(
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
        let claim = account.claim(limit);
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
        // Who leases what flows in writes in every period, which may be longer than this process's:
        // the others have died, or need nothing.
        let company = self.books.seen_at.since(self.books.company_at);
        let period = settings.renewal.mul_f64(ALONE_PERIODS);
        let since = now.monotonic.since(self.books.seen_at);
        // As it stood when it was seen: what flowed in since then and what the others took met
        // in the bucket, so only the difference can have overflowed.
        let level = plan::level(seen, now.wall.before(since), limit) as f64 / terms.token() as f64;
        let mut quiet = period.max(settings.lease_ttl / 5).as_secs_f64();
        let reserved = (-level).max(0.0) / rate;
        if reserved > ALONE_RESERVED * settings.renewal.as_secs_f64() {
            quiet += reserved;
        }
        let alone = company.as_secs_f64() >= quiet;
        let fleet = if alone {
            fleet.min(claim / ALONE_SHARE_MIN)
        } else {
            fleet
        };
        let fleet = fleet.min(account.fleet_max.unwrap_or(f64::MAX)).max(claim);
        // The others went on taking since the bucket was last seen.
        let others = (fleet - claim).min(rate * (1.0 - claim / fleet.max(1e-9)));
        let since = since.as_secs_f64();
        let taken = if seen.is_some() && others > 0.0 {
            others * since.min(settings.lease_ttl.as_secs_f64())
        } else {
            0.0
        };
        let found = seen.and_then(|item| item.limit(limit.name()));
        let token = terms.token() as f64;
        let replaced = found.map_or(0, |found| {
            let returned = self.returned(now.monotonic, settings, slot, unspent);
            returned.replaced(terms, found, now.wall)
        });
        let found_token = found.map_or(token, |found| found.terms.token() as f64);
        let comes_back = (unspent + account.credit + account.recalled) as f64;
        let comes_back = comes_back - replaced as f64 / found_token;
        let level = level + comes_back + rate * since - taken;
        let overflow = found.map_or(0, |found| {
            let before = unspent.saturating_add(self.spent_of_block(slot));
            let level = (level * token) as Ticks;
            plan::overflow(found, now.wall, account.entered, before, level)
        });
        let level = level.min(limit.burst_tokens() as f64) - overflow as f64 / token;
        let situation = Situation {
            level: level - account.debt as f64,
            in_hand: if now.monotonic < self.expires_at {
                self.slots[slot].stock
            } else {
                0
            },
            block_max: plan::block_max(limit, found, now.wall, account.entered, settings.lease_ttl),
            rate,
            demand,
            claim,
            per_request: account.demand.per_request(),
            established: account.demand.is_established(),
            fleet_demand: fleet,
            share_max: if alone { ALONE_SHARE_MAX } else { 1.0 },
            surging: account.is_surging(limit),
            behind: account.behind,
            wanted: account.wanted,
            wanted_least: account.wanted_least,
            renewal: settings.renewal,
            lease_ttl: settings.lease_ttl,
        };
        (situation, taken)
    }

    /// How much of the block was spent, at most.
    fn spent_of_block(&self, slot: usize) -> u64 {
        // What is to be reported for an hour that is over was, perhaps, spent of it, too.
        let all = !self.books.past.is_empty();
        if all {
            u64::MAX
        } else {
            self.slots[slot].spent
        }
    }

    /// `tokens` of the block, on their way back.
    pub(super) fn returned(
        &self,
        now: MonotonicTime,
        settings: &RenewalSettings,
        slot: usize,
        tokens: u64,
    ) -> Returned {
        Returned {
            tokens,
            recalled: self.books.accounts[slot].recalled,
            held_for: now.since(self.expires_at.before(settings.lease_ttl)),
        }
    }

    pub(super) fn plan(&mut self, now: Now, settings: &RenewalSettings, why: Why) -> Step {
        self.release(now.monotonic);
        let keeps = why == Why::Due
            && (now.monotonic.since(self.books.used_at) < settings.renewal
                || self.books.accounts.iter().any(|a| a.wanted > 0));
        let limits = self.limits.clone();
        let past = self.books.past.front();
        let past = past.map(|past| (past.hour, past.consumed.clone()));
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
            let returned = self.returned(now.monotonic, settings, at, unspent);
            let spent_of_block = self.spent_of_block(at);
            let account = self.books.account(at);
            let taken = grant.stock + grant.scheduled;
            let starves = keeps && grant.short && account.demand.milli() > 0;
            let (spent, taken_back) = match past {
                Some(_) => (0, 0),
                None => (slot.spent, account.taken_back),
            };
            let asked = account.tell(now.monotonic, limit, 0);
            transfers.push(Transfer {
                limit,
                take: taken,
                leave: 0,
                owe: account.debt,
                give: unspent + account.credit + account.recalled,
                returned,
                others_took: others_took as u64,
                asked_at: None,
                in_demand: keeps && (account.wanted > 0 || account.demand.milli() > 0),
                scheduled: grant.scheduled,
                in_hand: grant.in_hand,
                spent: spent_of_block,
                ahead: settings.renewal.mul_f64(AHEAD_PERIODS_MAX),
                consumed: match &past {
                    Some((_, consumed)) => consumed.get(at).copied().unwrap_or(0),
                    None => signed(spent) - signed(taken_back),
                },
                // Who has never held anything leaves the ring alone, but where others hold so much
                // that there is nothing for him: they are to know.
                holding: (taken > 0 || account.entered.is_some() || starves).then_some(Holding {
                    lease_ttl: settings.lease_ttl,
                    tokens: taken,
                    demand_milli: if keeps { account.claim_milli(limit) } else { 0 },
                    entered: account.entered,
                }),
                asked,
            });
            slots.push(InFlight {
                asked,
                kept: unspent.min(taken),
                surplus: unspent.saturating_sub(taken),
                grant,
                spent,
                taken_back,
                owed: account.debt,
                credited: account.credit,
                recalled: account.recalled,
                wanted: account.wanted,
                wanted_least: account.wanted_least,
                entry: None,
                outdated: false,
            });
        }
        let Some(mut plan) = plan::plan(&self.books.seen, now.wall, &transfers) else {
            // Credits for a bucket that is gone: there is nothing to credit them to.
            return Step::Idle;
        };
        if let Some((hour, _)) = past {
            plan.write.consumed_at_ms = hour.end_ms();
        }
        self.set_off(now, &plan, slots);
        Step::Write(plan)
    }

    /// Takes out of circulation what the write gives back, and remembers the rest.
    pub(super) fn set_off(&mut self, now: Now, plan: &Plan, mut slots: SmallVec<[InFlight; 2]>) {
        for (at, flight) in slots.iter_mut().enumerate() {
            flight.entry = plan.entries[at];
            if plan.only_converts {
                continue;
            }
            let account = self.books.account(at);
            let cancelled = account.schedule.cancel(flight.surplus);
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
        self.books.flight = Some(Box::new(Flight {
            planned_at: now.monotonic,
            only_converts: plan.only_converts,
            hour: self.books.hour,
            reports_past: !self.books.past.is_empty(),
            slots,
        }));
    }
}

fn signed(tokens: u64) -> i64 {
    i64::try_from(tokens).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use super::*;
    use crate::item::{BucketItem, LimitItem, Ring};
    use crate::renewal::Outcome;
    use crate::{BucketCache, Clock, Limit, Request};

    fn renewing_every(seconds: u64) -> RenewalSettings {
        RenewalSettings::new(Duration::from_secs(seconds), Duration::from_secs(5))
    }

    #[test]
    fn demand_is_what_it_is_however_often_the_bucket_is_looked_at() {
        let settings = renewing_every(1);
        for pause in [1, 10, 50, 250] {
            let (clock, hands) = Clock::manual();
            let limits: Arc<[Limit]> = [Limit::per_second("tps", 10_000).unwrap()].into();
            let bucket = BucketCache::new().get_or_insert("user", "api", &limits);
            let (bucket, mut table) = (bucket.unwrap(), None);
            for at in 0..6_000 / pause {
                hands.advance(Duration::from_millis(pause));
                // 500 tokens per second, in requests of five.
                let requests = (at + 1) * pause / 10 - at * pause / 10;
                for _ in 0..requests {
                    let consume = [("tps", 5)];
                    let request = Request::new(&limits, &consume);
                    if bucket.take(&clock, &request).is_err() {
                        bucket.want(&request);
                    }
                }
                let mut step = bucket.check(&clock, &settings, Why::Due);
                while let Step::Write(plan) = step {
                    let outcome = match BucketItem::apply(&mut table, &plan.write) {
                        Ok(item) => Outcome::Applied(item),
                        Err(found) => Outcome::Refused(found),
                    };
                    step = bucket.complete(&clock, &settings, Why::Due, outcome);
                }
            }
            let ring = table.unwrap().limit("tps").unwrap().ring.unwrap();
            let demand = ring.demand_milli[Ring::slot(ring.epoch)] / 1_000;
            assert!((450..=550).contains(&demand), "{demand}, every {pause} ms");
        }
    }

    #[test]
    fn who_waits_and_is_woken_again_and_again_has_asked_once() {
        let settings = renewing_every(1);
        let (clock, hands) = Clock::manual();
        let limits: Arc<[Limit]> = [Limit::per_second("tps", 10_000).unwrap()].into();
        let bucket = BucketCache::new().get_or_insert("user", "api", &limits);
        let bucket = bucket.unwrap();
        let consume = [("tps", 100)];
        let request = Request::new(&limits, &consume);
        for round in 0..10 {
            hands.advance(settings.renewal);
            for _ in 0..(if round < 5 { 1 } else { 20 }) {
                bucket.want(&request);
                bucket.lock().active().books.wake();
            }
            let mut state = bucket.lock();
            let active = state.active();
            active.slots[0].spent += 100;
            active.observe(clock.now(), &settings);
        }
        let demand = bucket.lock().active().books.account(0).demand.per_second();
        assert!((90.0..=150.0).contains(&demand), "{demand}");
    }

    #[test]
    fn who_only_looks_writes_nothing() {
        let settings = renewing_every(2); // longer than the clock has run
        let (clock, hands) = Clock::manual();
        let limits: Arc<[Limit]> = [Limit::per_second("tps", 10).unwrap()].into();
        let bucket = BucketCache::new().get_or_insert("user", "api", &limits);
        let bucket = bucket.unwrap();
        let found = LimitItem {
            terms: *limits[0].terms(),
            z: 0,
            consumed: 0,
            ring: None,
        };
        let item = BucketItem {
            limits: vec![(limits[0].shared_name().clone(), found)],
            ..BucketItem::default()
        };
        bucket.saw(&clock, clock.now(), Some(item));
        for _ in 0..20 {
            let step = bucket.check(&clock, &settings, Why::Due);
            assert!(!matches!(step, Step::Write(_)), "{step:?}");
            hands.advance(Duration::from_millis(100));
        }
    }
}
