//! [`Limit`]: a named token bucket.

use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::{Terms, ValidationError, validate_name};

/// A named token bucket: it holds at most [`burst`](Limit::burst_tokens) tokens, and
/// `refill_amount` tokens flow in, evenly, in each `refill_period`.
///
/// ```
/// use zae_limiter_core::Limit;
///
/// let rpm = Limit::per_minute("rpm", 100)?;
/// let tpm = Limit::per_minute("tpm", 10_000)?.burst(50_000)?;
/// assert_eq!(rpm.burst_tokens(), 100);
/// assert_eq!(tpm.burst_tokens(), 50_000);
/// # Ok::<(), zae_limiter_core::ValidationError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "LimitFields", into = "LimitFields")]
pub struct Limit {
    name: Arc<str>,
    terms: Terms,
    fingerprint: u64,
}

#[derive(Serialize, Deserialize)]
struct LimitFields {
    name: String,
    #[serde(flatten)]
    terms: Terms,
}

impl TryFrom<LimitFields> for Limit {
    type Error = ValidationError;
    fn try_from(fields: LimitFields) -> Result<Self, ValidationError> {
        Self::new(&fields.name, fields.terms)
    }
}

impl From<Limit> for LimitFields {
    fn from(limit: Limit) -> Self {
        Self {
            name: limit.name.to_string(),
            terms: limit.terms,
        }
    }
}

/// Terms that nobody has checked yet.
#[derive(Deserialize)]
pub(crate) struct UncheckedTerms {
    capacity: u64,
    burst: u64,
    refill_amount: u64,
    refill_period_seconds: u64,
}

impl TryFrom<UncheckedTerms> for Terms {
    type Error = ValidationError;
    fn try_from(fields: UncheckedTerms) -> Result<Self, ValidationError> {
        let terms = Self {
            capacity: fields.capacity,
            burst: fields.burst,
            refill_amount: fields.refill_amount,
            refill_period_seconds: fields.refill_period_seconds,
        };
        terms.validate()?;
        Ok(terms)
    }
}

impl Terms {
    /// Checks the numbers, as [`Limit::new`] does.
    pub(crate) fn validate(&self) -> Result<(), ValidationError> {
        for (field, tokens) in [
            ("capacity", self.capacity),
            ("refill_amount", self.refill_amount),
            ("burst", self.burst),
        ] {
            if tokens == 0 {
                return Err(ValidationError::new(field, tokens, "must be positive"));
            }
            if tokens > Limit::TOKENS_MAX {
                let rule = format!("must be at most {} tokens", Limit::TOKENS_MAX);
                return Err(ValidationError::new(field, tokens, rule));
            }
        }
        if self.burst < self.capacity {
            let rule = format!("must be at least the capacity, {}", self.capacity);
            return Err(ValidationError::new("burst", self.burst, rule));
        }
        let (seconds, max) = (self.refill_period_seconds, Limit::PERIOD_MAX.as_secs());
        if seconds == 0 || seconds > max {
            let rule = format!("must be 1 to {max} seconds");
            return Err(ValidationError::new("refill_period", seconds, rule));
        }
        Ok(())
    }
}

impl Limit {
    /// The largest capacity, burst or refill amount, in tokens.
    ///
    /// With it every quantity that the table stores fits DynamoDB's 38 digits.
    pub const TOKENS_MAX: u64 = 1_000_000_000_000;
    /// The longest refill period: ten years of 365 days.
    pub const PERIOD_MAX: Duration = Duration::from_secs(10 * 365 * 86_400);

    /// A limit with all its numbers given.
    ///
    /// See the example of [`Terms`].
    ///
    /// # Errors
    /// [`ValidationError`] if the name is not one ([`validate_name`]), if a number is zero or
    /// over [`TOKENS_MAX`](Self::TOKENS_MAX) or [`PERIOD_MAX`](Self::PERIOD_MAX), or if `burst`
    /// is below `capacity`.
    pub fn new(name: &str, terms: Terms) -> Result<Self, ValidationError> {
        validate_name("limit name", name)?;
        terms.validate()?;
        // Fixed seeds: what limits are called is the application's choice, not its users'.
        let hasher = ahash::RandomState::with_seeds(1, 2, 3, 4);
        Ok(Self {
            name: name.into(),
            terms,
            fingerprint: hasher.hash_one((name, terms)),
        })
    }

