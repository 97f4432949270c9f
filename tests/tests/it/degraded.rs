//! A lease that was admitted while the parent or the stored limits were not known: what is added to it when
//! the table is back is charged like that of any other lease.

use std::future::IntoFuture;
use std::time::Duration;

use zae_limiter::store::{Fault, FaultyStore, MemoryStore};
use zae_limiter::{
    Acquire, Error, ErrorKind, FailureMode, Lease, Limit, LimitScope, NewEntity, RateLimiter,
    ScopedLease, Share,
};
use zae_limiter_tests::{consumed, level};

use crate::corrections::{Bench, ID, RESOURCE, everywhere, soon};

const CHILD: &str = "child";

fn failure_modes() -> [FailureMode; 2] {
    let all = Share::new(1.0).expect("a share");
    [FailureMode::Open, FailureMode::Local(all)]
}

impl Bench {
    /// Creates a child below the entity. The limiter does not know of it yet.
    async fn create_family(&self) {
        let create = |entity| self.limiter.create_entity(entity);
        create(NewEntity::new(ID)).await.expect("new");
        let child = NewEntity::new(CHILD).parent(ID);
        create(child).await.expect("new");
    }

    fn cascade(&self, tokens: u64) -> Acquire<'_> {
        let acquire = self.limiter.acquire(CHILD, RESOURCE).limits(&self.limits);
        acquire.consume("tokens", tokens).cascade(true)
    }

    fn leave(&self) {
        self.store.fail_all(Some(Fault::Unreachable));
    }

    /// The table is back, and the limiter knows.
    async fn come_back(&self) {
        self.store.fail_all(None);
        let acquire = || self.limiter.acquire("other", RESOURCE).limits(&self.limits);
        let other = soon(|| acquire().consume("tokens", 1).strict(true).into_future());
        other.await.rollback().await;
    }

    /// What the limiter knows of the child's parent is forgotten.
    async fn forget_parent(&self) {
        let set = self.limiter.set_parent(CHILD, Some(ID));
        set.await.expect("a table");
    }

    /// A lease that was admitted without the table, which is back now.
    async fn degraded<'a>(&'a self, acquire: Acquire<'a>, mode: FailureMode) -> Lease<'a> {
        self.forget_parent().await;
        self.leave();
        let lease = acquire.failure_mode(mode).await.expect("admitted");
        assert!(lease.is_degraded());
        self.come_back().await;
        lease
    }

    async fn of_child(&self) -> (i64, i64) {
        let level = level(&self.store, CHILD, RESOURCE, &self.limits[0]).await;
        let consumed = consumed(&self.store, CHILD, RESOURCE, "tokens").await;
        (level, consumed)
    }
}

#[tokio::test]
async fn parent_is_charged_for_what_is_added_to_a_degraded_lease() {
    for mode in failure_modes() {
        everywhere(100, async |bench| {
            let at = (bench.mode, mode);
            bench.create_family().await;
            let mut lease = bench.degraded(bench.cascade(10), mode).await;
            lease.consume("tokens", 30).await.expect("full");
            lease.adjust("tokens", 20).await.expect("any level");
            lease.release("tokens", 5).await.expect("as much");
            assert_eq!(lease.consumed()["tokens"], 55, "{at:?}");
            // The parent has 55 left, and so has the child.
            let refused = lease.consume("tokens", 56).await.expect_err("too much");
            assert_eq!(refused.kind(), ErrorKind::RateLimitExceeded, "{at:?}");
            lease.commit();

            let mut lease = bench.degraded(bench.cascade(10), mode).await;
            lease.consume("tokens", 20).await.expect("55 are left");
            lease.rollback().await;

            assert_eq!(bench.admitted().await, 55, "{at:?}");
            assert_eq!(bench.afterwards().await, (0, 100), "{at:?}");
            assert_eq!(bench.of_child().await, (55, 45), "{at:?}");
        })
        .await;
    }
}

#[tokio::test]
async fn correction_upwards_is_charged_to_both_when_the_table_is_back() {
    for mode in failure_modes() {
        for known in [false, true] {
            everywhere(100, async |bench| {
                let at = (bench.mode, mode, known);
                bench.create_family().await;
                if known {
                    bench.cascade(0).handle().await.expect("a table");
                }
                bench.leave();
                let acquire = bench.cascade(10).failure_mode(mode);
                let mut lease = acquire.await.expect("admitted");
                assert!(lease.is_degraded(), "{at:?}");
                lease.adjust("tokens", 7).await.expect("nobody pays");
                bench.come_back().await;
                lease.adjust("tokens", 300).await.expect("any level");
                lease.adjust("tokens", -250).await.expect("as much");
                lease.into_owned().commit();
                assert_eq!(bench.admitted().await, 50, "{at:?}");
                assert_eq!(bench.afterwards().await, (0, 100), "{at:?}");
                assert_eq!(bench.of_child().await, (50, 50), "{at:?}");
            })
            .await;
        }
    }
}

