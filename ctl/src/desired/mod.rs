//! The desired state with checked types, and its document format.
//!
//! One document format serves `swctl apply`, `swctl export` and the daemon's durable state file: TOML or
//! JSON with the keys of the structs below (see `docs/swctl.md`). Unknown keys are refused, so that a
//! misspelt one is not silently a default. Reading checks three things, each in a file of its own: the
//! text of single values ([`text`]), one object by itself, and the objects against each other (both
//! [`check`]). [`convert`] maps to and from the generated types, [`merge`] is the
//! meaning of `apply`, [`edit`] that of the single-object requests.
//!
//! Absent keys mean defaults and defaults are not written. A value read here is complete: two objects are
//! equal when they mean the same, which is what `may_exist` and `apply` compare.

pub mod attachment;
pub mod check;
pub mod convert;
pub mod document;
pub mod edit;
mod keys;
pub mod merge;
pub mod range;
pub mod text;

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;

use ipnet::IpNet;
use packet::{MacAddr, Vni};
use serde::{Deserialize, Serialize};

pub use attachment::{Bandwidth, NodePort, Owner, PortMapping, Protocol};
pub use range::AddressRange;
use text::{many, nonzero, one, opt, vni};

/// The version of the document that this code reads and writes.
pub const VERSION: u32 = 1;
/// Lifetime of learned FDB entries, in seconds, unless a network says otherwise.
pub const DEFAULT_AGEING_SECONDS: u32 = 300;
/// Name of the device in a pod unless a port says otherwise.
pub const DEFAULT_IFNAME: &str = "eth0";
/// Name of the node's own device unless its port says otherwise.
pub const DEFAULT_NODE_IFNAME: &str = "swd0";

/// Everything that is declared on one node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DesiredState {
    /// [`VERSION`].
    #[serde(default = "version")]
    pub version: u32,
    /// Node-wide settings.
    #[serde(default, skip_serializing_if = "is_default")]
    pub settings: Settings,
    /// Bridge domains.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub networks: Vec<Network>,
    /// Pods' devices.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ports: Vec<Port>,
    /// Remote nodes.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub peers: Vec<Peer>,
    /// Routes added by hand.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub routes: Vec<Route>,
    /// Static FDB entries.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub fdb: Vec<FdbEntry>,
    /// Static neighbours.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub neighbours: Vec<Neighbour>,
}

impl Default for DesiredState {
    fn default() -> Self {
        Self {
            version: VERSION,
            settings: Settings::default(),
            networks: Vec::new(),
            ports: Vec::new(),
            peers: Vec::new(),
            routes: Vec::new(),
            fdb: Vec::new(),
            neighbours: Vec::new(),
        }
    }
}

/// Node-wide settings. None yet.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {}

/// A bridge domain with its subnets and gateways.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Network {
    /// Key.
    pub name: String,
    /// On the wire; unique on the node.
    #[serde(with = "vni")]
    pub vni: Vni,
    /// Lifetime of learned FDB entries.
    #[serde(default = "ageing", skip_serializing_if = "is_ageing")]
    pub ageing_seconds: u32,
    /// MTU of the pods; absent: derived from the underlay and the encapsulation.
    #[serde(default, deserialize_with = "nonzero", skip_serializing_if = "Option::is_none")]
    pub mtu: Option<u16>,
    /// Most FDB entries learned here; absent: the daemon's default.
    #[serde(default, deserialize_with = "nonzero", skip_serializing_if = "Option::is_none")]
    pub fdb_limit: Option<u32>,
    /// Flood unicast frames to unknown addresses.
    #[serde(default = "yes", skip_serializing_if = "is_true")]
    pub flood: bool,
    /// At most one gateway each.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub subnets: Vec<Subnet>,
    /// Addresses that this node may give to attachments; empty: every host of each subnet.
    #[serde(default, with = "many", skip_serializing_if = "Vec::is_empty")]
    pub ranges: Vec<AddressRange>,
    /// Of these, the ones never given.
    #[serde(default, with = "many", skip_serializing_if = "Vec::is_empty")]
    pub exclude: Vec<AddressRange>,
}