    fn per(name: &str, capacity: u64, seconds: u64) -> Result<Self, ValidationError> {
        Self::custom(name, capacity, capacity, Duration::from_secs(seconds))
    }

    /// `capacity` tokens per second; holds at most as many.
    ///
    /// ```
    /// # use zae_limiter_core::Limit;
    /// let limit = Limit::per_second("rps", 50)?;
    /// assert_eq!((limit.refill_amount(), limit.refill_period().as_secs()), (50, 1));
    /// # Ok::<(), zae_limiter_core::ValidationError>(())
    /// ```
    ///
    /// # Errors
    /// As [`Limit::new`].
    pub fn per_second(name: &str, capacity: u64) -> Result<Self, ValidationError> {
        Self::per(name, capacity, 1)
    }

    /// `capacity` tokens per minute; holds at most as many.
    ///
    /// ```
    /// # use zae_limiter_core::Limit;
    /// let limit = Limit::per_minute("rpm", 90)?;
    /// assert_eq!(limit.tokens_per_second(), 1.5);
    /// # Ok::<(), zae_limiter_core::ValidationError>(())
    /// ```
    ///
    /// # Errors
    /// As [`Limit::new`].
    pub fn per_minute(name: &str, capacity: u64) -> Result<Self, ValidationError> {
        Self::per(name, capacity, 60)
    }

    /// `capacity` tokens per hour; holds at most as many.
    ///
    /// ```
    /// # use zae_limiter_core::Limit;
    /// let limit = Limit::per_hour("exports", 10)?;
    /// assert_eq!((limit.name(), limit.capacity()), ("exports", 10));
    /// # Ok::<(), zae_limiter_core::ValidationError>(())
    /// ```
    ///
    /// # Errors
    /// As [`Limit::new`].
    pub fn per_hour(name: &str, capacity: u64) -> Result<Self, ValidationError> {
        Self::per(name, capacity, 3_600)
    }

    /// `capacity` tokens per day; holds at most as many.
    ///
    /// ```
    /// # use zae_limiter_core::Limit;
    /// let limit = Limit::per_day("tokens", 1_000_000)?;
    /// assert_eq!(limit.refill_period().as_secs(), 86_400);
    /// # Ok::<(), zae_limiter_core::ValidationError>(())
    /// ```
    ///
    /// # Errors
    /// As [`Limit::new`].
    pub fn per_day(name: &str, capacity: u64) -> Result<Self, ValidationError> {
        Self::per(name, capacity, 86_400)
    }

    /// A bucket of `capacity` tokens into which `refill_amount` tokens flow per `refill_period`,
    /// a whole number of seconds.
    ///
    /// ```
    /// use std::time::Duration;
    /// use zae_limiter_core::Limit;
    ///
    /// // 100 tokens to spend at once; 10 come back every 30 seconds.
    /// let limit = Limit::custom("jobs", 100, 10, Duration::from_secs(30))?;
    /// assert_eq!(limit.refill_amount(), 10);
    /// # Ok::<(), zae_limiter_core::ValidationError>(())
    /// ```
    ///
    /// # Errors
    /// As [`Limit::new`]; also if the period is not a whole number of seconds.
    pub fn custom(
        name: &str,
        capacity: u64,
        refill_amount: u64,
        refill_period: Duration,
    ) -> Result<Self, ValidationError> {
        if refill_period.subsec_nanos() != 0 {
            let value = format!("{refill_period:?}");
            let rule = "must be a whole number of seconds";
            return Err(ValidationError::new("refill_period", value, rule));
        }
        let terms = Terms {
            capacity,
            burst: capacity,
            refill_amount,
            refill_period_seconds: refill_period.as_secs(),
        };
        Self::new(name, terms)
    }

