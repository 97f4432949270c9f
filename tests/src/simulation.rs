//! A fleet against one table, in simulated time, where everything that can go wrong does.
//!
//! The core, the reconciler and the strict payments are the real ones, and so is what a write
//! does to an item. One seed decides all that is left to chance; nothing sleeps, and no runtime
//! is needed. What must be true at every step is in `ledger`.

mod acquire;
mod afterwards;
mod campaign;
mod ledger;
mod network;
mod payments;
mod process;
mod random;
mod recovery;
mod report;
mod scenario;
mod trace;
mod trouble;
mod world;

pub use campaign::{Draw, find, play, replay};
pub use random::{NAMES, PERIODS_MULTIPLE};
pub use report::{Fault, Recovery, Report, Violation};
pub use scenario::{Afterwards, Change, Faults, Nanos, Scenario, Traffic};

use world::World;

use crate::policies;

/// How many acquires a scenario has unless somebody says, give or take a factor of seven.
pub const REQUESTS: u64 = 4_000;

impl Scenario {
    /// Plays it through, or until a promise is broken.
    #[must_use]
    pub fn run(&self) -> Report {
        policies::seed(self.seed);
        World::new(self, false).run()
    }

    /// The same, and prints all that happens.
    #[must_use]
    pub fn trace(&self) -> Report {
        policies::seed(self.seed);
        World::new(self, true).run()
    }
}
