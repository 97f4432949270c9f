//! What callers ask for, and what those want who wait for a write.

use smallvec::SmallVec;

use crate::policy::{Sample, Want};

/// Counts, limit by limit, what callers ask for.
#[derive(Debug)]
pub(crate) struct DemandMeter(SmallVec<[Metered; 2]>);

#[derive(Clone, Copy, Debug, Default)]
struct Metered {
    sample: Sample,
    /// What callers wait for since they were last woken, also while a write is on its way for it.
    want: Want,
    /// Of the sample, what was asked for by callers who wait.
    waiting: u64,
}

impl DemandMeter {
    pub(crate) fn new(limits: usize) -> Self {
        Self(smallvec::smallvec![Metered::default(); limits])
    }

    pub(crate) fn add_limit(&mut self) {
        self.0.push(Metered::default());
    }

    pub(crate) fn remove_limit(&mut self, at: usize) {
        self.0.remove(at);
    }

    /// Whether nobody has asked for a limit since the last sample.
    pub(crate) fn is_unused(&self, at: usize) -> bool {
        let Metered { sample, want, .. } = self.0[at];
        sample == Sample::default() && want.total == 0
    }

    /// The block has paid, or nobody has.
    pub(crate) fn paid(&mut self, at: usize, tokens: u64) {
        let paid = &mut self.0[at].sample.paid;
        *paid = paid.saturating_add_unsigned(tokens);
    }

    /// What the block has paid went back to it.
    pub(crate) fn given_back(&mut self, at: usize, tokens: u64) {
        let paid = &mut self.0[at].sample.paid;
        *paid = paid.saturating_sub_unsigned(tokens);
    }

    /// Somebody was charged more afterwards.
    pub(crate) fn charged_late(&mut self, at: usize, tokens: u64) {
        let late = &mut self.0[at].sample.late;
        *late = late.saturating_add(tokens);
    }

    /// Somebody was refused, or asked in vain.
    pub(crate) fn refused(&mut self, at: usize, tokens: u64) {
        let refused = &mut self.0[at].sample.refused;
        *refused = refused.saturating_add(tokens);
    }

    /// Somebody waits for `tokens`, behind others who want so many.
    pub(crate) fn want(&mut self, at: usize, tokens: u64, ahead: u64) {
        self.refused(at, tokens);
        let metered = &mut self.0[at];
        let want = &mut metered.want;
        let least = if want.total == 0 {
            u64::MAX
        } else {
            want.least
        };
        want.least = least.min(tokens);
        want.total = want.total.max(ahead).saturating_add(tokens);
        metered.waiting = metered.waiting.saturating_add(tokens);
        metered.sample.requests = metered.sample.requests.saturating_add(1);
        metered.sample.requested = metered.sample.requested.saturating_add(tokens);
    }

    /// All who wait are woken, and ask again.
    pub(crate) fn wake(&mut self) {
        for metered in &mut self.0 {
            metered.want = Want::default();
            metered.sample.woken += std::mem::take(&mut metered.waiting);
        }
    }

    /// All who wait are told that the table cannot be reached, and do not ask again.
    pub(crate) fn give_up(&mut self) {
        for metered in &mut self.0 {
            metered.waiting = 0;
        }
    }

    /// What callers wait for.
    pub(crate) fn wants(&self) -> SmallVec<[Want; 2]> {
        self.0.iter().map(|metered| metered.want).collect()
    }

    /// What was asked for since the last sample.
    pub(crate) fn take_samples(&mut self) -> SmallVec<[Sample; 2]> {
        let samples = self.0.iter_mut();
        samples
            .map(|metered| std::mem::take(&mut metered.sample))
            .collect()
    }
}
