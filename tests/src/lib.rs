//! What the integration tests share: an endpoint, and tables that go away again.
//!
//! A test that needs the endpoint fails without it; none is skipped. `tests/run` starts
//! LocalStack and sets everything.

use std::thread;

use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::config::{BehaviorVersion, Builder, Config, Credentials, Region};
use tokio::runtime;
use zae_limiter::store::DynamoDbStore;

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
}

/// Creates an empty table with a random name that begins with "ZAEL-" and `prefix`.
///
/// # Panics
/// If it cannot be created.
pub async fn fresh_table(prefix: &str) -> FreshTable {
    let store = DynamoDbStore::new(client_for(&endpoint()), random_table_name(prefix));
    store
        .create_table()
        .await
        .expect("the table should be created");
    FreshTable { store }
}

impl FreshTable {
    /// The table.
    #[must_use]
    pub fn store(&self) -> DynamoDbStore {
        self.store.clone()
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        self.store.table_name()
    }
}

impl Drop for FreshTable {
    fn drop(&mut self) {
        let name = self.name().to_owned();
        // A client and a runtime of their own: the test's may be gone, or wait for this.
        let deleted = thread::spawn(move || {
            let runtime = runtime::Builder::new_current_thread().enable_all().build();
            let store = DynamoDbStore::new(client_for(&endpoint()), name);
            let deleted = runtime.map(|runtime| runtime.block_on(store.delete_table()));
            deleted.expect("a runtime should start")
        });
        if let Ok(Err(error)) = deleted.join() {
            eprintln!("{error}");
        }
    }
}
