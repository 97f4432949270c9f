//! What can be done with a lease.

use std::panic::AssertUnwindSafe;
use std::time::Duration;

use futures::FutureExt;
use zae_limiter::{Error, ErrorKind};

use super::face::Work;
use super::world::{SOON, World, per_day};

pub(super) async fn a_lease_is_consumed_from_corrected_and_rolled_back(
    world: &World,
) -> Result<(), Error> {
    let limiter = world.limiter().await?;
    let limits = [per_day("rpm", 100), per_day("tpm", 1_000)];
    let acquire = || {
        let acquire = limiter.acquire("user", "gpt-4").limits(&limits);
        acquire.consume("rpm", 1).consume("tpm", 500)
    };
    let mut lease = acquire().go().await?.into_owned();
    lease.consume("tpm", 300).await?;
    let error = lease.consume("tpm", 300).await.expect_err("200 are left");
    assert_eq!(error.kind(), ErrorKind::RateLimitExceeded, "{error}");
    assert_eq!(
        lease.consumed(),
        [("rpm", 1), ("tpm", 800)].into(),
        "nothing more"
    );
    lease.release("tpm", 100).await?;
    for (name, delta) in [
        ("tpm", -701),
        ("tpn", 1),
        ("tpm", i64::MIN),
        ("tpm", i64::MAX),
    ] {
        let error = lease.adjust(name, delta).await.expect_err("cannot be");
        assert_eq!(error.kind(), ErrorKind::Validation, "{error}");
    }
    lease.adjust("tpm", 450).await?; // into debt
    assert_eq!(lease.consumed()["tpm"], 1_150);
    lease.commit();
    let in_debt = limiter.acquire("user", "gpt-4").limits(&limits);
    let status = &in_debt.clone().consume("tpm", 1).check().await?[1];
    assert!(status.exceeded && status.available <= -149, "{status:?}");
    // Debt of a limit that is not named does not gate.
    let lease = in_debt.consume("rpm", 5).go().await?;
    lease.rollback().await;
    limiter.shutdown(SOON).await;
    assert_eq!(world.level("user", &limits[0]).await, 99);
    assert!((-150..-140).contains(&world.level("user", &limits[1]).await));
    assert_eq!(world.consumed("user", &limits[0]).await, 1);
    assert_eq!(world.consumed("user", &limits[1]).await, 1_150);
    Ok(())
}

pub(super) async fn work_that_fails_gives_back(world: &World) -> Result<(), Error> {
    let limiter = world.limiter().await?;
    let limits = [per_day("rpm", 100)];
    let acquire = || {
        limiter
            .acquire("user", "gpt-4")
            .limits(&limits)
            .consume("rpm", 30)
    };
    acquire().run("rpm", 10, Work::Succeeds).await?;
    for _ in 0..3 {
        let failed = acquire().run("rpm", 20, Work::Fails).await;
        assert_eq!(failed.expect_err("it failed").kind(), ErrorKind::Settings);
        let run = AssertUnwindSafe(acquire().run("rpm", 20, Work::Panics));
        let panic = run.catch_unwind().await.expect_err("it panicked");
        assert_eq!(panic.downcast_ref(), Some(&"out of paper"));
        // Where nothing can be awaited it goes back in the background.
        while limiter.available("user", "gpt-4", &limits).await?[0].estimate < 60 {
            world.pause(Duration::from_millis(10)).await;
        }
    }
    let too_much = limiter
        .acquire("user", "gpt-4")
        .limits(&limits)
        .consume("rpm", 61);
    let refused = too_much.run("rpm", 1, Work::Panics).await; // which is not begun
    assert_eq!(
        refused.expect_err("60 are left").kind(),
        ErrorKind::RateLimitExceeded
    );
    limiter.shutdown(SOON).await;
    assert_eq!(world.level("user", &limits[0]).await, 60);
    assert_eq!(world.consumed("user", &limits[0]).await, 40);
    Ok(())
}
