//! Real processes on a real table: killed, stopped, and cut off from it.

use std::path::Path;

use zae_limiter_tests::fresh_table;
use zae_limiter_tests::rounds::{Rounds, Summary};
use zae_limiter_tests::storm::Storm;

fn program() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_worker"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_process_loses_no_more_than_it_held() {
    let table = fresh_table("processes").await;
    let rounds = Rounds::default().play(&table, program()).await;
    let summary = Summary::of(&rounds);
    for round in &rounds {
        println!("{round:?}");
    }
    println!("{summary:?}");
    let wrong: Vec<_> = rounds.iter().filter(|round| !round.is_right()).collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert_eq!(summary.rounds, 20);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_bound_holds_in_any_weather_and_the_crew_recovers() {
    let table = fresh_table("processes").await;
    let outcome = Storm::default().play(&table, program()).await;
    println!("{outcome:?}");
    assert!(outcome.bound_holds, "{outcome:?}");
    // It was a storm.
    assert!(outcome.swallowed >= 5 && outcome.reset >= 5, "{outcome:?}");
    assert!(outcome.unavailable > 0, "{outcome:?}");
    let least = outcome.shares.iter().copied().fold(1.0, f64::min);
    assert!(least < 0.5, "{outcome:?}");
    // The longest pause of a process that found its table away is 4 s; then 97 of 100 again. A
    // full bucket and 16 s of refill would be 17 s.
    assert!(outcome.forgone_ms <= 4_500, "{outcome:?}");
    assert!(outcome.share_at_last >= 0.9, "{outcome:?}");
    assert_eq!(outcome.unreturned, 0, "{outcome:?}");
}
