//! Scenarios drawn from a seed: every number, and which faults there are at all.

use std::sync::Arc;

use zae_limiter::{LeasedOptions, Limit, Terms};
use zae_limiter_core::policy::Steering;

use super::scenario::{Afterwards, Change, Faults, Nanos, Scenario, Traffic};
use crate::fleet::{Arrivals, Shape};

/// What limits are called, in the order in which requests name them.
pub const NAMES: [&str; 2] = ["a", "b"];
/// The refill periods that are drawn, in seconds.
const PERIODS: [u64; 6] = [1, 1, 1, 7, 13, 60];
/// Those of quotas.
const LONG_PERIODS: [u64; 3] = [3_600, DAY, 30 * DAY];
const DAY: u64 = 86_400;
/// A multiple of them all.
pub const PERIODS_MULTIPLE: u64 = 7 * 13 * 30 * DAY;

const SECOND: f64 = 1e9;

struct Draw(fastrand::Rng);

impl Draw {
    /// Between `low` and `high`, small numbers as often as large ones.
    fn log(&mut self, low: f64, high: f64) -> f64 {
        low * (high / low).powf(self.0.f64())
    }

    fn one_of<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.0.usize(..choices.len())]
    }

    fn chance(&mut self, permille: u32) -> bool {
        self.0.u32(..1_000) < permille
    }

    /// Zero with the probability of `absent` permille.
    fn permille(&mut self, absent: u32, most: f64) -> u32 {
        if self.chance(absent) {
            0
        } else {
            self.log(2.0, most) as u32
        }
    }

    fn when(&mut self, until: Nanos) -> Nanos {
        self.0.u64(until / 20..until.max(20))
    }

    fn nanos(&mut self, low: f64, high: f64) -> Nanos {
        self.log(low, high) as Nanos
    }
}

impl Scenario {
    /// The scenario of a seed, with about `requests` acquires, give or take a factor of seven.
    #[must_use]
    #[allow(clippy::cast_precision_loss)]
    pub fn random(seed: u64, requests: u64) -> Self {
        let mut draw = Draw(fastrand::Rng::with_seed(seed ^ 0x5ce0_a210));
        let renewal_ms = draw.one_of(&[100, 250, 500, 1_000, 1_000, 2_000]);
        let options = LeasedOptions {
            renewal_interval_ms: renewal_ms,
            lease_ttl_ms: renewal_ms * draw.0.u64(3..=8),
        };
        let renewal = renewal_ms as f64 * 1e6;
        let lease_ttl = options.lease_ttl_ms as f64 * 1e6;
        let processes = draw.one_of(&[1, 2, 2, 3, 4, 6, 8, 12]);
        let strict = strict(&mut draw, processes);
        let calm_at = draw.nanos(10.0 * renewal, 60.0 * renewal);
        let end = calm_at + (lease_ttl + 20.0 * renewal) as Nanos;

        // The demand first, then a limit that makes it as much, or as little, as drawn.
        let several = draw.log(requests as f64 / 7.0, requests as f64 * 7.0);
        let per_second = several * SECOND / end as f64;
        let most_tokens = draw.one_of(&[1, 1, 1, 3, 10, 100]);
        let load = draw.log(0.1, 20.0);
        let children = if draw.chance(50) {
            draw.log(100.0, 2_000.0) as usize
        } else {
            draw.one_of(&[1, 1, 1, 2, 3, 5])
        };
        let tokens_per_second =
            per_second * (1 + most_tokens) as f64 / 2.0 / load / children as f64;
        let first = limits(&mut draw, tokens_per_second, most_tokens);
        let parents = draw.one_of(&[0, 0, 1, 2]);
        let traffic = |draw: &mut Draw, per_second: f64| Traffic {
            per_second,
            tokens: 1..=most_tokens,
            shape: draw.one_of(&[
                Shape::Even,
                Shape::Even,
                Shape::Skewed,
                Shape::Shifting,
                Shape::Bursts,
            ]),
            arrivals: draw.one_of(&[Arrivals::Regular, Arrivals::Poisson]),
        };
        let demand = traffic(&mut draw, per_second);
        let again = draw.one_of(&[0.5, 0.9, 1.2, 4.0]);
        let recovery = Traffic {
            shape: Shape::Even,
            ..traffic(&mut draw, (per_second / load * again).min(per_second * 3.0))
        };
        let lead = (2.0 * lease_ttl + 4.0 * renewal) as Nanos;
        let mut scenario = Self {
            seed,
            requests,
            processes,
            strict,
            policy: Steering::boxed,
            options,
            idle_ttl: draw.nanos(2.0 * lease_ttl, 100.0 * lease_ttl),
            limits: vec![first],
            unnamed: 0,
            children,
            parents,
            cascade: if parents == 0 {
                0
            } else {
                draw.one_of(&[200, 1_000])
            },
            acquire_timeout: draw.nanos(renewal, 10.0 * renewal),
            entity_ttl: draw.nanos(renewal, calm_at as f64),
            latency: draw.nanos(1e6, (renewal / 12.0).min(60e6)),
            demand,
            recovery,
            recovery_at: calm_at.saturating_sub(lead),
            leases: Afterwards {
                adjusted: draw.permille(400, 100.0),
                released: draw.permille(400, 100.0),
                rolled_back: draw.permille(400, 100.0),
                open: 0,
                limit: 0,
            },
            faults: Faults::default(),
            changes: Vec::new(),
            calm_at,
            end,
        };
        scenario.faults = faults(&mut draw, &scenario);
        changes(&mut draw, &mut scenario, tokens_per_second, most_tokens);
        scenario.leases.open = draw.permille(500, 500.0);
        scenario
    }
}

