//! Items of the table, to and from what they mean. Numbers are exact decimal integers; an item
//! that cannot be read is an answer that names the attribute, never a panic.

use std::collections::HashMap;

use aws_sdk_dynamodb::types::AttributeValue;
use zae_limiter_core::item::{BucketItem, LimitItem, Ring};
use zae_limiter_core::number::parse_integer;
use zae_limiter_core::{BucketKey, Terms, Ticks, schema};

/// An item, or its key, as the SDK has it.
pub(super) type Attributes = HashMap<String, AttributeValue>;

/// The number of the last write of a bucket.
pub(super) const SEQUENCE: &str = schema::SEQUENCE;
/// Which item of a bucket it is.
pub(super) const INCARNATION: &str = schema::INCARNATION;
/// When that was consumed which the last write of a bucket reported.
pub(super) const CONSUMED_AT: &str = schema::CONSUMED_AT;
/// Whose item it is.
pub(super) const ENTITY_ID: &str = "entity_id";
/// Of which resource.
pub(super) const RESOURCE: &str = "resource";
/// The map in which v0.2.0 keeps what an item says.
pub(super) const DATA: &str = "data";

/// The attributes of a limit.
pub(super) const Z: &str = "z";
pub(super) const CONSUMED: &str = schema::CONSUMED;
pub(super) const TERMS: &str = "terms";
pub(super) const RING: &str = "ring";

/// Where the numbers of a ring stand in its list: the length of an epoch, the last epoch, then
/// three slots of tokens held and three of demand.
pub(super) const RING_LEASE_TTL: usize = 0;
pub(super) const RING_EPOCH: usize = 1;
pub(super) const RING_HELD: usize = 2;
pub(super) const RING_DEMAND: usize = 5;
const RING_LEN: usize = 8;

/// What is wrong with a stored item.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Unreadable {
    /// Which attribute, as a path.
    pub(super) attribute: String,
    /// What it was expected to be.
    pub(super) expected: &'static str,
}

pub(super) fn text(value: impl Into<String>) -> AttributeValue {
    AttributeValue::S(value.into())
}

pub(super) fn number(value: impl ToString) -> AttributeValue {
    AttributeValue::N(value.to_string())
}

/// The primary key of any item.
pub(super) fn primary_key(pk: String, sk: impl Into<String>) -> Attributes {
    HashMap::from([
        (schema::PK.to_owned(), text(pk)),
        (schema::SK.to_owned(), text(sk)),
    ])
}

/// The primary key of a bucket.
pub(super) fn bucket_key(key: &BucketKey) -> Attributes {
    let pk = schema::entity(key.entity_id());
    primary_key(pk, schema::bucket(key.resource()))
}

pub(super) fn encode_terms(terms: &Terms) -> AttributeValue {
    AttributeValue::M(HashMap::from([
        ("capacity".to_owned(), number(terms.capacity)),
        ("burst".to_owned(), number(terms.burst)),
        ("refill_amount".to_owned(), number(terms.refill_amount)),
        (
            "refill_period_seconds".to_owned(),
            number(terms.refill_period_seconds),
        ),
    ]))
}

pub(super) fn encode_ring(ring: &Ring) -> AttributeValue {
    let mut list = vec![number(ring.lease_ttl_ms), number(ring.epoch)];
    list.extend(ring.held.iter().chain(&ring.demand_milli).map(number));
    AttributeValue::L(list)
}

pub(super) fn encode_limit(limit: &LimitItem) -> AttributeValue {
    let mut map = HashMap::from([
        (Z.to_owned(), number(limit.z)),
        (CONSUMED.to_owned(), number(limit.consumed)),
        (TERMS.to_owned(), encode_terms(&limit.terms)),
    ]);
    if let Some(ring) = &limit.ring {
        map.insert(RING.to_owned(), encode_ring(ring));
    }
    AttributeValue::M(map)
}

