//! Stored limits, entities and looks, as a service uses them: in both modes, on a real table and
//! in memory.

use std::time::Duration;

use zae_limiter::store::{DynamoDbStore, Fault, FaultyStore, MemoryStore, Store};
use zae_limiter::{
    AuditAction, EntityChange, Error, ErrorKind, Limit, LimitScope, Mode, NewEntity, PageRequest,
    RateLimiter, Settings,
};
use zae_limiter_core::BucketKey;
use zae_limiter_tests::fresh_table;

/// So slow that what flows in during a test does not matter, however slow that is.
fn rpm(capacity: u64) -> Limit {
    Limit::per_day("rpm", capacity).expect("a limit")
}

fn settings(mode: Mode) -> Settings {
    Settings {
        mode,
        entity_ttl_ms: 300,
        limits_ttl_ms: 300,
        acquire_timeout_ms: 30_000,
        ..Settings::default()
    }
}

async fn limiter(store: impl Store, settings: Settings) -> RateLimiter {
    let limiter = RateLimiter::builder("surface").store(store);
    limiter.settings(settings).connect().await.expect("a table")
}

/// How many of `tokens` acquires of one are admitted under stored limits.
async fn admitted(limiter: &RateLimiter, id: &str, tokens: usize, cascade: bool) -> usize {
    let mut admitted = 0;
    for _ in 0..tokens {
        let acquire = limiter.acquire(id, "gpt-4").use_stored_limits(true);
        match acquire.consume("rpm", 1).cascade(cascade).await {
            Ok(_) => admitted += 1,
            Err(error) => assert_eq!(error.kind(), ErrorKind::RateLimitExceeded, "{error}"),
        }
    }
    admitted
}

async fn stored_limits_are_found_in_their_order(store: impl Store + Clone, mode: Mode) {
    let limiter = limiter(store, settings(mode)).await;
    let none = limiter.acquire("a", "gpt-4").use_stored_limits(true);
    let error = none
        .consume("rpm", 1)
        .await
        .map(drop)
        .expect_err("no limits at all");
    assert!(
        error.to_string().contains("no limits are stored"),
        "{error}"
    );
    let given = [rpm(2)];
    let acquire = limiter.acquire("given", "gpt-4").use_stored_limits(true);
    assert!(
        acquire.limits(&given).consume("rpm", 3).await.is_err(),
        "those of the call"
    );
    for (scope, capacity) in [
        (LimitScope::system(), 3),
        (LimitScope::resource("gpt-4").expect("a name"), 5),
        (LimitScope::entity("b").expect("an id"), 7),
        (
            LimitScope::entity("c")
                .and_then(|scope| scope.on("gpt-4"))
                .expect("names"),
            9,
        ),
    ] {
        limiter
            .set_limits(&scope, &[rpm(capacity)])
            .await
            .expect("stored");
        assert_eq!(
            limiter.get_limits(&scope).await.expect("a table"),
            [rpm(capacity)]
        );
    }
    limiter
        .set_limits(&LimitScope::entity("c").expect("an id"), &[rpm(1)])
        .await
        .expect("stored");
    assert_eq!(
        admitted(&limiter, "a", 12, false).await,
        5,
        "the resource's"
    );
    assert_eq!(admitted(&limiter, "b", 12, false).await, 7, "the entity's");
    assert_eq!(
        admitted(&limiter, "c", 12, false).await,
        9,
        "the entity's for the resource"
    );
    let resource = LimitScope::resource("gpt-4").expect("a name");
    assert!(limiter.delete_limits(&resource).await.expect("a table"));
    assert!(!limiter.delete_limits(&resource).await.expect("a table"));
    assert_eq!(admitted(&limiter, "d", 12, false).await, 3, "the system's");
    limiter.shutdown(Duration::from_secs(20)).await;
}

