//! What those who wait in line for a bucket want of it: nobody who comes later may take that.
//!
//! Who is first, and when, is the embedder's to say: only the sums are kept here. While somebody
//! waits, the bucket's purse stays empty, so that every payment passes the lock and looks.

use std::sync::Arc;

use smallvec::SmallVec;

use crate::request::Request;

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

    /// Somebody begins to wait for what `request` asks.
    pub(crate) fn join(&mut self, request: &Request<'_>) {
        self.waiting += 1;
        for (limit, tokens) in request.named() {
            self.add(limit.shared_name(), tokens);
        }
    }

    /// Somebody does not wait any longer; whether others do.
    pub(crate) fn leave(&mut self, request: &Request<'_>) -> bool {
        self.waiting -= 1;
        for (limit, tokens) in request.named() {
            self.remove(limit.shared_name(), tokens);
        }
        self.waiting > 0
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
