//! One process and one bucket: time, amounts, debts, refunds.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use zae_limiter::Limit;
use zae_limiter_core::item::{BucketItem, Kept};
use zae_limiter_core::plan::{self, Seen, Transfer};
use zae_limiter_core::{Charges, Paid, Payer, Request, Shortage, WallTime};
use zae_limiter_tests::desk::{Desk, End};

use super::{drain, level, level_of, limit, per_day, secs};

#[test]
fn a_clock_that_goes_back_mints_no_tokens() {
    let (mut desk, mut table) = (Desk::new(&[limit(10, 100)]), None);
    let wall = desk.clock.wall();
    assert!(drain(&mut desk, &mut table) >= 100);
    let before = WallTime::from_nanos(wall.as_nanos() - 60_000_000_000);
    desk.hands.set_wall(before);
    let mut fresh = Desk::new(&[limit(10, 100)]);
    fresh.hands.set_wall(before);
    assert_eq!(drain(&mut desk, &mut table), 0);
    assert_eq!(drain(&mut fresh, &mut table), 0, "it was full then");
}

#[test]
fn a_clock_that_was_set_right_ends_a_refusal() {
    let new = || Desk::new(&[limit(10, 10)]);
    let (mut rival, mut desk, mut table) = (new(), new(), None);
    rival.acquire(&mut table, 1).expect("it is full");
    let right = desk.clock.wall();
    desk.hands.set_wall(right.before(secs(100)));
    desk.acquire(&mut table, 1)
        .expect_err("by this clock it is in debt");
    desk.hands.set_wall(right);
    desk.pass(&mut table, secs(1));
    desk.acquire(&mut table, 1).expect("it never was");
}

#[test]
fn a_write_that_arrives_late_brings_no_old_time() {
    let (mut late, mut table) = (Desk::new(&[limit(10, 100)]), None);
    late.acquire(&mut table, 1).expect("a token");
    late.pass(&mut table, secs(8));
    late.take(100).expect_err("it holds nothing any more");
    let planned = late.look().expect("a debit of a full bucket");
    // A strict acquire of another process is faster.
    let transfers = [Transfer {
        take: 100,
        ..Transfer::new(&late.limits[0])
    }];
    let seen = Seen::from(table.clone());
    let other = plan::plan(&seen, late.clock.wall(), &transfers).expect("a debit");
    BucketItem::apply(&mut table, &other.write).expect("it is full");
    let refused = BucketItem::apply(&mut table.clone(), &planned.write);
    assert!(refused.is_err(), "{:?}", planned.write);
    late.end(&mut table, &planned, End::Answered);
    late.take(1).expect_err("all has gone to the other");
}

#[test]
fn an_amount_over_the_burst_is_an_error_and_not_a_wait() {
    let limits = [limit(10, 100)];
    assert!(Request::new(&limits, &[("rps", 101)]).validate().is_err());
    assert!(Request::new(&limits, &[("rps", 100)]).validate().is_ok());
}

#[test]
fn a_rate_of_zero_is_no_limit_that_lets_all_through() {
    assert!(Limit::per_second("rps", 0).is_err());
    assert!(Limit::custom("rps", 1, 0, secs(1)).is_err());
}

#[test]
fn what_remains_after_overshooting_does_not_wrap() {
    let (mut desk, mut table) = (Desk::new(&[limit(10, 100)]), None);
    desk.acquire(&mut table, 50).expect("tokens");
    desk.bucket
        .charge_anyway(&desk.clock, &desk.limits[0], 1_000);
    let known = desk
        .bucket
        .knowledge(&desk.clock, &Request::new(&desk.limits, &[("rps", 1)]));
    assert_eq!(known[0].1.in_hand, 0);
    assert!(known[0].1.estimate <= -900);
    desk.renew(&mut table);
    assert!(level(&table, &desk) <= -900);
    assert!(desk.acquire(&mut table, 1).is_err());
}

/// B9 of the Python library.
#[test]
fn the_table_does_not_forget_a_debt() {
    let (mut desk, mut table) = (
        Desk::new(&[Limit::per_day("rps", 10).expect("a limit")]),
        None,
    );
    desk.acquire(&mut table, 1).expect("a token");
    desk.bucket
        .charge_anyway(&desk.clock, &desk.limits[0], 1_000);
    let mut plan = None;
    for _ in 0..30 {
        desk.hands.advance(Duration::from_millis(100));
        plan = plan.or_else(|| desk.look());
    }
    let plan = plan.expect("a debt is written within three periods");
    let fills = desk.clock.wall().as_secs() + 1_000 / 10 * 86_400;
    let Kept::Until(kept_until) = plan.write.kept else {
        panic!("it fills later than the bucket did: {:?}", plan.write.kept);
    };
    assert!(kept_until >= fills);
    // Seconds: as milliseconds it would be ten thousand years.
    assert!(kept_until < fills + 400 * 86_400);
}

