//! A limiter from its deployment to its deletion, on LocalStack.

use std::time::Duration;

use serde_json::json;
use zae_limiter::{Limit, Mode, RateLimiter};

use crate::command::{Stack, endpoint};

/// Admits as much as it can of `tries` acquires in this mode.
async fn traffic(stack: &Stack, mode: Mode, tries: usize) -> usize {
    let builder = RateLimiter::builder(&stack.name).endpoint_url(&stack.console.url);
    let limiter = builder
        .mode(mode)
        .region("us-east-1")
        .connect()
        .await
        .unwrap();
    let mut admitted = 0;
    for _ in 0..tries {
        let acquire = limiter.acquire("user-1", "gpt-4").use_stored_limits(true);
        admitted += usize::from(acquire.consume("rpm", 1).await.is_ok());
    }
    limiter.shutdown(Duration::from_secs(10)).await;
    admitted
}

/// B19 of the Python library.
#[tokio::test]
async fn a_limiter_is_deployed_used_changed_and_deleted() {
    let stack = Stack::new(&endpoint(), "deploy");
    let full_name = format!("ZAEL-{}", stack.name);
    let without = ["deploy", "--no-aggregator"];

    let deployed = stack.run(&without).code(0);
    assert!(
        deployed.out.contains(&format!("{full_name} is deployed")),
        "{deployed:?}"
    );
    assert!(
        deployed.err.contains("RateLimitsTable CREATE_COMPLETE"),
        "{deployed:?}"
    );
    let again = stack.json(&without);
    assert_eq!(again["operation"], "nothing");
    assert_eq!(
        again["stack"]["tags"]["zae-limiter:version"],
        env!("CARGO_PKG_VERSION")
    );

    // 1 token a day flows in, so that what is admitted can be counted.
    stack.json(&["limits", "set", "-r", "gpt-4", "-l", "rpm=60/day"]);
    assert_eq!(traffic(&stack, Mode::Strict, 10).await, 10);
    assert_eq!(traffic(&stack, Mode::leased(), 80).await, 50);
    let looks = stack
        .run(&["watch", "user-1", "gpt-4", "--count", "1", "--json"])
        .json();
    assert_eq!(looks[0]["consumed"], json!(60), "{looks}");
    assert_eq!(looks[0]["burst"], json!(60));

    let capacity = stack.json(&["resource", "capacity", "gpt-4", "rpm", "--parents-only"]);
    assert_eq!(
        capacity["total_capacity"], 0,
        "user-1 is no entity: {capacity}"
    );
    let capacity = stack.json(&["resource", "capacity", "gpt-4", "rpm"]);
    assert_eq!(
        (&capacity["total_capacity"], &capacity["total_available"]),
        (&json!(60), &json!(0))
    );
    let shown = stack.run(&["resource", "capacity", "gpt-4", "rpm"]).code(0);
    assert!(
        shown.out.contains("user-1") && shown.out.contains("100.0 %"),
        "{shown:?}"
    );

    let counted = stack.json(&[
        "aggregate",
        "--snapshot-windows",
        "daily",
        "--retention-days",
        "7",
        "--start",
        "horizon",
        "--seconds",
        "3",
    ]);
    assert!(counted["records"].as_u64() >= Some(11), "{counted}");
    assert_eq!(counted["skipped"], 0);
    let again = stack.json(&["aggregate", "--snapshot-windows", "daily", "--seconds", "2"]);
    assert_eq!(
        again["snapshots_updated"], 0,
        "what has been counted is not counted again"
    );
    let from_now = ["aggregate", "--start", "latest", "--seconds", "1"];
    assert_eq!(stack.json(&from_now)["records"], 0);

    let since = [
        "--entity",
        "user-1",
        "--window",
        "daily",
        "--since",
        "2d",
        "--until",
        "2099-01-01T00:00:00Z",
    ];
    let both = [&["--resource", "gpt-4"][..], &since].concat();
    let listed = stack.json(&[&["usage", "list"], &both[..]].concat());
    assert_eq!(listed[0]["counters"]["rpm"], 60, "{listed}");
    let until = ["--until", "2020-01-01T00:00:00Z"];
    let before =
        stack.json(&[&["usage", "list", "-r", "gpt-4", "-w", "daily"], &until[..]].concat());
    assert_eq!(before, json!([]));
    let summary = stack.json(&[&["usage", "summary"], &both[..]].concat());
    assert_eq!(summary["limits"]["rpm"]["total"], 60, "{summary}");
    let folder = tempfile::tempdir().unwrap();
    let svg = folder.path().join("usage.svg");
    let draw = ["usage", "plot", "rpm", "--svg", svg.to_str().unwrap()];
    let drawn = stack.run(&[&draw, &since[..]].concat()).code(0);
    let image = std::fs::read_to_string(&svg).unwrap();
    assert!(
        image.starts_with("<svg") && image.contains(": 60</title>"),
        "{image}"
    );
    assert!(drawn.out.contains("█ 60"), "{drawn:?}");
    let drawn = stack.json(&[&draw, &both[..]].concat());
    let by_start = drawn.as_object().unwrap().values();
    assert_eq!(by_start.collect::<Vec<_>>(), [60], "{drawn}");

    let changed = stack.json(&[
        "deploy",
        "--no-aggregator",
        "--no-alarms",
        "--retention-days",
        "7",
    ]);
    assert_eq!(changed["operation"], "update");
    let status = stack.json(&["status"]);
    assert_eq!(status["status"], "UPDATE_COMPLETE");
    assert_eq!(status["parameters"]["EnableAlarms"], "false");
    assert_eq!(status["parameters"]["SnapshotRetentionDays"], "7");
    assert!(status["table_ms"].is_u64(), "{status}");
    let limits = stack.json(&["limits", "get", "-r", "gpt-4"]);
    assert_eq!(
        limits[0]["name"], "rpm",
        "an update keeps what is stored: {limits}"
    );
    let found = stack.run(&["status"]).code(0);
    assert!(found.out.contains("UPDATE_COMPLETE"), "{found:?}");

    let all = stack.console.json(&["list"]);
    let all = all.as_array().unwrap();
    assert!(all.iter().any(|found| found["name"] == full_name.as_str()));
    assert!(
        stack
            .console
            .run(&["list"])
            .code(0)
            .out
            .contains(&full_name)
    );

    let deleted = stack.json(&["delete", "--yes"]);
    assert_eq!(deleted["found"], true);
    let absent = stack.run(&["status"]).code(4);
    assert!(
        absent
            .err
            .contains(&format!("there is no stack {full_name}")),
        "{absent:?}"
    );
    assert_eq!(stack.json(&["delete", "--yes"])["found"], false);
    stack.run(&["version"]).code(4);
    stack.console.covers("aggregate");
    stack.console.covers("list");
    stack.console.covers("resource");
    stack.console.covers("status");
    stack.console.covers("usage");
}