/// Reads a bucket; its limits come in the order of their names. Attributes that are not ours
/// are passed over.
pub(super) fn decode_bucket(item: &Attributes) -> Result<BucketItem, Unreadable> {
    let mut limits = Vec::new();
    for (attribute, value) in item {
        if let Some(name) = schema::limit_of_attribute(attribute) {
            limits.push((name.into(), decode_limit(attribute, value)?));
        }
    }
    limits.sort_by(|(a, _): &(std::sync::Arc<str>, _), (b, _)| a.cmp(b));
    Ok(BucketItem {
        incarnation: integer(item.get(INCARNATION), || INCARNATION.to_owned())?,
        sequence: integer(item.get(SEQUENCE), || SEQUENCE.to_owned())?,
        consumed_at_ms: integer(item.get(CONSUMED_AT), || CONSUMED_AT.to_owned())?,
        expires_at_seconds: match item.get(schema::TTL) {
            None => 0,
            ttl => integer(ttl, || schema::TTL.to_owned())?,
        },
        limits,
    })
}

fn decode_limit(attribute: &str, value: &AttributeValue) -> Result<LimitItem, Unreadable> {
    let limit = map(Some(value), || attribute.to_owned())?;
    let path = |field: &str| format!("{attribute}.{field}");
    let terms = map(limit.get(TERMS), || path(TERMS))?;
    let term = |field: &str| integer(terms.get(field), || format!("{attribute}.{TERMS}.{field}"));
    let terms = Terms {
        capacity: positive(term("capacity")?, || path("terms.capacity"))?,
        burst: positive(term("burst")?, || path("terms.burst"))?,
        refill_amount: positive(term("refill_amount")?, || path("terms.refill_amount"))?,
        refill_period_seconds: positive(term("refill_period_seconds")?, || {
            path("terms.refill_period_seconds")
        })?,
    };
    Ok(LimitItem {
        terms,
        z: integer(limit.get(Z), || path(Z))?,
        consumed: integer(limit.get(CONSUMED), || path(CONSUMED))?,
        ring: match limit.get(RING) {
            None => None,
            Some(ring) => Some(decode_ring(ring, || path(RING))?),
        },
    })
}

fn decode_ring(value: &AttributeValue, path: impl Fn() -> String) -> Result<Ring, Unreadable> {
    let list = value.as_l().ok().filter(|list| list.len() == RING_LEN);
    let list = list.ok_or_else(|| unreadable(path(), "a list of 8 numbers"))?;
    let at = |i: usize| integer::<i64>(list.get(i), || format!("{}[{i}]", path()));
    let unsigned = |i: usize| integer::<u64>(list.get(i), || format!("{}[{i}]", path()));
    let three = |from: usize| Ok([at(from)?, at(from + 1)?, at(from + 2)?]);
    Ok(Ring {
        lease_ttl_ms: unsigned(RING_LEASE_TTL)?,
        epoch: unsigned(RING_EPOCH)?,
        held: three(RING_HELD)?,
        demand_milli: three(RING_DEMAND)?,
    })
}

/// The map that v0.2.0 keeps everything in.
pub(super) fn data(item: &Attributes) -> Result<&Attributes, Unreadable> {
    map(item.get(DATA), || DATA.to_owned())
}

/// A string of that map; none if it is not there, or null.
pub(super) fn optional_text(data: &Attributes, field: &str) -> Result<Option<String>, Unreadable> {
    match data.get(field) {
        None | Some(AttributeValue::Null(_)) => Ok(None),
        Some(AttributeValue::S(text)) => Ok(Some(text.clone())),
        Some(_) => Err(unreadable(format!("{DATA}.{field}"), "a string")),
    }
}

/// A string of that map that must be there.
pub(super) fn required_text(data: &Attributes, field: &str) -> Result<String, Unreadable> {
    optional_text(data, field)?.ok_or_else(|| unreadable(format!("{DATA}.{field}"), "a string"))
}

/// A string, or the null that v0.2.0 puts in place of one.
pub(super) fn text_or_null(value: Option<&String>) -> AttributeValue {
    value.map_or(AttributeValue::Null(true), text)
}

pub(super) fn unreadable(attribute: String, expected: &'static str) -> Unreadable {
    Unreadable {
        attribute,
        expected,
    }
}

