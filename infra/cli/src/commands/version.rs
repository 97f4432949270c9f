//! `version`: what is of which version.

use clap::Args;
use serde::Serialize;
use zae_limiter::store::Store;
use zae_limiter::{Compatibility, VersionRecord};
use zae_limiter_core::schema::SCHEMA_VERSION;

use crate::failure::Failure;
use crate::output::{Output, pairs};
use crate::place::Place;
use crate::record::VERSION;

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    place: Place,
}

/// What goes with what.
#[derive(Serialize)]
pub(super) struct Versions {
    client_version: &'static str,
    client_schema_version: &'static str,
    /// What the table says of itself, if it does.
    table: Option<VersionRecord>,
    /// Whether it goes with this command.
    pub(super) compatibility: Option<Compatibility>,
}

impl Versions {
    pub(super) async fn of(place: &Place) -> Result<Self, Failure> {
        let table = place.table().await?.read_version().await?;
        Ok(Self {
            client_version: VERSION,
            client_schema_version: SCHEMA_VERSION,
            compatibility: table.as_ref().map(VersionRecord::compatibility),
            table,
        })
    }

    pub(super) fn text(&self) -> String {
        let none = || "none".to_owned();
        let of = |field: fn(&VersionRecord) -> Option<&String>| {
            let found = self.table.as_ref().and_then(field);
            found.cloned().unwrap_or_else(none)
        };
        pairs([
            ("Client", self.client_version.to_owned()),
            ("Client's schema", self.client_schema_version.to_owned()),
            ("Table's schema", of(|record| Some(&record.schema_version))),
            ("Aggregator", of(|record| record.lambda_version.as_ref())),
            (
                "Oldest client",
                of(|record| record.client_min_version.as_ref()),
            ),
            ("Updated", of(|record| Some(&record.updated_at))),
            ("Updated by", of(|record| record.updated_by.as_ref())),
        ])
    }

    /// What keeps this command, or a limiter of its version, from using the table.
    pub(super) fn verdict(&self, place: &Place) -> Result<(), Failure> {
        let upgrade = format!("run `zae-limiter upgrade --name {}`", place.name());
        let what = match self.compatibility {
            None | Some(Compatibility::Compatible | Compatibility::LambdaOlder) => return Ok(()),
            Some(Compatibility::LambdaIncompatible) => {
                format!("the aggregator is too old; {upgrade}")
            }
            Some(Compatibility::NeedsMigration) => {
                format!("the table's schema is too old; {upgrade}")
            }
            Some(_) => "this version is too old for the table; install a newer one".to_owned(),
        };
        Err(Failure::failed(what))
    }
}

pub(crate) async fn run(arguments: Arguments, output: &Output) -> Result<(), Failure> {
    let versions = Versions::of(&arguments.place).await?;
    output.show(&versions, || versions.text())?;
    versions.verdict(&arguments.place)
}
