//! Audit events: who changed what, and when. Each is stored together with the change.

use std::collections::BTreeMap;
use std::fmt;
use std::time::{Duration, UNIX_EPOCH};

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use ulid::{Generator, Ulid};
use zae_limiter_core::WallTime;

use crate::entity::timestamp;

/// How long the table keeps an audit event.
///
/// ```
/// # use zae_limiter::{AUDIT_RETENTION};
/// assert_eq!(AUDIT_RETENTION.as_secs(), 90 * 86_400);
/// ```
pub const AUDIT_RETENTION: Duration = Duration::from_secs(90 * 86_400);

/// What was done.
///
/// ```
/// use zae_limiter::AuditAction;
///
/// assert_eq!(AuditAction::LimitsSet.as_str(), "limits_set");
/// assert_eq!(AuditAction::from("limits_set".to_owned()), AuditAction::LimitsSet);
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(from = "String", into = "String")]
#[non_exhaustive]
pub enum AuditAction {
    /// An entity was created.
    EntityCreated,
    /// An entity was changed, otherwise than by `ParentSet`.
    EntityUpdated,
    /// An entity and all that belongs to it was deleted.
    EntityDeleted,
    /// An entity was given another parent, or none.
    ParentSet,
    /// Limits were stored.
    LimitsSet,
    /// Stored limits were deleted.
    LimitsDeleted,
    /// Something that this version does not know.
    Other(String),
}

impl AuditAction {
    /// What it is called in the table.
    ///
    /// See the example of [`AuditAction`].
    #[must_use]
    pub fn as_str(&self) -> &str {
        match self {
            Self::EntityCreated => "entity_created",
            Self::EntityUpdated => "entity_updated",
            Self::EntityDeleted => "entity_deleted",
            Self::ParentSet => "parent_set",
            Self::LimitsSet => "limits_set",
            Self::LimitsDeleted => "limits_deleted",
            Self::Other(name) => name,
        }
    }
}

impl From<String> for AuditAction {
    fn from(name: String) -> Self {
        match name.as_str() {
            "entity_created" => Self::EntityCreated,
            "entity_updated" => Self::EntityUpdated,
            "entity_deleted" => Self::EntityDeleted,
            "parent_set" => Self::ParentSet,
            "limits_set" => Self::LimitsSet,
            "limits_deleted" => Self::LimitsDeleted,
            _ => Self::Other(name),
        }
    }
}

impl From<AuditAction> for String {
    fn from(action: AuditAction) -> Self {
        match action {
            AuditAction::Other(name) => name,
            known => known.as_str().to_owned(),
        }
    }
}

impl fmt::Display for AuditAction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// One change, for the record. The table keeps it for [`AUDIT_RETENTION`].
///
/// ```
/// use zae_limiter::{AuditAction, AuditEvent, Clock};
///
/// let now = Clock::system().wall();
/// let event = AuditEvent::new(AuditAction::LimitsSet, "user-1", now)
///     .principal("alice@example.com")
///     .resource("gpt-4")
///     .detail("reason", "more traffic");
/// let next = AuditEvent::new(AuditAction::LimitsDeleted, "user-1", now);
/// assert!(next.event_id > event.event_id);
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditEvent {
    /// A ULID, unique in the table. Later events of one process have greater ones.
    pub event_id: String,
    /// When it was, as RFC 3339 in UTC.
    pub timestamp: String,
    /// What was done.
    pub action: AuditAction,
    /// What it was done to: an entity, or what [`LimitOwner::audit_id`] says.
    ///
    /// [`LimitOwner::audit_id`]: crate::LimitOwner::audit_id
    pub entity_id: String,
    /// Who did it, if that was said.
    pub principal: Option<String>,
    /// Of which resource the limits were.
    pub resource: Option<String>,
    /// What else is worth knowing.
    pub details: BTreeMap<String, Value>,
}

impl AuditEvent {
    /// `action` on `entity_id` at `time`, by nobody in particular.
    ///
    /// See the example of [`AuditEvent`].
    #[must_use]
    pub fn new(action: AuditAction, entity_id: impl Into<String>, time: WallTime) -> Self {
        Self {
            event_id: next_event_id(time),
            timestamp: timestamp(time),
            action,
            entity_id: entity_id.into(),
            principal: None,
            resource: None,
            details: BTreeMap::new(),
        }
    }

    /// The same, done by `principal`.
    ///
    /// See the example of [`AuditEvent`].
    #[must_use]
    pub fn principal(mut self, principal: impl Into<String>) -> Self {
        self.principal = Some(principal.into());
        self
    }

    /// The same, to limits of `resource`.
    ///
    /// See the example of [`AuditEvent`].
    #[must_use]
    pub fn resource(mut self, resource: impl Into<String>) -> Self {
        self.resource = Some(resource.into());
        self
    }

    /// The same, with one thing more to know.
    ///
    /// See the example of [`AuditEvent`].
    #[must_use]
    pub fn detail(mut self, key: impl Into<String>, value: impl Into<Value>) -> Self {
        self.details.insert(key.into(), value.into());
        self
    }

    /// When the table may forget it, in seconds since the Unix epoch; none if its timestamp is
    /// not one.
    pub(crate) fn expires_at_seconds(&self) -> Option<i64> {
        let time: jiff::Timestamp = self.timestamp.parse().ok()?;
        let retention = i64::try_from(AUDIT_RETENTION.as_secs()).ok()?;
        time.as_second().checked_add(retention)
    }
}

/// A new identifier, greater than all before it, also within a millisecond and when the wall
/// clock is set back: events are listed by it.
fn next_event_id(time: WallTime) -> String {
    static GENERATOR: Mutex<Generator> = Mutex::new(Generator::new());
    let time = UNIX_EPOCH + Duration::from_nanos(time.as_nanos());
    let mut generator = GENERATOR.lock();
    let id: Ulid = match generator.generate_from_datetime(time) {
        Ok(id) => id,
        Err(overflow) => overflow.commit_overflow_increment(),
    };
    id.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identifiers_only_ever_grow() {
        let times = [5_000, 5_000, 4_000, 5_001, 5_001, 1, 9_000];
        let event = |ms: u64| {
            let time = WallTime::from_nanos(ms * 1_000_000);
            AuditEvent::new(AuditAction::ParentSet, "user-1", time).event_id
        };
        let ids = times.map(event);
        assert!(ids.is_sorted_by(|a, b| a < b), "{ids:?}");
    }

    #[test]
    fn an_event_expires_90_days_after_its_timestamp() {
        let mut event = AuditEvent::new(AuditAction::LimitsSet, "x", WallTime::ZERO);
        event.timestamp = "2026-01-01T00:00:00.25Z".into();
        assert_eq!(event.expires_at_seconds(), Some(1_767_225_600 + 7_776_000));
        event.timestamp = "yesterday".into();
        assert_eq!(event.expires_at_seconds(), None);
    }

    #[test]
    fn actions_are_strings_in_json_and_unknown_ones_survive() {
        for name in [
            "entity_created",
            "entity_updated",
            "entity_deleted",
            "parent_set",
            "limits_set",
            "limits_deleted",
            "something_new",
        ] {
            let json = format!("{name:?}");
            let action: AuditAction = serde_json::from_str(&json).unwrap();
            assert_eq!(action.as_str(), name);
            let known = !matches!(action, AuditAction::Other(_));
            assert_eq!(known, name != "something_new");
            assert_eq!(serde_json::to_string(&action).unwrap(), json);
        }
    }
}
