//! Many sequences, in several threads.

use std::ops::Range;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use super::table::Table;

/// Seeds to be played.
#[derive(Clone, Debug)]
pub struct Batch {
    /// The seeds.
    pub seeds: Range<u64>,
    /// In how many threads.
    pub threads: usize,
    /// It ends after so many failures.
    pub failures_max: usize,
}

impl Batch {
    /// Plays each seed as `play` does, on a table that `table` makes for each thread. Returns the failures.
    pub fn play(
        &self,
        table: impl Fn() -> Box<dyn Table> + Sync,
        play: impl Fn(u64, &dyn Table) -> Result<(), String> + Sync,
    ) -> Vec<String> {
        let (next, failures) = (AtomicU64::new(self.seeds.start), Mutex::new(Vec::new()));
        let failures_of = || failures.lock().unwrap_or_else(PoisonError::into_inner);
        thread::scope(|scope| {
            for _ in 0..self.threads {
                scope.spawn(|| {
                    let table = table();
                    while failures_of().len() < self.failures_max {
                        let seed = next.fetch_add(1, Ordering::Relaxed);
                        if seed >= self.seeds.end {
                            return;
                        }
                        if let Err(failure) = play(seed, &*table) {
                            failures_of().push(failure);
                        }
                    }
                });
            }
        });
        failures
            .into_inner()
            .unwrap_or_else(PoisonError::into_inner)
    }
}
