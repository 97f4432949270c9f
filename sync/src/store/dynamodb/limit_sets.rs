//! Stored limits as items: one per limit, as in v0.2.0, and a head per set.
//!
//! A query is not isolated from a transaction: it may see one half of it. So each limit carries
//! the identifier of its set, and the head says which set stands, and how many limits it has. By
//! that a reader sees whether it has the set whole. Limits that the Python library wrote have no
//! such mark, and it replaces and deletes ours without regard for the head.

use std::collections::{BTreeMap, HashMap};

use aws_sdk_dynamodb::types::AttributeValue;
use zae_limiter_core::{Terms, schema};

use super::codec::{
    Attributes, DATA, ENTITY_ID, RESOURCE, Unreadable, data, integer, number, optional_text,
    primary_key, required_text, text, unreadable,
};
use crate::{Limit, LimitOwner, LimitScope};

/// Which set a limit belongs to, and the head stands for.
pub(super) const SET_ID: &str = "set_id";
/// How many limits the set has; in the head only.
const SET_SIZE: &str = "set_size";
const LIMIT_NAME: &str = "limit_name";
const CAPACITY: &str = "capacity";
const BURST: &str = "burst";
const REFILL_AMOUNT: &str = "refill_amount";
const REFILL_PERIOD: &str = "refill_period_seconds";

/// What is stored under one owner and resource.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct LimitSet {
    head: Option<Head>,
    /// In the order of their names.
    limits: Vec<Member>,
}

#[derive(Debug, PartialEq, Eq)]
struct Head {
    set_id: String,
    size: usize,
}

#[derive(Debug, PartialEq, Eq)]
struct Member {
    /// None if the Python library wrote it.
    set_id: Option<String>,
    limit: Limit,
}

impl LimitSet {
    /// The limits, if what was seen of them is whole for sure.
    pub(super) fn whole(&self) -> Option<Vec<Limit>> {
        let Some(head) = &self.head else {
            let ours = self.limits.iter().any(|member| member.set_id.is_some());
            return (!ours).then(|| self.as_seen());
        };
        // Others, beside a set that is whole, are left over from a larger one.
        let own = self.limits.iter();
        let own = own.filter(|member| member.set_id.as_ref() == Some(&head.set_id));
        let own: Vec<_> = own.map(|member| member.limit.clone()).collect();
        (own.len() == head.size).then_some(own)
    }

    /// All that was seen.
    pub(super) fn as_seen(&self) -> Vec<Limit> {
        let limits = self.limits.iter();
        limits.map(|member| member.limit.clone()).collect()
    }
}

fn common(scope: &LimitScope, sk: String, mut fields: Attributes) -> Attributes {
    let mut item = primary_key(scope.owner().partition(), sk);
    if let Some(id) = scope.entity_id() {
        item.insert(ENTITY_ID.to_owned(), text(id));
    }
    fields.insert(RESOURCE.to_owned(), text(scope.resource_key()));
    item.insert(DATA.to_owned(), AttributeValue::M(fields));
    item
}

/// The item of a limit.
pub(super) fn encode_limit(scope: &LimitScope, limit: &Limit, set_id: &str) -> Attributes {
    let terms = limit.terms();
    let fields = [
        (LIMIT_NAME, text(limit.name())),
        (CAPACITY, number(terms.capacity)),
        (BURST, number(terms.burst)),
        (REFILL_AMOUNT, number(terms.refill_amount)),
        (REFILL_PERIOD, number(terms.refill_period_seconds)),
        (SET_ID, text(set_id)),
    ];
    let fields = fields.map(|(field, value)| (field.to_owned(), value));
    let sk = schema::limit(scope.resource_key(), limit.name());
    common(scope, sk, HashMap::from(fields))
}

/// The key of a scope's head.
pub(super) fn head_key(scope: &LimitScope) -> Attributes {
    primary_key(
        scope.owner().partition(),
        schema::limit_set(scope.resource_key()),
    )
}

/// The item of a head.
pub(super) fn encode_head(scope: &LimitScope, set_id: &str, size: usize) -> Attributes {
    let fields = [(SET_ID, text(set_id)), (SET_SIZE, number(size))];
    let fields = fields.map(|(field, value)| (field.to_owned(), value));
    let sk = schema::limit_set(scope.resource_key());
    common(scope, sk, HashMap::from(fields))
}

/// Sorts an owner's items into sets, by scope.
///
/// # Errors
/// The item that cannot be read, and why. A resource that no scope can name, as the Python
/// library allowed, is passed over: nobody can ask for it.
pub(super) fn decode_sets<'a>(
    owner: &LimitOwner,
    items: &'a [Attributes],
) -> Result<BTreeMap<LimitScope, LimitSet>, (&'a Attributes, Unreadable)> {
    let mut sets: BTreeMap<LimitScope, LimitSet> = BTreeMap::new();
    for item in items {
        decode_into(&mut sets, owner, item).map_err(|error| (item, error))?;
    }
    for set in sets.values_mut() {
        set.limits
            .sort_by(|a, b| a.limit.name().cmp(b.limit.name()));
    }
    Ok(sets)
}

fn decode_into(
    sets: &mut BTreeMap<LimitScope, LimitSet>,
    owner: &LimitOwner,
    item: &Attributes,
) -> Result<(), Unreadable> {
    let data = data(item)?;
    let Some(scope) = owner.scope(&required_text(data, RESOURCE)?) else {
        return Ok(());
    };
    let set = sets.entry(scope).or_default();
    let set_id = optional_text(data, SET_ID)?;
    let sk = item.get(schema::SK).and_then(|sk| sk.as_s().ok());
    if sk.is_some_and(|sk| schema::resource_of_limit_set(sk).is_some()) {
        let path = |field| format!("{DATA}.{field}");
        set.head = Some(Head {
            set_id: set_id.ok_or_else(|| unreadable(path(SET_ID), "a string"))?,
            size: integer(data.get(SET_SIZE), || path(SET_SIZE))?,
        });
    } else {
        let limit = decode_limit(data)?;
        set.limits.push(Member { set_id, limit });
    }
    Ok(())
}

