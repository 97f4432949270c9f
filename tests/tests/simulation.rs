//! Everything that can go wrong does, in simulated time, and every promise is kept. Needs no
//! endpoint.

use std::fmt::Write;
use std::thread;

use zae_limiter_core::sabotage::Sabotage;
use zae_limiter_tests::policies;
use zae_limiter_tests::simulation::{self, Change, Fault, Faults, REQUESTS, Report, Scenario};

const THREADS: usize = 2;

#[test]
fn five_hundred_fleets_keep_every_promise() {
    const SEEDS: u64 = 600;
    let mut all = Report::default();
    let mut broken = String::new();
    let draw = |seed| Scenario::random(seed, REQUESTS);
    simulation::play(0..SEEDS, THREADS, &draw, &mut |scenario, report| {
        all.add(&report);
        if let Some(violation) = &report.violation {
            let replay = simulation::replay(scenario);
            let _ = writeln!(broken, "seed {}: {violation}\n  {replay}", scenario.seed);
        }
        true
    });
    println!(
        "{SEEDS} seeds, {} acquires, {} writes, {} futile",
        all.acquires, all.writes, all.futile
    );
    for fault in Fault::ALL {
        let times = all.faults[fault as usize];
        println!("{fault:?}: {times}");
        assert!(times > 0, "{fault:?} never happened");
    }
    assert!(broken.is_empty(), "\n{broken}");
    assert!(all.futile * 10_000 <= all.writes, "{} futile", all.futile);
}

/// Of two limits one takes days to years to fill: the table must not forget the bucket before.
#[test]
fn fleets_with_quotas_keep_every_promise() {
    const SEEDS: u64 = 200;
    let mut broken = String::new();
    let draw = |seed| Scenario::random(seed, REQUESTS / 4).with_quotas();
    simulation::play(0..SEEDS, THREADS, &draw, &mut |scenario, report| {
        if let Some(violation) = &report.violation {
            let replay = simulation::replay(scenario);
            let _ = writeln!(broken, "seed {}: {violation}\n  {replay}", scenario.seed);
        }
        true
    });
    assert!(broken.is_empty(), "\n{broken}");
}

/// Whatever the policy asks for, the bound, conservation and expiry hold.
#[test]
fn no_policy_breaks_a_promise() {
    const SEEDS: u64 = 80;
    for (name, policy) in policies::ALL {
        let mut broken = String::new();
        let (mut acquires, mut admitted) = (0, 0);
        let draw = |seed| {
            // Policies that never rest write again and again; an empty quota keeps callers asking.
            if seed % 16 == 0 {
                let scenario = Scenario::random(seed, REQUESTS / 64).under(policy);
                scenario.with_quotas()
            } else {
                Scenario::random(seed, REQUESTS / 16).under(policy)
            }
        };
        simulation::play(0..SEEDS, THREADS, &draw, &mut |scenario, report| {
            acquires += report.acquires;
            admitted += report.admitted;
            if let Some(violation) = &report.violation {
                let _ = writeln!(broken, "{name}, seed {}: {violation}", scenario.seed);
            }
            true
        });
        println!("{name}: {SEEDS} seeds, {admitted} of {acquires} acquires admitted");
        assert!(broken.is_empty(), "\n{broken}");
    }
}

/// Found in long runs, and mended since. Most were found when the load changed as the faults ended.
#[test]
fn fleets_that_once_broke_a_promise_keep_it() {
    const SEEDS: [u64; 28] = [
        2025, 2155, 2926, 6175, 6185, 7036, 7133, 8152, 14_835, 17_309, 18_495, 21_902, 25_972,
        27_642, 40_332, 42_131, 48_189, 58_426, 60_624, 61_376, 68_085, 69_845, 87_264, 88_550,
        118_075, 131_308, 135_002, 141_796,
    ];
    for seed in SEEDS {
        let scenario = Scenario::random(seed, REQUESTS);
        let changing = Scenario {
            recovery_at: scenario.calm_at,
            ..scenario.clone()
        };
        for scenario in [scenario, changing] {
            assert_eq!(scenario.run().violation, None, "seed {seed}");
        }
    }
}

#[test]
fn one_seed_is_one_history() {
    for seed in 0..40 {
        let run = || Scenario::random(seed, REQUESTS / 4).run();
        let report = run();
        assert_eq!(report, run(), "seed {seed}");
        assert_ne!(
            report.trace,
            Scenario::random(seed + 1, REQUESTS / 4).run().trace
        );
    }
}

#[test]
fn every_planted_bug_is_found() {
    const SEEDS: u64 = 1_000;
    let find = |sabotage: Sabotage| {
        let _planted = sabotage.plant();
        (0..SEEDS).find_map(|seed| {
            let scenario = Scenario::random(seed, REQUESTS);
            let scenario = match sabotage {
                Sabotage::DebtRefunded | Sabotage::PayerOverwritten | Sabotage::KeptForOneWrite => {
                    scenario.with_quotas()
                }
                _ => scenario,
            };
            let violation = scenario.run().violation;
            violation.map(|violation| (seed + 1, violation))
        })
    };
    thread::scope(|scope| {
        let searches =
            Sabotage::IN_CORE.map(|sabotage| (sabotage, scope.spawn(move || find(sabotage))));
        for (sabotage, search) in searches {
            let found = search.join().expect("a search should end");
            let Some((seeds, violation)) = found else {
                panic!("{sabotage:?} was not found in {SEEDS} seeds");
            };
            println!("{sabotage:?}: found after {seeds} seeds, {violation}");
        }
    });
}

