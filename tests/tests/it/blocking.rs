//! The blocking limiter on threads of all sorts. What it answers is tried out in `acceptance`.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use tokio::runtime::Builder;
use zae_limiter::blocking::RateLimiter;
use zae_limiter::store::{DynamoDbStore, Fault, FaultyStore, MemoryStore, Store};
use zae_limiter::{Error, ErrorKind, Limit, Mode, Settings};
use zae_limiter_core::BucketKey;
use zae_limiter_tests::{client_for, endpoint, fresh_table};

const BOTH_MODES: [Mode; 2] = [Mode::Strict, Mode::Leased(LEASED)];
const LEASED: zae_limiter::LeasedOptions = zae_limiter::LeasedOptions {
    renewal_interval_ms: 1_000,
    lease_ttl_ms: 5_000,
};

fn limiter(store: impl Store, mode: Mode) -> RateLimiter {
    let settings = Settings {
        mode,
        acquire_timeout_ms: 30_000,
        ..Settings::default()
    };
    let builder = RateLimiter::builder("blocking").store(store);
    builder
        .settings(settings)
        .connect_blocking()
        .expect("a table")
}

/// So slow that what flows in during a test does not matter.
fn jobs(capacity: u64) -> [Limit; 1] {
    [Limit::custom("jobs", capacity, 1, Duration::from_secs(86_400)).expect("a limit")]
}

/// Runs `work`, which must not take for ever, on a thread of its own.
fn in_time<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    let (done, result) = mpsc::channel();
    let worker = thread::spawn(move || drop(done.send(work())));
    match result.recv_timeout(Duration::from_secs(120)) {
        Ok(result) => result,
        Err(mpsc::RecvTimeoutError::Timeout) => panic!("it has not ended after two minutes"),
        Err(mpsc::RecvTimeoutError::Disconnected) => match worker.join() {
            Err(panic) => std::panic::resume_unwind(panic),
            Ok(()) => unreachable!("it has sent nothing"),
        },
    }
}

/// As a service that is half asynchronous: more calls than the budget of one task, then the
/// end of the limiter, all within a task.
fn in_a_task(limiter: RateLimiter) {
    let limits = jobs(150);
    let acquire = || {
        limiter
            .acquire("user", "api")
            .limits(&limits)
            .consume("jobs", 1)
    };
    let mut admitted = 0;
    for _ in 0..200 {
        match acquire().wait() {
            Ok(_) => admitted += 1,
            Err(error) => assert_eq!(error.kind(), ErrorKind::RateLimitExceeded, "{error}"),
        }
    }
    assert_eq!(admitted, 150);
    let exceeded = acquire().wait_up_to(Duration::from_millis(50)).wait();
    assert!(exceeded.is_err());
}

fn runtimes() -> [Builder; 2] {
    let mut two = Builder::new_multi_thread();
    two.worker_threads(2);
    [Builder::new_current_thread(), two]
}

/// B17 of the Python library.
#[test]
fn in_a_task_of_either_runtime_it_neither_panics_nor_hangs() {
    for mode in BOTH_MODES {
        for mut runtime in runtimes() {
            in_time(move || {
                // Nothing enabled: it must not lean on the runtime of the caller.
                let runtime = runtime.build().expect("a runtime");
                let slow = || {
                    let store = FaultyStore::new(MemoryStore::new());
                    store.fail_all(Some(Fault::Delay(Duration::from_millis(1))));
                    store
                };
                runtime.block_on(async { in_a_task(limiter(slow(), mode)) });
                let task = runtime.spawn(async move { in_a_task(limiter(slow(), mode)) });
                runtime.block_on(task).expect("no panic");
            });
        }
    }
}

#[test]
fn in_a_task_it_reaches_a_real_table() {
    in_time(|| {
        for mode in BOTH_MODES {
            let runtime = Builder::new_current_thread().enable_all().build();
            runtime.expect("a runtime").block_on(async {
                let table = fresh_table("blocking").await;
                let store = DynamoDbStore::new(client_for(&endpoint()), table.name());
                in_a_task(limiter(store, mode));
            });
        }
    });
}

