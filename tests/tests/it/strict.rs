//! Strict mode on a real table: exact, whatever the concurrency, for one write an acquire.

use std::time::Duration;

use futures::future::join_all;
use zae_limiter::store::{DynamoDbStore, FaultyStore};
use zae_limiter::{ErrorKind, Limit, Mode, RateLimiter, Settings};
use zae_limiter_tests::{consumed, fresh_table, level};

async fn strict(store: FaultyStore<DynamoDbStore>) -> RateLimiter {
    let settings = Settings {
        acquire_timeout_ms: 60_000,
        ..Settings::default()
    };
    let builder = RateLimiter::builder("strict")
        .store(store)
        .settings(settings);
    builder.mode(Mode::Strict).connect().await.expect("a table")
}

fn per_hour(name: &str, burst: u64) -> Limit {
    Limit::custom(name, burst, 1, Duration::from_secs(3_600)).expect("a limit")
}

/// B1 of the Python library, which admits all 64.
#[tokio::test(flavor = "multi_thread")]
async fn of_64_concurrent_acquires_exactly_the_burst_is_admitted() {
    let table = fresh_table("strict").await;
    let store = FaultyStore::new(table.store());
    let limiters = [strict(store.clone()).await, strict(store.clone()).await];
    let limits = [per_hour("jobs", 10)];
    for round in 0..20 {
        let entity = format!("user-{round}");
        let acquire = |i: usize| {
            let acquire = limiters[i % 2].acquire(&entity, "api").limits(&limits);
            acquire.consume("jobs", 1).into_future()
        };
        let answers = join_all((0..64).map(acquire)).await;
        let admitted = answers.iter().filter(|answer| answer.is_ok()).count();
        assert_eq!(admitted, 10, "round {round}");
        let refused = answers.iter().filter_map(|answer| answer.as_ref().err());
        for error in refused {
            let exceeded = error.as_exceeded().unwrap_or_else(|| panic!("{error}"));
            let wait = exceeded.retry_after().as_secs();
            assert!((3_590..=3_600).contains(&wait), "{exceeded}");
        }
        assert_eq!(level(&table.store(), &entity, "api", &limits[0]).await, 0);
        assert_eq!(consumed(&table.store(), &entity, "api", "jobs").await, 10);
    }
}

#[tokio::test]
async fn a_steady_acquire_is_one_write_and_no_read_whatever_the_number_of_limits() {
    let table = fresh_table("strict").await;
    let store = FaultyStore::new(table.store());
    let limiter = strict(store.clone()).await;
    for count in [1, 2, 5, 12] {
        let limits: Vec<Limit> = (0..count)
            .map(|i| Limit::per_second(&format!("limit-{i}"), 1_000).expect("a limit"))
            .collect();
        let entity = format!("user-{count}");
        let acquire = || {
            let acquire = limiter.acquire(&entity, "api").limits(&limits);
            limits
                .iter()
                .fold(acquire, |a, limit| a.consume(limit.name(), 900))
        };
        acquire().await.map(drop).expect("full");
        store.reset();
        // Neither full nor empty, and full again.
        for pause in [0, 950, 0, 1_200] {
            tokio::time::sleep(Duration::from_millis(pause)).await;
            let small = limiter.acquire(&entity, "api").limits(&limits);
            let small = limits
                .iter()
                .fold(small, |a, limit| a.consume(limit.name(), 10));
            small.await.map(drop).expect("enough");
        }
        assert_eq!((store.writes(), store.reads()), (4, 0), "{count} limits");
    }
}

