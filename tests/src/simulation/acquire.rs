//! Callers: what `Acquire` does, without waiting.

use zae_limiter_core::{Paid, Payer, Request, Shortage};

use super::random::NAMES;
use super::recovery::Measure;
use super::report::Fault;
use super::scenario::Nanos;
use super::world::World;

/// Somebody who asks for tokens.
#[derive(Clone, Copy, Debug)]
pub(super) struct Caller {
    pub(super) process: usize,
    pub(super) child: usize,
    pub(super) parent: Option<usize>,
    /// Which limits it declares: those that its process knew of when it came.
    pub(super) version: usize,
    /// Of each limit that requests name.
    pub(super) tokens: [u64; NAMES.len()],
    pub(super) sent: Nanos,
    /// When its process began with it.
    since: Nanos,
    /// Which of all waits it is in.
    pub(super) wait: u64,
}

impl Caller {
    /// The buckets that it asks.
    pub(super) fn buckets(&self) -> impl Iterator<Item = usize> + use<> {
        [Some(self.child), self.parent].into_iter().flatten()
    }

    /// What it asks for, as a request does.
    pub(super) fn consume<'a>(&self) -> ([(&'a str, u64); NAMES.len()], usize) {
        let consume = [(NAMES[0], self.tokens[0]), (NAMES[1], self.tokens[1])];
        (consume, if self.tokens[1] > 0 { 2 } else { 1 })
    }
}

