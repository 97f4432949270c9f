//! What happened, as one number that any difference changes, and as lines to read.

use std::fmt;
use std::hash::{BuildHasher, Hasher};

use foldhash::fast::{FixedState, FoldHasher};

/// All that happens passes through here.
pub(super) struct Trace {
    hasher: FoldHasher<'static>,
    prints: bool,
}

impl Trace {
    pub(super) fn new(prints: bool) -> Self {
        Self {
            hasher: FixedState::with_seed(1).build_hasher(),
            prints,
        }
    }

    /// Something happened at a process; `what` is only put together if it is printed.
    #[inline]
    pub(super) fn note(
        &mut self,
        at: u64,
        process: usize,
        numbers: [u64; 2],
        what: impl FnOnce() -> String,
    ) {
        self.hasher.write_u64(at);
        self.hasher.write_u64(process as u64);
        self.hasher.write_u64(numbers[0]);
        self.hasher.write_u64(numbers[1]);
        if self.prints {
            println!("{:>14.6} p{process} {}", at as f64 / 1e9, what());
        }
    }

    pub(super) fn hash(&self) -> u64 {
        self.hasher.finish()
    }
}

impl fmt::Debug for Trace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Trace({:x})", self.hash())
    }
}
