//! Strict processes beside processes that lease, on one bucket.

use std::collections::VecDeque;
use std::time::Duration;

use zae_limiter::store::WriteOutcome;
use zae_limiter::strict::{BucketPayment, Change, Due, Next, NextOfPayment, NotWritten, Payment};
use zae_limiter_core::item::{BucketItem, BucketWrite};
use zae_limiter_core::{BucketCache, Charges};
use zae_limiter_tests::desk::{Desk, End};

use super::sharing::demand;
use super::{limit, per_day, secs};

fn apply(table: &mut Option<BucketItem>, write: &BucketWrite) -> WriteOutcome {
    match BucketItem::apply(table, write) {
        Ok(item) => WriteOutcome::Applied(item),
        Err(found) => WriteOutcome::Refused(found),
    }
}

fn due(desk: &Desk, tokens: u64) -> Due {
    let (bucket, limits) = (desk.bucket.clone(), desk.limits.clone());
    Due::new(bucket, limits, Charges::of(0, tokens))
}

/// A strict acquire, to its end.
pub(super) fn pay(desk: &Desk, table: &mut Option<BucketItem>) -> bool {
    let mut payment = BucketPayment::new(&desk.clock, Change::Debit, due(desk, 1));
    loop {
        match payment.next(&desk.clock) {
            Next::Write(_, write) => {
                payment.done(&desk.clock, apply(table, &write));
            }
            Next::Pause(_) => unreachable!("nothing is throttled"),
            Next::Done(result) => return result.is_ok(),
        }
    }
}

/// A bucket that is not there is full, but not beside what somebody waits for.
#[test]
fn a_bucket_that_somebody_waits_for_is_not_made_by_who_comes_later() {
    let desk = Desk::new(&[limit(50, 50)]);
    let pay = |tokens| {
        let due = Due {
            ahead: Charges::of(0, 40),
            ..due(&desk, tokens)
        };
        BucketPayment::new(&desk.clock, Change::Debit, due).next(&desk.clock)
    };
    assert!(matches!(
        pay(11),
        Next::Done(Err(NotWritten::Exceeded { found: None, .. }))
    ));
    assert!(matches!(pay(10), Next::Write(..)));
}

#[test]
fn strict_acquires_get_their_share_beside_leases() {
    let new = || Desk::new(&[limit(50, 50)]);
    let (mut leased, strict, mut table) = (new(), new(), None);
    let mut admitted = [0, 0];
    for at in 0..3_000 {
        // Both ask for twice the limit.
        let got = [
            leased.acquire(&mut table, 1).is_ok(),
            pay(&strict, &mut table),
        ];
        for (admitted, got) in admitted.iter_mut().zip(got) {
            *admitted += u64::from(got && at >= 1_000);
        }
        leased.pass(&mut table, Duration::from_millis(10));
        strict.hands.advance(Duration::from_millis(10));
    }
    let [leased, strict] = admitted;
    assert!(leased + strict >= 970, "{leased} and {strict} of 1000");
    assert!(leased >= 350 && strict >= 350, "{leased} and {strict}");
}

/// Who begins in the middle of an epoch is known when it is over, not when the next one is.
#[test]
fn strict_acquires_that_begin_late_are_soon_known() {
    let new = || Desk::new(&[limit(50, 50)]);
    let (mut leased, mut strict, mut table) = (new(), new(), None);
    let mut known = [0; 2];
    for _ in 0..1_500 {
        let into_epoch = leased.clock.wall().as_millis() % 5_000;
        let _ = leased.acquire(&mut table, 1);
        if known[0] > 0 && into_epoch >= 2_500 {
            pay(&strict, &mut table);
        }
        if into_epoch >= 4_990 {
            known = [known[1], demand(&table)];
        }
        for desk in [&mut leased, &mut strict] {
            desk.pass(&mut table, Duration::from_millis(10));
        }
    }
    let [alone, both] = known;
    assert_eq!(alone, 50);
    assert!(both >= 90, "{both} of 100");
}

/// Where nearly all is to be had, processes that lease take no more than their share of it either.
#[test]
fn strict_acquires_get_their_share_of_a_limit_that_is_nearly_enough() {
    let new = || Desk::new(&[limit(50, 50)]);
    let (mut leased, strict, mut table) = ([new(), new()], new(), None);
    leased[1].pass(&mut table, Duration::from_millis(300));
    let mut admitted = [0, 0];
    for at in 0..6_000 {
        // Each asks for 20 per second: all together for 1.2 times the limit.
        if at % 5 == 0 {
            let got = leased.each_mut().map(|desk| desk.acquire(&mut table, 1));
            let got = got.iter().filter(|taken| taken.is_ok()).count();
            if at >= 1_000 {
                admitted[0] += got;
                admitted[1] += usize::from(pay(&strict, &mut table));
            }
        }
        for desk in &mut leased {
            desk.pass(&mut table, Duration::from_millis(10));
        }
        strict.hands.advance(Duration::from_millis(10));
    }
    let [leased, strict] = admitted;
    assert!(leased + strict >= 2_425, "{leased} and {strict} of 2500");
    assert!(3 * strict >= leased, "{leased} of two, {strict}");
}

/// Strict acquires may spend refill that is to come only where processes that lease reserve it.
#[test]
fn strict_acquires_alone_spend_nothing_that_is_not_there() {
    let new = || Desk::new(&[limit(50, 50)]);
    let (mut leased, strict, mut table) = (new(), new(), None);
    while leased.acquire(&mut table, 1).is_ok() {}
    leased.pass(&mut table, secs(4));
    strict
        .hands
        .advance(leased.clock.now().since(strict.clock.now()));
    // Nobody holds anything, though the ring is young.
    let mut admitted = 0;
    for _ in 0..2_000 {
        admitted += u64::from(pay(&strict, &mut table));
        strict.hands.advance(Duration::from_millis(10));
    }
    assert!(admitted <= 50 + 20 * 50, "{admitted}");
}

