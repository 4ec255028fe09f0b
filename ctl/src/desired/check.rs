//! What makes a desired state sound, beyond each value being well-formed.
//!
//! First each object by itself: names, ranges, a gateway inside its subnet. Then the objects against each
//! other: what is named must exist, and what must be unique is. Whether a namespace exists or a device can
//! be made is not asked here: such an object is accepted, reported as degraded, and retried.
//!
//! Everything is linear in the number of objects, except the next hop of a route, which is compared with
//! each of the few subnets of its network.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::net::IpAddr;

use ipnet::IpNet;
use packet::MacAddr;

use super::{DesiredState, FdbEntry, Neighbour, Network, Peer, Place, Port, Route, RouteTarget, VERSION};
use crate::error::{ApiError, Reason};

/// Longest name of an object, in bytes.
pub const MAX_NAME: usize = 253;
/// Most entries of [`Port::metadata`], and longest value in bytes.
pub const MAX_METADATA: (usize, usize) = (64, 4096);
/// Smallest and largest MTU of a TAP device.
pub const MTU_RANGE: (u16, u16) = (576, 65_521);
/// Smallest MTU with IPv6 (RFC 8200).
const MIN_MTU_V6: u16 = 1280;
const MAX_AGEING: u32 = 1_000_000;
/// IFNAMSIZ without the final zero.
const MAX_IFNAME: usize = 15;

type Checked = Result<(), ApiError>;

/// Whether a text may name an object.
///
/// # Errors
/// A sentence that quotes the text.
pub fn name(text: &str) -> Result<(), String> {
    let expected = "expected letters, digits and . _ / -, starting with a letter or digit";
    let allowed = |b: u8| b.is_ascii_alphanumeric() || b"._/-".contains(&b);
    if text.is_empty() {
        return Err("the name is empty".to_owned());
    }
    if text.len() > MAX_NAME {
        return Err(format!("the name is {} bytes long: at most {MAX_NAME}", text.len()));
    }
    if !text.bytes().all(allowed) || !text.as_bytes()[0].is_ascii_alphanumeric() {
        return Err(format!("`{}` cannot be a name: {expected}", text.escape_default()));
    }
    Ok(())
}

/// Whether a text may name a network namespace: a name, an absolute path, or a process id.
///
/// # Errors
/// A sentence that quotes the text.
pub fn netns(text: &str) -> Result<(), String> {
    let shown = text.escape_default();
    if text.is_empty() {
        return Err("the network namespace is empty".to_owned());
    }
    if text.len() > 4095 || text.contains('\0') {
        return Err(format!("`{shown}` cannot be a path"));
    }
    if text.starts_with('/') {
        return Ok(());
    }
    if text.contains('/') || text == "." || text == ".." {
        return Err(format!("`{shown}` is neither a name, nor an absolute path, nor a process id"));
    }
    Ok(())
}

/// Whether the kernel takes a text as the name of a device.
///
/// # Errors
/// A sentence that quotes the text.
pub fn ifname(text: &str) -> Result<(), String> {
    let bad = |c: char| c == '/' || c == ':' || c.is_whitespace() || c.is_control();
    if text.is_empty() || text.len() > MAX_IFNAME || text == "." || text == ".." || text.contains(bad) {
        let shown = text.escape_default();
        return Err(format!("`{shown}` cannot name a device: expected 1 to {MAX_IFNAME} characters"));
    }
    Ok(())
}

fn mtu(mtu: Option<u16>, v6: bool) -> Result<(), String> {
    let Some(mtu) = mtu else { return Ok(()) };
    let min = if v6 { MIN_MTU_V6 } else { MTU_RANGE.0 };
    if mtu < min || mtu > MTU_RANGE.1 {
        let why = if v6 { " with IPv6" } else { "" };
        return Err(format!("MTU {mtu} is out of range: expected {min} to {}{why}", MTU_RANGE.1));
    }
    Ok(())
}

