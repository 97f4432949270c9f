//! Usage against the truth: processes on the real core in simulated time, a table that throttles
//! and loses answers, a stream that is delivered again and cut anywhere, snapshots that cannot be
//! written or do not say that they were.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use serde_dynamo::AttributeValue;
use zae_limiter::breaker::Breaker;
use zae_limiter::reconciler::{Action, Machine};
use zae_limiter::store::{StoreError, StoreErrorKind, WriteOutcome};
use zae_limiter::strict::{BucketPayment, Change, Due, Next};
use zae_limiter_aggregator::{
    Added, Addition, Aggregator, Item, Record, SnapshotError, SnapshotKey, SnapshotStore,
};
use zae_limiter_core::item::{BucketItem, BucketWrite};
use zae_limiter_core::renewal::RenewalSettings;
use zae_limiter_core::usage::{Window, timestamp};
use zae_limiter_core::{
    BucketCache, BucketKey, BucketRef, Charges, Clock, Limit, ManualClock, MonotonicTime, Payer,
    Request, Shortage, WallTime, schema,
};

const ACQUIRES: u32 = 100_000;
const PROCESSES: usize = 3;
const ENTITIES: [&str; 6] = ["a", "b", "c", "d", "e", "f"];
const RESOURCE: &str = "api";

/// Tokens by bucket, limit, window and its start. Zeros are left out.
type Usage = BTreeMap<(String, String, Window, String), i64>;

fn add(usage: &mut Usage, entity: &str, limit: &str, window: Window, at: WallTime, tokens: i64) {
    let start = timestamp(window.start(at));
    let key = (entity.to_owned(), limit.to_owned(), window, start);
    let sum = usage.entry(key.clone()).or_default();
    *sum += tokens;
    if *sum == 0 {
        usage.remove(&key);
    }
}

/// The table: buckets, and the stream of what happens to them, in two shards.
struct Table {
    buckets: HashMap<BucketKey, BucketItem>,
    stream: [Vec<Record>; 2],
    rng: fastrand::Rng,
}

fn n(number: impl ToString) -> AttributeValue {
    AttributeValue::N(number.to_string())
}

fn s(text: impl Into<String>) -> AttributeValue {
    AttributeValue::S(text.into())
}

fn image(item: &BucketItem) -> Item {
    let mut attributes = HashMap::from([
        (schema::SEQUENCE.to_owned(), n(item.sequence)),
        (schema::CONSUMED_AT.to_owned(), n(item.consumed_at_ms)),
    ]);
    for (name, limit) in &item.limits {
        let consumed = HashMap::from([(schema::CONSUMED.to_owned(), n(limit.consumed))]);
        attributes.insert(schema::limit_attribute(name), AttributeValue::M(consumed));
    }
    Item::from(attributes)
}

/// What the stream says of a bucket that was `old` and is `new`.
pub(crate) fn record(
    position: String,
    key: &BucketKey,
    old: Option<&BucketItem>,
    new: Option<&BucketItem>,
) -> Record {
    let keys = Item::from(HashMap::from([
        (schema::PK.to_owned(), s(schema::entity(key.entity_id()))),
        (schema::SK.to_owned(), s(schema::bucket(key.resource()))),
    ]));
    let (old, new) = (old.map(image), new.map(image));
    Record::read(position, &keys, old.as_ref(), new.as_ref())
}

impl Table {
    fn record(&mut self, key: &BucketKey, old: Option<&BucketItem>, new: Option<&BucketItem>) {
        let shard = &mut self.stream[usize::from(key.entity_id() > "c")];
        let position = format!("{:021}", shard.len());
        shard.push(record(position, key, old, new));
    }

    /// A write; of some the answer is lost, and some are not made.
    fn write(&mut self, key: &BucketKey, write: &BucketWrite, heard: bool) -> WriteOutcome {
        if self.rng.u32(..100) < 5 {
            return WriteOutcome::Failed(error(StoreErrorKind::Throttled));
        }
        let mut stored = self.buckets.remove(key);
        let old = stored.clone();
        let outcome = BucketItem::apply(&mut stored, write);
        if outcome.is_ok() {
            self.record(key, old.as_ref(), stored.as_ref());
        }
        if let Some(item) = stored {
            self.buckets.insert(key.clone(), item);
        }
        match outcome {
            _ if !heard && self.rng.u32(..100) < 5 && outcome.is_ok() => {
                WriteOutcome::Unknown(error(StoreErrorKind::Unreachable))
            }
            Ok(item) => WriteOutcome::Applied(item),
            Err(found) => WriteOutcome::Refused(found),
        }
    }

