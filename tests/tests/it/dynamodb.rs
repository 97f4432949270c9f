//! What only the DynamoDB store can get wrong: the wire, the service's errors, others' items.

use std::collections::HashMap;
use std::net::TcpListener;
use std::time::{Duration, Instant};

use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::config::timeout::TimeoutConfig;
use aws_sdk_dynamodb::types::AttributeValue;
use zae_limiter::store::{ConnectOptions, DynamoDbStore, Store, StoreErrorKind, WriteOutcome};
use zae_limiter::{AuditAction, AuditEvent, Clock, Entity};
use zae_limiter_core::BucketKey;
use zae_limiter_core::Terms;
use zae_limiter_core::item::{BucketWrite, Kept, LimitAction, LimitItem, LimitWrite};
use zae_limiter_tests::{REGION, client_for, config_for, endpoint, fresh_table, random_table_name};

use crate::fake_service::{Answer, FakeService};

fn key() -> BucketKey {
    BucketKey::new("user-1", "api").unwrap()
}

fn creation() -> BucketWrite {
    let terms = Terms {
        capacity: 10,
        burst: 10,
        refill_amount: 10,
        refill_period_seconds: 60,
    };
    let item = LimitItem {
        terms,
        z: 0,
        consumed: 1,
        ring: None,
    };
    BucketWrite {
        incarnation: None,
        limits: vec![LimitWrite {
            name: "rpm".into(),
            action: LimitAction::Create(item),
        }],
        sequence_from: 0,
        consumed_at_ms: 1_767_225_600_000,
        kept: Kept::AsItIs,
    }
}

fn entity() -> Entity {
    Entity {
        id: "user-1".into(),
        name: "user-1".into(),
        parent_id: Some("project-1".into()),
        metadata: Default::default(),
        created_at: "2026-01-01T00:00:00Z".into(),
        cascade: false,
    }
}

fn event() -> AuditEvent {
    AuditEvent::new(AuditAction::EntityCreated, "user-1", Clock::system().wall())
}

fn s(text: &str) -> AttributeValue {
    AttributeValue::S(text.into())
}

fn n(number: i64) -> AttributeValue {
    AttributeValue::N(number.to_string())
}

fn m<const N: usize>(fields: [(&str, AttributeValue); N]) -> AttributeValue {
    AttributeValue::M(fields.map(|(k, v)| (k.to_owned(), v)).into())
}

async fn raw_item(client: &Client, table: &str, sk: &str) -> HashMap<String, AttributeValue> {
    let get = client.get_item().table_name(table).consistent_read(true);
    let get = get.key("PK", s("ENTITY#user-1")).key("SK", s(sk));
    get.send().await.unwrap().item.unwrap()
}

#[tokio::test]
async fn items_of_the_python_library_are_read_or_passed_over() {
    let table = fresh_table("python").await;
    let client = client_for(&endpoint());
    let put = |sk: &str, data: AttributeValue| {
        let put = client.put_item().table_name(table.name());
        let put = put.item("PK", s("ENTITY#user-1")).item("SK", s(sk));
        put.item("entity_id", s("user-1")).item("data", data).send()
    };
    let meta = m([
        ("name", s("A user")),
        ("parent_id", AttributeValue::Null(true)),
        ("metadata", m([("team", s("x"))])),
        ("created_at", s("2025-12-01T10:00:00Z")),
    ]);
    put("#META", meta).await.unwrap();
    put("#BUCKET#api#rpm", m([("tokens_milli", n(5_000))]))
        .await
        .unwrap();

    let store = table.store();
    let found = store.read_entity("user-1").await.unwrap().unwrap();
    assert_eq!((found.name.as_str(), found.parent_id), ("A user", None));
    assert_eq!(found.metadata["team"], "x");
    assert_eq!(store.read_bucket(&key()).await.unwrap(), None);
    let outcome = store.write_bucket(&key(), &creation()).await;
    assert!(matches!(outcome, WriteOutcome::Applied(_)), "{outcome:?}");
}

