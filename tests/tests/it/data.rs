//! Public data as JSON: it comes back as it was, and what breaks a rule does not come in.

use std::fmt::Debug;
use std::time::{Duration, SystemTime};

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::json;
use zae_limiter::reconciler::ShutdownReport;
use zae_limiter::store::{MemoryStore, StoreErrorKind};
use zae_limiter::{
    AuditAction, AuditEvent, Available, Clock, Compatibility, Degraded, Entity, EntityCapacity,
    EntityChange, ErrorKind, FailureMode, LeasedOptions, Limit, LimitOwner, LimitScope,
    LimitStatus, LimitUsage, Metrics, Mode, NewEntity, Page, PageRequest, PageToken, RateLimiter,
    ResourceCapacity, Settings, Share, Terms, UsageQuery, UsageSnapshot, UsageSummary,
    ValidationErrorKind, VersionRecord, Window,
};

fn comes_back<T: Serialize + DeserializeOwned + PartialEq + Debug>(value: &T) {
    let text = serde_json::to_string(value).expect("JSON");
    let back: T = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{text}: {error}"));
    assert_eq!(&back, value, "{text}");
}

fn is_refused<T: DeserializeOwned + Debug>(value: serde_json::Value, rule: &str) {
    let refused = serde_json::from_value::<T>(value.clone());
    let error = refused.expect_err(&value.to_string()).to_string();
    assert!(error.contains(rule), "{value}: {error}");
}

#[test]
fn all_public_data_comes_back_from_json_as_it_was() {
    let limit = Limit::custom("tpm", 100, 7, Duration::from_secs(13)).and_then(|l| l.burst(150));
    let limit = limit.expect("a limit");
    comes_back(limit.terms());
    comes_back(&LimitStatus {
        entity_id: "user-1".into(),
        resource: "gpt-4".into(),
        limit: limit.clone(),
        available: -7,
        requested: 3,
        exceeded: true,
        retry_after: Duration::from_nanos(1_234_567_891),
    });
    comes_back(&limit);
    let entities = vec![EntityCapacity {
        entity_id: "user-1".into(),
        capacity: 100,
        available: -7,
    }];
    comes_back(&ResourceCapacity {
        resource: "gpt-4".into(),
        limit_name: "tpm".into(),
        total_capacity: 100,
        total_available: -7,
        entities,
    });
    for age in [None, Some(Duration::from_millis(12))] {
        comes_back(&Available {
            entity_id: "user-1".into(),
            limit_name: "tpm".into(),
            in_hand: 3,
            estimate: -4,
            age,
        });
    }
    let own = LimitScope::entity("user-1").and_then(|scope| scope.on("gpt-4"));
    for scope in [LimitScope::system(), own.expect("names")] {
        comes_back(&scope.owner());
        comes_back(&scope);
    }
    comes_back(&LimitOwner::Resource("gpt-4".into()));
    comes_back(&Entity {
        id: "user-1".into(),
        name: "User 1".into(),
        parent_id: Some("project".into()),
        metadata: [("größe".to_owned(), "ü".to_owned())].into(),
        created_at: "2026-01-01T00:00:00Z".into(),
        cascade: true,
    });
    comes_back(&NewEntity::new("user-1"));
    comes_back(
        &NewEntity::new("a")
            .name("A")
            .parent("b")
            .metadata("k", "v")
            .cascade(true),
    );
    for parent_id in [None, Some(None), Some(Some("project".to_owned()))] {
        comes_back(&EntityChange {
            parent_id,
            ..EntityChange::default()
        });
    }
    let event = AuditEvent::new(AuditAction::LimitsSet, "user-1", Clock::system().wall());
    let event = event
        .principal("ada")
        .resource("gpt-4")
        .detail("limits", json!([1, null]));
    comes_back(&Page {
        items: vec![event],
        next: Some(PageToken::from("next".to_owned())),
    });
    comes_back(
        &PageRequest::default()
            .size(7)
            .after(PageToken::from("x".to_owned())),
    );
    for mode in [Mode::Strict, Mode::leased()] {
        comes_back(&mode);
        comes_back(&Settings {
            mode,
            ..Settings::default()
        });
    }
    comes_back(&LeasedOptions::default());
    let twentieth = FailureMode::Local(Share::new(0.05).expect("a share"));
    for failure_mode in [FailureMode::Closed, FailureMode::Open, twentieth] {
        comes_back(&failure_mode);
    }
    comes_back(&VersionRecord {
        schema_version: "1.0.0".into(),
        lambda_version: None,
        client_min_version: Some("0.0.0".into()),
        updated_at: "2026-01-01T00:00:00Z".into(),
        updated_by: Some("cli".into()),
    });
    for degraded in [Degraded::Open, Degraded::Local] {
        comes_back(&degraded);
    }
    let now = SystemTime::now();
    let by_entity = UsageQuery::entity("user-1").expect("an id");
    for query in [
        by_entity.clone(),
        by_entity
            .resource("gpt-4")
            .expect("a name")
            .since(now - Duration::from_secs(7 * 86_400))
            .until(now),
        UsageQuery::of_resource("gpt-4")
            .expect("a name")
            .window(Window::Monthly),
    ] {
        comes_back(&query);
    }
    comes_back(&UsageSnapshot {
        entity_id: "user-1".into(),
        resource: "gpt-4".into(),
        window: Window::Monthly,
        window_start: "2026-01-01T00:00:00Z".into(),
        window_end: "2026-02-01T00:00:00Z".into(),
        counters: [("tpm".to_owned(), -3)].into(),
        total_events: 4,
    });
    let tpm = LimitUsage {
        total: 7,
        average: 3.5,
        peak: 5,
        peak_window_start: "2026-01-01T00:00:00Z".into(),
    };
    comes_back(&UsageSummary {
        windows: 2,
        total_events: 4,
        limits: [("tpm".to_owned(), tpm)].into(),
    });
    comes_back(&Compatibility::LambdaOlder);
    for kind in [ErrorKind::RateLimitExceeded, ErrorKind::IncompatibleSchema] {
        comes_back(&kind);
    }
    comes_back(&StoreErrorKind::TableMissing);
    comes_back(&ValidationErrorKind::Identifier);
    let report = json!({ "returned": 9, "unreturned": 3, "in_doubt": 1, "unreported": -2 });
    let report: ShutdownReport = serde_json::from_value(report).expect("a report");
    assert_eq!(
        (report.unreturned, report.unreported, report.owed),
        (3, -2, 0)
    );
    comes_back(&report);
}

