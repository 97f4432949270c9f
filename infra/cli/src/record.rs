//! The version record of a table, as the commands that deploy write it.

use zae_limiter::VersionRecord;
use zae_limiter_core::Clock;

use crate::failure::Failure;
use crate::place::Place;

/// The version of this command, and of all that it deploys.
pub(crate) const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Writes down what has been deployed.
pub(crate) async fn write(place: &Place, lambda_version: Option<&str>) -> Result<(), Failure> {
    let (table, clock) = (place.table().await?, Clock::system());
    let by = format!("cli:{VERSION}");
    Ok(VersionRecord::write_deployed(&table, lambda_version, &by, &clock).await?)
}
