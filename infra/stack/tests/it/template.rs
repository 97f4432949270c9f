//! That the template is valid, and agrees with the library and with the options.

use std::collections::BTreeSet;

use serde_json::Value;
use zae_limiter_core::schema;
use zae_limiter_infra::{LOG_RETENTION_DAYS, StackOptions, TEMPLATE};

use crate::{python, template};

fn resources(template: &Value, kind: &str) -> Vec<(String, Value)> {
    let all = template["Resources"].as_object().unwrap().iter();
    let found = all.filter(|(_, resource)| resource["Type"] == kind);
    found.map(|(name, it)| (name.clone(), it.clone())).collect()
}

#[test]
fn the_linter_has_nothing_to_say() {
    let (ok, text) = python(
        "import sys; from cfnlint.runner import main; sys.exit(main())",
        "",
    );
    assert!(ok && text.trim().is_empty(), "{text}");
}

/// B19 of the Python library.
#[test]
fn every_alarm_tells_the_topic() {
    let alarms = resources(&template(), "AWS::CloudWatch::Alarm");
    assert!(alarms.iter().any(|(name, _)| name == "AggregatorDLQAlarm"));
    for (name, alarm) in alarms {
        for actions in ["AlarmActions", "OKActions"] {
            let to = &alarm["Properties"][actions]["Fn::If"];
            assert_eq!(to[0], "HasSNSTopic", "{name}");
            assert_eq!(to[1][0]["Ref"], "AlarmSNSTopicArn", "{name}");
        }
    }
}

#[test]
fn the_table_is_the_one_that_the_library_knows() {
    let template = template();
    let tables = resources(&template, "AWS::DynamoDB::Table");
    let table = &tables[0].1["Properties"];
    let keys = |of: &Value| {
        let keys = of["KeySchema"].as_array().unwrap().iter();
        keys.map(|key| key["AttributeName"].as_str().unwrap().to_owned())
            .collect::<Vec<_>>()
    };
    assert_eq!(keys(table), [schema::PK, schema::SK]);
    let indexes = &table["GlobalSecondaryIndexes"];
    assert_eq!(indexes[0]["IndexName"], schema::GSI1);
    assert_eq!(keys(&indexes[0]), [schema::GSI1_PK, schema::GSI1_SK]);
    assert_eq!(indexes[1]["IndexName"], schema::GSI2);
    assert_eq!(keys(&indexes[1]), [schema::GSI2_PK, schema::GSI2_SK]);
    assert_eq!(indexes[1]["Projection"]["ProjectionType"], "KEYS_ONLY");
    assert_eq!(
        table["TimeToLiveSpecification"]["AttributeName"],
        schema::TTL
    );
    assert_eq!(
        table["StreamSpecification"]["StreamViewType"],
        "NEW_AND_OLD_IMAGES"
    );
    assert_eq!(table["BillingMode"], "PAY_PER_REQUEST");
    let recovery = &table["PointInTimeRecoverySpecification"]["Fn::If"];
    assert_eq!(recovery[0], "UsePITR");
    assert_eq!(recovery[1]["PointInTimeRecoveryEnabled"], true);
    assert_eq!(
        recovery[1]["RecoveryPeriodInDays"]["Ref"],
        "PITRRecoveryPeriodDays"
    );
    let version = &template["Parameters"]["SchemaVersion"]["Default"];
    assert_eq!(version, schema::SCHEMA_VERSION);
}

#[test]
fn the_options_are_its_parameters_and_have_the_same_defaults() {
    let parameters = &template()["Parameters"];
    let options = StackOptions::default().to_parameters("ZAEL-x").unwrap();
    for (name, value) in &options {
        let default = &parameters[*name]["Default"];
        let default = default.as_str().map_or(default.to_string(), Into::into);
        assert_eq!(default, *value, "{name}");
    }
    let named: BTreeSet<_> = parameters.as_object().unwrap().keys().collect();
    let others = named
        .iter()
        .filter(|name| !options.contains_key(name.as_str()));
    let others: Vec<_> = others.map(|name| name.as_str()).collect();
    // Where the package is, and for which processor; and what nobody may choose.
    let expected = [
        "AggregatorCodeBucket",
        "AggregatorCodeKey",
        "LambdaArchitecture",
        "SchemaVersion",
    ];
    assert_eq!(others, expected);
    let days = parameters["LogRetentionDays"]["AllowedValues"]
        .as_array()
        .unwrap();
    assert!(
        days.iter()
            .map(Value::as_u64)
            .eq(LOG_RETENTION_DAYS.map(|d| Some(u64::from(d))))
    );
}

/// B19 of the Python library.
#[test]
fn it_is_of_no_partition_and_no_account() {
    let resources = TEMPLATE.split("\nResources:").nth(1).unwrap();
    assert!(!resources.contains("arn:aws:"));
}

