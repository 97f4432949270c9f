//! The policy that ships: demand is estimated, and each process takes its share by it.

use std::time::Duration;

use smallvec::SmallVec;

use super::demand::Demand;
use super::grant::{AHEAD_PERIODS_MAX, Grant, Situation};
use super::{Asks, Decision, Pace, Policy, Sample, View, Want};
use crate::kernel::{Ask, Now, Settled, SettledLimit};
use crate::{Limit, MonotonicTime, Offer, Ticks};

/// For how many renewal periods nobody else has written to a bucket that one process has alone.
const ALONE_PERIODS: f64 = 1.2;
/// How many renewal periods of refill may be reserved there: where it is more, nobody has a reason to
/// write before that has flowed in.
const ALONE_RESERVED: f64 = 1.0;
/// The share of such a bucket that it takes at least. The rest is for direct acquires: a process that
/// is refused does not write.
const ALONE_SHARE_MIN: f64 = 0.8;
/// And at most.
const ALONE_SHARE_MAX: f64 = 0.95;
/// For how long a process that has stood still lets come what piled up meanwhile, as a part of a
/// renewal period: that was asked for in all the time, not in a moment.
const PAUSED: u32 = 8;

/// Estimates demand, and takes this process's share by it. One for each bucket.
#[derive(Debug, Default)]
pub struct Steering {
    limits: SmallVec<[Steered; 2]>,
    observed_at: MonotonicTime,
    next_check_at: MonotonicTime,
    /// Until when demand is not judged, because the process has stood still.
    demand_paused_until: MonotonicTime,
    /// How far the wall clock was ahead of the monotonic one at the last look.
    wall_ahead: i128,
    used_at: MonotonicTime,
    renew_at: MonotonicTime,
}

/// One limit.
#[derive(Debug, Default)]
struct Steered {
    demand: Demand,
    /// Asked for, and not observed as demand yet.
    heard: u64,
    /// Of that, what is counted again.
    woken: u64,
    /// Charged afterwards, and to be observed as demand little by little.
    late: u64,
    /// What the fleet's demand per second cannot be more than, by what it leaves in the bucket.
    fleet_demand_cap: Option<f64>,
    /// How many tokens of its share the process has not had, or had beyond it (negative), since it has
    /// less than it needs; and when that was last reckoned.
    share_deficit: f64,
    shared_at: Option<MonotonicTime>,
    low_water: u64,
    denial: Denial,
    /// What was last asked for, and who waited for it.
    granted: Grant,
    wanted: Want,
}

/// What the table is known to refuse.
#[derive(Clone, Copy, Debug, Default)]
struct Denial {
    /// Until then a miss is a refusal,
    until: MonotonicTime,
    /// of so many tokens or more: fewer than the table has refused may be there,
    from: u64,
    /// and of no more than this: for more than what flows in the table has to be asked.
    to: u64,
}

impl Steered {
    /// The demand per second that counts beside that of others, in thousandths, as the table keeps
    /// it: nobody can have more than all.
    #[allow(clippy::cast_possible_truncation)]
    fn reported_milli(&self, limit: &Limit) -> i64 {
        let demand = self.demand.mean().min(limit.tokens_per_second());
        (demand * 1_000.0).ceil() as i64
    }

    /// The same in tokens: no less than the others think, where a limit refills some tokens per day.
    fn reported(&self, limit: &Limit) -> f64 {
        self.reported_milli(limit) as f64 / 1_000.0
    }

    /// What is to be observed as demand: each waiting caller counts once. A first impression counts all of it:
    /// it comes from few callers, and they are impatient.
    fn asked(&self) -> u64 {
        let again = if self.demand.is_established() {
            self.woken
        } else {
            0
        };
        self.heard.saturating_sub(again)
    }

