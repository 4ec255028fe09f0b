//! What the kernel tells of changes, taken apart.
//!
//! A socket of rtnetlink hears of every change to links, addresses and routes, also of other namespaces
//! ([`super::watch`]). Nothing is believed but *that* something of an interface has changed: whoever cares looks. Two
//! things are read all the same, because a look comes too late for them: that a link was down and that it had another
//! MTU, after which addresses are missing that the kernel has taken, not the pod.
//!
//! The names of namespaces are files, and come and go without a word of rtnetlink: inotify tells of those.
//!
//! Limits: a datagram of 32 KiB, which is what the kernel allocates; what does not fit counts as lost. At most
//! [`DATAGRAMS`] of them, or 16,384 names, are read at once.

use std::io;
use std::mem::{self, MaybeUninit};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::fs::inotify;

/// Most datagrams read at once, so that a flood of changes holds up nothing else.
pub const DATAGRAMS: usize = 256;
const DATAGRAM: usize = 32 * 1024;
/// Most names read at once: what the kernel holds.
const NAMES: usize = 16_384;
const BUFFER: usize = 64 * 1024;

/// The option, and the control message with a namespace's id.
pub(super) const LISTEN_ALL_NSID: i32 = libc::NETLINK_LISTEN_ALL_NSID;
/// Of <linux/if_link.h>.
const IFLA_MTU: u16 = 4;

const MESSAGE_HEADER: usize = 16;
const LINK_HEADER: usize = 16;
const ROUTE_HEADER: usize = 12;

/// Something of an interface has changed.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Change {
    /// Its namespace, by the id that this one has in the namespace of the socket; `None`: it is that.
    pub nsid: Option<i32>,
    /// Its index.
    pub ifindex: u32,
    /// What it was.
    pub what: What,
}

/// What of an interface has changed.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum What {
    /// The link.
    Link {
        /// Administratively up.
        up: bool,
        /// Its MTU, if that was told.
        mtu: Option<u32>,
    },
    /// It is gone from its namespace.
    Gone,
    /// An address.
    Address,
    /// A route by it.
    Route,
}

/// What could be read.
#[derive(Debug, Default)]
pub struct Heard {
    /// In the order in which it happened.
    pub changes: Vec<Change>,
    /// More has happened than the socket could hold, so nothing is known.
    pub lost: bool,
    /// There may be more to read.
    pub more: bool,
}

/// Reads what a socket of [`super::Opener::watch_links`] has, without waiting.
///
/// # Errors
/// Those of the socket; that it was overrun is none.
pub fn read_changes(socket: BorrowedFd<'_>) -> io::Result<Heard> {
    let mut heard = Heard::default();
    let mut buffer = vec![0; DATAGRAM];
    for _ in 0..DATAGRAMS {
        match receive(socket, &mut buffer) {
            Ok(None) => heard.lost = true,
            Ok(Some((length, nsid))) => {
                changes(buffer.get(..length).unwrap_or_default(), nsid, |change| heard.changes.push(change));
            }
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(heard),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) if e.raw_os_error() == Some(libc::ENOBUFS) => heard.lost = true,
            Err(e) => return Err(e),
        }
    }
    heard.more = true;
    Ok(heard)
}

/// One datagram: its length and the namespace it is about; `None` if it did not fit.
fn receive(socket: BorrowedFd<'_>, buffer: &mut [u8]) -> io::Result<Option<(usize, Option<i32>)>> {
    // As `u64`, because the kernel aligns control messages to that.
    let mut control = [0_u64; 8];
    let mut part = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
    // SAFETY: both are plain old data, for which all zero bytes are a value.
    let (mut from, mut message): (libc::sockaddr_nl, libc::msghdr) =
        unsafe { (mem::zeroed(), mem::zeroed()) };
    message.msg_name = (&raw mut from).cast();
    message.msg_namelen = mem::size_of::<libc::sockaddr_nl>() as libc::socklen_t;
    message.msg_iov = &raw mut part;
    message.msg_iovlen = 1;
    message.msg_control = control.as_mut_ptr().cast();
    message.msg_controllen = mem::size_of_val(&control) as _;
    // SAFETY: every pointer in `message` is to a local that outlives the call, with its true length.
    let got = unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut message, libc::MSG_DONTWAIT) };
    let length = usize::try_from(got).map_err(|_| io::Error::last_os_error())?;
    if message.msg_flags & (libc::MSG_TRUNC | libc::MSG_CTRUNC) != 0 {
        return Ok(None);
    }
    // Only the kernel has this number; what somebody else sends is no news.
    if from.nl_pid != 0 {
        return Ok(Some((0, None)));
    }
    let bytes: Vec<u8> = control.iter().flat_map(|word| word.to_ne_bytes()).collect();
    let used = message.msg_controllen.min(bytes.len());
    Ok(Some((length, namespace(bytes.get(..used).unwrap_or_default()))))
}

