//! What an acquire costs, beside governor's keyed check, and strict beside leased mode.
//!
//! Criterion measures each by itself; then those that are compared take turns in short rounds,
//! and the run ends with the table of their ratios, also in `target/ratios.json`.

mod distant;
mod local;
mod peers;
mod timing;

use std::error::Error;
use std::time::Duration;

use criterion::Criterion;
use zae_limiter_bench::{Claim, Claims, Contestant, Keys, compare};

use distant::Distant;
use local::Local;
use peers::{governor, governor_ahash};

/// How many keys there are where there is not one hot one.
const MANY: usize = 10_000;
/// How many rounds a comparison has, and how long a turn takes.
const ROUNDS: usize = 200;
const TURN: Duration = Duration::from_millis(5);
/// The same for what waits for a store.
const DISTANT_ROUNDS: usize = 20;
const DISTANT_TURN: Duration = Duration::from_millis(100);

fn main() -> Result<(), Box<dyn Error>> {
    let mut criterion = Criterion::default()
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(1))
        .sample_size(30)
        .configure_from_args();
    let (hot, many) = (Keys::new(1), Keys::new(MANY));
    let local = Local::new(&hot, &many)?;
    let writes = local.writes();
    measure_local(&mut criterion, &local, &hot, &many)?;
    let mut claims = Claims::default();
    // With a filter, or to try or profile, criterion's part is all that is wanted.
    let complete = std::env::args()
        .skip(1)
        .all(|argument| argument == "--bench");
    if complete {
        compare_local(&mut claims, &local, &hot, &many)?;
    }
    let written = local.writes() - writes;
    if written > 0 {
        return Err(format!("{written} writes while hits were measured: they were no hits").into());
    }
    local.shutdown();
    if !complete {
        return Ok(());
    }
    compare_distant(&mut criterion, &mut claims)?;
    criterion.final_summary();
    println!("\n{}", claims.table());
    println!(
        "A and B took turns; the ratio is the median of {ROUNDS} rounds ({DISTANT_ROUNDS} on a store)."
    );
    println!("also in {}", claims.write_json()?.display());
    Ok(())
}

fn measure_local(
    criterion: &mut Criterion,
    local: &Local,
    hot: &Keys,
    many: &Keys,
) -> Result<(), Box<dyn Error>> {
    let two = &local.two_limits;
    measure(
        criterion,
        "one thread",
        [
            local.hit("hit, one limit, hot key", hot, &local.one_limit, 1),
            local.hit("hit, two limits, hot key", hot, two, 1),
            local.hit("hit, two limits, 10,000 keys", many, two, 1),
            local.awaited("hit, two limits, awaited, hot key", hot),
            local.awaited("hit, two limits, awaited, 10,000 keys", many),
            local.cascade("hit, two limits, cascade, hot key"),
            local.handle("hit, two limits, handle, hot key", hot, 1)?,
            local.handle("hit, two limits, handle, 10,000 keys", many, 1)?,
            governor("governor, one limit, hot key", hot, 1),
            governor("governor, one limit, 10,000 keys", many, 1),
            governor_ahash("governor with ahash, one limit, 10,000 keys", many, 1),
            local.refusal("refusal, one limit, hot key", hot),
            local.available("available, two limits, hot key", hot),
            local.strict("strict in memory, two limits, hot key", hot),
        ],
    );
    measure(
        criterion,
        "two threads",
        [
            local.hit("hit, two limits, hot key", hot, two, 2),
            local.hit("hit, two limits, 10,000 keys", many, two, 2),
            local.handle("hit, two limits, handle, hot key", hot, 2)?,
            local.handle("hit, two limits, handle, 10,000 keys", many, 2)?,
            governor("governor, one limit, hot key", hot, 2),
            governor("governor, one limit, 10,000 keys", many, 2),
        ],
    );
    Ok(())
}

fn measure<'a>(
    criterion: &mut Criterion,
    group: &str,
    contestants: impl IntoIterator<Item = Contestant<'a>>,
) {
    let mut group = criterion.benchmark_group(group);
    for mut contestant in contestants {
        let name = contestant.name().to_owned();
        group.bench_function(name, |bencher| {
            bencher.iter_custom(|times| contestant.run(times))
        });
    }
    group.finish();
}

fn compare_local(
    claims: &mut Claims,
    local: &Local,
    hot: &Keys,
    many: &Keys,
) -> Result<(), Box<dyn Error>> {
    let two = &local.two_limits;
    let mut add = |what: &str, mut a: Contestant<'_>, mut b: Contestant<'_>, claim| {
        eprintln!("comparing {what} ...");
        claims.add(what, &compare(&mut a, &mut b, ROUNDS, TURN), claim);
    };
    add(
        "leased hit, two limits, string keys, 10,000 keys vs governor keyed check of one limit",
        local.hit("hit", many, two, 1),
        gov(many, 1),
        Claim::AtMost(0.8),
    );
    add(
        "the same through a handle",
        local.handle("handle", many, 1)?,
        gov(many, 1),
        Claim::AtMost(0.3),
    );
    let open = Claim::None;
    add(
        "the same, awaited",
        local.awaited("awaited", many),
        gov(many, 1),
        open,
    );
    add(
        "the same, two threads",
        local.hit("hit", many, two, 2),
        gov(many, 2),
        open,
    );
    add(
        "handle, two threads",
        local.handle("handle", many, 2)?,
        gov(many, 2),
        open,
    );
    add("hot key", local.hit("hit", hot, two, 1), gov(hot, 1), open);
    add(
        "hot key, one limit",
        local.hit("hit", hot, &local.one_limit, 1),
        gov(hot, 1),
        open,
    );
    add(
        "hot key, handle",
        local.handle("handle", hot, 1)?,
        gov(hot, 1),
        open,
    );
    add(
        "hot key, two threads",
        local.hit("hit", hot, two, 2),
        gov(hot, 2),
        open,
    );
    add(
        "10,000 keys vs governor with ahash",
        local.hit("hit", many, two, 1),
        governor_ahash("governor", many, 1),
        open,
    );
    Ok(())
}

fn gov(keys: &Keys, threads: usize) -> Contestant<'_> {
    governor("governor", keys, threads)
}

fn compare_distant(criterion: &mut Criterion, claims: &mut Claims) -> Result<(), Box<dyn Error>> {
    let distant = Distant::connect()?;
    let (mut strict, mut leased) = (distant.strict(), distant.leased());
    let mut group = criterion.benchmark_group(format!("on {}", distant.place));
    group
        .sample_size(10)
        .bench_function("strict, two limits", |bencher| {
            bencher.iter_custom(|times| strict.run(times));
        });
    group.bench_function("leased, two limits", |bencher| {
        bencher.iter_custom(|times| leased.run(times));
    });
    group.finish();
    let what = format!(
        "strict vs leased, same endpoint ({}), time per acquire",
        distant.place
    );
    eprintln!("comparing {what} ...");
    let before = distant.writes();
    let measured = compare(&mut strict, &mut leased, DISTANT_ROUNDS, DISTANT_TURN);
    if distant.writes() == before {
        return Err("strict acquires made no writes: they were not strict".into());
    }
    claims.add(what, &measured, Claim::AtLeast(10_000.0));
    Ok(())
}
