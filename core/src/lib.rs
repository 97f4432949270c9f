//! The core of zae-limiter: limits, bucket arithmetic, token blocks, the bucket cache.
//!
//! No I/O, no futures, no clock of its own: time comes in, decisions and writes-as-data go out.
//! Users add the `zae-limiter` crate, which re-exports what they need of this one.

mod asked;
mod block;
mod books;
mod bucket;
mod cache;
mod error;
mod gcra;
mod holdings;
mod hours;
pub mod item;
mod key;
mod knowledge;
mod limit;
mod line;
mod local;
mod names;
pub mod number;
pub mod plan;
mod position;
mod purse;
pub mod renewal;
mod request;
pub mod sabotage;
pub mod schema;
pub mod sizing;
mod time;
pub mod usage;

pub use asked::{Asked, Told};
pub use block::Schedule;
pub use bucket::{Bucket, BucketRef, Hit, Paid, Shortage};
pub use cache::BucketCache;
pub use error::{ValidationError, ValidationErrorKind};
pub use gcra::Ticks;
pub use key::BucketKey;
pub use knowledge::Knowledge;
pub use limit::{Limit, Terms};
pub use local::{LocalLevel, Share};
pub use names::{
    IDENTIFIER_LEN_MAX, NAME_LEN_MAX, TABLE_PREFIX, table_name, validate_endpoint_url,
    validate_identifier, validate_name, validate_region,
};
pub use position::Position;
pub use request::{Charges, LIMITS_MAX, Request};
pub use time::{Clock, ManualClock, MonotonicTime, TICK_LAG_MAX, Tick, WallTime};
