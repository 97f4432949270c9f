//! Prints what is promised of faults, and what was measured, as a table; with `--json` for
//! programs. Needs an endpoint for the rounds in which a process is killed:
//! `ZAE_LIMITER_TEST_ENDPOINT`, or `tests/localstack/start.sh` before the command.

use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use clap::Parser;
use comfy_table::Table;
use comfy_table::presets::UTF8_FULL_CONDENSED;
use serde::Serialize;
use zae_limiter::Limit;
use zae_limiter_core::sabotage::Sabotage;
use zae_limiter_tests::fleet::Fleet;
use zae_limiter_tests::rounds::{Rounds, Summary};
use zae_limiter_tests::simulation::{self, REQUESTS, Recovery, Report, Scenario};
use zae_limiter_tests::{fresh_table, stall};

/// What is promised of faults, and what is measured.
#[derive(Debug, Parser)]
struct Arguments {
    /// Print JSON.
    #[arg(long)]
    json: bool,
    /// How many seeds are simulated.
    #[arg(long, default_value_t = 600)]
    seeds: u64,
    /// How long the table hangs, in seconds.
    #[arg(long, default_value_t = 10)]
    hanging: u64,
    /// How many rounds have a process killed.
    #[arg(long, default_value_t = 20)]
    rounds: u32,
}

/// One promise.
#[derive(Debug, Serialize)]
struct Row {
    what: String,
    promised: String,
    measured: String,
    met: bool,
}

fn row(what: &str, promised: &str, measured: impl Into<String>, met: bool) -> Row {
    Row {
        what: what.to_owned(),
        promised: promised.to_owned(),
        measured: measured.into(),
        met,
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments = Arguments::parse();
    let mut rows = simulated(arguments.seeds);
    rows.extend(planted());
    rows.push(overload()?);
    rows.extend(stalled(Duration::from_secs(arguments.hanging)).await?);
    rows.push(recovered().await?);
    rows.push(killed(arguments.rounds).await?);
    if arguments.json {
        println!("{}", serde_json::to_string_pretty(&rows)?);
    } else {
        let mut table = Table::new();
        table.load_style(UTF8_FULL_CONDENSED);
        table.set_header(["what", "promised", "measured", "met"]);
        for row in &rows {
            let met = if row.met { "yes" } else { "no" };
            table.add_row([&row.what, &row.promised, &row.measured, met]);
        }
        println!("{table}");
    }
    Ok(())
}

fn simulated(seeds: u64) -> Vec<Row> {
    let begun = Instant::now();
    let (mut all, mut broken) = (Report::default(), 0);
    let mut recoveries = Vec::new();
    let threads = thread::available_parallelism().map_or(1, usize::from);
    let draw = |seed| Scenario::random(seed, REQUESTS);
    simulation::play(0..seeds, threads, &draw, &mut |_, report| {
        broken += u64::from(report.violation.is_some());
        recoveries.extend(report.recovery);
        all.add(&report);
        true
    });
    let seconds = begun.elapsed().as_secs_f64();
    let faults: u64 = all.faults.iter().sum();
    let measured = format!(
        "{broken} broken; {} acquires, {faults} faults, {seconds:.1} s",
        all.acquires
    );
    let fleets = row(
        &format!("{seeds} simulated fleets, all checkers on"),
        "no promise broken, under 60 s",
        measured,
        broken == 0 && seconds < 60.0,
    );
    vec![fleets, well_again(&recoveries)]
}

fn well_again(recoveries: &[Recovery]) -> Row {
    let well = recoveries.iter().filter(|r| r.is_well()).count();
    let sum = |of: fn(&Recovery) -> u64| recoveries.iter().map(of).sum::<u64>() as f64;
    let admitted = sum(|r| r.admitted) / sum(|r| r.allowed).max(1.0);
    row(
        "two renewal periods after the last fault",
        "each fleet admits 0.97 of what is allowed (shares of few requests: 0.9), Jain 0.9",
        format!(
            "{admitted:.3} of all; {well} of {} fleets",
            recoveries.len()
        ),
        well == recoveries.len(),
    )
}

fn planted() -> Vec<Row> {
    const SEEDS: u64 = 200;
    let search = |sabotage: Sabotage| {
        let found = simulation::find(sabotage, SEEDS);
        let measured = found.map_or("not found".to_owned(), |(seeds, _)| {
            format!("found after {seeds} seeds")
        });
        let met = measured.starts_with("found");
        row(&format!("planted: {sabotage:?}"), "found", measured, met)
    };
    Sabotage::IN_CORE.map(search).into()
}

fn overload() -> Result<Row, zae_limiter::ValidationError> {
    let fleet = Fleet::new(50, Limit::per_second("rps", 1_000)?, 20.0);
    let report = fleet.run(0);
    let periods = fleet.duration.as_secs_f64() / 1.0;
    let writes = report.writes_open as f64 / (50.0 * periods);
    let admitted = report.admitted_of_allowed();
    Ok(row(
        "50 processes on one bucket at 20 times the limit",
        "<= 1 write per process and period, >= 98 % admitted",
        format!("{writes:.2} writes, {:.1} % admitted", admitted * 100.0),
        writes <= 1.0 && admitted >= 0.98,
    ))
}

async fn stalled(span: Duration) -> Result<Vec<Row>, zae_limiter::Error> {
    let [healthy, hanging] = stall::hits_while_the_table_hangs(span).await?;
    let ratio = hanging.p999_ns as f64 / healthy.p999_ns as f64;
    let refusals = stall::refusals_while_the_breaker_is_open(span / 2).await?;
    Ok(vec![
        row(
            &format!("p99.9 of acquires with tokens in hand, table hanging for {span:?}"),
            "<= 1.5 times that with a healthy table",
            format!(
                "{ratio:.2} times ({} ns against {} ns)",
                hanging.p999_ns, healthy.p999_ns
            ),
            ratio <= 1.5,
        ),
        row(
            "p99.9 of a refusal while the breaker is open",
            "<= 20 us",
            format!(
                "{:.1} us, half of them {:.1} us",
                refusals.p999_ns as f64 / 1e3,
                refusals.p50_ns as f64 / 1e3
            ),
            refusals.p999_ns <= 20_000,
        ),
    ])
}

async fn recovered() -> Result<Row, zae_limiter::Error> {
    let (mut longest, mut writes) = (0.0f64, 0.0f64);
    for tenths in [7, 13, 22, 35, 61] {
        let recovery = stall::recovery(Duration::from_millis(100 * tenths)).await?;
        longest = longest.max(recovery.all_served_s);
        writes = writes.max(recovery.writes_per_bucket);
    }
    Ok(row(
        "the table's return, 100 buckets, renewal 1 s, the worst of 5 outages",
        "all served within 2 s, <= 1 write per bucket",
        format!("{longest:.2} s, {writes:.2} writes"),
        longest < 2.0 && writes <= 1.0,
    ))
}

async fn killed(rounds: u32) -> Result<Row, Box<dyn std::error::Error>> {
    let program: PathBuf = std::env::current_exe()?.with_file_name("worker");
    let table = fresh_table("figures").await;
    let played = Rounds {
        rounds,
        ..Rounds::default()
    };
    let summary = Summary::of(&played.play(&table, &program).await);
    Ok(row(
        &format!("SIGKILL of 1 of 4 processes, {rounds} rounds"),
        "the bound holds; no more lost than was held",
        format!(
            "{} of {} rounds right; {} tokens lost of {} held, bound used {:.2}",
            summary.right, summary.rounds, summary.lost, summary.held, summary.bound_used
        ),
        summary.right == summary.rounds,
    ))
}
