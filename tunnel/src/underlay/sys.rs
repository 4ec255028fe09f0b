//! The three system calls that std and socket2 cannot express as the data path needs them, and nothing
//! else: the only `unsafe` code of this crate.
//!
//! Control messages are built and read as plain bytes, in the layout of 64-bit Linux: an eight-byte length,
//! level and type of four bytes each, data, padding to eight.

use std::io::{self, IoSlice};
use std::mem;
use std::os::fd::{AsRawFd, BorrowedFd};

/// Room for every control message asked for (segment size, TOS), and some.
pub(super) const CONTROL: usize = 128;
const CMSG_HEADER: usize = 16;

/// A buffer for control messages to send.
#[derive(Clone, Copy)]
pub(super) struct Control {
    bytes: [u8; CONTROL],
    len: usize,
}

impl Control {
    pub(super) const EMPTY: Self = Self { bytes: [0; CONTROL], len: 0 };

    /// Appends a message with at most eight bytes of data; one that does not fit is left out.
    pub(super) fn push(&mut self, level: i32, kind: i32, data: &[u8]) {
        let at = self.len;
        let Some(room) = self.bytes.get_mut(at..at + CMSG_HEADER + 8) else { return };
        let Some(body) = room.get_mut(CMSG_HEADER..CMSG_HEADER + data.len()) else { return };
        body.copy_from_slice(data);
        room[..8].copy_from_slice(&((CMSG_HEADER + data.len()) as u64).to_ne_bytes());
        room[8..12].copy_from_slice(&level.to_ne_bytes());
        room[12..16].copy_from_slice(&kind.to_ne_bytes());
        self.len = at + CMSG_HEADER + 8;
    }
}

/// Control messages received: level, type, data. Stops at the first that makes no sense.
pub(super) fn control_messages(bytes: &[u8]) -> impl Iterator<Item = (i32, i32, &[u8])> {
    let mut at = 0;
    std::iter::from_fn(move || {
        let rest = bytes.get(at..)?;
        let head = rest.first_chunk::<CMSG_HEADER>()?;
        let mut word = [0; 8];
        word.copy_from_slice(&head[..8]);
        let len = usize::try_from(u64::from_ne_bytes(word)).ok()?;
        let data = rest.get(CMSG_HEADER..len)?;
        at += len.next_multiple_of(8);
        let int = |i: usize| i32::from_ne_bytes([head[i], head[i + 1], head[i + 2], head[i + 3]]);
        Some((int(8), int(12), data))
    })
}

