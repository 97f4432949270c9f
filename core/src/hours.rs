//! Consumption that the table has not been told of, by the hour in which it happened.
//!
//! A renewal reports what was consumed since the last one, and says when that was. So that it is
//! right about the hour, the reconciler looks at a bucket in use when an hour begins, and what is
//! unreported then is set aside. **A write reports consumption of one hour only**: what is set
//! aside goes first, what came after goes with the next renewal. Usage windows are made of whole
//! hours of UTC, so this is as fine as they need it.

use smallvec::SmallVec;

use crate::books::{Books, Flight};
use crate::bucket::Active;
use crate::renewal::{Now, Step};
use crate::{MonotonicTime, WallTime};

const HOUR_NANOS: u64 = 3_600_000_000_000;

/// An hour of UTC: how many have passed since the Unix epoch when it begins.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Hour(u64);

impl Hour {
    fn of(time: WallTime) -> Self {
        Self(time.as_nanos() / HOUR_NANOS)
    }

    /// The last millisecond of it.
    pub(crate) fn end_ms(self) -> u64 {
        (self.0 + 1) * (HOUR_NANOS / 1_000_000) - 1
    }
}

impl Now {
    /// When the next hour begins.
    pub(crate) fn next_hour(&self) -> MonotonicTime {
        let left = HOUR_NANOS - self.wall.as_nanos() % HOUR_NANOS;
        let elapsed = self.monotonic.as_nanos();
        MonotonicTime::from_nanos(elapsed.saturating_add(left))
    }
}

/// What was consumed in an hour that is over, net of what was taken back, in tokens.
#[derive(Debug)]
pub(crate) struct PastHour {
    pub(crate) hour: Hour,
    /// By limit.
    pub(crate) consumed: SmallVec<[i64; 2]>,
}

impl Step {
    /// The same, but nothing is waited for beyond the hour.
    pub(crate) fn within_the_hour(self, now: Now) -> Self {
        match self {
            Self::Wait(until) => Self::Wait(until.min(now.next_hour())),
            step => step,
        }
    }
}

impl Books {
    /// The table has been told, or may have been, of what `flight` reports of an hour before.
    pub(crate) fn reported_past(&mut self, flight: &Flight) {
        if flight.reports_past {
            self.past.pop_front();
        }
    }
}

impl Active {
    /// Sets aside what was consumed before this hour. What a write under way reports is left to
    /// that.
    pub(crate) fn turn_hour(&mut self, now: Now) {
        let hour = Hour::of(now.wall);
        let before = std::mem::replace(&mut self.books.hour, hour);
        // A clock that goes back opens no hour again, and the first look knows of none before.
        if before < hour && before != Hour::default() {
            let flight = self.books.flight.as_ref().filter(|f| !f.only_converts);
            let reported = flight
                .map(|flight| flight.slots.clone())
                .unwrap_or_default();
            self.set_aside(before, |at| {
                let slot = reported.get(at);
                slot.map_or((0, 0), |slot| (slot.spent, slot.taken_back))
            });
            // What is given back of it from now on is taken back in this hour, from the table.
            self.generation = self.generation.wrapping_add(1);
        }
    }

    /// A write that was to report consumption of an hour that is over by now was not made.
    pub(crate) fn set_aside_unreported(&mut self, flight: &Flight) {
        if flight.hour < self.books.hour {
            let mut left = self.unreported();
            for (left, slot) in left.iter_mut().zip(&flight.slots) {
                left.0 -= slot.spent.min(left.0);
                left.1 -= slot.taken_back.min(left.1);
            }
            self.set_aside(flight.hour, |at| left.get(at).copied().unwrap_or_default());
        }
    }

    /// What was spent and what was taken back, by limit, and is not reported.
    fn unreported(&self) -> SmallVec<[(u64, u64); 2]> {
        let slots = self.slots.iter().zip(&self.books.accounts);
        slots.map(|(slot, a)| (slot.spent, a.taken_back)).collect()
    }

    /// Sets aside all that is not reported, but for what `stays`.
    fn set_aside(&mut self, hour: Hour, stays: impl Fn(usize) -> (u64, u64)) {
        if let Some(last) = self.slots.len().checked_sub(1) {
            self.books.account(last); // each has one from now on
        }
        let mut consumed = SmallVec::new();
        for (at, (slot, account)) in
            (self.slots.iter_mut().zip(&mut self.books.accounts)).enumerate()
        {
            let (spent, taken_back) = stays(at);
            let spent = slot.spent.saturating_sub(spent);
            let taken_back = account.taken_back.saturating_sub(taken_back);
            account.report(slot, spent);
            account.taken_back -= taken_back;
            consumed.push(signed(spent) - signed(taken_back));
        }
        if consumed.iter().any(|tokens| *tokens != 0) {
            self.books.past.push_back(PastHour { hour, consumed });
        }
    }
}

fn signed(tokens: u64) -> i64 {
    i64::try_from(tokens).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::Arc;
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;
    use crate::item::BucketItem;
    use crate::plan::Plan;
    use crate::renewal::{Outcome, RenewalSettings, Why};
    use crate::{BucketCache, BucketRef, Charges, Clock, Limit, ManualClock, Request};

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

        fn happened(&mut self, tokens: i64) {
            let hour = Hour::of(self.clock.wall()).0;
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
            let (generation, limits) = (Some(generation), self.limits.clone());
            let told = (self.bucket).give_back(&self.clock, generation, &limits, &charges);
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
                Step::Wait(until) => assert!(until <= Now::of(&self.clock).next_hour()),
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
                let now = Now::of(&self.clock);
                let step = now.next_hour().since(now.monotonic).min(length);
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
                        let now = Now::of(&process.clock);
                        let left = now.next_hour().since(now.monotonic);
                        process.pass(left.saturating_sub(Duration::from_millis(millis)));
                    }
                    Event::Land(made) => process.land(made),
                }
            }
            process.settle();
            prop_assert_eq!(&process.told, &process.truth);
            prop_assert!(process.bucket.rest().is_some(), "and then it rests");
        }
    }
}
