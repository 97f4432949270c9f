//! Real processes and real faults, against the endpoint. A binary of its own: what is timed here
//! does not share the endpoint with the other tests.

mod leaks;
mod processes;
