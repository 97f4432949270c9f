//! Buckets. Each case begins with an empty table.

use std::sync::Arc;
use std::time::Duration;

use zae_limiter::store::{Store, WriteOutcome};
use zae_limiter_core::item::{
    BucketWrite, Kept, LimitChange, LimitGuard, Ring, RingChange, RingGuard, ZChange,
};
use zae_limiter_core::plan::{Holding, Seen, Transfer, plan};
use zae_limiter_core::{BucketKey, Limit, Terms, Ticks, WallTime};

use super::{Bucket, OTHER_TERMS, RING, change, create, guard, item, key, update, write};

pub(super) async fn a_table_that_is_there_passes_the_check(store: Arc<dyn Store>) {
    store.check().await.unwrap();
}

pub(super) async fn what_is_not_there_reads_as_none(store: Arc<dyn Store>) {
    assert_eq!(store.read_bucket(&key()).await.unwrap(), None);
    assert_eq!(store.read_entity("nobody").await.unwrap(), None);
}

pub(super) async fn a_limit_is_created_once(store: Arc<dyn Store>) {
    let mut bucket = Bucket::new(store);
    assert!(
        bucket
            .send(&write([create("rpm", item(-7, Some(RING)))]))
            .await
    );
    assert!(!bucket.send(&write([create("rpm", item(0, None))])).await);
    assert_eq!(bucket.limit("rpm"), item(-7, Some(RING)));
    assert_eq!(bucket.model.unwrap().sequence, 1);
}

pub(super) async fn a_limit_joins_those_that_are_there(store: Arc<dyn Store>) {
    let mut bucket = Bucket::with(store, [create("rpm", item(1, None))]).await;
    let add = update("rpm", guard(None, None), change(ZChange::Add(1), 1));
    assert!(
        bucket
            .send(&write([add, create("tpm", item(5, None))]))
            .await
    );
    assert_eq!((bucket.limit("rpm").z, bucket.limit("tpm").z), (2, 5));
}

pub(super) async fn time_to_live_never_falls(store: Arc<dyn Store>) {
    let mut bucket = Bucket::with(store, [create("rpm", item(1, None))]).await;
    let mut passes = async |kept| {
        let nothing = update("rpm", guard(None, None), change(ZChange::Add(1), 1));
        let write = BucketWrite {
            incarnation: None,
            kept,
            ..write([nothing])
        };
        let passed = bucket.send(&write).await;
        (passed, bucket.model.as_ref().unwrap().expires_at_seconds)
    };
    for (kept, expected) in [
        (Kept::AtLeast(1), (false, 0)),
        (Kept::AsItIs, (true, 0)),
        (Kept::Until(4_000_000_000), (true, 4_000_000_000)),
        (Kept::Until(4_000_000_000), (false, 4_000_000_000)),
        (Kept::Until(3_999_999_999), (false, 4_000_000_000)),
        (Kept::AtLeast(4_000_000_000), (true, 4_000_000_000)),
        (Kept::AtLeast(4_000_000_001), (false, 4_000_000_000)),
        (Kept::AsItIs, (true, 4_000_000_000)),
        (Kept::Until(4_000_000_001), (true, 4_000_000_001)),
    ] {
        assert_eq!(passes(kept).await, expected, "{kept:?}");
    }
}

pub(super) async fn a_missing_limit_is_not_updated(store: Arc<dyn Store>) {
    let mut bucket = Bucket::new(store);
    let credit = change(ZChange::Add(-1), -1);
    assert!(
        !bucket
            .send(&write([update("rpm", guard(None, None), credit)]))
            .await
    );
    assert!(bucket.send(&write([create("tpm", item(0, None))])).await);
    assert!(
        !bucket
            .send(&write([update("rpm", guard(None, None), credit)]))
            .await
    );
}

pub(super) async fn debits_and_settings_are_exact(store: Arc<dyn Store>) {
    let mut bucket = Bucket::with(store, [create("rpm", item(0, None))]).await;
    for (z, consumed) in [
        (ZChange::Add(13_000_000_000), 1),
        (ZChange::Add(-26_000_000_000), -2),
        (ZChange::Set(-1), 0),
        (ZChange::Add(0), 5),
        (ZChange::Set(0), 0),
        (ZChange::Add(1), i64::MAX - 10),
    ] {
        let change = change(z, consumed);
        assert!(
            bucket
                .send(&write([update("rpm", guard(None, None), change)]))
                .await
        );
    }
    let limit = bucket.limit("rpm");
    assert_eq!((limit.z, limit.consumed), (1, i64::MAX - 6));
}

