//! What the reconciler does with one bucket, as pure steps: [`Bucket::check`](crate::Bucket::check) says what
//! is to happen, the embedder makes the write, [`Bucket::complete`](crate::Bucket::complete) takes its
//! outcome in.
//!
//! One renewal is one write. It gives back what is unspent, takes the next block, reports
//! consumption and settles adjustments, as one net change. While it is under way the process
//! goes on spending what it keeps in any case.

use std::any::Any;
use std::sync::Arc;
use std::time::Duration;

use crate::MonotonicTime;
use crate::kernel::item::BucketItem;
use crate::kernel::plan::Plan;
use crate::policy::{MakePolicy, Pace, Steering};
use crate::sabotage::Sabotage;

/// What the reconciler is set to.
#[derive(Clone, Copy, Debug)]
pub struct RenewalSettings {
    /// How often a block in use is renewed.
    pub renewal: Duration,
    /// How long a block is spendable.
    pub lease_ttl: Duration,
    /// How long a write takes, as measured.
    pub latency: Duration,
    /// Drawn anew for every pause, from 0 to 1: processes that fail together do not come back
    /// together.
    pub jitter: f64,
    /// What decides how much is taken, and when. Default: [`Steering`].
    pub policy: MakePolicy,
}

/// How long a write is taken to need before one was measured.
const LATENCY_GUESS: Duration = Duration::from_millis(10);

impl RenewalSettings {
    /// For blocks that are renewed so often and spendable for so long.
    #[must_use]
    pub fn new(renewal: Duration, lease_ttl: Duration) -> Self {
        Self {
            renewal,
            lease_ttl,
            latency: LATENCY_GUESS,
            jitter: 0.0,
            policy: Steering::boxed,
        }
    }

    /// A write has taken so long. What is more than an eighth of a renewal period was not for the write: the
    /// process stood still, or the table.
    pub fn learn_latency(&mut self, took: Duration) {
        let took = took.min(self.renewal / 8);
        self.latency = (self.latency * 7 + took) / 8;
    }

    /// How fast things are to go for a bucket. If its writes are throttled: fewer and larger ones. No larger
    /// than that: what is reserved for so long, others do not have when it is over.
    pub(crate) fn pace(&self, throttled: bool) -> Pace {
        let stretched = (self.renewal * 2).min(self.lease_ttl / 2);
        Pace {
            renewal: if throttled {
                stretched.max(self.renewal)
            } else {
                self.renewal
            },
            lease_ttl: self.lease_ttl,
            latency: self.latency,
        }
    }

    /// How long to wait after so many failures in a row: at most two renewal periods, so that what
    /// is over is soon known to be.
    fn pause(&self, failures: u32) -> Duration {
        let longest = self.renewal / 4 * 2u32.pow(failures.min(3));
        longest.mul_f64(0.5 + 0.5 * self.jitter)
    }
}

/// What is to happen with a bucket.
#[derive(Clone, Debug)]
pub enum Step {
    /// Make this write and report its outcome with [`Bucket::complete`](crate::Bucket::complete).
    Write(Plan),
    /// Look again then, or when told.
    Wait(MonotonicTime),
    /// Nothing is held and nothing is owed: the bucket may be forgotten.
    Idle,
}

/// How a write ended.
#[derive(Clone, Debug)]
pub enum Outcome {
    /// It was applied, and left this.
    Applied(BucketItem),
    /// A guard did not hold; this was found.
    Refused(Option<BucketItem>),
    /// It was not applied, for a reason that has nothing to do with the bucket.
    Failed(Reason),
    /// It was not applied, because there are too many writes.
    Throttled,
    /// It may have been applied.
    Unknown(Reason),
}

/// Why a write has failed, in the embedder's own words.
pub type Reason = Arc<dyn Any + Send + Sync>;

