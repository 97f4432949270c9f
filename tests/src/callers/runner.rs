//! Plays a sequence on real limiters, and keeps the books.

use std::cell::Cell;
use std::panic::AssertUnwindSafe;
use std::pin::pin;
use std::time::Duration;

use futures::FutureExt;
use tokio::runtime::Builder;
use tokio::time;
use zae_limiter::store::{FaultyStore, MemoryStore};
use zae_limiter::{
    Acquire, Error, ErrorKind, FailureMode, Lease, LeasedOptions, Limit, LimitScope, Mode,
    NewEntity, RateLimiter, ScopedLease, Settings,
};
use zae_limiter_core::{BucketKey, Clock, ManualClock, estimate};

use super::model::{Broken, Model, Piece};
use super::operation::{Cut, End, Faults, LIMITS_MAX, Operation, Sequence, Setting};

const ENTITIES: [&str; 2] = ["child", "parent"];
const RESOURCE: &str = "api";
const NAMES: [&str; LIMITS_MAX] = ["a", "b", "c", "d", "e"];
const OPTIONS: LeasedOptions = LeasedOptions {
    renewal_interval_ms: 1_000,
    lease_ttl_ms: 5_000,
};
/// In which steps time goes on.
const STEP: Duration = Duration::from_millis(10);
/// How long a direct write may take in all, by the faults that there are.
const WRITES_TAKE: Duration = Duration::from_secs(2);
const DAY: Duration = Duration::from_secs(86_400);

/// A lease, and what the books say of it, the oldest piece first.
struct Held {
    lease: Lease<'static>,
    cascades: bool,
    pieces: Vec<(usize, Piece)>,
    /// A correction of a limit whose caller went away: it may turn out not to have been made.
    pending: Option<(usize, u64)>,
}

struct World {
    setting: Setting,
    clock: Clock,
    hands: ManualClock,
    table: FaultyStore<MemoryStore>,
    limiters: Vec<RateLimiter>,
    limits: Vec<Limit>,
    leases: Vec<Held>,
    model: Model,
    /// Whether it may be unknown who pays.
    degrades: bool,
    began: u64,
    /// How far the wall clock was moved forward.
    ahead: Duration,
}

pub(super) fn run(sequence: &Sequence) -> Result<(), Broken> {
    let runtime = Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build();
    let runtime = runtime.expect("a runtime");
    runtime.block_on(async {
        fastrand::seed(sequence.setting.seed);
        let mut world = World::new(sequence).await;
        let hands = world.hands.clone();
        let ticks = tokio::spawn(async move {
            loop {
                time::sleep(STEP).await;
                hands.advance(STEP);
            }
        });
        let played = world.play(&sequence.operations).await;
        ticks.abort();
        played
    })
}

/// Polls so often at most.
async fn cut<T>(future: impl Future<Output = T>, cut: Cut) -> Option<T> {
    let Some(polls) = cut else {
        return Some(future.await);
    };
    let mut future = pin!(future);
    for _ in 0..polls {
        if let Some(output) = future.as_mut().now_or_never() {
            return Some(output);
        }
        tokio::task::yield_now().await;
    }
    None
}

