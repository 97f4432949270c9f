//! `Acquire::run`: what becomes of the tokens, however the work ends and whatever it does with its
//! lease.

use std::panic::AssertUnwindSafe;
use std::time::Duration;

use futures::FutureExt;
use zae_limiter::store::{FaultyStore, MemoryStore};
use zae_limiter::{Error, Limit, Mode, RateLimiter, ScopedLease};
use zae_limiter_tests::consumed;

const MODES: [fn() -> Mode; 2] = [|| Mode::Strict, Mode::leased];

struct Fixture {
    limiter: RateLimiter,
    store: MemoryStore,
    limits: [Limit; 1],
}

impl Fixture {
    async fn new(mode: Mode) -> Self {
        let store = MemoryStore::new();
        let limiter = RateLimiter::builder("run").store(FaultyStore::new(store.clone()));
        Self {
            limiter: limiter.mode(mode).connect().await.unwrap(),
            store,
            limits: [Limit::per_day("jobs", 100).unwrap()],
        }
    }

    fn acquire(&self) -> zae_limiter::Acquire<'_> {
        let acquire = self.limiter.acquire("user", "api").limits(&self.limits);
        acquire.consume("jobs", 10)
    }

    /// What is consumed in the end, after everything has reached the table.
    async fn consumed(&self) -> i64 {
        tokio::time::sleep(Duration::from_millis(50)).await;
        self.limiter.shutdown(Duration::from_secs(5)).await;
        consumed(&self.store, "user", "api", "jobs").await
    }
}

/// Work that takes ten tokens, consumes and corrects, and then ends like this.
async fn more(lease: &mut ScopedLease<'_>) {
    lease.consume("jobs", 5).await.unwrap();
    lease.adjust("jobs", 7).await.unwrap();
    lease.release("jobs", 2).await.unwrap();
    assert_eq!(lease.consumed()["jobs"], 20);
}

fn failure() -> Error {
    Error::Settings("out of paper".into())
}

#[tokio::test]
async fn work_that_succeeds_keeps_all_it_consumed() {
    for mode in MODES {
        let it = Fixture::new(mode()).await;
        let run = it.acquire().run(async |mut lease| {
            more(&mut lease).await;
            Ok::<_, Error>("done")
        });
        assert_eq!(run.await.unwrap(), "done");
        assert_eq!(it.consumed().await, 20);
    }
}

#[tokio::test]
async fn work_that_fails_panics_or_is_cancelled_gives_all_back() {
    for mode in MODES {
        let it = Fixture::new(mode()).await;
        let failed = it.acquire().run(async |mut lease| {
            more(&mut lease).await;
            Err::<(), _>(failure())
        });
        assert_eq!(failed.await.unwrap_err().kind(), failure().kind());
        let panics = it.acquire().run(async |mut lease| -> Result<(), Error> {
            more(&mut lease).await;
            panic!("out of paper")
        });
        assert!(AssertUnwindSafe(panics).catch_unwind().await.is_err());
        let panics_at_once = it
            .acquire()
            .run(|_lease| -> std::future::Ready<Result<(), Error>> {
                panic!("before there is a future")
            });
        let panicked = AssertUnwindSafe(panics_at_once).catch_unwind().await;
        assert!(panicked.is_err());
        let endless = it.acquire().run(async |mut lease| {
            more(&mut lease).await;
            std::future::pending::<Result<(), Error>>().await
        });
        let cancelled = tokio::time::timeout(Duration::from_millis(100), endless).await;
        assert!(cancelled.is_err());
        assert_eq!(it.consumed().await, 0);
    }
}

/// What counts is how the work ends, not when or where its lease is dropped.
#[tokio::test]
async fn a_lease_that_the_work_drops_or_moves_away_is_treated_as_the_work_ends() {
    for mode in MODES {
        for fails in [false, true] {
            let it = Fixture::new(mode()).await;
            let end = || if fails { Err(failure()) } else { Ok(()) };
            let dropped = it.acquire().run(async |lease| {
                drop(lease);
                end()
            });
            assert_eq!(dropped.await.is_err(), fails);
            let mut moved = None;
            let outlived = it.acquire().run(async |lease| {
                moved = Some(lease);
                end()
            });
            assert_eq!(outlived.await.is_err(), fails);
            drop(moved.take());
            assert_eq!(it.consumed().await, if fails { 0 } else { 20 });
        }
    }
}

#[tokio::test]
async fn work_is_not_begun_if_the_limit_does_not_allow_it() {
    for mode in MODES {
        let it = Fixture::new(mode()).await;
        let run = async || {
            let all = it.limiter.acquire("user", "api").limits(&it.limits);
            all.consume("jobs", 100)
                .run(async |_| Ok::<_, Error>(()))
                .await
        };
        run().await.unwrap();
        let refused = it
            .acquire()
            .run(async |_| -> Result<(), Error> { unreachable!() });
        assert!(refused.await.unwrap_err().as_exceeded().is_some());
    }
}
