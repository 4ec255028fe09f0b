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

mod attach;
pub mod core;
pub mod derive;
mod explain;
pub mod fs;
pub mod ids;
pub mod ipam;
mod kernel;
pub mod plan;
pub mod program;
pub mod publish;
mod reconcile;
pub mod routes;
mod rules;
pub mod server;
mod service;
pub mod state;
mod trace;

#[cfg(test)]
pub(crate) mod testing;

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ctl::error::ApiError;
use tokio::sync::{Mutex, MutexGuard, watch};

use crate::io::Opener;
use crate::node::NodeHost;
use program::{Program, ProgramError};
use state::Loaded;

pub use self::core::Core;
pub use state::{LoadError, Store};

/// Time between two looks at the devices.
const TICK: Duration = Duration::from_secs(1);

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
}

impl Control {
    /// Takes over a loaded state: opens its ports and publishes its tables. A port that cannot be opened is
    /// reported as degraded and tried again.
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
    ) -> Result<Self, ProgramError> {
        let (tx, applied) = watch::channel(0);
        let mut core = Core::new(settings, store, loaded, opener, host, worker, tx);
        // Before ports are opened: what a runtime has deleted must not come back.
        core.reap();
        core.converge(Instant::now())?;
        Ok(Self { core: Arc::new(Mutex::new(core)), applied, started: Instant::now() })
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
            if core.unwritable().is_none() {
                core.reap();
            }
            core.ask(|i| i.dead_ports.to_vec())?
        };
        let dead = answer.get().await?;
        self.core().await.look_after(&dead, Instant::now())?;
        Ok(())
    }

    /// Looks after devices until the worker has ended, which it never does by itself.
    pub async fn run(&self) -> ProgramError {
        let mut interval = tokio::time::interval(TICK);
        interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            interval.tick().await;
            if let Err(e) = self.tick().await {
                tracing::error!("looking after ports: {e}");
                if let Err(gone) = self.core().await.ask(|_| ()) {
                    return gone;
                }
            }
        }
    }

    /// Tells the worker to close everything and end.
    pub async fn stop(&self) {
        if let Err(e) = self.core().await.stop() {
            tracing::warn!("stopping the worker: {e}");
        }
    }
}
