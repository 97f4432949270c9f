//! How large the next block is, and when it is worth a write.
//!
//! A process takes what it will need until it renews again, plus what keeps it from waiting
//! while the renewal is under way. Where the bucket cannot give that, the process takes its
//! share (its demand by the fleet's) of what is there and of the coming refill, and keeps what it
//! has in hand, up to that share: it would else wait for it once more. Where even that share is less
//! than a token, it takes only what callers are waiting for, one by one. A share that it has not had
//! it catches up with later.

use std::time::Duration;

use crate::holdings::slack_max;

/// By what factor demand may have grown from one moment to the next, beyond what a period shows.
const GROWTH_MAX: f64 = 32.0;

/// How demand follows what is asked for.
#[derive(Clone, Copy, Debug, Default)]
pub struct Demand {
    /// Quickly up, slowly down: a block that is too small is waited for.
    per_second: f64,
    /// Up as slowly as down, but where it is more than chance: what counts beside the demand of others.
    mean: f64,
    /// Tokens per request, as callers who had to wait asked for them.
    per_request: f64,
    /// How often something had been asked for when it was observed; counted to two.
    observations: u8,
}

impl Demand {
    /// Tokens per second.
    #[must_use]
    pub fn per_second(self) -> f64 {
        self.per_second
    }

    /// Tokens per second in the mean, which may be less.
    #[must_use]
    pub fn mean(self) -> f64 {
        self.mean
    }

    /// Tokens per request; at least one.
    #[must_use]
    pub fn per_request(self) -> f64 {
        self.per_request.max(1.0)
    }

    /// Whether it is more than one moment's impression.
    #[must_use]
    pub fn is_established(self) -> bool {
        self.observations > 1
    }

    /// Somebody asked for `tokens` at once.
    #[allow(clippy::cast_precision_loss)]
    pub fn learn_request(&mut self, tokens: u64) {
        let weight = if self.per_request == 0.0 { 1.0 } else { 0.25 };
        self.per_request += (tokens as f64 - self.per_request) * weight;
    }

    /// In thousandths of a token per second, rounded down.
    #[must_use]
    #[allow(clippy::cast_possible_truncation)]
    pub fn milli(self) -> i64 {
        (self.per_second * 1_000.0) as i64
    }

    /// What `tokens` in `elapsed` look like, per second. A few at once after a silence are no rate:
    /// they are spread over a part of a period, the fewer they are the larger.
    #[allow(clippy::cast_precision_loss)]
    fn impression(self, tokens: u64, elapsed: Duration, renewal: Duration) -> f64 {
        let requests = (tokens as f64 / self.per_request()).clamp(1.0, 8.0);
        let spread = renewal.as_secs_f64() / (2.0 * requests);
        let seen = tokens as f64 / elapsed.as_secs_f64().max(spread);
        if !self.is_established() {
            return seen;
        }
        // Nor is what had piled up, where the process stood still.
        seen.min((GROWTH_MAX * self.per_second).max(2.0 * tokens as f64 / renewal.as_secs_f64()))
    }

    /// Whether `tokens` in `elapsed` can be judged yet. That demand has grown much shows at once; what
    /// looks like less than before may be a matter of how short the time was.
    #[must_use]
    pub fn is_telling(self, tokens: u64, elapsed: Duration, renewal: Duration) -> bool {
        elapsed >= renewal / 8 || self.impression(tokens, elapsed, renewal) > 1.5 * self.per_second
    }

