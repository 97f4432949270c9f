//! What a bucket keeps under its lock: the limits, the callers who wait, and what it needs while it is in use.

use std::sync::Arc;

use super::active::Active;
use super::{Paid, Shortage};
use crate::estimate::Knowledge;
use crate::kernel::{Lineage, Now};
use crate::local::LocalLevel;
use crate::renewal::{RenewalSettings, Step};
use crate::request::{Charges, LIMITS_MAX, Request, fingerprint};
use crate::wait_queue::WaitQueue;
use crate::{Limit, MonotonicTime, Share, ValidationError, WallTime};

#[derive(Debug)]
pub(super) struct State {
    pub(super) limits: Arc<[Limit]>,
    /// None: nothing is held, nothing is owed, nobody has asked for a while.
    pub(super) active: Option<Box<Active>>,
    /// Of what it was when it was last in use.
    lineage: Lineage,
    /// The reconciler has been told, and has not looked yet.
    pub(super) hinted: bool,
    /// The process shuts down: what is held is given back, and pays for nothing any more.
    pub(super) closed: bool,
    /// The callers who wait. Meanwhile nothing is in the fast balance.
    pub(super) wait_queue: Option<Box<WaitQueue>>,
}

impl State {
    pub(super) fn new(limits: Arc<[Limit]>) -> Self {
        Self {
            limits,
            active: None,
            lineage: Lineage::default(),
            hinted: false,
            closed: false,
            wait_queue: None,
        }
    }

    /// What the bucket needs while it is in use, from now on.
    pub(super) fn active(&mut self) -> &mut Active {
        let (limits, lineage) = (&self.limits, self.lineage);
        (self.active).get_or_insert_with(|| Box::new(Active::new(limits.clone(), lineage)))
    }

    /// The bucket is not in use any more.
    fn deactivate(&mut self) {
        if let Some(active) = self.active.take() {
            self.lineage = active.kernel.lineage();
            self.lineage.begin_generation();
        }
    }

    /// Counts the times that the bucket was not in use; none if it is.
    pub(super) fn idle_generation(&self) -> Option<u32> {
        self.active.is_none().then_some(self.lineage.generation())
    }

    pub(super) fn lineage(&self) -> Lineage {
        let active = self.active.as_deref();
        active.map_or(self.lineage, |active| active.kernel.lineage())
    }

    pub(super) fn ask_for_a_look(&mut self) -> bool {
        !std::mem::replace(&mut self.hinted, true)
    }

    pub(super) fn slot(&self, limit: &str) -> Option<usize> {
        self.limits.iter().position(|known| known.name() == limit)
    }

    /// The slots and amounts of a request; none if a limit is not known with these terms.
    pub(super) fn resolve(&self, request: &Request<'_>) -> Option<Charges> {
        if fingerprint(&self.limits) == request.fingerprint() {
            return request.charges();
        }
        let mut limits = request.limits().iter();
        if !limits.all(|limit| self.limits.contains(limit)) {
            return None;
        }
        let mut charges = Charges::default();
        for (name, amount) in request.consume() {
            charges.push(self.slot(name)? as u32, *amount);
        }
        Some(charges)
    }

    /// What the block would pay for a request, if it can.
    pub(super) fn check(
        &mut self,
        now: MonotonicTime,
        request: &Request<'_>,
    ) -> Result<Charges, Shortage> {
        let charges = self.resolve(request).ok_or(Shortage::Undeclared)?;
        if self.closed {
            return Err(Shortage::Miss);
        }
        let needed = self.needed(request, &charges);
        let Some(active) = self.active.as_deref_mut() else {
            return if charges.is_empty() {
                Ok(charges)
            } else {
                Err(Shortage::Miss)
            };
        };
        if active.covers(now, &needed) {
            Ok(charges)
        } else {
            Err(active.shortage(now, &charges, &needed))
        }
    }

    /// Pays what was checked.
    pub(super) fn pay(&mut self, now: MonotonicTime, charges: &Charges) -> Paid {
        let (generation, mut low) = (self.lineage().generation(), false);
        if let Some(active) = self.active.as_deref_mut() {
            low = active.pay(now, charges);
        }
        Paid {
            generation,
            hint: low && self.ask_for_a_look(),
        }
    }

    /// Tokens of a limit that are claimed by those who come before `request`.
    pub(super) fn ahead_of(&self, request: &Request<'_>, limit: &str) -> u64 {
        let queue = self.wait_queue.as_ref();
        queue.map_or(0, |queue| queue.claimed_before(request.ticket(), limit))
    }

    /// What has to be there for `charges` to be paid: they, and what comes before them.
    pub(super) fn needed(&self, request: &Request<'_>, charges: &Charges) -> Charges {
        if self.wait_queue.is_none() {
            return charges.clone();
        }
        let mut needed = Charges::default();
        for (slot, tokens) in charges.iter() {
            let limit = &self.limits[slot as usize];
            needed.push(slot, tokens + self.ahead_of(request, limit.name()));
        }
        needed
    }

    /// Somebody waits for a write.
    pub(super) fn want(&mut self, request: &Request<'_>) {
        let Some(charges) = self.resolve(request) else {
            return;
        };
        let needed = self.needed(request, &charges);
        let active = self.active();
        for (slot, tokens) in charges.iter() {
            let ahead = needed.tokens(slot).saturating_sub(tokens);
            active.meter.want(slot as usize, tokens, ahead);
        }
    }

