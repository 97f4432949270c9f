//! More than fits a page: nothing is left out, and nothing is left over.

use std::collections::{BTreeSet, HashMap};

use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::types::{AttributeValue, PutRequest, WriteRequest};
use futures::StreamExt;
use zae_limiter::store::Store;
use zae_limiter::{AuditAction, AuditEvent, Clock, LimitOwner, PageRequest};
use zae_limiter_tests::{client_for, endpoint, fresh_table};

pub(crate) type Item = HashMap<String, AttributeValue>;

fn s(text: impl Into<String>) -> AttributeValue {
    AttributeValue::S(text.into())
}

fn m<const N: usize>(fields: [(&str, AttributeValue); N]) -> AttributeValue {
    AttributeValue::M(fields.map(|(name, value)| (name.to_owned(), value)).into())
}

fn item<const N: usize>(attributes: [(&str, AttributeValue); N]) -> Item {
    attributes
        .map(|(name, value)| (name.to_owned(), value))
        .into()
}

fn entity(id: &str, parent: Option<&str>, note: usize) -> Item {
    let data = m([
        ("name", s(id)),
        ("parent_id", parent.map_or(AttributeValue::Null(true), s)),
        ("metadata", m([("note", s("x".repeat(note)))])),
        ("created_at", s("2026-01-01T00:00:00Z")),
    ]);
    let pk = s(format!("ENTITY#{id}"));
    let mut item = item([
        ("PK", pk),
        ("SK", s("#META")),
        ("entity_id", s(id)),
        ("data", data),
    ]);
    if let Some(parent) = parent {
        item.insert("GSI1PK".into(), s(format!("PARENT#{parent}")));
        item.insert("GSI1SK".into(), s(format!("CHILD#{id}")));
    }
    item
}

fn limit(id: &str, i: usize) -> Item {
    let n = || AttributeValue::N("7".into());
    let data = m([
        ("resource", s("gpt-4")),
        ("limit_name", s(format!("l{i}"))),
        ("capacity", n()),
        ("burst", n()),
        ("refill_amount", n()),
        ("refill_period_seconds", n()),
        // Of no interest to us, and in the way of pages.
        ("note", s("x".repeat(10_000))),
    ]);
    let sk = s(format!("#LIMIT#gpt-4#l{i}"));
    item([
        ("PK", s(format!("ENTITY#{id}"))),
        ("SK", sk),
        ("data", data),
    ])
}

/// Stores items, `batch` of them at a time.
pub(crate) async fn put_all(client: &Client, table: &str, items: Vec<Item>, batch: usize) {
    let batches = items.chunks(batch).map(|items| {
        let put = |item: &Item| {
            let put = PutRequest::builder().set_item(Some(item.clone())).build();
            WriteRequest::builder().put_request(put.unwrap()).build()
        };
        let puts: Vec<_> = items.iter().map(put).collect();
        let request = client.batch_write_item().request_items(table, puts);
        async move {
            let undone = request.send().await.unwrap().unprocessed_items;
            assert!(undone.is_none_or(|undone| undone.is_empty()));
        }
    });
    futures::stream::iter(batches)
        .buffer_unordered(2)
        .collect::<()>()
        .await;
}

#[tokio::test]
async fn thousands_of_children_are_listed() {
    let table = fresh_table("children").await;
    let (store, client) = (table.store(), client_for(&endpoint()));
    let ids: Vec<_> = (0..5_000).map(|i| format!("child-{i:04}")).collect();
    let items = ids.iter().map(|id| entity(id, Some("top"), 400)).collect();
    put_all(&client, table.name(), items, 25).await;
    for size in [u32::MAX, 999] {
        let (mut request, mut found, mut pages) = (PageRequest::default().size(size), vec![], 0);
        loop {
            let page = store.read_children("top", &request).await.unwrap();
            found.extend(page.items.into_iter().map(|child| child.id));
            pages += 1;
            match page.next {
                Some(next) => request = request.after(next),
                None => break,
            }
        }
        assert!(found == ids, "{} of {}", found.len(), ids.len());
        assert!(pages > 1, "one page proves nothing");
    }
}

#[tokio::test]
async fn large_items_are_listed_and_deleted_to_the_last() {
    let table = fresh_table("volume").await;
    let (store, client) = (table.store(), client_for(&endpoint()));
    let mut items = vec![entity("top", None, 60_000)];
    items.extend((0..300).map(|i| limit("top", i)));
    items.extend((0..30).map(|i| entity(&format!("child-{i}"), Some("top"), 60_000)));
    put_all(&client, table.name(), items, 20).await;

    let (mut children, mut request) = (BTreeSet::new(), PageRequest::default());
    loop {
        let page = store.read_children("top", &request).await.unwrap();
        children.extend(page.items.into_iter().map(|child| child.id));
        match page.next {
            Some(next) => request = request.after(next),
            None => break,
        }
    }
    assert_eq!(children.len(), 30);
    let owner = LimitOwner::Entity("top".into());
    let sets = store.read_limits(&owner).await.unwrap();
    assert_eq!(sets[0].1.len(), 300);

    let now = Clock::system().wall();
    let event = AuditEvent::new(AuditAction::EntityDeleted, "top", now);
    assert!(store.delete_entity("top", &event).await.unwrap());
    let query = client
        .query()
        .table_name(table.name())
        .consistent_read(true);
    let query = query.key_condition_expression("PK = :p");
    let left = query.expression_attribute_values(":p", s("ENTITY#top"));
    assert_eq!(left.send().await.unwrap().count, 0);
    let page = store
        .read_children("top", &PageRequest::default())
        .await
        .unwrap();
    assert!(!page.items.is_empty(), "children stay");
    let events = store
        .read_audit_events("top", &PageRequest::default())
        .await;
    assert_eq!(events.unwrap().items, [event]);
}
