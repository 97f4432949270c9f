//! The core of zae-limiter: limits, bucket arithmetic, token blocks, the bucket cache.
//!
//! No I/O, no futures, no clock of its own: time comes in, decisions and writes-as-data go out.
//! Users add the `zae-limiter` crate, which re-exports what they need of this one.

mod bucket;
mod cache;
mod error;
pub mod estimate;
mod fast_balance;
#[cfg(all(test, loom))]
mod interleavings;
mod kernel;
#[cfg(test)]
mod kernel_tests;
mod key;
mod limit;
mod local;
mod names;
pub mod number;
mod pending_usage;
pub mod policy;

pub mod renewal;
mod request;
pub mod sabotage;
pub mod schema;
mod sync;
mod time;
pub mod usage;
mod wait_queue;

pub use bucket::{Bucket, BucketRef, Hit, Paid, Shortage, Unsettled};
pub use cache::BucketCache;
pub use error::{ValidationError, ValidationErrorKind};
pub use estimate::{Knowledge, Offer};
pub use kernel::{
    Ask, Now, Payer, Payment, Payments, Position, Settled, SettledLimit, Terms, Ticks, Trickle,
    WriteEffect, item, plan,
};
pub use key::BucketKey;
pub use limit::Limit;
pub use local::{LocalLevel, Share};
pub use names::{
    IDENTIFIER_LEN_MAX, NAME_LEN_MAX, TABLE_PREFIX, table_name, validate_endpoint_url,
    validate_identifier, validate_name, validate_region,
};
pub use request::{Charges, LIMITS_MAX, Request, Ticket};
pub use time::{Clock, ManualClock, MonotonicTime, TICK_LAG_MAX, Tick, WallTime};
