//! What was measured, as a table.

use comfy_table::presets::UTF8_FULL_CONDENSED;
use comfy_table::{CellAlignment, ContentArrangement, Table};
use zae_limiter::Limit;
use zae_limiter_bench::{duration, grouped};

use crate::load::{Failure, Tally};

/// One measurement.
pub(crate) struct Row {
    pub(crate) mode: &'static str,
    pub(crate) load: &'static str,
    pub(crate) limit: Limit,
    pub(crate) tally: Tally,
}

impl Row {
    /// What the limit allows in the time that was measured, beginning with a full bucket.
    fn allowed_by_limit(&self) -> u64 {
        let refill = self.limit.tokens_per_second() * self.tally.elapsed.as_secs_f64();
        self.limit.burst_tokens() + refill as u64
    }

    fn allowed(&self) -> u64 {
        self.allowed_by_limit().min(self.tally.asked)
    }
}

/// All measurements.
pub(crate) struct Report {
    rate: u64,
    rows: Vec<Row>,
}

impl Report {
    /// `rate` is the limit of the paced measurements.
    pub(crate) fn new(rate: u64) -> Self {
        Self {
            rate,
            rows: Vec::new(),
        }
    }

    pub(crate) fn add(&mut self, row: Row) {
        self.rows.push(row);
    }

    pub(crate) fn print(&self) {
        let mut table = Table::new();
        table
            .load_style(UTF8_FULL_CONDENSED)
            .set_content_arrangement(ContentArrangement::Dynamic)
            .set_header([
                "mode",
                "load",
                "acquires/s",
                "p50",
                "p99",
                "p99.9",
                "admitted",
                "allowed",
                "admitted / allowed",
                "writes per 1M acquires",
            ]);
        for row in &self.rows {
            let tally = &row.tally;
            let at = |quantile| duration(tally.latency.value_at_quantile(quantile) as f64);
            let per_second = tally.asked as f64 / tally.elapsed.as_secs_f64();
            let share = tally.admitted as f64 / row.allowed().max(1) as f64;
            let writes = tally.writes as f64 * 1e6 / tally.asked.max(1) as f64;
            table.add_row([
                row.mode.to_owned(),
                row.load.to_owned(),
                grouped(per_second as u64),
                at(0.5),
                at(0.99),
                at(0.999),
                grouped(tally.admitted),
                grouped(row.allowed()),
                format!("{:.2} %", share * 100.0),
                grouped(writes.round() as u64),
            ]);
        }
        for column in table.column_iter_mut().skip(2) {
            column.set_cell_alignment(CellAlignment::Right);
        }
        println!("{table}\n");
        println!(
            "The limit of the paced loads is {} per second, with as large a burst. Allowed:",
            grouped(self.rate)
        );
        println!(
            "burst + rate x time, or what was asked for where that is less. p50, p99, p99.9: time"
        );
        println!("of one acquire, the reading of the clock included (about 20 to 40 ns).");
    }

    /// # Errors
    /// If more was admitted than allowed.
    pub(crate) fn verdict(&self) -> Result<(), Failure> {
        for row in &self.rows {
            let (admitted, allowed) = (row.tally.admitted, row.allowed_by_limit());
            if admitted > allowed {
                let (mode, load) = (row.mode, row.load);
                let text = format!("{mode}, {load}: admitted {admitted}, allowed {allowed}");
                return Err(text.into());
            }
        }
        println!("\nNeither mode admitted more than the limit allows.");
        Ok(())
    }
}
