//! Pauses between attempts at what the service did not take.

use std::time::Duration;

/// The first pause, at most.
const FIRST: Duration = Duration::from_millis(25);
/// The longest pause.
const LONGEST: Duration = Duration::from_secs(1);
/// How many pauses are made before it counts as failed.
const PAUSES_MAX: u32 = 9;

/// Pauses that double, each cut by a random part so that rivals do not meet again.
#[derive(Debug, Default)]
pub(super) struct Backoff {
    pauses: u32,
}

impl Backoff {
    /// Waits; false, at once, if it has waited often enough.
    pub(super) async fn pause(&mut self) -> bool {
        if self.pauses == PAUSES_MAX {
            return false;
        }
        let longest = LONGEST.min(FIRST * 2u32.pow(self.pauses));
        self.pauses += 1;
        tokio::time::sleep(longest.mul_f64(0.5 + fastrand::f64() / 2.0)).await;
        true
    }

    /// Starts over: something was taken.
    pub(super) fn reset(&mut self) {
        self.pauses = 0;
    }
}
