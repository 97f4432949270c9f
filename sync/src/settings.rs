//! How a limiter is set: plain data, from code, from a file, or from the environment.

use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::{Error, Share, ValidationError};

/// How acquires are paid.
///
/// ```
/// # use zae_limiter::{Mode, Settings};
/// assert_eq!(Settings::default().mode, Mode::leased());
/// let strict: Mode = serde_json::from_str(r#""strict""#).unwrap();
/// assert_eq!(strict, Mode::Strict);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// Every acquire is one conditional write: exact, and as slow as the table.
    Strict,
    /// Acquires are paid from a block of tokens that this process has debited in advance.
    Leased(LeasedOptions),
}

impl Mode {
    /// Leased mode as it is set by default.
    ///
    /// See the example of [`Mode`].
    #[must_use]
    pub fn leased() -> Self {
        Self::Leased(LeasedOptions::default())
    }
}

impl Default for Mode {
    fn default() -> Self {
        Self::leased()
    }
}

/// How blocks are held in leased mode. All processes of a table should have the same.
///
/// ```
/// # use zae_limiter::{LeasedOptions, Mode};
/// // Fewer writes; what a crash costs, and the bound, grow.
/// let mode = Mode::Leased(LeasedOptions { renewal_interval_ms: 2_000, lease_ttl_ms: 10_000 });
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LeasedOptions {
    /// How often a block in use is renewed, in milliseconds: at least 100, and many times what a write takes.
    /// Default: 1000.
    pub renewal_interval_ms: u64,
    /// How long a block is spendable, in milliseconds: at least three renewal intervals. It
    /// stands in the bound. Default: 5000.
    pub lease_ttl_ms: u64,
}

impl Default for LeasedOptions {
    fn default() -> Self {
        Self {
            renewal_interval_ms: 1_000,
            lease_ttl_ms: 5_000,
        }
    }
}

impl LeasedOptions {
    pub(crate) fn renewal_interval(&self) -> Duration {
        Duration::from_millis(self.renewal_interval_ms)
    }

    pub(crate) fn lease_ttl(&self) -> Duration {
        Duration::from_millis(self.lease_ttl_ms)
    }
}

/// What an acquire answers when it needs tokens of the table, and the table cannot be reached or
/// does not answer in time. Tokens in hand are spent in any mode, until their block expires.
///
/// Being denied permission, finding no table and a stored item that makes no sense are errors in
/// every mode, never admissions.
///
/// ```
/// use zae_limiter::{FailureMode, Share};
///
/// let twentieth = FailureMode::Local(Share::new(0.05).unwrap());
/// assert_eq!("local:0.05".parse(), Ok(twentieth));
/// assert_eq!("open".parse(), Ok(FailureMode::Open));
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FailureMode {
    /// [`Error::Unavailable`].
    #[default]
    Closed,
    /// It is admitted, whatever the limits are, and the lease says so
    /// ([`Lease::degraded`](crate::Lease::degraded)).
    Open,
    /// A bucket of this process alone decides, with this share of every limit's rate and burst,
    /// and the lease says so. With a share of one by the number of processes, the fleet admits
    /// as much as the limit allows, if demand is even; what is admitted is not charged to the
    /// table later. A request for more than the share of the burst is answered
    /// [`Error::Unavailable`].
    Local(Share),
}

impl FromStr for FailureMode {
    type Err = ValidationError;

    /// Reads `closed`, `open`, or `local:` and a share.
    fn from_str(text: &str) -> Result<Self, ValidationError> {
        match (text, text.strip_prefix("local:")) {
            ("closed", _) => Ok(Self::Closed),
            ("open", _) => Ok(Self::Open),
            (_, Some(share)) => {
                let number = share.parse().unwrap_or(f64::NAN);
                Share::new(number).map(Self::Local)
            }
            _ => {
                let rule = "is not one of closed, open, local:SHARE (as in local:0.05)";
                Err(ValidationError::new("failure mode", text, rule))
            }
        }
    }
}

