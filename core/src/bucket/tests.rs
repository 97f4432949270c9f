use std::time::Duration;

use super::*;
use crate::item::{BucketItem, LimitItem, Ring};
use crate::{BucketCache, Charges, Clock, Limit, Payer, Request};

fn renewing_every(seconds: u64) -> RenewalSettings {
    RenewalSettings::new(Duration::from_secs(seconds), Duration::from_secs(5))
}

#[test]
fn demand_is_what_it_is_however_often_the_bucket_is_looked_at() {
    let settings = renewing_every(1);
    for pause in [1, 10, 50, 250] {
        let (clock, hands) = Clock::manual();
        let limits: Arc<[Limit]> = [Limit::per_second("tps", 10_000).unwrap()].into();
        let bucket = BucketCache::new().get_or_insert("user", "api", &limits);
        let (bucket, mut table) = (bucket.unwrap(), None);
        for at in 0..6_000 / pause {
            hands.advance(Duration::from_millis(pause));
            // 500 tokens per second, in requests of five.
            let requests = (at + 1) * pause / 10 - at * pause / 10;
            for _ in 0..requests {
                let consume = [("tps", 5)];
                let request = Request::new(&limits, &consume);
                if bucket.take(&clock, &request).is_err() {
                    bucket.want(&request);
                }
            }
            let mut step = bucket.check(&clock, &settings, Why::Due);
            while let Step::Write(plan) = step {
                let outcome = match BucketItem::apply(&mut table, &plan.write) {
                    Ok(item) => Outcome::Applied(item),
                    Err(found) => Outcome::Refused(found),
                };
                step = bucket.complete(&clock, &settings, Why::Due, outcome);
            }
        }
        let ring = table.unwrap().limit("tps").unwrap().ring.unwrap();
        let demand = ring.demand_milli[Ring::slot(ring.epoch)] / 1_000;
        assert!((450..=550).contains(&demand), "{demand}, every {pause} ms");
    }
}

#[test]
fn caller_that_waits_and_is_woken_again_and_again_has_asked_once() {
    let settings = renewing_every(1);
    let (clock, hands) = Clock::manual();
    let limits: Arc<[Limit]> = [Limit::per_second("tps", 10_000).unwrap()].into();
    let bucket = BucketCache::new().get_or_insert("user", "api", &limits);
    let bucket = bucket.unwrap();
    let consume = [("tps", 100)];
    let request = Request::new(&limits, &consume);
    for round in 0..10 {
        hands.advance(settings.renewal);
        for _ in 0..(if round < 5 { 1 } else { 20 }) {
            bucket.want(&request);
            bucket.lock().active().meter.wake();
        }
        let mut state = bucket.lock();
        let active = state.active();
        active.paid(0, 100);
        let samples = active.meter.take_samples();
        let policy = active.policy.get_or_insert_with(settings.policy);
        policy.observe(now(&clock), &settings.pace(false), &samples);
    }
    let demand = bucket
        .lock()
        .active()
        .policy
        .as_ref()
        .map(|policy| policy.demand(0));
    assert!(
        demand.is_some_and(|demand| (85.0..=150.0).contains(&demand)),
        "{demand:?}"
    );
}

#[test]
fn process_that_only_looks_writes_nothing() {
    let settings = renewing_every(2); // longer than the clock has run
    let (clock, hands) = Clock::manual();
    let limits: Arc<[Limit]> = [Limit::per_second("tps", 10).unwrap()].into();
    let bucket = BucketCache::new().get_or_insert("user", "api", &limits);
    let bucket = bucket.unwrap();
    let found = LimitItem {
        terms: *limits[0].terms(),
        z: 0,
        consumed: 0,
        ring: None,
    };
    let item = BucketItem {
        limits: vec![(limits[0].shared_name().clone(), found)],
        ..BucketItem::default()
    };
    bucket.saw(&clock, clock.now(), Some(item));
    for _ in 0..20 {
        let step = bucket.check(&clock, &settings, Why::Due);
        assert!(!matches!(step, Step::Write(_)), "{step:?}");
        hands.advance(Duration::from_millis(100));
    }
}

#[test]
fn payment_of_a_deleted_item_cancels_no_debt_to_the_next_one() {
    let (clock, _hands) = Clock::manual();
    let limits: Arc<[Limit]> = [Limit::per_second("tps", 10).unwrap()].into();
    let bucket = BucketCache::new().get_or_insert("user", "api", &limits);
    let bucket = bucket.unwrap();
    let see = |incarnation| {
        let item = BucketItem {
            incarnation,
            sequence: incarnation,
            ..BucketItem::default()
        };
        bucket.saw(&clock, clock.now(), Some(item));
    };
    let charge = || Payer::Block(bucket.charge_anyway(&clock, &limits[0], 5).generation);
    let give_back = |payer| {
        bucket.give_back(&clock, payer, &limits, &Charges::of(0, 5));
        bucket.unsettled().debt
    };
    see(1);
    let of_the_first = charge();
    see(2);
    let of_the_second = charge();
    assert_eq!(give_back(of_the_first), 10, "it is owed for the second");
    assert_eq!(give_back(Payer::Table(Some(1))), 10);
    assert_eq!(give_back(of_the_second), 5);
}
