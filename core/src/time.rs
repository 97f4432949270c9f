//! Two clocks, two types: [`MonotonicTime`] for how long, [`WallTime`] for what the table says.
//!
//! Nothing in this crate reads a clock by itself; whoever needs the time is handed a [`Clock`].

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

#[cfg(target_os = "linux")]
use rustix::time::{ClockId, clock_gettime};

/// How far a [`Clock::tick`] may be behind the time: ten times the longest interval between timer
/// interrupts.
pub const TICK_LAG_MAX: Duration = Duration::from_millis(100);

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

macro_rules! point_in_time {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(u64);

        impl $name {
            /// The origin of this clock.
            pub const ZERO: Self = Self(0);
            /// A time that never comes.
            pub const NEVER: Self = Self(u64::MAX);

            /// The time `nanos` nanoseconds after the origin.
            #[must_use]
            pub const fn from_nanos(nanos: u64) -> Self {
                Self(nanos)
            }

            /// Nanoseconds since the origin.
            #[must_use]
            pub const fn as_nanos(self) -> u64 {
                self.0
            }

            /// How long after `earlier` this is; zero if it is not later.
            #[must_use]
            pub const fn since(self, earlier: Self) -> Duration {
                Duration::from_nanos(self.0.saturating_sub(earlier.0))
            }

            /// This time plus `duration`, saturating at [`NEVER`](Self::NEVER).
            #[must_use]
            pub fn after(self, duration: Duration) -> Self {
                Self(self.0.saturating_add(nanos(duration)))
            }

            /// This time minus `duration`, saturating at [`ZERO`](Self::ZERO).
            #[must_use]
            pub fn before(self, duration: Duration) -> Self {
                Self(self.0.saturating_sub(nanos(duration)))
            }
        }
    };
}

point_in_time! {
    /// Nanoseconds on a clock that never goes back. Means something only inside one process.
    MonotonicTime
}
point_in_time! {
    /// Nanoseconds since the Unix epoch. The only time that is ever written to the table.
    WallTime
}

impl WallTime {
    /// The time `millis` milliseconds after the Unix epoch, or [`NEVER`](Self::NEVER).
    #[must_use]
    pub const fn from_millis(millis: u64) -> Self {
        Self(millis.saturating_mul(1_000_000))
    }

    /// Microseconds since the Unix epoch.
    #[must_use]
    pub const fn as_micros(self) -> u64 {
        self.0 / 1_000
    }

    /// Milliseconds since the Unix epoch.
    #[must_use]
    pub const fn as_millis(self) -> u64 {
        self.0 / 1_000_000
    }

    /// Whole seconds since the Unix epoch.
    #[must_use]
    pub const fn as_secs(self) -> u64 {
        self.0 / 1_000_000_000
    }
}

/// A reading of the cheapest clock there is, a little behind the time, for nothing but
/// comparisons with [`Clock::tick_before`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Tick(pub(crate) u64);

/// Where a limiter gets its time from: the system, or a [`ManualClock`] in tests and simulations.
///
/// ```
/// use std::time::Duration;
/// use zae_limiter_core::Clock;
///
/// let (clock, hands) = Clock::manual();
/// let before = clock.now();
/// hands.advance(Duration::from_millis(1500));
/// assert_eq!(clock.now().since(before), Duration::from_millis(1500));
/// ```
#[derive(Clone, Debug)]
pub struct Clock(Source);

#[derive(Clone, Debug)]
enum Source {
    // The time-stamp counter where it is invariant (about a third of the cost of
    // `clock_gettime`), the operating system's monotonic clock elsewhere.
    System {
        clock: quanta::Clock,
        origin: quanta::Instant,
    },
    Manual(ManualClock),
}

impl Clock {
    /// The machine's clocks.
    ///
    /// ```
    /// # use zae_limiter_core::Clock;
    /// let clock = Clock::system();
    /// assert!(clock.now() <= clock.now());
    /// ```
    #[must_use]
    pub fn system() -> Self {
        let clock = quanta::Clock::new();
        let origin = clock.now();
        Self(Source::System { clock, origin })
    }

