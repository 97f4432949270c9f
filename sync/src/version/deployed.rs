//! What is written into the version record when something has been deployed.

use zae_limiter_core::Clock;
use zae_limiter_core::schema::SCHEMA_VERSION;

use super::VersionRecord;
use crate::store::{Store, StoreError, StoreErrorKind};

/// Another one may write at the same time; then it is looked at again, so often at most.
const TRIES_MAX: usize = 5;

impl VersionRecord {
    /// Writes down in a table which functions have been deployed beside it, by whom, and that it
    /// has this crate's layout; nothing if that is what is written already. Clients compare
    /// themselves with it when they connect.
    ///
    /// # Errors
    /// [`StoreErrorKind::Throttled`] if others keep changing it; those of the table.
    pub async fn write_deployed(
        store: &dyn Store,
        lambda_version: Option<&str>,
        updated_by: &str,
        clock: &Clock,
    ) -> Result<(), StoreError> {
        for _ in 0..TRIES_MAX {
            let found = store.read_version().await?;
            let is_written = |found: &Self| {
                found.schema_version == SCHEMA_VERSION
                    && found.lambda_version.as_deref() == lambda_version
            };
            if found.as_ref().is_some_and(is_written) {
                return Ok(());
            }
            let client_min = found.as_ref().and_then(|it| it.client_min_version.clone());
            let record = Self {
                schema_version: SCHEMA_VERSION.to_owned(),
                lambda_version: lambda_version.map(ToOwned::to_owned),
                client_min_version: client_min.or_else(|| Some("0.0.0".to_owned())),
                updated_at: crate::entity::timestamp(clock.wall()),
                updated_by: Some(updated_by.to_owned()),
            };
            if store.write_version(&record, found.as_ref()).await? {
                return Ok(());
            }
        }
        let message = "the version record keeps changing: try again";
        Err(StoreError::new(StoreErrorKind::Throttled, message))
    }
}
