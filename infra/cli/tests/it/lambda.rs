//! The aggregator: its package, and the stack around it, on moto.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::command::{Console, PROGRAM, Stack, ask, endpoint, template};
use crate::moto::Moto;

/// What there is of a stack, beside what CloudFormation says of it.
const INSPECT: &str = "
function = client('lambda').get_function(FunctionName=name + '-aggregator')
mapping = client('lambda').list_event_source_mappings()['EventSourceMappings'][0]
role = client('iam').get_role(RoleName=function['Configuration']['Role'].split('/')[-1])['Role']
policy = client('iam').get_role_policy(RoleName=role['RoleName'], PolicyName='aggregator')
logs = client('logs').describe_log_groups(logGroupNamePrefix='/aws/lambda/' + name)
queues = client('sqs').list_queues()['QueueUrls']
table = client('dynamodb').describe_table(TableName=name)['Table']
resources = client('cloudformation').describe_stack_resources(StackName=name)
buckets = [b['Name'] for b in client('s3').list_buckets()['Buckets']]
print(json.dumps(dict(function=function['Configuration'], mapping=mapping, role=role,
    policy=policy['PolicyDocument'], logs=logs['logGroups'], queues=queues, table=table,  buckets=buckets,
    resources=[r.get('LogicalResourceId') for r in resources['StackResources']]), default=str))
";

/// What can stand in for the aggregator where nothing runs it: the head of a program for Linux on
/// x86_64 that needs no libraries, and this.
fn stand_in(path: &Path, content: &str) {
    let mut head = [0_u8; 64];
    head[..7].copy_from_slice(&[0x7f, b'E', b'L', b'F', 2, 1, 1]);
    head[16] = 2; // a program
    head[18] = 62; // for x86_64
    head[20] = 1;
    head[52] = 64; // as long as itself
    std::fs::write(path, [&head[..], content.as_bytes()].concat()).unwrap();
}

/// A folder with the command in it, and the aggregator.
fn installed() -> (tempfile::TempDir, PathBuf) {
    // A link, beside what was built: a copy could be refused as a "text file busy", if another
    // test starts a process while it is written.
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let program = folder.path().join("zae-limiter");
    std::fs::hard_link(PROGRAM, &program).unwrap();
    stand_in(&folder.path().join("zae-limiter-aggregator"), "first");
    (folder, program)
}

#[test]
fn every_option_of_a_deployment_has_its_effect() {
    let moto = Moto::start();
    let (folder, program) = installed();
    let console = Console::installed(&program, &moto.url);
    all_that_can_be_left_out(&console.elsewhere(&endpoint()));
    the_whole_stack(&console, folder.path());
    let program = folder.path().join("later");
    let program = program.to_str().unwrap();
    a_bucket_that_is_given(&console, program);
    what_is_said_of_the_table(&console, program);
    console.covers("deploy");
    console.covers("upgrade");
}

fn all_that_can_be_left_out(console: &Console) {
    let stack = Stack::of(console.clone(), "bare");
    let deploy = [
        "deploy",
        "--no-aggregator",
        "--no-alarms",
        "--no-policies",
        "--no-dashboard",
        "--no-deletion-protection",
        "--no-wait",
    ];
    let begun = stack.json(&deploy);
    assert_eq!(begun["operation"], "create");
    let status = stack.json(&[
        "deploy",
        "--no-aggregator",
        "--no-alarms",
        "--no-policies",
        "--no-dashboard",
    ]);
    assert_eq!(status["operation"], "nothing");
    assert_eq!(stack.resources(), json!(["RateLimitsTable"]));
}

fn what_is_said_of_the_table(console: &Console, program: &str) {
    let stack = Stack::of(console.clone(), "table");
    let key = "alias/limits";
    let protect = ["--deletion-protection", "--encryption-key", key];
    let deploy = [&["deploy", "--aggregator", program], &protect[..]].concat();
    stack.json(&deploy);
    let table = "print(json.dumps(client('dynamodb').describe_table(TableName=name)['Table'], \
        default=str))";
    let table = stack.ask(table);
    assert_eq!(table["DeletionProtectionEnabled"], json!(true), "{table}");
    // moto knows no keys of tables.
    assert_eq!(stack.json(&["status"])["parameters"]["EncryptionKey"], key);
}

