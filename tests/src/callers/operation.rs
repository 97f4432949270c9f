//! What callers do: plain data, drawn from a seed.

use std::time::Duration;

use zae_limiter::store::Fault;

/// How long a table takes that does not fail.
const ANSWERS_IN: Duration = Duration::from_millis(3);

/// Limits that there are at most.
pub(super) const LIMITS_MAX: usize = 5;
/// Limiters that there are at most.
pub(super) const PROCESSES_MAX: usize = 3;

/// What a sequence is played in.
#[derive(Clone, Copy, Debug)]
pub struct Setting {
    /// How many limiters there are; whether each is in strict mode.
    pub strict: [bool; PROCESSES_MAX],
    /// How many of them.
    pub processes: usize,
    /// How many limits.
    pub limits: usize,
    /// How much each holds.
    pub burst: u64,
    /// The refill period of all tokens, in seconds: from one to a year.
    pub period: u64,
    /// Whether the limits are stored, and not given.
    pub stored: bool,
    /// What the failure mode admits while the table is away.
    pub open: bool,
    /// Whether the table fails.
    pub faults: Faults,
    /// How a table answers that does not fail: in a while, as real ones do.
    pub answers: Fault,
    /// The seed of whatever the limiters leave to chance.
    pub seed: u64,
}

/// How the table fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Faults {
    /// Not at all.
    None,
    /// In ways that leave no doubt: throttled, away, late.
    Certain,
    /// In any way: answers are lost as well.
    Any,
}

/// When the future of a call is dropped: after so many polls; never if none.
pub(super) type Cut = Option<u32>;

/// What work under `run` does in the end.
#[derive(Clone, Copy, Debug)]
pub enum End {
    /// It succeeds.
    Succeeds,
    /// It fails.
    Fails,
    /// It panics.
    Panics,
}

/// One thing that a caller does, or that happens.
#[derive(Clone, Copy, Debug)]
pub enum Operation {
    /// Acquires so many tokens of each limit in `named`.
    Acquire {
        /// By which process.
        process: usize,
        /// Which limits, a bit each.
        named: u8,
        /// Tokens of each.
        tokens: u64,
        /// Whether the parent is charged, too.
        cascade: bool,
        /// Whether it is direct, whatever the mode; as the mode says if none.
        strict: Option<bool>,
        /// Whether by a handle.
        handle: bool,
        /// When it is given up.
        cut: Cut,
    },
    /// A lease consumes more.
    Consume(usize, usize, u64, Cut),
    /// A lease is corrected.
    Adjust(usize, usize, i64, Cut),
    /// A lease is given back.
    RollBack(usize, Cut),
    /// A lease is kept.
    Commit(usize),
    /// Work is done under a lease of so many tokens of the first limit, and corrects it by this.
    Run(usize, u64, i64, End, Cut),
    /// So many milliseconds pass.
    Pass(u64),
    /// The table fails from now on.
    Fail(Fault),
    /// And no more.
    Heal,
    /// A call that makes no sense.
    Nonsense(usize, u8),
    /// The limits are others from now on: `burst` is multiplied by this, in tenths.
    Change(u64),
    /// The entity is deleted.
    Delete,
    /// The table forgets what it need not keep any longer, so many days later.
    Expire(u64),
    /// The wall clocks of all are set by so many milliseconds.
    SetClocks(i64),
}

/// All of it.
#[derive(Clone, Debug)]
pub struct Sequence {
    /// What it is played in.
    pub setting: Setting,
    /// What is done, in order.
    pub operations: Vec<Operation>,
}

struct Draw(fastrand::Rng);

impl Draw {
    fn one_of<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.0.usize(..choices.len())]
    }

    fn cut(&mut self) -> Cut {
        (self.0.u32(..5) == 0).then(|| self.0.u32(..6))
    }

    fn tokens(&mut self, burst: u64) -> u64 {
        match self.0.u32(..8) {
            0 => 0,
            1 => burst,
            2 => burst / 2,
            _ => self.0.u64(1..=burst.div_ceil(4)),
        }
    }
}

