//! One of several processes is killed (SIGKILL), the others are told to end (SIGTERM).

use zae_limiter_tests::fresh_table;
use zae_limiter_tests::rounds::{Rounds, Summary};

use crate::program;

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
    // Who is killed has something to lose.
    assert!(summary.held >= 20 * 20, "{summary:?}");
    // The table is well all the time, and contention is no outage.
    assert_eq!(summary.unavailable, 0, "{summary:?}");
}