#[test]
fn threads_share_a_limiter() {
    for mode in BOTH_MODES {
        let limits = jobs(1_000);
        let limiter = limiter(MemoryStore::new(), mode);
        let admitted = AtomicU64::new(0);
        thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    let limiter = limiter.clone();
                    for _ in 0..300 {
                        let acquire = limiter.acquire("user", "api").limits(&limits);
                        if acquire.consume("jobs", 1).wait().is_ok() {
                            admitted.fetch_add(1, Ordering::Relaxed);
                        }
                    }
                });
            }
        });
        assert_eq!(admitted.into_inner(), 1_000, "{mode:?}");
    }
}

#[test]
fn the_last_one_that_is_dropped_gives_everything_back_and_ends_the_thread() {
    let limits = jobs(100);
    let key = BucketKey::new("user", "api").expect("a key");
    for mode in BOTH_MODES {
        let table = Arc::new(MemoryStore::new());
        let limiter = limiter(FaultyStore::over(table.clone()), mode);
        let acquire = limiter.acquire("user", "api").limits(&limits);
        let mut lease = acquire
            .consume("jobs", 10)
            .wait()
            .expect("full")
            .into_owned();
        let clone = limiter.clone();
        drop(limiter);
        assert!(
            clone
                .get_entity("nobody")
                .expect("the thread is there")
                .is_none()
        );
        drop(clone);
        lease.adjust("jobs", -4).expect("the lease keeps it there");
        drop(lease);
        let begun = Instant::now();
        let spent = || {
            let item = table.bucket(&key);
            item.and_then(|item| Some(item.limit("jobs")?.consumed))
        };
        // The store goes with the thread that used it.
        while spent() != Some(6) || Arc::strong_count(&table) > 1 {
            assert!(
                begun.elapsed() < Duration::from_secs(10),
                "{mode:?}: {:?}",
                spent()
            );
            thread::sleep(Duration::from_millis(10));
        }
    }
}

#[test]
fn a_shutdown_ends_in_time_and_closes() {
    let limits = jobs(100);
    let store = FaultyStore::new(MemoryStore::new());
    let limiter = limiter(store.clone(), Mode::leased());
    let acquire = || {
        limiter
            .acquire("user", "api")
            .limits(&limits)
            .consume("jobs", 1)
    };
    acquire().wait().expect("full").commit();
    store.fail_all(Some(Fault::Delay(Duration::from_secs(60))));
    let begun = Instant::now();
    let report = limiter.shutdown(Duration::from_millis(200));
    assert_eq!((report.buckets, report.unreported), (1, 1), "{report:?}");
    assert!(begun.elapsed() < Duration::from_secs(20));
    assert!(matches!(acquire().wait(), Err(Error::ShutDown)));
    assert_eq!(limiter.shutdown(Duration::MAX), report);
}

#[test]
fn work_that_panics_gives_back() {
    let limits = jobs(10);
    for mode in BOTH_MODES {
        let limiter = limiter(MemoryStore::new(), mode);
        let acquire = || {
            limiter
                .acquire("user", "api")
                .limits(&limits)
                .consume("jobs", 10)
        };
        let worked = catch_unwind(AssertUnwindSafe(|| {
            acquire().run(|_| -> Result<(), Error> { panic!("out of paper") })
        }));
        let panic = worked.expect_err("the panic goes on");
        assert_eq!(panic.downcast_ref(), Some(&"out of paper"));
        acquire().wait().expect("given back").commit();
    }
}

#[test]
fn what_goes_wrong_while_connecting_is_told_to_the_caller() {
    let wrong = RateLimiter::builder("my_app")
        .in_memory()
        .connect_blocking();
    assert_eq!(wrong.expect_err("a name").kind(), ErrorKind::Validation);
    let store = FaultyStore::new(MemoryStore::new());
    store.fail_next(Fault::Panic, 1);
    let builder = RateLimiter::builder("blocking").store(store);
    assert!(catch_unwind(AssertUnwindSafe(|| builder.connect_blocking())).is_err());
}
