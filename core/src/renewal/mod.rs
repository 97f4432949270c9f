//! What the reconciler does with one bucket, as pure steps: [`Bucket::check`] says what is to
//! happen, the embedder makes the write, [`Bucket::complete`] takes its outcome in.
//!
//! One renewal is one write. It gives back what is unspent, takes the next block, reports
//! consumption and settles adjustments, as one net change. While it is under way the process
//! goes on spending what it keeps in any case.

mod outcome;
mod planning;

use std::any::Any;
use std::sync::Arc;
use std::time::Duration;

use crate::bucket::{Active, Bucket, State};
use crate::item::BucketItem;
use crate::plan::Plan;
use crate::{Clock, MonotonicTime, WallTime};

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
        }
    }

    /// A write has taken so long. What is more than an eighth of a renewal period was not for the write: the
    /// process stood still, or the table.
    pub fn learn_latency(&mut self, took: Duration) {
        let took = took.min(self.renewal / 8);
        self.latency = (self.latency * 7 + took) / 8;
    }

    /// For a bucket whose writes were throttled: fewer and larger ones. No larger than that: what is
    /// reserved for so long, others do not have when it is over.
    fn stretched(self) -> Self {
        Self {
            renewal: (self.renewal * 2).min(self.lease_ttl / 2).max(self.renewal),
            ..self
        }
    }

    /// How long to wait after so many failures in a row: at most two renewal periods, so that what
    /// is over is soon known to be.
    fn pause(&self, failures: u32) -> Duration {
        let longest = self.renewal / 4 * 2u32.pow(failures.min(3));
        longest.mul_f64(0.5 + 0.5 * self.jitter)
    }
}

/// The time, on both clocks.
#[derive(Clone, Copy, Debug)]
pub struct Now {
    /// For how long things last here.
    pub monotonic: MonotonicTime,
    /// For what is written to the table.
    pub wall: WallTime,
}

impl Now {
    /// What `clock` says.
    #[must_use]
    pub fn of(clock: &Clock) -> Self {
        Self {
            monotonic: clock.now(),
            wall: clock.wall(),
        }
    }
}

/// What is to happen with a bucket.
#[derive(Clone, Debug)]
pub enum Step {
    /// Make this write and report its outcome with [`Bucket::complete`].
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

/// How often a write of a closing process may fail before it gives up.
const CLOSING_FAILURES_MAX: u32 = 3;

impl Bucket {
    /// Looks at the bucket: is a write due?
    pub fn check(&self, clock: &Clock, settings: &RenewalSettings, why: Why) -> Step {
        let now = Now::of(clock);
        let mut state = self.lock();
        state.hinted = false;
        let step = match state.active.as_deref_mut() {
            Some(active) => {
                active.turn_hour(now);
                active.check(now, &active.stretched(settings), why)
            }
            None => Step::Idle,
        };
        end(&mut state, step, now, settings)
    }

    /// Takes in how the write of the last [`Step::Write`] ended; says what comes next. Whoever waits
    /// is to be woken, and asks again.
    pub fn complete(
        &self,
        clock: &Clock,
        settings: &RenewalSettings,
        why: Why,
        outcome: Outcome,
    ) -> Step {
        let now = Now::of(clock);
        let mut state = self.lock();
        state.hinted = false;
        let Some(active) = state.active.as_deref_mut() else {
            return Step::Idle;
        };
        active.turn_hour(now);
        let again = active.complete(now, settings, outcome);
        active.expires_tick = clock.tick_before(active.expires_at);
        let settings = active.stretched(settings);
        let replanned = (again && why != Why::Suspended).then(|| active.plan(now, &settings, why));
        active.books.wake();
        let step = replanned.unwrap_or_else(|| active.check(now, &settings, why));
        end(&mut state, step, now, &settings)
    }

    /// The table can be reached again: whatever pause the bucket was in is over.
    pub fn resume(&self) {
        if let Some(active) = self.lock().active.as_deref_mut() {
            active.books.unavailable_until = MonotonicTime::ZERO;
            active.books.failures = 0;
        }
    }

    /// Why the bucket cannot be asked for, if it is in a pause after a failure.
    #[must_use]
    pub fn trouble(&self, clock: &Clock) -> Option<Reason> {
        let state = self.lock();
        let books = &state.active.as_deref()?.books;
        let reason = books.trouble.clone();
        reason.filter(|_| clock.now() < books.unavailable_until)
    }