#[tokio::test]
async fn an_item_that_makes_no_sense_is_named_and_not_touched() {
    let table = fresh_table("broken").await;
    let client = client_for(&endpoint());
    let put = |sk: &str, name: &str, value: AttributeValue| {
        let put = client.put_item().table_name(table.name());
        let put = put.item("PK", s("ENTITY#user-1")).item("SK", s(sk));
        put.item("seq", n(1)).item(name, value).send()
    };
    put("#BUCKET#api", "limit#rpm", m([("z", s("soon"))]))
        .await
        .unwrap();
    put("#META", "data", s("none")).await.unwrap();

    let store = table.store();
    let error = store.read_bucket(&key()).await.unwrap_err();
    assert_eq!(error.kind(), StoreErrorKind::Invalid);
    let message = error.to_string();
    assert!(message.contains("ENTITY#user-1 / #BUCKET#api"), "{message}");
    assert!(message.contains("limit#rpm.terms"), "{message}");
    assert!(message.contains(table.name()), "{message}");

    let WriteOutcome::Failed(error) = store.write_bucket(&key(), &creation()).await else {
        panic!("it was surely refused");
    };
    assert_eq!(error.kind(), StoreErrorKind::Invalid);
    let bucket = raw_item(&client, table.name(), "#BUCKET#api").await;
    assert_eq!(bucket["seq"], n(1));

    let error = store.read_entity("user-1").await.unwrap_err();
    assert_eq!(error.kind(), StoreErrorKind::Invalid);
    assert!(error.to_string().contains("attribute data"), "{error}");

    // Another limit than the broken one can be written, but what is there then cannot be read.
    put("#BUCKET#api", "limit#tpm", s("none")).await.unwrap();
    let WriteOutcome::Unknown(error) = store.write_bucket(&key(), &creation()).await else {
        panic!("it was applied, and its result cannot be told");
    };
    assert_eq!(error.kind(), StoreErrorKind::Invalid);
}

#[tokio::test]
async fn a_missing_table_is_missing_whatever_is_asked() {
    let name = random_table_name("missing");
    let store = DynamoDbStore::new(client_for(&endpoint()), &name);
    let error = store.check().await.unwrap_err();
    assert_eq!(error.kind(), StoreErrorKind::TableMissing);
    assert!(error.to_string().contains(&name), "{error}");
    assert!(error.to_string().contains(REGION), "{error}");
    let error = store.read_bucket(&key()).await.unwrap_err();
    assert_eq!(error.kind(), StoreErrorKind::TableMissing);
    let error = store.create_entity(&entity(), &event()).await.unwrap_err();
    assert_eq!(error.kind(), StoreErrorKind::TableMissing);
    let WriteOutcome::Failed(error) = store.write_bucket(&key(), &creation()).await else {
        panic!("nothing can have been written");
    };
    assert_eq!(error.kind(), StoreErrorKind::TableMissing);
}

#[tokio::test]
async fn the_default_chains_find_what_the_environment_says() {
    let table = fresh_table("connect").await;
    let options = ConnectOptions::new(table.name())
        .region(REGION)
        .endpoint_url(endpoint())
        .operation_timeout(Duration::from_secs(5));
    let store = DynamoDbStore::connect(options).await.unwrap();
    store.check().await.unwrap();
    let shown = format!("{store:?}");
    assert!(
        shown.contains(table.name()) && shown.contains(&endpoint()),
        "{shown}"
    );
}

#[tokio::test]
async fn a_write_of_a_bucket_is_sent_once_and_all_else_again() {
    let service = FakeService::start([Answer::Error(500, "InternalServerError")]);
    let store = DynamoDbStore::new(client_for(&service.url), "ZAEL-test");
    let WriteOutcome::Unknown(error) = store.write_bucket(&key(), &creation()).await else {
        panic!("nobody knows what the service did");
    };
    assert_eq!(error.kind(), StoreErrorKind::Unreachable);
    assert_eq!(service.asked(), 1);
    let error = store.create_entity(&entity(), &event()).await.unwrap_err();
    assert_eq!(error.kind(), StoreErrorKind::Unreachable);
    assert!(
        error.to_string().contains("it may have been done"),
        "{error}"
    );
    let transactions = service.asked();
    assert!(transactions > 2);
    let error = store.read_bucket(&key()).await.unwrap_err();
    assert_eq!(error.kind(), StoreErrorKind::Unreachable);
    assert!(service.asked() > transactions + 1);
}