pub(super) async fn numbers_of_33_digits_are_exact(store: Arc<dyn Store>) {
    let large: Ticks = 999_999_999_999_999_999_999_999_999_999_999;
    let mut bucket = Bucket::with(store, [create("rpm", item(large, None))]).await;
    let add = |n| change(ZChange::Add(n), 0);
    let exactly = |z| guard(Some(z), Some(z));
    assert!(
        !bucket
            .send(&write([update("rpm", exactly(large - 1), add(1))]))
            .await
    );
    assert!(
        bucket
            .send(&write([update("rpm", exactly(large), add(1))]))
            .await
    );
    assert_eq!(bucket.limit("rpm").z, 10i128.pow(33));
    let down = add(-2 * 10i128.pow(33) + 1);
    assert!(
        bucket
            .send(&write([update("rpm", guard(None, None), down)]))
            .await
    );
    assert_eq!(bucket.limit("rpm").z, -large);
    assert!(
        !bucket
            .send(&write([update("rpm", exactly(1 - large), add(1))]))
            .await
    );
    assert!(
        bucket
            .send(&write([update("rpm", exactly(-large), add(-1))]))
            .await
    );
}

pub(super) async fn the_level_guards_hold_to_the_tick(store: Arc<dyn Store>) {
    let mut bucket = Bucket::with(store, [create("rpm", item(-50, None))]).await;
    for (min, max, passes) in [
        (None, None, true),
        (Some(-50), None, true),
        (Some(-49), None, false),
        (None, Some(-50), true),
        (None, Some(-51), false),
        (Some(-50), Some(-50), true),
        (Some(-49), Some(-49), false),
        (Some(-60), Some(40), true),
        (Some(-60), Some(-51), false),
        (Some(-49), Some(-51), false), // crossed: a plan may come to that, and it is no error
    ] {
        assert_eq!(
            bucket.passes(guard(min, max)).await,
            passes,
            "{min:?} to {max:?}"
        );
    }
}

pub(super) async fn a_write_planned_under_other_terms_is_refused(store: Arc<dyn Store>) {
    let mut bucket = Bucket::with(store, [create("rpm", item(0, None))]).await;
    let any = guard(None, None);
    for (capacity, burst, refill_amount, refill_period_seconds) in [
        (11, 20, 7, 13),
        (10, 21, 7, 13),
        (10, 20, 8, 13),
        (10, 20, 7, 14),
    ] {
        let terms = Terms {
            capacity,
            burst,
            refill_amount,
            refill_period_seconds,
        };
        assert!(!bucket.passes(LimitGuard { terms, ..any }).await);
    }
    assert!(bucket.passes(any).await);
}

pub(super) async fn terms_can_change(store: Arc<dyn Store>) {
    let mut bucket = Bucket::with(store, [create("rpm", item(0, None))]).await;
    let convert = LimitChange {
        terms: Some(OTHER_TERMS),
        ..change(ZChange::Set(77), 0)
    };
    assert!(
        bucket
            .send(&write([update("rpm", guard(None, None), convert)]))
            .await
    );
    assert_eq!(bucket.limit("rpm").terms, OTHER_TERMS);
    assert!(!bucket.passes(guard(None, None)).await);
}

