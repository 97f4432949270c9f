//! What one process holds, owes and is owed, to the token, from write to write.
//!
//! A limit of 100 tokens per second; blocks live for 1.6 s.

use std::time::Duration;

use super::{T0, TOKEN, TTL, ms};
use crate::item::{BucketItem, Ring};
use crate::kernel::{Applied, Kernel, Lineage, Report};
use crate::plan::{Holding, Plan, Returned, Seen, Transfer, plan};
use crate::{
    Ask, Limit, MonotonicTime, Now, Payer, Position, Settled, Share, Terms, Ticks, WriteEffect,
};

const START: MonotonicTime = MonotonicTime::from_nanos(1_000_000_000_000);

fn at(millis: u64) -> Now {
    Now {
        monotonic: START.after(ms(millis)),
        wall: T0.after(ms(millis)),
    }
}

fn limit(name: &str, burst: u64) -> Limit {
    let limit = Limit::custom(name, 100, 100, Duration::from_secs(1));
    limit.unwrap().burst(burst).unwrap()
}

fn stock(stock: u64) -> Ask {
    Ask {
        stock,
        ..Ask::default()
    }
}

/// Of a limit, and only what is not nothing.
fn holds(stock: u64) -> Position {
    Position {
        stock,
        ..Position::default()
    }
}

/// One process, one table.
struct Process {
    kernel: Kernel,
    limits: Vec<Limit>,
    table: Option<BucketItem>,
}

impl Process {
    fn new(limits: usize) -> Self {
        let limits: Vec<_> = ["a", "b"][..limits]
            .iter()
            .map(|name| limit(name, 1_000))
            .collect();
        Self {
            kernel: Kernel::new(limits.len(), Lineage::default()),
            limits,
            table: None,
        }
    }

    fn plan(&mut self, now: Now, asks: &[Ask]) -> Option<Plan> {
        let reports = [Report::default(); 2];
        self.kernel.plan(now, TTL, &self.limits, asks, &reports)
    }

    /// Makes a planned write.
    fn apply(&mut self, plan: &Plan) -> BucketItem {
        BucketItem::apply(&mut self.table, &plan.write).unwrap()
    }

    fn applied(&mut self, now: Now, item: BucketItem) -> Option<Applied> {
        self.kernel.applied(now, TTL, &self.limits, item)
    }

    /// Plans a write that is applied at once.
    fn renew(&mut self, now: Now, asks: &[Ask]) -> Settled {
        let plan = self.plan(now, asks).unwrap();
        let item = self.apply(&plan);
        match self.applied(now, item) {
            Some(Applied::Settled(settled)) => settled,
            _ => panic!("it only converts"),
        }
    }

    fn position(&self) -> Position {
        self.kernel.position(0)
    }

    fn level(&self, now: Now) -> i64 {
        let limit = self.table.as_ref().unwrap().limit("a").unwrap();
        limit.terms.tokens(limit.z, now.wall)
    }
}

#[test]
fn trickle_is_released_into_the_stock() {
    let mut p = Process::new(2);
    let ask = Ask {
        stock: 10,
        trickle: 50,
        over: ms(1_000),
        ahead: ms(500),
        ..Ask::default()
    };
    let settled = p.renew(at(0), &[ask, stock(7)]);
    assert_eq!(settled.expires_at, START.after(TTL));
    assert_eq!(settled.planned_at, START);
    let first = settled.limits[0];
    assert_eq!(
        (first.stock, first.trickle, first.gave_back, first.held),
        (10, 50, 0, 60)
    );
    assert_eq!(first.trickle_end, START.after(ms(1_000)));
    assert_eq!(p.level(at(0)), 940);
    assert!(!p.kernel.release(at(19).monotonic));
    assert!(p.kernel.release(at(100).monotonic));
    assert!(!p.kernel.release(at(100).monotonic));
    let expected = Position {
        pending: 45,
        ..holds(15)
    };
    assert_eq!(p.position(), expected);
    assert_eq!(p.kernel.trickle(0).pending(), 45);
    assert_eq!(expected.net(), 60);
    // To the last moment, and not at it.
    assert_eq!(p.kernel.in_hand(at(1_599).monotonic, 0), 15);
    assert_eq!(p.kernel.in_hand(at(1_600).monotonic, 0), 0);
    assert_eq!(p.kernel.expires_at(), at(1_600).monotonic);
}