    /// A clock that stands still until its hands are moved.
    ///
    /// See the example of [`Clock`].
    #[must_use]
    pub fn manual() -> (Self, ManualClock) {
        let hands = ManualClock::default();
        (Self(Source::Manual(hands.clone())), hands)
    }

    /// The monotonic time: about 10 ns, no system call.
    ///
    /// See the example of [`Clock`].
    #[inline]
    #[must_use]
    pub fn now(&self) -> MonotonicTime {
        match &self.0 {
            Source::System { clock, origin, .. } => {
                MonotonicTime(nanos(clock.now().duration_since(*origin)))
            }
            Source::Manual(hands) => MonotonicTime(hands.0.monotonic.load(Ordering::Relaxed)),
        }
    }

    /// A cheap reading: on Linux of the time as of the kernel's last timer interrupt (under 3 ns;
    /// a counter takes 9), which a process that was stopped finds up to date as well.
    #[inline]
    #[must_use]
    pub fn tick(&self) -> Tick {
        match &self.0 {
            #[cfg(target_os = "linux")]
            Source::System { .. } => {
                let time = clock_gettime(ClockId::MonotonicCoarse);
                let (secs, nanos) = (time.tv_sec.cast_unsigned(), time.tv_nsec.cast_unsigned());
                Tick(secs * 1_000_000_000 + nanos)
            }
            _ => Tick(self.now().0),
        }
    }

    /// A reading that comes before `time` for sure: up to [`TICK_LAG_MAX`] before it, and at once
    /// if that is past.
    #[must_use]
    pub fn tick_before(&self, time: MonotonicTime) -> Tick {
        match &self.0 {
            Source::System { .. } => {
                let ahead = time.before(TICK_LAG_MAX).since(self.now());
                Tick(self.tick().0.saturating_add(nanos(ahead)))
            }
            Source::Manual(_) => Tick(time.0),
        }
    }

    /// The wall time, as it is written to the table.
    ///
    /// See the example of [`ManualClock`].
    #[must_use]
    pub fn wall(&self) -> WallTime {
        match &self.0 {
            #[allow(clippy::disallowed_methods)] // the one place that reads the system's wall clock
            Source::System { .. } => WallTime(nanos(
                SystemTime::now()
                    .duration_since(UNIX_EPOCH)
                    .unwrap_or_default(),
            )),
            Source::Manual(hands) => WallTime(hands.0.wall.load(Ordering::Relaxed)),
        }
    }
}

impl Default for Clock {
    fn default() -> Self {
        Self::system()
    }
}

/// The hands of a [`Clock::manual`]. Clones move the same hands.
///
/// ```
/// use std::time::Duration;
/// use zae_limiter_core::Clock;
///
/// let (clock, hands) = Clock::manual();
/// let (monotonic, wall) = (clock.now(), clock.wall());
/// hands.advance(Duration::from_secs(5));
/// assert_eq!(clock.wall().since(wall), Duration::from_secs(5));
/// hands.set_wall(wall); // a time server sets it back
/// assert_eq!(clock.now().since(monotonic), Duration::from_secs(5));
/// ```
#[derive(Clone, Debug)]
pub struct ManualClock(Arc<Hands>);

#[derive(Debug)]
struct Hands {
    monotonic: AtomicU64,
    wall: AtomicU64,
}

impl Default for ManualClock {
    fn default() -> Self {
        Self(Arc::new(Hands {
            monotonic: AtomicU64::new(1_000_000_000),
            // 2026-01-01T00:00:00Z
            wall: AtomicU64::new(1_767_225_600_000_000_000),
        }))
    }
}

impl ManualClock {
    /// Moves both clocks forward.
    ///
    /// See the example of [`ManualClock`].
    pub fn advance(&self, by: Duration) {
        let by = nanos(by);
        self.0.monotonic.fetch_add(by, Ordering::Relaxed);
        self.0.wall.fetch_add(by, Ordering::Relaxed);
    }

    /// Sets the wall clock alone, forward or back, as a time server would.
    ///
    /// See the example of [`ManualClock`].
    pub fn set_wall(&self, to: WallTime) {
        self.0.wall.store(to.0, Ordering::Relaxed);
    }
}