impl World {
    async fn new(sequence: &Sequence) -> Self {
        let setting = sequence.setting;
        let (clock, hands) = Clock::manual();
        let table = FaultyStore::new(MemoryStore::new());
        let mut limiters = Vec::new();
        for strict in &setting.strict[..setting.processes] {
            let settings = Settings {
                mode: if *strict {
                    Mode::Strict
                } else {
                    Mode::Leased(OPTIONS)
                },
                acquire_timeout_ms: 1_000,
                limits_ttl_ms: 200,
                entity_ttl_ms: 200,
                failure_mode: if setting.open {
                    FailureMode::Open
                } else {
                    FailureMode::Closed
                },
                ..Settings::default()
            };
            let builder = RateLimiter::builder("callers").store(table.clone());
            let builder = builder.settings(settings).clock(clock.clone());
            limiters.push(builder.connect().await.expect("a table"));
        }
        let parent = limiters[0].create_entity(NewEntity::new(ENTITIES[1])).await;
        parent.expect("a parent");
        let child = NewEntity::new(ENTITIES[0]).parent(ENTITIES[1]);
        limiters[0].create_entity(child).await.expect("a child");
        let period = Duration::from_secs(setting.period);
        let limit = |name: &&str| Limit::custom(name, setting.burst, setting.burst, period);
        let limits: Vec<_> = NAMES[..setting.limits]
            .iter()
            .map(limit)
            .collect::<Result<_, _>>()
            .expect("limits");
        let direct = |operation: &Operation| {
            !matches!(
                operation,
                Operation::Acquire {
                    strict: Some(false),
                    ..
                }
            )
        };
        let strict = setting.strict[..setting.processes]
            .iter()
            .all(|strict| *strict)
            && sequence.operations.iter().all(direct);
        let skew: u64 = sequence
            .operations
            .iter()
            .map(|operation| match operation {
                Operation::SetClocks(millis) => millis.unsigned_abs(),
                _ => 0,
            })
            .sum();
        let lease_ttl = Duration::from_millis(if strict { 0 } else { OPTIONS.lease_ttl_ms });
        let mut model = Model::new(lease_ttl + WRITES_TAKE + Duration::from_millis(skew));
        // Clocks that go back take some refill away.
        model.exact = setting.faults != Faults::Any && skew == 0;
        model.tolerance = i64::from(setting.faults != Faults::None);
        let began = clock.now().as_nanos();
        let mut world = Self {
            setting,
            clock,
            hands,
            table,
            limiters,
            limits,
            leases: Vec::new(),
            model,
            degrades: setting.open && setting.faults != Faults::None,
            began,
            ahead: Duration::ZERO,
        };
        world.model.exact &= !world.degrades;
        world.store_limits().await;
        world.heal();
        world
    }

    async fn store_limits(&self) {
        if self.setting.stored {
            for entity in ENTITIES {
                let scope = LimitScope::entity(entity).and_then(|scope| scope.on(RESOURCE));
                let scope = scope.expect("names");
                let stored = self.limiters[0].set_limits(&scope, &self.limits);
                stored.await.expect("a table");
            }
        }
    }

    /// The table does not fail any more.
    fn heal(&self) {
        self.table.fail_all(Some(self.setting.answers));
    }

    fn now(&self) -> u64 {
        self.clock.now().as_nanos() - self.began
    }

    async fn play(&mut self, operations: &[Operation]) -> Result<(), Broken> {
        for operation in operations {
            self.operate(*operation)
                .await
                .map_err(|broken| Broken(format!("{operation:?}: {broken}")))?;
            for held in &self.leases {
                held.compare()?;
            }
        }
        self.finish().await
    }

    async fn operate(&mut self, operation: Operation) -> Result<(), Broken> {
        match operation {
            Operation::Acquire {
                process,
                named,
                tokens,
                cascade,
                strict,
                handle,
                cut,
            } => {
                let consume: Vec<_> = (0..self.limits.len())
                    .filter(|at| named & 1 << at != 0)
                    .map(|at| (at, tokens))
                    .collect();
                self.acquire(process, &consume, cascade, strict, handle, cut)
                    .await
            }
            Operation::Consume(lease, limit, tokens, cut) => {
                self.consume(lease, limit, tokens, cut).await
            }
            Operation::Adjust(lease, limit, delta, cut) => {
                self.adjust(lease, limit, delta, cut).await
            }
            Operation::RollBack(lease, after) => {
                if let Some(mut held) = self.take(lease) {
                    for (limit, piece) in std::mem::take(&mut held.pieces) {
                        self.give_back(held.cascades, limit, piece);
                    }
                    cut(held.lease.rollback(), after).await;
                }
                Ok(())
            }
            Operation::Commit(lease) => {
                if let Some(mut held) = self.take(lease) {
                    self.settle(&mut held).await?;
                    held.lease.commit();
                }
                Ok(())
            }
            Operation::Run(process, tokens, delta, end, cut) => {
                self.work(process, tokens, delta, end, cut).await
            }
            Operation::Nonsense(lease, which) => self.nonsense(lease, which).await,
            other => {
                self.happen(other).await;
                Ok(())
            }
        }
    }

