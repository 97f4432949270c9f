//! `usage`: what has been consumed, by hour, day or month.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::SystemTime;

use clap::{ArgGroup, Args, Subcommand};
use jiff::{SignedDuration, Timestamp};
use zae_limiter::{PageRequest, UsageQuery, UsageSnapshot, ValidationError};
use zae_limiter_core::usage::Window;

use crate::failure::Failure;
use crate::named;
use crate::output::{Output, table};
use crate::place::Place;
use crate::progress::Progress;

/// How wide a plot's longest bar is, in characters.
const BAR: usize = 50;

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// List usage snapshots.
    List(List),
    /// Sum them up: total, average and peak of every limit.
    Summary(Which),
    /// Draw the consumption of a limit over time.
    Plot(Plot),
}

/// Which snapshots.
#[derive(Debug, Args)]
#[command(group = ArgGroup::new("whose").args(["entity", "resource"]).required(true).multiple(true))]
pub(crate) struct Which {
    /// Those of this entity.
    #[arg(short, long, value_parser = named::entity)]
    entity: Option<String>,
    /// Those of this resource.
    #[arg(short, long, value_parser = named::resource)]
    resource: Option<String>,
    /// Of which windows: hourly, daily or monthly.
    #[arg(short, long, default_value = "hourly", value_parser = window)]
    window: Window,
    /// From the window on that this time is in: RFC 3339, or how long ago, as in 90m, 24h or 7d.
    /// Default: from the oldest one on.
    #[arg(long, value_name = "TIME", value_parser = time)]
    since: Option<SystemTime>,
    /// Before this time. Default: up to now.
    #[arg(long, value_name = "TIME", value_parser = time)]
    until: Option<SystemTime>,
    #[command(flatten)]
    place: Place,
}

#[derive(Debug, Args)]
pub(crate) struct List {
    #[command(flatten)]
    which: Which,
}

#[derive(Debug, Args)]
pub(crate) struct Plot {
    /// The limit's name.
    #[arg(value_parser = named::limit)]
    limit: String,
    /// Write it as an SVG image, too.
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
    #[command(flatten)]
    which: Which,
}

fn window(text: &str) -> Result<Window, String> {
    text.parse()
        .map_err(|error: ValidationError| error.rule().to_owned())
}

fn time(text: &str) -> Result<SystemTime, String> {
    let wrong = || "is neither RFC 3339 nor how long ago, as in 90m, 24h or 7d".to_owned();
    if let Ok(time) = text.parse::<Timestamp>() {
        return Ok(time.into());
    }
    let (number, hours) = [("m", 1.0 / 60.0), ("h", 1.0), ("d", 24.0)]
        .iter()
        .find_map(|(unit, hours)| Some((text.strip_suffix(unit)?, hours)))
        .ok_or_else(wrong)?;
    let number: u32 = number.parse().map_err(|_| wrong())?;
    let ago = SignedDuration::try_from_secs_f64(f64::from(number) * hours * 3_600.0);
    let then = ago
        .ok()
        .and_then(|ago| Timestamp::now().checked_sub(ago).ok());
    then.map(Into::into).ok_or_else(wrong)
}

impl Which {
    fn query(&self) -> Result<UsageQuery, Failure> {
        let mut query = match (&self.entity, &self.resource) {
            (Some(entity), None) => UsageQuery::entity(entity)?,
            (Some(entity), Some(resource)) => UsageQuery::entity(entity)?.resource(resource)?,
            (None, Some(resource)) => UsageQuery::of_resource(resource)?,
            (None, None) => return Err(Failure::invalid("give --entity or --resource")),
        };
        query = query.window(self.window);
        if let Some(since) = self.since {
            query = query.since(since);
        }
        if let Some(until) = self.until {
            query = query.until(until);
        }
        Ok(query)
    }

    async fn snapshots(&self, output: &Output) -> Result<Vec<UsageSnapshot>, Failure> {
        let query = self.query()?;
        let _progress = Progress::new(output, "reading usage");
        let limiter = self.place.limiter().await?;
        let mut request = PageRequest::default().size(1_000);
        let mut snapshots = Vec::new();
        loop {
            let page = limiter.get_usage(&query, &request).await?;
            snapshots.extend(page.items);
            match page.next {
                Some(next) => request = request.after(next),
                None => return Ok(snapshots),
            }
        }
    }
}

