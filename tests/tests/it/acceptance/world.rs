//! Where a scenario plays: which face, which mode, which table.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use aws_sdk_dynamodb::types::AttributeValue;
use zae_limiter::store::{FaultyStore, MemoryStore, Store};
use zae_limiter::{Error, Limit, Mode, RateLimiter, Settings, Window};
use zae_limiter_core::usage::Counters;
use zae_limiter_core::{BucketKey, schema};
use zae_limiter_tests::{FreshTable, client_for, consumed, endpoint, fresh_table, level};

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

    /// Counts what these have consumed. A table in memory counts by itself; for a real one this stands
    /// in for the aggregator, which has tests of its own, and writes what that would.
    pub(super) async fn count_usage(&self, ids: &[&str]) {
        let Backend::Table(table) = &self.backend else {
            return;
        };
        let client = client_for(&endpoint());
        for id in ids {
            let key = BucketKey::new(id, "gpt-4").expect("a key");
            let bucket = table.store().read_bucket(&key).await.expect("a table");
            let counters = Counters::from(&bucket.expect("a bucket"));
            for window in Window::ALL {
                let put = client.put_item().table_name(table.name());
                let put = put.set_item(Some(snapshot(id, window, &counters)));
                put.send().await.expect("a table");
            }
        }
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

/// A usage snapshot of all that a bucket has counted, as the aggregator stores it.
fn snapshot(id: &str, window: Window, counters: &Counters) -> HashMap<String, AttributeValue> {
    let text = AttributeValue::S;
    let number = |n: i64| AttributeValue::N(n.to_string());
    let start = window.start(counters.consumed_at);
    let mut item: HashMap<_, _> = [
        (schema::PK, text(schema::entity(id))),
        (schema::SK, text(schema::usage("gpt-4", window, start))),
        (schema::GSI2_PK, text(schema::resource("gpt-4"))),
        (schema::GSI2_SK, text(schema::usage_by(window, start, id))),
        (schema::TOTAL_EVENTS, number(1)),
    ]
    .map(|(name, value)| (name.to_owned(), value))
    .into();
    for (limit, tokens) in &counters.consumed {
        item.insert(schema::limit_attribute(limit), number(*tokens));
    }
    item
}

/// So slow that what flows in during a test does not matter, however slow that is.
pub(super) fn per_day(name: &str, capacity: u64) -> Limit {
    Limit::per_day(name, capacity).expect("a limit")
}

pub(super) const SOON: Duration = Duration::from_secs(20);