fn decode_limit(data: &Attributes) -> Result<Limit, Unreadable> {
    let count = |field: &str| integer(data.get(field), || format!("{DATA}.{field}"));
    let terms = Terms {
        capacity: count(CAPACITY)?,
        burst: count(BURST)?,
        refill_amount: count(REFILL_AMOUNT)?,
        refill_period_seconds: count(REFILL_PERIOD)?,
    };
    let limit = Limit::new(&required_text(data, LIMIT_NAME)?, terms);
    // A limit that cannot be one is never left out: nothing would hold in its place.
    limit.map_err(|_| unreadable(DATA.to_owned(), "a limit within the bounds of this version"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scope() -> LimitScope {
        LimitScope::entity("user-1").unwrap().on("gpt-4").unwrap()
    }

    fn limit(name: &str) -> Limit {
        Limit::per_minute(name, 7).unwrap().burst(9).unwrap()
    }

    /// As the Python library would have written it.
    fn unmarked(name: &str) -> Attributes {
        let mut item = encode_limit(&scope(), &limit(name), "");
        let AttributeValue::M(data) = item.get_mut(DATA).unwrap() else {
            panic!("a map");
        };
        data.remove(SET_ID);
        item
    }

    /// The names of the whole set; none if it is not whole.
    fn whole(items: &[Attributes]) -> Option<Vec<String>> {
        let owner = scope().owner();
        let mut sets = decode_sets(&owner, items).unwrap();
        let set = sets.remove(&scope()).unwrap_or_default();
        let names = set.whole()?.into_iter();
        Some(names.map(|limit| limit.name().to_owned()).collect())
    }

    #[test]
    fn the_items_have_the_layout_of_the_python_library_and_a_mark() {
        let item = encode_limit(&scope(), &limit("rpm"), "set-1");
        assert_eq!(item["PK"], text("ENTITY#user-1"));
        assert_eq!(item["SK"], text("#LIMIT#gpt-4#rpm"));
        assert_eq!(item["entity_id"], text("user-1"));
        assert_eq!(item.len(), 4);
        let data = item["data"].as_m().unwrap();
        let expected = [
            ("resource", text("gpt-4")),
            ("limit_name", text("rpm")),
            ("capacity", number(7)),
            ("burst", number(9)),
            ("refill_amount", number(7)),
            ("refill_period_seconds", number(60)),
            ("set_id", text("set-1")),
        ];
        let expected = expected.map(|(field, value)| (field.to_owned(), value));
        assert_eq!(*data, HashMap::from(expected));
        for (scope, pk, sk) in [
            (LimitScope::system(), "SYSTEM#", "#LIMIT#_default_#rpm"),
            (
                LimitScope::resource("gpt-4").unwrap(),
                "RESOURCE#gpt-4",
                "#LIMIT#gpt-4#rpm",
            ),
        ] {
            let item = encode_limit(&scope, &limit("rpm"), "set-1");
            assert_eq!((&item["PK"], &item["SK"]), (&text(pk), &text(sk)));
            assert!(!item.contains_key("entity_id"));
        }
    }

    #[test]
    fn a_set_is_whole_when_its_head_says_so() {
        let (a, b) = (limit("a"), limit("b"));
        let member = |limit, set| encode_limit(&scope(), limit, set);
        let head = |set, size| encode_head(&scope(), set, size);
        let names = |names: &[&str]| Some(names.iter().map(|n| (*n).to_owned()).collect());
        let full = [member(&b, "1"), member(&a, "1"), head("1", 2)];
        assert_eq!(whole(&full), names(&["a", "b"]));
        assert_eq!(whole(&full[..2]), None, "no head");
        assert_eq!(whole(&full[1..]), None, "one is missing");
        assert_eq!(whole(&full[2..]), None, "all are missing");
        assert_eq!(whole(&[]), names(&[]));
        let mixed = [member(&a, "1"), member(&b, "2"), head("2", 2)];
        assert_eq!(whole(&mixed), None);
        let larger = [member(&a, "2"), unmarked("b"), head("2", 1)];
        assert_eq!(whole(&larger), names(&["a"]));
        assert_eq!(whole(&[unmarked("a"), unmarked("b")]), names(&["a", "b"]));
        assert_eq!(whole(&[unmarked("a"), head("1", 2)]), None, "rewritten");
    }

    #[test]
    fn what_no_scope_can_name_is_passed_over_and_no_limit_is() {
        let mut odd = unmarked("a");
        let AttributeValue::M(data) = odd.get_mut(DATA).unwrap() else {
            panic!("a map");
        };
        data.insert(RESOURCE.to_owned(), text("x#y"));
        assert!(
            decode_sets(&scope().owner(), &[odd.clone()])
                .unwrap()
                .is_empty()
        );
        let AttributeValue::M(data) = odd.get_mut(DATA).unwrap() else {
            panic!("a map");
        };
        data.insert(RESOURCE.to_owned(), text("gpt-4"));
        data.insert(BURST.to_owned(), number(1));
        let items = [odd];
        let (_, error) = decode_sets(&scope().owner(), &items).unwrap_err();
        assert_eq!(error.attribute, "data");
    }
}
