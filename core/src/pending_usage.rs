//! Consumption that the table has not been told of, by the hour in which it happened.
//!
//! A renewal reports what was consumed since the last one, and says when that was. So that it is
//! right about the hour, the reconciler looks at a bucket in use when an hour begins, and what is
//! unreported then is set aside. **A write reports consumption of one hour only**: what is set
//! aside goes first, what came after goes with the next renewal. Usage windows are made of whole
//! hours of UTC, so this is as fine as they need it.

use std::collections::VecDeque;

use smallvec::SmallVec;

use crate::kernel::Now;
use crate::{MonotonicTime, WallTime};

const HOUR_NANOS: u64 = 3_600_000_000_000;

/// An hour of UTC: how many have passed since the Unix epoch when it begins.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
struct UsageHour(u64);

impl UsageHour {
    fn of(time: WallTime) -> Self {
        Self(time.as_nanos() / HOUR_NANOS)
    }

    /// The last millisecond of it.
    fn end_ms(self) -> u64 {
        (self.0 + 1) * (HOUR_NANOS / 1_000_000) - 1
    }
}

/// When the next hour begins.
pub(crate) fn next_hour(now: Now) -> MonotonicTime {
    let left = HOUR_NANOS - now.wall.as_nanos() % HOUR_NANOS;
    MonotonicTime::from_nanos(now.monotonic.as_nanos().saturating_add(left))
}

/// What was consumed in an hour, net of what was given back, in tokens, by limit.
#[derive(Debug, Default)]
struct Consumed {
    hour: UsageHour,
    tokens: SmallVec<[i64; 2]>,
}

impl Consumed {
    fn sum(&self) -> i64 {
        self.tokens.iter().sum()
    }

    fn is_nothing(&self) -> bool {
        self.tokens.iter().all(|tokens| *tokens == 0)
    }
}

/// The consumption of one bucket that is to be reported.
#[derive(Debug, Default)]
pub(crate) struct PendingUsage {
    /// Of hours that are over, the oldest first.
    past: VecDeque<Consumed>,
    /// Of this hour.
    current: Consumed,
    /// What the write under way reports.
    reporting: Option<Consumed>,
}

impl PendingUsage {
    pub(crate) fn new(limits: usize) -> Self {
        let mut usage = Self::default();
        usage.current.tokens.resize(limits, 0);
        usage
    }

    pub(crate) fn add_limit(&mut self) {
        self.current.tokens.push(0);
    }

    /// Whether nothing of a limit is to be reported.
    pub(crate) fn is_unused(&self, at: usize) -> bool {
        // What is set aside tells limits by their places.
        self.past.is_empty() && self.reporting.is_none() && self.current.tokens[at] == 0
    }

    pub(crate) fn remove_limit(&mut self, at: usize) {
        self.current.tokens.remove(at);
    }

    /// Tokens were consumed.
    pub(crate) fn consume(&mut self, at: usize, tokens: u64) {
        let consumed = &mut self.current.tokens[at];
        *consumed = consumed.saturating_add_unsigned(tokens);
    }

    /// Tokens were given back, whenever they were consumed.
    pub(crate) fn give_back(&mut self, at: usize, tokens: u64) {
        let consumed = &mut self.current.tokens[at];
        *consumed = consumed.saturating_sub_unsigned(tokens);
    }

    /// All that the table has not been told of, what is on its way included, in tokens.
    pub(crate) fn unreported(&self) -> i64 {
        let past = self.past.iter().map(Consumed::sum).sum::<i64>();
        past + self.current.sum() + self.reporting()
    }

    /// Of that, what is on its way.
    pub(crate) fn reporting(&self) -> i64 {
        self.reporting.as_ref().map_or(0, Consumed::sum)
    }

    /// Whether there is nothing to report.
    pub(crate) fn is_reported(&self) -> bool {
        self.past.is_empty() && self.current.is_nothing()
    }

