//! Runs a [`Machine`] on tokio: makes its writes, keeps its time, wakes waiting callers. No policy.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::{self, JoinSet};
use tokio::time;
use zae_limiter_core::item::BucketWrite;
use zae_limiter_core::plan::Plan;
use zae_limiter_core::renewal::RenewalSettings;
use zae_limiter_core::{Bucket, Limit, MonotonicTime};

use super::machine::{Action, Machine};
use super::report::ShutdownReport;
use crate::engine::Engine;
use crate::store::{StoreError, StoreErrorKind, WriteOutcome};

/// How long the process holds on to its blocks when a limiter is dropped without a shutdown.
pub(crate) const DROP_DEADLINE: Duration = Duration::from_secs(2);
/// The longest that a shutdown takes. More would overflow clocks.
const DEADLINE_MAX: Duration = Limit::PERIOD_MAX;

/// How long the table may take to answer a probe.
const PROBE_TIMEOUT: Duration = Duration::from_millis(500);

/// The running reconciler of one limiter. Dropping it lets it give everything back in the
/// background.
#[derive(Debug)]
pub(crate) struct Driver {
    /// When the shutdown that was asked for is to be over.
    deadline: watch::Sender<Option<time::Instant>>,
    report: watch::Receiver<Option<ShutdownReport>>,
}

impl Driver {
    pub(crate) fn start(engine: Arc<Engine>) -> Self {
        let (deadline, closing) = watch::channel(None);
        let (reported, report) = watch::channel(None);
        tokio::spawn(async move {
            let report = run(engine, closing).await;
            reported.send_replace(Some(report));
        });
        Self { deadline, report }
    }

    /// Gives everything back within `deadline`, or what is left of an earlier one if that is less.
    /// None if the reconciler has ended without a report: its runtime has, or it has panicked.
    pub(crate) async fn close(&self, deadline: Duration) -> Option<ShutdownReport> {
        let deadline = time::Instant::now() + deadline.min(DEADLINE_MAX);
        self.deadline.send_if_modified(|earlier| {
            let sooner = earlier.is_none_or(|earlier| deadline < earlier);
            if sooner {
                *earlier = Some(deadline);
            }
            sooner
        });
        let mut report = self.report.clone();
        let report = report.wait_for(Option::is_some).await;
        report.ok().and_then(|report| *report)
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        // A shutdown that nobody waits for any more keeps its deadline.
        self.deadline.send_if_modified(|earlier| {
            let dropped = earlier.is_none();
            if dropped {
                *earlier = Some(time::Instant::now() + DROP_DEADLINE);
            }
            dropped
        });
    }
}

/// What the driver has asked of the table.
enum Answer {
    Write(Arc<Bucket>, WriteOutcome),
    Probe(Result<(), StoreError>),
}

/// The requests under way, and what is to be said if one of them panics: a bucket would else wait
/// for ever for the end of its write.
#[derive(Default)]
struct Requests {
    tasks: JoinSet<Answer>,
    writes: HashMap<task::Id, Arc<Bucket>>,
}

impl Requests {
    fn probe(&mut self, engine: Arc<Engine>) {
        let probe = async move { Answer::Probe(probe(&engine).await) };
        self.tasks.spawn(probe);
    }

    fn write(&mut self, engine: Arc<Engine>, bucket: Arc<Bucket>, write: BucketWrite) {
        let written = bucket.clone();
        let write = async move {
            let outcome = engine.ask(bucket.key(), &write).await;
            Answer::Write(bucket, outcome)
        };
        let id = self.tasks.spawn(write).id();
        self.writes.insert(id, written);
    }

    /// The next answer; none if nothing was asked.
    async fn answer(&mut self) -> Option<Answer> {
        match self.tasks.join_next_with_id().await? {
            Ok((id, answer)) => {
                self.writes.remove(&id);
                Some(answer)
            }
            Err(error) => {
                tracing::error!(%error, "a request to the table has panicked");
                let id = error.id();
                let error = StoreError::new(StoreErrorKind::Invalid, error.to_string());
                Some(match self.writes.remove(&id) {
                    Some(bucket) => Answer::Write(bucket, WriteOutcome::Unknown(error)),
                    None => Answer::Probe(Err(error)),
                })
            }
        }
    }
}

async fn run(
    engine: Arc<Engine>,
    mut closing: watch::Receiver<Option<time::Instant>>,
) -> ShutdownReport {
    let leased = &engine.leased;
    let settings = RenewalSettings::new(leased.renewal_interval(), leased.lease_ttl());
    let seed = fastrand::u64(..);
    let mut machine = Machine::new(settings, engine.idle_ttl, engine.breaker.clone(), seed);
    let mut requests = Requests::default();
    let mut deadline = None;
    let mut answering = true;
    loop {
        if answering == engine.breaker.is_open() {
            answering = !answering;
            engine.table_is(answering);
        }
        while let Some(bucket) = engine.next_to_renew() {
            let action = machine.look(&engine.clock, bucket);
            act(&engine, &mut requests, action);
        }
        while let Some(action) = machine.tick(&engine.clock) {
            act(&engine, &mut requests, Some(action));
        }
        if deadline.is_some() && machine.watched() == 0 && !engine.has_background_work() {
            break;
        }
        tokio::select! {
            biased; // an answer that is there at the deadline counts
            Some(answer) = requests.answer() => match answer {
                Answer::Write(bucket, outcome) => {
                    let action = machine.done(&engine.clock, bucket.clone(), outcome);
                    act(&engine, &mut requests, action);
                    engine.wake(&bucket);
                }
                Answer::Probe(result) => {
                    engine.counters.probes.add_one();
                    machine.probed(&engine.clock, result);
                }
            },
            () = expired(deadline) => break,
            Ok(()) = closing.changed() => {
                deadline = *closing.borrow_and_update();
                engine.close();
                engine.wake_all(); // nobody is served any more
                let within = deadline.map_or(Duration::ZERO, |at| {
                    at.saturating_duration_since(time::Instant::now())
                });
                let closes_by = engine.clock.now().after(within);
                machine.close(&engine.clock, closes_by, engine.cache.all());
            }
            () = engine.bell.notified() => {}
            () = until(&engine, machine.next_due()) => {}
        }
    }
    engine.wake_all();
    let report = machine.report(engine.cache.all());
    if !report.is_complete() {
        tracing::warn!(
            limiter = engine.name,
            ?report,
            "not everything was given back before the deadline"
        );
    }
    report
}

fn act(engine: &Arc<Engine>, requests: &mut Requests, action: Option<Action>) {
    match action {
        None => {}
        Some(Action::Forget(bucket)) => {
            engine.cache.forget(&bucket);
        }
        Some(Action::Write(bucket, Plan { write, .. })) => {
            requests.write(engine.clone(), bucket, write);
        }
        Some(Action::Probe) => requests.probe(engine.clone()),
    }
}

/// Whether the table answers. Soon: while it is not known, nobody is served.
async fn probe(engine: &Engine) -> Result<(), StoreError> {
    let answer = time::timeout(PROBE_TIMEOUT, engine.store.check()).await;
    answer.unwrap_or_else(|_| {
        let message = format!("no answer from {} within {PROBE_TIMEOUT:?}", engine.name);
        Err(StoreError::new(StoreErrorKind::Unreachable, message))
    })
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
