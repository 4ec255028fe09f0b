//! Raw Ethernet frames in and out of an interface (AF_PACKET), with what the kernel knows about
//! the checksum of each frame: the ground under the capture and under forged frames.
//!
//! All unsafe code of frame input and output is in this file. Frames up to 256 KiB.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use crate::error::{Context, Error, Result};
use crate::netns::Ns;

/// Longest frame that is received whole.
pub const MAX_FRAME: usize = 256 * 1024;

// From linux/if_packet.h.
const TP_STATUS_CSUMNOTREADY: u32 = 1 << 3;
const TP_STATUS_CSUM_VALID: u32 = 1 << 7;

/// What the kernel says about the transport checksum of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KernelChecksum {
    /// Not computed yet: the frame never left this machine's memory, or offload will do it.
    NotReady,
    /// The kernel or the device has verified it.
    Valid,
    /// Nothing known: it has to be right in the bytes.
    Unknown,
}

/// One frame from a packet socket.
#[derive(Clone, Debug)]
pub struct RawFrame {
    /// The bytes, from the destination address on.
    pub bytes: Vec<u8>,
    /// Length on the wire; more than `bytes` if it did not fit.
    pub wire_len: usize,
    /// The kernel's knowledge of the checksum.
    pub checksum: KernelChecksum,
    /// Whether this host sent it (else it arrived).
    pub outgoing: bool,
}

/// A packet socket bound to one interface.
#[derive(Debug)]
pub struct PacketSocket {
    fd: OwnedFd,
}

impl PacketSocket {
    /// Opens it in a namespace; non-blocking. `promiscuous` also hears frames for others.
    pub fn open(ns: &Ns, interface: &str, promiscuous: bool) -> Result<Self> {
        ns.run_in(|| Self::open_here(interface, promiscuous))?
            .context(format!("packet socket on {interface} in {}", ns.name()))
    }

    fn open_here(interface: &str, promiscuous: bool) -> Result<Self> {
        let socket = socket2::Socket::new(
            socket2::Domain::PACKET,
            socket2::Type::RAW.nonblocking(),
            // Not yet: it would hear all interfaces until it is bound.
            Some(socket2::Protocol::from(0)),
        )?;
        let index = rustix::net::netdevice::name_to_index(&socket, interface)?;
        let fd = socket.as_raw_fd();
        let index = i32::try_from(index).map_err(|_| Error::failed("interface index"))?;
        // SAFETY: sockaddr_ll and packet_mreq are plain data for which all zeroes are valid, and
        // every call gets a pointer to a live value with its true size.
        unsafe {
            let on: libc::c_int = 1;
            let size = size_of::<libc::c_int>() as libc::socklen_t;
            let set =
                libc::setsockopt(fd, libc::SOL_PACKET, libc::PACKET_AUXDATA, (&raw const on).cast(), size);
            check(set as isize)?;
            if promiscuous {
                let mut request: libc::packet_mreq = std::mem::zeroed();
                request.mr_ifindex = index;
                request.mr_type = libc::PACKET_MR_PROMISC as libc::c_ushort;
                let set = libc::setsockopt(
                    fd,
                    libc::SOL_PACKET,
                    libc::PACKET_ADD_MEMBERSHIP,
                    (&raw const request).cast(),
                    size_of::<libc::packet_mreq>() as libc::socklen_t,
                );
                check(set as isize)?;
            }
            let mut address: libc::sockaddr_ll = std::mem::zeroed();
            address.sll_family = libc::AF_PACKET as libc::c_ushort;
            address.sll_protocol = (libc::ETH_P_ALL as u16).to_be();
            address.sll_ifindex = index;
            let bound = libc::bind(
                fd,
                (&raw const address).cast(),
                size_of::<libc::sockaddr_ll>() as libc::socklen_t,
            );
            check(bound as isize)?;
        }
        // Room for a burst; limited by the kernel's own maximum, hence no error if less.
        let _ = socket.set_recv_buffer_size(16 * 1024 * 1024);
        Ok(Self { fd: socket.into() })
    }