    /// What is known of the bucket and of the fleet, and the tokens that others have taken since it was
    /// seen, as a guess.
    fn situation(&self, view: &View, at: usize) -> (Situation, f64) {
        let (now, pace, limit) = (view.now, view.pace, &view.limits[at]);
        let (offer, want) = (&view.offers[at], view.wants[at]);
        let token = limit.terms().token() as f64;
        let rate = limit.tokens_per_second();
        let reported = self.reported(limit);
        let alone = is_alone(view, rate, offer, token);
        let fleet = offer.fleet_demand_milli as f64 / 1_000.0;
        let fleet = if alone {
            fleet.min(reported / ALONE_SHARE_MIN)
        } else {
            fleet
        };
        let fleet = fleet
            .min(self.fleet_demand_cap.unwrap_or(f64::MAX))
            .max(reported);
        // The others went on taking since the bucket was last seen.
        let others = (fleet - reported).min(rate * (1.0 - reported / fleet.max(1e-9)));
        let since = now.monotonic.since(offer.seen_at).as_secs_f64();
        let taken = if offer.seen && others > 0.0 {
            others * since.min(pace.lease_ttl.as_secs_f64())
        } else {
            0.0
        };
        #[allow(clippy::cast_possible_truncation)]
        let level = offer.level((taken * token) as Ticks) as f64 / token;
        let situation = Situation {
            level,
            in_hand: offer.in_hand,
            block_max: offer.block_max,
            overflows_for: offer.overflows_for,
            rate,
            demand: self.demand.per_second(),
            reported_demand: reported,
            per_request: self.demand.per_request(),
            established: self.demand.is_established(),
            fleet_demand: fleet,
            share_max: if alone { ALONE_SHARE_MAX } else { 1.0 },
            surging: self.reported_milli(limit) > offer.reported_milli.saturating_mul(2),
            share_deficit: self.share_deficit,
            wanted: want.total,
            wanted_least: want.least,
            renewal: pace.renewal,
            lease_ttl: pace.lease_ttl,
        };
        (situation, taken)
    }

    /// What a write has brought: how the share stands, and what is known to be refused from now on.
    fn settle(
        &mut self,
        now: Now,
        pace: &Pace,
        situation: &Situation,
        settled: &SettledLimit,
        planned_at: MonotonicTime,
        renew_at: MonotonicTime,
    ) {
        // As the kernel has granted it.
        let grant = Grant {
            stock: settled.stock,
            trickle: settled.trickle,
            ..self.granted
        };
        self.fleet_demand_cap = situation.fleet_demand_cap(&grant, self.fleet_demand_cap);
        let shared_at = grant.short.then_some(planned_at);
        self.share_deficit = match (self.shared_at, shared_at) {
            (Some(from), Some(to)) => {
                situation.share_deficit_after(&grant, settled.gave_back, to.since(from))
            }
            _ => 0.0,
        };
        self.shared_at = shared_at;
        self.low_water = if settled.trickle > 0 || grant.short {
            0
        } else {
            low_water(self.demand.per_second(), lead_time(pace), settled.held)
        };
        let wanted = self.wanted;
        // A grant that was short by a guess at what the others took says nothing, if the table
        // turns out to hold what the caller wants.
        let there = wanted.total > 0 && situation.level >= wanted.least as f64;
        // Nor does one more write bring sooner what is to flow in for a process of which more is known
        // than the callers who wait.
        let refused = if grant.short {
            !(there && grant.trickle == 0)
        } else {
            grant.trickle > wanted.total && situation.level < wanted.least.max(1) as f64
        };
        let nothing_at_all = grant.trickle > 0 || situation.level < 1.0;
        self.denial = Denial {
            until: if refused {
                let renewed_by = renew_at.after(pace.latency * 4);
                self.denied_until(now.monotonic, pace, situation, renewed_by)
            } else {
                MonotonicTime::ZERO
            },
            from: if nothing_at_all {
                1
            } else {
                wanted.least.max(1)
            },
            to: if grant.short { u64::MAX } else { settled.held },
        };
    }

    /// Until when the process says no by itself, after a grant that was not enough.
    fn denied_until(
        &self,
        now: MonotonicTime,
        pace: &Pace,
        situation: &Situation,
        renewed_by: MonotonicTime,
    ) -> MonotonicTime {
        let tokens = self.wanted.least.max(1) as f64;
        let missing = ((tokens - situation.level) / situation.rate).max(0.0);
        let refilled = Duration::try_from_secs_f64(missing).unwrap_or(pace.lease_ttl);
        let earliest = if situation.fleet_demand > situation.rate && self.granted.trickle > 0 {
            return renewed_by;
        } else {
            let overflows_for = situation.overflows_for.unwrap_or(pace.lease_ttl);
            refilled.min(overflows_for).max(pace.renewal / 8)
        };
        // Others may give back, and an administrator may raise the limit: ask again some day.
        now.after(earliest.min(pace.lease_ttl))
    }
}

