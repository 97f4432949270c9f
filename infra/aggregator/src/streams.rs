//! The stream of a table, and how it is read in DynamoDB.

use std::fmt::{self, Debug};
use std::sync::Arc;

use async_trait::async_trait;
use aws_sdk_dynamodb::Client as TableClient;
use aws_sdk_dynamodbstreams::Client;
use aws_sdk_dynamodbstreams::error::{DisplayErrorContext, ProvideErrorMetadata, SdkError};
use aws_sdk_dynamodbstreams::types::{Record as StreamRecord, ShardIteratorType};

use crate::change::{Item, Record};

/// A part of a stream, read in order. When it is full its children go on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shard {
    /// What it is called.
    pub id: String,
    /// The shard before it. It may be gone already.
    pub parent: Option<String>,
}

/// Where in a shard to begin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Position {
    /// At the oldest record that there still is.
    Horizon,
    /// Behind the last one.
    Latest,
    /// Behind the record of this sequence number.
    After(String),
}

/// Some records of a shard.
#[derive(Clone, Debug, Default)]
pub struct Page {
    /// In their order. There may be none, and more to come.
    pub records: Vec<Record>,
    /// Where the next ones are; none if the shard ends here.
    pub next: Option<String>,
}

/// Why a stream could not be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StreamErrorKind {
    /// The iterator is too old; a new one will do.
    Expired,
    /// The records that were asked for are gone: they are kept for a day.
    Trimmed,
    /// There is no such table, stream or shard.
    Gone,
    /// Anything else. It may help to try again.
    Failed,
}

/// A stream could not be read.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{message}")]
pub struct StreamError {
    kind: StreamErrorKind,
    message: String,
    #[source]
    source: Option<Arc<dyn std::error::Error + Send + Sync>>,
}

impl StreamError {
    /// A failure of this kind; `message` says what was tried, and on what.
    #[must_use]
    pub fn new(kind: StreamErrorKind, message: impl Into<String>) -> Self {
        Self {
            kind,
            message: message.into(),
            source: None,
        }
    }

    /// What sort of failure it is.
    #[must_use]
    pub fn kind(&self) -> StreamErrorKind {
        self.kind
    }
}

/// A stream to follow.
#[async_trait]
pub trait StreamSource: Debug + Send + Sync {
    /// Lists the shards that there are, in no particular order.
    async fn shards(&self) -> Result<Vec<Shard>, StreamError>;

    /// An iterator over a shard, which is good for some minutes.
    async fn iterator(&self, shard_id: &str, from: &Position) -> Result<String, StreamError>;

    /// Reads on by an iterator.
    async fn read(&self, iterator: &str) -> Result<Page, StreamError>;
}

/// The stream of a table in DynamoDB.
#[derive(Clone)]
pub struct DynamoDbStream {
    client: Client,
    arn: String,
}

impl Debug for DynamoDbStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DynamoDbStream")
            .field("arn", &self.arn)
            .finish_non_exhaustive()
    }
}

impl DynamoDbStream {
    /// The stream that the table called `table_name` has now.
    ///
    /// # Errors
    /// [`StreamErrorKind::Gone`] if there is no such table, or it has no stream;
    /// [`StreamErrorKind::Failed`] if it could not be asked.
    pub async fn of_table(
        tables: &TableClient,
        client: Client,
        table_name: &str,
    ) -> Result<Self, StreamError> {
        let described = tables.describe_table().table_name(table_name).send().await;
        let described = described.map_err(|error| {
            let gone = error.code() == Some("ResourceNotFoundException");
            let kind = if gone {
                StreamErrorKind::Gone
            } else {
                StreamErrorKind::Failed
            };
            let cause = DisplayErrorContext(&error);
            let message = format!("could not describe table {table_name}: {cause}");
            StreamError::new(kind, message).caused_by(error)
        })?;
        let arn = described.table.and_then(|table| table.latest_stream_arn);
        let Some(arn) = arn else {
            let message = format!(
                "table {table_name} has no stream: enable one with new and old images, or deploy \
                 the stack again"
            );
            return Err(StreamError::new(StreamErrorKind::Gone, message));
        };
        Ok(Self { client, arn })
    }

