//! What the table says of entities and of stored limits, remembered for a while.
//!
//! What is not there is remembered too, and callers who ask for the same at the same time share one
//! read. No caller may drive that read, because a caller may stop polling: it runs as a task of its own
//! (`Engine::load`). What has become old is asked for anew; if the table cannot be reached, the old answer
//! holds on.

mod answers;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::time;
use zae_limiter_core::Clock;

use self::answers::{Answers, Counts};
use crate::metrics::Metrics;
use crate::settings::Settings;
use crate::store::{Store, StoreError, StoreErrorKind};
use crate::{Entity, Limit, LimitOwner, LimitScope};

/// What an acquire needs to know of an entity.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Family {
    /// The entity above it.
    pub(crate) parent: Option<Arc<str>>,
    /// Whether it is charged where the call does not say.
    pub(crate) cascade: bool,
}

impl Family {
    /// An entity that is not there has no parent, and none is its own.
    fn of(id: &str, entity: Option<Entity>) -> Self {
        entity.map_or_else(Self::default, |entity| Self {
            parent: entity.parent_id.filter(|p| p != id).map(Arc::from),
            cascade: entity.cascade,
        })
    }
}

/// All sets of limits of an owner.
type Sets = Arc<HashMap<LimitScope, Arc<[Limit]>>>;

/// What is remembered of a table.
#[derive(Debug)]
pub(crate) struct Catalog {
    families: Answers<String, Arc<Family>>,
    limits: Answers<LimitOwner, Sets>,
    counts: Arc<Counts>,
    /// How long the table may take to answer.
    timeout: Duration,
}

impl Catalog {
    pub(crate) fn new(settings: &Settings) -> Self {
        let counts = Arc::<Counts>::default();
        let (ttl, max) = (Duration::from_millis, settings.catalog_entries_max);
        Self {
            families: Answers::new(ttl(settings.entity_ttl_ms), max, &counts),
            limits: Answers::new(ttl(settings.limits_ttl_ms), max, &counts),
            counts,
            timeout: ttl(settings.acquire_timeout_ms),
        }
    }

    /// A read that is given up if the table does not answer: others wait for it.
    async fn in_time<T>(
        &self,
        read: impl Future<Output = Result<T, StoreError>>,
    ) -> Result<T, StoreError> {
        let timeout = self.timeout;
        let read = time::timeout(timeout, read).await;
        read.unwrap_or_else(|_| {
            let message = format!("no answer within {timeout:?}");
            Err(StoreError::new(StoreErrorKind::Unreachable, message))
        })
    }

    /// Adds what has been counted here.
    pub(crate) fn count(&self, metrics: &mut Metrics) {
        metrics.catalog_hits = self.counts.hits.get();
        metrics.catalog_misses = self.counts.misses.get();
        metrics.catalog_loads = self.counts.loads.get();
        metrics.catalog_coalesced = self.counts.coalesced.get();
        metrics.catalog_evictions = self.counts.evictions.get();
        metrics.catalog_entries = self.families.len() + self.limits.len();
    }

    /// The family of an entity, if it is known; an old answer too, if `old` will do.
    pub(crate) fn known_family(&self, clock: &Clock, id: &str, old: bool) -> Option<Arc<Family>> {
        self.families.known(clock.now(), &id.to_owned(), old)
    }

    pub(crate) async fn family(
        &self,
        store: &dyn Store,
        clock: &Clock,
        id: &str,
    ) -> Result<Arc<Family>, Arc<StoreError>> {
        let load = async || {
            let entity = self.in_time(store.read_entity(id)).await?;
            Ok(Arc::new(Family::of(id, entity)))
        };
        self.families.get(clock, &id.to_owned(), load).await
    }

    /// The stored limits of an entity for a resource, if it is known which they are; an old
    /// answer too, if `old` will do.
    #[allow(clippy::option_option)] // not known, or known to be none
    pub(crate) fn known_limits(
        &self,
        clock: &Clock,
        scopes: &[LimitScope],
        old: bool,
    ) -> Option<Option<Arc<[Limit]>>> {
        for scope in scopes {
            let sets = self.limits.known(clock.now(), &scope.owner(), old)?;
            if let Some(limits) = sets.get(scope) {
                return Some(Some(limits.clone()));
            }
        }
        Some(None)
    }

    /// The limits stored for the first of `scopes` that has any.
    pub(crate) async fn limits(
        &self,
        store: &dyn Store,
        clock: &Clock,
        scopes: &[LimitScope],
    ) -> Result<Option<Arc<[Limit]>>, Arc<StoreError>> {
        for scope in scopes {
            let owner = scope.owner();
            let load = async || {
                let sets = self.in_time(store.read_limits(&owner)).await?;
                let share = |(scope, limits): (LimitScope, Vec<Limit>)| (scope, limits.into());
                Ok(Arc::new(sets.into_iter().map(share).collect()))
            };
            let sets: Sets = self.limits.get(clock, &owner, load).await?;
            if let Some(limits) = sets.get(scope) {
                return Ok(Some(limits.clone()));
            }
        }
        Ok(None)
    }

    /// Forgets what is known of an entity.
    pub(crate) async fn forget_entity(&self, id: &str) {
        self.families.forget(&id.to_owned()).await;
        self.limits.forget(&LimitOwner::Entity(id.to_owned())).await;
    }

    /// Forgets the limits of an owner.
    pub(crate) async fn forget_limits(&self, owner: &LimitOwner) {
        self.limits.forget(owner).await;
    }

    /// Forgets everything.
    pub(crate) fn forget_all(&self) {
        self.families.forget_all();
        self.limits.forget_all();
    }
}
