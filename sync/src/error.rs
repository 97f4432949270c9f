//! What can go wrong, and what a caller can do about it.

use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;

use crate::store::{StoreError, StoreErrorKind};
use crate::{Limit, ValidationError};

/// What a limiter answers when it does not do what it was asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// An input breaks a rule. Nothing was changed; trying again will not help.
    #[error(transparent)]
    Validation(#[from] ValidationError),
    /// A limit does not allow it now. Try again after
    /// [`retry_after`](RateLimitExceeded::retry_after).
    #[error(transparent)]
    RateLimitExceeded(#[from] RateLimitExceeded),
    /// No tokens in hand, and finding out more would mean waiting. Only from functions that
    /// never wait; tokens have been asked for, so try again in some milliseconds.
    #[error("no tokens in hand for {entity_id}/{resource}; the table is being asked")]
    WouldWait {
        /// Whose bucket it is.
        entity_id: String,
        /// Of what.
        resource: String,
    },
    /// The table cannot be reached, and the failure mode is closed.
    #[error("rate limiter unavailable for {entity_id}/{resource}: {reason}")]
    Unavailable {
        /// Whose bucket it is.
        entity_id: String,
        /// Of what.
        resource: String,
        /// What is known of the reason.
        reason: String,
        /// What kept the table from answering, if that is known.
        #[source]
        source: Option<Arc<StoreError>>,
    },
    /// The table answers, but does not do it: it is missing, permission is denied, or an item in
    /// it makes no sense. Somebody has to mend that.
    #[error("{0}")]
    Store(#[source] Arc<StoreError>),
    /// There is an entity of this id.
    #[error("entity {0:?} exists already")]
    EntityExists(String),
    /// There is no entity of this id: the one to be changed, or the one to be a parent.
    #[error("there is no entity {0:?}; create it first")]
    EntityNotFound(String),
    /// The settings are wrong; all that is wrong is in the text.
    #[error("wrong settings: {0}")]
    Settings(String),
    /// The limiter has been shut down.
    #[error("the rate limiter has been shut down")]
    Closed,
}

/// What sort of [`Error`] it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// [`Error::Validation`]
    Validation,
    /// [`Error::RateLimitExceeded`]
    RateLimitExceeded,
    /// [`Error::WouldWait`]
    WouldWait,
    /// [`Error::Unavailable`]
    Unavailable,
    /// [`Error::Store`], [`StoreErrorKind::TableMissing`]
    TableMissing,
    /// [`Error::Store`], [`StoreErrorKind::AccessDenied`]
    AccessDenied,
    /// [`Error::Store`], any other
    Store,
    /// [`Error::EntityExists`]
    EntityExists,
    /// [`Error::EntityNotFound`]
    EntityNotFound,
    /// [`Error::Settings`]
    Settings,
    /// [`Error::Closed`]
    Closed,
}

impl Error {
    /// What sort of error it is.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Validation(_) => ErrorKind::Validation,
            Self::RateLimitExceeded(_) => ErrorKind::RateLimitExceeded,
            Self::WouldWait { .. } => ErrorKind::WouldWait,
            Self::Unavailable { .. } => ErrorKind::Unavailable,
            Self::Store(error) => match error.kind() {
                StoreErrorKind::TableMissing => ErrorKind::TableMissing,
                StoreErrorKind::AccessDenied => ErrorKind::AccessDenied,
                _ => ErrorKind::Store,
            },
            Self::EntityExists(_) => ErrorKind::EntityExists,
            Self::EntityNotFound(_) => ErrorKind::EntityNotFound,
            Self::Settings(_) => ErrorKind::Settings,
            Self::Closed => ErrorKind::Closed,
        }
    }

    /// The rejection, if it is one.
    #[must_use]
    pub fn as_exceeded(&self) -> Option<&RateLimitExceeded> {
        match self {
            Self::RateLimitExceeded(exceeded) => Some(exceeded),
            _ => None,
        }
    }
}

impl From<StoreError> for Error {
    fn from(error: StoreError) -> Self {
        Self::Store(Arc::new(error))
    }
}

/// One limit, as it stood when an acquire was refused.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct LimitStatus {
    /// Whose bucket it is: the entity or its parent.
    pub entity_id: String,
    /// Of what.
    pub resource: String,
    /// The limit.
    pub limit: Limit,
    /// Tokens that could be had, as far as this process knows; negative: debt.
    pub available: i64,
    /// Tokens that were asked for.
    pub requested: u64,
    /// Whether this limit refused.
    pub exceeded: bool,
    /// How long until the tokens may be had; zero if they are there.
    pub retry_after: Duration,
}

/// An acquire that the limits do not allow now. Nothing was consumed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, thiserror::Error)]
#[error("{}", self.message())]
pub struct RateLimitExceeded {
    statuses: Vec<LimitStatus>,
}

impl RateLimitExceeded {
    pub(crate) fn new(statuses: Vec<LimitStatus>) -> Self {
        debug_assert!(statuses.iter().any(|status| status.exceeded));
        Self { statuses }
    }

    /// Every limit of the acquire.
    #[must_use]
    pub fn statuses(&self) -> &[LimitStatus] {
        &self.statuses
    }

    /// The limits that refused.
    pub fn violations(&self) -> impl Iterator<Item = &LimitStatus> {
        self.statuses.iter().filter(|status| status.exceeded)
    }

    /// The limits that did not.
    pub fn passed(&self) -> impl Iterator<Item = &LimitStatus> {
        self.statuses.iter().filter(|status| !status.exceeded)
    }

    /// The limit that takes longest.
    #[must_use]
    pub fn primary_violation(&self) -> Option<&LimitStatus> {
        self.violations().max_by_key(|status| status.retry_after)
    }

    /// How long until all of it may be had.
    #[must_use]
    pub fn retry_after(&self) -> Duration {
        let longest = self.primary_violation();
        longest.map_or(Duration::ZERO, |status| status.retry_after)
    }

    fn message(&self) -> String {
        let Some(first) = self.primary_violation() else {
            return "rate limit exceeded".to_owned();
        };
        let names: Vec<_> = self.violations().map(|s| s.limit.name()).collect();
        format!(
            "rate limit exceeded for {}/{}: [{}], retry after {:.3} s",
            first.entity_id,
            first.resource,
            names.join(", "),
            self.retry_after().as_secs_f64()
        )
    }
}
