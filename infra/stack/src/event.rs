//! What CloudFormation says happens to the resources of a stack.

use std::fmt;

use aws_sdk_cloudformation::types;
use serde::Serialize;

/// A step in the life of a stack.
///
/// ```
/// use zae_limiter_infra::StackEvent;
///
/// let event = StackEvent {
///     timestamp: "2026-01-01T00:00:00Z".into(),
///     resource: "Table".into(),
///     resource_type: "AWS::DynamoDB::Table".into(),
///     status: "CREATE_FAILED".into(),
///     reason: Some("ZAEL-my-app already exists".into()),
/// };
/// assert!(event.is_failure());
/// assert_eq!(event.to_string(), "Table CREATE_FAILED: ZAEL-my-app already exists");
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct StackEvent {
    /// When it happened, as RFC 3339 in UTC.
    pub timestamp: String,
    /// What it happened to, as the template calls it, or the stack's name.
    pub resource: String,
    /// Of which type that is, as in `AWS::DynamoDB::Table`.
    pub resource_type: String,
    /// The state that it is in now, as in `CREATE_COMPLETE`.
    pub status: String,
    /// Why, as far as CloudFormation says so.
    pub reason: Option<String>,
}

impl StackEvent {
    pub(crate) fn new(event: &types::StackEvent) -> Self {
        let text = |text: Option<&str>| text.unwrap_or_default().to_owned();
        let timestamp = event.timestamp().map(ToString::to_string);
        let status = event.resource_status().map(types::ResourceStatus::as_str);
        let reason = event.resource_status_reason();
        Self {
            timestamp: timestamp.unwrap_or_default(),
            resource: text(event.logical_resource_id()),
            resource_type: text(event.resource_type()),
            status: text(status),
            reason: reason.filter(|reason| !reason.is_empty()).map(Into::into),
        }
    }

    /// Whether it is the failure of a resource, by its own fault and not because another failed.
    ///
    /// See the example of [`StackEvent`].
    #[must_use]
    pub fn is_failure(&self) -> bool {
        let cancelled = |reason: &str| reason.to_lowercase().contains("cancelled");
        self.status.ends_with("_FAILED") && !self.reason.as_deref().is_some_and(cancelled)
    }
}

impl fmt::Display for StackEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.resource, self.status)?;
        match &self.reason {
            Some(reason) => write!(f, ": {reason}"),
            None => Ok(()),
        }
    }
}
