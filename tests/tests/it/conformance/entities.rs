//! Entities. Each case begins with an empty table.

use std::collections::BTreeMap;
use std::sync::Arc;

use zae_limiter::store::{EntityWrite, Store};
use zae_limiter::{Entity, EntityChange, Limit, LimitScope};
use zae_limiter_core::BucketKey;

use super::{all_pages, create, event, events_of, item, once_it_is, write};

fn entity(id: &str, parent: Option<&str>) -> Entity {
    Entity {
        id: id.into(),
        name: "Größe – \"quoted\"".into(),
        parent_id: parent.map(Into::into),
        metadata: BTreeMap::from([
            ("team.name".into(), "x".into()),
            ("empty".into(), String::new()),
        ]),
        created_at: "2026-01-01T00:00:00Z".into(),
        cascade: false,
    }
}

async fn is_created(store: &Arc<dyn Store>, entity: &Entity) {
    let written = store.create_entity(entity, &event(&entity.id)).await;
    assert_eq!(written.unwrap(), EntityWrite::Done);
}

async fn changed(store: &Arc<dyn Store>, id: &str, change: EntityChange) -> EntityWrite {
    let written = store.update_entity(id, &change, &event(id)).await;
    written.unwrap()
}

fn to_parent(parent: Option<&str>) -> EntityChange {
    EntityChange {
        parent_id: Some(parent.map(Into::into)),
        ..EntityChange::default()
    }
}

async fn children(store: &Arc<dyn Store>, parent: &str) -> Vec<Entity> {
    all_pages(
        2,
        |page| async move { store.read_children(parent, &page).await },
    )
    .await
}

pub(super) async fn an_entity_comes_back_as_it_was_created(store: Arc<dyn Store>) {
    let plain = Entity {
        metadata: BTreeMap::new(),
        cascade: true,
        ..entity("plain", None)
    };
    let child = entity("key:1@a.b", Some("project-1"));
    for entity in [entity("project-1", None), child, plain] {
        is_created(&store, &entity).await;
        let found = store.read_entity(&entity.id).await.unwrap();
        assert_eq!(found, Some(entity));
    }
}

pub(super) async fn an_entity_is_created_once(store: Arc<dyn Store>) {
    let first = entity("user-1", None);
    is_created(&store, &first).await;
    let events = events_of(&store, "user-1").await;
    assert_eq!(events.len(), 1);
    // What is there already counts before what is missing.
    for parent in [None, Some("nobody")] {
        let second = entity("user-1", parent);
        let written = store.create_entity(&second, &event("user-1")).await;
        assert_eq!(written.unwrap(), EntityWrite::Exists);
    }
    let found = store.read_entity("user-1").await.unwrap();
    assert_eq!(found, Some(first));
    assert_eq!(events_of(&store, "user-1").await, events);
}

pub(super) async fn a_parent_must_be_there(store: Arc<dyn Store>) {
    let orphan = entity("user-1", Some("nobody"));
    let written = store.create_entity(&orphan, &event("user-1")).await;
    assert_eq!(written.unwrap(), EntityWrite::ParentMissing);
    assert_eq!(store.read_entity("user-1").await.unwrap(), None);
    assert!(events_of(&store, "user-1").await.is_empty());

    let alone = entity("user-1", None);
    is_created(&store, &alone).await;
    let written = changed(&store, "user-1", to_parent(Some("nobody"))).await;
    assert_eq!(written, EntityWrite::ParentMissing);
    let found = store.read_entity("user-1").await.unwrap();
    assert_eq!(found, Some(alone));
    assert_eq!(events_of(&store, "user-1").await.len(), 1);
}

pub(super) async fn an_entity_changes_only_where_it_is_told_to(store: Arc<dyn Store>) {
    let mut expected = entity("user-1", None);
    is_created(&store, &entity("project-1", None)).await;
    is_created(&store, &expected).await;
    let none = EntityChange::default;
    let all_at_once = EntityChange {
        name: Some("B".into()),
        parent_id: Some(Some("project-1".into())),
        metadata: Some(BTreeMap::from([("k".into(), "v".into())])),
        cascade: Some(true),
    };
    for (i, change) in [
        none(),
        EntityChange {
            name: Some("A".into()),
            ..none()
        },
        to_parent(Some("project-1")),
        EntityChange {
            metadata: Some(BTreeMap::new()),
            ..none()
        },
        EntityChange {
            cascade: Some(true),
            ..none()
        },
        EntityChange {
            cascade: Some(false),
            ..none()
        },
        to_parent(None),
        to_parent(None),
        all_at_once,
    ]
    .into_iter()
    .enumerate()
    {
        expected.name = change.name.clone().unwrap_or(expected.name);
        expected.parent_id = change.parent_id.clone().unwrap_or(expected.parent_id);
        expected.metadata = change.metadata.clone().unwrap_or(expected.metadata);
        expected.cascade = change.cascade.unwrap_or(expected.cascade);
        let written = changed(&store, "user-1", change).await;
        assert_eq!(written, EntityWrite::Done);
        let found = store.read_entity("user-1").await.unwrap();
        assert_eq!(found.as_ref(), Some(&expected));
        assert_eq!(events_of(&store, "user-1").await.len(), 2 + i);
    }
    for change in [none(), to_parent(None), to_parent(Some("project-1"))] {
        let written = changed(&store, "user-2", change).await;
        assert_eq!(written, EntityWrite::Missing);
    }
    assert_eq!(store.read_entity("user-2").await.unwrap(), None);
    assert!(events_of(&store, "user-2").await.is_empty());
}

