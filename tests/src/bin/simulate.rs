//! Plays simulated fleets with faults until a promise is broken, or for as long as it is told to.

use std::process::ExitCode;
use std::time::Instant;

use clap::Parser;
use comfy_table::Table;
use comfy_table::presets::UTF8_FULL_CONDENSED;
use indicatif::{HumanCount, ProgressBar, ProgressStyle};
use serde_json::json;
use zae_limiter_tests::policies;
use zae_limiter_tests::simulation::{self, Change, Fault, Report, Scenario};

/// Simulated fleets with faults: every promise is checked at every step.
#[derive(Parser)]
struct Options {
    /// The seeds to play: A..B.
    #[arg(long, default_value = "0..1000", value_parser = range)]
    seeds: (u64, u64),
    /// One seed.
    #[arg(long)]
    seed: Option<u64>,
    /// Print all that happens; with --seed.
    #[arg(long, requires = "seed")]
    trace: bool,
    /// How many threads; by default as many as there are processors.
    #[arg(long)]
    threads: Option<usize>,
    /// Go on with further seeds until there were so many acquires.
    #[arg(long)]
    acquires: Option<u64>,
    /// How many acquires a seed has, give or take a factor of seven.
    #[arg(long, default_value_t = simulation::REQUESTS)]
    requests: u64,
    /// Leave the limits as they are, and delete nothing.
    #[arg(long)]
    unchanged: bool,
    /// Under another policy than the one that ships: one of those in `policies`, by name.
    #[arg(long, value_parser = policy)]
    policy: Option<&'static str>,
    /// With a second limit that hardly refills.
    #[arg(long)]
    quotas: bool,
    /// Go on after a promise was broken.
    #[arg(long)]
    all: bool,
    /// Print the summary as JSON.
    #[arg(long)]
    json: bool,
}

impl Options {
    fn scenario(&self, seed: u64) -> Scenario {
        let mut scenario = Scenario::random(seed, self.requests);
        if self.unchanged {
            let is_parent = |change: &Change| matches!(change, Change::Parent(..));
            scenario.changes.retain(|(_, change)| is_parent(change));
        }
        if self.quotas {
            scenario = scenario.with_quotas();
        }
        match policies::ALL
            .iter()
            .find(|(name, _)| Some(*name) == self.policy)
        {
            Some((_, policy)) => scenario.under(*policy),
            None => scenario,
        }
    }
}

fn policy(text: &str) -> Result<&'static str, String> {
    let mut names = policies::ALL.iter().map(|(name, _)| *name);
    let found = names.clone().find(|name| *name == text);
    found.ok_or_else(|| {
        format!(
            "one of {:?} is expected",
            names.by_ref().collect::<Vec<_>>()
        )
    })
}

fn range(text: &str) -> Result<(u64, u64), String> {
    let (from, to) = text.split_once("..").ok_or("A..B is expected")?;
    let number = |text: &str| text.parse().map_err(|error| format!("{text}: {error}"));
    Ok((number(from)?, number(to)?))
}

fn main() -> ExitCode {
    let options = Options::parse();
    if let Some(seed) = options.seed
        && options.trace
    {
        let scenario = options.scenario(seed);
        println!("{scenario:#?}");
        let report = scenario.trace();
        println!("{report:#?}");
        return exit(report.violation.is_none());
    }
    let mut seeds = options.seeds.0..options.seeds.1;
    if let Some(seed) = options.seed {
        seeds = seed..seed + 1;
    } else if options.acquires.is_some() {
        seeds.end = u64::MAX;
    }
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let threads = options.threads.unwrap_or(cores);
    let summary = Summary::play(seeds, threads, &options);
    summary.print(options.json);
    exit(summary.broken.is_empty())
}