    async fn happen(&mut self, operation: Operation) {
        match operation {
            Operation::Pass(millis) => time::sleep(Duration::from_millis(millis)).await,
            Operation::Fail(fault) => self.table.fail_all(Some(fault)),
            Operation::Heal => self.heal(),
            Operation::Change(tenths) => {
                (self.model.exact, self.model.bounded) = (false, false);
                let burst = (self.limits[0].burst_tokens() * tenths / 10).max(1);
                let period = self.limits[0].refill_period();
                let limit =
                    |name: &&str| Limit::custom(name, burst, burst, period).expect("a limit");
                self.limits = NAMES[..self.setting.limits].iter().map(limit).collect();
                self.heal();
                self.store_limits().await;
            }
            Operation::Delete => {
                (self.model.exact, self.model.bounded) = (false, false);
                self.heal();
                let _ = self.limiters[0].delete_entity(ENTITIES[0]).await;
                let child = NewEntity::new(ENTITIES[0]).parent(ENTITIES[1]);
                self.limiters[0]
                    .create_entity(child)
                    .await
                    .expect("it is gone");
                self.store_limits().await;
            }
            Operation::Expire(days) => {
                (self.model.exact, self.model.windows) = (false, false);
                let days = u32::try_from(days).expect("few days");
                self.hands.advance(DAY * days);
                self.table.inner().expire(self.clock.wall());
            }
            Operation::SetClocks(millis) => {
                let by = Duration::from_millis(millis.unsigned_abs());
                let wall = self.clock.wall();
                self.hands.set_wall(if millis > 0 {
                    wall.after(by)
                } else {
                    wall.before(by)
                });
                self.ahead += if millis > 0 { by } else { Duration::ZERO };
            }
            _ => {}
        }
    }

