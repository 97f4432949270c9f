//! The one error of this crate: an input that breaks a rule.

use serde::{Deserialize, Serialize};

/// An input that breaks a rule. Nothing was changed.
///
/// ```
/// use zae_limiter_core::{Limit, ValidationErrorKind};
///
/// let error = Limit::per_minute("r#m", 100).unwrap_err();
/// assert_eq!((error.field(), error.value()), ("limit name", "r#m"));
/// assert_eq!(error.kind(), ValidationErrorKind::Name);
/// assert!(error.rule().contains("cannot contain '#'"));
/// ```
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("invalid {field} {value:?}: {rule}")]
pub struct ValidationError {
    kind: ValidationErrorKind,
    field: &'static str,
    value: String,
    rule: String,
}

/// What sort of input breaks the rule.
///
/// See the example of [`ValidationError`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum ValidationErrorKind {
    /// What should be the identifier of an entity or of a principal is none
    /// ([`validate_identifier`](crate::validate_identifier)).
    Identifier,
    /// What should be the name of a limit or of a resource is none
    /// ([`validate_name`](crate::validate_name)).
    Name,
    /// Anything else.
    Value,
}

impl ValidationError {
    /// How much of a long value an error repeats, in characters.
    const VALUE_LEN_MAX: usize = 50;

    /// `field` holds `value`, which breaks `rule`.
    ///
    /// ```
    /// use zae_limiter_core::ValidationError;
    ///
    /// let error = ValidationError::new("size", 0, "must be at least 1");
    /// assert_eq!(error.to_string(), r#"invalid size "0": must be at least 1"#);
    /// ```
    #[must_use]
    pub fn new(field: &'static str, value: impl ToString, rule: impl Into<String>) -> Self {
        let mut value = value.to_string();
        if let Some((cut, _)) = value.char_indices().nth(Self::VALUE_LEN_MAX) {
            value.truncate(cut);
            value.push_str("...");
        }
        Self {
            kind: ValidationErrorKind::Value,
            field,
            value,
            rule: rule.into(),
        }
    }

    pub(crate) fn of_kind(self, kind: ValidationErrorKind) -> Self {
        Self { kind, ..self }
    }

    /// What sort of input it was.
    ///
    /// See the example of [`ValidationError`].
    #[must_use]
    pub fn kind(&self) -> ValidationErrorKind {
        self.kind
    }

    /// Which input it was.
    ///
    /// See the example of [`ValidationError`].
    #[must_use]
    pub fn field(&self) -> &'static str {
        self.field
    }

    /// What it held, cut to 50 characters.
    ///
    /// See the example of [`ValidationError`].
    #[must_use]
    pub fn value(&self) -> &str {
        &self.value
    }

    /// The rule that it breaks.
    ///
    /// See the example of [`ValidationError`].
    #[must_use]
    pub fn rule(&self) -> &str {
        &self.rule
    }
}
