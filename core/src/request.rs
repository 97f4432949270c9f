//! What an acquire asks for, and what it was charged.

use crate::fast_balance::{COUNTER_BITS, COUNTER_MAX, COUNTERS};
use crate::key::same;
use crate::{Limit, ValidationError};

/// The most limits of a bucket. One write changes all of them, and DynamoDB holds an expression to
/// 4 kB and 300 operators.
pub const LIMITS_MAX: usize = 16;

/// A place in the queue of a bucket, in the order in which callers came. It is valid until
/// [`Bucket::leave_queue`](crate::Bucket::leave_queue).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ticket(u64);

impl Ticket {
    pub(crate) fn new(number: u64) -> Self {
        Self(number)
    }
}

/// What one acquire asks of each bucket that it touches.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    limits: &'a [Limit],
    consume: &'a [(&'a str, u64)],
    fingerprint: u64,
    ticket: Option<Ticket>,
}

impl<'a> Request<'a> {
    /// A request for tokens by limit name; only the limits named in `consume` gate and are
    /// charged.
    #[inline(always)]
    #[must_use]
    pub fn new(limits: &'a [Limit], consume: &'a [(&'a str, u64)]) -> Self {
        Self {
            limits,
            consume,
            fingerprint: fingerprint(limits),
            ticket: None,
        }
    }

    /// A request on limits whose fingerprint is known from another request on them.
    #[inline(always)]
    #[must_use]
    pub fn known(limits: &'a [Limit], fingerprint: u64, consume: &'a [(&'a str, u64)]) -> Self {
        Self {
            limits,
            consume,
            fingerprint,
            ticket: None,
        }
    }

    /// The same request at this place in the queue of the bucket; without one it comes after
    /// all waiting callers.
    #[must_use]
    pub fn with_ticket(self, ticket: Option<Ticket>) -> Self {
        Self { ticket, ..self }
    }

    pub(crate) fn ticket(&self) -> Option<Ticket> {
        self.ticket
    }

    /// The limits that it names, and how many tokens of each.
    pub(crate) fn named(&self) -> impl Iterator<Item = (&'a Limit, u64)> {
        let named = |(name, tokens): &(&str, u64)| Some((self.find(name)?.1, *tokens));
        self.consume.iter().filter_map(named)
    }

    /// The limits in force.
    #[must_use]
    pub fn limits(&self) -> &'a [Limit] {
        self.limits
    }

    /// Tokens by limit name.
    #[must_use]
    pub fn consume(&self) -> &'a [(&'a str, u64)] {
        self.consume
    }

    /// Tells this set of limits, in this order, from any other.
    #[inline]
    #[must_use]
    pub fn fingerprint(&self) -> u64 {
        self.fingerprint
    }

    /// What is charged to which slot of a bucket that knows the limits in this order; none if the
    /// request is not valid.
    #[must_use]
    pub fn charges(&self) -> Option<Charges> {
        self.validate().ok()?;
        let mut charges = Charges::default();
        for (name, amount) in self.consume {
            charges.push(self.find(name)?.0 as u32, *amount);
        }
        Some(charges)
    }

    /// The charges as the counters of a fast balance; none if they do not fit, or the request is not
    /// valid.
    ///
    /// The same as [`charges`](Self::charges), for hits: with nothing but registers.
    #[inline(always)]
    pub(crate) fn counters(&self) -> Option<u64> {
        let (mut counters, mut named) = (0, 0);
        for (at, (name, amount)) in self.consume.iter().enumerate() {
            // Most callers name the limits in the order in which they declare them.
            let in_order = self
                .limits
                .get(at)
                .filter(|limit| same(limit.name().as_bytes(), name.as_bytes()));
            let (slot, limit) = match in_order {
                Some(limit) => (at, limit),
                None => self.find(name)?,
            };
            let most = limit.burst_tokens().min(COUNTER_MAX);
            if slot >= COUNTERS || named & (1 << slot) != 0 || *amount > most {
                return None;
            }
            named |= 1 << slot;
            counters |= amount << (slot as u32 * COUNTER_BITS);
        }
        Some(counters)
    }

    #[cold]
    fn find(&self, name: &str) -> Option<(usize, &'a Limit)> {
        let mut limits = self.limits.iter().enumerate();
        limits.find(|(_, limit)| limit.name() == name)
    }

    /// Checks what cannot be right whatever the bucket holds.
    ///
    /// # Errors
    /// [`ValidationError`] if there are no limits or more than [`LIMITS_MAX`], if a limit is declared or
    /// named twice, if a name is not among the limits, or if an amount is over the limit's burst.
    pub fn validate(&self) -> Result<(), ValidationError> {
        if self.limits.is_empty() {
            let rule = "at least one limit is needed; pass it to limits(..)";
            return Err(ValidationError::new("limits", "[]", rule));
        }
        if self.limits.len() > LIMITS_MAX {
            let rule = format!("at most {LIMITS_MAX} limits fit one bucket");
            return Err(ValidationError::new("limits", self.limits.len(), rule));
        }
        for (i, limit) in self.limits.iter().enumerate() {
            if self.limits[..i].iter().any(|l| l.name() == limit.name()) {
                let rule = "is declared twice; each limit name may appear once";
                return Err(ValidationError::new("limits", limit.name(), rule));
            }
        }
        for (i, (name, amount)) in self.consume.iter().enumerate() {
            if self.consume[..i].iter().any(|(n, _)| n == name) {
                let rule = "is consumed twice; add the amounts";
                return Err(ValidationError::new("consume", name, rule));
            }
            let Some(limit) = self.limits.iter().find(|l| l.name() == *name) else {
                let names: Vec<_> = self.limits.iter().map(Limit::name).collect();
                let rule = format!("is not one of the limits: {}", names.join(", "));
                return Err(ValidationError::new("consume", name, rule));
            };
            if *amount > limit.burst_tokens() {
                let value = format!("{name}={amount}");
                let rule = format!(
                    "can never fit: the bucket holds at most {} tokens",
                    limit.burst_tokens()
                );
                return Err(ValidationError::new("consume", value, rule));
            }
        }
        Ok(())
    }
}

/// A hash of a list of limits, from the hashes that the limits carry.
#[inline(always)]
pub(crate) fn fingerprint(limits: &[Limit]) -> u64 {
    let fold = |all: u64, limit: &Limit| all.rotate_left(17) ^ limit.fingerprint();
    limits.iter().fold(limits.len() as u64, fold)
}

/// Tokens taken, by slot of the bucket; only slots of which some are.
///
/// Most charges fit the counters of a fast balance, and are one number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Charges(ChargeList);

#[derive(Clone, Debug, PartialEq, Eq)]
enum ChargeList {
    Counters(u64),
    Many(Vec<(u32, u64)>),
}

impl Charges {
    /// The slots, and the tokens taken from each.
    pub fn iter(&self) -> impl Iterator<Item = (u32, u64)> {
        let (counters, many) = match &self.0 {
            ChargeList::Counters(counters) => (*counters, &[][..]),
            ChargeList::Many(many) => (0, &many[..]),
        };
        let counter = move |slot: u32| (slot, counters >> (slot * COUNTER_BITS) & COUNTER_MAX);
        let counters = (0..COUNTERS as u32)
            .map(counter)
            .filter(|(_, tokens)| *tokens > 0);
        counters.chain(many.iter().copied())
    }

