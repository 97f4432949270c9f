//! Many callers, many keys, many processes on one bucket.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::future::join_all;
use tokio::task::JoinSet;
use tokio::time;
use zae_limiter::store::{Fault, FaultyStore, MemoryStore, Store};
use zae_limiter::{LeasedOptions, Limit, Mode, RateLimiter, Settings};
use zae_limiter_tests::{consumed, fresh_table};

fn settings(renewal_interval_ms: u64, lease_ttl_ms: u64) -> Settings {
    Settings {
        mode: Mode::Leased(LeasedOptions {
            renewal_interval_ms,
            lease_ttl_ms,
        }),
        acquire_timeout_ms: 60_000,
        ..Settings::default()
    }
}

async fn limiter(store: impl Store, settings: Settings) -> RateLimiter {
    let limiter = RateLimiter::builder("pressure").store(store);
    limiter.settings(settings).connect().await.expect("a table")
}

/// Every write takes two seconds, and thousands of callers wait for one each.
#[tokio::test(flavor = "multi_thread")]
async fn callers_with_tokens_do_not_wait_behind_a_slow_table_and_nothing_is_dropped() {
    const USERS: usize = 5_000;
    const SLOW: Duration = Duration::from_secs(2);
    let store = FaultyStore::new(MemoryStore::new());
    let limiter = limiter(store.clone(), settings(1_000, 30_000)).await;
    let limits: Arc<[Limit]> = [Limit::per_day("jobs", 1_000_000).expect("a limit")].into();
    let busy = || {
        limiter
            .acquire("busy", "api")
            .limits(&limits)
            .consume("jobs", 1)
    };
    let mut admitted = 0;
    for _ in 0..1_000 {
        busy().await.map(drop).expect("plenty");
        admitted += 1;
    }
    let much = limiter.acquire("busy", "api").limits(&limits);
    let much = much.consume("jobs", 1_000).await.expect("plenty");
    much.rollback().await; // now there is enough in hand
    store.fail_all(Some(Fault::Delay(SLOW)));
    let mut others = JoinSet::new();
    for user in 0..USERS {
        let (limiter, limits) = (limiter.clone(), limits.clone());
        others.spawn(async move {
            let user = format!("user-{user}");
            let acquire = limiter.acquire(&user, "api").limits(&limits);
            acquire.consume("jobs", 1).await.map(drop)
        });
    }
    let begun = Instant::now();
    for _ in 0..500 {
        admitted += i64::from(busy().try_acquire().is_ok());
        time::sleep(Duration::from_micros(100)).await;
    }
    let took = begun.elapsed();
    assert!(took < SLOW, "hits took {took:?}");
    assert_eq!(admitted, 1_500);
    while let Some(answer) = others.join_next().await {
        answer.expect("no panic").expect("plenty");
    }
    store.fail_all(None);
    assert_eq!(
        limiter.shutdown(Duration::from_secs(60)).await.unreturned,
        0
    );
    assert_eq!(
        consumed(store.inner(), "busy", "api", "jobs").await,
        admitted
    );
    for user in 0..USERS {
        let user = format!("user-{user}");
        assert_eq!(
            consumed(store.inner(), &user, "api", "jobs").await,
            1,
            "{user}"
        );
    }
}

#[tokio::test]
async fn keys_that_nobody_uses_are_forgotten() {
    let settings = Settings {
        idle_ttl_ms: 300,
        ..settings(200, 600)
    };
    let limiter = limiter(MemoryStore::new(), settings).await;
    let limits = [Limit::per_minute("rpm", 100).expect("a limit")];
    for number in 0..3_000 {
        let user = format!("user-{number}");
        let acquire = limiter.acquire(&user, "api").limits(&limits);
        let acquire = acquire.strict(number % 2 == 0).consume("rpm", 1);
        acquire.await.map(drop).expect("full");
    }
    assert!(limiter.metrics().cached_buckets > 100);
    let begun = Instant::now();
    while limiter.metrics().cached_buckets > 0 {
        let known = limiter.metrics().cached_buckets;
        assert!(begun.elapsed() < Duration::from_secs(30), "{known} buckets");
        time::sleep(Duration::from_millis(50)).await;
    }
}

/// Guards that refuse a write, since somebody else was faster, are no failure of the table.
#[tokio::test(flavor = "multi_thread")]
async fn processes_that_meet_on_a_bucket_are_not_told_of_an_outage() {
    const LIMITERS: usize = 6;
    const PER_SECOND: u64 = 400;
    let table = fresh_table("pressure").await;
    let limiters = (0..LIMITERS).map(|_| limiter(table.store(), settings(500, 2_500)));
    let limiters = join_all(limiters).await;
    let day = Duration::from_secs(86_400);
    let limits = [Limit::custom("jobs", 1_000_000, 1, day).expect("a limit")];
    let end = Instant::now() + Duration::from_secs(10);
    let work = async |limiter: &RateLimiter| {
        let mut every = time::interval(Duration::from_micros(1_000_000 / PER_SECOND));
        let mut admitted = 0;
        while Instant::now() < end {
            every.tick().await;
            let acquire = limiter.acquire("user", "api").limits(&limits);
            acquire.consume("jobs", 1).await.map(drop).expect("plenty");
            admitted += 1;
        }
        admitted
    };
    let admitted: i64 = join_all(limiters.iter().map(work)).await.into_iter().sum();
    for limiter in &limiters {
        let metrics = limiter.metrics();
        println!("{metrics:?}");
        assert_eq!((metrics.unavailable, metrics.breaker_opened), (0, 0));
        assert_eq!(
            limiter.shutdown(Duration::from_secs(60)).await.unreturned,
            0
        );
    }
    assert_eq!(
        consumed(&table.store(), "user", "api", "jobs").await,
        admitted
    );
}
