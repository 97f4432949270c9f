//! [`StackOptions`]: what can be chosen about a stack, and the rules for it.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use zae_limiter_core::ValidationError;
use zae_limiter_core::usage::Window;

use crate::StackError;

/// The program that the aggregator's package is made of, as it is installed.
pub const AGGREGATOR_PROGRAM: &str = "zae-limiter-aggregator";
/// For how many days CloudWatch can be told to keep logs.
pub const LOG_RETENTION_DAYS: [u32; 22] = [
    1, 3, 5, 7, 14, 30, 60, 90, 120, 150, 180, 365, 400, 545, 731, 1096, 1827, 2192, 2557, 2922,
    3288, 3653,
];
/// The longest name of a role.
const ROLE_NAME_LEN_MAX: usize = 64;
/// The longest that a format of roles' names may be without its placeholder.
const ROLE_FORMAT_LEN_MAX: usize = 40;

/// What a stack is to be: plain data, from code or from a file.
///
/// Nothing is checked before a stack is deployed; [`validate`](Self::validate) does it earlier.
///
/// ```
/// use zae_limiter_infra::StackOptions;
///
/// let options = StackOptions::default().pitr_recovery_days(7).log_retention_days(90);
/// options.validate().unwrap();
///
/// let same: StackOptions = serde_json::from_str(
///     r#"{ "pitr_recovery_days": 7, "log_retention_days": 90 }"#,
/// ).unwrap();
/// assert_eq!(options, same);
///
/// let error = options.lambda_timeout(0).retention_days(0).validate().unwrap_err().to_string();
/// assert!(error.contains("lambda_timeout") && error.contains("retention_days"), "{error}");
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[must_use]
pub struct StackOptions {
    snapshot_windows: String,
    retention_days: u32,
    enable_aggregator: bool,
    pitr_recovery_days: Option<u32>,
    log_retention_days: u32,
    lambda_timeout: u32,
    lambda_memory: u32,
    enable_alarms: bool,
    alarm_sns_topic: Option<String>,
    lambda_duration_threshold_pct: u32,
    permission_boundary: Option<String>,
    role_name_format: Option<String>,
    deletion_protection: bool,
    encryption_key: String,
    enable_policies: bool,
    enable_dashboard: bool,
    artifact_bucket: Option<String>,
    aggregator_program: Option<PathBuf>,
}

impl Default for StackOptions {
    fn default() -> Self {
        Self {
            snapshot_windows: "hourly,daily".to_owned(),
            retention_days: 90,
            enable_aggregator: true,
            pitr_recovery_days: None,
            log_retention_days: 30,
            lambda_timeout: 60,
            lambda_memory: 256,
            enable_alarms: true,
            alarm_sns_topic: None,
            lambda_duration_threshold_pct: 80,
            permission_boundary: None,
            role_name_format: None,
            deletion_protection: false,
            encryption_key: "aws-owned".to_owned(),
            enable_policies: true,
            enable_dashboard: true,
            artifact_bucket: None,
            aggregator_program: None,
        }
    }
}

impl StackOptions {
    /// Over which windows usage is summed up: some of `hourly`, `daily` and `monthly`, separated
    /// by commas. Default: `hourly,daily`.
    pub fn snapshot_windows(mut self, windows: impl Into<String>) -> Self {
        self.snapshot_windows = windows.into();
        self
    }

    /// For how many days usage snapshots are kept: 1 to 3650. Default: 90.
    pub fn retention_days(mut self, days: u32) -> Self {
        self.retention_days = days;
        self
    }

    /// Whether usage snapshots are written, by a function in Lambda. Default: true.
    pub fn enable_aggregator(mut self, enable: bool) -> Self {
        self.enable_aggregator = enable;
        self
    }

    /// For how many days the table can be restored to any point in time: 1 to 35. Default: not
    /// at all.
    pub fn pitr_recovery_days(mut self, days: u32) -> Self {
        self.pitr_recovery_days = Some(days);
        self
    }

    /// For how many days the aggregator's log is kept: one of [`LOG_RETENTION_DAYS`]. Default: 30.
    pub fn log_retention_days(mut self, days: u32) -> Self {
        self.log_retention_days = days;
        self
    }

    /// How long one run of the aggregator may take, in seconds: 1 to 900. Default: 60.
    pub fn lambda_timeout(mut self, seconds: u32) -> Self {
        self.lambda_timeout = seconds;
        self
    }

