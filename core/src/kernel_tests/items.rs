//! What a stored item makes of a write: guards, and changes of a limit and its ring.

use super::writes::{EPOCH, found, item, limit, ring};
use super::{T0, TOKEN};
use crate::Terms;
use crate::item::{
    BucketItem, BucketWrite, Kept, LimitAction, LimitChange, LimitGuard, LimitWrite, Ring,
    RingChange, RingGuard, ZChange,
};

/// A write of one limit whose guard holds for any level from -10 to 10, and whose change is nothing.
fn guarded(item: &BucketItem, ring: RingGuard) -> BucketWrite {
    let (name, found) = &item.limits[0];
    let guard = LimitGuard {
        terms: found.terms,
        z_min: Some(found.terms.empty_at(T0) - 10 * TOKEN),
        z_max: Some(found.terms.empty_at(T0) + 10 * TOKEN),
        ring,
    };
    let change = LimitChange {
        z: ZChange::Add(5),
        terms: None,
        consumed: 3,
        ring: RingChange::Keep,
    };
    BucketWrite {
        incarnation: Some(7),
        limits: vec![LimitWrite {
            name: name.clone(),
            action: LimitAction::Update { guard, change },
        }],
        sequence_from: 1_000,
        consumed_at_ms: 77,
        kept: Kept::AsItIs,
    }
}

fn is_applied(item: &BucketItem, write: &BucketWrite) -> bool {
    let mut table = Some(item.clone());
    let result = BucketItem::apply(&mut table, write);
    match result {
        Ok(left) => {
            assert_eq!(Some(&left), table.as_ref());
            assert_eq!(
                (left.sequence, left.consumed_at_ms),
                (item.sequence + 1, 77)
            );
            true
        }
        Err(found) => {
            assert_eq!(found.as_ref(), Some(item));
            assert_eq!(table.as_ref(), Some(item));
            false
        }
    }
}

#[test]
fn write_is_applied_if_every_guard_holds() {
    let limit = limit(1_000);
    let level = |level| item(&limit, level, None);
    let any = |item: &BucketItem| guarded(item, RingGuard::Any);
    assert!(is_applied(&level(0), &any(&level(0))));
    for (at, holds) in [(10, true), (11, false), (-10, true), (-11, false)] {
        assert_eq!(is_applied(&level(at), &any(&level(at))), holds, "{at}");
    }
    let mut item = level(0);
    let mut write = any(&item);
    item.incarnation = 8;
    assert!(!is_applied(&item, &write));
    write.incarnation = None;
    assert!(is_applied(&item, &write));
    item.expires_at_seconds = 100;
    for (kept, holds) in [
        (Kept::AtLeast(99), true),
        (Kept::AtLeast(100), true),
        (Kept::AtLeast(101), false),
        (Kept::Until(99), false),
        (Kept::Until(100), false),
        (Kept::Until(101), true),
    ] {
        write.kept = kept;
        assert_eq!(is_applied(&item, &write), holds, "{kept:?}");
        let mut table = Some(item.clone());
        let _ = BucketItem::apply(&mut table, &write);
        let until = if kept == Kept::Until(101) { 101 } else { 100 };
        assert_eq!(table.unwrap().expires_at_seconds, until);
    }
    write.kept = Kept::AsItIs;
    item.limits[0].1.terms.burst += 1;
    assert!(!is_applied(&item, &write), "other terms");
    let create = LimitAction::Create(found(&limit, 5, None));
    write.limits[0].action = create;
    assert!(!is_applied(&item, &write), "it is there");
    write.limits[0].name = "b".into();
    assert!(is_applied(&item, &write));
    let mut table = Some(item.clone());
    write.limits[0].name = "A".into();
    let left = BucketItem::apply(&mut table, &write).unwrap();
    write.limits[0].name = "b".into();
    let left_too = BucketItem::apply(&mut table, &write).unwrap();
    let names: Vec<_> = left_too.limits.iter().map(|(name, _)| &**name).collect();
    assert_eq!((left.limits.len(), names), (2, vec!["A", "a", "b"]));
    // Nothing can change a limit that is not there.
    let mut nothing = None;
    assert_eq!(
        BucketItem::apply(&mut nothing, &guarded(&level(0), RingGuard::Any)),
        Err(None)
    );
    let mut update = any(&level(0));
    update.limits[0].name = "z".into();
    assert!(!is_applied(&level(0), &update));
    // The first write makes an item.
    write.incarnation = None;
    write.kept = Kept::Until(5);
    let made = BucketItem::apply(&mut nothing, &write).unwrap();
    assert_eq!(
        (made.incarnation, made.sequence, made.expires_at_seconds),
        (1_000, 1_001, 5)
    );
}

