//! What was measured, as a table.

use std::hint::black_box;
use std::time::{Duration, Instant};

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
    /// How much refill may be spent before it has come in.
    pub(crate) ahead: Duration,
    pub(crate) tally: Tally,
}

impl Row {
    /// What a full bucket and its refill in `time` come to.
    fn burst_and_refill(&self, time: Duration) -> u64 {
        let refill = self.limit.tokens_per_second() * time.as_secs_f64();
        self.limit.burst_tokens() + refill as u64
    }

    /// What the limit came to in the time that was measured, or what was asked for.
    fn allowed(&self) -> u64 {
        self.burst_and_refill(self.tally.elapsed)
            .min(self.tally.asked)
    }

    /// What must never be exceeded.
    fn bound(&self) -> u64 {
        self.burst_and_refill(self.tally.elapsed + self.ahead)
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
            "The limit of the paced loads is {} per second, with as large a burst. Allowed: burst +\n\
             rate x time from a full bucket, or what was asked for if that is less. p50, p99, p99.9:\n\
             of one acquire, reading the clock included ({} here).",
            grouped(self.rate),
            duration(clock_nanos())
        );
    }

    /// # Errors
    /// If more was admitted than either mode promises.
    pub(crate) fn verdict(&self) -> Result<(), Failure> {
        for row in &self.rows {
            let (mode, load) = (row.mode, row.load);
            let (admitted, bound) = (grouped(row.tally.admitted), grouped(row.bound()));
            if row.tally.admitted > row.bound() {
                let text =
                    format!("{mode}, {load}: {admitted} admitted, over the bound of {bound}");
                return Err(text.into());
            }
        }
        println!("\nNone of the measurements admitted more than its mode promises:");
        println!("  strict: burst + rate x time");
        println!("  leased: burst + rate x (time + lease_ttl)");
        println!(
            "When a load begins, a leased fleet may spend some of the coming refill early. It pays"
        );
        println!(
            "that back: over longer times (--seconds 30) what is admitted is what is allowed."
        );
        Ok(())
    }
}

/// What two readings of the clock, one after the other, lie apart.
fn clock_nanos() -> f64 {
    const READINGS: u32 = 10_000;
    let from = Instant::now();
    for _ in 0..READINGS {
        black_box(Instant::now());
    }
    from.elapsed().as_nanos() as f64 / f64::from(READINGS)
}
