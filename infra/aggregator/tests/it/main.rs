//! The aggregator against the truth, and against real services: `tests/run` starts them.

#![allow(clippy::unwrap_used)] // helpers are tests too

mod following;
mod lambda;
mod queries;
mod runtime_api;
mod traffic;
mod truth;
