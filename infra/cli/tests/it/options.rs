//! Every option that can be wrong: refused by its name, with the rule, before anything is asked.

use crate::command::{run, template};

/// Nobody is there: what gets so far ends with 3.
const NOWHERE: &str = "http://127.0.0.1:1";

#[test]
fn bad_values_are_refused_by_name() {
    let topic = "arn:aws:sqs:us-east-1:123456789012:x";
    for (arguments, option, rule) in [
        (
            &["deploy", "--snapshot-windows", "weekly"][..],
            "--snapshot-windows",
            "hourly, daily or monthly",
        ),
        (
            &["deploy", "--retention-days", "0"],
            "--retention-days",
            "1 to 3650",
        ),
        (
            &["deploy", "--retention-days", "-1"],
            "-1",
            "unexpected argument",
        ),
        (
            &["deploy", "--retention-days", "x"],
            "--retention-days",
            "invalid digit",
        ),
        (
            &["deploy", "--pitr-recovery-days", "36"],
            "--pitr-recovery-days",
            "1 to 35",
        ),
        (
            &["deploy", "--log-retention-days", "2"],
            "--log-retention-days",
            "one of 1, 3",
        ),
        (
            &["deploy", "--lambda-timeout", "901"],
            "--lambda-timeout",
            "1 to 900",
        ),
        (
            &["deploy", "--lambda-memory", "64"],
            "--lambda-memory",
            "128 to 3008",
        ),
        (
            &["deploy", "--alarm-sns-topic", topic],
            "--alarm-sns-topic",
            "ARN of a topic",
        ),
        (
            &["deploy", "--lambda-duration-threshold-pct", "0"],
            "--lambda-duration-threshold-pct",
            "1 to 100",
        ),
        (
            &["deploy", "--permission-boundary", "a b"],
            "--permission-boundary",
            "name or the ARN",
        ),
        (
            &["deploy", "--role-name-format", "role"],
            "--role-name-format",
            "{} exactly once",
        ),
        (
            &["deploy", "--encryption-key", "mine"],
            "--encryption-key",
            "aws-owned",
        ),
        (
            &["deploy", "--artifact-bucket", "No"],
            "--artifact-bucket",
            "3 to 63",
        ),
        (&["deploy", "--name", "my_app"], "--name", "underscore"),
        (
            &["deploy", "--no-aggregator", "--aggregator", "x"],
            "--aggregator",
            "cannot be used",
        ),
        (
            &["deploy", "--aggregator", "/nowhere/x"],
            "/nowhere/x",
            "could not read",
        ),
        (&["delete"], "--name", "required"),
        (&["status"], "--name", "required"),
        (
            &["delete", "--yes", "--name", "a.b"],
            "--name",
            "only letters",
        ),
        (&["status", "--name", "1a"], "--name", "start with a letter"),
        (&["version", "--name", ""], "--name", "cannot be empty"),
        (&["check", "--name", "a b"], "--name", "hyphens"),
        (&["upgrade", "--name", "x y"], "--name", "hyphens"),
        (&["limits", "set"], "--limit", "required"),
        (&["limits", "set", "-l", "rpm"], "--limit", "NAME=CAPACITY"),
        (
            &["limits", "set", "-l", "rpm=0/minute"],
            "--limit",
            "capacity",
        ),
        (&["limits", "get", "-e", "a#b"], "ENTITY", "'#'"),
        (
            &["limits", "get", "-r", "4"],
            "RESOURCE",
            "start with a letter",
        ),
        (&["entity", "create"], "<ENTITY>", "required"),
        (
            &["entity", "create", "x", "--metadata", "a"],
            "--metadata",
            "KEY=VALUE",
        ),
        (
            &["entity", "update", "x"],
            "--display-name",
            "nothing to change",
        ),
        (
            &["entity", "update", "x", "--cascade", "maybe"],
            "--cascade",
            "true, false",
        ),
        (&["entity", "set-parent", "x"], "<PARENT>", "required"),
        (&["audit"], "<ENTITY>", "required"),
        (&["audit", "x", "--max", "0"], "--max", "1..=10000"),
        (&["watch", "x"], "<RESOURCES>", "required"),
        (
            &["watch", "x", "y", "--interval", "1"],
            "--interval",
            "100..=",
        ),
        (&["watch", "a#b", "y"], "ENTITY", "'#'"),
        (
            &["aggregate", "--snapshot-windows", "weekly"],
            "--snapshot-windows",
            "hourly, daily or monthly",
        ),
        (
            &["aggregate", "--retention-days", "0"],
            "--retention-days",
            "1..=3650",
        ),
        (
            &["aggregate", "--start", "middle"],
            "--start",
            "possible values",
        ),
        (&["usage", "list"], "--entity", "required"),
        (
            &["usage", "summary", "-e", "x", "-w", "weekly"],
            "--window",
            "hourly, daily or monthly",
        ),
        (
            &["usage", "plot", "rpm", "-e", "x", "--since", "soon"],
            "--since",
            "RFC 3339",
        ),
        (
            &["usage", "plot", "rpm", "-e", "x", "--until", "1w"],
            "--until",
            "RFC 3339",
        ),
        (&["completions", "tcl"], "<SHELL>", "possible values"),
        (&["lambda-export", "--bogus"], "--bogus", "unexpected"),
        (&["bogus"], "bogus", "unrecognized"),
    ] {
        let ran = run(NOWHERE, arguments).code(2);
        assert!(
            ran.err.contains(option) && ran.err.contains(rule),
            "{arguments:?}: {ran:?}"
        );
    }
}

#[test]
fn all_that_is_wrong_is_said_at_once() {
    let wrong = ["deploy", "--retention-days", "0", "--lambda-memory", "1"];
    let ran = run(NOWHERE, &wrong).code(2);
    assert!(
        ran.err.contains("--retention-days") && ran.err.contains("--lambda-memory"),
        "{ran:?}"
    );
}

#[test]
fn the_template_is_written() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("template.yaml");
    run("", &["cfn-template", "--output", path.to_str().unwrap()]).code(0);
    let written = std::fs::read_to_string(&path).unwrap();
    assert_eq!(written, zae_limiter_infra::TEMPLATE);
    let printed = run("", &["cfn-template"]).code(0).out;
    assert_eq!(printed, written);
    assert!(template()["Resources"]["RateLimitsTable"].is_object());
    let nowhere = folder.path().join("no/such/folder");
    run("", &["cfn-template", "-o", nowhere.to_str().unwrap()]).code(1);
}

#[test]
fn every_shell_is_completed() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let ran = run("", &["completions", shell]).code(0);
        assert!(ran.out.contains("lambda-export"), "{shell}");
    }
}

#[test]
fn the_help_lists_the_exit_codes_and_every_command() {
    let ran = run("", &["--help"]).code(0);
    for word in [
        "deploy",
        "delete",
        "status",
        "list",
        "cfn-template",
        "lambda-export",
        "version",
        "check",
        "upgrade",
        "entity",
        "limits",
        "audit",
        "watch",
        "aggregate",
        "130  interrupted",
    ] {
        assert!(ran.out.contains(word), "{word}");
    }
    let version = run("", &["--version"]).code(0).out;
    assert_eq!(
        version.trim(),
        format!("zae-limiter {}", env!("CARGO_PKG_VERSION"))
    );
}
