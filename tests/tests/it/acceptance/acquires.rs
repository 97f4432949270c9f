//! Acquires: one limit or several, one bucket or two, at once or later.

use std::time::{Duration, Instant};

use zae_limiter::{EntityChange, Error, ErrorKind, Limit, NewEntity, Settings};

use super::world::{SOON, World, per_day};

/// B13 of the Python library.
pub(super) async fn all_limits_or_none(world: &World) -> Result<(), Error> {
    let limiter = world.limiter().await?;
    assert_eq!(limiter.table_name(), "ZAEL-acceptance");
    let limits = [per_day("rpm", 10), per_day("tpm", 1_000)];
    let acquire = |tokens| {
        let acquire = limiter.acquire("user", "gpt-4").limits(&limits);
        acquire.consume("rpm", 1).consume("tpm", tokens)
    };
    let lease = acquire(600).go().await?;
    assert_eq!(lease.consumed(), [("rpm", 1), ("tpm", 600)].into());
    assert_eq!(lease.degraded(), None);
    lease.commit();
    let error = acquire(500).go().await.map(drop).expect_err("400 are left");
    let exceeded = error.as_exceeded().expect("a rejection");
    let violations: Vec<_> = exceeded.violations().map(|s| s.limit.name()).collect();
    let passed: Vec<_> = exceeded.passed().map(|s| s.limit.name()).collect();
    assert_eq!((violations, passed), (vec!["tpm"], vec!["rpm"]));
    let primary = exceeded.primary_violation().expect("there is one");
    assert_eq!(
        (primary.entity_id.as_str(), primary.requested),
        ("user", 500)
    );
    let tenth = Duration::from_secs(8_640);
    let wait = exceeded.retry_after();
    assert!(
        wait > tenth - Duration::from_secs(600) && wait <= tenth,
        "{wait:?}"
    );
    // Only what is named is charged: nine requests are left, and tokens do not matter.
    for _ in 0..9 {
        let only = limiter.acquire("user", "gpt-4").limits(&limits);
        only.consume("rpm", 1).go().await?.commit();
    }
    acquire(400)
        .go()
        .await
        .map(drop)
        .expect_err("the requests are spent");
    limiter.shutdown(SOON).await;
    assert_eq!(world.level("user", &limits[0]).await, 0);
    assert_eq!(world.level("user", &limits[1]).await, 400);
    assert_eq!(world.consumed("user", &limits[1]).await, 600);
    Ok(())
}

/// A refusal in leased mode is remembered, but only for as many tokens.
pub(super) async fn who_is_refused_much_may_have_less(world: &World) -> Result<(), Error> {
    let limiter = world.limiter().await?;
    let limits = [per_day("rpm", 10)];
    let acquire = |tokens| {
        let acquire = limiter.acquire("user", "gpt-4").limits(&limits);
        acquire.consume("rpm", tokens)
    };
    acquire(6).go().await?.commit();
    for tokens in [5, 6, 5] {
        assert!(acquire(tokens).go().await.is_err(), "four are left");
    }
    acquire(3).go().await?.commit();
    assert!(acquire(3).go().await.is_err(), "one is left");
    acquire(1).go().await?.commit();
    assert!(acquire(1).go().await.is_err(), "none is left");
    limiter.shutdown(SOON).await;
    assert_eq!(world.level("user", &limits[0]).await, 0);
    Ok(())
}

