//! The opener that does it here and now, with the privileges of this process.
//!
//! A port's interface is created inside its namespace under its final name, so that the pod never sees
//! another and the node never sees it at all. Whatever fails on the way takes a new interface with it,
//! because it outlives its descriptor only after [`Opener::keep_port`]. Interfaces carry [`ALIAS`], which is how one
//! left by an earlier run is told from one that belongs to somebody else. The owner of one that is kept is the user of
//! this process: while nobody holds it, it takes that user or CAP_NET_ADMIN in its namespace to attach to it.
//!
//! A descriptor opened inside a namespace keeps that namespace alive even when its name and processes are
//! gone, so the kernel does not tell of a pod's end: [`Opener::check_port`] does.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use ipnet::IpNet;
use tunnel::underlay::{UdpRx, UdpTx};

use super::closing;
use super::events::LinkWatch;
use super::identity::NetnsIdentity;
use super::link::{GSO_MAX_SIZE, Link, LinkChange};
use super::netlink::{Netlink, NetlinkError};
use super::netns::{NetnsError, NetnsId, run_in};
use super::node;
use super::opener::{DeviceName, OpenError, OpenedPort, Opener, PortHealth, PortPlace, PortSpec};
use super::sysctl::{quiet_ipv6, routes_for_the_node};
use super::tap::{self, Tap, TapFlags, features};
use super::watch::{self, UnderlayLink};

/// What `ip link` shows as the alias of our interfaces.
pub const ALIAS: &str = "swd port";

/// Ring slots with offloads: up to 64 MB of frames, one window of a fast flow in few of them.
const QUEUE_OFFLOAD: u32 = 1000;
/// Ring slots without: a window of single packets has to fit.
const QUEUE_PLAIN: u32 = 4000;

/// The kernel acts on a carrier at once, or with others in a second.
const NOTICED: Duration = Duration::from_millis(100);
/// Between two looks whether it has.
const LOOK: Duration = Duration::from_micros(500);

/// Opens ports and sockets in this process.
#[derive(Clone, Copy, Debug, Default)]
pub struct HostOpener;

/// The first thing that was given to a pod and is not there any more. What it has beyond is its own business, and so
/// is another default route.
fn pod_lacks(netlink: &mut Netlink, index: u32, spec: &PortSpec) -> Result<Option<PortHealth>, NetlinkError> {
    let present = netlink.addresses()?;
    let has = |ip: IpAddr| present.iter().any(|a| a.index == index && a.net.addr() == ip);
    if let Some(addr) = spec.addresses.iter().map(|a| a.addr()).find(|ip| !has(*ip)) {
        return Ok(Some(PortHealth::PodAddressMissing { addr }));
    }
    for &gateway in spec.gateways.iter().filter(|_| spec.default_route) {
        if netlink.default_routes(gateway)?.is_empty() {
            return Ok(Some(PortHealth::PodRouteMissing { gateway }));
        }
    }
    Ok(None)
}

impl Opener for HostOpener {
    fn open_port(&mut self, spec: &PortSpec) -> Result<OpenedPort, OpenError> {
        spec.validate()?;
        let netns = spec.netns.open()?;
        let netns_id = NetnsId::of(netns.as_fd()).map_err(|e| spec.netns.blame(e))?;
        let own = NetnsId::current().is_ok_and(|own| own == netns_id);
        if spec.default_route && own {
            return Err(OpenError::OwnNamespace(spec.netns.clone()));
        }
        if spec.node.is_some() && !own {
            let text =
                format!("namespace {} is not the switch's own, so the node has no device there", spec.netns);
            return Err(OpenError::Invalid(text));
        }
        run_in(netns.as_fd(), || build(spec, netns_id)).map_err(|e| spec.netns.blame(e))?
    }

    fn keep_port(&mut self, spec: &PortSpec, _: PortPlace, fd: BorrowedFd<'_>) -> Result<(), OpenError> {
        keep(spec, fd)
    }

    fn discard_port(&mut self, device: &DeviceName) -> Result<bool, OpenError> {
        let netns = match device.netns.open() {
            Err(NetnsError::NotFound { .. } | NetnsError::NotANamespace { .. }) => return Ok(false),
            other => other?,
        };
        run_in(netns.as_fd(), || discard(device)).map_err(|e| device.netns.blame(e))?
    }

