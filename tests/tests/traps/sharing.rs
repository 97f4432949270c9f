//! Several processes on one bucket: who gets what, and at the price of how many writes.

use std::time::Duration;

use zae_limiter_core::Charges;
use zae_limiter_core::item::BucketItem;
use zae_limiter_core::plan::{self, Holding, Seen, Transfer};
use zae_limiter_tests::desk::{Desk, End};
use zae_limiter_tests::fleet::{Fleet, Shape};

use super::{drain, level, limit, per_day, secs};

#[test]
fn a_busy_process_is_not_held_to_an_equal_share() {
    let fleet = Fleet {
        shape: Shape::Skewed,
        ..Fleet::new(8, limit(1_000, 1_000), 0.9)
    };
    let report = fleet.run(1);
    assert!(report.admitted_of_allowed() >= 0.98);
}

#[test]
fn an_empty_bucket_is_not_asked_again_and_again() {
    let fleet = Fleet::new(8, limit(10, 10), 100.0);
    let report = fleet.run(1);
    assert!(
        report.writes_open <= 8 * 30 * 4,
        "{} writes",
        report.writes_open
    );
}

#[test]
fn few_tokens_are_not_stranded() {
    let new = || Desk::new(&[per_day("rps", 10)]);
    let (mut desks, mut table) = ([new(), new(), new(), new()], None);
    for desk in &mut desks {
        desk.acquire(&mut table, 1).expect("a token");
    }
    for desk in &mut desks {
        desk.pass(&mut table, secs(3));
    }
    assert_eq!(drain(&mut desks[0], &mut table), 6);
}

/// Both ask for more than half of the refill, all the time: what each is admitted.
fn overload(desks: &mut [Desk], table: &mut Option<BucketItem>, length: Duration) -> Vec<u64> {
    let step = Duration::from_millis(10);
    let mut admitted = vec![0; desks.len()];
    for _ in 0..length.as_millis() / step.as_millis() {
        for (desk, admitted) in desks.iter_mut().zip(&mut admitted) {
            *admitted += u64::from(desk.acquire(table, 1).is_ok());
            desk.pass(table, step);
        }
    }
    admitted
}

#[test]
fn a_dead_process_keeps_nothing_for_ever() {
    let new = || Desk::new(&[limit(50, 50)]);
    let (mut desks, mut table) = (vec![new(), new()], None);
    overload(&mut desks, &mut table, secs(10));
    let shared = overload(&mut desks, &mut table, secs(10));
    assert!(shared.iter().all(|share| *share >= 200), "{shared:?}");
    desks.pop();
    // Two leases, and it is forgotten.
    overload(&mut desks, &mut table, secs(10));
    let alone = overload(&mut desks, &mut table, secs(10));
    assert!(alone[0] >= 485, "{alone:?} of 500");
}

#[test]
fn one_call_does_not_try_for_ever() {
    let (mut desk, mut table) = (Desk::new(&[limit(10, 100)]), None);
    let mut rival = Desk::new(&[limit(10, 100)]);
    desk.take(1).expect_err("a miss");
    let mut plan = desk.look();
    let mut tries = 0;
    while let Some(next) = plan {
        // Whatever it plans, somebody else was there first.
        rival.hands.advance(secs(30));
        let _ = rival.acquire(&mut table, 100);
        plan = desk.end(&mut table, &next, End::Answered);
        tries += 1;
    }
    assert!(tries <= 6, "{tries} tries");
}

/// A credit that fills the bucket over full must overflow all of that
/// before what overflows for the others' sake.
#[test]
fn a_bucket_over_full_hides_nothing_that_overflows() {
    let limit = limit(100, 1_000);
    let (mut table, mut other) = (None, Desk::new(std::slice::from_ref(&limit)));
    // Somebody reserves nearly all, and holds it.
    let transfers = [Transfer {
        take: 900,
        holding: Some(Holding {
            lease_ttl: secs(5),
            tokens: 900,
            demand_milli: 0,
            entered: None,
        }),
        ..Transfer::new(&limit)
    }];
    let wall = other.clock.wall();
    let plan = plan::plan(&Seen::Missing, wall, &transfers).expect("a debit");
    BucketItem::apply(&mut table, &plan.write).expect("it is applied");
    other.hands.advance(secs(1));
    // What comes back from elsewhere is far more than the bucket holds.
    let transfers = [Transfer {
        give: 3_000,
        holding: Some(Holding {
            lease_ttl: secs(5),
            tokens: 0,
            demand_milli: 0,
            entered: None,
        }),
        ..Transfer::new(&limit)
    }];
    let wall = other.clock.wall();
    let seen = table.clone().map_or(Seen::Missing, Seen::Item);
    let plan = plan::plan(&seen, wall, &transfers).expect("a credit");
    BucketItem::apply(&mut table, &plan.write).expect("it is applied");
    let level = level(&table, &other);
    assert!(level + 900 <= 1_000 + 500, "{level} beside 900");
    assert_eq!(drain(&mut other, &mut table) as i64, level.max(0));
}

/// After two leases the ring does not count a block any more, and the bucket refills in its place.
#[test]
fn a_block_that_comes_back_late_brings_no_more_than_is_missing() {
    let new = || Desk::new(&[limit(1, 100)]);
    let (mut asleep, mut other, mut table) = (new(), new(), None);
    let paid = asleep.acquire(&mut table, 60).expect("tokens");
    let (generation, charges) = (Some(paid.generation), Charges::of(0, 60));
    asleep
        .bucket
        .give_back(&asleep.clock, generation, &asleep.limits, &charges);
    asleep.hands.advance(secs(20));
    other.hands.advance(secs(20));
    assert_eq!(
        drain(&mut other, &mut table),
        60,
        "40, and 20 have flowed in"
    );
    asleep.renew(&mut table);
    let level = level(&table, &asleep);
    assert!((39..=40).contains(&level), "{level}: 60 less those 20");
}
