//! Doing something many times, on one thread or on several at once.

use std::sync::Barrier;
use std::thread;
use std::time::{Duration, Instant};

use zae_limiter_bench::Contestant;

/// A contestant that does `once` on `threads` threads at once.
///
/// `once` is handed the number of the step, and says whether it went as it should; the bench ends
/// if not, for what was measured was then something else.
pub(crate) fn contestant<'a>(
    name: &str,
    threads: usize,
    once: impl Fn(usize) -> bool + Sync + 'a,
) -> Contestant<'a> {
    let described = name.to_owned();
    Contestant::new(name, move |times| {
        let (took, failed) = time(threads, times, &once);
        assert!(
            failed == 0,
            "{described}: {failed} of {times} did not go as they should"
        );
        took
    })
}

fn time(threads: usize, times: u64, once: &(impl Fn(usize) -> bool + Sync)) -> (Duration, u64) {
    if threads == 1 {
        let (from, to, failed) = turn(0, times, once);
        return (to - from, failed);
    }
    let together = Barrier::new(threads);
    let each = times.div_ceil(threads as u64);
    let turns: Vec<_> = thread::scope(|scope| {
        let one = |at: usize| {
            let together = &together;
            scope.spawn(move || {
                together.wait();
                // Far apart in the order of the keys.
                turn(at * 31_337, each, once)
            })
        };
        let running: Vec<_> = (0..threads).map(one).collect();
        running
            .into_iter()
            .map(|turn| turn.join().expect("a turn does not panic"))
            .collect()
    });
    let from = turns.iter().map(|turn| turn.0).min().expect("a thread");
    let to = turns.iter().map(|turn| turn.1).max().expect("a thread");
    (to - from, turns.iter().map(|turn| turn.2).sum())
}

#[inline(never)]
fn turn(
    start: usize,
    times: u64,
    once: &(impl Fn(usize) -> bool + Sync),
) -> (Instant, Instant, u64) {
    let mut failed = 0;
    let from = Instant::now();
    for at in start..start + times as usize {
        failed += u64::from(!once(at));
    }
    (from, Instant::now(), failed)
}
