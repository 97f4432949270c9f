//! What each role may do is what the library does in it, and nothing else.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::config::interceptors::BeforeSerializationInterceptorContextRef;
use aws_sdk_dynamodb::config::{
    BehaviorVersion, Config, ConfigBag, Credentials, Intercept, Region, RuntimeComponents,
    SharedInterceptor,
};
use aws_sdk_dynamodb::error::BoxError;
use aws_sdk_dynamodb::operation::query::QueryInput;
use aws_sdk_dynamodb::operation::transact_write_items::TransactWriteItemsInput;
use aws_sdk_dynamodb::operation::update_item::UpdateItemInput;
use aws_sdk_dynamodb::operation::{
    batch_get_item::BatchGetItemInput, batch_write_item::BatchWriteItemInput,
    delete_item::DeleteItemInput, get_item::GetItemInput, put_item::PutItemInput,
};
use zae_limiter::store::DynamoDbStore;
use zae_limiter::{EntityChange, Limit, LimitScope, Mode, NewEntity, PageRequest, RateLimiter};

use crate::command::{endpoint, random_name, template};

/// What was asked of DynamoDB: actions on the table, and on its indexes.
#[derive(Clone, Debug, Default)]
struct Recorder(Arc<Mutex<Recorded>>);

#[derive(Debug, Default)]
struct Recorded {
    table: BTreeSet<String>,
    indexes: BTreeSet<String>,
    /// The partition keys that were written to by UpdateItem.
    updated: BTreeSet<String>,
}

impl Intercept for Recorder {
    fn name(&self) -> &'static str {
        "recorder"
    }

    fn read_before_serialization(
        &self,
        context: &BeforeSerializationInterceptorContextRef<'_>,
        _: &RuntimeComponents,
        _: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let input = context.input();
        let mut recorded = self.0.lock().unwrap();
        let mut table = |action: &str| recorded.table.insert(format!("dynamodb:{action}"));
        if let Some(query) = input.downcast_ref::<QueryInput>() {
            if query.index_name().is_some() {
                recorded.indexes.insert("dynamodb:Query".to_owned());
            } else {
                table("Query");
            }
        } else if let Some(transaction) = input.downcast_ref::<TransactWriteItemsInput>() {
            // There is no action for a transaction: it takes those of its parts.
            for part in transaction.transact_items() {
                for (is, action) in [
                    (part.put().is_some(), "PutItem"),
                    (part.update().is_some(), "UpdateItem"),
                    (part.delete().is_some(), "DeleteItem"),
                    (part.condition_check().is_some(), "ConditionCheckItem"),
                ] {
                    if is {
                        table(action);
                    }
                }
            }
        } else if let Some(update) = input.downcast_ref::<UpdateItemInput>() {
            table("UpdateItem");
            let key = update.key().unwrap()["PK"].as_s().unwrap().clone();
            recorded.updated.insert(key);
        } else if input.downcast_ref::<GetItemInput>().is_some() {
            table("GetItem");
        } else if input.downcast_ref::<PutItemInput>().is_some() {
            table("PutItem");
        } else if input.downcast_ref::<DeleteItemInput>().is_some() {
            table("DeleteItem");
        } else if input.downcast_ref::<BatchGetItemInput>().is_some() {
            table("BatchGetItem");
        } else if input.downcast_ref::<BatchWriteItemInput>().is_some() {
            table("BatchWriteItem");
        } else {
            table(&format!("unknown: {input:?}"));
        }
        Ok(())
    }
}

/// A client of the endpoint that tells these what it is asked.
pub(crate) fn client(url: &str, interceptors: Vec<SharedInterceptor>) -> Client {
    let mut config = Config::builder()
        .behavior_version(BehaviorVersion::latest())
        .region(Region::new("us-east-1"))
        .endpoint_url(url)
        .credentials_provider(Credentials::new("test", "test", None, None, "tests"));
    for interceptor in interceptors {
        config = config.interceptor(interceptor);
    }
    Client::from_conf(config.build())
}

/// A table with an entity, its parent and limits in it, and limiters that are recorded.
struct Scene {
    name: String,
    table: DynamoDbStore,
}

impl Scene {
    async fn set() -> Self {
        let name = random_name("policy");
        let table = DynamoDbStore::new(client(&endpoint(), vec![]), format!("ZAEL-{name}"));
        table.create_table().await.unwrap();
        let scene = Self { name, table };
        let (limiter, _) = scene.limiter(Mode::Strict).await;
        limiter.create_entity(NewEntity::new("org")).await.unwrap();
        limiter
            .create_entity(NewEntity::new("user").parent("org"))
            .await
            .unwrap();
        let limits = [Limit::per_hour("rpm", 10).unwrap()];
        limiter
            .set_limits(&LimitScope::system(), &limits)
            .await
            .unwrap();
        scene
    }

    async fn limiter(&self, mode: Mode) -> (RateLimiter, Recorder) {
        let (store, recorder) = self.recorded();
        let builder = RateLimiter::builder(&self.name).mode(mode).store(store);
        (builder.connect().await.unwrap(), recorder)
    }

    fn recorded(&self) -> (DynamoDbStore, Recorder) {
        let recorder = Recorder::default();
        let interceptor = SharedInterceptor::new(recorder.clone());
        let client = client(&endpoint(), vec![interceptor]);
        (
            DynamoDbStore::new(client, self.table.table_name()),
            recorder,
        )
    }
}

