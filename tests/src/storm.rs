//! A crew of processes that reaches its table through bad weather: was too much admitted, and how
//! soon is everything as before?

use std::path::Path;
use std::time::Duration;

use serde::Serialize;
use tokio::time;
use zae_limiter::{LeasedOptions, Limit, Mode, Settings};
use zae_limiter_core::{Clock, WallTime};

use crate::fleet::WindowBound;
use crate::journal::{self, Admission, Record};
use crate::proxy::{Conditions, Link, Proxy};
use crate::worker::{Order, Worker, crew};
use crate::{FreshTable, endpoint};

/// What is taken for a recovery: this share of the refill is admitted, of any span of this length.
const RECOVERED_SHARE: f64 = 0.97;
const RECOVERED_SPAN: Duration = Duration::from_secs(4);
/// The last seconds: long enough for reservations to even out.
const AT_LAST: Duration = Duration::from_secs(8);
/// How much longer than it should a recovery may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(90);
/// How finely the beginning of the recovery is looked for.
const STEP: Duration = Duration::from_millis(100);

/// A crew, and what it goes through. Plain data.
#[derive(Clone, Debug)]
pub struct Storm {
    /// How many processes there are.
    pub workers: usize,
    /// What they share.
    pub limit: Limit,
    /// Acquires per second and process: together more than the limit allows.
    pub per_second: u32,
    /// How they hold blocks.
    pub options: LeasedOptions,
    /// What happens on the way to the table, and for how long.
    pub phases: Vec<(Conditions, Duration)>,
    /// How long it is fine after that; longer, if they have not recovered by then.
    pub calm: Duration,
    /// Decides which replies are lost.
    pub seed: u64,
}

impl Default for Storm {
    /// All that can happen, one after the other.
    fn default() -> Self {
        let fine = Conditions::default();
        let slow = Conditions {
            delay: Duration::from_millis(150),
            ..fine
        };
        let lossy = Conditions {
            swallowed: 0.15,
            cut: 0.15,
            ..fine
        };
        let mute = Conditions {
            swallowed: 1.0,
            ..fine
        };
        let dark = Conditions {
            link: Link::Dark,
            ..fine
        };
        let down = Conditions {
            link: Link::Down,
            ..fine
        };
        let seconds = |phase, seconds| (phase, Duration::from_secs(seconds));
        Self {
            workers: 4,
            limit: Limit::per_second("rps", 200).expect("a limit"),
            per_second: 200,
            options: LeasedOptions {
                renewal_interval_ms: 1_000,
                lease_ttl_ms: 3_000,
            },
            phases: vec![
                seconds(fine, 2),
                seconds(slow, 2),
                seconds(lossy, 4),
                seconds(mute, 3),
                seconds(fine, 1),
                seconds(dark, 4),
                seconds(fine, 1),
                seconds(down, 2),
            ],
            calm: Duration::from_secs(16),
            seed: 1,
        }
    }
}

/// What came out of it.
#[derive(Clone, Debug, Serialize)]
pub struct Outcome {
    /// Tokens that were admitted, from the beginning to the end.
    pub admitted: u64,
    /// Acquires that were not answered.
    pub unavailable: u64,
    /// Whether all windows kept the bound.
    pub bound_holds: bool,
    /// How much of the bound the worst window has used.
    pub bound_used: f64,
    /// Replies of the table that never arrived.
    pub swallowed: usize,
    /// Connections that were reset.
    pub reset: usize,
    /// Of the refill during each phase, how much was admitted.
    pub shares: Vec<f64>,
    /// How long after the storm nearly all of the refill was admitted again, for good; none if
    /// that was never so.
    pub recovered_after_ms: Option<u64>,
    /// What was not admitted after the storm, although a full bucket would have allowed it, as a
    /// time: how long it takes to flow in.
    pub forgone_ms: i64,
    /// Of the refill of the last seconds, how much was admitted.
    pub share_at_last: f64,
    /// Tokens that were not given back at the end.
    pub unreturned: u64,
}

