//! Rate limiting for a fleet: the limits live in one DynamoDB table, and every process spends
//! from a small stock of tokens that it has already paid for.
//!
//! ```
//! use std::time::Duration;
//! use zae_limiter::{Limit, RateLimiter};
//!
//! # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), zae_limiter::Error> {
//! // .in_memory() for a first try; without it the table ZAEL-my-app in DynamoDB.
//! let limiter = RateLimiter::builder("my-app").in_memory().connect().await?;
//! let limits = [Limit::per_minute("rpm", 100)?, Limit::per_minute("tpm", 10_000)?];
//!
//! let acquire = limiter.acquire("api-key-123", "gpt-4").limits(&limits);
//! match acquire.consume("rpm", 1).consume("tpm", 500).await {
//!     Ok(mut lease) => lease.adjust("tpm", 120).await?, // it was 620 in the end
//!     Err(error) => match error.as_exceeded() {
//!         Some(exceeded) => println!("try again in {:?}", exceeded.retry_after()),
//!         None => return Err(error),
//!     },
//! }
//! limiter.shutdown(Duration::from_secs(5)).await;
//! # Ok(()) }
//! ```
//!
//! # Modes
//!
//! In **leased** mode ([`Mode::Leased`], the default) a process debits a block of tokens in
//! advance and pays acquires from it, without I/O; a background task renews the block. In
//! **strict** mode ([`Mode::Strict`]) every acquire is one conditional write. Both work on the
//! same table, at the same time. For every bucket, every window of length W, and any number of
//! processes:
//!
//! ```text
//! admitted <= burst + rate * (W + lease_ttl + clock skew)      leased
//! admitted <= burst + rate * (W + clock skew)                  strict
//! ```
//!
//! The mode is chosen in the [builder](RateLimiterBuilder::mode), by the environment
//! ([`settings::MODE_VARIABLE`]), in [`Settings`], or for one [acquire](Acquire::strict).
//!
//! # What is exact, and what is not
//!
//! Whether an acquire is admitted is exact: tokens are spent only after they have been debited.
//! How much is [available](RateLimiter::available), and when to
//! [try again](RateLimitExceeded::retry_after), is an estimate in leased mode: other processes
//! hold tokens, and take more. A process may refuse while tokens are to be had from the table
//! for as long as it has reason to think that there are none: until refill could have changed
//! that, and at most for one `lease_ttl`. What each fault does and costs is in [`semantics`].

mod acquire;
mod admin;
mod admission;
mod audit;
pub mod blocking;
// Three modules are public for simulations and benches only.
#[doc(hidden)]
pub mod breaker;
mod capacity;
mod catalog;
mod checked;
mod engine;
mod entity;
mod error;
mod exceeded;
mod handle;
pub mod http;
mod lease;
mod limiter;
mod look;
mod metrics;
mod page;
#[doc(hidden)]
pub mod reconciler;
mod resolve;
mod scoped;
#[doc = include_str!("../GUIDE.md")]
pub mod guide {}
#[doc = include_str!("../MIGRATING.md")]
pub mod migrating {}
#[doc = include_str!("../OPERATIONS.md")]
pub mod operations {}
#[doc = include_str!("../SEMANTICS.md")]
pub mod semantics {}
pub mod settings;
#[cfg(feature = "stack")]
mod stack;
mod status;
pub mod store;
mod stored_limits;
#[doc(hidden)]
pub mod strict;
mod target;
mod usage;
mod version;
mod wait_queue;

pub use acquire::{Acquire, AcquireFuture};
pub use admin::NewEntity;
pub use audit::{AUDIT_RETENTION, AuditAction, AuditEvent};
pub use capacity::{EntityCapacity, ResourceCapacity};
pub use entity::{ENTITY_TEXT_LEN_MAX, Entity, EntityChange, METADATA_LEN_MAX};
pub use error::{Error, ErrorKind};
pub use exceeded::{LimitStatus, RateLimitExceeded};
pub use handle::BucketHandle;
pub use lease::{Degraded, Lease};
pub use limiter::{RateLimiter, RateLimiterBuilder};
pub use look::Available;
pub use metrics::Metrics;
pub use page::{Page, PageRequest, PageToken};
pub use scoped::ScopedLease;
pub use settings::{FailureMode, LeasedOptions, Mode, Settings};
pub use stored_limits::{LimitOwner, LimitScope, STORED_LIMITS_MAX, validate_stored_limits};
pub use usage::{LimitUsage, UsageQuery, UsageSnapshot, UsageSummary};
pub use version::{Compatibility, VersionRecord};
pub use zae_limiter_core::usage::Window;
pub use zae_limiter_core::{
    Clock, Limit, ManualClock, Share, Terms, ValidationError, ValidationErrorKind, table_name,
};
#[cfg(feature = "stack")]
pub use zae_limiter_infra::{
    ConnectOptions as StackConnectOptions, Deployment, Operation, StackError, StackErrorKind,
    StackEvent, StackManager, StackOptions, StackSummary,
};

/// The examples of the README, as tests.
#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
struct Readme;