    /// `tokens` were asked for in `elapsed`, with `renewal` as the time that matters.
    #[allow(clippy::cast_precision_loss)]
    pub fn observe(&mut self, tokens: u64, elapsed: Duration, renewal: Duration) {
        let seen = self.impression(tokens, elapsed, renewal);
        self.observations = (self.observations + u8::from(tokens > 0)).min(2);
        let weight = (elapsed.as_secs_f64() / renewal.as_secs_f64()).min(1.0);
        let followed = |estimate: f64, up: f64| {
            let expected = estimate * elapsed.as_secs_f64();
            let chance = 0.5 * expected + 3.0 * (expected * self.per_request()).sqrt();
            let surplus = tokens as f64 - expected;
            let weight = if surplus < -chance {
                weight.max(0.8)
            } else if surplus > chance {
                weight.max(0.5)
            } else if seen > estimate {
                up
            } else {
                0.6 * weight
            };
            estimate + (seen - estimate) * weight
        };
        let mean = followed(self.mean, 0.6 * weight);
        self.per_second = followed(self.per_second, weight.max(0.5));
        self.mean = mean;
        if self.per_second < 1e-3 {
            *self = Self::default();
        }
    }
}

/// What there is to decide on, in tokens.
#[derive(Clone, Copy, Debug)]
pub struct Situation {
    /// In the bucket once the process has given back what it holds; negative: reserved ahead.
    pub level: f64,
    /// What of that the process has in hand, to be spent at once.
    pub in_hand: u64,
    /// The most that the process may hold, for what others hold.
    pub block_max: u64,
    /// Refill per second.
    pub rate: f64,
    /// The process's demand per second.
    pub demand: f64,
    /// What of it counts beside that of others.
    pub claim: f64,
    /// Tokens per request.
    pub per_request: f64,
    /// Whether the demand is more than one moment's impression.
    pub established: bool,
    /// The fleet's demand per second, the process's included.
    pub fleet_demand: f64,
    /// The most that its share may be.
    pub share_max: f64,
    /// Whether the demand has just grown so much that the fleet does not know of it yet.
    pub surging: bool,
    /// How many tokens of its share the process has not had before; negative: had beyond it.
    pub behind: f64,
    /// What callers are waiting for, together.
    pub wanted: u64,
    /// The least that one caller is waiting for.
    pub wanted_least: u64,
    /// How often the process means to renew.
    pub renewal: Duration,
    /// How long a block lives.
    pub lease_ttl: Duration,
}

/// A block to take.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Grant {
    /// Spendable at once.
    pub stock: u64,
    /// Those of them that the process had in hand.
    pub in_hand: u64,
    /// Released evenly over `length`.
    pub scheduled: u64,
    /// How long what is scheduled lasts.
    pub length: Duration,
    /// Whether it is less than what the process needs.
    pub short: bool,
}

/// How far reservations may run ahead of the refill, in renewal periods.
const AHEAD_PERIODS: f64 = 2.0;
/// And at most, where others were faster: who takes what is left of that would else be refused for each
/// token that they took while the write was on its way.
pub const AHEAD_PERIODS_MAX: f64 = 2.5;
/// How far they are steered to run ahead where everything is reserved, as a part of what strict
/// acquires may draw ahead: those would otherwise have nothing, or all.
const AHEAD_TARGET: f64 = 0.98;
/// And at most, in renewal periods.
const AHEAD_TARGET_MAX: f64 = 1.3;
/// How far they may lag behind that, in renewal periods and at most by half of it, before processes take
/// more than their shares: those write when their blocks end, which is when the least is reserved, and
/// would else leave strict acquires less than theirs.
const LAG_MAX: f64 = 0.15;
/// How fast they take more then.
const LAG_GAIN: f64 = 2.0;
/// By what factor the fleet's demand is taken to be less, where it leaves something.
const FLEET_SHRINKS: f64 = 1.5;
/// How much has to be reserved for that to be over, as a part of what reservations are steered to.
const FLEET_RESERVES: f64 = 0.85;
/// The most that one grant reserves ahead, as a multiple of the process's share.
const PACE_MAX: f64 = 1.2;
/// How many renewal periods of its share a process catches up, or gives up again, at most.
const BEHIND_MAX: f64 = 0.5;
/// Or how many requests, if that is more: of a small share one is always on its way back.
const BEHIND_REQUESTS: f64 = 2.5;
/// After how many renewal periods without a block it begins anew.
const BEHIND_PERIODS: u32 = 3;
/// How many renewal periods a reservation lasts while demand is surging.
const SURGE_PERIODS: f64 = 0.25;
/// How many renewal periods a block is to last.
const BLOCK_PERIODS: f64 = 1.25;

