//! Writes without an answer, answers out of order, tables out of reach.

use zae_limiter::store::{StoreError, StoreErrorKind, WriteOutcome};
use zae_limiter::strict::{BucketPayment, Change, Due, Next, NextOfPayment, NotWritten, Payment};
use zae_limiter_core::item::BucketItem;
use zae_limiter_core::plan::Seen;
use zae_limiter_core::{Charges, Payer, Shortage};
use zae_limiter_tests::desk::{Desk, End};

use super::{drain, level, limit, secs};

#[test]
fn a_lost_reply_is_no_reason_to_debit_again() {
    let desk = Desk::new(&[limit(10, 100)]);
    let mut table = None;
    let due = Due::new(desk.bucket.clone(), desk.limits.clone(), Charges::of(0, 5));
    let mut payment = Payment::new(&desk.clock, [due].into_iter().collect());
    let NextOfPayment::Write(_, write) = payment.next(&desk.clock) else {
        panic!("a payment writes");
    };
    BucketItem::apply(&mut table, &write).expect("it is applied");
    let error = StoreError::new(StoreErrorKind::Unreachable, "no answer");
    payment.done(&desk.clock, WriteOutcome::Unknown(error));
    let next = payment.next(&desk.clock);
    assert!(
        matches!(next, NextOfPayment::Done(Err((0, NotWritten::InDoubt(_))))),
        "{next:?}"
    );
    assert_eq!(level(&table, &desk), 95);
}

#[test]
fn a_credit_of_unknown_outcome_is_not_repeated() {
    let (mut desk, mut table) = (Desk::new(&[limit(1, 100)]), None);
    desk.acquire(&mut table, 50).expect("tokens");
    desk.bucket.give_back(
        &desk.clock,
        Payer::Table(None),
        &desk.limits,
        &Charges::of(0, 20),
    );
    let plan = desk.look().expect("a credit");
    desk.end(&mut table, &plan, End::Unheard);
    desk.hands.advance(secs(1));
    desk.renew(&mut table);
    assert!(i128::from(level(&table, &desk)) + desk.holds() <= 71);
}

#[test]
fn the_correction_of_a_strict_lease_is_made_once() {
    let desk = Desk::new(&[limit(10, 100)]);
    let (bucket, limits) = (desk.bucket.clone(), desk.limits.clone());
    let due = Due::new(bucket, limits, Charges::of(0, 5));
    let mut credit = BucketPayment::new(&desk.clock, Change::Credit(None), due);
    assert!(matches!(credit.next(&desk.clock), Next::Write(..)));
    let error = StoreError::new(StoreErrorKind::Unreachable, "no answer");
    credit.done(&desk.clock, WriteOutcome::Unknown(error));
    assert!(matches!(
        credit.next(&desk.clock),
        Next::Done(Err(NotWritten::InDoubt(_)))
    ));
    assert_eq!(
        desk.holds(),
        0,
        "and it is not left to the reconciler either"
    );
}

#[test]
fn an_outage_is_not_taken_for_an_empty_bucket() {
    let (mut desk, mut table) = (Desk::new(&[limit(10, 100)]), None);
    assert_eq!(desk.take(1), Err(Shortage::Miss));
    let plan = desk.look().expect("it asks");
    desk.end(&mut table, &plan, End::Refused);
    assert_eq!(desk.take(1), Err(Shortage::Unavailable));
}

#[test]
fn an_answer_that_was_overtaken_changes_nothing() {
    let desk = Desk::new(&[limit(10, 100)]);
    let item = |sequence| BucketItem {
        sequence,
        ..BucketItem::default()
    };
    let sent = desk.clock.now();
    desk.hands.advance(secs(1));
    desk.bucket.saw(&desk.clock, sent, Some(item(7)));
    desk.bucket.saw(&desk.clock, sent, Some(item(6)));
    assert_eq!(desk.bucket.seen(), Seen::Item(item(7)));
    // What was asked for later is later, whatever its number: a table may have been restored.
    desk.hands.advance(secs(1));
    desk.bucket
        .saw(&desk.clock, desk.clock.now(), Some(item(1)));
    assert_eq!(desk.bucket.seen(), Seen::Item(item(1)));
}

/// What is asked for in vain is not made up for: the table has filled meanwhile.
#[test]
fn an_outage_longer_than_a_bucket_takes_to_fill_leaves_it_full() {
    let (mut desk, mut table) = (Desk::new(&[limit(10, 100)]), None);
    desk.acquire(&mut table, 80).expect("tokens");
    desk.cut_off = true;
    for _ in 0..600 {
        let _ = desk.take(3);
        desk.pass(&mut table, std::time::Duration::from_millis(100));
    }
    desk.cut_off = false;
    desk.pass(&mut table, secs(2));
    assert_eq!(drain(&mut desk, &mut table), 100);
}
