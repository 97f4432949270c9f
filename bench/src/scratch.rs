//! A table in DynamoDB that is removed again.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_credential_types::Credentials;
use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::config::{BehaviorVersion, Config, Region};
use zae_limiter::store::{ConnectOptions, DynamoDbStore, StoreError, StoreErrorKind};

/// How often removing the table is tried: one that is still being made cannot be removed.
const REMOVALS_MAX: u32 = 10;

/// A table of its own name. Call [`create`](Self::create) first, and [`remove`](Self::remove)
/// however things went.
#[derive(Clone, Debug)]
pub struct ScratchTable {
    store: DynamoDbStore,
}

impl ScratchTable {
    /// A table that is reached with the default chains of AWS for credentials and the region.
    ///
    /// # Errors
    /// As [`DynamoDbStore::connect`].
    pub async fn connect(
        purpose: &str,
        endpoint_url: &str,
        region: Option<&str>,
    ) -> Result<Self, StoreError> {
        let mut options = ConnectOptions::new(name(purpose)).endpoint_url(endpoint_url);
        if let Some(region) = region {
            options = options.region(region);
        }
        let store = DynamoDbStore::connect(options).await?;
        Ok(Self { store })
    }

    /// A table of an emulator, which takes any credentials.
    #[must_use]
    pub fn of_emulator(purpose: &str, endpoint_url: &str) -> Self {
        let config = Config::builder()
            .behavior_version(BehaviorVersion::latest())
            .region(Region::new("us-east-1"))
            .endpoint_url(endpoint_url)
            .credentials_provider(Credentials::new("test", "test", None, None, "emulator"));
        let client = Client::from_conf(config.build());
        Self {
            store: DynamoDbStore::new(client, name(purpose)),
        }
    }

    /// Whether `endpoint_url` is on this machine, and so an emulator.
    #[must_use]
    pub fn is_local(endpoint_url: &str) -> bool {
        let host = endpoint_url
            .split_once("://")
            .map_or(endpoint_url, |(_, rest)| rest);
        let ends = |c| matches!(c, Some(':' | '/') | None);
        ["localhost", "127.0.0.1", "[::1]"].iter().any(|local| {
            host.strip_prefix(local)
                .is_some_and(|rest| ends(rest.chars().next()))
        })
    }

    /// The table, to limit with.
    #[must_use]
    pub fn store(&self) -> DynamoDbStore {
        self.store.clone()
    }

    /// Creates the table.
    ///
    /// # Errors
    /// As [`DynamoDbStore::create_table`].
    pub async fn create(&self) -> Result<(), StoreError> {
        self.store.create_table().await
    }

    /// Removes the table, however far its creation has come; that it is not there is no error.
    ///
    /// # Errors
    /// As [`DynamoDbStore::delete_table`].
    pub async fn remove(&self) -> Result<(), StoreError> {
        let mut tries = 0;
        loop {
            tries += 1;
            match self.store.delete_table().await {
                Ok(()) => return Ok(()),
                Err(error) => match error.kind() {
                    StoreErrorKind::TableMissing => return Ok(()),
                    StoreErrorKind::AccessDenied | StoreErrorKind::Unreachable => {
                        return Err(error);
                    }
                    _ if tries >= REMOVALS_MAX => return Err(error),
                    _ => tokio::time::sleep(Duration::from_secs(1)).await,
                },
            }
        }
    }
}

/// A name that nobody else takes.
fn name(purpose: &str) -> String {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    format!(
        "ZAEL-{purpose}-{}-{}",
        since.as_millis(),
        std::process::id()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tells_an_emulator_from_a_service() {
        assert!(ScratchTable::is_local("http://localhost:4566"));
        assert!(ScratchTable::is_local("http://127.0.0.1"));
        assert!(!ScratchTable::is_local("https://localhost.example.com"));
        assert!(!ScratchTable::is_local(
            "https://dynamodb.us-east-1.amazonaws.com"
        ));
    }
}
