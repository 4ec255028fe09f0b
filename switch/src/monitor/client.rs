//! The switch process's end: what needs privilege is asked of the monitor.

use std::io;
use std::net::IpAddr;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::mpsc::sync_channel;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::channel::Channel;
use super::message::{PROTOCOL, Refused, Reply, Request};
use crate::io::{
    DeviceName, LinkWatch, OpenError, OpenedPort, Opener, PortHealth, PortPlace, PortSpec, Reserve,
    UnderlayLink,
};
use crate::node::{NodeError, NodeHost, NodePlan, Obstacle};

/// The connection to the monitor; clones share it.
#[derive(Clone, Debug)]
pub struct Client(Arc<Mutex<Channel>>, Arc<Reserve>);

impl Client {
    /// Greets the monitor at the other end. To be called while the process may ask for its limits.
    ///
    /// # Errors
    /// Those of the socket, or the monitor speaks another protocol.
    pub fn new(stream: UnixStream) -> io::Result<Self> {
        let client = Self(Arc::new(Mutex::new(Channel::new(stream))), Arc::new(Reserve::fixed()?));
        match client.ask(&Request::Hello(PROTOCOL))? {
            (Reply::Done, _) => Ok(client),
            (Reply::Refused(refused), _) => Err(io::Error::other(refused.text)),
            (other, _) => Err(unexpected(&other)),
        }
    }

    /// Everything declared has been asked for; another process forwards.
    ///
    /// # Errors
    /// Those of the socket.
    pub fn prepared(&self) -> io::Result<()> {
        self.ask(&Request::Prepared).map(drop)
    }

    /// Everything declared has been asked for and is in force.
    ///
    /// # Errors
    /// Those of the socket.
    pub fn ready(&self) -> io::Result<()> {
        self.ask(&Request::Ready).map(drop)
    }

    /// The switch ends because it was told to.
    ///
    /// # Errors
    /// Those of the socket.
    pub fn stopping(&self) -> io::Result<()> {
        self.ask(&Request::Stopping).map(drop)
    }

    fn ask(&self, request: &Request) -> io::Result<(Reply, Option<OwnedFd>)> {
        let mut channel = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let answer = channel.send(request, None).and_then(|()| channel.recv());
        if answer.as_ref().is_err_and(|e| GONE.contains(&e.kind())) {
            // The monitor has ended, and the kernel ends this process with it. Until then a client gets no answer: the
            // one to come, that nothing can be done, would not be true of the next daemon, which it can ask again.
            let (_never, end) = sync_channel::<()>(0);
            let _ = end.recv_timeout(WITH_IT);
        }
        answer
    }

    fn open(&self, request: &Request) -> Result<(Reply, Option<OwnedFd>), OpenError> {
        match self.ask(request).map_err(lost)? {
            (Reply::Refused(refused), _) => Err(told(refused)),
            answer => Ok(answer),
        }
    }

    fn node(&self, request: &Request) -> Result<Reply, NodeError> {
        match self.ask(request) {
            Ok((Reply::Refused(refused), _)) => {
                Err(NodeError::Told { reason: refused.reason(), text: refused.text })
            }
            Ok((Reply::Stuck(_), _)) => Err(NodeError::Stuck { what: "setting up the node" }),
            Ok((reply, _)) => Ok(reply),
            Err(cause) => Err(NodeError::Run { what: ASKING, cause }),
        }
    }
}

/// What is heard of a monitor that has ended.
const GONE: [io::ErrorKind; 3] =
    [io::ErrorKind::UnexpectedEof, io::ErrorKind::ConnectionReset, io::ErrorKind::BrokenPipe];
/// This process is ended within that time of its monitor.
const WITH_IT: Duration = Duration::from_secs(1);
const ASKING: &str = "asking the monitor";

fn lost(cause: io::Error) -> OpenError {
    OpenError::Io { what: ASKING.into(), cause }
}

fn told(refused: Refused) -> OpenError {
    OpenError::Told { reason: refused.reason(), text: refused.text, hint: refused.hint }
}

fn unexpected(reply: &Reply) -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidData,
        format!("the monitor gave an answer to something else: {reply:?}"),
    )
}

impl Opener for Client {
    fn open_port(&mut self, spec: &PortSpec) -> Result<OpenedPort, OpenError> {
        match self.open(&Request::OpenPort(Box::new(spec.clone())))? {
            // One that was there before keeps its place.
            (Reply::Port(facts), fd) if !facts.adopted && self.1.room().is_err() || fd.is_none() => {
                drop(fd);
                self.close_port(spec, PortPlace { netns_id: facts.netns_id, ifindex: facts.ifindex })?;
                Err(self.1.full())
            }
            (Reply::Port(facts), Some(fd)) => Ok(OpenedPort {
                fd,
                ifindex: facts.ifindex,
                netns_id: facts.netns_id,
                identity: facts.identity,
                offloads: facts.offloads,
                gso_max_size: facts.gso_max_size,
                adopted: facts.adopted,
                lasting: facts.lasting,
            }),
            (other, _) => Err(lost(unexpected(&other))),
        }
    }

