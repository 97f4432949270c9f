//! Where buckets, entities, limits and events are kept: the [`Store`] trait, DynamoDB, and memory.
//!
//! A store reads, writes conditionally, and says how that ended. It knows nothing of modes,
//! blocks or callers.

mod dynamodb;
mod faulty;
mod memory;

use std::fmt::Debug;
use std::sync::Arc;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use zae_limiter_core::item::{BucketItem, BucketWrite};
use zae_limiter_core::{BucketKey, ValidationError};

pub use dynamodb::{ConnectOptions, DynamoDbStore};
pub use faulty::{Fault, FaultyStore};
pub use memory::MemoryStore;

use crate::{
    AuditEvent, Entity, EntityChange, Limit, LimitOwner, LimitScope, Page, PageRequest, UsageQuery,
    UsageSnapshot, VersionRecord,
};

/// Storage for one table.
///
/// Buckets are written at most once per call. All else may be sent again within a call, in such
/// a way that it is done once; a failed call may have been applied, or be applied yet, unless
/// the error is of a kind that says otherwise.
///
/// Every implementation passes the conformance suite of this project. The two that matter are
/// [`DynamoDbStore`] and [`MemoryStore`].
///
/// ```
/// # use zae_limiter::{NewEntity, RateLimiter};
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), zae_limiter::Error> {
/// use zae_limiter::store::{MemoryStore, Store};
///
/// /// For whatever store there is.
/// async fn is_known(store: &dyn Store, id: &str) -> bool {
///     matches!(store.read_entity(id).await, Ok(Some(_)))
/// }
///
/// let table = MemoryStore::new();
/// let limiter = RateLimiter::builder("my-app").store(table.clone()).connect().await?;
/// limiter.create_entity(NewEntity::new("user-1")).await?;
/// assert!(is_known(&table, "user-1").await);
/// # Ok(()) }
/// ```
#[async_trait]
pub trait Store: Debug + Send + Sync + 'static {
    /// Makes sure that the table is there and may be used.
    async fn check(&self) -> Result<(), StoreError>;

    /// Makes one conditional write. It is sent at most once: whoever asked decides what an
    /// unknown outcome means.
    async fn write_bucket(&self, key: &BucketKey, write: &BucketWrite) -> WriteOutcome;

    /// Reads a bucket, as of a moment after the call began.
    async fn read_bucket(&self, key: &BucketKey) -> Result<Option<BucketItem>, StoreError>;

    /// Stores a new entity and the event, both or neither. Its parent must be there.
    async fn create_entity(
        &self,
        entity: &Entity,
        event: &AuditEvent,
    ) -> Result<EntityWrite, StoreError>;

    /// Changes an entity and stores the event, both or neither. A new parent must be there; that
    /// it is not the entity itself is the caller's to see to.
    async fn update_entity(
        &self,
        id: &str,
        change: &EntityChange,
        event: &AuditEvent,
    ) -> Result<EntityWrite, StoreError>;

    /// Deletes an entity and all that is stored of it: its buckets, limits and whatever else is
    /// under its key, but not its children and its events. False if there was nothing.
    ///
    /// It is not one step: the entity's own item goes last, together with the event, so what is
    /// cut short can be done again. What is written meanwhile may stay.
    async fn delete_entity(&self, id: &str, event: &AuditEvent) -> Result<bool, StoreError>;

    /// Reads an entity, as of a moment after the call began.
    async fn read_entity(&self, id: &str) -> Result<Option<Entity>, StoreError>;

    /// Reads those of these entities that are there, in no particular order, as of a moment after
    /// the call began. Reads one after the other where a store knows no better.
    async fn read_entities(&self, ids: &[String]) -> Result<Vec<Entity>, StoreError> {
        let mut found = Vec::with_capacity(ids.len());
        for id in ids {
            found.extend(self.read_entity(id).await?);
        }
        Ok(found)
    }

    /// Lists the children of an entity in the order of their identifiers. The list may be a
    /// moment behind: in DynamoDB it comes from an index, which follows the table within
    /// fractions of a second, as a rule.
    async fn read_children(
        &self,
        parent_id: &str,
        page: &PageRequest,
    ) -> Result<Page<Entity>, StoreError>;

    /// Replaces all limits of a scope by these, and stores the event: all of it or nothing, for
    /// whoever reads them by [`read_limits`](Self::read_limits). No limits delete the set; false
    /// if that finds none, and then no event is stored either.
    ///
    /// It fails as [`Invalid`](StoreErrorKind::Invalid) where
    /// [`validate_stored_limits`](crate::validate_stored_limits) does.
    async fn write_limits(
        &self,
        scope: &LimitScope,
        limits: &[Limit],
        event: &AuditEvent,
    ) -> Result<bool, StoreError>;

    /// Reads all sets of limits of an owner, each as of a moment after the call began, and never
    /// half of one. Scopes come in no particular order, their limits in the order of the names.
    async fn read_limits(
        &self,
        owner: &LimitOwner,
    ) -> Result<Vec<(LimitScope, Vec<Limit>)>, StoreError>;

    /// Lists what was done to an entity, the newest first.
    async fn read_audit_events(
        &self,
        entity_id: &str,
        page: &PageRequest,
    ) -> Result<Page<AuditEvent>, StoreError>;

    /// Lists usage snapshots: an entity's by resource and time, a resource's by time and entity.
    /// Which there are may be a moment behind where an entity is not named, as with
    /// [`read_children`](Self::read_children).
    async fn read_usage(
        &self,
        query: &UsageQuery,
        page: &PageRequest,
    ) -> Result<Page<UsageSnapshot>, StoreError>;

    /// Reads the version record, as of a moment after the call began.
    async fn read_version(&self) -> Result<Option<VersionRecord>, StoreError>;

    /// Stores the version record in place of `replaces`, or as the first one if that is none;
    /// false if another one is there.
    async fn write_version(
        &self,
        record: &VersionRecord,
        replaces: Option<&VersionRecord>,
    ) -> Result<bool, StoreError>;

    /// Lists the buckets of a resource with their entities' identifiers. Which there are may be
    /// a moment behind, as with [`read_children`](Self::read_children); what is in them is not.
    async fn read_resource_buckets(
        &self,
        resource: &str,
        page: &PageRequest,
    ) -> Result<Page<(String, BucketItem)>, StoreError>;
}