fn a_bucket_that_is_given(console: &Console, program: &str) {
    let stack = Stack::of(console.clone(), "given");
    let create = "print(json.dumps(client('s3').create_bucket(Bucket=name), default=str))";
    ask(&console.url, create, "my-bucket");
    let given = ["--artifact-bucket", "my-bucket", "--aggregator", program];
    let deployed = stack.json(&[&["deploy"], &given[..]].concat());
    assert_eq!(
        deployed["stack"]["parameters"]["AggregatorCodeBucket"],
        "my-bucket"
    );
    stack.run(&["delete", "--yes"]).code(0);
    let list = "print(json.dumps(client('s3').list_objects_v2(Bucket=name)['KeyCount']))";
    assert_eq!(ask(&console.url, list, "my-bucket"), json!(0));
    stack.run(&["status"]).code(4);
}

fn the_whole_stack(console: &Console, folder: &Path) {
    let stack = Stack::of(console.clone(), "whole");
    let name = format!("ZAEL-{}", stack.name);
    let later = folder.join("later");
    stand_in(&later, "later");
    let later = later.to_str().unwrap();
    let topic = "arn:aws:sns:us-east-1:123456789012:alarms";
    let deploy = [
        "deploy",
        "--snapshot-windows",
        "hourly,monthly",
        "--retention-days",
        "30",
        "--enable-aggregator",
        "--pitr-recovery-days",
        "7",
        "--log-retention-days",
        "90",
        "--lambda-timeout",
        "100",
        "--lambda-memory",
        "512",
        "--enable-alarms",
        "--alarm-sns-topic",
        topic,
        "--lambda-duration-threshold-pct",
        "50",
        "--permission-boundary",
        "bound",
        "--role-name-format",
        "app-{}",
        "--wait",
    ];
    let deployed = stack.json(&deploy);
    assert_eq!(deployed["operation"], "create");
    let parameters = &deployed["stack"]["parameters"];
    assert_eq!(parameters["LambdaDurationThreshold"], "50000");
    assert_eq!(parameters["AlarmSNSTopicArn"], topic);
    let key = parameters["AggregatorCodeKey"].as_str().unwrap().to_owned();
    assert!(key.starts_with(&format!("{name}/aggregator-")), "{key}");

    let found = stack.ask(INSPECT);
    let function = &found["function"];
    assert_eq!(function["Runtime"], "provided.al2023");
    assert_eq!(function["Handler"], "bootstrap");
    assert_eq!(
        (&function["MemorySize"], &function["Timeout"]),
        (&json!(512), &json!(100))
    );
    let variables = &function["Environment"]["Variables"];
    assert_eq!(variables["TABLE_NAME"], name.as_str());
    assert_eq!(variables["SNAPSHOT_WINDOWS"], "hourly,monthly");
    // moto keeps it a number.
    assert_eq!(
        variables["SNAPSHOT_TTL_DAYS"].to_string().trim_matches('"'),
        "30"
    );
    assert_eq!(
        found["role"]["RoleName"],
        format!("app-{name}-aggregator-role")
    );
    assert_eq!(
        found["role"]["PermissionsBoundary"]["PermissionsBoundaryArn"],
        "arn:aws:iam::123456789012:policy/bound"
    );
    assert_eq!(found["logs"][0]["retentionInDays"], json!(90));
    assert_eq!(
        found["mapping"]["FunctionResponseTypes"],
        json!(["ReportBatchItemFailures"])
    );
    let table = &found["table"];
    assert_eq!(
        table["BillingModeSummary"]["BillingMode"],
        "PAY_PER_REQUEST"
    );
    let projection = &table["GlobalSecondaryIndexes"][1]["Projection"]["ProjectionType"];
    assert_eq!(projection, "KEYS_ONLY");
    // moto knows no such recovery.
    assert_eq!(parameters["PITRRecoveryPeriodDays"], "7");
    assert!(
        found["queues"][0]
            .as_str()
            .unwrap()
            .ends_with(&format!("{name}-aggregator-dlq"))
    );
    assert_eq!(
        found["buckets"],
        json!(["zae-limiter-artifacts-123456789012-us-east-1"])
    );

    // All that the template declares; moto knows alarms of this kind by their number only.
    let all = template()["Resources"].as_object().unwrap().clone();
    let resources = found["resources"].as_array().unwrap();
    assert_eq!(resources.len(), all.len());
    let alarm = |resource: &Value| resource["Type"] == "AWS::CloudWatch::Alarm";
    for (name, _) in all.iter().filter(|(_, resource)| !alarm(resource)) {
        assert!(resources.contains(&json!(name)), "{name}");
    }

    // The same again; then another option; then without the program, which is deployed.
    let again = stack.json(&deploy);
    assert_eq!(again["operation"], "nothing");
    let versions = stack.json(&["version"]);
    assert_eq!(
        versions["table"]["lambda_version"],
        env!("CARGO_PKG_VERSION")
    );
    // moto would make the table anew if any of its options changed.
    let changed = deploy.map(|argument| if argument == "512" { "128" } else { argument });
    std::fs::remove_file(folder.join("zae-limiter-aggregator")).unwrap();
    let changed = stack.json(&changed);
    assert_eq!(changed["operation"], "update");
    assert_eq!(
        changed["stack"]["parameters"]["AggregatorCodeKey"],
        key.as_str()
    );
    assert_eq!(stack.ask(INSPECT)["function"]["MemorySize"], json!(128));
    let upgraded = stack.json(&["upgrade", "--lambda-only", "--aggregator", later]);
    assert_eq!(upgraded["operation"], "update");
    assert_ne!(
        upgraded["stack"]["parameters"]["AggregatorCodeKey"],
        key.as_str()
    );
    let forced = stack.json(&["upgrade", "--force", "--aggregator", later]);
    assert_eq!(forced["operation"], "nothing");

    stack.run(&["delete", "--yes"]).code(0);
    let buckets = "print(json.dumps([b['Name'] for b in client('s3').list_buckets()['Buckets']]))";
    assert_eq!(
        ask(&console.url, buckets, ""),
        json!([]),
        "the bucket is gone with its last package"
    );
}