#[test]
fn reserved_refill_is_released_in_its_place() {
    let mut p = Process::new(1);
    p.renew(at(0), &[stock(1_000)]);
    let mut other = Process::new(1);
    other.table = p.table.take();
    let item = other.table.clone();
    other.kernel.saw(START, START, item);
    let ask = Ask {
        trickle: 50,
        over: ms(100),
        ahead: ms(800),
        ..Ask::default()
    };
    other.renew(at(0), &[ask]);
    // 50 tokens below empty, of which 25 may be overdrawn: until 250 ms, from 0 ms on.
    assert_eq!(other.kernel.trickle(0).end(), at(250).monotonic);
    other.kernel.release(at(125).monotonic);
    assert_eq!(other.position().stock, 25);
    let settled = other.renew(at(125), &[Ask { stock: 25, ..ask }]);
    assert_eq!(settled.limits[0].gave_back, 50);
    assert_eq!(settled.limits[0].held, 75);
}

#[test]
fn charge_is_paid_from_the_block_and_owed_beyond() {
    let mut p = Process::new(1);
    p.renew(at(0), &[stock(30)]);
    assert_eq!(p.kernel.charge(at(1).monotonic, 0, 20), 0);
    assert_eq!(p.kernel.charge(at(1).monotonic, 0, 25), 15);
    let expected = Position {
        debt: 15,
        spent: 45,
        ..holds(0)
    };
    assert_eq!(p.position(), expected);
    assert_eq!(expected.net(), -15);
    assert!(!p.kernel.is_settled());
    // The next write pays; what is charged meanwhile is left.
    let plan = p.plan(at(100), &[stock(10)]).unwrap();
    assert_eq!(plan.moved[0].unwrap().debit, 25);
    assert_eq!(p.kernel.charge(at(101).monotonic, 0, 4), 4);
    let item = p.apply(&plan);
    p.applied(at(102), item);
    let expected = Position {
        debt: 4,
        spent: 4,
        ..holds(10)
    };
    assert_eq!(p.position(), expected);
    assert_eq!(p.level(at(100)), 1_000 - 30 + 10 - 25);
    // An expired block pays for nothing.
    assert_eq!(p.kernel.charge(at(1_700).monotonic, 0, 3), 3);
    assert_eq!(p.position().stock, 10);
}

#[test]
fn given_back_tokens_cancel_debt_first_and_then_go_to_the_block_that_paid() {
    let mut p = Process::new(1);
    p.renew(at(0), &[stock(30)]);
    let block = Payer::Block(p.kernel.lineage().generation());
    p.kernel.charge(at(1).monotonic, 0, 45);
    let now = at(2).monotonic;
    assert_eq!(p.kernel.give_back(now, 0, block, 10), Some(0));
    let expected = Position {
        debt: 5,
        spent: 35,
        ..holds(0)
    };
    assert_eq!(p.position(), expected);
    assert_eq!(p.kernel.give_back(now, 0, block, 25), Some(20));
    let expected = Position {
        spent: 10,
        ..holds(20)
    };
    assert_eq!(p.position(), expected);
    // Never more than the block has paid: the rest is credited.
    assert_eq!(p.kernel.give_back(now, 0, block, 12), Some(10));
    let expected = Position {
        credit: 2,
        ..holds(30)
    };
    assert_eq!(p.position(), expected);
    assert!(!p.kernel.is_settled());
    // At its end it has nothing any more.
    p.kernel.charge(now, 0, 3);
    assert_eq!(
        p.kernel.give_back(at(1_600).monotonic, 0, block, 1),
        Some(0)
    );
    assert_eq!(p.position().credit, 3);
    assert_eq!(
        p.kernel.give_back(at(1_599).monotonic, 0, block, 1),
        Some(1)
    );
    assert_eq!(p.position().credit, 3);
    // An older block of this item, and the table.
    let older = Payer::Block(p.kernel.lineage().generation() - 1);
    p.kernel.charge(now, 0, 3);
    assert_eq!(p.kernel.give_back(now, 0, older, 1), Some(0));
    assert_eq!(p.kernel.give_back(now, 0, Payer::Table(None), 1), Some(0));
    let incarnation = p.kernel.lineage().incarnation();
    assert!(incarnation.is_some());
    assert_eq!(
        p.kernel.give_back(now, 0, Payer::Table(incarnation), 1),
        Some(0)
    );
    assert_eq!(p.position().credit, 6);
    // A payer that has not debited this item gets nothing back.
    let share = Share::new(0.5).unwrap();
    for payer in [Payer::Table(Some(1)), Payer::Nobody, Payer::Share(share)] {
        assert_eq!(p.kernel.give_back(now, 0, payer, 1), None);
        assert_eq!(p.position().credit, 6);
    }
}

