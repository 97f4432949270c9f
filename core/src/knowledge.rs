//! What a process knows of a bucket without asking the table.

use std::time::Duration;

use crate::Limit;

/// What is known about a limit of a bucket without asking the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Knowledge {
    /// Surely spendable here and now.
    pub in_hand: u64,
    /// The best estimate for the whole bucket, what is in hand included; negative: debt.
    pub estimate: i64,
    /// How old the estimate is; none if the table has never been seen.
    pub age: Option<Duration>,
    /// Whether `requested` tokens, if they are not in hand, would be refused without asking the
    /// table.
    pub denied: bool,
    /// How long until `requested` tokens may be had here.
    pub retry_after: Duration,
}

impl Knowledge {
    /// Of a bucket that is not in use: for all that is known, it is full.
    #[must_use]
    pub fn nothing(limit: &Limit) -> Self {
        Self {
            in_hand: 0,
            estimate: i64::try_from(limit.burst_tokens()).unwrap_or(i64::MAX),
            age: None,
            denied: false,
            retry_after: Duration::ZERO,
        }
    }
}
