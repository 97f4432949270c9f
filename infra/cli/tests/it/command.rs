//! Running the command.

use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;

/// The program under test.
pub(crate) const PROGRAM: &str = env!("CARGO_BIN_EXE_zae-limiter");

/// The endpoint that `tests/run` started.
pub(crate) fn endpoint() -> String {
    let found = std::env::var("ZAE_LIMITER_TEST_ENDPOINT");
    found.expect("ZAE_LIMITER_TEST_ENDPOINT is not set; run tests/run: it starts LocalStack")
}

/// The Python that has cfn-lint, moto and boto3.
pub(crate) fn python() -> String {
    let found = std::env::var("ZAE_LIMITER_TEST_AWS_PYTHON");
    found.expect("ZAE_LIMITER_TEST_AWS_PYTHON is not set; run tests/run: it sets it")
}

/// The template with its tags (!Ref and so on) written out.
pub(crate) fn template() -> Value {
    let program = "import json, sys, cfnlint.decode\n\
                   print(json.dumps(cfnlint.decode.decode_str(sys.argv[1])[0], default=str))";
    let mut command = Command::new(python());
    let command = command.args(["-c", program, zae_limiter_infra::TEMPLATE]);
    let out = command.output().unwrap();
    serde_json::from_slice(&out.stdout).expect("the template")
}

/// A name that no other limiter has.
pub(crate) fn random_name(prefix: &str) -> String {
    format!("{prefix}-{:08x}", fastrand::u32(..))
}

/// What the command answered.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) code: i32,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Ran {
    pub(crate) fn new(output: Output) -> Self {
        Self {
            code: output.status.code().expect("no signal"),
            out: String::from_utf8(output.stdout).unwrap(),
            err: String::from_utf8(output.stderr).unwrap(),
        }
    }

    /// The same, which must have ended with this code.
    #[track_caller]
    pub(crate) fn code(self, code: i32) -> Self {
        assert_eq!(self.code, code, "{self:?}");
        self
    }

    #[track_caller]
    pub(crate) fn json(self) -> Value {
        let ran = self.code(0);
        serde_json::from_str(&ran.out).unwrap_or_else(|error| panic!("{error}: {ran:?}"))
    }
}

/// The command, ready to run somewhere: never with the caller's own account.
pub(crate) fn command(program: impl AsRef<Path>, url: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new(program.as_ref());
    command.args(arguments);
    if !url.is_empty() {
        command.env("AWS_ENDPOINT_URL", url);
    }
    command
        .env("AWS_ACCESS_KEY_ID", "test")
        .env("AWS_SECRET_ACCESS_KEY", "test")
        .env("AWS_REGION", "us-east-1")
        .env_remove("AWS_PROFILE")
        .env("AWS_EC2_METADATA_DISABLED", "true");
    command
}

/// Runs the command somewhere.
pub(crate) fn run(url: &str, arguments: &[&str]) -> Ran {
    Ran::new(command(PROGRAM, url, arguments).output().unwrap())
}

/// A limiter's stack on an endpoint; it is deleted when this is dropped.
pub(crate) struct Stack {
    pub(crate) url: String,
    pub(crate) name: String,
}

impl Stack {
    /// Of a random name. Nothing is deployed yet.
    pub(crate) fn new(url: &str, prefix: &str) -> Self {
        Self {
            url: url.to_owned(),
            name: random_name(prefix),
        }
    }

    /// Runs a command on it: `arguments` and then its name.
    pub(crate) fn run(&self, arguments: &[&str]) -> Ran {
        let all = [arguments, &["--name", &self.name]].concat();
        run(&self.url, &all)
    }

    /// Runs a command on it for its JSON.
    pub(crate) fn json(&self, arguments: &[&str]) -> Value {
        self.run(&[arguments, &["--json"]].concat()).json()
    }
}

impl Drop for Stack {
    fn drop(&mut self) {
        self.run(&["delete", "--yes"]);
    }
}