    fn close_port(&mut self, spec: &PortSpec, place: PortPlace) -> Result<(), OpenError> {
        let netns = match spec.netns.open() {
            Err(NetnsError::NotFound { .. } | NetnsError::NotANamespace { .. }) => return Ok(()),
            other => other?,
        };
        if NetnsId::of(netns.as_fd()).map_err(|e| spec.netns.blame(e))? != place.netns_id {
            return Ok(());
        }
        let work = || -> Result<(), NetlinkError> {
            let mut netlink = Netlink::open()?;
            // The pod may have given it another name.
            match netlink.link_at(place.ifindex)? {
                Some(link) if is_ours(&link) => closing::delete(&mut netlink, link.index),
                _ => Ok(()),
            }
        };
        run_in(netns.as_fd(), work).map_err(|e| spec.netns.blame(e))?.map_err(|e| refused(spec, e))
    }

    fn check_port(&mut self, spec: &PortSpec, place: PortPlace) -> Result<PortHealth, OpenError> {
        let netns = match spec.netns.open() {
            Err(NetnsError::NotFound { .. } | NetnsError::NotANamespace { .. }) => {
                return Ok(PortHealth::NetnsGone);
            }
            other => other?,
        };
        if NetnsId::of(netns.as_fd()).map_err(|e| spec.netns.blame(e))? != place.netns_id {
            return Ok(PortHealth::NetnsReplaced);
        }
        let work = || -> Result<_, NetlinkError> {
            let mut netlink = Netlink::open()?;
            let link = netlink.link(&spec.ifname)?;
            let lacks = match (&link, &spec.node) {
                (Some(l), Some(wanted)) if l.index == place.ifindex && l.up => {
                    node::lacks(&mut netlink, l.index, &spec.addresses, wanted)?
                }
                (Some(l), None) if l.index == place.ifindex && l.up => {
                    pod_lacks(&mut netlink, l.index, spec)?
                }
                _ => None,
            };
            Ok((link, lacks))
        };
        let (link, lacks) =
            run_in(netns.as_fd(), work).map_err(|e| spec.netns.blame(e))?.map_err(|e| refused(spec, e))?;
        Ok(match link {
            None => PortHealth::IfaceGone,
            Some(l) if l.index != place.ifindex => PortHealth::IfaceReplaced,
            Some(l) if !l.up => PortHealth::Down,
            Some(l) if l.mtu != spec.mtu => PortHealth::MtuChanged { found: l.mtu },
            Some(l) => match l.mac {
                Some(found) if found != spec.mac => PortHealth::MacChanged { found },
                _ => lacks.unwrap_or(PortHealth::Healthy),
            },
        })
    }

    fn restore_port(&mut self, spec: &PortSpec, place: PortPlace) -> Result<(), OpenError> {
        spec.validate()?;
        let netns = spec.netns.open()?;
        let there = NetnsId::of(netns.as_fd()).map_err(|e| spec.netns.blame(e))? == place.netns_id;
        let work = || -> Result<(), NetlinkError> {
            let mut netlink = Netlink::open()?;
            match netlink.link(&spec.ifname)? {
                Some(link) if there && link.index == place.ifindex && is_ours(&link) => {
                    // First, because with too small an MTU there is no IPv6.
                    if link.mtu != spec.mtu {
                        let change = LinkChange { mtu: Some(spec.mtu), ..LinkChange::default() };
                        netlink.change_link(link.index, &change)?;
                    }
                    match &spec.node {
                        Some(wanted) => node::ensure(&mut netlink, link.index, &spec.addresses, wanted),
                        None => give_addresses(&mut netlink, link.index, spec, true),
                    }
                }
                _ => Err(NetlinkError::unexpected("restoring addresses", "the device is not there any more")),
            }
        };
        run_in(netns.as_fd(), work).map_err(|e| spec.netns.blame(e))?.map_err(|e| refused(spec, e))
    }

