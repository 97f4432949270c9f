//! Policies that nobody would want: the bound has to hold under all of them.

use std::cell::Cell;
use std::time::Duration;

use zae_limiter_core::policy::{Asks, Decision, MakePolicy, Pace, Policy, Sample, Steering, View};
use zae_limiter_core::{Ask, MonotonicTime, Now, Settled};

thread_local! {
    static NEXT_SEED: Cell<u64> = const { Cell::new(0) };
}

/// What is left to chance in the policies that this thread makes from now on follows from `seed`.
pub fn seed(seed: u64) {
    NEXT_SEED.set(seed);
}

fn rng() -> fastrand::Rng {
    let seed = NEXT_SEED.get();
    NEXT_SEED.set(seed.wrapping_add(0x9e37_79b9_7f4a_7c15));
    fastrand::Rng::with_seed(seed)
}

/// How a policy misbehaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Habit {
    /// Asks for what comes to its mind, whenever it does.
    Random,
    /// Asks for everything at once, again and again.
    Everything,
    /// Never asks for anything.
    Nothing,
    /// Takes what it can get, and keeps it, used or not.
    Hoards,
    /// Takes a little, and lies about everything else.
    Lies,
    /// Is another one at each renewal.
    Switches,
    /// Takes what is asked for, and wants to be forgotten at once.
    Forgets,
}

/// All of them, by name.
pub const ALL: [(&str, MakePolicy); 7] = [
    ("random", || Wild::boxed(Habit::Random)),
    ("everything", || Wild::boxed(Habit::Everything)),
    ("nothing", || Wild::boxed(Habit::Nothing)),
    ("hoards", || Wild::boxed(Habit::Hoards)),
    ("lies", || Wild::boxed(Habit::Lies)),
    ("switches", || Wild::boxed(Habit::Switches)),
    ("forgets", || Wild::boxed(Habit::Forgets)),
];

#[derive(Debug)]
struct Wild {
    habit: Habit,
    now: Habit,
    rng: fastrand::Rng,
    renew_at: MonotonicTime,
    denied_until: MonotonicTime,
}

impl Wild {
    fn boxed(habit: Habit) -> Box<dyn Policy> {
        Box::new(Self {
            habit,
            now: habit,
            rng: rng(),
            renew_at: MonotonicTime::ZERO,
            denied_until: MonotonicTime::ZERO,
        })
    }

    /// Small numbers as often as large ones.
    fn any(&mut self) -> u64 {
        let bits = self.rng.u32(..64);
        self.rng.u64(..) >> bits
    }

    fn up_to(&mut self, most: Duration) -> Duration {
        most.mul_f64(self.rng.f64())
    }

    fn ask_one(&mut self, view: &View, at: usize) -> Ask {
        let (offer, want) = (&view.offers[at], view.wants[at]);
        let all = u64::MAX / 4;
        match self.now {
            Habit::Random | Habit::Lies => {
                let honest = self.now == Habit::Random;
                let most = offer.block_max.max(1);
                let lie = self.any();
                Ask {
                    stock: if honest {
                        self.any()
                    } else {
                        self.rng.u64(..most / 8 + 1)
                    },
                    trickle: if honest {
                        self.any()
                    } else {
                        self.rng.u64(..most / 8 + 1)
                    },
                    over: self.up_to(view.pace.lease_ttl * 3),
                    ahead: self.up_to(view.pace.lease_ttl * 3),
                    demand_milli: lie.cast_signed(),
                    reports: self.rng.bool(),
                    in_demand: self.rng.bool(),
                    others_took: self.any(),
                }
            }
            Habit::Everything => Ask {
                stock: all,
                trickle: all,
                over: Duration::from_nanos(1),
                ahead: Duration::MAX,
                demand_milli: i64::MAX,
                reports: true,
                in_demand: true,
                others_took: 0,
            },
            Habit::Hoards => Ask {
                stock: offer.unspent.max(offer.block_max / 2),
                trickle: offer.block_max / 4,
                over: view.pace.lease_ttl,
                ahead: view.pace.lease_ttl,
                demand_milli: 1_000,
                reports: true,
                in_demand: true,
                others_took: 0,
            },
            Habit::Forgets => Ask {
                stock: want.total,
                in_demand: true,
                ..Ask::default()
            },
            Habit::Nothing | Habit::Switches => Ask::default(),
        }
    }
}

impl Policy for Wild {
    fn observe(&mut self, _now: Now, _pace: &Pace, _samples: &[Sample]) {}

    fn decide(&mut self, view: &View) -> Decision {
        let now = view.now.monotonic;
        let soon = now.after(view.pace.renewal / 4);
        match self.now {
            Habit::Random | Habit::Lies => match self.rng.u32(..8) {
                0 => Decision::Renew,
                1 => Decision::Rest,
                _ => Decision::Wait(soon.after(self.up_to(view.pace.renewal))),
            },
            Habit::Forgets if !view.is_wanted() => Decision::Rest,
            _ if view.is_wanted() || now >= self.renew_at => Decision::Renew,
            _ => Decision::Wait(self.renew_at.max(soon)),
        }
    }

    fn ask(&mut self, view: &View) -> Asks {
        if self.habit == Habit::Switches {
            use Habit::{Everything, Hoards, Lies, Nothing, Random};
            let habits = [Everything, Hoards, Lies, Nothing, Random];
            self.now = habits[self.rng.usize(..habits.len())];
        }
        (0..view.limits.len())
            .map(|at| self.ask_one(view, at))
            .collect()
    }

    fn settled(&mut self, view: &View, settled: &Settled) {
        let now = view.now.monotonic;
        self.renew_at = match self.now {
            Habit::Everything => now.after(view.pace.renewal / 4),
            Habit::Hoards => settled.expires_at.before(view.pace.latency * 2),
            _ => now.after(self.up_to(view.pace.lease_ttl)),
        };
        if self.now == Habit::Lies {
            self.denied_until = now.after(self.up_to(view.pace.renewal));
        }
    }

    fn denies(&self, _at: usize, now: MonotonicTime, _tokens: u64) -> bool {
        now < self.denied_until
    }

    fn denied_until(&self, _at: usize) -> MonotonicTime {
        self.denied_until
    }

    fn demand(&self, _at: usize) -> f64 {
        if self.now == Habit::Lies {
            f64::NAN
        } else {
            1.0
        }
    }
}

/// The policy that ships.
#[must_use]
pub fn shipped() -> Box<dyn Policy> {
    Steering::boxed()
}
