//! Leased mode on a real table.

use std::time::{Duration, Instant};

use futures::future::join_all;
use zae_limiter::store::{DynamoDbStore, FaultyStore};
use zae_limiter::{ErrorKind, LeasedOptions, Limit, Mode, RateLimiter, Settings};
use zae_limiter_tests::{consumed, fresh_table, level};

const DEADLINE: Duration = Duration::from_secs(10);

async fn leased(store: FaultyStore<DynamoDbStore>) -> RateLimiter {
    let mode = Mode::Leased(LeasedOptions {
        renewal_interval_ms: 300,
        lease_ttl_ms: 1_500,
    });
    let settings = Settings {
        acquire_timeout_ms: 60_000,
        mode,
        ..Settings::default()
    };
    let builder = RateLimiter::builder("leased")
        .store(store)
        .settings(settings);
    builder.connect().await.expect("a table")
}

fn per_day(name: &str, burst: u64) -> Limit {
    Limit::custom(name, burst, 1, Duration::from_secs(86_400)).expect("a limit")
}

/// B1 of the Python library.
#[tokio::test(flavor = "multi_thread")]
async fn a_scarce_limit_is_shared_exactly() {
    let table = fresh_table("leased").await;
    let store = FaultyStore::new(table.store());
    let limiters = join_all((0..4).map(|_| leased(store.clone()))).await;
    let limits = [per_day("jobs", 10)];
    for round in 0..5 {
        let entity = format!("user-{round}");
        let acquire = |i: usize| {
            let acquire = limiters[i % 4].acquire(&entity, "api").limits(&limits);
            acquire.consume("jobs", 1).into_future()
        };
        let answers = join_all((0..64).map(acquire)).await;
        let admitted = answers.iter().filter(|answer| answer.is_ok()).count();
        assert_eq!(admitted, 10, "round {round}");
        let mut refused = answers.iter().filter_map(|answer| answer.as_ref().err());
        assert!(refused.all(|error| error.kind() == ErrorKind::RateLimitExceeded));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_shutdown_the_table_stands_as_if_only_the_admitted_had_been_taken() {
    let table = fresh_table("leased").await;
    let store = FaultyStore::new(table.store());
    let limiters = join_all((0..3).map(|_| leased(store.clone()))).await;
    // Two limits, whose refill during the test is less than a token.
    let limits = [per_day("rpm", 5_000), per_day("tpm", 1_000_000)];
    let work = |at: usize| {
        let (limiter, limits) = (limiters[at].clone(), limits.clone());
        async move {
            let (mut requests, mut tokens) = (0i64, 0i64);
            // Over many renewals, and on a slow table until enough has happened.
            let end = Instant::now() + Duration::from_secs(3);
            while Instant::now() < end || requests < 30 {
                let size = 1 + fastrand::u64(..200);
                let acquire = limiter.acquire("user", "gpt-4").limits(&limits);
                let Ok(mut lease) = acquire.consume("rpm", 1).consume("tpm", size).await else {
                    continue;
                };
                tokio::time::sleep(Duration::from_millis(fastrand::u64(..6))).await;
                match fastrand::u8(..10) {
                    0 => {
                        lease.rollback().await;
                        continue;
                    }
                    1 => {
                        lease.adjust("tpm", 150).await.expect("known");
                        tokens += 150;
                    }
                    2 => {
                        lease.release("tpm", 1).await.expect("consumed");
                        tokens -= 1;
                    }
                    _ => {}
                }
                requests += 1;
                tokens += i64::try_from(size).expect("small");
            }
            (requests, tokens)
        }
    };
    let admitted = join_all((0..12).map(|i| tokio::spawn(work(i % 3)))).await;
    let admitted = admitted.into_iter().map(|done| done.expect("no panic"));
    let (requests, tokens) = admitted.fold((0, 0), |(r, t), (dr, dt)| (r + dr, t + dt));
    for limiter in &limiters {
        assert_eq!(limiter.shutdown(DEADLINE).await.unreturned, 0);
    }
    assert!(requests > 300, "{requests}");
    assert_eq!(
        level(&table.store(), "user", "gpt-4", &limits[0]).await,
        5_000 - requests
    );
    assert_eq!(
        level(&table.store(), "user", "gpt-4", &limits[1]).await,
        1_000_000 - tokens
    );
    assert_eq!(
        consumed(&table.store(), "user", "gpt-4", "rpm").await,
        requests
    );
    assert_eq!(
        consumed(&table.store(), "user", "gpt-4", "tpm").await,
        tokens
    );
    let after = limiters[0]
        .acquire("user", "gpt-4")
        .limits(&limits)
        .consume("rpm", 1)
        .await;
    assert_eq!(after.map(drop).unwrap_err().kind(), ErrorKind::ShutDown);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rejection_storm_costs_next_to_no_writes() {
    let table = fresh_table("leased").await;
    let store = FaultyStore::new(table.store());
    let limiter = leased(store.clone()).await;
    let limits = [per_day("jobs", 3)];
    let acquire = || {
        limiter
            .acquire("user", "api")
            .limits(&limits)
            .consume("jobs", 1)
    };
    for _ in 0..3 {
        acquire().await.map(drop).expect("3 of 3");
    }
    acquire().await.map(drop).expect_err("none left");
    store.reset();
    let end = Instant::now() + Duration::from_secs(2);
    let mut refusals = 0;
    while Instant::now() < end {
        let error = acquire().await.map(drop).expect_err("none left");
        assert!(error.as_exceeded().is_some(), "{error}");
        refusals += 1;
        tokio::task::yield_now().await;
    }
    assert!(refusals > 1_000);
    assert!(
        store.writes() <= 3,
        "{} writes for {refusals} refusals",
        store.writes()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn strict_and_leased_acquires_share_one_bucket() {
    let table = fresh_table("leased").await;
    let store = FaultyStore::new(table.store());
    let limiter = leased(store).await;
    let limits = [per_day("jobs", 50)];
    let mut admitted = 0;
    for i in 0..120 {
        let acquire = limiter.acquire("user", "api").limits(&limits);
        // At last, what is left in the block.
        let strict = i % 2 == 0 && i < 60;
        admitted += i32::from(acquire.consume("jobs", 1).strict(strict).await.is_ok());
    }
    assert_eq!(admitted, 50);
}

/// An idle bucket gives its tokens back, and then leaves memory.
#[tokio::test(flavor = "multi_thread")]
async fn an_idle_bucket_gives_its_tokens_back() {
    let table = fresh_table("leased").await;
    let limiter = leased(FaultyStore::new(table.store())).await;
    let limits = [per_day("jobs", 10_000)];
    for _ in 0..200 {
        let acquire = limiter.acquire("user", "api").limits(&limits);
        acquire.consume("jobs", 1).await.map(drop).expect("plenty");
    }
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(
        level(&table.store(), "user", "api", &limits[0]).await,
        9_800
    );
    let known = limiter
        .available("user", "api", &limits)
        .await
        .expect("a table");
    assert_eq!((known[0].in_hand, known[0].estimate), (0, 9_800));
}
