//! Stored limits: which limits hold where an acquire brings none, and whose they are.

use std::fmt;

use serde::{Deserialize, Serialize};
use zae_limiter_core::{ValidationError, schema, validate_identifier, validate_name};

use crate::{Limit, checked};

/// The most limits in a stored set: as many as fit one bucket.
///
/// See the example of [`validate_stored_limits`].
pub const STORED_LIMITS_MAX: usize = zae_limiter_core::LIMITS_MAX;

/// What stands for an entity in events of the limits of all.
const AUDIT_SYSTEM: &str = "$SYSTEM";
/// What stands for one in events of the limits of a resource, before its name.
const AUDIT_RESOURCE: &str = "$RESOURCE:";

/// Where stored limits hold: for an entity and a resource, for an entity and any resource, for a
/// resource and any entity, or for all.
///
/// ```
/// use zae_limiter::LimitScope;
///
/// let own = LimitScope::entity("user-1")?.on("gpt-4")?;
/// let default = LimitScope::entity("user-1")?;
/// let everybody = LimitScope::resource("gpt-4")?;
/// assert_eq!(everybody, LimitScope::system().on("gpt-4")?);
/// assert_eq!(own.owner(), default.owner());
/// assert!(LimitScope::entity("a#b").is_err());
/// # Ok::<(), zae_limiter::ValidationError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "ScopeFields", into = "ScopeFields")]
pub struct LimitScope {
    entity_id: Option<String>,
    resource: Option<String>,
}

/// Who stored limits belong to: all sets of an owner are read at once.
///
/// ```
/// # use zae_limiter::{Limit, LimitOwner, LimitScope, PageRequest, RateLimiter};
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), zae_limiter::Error> {
/// # let limiter = RateLimiter::builder("my-app").in_memory().connect().await?;
/// let scope = LimitScope::resource("gpt-4")?;
/// assert_eq!(scope.owner(), LimitOwner::Resource("gpt-4".into()));
/// limiter.set_limits(&scope, &[Limit::per_minute("rpm", 100)?]).await?;
/// let id = scope.owner().audit_id();
/// let changes = limiter.get_audit_events(&id, &PageRequest::default()).await?;
/// assert_eq!(changes.items.len(), 1);
/// # Ok(()) }
/// ```
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LimitOwner {
    /// An entity.
    Entity(#[serde(deserialize_with = "checked::identifier")] String),
    /// A resource.
    Resource(#[serde(deserialize_with = "checked::name")] String),
    /// The whole table.
    System,
}

#[derive(Serialize, Deserialize)]
struct ScopeFields {
    entity_id: Option<String>,
    resource: Option<String>,
}

impl TryFrom<ScopeFields> for LimitScope {
    type Error = ValidationError;
    fn try_from(fields: ScopeFields) -> Result<Self, ValidationError> {
        let scope = match fields.entity_id {
            None => Self::system(),
            Some(id) => Self::entity(id)?,
        };
        match fields.resource {
            None => Ok(scope),
            Some(resource) => scope.on(resource),
        }
    }
}

impl From<LimitScope> for ScopeFields {
    fn from(scope: LimitScope) -> Self {
        Self {
            entity_id: scope.entity_id,
            resource: scope.resource,
        }
    }
}

impl LimitScope {
    /// Any entity and any resource.
    ///
    /// See the example of [`LimitScope`].
    #[must_use]
    pub fn system() -> Self {
        Self {
            entity_id: None,
            resource: None,
        }
    }

    /// Any entity, for one resource.
    ///
    /// See the example of [`LimitScope`].
    ///
    /// # Errors
    /// [`ValidationError`] if it is not a valid name.
    pub fn resource(resource: impl Into<String>) -> Result<Self, ValidationError> {
        Self::system().on(resource)
    }

    /// One entity, for any resource.
    ///
    /// See the example of [`LimitScope`].
    ///
    /// # Errors
    /// [`ValidationError`] if it is not a valid identifier.
    pub fn entity(id: impl Into<String>) -> Result<Self, ValidationError> {
        let id = id.into();
        validate_identifier("entity_id", &id)?;
        Ok(Self {
            entity_id: Some(id),
            resource: None,
        })
    }

    /// The same entity or entities, for one resource.
    ///
    /// See the example of [`LimitScope`].
    ///
    /// # Errors
    /// [`ValidationError`] if it is not a valid name.
    pub fn on(self, resource: impl Into<String>) -> Result<Self, ValidationError> {
        let resource = resource.into();
        validate_name("resource", &resource)?;
        Ok(Self {
            resource: Some(resource),
            ..self
        })
    }

    /// The only entity that they hold for, if it is only one.
    ///
    /// ```
    /// # use zae_limiter::{LimitScope};
    /// let scope = LimitScope::entity("user-1")?.on("gpt-4")?;
    /// assert_eq!((scope.entity_id(), scope.resource_name()), (Some("user-1"), Some("gpt-4")));
    /// # Ok::<(), zae_limiter::Error>(())
    /// ```
    #[must_use]
    pub fn entity_id(&self) -> Option<&str> {
        self.entity_id.as_deref()
    }

    /// The only resource that they hold for, if it is only one.
    ///
    /// See the example of [`entity_id`](Self::entity_id).
    #[must_use]
    pub fn resource_name(&self) -> Option<&str> {
        self.resource.as_deref()
    }

    /// Who they belong to.
    ///
    /// See the example of [`LimitOwner`].
    #[must_use]
    pub fn owner(&self) -> LimitOwner {
        match (&self.entity_id, &self.resource) {
            (Some(id), _) => LimitOwner::Entity(id.clone()),
            (None, Some(resource)) => LimitOwner::Resource(resource.clone()),
            (None, None) => LimitOwner::System,
        }
    }

    /// What stands for the resource in the keys of the table.
    pub(crate) fn resource_key(&self) -> &str {
        self.resource.as_deref().unwrap_or(schema::DEFAULT_RESOURCE)
    }
}

impl fmt::Display for LimitScope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.owner())?;
        match (&self.entity_id, &self.resource) {
            (Some(_), Some(resource)) => write!(f, " for resource {resource}"),
            _ => Ok(()),
        }
    }
}

