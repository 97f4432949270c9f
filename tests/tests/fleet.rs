//! What a fleet of limiters achieves on one table, in simulated time. Needs no endpoint.

use std::cell::Cell;
use std::time::Duration;

use zae_limiter::Limit;
use zae_limiter_tests::fleet::{Arrivals, Fleet, Report, Shape};

fn per_second(rate: u64, burst: u64) -> Limit {
    let limit = Limit::custom("rps", rate.min(burst), rate, Duration::from_secs(1));
    limit.and_then(|limit| limit.burst(burst)).expect("a limit")
}

/// Eight processes on 1,000 per second.
fn eight(load: f64) -> Fleet {
    Fleet::new(8, per_second(1_000, 1_000), load)
}

fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// Plays `fleet` with a few seeds. Whatever it is about, the bound holds, the table knows all
/// that was consumed, and no token has come from nowhere.
fn play(fleet: &Fleet, seeds: u64, check: impl Fn(&Report)) {
    for seed in 0..seeds {
        let report = fleet.run(seed);
        let of = |what: &str| format!("{what}; seed {seed} of {fleet:?}");
        assert!(report.requests > 0, "{}", of("nothing was asked for"));
        assert!(report.bound_holds(), "{}", of("the bound is broken"));
        for key in &report.keys {
            assert_eq!(
                i128::from(key.consumed),
                i128::from(key.admitted),
                "{}",
                of("consumption")
            );
            // A bucket that lends does not overflow as early as one that does not.
            let terms = fleet.limit.terms();
            let lent = terms.tokens_in(Duration::from_millis(fleet.options.lease_ttl_ms));
            let most = key.level_of_admitted + i128::from(lent);
            assert!(key.level <= most, "{}: {key:?}", of("tokens from nowhere"));
        }
        println!(
            "seed {seed}: admitted {:.4}, writes {:.0} of 1M ({}, {} refused), fairness {:.4}, \
             at once {:.5}, bound {:.3}, longest wait {:?}",
            report.admitted_of_allowed(),
            report.writes_per_million(),
            report.writes_open,
            report.writes_refused,
            report.fairness(),
            report.at_once(),
            report.bound_used(),
            report.longest_wait,
        );
        check(&report);
    }
}

fn assert_row(load: f64, writes_max: f64, seeds: u64) {
    let fairness = Cell::new(0.0);
    play(&eight(load), seeds, |report| {
        assert!(report.admitted_of_allowed() >= 0.99);
        assert!(report.writes_per_million() <= writes_max);
        // Who starts with the burst keeps it; over 30 s that still shows.
        assert!(report.fairness() >= 0.95);
        fairness.set(fairness.get() + report.fairness() / seeds as f64);
    });
    assert!(
        fairness.get() >= 0.97,
        "fairness is {} on average",
        fairness.get()
    );
}

#[test]
fn at_half_the_limit() {
    assert_row(0.5, 16_000.0, 10);
}

#[test]
fn just_below_the_limit() {
    assert_row(0.95, 8_400.0, 10);
}

#[test]
fn just_above_the_limit() {
    assert_row(1.2, 6_700.0, 10);
}

#[test]
fn at_four_times_the_limit() {
    assert_row(4.0, 2_000.0, 6);
}

#[test]
fn at_twenty_times_the_limit() {
    assert_row(20.0, 400.0, 5);
}

fn assert_shifting_row(load: f64, writes_max: f64) {
    let fleet = Fleet {
        shape: Shape::Shifting,
        ..eight(load)
    };
    const SEEDS: u64 = 10;
    let writes = Cell::new(0.0);
    play(&fleet, SEEDS, |report| {
        assert!(report.admitted_of_allowed() >= 0.97);
        assert!(report.writes_per_million() <= 1.06 * writes_max);
        writes.set(writes.get() + report.writes_per_million() / SEEDS as f64);
    });
    assert!(writes.get() <= writes_max, "{} on average", writes.get());
}

#[test]
fn below_the_limit_with_a_hot_process_that_changes() {
    assert_shifting_row(0.95, 8_500.0);
}

#[test]
fn above_the_limit_with_a_hot_process_that_changes() {
    assert_shifting_row(1.2, 6_700.0);
}

#[test]
fn steady_demand_below_the_limit_hardly_ever_waits() {
    for load in [0.5, 0.9] {
        let fleet = Fleet {
            duration: secs(120),
            ..eight(load)
        };
        play(&fleet, 3, |report| {
            assert!(report.at_once() >= 0.999);
            assert_eq!(report.admitted, report.demanded);
        });
    }
}

#[test]
fn fifty_processes_at_twenty_times_the_limit() {
    let fleet = Fleet::new(50, per_second(1_000, 1_000), 20.0);
    play(&fleet, 2, |report| {
        assert!(report.admitted_of_allowed() >= 0.98);
        assert!(
            report.writes_open <= 50 * 30,
            "{} writes",
            report.writes_open
        );
    });
}

