//! A rejection: how each limit stood, how long to wait, and what to tell an HTTP client.

use std::time::Duration;

use serde::{Deserialize, Serialize, Serializer};
use serde_json::Value;

use crate::{Limit, ValidationError, http};

/// The shortest `retry_after` of a limit that refused. Where refill came in between the refusal and
/// the answer, less would say "at once".
pub(crate) const RETRY_AFTER_MIN: Duration = Duration::from_millis(1);

/// One limit, as it stands for an acquire.
///
/// ```
/// # use zae_limiter::{Limit, RateLimiter};
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), zae_limiter::Error> {
/// # let limiter = RateLimiter::builder("my-app").in_memory().connect().await?;
/// let limits = [Limit::per_day("jobs", 10)?];
/// let acquire = || limiter.acquire("user", "batch").limits(&limits);
/// acquire().consume("jobs", 8).await?.commit();
/// let status = &acquire().consume("jobs", 5).check().await?[0];
/// assert_eq!((status.available, status.requested, status.exceeded), (2, 5, true));
/// assert_eq!(status.deficit(), 3);
/// # Ok(()) }
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Unchecked")]
pub struct LimitStatus {
    /// Whose bucket it is: the entity or its parent.
    pub entity_id: String,
    /// Of what.
    pub resource: String,
    /// The limit.
    pub limit: Limit,
    /// Tokens that the bucket holds for this acquire, as far as this process knows: the
    /// [estimate](crate::Available::estimate), without what callers in the queue wait for. Where the
    /// limit refused, it is less than was asked for. Negative: debt, or refill to come that is
    /// spoken for.
    pub available: i64,
    /// Tokens that were asked for.
    pub requested: u64,
    /// Whether this limit refused.
    pub exceeded: bool,
    /// How long until the tokens may be had; zero if they are there. Never zero where the limit
    /// refused: in a [`RateLimitExceeded`] that is a millisecond at least.
    pub retry_after: Duration,
}

impl LimitStatus {
    /// Tokens that are missing of what was asked for.
    ///
    /// See the example of [`LimitStatus`].
    #[must_use]
    pub fn deficit(&self) -> u64 {
        let missing = i128::from(self.requested) - i128::from(self.available);
        u64::try_from(missing.max(0)).unwrap_or(u64::MAX)
    }
}

/// A status as it is deserialised.
#[derive(Deserialize)]
struct Unchecked {
    entity_id: String,
    resource: String,
    limit: Limit,
    available: i64,
    requested: u64,
    exceeded: bool,
    retry_after: Duration,
}

impl TryFrom<Unchecked> for LimitStatus {
    type Error = ValidationError;

    fn try_from(unchecked: Unchecked) -> Result<Self, ValidationError> {
        let Unchecked {
            entity_id,
            resource,
            limit,
            available,
            requested,
            exceeded,
            retry_after,
        } = unchecked;
        let status = Self {
            entity_id,
            resource,
            limit,
            available,
            requested,
            exceeded,
            retry_after,
        };
        let lacks = status.deficit() > 0 && status.requested > 0;
        if status.exceeded && (!lacks || status.retry_after.is_zero()) {
            let rule = "needs more requested than available, and a retry_after of more than zero";
            return Err(ValidationError::new("exceeded", true, rule));
        }
        Ok(status)
    }
}

/// An acquire that the limits do not allow now. Nothing was consumed.
///
/// Serialised it is what the Python library calls `as_dict`, fit to be the body of a response
/// with status 429:
///
/// ```
/// # use zae_limiter::{Limit, RateLimiter};
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), zae_limiter::Error> {
/// # let limiter = RateLimiter::builder("my-app").in_memory().connect().await?;
/// # let limits = [Limit::per_minute("rpm", 100)?];
/// # let acquire = || limiter.acquire("user-1", "gpt-4").limits(&limits);
/// # acquire().consume("rpm", 100).await.map(drop)?;
/// # let refused = acquire().consume("rpm", 20).await.map(drop).unwrap_err();
/// # let exceeded = refused.as_exceeded().unwrap();
/// let body = serde_json::to_value(exceeded).unwrap();
/// assert_eq!(body["error"], "rate_limit_exceeded");
/// assert_eq!(body["limits"][0]["limit_name"], "rpm");
/// assert_eq!(body["limits"][0]["requested"], 20);
/// let headers = [
///     ("Retry-After", exceeded.retry_after_header()),
///     ("RateLimit-Policy", exceeded.rate_limit_policy_header()),
///     ("RateLimit", exceeded.rate_limit_header()),
/// ];
/// assert_eq!(headers[0].1, "12");
/// assert_eq!(headers[1].1, r#""rpm";q=100;w=60"#);
/// assert_eq!(headers[2].1, r#""rpm";r=0;t=12"#);
/// # Ok(()) }
/// ```
///
/// | field | |
/// |---|---|
/// | `error` | `"rate_limit_exceeded"` |
/// | `message` | a sentence for people |
/// | `retry_after_seconds`, `retry_after_ms` | [`retry_after`](Self::retry_after); the latter rounded up |
/// | `limits` | of each status `entity_id`, `resource`, `limit_name`, `capacity`, `burst`, `available`, `requested`, `exceeded`, `retry_after_seconds` |
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}", self.message())]
pub struct RateLimitExceeded {
    statuses: Vec<LimitStatus>,
}

