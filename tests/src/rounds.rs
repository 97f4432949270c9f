//! Rounds in which one of several processes is killed: was too much admitted, and what was lost?
//!
//! The limit refills next to nothing, so every token can be counted: it is in the table, or it
//! was admitted and written down, or it is lost.

use std::path::Path;
use std::time::Duration;

use futures::{StreamExt, stream};
use serde::Serialize;
use tempfile::TempDir;
use tokio::time;
use zae_limiter::store::Store;
use zae_limiter::{LeasedOptions, Limit, Mode, Settings};
use zae_limiter_core::{BucketKey, Clock, estimate};

use crate::fleet::WindowBound;
use crate::journal::{self, Record};
use crate::worker::{Order, Worker, crew};
use crate::{FreshTable, endpoint};

/// As long as a round takes on the slowest machine and longer, so that at its end the table still
/// counts what anybody was granted.
const LEASE_TTL: Duration = Duration::from_secs(600);
const RENEWAL: Duration = Duration::from_secs(1);
/// In every so many-th round the others go on until nothing is left. That takes long: what is
/// scarce is handed out token by token.
const DRAINED: u32 = 20;
/// How long the workers may take to take half of a bucket, on a busy machine.
const PATIENCE: Duration = Duration::from_secs(240);
/// How long they have for the rest.
const DRAINING: Duration = Duration::from_secs(30);

/// What the rounds are like. Plain data.
#[derive(Clone, Debug)]
pub struct Rounds {
    /// How many rounds there are.
    pub rounds: u32,
    /// How many of them run at the same time.
    pub at_once: usize,
    /// Processes per round; one of them is killed.
    pub workers: usize,
    /// Tokens in a bucket; each round has its own.
    pub burst: u64,
    /// Acquires per second and process.
    pub per_second: u32,
    /// Decides who is killed, and when.
    pub seed: u64,
}

impl Default for Rounds {
    fn default() -> Self {
        Self {
            rounds: 20,
            at_once: 3,
            workers: 4,
            burst: 3_000,
            per_second: 150,
            seed: 1,
        }
    }
}

/// What came out of one round, in tokens.
#[derive(Clone, Debug, Serialize)]
pub struct Round {
    /// When one of the processes was killed, after all had begun.
    pub killed_after_ms: u64,
    /// Admitted, and written down, by all processes.
    pub admitted: u64,
    /// Admitted by the one that was killed.
    pub admitted_by_killed: u64,
    /// Left in the table.
    pub level: i64,
    /// Neither in the table nor admitted. The killed process may have admitted one more than it
    /// could write down; that one is counted here.
    pub lost: i64,
    /// What the killed process had been granted last, by the table's count: the most that it can
    /// have held.
    pub held: i64,
    /// Acquires that were refused, of those that ended in order.
    pub refused: u64,
    /// Acquires that were not answered, although the table was well, of those that ended in order.
    pub unavailable: u64,
    /// Whether all windows kept the bound.
    pub bound_holds: bool,
    /// How much of the bound the worst window has used.
    pub bound_used: f64,
}

impl Round {
    /// Whether the bound holds, and no more is gone than the killed process held.
    #[must_use]
    pub fn is_right(&self) -> bool {
        // One more: what was admitted between the last renewal and the kill, and not written down.
        self.bound_holds && (0..=self.held + 1).contains(&self.lost)
    }
}

/// What came out of all rounds.
#[derive(Clone, Debug, Serialize)]
pub struct Summary {
    /// How many there were.
    pub rounds: usize,
    /// In how many the bound was kept and no more lost than was held.
    pub right: usize,
    /// In how many anything was lost.
    pub with_losses: usize,
    /// Tokens that were admitted.
    pub admitted: u64,
    /// Tokens that were lost.
    pub lost: i64,
    /// The most that was lost in one round.
    pub lost_most: i64,
    /// The most that the killed processes can have held.
    pub held: i64,
    /// Acquires that were not answered, although the table was well.
    pub unavailable: u64,
    /// How much of the bound the worst window of all has used.
    pub bound_used: f64,
}

impl Summary {
    /// Of these rounds.
    #[must_use]
    pub fn of(rounds: &[Round]) -> Self {
        let lost = || rounds.iter().map(|round| round.lost);
        let used = rounds.iter().map(|round| round.bound_used);
        Self {
            rounds: rounds.len(),
            right: rounds.iter().filter(|round| round.is_right()).count(),
            with_losses: lost().filter(|&lost| lost > 0).count(),
            admitted: rounds.iter().map(|round| round.admitted).sum(),
            lost: lost().sum(),
            lost_most: lost().max().unwrap_or(0),
            held: rounds.iter().map(|round| round.held).sum(),
            unavailable: rounds.iter().map(|round| round.unavailable).sum(),
            bound_used: used.fold(0.0, f64::max),
        }
    }
}

