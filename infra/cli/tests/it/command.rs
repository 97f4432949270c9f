//! Running the command.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::{Arc, Mutex};

use serde_json::Value;

use crate::every_option::{CommandOption, every_option};

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

/// Runs a Python program for the JSON that it prints: with `client(service)` of an endpoint, and
/// `name`.
pub(crate) fn ask(url: &str, program: &str, name: &str) -> Value {
    let head = "import boto3, json, sys\n\
        name = sys.argv[2]\n\
        def client(service):\n\
        \x20   return boto3.client(service, endpoint_url=sys.argv[1], region_name='us-east-1')\n";
    let mut command = Command::new(python());
    command.args(["-c", &format!("{head}{program}"), url, name]);
    let command = command
        .env("AWS_ACCESS_KEY_ID", "test")
        .env("AWS_SECRET_ACCESS_KEY", "test");
    let ran = command.output().unwrap();
    let failed = String::from_utf8_lossy(&ran.stderr);
    assert!(ran.status.success(), "{failed}");
    serde_json::from_slice(&ran.stdout).expect("JSON")
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

/// The command on some endpoint: never with the caller's own account, and with no other defaults
/// than its own. It remembers which options it was given with success.
#[derive(Clone, Debug)]
pub(crate) struct Console {
    program: PathBuf,
    pub(crate) url: String,
    given: Arc<Mutex<BTreeSet<(String, String)>>>,
}

impl Console {
    pub(crate) fn at(url: &str) -> Self {
        Self::installed(Path::new(PROGRAM), url)
    }

    /// Of a copy of the program.
    pub(crate) fn installed(program: &Path, url: &str) -> Self {
        Self {
            program: program.to_owned(),
            url: url.to_owned(),
            given: Arc::default(),
        }
    }

    /// The same command on another endpoint, with what it remembers.
    pub(crate) fn elsewhere(&self, url: &str) -> Self {
        let url = url.to_owned();
        Self {
            url,
            ..self.clone()
        }
    }

    /// The command, ready to run: with region and endpoint as options, where it takes them.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command.args(arguments);
        let takes = |option: &str| CommandOption::takes(arguments, option);
        for (option, value) in [("--region", "us-east-1"), ("--endpoint-url", &self.url)] {
            if takes(option) && !arguments.contains(&option) {
                command.args([option, value]);
            }
        }
        command
            .env_clear()
            .env("AWS_ACCESS_KEY_ID", "test")
            .env("AWS_SECRET_ACCESS_KEY", "test")
            .env("AWS_EC2_METADATA_DISABLED", "true");
        command
    }

    pub(crate) fn run(&self, arguments: &[&str]) -> Ran {
        let mut command = self.command(arguments);
        let ran = Ran::new(command.output().unwrap());
        if ran.code == 0 {
            let all: Vec<_> = command.get_args().map(|a| a.to_str().unwrap()).collect();
            self.given
                .lock()
                .unwrap()
                .extend(CommandOption::given(&all));
        }
        ran
    }

    /// Runs a command for its JSON.
    pub(crate) fn json(&self, arguments: &[&str]) -> Value {
        self.run(&[arguments, &["--json"]].concat()).json()
    }

    /// Fails unless all options of this command and its subcommands have been given.
    #[track_caller]
    pub(crate) fn covers(&self, command: &str) {
        let given = self.given.lock().unwrap();
        let part = format!("{command} ");
        let all = every_option().iter();
        let of_it = all.filter(|option| format!("{} ", option.command).starts_with(&part));
        let missing: Vec<_> = of_it
            .filter(|option| !given.contains(&(option.command.clone(), option.name.clone())))
            .collect();
        assert!(missing.is_empty(), "never given: {missing:?}");
    }
}

/// Runs the command somewhere.
pub(crate) fn run(url: &str, arguments: &[&str]) -> Ran {
    Console::at(url).run(arguments)
}

/// A limiter's stack on an endpoint; it is deleted when this is dropped.
pub(crate) struct Stack {
    pub(crate) console: Console,
    pub(crate) name: String,
}

impl Stack {
    /// Of a random name. Nothing is deployed yet.
    pub(crate) fn new(url: &str, prefix: &str) -> Self {
        Self::of(Console::at(url), prefix)
    }

    pub(crate) fn of(console: Console, prefix: &str) -> Self {
        let name = random_name(prefix);
        Self { console, name }
    }

    /// Runs a command on it: `arguments` and its name.
    pub(crate) fn run(&self, arguments: &[&str]) -> Ran {
        self.console.run(&self.named(arguments))
    }

    pub(crate) fn named<'a>(&'a self, arguments: &[&'a str]) -> Vec<&'a str> {
        [arguments, &["--name", &self.name]].concat()
    }

    /// Runs a command on it for its JSON.
    pub(crate) fn json(&self, arguments: &[&str]) -> Value {
        self.console.json(&self.named(arguments))
    }

    /// Asks AWS about it, by a Python program: see [`ask`].
    pub(crate) fn ask(&self, program: &str) -> Value {
        ask(&self.console.url, program, &format!("ZAEL-{}", self.name))
    }

    /// What it consists of, as the template calls it.
    pub(crate) fn resources(&self) -> Value {
        self.ask(
            "found = client('cloudformation').describe_stack_resources(StackName=name)\n\
             print(json.dumps([r['LogicalResourceId'] for r in found['StackResources'] \
             if r.get('PhysicalResourceId')]))",
        )
    }
}

impl Drop for Stack {
    fn drop(&mut self) {
        self.run(&["delete", "--yes"]);
    }
}
