//! Many runs, spread over threads.

use std::ops::Range;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use zae_limiter_core::sabotage::Sabotage;

use super::{REQUESTS, Report, Scenario, Violation};

/// What makes the scenario of a seed.
pub type Draw<'a> = dyn Fn(u64) -> Scenario + Sync + 'a;

/// Plays the scenarios of all `seeds`, a few at a time, and hands each with its report to `see`.
/// Stops when that says so.
///
/// # Panics
/// If `see` has panicked.
pub fn play(
    seeds: Range<u64>,
    threads: usize,
    draw: &Draw<'_>,
    see: &mut (dyn FnMut(&Scenario, Report) -> bool + Send),
) {
    let next = AtomicU64::new(seeds.start);
    let see = Mutex::new(see);
    let over = AtomicU64::new(seeds.end);
    thread::scope(|scope| {
        for _ in 0..threads.max(1) {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= over.load(Ordering::Relaxed) {
                        break;
                    }
                    let scenario = draw(seed);
                    let report = scenario.run();
                    let mut see = see.lock().expect("nobody has panicked");
                    if !see(&scenario, report) {
                        over.store(0, Ordering::Relaxed);
                    }
                }
            });
        }
    });
}

/// Plants a bug and plays random scenarios until one shows it: after how many, and what it was.
#[must_use]
pub fn find(sabotage: Sabotage, seeds_max: u64) -> Option<(u64, Violation)> {
    let _planted = sabotage.plant();
    (0..seeds_max).find_map(|seed| {
        let report = Scenario::random(seed, REQUESTS).run();
        Some((seed + 1, report.violation?))
    })
}

/// The command that plays a seed again and prints all that happens.
#[must_use]
pub fn replay(scenario: &Scenario) -> String {
    let (seed, requests) = (scenario.seed, scenario.requests);
    format!(
        "cargo run --release -p zae-limiter-tests --bin simulate -- --seed {seed} --requests \
         {requests} --trace"
    )
}
