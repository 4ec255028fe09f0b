//! Answers the switch process, and keeps what it was given: a copy of every descriptor, by which it comes back to its
//! ports when it has to be started again.
//!
//! A TAP goes with its last descriptor, and so does a bound socket. As long as the copies here are open, a pod keeps
//! its link and what arrives meanwhile waits in the kernel's queues.

use std::collections::HashMap;
use std::net::IpAddr;
use std::os::fd::OwnedFd;

use super::message::{PROTOCOL, PortFacts, Refused, Reply, Request};
use crate::control::refusal;
use crate::io::{NetnsRef, OpenError, OpenedPort, Opener, PortPlace, PortSpec, Reserve};
use crate::node::{NodeError, NodeHost};
use ctl::error::Reason;

/// Most ports that are kept: the descriptors a process may have.
pub const MAX_PORTS: usize = 65_536;

/// An answer, and the descriptor that comes along.
pub type Answer = (Reply, Option<OwnedFd>);

/// Where a port was asked for. One namespace may have several names; a port under another name is another port, which
/// is then refused because the interface is taken.
type Key = (NetnsRef, String);

struct Kept {
    spec: PortSpec,
    facts: PortFacts,
    fd: OwnedFd,
    /// Has this switch process asked for it?
    asked: bool,
}

impl Kept {
    fn place(&self) -> PortPlace {
        PortPlace { netns_id: self.facts.netns_id, ifindex: self.facts.ifindex }
    }
}

/// What the switch process has said about itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum Stage {
    /// It starts.
    #[default]
    Starting,
    /// Everything declared is in force.
    Ready,
    /// It ends because it was told to.
    Stopping,
}

/// Descriptors, and the means to make more.
pub struct Keeper<O, H> {
    opener: O,
    host: H,
    ports: HashMap<Key, Kept>,
    sockets: HashMap<(IpAddr, u16), OwnedFd>,
    stage: Stage,
    /// `None` where there were no descriptors from the beginning.
    reserve: Option<Reserve>,
}

impl<O: Opener, H: NodeHost> Keeper<O, H> {
    /// One that keeps nothing yet.
    pub fn new(opener: O, host: H) -> Self {
        let (ports, sockets) = (HashMap::new(), HashMap::new());
        Self { opener, host, ports, sockets, stage: Stage::Starting, reserve: Reserve::new().ok() }
    }

    /// A new switch process begins, and has asked for nothing.
    pub fn begin(&mut self) {
        self.stage = Stage::Starting;
        self.ports.values_mut().for_each(|kept| kept.asked = false);
    }

    /// How far the switch process is.
    pub const fn stage(&self) -> Stage {
        self.stage
    }

    /// Ports that are kept.
    pub fn ports(&self) -> usize {
        self.ports.len()
    }

    /// Does what is asked.
    pub fn answer(&mut self, request: Request) -> Answer {
        let done = |result: Result<(), OpenError>| match result {
            Ok(()) => (Reply::Done, None),
            Err(e) => (refused(&e), None),
        };
        match request {
            Request::Hello(PROTOCOL) => (Reply::Done, None),
            Request::Hello(other) => {
                let text = format!("the monitor speaks protocol {PROTOCOL}, the switch process {other}");
                (Reply::Refused(internal(text)), None)
            }
            Request::OpenPort(spec) => self.open(*spec),
            Request::ClosePort(spec, place) => {
                self.forget(&spec, place);
                done(self.opener.close_port(&spec, place))
            }
            Request::CheckPort(spec, place) => match self.opener.check_port(&spec, place) {
                Ok(health) => (Reply::Health(health), None),
                Err(e) => (refused(&e), None),
            },
            Request::RestorePort(spec, place) => {
                let restored = self.opener.restore_port(&spec, place);
                if restored.is_ok()
                    && let Some(kept) = self.ports.get_mut(&key(&spec)).filter(|kept| kept.place() == place)
                {
                    kept.spec = *spec;
                }
                done(restored)
            }
            Request::BindUnderlay(addr, port) => self.bind(addr, port),
            Request::SendingSocket(local) => match self.opener.sending_socket(local) {
                Ok(socket) => (Reply::Socket, Some(socket)),
                Err(e) => (refused(&e), None),
            },
            Request::UnderlayMtu(addr) => match self.opener.underlay_mtu(addr) {
                Ok(mtu) => (Reply::Mtu(mtu), None),
                Err(e) => (refused(&e), None),
            },
            Request::ApplyNode(plan) => node(self.host.apply(&plan).map(Reply::Changed)),
            Request::RemoveNode => node(self.host.remove().map(|()| Reply::Done)),
            Request::VerifyNode => node(self.host.verify().map(|intact| Reply::Changed(!intact))),
            Request::Obstacles => (Reply::Obstacles(self.host.obstacles()), None),
            Request::Ready => {
                self.stage = self.stage.max(Stage::Ready);
                self.sweep();
                (Reply::Done, None)
            }
            Request::Stopping => {
                self.stage = Stage::Stopping;
                (Reply::Done, None)
            }
        }
    }