fn exit(well: bool) -> ExitCode {
    if well {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

struct Summary {
    seeds: u64,
    all: Report,
    measured: u64,
    admitted: u64,
    allowed: u64,
    least: f64,
    least_fairness: f64,
    /// How often the last fleet to be well was measured until it was.
    measured_most: u32,
    /// Seeds whose fleets did badly after the last fault.
    slow: Vec<(f64, f64, u64)>,
    seconds: f64,
    broken: Vec<String>,
}

impl Summary {
    fn play(seeds: std::ops::Range<u64>, threads: usize, options: &Options) -> Self {
        let length = options.acquires.unwrap_or(seeds.end - seeds.start);
        let bar = ProgressBar::new(length);
        let unit = if options.acquires.is_some() {
            "acquires"
        } else {
            "seeds"
        };
        let template =
            format!("{{elapsed_precise}} {{wide_bar}} {{human_pos}}/{{human_len}} {unit}");
        if let Ok(style) = ProgressStyle::with_template(&template) {
            bar.set_style(style);
        }
        let began = Instant::now();
        let mut summary = Self {
            seeds: 0,
            all: Report::default(),
            measured: 0,
            admitted: 0,
            allowed: 0,
            least: 1.0,
            least_fairness: 1.0,
            measured_most: 1,
            slow: Vec::new(),
            seconds: 0.0,
            broken: Vec::new(),
        };
        let draw = |seed| options.scenario(seed);
        simulation::play(seeds, threads, &draw, &mut |scenario, report| {
            let well = summary.see(scenario, &report, &bar);
            let position = if options.acquires.is_some() {
                summary.all.acquires
            } else {
                summary.seeds
            };
            bar.set_position(position);
            (well || options.all)
                && options
                    .acquires
                    .is_none_or(|most| summary.all.acquires < most)
        });
        bar.finish_and_clear();
        summary.seconds = began.elapsed().as_secs_f64();
        summary
    }

    fn see(&mut self, scenario: &Scenario, report: &Report, bar: &ProgressBar) -> bool {
        self.seeds += 1;
        self.all.add(report);
        if let Some(recovery) = report.recovery {
            self.measured += 1;
            self.admitted += recovery.admitted;
            self.allowed += recovery.allowed;
            self.least = self.least.min(recovery.admitted_of_allowed());
            self.least_fairness = self.least_fairness.min(recovery.fairness);
            self.measured_most = self.measured_most.max(recovery.measured);
            let admitted = recovery.admitted_of_allowed();
            if !recovery.is_well() {
                self.slow.push((admitted, recovery.fairness, scenario.seed));
            }
        }
        let Some(violation) = &report.violation else {
            return true;
        };
        let line = format!(
            "seed {}: {violation}\n  {}",
            scenario.seed,
            simulation::replay(scenario)
        );
        bar.suspend(|| eprintln!("{line}"));
        self.broken.push(line);
        false
    }

    #[allow(clippy::cast_precision_loss)]
    fn print(&self, as_json: bool) {
        let faults = || {
            Fault::ALL
                .iter()
                .map(|fault| (format!("{fault:?}"), self.all.faults[*fault as usize]))
        };
        let per_second = self.all.acquires as f64 / self.seconds;
        let recovered = self.admitted as f64 / self.allowed.max(1) as f64;
        if as_json {
            let faults: serde_json::Map<_, _> =
                faults().map(|(name, count)| (name, json!(count))).collect();
            let summary = json!({
                "seeds": self.seeds,
                "acquires": self.all.acquires,
                "admitted": self.all.admitted,
                "refused": self.all.refused,
                "unavailable": self.all.unavailable,
                "writes": self.all.writes,
                "seconds": self.seconds,
                "acquires_per_second": per_second,
                "recoveries": self.measured,
                "recovered": recovered,
                "recovered_least": self.least,
                "fairness_least": self.least_fairness,
                "recoveries_slow_or_unfair": self.slow.len(),
                "measured_most": self.measured_most,
                "faults": faults,
                "broken": self.broken,
            });
            println!("{summary:#}");
            return;
        }
        let mut table = Table::new();
        table.load_style(UTF8_FULL_CONDENSED);
        let count = |number: u64| HumanCount(number).to_string();
        for (name, value) in [
            ("seeds", count(self.seeds)),
            ("acquires", count(self.all.acquires)),
            ("admitted", count(self.all.admitted)),
            ("refused", count(self.all.refused)),
            ("unavailable", count(self.all.unavailable)),
            ("writes", count(self.all.writes)),
            ("seconds", format!("{:.1}", self.seconds)),
            ("acquires per second", count(per_second as u64)),
            ("recoveries measured", count(self.measured)),
            (
                "admitted / allowed after the last fault",
                format!("{recovered:.4}, least {:.4}", self.least),
            ),
            (
                "least fairness after the last fault",
                format!("{:.4}", self.least_fairness),
            ),
            (
                "recoveries that are slow or unfair",
                count(self.slow.len() as u64),
            ),
            (
                "spans of time until the last of them was well",
                count(self.measured_most.into()),
            ),
            ("promises broken", count(self.broken.len() as u64)),
        ] {
            table.add_row([name.to_owned(), value]);
        }
        for (name, value) in faults() {
            table.add_row([name, count(value)]);
        }
        println!("{table}");
        let mut slow = self.slow.clone();
        slow.sort_by(|a, b| a.0.total_cmp(&b.0));
        for (admitted, fairness, seed) in slow.iter().take(20) {
            println!(
                "seed {seed}: {admitted:.3} of what is allowed after the last fault, fairness {fairness:.3}"
            );
        }
    }
}
