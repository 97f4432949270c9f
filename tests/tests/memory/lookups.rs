//! Parents and stored limits are looked up once for all callers, whatever becomes of the first of them.

use std::future::{Future, IntoFuture};
use std::pin::pin;
use std::task::{Context, Waker};
use std::time::Duration;

use tokio::time::timeout;
use zae_limiter::store::{Fault, FaultyStore, MemoryStore};
use zae_limiter::{
    Acquire, ErrorKind, Limit, LimitScope, Mode, NewEntity, RateLimiter, RateLimiterBuilder,
    Settings,
};

const AT_ONCE: Duration = Duration::from_secs(5);
const MODES: [fn() -> Mode; 2] = [|| Mode::Strict, Mode::leased];

fn limits() -> [Limit; 1] {
    [Limit::per_hour("jobs", 10).unwrap()]
}

/// A limiter that knows nothing of what is stored.
fn builder(mode: Mode, acquire_timeout_ms: u64) -> (FaultyStore<MemoryStore>, RateLimiterBuilder) {
    let store = FaultyStore::new(MemoryStore::new());
    let settings = Settings {
        mode,
        acquire_timeout_ms,
        ..Settings::default()
    };
    let builder = RateLimiter::builder("lookups").store(store.clone());
    (store, builder.settings(settings))
}

async fn limiter(mode: Mode, timeout_ms: u64) -> (FaultyStore<MemoryStore>, RateLimiter) {
    let (store, builder) = builder(mode, timeout_ms);
    let limiter = builder.connect().await.unwrap();
    let parent = NewEntity::new("parent");
    limiter.create_entity(parent).await.unwrap();
    let child = NewEntity::new("child").parent("parent");
    limiter.create_entity(child).await.unwrap();
    let (scope, limits) = (LimitScope::system(), limits());
    limiter.set_limits(&scope, &limits).await.unwrap();
    store.reset();
    (store, limiter)
}

/// What has to be looked up: the parent, or the limits.
fn acquires<'a>(limiter: &'a RateLimiter, limits: &'a [Limit]) -> [Acquire<'a>; 2] {
    let acquire = || limiter.acquire("child", "api").consume("jobs", 1);
    [
        acquire().limits(limits).cascade(true),
        acquire().use_stored_limits(true),
    ]
}

#[tokio::test]
async fn acquire_that_is_polled_once_and_kept_holds_up_nobody() {
    let limits = limits();
    for mode in MODES {
        for at in [0, 1] {
            let (store, limiter) = limiter(mode(), 60_000).await;
            let acquire = || acquires(&limiter, &limits)[at].clone();
            store.fail_next(Fault::Delay(Duration::from_millis(50)), 1);
            let mut kept = pin!(acquire().into_future());
            let mut context = Context::from_waker(Waker::noop());
            assert!(kept.as_mut().poll(&mut context).is_pending());
            let other = timeout(AT_ONCE, acquire().into_future());
            other.await.expect("at once").unwrap().commit();
            let looks = timeout(AT_ONCE, acquire().available());
            assert_eq!(looks.await.expect("at once").unwrap()[0].estimate, 9);
            if at == 0 {
                let handle = timeout(AT_ONCE, acquire().handle());
                handle.await.expect("at once").unwrap();
            }
            let families = if at == 0 { 1 } else { 3 };
            assert_eq!(limiter.metrics().catalog_loads, families, "once for all");
            timeout(AT_ONCE, kept)
                .await
                .expect("at once")
                .unwrap()
                .commit();
        }
    }
}

/// The first one is dropped; what it has begun is there for others.
#[tokio::test]
async fn acquire_that_is_dropped_leaves_its_lookup_to_others() {
    let limits = limits();
    for at in [0, 1] {
        let (store, limiter) = limiter(Mode::leased(), 60_000).await;
        let acquire = || acquires(&limiter, &limits)[at].clone();
        store.fail_next(Fault::Delay(Duration::from_millis(50)), 1);
        let cut = timeout(Duration::from_millis(1), acquire().into_future());
        assert!(cut.await.is_err());
        acquire().await.unwrap().commit();
        let expected = if at == 0 { 1 } else { 3 };
        assert_eq!(limiter.metrics().catalog_loads, expected);
    }
}

#[tokio::test]
async fn handles_and_looks_end_with_the_acquire_timeout() {
    let limits = limits();
    for mode in MODES {
        let (store, limiter) = limiter(mode(), 100).await;
        store.fail_all(Some(Fault::Delay(Duration::from_secs(600))));
        let [parent, stored] = acquires(&limiter, &limits);
        let handle = timeout(AT_ONCE, parent.clone().handle()).await;
        let error = handle.expect("in time").map(drop).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
        for acquire in [parent, stored] {
            let look = timeout(AT_ONCE, acquire.check()).await;
            let error = look.expect("in time").unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
        }
        // A read that never ends is given up: the next one is made when the table is back.
        store.fail_all(None);
        let [parent, stored] = acquires(&limiter, &limits);
        for acquire in [parent, stored] {
            let begun = std::time::Instant::now();
            while acquire.clone().await.is_err() {
                assert!(begun.elapsed() < AT_ONCE, "it does not recover");
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        }
    }
}

/// A caller that blocks the only thread of a runtime.
#[tokio::test]
async fn blocking_callers_in_a_runtime_of_one_thread_look_up_too() {
    let limits = limits();
    let (store, builder) = builder(Mode::leased(), 10_000);
    let limiter = builder.connect_blocking().unwrap();
    limiter.create_entity(NewEntity::new("parent")).unwrap();
    let child = NewEntity::new("child").parent("parent");
    limiter.create_entity(child).unwrap();
    store.fail_next(Fault::Delay(Duration::from_millis(50)), 1);
    let acquire = || {
        let acquire = limiter.acquire("child", "api").limits(&limits);
        acquire.consume("jobs", 1).cascade(true)
    };
    std::thread::scope(|scope| {
        let other = scope.spawn(|| acquire().wait().map(|lease| lease.commit()));
        acquire().wait().unwrap().commit();
        acquire().handle().unwrap();
        other.join().unwrap().unwrap();
    });
    limiter.shutdown(AT_ONCE);
}

/// A change waits for the look-up under way, to have it forgotten; its caller goes on with other things.
#[tokio::test]
async fn change_that_is_polled_once_and_kept_holds_up_nobody() {
    let limits = limits();
    for at in [0, 1] {
        let (store, limiter) = limiter(Mode::leased(), 60_000).await;
        let acquire = || acquires(&limiter, &limits)[at].clone();
        store.fail_next(Fault::Delay(Duration::from_millis(100)), 1);
        let mut first = pin!(acquire().into_future());
        let looks_up = timeout(Duration::from_millis(20), first.as_mut());
        assert!(looks_up.await.is_err());
        let scope = LimitScope::entity("child").unwrap();
        let mut change = pin!(async {
            if at == 0 {
                limiter.set_parent("child", None).await.unwrap();
            } else {
                limiter.set_limits(&scope, &limits).await.unwrap();
            }
        });
        let begun = timeout(Duration::from_millis(20), change.as_mut());
        assert!(begun.await.is_err());
        tokio::time::sleep(Duration::from_millis(200)).await;
        let first = timeout(AT_ONCE, first);
        first.await.expect("at once").unwrap().commit();
        let other = timeout(AT_ONCE, acquire().into_future());
        other.await.expect("at once").unwrap().commit();
        timeout(AT_ONCE, change).await.expect("at once");
    }
}
