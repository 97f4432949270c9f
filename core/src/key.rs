//! [`BucketKey`]: which bucket, in one short string.

use std::hash::{Hash, Hasher};

use smol_str::{SmolStr, format_smolstr};

use crate::ValidationError;

/// Which bucket: an entity and a resource.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct BucketKey {
    /// Both with the delimiter that neither contains between; short ones without an allocation.
    joined: SmolStr,
    entity_len: u16,
}

impl BucketKey {
    /// The bucket of `entity_id` for `resource`.
    ///
    /// # Errors
    /// [`ValidationError`] if either is not a valid identifier or name.
    pub fn new(entity_id: &str, resource: &str) -> Result<Self, ValidationError> {
        crate::validate_identifier("entity_id", entity_id)?;
        crate::validate_name("resource", resource)?;
        Ok(Self {
            joined: format_smolstr!("{entity_id}#{resource}"),
            entity_len: entity_id.len() as u16, // at most IDENTIFIER_LEN_MAX
        })
    }

    /// Whose bucket it is.
    #[inline]
    #[must_use]
    pub fn entity_id(&self) -> &str {
        &self.joined[..usize::from(self.entity_len)]
    }

    /// Whether it is the key of this bucket.
    #[inline]
    pub(crate) fn is(&self, entity_id: &str, resource: &str) -> bool {
        let joined = self.joined.as_bytes();
        let at = entity_id.len();
        usize::from(self.entity_len) == at
            && joined.len() == at + 1 + resource.len()
            && joined[..at] == *entity_id.as_bytes()
            && joined[at + 1..] == *resource.as_bytes()
    }

    /// Of what.
    #[inline]
    #[must_use]
    pub fn resource(&self) -> &str {
        &self.joined[usize::from(self.entity_len) + 1..]
    }
}

impl Hash for BucketKey {
    fn hash<H: Hasher>(&self, state: &mut H) {
        hash_key(self.entity_id(), self.resource(), state);
    }
}

/// The hash of a key that nobody owns yet.
#[inline]
pub(crate) fn hash_key<H: Hasher>(entity_id: &str, resource: &str, state: &mut H) {
    state.write(entity_id.as_bytes());
    state.write(resource.as_bytes());
}
