//! Limits that change while tokens of theirs are held, owed or asked for.

use std::time::Duration;

use zae_limiter::Limit;
use zae_limiter_core::item::BucketItem;
use zae_limiter_core::{Charges, Payer};
use zae_limiter_tests::desk::{Desk, End};

use super::{drain, level, level_of, limit, per_day, secs};

/// Asked for more at once than flows in during a period, so that nothing is debited meanwhile.
#[test]
fn a_raised_limit_applies_to_a_bucket_in_debt() {
    let (mut desk, mut table) = (Desk::new(&[limit(1, 100)]), None);
    desk.acquire(&mut table, 1).expect("a token");
    desk.bucket
        .charge_anyway(&desk.clock, &desk.limits[0], 1_000);
    desk.pass(&mut table, secs(3));
    assert!(level(&table, &desk) < -800, "it is in debt");
    desk.limits = [limit(20, 1_000)].into();
    let mut waited = 0;
    while desk.acquire(&mut table, 50).is_err() {
        desk.pass(&mut table, secs(1));
        waited += 1;
        assert!(waited < 60, "it is still refilled by one per second");
    }
}

/// A fresh process that is asked for the first of two limits only.
fn of_two() -> (Desk, [Limit; 2]) {
    let both = [per_day("rps", 100), per_day("tps", 50)];
    (Desk::new(&both[..1]), both)
}

#[test]
fn a_debt_of_a_limit_that_is_declared_no_more_is_not_dropped() {
    let ((mut desk, both), mut table) = (of_two(), None);
    desk.acquire(&mut table, 1).expect("a token");
    desk.bucket.charge_anyway(&desk.clock, &both[1], 30);
    desk.pass(&mut table, secs(3));
    assert_eq!(level_of(&table, &desk, &both[1]), 20, "30 of 50 are owed");
}

#[test]
fn a_credit_of_a_limit_that_is_declared_no_more_is_not_dropped() {
    let ((mut desk, both), mut table) = (of_two(), None);
    let mut other = Desk::new(&both[1..]);
    other.acquire(&mut table, 50).expect("tokens");
    other.pass(&mut table, secs(3)); // and the table knows that they are spent, not held
    desk.acquire(&mut table, 1).expect("a token");
    let charges = Charges::of(1, 30);
    desk.bucket
        .give_back(&desk.clock, Payer::Table(None), &both, &charges);
    desk.pass(&mut table, secs(3));
    assert_eq!(level_of(&table, &desk, &both[1]), 30);
}

#[test]
fn a_limit_that_was_cut_is_not_spent_as_it_was() {
    let (mut desk, mut table) = (Desk::new(&[limit(10, 1_000)]), None);
    let paid = desk.acquire(&mut table, 500).expect("tokens");
    let (payer, charges) = (Payer::Block(paid.generation), Charges::of(0, 500));
    desk.bucket
        .give_back(&desk.clock, payer, &desk.limits, &charges);
    desk.take(1).expect("500 are in hand");
    desk.limits = [limit(1, 10)].into();
    assert_eq!(drain(&mut desk, &mut table), 10);
}

#[test]
fn what_a_write_brings_after_a_cut_is_not_spent() {
    let (mut desk, mut table) = (Desk::new(&[limit(10, 1_000)]), None);
    let _ = desk.take(500);
    let plan = desk.look().expect("somebody waits for tokens");
    desk.limits = [limit(1, 10)].into();
    let _ = desk.take(1);
    let mut next = desk.end(&mut table, &plan, End::Answered);
    while let Some(plan) = next {
        next = desk.end(&mut table, &plan, End::Answered);
    }
    assert_eq!(drain(&mut desk, &mut table), 10);
}

/// A process that has stood still with 500 tokens for longer than the ring counts them, and one that
/// has consumed all of what the limit was cut to meanwhile.
fn stood_still_while_it_was_cut() -> (Desk, Desk, Option<BucketItem>) {
    let (mut still, mut table) = (Desk::new(&[limit(10, 1_000)]), None);
    let mut other = Desk::new(&[limit(1, 10)]);
    let paid = still.acquire(&mut table, 500).expect("tokens");
    let (payer, charges) = (Payer::Block(paid.generation), Charges::of(0, 500));
    still
        .bucket
        .give_back(&still.clock, payer, &still.limits, &charges);
    for desk in [&mut still, &mut other] {
        desk.hands.advance(secs(20));
    }
    assert_eq!(drain(&mut other, &mut table), 10);
    (still, other, table)
}

#[test]
fn a_block_of_before_a_cut_does_not_come_back() {
    let (mut still, mut other, mut table) = stood_still_while_it_was_cut();
    still.renew(&mut table);
    assert_eq!(still.holds(), 0);
    assert_eq!(drain(&mut other, &mut table), 0);
}

#[test]
fn nor_where_the_process_goes_on_with_what_it_knew() {
    let (mut still, mut other, mut table) = stood_still_while_it_was_cut();
    let _ = still.take(1);
    still.renew(&mut table);
    assert_eq!(still.holds(), 0);
    assert_eq!(drain(&mut other, &mut table), 0);
}

#[test]
fn nor_where_the_cut_is_declared_while_it_is_on_its_way_back() {
    let (mut still, mut other, mut table) = stood_still_while_it_was_cut();
    let plan = still.look().expect("it gives back what has expired");
    still.limits = other.limits.clone();
    let _ = still.take(1);
    let mut next = still.end(&mut table, &plan, End::Answered);
    while let Some(plan) = next {
        next = still.end(&mut table, &plan, End::Answered);
    }
    assert_eq!(drain(&mut still, &mut table), 0);
    assert_eq!(drain(&mut other, &mut table), 0);
}

/// By day 100, by night 10, and over again.
#[test]
fn a_limit_that_follows_a_schedule_gains_nothing_by_it() {
    let (day, night) = ([limit(10, 100)], [limit(1, 10)]);
    let (mut desk, mut table) = (Desk::new(&day), None);
    assert_eq!(drain(&mut desk, &mut table), 100);
    for _ in 0..20 {
        desk.limits = night.clone().into();
        assert_eq!(drain(&mut desk, &mut table), 0);
        desk.limits = day.clone().into();
        assert_eq!(drain(&mut desk, &mut table), 0);
    }
    desk.limits = night.clone().into();
    assert_eq!(drain(&mut desk, &mut table), 0);
    desk.pass(&mut table, secs(60));
    desk.limits = day.into();
    assert_eq!(drain(&mut desk, &mut table), 10, "what the night allows");
}

/// A bucket that was deleted and made again does not know what was entered before. Taken out all the
/// same, it would hide what others hold and ask for.
#[test]
fn what_was_told_before_a_deletion_is_not_taken_back_after_it() {
    let new = || Desk::new(&[limit(200, 200)]);
    let (mut desks, mut table) = ([new(), new(), new(), new()], None);
    for step in 0..1_600 {
        if step == 1_150 {
            table = None;
        }
        for desk in &mut desks {
            let _ = desk.acquire(&mut table, 1);
            desk.pass(&mut table, Duration::from_millis(10));
        }
        let found = table.as_ref().and_then(|item| item.limit("rps"));
        let ring = found.and_then(|limit| limit.ring).unwrap_or_default();
        let counted: i64 = ring.held.iter().sum();
        let held: i64 = desks.iter().map(|desk| desk.holds() as i64).sum();
        // All have renewed what they hold.
        if step > 1_450 {
            assert!(
                counted >= held,
                "{counted} of {held}, {ring:?}, step {step}"
            );
        }
    }
}
