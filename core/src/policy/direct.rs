//! The demand of direct acquires, which are writes of their own: processes that lease are to know of it, or
//! they would take all that flows in.
//!
//! A direct write reports to the ring what was asked for since the last report, refusals included; over an
//! epoch that adds up to the mean, or over what is left of the epoch in which they began. When direct
//! writes overlap, one of them carries the report. Where those are refused time and again, the reconciler
//! reports, by a write of its own.

use std::time::Duration;

use smallvec::SmallVec;

use crate::kernel::Outstanding;
use crate::kernel::item::LimitItem;
use crate::{Limit, MonotonicTime, WallTime};

/// For how long acquires try to report, as a part of `lease_ttl`, if the reconciler is going to look. Then
/// it is left to that.
const TRYING: u32 = 5;

/// How long a process that has reported more than the limit is silent at most: it may be raised.
const SILENT_MAX: Duration = Duration::from_secs(60);

/// Over which part of an epoch demand is reported at least: a few requests at its end are no rate.
const EPOCH_PART_MIN: u32 = 4;

/// Tokens that direct acquires have asked for, and that the table has not been told of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DirectDemand {
    /// How many.
    pub tokens: u64,
    /// Since when.
    pub since: MonotonicTime,
    /// For how long.
    pub during: Duration,
    /// For how long such acquires go on, without a pause of a `lease_ttl`.
    pub going_on: Duration,
}

impl DirectDemand {
    /// As demand beside that of processes that lease: the mean of an epoch, in thousandths of a token per
    /// second. If the acquires began in the middle of one it is the mean of the rest: the next epoch would
    /// else have gone by before the demand was known.
    #[must_use]
    pub fn milli(&self, found: &LimitItem, now: WallTime) -> i64 {
        let Some(out) = Outstanding::of(found, now, None) else {
            return 0;
        };
        let epoch = out.lease_ttl();
        let left = out.epoch_end().since(now);
        let rest = (left + self.going_on).min(epoch);
        let during = rest.max(epoch / EPOCH_PART_MIN).max(self.during);
        let during_ms = during.as_millis().max(1);
        i64::try_from(u128::from(self.tokens) * 1_000_000 / during_ms).unwrap_or(i64::MAX)
    }
}

/// What a write reports, limit by limit.
pub type DemandReports = SmallVec<[Option<DirectDemand>; 2]>;

/// The direct demand for one bucket.
#[derive(Debug, Default)]
pub(crate) struct DirectDemands {
    limits: SmallVec<[Recorded; 2]>,
    /// Whether the reconciler knows that it may have to report.
    pub(crate) reconciler_knows: bool,
}

/// Of one limit.
#[derive(Clone, Copy, Debug, Default)]
struct Recorded {
    /// Tokens that were asked for since then, and are not reported.
    tokens: u64,
    since: MonotonicTime,
    /// Since when such acquires go on, without a pause of a `lease_ttl`.
    going_on_since: MonotonicTime,
    /// An acquire's write is on its way that reports what was asked for before.
    reporting: bool,
}

impl DirectDemands {
    pub(crate) fn new(limits: usize) -> Self {
        let mut all = Self::default();
        all.limits.resize(limits, Recorded::default());
        all
    }

    pub(crate) fn add_limit(&mut self) {
        self.limits.push(Recorded::default());
    }

    pub(crate) fn remove_limit(&mut self, at: usize) {
        self.limits.remove(at);
    }

    /// Whether there is nothing to report of a limit, and no report under way.
    pub(crate) fn is_unused(&self, at: usize) -> bool {
        self.limits[at].tokens == 0 && !self.limits[at].reporting
    }

    /// Since when there is something to report of a limit, or on its way.
    pub(crate) fn unreported_since(&self, at: usize) -> Option<MonotonicTime> {
        (!self.is_unused(at)).then(|| self.limits[at].since)
    }

    /// Whether there is something to report that is not on its way.
    pub(crate) fn is_unreported(&self) -> bool {
        self.limits.iter().any(|limit| limit.tokens > 0)
    }

    /// An acquire asks the table for tokens; blocks of those that lease live for `lease_ttl`.
    pub(crate) fn record(
        &mut self,
        at: usize,
        now: MonotonicTime,
        tokens: u64,
        lease_ttl: Duration,
    ) {
        self.limits[at].record(now, tokens, lease_ttl);
    }

