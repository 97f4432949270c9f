//! The follower on a real table's stream.

use std::time::Duration;

use zae_limiter::{RateLimiter, UsageQuery, Window};
use zae_limiter_aggregator::{
    Aggregator, DynamoDbSnapshots, DynamoDbStream, Follower, StartAt, StreamErrorKind,
};
use zae_limiter_tests::{FreshTable, client_for, endpoint, fresh_table};

use crate::traffic::{check_usage, streams, traffic};

async fn follower(table: &FreshTable) -> Follower<DynamoDbStream, DynamoDbSnapshots> {
    let tables = client_for(&endpoint());
    let stream = DynamoDbStream::of_table(&tables, streams(), table.name())
        .await
        .unwrap();
    let snapshots = DynamoDbSnapshots::new(tables, table.name());
    let aggregator = Aggregator::new(snapshots, Window::ALL.to_vec(), 90);
    Follower::new(stream, aggregator, StartAt::Horizon)
}

#[tokio::test]
async fn what_followers_count_is_counted_once_however_many_there_are_and_however_often_they_start()
{
    let table = fresh_table("follow").await;
    let (mut one, mut two) = (follower(&table).await, follower(&table).await);
    let store = table.store();
    let done = async {
        traffic(store.clone()).await;
        let limiter = RateLimiter::builder("follow")
            .store(store)
            .connect()
            .await
            .unwrap();
        for _ in 0..100 {
            let of = |id| UsageQuery::entity(id).unwrap().window(Window::Monthly);
            let strict = limiter.summarize_usage(&of("strict-user")).await.unwrap();
            let leased = limiter.summarize_usage(&of("leased-user")).await.unwrap();
            let tokens = |usage: &zae_limiter::UsageSummary, limit: &str| {
                usage.limits.get(limit).map_or(0, |usage| usage.total)
            };
            if (tokens(&strict, "tpm"), tokens(&leased, "rpm")) == (290, 8) {
                break;
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    };
    // Both follow until all is counted, and a moment longer.
    let stopped = tokio::sync::Notify::new();
    let (progress, _, ()) = tokio::join!(
        one.run(stopped.notified()),
        two.run(stopped.notified()),
        async {
            done.await;
            tokio::time::sleep(Duration::from_secs(1)).await;
            stopped.notify_waiters();
        }
    );
    check_usage(table.store()).await;
    let records = progress.unwrap().records;
    assert!(records >= 10, "{records}");

    // A follower that starts again reads all of it again, its own snapshots included.
    let mut again = follower(&table).await;
    let progress = again
        .run(tokio::time::sleep(Duration::from_secs(2)))
        .await
        .unwrap();
    assert!(progress.records >= records, "{progress:?}");
    assert_eq!((progress.snapshots_updated, progress.skipped), (0, 0));
    check_usage(table.store()).await;
}

#[tokio::test]
async fn who_begins_anew_brings_back_what_was_deleted_until_it_is_deleted_again() {
    let table = fresh_table("follow").await;
    traffic(table.store()).await;
    let builder = RateLimiter::builder("follow").store(table.store());
    let limiter = builder.connect().await.unwrap();
    let hourly = UsageQuery::entity("strict-user").unwrap();
    let counted = async || {
        let mut anew = follower(&table).await;
        let a_moment = tokio::time::sleep(Duration::from_secs(2));
        anew.run(a_moment).await.unwrap();
        limiter.summarize_usage(&hourly).await.unwrap().limits
    };
    let before = counted().await;
    assert!(!before.is_empty());
    limiter.delete_entity("strict-user").await.unwrap();
    assert!(
        limiter
            .summarize_usage(&hourly)
            .await
            .unwrap()
            .limits
            .is_empty()
    );
    assert_eq!(counted().await, before);
    limiter.delete_entity("strict-user").await.unwrap();
    assert!(
        limiter
            .summarize_usage(&hourly)
            .await
            .unwrap()
            .limits
            .is_empty()
    );
}

#[tokio::test]
async fn a_table_that_is_not_there_has_no_stream() {
    let tables = client_for(&endpoint());
    let error = DynamoDbStream::of_table(&tables, streams(), "ZAEL-not-there").await;
    let error = error.unwrap_err();
    assert_eq!(error.kind(), StreamErrorKind::Gone);
    assert!(
        error.to_string().contains("table ZAEL-not-there"),
        "{error}"
    );
}
