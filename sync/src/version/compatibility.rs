//! Which versions of a client, of the table's layout, and of the deployed functions go together.
//!
//! Two versions are of one **series** if neither breaks what the other relies on: by semantic
//! versioning those of one major version, and before 1.0 those of one minor version.

use semver::Version;
use serde::{Deserialize, Serialize};
use zae_limiter_core::schema::SCHEMA_VERSION;

use super::VersionRecord;

/// Whether a table goes with this version of the crate.
///
/// See the example of [`VersionRecord::compatibility`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Compatibility {
    /// It does.
    Compatible,
    /// It does. The deployed functions are of an older version of the same series.
    LambdaOlder,
    /// The deployed functions are of an older series: what they make of the table's changes may
    /// be wrong. Limiting does not depend on them.
    LambdaIncompatible,
    /// The table asks for newer clients.
    ClientTooOld,
    /// The layout is of an older series; what is stored has to be migrated.
    NeedsMigration,
    /// The layout is of a newer series, or its version is none.
    SchemaUnknown,
}

impl VersionRecord {
    /// Whether the table goes with this version of the crate.
    ///
    /// ```
    /// use zae_limiter::{Compatibility, VersionRecord};
    ///
    /// let mut record = VersionRecord {
    ///     schema_version: "1.0.0".into(),
    ///     lambda_version: None,
    ///     client_min_version: Some("0.0.0".into()),
    ///     updated_at: "2026-01-01T00:00:00Z".into(),
    ///     updated_by: Some("client:0.1.0".into()),
    /// };
    /// assert_eq!(record.compatibility(), Compatibility::Compatible);
    /// record.schema_version = "2.0.0".into();
    /// assert_eq!(record.compatibility(), Compatibility::SchemaUnknown);
    /// ```
    #[must_use]
    pub fn compatibility(&self) -> Compatibility {
        self.compatibility_with(CLIENT_VERSION, SCHEMA_VERSION)
    }

    fn compatibility_with(&self, client: &str, schema: &str) -> Compatibility {
        let (client, schema) = (parsed(client), parsed(schema));
        let (Some(client), Some(schema)) = (client, schema) else {
            return Compatibility::SchemaUnknown; // not with our own versions
        };
        let asked_for = self.client_min_version.as_deref().and_then(parsed);
        if asked_for.is_some_and(|min| client.cmp_precedence(&min).is_lt()) {
            return Compatibility::ClientTooOld;
        }
        match parsed(&self.schema_version) {
            Some(found) if series(&found) == series(&schema) => {}
            Some(found) if series(&found) < series(&schema) => {
                return Compatibility::NeedsMigration;
            }
            _ => return Compatibility::SchemaUnknown,
        }
        match self.lambda_version.as_deref().and_then(parsed) {
            Some(lambda) if lambda.cmp_precedence(&client).is_lt() && !is_unknown(&lambda) => {
                if series(&lambda) == series(&client) {
                    Compatibility::LambdaOlder
                } else {
                    Compatibility::LambdaIncompatible
                }
            }
            _ => Compatibility::Compatible,
        }
    }
}

/// The version of this crate.
pub(super) const CLIENT_VERSION: &str = env!("CARGO_PKG_VERSION");

/// What one version of a series relies on, the others keep.
fn series(version: &Version) -> (u64, u64) {
    match version.major {
        0 => (0, version.minor),
        major => (major, 0),
    }
}

/// The Python library 0.2.0 calls itself and what it deploys 0.0.0+unknown.
fn is_unknown(version: &Version) -> bool {
    (version.major, version.minor, version.patch) == (0, 0, 0)
}

/// A version, also as the Python library writes it: with a `v` in front, or with `.dev7` behind.
fn parsed(text: &str) -> Option<Version> {
    let text = text.strip_prefix('v').unwrap_or(text);
    let parsed = match text.split_once(".dev") {
        Some((release, _)) => Version::parse(&format!("{release}-dev")),
        None => Version::parse(text),
    };
    parsed.ok()
}

