//! Stored limits in DynamoDB: never half a set, and what the Python library leaves.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use aws_sdk_dynamodb::types::AttributeValue;
use futures::future::join_all;
use serde_json::json;
use zae_limiter::store::{DynamoDbStore, Store, StoreErrorKind};
use zae_limiter::{AuditAction, AuditEvent, Clock, Limit, LimitScope};
use zae_limiter_tests::{client_for, endpoint, fresh_table};

use crate::fake_service::{Answer, FakeService};
use crate::volume::put_all;

type Item = HashMap<String, AttributeValue>;

fn scope() -> LimitScope {
    LimitScope::entity("user-1").unwrap().on("gpt-4").unwrap()
}

fn event() -> AuditEvent {
    AuditEvent::new(AuditAction::LimitsSet, "user-1", Clock::system().wall())
}

fn s(text: &str) -> AttributeValue {
    AttributeValue::S(text.into())
}

/// A limit as the Python library stores it: 5 per minute.
fn unmarked(resource: &str, name: &str) -> Item {
    let n = |number: u64| AttributeValue::N(number.to_string());
    let data = [
        ("resource", s(resource)),
        ("limit_name", s(name)),
        ("capacity", n(5)),
        ("burst", n(5)),
        ("refill_amount", n(5)),
        ("refill_period_seconds", n(60)),
    ];
    let data = data.map(|(field, value)| (field.to_owned(), value));
    let item = [
        ("PK", s("ENTITY#user-1")),
        ("SK", s(&format!("#LIMIT#{resource}#{name}"))),
        ("entity_id", s("user-1")),
        ("data", AttributeValue::M(data.into())),
    ];
    item.map(|(name, value)| (name.to_owned(), value)).into()
}

async fn put(table: &str, item: Item) {
    let put = client_for(&endpoint()).put_item().table_name(table);
    put.set_item(Some(item)).send().await.unwrap();
}

async fn names(store: &DynamoDbStore) -> Vec<String> {
    let sets = store.read_limits(&scope().owner()).await.unwrap();
    let own = sets.into_iter().find(|(found, _)| *found == scope());
    let limits = own.map(|(_, limits)| limits).unwrap_or_default();
    limits.iter().map(|limit| limit.name().to_owned()).collect()
}

/// Sets of different sizes, each with a number of its own as every capacity, and half of the
/// names new each time.
fn set_number(i: u64) -> Vec<Limit> {
    let names = (0..2 + i % 7).map(|k| {
        if k % 2 == 0 {
            format!("l{k}")
        } else {
            format!("l{k}.{i}")
        }
    });
    names
        .map(|name| Limit::per_minute(&name, i).unwrap())
        .collect()
}

/// B16 of the Python library.
#[tokio::test(flavor = "multi_thread")]
async fn readers_never_see_half_a_set() {
    let table = fresh_table("whole").await;
    let (store, end) = (table.store(), Arc::new(AtomicBool::new(false)));
    let scope = scope();
    store
        .write_limits(&scope, &set_number(1), &event())
        .await
        .unwrap();
    let (written, read) = (AtomicU64::new(0), AtomicU64::new(0));
    let next = AtomicU64::new(2);
    let writing = || async {
        while !end.load(Ordering::Relaxed) {
            let limits = set_number(next.fetch_add(1, Ordering::Relaxed));
            let done = store.write_limits(&scope, &limits, &event()).await;
            match done {
                Ok(_) => drop(written.fetch_add(1, Ordering::Relaxed)),
                Err(error) => assert_eq!(error.kind(), StoreErrorKind::Throttled, "{error}"),
            }
        }
    };
    let reading = || async {
        while !end.load(Ordering::Relaxed) {
            let sets = store.read_limits(&scope.owner()).await.unwrap();
            assert_eq!(sets.len(), 1, "there is always a set");
            let (_, mut found) = sets.into_iter().next().unwrap();
            let mut expected = set_number(found[0].capacity());
            expected.sort_by(|a, b| a.name().cmp(b.name()));
            found.sort_by(|a, b| a.name().cmp(b.name()));
            assert_eq!(found, expected);
            read.fetch_add(1, Ordering::Relaxed);
        }
    };
    let timer = async {
        tokio::time::sleep(Duration::from_secs(10)).await;
        end.store(true, Ordering::Relaxed);
    };
    let writers = join_all([writing(), writing()]);
    let readers = join_all([reading(), reading(), reading()]);
    tokio::join!(writers, readers, timer);
    let (written, read) = (written.into_inner(), read.into_inner());
    println!("{written} sets written, {read} read");
    assert!(written > 3 && read > 10, "{written} written, {read} read");
}

