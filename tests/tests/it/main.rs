//! Tests against real services: `tests/run` starts them.

mod conformance;
mod dynamodb;
mod leased;
mod refusals;
mod strict;
