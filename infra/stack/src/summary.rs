//! A stack as it is found.

use std::collections::BTreeMap;

use aws_sdk_cloudformation::types::{self, StackStatus};
use serde::Serialize;

use crate::VERSION;
use crate::state::{self, State};

/// Tags of the stack, and so of all its resources.
pub(crate) const VERSION_TAG: &str = "zae-limiter:version";
pub(crate) const SCHEMA_TAG: &str = "zae-limiter:schema-version";
pub(crate) const LAMBDA_TAG: &str = "zae-limiter:lambda-version";
pub(crate) const TEMPLATE_TAG: &str = "zae-limiter:template";

/// A stack, and what CloudFormation knows of it.
///
/// See the example of [`StackManager`](crate::StackManager).
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct StackSummary {
    /// The stack's name, and the table's.
    pub name: String,
    /// The stack's ARN.
    pub id: String,
    /// The state that it is in, as in `CREATE_COMPLETE`.
    pub status: String,
    /// Why, as far as CloudFormation says so.
    pub reason: Option<String>,
    /// When it was created, as RFC 3339 in UTC.
    pub created_at: String,
    /// When it was last updated, if it was.
    pub updated_at: Option<String>,
    /// The template's parameters.
    pub parameters: BTreeMap<String, String>,
    /// What the template says about what it made.
    pub outputs: BTreeMap<String, String>,
    /// The stack's tags.
    pub tags: BTreeMap<String, String>,
}

impl StackSummary {
    pub(crate) fn new(stack: &types::Stack) -> Self {
        let pair = |key: Option<&str>, value: Option<&str>| {
            Some((key?.to_owned(), value.unwrap_or_default().to_owned()))
        };
        let parameters = stack.parameters().iter();
        let outputs = stack.outputs().iter();
        let tags = stack.tags().iter();
        let time = |time: Option<&aws_smithy_types::DateTime>| time.map(ToString::to_string);
        let reason = stack.stack_status_reason();
        Self {
            name: stack.stack_name().unwrap_or_default().to_owned(),
            id: stack.stack_id().unwrap_or_default().to_owned(),
            status: stack
                .stack_status()
                .map_or("", StackStatus::as_str)
                .to_owned(),
            reason: reason.filter(|reason| !reason.is_empty()).map(Into::into),
            created_at: time(stack.creation_time()).unwrap_or_default(),
            updated_at: time(stack.last_updated_time()),
            parameters: parameters
                .filter_map(|p| pair(p.parameter_key(), p.parameter_value()))
                .collect(),
            outputs: outputs
                .filter_map(|o| pair(o.output_key(), o.output_value()))
                .collect(),
            tags: tags.filter_map(|t| pair(t.key(), t.value())).collect(),
        }
    }

    /// Whether it has what it should have, now or as soon as what is under way has ended.
    ///
    /// See the example of [`StackManager::list`](crate::StackManager::list).
    #[must_use]
    pub fn is_healthy(&self) -> bool {
        state::is_healthy(&self.status)
    }

    /// Whether an operation on it is under way.
    #[must_use]
    pub fn is_busy(&self) -> bool {
        self.state() == State::Busy
    }

    /// The version of the command or crate that deployed it, if it says so.
    ///
    /// See the example of [`StackManager`](crate::StackManager).
    #[must_use]
    pub fn version(&self) -> Option<&str> {
        self.tags.get(VERSION_TAG).map(String::as_str)
    }

    /// The version of the aggregator in it, if there is one.
    #[must_use]
    pub fn lambda_version(&self) -> Option<&str> {
        self.tags.get(LAMBDA_TAG).map(String::as_str)
    }

    /// The version that deployed it, if that is newer than this one.
    pub(crate) fn newer_version(&self) -> Option<&str> {
        let version = self.version()?;
        (numbers(version)? > numbers(VERSION)?).then_some(version)
    }

    pub(crate) fn state(&self) -> State {
        State::of(&self.status)
    }

    /// A parameter that is there and not empty.
    pub(crate) fn parameter(&self, key: &str) -> Option<&str> {
        let value = self.parameters.get(key).map(String::as_str);
        value.filter(|value| !value.is_empty())
    }
}

/// The numbers of a version; what comes behind them decides nothing.
fn numbers(version: &str) -> Option<[u64; 3]> {
    let release = version.split(['-', '+']).next()?;
    let numbers: Result<Vec<_>, _> = release.split('.').map(str::parse).collect();
    numbers.ok()?.try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_compared_by_their_numbers() {
        assert!(numbers("0.10.0") > numbers("0.9.7"));
        assert_eq!(numbers("1.2.3-rc.1+x"), Some([1, 2, 3]));
        for unknown in ["", "1.2", "1.2.3.4", "one"] {
            assert_eq!(numbers(unknown), None, "{unknown}");
        }
    }
}
