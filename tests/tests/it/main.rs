//! Tests against real services: `tests/run` starts them.

#![allow(clippy::unwrap_used)] // helpers are tests too

mod acceptance;
mod bad_input;
mod blocking;
mod callers;
mod capacity;
mod cascade;
mod catalog;
mod closing;
mod conformance;
mod corrections;
mod data;
mod degraded;
mod dynamodb;
mod fake_service;
mod layout;
mod leased;
mod many_limits;
mod outages;
mod pressure;
mod python_bugs;
mod refusals;
mod sharing;
mod statuses;
mod stored_limits;
mod strict;
mod transactions;
mod versions;
mod volume;
mod waiting;