#[test]
fn tokens_that_a_write_under_way_settles_are_not_undone() {
    let mut p = Process::new(1);
    p.renew(at(0), &[stock(30)]);
    p.kernel.charge(at(1).monotonic, 0, 45);
    let plan = p.plan(at(2), &[stock(10)]).unwrap();
    let block = Payer::Block(p.kernel.lineage().generation());
    // The write pays the debt of 15, and tells of the 45: nothing of it can be undone here.
    p.kernel.charge(at(3).monotonic, 0, 4);
    assert_eq!(p.kernel.give_back(at(3).monotonic, 0, block, 5), Some(0));
    let expected = Position {
        coming: 10,
        debt: 15,
        spent: 45,
        credit: 1,
        ..holds(0)
    };
    assert_eq!(p.position(), expected);
    let item = p.apply(&plan);
    p.applied(at(4), item);
    let expected = Position {
        credit: 1,
        ..holds(10)
    };
    assert_eq!(p.position(), expected);
    // If it is not applied, debt and credit cancel each other in the next one.
    p.kernel.charge(at(5).monotonic, 0, 12);
    p.plan(at(6), &[stock(0)]).unwrap();
    p.kernel.give_back(at(6).monotonic, 0, Payer::Block(0), 9);
    p.kernel.not_applied();
    assert_eq!((p.position().debt, p.position().credit), (1, 9));
    let plan = p.plan(at(7), &[stock(0)]).unwrap();
    assert_eq!((p.position().debt, p.position().credit), (0, 8));
    let moved = plan.moved[0].unwrap();
    assert_eq!((moved.debit, moved.credit), (0, 8));
}

#[test]
fn fast_balance_borrows_from_the_stock() {
    let mut p = Process::new(1);
    p.renew(at(0), &[stock(30)]);
    assert_eq!(p.kernel.lend(0, 20), 20);
    assert_eq!(p.position(), holds(10));
    assert_eq!(p.kernel.take_in(0, 15), 5);
    let expected = Position {
        spent: 5,
        ..holds(25)
    };
    assert_eq!(p.position(), expected);
    assert_eq!(p.kernel.lend(0, 99), 25);
    assert!(!p.kernel.is_unused(0));
    assert_eq!(p.kernel.take_in(0, 0), 25);
    assert_eq!(p.kernel.take_in(0, 0), 0);
    assert_eq!(
        p.position(),
        Position {
            spent: 30,
            ..holds(0)
        }
    );
    assert!(p.kernel.is_unused(0));
}

#[test]
fn limit_is_unused_if_nothing_of_it_is_held_owed_or_under_way() {
    let mut kernel = Kernel::new(1, Lineage::default());
    kernel.add_limit();
    assert!(kernel.is_unused(1));
    kernel.charge(START, 1, 3);
    assert!(!kernel.is_unused(1) && kernel.is_unused(0));
    kernel.remove_limit(0);
    assert_eq!(kernel.position(0).debt, 3);
    let mut p = Process::new(1);
    assert!(!p.kernel.is_writing());
    let plan = p.plan(at(0), &[stock(5)]).unwrap();
    assert!(p.kernel.is_writing() && !p.kernel.is_unused(0));
    let item = p.apply(&plan);
    p.applied(at(0), item);
    assert!(!p.kernel.is_writing() && !p.kernel.is_unused(0));
    assert!(p.kernel.is_settled());
    p.kernel.charge(at(0).monotonic, 0, 5);
    assert!(p.kernel.is_unused(0));
    p.kernel
        .give_back(at(0).monotonic, 0, Payer::Table(None), 5);
    assert!(!p.kernel.is_unused(0) && !p.kernel.is_settled());
}

