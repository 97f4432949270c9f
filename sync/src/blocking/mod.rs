//! The whole surface for code without `async`.
//!
//! [`blocking::RateLimiter`](RateLimiter) is [`crate::RateLimiter`] with another face: where that
//! one is awaited, this one waits. What is said there of tokens, modes and errors holds here too.
//!
//! ```
//! use std::time::Duration;
//! use zae_limiter::{Limit, blocking::RateLimiter};
//!
//! # fn main() -> Result<(), zae_limiter::Error> {
//! let limiter = RateLimiter::builder("my-app").in_memory().connect_blocking()?;
//! let limits = [Limit::per_minute("rpm", 100)?, Limit::per_minute("tpm", 10_000)?];
//! let acquire = limiter.acquire("api-key-123", "gpt-4").limits(&limits);
//! let mut lease = acquire.consume("rpm", 1).consume("tpm", 500).wait()?;
//! lease.adjust("tpm", 120)?; // it was 620 in the end
//! limiter.shutdown(Duration::from_secs(5));
//! # Ok(()) }
//! ```
//!
//! # Where it may be called
//!
//! On any thread, also on one of a tokio runtime of either flavour: it neither panics nor waits
//! for that runtime. It does hold the thread up, and whatever else would run there: for a
//! microsecond if the tokens are in hand, for a request to the table if not, and at most for
//! `acquire_timeout_ms` and what [`wait_up_to`](Acquire::wait_up_to) allows. Nothing cancels a
//! call.
//!
//! Each limiter has a thread of its own, `zae-limiter`, for the reconciler and the network. It
//! ends with the last clone, lease or handle, which does not wait for it; what is in hand is given
//! back within two seconds, if the process lives that long. [`RateLimiter::shutdown`] waits.
//! Threads do not survive a `fork`: connect after it.
//!
//! A [`Store`](crate::store::Store) that is handed to the builder is used from that thread. Give
//! it an AWS client of its own: connections of a client that has been used in another runtime are
//! served there.

mod acquire;
mod handle;
mod home;
mod lease;

use std::sync::Arc;
use std::time::Duration;

pub use acquire::Acquire;
pub use handle::BucketHandle;
pub use lease::Lease;

use crate::reconciler::ShutdownReport;
use crate::{
    AuditEvent, Available, Entity, EntityCapacity, EntityChange, Error, Limit, LimitScope, Metrics,
    NewEntity, Page, PageRequest, RateLimiterBuilder, ResourceCapacity, UsageQuery, UsageSnapshot,
    UsageSummary,
};
use home::Home;

/// A [rate limiter](crate::RateLimiter) that waits where the other one is awaited; see the
/// [module](self).
///
/// Cheap to clone; clones share everything.
///
/// ```
/// use std::time::Duration;
/// use zae_limiter::blocking::RateLimiter;
/// use zae_limiter::{Limit, LimitScope, NewEntity, PageRequest, UsageQuery};
///
/// let limiter = RateLimiter::builder("my-app").in_memory().connect_blocking()?;
/// let operator = limiter.as_principal("ops@example.com")?;
/// operator.create_entity(NewEntity::new("project-1"))?;
/// operator.create_entity(NewEntity::new("key-1").parent("project-1"))?;
/// assert_eq!(limiter.get_children("project-1")?.len(), 1);
/// let limits = [Limit::per_day("tokens", 1_000)?];
/// operator.set_limits(&LimitScope::system(), &limits)?;
/// let acquire = limiter.acquire("key-1", "gpt-4").use_stored_limits(true).cascade(true);
/// acquire.consume("tokens", 400).strict(true).wait()?.commit();
/// assert_eq!(limiter.available("project-1", "gpt-4", &limits)?[0].estimate, 600);
/// let usage = limiter.summarize_usage(&UsageQuery::entity("key-1")?)?;
/// assert_eq!(usage.limits["tokens"].total, 400);
/// let events = limiter.get_audit_events("key-1", &PageRequest::default())?;
/// assert_eq!(events.items[0].principal.as_deref(), Some("ops@example.com"));
/// limiter.shutdown(Duration::from_secs(5));
/// # Ok::<(), zae_limiter::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct RateLimiter {
    limiter: crate::RateLimiter,
    home: Arc<Home>,
}

