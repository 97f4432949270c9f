//! What the aggregator is told by its environment.

use std::fmt;

use zae_limiter_core::ValidationError;
use zae_limiter_core::usage::Window;

/// Which table, which windows, and how long they are kept.
///
/// ```
/// use zae_limiter_aggregator::Settings;
///
/// let settings = Settings::from_variables(|name| match name {
///     "TABLE_NAME" => Some("ZAEL-my-app".to_owned()),
///     "SNAPSHOT_TTL_DAYS" => Some("30".to_owned()),
///     _ => None,
/// })?;
/// assert_eq!(settings.table_name, "ZAEL-my-app");
/// assert_eq!(settings.windows.len(), 2, "hourly and daily");
/// assert_eq!(settings.retention_days, 30);
/// # Ok::<(), zae_limiter_aggregator::SettingsError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The table, by its full name.
    pub table_name: String,
    /// The windows to count by.
    pub windows: Vec<Window>,
    /// How many days after its end a snapshot is kept.
    pub retention_days: u32,
}

/// The environment does not say what is needed: every thing that is wrong with it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct SettingsError(Vec<String>);

impl fmt::Display for SettingsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join("; "))
    }
}

const RETENTION_DAYS_MAX: u32 = 3_650;

impl Settings {
    /// Reads `TABLE_NAME`, `SNAPSHOT_WINDOWS` (default: "hourly,daily") and `SNAPSHOT_TTL_DAYS`
    /// (default: 90) by `variable`.
    ///
    /// # Errors
    /// [`SettingsError`], which names every variable that is missing or makes no sense.
    pub fn from_variables(
        variable: impl Fn(&str) -> Option<String>,
    ) -> Result<Self, SettingsError> {
        let mut wrong = Vec::new();
        let table_name = variable("TABLE_NAME").unwrap_or_default();
        if table_name.is_empty() {
            wrong.push("TABLE_NAME is not set: give the table's full name, as ZAEL-my-app".into());
        }
        let windows = variable("SNAPSHOT_WINDOWS");
        let windows = Window::parse_list(windows.as_deref().unwrap_or("hourly,daily"));
        let windows = windows.unwrap_or_else(|error: ValidationError| {
            wrong.push(format!("SNAPSHOT_WINDOWS: {error}"));
            Vec::new()
        });
        let days = variable("SNAPSHOT_TTL_DAYS").unwrap_or_else(|| "90".to_owned());
        let retention_days = days.parse().ok();
        let retention_days = retention_days.filter(|days| (1..=RETENTION_DAYS_MAX).contains(days));
        if retention_days.is_none() {
            wrong.push(format!(
                "SNAPSHOT_TTL_DAYS is {days:?}: must be a whole number from 1 to {RETENTION_DAYS_MAX}"
            ));
        }
        match retention_days {
            Some(retention_days) if wrong.is_empty() => Ok(Self {
                table_name,
                windows,
                retention_days,
            }),
            _ => Err(SettingsError(wrong)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_that_is_wrong_is_said_at_once() {
        let error =
            Settings::from_variables(|name| (name != "TABLE_NAME").then(|| "weekly".to_owned()));
        assert_eq!(
            error.unwrap_err().to_string(),
            "TABLE_NAME is not set: give the table's full name, as ZAEL-my-app; \
             SNAPSHOT_WINDOWS: invalid snapshot_windows \"weekly\": must be hourly, daily or \
             monthly; SNAPSHOT_TTL_DAYS is \"weekly\": must be a whole number from 1 to 3650"
        );
        let zero = |name: &str| {
            Some(
                if name == "SNAPSHOT_TTL_DAYS" {
                    "0"
                } else {
                    "daily"
                }
                .into(),
            )
        };
        assert!(Settings::from_variables(zero).is_err());
    }
}
