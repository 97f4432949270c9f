//! A stream by hand: shards that split and end, iterators that expire, records that fail.

use std::collections::BTreeMap;
use std::future::{pending, ready};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use zae_limiter_core::usage::{Consumption, Window};
use zae_limiter_core::{BucketKey, WallTime};

use super::*;
use crate::change::{Change, Item, Record, Unreadable};
use crate::snapshot::{Added, Addition, SnapshotError, SnapshotKey};
use crate::streams::Page;

/// A stream: shards with their parents, whether they have ended, and their records.
#[derive(Clone, Debug, Default)]
struct ByHand(Arc<Mutex<Inner>>);

#[derive(Debug, Default)]
struct Inner {
    shards: BTreeMap<String, (Option<String>, bool, Vec<Record>)>,
    /// What the next read ends with instead.
    trouble: Option<StreamErrorKind>,
    iterators: u32,
}

impl ByHand {
    fn shard(&self, id: &str, parent: Option<&str>) -> &Self {
        let parent = parent.map(ToOwned::to_owned);
        let mut inner = self.0.lock().unwrap();
        inner
            .shards
            .insert(id.to_owned(), (parent, false, Vec::new()));
        self
    }

    fn end(&self, id: &str) {
        self.0.lock().unwrap().shards.get_mut(id).unwrap().1 = true;
    }

    fn write(&self, id: &str, entity: &str, sequence: u64) {
        let consumption = Consumption {
            sequence,
            consumed_at: WallTime::ZERO,
            tokens: vec![("rpm".into(), 1)],
        };
        let bucket = BucketKey::new(entity, "api").unwrap();
        self.push(
            id,
            entity,
            sequence,
            Ok(Some(Change {
                bucket,
                consumption,
            })),
        );
    }

    fn push(
        &self,
        id: &str,
        item: &str,
        sequence: u64,
        change: Result<Option<Change>, Unreadable>,
    ) {
        let record = Record {
            position: format!("{sequence:021}"),
            item: item.to_owned(),
            change,
        };
        self.0
            .lock()
            .unwrap()
            .shards
            .get_mut(id)
            .unwrap()
            .2
            .push(record);
    }

    fn trouble(&self, kind: StreamErrorKind) {
        self.0.lock().unwrap().trouble = Some(kind);
    }
}

#[async_trait]
impl StreamSource for ByHand {
    async fn shards(&self) -> Result<Vec<Shard>, StreamError> {
        let inner = self.0.lock().unwrap();
        let shards = inner.shards.iter().map(|(id, (parent, ..))| Shard {
            id: id.clone(),
            parent: parent.clone(),
        });
        Ok(shards.collect())
    }

    async fn iterator(&self, shard_id: &str, from: &Position) -> Result<String, StreamError> {
        let mut inner = self.0.lock().unwrap();
        inner.iterators += 1;
        let (_, _, records) = &inner.shards[shard_id];
        let at = match from {
            Position::Horizon => 0,
            Position::Latest => records.len(),
            Position::After(last) => records.iter().filter(|r| r.position <= *last).count(),
        };
        Ok(format!("{shard_id} {at}"))
    }

    async fn read(&self, iterator: &str) -> Result<Page, StreamError> {
        let mut inner = self.0.lock().unwrap();
        if let Some(kind) = inner.trouble.take() {
            return Err(StreamError::new(kind, "by hand"));
        }
        let (id, at) = iterator.split_once(' ').unwrap();
        let (_, ended, records) = &inner.shards[id];
        let at: usize = at.parse().unwrap();
        let page: Vec<_> = records[at..].iter().take(3).cloned().collect();
        let next = at + page.len();
        Ok(Page {
            next: (!ended || next < records.len()).then(|| format!("{id} {next}")),
            records: page,
        })
    }
}

/// Snapshots by entity: what was added, and which writes.
#[derive(Clone, Debug, Default)]
struct Counts(Arc<Mutex<Written>>);

#[derive(Debug, Default)]
struct Written {
    counts: BTreeMap<String, (i64, u64)>,
    order: Vec<(String, u64)>,
    away: bool,
}

#[async_trait]
impl SnapshotStore for Counts {
    async fn add(&self, key: &SnapshotKey, addition: &Addition) -> Result<Added, SnapshotError> {
        let mut written = self.0.lock().unwrap();
        if written.away {
            return Err(SnapshotError::new("away"));
        }
        let entity = key.bucket.entity_id().to_owned();
        let (tokens, counted) = written.counts.entry(entity.clone()).or_default();
        if *counted >= addition.first {
            return Ok(Added::Counted(*counted));
        }
        *tokens += addition.tokens[0].1;
        *counted = addition.last;
        written.order.push((entity, addition.last));
        Ok(Added::Done)
    }
}

impl Counts {
    fn of(&self, entity: &str) -> i64 {
        let written = self.0.lock().unwrap();
        written.counts.get(entity).map_or(0, |(tokens, _)| *tokens)
    }
}

fn follower(stream: &ByHand, counts: &Counts, start_at: StartAt) -> Follower<ByHand, Counts> {
    let aggregator = Aggregator::new(counts.clone(), vec![Window::Hourly], 90);
    Follower::new(stream.clone(), aggregator, start_at)
}

