//! Corrections, give-backs and cancellations are exact: whatever callers do with their leases, no more is
//! admitted than the limit allows, and the table ends at the level that the books say.
//!
//! Each of these once admitted too much, or lost what was given back. Each is played in memory and on a
//! table, in leased and in strict mode.

use std::future::{Future, IntoFuture};
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Waker};
use std::time::{Duration, Instant};

use zae_limiter::store::{Fault, FaultyStore, MemoryStore, Store};
use zae_limiter::{
    Acquire, Degraded, Error, FailureMode, Lease, Limit, Mode, NewEntity, RateLimiter, ScopedLease,
    Settings, Share,
};
use zae_limiter_tests::{FreshTable, consumed, fresh_table, level};

pub(crate) const ID: &str = "user";
pub(crate) const RESOURCE: &str = "gpt-4";
const DEADLINE: Duration = Duration::from_secs(20);

/// A table, a limiter on it, and a limit of which next to nothing flows in during a test.
pub(crate) struct Bench {
    pub(crate) store: FaultyStore<dyn Store>,
    pub(crate) limiter: RateLimiter,
    pub(crate) limits: [Limit; 1],
    pub(crate) mode: Mode,
    /// Is deleted when this is dropped.
    _table: Option<FreshTable>,
}

impl Bench {
    async fn of(mode: Mode, on_a_table: bool, burst: u64) -> Self {
        let (store, table) = if on_a_table {
            let table = fresh_table("corrections").await;
            let store: Arc<dyn Store> = Arc::new(table.store());
            (store, Some(table))
        } else {
            (Arc::new(MemoryStore::new()) as Arc<dyn Store>, None)
        };
        let store = FaultyStore::over(store);
        let settings = Settings {
            mode,
            acquire_timeout_ms: 10_000,
            ..Settings::default()
        };
        let builder = RateLimiter::builder("corrections").store(store.clone());
        let limiter = builder.settings(settings).connect().await.expect("a table");
        let limit = Limit::custom("tokens", burst, 1, Duration::from_secs(86_400));
        Self {
            store,
            limiter,
            limits: [limit.expect("a limit")],
            mode,
            _table: table,
        }
    }

