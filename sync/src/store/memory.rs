//! A store in memory: for a first try, for simulations, and for users' own tests.

use std::collections::HashMap;
use std::sync::Arc;

use async_trait::async_trait;
use parking_lot::Mutex;
use zae_limiter_core::BucketKey;
use zae_limiter_core::item::{BucketItem, BucketWrite};

use super::{Store, StoreError, WriteOutcome};
use crate::Entity;

/// A table in this process's memory, with the semantics of the one in DynamoDB.
///
/// Clones share the table, so limiters that are given clones limit together.
///
/// ```
/// use zae_limiter::{Limit, RateLimiter};
/// use zae_limiter::store::MemoryStore;
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), zae_limiter::Error> {
/// let table = MemoryStore::new();
/// let limiter = RateLimiter::builder("test").store(table.clone()).connect().await?;
/// let limits = [Limit::per_minute("rpm", 1)?];
/// let lease = limiter.acquire("user-1", "api").limits(&limits).consume("rpm", 1).await?;
/// assert_eq!(lease.consumed()["rpm"], 1);
/// assert!(limiter.acquire("user-1", "api").limits(&limits).consume("rpm", 1).await.is_err());
/// # Ok(()) }
/// ```
#[derive(Clone, Debug, Default)]
pub struct MemoryStore(Arc<Mutex<Table>>);

#[derive(Debug, Default)]
struct Table {
    buckets: HashMap<BucketKey, BucketItem>,
    entities: HashMap<String, Entity>,
}

impl MemoryStore {
    /// An empty table.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Makes a conditional write at once, without a runtime.
    pub fn write(&self, key: &BucketKey, write: &BucketWrite) -> WriteOutcome {
        let mut table = self.0.lock();
        let mut stored = table.buckets.remove(key);
        let outcome = BucketItem::apply(&mut stored, write);
        if let Some(item) = stored {
            table.buckets.insert(key.clone(), item);
        }
        match outcome {
            Ok(item) => WriteOutcome::Applied(item),
            Err(found) => WriteOutcome::Refused(found),
        }
    }

    /// Reads a bucket at once, without a runtime.
    #[must_use]
    pub fn bucket(&self, key: &BucketKey) -> Option<BucketItem> {
        self.0.lock().buckets.get(key).cloned()
    }
}

#[async_trait]
impl Store for MemoryStore {
    async fn check(&self) -> Result<(), StoreError> {
        Ok(())
    }

    async fn write_bucket(&self, key: &BucketKey, write: &BucketWrite) -> WriteOutcome {
        self.write(key, write)
    }

    async fn read_bucket(&self, key: &BucketKey) -> Result<Option<BucketItem>, StoreError> {
        Ok(self.bucket(key))
    }

    async fn create_entity(&self, entity: &Entity) -> Result<bool, StoreError> {
        let mut table = self.0.lock();
        if table.entities.contains_key(&entity.id) {
            return Ok(false);
        }
        table.entities.insert(entity.id.clone(), entity.clone());
        Ok(true)
    }

    async fn read_entity(&self, id: &str) -> Result<Option<Entity>, StoreError> {
        Ok(self.0.lock().entities.get(id).cloned())
    }
}