/// Whether nobody else has a part in the bucket, as far as is known: a process that leases what flows in
/// writes in every period, which may be longer than this process's. The others have died, or need nothing.
fn is_alone(view: &View, rate: f64, offer: &Offer, token: f64) -> bool {
    let pace = &view.pace;
    let company = offer.seen_at.since(view.last_foreign_write_at);
    let period = pace.renewal.mul_f64(ALONE_PERIODS);
    let mut quiet = period.max(pace.lease_ttl / 5).as_secs_f64();
    let reserved = (-(offer.level_seen as f64 / token)).max(0.0) / rate;
    if reserved > ALONE_RESERVED * pace.renewal.as_secs_f64() {
        quiet += reserved;
    }
    company.as_secs_f64() >= quiet
}

/// How long before a block runs out the next one has to be asked for.
fn lead_time(pace: &Pace) -> Duration {
    let safe = pace.latency * 4 + Duration::from_millis(5);
    safe.min(pace.renewal / 4)
}

/// The stock below which the next block has to be asked for.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
fn low_water(demand: f64, lead: Duration, held: u64) -> u64 {
    let needed = (demand * lead.as_secs_f64()).ceil() as u64;
    // A block that is born low would be renewed for ever.
    needed.min(held / 2)
}

impl Steering {
    /// One that knows nothing yet.
    #[must_use]
    pub fn boxed() -> Box<dyn Policy> {
        Box::new(Self {
            next_check_at: MonotonicTime::NEVER,
            ..Self::default()
        })
    }

    fn grow(&mut self, limits: usize) {
        if limits > self.limits.len() {
            self.limits.resize_with(limits, Steered::default);
        }
    }

    /// What was refused by a clock that has been set since then may be there by what it says now.
    fn notice_clock(&mut self, now: Now, pace: &Pace) {
        let ahead = i128::from(now.wall.as_nanos()) - i128::from(now.monotonic.as_nanos());
        let step = ahead.abs_diff(std::mem::replace(&mut self.wall_ahead, ahead));
        if step > (pace.renewal / 4).as_nanos() {
            for limit in &mut self.limits {
                limit.denial.until = MonotonicTime::ZERO;
            }
        }
    }

    /// Whether nobody has asked for a while. A process that has only looked has not asked, also where the
    /// clock has only begun.
    fn is_idle(&self, view: &View) -> bool {
        let never = self.used_at == MonotonicTime::ZERO;
        never || view.now.monotonic.since(self.used_at) >= view.pace.renewal
    }

    fn has_excess(&self, view: &View) -> bool {
        let excess = |at: usize| {
            let (situation, _) = self.limits[at].situation(view, at);
            situation.is_excess(view.offers[at].unspent)
        };
        view.now.monotonic >= self.demand_paused_until && (0..view.limits.len()).any(excess)
    }

    fn runs_low(&self, view: &View) -> bool {
        let mut pairs = view.offers.iter().zip(&self.limits);
        pairs.any(|(offer, limit)| offer.in_hand < limit.low_water)
    }
}

impl Policy for Steering {
    fn observe(&mut self, now: Now, pace: &Pace, samples: &[Sample]) {
        self.grow(samples.len());
        self.notice_clock(now, pace);
        let now = now.monotonic;
        for (limit, sample) in self.limits.iter_mut().zip(samples) {
            limit.heard = limit.heard.saturating_add_signed(sample.paid) + sample.refused;
            limit.woken += sample.woken;
            limit.late += sample.late;
            limit
                .demand
                .learn_requests(sample.requests, sample.requested);
        }
        if self.limits.iter().any(|limit| limit.heard > 0) {
            self.used_at = now;
        }
        if now.since(self.next_check_at) > pace.renewal / 2 {
            self.demand_paused_until = now.after(pace.renewal / PAUSED);
        }
        let fresh = self.observed_at == MonotonicTime::ZERO;
        let elapsed = if fresh {
            pace.renewal / 4
        } else {
            now.since(self.observed_at)
        };
        // What was charged afterwards is spread over about a renewal period.
        let drained = -(-elapsed.as_secs_f64() / pace.renewal.as_secs_f64()).exp_m1();
        let late = |limit: &Steered| ((limit.late as f64 * drained).ceil() as u64).min(limit.late);
        let tells = |limit: &Steered| {
            let tokens = limit.asked() + late(limit);
            limit.demand.is_telling(tokens, elapsed, pace.renewal)
        };
        let paused = now < self.demand_paused_until;
        if paused || elapsed < pace.renewal / 100 || !self.limits.iter().any(tells) {
            return;
        }
        for limit in &mut self.limits {
            let late = late(limit);
            limit
                .demand
                .observe(limit.asked() + late, elapsed, pace.renewal);
            limit.late -= late;
            limit.woken = 0;
            limit.heard = 0;
        }
        self.observed_at = now;
    }

