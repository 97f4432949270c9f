//! What every store must do, run against each of them.
//!
//! For buckets the model is [`BucketItem::apply`]: every write here is made on it and on the
//! store, and both must agree on the outcome and on the item.

mod buckets;
mod entities;
mod limits;
mod random;
mod records;

use std::fmt::Debug;
use std::sync::Arc;
use std::time::{Duration, Instant};

use zae_limiter::store::{FaultyStore, MemoryStore, Store, StoreError, WriteOutcome};
use zae_limiter::{AuditAction, AuditEvent, Clock, Page, PageRequest, PageToken};
use zae_limiter_core::item::{
    BucketItem, BucketWrite, Kept, LimitAction, LimitChange, LimitGuard, LimitItem, LimitWrite,
    Ring, RingChange, RingGuard, ZChange,
};
use zae_limiter_core::{BucketKey, Terms, Ticks};
use zae_limiter_tests::fresh_table;

macro_rules! on_every_store {
    ($($group:ident { $($case:ident)* })*) => {
        mod memory {
            use super::*;
            $($(#[tokio::test] async fn $case() {
                $group::$case(Arc::new(MemoryStore::new())).await;
            })*)*
        }
        mod faulty_memory {
            use super::*;
            $($(#[tokio::test] async fn $case() {
                $group::$case(Arc::new(FaultyStore::new(MemoryStore::new()))).await;
            })*)*
        }
        mod dynamodb {
            use super::*;
            $($(#[tokio::test] async fn $case() {
                let table = fresh_table("conformance").await;
                $group::$case(Arc::new(table.store())).await;
            })*)*
        }
        mod faulty_dynamodb {
            use super::*;
            $($(#[tokio::test] async fn $case() {
                let table = fresh_table("conformance").await;
                let shared: Arc<dyn Store> = Arc::new(table.store());
                $group::$case(Arc::new(FaultyStore::over(shared))).await;
            })*)*
        }
    };
}

on_every_store! {
    buckets {
        a_table_that_is_there_passes_the_check
        what_is_not_there_reads_as_none
        a_limit_is_created_once
        a_limit_joins_those_that_are_there
        a_missing_limit_is_not_updated
        debits_and_settings_are_exact
        numbers_of_33_digits_are_exact
        the_level_guards_hold_to_the_tick
        a_write_planned_under_other_terms_is_refused
        terms_can_change
        time_to_live_never_falls
        the_ring_guards_refuse
        the_ring_turns
        several_limits_change_together_or_not_at_all
        odd_names_are_kept_apart
        buckets_are_kept_apart
        debits_commute_and_are_never_too_many
        planned_writes_leave_what_they_say
    }
    entities {
        an_entity_comes_back_as_it_was_created
        an_entity_is_created_once
        a_parent_must_be_there
        an_entity_changes_only_where_it_is_told_to
        children_are_listed_under_their_parent_of_today
        a_deleted_entity_is_gone_with_all_that_was_its_own
    }
    limits {
        limits_come_back_under_the_scope_they_were_stored_for
        a_set_is_replaced_as_a_whole
        a_set_that_is_no_set_is_refused
        of_writers_at_the_same_time_one_is_the_last
    }
    records {
        events_are_listed_newest_first
        the_version_record_is_replaced_by_who_knows_it
        the_buckets_of_a_resource_are_listed
    }
}

const TERMS: Terms = Terms {
    capacity: 10,
    burst: 20,
    refill_amount: 7,
    refill_period_seconds: 13,
};
const OTHER_TERMS: Terms = Terms {
    capacity: 11,
    ..TERMS
};
const RING: Ring = Ring {
    lease_ttl_ms: 10_000,
    epoch: 100, // stands in slot 1
    held: [5, 3, 9],
    demand_milli: [1_500, 250, -4],
};

fn key() -> BucketKey {
    BucketKey::new("user:1@example.org", "gpt-4.1_mini").unwrap()
}

fn item(z: Ticks, ring: Option<Ring>) -> LimitItem {
    LimitItem {
        terms: TERMS,
        z,
        consumed: 0,
        ring,
    }
}

fn create(name: &str, item: LimitItem) -> LimitWrite {
    LimitWrite {
        name: name.into(),
        action: LimitAction::Create(item),
    }
}

