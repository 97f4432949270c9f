//! A store in memory: for a first try, for simulations, and for users' own tests.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use async_trait::async_trait;
use parking_lot::Mutex;
use zae_limiter_core::item::{BucketItem, BucketWrite};
use zae_limiter_core::usage::{Consumption, Counters, Window};
use zae_limiter_core::{BucketKey, WallTime, schema};

use super::{EntityWrite, Store, StoreError, WriteOutcome};
use crate::{
    AuditEvent, Entity, EntityChange, Limit, LimitOwner, LimitScope, Page, PageRequest, PageToken,
    UsageQuery, UsageSnapshot, VersionRecord, validate_stored_limits,
};

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

#[derive(Clone, Debug, Default, PartialEq)]
struct Table {
    buckets: HashMap<BucketKey, BucketItem>,
    entities: BTreeMap<String, Entity>,
    limits: BTreeMap<LimitScope, Vec<Limit>>,
    /// By entity and event.
    events: BTreeMap<(String, String), AuditEvent>,
    version: Option<VersionRecord>,
    /// What was consumed in which hour, and by how many writes: by entity, resource, and when the
    /// hour begins. Days and months are added up when they are asked for.
    usage: BTreeMap<(String, String, WallTime), HourlyUsage>,
}

#[derive(Clone, Debug, Default, PartialEq)]
struct HourlyUsage {
    tokens: BTreeMap<Arc<str>, i64>,
    events: u64,
}

impl Table {
    /// Counts what a write has consumed that made `new` of `old`.
    fn count(&mut self, key: &BucketKey, old: Option<&Counters>, new: &BucketItem) {
        let consumption = Consumption::between(old, &new.into());
        if consumption.tokens.is_empty() {
            return;
        }
        let hour = Window::Hourly.start(consumption.consumed_at);
        let (id, resource) = (key.entity_id().to_owned(), key.resource().to_owned());
        let usage = self.usage.entry((id, resource, hour)).or_default();
        usage.events += 1;
        for (limit, tokens) in consumption.tokens {
            *usage.tokens.entry(limit).or_default() += tokens;
        }
    }

    /// The snapshots that are asked for, by their keys.
    fn snapshots(&self, query: &UsageQuery) -> BTreeMap<String, UsageSnapshot> {
        let asked = |wanted: &Option<String>, found| wanted.as_ref().is_none_or(|w| w == found);
        let mut snapshots = BTreeMap::new();
        for ((id, resource, hour), usage) in &self.usage {
            let start = query.window.start(*hour);
            let wanted = asked(&query.entity_id, id) && asked(&query.resource, resource);
            if !wanted || !query.has(start) {
                continue;
            }
            let key = match query.entity_id {
                Some(_) => schema::usage(resource, query.window, start),
                None => schema::usage_by(query.window, start, id),
            };
            let snapshot = snapshots
                .entry(key)
                .or_insert_with(|| UsageSnapshot::new(id, resource, query.window, start));
            snapshot.total_events += usage.events;
            for (limit, tokens) in &usage.tokens {
                *snapshot.counters.entry(limit.to_string()).or_default() += tokens;
            }
        }
        snapshots
    }

    fn record(&mut self, event: &AuditEvent) {
        let key = (event.entity_id.clone(), event.event_id.clone());
        self.events.insert(key, event.clone());
    }

    fn lacks(&self, parent_id: Option<&String>) -> bool {
        parent_id.is_some_and(|id| !self.entities.contains_key(id))
    }
}

/// A page of all items, which come with their keys; `after` says whether a key comes after
/// another in the list.
fn page<T>(
    items: impl Iterator<Item = (String, T)>,
    request: &PageRequest,
    after: impl Fn(&str, &str) -> bool,
) -> Page<T> {
    let begins = request.after.as_ref().map(PageToken::as_str);
    let mut left = items
        .filter(|(key, _)| begins.is_none_or(|token| after(key, token)))
        .peekable();
    let size = usize::try_from(request.size.max(1)).unwrap_or(usize::MAX);
    let (mut items, mut last) = (Vec::new(), None);
    while items.len() < size
        && let Some((key, item)) = left.next()
    {
        items.push(item);
        last = Some(key);
    }
    let more = left.peek().is_some();
    Page {
        items,
        next: last.filter(|_| more).map(PageToken::from),
    }
}

