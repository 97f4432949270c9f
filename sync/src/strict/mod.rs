//! Strict mode: an acquire is one conditional write to each bucket that it charges.
//!
//! [`Payment`] and [`BucketPayment`] decide and never do I/O; the functions here make their
//! writes and hold no policy.

mod payment;

use std::sync::Arc;

use tokio::runtime::Handle;
use tokio::time;
use zae_limiter_core::{BucketRef, Charges, Limit};

use crate::engine::Engine;

pub use payment::{BucketPayment, Change, Due, Next, NextOfPayment, NotWritten, Payment};

/// Debits all buckets of `payment` or none, even if the caller loses interest; then what was
/// taken is given back.
pub(crate) async fn pay(
    engine: &Arc<Engine>,
    mut payment: Payment,
) -> Result<(), (usize, NotWritten)> {
    let (answer, answered) = tokio::sync::oneshot::channel();
    let (engine, runtime) = (engine.clone(), Handle::current());
    tokio::spawn(async move {
        let result = run(&engine, &mut payment).await;
        // Whether or not somebody is there to take it: if not, it is dropped.
        let _ = answer.send(result.map(|()| Paid {
            payment: Some((engine, payment)),
            runtime,
        }));
    });
    match answered.await {
        Ok(Ok(paid)) => {
            paid.claim();
            Ok(())
        }
        Ok(Err(error)) => Err(error),
        Err(_) => Err((0, NotWritten::Failed(None))),
    }
}

/// A payment on its way to the caller. If nobody takes it, it is given back.
struct Paid {
    payment: Option<(Arc<Engine>, Payment)>,
    runtime: Handle,
}

impl Paid {
    fn claim(mut self) {
        self.payment = None;
    }
}

impl Drop for Paid {
    fn drop(&mut self) {
        if let Some((engine, mut payment)) = self.payment.take() {
            payment.give_back();
            self.runtime.spawn(async move {
                let _ = run(&engine, &mut payment).await;
            });
        }
    }
}

async fn run(engine: &Engine, payment: &mut Payment) -> Result<(), (usize, NotWritten)> {
    let clock = &engine.clock;
    loop {
        match payment.next(clock) {
            NextOfPayment::Write(bucket, write) => {
                let outcome = engine.write(&bucket, &write).await;
                if let Some(bucket) = payment.done(clock, outcome) {
                    engine.tell(&bucket);
                }
            }
            NextOfPayment::Pause(attempt) => time::sleep(engine.backoff(attempt)).await,
            NextOfPayment::Done(result) => return result,
        }
    }
}

/// Makes one change of one bucket.
pub(crate) async fn change(
    engine: &Engine,
    change: Change,
    bucket: &BucketRef,
    limits: &[Limit],
    charges: &Charges,
) -> Result<(), NotWritten> {
    let clock = &engine.clock;
    let limits = engine.shared(limits);
    let due = Due::new(bucket.clone(), limits, charges.clone());
    let mut payment = BucketPayment::new(clock, change, due);
    loop {
        match payment.next(clock) {
            Next::Write(bucket, write) => {
                let outcome = engine.write(&bucket, &write).await;
                if payment.done(clock, outcome) {
                    engine.tell(&bucket);
                }
            }
            Next::Pause(attempt) => time::sleep(engine.backoff(attempt)).await,
            Next::Done(result) => return result,
        }
    }
}
