//! Looks that consume nothing.

use std::time::{Duration, SystemTime};

use zae_limiter::store::Store;
use zae_limiter::{
    Error, ErrorKind, NewEntity, PageRequest, Settings, UsageQuery, UsageSnapshot, VersionRecord,
    Window, http,
};

use super::world::{SOON, World, per_day};

/// B12 of the Python library.
pub(super) async fn looks_consume_nothing_and_know_the_parent(world: &World) -> Result<(), Error> {
    let limiter = world.limiter().await?;
    limiter.create_entity(NewEntity::new("project")).await?;
    limiter
        .create_entity(NewEntity::new("key").parent("project"))
        .await?;
    let limits = [per_day("rpm", 10), per_day("tpm", 1_000)];
    let project = limiter.acquire("project", "gpt-4").limits(&limits);
    project.consume("rpm", 8).go().await?.commit();
    let look = || limiter.acquire("key", "gpt-4").limits(&limits);

    for _ in 0..2 {
        let available = limiter.available("key", "gpt-4", &limits).await?;
        let found: Vec<_> = available
            .iter()
            .map(|a| (a.limit_name.as_str(), a.estimate))
            .collect();
        assert_eq!(found, [("rpm", 10), ("tpm", 1_000)]);
        let available = look().cascade(true).available().await?;
        let found: Vec<_> = available
            .iter()
            .map(|a| (a.entity_id.as_str(), a.estimate))
            .collect();
        assert_eq!(
            found,
            [
                ("key", 10),
                ("key", 1_000),
                ("project", 2),
                ("project", 1_000)
            ]
        );
        let strict = look().strict(true).available().await?;
        assert_eq!(strict[0].estimate, 10);
    }

    let statuses = look().consume("rpm", 3).check().await?;
    assert!(statuses.iter().all(|status| !status.exceeded));
    let statuses = look().consume("rpm", 3).cascade(true).check().await?;
    let exceeded: Vec<_> = statuses.iter().filter(|status| status.exceeded).collect();
    assert_eq!(exceeded.len(), 1);
    assert_eq!(
        (exceeded[0].entity_id.as_str(), exceeded[0].available),
        ("project", 2)
    );
    let wait = look().consume("rpm", 3).time_until_available().await?;
    assert_eq!(wait, Duration::ZERO);
    let wait = look()
        .consume("rpm", 3)
        .cascade(true)
        .time_until_available()
        .await?;
    let tenth = Duration::from_secs(8_640);
    assert!(
        wait > tenth - Duration::from_secs(600) && wait <= tenth,
        "{wait:?}"
    );
    let refused = look().consume("rpm", 3).cascade(true).go().await.map(drop);
    let refused = refused.expect_err("as it was said");
    let exceeded = refused.as_exceeded().expect("a rejection");
    assert!(exceeded.retry_after() <= tenth);
    let short = exceeded.primary_violation().expect("the parent's");
    assert_eq!(
        (short.entity_id.as_str(), short.available),
        ("project", 2),
        "as it was said"
    );

    limiter.shutdown(SOON).await;
    for (id, level) in [("key", 10), ("project", 2)] {
        assert_eq!(world.level(id, &limits[0]).await, level, "{id}");
    }
    assert_eq!(world.consumed("key", &limits[0]).await, 0);
    Ok(())
}

pub(super) async fn the_capacity_of_a_resource_is_that_of_all(world: &World) -> Result<(), Error> {
    let limiter = world.limiter().await?;
    limiter.create_entity(NewEntity::new("project")).await?;
    limiter
        .create_entity(NewEntity::new("key").parent("project"))
        .await?;
    let limits = [per_day("rpm", 100)];
    let acquire = limiter.acquire("key", "gpt-4").limits(&limits);
    acquire
        .consume("rpm", 30)
        .cascade(true)
        .go()
        .await?
        .commit();
    let acquire = limiter.acquire("user", "gpt-4").limits(&limits);
    acquire.consume("rpm", 10).go().await?.commit();
    limiter.shutdown(SOON).await; // nothing is held
    let all = limiter.get_resource_capacity("gpt-4", "rpm", false).await?;
    assert_eq!((all.total_capacity, all.total_available), (300, 230));
    let parents = limiter.get_resource_capacity("gpt-4", "rpm", true).await?;
    assert_eq!((parents.total_capacity, parents.total_available), (100, 70));
    let page = PageRequest::default().size(2);
    let page = limiter
        .list_resource_capacity("gpt-4", "rpm", false, &page)
        .await?;
    assert_eq!((page.items.len(), page.next.is_some()), (2, true));
    let nothing = limiter.get_resource_capacity("gpt-4", "tpm", false).await?;
    assert!(nothing.entities.is_empty());
    Ok(())
}