#[cfg(test)]
mod tests {
    use super::Compatibility::{
        ClientTooOld, Compatible, LambdaIncompatible, LambdaOlder, NeedsMigration, SchemaUnknown,
    };
    use super::*;

    fn record(schema: &str, lambda: Option<&str>, min: Option<&str>) -> VersionRecord {
        VersionRecord {
            schema_version: schema.into(),
            lambda_version: lambda.map(Into::into),
            client_min_version: min.map(Into::into),
            updated_at: "2026-01-01T00:00:00Z".into(),
            updated_by: None,
        }
    }

    #[test]
    fn a_layout_goes_with_clients_of_its_series() {
        for (ours, found, expected) in [
            ("1.0.0", "1.0.0", Compatible),
            ("1.2.3", "1.0.0", Compatible),
            ("1.0.0", "1.9.0", Compatible),
            ("1.0.0", "v1.0.0", Compatible),
            ("1.0.0", "1.1.0.dev3+g1a2b3c", Compatible),
            ("1.0.0", "0.9.9", NeedsMigration),
            ("2.0.0", "1.9.9", NeedsMigration),
            ("1.0.0", "2.0.0", SchemaUnknown),
            ("1.0.0", "2.0.0-rc.1", SchemaUnknown),
            ("1.0.0", "1.0", SchemaUnknown),
            ("1.0.0", "", SchemaUnknown),
            ("0.7.0", "0.7.9", Compatible),
            ("0.7.0", "0.6.9", NeedsMigration),
            ("0.7.0", "0.8.0", SchemaUnknown),
        ] {
            let found = record(found, None, None);
            let judged = found.compatibility_with("0.1.0", ours);
            assert_eq!(judged, expected, "{ours} on {found:?}");
        }
    }

    #[test]
    fn a_client_must_be_as_new_as_the_table_asks_for() {
        for (client, min, expected) in [
            ("0.1.0", "0.0.0", Compatible),
            ("0.1.0", "0.1.0", Compatible),
            ("0.1.0", "0.1.1", ClientTooOld),
            ("0.9.0", "0.10.0", ClientTooOld),
            ("1.0.0-rc.1", "1.0.0", ClientTooOld),
            ("1.0.0", "1.0.0-rc.1", Compatible),
            ("1.0.0+build.2", "1.0.0+build.3", Compatible),
            ("0.1.0", "whatever", Compatible),
        ] {
            let found = record("1.0.0", None, Some(min));
            let judged = found.compatibility_with(client, "1.0.0");
            assert_eq!(judged, expected, "{client}, at least {min}");
        }
        // It is asked first: a newer client may know the layout.
        let found = record("2.0.0", None, Some("0.2.0"));
        assert_eq!(found.compatibility_with("0.1.0", "1.0.0"), ClientTooOld);
    }

    #[test]
    fn functions_may_be_newer_or_of_the_same_series() {
        for (client, lambda, expected) in [
            ("0.1.0", None, Compatible),
            ("0.1.0", Some("0.1.0"), Compatible),
            ("0.1.0", Some("0.1.1"), Compatible),
            ("0.1.0", Some("0.2.0"), Compatible),
            ("0.1.3", Some("0.1.2"), LambdaOlder),
            ("0.2.0", Some("0.1.9"), LambdaIncompatible),
            ("0.2.0", Some("0.2.0-rc.1"), LambdaOlder),
            ("1.4.0", Some("1.3.9"), LambdaOlder),
            ("1.0.0", Some("0.9.0"), LambdaIncompatible),
            ("2.0.0", Some("1.9.9"), LambdaIncompatible),
            ("0.1.0", Some("0.0.0+unknown"), Compatible),
            ("0.1.0", Some("unknown"), Compatible),
        ] {
            let found = record("1.0.0", lambda, Some("0.0.0"));
            let judged = found.compatibility_with(client, "1.0.0");
            assert_eq!(judged, expected, "{client} beside {lambda:?}");
        }
    }

    #[test]
    fn this_version_goes_with_its_own_layout() {
        let own = record(SCHEMA_VERSION, Some(CLIENT_VERSION), Some(CLIENT_VERSION));
        assert_eq!(own.compatibility(), Compatible);
    }
}
