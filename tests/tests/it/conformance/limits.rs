//! Stored limits. Each case begins with an empty table.

use std::sync::Arc;

use futures::future::join_all;
use zae_limiter::store::{Store, StoreErrorKind};
use zae_limiter::{Limit, LimitOwner, LimitScope, STORED_LIMITS_MAX};

use super::{event, events_of};

fn limit(name: &str, capacity: u64) -> Limit {
    let limit = Limit::per_minute(name, capacity).unwrap();
    limit.burst(capacity * 3).unwrap()
}

async fn is_set(store: &Arc<dyn Store>, scope: &LimitScope, limits: &[Limit]) {
    let event = event(&scope.owner().audit_id());
    let written = store.write_limits(scope, limits, &event).await;
    assert!(written.unwrap(), "{scope}");
}

async fn sets(store: &Arc<dyn Store>, owner: &LimitOwner) -> Vec<(LimitScope, Vec<Limit>)> {
    let mut sets = store.read_limits(owner).await.unwrap();
    sets.sort_by(|(a, _), (b, _)| a.cmp(b));
    sets
}

async fn set(store: &Arc<dyn Store>, scope: &LimitScope) -> Vec<Limit> {
    let sets = sets(store, &scope.owner()).await.into_iter();
    let mut own = sets.filter(|(found, _)| found == scope);
    own.next().map(|(_, limits)| limits).unwrap_or_default()
}

pub(super) async fn limits_come_back_under_the_scope_they_were_stored_for(store: Arc<dyn Store>) {
    let entity = |id: &str| LimitScope::entity(id).unwrap();
    // Each is a prefix of another, or the name of something else.
    let scopes = [
        LimitScope::system(),
        LimitScope::resource("api").unwrap(),
        LimitScope::resource("api.b").unwrap(),
        entity("api"),
        entity("api").on("api").unwrap(),
        entity("api").on("api.b").unwrap(),
        entity("api.b"),
    ];
    for (i, scope) in (1..).zip(&scopes) {
        is_set(&store, scope, &[limit("tpm", i), limit("rpm", 10 * i)]).await;
    }
    for (i, scope) in (1..).zip(&scopes) {
        let expected = [limit("rpm", 10 * i), limit("tpm", i)];
        assert_eq!(set(&store, scope).await, expected, "{scope}");
    }
    for (owner, count) in [
        (LimitOwner::System, 1),
        (LimitOwner::Resource("api".into()), 1),
        (LimitOwner::Entity("api".into()), 3),
        (LimitOwner::Entity("nobody".into()), 0),
    ] {
        assert_eq!(sets(&store, &owner).await.len(), count, "{owner}");
    }
    let gone = &scopes[4];
    assert!(store.write_limits(gone, &[], &event("api")).await.unwrap());
    for (i, scope) in (1..).zip(&scopes) {
        let count = if scope == gone { 0 } else { 2 };
        assert_eq!(set(&store, scope).await.len(), count, "{i} {scope}");
    }
}

pub(super) async fn a_set_is_replaced_as_a_whole(store: Arc<dyn Store>) {
    let scope = LimitScope::entity("user-1").unwrap().on("gpt-4").unwrap();
    let full = |prefix: &str| -> Vec<Limit> {
        let names = (10..10 + STORED_LIMITS_MAX).map(|i| format!("{prefix}{i}"));
        names.map(|name| limit(&name, 1)).collect()
    };
    let states = [
        vec![limit("a", 1), limit("b", 2), limit("c", 3)],
        vec![limit("b", 4), limit("d", 5)],
        full("x"),
        full("y"), // nothing of it in common with the one before
        vec![limit("a", 1)],
    ];
    for (i, limits) in states.iter().enumerate() {
        is_set(&store, &scope, limits).await;
        assert_eq!(set(&store, &scope).await, *limits);
        assert_eq!(events_of(&store, "user-1").await.len(), i + 1);
    }
    for (deleted, events) in [(true, 6), (false, 6)] {
        let done = store.write_limits(&scope, &[], &event("user-1")).await;
        assert_eq!(done.unwrap(), deleted);
        assert!(set(&store, &scope).await.is_empty());
        assert_eq!(events_of(&store, "user-1").await.len(), events);
    }
    is_set(&store, &scope, &states[0]).await;
    assert_eq!(set(&store, &scope).await, states[0]);
}

pub(super) async fn a_set_that_is_no_set_is_refused(store: Arc<dyn Store>) {
    let scope = LimitScope::system();
    let many = (0..=STORED_LIMITS_MAX).map(|i| limit(&format!("l{i}"), 1));
    for wrong in [many.collect(), vec![limit("a", 1), limit("a", 2)]] {
        let refused = store.write_limits(&scope, &wrong, &event("$SYSTEM")).await;
        assert_eq!(refused.unwrap_err().kind(), StoreErrorKind::Invalid);
    }
    assert!(set(&store, &scope).await.is_empty());
    assert!(events_of(&store, "$SYSTEM").await.is_empty());
}

pub(super) async fn of_writers_at_the_same_time_one_is_the_last(store: Arc<dyn Store>) {
    let scope = LimitScope::entity("user-1").unwrap();
    // Without a name in common: nothing but the scope itself can keep them apart.
    let wanted =
        ["a", "b", "c", "d"].map(|w| [limit(&format!("{w}1"), 1), limit(&format!("{w}2"), 2)]);
    for _ in 0..2 {
        let writes = wanted.iter().map(|limits| is_set(&store, &scope, limits));
        join_all(writes).await;
        let found = set(&store, &scope).await;
        assert!(wanted.iter().any(|limits| found == *limits), "{found:?}");
    }
    assert_eq!(events_of(&store, "user-1").await.len(), 8);
    assert!(
        store
            .write_limits(&scope, &[], &event("user-1"))
            .await
            .unwrap()
    );
}
