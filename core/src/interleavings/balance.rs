//! The fast balance alone.

use super::*;

const OLD: u64 = 0xa;
const NEW: u64 = 0xb;

/// A thread that pays once, from the first limit.
#[derive(Clone, Copy, Debug)]
struct PayingThread {
    tokens: u64,
    fingerprint: u64,
    tick: u64,
}

fn payer(tokens: u64, fingerprint: u64, tick: u64) -> PayingThread {
    PayingThread {
        tokens,
        fingerprint,
        tick,
    }
}

fn block(tokens: u64, fingerprint: u64, generation: u32, expires: u64) -> Filling {
    Filling {
        tokens: [tokens, 0],
        expires: Tick(expires),
        fingerprint,
        generation,
        ..Filling::default()
    }
}

/// Fills a balance with one block after the other. Each payer pays once meanwhile, in a thread of its own.
fn pay_while_filling(blocks: &[Filling], payers: &[PayingThread]) -> Result<(), Violation> {
    let balance = Arc::new(FastBalance::default());
    balance.fill(&blocks[0]);
    let pay = |payer: PayingThread| {
        let balance = balance.clone();
        thread::spawn(move || balance.pay(Tick(payer.tick), payer.fingerprint, payer.tokens))
    };
    let threads: Vec<_> = payers.iter().map(|payer| pay(*payer)).collect();
    let mut left = Vec::new();
    for block in &blocks[1..] {
        left.push(balance.empty());
        balance.fill(block);
    }
    let paid = threads.into_iter().map(|thread| thread.join().unwrap());
    let paid: Vec<_> = paid.collect();
    left.push(balance.empty());
    audit(blocks, &left, payers, &paid)
}

/// Checks that each payment came from exactly one block, and that this block was allowed to pay it. The
/// amounts of the payers are powers of two: the tokens missing from a block tell which payers it paid.
fn audit(
    blocks: &[Filling],
    left: &[[u64; COUNTERS]],
    payers: &[PayingThread],
    paid: &[Option<Payment>],
) -> Result<(), Violation> {
    let lost = |(block, left): (&Filling, &[u64; COUNTERS])| block.tokens[0].checked_sub(left[0]);
    let lost: Option<Vec<u64>> = blocks.iter().zip(left).map(lost).collect();
    let Some(lost) = lost else {
        return Err(format!("{left:?} were left of {blocks:?}"));
    };
    let amounts = payers.iter().zip(paid);
    let amounts = amounts.map(|(payer, paid)| paid.map_or(0, |_| payer.tokens));
    let (paid_out, lost_in_all) = (amounts.sum::<u64>(), lost.iter().sum::<u64>());
    if paid_out != lost_in_all {
        return Err(format!("{paid_out} tokens were paid, blocks lost {lost:?}"));
    }
    for (payer, payment) in payers.iter().zip(paid) {
        let Some(payment) = payment else { continue };
        let payers_block = lost.iter().position(|lost| lost & payer.tokens != 0);
        let Some(block) = payers_block.map(|at| &blocks[at]) else {
            return Err(format!("{payer:?} was paid, blocks lost {lost:?}"));
        };
        let is_due = block.fingerprint == payer.fingerprint
            && payer.tick < block.expires.0
            && payment.generation <= block.generation;
        if !is_due {
            return Err(format!("{payer:?} had {payment:?} from {block:?}"));
        }
    }
    Ok(())
}

fn refill() -> Result<(), Violation> {
    let blocks = [block(3, OLD, 1, 10), block(3, OLD, 2, 20)];
    pay_while_filling(&blocks, &[payer(1, OLD, 5), payer(2, OLD, 5)])
}

/// The last filling is the same block after tokens were given back to it.
fn expiry_and_give_back() -> Result<(), Violation> {
    let blocks = [
        block(3, OLD, 1, 10),
        block(2, OLD, 2, 20),
        block(3, OLD, 2, 20),
    ];
    pay_while_filling(&blocks, &[payer(1, OLD, 15)])
}

/// The number of tokens alone does not tell that the limits have changed.
fn same_number_of_other_tokens() -> Result<(), Violation> {
    let blocks = [block(3, OLD, 1, 10), block(3, NEW, 2, 20)];
    pay_while_filling(&blocks, &[payer(1, OLD, 5)])
}

fn limit_change() -> Result<(), Violation> {
    let blocks = [block(3, OLD, 1, 10), block(2, NEW, 2, 20)];
    pay_while_filling(&blocks, &[payer(1, OLD, 5), payer(2, NEW, 5)])
}

/// The bucket is dropped, and another bucket gets its place.
fn place_reused() -> Result<(), Violation> {
    let blocks = [
        block(3, OLD, 5, 10),
        Filling::default(),
        block(2, NEW, 1, 20),
    ];
    pay_while_filling(&blocks, &[payer(1, OLD, 5)])
}

#[test]
fn payment_comes_from_one_block_during_refill() {
    assert_holds(PREEMPTIONS, refill);
}

#[test]
fn payment_never_comes_from_an_expired_block() {
    assert_holds(UNBOUNDED, expiry_and_give_back);
}

#[test]
fn payment_never_comes_from_other_limits() {
    assert_holds(PREEMPTIONS, limit_change);
    assert_holds(UNBOUNDED, same_number_of_other_tokens);
}

#[test]
fn payment_never_comes_from_the_next_bucket_in_the_place() {
    assert_holds(UNBOUNDED, place_reused);
}

#[test]
fn planted_fill_without_release_is_found() {
    assert_finds(Misordering::TokensNotReleased, PREEMPTIONS, limit_change);
}

#[test]
fn planted_late_read_of_the_generation_is_found() {
    assert_finds(Misordering::GenerationReadLast, PREEMPTIONS, refill);
}

#[test]
fn planted_two_step_empty_is_found() {
    assert_finds(Misordering::EmptiedInTwoSteps, PREEMPTIONS, refill);
}

#[test]
fn planted_single_check_of_the_fingerprint_is_found() {
    assert_finds(
        Misordering::FingerprintCheckedOnce,
        PREEMPTIONS,
        limit_change,
    );
}