impl RateLimitExceeded {
    /// A refusal by the limits that are exceeded. If refill has come in since they refused, so
    /// that none is any more, it is the one that lacks most of those that `may_have`. None if no
    /// token was asked for: then there is nothing to refuse.
    ///
    /// Each limit that refused lacks something, and takes [`RETRY_AFTER_MIN`] at least.
    pub(crate) fn new(
        mut statuses: Vec<LimitStatus>,
        may_have: impl Fn(&LimitStatus) -> bool,
    ) -> Option<Self> {
        for status in &mut statuses {
            status.exceeded &= status.requested > 0;
        }
        if !statuses.iter().any(|status| status.exceeded) {
            let asked = statuses.iter_mut().filter(|status| status.requested > 0);
            let lacks = |status: &&mut LimitStatus| {
                (may_have(status), status.retry_after, status.deficit())
            };
            asked.max_by_key(lacks)?.exceeded = true;
        }
        for status in statuses.iter_mut().filter(|status| status.exceeded) {
            // What was refused is not there, though an estimate may say otherwise.
            let requested = i64::try_from(status.requested).unwrap_or(i64::MAX);
            status.available = status.available.min(requested - 1);
            status.retry_after = status.retry_after.max(RETRY_AFTER_MIN);
        }
        Some(Self { statuses })
    }

