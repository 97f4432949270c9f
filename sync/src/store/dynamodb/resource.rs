//! The buckets of a resource: found by the index, read from the table.

use std::collections::HashMap;

use zae_limiter_core::item::BucketItem;
use zae_limiter_core::schema;

use super::super::StoreError;
use super::codec::{Attributes, decode_bucket, text};
use super::query::List;
use super::{DynamoDbStore, error};
use crate::{Page, PageRequest};

fn string<'a>(item: &'a Attributes, attribute: &str) -> Option<&'a str> {
    item.get(attribute)?.as_s().ok().map(String::as_str)
}

impl DynamoDbStore {
    pub(super) async fn resource_buckets(
        &self,
        resource: &str,
        page: &PageRequest,
    ) -> Result<Page<(String, BucketItem)>, StoreError> {
        let what = format!("the buckets of {resource}");
        let pk = (schema::GSI2_PK, schema::resource(resource));
        let list = List::index(schema::GSI2, pk, &what)
            .beginning(schema::GSI2_SK, schema::BUCKET_OF_PREFIX)
            .keys_only();
        let Page { items, next } = self.query_page(&list, page).await?;
        // The Python library's, one per limit, are in the index as well.
        let sk = text(schema::bucket(resource));
        let ours = items
            .into_iter()
            .filter(|key| key.get(schema::SK) == Some(&sk));
        let keys: Vec<_> = ours.collect();
        let action = format!("read {what}");
        let found = self.get_items(&action, keys.clone()).await?;
        let by_entity = found
            .iter()
            .filter_map(|item| Some((string(item, schema::PK)?, item)));
        let by_entity: HashMap<_, _> = by_entity.collect();
        let mut buckets = Vec::with_capacity(keys.len());
        for key in &keys {
            // What has been deleted since the index saw it is not there.
            let pk = string(key, schema::PK);
            if let Some(item) = pk.and_then(|pk| by_entity.get(pk))
                && let Some(id) = pk.and_then(schema::id_of_entity)
            {
                let bucket = decode_bucket(item)
                    .map_err(|found| error::unreadable(&self.place, &error::name_of(key), found))?;
                buckets.push((id.to_owned(), bucket));
            }
        }
        Ok(Page {
            items: buckets,
            next,
        })
    }
}
