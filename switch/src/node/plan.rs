//! What the node's kernel is to do for the pods, worked out from what is declared.
//!
//! Three things meet here. *Devices*: each network with a port of the node gets routes to its pods, here and behind
//! peers. *Translation*: what pods send to the outside leaves with the node's address, what they send to each other
//! never does. *Mappings*: ports of the node that lead to pods.
//!
//! All of it is one routing table and one conntrack table for all networks of the node, so networks that use the
//! same addresses cannot share them: the first one declared gets the device, the other a [`Problem`]. Nothing is
//! routed that would take the underlay away from under the tunnel.
//!
//! Pure: same input, same plan.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr};

use ctl::desired::{DesiredState, Encap, Network, Peer, Port, PortMapping, Protocol};
use ipnet::IpNet;
use packet::Vni;
use serde::{Deserialize, Serialize};

use crate::control::{Settings, derive};
use crate::datapath::gateway_mac;
use crate::io::{NodeLink, NodeRoute};

/// Next hop of the node's IPv4 routes: the switch, by an address that no subnet has (RFC 3927).
pub const NEXT_HOP_V4: Ipv4Addr = Ipv4Addr::new(169, 254, 1, 1);
/// Never translated, besides the pods: groups.
const GROUPS: [&str; 3] = ["224.0.0.0/4", "255.255.255.255/32", "ff00::/8"];

/// What the node's kernel is to do.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct NodePlan {
    /// The node's own devices.
    pub devices: Vec<Device>,
    /// Ports of the node that lead to pods.
    pub mappings: Vec<Mapping>,
    /// All addresses that the switch reaches by itself: pods here and behind peers, and the nodes of peers. An answer
    /// to such an address does not come by the node's kernel.
    pub cluster: Vec<IpNet>,
    /// Destinations that see pods' own addresses.
    pub untranslated: Vec<IpNet>,
    /// Where tunnels end, to find the uplink by.
    pub underlay: Option<IpAddr>,
    /// What cannot be done as declared.
    pub problems: Vec<Problem>,
}

/// One device of the node.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Device {
    /// Name of the port.
    pub port: String,
    /// Name of the device.
    pub ifname: String,
    /// Its addresses.
    pub addresses: Vec<IpNet>,
    /// Next hops and routes, for [`crate::io::PortSpec::node`].
    pub link: NodeLink,
    /// The pods of its network.
    pub subnets: Vec<IpNet>,
    /// Are these translated on their way out?
    pub masquerade: bool,
    /// Except to these.
    pub except: Vec<IpNet>,
}

/// Packets to a port of the node go to a pod.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Mapping {
    /// Of both.
    pub protocol: Protocol,
    /// Address of the node; `None`: all of the family of [`Mapping::pod`].
    pub at: Option<IpAddr>,
    /// Of the node.
    pub host_port: u16,
    /// Address of the pod.
    pub pod: IpAddr,
    /// Of the pod.
    pub container_port: u16,
}

/// Something that cannot be done as declared. The rest is done.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Problem {
    /// Name of the port that it is about.
    pub port: String,
    /// A sentence.
    pub text: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "port {}: {}", self.port, self.text)
    }
}

impl NodePlan {
    /// The device of a port; `None` if the port is not the node's, or cannot be.
    #[must_use]
    pub fn device(&self, port: &str) -> Option<&Device> {
        self.devices.iter().find(|d| d.port == port)
    }

    /// Must the kernel forward packets of this family? Yes for translating and for mappings; a node port without
    /// either leaves the setting to the operator.
    #[must_use]
    pub fn forwards(&self, v4: bool) -> bool {
        let translates = |d: &Device| d.masquerade && d.subnets.iter().any(|s| s.addr().is_ipv4() == v4);
        self.devices.iter().any(translates) || self.mappings.iter().any(|m| m.pod.is_ipv4() == v4)
    }

    /// Do mappings also serve 127.0.0.0/8? Only IPv4 can: the kernel never lets ::1 out of the loopback device.
    #[must_use]
    pub fn loopback(&self) -> bool {
        self.mappings.iter().any(|m| m.pod.is_ipv4() && m.at.is_none_or(|ip| ip.is_loopback()))
    }
}