/// An answer to a query: a head of this set and size, and limits with the sets they are of.
fn seen(head: Option<(&str, u64)>, limits: &[(&str, &str)]) -> Answer {
    let member = |(name, set): &(&str, &str)| {
        let data = json!({
            "resource": { "S": "gpt-4" }, "limit_name": { "S": name }, "set_id": { "S": set },
            "capacity": { "N": "5" }, "burst": { "N": "5" },
            "refill_amount": { "N": "5" }, "refill_period_seconds": { "N": "60" },
        });
        let sk = format!("#LIMIT#gpt-4#{name}");
        json!({ "PK": { "S": "ENTITY#user-1" }, "SK": { "S": sk }, "data": { "M": data } })
    };
    let mut items: Vec<_> = limits.iter().map(member).collect();
    items.extend(head.map(|(set, size)| {
        let data = json!({
            "resource": { "S": "gpt-4" }, "set_id": { "S": set },
            "set_size": { "N": size.to_string() },
        });
        let sk = "#LIMITS#gpt-4";
        json!({ "PK": { "S": "ENTITY#user-1" }, "SK": { "S": sk }, "data": { "M": data } })
    }));
    let text = json!({ "Count": items.len(), "Items": items }).to_string();
    Answer::Text(200, text.leak())
}

/// What is read where the table answers like this, and after how many queries.
async fn read<const N: usize>(answers: [Answer; N]) -> (Vec<String>, usize) {
    let service = FakeService::start(answers);
    let store = DynamoDbStore::new(client_for(&service.url), "ZAEL-test");
    (names(&store).await, service.asked())
}

/// DynamoDB does not isolate a query from a transaction; its emulator does.
#[tokio::test]
async fn half_a_set_is_read_again() {
    let old = [("a", "1"), ("b", "1")];
    let new = [("b", "2"), ("c", "2")];
    let (before, after) = (seen(Some(("1", 2)), &old), seen(Some(("2", 2)), &new));
    assert_eq!(read([before]).await, (vec!["a".into(), "b".into()], 1));
    let expected = vec!["b".to_owned(), "c".to_owned()];
    for half in [
        seen(Some(("2", 2)), &old),              // the head first
        seen(Some(("2", 2)), &[old[0], new[0]]), // one of two
        seen(Some(("2", 2)), &new[..1]),         // one is missing
        seen(Some(("2", 2)), &[]),               // both are
        seen(Some(("1", 2)), &[old[0], new[0]]), // the head last
        seen(Some(("1", 2)), &new),
        seen(None, &new), // the first set of all
    ] {
        assert_eq!(read([half, after]).await, (expected.clone(), 2));
        // Twice the same says nothing yet.
        assert_eq!(read([half, half, after]).await, (expected.clone(), 3));
    }
    // What stays like that is how it is: another client deleted a limit by itself.
    let lasting = seen(Some(("2", 2)), &new[1..]);
    assert_eq!(read([before, lasting]).await.1, 1);
    assert_eq!(read([lasting]).await, (vec!["c".to_owned()], 3));
    // What is whole is taken, whatever is left of a larger set.
    let more = seen(Some(("2", 2)), &[old[0], new[0], new[1]]);
    assert_eq!(read([more]).await, (expected, 1));
}

