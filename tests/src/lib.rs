//! What the integration tests share: an endpoint, and tables that go away again.
//!
//! A test that needs the endpoint fails without it; none is skipped. `tests/run` starts
//! LocalStack and sets everything.

pub mod callers;
pub mod desk;
pub mod fleet;
pub mod journal;
pub mod policies;
pub mod proxy;
pub mod rounds;
pub mod simulation;
pub mod stall;
pub mod storm;
pub mod worker;

use std::thread;
use std::time::Duration;

use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::config::timeout::TimeoutConfig;
use aws_sdk_dynamodb::config::{BehaviorVersion, Builder, Config, Credentials, Region};
use tokio::runtime;
use zae_limiter::Limit;
use zae_limiter::store::{DynamoDbStore, Store};
use zae_limiter_core::{BucketKey, Clock, estimate};

/// The region that all tests use.
pub const REGION: &str = "us-east-1";

/// The URL of the DynamoDB endpoint that the tests may use.
///
/// # Panics
/// If the environment names none.
#[must_use]
pub fn endpoint() -> String {
    let found = std::env::var("ZAE_LIMITER_TEST_ENDPOINT");
    found.expect("ZAE_LIMITER_TEST_ENDPOINT is not set; run tests/run: it starts LocalStack")
}

/// The configuration of a client of the service at `url`, never of a real account.
pub fn config_for(url: &str) -> Builder {
    Config::builder()
        .behavior_version(BehaviorVersion::latest())
        .region(Region::new(REGION))
        .endpoint_url(url)
        .credentials_provider(Credentials::new("test", "test", None, None, "tests"))
}

/// A client of the service at `url`.
#[must_use]
pub fn client_for(url: &str) -> Client {
    Client::from_conf(config_for(url).build())
}

/// A name that no other table has.
#[must_use]
pub fn random_table_name(prefix: &str) -> String {
    format!("ZAEL-{prefix}-{:016x}", fastrand::u64(..))
}

/// A table of its own for one test; it is deleted when this is dropped.
#[derive(Debug)]
pub struct FreshTable {
    store: DynamoDbStore,
    endpoint: String,
}

/// Creates an empty table with a random name that begins with "ZAEL-" and `prefix`.
///
/// # Panics
/// If it cannot be created.
pub async fn fresh_table(prefix: &str) -> FreshTable {
    fresh_table_at(&endpoint(), prefix).await
}

/// The same at the service at `url`.
///
/// # Panics
/// If it cannot be created.
pub async fn fresh_table_at(url: &str, prefix: &str) -> FreshTable {
    let store = DynamoDbStore::new(patient_client(url), random_table_name(prefix));
    let created = store.create_table().await;
    created.expect("the table should be created");
    let endpoint = url.to_owned();
    FreshTable { store, endpoint }
}

/// An emulator on a busy machine is slow; a test of slowness has clients of its own.
fn patient_client(url: &str) -> Client {
    let patience = TimeoutConfig::builder().operation_timeout(Duration::from_secs(60));
    let config = config_for(url).timeout_config(patience.build());
    Client::from_conf(config.build())
}

impl FreshTable {
    /// The table.
    #[must_use]
    pub fn store(&self) -> DynamoDbStore {
        self.store.clone()
    }

    /// The table, with connections that nobody else uses: for another runtime.
    #[must_use]
    pub fn store_of_its_own(&self) -> DynamoDbStore {
        DynamoDbStore::new(patient_client(&self.endpoint), self.name())
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        self.store.table_name()
    }
}

impl Drop for FreshTable {
    fn drop(&mut self) {
        let (name, endpoint) = (self.name().to_owned(), self.endpoint.clone());
        // A client and a runtime of their own: the test's may be gone, or wait for this.
        let deleted = thread::spawn(move || {
            let runtime = runtime::Builder::new_current_thread().enable_all().build();
            let store = DynamoDbStore::new(client_for(&endpoint), name);
            let deleted = runtime.map(|runtime| runtime.block_on(store.delete_table()));
            deleted.expect("a runtime should start")
        });
        if let Ok(Err(error)) = deleted.join() {
            eprintln!("{error}");
        }
    }
}

/// The tokens of a limit that the table holds, in debt if negative.
///
/// # Panics
/// If the table does not answer.
pub async fn level(store: &impl Store, entity_id: &str, resource: &str, limit: &Limit) -> i64 {
    let key = BucketKey::new(entity_id, resource).expect("a key");
    let item = store.read_bucket(&key).await.expect("a table");
    let now = Clock::system().wall();
    limit
        .terms()
        .to_tokens(estimate::level(item.as_ref(), now, limit))
}

/// The consumption of a limit that the table has been told of, in tokens.
///
/// # Panics
/// If the table does not answer.
pub async fn consumed(store: &impl Store, entity_id: &str, resource: &str, limit: &str) -> i64 {
    let key = BucketKey::new(entity_id, resource).expect("a key");
    let item = store.read_bucket(&key).await.expect("a table");
    item.and_then(|item| Some(item.limit(limit)?.consumed))
        .unwrap_or(0)
}
