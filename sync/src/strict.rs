//! Strict mode: an acquire is one conditional write to each bucket that it charges.

use std::sync::Arc;

use smallvec::SmallVec;
use zae_limiter_core::item::BucketItem;
use zae_limiter_core::plan::{self, Seen, Transfer};
use zae_limiter_core::{BucketRef, Charges, Limit};

use crate::engine::Engine;
use crate::store::{StoreError, WriteOutcome};

/// How often a write is planned anew. The second plan is right unless the bucket went from full
/// to not full, or its terms changed, in the very moment.
const TRIES_MAX: u32 = 16;

/// Why a write is not known to have happened.
#[derive(Debug)]
pub(crate) enum NotWritten {
    /// The bucket does not hold the tokens; this was found.
    Exceeded(Option<BucketItem>),
    /// The table did not do it.
    Failed(Option<Arc<StoreError>>),
    /// The table may have done it.
    InDoubt(Arc<StoreError>),
}

impl NotWritten {
    /// What kept the table from answering.
    pub(crate) fn failure(self) -> Option<Arc<StoreError>> {
        match self {
            Self::Exceeded(_) => None,
            Self::Failed(error) => error,
            Self::InDoubt(error) => Some(error),
        }
    }
}

/// The writes of one strict acquire.
pub(crate) struct StrictPayment {
    pub(crate) engine: Arc<Engine>,
    pub(crate) buckets: SmallVec<[BucketRef; 2]>,
    pub(crate) limits: Arc<[Limit]>,
    pub(crate) charges: Charges,
}

impl StrictPayment {
    /// Debits all buckets or none.
    pub(crate) async fn pay(self) -> Result<(), (usize, NotWritten)> {
        let (answer, answered) = tokio::sync::oneshot::channel();
        tokio::spawn(async move {
            let result = self.debit_all().await;
            if let Err(Ok(())) = answer.send(result) {
                let all: SmallVec<[usize; 2]> = (0..self.buckets.len()).collect();
                self.give_back(&all).await; // nobody is waiting any more
            }
        });
        let lost = |_| Err((0, NotWritten::Failed(None)));
        answered.await.unwrap_or_else(lost)
    }

    async fn debit(&self, at: usize) -> Result<(), (usize, NotWritten)> {
        let debit = debit(&self.engine, &self.buckets[at], &self.limits, &self.charges);
        debit.await.map_err(|error| (at, error))
    }

    async fn debit_all(&self) -> Result<(), (usize, NotWritten)> {
        // The child first: a parent is shared by many, and must not lose tokens, even for a
        // moment, to children that are out of theirs. But if the parent is known to be out, it
        // may say so before the child has paid for nothing.
        let mut order: SmallVec<[usize; 2]> = (0..self.buckets.len()).collect();
        if order.last().is_some_and(|parent| !self.may_have(*parent)) {
            order.reverse();
        }
        for (done, at) in order.iter().enumerate() {
            if let Err(error) = self.debit(*at).await {
                self.give_back(&order[..done]).await;
                return Err(error);
            }
        }
        Ok(())
    }

    /// Whether a bucket had the tokens when it was last seen, with the refill since.
    fn may_have(&self, at: usize) -> bool {
        let seen = self.buckets[at].seen();
        fits(&self.engine, &seen, &self.limits, &self.charges)
    }

    async fn give_back(&self, buckets: &[usize]) {
        for at in buckets {
            let bucket = &self.buckets[*at];
            credit(&self.engine, bucket, &self.limits, &self.charges).await;
        }
    }
}

fn transfers<'a>(
    limits: &'a [Limit],
    charges: &Charges,
    fill: impl Fn(Transfer<'a>, u64) -> Transfer<'a>,
) -> Vec<Transfer<'a>> {
    let of = |(at, tokens)| fill(Transfer::new(&limits[at as usize]), tokens);
    charges.iter().map(of).collect()
}

fn signed(tokens: u64) -> i64 {
    i64::try_from(tokens).unwrap_or(i64::MAX)
}

fn debits<'a>(limits: &'a [Limit], charges: &Charges) -> Vec<Transfer<'a>> {
    transfers(limits, charges, |t, tokens| Transfer {
        take: tokens,
        consumed: signed(tokens),
        ..t
    })
}

/// Whether a bucket that was last seen like this holds all of `charges` now.
fn fits(engine: &Engine, seen: &Seen, limits: &[Limit], charges: &Charges) -> bool {
    let now = engine.clock.wall();
    let debits = debits(limits, charges);
    debits.iter().all(|t| plan::fits(seen.item(), now, t))
}

/// Debits `charges` if the bucket holds all of them.
async fn debit(
    engine: &Engine,
    bucket: &BucketRef,
    limits: &[Limit],
    charges: &Charges,
) -> Result<(), NotWritten> {
    write(engine, bucket, &debits(limits, charges)).await
}

/// Debits `charges` whatever the bucket holds.
pub(crate) async fn debit_anyway(
    engine: &Engine,
    bucket: &BucketRef,
    limits: &[Limit],
    charges: &Charges,
) -> Result<(), NotWritten> {
    let transfers = transfers(limits, charges, |t, tokens| Transfer {
        owe: tokens,
        consumed: signed(tokens),
        ..t
    });
    write(engine, bucket, &transfers).await
}

/// Credits `charges`; at most once. What surely did not reach the table is left to the
/// reconciler; what may have reached it is not repeated.
pub(crate) async fn credit(
    engine: &Engine,
    bucket: &BucketRef,
    limits: &[Limit],
    charges: &Charges,
) {
    let transfers = transfers(limits, charges, |t, tokens| Transfer {
        give: tokens,
        consumed: -signed(tokens),
        ..t
    });
    if let Err(NotWritten::Failed(_)) = write(engine, bucket, &transfers).await
        && bucket.give_back(&engine.clock, None, limits, charges)
    {
        engine.tell(bucket);
    }
}

async fn write(
    engine: &Engine,
    bucket: &BucketRef,
    transfers: &[Transfer<'_>],
) -> Result<(), NotWritten> {
    if transfers.is_empty() {
        return Ok(());
    }
    let see = |item: Option<BucketItem>| {
        engine.answered();
        if bucket.saw(&engine.clock, item) {
            engine.tell(bucket); // to be forgotten some day
        }
    };
    let mut seen = bucket.seen();
    let asked_at = Some(engine.clock.wall());
    let transfers: Vec<_> = transfers
        .iter()
        .map(|t| Transfer { asked_at, ..*t })
        .collect();
    for _ in 0..TRIES_MAX {
        let now = engine.clock.wall();
        let Some(plan) = plan::plan(&seen, now, &transfers) else {
            return Ok(()); // a credit for a bucket that is gone
        };
        match engine.store.write_bucket(bucket.key(), &plan.write).await {
            WriteOutcome::Applied(item) => {
                see(Some(item.clone()));
                if !plan.only_converts {
                    return Ok(());
                }
                seen = Seen::Item(item);
            }
            WriteOutcome::Refused(found) => {
                see(found.clone());
                let fits = |t: &Transfer<'_>| t.take == 0 || plan::fits(found.as_ref(), now, t);
                if !transfers.iter().all(fits) {
                    return Err(NotWritten::Exceeded(found));
                }
                seen = found.into();
            }
            WriteOutcome::Failed(error) => {
                return Err(NotWritten::Failed(Some(engine.failed(error))));
            }
            WriteOutcome::Unknown(error) => {
                return Err(NotWritten::InDoubt(engine.failed(error)));
            }
        }
    }
    Err(NotWritten::Failed(None))
}