    /// An acquire of this limiter, as it is set.
    fn prepare<'a>(
        &'a self,
        process: usize,
        consume: &[(usize, u64)],
        cascade: bool,
    ) -> Acquire<'a> {
        let acquire = self.limiters[process].acquire(ENTITIES[0], RESOURCE);
        let acquire = if self.setting.stored {
            acquire.use_stored_limits(true)
        } else {
            acquire.limits(&self.limits)
        };
        let acquire = acquire.cascade(cascade);
        consume.iter().fold(acquire, |acquire, (at, tokens)| {
            acquire.consume(NAMES[*at], *tokens)
        })
    }

    async fn acquire(
        &mut self,
        process: usize,
        consume: &[(usize, u64)],
        cascade: bool,
        strict: Option<bool>,
        handle: bool,
        after: Cut,
    ) -> Result<(), Broken> {
        let acquired = self
            .acquired(process, consume, cascade, strict, handle, after)
            .await;
        let Some(acquired) = acquired else {
            return Ok(()); // nothing was consumed, or it is given back
        };
        let lease = match acquired {
            Ok(lease) => lease,
            Err(error) => return refused(&error),
        };
        let paid = Some(!lease.is_degraded());
        let mut held = Held {
            lease,
            cascades: cascade,
            pieces: Vec::new(),
            pending: None,
        };
        for (at, tokens) in consume {
            let piece = Piece {
                tokens: *tokens,
                charged: false,
                paid,
            };
            self.charge(&mut held, *at, piece)?;
        }
        self.leases.push(held);
        Ok(())
    }

    /// The lease of an acquire, unless it was given up.
    async fn acquired(
        &self,
        process: usize,
        consume: &[(usize, u64)],
        cascade: bool,
        strict: Option<bool>,
        handle: bool,
        after: Cut,
    ) -> Option<Result<Lease<'static>, Error>> {
        let acquire = self.prepare(process, consume, cascade);
        let acquire = strict.map_or(acquire.clone(), |strict| acquire.strict(strict));
        if handle && !self.setting.stored {
            let consume: Vec<_> = consume.iter().map(|(at, n)| (NAMES[*at], *n)).collect();
            let handle = match self.prepare(process, &[], cascade).handle().await {
                Ok(handle) => handle,
                Err(_) => return None, // the entity could not be read
            };
            let acquire = async { handle.acquire(&consume).await.map(Lease::into_owned) };
            cut(acquire, after).await
        } else {
            cut(async { acquire.await.map(Lease::into_owned) }, after).await
        }
    }

    fn charge(&mut self, held: &mut Held, limit: usize, piece: Piece) -> Result<(), Broken> {
        held.pieces.push((limit, piece));
        let at = self.now();
        for entity in entities(held.cascades) {
            self.model.charge(entity, &self.limits[limit], at, piece)?;
        }
        Ok(())
    }

    fn give_back(&mut self, cascades: bool, limit: usize, piece: Piece) {
        for entity in entities(cascades) {
            self.model.give_back(entity, &self.limits[limit], piece);
        }
    }

    /// One of the leases under way, taken out.
    fn take(&mut self, lease: usize) -> Option<Held> {
        if self.leases.is_empty() {
            return None;
        }
        Some(self.leases.remove(lease % self.leases.len()))
    }

    /// Who pays for more of a lease.
    fn payer(&self) -> Option<bool> {
        (!self.degrades).then_some(true)
    }

    async fn consume(
        &mut self,
        lease: usize,
        limit: usize,
        tokens: u64,
        after: Cut,
    ) -> Result<(), Broken> {
        let Some(mut held) = self.take(lease) else {
            return Ok(());
        };
        let done = cut(held.lease.consume(NAMES[limit], tokens), after).await;
        let consumed = if matches!(done, Some(Ok(()))) {
            tokens
        } else {
            0
        };
        self.unpend(&mut held, limit, consumed);
        match done {
            Some(Ok(())) => {
                let piece = Piece {
                    tokens,
                    charged: false,
                    paid: self.payer(),
                };
                self.charge(&mut held, limit, piece)?;
            }
            Some(Err(error)) => refused(&error)?,
            None => {}
        }
        self.leases.push(held);
        Ok(())
    }

    async fn adjust(
        &mut self,
        lease: usize,
        limit: usize,
        delta: i64,
        after: Cut,
    ) -> Result<(), Broken> {
        let Some(mut held) = self.take(lease) else {
            return Ok(());
        };
        self.settle(&mut held).await?;
        let before = held.consumed(limit);
        let allowed = delta >= 0 || delta.unsigned_abs() <= before;
        let done = cut(held.lease.adjust(NAMES[limit], delta), after).await;
        if !allowed && matches!(done, Some(Ok(()))) {
            return Err(Broken(format!(
                "{before} are consumed, and {delta} was allowed"
            )));
        }
        // What was begun before it was given up is done, or is being done.
        let made = held.consumed(limit) != before || delta == 0;
        if matches!(done, Some(Ok(()))) && !made {
            return Err(Broken("a correction that was made is not there".to_owned()));
        }
        if made && delta > 0 {
            let tokens = delta.unsigned_abs();
            let piece = Piece {
                tokens,
                charged: true,
                paid: self.payer(),
            };
            self.charge(&mut held, limit, piece)?;
            held.pending = done.is_none().then_some((limit, tokens));
        } else if made {
            self.uncharge(&mut held, limit, delta.unsigned_abs());
        }
        self.leases.push(held);
        Ok(())
    }

    /// The last pieces of a limit go first.
    fn uncharge(&mut self, held: &mut Held, limit: usize, mut tokens: u64) {
        for at in (0..held.pieces.len()).rev() {
            let (of, piece) = &mut held.pieces[at];
            let part = piece.tokens.min(tokens);
            if *of != limit || part == 0 {
                continue;
            }
            tokens -= part;
            piece.tokens -= part;
            let part = Piece {
                tokens: part,
                ..*piece
            };
            self.give_back(held.cascades, limit, part);
        }
    }

    /// Waits for what was begun before.
    async fn settle(&mut self, held: &mut Held) -> Result<(), Broken> {
        if held.pending.is_some() {
            let _ = held.lease.adjust(NAMES[0], 0).await;
            self.unpend(held, 0, 0);
        }
        Ok(())
    }

    /// Whether what was begun has turned out not to be made, now that more of a limit was consumed.
    fn unpend(&mut self, held: &mut Held, of: usize, consumed: u64) {
        if let Some((limit, tokens)) = held.pending
            && held.consumed(limit) + tokens
                == held.booked(limit) + if limit == of { consumed } else { 0 }
        {
            self.uncharge(held, limit, tokens);
            held.pending = None;
        }
    }

    async fn work(
        &mut self,
        process: usize,
        tokens: u64,
        delta: i64,
        end: End,
        after: Cut,
    ) -> Result<(), Broken> {
        let consumed = Cell::new(None);
        let paid = Cell::new(true);
        let acquire = self.prepare(process, &[(0, tokens)], false);
        let work = async |mut lease: ScopedLease<'_>| {
            paid.set(!lease.is_degraded());
            let _ = lease.adjust(NAMES[0], delta).await;
            consumed.set(lease.consumed().get(NAMES[0]).copied());
            match end {
                End::Succeeds => Ok(()),
                End::Fails => Err(Error::Settings("it fails".into())),
                End::Panics => panic!("on purpose"),
            }
        };
        let run = AssertUnwindSafe(acquire.run(work)).catch_unwind();
        let hook = quiet();
        let done = cut(run, after).await;
        drop(hook);
        match done {
            Some(Ok(Ok(()))) => {}
            Some(Ok(Err(error))) if error.kind() != ErrorKind::Settings => return refused(&error),
            _ => return Ok(()), // all of it is given back
        }
        let consumed = consumed.take().unwrap_or(0);
        let paid = if self.degrades {
            None
        } else {
            Some(paid.get())
        };
        let limit = self.limits[0].clone();
        let at = self.now();
        let admitted = Piece {
            tokens: tokens.min(consumed),
            charged: false,
            paid,
        };
        let charged = Piece {
            tokens: consumed.saturating_sub(tokens),
            charged: true,
            paid,
        };
        self.model.charge(ENTITIES[0], &limit, at, admitted)?;
        self.model.charge(ENTITIES[0], &limit, at, charged)
    }

    async fn nonsense(&mut self, lease: usize, which: u8) -> Result<(), Broken> {
        let Some(mut held) = self.take(lease) else {
            return Ok(());
        };
        self.settle(&mut held).await?;
        let burst = self.limits[0].burst_tokens();
        let much = held.consumed(0).cast_signed();
        let error = match which % 4 {
            0 => held.lease.adjust("nope", 1).await,
            1 => held.lease.consume(NAMES[0], burst * 100).await,
            2 => held.lease.adjust(NAMES[0], -much - 1).await,
            _ => held.lease.adjust(NAMES[0], i64::MIN).await,
        };
        if !error.is_err_and(|error| error.kind() == ErrorKind::Validation) {
            return Err(Broken("nonsense was not refused as such".to_owned()));
        }
        self.leases.push(held);
        Ok(())
    }

    /// Everybody goes home, and the table is compared with the books.
    async fn finish(&mut self) -> Result<(), Broken> {
        self.heal();
        time::sleep(Duration::from_secs(1)).await;
        for mut held in std::mem::take(&mut self.leases) {
            self.settle(&mut held).await?;
            held.compare()?;
            held.lease.commit();
        }
        for limiter in &self.limiters {
            let report = limiter.shutdown(Duration::from_secs(30)).await;
            if self.model.exact && !report.is_complete() {
                return Err(Broken(format!("not everything was given back: {report:?}")));
            }
        }
        let elapsed = Duration::from_nanos(self.now()) + self.ahead;
        for entity in ENTITIES {
            let key = BucketKey::new(entity, RESOURCE).expect("names");
            let item = self.table.inner().bucket(&key);
            for limit in &self.limits {
                let level = estimate::level(item.as_ref(), self.clock.wall(), limit);
                let level = limit.terms().to_tokens(level);
                let counted = item
                    .as_ref()
                    .and_then(|item| Some(item.limit(limit.name())?.consumed));
                (self.model).finish(entity, limit, elapsed, level, counted.unwrap_or(0))?;
            }
        }
        Ok(())
    }
}

