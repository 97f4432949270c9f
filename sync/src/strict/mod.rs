//! Strict mode: an acquire is one conditional write to each bucket that it charges.
//!
//! [`Payment`] and [`BucketPayment`] decide and never do I/O; the functions here make their
//! writes and hold no policy.

mod payment;

use std::sync::Arc;

use tokio::sync::oneshot;
use tokio::time::{self, Instant};
use zae_limiter_core::{BucketRef, Charges, Limit};

use crate::engine::Engine;

pub use payment::{BucketPayment, Change, Due, Next, NextOfPayment, NotWritten, Payment};

/// One change of one bucket that is to be made.
#[derive(Debug)]
pub(crate) struct BucketChange {
    pub(crate) change: Change,
    pub(crate) bucket: BucketRef,
    pub(crate) limits: Arc<[Limit]>,
    pub(crate) charges: Charges,
}

/// Debits all buckets of `payment` or none, even if the caller loses interest; then what was
/// taken is given back. Returns which incarnation of the item each bucket was debited from.
pub(crate) async fn pay(
    engine: &Arc<Engine>,
    mut payment: Payment,
) -> Result<[Option<u64>; 2], (usize, NotWritten)> {
    let its_engine = engine.clone();
    let answered = engine.spawn(async move {
        let result = run(&its_engine, &mut payment).await;
        // Whether or not somebody is there to take it: if not, it is dropped.
        result.map(|()| Paid(Some((its_engine, payment))))
    });
    match answered.await {
        Ok(Ok(mut paid)) => {
            // It is the caller's now.
            Ok(paid
                .0
                .take()
                .map_or([None; 2], |(_, payment)| payment.debited()))
        }
        Ok(Err(error)) => Err(error),
        Err(_) => Err((0, NotWritten::Failed(None))),
    }
}

/// A payment on its way to the caller. If nobody takes it, it is given back.
struct Paid(Option<(Arc<Engine>, Payment)>);

impl Drop for Paid {
    fn drop(&mut self) {
        if let Some((engine, mut payment)) = self.0.take() {
            payment.give_back();
            let its_engine = engine.clone();
            engine.spawn(async move {
                let _ = run(&its_engine, &mut payment).await;
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
                    engine.needs_renewal(&bucket);
                }
            }
            NextOfPayment::Pause(attempt) => time::sleep(engine.backoff(attempt)).await,
            NextOfPayment::Done(result) => return result,
        }
    }
}

/// Debits all the buckets, whatever they hold, or none; each debit has the number of a part. If that
/// cannot be, says which part is why. Goes on if nobody waits for its end.
pub(crate) fn debit_anyway(
    engine: &Arc<Engine>,
    debits: Vec<(usize, BucketChange)>,
) -> oneshot::Receiver<Result<(), (usize, NotWritten)>> {
    let its_engine = engine.clone();
    engine.spawn(async move {
        let deadline = Instant::now() + its_engine.acquire_timeout;
        let mut made = Vec::new();
        for (at, debit) in debits {
            let debited = match make(&its_engine, &debit, Some(deadline)).await {
                Ok(debited) => debited,
                Err(error) => {
                    for debit in made {
                        let (debit, debited): (BucketChange, _) = debit;
                        let change = Change::Credit(debited);
                        let _ = make(&its_engine, &BucketChange { change, ..debit }, None).await;
                    }
                    return Err((at, error));
                }
            };
            made.push((debit, debited));
        }
        Ok(())
    })
}

/// Credits the buckets. What surely cannot be credited now is left to the reconciler. It goes on if
/// nobody waits for its end.
pub(crate) fn credit(
    engine: &Arc<Engine>,
    credits: Vec<BucketChange>,
) -> Option<oneshot::Receiver<()>> {
    if credits.is_empty() {
        return None;
    }
    let its_engine = engine.clone();
    Some(engine.spawn(async move {
        for credit in credits {
            let _ = make(&its_engine, &credit, None).await;
            its_engine.wake(credit.bucket.bucket());
        }
    }))
}

/// Makes one change of one bucket; returns which incarnation of its item. No try is begun after the deadline.
async fn make(
    engine: &Engine,
    change: &BucketChange,
    deadline: Option<Instant>,
) -> Result<Option<u64>, NotWritten> {
    let clock = &engine.clock;
    let BucketChange {
        bucket,
        limits,
        charges,
        ..
    } = change;
    let due = Due::new(bucket.clone(), limits.clone(), charges.clone());
    let mut payment = BucketPayment::new(clock, change.change, due);
    loop {
        match payment.next(clock) {
            Next::Write(bucket, write) => {
                let outcome = engine.write(&bucket, &write).await;
                if payment.done(clock, outcome) {
                    engine.needs_renewal(&bucket);
                }
            }
            Next::Pause(attempt) => {
                let again = Instant::now() + engine.backoff(attempt);
                if deadline.is_some_and(|deadline| again > deadline) {
                    return Err(NotWritten::Failed(None));
                }
                time::sleep_until(again).await;
            }
            Next::Done(result) => return result.map(|()| payment.incarnation()),
        }
    }
}