impl World<'_> {
    pub(super) fn arrive(&mut self, process: usize, stream: u32) {
        let Some(sent) = self.next_request(process, stream) else {
            return;
        };
        let scenario = self.scenario;
        let traffic = if self.calm {
            &scenario.recovery
        } else {
            &scenario.demand
        };
        let several = traffic.tokens.end() > &1;
        let mut tokens = [0; NAMES.len()];
        let limits = &self.processes[process].limits;
        for (tokens, limit) in tokens.iter_mut().zip(limits.iter()) {
            *tokens = if several {
                self.rng.u64(traffic.tokens.clone())
            } else {
                1
            };
            *tokens = (*tokens).min(limit.burst_tokens());
        }
        if self.chance(scenario.unnamed) {
            tokens[1] = 0;
        }
        let child = if scenario.children == 1 {
            0
        } else {
            self.report.acquires as usize % scenario.children
        };
        let cascade = scenario.cascade > 0 && self.chance(scenario.cascade);
        let parent = if cascade {
            self.parent_of(process, child)
        } else {
            None
        };
        let caller = Caller {
            process,
            child,
            parent,
            version: self.processes[process].version,
            tokens,
            sent,
            since: self.now,
            wait: 0,
        };
        self.report.acquires += 1;
        if self.measure.is_some() {
            Measure::arrive(self, &caller);
        }
        let strict = scenario.strict[process];
        if strict > 0 && self.chance(strict) {
            self.pay_strictly(caller);
        } else {
            self.attempt(caller);
        }
    }

    /// The parent as the process remembers it, or as the table says.
    fn parent_of(&mut self, process: usize, child: usize) -> Option<usize> {
        let remembered = &mut self.processes[process].parents[child];
        match *remembered {
            Some((parent, until)) if self.now < until => parent,
            _ => {
                let parent = self.parents[child];
                *remembered = Some((parent, self.now + self.scenario.entity_ttl));
                parent
            }
        }
    }

    /// One try of a caller.
    pub(super) fn attempt(&mut self, caller: Caller) {
        let p = &mut self.processes[caller.process];
        let (consume, named) = caller.consume();
        if caller.parent.is_none()
            && let Some(seat) = &p.seats[caller.child]
            && let Some(hit) = {
                let limits = &self.scenario.limits[caller.version];
                let request = Request::new(limits, &consume[..named]);
                seat.bucket.hit(&p.clock, &request)
            }
        {
            if hit.hint {
                self.told
                    .push_back((caller.process, seat.bucket.bucket().clone()));
            }
            let payer = Payer::Block(hit.generation);
            self.admitted(&caller, [Some(payer), None]);
            return;
        }
        self.attempt_slowly(caller);
    }

    fn attempt_slowly(&mut self, caller: Caller) {
        let (consume, named) = caller.consume();
        let (paid, short) = loop {
            let p = &mut self.processes[caller.process];
            let child = p.seat(caller.child).bucket.clone();
            let parent = caller.parent.map(|parent| p.seat(parent).bucket.clone());
            let limits = &self.scenario.limits[caller.version];
            let request = Request::new(limits, &consume[..named]);
            let (paid, short) = match &parent {
                Some(parent) => match child.take_both(&request, parent, &request, &p.clock) {
                    Ok([a, b]) => ([Some(a), Some(b)], [None, None]),
                    Err(short) => ([None, None], short),
                },
                None => match child.take(&p.clock, &request) {
                    Ok(paid) => ([Some(paid), None], [None, None]),
                    Err(short) => ([None, None], [Some(short), None]),
                },
            };
            let buckets = [Some(&child), parent.as_ref()];
            for (bucket, paid) in buckets.iter().zip(&paid) {
                if let (Some(bucket), Some(Paid { hint: true, .. })) = (bucket, paid) {
                    self.told
                        .push_back((caller.process, bucket.bucket().clone()));
                }
            }
            if !short.contains(&Some(Shortage::Undeclared)) {
                break (paid, short);
            }
            for (bucket, short) in buckets.into_iter().zip(short) {
                if let (Some(bucket), Some(Shortage::Undeclared)) = (bucket, short) {
                    bucket.declare(limits).expect("few limits");
                    self.told
                        .push_back((caller.process, bucket.bucket().clone()));
                }
            }
        };
        if paid[0].is_some() {
            let payers = paid.map(|paid| paid.map(|paid| Payer::Block(paid.generation)));
            self.admitted(&caller, payers);
        } else if short.contains(&Some(Shortage::Refused)) {
            self.report.refused += 1;
        } else if short.contains(&Some(Shortage::Unavailable))
            || self.processes[caller.process].breaker.is_open()
        {
            self.unavailable(&caller);
        } else {
            self.ask(caller, short.map(|short| short.is_some()));
        }
        for bucket in caller.buckets() {
            self.settle(caller.process, bucket, false);
        }
    }

    /// The table cannot be asked: some are admitted anyway, and nobody pays.
    fn unavailable(&mut self, caller: &Caller) {
        self.report.unavailable += 1;
        if self.chance(self.scenario.leases.open) {
            self.count(Fault::AdmittedOpen);
            let parent = caller.parent.map(|_| Payer::Nobody);
            self.keep_lease(caller, [Some(Payer::Nobody), parent]);
        }
    }

    /// The table has to be asked; the caller waits.
    fn ask(&mut self, mut caller: Caller, asked: [bool; 2]) {
        let (consume, named) = caller.consume();
        self.waits += 1;
        caller.wait = self.waits;
        let wait = self.waits;
        let number = self.callers.insert(caller);
        let p = &mut self.processes[caller.process];
        let request = Request::new(&self.scenario.limits[caller.version], &consume[..named]);
        for (bucket, asked) in caller.buckets().zip(asked) {
            let seat = p.seat(bucket);
            seat.waiting.push((number, wait));
            if asked && seat.bucket.want(&request) {
                self.told
                    .push_back((caller.process, seat.bucket.bucket().clone()));
            }
        }
    }

    /// Whoever waits for a bucket looks again.
    pub(super) fn ring(&mut self, process: usize, bucket: usize) {
        let Some(seat) = &mut self.processes[process].seats[bucket] else {
            return;
        };
        seat.bucket.wake();
        for (number, wait) in std::mem::take(&mut seat.waiting) {
            // A caller who waits for two buckets has been woken by the other, perhaps.
            if self.callers.get(number).is_some_and(|c| c.wait == wait) {
                let caller = self.callers.remove(number);
                if self.now - caller.since >= self.scenario.acquire_timeout {
                    self.report.unavailable += 1; // it has given up meanwhile
                } else {
                    self.attempt(caller);
                }
            }
        }
    }

    pub(super) fn admitted(&mut self, caller: &Caller, payers: [Option<Payer>; 2]) {
        self.report.admitted += 1;
        let (now, process) = (self.now, caller.process);
        for (bucket, payer) in caller.buckets().zip(payers) {
            let p = &mut self.processes[process];
            let from_block = matches!(payer, Some(Payer::Block(_)));
            if from_block {
                let seat = p.seats[bucket].as_ref();
                if seat.is_none_or(|seat| now >= seat.expires_at) {
                    self.violated(format!(
                        "process {process} admitted from an expired block of bucket {bucket}"
                    ));
                    return;
                }
            }
            for (slot, tokens) in caller.tokens.into_iter().enumerate() {
                if tokens == 0 {
                    continue;
                }
                // What the table pays counts when it pays.
                if from_block {
                    self.processes[process].pool(bucket, slot).consumed += i128::from(tokens);
                    if let Err(what) = self.ledgers.admit(bucket, slot, now, tokens) {
                        self.violated(what);
                    }
                }
            }
        }
        if self.measure.is_some() {
            Measure::admitted(self, caller);
        }
        let key = (caller.child as u64) << 32 | caller.parent.map_or(0, |p| p as u64 + 1);
        let tokens = caller.tokens;
        self.trace
            .note(now, process, [key, tokens[0] << 32 ^ tokens[1]], || {
                format!(
                    "admits {tokens:?} to {:?}",
                    caller.buckets().collect::<Vec<_>>()
                )
            });
        self.keep_lease(caller, payers);
        if payers
            .iter()
            .flatten()
            .any(|payer| matches!(payer, Payer::Table(_)))
            && self.scenario.lease_ttl() > 0
        {
            self.count(Fault::StrictAmongLeased);
        }
    }
}
