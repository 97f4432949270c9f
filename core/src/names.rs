//! What may be called what: identifiers of entities, names of limits and resources.
//!
//! `#` separates the parts of a key in the table, so it is never part of one.

use crate::{ValidationError, ValidationErrorKind};

/// The longest identifier of an entity, in characters.
pub const IDENTIFIER_LEN_MAX: usize = 256;
/// The longest name of a limit or resource, in characters.
pub const NAME_LEN_MAX: usize = 64;

/// Checks the identifier of an entity: 1 to 256 of `a-z A-Z 0-9 _ . - : @`, the first a letter
/// or a digit.
///
/// # Errors
/// [`ValidationError`] names `field`, the value and the rule that it breaks.
pub fn validate_identifier(field: &'static str, value: &str) -> Result<(), ValidationError> {
    let checked = check(
        field,
        value,
        IDENTIFIER_LEN_MAX,
        |first| first.is_ascii_alphanumeric(),
        |rest| rest.is_ascii_alphanumeric() || "_.-:@".contains(rest),
        "must start with alphanumeric and contain only alphanumerics, '_', '.', '-', ':' and '@'",
    );
    checked.map_err(|error| error.of_kind(ValidationErrorKind::Identifier))
}

/// Checks the name of a limit or resource: 1 to 64 of `a-z A-Z 0-9 _ . -`, the first a letter.
///
/// # Errors
/// [`ValidationError`] names `field`, the value and the rule that it breaks.
pub fn validate_name(field: &'static str, value: &str) -> Result<(), ValidationError> {
    let checked = check(
        field,
        value,
        NAME_LEN_MAX,
        |first| first.is_ascii_alphabetic(),
        |rest| rest.is_ascii_alphanumeric() || "_.-".contains(rest),
        "must start with a letter and contain only alphanumerics, '_', '.' and '-'",
    );
    checked.map_err(|error| error.of_kind(ValidationErrorKind::Name))
}

fn check(
    field: &'static str,
    value: &str,
    len_max: usize,
    first_ok: impl Fn(char) -> bool,
    rest_ok: impl Fn(char) -> bool,
    alphabet: &'static str,
) -> Result<(), ValidationError> {
    let fail = |rule: String| Err(ValidationError::new(field, value, rule));
    let mut chars = value.chars();
    let Some(first) = chars.next() else {
        return fail("cannot be empty".into());
    };
    if value.chars().count() > len_max {
        return fail(format!("exceeds maximum length of {len_max}"));
    }
    if value.contains('#') {
        return fail("cannot contain '#' (reserved delimiter)".into());
    }
    if !first_ok(first) || !chars.all(rest_ok) {
        return fail(alphabet.into());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identifiers_of_the_seed_pass() {
        for id in [
            "a",
            "0",
            "user@example.com",
            "sk-proj:ABC_1.2",
            &"x".repeat(256),
        ] {
            validate_identifier("entity_id", id).expect(id);
        }
    }

    #[test]
    fn each_rule_is_named_in_the_order_of_the_seed() {
        let long = "#".repeat(257);
        for (value, rule) in [
            ("", "cannot be empty"),
            (long.as_str(), "exceeds maximum length of 256"),
            ("a#b", "cannot contain '#'"),
            ("-a", "must start with alphanumeric"),
            ("a b", "must start with alphanumeric"),
            ("é", "must start with alphanumeric"),
        ] {
            let error = validate_identifier("entity_id", value).unwrap_err();
            assert!(error.to_string().contains(rule), "{error}");
            assert_eq!(error.field(), "entity_id");
            assert_eq!(error.kind(), ValidationErrorKind::Identifier);
        }
    }

    #[test]
    fn names_are_stricter() {
        validate_name("resource", "gpt-4.1_mini").expect("a name");
        for value in ["", "4gpt", "a:b", "a@b", "a/b", "a#b", &"x".repeat(65)] {
            let error = validate_name("resource", value).expect_err(value);
            assert_eq!(error.kind(), ValidationErrorKind::Name);
        }
    }
}
