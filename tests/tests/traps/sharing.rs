//! Several processes on one bucket: who gets what, and at the price of how many writes.

use std::time::Duration;

use zae_limiter::Limit;
use zae_limiter_core::item::{BucketItem, Ring};
use zae_limiter_core::plan::{self, Holding, Returned, Seen, Transfer};
use zae_limiter_core::{Charges, Payer, Shortage, estimate};
use zae_limiter_tests::desk::{Desk, End};
use zae_limiter_tests::fleet::{Fleet, Shape};

use super::mixed::pay;
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
    overload_by(desks, table, length, 1)
}

/// The same with so many requests at once.
fn overload_by(
    desks: &mut [Desk],
    table: &mut Option<BucketItem>,
    length: Duration,
    requests: u64,
) -> Vec<u64> {
    let step = Duration::from_millis(10);
    let mut admitted = vec![0; desks.len()];
    for _ in 0..length.as_millis() / step.as_millis() {
        for (desk, admitted) in desks.iter_mut().zip(&mut admitted) {
            for _ in 0..requests {
                *admitted += u64::from(desk.acquire(table, 1).is_ok());
            }
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

/// The ring counts the dead for two leases at most; who is left notices before that.
#[test]
fn who_is_left_alone_does_not_share_with_the_dead() {
    let new = || Desk::new(&[limit(50, 10)]);
    let (mut desks, mut table) = (vec![new(), new(), new()], None);
    overload(&mut desks, &mut table, secs(10));
    desks.truncate(1);
    overload(&mut desks, &mut table, secs(3));
    let alone = overload(&mut desks, &mut table, secs(4));
    assert!(alone[0] >= 180, "{alone:?} of 200");
}

/// The same where two of four die: what they leave is not used by nobody until the ring forgets them.
#[test]
fn who_is_left_with_others_does_not_share_with_the_dead() {
    let new = || Desk::new(&[limit(200, 20)]);
    let (mut desks, mut table) = (vec![new(), new(), new(), new()], None);
    desks[1].pass(&mut table, Duration::from_millis(600));
    overload(&mut desks, &mut table, secs(11));
    desks.truncate(2);
    overload(&mut desks, &mut table, secs(3));
    let left = overload(&mut desks, &mut table, secs(4));
    assert!(left.iter().sum::<u64>() >= 600, "{left:?} of 800");
}

/// Where all is reserved for a while nobody writes: not because nobody is there.
#[test]
fn who_waits_with_others_is_not_alone() {
    let new = || Desk::new(&[limit(50, 10)]);
    let (mut desks, mut table) = (vec![new(), new()], None);
    desks[1].pass(&mut table, Duration::from_millis(250));
    overload(&mut desks, &mut table, secs(10));
    let mut third = new();
    third.hands.advance(secs(10));
    (third.bucket).charge_anyway(&third.clock, &third.limits[0], 80);
    third.renew(&mut table);
    // What they have reserved comes to one after the other.
    for _ in 0..2 {
        let shared = overload(&mut desks, &mut table, secs(2));
        assert!(shared.iter().all(|share| *share <= 70), "{shared:?} of 100");
    }
    let shared = overload(&mut desks, &mut table, secs(4));
    assert!(
        shared.iter().all(|share| *share <= 110),
        "{shared:?} of 200"
    );
}

/// Nobody writes while the bucket is in debt: who looks first when that is over is not alone for that.
#[test]
fn who_comes_out_of_a_debt_has_his_share_at_once() {
    let new = || Desk::new(&[limit(100, 100)]);
    let (mut desks, mut table) = (vec![new(), new(), new(), new()], None);
    overload(&mut desks, &mut table, secs(10));
    let mut debtor = new();
    debtor.hands.advance(secs(10));
    (debtor.bucket).charge_anyway(&debtor.clock, &debtor.limits[0], 1_200);
    debtor.renew(&mut table);
    while level(&table, &desks[0]) < 0 {
        overload(&mut desks, &mut table, Duration::from_millis(100));
    }
    let shares = overload(&mut desks, &mut table, secs(2));
    assert!(shares.iter().all(|share| *share >= 35), "{shares:?} of 50");
}

/// What the table's entry says the fleet asks for per second.
pub(super) fn demand(table: &Option<BucketItem>) -> i64 {
    let ring = table.as_ref().and_then(|item| item.limit("rps")?.ring);
    let ring = ring.expect("a ring");
    let [this, last] = [0, 2].map(|later| ring.demand_milli[Ring::slot(ring.epoch + later)]);
    this.max(last) / 1_000
}

/// A hundred per second are no thousands because the process did not run for a while.
#[test]
fn what_piled_up_while_a_process_stood_still_was_asked_for_in_all_that_time() {
    let (mut desks, mut table) = (vec![Desk::new(&[limit(10_000, 10_000)])], None);
    overload(&mut desks, &mut table, secs(10));
    desks[0].hands.advance(secs(8));
    for _ in 0..800 {
        desks[0].acquire(&mut table, 1).expect("there is enough");
    }
    overload(&mut desks, &mut table, secs(2));
    let demand = demand(&table);
    assert!(demand <= 150, "{demand} per second");
}

/// Who asks for twenty times the limit has no more of it than who asks for all.
#[test]
fn nobodys_demand_counts_for_more_than_the_limit() {
    let (mut desks, mut table) = (vec![Desk::new(&[limit(50, 50)])], None);
    overload_by(&mut desks, &mut table, secs(10), 10);
    assert_eq!(demand(&table), 50);
    let strict = Desk::new(&[limit(50, 50)]);
    strict.hands.advance(secs(10));
    let before = demand(&table);
    for _ in 0..1_000 {
        pay(&strict, &mut table);
    }
    desks[0].pass(&mut table, secs(1));
    strict.hands.advance(secs(1));
    while !pay(&strict, &mut table) {
        strict.hands.advance(Duration::from_millis(10));
    }
    assert!(
        demand(&table) <= before + 50,
        "{} per second",
        demand(&table)
    );
}

/// All that is to come for two renewal periods is taken: there is nothing for who comes now, but the
/// others are to leave him his share of what comes then.
#[test]
fn who_finds_nothing_says_what_he_needs() {
    let mut table = None;
    let mut desk = Desk::new(&[limit(100, 10)]);
    desk.acquire(&mut table, 1).expect("it is full");
    let others = [Transfer {
        take: 205,
        holding: Some(Holding {
            lease_ttl: secs(5),
            tokens: 205,
            demand_milli: 400_000,
            entered: None,
        }),
        trickle: 205,
        ahead: secs(2),
        ..Transfer::new(&desk.limits[0])
    }];
    let seen = table.clone().map_or(Seen::Missing, Seen::Item);
    let plan = plan::plan(&seen, desk.clock.wall(), &others).expect("a debit");
    BucketItem::apply(&mut table, &plan.write).expect("it is applied");
    let demand = |table: &Option<BucketItem>| -> i64 {
        let ring = table.as_ref().and_then(|item| item.limit("rps")?.ring);
        ring.expect("a ring").demand_milli.iter().sum()
    };
    let before = demand(&table);
    let mut late = Desk::new(&[limit(100, 10)]);
    assert!(late.acquire(&mut table, 1).is_err());
    assert!(demand(&table) > before, "{table:?}");
}

#[test]
fn demand_that_has_fallen_is_not_somebody_elses() {
    let (mut desks, mut table) = (vec![Desk::new(&[limit(50, 25)])], None);
    overload_by(&mut desks, &mut table, secs(12), 10);
    // Now it asks for what there is; after two periods it has most of that.
    let step = Duration::from_millis(20);
    let mut admitted = 0;
    for at in 0..400 {
        let taken = desks[0].acquire(&mut table, 1).is_ok();
        admitted += u64::from(taken && at >= 100);
        desks[0].pass(&mut table, step);
    }
    assert!(admitted >= 260, "{admitted} of 300");
}

/// The table knows of the debt, which is not owed twice.
#[test]
fn a_debt_that_is_paid_does_not_count_once_more() {
    let (mut desks, mut table) = (vec![Desk::new(&[limit(100, 100)])], None);
    overload_by(&mut desks, &mut table, secs(5), 3);
    let mut desk = desks.remove(0);
    desk.bucket.charge_anyway(&desk.clock, &desk.limits[0], 300);
    desk.hands.advance(secs(1));
    desk.renew(&mut table);
    let owed = u64::try_from(-level(&table, &desk)).expect("a debt");
    assert_eq!(desk.take(1), Err(Shortage::Refused));
    desk.hands.advance(Duration::from_millis(10 * owed + 100));
    assert!(desk.acquire(&mut table, 1).is_ok(), "{owed} were owed");
}

/// What flows in is reserved ahead and comes bit by bit. Who asks for much at once, and seldom, needs
/// it to pile up, also over a renewal.
#[test]
fn what_is_in_hand_is_not_scheduled_once_more() {
    let (mut desks, mut table) = (vec![Desk::new(&[limit(100, 50)])], None);
    overload_by(&mut desks, &mut table, secs(5), 3);
    let mut admitted = 0;
    for _ in 0..40 {
        desks[0].pass(&mut table, Duration::from_millis(500));
        admitted += u32::from(desks[0].acquire(&mut table, 45).is_ok());
    }
    assert!(admitted >= 36, "{admitted} of 40");
}

/// A lease that turns out to cost much costs it once. Who took that for a rate would claim what others
/// need, for as long as a block lives.
#[test]
fn what_is_charged_afterwards_is_not_the_demand_of_a_moment() {
    let (mut desk, mut table) = (Desk::new(&[limit(100, 1_000)]), None);
    let mut most = 0;
    for at in 0..100 {
        desk.acquire(&mut table, 1).expect("a token");
        desk.pass(&mut table, Duration::from_millis(100));
        if at == 50 {
            (desk.bucket).charge_anyway(&desk.clock, &desk.limits[0], 60);
        }
        if at >= 50 {
            most = most.max(demand(&table));
        }
    }
    assert!((15..=40).contains(&most), "{most} of 10 and 60 at once");
}

/// Processes that are refused for another limit hold more and more of what they cannot spend. What
/// overflows meanwhile lowers the level, but not what they hold.
#[test]
fn what_processes_hold_is_bounded_by_itself() {
    let other = per_day("rpd", 1);
    let new = || Desk::new(&[limit(100, 50), other.clone()]);
    let (mut desks, mut table) = (Vec::from_iter((0..4).map(|_| new())), None);
    let mut most = 0;
    for _ in 0..4_000 {
        for desk in &mut desks {
            if desk.take_of(&[("rps", 25), ("rpd", 1)]) == Err(Shortage::Miss) {
                desk.renew(&mut table);
            }
            desk.pass(&mut table, Duration::from_millis(5));
        }
        most = most.max(desks.iter().map(Desk::holds).sum());
    }
    assert!(most <= 50 + 100 * 5, "{most} of a burst of 50 and 500");
}

/// Processes reserve what flows in, and may do so at the same time. All together spend no more of it
/// than has flowed in, but for what the bound leaves for that.
#[test]
fn what_is_reserved_is_not_spent_before_it_has_flowed_in() {
    let new = || Desk::new(&[limit(100, 1)]);
    let (mut desks, mut table) = (Vec::from_iter((0..8).map(|_| new())), None);
    let mut admitted = 0;
    for at in 1..=300 {
        let during = overload_by(&mut desks, &mut table, Duration::from_millis(10), 3);
        admitted += during.iter().sum::<u64>();
        let slack = 500 * 5 / 32;
        assert!(
            admitted <= 1 + at + slack + 16,
            "{admitted} after {at} tokens"
        );
    }
}

/// What is reserved comes when it does. Who asks sooner is told to wait, and costs no write.
#[test]
fn what_is_still_to_be_released_is_not_asked_for_again_and_again() {
    let (mut desks, mut table) = (vec![Desk::new(&[limit(100, 100)])], None);
    let step = Duration::from_millis(10);
    for at in 0..1_000 {
        if at % 5 == 0 {
            desks[0].acquire(&mut table, 1).expect("a token");
        }
        desks[0].pass(&mut table, step);
    }
    let mut other = Desk::new(&[limit(100, 100)]);
    other.hands.advance(secs(10));
    (other.bucket).charge_anyway(&other.clock, &other.limits[0], 300);
    other.renew(&mut table);
    let before = desks[0].writes;
    for at in 0..300 {
        if at % 5 == 0 {
            let _ = desks[0].acquire(&mut table, 1);
        }
        desks[0].pass(&mut table, step);
    }
    let writes = desks[0].writes - before;
    assert!(writes <= 5, "{writes} writes for a part of what flows in");
}

#[test]
fn who_was_throttled_is_back_within_two_renewal_periods() {
    let (mut desk, mut table) = (Desk::new(&[limit(100, 100)]), None);
    for _ in 0..40 {
        let _ = desk.take(1);
        if let Some(plan) = desk.look() {
            assert!(desk.end(&mut table, &plan, End::Throttled).is_none());
        }
        desk.hands.advance(Duration::from_millis(250));
    }
    desk.pass(&mut table, secs(2));
    assert!(table.is_some(), "it has not written");
}

/// Who is woken to hear that nothing came of it waits once more, and not for twice as much.
#[test]
fn who_waits_again_and_again_wants_it_once() {
    for end in [End::Throttled, End::Answered] {
        let (mut desk, mut table) = (Desk::new(&[limit(1_000, 1_000)]), None);
        let mut rival = Desk::new(&[limit(1_000, 1_000)]);
        let wanted = |desk: &mut Desk| {
            let plan = desk.look().expect("somebody waits");
            (plan.moved[0].map_or(0, |moved| moved.debit), plan)
        };
        desk.take(100).expect_err("a miss");
        let (first, mut plan) = wanted(&mut desk);
        for _ in 0..5 {
            // Somebody else was there first, or the table takes no more.
            let _ = rival.acquire(&mut table, 1);
            rival.hands.advance(secs(30));
            let next = desk.end(&mut table, &plan, end);
            desk.take(100).expect_err("a miss");
            desk.hands.advance(secs(2));
            plan = next.unwrap_or_else(|| wanted(&mut desk).1);
        }
        let last = plan.moved[0].map_or(0, |moved| moved.debit);
        // That, and what a process has in hand that asks for so much time and again.
        assert!(last <= 4 * first, "{end:?}: {first}, then {last}");
    }
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

/// Several processes find at the same time that the bucket is to overflow. It does so once.
#[test]
fn what_has_overflowed_does_not_overflow_once_more() {
    let limit = limit(100, 1_000);
    let (mut table, desk) = (None, Desk::new(std::slice::from_ref(&limit)));
    let wall = |seconds| desk.clock.wall().after(secs(seconds));
    let block = |tokens, entered| Holding {
        lease_ttl: secs(5),
        tokens,
        demand_milli: 0,
        entered,
    };
    // Others hold nearly all, and this process a little.
    let mut entered = None;
    for tokens in [900, 20] {
        let transfers = [Transfer {
            take: tokens,
            holding: Some(block(tokens, None)),
            ..Transfer::new(&limit)
        }];
        let seen = table.clone().map_or(Seen::Missing, Seen::Item);
        let plan = plan::plan(&seen, wall(0), &transfers).expect("a debit");
        BucketItem::apply(&mut table, &plan.write).expect("it is applied");
        entered = plan.entries[0];
    }
    let returning = |seen: Option<BucketItem>| {
        let transfers = [Transfer {
            give: 20,
            holding: Some(block(0, entered)),
            ..Transfer::new(&limit)
        }];
        let seen = seen.map_or(Seen::Missing, Seen::Item);
        plan::plan(&seen, wall(6), &transfers)
            .expect("a credit")
            .write
    };
    let first = returning(table.clone());
    let late = returning(table.clone());
    BucketItem::apply(&mut table, &first).expect("it is applied");
    let level = |table: &Option<BucketItem>| estimate::level(table.as_ref(), wall(6), &limit);
    let before = level(&table);
    let found = BucketItem::apply(&mut table, &late).expect_err("it has overflowed");
    let again = returning(found);
    BucketItem::apply(&mut table, &again).expect("it is applied");
    assert!(level(&table) >= before, "{} of {before}", level(&table));
}

/// Processes hold much, and renew it unspent. What flows in between two writes overflows at the next
/// one, also where all that was held has been spent meanwhile.
#[test]
fn what_flowed_in_beside_blocks_overflows_though_they_are_spent() {
    let limit = limit(100, 1_000);
    let (mut table, desk) = (None, Desk::new(std::slice::from_ref(&limit)));
    let mut entered = [None; 2];
    // Takes `take` after it has spent so much of its 500, and gives back the rest.
    let mut renew = |who: usize, at: u64, spent: u64, take: u64| {
        let first = entered[who].is_none();
        let unspent = if first { 0 } else { 500 - spent };
        let transfer = Transfer {
            take,
            give: unspent,
            returned: Returned {
                tokens: unspent,
                ..Returned::default()
            },
            in_hand: unspent,
            spent,
            holding: Some(Holding {
                lease_ttl: secs(5),
                tokens: take,
                demand_milli: 0,
                entered: entered[who],
            }),
            ..Transfer::new(&limit)
        };
        let wall = desk.clock.wall().after(secs(at));
        if !estimate::fits(table.as_ref(), wall, &transfer) {
            return false;
        }
        let seen = table.clone().map_or(Seen::Missing, Seen::Item);
        let plan = plan::plan(&seen, wall, &[transfer]).expect("a debit");
        BucketItem::apply(&mut table, &plan.write).expect("it is applied");
        entered[who] = plan.entries[0];
        true
    };
    for at in [0, 4, 8] {
        assert!(renew(0, at, 0, 500) && renew(1, at, 0, 500));
    }
    let more = (1..=1_000).rev().find(|take| renew(0, 12, 500, *take));
    let admitted = 500 + 500 + more.unwrap_or_default();
    assert!(admitted <= 1_000 + 500, "{admitted} of a burst of 1,000");
}

/// After two leases the ring does not count a block any more, and the bucket refills in its place.
#[test]
fn a_block_that_comes_back_late_brings_no_more_than_is_missing() {
    let new = || Desk::new(&[limit(1, 100)]);
    let (mut asleep, mut other, mut table) = (new(), new(), None);
    let paid = asleep.acquire(&mut table, 60).expect("tokens");
    let (payer, charges) = (Payer::Block(paid.generation), Charges::of(0, 60));
    asleep
        .bucket
        .give_back(&asleep.clock, payer, &asleep.limits, &charges);
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

/// What refills less than a token per thousand seconds is shared and leased like anything else.
#[test]
fn a_quota_that_hardly_refills_is_leased_in_blocks() {
    let limit = Limit::custom("rps", 3_000, 1, secs(86_400)).expect("a limit");
    for processes in [1, 2, 4] {
        let new = |_| Desk::new(std::slice::from_ref(&limit));
        let (mut desks, mut table) = ((0..processes).map(new).collect::<Vec<_>>(), None);
        // Half of it, at a hundred per second and process.
        let length = Duration::from_secs(15) / processes;
        let admitted: u64 = overload(&mut desks, &mut table, length).iter().sum();
        let writes: u32 = desks.iter().map(|desk| desk.writes).sum();
        assert_eq!(admitted, 1_500);
        assert!(writes <= 45, "{writes} by {processes}");
    }
}
