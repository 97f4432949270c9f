//! The buckets that this process knows, in a lock-sharded table.

use std::hash::{BuildHasher, Hasher};
use std::sync::Arc;

use dashmap::DashMap;
use foldhash::fast::RandomState;

use crate::bucket::{Bucket, BucketRef};
use crate::fast_balance::FastBalances;
use crate::key::hash_key;
use crate::{BucketKey, Limit, ValidationError};

/// A concurrent table of buckets.
///
/// A lookup takes one shard's read lock and does not allocate. Keys come from users, so the hash
/// is seeded at random for each cache.
#[derive(Debug)]
pub struct BucketCache {
    buckets: DashMap<BucketKey, BucketRef, RandomState>,
    balances: FastBalances,
}

impl Default for BucketCache {
    fn default() -> Self {
        Self::new()
    }
}

impl BucketCache {
    /// An empty cache.
    #[must_use]
    pub fn new() -> Self {
        Self {
            buckets: DashMap::with_hasher(RandomState::default()),
            balances: FastBalances::default(),
        }
    }

    /// As the table hashes the key of this bucket.
    #[inline]
    fn hash(&self, entity_id: &str, resource: &str) -> u64 {
        let mut hasher = self.buckets.hasher().build_hasher();
        hash_key(entity_id, resource, &mut hasher);
        hasher.finish()
    }

    /// The bucket, if it is known.
    #[inline]
    #[must_use]
    pub fn get(&self, entity_id: &str, resource: &str) -> Option<BucketRef> {
        self.with(entity_id, resource, BucketRef::clone)
    }

    /// Runs `f` on the bucket, if it is known, under its shard's lock, which is taken for reading.
    #[inline]
    pub fn with<R>(
        &self,
        entity_id: &str,
        resource: &str,
        f: impl FnOnce(&BucketRef) -> R,
    ) -> Option<R> {
        let hash = self.hash(entity_id, resource);
        let shard = &self.buckets.shards()[self.buckets.determine_shard(hash as usize)];
        let shard = shard.read();
        let (_, found) = shard.get(hash, |(key, _)| key.is(entity_id, resource))?;
        Some(f(found.get()))
    }

    /// The bucket; made if it is not known yet.
    ///
    /// # Errors
    /// [`ValidationError`] if the entity or the resource cannot be called so.
    pub fn get_or_insert(
        &self,
        entity_id: &str,
        resource: &str,
        limits: &Arc<[Limit]>,
    ) -> Result<BucketRef, ValidationError> {
        if let Some(known) = self.get(entity_id, resource) {
            return Ok(known);
        }
        let key = BucketKey::new(entity_id, resource)?;
        let entry = self.buckets.entry(key.clone());
        let fresh = || BucketRef::new(Bucket::new(self.balances.balance(), key, limits.clone()));
        Ok(entry.or_insert_with(fresh).clone())
    }

    /// Forgets `bucket` unless somebody holds it, beside the cache and the caller.
    pub fn forget(&self, bucket: &Arc<Bucket>) -> bool {
        let unused = |_: &BucketKey, known: &BucketRef| Arc::strong_count(known.bucket()) <= 2;
        self.buckets.remove_if(bucket.key(), unused).is_some()
    }

    /// All buckets, as of some moment each.
    #[must_use]
    pub fn all(&self) -> Vec<Arc<Bucket>> {
        self.buckets
            .iter()
            .map(|found| found.bucket().clone())
            .collect()
    }

    /// How many buckets are known.
    #[must_use]
    pub fn len(&self) -> usize {
        self.buckets.len()
    }

    /// Whether no bucket is known.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.buckets.is_empty()
    }
}
