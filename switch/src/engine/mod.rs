//! The shell around the data path, without threads and without a clock: read a batch, process it, send what was
//! posted.
//!
//! An [`Engine`] owns its ports, its underlay sockets and one [`Datapath`]. It is generic over the devices, so
//! the same code drives TAPs and UDP sockets under a poll loop ([`crate::worker`]) and their memory twins under
//! a virtual clock (tests). Time is an argument everywhere.
//!
//! Rules: a source is read until it says `WouldBlock`, its credit is used up or the batch is full; a full egress is counted and
//! dropped, never waited for, never retried; nothing here blocks. Only frames beyond a port's limit wait, in a
//! bounded queue of their own ([`shaper`]).

mod command;
mod limit;
mod receive;
pub mod shaper;
mod transmit;

pub use command::{Command, Inspection};
pub use receive::{FRAME_COST, Filled, QUANTUM};
pub use shaper::{Limits, PortLimits, Rate, ShaperStats, Shapers};

use crate::datapath::{Batch, Config, Datapath, Egress, Off, PortId, Postbox, Tables};
use crate::io::PortIo;
use std::sync::Arc;
use tunnel::Sender;
use tunnel::offload::{Caps, Merger};
use tunnel::underlay::{UnderlayRx, UnderlayTx};

/// Receive buffers in one batch.
pub const BATCH_BUFFERS: usize = 64;
/// A batch is full when it holds this many bytes: what it touches should still be in the cache when it is sent.
pub const BATCH_BYTES: usize = 256 * 1024;
/// A batch is full when it holds this many frames (merged datagrams may carry 128 each).
pub const BATCH_FRAMES: usize = 1024;

/// A port as the engine holds it.
struct Slot<P> {
    io: P,
    caps: Caps,
    /// Listed among the dead ports already: every frame posted to it would say so again.
    dead: bool,
}

/// Ports, sockets, tables and a data path.
pub struct Engine<P, R, T> {
    datapath: Datapath,
    tables: Arc<Tables>,
    ports: Vec<Option<Slot<P>>>,
    rx: Vec<R>,
    tx: T,
    batch: Batch,
    batch_bytes: usize,
    out: Postbox,
    merger: Merger,
    sender: Sender,
    dead: Vec<PortId>,
    shapers: Shapers,
    /// The batch may hold frames from ports whose sending is limited.
    limited: bool,
}

/// What a command asks of the loop that runs the engine.
pub enum Effect<P> {
    /// Nothing.
    None,
    /// New tables are in force, and nobody needs these any more. To free thousands of objects takes longer than a
    /// frame may wait: that is another thread's work.
    Replaced(Arc<Tables>),
    /// Watch this port for readiness.
    Watch(PortId),
    /// Stop watching this device; it is closed when dropped.
    Closed(PortId, P),
    /// Read nothing from now on.
    Hold,
    /// Read from now on.
    Go,
    /// End.
    Stop,
}

impl<P: PortIo, R: UnderlayRx, T: UnderlayTx> Engine<P, R, T> {
    /// An engine with no ports. `rx` are the tunnel sockets, one per encapsulation; `tx` sends to peers.
    pub fn new(config: Config, rx: Vec<R>, tx: T) -> Self {
        Self {
            datapath: Datapath::new(config),
            tables: Arc::new(Tables::new(config.seed)),
            ports: Vec::new(),
            rx,
            tx,
            batch: Batch::new(BATCH_BUFFERS),
            batch_bytes: 0,
            out: Postbox::default(),
            merger: Merger::new(),
            sender: Sender::new(),
            dead: Vec::new(),
            shapers: Shapers::default(),
            limited: false,
        }
    }

