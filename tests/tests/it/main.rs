//! Tests against real services: `tests/run` starts them.

#![allow(clippy::unwrap_used)] // helpers are tests too

mod cascade;
mod conformance;
mod dynamodb;
mod leased;
mod refusals;
mod strict;