impl Situation {
    /// Whether the fleet wants most of what the limit gives.
    #[must_use]
    pub fn is_contended(&self) -> bool {
        self.fleet_demand >= 0.7 * self.rate
    }

    /// Whether `unspent` tokens are far more than the process will need before it renews, while
    /// others may need them.
    #[must_use]
    #[allow(clippy::cast_precision_loss)]
    pub fn is_excess(&self, unspent: u64) -> bool {
        let expected = self.demand * self.renewal.as_secs_f64() * BLOCK_PERIODS;
        let enough =
            2.0 * expected + 4.0 * (expected * self.per_request).sqrt() + 4.0 * self.per_request;
        self.is_contended() && unspent as f64 > enough
    }

    /// What the fleet's demand cannot be more than, seeing what is left after this process took
    /// `grant`: where its share was short, and others did not take the rest, they are fewer than
    /// the ring says. Some may have died.
    #[must_use]
    pub fn fleet_max(&self, grant: &Grant, before: Option<f64>) -> Option<f64> {
        let reserved = -self.level / (self.rate * self.renewal.as_secs_f64());
        if grant.short && self.established && reserved < 0.0 {
            return Some(self.fleet_demand / FLEET_SHRINKS);
        }
        // What was too little is not forgotten at once: it would soon be too much again.
        let grown = self.fleet_demand * FLEET_SHRINKS;
        match before? {
            before if reserved <= FLEET_RESERVES * self.ahead_target() => Some(before),
            _ if grown < FLEET_SHRINKS * self.rate => Some(grown),
            _ => None,
        }
    }

    /// The process's share of the limit, from 0 to 1: its demand by the fleet's.
    #[must_use]
    pub fn share(&self) -> f64 {
        if self.fleet_demand > 0.0 {
            (self.claim / self.fleet_demand).min(self.share_max)
        } else {
            1.0
        }
    }

    /// How many tokens of its share the process has not had, now that it took `grant` and gave back
    /// what it had not spent of the block before, which it took so long ago.
    #[must_use]
    #[allow(clippy::cast_precision_loss)]
    pub fn behind_after(&self, grant: &Grant, gave_back: u64, elapsed: Duration) -> f64 {
        if elapsed > self.renewal * BEHIND_PERIODS {
            return 0.0;
        }
        let share = self.share() * self.rate;
        let took = (grant.stock + grant.scheduled) as f64 - gave_back as f64;
        let most = BEHIND_MAX * share * self.renewal.as_secs_f64();
        let most = most.max(BEHIND_REQUESTS * self.per_request);
        (self.behind + share * elapsed.as_secs_f64() - took).clamp(-most, most)
    }

    /// How many renewal periods of refill reservations are steered to run ahead, where all is reserved.
    fn ahead_target(&self) -> f64 {
        let drawable = slack_max(self.lease_ttl).div_duration_f64(self.renewal);
        (AHEAD_TARGET * drawable).min(AHEAD_TARGET_MAX)
    }

