//! Usage snapshots, and the store that keeps them.

use std::fmt::{self, Debug};
use std::sync::Arc;

use async_trait::async_trait;
use zae_limiter_core::usage::{Window, timestamp};
use zae_limiter_core::{BucketKey, WallTime};

/// Which snapshot: of which bucket, for which window of time.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SnapshotKey {
    /// Whose usage of what.
    pub bucket: BucketKey,
    /// How long the window is.
    pub window: Window,
    /// When it begins.
    pub start: WallTime,
}

impl fmt::Display for SnapshotKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (entity_id, resource) = (self.bucket.entity_id(), self.bucket.resource());
        let start = timestamp(self.start);
        write!(
            f,
            "{} usage of {resource} by {entity_id} from {start}",
            self.window
        )
    }
}

/// What some writes of a bucket add to a snapshot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Addition {
    /// Tokens, by limit. May be less than zero.
    pub tokens: Vec<(Arc<str>, i64)>,
    /// How many writes of the bucket they come from.
    pub events: u64,
    /// The number of the first of these writes. It is added only if the snapshot has counted
    /// nothing as late as this.
    pub first: u64,
    /// The number of the last one: what the snapshot has counted then.
    pub last: u64,
    /// When the table may forget the snapshot, in seconds since the Unix epoch.
    pub expires_at_seconds: u64,
}

/// How an addition ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Added {
    /// It was made.
    Done,
    /// Nothing was changed: the snapshot has counted up to this number already.
    Counted(u64),
}

/// A snapshot could not be written. It may have been: the same addition may be tried again.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{message}")]
pub struct SnapshotError {
    message: String,
    #[source]
    source: Option<Arc<dyn std::error::Error + Send + Sync>>,
}

impl SnapshotError {
    /// A failure; `message` says what was tried, on what, and what to do about it.
    #[must_use]
    pub fn new(message: impl Into<String>) -> Self {
        Self {
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
}

/// Where snapshots are kept.
#[async_trait]
pub trait SnapshotStore: Debug + Send + Sync {
    /// Adds to a snapshot, which is made if it is not there, and remembers what was counted: all
    /// of it, or nothing.
    async fn add(&self, key: &SnapshotKey, addition: &Addition) -> Result<Added, SnapshotError>;
}

#[async_trait]
impl<S: SnapshotStore + ?Sized> SnapshotStore for Arc<S> {
    async fn add(&self, key: &SnapshotKey, addition: &Addition) -> Result<Added, SnapshotError> {
        (**self).add(key, addition).await
    }
}
