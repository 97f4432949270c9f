//! Values of HTTP fields that tell clients of limits: for responses that were refused, and for
//! those that were not.
//!
//! `RateLimit` and `RateLimit-Policy` are those of draft-ietf-httpapi-ratelimit-headers-11: lists
//! of structured fields (RFC 9651), one item per limit.
//!
//! ```
//! use zae_limiter::{Limit, RateLimiter, http};
//!
//! # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), zae_limiter::Error> {
//! let limiter = RateLimiter::builder("my-app").in_memory().connect().await?;
//! let limits = [Limit::per_minute("rpm", 100)?];
//! let lease = limiter.acquire("user-1", "gpt-4").limits(&limits).consume("rpm", 30).await?;
//! let statuses = lease.statuses();
//! assert_eq!(http::rate_limit_policy(&statuses), r#""rpm";q=100;w=60"#);
//! assert_eq!(http::rate_limit(&statuses), r#""rpm";r=70"#);
//! # Ok(()) }
//! ```
//!
//! A limit is called by its name; the same of a parent, where an acquire cascades, `parent:rpm`.
//! Identifiers of entities are not told: they may be secrets.

use std::fmt::Write;
use std::time::Duration;

use crate::LimitStatus;

/// The largest integer of a structured field.
const INTEGER_MAX: u64 = 999_999_999_999_999;

/// The value of `RateLimit`: of each limit the tokens that are left (`r`), and where that is not
/// enough, in how many seconds it will be (`t`, rounded up, so 1 at least). Empty if there are no statuses: then
/// leave the field out.
///
/// It is an estimate, as the statuses are. No `t` is greater than the value of `Retry-After` for
/// the same statuses.
///
/// See the example of the [module](self).
#[must_use]
pub fn rate_limit(statuses: &[LimitStatus]) -> String {
    list(statuses, |status, item| {
        let left = u64::try_from(status.available).unwrap_or(0);
        write!(item, ";r={}", left.min(INTEGER_MAX))?;
        if status.exceeded {
            // What is not enough never is so at once.
            write!(item, ";t={}", seconds(status.retry_after).max(1))?;
        }
        Ok(())
    })
}

/// The value of `RateLimit-Policy`: of each limit the tokens that flow in (`q`) per refill period
/// (`w`, in seconds). Empty if there are no statuses: then leave the field out.
///
/// See the example of the [module](self).
#[must_use]
pub fn rate_limit_policy(statuses: &[LimitStatus]) -> String {
    list(statuses, |status, item| {
        let limit = &status.limit;
        let window = limit.refill_period().as_secs();
        write!(item, ";q={};w={window}", limit.refill_amount())
    })
}

/// Whole seconds, rounded up: less is too early.
pub(crate) fn seconds(duration: Duration) -> u64 {
    let begun = u64::from(duration.subsec_nanos() > 0);
    duration.as_secs().saturating_add(begun).min(INTEGER_MAX)
}

