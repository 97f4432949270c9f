//! What is wired to what: a template that is valid may still be wrong.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::template;

fn reference(to: &str) -> Value {
    json!({ "Ref": to })
}

fn attribute(of: &str, name: &str) -> Value {
    json!({ "Fn::GetAtt": [of, name] })
}

/// With the stack's name before it.
fn named(rest: &str) -> Value {
    json!({ "Fn::Sub": format!("${{AWS::StackName}}{rest}") })
}

fn either(condition: &str, then: &Value, or: &Value) -> Value {
    json!({ "Fn::If": [condition, then, or] })
}

fn nothing() -> Value {
    reference("AWS::NoValue")
}

/// The properties of a resource, but for those that are checked elsewhere.
fn properties(template: &Value, resource: &str, without: &[&str]) -> Value {
    let mut found = template["Resources"][resource]["Properties"].clone();
    let map = found.as_object_mut().expect(resource);
    map.retain(|name, _| !without.contains(&name.as_str()));
    found
}

#[test]
fn each_resource_is_there_when_it_is_wanted() {
    let template = template();
    let found: BTreeMap<_, _> = template["Resources"]
        .as_object()
        .unwrap()
        .iter()
        .map(|(name, it)| {
            (
                name.as_str(),
                (it["Type"].as_str(), it["Condition"].as_str()),
            )
        })
        .collect();
    let aggregator = Some("DeployAggregator");
    let its_alarms = Some("DeployAggregatorAlarms");
    let expected = [
        ("RateLimitsTable", "AWS::DynamoDB::Table", None),
        (
            "AcquirePolicy",
            "AWS::IAM::ManagedPolicy",
            Some("DeployPolicies"),
        ),
        (
            "AdminPolicy",
            "AWS::IAM::ManagedPolicy",
            Some("DeployPolicies"),
        ),
        (
            "ReadOnlyPolicy",
            "AWS::IAM::ManagedPolicy",
            Some("DeployPolicies"),
        ),
        ("AggregatorDLQ", "AWS::SQS::Queue", aggregator),
        ("AggregatorLogGroup", "AWS::Logs::LogGroup", aggregator),
        ("AggregatorRole", "AWS::IAM::Role", aggregator),
        ("AggregatorFunction", "AWS::Lambda::Function", aggregator),
        (
            "AggregatorEventSourceMapping",
            "AWS::Lambda::EventSourceMapping",
            aggregator,
        ),
        ("AggregatorDLQAlarm", "AWS::CloudWatch::Alarm", its_alarms),
        ("LambdaErrorRateAlarm", "AWS::CloudWatch::Alarm", its_alarms),
        ("LambdaDurationAlarm", "AWS::CloudWatch::Alarm", its_alarms),
        (
            "StreamIteratorAgeAlarm",
            "AWS::CloudWatch::Alarm",
            its_alarms,
        ),
        (
            "DynamoDBReadThrottleAlarm",
            "AWS::CloudWatch::Alarm",
            Some("DeployAlarms"),
        ),
        (
            "DynamoDBWriteThrottleAlarm",
            "AWS::CloudWatch::Alarm",
            Some("DeployAlarms"),
        ),
        (
            "Dashboard",
            "AWS::CloudWatch::Dashboard",
            Some("DeployDashboard"),
        ),
    ];
    let expected: BTreeMap<_, _> = expected
        .into_iter()
        .map(|(name, kind, condition)| (name, (Some(kind), condition)))
        .collect();
    assert_eq!(found, expected);

    let is = |parameter: &str, value: &str| json!({ "Fn::Equals": [reference(parameter), value] });
    let is_not = |parameter: &str, value: &str| json!({ "Fn::Not": [is(parameter, value)] });
    let both = |one: Value, other: Value| json!({ "Fn::And": [one, other] });
    let condition = |name: &str| json!({ "Condition": name });
    let expected = json!({
        "UseKMS": is_not("EncryptionKey", "aws-owned"),
        "HasKMSKey": both(condition("UseKMS"), is_not("EncryptionKey", "aws-managed")),
        "ProtectTable": is("EnableDeletionProtection", "true"),
        "UsePITR": is_not("PITRRecoveryPeriodDays", "0"),
        "DeployPolicies": is("EnablePolicies", "true"),
        "DeployAggregator": is("EnableAggregator", "true"),
        "DeployAlarms": is("EnableAlarms", "true"),
        "DeployAggregatorAlarms": both(condition("DeployAggregator"), condition("DeployAlarms")),
        "DeployDashboard": is("EnableDashboard", "true"),
        "HasSNSTopic": is_not("AlarmSNSTopicArn", ""),
        "HasPermissionBoundary": is_not("PermissionBoundary", ""),
        "HasCustomRoleName": is_not("RoleName", ""),
    });
    assert_eq!(template["Conditions"], expected);
}