    fn bind_underlay(&mut self, addr: IpAddr, port: u16) -> Result<OwnedFd, OpenError> {
        UdpRx::bind(SocketAddr::new(addr, port)).map_err(|cause| match cause.kind() {
            io::ErrorKind::AddrInUse => OpenError::PortInUse { addr, port },
            io::ErrorKind::AddrNotAvailable => OpenError::NoSuchAddress(addr),
            _ => OpenError::Io { what: format!("binding the underlay socket to {addr} port {port}"), cause },
        })
    }

    fn sending_socket(&mut self, local: IpAddr) -> Result<OwnedFd, OpenError> {
        UdpTx::blank(local)
            .map_err(|cause| OpenError::Io { what: "making a socket to send from".into(), cause })
    }

    fn underlay_link(&mut self, addr: IpAddr) -> Result<Option<UnderlayLink>, OpenError> {
        watch::underlay_link(addr).map_err(|e| OpenError::Io {
            what: format!("finding the interface of {addr}"),
            cause: io::Error::other(e),
        })
    }

    fn watch_links(&mut self) -> Result<LinkWatch, OpenError> {
        watch::links().map_err(|cause| OpenError::Io { what: "listening to netlink".into(), cause })
    }

    fn watch_names(&mut self) -> Result<OwnedFd, OpenError> {
        watch::names().map_err(|cause| OpenError::Io { what: "watching names of namespaces".into(), cause })
    }

    fn watch_port(
        &mut self,
        spec: &PortSpec,
        place: PortPlace,
        names: Option<BorrowedFd<'_>>,
    ) -> Result<Option<i32>, OpenError> {
        if let Some(Err(cause)) = names.map(|names| watch::name(names, &spec.netns)) {
            tracing::warn!(netns = %spec.netns, "its name is looked at now and then only: {cause}");
        }
        if NetnsId::current().is_ok_and(|own| own == place.netns_id) {
            return Ok(None);
        }
        let netns = spec.netns.open()?;
        if NetnsId::of(netns.as_fd()).map_err(|e| spec.netns.blame(e))? != place.netns_id {
            return Err(OpenError::Replaced(spec.netns.clone()));
        }
        watch::id(netns.as_fd()).map(Some).map_err(|e| refused(spec, e))
    }
}

pub(super) fn is_ours(link: &Link) -> bool {
    link.kind.as_deref() == Some("tun") && link.alias.as_deref() == Some(ALIAS)
}

fn refused(spec: &PortSpec, cause: NetlinkError) -> OpenError {
    match cause.errno() {
        Some(errno @ (libc::EPERM | libc::EACCES)) => OpenError::Permission {
            what: format!("interface {} in namespace {}: {cause}", spec.ifname, spec.netns),
            cause: io::Error::from_raw_os_error(errno),
        },
        _ => OpenError::Netlink { ifname: spec.ifname.clone(), netns: spec.netns.clone(), cause },
    }
}

/// Runs on a thread inside the namespace.
fn build(spec: &PortSpec, netns_id: NetnsId) -> Result<OpenedPort, OpenError> {
    let identity = NetnsIdentity::current()
        .map_err(|cause| OpenError::Io { what: format!("identifying namespace {}", spec.netns), cause })?;
    if spec.identity.as_ref().is_some_and(|wanted| *wanted != identity) {
        return Err(OpenError::Replaced(spec.netns.clone()));
    }
    let mut netlink = Netlink::open().map_err(|e| refused(spec, e))?;
    let present = netlink.link(&spec.ifname).map_err(|e| refused(spec, e))?;
    if let Some(link) = present.as_ref().filter(|l| !is_ours(l)) {
        let kind = link.kind.clone().unwrap_or_else(|| "a device".into());
        return Err(OpenError::IfaceExists { ifname: spec.ifname.clone(), netns: spec.netns.clone(), kind });
    }
    let mut adopted = present.is_some();
    let mut tap = attach(spec, adopted)?;
    if let Some(link) = present
        && is_anothers(&mut netlink, link.index, spec).map_err(|e| refused(spec, e))?
    {
        closing::delete(&mut netlink, link.index).map_err(|e| refused(spec, e))?;
        adopted = false;
        tap = attach(spec, adopted)?;
    }
    let finish = |netlink: &mut Netlink| -> Result<(u32, u32), NetlinkError> {
        let what = "looking up the new interface";
        let link = netlink.link(tap.name())?;
        let link = link.ok_or_else(|| NetlinkError::unexpected(what, "it is not there"))?;
        configure(netlink, &link, spec, adopted)?;
        if adopted {
            awaken(netlink, link.index)?;
        }
        let index = link.index;
        let gso_max_size = netlink.link(tap.name())?.map_or(0, |l| l.gso_max_size);
        Ok((index, gso_max_size))
    };
    let (ifindex, gso_max_size) = finish(&mut netlink).map_err(|e| refused(spec, e))?;
    if adopted {
        // Whoever was attached meanwhile may have made it somebody else's.
        keep(spec, tap.as_fd())?;
    }
    Ok(OpenedPort {
        ifindex,
        netns_id,
        identity,
        offloads: tap.offloads(),
        gso_max_size,
        adopted,
        lasting: adopted,
        fd: tap.into_fd(),
    })
}

