//! The thread that a blocking limiter has to itself. It runs the reconciler and the requests to
//! the table, so that a caller can wait for them wherever it is: on a plain thread, or on one of
//! a runtime that stands still meanwhile.

use std::convert::Infallible;
use std::panic::resume_unwind;
use std::sync::mpsc;
use std::thread;

use tokio::runtime::{Builder, Handle};
use tokio::sync::oneshot;
use tokio::task;

use crate::reconciler::DROP_DEADLINE;
use crate::store::{StoreError, StoreErrorKind};
use crate::{Error, RateLimiter, RateLimiterBuilder};

/// What the thread is called.
const THREAD_NAME: &str = "zae-limiter";

/// The thread's runtime. When the last one who may wait is gone, the thread gives everything back
/// to the table, and ends.
#[derive(Debug)]
pub(super) struct Home {
    runtime: Handle,
    /// Nothing is ever sent: the thread waits for this to be dropped.
    _inhabited: oneshot::Sender<Infallible>,
}

impl Home {
    /// Starts the thread, and connects a limiter on it.
    pub(super) fn of(builder: RateLimiterBuilder) -> Result<(Self, RateLimiter), Error> {
        let runtime = Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(no_thread)?;
        let (inhabited, empty) = oneshot::channel();
        let home = Self {
            runtime: runtime.handle().clone(),
            _inhabited: inhabited,
        };
        let (answer, answered) = mpsc::channel();
        let live = async move {
            let connected = builder.connect().await;
            let limiter = connected.as_ref().ok().cloned();
            let _ = answer.send(connected);
            if let Some(limiter) = limiter {
                let _ = empty.await;
                limiter.shutdown(DROP_DEADLINE).await;
            }
        };
        // The runtime ends on its own thread, never on one where that would be a panic.
        let thread = thread::Builder::new().name(THREAD_NAME.to_owned());
        let thread = thread.spawn(move || runtime.block_on(live));
        let thread = thread.map_err(no_thread)?;
        match answered.recv() {
            Ok(connected) => Ok((home, connected?)),
            Err(_) => match thread.join() {
                Err(panic) => resume_unwind(panic), // as it would have come from connect().await
                Ok(()) => unreachable!("it answers before it ends"),
            },
        }
    }

    /// Waits for `future` on this thread, while the other one makes its requests and keeps its
    /// time. It may be a thread of a runtime; that is why
    /// * it is not tokio that waits: it panics there;
    /// * the future has no share in the budget of the task that calls: it would not get a new
    ///   one before that task goes on, which waits for the future.
    pub(super) fn wait<T>(&self, future: impl Future<Output = T>) -> T {
        let _at_home = self.runtime.enter();
        pollster::block_on(task::unconstrained(future))
    }
}

fn no_thread(error: std::io::Error) -> Error {
    let message = "could not start the limiter's thread; see whether the process may have more \
                   threads and open files";
    StoreError::new(StoreErrorKind::Unreachable, format!("{message}: {error}"))
        .caused_by(error)
        .into()
}
