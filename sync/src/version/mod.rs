//! The version record: which schema the table has, and which versions made it. Whether a client
//! goes with it is for [`compatibility`] to say; [`check`] asks when a limiter is connected.

pub(crate) mod check;
mod compatibility;
#[cfg(feature = "stack")]
mod deployed;

pub use compatibility::Compatibility;

use serde::{Deserialize, Serialize};

/// What the table says of its own version: one item.
///
/// ```
/// use zae_limiter::VersionRecord;
///
/// let json = r#"{"schema_version": "1.0.0", "updated_at": "2026-01-01T00:00:00Z"}"#;
/// let record: VersionRecord = serde_json::from_str(json).unwrap();
/// assert_eq!(record.lambda_version, None);
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VersionRecord {
    /// The version of the items' layout.
    pub schema_version: String,
    /// The version of the deployed Lambda functions, if any are.
    #[serde(default)]
    pub lambda_version: Option<String>,
    /// The oldest version of a client that may use the table, if not any may.
    #[serde(default)]
    pub client_min_version: Option<String>,
    /// When the record was written, as RFC 3339 in UTC.
    pub updated_at: String,
    /// Who wrote it, if that was said.
    #[serde(default)]
    pub updated_by: Option<String>,
}
