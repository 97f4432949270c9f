//! Fields that are checked when they are deserialised, so that no rule is gone around.

use serde::{Deserialize, Deserializer, de::Error};
use zae_limiter_core::{validate_identifier, validate_name};

/// The identifier of an entity.
pub(crate) fn identifier<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    let id = String::deserialize(deserializer)?;
    validate_identifier("entity_id", &id).map_err(D::Error::custom)?;
    Ok(id)
}

/// The identifier of an entity, or none.
pub(crate) fn optional_identifier<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<String>, D::Error> {
    let id = Option::<String>::deserialize(deserializer)?;
    if let Some(id) = &id {
        validate_identifier("parent_id", id).map_err(D::Error::custom)?;
    }
    Ok(id)
}

/// What is to become of an identifier: it was not left out, so it changes, if only to none.
pub(crate) fn changed_identifier<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<Option<String>>, D::Error> {
    optional_identifier(deserializer).map(Some)
}

/// The name of a resource.
pub(crate) fn name<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    let name = String::deserialize(deserializer)?;
    validate_name("resource", &name).map_err(D::Error::custom)?;
    Ok(name)
}
