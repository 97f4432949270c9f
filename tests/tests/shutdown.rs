//! What a shutdown does under trouble: it goes on until its deadline, paced and jittered, and its
//! report agrees with the table to the token. Needs no endpoint; time is simulated.

use std::time::Duration;

use tokio::time::{self, Instant};
use zae_limiter::reconciler::ShutdownReport;
use zae_limiter::store::{Fault, FaultyStore, MemoryStore};
use zae_limiter::{ErrorKind, LeasedOptions, Limit, Mode, RateLimiter};
use zae_limiter_core::{BucketKey, Clock, estimate};

const BUCKETS: u64 = 100;
const BURST: u64 = 1_000;
const DEADLINE: Duration = Duration::from_secs(3);
/// Beyond this many per bucket, a rolling restart under throttling makes the throttling worse.
const WRITES_MAX: u64 = 10 * BUCKETS;

/// The default, the shortest, and one whose pauses are longer than the deadline.
const RENEWALS: [u64; 3] = [1_000, 100, 60_000];

fn millis(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

/// A limiter with tokens in hand for a hundred users, on a table in memory.
struct Fixture {
    clock: Clock,
    store: FaultyStore<MemoryStore>,
    limiter: Option<RateLimiter>,
    limit: Limit,
    consumed: u64,
    level_before: i64,
}

impl Fixture {
    async fn renewing_every(renewal_interval_ms: u64) -> Self {
        let (clock, hands) = Clock::manual();
        tokio::spawn(async move {
            loop {
                time::sleep(millis(1)).await;
                hands.advance(millis(1));
            }
        });
        let store = FaultyStore::new(MemoryStore::new());
        let mode = Mode::Leased(LeasedOptions {
            renewal_interval_ms,
            lease_ttl_ms: renewal_interval_ms * 5,
        });
        let builder = RateLimiter::builder("shutdown").clock(clock.clone());
        let builder = builder.mode(mode).store(store.clone());
        let limiter = builder.connect().await.expect("a table");
        // What flows in during a test is less than a token.
        let limit = Limit::custom("jobs", BURST, 1, Duration::from_secs(86_400));
        let mut fixture = Self {
            clock,
            store,
            limiter: Some(limiter),
            limit: limit.expect("a limit"),
            consumed: 0,
            level_before: 0,
        };
        for user in users() {
            let acquire = || {
                let acquire = fixture.limiter().acquire(&user, "api");
                let limits = std::slice::from_ref(&fixture.limit);
                async move { acquire.limits(limits).consume("jobs", 500).await }
            };
            acquire().await.expect("full").rollback().await;
            let mut lease = acquire().await.expect("in hand");
            lease.release("jobs", 490).await.expect("consumed");
            lease.commit();
            fixture.consumed += 10;
        }
        fixture.level_before = fixture.level();
        fixture.store.reset();
        fixture
    }

    fn limiter(&self) -> &RateLimiter {
        self.limiter.as_ref().expect("it was not dropped")
    }

    /// The tokens that the table has, in all buckets.
    fn level(&self) -> i64 {
        let level = |user: String| {
            let item = self.store.inner().bucket(&key(&user));
            let level = estimate::level(item.as_ref(), self.clock.wall(), &self.limit);
            // What flows in is less than half a token.
            self.limit
                .terms()
                .to_tokens(level + self.limit.terms().token() / 2)
        };
        users().map(level).sum()
    }

    /// The consumption that the table was told of.
    fn reported(&self) -> i64 {
        let reported = |user: String| {
            let item = self.store.inner().bucket(&key(&user))?;
            Some(item.limit("jobs")?.consumed)
        };
        users().filter_map(reported).sum()
    }

    /// Tokens that neither callers nor the table have.
    fn missing(&self) -> i64 {
        (BUCKETS * BURST - self.consumed).cast_signed() - self.level()
    }

    /// The table is in trouble from now on, until then.
    fn fail(&self, fault: Fault, until: Option<Duration>) {
        self.store.fail_all(Some(fault));
        if let Some(until) = until {
            let store = self.store.clone();
            tokio::spawn(async move {
                time::sleep(until).await;
                store.fail_all(None);
            });
        }
    }

    async fn shut_down(&self) -> (ShutdownReport, Duration) {
        let begun = Instant::now();
        let report = self.limiter().shutdown(DEADLINE).await;
        let took = begun.elapsed();
        let writes = self.store.writes() as f64 / BUCKETS as f64;
        let probes = self.store.checks();
        println!("{took:?}, {writes} writes per bucket, {probes} probes: {report:?}");
        assert!(self.store.writes() <= WRITES_MAX, "{writes} per bucket");
        self.agrees_with(&report);
        (report, took)
    }

    /// What the report says is what the table says.
    fn agrees_with(&self, report: &ShutdownReport) {
        let [unreturned, in_doubt, owed, returned] = [
            report.unreturned,
            report.in_doubt,
            report.owed,
            report.returned,
        ]
        .map(u64::cast_signed);
        let missing = self.missing() + owed;
        assert!(
            (unreturned - in_doubt..=unreturned).contains(&missing),
            "the table is missing {missing}: {report:?}"
        );
        let unreported = self.consumed.cast_signed() - self.reported();
        if in_doubt == 0 {
            assert_eq!(self.level() - self.level_before, returned, "{report:?}");
            assert_eq!(unreported, report.unreported, "{report:?}");
        }
    }
}

fn users() -> impl Iterator<Item = String> {
    (0..BUCKETS).map(|user| format!("user-{user}"))
}

fn key(user: &str) -> BucketKey {
    BucketKey::new(user, "api").expect("a key")
}

#[tokio::test(start_paused = true)]
async fn a_healthy_table_has_everything_back_at_once() {
    let fixture = Fixture::renewing_every(1_000).await;
    let held = fixture.missing();
    assert!(held >= 490 * BUCKETS.cast_signed(), "{held}");
    let (report, took) = fixture.shut_down().await;
    assert!(report.is_complete() && took < millis(100), "{took:?}");
    assert_eq!(report.returned.cast_signed(), held);
    assert_eq!((fixture.store.writes(), fixture.missing()), (BUCKETS, 0));
}

#[tokio::test(start_paused = true)]
async fn trouble_that_lasts_is_tried_until_the_deadline_and_reported() {
    for (fault, renewal) in [
        (Fault::Throttled, RENEWALS[0]),
        (Fault::Throttled, RENEWALS[1]),
        (Fault::Throttled, RENEWALS[2]),
        (Fault::Unreachable, RENEWALS[0]),
        (Fault::Unreachable, RENEWALS[1]),
        (Fault::Unreachable, RENEWALS[2]),
        (Fault::AccessDenied, RENEWALS[0]),
        (Fault::TableMissing, RENEWALS[0]),
    ] {
        let fixture = Fixture::renewing_every(renewal).await;
        fixture.fail(fault, None);
        let held = fixture.missing();
        let (report, took) = fixture.shut_down().await;
        assert!(
            took >= DEADLINE && took < DEADLINE + millis(20),
            "{fault:?}: {took:?}"
        );
        assert_eq!(report.unreturned.cast_signed(), held);
        assert_eq!((report.returned, report.in_doubt), (0, 0));
        assert_eq!(report.unreported, 10 * BUCKETS.cast_signed());
        assert_eq!(report.buckets as u64, BUCKETS);
        let tries = fixture.store.writes() + fixture.store.checks();
        assert!(tries >= 4, "{fault:?}: it gave up after {tries}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_table_that_comes_back_in_time_has_everything_back() {
    for renewal in RENEWALS {
        for fault in [Fault::Throttled, Fault::Unreachable] {
            for back in [400, 1_000, 2_000] {
                let fixture = Fixture::renewing_every(renewal).await;
                let held = fixture.missing();
                fixture.fail(fault, Some(millis(back)));
                let (report, took) = fixture.shut_down().await;
                assert!(report.is_complete(), "{fault:?}, {back} ms: {report:?}");
                assert_eq!(report.returned.cast_signed(), held);
                assert!(took < DEADLINE && fixture.missing() == 0, "{took:?}");
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn late_answers_are_waited_for() {
    let fixture = Fixture::renewing_every(1_000).await;
    fixture.fail(Fault::Delay(millis(700)), None);
    let (report, took) = fixture.shut_down().await;
    assert!(report.is_complete() && took < millis(720), "{took:?}");
    assert_eq!(fixture.store.writes(), BUCKETS);
}

#[tokio::test(start_paused = true)]
async fn answers_after_the_deadline_are_in_doubt() {
    let fixture = Fixture::renewing_every(1_000).await;
    fixture.fail(Fault::Delay(millis(3_500)), None);
    let held = fixture.missing();
    let (report, took) = fixture.shut_down().await;
    assert!(took >= DEADLINE && took < DEADLINE + millis(20), "{took:?}");
    assert_eq!(fixture.store.writes(), BUCKETS);
    assert_eq!(report.unreturned.cast_signed(), held);
    assert_eq!((report.in_doubt, report.returned), (report.unreturned, 0));
    assert_eq!(report.unreported, 10 * BUCKETS.cast_signed());
}

#[tokio::test(start_paused = true)]
async fn lost_answers_are_in_doubt_and_nothing_is_credited_twice() {
    for fault in [Fault::LostReply, Fault::LostBeforeApply] {
        let fixture = Fixture::renewing_every(1_000).await;
        fixture.store.fail_next(fault, 30);
        let (report, _) = fixture.shut_down().await;
        let applied = fault == Fault::LostReply;
        let missing = if applied { 0 } else { report.in_doubt };
        assert_eq!(fixture.missing(), missing.cast_signed(), "{fault:?}");
        assert_eq!((report.buckets, report.owed), (30, 0));
        assert_eq!(report.in_doubt, report.unreturned);
    }
}

#[tokio::test(start_paused = true)]
async fn debts_and_late_leases_are_in_the_report() {
    let mut fixture = Fixture::renewing_every(1_000).await;
    let limits = [fixture.limit.clone()];
    let acquire = |user| {
        let acquire = fixture.limiter().acquire(user, "api").limits(&limits);
        acquire.consume("jobs", 1)
    };
    let mut indebted = acquire("user-1").await.expect("in hand");
    let given_back = acquire("user-2").await.expect("in hand");
    fixture.store.reset();
    fixture.fail(Fault::Throttled, None);
    indebted.adjust("jobs", 5_000).await.expect("known");
    indebted.commit();
    let shutdown = fixture.limiter().shutdown(DEADLINE);
    let rollback = async {
        time::sleep(millis(1_000)).await;
        given_back.rollback().await;
    };
    let (report, ()) = tokio::join!(shutdown, rollback);
    assert!(fixture.store.writes() <= WRITES_MAX);
    assert!(report.owed > 4_000, "{report:?}");
    fixture.consumed += 5_001;
    fixture.agrees_with(&report);
}

#[tokio::test(start_paused = true)]
async fn a_limiter_that_is_dropped_is_as_careful() {
    for (back, everything) in [(None, false), (Some(millis(1_000)), true)] {
        let mut fixture = Fixture::renewing_every(100).await;
        fixture.fail(Fault::Throttled, back);
        drop(fixture.limiter.take());
        time::sleep(millis(2_100)).await;
        let writes = fixture.store.writes();
        println!(
            "{back:?}: {} writes per bucket",
            writes as f64 / BUCKETS as f64
        );
        assert!((3 * BUCKETS..=WRITES_MAX).contains(&writes), "{writes}");
        assert_eq!(fixture.missing() == 0, everything);
        time::sleep(millis(2_000)).await;
        assert_eq!(fixture.store.writes(), writes, "it has ended");
    }
}

#[tokio::test(start_paused = true)]
async fn a_shutdown_goes_on_when_nobody_waits_for_it() {
    let fixture = Fixture::renewing_every(1_000).await;
    fixture.fail(Fault::Throttled, Some(millis(2_000)));
    let begun = Instant::now();
    let dropped = time::timeout(millis(100), fixture.limiter().shutdown(DEADLINE)).await;
    assert!(dropped.is_err());
    let acquire = fixture.limiter().acquire("user-1", "api");
    let limits = [fixture.limit.clone()];
    let refused = acquire.limits(&limits).consume("jobs", 1).await;
    assert_eq!(
        refused.map(drop).expect_err("shut down").kind(),
        ErrorKind::ShutDown
    );
    let report = fixture.limiter().shutdown(Duration::from_secs(60)).await;
    assert!(report.is_complete() && begun.elapsed() < DEADLINE);
    fixture.agrees_with(&report);
    assert_eq!(fixture.limiter().shutdown(Duration::ZERO).await, report);
}

#[tokio::test(start_paused = true)]
async fn a_second_shutdown_may_have_less_patience() {
    let fixture = Fixture::renewing_every(1_000).await;
    fixture.fail(Fault::Throttled, None);
    let begun = Instant::now();
    let (long, short) = tokio::join!(
        fixture.limiter().shutdown(Duration::from_secs(60)),
        fixture.limiter().shutdown(millis(500))
    );
    assert_eq!(long, short);
    assert!(begun.elapsed() < millis(520), "{:?}", begun.elapsed());
    fixture.agrees_with(&long);
}