#[test]
fn conditions_keep_to_what_every_engine_evaluates() {
    let conditions = template()["Conditions"].to_string();
    for function in [
        "Fn::Split",
        "Fn::Select",
        "Fn::FindInMap",
        "Fn::Sub",
        "Fn::Join",
    ] {
        assert!(!conditions.contains(function), "{function}");
    }
}

/// B5 of the Python library.
#[test]
fn the_aggregator_sees_every_change_of_a_bucket() {
    let template = template();
    let mappings = resources(&template, "AWS::Lambda::EventSourceMapping");
    let mapping = &mappings[0].1["Properties"];
    let pattern = &mapping["FilterCriteria"]["Filters"][0]["Pattern"];
    let pattern: Value = serde_json::from_str(pattern.as_str().unwrap()).unwrap();
    assert_eq!(
        pattern["eventName"],
        serde_json::json!(["INSERT", "MODIFY"])
    );
    let prefix = &pattern["dynamodb"]["Keys"][schema::SK]["S"][0]["prefix"];
    assert!(schema::bucket("x").starts_with(prefix.as_str().unwrap()));
    assert_eq!(
        mapping["FunctionResponseTypes"][0],
        "ReportBatchItemFailures"
    );
    assert_eq!(mapping["BisectBatchOnFunctionError"], true);
    let functions = resources(&template, "AWS::Lambda::Function");
    let function = &functions[0].1["Properties"];
    assert_eq!(function["Runtime"], "provided.al2023");
    assert_eq!(function["Handler"], "bootstrap");
}

#[test]
fn the_dashboard_is_json() {
    let body =
        &resources(&template(), "AWS::CloudWatch::Dashboard")[0].1["Properties"]["DashboardBody"];
    let body = body["Fn::Sub"].as_str().unwrap().replace("${AWS::", "{");
    let body: Value = serde_json::from_str(&body).unwrap();
    assert_eq!(body["widgets"].as_array().unwrap().len(), 6);
}

/// Whether the pattern of a parameter takes each of these values.
fn taken(parameter: &str, values: &[&str]) -> Vec<bool> {
    let pattern = &template()["Parameters"][parameter]["AllowedPattern"];
    let asked = serde_json::json!([pattern, values]).to_string();
    let program = "import json, re, sys\n\
                   pattern, values = json.loads(sys.argv[2])\n\
                   print(json.dumps([bool(re.search(pattern, v)) for v in values]))";
    let (ok, json) = python(program, &asked);
    assert!(ok, "{json}");
    serde_json::from_str(&json).unwrap()
}

#[test]
fn its_patterns_take_what_the_options_take() {
    const ID: &str = "1234abcd-12ab-34cd-56ef-1234567890ab";
    type Set = fn(StackOptions, &str) -> StackOptions;
    let arn = |rest: &str| format!("arn:aws:{rest}");
    let arns = [
        arn(&format!("kms:eu-west-1:123456789012:key/{ID}")),
        arn("kms:eu-west-1:123456789012:alias/limits"),
        arn("kms:eu-west-1:123456789012:grant/limits"),
        arn("sns:eu-west-1:123456789012:alarms"),
        arn("sqs:eu-west-1:123456789012:alarms"),
        arn("iam::123456789012:policy/team/b"),
        arn("iam::aws:policy/b"),
        arn("iam::123456789012:role/b"),
    ];
    let arns = arns.each_ref().map(String::as_str);
    let others = ["aws-owned", "aws-managed", "mine", "alias/x", "alias/", ID];
    let windows = ["daily", "hourly,monthly", "weekly", "daily;hourly", ""];
    let both = [&arns[..], &others].concat();
    let parameters: [(&str, &[&str], Set); 3] = [
        ("EncryptionKey", &both, |o, v| o.encryption_key(v)),
        ("AlarmSNSTopicArn", &both, |o, v| o.alarm_sns_topic(v)),
        ("SnapshotWindows", &windows, |o, v| o.snapshot_windows(v)),
    ];
    for (parameter, values, set) in parameters {
        let valid = |value: &&str| set(StackOptions::default(), value).validate().is_ok();
        let valid: Vec<_> = values.iter().map(valid).collect();
        assert!(valid.contains(&true) && valid.contains(&false));
        assert_eq!(taken(parameter, values), valid, "{parameter}: {values:?}");
    }
    // A name is made an ARN before it is sent.
    let bounds = |o: StackOptions, v: &str| o.permission_boundary(v).validate().is_ok();
    let valid: Vec<_> = arns.map(|v| bounds(StackOptions::default(), v)).into();
    assert_eq!(taken("PermissionBoundary", &arns), valid);
}