    /// The block to take now.
    #[must_use]
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_precision_loss,
        clippy::cast_sign_loss
    )]
    pub fn grant(&self) -> Grant {
        let period = self.renewal.as_secs_f64();
        let share = self.share();
        let level = self.level.max(0.0).floor();
        let expected = self.demand * period * BLOCK_PERIODS;
        let worthwhile =
            self.established && self.demand * self.lease_ttl.as_secs_f64() >= self.per_request;
        let held = if worthwhile {
            (expected + 2.0 * (expected * self.per_request).sqrt()).ceil()
        } else {
            0.0
        };
        let wanted = self.wanted as f64;
        let need = held + wanted;
        if level >= need
            && (level >= need / share.max(1e-9) || self.rate * period * share >= self.per_request)
        {
            return Grant {
                stock: need as u64,
                in_hand: self.in_hand.min(need as u64),
                scheduled: 0,
                length: Duration::ZERO,
                short: false,
            };
        }
        // What callers wait for comes first; a part of one caller's tokens helps nobody.
        let served = if (self.wanted_least as f64) <= level {
            wanted.min(level)
        } else {
            0.0
        };
        let tight = self.rate * period * share < self.per_request;
        if tight {
            return Grant {
                stock: served as u64,
                in_hand: self.in_hand.min(served as u64),
                scheduled: 0,
                length: Duration::ZERO,
                short: served < wanted,
            };
        }
        let most = (AHEAD_PERIODS * self.rate * period + self.level).floor();
        let most = most.min(self.block_max as f64);
        // What has been released to it is not scheduled once more.
        let fair = (share * self.rate * period * BLOCK_PERIODS + self.per_request).floor();
        let kept = (self.in_hand as f64).min(need).min(fair).min(most.max(0.0));
        let free = (level - kept).max(0.0);
        let stock = served.max(kept + (share * free).floor()).min(need);
        let ahead = (-self.level).max(0.0) / (self.rate * period);
        // Whose demand nobody knows does not know the others' either: a short reservation now,
        // a fair one when all have told.
        let periods = if self.surging {
            SURGE_PERIODS
        } else {
            BLOCK_PERIODS
        };
        let target = self.ahead_target();
        let lag = target - ahead;
        let lag = lag.min(0.0) + LAG_GAIN * (lag - LAG_MAX.min(target / 2.0)).max(0.0);
        let pace = periods * ((BLOCK_PERIODS + lag) / BLOCK_PERIODS).clamp(0.0, PACE_MAX);
        let room = most - stock;
        // What it has had beyond its share it gives up only as far as others reserve what flows in.
        let behind = if self.behind < 0.0 {
            self.behind * (ahead / target).min(1.0).powi(2)
        } else {
            self.behind
        };
        let scheduled = (share * self.rate * period * pace + behind)
            .min(need - stock)
            .min(room)
            .max(0.0);
        // A small share is mostly rest: rounded down for ever, most of the refill would go unused.
        let scheduled = if ahead < target {
            scheduled.ceil()
        } else {
            scheduled.floor()
        };
        let scheduled = scheduled.min(room.max(0.0).floor());
        Grant {
            stock: stock as u64,
            in_hand: kept as u64,
            scheduled: scheduled as u64,
            length: self.renewal.mul_f64(periods),
            short: stock + scheduled < need,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A bucket is looked at often, and judged when something shows.
    #[test]
    fn uneven_requests_do_not_look_like_more_in_the_mean() {
        let second = Duration::from_secs(1);
        let mut seed: u32 = 1;
        let mut chance = || {
            seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            f64::from(seed) / f64::from(u32::MAX)
        };
        for per_second in [6.0, 20.0, 60.0] {
            let mut demand = Demand::default();
            let (mut mean, mut tokens, mut elapsed) = (0.0, 0, Duration::ZERO);
            const LOOKS: u32 = 200_000;
            for _ in 0..LOOKS {
                tokens += u64::from(chance() < per_second / 200.0);
                elapsed += second / 200;
                if demand.is_telling(tokens, elapsed, second) {
                    demand.observe(tokens, elapsed, second);
                    (tokens, elapsed) = (0, Duration::ZERO);
                }
                mean += demand.mean() / f64::from(LOOKS);
            }
            // Less of few: a single one is spread.
            assert!(
                (0.7..1.1).contains(&(mean / per_second)),
                "{mean} of {per_second}"
            );
        }
    }

    #[test]
    fn what_piled_up_while_a_process_stood_still_is_not_its_demand() {
        let (second, mut demand) = (Duration::from_secs(1), Demand::default());
        for _ in 0..20 {
            demand.observe(100, second, second);
        }
        demand.observe(5_000, second / 100, second);
        assert!(demand.per_second() < 10_000.0, "{demand:?}");
        // Where it is nothing but that, it may be all.
        let mut demand = Demand::default();
        demand.observe(5_000, second / 100, second);
        assert!(demand.per_second() > 10_000.0, "{demand:?}");
    }
}