#[tokio::test]
async fn an_answer_says_what_is_known_of_a_write() {
    use StoreErrorKind::{AccessDenied, Invalid, TableMissing, Throttled, Unreachable};
    let throughput = "ProvisionedThroughputExceededException";
    for (answer, kind, unknown) in [
        (Answer::Error(400, throughput), Throttled, false),
        (Answer::Error(400, "RequestLimitExceeded"), Throttled, false),
        (Answer::Error(400, "ThrottlingException"), Throttled, false),
        (
            Answer::Error(400, "TransactionConflictException"),
            Throttled,
            false,
        ),
        (
            Answer::Error(400, "ResourceNotFoundException"),
            TableMissing,
            false,
        ),
        (
            Answer::Error(400, "AccessDeniedException"),
            AccessDenied,
            false,
        ),
        (
            Answer::Error(400, "UnrecognizedClientException"),
            AccessDenied,
            false,
        ),
        (
            Answer::Error(400, "ExpiredTokenException"),
            AccessDenied,
            false,
        ),
        (Answer::Error(400, "ValidationException"), Invalid, false),
        (Answer::Error(503, "ServiceUnavailable"), Unreachable, true),
        (Answer::Text(200, "<html>"), Unreachable, true),
        (Answer::HangUp, Unreachable, true),
    ] {
        let service = FakeService::start([answer]);
        let store = DynamoDbStore::new(client_for(&service.url), "ZAEL-test");
        let (error, was_unknown) = match store.write_bucket(&key(), &creation()).await {
            WriteOutcome::Failed(error) => (error, false),
            WriteOutcome::Unknown(error) => (error, true),
            outcome => panic!("{outcome:?}"),
        };
        assert_eq!((error.kind(), was_unknown), (kind, unknown), "{error}");
        assert_eq!(service.asked(), 1, "{error}");
    }
}

#[tokio::test]
async fn a_service_that_does_not_answer_is_given_up_in_time() {
    let service = FakeService::start([Answer::Silence]);
    let patience = TimeoutConfig::builder().operation_timeout(Duration::from_millis(300));
    let config = config_for(&service.url).timeout_config(patience.build());
    let hasty = DynamoDbStore::new(Client::from_conf(config.build()), "ZAEL-test");
    let usual = DynamoDbStore::new(client_for(&service.url), "ZAEL-test");
    for (store, seconds) in [(hasty, 0.3), (usual, 2.0)] {
        let start = Instant::now();
        let WriteOutcome::Unknown(error) = store.write_bucket(&key(), &creation()).await else {
            panic!("it was sent, and nobody knows what became of it");
        };
        assert_eq!(error.kind(), StoreErrorKind::Unreachable);
        let error = store.check().await.unwrap_err();
        assert_eq!(error.kind(), StoreErrorKind::Unreachable);
        assert!(error.to_string().contains("ZAEL-test"), "{error}");
        let took = start.elapsed().as_secs_f64();
        assert!(took > seconds && took < 2.0 * seconds + 1.0, "{took} s");
    }
    assert!(service.asked() >= 2);
}

#[tokio::test]
async fn what_cannot_be_connected_to_was_not_written() {
    let closed = TcpListener::bind("127.0.0.1:0").unwrap();
    let refusing = format!("http://{}", closed.local_addr().unwrap());
    drop(closed);
    let silent = FakeService::start([Answer::Silence]);
    let no_handshake = silent.url.replace("http:", "https:");
    for url in [
        refusing.as_str(),
        "http://no-such-host.invalid:8000",
        &no_handshake,
    ] {
        let store = DynamoDbStore::new(client_for(url), "ZAEL-test");
        let outcome = store.write_bucket(&key(), &creation()).await;
        let WriteOutcome::Failed(error) = outcome else {
            panic!("{url}: {outcome:?}");
        };
        assert_eq!(error.kind(), StoreErrorKind::Unreachable);
        let error = store.read_entity("user-1").await.unwrap_err();
        assert_eq!(error.kind(), StoreErrorKind::Unreachable);
    }
}