    fn delete(&mut self, key: &BucketKey) {
        if let Some(old) = self.buckets.remove(key) {
            self.record(key, Some(&old), None);
        }
    }
}

fn error(kind: StoreErrorKind) -> StoreError {
    StoreError::new(kind, "by hand")
}

struct Process {
    machine: Machine,
    cache: BucketCache,
}

/// What was acquired, to be adjusted or taken back.
struct Lease {
    process: usize,
    entity: usize,
    generation: Option<u32>,
    charges: Charges,
}

struct World {
    clock: Clock,
    hands: ManualClock,
    limits: Arc<[Limit]>,
    processes: Vec<Process>,
    table: Table,
    truth: Usage,
    rng: fastrand::Rng,
}

impl World {
    fn new(seed: u64) -> Self {
        let (clock, hands) = Clock::manual();
        let settings = RenewalSettings::new(Duration::from_secs(1), Duration::from_secs(5));
        let process = |seed| Process {
            machine: Machine::new(
                settings,
                Duration::from_secs(600),
                Arc::new(Breaker::new(settings.renewal, seed)),
                seed,
            ),
            cache: BucketCache::new(),
        };
        let rpm = Limit::per_minute("rpm", 1_000).unwrap();
        let tpm = Limit::per_minute("tpm", 150_000).unwrap();
        Self {
            clock,
            hands,
            limits: [rpm, tpm].into(),
            processes: (0..PROCESSES as u64).map(process).collect(),
            table: Table {
                buckets: HashMap::new(),
                stream: [Vec::new(), Vec::new()],
                rng: fastrand::Rng::with_seed(seed + 1),
            },
            truth: Usage::new(),
            rng: fastrand::Rng::with_seed(seed),
        }
    }

    fn bucket(&self, process: usize, entity: usize) -> BucketRef {
        let cache = &self.processes[process].cache;
        cache
            .get_or_insert(ENTITIES[entity], RESOURCE, &self.limits)
            .unwrap()
    }

    fn happened(&mut self, entity: usize, charges: &Charges, sign: i64) {
        for (at, tokens) in charges.iter() {
            let limit = self.limits[at as usize].name();
            for window in Window::ALL {
                let tokens = sign * tokens.cast_signed();
                add(
                    &mut self.truth,
                    ENTITIES[entity],
                    limit,
                    window,
                    self.clock.wall(),
                    tokens,
                );
            }
        }
    }

    fn act(&mut self, process: usize, action: Option<Action>) {
        let mut next = action;
        while let Some(action) = next.take() {
            let machine = &mut self.processes[process].machine;
            match action {
                Action::Write(bucket, plan) => {
                    let outcome = self.table.write(bucket.key(), &plan.write, false);
                    next = machine.done(&self.clock, bucket, outcome);
                }
                Action::Forget(bucket) => drop(self.processes[process].cache.forget(&bucket)),
                Action::Probe => machine.probed(&self.clock, Ok(())),
            }
        }
    }

    fn look(&mut self, process: usize, bucket: &BucketRef) {
        let machine = &mut self.processes[process].machine;
        let action = machine.look(&self.clock, bucket.bucket().clone());
        self.act(process, action);
    }

    fn pass(&mut self, length: Duration) {
        let end = self.clock.now().after(length);
        loop {
            for process in 0..PROCESSES {
                while let Some(action) = self.processes[process].machine.tick(&self.clock) {
                    self.act(process, Some(action));
                }
            }
            let now = self.clock.now();
            if now >= end {
                return;
            }
            let due = self
                .processes
                .iter()
                .filter_map(|p| p.machine.next_due())
                .min();
            let next = due.unwrap_or(MonotonicTime::NEVER);
            let next = next.max(now.after(Duration::from_millis(1))).min(end);
            self.hands.advance(next.since(now));
        }
    }

