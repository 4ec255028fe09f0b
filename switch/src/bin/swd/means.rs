//! By what things are done that need privilege: here and now in one process for all, or by the monitor.

use std::fs::File;
use std::os::unix::net::{UnixListener, UnixStream};

use switch::control::Monitored;
use switch::control::memory_file::MemoryFile;
use switch::io::{HostOpener, Opener, reserve};
use switch::monitor::heartbeat::{Pulse, Thread};
use switch::monitor::{Client, Heartbeat, Inherited};
use switch::node::{NftHost, NodeHost};
use switch::sandbox::{self, Level, Plan};

use super::options::Options;
use super::{Failure, account, nft_table, own_directories};

/// The means, and what came along with them.
pub struct Means {
    pub opener: Box<dyn Opener + Send>,
    pub host: Box<dyn NodeHost + Send>,
    pub listener: Option<UnixListener>,
    pub client: Option<Client>,
    /// Most descriptors that this process may have.
    pub descriptors: u64,
    heartbeat: Option<Heartbeat>,
    pub memory: Option<MemoryFile>,
    /// Use the last-known-good state.
    pub fall_back: bool,
    /// Who has started this process.
    pub monitored: Option<Monitored>,
    /// The monitor's orders.
    pub orders: Option<UnixStream>,
    /// See [`Serving::outbox`](super::serving::Serving::outbox).
    pub outbox: Option<File>,
    /// What is declared, where another process forwards that this one is to take over from.
    pub state: Option<Vec<u8>>,
    /// What this process has given up.
    pub sandbox: Level,
}

impl Means {
    /// Takes what there is. Below a monitor, gives up everything else: call it before anything is read that others
    /// may have written.
    pub fn new(options: &Options, inherited: Option<Inherited>) -> Result<Self, Failure> {
        let descriptors = reserve::descriptors();
        let Some(inherited) = inherited else {
            let host = NftHost::new(nft_table(options))?;
            return Ok(Self {
                opener: Box::new(HostOpener),
                host: Box::new(host),
                listener: None,
                client: None,
                descriptors,
                heartbeat: None,
                memory: None,
                fall_back: false,
                monitored: None,
                orders: None,
                outbox: None,
                state: None,
                sandbox: Level::default(),
            });
        };
        if let Some(end) = inherited.history.last_end.as_ref().filter(|_| inherited.state.is_none()) {
            tracing::warn!(
                restarts = inherited.history.restarts,
                "this switch process takes the place of another: {end}"
            );
        }
        // Started by a descriptor, it would be called after that.
        rustix::thread::set_name(c"swd-switch")?;
        let client = Client::new(inherited.channel).map_err(|e| format!("the monitor: {e}"))?;
        let writable = own_directories(options).to_vec();
        let user = account(options)?.0.map(|a| (a.uid, a.gid));
        let sandbox = sandbox::enter(&Plan { user, writable, readable: Vec::new() });
        // After a change of user the kernel has forgotten what it was told about the parent's end.
        rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL))?;
        if std::os::unix::process::parent_id() != inherited.monitor {
            return Err("the monitor has ended".into());
        }
        Ok(Self {
            opener: Box::new(client.clone()),
            host: Box::new(client.clone()),
            listener: Some(inherited.listener),
            client: Some(client),
            descriptors,
            heartbeat: Some(inherited.heartbeat),
            memory: Some(MemoryFile::from_fd(inherited.memory)),
            fall_back: inherited.fall_back,
            monitored: Some(Monitored { pid: inherited.monitor, history: inherited.history }),
            orders: Some(inherited.orders),
            outbox: Some(inherited.outbox),
            state: inherited.state,
            sandbox,
        })
    }

    /// The signs of life of a thread, if somebody watches.
    pub fn pulse(&self, thread: Thread) -> Result<Option<Pulse>, Failure> {
        Ok(self.heartbeat.as_ref().map(|h| h.pulse(thread)).transpose()?)
    }
}
