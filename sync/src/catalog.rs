//! What the table says of entities and of stored limits, remembered for a while.
//!
//! What is not there is remembered too, and whoever asks for the same at the same time shares one
//! read. What has become old is asked for anew; if the table cannot be reached, the old answer
//! holds on.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use moka::future::Cache;
use zae_limiter_core::{Clock, MonotonicTime};

use crate::metrics::Counter;
use crate::store::{Store, StoreError};
use crate::{Entity, Limit, LimitOwner, LimitScope};

/// How many entities, and how many owners of limits, are remembered.
const ENTRIES_MAX: u64 = 1_000_000;
/// How long an old answer is kept for the case that no new one is to be had.
const KEPT_FOR: Duration = Duration::from_secs(3_600);
/// How soon a failed look is repeated.
const AGAIN_AFTER: Duration = Duration::from_secs(1);

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

#[derive(Clone, Debug)]
struct Aged<T> {
    value: T,
    fresh_until: MonotonicTime,
}

/// A cache of one sort of answer.
struct Answers<K, T> {
    cache: Cache<K, Aged<T>>,
    ttl: Duration,
}

impl<K, T> fmt::Debug for Answers<K, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Answers")
            .field("ttl", &self.ttl)
            .finish_non_exhaustive()
    }
}

impl<K, T> Answers<K, T>
where
    K: std::hash::Hash + Eq + Clone + Send + Sync + 'static,
    T: Clone + Send + Sync + 'static,
{
    fn new(ttl: Duration) -> Self {
        let cache = Cache::builder()
            .max_capacity(ENTRIES_MAX)
            .time_to_live(ttl.max(KEPT_FOR));
        Self {
            cache: cache.build(),
            ttl,
        }
    }

    /// What is known, and whether it is fresh. Never waits.
    fn known(&self, now: MonotonicTime, key: &K) -> Option<(T, bool)> {
        use std::task::{Context, Poll, Waker};
        // A lookup in the cache is ready at the first poll: it waits for nobody.
        let found = std::pin::pin!(self.cache.get(key));
        match found.poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(found) => found.map(|aged| (aged.value, now < aged.fresh_until)),
            Poll::Pending => None,
        }
    }

    async fn get(
        &self,
        clock: &Clock,
        key: &K,
        load: impl Future<Output = Result<T, StoreError>>,
    ) -> Result<T, Arc<StoreError>> {
        let old = match self.known(clock.now(), key) {
            Some((value, true)) => return Ok(value),
            Some((value, false)) => {
                self.cache.invalidate(key).await;
                Some(value)
            }
            None => None,
        };
        let fresh = async {
            Ok(Aged {
                value: load.await?,
                fresh_until: clock.now().after(self.ttl),
            })
        };
        match (self.cache.try_get_with_by_ref(key, fresh).await, old) {
            (Ok(aged), _) => Ok(aged.value),
            (Err(_), Some(value)) => {
                let fresh_until = clock.now().after(AGAIN_AFTER);
                let aged = Aged {
                    value: value.clone(),
                    fresh_until,
                };
                self.cache.insert(key.clone(), aged).await;
                Ok(value)
            }
            (Err(error), None) => Err(error),
        }
    }
}

/// What is remembered of a table.
#[derive(Debug)]
pub(crate) struct Catalog {
    families: Answers<String, Arc<Family>>,
    limits: Answers<LimitOwner, Sets>,
    /// Reads of the table.
    pub(crate) loads: Counter,
}

impl Catalog {
    pub(crate) fn new(entity_ttl: Duration, limits_ttl: Duration) -> Self {
        Self {
            families: Answers::new(entity_ttl),
            limits: Answers::new(limits_ttl),
            loads: Counter::default(),
        }
    }

    /// How many entities and owners of limits are remembered, about.
    pub(crate) fn len(&self) -> u64 {
        self.families.cache.entry_count() + self.limits.cache.entry_count()
    }

    /// The family of an entity, if it is known; an old answer too, if `old` will do.
    pub(crate) fn known_family(&self, clock: &Clock, id: &str, old: bool) -> Option<Arc<Family>> {
        let (family, fresh) = self.families.known(clock.now(), &id.to_owned())?;
        (fresh || old).then_some(family)
    }

    pub(crate) async fn family(
        &self,
        store: &dyn Store,
        clock: &Clock,
        id: &str,
    ) -> Result<Arc<Family>, Arc<StoreError>> {
        let load = async {
            self.loads.add_one();
            let entity = store.read_entity(id).await?;
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
            let (sets, fresh) = self.limits.known(clock.now(), &scope.owner())?;
            if !fresh && !old {
                return None;
            }
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
            let load = async {
                self.loads.add_one();
                let sets = store.read_limits(&owner).await?;
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
        self.families.cache.invalidate(id).await;
        let owner = LimitOwner::Entity(id.to_owned());
        self.limits.cache.invalidate(&owner).await;
    }

    /// Forgets the limits of an owner.
    pub(crate) async fn forget_limits(&self, owner: &LimitOwner) {
        self.limits.cache.invalidate(owner).await;
    }

    /// Forgets everything.
    pub(crate) fn forget_all(&self) {
        self.families.cache.invalidate_all();
        self.limits.cache.invalidate_all();
    }
}