#[test]
fn nothing_is_deleted_unasked() {
    let stack = Stack::new(&endpoint(), "ask");
    let asked = stack.run(&["delete"]).code(2);
    assert!(asked.err.contains("--yes"), "{asked:?}");
    stack.run(&["entity", "delete", "user-1"]).code(2);
    stack.run(&["limits", "delete"]).code(2);
}

#[test]
fn a_protected_table_is_not_deleted() {
    let stack = Stack::new(&endpoint(), "protected");
    stack
        .run(&["deploy", "--no-aggregator", "--deletion-protection"])
        .code(0);
    let refused = stack.run(&["delete", "--yes"]).code(1);
    assert!(
        refused.err.contains("--no-deletion-protection"),
        "{refused:?}"
    );
    assert_eq!(
        stack.json(&["status"])["status"],
        "CREATE_COMPLETE",
        "nothing was touched"
    );
    stack
        .run(&["deploy", "--no-aggregator", "--no-deletion-protection"])
        .code(0);
    stack.run(&["delete", "--yes"]).code(0);
}

#[test]
fn without_waiting_it_goes_on_by_itself() {
    let stack = Stack::new(&endpoint(), "nowait");
    let begun = stack.json(&["deploy", "--no-aggregator", "--no-wait"]);
    assert_eq!(begun["operation"], "create");
    // What was begun is waited for, and is what was wanted.
    let waited = stack.json(&["deploy", "--no-aggregator", "--wait"]);
    assert_eq!(waited["operation"], "nothing");
    assert_eq!(waited["stack"]["status"], "CREATE_COMPLETE");
    assert_eq!(
        stack.json(&["delete", "--yes", "--no-wait"])["waited"],
        false
    );
    stack.run(&["delete", "--yes", "--wait"]).code(0);
    stack.run(&["status"]).code(4);
    stack.console.covers("delete");
}

#[tokio::test]
async fn a_failure_has_the_reason_of_the_resource_that_failed_first() {
    let stack = Stack::new(&endpoint(), "taken");
    let builder = || {
        RateLimiter::builder(&stack.name)
            .endpoint_url(&stack.console.url)
            .region("us-east-1")
    };
    let options = zae_limiter::StackOptions::default().enable_aggregator(false);
    // The table is there, and of nobody's stack.
    let table = crate::policies::client(&stack.console.url, Vec::new());
    let table = zae_limiter::store::DynamoDbStore::new(table, format!("ZAEL-{}", stack.name));
    table.create_table().await.unwrap();
    let error = builder().stack(options).connect().await.unwrap_err();
    assert_eq!(error.kind(), zae_limiter::ErrorKind::Stack);
    let text = error.to_string();
    assert!(
        text.contains("RateLimitsTable (AWS::DynamoDB::Table)"),
        "{text}"
    );
    assert!(
        text.contains("already exists") && text.contains("delete the stack"),
        "{text}"
    );
    let failed = stack.run(&["status"]).code(1);
    assert!(failed.err.contains("CREATE_FAILED"), "{failed:?}");
    let stuck = stack.run(&["deploy", "--no-aggregator"]).code(1);
    assert!(
        stuck.err.contains("delete the stack, then deploy again"),
        "{stuck:?}"
    );
    assert!(builder().delete_stack().await.unwrap());
    assert!(
        !builder().delete_stack().await.unwrap(),
        "there is none any more"
    );
    table.delete_table().await.ok();
}

