//! Workers as processes of their own: started, stopped and killed from here, and read afterwards.

use std::io;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};
use tokio::time;
use zae_limiter::{Limit, Settings};

use crate::journal::{self, Record};

/// What a worker prints when it is connected.
pub const READY: &str = "ready";
/// How long a worker may take to begin or to end, on a busy machine.
const PATIENCE: Duration = Duration::from_secs(120);

/// What a worker is to do. Plain data.
#[derive(Clone, Debug)]
pub struct Order {
    /// The table's full name.
    pub table: String,
    /// Where the table is.
    pub endpoint_url: String,
    /// Whose bucket it acquires from.
    pub entity: String,
    /// The only limit.
    pub limit: Limit,
    /// Acquires per second, of one token each.
    pub per_second: u32,
    /// How its limiter is set.
    pub settings: Settings,
    /// How long a call of the table may take.
    pub operation_timeout: Duration,
}

/// A worker that was started. Dropping it kills it.
#[derive(Debug)]
pub struct Worker {
    child: Child,
    journal: PathBuf,
}

impl Worker {
    /// Starts `program`, which is the `worker` of this package, and waits until it is connected.
    /// It writes its journal to `journal`.
    ///
    /// # Errors
    /// If it does not start, or does not say that it is ready.
    pub async fn start(program: &Path, order: &Order, journal: PathBuf) -> io::Result<Self> {
        let mut child = Command::new(program)
            .args(["--table", &order.table])
            .args(["--endpoint-url", &order.endpoint_url])
            .args(["--entity", &order.entity])
            .args(["--limit", &serde_json::to_string(&order.limit)?])
            .args(["--per-second", &order.per_second.to_string()])
            .args(["--settings", &serde_json::to_string(&order.settings)?])
            .args(["--operation-timeout-ms"])
            .arg(order.operation_timeout.as_millis().to_string())
            .arg("--journal")
            .arg(&journal)
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        let stdout = child.stdout.take();
        let stdout = stdout.ok_or_else(|| io::Error::other("the worker has no output"))?;
        let mut lines = BufReader::new(stdout).lines();
        match time::timeout(PATIENCE, lines.next_line()).await {
            Ok(Ok(Some(line))) if line == READY => Ok(Self { child, journal }),
            answer => {
                let message = format!("the worker did not get ready: {answer:?}");
                Err(io::Error::other(message))
            }
        }
    }

    /// Its process.
    ///
    /// # Panics
    /// If it has ended.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id().expect("the worker should be running")
    }

    /// Kills it, in the middle of whatever it does (SIGKILL).
    ///
    /// # Errors
    /// If it has ended before.
    pub async fn kill(&mut self) -> io::Result<()> {
        self.child.kill().await
    }

    /// Asks it to end (SIGTERM), and waits until it has.
    ///
    /// # Errors
    /// If it has ended before, or does not end.
    pub async fn terminate(&mut self) -> io::Result<ExitStatus> {
        let pid = i32::try_from(self.pid()).ok().and_then(Pid::from_raw);
        let pid = pid.ok_or_else(|| io::Error::other("the worker's process has no number"))?;
        kill_process(pid, Signal::TERM)?;
        let ended = time::timeout(PATIENCE, self.child.wait()).await;
        ended.map_err(|_| io::Error::other("the worker does not end"))?
    }

    /// How many lines it has written down so far.
    ///
    /// # Errors
    /// If they cannot be read.
    pub fn lines(&self) -> io::Result<u64> {
        journal::lines(&self.journal)
    }

    /// What it has written down so far.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn record(&self) -> io::Result<Record> {
        Record::read(&self.journal)
    }
}

/// Starts `count` workers with the same orders, all at once; their journals go to `directory`.
///
/// # Panics
/// If one does not start.
pub async fn crew(program: &Path, order: &Order, count: usize, directory: &Path) -> Vec<Worker> {
    let start = |at: usize| {
        let journal = directory.join(format!("{}-{at}", order.entity));
        Worker::start(program, order, journal)
    };
    let started = futures::future::try_join_all((0..count).map(start)).await;
    started.expect("the workers should start")
}
