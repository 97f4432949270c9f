//! Models of what threads do at once to a fast balance and to a bucket. loom runs each model in every order
//! in which its threads can take their steps, and with every value that a relaxed load may return. Large
//! models are bounded by [`PREEMPTIONS`].
//!
//! The models run the code that ships. The bugs in [`Misordering`] show that they can fail.
//!
//! loom watches the atomics and the lock in `sync.rs`. It does not watch reference counts and the clock.

#![allow(clippy::unwrap_used)]
#![allow(clippy::disallowed_methods)] // it measures how long the models take

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use loom::thread;

use crate::bucket::Bucket;
use crate::fast_balance::{COUNTERS, FastBalance, FastBalances, Filling, Payment};
use crate::policy::{Asks, Decision, Pace, Policy, Sample, View};
use crate::renewal::{Outcome, RenewalSettings, Step, Why};
use crate::sabotage::Misordering;
use crate::sync::AtomicU32;
use crate::{
    Ask, BucketKey, BucketRef, Charges, Clock, Limit, ManualClock, Now, Payer, Request, Settled,
    Tick, estimate, item,
};

mod balance;
mod bucket;

/// Explores only interleavings in which at most so many threads are stopped that could go on.
const PREEMPTIONS: Option<usize> = Some(2);
/// Explores all interleavings.
const UNBOUNDED: Option<usize> = None;

/// What is wrong. A model returns it: a panic would unwind through atomics that loom watches.
type Violation = String;
type Model = fn() -> Result<(), Violation>;

/// Explores a model; how many interleavings that took, and the violation if one was found.
fn explore(preemptions: Option<usize>, model: Model) -> (u64, Option<Violation>) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = preemptions;
    let (started, runs) = (Instant::now(), Arc::new(AtomicU64::new(0)));
    let count = runs.clone();
    let explored = catch_unwind(AssertUnwindSafe(|| {
        builder.check(move || {
            count.fetch_add(1, Ordering::Relaxed);
            if let Err(violation) = model() {
                std::panic::panic_any(violation);
            }
        });
    }));
    let runs = runs.load(Ordering::Relaxed);
    println!("{runs} interleavings in {:.1?}", started.elapsed());
    let raised = explored.err();
    let violation = raised.map(|raised| match raised.downcast::<Violation>() {
        Ok(violation) => *violation,
        Err(other) => std::panic::resume_unwind(other), // a deadlock, say
    });
    (runs, violation)
}

fn assert_holds(preemptions: Option<usize>, model: Model) {
    let (runs, violation) = explore(preemptions, model);
    assert_eq!(violation, None, "in interleaving {runs}");
}

fn assert_finds(bug: Misordering, preemptions: Option<usize>, model: Model) {
    Misordering::plant(Some(bug));
    let (_, violation) = explore(preemptions, model);
    Misordering::plant(None);
    match violation {
        Some(violation) => println!("{bug:?}: {violation}"),
        None => panic!("{bug:?} was not found"),
    }
}