    /// What the write of an acquire is to report, which charges so many tokens.
    pub(crate) fn report(
        &mut self,
        at: usize,
        now: MonotonicTime,
        limit: &Limit,
        demand: f64,
        charged: u64,
        lease_ttl: Option<Duration>,
    ) -> Option<DirectDemand> {
        let trying = lease_ttl.filter(|_| self.reconciler_knows);
        let recorded = &mut self.limits[at];
        let late = trying.is_some_and(|ttl| now.since(recorded.since) > ttl / TRYING);
        if recorded.reporting || late {
            return None;
        }
        let report = recorded.report(now, limit, demand, charged);
        recorded.reporting = report.is_some();
        report
    }

    /// The same for a write of the reconciler.
    pub(crate) fn report_by_reconciler(
        &mut self,
        at: usize,
        now: MonotonicTime,
        limit: &Limit,
        demand: f64,
    ) -> Option<DirectDemand> {
        self.limits[at].report(now, limit, demand, 0)
    }

    /// The write of an acquire that was to report has ended.
    pub(crate) fn acknowledge(&mut self, at: usize, report: &DirectDemand, applied: bool) {
        self.limits[at].reporting = false;
        if !applied {
            self.take_back(at, report);
        }
    }

    /// It was not reported.
    pub(crate) fn take_back(&mut self, at: usize, report: &DirectDemand) {
        let recorded = &mut self.limits[at];
        recorded.since = if recorded.tokens == 0 {
            report.since
        } else {
            recorded.since.min(report.since)
        };
        recorded.tokens = recorded.tokens.saturating_add(report.tokens);
    }
}

impl Recorded {
    fn record(&mut self, now: MonotonicTime, tokens: u64, lease_ttl: Duration) {
        if self.tokens == 0 && now.since(self.since) >= lease_ttl {
            self.going_on_since = now;
        }
        if self.since == MonotonicTime::ZERO {
            self.since = now;
        }
        self.tokens = self.tokens.saturating_add(tokens);
    }

    /// What a write is to report, beside the `demand` that is reported for this process's block.
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    fn report(
        &mut self,
        now: MonotonicTime,
        limit: &Limit,
        demand: f64,
        charged: u64,
    ) -> Option<DirectDemand> {
        if self.tokens == 0 {
            return None;
        }
        let tokens = std::mem::take(&mut self.tokens);
        let since = self.since;
        if since > now {
            return None; // all that the limit gives has been reported
        }
        let during = now.since(since);
        // Nobody's demand counts for more than the whole limit, in both modes together.
        let rate = limit.tokens_per_second();
        let rest = (rate - demand.min(rate)).max(rate / 8.0);
        let most = ((rest * during.as_secs_f64()) as u64).max(charged).max(1);
        self.since = if tokens > most {
            let silent = Duration::try_from_secs_f64(most as f64 / rest).unwrap_or(SILENT_MAX);
            since.after(silent.min(during.saturating_add(SILENT_MAX)))
        } else {
            now
        };
        Some(DirectDemand {
            tokens: tokens.min(most),
            since,
            during,
            going_on: now.since(self.going_on_since),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each write may report one token, and what was asked for meanwhile.
    #[test]
    fn nobody_reports_more_than_the_limit() {
        let limit = Limit::per_second("rps", 13).expect("a limit");
        for pause in [1, 5, 80, 90, 700] {
            let (mut recorded, mut reported, mut asked) = (Recorded::default(), 0, 0);
            let mut now = MonotonicTime::from_nanos(1);
            while asked < 100_000 {
                recorded.record(now, 50, Duration::from_secs(5));
                asked += 50;
                let report = recorded.report(now, &limit, 0.0, 1);
                reported += report.map_or(0, |report| report.tokens);
                now = now.after(Duration::from_millis(pause));
            }
            let most = 13.0 * Duration::from_nanos(now.as_nanos()).as_secs_f64();
            let reported = reported as f64 / most;
            assert!(
                (0.9..1.1).contains(&reported),
                "{reported} of it, every {pause} ms"
            );
        }
    }
}
