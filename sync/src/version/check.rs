//! The look at the version record when a limiter is connected. It is one read, which also shows
//! that the table is there and may be used.

use zae_limiter_core::schema::SCHEMA_VERSION;
use zae_limiter_core::{Clock, TABLE_PREFIX};

use super::compatibility::CLIENT_VERSION;
use super::{Compatibility, VersionRecord};
use crate::store::{Store, StoreError};
use crate::{Error, Settings};

/// Makes sure that the table goes with this client.
pub(crate) async fn check(
    store: &dyn Store,
    table_name: &str,
    settings: &Settings,
    clock: &Clock,
) -> Result<(), Error> {
    let found = match store.read_version().await? {
        None if settings.auto_update => write_first(store, table_name, clock).await?,
        found => found,
    };
    let Some(record) = found else {
        return Ok(()); // a table without a record is as this client makes it
    };
    let compatibility = record.compatibility();
    match refusal(&record, compatibility, table_name) {
        // Limiting does not depend on the functions. Who deploys brings them up to date.
        Some(error) if compatibility != Compatibility::LambdaIncompatible => Err(error),
        Some(error) if settings.strict_version => Err(error),
        Some(error) => {
            tracing::warn!(limiter = table_name, %error, "going on all the same");
            Ok(())
        }
        None => {
            if compatibility == Compatibility::LambdaOlder {
                let (lambda, client) = (&record.lambda_version, CLIENT_VERSION);
                tracing::warn!(
                    limiter = table_name,
                    lambda,
                    client,
                    "older functions are deployed"
                );
            }
            Ok(())
        }
    }
}

/// Writes the record that is not there. The one that others have written meanwhile, if they have.
async fn write_first(
    store: &dyn Store,
    table_name: &str,
    clock: &Clock,
) -> Result<Option<VersionRecord>, StoreError> {
    let record = VersionRecord {
        schema_version: SCHEMA_VERSION.to_owned(),
        lambda_version: None,
        client_min_version: Some("0.0.0".to_owned()),
        updated_at: crate::entity::timestamp(clock.wall()),
        updated_by: Some(format!("client:{CLIENT_VERSION}")),
    };
    match store.write_version(&record, None).await {
        Ok(true) => Ok(Some(record)),
        Ok(false) => store.read_version().await,
        // Whoever may only acquire connects all the same; somebody else will write it.
        Err(error) => {
            tracing::debug!(limiter = table_name, %error, "no version record was written");
            Ok(None)
        }
    }
}

/// What is said of a record that does not go with this client.
fn refusal(record: &VersionRecord, found: Compatibility, table_name: &str) -> Option<Error> {
    let name = table_name.strip_prefix(TABLE_PREFIX).unwrap_or(table_name);
    let upgrade = format!("run `zae-limiter upgrade --name {name}`");
    let mismatch = |reason, can_auto_update| Error::VersionMismatch {
        client_version: CLIENT_VERSION.to_owned(),
        schema_version: record.schema_version.clone(),
        lambda_version: record.lambda_version.clone(),
        can_auto_update,
        reason,
    };
    let incompatible = |advice| Error::IncompatibleSchema {
        client_version: CLIENT_VERSION.to_owned(),
        schema_version: record.schema_version.clone(),
        advice,
    };
    match found {
        Compatibility::Compatible | Compatibility::LambdaOlder => None,
        Compatibility::LambdaIncompatible => {
            let reason = format!("the deployed functions are too old for this client; {upgrade}");
            Some(mismatch(reason, true))
        }
        Compatibility::ClientTooOld => {
            let min = record.client_min_version.as_deref().unwrap_or_default();
            let reason = format!(
                "{table_name} is for clients from {min} on; update zae-limiter in this program"
            );
            Some(mismatch(reason, false))
        }
        Compatibility::NeedsMigration => Some(incompatible(format!(
            "what {table_name} holds has to be migrated to schema {SCHEMA_VERSION}: {upgrade}"
        ))),
        Compatibility::SchemaUnknown => Some(incompatible(format!(
            "it knows schema {SCHEMA_VERSION}; update zae-limiter in this program"
        ))),
    }
}