#[test]
fn ring_guards_hold_for_what_they_were_planned_for() {
    let limit = limit(1_000);
    let holds = |guard, ring| {
        let item = item(&limit, 0, ring);
        is_applied(&item, &guarded(&item, guard))
    };
    let live = |held_max, held_before_max| RingGuard::Live {
        lease_ttl_ms: 1_600,
        epoch: EPOCH,
        held_max,
        held_before_max,
    };
    assert!(holds(RingGuard::Absent, None) && !holds(RingGuard::Absent, ring(0, 0, 0)));
    assert!(!holds(live(99, 99), None));
    assert!(holds(live(20, 10), ring(0, 20, 10)));
    assert!(!holds(live(19, 10), ring(0, 20, 10)));
    assert!(!holds(live(20, 9), ring(0, 20, 10)));
    // Last written in the epoch before: what was held then is before.
    assert!(holds(live(0, 20), ring(1, 20, 10)) && !holds(live(0, 19), ring(1, 20, 10)));
    assert!(!holds(live(99, 99), ring(2, 20, 10)));
    let mut other = ring(0, 0, 0);
    other.as_mut().unwrap().epoch += 1;
    assert!(!holds(live(99, 99), other), "a later epoch");
    other = ring(0, 0, 0);
    other.as_mut().unwrap().lease_ttl_ms += 1;
    assert!(!holds(live(99, 99), other), "of other lengths");
    let seen = ring(0, 20, 10).unwrap();
    let unchanged = RingGuard::Unchanged(seen);
    assert!(holds(unchanged, Some(seen)) && !holds(unchanged, None));
    let mut told = seen;
    told.demand_milli = [1, 2, 3];
    assert!(holds(unchanged, Some(told)), "demand is no matter");
    for change in [
        |ring: &mut Ring| ring.held[2] += 1,
        |ring: &mut Ring| ring.epoch += 1,
        |ring: &mut Ring| ring.lease_ttl_ms += 1,
    ] {
        let mut other = seen;
        change(&mut other);
        assert!(!holds(unchanged, Some(other)));
    }
}

#[test]
fn change_of_a_limit_adds_up() {
    let limit = limit(1_000);
    let mut held = ring(0, 20, 10).unwrap();
    held.held = [1, 2, 3];
    held.demand_milli = [4, 5, 6];
    let seen = item(&limit, 0, Some(held));
    let changed = |change: LimitChange| {
        let mut write = guarded(&seen, RingGuard::Any);
        let LimitAction::Update { guard, .. } = write.limits[0].action else {
            panic!();
        };
        write.limits[0].action = LimitAction::Update { guard, change };
        let mut table = Some(seen.clone());
        let mut item = BucketItem::apply(&mut table, &write).unwrap();
        item.limits.remove(0).1
    };
    let terms = Terms {
        burst: 5,
        ..*limit.terms()
    };
    let add = RingChange::Add {
        epoch: EPOCH + 1,
        held: 10,
        held_before: 20,
        demand_milli: 30,
        demand_before_milli: 40,
    };
    let change = LimitChange {
        z: ZChange::Add(5),
        terms: Some(terms),
        consumed: -3,
        ring: add,
    };
    let left = changed(change);
    assert_eq!(left.z, limit.terms().empty_at(T0) + 5);
    assert_eq!((left.terms, left.consumed), (terms, -3));
    let ring = Ring {
        lease_ttl_ms: 1_600,
        epoch: EPOCH + 1,
        held: [21, 12, 0],
        demand_milli: [44, 35, 0],
    };
    assert_eq!(left.ring, Some(ring));
    let left = changed(LimitChange {
        z: ZChange::Set(5),
        terms: None,
        consumed: 4,
        ring: RingChange::Reset(ring),
    });
    assert_eq!((left.z, left.consumed, left.ring), (5, 4, Some(ring)));
    assert_eq!(left.terms, *limit.terms());
    assert_eq!(ring.held_in(EPOCH), (21, 0));
    assert_eq!(ring.held_in(EPOCH + 1), (12, 21));
    assert!(ring.is_live(EPOCH + 2) && !ring.is_live(EPOCH + 3));
    assert!(ring.is_live(EPOCH));
    assert_eq!([0, 1, 2, 3, 4].map(Ring::slot), [0, 1, 2, 0, 1]);
}
