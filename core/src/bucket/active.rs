//! What a bucket needs while it is in use: what is held of it, what decides how much that is, and what is to
//! be reported. Each part has an owner of its own; here they meet.

use std::sync::Arc;
use std::time::Duration;

use smallvec::SmallVec;

use super::Shortage;
use super::demand_meter::DemandMeter;
use crate::estimate::{Knowledge, Offer, level, others_hold};
use crate::kernel::item::{BucketItem, LimitItem};
use crate::kernel::plan::Seen;
use crate::kernel::{Applied, Ask, Kernel, Lineage, Now, Payer, Report, WriteEffect};
use crate::local::LocalShares;
use crate::pending_usage::PendingUsage;
use crate::policy::{
    Asks, Decision, DemandReports, DirectDemand, DirectDemands, Pace, Policy, View,
};
use crate::renewal::{Outcome, Pauses, Reason, RenewalSettings, Step, Why};
use crate::request::Charges;
use crate::{Limit, MonotonicTime, Tick, WallTime};

#[derive(Debug)]
pub(crate) struct Active {
    pub(super) limits: Arc<[Limit]>,
    pub(super) kernel: Kernel,
    /// None until the reconciler has looked.
    pub(super) policy: Option<Box<dyn Policy>>,
    pub(super) usage: PendingUsage,
    pub(super) meter: DemandMeter,
    pub(super) direct: DirectDemands,
    pub(super) local: LocalShares,
    pub(super) pauses: Pauses,
    /// When it was last found that somebody else writes to the bucket.
    last_foreign_write_at: MonotonicTime,
    /// What the write under way reports of direct demand.
    reporting: DemandReports,
    /// When the block stops being spendable, by the clock of hits.
    pub(super) expires_tick: Tick,
}

impl Active {
    pub(super) fn new(limits: Arc<[Limit]>, lineage: Lineage) -> Self {
        Self {
            kernel: Kernel::new(limits.len(), lineage),
            policy: None,
            usage: PendingUsage::new(limits.len()),
            meter: DemandMeter::new(limits.len()),
            direct: DirectDemands::new(limits.len()),
            local: LocalShares::default(),
            pauses: Pauses::default(),
            last_foreign_write_at: MonotonicTime::ZERO,
            reporting: DemandReports::new(),
            expires_tick: Tick::default(),
            limits,
        }
    }

    pub(super) fn add_limit(&mut self) {
        self.kernel.add_limit();
        self.usage.add_limit();
        self.meter.add_limit();
        self.direct.add_limit();
    }

    /// Forgets a limit, unless something of it is held, owed, asked for or to be reported.
    pub(super) fn remove_limit(&mut self, at: usize) -> bool {
        let unused = self.kernel.is_unused(at)
            && self.usage.is_unused(at)
            && self.meter.is_unused(at)
            && self.direct.is_unused(at)
            && !self.is_demanded(at);
        if unused {
            self.kernel.remove_limit(at);
            self.usage.remove_limit(at);
            self.meter.remove_limit(at);
            self.direct.remove_limit(at);
            self.local.remove_limit(at);
            if let Some(policy) = &mut self.policy {
                policy.remove_limit(at);
            }
        }
        unused
    }

    /// Whether tokens of a limit are asked for, of late.
    fn is_demanded(&self, at: usize) -> bool {
        let policy = self.policy.as_ref();
        policy.is_some_and(|policy| policy.is_demanded(at))
    }

    /// A limit has other terms now: what is held under the old ones is given back.
    pub(super) fn change_terms(&mut self, at: usize) {
        self.kernel.revoke(at);
        if let Some(policy) = &mut self.policy {
            policy.terms_changed(at);
        }
    }

    /// Whether `charges` are in hand.
    pub(super) fn covers(&mut self, now: MonotonicTime, charges: &Charges) -> bool {
        let covers = |kernel: &Kernel| {
            let mut charges = charges.iter();
            charges.all(|(at, tokens)| tokens == 0 || kernel.in_hand(now, at as usize) >= tokens)
        };
        covers(&self.kernel) || self.kernel.release(now) && covers(&self.kernel)
    }