    fn failed<E, R>(&self, action: &str, error: SdkError<E, R>) -> StreamError
    where
        E: std::error::Error + ProvideErrorMetadata + Send + Sync + 'static,
        R: Debug + Send + Sync + 'static,
    {
        let kind = match error.code() {
            Some("ExpiredIteratorException") => StreamErrorKind::Expired,
            Some("TrimmedDataAccessException") => StreamErrorKind::Trimmed,
            Some("ResourceNotFoundException") => StreamErrorKind::Gone,
            _ => StreamErrorKind::Failed,
        };
        let (arn, cause) = (&self.arn, DisplayErrorContext(&error));
        let message = format!("could not {action} of stream {arn}: {cause}");
        StreamError::new(kind, message).caused_by(error)
    }
}

impl StreamError {
    fn caused_by(self, source: impl std::error::Error + Send + Sync + 'static) -> Self {
        Self {
            source: Some(Arc::new(source)),
            ..self
        }
    }
}

#[async_trait]
impl StreamSource for DynamoDbStream {
    async fn shards(&self) -> Result<Vec<Shard>, StreamError> {
        let (mut shards, mut start) = (Vec::new(), None);
        loop {
            let request = self.client.describe_stream().stream_arn(&self.arn);
            let answer = request.set_exclusive_start_shard_id(start).send().await;
            let answer = answer.map_err(|error| self.failed("list the shards", error))?;
            let stream = answer.stream_description.unwrap_or_else(|| {
                aws_sdk_dynamodbstreams::types::StreamDescription::builder().build()
            });
            shards.extend(
                stream
                    .shards
                    .unwrap_or_default()
                    .into_iter()
                    .filter_map(|shard| {
                        Some(Shard {
                            id: shard.shard_id?,
                            parent: shard.parent_shard_id,
                        })
                    }),
            );
            start = stream.last_evaluated_shard_id;
            if start.is_none() {
                return Ok(shards);
            }
        }
    }

    async fn iterator(&self, shard_id: &str, from: &Position) -> Result<String, StreamError> {
        let (kind, after) = match from {
            Position::Horizon => (ShardIteratorType::TrimHorizon, None),
            Position::Latest => (ShardIteratorType::Latest, None),
            Position::After(position) => (
                ShardIteratorType::AfterSequenceNumber,
                Some(position.clone()),
            ),
        };
        let request = self.client.get_shard_iterator().stream_arn(&self.arn);
        let request = request.shard_id(shard_id).shard_iterator_type(kind);
        let answer = request.set_sequence_number(after).send().await;
        let action = format!("begin with shard {shard_id}");
        let answer = answer.map_err(|error| self.failed(&action, error))?;
        answer.shard_iterator.ok_or_else(|| {
            let message = format!("could not {action} of stream {}: no answer", self.arn);
            StreamError::new(StreamErrorKind::Failed, message)
        })
    }

    async fn read(&self, iterator: &str) -> Result<Page, StreamError> {
        let request = self.client.get_records().shard_iterator(iterator);
        let answer = request.send().await;
        let answer = answer.map_err(|error| self.failed("read records", error))?;
        let records = answer.records.unwrap_or_default();
        Ok(Page {
            records: records.into_iter().map(record).collect(),
            next: answer.next_shard_iterator,
        })
    }
}

fn record(record: StreamRecord) -> Record {
    let Some(change) = record.dynamodb else {
        return Record::read(String::new(), &Item::default(), None, None);
    };
    let item = |image: Option<_>| image.map(Item::from);
    let (keys, old, new) = (
        item(change.keys),
        item(change.old_image),
        item(change.new_image),
    );
    Record::read(
        change.sequence_number.unwrap_or_default(),
        &keys.unwrap_or_default(),
        old.as_ref(),
        new.as_ref(),
    )
}