/// Waits until the kernel has noticed that a device has carrier again, and lets it ask then for the neighbours that have
/// not answered: what it asks before is lost, and it asks again a second later.
fn awaken(netlink: &mut Netlink, index: u32) -> Result<(), NetlinkError> {
    let limit = Instant::now() + NOTICED;
    while netlink.link_at(index)?.is_some_and(|link| !link.running) && Instant::now() < limit {
        std::thread::sleep(LOOK);
    }
    netlink.forget_unanswered(index)
}

fn keep(spec: &PortSpec, fd: BorrowedFd<'_>) -> Result<(), OpenError> {
    tap::keep(fd, rustix::process::geteuid().as_raw()).map_err(|cause| OpenError::Io {
        what: format!("keeping interface {} in namespace {}", spec.ifname, spec.netns),
        cause,
    })
}

/// Was a device that is there left by a port with other addresses? Its pod may have added some, not changed all. A port
/// without addresses leaves them to its pod.
fn is_anothers(netlink: &mut Netlink, index: u32, spec: &PortSpec) -> Result<bool, NetlinkError> {
    if spec.addresses.is_empty() {
        return Ok(false);
    }
    let link_local = |ip: IpAddr| matches!(ip, IpAddr::V6(v6) if v6.is_unicast_link_local());
    let present = netlink.addresses()?;
    let mut there = present
        .iter()
        .filter(|a| a.index == index)
        .map(|a| a.net.addr())
        .filter(|ip| !link_local(*ip))
        .peekable();
    Ok(there.peek().is_some() && !there.any(|ip| spec.addresses.iter().any(|wanted| wanted.addr() == ip)))
}

/// Runs on a thread inside the namespace.
fn discard(device: &DeviceName) -> Result<bool, OpenError> {
    let DeviceName { netns, identity, ifname } = device;
    let about = |cause| OpenError::Netlink { ifname: ifname.clone(), netns: netns.clone(), cause };
    if let Some(wanted) = identity {
        let here = NetnsIdentity::current()
            .map_err(|cause| OpenError::Io { what: format!("identifying namespace {netns}"), cause })?;
        if *wanted != here {
            return Ok(false);
        }
    }
    let mut netlink = Netlink::open().map_err(about)?;
    let Some(link) = netlink.link(ifname).map_err(about)?.filter(is_ours) else { return Ok(false) };
    // Whoever holds it has a use for it: another daemon, for one.
    let flags = TapFlags { offload: false, must_create: false };
    let tap = Tap::open(ifname, flags).map_err(|cause| match cause.raw_os_error() {
        Some(libc::EBUSY) => OpenError::Busy { ifname: ifname.clone(), netns: netns.clone() },
        _ => OpenError::Io { what: format!("attaching to interface {ifname} in namespace {netns}"), cause },
    })?;
    closing::delete(&mut netlink, link.index).map_err(about)?;
    closing::let_go(tap.into_fd());
    Ok(true)
}

