//! The aggregator: folds what happens to buckets into usage snapshots, by hour, day and month.
//!
//! The table's stream tells of every write of a bucket, **at least once** and in order. Each write
//! has a number, and each snapshot remembers the number of the last write that it counted, in the
//! same conditional write that counts it. So every write is counted **exactly once**, whatever is
//! delivered again, cut into other batches, or half done when a process ends.
//!
//! The same fold runs as a Lambda function ([`handle`]) and as a process that follows the stream by
//! itself ([`Follower`]); both may even run at once.
//!
//! * What is counted: the net consumption that a write reports (`consumed` of its limits), never
//!   a difference of levels. The first write of a bucket counts, a deletion does not, and a bucket
//!   that is made again begins anew.
//! * For when: the time at which it was consumed, as the process that admitted it says. What a
//!   process takes back later counts against the window in which it is taken back.

mod aggregator;
mod change;
mod dynamodb;
mod fold;
mod follow;
mod lambda;
mod settings;
mod snapshot;
mod streams;

pub use aggregator::{Aggregator, Cause, FailedRecord, Report};
pub use change::{Change, Item, Record, Unreadable};
pub use dynamodb::DynamoDbSnapshots;
pub use fold::{Tally, fold};
pub use follow::{FollowError, Follower, Progress, StartAt};
pub use lambda::handle;
pub use settings::{Settings, SettingsError};
pub use snapshot::{Added, Addition, SnapshotError, SnapshotKey, SnapshotStore};
pub use streams::{
    DynamoDbStream, Page, Position, Shard, StreamError, StreamErrorKind, StreamSource,
};
