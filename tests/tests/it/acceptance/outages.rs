//! What is answered while the table is away.

use std::time::Duration;

use zae_limiter::store::Fault;
use zae_limiter::{Degraded, Error, ErrorKind, FailureMode, LimitScope, Share};

use super::world::{SOON, World, per_day};

pub(super) async fn an_outage_is_answered_as_the_failure_mode_says(
    world: &World,
) -> Result<(), Error> {
    let table = world.table();
    let limiter = world.limiter_on(table.clone(), world.settings()).await?;
    let limits = [per_day("rpm", 100)];
    let acquire = |tokens| {
        let acquire = limiter.acquire("user", "gpt-4").limits(&limits);
        acquire.consume("rpm", tokens)
    };
    table.fail_all(Some(Fault::Unreachable));
    let error = acquire(1)
        .go()
        .await
        .map(drop)
        .expect_err("closed is the default");
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
    let mut lease = acquire(90).failure_mode(FailureMode::Open).go().await?;
    assert_eq!(lease.degraded(), Some(Degraded::Open));
    lease.consume("rpm", 90).await?;
    lease.commit();
    let half = FailureMode::Local(Share::new(0.5)?);
    let mut lease = acquire(30).failure_mode(half).go().await?;
    assert_eq!(lease.degraded(), Some(Degraded::Local));
    lease.adjust("rpm", -10).await?;
    let error = acquire(40)
        .failure_mode(half)
        .go()
        .await
        .map(drop)
        .expect_err("30 are left");
    assert_eq!(error.kind(), ErrorKind::RateLimitExceeded, "{error}");
    lease.rollback().await;
    acquire(40).failure_mode(half).go().await?.commit();
    let metrics = limiter.metrics();
    assert!(metrics.breaker_open && metrics.unavailable > 0);
    assert_eq!((metrics.admitted_open, metrics.admitted_local), (2, 2));

    table.fail_all(Some(Fault::AccessDenied));
    world.pause(Duration::from_secs(1)).await; // a probe finds out
    let denied = acquire(1)
        .failure_mode(FailureMode::Open)
        .go()
        .await
        .map(drop);
    assert_eq!(
        denied.expect_err("denied is denied").kind(),
        ErrorKind::AccessDenied
    );

    table.fail_all(None);
    while limiter.metrics().breaker_open {
        world.pause(Duration::from_millis(20)).await;
    }
    let lease = acquire(100).wait_up_to(SOON).go().await?;
    assert_eq!(lease.degraded(), None, "nothing was charged meanwhile");
    lease.commit();
    limiter.shutdown(SOON).await;
    assert_eq!(world.consumed("user", &limits[0]).await, 100);
    Ok(())
}

/// As tokens in hand do.
pub(super) async fn what_is_remembered_outlives_an_outage(world: &World) -> Result<(), Error> {
    let table = world.table();
    let limiter = world.limiter_on(table.clone(), world.settings()).await?;
    limiter
        .set_limits(&LimitScope::system(), &[per_day("rpm", 10_000)])
        .await?;
    let acquire = || limiter.acquire("user", "gpt-4").use_stored_limits(true);
    for _ in 0..20 {
        acquire().consume("rpm", 10).go().await?.commit();
        world.pause(Duration::from_millis(10)).await;
    }
    table.fail_all(Some(Fault::Unreachable));
    world.pause(Duration::from_millis(400)).await;
    let answer = acquire().consume("rpm", 1).go().await;
    if world.is_strict() {
        let error = answer.map(drop).expect_err("a write is needed");
        assert_eq!(
            error.kind(),
            ErrorKind::Unavailable,
            "the limits are known: {error}"
        );
        let open = acquire()
            .consume("rpm", 10_001)
            .failure_mode(FailureMode::Open);
        let error = open
            .go()
            .await
            .map(drop)
            .expect_err("over the burst that is known");
        assert_eq!(error.kind(), ErrorKind::Validation, "{error}");
    } else {
        answer?.commit();
    }
    table.fail_all(None);
    limiter.shutdown(SOON).await;
    Ok(())
}