#[test]
fn consumption_is_reported_once() {
    let (mut desk, mut table) = (Desk::new(&[limit(10, 100)]), None);
    for _ in 0..20 {
        desk.acquire(&mut table, 2).expect("tokens");
        desk.renew(&mut table);
        desk.hands.advance(Duration::from_millis(300));
    }
    desk.hands.advance(secs(2));
    desk.renew(&mut table);
    let item = table.expect("an item");
    assert_eq!(item.limit("rps").map(|limit| limit.consumed), Some(40));
}

#[test]
fn a_refund_is_had_once() {
    let (mut desk, mut table) = (Desk::new(&[limit(1, 10)]), None);
    let paid = desk.acquire(&mut table, 10).expect("tokens");
    let charges = Charges::of(0, 4);
    let payer = Payer::Block(paid.generation);
    desk.bucket
        .give_back(&desk.clock, payer, &desk.limits, &charges);
    desk.renew(&mut table);
    assert_eq!(drain(&mut desk, &mut table), 4);
}

#[test]
fn a_refund_fills_no_further_than_the_burst() {
    let (mut desk, mut table) = (Desk::new(&[limit(10, 100)]), None);
    desk.acquire(&mut table, 50).expect("tokens");
    desk.pass(&mut table, secs(60));
    assert_eq!(level(&table, &desk), 100);
    let charges = Charges::of(0, 50);
    desk.bucket
        .give_back(&desk.clock, Payer::Table(None), &desk.limits, &charges);
    desk.renew(&mut table);
    assert_eq!(drain(&mut desk, &mut table), 100);
}

fn give_back(desk: &Desk, paid: Paid, tokens: u64) {
    let (payer, charges) = (Payer::Block(paid.generation), Charges::of(0, tokens));
    desk.bucket
        .give_back(&desk.clock, payer, &desk.limits, &charges);
}

#[test]
fn a_refund_ends_a_refusal() {
    let (mut desk, mut table) = (Desk::new(&[per_day("rps", 10)]), None);
    let paid = desk.acquire(&mut table, 10).expect("tokens");
    assert_eq!(desk.acquire(&mut table, 1), Err(Shortage::Refused));
    give_back(&desk, paid, 4);
    desk.acquire(&mut table, 4).expect("what came back");
}

#[test]
fn a_refund_elsewhere_is_found_within_a_lease() {
    let (mut one, mut table) = (Desk::new(&[per_day("rps", 10)]), None);
    let mut two = Desk::new(&[per_day("rps", 10)]);
    let paid = one.acquire(&mut table, 10).expect("tokens");
    assert_eq!(two.acquire(&mut table, 4), Err(Shortage::Refused));
    give_back(&one, paid, 4);
    one.pass(&mut table, secs(5));
    two.pass(&mut table, secs(5));
    two.acquire(&mut table, 4).expect("what came back");
}

#[test]
fn a_refusal_says_when_and_that_is_later() {
    let (mut desk, mut table) = (Desk::new(&[limit(10, 100)]), None);
    drain(&mut desk, &mut table);
    let mut tries = 0;
    while desk.acquire(&mut table, 5).is_err() {
        let known = desk
            .bucket
            .knowledge(&desk.clock, &Request::new(&desk.limits, &[("rps", 5)]));
        let wait = known[0].1.retry_after;
        assert!(wait > Duration::ZERO && wait <= secs(2), "{wait:?}");
        desk.pass(&mut table, wait);
        tries += 1;
    }
    assert!(tries <= 2, "told {tries} times when to come again");
}

/// At half the limit, with answers that take 50 ms.
#[test]
fn a_renewal_under_way_refuses_nobody() {
    let (mut desk, mut table) = (Desk::new(&[limit(1_000, 1_000)]), None);
    let (mut under_way, mut renewals) = (None, 0);
    for step in 0..1_000 {
        let taken = desk.take(5);
        assert_ne!(taken, Err(Shortage::Refused), "in step {step}");
        // Who is the first has to wait, and again until his demand is known.
        assert!(taken.is_ok() || step < 200, "{taken:?} in step {step}");
        let told = taken.map_or(true, |paid| paid.hint);
        match under_way.take() {
            Some((plan, begun)) if step == begun + 5 => {
                let next = desk.end(&mut table, &plan, End::Answered);
                under_way = next.map(|plan| (plan, step));
                renewals += 1;
            }
            None if told || step % 25 == 0 => under_way = desk.look().map(|plan| (plan, step)),
            pending => under_way = pending,
        }
        desk.hands.advance(Duration::from_millis(10));
    }
    assert!(renewals >= 8, "{renewals} renewals");
}

