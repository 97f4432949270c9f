//! Arithmetic, trickles and payments, to the tick.

use std::time::Duration;

use super::ms;
use super::writes::{item, limit};
use crate::{MonotonicTime, Payer, Terms, Ticks, Trickle, WallTime};

#[test]
fn arithmetic_is_exact() {
    // 7 tokens in 2 s: a token is 2 * 10^9 ticks, a nanosecond 7.
    let terms = Terms {
        capacity: 1,
        burst: 10,
        refill_amount: 7,
        refill_period_seconds: 2,
    };
    assert_eq!(terms.token(), 2_000_000_000);
    assert_eq!(terms.refill(Duration::from_nanos(3)), 21);
    assert_eq!(terms.full(), 20_000_000_000);
    let now = WallTime::from_nanos(100_000_000_000);
    assert_eq!(terms.empty_at(now), 700_000_000_000);
    assert_eq!(terms.full_at(now), 680_000_000_000);
    assert_eq!(terms.level(699_999_999_999, now), 1);
    assert_eq!(terms.level(1, now), terms.full());
    assert_eq!(
        (
            terms.tokens(700_000_000_001, now),
            terms.tokens(700_000_000_000, now)
        ),
        (-1, 0)
    );
    assert_eq!(
        (terms.to_tokens(3_999_999_999), terms.to_tokens(-1)),
        (1, -1)
    );
    assert_eq!(
        (terms.to_tokens(Ticks::MAX), terms.to_tokens(Ticks::MIN)),
        (i64::MAX, i64::MIN)
    );
    assert_eq!(terms.tokens_in(Duration::from_secs(1)), 3);
    assert_eq!(terms.tokens_in(Duration::from_secs(2)), 7);
    // Full 20 * 10^9 / 7 nanoseconds after it was empty.
    assert_eq!(terms.full_by(0), 3);
    assert_eq!(terms.full_by(7_000_000_000 - 20_000_000_000), 1);
    assert_eq!(terms.full_by(7_000_000_001 - 20_000_000_000), 2);
    assert_eq!(terms.full_by(-90_000_000_000), 0);
    assert_eq!(terms.full_by(Ticks::MAX >> 24), u64::MAX);
    assert_eq!(terms.time_for(-1), Duration::ZERO);
    assert_eq!(terms.time_for(0), Duration::ZERO);
    assert_eq!(terms.time_for(1), Duration::from_nanos(1));
    assert_eq!(terms.time_for(7), Duration::from_nanos(1));
    assert_eq!(terms.time_for(8), Duration::from_nanos(2));
    assert_eq!(
        terms.time_for(Ticks::MAX >> 8),
        Duration::from_nanos(u64::MAX)
    );
    assert_eq!(terms.time_until(1_999_999_993, 1), Duration::from_nanos(1));
    assert_eq!(terms.time_until(0, 7), Duration::from_secs(2));
    assert_eq!(terms.time_until(2_000_000_000, 1), Duration::ZERO);
    // The same level, in other ticks, and cut to the other burst.
    let other = Terms {
        burst: 4,
        refill_amount: 3,
        refill_period_seconds: 5,
        ..terms
    };
    let level = |level: Ticks| {
        let z = terms.empty_at(now) - level;
        other.empty_at(now) - other.converted(&terms, z, now)
    };
    assert_eq!(level(4_000_000_002), 10_000_000_005);
    assert_eq!(level(4_000_000_001), 10_000_000_002, "rounded down");
    assert_eq!(level(-1), -3);
    assert_eq!(level(9_000_000_000), other.full());
}