    /// Which rest it is at, if it is not in use.
    #[must_use]
    pub fn rest(&self) -> Option<u32> {
        self.lock().rest_number()
    }
}

/// Lets the bucket rest if nothing is to happen, and else remembers when it is to be looked at.
fn end(state: &mut State, step: Step, now: Now, settings: &RenewalSettings) -> Step {
    let step = step.within_the_hour(now);
    if matches!(step, Step::Idle) {
        state.rest();
    }
    if let Some(active) = state.active.as_deref_mut() {
        active.books.look_at = match step {
            Step::Wait(until) => until,
            Step::Write(_) | Step::Idle => now.monotonic.after(settings.renewal),
        };
    }
    step
}

impl Active {
    fn stretched(&self, settings: &RenewalSettings) -> RenewalSettings {
        if self.books.throttled > 0 {
            settings.stretched()
        } else {
            *settings
        }
    }

    fn check(&mut self, now: Now, settings: &RenewalSettings, why: Why) -> Step {
        self.release(now.monotonic);
        let used = self.observe(now.monotonic, settings);
        self.notice_clock(now, settings);
        let untold = self.untold_since(now.wall).filter(|_| why == Why::Due);
        let tell_at = untold.map_or(MonotonicTime::NEVER, |since| since.after(settings.renewal));
        let books = &mut self.books;
        books.is_to_tell = untold.is_some();
        let tells = now.monotonic >= tell_at && books.accounts.iter().any(|a| a.asked > 0);
        if books.flight.is_some() {
            return Step::Wait(now.monotonic.after(settings.renewal));
        }
        if why == Why::Suspended {
            return Step::Wait(MonotonicTime::NEVER);
        }
        let pause = books.unavailable_until.max(books.throttled_until);
        if now.monotonic < pause && why == Why::Due {
            return Step::Wait(pause);
        }
        if used {
            books.used_at = now.monotonic;
        }
        // Who has only looked has not used it, also where the clock has only begun.
        let never = books.used_at == MonotonicTime::ZERO;
        let idle = never || now.monotonic.since(books.used_at) >= settings.renewal;
        let settled = books.is_settled();
        let wanted = books.accounts.iter().any(|a| a.wanted > 0);
        let closing = why == Why::Closing;
        if closing && books.failures > CLOSING_FAILURES_MAX {
            return Step::Idle; // the block expires by itself
        }
        if !wanted && (idle || closing) && settled && self.unspent() == 0 {
            // What was seen of the bucket and of its demand spares the next caller a wrong guess.
            let known_until = self.books.seen_at.max(self.books.used_at);
            let known_until = known_until.after(settings.lease_ttl * 2);
            let denied_until = self.slots.iter().map(|slot| slot.denied_until).max();
            let denied_until = denied_until.unwrap_or_default();
            let until = if now.monotonic < denied_until {
                now.monotonic.after(settings.renewal)
            } else if untold.is_some() {
                tell_at.max(now.monotonic.after(settings.renewal / 4))
            } else {
                known_until
            };
            if !tells && self.slots.iter().all(|slot| slot.spent == 0) {
                return if closing || until <= now.monotonic {
                    Step::Idle
                } else {
                    Step::Wait(until)
                };
            }
        }
        let renew_at = self.books.renew_at;
        let dazed = now.monotonic < self.books.dazed_until;
        let excess = !dazed
            && (0..self.slots.len()).any(|slot| {
                let unspent = self.slots[slot].stock + self.books.account(slot).schedule.pending();
                let (situation, _) = self.situation(now, settings, slot, unspent);
                situation.is_excess(unspent)
            });
        let due =
            now.monotonic >= renew_at || idle || closing || wanted || excess || self.runs_low();
        if tells || due && !(renew_at == MonotonicTime::NEVER && !idle && !closing && !wanted) {
            return self.plan(now, settings, why);
        }
        Step::Wait(renew_at.min(now.monotonic.after(settings.renewal / 4)))
    }

    /// What was refused by a clock that has been set since then may be there by what it says now.
    fn notice_clock(&mut self, now: Now, settings: &RenewalSettings) {
        let ahead = i128::from(now.wall.as_nanos()) - i128::from(now.monotonic.as_nanos());
        let step = ahead.abs_diff(std::mem::replace(&mut self.books.wall_ahead, ahead));
        if step > (settings.renewal / 4).as_nanos() {
            for slot in &mut self.slots {
                slot.denied_until = MonotonicTime::ZERO;
            }
        }
    }

    fn runs_low(&self) -> bool {
        let mut slots = self.slots.iter();
        slots.any(|slot| slot.stock < slot.low_water)
    }

    /// All that is held and not spent.
    fn unspent(&self) -> u64 {
        let stock: u64 = self.slots.iter().map(|slot| slot.stock).sum();
        let accounts = self.books.accounts.iter();
        stock
            + accounts
                .map(|account| account.schedule.pending())
                .sum::<u64>()
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
