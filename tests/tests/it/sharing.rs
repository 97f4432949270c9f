//! A table shared with the Python library 0.2.0: each side reads what the other wrote.

use std::process::Command;

use serde_json::{Value, json};
use zae_limiter::store::{DynamoDbStore, EntityWrite, Store};
use zae_limiter::{
    AuditAction, AuditEvent, Clock, Entity, Limit, LimitScope, Mode, PageRequest, RateLimiter,
    VersionRecord,
};
use zae_limiter_core::BucketKey;
use zae_limiter_tests::{REGION, endpoint, fresh_table};

/// What the Python side does; what it saw.
fn python(step: &str, table: &str) -> Value {
    let python = std::env::var("ZAE_LIMITER_TEST_PYTHON").expect(
        "ZAE_LIMITER_TEST_PYTHON is not set; run tests/run, or set it to the path that \
         tests/python/install.sh prints",
    );
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/python/sharing.py");
    let run = Command::new(&python)
        .args([script, step, table, &endpoint()])
        .env("AWS_ACCESS_KEY_ID", "test")
        .env("AWS_SECRET_ACCESS_KEY", "test")
        .env("AWS_REGION", REGION)
        .output();
    let run = run.unwrap_or_else(|error| {
        panic!("{python} does not run: {error}; run tests/python/install.sh again")
    });
    let errors = String::from_utf8_lossy(&run.stderr);
    assert!(
        run.status.success(),
        "{step} failed on the Python side:\n{errors}"
    );
    serde_json::from_slice(&run.stdout).unwrap()
}

fn event_of(action: AuditAction, id: &str) -> AuditEvent {
    AuditEvent::new(action, id, Clock::system().wall())
}

async fn limits(store: &DynamoDbStore, scope: &LimitScope) -> Vec<Limit> {
    let sets = store.read_limits(&scope.owner()).await.unwrap();
    let own = sets.into_iter().find(|(found, _)| found == scope);
    own.map(|(_, limits)| limits).unwrap_or_default()
}

/// A limit as the Python side shows it.
fn shown(limit: &Limit) -> Value {
    json!({
        "name": limit.name(),
        "capacity": limit.capacity(),
        "burst": limit.burst_tokens(),
        "refill_amount": limit.refill_amount(),
        "refill_period_seconds": limit.refill_period().as_secs(),
    })
}

fn scope(id: &str) -> LimitScope {
    LimitScope::entity(id).unwrap()
}

#[tokio::test]
async fn what_the_python_library_writes_is_read() {
    let table = fresh_table("shared").await;
    let store = table.store();
    python("write", table.name());

    let top = store.read_entity("py-top").await.unwrap().unwrap();
    assert_eq!((top.name.as_str(), &top.parent_id), ("Top", &None));
    assert_eq!(
        (
            top.metadata["plan"].as_str(),
            top.metadata["größe"].as_str()
        ),
        ("pro", "ü")
    );
    assert!(!top.cascade);
    let children = store
        .read_children("py-top", &PageRequest::default())
        .await
        .unwrap();
    let child = store.read_entity("py-child").await.unwrap().unwrap();
    assert_eq!(child.name, "py-child");
    assert_eq!(children.items, [child]);
    assert_eq!(store.read_entity("py-gone").await.unwrap(), None);

    let rpm = Limit::per_minute("rpm", 100).unwrap();
    let tpm = Limit::per_minute("tpm", 10_000)
        .unwrap()
        .burst(50_000)
        .unwrap();
    assert_eq!(
        limits(&store, &scope("py-top")).await,
        [rpm.clone(), tpm.clone()]
    );
    assert_eq!(
        limits(&store, &scope("py-top").on("gpt-4").unwrap()).await,
        std::slice::from_ref(&rpm)
    );
    assert_eq!(
        limits(&store, &scope("py-child")).await,
        std::slice::from_ref(&tpm)
    );
    assert!(
        limits(&store, &scope("py-child").on("gpt-4").unwrap())
            .await
            .is_empty()
    );
    assert_eq!(limits(&store, &scope("py-many")).await.len(), 45);

    let events = store
        .read_audit_events("py-child", &PageRequest::default())
        .await;
    let events = events.unwrap().items;
    use AuditAction::{EntityCreated, EntityDeleted, LimitsDeleted, LimitsSet};
    let mut actions: Vec<_> = events.iter().map(|event| event.action.clone()).collect();
    // Its identifiers do not order what happens within a millisecond.
    actions.sort_by_key(ToString::to_string);
    assert_eq!(
        actions,
        [EntityCreated, LimitsDeleted, LimitsSet, LimitsSet]
    );
    let by_alice = events
        .iter()
        .find(|event| event.principal.is_some())
        .unwrap();
    assert_eq!(by_alice.principal.as_deref(), Some("alice@example.com"));
    assert_eq!(by_alice.details["limits"], json!([shown(&tpm)]));
    let gone = store
        .read_audit_events("py-gone", &PageRequest::default())
        .await;
    assert!(
        gone.unwrap()
            .items
            .iter()
            .any(|event| event.action == EntityDeleted)
    );

    let version = store.read_version().await.unwrap().unwrap();
    assert_eq!(version.schema_version, "1.0.0");
    assert_eq!(version.client_min_version.as_deref(), Some("0.0.0"));
    assert_eq!(version.updated_by.as_deref(), Some("python"));
    let ours = VersionRecord {
        updated_by: None,
        ..version.clone()
    };
    assert!(store.write_version(&ours, Some(&version)).await.unwrap());

    // Its buckets are in the index of ours, and are passed over.
    let buckets = store
        .read_resource_buckets("gpt-4", &PageRequest::default())
        .await;
    assert!(buckets.unwrap().items.is_empty());
    let key = BucketKey::new("py-child", "gpt-4").unwrap();
    assert_eq!(store.read_bucket(&key).await.unwrap(), None);

    // Its sets can be replaced, however large, and its entities changed and deleted.
    let ours = [rpm];
    let written = event_of(LimitsSet, "py-many");
    assert!(
        store
            .write_limits(&scope("py-many"), &ours, &written)
            .await
            .unwrap()
    );
    assert_eq!(limits(&store, &scope("py-many")).await, ours);
    let deleted = event_of(EntityDeleted, "py-top");
    assert!(store.delete_entity("py-top", &deleted).await.unwrap());
    assert_eq!(store.read_entity("py-top").await.unwrap(), None);
    assert!(limits(&store, &scope("py-top")).await.is_empty());
}

