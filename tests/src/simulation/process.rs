//! One simulated process: the real cache and reconciler, with clocks of its own.

use std::sync::Arc;

use zae_limiter::breaker::Breaker;
use zae_limiter::reconciler::Machine;
use zae_limiter::{Clock, Limit, ManualClock};
use zae_limiter_core::renewal::RenewalSettings;
use zae_limiter_core::{BucketCache, BucketRef, Position, WallTime};

use super::ledger::{Pool, slot};
use super::random::NAMES;
use super::scenario::{Nanos, Scenario, duration};
use crate::fleet::RESOURCE;

/// What a process knows of one bucket.
#[derive(Debug)]
pub(super) struct Seat {
    pub(super) bucket: BucketRef,
    /// The callers who wait for it, each with the number of the wait.
    pub(super) waiting: Vec<(usize, u64)>,
    /// When the block that the process holds expires, by what it was told.
    pub(super) expires_at: Nanos,
    /// The write under way.
    pub(super) flight: Option<usize>,
    /// What item its last refused write has shown, and when.
    pub(super) refused: Option<(u64, Nanos)>,
}

#[derive(Debug)]
pub(super) struct Process {
    /// Tells a process from the one that died in its place.
    pub(super) incarnation: u64,
    pub(super) clock: Clock,
    hands: ManualClock,
    /// The true time that the clocks have been moved to.
    synced: Nanos,
    /// How far the wall clock is from the true time.
    pub(super) offset: i64,
    pub(super) frozen_until: Nanos,
    pub(super) cache: BucketCache,
    pub(super) machine: Machine,
    pub(super) breaker: Arc<Breaker>,
    /// Whether the breaker was open when it was last looked at.
    pub(super) suspended: bool,
    pub(super) seats: Vec<Option<Seat>>,
    /// What it has done with each limit of each bucket.
    pools: Vec<Pool>,
    pub(super) limits: Arc<[Limit]>,
    pub(super) version: usize,
    /// The parents that it remembers, and until when.
    pub(super) parents: Vec<Option<(Option<usize>, Nanos)>>,
    pub(super) wakes_at: Nanos,
    /// Tells the current stream of requests from an earlier one.
    pub(super) stream: u32,
    /// When the next request was sent, however late it is looked at.
    pub(super) next_arrival: Nanos,
}

impl Process {
    /// A process that knows nothing yet.
    pub(super) fn new(scenario: &Scenario, incarnation: u64, seed: u64) -> Self {
        let (clock, hands) = Clock::manual();
        let breaker = Arc::new(Breaker::new(duration(scenario.renewal()), seed));
        Self {
            incarnation,
            clock,
            hands,
            synced: 0,
            offset: 0,
            frozen_until: 0,
            cache: BucketCache::new(),
            machine: machine(scenario, breaker.clone(), seed),
            breaker,
            suspended: false,
            seats: std::iter::repeat_with(|| None)
                .take(scenario.buckets())
                .collect(),
            pools: vec![Pool::default(); scenario.buckets() * NAMES.len()],
            limits: scenario.limits[0].clone(),
            version: 0,
            parents: vec![None; scenario.children],
            wakes_at: Nanos::MAX,
            stream: 0,
            next_arrival: 0,
        }
    }

    /// The process that takes its place after a crash, on the same machine.
    pub(super) fn successor(&self, scenario: &Scenario, seed: u64) -> Self {
        Self {
            clock: self.clock.clone(),
            hands: self.hands.clone(),
            synced: self.synced,
            offset: self.offset,
            limits: self.limits.clone(),
            version: self.version,
            stream: self.stream,
            next_arrival: self.next_arrival,
            ..Self::new(scenario, self.incarnation + 1, seed)
        }
    }

    /// Moves its clocks to the true time.
    #[inline]
    pub(super) fn sync(&mut self, now: Nanos) {
        if now > self.synced {
            self.hands.advance(duration(now - self.synced));
            self.synced = now;
        }
    }

    /// Sets its wall clock before anything has happened.
    pub(super) fn start_at(&mut self, wall: Nanos) {
        self.hands.set_wall(WallTime::from_nanos(wall));
    }

    /// Sets its wall clock this far from the true time.
    pub(super) fn set_wall(&mut self, offset: i64) {
        let wall = self.clock.wall().as_nanos();
        let to = wall.saturating_add_signed(offset - self.offset);
        self.hands.set_wall(WallTime::from_nanos(to));
        self.offset = offset;
    }

    pub(super) fn pool(&mut self, bucket: usize, slot: usize) -> &mut Pool {
        &mut self.pools[bucket * NAMES.len() + slot]
    }

    /// What it holds of the limits of a bucket, less what it owes.
    pub(super) fn holds(&self, bucket: usize) -> [i128; NAMES.len()] {
        self.positions(bucket, |position| position.net())
    }

    /// What it can count on of that: a block that has expired may have been replaced by what flowed in.
    pub(super) fn counts_on(&self, bucket: usize, now: Nanos) -> [i128; NAMES.len()] {
        let seat = self.seats[bucket].as_ref();
        if seat.is_some_and(|seat| now < seat.expires_at) {
            return self.holds(bucket);
        }
        self.positions(bucket, |position| {
            i128::from(position.credit) - i128::from(position.debt)
        })
    }

    /// What callers have given back of the limits of a bucket, and has to be credited yet.
    pub(super) fn credits(&self, bucket: usize) -> [u64; NAMES.len()] {
        self.positions(bucket, |position| position.credit)
    }

    /// What it has of each limit of a bucket, in one regard.
    fn positions<T: Copy + Default>(
        &self,
        bucket: usize,
        regard: impl Fn(Position) -> T,
    ) -> [T; NAMES.len()] {
        let mut all = [T::default(); NAMES.len()];
        if let Some(seat) = &self.seats[bucket] {
            let see = |limit: &Limit, position: Position, _| {
                all[slot(limit.name())] = regard(position);
            };
            seat.bucket.positions(see);
        }
        all
    }

    pub(super) fn seat(&mut self, bucket: usize) -> &mut Seat {
        let (cache, limits) = (&self.cache, &self.limits);
        self.seats[bucket].get_or_insert_with(|| {
            let bucket = cache.get_or_insert(&bucket.to_string(), RESOURCE, limits);
            Seat {
                bucket: bucket.expect("numbers are names"),
                waiting: Vec::new(),
                expires_at: 0,
                flight: None,
                refused: None,
            }
        })
    }
}

fn machine(scenario: &Scenario, breaker: Arc<Breaker>, seed: u64) -> Machine {
    let lease_ttl = duration(scenario.options.lease_ttl_ms * 1_000_000);
    let mut settings = RenewalSettings::new(duration(scenario.renewal()), lease_ttl);
    settings.policy = scenario.policy;
    Machine::new(settings, duration(scenario.idle_ttl), breaker, seed)
}
