//! Bad input, missing tables, denied permission, outages: a clear error, and nothing changed.

use std::time::{Duration, Instant};

use zae_limiter::store::{ConnectOptions, DynamoDbStore, FaultyStore, MemoryStore};
use zae_limiter::{ErrorKind, Limit, NewEntity, RateLimiter, Settings};
use zae_limiter_tests::{endpoint, fresh_table};

fn limits() -> [Limit; 2] {
    [
        Limit::per_minute("rpm", 100).expect("a limit"),
        Limit::per_minute("tpm", 10_000).expect("a limit"),
    ]
}

/// The field, the value and the rule, in one line.
async fn refusal(
    limiter: &RateLimiter,
    entity: &str,
    resource: &str,
    consume: &[(&str, u64)],
) -> String {
    let limits = limits();
    let mut texts = Vec::new();
    for (strict, cascade) in [(false, false), (true, false), (false, true), (true, true)] {
        let acquire = limiter.acquire(entity, resource).limits(&limits);
        let acquire = consume
            .iter()
            .fold(acquire, |a, &(name, tokens)| a.consume(name, tokens));
        let acquire = acquire.strict(strict).cascade(cascade);
        let now = acquire
            .clone()
            .try_acquire()
            .map(drop)
            .expect_err("bad input");
        let error = acquire.await.map(drop).expect_err("bad input");
        assert_eq!(error.kind(), ErrorKind::Validation, "{error}");
        assert_eq!(error.to_string(), now.to_string());
        texts.push(error.to_string());
    }
    texts.dedup();
    assert_eq!(texts.len(), 1, "{texts:?}");
    texts.remove(0)
}

/// B12 and B15 of the Python library.
#[tokio::test]
async fn bad_input_is_named_and_touches_nothing() {
    let store = FaultyStore::new(MemoryStore::new());
    let limiter = RateLimiter::builder("bad-input").store(store.clone());
    let limiter = limiter.connect().await.expect("a table");
    store.reset();
    let long = "x".repeat(257);
    for (entity, resource, consume, parts) in [
        (
            "",
            "api",
            &[("rpm", 1)][..],
            ["entity_id", "\"\"", "cannot be empty"],
        ),
        (
            "a#b",
            "api",
            &[("rpm", 1)],
            ["entity_id", "\"a#b\"", "cannot contain '#'"],
        ),
        (
            &long,
            "api",
            &[("rpm", 1)],
            ["entity_id", "xxx...", "exceeds maximum length of 256"],
        ),
        (
            "user",
            "",
            &[("rpm", 1)],
            ["resource", "\"\"", "cannot be empty"],
        ),
        (
            "user",
            "x#y",
            &[("rpm", 1)],
            ["resource", "\"x#y\"", "cannot contain '#'"],
        ),
        (
            "user",
            "4x",
            &[("rpm", 1)],
            ["resource", "\"4x\"", "must start with a letter"],
        ),
        (
            "user",
            "api",
            &[("rps", 1)],
            ["consume", "\"rps\"", "not one of the limits: rpm, tpm"],
        ),
        (
            "user",
            "api",
            &[("rpm", 101)],
            ["consume", "\"rpm=101\"", "at most 100 tokens"],
        ),
        (
            "user",
            "api",
            &[("rpm", u64::MAX)],
            ["consume", "rpm=1844", "at most 100 tokens"],
        ),
        (
            "user",
            "api",
            &[("rpm", 1), ("rpm", 1)],
            ["consume", "\"rpm\"", "consumed twice"],
        ),
    ] {
        let text = refusal(&limiter, entity, resource, consume).await;
        assert!(parts.iter().all(|part| text.contains(part)), "{text}");
    }
    let twice = [limits()[0].clone(), limits()[0].clone()];
    for (limits, rule) in [(&twice[..], "declared twice"), (&[], "at least one limit")] {
        let acquire = limiter
            .acquire("user", "api")
            .limits(limits)
            .consume("rpm", 1);
        let error = acquire.await.map(drop).expect_err("bad limits").to_string();
        assert!(error.contains(rule), "{error}");
    }
    let own_parent = limiter.create_entity(NewEntity::new("a").parent("a")).await;
    assert_eq!(
        own_parent.expect_err("its own parent").kind(),
        ErrorKind::Validation
    );
    let bad_parent = limiter
        .create_entity(NewEntity::new("a").parent("b#c"))
        .await;
    assert!(
        bad_parent
            .expect_err("'#'")
            .to_string()
            .contains("parent_id")
    );
    assert_eq!((store.reads(), store.writes()), (0, 0));
    assert_eq!(limiter.metrics().cached_buckets, 0);

    let limits = limits();
    let mut lease = limiter
        .acquire("user", "api")
        .limits(&limits)
        .consume("rpm", 1)
        .await
        .expect("full");
    for (name, delta, rule) in [
        ("rps", 1, "not one of the limits"),
        ("rpm", -2, "more than the 1 tokens consumed"),
        ("rpm", i64::MAX, "at most 1000000000000"),
        ("rpm", i64::MIN, "at most 1000000000000"),
    ] {
        let error = lease
            .adjust(name, delta)
            .await
            .expect_err("bad input")
            .to_string();
        assert!(error.contains(rule), "{error}");
    }
    assert_eq!(lease.consumed()["rpm"], 1);
    drop(lease);
    for name in ["", "my_app", "my app", "4app", "a.b", &"x".repeat(39)] {
        let error = RateLimiter::builder(name)
            .in_memory()
            .connect()
            .await
            .map(drop);
        assert_eq!(
            error.expect_err(name).kind(),
            ErrorKind::Validation,
            "{name}"
        );
    }
}

