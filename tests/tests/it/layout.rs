//! The items that are in the table, attribute by attribute.

use std::collections::{BTreeMap, HashMap};

use aws_sdk_dynamodb::types::AttributeValue;
use serde_json::json;
use zae_limiter::store::{EntityWrite, Store};
use zae_limiter::{AuditAction, AuditEvent, Clock, Entity, Limit, LimitScope, VersionRecord};
use zae_limiter_core::item::{BucketWrite, Kept, LimitAction, LimitItem, LimitWrite};
use zae_limiter_core::{BucketKey, Terms};
use zae_limiter_tests::{client_for, endpoint, fresh_table};

type Item = HashMap<String, AttributeValue>;

const NULL: AttributeValue = AttributeValue::Null(true);

fn s(text: &str) -> AttributeValue {
    AttributeValue::S(text.into())
}

fn n(number: i64) -> AttributeValue {
    AttributeValue::N(number.to_string())
}

fn item<const N: usize>(attributes: [(&str, AttributeValue); N]) -> Item {
    attributes
        .map(|(name, value)| (name.to_owned(), value))
        .into()
}

fn m<const N: usize>(fields: [(&str, AttributeValue); N]) -> AttributeValue {
    AttributeValue::M(item(fields))
}

/// All that is in the table, by key.
async fn all(table: &str) -> BTreeMap<(String, String), Item> {
    let scan = client_for(&endpoint())
        .scan()
        .table_name(table)
        .send()
        .await;
    let key = |item: &Item| ["PK", "SK"].map(|name| item[name].as_s().unwrap().clone());
    let items = scan.unwrap().items.unwrap().into_iter();
    items.map(|item| (key(&item).into(), item)).collect()
}

#[tokio::test]
async fn a_bucket() {
    let table = fresh_table("layout").await;
    let terms = Terms {
        capacity: 10,
        burst: 10,
        refill_amount: 10,
        refill_period_seconds: 60,
    };
    let limit = LimitItem {
        terms,
        z: 0,
        consumed: 1,
        ring: None,
    };
    let write = BucketWrite {
        incarnation: None,
        limits: vec![LimitWrite {
            name: "rpm".into(),
            action: LimitAction::Create(limit),
        }],
        sequence_from: 1_767_225_600_000_000,
        consumed_at_ms: 1_767_225_600_123,
        kept: Kept::Until(4_000_000_000),
    };
    let key = BucketKey::new("user-1", "api").unwrap();
    table.store().write_bucket(&key, &write).await;
    let terms = m([
        ("capacity", n(10)),
        ("burst", n(10)),
        ("refill_amount", n(10)),
        ("refill_period_seconds", n(60)),
    ]);
    let limit = m([("z", n(0)), ("consumed", n(1)), ("terms", terms)]);
    let expected = item([
        ("PK", s("ENTITY#user-1")),
        ("SK", s("#BUCKET#api")),
        ("entity_id", s("user-1")),
        ("resource", s("api")),
        ("GSI2PK", s("RESOURCE#api")),
        ("GSI2SK", s("BUCKET#user-1")),
        ("ttl", n(4_000_000_000)),
        ("inc", n(1_767_225_600_000_000)),
        ("seq", n(1_767_225_600_000_001)),
        ("consumed_at_ms", n(1_767_225_600_123)),
        ("limit#rpm", limit),
    ]);
    assert_eq!(
        all(table.name()).await.into_values().collect::<Vec<_>>(),
        [expected]
    );

    let client = client_for(&endpoint());
    let buckets = client.query().table_name(table.name()).index_name("GSI2");
    let buckets = buckets
        .key_condition_expression("GSI2PK = :r")
        .expression_attribute_values(":r", s("RESOURCE#api"));
    let buckets = buckets.send().await.unwrap();
    assert_eq!(buckets.count, 1);
    assert!(!buckets.items()[0].contains_key("limit#rpm"), "keys only");
}

