//! Tests of the command as people run it: the real program, against LocalStack, and against moto
//! where there has to be a function.

#![allow(clippy::unwrap_used)] // helpers are tests too

mod command;
mod deploying;
mod every_option;
mod interrupted;
mod lambda;
mod limiter;
mod moto;
mod options;
mod policies;