    /// The memory of the aggregator, in MB: 128 to 3008. Default: 256.
    pub fn lambda_memory(mut self, megabytes: u32) -> Self {
        self.lambda_memory = megabytes;
        self
    }

    /// Whether there are alarms. Default: true.
    pub fn enable_alarms(mut self, enable: bool) -> Self {
        self.enable_alarms = enable;
        self
    }

    /// The topic that every alarm notifies, by its ARN. Default: none.
    pub fn alarm_sns_topic(mut self, arn: impl Into<String>) -> Self {
        self.alarm_sns_topic = Some(arn.into());
        self
    }

    /// The average duration of the aggregator that raises the alarm, in percent of its timeout:
    /// 1 to 100. Default: 80.
    pub fn lambda_duration_threshold_pct(mut self, percent: u32) -> Self {
        self.lambda_duration_threshold_pct = percent;
        self
    }

    /// The policy that bounds the aggregator's role, by its name in the account or by its ARN.
    /// Default: none.
    pub fn permission_boundary(mut self, policy: impl Into<String>) -> Self {
        self.permission_boundary = Some(policy.into());
        self
    }

    /// How the aggregator's role is called, with `{}` where `ZAEL-{name}-aggregator-role` is to
    /// stand. Default: CloudFormation makes up a name that begins with the stack's.
    pub fn role_name_format(mut self, format: impl Into<String>) -> Self {
        self.role_name_format = Some(format.into());
        self
    }

    /// Whether the table refuses to be deleted, and with it the stack. Default: false.
    pub fn deletion_protection(mut self, protect: bool) -> Self {
        self.deletion_protection = protect;
        self
    }

    /// With which key the table is encrypted: `aws-owned` (DynamoDB's own), `aws-managed` (the
    /// account's for DynamoDB, has a price), or a key of one's own: its id, `alias/NAME`, or the
    /// ARN of either. Default: `aws-owned`.
    pub fn encryption_key(mut self, key: impl Into<String>) -> Self {
        self.encryption_key = key.into();
        self
    }

    /// Whether there are managed policies for applications: acquire only, admin, read only.
    /// Default: true.
    pub fn enable_policies(mut self, enable: bool) -> Self {
        self.enable_policies = enable;
        self
    }

    /// Whether there is a dashboard. Default: true.
    pub fn enable_dashboard(mut self, enable: bool) -> Self {
        self.enable_dashboard = enable;
        self
    }

    /// The bucket, in the stack's region, that the aggregator's package is uploaded to. Default:
    /// one that all stacks of the account and region share; it is created with the first of them
    /// and deleted with the last.
    pub fn artifact_bucket(mut self, bucket: impl Into<String>) -> Self {
        self.artifact_bucket = Some(bucket.into());
        self
    }

    /// The program that the aggregator's package is made of. Default: the
    /// [`AGGREGATOR_PROGRAM`] beside the running program, else the one in `PATH`, else what the
    /// stack has already.
    pub fn aggregator_program(mut self, path: impl Into<PathBuf>) -> Self {
        self.aggregator_program = Some(path.into());
        self
    }

    pub(crate) fn has_aggregator(&self) -> bool {
        self.enable_aggregator
    }

    pub(crate) fn program(&self) -> Option<&Path> {
        self.aggregator_program.as_deref()
    }

    pub(crate) fn bucket(&self) -> Option<&str> {
        self.artifact_bucket.as_deref()
    }

