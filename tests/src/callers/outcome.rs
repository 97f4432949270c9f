//! How a sequence ends: all leases are kept, all processes shut down, and the table is compared with the model.

use std::time::Duration;

use tokio::time;
use zae_limiter_core::estimate;

use super::model::{Broken, Counted};
use super::world::World;

/// Longer than any write takes that was begun.
const WRITES_END_WITHIN: Duration = Duration::from_secs(1);
const SHUTDOWN_WITHIN: Duration = Duration::from_secs(30);

/// What a sequence has come to. It is the same each time that it is played, on every table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// How long it took, in simulated time.
    pub elapsed: Duration,
    /// What was read after the setup.
    pub reads: u64,
    /// What was written after the setup.
    pub writes: u64,
    /// By entity and limit: the tokens that the table holds, and those that it has counted as consumed.
    pub limits: Vec<(&'static str, String, Counted)>,
}

impl World {
    pub(super) async fn finish(&mut self) -> Result<Outcome, Broken> {
        self.heal();
        time::sleep(WRITES_END_WITHIN).await;
        for lease in std::mem::take(&mut self.leases) {
            self.check_and_commit(lease).await?;
        }
        for limiter in &self.limiters {
            let report = limiter.shutdown(SHUTDOWN_WITHIN).await;
            if self.model.returns_all() && !report.is_complete() {
                return Err(Broken(format!("not everything was given back: {report:?}")));
            }
        }
        let elapsed = Duration::from_nanos(self.now());
        let mut outcome = Outcome {
            elapsed,
            reads: self.table.reads(),
            writes: self.table.writes(),
            limits: Vec::new(),
        };
        for (entity, key) in self.entities.into_iter().zip(self.keys()) {
            let item = self.table.inner().read_bucket(&key).await;
            let item = item.expect("a table");
            for limit in &self.limits {
                let level = estimate::level(item.as_ref(), self.clock.wall(), limit);
                let stored = item.as_ref().and_then(|item| item.limit(limit.name()));
                let counted = Counted {
                    level: limit.terms().to_tokens(level),
                    usage: stored.map_or(0, |stored| stored.consumed),
                };
                let refilled_in = elapsed + self.ahead;
                self.model.finish(entity, limit, refilled_in, counted)?;
                let name = limit.name().to_owned();
                outcome.limits.push((entity, name, counted));
            }
        }
        Ok(outcome)
    }
}