/// An address range on a network.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Subnet {
    /// Without host bits.
    #[serde(with = "one")]
    pub cidr: IpNet,
    /// Where the switch answers as gateway; absent: layer 2 only.
    #[serde(default, with = "opt", skip_serializing_if = "Option::is_none")]
    pub gateway: Option<IpAddr>,
}

/// One TAP device in one pod's network namespace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Port {
    /// Key.
    pub name: String,
    /// Name of the network.
    pub network: String,
    /// See [`Netns`]; empty for the node's own port.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub netns: String,
    /// Name of the device inside the namespace.
    #[serde(default = "ifname", skip_serializing_if = "is_ifname")]
    pub ifname: String,
    /// Absent: derived by the daemon.
    #[serde(default, with = "opt", skip_serializing_if = "Option::is_none")]
    pub mac: Option<MacAddr>,
    /// Interface addresses with prefix length.
    #[serde(default, with = "many", skip_serializing_if = "Vec::is_empty")]
    pub ips: Vec<IpNet>,
    /// Absent: that of the network.
    #[serde(default, deserialize_with = "nonzero", skip_serializing_if = "Option::is_none")]
    pub mtu: Option<u16>,
    /// Accept and learn any source address instead of guarding the declared ones.
    #[serde(default, skip_serializing_if = "is_default")]
    pub learning: bool,
    /// Most MAC addresses learned from this port; absent: the daemon's default.
    #[serde(default, deserialize_with = "nonzero", skip_serializing_if = "Option::is_none")]
    pub mac_limit: Option<u32>,
    /// Segmentation and checksum offload on the TAP.
    #[serde(default = "yes", skip_serializing_if = "is_true")]
    pub offload: bool,
    /// Install default routes via the network's gateways.
    #[serde(default = "yes", skip_serializing_if = "is_true")]
    pub default_route: bool,
    /// The client's own bookkeeping.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub metadata: BTreeMap<String, String>,
    /// Absent: unlimited.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bandwidth: Option<Bandwidth>,
    /// Ports of the node that lead here.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub mappings: Vec<PortMapping>,
    /// Present: it belongs to a container runtime.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attachment: Option<Owner>,
    /// Present: the node's own port.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<NodePort>,
}

/// How a port names its network namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Netns {
    /// As `ip netns` made it, under `/run/netns`.
    Name(String),
    /// Absolute.
    Path(PathBuf),
    /// That of a process.
    Pid(u32),
    /// The daemon's.
    Own,
}

impl Port {
    /// What [`Port::netns`] means. A text of digits only is a process id.
    #[must_use]
    pub fn netns_ref(&self) -> Netns {
        if self.node.is_some() {
            return Netns::Own;
        }
        if self.netns.starts_with('/') {
            return Netns::Path(PathBuf::from(&self.netns));
        }
        match self.netns.parse::<u32>() {
            Ok(pid) if self.netns.bytes().all(|b| b.is_ascii_digit()) => Netns::Pid(pid),
            _ => Netns::Name(self.netns.clone()),
        }
    }
}

impl Netns {
    /// The file that stands for the namespace.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        match self {
            Self::Name(name) => PathBuf::from("/run/netns").join(name),
            Self::Path(path) => path.clone(),
            Self::Pid(pid) => PathBuf::from(format!("/proc/{pid}/ns/net")),
            Self::Own => PathBuf::from("/proc/self/ns/net"),
        }
    }
}