pub(super) async fn usage_is_what_was_consumed_and_not_given_back(
    world: &World,
) -> Result<(), Error> {
    let limiter = world.limiter().await?;
    let limits = [per_day("rpm", 100), per_day("tpm", 1_000)];
    for (id, tokens, correction) in [("one", 300, -20), ("two", 120, 5), ("two", 50, 0)] {
        let acquire = limiter.acquire(id, "gpt-4").limits(&limits);
        let mut lease = acquire
            .consume("rpm", 1)
            .consume("tpm", tokens)
            .go()
            .await?;
        lease.adjust("tpm", correction).await?;
        lease.commit();
    }
    let acquire = limiter.acquire("one", "gpt-4").limits(&limits);
    acquire.consume("tpm", 400).go().await?.rollback().await;
    // All of it is in the table then.
    limiter.shutdown(SOON).await;
    world.count_usage(&["one", "two"]).await;

    let limiter = world.limiter().await?;
    for window in Window::ALL {
        for (query, rpm, tpm) in [
            (UsageQuery::entity("one")?, 1, 280),
            (UsageQuery::entity("two")?.resource("gpt-4")?, 2, 175),
            (UsageQuery::of_resource("gpt-4")?, 3, 455),
        ] {
            let query = query.window(window);
            let mut snapshots = Vec::new();
            let mut page = PageRequest::default().size(1);
            loop {
                let usage = limiter.get_usage(&query, &page).await?;
                snapshots.extend(usage.items);
                match usage.next {
                    Some(next) => page = page.after(next),
                    None => break,
                }
            }
            let are_right =
                |usage: &UsageSnapshot| usage.window == window && usage.total_events > 0;
            assert!(snapshots.iter().all(are_right), "{snapshots:?}");
            let sum = |limit: &str| -> i64 {
                let tokens = snapshots
                    .iter()
                    .filter_map(|usage| usage.counters.get(limit));
                tokens.sum()
            };
            assert_eq!((sum("rpm"), sum("tpm")), (rpm, tpm), "{query:?}");
            let summary = limiter.summarize_usage(&query).await?;
            let total = |limit: &str| summary.limits[limit].total;
            assert_eq!((total("rpm"), total("tpm")), (rpm, tpm), "{query:?}");
            let before = query.until(SystemTime::UNIX_EPOCH);
            assert!(limiter.summarize_usage(&before).await?.limits.is_empty());
        }
    }
    Ok(())
}

pub(super) async fn a_lease_says_how_its_limits_stand(world: &World) -> Result<(), Error> {
    let limiter = world.limiter().await?;
    let limits = [per_day("rpm", 10)];
    let acquire = limiter.acquire("key", "gpt-4").limits(&limits);
    let lease = acquire.consume("rpm", 7).go().await?;
    let statuses = lease.statuses();
    assert_eq!((statuses[0].available, statuses[0].requested), (3, 7));
    assert_eq!(statuses[0].deficit(), 4);
    assert_eq!(http::rate_limit_policy(&statuses), r#""rpm";q=10;w=86400"#);
    assert_eq!(http::rate_limit(&statuses), r#""rpm";r=3;t=34560"#);
    Ok(())
}

pub(super) async fn a_table_of_another_layout_is_not_touched(world: &World) -> Result<(), Error> {
    world.limiter().await?;
    let table = world.table();
    let ours = table.read_version().await?.expect("a record");
    let theirs = VersionRecord {
        schema_version: "0.9.0".to_owned(),
        ..ours.clone()
    };
    assert!(table.write_version(&theirs, Some(&ours)).await?);
    let error = world.limiter().await.expect_err("another layout");
    assert_eq!(error.kind(), ErrorKind::IncompatibleSchema);
    let command = "zae-limiter upgrade --name acceptance";
    assert!(error.to_string().contains(command), "{error}");
    assert_eq!(table.read_version().await?.as_ref(), Some(&theirs));
    let settings = Settings {
        skip_version_check: true,
        ..world.settings()
    };
    world.limiter_on(world.table(), settings).await.map(drop)
}
