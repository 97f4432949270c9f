//! Usage snapshots, which the aggregator writes: by entity from the table, by resource found by
//! the index and read from the table.

use std::collections::HashMap;

use zae_limiter_core::schema;
use zae_limiter_core::usage::timestamp;

use super::super::StoreError;
use super::codec::{Attributes, Unreadable, integer, unreadable};
use super::query::List;
use super::{DynamoDbStore, error};
use crate::{Page, PageRequest, UsageQuery, UsageSnapshot};

fn string<'a>(item: &'a Attributes, attribute: &str) -> Option<&'a str> {
    item.get(attribute)?.as_s().ok().map(String::as_str)
}

/// Reads a snapshot; none if it is not one that is asked for.
fn decode(item: &Attributes, query: &UsageQuery) -> Result<Option<UsageSnapshot>, Unreadable> {
    let id = string(item, schema::PK).and_then(schema::id_of_entity);
    let found = string(item, schema::SK).and_then(schema::snapshot_of_usage);
    // The Python library's have other keys.
    let (Some(id), Some((resource, window, start))) = (id, found) else {
        return Ok(None);
    };
    if window != query.window || !query.has(start) {
        return Ok(None);
    }
    let mut snapshot = UsageSnapshot::new(id, resource, window, start);
    let events = item.get(schema::TOTAL_EVENTS);
    snapshot.total_events = integer(events, || schema::TOTAL_EVENTS.to_owned())?;
    for (attribute, value) in item {
        if let Some(name) = schema::limit_of_attribute(attribute) {
            let tokens = integer(Some(value), || attribute.clone())?;
            snapshot.counters.insert(name.to_owned(), tokens);
        }
    }
    if snapshot.counters.is_empty() {
        return Err(unreadable("limit#".to_owned(), "there for any limit"));
    }
    Ok(Some(snapshot))
}

fn range(prefix: String, query: &UsageQuery) -> (String, String) {
    let first = format!("{prefix}{}", timestamp(query.first()));
    (first, format!("{prefix}{}", timestamp(query.until)))
}

impl DynamoDbStore {
    pub(super) async fn usage(
        &self,
        query: &UsageQuery,
        page: &PageRequest,
    ) -> Result<Page<UsageSnapshot>, StoreError> {
        let Page { items, next } = match (&query.entity_id, &query.resource) {
            (Some(id), resource) => {
                self.usage_by_entity(id, resource.as_deref(), query, page)
                    .await
            }
            (None, Some(resource)) => self.usage_of_resource(resource, query, page).await,
            (None, None) => Ok(Page {
                items: Vec::new(),
                next: None,
            }),
        }?;
        let snapshots = items.iter().map(|item| {
            let unreadable = |found| error::unreadable(&self.place, &error::name_of(item), found);
            decode(item, query).map_err(unreadable).transpose()
        });
        Ok(Page {
            items: snapshots.flatten().collect::<Result<_, _>>()?,
            next,
        })
    }

    async fn usage_by_entity(
        &self,
        id: &str,
        resource: Option<&str>,
        query: &UsageQuery,
        page: &PageRequest,
    ) -> Result<Page<Attributes>, StoreError> {
        let list = List::partition(schema::entity(id), format!("the usage of {id}"));
        let list = match resource {
            Some(resource) => {
                let (first, last) = range(schema::usage_of(resource, query.window), query);
                list.between(schema::SK, first, last)
            }
            None => list.beginning(schema::SK, schema::USAGE_PREFIX),
        };
        self.query_page(&list, page).await
    }

    async fn usage_of_resource(
        &self,
        resource: &str,
        query: &UsageQuery,
        page: &PageRequest,
    ) -> Result<Page<Attributes>, StoreError> {
        let what = format!("the usage of {resource}");
        let pk = (schema::GSI2_PK, schema::resource(resource));
        let (first, last) = range(schema::usage_in(query.window), query);
        let list = List::index(schema::GSI2, pk, &what)
            .between(schema::GSI2_SK, first, last)
            .keys_only();
        let Page { items, next } = self.query_page(&list, page).await?;
        let key = |item: &Attributes| {
            Some((
                string(item, schema::PK)?.to_owned(),
                string(item, schema::SK)?.to_owned(),
            ))
        };
        let found = self
            .get_items(&format!("read {what}"), items.clone())
            .await?;
        let by_key = found
            .into_iter()
            .filter_map(|item| Some((key(&item)?, item)));
        let mut by_key: HashMap<_, _> = by_key.collect();
        // In the order of the index; what is gone by now is left out.
        let in_order = items.iter().filter_map(|item| by_key.remove(&key(item)?));
        Ok(Page {
            items: in_order.collect(),
            next,
        })
    }
}
