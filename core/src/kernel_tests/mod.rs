//! Tests of the safety kernel that are fast enough to be run for every mutant of it (see MUTANTS.md).
//!
//! * `writes`: what a write does to a limit, and which guards it has, to the tick.
//! * `items`: what a stored item makes of a write.
//! * `quantities`: arithmetic, trickles and payments.
//! * `holdings`: what one process holds and owes, from write to write.
//! * `model`: a small fleet under any policy and any network.

mod holdings;
mod items;
mod model;
mod quantities;
mod writes;

use std::time::Duration;

use crate::{Ticks, WallTime};

/// The first moment of an epoch, which stands at the first place of the ring.
const T0: WallTime = WallTime::from_nanos(1_767_225_600_000_000_000);
/// How long blocks live.
const TTL: Duration = Duration::from_millis(1_600);
/// Of a limit that refills per second.
const TOKEN: Ticks = 1_000_000_000;

fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}