impl Held {
    /// What the lease says.
    fn consumed(&self, limit: usize) -> u64 {
        self.lease
            .consumed()
            .get(NAMES[limit])
            .copied()
            .unwrap_or(0)
    }

    /// What the books say.
    fn booked(&self, limit: usize) -> u64 {
        let pieces = self.pieces.iter().filter(|(of, _)| *of == limit);
        pieces.map(|(_, piece)| piece.tokens).sum()
    }

    fn compare(&self) -> Result<(), Broken> {
        for (limit, name) in NAMES.iter().enumerate() {
            let (says, booked) = (self.consumed(limit), self.booked(limit));
            if says != booked {
                return Err(Broken(format!(
                    "a lease has {says} of {name}, not {booked}"
                )));
            }
        }
        Ok(())
    }
}

fn entities(cascades: bool) -> &'static [&'static str] {
    if cascades { &ENTITIES } else { &ENTITIES[..1] }
}

/// A refusal says why, and never "at once".
fn refused(error: &Error) -> Result<(), Broken> {
    match error.as_exceeded() {
        Some(exceeded) if exceeded.violations().next().is_none() => {
            Err(Broken("a refusal without a limit that refused".to_owned()))
        }
        Some(exceeded) if exceeded.retry_after().is_zero() => {
            Err(Broken("a refusal that may be repeated at once".to_owned()))
        }
        _ => Ok(()),
    }
}

/// Panics on purpose are not printed.
struct Quiet;

fn quiet() -> Quiet {
    std::panic::set_hook(Box::new(|_| {}));
    Quiet
}

impl Drop for Quiet {
    fn drop(&mut self) {
        let _ = std::panic::take_hook();
    }
}
