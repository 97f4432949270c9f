//! What is claimed, what was measured, and whether that meets the claim.

use std::path::{Path, PathBuf};
use std::{env, fs, io};

use comfy_table::presets::UTF8_FULL_CONDENSED;
use comfy_table::{CellAlignment, Table};
use serde::Serialize;

use crate::{Comparison, duration};

/// What a ratio has to be.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Claim {
    /// No more than this.
    AtMost(f64),
    /// No less than this.
    AtLeast(f64),
    /// Nothing is claimed; it is measured to be known.
    None,
}

impl Claim {
    /// Whether `measured` is as claimed; none if nothing is.
    #[must_use]
    pub fn is_met(self, measured: f64) -> Option<bool> {
        match self {
            Self::AtMost(most) => Some(measured <= most),
            Self::AtLeast(least) => Some(measured >= least),
            Self::None => None,
        }
    }
}

#[derive(Debug, Serialize)]
struct Row {
    what: String,
    measured: f64,
    /// Half of the rounds lay between these.
    quartiles: [f64; 2],
    /// Nanoseconds of both sides.
    nanos: [f64; 2],
    claim: Claim,
    met: Option<bool>,
}

/// All claims, with what was measured.
#[derive(Debug, Default, Serialize)]
pub struct Claims {
    rows: Vec<Row>,
}

impl Claims {
    /// Adds what was measured: the first one's time by the second one's.
    pub fn add(&mut self, what: impl Into<String>, measured: &Comparison, claim: Claim) {
        self.rows.push(Row {
            what: what.into(),
            measured: measured.ratio,
            quartiles: measured.quartiles,
            nanos: [measured.first_nanos, measured.second_nanos],
            claim,
            met: claim.is_met(measured.ratio),
        });
    }

    /// The table for people.
    #[must_use]
    pub fn table(&self) -> String {
        let mut table = Table::new();
        table.load_style(UTF8_FULL_CONDENSED).set_header([
            "time of A / time of B",
            "A",
            "B",
            "ratio",
            "half of the rounds",
            "claim",
            "met",
        ]);
        for row in &self.rows {
            let claim = match row.claim {
                Claim::AtMost(most) => format!("<= {most}"),
                Claim::AtLeast(least) => format!(">= {least}"),
                Claim::None => String::new(),
            };
            let met = row.met.map_or("", |met| if met { "yes" } else { "NO" });
            let [low, high] = row.quartiles.map(ratio);
            table.add_row([
                row.what.clone(),
                duration(row.nanos[0]),
                duration(row.nanos[1]),
                ratio(row.measured),
                format!("{low} to {high}"),
                claim,
                met.to_owned(),
            ]);
        }
        for column in table.column_iter_mut().skip(1) {
            column.set_cell_alignment(CellAlignment::Right);
        }
        table.to_string()
    }

    /// Writes everything to `ratios.json` in cargo's target directory, and says where that is.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn write_json(&self) -> io::Result<PathBuf> {
        let target = env::var_os("CARGO_TARGET_DIR").map(PathBuf::from);
        let beside = || Path::new(env!("CARGO_MANIFEST_DIR")).with_file_name("target");
        let path = target.unwrap_or_else(beside).join("ratios.json");
        fs::write(&path, serde_json::to_string_pretty(self)? + "\n")?;
        Ok(path)
    }
}

fn ratio(ratio: f64) -> String {
    if ratio < 100.0 {
        format!("{ratio:.3}")
    } else {
        format!("{ratio:.0}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_claim_is_met_or_not() {
        assert_eq!(Claim::AtMost(0.8).is_met(0.81), Some(false));
        assert_eq!(Claim::AtLeast(10_000.0).is_met(10_000.0), Some(true));
        let mut claims = Claims::default();
        let measured = Comparison {
            first_nanos: 81.0,
            second_nanos: 100.0,
            ratio: 0.81,
            quartiles: [0.8, 0.82],
        };
        claims.add("a hit", &measured, Claim::AtMost(0.8));
        assert!(claims.table().contains("NO"), "{}", claims.table());
        let json = serde_json::to_value(&claims).expect("plain data");
        assert_eq!(json["rows"][0]["claim"]["at_most"], 0.8);
    }
}