#[test]
fn renewal_keeps_what_the_next_block_has_and_returns_the_rest() {
    let mut p = Process::new(1);
    p.renew(at(0), &[stock(30)]);
    let generation = p.kernel.lineage().generation();
    p.plan(at(100), &[stock(10)]).unwrap();
    assert_eq!(p.kernel.lineage().generation(), generation + 1);
    assert!(p.kernel.position(0).returning > 0);
    let expected = Position {
        returning: 20,
        ..holds(10)
    };
    assert_eq!(p.position(), expected);
    assert_eq!(expected.held(), 30);
    let effect = WriteEffect {
        returned: 20,
        ..WriteEffect::default()
    };
    assert_eq!(p.kernel.in_flight(), effect);
    p.kernel.not_applied();
    assert_eq!(p.position(), holds(30));
    assert_eq!(p.kernel.position(0).returning, 0);
    assert_eq!(p.kernel.in_flight(), WriteEffect::default());
    p.kernel.charge(at(100).monotonic, 0, 4);
    p.kernel
        .give_back(at(100).monotonic, 0, Payer::Table(None), 2);
    let plan = p.plan(at(101), &[stock(50)]).unwrap();
    let effect = WriteEffect {
        returned: 2,
        debited: 24,
        ..WriteEffect::default()
    };
    assert_eq!(p.kernel.in_flight(), effect);
    assert_eq!(
        plan.moved[0].map(|moved| (moved.debit, moved.credit)),
        Some((50, 28))
    );
    assert_eq!(p.position().coming, 24);
    assert_eq!(p.kernel.position(0).returning, 0);
    let item = p.apply(&plan);
    // The answer comes a little later; what was spent meanwhile is not held.
    p.kernel.charge(at(120).monotonic, 0, 1);
    match p.applied(at(120), item) {
        Some(Applied::Settled(settled)) => {
            assert_eq!(settled.limits[0].held, 49);
            assert_eq!(settled.limits[0].gave_back, 26);
            assert_eq!(settled.expires_at, at(1_701).monotonic);
        }
        _ => panic!(),
    }
    assert_eq!(
        p.position(),
        Position {
            spent: 1,
            ..holds(49)
        }
    );
    assert!(p.applied(at(121), p.table.clone().unwrap()).is_none());
}

#[test]
fn returned_trickle_is_taken_out_of_what_is_not_released_first() {
    let mut p = Process::new(1);
    let ask = Ask {
        trickle: 40,
        over: ms(1_000),
        ..stock(30)
    };
    p.renew(at(0), &[ask]);
    // 70 are held; 20 are kept: 40 of the trickle go, and 10 of the stock.
    p.plan(at(0), &[stock(20)]).unwrap();
    let expected = Position {
        returning: 50,
        ..holds(20)
    };
    assert_eq!(p.position(), expected);
    p.kernel.not_applied();
    assert_eq!(p.position(), holds(70));
}

#[test]
fn write_of_unknown_outcome_repeats_the_debit_and_no_credit() {
    let mut p = Process::new(1);
    p.renew(at(0), &[stock(30)]);
    p.kernel.charge(at(1).monotonic, 0, 40);
    p.kernel
        .give_back(at(1).monotonic, 0, Payer::Table(None), 12);
    assert_eq!((p.position().debt, p.position().credit), (0, 2));
    p.kernel.charge(at(1).monotonic, 0, 5);
    let entry = p.kernel.entry(0);
    assert!(entry.is_some());
    p.plan(at(2), &[stock(10)]).unwrap();
    p.kernel.charge(at(2).monotonic, 0, 1);
    p.kernel
        .give_back(at(2).monotonic, 0, Payer::Table(None), 4);
    p.kernel.may_have_been_applied();
    assert_eq!((p.position().debt, p.position().credit), (3, 3));
    assert_eq!(p.position().spent, 0);
    assert!(!p.kernel.is_writing());
    let mut q = Process::new(1);
    q.renew(at(0), &[stock(30)]);
    q.plan(at(1), &[stock(10)]).unwrap();
    let entry = q.kernel.entry(0);
    q.kernel.may_have_been_applied();
    assert_eq!(q.position(), holds(10), "what is in both blocks is kept");
    assert_ne!(q.kernel.entry(0), entry, "it is in doubt");
    assert_eq!(q.kernel.expires_at(), at(1_600).monotonic);
}

#[test]
fn late_answer_is_compared_with_the_bound() {
    // 1500 are held, of a bucket that is full again when the answer comes: 1160 are allowed together.
    for (late, held) in [(50, 1_000), (51, 160), (1_599, 160), (1_600, 1_000)] {
        let mut p = Process::new(1);
        let plan = p.plan(at(0), &[stock(1_000)]).unwrap();
        let mut item = p.apply(&plan);
        // Somebody else has credited what others have overdrawn.
        let now = at(late);
        let limit = &mut item.limits[0].1;
        limit.z = limit.terms.full_at(now.wall);
        match p.applied(now, item) {
            Some(Applied::Settled(settled)) => assert_eq!(settled.limits[0].held, held, "{late}"),
            _ => panic!(),
        }
        assert_eq!(p.position().stock, held);
    }
}

