//! A store that fails on demand, over any other.

use std::collections::VecDeque;
use std::iter::repeat_n;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use parking_lot::Mutex;
use zae_limiter_core::BucketKey;
use zae_limiter_core::item::{BucketItem, BucketWrite};

use super::{EntityWrite, Store, StoreError, StoreErrorKind, WriteOutcome};
use crate::{
    AuditEvent, Entity, EntityChange, Limit, LimitOwner, LimitScope, Page, PageRequest, UsageQuery,
    UsageSnapshot, VersionRecord,
};

/// What goes wrong with a call to a [`FaultyStore`].
///
/// See the example of [`FaultyStore`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Fault {
    /// The table takes no more requests; nothing is done.
    Throttled,
    /// The endpoint cannot be connected to; nothing is done.
    Unreachable,
    /// The credentials do not allow it; nothing is done.
    AccessDenied,
    /// There is no such table; nothing is done.
    TableMissing,
    /// No answer comes, and nothing was done: a write ends as unknown, a read as unreachable.
    LostBeforeApply,
    /// It is done, and the answer is lost: a write ends as unknown, a read as unreachable.
    LostReply,
    /// The store has a defect, and panics; nothing is done.
    Panic,
    /// It is done as usual, after this long. Needs the time driver of tokio.
    Delay(Duration),
    /// It is done at once, and answered after this long. Needs the time driver of tokio.
    LateReply(Duration),
}