#[test]
fn a_slow_limit_is_used_up_and_no_more() {
    let fleet = Fleet {
        demand: 10.0,
        duration: secs(3_600),
        ..Fleet::new(4, Limit::per_hour("rph", 10).expect("a limit"), 1.0)
    };
    play(&fleet, 3, |report| {
        assert!(report.admitted_of_allowed() >= 0.97);
        // The table is asked once in a lease_ttl and process: somebody may have given back.
        assert!(
            report.writes_open <= 4 * 3_600 / 5 * 3 / 2,
            "{} writes",
            report.writes_open
        );
    });
}

#[test]
fn a_burst_far_larger_than_what_flows_in_during_a_lease() {
    let fleet = Fleet {
        demand: 2_000.0,
        ..Fleet::new(8, per_second(10, 10_000), 1.0)
    };
    play(&fleet, 5, |report| {
        assert!(report.admitted_of_allowed() >= 0.97)
    });
}

#[test]
fn a_burst_far_smaller_than_what_flows_in_during_a_period() {
    // Refill that others took as it came in has not overflowed, however small the bucket.
    for load in [0.5, 1.2, 4.0] {
        let fleet = Fleet::new(8, per_second(1_000, 10), load);
        play(&fleet, 3, |report| {
            assert!(report.admitted_of_allowed() >= 0.98)
        });
    }
}

#[test]
fn a_share_of_little_more_than_a_token_per_period() {
    // Rounded down each time, such a share would leave a fifth of the refill unused.
    for load in [4.0, 20.0] {
        let fleet = Fleet {
            duration: secs(120),
            ..Fleet::new(8, per_second(10, 10), load)
        };
        play(&fleet, 3, |report| {
            assert!(report.admitted_of_allowed() >= 0.95)
        });
    }
}

#[test]
fn many_processes_with_uneven_arrivals_just_below_the_limit() {
    let fleet = Fleet {
        arrivals: Arrivals::Poisson,
        ..Fleet::new(64, per_second(1_000, 1_000), 0.95)
    };
    play(&fleet, 3, |report| {
        assert!(report.admitted_of_allowed() >= 0.98)
    });
}

#[test]
fn a_fleet_of_one() {
    for load in [0.9, 2.0] {
        let fleet = Fleet::new(1, per_second(1_000, 1_000), load);
        play(&fleet, 3, |report| {
            assert!(report.admitted_of_allowed() >= 0.99);
            assert!(
                report.writes_open <= 2 * 30 + 10,
                "{} writes",
                report.writes_open
            );
        });
    }
}

#[test]
fn thousands_of_keys_each_used_once() {
    let fleet = Fleet {
        keys: 3_000,
        demand: 600.0,
        duration: secs(5),
        silence: secs(10),
        ..eight(1.0)
    };
    play(&fleet, 2, |report| {
        assert_eq!(report.admitted, report.demanded);
        let writes = report.writes as f64 / report.keys.len() as f64;
        println!("{writes} writes per key");
        assert!(writes <= 2.0, "{writes} writes per key");
    });
}

#[test]
fn one_seed_is_one_history() {
    let fleet = Fleet {
        arrivals: Arrivals::Poisson,
        shape: Shape::Shifting,
        keys: 5,
        unanswered_writes: 20,
        crash_every: Some(secs(3)),
        duration: secs(12),
        ..eight(1.1)
    };
    let report = fleet.run(42);
    assert_eq!(report, fleet.run(42));
    assert_ne!(report.history, fleet.run(43).history);
}

#[test]
fn all_is_given_back_to_the_token() {
    // Above the rate, so that the bucket is never full again once the first tokens are taken; and
    // the first request of all takes more than flows in until the next one's write.
    for (rate, load, tokens) in [(10, 20.0, 1..=1), (100, 1.0, 5..=9), (100, 0.3, 20..=60)] {
        let fleet = Fleet {
            tokens,
            arrivals: Arrivals::Poisson,
            duration: secs(20),
            ..Fleet::new(8, per_second(rate, 1_000), load)
        };
        play(&fleet, 5, |report| {
            let key = &report.keys[0];
            assert!(!key.overflowed);
            assert_eq!(key.level, key.level_of_admitted);
        });
    }
}

#[test]
fn demand_that_stops_dead_leaves_nothing_stranded() {
    for silence in [secs(0), Duration::from_millis(300), secs(3), secs(60)] {
        // A burst that takes minutes to fill: it is not full again when the fleet closes.
        let fleet = Fleet {
            silence,
            duration: secs(10),
            demand: 1_500.0,
            ..Fleet::new(8, per_second(100, 100_000), 1.0)
        };
        play(&fleet, 2, |report| {
            let key = &report.keys[0];
            assert!(!key.overflowed);
            assert_eq!(key.level, key.level_of_admitted);
        });
    }
}

#[test]
fn lost_answers_and_crashes_do_not_break_the_bound() {
    for load in [0.9, 3.0] {
        for (rate, burst) in [(1_000, 1_000), (10, 10_000), (1_000, 10)] {
            let fleet = Fleet {
                unanswered_writes: 100,
                crash_every: Some(Duration::from_millis(700)),
                demand: load * 1_000.0,
                duration: secs(20),
                ..Fleet::new(8, per_second(rate, burst), 1.0)
            };
            for seed in 0..3 {
                let report = fleet.run(seed);
                assert!(report.bound_holds(), "seed {seed} of {fleet:?}");
            }
        }
    }
}