#[tokio::test]
async fn entities_with_their_events() {
    let table = fresh_table("layout").await;
    let store = table.store();
    let top = Entity {
        id: "project-1".into(),
        name: "Project 1".into(),
        parent_id: None,
        metadata: BTreeMap::from([("team".into(), "x".into())]),
        created_at: "2026-01-01T00:00:00Z".into(),
        cascade: false,
    };
    let child = Entity {
        id: "user-1".into(),
        parent_id: Some("project-1".into()),
        cascade: true,
        ..top.clone()
    };
    let mut event = AuditEvent::new(AuditAction::EntityCreated, "user-1", Clock::system().wall())
        .principal("alice")
        .detail(
            "limits",
            json!([{ "capacity": 5, "name": "rpm", "burst": null }]),
        );
    event.timestamp = "2026-01-01T00:00:00Z".into();
    for entity in [&top, &child] {
        let written = store.create_entity(entity, &event).await;
        assert_eq!(written.unwrap(), EntityWrite::Done);
    }
    let mut found = all(table.name()).await.into_values();
    let details = m([("capacity", n(5)), ("name", s("rpm")), ("burst", NULL)]);
    let data = m([
        ("event_id", s(&event.event_id)),
        ("timestamp", s("2026-01-01T00:00:00Z")),
        ("action", s("entity_created")),
        ("entity_id", s("user-1")),
        ("principal", s("alice")),
        ("resource", NULL),
        ("details", m([("limits", AttributeValue::L(vec![details]))])),
    ]);
    let expected = item([
        ("PK", s("AUDIT#user-1")),
        ("SK", s(&format!("#AUDIT#{}", event.event_id))),
        ("entity_id", s("user-1")),
        ("data", data),
        ("ttl", n(1_767_225_600 + 90 * 86_400)),
    ]);
    assert_eq!(found.next(), Some(expected));
    let data = [
        ("name", s("Project 1")),
        ("metadata", m([("team", s("x"))])),
        ("created_at", s("2026-01-01T00:00:00Z")),
    ];
    let mut top_data = item(data.clone());
    top_data.insert("parent_id".into(), NULL);
    let expected = item([
        ("PK", s("ENTITY#project-1")),
        ("SK", s("#META")),
        ("entity_id", s("project-1")),
        ("data", AttributeValue::M(top_data)),
    ]);
    assert_eq!(found.next(), Some(expected));
    let mut child_data = item(data);
    child_data.insert("parent_id".into(), s("project-1"));
    child_data.insert("cascade".into(), AttributeValue::Bool(true));
    let expected = item([
        ("PK", s("ENTITY#user-1")),
        ("SK", s("#META")),
        ("entity_id", s("user-1")),
        ("GSI1PK", s("PARENT#project-1")),
        ("GSI1SK", s("CHILD#user-1")),
        ("data", AttributeValue::M(child_data)),
    ]);
    assert_eq!(found.next(), Some(expected));
    assert_eq!(found.next(), None);
}

#[tokio::test]
async fn stored_limits_and_the_version_record() {
    let table = fresh_table("layout").await;
    let store = table.store();
    let entity = LimitScope::entity("user-1").unwrap();
    let limit = [Limit::per_minute("rpm", 7)
        .and_then(|l| l.burst(9))
        .unwrap()];
    for (scope, pk, resource, id) in [
        (
            entity.clone().on("gpt-4").unwrap(),
            "ENTITY#user-1",
            "gpt-4",
            Some("user-1"),
        ),
        (entity, "ENTITY#user-1", "_default_", Some("user-1")),
        (
            LimitScope::resource("gpt-4").unwrap(),
            "RESOURCE#gpt-4",
            "gpt-4",
            None,
        ),
        (LimitScope::system(), "SYSTEM#", "_default_", None),
    ] {
        let audit_id = scope.owner().audit_id();
        let event = AuditEvent::new(AuditAction::LimitsSet, audit_id, Clock::system().wall());
        assert!(store.write_limits(&scope, &limit, &event).await.unwrap());
        let mut found = all(table.name()).await;
        let mut take = |sk: String| found.remove(&(pk.to_owned(), sk)).unwrap();
        let head = take(format!("#LIMITS#{resource}"));
        let limit = take(format!("#LIMIT#{resource}#rpm"));
        let set_id = head["data"].as_m().unwrap()["set_id"].clone();
        assert_eq!(set_id.as_s().unwrap().len(), 26);
        let with_id = |mut item: Item| {
            if let Some(id) = id {
                item.insert("entity_id".into(), s(id));
            }
            item
        };
        let data = m([
            ("resource", s(resource)),
            ("limit_name", s("rpm")),
            ("capacity", n(7)),
            ("burst", n(9)),
            ("refill_amount", n(7)),
            ("refill_period_seconds", n(60)),
            ("set_id", set_id.clone()),
        ]);
        let sk = s(&format!("#LIMIT#{resource}#rpm"));
        assert_eq!(
            limit,
            with_id(item([("PK", s(pk)), ("SK", sk), ("data", data)]))
        );
        let data = m([
            ("resource", s(resource)),
            ("set_id", set_id),
            ("set_size", n(1)),
        ]);
        let sk = s(&format!("#LIMITS#{resource}"));
        assert_eq!(
            head,
            with_id(item([("PK", s(pk)), ("SK", sk), ("data", data)]))
        );
    }
    let record = VersionRecord {
        schema_version: "1.0.0".into(),
        lambda_version: None,
        client_min_version: Some("0.0.0".into()),
        updated_at: "2026-01-01T00:00:00Z".into(),
        updated_by: None,
    };
    assert!(store.write_version(&record, None).await.unwrap());
    let mut found = all(table.name()).await;
    let data = m([
        ("schema_version", s("1.0.0")),
        ("lambda_version", NULL),
        ("client_min_version", s("0.0.0")),
        ("updated_at", s("2026-01-01T00:00:00Z")),
        ("updated_by", NULL),
    ]);
    let expected = item([("PK", s("SYSTEM#")), ("SK", s("#VERSION")), ("data", data)]);
    assert_eq!(
        found.remove(&("SYSTEM#".into(), "#VERSION".into())),
        Some(expected)
    );
}
