//! How large the next block is, and when it is worth a write.
//!
//! A process takes what it will need until it renews again, plus what keeps it from waiting
//! while the renewal is under way. Where the bucket cannot give that, the process takes its
//! share (its demand by the fleet's) of what is there and of the coming refill, and keeps what it
//! has in hand, up to that share: it would else wait for it once more. Where even that share is less
//! than a token, it takes only what callers are waiting for, one by one. A share that it has not had
//! it catches up with later.

use std::time::Duration;

use crate::kernel::overdraft_max;

/// What there is to decide on, in tokens.
#[derive(Clone, Copy, Debug)]
pub(super) struct Situation {
    /// In the bucket once the process has given back what it holds; negative: reserved ahead.
    pub(super) level: f64,
    /// What of that the process has in hand, to be spent at once.
    pub(super) in_hand: u64,
    /// The most that the process may hold, for what others hold.
    pub(super) block_max: u64,
    /// For how long at least all that flows in overflows; none if it does not.
    pub(super) overflows_for: Option<Duration>,
    /// Refill per second.
    pub(super) rate: f64,
    /// The process's demand per second.
    pub(super) demand: f64,
    /// What of it counts beside that of others.
    pub(super) reported_demand: f64,
    /// Tokens per request.
    pub(super) per_request: f64,
    /// Whether the demand is more than one moment's impression.
    pub(super) established: bool,
    /// The fleet's demand per second, the process's included.
    pub(super) fleet_demand: f64,
    /// The most that its share may be.
    pub(super) share_max: f64,
    /// Whether the demand has just grown so much that the fleet does not know of it yet.
    pub(super) surging: bool,
    /// How many tokens of its share the process has not had before; negative: had beyond it.
    pub(super) share_deficit: f64,
    /// What callers are waiting for, together.
    pub(super) wanted: u64,
    /// The least that one caller is waiting for.
    pub(super) wanted_least: u64,
    /// How often the process means to renew.
    pub(super) renewal: Duration,
    /// How long a block lives.
    pub(super) lease_ttl: Duration,
}

/// A block to take.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Grant {
    /// Spendable at once.
    pub(super) stock: u64,
    /// Those of them that the process had in hand.
    pub(super) in_hand: u64,
    /// Released evenly over `length`.
    pub(super) trickle: u64,
    /// How long what is trickle lasts.
    pub(super) length: Duration,
    /// Whether it is less than what the process needs.
    pub(super) short: bool,
}

/// How far reservations may run ahead of the refill, in renewal periods.
const AHEAD_PERIODS: f64 = 2.0;
/// And at most, where others were faster: who takes what is left of that would else be refused for each
/// token that they took while the write was on its way.
pub(super) const AHEAD_PERIODS_MAX: f64 = 2.5;
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
const DEFICIT_MAX: f64 = 0.5;
/// Or how many requests, if that is more: of a small share one is always on its way back.
const DEFICIT_REQUESTS: f64 = 2.5;
/// After how many renewal periods without a block it begins anew.
const DEFICIT_PERIODS: u32 = 3;
/// How many renewal periods a reservation lasts while demand is surging.
const SURGE_PERIODS: f64 = 0.25;
/// How many renewal periods a block is to last.
const BLOCK_PERIODS: f64 = 1.25;

impl Situation {
    /// Whether the fleet wants most of what the limit gives.
    #[must_use]
    pub(super) fn is_contended(&self) -> bool {
        self.fleet_demand >= 0.7 * self.rate
    }

    /// Whether `unspent` tokens are far more than the process will need before it renews, while
    /// others may need them.
    #[must_use]
    #[allow(clippy::cast_precision_loss)]
    pub(super) fn is_excess(&self, unspent: u64) -> bool {
        let expected = self.demand * self.renewal.as_secs_f64() * BLOCK_PERIODS;
        let enough =
            2.0 * expected + 4.0 * (expected * self.per_request).sqrt() + 4.0 * self.per_request;
        self.is_contended() && unspent as f64 > enough
    }

    /// What the fleet's demand cannot be more than, seeing what is left after this process took
    /// `grant`: where its share was short, and others did not take the rest, they are fewer than
    /// the ring says. Some may have died.
    #[must_use]
    pub(super) fn fleet_demand_cap(&self, grant: &Grant, before: Option<f64>) -> Option<f64> {
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
    pub(super) fn share(&self) -> f64 {
        if self.fleet_demand > 0.0 {
            (self.reported_demand / self.fleet_demand).min(self.share_max)
        } else {
            1.0
        }
    }

    /// How many tokens of its share the process has not had, now that it took `grant` and gave back
    /// what it had not spent of the block before, which it took so long ago.
    #[must_use]
    #[allow(clippy::cast_precision_loss)]
    pub(super) fn share_deficit_after(
        &self,
        grant: &Grant,
        gave_back: u64,
        elapsed: Duration,
    ) -> f64 {
        if elapsed > self.renewal * DEFICIT_PERIODS {
            return 0.0;
        }
        let share = self.share() * self.rate;
        let took = (grant.stock + grant.trickle) as f64 - gave_back as f64;
        let most = DEFICIT_MAX * share * self.renewal.as_secs_f64();
        let most = most.max(DEFICIT_REQUESTS * self.per_request);
        (self.share_deficit + share * elapsed.as_secs_f64() - took).clamp(-most, most)
    }

    /// How many renewal periods of refill reservations are steered to run ahead, where all is reserved.
    fn ahead_target(&self) -> f64 {
        let drawable = overdraft_max(self.lease_ttl).div_duration_f64(self.renewal);
        (AHEAD_TARGET * drawable).min(AHEAD_TARGET_MAX)
    }

    /// The block to take now.
    #[must_use]
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_precision_loss,
        clippy::cast_sign_loss
    )]
    pub(super) fn grant(&self) -> Grant {
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
                trickle: 0,
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
                trickle: 0,
                length: Duration::ZERO,
                short: served < wanted,
            };
        }
        let most = (AHEAD_PERIODS * self.rate * period + self.level).floor();
        let most = most.min(self.block_max as f64);
        // What has been released to it is not trickle once more.
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
        let share_deficit = if self.share_deficit < 0.0 {
            self.share_deficit * (ahead / target).min(1.0).powi(2)
        } else {
            self.share_deficit
        };
        let trickle = (share * self.rate * period * pace + share_deficit)
            .min(need - stock)
            .min(room)
            .max(0.0);
        // A small share is mostly rest: rounded down for ever, most of the refill would go unused.
        let trickle = if ahead < target {
            trickle.ceil()
        } else {
            trickle.floor()
        };
        let trickle = trickle.min(room.max(0.0).floor());
        Grant {
            stock: stock as u64,
            in_hand: kept as u64,
            trickle: trickle as u64,
            length: self.renewal.mul_f64(periods),
            short: stock + trickle < need,
        }
    }
}
