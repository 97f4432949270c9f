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
    /// The deadline of a shutdown: everything is to be given back by then. None in operation.
    pub closes_by: Option<MonotonicTime>,
}

/// The renewal period by which a shutdown is paced, whatever the configured one: a shutdown under
/// throttling must not write more because renewals are frequent, nor wait for longer than its
/// deadline because they are rare.
const CLOSING_PACE: Duration = Duration::from_secs(1);

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
            closes_by: None,
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

    /// When to try again after so many failures in a row: in at most two renewal periods, so that
    /// what is over is soon known to be.
    pub(crate) fn retry_at(&self, now: MonotonicTime, failures: u32) -> MonotonicTime {
        let renewal = self.closes_by.map_or(self.renewal, |_| CLOSING_PACE);
        let shortest = renewal / 4;
        let longest = shortest * 2u32.pow(failures.min(3));
        let pause = longest.mul_f64(0.5 + 0.5 * self.jitter);
        let left = self.closes_by.map_or(Duration::MAX, |by| by.since(now));
        // The last try has to come before the deadline, with time left for an answer.
        let pause = if pause > left / 4 * 3 && left > shortest {
            left.mul_f64(0.5 + 0.25 * self.jitter)
        } else {
            pause
        };
        now.after(pause)
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
    /// The table cannot be reached: nothing is to be written until it can.
    Suspended,
}

/// How often one renewal is planned anew before it gives way.
const TRIES_MAX: u32 = 6;
/// The same during a shutdown: nobody waits for the write. One refusal shows the item as it is, and
/// an old form of it takes one more write.
const CLOSING_TRIES_MAX: u32 = 3;
/// How often a bucket is remembered to have been throttled at most.
const THROTTLED_MAX: u32 = 2;

/// When a bucket is not written to, for what became of its last writes.
#[derive(Debug, Default)]
pub(crate) struct Pauses {
    /// The table could not be reached; until then it is not asked again.
    unavailable_until: MonotonicTime,
    /// Why it is not asked.
    trouble: Option<Reason>,
    failures: u32,
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
        let closing = settings.closes_by.is_some();
        let most = if closing {
            CLOSING_TRIES_MAX
        } else {
            TRIES_MAX
        };
        let Some(beyond) = self.tries.checked_sub(most) else {
            return true;
        };
        // A shutdown goes on with single tries, further and further apart.
        if !closing {
            self.tries = 0;
        }
        // The table answers, and somebody else was faster each time: no reason to tell callers that it
        // is out of reach. They wait a little longer.
        self.throttled_until = settings.retry_at(now, beyond);
        false
    }

    pub(crate) fn throttled(&mut self, now: MonotonicTime, settings: &RenewalSettings) {
        self.throttled_until = settings.retry_at(now, self.throttled);
        self.throttled = (self.throttled + 1).min(THROTTLED_MAX);
    }

    /// Nobody is answered from the table for a while.
    pub(crate) fn failed(
        &mut self,
        now: MonotonicTime,
        settings: &RenewalSettings,
        reason: Reason,
    ) {
        let retry_at = settings.retry_at(now, self.failures);
        self.trouble = Some(reason);
        self.failures = self.failures.saturating_add(1);
        self.unavailable_until = if Sabotage::PausedForEver.is_planted() {
            MonotonicTime::NEVER
        } else {
            retry_at
        };
    }

    /// A shutdown has begun: a pause ends no later than its first one, however rare renewals are.
    pub(crate) fn close(&mut self, now: MonotonicTime, settings: &RenewalSettings) {
        let latest = settings.retry_at(now, 0);
        self.unavailable_until = self.unavailable_until.min(latest);
        self.throttled_until = self.throttled_until.min(latest);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::item::LimitItem;
    use crate::{BucketCache, Clock, Limit, Payer, Request};

    proptest! {
        /// Whatever the jitter: a shutdown under throttling or failures writes at most ten times in
        /// 3 s, and tries once more shortly before the deadline.
        #[test]
        fn a_shutdown_is_paced_and_tries_once_more_before_the_deadline(
            jitter in prop::collection::vec(0.0..=1.0, 20), renewal_ms in 100u64..100_000,
            deadline_ms in 300u64..20_000, failures_max in 2u32..4,
        ) {
            let ms = Duration::from_millis;
            let mut settings = RenewalSettings::new(ms(renewal_ms), ms(renewal_ms * 5));
            let deadline = MonotonicTime::ZERO.after(ms(deadline_ms));
            settings.closes_by = Some(deadline);
            let mut now = MonotonicTime::ZERO;
            let mut tries = 0;
            let last = loop {
                settings.jitter = jitter[tries % jitter.len()];
                let next = settings.retry_at(now, u32::try_from(tries).unwrap().min(failures_max));
                tries += 1;
                prop_assert!(next.since(now) >= ms(100));
                prop_assert!(next.since(now) <= ms(250) * 2u32.pow(failures_max));
                if next >= deadline {
                    break now;
                }
                now = next;
            };
            prop_assert!(deadline.since(last) <= ms(250), "{last:?}");
            if deadline_ms <= 3_000 {
                prop_assert!(tries <= 10, "{tries}");
            }
        }
    }

    /// A write that is refused again and again is paced as well.
    #[test]
    fn refusals_during_a_shutdown_are_paced() {
        let (clock, hands) = Clock::manual();
        let limits: Arc<[Limit]> = [Limit::per_second("rps", 100).unwrap()].into();
        let bucket = BucketCache::new().get_or_insert("user", "api", &limits);
        let bucket = bucket.unwrap();
        let charges = Request::new(&limits, &[("rps", 7)]).charges().unwrap();
        bucket.give_back(&clock, Payer::Table(None), &limits, &charges);
        let mut settings = RenewalSettings::new(Duration::from_millis(100), Duration::from_secs(1));
        let deadline = clock.now().after(Duration::from_secs(3));
        settings.closes_by = Some(deadline);
        bucket.close(&clock, &settings);
        let mut writes = 0;
        let mut step = bucket.check(&clock, &settings, Why::Due);
        while clock.now() < deadline {
            step = match step {
                Step::Write(_) => {
                    writes += 1;
                    let limit = LimitItem {
                        terms: *limits[0].terms(),
                        z: 0,
                        consumed: 0,
                        ring: None,
                    };
                    let found = BucketItem {
                        sequence: writes,
                        limits: vec![(limits[0].shared_name().clone(), limit)],
                        ..BucketItem::default()
                    };
                    let outcome = Outcome::Refused(Some(found));
                    bucket.complete(&clock, &settings, Why::Due, outcome)
                }
                Step::Wait(until) => {
                    hands.advance(until.since(clock.now()));
                    bucket.check(&clock, &settings, Why::Due)
                }
                Step::Idle => panic!("it has given up"),
            };
        }
        assert!((4..=10).contains(&writes), "{writes}");
        assert_eq!(bucket.unsettled().tokens, 7);
    }

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
