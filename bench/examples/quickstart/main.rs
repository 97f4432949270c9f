//! A small fleet of limiters on one bucket, in strict and in leased mode, side by side.
//!
//! ```text
//! cargo run --release --example quickstart
//! cargo run --release --example quickstart -- --endpoint-url http://localhost:4566
//! ```

mod fleet;
mod load;
mod report;

use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use tokio::signal;
use zae_limiter::store::MemoryStore;
use zae_limiter::{LeasedOptions, Limit, Mode};
use zae_limiter_bench::{CountingStore, ScratchTable};

use fleet::Fleet;
use load::{Failure, Load};
use report::{Report, Row};

/// Measures a fleet of limiters that share one bucket, in strict and in leased mode.
#[derive(Debug, Parser)]
struct Arguments {
    /// A DynamoDB endpoint to run on, for example http://localhost:4566. A table is created
    /// there, and removed afterwards. Without it everything stays in memory.
    #[arg(long, value_name = "URL")]
    endpoint_url: Option<String>,
    /// The AWS region of the endpoint. Default: what the AWS configuration says.
    #[arg(long, requires = "endpoint_url")]
    region: Option<String>,
    /// How many limiters share the bucket.
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    limiters: u32,
    /// How long each of the six measurements takes.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u64).range(1..=600))]
    seconds: u64,
}

impl Arguments {
    /// The limit of the paced measurements, in tokens per second.
    fn rate(&self) -> u64 {
        if self.endpoint_url.is_some() {
            200
        } else {
            50_000
        }
    }
}

#[tokio::main]
async fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let result = match &arguments.endpoint_url {
        None => measure(&arguments, CountingStore::new(MemoryStore::new())).await,
        Some(url) => measure_on(&arguments, url).await,
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Measures on a table at `url`, and removes the table whatever happens.
async fn measure_on(arguments: &Arguments, url: &str) -> Result<(), Failure> {
    let unnamed = ["AWS_ACCESS_KEY_ID", "AWS_PROFILE"]
        .iter()
        .all(|name| std::env::var_os(name).is_none());
    if unnamed && ScratchTable::is_local(url) {
        eprintln!(
            "note: no credentials in the environment. An emulator takes any: \
             AWS_ACCESS_KEY_ID=test AWS_SECRET_ACCESS_KEY=test AWS_REGION=us-east-1"
        );
    }
    let region = arguments.region.as_deref();
    let table = ScratchTable::connect("quickstart", url, region).await?;
    let name = table.store().table_name().to_owned();
    eprintln!("creating the table {name} on {url}");
    let measured = async {
        table.create().await?;
        measure(arguments, CountingStore::new(table.store())).await
    };
    let result = tokio::select! {
        result = measured => result,
        () = interrupted() => Err("interrupted".into()),
    };
    eprintln!("removing the table {name}");
    if let Err(error) = table.remove().await {
        eprintln!("error: {error}; the table {name} may still be there: remove it by hand");
    }
    result
}

async fn interrupted() {
    if signal::ctrl_c().await.is_err() {
        std::future::pending().await // cannot be told: then the user has other means
    }
}

async fn measure(arguments: &Arguments, store: CountingStore) -> Result<(), Failure> {
    let rate = arguments.rate();
    let wide = Limit::per_second("rps", 1_000_000_000)?;
    let limit = Limit::per_second("rps", rate)?;
    println!("{} limiters share one bucket.\n", arguments.limiters);
    let mut report = Report::new(rate);
    for (mode_name, kind) in [("strict", Mode::Strict), ("leased", Mode::leased())] {
        for (load_name, load, limit) in [
            ("as fast as it goes, limit far away", Load::Unpaced, &wide),
            ("half the limit", Load::PerSecond(rate / 2), &limit),
            ("twice the limit", Load::PerSecond(rate * 2), &limit),
        ] {
            eprintln!("measuring {mode_name}, {load_name} ...");
            let fleet = Fleet::connect(arguments.limiters, kind, &store).await?;
            // A bucket of its own for each, full at first.
            let entity_id = format!("api-key-{mode_name}-{load_name}").replace([' ', ','], "-");
            let length = Duration::from_secs(arguments.seconds);
            let tally = fleet.load(&entity_id, limit, load, length).await?;
            let (mode, load, limit) = (mode_name, load_name, limit.clone());
            report.add(Row {
                mode,
                load,
                limit,
                ahead: ahead(kind),
                tally,
            });
            fleet.shutdown().await;
        }
    }
    report.print();
    show_a_rejection(&store).await?;
    report.verdict()
}

/// How much of the coming refill a mode may spend before it has come in.
fn ahead(mode: Mode) -> Duration {
    match mode {
        Mode::Strict => Duration::ZERO,
        Mode::Leased(LeasedOptions { lease_ttl_ms, .. }) => Duration::from_millis(lease_ttl_ms),
    }
}

async fn show_a_rejection(store: &CountingStore) -> Result<(), Failure> {
    let fleet = Fleet::connect(1, Mode::leased(), store).await?;
    let limits = [Limit::per_minute("rpm", 3)?];
    println!("\nA limit of 3 per minute, and a fourth request:");
    for request in 1..=4 {
        let acquire = fleet
            .first()
            .acquire("api-key-123", "search")
            .limits(&limits);
        match acquire.consume("rpm", 1).await {
            Ok(lease) => println!(
                "  request {request}: admitted, consumed {:?}",
                lease.consumed()
            ),
            Err(error) => {
                println!("  request {request}: {error}");
                let exceeded = error.as_exceeded().ok_or("not the error that was meant")?;
                println!(
                    "  retry_after() = {:.3} s",
                    exceeded.retry_after().as_secs_f64()
                );
            }
        }
    }
    fleet.shutdown().await;
    Ok(())
}
