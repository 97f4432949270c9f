//! A table in DynamoDB that sequences can be played on.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::types::AttributeValue;
use tokio::runtime::{Builder, Runtime};
use zae_limiter::store::{DynamoDbStore, EntityWrite, Store, StoreError, WriteOutcome};
use zae_limiter::{
    AuditAction, AuditEvent, Entity, EntityChange, Limit, LimitOwner, LimitScope, Page,
    PageRequest, UsageQuery, UsageSnapshot, VersionRecord,
};
use zae_limiter_core::item::{BucketItem, BucketWrite};
use zae_limiter_core::{BucketKey, WallTime, schema};

use super::table::Table;
use crate::{FreshTable, client_for, fresh_table_at};

/// A new table in DynamoDB for one thread; it is deleted with the last clone.
///
/// A call blocks the thread until DynamoDB has answered. So no simulated time passes meanwhile: tokio skips to
/// the next timer only when a runtime has nothing to do. Calls do not overlap, but callers do, for the answers
/// of a [`FaultyStore`](zae_limiter::store::FaultyStore) in front of it take simulated time.
#[derive(Clone, Debug)]
pub struct DynamoDbTable(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    table: FreshTable,
    store: DynamoDbStore,
    client: Client,
    /// Of the connections, in real time.
    runtime: Runtime,
    /// Where this thread's random numbers go on for the store.
    chance: AtomicU64,
}

impl DynamoDbTable {
    /// Creates a table at this endpoint.
    ///
    /// # Panics
    /// If it cannot be created.
    #[must_use]
    pub fn create(endpoint_url: &str) -> Self {
        let runtime = Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build();
        let runtime = runtime.expect("a runtime");
        let table = runtime.block_on(fresh_table_at(endpoint_url, "callers"));
        Self(Arc::new(Shared {
            store: table.store(),
            client: client_for(endpoint_url),
            table,
            runtime,
            chance: AtomicU64::new(fastrand::u64(..)),
        }))
    }

    /// Waits for a call in real time, whatever runtime this thread is in.
    fn wait<T>(&self, call: impl Future<Output = T>) -> T {
        let _runtime = self.0.runtime.enter();
        // What the limiters leave to chance does not depend on what the store does.
        let limiters = fastrand::get_seed();
        fastrand::seed(self.0.chance.load(Ordering::Relaxed));
        // The budget of the task that waits does not count: it is not renewed before this returns.
        let answer = pollster::block_on(tokio::task::unconstrained(call));
        self.0.chance.store(fastrand::get_seed(), Ordering::Relaxed);
        fastrand::seed(limiters);
        answer
    }

    fn store(&self) -> &DynamoDbStore {
        &self.0.store
    }

    fn delete_bucket(&self, key: &BucketKey) {
        let (pk, sk) = (
            schema::entity(key.entity_id()),
            schema::bucket(key.resource()),
        );
        let request = self.0.client.delete_item().table_name(self.0.table.name());
        let request = request.key(schema::PK, AttributeValue::S(pk));
        let request = request.key(schema::SK, AttributeValue::S(sk));
        self.wait(request.send()).expect("a table");
    }
}

impl Table for DynamoDbTable {
    fn emptied(&self, entities: &[&str]) -> Arc<dyn Table> {
        for &entity in entities {
            let event = AuditEvent::new(AuditAction::EntityDeleted, entity, WallTime::ZERO);
            let deleted = self.wait(self.store().delete_entity(entity, &event));
            deleted.expect("a table");
        }
        Arc::new(self.clone())
    }

    fn expire(&self, keys: &[BucketKey; 2], now: WallTime) -> [bool; 2] {
        keys.each_ref().map(|key| {
            let item = self.wait(self.store().read_bucket(key)).expect("a table");
            let is_expired = item.is_some_and(|item| item.expires_at_seconds <= now.as_secs());
            if is_expired {
                self.delete_bucket(key);
            }
            is_expired
        })
    }
}

#[async_trait]
impl Store for DynamoDbTable {
    async fn check(&self) -> Result<(), StoreError> {
        self.wait(self.store().check())
    }

    async fn write_bucket(&self, key: &BucketKey, write: &BucketWrite) -> WriteOutcome {
        self.wait(self.store().write_bucket(key, write))
    }

    async fn read_bucket(&self, key: &BucketKey) -> Result<Option<BucketItem>, StoreError> {
        self.wait(self.store().read_bucket(key))
    }

    async fn create_entity(
        &self,
        entity: &Entity,
        event: &AuditEvent,
    ) -> Result<EntityWrite, StoreError> {
        self.wait(self.store().create_entity(entity, event))
    }

    async fn update_entity(
        &self,
        id: &str,
        change: &EntityChange,
        event: &AuditEvent,
    ) -> Result<EntityWrite, StoreError> {
        self.wait(self.store().update_entity(id, change, event))
    }

    async fn delete_entity(&self, id: &str, event: &AuditEvent) -> Result<bool, StoreError> {
        self.wait(self.store().delete_entity(id, event))
    }

    async fn read_entity(&self, id: &str) -> Result<Option<Entity>, StoreError> {
        self.wait(self.store().read_entity(id))
    }

    async fn read_entities(&self, ids: &[String]) -> Result<Vec<Entity>, StoreError> {
        self.wait(self.store().read_entities(ids))
    }

    async fn read_children(
        &self,
        parent_id: &str,
        page: &PageRequest,
    ) -> Result<Page<Entity>, StoreError> {
        self.wait(self.store().read_children(parent_id, page))
    }

    async fn write_limits(
        &self,
        scope: &LimitScope,
        limits: &[Limit],
        event: &AuditEvent,
    ) -> Result<bool, StoreError> {
        self.wait(self.store().write_limits(scope, limits, event))
    }

    async fn read_limits(
        &self,
        owner: &LimitOwner,
    ) -> Result<Vec<(LimitScope, Vec<Limit>)>, StoreError> {
        self.wait(self.store().read_limits(owner))
    }

    async fn read_audit_events(
        &self,
        entity_id: &str,
        page: &PageRequest,
    ) -> Result<Page<AuditEvent>, StoreError> {
        self.wait(self.store().read_audit_events(entity_id, page))
    }

    async fn read_usage(
        &self,
        query: &UsageQuery,
        page: &PageRequest,
    ) -> Result<Page<UsageSnapshot>, StoreError> {
        self.wait(self.store().read_usage(query, page))
    }

    async fn read_version(&self) -> Result<Option<VersionRecord>, StoreError> {
        self.wait(self.store().read_version())
    }

    async fn write_version(
        &self,
        record: &VersionRecord,
        replaces: Option<&VersionRecord>,
    ) -> Result<bool, StoreError> {
        self.wait(self.store().write_version(record, replaces))
    }

    async fn read_resource_buckets(
        &self,
        resource: &str,
        page: &PageRequest,
    ) -> Result<Page<(String, BucketItem)>, StoreError> {
        self.wait(self.store().read_resource_buckets(resource, page))
    }
}
