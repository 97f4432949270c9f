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
            && same(&key[..at], entity_id.as_bytes())
            && same(&key[at + 1..], resource.as_bytes())
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

/// Whether two short strings are the same: word by word, the last word overlapping. On strings
/// as short as names are, a call of the library's comparison costs more than the comparing.
#[inline(always)]
pub(crate) fn same(a: &[u8], b: &[u8]) -> bool {
    fn words<const N: usize>(a: &[u8], b: &[u8]) -> bool {
        let (a_words, b_words) = (a.as_chunks::<N>().0, b.as_chunks::<N>().0);
        a_words == b_words && a.last_chunk::<N>() == b.last_chunk::<N>()
    }
    match a.len() {
        n if n != b.len() => false,
        0..4 => a.iter().zip(b).all(|(a, b)| a == b),
        4..8 => {
            a.first_chunk::<4>() == b.first_chunk::<4>()
                && a.last_chunk::<4>() == b.last_chunk::<4>()
        }
        8..16 => {
            a.first_chunk::<8>() == b.first_chunk::<8>()
                && a.last_chunk::<8>() == b.last_chunk::<8>()
        }
        _ => words::<16>(a, b),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comparing_word_by_word_is_comparing() {
        let text = "abcdefghijklmnopqrstuvwxyz0123456789ABCDEFGHIJ".as_bytes();
        for len in 0..text.len() {
            let mut other = text[..len].to_vec();
            assert!(same(&text[..len], &other));
            assert!(!same(&text[..=len], &other));
            for at in 0..len {
                other[at] ^= 1;
                assert!(!same(&text[..len], &other), "{len} {at}");
                other[at] ^= 1;
            }
        }
    }

    #[test]
    fn a_key_is_found_by_its_parts_and_no_others() {
        let key = BucketKey::new("user:1", "gpt-4").expect("a key");
        assert_eq!((key.entity_id(), key.resource()), ("user:1", "gpt-4"));
        assert!(key.is("user:1", "gpt-4"));
        for (entity_id, resource) in [("user:1", "gpt-5"), ("user:2", "gpt-4"), ("user", "gpt-4")] {
            assert!(!key.is(entity_id, resource));
        }
        assert!(
            !key.is("user:1#", "gpt-"),
            "the delimiter is where it belongs"
        );
    }
}
