//! A refusal says which limit refused, that it lacks something, and when to come again: never "at
//! once".

use std::time::{Duration, Instant};

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use zae_limiter::store::{Fault, FaultyStore, MemoryStore};
use zae_limiter::{Acquire, Error, FailureMode, Lease, Limit, Mode, NewEntity, RateLimiter, Share};

/// Checks a refusal. Returns false if the answer is none.
fn is_honest<T>(answer: Result<T, Error>) -> bool {
    let error = match answer {
        Ok(_) => return false,
        Err(error) => error,
    };
    let Some(exceeded) = error.as_exceeded() else {
        assert_eq!(error.kind(), zae_limiter::ErrorKind::WouldWait, "{error}");
        return false;
    };
    let violations: Vec<_> = exceeded.violations().collect();
    assert!(!violations.is_empty(), "{exceeded:?}");
    for short in &violations {
        assert!(short.retry_after >= Duration::from_millis(1), "{short:?}");
        let requested = i64::try_from(short.requested).unwrap();
        assert!(short.available < requested, "{short:?}");
        assert!(short.deficit() > 0, "{short:?}");
    }
    assert!(exceeded.retry_after() > Duration::ZERO);
    let seconds: u64 = exceeded.retry_after_header().parse().unwrap();
    assert!(seconds > 0);
    let header = exceeded.rate_limit_header();
    assert_eq!(header.matches(";t=").count(), violations.len(), "{header}");
    assert!(!header.contains(";t=0"), "{header}");
    let json = exceeded.as_json();
    assert!(json["retry_after_ms"].as_u64() > Some(0), "{json}");
    assert!(json["retry_after_seconds"].as_f64() > Some(0.0), "{json}");
    true
}

/// A limiter, what is asked of it, and how often.
#[derive(Clone, Debug)]
struct Case {
    mode: Mode,
    /// Nothing but this process's share of the limits is there.
    alone: bool,
    cascade: bool,
    /// Of each limit: tokens per second, burst, tokens asked for.
    limits: Vec<(u64, u64, u64)>,
}

fn cases() -> impl Strategy<Value = Case> {
    let mode = prop_oneof![Just(Mode::Strict), Just(Mode::leased())];
    let limit = (500..50_000_u64, 1..200_u64).prop_flat_map(|(rate, burst)| {
        let tokens = 0..=burst.min(20);
        (Just(rate), Just(burst), tokens)
    });
    let limits = prop::collection::vec(limit, 1..4);
    (mode, prop::bool::weighted(0.2), any::<bool>(), limits).prop_map(
        |(mode, alone, cascade, limits)| Case {
            mode,
            alone,
            cascade,
            limits,
        },
    )
}

/// Acquires in every way for a moment, faster than the refill. Returns how many were refused.
async fn refusals(case: Case) -> u32 {
    let store = FaultyStore::new(MemoryStore::new());
    let limiter = RateLimiter::builder("refusals").store(store.clone());
    let limiter = limiter.mode(case.mode).connect().await.unwrap();
    limiter
        .create_entity(NewEntity::new("parent"))
        .await
        .unwrap();
    let child = NewEntity::new("child").parent("parent");
    limiter.create_entity(child).await.unwrap();
    let names: Vec<_> = (0..case.limits.len()).map(|at| format!("l{at}")).collect();
    let limits: Vec<_> = (names.iter().zip(&case.limits))
        .map(|(name, (rate, burst, _))| {
            Limit::custom(name, *burst, *rate, Duration::from_secs(1)).unwrap()
        })
        .collect();
    let asked: Vec<_> = (names.iter().zip(&case.limits))
        .map(|(name, (.., tokens))| (name.as_str(), *tokens))
        .collect();
    let acquire = || -> Acquire<'_> {
        let acquire = limiter.acquire("child", "api").limits(&limits);
        let acquire = acquire.cascade(case.cascade);
        let acquire = acquire.failure_mode(FailureMode::Local(Share::new(0.9).unwrap()));
        (asked.iter()).fold(acquire, |acquire, (name, tokens)| {
            acquire.consume(name, *tokens)
        })
    };
    let handle = acquire().handle().await.unwrap();
    acquire().await.ok();
    store.fail_all(case.alone.then_some(Fault::Unreachable));
    let mut refused = 0;
    let until = Instant::now() + Duration::from_millis(60);
    while Instant::now() < until {
        let mut lease: Option<Lease<'_>> = None;
        refused += u32::from(match acquire().await {
            Ok(given) => {
                lease = Some(given);
                false
            }
            answer => unless_away(answer),
        });
        if let Some(lease) = &mut lease {
            refused += u32::from(unless_away(lease.consume(asked[0].0, asked[0].1).await));
        }
        refused += u32::from(unless_away(acquire().try_acquire()));
        if !case.alone {
            refused += u32::from(unless_away(handle.acquire(&asked).await));
            refused += u32::from(unless_away(handle.try_acquire(&asked)));
        }
        let hurried = acquire().wait_up_to(Duration::from_micros(200));
        refused += u32::from(unless_away(hurried.await));
    }
    refused
}

/// What a share can never pay is refused as unavailable: that is no matter of time.
fn unless_away<T>(answer: Result<T, Error>) -> bool {
    match answer {
        Err(error) if error.kind() == zae_limiter::ErrorKind::Unavailable => false,
        answer => is_honest(answer),
    }
}

#[test]
fn no_refusal_says_at_once() {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    let refused = std::cell::Cell::new(0);
    let config = Config {
        failure_persistence: None,
        max_shrink_iters: 0, // what is refused depends on the time
        ..Config::with_cases(60)
    };
    let outcome = TestRunner::new(config).run(&cases(), |case| {
        refused.set(refused.get() + runtime.block_on(refusals(case)));
        Ok(())
    });
    outcome.unwrap_or_else(|error| panic!("{error}"));
    assert!(refused.get() > 1_000, "{}", refused.get());
}

#[test]
fn blocking_refusals_do_not_say_at_once_either() {
    for mode in [Mode::Strict, Mode::leased()] {
        let limiter = RateLimiter::builder("refusals").in_memory().mode(mode);
        let limiter = limiter.connect_blocking().unwrap();
        let limits = [Limit::custom("rps", 2, 2_000, Duration::from_secs(1)).unwrap()];
        let mut refused = 0;
        for _ in 0..2_000 {
            let acquire = limiter.acquire("user", "api").limits(&limits);
            refused += u32::from(is_honest(acquire.consume("rps", 2).wait()));
        }
        assert!(refused > 50, "{refused}");
    }
}
