//! A shared bucket, and the hot path.

use std::ops::Deref;
use std::sync::Arc;

use super::{Bucket, Paid, Shortage};
use crate::Clock;
use crate::purse::PurseRef;
use crate::request::{Charges, Request};

/// A shared bucket, and the way to its purse that does not lead through it. Cheap to clone.
#[derive(Clone, Debug)]
pub struct BucketRef {
    purse: PurseRef,
    bucket: Arc<Bucket>,
}

impl BucketRef {
    pub(crate) fn new(bucket: Bucket) -> Self {
        Self {
            purse: bucket.purse.share(),
            bucket: Arc::new(bucket),
        }
    }

    /// The bucket itself.
    #[must_use]
    pub fn bucket(&self) -> &Arc<Bucket> {
        &self.bucket
    }

    /// Takes the tokens of a valid `request` from the purse, if it can: one compare-and-swap, no
    /// lock, no I/O, no await, no allocation. Only the first two limits have a place in the
    /// purse.
    #[inline(always)]
    #[must_use]
    pub fn hit(&self, clock: &Clock, request: &Request<'_>) -> Option<Hit> {
        let lanes = request.lanes()?;
        let payment = self.purse.pay(clock.tick(), request.fingerprint(), lanes)?;
        Some(Hit {
            lanes,
            generation: payment.generation,
            hint: payment.low && self.bucket.runs_low(),
        })
    }

    /// Takes the tokens of a valid `request` from the block, all of them or none.
    ///
    /// # Errors
    /// The [`Shortage`], if the block cannot pay; then nothing is taken.
    #[inline]
    pub fn take(&self, clock: &Clock, request: &Request<'_>) -> Result<Paid, Shortage> {
        match self.hit(clock, request) {
            Some(hit) => Ok(Paid {
                generation: hit.generation,
                hint: hit.hint,
            }),
            None => self.bucket.take_under_lock(clock, request),
        }
    }
}

/// A request that was paid from the purse.
#[derive(Clone, Copy, Debug)]
pub struct Hit {
    lanes: u64,
    /// Which block paid.
    pub generation: u32,
    /// Whether the block runs low: tell the reconciler.
    pub hint: bool,
}

impl Hit {
    /// What was taken, in the order of the request's limits.
    #[must_use]
    pub fn charges(&self) -> Charges {
        Charges::of_lanes(self.lanes)
    }
}

impl Deref for BucketRef {
    type Target = Bucket;
    fn deref(&self) -> &Bucket {
        &self.bucket
    }
}