    /// The port that is kept, as long as it is the one that is meant; else a new one.
    fn open(&mut self, spec: PortSpec) -> Answer {
        let key = key(&spec);
        if let Some(kept) = self.ports.get_mut(&key) {
            let meant = kept.spec.same_device(&spec)
                && spec.identity.as_ref().is_none_or(|wanted| *wanted == kept.facts.identity);
            // One that this switch process has already is asked for again because it is no good any more.
            if meant && !kept.asked {
                return match kept.fd.try_clone() {
                    Ok(fd) => {
                        kept.asked = true;
                        (Reply::Port(PortFacts { adopted: true, ..kept.facts.clone() }), Some(fd))
                    }
                    // The pod keeps its link until there are descriptors again.
                    Err(e) => (Reply::Refused(internal(format!("copying a descriptor: {e}"))), None),
                };
            }
            self.remove(&key);
        }
        if self.ports.len() >= MAX_PORTS {
            return (Reply::Refused(internal(format!("more than {MAX_PORTS} ports"))), None);
        }
        if let Some(Err(e)) = self.reserve.as_ref().map(Reserve::room) {
            return (refused(&e), None);
        }
        let opened = match self.opener.open_port(&spec) {
            Ok(opened) => opened,
            Err(e) => return (refused(&e), None),
        };
        let OpenedPort { fd, ifindex, netns_id, identity, offloads, gso_max_size, adopted } = opened;
        let facts = PortFacts { ifindex, netns_id, identity, offloads, gso_max_size, adopted };
        match fd.try_clone() {
            Ok(copy) => {
                let kept = Kept { spec, facts: facts.clone(), fd, asked: true };
                self.ports.insert(key, kept);
                (Reply::Port(facts), Some(copy))
            }
            Err(e) => (Reply::Refused(internal(format!("copying a descriptor: {e}"))), None),
        }
    }

    fn bind(&mut self, addr: IpAddr, port: u16) -> Answer {
        let kept = self.sockets.get(&(addr, port)).map(OwnedFd::try_clone);
        if let Some(Ok(fd)) = kept {
            return (Reply::Socket, Some(fd));
        }
        let bound = match self.opener.bind_underlay(addr, port) {
            Ok(fd) => fd,
            Err(e) => return (refused(&e), None),
        };
        match bound.try_clone() {
            Ok(copy) => {
                // Port 0 is a new one each time.
                if port != 0 {
                    self.sockets.insert((addr, port), bound);
                }
                (Reply::Socket, Some(copy))
            }
            Err(e) => (Reply::Refused(internal(format!("copying a descriptor: {e}"))), None),
        }
    }

    /// Lets go of a port that the switch closes.
    fn forget(&mut self, spec: &PortSpec, place: PortPlace) {
        let key = key(spec);
        if self.ports.get(&key).is_some_and(|kept| kept.place() == place) {
            self.ports.remove(&key);
        }
    }

    /// Removes a port that nobody wants, device and all.
    fn remove(&mut self, key: &Key) {
        if let Some(kept) = self.ports.remove(key) {
            let place = kept.place();
            drop(kept.fd);
            if let Err(e) = self.opener.close_port(&kept.spec, place) {
                tracing::warn!(ifname = kept.spec.ifname, netns = %kept.spec.netns, "removing a device: {e}");
            }
        }
    }

    /// Removes what the switch process has not asked for by the time it was ready: ports that were deleted just
    /// before the one before it ended.
    fn sweep(&mut self) {
        let left: Vec<Key> =
            self.ports.iter().filter(|(_, kept)| !kept.asked).map(|(key, _)| key.clone()).collect();
        for key in left {
            tracing::info!(netns = %key.0, ifname = key.1, "a port is not declared any more");
            self.remove(&key);
        }
    }
}

fn key(spec: &PortSpec) -> Key {
    (spec.netns.clone(), spec.ifname.clone())
}

fn refused(e: &OpenError) -> Reply {
    let (reason, text, hint) = refusal::words(e);
    Reply::Refused(Refused { reason: reason.as_str().to_owned(), text, hint })
}

fn internal(text: String) -> Refused {
    Refused { reason: Reason::Internal.as_str().to_owned(), text, hint: String::new() }
}

fn node(result: Result<Reply, NodeError>) -> Answer {
    let reply = match result {
        Ok(reply) => reply,
        Err(e @ NodeError::Stuck { .. }) => Reply::Stuck(e.to_string()),
        Err(e @ NodeError::Permission(_)) => Reply::Refused(Refused {
            reason: Reason::PermissionDenied.as_str().to_owned(),
            text: e.to_string(),
            hint: String::new(),
        }),
        Err(e) => Reply::Refused(internal(e.to_string())),
    };
    (reply, None)
}
