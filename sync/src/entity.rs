//! Entities: who is limited, and who stands above whom.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use zae_limiter_core::WallTime;

/// Somebody or something that is limited: a user, an API key, a project. An entity may have a
/// parent, whose limits a cascading acquire charges too.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entity {
    /// Its identifier, unique in the table.
    pub id: String,
    /// A name for people. Default: the identifier.
    pub name: String,
    /// The entity above it.
    pub parent_id: Option<String>,
    /// Whatever the application wants to keep with it.
    pub metadata: BTreeMap<String, String>,
    /// When it was created, as RFC 3339 in UTC.
    pub created_at: String,
}

impl Entity {
    /// Whether it has no parent.
    #[must_use]
    pub fn is_parent(&self) -> bool {
        self.parent_id.is_none()
    }

    /// Whether it has a parent.
    #[must_use]
    pub fn is_child(&self) -> bool {
        self.parent_id.is_some()
    }
}

/// A time as v0.2.0 wrote it: RFC 3339 in UTC.
pub(crate) fn timestamp(time: WallTime) -> String {
    let time = jiff::Timestamp::from_millisecond(i64::try_from(time.as_millis()).unwrap_or(0));
    time.unwrap_or_default().to_string()
}
