//! What may be called what: identifiers of entities, names of limits, resources and limiters, and
//! of the place where they are.
//!
//! `#` separates the parts of a key in the table, so it is never part of one.

use crate::{ValidationError, ValidationErrorKind};

/// The longest identifier of an entity, in characters.
pub const IDENTIFIER_LEN_MAX: usize = 256;
/// The longest name of a limit or resource, in characters.
pub const NAME_LEN_MAX: usize = 64;
/// What all tables of limiters, and their stacks, begin with.
pub const TABLE_PREFIX: &str = "ZAEL-";
/// The longest name of a limiter: a role's name is made of it.
const LIMITER_NAME_LEN_MAX: usize = 38;

/// Checks the identifier of an entity: 1 to 256 of `a-z A-Z 0-9 _ . - : @`, the first a letter
/// or a digit.
///
/// ```
/// use zae_limiter_core::validate_identifier;
///
/// assert!(validate_identifier("entity_id", "user@example.com").is_ok());
/// assert!(validate_identifier("entity_id", "user#1").is_err());
/// ```
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
/// ```
/// use zae_limiter_core::validate_name;
///
/// assert!(validate_name("resource", "gpt-4.1").is_ok());
/// assert!(validate_name("resource", "4o").is_err());
/// ```
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

/// The table, and the stack, of the limiter called `name`: `ZAEL-{name}`, whether or not `name`
/// begins with it.
///
/// ```
/// use zae_limiter_core::table_name;
///
/// assert_eq!(table_name("my-app")?, "ZAEL-my-app");
/// # Ok::<(), zae_limiter_core::ValidationError>(())
/// ```
///
/// # Errors
/// [`ValidationError`] if the name is empty, over 38 characters, does not begin with a letter,
/// or has other characters than letters, digits and hyphens.
pub fn table_name(name: &str) -> Result<String, ValidationError> {
    let short = name.strip_prefix(TABLE_PREFIX).unwrap_or(name);
    let fail = |rule: &str| Err(ValidationError::new("name", name, rule));
    if short.is_empty() {
        return fail("cannot be empty");
    }
    if short.contains('_') {
        return fail("contains an underscore; use hyphens, as in 'rate-limits'");
    }
    if short.contains(' ') {
        return fail("contains a space; use hyphens, as in 'my-app'");
    }
    if !short.starts_with(|c: char| c.is_ascii_alphabetic()) {
        return fail("must start with a letter");
    }
    if !short.chars().all(|c| c.is_ascii_alphanumeric() || c == '-') {
        return fail("may contain only letters, digits and hyphens");
    }
    if short.len() > LIMITER_NAME_LEN_MAX {
        return fail("exceeds 38 characters, the longest that a role's name leaves room for");
    }
    Ok(format!("{TABLE_PREFIX}{short}"))
}

/// Checks the name of a region: letters, digits and hyphens. Others end up in host names.
///
/// ```
/// # use zae_limiter_core::validate_region;
/// assert!(validate_region("eu-west-1").is_ok());
/// assert!(validate_region("eu west").is_err());
/// ```
///
/// # Errors
/// [`ValidationError`].
pub fn validate_region(region: &str) -> Result<(), ValidationError> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || c == '-';
    if !region.is_empty() && region.chars().all(allowed) {
        return Ok(());
    }
    let rule = "must be letters, digits and hyphens, as in us-east-1";
    Err(ValidationError::new("region", region, rule))
}

/// Checks an endpoint: `http://` or `https://`, and something after it.
///
/// ```
/// # use zae_limiter_core::validate_endpoint_url;
/// assert!(validate_endpoint_url("http://localhost:4566").is_ok());
/// assert!(validate_endpoint_url("localhost:4566").is_err());
/// ```
///
/// # Errors
/// [`ValidationError`].
pub fn validate_endpoint_url(url: &str) -> Result<(), ValidationError> {
    let rest = url.strip_prefix("http://");
    let rest = rest.or_else(|| url.strip_prefix("https://"));
    let is_url = |rest: &str| !rest.is_empty() && rest.chars().all(|c| c.is_ascii_graphic());
    if rest.is_some_and(is_url) {
        return Ok(());
    }
    let rule = "must be a URL, as in http://localhost:4566";
    Err(ValidationError::new("endpoint_url", url, rule))
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
    fn identifiers_of_the_python_library_pass() {
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
    fn each_rule_is_named_in_the_order_of_the_python_library() {
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

    #[test]
    fn the_name_of_a_limiter_fits_into_those_of_its_resources() {
        for name in ["my-app", "ZAEL-my-app", "a", &"x".repeat(38)] {
            let table = table_name(name).expect(name);
            let short = name.strip_prefix("ZAEL-").unwrap_or(name);
            assert_eq!(table, format!("ZAEL-{short}"));
        }
        for (name, rule) in [
            ("", "cannot be empty"),
            ("ZAEL-", "cannot be empty"),
            ("rate_limits", "underscore"),
            ("my app", "space"),
            ("1app", "start with a letter"),
            ("my.app", "only letters"),
            (&"x".repeat(39), "exceeds 38"),
        ] {
            let error = table_name(name).expect_err(name);
            assert!(error.to_string().contains(rule), "{error}");
        }
    }

    #[test]
    fn places_are_those_that_can_be() {
        validate_region("us-gov-west-1").expect("a region");
        for region in ["", "us east 1", "us-east-1/", "é"] {
            let error = validate_region(region).expect_err(region);
            assert_eq!(error.field(), "region");
        }
        validate_endpoint_url("http://[::1]:4566").expect("a URL");
        for url in ["", "localhost:4566", "http://", "https://a b", "ftp://a"] {
            let error = validate_endpoint_url(url).expect_err(url);
            assert_eq!(error.field(), "endpoint_url");
        }
    }
}