#[tokio::test]
async fn what_is_written_here_the_python_library_reads() {
    let table = fresh_table("shared").await;
    let store = table.store();
    let top = Entity {
        id: "rs-top".into(),
        name: "Top".into(),
        parent_id: None,
        metadata: [("plan".to_owned(), "größe".to_owned())].into(),
        created_at: "2026-01-01T00:00:00Z".into(),
        cascade: false,
    };
    let child = Entity {
        id: "rs-child".into(),
        parent_id: Some("rs-top".into()),
        cascade: true,
        ..top.clone()
    };
    for entity in [&top, &child] {
        let created = event_of(AuditAction::EntityCreated, &entity.id);
        let written = store.create_entity(entity, &created).await;
        assert_eq!(written.unwrap(), EntityWrite::Done);
    }
    let own = [Limit::per_day("rpd", 1).unwrap()];
    let default = [
        Limit::per_minute("rpm", 10).unwrap(),
        Limit::per_minute("tpm", 10).unwrap().burst(20).unwrap(),
    ];
    let own_scope = scope("rs-child").on("gpt-4").unwrap();
    let written = event_of(AuditAction::LimitsSet, "rs-child")
        .principal("alice")
        .resource("gpt-4")
        .detail("limits", json!([shown(&own[0])]));
    assert!(
        store
            .write_limits(&own_scope, &own, &written)
            .await
            .unwrap()
    );
    let by_default = event_of(AuditAction::LimitsSet, "rs-child");
    assert!(
        store
            .write_limits(&scope("rs-child"), &default, &by_default)
            .await
            .unwrap()
    );
    let record = VersionRecord {
        schema_version: "1.0.0".into(),
        lambda_version: None,
        client_min_version: None,
        updated_at: "2026-01-01T00:00:00Z".into(),
        updated_by: Some("rust".into()),
    };
    assert!(store.write_version(&record, None).await.unwrap());

    let seen = python("read", table.name());
    let entity = |entity: &Entity| {
        json!({
            "id": entity.id, "name": entity.name, "parent_id": entity.parent_id,
            "metadata": entity.metadata, "created_at": entity.created_at,
        })
    };
    assert_eq!(
        seen["entities"],
        json!([entity(&top), entity(&child), null])
    );
    assert_eq!(seen["children"], json!(["rs-child"]));
    assert_eq!(seen["own"], json!(own.each_ref().map(shown)));
    assert_eq!(seen["default"], json!(default.each_ref().map(shown)));
    assert_eq!(
        seen["refused"],
        json!(["rpd"]),
        "its acquires go by our limits"
    );
    let shown_event = |event: &AuditEvent| {
        json!({
            "event_id": event.event_id, "timestamp": event.timestamp,
            "action": event.action, "entity_id": event.entity_id,
            "principal": event.principal, "resource": event.resource, "details": event.details,
        })
    };
    let events = seen["events"].as_array().unwrap();
    assert_eq!(events.len(), 3);
    assert_eq!(
        events[..2],
        [shown_event(&by_default), shown_event(&written)]
    );
    assert_eq!(seen["version"]["schema_version"], "1.0.0");
    assert_eq!(seen["version"]["updated_by"], "rust");

    python("replace", table.name());
    let tpm = Limit::per_minute("tpm", 10_000)
        .unwrap()
        .burst(50_000)
        .unwrap();
    assert_eq!(limits(&store, &own_scope).await, [tpm]);
    assert!(limits(&store, &scope("rs-child")).await.is_empty());
    let written = event_of(AuditAction::LimitsSet, "rs-child");
    assert!(
        store
            .write_limits(&own_scope, &own, &written)
            .await
            .unwrap()
    );
    assert_eq!(
        python("read", table.name())["own"],
        json!(own.each_ref().map(shown))
    );

    assert_eq!(python("delete", table.name())["left"], Value::Null);
    assert_eq!(store.read_entity("rs-child").await.unwrap(), None);
    assert!(limits(&store, &own_scope).await.is_empty());
}

