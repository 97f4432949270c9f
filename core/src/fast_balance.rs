//! [`FastBalance`]: what a hit touches of a bucket, in one cache line.
//!
//! It holds the spendable stock of the first two limits as two counters packed into one number, so
//! that a hit is one compare-and-swap whichever of them it charges. The holder of the bucket's lock
//! empties the balance first and fills it last, so that under the lock the slots alone are true.
//!
//! Balances stand side by side in chunks, apart from their buckets: ten thousand of them fit a
//! processor's second-level cache, ten thousand buckets do not.

use std::ops::Deref;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};

use crate::Tick;
use crate::sabotage::Misordering;
use crate::sync::{AtomicU32, AtomicU64, Mutex};

/// How many limits have a counter.
pub(crate) const COUNTERS: usize = 2;
/// The width of a counter, with the two bits above it. The lower one stays clear: a borrow into it shows
/// that the counter did not suffice. The upper one belongs to the tag.
pub(crate) const COUNTER_BITS: u32 = 32;
/// The most tokens in a counter.
pub(crate) const COUNTER_MAX: u64 = (1 << (COUNTER_BITS - 2)) - 1;
const GUARDS: u64 = 1 << 30 | 1 << 62;

/// See the module. The tokens are written with `Release` after all else, and read with
/// `Acquire` before all else but the generation.
#[derive(Debug, Default)]
#[repr(align(64))]
pub(crate) struct FastBalance {
    tokens: AtomicU64,
    low_water: AtomicU64,
    expires: AtomicU64,
    fingerprint: AtomicU64,
    generation: AtomicU32,
    /// Counts the changes of the fingerprint. Its lowest bits tag the tokens: a compare-and-swap fails if the
    /// fingerprint was another when they were read, even if there are as many.
    fingerprints: AtomicU32,
}

/// What a balance is filled with.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Filling {
    pub(crate) tokens: [u64; COUNTERS],
    pub(crate) low_water: [u64; COUNTERS],
    pub(crate) expires: Tick,
    pub(crate) fingerprint: u64,
    pub(crate) generation: u32,
}

/// A payment from a balance.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Payment {
    pub(crate) generation: u32,
    /// A counter has fallen below its low water.
    pub(crate) low: bool,
}

fn pack(counters: [u64; COUNTERS]) -> u64 {
    counters[0].min(COUNTER_MAX) | counters[1].min(COUNTER_MAX) << COUNTER_BITS
}

/// The tag above the counters.
fn tag(fingerprints: u32) -> u64 {
    let fingerprints = u64::from(fingerprints);
    (fingerprints & 1) << 31 | (fingerprints >> 1 & 1) << 63
}

/// `a - b` counter by counter, with the tag of `a`; none if a counter would go below zero.
#[inline(always)]
fn subtract(a: u64, b: u64) -> Option<u64> {
    let left = (a | GUARDS).wrapping_sub(b);
    (left & GUARDS == GUARDS).then_some(left & !GUARDS)
}

impl FastBalance {
    /// Takes the tokens in `counters`, if they are there, not expired at `tick`, and of the limits
    /// that the caller means.
    #[inline(always)]
    pub(crate) fn pay(&self, tick: Tick, fingerprint: u64, counters: u64) -> Option<Payment> {
        // Read before the tokens: if a new block comes in between, a refund goes to the table.
        let generation = self.generation.load(Ordering::Relaxed);
        let mut tokens = self.tokens.load(Ordering::Acquire);
        let mut known = self.fingerprint.load(Ordering::Relaxed);
        loop {
            if known != fingerprint {
                return None;
            }
            if tick.0 >= self.expires.load(Ordering::Relaxed) {
                return None;
            }
            let left = subtract(tokens, counters)?;
            let (success, failure) = (Ordering::AcqRel, Ordering::Acquire);
            match self
                .tokens
                .compare_exchange_weak(tokens, left, success, failure)
            {
                Ok(_) => {
                    let generation = if Misordering::GenerationReadLast.is_planted() {
                        self.generation.load(Ordering::Relaxed)
                    } else {
                        generation
                    };
                    let low_water = self.low_water.load(Ordering::Relaxed);
                    return Some(Payment {
                        generation,
                        low: subtract(left, low_water).is_none(),
                    });
                }
                // It may have been filled under other limits meanwhile.
                Err(found) => {
                    tokens = found;
                    if !Misordering::FingerprintCheckedOnce.is_planted() {
                        known = self.fingerprint.load(Ordering::Relaxed);
                    }
                }
            }
        }
    }