    /// Every limit of the acquire.
    ///
    /// ```
    /// # use zae_limiter::{Limit, RateLimiter};
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), zae_limiter::Error> {
    /// # let limiter = RateLimiter::builder("my-app").in_memory().connect().await?;
    /// let limits = [Limit::per_day("jobs", 10)?, Limit::per_hour("pages", 100)?];
    /// let acquire = || limiter.acquire("user", "batch").limits(&limits).consume("jobs", 10);
    /// acquire().await?.commit();
    /// let refused = acquire().consume("pages", 1).await.unwrap_err();
    /// let exceeded = refused.as_exceeded().unwrap();
    /// assert_eq!(exceeded.statuses().len(), 2);
    /// assert_eq!(exceeded.passed().next().unwrap().limit.name(), "pages");
    /// assert_eq!(exceeded.violations().count(), 1);
    /// let primary = exceeded.primary_violation().unwrap();
    /// assert_eq!(primary.limit.name(), "jobs");
    /// assert_eq!(exceeded.retry_after(), primary.retry_after);
    /// # Ok(()) }
    /// ```
    #[must_use]
    pub fn statuses(&self) -> &[LimitStatus] {
        &self.statuses
    }

    /// The limits that refused: one at least. Each has less available than was asked for, and a
    /// `retry_after` of a millisecond at least.
    ///
    /// See the example of [`statuses`](Self::statuses).
    pub fn violations(&self) -> impl Iterator<Item = &LimitStatus> {
        self.statuses.iter().filter(|status| status.exceeded)
    }

    /// The limits that did not.
    ///
    /// See the example of [`statuses`](Self::statuses).
    pub fn passed(&self) -> impl Iterator<Item = &LimitStatus> {
        self.statuses.iter().filter(|status| !status.exceeded)
    }

    /// The limit that takes longest; there always is one.
    ///
    /// See the example of [`statuses`](Self::statuses).
    #[must_use]
    pub fn primary_violation(&self) -> Option<&LimitStatus> {
        self.violations().max_by_key(|status| status.retry_after)
    }

    /// How long until all of it may be had: a millisecond at least, for a refusal never says "at
    /// once".
    ///
    /// See the example of [`statuses`](Self::statuses).
    #[must_use]
    pub fn retry_after(&self) -> Duration {
        let longest = self.primary_violation();
        longest.map_or(Duration::ZERO, |status| status.retry_after)
    }

    /// The value of the HTTP field `Retry-After`: whole seconds, rounded up, so 1 at least.
    ///
    /// See the example of [`RateLimitExceeded`].
    #[must_use]
    pub fn retry_after_header(&self) -> String {
        http::seconds(self.retry_after()).to_string()
    }

    /// The value of the HTTP field `RateLimit`: [`http::rate_limit`].
    ///
    /// See the example of [`RateLimitExceeded`].
    #[must_use]
    pub fn rate_limit_header(&self) -> String {
        http::rate_limit(&self.statuses)
    }

    /// The value of the HTTP field `RateLimit-Policy`: [`http::rate_limit_policy`].
    ///
    /// See the example of [`RateLimitExceeded`].
    #[must_use]
    pub fn rate_limit_policy_header(&self) -> String {
        http::rate_limit_policy(&self.statuses)
    }

    /// The serialised form as a JSON value, to add to.
    ///
    /// ```
    /// # use zae_limiter::{Limit, RateLimiter};
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), zae_limiter::Error> {
    /// # let limiter = RateLimiter::builder("my-app").in_memory().connect().await?;
    /// # let limits = [Limit::per_minute("rpm", 100)?];
    /// # let acquire = || limiter.acquire("user-1", "gpt-4").limits(&limits).consume("rpm", 100);
    /// # acquire().await?.commit();
    /// # let refused = acquire().await.unwrap_err();
    /// # let exceeded = refused.as_exceeded().unwrap();
    /// let mut body = exceeded.as_json();
    /// body["support"] = "https://example.com/limits".into();
    /// assert_eq!(body["error"], "rate_limit_exceeded");
    /// # Ok(()) }
    /// ```
    #[must_use]
    pub fn as_json(&self) -> Value {
        // Strings, numbers and flags: there is nothing in it that JSON does not have.
        serde_json::to_value(self).unwrap_or_default()
    }

    fn message(&self) -> String {
        let Some(first) = self.primary_violation() else {
            return "rate limit exceeded".to_owned();
        };
        let names: Vec<_> = self.violations().map(|s| s.limit.name()).collect();
        format!(
            "rate limit exceeded for {}/{}: [{}], retry after {:.3} s",
            first.entity_id,
            first.resource,
            names.join(", "),
            self.retry_after().as_secs_f64()
        )
    }
}

/// The form of a rejection that leaves the process.
#[derive(Serialize)]
struct Body<'a> {
    error: &'static str,
    message: String,
    retry_after_seconds: f64,
    retry_after_ms: u64,
    limits: Vec<BodyLimit<'a>>,
}

#[derive(Serialize)]
struct BodyLimit<'a> {
    entity_id: &'a str,
    resource: &'a str,
    limit_name: &'a str,
    capacity: u64,
    burst: u64,
    available: i64,
    requested: u64,
    exceeded: bool,
    retry_after_seconds: f64,
}

impl<'a> From<&'a LimitStatus> for BodyLimit<'a> {
    fn from(status: &'a LimitStatus) -> Self {
        Self {
            entity_id: &status.entity_id,
            resource: &status.resource,
            limit_name: status.limit.name(),
            capacity: status.limit.capacity(),
            burst: status.limit.burst_tokens(),
            available: status.available,
            requested: status.requested,
            exceeded: status.exceeded,
            retry_after_seconds: status.retry_after.as_secs_f64(),
        }
    }
}

