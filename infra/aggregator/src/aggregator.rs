//! One batch of records: folded, written, and what could not be.

use std::collections::{BTreeMap, HashSet};

use futures::{StreamExt, stream};
use tracing::debug;
use zae_limiter_core::usage::Window;

use crate::change::{Record, Unreadable};
use crate::fold::{Tally, fold};
use crate::snapshot::{Added, SnapshotError, SnapshotStore};

/// How many snapshots are written at once.
const WRITES_MAX: usize = 16;

/// How often a snapshot is tried that others write at the same time.
const TRIES_MAX: u32 = 16;

/// Counts batches of records into snapshots.
#[derive(Clone, Debug)]
pub struct Aggregator<S> {
    store: S,
    windows: Vec<Window>,
    retention_days: u32,
}

/// What became of a batch.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Records that are done with: counted, counted before, or nothing to count.
    pub processed: usize,
    /// Counters of limits that the records changed.
    pub deltas_extracted: usize,
    /// Snapshots that were written.
    pub snapshots_updated: usize,
    /// Records that are not done with, in their order: to be delivered again.
    pub failed: Vec<FailedRecord>,
}

/// A record that is not done with.
#[derive(Clone, Debug)]
pub struct FailedRecord {
    /// Its sequence number in the stream.
    pub position: String,
    /// Why.
    pub cause: Cause,
}

/// Why a record is not done with.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Cause {
    /// It makes no sense, and will not make any later.
    #[error(transparent)]
    Unreadable(Unreadable),
    /// An earlier record of the same item makes no sense: this one must not be counted before
    /// that is dealt with.
    #[error("{0} waits for an earlier record of the same item")]
    Held(String),
    /// A snapshot could not be written.
    #[error(transparent)]
    NotWritten(SnapshotError),
}

impl<S: SnapshotStore> Aggregator<S> {
    /// Counts by `windows` into `store`; snapshots are kept for `retention_days` after their end.
    #[must_use]
    pub fn new(store: S, windows: Vec<Window>, retention_days: u32) -> Self {
        Self {
            store,
            windows,
            retention_days,
        }
    }

    /// Where it counts.
    #[must_use]
    pub fn store(&self) -> &S {
        &self.store
    }

    /// Counts a batch, whose records are in the order of the stream.
    ///
    /// A batch may be handed in again, whole or in part, together with others or not: what was
    /// counted is not counted again. But of one item no record may be left out: what comes before
    /// a record that was counted is taken to be counted too.
    pub async fn process(&self, records: &[Record]) -> Report {
        let mut failed = BTreeMap::new();
        let mut held = HashSet::new();
        let mut changes = Vec::new();
        for (at, record) in records.iter().enumerate() {
            match &record.change {
                Err(unreadable) => {
                    held.insert(&record.item);
                    failed.insert(at, Cause::Unreadable(unreadable.clone()));
                }
                Ok(Some(_)) if held.contains(&record.item) => {
                    failed.insert(at, Cause::Held(record.item.clone()));
                }
                Ok(Some(change)) => changes.push((at, change)),
                Ok(None) => {}
            }
        }
        let deltas = changes
            .iter()
            .map(|(_, change)| change.consumption.tokens.len());
        let deltas_extracted = deltas.sum();
        let mut snapshots_updated = 0;
        let tallies = fold(changes, &self.windows);
        let written = stream::iter(&tallies).map(|tally| async move {
            let written = self.write(tally).await;
            (tally, written)
        });
        let mut written = written.buffer_unordered(WRITES_MAX);
        while let Some((tally, written)) = written.next().await {
            match written {
                Ok(updated) => snapshots_updated += usize::from(updated),
                Err(error) => {
                    let cause = |at| (at, Cause::NotWritten(error.clone()));
                    failed.extend(tally.places().map(cause));
                }
            }
        }
        let failed = failed.into_iter().map(|(at, cause)| FailedRecord {
            position: records[at].position.clone(),
            cause,
        });
        let failed: Vec<_> = failed.collect();
        Report {
            processed: records.len() - failed.len(),
            deltas_extracted,
            snapshots_updated,
            failed,
        }
    }

    /// Whether the snapshot had to be written.
    async fn write(&self, tally: &Tally<'_>) -> Result<bool, SnapshotError> {
        let mut counted = None;
        for _ in 0..TRIES_MAX {
            let Some(addition) = tally.addition(counted, self.retention_days) else {
                return Ok(false);
            };
            match self.store.add(&tally.key, &addition).await? {
                Added::Done => {
                    debug!(
                        logger = LOGGER,
                        entity_id = tally.key.bucket.entity_id(),
                        resource = tally.key.bucket.resource(),
                        window = tally.key.window.as_str(),
                        events = addition.events,
                        "Snapshot updated"
                    );
                    return Ok(true);
                }
                Added::Counted(up_to) => counted = counted.max(Some(up_to)),
            }
        }
        let key = &tally.key;
        let message = format!("{key}: others wrote it at the same time, {TRIES_MAX} times");
        Err(SnapshotError::new(message))
    }
}

/// What log lines say they are from.
const LOGGER: &str = "zae_limiter_aggregator::aggregator";