#[tokio::test]
async fn writers_at_the_same_time_leave_nothing_of_each_other() {
    let table = fresh_table("writers").await;
    let store = table.store();
    let names = ["a", "b", "c", "d", "e", "f"];
    // A reader of ours would pass over what is left of another set; the Python library would not.
    for round in 0..3 {
        let writes = names.map(|name| {
            let limits =
                [1, 2].map(|i| Limit::per_minute(&format!("{name}{round}.{i}"), 1).unwrap());
            let (store, scope) = (&store, scope());
            async move { store.write_limits(&scope, &limits, &event()).await.unwrap() }
        });
        join_all(writes).await;
        let query = client_for(&endpoint()).query().table_name(table.name());
        let query = query.key_condition_expression("PK = :p AND begins_with(SK, :s)");
        let query = query.expression_attribute_values(":p", s("ENTITY#user-1"));
        let query = query.expression_attribute_values(":s", s("#LIMIT#"));
        assert_eq!(query.send().await.unwrap().count, 2);
    }
}

#[tokio::test]
async fn a_set_that_the_python_library_wrote_is_taken_as_it_is() {
    let table = fresh_table("unmarked").await;
    let store = table.store();
    for name in ["rpm", "tpm"] {
        put(table.name(), unmarked("gpt-4", name)).await;
    }
    // It allowed the delimiter in names; such a resource is another, and nobody can ask for it.
    put(table.name(), unmarked("gpt-4#x", "rpm")).await;
    assert_eq!(names(&store).await, ["rpm", "tpm"]);

    let ours = [Limit::per_minute("rpd", 1).unwrap()];
    store.write_limits(&scope(), &ours, &event()).await.unwrap();
    assert_eq!(names(&store).await, ["rpd"]);

    // It replaces by deleting and putting one by one, and knows nothing of a head.
    let delete = client_for(&endpoint())
        .delete_item()
        .table_name(table.name());
    let delete = delete
        .key("PK", s("ENTITY#user-1"))
        .key("SK", s("#LIMIT#gpt-4#rpd"));
    delete.send().await.unwrap();
    assert!(names(&store).await.is_empty());
    put(table.name(), unmarked("gpt-4", "rpm")).await;
    assert_eq!(names(&store).await, ["rpm"]);
    assert!(store.write_limits(&scope(), &[], &event()).await.unwrap());
    assert!(names(&store).await.is_empty());

    let query = client_for(&endpoint()).query().table_name(table.name());
    let query = query.key_condition_expression("PK = :p");
    let query = query.expression_attribute_values(":p", s("ENTITY#user-1"));
    let left = query.send().await.unwrap().items.unwrap();
    let left: Vec<_> = left
        .iter()
        .map(|item| item["SK"].as_s().unwrap().as_str())
        .collect();
    assert_eq!(
        left,
        ["#LIMIT#gpt-4#x#rpm"],
        "of others nothing was deleted"
    );
}

#[tokio::test]
async fn a_set_too_large_for_a_transaction_is_replaced_all_the_same() {
    let table = fresh_table("larger").await;
    let store = table.store();
    let items = (0..150).map(|i| unmarked("gpt-4", &format!("l{i:03}")));
    let client = client_for(&endpoint());
    put_all(&client, table.name(), items.collect(), 25).await;
    assert_eq!(names(&store).await.len(), 150);
    let ours = ["l149", "rpm"].map(|name| Limit::per_minute(name, 1).unwrap());
    store.write_limits(&scope(), &ours, &event()).await.unwrap();
    assert_eq!(names(&store).await, ["l149", "rpm"]);
    let scan = client.scan().table_name(table.name()).send().await.unwrap();
    assert_eq!(scan.count, 4, "two limits, the head and the event");
}
