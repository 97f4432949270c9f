//! Usage: what of each limit was consumed in which window of time, and how it is told from the
//! writes of a bucket.
//!
//! A bucket counts the net consumption of each limit. What a write adds to these counters is
//! usage; refill is not, for it is never written. The write says when the consumption happened,
//! and thereby which windows it counts for.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use jiff::Timestamp;
use jiff::civil::Date;
use jiff::tz::TimeZone;
use serde::{Deserialize, Serialize};

use crate::item::BucketItem;
use crate::{ValidationError, WallTime};

/// How long the windows are that usage is counted by. They begin on the hour, at midnight, and on
/// the first of the month, in UTC.
///
/// ```
/// use zae_limiter_core::usage::{Window, parse_timestamp, timestamp};
///
/// let time = parse_timestamp("2028-02-29T23:59:59.999Z").unwrap();
/// let [hour, day, month] = Window::ALL.map(|window| timestamp(window.start(time)));
/// assert_eq!(hour, "2028-02-29T23:00:00Z");
/// assert_eq!(day, "2028-02-29T00:00:00Z");
/// assert_eq!(month, "2028-02-01T00:00:00Z");
/// assert_eq!(timestamp(Window::Monthly.end(time)), "2028-03-01T00:00:00Z");
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Window {
    /// An hour.
    Hourly,
    /// A day.
    Daily,
    /// A calendar month.
    Monthly,
}

impl Window {
    /// All there are, the shortest first.
    pub const ALL: [Self; 3] = [Self::Hourly, Self::Daily, Self::Monthly];

    /// What it is called: "hourly", "daily", "monthly".
    ///
    /// ```
    /// # use zae_limiter_core::usage::Window;
    /// assert_eq!(Window::ALL.map(Window::as_str), ["hourly", "daily", "monthly"]);
    /// ```
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Hourly => "hourly",
            Self::Daily => "daily",
            Self::Monthly => "monthly",
        }
    }

    /// When the window begins that `time` is in.
    ///
    /// See the example of [`Window`].
    #[must_use]
    pub fn start(self, time: WallTime) -> WallTime {
        let whole = |length: u64| WallTime::from_nanos(time.as_nanos() / length * length);
        match self {
            Self::Hourly => whole(HOUR_NANOS),
            Self::Daily => whole(24 * HOUR_NANOS),
            Self::Monthly => midnight(date(time).first_of_month()),
        }
    }

    /// When the window ends that `time` is in: when the next one begins.
    ///
    /// See the example of [`Window`].
    #[must_use]
    pub fn end(self, time: WallTime) -> WallTime {
        let start = self.start(time).as_nanos();
        let after = |length: u64| WallTime::from_nanos(start.saturating_add(length));
        match self {
            Self::Hourly => after(HOUR_NANOS),
            Self::Daily => after(24 * HOUR_NANOS),
            Self::Monthly => date(time)
                .last_of_month()
                .tomorrow()
                .map_or(WallTime::NEVER, midnight),
        }
    }

    /// Reads a list such as "hourly,daily".
    ///
    /// # Errors
    /// [`ValidationError`] if it names none, one that there is not, or one twice.
    pub fn parse_list(list: &str) -> Result<Vec<Self>, ValidationError> {
        let mut windows = Vec::new();
        for name in list.split(',') {
            let window = name.trim().parse()?;
            if windows.contains(&window) {
                let rule = format!("{window} is in it twice");
                return Err(ValidationError::new(FIELD, list, rule));
            }
            windows.push(window);
        }
        Ok(windows)
    }
}

const HOUR_NANOS: u64 = 3_600_000_000_000;

/// What errors call it.
const FIELD: &str = "snapshot_windows";

impl FromStr for Window {
    type Err = ValidationError;

    fn from_str(name: &str) -> Result<Self, ValidationError> {
        let found = Self::ALL.into_iter().find(|window| window.as_str() == name);
        found.ok_or_else(|| ValidationError::new(FIELD, name, "must be hourly, daily or monthly"))
    }
}

impl fmt::Display for Window {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

fn instant(time: WallTime) -> Timestamp {
    let millis = i64::try_from(time.as_millis()).ok();
    millis
        .and_then(|millis| Timestamp::from_millisecond(millis).ok())
        .unwrap_or(Timestamp::MAX)
}

fn date(time: WallTime) -> Date {
    instant(time).to_zoned(TimeZone::UTC).date()
}

fn midnight(date: Date) -> WallTime {
    let zoned = date.to_zoned(TimeZone::UTC);
    zoned.map_or(WallTime::NEVER, |zoned| wall(zoned.timestamp()))
}

fn wall(time: Timestamp) -> WallTime {
    WallTime::from_millis(u64::try_from(time.as_millisecond()).unwrap_or(0))
}

/// A time as RFC 3339 in UTC, as it stands in keys: "2026-01-01T09:00:00Z".
#[must_use]
pub fn timestamp(time: WallTime) -> String {
    instant(time).to_string()
}

/// Reads a time in RFC 3339; none if it is not one, or before 1970.
#[must_use]
pub fn parse_timestamp(text: &str) -> Option<WallTime> {
    let time: Timestamp = text.parse().ok()?;
    let millis = u64::try_from(time.as_millisecond()).ok()?;
    Some(WallTime::from_millis(millis))
}

/// What a bucket has counted, as of one of its writes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Counters {
    /// The number of the write.
    pub sequence: u64,
    /// When that was consumed which the write reported.
    pub consumed_at: WallTime,
    /// The net consumption of each limit since the bucket exists, in tokens.
    pub consumed: Vec<(Arc<str>, i64)>,
}

