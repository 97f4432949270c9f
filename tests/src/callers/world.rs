//! The limiters, their table and their clock, with the model beside them.

use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Builder;
use tokio::time;
use zae_limiter::store::FaultyStore;
use zae_limiter::{FailureMode, LeasedOptions, Limit, Mode, NewEntity, RateLimiter, Settings};
use zae_limiter_core::{BucketKey, Clock, ManualClock, WallTime};

use super::lease::TrackedLease;
use super::model::{Broken, Model, PaidBy, Piece};
use super::outcome::Outcome;
use super::sequence::{Faults, LIMITS_MAX, Sequence, Setting};
use super::table::Table;

pub(super) const RESOURCE: &str = "api";
pub(super) const NAMES: [&str; LIMITS_MAX] = ["a", "b", "c", "d", "e"];
const ENTITIES: [&str; 2] = ["child", "parent"];
const OPTIONS: LeasedOptions = LeasedOptions {
    renewal_interval_ms: 1_000,
    lease_ttl_ms: 5_000,
};
/// When a sequence begins, in seconds: in the year 2100, so that no real table finds that a TTL has passed.
const BEGINS_AT: Duration = Duration::from_secs(4_102_444_800);
/// In which steps time goes on.
const STEP: Duration = Duration::from_millis(10);
/// How long a direct write may take in all, by the faults that there are.
const WRITES_TAKE: Duration = Duration::from_secs(2);

pub(super) struct World {
    pub(super) setting: Setting,
    pub(super) clock: Clock,
    pub(super) manual: ManualClock,
    pub(super) table: FaultyStore<dyn Table>,
    pub(super) limiters: Vec<RateLimiter>,
    /// The child first, then its parent.
    pub(super) entities: [&'static str; 2],
    pub(super) limits: Vec<Limit>,
    pub(super) leases: Vec<TrackedLease>,
    pub(super) model: Model,
    /// How far the wall clock was moved forward.
    pub(super) ahead: Duration,
    /// Whether a call was abandoned: what it was looking up may be found later.
    pub(super) abandoned: bool,
    /// Whether it may be unknown who pays.
    degrades: bool,
    began: u64,
}

/// Plays a sequence in simulated time.
pub(super) fn run(sequence: &Sequence, table: &dyn Table) -> Result<Outcome, Broken> {
    let table = table.emptied(&ENTITIES);
    let runtime = Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build();
    let runtime = runtime.expect("a runtime");
    runtime.block_on(async {
        fastrand::seed(sequence.setting.seed);
        let mut world = World::new(sequence, table).await;
        let manual = world.manual.clone();
        let ticks = tokio::spawn(async move {
            loop {
                time::sleep(STEP).await;
                manual.advance(STEP);
            }
        });
        let outcome = world.play(sequence).await;
        ticks.abort();
        outcome
    })
}

impl World {
    async fn new(sequence: &Sequence, table: Arc<dyn Table>) -> Self {
        let setting = sequence.setting;
        let (clock, manual) = Clock::manual();
        manual.set_wall(WallTime::ZERO.after(BEGINS_AT));
        let table = FaultyStore::over(table);
        let mut limiters = Vec::new();
        for strict in &setting.strict[..setting.processes] {
            let builder = RateLimiter::builder("callers").store(table.clone());
            let builder = builder.settings(settings(&setting, *strict));
            let limiter = builder.clock(clock.clone()).connect().await;
            limiters.push(limiter.expect("a table"));
        }
        let period = Duration::from_secs(setting.period);
        let limit = |name: &&str| {
            let limit = Limit::custom(name, setting.burst, setting.burst, period);
            limit.expect("a limit")
        };
        let limits: Vec<_> = NAMES[..setting.limits].iter().map(limit).collect();
        let degrades = setting.open && setting.faults != Faults::None;
        let world = Self {
            setting,
            began: clock.now().as_nanos(),
            clock,
            manual,
            table,
            limiters,
            entities: ENTITIES,
            leases: Vec::new(),
            model: model(sequence, &limits, degrades),
            limits,
            ahead: Duration::ZERO,
            abandoned: false,
            degrades,
        };
        let parent = NewEntity::new(ENTITIES[1]);
        let parent = world.limiters[0].create_entity(parent).await;
        parent.expect("there is none");
        world.create_child().await;
        world.store_limits().await;
        world.table.reset();
        world.heal();
        world
    }

    async fn play(&mut self, sequence: &Sequence) -> Result<Outcome, Broken> {
        for operation in &sequence.operations {
            let done = self.operate(operation).await;
            done.map_err(|broken| Broken(format!("{operation:?}: {broken}")))?;
            for lease in &self.leases {
                lease.compare()?;
            }
        }
        self.finish().await
    }

    /// Nanoseconds since the beginning.
    pub(super) fn now(&self) -> u64 {
        self.clock.now().as_nanos() - self.began
    }

    /// The buckets of the entities.
    pub(super) fn keys(&self) -> [BucketKey; 2] {
        let key = |entity| BucketKey::new(entity, RESOURCE).expect("names");
        self.entities.map(key)
    }

    /// Who pays for what a lease consumes later, or is charged with.
    pub(super) fn payer(&self) -> PaidBy {
        if self.degrades {
            PaidBy::Unknown
        } else {
            PaidBy::Table
        }
    }

    fn charged_entities(&self, cascades: bool) -> Vec<&'static str> {
        let count = if cascades { 2 } else { 1 };
        self.entities[..count].to_vec()
    }

    /// Tells the model that a piece was charged now.
    pub(super) fn charge_entities(
        &mut self,
        cascades: bool,
        limit: usize,
        piece: Piece,
    ) -> Result<(), Broken> {
        let now = self.now();
        for entity in self.charged_entities(cascades) {
            let limit = &self.limits[limit];
            self.model.charge(entity, limit, now, piece)?;
        }
        Ok(())
    }

    /// Tells the model that a piece was given back.
    pub(super) fn give_back(&mut self, cascades: bool, limit: usize, piece: Piece) {
        let now = self.now();
        for entity in self.charged_entities(cascades) {
            let limit = &self.limits[limit];
            self.model.give_back(entity, limit, now, piece);
        }
    }

    /// Tells the model that what was consumed, if it was, is given back.
    pub(super) fn undone(&mut self, cascades: bool, limit: usize, tokens: u64) {
        self.abandoned = true;
        let now = self.now();
        for entity in self.charged_entities(cascades) {
            self.model.undone(entity, &self.limits[limit], now, tokens);
        }
    }
}

fn settings(setting: &Setting, strict: bool) -> Settings {
    Settings {
        mode: if strict {
            Mode::Strict
        } else {
            Mode::Leased(OPTIONS)
        },
        failure_mode: if setting.open {
            FailureMode::Open
        } else {
            FailureMode::Closed
        },
        acquire_timeout_ms: 1_000,
        limits_ttl_ms: 200,
        entity_ttl_ms: 200,
        ..Settings::default()
    }
}

fn model(sequence: &Sequence, limits: &[Limit], degrades: bool) -> Model {
    let setting = &sequence.setting;
    let lease_ttl = Duration::from_millis(if sequence.is_strict() {
        0
    } else {
        OPTIONS.lease_ttl_ms
    });
    let skew = sequence.clocks_set_by();
    // Clocks that go back take some refill away.
    let certain = skew.is_zero() && !degrades;
    Model::new(
        limits,
        lease_ttl + WRITES_TAKE + skew,
        setting.faults,
        certain,
    )
}
