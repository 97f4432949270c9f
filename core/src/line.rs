//! What those who wait in line for a bucket want of it: nobody who comes later may take that.
//!
//! Who is first, and when, is the embedder's to say: only the sums are kept here. While somebody
//! waits, the bucket's purse stays empty, so that every payment passes the lock and looks.

use std::sync::Arc;

use smallvec::SmallVec;

use crate::bucket::{Bucket, State};
use crate::request::{Charges, Request};

/// The claims of those who wait, by limit.
#[derive(Debug, Default)]
pub(crate) struct Line {
    waiting: usize,
    claims: SmallVec<[(Arc<str>, u64); 2]>,
}

impl Line {
    /// Tokens of the limit that are claimed.
    pub(crate) fn claims(&self, limit: &str) -> u64 {
        let claim = self.claims.iter().find(|(name, _)| **name == *limit);
        claim.map_or(0, |(_, tokens)| *tokens)
    }

    fn add(&mut self, name: &Arc<str>, tokens: u64) {
        match self.claims.iter_mut().find(|(known, _)| known == name) {
            Some((_, claimed)) => *claimed += tokens,
            None => self.claims.push((name.clone(), tokens)),
        }
    }

    fn remove(&mut self, name: &Arc<str>, tokens: u64) {
        if let Some((_, claimed)) = self.claims.iter_mut().find(|(known, _)| known == name) {
            *claimed = claimed.saturating_sub(tokens);
        }
    }
}

impl Bucket {
    /// Somebody begins to wait for what `request` asks. Until [`leave_line`](Self::leave_line) with
    /// the same request, only a request [in turn](Request::in_turn) may take that.
    pub fn join_line(&self, request: &Request<'_>) {
        let mut state = self.lock();
        let line = state.line.get_or_insert_default();
        line.waiting += 1;
        request
            .named()
            .for_each(|(limit, tokens)| line.add(limit.shared_name(), tokens));
    }

    /// Somebody does not wait any longer.
    pub fn leave_line(&self, request: &Request<'_>) {
        let mut state = self.lock();
        let Some(line) = &mut state.line else { return };
        line.waiting -= 1;
        if line.waiting == 0 {
            state.line = None;
        } else {
            request
                .named()
                .for_each(|(limit, tokens)| line.remove(limit.shared_name(), tokens));
        }
    }

    /// What comes before `request`, of the limits that it names, in their order.
    #[must_use]
    pub fn ahead_of(&self, request: &Request<'_>) -> Charges {
        let state = self.lock();
        let mut ahead = Charges::default();
        for (slot, limit) in request.limits().iter().enumerate() {
            ahead.push(slot as u32, state.ahead_of(request, limit.name()));
        }
        ahead
    }
}

impl State {
    /// Tokens of a limit that are claimed by those who come before `request`.
    pub(crate) fn ahead_of(&self, request: &Request<'_>, limit: &str) -> u64 {
        let line = self.line.as_ref().filter(|_| !request.is_in_turn());
        line.map_or(0, |line| line.claims(limit))
    }

    /// What has to be there for `charges` to be paid: they, and what comes before them.
    pub(crate) fn needed(&self, request: &Request<'_>, charges: &Charges) -> Charges {
        if self.line.is_none() || request.is_in_turn() {
            return charges.clone();
        }
        let mut needed = Charges::default();
        for (slot, tokens) in charges.iter().filter(|(_, tokens)| *tokens > 0) {
            let limit = &self.limits[slot as usize];
            needed.push(slot, tokens + self.ahead_of(request, limit.name()));
        }
        needed
    }
}
