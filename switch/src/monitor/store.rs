//! What the service manager keeps for the monitor: a copy of every descriptor, so that pods keep their links while
//! there is no monitor either.
//!
//! Each is deposited under a name when it is made and taken out when it is let go. When the monitor is started again,
//! [`Returned::sort`] finds out what they are. A name is not enough to know a port again, so a TAP has a *paper* with
//! it: a file in memory that says for which port it was made, under the same name and in the same datagram. What comes
//! back is not believed: the kernel is asked what it is, and what is not what it should be is closed.
//!
//! | name | what |
//! |---|---|
//! | `port-N` | a TAP and its paper |
//! | `underlay-N` | a bound UDP socket |
//! | `control-DEVICE-INODE` | the listening control socket, by its file |
//! | `memory` | the memory-file |
//!
//! Nobody waits for the service manager: when it does not read, a port is not deposited, and costs a new device should
//! the monitor be killed. Limit: as many descriptors as it was configured to keep; what is beyond it drops silently.

use std::fs::File;
use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt as _;
use std::os::unix::net::UnixListener;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustix::fs::{FileType, MemfdFlags, fcntl_get_seals, fstat, memfd_create};
use rustix::net::{SocketType, sockopt};
use serde::{Deserialize, Serialize};

use super::estate::{Kept, KeptPort, KeptSocket};
use super::message::PortFacts;
use crate::io::{PortSpec, again, closing, identity};
use crate::notify::Notifier;

/// Of papers. They are JSON, so what a later version adds does not make them unreadable.
const VERSION: u32 = 1;
/// Longest paper in bytes: a port with 64 addresses, several times over.
const MAX_PAPER: u64 = 64 << 10;
/// Longest memory-file in bytes: two slots of `control::memory_file`.
const MAX_MEMORY: u64 = 2 * (28 + (64 << 20));
/// After the service manager did not read, so long nothing is deposited.
const SULK: Duration = Duration::from_secs(30);

const MEMORY: &str = "memory";

/// For which port a TAP was made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Paper {
    version: u32,
    spec: PortSpec,
    facts: PortFacts,
}

/// Where descriptors are deposited; clones share it. By default nobody takes them.
#[derive(Debug, Clone, Default)]
pub struct Store(Option<Arc<Mutex<Inner>>>);

#[derive(Debug)]
struct Inner {
    manager: Notifier,
    /// The next number of a name.
    next: u64,
    /// Not before then.
    again: Option<Instant>,
}

impl Store {
    /// With somebody who takes them. `next`: see [`Returned::next`].
    #[must_use]
    pub fn new(manager: Notifier, next: u64) -> Self {
        Self(Some(Arc::new(Mutex::new(Inner { manager, next, again: None }))))
    }

    /// The number of the next name.
    #[must_use]
    pub fn next_name(&self) -> u64 {
        self.inner().map_or(0, |inner| inner.next)
    }

    /// Deposits a port. The name to [`Store::forget`] it by; `None` where nobody takes it.
    #[must_use]
    pub fn keep_port(&self, spec: &PortSpec, facts: &PortFacts, tap: &OwnedFd) -> Option<String> {
        let (mut inner, name) = self.numbered("port")?;
        let paper = Paper { version: VERSION, spec: spec.clone(), facts: facts.clone() };
        match write_paper(&paper) {
            Ok(paper) => inner.keep(&name, &[tap.as_fd(), paper.as_fd()]).then_some(name),
            Err(e) => {
                tracing::warn!(ifname = spec.ifname, "a port is not kept by the service manager: {e}");
                None
            }
        }
    }

    /// Deposits an underlay socket, as [`Store::keep_port`] does.
    #[must_use]
    pub fn keep_underlay(&self, socket: &OwnedFd) -> Option<String> {
        let (mut inner, name) = self.numbered("underlay")?;
        inner.keep(&name, &[socket.as_fd()]).then_some(name)
    }

    /// Deposits the listening socket; `file` is device and inode of its file.
    pub fn keep_listener(&self, listener: &UnixListener, file: Option<(u64, u64)>) {
        if let (Some(file), Some(mut inner)) = (file, self.inner()) {
            inner.keep(&format!("control-{}-{}", file.0, file.1), &[listener.as_fd()]);
        }
    }

    /// Deposits the memory-file in place of the one before.
    pub fn keep_memory(&self, memory: &OwnedFd) {
        if let Some(mut inner) = self.inner() {
            inner.forget(MEMORY);
            inner.keep(MEMORY, &[memory.as_fd()]);
        }
    }