impl Scenario {
    /// The same fleet with a quota as the second limit: some requests do not name it, and those that do turn
    /// out to cost much more or nothing.
    #[must_use]
    pub fn with_quotas(mut self) -> Self {
        let mut draw = Draw(fastrand::Rng::with_seed(self.seed ^ 0x0009_07a5));
        let per_second = self.demand.per_second / self.children as f64;
        let least_burst = *self.demand.tokens.end();
        for limits in &mut self.limits {
            let quota = quota(&mut draw, NAMES[1], per_second, least_burst);
            *limits = [limits[0].clone(), quota].into();
        }
        self.unnamed = draw.one_of(&[100, 500, 900]);
        self.leases = Afterwards {
            adjusted: draw.permille(0, 100.0),
            released: draw.permille(0, 100.0),
            rolled_back: draw.permille(0, 100.0),
            limit: 1,
            ..self.leases
        };
        self
    }
}

fn strict(draw: &mut Draw, processes: usize) -> Vec<u32> {
    let kind = draw.0.u32(..10);
    let of = |draw: &mut Draw| match kind {
        0 => 1_000,
        1 => draw.one_of(&[0, 1_000]),
        2 => draw.one_of(&[0, 20, 500]),
        _ => 0,
    };
    (0..processes).map(|_| of(draw)).collect()
}

fn limit(draw: &mut Draw, name: &str, per_second: f64, least_burst: u64) -> Limit {
    let period = draw.one_of(&PERIODS);
    let amount = ((per_second * period as f64).round() as u64).max(1);
    let burst = draw.log(amount as f64 / 10.0, amount as f64 * 20.0) as u64;
    let burst = burst.max(least_burst).max(1);
    let terms = Terms {
        capacity: amount.min(burst),
        burst,
        refill_amount: amount,
        refill_period_seconds: period,
    };
    Limit::new(name, terms).expect("a limit")
}

/// A quota that hardly refills during a run: what would be spent in so many seconds takes days or years
/// to fill.
fn quota(draw: &mut Draw, name: &str, per_second: f64, least_burst: u64) -> Limit {
    let burst = draw.log(per_second * 5.0, per_second * 500.0) as u64;
    let burst = burst.max(least_burst).max(1);
    let fills_in = draw.log(DAY as f64, 365.0 * DAY as f64);
    let period = draw.one_of(&LONG_PERIODS);
    let amount = ((burst as f64 / fills_in * period as f64).round() as u64).max(1);
    let terms = Terms {
        capacity: amount.min(burst),
        burst,
        refill_amount: amount,
        refill_period_seconds: period,
    };
    Limit::new(name, terms).expect("a limit")
}

fn limits(draw: &mut Draw, per_second: f64, least_burst: u64) -> Arc<[Limit]> {
    let several = draw.0.usize(1..=NAMES.len());
    let mut limits = Vec::new();
    for name in &NAMES[..several] {
        let per_second = per_second * draw.one_of(&[1.0, 1.0, 2.0]);
        limits.push(limit(draw, name, per_second, least_burst));
    }
    limits.into()
}

