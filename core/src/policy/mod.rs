//! How much to take of a bucket, and when: what may be wrong, and is never unsafe.
//!
//! A [`Policy`] sees what callers ask for and what a bucket [offers](Offer), and says what to ask
//! for. The kernel clamps that, so the bound holds under any policy; a poor one only admits too
//! little, or writes too much. [`Steering`] is the one that ships.
//!
//! The seam is that of quinn-proto's congestion controllers: a trait of a few calls, and no protocol behind it.

mod demand;
mod direct;
mod grant;
mod steering;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use smallvec::SmallVec;

use crate::Offer;
use crate::kernel::{Ask, Now, Settled};
use crate::{Limit, MonotonicTime};

pub(crate) use self::direct::DirectDemands;
pub use self::direct::{DemandReports, DirectDemand};
pub use self::steering::Steering;

/// Makes the policy of a bucket that comes into use.
pub type MakePolicy = fn() -> Box<dyn Policy>;

/// What a policy asks for, limit by limit.
pub type Asks = SmallVec<[Ask; 2]>;

/// How fast things are to go.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// How often a block in use is renewed.
    pub renewal: Duration,
    /// How long a block is spendable.
    pub lease_ttl: Duration,
    /// How long a write takes, as measured.
    pub latency: Duration,
}

/// What callers have asked for of one limit since the last sample, in tokens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sample {
    /// Paid, less what was given back to the block.
    pub paid: i64,
    /// Refused, or waited for.
    pub refused: u64,
    /// Of those, what was waited for by callers who were woken since: it is counted again when they are
    /// served, or refused, or wait once more.
    pub woken: u64,
    /// Charged afterwards: it was not asked for in a moment.
    pub late: u64,
    /// How many callers had to wait, and how many tokens they asked for.
    pub requests: u32,
    /// See `requests`.
    pub requested: u64,
}

/// What callers wait for, of one limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Want {
    /// All of them together, in tokens.
    pub total: u64,
    /// The least that one caller wants.
    pub least: u64,
}

/// What there is to decide on, limit by limit.
#[derive(Debug)]
pub struct View {
    /// The time.
    pub now: Now,
    /// How fast things are to go.
    pub pace: Pace,
    /// The limits.
    pub limits: Arc<[Limit]>,
    /// What may be asked for.
    pub offers: SmallVec<[Offer; 2]>,
    /// When it was last found that somebody else writes to the bucket.
    pub last_foreign_write_at: MonotonicTime,
    /// What callers wait for.
    pub wants: SmallVec<[Want; 2]>,
    /// Tokens that are held and not spent, of all limits.
    pub unspent: u64,
    /// Whether nothing is owed to the table or by it.
    pub settled: bool,
    /// Whether there is consumption that the table has not been told of.
    pub unreported: bool,
}

impl View {
    /// Whether nothing is held, owed or to be reported, and nobody waits.
    #[must_use]
    pub fn is_at_rest(&self) -> bool {
        self.settled && self.unspent == 0 && !self.unreported && !self.is_wanted()
    }

    /// Whether anybody waits.
    #[must_use]
    pub fn is_wanted(&self) -> bool {
        self.wants.iter().any(|want| want.total > 0)
    }
}

/// What is to happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// The block is renewed, with what [`Policy::ask`] asks for.
    Renew,
    /// Look again then.
    Wait(MonotonicTime),
    /// The bucket is not in use any more.
    Rest,
}

/// What proposes how much to take, and when. One for each bucket that a process uses.
///
/// Limits go by their places; one that was not there before is new.
pub trait Policy: fmt::Debug + Send {
    /// Callers have asked for this. Called at every look.
    fn observe(&mut self, now: Now, pace: &Pace, samples: &[Sample]);

    /// Whether to renew the block now, and else when to look again.
    fn decide(&mut self, view: &View) -> Decision;

    /// What to ask for, limit by limit. Called for every write: again if another was faster.
    fn ask(&mut self, view: &View) -> Asks;

    /// A write was applied. The view is of what it left: the offers are what is in the bucket beside what
    /// this process holds.
    fn settled(&mut self, view: &View, settled: &Settled);

    /// The bucket is going to be looked at then, unless somebody asks sooner.
    fn next_check(&mut self, _at: MonotonicTime) {}

    /// There may be more of a limit in the table than it said, or other terms: what it refused is not known
    /// any more.
    fn forget_denial(&mut self, _at: usize) {}

    /// A limit has other terms: nothing is held of it.
    fn terms_changed(&mut self, at: usize) {
        self.forget_denial(at);
    }

    /// A limit is forgotten; those after it move up.
    fn remove_limit(&mut self, _at: usize) {}

    /// Whether so many tokens, if they are not in hand, would be refused by the table.
    fn denies(&self, _at: usize, _now: MonotonicTime, _tokens: u64) -> bool {
        false
    }

    /// Until when.
    fn denied_until(&self, _at: usize) -> MonotonicTime {
        MonotonicTime::ZERO
    }

    /// The stock below which the reconciler is to look.
    fn low_water(&self, _at: usize) -> u64 {
        0
    }

    /// Whether tokens of a limit are asked for, of late.
    fn is_demanded(&self, _at: usize) -> bool {
        false
    }

    /// Tokens per second that are asked for, in the mean.
    fn demand(&self, _at: usize) -> f64 {
        0.0
    }
}