/// The parent has nothing left, and the table is away for longer than one call.
#[tokio::test]
async fn bound_of_the_parent_holds_whatever_is_added_to_a_degraded_lease() {
    for mode in failure_modes() {
        everywhere(100, async |bench| {
            let at = (bench.mode, mode);
            bench.create_family().await;
            bench.acquire(100).await.expect("full").commit();
            bench.leave();
            let acquire = bench.cascade(10).failure_mode(mode);
            let mut lease = acquire.await.expect("admitted").into_owned();
            lease.consume("tokens", 10).await.expect("still away");
            lease.adjust("tokens", 3).await.expect("still away");
            lease.adjust("tokens", -1).await.expect("as much");
            bench.come_back().await;
            let refused = lease.consume("tokens", 1).await.expect_err("none is left");
            assert_eq!(refused.kind(), ErrorKind::RateLimitExceeded, "{at:?}");
            assert_eq!(lease.consumed()["tokens"], 22, "{at:?}");
            lease.rollback().await;
            assert_eq!(bench.afterwards().await, (0, 100), "{at:?}");
            assert_eq!(bench.of_child().await, (100, 0), "{at:?}");
        })
        .await;
    }
}

#[tokio::test]
async fn parent_is_charged_for_what_the_work_of_run_consumes_after_an_outage() {
    everywhere(100, async |bench| {
        bench.create_family().await;
        for (tokens, fails) in [(60, true), (40, false)] {
            bench.forget_parent().await;
            bench.leave();
            let work = async |mut lease: ScopedLease<'_>| {
                bench.come_back().await;
                lease.consume("tokens", tokens).await?;
                match fails {
                    true => Err(Error::Settings("it fails".into())),
                    false => Ok(()),
                }
            };
            let acquire = bench.cascade(10).failure_mode(FailureMode::Open);
            assert_eq!(acquire.run(work).await.is_err(), fails);
        }
        assert_eq!(bench.afterwards().await, (60, 40), "{:?}", bench.mode);
        assert_eq!(bench.of_child().await, (60, 40), "{:?}", bench.mode);
    })
    .await;
}