#[tokio::test]
async fn an_entity_exists_once() {
    let table = fresh_table("refusals").await;
    let limiter = RateLimiter::builder("refusals").store(table.store());
    let limiter = limiter.connect().await.expect("a table");
    limiter
        .create_entity(NewEntity::new("user").metadata("plan", "pro"))
        .await
        .expect("new");
    let again = limiter
        .create_entity(NewEntity::new("user"))
        .await
        .expect_err("exists");
    assert_eq!(
        (again.kind(), again.to_string().as_str()),
        (ErrorKind::EntityExists, "entity \"user\" exists already")
    );
    let entity = limiter
        .get_entity("user")
        .await
        .expect("a table")
        .expect("created");
    assert_eq!(
        (entity.name.as_str(), entity.metadata["plan"].as_str()),
        ("user", "pro")
    );
    assert_eq!(limiter.get_entity("nobody").await.expect("a table"), None);
}

#[tokio::test]
async fn a_missing_table_and_a_silent_endpoint_are_told_when_connecting() {
    let missing = RateLimiter::builder("not-there")
        .region("us-east-1")
        .endpoint_url(endpoint());
    let error = missing.connect().await.map(drop).expect_err("no table");
    assert_eq!(error.kind(), ErrorKind::TableMissing, "{error}");
    assert!(error.to_string().contains("ZAEL-not-there"), "{error}");

    let silent = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let url = format!("http://{}", silent.local_addr().expect("bound"));
    let options = ConnectOptions::new("ZAEL-silent")
        .region("us-east-1")
        .endpoint_url(&url);
    let options = options.operation_timeout(Duration::from_millis(500));
    let store = DynamoDbStore::connect(options)
        .await
        .expect("no request yet");
    let begun = Instant::now();
    let error = RateLimiter::builder("silent")
        .store(store)
        .connect()
        .await
        .map(drop);
    let error = error.expect_err("no answer");
    assert!(begun.elapsed() < Duration::from_secs(10));
    assert!(error.to_string().contains(&url), "{error}");
}

#[tokio::test]
async fn what_the_builder_is_told_wins_over_settings_in_whatever_order() {
    let elsewhere = Settings {
        endpoint_url: Some("http://127.0.0.1:9".into()), // where nobody answers
        region: Some("nowhere-1".into()),
        ..Settings::default()
    };
    let builder = || RateLimiter::builder("not-there");
    for builder in [
        builder()
            .region("us-east-1")
            .endpoint_url(endpoint())
            .settings(elsewhere.clone()),
        builder()
            .settings(elsewhere)
            .region("us-east-1")
            .endpoint_url(endpoint()),
    ] {
        let error = builder.connect().await.map(drop).expect_err("no table");
        assert_eq!(error.kind(), ErrorKind::TableMissing, "{error}");
    }
}
