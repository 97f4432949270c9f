//! Lists of items: whole, or page by page.

use std::collections::{BTreeMap, HashMap};

use zae_limiter_core::{ValidationError, schema};

use super::super::StoreError;
use super::DynamoDbStore;
use super::codec::{Attributes, text};
use super::error::failure;
use crate::{Page, PageRequest, PageToken};

/// Items of one partition, of the table or of an index.
#[derive(Debug)]
pub(super) struct List {
    /// None for the table.
    index: Option<&'static str>,
    pk: (&'static str, String),
    sk: Option<(&'static str, SortKeys)>,
    newest_first: bool,
    keys_only: bool,
    /// What is listed, for messages.
    what: String,
}

/// Which sort keys are wanted.
#[derive(Debug)]
enum SortKeys {
    Beginning(String),
    Between(String, String),
}

impl List {
    /// A partition of the table, read strongly consistent.
    pub(super) fn partition(pk: String, what: impl Into<String>) -> Self {
        Self {
            index: None,
            pk: (schema::PK, pk),
            sk: None,
            newest_first: false,
            keys_only: false,
            what: what.into(),
        }
    }

    /// A partition of an index, which may be a moment behind.
    pub(super) fn index(
        index: &'static str,
        pk: (&'static str, String),
        what: impl Into<String>,
    ) -> Self {
        Self {
            index: Some(index),
            pk,
            ..Self::partition(String::new(), what)
        }
    }

    /// Only items whose sort key begins like this.
    pub(super) fn beginning(mut self, sk: &'static str, prefix: impl Into<String>) -> Self {
        self.sk = Some((sk, SortKeys::Beginning(prefix.into())));
        self
    }

    /// Only items whose sort key is one of these, or between them.
    pub(super) fn between(mut self, sk: &'static str, first: String, last: String) -> Self {
        self.sk = Some((sk, SortKeys::Between(first, last)));
        self
    }

    /// From the greatest sort key down.
    pub(super) fn newest_first(mut self) -> Self {
        self.newest_first = true;
        self
    }

    /// No more of the items than their primary keys.
    pub(super) fn keys_only(mut self) -> Self {
        self.keys_only = true;
        self
    }
}

impl DynamoDbStore {
    /// One page as the service makes them; and where the next begins.
    async fn query(
        &self,
        list: &List,
        size: Option<u32>,
        start: Option<Attributes>,
    ) -> Result<(Vec<Attributes>, Option<Attributes>), StoreError> {
        let mut condition = "#pk = :pk".to_owned();
        let mut names = HashMap::from([("#pk".to_owned(), list.pk.0.to_owned())]);
        let mut values = HashMap::from([(":pk".to_owned(), text(&list.pk.1))]);
        if let Some((sk, wanted)) = &list.sk {
            names.insert("#sk".to_owned(), (*sk).to_owned());
            match wanted {
                SortKeys::Beginning(prefix) => {
                    condition.push_str(" AND begins_with(#sk, :sk)");
                    values.insert(":sk".to_owned(), text(prefix));
                }
                // Bounds that have crossed are an error to the service, not an empty list.
                SortKeys::Between(first, last) if first > last => return Ok((Vec::new(), None)),
                SortKeys::Between(first, last) => {
                    condition.push_str(" AND #sk BETWEEN :sk AND :sk_last");
                    values.insert(":sk".to_owned(), text(first));
                    values.insert(":sk_last".to_owned(), text(last));
                }
            }
        }
        let projection = list.keys_only.then(|| {
            names.insert("#pk_only".to_owned(), schema::PK.to_owned());
            names.insert("#sk_only".to_owned(), schema::SK.to_owned());
            "#pk_only, #sk_only"
        });
        let request = self
            .client
            .query()
            .table_name(&self.place.table)
            .set_index_name(list.index.map(str::to_owned))
            .consistent_read(list.index.is_none())
            .key_condition_expression(condition)
            .set_projection_expression(projection.map(str::to_owned))
            .set_expression_attribute_names(Some(names))
            .set_expression_attribute_values(Some(values))
            .scan_index_forward(!list.newest_first)
            .set_limit(size.map(|size| i32::try_from(size.max(1)).unwrap_or(i32::MAX)))
            .set_exclusive_start_key(start)
            .customize()
            .config_override(self.retrying());
        match request.send().await {
            Ok(found) => Ok((found.items.unwrap_or_default(), found.last_evaluated_key)),
            Err(error) => {
                let action = format!("list {}", list.what);
                Err(failure(&self.place, &action, error).into())
            }
        }
    }

    /// All of it, however many pages that takes.
    pub(super) async fn query_all(&self, list: &List) -> Result<Vec<Attributes>, StoreError> {
        let (mut all, mut next) = self.query(list, None, None).await?;
        while let Some(start) = next {
            let (items, then) = self.query(list, None, Some(start)).await?;
            all.extend(items);
            next = then;
        }
        Ok(all)
    }

    /// The page that is asked for.
    pub(super) async fn query_page(
        &self,
        list: &List,
        request: &PageRequest,
    ) -> Result<Page<Attributes>, StoreError> {
        let start = request.after.as_ref();
        let start = start.map(|token| key_of(list, token)).transpose()?;
        let (items, next) = self.query(list, Some(request.size), start).await?;
        Ok(Page {
            items,
            next: next.as_ref().and_then(token_of),
        })
    }
}

/// The key of the last item of a page, all of it strings, as a token.
fn token_of(key: &Attributes) -> Option<PageToken> {
    let parts = key.iter();
    let parts = parts.map(|(name, value)| Some((name, value.as_s().ok()?)));
    let key: BTreeMap<_, _> = parts.collect::<Option<_>>()?;
    serde_json::to_string(&key).ok().map(PageToken::from)
}

/// The longest sort key, in bytes.
const SORT_KEY_LEN_MAX: usize = 1_024;

/// Where a page of `list` begins: the key of one of its items.
fn key_of(list: &List, token: &PageToken) -> Result<Attributes, ValidationError> {
    let key: BTreeMap<String, String> = serde_json::from_str(token.as_str()).unwrap_or_default();
    let (partition, of_list) = &list.pk;
    let names: &[_] = match *partition {
        schema::GSI1_PK => &[schema::PK, schema::SK, schema::GSI1_PK, schema::GSI1_SK],
        schema::GSI2_PK => &[schema::PK, schema::SK, schema::GSI2_PK, schema::GSI2_SK],
        _ => &[schema::PK, schema::SK],
    };
    let is_key = key.len() == names.len() && names.iter().all(|name| key.contains_key(*name));
    let fits = key
        .values()
        .all(|part| (1..=SORT_KEY_LEN_MAX).contains(&part.len()));
    if !is_key || !fits || key.get(*partition) != Some(of_list) {
        let rule = "is not one of this list's; begin with the first page";
        return Err(ValidationError::new("page token", token, rule));
    }
    let parts = key.into_iter();
    Ok(parts.map(|(name, value)| (name, text(value))).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::dynamodb::codec::primary_key;

    #[test]
    fn a_key_survives_as_a_token_and_nonsense_is_refused() {
        let list = List::partition("ENTITY#\"é\"".into(), "a list");
        let key = primary_key("ENTITY#\"é\"".into(), "#META");
        let token = token_of(&key).unwrap();
        assert_eq!(key_of(&list, &token).unwrap(), key);
        let other = List::partition("ENTITY#e".into(), "another list");
        let index = (schema::GSI1_PK, "PARENT#p".to_owned());
        let index = List::index(schema::GSI1, index, "an index");
        for (list, token) in [
            (&list, "7"),
            (&list, ""),
            (&list, r#"{"PK":"ENTITY#\"é\""}"#),
            (&list, r#"{"PK":"ENTITY#\"é\"","SK":""}"#),
            (&list, r#"{"PK":"ENTITY#\"é\"","SK":"a","x":"b"}"#),
            (&other, token.as_str()),
            (&index, token.as_str()),
        ] {
            let error = key_of(list, &PageToken::from(token.to_owned())).unwrap_err();
            assert!(error.to_string().contains("invalid page token"), "{error}");
        }
    }
}
