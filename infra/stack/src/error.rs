//! What can go wrong with a stack, and what to do about it.

use std::error::Error;

use aws_sdk_cloudformation::error::{ProvideErrorMetadata, SdkError};
use serde::{Deserialize, Serialize};
use zae_limiter_core::ValidationError;

use crate::package::PackageError;
use crate::{StackEvent, StackOptions};

/// Why a stack is not as it should be.
///
/// ```no_run
/// use zae_limiter_infra::{StackErrorKind, StackManager, StackOptions};
///
/// # async fn deploy(stack: &StackManager) {
/// if let Err(error) = stack.deploy(&StackOptions::default(), |_| ()).await {
///     match error.kind() {
///         StackErrorKind::Unreachable => println!("{error}; it can be run again"),
///         _ => println!("{error}"),
///     }
///     error.events().iter().for_each(|event| println!("{event}"));
/// }
/// # }
/// ```
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StackError {
    /// The name of the limiter breaks a rule. Nothing was changed.
    #[error(transparent)]
    Name(#[from] ValidationError),
    /// The options break rules: all of them. Nothing was changed.
    #[error("wrong options: {}", join(.0))]
    Options(Vec<ValidationError>),
    /// The aggregator's package cannot be made. Nothing was changed.
    #[error(transparent)]
    Package(#[from] PackageError),
    /// The aggregator is wanted, and there is no program to make its package of.
    #[error(
        "no aggregator: there is no {} beside this program or in PATH, and the stack has none yet; \
         install it (cargo install --path infra/aggregator), name one, or do without usage snapshots",
        crate::AGGREGATOR_PROGRAM
    )]
    NoAggregator,
    /// A newer version has deployed the stack: this one would take back what that changed. Nothing
    /// was changed.
    #[error(
        "stack {stack_name} was deployed by version {version}, this is {}: use that one, or a newer \
         one",
        crate::VERSION
    )]
    Newer {
        /// The stack.
        stack_name: String,
        /// The version that has deployed it.
        version: String,
    },
    /// The table is protected from deletion. Nothing was changed.
    #[error(
        "stack {0} cannot be deleted: its table is protected; deploy it without protection first"
    )]
    Protected(String),
    /// CloudFormation tried, and failed.
    #[error("stack {stack_name} is {status}: {reason}; {}", advice(.status))]
    Failed {
        /// The stack.
        stack_name: String,
        /// The state that it is in now.
        status: String,
        /// The reason of the resource that failed first.
        reason: String,
        /// What happened until then.
        events: Vec<StackEvent>,
    },
    /// The stack is in a state in which nothing can be done with it as it was asked.
    #[error("stack {stack_name} is {status}; {}", advice(.status))]
    Stuck {
        /// The stack.
        stack_name: String,
        /// The state that it is in.
        status: String,
    },
    /// AWS could not be asked, or said no.
    #[error("could not {action}: {reason}")]
    Service {
        /// What was tried.
        action: String,
        /// What was answered.
        reason: String,
        /// [`StackErrorKind::AccessDenied`], [`StackErrorKind::Unreachable`] or
        /// [`StackErrorKind::Service`].
        kind: StackErrorKind,
        /// The SDK's own error.
        #[source]
        source: Box<dyn Error + Send + Sync>,
    },
}

/// What sort of [`StackError`] it is.
///
/// See the example of [`StackError`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum StackErrorKind {
    /// [`StackError::Name`], [`StackError::Options`], [`StackError::Package`] and
    /// [`StackError::NoAggregator`]: what was asked for makes no sense.
    Invalid,
    /// [`StackError::Failed`], [`StackError::Stuck`], [`StackError::Protected`] and
    /// [`StackError::Newer`]
    Failed,
    /// [`StackError::Service`] where permission or credentials are missing
    AccessDenied,
    /// [`StackError::Service`] where there was no answer: it may have been done all the same
    Unreachable,
    /// [`StackError::Service`] of any other sort
    Service,
}

impl StackError {
    /// What sort of error it is.
    ///
    /// See the example of [`StackError`].
    #[must_use]
    pub fn kind(&self) -> StackErrorKind {
        match self {
            Self::Name(_) | Self::Options(_) | Self::Package(_) | Self::NoAggregator => {
                StackErrorKind::Invalid
            }
            Self::Failed { .. } | Self::Stuck { .. } | Self::Protected(_) | Self::Newer { .. } => {
                StackErrorKind::Failed
            }
            Self::Service { kind, .. } => *kind,
        }
    }

    /// What CloudFormation did before it failed; empty for all other errors.
    ///
    /// See the example of [`StackError`].
    #[must_use]
    pub fn events(&self) -> &[StackEvent] {
        match self {
            Self::Failed { events, .. } => events,
            _ => &[],
        }
    }

    /// AWS did not do `action` ("create stack ZAEL-x").
    pub(crate) fn service<E, R>(action: impl Into<String>, error: SdkError<E, R>) -> Self
    where
        E: ProvideErrorMetadata + Error + Send + Sync + 'static,
        R: std::fmt::Debug + Send + Sync + 'static,
    {
        let reason = match (error.code(), error.message()) {
            (Some(code), Some(message)) => format!("{code}: {message}"),
            (Some(code), None) => code.to_owned(),
            (None, _) => causes(&error),
        };
        const DENIED: [&str; 10] = [
            "AccessDenied",
            "NotAuthorized",
            "UnrecognizedClient",
            "InvalidClientTokenId",
            "ExpiredToken",
            "SignatureDoesNotMatch",
            "InvalidSignature",
            "InvalidAccessKeyId",
            "OptInRequired",
            // None are found, or they cannot be had.
            "credential",
        ];
        let kind = if DENIED.iter().any(|code| reason.contains(code)) {
            StackErrorKind::AccessDenied
        } else if matches!(
            error,
            SdkError::ConstructionFailure(_) | SdkError::ServiceError(_)
        ) {
            StackErrorKind::Service
        } else {
            StackErrorKind::Unreachable
        };
        let source = Box::new(error);
        let action = action.into();
        Self::Service {
            action,
            reason,
            kind,
            source,
        }
    }
}

fn causes(error: &(dyn Error + 'static)) -> String {
    let chain = std::iter::successors(Some(error), |&error| error.source());
    let mut causes: Vec<String> = chain.map(ToString::to_string).collect();
    causes.dedup();
    causes.join(": ")
}

fn join(errors: &[ValidationError]) -> String {
    let all: Vec<_> = errors.iter().map(ToString::to_string).collect();
    all.join("; ")
}

/// How to go on from a state that is not a good one.
fn advice(status: &str) -> &'static str {
    match status {
        "ROLLBACK_COMPLETE" => "remove the reason and deploy again",
        "UPDATE_ROLLBACK_COMPLETE" => {
            "everything is as it was before; remove the reason and deploy again"
        }
        "UPDATE_ROLLBACK_FAILED" => {
            "remove the reason and continue the rollback (aws cloudformation \
             continue-update-rollback), then deploy again"
        }
        "DELETE_FAILED" => "remove the reason and delete again",
        "CREATE_FAILED" | "ROLLBACK_FAILED" => "delete the stack, then deploy again",
        _ => "remove the reason and try again",
    }
}

impl StackOptions {
    pub(crate) fn wrong(errors: Vec<ValidationError>) -> Result<(), StackError> {
        if errors.is_empty() {
            Ok(())
        } else {
            Err(StackError::Options(errors))
        }
    }
}
