//! What the control thread tells a worker.
//!
//! One ordered, bounded channel, read between batches: a port exists before a table names it, and is gone from
//! the tables before its descriptor is closed.

use super::shaper::{Limits, Shapers};
use crate::datapath::{Datapath, Egress, NetId, PortId, Tables};
use std::sync::Arc;
use tunnel::offload::Caps;

/// One instruction. `P` is the kind of port: a TAP, or its memory twin.
pub enum Command<P> {
    /// From now on, forward by these tables.
    Publish(Arc<Tables>),
    /// Own this port. Sent before the tables that name it.
    AddPort {
        /// Its number.
        id: PortId,
        /// The device.
        port: P,
        /// What it takes.
        caps: Caps,
    },
    /// Close this port. Sent after tables that no longer name it.
    RemovePort(PortId),
    /// How fast this port may receive and send, in place of what was said before. A port begins without limits, and
    /// what is said about a port that does not exist is forgotten: send it after every `AddPort`.
    Limit(PortId, Limits),
    /// Tell the network where this port's addresses are. Sent after the first tables that name it.
    Announce(PortId),
    /// A port or peer left the tables: forget what was learned behind it.
    Forget(Egress),
    /// A network left the tables.
    ForgetNetwork(NetId),
    /// Run this between two batches. The answer travels in what the closure captured.
    Inspect(Box<dyn FnOnce(&mut Inspection<'_>) + Send>),
    /// Read nothing more and send nothing by yourself, once all that was read has been sent: another process is to
    /// have the devices. Answers questions as before.
    Hold,
    /// Read again, or for the first time.
    Go,
    /// Close everything and end.
    Stop,
}

/// What an inspection sees.
pub struct Inspection<'a> {
    /// Learned state and counters.
    pub datapath: &'a mut Datapath,
    /// Tables in force.
    pub tables: &'a Arc<Tables>,
    /// The worker's clock.
    pub now_ms: u64,
    /// Ports whose device has failed for good since they were added; the control thread reopens them.
    pub dead_ports: &'a [PortId],
    /// Limits in force and how they fare.
    pub shapers: &'a Shapers,
}
