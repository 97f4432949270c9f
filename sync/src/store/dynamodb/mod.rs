//! The store in DynamoDB: no policy, and for buckets one request per call.
//!
//! [`codec`] knows the items, [`expression`] the conditional write of a bucket, [`error`] what a
//! failure means; [`query`], [`batch`] and [`transaction`] are how the rest is read and written.
//! A write of a bucket is never retried: its unknown outcome is the caller's to judge.

mod audit;
mod backoff;
mod batch;
mod codec;
mod entity;
mod error;
mod expression;
mod json;
mod limit_sets;
mod limits;
mod query;
mod resource;
mod table;
mod transaction;
mod usage;
mod version;

use std::fmt;
use std::time::Duration;

use async_trait::async_trait;
use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::config::retry::RetryConfig;
use aws_sdk_dynamodb::config::timeout::TimeoutConfig;
use aws_sdk_dynamodb::config::{BehaviorVersion, Builder, Config, ProvideCredentials, Region};
use aws_sdk_dynamodb::operation::update_item::UpdateItemError;
use aws_sdk_dynamodb::types::{ReturnValue, ReturnValuesOnConditionCheckFailure};
use zae_limiter_core::item::{BucketItem, BucketWrite};
use zae_limiter_core::{
    BucketKey, ValidationError, schema, validate_endpoint_url, validate_region,
};

use self::codec::Attributes;
use self::error::{Place, failure};
use super::{EntityWrite, Store, StoreError, StoreErrorKind, WriteOutcome};
use crate::{
    AuditEvent, Entity, EntityChange, Limit, LimitOwner, LimitScope, Page, PageRequest, UsageQuery,
    UsageSnapshot, VersionRecord,
};

/// How long a call may take where nothing else is said.
const OPERATION_TIMEOUT: Duration = Duration::from_secs(2);
/// How long connecting may take at most, within a call.
const CONNECT_TIMEOUT_MAX: Duration = Duration::from_secs(1);
/// How long finding credentials may take, once, when connecting.
const CREDENTIALS_TIMEOUT: Duration = Duration::from_secs(10);

/// How to reach a table: plain data for [`DynamoDbStore::connect`].
///
/// ```
/// use std::time::Duration;
/// use zae_limiter::store::ConnectOptions;
///
/// let options = ConnectOptions::new("ZAEL-my-app")
///     .region("us-east-1")
///     .endpoint_url("http://localhost:4566")
///     .operation_timeout(Duration::from_millis(500));
/// ```
#[derive(Clone, Debug)]
#[must_use]
pub struct ConnectOptions {
    table_name: String,
    region: Option<String>,
    endpoint_url: Option<String>,
    operation_timeout: Duration,
}

impl ConnectOptions {
    /// The table of this name, given in full ("ZAEL-my-app").
    ///
    /// See the example of [`ConnectOptions`].
    pub fn new(table_name: impl Into<String>) -> Self {
        Self {
            table_name: table_name.into(),
            region: None,
            endpoint_url: None,
            operation_timeout: OPERATION_TIMEOUT,
        }
    }

    /// The AWS region. Default: what the environment and the AWS configuration say.
    ///
    /// See the example of [`ConnectOptions`].
    pub fn region(mut self, region: impl Into<String>) -> Self {
        self.region = Some(region.into());
        self
    }

    /// Another endpoint than the region's, as a URL: an emulator, or a private one. Default:
    /// what the environment and the AWS configuration say, else the region's.
    ///
    /// See the example of [`ConnectOptions`].
    pub fn endpoint_url(mut self, url: impl Into<String>) -> Self {
        self.endpoint_url = Some(url.into());
        self
    }

    /// How long a call may take before it counts as unanswered, the retries of a read included.
    /// Connecting may take half of it, and one second at most. Default: 2 s.
    ///
    /// See the example of [`ConnectOptions`].
    pub fn operation_timeout(mut self, timeout: Duration) -> Self {
        self.operation_timeout = timeout;
        self
    }

