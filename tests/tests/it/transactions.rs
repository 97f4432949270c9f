//! What becomes of a transaction that is not made at once.

use zae_limiter::store::{DynamoDbStore, EntityWrite, Store, StoreErrorKind};
use zae_limiter::{AuditAction, AuditEvent, Clock, Entity};
use zae_limiter_tests::client_for;

use crate::fake_service::{Answer, FakeService};

async fn create(service: &FakeService) -> Result<EntityWrite, zae_limiter::store::StoreError> {
    let store = DynamoDbStore::new(client_for(&service.url), "ZAEL-test");
    let entity = Entity {
        id: "user-1".into(),
        name: "user-1".into(),
        parent_id: Some("project-1".into()),
        metadata: Default::default(),
        created_at: "2026-01-01T00:00:00Z".into(),
        cascade: false,
    };
    let now = Clock::system().wall();
    let event = AuditEvent::new(AuditAction::EntityCreated, "user-1", now);
    store.create_entity(&entity, &event).await
}

fn token(request: &str) -> String {
    let request: serde_json::Value = serde_json::from_str(request).unwrap();
    request["ClientRequestToken"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn one_that_met_another_is_sent_again_as_the_same() {
    let service = FakeService::start([
        Answer::Cancelled(&["None", "TransactionConflict", "None"]),
        Answer::Error(400, "TransactionInProgressException"),
        Answer::Cancelled(&["ThrottlingError", "None", "None"]),
        Answer::HangUp, // perhaps it was made
        Answer::Text(200, "{}"),
    ]);
    assert_eq!(create(&service).await.unwrap(), EntityWrite::Done);
    let requests = service.requests();
    assert_eq!(requests.len(), 5);
    let first = token(&requests[0]);
    assert!(requests.iter().all(|request| token(request) == first));
    let another = FakeService::start([Answer::Text(200, "{}")]);
    assert_eq!(create(&another).await.unwrap(), EntityWrite::Done);
    assert_ne!(token(&another.requests()[0]), first);
}

#[tokio::test]
async fn a_condition_that_does_not_hold_is_an_answer() {
    for (reasons, outcome) in [
        (
            &["ConditionalCheckFailed", "None", "None"],
            EntityWrite::Exists,
        ),
        (
            &["None", "ConditionalCheckFailed", "None"],
            EntityWrite::ParentMissing,
        ),
    ] {
        let service = FakeService::start([Answer::Cancelled(reasons)]);
        assert_eq!(create(&service).await.unwrap(), outcome);
        assert_eq!(service.asked(), 1);
    }
}

#[tokio::test]
async fn one_that_never_gets_through_ends() {
    use StoreErrorKind::{Invalid, Throttled};
    for (reason, kind, sent) in [
        (&["TransactionConflict"], Throttled, 10),
        (&["ValidationError"], Invalid, 1),
    ] {
        let service = FakeService::start([Answer::Cancelled(reason)]);
        let error = create(&service).await.unwrap_err();
        assert_eq!(error.kind(), kind, "{error}");
        assert!(
            error.to_string().contains("create entity user-1"),
            "{error}"
        );
        assert!(error.to_string().contains(reason[0]), "{error}");
        assert_eq!(service.asked(), sent);
    }
}
