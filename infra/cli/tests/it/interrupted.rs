//! A command that is interrupted says where things stand, and can be run again.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use crate::command::{PROGRAM, Stack, command, endpoint};

/// Runs a command until it has told of the first event, then interrupts it.
fn interrupt(stack: &Stack, arguments: &[&str], signal: &str) -> (i32, String) {
    let all = [arguments, &["--name", &stack.name]].concat();
    let mut command = command(PROGRAM, &stack.url, &all);
    let mut child = command
        .stderr(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap());
    let mut text = String::new();
    lines.read_line(&mut text).unwrap();
    let pid = child.id().to_string();
    assert!(
        Command::new("kill")
            .args([signal, &pid])
            .status()
            .unwrap()
            .success()
    );
    std::io::Read::read_to_string(&mut lines, &mut text).unwrap();
    (child.wait().unwrap().code().unwrap(), text)
}

#[test]
fn an_interrupted_deployment_is_finished_by_the_next() {
    let stack = Stack::new(&endpoint(), "ctrl-c");
    let (code, text) = interrupt(&stack, &["deploy", "--no-aggregator"], "-INT");
    assert_eq!(code, 130, "{text}");
    let state = format!("stack ZAEL-{} is CREATE_", stack.name);
    assert!(
        text.contains("interrupted: ") && text.contains(&state),
        "{text}"
    );
    assert!(text.contains("run the same command again"), "{text}");
    let waited = stack.json(&["deploy", "--no-aggregator"]);
    assert_eq!(waited["stack"]["status"], "CREATE_COMPLETE");

    // The second way in which programs are asked to stop.
    let stack = Stack::new(&endpoint(), "term");
    let (code, text) = interrupt(&stack, &["deploy", "--no-aggregator"], "-TERM");
    assert_eq!(code, 130, "{text}");
    // An emulator that is told to delete what it creates goes on creating.
    stack.run(&["deploy", "--no-aggregator"]).code(0);
    stack.run(&["delete", "--yes"]).code(0);
    stack.run(&["status"]).code(4);
}

#[test]
fn who_cannot_be_reached_is_said_with_how_to_go_on() {
    let mut stack = Stack::new("http://127.0.0.1:1", "nobody");
    let lost = stack.run(&["deploy", "--no-aggregator"]).code(3);
    assert!(lost.err.contains("could not look at stack"), "{lost:?}");
    assert!(lost.err.contains("run the same command again"), "{lost:?}");
    let json = stack.run(&["status", "--json"]).code(3);
    let json: serde_json::Value = serde_json::from_str(&json.err).unwrap();
    assert_eq!(json["code"], 3);
    stack.url = endpoint();
}