#[test]
fn ask_is_clamped_to_what_may_be_had() {
    let mut p = Process::new(1);
    let all = Ask {
        stock: 1_100,
        trickle: u64::MAX / 4,
        over: Duration::MAX,
        ahead: Duration::MAX,
        demand_milli: i64::MAX,
        ..Ask::default()
    };
    let plan = p.plan(at(0), &[all]).unwrap();
    assert_eq!(plan.moved[0].unwrap().debit, 1_145);
    assert_eq!(plan.entries[0].unwrap().demand_milli, 100_000);
    let item = p.apply(&plan);
    p.applied(at(0), item);
    // The 45 run ahead of the level of -145 by all of the lease_ttl.
    assert_eq!(p.kernel.trickle(0).pending(), 45);
    assert_eq!(p.kernel.trickle(0).end(), at(1_600).monotonic);
    let mut p = Process::new(1);
    let negative = Ask {
        demand_milli: -5,
        ..stock(5)
    };
    let plan = p.plan(at(0), &[negative]).unwrap();
    assert_eq!(plan.entries[0].unwrap().demand_milli, 0);
    // A limit of 10 tokens in 3 s: 3334 thousandths per second at most.
    let terms = Terms {
        capacity: 1,
        burst: 10,
        refill_amount: 10,
        refill_period_seconds: 3,
    };
    let mut p = Process::new(1);
    p.limits = vec![Limit::new("a", terms).unwrap()];
    let plan = p
        .plan(
            at(0),
            &[Ask {
                demand_milli: 9_999,
                ..stock(5)
            }],
        )
        .unwrap();
    assert_eq!(plan.entries[0].unwrap().demand_milli, 3_334);
}

#[test]
fn process_that_holds_nothing_leaves_the_ring_alone_unless_it_reports() {
    for (reports, enters) in [(false, false), (true, true)] {
        let mut p = Process::new(1);
        p.kernel.charge(START, 0, 5);
        let ask = Ask {
            reports,
            ..Ask::default()
        };
        let plan = p.plan(at(0), &[ask]).unwrap();
        assert_eq!(plan.entries[0].is_some(), enters);
        let item = p.apply(&plan);
        p.applied(at(0), item);
        assert_eq!(p.kernel.entry(0).is_some(), enters);
        // A process that has entered something goes on.
        let plan = p.plan(at(1), &[stock(0)]).unwrap();
        assert_eq!(plan.entries[0].is_some(), enters);
    }
}

#[test]
fn block_goes_with_its_item() {
    let mut p = Process::new(1);
    p.renew(at(0), &[stock(30)]);
    let (old, paid) = (p.kernel.lineage(), p.kernel.lineage().generation());
    p.kernel.charge(at(0).monotonic, 0, 33);
    let plan = p.plan(at(1), &[stock(30)]).unwrap();
    p.kernel
        .give_back(at(1).monotonic, 0, Payer::Table(None), 5);
    p.kernel.charge(at(1).monotonic, 0, 2);
    assert_eq!((p.position().debt, p.position().credit), (5, 5));
    // Deleted, and found so by a direct acquire.
    p.table = None;
    p.kernel.saw(at(2).monotonic, at(2).monotonic, None);
    assert_eq!(p.kernel.lineage().incarnation(), None);
    assert!(p.kernel.lineage().generation() > paid + 1);
    assert_eq!(p.kernel.seen(), &Seen::Missing);
    let expected = Position {
        debt: 5,
        spent: 35,
        ..holds(0)
    };
    assert_eq!(p.position(), expected);
    let effect = WriteEffect {
        debited: 3,
        ..WriteEffect::default()
    };
    assert_eq!(p.kernel.in_flight(), effect);
    assert!(BucketItem::apply(&mut p.table, &plan.write).is_err());
    p.kernel.refused(at(3).monotonic, None);
    // What the old block has paid is credited to nobody, and cancels no debt.
    p.kernel
        .give_back(at(3).monotonic, 0, Payer::Block(paid), 9);
    assert_eq!((p.position().debt, p.position().credit), (5, 0));
    p.kernel
        .give_back(at(3).monotonic, 0, Payer::Block(paid), 9);
    p.kernel
        .give_back(at(3).monotonic, 0, Payer::Table(old.incarnation()), 9);
    assert_eq!((p.position().stock, p.position().credit), (0, 0));
    // A new item has a block of its own.
    p.renew(at(4), &[stock(7)]);
    let new = p.kernel.lineage();
    assert!(new.incarnation().is_some() && new.incarnation() != old.incarnation());
    p.kernel.charge(at(4).monotonic, 0, 5);
    p.kernel
        .give_back(at(4).monotonic, 0, Payer::Block(new.generation()), 2);
    assert_eq!(p.position().stock, 4);
    p.kernel
        .give_back(at(4).monotonic, 0, Payer::Block(new.generation() - 1), 1);
    assert_eq!(p.position().credit, 1, "the block before is of this item");
    p.kernel
        .give_back(at(4).monotonic, 0, Payer::Block(paid), 1);
    assert_eq!(p.position().credit, 1);
}

