//! The narrow interface to everything that needs privilege.
//!
//! A switch asks an [`Opener`] for a port or an underlay socket and gets a file descriptor. Where the
//! opener runs is not its concern: [`super::HostOpener`] does the work here and now, a privileged parent
//! process can do the same behind a socket and keep every descriptor across a crash of the switch.
//!
//! Limits, checked before anything is touched: 64 addresses and 8 gateways per port, an MTU of 68
//! (1,280 with IPv6 addresses) to 65,521 bytes.

use std::io;
use std::net::IpAddr;
use std::os::fd::{BorrowedFd, OwnedFd};

use ctl::error::Reason;
use ipnet::IpNet;
use packet::MacAddr;
use serde::{Deserialize, Serialize};

use super::events::LinkWatch;
use super::identity::NetnsIdentity;
use super::netlink::NetlinkError;
use super::netns::{NetnsError, NetnsId, NetnsRef};
use super::node::NodeLink;
use super::tap::{Offloads, check_ifname};
use super::watch::UnderlayLink;

/// Most addresses of one port.
pub const MAX_ADDRESSES: usize = 64;
/// Most gateways of one port.
pub const MAX_GATEWAYS: usize = 8;
/// Smallest MTU (RFC 791).
pub const MIN_MTU: u32 = 68;
/// Smallest MTU with IPv6 (RFC 8200).
pub const MIN_MTU_V6: u32 = 1280;
/// Largest MTU of a TAP.
pub const MAX_MTU: u32 = 65_521;

/// A pod's interface as it is to be.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct PortSpec {
    /// The pod's network namespace.
    pub netns: NetnsRef,
    /// Only in this one, whatever is called so by now. Absent: in the one that is.
    pub identity: Option<NetnsIdentity>,
    /// The interface's name in it.
    pub ifname: String,
    /// The pod's Ethernet address.
    #[serde(with = "super::wire::mac")]
    pub mac: MacAddr,
    /// The pod's MTU.
    pub mtu: u32,
    /// The pod's addresses with the prefix length of their subnet.
    pub addresses: Vec<IpNet>,
    /// The network's gateways.
    pub gateways: Vec<IpAddr>,
    /// Route everything else by the gateways.
    pub default_route: bool,
    /// Let the pod leave checksums and segmentation to the switch.
    pub offload: bool,
    /// Present: the node's own device, in the namespace of the switch.
    pub node: Option<NodeLink>,
}

/// A device by the names that a port declares, for [`Opener::discard_port`].
#[derive(Clone, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub struct DeviceName {
    /// As [`PortSpec::netns`].
    pub netns: NetnsRef,
    /// As [`PortSpec::identity`].
    pub identity: Option<NetnsIdentity>,
    /// As [`PortSpec::ifname`].
    pub ifname: String,
}

/// Where an opened port is, for [`Opener::check_port`] and [`Opener::close_port`].
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct PortPlace {
    /// The namespace it was made in, whatever is called so by now.
    pub netns_id: NetnsId,
    /// The interface's index in it.
    pub ifindex: u32,
}

/// A port that is ready to use.
#[derive(Debug)]
pub struct OpenedPort {
    /// The TAP, for [`super::Tap::from_fd`].
    pub fd: OwnedFd,
    /// The interface's index in its namespace.
    pub ifindex: u32,
    /// The namespace.
    pub netns_id: NetnsId,
    /// The same, to be known again after a restart.
    pub identity: NetnsIdentity,
    /// What the kernel granted.
    pub offloads: Offloads,
    /// Largest offload frame the pod hands over; the kernel's default where it cannot be set.
    pub gso_max_size: u32,
    /// The interface was there already, left by an earlier run.
    pub adopted: bool,
    /// It outlives its descriptors already, see [`Opener::keep_port`].
    pub lasting: bool,
}

impl OpenedPort {
    /// Where it is.
    #[must_use]
    pub fn place(&self) -> PortPlace {
        PortPlace { netns_id: self.netns_id, ifindex: self.ifindex }
    }
}