    /// Checks all of it, and says all that is wrong.
    ///
    /// See the example of [`StackOptions`].
    ///
    /// # Errors
    /// [`StackError::Options`].
    pub fn validate(&self) -> Result<(), StackError> {
        let mut wrong = Vec::new();
        let mut fail = |field, value: &dyn ToString, rule: &str| {
            wrong.push(ValidationError::new(field, value.to_string(), rule));
        };
        let mut number = |field, value: u32, range: RangeInclusive<u32>| {
            if !range.contains(&value) {
                let rule = format!("must be {} to {}", range.start(), range.end());
                fail(field, &value, &rule);
            }
        };
        number("retention_days", self.retention_days, 1..=3650);
        number("lambda_timeout", self.lambda_timeout, 1..=900);
        number("lambda_memory", self.lambda_memory, 128..=3008);
        let percent = self.lambda_duration_threshold_pct;
        number("lambda_duration_threshold_pct", percent, 1..=100);
        if let Some(days) = self.pitr_recovery_days {
            number("pitr_recovery_days", days, 1..=35);
        }
        if !LOG_RETENTION_DAYS.contains(&self.log_retention_days) {
            let days = LOG_RETENTION_DAYS.map(|days| days.to_string()).join(", ");
            let rule = format!("must be one of {days}");
            fail("log_retention_days", &self.log_retention_days, &rule);
        }
        if let Err(error) = Window::parse_list(&self.snapshot_windows) {
            fail("snapshot_windows", &self.snapshot_windows, error.rule());
        }
        if let Some(topic) = &self.alarm_sns_topic
            && !is_arn(topic, "sns")
        {
            let rule = "must be the ARN of a topic, as in arn:aws:sns:REGION:ACCOUNT:NAME";
            fail("alarm_sns_topic", topic, rule);
        }
        if let Some(policy) = &self.permission_boundary
            && !is_policy(policy)
        {
            let rule = "must be the name or the ARN of a policy";
            fail("permission_boundary", policy, rule);
        }
        let key = self.encryption_key.as_str();
        if !matches!(key, "aws-owned" | "aws-managed") && !is_key(key) {
            let rule = "must be aws-owned, aws-managed, or a key of your own: its id, alias/NAME, \
                        or the ARN of either";
            fail("encryption_key", &key, rule);
        }
        if let Some(format) = &self.role_name_format
            && let Some(rule) = role_format_rule(format)
        {
            fail("role_name_format", format, &rule);
        }
        if let Some(bucket) = &self.artifact_bucket
            && !is_bucket(bucket)
        {
            let rule = "must be a bucket's name: 3 to 63 of a-z, 0-9, '.' and '-'";
            fail("artifact_bucket", bucket, rule);
        }
        Self::wrong(wrong)
    }

    /// The name of the aggregator's role in the stack of this name, if it is not left to
    /// CloudFormation.
    ///
    /// ```
    /// # use zae_limiter_infra::StackOptions;
    /// let options = StackOptions::default().role_name_format("team-{}");
    /// let name = options.role_name("ZAEL-my-app").unwrap();
    /// assert_eq!(name.as_deref(), Some("team-ZAEL-my-app-aggregator-role"));
    /// ```
    ///
    /// # Errors
    /// [`StackError::Options`] if it is over 64 characters.
    pub fn role_name(&self, stack_name: &str) -> Result<Option<String>, StackError> {
        let Some(format) = &self.role_name_format else {
            return Ok(None);
        };
        let name = format.replace("{}", &format!("{stack_name}-aggregator-role"));
        if name.len() <= ROLE_NAME_LEN_MAX {
            return Ok(Some(name));
        }
        let rule = format!(
            "makes the role's name {name} of {} characters; {ROLE_NAME_LEN_MAX} are allowed",
            name.len()
        );
        let wrong = ValidationError::new("role_name_format", format, rule);
        Err(StackError::Options(vec![wrong]))
    }

    /// The template's parameters for the stack of this name, but for those that say where the
    /// aggregator's package is.
    ///
    /// # Errors
    /// [`StackError::Options`] for what breaks a rule.
    pub fn to_parameters(
        &self,
        stack_name: &str,
    ) -> Result<BTreeMap<&'static str, String>, StackError> {
        self.validate()?;
        let threshold_ms =
            u64::from(self.lambda_timeout) * 10 * u64::from(self.lambda_duration_threshold_pct);
        let text = |text: &Option<String>| text.clone().unwrap_or_default();
        Ok(BTreeMap::from([
            ("AlarmSNSTopicArn", text(&self.alarm_sns_topic)),
            ("EnableAggregator", self.enable_aggregator.to_string()),
            ("EnableAlarms", self.enable_alarms.to_string()),
            ("EnableDashboard", self.enable_dashboard.to_string()),
            (
                "EnableDeletionProtection",
                self.deletion_protection.to_string(),
            ),
            ("EnablePolicies", self.enable_policies.to_string()),
            ("EncryptionKey", self.encryption_key.clone()),
            ("LambdaDurationThreshold", threshold_ms.to_string()),
            ("LambdaMemorySize", self.lambda_memory.to_string()),
            ("LambdaTimeout", self.lambda_timeout.to_string()),
            ("LogRetentionDays", self.log_retention_days.to_string()),
            (
                "PITRRecoveryPeriodDays",
                self.pitr_recovery_days.unwrap_or(0).to_string(),
            ),
            ("PermissionBoundary", text(&self.permission_boundary)),
            ("RoleName", text(&self.role_name(stack_name)?)),
            ("SnapshotRetentionDays", self.retention_days.to_string()),
            (
                "SnapshotWindows",
                // Without the spaces that may be in the list.
                self.snapshot_windows.replace(' ', ""),
            ),
        ]))
    }
}

