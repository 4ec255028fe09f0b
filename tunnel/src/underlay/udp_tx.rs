//! The sending UDP sockets: per peer, connected, one for each TOS byte and lane in use.
//!
//! A connected socket keeps its route, and a TOS byte set once on the socket costs nothing per send; a TOS
//! control message would make the kernel look up the route again each time. Sockets are opened when first
//! needed. A peer with more than [`MAX_CODEPOINTS`] different TOS bytes sends the others through one shared
//! unconnected socket.
//!
//! What can go wrong and what is done: a pending ICMP error is reported by the kernel on the next send, so
//! the first `ECONNREFUSED`, `EHOSTUNREACH` or `EMSGSIZE` is retried once; a device that cannot cut runs
//! (`EIO`, `EINVAL`) is remembered per peer, and the run goes out as single datagrams. What the kernel does not
//! report cannot be counted here: a datagram that a full device queue drops counts as sent.

use super::{Limits, MAX_PAYLOAD_V4, MAX_PAYLOAD_V6, PeerAddr, SOCKET_BUFFER, Spares, UnderlayTx, sys};
use crate::entropy;
use socket2::{Domain, Protocol, SockAddr, Socket, Type};
use std::io::{self, IoSlice};
use std::net::{IpAddr, SocketAddr};
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// Peers one sender keeps sockets for.
pub const MAX_PEERS: u32 = 65_536;
/// TOS bytes with sockets of their own, per peer.
pub const MAX_CODEPOINTS: usize = 8;

/// `UDP_SEGMENT` of linux/udp.h.
const UDP_SEGMENT: i32 = 103;
/// `UDP_NO_CHECK6_TX` of linux/udp.h (RFC 6935).
const UDP_NO_CHECK6_TX: i32 = 101;
/// What every kernel with `UDP_SEGMENT` takes.
const SEGMENTS: usize = 64;
/// What newer kernels take.
const MORE_SEGMENTS: usize = 128;
/// Source ports tried before the kernel is left to choose.
const PORT_ATTEMPTS: u32 = 8;
/// Parts of one fallback message; the sender makes two per segment.
const MAX_PARTS: usize = 8;

/// How to send.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TxOptions {
    /// Source ports per peer, 1 to [`entropy::MAX_LANES`].
    pub lanes: u16,
}

impl Default for TxOptions {
    fn default() -> Self {
        Self { lanes: 1 }
    }
}

/// Events that are no per-frame outcome.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct TxStats {
    /// Pending errors (ICMP) that a retry got rid of.
    pub pending_errors: u64,
    /// Sends refused because a datagram exceeds the path MTU.
    pub too_big: u64,
    /// Runs sent as single datagrams.
    pub unsegmented: u64,
    /// Sends through the shared socket.
    pub shared: u64,
    /// Sockets opened.
    pub sockets: u64,
}

#[derive(Debug)]
struct Peer {
    addr: SocketAddr,
    checksum: bool,
    sockets: Vec<Conn>,
    /// Distinct TOS bytes in `sockets`.
    codepoints: usize,
    /// The path takes `UDP_SEGMENT`.
    segmentation: bool,
}

#[derive(Debug)]
struct Conn {
    tos: u8,
    lane: u16,
    socket: Socket,
}

/// Sends runs of datagrams from one local address.
#[derive(Debug)]
pub struct UdpTx {
    local: IpAddr,
    options: TxOptions,
    max_segments: usize,
    peers: Vec<Option<Peer>>,
    shared: Option<Socket>,
    /// Made by somebody with more privilege.
    spares: Option<Spares>,
    stats: TxStats,
}

impl UdpTx {
    /// A sender from `local` (unspecified: the kernel's choice). Opens nothing but a probe on loopback.
    #[must_use]
    pub fn new(local: IpAddr, options: TxOptions) -> Self {
        let options = TxOptions { lanes: options.lanes.clamp(1, entropy::MAX_LANES) };
        let max_segments = if probe(MORE_SEGMENTS).is_ok() { MORE_SEGMENTS } else { SEGMENTS };
        let stats = TxStats::default();
        Self { local, options, max_segments, peers: Vec::new(), shared: None, spares: None, stats }
    }

    /// The same sender, which takes its sockets from here while there are any.
    #[must_use]
    pub fn with_spares(self, spares: Spares) -> Self {
        Self { spares: Some(spares), ..self }
    }

    /// A socket that is not bound yet, with as large a buffer as this process may give it.
    ///
    /// # Errors
    /// Those of the system.
    pub fn blank(local: IpAddr) -> io::Result<OwnedFd> {
        blank(local).map(Into::into)
    }

