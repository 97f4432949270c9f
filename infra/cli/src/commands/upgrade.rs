//! `upgrade`: brings what is deployed to the version of this command.

use std::path::PathBuf;

use clap::Args;
use zae_limiter::store::Store;
use zae_limiter::{Compatibility, Operation, VersionRecord};

use crate::failure::Failure;
use crate::named;
use crate::output::Output;
use crate::place::Place;
use crate::progress::{Progress, watched};
use crate::record::{self, VERSION};

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    place: Place,
    /// Only the aggregator; the template stays as it is.
    #[arg(long)]
    lambda_only: bool,
    /// Go on although the table is of a version that this one does not go with.
    #[arg(long)]
    force: bool,
    /// The program of the aggregator. Default: zae-limiter-aggregator beside this command or in
    /// PATH, else the one that is deployed.
    #[arg(long, value_name = "PROGRAM", value_parser = named::program)]
    aggregator: Option<PathBuf>,
}

pub(crate) async fn run(arguments: Arguments, output: &Output) -> Result<(), Failure> {
    let place = &arguments.place;
    let stack = place.stack().await?;
    let name = stack.stack_name();
    let absent = || Failure::absent(format!("there is no stack {name} in {}", stack.region()));
    stack.status().await?.ok_or_else(absent)?;
    let table = place.table().await?;
    let found = table.read_version().await?;
    let found = found.as_ref().map(VersionRecord::compatibility);
    let newer = matches!(
        found,
        Some(Compatibility::SchemaUnknown | Compatibility::ClientTooOld)
    );
    if newer && !arguments.force {
        let message =
            format!("{name} is newer than {VERSION}; install a newer version, or --force");
        return Err(Failure::failed(message));
    }
    let progress = Progress::new(output, format!("upgrading {name} to {VERSION}"));
    let program = arguments.aggregator.as_deref();
    let upgraded = stack.upgrade(program, arguments.lambda_only, |event| {
        progress.event(event)
    });
    let upgraded = watched(upgraded, &stack, place).await?.ok_or_else(absent)?;
    drop(progress);
    record::write(place, upgraded.stack.lambda_version()).await?;
    output.show(&upgraded, || match upgraded.operation {
        Operation::Nothing => format!("{name} is of version {VERSION}; nothing was done"),
        _ => format!("{name} is upgraded to {VERSION}"),
    })
}
