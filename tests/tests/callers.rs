//! Sequences of calls of the public surface against a model of what is promised, in simulated time. Needs no
//! endpoint; `it` plays some of them on DynamoDB.

use zae_limiter::store::MemoryStore;
use zae_limiter_core::sabotage::Sabotage;
use zae_limiter_tests::callers::{self, Batch, Sequence};

#[test]
fn no_sequence_of_calls_breaks_a_promise() {
    let batch = Batch {
        seeds: 0..10_000,
        threads: 2,
        failures_max: 3,
    };
    let failures = batch.play(
        || Box::new(MemoryStore::new()),
        |seed, table| {
            let played = callers::play(seed, table);
            played.map(drop).map_err(|failure| failure.to_string())
        },
    );
    assert!(failures.is_empty(), "\n{}", failures.join("\n"));
}

#[test]
fn planted_bugs_are_found_within_1_000_sequences() {
    for sabotage in [
        Sabotage::DebtRefunded,
        Sabotage::PayerOverwritten,
        Sabotage::CancelledCreditRepeated,
        Sabotage::ExpiredSpent,
    ] {
        let _planted = sabotage.plant();
        let broken = |seed: &u64| {
            let sequence = Sequence::random(*seed);
            callers::run(&sequence, &MemoryStore::new()).is_err()
        };
        let found = (0..1_000).find(broken);
        println!("{sabotage:?}: found by the sequence of seed {found:?}");
        assert!(found.is_some(), "{sabotage:?} was not found");
    }
}
