//! `check`: whether this version goes with what is deployed. Changes nothing.

use clap::Args;
use zae_limiter::Compatibility;

use super::version::Versions;
use crate::failure::Failure;
use crate::output::Output;
use crate::place::Place;

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    place: Place,
}

pub(crate) async fn run(arguments: Arguments, output: &Output) -> Result<(), Failure> {
    let place = &arguments.place;
    let versions = Versions::of(place).await?;
    let verdict = versions.verdict(place);
    output.show(&versions, || match (&verdict, versions.compatibility) {
        (Err(failure), _) => format!("not compatible: {failure}"),
        (Ok(()), None) => "the table has no version record yet".to_owned(),
        (Ok(()), Some(Compatibility::LambdaOlder)) => {
            let name = place.name();
            format!("compatible; the aggregator is older: `zae-limiter upgrade --name {name}`")
        }
        (Ok(()), Some(_)) => "compatible".to_owned(),
    })?;
    verdict?;
    match versions.compatibility {
        Some(_) => Ok(()),
        None => Err(Failure::failed(
            "the table is not initialised: deploy it, or connect to it",
        )),
    }
}