impl LimitOwner {
    /// What changes of its limits are recorded under, as the entity of an audit event: the
    /// entity's identifier, `$RESOURCE:gpt-4`, or `$SYSTEM`, which no entity can be called.
    ///
    /// See the example of [`LimitOwner`].
    #[must_use]
    pub fn audit_id(&self) -> String {
        match self {
            Self::Entity(id) => id.clone(),
            Self::Resource(resource) => format!("{AUDIT_RESOURCE}{resource}"),
            Self::System => AUDIT_SYSTEM.to_owned(),
        }
    }

    /// The owner whose [`audit_id`](Self::audit_id) it is.
    pub(crate) fn of_audit_id(id: &str) -> Result<Self, ValidationError> {
        if id == AUDIT_SYSTEM {
            return Ok(Self::System);
        }
        if let Some(resource) = id.strip_prefix(AUDIT_RESOURCE) {
            validate_name("resource", resource)?;
            return Ok(Self::Resource(resource.to_owned()));
        }
        validate_identifier("entity_id", id)?;
        Ok(Self::Entity(id.to_owned()))
    }

    /// The partition that its limits are in.
    pub(crate) fn partition(&self) -> String {
        match self {
            Self::Entity(id) => schema::entity(id),
            Self::Resource(resource) => schema::resource(resource),
            Self::System => schema::SYSTEM.to_owned(),
        }
    }

    /// The scope of its limits whose keys say `resource`; none if there is no such scope.
    pub(crate) fn scope(&self, resource: &str) -> Option<LimitScope> {
        let default = resource == schema::DEFAULT_RESOURCE;
        match self {
            Self::Entity(id) if default => LimitScope::entity(id).ok(),
            Self::Entity(id) => LimitScope::entity(id).ok()?.on(resource).ok(),
            Self::Resource(own) if own == resource => LimitScope::resource(resource).ok(),
            Self::System if default => Some(LimitScope::system()),
            _ => None,
        }
    }
}

