//! All that a monitor has, to be left to another program: to the next version, which the monitor becomes
//! ([`super::succession`]), or to another monitor, which asks for it ([`super::takeover`]).
//!
//! A document says what each descriptor is, and the descriptors come beside it, in the order of the document. The
//! document begins with a line that names its version; a program that does not know the version does not take it.

use std::fs::File;
use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::child::{History, bytes_of, document};
use super::door::Caller;
use super::keeper::{Keeper, Tenure};
use super::message::PortFacts;
use super::switch::Parts;
use crate::control::server::Socket;
use crate::io::{Opener, PortSpec};
use crate::node::{NodeHost, NodePlan};

/// First line of a document. Its number rises when what follows cannot be read by those before.
const MAGIC: &[u8] = b"swd-estate 1\n";

/// Everything, borrowed from whoever has it.
pub struct Left<'a> {
    /// Clients connect here.
    pub socket: &'a Socket,
    /// Who wants something of the monitor itself connects here.
    pub door: &'a Socket,
    /// What outlives a switch process.
    pub memory: &'a OwnedFd,
    /// The switch process that forwards, for a program that becomes its parent.
    pub switch: Option<&'a Parts>,
    /// Of the switch processes.
    pub history: &'a History,
    /// The configuration file as it was read.
    pub config: &'a str,
    /// Who waits to hear from the next program that it is there, and what is to be said.
    pub caller: Option<(&'a Caller, &'a str)>,
}

/// Everything.
pub struct Estate {
    /// See [`Left::socket`].
    pub socket: Socket,
    /// See [`Left::door`].
    pub door: Socket,
    /// See [`Left::memory`].
    pub memory: OwnedFd,
    /// See [`Left::switch`].
    pub switch: Option<Parts>,
    /// See [`Left::history`].
    pub history: History,
    /// See [`Left::config`].
    pub config: String,
    /// See [`Left::caller`].
    pub caller: Option<(Caller, String)>,
    /// What the keeper kept.
    pub kept: Kept,
    /// The number of the next name in the service manager's store.
    pub next_name: u64,
}

/// What a keeper keeps.
#[derive(Default)]
pub struct Kept {
    /// Ports.
    pub ports: Vec<KeptPort>,
    /// Tunnel sockets.
    pub sockets: Vec<KeptSocket>,
    /// What the node's kernel was told last.
    pub plan: Option<NodePlan>,
    /// What hears of names of namespaces, for a switch process that reads it.
    pub names: Option<OwnedFd>,
    /// The underlay's address and what its MTU was last.
    pub underlay: Option<(IpAddr, u32)>,
}

/// A port.
pub struct KeptPort {
    /// As it was asked for.
    pub spec: PortSpec,
    /// What it is.
    pub facts: PortFacts,
    /// The TAP.
    pub fd: OwnedFd,
    /// By which the service manager's store knows it.
    pub stored: Option<String>,
}

/// A tunnel socket.
pub struct KeptSocket {
    /// Address and port.
    pub at: (IpAddr, u16),
    /// The socket.
    pub fd: OwnedFd,
    /// By which the service manager's store knows it.
    pub stored: Option<String>,
}

/// A listening socket without its descriptor.
#[derive(Debug, Serialize, Deserialize)]
struct Place {
    path: PathBuf,
    id: (u64, u64),
}

#[derive(Serialize, Deserialize)]
struct Document {
    socket: Place,
    door: Place,
    switch: Option<(u32, Tenure)>,
    history: History,
    config: String,
    caller: Option<String>,
    ports: Vec<(PortSpec, PortFacts, Option<String>)>,
    sockets: Vec<((IpAddr, u16), Option<String>)>,
    /// The number of the next name in the store.
    next_name: u64,
    plan: Option<NodePlan>,
    names: bool,
    underlay: Option<(IpAddr, u32)>,
}