fn guard(z_min: Option<Ticks>, z_max: Option<Ticks>) -> LimitGuard {
    LimitGuard {
        terms: TERMS,
        z_min,
        z_max,
        ring: RingGuard::Any,
    }
}

fn change(z: ZChange, consumed: i64) -> LimitChange {
    LimitChange {
        z,
        terms: None,
        consumed,
        ring: RingChange::Keep,
    }
}

fn update(name: &str, guard: LimitGuard, change: LimitChange) -> LimitWrite {
    LimitWrite {
        name: name.into(),
        action: LimitAction::Update { guard, change },
    }
}

fn write(limits: impl Into<Vec<LimitWrite>>) -> BucketWrite {
    BucketWrite {
        incarnation: None,
        limits: limits.into(),
        sequence_from: 0,
        consumed_at_ms: 1_767_225_600_000,
        kept: Kept::AsItIs,
    }
}

/// An event about an entity, new each time.
fn event(id: &str) -> AuditEvent {
    AuditEvent::new(AuditAction::EntityCreated, id, Clock::system().wall())
}

/// The identifiers of all events about an entity, the newest first.
async fn events_of(store: &Arc<dyn Store>, id: &str) -> Vec<String> {
    let list = |request| async move { store.read_audit_events(id, &request).await };
    let events = all_pages(7, list).await.into_iter();
    events.map(|event| event.event_id).collect()
}

/// All that is listed, page by page, each token handed on as a text.
async fn all_pages<T, F>(size: u32, list: impl Fn(PageRequest) -> F) -> Vec<T>
where
    F: Future<Output = Result<Page<T>, StoreError>>,
{
    let mut all = Vec::new();
    let mut request = PageRequest::default().size(size);
    loop {
        let page = list(request.clone()).await.unwrap();
        assert!(page.items.len() <= size as usize);
        all.extend(page.items);
        match page.next {
            Some(next) => request = request.after(PageToken::from(next.to_string())),
            None => return all,
        }
    }
}

/// What an index answers once it has caught up with the table.
async fn once_it_is<T, F>(expected: &T, look: impl Fn() -> F)
where
    T: PartialEq + Debug,
    F: Future<Output = T>,
{
    let patience = Instant::now();
    loop {
        let found = look().await;
        if found == *expected {
            return;
        }
        assert!(
            patience.elapsed() < Duration::from_secs(10),
            "{found:?}, not {expected:?}"
        );
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// Limits are a set: their order in an item says nothing.
fn sorted(mut item: BucketItem) -> BucketItem {
    item.limits.sort_by(|(a, _), (b, _)| a.cmp(b));
    item
}

/// A bucket in the store and in the model.
struct Bucket {
    store: Arc<dyn Store>,
    key: BucketKey,
    model: Option<BucketItem>,
}

impl Bucket {
    fn new(store: Arc<dyn Store>) -> Self {
        Self {
            store,
            key: key(),
            model: None,
        }
    }

    async fn with(store: Arc<dyn Store>, limits: impl Into<Vec<LimitWrite>>) -> Self {
        let mut bucket = Self::new(store);
        assert!(bucket.send(&write(limits)).await);
        bucket
    }

    /// Makes the write on both; whether it was applied.
    async fn send(&mut self, write: &BucketWrite) -> bool {
        let expected = BucketItem::apply(&mut self.model, write);
        let outcome = self.store.write_bucket(&self.key, write).await;
        let applied = match (outcome, expected) {
            (WriteOutcome::Applied(item), Ok(expected)) => {
                assert_eq!(sorted(item), sorted(expected), "after {write:?}");
                true
            }
            (WriteOutcome::Refused(found), Err(expected)) => {
                assert_eq!(
                    found.map(sorted),
                    expected.map(sorted),
                    "refusing {write:?}"
                );
                false
            }
            (outcome, expected) => panic!("{outcome:?}, not {expected:?}, for {write:?}"),
        };
        let read = self.store.read_bucket(&self.key).await.unwrap();
        assert_eq!(read.map(sorted), self.model.clone().map(sorted));
        applied
    }

    /// Whether the only limit can be updated under this guard, and nothing else.
    async fn passes(&mut self, guard: LimitGuard) -> bool {
        let nothing = change(ZChange::Add(0), 0);
        self.send(&write([update("rpm", guard, nothing)])).await
    }

    fn limit(&self, name: &str) -> LimitItem {
        *self.model.as_ref().unwrap().limit(name).unwrap()
    }
}