impl Sequence {
    /// The sequence of a seed.
    #[must_use]
    pub fn random(seed: u64) -> Self {
        let mut draw = Draw(fastrand::Rng::with_seed(seed ^ 0x0ca1_1e25));
        let mode = draw.0.u32(..4);
        let setting = Setting {
            strict: std::array::from_fn(|_| match mode {
                0 => true,
                1 => draw.0.bool(),
                _ => false,
            }),
            processes: draw.one_of(&[1, 1, 2, 3]),
            limits: draw.one_of(&[1, 1, 2, 3, 5]),
            burst: draw.one_of(&[1, 7, 100, 100, 1_000, 100_000]),
            period: draw.one_of(&[1, 60, 86_400, 30 * 86_400, 365 * 86_400, 365 * 86_400]),
            stored: draw.0.u32(..4) == 0,
            open: draw.0.u32(..3) == 0,
            answers: draw.one_of(&[Fault::Delay(ANSWERS_IN), Fault::LateReply(ANSWERS_IN)]),
            faults: draw.one_of(&[Faults::None, Faults::None, Faults::Certain, Faults::Any]),
            seed,
        };
        let length = draw.0.usize(3..=30);
        let mut operations: Vec<_> = (0..length).map(|_| draw.operation(&setting)).collect();
        if setting.open && setting.faults != Faults::None {
            let at = draw.0.usize(..operations.len());
            operations.splice(at..at, draw.outage(&setting));
        }
        Self {
            setting,
            operations,
        }
    }
}

impl Draw {
    fn operation(&mut self, setting: &Setting) -> Operation {
        let burst = setting.burst;
        let signed = burst.cast_signed();
        let (process, lease) = (self.0.usize(..setting.processes), self.0.usize(..8));
        let limit = self.0.usize(..setting.limits);
        match self.0.u32(..100) {
            0..28 => Operation::Acquire {
                process,
                named: self.0.u8(1..1 << setting.limits) | 1,
                tokens: self.tokens(burst),
                cascade: self.0.u32(..4) == 0,
                strict: self.one_of(&[None, None, Some(true), Some(false)]),
                handle: self.0.u32(..6) == 0,
                cut: self.cut(),
            },
            28..38 => Operation::Consume(lease, limit, self.tokens(burst), self.cut()),
            38..56 => {
                let most = self.one_of(&[signed / 4 + 1, signed * 3, signed * 50]);
                let delta = self.0.i64(-most..=most);
                Operation::Adjust(lease, limit, delta, self.cut())
            }
            56..66 => Operation::RollBack(lease, self.cut()),
            66..70 => Operation::Commit(lease),
            70..77 => {
                let end = self.one_of(&[End::Succeeds, End::Fails, End::Panics]);
                let delta = self.0.i64(-signed..=signed * 3);
                Operation::Run(process, self.tokens(burst), delta, end, self.cut())
            }
            77..87 => Operation::Pass(self.one_of(&[1, 30, 300, 1_100, 6_000])),
            87..91 => self.fault(setting),
            91..93 => Operation::Heal,
            93..95 => Operation::Nonsense(lease, self.0.u8(..)),
            95 => Operation::Change(self.one_of(&[5, 20])),
            96 => Operation::Delete,
            97 => Operation::Expire(self.one_of(&[1, 8, 40, 400])),
            _ => Operation::SetClocks(self.one_of(&[-2_000, -50, 50, 3_000])),
        }
    }

    /// Somebody has taken nearly all; the table is away, and some are admitted anyway; then it is back, and
    /// they go on.
    fn outage(&mut self, setting: &Setting) -> Vec<Operation> {
        let process = self.0.usize(..setting.processes);
        let acquire = |tokens, strict| Operation::Acquire {
            process,
            named: 1,
            tokens,
            cascade: false,
            strict,
            handle: false,
            cut: None,
        };
        let burst = setting.burst;
        let mut outage = vec![
            acquire(burst - burst / 10, None),
            Operation::Fail(Fault::Unreachable),
        ];
        let admitted = self.0.usize(1..4);
        outage.extend((0..admitted).map(|_| acquire(burst.div_ceil(3), Some(true))));
        outage.extend([Operation::Heal, Operation::Pass(1_100)]);
        for lease in 0..8 {
            outage.push(match self.0.u32(..3) {
                0 => Operation::Consume(lease, 0, burst / 100, None),
                1 => Operation::Adjust(lease, 0, -(burst / 5).cast_signed(), None),
                _ => Operation::RollBack(lease, None),
            });
        }
        outage
    }

    fn fault(&mut self, setting: &Setting) -> Operation {
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
            Faults::None => Operation::Pass(10),
            Faults::Certain => Operation::Fail(self.one_of(&certain)),
            Faults::Any if self.0.bool() => Operation::Fail(self.one_of(&certain)),
            Faults::Any => Operation::Fail(self.one_of(&lossy)),
        }
    }
}
