//! `cfn-template`: the template, for people and for other tools.

use std::path::PathBuf;

use clap::Args;
use zae_limiter_infra::TEMPLATE;

use crate::failure::Failure;
use crate::output::print;

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// Where to write it. Default: the standard output.
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
}

pub(crate) fn run(arguments: &Arguments) -> Result<(), Failure> {
    let Some(path) = &arguments.output else {
        return print(TEMPLATE.trim_end());
    };
    let written = std::fs::write(path, TEMPLATE);
    let failed = |error| {
        Failure::failed(format!(
            "could not write --output {}: {error}",
            path.display()
        ))
    };
    written.map_err(failed)
}