/// B13 of the Python library.
pub(super) async fn what_cannot_be_right_is_an_error_and_changes_nothing(
    world: &World,
) -> Result<(), Error> {
    let limiter = world.limiter().await?;
    let limits = [per_day("rpm", 10)];
    let twice = [per_day("rpm", 10), per_day("rpm", 20)];
    let acquire = |id| limiter.acquire(id, "gpt-4").limits(&limits);
    for (acquire, rule) in [
        (acquire("user").consume("rpm", 11), "can never fit"),
        (
            acquire("user").consume("rpn", 1),
            "is not one of the limits",
        ),
        (
            acquire("user").consume("rpm", 1).consume("rpm", 1),
            "consumed twice",
        ),
        (acquire("a#b").consume("rpm", 1), "reserved delimiter"),
        (limiter.acquire("user", "gpt 4").limits(&limits), "letter"),
        (limiter.acquire("user", "gpt-4"), "at least one limit"),
        (
            limiter.acquire("user", "gpt-4").limits(&twice),
            "declared twice",
        ),
    ] {
        let patient = acquire.clone().wait_up_to(Duration::from_secs(30));
        let strict = acquire.clone().strict(true);
        for result in [
            acquire.clone().go().await.map(drop),
            patient.go().await.map(drop),
            strict.go().await.map(drop),
            acquire.clone().try_acquire().map(drop),
            acquire.clone().check().await.map(drop),
        ] {
            let error = result.expect_err(rule);
            assert_eq!(error.kind(), ErrorKind::Validation, "{error}");
            assert!(error.to_string().contains(rule), "{error}");
        }
    }
    limiter.shutdown(SOON).await;
    assert_eq!(world.consumed("user", &limits[0]).await, 0);
    Ok(())
}

pub(super) async fn a_cascade_charges_both_or_neither(world: &World) -> Result<(), Error> {
    let limiter = world.limiter().await?;
    limiter.create_entity(NewEntity::new("project")).await?;
    let limits = [per_day("rpm", 10)];
    for key in ["key-1", "key-2"] {
        limiter
            .create_entity(NewEntity::new(key).parent("project"))
            .await?;
    }
    let acquire = |id, tokens| {
        let acquire = limiter.acquire(id, "gpt-4").limits(&limits);
        acquire.consume("rpm", tokens)
    };
    acquire("key-1", 7).cascade(true).go().await?.commit();
    let refused = acquire("key-2", 4).cascade(true).go().await.map(drop);
    let refused = refused.expect_err("the parent has three");
    let exceeded = refused.as_exceeded().expect("a rejection");
    let primary = exceeded.primary_violation().expect("there is one");
    assert_eq!(primary.entity_id, "project");
    acquire("key-2", 9).go().await?.commit(); // the child lost nothing by it
    let lease = acquire("key-1", 3).cascade(true).go().await?;
    lease.rollback().await; // of both
    acquire("key-1", 3).cascade(true).go().await?.commit();
    // Who is not known, and who has no parent, has nobody to charge.
    acquire("nobody", 10).cascade(true).go().await?.commit();
    limiter.shutdown(SOON).await;
    for (id, level) in [("project", 0), ("key-1", 0), ("key-2", 1), ("nobody", 0)] {
        assert_eq!(world.level(id, &limits[0]).await, level, "{id}");
    }
    Ok(())
}

pub(super) async fn an_entity_may_say_that_it_cascades(world: &World) -> Result<(), Error> {
    let settings = Settings {
        cascade_by_entity: true,
        ..world.settings()
    };
    let limiter = world.limiter_on(world.table(), settings).await?;
    limiter.create_entity(NewEntity::new("project")).await?;
    let key = NewEntity::new("key").parent("project").cascade(true);
    limiter.create_entity(key).await?;
    let limits = [per_day("rpm", 5)];
    let project = limiter.acquire("project", "gpt-4").limits(&limits);
    project.consume("rpm", 5).go().await?.commit();
    let acquire = || {
        limiter
            .acquire("key", "gpt-4")
            .limits(&limits)
            .consume("rpm", 1)
    };
    assert!(acquire().go().await.is_err(), "the entity says so");
    assert!(
        acquire().cascade(false).go().await.is_ok(),
        "the call says otherwise"
    );
    let change = EntityChange {
        cascade: Some(false),
        ..EntityChange::default()
    };
    limiter.update_entity("key", &change).await?;
    acquire().go().await?.commit();
    limiter.shutdown(SOON).await;
    Ok(())
}