/// Ten strict acquires under way at any time, of which nearly all are refused: what each of them was
/// to tell is told by another.
#[test]
fn strict_acquires_that_overlap_tell_of_all_that_was_asked_for() {
    let new = || Desk::new(&[limit(50, 50)]);
    let (mut leased, mut strict, mut table) = (new(), new(), None);
    let mut under_way = VecDeque::new();
    for _ in 0..2_000 {
        for _ in 0..2 {
            let _ = leased.acquire(&mut table, 1);
        }
        let mut payment = BucketPayment::new(&strict.clock, Change::Debit, due(&strict, 1));
        if let Next::Write(_, write) = payment.next(&strict.clock) {
            under_way.push_back((payment, write));
        }
        if under_way.len() > 10 {
            let (mut payment, write) = under_way.pop_front().expect("there are eleven");
            if payment.done(&strict.clock, apply(&mut table, &write)) {
                strict.renew(&mut table);
            }
            if let Next::Write(_, write) = payment.next(&strict.clock) {
                payment.done(&strict.clock, apply(&mut table, &write));
            }
        }
        for desk in [&mut leased, &mut strict] {
            desk.pass(&mut table, Duration::from_millis(10));
        }
    }
    // Each asks for twice the limit, and so claims all of it.
    let demand = demand(&table);
    assert!((90..=115).contains(&demand), "{demand} per second");
}

/// What a process in strict mode asks of a limit that it did not know at first is told as well.
#[test]
fn what_is_asked_of_a_new_limit_is_heard() {
    let (mut leased, mut table) = (Desk::new(&[limit(50, 50)]), None);
    let mut strict = Desk::new(&[per_day("rpd", 10)]);
    assert!(pay(&strict, &mut table));
    strict.limits = leased.limits.clone();
    for _ in 0..2_000 {
        let _ = leased.acquire(&mut table, 1);
        pay(&strict, &mut table);
        for desk in [&mut leased, &mut strict] {
            desk.pass(&mut table, Duration::from_millis(10));
        }
    }
    let demand = demand(&table);
    assert!((90..=115).contains(&demand), "{demand} per second");
}

/// Each of its writes finds less than was there when the last answer came.
#[test]
fn who_begins_to_lease_where_strict_acquires_take_all_has_a_share() {
    let new = || Desk::new(&[limit(100, 100)]);
    let (mut leased, strict, mut table) = (new(), new(), None);
    let mut admitted = [0; 2];
    for _ in 0..1_000 {
        admitted[0] += u32::from(leased.take(1).is_ok());
        let mut plan = leased.look();
        loop {
            while pay(&strict, &mut table) {
                admitted[1] += 1;
            }
            for desk in [&leased, &strict] {
                desk.hands.advance(Duration::from_millis(25));
            }
            match plan {
                Some(next) => plan = leased.end(&mut table, &next, End::Answered),
                None => break,
            }
        }
    }
    let [of_leased, of_strict] = admitted;
    assert!(of_leased > of_strict / 4, "{admitted:?}");
}

/// It asks for more at once than there nearly ever is; its reconciler says what it needs, at the price
/// of a write per renewal period.
#[test]
fn who_is_refused_in_strict_mode_is_heard() {
    let new = || Desk::new(&[limit(50, 50)]);
    for has_leased in [false, true] {
        let (mut leased, mut strict, mut table) = (new(), new(), None);
        if has_leased {
            strict.acquire(&mut table, 1).expect("it is full");
        }
        for _ in 0..200 {
            for _ in 0..10 {
                let _ = leased.acquire(&mut table, 1);
            }
            let mut payment = BucketPayment::new(&strict.clock, Change::Debit, due(&strict, 50));
            while let Next::Write(_, write) = payment.next(&strict.clock) {
                if payment.done(&strict.clock, apply(&mut table, &write)) {
                    strict.renew(&mut table);
                }
            }
            for desk in [&mut leased, &mut strict] {
                desk.pass(&mut table, Duration::from_millis(100));
            }
        }
        let demand = demand(&table);
        assert!((90..=125).contains(&demand), "{demand} per second");
        assert!(strict.writes <= 25, "{} writes", strict.writes);
    }
}

/// An acquire that its own bucket refuses is not made of its parent's. It was asked for there as well.
#[test]
fn what_the_child_refuses_is_asked_of_the_parent_too() {
    let mut leased = Desk::new(&[limit(50, 50)]);
    let (clock, cache) = (leased.clock.clone(), BucketCache::new());
    let mut tables = [None, None];
    let due = |id, rate| {
        let limits = [limit(rate, rate)].into();
        let bucket = cache.get_or_insert(id, "api", &limits);
        Due::new(bucket.expect("a name"), limits, Charges::of(0, 1))
    };
    let dues = [due("child", 5), due("parent", 50)];
    for _ in 0..2_000 {
        let _ = leased.acquire(&mut tables[1], 1);
        let mut payment = Payment::new(&clock, dues.iter().cloned().collect());
        while let NextOfPayment::Write(bucket, write) = payment.next(&clock) {
            let parent = usize::from(bucket.key() == dues[1].bucket.key());
            payment.done(&clock, apply(&mut tables[parent], &write));
        }
        leased.pass(&mut tables[1], Duration::from_millis(10));
    }
    let demand = demand(&tables[1]);
    assert!((90..=115).contains(&demand), "{demand} per second");
}
