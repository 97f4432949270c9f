//! A record of the stream, and what it says of a bucket's consumption.

use serde_dynamo::AttributeValue;
pub use serde_dynamo::Item;
use zae_limiter_core::number::parse_integer;
use zae_limiter_core::usage::{Consumption, Counters};
use zae_limiter_core::{BucketKey, WallTime, schema};

/// A record of the stream, as far as usage is concerned.
#[derive(Clone, Debug)]
pub struct Record {
    /// Its sequence number in the stream, by which a failure is reported.
    pub position: String,
    /// The item's key, for messages and for order among the records of one item.
    pub item: String,
    /// What it says: nothing, if it is not about the consumption of a bucket.
    pub change: Result<Option<Change>, Unreadable>,
}

/// What one write of a bucket has consumed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// Which bucket.
    pub bucket: BucketKey,
    /// What was consumed. It is never empty.
    pub consumption: Consumption,
}

/// An item that makes no sense.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{item}: {attribute} is not {expected}; nothing of this write was counted")]
pub struct Unreadable {
    item: String,
    attribute: String,
    expected: &'static str,
}

impl Record {
    /// Reads a record: the item's key, and the item as it was before and after. A record without
    /// `new` tells of a deletion.
    #[must_use]
    pub fn read(position: String, keys: &Item, old: Option<&Item>, new: Option<&Item>) -> Self {
        let (pk, sk) = (text(keys, schema::PK), text(keys, schema::SK));
        let name = format!("{} / {}", pk.unwrap_or("?"), sk.unwrap_or("?"));
        let reader = Reader { item: &name };
        let change = match (pk.and_then(schema::id_of_entity), sk, new) {
            (Some(id), Some(sk), Some(new)) => match schema::resource_of_bucket(sk) {
                Some(resource) => reader.change(id, resource, old, new),
                None => Ok(None),
            },
            _ => Ok(None),
        };
        Self {
            position,
            item: name,
            change,
        }
    }
}

fn text<'a>(item: &'a Item, attribute: &str) -> Option<&'a str> {
    match item.get(attribute) {
        Some(AttributeValue::S(text)) => Some(text),
        _ => None,
    }
}

/// Reads one item, whose name it knows.
struct Reader<'a> {
    item: &'a str,
}

impl Reader<'_> {
    fn change(
        &self,
        id: &str,
        resource: &str,
        old: Option<&Item>,
        new: &Item,
    ) -> Result<Option<Change>, Unreadable> {
        let bucket = BucketKey::new(id, resource);
        let bucket = bucket.map_err(|_| self.unreadable("its key", "that of a bucket"))?;
        let old = old.map(|item| self.counters(item)).transpose()?;
        let consumption = Consumption::between(old.as_ref(), &self.counters(new)?);
        let consumed = !consumption.tokens.is_empty();
        Ok(consumed.then_some(Change {
            bucket,
            consumption,
        }))
    }

    fn counters(&self, item: &Item) -> Result<Counters, Unreadable> {
        let top = |name: &str| self.integer(item.get(name), || name.to_owned());
        let consumed_at: u64 = top(schema::CONSUMED_AT)?;
        let mut consumed = Vec::new();
        for (attribute, value) in item.iter() {
            if let Some(name) = schema::limit_of_attribute(attribute) {
                let AttributeValue::M(limit) = value else {
                    return Err(self.unreadable(attribute, "a map"));
                };
                let path = || format!("{attribute}.{}", schema::CONSUMED);
                consumed.push((
                    name.into(),
                    self.integer(limit.get(schema::CONSUMED), path)?,
                ));
            }
        }
        Ok(Counters {
            sequence: top(schema::SEQUENCE)?,
            consumed_at: WallTime::from_millis(consumed_at),
            consumed,
        })
    }

    fn integer<T: TryFrom<i128>>(
        &self,
        value: Option<&AttributeValue>,
        path: impl Fn() -> String,
    ) -> Result<T, Unreadable> {
        let digits = match value {
            Some(AttributeValue::N(digits)) => parse_integer(digits),
            _ => None,
        };
        let fitting = digits.and_then(|integer| T::try_from(integer).ok());
        fitting.ok_or_else(|| self.unreadable(path(), "an integer in range"))
    }

    fn unreadable(&self, attribute: impl Into<String>, expected: &'static str) -> Unreadable {
        Unreadable {
            item: self.item.to_owned(),
            attribute: attribute.into(),
            expected,
        }
    }
}
