//! A sequence of operations, and the setting that it is played in.

use std::time::Duration;

use zae_limiter::store::Fault;

use super::operation::{AcquireCall, Event, Operation};

/// How many limits there are at most.
pub(super) const LIMITS_MAX: usize = 5;
/// How many processes there are at most.
pub(super) const PROCESSES_MAX: usize = 3;

/// What a sequence is played in.
#[derive(Clone, Copy, Debug)]
pub struct Setting {
    /// Whether each process is in strict mode.
    pub strict: [bool; PROCESSES_MAX],
    /// How many processes there are.
    pub processes: usize,
    /// How many limits there are.
    pub limits: usize,
    /// How many tokens each holds.
    pub burst: u64,
    /// In how many seconds all of them are refilled: from one to a year.
    pub period: u64,
    /// Whether the limits are stored, and not given with the calls.
    pub stored: bool,
    /// Whether the failure mode is open: calls are admitted while the table is away.
    pub open: bool,
    /// How the table fails.
    pub faults: Faults,
    /// How a table answers that does not fail: a little later, as real ones do.
    pub answers: Fault,
    /// The seed of whatever the limiters leave to chance.
    pub seed: u64,
}

/// How the table fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Faults {
    /// Not at all.
    None,
    /// In ways that leave no doubt: throttled, away, late.
    Certain,
    /// In any way: answers are lost as well.
    Any,
}

/// Operations, and what they are played in.
#[derive(Clone, Debug)]
pub struct Sequence {
    /// What they are played in.
    pub setting: Setting,
    /// What is done, in this order.
    pub operations: Vec<Operation>,
}

impl Sequence {
    /// Whether every call is made in strict mode.
    pub(super) fn is_strict(&self) -> bool {
        let mut processes = self.setting.strict[..self.setting.processes].iter();
        let leased = |operation: &Operation| {
            matches!(
                operation,
                Operation::Acquire(AcquireCall {
                    strict: Some(false),
                    ..
                })
            )
        };
        processes.all(|strict| *strict) && !self.operations.iter().any(leased)
    }

    /// How far the wall clocks are set in all, forwards and backwards.
    pub(super) fn clocks_set_by(&self) -> Duration {
        let set_by = |operation: &Operation| match operation {
            Operation::Event(Event::SetClocks(millis)) => millis.unsigned_abs(),
            _ => 0,
        };
        Duration::from_millis(self.operations.iter().map(set_by).sum())
    }
}
