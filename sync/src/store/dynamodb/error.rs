//! What a failed call means: of what sort it is, and whether the table may have changed.

use std::error::Error;
use std::fmt;

use aws_credential_types::provider::error::CredentialsError;
use aws_sdk_dynamodb::config::http::HttpResponse;
use aws_sdk_dynamodb::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_dynamodb::types::AttributeValue;
use zae_limiter_core::schema;

use super::super::{StoreError, StoreErrorKind, WriteOutcome};
use super::codec::{Attributes, Unreadable};

/// Which table, for messages.
#[derive(Clone, Debug)]
pub(super) struct Place {
    pub(super) table: String,
    pub(super) region: Option<String>,
    pub(super) endpoint: Option<String>,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let region = self.region.as_deref().unwrap_or("no region");
        write!(f, "table {} ({region}", self.table)?;
        if let Some(endpoint) = &self.endpoint {
            write!(f, ", {endpoint}")?;
        }
        f.write_str(")")
    }
}

/// A failed call.
#[derive(Debug)]
pub(super) struct Failure {
    /// Whether the service may have done what it was asked, or do it yet.
    pub(super) in_doubt: bool,
    pub(super) error: StoreError,
}

impl From<Failure> for StoreError {
    fn from(failure: Failure) -> Self {
        failure.error
    }
}

impl From<Failure> for WriteOutcome {
    fn from(failure: Failure) -> Self {
        if failure.in_doubt {
            Self::Unknown(failure.error)
        } else {
            Self::Failed(failure.error)
        }
    }
}

/// Says what `error` means; `action` is what was tried ("read bucket x").
pub(super) fn failure<E>(place: &Place, action: &str, error: SdkError<E, HttpResponse>) -> Failure
where
    E: ProvideErrorMetadata + Error + Send + Sync + 'static,
{
    let (kind, in_doubt) = classify(&error);
    let reason = match (error.code(), error.message()) {
        (Some(code), Some(message)) => format!("{code}: {message}"),
        (Some(code), None) => code.to_owned(),
        (None, _) => root_cause(&error),
    };
    let doubt = if in_doubt {
        "; it may have been done"
    } else {
        ""
    };
    let advice = advice(kind);
    let message = format!("could not {action} in {place}{doubt}: {reason}; {advice}");
    Failure {
        in_doubt,
        error: StoreError::new(kind, message).caused_by(error),
    }
}

/// No usable credentials, found out before anything was sent.
pub(super) fn no_credentials(place: &Place, error: CredentialsError) -> StoreError {
    let kind = of_credentials(&error);
    let reason = root_cause(&error);
    let advice = advice(kind);
    let message = format!("no credentials for {place}: {reason}; {advice}");
    StoreError::new(kind, message).caused_by(error)
}

/// The key of an item, for people.
pub(super) fn name_of(item: &Attributes) -> String {
    let part = |name| match item.get(name) {
        Some(AttributeValue::S(text)) => text.as_str(),
        _ => "?",
    };
    format!("{} / {}", part(schema::PK), part(schema::SK))
}

/// An item that is there and cannot be read.
pub(super) fn unreadable(place: &Place, item: &str, found: Unreadable) -> StoreError {
    let Unreadable {
        attribute,
        expected,
    } = found;
    let message = format!(
        "item {item} in {place} cannot be read: attribute {attribute} is not {expected}; \
         delete the item, or find out what else writes to the table"
    );
    StoreError::new(StoreErrorKind::Invalid, message)
}

pub(super) fn advice(kind: StoreErrorKind) -> &'static str {
    match kind {
        StoreErrorKind::Throttled => "send less, or raise what the table may take",
        StoreErrorKind::Unreachable => "check the endpoint, the network and the service's health",
        StoreErrorKind::TableMissing => {
            "deploy the stack, or check the name, the region and the account"
        }
        StoreErrorKind::AccessDenied => {
            "check the credentials and that they allow the action on the table and its indexes"
        }
        StoreErrorKind::Invalid => "check that the table is one of this version's; else a defect",
    }
}

/// The sort of failure, and whether the service may have acted on the request.
fn classify<E>(error: &SdkError<E, HttpResponse>) -> (StoreErrorKind, bool)
where
    E: ProvideErrorMetadata + Error + 'static,
{
    use StoreErrorKind::{Invalid, Unreachable};
    match error {
        SdkError::ServiceError(answer) => {
            let code = answer.err().code().unwrap_or_default();
            of_answer(code, answer.raw().status().as_u16())
        }
        // Found out on this side, before anything was sent.
        SdkError::ConstructionFailure(_) => (before_sending(error).unwrap_or(Invalid), false),
        SdkError::DispatchFailure(failed) => match before_sending(error) {
            Some(kind) => (kind, false),
            None if failed.is_user() => (Invalid, false),
            None => (Unreachable, true),
        },
        // It may have been sent (timeouts), it was sent (broken answers), or nobody knows.
        _ => (Unreachable, true),
    }
}

