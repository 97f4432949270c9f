//! Many items by their keys, in as few requests as the service allows.

use std::collections::HashMap;

use aws_sdk_dynamodb::types::{DeleteRequest, KeysAndAttributes, WriteRequest};

use super::super::{StoreError, StoreErrorKind};
use super::DynamoDbStore;
use super::backoff::Backoff;
use super::codec::Attributes;
use super::error::{Place, advice, failure};

/// The most items that one request deletes.
const DELETE_MAX: usize = 25;
/// The most items that one request reads.
const GET_MAX: usize = 100;

/// The service keeps on taking nothing of what it is sent.
fn exhausted(place: &Place, action: &str) -> StoreError {
    let kind = StoreErrorKind::Throttled;
    let advice = advice(kind);
    let message = format!("could not {action} in {place}: the table takes no more; {advice}");
    StoreError::new(kind, message)
}

fn incomplete(action: &str, error: aws_sdk_dynamodb::error::BuildError) -> StoreError {
    let message = format!("could not {action}: incomplete request; a defect");
    StoreError::new(StoreErrorKind::Invalid, message).caused_by(error)
}

impl DynamoDbStore {
    /// Deletes the items of these keys. What the service leaves undone is sent again, and so is
    /// what it may have done: a deletion can be repeated.
    pub(super) async fn delete_items(
        &self,
        action: &str,
        keys: Vec<Attributes>,
    ) -> Result<(), StoreError> {
        let delete = |key| {
            let request = DeleteRequest::builder().set_key(Some(key)).build();
            let request = request.map_err(|error| incomplete(action, error))?;
            Ok(WriteRequest::builder().delete_request(request).build())
        };
        let mut left = keys
            .into_iter()
            .map(delete)
            .collect::<Result<Vec<_>, StoreError>>()?;
        let mut backoff = Backoff::default();
        while !left.is_empty() {
            let batch = left.split_off(left.len().saturating_sub(DELETE_MAX));
            let sent = batch.len();
            let request = self
                .client
                .batch_write_item()
                .request_items(&self.place.table, batch)
                .customize()
                .config_override(self.retrying());
            let answer = request.send().await;
            let answer = answer.map_err(|error| failure(&self.place, action, error))?;
            let unprocessed = answer.unprocessed_items.unwrap_or_default();
            let undone: Vec<_> = unprocessed.into_values().flatten().collect();
            if undone.is_empty() {
                backoff.reset();
                continue;
            }
            if undone.len() < sent {
                backoff.reset();
            }
            left.extend(undone);
            if !backoff.pause().await {
                return Err(exhausted(&self.place, action));
            }
        }
        Ok(())
    }

    /// Reads the items of these keys, strongly consistent, in no particular order. Those that
    /// are not there are left out.
    pub(super) async fn get_items(
        &self,
        action: &str,
        keys: Vec<Attributes>,
    ) -> Result<Vec<Attributes>, StoreError> {
        let (mut left, mut found) = (keys, Vec::new());
        let mut backoff = Backoff::default();
        while !left.is_empty() {
            let batch = left.split_off(left.len().saturating_sub(GET_MAX));
            let sent = batch.len();
            let wanted = KeysAndAttributes::builder()
                .set_keys(Some(batch))
                .consistent_read(true)
                .build()
                .map_err(|error| incomplete(action, error))?;
            let request = self
                .client
                .batch_get_item()
                .set_request_items(Some(HashMap::from([(self.place.table.clone(), wanted)])))
                .customize()
                .config_override(self.retrying());
            let answer = request.send().await;
            let answer = answer.map_err(|error| failure(&self.place, action, error))?;
            let items = answer.responses.unwrap_or_default().into_values();
            found.extend(items.flatten());
            let unprocessed = answer.unprocessed_keys.unwrap_or_default().into_values();
            let undone: Vec<_> = unprocessed.flat_map(|more| more.keys).collect();
            let progress = undone.len() < sent;
            if progress {
                backoff.reset();
            }
            // Without a pause where the answer was merely full: 16 MB at most.
            let pause = !undone.is_empty() && !progress;
            left.extend(undone);
            if pause && !backoff.pause().await {
                return Err(exhausted(&self.place, action));
            }
        }
        Ok(found)
    }
}
