//! A lease, and what the model says that it has consumed.

use zae_limiter::Lease;

use super::drop_after::DropAfter;
use super::model::{Broken, Piece};
use super::world::{NAMES, World};

/// A lease with its pieces, the oldest first; each has the number of its limit.
pub(super) struct TrackedLease {
    pub(super) lease: Lease<'static>,
    pub(super) cascades: bool,
    pub(super) pieces: Vec<(usize, Piece)>,
    /// A charge of so many tokens of a limit whose future was dropped: it may turn out not to have been made.
    pub(super) pending: Option<(usize, u64)>,
}

impl TrackedLease {
    pub(super) fn new(lease: Lease<'static>, cascades: bool) -> Self {
        Self {
            lease,
            cascades,
            pieces: Vec::new(),
            pending: None,
        }
    }

    /// What the lease says.
    pub(super) fn consumed(&self, limit: usize) -> u64 {
        let consumed = self.lease.consumed();
        consumed.get(NAMES[limit]).copied().unwrap_or(0)
    }

    /// What the model says.
    fn expected(&self, limit: usize) -> u64 {
        let pieces = self.pieces.iter().filter(|(of, _)| *of == limit);
        pieces.map(|(_, piece)| piece.tokens).sum()
    }

    /// Whether lease and model say the same.
    pub(super) fn compare(&self) -> Result<(), Broken> {
        for (limit, name) in NAMES.iter().enumerate() {
            let (consumed, expected) = (self.consumed(limit), self.expected(limit));
            if consumed != expected {
                return Err(Broken(format!(
                    "a lease has {consumed} of {name}, not {expected}"
                )));
            }
        }
        Ok(())
    }
}

impl World {
    /// Does something with one of the leases, if there is one. The lease can be used again unless that fails.
    pub(super) async fn with_lease(
        &mut self,
        number: usize,
        work: impl AsyncFnOnce(&mut Self, &mut TrackedLease) -> Result<(), Broken>,
    ) -> Result<(), Broken> {
        let Some(mut lease) = self.take_lease(number) else {
            return Ok(());
        };
        work(self, &mut lease).await?;
        self.leases.push(lease);
        Ok(())
    }

    fn take_lease(&mut self, number: usize) -> Option<TrackedLease> {
        if self.leases.is_empty() {
            return None;
        }
        Some(self.leases.remove(number % self.leases.len()))
    }

    pub(super) async fn roll_back(&mut self, number: usize, drop_after: DropAfter) {
        if let Some(mut lease) = self.take_lease(number) {
            for (limit, piece) in std::mem::take(&mut lease.pieces) {
                self.give_back(lease.cascades, limit, piece);
            }
            drop_after.poll(lease.lease.rollback()).await;
        }
    }

    pub(super) async fn commit(&mut self, number: usize) -> Result<(), Broken> {
        match self.take_lease(number) {
            Some(lease) => self.check_and_commit(lease).await,
            None => Ok(()),
        }
    }

    /// Lease and model say the same when all that was begun has ended.
    pub(super) async fn check_and_commit(&mut self, mut lease: TrackedLease) -> Result<(), Broken> {
        self.settle(&mut lease).await;
        lease.compare()?;
        lease.lease.commit();
        Ok(())
    }

    /// The lease was charged with a piece.
    pub(super) fn charge(
        &mut self,
        lease: &mut TrackedLease,
        limit: usize,
        piece: Piece,
    ) -> Result<(), Broken> {
        lease.pieces.push((limit, piece));
        self.charge_entities(lease.cascades, limit, piece)
    }

    /// Tokens of a limit were given back: the last pieces first.
    pub(super) fn uncharge(&mut self, lease: &mut TrackedLease, limit: usize, mut tokens: u64) {
        for (of, piece) in lease.pieces.iter_mut().rev() {
            if *of == limit {
                let part = piece.split_off(tokens);
                tokens -= part.tokens;
                self.give_back(lease.cascades, limit, part);
            }
        }
    }

    /// Waits for a charge whose future was dropped.
    pub(super) async fn settle(&mut self, lease: &mut TrackedLease) {
        if lease.pending.is_some() {
            let _ = lease.lease.adjust(NAMES[0], 0).await;
            self.resolve_pending(lease, 0, 0);
            lease.pending = None;
        }
    }

    /// Takes a charge whose future was dropped out of the model, if it has turned out not to have been made.
    /// Of a limit so many tokens were consumed just now that the model does not know yet.
    pub(super) fn resolve_pending(&mut self, lease: &mut TrackedLease, of: usize, consumed: u64) {
        if let Some((limit, tokens)) = lease.pending {
            let new = if limit == of { consumed } else { 0 };
            if lease.consumed(limit) + tokens == lease.expected(limit) + new {
                self.uncharge(lease, limit, tokens);
                lease.pending = None;
            }
        }
    }
}