    fn decide(&mut self, view: &View) -> Decision {
        let (now, pace) = (view.now.monotonic, view.pace);
        let (idle, wanted) = (self.is_idle(view), view.is_wanted());
        if idle && view.is_at_rest() {
            // What was seen of the bucket and of its demand spares the next caller a wrong guess.
            let denied_until = self.limits.iter().map(|limit| limit.denial.until).max();
            let seen_at = view
                .offers
                .first()
                .map_or(MonotonicTime::ZERO, |o| o.seen_at);
            let until = if now < denied_until.unwrap_or_default() {
                now.after(pace.renewal)
            } else {
                seen_at.max(self.used_at).after(pace.lease_ttl * 2)
            };
            return if until <= now {
                Decision::Rest
            } else {
                Decision::Wait(until)
            };
        }
        let due = now >= self.renew_at || self.has_excess(view) || self.runs_low(view);
        let holds_nothing = self.renew_at == MonotonicTime::NEVER;
        if idle || wanted || due && !holds_nothing {
            return Decision::Renew;
        }
        Decision::Wait(self.renew_at.min(now.after(pace.renewal / 4)))
    }

    fn ask(&mut self, view: &View) -> Asks {
        let (now, pace) = (view.now, view.pace);
        self.grow(view.limits.len());
        let keeps = now.monotonic.since(self.used_at) < pace.renewal || view.is_wanted();
        let mut asks = Asks::new();
        for (at, limit) in view.limits.iter().enumerate() {
            let want = view.wants[at];
            let steered = &mut self.limits[at];
            let (situation, taken) = steered.situation(view, at);
            let grant = if keeps {
                situation.grant()
            } else {
                Grant::default()
            };
            let demands = steered.demand.milli() > 0;
            #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
            asks.push(Ask {
                stock: grant.stock,
                trickle: grant.trickle,
                over: grant.length,
                ahead: pace.renewal.mul_f64(AHEAD_PERIODS_MAX),
                demand_milli: if keeps {
                    steered.reported_milli(limit)
                } else {
                    0
                },
                reports: keeps && grant.short && demands,
                in_demand: keeps && (want.total > 0 || demands),
                others_took: taken as u64,
            });
            (steered.granted, steered.wanted) = (grant, want);
        }
        asks
    }

    fn settled(&mut self, view: &View, settled: &Settled) {
        let (now, pace) = (view.now, view.pace);
        let mut renew_at = settled.expires_at.before(pace.renewal);
        for (at, limit) in settled.limits.iter().enumerate() {
            if limit.trickle > 0 {
                // Also where all of it was spent while the write was on its way.
                renew_at = renew_at.min(limit.trickle_end.before(pace.latency * 2));
            }
            let steered = &mut self.limits[at];
            let (situation, _) = steered.situation(view, at);
            steered.settle(now, &pace, &situation, limit, settled.planned_at, renew_at);
        }
        self.renew_at = if view.unspent > 0 {
            renew_at
        } else {
            MonotonicTime::NEVER
        };
    }

    fn next_check(&mut self, at: MonotonicTime) {
        self.next_check_at = at;
    }

    fn forget_denial(&mut self, at: usize) {
        if let Some(limit) = self.limits.get_mut(at) {
            limit.denial.until = MonotonicTime::ZERO;
        }
    }

    fn terms_changed(&mut self, at: usize) {
        self.forget_denial(at);
        if let Some(limit) = self.limits.get_mut(at) {
            limit.low_water = 0;
        }
    }

    fn remove_limit(&mut self, at: usize) {
        if at < self.limits.len() {
            self.limits.remove(at);
        }
    }

    fn denies(&self, at: usize, now: MonotonicTime, tokens: u64) -> bool {
        self.limits.get(at).is_some_and(|limit| {
            let Denial { until, from, to } = limit.denial;
            now < until && (from..=to).contains(&tokens)
        })
    }

    fn denied_until(&self, at: usize) -> MonotonicTime {
        self.limits
            .get(at)
            .map_or(MonotonicTime::ZERO, |limit| limit.denial.until)
    }

    fn low_water(&self, at: usize) -> u64 {
        self.limits.get(at).map_or(0, |limit| limit.low_water)
    }

    fn is_demanded(&self, at: usize) -> bool {
        let limit = self.limits.get(at);
        limit.is_some_and(|limit| limit.heard > 0 || limit.demand.milli() > 0)
    }

    fn demand(&self, at: usize) -> f64 {
        self.limits.get(at).map_or(0.0, |limit| limit.demand.mean())
    }
}
