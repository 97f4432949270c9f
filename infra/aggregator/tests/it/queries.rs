//! Usage queries: ranges, order and pages, on a real table and in memory alike.

use std::time::{Duration, SystemTime};

use zae_limiter::store::{MemoryStore, Store};
use zae_limiter::{PageRequest, RateLimiter, UsageQuery, Window};
use zae_limiter_aggregator::{Aggregator, DynamoDbSnapshots, Record};
use zae_limiter_core::item::{BucketItem, BucketWrite, LimitAction, LimitItem, LimitWrite};
use zae_limiter_core::{BucketKey, Terms};
use zae_limiter_tests::{client_for, endpoint, fresh_table};

use crate::truth::record;

/// 2026-01-31T22:00:00Z
const BEGIN_SECONDS: u64 = 1_769_896_800;

fn write(hour: u64) -> BucketWrite {
    let terms = Terms {
        capacity: 10,
        burst: 10,
        refill_amount: 10,
        refill_period_seconds: 60,
    };
    let limit = LimitItem {
        terms,
        z: 0,
        consumed: 1,
        ring: None,
    };
    BucketWrite {
        incarnation: None,
        limits: vec![LimitWrite {
            name: format!("limit-{hour}").into(),
            action: LimitAction::Create(limit),
        }],
        sequence_from: 0,
        consumed_at_ms: (BEGIN_SECONDS + hour * 3_600) * 1_000,
        kept: zae_limiter_core::item::Kept::AsItIs,
    }
}

/// B6 of the Python library.
#[tokio::test]
async fn both_stores_answer_alike_in_order_and_in_range() {
    let table = fresh_table("queries").await;
    let snapshots = DynamoDbSnapshots::new(client_for(&endpoint()), table.name());
    let aggregator = Aggregator::new(snapshots, Window::ALL.to_vec(), 90);
    let memory = MemoryStore::new();
    let mut records: Vec<Record> = Vec::new();
    for (id, resource) in [("b", "api"), ("a", "api"), ("a", "other")] {
        let key = BucketKey::new(id, resource).unwrap();
        let mut stored = None;
        for hour in 0..4 {
            let old: Option<BucketItem> = stored.clone();
            BucketItem::apply(&mut stored, &write(hour)).unwrap();
            let _ = memory.write(&key, &write(hour));
            let position = records.len().to_string();
            records.push(record(position, &key, old.as_ref(), stored.as_ref()));
        }
    }
    let report = aggregator.process(&records).await;
    assert!(report.failed.is_empty(), "{:?}", report.failed);
    let at = |hour: u64| SystemTime::UNIX_EPOCH + Duration::from_secs(BEGIN_SECONDS + hour * 3_600);
    let all_of_a = UsageQuery::entity("a").unwrap();
    let api = UsageQuery::of_resource("api").unwrap();
    let a_api = all_of_a.clone().resource("api").unwrap();
    let half_past_one = at(1) + Duration::from_secs(1_800);
    for (query, found) in [
        (all_of_a.clone(), 8),
        (all_of_a.clone().since(at(1)).until(at(3)), 4),
        (all_of_a.window(Window::Daily), 4),
        (a_api.clone().since(half_past_one), 3),
        (a_api.clone().until(at(3)), 3),
        (a_api.clone().since(at(3)).until(at(2)), 0),
        (a_api.window(Window::Monthly), 2),
        (api.clone(), 8),
        (api.clone().since(at(2)).until(at(3)), 2),
        (api.window(Window::Daily).since(at(2)), 2),
    ] {
        let mut answers = Vec::new();
        let stores: [Box<dyn Store>; 2] = [Box::new(table.store()), Box::new(memory.clone())];
        for store in stores {
            let (mut all, mut page) = (Vec::new(), PageRequest::default().size(3));
            loop {
                let found = store.read_usage(&query, &page).await.unwrap();
                assert!(found.items.len() <= 3);
                all.extend(found.items);
                match found.next {
                    Some(next) => page = page.after(next),
                    None => break,
                }
            }
            answers.push(all);
        }
        assert_eq!(answers[0].len(), found, "{query:?}");
        assert_eq!(answers[0], answers[1], "{query:?}");
    }
    let limiter = RateLimiter::builder("queries")
        .store(memory)
        .connect()
        .await
        .unwrap();
    let summary = limiter
        .summarize_usage(&UsageQuery::of_resource("api").unwrap())
        .await;
    assert_eq!(
        summary.unwrap().limits["limit-2"].peak,
        2,
        "of both entities"
    );
}
