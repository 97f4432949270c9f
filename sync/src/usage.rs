//! Usage: what was consumed in which window of time.
//!
//! Snapshots are made by the aggregator, from the table's stream: those of the last seconds are not
//! there yet, and none are without one. The store in memory makes its own.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use zae_limiter_core::usage::{Window, parse_timestamp, timestamp};
use zae_limiter_core::{ValidationError, WallTime, validate_identifier, validate_name};

use crate::{Error, Page, PageRequest, RateLimiter};

/// Which snapshots are wanted. Default: hourly ones, of all times. In JSON, times are RFC 3339.
///
/// ```
/// use std::time::{Duration, SystemTime};
/// use zae_limiter::{UsageQuery, Window};
///
/// let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_767_225_600);
/// let last_week = UsageQuery::entity("user-1")?
///     .resource("gpt-4")?
///     .window(Window::Daily)
///     .since(now - Duration::from_secs(7 * 86_400))
///     .until(now);
/// # Ok::<(), zae_limiter::ValidationError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "QueryFields", into = "QueryFields")]
#[must_use]
pub struct UsageQuery {
    pub(crate) entity_id: Option<String>,
    pub(crate) resource: Option<String>,
    pub(crate) window: Window,
    pub(crate) since: WallTime,
    pub(crate) until: WallTime,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct QueryFields {
    entity_id: Option<String>,
    resource: Option<String>,
    #[serde(default = "hourly")]
    window: Window,
    since: Option<String>,
    until: Option<String>,
}

fn hourly() -> Window {
    Window::Hourly
}

impl TryFrom<QueryFields> for UsageQuery {
    type Error = ValidationError;
    fn try_from(fields: QueryFields) -> Result<Self, ValidationError> {
        let query = match (fields.entity_id, fields.resource) {
            (Some(id), None) => Self::entity(id)?,
            (Some(id), Some(resource)) => Self::entity(id)?.resource(resource)?,
            (None, Some(resource)) => Self::of_resource(resource)?,
            (None, None) => {
                let rule = "must be there, or a resource, or both";
                return Err(ValidationError::new("entity_id", "", rule));
            }
        };
        let time = |field, text: Option<String>, default| {
            let Some(text) = text else { return Ok(default) };
            let wrong = || ValidationError::new(field, &text, "must be a time in RFC 3339");
            parse_timestamp(&text).ok_or_else(wrong)
        };
        Ok(Self {
            window: fields.window,
            since: time("since", fields.since, query.since)?,
            until: time("until", fields.until, query.until)?,
            ..query
        })
    }
}

impl From<UsageQuery> for QueryFields {
    fn from(query: UsageQuery) -> Self {
        let unless = |default, time| (time != default).then(|| timestamp(time));
        Self {
            entity_id: query.entity_id,
            resource: query.resource,
            window: query.window,
            since: unless(WallTime::ZERO, query.since),
            until: unless(WallTime::NEVER, query.until),
        }
    }
}

impl UsageQuery {
    /// The usage of an entity, of every resource.
    ///
    /// See the example of [`UsageQuery`].
    ///
    /// # Errors
    /// [`ValidationError`] unless it is an identifier.
    pub fn entity(id: impl Into<String>) -> Result<Self, ValidationError> {
        let id = id.into();
        validate_identifier("entity_id", &id)?;
        Ok(Self::of(Some(id)))
    }

    /// The usage of a resource, by every entity.
    ///
    /// ```
    /// # use zae_limiter::{UsageQuery, Window};
    /// let by_everybody = UsageQuery::of_resource("gpt-4")?.window(Window::Monthly);
    /// # Ok::<(), zae_limiter::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`ValidationError`] unless it is a name.
    pub fn of_resource(resource: impl Into<String>) -> Result<Self, ValidationError> {
        Self::of(None).resource(resource)
    }

    fn of(entity_id: Option<String>) -> Self {
        Self {
            entity_id,
            resource: None,
            window: Window::Hourly,
            since: WallTime::ZERO,
            until: WallTime::NEVER,
        }
    }

