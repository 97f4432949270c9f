//! What is shown while something takes its time, and what is said when it is interrupted.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use zae_limiter::{StackError, StackErrorKind, StackEvent, StackManager};

use crate::failure::Failure;
use crate::output::Output;
use crate::place::Place;

/// A line that moves while CloudFormation works; on a terminal only. Its events are printed above
/// it, or by themselves.
pub(crate) struct Progress {
    bar: Option<ProgressBar>,
}

impl Progress {
    pub(crate) fn new(output: &Output, what: impl Into<String>) -> Self {
        if output.json {
            return Self { bar: None };
        }
        let bar = ProgressBar::new_spinner().with_message(what.into());
        if let Ok(style) = ProgressStyle::with_template("{spinner} {msg} ({elapsed})") {
            bar.set_style(style);
        }
        bar.enable_steady_tick(Duration::from_millis(120));
        Self { bar: Some(bar) }
    }

    pub(crate) fn event(&self, event: &StackEvent) {
        match &self.bar {
            Some(bar) if bar.is_hidden() => eprintln!("{event}"),
            Some(bar) => bar.println(event.to_string()),
            None => {}
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

/// Does something with a stack until somebody wants it to stop; then, and when the connection is
/// lost, says in which state the stack is and how to go on.
pub(crate) async fn watched<T>(
    work: impl Future<Output = Result<T, StackError>>,
    stack: &StackManager,
    place: &Place,
) -> Result<T, Failure> {
    let again = format!(
        "CloudFormation goes on by itself: look with `zae-limiter status --name {}`, or run the \
         same command again, which waits for it",
        place.name()
    );
    tokio::select! {
        done = work => done.map_err(|error| {
            let lost = error.kind() == StackErrorKind::Unreachable;
            let failure = Failure::from(error);
            if lost { failure.advising(&again) } else { failure }
        }),
        () = stopped() => {
            let state = match stack.status().await {
                Ok(Some(found)) => format!("stack {} is {}", found.name, found.status),
                Ok(None) => format!("there is no stack {}", stack.stack_name()),
                Err(error) => format!("the state of stack {} is unknown: {error}", stack.stack_name()),
            };
            Err(Failure::interrupted(format!("interrupted: {state}; {again}")))
        }
    }
}

/// Returns when somebody wants this program to stop.
pub(crate) async fn stopped() {
    let interrupted = tokio::signal::ctrl_c();
    #[cfg(unix)]
    {
        use tokio::signal::unix::{SignalKind, signal};
        if let Ok(mut terminated) = signal(SignalKind::terminate()) {
            tokio::select! {
                _ = interrupted => {}
                _ = terminated.recv() => {}
            }
            return;
        }
    }
    let _ = interrupted.await;
}
