//! The control thread: keeps what is declared, and makes the workers do it.
//!
//! Clients declare networks, ports, peers and routes over gRPC ([`server`], [`service`]). A change is checked
//! ([`rules`]), written to disk ([`state`]) and only then acknowledged. [`reconcile`] opens and closes devices
//! until they are as declared, [`publish`] turns both into tables, and the ordered command channel
//! ([`program`]) carries devices and tables to the worker, so that a port exists before a table names it and
//! is gone from the tables before it is closed.
//!
//! Everything here runs on one thread. Nothing that can wait for the network or for a worker happens while
//! the state is locked; opening a device (about a millisecond) and writing the state (a disk's fsync) do, and
//! order the changes. The data path never waits for any of it.
//!
//! Two generations exist. That of the *desired state* is durable, rises with each change and is what clients
//! see. That of the *tables* rises with each publication, also when a device came or went; [`core`] remembers
//! which tables were the first to contain which desired state.

mod agenda;
mod allowance;
mod attach;
mod bounds;
pub mod core;
pub mod derive;
mod explain;
pub mod fs;
pub mod good;
pub mod handover;
pub mod ids;
pub mod ipam;
mod kernel;
mod leftover;
mod look;
pub mod memory_file;
mod notice;
pub mod plan;
pub mod program;
pub mod publish;
mod reconcile;
pub mod refusal;
pub mod remember;
pub mod routes;
mod rules;
pub mod server;
mod service;
pub mod state;
mod trace;
mod underlay;

#[cfg(test)]
pub(crate) mod testing;

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ctl::error::ApiError;
use tokio::sync::{Mutex, MutexGuard, Notify, watch};

use crate::io::Opener;
use crate::monitor::child::History;
use crate::node::NodeHost;
use crate::sandbox::Level;
use memory_file::MemoryFile;
use notice::Watch;
use program::{Program, ProgramError};
use remember::capture::Keeper;
use remember::restore::Restore;
use state::Loaded;

pub use self::core::Core;
pub use state::{LoadError, Store};

/// Waits for a moment, or for ever.
async fn at(moment: Option<Instant>) {
    match moment {
        Some(moment) => tokio::time::sleep_until(moment.into()).await,
        None => std::future::pending().await,
    }
}

/// Time between two looks at the devices.
const TICK: Duration = Duration::from_secs(1);
/// Longest wait for what is remembered at the end.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// What a daemon was started with; fixed for its life.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Name of the node in answers.
    pub node: String,
    /// Where tunnels end.
    pub underlay: Option<Underlay>,
    /// UDP port of VXLAN.
    pub vxlan_port: u16,
    /// UDP port of Geneve.
    pub geneve_port: u16,
    /// MTU of pods where the network does not say.
    pub mtu: Option<u32>,
    /// Seed of the hashes in published tables; secret, random.
    pub seed: u64,
    /// Number of workers.
    pub workers: u32,
    /// Most segments in one UDP send; 0: not available.
    pub udp_gso_segments: u32,
    /// Are received datagrams merged?
    pub udp_gro: bool,
    /// Where notes are left about attachments that were deleted while this daemon did not answer.
    pub tombstones: Option<PathBuf>,
    /// Where the state is, for messages.
    pub state_dir: PathBuf,
    /// How long a process has to live with a state until that is the last-known-good one.
    pub good_after: Duration,
    /// Most descriptors that the process may have.
    pub descriptors: u64,
    /// How far the process is shut in.
    pub sandbox: Level,
    /// Who has started this process, if that is a monitor.
    pub monitor: Option<Monitored>,
}

/// What is known about the monitor of this process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Monitored {
    /// Its process id.
    pub pid: u32,
    /// What became of those before this one.
    pub history: History,
}

/// The underlay of this node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Underlay {
    /// Own address.
    pub addr: IpAddr,
    /// MTU of the interface that has it.
    pub mtu: u32,
}

/// A handle to the control state; clones share it.
#[derive(Clone)]
pub struct Control {
    core: Arc<Mutex<Core>>,
    /// Generation of the tables that the worker runs with.
    applied: watch::Receiver<u64>,
    started: Instant,
    /// What is to outlive this process, apart from the state.
    keeper: Option<Arc<Mutex<Keeper>>>,
}

