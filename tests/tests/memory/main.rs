//! Acquires on the store in memory: all that needs neither an endpoint nor another process.

#![allow(clippy::unwrap_used)] // helpers are tests too

mod lookups;
mod queue;
mod refusals;
mod run;
