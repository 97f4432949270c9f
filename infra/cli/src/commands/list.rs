//! `list`: the limiters of a region.

use clap::Args;
use zae_limiter::StackManager;

use crate::failure::Failure;
use crate::output::{Output, table};
use crate::place::Region;

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    region: Region,
}

pub(crate) async fn run(arguments: Arguments, output: &Output) -> Result<(), Failure> {
    let stacks = StackManager::list(arguments.region.options()).await?;
    output.show(&stacks, || {
        let rows = stacks.iter().map(|stack| {
            let version = |version: Option<&str>| version.unwrap_or("-").to_owned();
            [
                stack.name.clone(),
                stack.status.clone(),
                version(stack.version()),
                version(stack.lambda_version()),
                stack.created_at.clone(),
            ]
        });
        table(
            ["Stack", "Status", "Version", "Aggregator", "Created"],
            rows,
        )
    })
}