fn header(parts: &[IoSlice<'_>], control: &Control, to: Option<&socket2::SockAddr>) -> libc::msghdr {
    // SAFETY: `msghdr` is plain old data, for which all zero bytes are a value.
    let mut msg: libc::msghdr = unsafe { mem::zeroed() };
    if let Some(to) = to {
        msg.msg_name = to.as_ptr().cast_mut().cast();
        msg.msg_namelen = to.len();
    }
    // `IoSlice` is documented to have the layout of `iovec`; sending only reads through these pointers.
    msg.msg_iov = parts.as_ptr().cast_mut().cast();
    msg.msg_iovlen = parts.len();
    if control.len > 0 {
        msg.msg_control = control.bytes.as_ptr().cast_mut().cast();
        msg.msg_controllen = control.len;
    }
    msg
}

/// `sendmsg(2)`, never blocking.
pub(super) fn send(
    fd: BorrowedFd<'_>,
    parts: &[IoSlice<'_>],
    control: &Control,
    to: Option<&socket2::SockAddr>,
) -> io::Result<usize> {
    let msg = header(parts, control, to);
    // SAFETY: every pointer in `msg` comes from a borrow that outlives the call, with its true length, and
    // the kernel only reads through them.
    let n = unsafe { libc::sendmsg(fd.as_raw_fd(), &msg, libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL) };
    usize::try_from(n).map_err(|_| io::Error::last_os_error())
}

/// `sendmmsg(2)` of at most [`BATCH`] messages, each a range of `parts`, never blocking. Returns how many
/// went out; an error only if the first one did not.
pub(super) fn send_many(
    fd: BorrowedFd<'_>,
    parts: &[IoSlice<'_>],
    ranges: &[std::ops::Range<usize>],
    control: &Control,
    to: Option<&socket2::SockAddr>,
) -> io::Result<usize> {
    // SAFETY: `mmsghdr` is plain old data, for which all zero bytes are a value.
    let mut batch: [libc::mmsghdr; BATCH] = unsafe { mem::zeroed() };
    let mut count = 0;
    for (slot, range) in batch.iter_mut().zip(ranges) {
        slot.msg_hdr = header(parts.get(range.clone()).unwrap_or(&[]), control, to);
        count += 1;
    }
    // SAFETY: the first `count` (at most `BATCH`) headers are initialised; every pointer in them comes from a
    // borrow that outlives the call. The kernel writes only `msg_len` of each header.
    let n = unsafe {
        libc::sendmmsg(fd.as_raw_fd(), batch.as_mut_ptr(), count, libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL)
    };
    usize::try_from(n).map_err(|_| io::Error::last_os_error())
}

/// Messages per `sendmmsg`.
pub(super) const BATCH: usize = 64;

/// What `recvmsg(2)` said.
pub(super) struct Received {
    pub len: usize,
    pub control_len: usize,
    pub truncated: bool,
    pub src: Option<std::net::SocketAddr>,
}

/// `recvmsg(2)`, never blocking.
pub(super) fn recv(fd: BorrowedFd<'_>, buf: &mut [u8], control: &mut [u8; CONTROL]) -> io::Result<Received> {
    let mut storage = socket2::SockAddrStorage::zeroed();
    let mut iov = libc::iovec { iov_base: buf.as_mut_ptr().cast(), iov_len: buf.len() };
    // SAFETY: `msghdr` is plain old data, for which all zero bytes are a value.
    let mut msg: libc::msghdr = unsafe { mem::zeroed() };
    msg.msg_name = (&raw mut storage).cast();
    let room = storage.size_of();
    msg.msg_namelen = room;
    msg.msg_iov = &raw mut iov;
    msg.msg_iovlen = 1;
    msg.msg_control = control.as_mut_ptr().cast();
    msg.msg_controllen = control.len();
    // SAFETY: every pointer in `msg` comes from an exclusive borrow that outlives the call, with its true
    // length; the kernel writes at most that much, and any bytes are values of these types.
    let n = unsafe { libc::recvmsg(fd.as_raw_fd(), &mut msg, libc::MSG_DONTWAIT) };
    let len = usize::try_from(n).map_err(|_| io::Error::last_os_error())?;
    // SAFETY: the kernel has written `msg_namelen` bytes of an address; the storage was zeroed, so that a
    // shorter or absent one is a value as well (`AF_UNSPEC`).
    let src = unsafe { socket2::SockAddr::new(storage, msg.msg_namelen.min(room)) };
    Ok(Received {
        len: len.min(buf.len()),
        control_len: msg.msg_controllen.min(CONTROL),
        truncated: msg.msg_flags & libc::MSG_TRUNC != 0,
        src: src.as_socket(),
    })
}

/// `setsockopt(2)` with an integer.
pub(super) fn set_int(fd: BorrowedFd<'_>, level: i32, name: i32, value: i32) -> io::Result<()> {
    let len = size_of::<i32>() as libc::socklen_t;
    // SAFETY: the option value is a live `i32` and `len` its size.
    let rc = unsafe { libc::setsockopt(fd.as_raw_fd(), level, name, (&raw const value).cast(), len) };
    if rc == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_round_trip() {
        let mut c = Control::EMPTY;
        c.push(17, 103, &1400u16.to_ne_bytes());
        c.push(0, 1, &7i32.to_ne_bytes());
        let list: Vec<_> = control_messages(&c.bytes[..c.len]).collect();
        assert_eq!(list, [(17, 103, &1400u16.to_ne_bytes()[..]), (0, 1, &7i32.to_ne_bytes()[..])]);
        for _ in 0..20 {
            c.push(0, 0, &[0; 8]);
        }
        assert!(c.len <= CONTROL);
    }

    #[test]
    fn control_nonsense_ends_the_walk() {
        assert_eq!(control_messages(&[0; 64]).take(100).count(), 0);
        assert_eq!(control_messages(&[0xff; 64]).count(), 0);
        assert_eq!(control_messages(&[1; 15]).count(), 0);
    }
}
