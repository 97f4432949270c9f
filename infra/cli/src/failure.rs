//! How a command ends when it does not do what it was asked.

use std::fmt;

use zae_limiter::store::{StoreError, StoreErrorKind};
use zae_limiter::{Error, ErrorKind, StackError, StackErrorKind, ValidationError};

/// What the exit codes mean, for the help.
pub(crate) const EXIT_CODES: &str = "\
Exit codes:
  0    success
  1    failure, or an answer that is not a good one
  2    invalid arguments
  3    AWS could not be asked, or said no
  4    there is no such stack, table or entity
  130  interrupted

AWS credentials and defaults come from where the AWS command takes them: AWS_PROFILE, AWS_REGION,
AWS_ENDPOINT_URL and so on.";

/// A command that did not do what it was asked.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) code: u8,
    message: String,
}

impl Failure {
    pub(crate) const INVALID: u8 = 2;
    const FAILED: u8 = 1;
    const AWS: u8 = 3;
    const ABSENT: u8 = 4;
    const INTERRUPTED: u8 = 130;

    /// It was tried, and came to nothing.
    pub(crate) fn failed(message: impl Into<String>) -> Self {
        Self::new(Self::FAILED, message)
    }

    /// AWS could not be asked, or said no.
    pub(crate) fn aws(message: impl Into<String>) -> Self {
        Self::new(Self::AWS, message)
    }

    /// There is no such thing.
    pub(crate) fn absent(message: impl Into<String>) -> Self {
        Self::new(Self::ABSENT, message)
    }

    /// Somebody wanted it to stop.
    pub(crate) fn interrupted(message: impl Into<String>) -> Self {
        Self::new(Self::INTERRUPTED, message)
    }

    /// An option or argument that makes no sense.
    pub(crate) fn invalid(message: impl Into<String>) -> Self {
        Self::new(Self::INVALID, message)
    }

    fn new(code: u8, message: impl Into<String>) -> Self {
        let message = message.into();
        Self { code, message }
    }

    /// The same failure with how to go on from it.
    pub(crate) fn advising(mut self, advice: &str) -> Self {
        self.message = format!("{}; {advice}", self.message);
        self
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

/// What is wrong with an input that could not be checked when it was read, by the name of its
/// option.
fn of_input(error: &ValidationError) -> String {
    let option = match error.field() {
        "limits" | "limit name" => "limit".to_owned(),
        "page token" => "after".to_owned(),
        "parent_id" => "parent".to_owned(),
        field => field.replace('_', "-"),
    };
    format!("invalid --{option} {:?}: {}", error.value(), error.rule())
}

impl From<ValidationError> for Failure {
    fn from(error: ValidationError) -> Self {
        Self::invalid(of_input(&error))
    }
}

impl From<StackError> for Failure {
    fn from(error: StackError) -> Self {
        match &error {
            StackError::Name(wrong) => return Self::invalid(of_input(wrong)),
            StackError::Options(wrong) => {
                let all: Vec<_> = wrong.iter().map(of_input).collect();
                return Self::invalid(all.join("\n       "));
            }
            StackError::NoAggregator => {
                let how = "name one with --aggregator, or deploy with --no-aggregator";
                return Self::failed(format!("{error} ({how})"));
            }
            StackError::Protected(_) => {
                return Self::failed(format!("{error} (--no-deletion-protection)"));
            }
            _ => {}
        }
        match error.kind() {
            StackErrorKind::Invalid | StackErrorKind::Failed => Self::failed(error.to_string()),
            _ => Self::aws(error.to_string()),
        }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        match error {
            Error::Validation(error) => error.into(),
            Error::Stack(error) => (*error).into(),
            Error::EntityNotFound(id) => Self::absent(format!("there is no entity {id:?}")),
            error => match error.kind() {
                ErrorKind::TableMissing => Self::absent(error.to_string()),
                ErrorKind::Store | ErrorKind::AccessDenied | ErrorKind::Unavailable => {
                    Self::aws(error.to_string())
                }
                ErrorKind::Settings => Self::invalid(error.to_string()),
                _ => Self::failed(error.to_string()),
            },
        }
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        match error.kind() {
            StoreErrorKind::TableMissing => Self::absent(error.to_string()),
            _ => Self::aws(error.to_string()),
        }
    }
}
