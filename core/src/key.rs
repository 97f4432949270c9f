//! [`BucketKey`]: which bucket, in one short string.

use std::hash::{Hash, Hasher};

use smol_str::{SmolStr, format_smolstr};

use crate::ValidationError;

/// Which bucket: an entity and a resource.
///
/// Both in one string, with the delimiter that neither contains between them; without an
/// allocation if that has at most 23 bytes.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct BucketKey(SmolStr);

const DELIMITER: u8 = b'#';

impl BucketKey {
    /// The bucket of `entity_id` for `resource`.
    ///
    /// # Errors
    /// [`ValidationError`] if either is not a valid identifier or name.
    pub fn new(entity_id: &str, resource: &str) -> Result<Self, ValidationError> {
        crate::validate_identifier("entity_id", entity_id)?;
        crate::validate_name("resource", resource)?;
        Ok(Self(format_smolstr!("{entity_id}#{resource}")))
    }

    fn parts(&self) -> (&str, &str) {
        self.0
            .split_once(char::from(DELIMITER))
            .unwrap_or((&self.0, ""))
    }

    /// Whose bucket it is.
    #[must_use]
    pub fn entity_id(&self) -> &str {
        self.parts().0
    }

    /// Of what.
    #[must_use]
    pub fn resource(&self) -> &str {
        self.parts().1
    }

    /// Whether it is the key of this bucket.
    #[inline]
    pub(crate) fn is(&self, entity_id: &str, resource: &str) -> bool {
        let key = self.0.as_bytes();
        let at = entity_id.len();
        key.len() == at + 1 + resource.len()
            && key[at] == DELIMITER
            && key[..at] == *entity_id.as_bytes()
            && key[at + 1..] == *resource.as_bytes()
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