fn attach(spec: &PortSpec, adopted: bool) -> Result<Tap, OpenError> {
    let flags = TapFlags { offload: spec.offload, must_create: !adopted };
    Tap::open(&spec.ifname, flags).map_err(|cause| {
        let (ifname, netns) = (spec.ifname.clone(), spec.netns.clone());
        match cause.raw_os_error() {
            Some(libc::EBUSY) if adopted => OpenError::Busy { ifname, netns },
            Some(libc::EBUSY | libc::EEXIST) => {
                OpenError::IfaceExists { ifname, netns, kind: "made just now by someone else".into() }
            }
            Some(libc::ENOENT | libc::ENODEV | libc::ENXIO) => OpenError::NoTun(cause),
            // The same number for a device file one may not open and for a capability one has not.
            Some(libc::EPERM | libc::EACCES) => match features() {
                Err(e) => OpenError::NoTun(e),
                Ok(_) => OpenError::Permission {
                    what: format!("creating TAP {ifname} in namespace {netns}"),
                    cause,
                },
            },
            _ => OpenError::Io { what: format!("creating TAP {ifname} in namespace {netns}"), cause },
        }
    })
}

fn configure(netlink: &mut Netlink, link: &Link, spec: &PortSpec, adopted: bool) -> Result<(), NetlinkError> {
    let index = link.index;
    let ipv6 = spec.addresses.iter().any(|a| a.addr().is_ipv6());
    quiet_ipv6(&spec.ifname, ipv6);
    netlink.change_link(
        index,
        &LinkChange {
            // Set, though it were the same, it would cost the pod all its neighbours.
            mac: Some(spec.mac).filter(|mac| link.mac != Some(*mac)),
            mtu: Some(spec.mtu),
            txqueuelen: Some(if spec.offload { QUEUE_OFFLOAD } else { QUEUE_PLAIN }),
            alias: Some(ALIAS),
            ..LinkChange::default()
        },
    )?;
    // Old kernels cannot; the tunnel then takes two sends for the largest frames.
    let gso = LinkChange { gso_max_size: Some(GSO_MAX_SIZE), ..LinkChange::default() };
    if let Err(e) = netlink.change_link(index, &gso)
        && !matches!(e.errno(), Some(libc::EINVAL | libc::EOPNOTSUPP))
    {
        return Err(e);
    }
    if spec.node.is_some() {
        routes_for_the_node(&spec.ifname);
    }
    netlink.change_link(index, &LinkChange { up: Some(true), ..LinkChange::default() })?;
    if let Some(wanted) = &spec.node {
        return node::ensure(netlink, index, &spec.addresses, wanted);
    }
    // One that was there has its default routes, or its pod has chosen others.
    give_addresses(netlink, index, spec, adopted)
}

/// Gives a pod's interface the addresses and default routes that it lacks. A default route that is there already is
/// a refusal, unless they are given `again`.
fn give_addresses(
    netlink: &mut Netlink,
    index: u32,
    spec: &PortSpec,
    again: bool,
) -> Result<(), NetlinkError> {
    let present = netlink.addresses()?;
    let has = |net: &&IpNet| present.iter().any(|a| a.index == index && a.net == **net);
    for net in spec.addresses.iter().filter(|net| !has(net)) {
        netlink.add_address(index, *net)?;
    }
    for gateway in spec.gateways.iter().filter(|_| spec.default_route) {
        // A gateway of a family the pod does not speak leads nowhere.
        let speaks = spec.addresses.iter().any(|a| a.addr().is_ipv4() == gateway.is_ipv4());
        if speaks && (!again || netlink.default_routes(*gateway)?.is_empty()) {
            netlink.add_default_route(index, *gateway, &spec.addresses)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn underlay_refusals_name_the_next_step() {
        let mut opener = HostOpener;
        let absent: IpAddr = "192.0.2.77".parse().unwrap();
        let e = opener.bind_underlay(absent, 0).unwrap_err();
        assert!(matches!(e, OpenError::NoSuchAddress(_)), "{e}");
        let e = opener.underlay_mtu(absent).unwrap_err();
        assert!(matches!(e, OpenError::NoSuchAddress(_)), "{e}");
        let home: IpAddr = "127.0.0.1".parse().unwrap();
        let first: std::net::UdpSocket = opener.bind_underlay(home, 0).unwrap().into();
        let port = first.local_addr().unwrap().port();
        let e = opener.bind_underlay(home, port).unwrap_err();
        assert!(matches!(e, OpenError::PortInUse { .. }), "{e}");
    }
}
