//! The calls of the public surface, and what the model has to say about each.

use std::cell::Cell;
use std::panic::AssertUnwindSafe;

use futures::FutureExt;
use zae_limiter::{Acquire, Error, ErrorKind, Lease, ScopedLease};

use super::drop_after::DropAfter;
use super::lease::TrackedLease;
use super::model::{Broken, PaidBy, Piece};
use super::operation::{AcquireCall, End, Operation};
use super::panics;
use super::world::{NAMES, RESOURCE, World};

impl World {
    /// Makes one call, or lets something happen.
    pub(super) async fn operate(&mut self, operation: &Operation) -> Result<(), Broken> {
        match *operation {
            Operation::Acquire(ref call) => self.acquire(call).await,
            Operation::Consume(lease, limit, tokens, drop_after) => {
                self.consume(lease, limit, tokens, drop_after).await
            }
            Operation::Adjust(lease, limit, delta, drop_after) => {
                self.adjust(lease, limit, delta, drop_after).await
            }
            Operation::RollBack(lease, drop_after) => {
                self.roll_back(lease, drop_after).await;
                Ok(())
            }
            Operation::Commit(lease) => self.commit(lease).await,
            Operation::Run(process, tokens, delta, end, drop_after) => {
                self.run(process, tokens, delta, end, drop_after).await
            }
            Operation::Invalid(lease, which) => self.invalid(lease, which).await,
            Operation::Event(event) => {
                self.happen(event).await;
                Ok(())
            }
        }
    }