/// All settings of a limiter that are plain data, as in a configuration file.
///
/// ```
/// use zae_limiter::{FailureMode, Mode, Settings};
///
/// let settings: Settings = serde_json::from_str(
///     r#"{ "mode": "strict", "failure_mode": "open" }"#,
/// ).unwrap();
/// assert_eq!(settings.mode, Mode::Strict);
/// assert_eq!(settings.failure_mode, FailureMode::Open);
///
/// let leased: Settings = serde_json::from_str(
///     r#"{ "mode": { "leased": { "renewal_interval_ms": 500 } } }"#,
/// ).unwrap();
/// assert!(matches!(leased.mode, Mode::Leased(options) if options.lease_ttl_ms == 5_000));
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// How acquires are paid. Default: leased.
    pub mode: Mode,
    /// What an acquire answers when the table cannot be reached. Default: closed.
    pub failure_mode: FailureMode,
    /// The AWS region. Default: what the AWS configuration says.
    pub region: Option<String>,
    /// Another endpoint than the region's, as a URL. Default: none.
    pub endpoint_url: Option<String>,
    /// How long an acquire waits for the table, in milliseconds. Default: 5000.
    pub acquire_timeout_ms: u64,
    /// How long the parent of an entity is taken for known, in milliseconds. Default: 30000.
    pub entity_ttl_ms: u64,
    /// How long stored limits are taken for known, in milliseconds. Default: 30000.
    pub limits_ttl_ms: u64,
    /// How many entities, and how many owners of stored limits, are remembered at most. What is
    /// used most stays. Default: 1000000.
    pub catalog_entries_max: u64,
    /// Whether an acquire that does not say whether it cascades does as the entity says
    /// ([`Entity::cascade`](crate::Entity::cascade)). The entity is then looked up for every such
    /// acquire, in memory as a rule. Default: false.
    pub cascade_by_entity: bool,
    /// How long a bucket that nobody uses stays in memory, in milliseconds. Default: 600000.
    pub idle_ttl_ms: u64,
    /// Whether connecting may write the version record that a table lacks. It does not bring
    /// functions up to date: see [`auto_update`](crate::RateLimiterBuilder::auto_update). Default:
    /// true.
    pub auto_update: bool,
    /// Whether functions that were deployed by a version too old for this one keep the limiter
    /// from connecting; else the log says so. Default: true.
    pub strict_version: bool,
    /// Whether the limiter connects to a table of whatever version. Default: false.
    pub skip_version_check: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            mode: Mode::default(),
            failure_mode: FailureMode::default(),
            region: None,
            endpoint_url: None,
            acquire_timeout_ms: 5_000,
            entity_ttl_ms: 30_000,
            limits_ttl_ms: 30_000,
            catalog_entries_max: 1_000_000,
            cascade_by_entity: false,
            idle_ttl_ms: 600_000,
            auto_update: true,
            strict_version: true,
            skip_version_check: false,
        }
    }
}

/// What is set in code, setting by setting: it wins over all else.
#[derive(Clone, Debug, Default)]
pub(crate) struct Overrides {
    pub(crate) mode: Option<Mode>,
    pub(crate) failure_mode: Option<FailureMode>,
    pub(crate) region: Option<String>,
    pub(crate) endpoint_url: Option<String>,
    pub(crate) auto_update: Option<bool>,
    pub(crate) strict_version: Option<bool>,
    pub(crate) skip_version_check: Option<bool>,
}

impl Overrides {
    pub(crate) fn over(self, settings: Settings) -> Settings {
        Settings {
            mode: self.mode.unwrap_or(settings.mode),
            failure_mode: self.failure_mode.unwrap_or(settings.failure_mode),
            region: self.region.or(settings.region),
            endpoint_url: self.endpoint_url.or(settings.endpoint_url),
            auto_update: self.auto_update.unwrap_or(settings.auto_update),
            strict_version: self.strict_version.unwrap_or(settings.strict_version),
            skip_version_check: (self.skip_version_check).unwrap_or(settings.skip_version_check),
            ..settings
        }
    }
}