impl Serialize for RateLimitExceeded {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let retry_after = self.retry_after();
        let milliseconds = retry_after.as_nanos().div_ceil(1_000_000);
        let body = Body {
            error: "rate_limit_exceeded",
            message: self.message(),
            retry_after_seconds: retry_after.as_secs_f64(),
            retry_after_ms: u64::try_from(milliseconds).unwrap_or(u64::MAX),
            limits: self.statuses.iter().map(BodyLimit::from).collect(),
        };
        body.serialize(serializer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn status(name: &str, exceeded: bool, retry_after: Duration) -> LimitStatus {
        LimitStatus {
            entity_id: "user-1".into(),
            resource: "gpt-4".into(),
            limit: Limit::per_minute(name, 100)
                .and_then(|limit| limit.burst(150))
                .unwrap(),
            available: -4,
            requested: 8,
            exceeded,
            retry_after,
        }
    }

    #[test]
    fn its_json_has_the_fields_of_the_python_library() {
        let statuses = vec![
            status("tpm", false, Duration::ZERO),
            status("rpm", true, Duration::from_micros(7_200_001)),
        ];
        let exceeded = RateLimitExceeded::new(statuses, |_| false).unwrap();
        let limit = |name: &str, exceeded: bool, retry_after: f64| {
            json!({
                "entity_id": "user-1", "resource": "gpt-4", "limit_name": name,
                "capacity": 100, "burst": 150, "available": -4, "requested": 8,
                "exceeded": exceeded, "retry_after_seconds": retry_after,
            })
        };
        let expected = json!({
            "error": "rate_limit_exceeded",
            "message": "rate limit exceeded for user-1/gpt-4: [rpm], retry after 7.200 s",
            "retry_after_seconds": 7.200_001,
            "retry_after_ms": 7_201,
            "limits": [limit("tpm", false, 0.0), limit("rpm", true, 7.200_001)],
        });
        assert_eq!(exceeded.as_json(), expected);
    }

    fn statuses() -> impl Strategy<Value = Vec<LimitStatus>> {
        let retry_after = prop_oneof![
            Just(Duration::ZERO),
            (1..2_000_000_u64).prop_map(Duration::from_nanos),
            any::<Duration>(),
        ];
        let requested = prop_oneof![Just(0), 1..100_u64, any::<u64>()];
        let one = (any::<i64>(), requested, any::<bool>(), retry_after);
        let one = one.prop_map(
            |(available, requested, exceeded, retry_after)| LimitStatus {
                available,
                requested,
                ..status("rpm", exceeded, retry_after)
            },
        );
        prop::collection::vec(one, 0..5)
    }

    proptest! {
        #[test]
        fn whatever_refuses_a_refusal_names_what_lacks_and_never_says_at_once(
            statuses in statuses(), may_have in any::<bool>(),
        ) {
            let asked = statuses.iter().any(|status| status.requested > 0);
            let exceeded = RateLimitExceeded::new(statuses.clone(), |_| may_have);
            prop_assert_eq!(exceeded.is_some(), asked);
            let Some(exceeded) = exceeded else { return Ok(()) };
            prop_assert!(exceeded.violations().count() > 0);
            prop_assert_eq!(exceeded.statuses().len(), statuses.len());
            for (status, before) in exceeded.statuses().iter().zip(&statuses) {
                if status.exceeded {
                    prop_assert!(status.requested > 0 && status.deficit() > 0);
                    prop_assert_eq!(status.retry_after, before.retry_after.max(RETRY_AFTER_MIN));
                    let json = serde_json::to_value(status).unwrap();
                    prop_assert_eq!(&serde_json::from_value::<LimitStatus>(json).unwrap(), status);
                } else {
                    prop_assert!(!before.exceeded || before.requested == 0);
                }
            }
            prop_assert_ne!(exceeded.retry_after_header(), "0");
            prop_assert!(exceeded.rate_limit_header().contains(";t="));
        }
    }

    #[test]
    fn of_those_that_may_have_refused_it_is_the_one_that_lacks_most() {
        let millis = Duration::from_millis;
        let named = |statuses, may_have: &str| {
            let may_have = |status: &LimitStatus| status.limit.name() == may_have;
            let exceeded = RateLimitExceeded::new(statuses, may_have).unwrap();
            let names = exceeded.violations().map(|status| status.limit.name());
            names.collect::<Vec<_>>().join(" ")
        };
        let statuses = || vec![status("a", false, millis(9)), status("b", false, millis(2))];
        assert_eq!(named(statuses(), "neither"), "a");
        assert_eq!(named(statuses(), "b"), "b");
    }

    #[test]
    fn the_longest_wait_is_the_primary_one() {
        let seconds = Duration::from_secs;
        let statuses = vec![
            status("a", true, seconds(2)),
            status("b", true, seconds(9)),
            status("c", false, seconds(30)),
        ];
        let exceeded = RateLimitExceeded::new(statuses, |_| false).unwrap();
        assert_eq!(exceeded.primary_violation(), Some(&exceeded.statuses()[1]));
        assert_eq!(exceeded.retry_after(), seconds(9));
        assert_eq!(exceeded.passed().count(), 1);
        assert_eq!(exceeded.statuses()[0].deficit(), 12);
    }
}