/// A remote node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Peer {
    /// Key.
    pub name: String,
    /// Underlay address of its VTEP.
    #[serde(with = "one")]
    pub remote: IpAddr,
    /// UDP port; absent: that of the encapsulation.
    #[serde(default, deserialize_with = "nonzero", skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// On the wire.
    #[serde(default, skip_serializing_if = "is_default")]
    pub encap: Encap,
    /// Pod addresses that live there: routed to it, and the only inner sources accepted from it.
    #[serde(default, with = "many", skip_serializing_if = "Vec::is_empty")]
    pub pod_cidrs: Vec<IpNet>,
    /// Inner destination MAC of routed frames; absent: derived from `remote`.
    #[serde(default, with = "opt", skip_serializing_if = "Option::is_none")]
    pub router_mac: Option<MacAddr>,
    /// Limits the peer to one network; absent: all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network: Option<String>,
    /// Non-zero outer UDP checksum.
    #[serde(default = "yes", skip_serializing_if = "is_true")]
    pub checksum: bool,
}

impl Peer {
    /// The UDP port in force.
    #[must_use]
    pub fn udp_port(&self) -> u16 {
        self.port.unwrap_or(self.encap.default_port())
    }
}

/// The encapsulation spoken with a peer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Encap {
    /// RFC 7348.
    #[default]
    Vxlan,
    /// RFC 8926.
    Geneve,
}

impl Encap {
    /// The UDP port assigned by IANA.
    #[must_use]
    pub const fn default_port(self) -> u16 {
        match self {
            Self::Vxlan => 4789,
            Self::Geneve => 6081,
        }
    }

    /// As written in documents and on the command line.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Vxlan => "vxlan",
            Self::Geneve => "geneve",
        }
    }
}

impl fmt::Display for Encap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A route added by hand. In documents the target is one of the keys `via = "10.1.1.7"`, `peer = "node-b"`,
/// `blackhole = true` and `unreachable = true`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "keys::Route", into = "keys::Route")]
pub struct Route {
    /// Key, together with `prefix`.
    pub network: String,
    /// Without host bits.
    pub prefix: IpNet,
    /// What becomes of packets that match.
    pub target: RouteTarget,
}

/// What becomes of packets that match a route.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RouteTarget {
    /// To a neighbour on one of the network's subnets.
    NextHop(IpAddr),
    /// Through the tunnel.
    Peer(String),
    /// Dropped silently.
    Blackhole,
    /// Dropped and answered with an ICMP error.
    Unreachable,
}

/// A static FDB entry: it neither ages nor moves. In documents the place is one of the keys `port` and `peer`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "keys::FdbEntry", into = "keys::FdbEntry")]
pub struct FdbEntry {
    /// Key, together with `mac`.
    pub network: String,
    /// Unicast.
    pub mac: MacAddr,
    /// Where the MAC is.
    pub place: Place,
}

/// Where a MAC address is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// Behind a port.
    Port(String),
    /// Behind a peer.
    Peer(String),
}

/// A static neighbour.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Neighbour {
    /// Key, together with `ip`.
    pub network: String,
    /// On one of the network's subnets.
    #[serde(with = "one")]
    pub ip: IpAddr,
    /// Unicast.
    #[serde(with = "one")]
    pub mac: MacAddr,
}

const fn version() -> u32 {
    VERSION
}
const fn ageing() -> u32 {
    DEFAULT_AGEING_SECONDS
}
#[allow(clippy::trivially_copy_pass_by_ref)] // the signature serde asks for
const fn is_ageing(v: &u32) -> bool {
    *v == DEFAULT_AGEING_SECONDS
}
fn ifname() -> String {
    DEFAULT_IFNAME.to_owned()
}
fn is_ifname(v: &str) -> bool {
    v == DEFAULT_IFNAME
}
const fn yes() -> bool {
    true
}
#[allow(clippy::trivially_copy_pass_by_ref)] // the signature serde asks for
const fn is_true(v: &bool) -> bool {
    *v
}
fn is_default<T: Default + PartialEq>(v: &T) -> bool {
    *v == T::default()
}