/// The namespace that a datagram is about, from its control messages: length in eight bytes, level and type in four,
/// data, padding to eight.
fn namespace(mut control: &[u8]) -> Option<i32> {
    const HEADER: usize = 16;
    while let Some(head) = control.first_chunk::<HEADER>() {
        let length = usize::try_from(u64::from_ne_bytes(*head.first_chunk()?)).ok()?;
        let data = control.get(HEADER..length)?;
        let word = |at: usize| head.get(at..)?.first_chunk().map(|b| i32::from_ne_bytes(*b));
        if (word(8)?, word(12)?) == (libc::SOL_NETLINK, LISTEN_ALL_NSID) {
            return data.first_chunk().map(|b| i32::from_ne_bytes(*b));
        }
        control = control.get(length.next_multiple_of(8)..)?;
    }
    None
}

/// The changes in a datagram. It ends at the first message that makes no sense.
fn changes(mut datagram: &[u8], nsid: Option<i32>, mut each: impl FnMut(Change)) {
    while let Some(head) = datagram.first_chunk::<MESSAGE_HEADER>() {
        let length = number(head, 0).unwrap_or(0) as usize;
        let Some(body) = datagram.get(MESSAGE_HEADER..length) else { return };
        let kind = u16::from_ne_bytes([head[4], head[5]]);
        if let Some((ifindex, what)) = change(kind, body) {
            each(Change { nsid, ifindex, what });
        }
        datagram = datagram.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
}

fn change(kind: u16, body: &[u8]) -> Option<(u32, What)> {
    match kind {
        // family, type, index, flags, change
        libc::RTM_NEWLINK => {
            let up = number(body, 8)? & libc::IFF_UP as u32 != 0;
            let mtu = attribute(body.get(LINK_HEADER..)?, IFLA_MTU).and_then(|v| number(v, 0));
            Some((number(body, 4)?, What::Link { up, mtu }))
        }
        // A bridge says this about what leaves it.
        libc::RTM_DELLINK if body.first() == Some(&(libc::AF_UNSPEC as u8)) => {
            Some((number(body, 4)?, What::Gone))
        }
        // family, prefix length, flags, scope, index
        libc::RTM_NEWADDR | libc::RTM_DELADDR => Some((number(body, 4)?, What::Address)),
        libc::RTM_NEWROUTE | libc::RTM_DELROUTE => {
            let by = attribute(body.get(ROUTE_HEADER..)?, libc::RTA_OIF)?;
            Some((number(by, 0)?, What::Route))
        }
        _ => None,
    }
}

/// The value of an attribute: length and type of two bytes each, value, padding to four.
pub(super) fn attribute(mut list: &[u8], wanted: u16) -> Option<&[u8]> {
    while let Some(&[a, b, c, d]) = list.first_chunk() {
        let length = usize::from(u16::from_ne_bytes([a, b]));
        let value = list.get(4..length)?;
        if u16::from_ne_bytes([c, d]) == wanted {
            return Some(value);
        }
        list = list.get(length.next_multiple_of(4)..)?;
    }
    None
}

fn number(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..)?.first_chunk().map(|b| u32::from_ne_bytes(*b))
}

/// Names of files that came or went.
#[derive(Debug, Default)]
pub struct Names {
    /// In the order in which it happened.
    pub names: Vec<String>,
    /// More has happened than could be held, so nothing is known.
    pub lost: bool,
    /// There may be more to read.
    pub more: bool,
}

/// Reads what an instance of [`super::Opener::watch_names`] has, without waiting.
///
/// # Errors
/// Those of the descriptor.
pub fn read_names(fd: BorrowedFd<'_>) -> io::Result<Names> {
    let mut space = vec![MaybeUninit::uninit(); BUFFER];
    let mut reader = inotify::Reader::new(fd.as_fd(), &mut space);
    let mut found = Names::default();
    for _ in 0..NAMES {
        match reader.next() {
            Ok(event) => {
                found.lost |= event.events().contains(inotify::ReadFlags::QUEUE_OVERFLOW);
                found.names.extend(event.file_name().map(|name| name.to_string_lossy().into_owned()));
            }
            Err(rustix::io::Errno::INTR) => {}
            Err(rustix::io::Errno::AGAIN) => return Ok(found),
            Err(e) => return Err(e.into()),
        }
    }
    found.more = true;
    // What is left in `space` is read by nobody.
    found.lost |= !reader.is_buffer_empty();
    Ok(found)
}

/// A socket that hears of links, and how far it hears.
#[derive(Debug)]
pub struct LinkWatch {
    /// For [`read_changes`].
    pub fd: OwnedFd,
    /// Why it hears only of its own namespace, if it does.
    pub deaf: Option<String>,
}

#[cfg(test)]
#[path = "events_tests.rs"]
mod tests;
