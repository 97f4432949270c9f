//! Writes to several items, all or none.
//!
//! A transaction carries a token, by which the service knows it again; so it is sent again after
//! a conflict, throttling or a lost answer, and yet made once.

use std::collections::HashMap;

use aws_sdk_dynamodb::error::BuildError;
use aws_sdk_dynamodb::operation::transact_write_items::TransactWriteItemsError;
use aws_sdk_dynamodb::types::{
    AttributeValue, CancellationReason, ConditionCheck, Delete, Put, TransactWriteItem, Update,
};
use zae_limiter_core::schema;

use super::super::{StoreError, StoreErrorKind};
use super::DynamoDbStore;
use super::backoff::Backoff;
use super::codec::{Attributes, DATA};
use super::error::{advice, failure};

/// The most items in one transaction.
pub(super) const ITEMS_MAX: usize = 100;

/// What must be true of an item, or what becomes of it, in the expression language.
#[derive(Clone, Debug, Default)]
pub(super) struct Expression {
    pub(super) text: String,
    pub(super) names: HashMap<String, String>,
    pub(super) values: HashMap<String, AttributeValue>,
}

impl Expression {
    fn of_key(function: &str) -> Self {
        Self {
            text: format!("{function}(#pk)"),
            names: HashMap::from([("#pk".to_owned(), schema::PK.to_owned())]),
            values: HashMap::new(),
        }
    }

    /// There is such an item.
    pub(super) fn present() -> Self {
        Self::of_key("attribute_exists")
    }

    /// There is no such item.
    pub(super) fn absent() -> Self {
        Self::of_key("attribute_not_exists")
    }

    /// A field of its data has this value.
    pub(super) fn data_is(field: &str, value: AttributeValue) -> Self {
        let mut all = Self::default();
        all.require_data(field, value);
        all
    }

    /// And a field of its data has this value.
    pub(super) fn require_data(&mut self, field: &str, value: AttributeValue) {
        if !self.text.is_empty() {
            self.text.push_str(" AND ");
        }
        self.text.push_str(&format!("#data.#{field} = :{field}"));
        self.names.insert("#data".to_owned(), DATA.to_owned());
        self.names.insert(format!("#{field}"), field.to_owned());
        self.values.insert(format!(":{field}"), value);
    }
}

fn some<K, V>(map: HashMap<K, V>) -> Option<HashMap<K, V>> {
    (!map.is_empty()).then_some(map)
}

/// A transaction in the making.
#[derive(Debug)]
pub(super) struct Transaction<'a> {
    table: &'a str,
    /// What it is for ("create entity x").
    action: String,
    items: Vec<TransactWriteItem>,
}

impl Transaction<'_> {
    pub(super) fn len(&self) -> usize {
        self.items.len()
    }

    fn add(
        &mut self,
        item: Result<TransactWriteItem, BuildError>,
    ) -> Result<&mut Self, StoreError> {
        let item = item.map_err(|error| {
            let message = format!("could not {}: incomplete request; a defect", self.action);
            StoreError::new(StoreErrorKind::Invalid, message).caused_by(error)
        })?;
        self.items.push(item);
        Ok(self)
    }

    /// Stores an item if the condition, if any, holds.
    pub(super) fn put(
        &mut self,
        item: Attributes,
        condition: Option<Expression>,
    ) -> Result<&mut Self, StoreError> {
        let mut put = Put::builder().table_name(self.table).set_item(Some(item));
        if let Some(condition) = condition {
            put = put
                .condition_expression(condition.text)
                .set_expression_attribute_names(some(condition.names))
                .set_expression_attribute_values(some(condition.values));
        }
        let put = put.build();
        self.add(put.map(|put| TransactWriteItem::builder().put(put).build()))
    }

    /// Deletes an item if the condition, if any, holds.
    pub(super) fn delete(
        &mut self,
        key: Attributes,
        condition: Option<Expression>,
    ) -> Result<&mut Self, StoreError> {
        let mut delete = Delete::builder().table_name(self.table).set_key(Some(key));
        if let Some(condition) = condition {
            delete = delete
                .condition_expression(condition.text)
                .set_expression_attribute_names(some(condition.names))
                .set_expression_attribute_values(some(condition.values));
        }
        let delete = delete.build();
        self.add(delete.map(|delete| TransactWriteItem::builder().delete(delete).build()))
    }

    /// Changes an item if there is one.
    pub(super) fn update(
        &mut self,
        key: Attributes,
        change: Expression,
    ) -> Result<&mut Self, StoreError> {
        let condition = Expression::present();
        let mut names = change.names;
        names.extend(condition.names);
        let update = Update::builder()
            .table_name(self.table)
            .set_key(Some(key))
            .update_expression(change.text)
            .condition_expression(condition.text)
            .set_expression_attribute_names(some(names))
            .set_expression_attribute_values(some(change.values))
            .build();
        self.add(update.map(|update| TransactWriteItem::builder().update(update).build()))
    }

    /// Requires something of an item that is not written.
    pub(super) fn check(
        &mut self,
        key: Attributes,
        condition: Expression,
    ) -> Result<&mut Self, StoreError> {
        let check = ConditionCheck::builder()
            .table_name(self.table)
            .set_key(Some(key))
            .condition_expression(condition.text)
            .set_expression_attribute_names(some(condition.names))
            .set_expression_attribute_values(some(condition.values))
            .build();
        self.add(check.map(|check| TransactWriteItem::builder().condition_check(check).build()))
    }
}

