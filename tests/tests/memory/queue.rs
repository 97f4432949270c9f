//! Callers who wait, and callers who come while others wait: whoever can be served without what
//! those before it wait for is served at once, and all others get an honest answer.

use std::time::Duration;

use tokio::time::{Instant, timeout};
use zae_limiter::store::{Fault, FaultyStore, MemoryStore};
use zae_limiter::{Acquire, AcquireFuture, Error, Lease, Limit, Mode, NewEntity, RateLimiter};

const MODES: [fn() -> Mode; 2] = [|| Mode::Strict, Mode::leased];
const HOUR: Duration = Duration::from_secs(3_600);
/// More than anything takes that is done at once.
const AT_ONCE: Duration = Duration::from_secs(5);

struct Fixture {
    mode: Mode,
    limiter: RateLimiter,
    store: FaultyStore<MemoryStore>,
    limits: [Limit; 3],
}

impl Fixture {
    /// `one` and `two` below `parent`, with ten `jobs` and a hundred `pages` an hour, and ten
    /// `calls` a second.
    async fn new(mode: Mode) -> Self {
        let store = FaultyStore::new(MemoryStore::new());
        let limiter = RateLimiter::builder("queue").store(store.clone());
        let limiter = limiter.mode(mode).connect().await.unwrap();
        limiter
            .create_entity(NewEntity::new("parent"))
            .await
            .unwrap();
        for child in ["one", "two"] {
            let child = NewEntity::new(child).parent("parent");
            limiter.create_entity(child).await.unwrap();
        }
        Self {
            mode,
            limiter,
            store,
            limits: [
                Limit::per_hour("jobs", 10).unwrap(),
                Limit::per_hour("pages", 100).unwrap(),
                Limit::per_second("calls", 10).unwrap(),
            ],
        }
    }

    fn acquire<'a>(&'a self, id: &'a str, consume: &[(&'a str, u64)]) -> Acquire<'a> {
        let acquire = self.limiter.acquire(id, "api").limits(&self.limits);
        let add =
            |acquire: Acquire<'a>, (name, tokens): &(&'a str, u64)| acquire.consume(name, *tokens);
        consume.iter().fold(acquire, add)
    }

    async fn spend(&self, id: &str, consume: &[(&str, u64)]) {
        self.acquire(id, consume).await.unwrap().commit();
    }

    /// An acquire that has begun to wait, for an hour.
    async fn waits<'a>(&self, acquire: Acquire<'a>) -> std::pin::Pin<Box<AcquireFuture<'a>>> {
        let mut waiting = Box::pin(acquire.wait_up_to(HOUR).into_future());
        let begun = timeout(Duration::from_millis(300), &mut waiting).await;
        assert!(begun.is_err(), "{begun:?} in {:?}", self.mode);
        waiting
    }
}

async fn at_once<'a>(acquire: Acquire<'a>) -> Result<Lease<'a>, Error> {
    let answer = timeout(AT_ONCE, acquire.into_future()).await;
    answer.expect("at once")
}

/// The names of the limits that refused. Each says when to come again.
fn refused_by(answer: Result<Lease<'_>, Error>) -> Vec<String> {
    let error = answer.expect_err("refused");
    let exceeded = error.as_exceeded().unwrap_or_else(|| panic!("{error:?}"));
    let violations = exceeded.violations();
    let names: Vec<_> = violations
        .inspect(|status| assert!(status.retry_after > Duration::ZERO, "{status:?}"))
        .map(|status| status.limit.name().to_owned())
        .collect();
    assert!(!names.is_empty(), "{exceeded:?}");
    names
}

