//! Limiters in one process that share a table, as processes of a fleet do.

use std::time::{Duration, Instant};

use tokio::task::JoinSet;
use zae_limiter::{Limit, Mode, RateLimiter};
use zae_limiter_bench::CountingStore;

use crate::load::{Failure, Load, Tally, drive};

/// The limiters; each has its own tokens and its own reconciler.
pub(crate) struct Fleet {
    limiters: Vec<RateLimiter>,
    store: CountingStore,
}

impl Fleet {
    pub(crate) async fn connect(
        count: u32,
        mode: Mode,
        store: &CountingStore,
    ) -> Result<Self, zae_limiter::Error> {
        let mut limiters = Vec::new();
        for _ in 0..count {
            let builder = RateLimiter::builder("quickstart").mode(mode);
            limiters.push(builder.store(store.clone()).connect().await?);
        }
        Ok(Self {
            limiters,
            store: store.clone(),
        })
    }

    pub(crate) fn first(&self) -> &RateLimiter {
        &self.limiters[0]
    }

    /// Puts `load` on one bucket, spread evenly over the limiters.
    pub(crate) async fn load(
        &self,
        entity_id: &str,
        limit: &Limit,
        load: Load,
        length: Duration,
    ) -> Result<Tally, Failure> {
        let load = load.shared_by(self.limiters.len());
        let before = self.store.writes();
        let start = Instant::now();
        let mut tasks = JoinSet::new();
        for limiter in &self.limiters {
            let (limiter, limit) = (limiter.clone(), limit.clone());
            let entity_id = entity_id.to_owned();
            tasks.spawn(async move { drive(&limiter, &entity_id, limit, load, length).await });
        }
        let mut all = Tally::new()?;
        while let Some(tally) = tasks.join_next().await {
            all.add(&tally??)?;
        }
        all.elapsed = start.elapsed();
        all.writes = self.store.writes() - before;
        Ok(all)
    }

    pub(crate) async fn shutdown(&self) {
        for limiter in &self.limiters {
            limiter.shutdown(Duration::from_secs(2)).await;
        }
    }
}
