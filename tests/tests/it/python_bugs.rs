//! Mistakes of the Python library 0.2.0 that no other test here is about, by their numbers in
//! `sync/MIGRATING.md`.

use std::time::Duration;

use zae_limiter::store::{FaultyStore, MemoryStore};
use zae_limiter::{Limit, Mode, NewEntity, RateLimiter};
use zae_limiter_tests::{fresh_table, level};

async fn connect(store: impl zae_limiter::store::Store, mode: Mode) -> RateLimiter {
    let limiter = RateLimiter::builder("python-bugs").store(store).mode(mode);
    limiter.connect().await.expect("a table")
}

/// B14 of the Python library.
#[tokio::test]
async fn b14_what_is_given_back_fills_no_bucket_over_its_burst() {
    for mode in [Mode::Strict, Mode::leased()] {
        let table = fresh_table("b14").await;
        let limiter = connect(table.store(), mode).await;
        let limits = [Limit::per_second("rps", 100).expect("a limit")];
        let acquire = || limiter.acquire("user", "api").limits(&limits);
        let lease = acquire().consume("rps", 100).await.expect("a full bucket");
        // Meanwhile the bucket refills.
        tokio::time::sleep(Duration::from_millis(1_100)).await;
        lease.rollback().await;
        assert!(acquire().available().await.expect("an estimate")[0].estimate <= 100);
        acquire()
            .consume("rps", 100)
            .await
            .map(drop)
            .expect("all that there is");
        // At once: what flowed in meanwhile are few.
        assert!(acquire().consume("rps", 90).await.is_err(), "{mode:?}");
        limiter.shutdown(Duration::from_secs(5)).await;
        assert!(level(&table.store(), "user", "api", &limits[0]).await <= 100);
    }
}

/// B18 of the Python library.
#[tokio::test]
async fn b18_a_cascade_is_two_writes_whatever_the_number_of_limits() {
    let store = FaultyStore::new(MemoryStore::new());
    let limiter = connect(store.clone(), Mode::Strict).await;
    let create = |entity| limiter.create_entity(entity);
    create(NewEntity::new("parent")).await.expect("new");
    create(NewEntity::new("child").parent("parent"))
        .await
        .expect("new");
    let limits: Vec<_> = (0..16)
        .map(|at| Limit::per_minute(&format!("limit-{at}"), 100).expect("a limit"))
        .collect();
    let acquire = || {
        let acquire = limiter
            .acquire("child", "api")
            .limits(&limits)
            .cascade(true);
        let named = limits
            .iter()
            .fold(acquire, |acquire, limit| acquire.consume(limit.name(), 1));
        named.into_future()
    };
    acquire().await.map(drop).expect("a full bucket");
    store.reset();
    for _ in 0..10 {
        acquire().await.map(drop).expect("a full bucket");
    }
    assert_eq!(
        (store.reads(), store.writes()),
        (0, 20),
        "32 limits each time"
    );
}

/// B20 of the Python library.
#[tokio::test]
async fn b20_a_refusal_says_when_to_come_back() {
    for mode in [Mode::Strict, Mode::leased()] {
        let limiter = connect(MemoryStore::new(), mode).await;
        let limits = [Limit::per_second("rps", 5).expect("a limit")];
        let acquire = || {
            limiter
                .acquire("user", "api")
                .limits(&limits)
                .consume("rps", 5)
        };
        acquire().await.map(drop).expect("a full bucket");
        let mut refusals = 0;
        let mut waited = Duration::ZERO;
        while waited < Duration::from_secs(3) {
            match acquire().await {
                Ok(_) => break,
                Err(refused) => {
                    let refused = refused.as_exceeded().expect("a refusal").retry_after();
                    assert!(refused > Duration::ZERO, "{mode:?}");
                    refusals += 1;
                    waited += refused;
                    tokio::time::sleep(refused).await;
                }
            }
        }
        assert!(refusals <= 4, "{mode:?}: {refusals} refusals in {waited:?}");
    }
}
