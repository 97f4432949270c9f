//! What is named on the command line, checked as it is read: so the message is clap's, and says
//! which option is wrong.

use std::path::PathBuf;

use zae_limiter::ValidationError;
use zae_limiter_core::{
    table_name, validate_endpoint_url, validate_identifier, validate_name, validate_region,
};

/// The text, if it breaks no rule; else the rule.
fn checked(text: &str, check: Result<(), ValidationError>) -> Result<String, String> {
    check.map_err(|error| error.rule().to_owned())?;
    Ok(text.to_owned())
}

/// A limiter's name.
pub(crate) fn limiter(text: &str) -> Result<String, String> {
    checked(text, table_name(text).map(drop))
}

/// A region of AWS.
pub(crate) fn region(text: &str) -> Result<String, String> {
    checked(text, validate_region(text))
}

/// Where AWS, or what plays it, is.
pub(crate) fn endpoint_url(text: &str) -> Result<String, String> {
    checked(text, validate_endpoint_url(text))
}

/// An entity's identifier.
pub(crate) fn entity(text: &str) -> Result<String, String> {
    checked(text, validate_identifier("entity", text))
}

/// Who makes a change.
pub(crate) fn principal(text: &str) -> Result<String, String> {
    checked(text, validate_identifier("principal", text))
}

/// A resource.
pub(crate) fn resource(text: &str) -> Result<String, String> {
    checked(text, validate_name("resource", text))
}

/// A limit's name.
pub(crate) fn limit(text: &str) -> Result<String, String> {
    checked(text, validate_name("limit", text))
}

/// A program that is there.
pub(crate) fn program(text: &str) -> Result<PathBuf, String> {
    let path = PathBuf::from(text);
    match path.is_file() {
        true => Ok(path),
        false => Err("must be a program that is there".to_owned()),
    }
}