pub(super) async fn the_ring_guards_refuse(store: Arc<dyn Store>) {
    let limits = [create("rpm", item(0, Some(RING)))];
    let mut bucket = Bucket::with(store.clone(), limits).await;
    let live = |epoch, held_max, held_before_max| RingGuard::Live {
        lease_ttl_ms: 10_000,
        epoch,
        held_max,
        held_before_max,
    };
    let most = i64::MAX;
    let other_length = RingGuard::Live {
        lease_ttl_ms: 10_001,
        epoch: 100,
        held_max: most,
        held_before_max: most,
    };
    let (mut other_demand, mut other_tokens) = (RING, RING);
    other_demand.demand_milli[2] += 1;
    other_tokens.held[2] += 1;
    for (ring, passes) in [
        (RingGuard::Any, true),
        (RingGuard::Absent, false),
        (RingGuard::Unchanged(RING), true),
        (RingGuard::Unchanged(other_demand), true), // that decides nothing
        (RingGuard::Unchanged(other_tokens), false),
        (RingGuard::Unchanged(Ring { epoch: 99, ..RING }), false),
        (live(100, most, most), true),
        (live(101, most, most), true),
        (live(102, most, most), false), // too old
        (live(99, most, most), false),  // ahead
        (other_length, false),
        // Epoch 100 has slot 1, with 3, and before it slot 0, with 5.
        (live(100, 3, 5), true),
        (live(100, 2, 5), false),
        (live(100, 3, 4), false),
        // For epoch 101 they are slot 2, with 9, and slot 1.
        (live(101, 9, 3), true),
        (live(101, 8, 3), false),
        (live(101, 9, 2), false),
    ] {
        let guard = LimitGuard {
            ring,
            ..guard(None, None)
        };
        assert_eq!(bucket.passes(guard).await, passes, "{ring:?}");
    }

    let mut bucket = Bucket::new(store);
    bucket.key = BucketKey::new("user-2", "api").unwrap();
    assert!(bucket.send(&write([create("rpm", item(0, None))])).await);
    for (ring, passes) in [
        (RingGuard::Any, true),
        (RingGuard::Absent, true),
        (RingGuard::Unchanged(RING), false),
        (live(100, most, most), false),
        (live(0, most, most), false),
    ] {
        let guard = LimitGuard {
            ring,
            ..guard(None, None)
        };
        assert_eq!(bucket.passes(guard).await, passes, "{ring:?}");
    }
}

pub(super) async fn the_ring_turns(store: Arc<dyn Store>) {
    let mut bucket = Bucket::with(store, [create("rpm", item(0, None))]).await;
    let turn = |guard, ring| {
        let guard = LimitGuard {
            ring: guard,
            ..super::guard(None, None)
        };
        let change = LimitChange {
            ring,
            ..change(ZChange::Add(1), 1)
        };
        write([update("rpm", guard, change)])
    };
    let fresh = Ring {
        lease_ttl_ms: 500,
        epoch: 41,
        ..Ring::default()
    };
    assert!(
        bucket
            .send(&turn(RingGuard::Absent, RingChange::Reset(fresh)))
            .await
    );
    for (epoch, held, held_before, demand_milli) in [
        (41, 10, 0, 3_000),
        (42, 4, -10, 2_000),
        (42, 0, 0, 0),
        (43, 7, -4, -1_000),
        (44, 1, 0, 5),
        (45, 0, -1, 0),
    ] {
        let live = RingGuard::Live {
            lease_ttl_ms: 500,
            epoch,
            held_max: 100,
            held_before_max: 100,
        };
        let add = RingChange::Add {
            epoch,
            held,
            held_before,
            demand_milli,
            demand_before_milli: -held_before,
        };
        assert!(bucket.send(&turn(live, add)).await);
        let seen = bucket.limit("rpm").ring.unwrap();
        // The same, guarded by all that was seen.
        assert!(bucket.send(&turn(RingGuard::Unchanged(seen), add)).await);
    }
    assert!(
        bucket
            .send(&turn(RingGuard::Any, RingChange::Reset(RING)))
            .await
    );
    assert_eq!(bucket.limit("rpm").ring, Some(RING));
    assert!(bucket.send(&turn(RingGuard::Any, RingChange::Keep)).await);
}

pub(super) async fn several_limits_change_together_or_not_at_all(store: Arc<dyn Store>) {
    let limits = [create("rpm", item(1, None)), create("tpm", item(2, None))];
    let mut bucket = Bucket::with(store, limits).await;
    let debit = |name, max| update(name, guard(None, Some(max)), change(ZChange::Add(10), 10));
    assert!(
        !bucket
            .send(&write([debit("rpm", 0), debit("tpm", 100)]))
            .await
    );
    assert!(
        !bucket
            .send(&write([debit("rpm", 100), debit("tpm", 0)]))
            .await
    );
    let again = create("tpm", item(0, None));
    assert!(!bucket.send(&write([debit("rpm", 100), again])).await);
    assert!(
        !bucket
            .send(&write([debit("rpm", 100), debit("tph", 100)]))
            .await
    );
    assert_eq!((bucket.limit("rpm").z, bucket.limit("tpm").z), (1, 2));
    assert!(
        bucket
            .send(&write([debit("rpm", 100), debit("tpm", 100)]))
            .await
    );
    assert_eq!((bucket.limit("rpm").z, bucket.limit("tpm").z), (11, 12));
    assert_eq!(bucket.model.unwrap().sequence, 2);
}

