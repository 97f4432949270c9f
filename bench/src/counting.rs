//! A store that counts, and does nothing else.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use zae_limiter::store::{EntityWrite, Store, StoreError, WriteOutcome};
use zae_limiter::{
    AuditEvent, Entity, EntityChange, Limit, LimitOwner, LimitScope, Page, PageRequest, UsageQuery,
    UsageSnapshot, VersionRecord,
};
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

    async fn create_entity(
        &self,
        entity: &Entity,
        event: &AuditEvent,
    ) -> Result<EntityWrite, StoreError> {
        self.store.create_entity(entity, event).await
    }

    async fn update_entity(
        &self,
        id: &str,
        change: &EntityChange,
        event: &AuditEvent,
    ) -> Result<EntityWrite, StoreError> {
        self.store.update_entity(id, change, event).await
    }

    async fn delete_entity(&self, id: &str, event: &AuditEvent) -> Result<bool, StoreError> {
        self.store.delete_entity(id, event).await
    }

    async fn read_entity(&self, id: &str) -> Result<Option<Entity>, StoreError> {
        self.store.read_entity(id).await
    }

    async fn read_entities(&self, ids: &[String]) -> Result<Vec<Entity>, StoreError> {
        self.store.read_entities(ids).await
    }

    async fn read_children(
        &self,
        parent_id: &str,
        page: &PageRequest,
    ) -> Result<Page<Entity>, StoreError> {
        self.store.read_children(parent_id, page).await
    }

    async fn write_limits(
        &self,
        scope: &LimitScope,
        limits: &[Limit],
        event: &AuditEvent,
    ) -> Result<bool, StoreError> {
        self.store.write_limits(scope, limits, event).await
    }

    async fn read_limits(
        &self,
        owner: &LimitOwner,
    ) -> Result<Vec<(LimitScope, Vec<Limit>)>, StoreError> {
        self.store.read_limits(owner).await
    }

    async fn read_audit_events(
        &self,
        entity_id: &str,
        page: &PageRequest,
    ) -> Result<Page<AuditEvent>, StoreError> {
        self.store.read_audit_events(entity_id, page).await
    }

    async fn read_usage(
        &self,
        query: &UsageQuery,
        page: &PageRequest,
    ) -> Result<Page<UsageSnapshot>, StoreError> {
        self.store.read_usage(query, page).await
    }

    async fn read_version(&self) -> Result<Option<VersionRecord>, StoreError> {
        self.store.read_version().await
    }

    async fn write_version(
        &self,
        record: &VersionRecord,
        replaces: Option<&VersionRecord>,
    ) -> Result<bool, StoreError> {
        self.store.write_version(record, replaces).await
    }

    async fn read_resource_buckets(
        &self,
        resource: &str,
        page: &PageRequest,
    ) -> Result<Page<(String, BucketItem)>, StoreError> {
        self.store.read_resource_buckets(resource, page).await
    }
}