    /// Checks what the SDK would panic of, or send anywhere.
    fn validate(&self) -> Result<(), ValidationError> {
        self.region.as_deref().map_or(Ok(()), validate_region)?;
        let url = self.endpoint_url.as_deref();
        url.map_or(Ok(()), validate_endpoint_url)
    }
}

/// A table in DynamoDB.
///
/// A write of a bucket is sent at most once, whatever the client's own retry settings: one that
/// was sent twice could be applied twice. All else is retried as the client is configured; what
/// it writes is written once. Reads are strongly consistent, but for lists of children and of a
/// resource's buckets, which come from an index. Clones share the connections.
///
/// ```no_run
/// use zae_limiter::store::{ConnectOptions, DynamoDbStore, Store};
///
/// # async fn connect() -> Result<(), zae_limiter::store::StoreError> {
/// let options = ConnectOptions::new("ZAEL-my-app").region("us-east-1");
/// let table = DynamoDbStore::connect(options).await?;
/// table.check().await?;
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct DynamoDbStore {
    /// Retries nothing by itself.
    client: Client,
    /// For what may be sent again.
    retries: RetryConfig,
    place: Place,
}

impl fmt::Debug for DynamoDbStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DynamoDbStore")
            .field("table", &self.place.table)
            .field("region", &self.place.region)
            .field("endpoint", &self.place.endpoint)
            .finish_non_exhaustive()
    }
}

impl DynamoDbStore {
    /// The table called `table_name` (in full: "ZAEL-my-app"), reached as `client` is configured.
    ///
    /// Nothing is sent yet. A call may take 2 s where the client sets no operation timeout, and
    /// connecting half of a call and 1 s at most where it sets no shorter connect timeout than
    /// that of the whole.
    ///
    /// ```no_run
    /// use zae_limiter::store::DynamoDbStore;
    ///
    /// # async fn store() {
    /// let config = aws_config::load_from_env().await;
    /// let table = DynamoDbStore::new(aws_sdk_dynamodb::Client::new(&config), "ZAEL-my-app");
    /// # }
    /// ```
    #[must_use]
    pub fn new(client: Client, table_name: impl Into<String>) -> Self {
        let config = client.config();
        let place = Place {
            table: table_name.into(),
            region: config.region().map(ToString::to_string),
            endpoint: None,
        };
        let timeouts = config.timeout_config().cloned();
        Self::over(config.to_builder(), timeouts, OPERATION_TIMEOUT, place)
    }

    /// Connects with the default chains of AWS for whatever the options leave open:
    /// environment, profiles, containers, instances.
    ///
    /// The table is not asked for; [`check`](Store::check) does that.
    ///
    /// See the example of [`DynamoDbStore`].
    ///
    /// # Errors
    /// [`StoreErrorKind::Invalid`] if no region is configured, or one that cannot be, or if the
    /// endpoint is not a URL; [`StoreErrorKind::AccessDenied`] or
    /// [`StoreErrorKind::Unreachable`] if there are no credentials.
    pub async fn connect(options: ConnectOptions) -> Result<Self, StoreError> {
        options.validate()?;
        let mut loader = aws_config::defaults(BehaviorVersion::latest());
        if let Some(region) = options.region {
            loader = loader.region(Region::new(region));
        }
        if let Some(url) = options.endpoint_url {
            loader = loader.endpoint_url(url);
        }
        let config = loader.load().await;
        // The environment may have named another.
        let url = config.endpoint_url();
        url.map_or(Ok(()), validate_endpoint_url)?;
        let place = Place {
            table: options.table_name,
            region: config.region().map(ToString::to_string),
            endpoint: config.endpoint_url().map(ToOwned::to_owned),
        };
        if place.region.as_deref().is_none_or(str::is_empty) {
            let message = format!("no region for {place}: give one, or set AWS_REGION");
            return Err(StoreError::new(StoreErrorKind::Invalid, message));
        }
        if let Some(provider) = config.credentials_provider() {
            let found = tokio::time::timeout(CREDENTIALS_TIMEOUT, provider.provide_credentials());
            let Ok(found) = found.await else {
                let message = format!(
                    "no credentials for {place} within {CREDENTIALS_TIMEOUT:?}: check what \
                     hands them out"
                );
                return Err(StoreError::new(StoreErrorKind::Unreachable, message));
            };
            found.map_err(|error| error::no_credentials(&place, error))?;
        }
        let builder = Builder::from(&config);
        Ok(Self::over(builder, None, options.operation_timeout, place))
    }