    /// Carries out one command. Call between batches only.
    pub fn apply(&mut self, command: Command<P>, now_ms: u64) -> Effect<P> {
        match command {
            Command::Publish(tables) => return Effect::Replaced(std::mem::replace(&mut self.tables, tables)),
            Command::AddPort { id, port, caps } => {
                let at = id.0 as usize;
                if at >= self.ports.len() {
                    self.ports.resize_with(at + 1, || None);
                }
                self.dead.retain(|dead| *dead != id);
                self.unlimit(id, now_ms);
                self.ports[at] = Some(Slot { io: port, caps, dead: false });
                return Effect::Watch(id);
            }
            Command::RemovePort(id) => {
                self.dead.retain(|dead| *dead != id);
                self.unlimit(id, now_ms);
                if let Some(slot) = self.ports.get_mut(id.0 as usize).and_then(Option::take) {
                    return Effect::Closed(id, slot.io);
                }
            }
            Command::Limit(id, limits) => self.limit(id, limits, now_ms),
            Command::Announce(id) => self.announce(id, now_ms),
            Command::Forget(gone) => {
                if let Egress::Port(id) = gone {
                    self.discard(id, now_ms);
                }
                self.datapath.forget(gone, now_ms);
                if let Egress::Peer(peer) = gone {
                    self.tx.forget(peer.0);
                }
            }
            Command::ForgetNetwork(id) => self.datapath.forget_network(id),
            Command::Inspect(look) => look(&mut Inspection {
                datapath: &mut self.datapath,
                tables: &self.tables,
                now_ms,
                dead_ports: &self.dead,
                shapers: &self.shapers,
            }),
            Command::Hold => {
                self.release_all(now_ms);
                return Effect::Hold;
            }
            Command::Go => return Effect::Go,
            Command::Stop => return Effect::Stop,
        }
        Effect::None
    }

    fn announce(&mut self, id: PortId, now_ms: u64) {
        // A postbox without room has some once it is sent.
        for _ in 0..2 {
            let all = self.datapath.announce(&self.tables, id, now_ms, &mut self.out);
            self.transmit(now_ms);
            if all {
                return;
            }
        }
    }

    /// Generation of the tables in force.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.tables.generation
    }

    /// Do the tables in force name this port?
    #[must_use]
    pub fn names(&self, id: PortId) -> bool {
        self.tables.port(id).is_some()
    }

    /// The device of a port, for registering it with a poller.
    pub fn port_mut(&mut self, id: PortId) -> Option<&mut P> {
        Some(&mut self.ports.get_mut(id.0 as usize)?.as_mut()?.io)
    }

    /// Lists a port as dead: it cannot be used any more, control has to open it anew.
    pub fn give_up(&mut self, id: PortId) {
        if let Some(slot) = self.ports.get_mut(id.0 as usize).and_then(Option::as_mut)
            && !std::mem::replace(&mut slot.dead, true)
        {
            self.dead.push(id);
        }
    }

    /// How many ports are listed as dead.
    #[must_use]
    pub fn dead_ports(&self) -> usize {
        self.dead.len()
    }

    /// The tunnel sockets.
    pub fn underlay_mut(&mut self) -> &mut [R] {
        &mut self.rx
    }

    /// Learned state and counters.
    #[must_use]
    pub fn datapath(&self) -> &Datapath {
        &self.datapath
    }

    /// Learned state and counters, to edit.
    pub fn datapath_mut(&mut self) -> &mut Datapath {
        &mut self.datapath
    }

    /// Is the batch empty?
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.batch.frames.is_empty()
    }

    /// Processes what was read and sends what was posted.
    pub fn flush(&mut self, now_ms: u64) {
        if self.limited {
            self.shape_batch(now_ms);
        }
        self.forward(now_ms);
    }

    /// The same, for frames that may pass.
    fn forward(&mut self, now_ms: u64) {
        self.datapath.process(&self.tables, now_ms, &mut self.batch, &mut self.out, &mut Off);
        self.transmit(now_ms);
        self.batch.clear();
        self.batch_bytes = 0;
    }

    /// When [`Engine::handle_timeout`] has something to do next.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<u64> {
        match (self.datapath.poll_timeout(), self.shapers.next_ms()) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        }
    }

    /// Retries, ageing, frames that waited for a limit. The batch must be empty.
    pub fn handle_timeout(&mut self, now_ms: u64) {
        self.datapath.handle_timeout(&self.tables, now_ms, &mut self.out);
        self.transmit(now_ms);
        self.release_due(now_ms);
    }
}