/// Works out the plan.
#[must_use]
pub fn of(settings: &Settings, desired: &DesiredState) -> NodePlan {
    let mut plan = NodePlan { underlay: settings.underlay.map(|u| u.addr), ..NodePlan::default() };
    let networks: HashMap<&str, &Network> = desired.networks.iter().map(|n| (n.name.as_str(), n)).collect();
    let mut routed: BTreeMap<IpNet, String> = BTreeMap::new();
    let mut reached: HashMap<&str, Vec<IpAddr>> = HashMap::new();
    for port in desired.ports.iter().filter(|p| p.node.is_some()) {
        let Some(network) = networks.get(port.network.as_str()) else { continue };
        if let Some(device) = device(settings, desired, port, network, &mut routed, &mut plan) {
            reached.insert(&network.name, device.addresses.iter().map(IpNet::addr).collect());
            plan.devices.push(device);
        }
    }
    for port in &desired.ports {
        let node = reached.get(port.network.as_str()).map(Vec::as_slice);
        for mapping in &port.mappings {
            map(settings, port, mapping, node, &mut plan);
        }
    }
    let near = desired.networks.iter().filter(|n| reached.contains_key(n.name.as_str()));
    for network in near {
        plan.cluster.extend(network.subnets.iter().map(|s| s.cidr));
        for peer in desired.peers.iter().filter(|p| derive::applies(p, network)) {
            plan.cluster.extend(&peer.pod_cidrs);
            plan.cluster.push(peer.remote.into());
        }
    }
    plan.cluster = IpNet::aggregate(&plan.cluster);
    if !plan.devices.is_empty() {
        let groups = GROUPS.iter().filter_map(|g| g.parse().ok());
        plan.untranslated = IpNet::aggregate(&plan.cluster.iter().copied().chain(groups).collect());
    }
    plan
}

/// The device of a port of the node, or a problem.
fn device(
    settings: &Settings,
    desired: &DesiredState,
    port: &Port,
    network: &Network,
    routed: &mut BTreeMap<IpNet, String>,
    plan: &mut NodePlan,
) -> Option<Device> {
    let node = port.node.as_ref()?;
    let mut problem = |text: String| plan.problems.push(Problem { port: port.name.clone(), text });
    let subnets: Vec<IpNet> = network.subnets.iter().map(|s| s.cidr).collect();
    // In a rule, `*` stands for any end and `@` for a set.
    if !port.ifname.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b)) {
        problem(format!("device {} cannot be named in a rule: letters, digits, . _ and - can", port.ifname));
        return None;
    }
    let overlaps = |a: &IpNet, b: &IpNet| a.contains(b) || b.contains(a);
    for other in &plan.devices {
        let pair = other.subnets.iter().find_map(|a| Some((a, subnets.iter().find(|b| overlaps(a, b))?)));
        if let Some((theirs, ours)) = pair {
            problem(format!(
                "subnet {ours} of network {} overlaps {theirs}, which the node reaches by port {}: only one of \
                 these networks can have a port of the node",
                network.name, other.port
            ));
            return None;
        }
    }
    let addresses = derive::port_ips(port, network);
    if addresses.is_empty() {
        problem(format!("network {} has no gateway, so the port needs an --ip of its own", network.name));
        return None;
    }
    let mut link = NodeLink { next_hops: next_hops(&addresses, network.vni), routes: Vec::new() };
    let peers: Vec<&Peer> = desired.peers.iter().filter(|p| derive::applies(p, network)).collect();
    let own = subnets.iter().map(|s| (*s, None));
    let behind = peers.iter().flat_map(|p| p.pod_cidrs.iter().map(|c| (*c, Some(*p))));
    for (net, peer) in own.chain(behind) {
        let Some(via) = link.next_hops.iter().map(|(ip, _)| *ip).find(|ip| same_family(*ip, net.addr()))
        else {
            continue;
        };
        let within = |s: &IpNet| s.contains(&net);
        if peer.is_some() && subnets.iter().any(within) || link.routes.iter().any(|r| r.net == net) {
            // The same next hop serves it already.
            continue;
        }
        let whose = peer.map_or_else(|| format!("subnet {net}"), |p| format!("{net} of peer {}", p.name));
        if let Some(why) = untouchable(settings, desired, net) {
            problem(format!("the node gets no route to {whose}: {why}"));
            continue;
        }
        if let Some(other) = routed.get(&net) {
            problem(format!(
                "the node gets no second route to {whose}, which it reaches by {other} already; --network limits a \
                 peer to one network"
            ));
            continue;
        }
        routed.insert(net, port.ifname.clone());
        link.routes.extend(source(&addresses, net).map(|source| NodeRoute { net, via, source }));
    }
    Some(Device {
        port: port.name.clone(),
        ifname: port.ifname.clone(),
        addresses,
        link,
        subnets,
        masquerade: node.masquerade,
        except: IpNet::aggregate(&node.no_masquerade),
    })
}

