//! The reconciler keeps what this process holds right: it renews, tops up and returns blocks.
//!
//! [`Machine`] decides and never does I/O; the driver makes its writes on the runtime and holds no policy.

mod driver;
mod machine;
mod report;

pub(crate) use driver::{DROP_DEADLINE, Driver};
pub use machine::{Action, Machine};
pub use report::ShutdownReport;