/// Whether it is `arn:PARTITION:SERVICE:REGION:ACCOUNT:SOMETHING`.
fn is_arn(text: &str, service: &str) -> bool {
    let parts: Vec<_> = text.splitn(6, ':').collect();
    let [arn, partition, of, region, account, resource] = parts[..] else {
        return false;
    };
    let account_ok = account.len() == 12 && account.bytes().all(|byte| byte.is_ascii_digit());
    arn == "arn"
        && partition.starts_with("aws")
        && of == service
        && !region.is_empty()
        && account_ok
        && !resource.is_empty()
        && !text.contains(char::is_whitespace)
}

/// Whether it is a key of KMS: its id, its alias, or the ARN of either. `alias/aws/dynamodb` is not
/// one: DynamoDB wants it to be called `aws-managed`.
fn is_key(text: &str) -> bool {
    let name = match text.split(':').next_back() {
        Some(name) if is_arn(text, "kms") => name,
        _ => text,
    };
    if let Some(alias) = name.strip_prefix("alias/") {
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"/_-".contains(&byte);
        return !alias.is_empty() && !alias.starts_with("aws/") && alias.bytes().all(allowed);
    }
    let id = match name.strip_prefix("key/") {
        Some(id) => id,
        None if name == text => name,
        None => return false,
    };
    let id = id.strip_prefix("mrk-").unwrap_or(id);
    let hex = |byte: u8| byte.is_ascii_hexdigit() || byte == b'-';
    (32..=36).contains(&id.len()) && id.bytes().all(hex)
}

fn is_policy(text: &str) -> bool {
    let name = match text.strip_prefix("arn:") {
        Some(rest) => {
            let parts: Vec<_> = rest.splitn(5, ':').collect();
            let [partition, "iam", "", account, resource] = parts[..] else {
                return false;
            };
            let digits = account.len() == 12 && account.bytes().all(|b| b.is_ascii_digit());
            match resource.strip_prefix("policy/") {
                Some(name) if partition.starts_with("aws") && (digits || account == "aws") => name,
                _ => return false,
            }
        }
        None => text,
    };
    !name.is_empty() && name.len() <= 512 && name.bytes().all(|b| is_iam(b) || b == b'/')
}

fn is_iam(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"+=,.@_-".contains(&byte)
}

fn role_format_rule(format: &str) -> Option<String> {
    if format.matches("{}").count() != 1 {
        return Some("must contain {} exactly once".to_owned());
    }
    let rest = format.replace("{}", "");
    if !rest.bytes().all(is_iam) {
        return Some("may contain only letters, digits and +=,.@_- beside {}".to_owned());
    }
    let rule = format!("may have {ROLE_FORMAT_LEN_MAX} characters at most beside {{}}");
    (rest.len() > ROLE_FORMAT_LEN_MAX).then_some(rule)
}