    /// The same limit, holding at most `tokens`. Default: the capacity.
    ///
    /// ```
    /// # use zae_limiter_core::Limit;
    /// let limit = Limit::per_minute("tpm", 10_000)?.burst(50_000)?;
    /// assert_eq!((limit.capacity(), limit.burst_tokens()), (10_000, 50_000));
    /// assert!(limit.burst(9_999).is_err());
    /// # Ok::<(), zae_limiter_core::ValidationError>(())
    /// ```
    ///
    /// # Errors
    /// [`ValidationError`] if `tokens` is below the capacity or over
    /// [`TOKENS_MAX`](Self::TOKENS_MAX).
    pub fn burst(self, tokens: u64) -> Result<Self, ValidationError> {
        let terms = Terms {
            burst: tokens,
            ..self.terms
        };
        Self::new(&self.name, terms)
    }

    /// What the limit is called.
    ///
    /// See the example of [`per_hour`](Self::per_hour).
    #[inline]
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// A hash of all of it, to tell sets of limits apart at the price of a comparison.
    #[inline]
    pub(crate) fn fingerprint(&self) -> u64 {
        self.fingerprint
    }

    pub(crate) fn shared_name(&self) -> &Arc<str> {
        &self.name
    }

    /// All its numbers.
    ///
    /// See the example of [`Terms`].
    #[must_use]
    pub fn terms(&self) -> &Terms {
        &self.terms
    }

    /// Tokens per period, as declared.
    ///
    /// See the example of [`burst`](Self::burst).
    #[must_use]
    pub fn capacity(&self) -> u64 {
        self.terms.capacity
    }

    /// The most tokens that the bucket holds.
    ///
    /// See the example of [`burst`](Self::burst).
    #[inline]
    #[must_use]
    pub fn burst_tokens(&self) -> u64 {
        self.terms.burst
    }

    /// Tokens that flow in during each period.
    ///
    /// See the example of [`custom`](Self::custom).
    #[must_use]
    pub fn refill_amount(&self) -> u64 {
        self.terms.refill_amount
    }

    /// The refill period.
    ///
    /// See the example of [`per_second`](Self::per_second).
    #[must_use]
    pub fn refill_period(&self) -> Duration {
        Duration::from_secs(self.terms.refill_period_seconds)
    }

    /// Tokens that flow in per second.
    ///
    /// See the example of [`per_minute`](Self::per_minute).
    #[must_use]
    #[allow(clippy::cast_precision_loss)]
    pub fn tokens_per_second(&self) -> f64 {
        self.terms.refill_amount as f64 / self.terms.refill_period_seconds as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_name_field_value_and_rule() {
        let zero = Limit::per_second("rps", 0).unwrap_err();
        assert_eq!(zero.to_string(), "invalid capacity \"0\": must be positive");
        let burst = Limit::per_second("rps", 10).and_then(|l| l.burst(9));
        assert!(
            burst
                .unwrap_err()
                .to_string()
                .contains("at least the capacity, 10")
        );
        let half = Limit::custom("x", 1, 1, Duration::from_millis(500));
        assert_eq!(half.unwrap_err().field(), "refill_period");
        assert!(Limit::custom("x", 1, 0, Duration::from_secs(1)).is_err());
        assert!(Limit::per_second("x", u64::MAX).is_err());
        assert!(Limit::per_second("4x", 1).is_err());
    }

    #[test]
    fn terms_are_checked_wherever_they_come_from() {
        for broken in [
            "capacity",
            "burst",
            "refill_amount",
            "refill_period_seconds",
        ] {
            let number = |field| u64::from(field != broken);
            let terms = serde::de::value::MapDeserializer::<_, serde::de::value::Error>::new(
                [
                    "capacity",
                    "burst",
                    "refill_amount",
                    "refill_period_seconds",
                ]
                .into_iter()
                .map(|field| (field, number(field))),
            );
            let error = Terms::deserialize(terms).unwrap_err().to_string();
            assert!(error.contains("must be"), "{broken}: {error}");
        }
    }
}
