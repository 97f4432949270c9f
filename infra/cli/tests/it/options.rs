//! Every option that can be wrong: refused by its name, with the rule, before anything is asked.

use std::collections::BTreeSet;

use crate::command::{Console, PROGRAM, Ran, run, template};
use crate::every_option::{CommandOption, every_option};

/// Nobody is there: what gets so far ends with 3.
const NOWHERE: &str = "http://127.0.0.1:1";

/// Longer than any name.
const LONG: &str = match std::str::from_utf8(&[b'x'; 1_025]) {
    Ok(long) => long,
    Err(_) => panic!(),
};

/// Command, option, a value that it refuses, and what is said of it.
const BAD_VALUES: &[(&str, &str, &str, &str)] = &[
    (
        "deploy",
        "--snapshot-windows",
        "weekly",
        "hourly, daily or monthly",
    ),
    ("deploy", "--snapshot-windows", "daily,daily", "twice"),
    ("deploy", "--retention-days", "0", "1 to 3650"),
    ("deploy", "--retention-days", "x", "invalid digit"),
    (
        "deploy",
        "--aggregator",
        "/nowhere/x",
        "program that is there",
    ),
    ("deploy", "--artifact-bucket", "No", "3 to 63"),
    ("deploy", "--pitr-recovery-days", "36", "1 to 35"),
    ("deploy", "--log-retention-days", "2", "one of 1, 3"),
    ("deploy", "--lambda-timeout", "901", "1 to 900"),
    ("deploy", "--lambda-memory", "64", "128 to 3008"),
    (
        "deploy",
        "--alarm-sns-topic",
        "arn:aws:sqs:us-east-1:123456789012:x",
        "ARN of a topic",
    ),
    ("deploy", "--lambda-duration-threshold-pct", "0", "1 to 100"),
    ("deploy", "--permission-boundary", "a b", "name or the ARN"),
    ("deploy", "--role-name-format", "role", "{} exactly once"),
    ("deploy", "--encryption-key", "mine", "alias/NAME"),
    (
        "upgrade",
        "--aggregator",
        "/nowhere/x",
        "program that is there",
    ),
    (
        "lambda-export",
        "--aggregator",
        "/nowhere/x",
        "program that is there",
    ),
    ("entity create x", "--as", "a b", "alphanumeric"),
    ("entity create x", "--display-name", LONG, "1024 bytes"),
    ("entity create x", "--parent", "a#b", "'#'"),
    ("entity create x", "--metadata", "a", "KEY=VALUE"),
    ("entity create x", "--metadata", "=a", "1 to 1024 bytes"),
    ("entity update x", "--as", "", "cannot be empty"),
    ("entity update x", "--display-name", LONG, "1024 bytes"),
    ("entity update x", "--metadata", "a", "KEY=VALUE"),
    ("entity update x", "--cascade", "maybe", "true, false"),
    ("entity set-parent x y", "--as", "#", "'#'"),
    ("entity delete x", "--as", "#", "'#'"),
    ("limits set -l rpm=1/day", "--entity", "a#b", "'#'"),
    (
        "limits set -l rpm=1/day",
        "--resource",
        "4",
        "start with a letter",
    ),
    ("limits set -l rpm=1/day", "--as", "#", "'#'"),
    ("limits set", "--limit", "rpm", "NAME=CAPACITY"),
    ("limits set", "--limit", "rpm=0/minute", "capacity"),
    ("limits get", "--entity", "a#b", "'#'"),
    ("limits get", "--resource", "4", "start with a letter"),
    ("limits delete", "--entity", "a#b", "'#'"),
    ("limits delete", "--resource", "4", "start with a letter"),
    ("limits delete", "--as", "#", "'#'"),
    ("audit", "--resource", "4", "start with a letter"),
    ("audit x", "--max", "0", "1..=10000"),
    ("usage list", "--entity", "a#b", "'#'"),
    ("usage list", "--resource", "a b", "start with a letter"),
    (
        "usage list -e x",
        "--window",
        "weekly",
        "hourly, daily or monthly",
    ),
    ("usage list -e x", "--since", "soon", "RFC 3339"),
    ("usage list -e x", "--until", "1w", "RFC 3339"),
    ("usage summary", "--entity", "a#b", "'#'"),
    ("usage summary", "--resource", "a b", "start with a letter"),
    (
        "usage summary -e x",
        "--window",
        "weekly",
        "hourly, daily or monthly",
    ),
    ("usage summary -e x", "--since", "soon", "RFC 3339"),
    ("usage summary -e x", "--until", "1w", "RFC 3339"),
    ("usage plot rpm", "--entity", "a#b", "'#'"),
    ("usage plot rpm", "--resource", "a b", "start with a letter"),
    (
        "usage plot rpm -e x",
        "--window",
        "weekly",
        "hourly, daily or monthly",
    ),
    ("usage plot rpm -e x", "--since", "soon", "RFC 3339"),
    ("usage plot rpm -e x", "--until", "1w", "RFC 3339"),
    ("watch x y", "--interval", "1", "100..="),
    ("watch x y", "--count", "0", "1.."),
    (
        "aggregate",
        "--snapshot-windows",
        "weekly",
        "hourly, daily or monthly",
    ),
    ("aggregate", "--retention-days", "0", "1..=3650"),
    ("aggregate", "--start", "middle", "possible values"),
    ("aggregate", "--seconds", "-1", "unexpected argument"),
    ("aggregate", "--seconds", "a", "invalid digit"),
];

