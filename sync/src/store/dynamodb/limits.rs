//! Stored limits: replacing a set at once, and reading sets whole.

use std::collections::{BTreeMap, HashSet};
use std::time::Duration;

use zae_limiter_core::schema;

use super::super::{StoreError, StoreErrorKind};
use super::backoff::Backoff;
use super::codec::{Attributes, RESOURCE, data, primary_key, required_text, text};
use super::limit_sets::{LimitSet, SET_ID, decode_sets, encode_head, encode_limit, head_key};
use super::query::List;
use super::transaction::{Expression, ITEMS_MAX, Transaction};
use super::{DynamoDbStore, error};
use crate::{AuditEvent, Limit, LimitOwner, LimitScope, validate_stored_limits};

/// How many times in a row limits that are not whole must read the same to count as what is
/// there, and not as a transaction half seen.
const SAME_READS: u32 = 3;
/// How long is waited between two such reads.
const PAUSE: Duration = Duration::from_millis(30);
/// How many reads may fail to be whole or the same.
const READS_MAX: u32 = 30;

/// The new head and limits, on the condition that the head is still that of the set `head`.
fn replace(
    all: &mut Transaction<'_>,
    scope: &LimitScope,
    limits: &[Limit],
    head: Option<String>,
) -> Result<(), StoreError> {
    let had_head = head.is_some();
    let unchanged = match head {
        Some(set_id) => Expression::data_is(SET_ID, text(set_id)),
        None => Expression::absent(),
    };
    let set_id = ulid::Ulid::generate().to_string();
    if !limits.is_empty() {
        let head = encode_head(scope, &set_id, limits.len());
        all.put(head, Some(unchanged))?;
    } else if had_head {
        all.delete(head_key(scope), Some(unchanged))?;
    } else {
        all.check(head_key(scope), unchanged)?;
    }
    for limit in limits {
        all.put(encode_limit(scope, limit, &set_id), None)?;
    }
    Ok(())
}

impl DynamoDbStore {
    /// Every replacement of a set writes its head on the condition that nobody else has since it
    /// was read: of two at the same time one is made, and the other made after it.
    pub(super) async fn replace_limits(
        &self,
        scope: &LimitScope,
        limits: &[Limit],
        event: &AuditEvent,
    ) -> Result<bool, StoreError> {
        validate_stored_limits(limits)?;
        let action = format!("write the limits of {scope}");
        let head_name = format!("the head of the limits of {scope}");
        let mut backoff = Backoff::default();
        loop {
            // The head before the limits, so that a change of those is a change of that.
            let head = self.read(&head_name, head_key(scope)).await?;
            let old = self.limit_keys(scope).await?;
            if limits.is_empty() && old.is_empty() && head.is_none() {
                return Ok(false);
            }
            let mut all = self.transaction(&action);
            let head = head.map(|head| self.set_id(&head)).transpose()?;
            replace(&mut all, scope, limits, head)?;
            all.record(event)?;
            let kept = limits
                .iter()
                .map(|limit| schema::limit(scope.resource_key(), limit.name()));
            let kept: HashSet<_> = kept.collect();
            let dropped = old.into_iter().filter(|sk| !kept.contains(sk));
            let key = |sk| primary_key(scope.owner().partition(), sk);
            let mut dropped: Vec<_> = dropped.map(key).collect();
            // Only the Python library stores that many. What is left over is no part of the set.
            let left_over = dropped.split_off(dropped.len().min(ITEMS_MAX - all.len()));
            for key in dropped {
                all.delete(key, None)?;
            }
            if self.transact(all).await?.is_none() {
                self.delete_items(&action, left_over).await?;
                return Ok(true);
            }
            if !backoff.pause().await {
                let message = format!(
                    "could not {action} in {}: others replace them all the time; try again later",
                    self.place
                );
                return Err(StoreError::new(StoreErrorKind::Throttled, message));
            }
        }
    }

    /// The set that a head stands for.
    fn set_id(&self, head: &Attributes) -> Result<String, StoreError> {
        let set_id = data(head).and_then(|data| required_text(data, SET_ID));
        set_id.map_err(|found| error::unreadable(&self.place, &error::name_of(head), found))
    }

    /// The sort keys of a scope's limits, whoever wrote them.
    async fn limit_keys(&self, scope: &LimitScope) -> Result<Vec<String>, StoreError> {
        let resource = scope.resource_key();
        let list = List::partition(scope.owner().partition(), format!("the limits of {scope}"))
            .beginning(schema::SK, schema::limits_of(resource));
        let items = self.query_all(&list).await?;
        // The prefix is also that of a resource with the delimiter in its name, which the Python
        // library allowed.
        let own = items.iter().filter(|item| {
            let found = data(item).and_then(|data| required_text(data, RESOURCE));
            found.map_or(true, |found| found == resource)
        });
        let key = |item: &Attributes| item.get(schema::SK)?.as_s().ok().cloned();
        Ok(own.filter_map(key).collect())
    }

    pub(super) async fn limits(
        &self,
        owner: &LimitOwner,
    ) -> Result<Vec<(LimitScope, Vec<Limit>)>, StoreError> {
        let mut sets = self.limits_once(owner).await?;
        let mut same = 1;
        for _ in 0..READS_MAX {
            let whole = sets.values().all(|set| set.whole().is_some());
            if whole || same == SAME_READS {
                let limits = |set: LimitSet| set.whole().unwrap_or_else(|| set.as_seen());
                let found = sets.into_iter().map(|(scope, set)| (scope, limits(set)));
                return Ok(found.filter(|(_, limits)| !limits.is_empty()).collect());
            }
            tokio::time::sleep(PAUSE).await;
            let again = self.limits_once(owner).await?;
            same = if again == sets { same + 1 } else { 1 };
            sets = again;
        }
        let message = format!(
            "could not read the limits of {owner} in {}: they were replaced during each of \
             {READS_MAX} reads; try again later",
            self.place
        );
        Err(StoreError::new(StoreErrorKind::Throttled, message))
    }

    async fn limits_once(
        &self,
        owner: &LimitOwner,
    ) -> Result<BTreeMap<LimitScope, LimitSet>, StoreError> {
        let list = List::partition(owner.partition(), format!("the limits of {owner}"))
            .beginning(schema::SK, schema::LIMITS_PREFIX);
        let items = self.query_all(&list).await?;
        decode_sets(owner, &items)
            .map_err(|(item, found)| error::unreadable(&self.place, &error::name_of(item), found))
    }
}
