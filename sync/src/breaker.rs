//! A circuit breaker for one table: while it is open nobody waits for an answer that does not
//! come, and one probe at a time looks whether the table is back.
//!
//! Pure but for its lock: the time is handed in, the jitter comes from a seed, and whoever owns a
//! [`Breaker`] makes the probes. The pattern is Nygard's ("Release It!", 2007); the delays are
//! exponential with equal jitter.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use zae_limiter_core::MonotonicTime;

use crate::store::{StoreError, StoreErrorKind};

/// When the first probe is made.
const PROBE_AFTER: Duration = Duration::from_millis(100);
/// How long after one probe has failed the next is made at most, if the renewal period is not
/// shorter.
const PROBE_AFTER_MAX: Duration = Duration::from_millis(500);

/// `base`, doubled `attempt` times, at most `max`; the upper half of it is left to chance.
pub(crate) fn backoff(
    base: Duration,
    max: Duration,
    attempt: u32,
    rng: &mut fastrand::Rng,
) -> Duration {
    let longest = base.saturating_mul(2u32.saturating_pow(attempt)).min(max);
    longest.mul_f64(0.5 + 0.5 * rng.f64())
}

/// Says whether the table is worth asking. Shared by all that ask it.
///
/// A request that fails opens it, unless the table has answered another one since that was sent:
/// then it is not the table that is out of reach. A lost answer in a quiet process costs a probe.
///
/// ```
/// use std::sync::Arc;
/// use std::time::Duration;
/// use zae_limiter::Clock;
/// use zae_limiter::breaker::Breaker;
/// use zae_limiter::store::{StoreError, StoreErrorKind};
///
/// let (clock, hands) = Clock::manual();
/// let breaker = Breaker::new(Duration::from_secs(1), 7);
/// let lost = StoreError::new(StoreErrorKind::Unreachable, "no answer");
/// assert!(breaker.failed(clock.now(), clock.now(), Arc::new(lost)));
/// assert!(breaker.is_open() && breaker.failure().is_some());
/// hands.advance(Duration::from_secs(1));
/// assert!(breaker.next_probe().is_some_and(|at| at <= clock.now()));
/// assert!(breaker.begin_probe(clock.now())); // one at a time
/// assert!(breaker.probed(clock.now(), Ok(())));
/// assert_eq!((breaker.is_open(), breaker.opened()), (false, 1));
/// ```
#[derive(Debug)]
pub struct Breaker {
    /// Whether it is not closed. Written under the lock; read without it by who only wants to
    /// know whether to ask, and may be wrong about that for a moment.
    open: AtomicBool,
    probe_after_max: Duration,
    inner: Mutex<Inner>,
}

#[derive(Debug)]
struct Inner {
    state: State,
    /// When the table last answered.
    answered_at: Option<MonotonicTime>,
    /// How often a probe was put off since then.
    rounds: u32,
    opened: u64,
    last: Option<Arc<StoreError>>,
    rng: fastrand::Rng,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Closed,
    Open { probe_at: MonotonicTime },
    Probing,
}

impl Breaker {
    /// A closed breaker. It waits at most one `renewal` period between probes, so that what is over
    /// is soon known to be. The delays between its probes follow from `seed`.
    ///
    /// See the example of [`Breaker`].
    #[must_use]
    pub fn new(renewal: Duration, seed: u64) -> Self {
        Self {
            open: AtomicBool::new(false),
            probe_after_max: renewal.min(PROBE_AFTER_MAX),
            inner: Mutex::new(Inner {
                state: State::Closed,
                answered_at: None,
                rounds: 0,
                opened: 0,
                last: None,
                rng: fastrand::Rng::with_seed(seed),
            }),
        }
    }

    /// Whether the table is not to be asked.
    ///
    /// See the example of [`Breaker`].
    #[inline]
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.open.load(Ordering::Relaxed)
    }

    /// How often it has opened.
    ///
    /// See the example of [`Breaker`].
    #[must_use]
    pub fn opened(&self) -> u64 {
        self.inner.lock().opened
    }

    /// The last failure, until the table does what it is asked.
    ///
    /// See the example of [`Breaker`].
    #[must_use]
    pub fn failure(&self) -> Option<Arc<StoreError>> {
        self.inner.lock().last.clone()
    }

    /// The table has answered.
    pub fn answered(&self, now: MonotonicTime) {
        let mut inner = self.inner.lock();
        inner.answered_at = Some(now);
        if inner.state == State::Closed {
            inner.rounds = 0;
            inner.last = None;
        }
    }

    /// A request that was sent at `sent` has failed. Returns whether that has opened the breaker.
    ///
    /// A table that is throttled, or that says that a request makes no sense, answers.
    ///
    /// See the example of [`Breaker`].
    pub fn failed(&self, sent: MonotonicTime, now: MonotonicTime, error: Arc<StoreError>) -> bool {
        if is_answer(&error) {
            self.answered(now);
            return false;
        }
        let mut inner = self.inner.lock();
        inner.last = Some(error);
        let answers = inner.answered_at.is_some_and(|at| at > sent);
        if inner.state != State::Closed || answers {
            return false;
        }
        inner.opened += 1;
        self.open(&mut inner, now);
        true
    }

    /// When the next probe is to be made; none if it is closed, or one is under way.
    ///
    /// See the example of [`Breaker`].
    #[must_use]
    pub fn next_probe(&self) -> Option<MonotonicTime> {
        if !self.is_open() {
            return None;
        }
        match self.inner.lock().state {
            State::Open { probe_at } => Some(probe_at),
            State::Closed | State::Probing => None,
        }
    }

    /// Whether a probe is to be made now. Whoever is told so makes it, and reports it with
    /// [`probed`](Self::probed).
    ///
    /// See the example of [`Breaker`].
    pub fn begin_probe(&self, now: MonotonicTime) -> bool {
        let mut inner = self.inner.lock();
        let due = matches!(inner.state, State::Open { probe_at } if probe_at <= now);
        if due {
            inner.state = State::Probing;
        }
        due
    }

    /// How a probe has ended. Returns whether that has closed the breaker.
    ///
    /// See the example of [`Breaker`].
    pub fn probed(&self, now: MonotonicTime, result: Result<(), StoreError>) -> bool {
        let mut inner = self.inner.lock();
        match result {
            Err(error) if !is_answer(&error) => {
                inner.last = Some(Arc::new(error));
                self.open(&mut inner, now);
                false
            }
            _ => {
                inner.state = State::Closed;
                inner.answered_at = Some(now);
                self.open.store(false, Ordering::Relaxed);
                true
            }
        }
    }

    fn open(&self, inner: &mut Inner, now: MonotonicTime) {
        let delay = backoff(
            PROBE_AFTER,
            self.probe_after_max,
            inner.rounds,
            &mut inner.rng,
        );
        inner.rounds = inner.rounds.saturating_add(1);
        inner.state = State::Open {
            probe_at: now.after(delay),
        };
        self.open.store(true, Ordering::Relaxed);
    }
}

