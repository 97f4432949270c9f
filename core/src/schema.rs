//! The table's keys. Items of entities keep the layout of zae-limiter 0.2.0; buckets are ours.

use std::fmt::Display;

/// The partition key's attribute.
pub const PK: &str = "PK";
/// The sort key's attribute.
pub const SK: &str = "SK";
/// The partition key's attribute of the index of children by parent.
pub const GSI1_PK: &str = "GSI1PK";
/// The sort key's attribute of the index of children by parent.
pub const GSI1_SK: &str = "GSI1SK";
/// The partition key's attribute of the index by resource.
pub const GSI2_PK: &str = "GSI2PK";
/// The sort key's attribute of the index by resource.
pub const GSI2_SK: &str = "GSI2SK";
/// The sort key of an entity's own item.
pub const META: &str = "#META";
/// The attribute that DynamoDB's time-to-live looks at.
pub const TTL: &str = "ttl";

/// The partition key of all items of an entity.
#[must_use]
pub fn entity(id: impl Display) -> String {
    format!("ENTITY#{id}")
}

/// The sort key of a bucket.
#[must_use]
pub fn bucket(resource: impl Display) -> String {
    format!("#BUCKET#{resource}")
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

/// The partition key of all buckets of a resource, in the second index.
#[must_use]
pub fn resource(resource: impl Display) -> String {
    format!("RESOURCE#{resource}")
}

/// The sort key of a bucket, in the second index.
#[must_use]
pub fn bucket_of(id: impl Display) -> String {
    format!("BUCKET#{id}")
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
