//! Outages and recoveries, again and again, leave nothing behind: no file, no thread, no task, no
//! connection.

use std::fs;
use std::time::{Duration, Instant};

use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::config::timeout::TimeoutConfig;
use tokio::runtime::{Builder, Handle};
use tokio::time;
use zae_limiter::store::DynamoDbStore;
use zae_limiter::{LeasedOptions, Limit, Mode, RateLimiter, Settings};
use zae_limiter_tests::proxy::{Conditions, Link, Proxy};
use zae_limiter_tests::worker::{Order, Worker};
use zae_limiter_tests::{config_for, endpoint, fresh_table};

use crate::program;

const CYCLES: usize = 12;
/// How long a recovery may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(90);
/// Shorter than an outage.
const OPERATION_TIMEOUT: Duration = Duration::from_millis(1_500);

/// As many buckets, and so as many connections at most.
const USERS: usize = 4;
/// The reconciler's task, and one that looks after the connections.
const FEW: usize = 2;

fn settings() -> Settings {
    let options = LeasedOptions {
        renewal_interval_ms: 500,
        lease_ttl_ms: 1_500,
    };
    Settings {
        mode: Mode::Leased(options),
        // Who asks in an outage has his answer before it ends.
        acquire_timeout_ms: 250,
        ..Settings::default()
    }
}

fn limit() -> Limit {
    Limit::per_second("rps", 1_000).expect("a limit")
}

/// Each kind of outage in turn, longer than a block lives.
async fn outage(proxy: &Proxy, cycle: usize) {
    match cycle % 3 {
        0 => proxy.set_link(Link::Dark),
        1 => proxy.set_link(Link::Down),
        _ => proxy.set(Conditions {
            swallowed: 1.0,
            ..Conditions::default()
        }),
    }
    time::sleep(Duration::from_millis(2_000)).await;
    proxy.heal();
}

async fn start_proxy() -> Proxy {
    let proxy = Proxy::start(&endpoint(), 1).await;
    proxy.expect("there should be a port")
}

/// Waits until `now` is at most `allowed` in all parts; what it was at last.
async fn settled<const N: usize>(allowed: [usize; N], now: impl Fn() -> [usize; N]) -> [usize; N] {
    let begun = Instant::now();
    loop {
        let found = now();
        let within = found
            .iter()
            .zip(allowed)
            .all(|(found, most)| *found <= most);
        if within || begun.elapsed() > Duration::from_secs(20) {
            return found;
        }
        time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn of_files_threads_and_connections_in_a_process() {
    let table = fresh_table("leaks").await;
    let proxy = start_proxy().await;
    let directory = tempfile::tempdir().expect("a directory");
    let order = Order {
        table: table.name().to_owned(),
        endpoint_url: proxy.url(),
        entity: "user".to_owned(),
        limit: limit(),
        per_second: 200,
        settings: settings(),
        operation_timeout: OPERATION_TIMEOUT,
    };
    let worker = Worker::start(program(), &order, directory.path().join("journal")).await;
    let mut worker = worker.expect("it should start");
    let pid = worker.pid();
    let of = |what: &str| {
        let entries = fs::read_dir(format!("/proc/{pid}/{what}"));
        entries.expect("it should be running").count()
    };
    let now = || [of("fd"), of("task"), proxy.counts().open];
    let admitted = || worker.record().expect("a journal").admissions.len();
    let admits_again = async || {
        let (before, begun) = (admitted(), Instant::now());
        while admitted() < before + 20 {
            assert!(begun.elapsed() < PATIENCE, "no recovery");
            time::sleep(Duration::from_millis(20)).await;
        }
    };
    admits_again().await;
    // All threads have been started, and whatever is made once has been made.
    outage(&proxy, 0).await;
    admits_again().await;
    let before = settled([usize::MAX, usize::MAX, 1], now).await;
    let accepted = proxy.counts().accepted;
    for cycle in 1..=CYCLES {
        outage(&proxy, cycle).await;
        admits_again().await;
        println!("{cycle}: {:?}, {:?}", now(), proxy.counts());
    }
    let after = settled(before, now).await;
    println!("before {before:?}, after {after:?}, {:?}", proxy.counts());
    assert!(
        after
            .iter()
            .zip(before)
            .all(|(after, before)| *after <= before),
        "files, threads, connections: {before:?} before, {after:?} after"
    );
    assert!(proxy.counts().accepted >= accepted + CYCLES, "no outages");
    assert!(worker.terminate().await.expect("it ends").success());
    assert_eq!(settled([0], || [proxy.counts().open]).await, [0]);
}

/// Tasks can be counted from within only, so this limiter has a runtime to itself.
#[test]
fn of_tasks_in_a_runtime() {
    let outside = Builder::new_multi_thread().enable_all().build();
    let outside = outside.expect("a runtime");
    let (table, proxy) =
        outside.block_on(async { (fresh_table("leaks").await, start_proxy().await) });
    let inside = Builder::new_multi_thread().enable_all().build();
    inside.expect("a runtime").block_on(async {
        // A connection that is kept for later has a task of its own, as long as it is open.
        let now = || {
            let (tasks, open) = (
                Handle::current().metrics().num_alive_tasks(),
                proxy.counts().open,
            );
            [tasks.saturating_sub(open), open]
        };
        assert_eq!(now(), [0, 0]);
        let timeouts = TimeoutConfig::builder().operation_timeout(OPERATION_TIMEOUT);
        let config = config_for(&proxy.url()).timeout_config(timeouts.build());
        let store = DynamoDbStore::new(Client::from_conf(config.build()), table.name());
        let builder = RateLimiter::builder("leaks").store(store);
        let limiter = builder.settings(settings()).connect().await;
        let limiter = limiter.expect("a table");
        let limits = [limit()];
        let users: Vec<String> = (0..USERS).map(|user| format!("user-{user}")).collect();
        // Who of them is admitted.
        let ask = async || -> Vec<bool> {
            let acquire = |user| limiter.acquire(user, "api").limits(&limits);
            let acquires = users
                .iter()
                .map(|u| acquire(u).consume("rps", 1).into_future());
            let answers = futures::future::join_all(acquires).await;
            answers.iter().map(Result::is_ok).collect()
        };
        let admits_again = async || {
            let begun = Instant::now();
            let mut served = [false; USERS];
            while served.contains(&false) {
                let admitted = ask().await;
                served.iter_mut().zip(admitted).for_each(|(s, a)| *s |= a);
                assert!(begun.elapsed() < PATIENCE, "no recovery");
                time::sleep(Duration::from_millis(20)).await;
            }
        };
        admits_again().await;
        let before = now();
        for cycle in 0..CYCLES {
            tokio::join!(outage(&proxy, cycle), async {
                // The last blocks have just expired.
                time::sleep(Duration::from_millis(1_700)).await;
                assert!(ask().await.contains(&false), "no outage");
            });
            admits_again().await;
            println!("{cycle}: {:?}, {:?}", now(), proxy.counts());
        }
        let after = settled([FEW, USERS], now).await;
        println!("before {before:?}, after {after:?}");
        assert!(
            after[0] <= FEW && after[1] <= USERS,
            "tasks, connections: {before:?} before, {after:?} after"
        );
        let report = limiter.shutdown(Duration::from_secs(10)).await;
        assert!(report.is_complete(), "{report:?}");
        drop(limiter);
        assert_eq!(settled([0, 0], now).await, [0, 0]);
    });
}