    fn keep_port(&mut self, spec: &PortSpec, place: PortPlace, _: BorrowedFd<'_>) -> Result<(), OpenError> {
        self.open(&Request::KeepPort(Box::new(spec.clone()), place)).map(drop)
    }

    fn discard_port(&mut self, device: &DeviceName) -> Result<bool, OpenError> {
        match self.open(&Request::DiscardPort(device.clone()))? {
            (Reply::Changed(there), _) => Ok(there),
            (other, _) => Err(lost(unexpected(&other))),
        }
    }

    fn close_port(&mut self, spec: &PortSpec, place: PortPlace) -> Result<(), OpenError> {
        self.open(&Request::ClosePort(Box::new(spec.clone()), place)).map(drop)
    }

    fn check_port(&mut self, spec: &PortSpec, place: PortPlace) -> Result<PortHealth, OpenError> {
        match self.open(&Request::CheckPort(Box::new(spec.clone()), place))? {
            (Reply::Health(health), _) => Ok(health),
            (other, _) => Err(lost(unexpected(&other))),
        }
    }

    fn restore_port(&mut self, spec: &PortSpec, place: PortPlace) -> Result<(), OpenError> {
        self.open(&Request::RestorePort(Box::new(spec.clone()), place)).map(drop)
    }

    fn bind_underlay(&mut self, addr: IpAddr, port: u16) -> Result<OwnedFd, OpenError> {
        match self.open(&Request::BindUnderlay(addr, port))? {
            (Reply::Socket, Some(fd)) => Ok(fd),
            (other, _) => Err(lost(unexpected(&other))),
        }
    }

    fn sending_socket(&mut self, local: IpAddr) -> Result<OwnedFd, OpenError> {
        match self.open(&Request::SendingSocket(local))? {
            (Reply::Socket, Some(fd)) => Ok(fd),
            (other, _) => Err(lost(unexpected(&other))),
        }
    }

    fn underlay_link(&mut self, addr: IpAddr) -> Result<Option<UnderlayLink>, OpenError> {
        match self.open(&Request::UnderlayLink(addr))? {
            (Reply::Link(link), _) => Ok(link),
            (other, _) => Err(lost(unexpected(&other))),
        }
    }

    fn underlay_mtu(&mut self, addr: IpAddr) -> Result<u32, OpenError> {
        match self.open(&Request::UnderlayMtu(addr))? {
            (Reply::Mtu(mtu), _) => Ok(mtu),
            (other, _) => Err(lost(unexpected(&other))),
        }
    }

    fn watch_links(&mut self) -> Result<LinkWatch, OpenError> {
        match self.open(&Request::WatchLinks)? {
            (Reply::Watch(deaf), Some(fd)) => Ok(LinkWatch { fd, deaf }),
            (other, _) => Err(lost(unexpected(&other))),
        }
    }

    fn watch_names(&mut self) -> Result<OwnedFd, OpenError> {
        match self.open(&Request::WatchNames)? {
            (Reply::Socket, Some(fd)) => Ok(fd),
            (other, _) => Err(lost(unexpected(&other))),
        }
    }

    /// The monitor has kept its own copy of what hears of names.
    fn watch_port(
        &mut self,
        spec: &PortSpec,
        place: PortPlace,
        _: Option<BorrowedFd<'_>>,
    ) -> Result<Option<i32>, OpenError> {
        match self.open(&Request::WatchPort(Box::new(spec.clone()), place))? {
            (Reply::Namespace(nsid), _) => Ok(nsid),
            (other, _) => Err(lost(unexpected(&other))),
        }
    }
}

impl NodeHost for Client {
    fn apply(&mut self, plan: &NodePlan) -> Result<bool, NodeError> {
        Ok(matches!(self.node(&Request::ApplyNode(Box::new(plan.clone())))?, Reply::Changed(true)))
    }

    fn remove(&mut self) -> Result<(), NodeError> {
        self.node(&Request::RemoveNode).map(drop)
    }

    fn verify(&mut self) -> Result<bool, NodeError> {
        Ok(matches!(self.node(&Request::VerifyNode)?, Reply::Changed(false)))
    }

    fn obstacles(&mut self) -> Vec<Obstacle> {
        match self.node(&Request::Obstacles) {
            Ok(Reply::Obstacles(list)) => list,
            _ => Vec::new(),
        }
    }
}