    /// An acquire of this process for limits as they are set.
    fn prepare<'a>(
        &'a self,
        process: usize,
        consume: &[(usize, u64)],
        cascade: bool,
    ) -> Acquire<'a> {
        let acquire = self.limiters[process].acquire(self.entities[0], RESOURCE);
        let acquire = if self.setting.stored {
            acquire.use_stored_limits(true)
        } else {
            acquire.limits(&self.limits)
        };
        let acquire = acquire.cascade(cascade);
        consume.iter().fold(acquire, |acquire, (limit, tokens)| {
            acquire.consume(NAMES[*limit], *tokens)
        })
    }

    async fn acquire(&mut self, call: &AcquireCall) -> Result<(), Broken> {
        let consume: Vec<_> = (0..self.limits.len())
            .filter(|limit| call.named & 1 << limit != 0)
            .map(|limit| (limit, call.tokens))
            .collect();
        let lease = match self.try_acquire(call, &consume).await {
            Some(Ok(lease)) => lease,
            not_acquired => {
                for (limit, tokens) in consume {
                    self.undone(call.cascade, limit, tokens);
                }
                return check_refusal(not_acquired.and_then(Result::err));
            }
        };
        let paid_by = if lease.is_degraded() {
            PaidBy::Nobody
        } else {
            PaidBy::Table
        };
        let mut lease = TrackedLease::new(lease, call.cascade);
        for (limit, tokens) in consume {
            self.charge(&mut lease, limit, Piece::admitted(tokens, paid_by))?;
        }
        self.leases.push(lease);
        Ok(())
    }

    /// None if the future was dropped, or no handle was to be had.
    async fn try_acquire(
        &self,
        call: &AcquireCall,
        consume: &[(usize, u64)],
    ) -> Option<Result<Lease<'static>, Error>> {
        let (process, cascade) = (call.process, call.cascade);
        if call.handle && !self.setting.stored {
            let consume: Vec<_> = consume.iter().map(|(at, n)| (NAMES[*at], *n)).collect();
            // An error if the entity cannot be read.
            let handle = self.prepare(process, &[], cascade).handle().await.ok()?;
            let acquire = async { handle.acquire(&consume).await.map(Lease::into_owned) };
            return call.drop_after.poll(acquire).await;
        }
        let mut acquire = self.prepare(process, consume, cascade);
        if let Some(strict) = call.strict {
            acquire = acquire.strict(strict);
        }
        let acquire = async { acquire.await.map(Lease::into_owned) };
        call.drop_after.poll(acquire).await
    }

    async fn consume(
        &mut self,
        lease: usize,
        limit: usize,
        tokens: u64,
        drop_after: DropAfter,
    ) -> Result<(), Broken> {
        self.with_lease(lease, async |world, lease| {
            let call = lease.lease.consume(NAMES[limit], tokens);
            match drop_after.poll(call).await {
                Some(Ok(())) => {
                    world.resolve_pending(lease, limit, tokens);
                    let piece = Piece::admitted(tokens, world.payer());
                    world.charge(lease, limit, piece)
                }
                not_consumed => {
                    world.resolve_pending(lease, limit, 0);
                    world.undone(lease.cascades, limit, tokens);
                    check_refusal(not_consumed.and_then(Result::err))
                }
            }
        })
        .await
    }

    async fn adjust(
        &mut self,
        lease: usize,
        limit: usize,
        delta: i64,
        drop_after: DropAfter,
    ) -> Result<(), Broken> {
        self.with_lease(lease, async |world, lease| {
            world.settle(lease).await;
            let before = lease.consumed(limit);
            let tokens = delta.unsigned_abs();
            let done = drop_after
                .poll(lease.lease.adjust(NAMES[limit], delta))
                .await;
            let succeeded = matches!(done, Some(Ok(())));
            if succeeded && delta < 0 && tokens > before {
                return Err(Broken(format!(
                    "{before} are consumed, and {delta} was allowed"
                )));
            }
            // If it has begun before its future was dropped, it is made.
            let made = lease.consumed(limit) != before || delta == 0;
            if succeeded && !made {
                return Err(Broken("a correction that was made is not there".to_owned()));
            }
            if made && delta > 0 {
                let piece = Piece::charged(tokens, world.payer());
                world.charge(lease, limit, piece)?;
                lease.pending = done.is_none().then_some((limit, tokens));
            } else if made {
                world.uncharge(lease, limit, tokens);
            }
            Ok(())
        })
        .await
    }

    async fn run(
        &mut self,
        process: usize,
        tokens: u64,
        delta: i64,
        end: End,
        drop_after: DropAfter,
    ) -> Result<(), Broken> {
        let (consumed, degraded) = (Cell::new(0), Cell::new(false));
        let acquire = self.prepare(process, &[(0, tokens)], false);
        let work = async |mut lease: ScopedLease<'_>| {
            degraded.set(lease.is_degraded());
            let _ = lease.adjust(NAMES[0], delta).await;
            consumed.set(lease.consumed().get(NAMES[0]).copied().unwrap_or(0));
            match end {
                End::Succeeds => Ok(()),
                End::Fails => Err(Error::Settings("it fails".into())),
                End::Panics => panics::on_purpose(),
            }
        };
        let run = AssertUnwindSafe(acquire.run(work)).catch_unwind();
        match drop_after.poll(run).await {
            Some(Ok(Ok(()))) => {}
            not_run => {
                self.undone(false, 0, tokens);
                let error = not_run.and_then(Result::ok).and_then(Result::err);
                return check_refusal(error.filter(|error| error.kind() != ErrorKind::Settings));
            }
        }
        let (consumed, degraded) = (consumed.get(), degraded.get());
        let paid_by = match self.payer() {
            PaidBy::Table if degraded => PaidBy::Nobody,
            payer => payer,
        };
        let admitted = Piece::admitted(tokens.min(consumed), paid_by);
        self.charge_entities(false, 0, admitted)?;
        let charged = Piece::charged(consumed.saturating_sub(tokens), paid_by);
        self.charge_entities(false, 0, charged)
    }

    /// A call that makes no sense is refused as such.
    async fn invalid(&mut self, lease: usize, which: u8) -> Result<(), Broken> {
        self.with_lease(lease, async |world, lease| {
            world.settle(lease).await;
            let burst = world.limits[0].burst_tokens();
            let consumed = lease.consumed(0).cast_signed();
            let lease = &mut lease.lease;
            let result = match which % 4 {
                0 => lease.adjust("nope", 1).await,
                1 => lease.consume(NAMES[0], burst * 100).await,
                2 => lease.adjust(NAMES[0], -consumed - 1).await,
                _ => lease.adjust(NAMES[0], i64::MIN).await,
            };
            // Which limits there are cannot always be known while the table fails.
            let unknown = world.setting.stored && which.is_multiple_of(4);
            match result.map_err(|error| error.kind()) {
                Err(ErrorKind::Validation) => Ok(()),
                Err(_) if unknown => Ok(()),
                _ => Err(Broken("an invalid call was not refused as such".to_owned())),
            }
        })
        .await
    }
}

/// A refusal names a limit, and never says "at once".
fn check_refusal(error: Option<Error>) -> Result<(), Broken> {
    match error.as_ref().and_then(Error::as_exceeded) {
        Some(exceeded) if exceeded.violations().next().is_none() => {
            Err(Broken("a refusal without a limit that refused".to_owned()))
        }
        Some(exceeded) if exceeded.retry_after().is_zero() => {
            Err(Broken("a refusal that may be repeated at once".to_owned()))
        }
        _ => Ok(()),
    }
}
