//! Acquires that wait for tokens: in line, and free to leave it. Needs no endpoint.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::task::JoinSet;
use zae_limiter::store::MemoryStore;
use zae_limiter::{ErrorKind, Limit, Mode, NewEntity, RateLimiter};
use zae_limiter_tests::{consumed, level};

/// 10,000 callers come one after the other and wait; half of them leave at some moment.
async fn nobody_is_overtaken_and_no_token_is_lost(mode: Mode, cascade: bool) {
    const CALLERS: usize = 10_000;
    let store = MemoryStore::new();
    let limiter = RateLimiter::builder("waiting")
        .store(store.clone())
        .mode(mode);
    let limiter = limiter.connect().await.expect("a table");
    let create = |entity| limiter.create_entity(entity);
    create(NewEntity::new("parent")).await.expect("new");
    create(NewEntity::new("child").parent("parent"))
        .await
        .expect("new");
    let limit = Limit::per_second("rps", 2_000).and_then(|limit| limit.burst(2_000));
    let limits: Arc<[Limit]> = [limit.expect("a limit")].into();
    let served = Arc::new(AtomicU64::new(0));
    let mut callers = JoinSet::new();
    let mut leaving = JoinSet::new();
    let mut rng = fastrand::Rng::with_seed(7);
    for number in 1..=CALLERS as u64 {
        let (limiter, limits, served) = (limiter.clone(), limits.clone(), served.clone());
        let caller = callers.spawn(async move {
            let acquire = limiter.acquire("child", "api").limits(&limits);
            let acquire = acquire.consume("rps", 1).cascade(cascade);
            acquire
                .wait_up_to(Duration::from_secs(60))
                .await
                .map(drop)
                .expect("in time");
            let before = served.fetch_max(number, Ordering::SeqCst);
            assert!(before < number, "{number} was overtaken by {before}");
        });
        tokio::task::yield_now().await; // it joins the line before the next one comes
        if rng.bool() {
            let delay = Duration::from_micros(rng.u64(..3_000_000));
            leaving.spawn(async move {
                tokio::time::sleep(delay).await;
                caller.abort();
            });
        }
    }
    let mut admitted = 0;
    while let Some(ended) = callers.join_next().await {
        match ended {
            Ok(()) => admitted += 1,
            Err(error) => assert!(error.is_cancelled(), "{error}"),
        }
    }
    assert!(admitted > 4_000, "{admitted} stayed");
    tokio::time::sleep(Duration::from_secs(2)).await; // what was given back has arrived
    limiter.shutdown(Duration::from_secs(5)).await;
    for id in if cascade {
        &["child", "parent"][..]
    } else {
        &["child"]
    } {
        assert_eq!(
            consumed(&store, id, "api", "rps").await,
            admitted,
            "{id}, {mode:?}"
        );
        assert_eq!(
            level(&store, id, "api", &limits[0]).await,
            2_000,
            "{id}, {mode:?}"
        );
    }
}

// One thread, so that the order in which the callers come is known.
#[tokio::test]
async fn in_leased_mode() {
    nobody_is_overtaken_and_no_token_is_lost(Mode::leased(), false).await;
}

#[tokio::test]
async fn in_strict_mode() {
    nobody_is_overtaken_and_no_token_is_lost(Mode::Strict, false).await;
}

#[tokio::test]
async fn with_a_parent() {
    nobody_is_overtaken_and_no_token_is_lost(Mode::leased(), true).await;
}

#[tokio::test]
async fn who_cannot_be_served_in_time_is_told_at_once() {
    let limiter = RateLimiter::builder("waiting")
        .in_memory()
        .connect()
        .await
        .expect("memory");
    let limits = [Limit::per_hour("rph", 10).expect("a limit")];
    let acquire = || {
        limiter
            .acquire("user", "api")
            .limits(&limits)
            .consume("rph", 10)
    };
    acquire().await.map(drop).expect("full");
    let begun = tokio::time::Instant::now();
    let error = acquire()
        .wait_up_to(Duration::from_secs(30))
        .await
        .map(drop);
    assert_eq!(
        error.expect_err("in an hour").kind(),
        ErrorKind::RateLimitExceeded
    );
    assert!(begun.elapsed() < Duration::from_secs(10));
}