#[test]
fn answer_of_another_item_brings_nothing() {
    let mut p = Process::new(1);
    p.renew(at(0), &[stock(30)]);
    p.kernel.charge(at(9).monotonic, 0, 4);
    let plan = p.plan(at(10), &[stock(50)]).unwrap();
    let item = p.apply(&plan);
    p.kernel.charge(at(10).monotonic, 0, 1);
    let mut newer = item.clone();
    newer.incarnation += 5;
    newer.sequence += 5;
    p.kernel
        .saw(at(11).monotonic, at(11).monotonic, Some(newer.clone()));
    let spent = |spent| Position { spent, ..holds(0) };
    assert_eq!(p.position(), spent(5));
    p.applied(at(12), item);
    assert_eq!(p.position(), spent(1));
    assert_eq!(p.kernel.lineage().incarnation(), Some(newer.incarnation));
}

#[test]
fn answer_that_is_overtaken_says_nothing_new() {
    let mut p = Process::new(1);
    p.renew(at(0), &[stock(30)]);
    let mut item = p.table.clone().unwrap();
    let first = item.sequence;
    assert_eq!((p.kernel.sequence(), p.kernel.seen_at()), (first, START));
    item.sequence = first + 2;
    p.kernel
        .saw(at(5).monotonic, at(4).monotonic, Some(item.clone()));
    assert_eq!(
        (p.kernel.sequence(), p.kernel.seen_at()),
        (first + 2, at(5).monotonic)
    );
    // Sent before that was seen, and older.
    item.sequence = first + 1;
    for sent in [4, 5] {
        p.kernel
            .saw(at(6).monotonic, at(sent).monotonic, Some(item.clone()));
        assert_eq!(
            (p.kernel.sequence(), p.kernel.seen_at()),
            (first + 2, at(5).monotonic)
        );
    }
    item.sequence = first + 2;
    p.kernel
        .saw(at(7).monotonic, at(4).monotonic, Some(item.clone()));
    assert_eq!(
        p.kernel.seen_at(),
        at(7).monotonic,
        "it is as old as what is known"
    );
    // Sent after: the table was restored.
    item.sequence = first + 1;
    p.kernel
        .saw(at(9).monotonic, at(8).monotonic, Some(item.clone()));
    assert_eq!(p.kernel.sequence(), first + 1);
    assert_eq!(p.position(), holds(30));
    assert_eq!(Kernel::new(1, Lineage::default()).sequence(), 0);
    // An answer of a refused write counts as sent when it was planned.
    p.plan(at(10), &[stock(30)]).unwrap();
    item.sequence = first + 9;
    p.kernel
        .saw(at(12).monotonic, at(11).monotonic, Some(item.clone()));
    item.sequence = first + 8;
    p.kernel.refused(at(13).monotonic, Some(item.clone()));
    assert_eq!(p.kernel.sequence(), first + 9);
}

#[test]
fn terms_that_change_revoke_the_block() {
    let mut p = Process::new(1);
    let ask = Ask {
        trickle: 40,
        over: ms(1_000),
        ..stock(30)
    };
    p.renew(at(0), &[ask]);
    let generation = p.kernel.lineage().generation();
    p.kernel.revoke(0);
    assert_eq!(p.kernel.lineage().generation(), generation + 1);
    let revoked = Position {
        revoked: 70,
        ..Position::default()
    };
    assert_eq!(p.position(), revoked);
    assert!(!p.kernel.is_settled() && !p.kernel.is_unused(0));
    assert_eq!(p.kernel.returned(at(5).monotonic, 0, TTL, 3).revoked, 70);
    assert_eq!(p.kernel.returned(at(5).monotonic, 0, TTL, 3).tokens, 3);
    assert_eq!(
        p.kernel.returned(at(5).monotonic, 0, TTL, 3).held_for,
        ms(5)
    );
    let plan = p.plan(at(1), &[stock(10)]).unwrap();
    assert_eq!(plan.moved[0].unwrap().credit, 70);
    assert_eq!(p.kernel.in_flight().returned, 70);
    let item = p.apply(&plan);
    // Once more while the write is under way: what it brings is of other terms as well.
    p.kernel.revoke(0);
    p.applied(at(2), item);
    let revoked = Position {
        revoked: 10,
        ..Position::default()
    };
    assert_eq!(p.position(), revoked);
    // The same, if it is not applied: what it would have given back is revoked.
    let mut p = Process::new(1);
    p.renew(at(0), &[stock(30)]);
    p.plan(at(1), &[stock(10)]).unwrap();
    p.kernel.revoke(0);
    assert_eq!(p.position().revoked, 10);
    p.kernel.not_applied();
    assert_eq!(
        p.position(),
        Position {
            revoked: 30,
            ..Position::default()
        }
    );
    // An unknown outcome never credits again.
    p.plan(at(2), &[stock(0)]).unwrap();
    p.kernel.may_have_been_applied();
    assert_eq!(p.position(), Position::default());
}