impl Left<'_> {
    /// The document, and the descriptors that belong to it.
    ///
    /// # Errors
    /// A socket that was withdrawn; no memory or descriptors.
    pub fn write<'a, O: Opener, H: NodeHost>(
        &'a self,
        keeper: &'a Keeper<O, H>,
    ) -> io::Result<(OwnedFd, Vec<BorrowedFd<'a>>)> {
        let mut fds = vec![self.socket.descriptor()?, self.door.descriptor()?, self.memory.as_fd()];
        if let Some(parts) = self.switch {
            fds.extend([
                parts.channel.as_fd(),
                parts.orders.as_fd(),
                parts.heartbeat.as_fd(),
                parts.outbox.as_fd(),
            ]);
        }
        let names = keeper.names().filter(|_| self.switch.is_some());
        fds.extend(names);
        fds.extend(self.caller.map(|(caller, _)| caller.as_fd()));
        let mut ports = Vec::new();
        for (spec, facts, fd, stored) in keeper.kept_ports() {
            ports.push((spec.clone(), facts.clone(), self.name(stored)));
            fds.push(fd);
        }
        let mut sockets = Vec::new();
        for (at, fd, stored) in keeper.kept_sockets() {
            sockets.push((at, self.name(stored)));
            fds.push(fd);
        }
        let text = Document {
            socket: place(self.socket)?,
            door: place(self.door)?,
            switch: self.switch.map(|parts| (parts.pid, parts.tenure)),
            history: self.history.clone(),
            config: self.config.to_owned(),
            caller: self.caller.map(|(_, words)| words.to_owned()),
            ports,
            sockets,
            next_name: keeper.next_name(),
            plan: keeper.plan().cloned(),
            names: names.is_some(),
            underlay: keeper.underlay(),
        };
        let bytes = postcard::to_extend(&text, MAGIC.to_vec()).map_err(io::Error::other)?;
        Ok((document(&bytes)?, fds))
    }
}

impl Left<'_> {
    /// The store is that of this process.
    fn name(&self, stored: Option<&str>) -> Option<String> {
        stored.filter(|_| self.switch.is_some()).map(str::to_owned)
    }
}

fn place(socket: &Socket) -> io::Result<Place> {
    let (path, id) = socket.place().ok_or_else(|| io::Error::other("the socket has no file"))?;
    Ok(Place { path: path.to_owned(), id })
}

fn read(file: &File) -> io::Result<Document> {
    let invalid = |text: String| io::Error::new(io::ErrorKind::InvalidData, text);
    let bytes = bytes_of(file)?;
    let Some(rest) = bytes.strip_prefix(MAGIC) else {
        let line = bytes.split(|b| *b == b'\n').next().unwrap_or_default();
        let line = String::from_utf8_lossy(line.get(..MAGIC.len()).unwrap_or(line)).into_owned();
        return Err(invalid(format!(
            "what is handed over has a form that this program does not know ({line})"
        )));
    };
    postcard::from_bytes(rest).map_err(|e| invalid(format!("what is handed over cannot be read: {e}")))
}

/// Could this program take what the document describes?
///
/// # Errors
/// Why not.
pub fn rehearse(file: &File) -> io::Result<()> {
    read(file).map(drop)
}

impl Estate {
    /// Takes a document and its descriptors.
    ///
    /// # Errors
    /// `InvalidData` for a document of another version, or one that does not fit its descriptors.
    pub fn read(file: &File, fds: Vec<OwnedFd>) -> io::Result<Self> {
        let document = read(file)?;
        let Document { socket, door, switch, history, config, caller, ports, sockets, .. } = document;
        let Document { plan, names, underlay, next_name, .. } = document;
        let mut fds = fds.into_iter();
        let mut next = || {
            let few = || io::Error::new(io::ErrorKind::InvalidData, "descriptors are missing");
            fds.next().ok_or_else(few)
        };
        let socket = Socket::left(next()?.into(), socket.path, socket.id);
        let door = Socket::left(next()?.into(), door.path, door.id);
        let memory = next()?;
        let switch = match switch {
            Some((pid, tenure)) => Some(Parts {
                pid,
                tenure,
                channel: next()?,
                orders: next()?,
                heartbeat: next()?,
                outbox: next()?,
            }),
            None => None,
        };
        let names = if names { Some(next()?) } else { None };
        let caller = match caller {
            Some(words) => Some((Caller::left(next()?), words)),
            None => None,
        };
        let port = |(spec, facts, stored)| Ok(KeptPort { spec, facts, fd: next()?, stored });
        let ports = ports.into_iter().map(port).collect::<io::Result<_>>()?;
        let socket_of = |(at, stored)| Ok(KeptSocket { at, fd: next()?, stored });
        let sockets = sockets.into_iter().map(socket_of).collect::<io::Result<_>>()?;
        if fds.next().is_some() {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "there are too many descriptors"));
        }
        let kept = Kept { ports, sockets, plan, names, underlay };
        Ok(Self { socket, door, memory, switch, history, config, caller, kept, next_name })
    }
}
