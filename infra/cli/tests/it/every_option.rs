//! Every option of every command, as the command itself lists them; and that none goes untested.

use std::process::Command;
use std::sync::OnceLock;

use crate::command::PROGRAM;

/// An option of a command.
#[derive(Debug)]
pub(crate) struct CommandOption {
    /// The command that takes it, with all its words: "entity create".
    pub(crate) command: String,
    /// Its long name, as in `--name`.
    pub(crate) name: String,
    /// Its short name, as in `-n`.
    short: Option<String>,
    pub(crate) takes_value: bool,
}

impl CommandOption {
    fn is(&self, argument: &str) -> bool {
        self.name == argument || self.short.as_deref() == Some(argument)
    }

    fn of<'a>(arguments: &[&str]) -> impl Iterator<Item = &'a Self> {
        let line = arguments.join(" ") + " ";
        let all = every_option().iter();
        all.filter(move |option| line.starts_with(&format!("{} ", option.command)))
    }

    /// Whether the command that these arguments begin with has this option.
    pub(crate) fn takes(arguments: &[&str], name: &str) -> bool {
        Self::of(arguments).any(|option| option.name == name)
    }

    /// The options among the arguments, each with the command.
    pub(crate) fn given(arguments: &[&str]) -> Vec<(String, String)> {
        let given = Self::of(arguments).filter(|o| arguments.iter().any(|a| o.is(a)));
        given.map(|o| (o.command.clone(), o.name.clone())).collect()
    }
}

fn help(command: &str) -> String {
    let mut help = Command::new(PROGRAM);
    let help = help.args(command.split_whitespace()).arg("--help").output();
    String::from_utf8(help.unwrap().stdout).unwrap()
}

/// The commands that there are under this one.
fn commands(help: &str) -> Vec<String> {
    let section = help.split("\nCommands:\n").nth(1).unwrap_or_default();
    let section = section.lines().take_while(|line| !line.is_empty());
    let words = section.filter_map(|line| line.split_whitespace().next());
    words.filter(|w| *w != "help").map(Into::into).collect()
}

/// The option that a line of the help is about.
fn option(command: &str, line: &str) -> Option<CommandOption> {
    // What is further to the right is text.
    let text = line.trim_start();
    if line.len() - text.len() > 6 || !text.starts_with('-') {
        return None;
    }
    let mut words = text.split_whitespace().peekable();
    let short = words.next_if(|word| word.ends_with(','));
    let name = words.next().filter(|word| word.starts_with("--"))?;
    Some(CommandOption {
        command: command.to_owned(),
        name: name.to_owned(),
        short: short.map(|word| word.trim_end_matches(',').to_owned()),
        takes_value: words.next().is_some_and(|word| word.starts_with('<')),
    })
}

fn walk(command: &str, options: &mut Vec<CommandOption>) {
    let help = help(command);
    let below = commands(&help);
    for part in &below {
        walk(format!("{command} {part}").trim_start(), options);
    }
    if below.is_empty() {
        let found = help.lines().filter_map(|line| option(command, line));
        options.extend(found.filter(|option| option.name != "--help"));
    }
}

/// Every option of every command that does something.
pub(crate) fn every_option() -> &'static [CommandOption] {
    static ALL: OnceLock<Vec<CommandOption>> = OnceLock::new();
    ALL.get_or_init(|| {
        let mut all = Vec::new();
        walk("", &mut all);
        all
    })
}

#[test]
fn the_options_of_every_command_are_covered_by_a_test() {
    let name = |option: &CommandOption| option.name.clone();
    let of = |command| CommandOption::of(&[command]).map(name).collect::<Vec<_>>();
    assert_eq!(of("completions"), ["--json"], "the help is read as it is");
    assert!(CommandOption::takes(
        &["entity", "create"],
        "--display-name"
    ));

    // Each of these fails unless all of them were given, with success.
    let tests = [
        include_str!("deploying.rs"),
        include_str!("lambda.rs"),
        include_str!("limiter.rs"),
        include_str!("options.rs"),
    ];
    for command in commands(&help("")) {
        let claim = format!(".covers(\"{command}\");");
        let claimed = tests.iter().any(|test| test.contains(&claim));
        assert!(claimed, "no test covers {command}");
    }
}