    /// Only of this resource. Default: of every one.
    ///
    /// See the example of [`UsageQuery`].
    ///
    /// # Errors
    /// [`ValidationError`] unless it is a name.
    pub fn resource(mut self, resource: impl Into<String>) -> Result<Self, ValidationError> {
        let resource = resource.into();
        validate_name("resource", &resource)?;
        self.resource = Some(resource);
        Ok(self)
    }

    /// By hours, days or months. The aggregator must count by these. Default: hours.
    ///
    /// See the example of [`UsageQuery`].
    pub fn window(mut self, window: Window) -> Self {
        self.window = window;
        self
    }

    /// From the window on in which this time is. Default: from the first.
    ///
    /// See the example of [`UsageQuery`].
    pub fn since(mut self, time: SystemTime) -> Self {
        self.since = wall(time);
        self
    }

    /// Only windows that begin before this time. Default: to the last.
    ///
    /// See the example of [`UsageQuery`].
    pub fn until(mut self, time: SystemTime) -> Self {
        self.until = wall(time);
        self
    }

    /// When the first window begins.
    pub(crate) fn first(&self) -> WallTime {
        self.window.start(self.since)
    }

    pub(crate) fn has(&self, start: WallTime) -> bool {
        self.first() <= start && start < self.until
    }
}

fn wall(time: SystemTime) -> WallTime {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    WallTime::from_millis(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

/// What an entity has consumed of a resource in one window of time.
///
/// See the example of [`RateLimiter::get_usage`](crate::RateLimiter::get_usage).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UsageSnapshot {
    /// Who.
    pub entity_id: String,
    /// Of what.
    pub resource: String,
    /// How long the window is.
    pub window: Window,
    /// When it begins, as RFC 3339 in UTC.
    pub window_start: String,
    /// When the next one begins.
    pub window_end: String,
    /// Tokens by limit: what was consumed, less what was taken back. It may be less than zero
    /// where what was consumed in an earlier window was taken back in this one.
    pub counters: BTreeMap<String, i64>,
    /// How many writes of the bucket were counted. In leased mode a write stands for many
    /// acquires.
    pub total_events: u64,
}

impl UsageSnapshot {
    /// A snapshot of the window that begins at `start`.
    pub(crate) fn new(
        entity_id: impl Into<String>,
        resource: impl Into<String>,
        window: Window,
        start: WallTime,
    ) -> Self {
        Self {
            entity_id: entity_id.into(),
            resource: resource.into(),
            window,
            window_start: timestamp(start),
            window_end: timestamp(window.end(start)),
            counters: BTreeMap::new(),
            total_events: 0,
        }
    }
}

/// Many snapshots in short.
///
/// See the example of [`RateLimiter::summarize_usage`](crate::RateLimiter::summarize_usage).
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct UsageSummary {
    /// How many windows there are in which anything was counted.
    pub windows: u64,
    /// How many writes of buckets were counted.
    pub total_events: u64,
    /// By limit.
    pub limits: BTreeMap<String, LimitUsage>,
}

/// The usage of one limit in many windows.
///
/// See the example of [`RateLimiter::summarize_usage`](crate::RateLimiter::summarize_usage).
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct LimitUsage {
    /// Tokens in all windows.
    pub total: i64,
    /// Tokens per window in which anything was counted.
    pub average: f64,
    /// Tokens in the window in which they were the most.
    pub peak: i64,
    /// When that window begins, as RFC 3339 in UTC.
    pub peak_window_start: String,
}

/// Snapshots, added up by window: what several entities or resources have in one belongs together.
#[derive(Debug, Default)]
struct Summing {
    starts: BTreeSet<String>,
    total_events: u64,
    limits: BTreeMap<String, BTreeMap<String, i64>>,
}

impl Summing {
    fn add(&mut self, snapshot: UsageSnapshot) {
        for (limit, tokens) in snapshot.counters {
            let starts = self.limits.entry(limit).or_default();
            *starts.entry(snapshot.window_start.clone()).or_default() += tokens;
        }
        self.starts.insert(snapshot.window_start);
        self.total_events += snapshot.total_events;
    }

    #[allow(clippy::cast_precision_loss)]
    fn summary(self) -> UsageSummary {
        let windows = self.starts.len() as u64;
        let limits = self.limits.into_iter().filter_map(|(limit, starts)| {
            let total = starts.values().sum();
            // Of two as high the first.
            let peak = starts.into_iter().rev().max_by_key(|(_, tokens)| *tokens);
            let (peak_window_start, peak) = peak?;
            let usage = LimitUsage {
                total,
                average: total as f64 / windows as f64,
                peak,
                peak_window_start,
            };
            Some((limit, usage))
        });
        UsageSummary {
            windows,
            total_events: self.total_events,
            limits: limits.collect(),
        }
    }
}

impl RateLimiter {
    /// One page of usage snapshots: of an entity by resource and time, of a resource by time and
    /// entity.
    ///
    /// What was consumed is counted within seconds after a bucket was written: in leased mode that
    /// is up to a renewal interval later, and counts for the window in which it happened all the
    /// same. What a failure mode let through is not counted.
    ///
    /// ```
    /// use std::time::Duration;
    /// use zae_limiter::{Limit, PageRequest, RateLimiter, UsageQuery};
    ///
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), zae_limiter::Error> {
    /// let limiter = RateLimiter::builder("my-app").in_memory().connect().await?;
    /// let limits = [Limit::per_minute("rpm", 100)?];
    /// let lease = limiter.acquire("user-1", "api").limits(&limits).consume("rpm", 3).strict(true).await?;
    /// drop(lease);
    /// let query = UsageQuery::entity("user-1")?;
    /// let usage = limiter.get_usage(&query, &PageRequest::default()).await?;
    /// assert_eq!(usage.items[0].counters["rpm"], 3);
    /// let summary = limiter.summarize_usage(&query).await?;
    /// assert_eq!(summary.limits["rpm"].peak, 3);
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// Those of the table.
    pub async fn get_usage(
        &self,
        query: &UsageQuery,
        page: &PageRequest,
    ) -> Result<Page<UsageSnapshot>, Error> {
        Ok(self.engine.store.read_usage(query, page).await?)
    }

    /// All snapshots of a query in short: totals, averages and peaks, by limit.
    ///
    /// ```
    /// # use zae_limiter::{Limit, RateLimiter, UsageQuery};
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), zae_limiter::Error> {
    /// # let limiter = RateLimiter::builder("my-app").in_memory().connect().await?;
    /// let limits = [Limit::per_day("tokens", 1_000)?];
    /// for tokens in [300, 120] {
    ///     let acquire = limiter.acquire("user-1", "gpt-4").limits(&limits).strict(true);
    ///     acquire.consume("tokens", tokens).await?.commit();
    /// }
    /// let usage = limiter.summarize_usage(&UsageQuery::entity("user-1")?).await?;
    /// assert_eq!((usage.total_events, usage.limits["tokens"].total), (2, 420));
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// Those of the table.
    pub async fn summarize_usage(&self, query: &UsageQuery) -> Result<UsageSummary, Error> {
        let mut summing = Summing::default();
        let mut request = PageRequest::default().size(1_000);
        loop {
            let page = self.engine.store.read_usage(query, &request).await?;
            page.items.into_iter().for_each(|item| summing.add(item));
            match page.next {
                Some(next) => request = request.after(next),
                None => return Ok(summing.summary()),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use zae_limiter_core::usage::parse_timestamp;

    #[test]
    fn what_several_have_in_one_window_belongs_together() {
        let mut summing = Summing::default();
        for (id, start, tokens) in [
            ("a", "2026-01-01T00:00:00Z", 5),
            ("b", "2026-01-01T00:00:00Z", 4),
            ("a", "2026-01-01T01:00:00Z", 8),
            ("a", "2026-01-01T02:00:00Z", -2),
        ] {
            let start = parse_timestamp(start).unwrap();
            let mut snapshot = UsageSnapshot::new(id, "api", Window::Hourly, start);
            snapshot.counters.insert("rpm".into(), tokens);
            snapshot.total_events = 2;
            summing.add(snapshot);
        }
        let summary = summing.summary();
        assert_eq!((summary.windows, summary.total_events), (3, 8));
        let usage = &summary.limits["rpm"];
        assert_eq!((usage.total, usage.peak), (15, 9));
        assert_eq!(usage.peak_window_start, "2026-01-01T00:00:00Z");
        assert!((usage.average - 5.0).abs() < 1e-9);
        assert_eq!(Summing::default().summary(), UsageSummary::default());
    }
}
