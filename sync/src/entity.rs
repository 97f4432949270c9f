//! Entities: who is limited, and who stands above whom.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use zae_limiter_core::{ValidationError, WallTime};

/// The longest name of an entity, and the longest key of its metadata, in bytes.
///
/// ```
/// # use zae_limiter::{ENTITY_TEXT_LEN_MAX, NewEntity, RateLimiter};
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), zae_limiter::Error> {
/// # let limiter = RateLimiter::builder("my-app").in_memory().connect().await?;
/// let name = "x".repeat(ENTITY_TEXT_LEN_MAX + 1);
/// assert!(limiter.create_entity(NewEntity::new("user-1").name(name)).await.is_err());
/// # Ok(()) }
/// ```
pub const ENTITY_TEXT_LEN_MAX: usize = 1_024;
/// The most metadata of an entity, in bytes: keys and values, and eight for each pair. An item of
/// DynamoDB holds 400 kB.
///
/// ```
/// # use zae_limiter::{METADATA_LEN_MAX, NewEntity, RateLimiter};
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), zae_limiter::Error> {
/// # let limiter = RateLimiter::builder("my-app").in_memory().connect().await?;
/// let user = NewEntity::new("user-1").metadata("notes", "x".repeat(METADATA_LEN_MAX));
/// assert!(limiter.create_entity(user).await.is_err());
/// # Ok(()) }
/// ```
pub const METADATA_LEN_MAX: usize = 350_000;

use crate::checked;

/// Somebody or something that is limited: a user, an API key, a project. An entity may have a
/// parent, whose limits a cascading acquire charges too.
///
/// ```
/// # use zae_limiter::{NewEntity, RateLimiter};
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), zae_limiter::Error> {
/// # let limiter = RateLimiter::builder("my-app").in_memory().connect().await?;
/// let user = limiter.create_entity(NewEntity::new("user-1").name("Ada")).await?;
/// assert_eq!((user.id.as_str(), user.name.as_str()), ("user-1", "Ada"));
/// assert!(user.is_parent() && !user.is_child());
/// # Ok(()) }
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entity {
    /// Its identifier, unique in the table.
    #[serde(deserialize_with = "checked::identifier")]
    pub id: String,
    /// A name for people. Default: the identifier.
    pub name: String,
    /// The entity above it.
    #[serde(default, deserialize_with = "checked::optional_identifier")]
    pub parent_id: Option<String>,
    /// Whatever the application wants to keep with it.
    pub metadata: BTreeMap<String, String>,
    /// When it was created, as RFC 3339 in UTC.
    pub created_at: String,
    /// Whether its acquires charge its parent too, where they do not say.
    #[serde(default)]
    pub cascade: bool,
}

impl Entity {
    /// Whether it has no parent.
    ///
    /// See the example of [`Entity`].
    #[must_use]
    pub fn is_parent(&self) -> bool {
        self.parent_id.is_none()
    }

    /// Whether it has a parent.
    ///
    /// See the example of [`Entity`].
    #[must_use]
    pub fn is_child(&self) -> bool {
        self.parent_id.is_some()
    }

    /// Changes what `change` names.
    pub(crate) fn change(&mut self, change: &EntityChange) {
        let EntityChange {
            name,
            parent_id,
            metadata,
            cascade,
        } = change.clone();
        self.name = name.unwrap_or_else(|| std::mem::take(&mut self.name));
        if let Some(parent_id) = parent_id {
            self.parent_id = parent_id;
        }
        if let Some(metadata) = metadata {
            self.metadata = metadata;
        }
        self.cascade = cascade.unwrap_or(self.cascade);
    }
}

/// What is to become different about an entity; what is none stays as it is.
///
/// ```
/// use zae_limiter::EntityChange;
///
/// let moved = EntityChange {
///     parent_id: Some(Some("project-2".into())),
///     ..EntityChange::default()
/// };
/// let freed = EntityChange {
///     parent_id: Some(None),
///     ..EntityChange::default()
/// };
/// assert_ne!(moved, freed);
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct EntityChange {
    /// Another name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Another parent, or none at all. In JSON, null is no parent, and what is left out stays.
    #[serde(
        deserialize_with = "checked::changed_identifier",
        skip_serializing_if = "Option::is_none"
    )]
    pub parent_id: Option<Option<String>>,
    /// Other metadata, in place of all that there are.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub metadata: Option<BTreeMap<String, String>>,
    /// Whether its acquires charge its parent too.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cascade: Option<bool>,
}

/// Checks the name of an entity: at most [`ENTITY_TEXT_LEN_MAX`] bytes of whatever text.
pub(crate) fn validate_entity_name(name: &str) -> Result<(), ValidationError> {
    if name.len() > ENTITY_TEXT_LEN_MAX {
        let rule = format!("exceeds maximum length of {ENTITY_TEXT_LEN_MAX} bytes");
        return Err(ValidationError::new("name", name, rule));
    }
    Ok(())
}

/// Checks that metadata fit an item: keys are not empty and at most [`ENTITY_TEXT_LEN_MAX`] bytes,
/// all of it at most [`METADATA_LEN_MAX`].
pub(crate) fn validate_metadata(
    metadata: &BTreeMap<String, String>,
) -> Result<(), ValidationError> {
    let wrong_key = |key: &&String| !(1..=ENTITY_TEXT_LEN_MAX).contains(&key.len());
    if let Some(key) = metadata.keys().find(wrong_key) {
        let rule = format!("a key has 1 to {ENTITY_TEXT_LEN_MAX} bytes");
        return Err(ValidationError::new("metadata", key, rule));
    }
    let pairs = metadata.iter();
    let size: usize = pairs.map(|(key, value)| key.len() + value.len() + 8).sum();
    if size > METADATA_LEN_MAX {
        let rule = format!("keys and values exceed {METADATA_LEN_MAX} bytes");
        return Err(ValidationError::new("metadata", size, rule));
    }
    Ok(())
}

/// A time as v0.2.0 wrote it: RFC 3339 in UTC.
pub(crate) fn timestamp(time: WallTime) -> String {
    let time = jiff::Timestamp::from_millisecond(i64::try_from(time.as_millis()).unwrap_or(0));
    time.unwrap_or_default().to_string()
}
