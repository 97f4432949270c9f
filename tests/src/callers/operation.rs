//! What callers do, and what happens beside that: plain data.

use zae_limiter::store::Fault;

use super::drop_after::DropAfter;

/// One call, or one thing that happens. Leases are numbered in the order of their acquires, modulo how many
/// there are.
#[derive(Clone, Copy, Debug)]
pub enum Operation {
    /// Acquires.
    Acquire(AcquireCall),
    /// A lease consumes so many more tokens of a limit.
    Consume(usize, usize, u64, DropAfter),
    /// What a lease has consumed of a limit is corrected by so many tokens.
    Adjust(usize, usize, i64, DropAfter),
    /// A lease is given back.
    RollBack(usize, DropAfter),
    /// A lease is kept.
    Commit(usize),
    /// A process runs work under a lease of so many tokens of the first limit, and corrects it by this.
    Run(usize, u64, i64, End, DropAfter),
    /// A lease is called with what makes no sense.
    Invalid(usize, u8),
    /// Something happens.
    Event(Event),
}

/// An acquire.
#[derive(Clone, Copy, Debug)]
pub struct AcquireCall {
    /// By which process.
    pub process: usize,
    /// Of which limits, a bit each.
    pub named: u8,
    /// Tokens of each.
    pub tokens: u64,
    /// Whether the parent is charged, too.
    pub cascade: bool,
    /// Whether it is direct, whatever the mode; as the mode says if none.
    pub strict: Option<bool>,
    /// Whether by a handle.
    pub handle: bool,
    /// When its future is dropped.
    pub drop_after: DropAfter,
}

/// How work under `run` ends.
#[derive(Clone, Copy, Debug)]
pub enum End {
    /// It succeeds.
    Succeeds,
    /// It fails.
    Fails,
    /// It panics.
    Panics,
}

/// What is no call.
#[derive(Clone, Copy, Debug)]
pub enum Event {
    /// So many milliseconds pass.
    Pass(u64),
    /// The table fails from now on.
    Fail(Fault),
    /// It does not fail any more.
    Heal,
    /// The burst of all limits is multiplied by so many tenths.
    Change(u64),
    /// The child is deleted, and made again.
    Delete,
    /// So many days pass in which nobody does anything, and the table deletes the buckets whose TTL has passed.
    SkipDays(u32),
    /// The wall clocks of all processes are set by so many milliseconds.
    SetClocks(i64),
}
