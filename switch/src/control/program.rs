//! What the control thread needs of a worker.
//!
//! A worker takes [`Command`]s in order. The control thread hands over ports as they were opened — a
//! descriptor and what is known about it — and [`TapProgram`] makes TAPs of them; tests program a data path
//! without devices.

use std::io;

use ctl::error::{ApiError, Reason};
use tokio::sync::oneshot;
use tunnel::offload::Caps;

use crate::datapath::PortId;
use crate::engine::{Command, Inspection};
use crate::io::{Offloads, OpenedPort, Tap};

/// How long an answer from a worker may take before the request fails, in milliseconds. Workers answer between
/// two batches, which takes microseconds: this is for a machine that stands still.
const PATIENCE_MS: u64 = 5000;

/// Why a worker did not take a command.
#[derive(Debug, thiserror::Error)]
pub enum ProgramError {
    /// It has ended.
    #[error("the worker has stopped")]
    Gone,
    /// The descriptor is not what it should be.
    #[error("the device was refused: {0}")]
    Device(io::Error),
}

impl From<ProgramError> for ApiError {
    fn from(e: ProgramError) -> Self {
        Self::new(Reason::Internal, e.to_string()).hint("see the log of swd")
    }
}

/// One worker, seen from the control thread.
pub trait Program: Send {
    /// Queues a command. May wait shortly when the queue is full.
    ///
    /// # Errors
    /// See [`ProgramError`].
    fn send(&self, command: Command<OpenedPort>) -> Result<(), ProgramError>;
}

/// A worker that owns TAPs; the closure queues for it.
pub struct TapProgram<F>(pub F);

impl<F: Fn(Command<Tap>) -> Result<(), ProgramError> + Send> Program for TapProgram<F> {
    fn send(&self, command: Command<OpenedPort>) -> Result<(), ProgramError> {
        (self.0)(match command {
            Command::AddPort { id, port, caps } => {
                let port = Tap::from_fd(port.fd, caps.csum).map_err(ProgramError::Device)?;
                Command::AddPort { id, port, caps }
            }
            Command::Publish(tables) => Command::Publish(tables),
            Command::RemovePort(id) => Command::RemovePort(id),
            Command::Limit(id, limits) => Command::Limit(id, limits),
            Command::Announce(id) => Command::Announce(id),
            Command::Forget(gone) => Command::Forget(gone),
            Command::ForgetNetwork(id) => Command::ForgetNetwork(id),
            Command::Inspect(f) => Command::Inspect(f),
            Command::Hold => Command::Hold,
            Command::Go => Command::Go,
            Command::Stop => Command::Stop,
        })
    }
}

/// The command that hands over a port.
#[must_use]
pub fn add_port(id: PortId, port: OpenedPort) -> Command<OpenedPort> {
    let caps = caps(port.offloads);
    Command::AddPort { id, port, caps }
}

/// What a device with these offloads takes.
#[must_use]
pub fn caps(offloads: Offloads) -> Caps {
    Caps { csum: offloads.csum(), tso4: offloads.tso(), tso6: offloads.tso(), uso: offloads.uso() }
}

/// An answer on its way.
pub struct Answer<T>(oneshot::Receiver<T>);

/// Asks a worker something.
///
/// # Errors
/// As [`Program::send`].
pub fn ask<T: Send + 'static>(
    worker: &dyn Program,
    question: impl FnOnce(&mut Inspection<'_>) -> T + Send + 'static,
) -> Result<Answer<T>, ProgramError> {
    let (tx, rx) = oneshot::channel();
    worker.send(Command::Inspect(Box::new(move |inspection| {
        // Nobody waits any more: the request was cancelled.
        let _ = tx.send(question(inspection));
    })))?;
    Ok(Answer(rx))
}

impl<T> Answer<T> {
    /// Waits for it.
    ///
    /// # Errors
    /// [`Reason::Timeout`], or [`Reason::Internal`] when the worker has ended.
    pub async fn get(self) -> Result<T, ApiError> {
        match tokio::time::timeout(std::time::Duration::from_millis(PATIENCE_MS), self.0).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(_)) => Err(ProgramError::Gone.into()),
            Err(_) => {
                Err(ApiError::new(Reason::Timeout, format!("the worker did not answer in {PATIENCE_MS} ms"))
                    .hint("is the machine overloaded? see the log of swd"))
            }
        }
    }
}
