//! What a caller is told of each limit.

use std::time::Duration;

use zae_limiter_core::item::BucketItem;
use zae_limiter_core::{Clock, Knowledge, Limit, Share, Ticks, WallTime, estimate};

use crate::target::Target;
use crate::{LimitStatus, RateLimitExceeded};

/// Who has refused: the tables or blocks of these buckets, by the order of the targets.
pub(crate) type Refused = [bool; 2];

/// As this process knows the limits: it has blocks, and the table has said no.
pub(crate) fn of_blocks(
    clock: &Clock,
    targets: &[Target<'_>],
    refused: Refused,
) -> Option<RateLimitExceeded> {
    let statuses = from_blocks(clock, targets, Some(refused));
    RateLimitExceeded::new(statuses, |status| is_of(status, targets, refused))
}

/// Why blocks cannot pay now, as far as is known; none if they can.
pub(crate) fn lacking_in_blocks(
    clock: &Clock,
    targets: &[Target<'_>],
) -> Option<RateLimitExceeded> {
    if_exceeded(from_blocks(clock, targets, None))
}

fn from_blocks(
    clock: &Clock,
    targets: &[Target<'_>],
    refused: Option<Refused>,
) -> Vec<LimitStatus> {
    let mut statuses = Vec::new();
    for (at, target) in targets.iter().enumerate() {
        let bucket = &target.bucket;
        let knowledge = bucket.knowledge(clock, &target.request());
        for limit in target.limits.iter() {
            let known = knowledge.iter().find(|(l, _)| l.name() == limit.name());
            let known = known.map_or_else(|| Knowledge::nothing(limit), |(_, known)| *known);
            let requested = target.requested(limit.name());
            let short = known.in_hand < requested;
            let retry_after = if short {
                known.retry_after
            } else {
                Duration::ZERO
            };
            let exceeded = match refused {
                Some(refused) => refused[at] && short && known.denied,
                None => !retry_after.is_zero(),
            };
            statuses.push(LimitStatus {
                entity_id: bucket.key().entity_id().to_owned(),
                resource: bucket.key().resource().to_owned(),
                limit: limit.clone(),
                available: known.estimate,
                requested,
                exceeded,
                retry_after,
            });
        }
    }
    statuses
}

/// Whether a status is of a bucket that has refused.
fn is_of(status: &LimitStatus, targets: &[Target<'_>], refused: Refused) -> bool {
    let mut refused = targets.iter().zip(refused).filter(|(_, refused)| *refused);
    refused.any(|(target, _)| status.entity_id == target.bucket.key().entity_id())
}

fn if_exceeded(statuses: Vec<LimitStatus>) -> Option<RateLimitExceeded> {
    let exceeded = statuses.iter().any(|status| status.exceeded);
    exceeded.then(|| RateLimitExceeded::new(statuses, |_| false))?
}

/// A bucket that has refused in the table: which of the targets, what was found, and the time by
/// which it was judged.
pub(crate) type Found<'a> = (usize, Option<&'a BucketItem>, WallTime);

/// As the table holds the limits, which has refused.
pub(crate) fn of_table(
    clock: &Clock,
    targets: &[Target<'_>],
    found: Found<'_>,
) -> Option<RateLimitExceeded> {
    let statuses = from_table(clock, targets, Some(found));
    let refused = [found.0 == 0, found.0 == 1];
    RateLimitExceeded::new(statuses, |status| is_of(status, targets, refused))
}

/// Why the table cannot pay now, as far as is known; none if it can.
pub(crate) fn lacking_in_table(clock: &Clock, targets: &[Target<'_>]) -> Option<RateLimitExceeded> {
    if_exceeded(from_table(clock, targets, None))
}

fn from_table(
    clock: &Clock,
    targets: &[Target<'_>],
    refused: Option<Found<'_>>,
) -> Vec<LimitStatus> {
    let now = clock.wall();
    let mut statuses = Vec::new();
    for (at, target) in targets.iter().enumerate() {
        let bucket = &target.bucket;
        let seen = bucket.seen();
        let found = refused.filter(|(refused, ..)| *refused == at);
        let item = found.map_or(seen.item(), |(_, item, _)| item);
        let ahead = bucket.ahead_of(&target.request());
        for (slot, limit) in target.limits.iter().enumerate() {
            let requested = target.requested(limit.name());
            let ahead = Ticks::from(ahead.tokens(slot as u32)) * limit.terms().token();
            let level = |at| drawable(item, at, limit) - ahead;
            let wait = |at| match requested {
                0 => Duration::ZERO,
                _ => limit.terms().time_until(level(at), requested),
            };
            // What refused is what lacked then; refill may have come in since.
            let exceeded = match refused {
                Some(_) => found.is_some_and(|(.., judged_at)| !wait(judged_at).is_zero()),
                None => !wait(now).is_zero(),
            };
            statuses.push(LimitStatus {
                entity_id: bucket.key().entity_id().to_owned(),
                resource: bucket.key().resource().to_owned(),
                limit: limit.clone(),
                available: limit.terms().to_tokens(level(now)),
                requested,
                exceeded,
                retry_after: wait(now),
            });
        }
    }
    statuses
}

/// What may be taken of a limit: less than its level where others hold too much.
fn drawable(item: Option<&BucketItem>, now: WallTime, limit: &Limit) -> Ticks {
    let level = estimate::level(item, now, limit);
    let found = item.and_then(|item| item.limit(limit.name()));
    found.map_or(level, |found| estimate::drawable(found, now, level))
}

/// As far as is known, with nobody refused yet: what could be had now.
pub(crate) fn estimated(clock: &Clock, targets: &[Target<'_>]) -> Vec<LimitStatus> {
    let mut statuses = Vec::new();
    for target in targets {
        let known = target.bucket.knowledge(clock, &target.request());
        for limit in target.limits.iter() {
            let found = known.iter().find(|(known, _)| known.name() == limit.name());
            let known = found.map_or_else(|| Knowledge::nothing(limit), |(_, known)| *known);
            let requested = target.requested(limit.name());
            let level = limit.terms().token() * Ticks::from(known.estimate);
            let retry_after = match requested {
                0 => Duration::ZERO,
                _ => limit.terms().time_until(level, requested),
            };
            statuses.push(LimitStatus {
                entity_id: target.bucket.key().entity_id().to_owned(),
                resource: target.bucket.key().resource().to_owned(),
                limit: limit.clone(),
                available: known.estimate,
                requested,
                exceeded: !retry_after.is_zero(),
                retry_after,
            });
        }
    }
    statuses
}

/// As this process's share of the limits stands, which has refused; none if it can never be enough.
pub(crate) fn of_share(
    clock: &Clock,
    targets: &[Target<'_>],
    share: Share,
) -> Option<RateLimitExceeded> {
    let can_ever = |target: &Target<'_>| {
        let mut limits = target.limits.iter();
        limits.all(|limit| share.can_ever(limit, target.requested(limit.name())))
    };
    if !targets.iter().all(can_ever) {
        return None;
    }
    let mut statuses = Vec::new();
    for target in targets {
        let bucket = &target.bucket;
        let levels = bucket.share_levels(clock, &target.request(), share);
        for level in levels {
            let requested = target.requested(level.limit.name());
            statuses.push(LimitStatus {
                entity_id: bucket.key().entity_id().to_owned(),
                resource: bucket.key().resource().to_owned(),
                limit: level.limit,
                available: i64::try_from(level.tokens).unwrap_or(i64::MAX),
                requested,
                exceeded: !level.retry_after.is_zero(),
                retry_after: level.retry_after,
            });
        }
    }
    RateLimitExceeded::new(statuses, |_| true)
}
