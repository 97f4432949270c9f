//! `watch`: a live view of an entity's buckets.

use std::time::Duration;

use clap::Args;
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use serde::Serialize;
use zae_limiter::store::{DynamoDbStore, Store};
use zae_limiter_core::{BucketKey, Clock};

use crate::failure::Failure;
use crate::named;
use crate::output::{Output, print};
use crate::place::Place;
use crate::progress::stopped;

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// The entity's identifier.
    #[arg(value_parser = named::entity)]
    entity: String,
    /// The resources whose buckets are watched.
    #[arg(required = true, value_parser = named::resource)]
    resources: Vec<String>,
    #[command(flatten)]
    place: Place,
    /// How often to look, in milliseconds; each look is a read of each bucket.
    #[arg(long, value_name = "MS", default_value_t = 1_000, value_parser = clap::value_parser!(u64).range(100..=3_600_000))]
    interval: u64,
    /// How often to look altogether. Default: until interrupted.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,
}

/// One limit of a bucket, as the table has it. What processes hold in blocks is not in it.
#[derive(Debug, Serialize)]
struct Level {
    entity_id: String,
    resource: String,
    limit_name: String,
    /// Tokens in the bucket, in debt or borrowed from the coming refill if negative.
    available: i64,
    burst: u64,
    /// Net consumption that the table has been told of.
    consumed: i64,
    /// Writes of the bucket.
    writes: u64,
}

pub(crate) async fn run(arguments: Arguments, output: &Output) -> Result<(), Failure> {
    let keys = arguments
        .resources
        .iter()
        .map(|resource| BucketKey::new(&arguments.entity, resource));
    let keys: Vec<_> = keys.collect::<Result<_, _>>()?;
    let table = arguments.place.table().await?;
    table.check().await?;
    let mut view = View::new(output);
    let mut looks = 0;
    loop {
        let levels = look(&table, &keys).await?;
        view.show(&levels)?;
        looks += 1;
        if arguments.count.is_some_and(|count| looks >= count) {
            return Ok(());
        }
        tokio::select! {
            () = tokio::time::sleep(Duration::from_millis(arguments.interval)) => {}
            () = stopped() => return Ok(()),
        }
    }
}

async fn look(table: &DynamoDbStore, keys: &[BucketKey]) -> Result<Vec<Level>, Failure> {
    let mut levels = Vec::new();
    for key in keys {
        let Some(bucket) = table.read_bucket(key).await? else {
            continue;
        };
        let now = Clock::system().wall();
        for (name, limit) in &bucket.limits {
            let terms = limit.terms;
            let level = (terms.empty_at(now) - limit.z).min(terms.full());
            levels.push(Level {
                entity_id: key.entity_id().to_owned(),
                resource: key.resource().to_owned(),
                limit_name: name.to_string(),
                available: terms.to_tokens(level),
                burst: terms.burst,
                consumed: limit.consumed,
                writes: bucket.sequence,
            });
        }
    }
    Ok(levels)
}

/// Bars on a terminal; else lines.
struct View {
    json: bool,
    bars: MultiProgress,
    by_limit: Vec<ProgressBar>,
    /// Whether it has been said that there is nothing yet.
    waits: bool,
}

impl View {
    fn new(output: &Output) -> Self {
        Self {
            json: output.json,
            bars: MultiProgress::new(),
            by_limit: Vec::new(),
            waits: false,
        }
    }

    fn show(&mut self, levels: &[Level]) -> Result<(), Failure> {
        if self.json {
            let line = serde_json::to_string(levels);
            let failed = |error| Failure::failed(format!("could not write JSON: {error}"));
            return print(&line.map_err(failed)?);
        }
        if self.bars.is_hidden() {
            if levels.is_empty() {
                return print("no buckets");
            }
            return levels.iter().try_for_each(|level| print(&line(level)));
        }
        if levels.is_empty() && self.by_limit.is_empty() && !self.waits {
            self.waits = true;
            return print("no buckets yet");
        }
        while self.by_limit.len() < levels.len() {
            self.by_limit.push(self.bars.add(ProgressBar::no_length()));
        }
        for (bar, level) in self.by_limit.iter().zip(levels) {
            if let Ok(style) = ProgressStyle::with_template("{wide_bar:.green} {msg}") {
                bar.set_style(style.progress_chars("█▉▊▋▌▍▎▏ "));
            }
            bar.set_length(level.burst);
            bar.set_position(u64::try_from(level.available).unwrap_or(0));
            bar.set_message(line(level));
        }
        Ok(())
    }
}

fn line(level: &Level) -> String {
    let Level {
        resource,
        limit_name,
        available,
        burst,
        consumed,
        writes,
        ..
    } = level;
    format!("{resource} {limit_name}: {available} of {burst}, {consumed} consumed, {writes} writes")
}