    fn over(
        config: Builder,
        timeouts: Option<TimeoutConfig>,
        operation_timeout: Duration,
        place: Place,
    ) -> Self {
        let given = timeouts.unwrap_or_else(TimeoutConfig::disabled);
        let operation_timeout = given.operation_timeout().unwrap_or(operation_timeout);
        // Less than the whole call, so that a failure to connect is seen to be one.
        let connect_timeout = CONNECT_TIMEOUT_MAX.min(operation_timeout / 2);
        let given_to_connect = given.connect_timeout().filter(|t| *t < operation_timeout);
        let connect_timeout = given_to_connect.unwrap_or(connect_timeout);
        let timeouts = given
            .to_builder()
            .connect_timeout(connect_timeout)
            .operation_timeout(operation_timeout);
        let config = config.timeout_config(timeouts.build()).build();
        let retries = config.retry_config().cloned();
        let config = config.to_builder().retry_config(RetryConfig::disabled());
        Self {
            client: Client::from_conf(config.build()),
            retries: retries.unwrap_or_else(RetryConfig::standard),
            place,
        }
    }

    /// The name of the table.
    ///
    /// See the example of [`create_table`](Self::create_table).
    #[must_use]
    pub fn table_name(&self) -> &str {
        &self.place.table
    }

    /// The configuration of requests that may be sent again.
    fn retrying(&self) -> Builder {
        Config::builder().retry_config(self.retries.clone())
    }

    async fn read(&self, what: &str, key: Attributes) -> Result<Option<Attributes>, StoreError> {
        let request = self
            .client
            .get_item()
            .table_name(&self.place.table)
            .set_key(Some(key))
            .consistent_read(true)
            .customize()
            .config_override(self.retrying());
        match request.send().await {
            Ok(found) => Ok(found.item),
            Err(error) => Err(failure(&self.place, &format!("read {what}"), error).into()),
        }
    }

    fn decode_bucket(&self, key: &BucketKey, item: &Attributes) -> Result<BucketItem, StoreError> {
        let unreadable = |found| error::unreadable(&self.place, &name_of(key), found);
        codec::decode_bucket(item).map_err(unreadable)
    }
}

/// The key of a bucket's item, for people.
fn name_of(key: &BucketKey) -> String {
    let (pk, sk) = (
        schema::entity(key.entity_id()),
        schema::bucket(key.resource()),
    );
    format!("{pk} / {sk}")
}

#[async_trait]
impl Store for DynamoDbStore {
    async fn check(&self) -> Result<(), StoreError> {
        let key = codec::primary_key(schema::SYSTEM.to_owned(), schema::VERSION);
        self.read("the version record", key).await.map(drop)
    }