/// The switch as a next hop, for each family that the device has an address of.
fn next_hops(addresses: &[IpNet], vni: Vni) -> Vec<(IpAddr, packet::MacAddr)> {
    let mac = gateway_mac(vni);
    [IpAddr::from(NEXT_HOP_V4), mac.link_local_v6().into()]
        .into_iter()
        .filter(|via| addresses.iter().any(|a| same_family(a.addr(), *via)))
        .map(|via| (via, mac))
        .collect()
}

/// The address of the device that its packets to `net` carry: one of that range, else the first of the family.
fn source(addresses: &[IpNet], net: IpNet) -> Option<IpAddr> {
    let mut family = addresses.iter().map(IpNet::addr).filter(|ip| same_family(*ip, net.addr()));
    family.clone().find(|ip| net.contains(ip)).or_else(|| family.next())
}

/// Why the node's kernel must not send a range to the switch.
fn untouchable(settings: &Settings, desired: &DesiredState, net: IpNet) -> Option<String> {
    if net.prefix_len() == 0 {
        return Some("it would be the node's default route".to_owned());
    }
    if let Some(underlay) = settings.underlay
        && net.contains(&underlay.addr)
    {
        return Some(format!("it contains {}, where the tunnel ends", underlay.addr));
    }
    let peer = desired.peers.iter().find(|p| net.contains(&p.remote))?;
    Some(format!("it contains {}, where the tunnel to peer {} ends", peer.remote, peer.name))
}

/// A mapping, for each family that it serves. `node` are the addresses of the node's device in the pod's network.
fn map(
    settings: &Settings,
    port: &Port,
    mapping: &PortMapping,
    node: Option<&[IpAddr]>,
    plan: &mut NodePlan,
) {
    let mut problem = |text: String| plan.problems.push(Problem { port: port.name.clone(), text });
    let Some(node) = node else {
        let network = &port.network;
        return problem(format!(
            "mapping {mapping} has no effect, because the node has no port in network {network}"
        ));
    };
    let at = mapping.host_ip.filter(|ip| !ip.is_unspecified());
    if let Some(ip) = at.filter(|ip| ip.is_loopback() && ip.is_ipv6()) {
        return problem(format!(
            "mapping {mapping} has no effect: the kernel lets no packet with {ip} out to a pod; 127.0.0.1 works"
        ));
    }
    if let Some(encap) = tunnel_port(settings, mapping, at) {
        return problem(format!(
            "mapping {mapping} would take the packets of the tunnel ({encap}): choose another port of the node"
        ));
    }
    let mut any = false;
    for v4 in [true, false] {
        let wanted = mapping.host_ip.is_none_or(|ip| ip.is_ipv4() == v4);
        let pod = port.ips.iter().map(IpNet::addr).find(|ip| ip.is_ipv4() == v4);
        if let Some(pod) = pod.filter(|_| wanted && node.iter().any(|ip| ip.is_ipv4() == v4)) {
            any = true;
            plan.mappings.push(Mapping {
                protocol: mapping.protocol,
                at,
                host_port: mapping.host_port,
                pod,
                container_port: mapping.container_port,
            });
        }
    }
    if !any {
        plan.problems.push(Problem {
            port: port.name.clone(),
            text: format!(
                "mapping {mapping} has no effect: the pod and the node's port in network {} share no address family \
                 that it serves",
                port.network
            ),
        });
    }
}

/// The encapsulation whose packets a mapping would catch.
fn tunnel_port(settings: &Settings, mapping: &PortMapping, at: Option<IpAddr>) -> Option<Encap> {
    let underlay = settings.underlay?;
    let catches = mapping.protocol == Protocol::Udp && at.is_none_or(|ip| ip == underlay.addr);
    let ports = [(Encap::Vxlan, settings.vxlan_port), (Encap::Geneve, settings.geneve_port)];
    ports.into_iter().find(|(_, port)| catches && *port == mapping.host_port).map(|(encap, _)| encap)
}

fn same_family(a: IpAddr, b: IpAddr) -> bool {
    a.is_ipv4() == b.is_ipv4()
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
