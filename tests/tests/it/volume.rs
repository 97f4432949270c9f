//! More than fits a page: nothing is left out, and nothing is left over.

use std::collections::{BTreeSet, HashMap};

use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::types::{AttributeValue, PutRequest, WriteRequest};
use futures::StreamExt;
use zae_limiter::store::Store;
use zae_limiter::{
    AuditAction, AuditEvent, Clock, Limit, LimitOwner, LimitScope, NewEntity, PageRequest,
    RateLimiter,
};
use zae_limiter_tests::{FreshTable, client_for, endpoint, fresh_table};

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

async fn limiter(table: &FreshTable) -> RateLimiter {
    let builder = RateLimiter::builder("volume").store(table.store());
    builder.connect().await.unwrap()
}

/// The keys of all items of entities in the table, or in one of its indexes.
async fn of_entities(client: &Client, table: &str, index: Option<&str>) -> Vec<[String; 2]> {
    let scan = client.scan().table_name(table);
    let scan = scan.set_index_name(index.map(Into::into));
    let mut items = scan.into_paginator().items().send();
    let mut found = Vec::new();
    while let Some(item) = items.next().await {
        let item = item.unwrap();
        let key = ["PK", "SK"].map(|name| item[name].as_s().unwrap().clone());
        found.extend(key[0].starts_with("ENTITY#").then_some(key));
    }
    found
}

/// B7 of the Python library.
#[tokio::test]
async fn thousands_of_children_are_listed_and_deleted() {
    let table = fresh_table("children").await;
    let (limiter, client) = (limiter(&table).await, client_for(&endpoint()));
    let ids: Vec<_> = (0..5_000).map(|i| format!("child-{i:04}")).collect();
    let mut items = vec![entity("top", None, 400)];
    items.extend(ids.iter().map(|id| entity(id, Some("top"), 400)));
    put_all(&client, table.name(), items, 25).await;

    let children = limiter.get_children("top").await.unwrap();
    let found = children.into_iter().map(|child| child.id);
    assert!(found.eq(ids.iter().cloned()));
    for size in [u32::MAX, 999] {
        let (mut request, mut found, mut pages) = (PageRequest::default().size(size), vec![], 0);
        loop {
            let page = limiter.list_children("top", &request).await.unwrap();
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

    let deletions = ids.iter().map(|id| limiter.delete_entity(id));
    let mut deletions = futures::stream::iter(deletions).buffer_unordered(16);
    while let Some(deleted) = deletions.next().await {
        deleted.unwrap();
    }
    assert_eq!(limiter.get_children("top").await.unwrap(), []);
    let left = of_entities(&client, table.name(), None).await;
    assert_eq!(left, [["ENTITY#top", "#META"]]);
    let left = of_entities(&client, table.name(), Some("GSI1")).await;
    assert!(left.is_empty(), "{left:?}");
}

/// B7 of the Python library. As many as fit a set, of as many resources as it takes.
#[tokio::test]
async fn hundreds_of_limits_go_with_their_entity() {
    let table = fresh_table("volume").await;
    let (limiter, client) = (limiter(&table).await, client_for(&endpoint()));
    for id in ["top", "other"] {
        let created = NewEntity::new(id).metadata("note", "x".repeat(60_000));
        limiter.create_entity(created).await.unwrap();
    }
    let long = |what: &str, i: usize| format!("{what}-{i:02}-{}", "x".repeat(50));
    let limits: Vec<_> = (0..15)
        .map(|i| Limit::per_minute(&long("limit", i), 100 + i as u64).unwrap())
        .collect();
    let scope = |i| LimitScope::entity("top").and_then(|scope| scope.on(long("resource", i)));
    let scopes: Vec<_> = (0..20).map(|i| scope(i).unwrap()).collect();
    for scope in &scopes {
        limiter.set_limits(scope, &limits).await.unwrap();
    }

    let owner = LimitOwner::Entity("top".into());
    let sets = table.store().read_limits(&owner).await.unwrap();
    assert!(sets.iter().map(|(scope, _)| scope).eq(&scopes));
    assert_eq!(sets.iter().map(|(_, set)| set.len()).sum::<usize>(), 300);
    for scope in &scopes {
        assert_eq!(limiter.get_limits(scope).await.unwrap(), limits);
    }

    let before = of_entities(&client, table.name(), None).await;
    assert!(before.len() > 300, "{}", before.len());
    limiter.delete_entity("top").await.unwrap();
    let left = of_entities(&client, table.name(), None).await;
    assert_eq!(left, [["ENTITY#other", "#META"]]);
    for scope in &scopes {
        assert_eq!(limiter.get_limits(scope).await.unwrap(), []);
    }
}

/// B7 of the Python library.
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
