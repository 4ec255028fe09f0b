//! What the switch process may ask of the monitor, and what it is told.
//!
//! One question, one answer, in turn: a length of four bytes (big-endian), then the message in postcard's encoding. At
//! most one descriptor comes with an answer. A message that does not decode, or is longer than [`MAX_MESSAGE`], ends
//! the connection and with it the switch process: nothing that runs right sends one.

use std::net::IpAddr;

use ctl::error::Reason;
use serde::{Deserialize, Serialize};

use crate::io::{
    DeviceName, NetnsId, NetnsIdentity, Offloads, PortHealth, PortPlace, PortSpec, UnderlayLink,
};
use crate::node::{NodePlan, Obstacle};

/// Of these messages; a switch process that speaks another is not served.
pub const PROTOCOL: u32 = 2;
/// Longest message in bytes: a node plan with 50,000 routes.
pub const MAX_MESSAGE: usize = 4 << 20;

/// A question of the switch process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Request {
    /// The first one: which protocol it speaks.
    Hello(u32),
    /// See [`crate::io::Opener::open_port`].
    OpenPort(Box<PortSpec>),
    /// See [`crate::io::Opener::close_port`].
    ClosePort(Box<PortSpec>, PortPlace),
    /// See [`crate::io::Opener::check_port`].
    CheckPort(Box<PortSpec>, PortPlace),
    /// See [`crate::io::Opener::restore_port`].
    RestorePort(Box<PortSpec>, PortPlace),
    /// See [`crate::io::Opener::bind_underlay`].
    BindUnderlay(IpAddr, u16),
    /// See [`crate::io::Opener::sending_socket`].
    SendingSocket(IpAddr),
    /// See [`crate::io::Opener::underlay_mtu`]. While no interface has the address, what it was before.
    UnderlayMtu(IpAddr),
    /// See [`crate::io::Opener::underlay_link`].
    UnderlayLink(IpAddr),
    /// See [`crate::io::Opener::watch_links`].
    WatchLinks,
    /// See [`crate::io::Opener::watch_names`].
    WatchNames,
    /// See [`crate::io::Opener::watch_port`].
    WatchPort(Box<PortSpec>, PortPlace),
    /// See [`crate::node::NodeHost::apply`].
    ApplyNode(Box<NodePlan>),
    /// See [`crate::node::NodeHost::remove`].
    RemoveNode,
    /// See [`crate::node::NodeHost::verify`].
    VerifyNode,
    /// See [`crate::node::NodeHost::obstacles`].
    Obstacles,
    /// Everything declared has been asked for, and nothing has begun: the switch waits for [`super::orders::Order::Go`].
    Prepared,
    /// Everything declared has been asked for and is in force: ports that were not asked for can go, and the service
    /// manager can be told.
    Ready,
    /// No more connections are wanted: the switch ends, and does not want to be started again.
    Stopping,
    /// See [`crate::io::Opener::keep_port`].
    KeepPort(Box<PortSpec>, PortPlace),
    /// See [`crate::io::Opener::discard_port`].
    DiscardPort(DeviceName),
}

/// What the monitor says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Reply {
    /// Done.
    Done,
    /// Done; was there something to do?
    Changed(bool),
    /// A port; its descriptor comes along.
    Port(PortFacts),
    /// A socket; it comes along.
    Socket,
    /// How a port is.
    Health(PortHealth),
    /// An MTU in bytes.
    Mtu(u32),
    /// The interface with an address, if there is one.
    Link(Option<UnderlayLink>),
    /// A socket that hears of changes, which comes along, and why only of some.
    Watch(Option<String>),
    /// The id of a namespace that is watched; none is the monitor's own.
    Namespace(Option<i32>),
    /// What stands in the way.
    Obstacles(Vec<Obstacle>),
    /// It could not be done, and is as before.
    Refused(Refused),
    /// It may have been done, or not: a tool did not end.
    Stuck(String),
}

/// [`crate::io::OpenedPort`] without its descriptor.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortFacts {
    /// The interface's index in its namespace.
    pub ifindex: u32,
    /// The namespace.
    pub netns_id: NetnsId,
    /// The same, to be known again after a restart.
    pub identity: NetnsIdentity,
    /// What the kernel granted.
    pub offloads: Offloads,
    /// Largest offload frame the pod hands over.
    pub gso_max_size: u32,
    /// The interface was there already.
    pub adopted: bool,
    /// It outlives its descriptors.
    pub lasting: bool,
}

/// A refusal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refused {
    /// The word of a [`Reason`].
    pub reason: String,
    /// Why.
    pub text: String,
    /// The next step; may be empty.
    pub hint: String,
}

impl Refused {
    /// The reason; what is no word of ours is taken for an error inside.
    #[must_use]
    pub fn reason(&self) -> Reason {
        Reason::ALL.iter().copied().find(|r| r.as_str() == self.reason).unwrap_or(Reason::Internal)
    }
}
