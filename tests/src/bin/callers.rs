//! Plays many sequences of what callers do with the public surface, or one again.

use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Instant;

use clap::Parser;
use indicatif::{ProgressBar, ProgressStyle};
use zae_limiter::store::MemoryStore;
use zae_limiter_tests::callers::{self, Sequence};

/// Callers who do whatever the public surface lets them do, against a model of what is promised.
#[derive(Parser)]
struct Options {
    /// The first seed.
    #[arg(long, default_value_t = 0)]
    from: u64,
    /// How many sequences.
    #[arg(long, default_value_t = 10_000)]
    sequences: u64,
    /// One sequence: what it does, and what it breaks.
    #[arg(long)]
    seed: Option<u64>,
    /// How many failures end it.
    #[arg(long, default_value_t = 5)]
    failures: usize,
}

fn main() -> ExitCode {
    let options = Options::parse();
    if let Some(seed) = options.seed {
        println!("{:#?}", Sequence::random(seed));
        return end(callers::play(seed, &MemoryStore::new())
            .err()
            .map(|failure| failure.to_string()));
    }
    let (next, done) = (AtomicU64::new(0), ProgressBar::new(options.sequences));
    if let Ok(style) = ProgressStyle::with_template("{bar:40} {pos} of {len} sequences, {eta}") {
        done.set_style(style);
    }
    let began = Instant::now();
    let play = || {
        let mut failures = Vec::new();
        loop {
            let at = next.fetch_add(1, Ordering::Relaxed);
            if at >= options.sequences || failures.len() >= options.failures {
                return failures;
            }
            let failure = callers::play(options.from + at, &MemoryStore::new()).err();
            failures.extend(failure.map(|failure| failure.to_string()));
            done.inc(1);
        }
    };
    let threads = thread::available_parallelism().map_or(1, usize::from);
    let failures: Vec<String> = thread::scope(|scope| {
        let threads: Vec<_> = (0..threads).map(|_| scope.spawn(play)).collect();
        let joined = threads.into_iter().map(|thread| thread.join());
        joined
            .flat_map(|failures| failures.expect("it plays"))
            .collect()
    });
    let played = next.into_inner().min(options.sequences);
    let per_second = played as f64 / began.elapsed().as_secs_f64();
    println!(
        "{played} sequences, {per_second:.0} per second, {} broken",
        failures.len()
    );
    end(failures)
}

fn end(failures: impl IntoIterator<Item = String>) -> ExitCode {
    let mut code = ExitCode::SUCCESS;
    for failure in failures {
        println!("{failure}");
        code = ExitCode::FAILURE;
    }
    code
}