    fn acquire(&mut self, process: usize, entity: usize, strict: bool) -> Option<Lease> {
        let limits = self.limits.clone();
        let consume = [("rpm", 1), ("tpm", self.rng.u64(1..200))];
        let request = Request::new(&limits, &consume);
        let charges = request.charges().unwrap();
        let bucket = self.bucket(process, entity);
        let generation = if strict {
            if !self.pay(process, &bucket, Change::Debit, &charges) {
                return None;
            }
            None
        } else {
            let mut paid = bucket.take(&self.clock, &request);
            if paid == Err(Shortage::Miss) {
                if bucket.want(&request) {
                    self.look(process, &bucket);
                }
                paid = bucket.take(&self.clock, &request);
            }
            let paid = paid.ok()?;
            if paid.hint {
                self.look(process, &bucket);
            }
            Some(paid.generation)
        };
        self.happened(entity, &charges, 1);
        Some(Lease {
            process,
            entity,
            generation,
            charges,
        })
    }

    fn pay(
        &mut self,
        process: usize,
        bucket: &BucketRef,
        change: Change,
        charges: &Charges,
    ) -> bool {
        let due = Due::new(bucket.clone(), self.limits.clone(), charges.clone());
        let mut payment = BucketPayment::new(&self.clock, change, due);
        loop {
            match payment.next(&self.clock) {
                Next::Write(bucket, write) => {
                    // Who is not told whether a strict acquire was made has no truth to tell. And
                    // a credit that is refused for good is the reconciler's: another story.
                    let outcome = loop {
                        match self.table.write(bucket.key(), &write, true) {
                            WriteOutcome::Failed(_) => {}
                            outcome => break outcome,
                        }
                    };
                    if payment.done(&self.clock, outcome) {
                        self.look(process, &bucket);
                    }
                }
                Next::Pause(_) => {}
                Next::Done(result) => return result.is_ok(),
            }
        }
    }

    fn roll_back(&mut self, lease: &Lease) {
        let bucket = self.bucket(lease.process, lease.entity);
        if lease.generation.is_none() {
            if self.pay(lease.process, &bucket, Change::Credit(None), &lease.charges) {
                self.happened(lease.entity, &lease.charges, -1);
            }
            return;
        }
        let limits = self.limits.clone();
        let payer = lease.generation.map_or(Payer::Table(None), Payer::Block);
        let told = bucket.give_back(&self.clock, payer, &limits, &lease.charges);
        self.happened(lease.entity, &lease.charges, -1);
        if told {
            self.look(lease.process, &bucket);
        }
    }

    fn adjust(&mut self, lease: &Lease) {
        let limits = self.limits.clone();
        let consume = [("tpm", self.rng.u64(1..300))];
        let request = Request::new(&limits, &consume);
        let charges = request.charges().unwrap();
        let bucket = self.bucket(lease.process, lease.entity);
        let told = bucket.charge_anyway(&self.clock, &limits[1], consume[0].1);
        self.happened(lease.entity, &charges, 1);
        if told.hint {
            self.look(lease.process, &bucket);
        }
    }

    /// A bucket that nobody holds anything of goes away, as after its time-to-live.
    fn delete(&mut self, entity: usize) -> bool {
        let key = BucketKey::new(ENTITIES[entity], RESOURCE).unwrap();
        let buckets: Vec<_> = (0..PROCESSES).map(|p| self.bucket(p, entity)).collect();
        let resting = buckets
            .iter()
            .all(|bucket| bucket.idle_generation().is_some());
        if resting {
            self.table.delete(&key);
        }
        resting
    }
}

/// Snapshots as DynamoDB keeps them; some writes are not made, of some nothing is heard.
#[derive(Debug)]
struct Snapshots(Mutex<(fastrand::Rng, BTreeMap<SnapshotKey, Snapshot>)>);

#[derive(Debug, Default)]
struct Snapshot {
    tokens: BTreeMap<String, i64>,
    counted: Option<u64>,
}

