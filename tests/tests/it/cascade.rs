//! Cascade on a real table, in both modes: nothing is admitted unless child and parent have it.

use std::time::Duration;

use futures::future::join_all;
use zae_limiter::store::{Fault, FaultyStore, MemoryStore, Store};
use zae_limiter::{ErrorKind, LeasedOptions, Limit, Mode, NewEntity, RateLimiter, Settings};
use zae_limiter_tests::{consumed, fresh_table, level};

async fn exactly_the_parents_burst_and_no_child_loses_a_token(
    store: impl Store + 'static,
    table: &impl Store,
    mode: Mode,
) {
    let settings = Settings {
        acquire_timeout_ms: 60_000,
        mode,
        ..Settings::default()
    };
    let limiter = RateLimiter::builder("cascade").store(store);
    let limiter = limiter.settings(settings).connect().await.expect("a table");
    let limits = [Limit::custom("jobs", 100, 1, Duration::from_secs(86_400)).expect("a limit")];
    let create = |entity| limiter.create_entity(entity);
    create(NewEntity::new("parent")).await.expect("new");
    let children: Vec<String> = (0..50).map(|i| format!("child-{i}")).collect();
    let new = children
        .iter()
        .map(|id| create(NewEntity::new(id).parent("parent")));
    assert!(join_all(new).await.iter().all(Result::is_ok));

    let acquire = |i: usize| {
        let acquire = limiter.acquire(&children[i % 50], "api").limits(&limits);
        acquire.consume("jobs", 1).cascade(true).into_future()
    };
    let answers = join_all((0..400).map(acquire)).await;
    for refused in answers.iter().flat_map(|answer| answer.as_ref().err()) {
        assert_eq!(refused.kind(), ErrorKind::RateLimitExceeded, "{refused}");
    }
    let admitted = |child: usize| answers.iter().skip(child).step_by(50).filter(|a| a.is_ok());
    assert_eq!(
        (0..50).map(|child| admitted(child).count()).sum::<usize>(),
        100
    );
    limiter.shutdown(Duration::from_secs(20)).await; // gives back what leased mode holds
    assert_eq!(level(table, "parent", "api", &limits[0]).await, 0);
    for (i, child) in children.iter().enumerate() {
        let spent = i64::try_from(admitted(i).count()).expect("small");
        assert_eq!(
            level(table, child, "api", &limits[0]).await,
            100 - spent,
            "{child}"
        );
        assert_eq!(
            consumed(table, child, "api", "jobs").await,
            spent,
            "{child}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn strict() {
    let table = fresh_table("cascade").await;
    exactly_the_parents_burst_and_no_child_loses_a_token(
        table.store(),
        &table.store(),
        Mode::Strict,
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn leased() {
    let table = fresh_table("cascade").await;
    exactly_the_parents_burst_and_no_child_loses_a_token(
        table.store(),
        &table.store(),
        Mode::leased(),
    )
    .await;
}

/// Tokens that are on their way back to the table, or in a block that has just expired, are no
/// reason to say no.
#[tokio::test(flavor = "multi_thread")]
async fn leased_where_answers_take_as_long_as_a_block_lives() {
    let options = LeasedOptions {
        renewal_interval_ms: 100,
        lease_ttl_ms: 500,
    };
    for longest in [70, 470, 620, 870] {
        let store = FaultyStore::new(MemoryStore::new());
        let delay = || Duration::from_millis(fastrand::u64(0..longest));
        store.plan((0..10_000).map(|_| Some(Fault::Delay(delay()))));
        let table = store.clone();
        let mode = Mode::Leased(options);
        exactly_the_parents_burst_and_no_child_loses_a_token(store, table.inner(), mode).await;
    }
}
