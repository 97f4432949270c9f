//! A model-based test of the public surface: callers do whatever it lets them do, drawn from a seed, and a
//! small model says what is promised.
//!
//! They acquire, correct, give back, keep, and drop futures at any poll, in both modes, with several processes
//! on one table, while the table fails and time passes. Time is simulated: the runtime's and that of the
//! limiters go together, so a seed has one history, on every [`Table`]. A sequence that breaks a promise is
//! shrunk to the fewest operations that still break one.

mod batch;
mod calls;
mod draw;
mod drop_after;
mod dynamodb;
mod events;
mod lease;
mod model;
mod operation;
mod outcome;
mod panics;
mod sequence;
mod table;
mod world;

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};

pub use self::batch::Batch;
pub use self::drop_after::DropAfter;
pub use self::dynamodb::DynamoDbTable;
pub use self::model::{Broken, Counted};
pub use self::operation::{AcquireCall, End, Event, Operation};
pub use self::outcome::Outcome;
pub use self::sequence::{Faults, Sequence, Setting};
pub use self::table::Table;

/// How a sequence has broken a promise.
#[derive(Debug)]
pub struct Failure {
    /// Its seed.
    pub seed: u64,
    /// The fewest operations that still break one.
    pub sequence: Sequence,
    /// What was broken.
    pub broken: Broken,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "seed {}: {}", self.seed, self.broken)?;
        let Sequence {
            setting,
            operations,
        } = &self.sequence;
        writeln!(f, "  {setting:?}")?;
        operations
            .iter()
            .try_for_each(|operation| writeln!(f, "  {operation:?}"))
    }
}

/// Plays the sequence of a seed.
///
/// # Errors
/// What it breaks, shrunk.
pub fn play(seed: u64, table: &dyn Table) -> Result<Outcome, Box<Failure>> {
    let mut sequence = Sequence::random(seed);
    let mut broken = match run(&sequence, table) {
        Ok(outcome) => return Ok(outcome),
        Err(broken) => broken,
    };
    let mut at = sequence.operations.len();
    while at > 0 {
        at -= 1;
        let mut shorter = sequence.clone();
        shorter.operations.remove(at);
        if let Err(still) = run(&shorter, table) {
            (sequence, broken) = (shorter, still);
            at = at.min(sequence.operations.len());
        }
    }
    Err(Box::new(Failure {
        seed,
        sequence,
        broken,
    }))
}

/// Plays one sequence.
///
/// # Errors
/// What it breaks; a panic breaks it too.
pub fn run(sequence: &Sequence, table: &dyn Table) -> Result<Outcome, Broken> {
    let played = catch_unwind(AssertUnwindSafe(|| world::run(sequence, table)));
    played.unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
        Err(Broken(format!("panic: {}", text.unwrap_or_default())))
    })
}