impl From<&BucketItem> for Counters {
    fn from(item: &BucketItem) -> Self {
        let limits = item.limits.iter();
        Self {
            sequence: item.sequence,
            consumed_at: WallTime::from_millis(item.consumed_at_ms),
            consumed: limits
                .map(|(name, limit)| (name.clone(), limit.consumed))
                .collect(),
        }
    }
}

/// What one write of a bucket adds to its usage.
///
/// ```
/// use zae_limiter_core::WallTime;
/// use zae_limiter_core::usage::{Consumption, Counters};
///
/// let counters = |sequence, rpm: i64, tpm: i64| Counters {
///     sequence,
///     consumed_at: WallTime::from_millis(sequence),
///     consumed: vec![("rpm".into(), rpm), ("tpm".into(), tpm)],
/// };
/// let first = Consumption::between(None, &counters(1, 1, 500));
/// assert_eq!(first.tokens, [("rpm".into(), 1), ("tpm".into(), 500)]);
/// let taken_back = Consumption::between(Some(&counters(1, 1, 500)), &counters(2, 1, 380));
/// assert_eq!(taken_back.tokens, [("tpm".into(), -120)]);
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Consumption {
    /// The number of the write.
    pub sequence: u64,
    /// When it happened.
    pub consumed_at: WallTime,
    /// What was consumed of which limit, in tokens; less than zero where more was taken back.
    /// Limits of which nothing was are left out.
    pub tokens: Vec<(Arc<str>, i64)>,
}

impl Consumption {
    /// What the write has added that made `new` of `old`; that is none if it was the first.
    #[must_use]
    pub fn between(old: Option<&Counters>, new: &Counters) -> Self {
        let before = |name: &str| {
            let found = old?.consumed.iter().find(|(n, _)| &**n == name);
            found.map(|(_, consumed)| *consumed)
        };
        let added = |(name, consumed): &(Arc<str>, i64)| {
            let tokens = consumed.saturating_sub(before(name).unwrap_or(0));
            (tokens != 0).then(|| (name.clone(), tokens))
        };
        Self {
            sequence: new.sequence,
            consumed_at: new.consumed_at,
            tokens: new.consumed.iter().filter_map(added).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schema;

    fn at(text: &str) -> WallTime {
        parse_timestamp(text).unwrap()
    }

    #[test]
    fn windows_begin_and_end_where_the_calendar_says() {
        for (time, month, next) in [
            (
                "2026-12-31T23:59:59.999Z",
                "2026-12-01T00:00:00Z",
                "2027-01-01T00:00:00Z",
            ),
            (
                "2027-01-01T00:00:00Z",
                "2027-01-01T00:00:00Z",
                "2027-02-01T00:00:00Z",
            ),
            (
                "2027-02-28T12:00:00Z",
                "2027-02-01T00:00:00Z",
                "2027-03-01T00:00:00Z",
            ),
            (
                "1970-01-01T00:00:00Z",
                "1970-01-01T00:00:00Z",
                "1970-02-01T00:00:00Z",
            ),
        ] {
            let time = at(time);
            assert_eq!(timestamp(Window::Monthly.start(time)), month);
            assert_eq!(timestamp(Window::Monthly.end(time)), next);
            for window in Window::ALL {
                let (start, end) = (window.start(time), window.end(time));
                assert!(start <= time && time < end);
                assert_eq!(window.start(start), start);
                assert_eq!(
                    window.start(WallTime::from_nanos(end.as_nanos() - 1)),
                    start
                );
                assert_eq!(window.start(end), end);
            }
        }
    }

    #[test]
    fn no_time_is_too_far() {
        for time in [
            WallTime::NEVER,
            WallTime::from_millis(u64::MAX),
            WallTime::ZERO,
        ] {
            for window in Window::ALL {
                assert!(window.start(time) <= time && window.end(time) >= time);
            }
        }
    }

    #[test]
    fn lists_of_windows_are_read_and_nonsense_is_named() {
        let both = [Window::Hourly, Window::Daily];
        assert_eq!(Window::parse_list("hourly, daily").unwrap(), both);
        for (list, told) in [
            (
                "",
                "invalid snapshot_windows \"\": must be hourly, daily or monthly",
            ),
            (
                "hourly,weekly",
                "invalid snapshot_windows \"weekly\": must be hourly, daily or monthly",
            ),
            (
                "daily,daily",
                "invalid snapshot_windows \"daily,daily\": daily is in it twice",
            ),
        ] {
            assert_eq!(Window::parse_list(list).unwrap_err().to_string(), told);
        }
    }

    #[test]
    fn an_hour_a_day_and_a_month_that_begin_together_have_keys_of_their_own() {
        let start = at("2026-01-01T00:00:00Z");
        let keys = Window::ALL.map(|window| schema::usage("gpt-4", window, start));
        assert_eq!(keys[0], "#USAGE#gpt-4#hourly#2026-01-01T00:00:00Z");
        assert_eq!(keys[2], "#USAGE#gpt-4#monthly#2026-01-01T00:00:00Z");
        for (window, key) in Window::ALL.into_iter().zip(&keys) {
            assert_eq!(
                schema::snapshot_of_usage(key),
                Some(("gpt-4", window, start))
            );
        }
        assert_eq!(
            schema::usage_by(Window::Daily, start, "user-1"),
            "USAGE#daily#2026-01-01T00:00:00Z#user-1"
        );
        assert_eq!(
            schema::snapshot_of_usage("#USAGE#gpt-4#2026-01-01T00:00:00Z"),
            None
        );
        assert_eq!(schema::resource_of_bucket("#BUCKET#gpt-4"), Some("gpt-4"));
        assert_eq!(schema::resource_of_bucket("#BUCKET#gpt-4#rpm"), None);
    }
}