#[tokio::test]
async fn a_request_for_no_tokens_never_waits_and_never_writes() {
    for (mode, cascade) in [(0, false), (1, false), (0, true), (1, true)] {
        let it = Fixture::new(MODES[mode]()).await;
        let parent = it.acquire("one", &[("jobs", 10)]).cascade(true);
        parent.await.unwrap().commit();
        let jobs = it.acquire("one", &[("jobs", 1)]).cascade(cascade);
        let _waiting = it.waits(jobs).await;
        it.store.reset();
        for consume in [
            &[][..],
            &[("jobs", 0)],
            &[("jobs", 0), ("pages", 0), ("calls", 0)],
        ] {
            let nothing = || it.acquire("one", consume).cascade(cascade);
            at_once(nothing()).await.unwrap().commit();
            at_once(nothing().wait_up_to(HOUR)).await.unwrap().commit();
            let short = nothing().wait_up_to(Duration::from_millis(1));
            at_once(short).await.unwrap().commit();
            nothing().try_acquire().unwrap().commit();
            let handle = nothing().handle().await.unwrap();
            handle.acquire(consume).await.unwrap().commit();
            handle.try_acquire(consume).unwrap().commit();
            for strict in [false, true] {
                let direct = nothing().strict(strict).wait_up_to(HOUR);
                let mut lease = at_once(direct).await.unwrap();
                lease.consume("jobs", 0).await.unwrap();
                lease.rollback().await;
            }
        }
        if it.mode == Mode::Strict {
            assert_eq!(it.store.writes(), 0, "cascade: {cascade}");
        }
        // What names a limit with nothing is not held up by it, nor by who waits for it.
        let other = it.acquire("one", &[("jobs", 0), ("pages", 1), ("calls", 1)]);
        at_once(other.cascade(cascade).wait_up_to(HOUR))
            .await
            .unwrap()
            .commit();
    }
}

#[test]
fn a_blocking_request_for_no_tokens_does_not_wait_either() {
    for mode in MODES {
        let limiter = RateLimiter::builder("queue").in_memory().mode(mode());
        let limiter = limiter.connect_blocking().unwrap();
        let limits = [Limit::per_hour("jobs", 10).unwrap()];
        let acquire = |tokens| {
            let acquire = limiter.acquire("user", "api").limits(&limits);
            acquire
                .consume("jobs", tokens)
                .wait_up_to(Duration::from_secs(500))
        };
        acquire(10).wait().unwrap().commit();
        std::thread::scope(|scope| {
            // A token is six minutes off; the shutdown ends that.
            scope.spawn(|| acquire(1).wait().map(drop).unwrap_err());
            std::thread::sleep(Duration::from_millis(300));
            acquire(0).wait().unwrap().commit();
            acquire(0).try_acquire().unwrap().commit();
            limiter.shutdown(Duration::from_secs(5));
        });
    }
}

#[tokio::test]
async fn who_wants_what_nobody_before_it_lacks_is_served_at_once() {
    for mode in MODES {
        let it = Fixture::new(mode()).await;
        it.spend("one", &[("pages", 90)]).await;
        let both = it.acquire("one", &[("jobs", 2), ("pages", 50)]);
        let waiting = it.waits(both).await;
        // Of ten jobs those in the queue want two.
        for _ in 0..8 {
            let job = it.acquire("one", &[("jobs", 1)]).wait_up_to(HOUR);
            at_once(job).await.unwrap().commit();
        }
        let status = it.acquire("one", &[("jobs", 1)]).check().await.unwrap();
        assert_eq!((status[0].available, status[0].exceeded), (0, true));
        // The ninth waits behind it, for as long as it is there.
        let ninth = it.waits(it.acquire("one", &[("jobs", 1)])).await;
        drop(waiting);
        let served = timeout(AT_ONCE, ninth).await.expect("at once");
        served.unwrap().commit();
    }
}

#[tokio::test]
async fn who_waits_for_refill_is_served_when_it_comes_whoever_waits_for_other_limits() {
    for mode in MODES {
        let it = Fixture::new(mode()).await;
        it.spend("one", &[("jobs", 10), ("calls", 10)]).await;
        let _waiting = it.waits(it.acquire("one", &[("jobs", 1)])).await;
        let begun = Instant::now();
        for _ in 0..3 {
            let calls = it.acquire("one", &[("calls", 8)]).wait_up_to(HOUR);
            at_once(calls).await.unwrap().commit();
        }
        assert!(begun.elapsed() > Duration::from_millis(1_000));
    }
}