impl Rounds {
    /// Plays them, each on a bucket of its own in `table`, and answers in the order in which they
    /// end; `program` is the `worker` of this package.
    ///
    /// # Panics
    /// If a worker does not start, does not end when it is told to, or does not give back what it
    /// holds; if the table does not answer.
    pub async fn play(&self, table: &FreshTable, program: &Path) -> Vec<Round> {
        let journals = tempfile::tempdir().expect("a directory should be made");
        let journals = &journals;
        let play = |round| async move { self.round(table, program, journals, round).await };
        let rounds = stream::iter((0..self.rounds).map(play));
        // The long ones keep nobody waiting.
        rounds.buffer_unordered(self.at_once).collect().await
    }

    async fn round(
        &self,
        table: &FreshTable,
        program: &Path,
        journals: &TempDir,
        round: u32,
    ) -> Round {
        let mut chance = fastrand::Rng::with_seed(self.seed ^ u64::from(round) << 32);
        let order = self.order(table, round);
        let mut workers = crew(program, &order, self.workers, journals.path()).await;

        let begun = time::Instant::now();
        let mut killed = workers.swap_remove(chance.usize(..workers.len()));
        // At any moment between its first admission and half of its share. After that blocks
        // become small, for then tokens are scarce.
        let share = self.burst / u64::try_from(self.workers).expect("a small number");
        let enough = chance.u64(1..share / 2);
        let by_all = || admitted(&killed) + workers.iter().map(admitted).sum::<u64>();
        while admitted(&killed) < enough && by_all() < self.burst / 2 {
            assert!(begun.elapsed() < PATIENCE, "round {round}: nothing happens");
            time::sleep(Duration::from_millis(10)).await;
        }
        killed.kill().await.expect("it should be running");
        let killed_after = begun.elapsed();
        if round.is_multiple_of(DRAINED) {
            let all = || workers.iter().map(admitted).sum::<u64>();
            let mut before = None;
            let patience = time::Instant::now() + DRAINING;
            while before != Some(all()) && time::Instant::now() < patience {
                before = Some(all());
                time::sleep(Duration::from_secs(1)).await;
            }
        } else {
            time::sleep(Duration::from_millis(chance.u64(..1_000))).await;
        }
        let ended = workers.iter_mut().map(|worker| worker.terminate());
        for status in futures::future::join_all(ended).await {
            let status = status.expect("it should end when it is told to");
            assert!(status.success(), "round {round}: a worker ended {status}");
        }

        let mut records = vec![killed.record().expect("a journal")];
        for worker in &workers {
            let record = worker.record().expect("a journal");
            let ending = record.ending.expect("it ended in order");
            assert_eq!(ending.unreturned, 0, "round {round}: not given back");
            records.push(record);
        }
        let (level, held) = in_table(table, &order).await;
        self.count(&order.limit, &records, level, held, killed_after)
    }

    fn order(&self, table: &FreshTable, round: u32) -> Order {
        let day = Duration::from_secs(86_400);
        let options = LeasedOptions {
            renewal_interval_ms: millis(RENEWAL),
            lease_ttl_ms: millis(LEASE_TTL),
        };
        Order {
            table: table.name().to_owned(),
            endpoint_url: endpoint(),
            entity: format!("round-{round}"),
            limit: Limit::custom("jobs", self.burst, 1, day).expect("a limit"),
            per_second: self.per_second,
            settings: Settings {
                mode: Mode::Leased(options),
                acquire_timeout_ms: 60_000,
                ..Settings::default()
            },
            // A busy emulator is slow. What an unanswered write costs is not the question here.
            operation_timeout: Duration::from_secs(30),
        }
    }

    fn count(
        &self,
        limit: &Limit,
        records: &[Record],
        level: i64,
        held: i64,
        killed_after: Duration,
    ) -> Round {
        let admissions = journal::merged(records);
        let mut bound = WindowBound::new(limit.terms(), LEASE_TTL);
        for &(at, tokens) in &admissions {
            bound.admit(at, tokens);
        }
        let admitted = journal::tokens(&admissions);
        let endings = || records.iter().filter_map(|record| record.ending);
        let signed = |tokens| i64::try_from(tokens).expect("a small number");
        Round {
            killed_after_ms: millis(killed_after),
            admitted,
            admitted_by_killed: journal::tokens(&records[0].admissions),
            level,
            lost: signed(self.burst) - level - signed(admitted),
            held,
            refused: endings().map(|ending| ending.refused).sum(),
            unavailable: endings().map(|ending| ending.unavailable).sum(),
            bound_holds: bound.holds(),
            bound_used: bound.used(),
        }
    }
}

/// A line per admission, of one token each.
fn admitted(worker: &Worker) -> u64 {
    worker.lines().expect("a journal")
}

/// The level of the bucket, and what is entered as held: both as of one moment.
async fn in_table(table: &FreshTable, order: &Order) -> (i64, i64) {
    let key = BucketKey::new(&order.entity, "api").expect("a key");
    let item = table.store().read_bucket(&key).await.expect("a table");
    let level = estimate::level(item.as_ref(), Clock::system().wall(), &order.limit);
    let limit = item
        .as_ref()
        .and_then(|item| item.limit(order.limit.name()));
    let ring = limit.and_then(|limit| limit.ring).unwrap_or_default();
    // Those who ended in order have taken their entries back: the rest is the killed one's.
    let (held, held_before) = ring.held_in(ring.epoch);
    (order.limit.terms().to_tokens(level), held + held_before)
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).expect("a short time")
}
