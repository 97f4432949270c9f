//! Rate limiting for a fleet: the limits live in one DynamoDB table, and every process spends
//! from a small stock of tokens that it has already paid for.

mod acquire;
mod engine;
mod entity;
mod error;
mod handle;
mod lease;
mod limiter;
pub mod reconciler;
pub mod settings;
pub mod store;
mod strict;

pub use acquire::{Acquire, AcquireFuture};
pub use entity::Entity;
pub use error::{Error, ErrorKind, LimitStatus, RateLimitExceeded};
pub use handle::BucketHandle;
pub use lease::Lease;
pub use limiter::{Available, NewEntity, RateLimiter, RateLimiterBuilder, table_name};
pub use settings::{FailureMode, LeasedOptions, Mode, Settings};
pub use zae_limiter_core::{Clock, Limit, ManualClock, Terms, ValidationError};