pub(super) fn map(
    value: Option<&AttributeValue>,
    path: impl Fn() -> String,
) -> Result<&Attributes, Unreadable> {
    let found = value.and_then(|value| value.as_m().ok());
    found.ok_or_else(|| unreadable(path(), "a map"))
}

pub(super) fn positive(value: u64, path: impl Fn() -> String) -> Result<u64, Unreadable> {
    // A zero would be divided by.
    if value == 0 {
        return Err(unreadable(path(), "a positive integer"));
    }
    Ok(value)
}

pub(super) fn integer<T: TryFrom<Ticks>>(
    value: Option<&AttributeValue>,
    path: impl Fn() -> String,
) -> Result<T, Unreadable> {
    let digits = value.and_then(|value| value.as_n().ok());
    let exact = digits.and_then(|digits| parse_integer(digits));
    let fitting = exact.and_then(|exact| T::try_from(exact).ok());
    fitting.ok_or_else(|| unreadable(path(), "an integer in range"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limit(ring: Option<Ring>) -> LimitItem {
        LimitItem {
            terms: Terms {
                capacity: 1,
                burst: 2,
                refill_amount: 3,
                refill_period_seconds: 4,
            },
            z: -123_456_789_012_345_678_901_234_567_890_123,
            consumed: -5,
            ring,
        }
    }

    fn item(attribute: &str, value: AttributeValue) -> Attributes {
        HashMap::from([
            (INCARNATION.to_owned(), number(6)),
            (SEQUENCE.to_owned(), number(7)),
            (CONSUMED_AT.to_owned(), number(8)),
            (attribute.to_owned(), value),
        ])
    }

    #[test]
    fn a_limit_comes_back_as_it_was_stored() {
        let ring = Ring {
            lease_ttl_ms: 10_000,
            epoch: u64::MAX,
            held: [1, -2, i64::MAX],
            demand_milli: [i64::MIN, 4, 5],
        };
        for stored in [limit(None), limit(Some(ring))] {
            let read = decode_bucket(&item("limit#a.b-c_d", encode_limit(&stored))).unwrap();
            assert_eq!((read.sequence, read.consumed_at_ms), (7, 8));
            assert_eq!(read.limit("a.b-c_d"), Some(&stored));
        }
    }

    #[test]
    fn what_cannot_be_read_is_named() {
        let broken = |path: &[&str], value: AttributeValue| {
            let mut map = encode_limit(&limit(Some(Ring::default())));
            let (last, parents) = path.split_last().unwrap();
            let parent = parents.iter().fold(&mut map, |at, field| match at {
                AttributeValue::M(fields) => fields.get_mut(*field).unwrap(),
                other => other,
            });
            match parent {
                AttributeValue::M(fields) => drop(fields.insert((*last).to_owned(), value)),
                AttributeValue::L(list) => list[last.parse::<usize>().unwrap()] = value,
                _ => unreachable!(),
            }
            decode_bucket(&item("limit#rpm", map))
                .unwrap_err()
                .attribute
        };
        assert_eq!(broken(&["z"], number("1.5")), "limit#rpm.z");
        assert_eq!(broken(&["z"], number("1E+99")), "limit#rpm.z");
        assert_eq!(broken(&["consumed"], text("1")), "limit#rpm.consumed");
        assert_eq!(broken(&["terms"], text("x")), "limit#rpm.terms");
        assert_eq!(
            broken(&["terms", "burst"], number(-1)),
            "limit#rpm.terms.burst"
        );
        let none = number(0);
        assert_eq!(
            broken(&["terms", "refill_period_seconds"], none),
            "limit#rpm.terms.refill_period_seconds"
        );
        assert_eq!(
            broken(&["ring"], AttributeValue::L(vec![])),
            "limit#rpm.ring"
        );
        assert_eq!(broken(&["ring", "3"], text("x")), "limit#rpm.ring[3]");
        let no_map = decode_bucket(&item("limit#rpm", text("x"))).unwrap_err();
        assert_eq!(no_map.attribute, "limit#rpm");
        let nothing = decode_bucket(&HashMap::new()).unwrap_err();
        assert_eq!(nothing.attribute, INCARNATION);
    }
}