#[test]
fn nobody_finds_nothing_while_somebody_looks() {
    const TOKENS: u64 = 100_000;
    let (mut desk, mut table) = (Desk::new(&[per_day("rps", TOKENS)]), None);
    let paid = desk.acquire(&mut table, TOKENS).expect("tokens");
    give_back(&desk, paid, TOKENS);
    let (done, looks) = (AtomicBool::new(false), AtomicBool::new(false));
    thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                let _ = desk
                    .bucket
                    .knowledge(&desk.clock, &Request::new(&desk.limits, &[("rps", 1)]));
                looks.store(true, Ordering::Relaxed);
            }
        });
        while !looks.load(Ordering::Relaxed) {
            thread::yield_now();
        }
        let request = Request::new(&desk.limits, &[("rps", 1)]);
        let taken = (0..TOKENS).filter(|_| desk.bucket.take(&desk.clock, &request).is_ok());
        let taken = taken.count() as u64;
        done.store(true, Ordering::Relaxed);
        assert_eq!(taken, TOKENS);
    });
}

/// Two processes, whatever they do: no write brings a process more than it debits, or takes less.
#[test]
fn what_is_held_is_what_was_debited() {
    const TOKENS: i128 = 10_000;
    let mut chance = fastrand::Rng::with_seed(7);
    let new = || Desk::new(&[per_day("rps", TOKENS as u64)]);
    let (mut desks, mut table, mut spent) = ([new(), new()], None, 0);
    for step in 0..4_000 {
        let desk = &mut desks[chance.usize(..2)];
        let tokens = chance.u64(1..30);
        match chance.u8(..8) {
            0 => {
                let limit = desk.limits[0].clone();
                desk.bucket.charge_anyway(&desk.clock, &limit, tokens);
                spent += i128::from(tokens);
            }
            1 | 2 => {
                if let Ok(paid) = desk.acquire(&mut table, tokens) {
                    let back = chance.u64(..=tokens);
                    give_back(desk, paid, back);
                    spent += i128::from(tokens - back);
                }
            }
            3 => {
                let length = Duration::from_millis(chance.u64(1..900));
                for desk in &mut desks {
                    desk.pass(&mut table, length);
                }
            }
            _ => {
                spent += desk
                    .acquire(&mut table, tokens)
                    .map_or(0, |_| tokens.into())
            }
        }
        let held: i128 = desks.iter().map(Desk::holds).sum();
        let all = i128::from(level(&table, &desks[0])) + held + spent;
        assert_eq!(all, TOKENS, "in step {step}");
    }
    assert!(spent > TOKENS / 2);
}

#[test]
fn what_one_has_taken_no_other_sees_as_free() {
    let (mut one, mut table) = (Desk::new(&[per_day("rps", 100)]), None);
    one.acquire(&mut table, 60).expect("tokens");
    for (tokens, admitted) in [(41, false), (40, true)] {
        let mut other = Desk::new(&[per_day("rps", 100)]);
        let taken = other.acquire(&mut table, tokens);
        assert_eq!(taken.is_ok(), admitted, "{tokens} while 60 are in use");
    }
}

/// An acquire that names a limit with nothing to take is not stopped by its debt.
#[test]
fn a_limit_in_debt_stops_only_who_takes_of_it() {
    let limits = [per_day("rpm", 100), per_day("tpm", 1_000)];
    let (mut desk, mut table) = (Desk::new(&limits), None);
    let mut ask = |desk: &mut Desk, consume: &[(&str, u64)]| match desk.take_of(consume) {
        Err(Shortage::Miss) => {
            desk.renew(&mut table);
            desk.take_of(consume).is_ok()
        }
        taken => taken.is_ok(),
    };
    assert!(ask(&mut desk, &[("rpm", 1), ("tpm", 500)]));
    desk.bucket.charge_anyway(&desk.clock, &limits[1], 5_000);
    let free = (0..200).filter(|_| ask(&mut desk, &[("rpm", 1), ("tpm", 0)]));
    assert_eq!(free.count(), 99, "of rpm there are as many");
    assert!(!ask(&mut desk, &[("tpm", 1)]));
    assert!(level_of(&table, &desk, &limits[1]) < -4_000);
}
