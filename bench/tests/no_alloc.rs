//! A leased hit allocates nothing, whichever way it is asked for.
//!
//! A test binary of its own, with one test: the allocator counts for the whole process.

use std::alloc::System;
use std::pin::pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};
use zae_limiter::{BucketHandle, Clock, LeasedOptions, Limit, Mode, RateLimiter};
use zae_limiter_bench::Keys;

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

const KEYS: usize = 10_000;
const HITS: usize = 100_000;
const HOUR_MS: u64 = 3_600_000;

/// How many allocations `hit` made in so many calls, all of which have to be hits.
fn allocations(mut hit: impl FnMut(usize) -> bool) -> usize {
    let region = Region::new(ALLOCATOR);
    let hits = (0..HITS).filter(|&at| hit(at)).count();
    let change = region.change();
    assert_eq!(hits, HITS, "not all were hits");
    change.allocations + change.reallocations
}

fn is_ready_at_once<T, E>(future: impl Future<Output = Result<T, E>>) -> bool {
    let polled = pin!(future).poll(&mut Context::from_waker(Waker::noop()));
    matches!(polled, Poll::Ready(Ok(_)))
}

// On one thread, so that the reconciler does nothing while hits are counted.
#[tokio::test(flavor = "current_thread")]
async fn a_leased_hit_allocates_nothing() {
    let options = LeasedOptions {
        renewal_interval_ms: HOUR_MS,
        lease_ttl_ms: 3 * HOUR_MS,
    };
    let (clock, hands) = Clock::manual();
    let builder = RateLimiter::builder("no-alloc").mode(Mode::Leased(options));
    let limiter = builder.clock(clock).in_memory().connect().await.unwrap();
    let limits = [
        Limit::per_second("rps", 1_000_000_000).unwrap(),
        Limit::per_second("tps", 1_000_000_000).unwrap(),
    ];
    let keys = Keys::new(KEYS);
    let mut handles: Vec<BucketHandle> = Vec::new();
    for round in 0..2 {
        for key in keys.names() {
            let acquire = limiter.acquire(key, "api").limits(&limits);
            // So much that the block that follows suffices for all hits.
            let warm = acquire
                .clone()
                .consume("rps", 1_000_000)
                .consume("tps", 10_000_000);
            drop(warm.await.unwrap());
            if round == 0 {
                handles.push(acquire.handle().await.unwrap());
            }
        }
        // Only a demand that lasts is provided for.
        hands.advance(Duration::from_millis(HOUR_MS / 20));
    }
    let acquire = |at| {
        let acquire = limiter.acquire(keys.at(at), "api").limits(&limits);
        acquire.consume("rps", 1).consume("tps", 10)
    };
    let consume = [("rps", 1), ("tps", 10)];
    let tried = allocations(|at| acquire(at).try_acquire().is_ok());
    let awaited = allocations(|at| is_ready_at_once(acquire(at).into_future()));
    let handle_tried = allocations(|at| handles[keys.index(at)].try_acquire(&consume).is_ok());
    let handle_awaited =
        allocations(|at| is_ready_at_once(handles[keys.index(at)].acquire(&consume)));
    assert_eq!(
        [tried, awaited, handle_tried, handle_awaited],
        [0; 4],
        "allocations in {HITS} hits each: try_acquire, acquire, and both through handles"
    );
    drop((handles, limiter));
    blocking_hits_allocate_nothing();
    // The counter counts at all.
    assert!(allocations(|at| !format!("{at}").is_empty()) >= HITS);
}

/// Its reconciler has a thread of its own, so hits stay far from what would make it renew.
fn blocking_hits_allocate_nothing() {
    let options = LeasedOptions {
        renewal_interval_ms: HOUR_MS,
        lease_ttl_ms: 3 * HOUR_MS,
    };
    let (clock, hands) = Clock::manual();
    let builder = RateLimiter::builder("no-alloc").mode(Mode::Leased(options));
    let builder = builder.clock(clock).in_memory();
    let limiter = builder.connect_blocking().expect("memory");
    let limits = [Limit::per_second("rps", 1_000_000_000).expect("a limit")];
    let acquire = || limiter.acquire("user", "api").limits(&limits);
    for _ in 0..2 {
        let warm = acquire().consume("rps", 100 * HITS as u64);
        warm.wait().expect("full").commit();
        hands.advance(Duration::from_millis(HOUR_MS / 20));
    }
    let handle = acquire().handle().expect("a bucket");
    std::thread::sleep(Duration::from_millis(100)); // what it has begun is done
    let waited = allocations(|_| acquire().consume("rps", 1).wait().is_ok());
    let tried = allocations(|_| acquire().consume("rps", 1).try_acquire().is_ok());
    let handle_waited = allocations(|_| handle.acquire(&[("rps", 1)]).is_ok());
    let handle_tried = allocations(|_| handle.try_acquire(&[("rps", 1)]).is_ok());
    assert_eq!(
        [waited, tried, handle_waited, handle_tried],
        [0; 4],
        "allocations in {HITS} blocking hits each: wait, try_acquire, and both through handles"
    );
}