/// What every command with the option refuses of it.
const BAD_EVERYWHERE: &[(&str, &str, &str)] = &[
    ("--name", "my_app", "underscore"),
    ("--name", "a.b", "only letters"),
    ("--name", "", "cannot be empty"),
    ("--region", "us east 1", "letters, digits and hyphens"),
    ("--endpoint-url", "localhost:4566", "must be a URL"),
];

/// Files, of which there is no rule: they can be written, or not. And what only the table can
/// tell; `entities_limits_and_events` tries that.
const OTHERS: [(&str, &str); 4] = [
    ("audit", "--after"),
    ("cfn-template", "--output"),
    ("lambda-export", "--output"),
    ("usage plot", "--svg"),
];

#[track_caller]
fn refused(arguments: &[&str], option: &str, rule: &str) {
    let ran = run(NOWHERE, arguments).code(2);
    let said = ran.err.contains(option) && ran.err.contains(rule);
    assert!(said, "{arguments:?}: {ran:?}");
}

#[test]
fn every_option_with_a_rule_refuses_what_breaks_it_by_name() {
    let mut tried = BTreeSet::from(OTHERS.map(|(command, option)| (command.to_owned(), option)));
    for (command, option, value, rule) in BAD_VALUES {
        let words: Vec<_> = command.split(' ').collect();
        let arguments = [&words[..], &[option, value]].concat();
        let name = if rule.starts_with("unexpected") {
            value
        } else {
            option
        };
        refused(&arguments, name, rule);
        for (command, _) in CommandOption::given(&arguments) {
            tried.insert((command, option));
        }
    }
    for option in every_option().iter().filter(|option| option.takes_value) {
        let everywhere = BAD_EVERYWHERE.iter().filter(|bad| bad.0 == option.name);
        for (name, value, rule) in everywhere {
            let words = option.command.split(' ');
            let arguments: Vec<_> = words.chain([*name, *value]).collect();
            refused(&arguments, name, rule);
            tried.insert((option.command.clone(), name));
        }
        let key = (option.command.clone(), option.name.as_str());
        assert!(tried.contains(&key), "no bad value for {option:?}");
    }
}

