//! How much of a resource all its entities have left.

use std::collections::HashSet;

use serde::{Deserialize, Serialize};
use zae_limiter_core::item::BucketItem;
use zae_limiter_core::validate_name;

use crate::{Error, Page, PageRequest, RateLimiter};

/// Entities per page when all are asked for.
const PAGE: u32 = 500;

/// How much one entity has left of a limit.
///
/// ```
/// # use zae_limiter::{EntityCapacity};
/// let key = EntityCapacity { entity_id: "key-1".into(), capacity: 100, available: 25 };
/// assert_eq!(key.utilization_pct(), 75.0);
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EntityCapacity {
    /// Which entity.
    pub entity_id: String,
    /// Tokens per period, as declared.
    pub capacity: u64,
    /// Tokens that the table holds; negative: debt. Up to the burst, which may be more than the
    /// capacity.
    pub available: i64,
}

/// How much the entities that use a resource have left of a limit, each and together
/// ([`RateLimiter::get_resource_capacity`]).
///
/// See the example there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResourceCapacity {
    /// Of what.
    pub resource: String,
    /// The limit's name.
    pub limit_name: String,
    /// The capacities of all, added up.
    pub total_capacity: u64,
    /// What is available of all, added up.
    pub total_available: i64,
    /// Each entity, in the order of the identifiers.
    pub entities: Vec<EntityCapacity>,
}

impl EntityCapacity {
    /// The part of the capacity that is used, in percent: above 100 in debt, never below 0.
    ///
    /// See the example of [`EntityCapacity`].
    #[must_use]
    pub fn utilization_pct(&self) -> f64 {
        utilization_pct(self.capacity, self.available)
    }
}

impl ResourceCapacity {
    /// The part of the total capacity that is used, in percent: above 100 in debt, never below 0,
    /// and 0 without any entity.
    ///
    /// See the example of [`RateLimiter::get_resource_capacity`].
    #[must_use]
    pub fn utilization_pct(&self) -> f64 {
        utilization_pct(self.total_capacity, self.total_available)
    }
}

#[allow(clippy::cast_precision_loss)] // a share in percent
fn utilization_pct(capacity: u64, available: i64) -> f64 {
    if capacity == 0 {
        return 0.0;
    }
    let capacity = capacity as f64;
    ((capacity - available as f64) / capacity * 100.0).max(0.0)
}

impl RateLimiter {
    /// How much all entities that use a resource have left of a limit, however many they are;
    /// with `parents_only`, those that were created and have no parent.
    ///
    /// What the table knows counts: an entity that has not acquired anything of the resource yet,
    /// or not for so long that the table has forgotten its full bucket, is not among them, and one
    /// that has just begun may be missing, for the list comes from an index that is a moment
    /// behind. The numbers themselves are not, but each is of its own moment. Tokens that
    /// processes hold in blocks count as used.
    ///
    /// ```
    /// use zae_limiter::{Limit, Mode, RateLimiter};
    ///
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), zae_limiter::Error> {
    /// let limiter = RateLimiter::builder("my-app").in_memory().mode(Mode::Strict).connect().await?;
    /// let limits = [Limit::per_day("tokens", 100)?];
    /// for (user, tokens) in [("ada", 30), ("bob", 50)] {
    ///     let acquire = limiter.acquire(user, "gpt-4").limits(&limits);
    ///     acquire.consume("tokens", tokens).await.map(drop)?;
    /// }
    /// let capacity = limiter.get_resource_capacity("gpt-4", "tokens", false).await?;
    /// assert_eq!((capacity.total_capacity, capacity.total_available), (200, 120));
    /// assert_eq!(capacity.utilization_pct(), 40.0);
    /// assert_eq!(capacity.entities[1].entity_id, "bob");
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// [`Error::Validation`], and those of the table.
    pub async fn get_resource_capacity(
        &self,
        resource: &str,
        limit_name: &str,
        parents_only: bool,
    ) -> Result<ResourceCapacity, Error> {
        let mut all = ResourceCapacity {
            resource: resource.to_owned(),
            limit_name: limit_name.to_owned(),
            total_capacity: 0,
            total_available: 0,
            entities: Vec::new(),
        };
        let mut request = PageRequest::default().size(PAGE);
        loop {
            let page = self.list_resource_capacity(resource, limit_name, parents_only, &request);
            let page = page.await?;
            for entity in &page.items {
                all.total_capacity = all.total_capacity.saturating_add(entity.capacity);
                all.total_available = all.total_available.saturating_add(entity.available);
            }
            all.entities.extend(page.items);
            match page.next {
                Some(next) => request = request.after(next),
                None => return Ok(all),
            }
        }
    }

    /// One page of the entities that [`get_resource_capacity`](Self::get_resource_capacity) adds
    /// up, for who has too many to hold at once. Buckets without the limit, and with
    /// `parents_only` children, leave gaps: a page may be short, even empty, with more to come.
    ///
    /// ```
    /// # use zae_limiter::{Limit, Mode, PageRequest, RateLimiter};
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), zae_limiter::Error> {
    /// # let limiter = RateLimiter::builder("my-app").in_memory().mode(Mode::Strict).connect().await?;
    /// # let limits = [Limit::per_day("tokens", 100)?];
    /// for user in ["ada", "bob", "eve"] {
    ///     let acquire = limiter.acquire(user, "gpt-4").limits(&limits);
    ///     acquire.consume("tokens", 90).await?.commit();
    /// }
    /// let mut request = PageRequest::default().size(2);
    /// loop {
    ///     let page = limiter.list_resource_capacity("gpt-4", "tokens", false, &request).await?;
    ///     for user in page.items {
    ///         println!("{}: {} left", user.entity_id, user.available);
    ///     }
    ///     match page.next {
    ///         Some(next) => request = request.after(next),
    ///         None => break,
    ///     }
    /// }
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// As [`get_resource_capacity`](Self::get_resource_capacity).
    pub async fn list_resource_capacity(
        &self,
        resource: &str,
        limit_name: &str,
        parents_only: bool,
        page: &PageRequest,
    ) -> Result<Page<EntityCapacity>, Error> {
        validate_name("resource", resource)?;
        validate_name("limit name", limit_name)?;
        let store = &self.engine.store;
        let Page { items, next } = store.read_resource_buckets(resource, page).await?;
        let now = self.engine.clock.wall();
        let capacity = |(entity_id, bucket): (String, BucketItem)| {
            let limit = bucket.limit(limit_name)?;
            Some(EntityCapacity {
                entity_id,
                capacity: limit.terms.capacity,
                available: limit.terms.tokens(limit.z, now),
            })
        };
        let mut items: Vec<_> = items.into_iter().filter_map(capacity).collect();
        if parents_only && !items.is_empty() {
            let ids: Vec<_> = items.iter().map(|item| item.entity_id.clone()).collect();
            let found = store.read_entities(&ids).await?.into_iter();
            let parents = found
                .filter(crate::Entity::is_parent)
                .map(|entity| entity.id);
            let parents: HashSet<_> = parents.collect();
            items.retain(|item| parents.contains(&item.entity_id));
        }
        Ok(Page { items, next })
    }
}
