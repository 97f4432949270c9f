//! What a caller is told of each limit.

use std::time::Duration;

use zae_limiter_core::item::BucketItem;
use zae_limiter_core::{Clock, Knowledge, Limit, Share, Ticks, WallTime, plan};

use crate::target::Target;
use crate::{LimitStatus, RateLimitExceeded};

/// As this process knows the limits: it has blocks, and the table has said no.
pub(crate) fn of_blocks(
    clock: &Clock,
    targets: &[Target<'_>],
    refused: [bool; 2],
) -> RateLimitExceeded {
    let mut statuses = Vec::new();
    for (target, refused) in targets.iter().zip(refused) {
        let bucket = &target.bucket;
        let knowledge = bucket.knowledge(clock, &target.request());
        for limit in target.limits.iter() {
            let known = knowledge.iter().find(|(l, _)| l.name() == limit.name());
            let known = known.map_or_else(|| Knowledge::nothing(limit), |(_, known)| *known);
            let requested = target.requested(limit.name());
            let short = known.in_hand < requested;
            statuses.push(LimitStatus {
                entity_id: bucket.key().entity_id().to_owned(),
                resource: bucket.key().resource().to_owned(),
                limit: limit.clone(),
                available: known.estimate,
                requested,
                exceeded: refused && short && known.denied,
                retry_after: if short {
                    known.retry_after
                } else {
                    Duration::ZERO
                },
            });
        }
    }
    // Between the refusal and this look, tokens may have come in.
    if !statuses.iter().any(|s| s.exceeded) {
        let at = refused.iter().position(|refused| *refused);
        let asked = |s: &&mut LimitStatus| is_of(s, targets, at) && s.requested > 0;
        if let Some(status) = statuses
            .iter_mut()
            .filter(asked)
            .max_by_key(|s| s.retry_after)
        {
            status.exceeded = true;
        }
    }
    RateLimitExceeded::new(statuses)
}

/// Whether a status is of the bucket that has refused, if one has.
fn is_of(status: &LimitStatus, targets: &[Target<'_>], refused: Option<usize>) -> bool {
    let bucket = refused.and_then(|at| targets.get(at)).map(|t| &t.bucket);
    bucket.is_none_or(|bucket| status.entity_id == bucket.key().entity_id())
}

/// As the table holds the limits: which bucket has refused, and what it was found to be.
pub(crate) fn of_table(
    clock: &Clock,
    targets: &[Target<'_>],
    refused: Option<(usize, Option<&BucketItem>)>,
) -> RateLimitExceeded {
    let now = clock.wall();
    let mut statuses = Vec::new();
    for (at, target) in targets.iter().enumerate() {
        let bucket = &target.bucket;
        let seen = bucket.seen();
        let found = refused.filter(|(refused, _)| *refused == at);
        let item = found.map_or(seen.item(), |(_, item)| item);
        let ahead = bucket.ahead_of(&target.request());
        for (slot, limit) in target.limits.iter().enumerate() {
            let requested = target.requested(limit.name());
            let ahead = Ticks::from(ahead.tokens(slot as u32)) * limit.terms().token();
            let level = drawable(item, now, limit) - ahead;
            let retry_after = limit.terms().time_until(level, requested);
            statuses.push(LimitStatus {
                entity_id: bucket.key().entity_id().to_owned(),
                resource: bucket.key().resource().to_owned(),
                limit: limit.clone(),
                available: limit.terms().to_tokens(level),
                requested,
                exceeded: found.is_some() && requested > 0 && !retry_after.is_zero(),
                retry_after: if requested == 0 {
                    Duration::ZERO
                } else {
                    retry_after
                },
            });
        }
    }
    // Refill may have come in since the table said no.
    let at = refused.map(|(at, _)| at);
    let asked = |s: &&mut LimitStatus| is_of(s, targets, at) && s.requested > 0;
    if !statuses.iter().any(|s| s.exceeded)
        && let Some(status) = statuses.iter_mut().find(asked)
    {
        status.exceeded = true;
    }
    RateLimitExceeded::new(statuses)
}

/// What may be taken of a limit: less than its level where others hold too much.
fn drawable(item: Option<&BucketItem>, now: WallTime, limit: &Limit) -> Ticks {
    let level = plan::level(item, now, limit);
    let found = item.and_then(|item| item.limit(limit.name()));
    found.map_or(level, |found| plan::drawable(found, now, None, level))
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

/// As this process's share of the limits stands; none if it can never be enough.
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
    // Refill may have come in since.
    if !statuses.iter().any(|s| s.exceeded)
        && let Some(status) = statuses.iter_mut().find(|s| s.requested > 0)
    {
        status.exceeded = true;
    }
    Some(RateLimitExceeded::new(statuses))
}