#[test]
fn trickle_is_exact() {
    let at = |millis: u64| MonotonicTime::from_nanos(millis * 1_000_000);
    let mut trickle = Trickle::new(at(1_000), ms(1_000), 10);
    assert_eq!(trickle.end(), at(2_000));
    assert_eq!(
        (trickle.release(at(1_399)), trickle.release(at(1_400))),
        (3, 1)
    );
    assert_eq!(trickle.pending(), 6);
    assert_eq!(trickle.time_until(at(1_400), 2), Some(ms(200)));
    assert_eq!(
        trickle.time_until(at(1_400), 8),
        Some(ms(800)),
        "beyond the end"
    );
    assert_eq!(trickle.cancel(4), 4);
    assert_eq!(trickle.pending(), 2);
    assert_eq!(
        trickle.time_until(at(1_400), 1),
        Some(Duration::from_nanos(433_333_334))
    );
    assert_eq!((trickle.cancel(5), trickle.pending()), (2, 0));
    assert_eq!(trickle.release(at(9_000)), 0);
    assert_eq!(Trickle::default().time_until(at(0), 1), None);
    let mut trickle = Trickle::new(at(1_000), ms(1_000), 10);
    trickle.delay(at(900), at(1_900));
    assert_eq!((trickle.end(), trickle.release(at(1_100))), (at(2_000), 1));
    trickle.delay(at(1_500), at(2_500));
    assert_eq!(trickle.end(), at(2_500));
    assert_eq!(
        (trickle.release(at(1_699)), trickle.release(at(1_700))),
        (0, 1)
    );
    assert_eq!(trickle.release(at(2_499)), 7);
    assert_eq!(trickle.release(at(2_500)), 1);
    let mut at_once = Trickle::new(at(5), Duration::ZERO, 3);
    assert_eq!(at_once.end(), MonotonicTime::from_nanos(5_000_001));
    assert_eq!(at_once.release(at(5)), 0);
    assert_eq!(at_once.release(at(6)), 3);
    at_once.delay(at(7), at(7));
    assert_eq!(at_once.end(), MonotonicTime::from_nanos(7_000_001));
}

#[test]
fn payments_are_kept_apart_by_payer() {
    let of = crate::Charges::of;
    let kept = |payments: &crate::Payments| -> Vec<(Payer, u64)> {
        payments
            .iter()
            .map(|paid| (paid.payer, paid.charges.tokens(0)))
            .collect()
    };
    let mut payments = crate::Payments::new(Payer::Block(1), of(0, 10));
    payments.add(Payer::Block(2), 0, 20);
    assert_eq!(
        kept(&payments),
        [(Payer::Block(1), 10), (Payer::Block(2), 20)]
    );
    assert_eq!(payments.first(), Payer::Block(1));
    assert_eq!(payments.last(), Payer::Block(2));
    // Of blocks before the last only their sum is of interest, under the name of the oldest.
    payments.add(Payer::Block(3), 0, 30);
    assert_eq!(
        kept(&payments),
        [(Payer::Block(1), 30), (Payer::Block(3), 30)]
    );
    payments.add(Payer::Block(0), 0, 1);
    payments.add(Payer::Block(u32::MAX), 0, 1);
    let joined = [(Payer::Block(0), 61), (Payer::Block(u32::MAX), 1)];
    assert_eq!(kept(&payments)[1..], joined[1..]);
    assert_eq!(payments.tokens(0), 62);
    let table = Payer::Table(Some(3));
    payments.add(table, 0, 5);
    payments.add(table, 0, 5);
    payments.add(Payer::Block(9), 0, 7);
    let count = payments.iter().count();
    assert_eq!(
        kept(&payments)[count - 2..],
        [(table, 10), (Payer::Block(9), 7)]
    );
    assert_eq!(payments.charges().tokens(0), 79);
    let back = payments.take_back(0, 9);
    let back: Vec<_> = back
        .iter()
        .map(|paid| (paid.payer, paid.charges.tokens(0)))
        .collect();
    assert_eq!(back, [(Payer::Block(9), 7), (table, 2)]);
    assert_eq!(payments.last(), table);
    assert_eq!(payments.take_back(0, 99).len(), count - 1);
    assert_eq!(
        (payments.iter().count(), payments.last()),
        (0, Payer::Block(1))
    );
    let limit = limit(1_000);
    let item = item(&limit, 0, None);
    assert!(Payer::Table(None).debited(&item) && Payer::Table(Some(7)).debited(&item));
    for payer in [Payer::Table(Some(8)), Payer::Block(7), Payer::Nobody] {
        assert!(!payer.debited(&item));
    }
}
