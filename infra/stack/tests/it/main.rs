//! The template: what the linter says, and what it promises beyond that. Options as data.

#![allow(clippy::unwrap_used)] // helpers are tests too

mod data;
mod template;
mod wiring;

use std::process::Command;

use serde_json::Value;

/// Runs a Python program with cfn-lint at hand; it is handed the template's path, and the text.
fn python(program: &str, text: &str) -> (bool, String) {
    let python = std::env::var("ZAE_LIMITER_TEST_AWS_PYTHON");
    let python = python.expect("ZAE_LIMITER_TEST_AWS_PYTHON is not set; run tests/run: it sets it");
    let template = concat!(env!("CARGO_MANIFEST_DIR"), "/template.yaml");
    let mut command = Command::new(python);
    command.args(["-c", program, template]);
    if !text.is_empty() {
        command.arg(text);
    }
    let ran = command.output().unwrap();
    let text = [ran.stdout, ran.stderr].concat();
    (ran.status.success(), String::from_utf8(text).unwrap())
}

/// The template with its tags (!Ref and so on) written out.
fn template() -> Value {
    let (ok, json) = python(
        "import json, sys, cfnlint.decode\n\
         print(json.dumps(cfnlint.decode.decode(sys.argv[1])[0], default=str))",
        "",
    );
    assert!(ok, "{json}");
    serde_json::from_str(&json).unwrap()
}