/// After outages, crashes and freezes alone: no debts, no changes of limits, right clocks.
fn plain(seed: u64) -> Scenario {
    let mut scenario = Scenario::random(seed, REQUESTS);
    scenario.leases.adjusted = 0;
    scenario.faults.clocks.clear();
    scenario.limits.truncate(1);
    scenario.strict.fill(0);
    let parent = |change: &Change| matches!(change, Change::Parent(..));
    scenario
        .changes
        .retain(|(at, change)| *at == 0 && parent(change));
    scenario
}

/// The same, and what is asked for changes in the moment in which the last fault ends.
fn changing(seed: u64) -> Scenario {
    let scenario = plain(seed);
    Scenario {
        recovery_at: scenario.calm_at,
        ..scenario
    }
}

/// Not a fault.
fn quiet(seed: u64) -> Scenario {
    let scenario = plain(seed);
    Scenario {
        faults: Faults {
            patience: scenario.faults.patience,
            ..Faults::default()
        },
        ..scenario
    }
}

/// Each was slow, or left somebody with nothing, for a reason that was found and mended.
#[test]
fn fleets_that_once_were_slow_recover() {
    let all = |seed| Scenario::random(seed, REQUESTS);
    let fleets = [1611, 2100, 2183, 2660, 3380, 3775, 4928, 14_599].map(plain);
    for scenario in fleets.into_iter().chain(
        [
            58, 318, 349, 1574, 2660, 3864, 3957, 5373, 7440, 16_655, 19_029, 19_893, 33_931,
            41_387, 69_977,
        ]
        .map(all),
    ) {
        let recovery = scenario.run().recovery.expect("it is measured");
        assert!(recovery.is_well(), "seed {}: {recovery:?}", scenario.seed);
    }
}

/// A process made its debts when it had stood still, after all else; another one knew of a changed parent
/// only when it had forgotten the one before.
#[test]
fn a_fleet_is_measured_when_its_last_fault_is_over() {
    for seed in [61_463, 19_908] {
        let report = Scenario::random(seed, REQUESTS).run();
        let recovery = report.recovery.expect("a fleet that is measured");
        assert!(
            recovery.is_well() && recovery.measured == 1,
            "seed {seed}: {recovery:?}"
        );
    }
}

#[test]
fn fleets_recover_within_two_renewal_periods() {
    let all = |seed| Scenario::random(seed, REQUESTS);
    let assert_recovery = |what, draw: &(dyn Fn(u64) -> Scenario + Sync), slow_max: f64| {
        let (mut admitted, mut allowed, mut measured) = (0, 0, 0);
        let mut slow = Vec::new();
        simulation::play(0..600, THREADS, draw, &mut |scenario, report| {
            if let Some(recovery) = report.recovery {
                measured += 1;
                admitted += recovery.admitted;
                allowed += recovery.allowed;
                if !recovery.is_well() {
                    let share = recovery.admitted_of_allowed();
                    slow.push((scenario.seed, share, recovery.fairness));
                }
            }
            true
        });
        slow.sort_by_key(|(seed, ..)| *seed);
        println!("{what}: {measured} measured, {admitted} of {allowed}, slow: {slow:.2?}");
        assert!(measured > 200);
        assert!(admitted as f64 >= 0.97 * allowed as f64);
        assert!(
            slow.len() as f64 <= slow_max * f64::from(measured),
            "{what}"
        );
    };
    assert_recovery("outages, crashes and freezes", &plain, 0.0);
    assert_recovery("all faults and changes", &all, 0.0);
    assert_recovery("no faults", &quiet, 0.0);
    assert_recovery("a change of load", &changing, 0.005);
}

/// Every second process in strict mode, under whatever load.
#[test]
fn strict_processes_do_not_starve_beside_those_that_lease() {
    let mixed = |seed| {
        let mut scenario = plain(seed);
        scenario.faults = Faults {
            patience: scenario.faults.patience,
            ..Faults::default()
        };
        scenario.demand = scenario.recovery.clone();
        let strict = |(process, strict): (usize, &mut u32)| *strict = 1_000 * (process as u32 % 2);
        scenario.strict.iter_mut().enumerate().for_each(strict);
        scenario
    };
    let (mut measured, mut unfair) = (0, Vec::new());
    simulation::play(0..600, THREADS, &mixed, &mut |scenario, report| {
        if let Some(recovery) = report.recovery {
            measured += 1;
            assert!(recovery.fairness >= 0.75, "seed {}", scenario.seed);
            if recovery.fairness < 0.9 {
                unfair.push((scenario.seed, recovery.fairness));
            }
        }
        true
    });
    println!("{measured} measured, unfair: {unfair:.2?}");
    assert!(measured > 200);
    assert!(unfair.len() * 100 <= measured, "{unfair:.2?}");
}