    pub(crate) fn acquire(&self, tokens: u64) -> Acquire<'_> {
        let acquire = self.limiter.acquire(ID, RESOURCE).limits(&self.limits);
        acquire.consume("tokens", tokens)
    }

    /// Acquires of one token until one is refused.
    pub(crate) async fn admitted(&self) -> u64 {
        let mut admitted = 0;
        while self.acquire(1).await.is_ok() {
            admitted += 1;
            assert!(admitted < 100_000, "it never refuses");
        }
        admitted
    }

    /// Polls until the table has been written to `writes` times, and then drops the future.
    async fn cancel_after_writes(&self, writes: u64, future: impl Future) {
        let before = self.store.writes();
        let mut future = pin!(future);
        loop {
            let mut context = Context::from_waker(Waker::noop());
            assert!(future.as_mut().poll(&mut context).is_pending());
            if self.store.writes() >= before + writes {
                return;
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    /// What the table holds, and has been told of, when everything has been given back.
    pub(crate) async fn afterwards(&self) -> (i64, i64) {
        self.limiter.shutdown(DEADLINE).await;
        let level = level(&self.store, ID, RESOURCE, &self.limits[0]).await;
        (level, consumed(&self.store, ID, RESOURCE, "tokens").await)
    }
}

/// What nobody waits for ends some time: tries until it is admitted.
pub(crate) async fn soon<'a, F>(acquire: impl Fn() -> F) -> Lease<'a>
where
    F: Future<Output = Result<Lease<'a>, Error>>,
{
    let begun = Instant::now();
    loop {
        match acquire().await {
            Ok(lease) => return lease,
            Err(error) => assert!(begun.elapsed() < DEADLINE, "{error}"),
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

pub(crate) async fn everywhere(burst: u64, scenario: impl AsyncFn(&Bench)) {
    for on_a_table in [false, true] {
        for mode in [Mode::leased(), Mode::Strict] {
            scenario(&Bench::of(mode, on_a_table, burst).await).await;
        }
    }
}

#[tokio::test]
async fn correction_upwards_that_is_rolled_back_is_no_stock() {
    for correction in [300, 5_000] {
        everywhere(100, async |bench| {
            let mut lease = bench.acquire(10).await.expect("full");
            lease.adjust("tokens", correction).await.expect("any level");
            lease.rollback().await;
            let admitted = bench.admitted().await;
            let at = (bench.mode, correction);
            assert_eq!(admitted, 100, "{at:?}");
            assert_eq!(bench.afterwards().await, (0, 100), "{at:?}");
        })
        .await;
    }
}

#[tokio::test]
async fn correction_upwards_that_is_corrected_again_is_no_stock() {
    everywhere(100, async |bench| {
        let mut lease = bench.acquire(10).await.expect("full");
        lease.adjust("tokens", 300).await.expect("any level");
        lease.adjust("tokens", -300).await.expect("as much");
        lease.commit();
        assert_eq!(bench.admitted().await, 90, "{:?}", bench.mode);
        assert_eq!(bench.afterwards().await, (0, 100), "{:?}", bench.mode);
    })
    .await;
}

/// The table is corrected, the caller is gone before it knows, and then the lease is rolled back.
#[tokio::test]
async fn correction_that_is_cancelled_counts_once() {
    everywhere(100, async |bench| {
        for delta in [-20, -40, 15] {
            let lease = bench.acquire(40).await.expect("full");
            let mut lease = lease.into_owned();
            bench
                .store
                .fail_all(Some(Fault::LateReply(Duration::from_millis(20))));
            if bench.mode == Mode::Strict {
                let correction = lease.adjust("tokens", delta);
                bench.cancel_after_writes(1, correction).await;
            } else {
                lease.adjust("tokens", delta).await.expect("any level");
            }
            let left = u64::try_from(40 + delta).expect("no less than nothing");
            assert_eq!(lease.consumed().get("tokens").copied().unwrap_or(0), left);
            bench.store.fail_all(None);
            lease.rollback().await;
        }
        assert_eq!(bench.admitted().await, 100, "{:?}", bench.mode);
        assert_eq!(bench.afterwards().await, (0, 100), "{:?}", bench.mode);
    })
    .await;
}

#[tokio::test]
async fn rollback_that_is_cancelled_is_finished() {
    everywhere(100, async |bench| {
        let cascade = async || {
            let acquire = bench.limiter.acquire("child", RESOURCE);
            let acquire = acquire.limits(&bench.limits).consume("tokens", 60);
            acquire.cascade(true).await
        };
        let parent = NewEntity::new(ID);
        bench.limiter.create_entity(parent).await.expect("new");
        let child = NewEntity::new("child").parent(ID);
        bench.limiter.create_entity(child).await.expect("new");
        for polls in 0..3 {
            let lease = soon(cascade).await;
            let mut rollback = pin!(lease.rollback());
            let mut context = Context::from_waker(Waker::noop());
            for _ in 0..polls {
                if rollback.as_mut().poll(&mut context).is_ready() {
                    break;
                }
            }
        }
        soon(cascade).await.commit();
        assert_eq!(bench.admitted().await, 40, "{:?}", bench.mode);
        assert_eq!(bench.afterwards().await, (0, 100), "{:?}", bench.mode);
        let child = level(&bench.store, "child", RESOURCE, &bench.limits[0]).await;
        assert_eq!(child, 40, "{:?}", bench.mode);
    })
    .await;
}

#[tokio::test]
async fn run_that_fails_and_is_cancelled_gives_back() {
    everywhere(100, async |bench| {
        bench.admitted_none().await;
        bench
            .store
            .fail_all(Some(Fault::LateReply(Duration::from_millis(20))));
        let failing = async |_: ScopedLease<'_>| Err::<(), _>(Error::Settings("it fails".into()));
        let run = bench.acquire(60).strict(true).run(failing);
        bench.cancel_after_writes(2, run).await;
        bench.store.fail_all(None);
        soon(|| bench.acquire(100).strict(true).into_future())
            .await
            .commit();
        assert_eq!(bench.afterwards().await, (0, 100), "{:?}", bench.mode);
    })
    .await;
}

impl Bench {
    /// Makes the bucket known, and takes nothing.
    async fn admitted_none(&self) {
        self.acquire(1).await.expect("full").rollback().await;
    }
}

/// Admissions that nobody has paid for, by what the failure mode says while the table is away.
async fn degraded(bench: &Bench, mode: FailureMode, tokens: u64, count: usize) -> Vec<Lease<'_>> {
    bench.store.fail_all(Some(Fault::Unreachable));
    let mut leases = Vec::new();
    for _ in 0..count {
        let acquire = bench.acquire(tokens).failure_mode(mode);
        let lease = acquire.await.expect("it is open");
        let expected = match mode {
            FailureMode::Open => Degraded::Open,
            _ => Degraded::Local,
        };
        assert_eq!(lease.degraded(), Some(expected));
        leases.push(lease);
    }
    bench.store.fail_all(None);
    // Until the breaker has noticed.
    let one = soon(|| bench.acquire(1).strict(true).into_future()).await;
    one.rollback().await;
    leases
}

#[tokio::test]
async fn unpaid_tokens_are_never_credited() {
    let all = Share::new(1.0).expect("a share");
    for failure_mode in [FailureMode::Open, FailureMode::Local(all)] {
        everywhere(1_000, async |bench| {
            bench.acquire(990).await.expect("full").commit();
            for mut lease in degraded(bench, failure_mode, 300, 3).await {
                lease.consume("tokens", 1).await.expect("10 are left");
                assert_eq!(lease.consumed()["tokens"], 301);
                lease.rollback().await;
            }
            let at = (bench.mode, failure_mode);
            assert_eq!(bench.admitted().await, 10, "{at:?}");
            assert_eq!(bench.afterwards().await, (0, 1_000), "{at:?}");
        })
        .await;
    }
}

#[tokio::test]
async fn streaming_on_a_degraded_lease_does_not_fill_the_bucket() {
    everywhere(100_000, async |bench| {
        bench.acquire(93_000).await.expect("full").commit();
        for mut lease in degraded(bench, FailureMode::Open, 80_000, 1).await {
            for _ in 0..20 {
                lease.consume("tokens", 1).await.expect("some are left");
                lease.adjust("tokens", -3_500).await.expect("as much");
            }
            assert_eq!(lease.consumed()["tokens"], 10_020);
            lease.commit();
        }
        assert_eq!(
            bench.afterwards().await,
            (7_000, 93_000),
            "{:?}",
            bench.mode
        );
    })
    .await;
}

/// Of two limits the slower one decides how long the table keeps the bucket, whichever is charged.
#[tokio::test]
async fn bucket_is_kept_until_its_slowest_limit_is_full() {
    let month = Duration::from_secs(30 * 86_400);
    let monthly = Limit::custom("monthly", 1_000_000, 1_000_000, month).expect("a limit");
    let limits = [monthly, Limit::per_minute("rpm", 60).expect("a limit")];
    for mode in [Mode::Strict, Mode::leased()] {
        let store = MemoryStore::new();
        let connect = async || {
            let builder = RateLimiter::builder("corrections").store(store.clone());
            builder.mode(mode).connect().await.expect("a table")
        };
        // One has seen the bucket, the other has not, or has seen it long ago.
        let (one, other) = (connect().await, connect().await);
        let spend = async |limiter: &RateLimiter, name, tokens| {
            let acquire = limiter.acquire(ID, RESOURCE).limits(&limits);
            acquire.consume(name, tokens).await.map(Lease::commit)
        };
        spend(&other, "rpm", 1).await.expect("full");
        spend(&one, "monthly", 999_000).await.expect("full");
        for limiter in [&one, &other] {
            spend(limiter, "rpm", 1).await.expect("full");
            spend(&connect().await, "rpm", 1).await.expect("full");
        }
        one.shutdown(DEADLINE).await;
        other.shutdown(DEADLINE).await;
        let soon = zae_limiter::Clock::system()
            .wall()
            .after(Duration::from_secs(9 * 86_400));
        store.expire(soon);
        let level = level(&store, ID, RESOURCE, &limits[0]).await;
        assert!(level <= 1_000 + 40, "{mode:?}: {level}");
    }
}

/// A bucket that is deleted is full when it is made again. What the one before was debited is gone with it.
#[tokio::test]
async fn payment_of_a_deleted_bucket_is_not_credited_to_the_next_one() {
    everywhere(100, async |bench| {
        let builder = RateLimiter::builder("corrections").store(bench.store.clone());
        let other = builder.mode(Mode::Strict).connect().await.expect("a table");
        let acquire = |tokens| {
            let acquire = other.acquire(ID, RESOURCE).limits(&bench.limits);
            acquire.consume("tokens", tokens)
        };
        for by_the_table in [true, false] {
            let lease = bench.acquire(60).strict(by_the_table);
            let lease = lease.await.expect("full");
            other.delete_entity(ID).await.expect("a table");
            acquire(100).await.expect("made again, full").commit();
            lease.rollback().await;
            let refused = acquire(1).await;
            assert!(refused.is_err(), "{:?}, {by_the_table}", bench.mode);
            other.delete_entity(ID).await.expect("a table");
            // The process learns of it.
            bench
                .acquire(1)
                .strict(true)
                .await
                .expect("made again")
                .rollback()
                .await;
        }
        let lease = bench.acquire(60).await.expect("full");
        other.delete_entity(ID).await.expect("a table");
        acquire(100).await.expect("made again, full").commit();
        lease.rollback().await;
        assert_eq!(bench.afterwards().await.0, 0, "{:?}", bench.mode);
    })
    .await;
}
