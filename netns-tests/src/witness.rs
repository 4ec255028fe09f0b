//! A server that says who it is and whom it sees: the claim "the source address is preserved" is the
//! receiver's, not ours.
//!
//! One thread serves TCP and UDP (and SCTP where the kernel has it) on one port. A request carries a
//! payload, which comes back after a line with the server's name and the asker's address as the server
//! sees it; the asker compares every byte. Over TCP and SCTP the payload's length goes first.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};
use socket2::{Domain, Protocol, Socket, Type};

use crate::error::{Context, Error, Result};
use crate::impair::Rng;
use crate::netns::Ns;

/// How long either side waits for the other, and for a connection.
const PATIENCE: Duration = Duration::from_secs(2);
/// Length of the line in front of the payload; the largest payload of a datagram is 65,507 less this.
const LINE: usize = 128;
/// IANA number of SCTP.
const SCTP: i32 = 132;

/// What carries a question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// A connection for each question.
    Tcp,
    /// One datagram there, one back.
    Udp,
    /// As TCP.
    Sctp,
}

/// What a witness said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Testimony {
    /// The witness.
    pub name: String,
    /// The address the question came from.
    pub source: IpAddr,
}

/// A witness; it goes when dropped.
#[derive(Debug)]
pub struct Witness {
    stop: Arc<OwnedFd>,
    thread: Option<JoinHandle<()>>,
}

/// Whether this kernel has SCTP.
pub fn has_sctp() -> bool {
    Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::from(SCTP))).is_ok()
}

impl Witness {
    /// One that listens on all addresses of a namespace, of both families. Only for namespaces with one
    /// address of a family: the kernel chooses what datagrams are answered from.
    pub fn everywhere(ns: &Ns, name: &str, port: u16) -> Result<Self> {
        Self::at(ns, name, SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), port))
    }

    /// One that listens on one address.
    pub fn at(ns: &Ns, name: &str, at: SocketAddr) -> Result<Self> {
        let (streams, datagrams) =
            ns.run_in(|| listen(at))?.context(format!("witness {name} at {at} in {}", ns.name()))?;
        let stop = Arc::new(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?);
        let (stopped, name) = (stop.clone(), name.to_owned());
        let thread = std::thread::Builder::new()
            .name(format!("witness {name}"))
            .spawn(move || serve(&name, &streams, &datagrams, &stopped))?;
        Ok(Self { stop, thread: Some(thread) })
    }
}

impl Drop for Witness {
    fn drop(&mut self) {
        // Fails only if it was told already.
        let _ = rustix::io::write(&self.stop, &1u64.to_ne_bytes());
        if let Some(thread) = self.thread.take() {
            // It does not panic.
            let _ = thread.join();
        }
    }
}

fn listen(at: SocketAddr) -> Result<(Vec<Socket>, UdpSocket)> {
    let any = |kind: Type, protocol: Protocol| -> Result<Socket> {
        let socket = Socket::new(Domain::for_address(at), kind, Some(protocol))?;
        if at.is_ipv6() {
            socket.set_only_v6(!at.ip().is_unspecified())?;
        }
        socket.set_reuse_address(true)?;
        socket.bind(&at.into())?;
        socket.set_nonblocking(true)?;
        Ok(socket)
    };
    let mut streams = vec![any(Type::STREAM, Protocol::TCP)?];
    if has_sctp() {
        streams.push(any(Type::STREAM, Protocol::from(SCTP))?);
    }
    for socket in &streams {
        socket.listen(64)?;
    }
    let datagrams = any(Type::DGRAM, Protocol::UDP)?;
    datagrams.set_recv_buffer_size(4 << 20)?;
    Ok((streams, datagrams.into()))
}

fn serve(name: &str, streams: &[Socket], datagrams: &UdpSocket, stop: &OwnedFd) {
    let mut buffer = vec![0; 65_536];
    loop {
        let mut fds = vec![PollFd::new(stop, PollFlags::IN), PollFd::new(datagrams, PollFlags::IN)];
        fds.extend(streams.iter().map(|s| PollFd::from_borrowed_fd(s.as_fd(), PollFlags::IN)));
        match poll(&mut fds, None) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(_) => return,
        }
        if !fds[0].revents().is_empty() {
            return;
        }
        for socket in streams {
            while let Ok((connection, _)) = socket.accept() {
                // An asker that gives up, or goes, hears nothing; that is for it to tell.
                let _ = answer_stream(name, connection);
            }
        }
        while let Ok((n, from)) = datagrams.recv_from(&mut buffer) {
            let mut reply = line(name, from.ip());
            reply.extend_from_slice(&buffer[..n]);
            let _ = datagrams.send_to(&reply, from);
        }
    }
}

