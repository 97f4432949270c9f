//! Random sequences of writes: DynamoDB and the model must come to the same end.

use std::cell::Cell;
use std::sync::Arc;

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use zae_limiter::store::Store;
use zae_limiter_core::item::{
    LimitAction, LimitChange, LimitGuard, LimitItem, LimitWrite, Ring, RingChange, RingGuard,
    ZChange,
};
use zae_limiter_core::{BucketKey, Ticks};
use zae_limiter_tests::fresh_table;

use super::{Bucket, OTHER_TERMS, RING, TERMS, item, write};

/// One limit's part in a random write; numbers are relative to what is stored, so that guards
/// hold about as often as not.
#[derive(Clone, Debug)]
struct Move {
    /// Create what is there, or update what is not.
    contrary: bool,
    right_terms: bool,
    z_min: Option<Ticks>,
    z_max: Option<Ticks>,
    guard: u8,
    /// How far the guard, or the ring that is stored, is from what was seen.
    skew: i64,
    z: ZChange,
    convert: bool,
    consumed: i64,
    ring: u8,
    epochs_on: u64,
    held: [i64; 4],
}

fn moves() -> impl Strategy<Value = Move> {
    let bound = || prop::option::of(-2i128..=6);
    let z = prop_oneof![
        (-3i128..=3).prop_map(ZChange::Add),
        (-(10i128.pow(33))..=10i128.pow(33)).prop_map(ZChange::Set),
    ];
    let guards = (
        prop::bool::weighted(0.9),
        bound(),
        bound(),
        0u8..4,
        -1i64..=3,
    );
    let rings = (0u8..3, 0u64..=2, prop::array::uniform4(-4i64..=4));
    let changes = (z, prop::bool::weighted(0.1), -5i64..=5);
    (prop::bool::weighted(0.1), guards, changes, rings).prop_map(
        |(contrary, guards, (z, convert, consumed), (ring, epochs_on, held))| Move {
            contrary,
            right_terms: guards.0,
            z_min: guards.1,
            z_max: guards.2,
            guard: guards.3,
            skew: guards.4,
            z,
            convert,
            consumed,
            ring,
            epochs_on,
            held,
        },
    )
}

impl Move {
    fn action(&self, seen: Option<&LimitItem>) -> LimitAction {
        let stale = |at: Ring| Ring {
            held: at.held.map(|held| held + self.skew.min(0)),
            ..at
        };
        if seen.is_none() != self.contrary {
            let ring = (self.ring > 0).then(|| stale(RING));
            return LimitAction::Create(item(self.held[0].into(), ring));
        }
        let seen = seen.copied().unwrap_or(item(0, Some(RING)));
        let ring = seen.ring.unwrap_or(RING);
        let epoch = ring.epoch + self.epochs_on;
        let (held, held_before) = ring.held_in(epoch);
        let guard = match self.guard {
            0 => RingGuard::Any,
            1 => RingGuard::Absent,
            2 => RingGuard::Unchanged(stale(ring)),
            _ => RingGuard::Live {
                lease_ttl_ms: ring.lease_ttl_ms,
                epoch,
                held_max: held + self.skew,
                held_before_max: held_before + self.skew,
            },
        };
        let known = matches!(guard, RingGuard::Unchanged(_) | RingGuard::Live { .. });
        let terms = [OTHER_TERMS, TERMS];
        LimitAction::Update {
            guard: LimitGuard {
                terms: if self.right_terms {
                    seen.terms
                } else {
                    OTHER_TERMS
                },
                z_min: self.z_min.map(|below| seen.z - below),
                z_max: self.z_max.map(|above| seen.z + above),
                ring: guard,
            },
            change: LimitChange {
                z: self.z,
                terms: self
                    .convert
                    .then_some(terms[usize::from(seen.terms == OTHER_TERMS)]),
                consumed: self.consumed,
                ring: match self.ring {
                    0 => RingChange::Keep,
                    1 if known => RingChange::Add {
                        epoch,
                        held: self.held[0],
                        held_before: self.held[1],
                        demand_milli: self.held[2],
                        demand_before_milli: self.held[3],
                    },
                    _ => RingChange::Reset(Ring { epoch, ..ring }),
                },
            },
        }
    }
}

#[test]
fn any_sequence_of_writes_ends_alike_in_dynamodb_and_in_the_model() {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .unwrap();
    let table = runtime.block_on(fresh_table("random"));
    let store: Arc<dyn Store> = Arc::new(table.store());
    let (cases, refused, applied) = (Cell::new(0), Cell::new(0), Cell::new(0));
    let config = Config {
        cases: 48,
        failure_persistence: None,
        ..Config::default()
    };
    let names = ["rpm", "tpm", "a.b-c_d"];
    let one_write = prop::array::uniform3(prop::option::weighted(0.5, moves()));
    let steps = prop::collection::vec(one_write, 1..16);
    TestRunner::new(config)
        .run(&steps, |steps| {
            let mut bucket = Bucket::new(store.clone());
            cases.set(cases.get() + 1);
            bucket.key = BucketKey::new(&format!("user-{}", cases.get()), "api").unwrap();
            for step in steps {
                let seen = bucket.model.clone();
                let limits: Vec<_> = std::iter::zip(names, &step)
                    .filter_map(|(name, one)| {
                        let seen = seen.as_ref().and_then(|item| item.limit(name));
                        let action = one.as_ref()?.action(seen);
                        let name = name.into();
                        Some(LimitWrite { name, action })
                    })
                    .collect();
                let done = runtime.block_on(bucket.send(&write(limits)));
                let count = if done { &applied } else { &refused };
                count.set(count.get() + 1);
            }
            Ok(())
        })
        .unwrap();
    // A generator that only ever hits one of the two tests nothing.
    let (refused, applied) = (refused.get(), applied.get());
    assert!(
        refused > 40 && applied > 40,
        "{refused} refused, {applied} applied"
    );
}
