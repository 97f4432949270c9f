//! Audit events: their items, in the layout of v0.2.0, and the list of them.

use std::collections::{BTreeMap, HashMap};

use aws_sdk_dynamodb::types::AttributeValue;
use zae_limiter_core::schema;

use super::super::StoreError;
use super::codec::{
    Attributes, DATA, ENTITY_ID, Unreadable, data, number, optional_text, primary_key,
    required_text, text, text_or_null, unreadable,
};
use super::json::{decode_json, encode_json};
use super::query::List;
use super::transaction::Transaction;
use super::{DynamoDbStore, error};
use crate::{AuditAction, AuditEvent, Page, PageRequest};

const DETAILS: &str = "details";

fn encode_event(event: &AuditEvent) -> Attributes {
    let details = event.details.iter();
    let details = details.map(|(key, value)| (key.clone(), encode_json(value)));
    let data = [
        ("event_id", text(&event.event_id)),
        ("timestamp", text(&event.timestamp)),
        ("action", text(event.action.as_str())),
        (ENTITY_ID, text(&event.entity_id)),
        ("principal", text_or_null(event.principal.as_ref())),
        ("resource", text_or_null(event.resource.as_ref())),
        (DETAILS, AttributeValue::M(details.collect())),
    ];
    let data = HashMap::from(data.map(|(field, value)| (field.to_owned(), value)));
    let pk = schema::audit(&event.entity_id);
    let mut item = primary_key(pk, schema::audit_event(&event.event_id));
    item.insert(ENTITY_ID.to_owned(), text(&event.entity_id));
    item.insert(DATA.to_owned(), AttributeValue::M(data));
    if let Some(expires) = event.expires_at_seconds() {
        item.insert(schema::TTL.to_owned(), number(expires));
    }
    item
}

fn decode_event(item: &Attributes) -> Result<AuditEvent, Unreadable> {
    let data = data(item)?;
    let details = match data.get(DETAILS) {
        None | Some(AttributeValue::Null(_)) => BTreeMap::new(),
        Some(AttributeValue::M(fields)) => {
            let fields = fields.iter();
            fields.map(|(k, v)| (k.clone(), decode_json(v))).collect()
        }
        Some(_) => return Err(unreadable(format!("{DATA}.{DETAILS}"), "a map")),
    };
    Ok(AuditEvent {
        event_id: required_text(data, "event_id")?,
        timestamp: required_text(data, "timestamp")?,
        action: AuditAction::from(required_text(data, "action")?),
        entity_id: required_text(data, ENTITY_ID)?,
        principal: optional_text(data, "principal")?,
        resource: optional_text(data, "resource")?,
        details,
    })
}

impl Transaction<'_> {
    /// Stores the event together with the rest.
    pub(super) fn record(&mut self, event: &AuditEvent) -> Result<(), StoreError> {
        self.put(encode_event(event), None).map(drop)
    }
}

impl DynamoDbStore {
    pub(super) async fn audit_events(
        &self,
        entity_id: &str,
        page: &PageRequest,
    ) -> Result<Page<AuditEvent>, StoreError> {
        let what = format!("the audit events of {entity_id}");
        let list = List::partition(schema::audit(entity_id), what)
            .beginning(schema::SK, schema::AUDIT_PREFIX)
            .newest_first();
        let found = self.query_page(&list, page).await?;
        found.try_map(|item| {
            decode_event(&item)
                .map_err(|found| error::unreadable(&self.place, &error::name_of(&item), found))
        })
    }
}

#[cfg(test)]
mod tests {
    use zae_limiter_core::WallTime;

    use super::*;

    #[test]
    fn an_event_keeps_the_layout_of_the_python_library() {
        let event = AuditEvent::new(AuditAction::LimitsSet, "user-1", WallTime::ZERO)
            .principal("alice@example.com")
            .detail("count", 2);
        let item = encode_event(&event);
        assert_eq!(item["PK"], text("AUDIT#user-1"));
        assert_eq!(item["SK"], text(format!("#AUDIT#{}", event.event_id)));
        assert_eq!(item["entity_id"], text("user-1"));
        assert_eq!(item["ttl"], number(90 * 86_400));
        let data = item["data"].as_m().unwrap();
        assert_eq!(data.len(), 7);
        assert_eq!(data["action"], text("limits_set"));
        assert_eq!(data["resource"], AttributeValue::Null(true));
        assert_eq!(decode_event(&item), Ok(event));
    }

    #[test]
    fn what_is_missing_is_named() {
        let event = AuditEvent::new(AuditAction::LimitsSet, "user-1", WallTime::ZERO);
        let mut item = encode_event(&event);
        let AttributeValue::M(data) = item.get_mut("data").unwrap() else {
            panic!("a map");
        };
        data.remove("action");
        let error = decode_event(&item).unwrap_err();
        assert_eq!(error.attribute, "data.action");
    }
}
