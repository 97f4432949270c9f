//! Real processes on a real table: killed, stopped, and cut off from it. A binary of its own, so
//! that no other tests keep the table busy meanwhile.

use std::path::Path;

mod killed;
mod leaks;
mod weather;

fn program() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_worker"))
}