    /// A limit that somebody owes or is owed of is known, even if nobody declares it any more: where it
    /// stands, if there is room.
    pub(super) fn register(&mut self, limit: &Limit) -> Option<usize> {
        self.active();
        if self.slot(limit.name()).is_none() {
            self.declare(&[limit.clone()].into()).ok()?;
        }
        self.slot(limit.name())
    }

    /// Makes `limits` known. A limit of the same name is replaced.
    pub(super) fn declare(&mut self, limits: &Arc<[Limit]>) -> Result<(), ValidationError> {
        self.make_room(limits)?;
        let Some(active) = self.active.as_deref_mut() else {
            self.limits = limits.clone();
            return Ok(());
        };
        let mut merged = self.limits.to_vec();
        for limit in limits.iter() {
            match merged.iter().position(|known| known.name() == limit.name()) {
                Some(at) if merged[at] == *limit => {}
                Some(at) => {
                    merged[at] = limit.clone();
                    active.change_terms(at);
                }
                None => {
                    merged.push(limit.clone());
                    active.add_limit();
                }
            }
        }
        let same = merged[..] == limits[..];
        self.limits = if same { limits.clone() } else { merged.into() };
        active.limits = self.limits.clone();
        Ok(())
    }

    /// One write changes all limits of a bucket, so there is an end to their number.
    fn make_room(&mut self, limits: &[Limit]) -> Result<(), ValidationError> {
        let declared = |known: &Limit| limits.iter().any(|limit| limit.name() == known.name());
        let others = |known: &[Limit]| known.iter().filter(|known| !declared(known)).count();
        if self.active.is_some() && others(&self.limits) + limits.len() > LIMITS_MAX {
            self.forget_unused(declared);
        }
        match others(&self.limits) + limits.len() {
            all if self.active.is_some() && all > LIMITS_MAX => {
                let known: Vec<_> = self.limits.iter().map(Limit::name).collect();
                let names: Vec<_> = limits.iter().map(Limit::name).collect();
                let rule = format!(
                    "would be {all} limits in one bucket, which holds at most {LIMITS_MAX}; in use \
                     are {}, and each until some ten seconds after its last use",
                    known.join(", ")
                );
                Err(ValidationError::new("limits", names.join(", "), rule))
            }
            _ => Ok(()),
        }
    }

    /// Forgets the limits of which nothing is held, owed or asked for any more, but for those that
    /// are to be `kept`.
    fn forget_unused(&mut self, kept: impl Fn(&Limit) -> bool) {
        let mut left = self.limits.to_vec();
        let active = self.active();
        for at in (0..left.len()).rev() {
            if !kept(&left[at]) && active.remove_limit(at) {
                left.remove(at);
            }
        }
        active.limits = left.into();
        self.limits = active.limits.clone();
    }

    /// Lets the bucket rest if nothing is to happen, and else remembers when it is to be looked at.
    pub(super) fn follow(&mut self, step: Step, now: Now, settings: &RenewalSettings) -> Step {
        let step = match step {
            Step::Wait(until) => Step::Wait(until.min(crate::pending_usage::next_hour(now))),
            step => step,
        };
        if matches!(step, Step::Idle) {
            self.deactivate();
        }
        if let Some(active) = self.active.as_deref_mut() {
            active.next_check(match step {
                Step::Wait(until) => until,
                Step::Write(_) | Step::Idle => now.monotonic.after(settings.renewal),
            });
        }
        step
    }

    /// What `request` charges, if this process's share pays for it.
    pub(super) fn share_of(
        &mut self,
        now: WallTime,
        request: &Request<'_>,
        share: Share,
    ) -> Option<Charges> {
        let charges = self.resolve(request)?;
        let active = self.active();
        let enough = charges.iter().all(|(at, tokens)| {
            let terms = active.limits[at as usize].terms();
            active.local.covers(at as usize, now, terms, share, tokens)
        });
        enough.then_some(charges)
    }

    /// Takes `charges` from this process's share, whatever it has.
    pub(super) fn charge_share(&mut self, now: WallTime, charges: &Charges, share: Share) {
        let active = self.active();
        for (at, tokens) in charges.iter() {
            let terms = active.limits[at as usize].terms();
            (active.local).charge(at as usize, now, terms, share, tokens.cast_signed());
        }
    }

    /// How this process's share of each limit stands, for a request.
    pub(super) fn share_levels(
        &mut self,
        now: WallTime,
        request: &Request<'_>,
        share: Share,
    ) -> Vec<LocalLevel> {
        let active = self.active();
        let limits = active.limits.clone();
        let mut levels = Vec::new();
        for (at, limit) in limits.iter().enumerate() {
            let tokens = requested(request, limit);
            levels.push(active.local.status(at, now, limit, share, tokens));
        }
        levels
    }

    /// What is known about each limit without asking the table.
    pub(super) fn knowledge(&mut self, now: Now, request: &Request<'_>) -> Vec<(Limit, Knowledge)> {
        if let Some(active) = self.active.as_deref_mut() {
            active.kernel.release(now.monotonic);
        }
        let of = |(at, limit): (usize, &Limit)| {
            let ahead = self.ahead_of(request, limit.name());
            let knowledge = match &self.active {
                Some(active) => active.knowledge(now, at, requested(request, limit), ahead),
                None => Knowledge::nothing(limit),
            };
            (limit.clone(), knowledge)
        };
        self.limits.iter().enumerate().map(of).collect()
    }
}

/// What a request asks for of a limit.
fn requested(request: &Request<'_>, limit: &Limit) -> u64 {
    let named = request
        .consume()
        .iter()
        .find(|(name, _)| *name == limit.name());
    named.map_or(0, |(_, tokens)| *tokens)
}
