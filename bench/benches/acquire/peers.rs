//! governor's keyed check of one limit: what the fast path is measured against.

use std::hint::black_box;
use std::num::NonZeroU32;

use governor::clock::QuantaInstant;
use governor::middleware::NoOpMiddleware;
use governor::{DefaultKeyedRateLimiter, Quota};
use zae_limiter_bench::{Contestant, Keys};

use crate::timing::contestant;

type HashedWithAhash =
    DefaultKeyedRateLimiter<String, NoOpMiddleware<QuantaInstant>, ahash::RandomState>;

/// So much per second that no check is refused.
fn quota() -> Quota {
    Quota::per_second(NonZeroU32::new(1_000_000_000).expect("not zero"))
}

/// governor as it comes.
pub(crate) fn governor<'a>(name: &str, keys: &'a Keys, threads: usize) -> Contestant<'a> {
    let limiter = DefaultKeyedRateLimiter::<String>::keyed(quota());
    let known = keys
        .names()
        .iter()
        .all(|key| limiter.check_key(key).is_ok());
    assert!(known, "governor has refused the first check of a key");
    contestant(name, threads, move |at| {
        black_box(&limiter.check_key(black_box(keys.at(at)))).is_ok()
    })
}

/// governor with the hash function that zae-limiter uses.
pub(crate) fn governor_ahash<'a>(name: &str, keys: &'a Keys, threads: usize) -> Contestant<'a> {
    let limiter = HashedWithAhash::dashmap_with_hasher(quota(), ahash::RandomState::new());
    let known = keys
        .names()
        .iter()
        .all(|key| limiter.check_key(key).is_ok());
    assert!(known, "governor has refused the first check of a key");
    contestant(name, threads, move |at| {
        black_box(&limiter.check_key(black_box(keys.at(at)))).is_ok()
    })
}
