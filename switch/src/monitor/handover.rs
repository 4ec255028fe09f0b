//! From one switch process to another, without a frame lost: the steps, their limits, and the way back.
//!
//! ```text
//! old   forwards ── freeze ── forwards, changes nothing ── retire ── holds ───────────── end
//! new                          starts, prepares itself ───────────────────── go ── forwards
//! ```
//!
//! Whatever fails or takes too long before the new one has said that it forwards, the new one is ended and the old one
//! goes on. What it holds meanwhile, and what pods and peers send, waits in the kernel's queues.

use std::os::fd::OwnedFd;
use std::process::ExitStatus;
use std::time::{Duration, Instant};

use super::keeper::Stage;
use super::orders::{Order, OrderError};
use super::switch::{Switch, reached};

/// Requests that are being carried out have 3 s to end.
const FREEZE: Duration = Duration::from_secs(5);
/// A process with thousands of ports takes seconds.
const PREPARE: Duration = Duration::from_secs(30);
/// Frames wait during these two.
const RETIRE: Duration = Duration::from_secs(2);
const GO: Duration = Duration::from_secs(2);
/// The old one is given time to do what it was about to do.
const RESUME: Duration = Duration::from_secs(5);
const END: Duration = Duration::from_secs(2);

/// Where a hand-over is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// The new program is asked what it is.
    Rehearse,
    /// The old process takes no more changes.
    Freeze,
    /// The new process starts.
    Prepare,
    /// The old process stops to read.
    Retire,
    /// The new process begins to read.
    Go,
    /// The monitor becomes the new program.
    Succeed,
}

impl Step {
    /// For people who watch.
    #[must_use]
    pub const fn text(self) -> &'static str {
        match self {
            Self::Rehearse => "asking the new program whether it can take over",
            Self::Freeze => "holding back changes",
            Self::Prepare => "preparing the new process, while the old one forwards",
            Self::Retire => "stopping the old process",
            Self::Go => "starting the new process",
            Self::Succeed => "replacing the monitor",
        }
    }
}

/// Why the old process goes on.
#[derive(Debug, thiserror::Error)]
#[error("{}: {text}", step.text())]
pub struct Failure {
    /// What was being done.
    pub step: Step,
    /// What happened.
    pub text: String,
}

impl Failure {
    /// At this step.
    pub fn new(step: Step, text: impl ToString) -> Self {
        Self { step, text: text.to_string() }
    }
}

/// What became of it.
pub enum Outcome {
    /// The new process forwards; frames waited for so long.
    Over(Box<Switch>, Duration),
    /// The old one does.
    Stays(Failure),
    /// The old one has ended meanwhile, and so has the new one.
    Lost(ExitStatus),
}

/// Has a process made by `start` take over from `old`. `start` is given the state that is in force.
///
/// # Errors
/// The old process is no child of this one.
pub async fn hand_over(
    old: &mut Switch,
    start: impl AsyncFnOnce(OwnedFd) -> std::io::Result<Switch>,
    mut on: impl FnMut(Step),
) -> std::io::Result<Outcome> {
    let (commander, state) = (old.commander.clone(), old.outbox.try_clone()?);
    let steps = async {
        on(Step::Freeze);
        commander.order(Order::Freeze, FREEZE).await.map_err(|e| Failure::new(Step::Freeze, e))?;
        on(Step::Prepare);
        let mut new = start(state).await.map_err(|e| Failure::new(Step::Prepare, e))?;
        prepared(&mut new).await?;
        on(Step::Retire);
        let since = Instant::now();
        commander.order(Order::Retire, RETIRE).await.map_err(|e| Failure::new(Step::Retire, e))?;
        on(Step::Go);
        match new.commander.order(Order::Go, GO).await {
            Ok(_) => Ok((new, since.elapsed())),
            // How it ended says more than that it did.
            Err(OrderError::Gone) => Err(Failure::new(Step::Go, ended(&mut new).await)),
            Err(e) => Err(Failure::new(Step::Go, e)),
        }
    };
    let done = tokio::select! {
        status = old.process.wait() => return Ok(Outcome::Lost(status?)),
        done = steps => done,
    };
    match done {
        Ok((new, pause)) => {
            retire_for_good(old).await?;
            Ok(Outcome::Over(Box::new(new), pause))
        }
        Err(failure) => resume(old, failure).await,
    }
}

/// Waits until the new process has everything at hand.
pub(super) async fn prepared(new: &mut Switch) -> Result<(), Failure> {
    let failed = |text: String| Err(Failure::new(Step::Prepare, text));
    let mut stage = new.stage.clone();
    tokio::select! {
        status = new.process.wait() => match status {
            Ok(status) => failed(format!("it ended: {status}")),
            Err(e) => failed(e.to_string()),
        },
        done = tokio::time::timeout(PREPARE, reached(&mut stage, Stage::Prepared)) => match done {
            Ok(true) => Ok(()),
            Ok(false) => failed(ended(new).await),
            Err(_) => failed(format!("it is not ready after {} s", PREPARE.as_secs())),
        },
    }
}

async fn ended(new: &mut Switch) -> String {
    match tokio::time::timeout(END, new.process.wait()).await {
        Ok(Ok(status)) => format!("it ended: {status}"),
        _ => "it closed its connection".to_owned(),
    }
}

async fn resume(old: &mut Switch, failure: Failure) -> std::io::Result<Outcome> {
    match old.commander.order(Order::Resume, RESUME).await {
        Ok(_) => Ok(Outcome::Stays(failure)),
        // One that does not even go on is of no use.
        Err(e) => {
            tracing::error!("{failure}; and the old process does not go on: {e}");
            Ok(Outcome::Lost(old.process.kill().await?))
        }
    }
}

/// Ends one that holds everything still.
///
/// # Errors
/// It is no child of this process.
pub async fn retire_for_good(old: &mut Switch) -> std::io::Result<()> {
    // It may be gone before its answer is.
    let _ = old.commander.order(Order::End, END).await;
    if tokio::time::timeout(END, old.process.wait()).await.is_err() {
        tracing::warn!("the old switch process did not end by itself and is killed");
        old.process.kill().await?;
    }
    old.answered().await;
    Ok(())
}
