//! Entities, stored limits and audit events: what administrators do with a limiter.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use zae_limiter_core::{ValidationError, validate_identifier};

use crate::entity::{validate_entity_name, validate_metadata};
use crate::store::EntityWrite;
use crate::{
    AuditAction, AuditEvent, Entity, EntityChange, Error, Limit, LimitOwner, LimitScope, Page,
    PageRequest, RateLimiter, checked, validate_stored_limits,
};

impl RateLimiter {
    /// The same limiter for somebody: who is named in the audit events of what is changed
    /// through it.
    ///
    /// ```
    /// use zae_limiter::{NewEntity, PageRequest, RateLimiter};
    ///
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), zae_limiter::Error> {
    /// let limiter = RateLimiter::builder("my-app").in_memory().connect().await?;
    /// let by_ada = limiter.as_principal("ada@example.com")?;
    /// by_ada.create_entity(NewEntity::new("user-1")).await?;
    /// let events = limiter.get_audit_events("user-1", &PageRequest::default()).await?;
    /// assert_eq!(events.items[0].principal.as_deref(), Some("ada@example.com"));
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// [`Error::Validation`] unless it is an identifier.
    pub fn as_principal(&self, principal: &str) -> Result<Self, Error> {
        validate_identifier("principal", principal)?;
        let mut limiter = self.clone();
        limiter.principal = Some(principal.into());
        Ok(limiter)
    }

    /// Creates an entity. Acquires need none: an entity is there to have a parent, a name, or
    /// limits of its own.
    ///
    /// ```
    /// # use zae_limiter::{ErrorKind, NewEntity, RateLimiter};
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), zae_limiter::Error> {
    /// # let limiter = RateLimiter::builder("my-app").in_memory().connect().await?;
    /// let project = limiter.create_entity(NewEntity::new("project-1").name("Project 1")).await?;
    /// assert!(project.is_parent());
    /// limiter.create_entity(NewEntity::new("key-1").parent("project-1")).await?;
    /// let again = limiter.create_entity(NewEntity::new("key-1")).await.unwrap_err();
    /// assert_eq!(again.kind(), ErrorKind::EntityExists);
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// [`Error::Validation`], [`Error::EntityExists`], [`Error::EntityNotFound`] if there is no
    /// such parent, and those of the table.
    pub async fn create_entity(&self, entity: NewEntity) -> Result<Entity, Error> {
        validate_identifier("entity_id", &entity.id)?;
        if let Some(parent_id) = &entity.parent_id {
            validate_parent(&entity.id, parent_id)?;
        }
        entity
            .name
            .as_deref()
            .map_or(Ok(()), validate_entity_name)?;
        validate_metadata(&entity.metadata)?;
        let entity = Entity {
            name: entity.name.unwrap_or_else(|| entity.id.clone()),
            id: entity.id,
            parent_id: entity.parent_id,
            metadata: entity.metadata,
            created_at: crate::entity::timestamp(self.engine.clock.wall()),
            cascade: entity.cascade,
        };
        let event = self.event(AuditAction::EntityCreated, &entity.id);
        let event = event.detail("name", entity.name.as_str());
        let event = match &entity.parent_id {
            Some(parent) => event.detail("parent_id", parent.as_str()),
            None => event,
        };
        let written = self.engine.store.create_entity(&entity, &event).await;
        // Also if it has failed: it may have been done.
        self.engine.catalog.forget_entity(&entity.id).await;
        match (written?, &entity.parent_id) {
            (EntityWrite::Done, _) => Ok(entity),
            (EntityWrite::ParentMissing, Some(parent)) => {
                Err(Error::EntityNotFound(parent.clone()))
            }
            _ => Err(Error::EntityExists(entity.id)),
        }
    }

    /// The entity, if there is one of that id.
    ///
    /// ```
    /// # use zae_limiter::{NewEntity, RateLimiter};
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), zae_limiter::Error> {
    /// # let limiter = RateLimiter::builder("my-app").in_memory().connect().await?;
    /// limiter.create_entity(NewEntity::new("user-1").metadata("plan", "pro")).await?;
    /// let user = limiter.get_entity("user-1").await?.unwrap();
    /// assert_eq!(user.metadata["plan"], "pro");
    /// assert!(limiter.get_entity("nobody").await?.is_none());
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// [`Error::Validation`], and those of the table.
    pub async fn get_entity(&self, id: &str) -> Result<Option<Entity>, Error> {
        validate_identifier("entity_id", id)?;
        Ok(self.engine.store.read_entity(id).await?)
    }

    /// Puts an entity under another parent, or under none. In force everywhere within
    /// `entity_ttl_ms`, and in this process at once.
    ///
    /// ```
    /// # use zae_limiter::{NewEntity, RateLimiter};
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), zae_limiter::Error> {
    /// # let limiter = RateLimiter::builder("my-app").in_memory().connect().await?;
    /// limiter.create_entity(NewEntity::new("project-1")).await?;
    /// limiter.create_entity(NewEntity::new("key-1")).await?;
    /// limiter.set_parent("key-1", Some("project-1")).await?;
    /// assert_eq!(limiter.get_children("project-1").await?[0].id, "key-1");
    /// limiter.set_parent("key-1", None).await?;
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// [`Error::Validation`], [`Error::EntityNotFound`] if the entity or the parent is not
    /// there, and those of the table.
    pub async fn set_parent(&self, id: &str, parent_id: Option<&str>) -> Result<(), Error> {
        validate_identifier("entity_id", id)?;
        if let Some(parent_id) = parent_id {
            validate_parent(id, parent_id)?;
        }
        let change = EntityChange {
            parent_id: Some(parent_id.map(ToOwned::to_owned)),
            ..EntityChange::default()
        };
        let event = self.event(AuditAction::ParentSet, id);
        let event = event.detail("parent_id", parent_id);
        self.update(id, &change, &event).await
    }

    /// Changes what `change` names of an entity: its name, its parent, its metadata (all of it),
    /// or whether it cascades.
    ///
    /// ```
    /// # use zae_limiter::{EntityChange, NewEntity, RateLimiter};
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), zae_limiter::Error> {
    /// # let limiter = RateLimiter::builder("my-app").in_memory().connect().await?;
    /// limiter.create_entity(NewEntity::new("user-1").name("Ada")).await?;
    /// let renamed = EntityChange {
    ///     name: Some("Ada L.".into()),
    ///     ..EntityChange::default()
    /// };
    /// limiter.update_entity("user-1", &renamed).await?;
    /// assert_eq!(limiter.get_entity("user-1").await?.unwrap().name, "Ada L.");
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// As [`set_parent`](Self::set_parent).
    pub async fn update_entity(&self, id: &str, change: &EntityChange) -> Result<(), Error> {
        validate_identifier("entity_id", id)?;
        if let Some(Some(parent_id)) = &change.parent_id {
            validate_parent(id, parent_id)?;
        }
        change
            .name
            .as_deref()
            .map_or(Ok(()), validate_entity_name)?;
        change.metadata.as_ref().map_or(Ok(()), validate_metadata)?;
        let event = self.event(AuditAction::EntityUpdated, id);
        self.update(id, change, &event).await
    }

    async fn update(
        &self,
        id: &str,
        change: &EntityChange,
        event: &AuditEvent,
    ) -> Result<(), Error> {
        let written = self.engine.store.update_entity(id, change, event).await;
        self.engine.catalog.forget_entity(id).await;
        let parent = change.parent_id.clone().flatten();
        match (written?, parent) {
            (EntityWrite::Done, _) => Ok(()),
            (EntityWrite::ParentMissing, Some(parent)) => Err(Error::EntityNotFound(parent)),
            _ => Err(Error::EntityNotFound(id.to_owned())),
        }
    }

    /// Deletes an entity with all that is stored of it: buckets, limits, usage. Its children and
    /// its audit events stay. Tokens that processes hold of its buckets are spendable until they
    /// expire, and do not bring the buckets back.
    ///
    /// ```
    /// # use zae_limiter::{ErrorKind, NewEntity, RateLimiter};
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), zae_limiter::Error> {
    /// # let limiter = RateLimiter::builder("my-app").in_memory().connect().await?;
    /// limiter.create_entity(NewEntity::new("user-1")).await?;
    /// limiter.delete_entity("user-1").await?;
    /// let gone = limiter.delete_entity("user-1").await.unwrap_err();
    /// assert_eq!(gone.kind(), ErrorKind::EntityNotFound);
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// [`Error::Validation`], [`Error::EntityNotFound`] if nothing was there, and those of the
    /// table; then some of it may be gone, and the call can be repeated.
    pub async fn delete_entity(&self, id: &str) -> Result<(), Error> {
        validate_identifier("entity_id", id)?;
        let event = self.event(AuditAction::EntityDeleted, id);
        let found = self.engine.store.delete_entity(id, &event).await;
        self.engine.catalog.forget_entity(id).await;
        if found? {
            Ok(())
        } else {
            Err(Error::EntityNotFound(id.to_owned()))
        }
    }

    /// One page of the entities whose parent this is, in the order of their ids. A child that was
    /// created a moment ago may be missing.
    ///
    /// ```
    /// # use zae_limiter::{NewEntity, PageRequest, RateLimiter};
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), zae_limiter::Error> {
    /// # let limiter = RateLimiter::builder("my-app").in_memory().connect().await?;
    /// limiter.create_entity(NewEntity::new("project-1")).await?;
    /// for key in ["key-1", "key-2", "key-3"] {
    ///     limiter.create_entity(NewEntity::new(key).parent("project-1")).await?;
    /// }
    /// let first = limiter.list_children("project-1", &PageRequest::default().size(2)).await?;
    /// assert_eq!(first.items.len(), 2);
    /// let rest = PageRequest::default().after(first.next.unwrap());
    /// assert_eq!(limiter.list_children("project-1", &rest).await?.items[0].id, "key-3");
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// [`Error::Validation`], and those of the table.
    pub async fn list_children(
        &self,
        parent_id: &str,
        page: &PageRequest,
    ) -> Result<Page<Entity>, Error> {
        validate_identifier("parent_id", parent_id)?;
        Ok(self.engine.store.read_children(parent_id, page).await?)
    }

    /// All entities whose parent this is, however many there are.
    ///
    /// ```
    /// # use zae_limiter::{NewEntity, RateLimiter};
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), zae_limiter::Error> {
    /// # let limiter = RateLimiter::builder("my-app").in_memory().connect().await?;
    /// limiter.create_entity(NewEntity::new("project-1")).await?;
    /// limiter.create_entity(NewEntity::new("key-1").parent("project-1")).await?;
    /// assert_eq!(limiter.get_children("project-1").await?.len(), 1);
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// [`Error::Validation`], and those of the table.
    pub async fn get_children(&self, parent_id: &str) -> Result<Vec<Entity>, Error> {
        let mut children = Vec::new();
        let mut request = PageRequest::default().size(1_000);
        loop {
            let page = self.list_children(parent_id, &request).await?;
            children.extend(page.items);
            match page.next {
                Some(next) => request = request.after(next),
                None => return Ok(children),
            }
        }
    }

    /// Stores limits for a scope, in place of those that were there. Readers see the old set or
    /// the new one, never a part. In force everywhere within `limits_ttl_ms`, and in this process
    /// at once: buckets keep their level, cut to the new burst.
    ///
    /// ```
    /// # use zae_limiter::{Limit, LimitScope, RateLimiter};
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), zae_limiter::Error> {
    /// # let limiter = RateLimiter::builder("my-app").in_memory().connect().await?;
    /// let limits = [Limit::per_minute("rpm", 100)?, Limit::per_minute("tpm", 10_000)?];
    /// limiter.set_limits(&LimitScope::entity("user-1")?, &limits).await?; // any resource
    /// let gpt_4 = LimitScope::entity("user-1")?.on("gpt-4")?;
    /// limiter.set_limits(&gpt_4, &[Limit::per_minute("rpm", 10)?]).await?;
    /// let acquire = limiter.acquire("user-1", "gpt-4").use_stored_limits(true);
    /// assert!(acquire.consume("rpm", 11).await.is_err());
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// [`Error::Validation`] if there are none, or too many, or two of a name; and those of the
    /// table.
    pub async fn set_limits(&self, scope: &LimitScope, limits: &[Limit]) -> Result<(), Error> {
        if limits.is_empty() {
            let rule = "there are none; delete_limits deletes a set";
            return Err(ValidationError::new("limits", "[]", rule).into());
        }
        validate_stored_limits(limits)?;
        let owner = scope.owner();
        let event = self.event(AuditAction::LimitsSet, &owner.audit_id());
        let names: Vec<&str> = limits.iter().map(Limit::name).collect();
        let event = on_resource(event, scope).detail("limits", names);
        let written = self.engine.store.write_limits(scope, limits, &event).await;
        self.engine.catalog.forget_limits(&owner).await;
        written?;
        Ok(())
    }

    /// The limits stored for exactly this scope; empty if there are none.
    ///
    /// ```
    /// # use zae_limiter::{Limit, LimitScope, RateLimiter};
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), zae_limiter::Error> {
    /// # let limiter = RateLimiter::builder("my-app").in_memory().connect().await?;
    /// let limits = [Limit::per_minute("rpm", 100)?];
    /// let scope = LimitScope::resource("gpt-4")?;
    /// limiter.set_limits(&scope, &limits).await?;
    /// assert_eq!(limiter.get_limits(&scope).await?, limits);
    /// assert!(limiter.get_limits(&LimitScope::system()).await?.is_empty());
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// Those of the table.
    pub async fn get_limits(&self, scope: &LimitScope) -> Result<Vec<Limit>, Error> {
        let sets = self.engine.store.read_limits(&scope.owner()).await?;
        let found = sets.into_iter().find(|(found, _)| found == scope);
        Ok(found.map_or_else(Vec::new, |(_, limits)| limits))
    }

    /// Deletes the limits stored for a scope. Returns whether there were any.
    ///
    /// ```
    /// # use zae_limiter::{Limit, LimitScope, RateLimiter};
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), zae_limiter::Error> {
    /// # let limiter = RateLimiter::builder("my-app").in_memory().connect().await?;
    /// let scope = LimitScope::system();
    /// limiter.set_limits(&scope, &[Limit::per_minute("rpm", 100)?]).await?;
    /// assert!(limiter.delete_limits(&scope).await?);
    /// assert!(!limiter.delete_limits(&scope).await?);
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// Those of the table.
    pub async fn delete_limits(&self, scope: &LimitScope) -> Result<bool, Error> {
        let owner = scope.owner();
        let event = self.event(AuditAction::LimitsDeleted, &owner.audit_id());
        let event = on_resource(event, scope);
        let found = self.engine.store.write_limits(scope, &[], &event).await;
        self.engine.catalog.forget_limits(&owner).await;
        Ok(found?)
    }

    /// Forgets what this process remembers of entities and stored limits: the next acquires ask
    /// the table.
    ///
    /// ```
    /// # use zae_limiter::{Limit, LimitScope, RateLimiter};
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), zae_limiter::Error> {
    /// # let limiter = RateLimiter::builder("my-app").in_memory().connect().await?;
    /// # let told_by_an_administrator = true;
    /// if told_by_an_administrator {
    ///     limiter.forget_stored(); // sooner than limits_ttl_ms
    /// }
    /// # Ok(()) }
    /// ```
    pub fn forget_stored(&self) {
        self.engine.catalog.forget_all();
    }

    /// One page of what was done to an entity, the newest first. Changes of limits that are not
    /// an entity's are found under [`LimitOwner::audit_id`](crate::LimitOwner::audit_id). Events
    /// are kept for 90 days.
    ///
    /// ```
    /// # use zae_limiter::{AuditAction, Limit, LimitScope, PageRequest, RateLimiter};
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), zae_limiter::Error> {
    /// # let limiter = RateLimiter::builder("my-app").in_memory().connect().await?;
    /// let operator = limiter.as_principal("ops@example.com")?;
    /// let scope = LimitScope::entity("user-1")?;
    /// operator.set_limits(&scope, &[Limit::per_minute("rpm", 100)?]).await?;
    /// let events = limiter.get_audit_events("user-1", &PageRequest::default()).await?;
    /// assert_eq!(events.items[0].action, AuditAction::LimitsSet);
    /// assert_eq!(events.items[0].principal.as_deref(), Some("ops@example.com"));
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// [`Error::Validation`], and those of the table.
    pub async fn get_audit_events(
        &self,
        entity_id: &str,
        page: &PageRequest,
    ) -> Result<Page<AuditEvent>, Error> {
        LimitOwner::of_audit_id(entity_id)?;
        Ok(self.engine.store.read_audit_events(entity_id, page).await?)
    }

    fn event(&self, action: AuditAction, entity_id: &str) -> AuditEvent {
        let event = AuditEvent::new(action, entity_id, self.engine.clock.wall());
        match &self.principal {
            Some(principal) => event.principal(&**principal),
            None => event,
        }
    }
}