impl fmt::Display for LimitOwner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Entity(id) => write!(f, "entity {id}"),
            Self::Resource(resource) => write!(f, "resource {resource}"),
            Self::System => f.write_str("the system"),
        }
    }
}

/// Checks that `limits` can be stored as one set: at most [`STORED_LIMITS_MAX`], and no two of
/// one name.
///
/// ```
/// use zae_limiter::{Limit, STORED_LIMITS_MAX, validate_stored_limits};
///
/// let limit = |i| Limit::per_minute(&format!("limit-{i}"), 100);
/// let limits = (0..=STORED_LIMITS_MAX).map(limit).collect::<Result<Vec<_>, _>>()?;
/// assert!(validate_stored_limits(&limits[1..]).is_ok());
/// assert!(validate_stored_limits(&limits).is_err());
/// # Ok::<(), zae_limiter::Error>(())
/// ```
///
/// # Errors
/// [`ValidationError`] names the rule that they break.
pub fn validate_stored_limits(limits: &[Limit]) -> Result<(), ValidationError> {
    if limits.len() > STORED_LIMITS_MAX {
        let rule = format!("at most {STORED_LIMITS_MAX} limits can be stored as one set");
        return Err(ValidationError::new("limits", limits.len(), rule));
    }
    for (i, limit) in limits.iter().enumerate() {
        if limits[..i].iter().any(|other| other.name() == limit.name()) {
            let rule = "two limits of one set cannot have the same name";
            return Err(ValidationError::new("limit name", limit.name(), rule));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// B15 of the Python library.
    #[test]
    fn a_delimiter_is_never_part_of_a_scope() {
        assert!(LimitScope::entity("a#b").is_err());
        assert!(LimitScope::resource("a#b").is_err());
        let entity = LimitScope::entity("a").unwrap();
        assert!(entity.clone().on("a#b").is_err());
        // It would be the entity's default by another name.
        assert!(entity.on(schema::DEFAULT_RESOURCE).is_err());
        for json in [
            r#"{"entity_id":"a#b","resource":null}"#,
            r#"{"entity_id":null,"resource":"_default_"}"#,
        ] {
            assert!(serde_json::from_str::<LimitScope>(json).is_err(), "{json}");
        }
    }

    #[test]
    fn a_scope_is_found_again_by_its_owner_and_key() {
        for scope in [
            LimitScope::system(),
            LimitScope::resource("gpt-4").unwrap(),
            LimitScope::entity("user-1").unwrap(),
            LimitScope::entity("user-1").unwrap().on("gpt-4").unwrap(),
        ] {
            let found = scope.owner().scope(scope.resource_key());
            assert_eq!(found.as_ref(), Some(&scope));
            let owner = scope.owner();
            assert_eq!(LimitOwner::of_audit_id(&owner.audit_id()), Ok(owner));
            let json = serde_json::to_string(&scope).unwrap();
            assert_eq!(serde_json::from_str::<LimitScope>(&json).unwrap(), scope);
        }
        assert_eq!(LimitOwner::System.scope("gpt-4"), None);
        assert_eq!(LimitOwner::Resource("a".into()).scope("b"), None);
        assert_eq!(LimitOwner::Entity("a".into()).scope("x#y"), None);
    }

    #[test]
    fn a_set_has_a_size_and_no_name_twice() {
        let limit = |i: usize| Limit::per_second(&format!("l{i}"), 1).unwrap();
        let limits: Vec<_> = (0..=STORED_LIMITS_MAX).map(limit).collect();
        validate_stored_limits(&limits[..STORED_LIMITS_MAX]).unwrap();
        let error = validate_stored_limits(&limits).unwrap_err().to_string();
        assert!(error.contains("at most 16"), "{error}");
        let error = validate_stored_limits(&[limit(1), limit(2), limit(1)]).unwrap_err();
        assert_eq!((error.field(), error.value()), ("limit name", "l1"));
    }
}
