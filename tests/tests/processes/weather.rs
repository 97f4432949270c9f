//! Processes that reach their table through bad weather.

use zae_limiter_tests::fresh_table;
use zae_limiter_tests::storm::Storm;

use crate::program;

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
    // How soon depends on the machine too; alone on two cores it is 4 to 8 s until the reserves
    // have evened out, and about 0.5 s of the refill are not used.
    assert!(outcome.recovered_after_ms.is_some(), "{outcome:?}");
    assert_eq!(outcome.unreturned, 0, "{outcome:?}");
}