    async fn write_bucket(&self, key: &BucketKey, write: &BucketWrite) -> WriteOutcome {
        let expressions = match expression::expressions(key, write) {
            Ok(expressions) => expressions,
            Err(wrong) => {
                let bucket = name_of(key);
                let message = format!("a write to {bucket} makes no sense: {wrong}; a defect");
                return WriteOutcome::Failed(StoreError::new(StoreErrorKind::Invalid, message));
            }
        };
        let request = self
            .client
            .update_item()
            .table_name(&self.place.table)
            .set_key(Some(codec::bucket_key(key)))
            .set_condition_expression(expressions.condition)
            .update_expression(expressions.update)
            .set_expression_attribute_names(Some(expressions.names))
            .set_expression_attribute_values(Some(expressions.values))
            .return_values(ReturnValue::AllNew)
            .return_values_on_condition_check_failure(ReturnValuesOnConditionCheckFailure::AllOld);
        match request.send().await {
            Ok(done) => {
                let item = done.attributes.unwrap_or_default();
                match self.decode_bucket(key, &item) {
                    Ok(item) => WriteOutcome::Applied(item),
                    // It was applied, but beside something that makes no sense.
                    Err(error) => WriteOutcome::Unknown(error),
                }
            }
            Err(error) => match error.as_service_error() {
                Some(UpdateItemError::ConditionalCheckFailedException(refused)) => {
                    let found = refused.item().map(|item| self.decode_bucket(key, item));
                    match found.transpose() {
                        Ok(found) => WriteOutcome::Refused(found),
                        Err(error) => WriteOutcome::Failed(error),
                    }
                }
                _ => failure(&self.place, &format!("write {}", name_of(key)), error).into(),
            },
        }
    }

    async fn read_bucket(&self, key: &BucketKey) -> Result<Option<BucketItem>, StoreError> {
        let found = self.read(&name_of(key), codec::bucket_key(key)).await?;
        found.map(|item| self.decode_bucket(key, &item)).transpose()
    }

    async fn create_entity(
        &self,
        entity: &Entity,
        event: &AuditEvent,
    ) -> Result<EntityWrite, StoreError> {
        self.create(entity, event).await
    }

    async fn update_entity(
        &self,
        id: &str,
        change: &EntityChange,
        event: &AuditEvent,
    ) -> Result<EntityWrite, StoreError> {
        self.update(id, change, event).await
    }

    async fn delete_entity(&self, id: &str, event: &AuditEvent) -> Result<bool, StoreError> {
        self.delete(id, event).await
    }

    async fn read_entity(&self, id: &str) -> Result<Option<Entity>, StoreError> {
        self.entity(id).await
    }

    async fn read_entities(&self, ids: &[String]) -> Result<Vec<Entity>, StoreError> {
        self.entities(ids).await
    }

    async fn read_children(
        &self,
        parent_id: &str,
        page: &PageRequest,
    ) -> Result<Page<Entity>, StoreError> {
        self.children(parent_id, page).await
    }

    async fn write_limits(
        &self,
        scope: &LimitScope,
        limits: &[Limit],
        event: &AuditEvent,
    ) -> Result<bool, StoreError> {
        self.replace_limits(scope, limits, event).await
    }

    async fn read_limits(
        &self,
        owner: &LimitOwner,
    ) -> Result<Vec<(LimitScope, Vec<Limit>)>, StoreError> {
        self.limits(owner).await
    }

    async fn read_audit_events(
        &self,
        entity_id: &str,
        page: &PageRequest,
    ) -> Result<Page<AuditEvent>, StoreError> {
        self.audit_events(entity_id, page).await
    }

    async fn read_usage(
        &self,
        query: &UsageQuery,
        page: &PageRequest,
    ) -> Result<Page<UsageSnapshot>, StoreError> {
        self.usage(query, page).await
    }

    async fn read_version(&self) -> Result<Option<VersionRecord>, StoreError> {
        self.version().await
    }

    async fn write_version(
        &self,
        record: &VersionRecord,
        replaces: Option<&VersionRecord>,
    ) -> Result<bool, StoreError> {
        self.replace_version(record, replaces).await
    }

    async fn read_resource_buckets(
        &self,
        resource: &str,
        page: &PageRequest,
    ) -> Result<Page<(String, BucketItem)>, StoreError> {
        self.resource_buckets(resource, page).await
    }
}