    fn open(&self, tos: Option<u8>, checksum: bool, seed: u32) -> io::Result<Socket> {
        let socket = match self.spares.as_ref().and_then(Spares::take) {
            Some(spare) => spare.into(),
            None => blank(self.local)?,
        };
        open(socket, self.local, tos, checksum, seed)
    }

    /// Counters since the start.
    #[must_use]
    pub fn stats(&self) -> TxStats {
        self.stats
    }

    /// Does the path to this peer take runs, as far as is known?
    #[must_use]
    pub fn segmentation(&self, id: u32) -> bool {
        let known = self.peers.get(id as usize).and_then(Option::as_ref);
        known.is_none_or(|p| p.checksum && p.segmentation)
    }

    /// Bounds the path's ability by hand: `false` sends single datagrams from now on.
    pub fn set_segmentation(&mut self, to: &PeerAddr, on: bool) {
        if let Ok(peer) = self.peer(to) {
            peer.segmentation = on;
        }
    }

    fn peer(&mut self, to: &PeerAddr) -> io::Result<&mut Peer> {
        if to.id >= MAX_PEERS || to.addr.is_ipv4() != self.local.is_ipv4() {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let index = to.id as usize;
        if index >= self.peers.len() {
            self.peers.resize_with(index + 1, || None);
        }
        let slot = self.peers.get_mut(index).ok_or(io::ErrorKind::InvalidInput)?;
        if slot.as_ref().is_some_and(|p| (p.addr, p.checksum) != (to.addr, to.checksum)) {
            *slot = None;
        }
        Ok(slot.get_or_insert_with(|| Peer {
            addr: to.addr,
            checksum: to.checksum,
            sockets: Vec::new(),
            codepoints: 0,
            segmentation: true,
        }))
    }

    /// Index of the connected socket to use, opened if need be; `None` for the shared one.
    fn connection(&mut self, to: &PeerAddr, tos: u8, lane: u16) -> io::Result<Option<usize>> {
        let peer = self.peer(to)?;
        if let Some(at) = peer.sockets.iter().position(|c| c.tos == tos && c.lane == lane) {
            return Ok(Some(at));
        }
        let new_codepoint = !peer.sockets.iter().any(|c| c.tos == tos);
        if new_codepoint && peer.codepoints == MAX_CODEPOINTS {
            return Ok(None);
        }
        let socket = self.open(Some(tos), to.checksum, seed(to, tos, lane))?;
        socket.connect(&SockAddr::from(to.addr))?;
        self.stats.sockets += 1;
        let peer = self.peer(to)?;
        peer.codepoints += usize::from(new_codepoint);
        peer.sockets.push(Conn { tos, lane, socket });
        Ok(Some(peer.sockets.len() - 1))
    }
}

impl UnderlayTx for UdpTx {
    fn limits(&self, to: &PeerAddr) -> Limits {
        Limits {
            segments: self.max_segments,
            bytes: if to.addr.is_ipv4() { MAX_PAYLOAD_V4 } else { MAX_PAYLOAD_V6 },
            lanes: self.options.lanes,
        }
    }

    fn send(
        &mut self,
        to: &PeerAddr,
        tos: u8,
        lane: u16,
        parts: &[IoSlice<'_>],
        segment: usize,
    ) -> io::Result<()> {
        let total: usize = parts.iter().map(|p| p.len()).sum();
        let connection = self.connection(to, tos, lane)?;
        if connection.is_none() && self.shared.is_none() {
            self.shared = Some(self.open(None, true, 0)?);
            self.stats.sockets += 1;
        }
        let Some(Some(peer)) = self.peers.get_mut(to.id as usize) else {
            return Err(io::ErrorKind::InvalidInput.into());
        };
        let mut control = sys::Control::EMPTY;
        let (socket, addr) = match (connection.and_then(|at| peer.sockets.get(at)), &self.shared) {
            (Some(conn), _) => (&conn.socket, None),
            (None, Some(shared)) => {
                self.stats.shared += 1;
                let (level, kind) = tos_option(self.local);
                control.push(level, kind, &i32::from(tos).to_ne_bytes());
                (shared, Some(SockAddr::from(to.addr)))
            }
            (None, None) => return Err(io::ErrorKind::NotConnected.into()),
        };
        let mut out = Out { fd: socket.as_fd(), to: addr.as_ref(), control, stats: &mut self.stats };
        if segment == 0 || total <= segment {
            return out.whole(parts);
        }
        if peer.segmentation && peer.checksum {
            let Ok(size) = u16::try_from(segment) else { return Err(io::ErrorKind::InvalidInput.into()) };
            match out.run(parts, size) {
                Err(e) if matches!(e.raw_os_error(), Some(libc::EIO | libc::EINVAL)) => {
                    out.singles(parts, segment)?;
                    // Only now is it known that the run, and not something else, was the obstacle.
                    peer.segmentation = false;
                    Ok(())
                }
                other => other,
            }
        } else {
            out.singles(parts, segment)
        }
    }

    fn forget(&mut self, id: u32) {
        if let Some(slot) = self.peers.get_mut(id as usize) {
            *slot = None;
        }
    }
}

/// One socket and what is said with every message.
struct Out<'s> {
    fd: BorrowedFd<'s>,
    to: Option<&'s SockAddr>,
    control: sys::Control,
    stats: &'s mut TxStats,
}

impl Out<'_> {
    /// Does `call` once more if the first error may be the echo of an earlier packet.
    fn retried<T>(&mut self, mut call: impl FnMut(&Self) -> io::Result<T>) -> io::Result<T> {
        let result = match call(self) {
            Err(e) if pending(&e) => {
                let again = call(self);
                if again.is_ok() {
                    self.stats.pending_errors += 1;
                }
                again
            }
            other => other,
        };
        if result.as_ref().is_err_and(|e| e.raw_os_error() == Some(libc::EMSGSIZE)) {
            self.stats.too_big += 1;
        }
        result
    }

