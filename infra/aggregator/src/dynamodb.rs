//! Snapshots in the table: one conditional write each.

use std::collections::HashMap;
use std::fmt;

use async_trait::async_trait;
use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::error::DisplayErrorContext;
use aws_sdk_dynamodb::operation::update_item::UpdateItemError;
use aws_sdk_dynamodb::types::{AttributeValue, ReturnValuesOnConditionCheckFailure};
use zae_limiter_core::number::parse_integer;
use zae_limiter_core::{schema, usage};

use crate::snapshot::{Added, Addition, SnapshotError, SnapshotKey, SnapshotStore};

/// The snapshots of a table in DynamoDB. A write may be sent more than once: it is made once.
#[derive(Clone)]
pub struct DynamoDbSnapshots {
    client: Client,
    table_name: String,
}

impl fmt::Debug for DynamoDbSnapshots {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DynamoDbSnapshots")
            .field("table", &self.table_name)
            .finish_non_exhaustive()
    }
}

impl DynamoDbSnapshots {
    /// The snapshots of the table called `table_name` (in full: "ZAEL-my-app").
    #[must_use]
    pub fn new(client: Client, table_name: impl Into<String>) -> Self {
        Self {
            client,
            table_name: table_name.into(),
        }
    }

    fn failed(&self, key: &SnapshotKey, what: &str) -> SnapshotError {
        let table = &self.table_name;
        SnapshotError::new(format!("could not write {key} to table {table}: {what}"))
    }
}

/// Names and values of an update expression, and what it sets and adds.
#[derive(Default)]
struct Update {
    names: HashMap<String, String>,
    values: HashMap<String, AttributeValue>,
    sets: Vec<String>,
    adds: Vec<String>,
}

impl Update {
    fn name(&mut self, attribute: &str) -> String {
        let placeholder = format!("#{}", self.names.len());
        self.names.insert(placeholder.clone(), attribute.to_owned());
        placeholder
    }

    fn value(&mut self, value: AttributeValue) -> String {
        let placeholder = format!(":{}", self.values.len());
        self.values.insert(placeholder.clone(), value);
        placeholder
    }

    fn set(&mut self, attribute: &str, value: AttributeValue) {
        let (name, value) = (self.name(attribute), self.value(value));
        self.sets.push(format!("{name} = {value}"));
    }

    fn add(&mut self, attribute: &str, number: impl ToString) {
        let name = self.name(attribute);
        let value = self.value(AttributeValue::N(number.to_string()));
        self.adds.push(format!("{name} {value}"));
    }
}

fn text(value: impl Into<String>) -> AttributeValue {
    AttributeValue::S(value.into())
}

#[async_trait]
impl SnapshotStore for DynamoDbSnapshots {
    async fn add(&self, key: &SnapshotKey, addition: &Addition) -> Result<Added, SnapshotError> {
        let (id, resource) = (key.bucket.entity_id(), key.bucket.resource());
        let number = |n: u64| AttributeValue::N(n.to_string());
        let mut update = Update::default();
        update.set("entity_id", text(id));
        update.set("resource", text(resource));
        update.set("window", text(key.window.as_str()));
        update.set("window_start", text(usage::timestamp(key.start)));
        update.set(schema::GSI2_PK, text(schema::resource(resource)));
        let by = schema::usage_by(key.window, key.start, id);
        update.set(schema::GSI2_SK, text(by));
        update.set(schema::TTL, number(addition.expires_at_seconds));
        update.set(schema::COUNTED, number(addition.last));
        update.add(schema::TOTAL_EVENTS, addition.events);
        for (limit, tokens) in &addition.tokens {
            update.add(&schema::limit_attribute(limit), tokens);
        }
        let counted = update.name(schema::COUNTED);
        let first = update.value(number(addition.first));
        let expression = format!(
            "SET {} ADD {}",
            update.sets.join(", "),
            update.adds.join(", ")
        );
        let request = self
            .client
            .update_item()
            .table_name(&self.table_name)
            .key(schema::PK, text(schema::entity(id)))
            .key(
                schema::SK,
                text(schema::usage(resource, key.window, key.start)),
            )
            .condition_expression(format!(
                "attribute_not_exists({counted}) OR {counted} < {first}"
            ))
            .update_expression(expression)
            .set_expression_attribute_names(Some(update.names))
            .set_expression_attribute_values(Some(update.values))
            .return_values_on_condition_check_failure(ReturnValuesOnConditionCheckFailure::AllOld);
        match request.send().await {
            Ok(_) => Ok(Added::Done),
            Err(error) => match error.as_service_error() {
                Some(UpdateItemError::ConditionalCheckFailedException(refused)) => {
                    let found = refused.item().and_then(|item| item.get(schema::COUNTED));
                    let digits = found.and_then(|value| value.as_n().ok());
                    let counted = digits.and_then(|digits| parse_integer(digits));
                    let counted = counted.and_then(|counted| u64::try_from(counted).ok());
                    let unreadable = || self.failed(key, "what it has counted is not a number");
                    counted.map(Added::Counted).ok_or_else(unreadable)
                }
                _ => {
                    let what = DisplayErrorContext(&error).to_string();
                    Err(self.failed(key, &what).caused_by(error))
                }
            },
        }
    }
}