    /// Pays what was found to be in hand; whether the block runs low.
    pub(super) fn pay(&mut self, now: MonotonicTime, charges: &Charges) -> bool {
        let mut low = false;
        for (at, tokens) in charges.iter() {
            let at = at as usize;
            self.kernel.charge(now, at, tokens);
            self.paid(at, tokens);
            low |= self.kernel.position(at).stock < self.low_water(at);
        }
        low
    }

    /// Tokens were spent of the block.
    pub(super) fn paid(&mut self, at: usize, tokens: u64) {
        self.usage.consume(at, tokens);
        self.meter.paid(at, tokens);
    }

    pub(super) fn low_water(&self, at: usize) -> u64 {
        self.policy
            .as_ref()
            .map_or(0, |policy| policy.low_water(at))
    }

    /// Charges tokens whatever the block holds; whether some of them are owed.
    pub(super) fn charge(&mut self, now: MonotonicTime, at: usize, tokens: u64) -> bool {
        self.usage.consume(at, tokens);
        self.meter.charged_late(at, tokens);
        self.kernel.charge(now, at, tokens) > 0
    }

    /// Gives tokens of an earlier charge back.
    pub(super) fn give_back(&mut self, now: MonotonicTime, at: usize, payer: Payer, tokens: u64) {
        let Some(to_block) = self.kernel.give_back(now, at, payer, tokens) else {
            return;
        };
        self.usage.give_back(at, tokens);
        self.meter.given_back(at, to_block);
        self.forget_denial(at);
    }

    fn forget_denial(&mut self, at: usize) {
        if let Some(policy) = &mut self.policy {
            policy.forget_denial(at);
        }
    }

    /// Why `charges`, with what is `needed` for them to be paid, are not in hand.
    pub(super) fn shortage(
        &mut self,
        now: MonotonicTime,
        charges: &Charges,
        needed: &Charges,
    ) -> Shortage {
        let denied = needed.iter().any(|(at, tokens)| {
            // An expired block that would do is given back and may be had again.
            let stock = self.kernel.position(at as usize).stock;
            stock < tokens && self.denies(at as usize, now, tokens)
        });
        if denied {
            for (at, tokens) in charges.iter() {
                self.meter.refused(at as usize, tokens);
            }
            Shortage::Refused
        } else if self.pauses.is_unavailable(now) {
            Shortage::Unavailable
        } else {
            Shortage::Miss
        }
    }

    /// Whether so many tokens of a limit would be refused, if they are not in hand.
    pub(super) fn denies(&self, at: usize, now: MonotonicTime, tokens: u64) -> bool {
        let policy = self.policy.as_ref();
        policy.is_some_and(|policy| policy.denies(at, now, tokens))
    }

    /// Until when.
    pub(super) fn denied_until(&self, at: usize) -> MonotonicTime {
        let policy = self.policy.as_ref();
        policy.map_or(MonotonicTime::ZERO, |policy| policy.denied_until(at))
    }

    /// Since when direct acquires have asked for what the table does not know, to which it matters: others
    /// lease.
    pub(super) fn unreported_demand_since(&self, now: WallTime) -> Option<MonotonicTime> {
        let limits = self.limits.iter().enumerate();
        limits
            .filter_map(|(at, _)| {
                let since = self.direct.unreported_since(at)?;
                let found = self.found(at)?;
                others_hold(found, now, self.kernel.entry(at)).then_some(since)
            })
            .min()
    }

    /// Whether there is demand to report that the reconciler does not know of.
    pub(super) fn is_reconciler_to_report(&self, now: WallTime) -> bool {
        !self.direct.reconciler_knows && self.unreported_demand_since(now).is_some()
    }

    /// All tokens that are held and not spent, of all limits.
    fn unspent(&self) -> u64 {
        let positions = (0..self.limits.len()).map(|at| self.kernel.position(at));
        positions.map(|held| held.stock + held.pending).sum()
    }

    /// A limit as it was last seen in the table.
    fn found(&self, at: usize) -> Option<&LimitItem> {
        self.kernel.seen().limit(self.limits[at].name())
    }

    /// How long blocks live of those that lease, as far as is known.
    fn lease_ttl(&self, at: usize) -> Option<Duration> {
        let ring = self.found(at)?.ring?;
        Some(Duration::from_millis(ring.lease_ttl_ms))
    }

