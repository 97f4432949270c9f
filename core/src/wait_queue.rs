//! What the callers in the queue of a bucket want of it: no later caller may take that.
//!
//! Only claims and their order are kept here; when a caller is woken is up to the embedder. While
//! a caller waits, the bucket's fast balance stays empty, so that every payment passes the lock and looks.

use std::collections::BTreeMap;
use std::sync::Arc;

use smallvec::SmallVec;

use crate::request::{Request, Ticket};

/// Tokens by limit.
#[derive(Debug, Default)]
struct Claims(SmallVec<[(Arc<str>, u64); 2]>);

impl Claims {
    fn tokens(&self, limit: &str) -> u64 {
        let claim = self.0.iter().find(|(name, _)| **name == *limit);
        claim.map_or(0, |(_, tokens)| *tokens)
    }

    fn add(&mut self, name: &Arc<str>, tokens: u64) {
        match self.0.iter_mut().find(|(known, _)| known == name) {
            Some((_, claimed)) => *claimed += tokens,
            None => self.0.push((name.clone(), tokens)),
        }
    }

    fn remove(&mut self, name: &Arc<str>, tokens: u64) {
        if let Some((_, claimed)) = self.0.iter_mut().find(|(known, _)| known == name) {
            *claimed = claimed.saturating_sub(tokens);
        }
    }
}

/// The claims of the waiting callers.
#[derive(Debug, Default)]
pub(crate) struct WaitQueue {
    next: u64,
    waiting: BTreeMap<Ticket, Claims>,
    /// The sum of all of them.
    all: Claims,
}

impl WaitQueue {
    /// A caller begins to wait for what `request` asks for.
    pub(crate) fn join(&mut self, request: &Request<'_>) -> Ticket {
        let ticket = Ticket::new(self.next);
        self.next += 1;
        let mut claims = Claims::default();
        for (limit, tokens) in request.named().filter(|(_, tokens)| *tokens > 0) {
            claims.add(limit.shared_name(), tokens);
            self.all.add(limit.shared_name(), tokens);
        }
        self.waiting.insert(ticket, claims);
        ticket
    }

    /// A caller does not wait any longer; whether others do.
    pub(crate) fn leave(&mut self, ticket: Ticket) -> bool {
        for (name, tokens) in self.waiting.remove(&ticket).unwrap_or_default().0 {
            self.all.remove(&name, tokens);
        }
        !self.waiting.is_empty()
    }

    /// Tokens of the limit that are claimed by those before this place, or by all.
    pub(crate) fn claimed_before(&self, ticket: Option<Ticket>, limit: &str) -> u64 {
        match ticket {
            None => self.all.tokens(limit),
            Some(ticket) => {
                let before = self.waiting.range(..ticket);
                before.map(|(_, claims)| claims.tokens(limit)).sum()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::{BucketCache, Limit, Request};

    #[test]
    fn only_claims_from_before_come_before() {
        let limits = ["a", "b"].map(|name| Limit::per_second(name, 100).unwrap());
        let bucket = BucketCache::new().get_or_insert("user", "api", &limits.clone().into());
        let bucket = bucket.unwrap();
        let request = |consume| Request::new(&limits, consume);
        let ahead = |ticket| {
            let ahead = bucket.ahead_of(&request(&[]).with_ticket(ticket));
            (ahead.tokens(0), ahead.tokens(1))
        };
        let first = bucket.join_queue(&request(&[("a", 1), ("b", 0)]));
        let second = bucket.join_queue(&request(&[("a", 10), ("b", 2)]));
        let third = bucket.join_queue(&request(&[("b", 20)]));
        assert_eq!(ahead(Some(first)), (0, 0));
        assert_eq!(ahead(Some(second)), (1, 0));
        assert_eq!(ahead(Some(third)), (11, 2));
        assert_eq!(ahead(None), (11, 22));
        bucket.leave_queue(second);
        assert_eq!((ahead(Some(third)), ahead(None)), ((1, 0), (1, 20)));
        bucket.leave_queue(first);
        bucket.leave_queue(third);
        assert_eq!(ahead(None), (0, 0));
    }
}