impl Control {
    /// Takes over a loaded state: opens its ports and publishes its tables. A port that cannot be opened is
    /// reported as degraded and tried again. What a process before this one left in `memory` is put back, and what
    /// is learned and counted from now on is written there.
    ///
    /// # Errors
    /// When the worker has ended.
    pub fn start(
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
        // Before ports are opened: what a runtime has deleted must not come back.
        core.reap();
        let keeper = memory.map(Keeper::new);
        if let Some(remembered) = keeper.as_ref().and_then(Keeper::read) {
            let (macs, neighbours) = remembered.entries();
            tracing::info!(macs, neighbours, "what was learned and counted before is put back");
            core.restore = Some(Restore::new(remembered, remember::boot_ms()));
        }
        core.converge(Instant::now())?;
        core.put_back_rest()?;
        let keeper = keeper.map(|keeper| Arc::new(Mutex::new(keeper)));
        Ok(Self { core: Arc::new(Mutex::new(core)), applied, started: Instant::now(), keeper })
    }

    pub(crate) async fn core(&self) -> MutexGuard<'_, Core> {
        self.core.lock().await
    }

    /// Looks after devices once: closes those that died, opens those that are missing. Does what could not be
    /// written before.
    ///
    /// # Errors
    /// When the worker has ended or does not answer.
    pub async fn tick(&self) -> Result<(), ApiError> {
        let answer = {
            let mut core = self.core().await;
            core.save_again(Instant::now())?;
            core.prove(Instant::now());
            if core.unwritable().is_none() {
                core.reap();
            }
            core.ask(|i| i.dead_ports.to_vec())?
        };
        let dead = answer.get().await?;
        self.core().await.look_after(&dead, Instant::now())?;
        Ok(())
    }

    /// Watches ports that were opened, and closes those whose devices have failed in the worker's hands.
    async fn attend(&self, alarm: &Notify) -> Result<(), ApiError> {
        let answer = {
            let mut core = self.core().await;
            if core.watch_ports(Instant::now()) {
                alarm.notify_one();
            }
            core.ask(|i| i.dead_ports.to_vec())?
        };
        let dead = answer.get().await?;
        if !dead.is_empty() {
            self.core().await.look_at(&[], &dead, Instant::now())?;
        }
        Ok(())
    }

    /// Looks after devices until the worker has ended, which it never does by itself. `alarm` is what the worker
    /// sounds when a device has failed.
    pub async fn run(&self, alarm: Arc<Notify>) -> ProgramError {
        let mut watch = Watch::start(&mut *self.core().await, alarm.clone());
        let mut interval = tokio::time::interval(TICK);
        interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            let next = self.core().await.next_look();
            let done = tokio::select! {
                _ = interval.tick() => {
                    let done = self.tick().await;
                    self.keep().await;
                    done
                }
                () = alarm.notified() => self.attend(&alarm).await,
                told = watch.told() => {
                    self.core().await.mark(&told, Instant::now());
                    Ok(())
                }
                () = at(next) => self.core().await.look_where_due(Instant::now()).map_err(Into::into),
            };
            if let Err(e) = done {
                tracing::error!("looking after ports: {e}");
                if let Err(gone) = self.core().await.ask(|_| ()) {
                    return gone;
                }
            }
        }
    }

    /// Remembers what was learned and counted; true if something was written.
    pub(crate) async fn keep(&self) -> bool {
        match &self.keeper {
            Some(keeper) => self.remember(&mut *keeper.lock().await).await,
            None => false,
        }
    }

    /// Tells the worker to close everything and end.
    pub async fn stop(&self) {
        if self.keeper.is_some() && tokio::time::timeout(LAST_WORDS, self.keep()).await.is_err() {
            tracing::warn!("what was learned and counted last is not remembered: the worker does not answer");
        }
        if let Err(e) = self.core().await.stop() {
            tracing::warn!("stopping the worker: {e}");
        }
    }
}