async fn child_and_parent_have_limits_of_their_own(store: impl Store + Clone, mode: Mode) {
    let limiter = limiter(store, settings(mode)).await;
    limiter
        .create_entity(NewEntity::new("project"))
        .await
        .expect("new");
    for child in ["key-1", "key-2"] {
        let child = NewEntity::new(child).parent("project");
        limiter.create_entity(child).await.expect("new");
    }
    let scope = |id| LimitScope::entity(id).expect("an id");
    limiter
        .set_limits(&LimitScope::system(), &[rpm(6)])
        .await
        .expect("stored");
    // The parent does not limit tokens, and so is not charged for them.
    limiter
        .set_limits(&scope("project"), &[rpm(8)])
        .await
        .expect("stored");
    let tpm = Limit::per_day("tpm", 1_000).expect("a limit");
    limiter
        .set_limits(&scope("key-2"), &[rpm(6), tpm])
        .await
        .expect("stored");
    assert_eq!(
        admitted(&limiter, "key-1", 10, true).await,
        6,
        "the child's"
    );
    let acquire = limiter
        .acquire("key-2", "gpt-4")
        .use_stored_limits(true)
        .cascade(true);
    let acquire = acquire.consume("rpm", 1).consume("tpm", 900);
    let mut lease = acquire.await.expect("seven of the parent's eight");
    lease.adjust("tpm", -500).await.expect("less");
    assert_eq!(lease.consumed()["tpm"], 400);
    drop(lease);
    assert_eq!(
        admitted(&limiter, "key-2", 10, true).await,
        1,
        "the parent's"
    );
    let look = || {
        limiter
            .acquire("key-2", "gpt-4")
            .use_stored_limits(true)
            .cascade(true)
    };
    let available = look().available().await.expect("known");
    let of = |id: &str| {
        let of = available.iter().filter(|a| a.entity_id == id);
        of.map(|a| (a.limit_name.as_str(), a.estimate))
            .collect::<Vec<_>>()
    };
    assert_eq!(of("project"), [("rpm", 0)]);
    assert_eq!(of("key-2"), [("rpm", 4), ("tpm", 600)]);
    let wait = look()
        .consume("rpm", 1)
        .time_until_available()
        .await
        .expect("known");
    let eighth = Duration::from_secs(86_400 / 8);
    assert!(
        wait > eighth - Duration::from_secs(600) && wait <= eighth,
        "{wait:?}"
    );
    let wait = look()
        .consume("tpm", 600)
        .time_until_available()
        .await
        .expect("known");
    assert_eq!(wait, Duration::ZERO);
    limiter.shutdown(Duration::from_secs(20)).await;
}

async fn changes_are_in_force_within_the_time_to_live(store: impl Store + Clone, mode: Mode) {
    let here = limiter(store.clone(), settings(mode)).await;
    let there = limiter(store, settings(mode)).await;
    here.create_entity(NewEntity::new("project"))
        .await
        .expect("new");
    here.create_entity(NewEntity::new("key"))
        .await
        .expect("new");
    let key = LimitScope::entity("key").expect("an id");
    here.set_limits(&LimitScope::system(), &[rpm(1)])
        .await
        .expect("stored");
    here.set_limits(&key, &[rpm(100)]).await.expect("stored");
    assert_eq!(admitted(&there, "key", 20, true).await, 20);
    // A cut, and a parent that is set late.
    here.set_limits(&key, &[rpm(10)]).await.expect("stored");
    here.set_parent("key", Some("project"))
        .await
        .expect("both are there");
    tokio::time::sleep(Duration::from_millis(350)).await;
    assert!(
        admitted(&there, "key", 20, true).await <= 1,
        "the parent has one"
    );
    assert!(
        admitted(&there, "key", 20, false).await <= 10,
        "cut to the new burst"
    );
    let missing = here
        .set_parent("key", Some("nobody"))
        .await
        .expect_err("no such parent");
    assert_eq!(missing.kind(), ErrorKind::EntityNotFound, "{missing}");
    here.shutdown(Duration::from_secs(20)).await;
    there.shutdown(Duration::from_secs(20)).await;
}

async fn an_entity_may_say_that_it_cascades(store: impl Store + Clone, mode: Mode) {
    let settings = Settings {
        cascade_by_entity: true,
        ..settings(mode)
    };
    let limiter = limiter(store, settings).await;
    limiter
        .create_entity(NewEntity::new("project"))
        .await
        .expect("new");
    let key = NewEntity::new("key").parent("project").cascade(true);
    limiter.create_entity(key).await.expect("new");
    let limits = [rpm(5)];
    let project = limiter.acquire("project", "gpt-4").limits(&limits);
    project.consume("rpm", 5).await.map(drop).expect("full");
    let acquire = || {
        limiter
            .acquire("key", "gpt-4")
            .limits(&limits)
            .consume("rpm", 1)
    };
    assert!(acquire().await.is_err(), "the entity says so");
    assert!(
        acquire().cascade(false).await.is_ok(),
        "the call says otherwise"
    );
    let change = EntityChange {
        cascade: Some(false),
        ..EntityChange::default()
    };
    limiter.update_entity("key", &change).await.expect("there");
    assert!(acquire().await.is_ok());
    limiter.shutdown(Duration::from_secs(20)).await;
}