    /// A direct acquire asks for tokens.
    pub(super) fn record_demand(&mut self, at: usize, now: MonotonicTime, tokens: u64) {
        let lease_ttl = self.lease_ttl(at).unwrap_or_default();
        self.direct.record(at, now, tokens, lease_ttl);
    }

    /// What the next write of an acquire is to report, which charges so many tokens.
    pub(super) fn report_demand(
        &mut self,
        at: usize,
        now: MonotonicTime,
        charged: u64,
    ) -> Option<DirectDemand> {
        let demand = self.policy.as_ref().map_or(0.0, |policy| policy.demand(at));
        let lease_ttl = self.lease_ttl(at);
        let limit = &self.limits[at];
        self.direct
            .report(at, now, limit, demand, charged, lease_ttl)
    }

    /// What is left to do, and when.
    pub(super) fn check(&mut self, now: Now, settings: &RenewalSettings, why: Why) -> Step {
        self.usage.turn_hour(now);
        self.look(now, settings, why)
    }

    fn look(&mut self, now: Now, settings: &RenewalSettings, why: Why) -> Step {
        let pace = settings.pace(self.pauses.is_throttled());
        self.kernel.release(now.monotonic);
        let samples = self.meter.take_samples();
        let policy = self.policy.get_or_insert_with(settings.policy);
        policy.observe(now, &pace, &samples);
        let closing = settings.closes_by.is_some();
        let unreported = self.unreported_demand_since(now.wall);
        let unreported = unreported.filter(|_| why == Why::Due && !closing);
        self.direct.reconciler_knows = unreported.is_some();
        if self.kernel.is_writing() {
            return Step::Wait(now.monotonic.after(pace.renewal));
        }
        let settled = self.kernel.is_settled() && self.usage.is_reported();
        if closing && settled && self.unspent() == 0 {
            return Step::Idle;
        }
        if why == Why::Suspended {
            return Step::Wait(MonotonicTime::NEVER);
        }
        let pause = self.pauses.until();
        if now.monotonic < pause {
            return Step::Wait(pause);
        }
        if closing {
            return self.plan(now, settings);
        }
        let report_at = unreported.map(|since| since.after(pace.renewal));
        if report_at.is_some_and(|at| at <= now.monotonic) && self.direct.is_unreported() {
            return self.plan(now, settings);
        }
        let view = self.view(now, pace, true);
        let decision = self.policy.as_mut().map(|policy| policy.decide(&view));
        // What is to be reported may be on its way with an acquire's write.
        let report_at = report_at.map(|at| at.max(now.monotonic.after(pace.renewal / 4)));
        match decision {
            Some(Decision::Renew) => self.plan(now, settings),
            Some(Decision::Wait(until)) => Step::Wait(report_at.map_or(until, |at| at.min(until))),
            // What is held or owed is not forgotten, whatever the policy thinks.
            Some(Decision::Rest) if !view.is_at_rest() => self.plan(now, settings),
            Some(Decision::Rest) | None => report_at.map_or(Step::Idle, Step::Wait),
        }
    }

    /// What there is to decide on, where this process `returns` what it holds.
    fn view(&self, now: Now, pace: Pace, returns: bool) -> View {
        let limits = self.limits.iter().enumerate();
        let offer = |limit| Offer::of(&self.kernel, now, limit, pace.lease_ttl, returns);
        View {
            now,
            pace,
            offers: limits.map(offer).collect(),
            last_foreign_write_at: self.last_foreign_write_at,
            limits: self.limits.clone(),
            wants: self.meter.wants(),
            unspent: self.unspent(),
            settled: self.kernel.is_settled(),
            unreported: !self.usage.is_reported(),
        }
    }

