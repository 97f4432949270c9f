//! Where a scenario plays: which face, which mode, which table.

use std::sync::Arc;
use std::time::Duration;

use zae_limiter::store::{FaultyStore, MemoryStore, Store};
use zae_limiter::{Error, Limit, Mode, RateLimiter, Settings};
use zae_limiter_tests::{FreshTable, consumed, fresh_table, level};

use super::face::{Face, Limiter};

pub(super) struct World {
    pub(super) face: Face,
    pub(super) mode: Mode,
    backend: Backend,
}

enum Backend {
    Memory(MemoryStore),
    Table(FreshTable),
}

impl World {
    pub(super) fn in_memory(face: Face, mode: Mode) -> Self {
        let backend = Backend::Memory(MemoryStore::new());
        Self {
            face,
            mode,
            backend,
        }
    }

    pub(super) async fn on_a_table(face: Face, mode: Mode) -> Self {
        let backend = Backend::Table(fresh_table("acceptance").await);
        Self {
            face,
            mode,
            backend,
        }
    }

    pub(super) fn is_strict(&self) -> bool {
        self.mode == Mode::Strict
    }

    /// The table, by a client of its own.
    pub(super) fn table(&self) -> FaultyStore<dyn Store> {
        FaultyStore::over(match &self.backend {
            Backend::Memory(table) => Arc::new(table.clone()) as Arc<dyn Store>,
            Backend::Table(table) => Arc::new(table.store_of_its_own()),
        })
    }

    pub(super) fn settings(&self) -> Settings {
        Settings {
            mode: self.mode,
            entity_ttl_ms: 300,
            limits_ttl_ms: 300,
            acquire_timeout_ms: 30_000,
            ..Settings::default()
        }
    }

    pub(super) async fn limiter(&self) -> Result<Limiter, Error> {
        self.limiter_on(self.table(), self.settings()).await
    }

    pub(super) async fn limiter_on(
        &self,
        table: FaultyStore<dyn Store>,
        settings: Settings,
    ) -> Result<Limiter, Error> {
        let builder = RateLimiter::builder("acceptance").store(table);
        Limiter::connect(self.face, builder.settings(settings)).await
    }

    pub(super) async fn pause(&self, time: Duration) {
        match self.face {
            Face::Async => tokio::time::sleep(time).await,
            Face::Blocking => std::thread::sleep(time),
        }
    }

    /// What the table holds of a limit; for who has shut its limiters down.
    pub(super) async fn level(&self, id: &str, limit: &Limit) -> i64 {
        level(&self.table(), id, "gpt-4", limit).await
    }

    /// What the table has been told of consumption.
    pub(super) async fn consumed(&self, id: &str, limit: &Limit) -> i64 {
        consumed(&self.table(), id, "gpt-4", limit.name()).await
    }
}

/// So slow that what flows in during a test does not matter, however slow that is.
pub(super) fn per_day(name: &str, capacity: u64) -> Limit {
    Limit::per_day(name, capacity).expect("a limit")
}

pub(super) const SOON: Duration = Duration::from_secs(20);