fn on_resource(event: AuditEvent, scope: &LimitScope) -> AuditEvent {
    match scope.resource_name() {
        Some(resource) => event.resource(resource),
        None => event,
    }
}

fn validate_parent(id: &str, parent_id: &str) -> Result<(), ValidationError> {
    validate_identifier("parent_id", parent_id)?;
    if parent_id == id {
        let rule = "an entity cannot be its own parent";
        return Err(ValidationError::new("parent_id", parent_id, rule));
    }
    Ok(())
}

/// An entity that is to be created.
///
/// ```
/// use zae_limiter::{NewEntity, RateLimiter};
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), zae_limiter::Error> {
/// let limiter = RateLimiter::builder("my-app").in_memory().connect().await?;
/// limiter.create_entity(NewEntity::new("project-1").name("Project 1")).await?;
/// limiter.create_entity(NewEntity::new("api-key-123").parent("project-1")).await?;
/// let key = limiter.get_entity("api-key-123").await?.unwrap();
/// assert_eq!(key.parent_id.as_deref(), Some("project-1"));
/// # Ok(()) }
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[must_use]
pub struct NewEntity {
    #[serde(deserialize_with = "checked::identifier")]
    id: String,
    name: Option<String>,
    #[serde(default, deserialize_with = "checked::optional_identifier")]
    parent_id: Option<String>,
    #[serde(default)]
    metadata: BTreeMap<String, String>,
    #[serde(default)]
    cascade: bool,
}

impl NewEntity {
    /// An entity of this id.
    ///
    /// See the example of [`NewEntity`].
    pub fn new(id: impl Into<String>) -> Self {
        Self {
            id: id.into(),
            name: None,
            parent_id: None,
            metadata: BTreeMap::new(),
            cascade: false,
        }
    }

    /// A name for people. Default: the id.
    ///
    /// See the example of [`NewEntity`].
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = Some(name.into());
        self
    }

    /// The entity above it. Default: none.
    ///
    /// See the example of [`NewEntity`].
    pub fn parent(mut self, id: impl Into<String>) -> Self {
        self.parent_id = Some(id.into());
        self
    }

    /// Something to keep with it. Default: nothing.
    ///
    /// ```
    /// # use zae_limiter::{NewEntity};
    /// let user = NewEntity::new("user-1").metadata("plan", "pro").metadata("team", "search");
    /// ```
    pub fn metadata(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.metadata.insert(key.into(), value.into());
        self
    }

    /// Whether acquires that do not say charge the parent too
    /// ([`Settings::cascade_by_entity`](crate::Settings::cascade_by_entity)). Default: false.
    ///
    /// ```
    /// # use zae_limiter::{Limit, NewEntity, RateLimiter, Settings};
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), zae_limiter::Error> {
    /// let settings = Settings { cascade_by_entity: true, ..Settings::default() };
    /// let limiter = RateLimiter::builder("my-app").in_memory().settings(settings).connect().await?;
    /// limiter.create_entity(NewEntity::new("project-1")).await?;
    /// limiter.create_entity(NewEntity::new("key-1").parent("project-1").cascade(true)).await?;
    /// let limits = [Limit::per_day("jobs", 10)?];
    /// limiter.acquire("key-1", "batch").limits(&limits).consume("jobs", 8).await?.commit();
    /// let project = limiter.available("project-1", "batch", &limits).await?;
    /// assert_eq!(project[0].estimate, 2);
    /// # Ok(()) }
    /// ```
    pub fn cascade(mut self, cascade: bool) -> Self {
        self.cascade = cascade;
        self
    }
}