    /// An hour may have begun: sets aside what was consumed before. Returns whether one has. A clock that
    /// goes back opens no hour again, and the first look knows of none before.
    pub(crate) fn turn_hour(&mut self, now: Now) -> bool {
        let hour = UsageHour::of(now.wall);
        let before = self.current.hour;
        let turned = before < hour && before != UsageHour::default();
        if turned {
            let tokens = smallvec::smallvec![0; self.current.tokens.len()];
            let over = std::mem::replace(&mut self.current, Consumed { hour, tokens });
            if !over.is_nothing() {
                self.past.push_back(over);
            }
        } else if before == UsageHour::default() {
            self.current.hour = hour;
        }
        turned
    }

    /// What the write that is planned now is to report, by limit; and when that was consumed, if not just
    /// now: in milliseconds since the Unix epoch.
    pub(crate) fn report(&mut self) -> (SmallVec<[i64; 2]>, Option<u64>) {
        let (consumed, at_ms) = match self.past.pop_front() {
            Some(past) => {
                let at_ms = past.hour.end_ms();
                (past, Some(at_ms))
            }
            None => {
                let fresh = smallvec::smallvec![0; self.current.tokens.len()];
                let tokens = std::mem::replace(&mut self.current.tokens, fresh);
                let hour = self.current.hour;
                (Consumed { hour, tokens }, None)
            }
        };
        let mut tokens = consumed.tokens.clone();
        tokens.resize(self.current.tokens.len(), 0);
        self.reporting = Some(consumed);
        (tokens, at_ms)
    }

