//! Bugs that are planted on purpose, so that the simulation can show that it would find them, and the
//! models of interleavings as well.
//!
//! Without the feature `sabotage` or `--cfg loom`, which only the tests turn on, there are none, and asking
//! costs nothing. A bug is planted for the current thread.

/// A bug that can be planted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Sabotage {
    /// A credit is made again after a write of unknown outcome.
    CreditRetried,
    /// A block is spent after it has expired.
    ExpiredSpent,
    /// A renewal gives tokens back and keeps them.
    ReturnForgotten,
    /// A write adds refill that is counted by the clock anyway.
    RefillTwice,
    /// A clock that was set back makes the bucket full.
    RewindMints,
    /// A credit brings a deleted bucket back.
    Resurrected,
    /// A cascade takes from the child although the parent refuses.
    HalfCascade,
    /// A debt is taken for paid after a write of unknown outcome.
    DebtDropped,
    /// A bucket is not asked for again after a failure, until the table was out of reach for all.
    PausedForEver,
    /// What all processes hold is not bounded by itself.
    HeldUnbounded,
    /// What was charged beyond the block is given back as stock, and still owed.
    DebtRefunded,
    /// The payer of more of a lease counts as the payer of all of it.
    PayerOverwritten,
    /// The table keeps a bucket until the limits are full that a write charges.
    KeptForOneWrite,
    /// What was debited from an item that is deleted is credited to the one made after it.
    DeletedCredited,
    /// A lease knows of a credit only when the table has answered: if the caller goes away before, the same
    /// tokens are credited again.
    CancelledCreditRepeated,
}

impl Sabotage {
    /// Those in this crate, which the simulation finds.
    pub const IN_CORE: [Self; 14] = [
        Self::CreditRetried,
        Self::ExpiredSpent,
        Self::ReturnForgotten,
        Self::RefillTwice,
        Self::RewindMints,
        Self::Resurrected,
        Self::HalfCascade,
        Self::DebtDropped,
        Self::PausedForEver,
        Self::HeldUnbounded,
        Self::DebtRefunded,
        Self::PayerOverwritten,
        Self::KeptForOneWrite,
        Self::DeletedCredited,
    ];
}

#[cfg(feature = "sabotage")]
mod planted {
    use std::cell::Cell;

    use super::Sabotage;

    thread_local! {
        static PLANTED: Cell<Option<Sabotage>> = const { Cell::new(None) };
    }

    /// The bug is there until this is dropped.
    #[derive(Debug)]
    pub struct Planted(());

    impl Sabotage {
        /// Plants the bug in all that this thread does.
        #[must_use]
        pub fn plant(self) -> Planted {
            PLANTED.set(Some(self));
            Planted(())
        }

        /// Whether it is planted in this thread.
        #[must_use]
        pub fn is_planted(self) -> bool {
            PLANTED.get() == Some(self)
        }
    }

    impl Drop for Planted {
        fn drop(&mut self) {
            PLANTED.set(None);
        }
    }
}

#[cfg(feature = "sabotage")]
pub use planted::Planted;

#[cfg(not(feature = "sabotage"))]
impl Sabotage {
    /// Whether it is planted: never.
    #[allow(clippy::unused_self)]
    #[must_use]
    pub const fn is_planted(self) -> bool {
        false
    }
}

/// A bug in the order in which threads do things, for the models in `interleavings/` to find.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Misordering {
    /// Tokens can be seen before what is written with them.
    TokensNotReleased,
    /// The generation is read after the payment.
    GenerationReadLast,
    /// A balance is read first and emptied then.
    EmptiedInTwoSteps,
    /// The fingerprint is not checked again when a compare-and-swap fails.
    FingerprintCheckedOnce,
    /// Tokens of other limits look the same if there are as many.
    TokensNotTagged,
}

#[cfg(loom)]
mod misordered {
    use std::cell::Cell;

    use super::Misordering;

    thread_local! {
        // All threads of a model share one thread of the system.
        static PLANTED: Cell<Option<Misordering>> = const { Cell::new(None) };
    }

    impl Misordering {
        /// Plants the bug in all models that this thread runs from now on, or none.
        #[cfg(test)]
        pub(crate) fn plant(bug: Option<Self>) {
            PLANTED.set(bug);
        }

        pub(crate) fn is_planted(self) -> bool {
            PLANTED.get() == Some(self)
        }
    }
}

#[cfg(not(loom))]
impl Misordering {
    #[allow(clippy::unused_self)]
    pub(crate) const fn is_planted(self) -> bool {
        false
    }
}
