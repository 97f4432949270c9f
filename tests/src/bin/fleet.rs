//! Prints what a simulated fleet does, row by row: `fleet [--json] [seeds]`.

use std::time::Duration;

use zae_limiter::Limit;
use zae_limiter_tests::fleet::{Fleet, Report, Shape};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut json = false;
    let mut seeds = 3;
    for argument in std::env::args().skip(1) {
        match argument.as_str() {
            "--json" => json = true,
            number => seeds = number.parse::<u64>()?.max(1),
        }
    }
    if !json {
        println!(
            "| fleet | admitted / allowed | writes per 1M | fairness | at once | of the bound |"
        );
        println!("|---|---|---|---|---|---|");
    }
    for (name, fleet) in rows()? {
        let row = Row::measure(name, &fleet, seeds);
        println!("{}", if json { row.json() } else { row.markdown() });
    }
    Ok(())
}

fn rows() -> Result<Vec<(String, Fleet)>, zae_limiter::ValidationError> {
    let limit = Limit::per_second("rps", 1_000)?;
    let mut rows = Vec::new();
    for load in [0.5, 0.95, 1.2, 4.0, 20.0] {
        rows.push((format!("8 at {load}"), Fleet::new(8, limit.clone(), load)));
    }
    for load in [0.95, 1.2] {
        let fleet = Fleet {
            shape: Shape::Shifting,
            ..Fleet::new(8, limit.clone(), load)
        };
        rows.push((format!("8 at {load}, shifting"), fleet));
    }
    for load in [0.5, 0.9] {
        let fleet = Fleet {
            duration: Duration::from_secs(120),
            ..Fleet::new(8, limit.clone(), load)
        };
        rows.push((format!("8 at {load}, 120 s"), fleet));
    }
    rows.push(("50 at 20".to_owned(), Fleet::new(50, limit, 20.0)));
    let slow = Fleet {
        demand: 10.0,
        duration: Duration::from_secs(3_600),
        ..Fleet::new(4, Limit::per_hour("rph", 10)?, 1.0)
    };
    rows.push(("4 at 3600, 10 per hour".to_owned(), slow));
    Ok(rows)
}

/// The worst of several runs.
struct Row {
    name: String,
    admitted_of_allowed: f64,
    writes_per_million: f64,
    fairness: f64,
    at_once: f64,
    bound_used: f64,
}

impl Row {
    fn measure(name: String, fleet: &Fleet, seeds: u64) -> Self {
        let reports: Vec<Report> = (0..seeds).map(|seed| fleet.run(seed)).collect();
        let least = |of: fn(&Report) -> f64| reports.iter().map(of).fold(f64::INFINITY, f64::min);
        let most = |of: fn(&Report) -> f64| reports.iter().map(of).fold(0.0, f64::max);
        Self {
            name,
            admitted_of_allowed: least(Report::admitted_of_allowed),
            writes_per_million: most(Report::writes_per_million),
            fairness: least(Report::fairness),
            at_once: least(Report::at_once),
            bound_used: most(Report::bound_used),
        }
    }

    fn markdown(&self) -> String {
        format!(
            "| {} | {:.4} | {:.0} | {:.4} | {:.5} | {:.3} |",
            self.name,
            self.admitted_of_allowed,
            self.writes_per_million,
            self.fairness,
            self.at_once,
            self.bound_used,
        )
    }

    fn json(&self) -> String {
        format!(
            r#"{{"fleet":"{}","admitted_of_allowed":{:.6},"writes_per_million":{:.1},"fairness":{:.6},"at_once":{:.6},"bound_used":{:.6}}}"#,
            self.name,
            self.admitted_of_allowed,
            self.writes_per_million,
            self.fairness,
            self.at_once,
            self.bound_used,
        )
    }
}
