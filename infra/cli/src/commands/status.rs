//! `status`: the stack, and whether its table answers.

use std::time::Instant;

use clap::Args;
use serde::Serialize;
use zae_limiter::StackSummary;
use zae_limiter::store::Store;

use crate::failure::Failure;
use crate::output::{Output, pairs};
use crate::place::{Named, Place};

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    named: Named,
}

#[derive(Serialize)]
struct Status {
    #[serde(flatten)]
    stack: StackSummary,
    /// How long the table takes to answer a read, in milliseconds; none if it does not.
    table_ms: Option<u64>,
    /// Why the table does not answer.
    table_error: Option<String>,
}

pub(crate) async fn run(arguments: Arguments, output: &Output) -> Result<(), Failure> {
    let place = Place::from(arguments.named);
    let manager = place.stack().await?;
    let Some(stack) = manager.status().await? else {
        let name = manager.stack_name();
        let message = format!("there is no stack {name} in {}", manager.region());
        return Err(Failure::absent(message));
    };
    let table = place.table().await?;
    // The first request also connects.
    let first = table.check().await;
    let begun = Instant::now();
    let answered = match first {
        Ok(()) => table.check().await,
        failed => failed,
    };
    let taken = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
    let status = Status {
        table_ms: answered.is_ok().then_some(taken),
        table_error: answered.err().map(|error| error.to_string()),
        stack,
    };
    output.show(&status, || text(&status))?;
    if status.stack.is_healthy() {
        return Ok(());
    }
    let reason = status
        .stack
        .reason
        .as_deref()
        .unwrap_or("look at its events");
    let (name, state) = (&status.stack.name, &status.stack.status);
    Err(Failure::failed(format!(
        "stack {name} is {state}: {reason}"
    )))
}

fn text(status: &Status) -> String {
    let stack = &status.stack;
    let none = || "none".to_owned();
    let table = match (&status.table_ms, &status.table_error) {
        (Some(ms), _) => format!("answers in {ms} ms"),
        (None, error) => error.clone().unwrap_or_default(),
    };
    let version = |version: Option<&str>| version.map_or_else(none, ToOwned::to_owned);
    let mut lines = vec![
        ("Stack", stack.name.clone()),
        ("Status", stack.status.clone()),
        ("Reason", stack.reason.clone().unwrap_or_else(none)),
        ("Created", stack.created_at.clone()),
        (
            "Updated",
            stack
                .updated_at
                .clone()
                .unwrap_or_else(|| "never".to_owned()),
        ),
        ("Version", version(stack.version())),
        ("Aggregator", version(stack.lambda_version())),
        ("Table", table),
    ];
    lines.extend(
        stack
            .outputs
            .iter()
            .map(|(key, value)| (key.as_str(), value.clone())),
    );
    let parameters = stack
        .parameters
        .iter()
        .filter(|(_, value)| !value.is_empty());
    lines.extend(parameters.map(|(key, value)| (key.as_str(), value.clone())));
    pairs(lines)
}
