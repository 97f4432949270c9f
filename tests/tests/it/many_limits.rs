//! More limits than fit one bucket, named by one acquire after the other.

use std::time::{Duration, Instant};

use zae_limiter::store::{MemoryStore, Store};
use zae_limiter::{Error, ErrorKind, LeasedOptions, Limit, Mode, NewEntity, RateLimiter};
use zae_limiter_core::BucketKey;
use zae_limiter_tests::{consumed, fresh_table, level};

const SOON: Duration = Duration::from_secs(5);

fn limit(name: &str) -> Limit {
    Limit::custom(name, 100, 1, Duration::from_secs(86_400)).expect("a limit")
}

fn sixteen() -> Vec<Limit> {
    (0..16).map(|at| limit(&format!("limit-{at}"))).collect()
}

async fn acquire(limiter: &RateLimiter, id: &str, limits: &[Limit]) -> Result<(), Error> {
    let acquire = limiter.acquire(id, "api").limits(limits).cascade(true);
    let named = limits.iter();
    let acquire = named.fold(acquire, |acquire, limit| acquire.consume(limit.name(), 1));
    acquire.await.map(drop)
}

async fn what_does_not_fit_is_refused_and_charges_nothing(store: impl Store + Clone) {
    let limiter = RateLimiter::builder("many").store(store.clone());
    let limiter = limiter.connect().await.expect("a table");
    let create = |entity| limiter.create_entity(entity);
    create(NewEntity::new("parent")).await.expect("new");
    let child = NewEntity::new("child").parent("parent");
    create(child).await.expect("new");
    let (first, more) = (sixteen(), [limit("one-more")]);
    acquire(&limiter, "parent", &first).await.expect("16 fit");

    for id in ["parent", "child"] {
        let error = acquire(&limiter, id, &more).await.expect_err("the 17th");
        assert_eq!(error.kind(), ErrorKind::Validation, "{error}");
        let text = error.to_string();
        assert!(
            text.contains("one-more") && text.contains("at most 16"),
            "{text}"
        );
    }
    let other = || limiter.acquire("parent", "api").limits(&more);
    let refused = |error: Result<(), Error>| error.map_err(|error| error.kind());
    let now = other().consume("one-more", 1).try_acquire().map(drop);
    for answer in [
        now,
        other().available().await.map(drop),
        other().handle().await.map(drop),
    ] {
        assert_eq!(refused(answer), Err(ErrorKind::Validation));
    }

    acquire(&limiter, "parent", &first)
        .await
        .expect("as before");
    limiter.shutdown(SOON).await;
    for limit in &first {
        assert_eq!(consumed(&store, "parent", "api", limit.name()).await, 2);
        assert_eq!(level(&store, "parent", "api", limit).await, 98);
    }
    for id in ["parent", "child"] {
        let key = BucketKey::new(id, "api").expect("a key");
        let item = store.read_bucket(&key).await.expect("a table");
        assert!(
            item.is_none_or(|item| item.limit("one-more").is_none()),
            "{id}"
        );
    }
}

#[tokio::test]
async fn what_does_not_fit_is_refused_and_charges_nothing_in_memory() {
    what_does_not_fit_is_refused_and_charges_nothing(MemoryStore::new()).await;
}

#[tokio::test]
async fn what_does_not_fit_is_refused_and_charges_nothing_on_a_table() {
    let table = fresh_table("many").await;
    what_does_not_fit_is_refused_and_charges_nothing(table.store()).await;
}

#[tokio::test]
async fn what_is_not_used_makes_room_and_its_leases_are_settled() {
    let store = MemoryStore::new();
    let options = LeasedOptions {
        renewal_interval_ms: 100,
        lease_ttl_ms: 1_000,
    };
    let limiter = RateLimiter::builder("many").store(store.clone());
    let limiter = limiter.mode(Mode::Leased(options));
    let limiter = limiter.connect().await.expect("memory");
    let (first, more) = (sixteen(), [limit("before"), limit("back")]);
    let earlier = limiter.acquire("user", "api").limits(&more);
    let earlier = earlier.consume("before", 30).consume("back", 30);
    let mut earlier = earlier.await.expect("two fit");
    let begun = Instant::now();
    while let Err(error) = acquire(&limiter, "user", &first).await {
        assert_eq!(error.kind(), ErrorKind::Validation, "{error}");
        assert!(begun.elapsed() < Duration::from_secs(10), "{error}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    // There is no room to owe or to be owed in, so the table is told at once.
    earlier.adjust("before", 50).await.expect("a write");
    earlier.release("back", 10).await.expect("a write");
    assert_eq!(level(&store, "user", "api", &more[0]).await, 20);
    assert_eq!(level(&store, "user", "api", &more[1]).await, 80);
    acquire(&limiter, "user", &first).await.expect("as before");
    limiter.shutdown(SOON).await;
    for (limit, tokens) in [(&first[0], 2), (&more[0], 80), (&more[1], 20)] {
        assert_eq!(consumed(&store, "user", "api", limit.name()).await, tokens);
        assert_eq!(level(&store, "user", "api", limit).await, 100 - tokens);
    }
}