    fn whole(&mut self, parts: &[IoSlice<'_>]) -> io::Result<()> {
        self.retried(|o| sys::send(o.fd, parts, &o.control, o.to)).map(drop)
    }

    fn run(&mut self, parts: &[IoSlice<'_>], segment: u16) -> io::Result<()> {
        let plain = self.control;
        self.control.push(libc::IPPROTO_UDP, UDP_SEGMENT, &segment.to_ne_bytes());
        let result = self.whole(parts);
        self.control = plain;
        result
    }

    /// One datagram per segment, many per system call.
    fn singles(&mut self, parts: &[IoSlice<'_>], segment: usize) -> io::Result<()> {
        self.stats.unsegmented += 1;
        let mut cursor = Cursor { parts, at: 0, offset: 0 };
        let mut pieces = [IoSlice::new(&[]); sys::BATCH * MAX_PARTS];
        let mut ranges = [const { 0..0 }; sys::BATCH];
        loop {
            let count = cursor.fill(segment, &mut pieces, &mut ranges)?;
            if count == 0 {
                return Ok(());
            }
            let mut sent = 0;
            // Each call sends at least one datagram or fails, so this is bounded by `count`.
            while sent < count {
                let todo = ranges.get(sent..count).unwrap_or(&[]);
                let n = self.retried(|o| sys::send_many(o.fd, &pieces, todo, &o.control, o.to))?;
                if n == 0 {
                    return Err(io::ErrorKind::WriteZero.into());
                }
                sent += n;
            }
        }
    }
}

/// Walks gathered parts in steps of one segment.
struct Cursor<'p> {
    parts: &'p [IoSlice<'p>],
    at: usize,
    offset: usize,
}

impl<'p> Cursor<'p> {
    /// Describes the next datagrams, as many as fit; returns how many. Ranges index `pieces`.
    fn fill(
        &mut self,
        segment: usize,
        pieces: &mut [IoSlice<'p>; sys::BATCH * MAX_PARTS],
        ranges: &mut [Range<usize>; sys::BATCH],
    ) -> io::Result<usize> {
        let mut used = 0;
        for (count, range) in ranges.iter_mut().enumerate() {
            let from = used;
            let mut left = segment;
            while left > 0 {
                let Some(part) = self.parts.get(self.at) else { break };
                let rest = part.get(self.offset..).unwrap_or(&[]);
                let take = rest.len().min(left);
                if take > 0 {
                    if used - from == MAX_PARTS {
                        return Err(io::ErrorKind::InvalidInput.into());
                    }
                    let slot = pieces.get_mut(used).ok_or(io::ErrorKind::InvalidInput)?;
                    *slot = IoSlice::new(&self.parts[self.at][self.offset..self.offset + take]);
                    used += 1;
                    left -= take;
                }
                if take == rest.len() {
                    self.at += 1;
                    self.offset = 0;
                } else {
                    self.offset += take;
                }
            }
            if used == from {
                return Ok(count);
            }
            *range = from..used;
        }
        Ok(sys::BATCH)
    }
}

/// May this be the report of what an earlier packet met?
fn pending(e: &io::Error) -> bool {
    matches!(e.raw_os_error(), Some(libc::ECONNREFUSED | libc::EHOSTUNREACH | libc::EMSGSIZE))
}

fn tos_option(local: IpAddr) -> (i32, i32) {
    match local {
        IpAddr::V4(_) => (libc::IPPROTO_IP, libc::IP_TOS),
        IpAddr::V6(_) => (libc::IPPROTO_IPV6, libc::IPV6_TCLASS),
    }
}

/// Start of the search for a free source port; any value serves.
fn seed(to: &PeerAddr, tos: u8, lane: u16) -> u32 {
    let key = u64::from(to.id) << 32 | u64::from(lane) << 8 | u64::from(tos);
    packet::flow::mix(key, u64::from(std::process::id())) as u32
}

fn blank(local: IpAddr) -> io::Result<Socket> {
    let domain = Domain::for_address(SocketAddr::new(local, 0));
    let socket = Socket::new(domain, Type::DGRAM.cloexec().nonblocking(), Some(Protocol::UDP))?;
    let size = SOCKET_BUFFER as i32;
    if sys::set_int(socket.as_fd(), libc::SOL_SOCKET, libc::SO_SNDBUFFORCE, size).is_err() {
        // The system's limit applies; a smaller buffer drops earlier, which is counted.
        let _ = sys::set_int(socket.as_fd(), libc::SOL_SOCKET, libc::SO_SNDBUF, size);
    }
    Ok(socket)
}

/// Makes of a blank socket an unconnected one; `tos` is set on it unless it comes with each message.
fn open(socket: Socket, local: IpAddr, tos: Option<u8>, checksum: bool, seed: u32) -> io::Result<Socket> {
    let any = SocketAddr::new(local, 0);
    let fd = socket.as_fd();
    let (level, kind) = tos_option(local);
    if let Some(tos) = tos {
        sys::set_int(fd, level, kind, i32::from(tos))?;
    }
    // PROBE: the outer packet may not be fragmented, and a forged ICMP error cannot shrink the path.
    match local {
        IpAddr::V4(_) => sys::set_int(fd, level, libc::IP_MTU_DISCOVER, libc::IP_PMTUDISC_PROBE)?,
        IpAddr::V6(_) => {
            socket.set_only_v6(true)?;
            sys::set_int(fd, level, libc::IPV6_MTU_DISCOVER, libc::IPV6_PMTUDISC_PROBE)?;
        }
    }
    if !checksum {
        match local {
            IpAddr::V4(_) => sys::set_int(fd, libc::SOL_SOCKET, libc::SO_NO_CHECK, 1)?,
            IpAddr::V6(_) => sys::set_int(fd, libc::IPPROTO_UDP, UDP_NO_CHECK6_TX, 1)?,
        }
    }
    // Nothing is read from it, so whatever a peer sends back may be dropped early.
    let _ = sys::set_int(fd, libc::SOL_SOCKET, libc::SO_RCVBUF, 0);
    for attempt in 0..PORT_ATTEMPTS {
        let port = entropy::source_port(seed.wrapping_add(attempt.wrapping_mul(0x9e37_79b9)));
        match socket.bind(&SockAddr::from(SocketAddr::new(local, port))) {
            Err(e) if e.kind() == io::ErrorKind::AddrInUse => {}
            other => return other.map(|()| socket),
        }
    }
    socket.bind(&SockAddr::from(any))?;
    Ok(socket)
}

/// Does the kernel cut `segments` datagrams in one send? One small send from a loopback socket to itself.
fn probe(segments: usize) -> io::Result<()> {
    let socket = std::net::UdpSocket::bind("127.0.0.1:0")?;
    socket.connect(socket.local_addr()?)?;
    let mut control = sys::Control::EMPTY;
    control.push(libc::IPPROTO_UDP, UDP_SEGMENT, &1u16.to_ne_bytes());
    let bytes = [0; MORE_SEGMENTS];
    let bytes = bytes.get(..segments).unwrap_or(&bytes);
    sys::send(socket.as_fd(), &[IoSlice::new(bytes)], &control, None).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cursor_cuts_at_segments_not_at_parts() {
        let bytes: Vec<u8> = (0..=255).collect();
        let parts: Vec<_> =
            [&bytes[..3], &bytes[3..3], &bytes[3..20], &bytes[20..]].map(IoSlice::new).to_vec();
        let mut cursor = Cursor { parts: &parts, at: 0, offset: 0 };
        let mut pieces = [IoSlice::new(&[]); sys::BATCH * MAX_PARTS];
        let mut ranges = [const { 0..0 }; sys::BATCH];
        let count = cursor.fill(10, &mut pieces, &mut ranges).unwrap();
        let list: Vec<Vec<u8>> = ranges[..count]
            .iter()
            .map(|r| pieces[r.clone()].iter().flat_map(|p| p.to_vec()).collect())
            .collect();
        assert_eq!(list, bytes.chunks(10).map(<[u8]>::to_vec).collect::<Vec<_>>());
        assert_eq!(cursor.fill(10, &mut pieces, &mut ranges).unwrap(), 0);
    }
}
