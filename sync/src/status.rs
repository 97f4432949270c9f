//! What a refused caller is told of each limit.

use std::time::Duration;

use zae_limiter_core::item::BucketItem;
use zae_limiter_core::{BucketRef, Share, plan};

use crate::Acquire;
use crate::error::{LimitStatus, RateLimitExceeded};

/// As this process knows the limits: it has blocks, and the table has said no.
pub(crate) fn of_blocks(
    acquire: &Acquire<'_>,
    buckets: &[BucketRef],
    refused: [bool; 2],
) -> RateLimitExceeded {
    let mut statuses = Vec::new();
    for (bucket, refused) in buckets.iter().zip(refused) {
        let knowledge = bucket.knowledge(&acquire.engine.clock, &acquire.consume);
        for limit in acquire.limits {
            let known = knowledge.iter().find(|(l, _)| l.name() == limit.name());
            let Some((_, known)) = known else { continue };
            let named = acquire.consume.iter().find(|(n, _)| *n == limit.name());
            let requested = named.map_or(0, |(_, tokens)| *tokens);
            let short = known.in_hand < requested;
            statuses.push(LimitStatus {
                entity_id: bucket.key().entity_id().to_owned(),
                resource: acquire.resource.to_owned(),
                limit: limit.clone(),
                available: i64::try_from(known.in_hand).unwrap_or(i64::MAX),
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
    if !statuses.iter().any(|s| s.exceeded)
        && let Some(status) = statuses.iter_mut().max_by_key(|s| s.retry_after)
    {
        status.exceeded = true;
    }
    RateLimitExceeded::new(statuses)
}

/// As the table holds the limits: `found` is what the bucket `refused` was found to be.
pub(crate) fn of_table(
    acquire: &Acquire<'_>,
    buckets: &[BucketRef],
    refused: usize,
    found: Option<&BucketItem>,
) -> RateLimitExceeded {
    let now = acquire.engine.clock.wall();
    let mut statuses = Vec::new();
    for (at, bucket) in buckets.iter().enumerate() {
        let seen = bucket.seen();
        let item = if at == refused { found } else { seen.item() };
        for limit in acquire.limits {
            let named = acquire.consume.iter().find(|(n, _)| *n == limit.name());
            let requested = named.map_or(0, |(_, tokens)| *tokens);
            let level = plan::level(item, now, limit);
            let retry_after = limit.terms().time_until(level, requested);
            statuses.push(LimitStatus {
                entity_id: bucket.key().entity_id().to_owned(),
                resource: acquire.resource.to_owned(),
                limit: limit.clone(),
                available: limit.terms().to_tokens(level),
                requested,
                exceeded: at == refused && requested > 0 && !retry_after.is_zero(),
                retry_after: if requested == 0 {
                    Duration::ZERO
                } else {
                    retry_after
                },
            });
        }
    }
    // Refill may have come in since the table said no.
    if !statuses.iter().any(|s| s.exceeded)
        && let Some(status) = statuses.iter_mut().find(|s| s.requested > 0)
    {
        status.exceeded = true;
    }
    RateLimitExceeded::new(statuses)
}

/// As this process's share of the limits stands; none if it can never be enough.
pub(crate) fn of_share(
    acquire: &Acquire<'_>,
    buckets: &[BucketRef],
    share: Share,
) -> Option<RateLimitExceeded> {
    let request = acquire.request();
    let requested = |name: &str| {
        let named = acquire.consume.iter().find(|(n, _)| *n == name);
        named.map_or(0, |(_, tokens)| *tokens)
    };
    let can_ever = |limit| share.can_ever(limit, requested(limit.name()));
    if !acquire.limits.iter().all(can_ever) {
        return None;
    }
    let mut statuses = Vec::new();
    for bucket in buckets {
        let levels = bucket.share_levels(&acquire.engine.clock, &request, share);
        for level in levels {
            let requested = requested(level.limit.name());
            statuses.push(LimitStatus {
                entity_id: bucket.key().entity_id().to_owned(),
                resource: acquire.resource.to_owned(),
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