async fn passes(follower: &mut Follower<ByHand, Counts>, passes: u32) {
    for _ in 0..passes {
        follower.pass().await.unwrap();
    }
}

#[tokio::test]
async fn children_are_read_when_their_parents_have_ended_and_not_before() {
    let (stream, counts) = (ByHand::default(), Counts::default());
    stream
        .shard("1", Some("gone"))
        .shard("2", Some("1"))
        .shard("3", Some("1"));
    for sequence in 1..=4 {
        stream.write("1", "a", sequence);
    }
    stream.write("2", "a", 5);
    stream.write("3", "b", 6);
    let mut follower = follower(&stream, &counts, StartAt::Horizon);
    passes(&mut follower, 5).await;
    assert_eq!(
        (counts.of("a"), counts.of("b")),
        (4, 0),
        "the parent may have more"
    );
    stream.end("1");
    passes(&mut follower, 2).await;
    assert_eq!((counts.of("a"), counts.of("b")), (5, 1));
    stream.end("3");
    stream.shard("4", Some("3")).write("4", "b", 7);
    passes(&mut follower, 3).await;
    assert_eq!(counts.of("b"), 2, "a shard that came later is found");
    let order = counts.0.lock().unwrap().order.clone();
    assert!(order.iter().position(|o| o.1 == 4) < order.iter().position(|o| o.1 == 5));
}

#[tokio::test]
async fn an_iterator_that_is_too_old_is_replaced_and_nothing_is_counted_twice() {
    let (stream, counts) = (ByHand::default(), Counts::default());
    stream.shard("1", None);
    stream.write("1", "a", 1);
    let mut follower = follower(&stream, &counts, StartAt::Latest);
    passes(&mut follower, 1).await;
    assert_eq!(counts.of("a"), 0, "what was there before is not read");
    stream.trouble(StreamErrorKind::Expired);
    stream.write("1", "a", 2);
    passes(&mut follower, 3).await;
    assert_eq!(
        counts.of("a"),
        2,
        "rather once more from the beginning than a gap"
    );
    for kind in [
        StreamErrorKind::Expired,
        StreamErrorKind::Trimmed,
        StreamErrorKind::Failed,
    ] {
        stream.trouble(kind);
        passes(&mut follower, 3).await;
        assert_eq!(counts.of("a"), 2);
    }
    stream.write("1", "a", 3);
    passes(&mut follower, 2).await;
    assert_eq!(counts.of("a"), 3);
    assert_eq!(follower.progress().records, 5, "two of them twice");
}

#[tokio::test]
async fn what_cannot_be_written_is_tried_again_and_what_makes_no_sense_is_passed_over() {
    let (stream, counts) = (ByHand::default(), Counts::default());
    stream.shard("1", None);
    stream.write("1", "a", 1);
    stream.write("1", "b", 2);
    let nonsense = Record::read(
        String::new(),
        &item(&[("PK", "ENTITY#b"), ("SK", "#BUCKET#api")]),
        None,
        Some(&item(&[("seq", "x")])),
    );
    stream.push("1", "b", 3, nonsense.change);
    stream.write("1", "b", 4);
    stream.write("1", "a", 5);
    let mut follower = follower(&stream, &counts, StartAt::Horizon);
    counts.0.lock().unwrap().away = true;
    for _ in 0..3 {
        let pass = follower.pass().await.unwrap();
        assert!(pass.troubled && pass.records == 0);
    }
    counts.0.lock().unwrap().away = false;
    passes(&mut follower, 4).await;
    assert_eq!((counts.of("a"), counts.of("b")), (2, 2));
    let progress = follower.progress();
    assert_eq!((progress.records, progress.skipped), (4, 1));
}

#[tokio::test(start_paused = true)]
async fn following_ends_when_it_is_told_to_or_when_the_stream_is_gone() {
    let (stream, counts) = (ByHand::default(), Counts::default());
    stream.shard("1", None).write("1", "a", 1);
    let mut follower = follower(&stream, &counts, StartAt::Horizon);
    let progress = follower
        .run(tokio::time::sleep(Duration::from_secs(5)))
        .await
        .unwrap();
    assert_eq!((progress.records, progress.shards), (1, 1));
    assert_eq!(follower.run(ready(())).await.unwrap().records, 1);

    #[derive(Debug)]
    struct Gone;
    #[async_trait]
    impl StreamSource for Gone {
        async fn shards(&self) -> Result<Vec<Shard>, StreamError> {
            Err(StreamError::new(StreamErrorKind::Gone, "no such stream"))
        }
        async fn iterator(&self, _: &str, _: &Position) -> Result<String, StreamError> {
            unreachable!()
        }
        async fn read(&self, _: &str) -> Result<Page, StreamError> {
            unreachable!()
        }
    }
    let aggregator = Aggregator::new(counts, vec![Window::Hourly], 90);
    let error = Follower::new(Gone, aggregator, StartAt::Horizon)
        .run(pending())
        .await;
    assert_eq!(
        error.unwrap_err().to_string(),
        "the stream has ended: no such stream"
    );
}

fn item(attributes: &[(&str, &str)]) -> Item {
    let attributes = attributes.iter().map(|(name, value)| {
        let value = serde_dynamo::AttributeValue::S((*value).to_owned());
        ((*name).to_owned(), value)
    });
    Item::from(attributes.collect::<std::collections::HashMap<_, _>>())
}
