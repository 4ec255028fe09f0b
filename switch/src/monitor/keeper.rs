//! Answers the switch process, and keeps what it was given: a copy of every descriptor, by which it comes back to its
//! ports when it has to be started again.
//!
//! A TAP loses its carrier with its last descriptor, and a bound socket is gone. As long as the copies here are open, a
//! pod keeps its link and what arrives meanwhile waits in the kernel's queues.

use std::collections::HashMap;
use std::net::IpAddr;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};

use serde::{Deserialize, Serialize};

use super::estate::{Kept, KeptPort, KeptSocket};
use super::message::{PROTOCOL, PortFacts, Refused, Reply, Request};
use super::store::Store;
use crate::control::refusal;
use crate::io::closing::let_go;
use crate::io::{DeviceName, NetnsRef, OpenError, OpenedPort, Opener, PortPlace, PortSpec, Reserve};
use crate::node::{NodeError, NodeHost, NodePlan};
use ctl::error::Reason;

/// Most ports that are kept: the descriptors a process may have.
pub const MAX_PORTS: usize = 65_536;

/// An answer, and the descriptor that comes along.
pub type Answer = (Reply, Option<OwnedFd>);

/// Where a port was asked for. One namespace may have several names; a port under another name is another port, which
/// is then refused because the interface is taken.
type Key = (NetnsRef, String);

struct Held {
    spec: PortSpec,
    facts: PortFacts,
    fd: OwnedFd,
    /// Has the switch process of this tenure asked for it?
    asked: [bool; TENURES],
    /// By which the store knows it.
    stored: Option<String>,
}

impl Held {
    fn place(&self) -> PortPlace {
        PortPlace { netns_id: self.facts.netns_id, ifindex: self.facts.ifindex }
    }
}

struct Bound {
    fd: OwnedFd,
    /// Has the switch process of this tenure asked for it?
    asked: [bool; TENURES],
    /// By which the store knows it.
    stored: Option<String>,
}

/// The life of one switch process, as the monitor counts them. Two may be under way at a time, one after the other: the
/// one that forwards, and the one that is to take its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tenure(u64);

const TENURES: usize = 2;

impl Tenure {
    /// Before any was started.
    pub const FIRST: Self = Self(0);

    /// The one after this.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0 + 1)
    }

    const fn slot(self) -> usize {
        self.0 as usize % TENURES
    }

    const fn other_slot(self) -> usize {
        (self.0 as usize + 1) % TENURES
    }
}

/// What the switch process has said about itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
pub enum Stage {
    /// It starts.
    #[default]
    Starting,
    /// Everything declared is at hand, and it waits for the word to begin.
    Prepared,
    /// Everything declared is in force.
    Ready,
    /// It ends because it was told to.
    Stopping,
}

/// Descriptors, and the means to make more.
pub struct Keeper<O, H> {
    opener: O,
    host: H,
    ports: HashMap<Key, Held>,
    sockets: HashMap<(IpAddr, u16), Bound>,
    /// Holds a copy of all that.
    store: Store,
    stages: [Stage; TENURES],
    plan: Option<NodePlan>,
    /// The underlay's address and what its MTU was last.
    underlay: Option<(IpAddr, u32)>,
    /// Hears of names of namespaces, for the switch process that forwards.
    names: Option<OwnedFd>,
    /// `None` where there were no descriptors from the beginning.
    reserve: Option<Reserve>,
}

impl<O: Opener, H: NodeHost> Keeper<O, H> {
    /// One that keeps nothing yet.
    pub fn new(opener: O, host: H) -> Self {
        Self {
            opener,
            host,
            ports: HashMap::new(),
            sockets: HashMap::new(),
            store: Store::default(),
            stages: [Stage::Starting; TENURES],
            plan: None,
            underlay: None,
            names: None,
            reserve: Reserve::new().ok(),
        }
    }

    /// Deposits from now on what it keeps.
    #[must_use]
    pub fn with_store(mut self, store: Store) -> Self {
        self.store = store;
        self
    }

    /// A new switch process begins, and has asked for nothing.
    pub fn begin(&mut self, tenure: Tenure) {
        self.stages[tenure.slot()] = Stage::Starting;
        self.ports.values_mut().for_each(|kept| kept.asked[tenure.slot()] = false);
        self.sockets.values_mut().for_each(|bound| bound.asked[tenure.slot()] = false);
    }