    /// The write under way has ended; whether it has told the table, or may have.
    pub(crate) fn reported(&mut self, told: bool) {
        let Some(consumed) = self.reporting.take().filter(|_| !told) else {
            return;
        };
        if consumed.hour != self.current.hour {
            if !consumed.is_nothing() {
                self.past.push_front(consumed);
            }
            return;
        }
        for (current, tokens) in self.current.tokens.iter_mut().zip(consumed.tokens) {
            *current = current.saturating_add(tokens);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::Arc;
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;
    use crate::item::BucketItem;
    use crate::kernel::plan::Plan;
    use crate::renewal::{Outcome, RenewalSettings, Step, Why};
    use crate::{BucketCache, BucketRef, Charges, Clock, Limit, ManualClock, Payer, Request};

    fn settings() -> RenewalSettings {
        RenewalSettings::new(Duration::from_secs(1), Duration::from_secs(5))
    }

    /// A process, its table, and what happened and what the table was told of, by hour.
    struct Process {
        clock: Clock,
        hands: ManualClock,
        bucket: BucketRef,
        limits: Arc<[Limit]>,
        table: Option<BucketItem>,
        /// The write under way.
        flight: Option<Plan>,
        truth: BTreeMap<u64, i64>,
        told: BTreeMap<u64, i64>,
    }

    impl Process {
        fn new() -> Self {
            let (clock, hands) = Clock::manual();
            let limits: Arc<[Limit]> = [Limit::per_second("rps", 1_000).unwrap()].into();
            let bucket = BucketCache::new().get_or_insert("user", "api", &limits);
            Self {
                clock,
                hands,
                bucket: bucket.unwrap(),
                limits,
                table: None,
                flight: None,
                truth: BTreeMap::new(),
                told: BTreeMap::new(),
            }
        }

        fn now(&self) -> Now {
            Now {
                monotonic: self.clock.now(),
                wall: self.clock.wall(),
            }
        }

        fn happened(&mut self, tokens: i64) {
            let hour = UsageHour::of(self.clock.wall()).0;
            *self.truth.entry(hour).or_default() += tokens;
        }

        fn take(&mut self, tokens: u64) -> Option<(u32, Charges)> {
            let limits = self.limits.clone();
            let consume = [("rps", tokens)];
            let request = Request::new(&limits, &consume);
            let Ok(paid) = self.bucket.take(&self.clock, &request) else {
                self.bucket.want(&request);
                self.look();
                return None;
            };
            self.happened(tokens.cast_signed());
            Some((paid.generation, request.charges().unwrap()))
        }

        fn owe(&mut self, tokens: u64) {
            let told = (self.bucket)
                .charge_anyway(&self.clock, &self.limits[0], tokens)
                .hint;
            self.happened(tokens.cast_signed());
            if told {
                self.look();
            }
        }

        fn give_back(&mut self, (generation, charges): (u32, Charges)) {
            let (payer, limits) = (Payer::Block(generation), self.limits.clone());
            let told = (self.bucket).give_back(&self.clock, payer, &limits, &charges);
            let tokens: u64 = charges.iter().map(|(_, tokens)| tokens).sum();
            self.happened(-tokens.cast_signed());
            if told {
                self.look();
            }
        }

        fn look(&mut self) {
            let step = self.bucket.check(&self.clock, &settings(), Why::Due);
            self.follow(step);
        }

        fn follow(&mut self, step: Step) {
            match step {
                Step::Write(plan) => self.flight = Some(plan),
                Step::Wait(until) => assert!(until <= next_hour(self.now())),
                Step::Idle => {}
            }
        }

        fn land(&mut self, made: bool) {
            let Some(plan) = self.flight.take() else {
                return;
            };
            let consumed = |item: &BucketItem| item.limit("rps").map_or(0, |limit| limit.consumed);
            let before = self.table.as_ref().map_or(0, consumed);
            let outcome = if !made {
                Outcome::Throttled
            } else {
                match BucketItem::apply(&mut self.table, &plan.write) {
                    Ok(item) => {
                        let hour = item.consumed_at_ms / 3_600_000;
                        *self.told.entry(hour).or_default() += consumed(&item) - before;
                        Outcome::Applied(item)
                    }
                    Err(found) => Outcome::Refused(found),
                }
            };
            let step = (self.bucket).complete(&self.clock, &settings(), Why::Due, outcome);
            self.follow(step);
        }

        /// Time passes; the bucket is looked at when it is over, and when an hour begins.
        fn pass(&mut self, mut length: Duration) {
            loop {
                let now = self.now();
                let step = next_hour(now).since(now.monotonic).min(length);
                self.hands.advance(step);
                self.look();
                length -= step;
                if length.is_zero() {
                    return;
                }
            }
        }

        fn settle(&mut self) {
            for _ in 0..1_200 {
                self.land(true);
                self.pass(Duration::from_millis(50));
            }
            for by_hour in [&mut self.truth, &mut self.told] {
                by_hour.retain(|_, tokens| *tokens != 0);
            }
        }
    }

    #[derive(Clone, Debug)]
    enum Event {
        Take(u64),
        Owe(u64),
        GiveBack,
        Pass(u64),
        /// To so many milliseconds before the hour ends.
        NearTheHour(u64),
        Land(bool),
    }

    fn event() -> impl Strategy<Value = Event> {
        prop_oneof![
            8 => (1u64..30).prop_map(Event::Take),
            1 => (1u64..90).prop_map(Event::Owe),
            2 => Just(Event::GiveBack),
            4 => (1u64..700).prop_map(Event::Pass),
            2 => (1u64..900).prop_map(Event::NearTheHour),
            6 => prop::bool::weighted(0.8).prop_map(Event::Land),
        ]
    }

    proptest! {
        #[test]
        fn each_hour_is_told_of_what_happened_in_it(
            events in prop::collection::vec(event(), 1..150),
        ) {
            let mut process = Process::new();
            let mut leases = Vec::new();
            for event in events {
                match event {
                    Event::Take(tokens) => leases.extend(process.take(tokens)),
                    Event::Owe(tokens) => process.owe(tokens),
                    Event::GiveBack => {
                        if let Some(lease) = leases.pop() {
                            process.give_back(lease);
                        }
                    }
                    Event::Pass(millis) => process.pass(Duration::from_millis(millis)),
                    Event::NearTheHour(millis) => {
                        let now = process.now();
                        let left = next_hour(now).since(now.monotonic);
                        process.pass(left.saturating_sub(Duration::from_millis(millis)));
                    }
                    Event::Land(made) => process.land(made),
                }
            }
            process.settle();
            prop_assert_eq!(&process.told, &process.truth);
            prop_assert!(process.bucket.idle_generation().is_some(), "and then it rests");
        }
    }
}
