//! Which tables a limiter connects to: in memory, and on a real one.

use std::collections::HashMap;
use std::sync::Arc;

use aws_sdk_dynamodb::types::AttributeValue;
use futures::future::join_all;
use zae_limiter::store::{Fault, FaultyStore, MemoryStore, Store};
use zae_limiter::{Error, ErrorKind, RateLimiter, Settings, VersionRecord};
use zae_limiter_tests::{client_for, endpoint, fresh_table};

type Shared = Arc<dyn Store>;

fn counting(store: &Shared) -> FaultyStore<dyn Store> {
    FaultyStore::over(store.clone())
}

async fn connect(store: &FaultyStore<dyn Store>, settings: Settings) -> Result<(), Error> {
    let builder = RateLimiter::builder("ZAEL-versions").store(store.clone());
    builder.settings(settings).connect().await.map(drop)
}

fn record(schema: &str, lambda: Option<&str>, min: Option<&str>) -> VersionRecord {
    VersionRecord {
        schema_version: schema.into(),
        lambda_version: lambda.map(Into::into),
        client_min_version: min.map(Into::into),
        updated_at: "2026-01-01T00:00:00Z".into(),
        updated_by: Some("somebody".into()),
    }
}

/// B10 of the Python library.
async fn the_first_client_writes_the_record_and_the_next_one_reads_it(table: Shared) {
    let store = counting(&table);
    let settings = || Settings {
        auto_update: false,
        ..Settings::default()
    };
    connect(&store, settings())
        .await
        .expect("no record is all right");
    assert_eq!((store.reads(), store.writes()), (1, 0));
    assert_eq!(table.read_version().await.expect("a table"), None);

    store.reset();
    connect(&store, Settings::default()).await.expect("a table");
    assert_eq!((store.reads(), store.writes()), (1, 1));
    let written = table.read_version().await.expect("a table");
    let written = written.expect("a record");
    assert_eq!(written.schema_version, "1.0.0");
    assert_eq!(written.lambda_version, None);
    assert_eq!(written.client_min_version.as_deref(), Some("0.0.0"));
    let by = written.updated_by.as_deref();
    assert!(by.is_some_and(|by| by.starts_with("client:0.")), "{by:?}");

    store.reset();
    connect(&store, Settings::default()).await.expect("a table");
    assert_eq!((store.reads(), store.writes(), store.checks()), (1, 0, 0));
    assert_eq!(table.read_version().await.expect("a table"), Some(written));
}

async fn who_may_not_write_connects_all_the_same(table: Shared) {
    let store = counting(&table);
    store.plan([None, Some(Fault::AccessDenied)]);
    connect(&store, Settings::default())
        .await
        .expect("reading is enough");
    assert_eq!(table.read_version().await.expect("a table"), None);
    store.plan([Some(Fault::AccessDenied)]);
    let denied = connect(&store, Settings::default()).await;
    assert_eq!(
        denied.expect_err("no table").kind(),
        ErrorKind::AccessDenied
    );
}

async fn of_many_first_clients_one_writes(table: Shared) {
    let stores: Vec<_> = (0..8).map(|_| counting(&table)).collect();
    let connects = stores
        .iter()
        .map(|store| connect(store, Settings::default()));
    for connected in join_all(connects).await {
        connected.expect("a table");
    }
    let record = table.read_version().await.expect("a table");
    assert!(record.is_some());
}

