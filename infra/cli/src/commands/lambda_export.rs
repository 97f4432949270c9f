//! `lambda-export`: the aggregator's package as a file.

use std::path::PathBuf;

use clap::Args;
use zae_limiter_infra::{AGGREGATOR_PROGRAM, Package, PackageError};

use crate::failure::Failure;
use crate::named;
use crate::output::{Output, pairs};
use crate::progress::Progress;

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// Where to write it.
    #[arg(short, long, value_name = "FILE", default_value = "lambda.zip")]
    output: PathBuf,
    /// Say what is in it, and write nothing.
    #[arg(long)]
    info: bool,
    /// Write over a file that is there.
    #[arg(short, long)]
    force: bool,
    /// The program to make it of. Default: zae-limiter-aggregator beside this command or in PATH.
    #[arg(long, value_name = "PROGRAM", value_parser = named::program)]
    aggregator: Option<PathBuf>,
}

pub(crate) fn run(arguments: &Arguments, output: &Output) -> Result<(), Failure> {
    let found = arguments.aggregator.clone().or_else(Package::find_program);
    let program = found.ok_or_else(|| {
        Failure::failed(format!(
            "there is no {AGGREGATOR_PROGRAM} beside this command or in PATH; install it (cargo \
             install --path infra/aggregator), or name one with --aggregator"
        ))
    })?;
    let progress = Progress::new(output, format!("packing {}", program.display()));
    let package = Package::from_program(&program);
    drop(progress);
    let package = package.map_err(|error: PackageError| Failure::failed(error.to_string()))?;
    if !arguments.info {
        write(arguments, &package.zip)?;
    }
    output.show(&package, || {
        let glibc = |(major, minor)| format!("{major}.{minor}");
        let mut lines = vec![
            ("Program", program.display().to_string()),
            ("Size", format!("{} bytes", package.program_bytes)),
            ("Packed", format!("{} bytes", package.zip.len())),
            ("Processor", package.architecture.to_string()),
            (
                "Needs glibc",
                package.glibc.map_or_else(|| "no".to_owned(), glibc),
            ),
            ("SHA-256", package.sha256.clone()),
        ];
        if !arguments.info {
            lines.push(("Written to", arguments.output.display().to_string()));
        }
        pairs(lines)
    })
}

fn write(arguments: &Arguments, zip: &[u8]) -> Result<(), Failure> {
    let path = &arguments.output;
    if path.exists() && !arguments.force {
        let path = path.display();
        return Err(Failure::failed(format!(
            "{path} is there already; --force writes over it"
        )));
    }
    let failed = |error| {
        Failure::failed(format!(
            "could not write --output {}: {error}",
            path.display()
        ))
    };
    std::fs::write(path, zip).map_err(failed)
}
