//! The public surface with either face, so that a scenario is written once. A blocking call
//! holds the test's thread up, as it would a caller's.

use std::collections::BTreeMap;
use std::time::Duration;

use zae_limiter::reconciler::ShutdownReport;
use zae_limiter::{
    AuditEvent, Available, Degraded, Entity, EntityCapacity, EntityChange, Error, FailureMode,
    Limit, LimitScope, LimitStatus, Metrics, NewEntity, Page, PageRequest, RateLimiterBuilder,
    ResourceCapacity, UsageQuery, UsageSnapshot, UsageSummary, blocking,
};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Face {
    Async,
    Blocking,
}

#[derive(Clone, Debug)]
pub(super) enum Limiter {
    Async(zae_limiter::RateLimiter),
    Blocking(blocking::RateLimiter),
}

#[derive(Clone, Debug)]
pub(super) enum Acquire<'a> {
    Async(zae_limiter::Acquire<'a>),
    Blocking(blocking::Acquire<'a>),
}

#[derive(Debug)]
pub(super) enum Lease<'a> {
    Async(zae_limiter::Lease<'a>),
    Blocking(blocking::Lease<'a>),
}

#[derive(Clone, Debug)]
pub(super) enum Handle {
    Async(zae_limiter::BucketHandle),
    Blocking(blocking::BucketHandle),
}

/// What is done under a lease by [`Acquire::run`].
#[derive(Clone, Copy, Debug)]
pub(super) enum Work {
    Succeeds,
    Fails,
    Panics,
}

impl Work {
    fn end(self) -> Result<(), Error> {
        match self {
            Self::Succeeds => Ok(()),
            Self::Fails => Err(Error::Settings("out of paper".into())),
            Self::Panics => panic!("out of paper"),
        }
    }
}

/// Methods that answer at once with either face.
macro_rules! at_once {
    ($($name:ident(&self $(, $arg:ident: $type:ty)*) -> $out:ty;)+) => {$(
        pub(super) fn $name(&self $(, $arg: $type)*) -> $out {
            match self {
                Self::Async(it) => it.$name($($arg),*),
                Self::Blocking(it) => it.$name($($arg),*),
            }
        }
    )+};
}

/// Methods that are awaited with one face and wait with the other.
macro_rules! awaited {
    ($($name:ident($me:ident: $my:ty $(, $arg:ident: $type:ty)*) -> $out:ty;)+) => {$(
        pub(super) async fn $name($me: $my $(, $arg: $type)*) -> $out {
            match $me {
                Self::Async(it) => it.$name($($arg),*).await,
                Self::Blocking(it) => it.$name($($arg),*),
            }
        }
    )+};
}

impl Limiter {
    pub(super) async fn connect(face: Face, builder: RateLimiterBuilder) -> Result<Self, Error> {
        Ok(match face {
            Face::Async => Self::Async(builder.connect().await?),
            Face::Blocking => Self::Blocking(builder.connect_blocking()?),
        })
    }

    pub(super) fn acquire<'a>(&'a self, entity_id: &'a str, resource: &'a str) -> Acquire<'a> {
        match self {
            Self::Async(it) => Acquire::Async(it.acquire(entity_id, resource)),
            Self::Blocking(it) => Acquire::Blocking(it.acquire(entity_id, resource)),
        }
    }

    pub(super) fn as_principal(&self, principal: &str) -> Result<Self, Error> {
        Ok(match self {
            Self::Async(it) => Self::Async(it.as_principal(principal)?),
            Self::Blocking(it) => Self::Blocking(it.as_principal(principal)?),
        })
    }

    at_once! {
        table_name(&self) -> &str;
        metrics(&self) -> Metrics;
        forget_stored(&self) -> ();
    }

    awaited! {
        available(self: &Self, id: &str, resource: &str, limits: &[Limit])
            -> Result<Vec<Available>, Error>;
        create_entity(self: &Self, entity: NewEntity) -> Result<Entity, Error>;
        get_entity(self: &Self, id: &str) -> Result<Option<Entity>, Error>;
        set_parent(self: &Self, id: &str, parent_id: Option<&str>) -> Result<(), Error>;
        update_entity(self: &Self, id: &str, change: &EntityChange) -> Result<(), Error>;
        delete_entity(self: &Self, id: &str) -> Result<(), Error>;
        list_children(self: &Self, parent_id: &str, page: &PageRequest) -> Result<Page<Entity>, Error>;
        get_children(self: &Self, parent_id: &str) -> Result<Vec<Entity>, Error>;
        set_limits(self: &Self, scope: &LimitScope, limits: &[Limit]) -> Result<(), Error>;
        get_limits(self: &Self, scope: &LimitScope) -> Result<Vec<Limit>, Error>;
        delete_limits(self: &Self, scope: &LimitScope) -> Result<bool, Error>;
        get_audit_events(self: &Self, id: &str, page: &PageRequest) -> Result<Page<AuditEvent>, Error>;
        get_resource_capacity(self: &Self, resource: &str, limit: &str, parents_only: bool)
            -> Result<ResourceCapacity, Error>;
        list_resource_capacity(
            self: &Self, resource: &str, limit: &str, parents_only: bool, page: &PageRequest
        ) -> Result<Page<EntityCapacity>, Error>;
        get_usage(self: &Self, query: &UsageQuery, page: &PageRequest)
            -> Result<Page<UsageSnapshot>, Error>;
        summarize_usage(self: &Self, query: &UsageQuery) -> Result<UsageSummary, Error>;
        shutdown(self: &Self, deadline: Duration) -> ShutdownReport;
    }
}

