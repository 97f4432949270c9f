//! A command that is interrupted says where things stand, and can be run again.

use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use zae_limiter_tests::proxy::{Link, Proxy};

use crate::command::{Console, Stack, endpoint};

const DEPLOY: [&str; 2] = ["deploy", "--no-aggregator"];
const DELETE: [&str; 2] = ["delete", "--yes"];

/// A command that has had CloudFormation begin.
struct Begun {
    child: Child,
    proxy: Proxy,
}

impl Begun {
    async fn new(stack: &Stack, arguments: &[&str]) -> Self {
        let proxy = Proxy::start(&stack.console.url, 1).await.unwrap();
        let console = Console::at(&proxy.url());
        let mut command = console.command(&stack.named(arguments));
        let command = command.stderr(Stdio::piped()).stdout(Stdio::null());
        let mut child = command.spawn().unwrap();
        let deadline = Instant::now() + Duration::from_secs(60);
        // One tells of the stack, the next that it is begun.
        while proxy.counts().replies < 2 {
            assert!(Instant::now() < deadline, "nothing is begun");
            assert!(child.try_wait().unwrap().is_none(), "it has ended");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        Self { child, proxy }
    }

    /// Its exit code, and what it said.
    async fn end(self) -> (i32, String) {
        let ended = tokio::task::spawn_blocking(|| self.child.wait_with_output());
        let ended = ended.await.unwrap().unwrap();
        let text = String::from_utf8(ended.stderr).unwrap();
        (ended.status.code().unwrap(), text)
    }

    async fn interrupted(self, signal: &str) -> String {
        let pid = self.child.id().to_string();
        let sent = Command::new("kill").args([signal, &pid]).status();
        assert!(sent.unwrap().success());
        let (code, text) = self.end().await;
        assert_eq!(code, 130, "{text}");
        assert!(text.contains("interrupted: "), "{text}");
        assert!(text.contains("run the same command again"), "{text}");
        text
    }

    async fn cut_off(self) -> String {
        self.proxy.set_link(Link::Down);
        let (code, text) = self.end().await;
        assert_eq!(code, 3, "{text}");
        assert!(text.contains("CloudFormation goes on by itself"), "{text}");
        assert!(text.contains("run the same command again"), "{text}");
        text
    }
}

// The two ways in which programs are asked to stop.
const SIGNALS: [&str; 2] = ["-INT", "-TERM"];

#[tokio::test]
async fn an_interrupted_deployment_is_finished_by_the_next() {
    for signal in SIGNALS {
        let stack = Stack::new(&endpoint(), "halfway");
        let text = Begun::new(&stack, &DEPLOY).await.interrupted(signal).await;
        let state = format!("stack ZAEL-{} is CREATE_", stack.name);
        assert!(text.contains(&state), "{text}");
        let waited = stack.json(&DEPLOY);
        assert_eq!(waited["stack"]["status"], "CREATE_COMPLETE");
    }
}

#[tokio::test]
async fn an_interrupted_deletion_is_finished_by_the_next() {
    for signal in SIGNALS {
        let stack = Stack::new(&endpoint(), "undone");
        stack.run(&DEPLOY).code(0);
        let text = Begun::new(&stack, &DELETE).await.interrupted(signal).await;
        let name = format!("stack ZAEL-{}", stack.name);
        let states = [
            format!("{name} is DELETE_IN_PROGRESS"),
            // Where it is fast.
            format!("there is no {name}"),
        ];
        assert!(states.iter().any(|state| text.contains(state)), "{text}");
        stack.run(&DELETE).code(0);
        stack.run(&["status"]).code(4);
    }
}

#[tokio::test]
async fn a_lost_connection_is_said_and_the_next_command_goes_on() {
    let stack = Stack::new(&endpoint(), "lost");
    for arguments in [DEPLOY, DELETE] {
        let text = Begun::new(&stack, &arguments).await.cut_off().await;
        let what = format!("could not look at stack ZAEL-{}", stack.name);
        assert!(text.contains(&what), "{text}");
        stack.run(&arguments).code(0);
    }
    stack.run(&["status"]).code(4);
}

#[test]
fn who_cannot_be_reached_is_said_with_how_to_go_on() {
    let mut stack = Stack::new("http://127.0.0.1:1", "nobody");
    for arguments in [DEPLOY, DELETE] {
        let lost = stack.run(&arguments).code(3);
        assert!(lost.err.contains("could not look at stack"), "{lost:?}");
        assert!(lost.err.contains("run the same command again"), "{lost:?}");
    }
    let json = stack.run(&["status", "--json"]).code(3);
    let json: serde_json::Value = serde_json::from_str(&json.err).unwrap();
    assert_eq!(json["code"], 3);
    stack.console.url = endpoint();
}
