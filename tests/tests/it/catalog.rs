//! What is remembered of entities and stored limits: every read of the table is counted.

use std::time::{Duration, Instant};

use futures::future::join_all;
use zae_limiter::store::{Fault, FaultyStore, MemoryStore};
use zae_limiter::{Clock, Limit, LimitScope, Metrics, Mode, NewEntity, RateLimiter, Settings};

type Table = FaultyStore<MemoryStore>;

/// In strict mode an acquire reads nothing but entities and stored limits.
async fn limiter(settings: Settings) -> (Table, RateLimiter) {
    limiter_at(Clock::system(), settings).await
}

async fn limiter_at(clock: Clock, settings: Settings) -> (Table, RateLimiter) {
    let store = FaultyStore::new(MemoryStore::new());
    let settings = Settings {
        mode: Mode::Strict,
        ..settings
    };
    let builder = RateLimiter::builder("catalog").store(store.clone());
    let builder = builder.clock(clock).settings(settings);
    let limiter = builder.connect().await.expect("a table");
    let limits = [Limit::per_day("rpd", 1_000_000).expect("a limit")];
    let project = NewEntity::new("project");
    limiter.create_entity(project).await.expect("new");
    let key = NewEntity::new("key").parent("project");
    limiter.create_entity(key).await.expect("new");
    limiter
        .set_limits(&LimitScope::system(), &limits)
        .await
        .expect("stored");
    store.reset();
    (store, limiter)
}

async fn acquire(limiter: &RateLimiter, id: &str) {
    let acquire = limiter.acquire(id, "gpt-4").use_stored_limits(true);
    let acquire = acquire.consume("rpd", 1).cascade(true).await;
    acquire.map(drop).expect("tokens");
}

/// Hits, misses, loads and coalesced looks; the first three must agree with what the table saw.
fn counted(store: &Table, metrics: &Metrics) -> (u64, u64, u64) {
    assert_eq!(metrics.catalog_loads, store.reads(), "{metrics:?}");
    let (misses, coalesced) = (metrics.catalog_misses, metrics.catalog_coalesced);
    assert_eq!(misses, metrics.catalog_loads + coalesced, "{metrics:?}");
    (metrics.catalog_hits, misses, coalesced)
}

#[tokio::test]
async fn what_is_known_is_not_read_again_nor_what_is_known_not_to_be_there() {
    let (store, limiter) = limiter(Settings::default()).await;
    acquire(&limiter, "key").await;
    // The entity, and whatever may be stored for it, its parent, the resource and the system.
    assert_eq!(store.reads(), 5);
    let (hits, misses, coalesced) = counted(&store, &limiter.metrics());
    assert_eq!((misses, coalesced), (5, 0));
    acquire(&limiter, "key").await;
    let (hits_again, misses, _) = counted(&store, &limiter.metrics());
    assert_eq!((store.reads(), misses), (5, 5));
    assert_eq!(
        hits_again - hits,
        9,
        "the entity, and four scopes of each of two"
    );

    acquire(&limiter, "nobody").await;
    assert_eq!(store.reads(), 7, "no such entity, no such limits");
    acquire(&limiter, "nobody").await;
    assert_eq!(store.reads(), 7);
    assert_eq!(limiter.metrics().catalog_evictions, 0);

    limiter.forget_stored();
    acquire(&limiter, "key").await;
    assert_eq!(store.reads(), 12);
    counted(&store, &limiter.metrics());
}

#[tokio::test]
async fn those_who_ask_at_the_same_time_share_a_read() {
    let (clock, hand) = Clock::manual();
    let settings = Settings::default();
    let ttl = Duration::from_millis(settings.entity_ttl_ms.max(settings.limits_ttl_ms));
    let (store, limiter) = limiter_at(clock, settings).await;
    store.fail_all(Some(Fault::Delay(Duration::from_millis(20))));
    for round in 1..=3 {
        join_all((0..50).map(|_| acquire(&limiter, "key"))).await;
        assert_eq!(
            store.reads(),
            5 * round,
            "old answers are read anew once, too"
        );
        let (_, _, coalesced) = counted(&store, &limiter.metrics());
        assert!(coalesced >= 49 * round, "{coalesced}");
        hand.advance(ttl);
    }
}

#[tokio::test]
async fn no_more_is_remembered_than_is_allowed() {
    let (store, limiter) = limiter(Settings {
        catalog_entries_max: 10,
        ..Settings::default()
    })
    .await;
    for i in 0..200 {
        acquire(&limiter, &format!("user-{i}")).await;
    }
    // It is tidied up now and then.
    let begun = Instant::now();
    loop {
        acquire(&limiter, "user-0").await;
        let metrics = limiter.metrics();
        counted(&store, &metrics);
        if metrics.catalog_entries <= 20 && metrics.catalog_evictions >= 380 {
            return;
        }
        assert!(begun.elapsed() < Duration::from_secs(10), "{metrics:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
