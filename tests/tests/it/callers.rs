//! Sequences of calls of the public surface on DynamoDB, in simulated time, against the same model as in memory.

use zae_limiter::store::MemoryStore;
use zae_limiter_core::sabotage::Sabotage;
use zae_limiter_tests::callers::{self, Batch, DynamoDbTable, Sequence};
use zae_limiter_tests::endpoint;

/// In leased mode, in strict mode, and in both on one bucket.
#[test]
fn sequences_of_calls_keep_all_promises_on_dynamodb_and_end_as_in_memory() {
    let endpoint = endpoint();
    let batch = Batch {
        seeds: 0..200,
        threads: 2,
        failures_max: 3,
    };
    let failures = batch.play(
        || Box::new(DynamoDbTable::create(&endpoint)),
        |seed, table| {
            let play = |table| callers::play(seed, table).map_err(|failure| failure.to_string());
            let (outcome, in_memory) = (play(table)?, play(&MemoryStore::new())?);
            if outcome != in_memory {
                return Err(format!(
                    "seed {seed} ends with {outcome:?}, in memory with {in_memory:?}"
                ));
            }
            Ok(())
        },
    );
    assert!(failures.is_empty(), "\n{}", failures.join("\n"));
}

#[test]
fn planted_bugs_are_found_on_dynamodb() {
    let table = DynamoDbTable::create(&endpoint());
    for sabotage in [Sabotage::DebtRefunded, Sabotage::CancelledCreditRepeated] {
        let _planted = sabotage.plant();
        let broken = |seed: &u64| callers::run(&Sequence::random(*seed), &table).is_err();
        let found = (0..200).find(broken);
        println!("{sabotage:?}: found by the sequence of seed {found:?}");
        assert!(found.is_some(), "{sabotage:?} was not found");
    }
}