#[test]
fn the_table_is_encrypted_protected_and_restored_as_the_options_say() {
    let template = template();
    let table = properties(&template, "RateLimitsTable", &[]);
    assert_eq!(table["TableName"], reference("AWS::StackName"));
    let protected = either("ProtectTable", &json!(true), &json!(false));
    assert_eq!(table["DeletionProtectionEnabled"], protected);
    let key = either("HasKMSKey", &reference("EncryptionKey"), &nothing());
    let encrypted = json!({ "SSEEnabled": true, "SSEType": "KMS", "KMSMasterKeyId": key });
    let encrypted = either("UseKMS", &encrypted, &nothing());
    assert_eq!(table["SSESpecification"], encrypted);
    let restored = json!({
        "PointInTimeRecoveryEnabled": true,
        "RecoveryPeriodInDays": reference("PITRRecoveryPeriodDays"),
    });
    let not_restored = json!({ "PointInTimeRecoveryEnabled": false });
    let restored = either("UsePITR", &restored, &not_restored);
    assert_eq!(table["PointInTimeRecoverySpecification"], restored);
    let forgets = json!({ "AttributeName": "ttl", "Enabled": true });
    assert_eq!(table["TimeToLiveSpecification"], forgets);
    // A table that has to be replaced is not lost.
    assert_eq!(
        template["Resources"]["RateLimitsTable"]["UpdateReplacePolicy"],
        "Retain"
    );
}

#[test]
fn the_function_is_fed_logged_and_its_failures_kept() {
    let template = template();
    let function = properties(&template, "AggregatorFunction", &["Description"]);
    let expected = json!({
        "FunctionName": named("-aggregator"),
        "Runtime": "provided.al2023",
        "Handler": "bootstrap",
        "Architectures": [reference("LambdaArchitecture")],
        "MemorySize": reference("LambdaMemorySize"),
        "Timeout": reference("LambdaTimeout"),
        "Role": attribute("AggregatorRole", "Arn"),
        "Code": {
            "S3Bucket": reference("AggregatorCodeBucket"),
            "S3Key": reference("AggregatorCodeKey"),
        },
        "Environment": { "Variables": {
            "TABLE_NAME": reference("RateLimitsTable"),
            "SNAPSHOT_WINDOWS": reference("SnapshotWindows"),
            "SNAPSHOT_TTL_DAYS": reference("SnapshotRetentionDays"),
            "ZAE_LIMITER_SCHEMA_VERSION": reference("SchemaVersion"),
        } },
    });
    assert_eq!(function, expected);
    let log = properties(&template, "AggregatorLogGroup", &[]);
    let expected = json!({
        "LogGroupName": { "Fn::Sub": "/aws/lambda/${AWS::StackName}-aggregator" },
        "RetentionInDays": reference("LogRetentionDays"),
    });
    assert_eq!(log, expected, "that of the function");
    let queue = properties(&template, "AggregatorDLQ", &["VisibilityTimeout"]);
    let expected = json!({
        "QueueName": named("-aggregator-dlq"),
        "MessageRetentionPeriod": 14 * 86_400,
        "SqsManagedSseEnabled": true,
    });
    assert_eq!(queue, expected);
    let mapping = properties(
        &template,
        "AggregatorEventSourceMapping",
        &["FilterCriteria"],
    );
    let expected = json!({
        "FunctionName": reference("AggregatorFunction"),
        "EventSourceArn": attribute("RateLimitsTable", "StreamArn"),
        "StartingPosition": "TRIM_HORIZON",
        "BatchSize": 1000,
        "MaximumBatchingWindowInSeconds": 5,
        "FunctionResponseTypes": ["ReportBatchItemFailures"],
        "BisectBatchOnFunctionError": true,
        "MaximumRetryAttempts": 10,
        "MaximumRecordAgeInSeconds": 43_200,
        "DestinationConfig": {
            "OnFailure": { "Destination": attribute("AggregatorDLQ", "Arn") },
        },
    });
    assert_eq!(mapping, expected);
}

