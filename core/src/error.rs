//! The one error of this crate: an input that breaks a rule.

/// An input that breaks a rule. Nothing was changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("invalid {field} {value:?}: {rule}")]
pub struct ValidationError {
    field: &'static str,
    value: String,
    rule: String,
}

impl ValidationError {
    /// How much of a long value an error repeats, in characters.
    const VALUE_LEN_MAX: usize = 50;

    /// `field` holds `value`, which breaks `rule`.
    #[must_use]
    pub fn new(field: &'static str, value: impl ToString, rule: impl Into<String>) -> Self {
        let mut value = value.to_string();
        if let Some((cut, _)) = value.char_indices().nth(Self::VALUE_LEN_MAX) {
            value.truncate(cut);
            value.push_str("...");
        }
        Self {
            field,
            value,
            rule: rule.into(),
        }
    }

    /// Which input it was.
    #[must_use]
    pub fn field(&self) -> &'static str {
        self.field
    }

    /// What it held, cut to 50 characters.
    #[must_use]
    pub fn value(&self) -> &str {
        &self.value
    }

    /// The rule that it breaks.
    #[must_use]
    pub fn rule(&self) -> &str {
        &self.rule
    }
}
