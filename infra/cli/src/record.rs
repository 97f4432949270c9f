//! The version record of a table, as the commands that deploy write it.

use zae_limiter::VersionRecord;
use zae_limiter::store::Store;
use zae_limiter_core::schema::SCHEMA_VERSION;

use crate::failure::Failure;
use crate::place::Place;

/// The version of this command, and of all that it deploys.
pub(crate) const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Writes down what has been deployed, unless that is what is written already.
pub(crate) async fn write(place: &Place, lambda_version: Option<&str>) -> Result<(), Failure> {
    let table = place.table().await?;
    // Another one may write at the same time; then look again, a few times at most.
    for _ in 0..5 {
        let found = table.read_version().await?;
        let lambda_version = lambda_version.map(ToOwned::to_owned);
        if found.as_ref().is_some_and(|found| {
            found.schema_version == SCHEMA_VERSION && found.lambda_version == lambda_version
        }) {
            return Ok(());
        }
        let min = found
            .as_ref()
            .and_then(|found| found.client_min_version.clone());
        let record = VersionRecord {
            schema_version: SCHEMA_VERSION.to_owned(),
            lambda_version,
            client_min_version: min.or_else(|| Some("0.0.0".to_owned())),
            updated_at: jiff::Timestamp::now().to_string(),
            updated_by: Some(format!("cli:{VERSION}")),
        };
        if table.write_version(&record, found.as_ref()).await? {
            return Ok(());
        }
    }
    Err(Failure::failed(
        "the version record keeps changing; run the same command again",
    ))
}