#[test]
fn conversion_moves_nothing_and_revokes_what_has_expired() {
    for (now, revoked) in [(1_599, 0), (1_600, 30)] {
        let mut p = Process::new(1);
        p.renew(at(0), &[stock(30)]);
        p.limits = vec![limit("a", 2_000)];
        let generation = p.kernel.lineage().generation();
        let plan = p.plan(at(now), &[stock(40)]).unwrap();
        assert!(plan.only_converts);
        assert_eq!(p.position(), holds(30));
        assert_eq!(p.kernel.in_flight(), WriteEffect::default());
        assert_eq!(p.kernel.lineage().generation(), generation);
        let item = p.apply(&plan);
        assert!(matches!(p.applied(at(now), item), Some(Applied::Converted)));
        assert_eq!(
            (p.position().stock, p.position().revoked),
            (30 - revoked, revoked)
        );
        assert!(!p.kernel.is_writing());
    }
    // A limit whose terms stand is not revoked.
    let mut p = Process::new(2);
    p.renew(at(0), &[stock(30), stock(20)]);
    p.limits[1] = limit("b", 2_000);
    let plan = p.plan(at(1_600), &[stock(40), stock(40)]).unwrap();
    let item = p.apply(&plan);
    p.applied(at(1_600), item);
    assert_eq!(
        (p.kernel.position(0).revoked, p.kernel.position(1).revoked),
        (0, 20)
    );
    // A conversion that is not applied, or may be, changes nothing here.
    let mut p = Process::new(1);
    p.renew(at(0), &[stock(30)]);
    p.limits = vec![limit("a", 2_000)];
    p.plan(at(1), &[stock(40)]).unwrap();
    p.kernel.not_applied();
    p.plan(at(1), &[stock(40)]).unwrap();
    p.kernel.may_have_been_applied();
    assert_eq!(p.position(), holds(30));
    assert!(p.kernel.entry(0).is_some());
}

#[test]
fn credit_of_a_bucket_that_is_gone_is_not_written() {
    let mut p = Process::new(1);
    p.kernel.saw(START, START, None);
    p.kernel.give_back(START, 0, Payer::Table(Some(5)), 3);
    assert_eq!(p.position(), Position::default());
    assert!(p.plan(at(0), &[stock(0)]).is_none());
    // One that was never seen is credited what was debited of it, and of no other incarnation.
    let mut p = Process::new(1);
    p.kernel.give_back(START, 0, Payer::Table(Some(5)), 3);
    assert_eq!(p.position().credit, 3);
    assert_eq!(p.kernel.lineage().incarnation(), Some(5));
    p.kernel.give_back(START, 0, Payer::Table(Some(6)), 3);
    assert_eq!(p.kernel.lineage().incarnation(), Some(5));
    let plan = p.plan(at(0), &[stock(0)]).unwrap();
    assert_eq!(plan.write.incarnation, Some(5));
}

#[test]
fn held_owed_and_credited_tokens_are_reported_exactly() {
    let all = Position {
        stock: 1,
        pending: 2,
        returning: 4,
        coming: 8,
        revoked: 16,
        credit: 32,
        debt: 64,
        spent: 128,
    };
    assert_eq!(all.held(), 55);
    assert_eq!(all.net(), -9);
}

#[test]
fn lineage_counts_blocks_and_outlasts_the_kernel() {
    let mut p = Process::new(1);
    p.renew(at(0), &[stock(30)]);
    let mut lineage = p.kernel.lineage();
    let before = lineage.generation();
    lineage.begin_generation();
    assert_eq!(lineage.generation(), before + 1);
    let mut again = Kernel::new(1, lineage);
    assert_eq!(again.lineage().generation(), before + 1);
    again.give_back(START, 0, Payer::Block(before), 3);
    assert_eq!(again.position(0).credit, 3);
}