pub(super) async fn children_are_listed_under_their_parent_of_today(store: Arc<dyn Store>) {
    for parent in ["a", "a.b", "c"] {
        is_created(&store, &entity(parent, None)).await;
    }
    let mut expected = Vec::new();
    for id in ["k1", "k2", "k3", "k4", "k5"] {
        let child = entity(id, Some("a"));
        is_created(&store, &child).await;
        expected.push(child);
    }
    is_created(&store, &entity("of-another", Some("a.b"))).await;
    once_it_is(&expected, || children(&store, "a")).await;
    once_it_is(&vec![], || children(&store, "c")).await;
    let pages_even = store.read_children("a.b", &Default::default()).await;
    assert_eq!(pages_even.unwrap().next, None);

    for (id, parent) in [("k2", Some("c")), ("k4", None)] {
        let written = changed(&store, id, to_parent(parent)).await;
        assert_eq!(written, EntityWrite::Done);
    }
    assert!(store.delete_entity("k5", &event("k5")).await.unwrap());
    let expected = [0, 2].map(|i| expected[i].clone()).to_vec();
    once_it_is(&expected, || children(&store, "a")).await;
    once_it_is(&vec![entity("k2", Some("c"))], || children(&store, "c")).await;
}

pub(super) async fn a_deleted_entity_is_gone_with_all_that_was_its_own(store: Arc<dyn Store>) {
    let limits = [Limit::per_minute("rpm", 10).unwrap()];
    let bucket = write([create("rpm", item(1, None))]);
    for id in ["user-1", "user-1.b", "child"] {
        is_created(&store, &entity(id, (id == "child").then_some("user-1"))).await;
        for resource in ["api", "gpt-4"] {
            let scope = LimitScope::entity(id).unwrap();
            let written = store.write_limits(&scope, &limits, &event(id)).await;
            assert!(written.unwrap());
            let scope = scope.on(resource).unwrap();
            let written = store.write_limits(&scope, &limits, &event(id)).await;
            assert!(written.unwrap());
            let key = BucketKey::new(id, resource).unwrap();
            store.write_bucket(&key, &bucket).await;
        }
    }
    let events = events_of(&store, "user-1").await.len();
    let deletion = event("user-1");
    assert!(store.delete_entity("user-1", &deletion).await.unwrap());
    assert_eq!(store.read_entity("user-1").await.unwrap(), None);
    for id in ["user-1", "user-1.b", "child"] {
        let left = id != "user-1";
        let owner = LimitScope::entity(id).unwrap().owner();
        let sets = store.read_limits(&owner).await.unwrap();
        assert_eq!(sets.len(), if left { 3 } else { 0 }, "{id}");
        let key = BucketKey::new(id, "api").unwrap();
        let bucket = store.read_bucket(&key).await.unwrap();
        assert_eq!(bucket.is_some(), left, "{id}");
    }
    let child = store.read_entity("child").await.unwrap().unwrap();
    assert_eq!(child.parent_id.as_deref(), Some("user-1"));

    // What was done stays known, and nothing is not done again.
    assert!(
        !store
            .delete_entity("user-1", &event("user-1"))
            .await
            .unwrap()
    );
    let found = events_of(&store, "user-1").await;
    assert_eq!(found.len(), events + 1);
    assert_eq!(found[0], deletion.event_id);

    // One without an item of its own, as an acquire leaves it.
    let key = BucketKey::new("stranger", "api").unwrap();
    store.write_bucket(&key, &bucket).await;
    let deletion = event("stranger");
    assert!(store.delete_entity("stranger", &deletion).await.unwrap());
    assert_eq!(store.read_bucket(&key).await.unwrap(), None);
    assert_eq!(events_of(&store, "stranger").await, [deletion.event_id]);
}