/// An answer of the service that is an error.
fn of_answer(code: &str, status: u16) -> (StoreErrorKind, bool) {
    use StoreErrorKind::{AccessDenied, Invalid, TableMissing, Throttled, Unreachable};
    let kind = match code {
        "ProvisionedThroughputExceededException"
        | "RequestLimitExceeded"
        | "RequestLimitExceededException"
        | "ThrottlingException"
        | "Throttling"
        | "LimitExceededException"
        | "TransactionConflictException"
        | "TransactionInProgressException"
        | "ReplicatedWriteConflictException" => Throttled,
        "ResourceNotFoundException" => TableMissing,
        "AccessDeniedException"
        | "AccessDenied"
        | "UnrecognizedClientException"
        | "InvalidClientTokenId"
        | "ExpiredToken"
        | "ExpiredTokenException"
        | "RequestExpired"
        | "InvalidSignatureException"
        | "SignatureDoesNotMatch"
        | "IncompleteSignature"
        | "IncompleteSignatureException"
        | "MissingAuthenticationToken"
        | "MissingAuthenticationTokenException"
        | "OptInRequired"
        | "NotAuthorized" => AccessDenied,
        _ => match status {
            401 | 403 => AccessDenied,
            429 => Throttled,
            400..=499 => Invalid,
            _ => return (Unreachable, true),
        },
    };
    (kind, false)
}

/// What kept the request from being sent at all, as far as that is certain.
fn before_sending(error: &(dyn Error + 'static)) -> Option<StoreErrorKind> {
    chain(error).find_map(|cause| {
        if let Some(credentials) = cause.downcast_ref() {
            return Some(of_credentials(credentials));
        }
        let http = cause.downcast_ref::<hyper_util::client::legacy::Error>();
        let connecting = http.is_some_and(hyper_util::client::legacy::Error::is_connect);
        connecting.then_some(StoreErrorKind::Unreachable)
    })
}

fn of_credentials(error: &CredentialsError) -> StoreErrorKind {
    match error {
        // Who hands them out did not answer.
        CredentialsError::ProviderTimedOut(_) => StoreErrorKind::Unreachable,
        _ => StoreErrorKind::AccessDenied,
    }
}

fn chain<'a>(error: &'a (dyn Error + 'static)) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    std::iter::successors(Some(error), |&error| error.source())
}

fn root_cause(error: &(dyn Error + 'static)) -> String {
    let mut causes: Vec<String> = Vec::new();
    for cause in chain(error) {
        let text = cause.to_string();
        if causes.last() != Some(&text) {
            causes.push(text);
        }
    }
    causes.join(": ")
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use aws_credential_types::provider::{ProvideCredentials, future};
    use aws_sdk_dynamodb::Client;
    use aws_sdk_dynamodb::config::{BehaviorVersion, Config, Region};
    use zae_limiter_core::BucketKey;
    use zae_limiter_core::item::BucketWrite;

    use super::*;
    use crate::store::{DynamoDbStore, Store};

    #[test]
    fn an_answer_says_whether_the_write_may_have_happened() {
        use StoreErrorKind::{AccessDenied, Invalid, TableMissing, Throttled, Unreachable};
        for (code, status, kind, in_doubt) in [
            ("ThrottlingException", 400, Throttled, false),
            ("ThrottlingException", 503, Throttled, false),
            ("TransactionConflictException", 400, Throttled, false),
            ("ResourceNotFoundException", 400, TableMissing, false),
            ("ExpiredTokenException", 400, AccessDenied, false),
            ("", 403, AccessDenied, false),
            ("ValidationException", 400, Invalid, false),
            ("InternalServerError", 500, Unreachable, true),
            ("ServiceUnavailable", 503, Unreachable, true),
            ("", 502, Unreachable, true),
        ] {
            assert_eq!(of_answer(code, status), (kind, in_doubt), "{code} {status}");
        }
    }

    fn denying(error: fn() -> CredentialsError) -> DynamoDbStore {
        #[derive(Debug)]
        struct Denying(fn() -> CredentialsError);
        impl ProvideCredentials for Denying {
            fn provide_credentials<'a>(&'a self) -> future::ProvideCredentials<'a>
            where
                Self: 'a,
            {
                future::ProvideCredentials::ready(Err((self.0)()))
            }
        }
        let config = Config::builder()
            .behavior_version(BehaviorVersion::latest())
            .region(Region::new("us-east-1"))
            .endpoint_url("http://127.0.0.1:1")
            .credentials_provider(Denying(error));
        DynamoDbStore::new(Client::from_conf(config.build()), "ZAEL-test")
    }

    #[tokio::test]
    async fn without_credentials_nothing_is_sent_and_access_is_denied() {
        let key = BucketKey::new("user-1", "api").unwrap();
        let write = BucketWrite {
            incarnation: None,
            limits: vec![],
            sequence_from: 0,
            consumed_at_ms: 1_767_225_600_000,
            kept: zae_limiter_core::item::Kept::AsItIs,
        };
        for (error, kind) in [
            (
                (|| CredentialsError::not_loaded("none here")) as fn() -> CredentialsError,
                StoreErrorKind::AccessDenied,
            ),
            (
                || CredentialsError::provider_timed_out(Duration::from_secs(1)),
                StoreErrorKind::Unreachable,
            ),
        ] {
            let store = denying(error);
            assert_eq!(store.check().await.unwrap_err().kind(), kind);
            match store.write_bucket(&key, &write).await {
                WriteOutcome::Failed(error) => assert_eq!(error.kind(), kind, "{error}"),
                outcome => panic!("{outcome:?}"),
            }
        }
    }
}
