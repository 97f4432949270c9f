//! Stored limits: which hold for whom, and since when.

use std::time::Duration;

use zae_limiter::{EntityChange, Error, ErrorKind, LimitScope, NewEntity, Settings};

use super::face::Limiter;
use super::world::{SOON, World, per_day};

/// How many of so many acquires of one are admitted under stored limits.
async fn admitted(limiter: &Limiter, id: &str, acquires: u64, cascade: bool) -> Result<u64, Error> {
    let mut admitted = 0;
    for _ in 0..acquires {
        let acquire = limiter.acquire(id, "gpt-4").use_stored_limits(true);
        match acquire.consume("rpm", 1).cascade(cascade).go().await {
            Ok(lease) => {
                lease.commit();
                admitted += 1;
            }
            Err(Error::RateLimitExceeded(_)) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(admitted)
}

pub(super) async fn stored_limits_are_found_in_their_order(world: &World) -> Result<(), Error> {
    let limiter = world.limiter().await?;
    let acquire = || limiter.acquire("a", "gpt-4").use_stored_limits(true);
    let none = acquire().consume("rpm", 1).go().await.map(drop);
    let none = none.expect_err("no limits at all").to_string();
    assert!(none.contains("no limits are stored"), "{none}");
    let given = [per_day("rpm", 2)];
    let over = acquire()
        .limits(&given)
        .consume("rpm", 3)
        .go()
        .await
        .map(drop);
    assert_eq!(
        over.expect_err("those of the call").kind(),
        ErrorKind::Validation
    );

    let b = LimitScope::entity("b")?;
    let c = LimitScope::entity("c")?;
    let resource = LimitScope::resource("gpt-4")?;
    for (scope, capacity) in [
        (&LimitScope::system(), 3),
        (&resource, 5),
        (&b, 7),
        (&c, 1),
        (&c.clone().on("gpt-4")?, 9),
    ] {
        let limits = [per_day("rpm", capacity)];
        limiter.set_limits(scope, &limits).await?;
        assert_eq!(limiter.get_limits(scope).await?, limits);
    }
    assert_eq!(
        admitted(&limiter, "a", 12, false).await?,
        5,
        "the resource's"
    );
    assert_eq!(admitted(&limiter, "b", 12, false).await?, 7, "the entity's");
    assert_eq!(
        admitted(&limiter, "c", 12, false).await?,
        9,
        "the entity's for the resource"
    );
    assert!(limiter.delete_limits(&resource).await?);
    assert!(!limiter.delete_limits(&resource).await?);
    assert!(limiter.get_limits(&resource).await?.is_empty());
    assert_eq!(admitted(&limiter, "d", 12, false).await?, 3, "the system's");
    limiter.shutdown(SOON).await;
    Ok(())
}

pub(super) async fn child_and_parent_have_limits_of_their_own(world: &World) -> Result<(), Error> {
    let limiter = world.limiter().await?;
    limiter.create_entity(NewEntity::new("project")).await?;
    for child in ["key-1", "key-2"] {
        let child = NewEntity::new(child).parent("project");
        limiter.create_entity(child).await?;
    }
    let rpm = |capacity| per_day("rpm", capacity);
    limiter.set_limits(&LimitScope::system(), &[rpm(6)]).await?;
    // The parent does not limit tokens, and so is not charged for them.
    limiter
        .set_limits(&LimitScope::entity("project")?, &[rpm(8)])
        .await?;
    let both = [rpm(6), per_day("tpm", 1_000)];
    limiter
        .set_limits(&LimitScope::entity("key-2")?, &both)
        .await?;
    assert_eq!(
        admitted(&limiter, "key-1", 10, true).await?,
        6,
        "the child's"
    );
    let look = || {
        limiter
            .acquire("key-2", "gpt-4")
            .use_stored_limits(true)
            .cascade(true)
    };
    let mut lease = look().consume("rpm", 1).consume("tpm", 900).go().await?;
    lease.adjust("tpm", -500).await?;
    assert_eq!(lease.consumed()["tpm"], 400);
    lease.commit();
    assert_eq!(
        admitted(&limiter, "key-2", 10, true).await?,
        1,
        "the parent's"
    );

    // What a block does not take back any more comes back with the next renewal.
    let mut available = look().available().await?;
    while available
        .iter()
        .any(|a| a.limit_name == "tpm" && a.estimate < 600)
    {
        world.pause(Duration::from_millis(10)).await;
        available = look().available().await?;
    }
    let of = |id: &str| -> Vec<_> {
        let of = available.iter().filter(|a| a.entity_id == id);
        of.map(|a| (a.limit_name.as_str(), a.estimate)).collect()
    };
    assert_eq!(of("project"), [("rpm", 0)]);
    assert_eq!(of("key-2"), [("rpm", 4), ("tpm", 600)]);
    let wait = look().consume("rpm", 1).time_until_available().await?;
    let eighth = Duration::from_secs(86_400 / 8);
    assert!(
        wait > eighth - Duration::from_secs(600) && wait <= eighth,
        "{wait:?}"
    );
    let wait = look().consume("tpm", 600).time_until_available().await?;
    assert_eq!(wait, Duration::ZERO);
    limiter.shutdown(SOON).await;
    Ok(())
}

/// B8 of the Python library.
pub(super) async fn changes_are_in_force_within_the_time_to_live(
    world: &World,
) -> Result<(), Error> {
    let (here, there) = (world.limiter().await?, world.limiter().await?);
    let spread = Duration::from_millis(350);
    here.create_entity(NewEntity::new("project")).await?;
    here.create_entity(NewEntity::new("key")).await?;
    let key = LimitScope::entity("key")?;
    let rpm = |capacity| [per_day("rpm", capacity)];
    here.set_limits(&LimitScope::system(), &rpm(1)).await?;
    here.set_limits(&key, &rpm(100)).await?;
    assert_eq!(admitted(&there, "key", 20, true).await?, 20);
    // A cut, and a parent that is set late.
    here.set_limits(&key, &rpm(10)).await?;
    here.set_parent("key", Some("project")).await?;
    world.pause(spread).await;
    assert!(
        admitted(&there, "key", 20, true).await? <= 1,
        "the parent has one"
    );
    assert!(
        admitted(&there, "key", 20, false).await? <= 10,
        "cut to the new burst"
    );
    // Raised: more than ten fit again. A bucket keeps its level, so a request is a look.
    here.set_limits(&key, &rpm(1_000)).await?;
    world.pause(spread).await;
    let acquire = there.acquire("key", "gpt-4").use_stored_limits(true);
    let statuses = acquire.consume("rpm", 500).check().await?;
    assert_eq!(statuses[0].limit.capacity(), 1_000);
    // Without waiting, for who is told to look again.
    here.set_limits(&key, &rpm(2_000)).await?;
    there.forget_stored();
    let acquire = there.acquire("key", "gpt-4").use_stored_limits(true);
    let statuses = acquire.consume("rpm", 1_500).check().await?;
    assert_eq!(statuses[0].limit.capacity(), 2_000);
    here.shutdown(SOON).await;
    there.shutdown(SOON).await;
    Ok(())
}

/// Limits that are deleted, and an entity that begins to cascade.
pub(super) async fn what_is_taken_away_here_is_taken_away_elsewhere(
    world: &World,
) -> Result<(), Error> {
    let settings = || Settings {
        cascade_by_entity: true,
        ..world.settings()
    };
    let here = world.limiter_on(world.table(), settings()).await?;
    let there = world.limiter_on(world.table(), settings()).await?;
    here.create_entity(NewEntity::new("project")).await?;
    let key = NewEntity::new("key").parent("project");
    here.create_entity(key).await?;
    let (user, key) = (LimitScope::entity("user")?, LimitScope::entity("key")?);
    for (scope, capacity) in [(&LimitScope::system(), 1), (&user, 100), (&key, 100)] {
        here.set_limits(scope, &[per_day("rpm", capacity)]).await?;
    }
    // Whether it cascades, the entity says.
    let by_key = async || {
        let mut admitted = 0;
        for _ in 0..20 {
            let acquire = there.acquire("key", "gpt-4").use_stored_limits(true);
            if let Ok(lease) = acquire.consume("rpm", 1).go().await {
                lease.commit();
                admitted += 1;
            }
        }
        admitted
    };
    assert_eq!(admitted(&there, "user", 20, false).await?, 20);
    assert_eq!(by_key().await, 20);
    assert!(here.delete_limits(&user).await?);
    let change = EntityChange {
        cascade: Some(true),
        ..EntityChange::default()
    };
    here.update_entity("key", &change).await?;
    world.pause(Duration::from_millis(350)).await;
    let left = admitted(&there, "user", 20, false).await?;
    assert!(left <= 1, "{left}: the system's is one");
    let left = by_key().await;
    assert!(left <= 1, "{left}: the project has one");
    here.shutdown(SOON).await;
    there.shutdown(SOON).await;
    Ok(())
}
