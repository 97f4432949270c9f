//! Acquires that are answered from memory.

use std::hint::black_box;
use std::pin::pin;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use tokio::runtime::Runtime;
use zae_limiter::store::MemoryStore;
use zae_limiter::{
    BucketHandle, Error, LeasedOptions, Limit, Mode, NewEntity, RateLimiter, Settings,
};
use zae_limiter_bench::{Contestant, CountingStore, Keys};

use crate::timing::contestant;

/// What is taken of each limit to begin with, so that the block that follows lasts for the whole
/// run.
const WARM_TOKENS: u64 = 100_000_000_000;
/// What a block must hold to last.
const ENOUGH_TOKENS: u64 = 50_000_000_000;

/// So long that no renewal falls into the run.
const RENEWAL_MS: u64 = 300_000;
const LEASE_TTL_MS: u64 = 3_600_000;
/// A demand that is seen again after this long is provided for.
const OBSERVED_AGAIN: Duration = Duration::from_millis(RENEWAL_MS / 100 + 200);
/// How often demand is shown before giving up.
const SHOWINGS_MAX: usize = 4;

/// A leased limiter with all blocks filled, and a strict one, both on memory.
pub(crate) struct Local {
    runtime: Runtime,
    store: CountingStore,
    leased: RateLimiter,
    strict: RateLimiter,
    pub(crate) one_limit: [Limit; 1],
    pub(crate) two_limits: [Limit; 2],
    scarce: [Limit; 1],
}