/// Why a bucket is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// It is time, or somebody asked.
    Due,
    /// The process stops: everything is to be given back.
    Closing,
    /// The table cannot be reached: nothing is to be written until it can.
    Suspended,
}

/// How often one renewal is planned anew before it gives way.
const TRIES_MAX: u32 = 6;
/// How often a bucket is remembered to have been throttled at most.
const THROTTLED_MAX: u32 = 2;

/// When a bucket is not written to, for what became of its last writes.
#[derive(Debug, Default)]
pub(crate) struct Pauses {
    /// The table could not be reached; until then it is not asked again.
    unavailable_until: MonotonicTime,
    /// Why it is not asked.
    trouble: Option<Reason>,
    pub(crate) failures: u32,
    /// The table took no more writes; until then the next one waits, and its callers with it.
    throttled_until: MonotonicTime,
    /// How often that was, of late.
    throttled: u32,
    tries: u32,
}

impl Pauses {
    /// Whether the table could not be reached not long ago.
    pub(crate) fn is_unavailable(&self, now: MonotonicTime) -> bool {
        now < self.unavailable_until
    }

    /// Why, if so.
    pub(crate) fn trouble(&self, now: MonotonicTime) -> Option<Reason> {
        self.trouble.clone().filter(|_| self.is_unavailable(now))
    }

    /// Until when nothing is written.
    pub(crate) fn until(&self) -> MonotonicTime {
        self.unavailable_until.max(self.throttled_until)
    }

    pub(crate) fn is_throttled(&self) -> bool {
        self.throttled > 0
    }

    /// The table can be reached again.
    pub(crate) fn resume(&mut self) {
        self.unavailable_until = MonotonicTime::ZERO;
        self.failures = 0;
    }

    /// A write was applied; whether it was the one that was wanted.
    pub(crate) fn applied(&mut self, was_it: bool) {
        self.resume();
        self.throttled /= 2;
        self.trouble = None;
        if was_it {
            self.tries = 0;
        }
    }

    /// A guard did not hold; whether the write is to be planned anew at once.
    pub(crate) fn refused(&mut self, now: MonotonicTime, settings: &RenewalSettings) -> bool {
        self.tries += 1;
        if self.tries < TRIES_MAX {
            return true;
        }
        self.tries = 0;
        // The table answers, and somebody else was faster each time: no reason to tell callers that it
        // is out of reach. They wait a little longer.
        self.throttled_until = now.after(settings.pause(0));
        false
    }

    pub(crate) fn throttled(&mut self, now: MonotonicTime, settings: &RenewalSettings) {
        self.throttled_until = now.after(settings.pause(self.throttled));
        self.throttled = (self.throttled + 1).min(THROTTLED_MAX);
    }

    /// Nobody is answered from the table for a while.
    pub(crate) fn failed(
        &mut self,
        now: MonotonicTime,
        settings: &RenewalSettings,
        reason: Reason,
    ) {
        let pause = settings.pause(self.failures);
        self.trouble = Some(reason);
        self.failures = self.failures.saturating_add(1);
        self.unavailable_until = if Sabotage::PausedForEver.is_planted() {
            MonotonicTime::NEVER
        } else {
            now.after(pause)
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_that_stood_still_does_not_take_its_writes_for_slow() {
        let ms = Duration::from_millis;
        let mut settings = RenewalSettings::new(ms(1_000), ms(5_000));
        settings.learn_latency(ms(9_000));
        assert!(settings.latency < ms(30), "{:?}", settings.latency);
        for _ in 0..40 {
            settings.learn_latency(ms(40));
        }
        assert!(settings.latency > ms(35), "{:?}", settings.latency);
        for _ in 0..40 {
            settings.learn_latency(Duration::ZERO);
        }
        assert!(settings.latency < ms(1), "{:?}", settings.latency);
        for _ in 0..40 {
            settings.learn_latency(ms(8));
        }
        assert!(settings.latency > ms(7), "{:?}", settings.latency);
    }
}