#[tokio::test]
async fn metrics_come_back_also_without_what_another_version_counts() {
    let limiter = RateLimiter::builder("data").store(MemoryStore::new());
    let limiter = limiter.connect().await.expect("a table");
    let limits = [Limit::per_minute("rpm", 10).expect("a limit")];
    let acquire = limiter.acquire("user-1", "gpt-4").limits(&limits);
    acquire.consume("rpm", 1).await.map(drop).expect("tokens");
    let metrics = limiter.metrics();
    assert!(metrics.writes > 0);
    comes_back(&metrics);
    let older: Metrics = serde_json::from_value(json!({ "writes": 4 })).expect("metrics");
    assert_eq!((older.writes, older.probes), (4, 0));
}

#[test]
fn what_breaks_a_rule_does_not_come_in() {
    let limit = |name: &str, capacity: u64, burst: u64, refill: u64, period: u64| {
        json!({
            "name": name, "capacity": capacity, "burst": burst,
            "refill_amount": refill, "refill_period_seconds": period,
        })
    };
    is_refused::<Limit>(limit("rpm", 0, 1, 1, 1), "capacity");
    is_refused::<Limit>(limit("rpm", 2, 1, 1, 1), "at least the capacity, 2");
    is_refused::<Limit>(limit("rpm", 1, 1, 0, 1), "refill_amount");
    is_refused::<Limit>(limit("rpm", 1, 1, 1, 0), "refill_period");
    is_refused::<Limit>(limit("rpm", u64::MAX, u64::MAX, 1, 1), "at most");
    is_refused::<Limit>(limit("a#b", 1, 1, 1, 1), "reserved delimiter");
    is_refused::<Terms>(limit("", 1, 1, 1, 0), "refill_period");
    is_refused::<LimitOwner>(json!({ "entity": "a#b" }), "reserved delimiter");
    is_refused::<LimitOwner>(json!({ "resource": "_default_" }), "start with a letter");
    is_refused::<LimitScope>(
        json!({ "entity_id": "", "resource": null }),
        "cannot be empty",
    );
    let status = |available: i64, requested: u64, retry_after: u64| {
        json!({
            "entity_id": "user-1", "resource": "gpt-4", "limit": limit("rpm", 1, 1, 1, 1),
            "available": available, "requested": requested, "exceeded": true,
            "retry_after": { "secs": retry_after, "nanos": 0 },
        })
    };
    is_refused::<LimitStatus>(status(1, 1, 1), "more requested than available");
    is_refused::<LimitStatus>(status(-1, 0, 1), "more requested than available");
    is_refused::<LimitStatus>(status(0, 1, 0), "more than zero");
    is_refused::<NewEntity>(json!({ "id": "a#b", "name": null }), "reserved delimiter");
    is_refused::<NewEntity>(json!({ "id": "a", "parent_id": "" }), "parent_id");
    is_refused::<EntityChange>(json!({ "parent_id": "a#b" }), "parent_id");
    is_refused::<EntityChange>(json!({ "parent": "a" }), "unknown field");
    is_refused::<Share>(json!(0.0), "more than 0");
    is_refused::<Share>(json!(1.5), "at most 1");
    is_refused::<FailureMode>(json!({ "local": -1.0 }), "more than 0");
    is_refused::<Settings>(json!({ "mode": "lesed" }), "unknown variant");
    is_refused::<Settings>(json!({ "failure": "open" }), "unknown field");
    is_refused::<PageRequest>(json!({ "size": -1 }), "invalid value");
    is_refused::<UsageQuery>(json!({}), "or a resource");
    is_refused::<UsageQuery>(json!({ "entity_id": "a#b" }), "reserved delimiter");
    is_refused::<UsageQuery>(json!({ "resource": "" }), "cannot be empty");
    is_refused::<UsageQuery>(json!({ "resource": "a", "since": "today" }), "RFC 3339");
    is_refused::<UsageQuery>(json!({ "resource": "a", "from": "today" }), "unknown field");
    let freed: EntityChange = serde_json::from_value(json!({ "parent_id": null })).expect("JSON");
    assert_eq!(freed.parent_id, Some(None));
}
