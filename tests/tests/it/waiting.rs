//! Acquires that wait for tokens: in a queue, and free to leave it. Needs no endpoint.

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

#[tokio::test]
async fn who_waits_is_told_of_a_shutdown_at_once() {
    for mode in [Mode::leased(), Mode::Strict] {
        let (limiter, _store) = family(mode).await;
        let limits = [Limit::per_hour("rph", 10).expect("a limit")];
        let acquire = || {
            limiter
                .acquire("one", "api")
                .limits(&limits)
                .consume("rph", 10)
        };
        acquire().await.map(drop).expect("full");
        let waits = || acquire().wait_up_to(Duration::from_secs(7_200));
        let shutdown = async {
            tokio::time::sleep(Duration::from_millis(200)).await;
            limiter.shutdown(Duration::from_secs(5)).await
        };
        let (first, second, _) =
            tokio::time::timeout(PATIENCE, async { tokio::join!(waits(), waits(), shutdown) })
                .await
                .expect("at once");
        for waited in [first, second] {
            let error = waited.map(drop).expect_err("closed");
            assert_eq!(error.kind(), ErrorKind::ShutDown);
        }
    }
}

/// A limiter on a table in memory with `parent`, and `one` and `two` below it.
async fn family(mode: Mode) -> (RateLimiter, MemoryStore) {
    let store = MemoryStore::new();
    let limiter = RateLimiter::builder("waiting").store(store.clone());
    let limiter = limiter.mode(mode).connect().await.expect("a table");
    let create = |entity| limiter.create_entity(entity);
    create(NewEntity::new("parent")).await.expect("new");
    for child in ["one", "two"] {
        let child = NewEntity::new(child).parent("parent");
        create(child).await.expect("new");
    }
    (limiter, store)
}

const PATIENCE: Duration = Duration::from_secs(20);

/// While somebody waits for 20 tokens of `waits`, callers who do not wait want one of `comes`, over
/// and over.
async fn who_does_not_wait_does_not_come_before(mode: Mode, waits: &str, comes: &str) {
    let (limiter, _store) = family(mode).await;
    let cascade = waits != comes;
    let limits = [Limit::per_second("rps", 20).expect("a limit")];
    let acquire = |id, tokens| {
        let acquire = limiter.acquire(id, "api").limits(&limits);
        acquire.consume("rps", tokens).cascade(cascade)
    };
    let spent = if cascade { "parent" } else { waits };
    let spend = limiter.acquire(spent, "api").limits(&limits);
    spend.consume("rps", 20).await.map(drop).expect("full");
    let mut waiting = std::pin::pin!(acquire(waits, 20).wait_up_to(PATIENCE).into_future());
    let mut refused = 0;
    loop {
        tokio::select! {
            biased;
            served = &mut waiting => break served.map(drop).expect("in time"),
            () = tokio::time::sleep(Duration::from_millis(5)) => {}
        }
        let error = acquire(comes, 1).await.map(drop);
        let error = error.expect_err("somebody waits for more than there is");
        let exceeded = error.as_exceeded().expect("refused");
        // Once the waiter has its 20, another one takes 50 ms; timers are late by some of them.
        let soonest = Duration::from_millis(20);
        assert!(exceeded.retry_after() >= soonest, "{exceeded:?}");
        let short = exceeded.primary_violation().expect("a limit");
        assert!(short.available < 1, "{short:?}");
        refused += 1;
    }
    assert!(refused > 0, "how many depends on the machine");
    let next = acquire(comes, 1).wait_up_to(PATIENCE);
    next.await.map(drop).expect("nobody waits any more");
}

#[tokio::test]
async fn nobody_who_does_not_wait_comes_before_in_leased_mode() {
    who_does_not_wait_does_not_come_before(Mode::leased(), "one", "one").await;
}

#[tokio::test]
async fn nobody_who_does_not_wait_comes_before_in_strict_mode() {
    who_does_not_wait_does_not_come_before(Mode::Strict, "one", "one").await;
}

#[tokio::test]
async fn nobody_who_does_not_wait_comes_before_at_the_parent() {
    who_does_not_wait_does_not_come_before(Mode::leased(), "one", "two").await;
    who_does_not_wait_does_not_come_before(Mode::Strict, "one", "two").await;
}

