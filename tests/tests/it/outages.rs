//! The table is out of reach, too slow, throttled, or not to be used: what callers are told, and
//! how soon all is well again. Needs no endpoint.

use std::time::{Duration, Instant};

use futures::future::join_all;
use zae_limiter::store::{Fault, FaultyStore, MemoryStore};
use zae_limiter::{
    Degraded, Error, ErrorKind, FailureMode, LeasedOptions, Limit, Mode, RateLimiter, Settings,
    Share,
};

type Faulty = FaultyStore<MemoryStore>;

fn limits() -> [Limit; 1] {
    [Limit::per_minute("rpm", 100).expect("a limit")]
}

fn tenth() -> FailureMode {
    FailureMode::Local(Share::new(0.1).expect("a share"))
}

async fn limiter(mode: Mode, failure_mode: FailureMode) -> (Faulty, RateLimiter) {
    let store = FaultyStore::new(MemoryStore::new());
    let limiter = RateLimiter::builder("outage").store(store.clone());
    let limiter = limiter.mode(mode).failure_mode(failure_mode);
    let limiter = limiter.connect().await.expect("a table");
    (store, limiter)
}

async fn acquire(limiter: &RateLimiter, entity_id: &str) -> Result<(), Error> {
    let limits = limits();
    let acquire = limiter.acquire(entity_id, "api").limits(&limits);
    acquire.consume("rpm", 1).await.map(drop)
}

#[tokio::test]
async fn while_the_breaker_is_open_nobody_waits_and_one_probe_at_a_time_is_made() {
    for mode in [Mode::Strict, Mode::leased()] {
        let (store, limiter) = limiter(mode, FailureMode::Closed).await;
        store.reset();
        store.fail_all(Some(Fault::Unreachable));
        for id in (0..10_000).map(|i| format!("user-{}", i % 100)) {
            let error = acquire(&limiter, &id).await.expect_err("an outage");
            assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
        }
        assert!(limiter.metrics().breaker_open && limiter.metrics().breaker_opened == 1);
        assert_eq!(store.writes(), 1, "{mode:?}: one caller found out for all");
        assert_eq!(limiter.metrics().unavailable, 10_000);
        tokio::time::sleep(Duration::from_secs(2)).await;
        // 50 to 100 ms after the first failure, then later and later, up to 500 ms.
        assert!(
            (3..=9).contains(&store.checks()),
            "{} probes",
            store.checks()
        );
        assert_eq!(store.writes(), 1, "{mode:?}: no write while it is open");
        store.fail_all(None);
        let healed = Instant::now();
        while acquire(&limiter, "user-1").await.is_err() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        assert!(
            healed.elapsed() < Duration::from_millis(1_500),
            "{:?}",
            healed.elapsed()
        );
        assert!(!limiter.metrics().breaker_open);
    }
}

