//! Following a stream: which shard is read from where, and what happens to what fails.
//!
//! A follower keeps no place of its own anywhere. It begins at the oldest record that there is (or
//! behind the last one), and the snapshots know what they have counted.

use std::collections::HashMap;
use std::time::Duration;

use futures::future::join_all;
use tracing::{error, info, warn};

use crate::aggregator::{Aggregator, Cause, Report};
use crate::snapshot::SnapshotStore;
use crate::streams::{Position, Shard, StreamError, StreamErrorKind, StreamSource};

/// How long is waited when there was nothing to read.
const PAUSE: Duration = Duration::from_millis(500);

/// How long is waited at most when the stream or the table cannot be used.
const PAUSE_MAX: Duration = Duration::from_secs(30);

/// After how many passes new shards are looked for, if no shard has ended before.
const PASSES_PER_LOOK: u32 = 60;

/// What log lines say they are from.
const LOGGER: &str = "zae_limiter_aggregator::follow";

/// Where to begin with the shards that there are when following begins. Later ones are always
/// read from their beginning.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum StartAt {
    /// At the oldest record that there still is. What was counted before is not counted again.
    #[default]
    Horizon,
    /// Behind the last record.
    Latest,
}

/// What a follower has done so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Records read and done with.
    pub records: u64,
    /// Snapshots written.
    pub snapshots_updated: u64,
    /// Records that made no sense: passed over, and said so in the log.
    pub skipped: u64,
    /// Shards that are being read.
    pub shards: usize,
}

/// Following has ended, for there is nothing to follow any more.
#[derive(Clone, Debug, thiserror::Error)]
#[error("the stream has ended: {0}")]
pub struct FollowError(#[source] StreamError);

/// Reads a stream to its end, and counts what it says.
///
/// ```no_run
/// use zae_limiter_aggregator::{Aggregator, DynamoDbSnapshots, DynamoDbStream, Follower, StartAt};
/// use zae_limiter_core::usage::Window;
///
/// # async fn follow() -> Result<(), Box<dyn std::error::Error>> {
/// let config = aws_config::load_defaults(aws_config::BehaviorVersion::latest()).await;
/// let tables = aws_sdk_dynamodb::Client::new(&config);
/// let streams = aws_sdk_dynamodbstreams::Client::new(&config);
/// let stream = DynamoDbStream::of_table(&tables, streams, "ZAEL-my-app").await?;
/// let snapshots = DynamoDbSnapshots::new(tables, "ZAEL-my-app");
/// let aggregator = Aggregator::new(snapshots, Window::ALL.to_vec(), 90);
/// let mut follower = Follower::new(stream, aggregator, StartAt::Horizon);
/// let progress = follower.run(async { drop(tokio::signal::ctrl_c().await) }).await?;
/// println!("{} records", progress.records);
/// # Ok(()) }
/// ```
#[derive(Debug)]
pub struct Follower<T, S> {
    source: T,
    aggregator: Aggregator<S>,
    start_at: StartAt,
    shards: HashMap<String, Reading>,
    looked: bool,
    passes: u32,
    progress: Progress,
}

/// How far a shard has been read.
#[derive(Clone, Debug)]
struct Reading {
    parent: Option<String>,
    from: Position,
    iterator: Option<String>,
    ended: bool,
}

/// What came of one look at all shards.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Pass {
    pub(crate) records: usize,
    pub(crate) troubled: bool,
    pub(crate) ended: bool,
}

impl<T: StreamSource, S: SnapshotStore> Follower<T, S> {
    /// A follower that has read nothing yet.
    #[must_use]
    pub fn new(source: T, aggregator: Aggregator<S>, start_at: StartAt) -> Self {
        Self {
            source,
            aggregator,
            start_at,
            shards: HashMap::new(),
            looked: false,
            passes: 0,
            progress: Progress::default(),
        }
    }

    /// What has been done so far.
    #[must_use]
    pub fn progress(&self) -> Progress {
        self.progress
    }

    /// Follows the stream until `shutdown` is ready. What is being counted then is counted to its
    /// end, which takes as long as a call to the table. Records that cannot be counted because the
    /// table does not answer are tried again, ever more slowly.
    ///
    /// # Errors
    /// [`FollowError`] if the stream is gone.
    pub async fn run(
        &mut self,
        shutdown: impl Future<Output = ()>,
    ) -> Result<Progress, FollowError> {
        let mut shutdown = std::pin::pin!(shutdown);
        let mut pause = PAUSE;
        loop {
            let pass = self.pass().await.map_err(FollowError)?;
            pause = if pass.troubled {
                (pause * 2).min(PAUSE_MAX)
            } else {
                PAUSE
            };
            let wait = if pass.records > 0 && !pass.troubled || pass.ended {
                Duration::ZERO
            } else {
                pause
            };
            tokio::select! {
                biased;
                () = &mut shutdown => break,
                () = tokio::time::sleep(wait) => {}
            }
        }
        let Progress {
            records,
            snapshots_updated,
            skipped,
            ..
        } = self.progress;
        info!(
            logger = LOGGER,
            records, snapshots_updated, skipped, "Stopped following"
        );
        Ok(self.progress)
    }