pub(super) async fn a_handle_is_as_good_as_names(world: &World) -> Result<(), Error> {
    let limiter = world.limiter().await?;
    let limits = [per_day("rpm", 1_000)];
    let acquire = || limiter.acquire("user", "gpt-4").limits(&limits);
    let handle = acquire().handle().await?;
    let mut spent = 0;
    for _ in 0..10 {
        handle.acquire(&[("rpm", 10)]).await?.commit();
        acquire().consume("rpm", 10).go().await?.commit();
        spent += 20;
    }
    // At once or not at all: without the table if the tokens are in hand, never in strict mode.
    let begun = Instant::now();
    let mut hits = 0;
    while hits < 4 && begun.elapsed() < SOON {
        for tried in [
            handle.try_acquire(&[("rpm", 1)]),
            acquire().consume("rpm", 1).try_acquire(),
        ] {
            match tried {
                Ok(lease) => {
                    lease.commit();
                    hits += 1;
                }
                Err(error) => assert_eq!(error.kind(), ErrorKind::WouldWait, "{error}"),
            }
        }
        if world.is_strict() {
            break;
        }
        world.pause(Duration::from_millis(20)).await;
    }
    assert_eq!(hits > 0, !world.is_strict());
    let unknown = handle.acquire(&[("tpm", 1)]).await.map(drop);
    assert_eq!(
        unknown.expect_err("no such limit").kind(),
        ErrorKind::Validation
    );
    limiter.shutdown(SOON).await;
    let left = world.level("user", &limits[0]).await;
    assert_eq!(left, 1_000 - spent - hits);
    Ok(())
}

pub(super) async fn who_waits_gets_tokens_when_they_come(world: &World) -> Result<(), Error> {
    let limiter = world.limiter().await?;
    let limits = [Limit::per_second("rps", 100)?];
    let acquire = |tokens| {
        let acquire = limiter.acquire("user", "gpt-4").limits(&limits);
        acquire.consume("rps", tokens)
    };
    let begun = Instant::now();
    acquire(100).go().await?.commit();
    for _ in 0..2 {
        acquire(100).wait_up_to(SOON).go().await?.commit();
    }
    // In leased mode the coming refill is spent as it is expected.
    let least = Duration::from_millis(if world.is_strict() { 1_900 } else { 1_000 });
    assert!(begun.elapsed() > least, "{:?}", begun.elapsed());
    let slow = [Limit::per_hour("rph", 10)?];
    let acquire = || {
        limiter
            .acquire("slow", "gpt-4")
            .limits(&slow)
            .consume("rph", 10)
    };
    acquire().go().await?.commit();
    let begun = Instant::now();
    let in_vain = acquire().wait_up_to(Duration::from_secs(600)).go().await;
    let error = in_vain.map(drop).expect_err("in an hour");
    assert_eq!(error.kind(), ErrorKind::RateLimitExceeded, "{error}");
    assert!(
        begun.elapsed() < Duration::from_secs(60),
        "that is known at once"
    );
    limiter.shutdown(SOON).await;
    Ok(())
}

pub(super) async fn a_shutdown_gives_back_and_closes(world: &World) -> Result<(), Error> {
    let limiter = world.limiter().await?;
    let limits = [per_day("rpm", 1_000)];
    let acquire = || {
        limiter
            .acquire("user", "gpt-4")
            .limits(&limits)
            .consume("rpm", 5)
    };
    for _ in 0..20 {
        acquire().go().await?.commit();
        world.pause(Duration::from_millis(5)).await;
    }
    assert!(limiter.metrics().writes > 0);
    assert_eq!(limiter.shutdown(SOON).await.unreturned, 0);
    assert_eq!(world.level("user", &limits[0]).await, 900);
    assert_eq!(world.consumed("user", &limits[0]).await, 100);
    for result in [
        acquire().go().await.map(drop),
        acquire().try_acquire().map(drop),
        acquire().strict(true).go().await.map(drop),
        acquire().wait_up_to(SOON).go().await.map(drop),
    ] {
        assert_eq!(result.expect_err("closed").kind(), ErrorKind::ShutDown);
    }
    assert_eq!(limiter.shutdown(SOON).await.unreturned, 0, "twice is once");
    Ok(())
}