#[test]
fn the_function_may_do_what_it_does_and_nothing_else() {
    let role = properties(&template(), "AggregatorRole", &[]);
    let bound = either(
        "HasPermissionBoundary",
        &reference("PermissionBoundary"),
        &nothing(),
    );
    let own_name = either("HasCustomRoleName", &reference("RoleName"), &nothing());
    let of_entities = json!({
        "ForAllValues:StringLike": { "dynamodb:LeadingKeys": ["ENTITY#*"] },
        "Null": { "dynamodb:LeadingKeys": "false" },
    });
    let allow = |sid: &str, actions: &[&str], on: &Value| json!({ "Sid": sid, "Effect": "Allow", "Action": actions, "Resource": on });
    let mut write = allow(
        "WriteSnapshots",
        &["dynamodb:UpdateItem"],
        &attribute("RateLimitsTable", "Arn"),
    );
    write["Condition"] = of_entities;
    let read = [
        "dynamodb:DescribeStream",
        "dynamodb:GetRecords",
        "dynamodb:GetShardIterator",
    ];
    let statements = [
        write,
        allow(
            "ReadStream",
            &read,
            &attribute("RateLimitsTable", "StreamArn"),
        ),
        allow("ListStreams", &["dynamodb:ListStreams"], &json!("*")),
        allow(
            "ReportFailures",
            &["sqs:SendMessage"],
            &attribute("AggregatorDLQ", "Arn"),
        ),
        allow(
            "WriteLog",
            &["logs:CreateLogStream", "logs:PutLogEvents"],
            &attribute("AggregatorLogGroup", "Arn"),
        ),
    ];
    let document = json!({ "Version": "2012-10-17", "Statement": statements });
    let trusted = json!({
        "Effect": "Allow",
        "Principal": { "Service": "lambda.amazonaws.com" },
        "Action": "sts:AssumeRole",
    });
    let expected = json!({
        "RoleName": own_name,
        "PermissionsBoundary": bound,
        "AssumeRolePolicyDocument": { "Version": "2012-10-17", "Statement": [trusted] },
        "Policies": [{ "PolicyName": "aggregator", "PolicyDocument": document }],
    });
    assert_eq!(role, expected);
}

/// What an application may do is compared with what the library does; here, to what.
#[test]
fn applications_may_use_this_table_only() {
    let template = template();
    let table = attribute("RateLimitsTable", "Arn");
    let indexes = json!({ "Fn::Sub": "${RateLimitsTable.Arn}/index/*" });
    for policy in ["AcquirePolicy", "AdminPolicy", "ReadOnlyPolicy"] {
        let document = &properties(&template, policy, &[])["PolicyDocument"];
        for statement in document["Statement"].as_array().unwrap() {
            let on = &statement["Resource"];
            assert!(*on == table || *on == indexes, "{policy}: {statement}");
        }
    }
    let acquire = properties(&template, "AcquirePolicy", &[]);
    let write = &acquire["PolicyDocument"]["Statement"][1];
    let keys = json!({
        "ForAllValues:StringLike": { "dynamodb:LeadingKeys": ["ENTITY#*"] },
        "Null": { "dynamodb:LeadingKeys": "false" },
    });
    assert_eq!(write["Condition"], keys);
}

