//! A store that counts, and does nothing else.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use zae_limiter::Entity;
use zae_limiter::store::{Store, StoreError, WriteOutcome};
use zae_limiter_core::BucketKey;
use zae_limiter_core::item::{BucketItem, BucketWrite};

/// Any store with its bucket writes counted. Clones share the store and the counter.
///
/// Lighter than a `FaultyStore`, so that it can stand in front of what is measured.
#[derive(Clone, Debug)]
pub struct CountingStore {
    store: Arc<dyn Store>,
    writes: Arc<AtomicU64>,
}

impl CountingStore {
    /// `store`, counted from zero.
    #[must_use]
    pub fn new(store: impl Store) -> Self {
        Self {
            store: Arc::new(store),
            writes: Arc::default(),
        }
    }

    /// Writes of buckets by now; refused ones count, as DynamoDB bills them.
    #[must_use]
    pub fn writes(&self) -> u64 {
        self.writes.load(Ordering::Relaxed)
    }
}

#[async_trait]
impl Store for CountingStore {
    async fn check(&self) -> Result<(), StoreError> {
        self.store.check().await
    }

    async fn write_bucket(&self, key: &BucketKey, write: &BucketWrite) -> WriteOutcome {
        self.writes.fetch_add(1, Ordering::Relaxed);
        self.store.write_bucket(key, write).await
    }

    async fn read_bucket(&self, key: &BucketKey) -> Result<Option<BucketItem>, StoreError> {
        self.store.read_bucket(key).await
    }

    async fn create_entity(&self, entity: &Entity) -> Result<bool, StoreError> {
        self.store.create_entity(entity).await
    }

    async fn read_entity(&self, id: &str) -> Result<Option<Entity>, StoreError> {
        self.store.read_entity(id).await
    }
}