fn is_bucket(name: &str) -> bool {
    let inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let ends = |byte: Option<u8>| byte.is_some_and(inner);
    (3..=63).contains(&name.len())
        && name
            .bytes()
            .all(|byte| inner(byte) || b".-".contains(&byte))
        && ends(name.bytes().next())
        && ends(name.bytes().last())
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "1234abcd-12ab-34cd-56ef-1234567890ab";
    const KEYS: &str = "arn:aws:kms:eu-west-1:123456789012:";
    const TOPIC: &str = "arn:aws:sns:eu-west-1:123456789012:alarms";

    fn options() -> StackOptions {
        StackOptions::default()
    }

    #[test]
    fn each_rule_names_its_field() {
        let wrong: Vec<(&str, StackOptions)> = vec![
            ("snapshot_windows", options().snapshot_windows("weekly")),
            ("snapshot_windows", options().snapshot_windows("")),
            (
                "snapshot_windows",
                options().snapshot_windows("daily,daily"),
            ),
            ("retention_days", options().retention_days(0)),
            ("retention_days", options().retention_days(3651)),
            ("pitr_recovery_days", options().pitr_recovery_days(0)),
            ("pitr_recovery_days", options().pitr_recovery_days(36)),
            ("log_retention_days", options().log_retention_days(31)),
            ("lambda_timeout", options().lambda_timeout(0)),
            ("lambda_timeout", options().lambda_timeout(901)),
            ("lambda_memory", options().lambda_memory(127)),
            ("lambda_memory", options().lambda_memory(3009)),
            ("alarm_sns_topic", options().alarm_sns_topic("alarms")),
            (
                "alarm_sns_topic",
                options().alarm_sns_topic(TOPIC.replace("sns", "sqs")),
            ),
            (
                "lambda_duration_threshold_pct",
                options().lambda_duration_threshold_pct(101),
            ),
            ("permission_boundary", options().permission_boundary("a b")),
            ("permission_boundary", options().permission_boundary(TOPIC)),
            ("role_name_format", options().role_name_format("role")),
            ("role_name_format", options().role_name_format("{}{}")),
            ("role_name_format", options().role_name_format("a/{}")),
            (
                "role_name_format",
                options().role_name_format(format!("{{}}{}", "x".repeat(41))),
            ),
            ("encryption_key", options().encryption_key("mine")),
            ("encryption_key", options().encryption_key("alias/")),
            (
                "encryption_key",
                options().encryption_key("alias/aws/dynamodb"),
            ),
            ("encryption_key", options().encryption_key(TOPIC)),
            (
                "encryption_key",
                options().encryption_key(format!("{KEYS}grant/x")),
            ),
            (
                "encryption_key",
                options().encryption_key(format!("{KEYS}{KEY}")),
            ),
            ("artifact_bucket", options().artifact_bucket("No")),
        ];
        for (field, options) in wrong {
            match options.validate() {
                Err(StackError::Options(errors)) => {
                    let fields: Vec<_> = errors.iter().map(ValidationError::field).collect();
                    assert_eq!(fields, [field], "{errors:?}");
                }
                other => panic!("{field}: {other:?}"),
            }
        }
    }

    #[test]
    fn what_is_right_passes() {
        for options in [
            options(),
            options().snapshot_windows("monthly,hourly,daily"),
            options().alarm_sns_topic(TOPIC),
            options().alarm_sns_topic(TOPIC.replace("aws", "aws-cn")),
            options().permission_boundary("boundary"),
            options().permission_boundary("arn:aws:iam::123456789012:policy/team/b"),
            options().permission_boundary("arn:aws:iam::aws:policy/PowerUserAccess"),
            options().encryption_key("aws-managed"),
            options().encryption_key(KEY),
            options().encryption_key(format!("mrk-{}", KEY.replace('-', ""))),
            options().encryption_key("alias/team/limits"),
            options().encryption_key(format!("{KEYS}key/{KEY}")),
            options().encryption_key(format!("{KEYS}alias/limits")),
            options().artifact_bucket("my.bucket-1"),
        ] {
            options.validate().expect("it is right");
        }
    }

    #[test]
    fn a_role_has_a_name_that_fits() {
        let name = |format: &str, stack: &str| options().role_name_format(format).role_name(stack);
        assert_eq!(options().role_name("ZAEL-a").unwrap(), None);
        let found = name("pb-{}-x", "ZAEL-a").unwrap();
        assert_eq!(found.as_deref(), Some("pb-ZAEL-a-aggregator-role-x"));
        let longest = format!("ZAEL-{}", "x".repeat(38));
        name("12345{}", &longest).expect("64 characters");
        let error = name("123456{}", &longest).unwrap_err().to_string();
        assert!(error.contains("of 65 characters"), "{error}");
    }

    #[test]
    fn the_alarm_on_duration_is_a_share_of_the_timeout() {
        let parameters = options().to_parameters("ZAEL-a").unwrap();
        assert_eq!(parameters["LambdaDurationThreshold"], "48000");
        let options = options()
            .lambda_timeout(900)
            .lambda_duration_threshold_pct(33);
        let parameters = options.to_parameters("ZAEL-a").unwrap();
        assert_eq!(parameters["LambdaDurationThreshold"], "297000");
    }
}