impl MemoryStore {
    /// An empty table.
    ///
    /// See the example of [`MemoryStore`].
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// A table of its own that holds the same. Tables that hold the same are equal, so a test can
    /// tell whether anything was changed.
    ///
    /// ```
    /// # use zae_limiter::{NewEntity, RateLimiter};
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), zae_limiter::Error> {
    /// use zae_limiter::store::MemoryStore;
    ///
    /// let table = MemoryStore::new();
    /// let limiter = RateLimiter::builder("my-app").store(table.clone()).connect().await?;
    /// let before = table.copy();
    /// assert!(limiter.create_entity(NewEntity::new("not#valid")).await.is_err());
    /// assert_eq!(table, before);
    /// # Ok(()) }
    /// ```
    #[must_use]
    pub fn copy(&self) -> Self {
        let table = self.0.lock().clone();
        Self(Arc::new(Mutex::new(table)))
    }

    /// Makes a conditional write at once, without a runtime: for simulations.
    #[doc(hidden)]
    pub fn write(&self, key: &BucketKey, write: &BucketWrite) -> WriteOutcome {
        let mut table = self.0.lock();
        let mut stored = table.buckets.remove(key);
        let before = stored.as_ref().map(Counters::from);
        let outcome = BucketItem::apply(&mut stored, write);
        if let Ok(item) = &outcome {
            table.count(key, before.as_ref(), item);
        }
        if let Some(item) = stored {
            table.buckets.insert(key.clone(), item);
        }
        match outcome {
            Ok(item) => WriteOutcome::Applied(item),
            Err(found) => WriteOutcome::Refused(found),
        }
    }

    /// Forgets the buckets that the table need not keep any longer, as DynamoDB does some time after
    /// their TTL: for tests.
    #[doc(hidden)]
    pub fn expire(&self, now: WallTime) {
        let mut table = self.0.lock();
        table
            .buckets
            .retain(|_, item| item.expires_at_seconds > now.as_secs());
    }

    /// Reads a bucket at once, without a runtime: for simulations.
    #[doc(hidden)]
    #[must_use]
    pub fn bucket(&self, key: &BucketKey) -> Option<BucketItem> {
        self.0.lock().buckets.get(key).cloned()
    }
}

