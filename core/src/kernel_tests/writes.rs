//! What a write does to a limit, and which guards it has, to the tick.
//!
//! The numbers are chosen so that they can be checked by hand: a limit of 100 tokens per second, and blocks
//! that live for 1.6 s. A write may be on its way for 5 tokens of refill, 25 may be overdrawn, the guards go
//! by 130 (of 160), and all processes together may hold the burst and 155.

use std::time::Duration;

use super::{T0, TOKEN, TTL, ms};
use crate::item::{
    BucketItem, BucketWrite, Kept, LimitAction, LimitChange, LimitGuard, LimitItem, Ring,
    RingChange, RingGuard, ZChange,
};
use crate::kernel::{Outstanding, overdraft_max};
use crate::plan::{
    self, Holding, Moved, Plan, Returned, Seen, Transfer, block_max, excess, flight_max, flows_in,
    plan,
};
use crate::{Limit, Ticks, WallTime};

pub(super) const EPOCH: u64 = 1_104_516_000;

pub(super) fn limit(burst: u64) -> Limit {
    let limit = Limit::custom("a", 100, 100, Duration::from_secs(1));
    limit.unwrap().burst(burst).unwrap()
}

pub(super) fn found(limit: &Limit, level: i128, ring: Option<Ring>) -> LimitItem {
    LimitItem {
        terms: *limit.terms(),
        z: limit.terms().empty_at(T0) - level * TOKEN,
        consumed: 0,
        ring,
    }
}

pub(super) fn item(limit: &Limit, level: i128, ring: Option<Ring>) -> BucketItem {
    BucketItem {
        incarnation: 7,
        sequence: 256, // of which no jitter follows
        consumed_at_ms: 0,
        expires_at_seconds: u64::MAX / 1_000_000_000,
        limits: vec![(limit.shared_name().clone(), found(limit, level, ring))],
    }
}

/// A ring that was last written `ago` epochs ago: what is held of that epoch, and of the one before.
pub(super) fn ring(ago: u64, held: i64, before: i64) -> Option<Ring> {
    let epoch = EPOCH - ago;
    let mut ring = Ring {
        lease_ttl_ms: 1_600,
        epoch,
        ..Ring::default()
    };
    ring.held[Ring::slot(epoch)] = held;
    ring.held[Ring::slot(epoch - 1)] = before;
    Some(ring)
}

fn holding(tokens: u64) -> Option<Holding> {
    Some(Holding {
        lease_ttl: TTL,
        tokens,
        demand_milli: 0,
        entered: None,
    })
}

