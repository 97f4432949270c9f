//! Draws a sequence from a seed.

use std::time::Duration;

use zae_limiter::store::Fault;

use super::drop_after::DropAfter;
use super::operation::{AcquireCall, End, Event, Operation};
use super::sequence::{Faults, Sequence, Setting};

/// How long a table takes that does not fail.
const ANSWERS_IN: Duration = Duration::from_millis(3);

impl Sequence {
    /// The sequence of a seed.
    #[must_use]
    pub fn random(seed: u64) -> Self {
        let mut draw = Draw(fastrand::Rng::with_seed(seed ^ 0x0ca1_1e25));
        let setting = draw.setting(seed);
        let length = draw.0.usize(3..=30);
        let mut operations: Vec<_> = (0..length).map(|_| draw.operation(&setting)).collect();
        if setting.open && setting.faults != Faults::None {
            let at = draw.0.usize(..operations.len());
            operations.splice(at..at, draw.outage(&setting));
        }
        if draw.0.u32(..8) == 0 {
            operations.splice(0..0, draw.standstill(&setting));
        }
        Self {
            setting,
            operations,
        }
    }
}

struct Draw(fastrand::Rng);

impl Draw {
    fn one_of<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.0.usize(..choices.len())]
    }

    fn drop_after(&mut self) -> DropAfter {
        DropAfter((self.0.u32(..5) == 0).then(|| self.0.u32(..6)))
    }

    fn tokens(&mut self, burst: u64) -> u64 {
        match self.0.u32(..8) {
            0 => 0,
            1 => burst,
            2 => burst / 2,
            _ => self.0.u64(1..=burst.div_ceil(4)),
        }
    }

    fn setting(&mut self, seed: u64) -> Setting {
        let mode = self.0.u32(..4);
        Setting {
            strict: std::array::from_fn(|_| match mode {
                0 => true,
                1 => self.0.bool(),
                _ => false,
            }),
            processes: self.one_of(&[1, 1, 2, 3]),
            limits: self.one_of(&[1, 1, 2, 3, 5]),
            burst: self.one_of(&[1, 7, 100, 100, 1_000, 100_000]),
            period: self.one_of(&[1, 60, 86_400, 30 * 86_400, 365 * 86_400, 365 * 86_400]),
            stored: self.0.u32(..4) == 0,
            open: self.0.u32(..3) == 0,
            answers: self.one_of(&[Fault::Delay(ANSWERS_IN), Fault::LateReply(ANSWERS_IN)]),
            faults: self.one_of(&[Faults::None, Faults::None, Faults::Certain, Faults::Any]),
            seed,
        }
    }

    fn operation(&mut self, setting: &Setting) -> Operation {
        let burst = setting.burst;
        let signed = burst.cast_signed();
        let (process, lease) = (self.0.usize(..setting.processes), self.0.usize(..8));
        let limit = self.0.usize(..setting.limits);
        match self.0.u32(..100) {
            0..28 => Operation::Acquire(AcquireCall {
                process,
                named: self.0.u8(1..1 << setting.limits) | 1,
                tokens: self.tokens(burst),
                cascade: self.0.u32(..4) == 0,
                strict: self.one_of(&[None, None, Some(true), Some(false)]),
                handle: self.0.u32(..6) == 0,
                drop_after: self.drop_after(),
            }),
            28..38 => Operation::Consume(lease, limit, self.tokens(burst), self.drop_after()),
            38..56 => {
                let most = self.one_of(&[signed / 4 + 1, signed * 3, signed * 50]);
                let delta = self.0.i64(-most..=most);
                Operation::Adjust(lease, limit, delta, self.drop_after())
            }
            56..66 => Operation::RollBack(lease, self.drop_after()),
            66..70 => Operation::Commit(lease),
            70..77 => {
                let end = self.one_of(&[End::Succeeds, End::Fails, End::Panics]);
                let delta = self.0.i64(-signed..=signed * 3);
                Operation::Run(process, self.tokens(burst), delta, end, self.drop_after())
            }
            93..95 => Operation::Invalid(lease, self.0.u8(..)),
            other => Operation::Event(self.event(other, setting)),
        }
    }

    fn event(&mut self, number: u32, setting: &Setting) -> Event {
        match number {
            77..87 => Event::Pass(self.one_of(&[1, 30, 300, 1_100, 6_000])),
            87..91 => self.fault(setting),
            91..93 => Event::Heal,
            95 => Event::Change(self.one_of(&[5, 20])),
            96 => Event::Delete,
            97 => Event::SkipDays(self.one_of(&[1, 8, 40, 400])),
            _ => Event::SetClocks(self.one_of(&[-2_000, -50, 50, 3_000])),
        }
    }

    /// Most tokens are taken; the table is away, and some calls are admitted anyway; then it is back, and their
    /// leases go on.
    fn outage(&mut self, setting: &Setting) -> Vec<Operation> {
        let process = self.0.usize(..setting.processes);
        let acquire = |tokens, strict| acquire_first(process, tokens, strict);
        let burst = setting.burst;
        let mut outage = vec![
            acquire(burst - burst / 10, None),
            Operation::Event(Event::Fail(Fault::Unreachable)),
        ];
        let admitted = self.0.usize(1..4);
        outage.extend((0..admitted).map(|_| acquire(burst.div_ceil(3), Some(true))));
        outage.extend([Event::Heal, Event::Pass(1_100)].map(Operation::Event));
        let never = DropAfter(None);
        for lease in 0..8 {
            outage.push(match self.0.u32(..3) {
                0 => Operation::Consume(lease, 0, burst / 100, never),
                1 => Operation::Adjust(lease, 0, -(burst / 5).cast_signed(), never),
                _ => Operation::RollBack(lease, never),
            });
        }
        outage
    }

    /// A lease goes into debt with one limit, and another is acquired; then a process stands still with a block in
    /// hand, and goes on with the block first and the bucket next.
    fn standstill(&mut self, setting: &Setting) -> Vec<Operation> {
        let process = self.0.usize(..setting.processes);
        let limit = self.0.usize(..setting.limits);
        let (burst, few) = (setting.burst, setting.burst.div_ceil(20));
        let debt = self.0.i64(0..=burst.cast_signed() * 50);
        // A limit is full again then, unless it is in debt.
        let full_in = u32::try_from(setting.period / 86_400 * 2 + 1).unwrap_or(u32::MAX);
        let never = DropAfter(None);
        let mut operations = vec![
            acquire_first(process, few, Some(false)),
            Operation::Adjust(0, limit, debt, never),
            Operation::Event(Event::Pass(1_100)),
            acquire_first(process, few, self.one_of(&[Some(true), Some(false)])),
            Operation::Event(Event::Pass(self.one_of(&[30, 1_100]))),
            Operation::Event(Event::SkipDays(
                self.one_of(&[1, 8, 40, 400, full_in, full_in]),
            )),
        ];
        let again = self.0.usize(1..4);
        operations.extend((0..again).map(|_| acquire_first(process, few, Some(false))));
        operations.push(acquire_first(process, burst, Some(true)));
        operations
    }

    fn fault(&mut self, setting: &Setting) -> Event {
        let late = Duration::from_millis(self.one_of(&[20, 400]));
        let certain = [
            Fault::Throttled,
            Fault::Unreachable,
            Fault::Delay(late),
            Fault::LateReply(late),
        ];
        let lossy = [
            Fault::LostBeforeApply,
            Fault::LostReply,
            Fault::AccessDenied,
        ];
        match setting.faults {
            Faults::None => Event::Pass(10),
            Faults::Certain => Event::Fail(self.one_of(&certain)),
            Faults::Any if self.0.bool() => Event::Fail(self.one_of(&certain)),
            Faults::Any => Event::Fail(self.one_of(&lossy)),
        }
    }
}

/// An acquire of tokens of the first limit.
fn acquire_first(process: usize, tokens: u64, strict: Option<bool>) -> Operation {
    Operation::Acquire(AcquireCall {
        process,
        named: 1,
        tokens,
        cascade: false,
        strict,
        handle: false,
        drop_after: DropAfter(None),
    })
}