fn unicast(mac: MacAddr) -> Result<(), String> {
    if mac.is_unicast() { Ok(()) } else { Err(format!("{mac} is not a unicast address")) }
}

fn host(ip: IpAddr) -> Result<(), String> {
    let broadcast = matches!(ip, IpAddr::V4(v4) if v4.is_broadcast());
    if ip.is_multicast() || ip.is_unspecified() || broadcast {
        return Err(format!("{ip} is not the address of a host"));
    }
    Ok(())
}

fn is_v6(net: &IpNet) -> bool {
    matches!(net, IpNet::V6(_))
}

/// Neither the network nor the broadcast address of an IPv4 subnet.
fn host_in(subnet: &IpNet, ip: IpAddr) -> bool {
    let edge = match subnet {
        IpNet::V4(net) => net.prefix_len() < 31 && (net.network() == ip || net.broadcast() == ip),
        IpNet::V6(_) => false,
    };
    subnet.contains(&ip) && !edge
}

impl Network {
    /// Checks the object by itself.
    ///
    /// # Errors
    /// [`Reason::InvalidArgument`].
    pub fn check(&self) -> Checked {
        let invalid = |e: String| ApiError::invalid(format_args!("network {}", self.name), e);
        name(&self.name).map_err(|e| ApiError::invalid("network", e))?;
        mtu(self.mtu, self.subnets.iter().any(|s| is_v6(&s.cidr))).map_err(invalid)?;
        if self.ageing_seconds == 0 || self.ageing_seconds > MAX_AGEING {
            let age = self.ageing_seconds;
            return Err(invalid(format!("ageing of {age} s is out of range: expected 1 to {MAX_AGEING}")));
        }
        for (i, s) in self.subnets.iter().enumerate() {
            if s.cidr.trunc() != s.cidr {
                return Err(invalid(format!("subnet {} has host bits set", s.cidr)));
            }
            if let Some(o) = self.subnets[..i].iter().find(|o| overlap(&o.cidr, &s.cidr)) {
                return Err(invalid(format!("subnets {} and {} overlap", o.cidr, s.cidr)));
            }
            if let Some(gateway) = s.gateway {
                host(gateway).map_err(invalid)?;
                if !host_in(&s.cidr, gateway) {
                    return Err(invalid(format!("gateway {gateway} is not a host in subnet {}", s.cidr)));
                }
            }
        }
        for range in self.ranges.iter().chain(&self.exclude) {
            let inside =
                |s: &super::Subnet| s.cidr.contains(&range.first()) && s.cidr.contains(&range.last());
            if !self.subnets.iter().any(inside) {
                return Err(invalid(format!("range {range} lies in no subnet of the network")));
            }
        }
        Ok(())
    }
}

fn overlap(a: &IpNet, b: &IpNet) -> bool {
    a.contains(b) || b.contains(a)
}

impl Port {
    /// Checks the object by itself.
    ///
    /// # Errors
    /// [`Reason::InvalidArgument`].
    pub fn check(&self) -> Checked {
        name(&self.name).map_err(|e| ApiError::invalid("port", e))?;
        self.check_fields().map_err(|e| ApiError::invalid(format_args!("port {}", self.name), e))
    }

    fn check_fields(&self) -> Result<(), String> {
        name(&self.network).map_err(|e| format!("its network: {e}"))?;
        match self.node {
            None => netns(&self.netns)?,
            Some(_) if self.netns.is_empty() => {}
            Some(_) => return Err("the node's port is in the node's own namespace".to_owned()),
        }
        ifname(&self.ifname)?;
        self.check_extras()?;
        mtu(self.mtu, self.ips.iter().any(is_v6))?;
        self.mac.map_or(Ok(()), unicast)?;
        let mut seen = HashSet::new();
        for ip in &self.ips {
            host(ip.addr())?;
            if !seen.insert(ip.addr()) {
                return Err(format!("address {} is given twice", ip.addr()));
            }
        }
        let (count, len) = MAX_METADATA;
        if self.metadata.len() > count {
            return Err(format!("{} metadata entries: at most {count}", self.metadata.len()));
        }
        match self.metadata.iter().find(|(k, v)| k.is_empty() || k.len() > MAX_NAME || v.len() > len) {
            Some((k, _)) => {
                Err(format!("metadata `{}` is empty or too long: at most {len} bytes", k.escape_default()))
            }
            None => Ok(()),
        }
    }
}