fn faults(draw: &mut Draw, scenario: &Scenario) -> Faults {
    if draw.chance(60) {
        return Faults {
            patience: scenario.renewal(),
            ..Faults::default()
        };
    }
    let (calm, processes) = (scenario.calm_at, scenario.processes);
    let (renewal, latency) = (scenario.renewal() as f64, scenario.latency as f64);
    let lease_ttl = scenario.options.lease_ttl_ms as f64 * 1e6;
    let windows = |draw: &mut Draw| -> Vec<(Nanos, Nanos)> {
        let windows = draw.one_of(&[0, 0, 1, 2]);
        let window = |_| {
            let from = draw.when(calm);
            (from, from + draw.nanos(renewal / 4.0, 3.0 * lease_ttl))
        };
        let until_calm = |(from, to): (Nanos, Nanos)| (from, to.min(calm));
        (0..windows).map(window).map(until_calm).collect()
    };
    let times = |draw: &mut Draw| {
        let times = draw.one_of(&[0, 0, 1, 3, 10]);
        let mut times: Vec<_> = (0..times)
            .map(|_| (draw.when(calm), draw.0.usize(..processes)))
            .collect();
        times.sort_unstable();
        times
    };
    let crashes = times(draw);
    let freezes = times(draw).into_iter();
    let freezes =
        freezes.map(|(at, process)| (at, process, draw.nanos(renewal / 2.0, 3.0 * lease_ttl)));
    let freezes = freezes.collect();
    Faults {
        lost_writes: draw.permille(500, 300.0),
        lost_replies: draw.permille(500, 300.0),
        late_writes: draw.permille(500, 300.0),
        delayed: draw.permille(500, 300.0),
        delay: draw.nanos(renewal / 4.0, 2.0 * lease_ttl),
        throttled: draw.permille(500, 500.0),
        patience: draw.nanos(latency * 3.0, lease_ttl),
        unreachable: windows(draw),
        denied: windows(draw),
        crashes,
        freezes,
        clocks: clocks(draw, scenario, times),
    }
}

fn clocks(
    draw: &mut Draw,
    scenario: &Scenario,
    times: impl Fn(&mut Draw) -> Vec<(Nanos, usize)>,
) -> Vec<(Nanos, usize, i64)> {
    let lease_ttl = scenario.options.lease_ttl_ms as f64 * 1e6;
    let furthest = draw.one_of(&[0.0, 0.0, 0.02, 0.2, 0.8, 3.0]) * lease_ttl;
    if furthest == 0.0 {
        return Vec::new();
    }
    let offset = |draw: &mut Draw| ((draw.0.f64() * 2.0 - 1.0) * furthest) as i64;
    let processes = 0..scenario.processes;
    let mut clocks: Vec<_> = processes
        .clone()
        .map(|process| (0, process, offset(draw)))
        .collect();
    for (at, process) in times(draw) {
        clocks.push((at, process, offset(draw)));
    }
    // In the end all clocks are right again.
    clocks.extend(processes.map(|process| (scenario.calm_at, process, 0)));
    clocks.sort_unstable();
    clocks
}

fn changes(draw: &mut Draw, scenario: &mut Scenario, per_second: f64, least_burst: u64) {
    let calm = scenario.calm_at;
    let mut changes = Vec::new();
    for child in 0..scenario.children.min(64) {
        if scenario.parents > 0 && !draw.chance(200) {
            let parent = scenario.children + draw.0.usize(..scenario.parents);
            // Some are there from the beginning, the others are set late.
            let at = if draw.chance(700) { 0 } else { draw.when(calm) };
            changes.push((at, Change::Parent(child, Some(parent))));
        }
    }
    for _ in 0..draw.one_of(&[0, 0, 1, 3]) {
        let version = scenario.limits.len();
        let per_second = per_second * draw.one_of(&[0.1, 0.5, 1.0, 2.0, 10.0]);
        scenario.limits.push(limits(draw, per_second, least_burst));
        // One process after the other learns of it.
        let at = draw.when(calm);
        let takes = draw.nanos(1.0, calm as f64 / 4.0);
        for process in 0..scenario.processes {
            let at = (at + draw.0.u64(..=takes)).min(calm);
            changes.push((at, Change::Limits(process, version)));
        }
    }
    // In the end all have learnt of the last.
    let last = scenario.limits.len() - 1;
    changes.extend((0..scenario.processes).map(|process| (calm, Change::Limits(process, last))));
    for _ in 0..draw.one_of(&[0, 0, 0, 1, 3]) {
        let bucket = draw.0.usize(..scenario.buckets());
        changes.push((draw.when(calm), Change::DeleteBucket(bucket)));
    }
    for _ in 0..draw.one_of(&[0, 0, 0, 1, 3]) {
        let bucket = draw.0.usize(..scenario.buckets());
        let limit = draw.0.usize(..NAMES.len());
        changes.push((draw.when(calm), Change::DeleteLimit(bucket, limit)));
    }
    if scenario.parents > 0 {
        for _ in 0..draw.one_of(&[0, 0, 2, 5]) {
            let child = draw.0.usize(..scenario.children);
            let parent = scenario.children + draw.0.usize(..scenario.parents);
            let parent = draw.chance(800).then_some(parent);
            changes.push((draw.when(calm), Change::Parent(child, parent)));
        }
    }
    changes.sort_by_key(|&(at, _)| at);
    scenario.changes = changes;
}
