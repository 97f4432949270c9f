//! What happens to processes, and what administrators do to the table.

use zae_limiter_core::item::LimitItem;

use super::ledger::slot;
use super::process::Process;
use super::random::NAMES;
use super::report::Fault;
use super::scenario::{Change, Nanos};
use super::world::World;

impl World<'_> {
    /// A process dies without a word, and a fresh one takes its place.
    pub(super) fn crash(&mut self, process: usize) {
        self.count(Fault::Crash);
        let dead = &mut self.processes[process];
        dead.sync(self.now);
        let fresh = dead.successor(self.scenario, self.rng.u64(..));
        let dead: Process = std::mem::replace(dead, fresh);
        for seat in dead.seats.into_iter().flatten() {
            for (number, wait) in seat.waiting {
                if self.callers.get(number).is_some_and(|c| c.wait == wait) {
                    self.callers.remove(number);
                }
            }
        }
        self.start_stream(process);
        self.trace
            .note(self.now, process, [4, 0], || "dies".to_owned());
    }

    /// A process stands still.
    pub(super) fn freeze(&mut self, process: usize, until: Nanos) {
        self.count(Fault::Freeze);
        let p = &mut self.processes[process];
        p.frozen_until = p.frozen_until.max(until);
        let live = |seat: &super::process::Seat| (self.now..until).contains(&seat.expires_at);
        if p.seats.iter().flatten().any(live) {
            self.count(Fault::BlockExpired);
        }
        self.trace.note(self.now, process, [5, until], || {
            format!("stands still until {:.6}", until as f64 / 1e9)
        });
    }

    pub(super) fn set_clock(&mut self, process: usize, offset: i64) {
        let p = &mut self.processes[process];
        p.sync(self.now);
        let before = p.offset;
        p.set_wall(offset);
        if offset > before {
            self.count(Fault::ClockForward);
        } else if offset < before {
            self.count(Fault::ClockBack);
        }
        self.trace
            .note(self.now, process, [6, offset.unsigned_abs()], || {
                format!("its clock is {:.6} s off", offset as f64 / 1e9)
            });
    }

    pub(super) fn change(&mut self, change: Change) {
        self.trace
            .note(self.now, 0, [7, 0], || format!("{change:?}"));
        match change {
            Change::Limits(process, version) => self.declare(process, version),
            Change::DeleteBucket(bucket) => {
                if let Some(item) = self.items[bucket].take() {
                    self.count(Fault::BucketDeleted);
                    for (name, limit) in &item.limits {
                        self.deleted(bucket, slot(name), limit);
                    }
                }
            }
            Change::DeleteLimit(bucket, slot) => {
                let Some(item) = &mut self.items[bucket] else {
                    return;
                };
                let mut limits = item.limits.iter();
                if let Some(at) = limits.position(|(name, _)| **name == *NAMES[slot]) {
                    let (_, limit) = item.limits.remove(at);
                    self.count(Fault::LimitDeleted);
                    self.deleted(bucket, slot, &limit);
                }
            }
            Change::Parent(child, parent) => {
                if self.now > 0 && self.parents[child] != parent {
                    self.count(Fault::ParentChanged);
                }
                self.parents[child] = parent;
            }
        }
    }

    fn deleted(&mut self, bucket: usize, slot: usize, limit: &LimitItem) {
        let wall = self.latest_wall();
        (self.ledgers).deleted(bucket, slot, self.now, limit, wall);
        for p in &mut self.processes {
            p.pool(bucket, slot).deleted = Some(self.now);
        }
    }

    fn declare(&mut self, process: usize, version: usize) {
        let p = &mut self.processes[process];
        if version < p.version && !self.calm || version == p.version {
            return;
        }
        let limits = self.scenario.limits[version].clone();
        let before = std::mem::replace(&mut p.limits, limits.clone());
        p.version = version;
        for limit in before.iter() {
            let now = limits.iter().find(|l| l.name() == limit.name());
            let burst = limit.burst_tokens();
            match now.map(|l| l.burst_tokens()) {
                None => self.count(Fault::LimitDropped),
                Some(now) if now > burst => self.count(Fault::LimitRaised),
                Some(now) if now < burst => self.count(Fault::LimitCut),
                Some(_) => {}
            }
        }
    }
}
