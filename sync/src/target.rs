//! What an acquire charges: a bucket, the limits in force there, and what is asked of them.

use std::borrow::Borrow;
use std::ops::Deref;
use std::sync::Arc;

use smallvec::SmallVec;
use zae_limiter_core::{BucketRef, Charges, Request, Ticket};

use crate::Limit;

/// Something borrowed from the caller, or shared.
#[derive(Debug)]
pub(crate) enum Loan<'a, B: ?Sized, S: Borrow<B>> {
    Borrowed(&'a B),
    Shared(S),
}

impl<B: ?Sized, S: Borrow<B> + Clone> Clone for Loan<'_, B, S> {
    fn clone(&self) -> Self {
        match self {
            Self::Borrowed(borrowed) => Self::Borrowed(borrowed),
            Self::Shared(shared) => Self::Shared(shared.clone()),
        }
    }
}

impl<B: ?Sized, S: Borrow<B>> Deref for Loan<'_, B, S> {
    type Target = B;
    fn deref(&self) -> &B {
        match self {
            Self::Borrowed(borrowed) => borrowed,
            Self::Shared(shared) => shared.borrow(),
        }
    }
}

/// The limits in force for a bucket: those of the call, or stored ones.
pub(crate) type Limits<'a> = Loan<'a, [Limit], Arc<[Limit]>>;

/// Tokens by limit name.
pub(crate) type Consume<'a> = SmallVec<[(&'a str, u64); 2]>;

/// A bucket to charge.
#[derive(Clone, Debug)]
pub(crate) struct Target<'a> {
    pub(crate) bucket: BucketRef,
    pub(crate) limits: Limits<'a>,
    pub(crate) consume: Consume<'a>,
    /// Its place in the queue; else what anybody waits for is as good as gone.
    pub(crate) ticket: Option<Ticket>,
}

/// The entity's bucket and, with cascade, its parent's.
pub(crate) type Targets<'a> = SmallVec<[Target<'a>; 2]>;

impl Target<'_> {
    pub(crate) fn request(&self) -> Request<'_> {
        Request::new(&self.limits, &self.consume).with_ticket(self.ticket)
    }

    pub(crate) fn charges(&self) -> Charges {
        self.request().charges().unwrap_or_default()
    }

    /// Whether no token is asked for.
    pub(crate) fn asks_nothing(&self) -> bool {
        self.consume.iter().all(|(_, tokens)| *tokens == 0)
    }

    /// Whether those who came before wait for some of the limits that it is charged.
    pub(crate) fn is_behind(&self) -> bool {
        let ahead = self.bucket.ahead_of(&self.request());
        ahead.iter().any(|(slot, _)| {
            let limit = self.limits[slot as usize].name();
            self.requested(limit) > 0
        })
    }

    /// What is asked of the limit called `name`.
    pub(crate) fn requested(&self, name: &str) -> u64 {
        let named = self.consume.iter().find(|(n, _)| *n == name);
        named.map_or(0, |(_, tokens)| *tokens)
    }
}
