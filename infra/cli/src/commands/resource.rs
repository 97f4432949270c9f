//! `resource`: a resource over all entities.

use clap::{Args, Subcommand};

use crate::failure::Failure;
use crate::named;
use crate::output::{Output, pairs, table};
use crate::place::Place;
use crate::progress::Progress;

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Show how much of a limit there is, and how much is left, over all entities.
    Capacity(Capacity),
}

#[derive(Debug, Args)]
pub(crate) struct Capacity {
    /// The resource.
    #[arg(value_parser = named::resource)]
    resource: String,
    /// The limit's name.
    #[arg(value_parser = named::limit)]
    limit: String,
    /// Only entities without a parent.
    #[arg(long)]
    parents_only: bool,
    #[command(flatten)]
    place: Place,
}

pub(crate) async fn run(command: Command, output: &Output) -> Result<(), Failure> {
    let Command::Capacity(Capacity {
        resource,
        limit,
        parents_only,
        place,
    }) = command;
    let progress = Progress::new(output, format!("reading the buckets of {resource}"));
    let limiter = place.limiter().await?;
    let found = limiter
        .get_resource_capacity(&resource, &limit, parents_only)
        .await?;
    drop(progress);
    output.show(&found, || {
        let rows = found.entities.iter().map(|entity| {
            [
                entity.entity_id.clone(),
                entity.capacity.to_string(),
                entity.available.to_string(),
                format!("{:.1} %", entity.utilization_pct()),
            ]
        });
        let by_entity = table(["Entity", "Capacity", "Available", "Used"], rows);
        let all = pairs([
            ("Capacity", found.total_capacity.to_string()),
            ("Available", found.total_available.to_string()),
            ("Used", format!("{:.1} %", found.utilization_pct())),
        ]);
        format!("{by_entity}\n{all}")
    })
}