    /// The switch process of this tenure is no more.
    pub fn end(&mut self, tenure: Tenure) {
        self.begin(tenure);
    }

    /// The switch process that was to take over from that of this tenure is no more: what only it asked for can go.
    pub fn end_successor(&mut self, tenure: Tenure) {
        self.begin(tenure.next());
        self.sweep(tenure);
    }

    /// Does another switch process forward while this one only prepares to?
    fn waits_for_another(&self, tenure: Tenure) -> bool {
        self.stages[tenure.slot()] < Stage::Ready && self.stages[tenure.other_slot()] >= Stage::Ready
    }

    /// Ports with their descriptors and the names by which the store knows them.
    pub fn kept_ports(&self) -> impl Iterator<Item = (&PortSpec, &PortFacts, BorrowedFd<'_>, Option<&str>)> {
        self.ports.values().map(|kept| (&kept.spec, &kept.facts, kept.fd.as_fd(), kept.stored.as_deref()))
    }

    /// Tunnel sockets by address and port, as [`Keeper::kept_ports`].
    pub fn kept_sockets(&self) -> impl Iterator<Item = ((IpAddr, u16), BorrowedFd<'_>, Option<&str>)> {
        self.sockets.iter().map(|(at, bound)| (*at, bound.fd.as_fd(), bound.stored.as_deref()))
    }

