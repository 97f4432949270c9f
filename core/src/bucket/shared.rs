//! A shared bucket, and the hot path.

use std::ops::Deref;
use std::sync::Arc;

use super::{Bucket, Paid, Shortage};
use crate::Clock;
use crate::fast_balance::FastBalanceRef;
use crate::request::{Charges, Request};

/// A shared bucket, and its fast balance without a detour through it. Cheap to clone.
#[derive(Clone, Debug)]
pub struct BucketRef {
    balance: FastBalanceRef,
    bucket: Arc<Bucket>,
}

impl BucketRef {
    pub(crate) fn new(bucket: Bucket) -> Self {
        Self {
            balance: bucket.balance.share(),
            bucket: Arc::new(bucket),
        }
    }

    /// The bucket itself.
    #[must_use]
    pub fn bucket(&self) -> &Arc<Bucket> {
        &self.bucket
    }

    /// Takes the tokens of a valid `request` from the fast balance, if it can: one compare-and-swap,
    /// no lock, no I/O, no await, no allocation. Only the first two limits have a counter there.
    #[inline(always)]
    #[must_use]
    pub fn hit(&self, clock: &Clock, request: &Request<'_>) -> Option<Hit> {
        let counters = request.counters()?;
        let payment = self
            .balance
            .pay(clock.tick(), request.fingerprint(), counters)?;
        Some(Hit {
            counters,
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

/// A request that was paid from the fast balance.
#[derive(Clone, Copy, Debug)]
pub struct Hit {
    counters: u64,
    /// Which block paid.
    pub generation: u32,
    /// Whether the block runs low: tell the reconciler.
    pub hint: bool,
}

impl Hit {
    /// What was taken, in the order of the request's limits.
    #[must_use]
    pub fn charges(&self) -> Charges {
        Charges::of_counters(self.counters)
    }
}

impl Deref for BucketRef {
    type Target = Bucket;
    fn deref(&self) -> &Bucket {
        &self.bucket
    }
}