/// The environment variable that overrides the mode: `strict` or `leased`.
///
/// See the example of [`Settings::overridden_by_environment`].
pub const MODE_VARIABLE: &str = "ZAE_LIMITER_MODE";
/// The environment variable that overrides the failure mode: `closed`, `open`, or `local:` and a
/// share, as in `local:0.05`.
///
/// See the example of [`Settings::overridden_by_environment`].
pub const FAILURE_MODE_VARIABLE: &str = "ZAE_LIMITER_FAILURE_MODE";
/// The environment variable that overrides [`Settings::auto_update`]: `true` or `false`.
///
/// See the example of [`Settings::overridden_by_environment`].
pub const AUTO_UPDATE_VARIABLE: &str = "ZAE_LIMITER_AUTO_UPDATE";
/// The environment variable that overrides [`Settings::strict_version`]: `true` or `false`.
///
/// See the example of [`Settings::overridden_by_environment`].
pub const STRICT_VERSION_VARIABLE: &str = "ZAE_LIMITER_STRICT_VERSION";
/// The environment variable that overrides [`Settings::skip_version_check`]: `true` or `false`.
///
/// See the example of [`Settings::overridden_by_environment`].
pub const SKIP_VERSION_CHECK_VARIABLE: &str = "ZAE_LIMITER_SKIP_VERSION_CHECK";

impl Settings {
    /// These settings with what the environment overrides: [`MODE_VARIABLE`],
    /// [`FAILURE_MODE_VARIABLE`], [`AUTO_UPDATE_VARIABLE`], [`STRICT_VERSION_VARIABLE`] and
    /// [`SKIP_VERSION_CHECK_VARIABLE`].
    ///
    /// ```
    /// # use zae_limiter::{Settings};
    /// use zae_limiter::settings::MODE_VARIABLE;
    ///
    /// // As connecting does: ZAE_LIMITER_MODE=strict would make it Mode::Strict.
    /// let settings = Settings::default().overridden_by_environment()?;
    /// if std::env::var_os(MODE_VARIABLE).is_none() {
    ///     assert_eq!(settings.mode, Settings::default().mode);
    /// }
    /// # Ok::<(), zae_limiter::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Settings`] if a variable holds something else than its words.
    pub fn overridden_by_environment(self) -> Result<Self, Error> {
        self.overridden_by(|name| std::env::var(name).ok())
    }

    fn overridden_by(mut self, variable: impl Fn(&str) -> Option<String>) -> Result<Self, Error> {
        let wrong = |name: &str, value: &str, words: &str| {
            Error::Settings(format!("{name}={value:?} is not one of {words}"))
        };
        if let Some(value) = variable(MODE_VARIABLE) {
            self.mode = match (value.as_str(), self.mode) {
                ("strict", _) => Mode::Strict,
                ("leased", Mode::Strict) => Mode::leased(),
                ("leased", leased) => leased,
                _ => return Err(wrong(MODE_VARIABLE, &value, "strict, leased")),
            };
        }
        if let Some(value) = variable(FAILURE_MODE_VARIABLE) {
            let found = value.parse();
            let wrong = |error| Error::Settings(format!("{FAILURE_MODE_VARIABLE}: {error}"));
            self.failure_mode = found.map_err(wrong)?;
        }
        for (name, setting) in [
            (AUTO_UPDATE_VARIABLE, &mut self.auto_update),
            (STRICT_VERSION_VARIABLE, &mut self.strict_version),
            (SKIP_VERSION_CHECK_VARIABLE, &mut self.skip_version_check),
        ] {
            if let Some(value) = variable(name) {
                let found = value.parse();
                *setting = found.map_err(|_| wrong(name, &value, "true, false"))?;
            }
        }
        Ok(self)
    }