/// Any store with faults put in front of it, for tests: of this crate, and of yours.
///
/// Calls are counted, the failing ones included. Clones share the store, the faults and the
/// counters, so a test keeps one and gives another to the limiter.
///
/// ```
/// use zae_limiter::store::{Fault, FaultyStore, MemoryStore, Store};
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() {
/// let store = FaultyStore::new(MemoryStore::new());
/// store.fail_next(Fault::Throttled, 1);
/// assert!(store.read_entity("user-1").await.is_err());
/// assert!(store.read_entity("user-1").await.is_ok());
/// assert_eq!((store.reads(), store.writes()), (2, 0));
/// # }
/// ```
#[derive(Debug)]
pub struct FaultyStore<S: Store + ?Sized> {
    store: Arc<S>,
    /// Never held while the store is called.
    control: Arc<Mutex<Control>>,
}

#[derive(Debug, Default)]
struct Control {
    /// For the next calls, one each; none lets the call pass.
    script: VecDeque<Option<Fault>>,
    /// For every call that the script does not speak of.
    always: Option<Fault>,
    reads: u64,
    writes: u64,
    checks: u64,
}

impl<S: Store + ?Sized> Clone for FaultyStore<S> {
    fn clone(&self) -> Self {
        Self {
            store: self.store.clone(),
            control: self.control.clone(),
        }
    }
}

impl<S: Store> FaultyStore<S> {
    /// `store` without a fault, as yet.
    ///
    /// See the example of [`FaultyStore`].
    #[must_use]
    pub fn new(store: S) -> Self {
        Self::over(Arc::new(store))
    }
}

impl<S: Store + ?Sized> FaultyStore<S> {
    /// A shared store (an `Arc<dyn Store>` too) without a fault, as yet.
    ///
    /// ```
    /// use std::sync::Arc;
    /// use zae_limiter::store::{FaultyStore, MemoryStore, Store};
    ///
    /// let any: Arc<dyn Store> = Arc::new(MemoryStore::new());
    /// let store = FaultyStore::over(any);
    /// ```
    #[must_use]
    pub fn over(store: Arc<S>) -> Self {
        Self {
            store,
            control: Arc::default(),
        }
    }

    /// The store behind the faults.
    ///
    /// ```
    /// use zae_limiter::store::{FaultyStore, MemoryStore};
    ///
    /// let store = FaultyStore::new(MemoryStore::new());
    /// assert_eq!(store.inner(), &MemoryStore::new());
    /// ```
    #[must_use]
    pub fn inner(&self) -> &S {
        &self.store
    }

    /// The next `calls` calls, of any sort, meet `fault`, after those already planned.
    ///
    /// See the example of [`FaultyStore`].
    pub fn fail_next(&self, fault: Fault, calls: usize) {
        self.plan(repeat_n(Some(fault), calls));
    }

    /// Plans the coming calls one by one, after those already planned; none lets a call pass.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), zae_limiter::Error> {
    /// use zae_limiter::store::{Fault, FaultyStore, MemoryStore, Store};
    ///
    /// let store = FaultyStore::new(MemoryStore::new());
    /// store.plan([None, Some(Fault::LostReply)]); // the second call fails
    /// assert!(store.read_entity("user-1").await.is_ok());
    /// assert!(store.read_entity("user-1").await.is_err());
    /// # Ok(()) }
    /// ```
    pub fn plan(&self, faults: impl IntoIterator<Item = Option<Fault>>) {
        self.control.lock().script.extend(faults);
    }

    /// Every call that is not planned one by one meets `fault`; none ends that.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), zae_limiter::Error> {
    /// use zae_limiter::store::{Fault, FaultyStore, MemoryStore, Store};
    ///
    /// let store = FaultyStore::new(MemoryStore::new());
    /// store.fail_all(Some(Fault::Unreachable));
    /// assert!(store.check().await.is_err());
    /// store.fail_all(None); // it is back
    /// assert!(store.check().await.is_ok());
    /// # Ok(()) }
    /// ```
    pub fn fail_all(&self, fault: Option<Fault>) {
        self.control.lock().always = fault;
    }

    /// How many reads were asked for, a page being one, since the last reset.
    ///
    /// See the example of [`FaultyStore`].
    #[must_use]
    pub fn reads(&self) -> u64 {
        self.control.lock().reads
    }

    /// How many writes were asked for, deletions included, since the last reset; refused ones
    /// count.
    ///
    /// See the example of [`FaultyStore`].
    #[must_use]
    pub fn writes(&self) -> u64 {
        self.control.lock().writes
    }

    /// How many times the table was checked since the last reset.
    ///
    /// See the example of [`reset`](Self::reset).
    #[must_use]
    pub fn checks(&self) -> u64 {
        self.control.lock().checks
    }

    /// Forgets all faults and counts from zero.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), zae_limiter::Error> {
    /// use zae_limiter::store::{FaultyStore, MemoryStore, Store};
    ///
    /// let store = FaultyStore::new(MemoryStore::new());
    /// store.check().await?;
    /// assert_eq!(store.checks(), 1);
    /// store.reset();
    /// assert_eq!(store.checks(), 0);
    /// # Ok(()) }
    /// ```
    pub fn reset(&self) {
        *self.control.lock() = Control::default();
    }

    async fn on_read(&self, what: &str) -> Fate {
        let fault = self.next_fault(|control| control.reads += 1);
        Fault::strike(fault, what).await
    }

    async fn on_write(&self, what: &str) -> Fate {
        let fault = self.next_fault(|control| control.writes += 1);
        Fault::strike(fault, what).await
    }

    fn next_fault(&self, count: impl FnOnce(&mut Control)) -> Option<Fault> {
        let mut control = self.control.lock();
        count(&mut control);
        match control.script.pop_front() {
            Some(planned) => planned,
            None => control.always,
        }
    }
}

/// What becomes of a call.
enum Fate {
    Pass,
    /// It is not made.
    Fail(StoreError),
    /// It is not made, but who asked cannot know.
    Lose(StoreError),
    /// It is made, and its answer is thrown away.
    LoseReply(StoreError),
    /// It is made, and its answer comes late.
    Delay(Duration),
}

impl Fault {
    async fn strike(fault: Option<Self>, what: &str) -> Fate {
        let error = |kind, why: &str| {
            StoreError::new(
                kind,
                format!("could not {what}: {why}; a fault put in on purpose"),
            )
        };
        use StoreErrorKind as Kind;
        match fault {
            None => Fate::Pass,
            Some(Self::Delay(delay)) => {
                tokio::time::sleep(delay).await;
                Fate::Pass
            }
            Some(Self::LateReply(delay)) => Fate::Delay(delay),
            Some(Self::Panic) => panic!("could not {what}; a fault put in on purpose"),
            Some(Self::Throttled) => Fate::Fail(error(Kind::Throttled, "throttled")),
            Some(Self::Unreachable) => Fate::Fail(error(Kind::Unreachable, "no connection")),
            Some(Self::AccessDenied) => Fate::Fail(error(Kind::AccessDenied, "access denied")),
            Some(Self::TableMissing) => Fate::Fail(error(Kind::TableMissing, "no such table")),
            Some(Self::LostBeforeApply) => Fate::Lose(error(Kind::Unreachable, "no answer")),
            Some(Self::LostReply) => Fate::LoseReply(error(Kind::Unreachable, "no answer")),
        }
    }
}

impl Fate {
    /// For calls whose unknown outcome is one more way to be unreachable.
    async fn decide<T>(
        self,
        call: impl Future<Output = Result<T, StoreError>>,
    ) -> Result<T, StoreError> {
        match self {
            Self::Pass => call.await,
            Self::Delay(delay) => {
                let answer = call.await;
                tokio::time::sleep(delay).await;
                answer
            }
            Self::Fail(error) | Self::Lose(error) => Err(error),
            Self::LoseReply(error) => {
                call.await?;
                Err(error)
            }
        }
    }
}

#[async_trait]
impl<S: Store + ?Sized> Store for FaultyStore<S> {
    async fn check(&self) -> Result<(), StoreError> {
        let fault = self.next_fault(|control| control.checks += 1);
        let fate = Fault::strike(fault, "check the table").await;
        fate.decide(self.store.check()).await
    }

    async fn write_bucket(&self, key: &BucketKey, write: &BucketWrite) -> WriteOutcome {
        let (id, resource) = (key.entity_id(), key.resource());
        let what = format!("write the bucket of {id} for {resource}");
        match self.on_write(&what).await {
            Fate::Pass => self.store.write_bucket(key, write).await,
            Fate::Delay(delay) => {
                let outcome = self.store.write_bucket(key, write).await;
                tokio::time::sleep(delay).await;
                outcome
            }
            Fate::Fail(error) => WriteOutcome::Failed(error),
            Fate::Lose(error) => WriteOutcome::Unknown(error),
            Fate::LoseReply(error) => {
                self.store.write_bucket(key, write).await;
                WriteOutcome::Unknown(error)
            }
        }
    }

    async fn read_bucket(&self, key: &BucketKey) -> Result<Option<BucketItem>, StoreError> {
        let (id, resource) = (key.entity_id(), key.resource());
        let what = format!("read the bucket of {id} for {resource}");
        let fate = self.on_read(&what).await;
        fate.decide(self.store.read_bucket(key)).await
    }

    async fn create_entity(
        &self,
        entity: &Entity,
        event: &AuditEvent,
    ) -> Result<EntityWrite, StoreError> {
        let fate = self.on_write(&format!("create entity {}", entity.id)).await;
        fate.decide(self.store.create_entity(entity, event)).await
    }

    async fn update_entity(
        &self,
        id: &str,
        change: &EntityChange,
        event: &AuditEvent,
    ) -> Result<EntityWrite, StoreError> {
        let fate = self.on_write(&format!("update entity {id}")).await;
        fate.decide(self.store.update_entity(id, change, event))
            .await
    }

    async fn delete_entity(&self, id: &str, event: &AuditEvent) -> Result<bool, StoreError> {
        let fate = self.on_write(&format!("delete entity {id}")).await;
        fate.decide(self.store.delete_entity(id, event)).await
    }

    async fn read_entity(&self, id: &str) -> Result<Option<Entity>, StoreError> {
        let fate = self.on_read(&format!("read entity {id}")).await;
        fate.decide(self.store.read_entity(id)).await
    }

    async fn read_entities(&self, ids: &[String]) -> Result<Vec<Entity>, StoreError> {
        let fate = self.on_read(&format!("read {} entities", ids.len())).await;
        fate.decide(self.store.read_entities(ids)).await
    }

    async fn read_children(
        &self,
        parent_id: &str,
        page: &PageRequest,
    ) -> Result<Page<Entity>, StoreError> {
        let fate = self
            .on_read(&format!("list the children of {parent_id}"))
            .await;
        fate.decide(self.store.read_children(parent_id, page)).await
    }

    async fn write_limits(
        &self,
        scope: &LimitScope,
        limits: &[Limit],
        event: &AuditEvent,
    ) -> Result<bool, StoreError> {
        let fate = self.on_write(&format!("write the limits of {scope}")).await;
        fate.decide(self.store.write_limits(scope, limits, event))
            .await
    }

    async fn read_limits(
        &self,
        owner: &LimitOwner,
    ) -> Result<Vec<(LimitScope, Vec<Limit>)>, StoreError> {
        let fate = self.on_read(&format!("read the limits of {owner}")).await;
        fate.decide(self.store.read_limits(owner)).await
    }

    async fn read_audit_events(
        &self,
        entity_id: &str,
        page: &PageRequest,
    ) -> Result<Page<AuditEvent>, StoreError> {
        let fate = self
            .on_read(&format!("list the audit events of {entity_id}"))
            .await;
        fate.decide(self.store.read_audit_events(entity_id, page))
            .await
    }

    async fn read_usage(
        &self,
        query: &UsageQuery,
        page: &PageRequest,
    ) -> Result<Page<UsageSnapshot>, StoreError> {
        let fate = self.on_read("list usage").await;
        fate.decide(self.store.read_usage(query, page)).await
    }

    async fn read_version(&self) -> Result<Option<VersionRecord>, StoreError> {
        let fate = self.on_read("read the version record").await;
        fate.decide(self.store.read_version()).await
    }

    async fn write_version(
        &self,
        record: &VersionRecord,
        replaces: Option<&VersionRecord>,
    ) -> Result<bool, StoreError> {
        let fate = self.on_write("write the version record").await;
        fate.decide(self.store.write_version(record, replaces))
            .await
    }

    async fn read_resource_buckets(
        &self,
        resource: &str,
        page: &PageRequest,
    ) -> Result<Page<(String, BucketItem)>, StoreError> {
        let fate = self
            .on_read(&format!("list the buckets of {resource}"))
            .await;
        fate.decide(self.store.read_resource_buckets(resource, page))
            .await
    }
}

#[cfg(test)]
mod tests {
    use zae_limiter_core::WallTime;

    use super::*;
    use crate::AuditAction;
    use crate::store::MemoryStore;

    fn key() -> BucketKey {
        BucketKey::new("user-1", "api").unwrap()
    }

    fn touch() -> BucketWrite {
        BucketWrite {
            incarnation: None,
            limits: vec![],
            sequence_from: 0,
            consumed_at_ms: 1_767_225_600_000,
            kept: zae_limiter_core::item::Kept::AsItIs,
        }
    }

    fn entity() -> Entity {
        Entity {
            id: "user-1".into(),
            name: "user-1".into(),
            parent_id: None,
            metadata: Default::default(),
            created_at: "2026-01-01T00:00:00Z".into(),
            cascade: false,
        }
    }

    fn event() -> AuditEvent {
        AuditEvent::new(AuditAction::EntityCreated, "user-1", WallTime::ZERO)
    }

    #[tokio::test]
    async fn each_fault_is_told_apart_and_only_a_lost_reply_leaves_a_trace() {
        use StoreErrorKind::{AccessDenied, TableMissing, Throttled, Unreachable};
        for (fault, kind, unknown, applied) in [
            (Fault::Throttled, Throttled, false, false),
            (Fault::Unreachable, Unreachable, false, false),
            (Fault::AccessDenied, AccessDenied, false, false),
            (Fault::TableMissing, TableMissing, false, false),
            (Fault::LostBeforeApply, Unreachable, true, false),
            (Fault::LostReply, Unreachable, true, true),
        ] {
            let store = FaultyStore::new(MemoryStore::new());
            store.fail_all(Some(fault));
            let (error, was_unknown) = match store.write_bucket(&key(), &touch()).await {
                WriteOutcome::Failed(error) => (error, false),
                WriteOutcome::Unknown(error) => (error, true),
                outcome => panic!("{outcome:?}"),
            };
            assert_eq!((error.kind(), was_unknown), (kind, unknown), "{fault:?}");
            for failed in [
                store.create_entity(&entity(), &event()).await.map(drop),
                store.read_entity("user-1").await.map(drop),
                store.read_bucket(&key()).await.map(drop),
                store.check().await,
            ] {
                assert_eq!(failed.unwrap_err().kind(), kind);
            }
            store.fail_all(None);
            let written = store.read_bucket(&key()).await.unwrap().is_some();
            let created = store.read_entity("user-1").await.unwrap().is_some();
            assert_eq!((written, created), (applied, applied), "{fault:?}");
        }
    }

    #[tokio::test]
    async fn planned_calls_come_before_the_rest() {
        let store = FaultyStore::new(MemoryStore::new());
        store.fail_all(Some(Fault::Unreachable));
        store.plan([None, Some(Fault::Throttled)]);
        store.fail_next(Fault::AccessDenied, 2);
        let mut ends = Vec::new();
        for _ in 0..5 {
            ends.push(store.check().await.map_err(|error| error.kind()));
        }
        use StoreErrorKind::{AccessDenied, Throttled, Unreachable};
        let denied = Err(AccessDenied);
        assert_eq!(
            ends,
            [Ok(()), Err(Throttled), denied, denied, Err(Unreachable)]
        );
        store.reset();
        assert!(store.check().await.is_ok());
    }

    #[tokio::test]
    async fn clones_count_together_and_failing_calls_count() {
        let store = FaultyStore::new(MemoryStore::new());
        let clone = store.clone();
        store.fail_next(Fault::Throttled, 1);
        clone.write_bucket(&key(), &touch()).await;
        let created = clone.create_entity(&entity(), &event()).await;
        assert_eq!(created.unwrap(), EntityWrite::Done);
        assert!(clone.read_entity("user-1").await.unwrap().is_some());
        assert!(clone.check().await.is_ok());
        assert_eq!((store.writes(), store.reads(), store.checks()), (2, 1, 1));
        store.reset();
        assert_eq!((clone.writes(), clone.reads(), clone.checks()), (0, 0, 0));
    }
}