#[tokio::test]
async fn parent_is_charged_for_what_is_added_to_a_degraded_lease_of_a_handle() {
    everywhere(100, async |bench| {
        bench.create_family().await;
        let limiter = RateLimiter::builder("corrections").store(bench.store.clone());
        let limiter = limiter.mode(bench.mode).failure_mode(FailureMode::Open);
        let limiter = limiter.connect().await.expect("a table");
        let handle = limiter.acquire(CHILD, RESOURCE).limits(&bench.limits);
        let handle = handle.cascade(true).handle().await.expect("a table");
        limiter.set_parent(CHILD, Some(ID)).await.expect("there"); // and forgotten
        bench.leave();
        let lease = handle.acquire(&[("tokens", 10)]).await;
        let mut lease = lease.expect("it is open");
        bench.store.fail_all(None);
        while limiter.metrics().breaker_open {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        lease.consume("tokens", 30).await.expect("full");
        lease.commit();
        limiter.shutdown(Duration::from_secs(20)).await;
        assert_eq!(bench.afterwards().await, (70, 30), "{:?}", bench.mode);
        assert_eq!(bench.of_child().await, (70, 30), "{:?}", bench.mode);
    })
    .await;
}

/// The limits of the call were taken for the limits in force, and were not.
#[tokio::test]
async fn stored_limits_hold_for_what_is_added_to_a_degraded_lease() {
    let [tokens, calls] = ["tokens", "calls"].map(|name| {
        let limit = Limit::custom(name, 20, 1, Duration::from_secs(86_400));
        limit.expect("a limit")
    });
    for mode in failure_modes() {
        everywhere(100, async |bench| {
            let at = (bench.mode, mode);
            bench.create_family().await;
            let scope = LimitScope::entity(CHILD).expect("a scope");
            let stored = [calls.clone(), tokens.clone()]; // in another order
            let set_limits = async || {
                let set = bench.limiter.set_limits(&scope, &stored);
                set.await.expect("a table");
            };
            set_limits().await;
            let acquire = |tokens| bench.cascade(tokens).use_stored_limits(true);
            let mut lease = bench.degraded(acquire(50), mode).await;
            let never = lease.consume("tokens", 21).await.expect_err("burst is 20");
            assert_eq!(never.kind(), ErrorKind::Validation, "{at:?}");
            lease.consume("tokens", 15).await.expect("full");
            lease
                .consume("calls", 2)
                .await
                .expect("the parent has no such limit");
            let refused = lease.consume("tokens", 15).await.expect_err("5 are left");
            assert_eq!(refused.kind(), ErrorKind::RateLimitExceeded, "{at:?}");
            assert_eq!(lease.consumed()["tokens"], 65, "{at:?}");
            assert_eq!(lease.consumed()["calls"], 2, "{at:?}");
            lease.release("tokens", 25).await.expect("as much"); // 10 of them nobody paid
            assert!(lease.release("tokens", 41).await.is_err(), "{at:?}");
            lease.consume("tokens", 20).await.expect("full again");
            lease.adjust("tokens", 3).await.expect("any level");
            assert_eq!(lease.into_owned().consumed()["tokens"], 63, "{at:?}");

            set_limits().await; // and what was known of them is forgotten
            let mut lease = bench.degraded(acquire(20), mode).await;
            let refused = lease.consume("tokens", 1).await.expect_err("3 are owed");
            assert_eq!(refused.kind(), ErrorKind::RateLimitExceeded, "{at:?}");
            lease.adjust("tokens", 9).await.expect("any level");
            lease.rollback().await;

            assert_eq!(bench.afterwards().await, (77, 23), "{at:?}");
            let level = level(&bench.store, CHILD, RESOURCE, &tokens).await;
            assert_eq!((level, bench.of_child().await.1), (-3, 23), "{at:?}");
        })
        .await;
    }
}

#[test]
fn parent_is_charged_for_what_is_added_to_a_blocking_degraded_lease() {
    let store = FaultyStore::new(MemoryStore::new());
    let limiter = RateLimiter::builder("degraded").store(store.clone());
    let limiter = limiter.failure_mode(FailureMode::Open);
    let limiter = limiter.connect_blocking().expect("a table");
    limiter.create_entity(NewEntity::new(ID)).expect("new");
    limiter
        .create_entity(NewEntity::new(CHILD).parent(ID))
        .expect("new");
    let limits = [Limit::custom("tokens", 100, 1, Duration::from_secs(86_400)).expect("a limit")];
    let acquire = |id| limiter.acquire(id, RESOURCE).limits(&limits);
    store.fail_all(Some(Fault::Unreachable));
    let mut lease = acquire(CHILD)
        .consume("tokens", 10)
        .cascade(true)
        .wait()
        .expect("it is open");
    assert!(lease.is_degraded());
    store.fail_all(None);
    while limiter.metrics().breaker_open {
        std::thread::sleep(Duration::from_millis(5));
    }
    lease.consume("tokens", 30).expect("full");
    lease.adjust("tokens", 15).expect("any level");
    lease.release("tokens", 5).expect("as much");
    lease.commit();
    assert_eq!(acquire(ID).available().expect("a table")[0].estimate, 60);
}

/// The tokens in hand are the entity's own; whether the parent allows it nobody knows.
#[tokio::test]
async fn block_in_hand_does_not_pay_a_cascade_to_a_parent_that_is_not_known() {
    let store = FaultyStore::new(MemoryStore::new());
    let limiter = RateLimiter::builder("degraded").store(store.clone());
    let limiter = limiter.connect().await.expect("a table");
    let limits = [Limit::per_second("tokens", 100_000).expect("a limit")];
    let acquire = || {
        let acquire = limiter.acquire(CHILD, RESOURCE).limits(&limits);
        acquire.consume("tokens", 10)
    };
    for _ in 0..1_000 {
        acquire().await.expect("plenty").commit();
    }
    store.fail_all(Some(Fault::Unreachable));
    acquire().strict(true).await.expect_err("an outage");
    assert!(limiter.metrics().breaker_open);
    acquire().try_acquire().expect("a block in hand").commit();
    for stored in [false, true] {
        let unknown = acquire().cascade(!stored).use_stored_limits(stored);
        let refused = unknown.clone().try_acquire().expect_err("closed");
        assert_eq!(refused.kind(), ErrorKind::Unavailable, "stored: {stored}");
        let open = unknown.failure_mode(FailureMode::Open).try_acquire();
        assert!(open.expect("open").is_degraded(), "stored: {stored}");
    }
}