    /// Checks all of it, and says all that is wrong.
    ///
    /// ```
    /// # use zae_limiter::{Settings};
    /// let settings = Settings { idle_ttl_ms: 0, catalog_entries_max: 0, ..Settings::default() };
    /// let error = settings.validate().unwrap_err().to_string();
    /// assert!(error.contains("idle_ttl_ms is 0") && error.contains("catalog_entries_max is 0"));
    /// ```
    ///
    /// # Errors
    /// [`Error::Settings`].
    pub fn validate(&self) -> Result<(), Error> {
        let mut wrong = Vec::new();
        if let Mode::Leased(options) = self.mode {
            let (renewal, ttl) = (options.renewal_interval_ms, options.lease_ttl_ms);
            if !(100..=3_600_000).contains(&renewal) {
                wrong.push(format!(
                    "renewal_interval_ms is {renewal}; it must be 100 to 3600000"
                ));
            }
            if ttl < renewal.saturating_mul(3) || ttl > 86_400_000 {
                wrong.push(format!(
                    "lease_ttl_ms is {ttl}; it must be at least three times \
                     renewal_interval_ms ({renewal}) and at most 86400000"
                ));
            }
        }
        for (name, value) in [
            ("acquire_timeout_ms", self.acquire_timeout_ms),
            ("entity_ttl_ms", self.entity_ttl_ms),
            ("limits_ttl_ms", self.limits_ttl_ms),
            ("idle_ttl_ms", self.idle_ttl_ms),
        ] {
            if !(1..=86_400_000).contains(&value) {
                wrong.push(format!("{name} is {value}; it must be 1 to 86400000"));
            }
        }
        if self.catalog_entries_max == 0 {
            wrong.push("catalog_entries_max is 0; it must be at least 1".to_owned());
        }
        if wrong.is_empty() {
            Ok(())
        } else {
            Err(Error::Settings(wrong.join("; ")))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_environment_overrides() {
        let strict = |name: &str| (name == MODE_VARIABLE).then(|| "strict".to_owned());
        let settings = Settings::default().overridden_by(strict).expect("a word");
        assert_eq!(settings.mode, Mode::Strict);
        let typo = |name: &str| (name == FAILURE_MODE_VARIABLE).then(|| "opne".to_owned());
        let error = Settings::default()
            .overridden_by(typo)
            .expect_err("no word");
        assert!(
            error.to_string().contains("ZAE_LIMITER_FAILURE_MODE")
                && error.to_string().contains("opne"),
            "{error}"
        );
        let local = |name: &str| (name == FAILURE_MODE_VARIABLE).then(|| "local:0.1".to_owned());
        let settings = Settings::default().overridden_by(local).expect("a word");
        let tenth = FailureMode::Local(Share::new(0.1).expect("a share"));
        assert_eq!(settings.failure_mode, tenth);
        let skip = |name: &str| (name == SKIP_VERSION_CHECK_VARIABLE).then(|| "true".to_owned());
        let settings = Settings::default().overridden_by(skip).expect("a word");
        assert!(settings.skip_version_check && settings.auto_update && settings.strict_version);
        let never = |name: &str| (name == STRICT_VERSION_VARIABLE).then(|| "never".to_owned());
        let error = Settings::default()
            .overridden_by(never)
            .expect_err("no word");
        assert!(
            error.to_string().contains("STRICT_VERSION=\"never\""),
            "{error}"
        );
    }

    #[test]
    fn what_code_says_wins() {
        let settings = Settings {
            auto_update: false,
            region: Some("us-east-1".to_owned()),
            endpoint_url: Some("http://there".to_owned()),
            ..Settings::default()
        };
        let overrides = Overrides {
            mode: Some(Mode::Strict),
            region: Some("eu-west-1".to_owned()),
            auto_update: Some(true),
            ..Overrides::default()
        };
        let expected = Settings {
            mode: Mode::Strict,
            region: Some("eu-west-1".to_owned()),
            endpoint_url: Some("http://there".to_owned()),
            ..Settings::default()
        };
        assert_eq!(overrides.over(settings), expected);
        assert_eq!(Overrides::default().over(expected.clone()), expected);
    }

    #[test]
    fn all_that_is_wrong_is_said_at_once() {
        let settings = Settings {
            mode: Mode::Leased(LeasedOptions {
                renewal_interval_ms: 1_000,
                lease_ttl_ms: 2_000,
            }),
            idle_ttl_ms: 0,
            ..Settings::default()
        };
        let error = settings.validate().expect_err("two mistakes").to_string();
        assert!(error.contains("lease_ttl_ms is 2000") && error.contains("idle_ttl_ms is 0"));
    }
}