/// In tokens, to the tick.
fn tokens(ticks: Ticks) -> String {
    let sign = if ticks < 0 { "-" } else { "" };
    let (whole, rest) = (ticks.abs() / TOKEN, ticks.abs() % TOKEN);
    let text = format!("{sign}{whole}.{rest:09}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// What a write does to its first limit: between which levels it has to be found, by how much it falls, or
/// where it stands then, and what may be held.
fn describe(plan: &Plan, now: WallTime) -> String {
    describe_write(&plan.write, now)
}

fn describe_write(write: &BucketWrite, now: WallTime) -> String {
    let LimitAction::Update { guard, change } = write.limits[0].action else {
        return "create".to_owned();
    };
    let level = |z: Ticks| tokens(guard.terms.empty_at(now) - z);
    let moves = match change.z {
        ZChange::Add(ticks) => format!("falls by {}", tokens(ticks)),
        ZChange::Set(z) => format!("is {}", level(z)),
    };
    let ring = match guard.ring {
        RingGuard::Any => "any".to_owned(),
        RingGuard::Absent => "absent".to_owned(),
        RingGuard::Unchanged(_) => "unchanged".to_owned(),
        RingGuard::Live {
            lease_ttl_ms: 1_600,
            epoch: EPOCH,
            held_max,
            held_before_max,
        } => format!("at most {held_max} and {held_before_max}"),
        other => format!("{other:?}"),
    };
    let from = guard.z_max.map_or("any".to_owned(), level);
    let to = guard.z_min.map_or("any".to_owned(), level);
    format!("level {from}..{to}, {moves}, held {ring}")
}

/// The write of one transfer on a bucket of so many tokens.
fn written(
    burst: u64,
    level: i128,
    ring: Option<Ring>,
    change: impl FnOnce(&mut Transfer<'_>),
) -> String {
    let limit = limit(burst);
    let mut transfer = Transfer::new(&limit);
    change(&mut transfer);
    let plan = plan(&Seen::Item(item(&limit, level, ring)), T0, &[transfer]);
    describe(&plan.unwrap(), T0)
}

fn leases(t: &mut Transfer<'_>, take: u64) {
    t.take = take;
    t.holding = holding(take);
}

#[test]
fn debit_of_a_bucket_without_blocks_is_guarded_by_the_level_alone() {
    let direct = |level, tokens: u64| written(1_000, level, None, |t| t.take = tokens);
    assert_eq!(direct(500, 10), "level 10..1000, falls by 10, held absent");
    assert_eq!(
        direct(1_000, 10),
        "level 10..1000, falls by 10, held absent"
    );
    assert_eq!(
        direct(1_001, 10),
        "level 1000.000000001..any, is 990, held absent"
    );
}

#[test]
fn debit_is_guarded_by_what_has_to_be_there() {
    let block = |change: &dyn Fn(&mut Transfer<'_>)| {
        written(1_000, 500, None, |t| {
            leases(t, 10);
            change(t);
        })
    };
    // 25 may be overdrawn by who leases.
    assert_eq!(block(&|_| {}), "level -15..1000, falls by 10, held absent");
    let more = |t: &mut Transfer<'_>| (t.leave, t.owe, t.give) = (3, 4, 2);
    assert_eq!(block(&more), "level -10..998, falls by 12, held absent");
    let trickle = |in_hand| {
        written(1_000, 5, None, |t| {
            leases(t, 60);
            (t.trickle, t.ahead, t.in_hand) = (50, ms(1_000), in_hand);
        })
    };
    // What is trickle may be 100 tokens ahead of the refill; the stock is draw, unless it was in hand.
    assert_eq!(trickle(0), "level -15..1000, falls by 60, held absent");
    assert_eq!(trickle(9), "level -15..1000, falls by 60, held absent");
    assert_eq!(trickle(10), "level -40..1000, falls by 60, held absent");
    let owes = written(1_000, -5, None, |t| t.owe = 60);
    assert_eq!(owes, "level any..1000, falls by 60, held absent");
    let gives = written(1_000, 500, None, |t| t.give = 60);
    assert_eq!(gives, "level any..any, falls by -60, held absent");
}

#[test]
fn debit_beside_blocks_is_guarded_by_what_others_hold() {
    let direct = |level, ring| written(1_000, level, ring, |t| t.take = 10);
    let block = |level, ring| written(1_000, level, ring, |t| leases(t, 10));
    // 130 less 30: others may come to hold 100 more. A process that leases leaves a third of that for a bucket that
    // is over full.
    assert_eq!(
        direct(500, ring(0, 20, 10)),
        "level -15..1000, falls by 10, held at most 120 and 10"
    );
    assert_eq!(
        block(500, ring(0, 20, 10)),
        "level -15..1033, falls by 10, held at most 87 and 10"
    );
    // What was granted two epochs ago is not counted; a quarter may still be entered before.
    assert_eq!(
        block(500, ring(1, 20, 10)),
        "level -15..1036, falls by 10, held at most 56 and 38"
    );
    assert_eq!(
        block(500, ring(2, 20, 10)),
        "level -15..1043, falls by 10, held unchanged"
    );
    assert_eq!(
        direct(500, ring(2, 20, 10)),
        "level 10..1000, falls by 10, held unchanged"
    );
    assert_eq!(
        direct(500, ring(0, 0, 0)),
        "level 10..1000, falls by 10, held at most 130 and 0"
    );
    assert_eq!(
        direct(500, ring(0, 1, 0)),
        "level -15..1000, falls by 10, held at most 130 and 0"
    );
    // The block itself is bounded: 1155 - 30 - 1100.
    let large = written(1_000, 1_000, ring(0, 20, 10), |t| leases(t, 1_100));
    assert_eq!(
        large,
        "level 1075..1033, falls by 1100, held at most 45 and 10"
    );
    assert_eq!(
        direct(500, ring(0, 120, 10)),
        "level -15..1000, falls by 10, held at most 120 and 10"
    );
}

#[test]
fn level_is_guarded_where_others_hold_more_than_flows_in() {
    let direct = |level, ring| written(1_000, level, ring, |t| t.take = 10);
    // 1130 - 500 - 131 are left: half of that for the level, half for the others.
    assert_eq!(
        direct(500, ring(0, 120, 11)),
        "level 10..749.5, falls by 10, held at most 369 and 11"
    );
    assert_eq!(
        direct(400, ring(0, 600, 100)),
        "level 10..415, falls by 10, held at most 615 and 100"
    );
    assert_eq!(
        written(1_000, 400, ring(0, 600, 100), |t| leases(t, 10)),
        "level 10..415, falls by 10, held at most 615 and 100"
    );
    assert_eq!(
        direct(430, ring(0, 600, 100)),
        "level 10..430, falls by 10, held at most 600 and 100"
    );
    // 70 are too much, and 8.125 more overflow for what flows in next. Once: not if half of it is gone.
    assert_eq!(
        direct(500, ring(0, 600, 100)),
        "level 460.9375..504.0625, falls by 88.125, held at most 604 and 100"
    );
    assert_eq!(
        written(1_000, 500, ring(0, 600, 100), |t| (t.take, t.owe) = (10, 5)),
        "level 460.9375..504.0625, falls by 93.125, held at most 604 and 100"
    );
    assert_eq!(
        written(1_000, 500, ring(0, 600, 100), |t| t.take = 400),
        "level 478.125..504.0625, falls by 478.125, held at most 604 and 100"
    );
    assert_eq!(
        direct(1_100, ring(0, 600, 100)),
        "level 1000.000000001..any, is 411.875, held at most 604 and 100"
    );
    // Beyond full and with too large a debit to be cut to full first: what is above full falls as well.
    assert_eq!(
        written(1_000, 1_100, ring(0, 600, 100), |t| t.take = 990),
        "level 1668.125..1000, falls by 1668.125, held at most 604 and 100"
    );
    let gives = |level, ring, give| written(1_000, level, ring, |t| t.give = give);
    assert_eq!(
        gives(500, ring(0, 600, 100), 10),
        "level 455.9375..504.0625, falls by 78.125, held at most 604 and 100"
    );
    // Nothing overflows of nothing, by a write that draws on nothing.
    assert_eq!(
        gives(-10, ring(0, 1_200, 100), 5),
        "level any..-5.9375, falls by -5, held at most 1204 and 100"
    );
    assert_eq!(
        gives(1_100, ring(0, 600, 100), 5),
        "level 810.9375..1104.0625, falls by 678.125, held at most 604 and 100"
    );
}

#[test]
fn write_that_takes_no_block_leaves_others_what_they_may_hold() {
    let gives = |holds| {
        written(1_000, -500, ring(0, 600, 100), |t| {
            (t.give, t.holding) = (5, holding(holds));
        })
    };
    // 1130 + 495 - 700 are left, half of that for the others; with a block no more than 1155 - 700 less it.
    assert_eq!(
        gives(0),
        "level any..-37.5, falls by -5, held at most 1062 and 100"
    );
    assert_eq!(
        gives(1),
        "level any..-37.5, falls by -5, held at most 1054 and 100"
    );
}

#[test]
fn refill_beside_a_block_overflows_when_the_block_is_renewed() {
    let renews = |level, others, give, spent| {
        written(1_000, level, ring(0, others, 300), |t| {
            leases(t, 10);
            (t.give, t.returned.tokens, t.spent) = (give, give, spent);
            t.holding = holding_entered(t.limit, 300);
        })
    };
    assert_eq!(
        renews(700, 100, 200, 100),
        "level -215..810, falls by -190, held at most 120 and 300"
    );
    // 950 + 400 - 1130 are too much, and 50 of it is above full.
    assert_eq!(
        renews(950, 100, 100, 200),
        "level 900.000000001..any, is 820, held at most 120 and 300"
    );
    // What it neither gives back nor has spent is not its own any more: 950 + 200 - 1130.
    assert_eq!(
        renews(950, 100, 20, 80),
        "level 940..990, falls by 10, held at most 120 and 300"
    );
}

#[test]
fn full_bucket_is_cut_to_its_burst() {
    let block = |level, others_took| {
        written(1_000, level, ring(0, 20, 10), |t| {
            leases(t, 10);
            t.others_took = others_took;
        })
    };
    // From half of what may be over full on.
    let added = "level -15..1033, falls by 10, held at most 87 and 10";
    let set = "level 1000.000000001..any, is 990, held at most 87 and 10";
    assert_eq!(block(1_016, 0), added);
    assert_eq!(block(1_017, 0), set);
    assert_eq!(block(1_026, 10), added);
    assert_eq!(block(1_027, 10), set);
    let asked = |level| {
        written(1_000, level, None, |t| {
            t.take = 5;
            t.asked_at = Some(T0.before(ms(100)));
        })
    };
    assert_eq!(asked(1_010), "level 5..1010, falls by 5, held absent");
    assert_eq!(
        asked(1_011),
        "level 1010.000000001..any, is 1005, held absent"
    );
    let gives = |level| written(1_000, level, None, |t| (t.take, t.give) = (5, 20));
    assert_eq!(gives(980), "level -15..980, falls by -15, held absent");
    assert_eq!(gives(981), "level 980.000000001..any, is 995, held absent");
    let owes = |level| written(1_000, level, None, |t| t.owe = 5);
    assert_eq!(
        owes(1_001),
        "level 1000.000000001..any, is 995, held absent"
    );
    // A debit of more than a burst is not made of a full bucket.
    assert_eq!(
        written(1_000, 1_200, None, |t| t.take = 1_001),
        "level 1001..1000, falls by 1001, held absent"
    );
    // At another write the limit lies elsewhere: 57 of 128 further.
    let limit = limit(1_000);
    for (level, set) in [(1_023, false), (1_024, true)] {
        let mut seen = item(&limit, level, ring(0, 20, 10));
        seen.sequence = 1;
        let mut transfer = Transfer::new(&limit);
        leases(&mut transfer, 10);
        let plan = plan(&Seen::Item(seen), T0, &[transfer]).unwrap();
        assert_eq!(describe(&plan, T0).contains("is 990"), set);
    }
}

fn holding_entered(limit: &Limit, held: u64) -> Option<Holding> {
    // What is entered by a write in the epoch before.
    let before = T0.before(TTL);
    let transfer = Transfer {
        take: held,
        holding: holding(held),
        ..Transfer::new(limit)
    };
    let plan = plan(&Seen::Never, before, &[transfer]).unwrap();
    Some(Holding {
        entered: plan.entries[0],
        ..holding(10)?
    })
}

#[test]
fn spans_are_parts_of_a_lease_ttl() {
    assert_eq!(flight_max(TTL), ms(50));
    assert_eq!(overdraft_max(TTL), ms(250));
}

#[test]
fn excess_is_what_level_and_blocks_are_over_the_bound() {
    let limit = limit(1_000);
    let of = |level, ring| excess(&found(&limit, level, ring), T0);
    assert_eq!(of(5_000, None), 0);
    assert_eq!(of(500, ring(0, 700, 100)), 140);
    assert_eq!(of(360, ring(0, 700, 100)), 0);
    assert_eq!(of(361, ring(0, 700, 100)), 1);
    assert_eq!(of(-500, ring(0, 1_000, 200)), 40);
    assert_eq!(of(5_000, ring(0, 0, 200)), 40);
    let mut above = found(&limit, 500, ring(0, 700, 100));
    above.z -= 1;
    assert_eq!(excess(&above, T0), 141, "rounded up");
    above.z += 2;
    assert_eq!(excess(&above, T0), 140);
}

#[test]
fn block_is_bounded_by_what_others_hold() {
    let limit = limit(1_000);
    let most = |ring, entered| {
        let found = found(&limit, 500, ring);
        block_max(&limit, Some(&found), T0, entered, TTL)
    };
    assert_eq!(block_max(&limit, None, T0, None, TTL), 1_145);
    assert_eq!(most(None, None), 1_145);
    assert_eq!(most(ring(0, 600, 100), None), 445);
    assert_eq!(most(ring(0, 600, 5_000), None), 0);
    let own = holding_entered(&limit, 60).unwrap().entered;
    assert_eq!(most(ring(0, 600, 100), own), 505);
    assert_eq!(most(ring(1, 100, 600), own), 1_105);
    assert_eq!(most(ring(0, 0, 0), own), 1_145, "never less than nothing");
    let mut slow = ring(0, 0, 0);
    slow.as_mut().unwrap().lease_ttl_ms = 3_200;
    assert_eq!(most(slow, None), 1_290);
}

#[test]
fn ring_counts_two_epochs_and_clocks_that_are_a_little_ahead() {
    let limit = limit(1_000);
    let others = |ring, now| {
        let out = Outstanding::of(&found(&limit, 500, ring), now, None)?;
        Some((out.others, out.epoch - EPOCH))
    };
    assert_eq!(others(None, T0), None);
    assert_eq!(others(ring(0, 20, 10), T0), Some((30, 0)));
    let ahead = T0.before(ms(1));
    assert_eq!(
        others(ring(0, 20, 10), ahead),
        Some((30, 0)),
        "its clock is ahead"
    );
    assert_eq!(others(ring(0, 20, 10), T0.after(ms(1_599))), Some((30, 0)));
    assert_eq!(others(ring(0, 20, 10), T0.after(ms(1_600))), Some((20, 1)));
    assert_eq!(others(ring(0, 20, 10), T0.after(ms(3_200))), Some((0, 2)));
    let far = Outstanding::of(
        &found(&limit, 500, ring(0, 20, 10)),
        T0.before(ms(1_601)),
        None,
    );
    assert_eq!(far.map(|out| out.others), Some(0), "a broken clock");
    let out = Outstanding::of(&found(&limit, 500, ring(0, 20, 10)), T0.after(ms(3)), None);
    let out = out.unwrap();
    assert_eq!(out.epoch_end(), T0.after(TTL));
    assert_eq!(out.lease_ttl(), TTL);
    // What was entered two epochs ago does not stand there any more.
    let own = holding_entered(&limit, 60).unwrap().entered;
    for (later, left) in [(0, 540), (1_600, 600)] {
        let now = T0.after(ms(later));
        let mut ring = ring(0, 600, 0).unwrap();
        ring.epoch += later / 1_600;
        ring.held = [600, 0, 0];
        let out = Outstanding::of(&found(&limit, 500, Some(ring)), now, own);
        assert_eq!(out.unwrap().others, left);
    }
    // And nothing of it in a ring of other epochs.
    let mut slow = ring(0, 600, 0).unwrap();
    slow.lease_ttl_ms = 1_601;
    slow.epoch = T0.as_millis() / 1_601;
    slow.held = [600, 0, 0];
    let out = Outstanding::of(&found(&limit, 500, Some(slow)), T0, own).unwrap();
    assert_eq!(out.own_of(60), 0);
    let out = Outstanding::of(&found(&limit, 500, ring(0, 600, 0)), T0, own).unwrap();
    assert_eq!(
        (out.own_of(60), out.own_of(59), out.own_of(61)),
        (60, 59, 60)
    );
}

#[test]
fn reservations_have_their_place_in_time() {
    let limit = limit(1_000);
    let at = |level, scheduled| flows_in(&found(&limit, level, None), T0, TTL, scheduled);
    // 25 of the 60 may be overdrawn.
    assert_eq!(at(-60, 20), (ms(150), ms(350)));
    assert_eq!(at(-60, 40), (ms(0), ms(350)));
    assert_eq!(at(-25, 40), (ms(0), ms(0)));
    assert_eq!(at(-26, 0), (ms(10), ms(10)));
}

#[test]
fn returned_block_that_the_ring_has_dropped_is_displaced_by_refill() {
    let limit = limit(1_000);
    let displaced = |declared: &Limit, ring, tokens, held_for| {
        let returned = Returned {
            tokens,
            revoked: 3,
            held_for: ms(held_for),
        };
        let found = found(&limit, 500, ring);
        let ticks = returned.displaced_by_refill(declared.terms(), &found, T0);
        (ticks / TOKEN, ticks % TOKEN)
    };
    let other = self::limit(999);
    assert_eq!(displaced(&limit, ring(0, 0, 0), 300, 1_600), (0, 0));
    assert_eq!(displaced(&other, ring(0, 0, 0), 300, 1_600), (0, 0));
    assert_eq!(
        displaced(&limit, ring(0, 0, 0), 300, 1_601),
        (163, 100_000_000)
    );
    assert_eq!(displaced(&limit, ring(0, 0, 0), 300, 2_000), (203, 0));
    assert_eq!(displaced(&limit, None, 300, 2_000), (203, 0));
    assert_eq!(displaced(&limit, None, 150, 2_000), (153, 0));
    assert_eq!(displaced(&other, None, 300, 100), (303, 0));
    // It is displaced in the level that a write gives it back to.
    let given = written(1_000, 500, None, |t| {
        t.give = 153;
        t.returned = Returned {
            tokens: 150,
            revoked: 3,
            held_for: ms(1_000),
        };
    });
    assert_eq!(given, "level any..any, falls by -50, held absent");
}

fn held(tokens: u64, demand_milli: i64, entered: Option<plan::RingEntry>) -> Holding {
    Holding {
        lease_ttl: TTL,
        tokens,
        demand_milli,
        entered,
    }
}

/// How a write changes the ring of the first limit, and what it enters.
fn entered(
    item: &BucketItem,
    now: WallTime,
    holding: Option<Holding>,
    direct_milli: i64,
) -> (RingChange, Option<plan::RingEntry>) {
    let limit = limit(1_000);
    let transfer = Transfer {
        take: holding.map_or(1, |h| h.tokens),
        holding,
        direct_milli,
        ..Transfer::new(&limit)
    };
    let plan = plan(&Seen::Item(item.clone()), now, &[transfer]).unwrap();
    let LimitAction::Update { change, .. } = plan.write.limits[0].action else {
        panic!("{plan:?}");
    };
    (change.ring, plan.entries[0])
}

#[test]
fn ring_holds_what_stands_for_each_process() {
    let limit = limit(1_000);
    let add = |epoch, held, held_before, demand_milli, demand_before_milli| RingChange::Add {
        epoch,
        held,
        held_before,
        demand_milli,
        demand_before_milli,
    };
    let seen = item(&limit, 500, ring(0, 20, 10));
    let (change, first) = entered(&seen, T0, Some(held(40, 5_000, None)), 7);
    assert_eq!(change, add(EPOCH, 40, 0, 5_007, 0));
    let (change, entry) = entered(&seen, T0, Some(held(15, 4_000, first)), 0);
    assert_eq!(change, add(EPOCH, -25, 0, -1_000, 0));
    assert_eq!(entry.unwrap().demand_milli, 4_000);
    // In the next epoch it moves, and what has fallen is taken out of the one before.
    let next = T0.after(TTL);
    let (change, entry) = entered(&seen, next, Some(held(10, 3_000, entry)), 0);
    assert_eq!(change, add(EPOCH + 1, 10, -15, 3_000, -1_000));
    let (change, entry) = entered(&seen, next, Some(held(12, 1_000, entry)), 0);
    assert_eq!(change, add(EPOCH + 1, 2, 0, -2_000, -2_000));
    let (change, _) = entered(&seen, next, Some(held(12, 1_500, entry)), 0);
    assert_eq!(change, add(EPOCH + 1, 0, 0, 500, 0));
    // After a write of unknown outcome the tokens may be counted twice.
    let doubt = entry.map(plan::RingEntry::in_doubt);
    let (change, _) = entered(&seen, next, Some(held(12, 1_000, doubt)), 0);
    assert_eq!(change, add(EPOCH + 1, 12, 0, 0, 0));
    // An entry of two epochs ago is gone.
    let later = T0.after(TTL * 2);
    let mut turned = item(&limit, 500, ring(0, 20, 10));
    turned.limits[0].1.ring.as_mut().unwrap().epoch = EPOCH + 1;
    let (change, _) = entered(&turned, later, Some(held(12, 1_000, first)), 0);
    assert_eq!(change, add(EPOCH + 2, 12, 0, 1_000, 0));
}

#[test]
fn ring_starts_over_where_it_is_dead_or_too_short() {
    let limit = limit(1_000);
    let start = |others: i64, demand| {
        let mut ring = ring(0, 40 + others, 0).unwrap();
        ring.demand_milli[0] = demand;
        RingChange::Reset(ring)
    };
    let new = || Some(held(40, 5_000, None));
    let none = item(&limit, 500, None);
    assert_eq!(entered(&none, T0, new(), 7).0, start(0, 5_000));
    let dead = item(&limit, 500, ring(2, 20, 10));
    let (change, entry) = entered(&dead, T0, new(), 7);
    assert_eq!(change, start(0, 5_007));
    let (change, _) = entered(&dead, T0, Some(held(40, 5_000, entry)), 0);
    assert_eq!(change, start(0, 5_000));
    let mut short = item(&limit, 500, ring(0, 20, 10));
    let at = short.limits[0].1.ring.as_mut().unwrap();
    (at.lease_ttl_ms, at.epoch) = (800, EPOCH * 2);
    at.held = [20; 3];
    assert_eq!(entered(&short, T0, new(), 0).0, start(40, 5_000));
    let mut long = short.clone();
    let at = long.limits[0].1.ring.as_mut().unwrap();
    (at.lease_ttl_ms, at.epoch) = (3_200, EPOCH / 2);
    let (change, _) = entered(&long, T0, new(), 0);
    assert!(matches!(change, RingChange::Add { held: 40, epoch, .. } if epoch == EPOCH / 2));
    // Direct demand alone is told where others hold blocks.
    let live = item(&limit, 500, ring(0, 20, 10));
    let told = RingChange::Add {
        epoch: EPOCH,
        held: 0,
        held_before: 0,
        demand_milli: 7,
        demand_before_milli: 0,
    };
    assert_eq!(entered(&live, T0, None, 7), (told, None));
    assert_eq!(entered(&live, T0, None, 0), (RingChange::Keep, None));
    assert_eq!(entered(&dead, T0, None, 7), (RingChange::Keep, None));
    assert_eq!(entered(&none, T0, None, 7), (RingChange::Keep, None));
}

#[test]
fn write_that_creates_or_converts() {
    let (limit, other) = (limit(1_000), limit(500));
    let debit = Transfer {
        take: 10,
        owe: 5,
        give: 2,
        consumed: 9,
        holding: holding(10),
        ..Transfer::new(&limit)
    };
    let credit = Transfer {
        give: 5,
        ..Transfer::new(&limit)
    };
    for seen in [Seen::Never, Seen::Missing] {
        let planned = plan(&seen, T0, &[debit]).unwrap();
        let mut created = found(&limit, 985, ring(0, 10, 0));
        created.consumed = 9;
        assert_eq!(planned.write.limits[0].action, LimitAction::Create(created));
        assert_eq!(
            planned.moved,
            [Some(Moved {
                debit: 15,
                credit: 2
            })]
        );
        assert!(!planned.only_converts && planned.entries[0].is_some());
        assert_eq!(planned.write.incarnation, None);
        assert_eq!(planned.write.sequence_from, T0.as_micros());
        assert_eq!(planned.write.consumed_at_ms, T0.as_millis());
    }
    let credited = plan(&Seen::Never, T0, &[credit]).unwrap();
    assert_eq!(
        describe(&credited, T0),
        "level any..any, falls by -5, held absent"
    );
    assert!(plan(&Seen::Missing, T0, &[credit]).is_none());
    let planned = plan(&Seen::Missing, T0, &[credit, debit]).unwrap();
    assert_eq!(planned.moved[0], None);
    assert_eq!(planned.write.limits.len(), 1);
    // The terms that are stored are others.
    let seen = Seen::Item(item(&other, 400, None));
    let wanted = Transfer {
        in_demand: true,
        ..Transfer::new(&limit)
    };
    for converts in [debit, wanted] {
        let planned = plan(&seen, T0, &[converts]).unwrap();
        assert!(planned.only_converts);
        assert_eq!((planned.moved, planned.entries), (vec![None], vec![None]));
        let z = limit.terms().empty_at(T0) - 400 * TOKEN;
        let guard = LimitGuard {
            terms: *other.terms(),
            z_min: Some(z),
            z_max: Some(z),
            ring: RingGuard::Any,
        };
        let change = LimitChange {
            z: ZChange::Set(z),
            terms: Some(*limit.terms()),
            consumed: 0,
            ring: RingChange::Keep,
        };
        let action = LimitAction::Update { guard, change };
        assert_eq!(planned.write.limits[0].action, action);
        assert_eq!(planned.write.incarnation, Some(7));
    }
    let planned = plan(&seen, T0, &[credit]).unwrap();
    assert!(
        !planned.only_converts,
        "a credit is made in the terms that are found"
    );
    assert_eq!(
        planned.moved,
        [Some(Moved {
            debit: 0,
            credit: 5
        })]
    );
}

/// For how long a write has the item kept, relative to now, and between which levels of now the limit may be found.
fn kept(
    item: &BucketItem,
    now: WallTime,
    change: impl FnOnce(&mut Transfer<'_>),
) -> (Kept, String) {
    let limit = limit(1_000);
    let mut transfer = Transfer::new(&limit);
    change(&mut transfer);
    let plan = plan(&Seen::Item(item.clone()), now, &[transfer]).unwrap();
    let relative = |seconds: u64| seconds.wrapping_sub(now.as_secs());
    let kept = match plan.write.kept {
        Kept::AsItIs => Kept::AsItIs,
        Kept::AtLeast(seconds) => Kept::AtLeast(relative(seconds)),
        Kept::Until(seconds) => Kept::Until(relative(seconds)),
    };
    (kept, describe(&plan, now))
}

const DAY: u64 = 86_400;

#[test]
fn bucket_is_kept_until_it_is_full_and_two_days_longer() {
    let limit = limit(1_000);
    let mut seen = item(&limit, 500, None);
    seen.expires_at_seconds = 0;
    let take = |t: &mut Transfer<'_>| t.take = 10;
    // Full in 5.1 s. A week is kept in reserve: the level may fall to what fills by then.
    let (until, write) = kept(&seen, T0, take);
    assert_eq!(until, Kept::Until(6 + 9 * DAY));
    // Until 7 days and 6 s from now it has to be full.
    assert_eq!(write, "level 10..1000, falls by 10, held absent");
    let owe = |t: &mut Transfer<'_>| t.owe = 10;
    let least = 1_000 - 100 * (6 + 7 * DAY as i128) + 10;
    let (until, write) = kept(&seen, T0, owe);
    assert_eq!(until, Kept::Until(6 + 9 * DAY));
    assert_eq!(
        write,
        format!("level {least}..1000, falls by 10, held absent")
    );
    // Kept for long enough already: guarded by that.
    let now = T0.as_secs();
    for (more, kept_so) in [
        (0, Kept::AtLeast(6 + 2 * DAY)),
        (1, Kept::AtLeast(7 + 2 * DAY)),
    ] {
        seen.expires_at_seconds = now + 6 + 2 * DAY + more;
        let (until, write) = kept(&seen, T0, owe);
        assert_eq!(until, kept_so);
        let least = 1_000 - 100 * (6 + i128::from(more)) + 10;
        assert_eq!(
            write,
            format!("level {least}..1000, falls by 10, held absent")
        );
    }
    seen.expires_at_seconds = now + 5 + 2 * DAY;
    assert_eq!(kept(&seen, T0, owe).0, Kept::Until(6 + 9 * DAY));
    // What takes longer than a week to fill is kept for twice as long.
    let deep = |t: &mut Transfer<'_>| t.owe = 100 * 8 * DAY - 500;
    seen.expires_at_seconds = 0;
    assert_eq!(kept(&seen, T0, deep).0, Kept::Until(18 * DAY));
    // What is full already by now.
    let mut full = item(&limit, 5_000, None);
    full.expires_at_seconds = 0;
    assert_eq!(kept(&full, T0, |t| t.owe = 1).0, Kept::Until(1 + 9 * DAY));
    // A credit makes nothing last longer, unless it enters the ring.
    assert_eq!(kept(&seen, T0, |t| t.give = 10).0, Kept::AsItIs);
    assert_eq!(
        kept(&seen, T0, |t| (t.give, t.owe) = (10, 10)).0,
        Kept::AsItIs
    );
    assert_eq!(
        kept(&seen, T0, |t| (t.give, t.owe) = (10, 11)).0,
        Kept::Until(6 + 9 * DAY)
    );
    let enters = kept(&seen, T0, |t| (t.give, t.holding) = (10, holding(0))).0;
    assert_eq!(enters, Kept::Until(5 + 9 * DAY));
    // Another limit that fills later, written or not.
    let other = Limit::custom("b", 100, 1, Duration::from_secs(60)).unwrap();
    let mut empty = found(&limit, 0, None);
    empty.terms = *other.terms();
    empty.z = empty.terms.empty_at(T0);
    seen.limits.push((other.shared_name().clone(), empty));
    assert_eq!(kept(&seen, T0, take).0, Kept::Until(6_000 + 9 * DAY));
    // Clocks end in 2554.
    seen.limits.pop();
    let most = u64::MAX / 1_000_000_000;
    for (ago, for_ever) in [(9 * DAY + 5, true), (9 * DAY + 7, false)] {
        let late = WallTime::from_millis((most - ago) * 1_000);
        let mut seen = item(&limit, 0, None);
        seen.expires_at_seconds = 0;
        seen.limits[0].1.z = limit.terms().empty_at(late) - 500 * TOKEN;
        let (until, write) = kept(&seen, late, owe);
        let expected = if for_ever { ago } else { 6 + 9 * DAY };
        assert_eq!(until, Kept::Until(expected));
        assert_eq!(write.starts_with("level any"), for_ever, "{write}");
    }
}

#[test]
fn written_limit_is_kept_until_it_is_full_by_what_is_stored() {
    // What is stored may fill later than what a write leaves: a credit that is guarded by nothing.
    let limit = limit(1_000);
    let mut seen = item(&limit, -500, None);
    seen.expires_at_seconds = 0;
    let enters = kept(&seen, T0, |t| (t.give, t.holding) = (1_000, holding(0))).0;
    assert_eq!(enters, Kept::Until(15 + 9 * DAY));
    let created = plan(
        &Seen::Missing,
        T0,
        &[Transfer {
            take: 250,
            ..Transfer::new(&limit)
        }],
    );
    let until = T0.as_secs() + 3 + 9 * DAY;
    assert_eq!(created.unwrap().write.kept, Kept::Until(until));
}
