//! Making the kernel tell of changes, with the privilege that it takes.
//!
//! One socket hears of all namespaces that have an id in its own: that is given to a namespace when a port in it is to
//! be watched, and goes with the namespace. It takes Linux 4.2 and CAP_NET_BROADCAST, both here and in the user
//! namespace that owns the other one; the kernel asks for the rights of the process that made the socket, whoever
//! reads from it later.
//!
//! A port's descriptor keeps its namespace alive, so the kernel does not tell of its end: what can be seen is that its
//! name goes. Names in `/proc` are no files, and are looked at now and then only.

use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

use neli::consts::nl::NlmF;
use neli::consts::rtnl::Rtm;
use neli::types::Buffer;
use rustix::fs::inotify::{self, CreateFlags, WatchFlags};
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, netlink, socket_with};

use super::events::{LISTEN_ALL_NSID, LinkWatch, attribute};
use super::netlink::{Netlink, NetlinkError};
use super::netns::NetnsRef;

/// What the socket holds: some 20,000 changes of links.
const QUEUE: i32 = 8 << 20;

/// `NETNSA_NSID` and `NETNSA_FD` of <linux/net_namespace.h>.
const NSID: u16 = 1;
const FD: u16 = 3;

/// The link that an underlay address is on.
#[derive(Clone, PartialEq, Eq, Debug, serde::Serialize, serde::Deserialize)]
pub struct UnderlayLink {
    /// Its name.
    pub ifname: String,
    /// Its index.
    pub ifindex: u32,
    /// Largest IP packet.
    pub mtu: u32,
    /// Administratively up.
    pub up: bool,
    /// The other end is there.
    pub carrier: bool,
}

/// The interface of the calling thread's namespace that holds the local address `addr`, that of the least MTU if
/// several do, `None` if none does.
///
/// # Errors
/// See [`NetlinkError`].
pub fn underlay_link(addr: IpAddr) -> Result<Option<UnderlayLink>, NetlinkError> {
    let mut netlink = Netlink::open()?;
    let holders: Vec<u32> =
        netlink.addresses()?.iter().filter(|a| a.net.addr() == addr).map(|a| a.index).collect();
    let links = netlink.links()?;
    let least = links.into_iter().filter(|l| holders.contains(&l.index)).min_by_key(|l| l.mtu);
    Ok(least.map(|l| UnderlayLink {
        ifname: l.name,
        ifindex: l.index,
        mtu: l.mtu,
        up: l.up,
        carrier: l.carrier,
    }))
}

/// A socket that hears of links, addresses and routes: of all namespaces with an id, or of its own.
///
/// # Errors
/// Those of the system.
pub fn links() -> io::Result<LinkWatch> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, None)?;
    // What is not granted is a smaller queue, whose overruns are noticed.
    if set(socket.as_fd(), libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, QUEUE).is_err() {
        let _ = set(socket.as_fd(), libc::SOL_SOCKET, libc::SO_RCVBUF, QUEUE);
    }
    bind(&socket, &netlink::SocketAddrNetlink::new(0, 0))?;
    let all = set(socket.as_fd(), libc::SOL_NETLINK, LISTEN_ALL_NSID, 1);
    let deaf = all.err().map(|e| match e.raw_os_error() {
        Some(libc::EPERM) => "no CAP_NET_BROADCAST".to_owned(),
        Some(libc::ENOPROTOOPT) => "this kernel is older than Linux 4.2".to_owned(),
        _ => e.to_string(),
    });
    for group in [
        libc::RTNLGRP_LINK,
        libc::RTNLGRP_IPV4_IFADDR,
        libc::RTNLGRP_IPV6_IFADDR,
        libc::RTNLGRP_IPV4_ROUTE,
        libc::RTNLGRP_IPV6_ROUTE,
    ] {
        set(socket.as_fd(), libc::SOL_NETLINK, libc::NETLINK_ADD_MEMBERSHIP, group as i32)?;
    }
    Ok(LinkWatch { fd: socket, deaf })
}

fn set(socket: BorrowedFd<'_>, level: i32, option: i32, value: i32) -> io::Result<()> {
    let length = std::mem::size_of::<i32>() as libc::socklen_t;
    // SAFETY: the descriptor is open for as long as it is borrowed; the kernel reads the four bytes of `value`, which
    // outlives the call.
    let done =
        unsafe { libc::setsockopt(socket.as_raw_fd(), level, option, (&raw const value).cast(), length) };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// An instance of inotify that watches nothing yet.
///
/// # Errors
/// Those of the system; there is a limit of them per user.
pub fn names() -> io::Result<OwnedFd> {
    Ok(inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?)
}

/// Watches the directory of a namespace's name, unless it is one of `/proc`, where nothing is told. Watching it again
/// changes nothing.
///
/// # Errors
/// Those of the system.
pub fn name(names: BorrowedFd<'_>, netns: &NetnsRef) -> io::Result<()> {
    let path = netns.path();
    let Some(directory) = path.parent().filter(|_| !path.starts_with("/proc")) else { return Ok(()) };
    watch(names, directory)
}

fn watch(names: BorrowedFd<'_>, directory: &Path) -> io::Result<()> {
    let what = WatchFlags::CREATE | WatchFlags::DELETE | WatchFlags::MOVED_FROM | WatchFlags::MOVED_TO;
    inotify::add_watch(names, directory, what | WatchFlags::ONLYDIR)?;
    Ok(())
}

/// The id of a namespace in that of the calling thread. One that has none is given one.
///
/// # Errors
/// See [`NetlinkError`].
pub fn id(netns: BorrowedFd<'_>) -> Result<i32, NetlinkError> {
    let mut netlink = Netlink::open()?;
    if let Some(id) = known(&mut netlink, netns)? {
        return Ok(id);
    }
    let what = "giving a network namespace an id";
    // The kernel chooses.
    let any = request(&[(NSID, -1), (FD, netns.as_raw_fd())]);
    match netlink.ask::<_, Buffer>(what, Rtm::Newnsid, NlmF::empty(), any) {
        Err(e) if e.errno() != Some(libc::EEXIST) => return Err(e),
        _ => {}
    }
    known(&mut netlink, netns)?.ok_or_else(|| NetlinkError::unexpected(what, "it has none"))
}

fn known(netlink: &mut Netlink, netns: BorrowedFd<'_>) -> Result<Option<i32>, NetlinkError> {
    let what = "asking for the id of a network namespace";
    let body = request(&[(FD, netns.as_raw_fd())]);
    let answers = netlink.ask::<_, Buffer>(what, Rtm::Getnsid, NlmF::empty(), body)?;
    let found = answers.first().and_then(|body| {
        let value = attribute(body.as_ref().get(4..)?, NSID)?;
        value.first_chunk().map(|b| i32::from_ne_bytes(*b))
    });
    Ok(found.filter(|id| *id >= 0))
}

/// A `struct rtgenmsg` of no family, and attributes of four bytes each.
fn request(attributes: &[(u16, i32)]) -> Buffer {
    let mut bytes = vec![0; 4];
    for (kind, value) in attributes {
        bytes.extend(8_u16.to_ne_bytes());
        bytes.extend(kind.to_ne_bytes());
        bytes.extend(value.to_ne_bytes());
    }
    Buffer::from(bytes)
}

#[cfg(test)]
#[path = "watch_tests.rs"]
mod tests;