    pub(crate) fn of_counters(counters: u64) -> Self {
        Self(ChargeList::Counters(counters))
    }

    /// Whether nothing is taken.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.iter().next().is_none()
    }

    /// Tokens of one slot.
    #[must_use]
    pub fn of(slot: u32, tokens: u64) -> Self {
        let mut charges = Self::default();
        charges.push(slot, tokens);
        charges
    }

    /// The tokens taken from `slot`.
    #[must_use]
    pub fn tokens(&self, slot: u32) -> u64 {
        let mut found = self.iter().filter(|(s, _)| *s == slot);
        found.next().map_or(0, |(_, tokens)| tokens)
    }

    /// The same charges with those of `slot` replaced.
    #[must_use]
    pub fn with(&self, slot: u32, tokens: u64) -> Self {
        let mut charges = Self::of(slot, tokens);
        for (other, tokens) in self.iter().filter(|(s, _)| *s != slot) {
            charges.push(other, tokens);
        }
        charges
    }

    /// Adds tokens of a slot that is not charged yet. Nothing is no charge.
    #[inline]
    pub(crate) fn push(&mut self, slot: u32, tokens: u64) {
        if tokens == 0 {
            return;
        }
        match &mut self.0 {
            ChargeList::Counters(counters)
                if (slot as usize) < COUNTERS && tokens <= COUNTER_MAX =>
            {
                *counters += tokens << (slot * COUNTER_BITS);
            }
            ChargeList::Counters(_) => {
                let many = self.iter().chain([(slot, tokens)]).collect();
                self.0 = ChargeList::Many(many);
            }
            ChargeList::Many(many) => many.push((slot, tokens)),
        }
    }
}

impl Default for Charges {
    fn default() -> Self {
        Self(ChargeList::Counters(0))
    }
}