/// B2 of the Python library.
#[tokio::test]
async fn what_is_consumed_adjusted_and_rolled_back_is_in_the_table_at_once() {
    let table = fresh_table("strict").await;
    let limiter = strict(FaultyStore::new(table.store())).await;
    let limits = [per_hour("rpm", 10), per_hour("tpm", 1_000)];
    let stands = async || {
        let store = table.store();
        (
            level(&store, "user", "gpt-4", &limits[0]).await,
            level(&store, "user", "gpt-4", &limits[1]).await,
        )
    };
    let acquire = || {
        limiter
            .acquire("user", "gpt-4")
            .limits(&limits)
            .consume("rpm", 1)
    };
    let mut lease = acquire().consume("tpm", 300).await.expect("full");
    assert_eq!(stands().await, (9, 700));
    lease.adjust("tpm", 900).await.expect("into debt");
    assert_eq!(stands().await, (9, -200));
    // B13: a limit in debt does not gate an acquire that does not name it, or names it with 0.
    let other = acquire().consume("tpm", 0).await.expect("rpm is there");
    lease.consume("rpm", 2).await.expect("rpm is there");
    assert_eq!(stands().await, (6, -200));
    lease
        .release("tpm", 1_000)
        .await
        .expect("no more than consumed");
    assert_eq!(
        lease.consumed().into_iter().collect::<Vec<_>>(),
        [("rpm", 3), ("tpm", 200)]
    );
    assert_eq!(stands().await, (6, 800));
    lease.rollback().await;
    other.rollback().await;
    assert_eq!(stands().await, (10, 1_000));
    assert_eq!(consumed(&table.store(), "user", "gpt-4", "tpm").await, 0);
}

/// B2: a call that is cancelled keeps nothing, and one that fails keeps nothing.
#[tokio::test]
async fn work_that_fails_or_is_cancelled_gives_everything_back() {
    let table = fresh_table("strict").await;
    let limiter = strict(FaultyStore::new(table.store())).await;
    let limits = [per_hour("jobs", 10)];
    let acquire = || {
        limiter
            .acquire("user", "api")
            .limits(&limits)
            .consume("jobs", 4)
    };
    let failed: Result<(), zae_limiter::Error> = acquire()
        .run(async |_| Err(zae_limiter::Error::Settings("the work failed".into())))
        .await;
    assert_eq!(failed.unwrap_err().kind(), ErrorKind::Settings);
    assert_eq!(level(&table.store(), "user", "api", &limits[0]).await, 10);

    let endless =
        acquire().run(async |_| -> Result<(), zae_limiter::Error> { std::future::pending().await });
    let cancelled = tokio::time::timeout(Duration::from_millis(500), endless).await;
    assert!(cancelled.is_err());
    limiter.shutdown(Duration::from_secs(5)).await;
    assert_eq!(level(&table.store(), "user", "api", &limits[0]).await, 10);
}

/// B8: what the caller declares is in force with the next acquire.
#[tokio::test]
async fn a_changed_limit_converts_what_is_there() {
    let table = fresh_table("strict").await;
    let limiter = strict(FaultyStore::new(table.store())).await;
    let acquire = async |limit: &Limit, tokens: u64| {
        let limits = [limit.clone()];
        let acquire = limiter.acquire("user", "api").limits(&limits);
        acquire.consume("jobs", tokens).await.map(drop)
    };
    let (small, large) = (per_hour("jobs", 10), per_hour("jobs", 50));
    acquire(&small, 4).await.expect("6 left");
    acquire(&large, 6)
        .await
        .expect("the same 6 under other terms");
    acquire(&large, 1)
        .await
        .expect_err("raising a limit does not mint");
    let mut lease = limiter
        .acquire("rich", "api")
        .limits(std::slice::from_ref(&large))
        .consume("jobs", 1)
        .await
        .expect("full");
    lease.release("jobs", 1).await.expect("consumed");
    let cut = [small.clone()];
    let cut = limiter.acquire("rich", "api").limits(&cut);
    cut.clone()
        .consume("jobs", 10)
        .await
        .map(drop)
        .expect("cut to 10");
    cut.consume("jobs", 1)
        .await
        .map(drop)
        .expect_err("no more than 10");
}
