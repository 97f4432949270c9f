//! What all entities have left of a resource: added up right, and complete.

use std::sync::Arc;
use std::time::{Duration, Instant};

use aws_sdk_dynamodb::types::AttributeValue;
use zae_limiter::store::{DynamoDbStore, FaultyStore, MemoryStore, Store};
use zae_limiter::{ErrorKind, Limit, Mode, NewEntity, PageRequest, RateLimiter, ResourceCapacity};
use zae_limiter_tests::{client_for, endpoint, fresh_table};

use crate::volume::{Item, put_all};

async fn limiter(store: impl Store) -> RateLimiter {
    let limiter = RateLimiter::builder("capacity").store(store);
    limiter.mode(Mode::Strict).connect().await.expect("a table")
}

/// So slow that what flows in during a test does not matter.
fn limits() -> [Limit; 2] {
    [
        Limit::per_day("rpd", 10).expect("a limit"),
        Limit::per_day("tpd", 1_000)
            .and_then(|limit| limit.burst(2_000))
            .expect("a limit"),
    ]
}

/// The capacity, once the index has caught up with so many entities.
async fn of(
    limiter: &RateLimiter,
    limit: &str,
    parents: bool,
    entities: usize,
) -> ResourceCapacity {
    let begun = Instant::now();
    loop {
        let found = limiter.get_resource_capacity("gpt-4", limit, parents).await;
        let found = found.expect("a table");
        if found.entities.len() == entities || begun.elapsed() > Duration::from_secs(20) {
            return found;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

fn told(capacity: &ResourceCapacity) -> Vec<(&str, u64, i64)> {
    let entities = capacity.entities.iter();
    entities
        .map(|e| (e.entity_id.as_str(), e.capacity, e.available))
        .collect()
}

async fn what_is_left_is_added_up(store: Arc<dyn Store>) {
    let limiter = limiter(FaultyStore::over(store)).await;
    limiter
        .create_entity(NewEntity::new("project"))
        .await
        .expect("new");
    let key = NewEntity::new("key").parent("project");
    limiter.create_entity(key).await.expect("new");
    let limits = limits();
    let acquire = |id, resource| limiter.acquire(id, resource).limits(&limits);
    let consume = acquire("key", "gpt-4").consume("rpd", 3).consume("tpd", 10);
    consume.cascade(true).await.map(drop).expect("tokens");
    let mut lease = acquire("nobody", "gpt-4")
        .consume("rpd", 1)
        .await
        .expect("tokens");
    lease.adjust("rpd", 14).await.expect("debt");
    let other = acquire("other", "gpt-4.1").consume("rpd", 1);
    other.await.map(drop).expect("tokens");

    let all = of(&limiter, "rpd", false, 3).await;
    assert_eq!(
        told(&all),
        [("key", 10, 7), ("nobody", 10, -5), ("project", 10, 7)]
    );
    assert_eq!((all.total_capacity, all.total_available), (30, 9));
    assert!((all.utilization_pct() - 70.0).abs() < 1e-9);
    assert!((all.entities[1].utilization_pct() - 150.0).abs() < 1e-9);
    // Only who was created can be a parent.
    let parents = of(&limiter, "rpd", true, 1).await;
    assert_eq!(told(&parents), [("project", 10, 7)]);
    // A bucket has a limit once it was charged for it. What is above the capacity is not used.
    let tokens = of(&limiter, "tpd", false, 2).await;
    assert_eq!(
        told(&tokens),
        [("key", 1_000, 1_990), ("project", 1_000, 1_990)]
    );
    assert!(tokens.utilization_pct().abs() < 1e-9);
    let none = of(&limiter, "rph", false, 0).await;
    assert_eq!((none.entities.len(), none.total_capacity), (0, 0));
    assert!(none.utilization_pct().abs() < 1e-9);

    for (resource, limit) in [("a#b", "rpd"), ("gpt-4", "")] {
        let error = limiter.get_resource_capacity(resource, limit, false).await;
        assert_eq!(error.expect_err("no name").kind(), ErrorKind::Validation);
    }
}

#[tokio::test]
async fn in_memory() {
    what_is_left_is_added_up(Arc::new(MemoryStore::new())).await;
}

#[tokio::test]
async fn on_a_table() {
    let table = fresh_table("capacity").await;
    what_is_left_is_added_up(Arc::new(table.store())).await;
}

fn s(text: impl Into<String>) -> AttributeValue {
    AttributeValue::S(text.into())
}

/// The buckets of as many entities, like the one of `user`, each with `note` more bytes.
async fn copies(store: &DynamoDbStore, user: &str, ids: &[String], note: usize) -> Vec<Item> {
    let get = client_for(&endpoint())
        .get_item()
        .table_name(store.table_name());
    let get = get
        .key("PK", s(format!("ENTITY#{user}")))
        .key("SK", s("#BUCKET#gpt-4"));
    let item = get.send().await.expect("an answer").item.expect("a bucket");
    let copy = |id: &String| {
        let mut item = item.clone();
        item.insert("PK".into(), s(format!("ENTITY#{id}")));
        item.insert("entity_id".into(), s(id));
        item.insert("GSI2SK".into(), s(format!("BUCKET#{id}")));
        item.insert("note".into(), s("x".repeat(note)));
        item
    };
    ids.iter().map(copy).collect()
}

/// More than a page of the index holds, more keys than one request reads, and more bytes than
/// one answer carries.
#[tokio::test]
async fn however_many_and_however_large_none_is_left_out() {
    for (count, note, batch) in [(1_200, 0, 25), (130, 180_000, 15)] {
        let table = fresh_table("capacity").await;
        let (store, client) = (table.store(), client_for(&endpoint()));
        let limiter = limiter(FaultyStore::new(store.clone())).await;
        let limits = limits();
        let first = limiter.acquire("entity-0000", "gpt-4").limits(&limits);
        first.consume("rpd", 4).await.map(drop).expect("tokens");
        let id = |i| format!("entity-{i:04}-{}", "x".repeat(240));
        let ids: Vec<_> = (1..count).map(id).collect();
        let copies = copies(&store, "entity-0000", &ids, note).await;
        put_all(&client, table.name(), copies, batch).await;
        let all = of(&limiter, "rpd", false, count).await;
        assert_eq!(all.entities.len(), count);
        let expected = (10 * count as u64, 6 * count as i64);
        assert_eq!((all.total_capacity, all.total_available), expected);
        assert!(all.entities.is_sorted_by(|a, b| a.entity_id < b.entity_id));

        let mut request = PageRequest::default().size(7);
        for _ in 0..3 {
            let page = limiter.list_resource_capacity("gpt-4", "rpd", false, &request);
            let page = page.await.expect("a page");
            assert!((1..=7).contains(&page.items.len()));
            request = request.after(page.next.expect("more"));
        }
    }
}

#[tokio::test]
async fn parents_are_found_in_a_read_per_page_and_not_in_one_per_bucket() {
    let store = FaultyStore::new(MemoryStore::new());
    let limiter = limiter(store.clone()).await;
    let limits = limits();
    for i in 0..1_200 {
        let id = format!("entity-{i:04}");
        let entity = NewEntity::new(&id);
        let entity = match i % 3 {
            0 => entity,
            _ => entity.parent("entity-0000"),
        };
        limiter.create_entity(entity).await.expect("new");
        let acquire = limiter.acquire(&id, "gpt-4").limits(&limits);
        acquire.consume("rpd", 1).await.map(drop).expect("tokens");
    }
    store.reset();
    let parents = limiter.get_resource_capacity("gpt-4", "rpd", true).await;
    assert_eq!(parents.expect("a table").entities.len(), 400);
    assert!(
        store.reads() <= 2 * 1_200_u64.div_ceil(500),
        "{} reads",
        store.reads()
    );
}