impl Storm {
    /// Plays it on a bucket in `table`; `program` is the `worker` of this package.
    ///
    /// # Panics
    /// If a worker does not start, or does not end in order when it is told to.
    pub async fn play(&self, table: &FreshTable, program: &Path) -> Outcome {
        let journals = tempfile::tempdir().expect("a directory should be made");
        let proxy = Proxy::start(&endpoint(), self.seed).await;
        let proxy = proxy.expect("there should be a port");
        let order = self.order(table, &proxy);
        let mut workers = crew(program, &order, self.workers, journals.path()).await;

        let clock = Clock::system();
        let mut phases = Vec::new();
        for &(conditions, length) in &self.phases {
            let begun = clock.wall();
            proxy.set(conditions);
            time::sleep(length).await;
            phases.push((begun, clock.wall()));
        }
        proxy.heal();
        let healed = clock.wall();
        time::sleep(self.calm).await;
        let patience = clock.wall().after(PATIENCE);
        let ended = loop {
            let now = clock.wall();
            let admissions = journal::merged(&records(&workers));
            let share = self.share(&admissions, now.before(RECOVERED_SPAN), now);
            if share >= RECOVERED_SHARE || now >= patience {
                break now;
            }
            time::sleep(STEP * 5).await;
        };

        let ending = workers.iter_mut().map(|worker| worker.terminate());
        for status in futures::future::join_all(ending).await {
            let status = status.expect("it should end when it is told to");
            assert!(status.success(), "a worker ended {status}");
        }
        let records = records(&workers);
        let endings = || records.iter().filter_map(|record| record.ending);
        let admissions = journal::merged(&records);
        let mut bound = WindowBound::new(self.limit.terms(), self.lease_ttl());
        for &(at, tokens) in &admissions {
            bound.admit(at, tokens);
        }
        let counts = proxy.counts();
        Outcome {
            admitted: journal::tokens(&admissions),
            unavailable: endings().map(|ending| ending.unavailable).sum(),
            bound_holds: bound.holds(),
            bound_used: bound.used(),
            swallowed: counts.swallowed,
            reset: counts.reset,
            shares: phases
                .iter()
                .map(|&(from, until)| self.share(&admissions, from, until))
                .collect(),
            recovered_after_ms: self.recovered_after(&admissions, healed, ended),
            forgone_ms: self.forgone(&admissions, healed, ended),
            share_at_last: self.share(&admissions, ended.before(AT_LAST), ended),
            unreturned: endings().map(|ending| ending.unreturned).sum(),
        }
    }

    fn order(&self, table: &FreshTable, proxy: &Proxy) -> Order {
        Order {
            table: table.name().to_owned(),
            endpoint_url: proxy.url(),
            entity: "storm".to_owned(),
            limit: self.limit.clone(),
            per_second: self.per_second,
            settings: Settings {
                mode: Mode::Leased(self.options),
                acquire_timeout_ms: 1_000,
                ..Settings::default()
            },
            operation_timeout: Duration::from_secs(2),
        }
    }

    fn lease_ttl(&self) -> Duration {
        Duration::from_millis(self.options.lease_ttl_ms)
    }

    /// How much was admitted in a span of time, of what flowed in.
    #[allow(clippy::cast_precision_loss)]
    fn share(&self, admissions: &[Admission], from: WallTime, until: WallTime) -> f64 {
        let before = |time: WallTime| admissions.partition_point(|&(at, _)| at < time.as_nanos());
        let admitted = journal::tokens(&admissions[before(from)..before(until)]);
        let refilled = self.limit.tokens_per_second() * until.since(from).as_secs_f64();
        admitted as f64 / refilled
    }

    #[allow(clippy::cast_possible_truncation, clippy::cast_precision_loss)]
    fn forgone(&self, admissions: &[Admission], from: WallTime, until: WallTime) -> i64 {
        let refilling = until.since(from).as_secs_f64();
        let burst = self.limit.burst_tokens() as f64 / self.limit.tokens_per_second();
        let admitted = self.share(admissions, from, until) * refilling;
        ((burst + refilling - admitted) * 1_000.0).round() as i64
    }

    fn recovered_after(
        &self,
        admissions: &[Admission],
        healed: WallTime,
        ended: WallTime,
    ) -> Option<u64> {
        // Back from the end, as long as all is well.
        let last = ended.before(RECOVERED_SPAN);
        let starts = std::iter::successors(Some(last), |&from| Some(from.before(STEP)));
        let starts = starts.take_while(|&from| {
            let share = self.share(admissions, from, from.after(RECOVERED_SPAN));
            from >= healed && share >= RECOVERED_SHARE
        });
        let recovered = starts.last();
        let after = recovered?.since(healed).as_millis();
        u64::try_from(after).ok()
    }
}

fn records(workers: &[Worker]) -> Vec<Record> {
    let records = workers.iter().map(Worker::record);
    records.map(|r| r.expect("a journal")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_recovery_is_for_good() {
        let storm = Storm::default();
        let second = |n: u64| WallTime::from_nanos(n * 1_000_000_000);
        // 200 per second, but for the fourth second, in which there are none.
        let all = (0..20 * 200).filter(|n| n / 200 != 3);
        let mut admissions: Vec<Admission> = all.map(|n| (n * 5_000_000, 1)).collect();
        let after = |admissions: &[_], until| storm.recovered_after(admissions, second(0), until);
        assert_eq!(after(&admissions, second(20)), Some(3_900));
        assert_eq!(after(&admissions, second(7)), None);
        let forgone = storm.forgone(&admissions, second(2), second(5));
        assert_eq!(forgone, 2_000, "a burst and a second");
        admissions.truncate(600);
        assert_eq!(after(&admissions, second(20)), None);
        assert!((storm.share(&admissions, second(2), second(4)) - 0.5).abs() < 1e-9);
    }
}
