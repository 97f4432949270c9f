//! Callers who do whatever the public surface lets them do, drawn from a seed: they correct, give back,
//! abandon and cancel at any poll, in both modes, with several processes on one table, while the table fails
//! and time passes. A small model keeps books beside them.
//!
//! Time is simulated: the runtime's and that of the limiters go together, so a seed is one history. What
//! breaks is shrunk to the fewest operations that still break it.

mod model;
mod operation;
mod runner;

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};

pub use self::model::Broken;
pub use self::operation::{Operation, Sequence};

/// How a sequence has broken a promise.
#[derive(Debug)]
pub struct Failure {
    /// Its seed.
    pub seed: u64,
    /// The fewest operations that still break it.
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
pub fn play(seed: u64) -> Result<(), Box<Failure>> {
    let mut sequence = Sequence::random(seed);
    let Err(mut broken) = run(&sequence) else {
        return Ok(());
    };
    let mut at = sequence.operations.len();
    while at > 0 {
        at -= 1;
        let mut shorter = sequence.clone();
        shorter.operations.remove(at);
        if let Err(still) = run(&shorter) {
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
pub fn run(sequence: &Sequence) -> Result<(), Broken> {
    let played = catch_unwind(AssertUnwindSafe(|| runner::run(sequence)));
    played.unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
        Err(Broken(format!("panic: {}", text.unwrap_or_default())))
    })
}