#[test]
fn what_is_missing_or_does_not_fit_is_refused_by_name() {
    for (arguments, option, rule) in [
        (&["delete"][..], "--name", "required"),
        (&["status"], "--name", "required"),
        (
            &["deploy", "--no-aggregator", "--aggregator", PROGRAM],
            "--aggregator",
            "cannot be used",
        ),
        (&["limits", "set"], "--limit", "required"),
        (&["entity", "create"], "<ENTITY>", "required"),
        (&["entity", "get", "a#b"], "<ENTITY>", "'#'"),
        (
            &["entity", "update", "x"],
            "--display-name",
            "nothing to change",
        ),
        (&["entity", "set-parent", "x"], "<PARENT>", "required"),
        (
            &["resource", "capacity", "4", "rpm"],
            "<RESOURCE>",
            "start with a letter",
        ),
        (&["resource", "capacity", "api", "#"], "<LIMIT>", "'#'"),
        (&["audit"], "<ENTITY|--resource", "required"),
        (&["audit", "a#b"], "[ENTITY]", "'#'"),
        (
            &["audit", "x", "--resource", "y"],
            "--resource",
            "cannot be used",
        ),
        (&["watch", "x"], "<RESOURCES>", "required"),
        (&["watch", "a#b", "y"], "<ENTITY>", "'#'"),
        (&["watch", "a", "4"], "<RESOURCES>", "start with a letter"),
        (&["usage", "list"], "--resource", "required"),
        (&["usage", "plot", "#", "-e", "x"], "<LIMIT>", "'#'"),
        (&["completions", "tcl"], "<SHELL>", "possible values"),
        (&["lambda-export", "--bogus"], "--bogus", "unexpected"),
        (&["bogus"], "bogus", "unrecognized"),
    ] {
        refused(arguments, option, rule);
    }
}

#[test]
fn a_program_is_told_in_json() {
    let ran = run(NOWHERE, &["entity", "get", "a#b", "--json"]).code(2);
    let told: serde_json::Value = serde_json::from_str(&ran.err).unwrap();
    assert_eq!(told["code"], 2);
    assert!(
        told["error"].as_str().unwrap().contains("<ENTITY>"),
        "{told}"
    );
}

#[test]
fn region_and_endpoint_come_from_the_environment_too() {
    let asked = |region: &str, url: &str| {
        let mut command = std::process::Command::new(PROGRAM);
        let command = command
            .arg("list")
            .env_clear()
            .env("AWS_ACCESS_KEY_ID", "test")
            .env("AWS_SECRET_ACCESS_KEY", "test")
            .env("AWS_EC2_METADATA_DISABLED", "true")
            .env("AWS_ENDPOINT_URL", url)
            .env("AWS_REGION", region);
        Ran::new(command.output().unwrap())
    };
    let lost = asked("us-east-1", NOWHERE).code(3);
    assert!(lost.err.contains("could not list stacks"), "{lost:?}");
    let none = asked("", NOWHERE).code(2);
    assert!(
        none.err.contains("--region") && none.err.contains("AWS_REGION"),
        "{none:?}"
    );
    let wrong = asked("us east 1", "localhost:4566").code(2);
    assert!(wrong.err.contains("invalid --region"), "{wrong:?}");
    assert!(wrong.err.contains("invalid --endpoint-url"), "{wrong:?}");
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
    let console = Console::at(NOWHERE);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("template.yaml");
    let to = |path: &str| console.run(&["cfn-template", "--output", path, "--json"]);
    to(path.to_str().unwrap()).code(0);
    let written = std::fs::read_to_string(&path).unwrap();
    assert_eq!(written, zae_limiter_infra::TEMPLATE);
    let printed = run("", &["cfn-template"]).code(0).out;
    assert_eq!(printed, written);
    assert!(template()["Resources"]["RateLimitsTable"].is_object());
    let nowhere = to("/no/such/folder/template.yaml").code(1);
    assert!(
        nowhere.err.contains("could not write --output /no/such"),
        "{nowhere:?}"
    );
    console.covers("cfn-template");
}

#[test]
fn every_shell_is_completed() {
    let console = Console::at(NOWHERE);
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let ran = console.run(&["completions", shell, "--json"]).code(0);
        assert!(ran.out.contains("lambda-export"), "{shell}");
    }
    console.covers("completions");
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