    /// The write that renews the block, or gives everything back.
    fn plan(&mut self, now: Now, settings: &RenewalSettings) -> Step {
        let pace = settings.pace(self.pauses.is_throttled());
        self.kernel.release(now.monotonic);
        let view = self.view(now, pace, true);
        let policy = self.policy.get_or_insert_with(settings.policy);
        let mut asks = if settings.closes_by.is_none() {
            policy.ask(&view)
        } else {
            Asks::new()
        };
        asks.resize(view.limits.len(), Ask::default());
        let demands: SmallVec<[f64; 2]> =
            (0..view.limits.len()).map(|at| policy.demand(at)).collect();
        let (consumed, consumed_at_ms) = self.usage.report();
        let mut reports: SmallVec<[Report; 2]> = SmallVec::new();
        let (mut directs, wall) = (DemandReports::new(), now.wall);
        for (at, (limit, consumed)) in view.limits.iter().zip(consumed).enumerate() {
            let (now, demand) = (now.monotonic, demands[at]);
            let direct = self.direct.report_by_reconciler(at, now, limit, demand);
            directs.push(direct);
            let direct_milli = direct.zip(self.found(at));
            let direct_milli = direct_milli.map_or(0, |(direct, found)| direct.milli(found, wall));
            reports.push(Report {
                consumed,
                direct_milli,
            });
        }
        let lease_ttl = settings.lease_ttl;
        let planned = self
            .kernel
            .plan(now, lease_ttl, &view.limits, &asks, &reports);
        self.reporting = directs;
        let Some(mut plan) = planned else {
            self.reported(false);
            return Step::Idle; // credits for a bucket that is gone: there is nothing to credit them to
        };
        if plan.only_converts {
            self.reported(false);
        } else if let Some(consumed_at_ms) = consumed_at_ms {
            plan.write.consumed_at_ms = consumed_at_ms;
        }
        for at in 0..view.limits.len() {
            if self.kernel.position(at).returning > 0 {
                // The table will have more than when it said no.
                self.forget_denial(at);
            }
        }
        Step::Write(plan)
    }

    /// What the write under way was to report has reached the table, or may have; or it has not.
    fn reported(&mut self, told: bool) {
        self.usage.reported(told);
        for (at, report) in std::mem::take(&mut self.reporting).iter().enumerate() {
            if let Some(report) = report.filter(|_| !told) {
                self.direct.take_back(at, &report);
            }
        }
    }

    /// Takes in how the write under way ended; what is to happen next.
    pub(super) fn complete(
        &mut self,
        now: Now,
        settings: &RenewalSettings,
        why: Why,
        outcome: Outcome,
    ) -> Step {
        self.usage.turn_hour(now);
        let again = self.kernel.is_writing() && self.take_in(now, settings, outcome);
        let step = if again && why != Why::Suspended {
            Some(self.plan(now, settings))
        } else {
            None
        };
        self.meter.wake();
        step.unwrap_or_else(|| self.look(now, settings, why))
    }

    /// Takes in how the write under way ended; whether it is to be planned anew at once.
    fn take_in(&mut self, now: Now, settings: &RenewalSettings, outcome: Outcome) -> bool {
        match outcome {
            Outcome::Applied(item) => self.applied(now, settings, item),
            Outcome::Refused(found) => {
                self.forget_silence(now.monotonic, settings.renewal);
                let known = self.kernel.sequence();
                self.kernel.refused(now.monotonic, found);
                self.watch_others(now.monotonic, known);
                self.reported(false);
                self.pauses.refused(now.monotonic, settings)
            }
            Outcome::Throttled => {
                self.not_applied();
                self.pauses.throttled(now.monotonic, settings);
                false
            }
            Outcome::Failed(reason) => {
                self.not_applied();
                self.failed(now, settings, reason);
                false
            }
            Outcome::Unknown(reason) => {
                self.kernel.may_have_been_applied();
                self.reported(true);
                self.failed(now, settings, reason);
                false
            }
        }
    }

    fn applied(&mut self, now: Now, settings: &RenewalSettings, item: BucketItem) -> bool {
        let (limits, lease_ttl) = (self.limits.clone(), settings.lease_ttl);
        self.forget_silence(now.monotonic, settings.renewal);
        let known = self.kernel.sequence();
        let applied = self.kernel.applied(now, lease_ttl, &limits, item);
        self.watch_others(now.monotonic, known + 1);
        match applied {
            None => false,
            Some(Applied::Converted) => {
                self.pauses.applied(false);
                true
            }
            Some(Applied::Settled(settled)) => {
                self.reported(true);
                self.pauses.applied(true);
                let pace = settings.pace(self.pauses.is_throttled());
                let view = self.view(now, pace, false);
                if let Some(policy) = &mut self.policy {
                    policy.settled(&view, &settled);
                }
                self.kernel.release(now.monotonic);
                false
            }
        }
    }