pub(super) async fn odd_names_are_kept_apart(store: Arc<dyn Store>) {
    // Dots are paths in expressions, and some of these are reserved words.
    let names = [
        "a.b-c_d", "a", "b-c_d", "ttl", "seq", "z", "ring.0", "size", "l0",
    ];
    let limits = names.map(|name| create(name, item(0, Some(RING))));
    let mut bucket = Bucket::with(store, limits).await;
    for (name, i) in names.iter().zip(1..) {
        let debit = change(ZChange::Add(i), 0);
        assert!(
            bucket
                .send(&write([update(name, guard(None, None), debit)]))
                .await
        );
    }
    for (name, i) in names.iter().zip(1..) {
        assert_eq!(bucket.limit(name).z, i, "{name}");
    }
}

pub(super) async fn buckets_are_kept_apart(store: Arc<dyn Store>) {
    let keys = [("a", "api"), ("a", "api.v2"), ("b", "api")];
    let keys = keys.map(|(id, resource)| BucketKey::new(id, resource).unwrap());
    for (key, z) in keys.iter().zip(1..) {
        let mut bucket = Bucket::new(store.clone());
        bucket.key = key.clone();
        assert!(bucket.send(&write([create("rpm", item(z, None))])).await);
    }
    for (key, z) in keys.iter().zip(1..) {
        let read = store.read_bucket(key).await.unwrap().unwrap();
        assert_eq!(read.limit("rpm").unwrap().z, z);
    }
}

pub(super) async fn debits_commute_and_are_never_too_many(store: Arc<dyn Store>) {
    Bucket::with(store.clone(), [create("rpm", item(0, None))]).await;
    let debits: Vec<_> = (0..100)
        .map(|_| {
            let store = store.clone();
            tokio::spawn(async move {
                let debit = update("rpm", guard(None, Some(9)), change(ZChange::Add(1), 1));
                match store.write_bucket(&key(), &write([debit])).await {
                    WriteOutcome::Applied(_) => true,
                    WriteOutcome::Refused(Some(found)) => {
                        assert_eq!(found.limit("rpm").unwrap().z, 10);
                        false
                    }
                    outcome => panic!("{outcome:?}"),
                }
            })
        })
        .collect();
    let mut applied = 0;
    for debit in debits {
        applied += u32::from(debit.await.unwrap());
    }
    assert_eq!(applied, 10);
    let item = store.read_bucket(&key()).await.unwrap().unwrap();
    let limit = item.limit("rpm").unwrap();
    assert_eq!((limit.z, limit.consumed, item.sequence), (10, 10, 11));
}

pub(super) async fn planned_writes_leave_what_they_say(store: Arc<dyn Store>) {
    let rpm = Limit::per_minute("rpm", 100).unwrap();
    let tpm = Limit::per_minute("tpm", 10_000)
        .unwrap()
        .burst(50_000)
        .unwrap();
    let slower = Limit::per_minute("rpm", 50).unwrap();
    let start = WallTime::from_nanos(1_767_225_600_000_000_000);
    let mut bucket = Bucket::new(store);
    let mut entered = None;
    for round in 0..12u64 {
        let now = start.after(Duration::from_millis(round * 3_700));
        let limit = if round < 8 { &rpm } else { &slower };
        let mut requests = Transfer::new(limit);
        requests.take = 5 + round;
        requests.give = u64::from(round > 0) * 2;
        requests.consumed = 3;
        requests.holding = Some(Holding {
            lease_ttl: Duration::from_secs(10),
            tokens: 5 + round,
            demand_milli: 1_000,
            entered,
        });
        let mut tokens = Transfer::new(&tpm);
        tokens.take = 4_000;
        tokens.owe = round;
        tokens.consumed = 4_000;
        // The model is the item as last seen, so a plan is either right or truly refused.
        let seen = Seen::from(bucket.model.clone());
        let Some(planned) = plan(&seen, now, &[requests, tokens]) else {
            panic!("nothing planned in round {round}");
        };
        if bucket.send(&planned.write).await && !planned.only_converts {
            entered = planned.entries[0];
        }
    }
    let sequence = bucket.model.as_ref().unwrap().sequence;
    assert!(sequence >= 10, "only {sequence} of 12 rounds were applied");
    assert_eq!(bucket.limit("rpm").terms, *slower.terms());
}