/// What became of a port.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum PortHealth {
    /// As it should be.
    Healthy,
    /// Its namespace's name leads nowhere any more.
    NetnsGone,
    /// Its namespace's name leads to another namespace now.
    NetnsReplaced,
    /// The interface was deleted, renamed or moved to another namespace.
    IfaceGone,
    /// Another interface has its name.
    IfaceReplaced,
    /// The interface was set down.
    Down,
    /// The interface's MTU was changed.
    MtuChanged {
        /// To this.
        found: u32,
    },
    /// The interface's Ethernet address was changed.
    MacChanged {
        /// To this.
        #[serde(with = "super::wire::mac")]
        found: MacAddr,
    },
    /// The pod has lost an address that it was given.
    PodAddressMissing {
        /// This one.
        addr: IpAddr,
    },
    /// The pod has no default route of this family any more.
    PodRouteMissing {
        /// It led there.
        gateway: IpAddr,
    },
    /// The node's own device has lost an address; [`Opener::restore_port`] mends it.
    AddressMissing {
        /// This one.
        addr: IpAddr,
    },
    /// The node's own device has lost the neighbour entry of a next hop; [`Opener::restore_port`] mends it.
    NextHopMissing {
        /// This one.
        addr: IpAddr,
    },
    /// The node's own device has lost a route, or it was changed; [`Opener::restore_port`] mends it.
    RouteMissing {
        /// To this range.
        net: IpNet,
    },
}

/// Why a port or socket could not be opened. Nothing is left behind.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The request makes no sense.
    #[error("{0}")]
    Invalid(String),
    /// The namespace cannot be used.
    #[error(transparent)]
    Netns(#[from] NetnsError),
    /// The name leads to another namespace than [`PortSpec::identity`].
    #[error("{0} is another network namespace now than the one this port was made for")]
    Replaced(NetnsRef),
    /// The namespace is the switch's own, where a default route would cut the node off.
    #[error(
        "namespace {0} is the switch's own: a default route there would take the node off its network; name the pod's namespace, or ask for no default route"
    )]
    OwnNamespace(NetnsRef),
    /// The name is taken by something that is not ours.
    #[error(
        "interface {ifname} already exists in namespace {netns} ({kind}): choose another name with --ifname, or remove it with `ip link del {ifname}`"
    )]
    IfaceExists {
        /// The name.
        ifname: String,
        /// Where.
        netns: NetnsRef,
        /// What it is.
        kind: String,
    },
    /// The TAP is ours, but another process holds it.
    #[error("interface {ifname} in namespace {netns} is held by another process: is another swd running?")]
    Busy {
        /// The name.
        ifname: String,
        /// Where.
        netns: NetnsRef,
    },
    /// There is no TUN driver to be seen.
    #[error(
        "/dev/net/tun cannot be opened: {0}; load the module with `modprobe tun`, pass the device to the container (--device /dev/net/tun), or let this user open it (its usual mode is 0666)"
    )]
    NoTun(io::Error),
    /// Not allowed.
    #[error("{what}: {cause}; it takes CAP_NET_ADMIN in the user namespace that owns the network namespace")]
    Permission {
        /// What was tried.
        what: String,
        /// The kernel's words.
        cause: io::Error,
    },
    /// The kernel refused a setting.
    #[error("interface {ifname} in namespace {netns}: {cause}")]
    Netlink {
        /// The interface.
        ifname: String,
        /// Where.
        netns: NetnsRef,
        /// The refusal.
        cause: NetlinkError,
    },
    /// No interface of this node has the underlay address.
    #[error("no interface has the underlay address {0}: give --underlay an address that `ip addr` shows")]
    NoSuchAddress(IpAddr),
    /// The underlay port is taken.
    #[error(
        "UDP port {port} at {addr} is in use: is another swd, or a kernel VXLAN device, running? `ss -ulnp` shows who has it"
    )]
    PortInUse {
        /// The address.
        addr: IpAddr,
        /// The port.
        port: u16,
    },
    /// What is left of them is not for ports.
    #[error(
        "{used} of {limit} descriptors of the process are in use, and the last {} are not for ports",
        super::reserve::SPARE
    )]
    Descriptors {
        /// In use.
        used: u64,
        /// Most that there may be.
        limit: u64,
    },
    /// A parent process was asked, and it refused.
    #[error("{text}")]
    Told {
        /// What kind of refusal it is.
        reason: Reason,
        /// Why.
        text: String,
        /// The next step; may be empty.
        hint: String,
    },
    /// Anything else.
    #[error("{what}: {cause}")]
    Io {
        /// What was tried.
        what: String,
        /// The system's words.
        cause: io::Error,
    },
}

/// Opens what needs privilege.
pub trait Opener {
    /// Makes the interface in its namespace, configures it and sets it up. All or nothing. One that an earlier run
    /// has left is taken over, and set up like a new one. A new one goes with its last descriptor until
    /// [`Opener::keep_port`].
    ///
    /// # Errors
    /// See [`OpenError`].
    fn open_port(&mut self, spec: &PortSpec) -> Result<OpenedPort, OpenError>;

