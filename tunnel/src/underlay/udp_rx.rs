//! The receiving UDP socket, bound to the tunnel port.
//!
//! Binding and using are separate: [`UdpRx::bind`] is for whoever opens things (the port may need a privilege
//! and the namespace matters), [`UdpRx::from_fd`] for whoever parses what arrives.
//!
//! Never with `SO_TIMESTAMPNS` (a clock read per packet), never with `SO_REUSEADDR` (a second daemon must
//! fail and not steal).

use super::{Datagram, SOCKET_BUFFER, UnderlayRx, sys};
use crate::Encap;
use socket2::{Domain, Protocol, SockAddr, Socket, Type};
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};

/// `UDP_NO_CHECK6_RX` of linux/udp.h.
const UDP_NO_CHECK6_RX: i32 = 102;
/// `UDP_GRO` of linux/udp.h.
const UDP_GRO: i32 = 104;

/// A socket that receives runs of datagrams.
#[derive(Debug)]
pub struct UdpRx {
    socket: Socket,
    local: SocketAddr,
    encap: Encap,
    gro: bool,
}

impl UdpRx {
    /// Opens and binds a socket, to be given to [`UdpRx::from_fd`].
    ///
    /// # Errors
    /// Those of socket(2) and bind(2); `AddrInUse` most likely means a kernel tunnel device or another
    /// switch on this port.
    pub fn bind(addr: SocketAddr) -> io::Result<OwnedFd> {
        let socket =
            Socket::new(Domain::for_address(addr), Type::DGRAM.cloexec().nonblocking(), Some(Protocol::UDP))?;
        if addr.is_ipv6() {
            socket.set_only_v6(true)?;
        }
        // The privileged variant ignores the system's limit; done here because this side may have the right.
        force_buffer(socket.as_fd());
        socket.bind(&SockAddr::from(addr))?;
        Ok(socket.into())
    }

    /// Adopts a bound UDP socket and sets what receiving needs, GRO if the kernel has it.
    ///
    /// Over IPv6 it takes datagrams without an outer checksum too, as tunnels may send them (RFC 6935). What RFC
    /// 6936 asks in return is done by whoever receives: the source must be a listed peer, and inner packets have
    /// checksums of their own.
    ///
    /// # Errors
    /// `InvalidInput` if it is not a bound UDP socket over IP; those of setsockopt(2).
    pub fn from_fd(fd: OwnedFd, encap: Encap) -> io::Result<Self> {
        let socket = Socket::from(fd);
        let wrong = |what| io::Error::new(io::ErrorKind::InvalidInput, what);
        if socket.protocol()? != Some(Protocol::UDP) {
            return Err(wrong("not a UDP socket"));
        }
        let local = socket.local_addr()?.as_socket().ok_or_else(|| wrong("not an IP socket"))?;
        if local.port() == 0 {
            return Err(wrong("not bound to a port"));
        }
        socket.set_nonblocking(true)?;
        // Asking again without privilege would shrink what the privileged side was granted.
        if socket.recv_buffer_size()? < SOCKET_BUFFER {
            force_buffer(socket.as_fd());
        }
        let fd = socket.as_fd();
        if local.is_ipv4() {
            sys::set_int(fd, libc::IPPROTO_IP, libc::IP_RECVTOS, 1)?;
            sys::set_int(fd, libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, libc::IP_PMTUDISC_DO)?;
        } else {
            sys::set_int(fd, libc::IPPROTO_IPV6, libc::IPV6_RECVTCLASS, 1)?;
            sys::set_int(fd, libc::IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER, libc::IPV6_PMTUDISC_DO)?;
            // Where the kernel lacks it, such datagrams stay refused, and are counted as `Udp6InCsumErrors`.
            let _ = sys::set_int(fd, libc::IPPROTO_UDP, UDP_NO_CHECK6_RX, 1);
        }
        let gro = sys::set_int(fd, libc::IPPROTO_UDP, UDP_GRO, 1).is_ok();
        Ok(Self { socket, local, encap, gro })
    }

    /// Turns `UDP_GRO` off or on, for comparison and for peers that must be seen packet by packet.
    ///
    /// # Errors
    /// Those of setsockopt(2).
    pub fn set_gro(&mut self, on: bool) -> io::Result<()> {
        sys::set_int(self.socket.as_fd(), libc::IPPROTO_UDP, UDP_GRO, i32::from(on))?;
        self.gro = on;
        Ok(())
    }

    /// Does the kernel glue datagrams for this socket?
    #[must_use]
    pub fn gro(&self) -> bool {
        self.gro
    }

    /// Where it is bound.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.local
    }

    /// Bytes the kernel will hold for it, as granted.
    ///
    /// # Errors
    /// Those of getsockopt(2).
    pub fn buffer(&self) -> io::Result<usize> {
        self.socket.recv_buffer_size()
    }
}

impl UnderlayRx for UdpRx {
    fn recv(&mut self, buf: &mut [u8]) -> io::Result<Datagram> {
        let mut control = [0; sys::CONTROL];
        let got = sys::recv(self.socket.as_fd(), buf, &mut control)?;
        let unspecified = || {
            let any: std::net::IpAddr = if self.local.is_ipv4() {
                Ipv4Addr::UNSPECIFIED.into()
            } else {
                Ipv6Addr::UNSPECIFIED.into()
            };
            SocketAddr::new(any, 0)
        };
        let mut datagram = Datagram {
            len: got.len,
            segment: got.len,
            src: got.src.unwrap_or_else(unspecified),
            tos: 0,
            encap: self.encap,
            truncated: got.truncated,
        };
        for (level, kind, data) in sys::control_messages(&control[..got.control_len]) {
            match (level, kind) {
                (libc::IPPROTO_UDP, UDP_GRO) => {
                    if let Some(size) = int(data).filter(|&s| s > 0) {
                        datagram.segment = size.min(got.len);
                    }
                }
                // The kernel hands over one byte for IPv4, an int for IPv6.
                (libc::IPPROTO_IP, libc::IP_TOS) => datagram.tos = data.first().copied().unwrap_or(0),
                (libc::IPPROTO_IPV6, libc::IPV6_TCLASS) => datagram.tos = int(data).unwrap_or(0) as u8,
                _ => {}
            }
        }
        Ok(datagram)
    }
}

fn int(data: &[u8]) -> Option<usize> {
    let value = i32::from_ne_bytes(*data.first_chunk::<4>()?);
    usize::try_from(value).ok()
}

/// Asks for [`SOCKET_BUFFER`], with privilege if there is any. A smaller buffer works, with more loss in
/// bursts, so failure is no error; what was granted can be read back.
fn force_buffer(fd: BorrowedFd<'_>) {
    let size = SOCKET_BUFFER as i32;
    if sys::set_int(fd, libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, size).is_err() {
        let _ = sys::set_int(fd, libc::SOL_SOCKET, libc::SO_RCVBUF, size);
    }
}

impl AsFd for UdpRx {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl AsRawFd for UdpRx {
    fn as_raw_fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }
}
