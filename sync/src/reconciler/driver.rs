//! Runs a [`Machine`] on tokio: makes its writes, keeps its time, wakes who waits. No policy.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::oneshot;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time;
use zae_limiter_core::plan::Plan;
use zae_limiter_core::renewal::{Outcome, RenewalSettings};
use zae_limiter_core::{Bucket, MonotonicTime};

use super::machine::{Action, Machine};
use crate::engine::Engine;
use crate::store::WriteOutcome;

/// How long the process holds on to its blocks when a limiter is dropped without a shutdown.
const DROP_DEADLINE: Duration = Duration::from_secs(2);
/// How long a write takes until that has been measured.
const LATENCY_GUESS: Duration = Duration::from_millis(10);

/// How a shutdown went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Closed {
    /// Buckets whose tokens could not be given back in time. They are lost until refill heals
    /// it; nothing is ever admitted twice.
    pub unreturned: usize,
}

/// The running reconciler of one limiter. Dropping it lets it give everything back in the
/// background.
#[derive(Debug)]
pub(crate) struct Driver {
    close: Mutex<Option<oneshot::Sender<Duration>>>,
    task: Mutex<Option<JoinHandle<Closed>>>,
}

impl Driver {
    pub(crate) fn start(engine: Arc<Engine>) -> Self {
        let (close, closing) = oneshot::channel();
        let task = tokio::spawn(run(engine, closing));
        Self {
            close: Mutex::new(Some(close)),
            task: Mutex::new(Some(task)),
        }
    }

    /// Gives everything back, within `deadline`; none if that was asked for before.
    pub(crate) async fn close(&self, deadline: Duration) -> Option<Closed> {
        let close = self.close.lock().take()?;
        let task = self.task.lock().take()?;
        let _ = close.send(deadline);
        Some(task.await.unwrap_or_else(|error| {
            tracing::error!(%error, "the reconciler has ended before its time");
            Closed { unreturned: 0 }
        }))
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        if let Some(close) = self.close.lock().take() {
            let _ = close.send(DROP_DEADLINE);
        }
    }
}

type Writes = JoinSet<(Arc<Bucket>, WriteOutcome)>;

async fn run(engine: Arc<Engine>, mut closing: oneshot::Receiver<Duration>) -> Closed {
    let settings = RenewalSettings {
        renewal: engine.leased.renewal_interval(),
        lease_ttl: engine.leased.lease_ttl(),
        latency: LATENCY_GUESS,
    };
    let mut machine = Machine::new(settings, engine.idle_ttl);
    let mut writes = Writes::new();
    let mut deadline = None;
    loop {
        while let Some(bucket) = engine.told() {
            let action = machine.look(&engine.clock, bucket);
            act(&engine, &mut writes, action);
        }
        while let Some(action) = machine.tick(&engine.clock) {
            act(&engine, &mut writes, Some(action));
        }
        if deadline.is_some() && writes.is_empty() {
            break;
        }
        tokio::select! {
            Some(ended) = writes.join_next() => match ended {
                Ok((bucket, outcome)) => {
                    let outcome = judge(&engine, outcome);
                    let action = machine.done(&engine.clock, bucket.clone(), outcome);
                    act(&engine, &mut writes, action);
                    engine.waiting_for(&bucket).notify_waiters();
                }
                Err(error) => tracing::error!(%error, "a write has panicked"),
            },
            () = engine.bell.notified() => {}
            () = until(&engine, machine.next_due()) => {}
            within = &mut closing, if deadline.is_none() => {
                let within = within.unwrap_or(DROP_DEADLINE);
                deadline = Some(time::Instant::now() + within);
                engine.close();
                machine.close(&engine.clock, engine.cache.all());
            }
            () = expired(deadline) => break,
        }
    }
    engine.wake_all();
    let unreturned = machine.writing();
    if unreturned > 0 {
        tracing::warn!(
            limiter = engine.name,
            unreturned,
            "not all blocks were given back in time"
        );
    }
    Closed { unreturned }
}

fn act(engine: &Arc<Engine>, writes: &mut Writes, action: Option<Action>) {
    match action {
        None => {}
        Some(Action::Forget(bucket)) => {
            engine.cache.forget(&bucket);
        }
        Some(Action::Write(bucket, Plan { write, .. })) => {
            let store = engine.store.clone();
            writes.spawn(async move {
                let outcome = store.write_bucket(bucket.key(), &write).await;
                (bucket, outcome)
            });
        }
    }
}

fn judge(engine: &Engine, outcome: WriteOutcome) -> Outcome {
    match outcome {
        WriteOutcome::Applied(item) => {
            engine.answered();
            Outcome::Applied(item)
        }
        WriteOutcome::Refused(found) => {
            engine.answered();
            Outcome::Refused(found)
        }
        WriteOutcome::Failed(error) => {
            engine.failed(error);
            Outcome::Failed
        }
        WriteOutcome::Unknown(error) => {
            engine.failed(error);
            Outcome::Unknown
        }
    }
}

async fn until(engine: &Engine, due: Option<MonotonicTime>) {
    match due {
        // Rounded up: the runtime's clock may be a little behind ours.
        Some(due) => time::sleep(due.since(engine.clock.now()) + Duration::from_micros(500)).await,
        None => std::future::pending().await,
    }
}

async fn expired(deadline: Option<time::Instant>) {
    match deadline {
        Some(deadline) => time::sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}
