//! Making and removing the table itself, for development and tests.

use std::time::Duration;

use aws_sdk_dynamodb::config::Config;
use aws_sdk_dynamodb::config::timeout::TimeoutConfig;
use aws_sdk_dynamodb::error::BuildError;
use aws_sdk_dynamodb::operation::describe_table::DescribeTableError;
use aws_sdk_dynamodb::types::{
    AttributeDefinition, BillingMode, GlobalSecondaryIndex, IndexStatus, KeySchemaElement, KeyType,
    Projection, ProjectionType, ScalarAttributeType, StreamSpecification, StreamViewType,
    TableDescription, TableStatus, TimeToLiveSpecification,
};
use zae_limiter_core::schema;

use super::super::{StoreError, StoreErrorKind};
use super::DynamoDbStore;
use super::error::failure;

/// How long a request about the table, not about items, may take.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);
/// How long is waited between two looks at the table.
const POLL_INTERVAL: Duration = Duration::from_millis(200);
/// How often the table is looked at before it counts as stuck: two minutes.
const POLLS_MAX: u32 = 600;

impl DynamoDbStore {
    /// Creates the table with its indexes, stream and time-to-live, on-demand, and waits until it
    /// is active: for development and tests. In production the CloudFormation stack does it.
    ///
    /// ```no_run
    /// use zae_limiter::store::{ConnectOptions, DynamoDbStore};
    ///
    /// # async fn test() -> Result<(), zae_limiter::store::StoreError> {
    /// let options = ConnectOptions::new("ZAEL-test").endpoint_url("http://localhost:4566");
    /// let table = DynamoDbStore::connect(options).await?;
    /// table.create_table().await?;
    /// println!("{} is there", table.table_name());
    /// table.delete_table().await?;
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// [`StoreError`] if there is a table of that name, if it does not become active within two
    /// minutes, or if the service cannot be asked.
    pub async fn create_table(&self) -> Result<(), StoreError> {
        let invalid = |error: BuildError| {
            let message = format!("could not describe {}; a defect", self.place);
            StoreError::new(StoreErrorKind::Invalid, message).caused_by(error)
        };
        let mut request = self
            .client
            .create_table()
            .table_name(self.table_name())
            .billing_mode(BillingMode::PayPerRequest)
            .set_key_schema(Some(keys(schema::PK, schema::SK).map_err(invalid)?))
            .global_secondary_indexes(
                index(
                    "GSI1",
                    schema::GSI1_PK,
                    schema::GSI1_SK,
                    ProjectionType::All,
                )
                .map_err(invalid)?,
            )
            .global_secondary_indexes(
                index(
                    "GSI2",
                    schema::GSI2_PK,
                    schema::GSI2_SK,
                    ProjectionType::KeysOnly,
                )
                .map_err(invalid)?,
            )
            .stream_specification(
                StreamSpecification::builder()
                    .stream_enabled(true)
                    .stream_view_type(StreamViewType::NewAndOldImages)
                    .build()
                    .map_err(invalid)?,
            );
        for attribute in [
            schema::PK,
            schema::SK,
            schema::GSI1_PK,
            schema::GSI1_SK,
            schema::GSI2_PK,
            schema::GSI2_SK,
        ] {
            let definition = AttributeDefinition::builder()
                .attribute_name(attribute)
                .attribute_type(ScalarAttributeType::S)
                .build()
                .map_err(invalid)?;
            request = request.attribute_definitions(definition);
        }
        let request = request.customize().config_override(patient());
        let sent = request.send().await;
        sent.map_err(|error| failure(&self.place, "create the table", error))?;
        self.wait_until("active", |table| table.is_some_and(is_active))
            .await?;
        let ttl = TimeToLiveSpecification::builder()
            .attribute_name(schema::TTL)
            .enabled(true)
            .build()
            .map_err(invalid)?;
        let request = self
            .client
            .update_time_to_live()
            .table_name(self.table_name())
            .time_to_live_specification(ttl)
            .customize()
            .config_override(patient());
        let sent = request.send().await;
        sent.map_err(|error| failure(&self.place, "set the time-to-live", error))?;
        Ok(())
    }

    /// Deletes the table and all that is in it, and waits until it is gone: for development and
    /// tests.
    ///
    /// See the example of [`create_table`](Self::create_table).
    ///
    /// # Errors
    /// [`StoreError`] if there is no such table, if it is not gone within two minutes, or if the
    /// service cannot be asked.
    pub async fn delete_table(&self) -> Result<(), StoreError> {
        let request = self.client.delete_table().table_name(self.table_name());
        let sent = request.customize().config_override(patient()).send().await;
        sent.map_err(|error| failure(&self.place, "delete the table", error))?;
        self.wait_until("gone", |table| table.is_none()).await
    }

    async fn wait_until(
        &self,
        state: &str,
        reached: impl Fn(Option<&TableDescription>) -> bool,
    ) -> Result<(), StoreError> {
        for _ in 0..POLLS_MAX {
            let request = self.client.describe_table().table_name(self.table_name());
            let answer = request.customize().config_override(patient()).send().await;
            let missing = |error: &DescribeTableError| error.is_resource_not_found_exception();
            let table = match answer {
                Ok(found) => found.table,
                Err(error) if error.as_service_error().is_some_and(missing) => None,
                Err(error) => {
                    return Err(failure(&self.place, "describe the table", error).into());
                }
            };
            if reached(table.as_ref()) {
                return Ok(());
            }
            tokio::time::sleep(POLL_INTERVAL).await;
        }
        let waited = POLL_INTERVAL * POLLS_MAX;
        let message = format!(
            "{} is not {state} after {waited:?}; look at its status",
            self.place
        );
        Err(StoreError::new(StoreErrorKind::Unreachable, message))
    }
}

/// Making a table takes longer than writing an item.
fn patient() -> aws_sdk_dynamodb::config::Builder {
    let timeouts = TimeoutConfig::builder().operation_timeout(REQUEST_TIMEOUT);
    Config::builder().timeout_config(timeouts.build())
}

fn is_active(table: &TableDescription) -> bool {
    let mut indexes = table.global_secondary_indexes().iter();
    table.table_status() == Some(&TableStatus::Active)
        && indexes.all(|index| index.index_status() == Some(&IndexStatus::Active))
}

fn keys(partition: &str, sort: &str) -> Result<Vec<KeySchemaElement>, BuildError> {
    [(partition, KeyType::Hash), (sort, KeyType::Range)]
        .into_iter()
        .map(|(name, key_type)| {
            KeySchemaElement::builder()
                .attribute_name(name)
                .key_type(key_type)
                .build()
        })
        .collect()
}

fn index(
    name: &str,
    partition: &str,
    sort: &str,
    projected: ProjectionType,
) -> Result<GlobalSecondaryIndex, BuildError> {
    GlobalSecondaryIndex::builder()
        .index_name(name)
        .set_key_schema(Some(keys(partition, sort)?))
        .projection(Projection::builder().projection_type(projected).build())
        .build()
}