#[tokio::test]
async fn after_an_outage_no_bucket_is_written_more_than_once_at_first() {
    const BUCKETS: usize = 200;
    let mode = Mode::Leased(LeasedOptions {
        renewal_interval_ms: 1_000,
        lease_ttl_ms: 3_000,
    });
    let (store, limiter) = limiter(mode, FailureMode::Closed).await;
    let ids: Vec<_> = (0..BUCKETS).map(|i| format!("user-{i}")).collect();
    let all = || join_all(ids.iter().map(|id| acquire(&limiter, id)));
    assert!(all().await.iter().all(Result::is_ok));
    store.fail_all(Some(Fault::Unreachable));
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(4) {
        let _ = all().await;
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    store.reset(); // it answers again
    while limiter.metrics().breaker_open {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert!(all().await.iter().all(Result::is_ok));
    let writes = store.writes();
    assert!(
        writes <= BUCKETS as u64,
        "{writes} writes for {BUCKETS} buckets"
    );
}

#[tokio::test]
async fn a_local_share_is_all_that_a_process_admits_by_itself() {
    for mode in [Mode::Strict, Mode::leased()] {
        let (store, limiter) = limiter(mode, tenth()).await;
        store.fail_all(Some(Fault::Unreachable));
        let limits = limits();
        let try_one = || {
            let acquire = limiter.acquire("user", "api").limits(&limits);
            acquire.consume("rpm", 1).into_future()
        };
        let mut leases = Vec::new();
        for _ in 0..10 {
            let lease = try_one().await.expect("a tenth of 100");
            assert_eq!(lease.degraded(), Some(Degraded::Local), "{mode:?}");
            leases.push(lease);
        }
        let error = try_one().await.map(drop).expect_err("the share is used up");
        let exceeded = error.as_exceeded().expect("not an outage, but a limit");
        let retry_after = exceeded.retry_after();
        assert!(
            retry_after > Duration::from_secs(5) && retry_after <= Duration::from_secs(6),
            "one of 10 per minute: {retry_after:?}"
        );
        leases.pop().expect("ten").rollback().await;
        leases.push(try_one().await.expect("what was given back"));
        leases[0].adjust("rpm", 3).await.expect("into debt");
        leases.pop().expect("ten").rollback().await;
        assert!(try_one().await.is_err(), "two tokens are owed");
        let never = limiter.acquire("user", "api").limits(&limits);
        let never = never
            .consume("rpm", 11)
            .await
            .map(drop)
            .expect_err("more than the share");
        assert_eq!(
            never.kind(),
            ErrorKind::Unavailable,
            "it will not come true: {never}"
        );
        let metrics = limiter.metrics();
        assert_eq!((metrics.admitted_local, metrics.refused_local), (11, 2));
    }
}

#[tokio::test]
async fn throttling_is_no_outage_callers_are_served_when_it_ends() {
    for mode in [Mode::Strict, Mode::leased()] {
        for failure_mode in [FailureMode::Open, FailureMode::Closed] {
            let (store, limiter) = limiter(mode, failure_mode).await;
            store.fail_next(Fault::Throttled, 3);
            let limits = limits();
            let acquire = limiter.acquire("user", "api").limits(&limits);
            let lease = acquire.consume("rpm", 1).await.expect("served in the end");
            assert!(!lease.is_degraded(), "{mode:?} {failure_mode:?}");
            let metrics = limiter.metrics();
            assert_eq!((metrics.writes_throttled, metrics.breaker_opened), (3, 0));
        }
    }
}

#[tokio::test]
async fn throttling_stretches_renewals() {
    let mode = Mode::Leased(LeasedOptions {
        renewal_interval_ms: 200,
        lease_ttl_ms: 2_000,
    });
    let (store, limiter) = limiter(mode, FailureMode::Closed).await;
    let limits = [Limit::per_second("rps", 1_000).expect("a limit")];
    let writes_in_a_second = async || {
        let before = store.writes();
        let begun = Instant::now();
        while begun.elapsed() < Duration::from_secs(1) {
            let acquire = limiter.acquire("user", "api").limits(&limits);
            let _ = acquire.consume("rps", 1).try_acquire();
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        store.writes() - before
    };
    writes_in_a_second().await;
    let before = writes_in_a_second().await;
    store.fail_next(Fault::Throttled, 4);
    writes_in_a_second().await;
    let after = writes_in_a_second().await;
    assert!(
        after * 3 <= before * 2,
        "{before} writes per second before, {after} after"
    );
}

#[tokio::test]
async fn a_store_that_panics_is_a_failure_and_not_the_end() {
    let (store, limiter) = limiter(Mode::leased(), FailureMode::Open).await;
    store.fail_next(Fault::Panic, 1);
    let error = acquire(&limiter, "user").await.expect_err("a panic");
    assert_eq!(error.kind(), ErrorKind::Store, "{error}");
    tokio::time::sleep(Duration::from_millis(400)).await; // the pause of the bucket
    acquire(&limiter, "user").await.expect("all is well");
}

async fn in_trouble(mode: Mode, failure_mode: FailureMode, fault: Fault) -> Result<bool, Error> {
    let store = FaultyStore::new(MemoryStore::new());
    let limiter = RateLimiter::builder("trouble")
        .store(store.clone())
        .mode(mode);
    let limiter = limiter.failure_mode(failure_mode).connect().await?;
    store.fail_all(Some(fault));
    let limits = limits();
    let lease = limiter
        .acquire("user", "api")
        .limits(&limits)
        .consume("rpm", 1)
        .await?;
    Ok(lease.is_degraded())
}

/// B11 of the Python library.
#[tokio::test]
async fn an_outage_is_answered_as_the_failure_mode_says_and_a_denial_never_is() {
    for mode in [Mode::Strict, Mode::leased()] {
        for fault in [Fault::Unreachable, Fault::Throttled, Fault::LostBeforeApply] {
            let open = in_trouble(mode, FailureMode::Open, fault).await;
            assert!(open.expect("admitted"), "{mode:?} {fault:?}");
            let closed = in_trouble(mode, FailureMode::Closed, fault).await;
            let error = closed.expect_err("refused");
            assert_eq!(error.kind(), ErrorKind::Unavailable, "{mode:?} {fault:?}");
            assert!(error.to_string().contains("user/api"), "{error}");
        }
        for (fault, kind) in [
            (Fault::AccessDenied, ErrorKind::AccessDenied),
            (Fault::TableMissing, ErrorKind::TableMissing),
        ] {
            for failure_mode in [FailureMode::Open, FailureMode::Closed, tenth()] {
                let answer = in_trouble(mode, failure_mode, fault).await;
                assert_eq!(answer.expect_err("never admitted").kind(), kind, "{mode:?}");
            }
        }
    }
}

/// A stalled store holds nobody longer than the acquire timeout.
#[tokio::test]
async fn an_acquire_has_a_deadline_of_its_own() {
    for mode in [Mode::Strict, Mode::leased()] {
        let store = FaultyStore::new(MemoryStore::new());
        let settings = Settings {
            acquire_timeout_ms: 200,
            mode,
            ..Settings::default()
        };
        let limiter = RateLimiter::builder("stalled")
            .store(store.clone())
            .settings(settings);
        let limiter = limiter.connect().await.expect("a table");
        store.fail_all(Some(Fault::Delay(Duration::from_secs(60))));
        let limits = limits();
        let begun = Instant::now();
        let answer = limiter
            .acquire("user", "api")
            .limits(&limits)
            .consume("rpm", 1)
            .await;
        assert_eq!(
            answer.map(drop).expect_err("no answer").kind(),
            ErrorKind::Unavailable
        );
        assert!(begun.elapsed() < Duration::from_secs(5));
    }
}

/// During an outage a block is spendable until it expires, and no longer.
#[tokio::test]
async fn blocks_outlive_an_outage_until_they_expire() {
    let store = FaultyStore::new(MemoryStore::new());
    let mode = Mode::Leased(LeasedOptions {
        renewal_interval_ms: 200,
        lease_ttl_ms: 1_000,
    });
    let limiter = RateLimiter::builder("outage")
        .store(store.clone())
        .mode(mode);
    let limiter = limiter.connect().await.expect("a table");
    let limits = [Limit::per_second("rps", 100_000).expect("a limit")];
    let acquire = |tokens| {
        limiter
            .acquire("user", "api")
            .limits(&limits)
            .consume("rps", tokens)
    };
    let begun = Instant::now();
    // What is left of the last block is far more than what is asked for during the outage.
    for _ in 0..1_000 {
        acquire(50).await.map(drop).expect("plenty");
    }
    store.fail_all(Some(Fault::Unreachable));
    let granted = Instant::now();
    let mut admitted_at = granted;
    while granted.elapsed() < Duration::from_millis(1_500) {
        match acquire(1).try_acquire() {
            Ok(_) => admitted_at = Instant::now(),
            Err(error) => assert_ne!(error.kind(), ErrorKind::RateLimitExceeded, "{error}"),
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let lasted = admitted_at - begun;
    assert!(lasted > Duration::from_millis(800), "{lasted:?}");
    let lasted = admitted_at - granted;
    assert!(lasted <= Duration::from_millis(1_000), "{lasted:?}");
    store.fail_all(None);
    tokio::time::sleep(Duration::from_millis(3_500)).await; // the longest pause between tries
    acquire(1).await.map(drop).expect("healed");
}