    /// What a direct write that was sent then found or left in the table.
    pub(super) fn saw(
        &mut self,
        now: MonotonicTime,
        sent: MonotonicTime,
        item: Option<BucketItem>,
    ) {
        let known = self.kernel.sequence();
        self.kernel.saw(now, sent, item);
        self.watch_others(now, known);
    }

    /// Of the writes that there are by now, this process has made those that are `known`.
    fn watch_others(&mut self, now: MonotonicTime, known: u64) {
        if self.kernel.sequence() > known {
            self.last_foreign_write_at = now;
        }
    }

    /// The bucket is seen again by a process that looks about once per `period`. If it has not looked for
    /// longer, others may have been silent for the same reason: that says nothing of them.
    fn forget_silence(&mut self, now: MonotonicTime, period: Duration) {
        let unseen = now.since(self.kernel.seen_at());
        if unseen > period * 3 / 2 {
            self.last_foreign_write_at = self.last_foreign_write_at.after(unseen);
        }
    }

    fn not_applied(&mut self) {
        self.kernel.not_applied();
        self.reported(false);
    }

    fn failed(&mut self, now: Now, settings: &RenewalSettings, reason: Reason) {
        self.pauses.failed(now.monotonic, settings, reason);
        self.meter.give_up();
    }

    /// What is open between this process and the table.
    pub(super) fn unsettled(&self) -> Unsettled {
        let mut sum = Unsettled {
            consumption: self.usage.unreported(),
            ..Unsettled::default()
        };
        for position in (0..self.limits.len()).map(|at| self.kernel.position(at)) {
            sum.tokens += position.held();
            sum.debt += position.debt;
        }
        sum
    }

    /// What the write under way does once it is applied.
    pub(super) fn in_flight(&self) -> WriteEffect {
        WriteEffect {
            reported: self.usage.reporting(),
            ..self.kernel.in_flight()
        }
    }

    /// The bucket is going to be looked at then.
    pub(super) fn next_check(&mut self, at: MonotonicTime) {
        if let Some(policy) = &mut self.policy {
            policy.next_check(at);
        }
    }

    /// What callers know of one limit without asking the table: see [`Knowledge`].
    pub(super) fn knowledge(&self, now: Now, at: usize, requested: u64, ahead: u64) -> Knowledge {
        let limit = &self.limits[at];
        let terms = limit.terms();
        let held = self.kernel.in_hand(now.monotonic, at);
        let needed = if requested == 0 { 0 } else { requested + ahead };
        let (trickle, debt) = (self.kernel.trickle(at), self.kernel.position(at).debt);
        let pending = trickle.pending();
        let level = level(self.kernel.seen().item(), now.wall, limit);
        let estimate = (terms.to_tokens(level) + signed(held + pending) - signed(debt))
            .min(signed(limit.burst_tokens()))
            - signed(ahead);
        let released = trickle.time_until(now.monotonic, needed.saturating_sub(held));
        let refilled = terms.time_until(level, needed.saturating_sub(held + pending) + debt);
        let retry_after = if held >= needed && debt == 0 {
            Duration::ZERO
        } else {
            let denied = self.denied_until(at).since(now.monotonic);
            released.unwrap_or(refilled.max(denied))
        };
        let seen = *self.kernel.seen() != Seen::Never;
        Knowledge {
            in_hand: held.saturating_sub(ahead),
            estimate,
            age: seen.then(|| now.monotonic.since(self.kernel.seen_at())),
            denied: self.denies(at, now.monotonic, needed),
            retry_after,
        }
    }
}

/// What is open between a process and the table, summed over the limits of a bucket, in tokens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Unsettled {
    /// To be given back: held in a block, expired or not, or to be credited.
    pub tokens: u64,
    /// Consumed beyond what was held, to be debited.
    pub debt: u64,
    /// Consumption that was not reported, net of what was taken back.
    pub consumption: i64,
}

fn signed(tokens: u64) -> i64 {
    i64::try_from(tokens).unwrap_or(i64::MAX)
}
