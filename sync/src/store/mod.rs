//! Where buckets and entities are kept: the [`Store`] trait, DynamoDB, and memory.
//!
//! A store does single conditional writes and single reads, and says how they ended. It knows
//! nothing of modes, blocks or callers.

mod dynamodb;
mod faulty;
mod memory;

use std::fmt::Debug;
use std::sync::Arc;

use async_trait::async_trait;
use zae_limiter_core::BucketKey;
use zae_limiter_core::item::{BucketItem, BucketWrite};

pub use dynamodb::{ConnectOptions, DynamoDbStore};
pub use faulty::{Fault, FaultyStore};
pub use memory::MemoryStore;

use crate::Entity;

/// Storage for one table's buckets and entities.
///
/// Every implementation passes the conformance suite of this project. The two that matter are
/// [`DynamoDbStore`] and [`MemoryStore`].
#[async_trait]
pub trait Store: Debug + Send + Sync + 'static {
    /// Makes sure that the table is there and may be used.
    async fn check(&self) -> Result<(), StoreError>;

    /// Makes one conditional write. It is sent at most once: whoever asked decides what an
    /// unknown outcome means.
    async fn write_bucket(&self, key: &BucketKey, write: &BucketWrite) -> WriteOutcome;

    /// Reads a bucket, as of a moment after the call began.
    async fn read_bucket(&self, key: &BucketKey) -> Result<Option<BucketItem>, StoreError>;

    /// Stores a new entity; false if there is one of that id.
    async fn create_entity(&self, entity: &Entity) -> Result<bool, StoreError>;

    /// Reads an entity, as of a moment after the call began.
    async fn read_entity(&self, id: &str) -> Result<Option<Entity>, StoreError>;
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
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
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
    #[must_use]
    pub fn new(kind: StoreErrorKind, message: impl Into<String>) -> Self {
        Self {
            kind,
            message: message.into(),
            source: None,
        }
    }

    /// The same failure with what caused it.
    #[must_use]
    pub fn caused_by(
        mut self,
        source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> Self {
        self.source = Some(source.into().into());
        self
    }

    /// What sort of failure it is.
    #[must_use]
    pub fn kind(&self) -> StoreErrorKind {
        self.kind
    }
}
