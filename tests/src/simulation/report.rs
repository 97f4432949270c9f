//! What came out of one run, or of many.

use std::fmt;

/// What can go wrong, or be done at a bad moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)] // the names say it
pub enum Fault {
    LostWrite,
    LostReply,
    LateWrite,
    Delay,
    Throttling,
    Unreachable,
    Denied,
    Crash,
    Freeze,
    ClockForward,
    ClockBack,
    LimitRaised,
    LimitCut,
    LimitDropped,
    LimitDeleted,
    BucketDeleted,
    BucketMadeAgain,
    ParentChanged,
    StrictAmongLeased,
    IntoDebt,
    Released,
    RolledBack,
    AdmittedOpen,
    CallerGone,
    BlockExpired,
}

impl Fault {
    /// All of them.
    pub const ALL: [Self; 25] = [
        Self::LostWrite,
        Self::LostReply,
        Self::LateWrite,
        Self::Delay,
        Self::Throttling,
        Self::Unreachable,
        Self::Denied,
        Self::Crash,
        Self::Freeze,
        Self::ClockForward,
        Self::ClockBack,
        Self::LimitRaised,
        Self::LimitCut,
        Self::LimitDropped,
        Self::LimitDeleted,
        Self::BucketDeleted,
        Self::BucketMadeAgain,
        Self::ParentChanged,
        Self::StrictAmongLeased,
        Self::IntoDebt,
        Self::Released,
        Self::RolledBack,
        Self::AdmittedOpen,
        Self::CallerGone,
        Self::BlockExpired,
    ];
}

/// A promise that was broken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// Nanoseconds since the beginning.
    pub at: u64,
    /// Which promise, and how.
    pub what: String,
}

/// How a fleet did after its last fault.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Recovery {
    /// Tokens that were admitted.
    pub admitted: u64,
    /// Tokens that one bucket which knows everything at once would have admitted.
    pub allowed: u64,
    /// Jain's index of the processes' shares.
    pub fairness: f64,
    /// Which part of what is allowed is to be admitted.
    pub promised: f64,
    /// How often it was measured, one span of time after the other, until the fleet was well. What is
    /// said here is of the first.
    pub measured: u32,
}

impl Recovery {
    /// Whether the fleet admits all that it is allowed, and nobody starves.
    #[must_use]
    pub fn is_well(&self) -> bool {
        self.admitted_of_allowed() >= self.promised && self.fairness >= 0.9
    }

    /// Tokens admitted, of those that could have been.
    #[must_use]
    pub fn admitted_of_allowed(&self) -> f64 {
        if self.allowed == 0 {
            1.0
        } else {
            self.admitted as f64 / self.allowed as f64
        }
    }
}

/// What came out of one run.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Report {
    /// Acquires.
    pub acquires: u64,
    /// Acquires that were admitted.
    pub admitted: u64,
    /// Acquires that were refused.
    pub refused: u64,
    /// Acquires that the table could not be asked for.
    pub unavailable: u64,
    /// Writes that were sent.
    pub writes: u64,
    /// Writes that were refused by the very item that a refusal had just shown.
    pub futile: u64,
    /// How often what went wrong, in the order of [`Fault::ALL`].
    pub faults: [u64; Fault::ALL.len()],
    /// One number for all that happened.
    pub trace: u64,
    /// The first promise that was broken.
    pub violation: Option<Violation>,
    /// How the fleet did afterwards; none where that was not measured.
    pub recovery: Option<Recovery>,
}

impl Report {
    pub(super) fn count(&mut self, fault: Fault) {
        self.faults[fault as usize] += 1;
    }

    /// Adds the numbers of another run.
    pub fn add(&mut self, other: &Self) {
        self.acquires += other.acquires;
        self.admitted += other.admitted;
        self.refused += other.refused;
        self.unavailable += other.unavailable;
        self.writes += other.writes;
        self.futile += other.futile;
        for (sum, more) in self.faults.iter_mut().zip(other.faults) {
            *sum += more;
        }
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "at {:.6} s: {}", self.at as f64 / 1e9, self.what)
    }
}
