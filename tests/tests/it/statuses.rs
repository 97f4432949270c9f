//! What a lease says of its limits, and the headers that a service makes of it.

use zae_limiter::store::MemoryStore;
use zae_limiter::{Limit, Mode, NewEntity, RateLimiter, http};

/// So slow that what flows in during a test does not matter.
fn limits() -> [Limit; 2] {
    [
        Limit::per_day("rpd", 10).expect("a limit"),
        Limit::per_day("tpd", 1_000).expect("a limit"),
    ]
}

async fn family(mode: Mode) -> RateLimiter {
    let limiter = RateLimiter::builder("statuses").store(MemoryStore::new());
    let limiter = limiter.mode(mode).connect().await.expect("a table");
    let project = NewEntity::new("project");
    limiter.create_entity(project).await.expect("new");
    let key = NewEntity::new("key").parent("project");
    limiter.create_entity(key).await.expect("new");
    limiter
}

#[tokio::test]
async fn a_lease_says_what_is_left_for_as_much_again() {
    for mode in [Mode::Strict, Mode::leased()] {
        let (limiter, limits) = (family(mode).await, limits());
        let project = limiter.acquire("project", "gpt-4").limits(&limits);
        project.consume("rpd", 3).await.map(drop).expect("tokens");
        let key = limiter.acquire("key", "gpt-4").limits(&limits);
        let key = key.consume("rpd", 4).consume("tpd", 100).cascade(true);
        let lease = key.await.expect("tokens");
        let statuses = lease.statuses();
        let told: Vec<_> = statuses
            .iter()
            .map(|s| (s.entity_id.as_str(), s.available, s.requested, s.exceeded))
            .collect();
        let expected = [
            ("key", 6, 4, false),
            ("key", 900, 100, false),
            ("project", 3, 4, true),
            ("project", 900, 100, false),
        ];
        assert_eq!(told, expected, "{mode:?}");
        assert_eq!(
            http::rate_limit_policy(&statuses),
            r#""rpd";q=10;w=86400, "tpd";q=1000;w=86400, "parent:rpd";q=10;w=86400, "parent:tpd";q=1000;w=86400"#
        );
        assert_eq!(
            http::rate_limit(&statuses),
            r#""rpd";r=6, "tpd";r=900, "parent:rpd";r=3;t=8640, "parent:tpd";r=900"#
        );
        // Looking changes nothing.
        assert_eq!(lease.consumed()["rpd"], 4);
        assert_eq!(lease.into_owned().statuses().len(), 4);
    }
}
