//! Events, the version record, and a resource's buckets. Each case begins with an empty table.

use std::sync::Arc;

use serde_json::json;
use zae_limiter::store::Store;
use zae_limiter::{AuditAction, AuditEvent, Clock, Limit, LimitScope, PageRequest, VersionRecord};
use zae_limiter_core::BucketKey;

use super::{all_pages, create, event, item, once_it_is, write};

/// An event that changes nothing is not stored, so each comes with a change.
async fn is_recorded(store: &Arc<dyn Store>, event: &AuditEvent) {
    let limits = [Limit::per_second("rps", 1).unwrap()];
    let scope = LimitScope::system();
    let written = store.write_limits(&scope, &limits, event).await;
    assert!(written.unwrap());
}

async fn events(store: &Arc<dyn Store>, id: &str, size: u32) -> Vec<AuditEvent> {
    let list = |page| async move { store.read_audit_events(id, &page).await };
    all_pages(size, list).await
}

pub(super) async fn events_are_listed_newest_first(store: Arc<dyn Store>) {
    let now = Clock::system().wall();
    let mut expected = Vec::new();
    for i in 0..7 {
        let event = AuditEvent::new(AuditAction::LimitsSet, "user-1", now)
            .principal("alice@example.com")
            .resource("gpt-4")
            .detail("i", i)
            .detail(
                "limits",
                json!([{ "name": "rpm", "burst": 1.5, "to": null }]),
            );
        is_recorded(&store, &event).await;
        expected.insert(0, event);
    }
    let odd = AuditEvent::new(AuditAction::Other("moved".into()), "user-1.b", now);
    is_recorded(&store, &odd).await;
    for size in [1, 3, 7, 100] {
        assert_eq!(events(&store, "user-1", size).await, expected, "{size}");
    }
    assert_eq!(events(&store, "user-1.b", 2).await, [odd]);
    assert!(events(&store, "user", 2).await.is_empty());

    let first = PageRequest::default().size(3);
    let page = store.read_audit_events("user-1", &first).await.unwrap();
    assert_eq!(page.items, expected[..3]);
    // What comes in now belongs before what was listed, not between.
    is_recorded(&store, &event("user-1")).await;
    let second = first.after(page.next.unwrap());
    let page = store.read_audit_events("user-1", &second).await.unwrap();
    assert_eq!(page.items, expected[3..6]);
}

pub(super) async fn the_version_record_is_replaced_by_who_knows_it(store: Arc<dyn Store>) {
    assert_eq!(store.read_version().await.unwrap(), None);
    let first = VersionRecord {
        schema_version: "1.0.0".into(),
        lambda_version: None,
        client_min_version: Some("0.0.0".into()),
        updated_at: "2026-01-01T00:00:00Z".into(),
        updated_by: None,
    };
    let second = VersionRecord {
        lambda_version: Some("0.2.0".into()),
        client_min_version: None,
        updated_at: "2026-01-02T00:00:00Z".into(),
        updated_by: Some("cli".into()),
        ..first.clone()
    };
    let replace = |replaces, record| {
        let store = store.clone();
        async move { store.write_version(record, replaces).await.unwrap() }
    };
    assert!(!replace(Some(&first), &second).await, "none is there yet");
    assert!(replace(None, &first).await);
    assert!(!replace(None, &second).await);
    assert_eq!(store.read_version().await.unwrap().as_ref(), Some(&first));
    assert!(replace(Some(&first), &second).await);
    assert!(!replace(Some(&first), &first).await);
    assert_eq!(store.read_version().await.unwrap(), Some(second));
}

pub(super) async fn the_buckets_of_a_resource_are_listed(store: Arc<dyn Store>) {
    let mut expected = Vec::new();
    for (z, id) in (0..).zip(["a", "b", "c:1@x", "d", "e"]) {
        for resource in ["gpt-4", "gpt-4.1"] {
            let key = BucketKey::new(id, resource).unwrap();
            let limits = [create("rpm", item(z, None)), create("tpm", item(-z, None))];
            store.write_bucket(&key, &write(limits)).await;
        }
        let key = BucketKey::new(id, "gpt-4").unwrap();
        let bucket = store.read_bucket(&key).await.unwrap().unwrap();
        expected.push((id.to_owned(), super::sorted(bucket)));
    }
    let buckets = |resource| {
        let store = &store;
        async move {
            let list = |page| async move { store.read_resource_buckets(resource, &page).await };
            let found = all_pages(2, list).await.into_iter();
            found
                .map(|(id, item)| (id, super::sorted(item)))
                .collect::<Vec<_>>()
        }
    };
    once_it_is(&expected, || buckets("gpt-4")).await;
    once_it_is(&vec![], || buckets("gpt")).await;
    assert!(store.delete_entity("b", &event("b")).await.unwrap());
    expected.remove(1);
    once_it_is(&expected, || buckets("gpt-4")).await;
}