/// Setters of either face.
macro_rules! setters {
    ($($name:ident($($arg:ident: $type:ty),+);)+) => {$(
        pub(super) fn $name(self, $($arg: $type),+) -> Self {
            match self {
                Self::Async(it) => Self::Async(it.$name($($arg),+)),
                Self::Blocking(it) => Self::Blocking(it.$name($($arg),+)),
            }
        }
    )+};
}

impl<'a> Acquire<'a> {
    setters! {
        limits(limits: &'a [Limit]);
        consume(name: &'a str, tokens: u64);
        cascade(cascade: bool);
        use_stored_limits(stored: bool);
        strict(strict: bool);
        failure_mode(failure_mode: FailureMode);
        wait_up_to(patience: Duration);
    }

    /// Acquires.
    pub(super) async fn go(self) -> Result<Lease<'a>, Error> {
        Ok(match self {
            Self::Async(it) => Lease::Async(it.await?),
            Self::Blocking(it) => Lease::Blocking(it.wait()?),
        })
    }

    pub(super) fn try_acquire(self) -> Result<Lease<'a>, Error> {
        Ok(match self {
            Self::Async(it) => Lease::Async(it.try_acquire()?),
            Self::Blocking(it) => Lease::Blocking(it.try_acquire()?),
        })
    }

    pub(super) async fn handle(self) -> Result<Handle, Error> {
        Ok(match self {
            Self::Async(it) => Handle::Async(it.handle().await?),
            Self::Blocking(it) => Handle::Blocking(it.handle()?),
        })
    }

    /// Acquires, finds that it took so much more of the limit called `name`, and ends as `work`.
    pub(super) async fn run(self, name: &str, more: i64, work: Work) -> Result<(), Error> {
        match self {
            Self::Async(it) => {
                let run = it.run(async |mut lease| {
                    lease.adjust(name, more).await?;
                    work.end()
                });
                run.await
            }
            Self::Blocking(it) => it.run(|lease| {
                lease.adjust(name, more)?;
                work.end()
            }),
        }
    }

    awaited! {
        available(self: Self) -> Result<Vec<Available>, Error>;
        check(self: Self) -> Result<Vec<LimitStatus>, Error>;
        time_until_available(self: Self) -> Result<Duration, Error>;
    }
}

impl Lease<'_> {
    at_once! {
        consumed(&self) -> BTreeMap<&str, u64>;
        statuses(&self) -> Vec<LimitStatus>;
        degraded(&self) -> Option<Degraded>;
    }

    awaited! {
        consume(self: &mut Self, name: &str, tokens: u64) -> Result<(), Error>;
        adjust(self: &mut Self, name: &str, delta: i64) -> Result<(), Error>;
        release(self: &mut Self, name: &str, tokens: u64) -> Result<(), Error>;
        rollback(self: Self) -> ();
    }

    pub(super) fn commit(self) {
        match self {
            Self::Async(it) => it.commit(),
            Self::Blocking(it) => it.commit(),
        }
    }

    pub(super) fn into_owned(self) -> Lease<'static> {
        match self {
            Self::Async(it) => Lease::Async(it.into_owned()),
            Self::Blocking(it) => Lease::Blocking(it.into_owned()),
        }
    }
}

impl Handle {
    pub(super) async fn acquire<'a>(
        &'a self,
        consume: &[(&'a str, u64)],
    ) -> Result<Lease<'a>, Error> {
        Ok(match self {
            Self::Async(it) => Lease::Async(it.acquire(consume).await?),
            Self::Blocking(it) => Lease::Blocking(it.acquire(consume)?),
        })
    }

    pub(super) fn try_acquire<'a>(
        &'a self,
        consume: &[(&'a str, u64)],
    ) -> Result<Lease<'a>, Error> {
        Ok(match self {
            Self::Async(it) => Lease::Async(it.try_acquire(consume)?),
            Self::Blocking(it) => Lease::Blocking(it.try_acquire(consume)?),
        })
    }
}