impl RateLimiterBuilder {
    /// [`connect`](Self::connect) for code without `async`: starts a thread for the reconciler.
    ///
    /// ```
    /// use zae_limiter::{Mode, RateLimiter};
    ///
    /// let builder = RateLimiter::builder("my-app").mode(Mode::Strict).in_memory();
    /// let limiter = builder.connect_blocking()?;
    /// assert_eq!(limiter.table_name(), "ZAEL-my-app");
    /// # Ok::<(), zae_limiter::Error>(())
    /// ```
    ///
    /// # Errors
    /// Those of [`connect`](Self::connect); [`Error::Store`] also if there can be no more threads.
    pub fn connect_blocking(self) -> Result<RateLimiter, Error> {
        let (home, limiter) = Home::of(self)?;
        let home = Arc::new(home);
        Ok(RateLimiter { limiter, home })
    }
}

/// Methods that wait for those of the same name.
macro_rules! waiting {
    ($($name:ident($($arg:ident: $type:ty),*) -> $out:ty;)+) => {$(
        #[doc = concat!(
            "[`", stringify!($name), "`](crate::RateLimiter::", stringify!($name),
            "), and waits for it; its errors are the same, and its example without `.await`.",
        )]
        pub fn $name(&self, $($arg: $type),*) -> $out {
            self.home.wait(self.limiter.$name($($arg),*))
        }
    )+};
}

impl RateLimiter {
    /// A builder of a limiter on the table `ZAEL-{name}`; end it with
    /// [`connect_blocking`](RateLimiterBuilder::connect_blocking).
    ///
    /// See the example of [`RateLimiter`].
    pub fn builder(name: impl Into<String>) -> RateLimiterBuilder {
        crate::RateLimiter::builder(name)
    }

    /// Begins an acquire of tokens of `resource` for `entity_id`.
    ///
    /// See the example of [`Acquire`].
    #[inline]
    pub fn acquire<'a>(&'a self, entity_id: &'a str, resource: &'a str) -> Acquire<'a> {
        let acquire = self.limiter.acquire(entity_id, resource);
        Acquire::new(acquire, &self.home)
    }

    /// The table's full name.
    ///
    /// See the example of [`connect_blocking`](RateLimiterBuilder::connect_blocking).
    #[must_use]
    pub fn table_name(&self) -> &str {
        self.limiter.table_name()
    }

    /// What has been counted so far.
    ///
    /// See the example of [`Metrics`].
    #[must_use]
    pub fn metrics(&self) -> Metrics {
        self.limiter.metrics()
    }

    /// The same limiter for somebody: who is named in the audit events of what is changed
    /// through it.
    ///
    /// See the example of [`RateLimiter`].
    ///
    /// # Errors
    /// [`Error::Validation`] unless it is an identifier.
    pub fn as_principal(&self, principal: &str) -> Result<Self, Error> {
        let limiter = self.limiter.as_principal(principal)?;
        let home = self.home.clone();
        Ok(Self { limiter, home })
    }

    /// Forgets what this process remembers of entities and stored limits: the next acquires ask
    /// the table.
    ///
    /// See the example of [`crate::RateLimiter::forget_stored`].
    pub fn forget_stored(&self) {
        self.limiter.forget_stored();
    }

    waiting! {
        available(entity_id: &str, resource: &str, limits: &[Limit])
            -> Result<Vec<Available>, Error>;
        shutdown(deadline: Duration) -> ShutdownReport;
        create_entity(entity: NewEntity) -> Result<Entity, Error>;
        get_entity(id: &str) -> Result<Option<Entity>, Error>;
        set_parent(id: &str, parent_id: Option<&str>) -> Result<(), Error>;
        update_entity(id: &str, change: &EntityChange) -> Result<(), Error>;
        delete_entity(id: &str) -> Result<(), Error>;
        list_children(parent_id: &str, page: &PageRequest) -> Result<Page<Entity>, Error>;
        get_children(parent_id: &str) -> Result<Vec<Entity>, Error>;
        set_limits(scope: &LimitScope, limits: &[Limit]) -> Result<(), Error>;
        get_limits(scope: &LimitScope) -> Result<Vec<Limit>, Error>;
        delete_limits(scope: &LimitScope) -> Result<bool, Error>;
        get_resource_capacity(resource: &str, limit_name: &str, parents_only: bool)
            -> Result<ResourceCapacity, Error>;
        list_resource_capacity(
            resource: &str, limit_name: &str, parents_only: bool, page: &PageRequest
        ) -> Result<Page<EntityCapacity>, Error>;
        get_audit_events(entity_id: &str, page: &PageRequest) -> Result<Page<AuditEvent>, Error>;
        get_usage(query: &UsageQuery, page: &PageRequest) -> Result<Page<UsageSnapshot>, Error>;
        summarize_usage(query: &UsageQuery) -> Result<UsageSummary, Error>;
    }
}

#[cfg(feature = "stack")]
impl RateLimiter {
    waiting! {
        delete_stack() -> Result<bool, Error>;
    }
}