    /// What hears of names of namespaces.
    pub fn names(&self) -> Option<BorrowedFd<'_>> {
        self.names.as_ref().map(|names| names.as_fd())
    }

    /// The underlay's address and what its MTU was last.
    pub const fn underlay(&self) -> Option<(IpAddr, u32)> {
        self.underlay
    }

    /// The number of the next name in the store.
    pub fn next_name(&self) -> u64 {
        self.store.next_name()
    }

    /// What the node's kernel was told last.
    pub const fn plan(&self) -> Option<&NodePlan> {
        self.plan.as_ref()
    }

    /// Goes on where another keeper was. `tenure`: that of a switch process that has these ports already, at this
    /// stage.
    pub fn inherit(&mut self, kept: Kept, tenure: Option<(Tenure, Stage)>) {
        let mut asked = [false; TENURES];
        if let Some((tenure, stage)) = tenure {
            asked[tenure.slot()] = true;
            self.stages[tenure.slot()] = stage;
        }
        for KeptPort { spec, facts, fd, stored } in kept.ports {
            let stored = stored.or_else(|| self.store.keep_port(&spec, &facts, &fd));
            self.ports.insert(key(&spec), Held { spec, facts, fd, asked, stored });
        }
        for KeptSocket { at, fd, stored } in kept.sockets {
            let stored = stored.or_else(|| self.store.keep_underlay(&fd));
            self.sockets.insert(at, Bound { fd, asked, stored });
        }
        if let Some(plan) = &kept.plan
            && let Err(e) = self.host.apply(plan)
        {
            tracing::warn!("the node's rules: {e}");
        }
        self.plan = kept.plan;
        (self.names, self.underlay) = (kept.names, kept.underlay);
    }

    /// How far the switch process is.
    pub const fn stage(&self, tenure: Tenure) -> Stage {
        self.stages[tenure.slot()]
    }

    /// Ports that are kept.
    pub fn ports(&self) -> usize {
        self.ports.len()
    }

    /// Does what the switch process of a tenure asks.
    pub fn answer(&mut self, tenure: Tenure, request: Request) -> Answer {
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
            Request::OpenPort(spec) => self.open(tenure, *spec),
            Request::ClosePort(spec, place) => {
                let closed = self.opener.close_port(&spec, place);
                self.forget(&spec, place);
                done(closed)
            }
            Request::KeepPort(spec, place) => done(self.keep(&spec, place)),
            Request::DiscardPort(device) => match self.discard(&device) {
                Ok(there) => (Reply::Changed(there), None),
                Err(e) => (refused(&e), None),
            },
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
                    self.store.forget(kept.stored.as_deref());
                    kept.stored = self.store.keep_port(&kept.spec, &kept.facts, &kept.fd);
                }
                done(restored)
            }
            Request::BindUnderlay(addr, port) => self.bind(tenure, addr, port),
            Request::SendingSocket(local) => match self.opener.sending_socket(local) {
                Ok(socket) => (Reply::Socket, Some(socket)),
                Err(e) => (refused(&e), None),
            },
            Request::UnderlayMtu(addr) => self.underlay_mtu(addr),
            Request::UnderlayLink(addr) => match self.opener.underlay_link(addr) {
                Ok(link) => {
                    self.underlay = link.as_ref().map(|link| (addr, link.mtu)).or(self.underlay);
                    (Reply::Link(link), None)
                }
                Err(e) => (refused(&e), None),
            },
            Request::WatchLinks => match self.opener.watch_links() {
                Ok(watch) => (Reply::Watch(watch.deaf), Some(watch.fd)),
                Err(e) => (refused(&e), None),
            },
            Request::WatchNames => self.watch_names(),
            Request::WatchPort(spec, place) => {
                let names = self.names.as_ref().map(|names| names.as_fd());
                match self.opener.watch_port(&spec, place, names) {
                    Ok(nsid) => (Reply::Namespace(nsid), None),
                    Err(e) => (refused(&e), None),
                }
            }
            Request::ApplyNode(plan) => {
                let applied = self.host.apply(&plan);
                if applied.is_ok() {
                    self.plan = Some(*plan);
                }
                node(applied.map(Reply::Changed))
            }
            Request::RemoveNode => {
                self.plan = None;
                node(self.host.remove().map(|()| Reply::Done))
            }
            Request::VerifyNode => node(self.host.verify().map(|intact| Reply::Changed(!intact))),
            Request::Obstacles => (Reply::Obstacles(self.host.obstacles()), None),
            Request::Prepared => {
                self.stages[tenure.slot()] = Stage::Prepared;
                (Reply::Done, None)
            }
            Request::Ready => {
                let stage = &mut self.stages[tenure.slot()];
                *stage = (*stage).max(Stage::Ready);
                self.sweep(tenure);
                (Reply::Done, None)
            }
            Request::Stopping => {
                self.stages[tenure.slot()] = Stage::Stopping;
                (Reply::Done, None)
            }
        }
    }

    /// The port that is kept, as long as it is the one that is meant; else a new one.
    fn open(&mut self, tenure: Tenure, spec: PortSpec) -> Answer {
        let key = key(&spec);
        if let Some(kept) = self.ports.get_mut(&key) {
            let meant = kept.spec.same_device(&spec)
                && spec.identity.as_ref().is_none_or(|wanted| *wanted == kept.facts.identity);
            // One that this switch process has already is asked for again because it is no good any more.
            if meant
                && !kept.asked[tenure.slot()]
                && (kept.spec.mtu == spec.mtu || self.opener.restore_port(&spec, kept.place()).is_ok())
            {
                let fd = match kept.fd.try_clone() {
                    Ok(fd) => fd,
                    // The pod keeps its link until there are descriptors again.
                    Err(e) => return (Reply::Refused(internal(format!("copying a descriptor: {e}"))), None),
                };
                kept.asked[tenure.slot()] = true;
                if kept.spec.mtu != spec.mtu {
                    kept.spec.mtu = spec.mtu;
                    self.store.forget(kept.stored.as_deref());
                    kept.stored = self.store.keep_port(&kept.spec, &kept.facts, &kept.fd);
                }
                return (Reply::Port(PortFacts { adopted: true, ..kept.facts.clone() }), Some(fd));
            }
            if kept.asked[tenure.other_slot()] && self.waits_for_another(tenure) {
                let text = "another switch process serves this interface, and it is to be made otherwise";
                return (Reply::Refused(internal(text.to_owned())), None);
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
        let OpenedPort { fd, ifindex, netns_id, identity, offloads, gso_max_size, adopted, lasting } = opened;
        let facts = PortFacts { ifindex, netns_id, identity, offloads, gso_max_size, adopted, lasting };
        match fd.try_clone() {
            Ok(copy) => {
                let mut asked = [false; TENURES];
                asked[tenure.slot()] = true;
                let stored = self.store.keep_port(&spec, &facts, &fd);
                let kept = Held { spec, facts: facts.clone(), fd, asked, stored };
                self.ports.insert(key, kept);
                (Reply::Port(facts), Some(copy))
            }
            Err(e) => (Reply::Refused(internal(format!("copying a descriptor: {e}"))), None),
        }
    }

    fn keep(&mut self, spec: &PortSpec, place: PortPlace) -> Result<(), OpenError> {
        let kept = self.ports.get_mut(&key(spec)).filter(|kept| kept.place() == place);
        let kept = kept.ok_or_else(|| OpenError::Invalid("no such port is open".to_owned()))?;
        self.opener.keep_port(spec, place, kept.fd.as_fd())?;
        kept.facts.lasting = true;
        Ok(())
    }

    fn discard(&mut self, device: &DeviceName) -> Result<bool, OpenError> {
        // Held here for a switch process before this one, for which it was declared.
        let key = (device.netns.clone(), device.ifname.clone());
        let there = self.ports.contains_key(&key);
        self.remove(&key);
        Ok(self.opener.discard_port(device)? || there)
    }

    /// The end of the daemon, which was told to end. Pods keep their devices. The node's own go, with what belongs to
    /// them, if the switch process has not seen to that.
    pub fn leave(&mut self) {
        let of_node = |(key, kept): (&Key, &Held)| kept.spec.node.is_some().then(|| key.clone());
        let left: Vec<Key> = self.ports.iter().filter_map(of_node).collect();
        if left.is_empty() {
            return;
        }
        if let Err(e) = self.host.remove() {
            tracing::warn!("taking rules from the node's kernel: {e}");
        }
        left.iter().for_each(|key| self.remove(key));
    }

    fn bind(&mut self, tenure: Tenure, addr: IpAddr, port: u16) -> Answer {
        if let Some(bound) = self.sockets.get_mut(&(addr, port))
            && let Ok(fd) = bound.fd.try_clone()
        {
            bound.asked[tenure.slot()] = true;
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
                    let mut asked = [false; TENURES];
                    asked[tenure.slot()] = true;
                    let stored = self.store.keep_underlay(&bound);
                    self.sockets.insert((addr, port), Bound { fd: bound, asked, stored });
                }
                (Reply::Socket, Some(copy))
            }
            Err(e) => (Reply::Refused(internal(format!("copying a descriptor: {e}"))), None),
        }
    }

    /// A switch process may have to start while the address is away: within the node it is needed all the same.
    fn underlay_mtu(&mut self, addr: IpAddr) -> Answer {
        match (self.opener.underlay_mtu(addr), self.underlay) {
            (Ok(mtu), _) => {
                self.underlay = Some((addr, mtu));
                (Reply::Mtu(mtu), None)
            }
            (Err(OpenError::NoSuchAddress(_)), Some((known, mtu))) if known == addr => {
                (Reply::Mtu(mtu), None)
            }
            (Err(e), _) => (refused(&e), None),
        }
    }

    /// What hears of names is read there, and told what to watch here.
    fn watch_names(&mut self) -> Answer {
        self.names = None;
        let names = match self.opener.watch_names() {
            Ok(fd) => fd,
            Err(e) => return (refused(&e), None),
        };
        match names.try_clone() {
            Ok(copy) => {
                self.names = Some(names);
                (Reply::Socket, Some(copy))
            }
            Err(e) => (Reply::Refused(internal(format!("copying a descriptor: {e}"))), None),
        }
    }

    /// Lets go of a port that the switch closes.
    fn forget(&mut self, spec: &PortSpec, place: PortPlace) {
        let key = key(spec);
        if self.ports.get(&key).is_some_and(|kept| kept.place() == place)
            && let Some(kept) = self.ports.remove(&key)
        {
            self.store.forget(kept.stored.as_deref());
            let_go(kept.fd);
        }
    }

    /// Removes a port that nobody wants, device and all.
    fn remove(&mut self, key: &Key) {
        if let Some(kept) = self.ports.remove(key) {
            let place = kept.place();
            self.store.forget(kept.stored.as_deref());
            if let Err(e) = self.opener.close_port(&kept.spec, place) {
                tracing::warn!(ifname = kept.spec.ifname, netns = %kept.spec.netns, "removing a device: {e}");
            }
            let_go(kept.fd);
        }
    }

    /// Removes what the switch process has not asked for by the time it was ready: ports that were deleted just
    /// before the one before it ended, sockets of an underlay that was configured before.
    fn sweep(&mut self, tenure: Tenure) {
        let Self { sockets, store, .. } = self;
        sockets.retain(|_, bound| {
            let asked = bound.asked[tenure.slot()];
            if !asked {
                store.forget(bound.stored.as_deref());
            }
            asked
        });
        let unasked = |kept: &Held| !kept.asked[tenure.slot()];
        let left: Vec<Key> =
            self.ports.iter().filter(|(_, kept)| unasked(kept)).map(|(key, _)| key.clone()).collect();
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