/// What is left beyond what the line wants is anybody's; so is all of it when the line is empty.
#[tokio::test]
async fn who_waits_keeps_nothing_that_it_does_not_want() {
    for mode in [Mode::leased(), Mode::Strict] {
        let (limiter, store) = family(mode).await;
        let limits = [
            Limit::per_hour("rph", 10).expect("a limit"),
            Limit::per_hour("tph", 100).expect("a limit"),
        ];
        let acquire = |id| limiter.acquire(id, "api").limits(&limits);
        acquire("one")
            .consume("tph", 90)
            .await
            .map(drop)
            .expect("full");
        let waiting = acquire("one").consume("rph", 2).consume("tph", 50);
        let mut waiting = Box::pin(waiting.wait_up_to(Duration::from_secs(3_600)).into_future());
        let begun = tokio::time::timeout(Duration::from_millis(300), &mut waiting).await;
        assert!(begun.is_err(), "40 tokens are missing");
        // Of ten requests the line wants two.
        for _ in 0..8 {
            acquire("one")
                .consume("rph", 1)
                .await
                .map(drop)
                .expect("left");
        }
        let refused =
            |error: Result<(), _>| error.map_err(|error: zae_limiter::Error| error.kind());
        let ninth = refused(acquire("one").consume("rph", 1).await.map(drop));
        assert_eq!(ninth, Err(ErrorKind::RateLimitExceeded), "{mode:?}");
        let known = acquire("one").available().await.expect("a look");
        assert_eq!((known[0].estimate, known[1].estimate), (0, -40), "{mode:?}");
        // Its parent is in nobody's way, and neither is its sister.
        acquire("two")
            .consume("tph", 100)
            .await
            .map(drop)
            .expect("another bucket");
        drop(waiting);
        let both = acquire("one").consume("rph", 2).consume("tph", 10);
        both.await.map(drop).expect("nobody waits any more");
        limiter.shutdown(Duration::from_secs(5)).await;
        assert_eq!(consumed(&store, "one", "api", "rph").await, 10, "{mode:?}");
        assert_eq!(consumed(&store, "one", "api", "tph").await, 100, "{mode:?}");
    }
}

/// A child that waits for its own tokens does not hold up the others at the parent.
#[tokio::test]
async fn who_is_out_of_its_own_tokens_does_not_stand_in_the_parents_line() {
    for mode in [Mode::leased(), Mode::Strict] {
        let (limiter, _store) = family(mode).await;
        let few = [Limit::per_hour("rph", 10).expect("a limit")];
        let acquire = |id| limiter.acquire(id, "api").limits(&few).consume("rph", 1);
        let all = limiter.acquire("one", "api").limits(&few);
        all.consume("rph", 10).await.map(drop).expect("full");
        let hour = Duration::from_secs(3_600);
        let waiting = acquire("one").cascade(true).wait_up_to(hour);
        let mut waiting = Box::pin(waiting.into_future());
        let begun = tokio::time::timeout(Duration::from_millis(300), &mut waiting).await;
        assert!(begun.is_err(), "a token is six minutes off");
        for _ in 0..5 {
            let sister = acquire("two").cascade(true).wait_up_to(hour).into_future();
            let sister = tokio::time::timeout(Duration::from_secs(5), sister).await;
            sister.expect("at once").map(drop).expect("left");
            acquire("parent").await.map(drop).expect("left");
        }
    }
}

/// Who waits is served when somebody gives back, not only when refill has come in.
#[tokio::test]
async fn what_is_given_back_goes_to_who_waits() {
    for mode in [Mode::leased(), Mode::Strict] {
        let (limiter, _store) = family(mode).await;
        let limits = [Limit::per_hour("rph", 10).expect("a limit")];
        let acquire = || {
            limiter
                .acquire("one", "api")
                .limits(&limits)
                .consume("rph", 10)
        };
        let lease = acquire().await.expect("full");
        let hour = Duration::from_secs(3_600);
        let mut waiting = Box::pin(acquire().wait_up_to(hour).into_future());
        let begun = tokio::time::timeout(Duration::from_millis(300), &mut waiting).await;
        assert!(begun.is_err(), "ten tokens are an hour off");
        lease.rollback().await;
        let served = tokio::time::timeout(Duration::from_secs(5), waiting).await;
        served.expect("at once").map(drop).expect("given back");
    }
}