fn list(
    statuses: &[LimitStatus],
    parameters: impl Fn(&LimitStatus, &mut String) -> std::fmt::Result,
) -> String {
    let mut list = String::new();
    for status in statuses {
        let own = status.entity_id == statuses[0].entity_id;
        let (comma, of) = (
            if list.is_empty() { "" } else { ", " },
            if own { "" } else { "parent:" },
        );
        // A name has no character that would have to be escaped, and writing to a string never
        // fails.
        let _ = write!(list, "{comma}\"{of}{}\"", status.limit.name());
        let _ = parameters(status, &mut list);
    }
    list
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Limit, RateLimitExceeded};
    use proptest::prelude::*;
    use sfv::{BareItem, Item, List, ListEntry, Parser};

    fn status(entity_id: &str, limit: Limit, available: i64) -> LimitStatus {
        LimitStatus {
            entity_id: entity_id.into(),
            resource: "gpt-4".into(),
            limit,
            available,
            requested: 1,
            exceeded: available < 1,
            retry_after: Duration::from_millis(11_001),
        }
    }

    #[test]
    fn every_limit_is_named_with_what_is_left_of_it() {
        let rpm = Limit::per_minute("rpm", 100).unwrap();
        let jobs = Limit::custom("jobs.v2", 100, 10, Duration::from_secs(30)).unwrap();
        let statuses = [
            status("key", rpm.clone(), -5),
            status("key", jobs, 7),
            status("project", rpm, 0),
        ];
        assert_eq!(
            rate_limit_policy(&statuses),
            r#""rpm";q=100;w=60, "jobs.v2";q=10;w=30, "parent:rpm";q=100;w=60"#
        );
        assert_eq!(
            rate_limit(&statuses),
            r#""rpm";r=0;t=12, "jobs.v2";r=7, "parent:rpm";r=0;t=12"#
        );
        let exceeded = RateLimitExceeded::new(statuses.to_vec(), |_| false).unwrap();
        assert_eq!(exceeded.retry_after_header(), "12");
        assert_eq!(
            (rate_limit(&[]), rate_limit_policy(&[])),
            Default::default()
        );
    }

    #[test]
    fn seconds_are_rounded_up_and_nothing_stays_nothing() {
        let rounded = |nanos| seconds(Duration::from_nanos(nanos));
        assert_eq!(
            [0, 1, 1_000_000_000, 1_000_000_001].map(rounded),
            [0, 1, 1, 2]
        );
        assert_eq!(seconds(Duration::MAX), INTEGER_MAX);
    }

    fn integer(item: &Item, name: &str) -> Option<i64> {
        match item.params.get(name)? {
            BareItem::Integer(integer) => Some(i64::from(*integer)),
            other => panic!("{name} is {other:?}"),
        }
    }

    /// The items of a field with the strings that they are.
    fn parsed(field: &str) -> Vec<(String, Item)> {
        let list: List = Parser::new(field).parse().expect("a list");
        let item = |entry| match entry {
            ListEntry::Item(item) => match &item.bare_item {
                BareItem::String(name) => (name.as_str().to_owned(), item),
                other => panic!("{other:?} is no string"),
            },
            ListEntry::InnerList(list) => panic!("{list:?} is no item"),
        };
        list.into_iter().map(item).collect()
    }

    fn limits() -> impl Strategy<Value = Limit> {
        let names = "[a-zA-Z][a-zA-Z0-9_.\\-]{0,63}";
        let tokens = || 1..=Limit::TOKENS_MAX;
        (names, tokens(), tokens(), 1..=Limit::PERIOD_MAX.as_secs()).prop_map(
            |(name, capacity, refill, period)| {
                Limit::custom(&name, capacity, refill, Duration::from_secs(period)).unwrap()
            },
        )
    }

    proptest! {
        #[test]
        fn whatever_a_limit_is_called_and_however_it_stands_the_fields_are_well_formed(
            limits in prop::collection::vec((limits(), any::<i64>(), any::<Duration>(), any::<bool>()), 1..6),
        ) {
            let statuses: Vec<_> = limits.into_iter().map(|(limit, available, retry_after, exceeded)| {
                LimitStatus { retry_after, exceeded, ..status("key", limit, available) }
            }).collect();
            let (fields, policies) = (parsed(&rate_limit(&statuses)), parsed(&rate_limit_policy(&statuses)));
            prop_assert_eq!((fields.len(), policies.len()), (statuses.len(), statuses.len()));
            let longest = statuses.iter().filter(|s| s.exceeded).map(|s| seconds(s.retry_after).max(1)).max();
            for ((status, (name, field)), (policy_name, policy)) in statuses.iter().zip(&fields).zip(&policies) {
                prop_assert_eq!(name.as_str(), status.limit.name());
                prop_assert_eq!(name, policy_name);
                prop_assert!(integer(field, "r").is_some_and(|left| left >= 0));
                prop_assert_eq!(integer(field, "t").is_some(), status.exceeded);
                prop_assert!(integer(field, "t").is_none_or(|t| t > 0 && Some(t as u64) <= longest));
                prop_assert_eq!(integer(policy, "q"), i64::try_from(status.limit.refill_amount()).ok());
                prop_assert!(integer(policy, "w").is_some_and(|window| window > 0));
            }
        }
    }
}
