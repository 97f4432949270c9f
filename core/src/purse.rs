//! The purse: what a hit touches of a bucket, in one cache line.
//!
//! It holds the spendable stock of the first two limits as two lanes of one number, so that a
//! hit is one compare-and-swap whatever it charges. Whoever holds the bucket's lock empties the
//! purse first and fills it again last, so that under the lock there is only one truth.
//!
//! Purses stand side by side in chunks, apart from their buckets: ten thousand of them fit a
//! processor's second-level cache, ten thousand buckets do not.

use std::ops::Deref;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use parking_lot::Mutex;

use crate::Tick;

/// How many limits have a lane.
pub(crate) const LANES: usize = 2;
/// The width of a lane. Its highest bit stays clear: a borrow into it tells that the lane did
/// not suffice.
pub(crate) const LANE_BITS: u32 = 32;
/// The most tokens in a lane; twice as many still keep clear of the highest bit.
pub(crate) const LANE_MAX: u64 = (1 << (LANE_BITS - 2)) - 1;
const GUARDS: u64 = 1 << 31 | 1 << 63;

/// See the module. The tokens are written with `Release` after all else, and read with
/// `Acquire` before all else but the generation.
#[derive(Debug, Default)]
#[repr(align(64))]
pub(crate) struct Purse {
    tokens: AtomicU64,
    low_water: AtomicU64,
    expires: AtomicU64,
    fingerprint: AtomicU64,
    generation: AtomicU32,
}

/// What a purse is filled with.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Filling {
    pub(crate) tokens: [u64; LANES],
    pub(crate) low_water: [u64; LANES],
    pub(crate) expires: Tick,
    pub(crate) fingerprint: u64,
    pub(crate) generation: u32,
}

/// A payment from a purse.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Payment {
    pub(crate) generation: u32,
    /// A lane has fallen below its low water.
    pub(crate) low: bool,
}

fn pack(lanes: [u64; LANES]) -> u64 {
    lanes[0].min(LANE_MAX) | lanes[1].min(LANE_MAX) << LANE_BITS
}

/// `a - b` lane by lane; none if a lane would go below zero.
#[inline(always)]
fn subtract(a: u64, b: u64) -> Option<u64> {
    let left = (a | GUARDS).wrapping_sub(b);
    (left & GUARDS == GUARDS).then_some(left & !GUARDS)
}

impl Purse {
    /// Takes `lanes`, if they are there, not expired at `tick`, and of the limits that the
    /// caller means.
    #[inline(always)]
    pub(crate) fn pay(&self, tick: Tick, fingerprint: u64, lanes: u64) -> Option<Payment> {
        // Read before the tokens: if a new block comes in between, a refund goes to the table.
        let generation = self.generation.load(Ordering::Relaxed);
        let mut tokens = self.tokens.load(Ordering::Acquire);
        if self.fingerprint.load(Ordering::Relaxed) != fingerprint {
            return None;
        }
        loop {
            if tick.0 >= self.expires.load(Ordering::Relaxed) {
                return None;
            }
            let left = subtract(tokens, lanes)?;
            let (success, failure) = (Ordering::AcqRel, Ordering::Acquire);
            match self
                .tokens
                .compare_exchange_weak(tokens, left, success, failure)
            {
                Ok(_) => {
                    let low_water = self.low_water.load(Ordering::Relaxed);
                    return Some(Payment {
                        generation,
                        low: subtract(left, low_water).is_none(),
                    });
                }
                Err(found) => tokens = found,
            }
        }
    }

    /// Takes out all there is. Only for who holds the bucket's lock.
    pub(crate) fn empty(&self) -> [u64; LANES] {
        let tokens = self.tokens.swap(0, Ordering::Acquire);
        [tokens & LANE_MAX, tokens >> LANE_BITS & LANE_MAX]
    }

    /// Fills an empty purse. Only for who holds the bucket's lock.
    pub(crate) fn fill(&self, filling: &Filling) {
        let relaxed = Ordering::Relaxed;
        self.low_water.store(pack(filling.low_water), relaxed);
        self.generation.store(filling.generation, relaxed);
        self.expires.store(filling.expires.0, relaxed);
        self.fingerprint.store(filling.fingerprint, relaxed);
        self.tokens.store(pack(filling.tokens), Ordering::Release);
    }
}

const CHUNK: usize = 256;

/// Purses side by side, and where their places go when they are free again.
#[derive(Debug)]
struct Chunk {
    purses: [Purse; CHUNK],
    home: Weak<Places>,
}

/// The free places of all chunks.
type Places = Mutex<Vec<(Arc<Chunk>, u32)>>;

/// Where purses come from.
#[derive(Debug, Default)]
pub(crate) struct PurseStore(Arc<Places>);

impl PurseStore {
    /// A purse for one bucket.
    pub(crate) fn purse(&self) -> OwnPurse {
        let mut free = self.0.lock();
        let (chunk, at) = match free.pop() {
            Some(place) => place,
            None => {
                let chunk = Arc::new(Chunk {
                    purses: std::array::from_fn(|_| Purse::default()),
                    home: Arc::downgrade(&self.0),
                });
                free.extend((1..CHUNK as u32).rev().map(|at| (chunk.clone(), at)));
                (chunk, 0)
            }
        };
        OwnPurse(PurseRef { chunk, at })
    }
}

/// The bucket's own end of a purse: when it is dropped, the place is free for another.
#[derive(Debug)]
pub(crate) struct OwnPurse(PurseRef);

impl OwnPurse {
    /// Another way to the same purse. It must not outlive the bucket.
    pub(crate) fn share(&self) -> PurseRef {
        self.0.clone()
    }
}

impl Deref for OwnPurse {
    type Target = Purse;
    fn deref(&self) -> &Purse {
        &self.0
    }
}

impl Drop for OwnPurse {
    fn drop(&mut self) {
        let PurseRef { chunk, at } = &self.0;
        self.0.fill(&Filling::default());
        if let Some(free) = chunk.home.upgrade() {
            free.lock().push((chunk.clone(), *at));
        }
    }
}

/// A purse in its chunk.
#[derive(Clone, Debug)]
pub(crate) struct PurseRef {
    chunk: Arc<Chunk>,
    at: u32,
}

impl Deref for PurseRef {
    type Target = Purse;
    #[inline]
    fn deref(&self) -> &Purse {
        &self.chunk.purses[self.at as usize]
    }
}