#[async_trait]
impl SnapshotStore for Snapshots {
    async fn add(&self, key: &SnapshotKey, addition: &Addition) -> Result<Added, SnapshotError> {
        let (rng, snapshots) = &mut *self.0.lock().unwrap();
        let luck = rng.u32(..100);
        if luck < 2 {
            return Err(SnapshotError::new("not made"));
        }
        let snapshot = snapshots.entry(key.clone()).or_default();
        if let Some(counted) = snapshot.counted
            && counted >= addition.first
        {
            return Ok(Added::Counted(counted));
        }
        snapshot.counted = Some(addition.last);
        for (limit, tokens) in &addition.tokens {
            *snapshot.tokens.entry(limit.to_string()).or_default() += tokens;
        }
        if luck < 4 {
            return Err(SnapshotError::new("made, and nobody heard"));
        }
        Ok(Added::Done)
    }
}

/// Delivers a shard at least once, as the service does: from where it failed on, and now and then
/// from before; batches are cut anywhere.
async fn deliver(aggregator: &Aggregator<Arc<Snapshots>>, shard: &[Record], seed: u64) {
    let mut rng = fastrand::Rng::with_seed(seed);
    let mut at = 0;
    while at < shard.len() {
        let end = shard.len().min(at + rng.usize(1..300));
        let report = aggregator.process(&shard[at..end]).await;
        at = match report.failed.first() {
            Some(failed) => failed.position.parse().unwrap(),
            None => end,
        };
        if rng.u32(..10) == 0 {
            at = at.saturating_sub(rng.usize(..500));
        }
    }
}

/// B4 and B5 of the Python library.
#[tokio::test]
async fn usage_is_the_truth_to_the_token() {
    let seed = 20_260_101;
    let mut world = World::new(seed);
    let (mut leases, mut acquired, mut deleted) = (Vec::new(), 0, 0);
    let begun = world.clock.now();
    while acquired < ACQUIRES {
        let (process, entity) = (
            world.rng.usize(..PROCESSES),
            world.rng.usize(..ENTITIES.len()),
        );
        match world.rng.u32(..1_000) {
            0..700 => {
                let strict = world.rng.u32(..10) == 0;
                let lease = world.acquire(process, entity, strict);
                acquired += u32::from(lease.is_some());
                leases.extend(lease);
            }
            700..800 if !leases.is_empty() => {
                let lease = leases.swap_remove(world.rng.usize(..leases.len()));
                world.roll_back(&lease);
            }
            800..870 if !leases.is_empty() => {
                let lease = world.rng.usize(..leases.len());
                world.adjust(&leases[lease]);
            }
            999 => {
                world.pass(Duration::from_secs(30)); // all rest
                if world.delete(entity) {
                    deleted += 1;
                    // What was acquired from it cannot be given back to it any more.
                    leases.retain(|lease: &Lease| lease.entity != entity);
                }
            }
            _ => {
                let length = Duration::from_millis(world.rng.u64(1..1_000));
                world.pass(length);
            }
        }
        leases.truncate(2_000);
    }
    world.pass(Duration::from_secs(60));
    let hours = world.clock.now().since(begun).as_secs() / 3_600;
    assert!(
        hours >= 3 && deleted >= 10,
        "{hours} hours, {deleted} deletions"
    );

    let rng = fastrand::Rng::with_seed(seed + 2);
    let snapshots = Arc::new(Snapshots(Mutex::new((rng, BTreeMap::new()))));
    let aggregator = Aggregator::new(snapshots.clone(), Window::ALL.to_vec(), 90);
    for (shard, seed) in world.table.stream.iter().zip(seed + 3..) {
        deliver(&aggregator, shard, seed).await;
    }
    let mut usage = Usage::new();
    for (key, snapshot) in &snapshots.0.lock().unwrap().1 {
        for (limit, tokens) in &snapshot.tokens {
            add(
                &mut usage,
                key.bucket.entity_id(),
                limit,
                key.window,
                key.start,
                *tokens,
            );
        }
    }
    for (key, tokens) in &world.truth {
        assert_eq!(usage.get(key), Some(tokens), "{key:?}");
    }
    assert_eq!(usage, world.truth);
}
