//! The table's keys. Items of entities, stored limits and audit events keep the layout of
//! zae-limiter 0.2.0; buckets and the heads of stored limits are ours.

use std::fmt::Display;

use crate::WallTime;
use crate::usage::{self, Window};

/// The version of this layout. A change that older clients cannot live with is a new major
/// version; 0.2.0 wrote 1.0.0 as well.
pub const SCHEMA_VERSION: &str = "1.0.0";
/// The partition key's attribute.
pub const PK: &str = "PK";
/// The sort key's attribute.
pub const SK: &str = "SK";
/// The index of children by parent.
pub const GSI1: &str = "GSI1";
/// The partition key's attribute of the index of children by parent.
pub const GSI1_PK: &str = "GSI1PK";
/// The sort key's attribute of the index of children by parent.
pub const GSI1_SK: &str = "GSI1SK";
/// The index by resource.
pub const GSI2: &str = "GSI2";
/// The partition key's attribute of the index by resource.
pub const GSI2_PK: &str = "GSI2PK";
/// The sort key's attribute of the index by resource.
pub const GSI2_SK: &str = "GSI2SK";
/// The sort key of an entity's own item.
pub const META: &str = "#META";
/// The attribute of a bucket that numbers its writes.
pub const SEQUENCE: &str = "seq";
/// The attribute of a bucket that says from which number its writes are counted: it tells an item from one
/// that was made after it was deleted.
pub const INCARNATION: &str = "inc";
/// The attribute of a bucket that says when that was consumed which the last write reported, in
/// milliseconds since the Unix epoch.
pub const CONSUMED_AT: &str = "consumed_at_ms";
/// What a limit of a bucket calls its net consumption, in tokens.
pub const CONSUMED: &str = "consumed";
/// The attribute that DynamoDB's time-to-live looks at.
pub const TTL: &str = "ttl";
/// The partition key of what belongs to the whole table.
pub const SYSTEM: &str = "SYSTEM#";
/// The sort key of the version record, an item that every role of the system may read.
pub const VERSION: &str = "#VERSION";
/// What stands for the resource in limits that hold for any. No resource can be called that.
pub const DEFAULT_RESOURCE: &str = "_default_";
/// What the sort keys of stored limits and of the heads of their sets begin with.
pub const LIMITS_PREFIX: &str = "#LIMIT";
/// What the sort keys of audit events begin with.
pub const AUDIT_PREFIX: &str = "#AUDIT#";
/// What the sort keys of buckets begin with.
pub const BUCKET_PREFIX: &str = "#BUCKET#";
/// What the sort keys of usage snapshots begin with.
pub const USAGE_PREFIX: &str = "#USAGE#";
/// The attribute of a usage snapshot that counts bucket writes.
pub const TOTAL_EVENTS: &str = "total_events";
/// The attribute of a usage snapshot that says which write of the bucket was counted last.
pub const COUNTED: &str = "counted";
/// What the sort keys of buckets begin with, in the second index.
pub const BUCKET_OF_PREFIX: &str = "BUCKET#";

/// The partition key of all items of an entity.
#[must_use]
pub fn entity(id: impl Display) -> String {
    format!("ENTITY#{id}")
}

/// The entity that a partition key is of, if it is of one.
#[must_use]
pub fn id_of_entity(pk: &str) -> Option<&str> {
    pk.strip_prefix("ENTITY#")
}

/// The sort key of a bucket.
#[must_use]
pub fn bucket(resource: impl Display) -> String {
    format!("{BUCKET_PREFIX}{resource}")
}

/// The resource whose bucket a sort key is of, if it is of one. (The Python library has buckets of
/// its own, whose sort keys go on with the name of a limit.)
#[must_use]
pub fn resource_of_bucket(sk: &str) -> Option<&str> {
    let resource = sk.strip_prefix(BUCKET_PREFIX)?;
    (!resource.contains('#')).then_some(resource)
}

/// The sort key of a usage snapshot.
#[must_use]
pub fn usage(resource: impl Display, window: Window, start: WallTime) -> String {
    format!("{}{}", usage_of(resource, window), usage::timestamp(start))
}

/// What the sort keys of a resource's usage snapshots of one sort begin with.
#[must_use]
pub fn usage_of(resource: impl Display, window: Window) -> String {
    format!("{USAGE_PREFIX}{resource}#{window}#")
}

/// What the sort keys of usage snapshots of one sort begin with, in the second index.
#[must_use]
pub fn usage_in(window: Window) -> String {
    format!("USAGE#{window}#")
}

/// The sort key of a usage snapshot, in the second index.
#[must_use]
pub fn usage_by(window: Window, start: WallTime, id: impl Display) -> String {
    format!("{}{}#{id}", usage_in(window), usage::timestamp(start))
}

/// What snapshot of which resource a sort key is of, if it is of one.
#[must_use]
pub fn snapshot_of_usage(sk: &str) -> Option<(&str, Window, WallTime)> {
    let mut parts = sk.strip_prefix(USAGE_PREFIX)?.split('#');
    let (resource, window, start) = (parts.next()?, parts.next()?, parts.next()?);
    let start = usage::parse_timestamp(start)?;
    (parts.next().is_none()).then_some((resource, window.parse().ok()?, start))
}

/// The partition key of the children of an entity, in the first index.
#[must_use]
pub fn parent(id: impl Display) -> String {
    format!("PARENT#{id}")
}

/// The sort key of a child, in the first index.
#[must_use]
pub fn child(id: impl Display) -> String {
    format!("CHILD#{id}")
}

/// The partition key of what belongs to a resource: of all its buckets in the second index, and
/// of its limits in the table.
#[must_use]
pub fn resource(resource: impl Display) -> String {
    format!("RESOURCE#{resource}")
}

/// The sort key of a bucket, in the second index.
#[must_use]
pub fn bucket_of(id: impl Display) -> String {
    format!("{BUCKET_OF_PREFIX}{id}")
}

/// The sort key of a stored limit.
#[must_use]
pub fn limit(resource: impl Display, name: impl Display) -> String {
    format!("#LIMIT#{resource}#{name}")
}

/// What the sort keys of a resource's stored limits begin with.
#[must_use]
pub fn limits_of(resource: impl Display) -> String {
    format!("#LIMIT#{resource}#")
}

/// The sort key of the head of a set of stored limits: the one item that every replacement of
/// the set writes.
#[must_use]
pub fn limit_set(resource: impl Display) -> String {
    format!("#LIMITS#{resource}")
}

/// The resource whose set of stored limits a sort key is the head of, if it is one.
#[must_use]
pub fn resource_of_limit_set(sk: &str) -> Option<&str> {
    sk.strip_prefix("#LIMITS#")
}

/// The partition key of an entity's audit events.
#[must_use]
pub fn audit(id: impl Display) -> String {
    format!("AUDIT#{id}")
}

/// The sort key of an audit event.
#[must_use]
pub fn audit_event(event_id: impl Display) -> String {
    format!("{AUDIT_PREFIX}{event_id}")
}

/// The attribute of a bucket item that holds one limit.
#[must_use]
pub fn limit_attribute(name: impl Display) -> String {
    format!("limit#{name}")
}

/// The limit that an attribute of a bucket item holds, if it holds one.
#[must_use]
pub fn limit_of_attribute(attribute: &str) -> Option<&str> {
    attribute.strip_prefix("limit#")
}