    /// Takes out all there is. Only for the holder of the bucket's lock.
    pub(crate) fn empty(&self) -> [u64; COUNTERS] {
        let tokens = if Misordering::EmptiedInTwoSteps.is_planted() {
            let tokens = self.tokens.load(Ordering::Acquire);
            self.tokens.store(0, Ordering::Release);
            tokens
        } else {
            self.tokens.swap(0, Ordering::Acquire)
        };
        [tokens & COUNTER_MAX, tokens >> COUNTER_BITS & COUNTER_MAX]
    }

    /// Fills an empty balance. Only for the holder of the bucket's lock.
    pub(crate) fn fill(&self, filling: &Filling) {
        let relaxed = Ordering::Relaxed;
        let mut fingerprints = self.fingerprints.load(relaxed);
        if self.fingerprint.load(relaxed) != filling.fingerprint {
            let change = u32::from(!Misordering::TokensNotTagged.is_planted());
            fingerprints = fingerprints.wrapping_add(change);
            self.fingerprints.store(fingerprints, relaxed);
        }
        self.low_water.store(pack(filling.low_water), relaxed);
        self.generation.store(filling.generation, relaxed);
        self.expires.store(filling.expires.0, relaxed);
        self.fingerprint.store(filling.fingerprint, relaxed);
        let release = if Misordering::TokensNotReleased.is_planted() {
            Ordering::Relaxed
        } else {
            Ordering::Release
        };
        self.tokens
            .store(pack(filling.tokens) | tag(fingerprints), release);
    }
}

// Models begin with a new chunk at every try.
const CHUNK: usize = if cfg!(loom) { 2 } else { 256 };

/// Balances side by side, and where their places go when they are free again.
#[derive(Debug)]
struct Chunk {
    balances: [FastBalance; CHUNK],
    free: Weak<FreePlaces>,
}

/// The free places of all chunks.
type FreePlaces = Mutex<Vec<(Arc<Chunk>, u32)>>;

/// Where balances come from.
#[derive(Debug, Default)]
pub(crate) struct FastBalances(Arc<FreePlaces>);

impl FastBalances {
    /// A balance for one bucket.
    pub(crate) fn balance(&self) -> OwnedFastBalance {
        let mut free = self.0.lock();
        let (chunk, at) = match free.pop() {
            Some(place) => place,
            None => {
                let chunk = Arc::new(Chunk {
                    balances: std::array::from_fn(|_| FastBalance::default()),
                    free: Arc::downgrade(&self.0),
                });
                free.extend((1..CHUNK as u32).rev().map(|at| (chunk.clone(), at)));
                (chunk, 0)
            }
        };
        OwnedFastBalance(FastBalanceRef { chunk, at })
    }
}

/// The bucket's own end of a balance: when it is dropped, the place is free for another bucket.
#[derive(Debug)]
pub(crate) struct OwnedFastBalance(FastBalanceRef);

impl OwnedFastBalance {
    /// Another reference to the same balance. It must not outlive the bucket.
    pub(crate) fn share(&self) -> FastBalanceRef {
        self.0.clone()
    }
}

impl Deref for OwnedFastBalance {
    type Target = FastBalance;
    fn deref(&self) -> &FastBalance {
        &self.0
    }
}

impl Drop for OwnedFastBalance {
    fn drop(&mut self) {
        let FastBalanceRef { chunk, at } = &self.0;
        self.0.fill(&Filling::default());
        if let Some(free) = chunk.free.upgrade() {
            free.lock().push((chunk.clone(), *at));
        }
    }
}

/// A balance in its chunk.
#[derive(Clone, Debug)]
pub(crate) struct FastBalanceRef {
    chunk: Arc<Chunk>,
    at: u32,
}

impl Deref for FastBalanceRef {
    type Target = FastBalance;
    #[inline]
    fn deref(&self) -> &FastBalance {
        &self.chunk.balances[self.at as usize]
    }
}