impl Local {
    pub(crate) fn new(hot: &Keys, many: &Keys) -> Result<Self, Error> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .expect("a runtime");
        let store = CountingStore::new(MemoryStore::new());
        let options = LeasedOptions {
            renewal_interval_ms: RENEWAL_MS,
            lease_ttl_ms: LEASE_TTL_MS,
        };
        let settings = Settings {
            idle_ttl_ms: 10 * LEASE_TTL_MS,
            ..Settings::default()
        };
        let connect = |mode, store: CountingStore| {
            let builder = RateLimiter::builder("bench").settings(settings.clone());
            builder.mode(mode).store(store).connect()
        };
        let leased = runtime.block_on(connect(Mode::Leased(options), store.clone()))?;
        let elsewhere = CountingStore::new(MemoryStore::new());
        let strict = runtime.block_on(connect(Mode::Strict, elsewhere))?;
        let rps = Limit::per_second("rps", Limit::TOKENS_MAX)?;
        let local = Self {
            runtime,
            store,
            leased,
            strict,
            one_limit: [rps.clone()],
            two_limits: [rps, Limit::per_second("tps", Limit::TOKENS_MAX)?],
            scarce: [Limit::per_day("rpd", 1)?],
        };
        local.runtime.block_on(local.warm(hot, many))?;
        Ok(local)
    }

    async fn warm(&self, hot: &Keys, many: &Keys) -> Result<(), Error> {
        let project = NewEntity::new("project-1");
        self.leased.create_entity(project).await?;
        let child = NewEntity::new("child-1").parent("project-1");
        self.leased.create_entity(child).await?;
        let mut showings = 0;
        while !self.fill_all(hot, many).await? {
            showings += 1;
            assert!(
                showings < SHOWINGS_MAX,
                "the blocks do not grow so large that hits can be measured"
            );
            tokio::time::sleep(OBSERVED_AGAIN).await;
        }
        let key = &hot.names()[0];
        let scarce = || {
            let acquire = self.leased.acquire(key, "scarce").limits(&self.scarce);
            acquire.consume("rpd", 1)
        };
        let _ = scarce().await?;
        match scarce().await {
            Err(Error::RateLimitExceeded(_)) => Ok(()),
            other => panic!("a second request of one a day was not refused: {other:?}"),
        }
    }

    /// Takes much of every bucket; whether all blocks are then large enough.
    async fn fill_all(&self, hot: &Keys, many: &Keys) -> Result<bool, Error> {
        let two = &self.two_limits;
        let mut enough = self
            .fill(&hot.names()[0], "one", &self.one_limit, false)
            .await?;
        enough &= self.fill("child-1", "two", two, true).await?;
        // The first of the many keys is the hot one.
        for key in many.names() {
            enough &= self.fill(key, "two", two, false).await?;
        }
        Ok(enough)
    }

    async fn fill(
        &self,
        key: &str,
        resource: &str,
        limits: &[Limit],
        cascade: bool,
    ) -> Result<bool, Error> {
        let acquire = self.leased.acquire(key, resource).limits(limits);
        let names = limits.iter().map(Limit::name);
        let acquire = names.fold(acquire.cascade(cascade), |acquire, name| {
            acquire.consume(name, WARM_TOKENS)
        });
        let _ = acquire.await?;
        let held = self.leased.available(key, resource, limits).await?;
        Ok(held.iter().all(|limit| limit.in_hand >= ENOUGH_TOKENS))
    }

    /// Writes of the leased limiter by now: hits make none.
    pub(crate) fn writes(&self) -> u64 {
        self.store.writes()
    }

    /// `acquire(..).try_acquire()`
    pub(crate) fn hit<'a>(
        &'a self,
        name: &str,
        keys: &'a Keys,
        limits: &'a [Limit],
        threads: usize,
    ) -> Contestant<'a> {
        if let [_] = limits {
            return contestant(name, threads, move |at| {
                let acquire = self
                    .leased
                    .acquire(black_box(keys.at(at)), "one")
                    .limits(limits);
                black_box(&acquire.consume("rps", 1).try_acquire()).is_ok()
            });
        }
        contestant(name, threads, move |at| {
            let acquire = self
                .leased
                .acquire(black_box(keys.at(at)), "two")
                .limits(limits);
            black_box(&acquire.consume("rps", 1).consume("tps", 10).try_acquire()).is_ok()
        })
    }

    /// `acquire(..).await`
    pub(crate) fn awaited<'a>(&'a self, name: &str, keys: &'a Keys) -> Contestant<'a> {
        contestant(name, 1, move |at| {
            let acquire = self.leased.acquire(black_box(keys.at(at)), "two");
            let acquire = acquire
                .limits(&self.two_limits)
                .consume("rps", 1)
                .consume("tps", 10);
            matches!(black_box(&poll_once(acquire.into_future())), Some(Ok(_)))
        })
    }

    /// A child's and its parent's bucket at once.
    pub(crate) fn cascade(&self, name: &str) -> Contestant<'_> {
        contestant(name, 1, move |_| {
            let acquire = self
                .leased
                .acquire(black_box("child-1"), "two")
                .cascade(true);
            let acquire = acquire
                .limits(&self.two_limits)
                .consume("rps", 1)
                .consume("tps", 10);
            black_box(&acquire.try_acquire()).is_ok()
        })
    }

    /// `handle.try_acquire(..)`, with a handle per key.
    pub(crate) fn handle<'a>(
        &'a self,
        name: &str,
        keys: &'a Keys,
        threads: usize,
    ) -> Result<Contestant<'a>, Error> {
        let handle = |key: &String| {
            let acquire = self.leased.acquire(key, "two").limits(&self.two_limits);
            self.runtime.block_on(acquire.handle())
        };
        let handles = keys
            .names()
            .iter()
            .map(handle)
            .collect::<Result<Vec<BucketHandle>, _>>()?;
        Ok(contestant(name, threads, move |at| {
            let handle = black_box(&handles[keys.index(at)]);
            black_box(&handle.try_acquire(&[("rps", 1), ("tps", 10)])).is_ok()
        }))
    }

    /// A refusal that the process decides by itself.
    pub(crate) fn refusal<'a>(&'a self, name: &str, keys: &'a Keys) -> Contestant<'a> {
        contestant(name, 1, move |at| {
            let acquire = self.leased.acquire(black_box(keys.at(at)), "scarce");
            let answer = acquire.limits(&self.scarce).consume("rpd", 1).try_acquire();
            matches!(black_box(&answer), Err(Error::RateLimitExceeded(_)))
        })
    }

    /// `available(..).await`
    pub(crate) fn available<'a>(&'a self, name: &str, keys: &'a Keys) -> Contestant<'a> {
        contestant(name, 1, move |at| {
            let key = black_box(keys.at(at));
            let answer = poll_once(self.leased.available(key, "two", &self.two_limits));
            matches!(black_box(&answer), Some(Ok(_)))
        })
    }

    /// Strict mode, without any latency of the store.
    pub(crate) fn strict<'a>(&'a self, name: &str, keys: &'a Keys) -> Contestant<'a> {
        Contestant::new(name, move |times| {
            let acquire_all = async {
                for at in 0..times as usize {
                    let acquire = self
                        .strict
                        .acquire(keys.at(at), "two")
                        .limits(&self.two_limits);
                    let lease = acquire.consume("rps", 1).consume("tps", 10).await;
                    drop(lease.expect("a strict acquire is admitted"));
                }
            };
            let from = Instant::now();
            self.runtime.block_on(acquire_all);
            from.elapsed()
        })
    }

    pub(crate) fn shutdown(self) {
        self.runtime
            .block_on(self.leased.shutdown(Duration::from_secs(5)));
        self.runtime
            .block_on(self.strict.shutdown(Duration::from_secs(5)));
    }
}

fn poll_once<F: Future>(future: F) -> Option<F::Output> {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(output) => Some(output),
        Poll::Pending => None,
    }
}