    /// Lets the interface outlive its descriptors, to be taken over after a restart. Its owner is set first, so that
    /// nobody else may take it. `fd` is a descriptor of it. Only for ports that are durably declared: nobody would
    /// come back for the others.
    ///
    /// # Errors
    /// See [`OpenError`].
    fn keep_port(&mut self, spec: &PortSpec, place: PortPlace, fd: BorrowedFd<'_>) -> Result<(), OpenError>;

    /// Removes an interface that an earlier run has left, for a port that is not declared any more; true if there was
    /// one. One in another namespace than it was made for is not it, and one that a process holds stays.
    ///
    /// # Errors
    /// See [`OpenError`].
    fn discard_port(&mut self, device: &DeviceName) -> Result<bool, OpenError>;

    /// Removes the interface, kept or not, whatever it is called by now. One that is gone, with its namespace or
    /// without, is fine; one that is not ours stays.
    ///
    /// # Errors
    /// See [`OpenError`].
    fn close_port(&mut self, spec: &PortSpec, place: PortPlace) -> Result<(), OpenError>;

    /// Looks whether the port is as it should be.
    ///
    /// # Errors
    /// When it cannot be looked at.
    fn check_port(&mut self, spec: &PortSpec, place: PortPlace) -> Result<PortHealth, OpenError>;

    /// Gives an open port the MTU of `spec`, and the addresses and routes that it lacks, while it runs and without a
    /// gap for what stays. A pod's other addresses and routes are left alone; from the node's own device, routes of ours that
    /// `spec` does not have are taken.
    ///
    /// # Errors
    /// See [`OpenError`]; then the node's routes are as before.
    fn restore_port(&mut self, spec: &PortSpec, place: PortPlace) -> Result<(), OpenError>;

    /// Binds an underlay socket: UDP, non-blocking, nobody else's.
    ///
    /// # Errors
    /// See [`OpenError`].
    fn bind_underlay(&mut self, addr: IpAddr, port: u16) -> Result<OwnedFd, OpenError>;

    /// A UDP socket to send from, not bound, with a buffer larger than everybody may have.
    ///
    /// # Errors
    /// See [`OpenError`].
    fn sending_socket(&mut self, local: IpAddr) -> Result<OwnedFd, OpenError>;

    /// The interface that has the underlay address now; `None`: none has.
    ///
    /// # Errors
    /// When it cannot be looked at.
    fn underlay_link(&mut self, addr: IpAddr) -> Result<Option<UnderlayLink>, OpenError>;

    /// The MTU of the interface that has the underlay address.
    ///
    /// # Errors
    /// See [`OpenError`].
    fn underlay_mtu(&mut self, addr: IpAddr) -> Result<u32, OpenError> {
        self.underlay_link(addr)?.map(|link| link.mtu).ok_or(OpenError::NoSuchAddress(addr))
    }

    /// A socket that hears of changes to the ports that [`Opener::watch_port`] is called for, and in the switch's own
    /// namespace.
    ///
    /// # Errors
    /// See [`OpenError`]; an opener without a kernel has nothing to watch.
    fn watch_links(&mut self) -> Result<LinkWatch, OpenError> {
        Err(unwatched())
    }

    /// An instance of inotify that hears of the names of these ports' namespaces.
    ///
    /// # Errors
    /// See [`OpenError`].
    fn watch_names(&mut self) -> Result<OwnedFd, OpenError> {
        Err(unwatched())
    }

    /// From now on both hear of this port. `names` is what [`Opener::watch_names`] gave. Returns the id of the port's
    /// namespace in what the first one reads; `None` is the switch's own.
    ///
    /// # Errors
    /// See [`OpenError`].
    fn watch_port(
        &mut self,
        spec: &PortSpec,
        place: PortPlace,
        names: Option<BorrowedFd<'_>>,
    ) -> Result<Option<i32>, OpenError> {
        let _ = (spec, place, names);
        Err(unwatched())
    }
}

fn unwatched() -> OpenError {
    OpenError::Io { what: "watching".into(), cause: io::ErrorKind::Unsupported.into() }
}

impl PortSpec {
    /// Refuses what can be seen to be wrong without looking at the system.
    ///
    /// # Errors
    /// [`OpenError::Invalid`].
    pub fn validate(&self) -> Result<(), OpenError> {
        let invalid = |text: String| Err(OpenError::Invalid(text));
        check_ifname(&self.ifname).map_err(|e| OpenError::Invalid(e.to_string()))?;
        if !self.mac.is_unicast() {
            return invalid(format!("{} is not an Ethernet address of an interface", self.mac));
        }
        let v6 = self.addresses.iter().any(|a| a.addr().is_ipv6());
        let least = if v6 { MIN_MTU_V6 } else { MIN_MTU };
        if !(least..=MAX_MTU).contains(&self.mtu) {
            return invalid(format!("MTU {} is not within {least} to {MAX_MTU}", self.mtu));
        }
        if self.addresses.len() > MAX_ADDRESSES || self.gateways.len() > MAX_GATEWAYS {
            return invalid(format!("more than {MAX_ADDRESSES} addresses or {MAX_GATEWAYS} gateways"));
        }
        let unusable = |ip: &IpAddr| ip.is_unspecified() || ip.is_multicast() || ip.is_loopback();
        let all = self.addresses.iter().map(IpNet::addr).chain(self.gateways.iter().copied());
        if let Some(bad) = all.into_iter().find(unusable) {
            return invalid(format!("{bad} is not an address of a pod or gateway"));
        }
        self.node.as_ref().map_or(Ok(()), |link| link.validate(self))
    }

