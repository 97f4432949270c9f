//! The binary under a runtime API, fed with what a real table's stream says.

use std::io::Cursor;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Value, json};
use tempfile::{NamedTempFile, TempDir};
use tokio::process::Command;
use zae_limiter_infra::{GLIBC_MAX, Package};
use zae_limiter_tests::{REGION, endpoint, fresh_table};

use crate::runtime_api::RuntimeApi;
use crate::traffic::{check_usage, event, stream_of, traffic};

const PROGRAM: &str = env!("CARGO_BIN_EXE_zae-limiter-aggregator");

/// What Lambda unpacks of the package that is deployed.
fn unpacked() -> (TempDir, PathBuf) {
    let package = Package::from_program(Path::new(PROGRAM)).expect("it is fit for Lambda");
    assert!(package.glibc <= Some(GLIBC_MAX), "{package:?}");
    let folder = tempfile::tempdir().unwrap();
    let mut zip = zip::ZipArchive::new(Cursor::new(package.zip)).unwrap();
    zip.extract(folder.path()).unwrap();
    let program = folder.path().join("bootstrap");
    (folder, program)
}

/// The function; what it logs goes to a file.
fn function(program: &Path, api: &RuntimeApi, table: &str, log: &NamedTempFile) -> Command {
    let mut command = Command::new(program);
    command
        .env_clear()
        .env("AWS_LAMBDA_RUNTIME_API", api.address.to_string())
        .env("AWS_LAMBDA_FUNCTION_NAME", "aggregator")
        .env("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", "256")
        .env("AWS_LAMBDA_FUNCTION_VERSION", "1")
        .env("AWS_LAMBDA_LOG_LEVEL", "DEBUG")
        .env("AWS_ENDPOINT_URL", endpoint())
        .env("AWS_ACCESS_KEY_ID", "test")
        .env("AWS_SECRET_ACCESS_KEY", "test")
        .env("AWS_REGION", REGION)
        .env("TABLE_NAME", table)
        .env("SNAPSHOT_WINDOWS", "hourly,daily,monthly")
        .stdout(log.reopen().unwrap())
        .kill_on_drop(true);
    command
}

/// B3 of the Python library.
#[tokio::test]
async fn the_function_counts_what_the_stream_says_once_and_answers_with_what_failed() {
    let table = fresh_table("lambda").await;
    traffic(table.store()).await;
    let mut records = stream_of(table.name()).await;
    assert!(records.len() >= 10, "{}", records.len());
    let mut api = RuntimeApi::start().await;
    let log = NamedTempFile::new().unwrap();
    let (_folder, program) = unpacked();
    let function = function(&program, &api, table.name(), &log).spawn();
    let mut function = function.unwrap();

    let half = records.len() / 2;
    let nothing_failed = json!({ "batchItemFailures": [] });
    for batch in [
        &records[..half],
        &records[2..],
        &records[..],
        &records[half..],
    ] {
        let (request, answer) = api.invoke(event(batch)).await;
        assert!(request.contains("/response"), "{request}");
        assert_eq!(answer, nothing_failed);
    }
    check_usage(table.store()).await;

    // A record that makes no sense, and one after it of the same bucket.
    let last = records.last().unwrap().clone();
    let mut nonsense = last.clone();
    nonsense.change.sequence_number = Some("nonsense".into());
    let text = serde_dynamo::AttributeValue::S("x".into());
    let mut image = nonsense.change.new_image.into_inner();
    image.insert("seq".into(), text);
    nonsense.change.new_image = image.into();
    records = vec![records[0].clone(), nonsense, last];
    let failed = records[2].change.sequence_number.clone().unwrap();
    let (_, answer) = api.invoke(event(&records)).await;
    let failed = [json!("nonsense"), json!(failed)];
    let failed = failed.map(|id| json!({ "itemIdentifier": id }));
    assert_eq!(answer, json!({ "batchItemFailures": failed }));
    check_usage(table.store()).await;

    function.kill().await.unwrap();
    let log = std::fs::read_to_string(log.path()).unwrap();
    let lines: Vec<Value> = log
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let line = |message: &str| {
        let found = lines.iter().find(|line| line["message"] == message);
        found.unwrap_or_else(|| panic!("no line {message:?} in {log}"))
    };
    let done = line("Batch processing completed");
    assert_eq!(done["level"], "INFO");
    assert_eq!(done["function_name"], "aggregator");
    assert_eq!(done["request_id"], "8476a536-e9f4-11e8-9739-2dfe598c3fcd");
    assert_eq!(done["record_count"], half);
    assert_eq!(done["processed"], half);
    assert_eq!(done["error_count"], 0);
    for field in ["timestamp", "logger"] {
        assert!(done[field].is_string(), "{field}: {done}");
    }
    for field in ["deltas_extracted", "snapshots_updated"] {
        assert!(done[field].as_u64() > Some(0), "{field}: {done}");
    }
    assert!(done["processing_time_ms"].as_f64() > Some(0.0));
    for message in [
        "Lambda invocation started",
        "Batch processing started",
        "Lambda invocation completed",
    ] {
        assert_eq!(line(message)["record_count"], half);
    }
    assert_eq!(line("Snapshot updated")["level"], "DEBUG");
    let failed = line("Record failed");
    assert_eq!(
        (&failed["level"], &failed["position"]),
        (&json!("ERROR"), &json!("nonsense"))
    );
}

fn is_bucket(keys: &serde_dynamo::Item) -> bool {
    let sk = serde_dynamo::AttributeValue::S("#BUCKET#api".into());
    keys.get("SK") == Some(&sk)
}

#[tokio::test]
async fn a_table_that_is_not_there_fails_the_records_and_not_the_function() {
    let table = fresh_table("lambda").await;
    traffic(table.store()).await;
    let records = stream_of(table.name()).await;
    let mut api = RuntimeApi::start().await;
    let log = NamedTempFile::new().unwrap();
    let function = function(Path::new(PROGRAM), &api, "ZAEL-not-there", &log).spawn();
    let mut function = function.unwrap();
    let (request, answer) = api.invoke(event(&records)).await;
    assert!(request.contains("/response"), "{request}");
    let failures = answer["batchItemFailures"].as_array().unwrap();
    assert!(!failures.is_empty());
    // Not what comes before that is not about a bucket.
    let first = records.iter().find(|record| is_bucket(&record.change.keys));
    let first = json!(first.unwrap().change.sequence_number);
    assert_eq!(failures[0]["itemIdentifier"], first);
    function.kill().await.unwrap();
}

#[tokio::test]
async fn without_a_table_name_it_does_not_start() {
    let api = RuntimeApi::start().await;
    let log = NamedTempFile::new().unwrap();
    let mut command = function(Path::new(PROGRAM), &api, "", &log);
    let run = tokio::time::timeout(Duration::from_secs(30), command.status());
    let status = run.await.unwrap().unwrap();
    assert!(!status.success());
    let log: Value = serde_json::from_reader(log.as_file()).unwrap();
    let told = log["error"].as_str().unwrap();
    assert!(told.starts_with("TABLE_NAME is not set"), "{told}");
}
