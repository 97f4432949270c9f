//! A limiter that is shut down gives back what it holds: all of it, whatever is under way, and
//! nothing twice.

use std::time::{Duration, Instant};

use zae_limiter::store::{DynamoDbStore, Fault, FaultyStore};
use zae_limiter::{ErrorKind, LeasedOptions, Limit, Mode, RateLimiter, Settings};
use zae_limiter_tests::{consumed, fresh_table, level};

const DEADLINE: Duration = Duration::from_secs(60);

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
    let builder = RateLimiter::builder("closing").store(store);
    builder.settings(settings).connect().await.expect("a table")
}

fn per_day(burst: u64) -> Limit {
    Limit::custom("jobs", burst, 1, Duration::from_secs(86_400)).expect("a limit")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_renewal_under_way_revives_nothing_after_a_shutdown() {
    let table = fresh_table("closing").await;
    let store = FaultyStore::new(table.store());
    let limiter = leased(store.clone()).await;
    let limits = [per_day(100_000)];
    let acquire = || {
        let acquire = limiter.acquire("user", "api").limits(&limits);
        acquire.consume("jobs", 1)
    };
    let mut admitted = 0;
    for _ in 0..200 {
        acquire().await.map(drop).expect("plenty");
        admitted += 1;
    }
    store.reset();
    store.fail_all(Some(Fault::Delay(Duration::from_millis(700))));
    let begun = Instant::now();
    while store.writes() == 0 {
        admitted += i64::from(acquire().try_acquire().is_ok());
        assert!(begun.elapsed() < DEADLINE, "it renews every 300 ms");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    assert_eq!(limiter.shutdown(DEADLINE).await.unreturned, 0);
    store.fail_all(None);
    let writes = store.writes();
    assert!(writes > 1, "the renewal's answer was not the end of it");
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(store.writes(), writes, "nothing is renewed any more");
    let answer = acquire().await.map(drop).expect_err("closed");
    assert_eq!(answer.kind(), ErrorKind::ShutDown);
    let table = table.store();
    assert_eq!(
        level(&table, "user", "api", &limits[0]).await,
        100_000 - admitted
    );
    assert_eq!(consumed(&table, "user", "api", "jobs").await, admitted);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_return_that_fails_does_not_stop_the_others() {
    const USERS: usize = 8;
    for (fault, lost) in [
        (Fault::Unreachable, 0),
        (Fault::Throttled, 0),
        (Fault::AccessDenied, 0),
        (Fault::LostBeforeApply, 1),
        (Fault::Panic, 1),
    ] {
        let table = fresh_table("closing").await;
        let store = FaultyStore::new(table.store());
        let limiter = leased(store.clone()).await;
        let limits = [per_day(1_000)];
        let users: Vec<String> = (0..USERS).map(|user| format!("user-{user}")).collect();
        for user in &users {
            let acquire = limiter.acquire(user, "api").limits(&limits);
            let lease = acquire.consume("jobs", 500).await.expect("full");
            lease.rollback().await;
        }
        store.fail_next(fault, 1);
        limiter.shutdown(DEADLINE).await;
        let mut short = 0;
        for user in &users {
            let level = level(&table.store(), user, "api", &limits[0]).await;
            short += u64::from(level < 1_000);
        }
        assert!(
            short <= lost,
            "{fault:?}: {short} of {USERS} were not returned"
        );
    }
}