    /// Takes out what has this name.
    pub fn forget(&self, name: Option<&str>) {
        if let (Some(name), Some(mut inner)) = (name, self.inner()) {
            inner.forget(name);
        }
    }

    fn inner(&self) -> Option<std::sync::MutexGuard<'_, Inner>> {
        Some(self.0.as_ref()?.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn numbered(&self, kind: &str) -> Option<(std::sync::MutexGuard<'_, Inner>, String)> {
        let mut inner = self.inner()?;
        let name = format!("{kind}-{}", inner.next);
        inner.next += 1;
        Some((inner, name))
    }
}

impl Inner {
    /// `FDPOLL=0`: the TAP of a pod that has set its link down signals an error, for which it would be dropped.
    fn keep(&mut self, name: &str, fds: &[BorrowedFd<'_>]) -> bool {
        let now = Instant::now();
        self.again.is_none_or(|again| now >= again)
            && self.say(&format!("FDSTORE=1\nFDPOLL=0\nFDNAME={name}"), fds)
    }

    /// Tried always: what stays there would hold a deleted device.
    fn forget(&mut self, name: &str) {
        self.say(&format!("FDSTOREREMOVE=1\nFDNAME={name}"), &[]);
    }

    fn say(&mut self, words: &str, fds: &[BorrowedFd<'_>]) -> bool {
        let said = self.manager.say(words, fds);
        if let Err(e) = &said {
            tracing::warn!("the service manager does not keep descriptors now, they are not deposited: {e}");
            self.again = Some(Instant::now() + SULK);
        }
        said.is_ok()
    }
}

/// A port that came back.
#[derive(Debug)]
pub struct ReturnedPort {
    /// For which it was asked.
    pub spec: PortSpec,
    /// What it is.
    pub facts: PortFacts,
    /// The TAP.
    pub tap: OwnedFd,
    /// By which the store knows it.
    pub name: String,
}

/// An underlay socket that came back.
#[derive(Debug)]
pub struct ReturnedSocket {
    /// Address and port it is bound to.
    pub at: (IpAddr, u16),
    /// The socket.
    pub fd: OwnedFd,
    /// By which the store knows it.
    pub name: String,
}

/// What the service manager had kept.
#[derive(Debug, Default)]
pub struct Returned {
    /// Devices of pods that are still there.
    pub ports: Vec<ReturnedPort>,
    /// Sockets that peers send to.
    pub underlay: Vec<ReturnedSocket>,
    /// With device and inode of its file.
    pub listener: Option<(UnixListener, (u64, u64))>,
    /// The memory-file.
    pub memory: Option<OwnedFd>,
    /// The first number that no name has.
    pub next: u64,
    /// Names of what was closed, because it is not what it should be.
    pub refused: Vec<String>,
}

/// What one name stands for.
enum Thing {
    Port(Box<ReturnedPort>),
    Underlay(ReturnedSocket),
    Listener(UnixListener, (u64, u64)),
    Memory(OwnedFd),
}

impl Returned {
    /// Ports and sockets, for the keeper.
    pub fn kept(&mut self) -> Kept {
        let port = |port: ReturnedPort| {
            let ReturnedPort { spec, facts, tap, name } = port;
            KeptPort { spec, facts, fd: tap, stored: Some(name) }
        };
        let socket = |ReturnedSocket { at, fd, name }| KeptSocket { at, fd, stored: Some(name) };
        Kept {
            ports: self.ports.drain(..).map(port).collect(),
            sockets: self.underlay.drain(..).map(socket).collect(),
            ..Kept::default()
        }
    }

    /// Finds out what descriptors are. What is not what it should be is closed, and said.
    #[must_use]
    pub fn sort(descriptors: Vec<(String, OwnedFd)>) -> Self {
        let mut named: Vec<(String, Vec<OwnedFd>)> = Vec::new();
        for (name, fd) in descriptors {
            match named.iter_mut().rev().find(|(n, _)| *n == name) {
                Some((_, fds)) => fds.push(fd),
                None => named.push((name, vec![fd])),
            }
        }
        let mut returned = Self::default();
        for (name, fds) in named {
            let number = name.rsplit_once('-').and_then(|(_, n)| n.parse::<u64>().ok()).unwrap_or(0);
            if !name.starts_with("control-") {
                returned.next = returned.next.max(number.saturating_add(1));
            }
            match Thing::find(&name, fds) {
                Ok(Thing::Port(port)) => returned.ports.push(*port),
                Ok(Thing::Underlay(socket)) => returned.underlay.push(socket),
                Ok(Thing::Listener(listener, file)) => returned.listener = Some((listener, file)),
                Ok(Thing::Memory(fd)) => returned.memory = Some(fd),
                Err(why) => {
                    tracing::warn!(name, "a descriptor that the service manager had kept is closed: {why}");
                    returned.refused.push(name);
                }
            }
        }
        returned
    }
}

impl Thing {
    fn find(name: &str, fds: Vec<OwnedFd>) -> Result<Self, String> {
        let io = |e: io::Error| e.to_string();
        match (name.split('-').next(), <[OwnedFd; 1]>::try_from(fds)) {
            (Some("port"), Err(fds)) => {
                let pair =
                    <[OwnedFd; 2]>::try_from(fds).map_err(|fds| format!("{} descriptors", fds.len()))?;
                // In whatever order the service manager hands them over.
                let (tap, paper) = match pair {
                    [a, b] if is_in_memory(&a) => (b, a),
                    [a, b] => (a, b),
                };
                let Paper { spec, facts, .. } = read_paper(paper)?;
                let place = crate::io::PortPlace { netns_id: facts.netns_id, ifindex: facts.ifindex };
                if let Err(why) = again::verify(&tap, &spec.ifname, place, &facts.identity) {
                    // It is ours all the same, whatever was made of it.
                    closing::let_go(tap);
                    return Err(why);
                }
                Ok(Self::Port(Box::new(ReturnedPort { spec, facts, tap, name: name.to_owned() })))
            }
            (Some("underlay"), Ok([fd])) => {
                if sockopt::socket_type(&fd).map_err(|e| io(e.into()))? != SocketType::DGRAM
                    || !identity::is_of_this_netns(fd.as_fd()).map_err(io)?
                {
                    return Err("it is no UDP socket of this network namespace".into());
                }
                let socket = std::net::UdpSocket::from(fd);
                let at = socket.local_addr().map_err(io)?;
                let at = (at.ip(), at.port());
                Ok(Self::Underlay(ReturnedSocket { at, fd: socket.into(), name: name.to_owned() }))
            }
            (Some("control"), Ok([fd])) => {
                let mut numbers = name.split('-').skip(1).map(str::parse);
                let (Some(Ok(device)), Some(Ok(inode))) = (numbers.next(), numbers.next()) else {
                    return Err("it has no numbers".into());
                };
                let listens = sockopt::socket_acceptconn(&fd).map_err(|e| io(e.into()))?;
                let listener = UnixListener::from(fd);
                if !listens || listener.local_addr().map_err(io)?.as_pathname().is_none() {
                    return Err("it is no listening socket with a path".into());
                }
                Ok(Self::Listener(listener, (device, inode)))
            }
            (Some(MEMORY), Ok([fd])) if is_in_memory(&fd) => {
                let length = fstat(&fd).map_err(|e| io(e.into()))?.st_size as u64;
                if length > MAX_MEMORY {
                    return Err(format!("it has {length} bytes"));
                }
                Ok(Self::Memory(fd))
            }
            _ => Err("it is nothing that was deposited".into()),
        }
    }
}

/// Seals are something that only files in memory have.
fn is_in_memory(fd: &OwnedFd) -> bool {
    fcntl_get_seals(fd).is_ok()
        && fstat(fd).is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile)
}

fn write_paper(paper: &Paper) -> io::Result<OwnedFd> {
    let bytes = serde_json::to_vec(paper)?;
    let file = File::from(memfd_create("swd-port", MemfdFlags::CLOEXEC)?);
    file.write_all_at(&bytes, 0)?;
    Ok(file.into())
}

fn read_paper(fd: OwnedFd) -> Result<Paper, String> {
    if !is_in_memory(&fd) {
        return Err("it has no paper".into());
    }
    let file = File::from(fd);
    let unreadable = |e: io::Error| format!("its paper: {e}");
    let length = file.metadata().map_err(unreadable)?.len();
    if length > MAX_PAPER {
        return Err(format!("its paper has {length} bytes"));
    }
    let mut bytes = vec![0; length as usize];
    file.read_exact_at(&mut bytes, 0).map_err(unreadable)?;
    let paper: Paper = serde_json::from_slice(&bytes).map_err(|e| unreadable(e.into()))?;
    if paper.version != VERSION {
        return Err(format!("its paper has version {}, known is {VERSION}", paper.version));
    }
    paper.spec.validate().map_err(|e| format!("its paper: {e}"))?;
    Ok(paper)
}
