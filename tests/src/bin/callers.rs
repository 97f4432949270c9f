//! Plays sequences of calls of the public surface against a model of what is promised, in memory or on DynamoDB.

use std::process::ExitCode;
use std::thread;
use std::time::Instant;

use clap::Parser;
use indicatif::{ProgressBar, ProgressStyle};
use zae_limiter::store::MemoryStore;
use zae_limiter_tests::callers::{self, Batch, DynamoDbTable, Sequence, Table};

/// Plays sequences of calls of the public surface against a model of what is promised.
#[derive(Parser)]
struct Options {
    /// The first seed.
    #[arg(long, default_value_t = 0)]
    from: u64,
    /// How many sequences.
    #[arg(long, default_value_t = 10_000)]
    sequences: u64,
    /// One sequence: what it does, how it ends, and what it breaks.
    #[arg(long)]
    seed: Option<u64>,
    /// How many failures end it.
    #[arg(long, default_value_t = 5)]
    failures: usize,
    /// Play on DynamoDB at this endpoint, in tables of its own. In memory if none.
    #[arg(long)]
    endpoint_url: Option<String>,
    /// How many sequences are played at once; one per processor if none.
    #[arg(long)]
    threads: Option<usize>,
}

impl Options {
    /// A table for one thread.
    fn table(&self) -> Box<dyn Table> {
        match &self.endpoint_url {
            Some(url) => Box::new(DynamoDbTable::create(url)),
            None => Box::new(MemoryStore::new()),
        }
    }
}

fn main() -> ExitCode {
    let options = Options::parse();
    if let Some(seed) = options.seed {
        println!("{:#?}", Sequence::random(seed));
        return match callers::play(seed, &*options.table()) {
            Ok(outcome) => {
                println!("{outcome:#?}");
                ExitCode::SUCCESS
            }
            Err(failure) => end([failure.to_string()]),
        };
    }
    let done = ProgressBar::new(options.sequences);
    if let Ok(style) = ProgressStyle::with_template("{bar:40} {pos} of {len} sequences, {eta}") {
        done.set_style(style);
    }
    let began = Instant::now();
    let batch = Batch {
        seeds: options.from..options.from + options.sequences,
        threads: options.threads.unwrap_or_else(processors),
        failures_max: options.failures,
    };
    let failures = batch.play(
        || options.table(),
        |seed, table| {
            let played = callers::play(seed, table);
            done.inc(1);
            played.map(drop).map_err(|failure| failure.to_string())
        },
    );
    let played = done.position();
    let per_second = played as f64 / began.elapsed().as_secs_f64();
    println!(
        "{played} sequences, {per_second:.0} per second, {} broken",
        failures.len()
    );
    end(failures)
}

fn processors() -> usize {
    thread::available_parallelism().map_or(1, usize::from)
}

fn end(failures: impl IntoIterator<Item = String>) -> ExitCode {
    let mut code = ExitCode::SUCCESS;
    for failure in failures {
        println!("{failure}");
        code = ExitCode::FAILURE;
    }
    code
}