pub(crate) async fn run(command: Command, output: &Output) -> Result<(), Failure> {
    match command {
        Command::List(List { which }) => {
            let snapshots = which.snapshots(output).await?;
            output.show(&snapshots, || {
                let rows = snapshots.iter().map(|snapshot| {
                    let counters = snapshot.counters.iter();
                    let counters = counters.map(|(limit, tokens)| format!("{limit}={tokens}"));
                    [
                        snapshot.window_start.clone(),
                        snapshot.entity_id.clone(),
                        snapshot.resource.clone(),
                        counters.collect::<Vec<_>>().join(" "),
                        snapshot.total_events.to_string(),
                    ]
                });
                table(["From", "Entity", "Resource", "Consumed", "Writes"], rows)
            })
        }
        Command::Summary(which) => {
            let query = which.query()?;
            let progress = Progress::new(output, "reading usage");
            let limiter = which.place.limiter().await?;
            let summary = limiter.summarize_usage(&query).await?;
            drop(progress);
            output.show(&summary, || {
                let rows = summary.limits.iter().map(|(limit, usage)| {
                    [
                        limit.clone(),
                        usage.total.to_string(),
                        format!("{:.1}", usage.average),
                        usage.peak.to_string(),
                        usage.peak_window_start.clone(),
                    ]
                });
                table(["Limit", "Total", "Average", "Peak", "Peak from"], rows)
            })
        }
        Command::Plot(Plot { limit, svg, which }) => {
            let mut by_start = BTreeMap::<String, i64>::new();
            for snapshot in which.snapshots(output).await? {
                let tokens = snapshot.counters.get(&limit).copied().unwrap_or(0);
                *by_start.entry(snapshot.window_start).or_default() += tokens;
            }
            if let Some(path) = svg {
                let image = image(&limit, &by_start);
                let path = path.display();
                let failed =
                    |error| Failure::failed(format!("could not write --svg {path}: {error}"));
                std::fs::write(path.to_string(), image).map_err(failed)?;
            }
            output.show(&by_start, || plot(&by_start))
        }
    }
}

/// A bar for every window.
fn plot(by_start: &BTreeMap<String, i64>) -> String {
    let most = by_start.values().copied().max().unwrap_or(0).max(1);
    let most = usize::try_from(most).unwrap_or(usize::MAX);
    let lines = by_start.iter().map(|(start, tokens)| {
        let length = usize::try_from(*tokens).unwrap_or(0);
        // In eighths of a character.
        let eighths = usize::try_from(length as u128 * BAR as u128 * 8 / most as u128);
        let eighths = eighths.unwrap_or(0);
        let rest = ["", "▏", "▎", "▍", "▌", "▋", "▊", "▉"][eighths % 8];
        format!("{start}  {}{rest} {tokens}\n", "█".repeat(eighths / 8))
    });
    let lines: String = lines.collect();
    if lines.is_empty() {
        return "nothing has been counted".to_owned();
    }
    lines
}

#[allow(clippy::cast_precision_loss)] // pixels
/// The same as an image: columns from left to right, with the numbers as tips.
fn image(limit: &str, by_start: &BTreeMap<String, i64>) -> String {
    const WIDTH: usize = 800;
    const HEIGHT: usize = 300;
    const HEAD: usize = 24;
    let most = by_start.values().copied().max().unwrap_or(0).max(1);
    let width = WIDTH as f64 / by_start.len().max(1) as f64;
    let columns = by_start.iter().enumerate().map(|(i, (start, tokens))| {
        let height = HEIGHT as f64 * (*tokens).max(0) as f64 / most as f64;
        let (x, y) = (width * i as f64, (HEAD + HEIGHT) as f64 - height);
        format!(
            "<rect x=\"{x:.2}\" y=\"{y:.2}\" width=\"{:.2}\" height=\"{height:.2}\">\
             <title>{start}: {tokens}</title></rect>\n",
            width * 0.9
        )
    });
    let columns: String = columns.collect();
    let ends = by_start.keys().next().zip(by_start.keys().next_back());
    let span = ends.map_or(String::new(), |(first, last)| {
        format!("{first} to {last}, ")
    });
    let bottom = HEAD + HEIGHT;
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {}\" \
         font-family=\"sans-serif\" font-size=\"14\">\n\
         <text x=\"0\" y=\"16\">{limit}: {span}at most {most}</text>\n\
         <g fill=\"#3b7dd8\">\n{columns}</g>\n\
         <line x1=\"0\" y1=\"{bottom}\" x2=\"{WIDTH}\" y2=\"{bottom}\" stroke=\"#888\"/>\n</svg>\n",
        bottom + 2
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bars_are_as_long_as_what_they_stand_for() {
        let by_start = BTreeMap::from([
            ("a".to_owned(), 100),
            ("b".to_owned(), 1),
            ("c".to_owned(), -4),
        ]);
        let lines: Vec<_> = plot(&by_start).lines().map(ToOwned::to_owned).collect();
        assert_eq!(lines[0], format!("a  {} 100", "█".repeat(BAR)));
        assert_eq!(lines[1], "b  ▌ 1");
        assert_eq!(lines[2], "c   -4");
        assert_eq!(plot(&BTreeMap::new()), "nothing has been counted");
    }

    #[test]
    fn columns_are_as_high_as_what_they_stand_for() {
        let by_start = BTreeMap::from([("a".to_owned(), 100), ("b".to_owned(), 50)]);
        let image = image("rpm", &by_start);
        assert!(image.contains("rpm: a to b, at most 100"), "{image}");
        assert!(
            image.contains("height=\"300.00\"><title>a: 100</title>"),
            "{image}"
        );
        assert!(image.contains("x=\"400.00\" y=\"174.00\""), "{image}");
        super::image("rpm", &BTreeMap::new());
    }

    #[test]
    fn times_are_read() {
        assert!(time("2026-01-01T00:00:00Z").is_ok());
        let day = SystemTime::now()
            .duration_since(time("1d").unwrap())
            .unwrap();
        assert!(day.as_secs().abs_diff(86_400) < 60);
        for wrong in ["", "yesterday", "d", "-1d", "1.5h"] {
            assert!(time(wrong).is_err(), "{wrong}");
        }
    }
}
