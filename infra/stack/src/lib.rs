//! The infrastructure of a limiter: its CloudFormation template, what can be chosen in it, and the
//! life of the stack.
//!
//! [`StackOptions`] say what is wanted, [`StackManager`] makes it so. The template is one file that
//! people can read and deploy by themselves ([`TEMPLATE`]). This crate knows nothing of limits and
//! acquires; users of the `zae-limiter` crate get it with the feature `stack`, and everybody with
//! the command `zae-limiter deploy`.
//!
//! ```no_run
//! use zae_limiter_infra::{ConnectOptions, StackManager, StackOptions};
//!
//! # async fn deploy() -> Result<(), zae_limiter_infra::StackError> {
//! let stack = StackManager::connect("my-app", ConnectOptions::default()).await?;
//! let options = StackOptions::default().enable_aggregator(false);
//! stack.deploy(&options, |event| println!("{event}")).await?;
//! # Ok(()) }
//! ```

mod artifacts;
mod connect;
mod error;
mod event;
mod manager;
mod options;
mod package;
mod state;
mod summary;

pub use connect::ConnectOptions;
pub use error::{StackError, StackErrorKind};
pub use event::StackEvent;
pub use manager::{Deployment, Operation, StackManager};
pub use options::{AGGREGATOR_PROGRAM, LOG_RETENTION_DAYS, StackOptions};
pub use package::{Architecture, GLIBC_MAX, Package, PackageError};
pub use summary::StackSummary;

/// The CloudFormation template, in YAML: everything that a limiter needs, with a comment where it
/// is not plain why.
///
/// ```
/// use zae_limiter_infra::TEMPLATE;
///
/// assert!(TEMPLATE.contains("AWS::DynamoDB::Table"));
/// ```
pub const TEMPLATE: &str = include_str!("../template.yaml");

/// The version of this crate, with which stacks are tagged.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");