/// The actions of a policy, on the table and on its indexes.
fn policy(name: &str) -> (BTreeSet<String>, BTreeSet<String>) {
    let template = template();
    let statements = &template["Resources"][name]["Properties"]["PolicyDocument"]["Statement"];
    let (mut table, mut indexes) = (BTreeSet::new(), BTreeSet::new());
    for statement in statements.as_array().unwrap() {
        let is_index = statement["Resource"].to_string().contains("/index/");
        let to = if is_index { &mut indexes } else { &mut table };
        let actions = statement["Action"].as_array().unwrap().iter();
        to.extend(actions.map(|action| action.as_str().unwrap().to_owned()));
    }
    (table, indexes)
}

fn assert_allowed(name: &str, recorders: &[&Recorder]) {
    let (table, indexes) = policy(name);
    let all = |of: fn(&Recorded) -> &BTreeSet<String>| {
        let each = recorders
            .iter()
            .map(|recorder| of(&recorder.0.lock().unwrap()).clone());
        each.flatten().collect::<BTreeSet<_>>()
    };
    assert_eq!(
        all(|recorded| &recorded.table),
        table,
        "{name}, on the table"
    );
    assert_eq!(
        all(|recorded| &recorded.indexes),
        indexes,
        "{name}, on the indexes"
    );
}

/// All that a client does that only acquires.
async fn acquires(limiter: &RateLimiter) {
    let acquire = || {
        let acquire = limiter
            .acquire("user", "api")
            .use_stored_limits(true)
            .cascade(true);
        acquire.consume("rpm", 1)
    };
    let mut lease = acquire().await.unwrap();
    lease.consume("rpm", 1).await.unwrap();
    lease.adjust("rpm", 20).await.unwrap();
    lease.release("rpm", 2).await.unwrap();
    drop(acquire().await); // refused, as a rule
    lease.rollback().await;
    let patience = Duration::from_secs(5);
    acquire()
        .wait_up_to(patience)
        .await
        .unwrap()
        .rollback()
        .await;
    acquire()
        .run(async |_| Ok::<_, zae_limiter::Error>(()))
        .await
        .unwrap();
    acquire().available().await.unwrap();
    acquire().time_until_available().await.unwrap();
    limiter.shutdown(Duration::from_secs(10)).await;
}

/// All that a client does that only looks.
async fn looks(limiter: &RateLimiter) {
    let acquire = || {
        limiter
            .acquire("user", "api")
            .use_stored_limits(true)
            .cascade(true)
    };
    acquire().available().await.unwrap();
    acquire().consume("rpm", 1).check().await.unwrap();
    limiter.get_entity("user").await.unwrap();
    limiter.get_children("org").await.unwrap();
    limiter.get_limits(&LimitScope::system()).await.unwrap();
    let page = PageRequest::default();
    limiter.get_audit_events("user", &page).await.unwrap();
    let usage = zae_limiter::UsageQuery::of_resource("api").unwrap();
    limiter.get_usage(&usage, &page).await.unwrap();
    let capacity = limiter.get_resource_capacity("api", "rpm", true).await;
    assert_eq!(capacity.unwrap().entities[0].entity_id, "org");
}

/// All that changes something beside acquires.
async fn administers(limiter: &RateLimiter) {
    let limits = [Limit::per_hour("rpm", 20).unwrap()];
    let scope = LimitScope::entity("user").unwrap();
    limiter.set_limits(&scope, &limits).await.unwrap();
    limiter.set_limits(&scope, &limits).await.unwrap();
    limiter.delete_limits(&scope).await.unwrap();
    let child = NewEntity::new("other").parent("org");
    limiter.create_entity(child).await.unwrap();
    limiter.set_parent("other", Some("user")).await.unwrap();
    let change = EntityChange {
        name: Some("Other".to_owned()),
        ..EntityChange::default()
    };
    limiter.update_entity("other", &change).await.unwrap();
    let limits = [Limit::per_hour("rpm", 20).unwrap()];
    let acquire = limiter.acquire("other", "api").limits(&limits);
    drop(acquire.strict(true).consume("rpm", 1).await.unwrap());
    limiter.delete_entity("other").await.unwrap();
}

#[tokio::test]
async fn a_policy_allows_what_its_role_does_and_nothing_else() {
    let scene = Scene::set().await;
    let (looking, looked) = scene.limiter(Mode::Strict).await;
    let (strict, acquired_strictly) = scene.limiter(Mode::Strict).await;
    let (leased, acquired) = scene.limiter(Mode::leased()).await;
    let (admin, administered) = scene.limiter(Mode::Strict).await;
    acquires(&strict).await;
    acquires(&leased).await;
    looks(&looking).await;
    administers(&admin).await;
    scene.table.delete_table().await.unwrap();

    for recorder in [&acquired, &acquired_strictly] {
        let recorded = recorder.0.lock().unwrap();
        // To others its policy does not let it write.
        let ours = |key: &String| key.starts_with("ENTITY#");
        assert!(recorded.updated.iter().all(ours), "{recorded:?}");
    }
    let acquires = [&acquired, &acquired_strictly];
    assert_allowed("AcquirePolicy", &acquires);
    assert_allowed("ReadOnlyPolicy", &[&looked]);
    let all = [&administered, &looked, &acquired, &acquired_strictly];
    assert_allowed("AdminPolicy", &all);
}
