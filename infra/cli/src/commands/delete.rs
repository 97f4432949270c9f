//! `delete`: removes the stack and all that is in it.

use clap::Args;
use serde_json::json;

use crate::failure::Failure;
use crate::output::Output;
use crate::place::{Named, Place};
use crate::progress::{Progress, watched};

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    named: Named,
    /// Do not ask.
    #[arg(short, long)]
    yes: bool,
    /// Wait until it is done (the default).
    #[arg(long, overrides_with = "no_wait")]
    wait: bool,
    /// Do not wait until it is done. The aggregator's packages then stay in their bucket.
    #[arg(long)]
    no_wait: bool,
}

pub(crate) async fn run(arguments: Arguments, output: &Output) -> Result<(), Failure> {
    let place = Place::from(arguments.named);
    let stack = place.stack().await?;
    let name = stack.stack_name();
    let what = format!(
        "stack {name} in {}, its table and all that is stored is deleted",
        stack.region()
    );
    output.confirm(&what, arguments.yes)?;
    let progress = Progress::new(output, format!("deleting {name}"));
    let found = if arguments.no_wait {
        let begun = stack.begin_delete(|event| progress.event(event));
        watched(begun, &stack, &place).await?.is_some()
    } else {
        let deleted = stack.delete(|event| progress.event(event));
        watched(deleted, &stack, &place).await?
    };
    drop(progress);
    let done = json!({ "stack": name, "found": found, "waited": !arguments.no_wait });
    output.show(&done, || match (found, arguments.no_wait) {
        (false, _) => format!("there is no stack {name}; nothing was done"),
        (true, false) => format!("{name} is deleted"),
        (true, true) => format!("{name} is being deleted"),
    })
}
