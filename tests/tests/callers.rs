//! Callers who do whatever the public surface lets them do, in simulated time, against a small model of what
//! is promised. Needs no endpoint.

use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use zae_limiter::store::MemoryStore;
use zae_limiter_core::sabotage::Sabotage;
use zae_limiter_tests::callers;

const THREADS: usize = 2;

/// Plays the sequences of all seeds; the first failures.
fn play(seeds: u64) -> Vec<String> {
    let next = AtomicU64::new(0);
    let (next, mut failures) = (&next, Vec::new());
    thread::scope(|scope| {
        let play = || {
            let mut failures = Vec::new();
            loop {
                let seed = next.fetch_add(1, Ordering::Relaxed);
                if seed >= seeds || failures.len() > 2 {
                    return failures;
                }
                failures.extend(
                    callers::play(seed, &MemoryStore::new())
                        .err()
                        .map(|failure| failure.to_string()),
                );
            }
        };
        let threads: Vec<_> = (0..THREADS).map(|_| scope.spawn(play)).collect();
        for thread in threads {
            failures.extend(thread.join().expect("it plays"));
        }
    });
    failures
}

#[test]
fn no_caller_breaks_a_promise() {
    let failures = play(10_000);
    assert!(failures.is_empty(), "\n{}", failures.join("\n"));
}

#[test]
fn bugs_in_what_is_given_back_are_found() {
    for sabotage in [Sabotage::DebtRefunded, Sabotage::PayerOverwritten] {
        let _planted = sabotage.plant();
        let found = (0..1_000).find(|seed| callers::play(*seed, &MemoryStore::new()).is_err());
        println!("{sabotage:?}: found after {found:?} sequences");
        assert!(
            found.is_some(),
            "{sabotage:?} was not found in 1,000 sequences"
        );
    }
}
