//! Entities: their items, in the layout of v0.2.0, and what is done to them.

use std::collections::{BTreeMap, HashMap};

use aws_sdk_dynamodb::types::AttributeValue;
use zae_limiter_core::schema;

use super::super::{EntityWrite, StoreError};
use super::codec::{
    Attributes, DATA, ENTITY_ID, Unreadable, data, map, optional_text, primary_key, required_text,
    text, text_or_null, unreadable,
};
use super::query::List;
use super::transaction::Expression;
use super::{DynamoDbStore, error};
use crate::{AuditEvent, Entity, EntityChange, Page, PageRequest};

/// Whether acquires charge the parent too: ours, and only there if so.
const CASCADE: &str = "cascade";

/// The whole item of an entity, in the layout of v0.2.0.
fn encode_entity(entity: &Entity) -> Attributes {
    let parent = entity.parent_id.as_ref();
    let mut data = HashMap::from([
        ("name".to_owned(), text(&entity.name)),
        ("parent_id".to_owned(), text_or_null(parent)),
        ("metadata".to_owned(), encode_metadata(&entity.metadata)),
        ("created_at".to_owned(), text(&entity.created_at)),
    ]);
    if entity.cascade {
        data.insert(CASCADE.to_owned(), AttributeValue::Bool(true));
    }
    let mut item = primary_key(schema::entity(&entity.id), schema::META);
    item.insert(ENTITY_ID.to_owned(), text(&entity.id));
    item.insert(DATA.to_owned(), AttributeValue::M(data));
    if let Some(parent) = parent {
        item.insert(schema::GSI1_PK.to_owned(), text(schema::parent(parent)));
        item.insert(schema::GSI1_SK.to_owned(), text(schema::child(&entity.id)));
    }
    item
}

fn encode_metadata(metadata: &BTreeMap<String, String>) -> AttributeValue {
    let fields = metadata.iter();
    AttributeValue::M(fields.map(|(k, v)| (k.clone(), text(v))).collect())
}

/// Reads the entity called `id`.
fn decode_entity(id: &str, item: &Attributes) -> Result<Entity, Unreadable> {
    let data = data(item)?;
    let metadata = match data.get("metadata") {
        None | Some(AttributeValue::Null(_)) => BTreeMap::new(),
        found => map(found, || format!("{DATA}.metadata"))?
            .iter()
            .map(|(key, value)| match plain_text(value) {
                Some(value) => Ok((key.clone(), value)),
                None => Err(unreadable(format!("{DATA}.metadata.{key}"), "a string")),
            })
            .collect::<Result<_, _>>()?,
    };
    Ok(Entity {
        id: id.to_owned(),
        name: optional_text(data, "name")?.unwrap_or_else(|| id.to_owned()),
        parent_id: optional_text(data, "parent_id")?,
        metadata,
        created_at: required_text(data, "created_at")?,
        cascade: matches!(data.get(CASCADE), Some(AttributeValue::Bool(true))),
    })
}

/// Metadata are strings, but nothing kept a Python caller from storing a number or a flag.
fn plain_text(value: &AttributeValue) -> Option<String> {
    match value {
        AttributeValue::S(text) | AttributeValue::N(text) => Some(text.clone()),
        AttributeValue::Bool(flag) => Some(flag.to_string()),
        _ => None,
    }
}

/// An update of some attributes, in the making.
#[derive(Default)]
struct Changes {
    sets: Vec<String>,
    removes: Vec<String>,
    expression: Expression,
}

impl Changes {
    /// An attribute, or a field of its data, by placeholders: names may be reserved words.
    fn path(&mut self, name: &str, in_data: bool) -> String {
        let names = &mut self.expression.names;
        names.insert(format!("#{name}"), name.to_owned());
        if !in_data {
            return format!("#{name}");
        }
        names.insert(format!("#{DATA}"), DATA.to_owned());
        format!("#{DATA}.#{name}")
    }

    fn set(&mut self, path: &str, value: AttributeValue) {
        let placeholder = format!(":{}", self.expression.values.len());
        self.sets.push(format!("{path} = {placeholder}"));
        self.expression.values.insert(placeholder, value);
    }

    fn finish(mut self) -> Option<Expression> {
        let clauses = [("SET", self.sets), ("REMOVE", self.removes)];
        let clauses = clauses.into_iter().filter(|(_, parts)| !parts.is_empty());
        let clauses: Vec<_> = clauses
            .map(|(clause, parts)| format!("{clause} {}", parts.join(", ")))
            .collect();
        self.expression.text = clauses.join(" ");
        (!clauses.is_empty()).then_some(self.expression)
    }
}

/// What becomes of the item of the entity called `id`; none if nothing does.
fn change_expression(id: &str, change: &EntityChange) -> Option<Expression> {
    let mut out = Changes::default();
    if let Some(name) = &change.name {
        let path = out.path("name", true);
        out.set(&path, text(name));
    }
    if let Some(metadata) = &change.metadata {
        let path = out.path("metadata", true);
        out.set(&path, encode_metadata(metadata));
    }
    if let Some(parent) = &change.parent_id {
        let path = out.path("parent_id", true);
        out.set(&path, text_or_null(parent.as_ref()));
        let index = [schema::GSI1_PK, schema::GSI1_SK].map(|name| out.path(name, false));
        match parent {
            Some(parent) => {
                out.set(&index[0], text(schema::parent(parent)));
                out.set(&index[1], text(schema::child(id)));
            }
            None => out.removes.extend(index),
        }
    }
    if let Some(cascade) = change.cascade {
        let path = out.path(CASCADE, true);
        if cascade {
            out.set(&path, AttributeValue::Bool(true));
        } else {
            out.removes.push(path);
        }
    }
    out.finish()
}

