//! How an acquire is paid: from blocks, by a write, in its turn, or not by the table at all.

use std::sync::Arc;
use std::time::Duration;

use smallvec::SmallVec;
use tokio::sync::futures::Notified;
use tokio::time;
use zae_limiter_core::{Payer, Payments, Shortage};

use crate::engine::Engine;
use crate::lease::{Lease, Part};
use crate::status;
use crate::store::StoreError;
use crate::strict::{self, Due, NotWritten, Payment};
use crate::target::Target;
use crate::wait_queue::Place;
use crate::{Error, FailureMode, RateLimitExceeded, ValidationError};

/// Estimates of when tokens come in are not trusted below this: nobody spins.
const PAUSE_MIN: Duration = Duration::from_millis(1);

/// What a caller has decided about the paying, whatever it pays for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Admission<'a> {
    pub(crate) engine: &'a Arc<Engine>,
    pub(crate) strict: bool,
    pub(crate) failure_mode: FailureMode,
    pub(crate) wait_limit: Duration,
}

/// How the blocks in hand answer.
pub(crate) enum Answer<'a> {
    Paid(Lease<'a>),
    Exceeded(RateLimitExceeded),
    Unavailable(usize),
    Ask([bool; 2]),
}

impl<'a> Admission<'a> {
    /// Pays, as soon as possible or in its turn.
    pub(crate) async fn pay(&self, targets: &mut [Target<'a>]) -> Result<Lease<'a>, Error> {
        if self.engine.is_closed() {
            return Err(Error::ShutDown);
        }
        if let Some(lease) = self.free(targets)? {
            return Ok(lease);
        }
        if self.wait_limit.is_zero() {
            self.pay_once(targets).await
        } else {
            self.pay_in_queue(targets).await
        }
    }

    /// The lease of a request for zero tokens; none if it asks for some. It writes nothing and waits for
    /// nothing, whatever state the bucket and the table are in.
    pub(crate) fn free(&self, targets: &[Target<'a>]) -> Result<Option<Lease<'a>>, Error> {
        if !targets.iter().all(Target::asks_nothing) {
            return Ok(None);
        }
        if !self.strict
            && let Answer::Paid(lease) = self.take(targets)?
        {
            return Ok(Some(lease));
        }
        Ok(Some(self.nothing(targets)))
    }

    /// A lease of nothing.
    fn nothing(&self, targets: &[Target<'a>]) -> Lease<'a> {
        let parent = (targets.len() > 1).then_some(Payer::Table(None));
        self.lease(targets, [Some(Payer::Table(None)), parent])
    }

    /// Tries to pay from the blocks in hand.
    pub(crate) fn take(&self, targets: &[Target<'a>]) -> Result<Answer<'a>, ValidationError> {
        let clock = &self.engine.clock;
        loop {
            let (paid, short) = match targets {
                [child, parent] => {
                    let (request, parents) = (child.request(), parent.request());
                    let paid = child
                        .bucket
                        .take_both(&request, &parent.bucket, &parents, clock);
                    match paid {
                        Ok([a, b]) => ([Some(a), Some(b)], [None, None]),
                        Err(short) => ([None, None], short),
                    }
                }
                [child, ..] => match child.bucket.take(clock, &child.request()) {
                    Ok(paid) => ([Some(paid), None], [None, None]),
                    Err(short) => ([None, None], [Some(short), None]),
                },
                [] => return Ok(Answer::Ask([false, false])),
            };
            let is = |what: Shortage| short.map(|s| s == Some(what));
            if short == [None, None] {
                for (target, paid) in targets.iter().zip(&paid) {
                    if paid.is_some_and(|paid| paid.hint) {
                        self.engine.runs_low(&target.bucket);
                    }
                }
                let payers = paid.map(|paid| paid.map(|paid| Payer::Block(paid.generation)));
                return Ok(Answer::Paid(self.lease(targets, payers)));
            }
            let undeclared = is(Shortage::Undeclared);
            if undeclared.contains(&true) {
                for (target, _) in targets.iter().zip(undeclared).filter(|(_, u)| *u) {
                    let limits = self.engine.shared(&target.limits);
                    target.bucket.declare(&limits)?;
                    self.engine.needs_renewal(&target.bucket);
                }
                continue;
            }
            if is(Shortage::Refused).contains(&true) {
                let clock = &self.engine.clock;
                let exceeded = status::of_blocks(clock, targets, is(Shortage::Refused));
                return Ok(match exceeded {
                    Some(exceeded) => Answer::Exceeded(exceeded),
                    None => Answer::Paid(self.nothing(targets)),
                });
            }
            let unavailable = is(Shortage::Unavailable);
            if let Some(at) = unavailable.iter().position(|u| *u) {
                return Ok(Answer::Unavailable(at));
            }
            if self.engine.breaker.is_open() {
                for target in targets {
                    target.bucket.missed(&target.request());
                }
                return Ok(Answer::Unavailable(0));
            }
            return Ok(Answer::Ask(is(Shortage::Miss)));
        }
    }

    pub(crate) fn ask(&self, targets: &[Target<'a>], asked: [bool; 2]) {
        for (target, _) in targets.iter().zip(asked).filter(|(_, asked)| *asked) {
            if target.bucket.want(&target.request()) {
                self.engine.needs_renewal(&target.bucket);
            }
        }
    }

    fn lease(&self, targets: &[Target<'a>], payers: [Option<Payer>; 2]) -> Lease<'a> {
        let paid = targets.iter().zip(payers);
        let parts = paid.filter_map(|(target, payer)| {
            Some(Part {
                bucket: target.bucket.clone(),
                limits: target.limits.clone(),
                payments: Payments::new(payer?, target.charges()),
            })
        });
        Lease::new(self, parts.collect())
    }

    /// The answer when the bucket `at` could not be asked for, for the reason of `failure`, if
    /// that is not the one that it or the table is known to have.
    #[cold]
    pub(crate) fn fail(
        &self,
        targets: &[Target<'a>],
        at: usize,
        failure: Option<Arc<StoreError>>,
    ) -> Result<Lease<'a>, Error> {
        let engine = self.engine;
        let bucket = &targets[at].bucket;
        let failure = failure.or_else(|| engine.trouble(bucket));
        let error = engine.unavailable(bucket, failure);
        if !matches!(error, Error::Unavailable { .. }) {
            return Err(error);
        }
        let paid_by = |payer| {
            tracing::debug!(bucket = ?bucket.key(), ?payer, %error, "admitted without the table");
            let payers = [Some(payer), (targets.len() > 1).then_some(payer)];
            Ok(self.lease(targets, payers))
        };
        match self.failure_mode {
            FailureMode::Closed => {}
            FailureMode::Open => {
                engine.counters.admitted_open.add_one();
                return paid_by(Payer::Nobody);
            }
            FailureMode::Local(share) => {
                for target in targets {
                    target.bucket.declare(&engine.shared(&target.limits))?;
                }
                let clock = &engine.clock;
                let paid = match targets {
                    [child, parent] => child.bucket.take_both_shares(
                        &child.request(),
                        &parent.bucket,
                        &parent.request(),
                        clock,
                        share,
                    ),
                    _ => targets[0]
                        .bucket
                        .take_share(&targets[0].request(), clock, share),
                };
                if paid {
                    engine.counters.admitted_local.add_one();
                    return paid_by(Payer::Share(share));
                }
                if let Some(exceeded) = status::of_share(clock, targets, share) {
                    engine.counters.refused_local.add_one();
                    return Err(exceeded.into());
                }
            }
        }
        engine.counters.unavailable.add_one();
        Err(error)
    }

    pub(crate) async fn pay_once(&self, targets: &[Target<'a>]) -> Result<Lease<'a>, Error> {
        if self.strict {
            self.pay_strictly(targets).await
        } else {
            self.pay_from_blocks(targets).await
        }
    }

    /// Waits for its turn, and then for the tokens.
    ///
    /// It waits in the parent's queue only while that is all it lacks: a caller who is out of its
    /// own tokens must not hold up the others there. Its own queue comes first, for everybody.
    async fn pay_in_queue(&self, targets: &mut [Target<'a>]) -> Result<Lease<'a>, Error> {
        let deadline = time::Instant::now() + self.wait_limit;
        let mut places = SmallVec::<[Place<'_>; 2]>::new();
        if !self.queue(targets, &mut places, deadline).await {
            return self.answer_now(targets).await;
        }
        let mut is_first = true;
        loop {
            if self.engine.is_closed() {
                return Err(Error::ShutDown);
            }
            // Blocks are looked at for nothing. A look at the table is a write: it is made if the
            // tokens seem to be there, and at first by the first in the queue.
            let is_known = !is_first || targets.iter().any(Target::is_behind);
            let by_memory = self.strict && is_known && !self.engine.breaker.is_open();
            let lacking = by_memory.then(|| self.lacking(targets)).flatten();
            let exceeded = match lacking {
                Some(exceeded) => exceeded,
                None => match self.pay_once(targets).await {
                    Err(Error::RateLimitExceeded(exceeded)) => exceeded,
                    answer => return answer,
                },
            };
            is_first = false;
            let until = time::Instant::now() + exceeded.retry_after().max(PAUSE_MIN);
            if until > deadline {
                return Err(exceeded.into());
            }
            let own = targets[0].bucket.key().entity_id();
            if exceeded.violations().any(|limit| limit.entity_id == own) {
                places.truncate(1);
                targets.iter_mut().skip(1).for_each(|t| t.ticket = None);
            } else if places.len() < targets.len() {
                if !self.queue(targets, &mut places, deadline).await {
                    return self.answer_now(targets).await;
                }
                continue; // much may have changed since
            }
            self.pause(targets, &places, until).await;
        }
    }

    /// Joins the next queue, and waits for the turn there. False if the deadline comes before.
    async fn queue<'b>(
        &'b self,
        targets: &mut [Target<'a>],
        places: &mut SmallVec<[Place<'b>; 2]>,
        deadline: time::Instant,
    ) -> bool {
        let at = places.len();
        let mut place = self.engine.wait_queues.join(&mut targets[at..]);
        let in_time = time::timeout_at(deadline, place.turn()).await.is_ok();
        places.push(place);
        in_time
    }

    /// The answer to a caller whose time is over before its turn has come: what it lacks or, if as
    /// far as is known it lacks nothing, what a caller is answered who does not wait.
    async fn answer_now(&self, targets: &[Target<'a>]) -> Result<Lease<'a>, Error> {
        if self.engine.is_closed() {
            return Err(Error::ShutDown);
        }
        match self.lacking(targets) {
            Some(exceeded) => Err(exceeded.into()),
            None => self.pay_once(targets).await,
        }
    }

    /// What is lacking, as far as is known here; none if the tokens are there.
    fn lacking(&self, targets: &[Target<'a>]) -> Option<RateLimitExceeded> {
        let lacking = if self.strict {
            status::lacking_in_table
        } else {
            status::lacking_in_blocks
        };
        lacking(&self.engine.clock, targets)
    }

    /// Waits until then, or until there may be tokens sooner: somebody has given some back, or
    /// leaves them to others.
    async fn pause(&self, targets: &[Target<'a>], places: &[Place<'_>], until: time::Instant) {
        let engine = self.engine;
        // Enlisted before the look: what happens in between is not missed.
        let (mut first, mut second) = (
            std::pin::pin!(self.bell(targets, 0)),
            std::pin::pin!(self.bell(targets, 1)),
        );
        let (mut left, mut also_left) = (
            std::pin::pin!(places[0].left()),
            std::pin::pin!(places[places.len() - 1].left()),
        );
        first.as_mut().enable();
        second.as_mut().enable();
        left.as_mut().enable();
        also_left.as_mut().enable();
        let away = self.strict && engine.breaker.is_open();
        if away || engine.is_closed() || self.lacking(targets).is_none() {
            return time::sleep(PAUSE_MIN).await;
        }
        tokio::select! {
            () = time::sleep_until(until) => {}
            () = first => {}
            () = second => {}
            () = left => {}
            () = also_left => {}
        }
    }

    /// Rings when there may be more of what a target is charged.
    fn bell(&self, targets: &[Target<'a>], at: usize) -> Notified<'_> {
        let target = targets.get(at).unwrap_or(&targets[0]);
        self.engine.waiting_for(target.bucket.bucket()).notified()
    }

    async fn pay_from_blocks(&self, targets: &[Target<'a>]) -> Result<Lease<'a>, Error> {
        loop {
            // Enlisted before the look: a write that ends in between is not missed.
            let (mut first, mut second) = (
                std::pin::pin!(self.bell(targets, 0)),
                std::pin::pin!(self.bell(targets, 1)),
            );
            first.as_mut().enable();
            second.as_mut().enable();
            match self.take(targets)? {
                Answer::Paid(lease) => return Ok(lease),
                Answer::Exceeded(exceeded) => return Err(exceeded.into()),
                Answer::Unavailable(at) => return self.fail(targets, at, None),
                Answer::Ask(asked) => self.ask(targets, asked),
            }
            if self.engine.is_closed() {
                return Err(Error::ShutDown);
            }
            tokio::select! {
                () = first => {}
                () = second => {}
            }
        }
    }

    /// Pays with one write per bucket. The writes go on if the caller loses interest; then what
    /// they took is given back.
    async fn pay_strictly(&self, targets: &[Target<'a>]) -> Result<Lease<'a>, Error> {
        let engine = self.engine;
        if engine.breaker.is_open() {
            return self.fail(targets, 0, None);
        }
        let due = |target: &Target<'_>| Due {
            bucket: target.bucket.clone(),
            limits: engine.shared(&target.limits),
            charges: target.charges(),
            ahead: target.bucket.ahead_of(&target.request()),
        };
        let payment = Payment::new(&engine.clock, targets.iter().map(due).collect());
        match strict::pay(engine, payment).await {
            Ok(debited) => Ok(self.lease(targets, debited.map(|of| Some(Payer::Table(of))))),
            Err((
                at,
                NotWritten::Exceeded {
                    found,
                    at: judged_at,
                },
            )) => {
                let found = (at, found.as_ref(), judged_at);
                match status::of_table(&engine.clock, targets, found) {
                    Some(exceeded) => Err(exceeded.into()),
                    None => Ok(self.nothing(targets)),
                }
            }
            Err((at, not_written)) => self.fail(targets, at, not_written.failure()),
        }
    }
}