#[test]
fn without_a_program_it_says_what_to_do() {
    let moto = Moto::start();
    let (folder, program) = installed();
    std::fs::remove_file(folder.path().join("zae-limiter-aggregator")).unwrap();
    let stack = Stack::of(Console::installed(&program, &moto.url), "none");
    let ran = stack.run(&["deploy"]).code(1);
    assert!(ran.err.contains("--no-aggregator"), "{ran:?}");
    stack.run(&["status"]).code(4);
}

#[test]
fn what_was_never_finished_is_cleared_away() {
    let moto = Moto::start();
    let (_folder, program) = installed();
    let stack = Stack::of(Console::installed(&program, &moto.url), "review");
    let review = "
cf = client('cloudformation')
cf.create_change_set(StackName=name, ChangeSetName='x', ChangeSetType='CREATE',
    TemplateBody='{\"Resources\": {\"Q\": {\"Type\": \"AWS::SQS::Queue\"}}}')
print(json.dumps(cf.describe_stacks(StackName=name)['Stacks'][0]['StackStatus']))";
    assert_eq!(stack.ask(review), json!("REVIEW_IN_PROGRESS"));
    let deployed = stack.json(&["deploy"]);
    assert_eq!(deployed["operation"], "create");
    assert_eq!(deployed["stack"]["status"], "CREATE_COMPLETE");
}

#[test]
fn the_package_is_exported() {
    let folder = tempfile::tempdir().unwrap();
    let zip = folder.path().join("lambda.zip");
    let program = folder.path().join("program");
    stand_in(&program, "");
    let program = program.to_str().unwrap();
    let export = [
        "lambda-export",
        "--aggregator",
        program,
        "-o",
        zip.to_str().unwrap(),
    ];
    let console = Console::at("");
    let info = console.json(&[&export[..], &["--info"]].concat());
    assert!(!zip.exists(), "--info writes nothing");
    assert!(
        info["architecture"] == "x86_64" && info["glibc"].is_null(),
        "{info}"
    );
    let written = console.run(&export).code(0);
    assert!(written.out.contains("Needs glibc"), "{written:?}");
    assert!(zip.exists());
    let refused = console.run(&export).code(1);
    assert!(refused.err.contains("--force"), "{refused:?}");
    console.run(&[&export[..], &["--force"]].concat()).code(0);
    let script = folder.path().join("script");
    std::fs::write(&script, "#!/bin/sh").unwrap();
    let script = ["lambda-export", "--aggregator", script.to_str().unwrap()];
    let unfit = console.run(&script).code(1);
    assert!(
        unfit.err.contains("not a 64-bit Linux program"),
        "{unfit:?}"
    );
    console.covers("lambda-export");
}