    /// From now on each frame sent must begin with a virtio-net header (10 bytes), which may ask for
    /// segmentation and for a checksum: how a program in a pod hands over offload frames of its own.
    pub fn with_offload_header(self) -> Result<Self> {
        // From linux/if_packet.h; the libc crate does not have it.
        const PACKET_VNET_HDR: libc::c_int = 15;
        let on: libc::c_int = 1;
        // SAFETY: the option takes an int, of which the call gets a pointer with its true size.
        let set = unsafe {
            libc::setsockopt(
                self.fd.as_raw_fd(),
                libc::SOL_PACKET,
                PACKET_VNET_HDR,
                (&raw const on).cast(),
                size_of::<libc::c_int>() as libc::socklen_t,
            )
        };
        check(set as isize).context("packet socket with offload header")?;
        Ok(self)
    }

    /// Sends one frame; it must begin with the Ethernet header and fit the interface's MTU.
    pub fn send(&self, frame: &[u8]) -> io::Result<()> {
        // SAFETY: pointer and length are those of a live slice.
        let sent = unsafe { libc::send(self.fd.as_raw_fd(), frame.as_ptr().cast(), frame.len(), 0) };
        check(sent).map(drop)
    }

    /// Takes the next frame; `None` if there is none now.
    pub fn recv(&self, buffer: &mut [u8]) -> io::Result<Option<RawFrame>> {
        // Room for one tpacket_auxdata (20 bytes) with its header, aligned as cmsghdr wants it.
        let mut control = [0u64; 16];
        let mut iov = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
        // SAFETY: all zeroes are valid for sockaddr_ll and msghdr; the message points to buffers
        // that live through the call, with their true sizes. The control data is walked with the
        // system's own macros within the length the kernel has written.
        unsafe {
            let mut address: libc::sockaddr_ll = std::mem::zeroed();
            let mut message: libc::msghdr = std::mem::zeroed();
            message.msg_name = (&raw mut address).cast();
            message.msg_namelen = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
            message.msg_iov = &raw mut iov;
            message.msg_iovlen = 1;
            message.msg_control = control.as_mut_ptr().cast();
            message.msg_controllen = size_of_val(&control) as _;
            let flags = libc::MSG_TRUNC | libc::MSG_DONTWAIT;
            let received = libc::recvmsg(self.fd.as_raw_fd(), &raw mut message, flags);
            let wire_len = match check(received) {
                Ok(len) => len as usize,
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(None),
                Err(e) => return Err(e),
            };
            let mut checksum = KernelChecksum::Unknown;
            let mut header = libc::CMSG_FIRSTHDR(&raw const message);
            while !header.is_null() {
                if (*header).cmsg_level == libc::SOL_PACKET && (*header).cmsg_type == libc::PACKET_AUXDATA {
                    let data = libc::CMSG_DATA(header).cast::<libc::tpacket_auxdata>().read_unaligned();
                    if data.tp_status & TP_STATUS_CSUMNOTREADY != 0 {
                        checksum = KernelChecksum::NotReady;
                    } else if data.tp_status & TP_STATUS_CSUM_VALID != 0 {
                        checksum = KernelChecksum::Valid;
                    }
                }
                header = libc::CMSG_NXTHDR(&raw const message, header);
            }
            let kept = wire_len.min(buffer.len());
            Ok(Some(RawFrame {
                bytes: buffer[..kept].to_vec(),
                wire_len,
                checksum,
                outgoing: address.sll_pkttype == libc::PACKET_OUTGOING,
            }))
        }
    }

    /// How many frames the kernel has dropped because nobody took them, since the last call.
    pub fn dropped(&self) -> io::Result<u32> {
        // struct tpacket_stats: packets, drops.
        let mut stats = [0u32; 2];
        let mut len = size_of_val(&stats) as libc::socklen_t;
        // SAFETY: the pointers are to live locals of the size given.
        let got = unsafe {
            libc::getsockopt(
                self.fd.as_raw_fd(),
                libc::SOL_PACKET,
                libc::PACKET_STATISTICS,
                stats.as_mut_ptr().cast(),
                &raw mut len,
            )
        };
        check(got as isize)?;
        Ok(stats[1])
    }
}

impl AsFd for PacketSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

fn check(result: isize) -> io::Result<isize> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}