    /// Reads on in every shard whose turn it is.
    pub(crate) async fn pass(&mut self) -> Result<Pass, StreamError> {
        let mut pass = Pass::default();
        if self.passes.is_multiple_of(PASSES_PER_LOOK)
            && let Err(error) = self.look_for_shards().await
        {
            if error.kind() == StreamErrorKind::Gone {
                return Err(error);
            }
            warn!(
                logger = LOGGER,
                error = error.to_string(),
                "Shards could not be listed"
            );
            pass.troubled = true;
            return Ok(pass);
        }
        self.passes = self.passes.wrapping_add(1);
        let ids: Vec<String> = self.readable().cloned().collect();
        self.progress.shards = ids.len();
        let read = ids.iter().map(|id| self.read(id));
        let read = join_all(read).await;
        for (id, read) in ids.into_iter().zip(read) {
            self.take_in(&id, read, &mut pass);
        }
        if pass.ended {
            self.passes = 0; // their children are to be found
        }
        Ok(pass)
    }

    async fn look_for_shards(&mut self) -> Result<(), StreamError> {
        let listed = self.source.shards().await?;
        let listed_id = |id: &String| listed.iter().any(|shard| shard.id == *id);
        self.shards.retain(|id, _| listed_id(id));
        for Shard { id, parent } in listed {
            let from = match self.start_at {
                StartAt::Latest if !self.looked => Position::Latest,
                _ => Position::Horizon,
            };
            self.shards.entry(id).or_insert(Reading {
                parent,
                from,
                iterator: None,
                ended: false,
            });
        }
        self.looked = true;
        Ok(())
    }

    /// The shards that have not ended, and whose parents have, or are gone.
    fn readable(&self) -> impl Iterator<Item = &String> {
        let readable = |(_, reading): &(&String, &Reading)| {
            let parent = reading.parent.as_ref().and_then(|id| self.shards.get(id));
            !reading.ended && parent.is_none_or(|parent| parent.ended)
        };
        self.shards.iter().filter(readable).map(|(id, _)| id)
    }

    async fn read(&self, id: &str) -> Result<Read, StreamError> {
        let reading = &self.shards[id];
        let iterator = match &reading.iterator {
            Some(iterator) => iterator.clone(),
            None => self.source.iterator(id, &reading.from).await?,
        };
        let page = self.source.read(&iterator).await?;
        let report = self.aggregator.process(&page.records).await;
        let positions = page.records.into_iter().map(|record| record.position);
        Ok(Read {
            positions: positions.collect(),
            next: page.next,
            report,
        })
    }

    fn take_in(&mut self, id: &str, read: Result<Read, StreamError>, pass: &mut Pass) {
        let Some(reading) = self.shards.get_mut(id) else {
            return;
        };
        let read = match read {
            Ok(read) => read,
            Err(error) => {
                reading.failed(id, &error);
                pass.troubled |= error.kind() == StreamErrorKind::Failed;
                pass.ended |= reading.ended;
                return;
            }
        };
        let failed = read.report.failed.first();
        let done = match failed {
            None => read.positions.len(),
            Some(failed) => {
                let at = read.positions.iter().position(|p| *p == failed.position);
                at.unwrap_or(0)
            }
        };
        pass.records += done;
        self.progress.records += done as u64;
        self.progress.snapshots_updated += read.report.snapshots_updated as u64;
        if let Some(last) = done.checked_sub(1) {
            reading.from = Position::After(read.positions[last].clone());
        }
        match failed {
            None => {
                reading.ended = read.next.is_none();
                reading.iterator = read.next;
                pass.ended |= reading.ended;
            }
            Some(failed) => {
                let (position, error) = (failed.position.as_str(), failed.cause.to_string());
                error!(logger = LOGGER, position, error, "Record failed");
                reading.iterator = None;
                if let Cause::Unreadable(_) = failed.cause {
                    // It will not make sense later either; what comes after it may go on.
                    reading.from = Position::After(failed.position.clone());
                    self.progress.skipped += 1;
                    pass.records += 1;
                } else {
                    pass.troubled = true;
                }
            }
        }
    }
}

/// What was read of a shard, and what became of it.
struct Read {
    positions: Vec<String>,
    next: Option<String>,
    report: Report,
}

impl Reading {
    fn failed(&mut self, id: &str, error: &StreamError) {
        self.iterator = None;
        match error.kind() {
            // Behind the last record may be somewhere else by now.
            StreamErrorKind::Expired if self.from == Position::Latest => {
                self.from = Position::Horizon;
            }
            StreamErrorKind::Expired => {}
            StreamErrorKind::Trimmed => {
                warn!(
                    logger = LOGGER,
                    shard = id,
                    "Records were lost: they are kept for a day"
                );
                self.from = Position::Horizon;
            }
            StreamErrorKind::Gone => self.ended = true,
            StreamErrorKind::Failed => {
                warn!(
                    logger = LOGGER,
                    shard = id,
                    error = error.to_string(),
                    "Shard not read"
                );
            }
        }
    }
}

#[cfg(test)]
mod tests;