fn meta_key(id: &str) -> Attributes {
    primary_key(schema::entity(id), schema::META)
}

impl DynamoDbStore {
    pub(super) async fn create(
        &self,
        entity: &Entity,
        event: &AuditEvent,
    ) -> Result<EntityWrite, StoreError> {
        let mut all = self.transaction(format!("create entity {}", entity.id));
        all.put(encode_entity(entity), Some(Expression::absent()))?;
        if let Some(parent) = &entity.parent_id {
            all.check(meta_key(parent), Expression::present())?;
        }
        all.record(event)?;
        Ok(match self.transact(all).await? {
            None => EntityWrite::Done,
            Some(0) => EntityWrite::Exists,
            Some(_) => EntityWrite::ParentMissing,
        })
    }

    pub(super) async fn update(
        &self,
        id: &str,
        change: &EntityChange,
        event: &AuditEvent,
    ) -> Result<EntityWrite, StoreError> {
        let mut all = self.transaction(format!("update entity {id}"));
        match change_expression(id, change) {
            Some(change) => all.update(meta_key(id), change)?,
            None => all.check(meta_key(id), Expression::present())?,
        };
        if let Some(Some(parent)) = &change.parent_id {
            all.check(meta_key(parent), Expression::present())?;
        }
        all.record(event)?;
        Ok(match self.transact(all).await? {
            None => EntityWrite::Done,
            Some(0) => EntityWrite::Missing,
            Some(_) => EntityWrite::ParentMissing,
        })
    }

    pub(super) async fn entity(&self, id: &str) -> Result<Option<Entity>, StoreError> {
        let found = self.read(&format!("entity {id}"), meta_key(id)).await?;
        found.map(|item| self.decode_entity(id, &item)).transpose()
    }

    pub(super) async fn entities(&self, ids: &[String]) -> Result<Vec<Entity>, StoreError> {
        let keys = ids.iter().map(|id| meta_key(id)).collect();
        let found = self.get_items("read entities", keys).await?;
        let id_of = |item: &Attributes| {
            let pk = item.get(schema::PK)?.as_s().ok()?;
            schema::id_of_entity(pk).map(str::to_owned)
        };
        let found = found.iter().filter_map(|item| Some((id_of(item)?, item)));
        found
            .map(|(id, item)| self.decode_entity(&id, item))
            .collect()
    }

    pub(super) async fn children(
        &self,
        parent_id: &str,
        page: &PageRequest,
    ) -> Result<Page<Entity>, StoreError> {
        let pk = (schema::GSI1_PK, schema::parent(parent_id));
        let list = List::index(schema::GSI1, pk, format!("the children of {parent_id}"));
        let found = self.query_page(&list, page).await?;
        found.try_map(|item| {
            let id = item.get(schema::PK).and_then(|pk| pk.as_s().ok());
            let id = id
                .and_then(|pk| schema::id_of_entity(pk))
                .unwrap_or_default();
            self.decode_entity(id, &item)
        })
    }

    fn decode_entity(&self, id: &str, item: &Attributes) -> Result<Entity, StoreError> {
        decode_entity(id, item).map_err(|found| {
            let item = format!("{} / {}", schema::entity(id), schema::META);
            error::unreadable(&self.place, &item, found)
        })
    }

    /// Deletes everything under the entity's key; its own item last, so that what is cut short
    /// is seen to be unfinished.
    pub(super) async fn delete(&self, id: &str, event: &AuditEvent) -> Result<bool, StoreError> {
        let action = format!("delete entity {id}");
        let list = List::partition(schema::entity(id), format!("the items of entity {id}"));
        let mut keys = self.query_all(&list.keys_only()).await?;
        if keys.is_empty() {
            return Ok(false);
        }
        let meta = meta_key(id);
        let before = keys.len();
        keys.retain(|key| *key != meta);
        let has_meta = keys.len() < before;
        self.delete_items(&action, keys).await?;
        let mut all = self.transaction(action);
        if has_meta {
            all.delete(meta, Some(Expression::present()))?;
        }
        all.record(event)?;
        // Where its item is gone by now, somebody else deletes it at the same time.
        Ok(self.transact(all).await?.is_none())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entity_keeps_the_layout_of_the_python_library() {
        let mut entity = Entity {
            id: "child".into(),
            name: "A child".into(),
            parent_id: Some("top".into()),
            metadata: BTreeMap::from([("team".into(), "x".into())]),
            created_at: "2026-01-01T00:00:00Z".into(),
            cascade: false,
        };
        let item = encode_entity(&entity);
        assert_eq!(item["PK"], text("ENTITY#child"));
        assert_eq!(item["SK"], text("#META"));
        assert_eq!(item["entity_id"], text("child"));
        assert_eq!(item["GSI1PK"], text("PARENT#top"));
        assert_eq!(item["GSI1SK"], text("CHILD#child"));
        let data = item["data"].as_m().unwrap();
        assert_eq!(data["parent_id"], text("top"));
        assert_eq!(decode_entity("child", &item).as_ref(), Ok(&entity));

        entity.parent_id = None;
        let item = encode_entity(&entity);
        assert!(!item.contains_key("GSI1PK"));
        let data = item["data"].as_m().unwrap();
        assert_eq!(data["parent_id"], AttributeValue::Null(true));
        assert_eq!(decode_entity("child", &item), Ok(entity));
    }
}
