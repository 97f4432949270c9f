//! Strict and leased acquires on one and the same endpoint: DynamoDB or an emulator if the
//! environment names one, or else memory that takes its time.

use std::env;
use std::error::Error;
use std::time::{Duration, Instant};

use tokio::runtime::Runtime;
use zae_limiter::store::{Fault, FaultyStore, MemoryStore};
use zae_limiter::{Limit, Mode, RateLimiter};
use zae_limiter_bench::{Contestant, CountingStore, ScratchTable};

/// Names the endpoint.
const ENDPOINT_VARIABLE: &str = "ZAE_LIMITER_BENCH_ENDPOINT";
/// How long every call takes where there is no endpoint.
const STORE_LATENCY: Duration = Duration::from_millis(5);
/// How long the leased limiter runs before it is measured.
const WARM_UP: Duration = Duration::from_secs(3);

/// Both limiters on one table, set as they are by default.
pub(crate) struct Distant {
    runtime: Runtime,
    /// What the table is, for people.
    pub(crate) place: String,
    store: CountingStore,
    table: Option<ScratchTable>,
    limits: [Limit; 2],
    strict: RateLimiter,
    leased: RateLimiter,
}

impl Distant {
    pub(crate) fn connect() -> Result<Self, Box<dyn Error>> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .enable_all()
            .build()?;
        let (place, store, table) = match env::var(ENDPOINT_VARIABLE) {
            Ok(url) => {
                let table = runtime.block_on(make_table(&url))?;
                (url, CountingStore::new(table.store()), Some(table))
            }
            Err(_) => {
                let store = FaultyStore::new(MemoryStore::new());
                store.fail_all(Some(Fault::Delay(STORE_LATENCY)));
                let place = format!("memory, every call taking {STORE_LATENCY:?}");
                (place, CountingStore::new(store), None)
            }
        };
        let table = TableGuard {
            runtime: &runtime,
            table,
        };
        let connect = |mode| {
            let builder = RateLimiter::builder("bench").mode(mode);
            runtime.block_on(builder.store(store.clone()).connect())
        };
        let (strict, leased) = (connect(Mode::Strict)?, connect(Mode::leased())?);
        let limits = [
            Limit::per_second("rps", Limit::TOKENS_MAX)?,
            Limit::per_second("tps", Limit::TOKENS_MAX)?,
        ];
        let table = table.keep();
        Ok(Self {
            runtime,
            place,
            store,
            table,
            limits,
            strict,
            leased,
        })
    }

    /// Writes by now, of both limiters.
    pub(crate) fn writes(&self) -> u64 {
        self.store.writes()
    }

    pub(crate) fn strict(&self) -> Contestant<'_> {
        self.contestant("strict", &self.strict)
    }

    /// Warm: demand is known, and the block is as large as that takes.
    pub(crate) fn leased(&self) -> Contestant<'_> {
        let mut leased = self.contestant("leased", &self.leased);
        let from = Instant::now();
        while from.elapsed() < WARM_UP {
            leased.run(10_000);
        }
        leased
    }

    fn contestant<'a>(&'a self, mode: &'static str, limiter: &'a RateLimiter) -> Contestant<'a> {
        Contestant::new(mode, move |times| {
            let acquire_all = async {
                for _ in 0..times {
                    let acquire = limiter.acquire(mode, "two").limits(&self.limits);
                    let lease = acquire.consume("rps", 1).consume("tps", 10).await;
                    let lease = lease.expect("an acquire far below the limit is admitted");
                    assert!(
                        !lease.is_degraded(),
                        "{mode}: admitted without asking the table"
                    );
                }
            };
            let from = Instant::now();
            self.runtime.block_on(acquire_all);
            from.elapsed()
        })
    }
}

impl Drop for Distant {
    fn drop(&mut self) {
        for limiter in [&self.strict, &self.leased] {
            self.runtime
                .block_on(limiter.shutdown(Duration::from_secs(5)));
        }
        drop(TableGuard {
            runtime: &self.runtime,
            table: self.table.take(),
        });
    }
}

async fn make_table(url: &str) -> Result<ScratchTable, Box<dyn Error>> {
    let table = if ScratchTable::is_local(url) {
        ScratchTable::of_emulator("bench", url)
    } else {
        ScratchTable::connect("bench", url, None).await?
    };
    if let Err(error) = table.create().await {
        let _ = table.remove().await;
        return Err(error.into());
    }
    Ok(table)
}

/// Removes the table when it is dropped, a panic included.
struct TableGuard<'a> {
    runtime: &'a Runtime,
    table: Option<ScratchTable>,
}

impl TableGuard<'_> {
    fn keep(mut self) -> Option<ScratchTable> {
        self.table.take()
    }
}

impl Drop for TableGuard<'_> {
    fn drop(&mut self) {
        if let Some(table) = &self.table
            && let Err(error) = self.runtime.block_on(table.remove())
        {
            let name = table.store().table_name().to_owned();
            eprintln!("the table {name} may still be there: {error}");
        }
    }
}