/// How a transaction ended that was not made.
#[derive(Debug, PartialEq, Eq)]
enum Cancelled {
    /// The condition of this item, the first such, did not hold.
    Condition(usize),
    /// Another write was under way, or the table takes no more just now.
    Busy(String),
    /// It can never be made.
    Invalid(String),
}

fn cancelled(reasons: &[CancellationReason]) -> Cancelled {
    let code = |reason: &CancellationReason| reason.code().unwrap_or("None").to_owned();
    let failed = |reason: &CancellationReason| reason.code() == Some("ConditionalCheckFailed");
    if let Some(first) = reasons.iter().position(failed) {
        return Cancelled::Condition(first);
    }
    let mut why = reasons.iter().enumerate();
    let Some((i, reason)) = why.find(|(_, reason)| code(reason) != "None") else {
        return Cancelled::Busy("no reason given".to_owned());
    };
    let text = format!(
        "item {i}: {}: {}",
        code(reason),
        reason.message().unwrap_or("no message")
    );
    let busy = [
        "TransactionConflict",
        "ThrottlingError",
        "ProvisionedThroughputExceeded",
        "RequestLimitExceeded",
    ];
    if busy.contains(&code(reason).as_str()) {
        Cancelled::Busy(text)
    } else {
        Cancelled::Invalid(text)
    }
}

impl DynamoDbStore {
    /// An empty transaction; `action` says what for.
    pub(super) fn transaction(&self, action: impl Into<String>) -> Transaction<'_> {
        Transaction {
            table: &self.place.table,
            action: action.into(),
            items: Vec::new(),
        }
    }

    /// Makes the transaction: none if it is made, or the first item whose condition did not hold.
    pub(super) async fn transact(
        &self,
        transaction: Transaction<'_>,
    ) -> Result<Option<usize>, StoreError> {
        let Transaction { action, items, .. } = transaction;
        let token = ulid::Ulid::generate().to_string();
        let mut backoff = Backoff::default();
        loop {
            let request = self
                .client
                .transact_write_items()
                .set_transact_items(Some(items.clone()))
                .client_request_token(&token)
                .customize()
                .config_override(self.retrying());
            let error = match request.send().await {
                Ok(_) => return Ok(None),
                Err(error) => error,
            };
            let why = match error.as_service_error() {
                Some(TransactWriteItemsError::TransactionCanceledException(e)) => {
                    match cancelled(e.cancellation_reasons()) {
                        Cancelled::Condition(item) => return Ok(Some(item)),
                        Cancelled::Busy(why) => (StoreErrorKind::Throttled, why),
                        Cancelled::Invalid(why) => (StoreErrorKind::Invalid, why),
                    }
                }
                Some(TransactWriteItemsError::TransactionInProgressException(_)) => {
                    (StoreErrorKind::Throttled, "still in progress".to_owned())
                }
                _ => return Err(failure(&self.place, &action, error).into()),
            };
            let (kind, why) = why;
            if kind == StoreErrorKind::Invalid || !backoff.pause().await {
                let message = format!(
                    "could not {action} in {}: {why}; {}",
                    self.place,
                    advice(kind)
                );
                return Err(StoreError::new(kind, message).caused_by(error));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_condition_that_failed_counts_before_what_may_pass() {
        let reason = |code: &str| CancellationReason::builder().code(code).build();
        let of = |codes: &[&str]| cancelled(&codes.iter().map(|c| reason(c)).collect::<Vec<_>>());
        let failed = "ConditionalCheckFailed";
        assert_eq!(of(&["None", failed, failed]), Cancelled::Condition(1));
        assert_eq!(
            of(&["TransactionConflict", failed]),
            Cancelled::Condition(1)
        );
        let busy = of(&["None", "TransactionConflict"]);
        assert!(matches!(busy, Cancelled::Busy(why) if why.contains("item 1")));
        assert!(matches!(of(&["ThrottlingError"]), Cancelled::Busy(_)));
        assert!(matches!(of(&["ValidationError"]), Cancelled::Invalid(_)));
        assert!(matches!(of(&[]), Cancelled::Busy(_)));
    }
}