async fn what_does_not_go_together_is_told_and_nothing_is_changed(table: Shared) {
    use ErrorKind::{IncompatibleSchema, VersionMismatch};
    let upgrade = "zae-limiter upgrade --name versions";
    let update = "update zae-limiter in this program";
    let client = env!("CARGO_PKG_VERSION"); // one version for the whole workspace
    let mut before = None;
    // Lenient: not strict about versions.
    for (found, strict, lenient, advice) in [
        (record("1.0.0", None, None), None, None, ""),
        (record("1.7.3", Some(client), Some("0.0.0")), None, None, ""),
        (
            record("1.0.0", Some("99.0.0"), Some(client)),
            None,
            None,
            "",
        ),
        (record("1.0.0", Some("0.0.0+unknown"), None), None, None, ""),
        (
            record("1.0.0", Some("0.0.1"), None),
            Some(VersionMismatch),
            None,
            upgrade,
        ),
        (
            record("0.7.0", None, None),
            Some(IncompatibleSchema),
            Some(IncompatibleSchema),
            upgrade,
        ),
        (
            record("2.0.0", None, None),
            Some(IncompatibleSchema),
            Some(IncompatibleSchema),
            update,
        ),
        (
            record("two", None, None),
            Some(IncompatibleSchema),
            Some(IncompatibleSchema),
            update,
        ),
        (
            record("1.0.0", None, Some("99.0.0")),
            Some(VersionMismatch),
            Some(VersionMismatch),
            update,
        ),
        (
            record("2.0.0", None, Some("99.0.0")),
            Some(VersionMismatch),
            Some(VersionMismatch),
            update,
        ),
    ] {
        let replaced = table.write_version(&found, before.as_ref()).await;
        assert!(replaced.expect("a table"));
        for (strict_version, expected) in [(true, strict), (false, lenient)] {
            let store = counting(&table);
            let settings = Settings {
                strict_version,
                ..Settings::default()
            };
            let connected = connect(&store, settings).await;
            let kind = connected.as_ref().err().map(Error::kind);
            assert_eq!(kind, expected, "{found:?}, strict: {strict_version}");
            assert_eq!((store.reads(), store.writes()), (1, 0));
            let Err(error) = connected else { continue };
            assert!(error.to_string().contains(advice), "{error}");
            match error {
                Error::VersionMismatch {
                    client_version,
                    schema_version,
                    lambda_version,
                    can_auto_update,
                    ..
                } => {
                    assert_eq!(client_version, client);
                    assert_eq!(schema_version, found.schema_version);
                    assert_eq!(lambda_version, found.lambda_version);
                    assert_eq!(can_auto_update, advice == upgrade);
                }
                Error::IncompatibleSchema { schema_version, .. } => {
                    assert_eq!(schema_version, found.schema_version);
                }
                other => panic!("{other}"),
            }
        }
        let store = counting(&table);
        let settings = Settings {
            skip_version_check: true,
            ..Settings::default()
        };
        connect(&store, settings).await.expect("nobody asks");
        assert_eq!((store.reads(), store.writes(), store.checks()), (0, 0, 1));
        let after = table.read_version().await.expect("a table");
        assert_eq!(after.as_ref(), Some(&found));
        before = after;
    }
}

macro_rules! on_both_stores {
    ($($case:ident)*) => {
        mod memory {
            use super::*;
            $(#[tokio::test] async fn $case() {
                super::$case(Arc::new(MemoryStore::new())).await;
            })*
        }
        mod dynamodb {
            use super::*;
            $(#[tokio::test] async fn $case() {
                let table = fresh_table("versions").await;
                super::$case(Arc::new(table.store())).await;
            })*
        }
    };
}

on_both_stores! {
    the_first_client_writes_the_record_and_the_next_one_reads_it
    who_may_not_write_connects_all_the_same
    of_many_first_clients_one_writes
    what_does_not_go_together_is_told_and_nothing_is_changed
}

#[tokio::test]
async fn a_record_that_makes_no_sense_is_not_passed_over() {
    let table = fresh_table("versions").await;
    let s = |text: &str| AttributeValue::S(text.to_owned());
    let put = client_for(&endpoint()).put_item().table_name(table.name());
    let put = put.item("PK", s("SYSTEM#")).item("SK", s("#VERSION"));
    let data = HashMap::from([("schema_version".to_owned(), AttributeValue::N("1".into()))]);
    let put = put.item("data", AttributeValue::M(data)).send().await;
    put.expect("an item");
    let builder = || RateLimiter::builder("versions").store(table.store());
    let error = builder().connect().await.expect_err("no version");
    assert_eq!(error.kind(), ErrorKind::Store);
    assert!(error.to_string().contains("data.schema_version"), "{error}");
    let skipping = builder().skip_version_check(true).connect().await;
    skipping.expect("nobody asks");
}
