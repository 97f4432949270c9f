//! What is asked of one limiter, and how it was answered.

use std::error::Error;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use tokio::task::yield_now;
use tokio::time::sleep;
use zae_limiter::{Limit, RateLimiter};

/// Of unpaced acquires one in so many is timed by itself: reading the clock takes about as long
/// as a leased acquire.
const TIMED_ONE_IN: u64 = 16;
/// How many unpaced acquires are made before others get a turn.
const TURN: u64 = 64;
/// How often paced acquires are made up for.
const STEP: Duration = Duration::from_millis(2);
/// The longest time that the histogram tells from others, in nanoseconds: a minute.
const NANOS_MAX: u64 = 60_000_000_000;

/// How much is asked for.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Load {
    /// The next acquire as soon as the last is answered.
    Unpaced,
    /// So many acquires per second, whatever the answers.
    PerSecond(u64),
}

impl Load {
    pub(crate) fn shared_by(self, limiters: usize) -> Self {
        match self {
            Self::Unpaced => Self::Unpaced,
            Self::PerSecond(rate) => Self::PerSecond((rate / limiters as u64).max(1)),
        }
    }
}

/// How acquires were answered.
#[derive(Debug)]
pub(crate) struct Tally {
    pub(crate) asked: u64,
    pub(crate) admitted: u64,
    pub(crate) elapsed: Duration,
    pub(crate) writes: u64,
    /// In nanoseconds.
    pub(crate) latency: Histogram<u64>,
}

impl Tally {
    pub(crate) fn new() -> Result<Self, hdrhistogram::CreationError> {
        Ok(Self {
            asked: 0,
            admitted: 0,
            elapsed: Duration::ZERO,
            writes: 0,
            latency: Histogram::new_with_bounds(1, NANOS_MAX, 3)?,
        })
    }

    pub(crate) fn add(&mut self, other: &Self) -> Result<(), hdrhistogram::AdditionError> {
        self.asked += other.asked;
        self.admitted += other.admitted;
        self.latency.add(&other.latency)
    }

    fn time(&mut self, from: Instant) {
        let nanos = u64::try_from(from.elapsed().as_nanos()).unwrap_or(NANOS_MAX);
        self.latency.saturating_record(nanos);
    }
}

/// Whatever went wrong.
pub(crate) type Failure = Box<dyn Error + Send + Sync>;

/// Puts `load` on one limiter for `length`.
pub(crate) async fn drive(
    limiter: &RateLimiter,
    entity_id: &str,
    limit: Limit,
    load: Load,
    length: Duration,
) -> Result<Tally, Failure> {
    let limits = [limit];
    let mut tally = Tally::new()?;
    let start = Instant::now();
    while start.elapsed() < length {
        match load {
            Load::Unpaced => {
                for turn in 0..TURN {
                    let timed = (turn % TIMED_ONE_IN == 0).then(Instant::now);
                    if timed.is_some_and(|now| now - start >= length) {
                        break;
                    }
                    acquire(limiter, entity_id, &limits, &mut tally).await?;
                    if let Some(from) = timed {
                        tally.time(from);
                    }
                }
                yield_now().await;
            }
            Load::PerSecond(rate) => {
                let due = rate as f64 * start.elapsed().as_secs_f64();
                while (tally.asked as f64) < due && start.elapsed() < length {
                    let from = Instant::now();
                    acquire(limiter, entity_id, &limits, &mut tally).await?;
                    tally.time(from);
                }
                sleep(STEP).await;
            }
        }
    }
    Ok(tally)
}

async fn acquire(
    limiter: &RateLimiter,
    entity_id: &str,
    limits: &[Limit],
    tally: &mut Tally,
) -> Result<(), Failure> {
    tally.asked += 1;
    let acquire = limiter.acquire(entity_id, "search").limits(limits);
    match acquire.consume("rps", 1).await {
        Ok(_) => tally.admitted += 1,
        Err(error) if error.as_exceeded().is_some() => {}
        Err(error) => return Err(error.into()),
    }
    Ok(())
}