impl Peer {
    /// Checks the object by itself.
    ///
    /// # Errors
    /// [`Reason::InvalidArgument`].
    pub fn check(&self) -> Checked {
        name(&self.name).map_err(|e| ApiError::invalid("peer", e))?;
        self.check_fields().map_err(|e| ApiError::invalid(format_args!("peer {}", self.name), e))
    }

    fn check_fields(&self) -> Result<(), String> {
        host(self.remote)?;
        if self.port == Some(0) {
            return Err("UDP port 0 is out of range".to_owned());
        }
        self.router_mac.map_or(Ok(()), unicast)?;
        if let Some(network) = &self.network {
            name(network).map_err(|e| format!("its network: {e}"))?;
        }
        let mut seen = HashSet::new();
        for cidr in &self.pod_cidrs {
            if cidr.trunc() != *cidr {
                return Err(format!("pod CIDR {cidr} has host bits set"));
            }
            if !seen.insert(cidr) {
                return Err(format!("pod CIDR {cidr} is given twice"));
            }
        }
        Ok(())
    }
}

impl fmt::Display for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "route {} in network {}", self.prefix, self.network)
    }
}

impl Route {
    /// Checks the object by itself.
    ///
    /// # Errors
    /// [`Reason::InvalidArgument`].
    pub fn check(&self) -> Checked {
        let invalid = |e: String| ApiError::invalid(self, e);
        name(&self.network).map_err(|e| invalid(format!("its network: {e}")))?;
        if self.prefix.trunc() != self.prefix {
            return Err(invalid("the prefix has host bits set".to_owned()));
        }
        match &self.target {
            RouteTarget::NextHop(ip) if ip.is_ipv6() != is_v6(&self.prefix) => {
                Err(invalid(format!("next hop {ip} is of the other address family")))
            }
            RouteTarget::NextHop(ip) => host(*ip).map_err(invalid),
            RouteTarget::Peer(peer) => name(peer).map_err(|e| invalid(format!("its peer: {e}"))),
            RouteTarget::Blackhole | RouteTarget::Unreachable => Ok(()),
        }
    }
}

impl fmt::Display for FdbEntry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "fdb entry {} in network {}", self.mac, self.network)
    }
}

impl FdbEntry {
    /// Checks the object by itself.
    ///
    /// # Errors
    /// [`Reason::InvalidArgument`].
    pub fn check(&self) -> Checked {
        let (Place::Port(place) | Place::Peer(place)) = &self.place;
        unicast(self.mac)
            .and_then(|()| name(&self.network))
            .and_then(|()| name(place))
            .map_err(|e| ApiError::invalid(self, e))
    }
}

impl fmt::Display for Neighbour {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "neighbour {} in network {}", self.ip, self.network)
    }
}

impl Neighbour {
    /// Checks the object by itself.
    ///
    /// # Errors
    /// [`Reason::InvalidArgument`].
    pub fn check(&self) -> Checked {
        unicast(self.mac)
            .and_then(|()| host(self.ip))
            .and_then(|()| name(&self.network))
            .map_err(|e| ApiError::invalid(self, e))
    }
}

/// Finds the second of two objects with the same key.
struct Unique<'a, K>(HashMap<K, &'a str>);

impl<'a, K: std::hash::Hash + Eq> Unique<'a, K> {
    fn new() -> Self {
        Self(HashMap::new())
    }

    /// `owner` claims `key`; `what` says in words what it is.
    fn claim(&mut self, kind: &str, owner: &'a str, key: K, what: impl fmt::Display) -> Checked {
        match self.0.insert(key, owner) {
            None => Ok(()),
            Some(first) => Err(conflict(format!("{kind} {owner}: {what} already belongs to {kind} {first}"))),
        }
    }
}

