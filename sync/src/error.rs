//! What can go wrong, and what a caller can do about it.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::store::{StoreError, StoreErrorKind};
use crate::{RateLimitExceeded, ValidationError};

/// What a limiter answers when it does not do what it was asked.
///
/// ```
/// use zae_limiter::{Error, ErrorKind, Limit, RateLimiter};
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Error> {
/// let limiter = RateLimiter::builder("my-app").in_memory().connect().await?;
/// let limits = [Limit::per_minute("rpm", 1)?];
/// let acquire = || limiter.acquire("user", "api").limits(&limits).consume("rpm", 1);
/// acquire().await.map(drop)?;
/// let error = acquire().await.map(drop).unwrap_err();
/// let status = match error.kind() {
///     ErrorKind::RateLimitExceeded => 429, // with error.as_exceeded() for its headers and body
///     ErrorKind::Validation => 400,
///     _ => 503,
/// };
/// assert_eq!(status, 429);
/// # Ok(()) }
/// ```
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
    #[error("rate limiter {table_name} unavailable for {entity_id}/{resource}: {reason}")]
    Unavailable {
        /// The table, by its full name.
        table_name: String,
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
    /// The table and this client are of versions that do not go together: the client is older
    /// than the table asks for, or the deployed functions are too old for the client
    /// ([`Settings::strict_version`](crate::Settings::strict_version)).
    #[error(
        "version mismatch: client {client_version}, schema {schema_version}, lambda {}: {reason}",
        .lambda_version.as_deref().unwrap_or("none")
    )]
    VersionMismatch {
        /// The version of this crate.
        client_version: String,
        /// The version of the table's layout.
        schema_version: String,
        /// The version of the deployed Lambda functions, if any are.
        lambda_version: Option<String>,
        /// Whether `zae-limiter upgrade` mends it.
        can_auto_update: bool,
        /// What does not go together, and what to do about it.
        reason: String,
    },
    /// The table's layout is not one that this client knows.
    #[error(
        "incompatible schema: client {client_version} does not work with schema \
         {schema_version}; {advice}"
    )]
    IncompatibleSchema {
        /// The version of this crate.
        client_version: String,
        /// The version of the table's layout.
        schema_version: String,
        /// What to do about it: the command to run, or what to update.
        advice: String,
    },
    /// The stack is not what it should be; with the reason of the resource that failed first.
    #[cfg(feature = "stack")]
    #[error(transparent)]
    Stack(Box<zae_limiter_infra::StackError>),
    /// The settings are wrong; all that is wrong is in the text.
    #[error("wrong settings: {0}")]
    Settings(String),
    /// The limiter has been shut down.
    #[error("the rate limiter has been shut down")]
    ShutDown,
}

/// What sort of [`Error`] it is.
///
/// Who comes from the Python library finds its exceptions here:
///
/// | `zae_limiter.exceptions` | here |
/// |---|---|
/// | `RateLimitExceeded` | [`RateLimitExceeded`](Self::RateLimitExceeded) |
/// | `RateLimiterUnavailable` | [`Unavailable`](Self::Unavailable) |
/// | `EntityNotFoundError`, `EntityExistsError` | [`EntityNotFound`](Self::EntityNotFound), [`EntityExists`](Self::EntityExists) |
/// | `StackCreationError`, `StackAlreadyExistsError` | [`Stack`](Self::Stack) |
/// | `InfrastructureNotFoundError` | [`TableMissing`](Self::TableMissing) |
/// | `VersionMismatchError` | [`VersionMismatch`](Self::VersionMismatch) |
/// | `IncompatibleSchemaError` | [`IncompatibleSchema`](Self::IncompatibleSchema) |
/// | `InvalidIdentifierError`, `InvalidNameError` | [`Validation`](Self::Validation), told apart by [`ValidationError::kind`] |
///
/// See the example of [`Error`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
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
    /// [`Error::VersionMismatch`]
    VersionMismatch,
    /// [`Error::IncompatibleSchema`]
    IncompatibleSchema,
    /// The error of a stack, with the feature `stack`: `Error::Stack`
    Stack,
    /// [`Error::Settings`]
    Settings,
    /// [`Error::ShutDown`]
    ShutDown,
}

impl Error {
    /// What sort of error it is.
    ///
    /// See the example of [`Error`].
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
            Self::VersionMismatch { .. } => ErrorKind::VersionMismatch,
            Self::IncompatibleSchema { .. } => ErrorKind::IncompatibleSchema,
            #[cfg(feature = "stack")]
            Self::Stack(_) => ErrorKind::Stack,
            Self::Settings(_) => ErrorKind::Settings,
            Self::ShutDown => ErrorKind::ShutDown,
        }
    }

    /// The rejection, if it is one.
    ///
    /// ```
    /// # use zae_limiter::{Limit, RateLimiter};
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), zae_limiter::Error> {
    /// # let limiter = RateLimiter::builder("my-app").in_memory().connect().await?;
    /// let limits = [Limit::per_hour("jobs", 1)?];
    /// let acquire = || limiter.acquire("user", "batch").limits(&limits).consume("jobs", 1);
    /// acquire().await?.commit();
    /// match acquire().await {
    ///     Ok(lease) => lease.commit(),
    ///     Err(error) => match error.as_exceeded() {
    ///         Some(exceeded) => println!("try again in {:?}", exceeded.retry_after()),
    ///         None => return Err(error),
    ///     },
    /// }
    /// # Ok(()) }
    /// ```
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
        match error.broken_rule() {
            Some(rule) => Self::Validation(rule.clone()),
            None => Self::Store(Arc::new(error)),
        }
    }
}