#[tokio::test]
async fn who_wants_the_same_and_more_is_not_served_before() {
    for mode in MODES {
        let it = Fixture::new(mode()).await;
        it.spend("one", &[("jobs", 6), ("calls", 10)]).await;
        let waiting = it.waits(it.acquire("one", &[("jobs", 5)])).await;
        // All four jobs are for the one who waits for five.
        let more = it
            .waits(it.acquire("one", &[("jobs", 1), ("calls", 1)]))
            .await;
        let same = it.waits(it.acquire("one", &[("jobs", 4)])).await;
        drop(waiting);
        let served = timeout(AT_ONCE, more).await.expect("at once");
        served.unwrap().commit();
        let none = it.acquire("one", &[("jobs", 1)]);
        assert_eq!(refused_by(at_once(none).await), ["jobs"]);
        drop(same);
    }
}

#[tokio::test]
async fn at_its_deadline_a_caller_is_told_what_it_lacks() {
    for mode in MODES {
        let it = Fixture::new(mode()).await;
        it.spend("one", &[("jobs", 10), ("pages", 60)]).await;
        let _waiting = it
            .waits(it.acquire("one", &[("jobs", 1), ("pages", 40)]))
            .await;
        let _another = it.waits(it.acquire("one", &[("jobs", 1)])).await;
        for (consume, lacks) in [
            (&[("jobs", 1)][..], &["jobs"][..]),
            (&[("jobs", 2), ("pages", 1)], &["jobs", "pages"]),
            (&[("pages", 1), ("calls", 1)], &["pages"]),
            (&[("pages", 1), ("jobs", 0)], &["pages"]),
        ] {
            let hurried = it
                .acquire("one", consume)
                .wait_up_to(Duration::from_millis(50));
            let mut names = refused_by(at_once(hurried).await);
            names.sort();
            assert_eq!(names, lacks, "{consume:?} in {:?}", it.mode);
        }
        // Those in the queue are still there, and nothing has been taken.
        let left = it.acquire("one", &[("calls", 10)]).wait_up_to(HOUR);
        at_once(left).await.unwrap().commit();
    }
}

#[tokio::test]
async fn who_does_not_charge_the_parent_does_not_wait_for_who_does() {
    for mode in MODES {
        let it = Fixture::new(mode()).await;
        it.spend("parent", &[("jobs", 10)]).await;
        let waiting = it
            .waits(it.acquire("one", &[("jobs", 2)]).cascade(true))
            .await;
        let own = it.acquire("one", &[("jobs", 8)]).wait_up_to(HOUR);
        at_once(own).await.unwrap().commit();
        // Two of its own are for the one who waits.
        let refused = it.acquire("one", &[("jobs", 1)]);
        assert_eq!(refused_by(at_once(refused).await), ["jobs"]);
        // In the parent's queue, too, other limits are no matter.
        let pages = it.acquire("two", &[("pages", 1)]).cascade(true);
        at_once(pages.wait_up_to(HOUR)).await.unwrap().commit();
        let pages = it.acquire("one", &[("pages", 1)]).cascade(true);
        at_once(pages.wait_up_to(HOUR)).await.unwrap().commit();
        let sister = it.acquire("two", &[("jobs", 1)]).cascade(true);
        let sister = sister.wait_up_to(Duration::from_millis(50));
        assert_eq!(refused_by(at_once(sister).await), ["jobs"]);
        drop(waiting);
        let own = it.acquire("one", &[("jobs", 2)]);
        at_once(own).await.unwrap().commit();
    }
}

/// The one before it has all it wants and only waits for the table.
#[tokio::test]
async fn at_its_deadline_a_caller_who_lacks_nothing_is_served() {
    let it = Fixture::new(Mode::Strict).await;
    for (tokens, is_served) in [(5, true), (4, false)] {
        let delay = Fault::Delay(Duration::from_secs(1));
        it.store.fail_next(delay, 1);
        let slow = it.acquire("one", &[("jobs", 3)]).wait_up_to(HOUR);
        let hurried = it.acquire("one", &[("jobs", tokens)]);
        let hurried = hurried.wait_up_to(Duration::from_millis(100));
        let (slow, hurried) = tokio::join!(slow.into_future(), at_once(hurried));
        if is_served {
            hurried.unwrap().commit();
        } else {
            assert_eq!(refused_by(hurried), ["jobs"]);
        }
        slow.unwrap().rollback().await;
    }
}