#[tokio::test]
async fn a_refusal_is_told_as_the_python_library_tells_it() {
    let table = fresh_table("shared").await;
    let theirs = python("refuse", table.name());
    let limiter = RateLimiter::builder("shared").store(table.store());
    let limiter = limiter.mode(Mode::Strict).connect().await.unwrap();
    let rpd = Limit::per_day("rpd", 100).unwrap().burst(150).unwrap();
    let limits = [rpd, Limit::per_day("tpd", 1_000).unwrap()];
    let acquire = || limiter.acquire("py-refused", "gpt-4").limits(&limits);
    let lease = acquire().consume("rpd", 40).consume("tpd", 7).await;
    drop(lease.unwrap());
    let refused = acquire().consume("rpd", 120).consume("tpd", 3).await;
    let refused = refused.map(drop).unwrap_err();
    let exceeded = refused.as_exceeded().unwrap();
    let (ours, theirs_body) = (exceeded.as_json(), &theirs["body"]);

    // Ten tokens of a hundred a day are missing, or hardly less; what takes time to come takes
    // time to ask for.
    let waits = |body: &Value, at: &str| body.pointer(at).unwrap().as_f64().unwrap();
    for (at, unit) in [
        ("/retry_after_seconds", 1.0),
        ("/retry_after_ms", 1_000.0),
        ("/limits/0/retry_after_seconds", 1.0),
    ] {
        for body in [&ours, theirs_body] {
            let seconds = waits(body, at) / unit;
            assert!((8_500.0..=8_641.0).contains(&seconds), "{at}: {body}");
        }
    }
    let header: f64 = exceeded.retry_after_header().parse().unwrap();
    assert!((0.0..1.0).contains(&(header - waits(&ours, "/retry_after_seconds"))));
    assert!(theirs["retry_after"].is_string());
    let told = |body: &Value| {
        let mut body = body.clone();
        let message = body["message"].take();
        let message = message.as_str().unwrap().to_lowercase();
        assert!(
            message.starts_with("rate limit exceeded for py-refused/gpt-4: [rpd]"),
            "{message}"
        );
        body["retry_after_seconds"] = Value::Null;
        body["retry_after_ms"] = Value::Null;
        body["limits"][0]["retry_after_seconds"] = Value::Null;
        body
    };
    assert_eq!(told(&ours), told(theirs_body));
}

/// B10 of the Python library.
#[tokio::test]
async fn each_side_connects_to_a_table_with_the_version_record_of_the_other() {
    let table = fresh_table("shared").await;
    let connect = || {
        RateLimiter::builder("shared")
            .store(table.store())
            .connect()
    };
    let theirs = python("connect", table.name());
    assert_eq!(theirs["schema_version"], "1.0.0");
    connect().await.unwrap();
    let record = table.store().read_version().await.unwrap().unwrap();
    assert_eq!(record.updated_by.as_deref(), theirs["updated_by"].as_str());
    // It does not know its own version (B10).
    let deployed = python("deployed", table.name());
    assert_eq!(deployed["lambda_version"], "0.0.0+unknown");
    connect().await.unwrap();

    let table = fresh_table("shared").await;
    let ours = RateLimiter::builder("shared").store(table.store());
    ours.connect().await.unwrap();
    let ours = table.store().read_version().await.unwrap().unwrap();
    let seen = python("connect", table.name());
    assert_eq!(seen["updated_by"].as_str(), ours.updated_by.as_deref());
    assert_eq!(seen["client_min_version"], "0.0.0");
}