fn is_answer(error: &StoreError) -> bool {
    use StoreErrorKind::{Invalid, Throttled};
    matches!(error.kind(), Invalid | Throttled)
}

#[cfg(test)]
mod tests {
    use super::*;

    const RENEWAL: Duration = Duration::from_secs(1);

    fn at(millis: u64) -> MonotonicTime {
        MonotonicTime::from_nanos(millis * 1_000_000)
    }

    fn error(kind: StoreErrorKind) -> StoreError {
        StoreError::new(kind, "a test")
    }

    fn fail(breaker: &Breaker, sent: u64, now: u64, kind: StoreErrorKind) -> bool {
        breaker.failed(at(sent), at(now), Arc::new(error(kind)))
    }

    #[test]
    fn a_failure_opens_it_unless_the_table_has_answered_meanwhile() {
        let breaker = Breaker::new(RENEWAL, 1);
        breaker.answered(at(50));
        assert!(!fail(&breaker, 0, 100, StoreErrorKind::Unreachable));
        assert!(breaker.failure().is_some() && !breaker.is_open());
        assert!(fail(&breaker, 60, 100, StoreErrorKind::Unreachable));
        assert!(breaker.is_open() && breaker.opened() == 1);
        let again = fail(&breaker, 60, 100, StoreErrorKind::Unreachable);
        assert!(!again, "it is open already");
    }

    #[test]
    fn overload_is_not_an_outage() {
        let breaker = Breaker::new(RENEWAL, 1);
        for kind in [StoreErrorKind::Throttled, StoreErrorKind::Invalid] {
            assert!((0..100).all(|now| !fail(&breaker, now, now, kind)));
        }
        assert!(!breaker.is_open());
    }

    #[test]
    fn one_probe_at_a_time_later_and_later_up_to_a_limit() {
        let breaker = Breaker::new(RENEWAL, 1);
        assert!(fail(&breaker, 0, 0, StoreErrorKind::Unreachable));
        let mut now = MonotonicTime::ZERO;
        let mut delays = Vec::new();
        for _ in 0..10 {
            let due = breaker.next_probe().expect("it is open");
            delays.push(due.since(now));
            assert!(!breaker.begin_probe(due.before(Duration::from_nanos(1))));
            assert!(breaker.begin_probe(due));
            assert!(!breaker.begin_probe(at(1_000_000)), "one is under way");
            assert_eq!(breaker.next_probe(), None);
            now = due;
            assert!(!breaker.probed(now, Err(error(StoreErrorKind::Unreachable))));
        }
        assert!(delays[0] >= PROBE_AFTER / 2 && delays[0] <= PROBE_AFTER);
        assert!(delays.iter().all(|delay| *delay <= PROBE_AFTER_MAX));
        assert!(delays[9] >= PROBE_AFTER_MAX / 2);
        let due = breaker.next_probe().expect("it is open");
        assert!(breaker.begin_probe(due) && breaker.probed(due, Ok(())));
        assert!(!breaker.is_open() && breaker.opened() == 1);
    }

    #[test]
    fn what_is_over_is_known_within_a_renewal_period() {
        let renewal = Duration::from_millis(100);
        let breaker = Breaker::new(renewal, 1);
        assert!(fail(&breaker, 0, 0, StoreErrorKind::Unreachable));
        let mut now = MonotonicTime::ZERO;
        for _ in 0..10 {
            let due = breaker.next_probe().expect("it is open");
            assert!(due.since(now) <= renewal && breaker.begin_probe(due));
            now = due;
            breaker.probed(now, Err(error(StoreErrorKind::Unreachable)));
        }
    }

    #[test]
    fn a_table_that_answers_probes_and_nothing_else_is_probed_later_and_later() {
        let breaker = Breaker::new(RENEWAL, 1);
        let mut now = MonotonicTime::ZERO;
        let delay = |now: &mut MonotonicTime| {
            breaker.failed(*now, *now, Arc::new(error(StoreErrorKind::AccessDenied)));
            let due = breaker.next_probe().expect("it is open");
            assert!(breaker.begin_probe(due) && breaker.probed(due, Ok(())));
            let delay = due.since(*now);
            *now = due;
            delay
        };
        let first = delay(&mut now);
        let last = (0..5).map(|_| delay(&mut now)).last();
        assert!(last >= Some(PROBE_AFTER_MAX / 2) && first <= PROBE_AFTER);
    }
}