impl PartialEq for MemoryStore {
    fn eq(&self, other: &Self) -> bool {
        // One lock at a time: it may be the same table.
        let table = self.copy();
        let table = table.0.lock();
        *table == *other.0.lock()
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

    async fn create_entity(
        &self,
        entity: &Entity,
        event: &AuditEvent,
    ) -> Result<EntityWrite, StoreError> {
        let mut table = self.0.lock();
        if table.entities.contains_key(&entity.id) {
            return Ok(EntityWrite::Exists);
        }
        if table.lacks(entity.parent_id.as_ref()) {
            return Ok(EntityWrite::ParentMissing);
        }
        table.entities.insert(entity.id.clone(), entity.clone());
        table.record(event);
        Ok(EntityWrite::Done)
    }

    async fn update_entity(
        &self,
        id: &str,
        change: &EntityChange,
        event: &AuditEvent,
    ) -> Result<EntityWrite, StoreError> {
        let mut table = self.0.lock();
        let lacks_parent = table.lacks(change.parent_id.as_ref().and_then(Option::as_ref));
        let Some(entity) = table.entities.get_mut(id) else {
            return Ok(EntityWrite::Missing);
        };
        if lacks_parent {
            return Ok(EntityWrite::ParentMissing);
        }
        entity.change(change);
        table.record(event);
        Ok(EntityWrite::Done)
    }

    async fn delete_entity(&self, id: &str, event: &AuditEvent) -> Result<bool, StoreError> {
        let mut table = self.0.lock();
        let items = |table: &Table| {
            let beside = table.limits.len() + table.usage.len();
            table.entities.len() + table.buckets.len() + beside
        };
        let before = items(&table);
        table.entities.remove(id);
        table.buckets.retain(|key, _| key.entity_id() != id);
        table.usage.retain(|(entity_id, ..), _| entity_id != id);
        table
            .limits
            .retain(|scope, _| scope.entity_id() != Some(id));
        let deleted = items(&table) < before;
        if deleted {
            table.record(event);
        }
        Ok(deleted)
    }

    async fn read_entity(&self, id: &str) -> Result<Option<Entity>, StoreError> {
        Ok(self.0.lock().entities.get(id).cloned())
    }

    async fn read_entities(&self, ids: &[String]) -> Result<Vec<Entity>, StoreError> {
        let table = self.0.lock();
        Ok(ids
            .iter()
            .filter_map(|id| table.entities.get(id).cloned())
            .collect())
    }

    async fn read_children(
        &self,
        parent_id: &str,
        request: &PageRequest,
    ) -> Result<Page<Entity>, StoreError> {
        let table = self.0.lock();
        let entities = table.entities.iter();
        let children = entities.filter(|(_, e)| e.parent_id.as_deref() == Some(parent_id));
        let children = children.map(|(id, child)| (id.clone(), child));
        Ok(page(children, request, |id, token| id > token).map(Entity::clone))
    }

    async fn write_limits(
        &self,
        scope: &LimitScope,
        limits: &[Limit],
        event: &AuditEvent,
    ) -> Result<bool, StoreError> {
        validate_stored_limits(limits)?;
        let mut table = self.0.lock();
        if limits.is_empty() {
            if table.limits.remove(scope).is_none() {
                return Ok(false);
            }
        } else {
            let mut limits = limits.to_vec();
            limits.sort_by(|a, b| a.name().cmp(b.name()));
            table.limits.insert(scope.clone(), limits);
        }
        table.record(event);
        Ok(true)
    }

    async fn read_limits(
        &self,
        owner: &LimitOwner,
    ) -> Result<Vec<(LimitScope, Vec<Limit>)>, StoreError> {
        let table = self.0.lock();
        let sets = table.limits.iter();
        let own = sets.filter(|(scope, _)| scope.owner() == *owner);
        Ok(own
            .map(|(scope, limits)| (scope.clone(), limits.clone()))
            .collect())
    }

    async fn read_audit_events(
        &self,
        entity_id: &str,
        request: &PageRequest,
    ) -> Result<Page<AuditEvent>, StoreError> {
        let table = self.0.lock();
        let events = table.events.iter().rev();
        let own = events.filter(|((entity, _), _)| entity == entity_id);
        let own = own.map(|((_, id), event)| (id.clone(), event));
        Ok(page(own, request, |id, token| id < token).map(AuditEvent::clone))
    }

    async fn read_usage(
        &self,
        query: &UsageQuery,
        request: &PageRequest,
    ) -> Result<Page<UsageSnapshot>, StoreError> {
        let snapshots = self.0.lock().snapshots(query).into_iter();
        Ok(page(snapshots, request, |key, token| key > token))
    }

    async fn read_version(&self) -> Result<Option<VersionRecord>, StoreError> {
        Ok(self.0.lock().version.clone())
    }

    async fn write_version(
        &self,
        record: &VersionRecord,
        replaces: Option<&VersionRecord>,
    ) -> Result<bool, StoreError> {
        let mut table = self.0.lock();
        let expected = table.version.as_ref() == replaces;
        if expected {
            table.version = Some(record.clone());
        }
        Ok(expected)
    }

    async fn read_resource_buckets(
        &self,
        resource: &str,
        request: &PageRequest,
    ) -> Result<Page<(String, BucketItem)>, StoreError> {
        let table = self.0.lock();
        let buckets = table.buckets.iter();
        let own = buckets.filter(|(key, _)| key.resource() == resource);
        let mut own: Vec<_> = own
            .map(|(key, item)| (key.entity_id().to_owned(), item))
            .collect();
        own.sort_by(|(a, _), (b, _)| a.cmp(b));
        let own = own.into_iter().map(|(id, item)| (id.clone(), (id, item)));
        let found = page(own, request, |id, token| id > token);
        Ok(found.map(|(id, item)| (id, item.clone())))
    }
}