fn conflict(message: String) -> ApiError {
    ApiError::new(Reason::Conflict, message)
}

fn twice(what: impl fmt::Display) -> ApiError {
    conflict(format!("{what} is declared twice"))
}

/// The objects that others name.
struct Names<'a> {
    networks: HashMap<&'a str, &'a Network>,
    ports: HashMap<&'a str, &'a Port>,
    peers: HashSet<&'a str>,
}

impl<'a> Names<'a> {
    fn network(&self, who: impl fmt::Display, name: &str) -> Result<&'a Network, ApiError> {
        self.networks.get(name).copied().ok_or_else(|| missing(who, ApiError::no_network(name)))
    }

    fn peer(&self, who: impl fmt::Display, name: &str) -> Checked {
        if self.peers.contains(name) { Ok(()) } else { Err(missing(who, ApiError::no_peer(name))) }
    }

    /// A port, which must be in the same network.
    fn port(&self, who: impl fmt::Display, name: &str, network: &str) -> Checked {
        match self.ports.get(name) {
            None => Err(missing(who, ApiError::no_port(name))),
            Some(port) if port.network != network => {
                Err(conflict(format!("{who}: port {name} is in network {}", port.network)))
            }
            Some(_) => Ok(()),
        }
    }
}

fn missing(who: impl fmt::Display, mut e: ApiError) -> ApiError {
    e.message = format!("{who}: {}", e.message);
    e
}

impl DesiredState {
    /// Checks every object by itself and all against each other.
    ///
    /// # Errors
    /// [`Reason::InvalidArgument`], [`Reason::Conflict`] when two objects claim the same thing, or the
    /// reason for a missing network, port or peer that another object names.
    pub fn check(&self) -> Checked {
        if self.version != VERSION {
            let cause = format!("version {} is not understood: expected {VERSION}", self.version);
            return Err(ApiError::invalid("document", cause));
        }
        self.networks.iter().try_for_each(Network::check)?;
        self.ports.iter().try_for_each(Port::check)?;
        self.peers.iter().try_for_each(Peer::check)?;
        self.routes.iter().try_for_each(Route::check)?;
        self.fdb.iter().try_for_each(FdbEntry::check)?;
        self.neighbours.iter().try_for_each(Neighbour::check)?;

        let mut names = Names { networks: HashMap::new(), ports: HashMap::new(), peers: HashSet::new() };
        let mut vnis = Unique::new();
        for n in &self.networks {
            if names.networks.insert(&n.name, n).is_some() {
                return Err(twice(format_args!("network {}", n.name)));
            }
            vnis.claim("network", &n.name, n.vni, format_args!("VNI {}", n.vni))?;
        }
        for p in &self.ports {
            if names.ports.insert(&p.name, p).is_some() {
                return Err(twice(format_args!("port {}", p.name)));
            }
        }
        for p in &self.peers {
            if !names.peers.insert(&p.name) {
                return Err(twice(format_args!("peer {}", p.name)));
            }
        }
        self.check_ports(&names)?;
        self.check_mappings()?;
        self.check_peers(&names)?;
        self.check_entries(&names)
    }