#[tokio::test]
async fn a_limiter_brings_its_own_stack() {
    let stack = Stack::new(&endpoint(), "own");
    let options = zae_limiter::StackOptions::default().enable_aggregator(false);
    let connect = || {
        let builder = RateLimiter::builder(&stack.name).endpoint_url(&stack.console.url);
        builder.region("us-east-1").stack(options.clone()).connect()
    };
    let one = connect().await.unwrap();
    connect().await.expect("it is what it should be");
    let table = &stack.json(&["version"])["table"];
    let by = format!("client:{}", env!("CARGO_PKG_VERSION"));
    assert_eq!(table["updated_by"], by, "{table}");
    // As if an older function had been deployed before: the stack knows better.
    let older = "
client('dynamodb').update_item(TableName=name, Key={'PK': {'S': 'SYSTEM#'}, 'SK': {'S': '#VERSION'}},
    UpdateExpression='SET #d.lambda_version = :v', ExpressionAttributeNames={'#d': 'data'},
    ExpressionAttributeValues={':v': {'S': '0.0.9'}})
print('null')";
    stack.ask(older);
    stack.run(&["check"]).code(1);
    connect().await.expect("there is no function");
    stack.run(&["check"]).code(0);
    let limits = [Limit::per_minute("rpm", 10).unwrap()];
    let acquire = one.acquire("user-1", "api").limits(&limits);
    drop(acquire.consume("rpm", 1).await.unwrap());
    assert!(one.delete_stack().await.unwrap());
    stack.run(&["status"]).code(4);
}

/// Deploys as this version would have: without the dashboard.
fn deployed_by(stack: &Stack, version: &str) {
    let create = "
import cfnlint.decode
template = cfnlint.decode.decode('TEMPLATE')[0]
del template['Resources']['Dashboard']
parameters = dict(EnableAggregator='false', SnapshotRetentionDays='7')
cf = client('cloudformation')
cf.create_stack(StackName=name, TemplateBody=json.dumps(template, default=str),
    Parameters=[dict(ParameterKey=k, ParameterValue=v) for k, v in parameters.items()],
    Tags=[dict(Key='zae-limiter:version', Value='VERSION')], Capabilities=['CAPABILITY_IAM'])
cf.get_waiter('stack_create_complete').wait(StackName=name, WaiterConfig=dict(Delay=1))
print('null')";
    let template = concat!(env!("CARGO_MANIFEST_DIR"), "/../stack/template.yaml");
    let create = create.replace("TEMPLATE", template);
    stack.ask(&create.replace("VERSION", version));
    assert_eq!(
        stack.json(&["status"])["tags"]["zae-limiter:version"],
        version
    );
}

fn has_dashboard(stack: &Stack) -> bool {
    stack.resources().to_string().contains("Dashboard")
}

#[test]
fn an_older_template_is_upgraded_and_the_options_stay() {
    let stack = Stack::new(&endpoint(), "older");
    deployed_by(&stack, "0.0.1");
    let alone = stack.json(&["upgrade", "--lambda-only"]);
    assert_eq!(alone["operation"], "nothing", "there is no function");
    assert!(!has_dashboard(&stack));
    let upgraded = stack.json(&["upgrade"]);
    assert_eq!(upgraded["operation"], "update");
    assert!(has_dashboard(&stack));
    let parameters = &upgraded["stack"]["parameters"];
    assert_eq!(parameters["SnapshotRetentionDays"], "7");
}

#[tokio::test]
async fn what_a_newer_version_has_deployed_is_left_as_it_is() {
    let stack = Stack::new(&endpoint(), "newer");
    deployed_by(&stack, "99.0.0");
    let refused = stack.run(&["deploy", "--no-aggregator"]).code(1);
    assert!(refused.err.contains("by version 99.0.0"), "{refused:?}");
    let options = zae_limiter::StackOptions::default().enable_aggregator(false);
    let builder = RateLimiter::builder(&stack.name).endpoint_url(&stack.console.url);
    let limiter = builder.region("us-east-1").stack(options).connect().await;
    limiter.expect("a fleet may be of two versions for a while");
    assert!(!has_dashboard(&stack));
}
