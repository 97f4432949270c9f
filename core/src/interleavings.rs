//! Models of what threads do to a balance and to a bucket at once: loom runs each of them once for every
//! order in which that can happen, and for every value that a relaxed load can see.
//!
//! They run the code that ships. What they would find is shown by the bugs in [`Misordering`].

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use loom::thread;

use crate::Tick;
use crate::fast_balance::{COUNTERS, FastBalance, Filling};
use crate::sabotage::Misordering;

/// Runs `model` in every interleaving with up to so many preemptions, or in all.
///
/// A model returns what has gone wrong, rather than panic while it still holds what loom watches.
fn explore(
    name: &str,
    preemptions: Option<usize>,
    model: impl Fn() -> Result<(), String> + Send + Sync + 'static,
) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = preemptions;
    let (started, runs) = (Instant::now(), Arc::new(AtomicU64::new(0)));
    let count = runs.clone();
    let explored = catch_unwind(AssertUnwindSafe(|| {
        builder.check(move || {
            count.fetch_add(1, Ordering::Relaxed);
            if let Err(violation) = model() {
                panic!("{violation}");
            }
        });
    }));
    let (runs, took) = (runs.load(Ordering::Relaxed), started.elapsed());
    println!("{name}: {runs} interleavings in {took:.1?}");
    if let Err(violation) = explored {
        std::panic::resume_unwind(violation);
    }
}

/// What one thread wants of a balance: once, so many tokens of the first limit.
#[derive(Clone, Copy, Debug)]
struct Payer {
    tick: u64,
    fingerprint: u64,
    tokens: u64,
}

/// Fills a balance with one block after the other, while others pay from it.
///
/// The amounts of the payers are powers of two: so what a block has lost tells whom it has paid.
fn pay_while_filling(blocks: &[Filling], payers: &[Payer]) -> Result<(), String> {
    let balance = Arc::new(FastBalance::default());
    balance.fill(&blocks[0]);
    let pay = |payer: Payer| {
        let balance = balance.clone();
        thread::spawn(move || balance.pay(Tick(payer.tick), payer.fingerprint, payer.tokens))
    };
    let threads: Vec<_> = payers.iter().map(|payer| pay(*payer)).collect();
    let mut left = Vec::new();
    for block in &blocks[1..] {
        left.push(balance.empty());
        balance.fill(block);
    }
    let payments: Vec<_> = threads.into_iter().map(|t| t.join()).collect();
    left.push(balance.empty());
    drop(balance);

    let spent = |(block, left): (&Filling, &[u64; COUNTERS])| block.tokens[0].wrapping_sub(left[0]);
    let spent: Vec<u64> = blocks.iter().zip(&left).map(spent).collect();
    let all = |payers: &mut dyn Iterator<Item = u64>| payers.sum::<u64>();
    let paid = payers.iter().zip(&payments);
    let paid = paid.filter(|(_, payment)| matches!(payment, Ok(Some(_))));
    let paid = all(&mut paid.map(|(payer, _)| payer.tokens));
    if all(&mut spent.iter().copied()) != paid {
        return Err(format!("{paid} were paid, the blocks lost {spent:?}"));
    }
    for (payer, payment) in payers.iter().zip(payments) {
        let Ok(Some(payment)) = payment else { continue };
        let from: Vec<_> = blocks
            .iter()
            .zip(&spent)
            .filter(|(_, spent)| *spent & payer.tokens != 0)
            .collect();
        let [(block, _)] = from[..] else {
            return Err(format!("{payer:?} was paid by {from:?}"));
        };
        if block.fingerprint != payer.fingerprint
            || block.expires.0 <= payer.tick
            || payment.generation > block.generation
        {
            return Err(format!("{payer:?} got {payment:?} from {block:?}"));
        }
    }
    Ok(())
}

const OLD: u64 = 0xa;
const NEW: u64 = 0xb;

fn block(tokens: u64, fingerprint: u64, generation: u32, expires: u64) -> Filling {
    Filling {
        tokens: [tokens, 0],
        expires: Tick(expires),
        fingerprint,
        generation,
        ..Filling::default()
    }
}

fn payer(tokens: u64, fingerprint: u64, tick: u64) -> Payer {
    Payer {
        tick,
        fingerprint,
        tokens,
    }
}

fn refill() {
    explore("pay against refill", Some(2), || {
        let blocks = [block(3, OLD, 1, 10), block(3, OLD, 2, 20)];
        pay_while_filling(&blocks, &[payer(1, OLD, 5), payer(2, OLD, 5)])
    });
}

fn expiry() {
    explore("pay against expiry", None, || {
        let blocks = [block(3, OLD, 1, 10), block(2, OLD, 2, 20), block(3, OLD, 3, 20)];
        pay_while_filling(&blocks, &[payer(1, OLD, 15)])
    });
}

fn limit_change() {
    explore("pay against limit change", Some(2), || {
        let blocks = [block(3, OLD, 1, 10), block(2, NEW, 2, 20)];
        pay_while_filling(&blocks, &[payer(1, OLD, 5), payer(2, NEW, 5)])
    });
}

fn aba() {
    explore("pay against limit change, aba", None, || {
        let blocks = [block(3, OLD, 1, 10), block(3, NEW, 2, 20)];
        pay_while_filling(&blocks, &[payer(1, OLD, 5)])
    });
}

#[test]
fn balance_refill() {
    refill();
}
#[test]
fn balance_expiry() {
    expiry();
}
#[test]
fn balance_limit_change() {
    limit_change();
}
#[test]
fn balance_aba() {
    aba();
}

fn fails(bug: Misordering, model: fn()) {
    Misordering::plant(Some(bug));
    let found = catch_unwind(model);
    Misordering::plant(None);
    match found {
        Ok(()) => panic!("{bug:?} was not found"),
        Err(e) => println!("{bug:?} {:?}", e.downcast_ref::<String>()),
    }
}

#[test]
fn planted() {
    use Misordering::*;
    for bug in [TokensNotReleased, GenerationReadLast, EmptiedInTwoSteps, FingerprintCheckedOnce] {
        for model in [refill as fn(), expiry, limit_change] {
            Misordering::plant(Some(bug));
            let found = catch_unwind(model);
            Misordering::plant(None);
            println!("{bug:?} {:?}", found.err().map(|e| e.downcast_ref::<String>().cloned()));
        }
    }
    let _ = fails;
}