    fn check_ports(&self, names: &Names) -> Checked {
        let (mut places, mut macs, mut ips) = (Unique::new(), Unique::new(), Unique::new());
        let mut nodes = Unique::new();
        for p in &self.ports {
            if p.node.is_some() {
                let what = format!("the node's place in network {}", p.network);
                nodes.claim("port", &p.name, &p.network, what)?;
            }
            let network = names.network(format_args!("port {}", p.name), &p.network)?;
            let place = (p.netns.as_str(), p.ifname.as_str());
            places.claim("port", &p.name, place, format_args!("{} in namespace {}", p.ifname, p.netns))?;
            if let Some(mac) = p.mac {
                macs.claim("port", &p.name, (&p.network, mac), format_args!("MAC {mac}"))?;
            }
            for ip in &p.ips {
                let addr = ip.addr();
                ips.claim("port", &p.name, (&p.network, addr), format_args!("address {addr}"))?;
                if p.node.is_none() && network.subnets.iter().any(|s| s.gateway == Some(addr)) {
                    let what = format!("port {}: {addr} is the gateway of network {}", p.name, p.network);
                    return Err(conflict(what));
                }
                let mut family = network.subnets.iter().filter(|s| is_v6(&s.cidr) == is_v6(ip)).peekable();
                if family.peek().is_some() && !family.any(|s| host_in(&s.cidr, addr)) {
                    let cause = format!("{addr} is not a host in a subnet of network {}", p.network);
                    return Err(ApiError::invalid(format_args!("port {}", p.name), cause)
                        .hint(format!("see its subnets: swctl network show {}", p.network)));
                }
            }
        }
        Ok(())
    }

    /// No packet to the node may belong to two pods.
    fn check_mappings(&self) -> Checked {
        let mut taken: HashMap<(u16, super::Protocol), Vec<(&Port, &super::PortMapping)>> = HashMap::new();
        for port in &self.ports {
            for mapping in &port.mappings {
                let others = taken.entry((mapping.host_port, mapping.protocol)).or_default();
                if let Some((first, other)) = others.iter().find(|(_, o)| o.collides(mapping)) {
                    let what = format!("port {}: mapping {mapping}", port.name);
                    return Err(conflict(format!("{what}: port {} has {other} already", first.name)));
                }
                others.push((port, mapping));
            }
        }
        Ok(())
    }

    fn check_peers(&self, names: &Names) -> Checked {
        let (mut remotes, mut cidrs) = (Unique::new(), Unique::new());
        // A peer without a network is in all of them, so it also collides with the peers of one.
        let mut scopes: HashMap<IpAddr, (&str, bool)> = HashMap::new();
        for p in &self.peers {
            if let Some(network) = &p.network {
                names.network(format_args!("peer {}", p.name), network)?;
            }
            let what = format!("remote {}", p.remote);
            remotes.claim("peer", &p.name, (p.remote, &p.network), &what)?;
            let (first, everywhere) = *scopes.entry(p.remote).or_insert((&p.name, p.network.is_none()));
            if first != p.name && (everywhere || p.network.is_none()) {
                return Err(conflict(format!("peer {}: {what} already belongs to peer {first}", p.name)));
            }
            for cidr in &p.pod_cidrs {
                cidrs.claim("peer", &p.name, (&p.network, cidr), format_args!("pod CIDR {cidr}"))?;
            }
        }
        Ok(())
    }

    fn check_entries(&self, names: &Names) -> Checked {
        let mut seen = HashSet::new();
        for r in &self.routes {
            let network = names.network(r, &r.network)?;
            if !seen.insert((&r.network, r.prefix)) {
                return Err(twice(r));
            }
            match &r.target {
                RouteTarget::Peer(peer) => names.peer(r, peer)?,
                RouteTarget::NextHop(ip) if !network.subnets.iter().any(|s| s.cidr.contains(ip)) => {
                    let cause = format!("next hop {ip} is in no subnet of network {}", r.network);
                    return Err(ApiError::invalid(r, cause));
                }
                _ => {}
            }
        }
        let mut seen = HashSet::new();
        for e in &self.fdb {
            names.network(e, &e.network)?;
            if !seen.insert((&e.network, e.mac)) {
                return Err(twice(e));
            }
            match &e.place {
                Place::Port(port) => names.port(e, port, &e.network)?,
                Place::Peer(peer) => names.peer(e, peer)?,
            }
        }
        let mut seen = HashSet::new();
        for n in &self.neighbours {
            names.network(n, &n.network)?;
            if !seen.insert((&n.network, n.ip)) {
                return Err(twice(n));
            }
        }
        Ok(())
    }
}