    /// Is the device of one spec also that of the other, so that [`Opener::restore_port`] leads from one to the
    /// other without closing it? An open device is where it is, so what namespace is asked for does not count.
    #[must_use]
    pub fn same_device(&self, other: &Self) -> bool {
        self.node.is_some() == other.node.is_some()
            && Self { node: None, identity: None, mtu: 0, ..self.clone() }
                == Self { node: None, identity: None, mtu: 0, ..other.clone() }
    }
}

#[cfg(test)]
mod tests {
    use super::super::node::MAX_ROUTES;
    use super::super::route::NodeRoute;
    use super::*;

    fn spec() -> PortSpec {
        PortSpec {
            netns: NetnsRef::Name("x".into()),
            identity: None,
            ifname: "eth0".into(),
            mac: MacAddr([2, 0, 0, 0, 0, 1]),
            mtu: 1450,
            addresses: vec!["10.1.1.2/24".parse().unwrap()],
            gateways: vec!["10.1.1.1".parse().unwrap()],
            default_route: true,
            offload: true,
            node: None,
        }
    }

    #[test]
    fn specs_of_the_node_are_checked() {
        let [via, source]: [IpAddr; 2] = ["169.254.1.1", "10.1.1.1"].map(|a| a.parse().unwrap());
        let route = NodeRoute { net: "10.1.1.0/24".parse().unwrap(), via, source };
        let link = |route: NodeRoute| NodeLink {
            next_hops: vec![(via, MacAddr([2, 0, 0, 0, 0, 9]))],
            routes: vec![route],
        };
        let node = |link: NodeLink| PortSpec {
            addresses: vec!["10.1.1.1/24".parse().unwrap()],
            default_route: false,
            node: Some(link),
            ..spec()
        };
        let good = node(link(route));
        assert!(good.validate().is_ok());
        assert!(good.same_device(&node(NodeLink::default())) && !good.same_device(&spec()));
        assert!(good.same_device(&PortSpec { mtu: 1400, ..good.clone() }));
        assert!(!good.same_device(&PortSpec { offload: false, ..good.clone() }));
        for bad in [
            PortSpec { default_route: true, ..good.clone() },
            node(link(NodeRoute { net: "0.0.0.0/0".parse().unwrap(), ..route })),
            node(link(NodeRoute { net: "10.1.1.1/24".parse().unwrap(), ..route })),
            node(link(NodeRoute { net: "fd00::/64".parse().unwrap(), ..route })),
            node(link(NodeRoute { via: "169.254.1.2".parse().unwrap(), ..route })),
            node(link(NodeRoute { source: "10.1.1.2".parse().unwrap(), ..route })),
            node(NodeLink { routes: vec![route; MAX_ROUTES + 1], ..link(route) }),
        ] {
            assert!(matches!(bad.validate(), Err(OpenError::Invalid(_))), "{bad:?}");
        }
    }

    #[test]
    fn specs_are_checked() {
        assert!(spec().validate().is_ok());
        let v6: IpNet = "fd00::2/64".parse().unwrap();
        assert!(PortSpec { addresses: vec![v6], mtu: 1280, ..spec() }.validate().is_ok());
        for bad in [
            PortSpec { ifname: "eth 0".into(), ..spec() },
            PortSpec { mac: MacAddr::BROADCAST, ..spec() },
            PortSpec { mac: MacAddr::ZERO, ..spec() },
            PortSpec { mtu: 67, ..spec() },
            PortSpec { mtu: 65_522, ..spec() },
            PortSpec { mtu: 1279, addresses: vec![v6], ..spec() },
            PortSpec { addresses: vec!["127.0.0.1/8".parse().unwrap()], ..spec() },
            PortSpec { gateways: vec!["224.0.0.1".parse().unwrap()], ..spec() },
            PortSpec { addresses: vec![v6; 65], mtu: 1280, ..spec() },
        ] {
            assert!(matches!(bad.validate(), Err(OpenError::Invalid(_))), "{bad:?}");
        }
    }
}