#[test]
fn each_alarm_watches_what_it_is_called_after() {
    let template = template();
    let function = json!([{ "Name": "FunctionName", "Value": reference("AggregatorFunction") }]);
    let table = json!([{ "Name": "TableName", "Value": reference("RateLimitsTable") }]);
    let queue = attribute("AggregatorDLQ", "QueueName");
    let queue = json!([{ "Name": "QueueName", "Value": queue }]);
    let tell = either(
        "HasSNSTopic",
        &json!([reference("AlarmSNSTopicArn")]),
        &nothing(),
    );
    let (above, from) = ("GreaterThanThreshold", "GreaterThanOrEqualToThreshold");
    let alarm = |name: &str, metric: [&str; 2], of: &Value, when: [Value; 4]| {
        let [statistic, compared, threshold, periods] = when;
        json!({
            "AlarmName": named(name),
            "Namespace": metric[0],
            "MetricName": metric[1],
            "Dimensions": of,
            "Statistic": statistic,
            "ComparisonOperator": compared,
            "Threshold": threshold,
            "EvaluationPeriods": periods,
            "Period": 300,
            "TreatMissingData": "notBreaching",
            "AlarmActions": tell,
            "OKActions": tell,
        })
    };
    let when = |statistic: &str, compared: &str, threshold: Value, periods: u32| {
        [json!(statistic), json!(compared), threshold, json!(periods)]
    };
    let expected = [
        (
            "AggregatorDLQAlarm",
            alarm(
                "-aggregator-dlq-alarm",
                ["AWS/SQS", "ApproximateNumberOfMessagesVisible"],
                &queue,
                when("Sum", from, json!(1), 1),
            ),
        ),
        (
            "LambdaErrorRateAlarm",
            alarm(
                "-aggregator-error-rate",
                ["AWS/Lambda", "Errors"],
                &function,
                when("Sum", above, json!(1), 2),
            ),
        ),
        (
            "LambdaDurationAlarm",
            alarm(
                "-aggregator-duration",
                ["AWS/Lambda", "Duration"],
                &function,
                when("Average", above, reference("LambdaDurationThreshold"), 2),
            ),
        ),
        (
            "StreamIteratorAgeAlarm",
            alarm(
                "-stream-iterator-age",
                ["AWS/Lambda", "IteratorAge"],
                &function,
                when("Maximum", above, json!(30_000), 2),
            ),
        ),
        (
            "DynamoDBReadThrottleAlarm",
            alarm(
                "-read-throttle",
                ["AWS/DynamoDB", "ReadThrottleEvents"],
                &table,
                when("Sum", above, json!(1), 2),
            ),
        ),
        (
            "DynamoDBWriteThrottleAlarm",
            alarm(
                "-write-throttle",
                ["AWS/DynamoDB", "WriteThrottleEvents"],
                &table,
                when("Sum", above, json!(1), 2),
            ),
        ),
    ];
    for (name, expected) in expected {
        let found = properties(&template, name, &["AlarmDescription"]);
        assert_eq!(found, expected, "{name}");
    }
}

#[test]
fn outputs_are_exported_and_there_when_their_resource_is() {
    let template = template();
    let outputs = template["Outputs"].as_object().unwrap();
    assert_eq!(outputs.len(), 16);
    for (name, output) in outputs {
        let value = &output["Value"];
        let of = value["Ref"].as_str().or(value["Fn::GetAtt"][0].as_str());
        let resource = &template["Resources"][of.expect(name)];
        assert!(resource.is_object(), "{name}: {value}");
        assert_eq!(output["Condition"], resource["Condition"], "{name}");
        let export = output["Export"]["Name"]["Fn::Sub"].as_str().expect(name);
        assert!(export.starts_with("${AWS::StackName}-"), "{name}: {export}");
    }
}
