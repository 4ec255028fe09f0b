//! The node's side of the underlay: datagrams in, runs of datagrams out.
//!
//! Two traits, and two implementations of each: real UDP sockets ([`UdpRx`], [`UdpTx`]) and memory twins
//! ([`memory`]) for tests without privileges and with a virtual clock. A run is several datagrams of one size
//! (the last may be shorter) to one peer; the kernel cuts it (`UDP_SEGMENT`) and may glue what arrives
//! (`UDP_GRO`), and the traits speak in runs because a system call per datagram is what makes tunnels slow.

pub mod memory;
mod spares;
#[allow(unsafe_code)]
mod sys;
mod udp_rx;
mod udp_tx;

pub use spares::{Spares, Stock, spares};
pub use udp_rx::UdpRx;
pub use udp_tx::{MAX_CODEPOINTS, MAX_PEERS, TxOptions, TxStats, UdpTx};

use crate::Encap;
use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::ops::Range;

/// Bytes a receive buffer must have: the largest UDP payload, rounded up. Runs of up to 128 datagrams arrive
/// whole over a veth, so a buffer of a few MTUs would lose data.
pub const RECV_BUFFER: usize = 65_536;

/// Socket buffer asked for, in both directions.
pub const SOCKET_BUFFER: usize = 8 << 20;

/// UDP payload of one send over IPv4: 65,535 less 20 and 8.
pub const MAX_PAYLOAD_V4: usize = 65_507;
/// UDP payload of one send over IPv6, with room for one 40-byte header more than the protocol needs.
pub const MAX_PAYLOAD_V6: usize = 65_487;

/// What one receive yielded: `len` bytes of the buffer, in datagrams of `segment` bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Datagram {
    /// Bytes received.
    pub len: usize,
    /// Size of each datagram, the last one may be shorter; equals `len` for a single one.
    pub segment: usize,
    /// The outer source.
    pub src: SocketAddr,
    /// The outer DSCP and ECN byte, the same for all.
    pub tos: u8,
    /// How the socket's datagrams are wrapped.
    pub encap: Encap,
    /// The buffer was too small: the last datagram is incomplete.
    pub truncated: bool,
}

impl Datagram {
    /// The ranges of the single datagrams in the buffer. Each is non-empty.
    #[inline]
    pub fn ranges(&self) -> impl ExactSizeIterator<Item = Range<usize>> + use<> {
        let (len, step) = (self.len, self.segment.max(1));
        (0..len.div_ceil(step)).map(move |i| i * step..((i + 1) * step).min(len))
    }
}

/// Who to send to. The identifier names a set of sockets and must be small and dense (an index); another
/// address under the same identifier replaces them.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct PeerAddr {
    /// Index of the peer, below [`MAX_PEERS`].
    pub id: u32,
    /// Address and port of its tunnel endpoint.
    pub addr: SocketAddr,
    /// Compute the outer UDP checksum. Off, runs cannot be sent and receivers cannot glue; IPv6 receivers
    /// may refuse.
    pub checksum: bool,
}

/// Bounds of one send.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Limits {
    /// Datagrams per send.
    pub segments: usize,
    /// Bytes per send.
    pub bytes: usize,
    /// Lanes to spread flows over; see [`crate::entropy`].
    pub lanes: u16,
}

/// A source of tunnel datagrams.
pub trait UnderlayRx {
    /// Receives once, into a buffer of at least [`RECV_BUFFER`] bytes.
    ///
    /// # Errors
    /// `WouldBlock` when there is nothing; others are transient as well.
    fn recv(&mut self, buf: &mut [u8]) -> io::Result<Datagram>;
}

/// A sink for tunnel datagrams.
pub trait UnderlayTx {
    /// Bounds of a send to this peer.
    fn limits(&self, to: &PeerAddr) -> Limits;

    /// Sends the concatenation of `parts` in datagrams of `segment` bytes (0: as one). All of it or nothing
    /// counts: after an error the caller must assume that nothing arrived.
    ///
    /// # Errors
    /// `WouldBlock` or `ENOBUFS`: the egress is full. `EMSGSIZE`: a datagram exceeds the path MTU.
    fn send(
        &mut self,
        to: &PeerAddr,
        tos: u8,
        lane: u16,
        parts: &[IoSlice<'_>],
        segment: usize,
    ) -> io::Result<()>;

    /// Lets go of what is kept for a peer.
    fn forget(&mut self, id: u32) {
        let _ = id;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_cover_the_buffer() {
        let d = |len, segment| Datagram {
            len,
            segment,
            src: "127.0.0.1:1".parse().unwrap(),
            tos: 0,
            encap: Encap::Vxlan,
            truncated: false,
        };
        let list = |d: Datagram| d.ranges().collect::<Vec<_>>();
        assert_eq!(list(d(10, 4)), [0..4, 4..8, 8..10]);
        assert_eq!(list(d(8, 4)), [0..4, 4..8]);
        assert_eq!(list(d(3, 3)), vec![0..3; 1]);
        assert_eq!(list(d(0, 0)), []);
        assert_eq!(d(65_000, 0).ranges().len(), 65_000);
    }
}
