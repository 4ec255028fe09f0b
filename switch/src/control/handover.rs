//! One process forwards, another takes its place, and no frame is lost or overtaken.
//!
//! The one that forwards first takes no more changes ([`Control::freeze`]); the other makes a start with what is
//! declared, up to where the first frame would be read ([`Control::stand_by`]). Then the first stops to read and sends
//! what it has ([`Control::retire`]); frames wait in the kernel's queues meanwhile, and only then does the other read
//! ([`Control::take_over`]). Until it has said that it does, the first can go on as if nothing had been
//! ([`Control::resume`]). Who tells both what to do is the monitor (`monitor/handover.rs`).

use std::sync::Arc;
use std::time::Instant;

use ctl::error::{ApiError, Reason};
use tokio::sync::{Mutex, watch};

use super::core::Core;
use super::memory_file::MemoryFile;
use super::program::{Program, ProgramError};
use super::remember::capture::Keeper;
use super::remember::restore::Restore;
use super::state::{self, Loaded, Store};
use super::{Control, Settings, remember};
use crate::engine::Command;
use crate::io::Opener;
use crate::node::NodeHost;

impl Control {
    /// As [`Control::start`], up to where another process stops to forward: ports are at hand, tables are in force,
    /// the worker is held, nothing is written and the node's rules are left alone.
    ///
    /// # Errors
    /// When the worker has ended.
    pub fn stand_by(
        settings: Settings,
        store: Store,
        loaded: Loaded,
        opener: Box<dyn Opener + Send>,
        host: Box<dyn NodeHost + Send>,
        worker: Box<dyn Program>,
        memory: Option<MemoryFile>,
    ) -> Result<Self, ProgramError> {
        let (tx, applied) = watch::channel(0);
        let mut core = Core::new(settings, store, loaded, opener, host, worker, tx);
        core.frozen = true;
        core.kernel.sleep(true);
        core.converge(Instant::now())?;
        let keeper = memory.map(|memory| Arc::new(Mutex::new(Keeper::new(memory))));
        Ok(Self { core: Arc::new(Mutex::new(core)), applied, started: Instant::now(), keeper })
    }

    /// Forwards from now on, with what the other process has learned and counted. The state directory must be this
    /// process's own by now.
    ///
    /// # Errors
    /// What is declared is not on this disk and cannot be written there, or the worker has ended. Then nothing has
    /// begun.
    pub async fn take_over(&self) -> Result<(), ApiError> {
        let remembered = match &self.keeper {
            Some(keeper) => keeper.lock().await.read(),
            None => None,
        };
        let answer = {
            let mut core = self.core().await;
            core.make_durable()?;
            if let Some(remembered) = remembered {
                core.restore = Some(Restore::new(remembered, remember::boot_ms()));
                let tables = core.tables().clone();
                core.put_back(&tables)?;
                core.put_back_rest()?;
            }
            core.worker.send(Command::Go)?;
            core.frozen = false;
            core.ask(|_| ())?
        };
        answer.get().await
    }

    /// What [`Control::stand_by`] has left out and can wait until frames are forwarded: this version's idea of the
    /// node's rules, and of the devices.
    ///
    /// # Errors
    /// When the worker has ended.
    pub async fn settle(&self) -> Result<(), ProgramError> {
        let mut core = self.core().await;
        core.kernel.sleep(false);
        core.converge(Instant::now())
    }

    /// Changes nothing from now on. Returns what is declared, in the format of the state file.
    ///
    /// # Errors
    /// It cannot be written as text.
    pub async fn freeze(&self) -> Result<Vec<u8>, String> {
        let mut core = self.core().await;
        let text = state::encode(&core.desired, core.generation)?;
        core.frozen = true;
        core.kernel.sleep(true);
        Ok(text)
    }

    /// Reads nothing from now on, once all that was read has been sent and is remembered. Changes nothing before that.
    ///
    /// # Errors
    /// When the worker has ended or does not answer.
    pub async fn retire(&self) -> Result<(), ApiError> {
        let answer = {
            let core = self.core().await;
            core.worker.send(Command::Hold)?;
            core.ask(|_| ())?
        };
        answer.get().await?;
        self.keep().await;
        Ok(())
    }

    /// Goes on as before [`Control::freeze`] and [`Control::retire`].
    ///
    /// # Errors
    /// When the worker has ended.
    pub async fn resume(&self) -> Result<(), ProgramError> {
        let mut core = self.core().await;
        core.frozen = false;
        core.kernel.sleep(false);
        core.worker.send(Command::Go)
    }
}

impl Core {
    /// Refuses while another process is about to take over.
    pub(super) fn may_change(&self) -> Result<(), ApiError> {
        if !self.frozen {
            return Ok(());
        }
        Err(ApiError::new(Reason::Upgrading, "the daemon is being upgraded and makes no changes just now")
            .hint("ask again in a second"))
    }
}
