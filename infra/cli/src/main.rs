//! The `zae-limiter` command: deploys limiters and looks after them.
//!
//! One file per command in [`commands`]; [`place`] is which limiter and where, [`output`] how
//! results are shown, [`failure`] how it ends.

mod commands;
mod failure;
mod limit_spec;
mod named;
mod output;
mod place;
mod progress;
mod record;

use std::process::ExitCode;

use clap::Parser;

use crate::commands::Command;
use crate::failure::Failure;
use crate::output::Output;

/// Rate limiting for a fleet: deploys limiters, and looks after what is in them.
#[derive(Debug, Parser)]
#[command(name = "zae-limiter", version, after_help = failure::EXIT_CODES)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
    /// Write the result as JSON.
    #[arg(long, global = true)]
    json: bool,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => return refuse(&error),
    };
    // What goes on although something is wrong.
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_max_level(tracing_subscriber::filter::LevelFilter::WARN)
        .init();
    let output = Output::new(arguments.json);
    match arguments.command.run(&output).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            output.failure(&failure);
            ExitCode::from(failure.code)
        }
    }
}

/// Says what is wrong with the arguments; or the help or the version, if that is what was wanted.
fn refuse(error: &clap::Error) -> ExitCode {
    if error.use_stderr() && std::env::args().any(|argument| argument == "--json") {
        let failure = Failure::invalid(error.to_string().trim_end());
        Output::new(true).failure(&failure);
        return ExitCode::from(Failure::INVALID);
    }
    error.exit()
}
