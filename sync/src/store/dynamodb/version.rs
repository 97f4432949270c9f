//! The version record: its item, in the layout of v0.2.0, and its replacement.

use std::collections::HashMap;

use aws_sdk_dynamodb::types::AttributeValue;
use zae_limiter_core::schema;

use super::super::StoreError;
use super::codec::{
    Attributes, DATA, Unreadable, data, optional_text, primary_key, required_text, text,
    text_or_null,
};
use super::transaction::Expression;
use super::{DynamoDbStore, error};
use crate::VersionRecord;

const SCHEMA_VERSION: &str = "schema_version";
const CLIENT_MIN_VERSION: &str = "client_min_version";
const UPDATED_AT: &str = "updated_at";

fn key() -> Attributes {
    primary_key(schema::SYSTEM.to_owned(), schema::VERSION)
}

fn encode(record: &VersionRecord) -> Attributes {
    let mut data = HashMap::from([
        (SCHEMA_VERSION.to_owned(), text(&record.schema_version)),
        (UPDATED_AT.to_owned(), text(&record.updated_at)),
        (
            "lambda_version".to_owned(),
            text_or_null(record.lambda_version.as_ref()),
        ),
        (
            "updated_by".to_owned(),
            text_or_null(record.updated_by.as_ref()),
        ),
    ]);
    // Left out, not null: v0.2.0 takes a null for a version.
    if let Some(version) = &record.client_min_version {
        data.insert(CLIENT_MIN_VERSION.to_owned(), text(version));
    }
    let mut item = key();
    item.insert(DATA.to_owned(), AttributeValue::M(data));
    item
}

fn decode(item: &Attributes) -> Result<VersionRecord, Unreadable> {
    let data = data(item)?;
    Ok(VersionRecord {
        schema_version: required_text(data, SCHEMA_VERSION)?,
        lambda_version: optional_text(data, "lambda_version")?,
        client_min_version: optional_text(data, CLIENT_MIN_VERSION)?,
        updated_at: required_text(data, UPDATED_AT)?,
        updated_by: optional_text(data, "updated_by")?,
    })
}

impl DynamoDbStore {
    pub(super) async fn version(&self) -> Result<Option<VersionRecord>, StoreError> {
        let found = self.read("the version record", key()).await?;
        let unreadable = |found| error::unreadable(&self.place, &error::name_of(&key()), found);
        let record = found.map(|item| decode(&item));
        record.transpose().map_err(unreadable)
    }

    pub(super) async fn replace_version(
        &self,
        record: &VersionRecord,
        replaces: Option<&VersionRecord>,
    ) -> Result<bool, StoreError> {
        let condition = replaces.map_or_else(Expression::absent, |old| {
            let mut condition = Expression::data_is(UPDATED_AT, text(&old.updated_at));
            condition.require_data(SCHEMA_VERSION, text(&old.schema_version));
            condition
        });
        // One item, but a transaction: it may be sent again and is made once.
        let mut all = self.transaction("write the version record");
        all.put(encode(record), Some(condition))?;
        Ok(self.transact(all).await?.is_none())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_record_keeps_the_layout_of_the_python_library() {
        let mut record = VersionRecord {
            schema_version: "1.0.0".into(),
            lambda_version: None,
            client_min_version: Some("0.0.0".into()),
            updated_at: "2026-01-01T00:00:00Z".into(),
            updated_by: Some("cli".into()),
        };
        let item = encode(&record);
        assert_eq!(
            (&item["PK"], &item["SK"]),
            (&text("SYSTEM#"), &text("#VERSION"))
        );
        let data = item["data"].as_m().unwrap();
        assert_eq!(data["lambda_version"], AttributeValue::Null(true));
        assert_eq!(data["client_min_version"], text("0.0.0"));
        assert_eq!(decode(&item).as_ref(), Ok(&record));
        record.client_min_version = None;
        let item = encode(&record);
        assert!(
            !item["data"]
                .as_m()
                .unwrap()
                .contains_key("client_min_version")
        );
        assert_eq!(decode(&item), Ok(record));
    }
}