/// How a change of an entity ended.
///
/// What a store answers, for who makes one of their own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[must_use]
pub enum EntityWrite {
    /// It was made, and the event stored.
    Done,
    /// There is such an entity already; nothing was changed.
    Exists,
    /// There is no such entity; nothing was changed.
    Missing,
    /// There is no entity that is to be the parent; nothing was changed.
    ParentMissing,
}

/// How a conditional write ended.
#[derive(Debug)]
pub enum WriteOutcome {
    /// It was applied, and left this.
    Applied(BucketItem),
    /// A guard did not hold; this was found, and nothing was changed.
    Refused(Option<BucketItem>),
    /// It was not applied.
    Failed(StoreError),
    /// It may have been applied, or be applied yet.
    Unknown(StoreError),
}

/// What kept a store from answering.
///
/// See the example of [`StoreError`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum StoreErrorKind {
    /// The table takes no more requests just now. Nothing was changed.
    Throttled,
    /// No answer: the endpoint, the network or the service is down, or too slow.
    Unreachable,
    /// There is no such table.
    TableMissing,
    /// The credentials are missing, wrong, or do not allow it.
    AccessDenied,
    /// The request or the stored item makes no sense: a defect, or an item that others wrote.
    Invalid,
}

/// A failed request to a store.
///
/// ```
/// # use zae_limiter::{RateLimiter};
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), zae_limiter::Error> {
/// use zae_limiter::Error;
/// use zae_limiter::store::{Fault, FaultyStore, MemoryStore, StoreErrorKind};
///
/// let table = FaultyStore::new(MemoryStore::new());
/// table.fail_all(Some(Fault::Throttled));
/// let limiter = RateLimiter::builder("my-app").store(table).connect().await;
/// match limiter.unwrap_err() {
///     Error::Store(error) => assert_eq!(error.kind(), StoreErrorKind::Throttled),
///     other => return Err(other),
/// }
/// # Ok(()) }
/// ```
#[derive(Clone, Debug, thiserror::Error)]
#[error("{message}")]
pub struct StoreError {
    kind: StoreErrorKind,
    message: String,
    #[source]
    source: Option<Arc<dyn std::error::Error + Send + Sync>>,
}

impl StoreError {
    /// A failure of this kind; `message` says what was tried, on what, and what to do about it.
    ///
    /// ```
    /// use zae_limiter::store::{StoreError, StoreErrorKind};
    ///
    /// let refused = std::io::Error::from(std::io::ErrorKind::ConnectionRefused);
    /// let error = StoreError::new(StoreErrorKind::Unreachable, "no cache at cache:6379").caused_by(refused);
    /// assert_eq!(error.kind(), StoreErrorKind::Unreachable);
    /// ```
    #[must_use]
    pub fn new(kind: StoreErrorKind, message: impl Into<String>) -> Self {
        Self {
            kind,
            message: message.into(),
            source: None,
        }
    }

    /// The same failure with what caused it.
    ///
    /// See the example of [`new`](Self::new).
    #[must_use]
    pub fn caused_by(
        mut self,
        source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> Self {
        self.source = Some(source.into().into());
        self
    }

    /// What sort of failure it is.
    ///
    /// See the example of [`StoreError`].
    #[must_use]
    pub fn kind(&self) -> StoreErrorKind {
        self.kind
    }

    /// The rule that the caller's input breaks, if that is what is wrong.
    pub(crate) fn broken_rule(&self) -> Option<&ValidationError> {
        self.source.as_deref()?.downcast_ref()
    }
}

impl From<ValidationError> for StoreError {
    fn from(error: ValidationError) -> Self {
        Self::new(StoreErrorKind::Invalid, error.to_string()).caused_by(error)
    }
}
