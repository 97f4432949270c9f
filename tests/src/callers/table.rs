//! The table that sequences are played on.

use std::fmt::Debug;
use std::sync::Arc;

use zae_limiter::store::{MemoryStore, Store};
use zae_limiter_core::{BucketKey, WallTime};

/// A store for the sequences of one thread, one after the other.
///
/// Its calls return when they are done and never wait in between, so they take no simulated time. Then a
/// sequence has the same outcome on every table.
pub trait Table: Store + Debug {
    /// This table, or another of its kind, with nothing in it of these entities.
    ///
    /// # Panics
    /// If the table does not answer.
    fn emptied(&self, entities: &[&str]) -> Arc<dyn Table>;

    /// Deletes these buckets if their TTL has passed, as DynamoDB does some time later. Says which were there
    /// and are gone now.
    ///
    /// # Panics
    /// If the table does not answer.
    fn expire(&self, keys: &[BucketKey; 2], now: WallTime) -> [bool; 2];
}

impl Table for MemoryStore {
    fn emptied(&self, _: &[&str]) -> Arc<dyn Table> {
        Arc::new(Self::new())
    }

    fn expire(&self, keys: &[BucketKey; 2], now: WallTime) -> [bool; 2] {
        let before = self.copy();
        Self::expire(self, now);
        let is_gone = |key| before.bucket(key).is_some() && self.bucket(key).is_none();
        keys.each_ref().map(is_gone)
    }
}