fn answer_stream(name: &str, connection: Socket) -> Result<()> {
    connection.set_nonblocking(false)?;
    let peer = connection.peer_addr()?.as_socket().ok_or("no address")?;
    let mut stream: TcpStream = connection.into();
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let mut length = [0; 4];
    stream.read_exact(&mut length)?;
    let mut payload = vec![0; u32::from_be_bytes(length).min(1 << 24) as usize];
    stream.read_exact(&mut payload)?;
    let mut reply = line(name, peer.ip());
    reply.extend_from_slice(&payload);
    stream.write_all(&reply)?;
    Ok(())
}

fn line(name: &str, source: IpAddr) -> Vec<u8> {
    let mut line = format!("{name} {}", source.to_canonical()).into_bytes();
    line.resize(LINE, b' ');
    line
}

/// Asks a witness from a namespace, with a payload of `size` bytes.
pub fn ask(from: &Ns, transport: Transport, to: SocketAddr, size: usize) -> Result<Testimony> {
    ask_as(from, transport, None, to, size)
}

/// As [`ask`], from a given address and port.
pub fn ask_as(
    from: &Ns,
    transport: Transport,
    source: Option<SocketAddr>,
    to: SocketAddr,
    size: usize,
) -> Result<Testimony> {
    from.run_in(|| ask_here(transport, source, to, size))?
        .context(format!("{} asks {to} over {transport:?} with {size} bytes", from.name()))
}

/// As [`ask_as`], in the namespace that the calling thread is in.
pub fn ask_here(
    transport: Transport,
    source: Option<SocketAddr>,
    to: SocketAddr,
    size: usize,
) -> Result<Testimony> {
    let payload = Rng::new(size as u64 ^ u64::from(to.port())).bytes(size);
    let reply = match transport {
        Transport::Udp => ask_datagram(source, to, &payload)?,
        Transport::Tcp => ask_stream(Protocol::TCP, source, to, &payload)?,
        Transport::Sctp => ask_stream(Protocol::from(SCTP), source, to, &payload)?,
    };
    let (line, echo) = reply.split_at_checked(LINE).ok_or("the answer is cut off")?;
    if echo != payload {
        return Err(Error::failed(format!("{size} bytes came back changed, or {} of them", echo.len())));
    }
    let line = String::from_utf8_lossy(line);
    let (name, source) = line.trim().split_once(' ').ok_or("no testimony in the answer")?;
    Ok(Testimony { name: name.to_owned(), source: source.parse()? })
}

fn ask_datagram(source: Option<SocketAddr>, to: SocketAddr, payload: &[u8]) -> Result<Vec<u8>> {
    let socket = UdpSocket::bind(source.unwrap_or_else(|| any(to)))?;
    socket.connect(to)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    socket.send(payload)?;
    let mut reply = vec![0; 65_536];
    let n = socket.recv(&mut reply)?;
    reply.truncate(n);
    Ok(reply)
}

fn ask_stream(
    protocol: Protocol,
    source: Option<SocketAddr>,
    to: SocketAddr,
    payload: &[u8],
) -> Result<Vec<u8>> {
    let socket = Socket::new(Domain::for_address(to), Type::STREAM, Some(protocol))?;
    if let Some(source) = source {
        socket.set_reuse_address(true)?;
        socket.bind(&source.into())?;
    }
    socket.connect_timeout(&to.into(), PATIENCE).context("connect")?;
    let mut stream: TcpStream = socket.into();
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let length = u32::try_from(payload.len()).map_err(|_| Error::failed("payload"))?;
    stream.write_all(&length.to_be_bytes())?;
    stream.write_all(payload)?;
    let mut reply = Vec::new();
    stream.read_to_end(&mut reply)?;
    Ok(reply)
}

fn any(like: SocketAddr) -> SocketAddr {
    let ip = if like.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    SocketAddr::new(ip, 0)
}