/// All that a process knows and is asked for goes into its write.
#[test]
fn renewal_is_planned_from_all_that_is_held_owed_and_asked_for() {
    let all = Ask {
        stock: 20,
        trickle: 30,
        over: ms(9_000),
        ahead: ms(9_000),
        demand_milli: 5_000,
        reports: true,
        in_demand: true,
        others_took: 40,
    };
    let debts_only = Ask {
        demand_milli: 5_000,
        reports: true,
        ..Ask::default()
    };
    let report = Report {
        consumed: 9,
        direct_milli: 70,
    };
    let trickle_only = Ask { stock: 0, ..all };
    // 40 that others took make a full bucket one that is not.
    for (millis, level, ask, spent) in [
        (100, 790, all, 150),
        (100, 1_000, all, 400),
        (100, 500, trickle_only, 150),
        (100, 900, all, 150),
        (100, 1_000, all, 150),
        (100, 1_060, all, 150),
        (100, -100, all, 150),
        (1_500, 1_000, debts_only, 150),
        (4_000, 900, all, 150),
        (4_000, -100, debts_only, 150),
    ] {
        let mut p = Process::new(1);
        let first = Ask {
            demand_milli: 3_000,
            ..stock(400)
        };
        p.renew(at(0), &[first]);
        let now = at(millis);
        p.kernel.charge(at(1).monotonic, 0, spent);
        p.kernel.revoke(0);
        p.kernel.charge(at(2).monotonic, 0, 10);
        let mut item = p.table.clone().unwrap();
        let limit = &mut item.limits[0].1;
        limit.z = limit.terms.empty_at(now.wall) - Ticks::from(level) * TOKEN;
        // Others hold some of it.
        let ring = limit.ring.as_mut().unwrap();
        ring.held[Ring::slot(ring.epoch)] += 60;
        item.sequence += 1;
        p.kernel
            .saw(now.monotonic, now.monotonic, Some(item.clone()));
        let entered = p.kernel.entry(0);
        assert!(entered.is_some());
        let limit = p.limits[0].clone();
        let transfer = Transfer {
            take: ask.stock + ask.trickle,
            owe: 10,
            give: 400 - spent,
            returned: Returned {
                tokens: 0,
                revoked: 400 - spent,
                held_for: ms(millis),
            },
            others_took: ask.others_took,
            in_demand: ask.in_demand,
            trickle: ask.trickle,
            spent: spent + 10,
            ahead: ask.ahead.min(TTL),
            consumed: 9,
            holding: Some(Holding {
                lease_ttl: TTL,
                tokens: ask.stock + ask.trickle,
                demand_milli: 5_000,
                entered,
            }),
            direct_milli: 70,
            ..Transfer::new(&limit)
        };
        let expected = plan(&Seen::Item(item), now.wall, &[transfer]).unwrap();
        let planned = p.kernel.plan(now, TTL, &p.limits, &[ask], &[report]);
        let planned = planned.unwrap();
        assert_eq!(planned.write, expected.write, "{millis} {level} {spent}");
        assert_eq!(planned.entries, expected.entries);
        assert_eq!(planned.moved, expected.moved);
    }
}

#[test]
fn block_that_is_renewed_counts_as_in_hand_while_it_lives() {
    for (millis, in_hand, returned) in [(1_599, 15, 30), (1_600, 0, 30), (4_000, 0, 30)] {
        for (wanted, trickle) in [(15, 30), (20, 30)] {
            let mut p = Process::new(1);
            p.renew(at(0), &[stock(30)]);
            let now = at(millis);
            let mut item = p.table.clone().unwrap();
            let limit = &mut item.limits[0].1;
            limit.z = limit.terms.empty_at(now.wall);
            item.sequence += 1;
            p.kernel
                .saw(now.monotonic, now.monotonic, Some(item.clone()));
            let limit = p.limits[0].clone();
            let ask = Ask {
                trickle,
                over: ms(500),
                ahead: ms(1_000),
                ..stock(wanted)
            };
            let take = wanted + trickle;
            let transfer = Transfer {
                take,
                give: 30,
                returned: Returned {
                    tokens: returned,
                    revoked: 0,
                    held_for: ms(millis),
                },
                trickle,
                in_hand: if in_hand > 0 { wanted } else { 0 },
                ahead: ask.ahead,
                holding: Some(Holding {
                    lease_ttl: TTL,
                    tokens: take,
                    demand_milli: 0,
                    entered: p.kernel.entry(0),
                }),
                ..Transfer::new(&limit)
            };
            let expected = plan(&Seen::Item(item), now.wall, &[transfer]).unwrap();
            let planned = p.plan(now, &[ask]).unwrap();
            assert_eq!(planned.write, expected.write, "{millis} {wanted}");
        }
    }
}

#[test]
fn limit_that_is_wanted_is_converted_even_if_nothing_is_taken() {
    for in_demand in [false, true] {
        let mut p = Process::new(1);
        p.renew(at(0), &[stock(30)]);
        p.limits = vec![limit("a", 2_000)];
        let ask = Ask {
            in_demand,
            ..Ask::default()
        };
        assert_eq!(p.plan(at(1), &[ask]).unwrap().only_converts, in_demand);
    }
}