/// Limits that are deleted, and an entity that begins to cascade.
async fn what_is_taken_away_here_is_taken_away_elsewhere(store: impl Store + Clone, mode: Mode) {
    let settings = Settings {
        cascade_by_entity: true,
        ..settings(mode)
    };
    let here = limiter(store.clone(), settings.clone()).await;
    let there = limiter(store, settings).await;
    let key = NewEntity::new("key").parent("project");
    for entity in [NewEntity::new("project"), key] {
        here.create_entity(entity).await.expect("new");
    }
    let scope = |id| LimitScope::entity(id).expect("an id");
    for (scope, tokens) in [
        (LimitScope::system(), 1),
        (scope("user"), 100),
        (scope("key"), 100),
    ] {
        let stored = here.set_limits(&scope, &[rpm(tokens)]).await;
        stored.expect("stored");
    }
    let by_key = async |tokens: usize| {
        let mut admitted = 0;
        for _ in 0..tokens {
            let acquire = there.acquire("key", "gpt-4").use_stored_limits(true);
            admitted += usize::from(acquire.consume("rpm", 1).await.is_ok());
        }
        admitted
    };
    assert_eq!(admitted(&there, "user", 20, false).await, 20);
    assert_eq!(by_key(20).await, 20);
    assert!(here.delete_limits(&scope("user")).await.expect("a table"));
    let change = EntityChange {
        cascade: Some(true),
        ..EntityChange::default()
    };
    here.update_entity("key", &change).await.expect("there");
    tokio::time::sleep(Duration::from_millis(350)).await;
    let left = admitted(&there, "user", 20, false).await;
    assert!(left <= 1, "{left}: the system's is one");
    let left = by_key(20).await;
    assert!(left <= 1, "{left}: the project has one");
    here.shutdown(Duration::from_secs(20)).await;
    there.shutdown(Duration::from_secs(20)).await;
}

async fn what_is_deleted_stays_deleted(store: impl Store + Clone, mode: Mode) {
    let table = store.clone();
    let limiter = limiter(store, settings(mode)).await;
    let by_ada = limiter.as_principal("ada").expect("an identifier");
    by_ada
        .create_entity(NewEntity::new("user").metadata("plan", "pro"))
        .await
        .expect("new");
    let scope = LimitScope::entity("user").expect("an id");
    by_ada
        .set_limits(&scope, &[rpm(100)])
        .await
        .expect("stored");
    let acquire = limiter.acquire("user", "gpt-4").use_stored_limits(true);
    let lease = acquire.consume("rpm", 50).await.expect("full");
    limiter.delete_entity("user").await.expect("there");
    lease.rollback().await; // of a bucket that is gone
    let again = limiter.delete_entity("user").await.expect_err("gone");
    assert_eq!(again.kind(), ErrorKind::EntityNotFound, "{again}");
    assert!(
        limiter
            .get_limits(&scope)
            .await
            .expect("a table")
            .is_empty()
    );
    limiter.shutdown(Duration::from_secs(20)).await;
    let key = BucketKey::new("user", "gpt-4").expect("a key");
    assert_eq!(
        table.read_bucket(&key).await.expect("a table"),
        None,
        "{mode:?}"
    );
    let page = PageRequest::default().size(2);
    let newest = limiter
        .get_audit_events("user", &page)
        .await
        .expect("a table");
    let rest = page.after(newest.next.expect("three in all"));
    let rest = limiter
        .get_audit_events("user", &rest)
        .await
        .expect("a table");
    let events: Vec<_> = newest.items.into_iter().chain(rest.items).collect();
    let actions: Vec<_> = events.iter().map(|event| event.action.clone()).collect();
    let expected = [
        AuditAction::EntityDeleted,
        AuditAction::LimitsSet,
        AuditAction::EntityCreated,
    ];
    assert_eq!(actions, expected);
    assert_eq!(events[1].principal.as_deref(), Some("ada"));
    assert_eq!(events[0].principal, None);
}

macro_rules! in_both_modes_on_both_stores {
    ($($scenario:ident),+ $(,)?) => {$(
        mod $scenario {
            use super::*;

            #[tokio::test]
            async fn in_memory() {
                for mode in [Mode::Strict, Mode::leased()] {
                    super::$scenario(MemoryStore::new(), mode).await;
                }
            }

            #[tokio::test]
            async fn on_a_table() {
                for mode in [Mode::Strict, Mode::leased()] {
                    let table = fresh_table("surface").await;
                    let store: DynamoDbStore = table.store();
                    super::$scenario(store, mode).await;
                }
            }
        }
    )+};
}

in_both_modes_on_both_stores!(
    stored_limits_are_found_in_their_order,
    child_and_parent_have_limits_of_their_own,
    changes_are_in_force_within_the_time_to_live,
    an_entity_may_say_that_it_cascades,
    what_is_taken_away_here_is_taken_away_elsewhere,
    what_is_deleted_stays_deleted,
);

/// What is remembered of limits outlives an outage, as tokens in hand do.
#[tokio::test]
async fn stored_limits_are_remembered_during_an_outage() -> Result<(), Error> {
    let store = FaultyStore::new(MemoryStore::new());
    let limiter = limiter(store.clone(), settings(Mode::leased())).await;
    limiter
        .set_limits(&LimitScope::system(), &[rpm(10_000)])
        .await?;
    let acquire = || limiter.acquire("user", "gpt-4").use_stored_limits(true);
    for _ in 0..20 {
        acquire().consume("rpm", 10).await.map(drop)?;
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    store.fail_all(Some(Fault::Unreachable));
    tokio::time::sleep(Duration::from_millis(400)).await;
    acquire().consume("rpm", 1).await.map(drop)
}
