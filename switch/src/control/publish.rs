//! From the desired state and what is really there to the tables of the data path.
//!
//! Each object is first described by a *recipe*: plain values, sorted, complete. Where the recipe is that of
//! the generation before, the object of the generation before is used again, so a change costs the worker's
//! cache no more than what changed, and two generations can be compared. Cost: linear in ports, peers, routes
//! and entries; a flood list is rebuilt only with its network.
//!
//! A name that has no number (a port that is not open, a peer that cannot be reached) is left out wherever it
//! occurs.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use ctl::desired::{self, DesiredState, Place};
use ipnet::IpNet;
use packet::{MacAddr, Vni};
use tunnel::Encap;

use super::ids::Ids;
use super::routes::{self, routes};
use super::{Settings, derive};
use crate::datapath::{
    Adjacency, Egress, Fib, Guard, Map, NetId, Network, Node, NodeAttachment, Peer, PeerId, Port, PortId,
    Sources, State, Tables, Target, gateway_mac,
};

/// The numbers in use. Only what has a number is published.
#[derive(Debug, Default)]
pub struct Numbers {
    /// Open ports.
    pub ports: Ids,
    /// Peers that can be reached.
    pub peers: Ids,
    /// Networks.
    pub networks: Ids,
}

impl Numbers {
    /// The name of a port or peer.
    #[must_use]
    pub fn egress(&self, egress: Egress) -> Option<&str> {
        match egress {
            Egress::Port(id) => self.ports.name(id.0),
            Egress::Peer(id) => self.peers.name(id.0),
        }
    }

    /// The name of a network.
    #[must_use]
    pub fn network(&self, id: NetId) -> Option<&str> {
        self.networks.name(u32::from(id.0))
    }

    pub(super) fn port_id(&self, name: &str) -> Option<PortId> {
        self.ports.get(name).map(PortId)
    }

    pub(super) fn peer_id(&self, name: &str) -> Option<PeerId> {
        self.peers.get(name).map(PeerId)
    }
}

#[derive(PartialEq, Clone)]
struct PortRecipe {
    network: NetId,
    mac: MacAddr,
    guard: Guard,
    ips: Vec<IpAddr>,
    mtu: u32,
    mac_limit: u32,
}

#[derive(PartialEq, Clone)]
struct PeerRecipe {
    remote: IpAddr,
    port: u16,
    encap: Encap,
    checksum: bool,
    router_mac: MacAddr,
    mtu: u32,
    network: Option<NetId>,
    sources: Vec<IpNet>,
}

#[derive(PartialEq, Clone)]
struct NetworkRecipe {
    vni: Vni,
    gateways: Vec<IpNet>,
    node: Option<NodeAttachment>,
    node_ips: Vec<IpAddr>,
    statics: BTreeMap<MacAddr, Egress>,
    neighbours: BTreeMap<IpAddr, Adjacency>,
    routes: BTreeMap<IpNet, Target>,
    ports: Vec<Egress>,
    learning: Vec<Egress>,
    segment: Vec<Egress>,
    flood: bool,
    fdb_limit: u32,
    ageing_ms: u64,
}

/// Objects of the last generation with their recipes, by number.
struct Kept<R, T>(Vec<Option<(R, Arc<T>)>>);

impl<R: PartialEq, T> Kept<R, T> {
    fn update(&mut self, id: usize, recipe: R, make: impl FnOnce(&R) -> T) -> Arc<T> {
        if id >= self.0.len() {
            self.0.resize_with(id + 1, || None);
        }
        if let Some((old, object)) = &self.0[id]
            && *old == recipe
        {
            return object.clone();
        }
        let object = Arc::new(make(&recipe));
        self.0[id] = Some((recipe, object.clone()));
        object
    }

    /// Forgets what has no number any more.
    fn prune(&mut self, ids: &Ids) {
        self.0.truncate(ids.span());
        for (id, slot) in self.0.iter_mut().enumerate() {
            if ids.name(id as u32).is_none() {
                *slot = None;
            }
        }
    }
}

/// Builds tables, one generation after the other.
pub struct Publisher {
    seed: u64,
    ports: Kept<PortRecipe, Port>,
    peers: Kept<PeerRecipe, Peer>,
    networks: Kept<NetworkRecipe, Network>,
}

impl Publisher {
    /// One whose maps hash with `seed`.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self { seed, ports: Kept(Vec::new()), peers: Kept(Vec::new()), networks: Kept(Vec::new()) }
    }

    /// The tables for this state.
    pub fn build(
        &mut self,
        generation: u64,
        settings: &Settings,
        desired: &DesiredState,
        ids: &Numbers,
    ) -> Tables {
        let mut tables = Tables::new(self.seed);
        tables.generation = generation;
        tables.node = Node {
            underlay: settings.underlay.map(|u| u.addr),
            router_mac: derive::own_router_mac(settings),
            tunnel_ports: tunnel_ports(settings, desired),
        };
        tables.ports = vec![None; ids.ports.span()];
        tables.peers = vec![None; ids.peers.span()];
        tables.networks = vec![None; ids.networks.span()];
        self.ports.prune(&ids.ports);
        self.peers.prune(&ids.peers);
        self.networks.prune(&ids.networks);

        for peer in &desired.peers {
            let Some(id) = ids.peer_id(&peer.name) else { continue };
            let recipe = PeerRecipe {
                remote: peer.remote,
                port: derive::peer_port(settings, peer),
                encap: derive::encap(peer.encap),
                checksum: peer.checksum,
                router_mac: derive::peer_mac(peer),
                mtu: derive::peer_mtu(settings, peer),
                network: match &peer.network {
                    // A peer of a network that is not numbered yet takes part in nothing.
                    Some(name) => {
                        match ids.networks.get(name).and_then(|id| u16::try_from(id).ok()).map(NetId) {
                            Some(network) => Some(network),
                            None => continue,
                        }
                    }
                    None => None,
                },
                sources: peer.pod_cidrs.clone(),
            };
            if let Some(network) = recipe.network {
                tables.by_remote_network.insert((peer.remote, network), id);
                tables.by_remote.entry(peer.remote).or_insert(id);
            } else {
                tables.by_remote.insert(peer.remote, id);
            }
            tables.peers[id.0 as usize] = Some(self.peers.update(id.0 as usize, recipe, make_peer));
        }
        let mut of_network: HashMap<&str, Vec<&desired::Port>> = HashMap::new();
        for port in &desired.ports {
            of_network.entry(&port.network).or_default().push(port);
        }
        for network in &desired.networks {
            let Some(id) = ids.networks.get(&network.name).and_then(|id| u16::try_from(id).ok()).map(NetId)
            else {
                continue;
            };
            let ports = of_network.get(network.name.as_str()).map_or(&[][..], |p| p);
            for port in ports {
                let Some(port_id) = ids.port_id(&port.name) else { continue };
                let recipe = PortRecipe {
                    network: id,
                    mac: derive::port_mac(settings, port),
                    guard: derive::guard(port),
                    ips: derive::port_ips(port, network).iter().map(IpNet::addr).collect(),
                    mtu: derive::port_mtu(settings, port, network),
                    mac_limit: port.mac_limit.unwrap_or(derive::DEFAULT_MAC_LIMIT),
                };
                tables.ports[port_id.0 as usize] =
                    Some(self.ports.update(port_id.0 as usize, recipe, make_port));
            }
            let recipe = network_recipe(settings, desired, network, ports, ids);
            tables.by_vni.insert(network.vni.get(), id);
            let seed = self.seed;
            let made = self.networks.update(usize::from(id.0), recipe, |r| make_network(id, seed, r));
            tables.networks[usize::from(id.0)] = Some(made);
        }
        tables
    }
}

/// The UDP ports that tunnels end at, here and at peers, in ascending order. Pods that send to one of them would speak
/// with the node's address, by way of masquerading, to a peer that believes this node.
fn tunnel_ports(settings: &Settings, desired: &DesiredState) -> Vec<u16> {
    let own = [settings.vxlan_port, settings.geneve_port];
    let theirs = desired.peers.iter().map(|peer| derive::peer_port(settings, peer));
    own.into_iter().chain(theirs).collect::<BTreeSet<_>>().into_iter().collect()
}

fn make_port(recipe: &PortRecipe) -> Port {
    let mut port = Port {
        network: recipe.network,
        mac: recipe.mac,
        guard: recipe.guard,
        v4: Vec::new(),
        v6: vec![recipe.mac.link_local_v6()],
        mtu: recipe.mtu,
        mac_limit: recipe.mac_limit,
    };
    for ip in &recipe.ips {
        match ip {
            IpAddr::V4(ip) => port.v4.push(*ip),
            IpAddr::V6(ip) => port.v6.push(*ip),
        }
    }
    port
}

fn make_peer(recipe: &PeerRecipe) -> Peer {
    Peer {
        remote: recipe.remote,
        port: recipe.port,
        encap: recipe.encap,
        checksum: recipe.checksum,
        router_mac: recipe.router_mac,
        mtu: recipe.mtu,
        network: recipe.network,
        sources: (!recipe.sources.is_empty()).then(|| Arc::new(Sources::new(&recipe.sources))),
    }
}

fn network_recipe(
    settings: &Settings,
    desired: &DesiredState,
    network: &desired::Network,
    ports: &[&desired::Port],
    ids: &Numbers,
) -> NetworkRecipe {
    let mut recipe = NetworkRecipe {
        vni: network.vni,
        gateways: derive::gateways(network).collect(),
        node: None,
        node_ips: Vec::new(),
        statics: BTreeMap::new(),
        neighbours: BTreeMap::new(),
        routes: BTreeMap::new(),
        ports: Vec::new(),
        learning: Vec::new(),
        segment: Vec::new(),
        flood: network.flood,
        fdb_limit: network.fdb_limit.unwrap_or(u32::MAX),
        ageing_ms: u64::from(network.ageing_seconds) * 1000,
    };
    let here = |name: &String| *name == network.name;
    for entry in desired.fdb.iter().filter(|e| here(&e.network)) {
        let place = match &entry.place {
            Place::Port(name) => ids.port_id(name).map(Egress::Port),
            Place::Peer(name) => ids.peer_id(name).map(Egress::Peer),
        };
        if let Some(place) = place {
            recipe.statics.insert(entry.mac, place);
        }
    }
    for port in ports {
        let Some(id) = ids.port_id(&port.name).map(Egress::Port) else { continue };
        // The node hears what is meant for it, not every pod's broadcasts.
        if port.node.is_none() {
            recipe.ports.push(id);
        }
        if derive::guard(port) == Guard::Learning {
            recipe.learning.push(id);
        }
        if port.node.is_some() || !port.ips.is_empty() {
            recipe.statics.insert(derive::port_mac(settings, port), id);
        }
    }
    for (name, id) in desired.peers.iter().filter_map(|p| Some((p, ids.peer_id(&p.name)?))) {
        if derive::on_segment(name, network) {
            recipe.segment.push(Egress::Peer(id));
        }
    }
    for list in [&mut recipe.ports, &mut recipe.learning, &mut recipe.segment] {
        list.sort_unstable();
    }
    // After the static entries, which say where a neighbour's MAC is.
    for entry in desired.neighbours.iter().filter(|e| here(&e.network)) {
        let egress = recipe.statics.get(&entry.mac).copied();
        recipe.neighbours.insert(entry.ip, Adjacency { mac: entry.mac, egress });
    }
    for port in ports {
        let Some(id) = ids.port_id(&port.name) else { continue };
        let mac = derive::port_mac(settings, port);
        let adjacency = Adjacency { mac, egress: Some(Egress::Port(id)) };
        let ips = derive::port_ips(port, network);
        if port.node.is_some() {
            recipe.node = Some(NodeAttachment { port: id, mac });
            recipe.node_ips = ips.iter().map(IpNet::addr).chain(settings.underlay.map(|u| u.addr)).collect();
        }
        // Who asks for a gateway is told the gateway's MAC, also where the node has its address.
        for ip in ips.iter().filter(|ip| recipe.gateways.iter().all(|g| g.addr() != ip.addr())) {
            recipe.neighbours.insert(ip.addr(), adjacency);
        }
        if ips.iter().any(|ip| ip.addr().is_ipv6()) {
            recipe.neighbours.insert(adjacency.mac.link_local_v6().into(), adjacency);
        }
    }
    recipe.routes = routes(settings, desired, network)
        .into_iter()
        .filter_map(|(prefix, route)| Some((prefix, routes::target(route.kind, ids)?)))
        .collect();
    recipe
}

fn make_network(id: NetId, seed: u64, recipe: &NetworkRecipe) -> Network {
    let join = |a: &[Egress], b: &[Egress]| -> Arc<[Egress]> { a.iter().chain(b).copied().collect() };
    let mut statics = Map::with_capacity_and_hasher(recipe.statics.len(), State::new(seed));
    statics.extend(recipe.statics.iter().map(|(mac, place)| (*mac, *place)));
    let mut neighbours = Map::with_capacity_and_hasher(recipe.neighbours.len(), State::new(seed));
    neighbours.extend(recipe.neighbours.iter().map(|(ip, adjacency)| (*ip, *adjacency)));
    Network {
        id,
        vni: recipe.vni,
        gateway_mac: gateway_mac(recipe.vni),
        gateways: recipe.gateways.clone(),
        node: recipe.node,
        node_ips: recipe.node_ips.clone(),
        statics,
        neighbours,
        fib: Fib::new(recipe.routes.iter().map(|(prefix, target)| (*prefix, *target))),
        flood_from_port: join(&recipe.ports, &recipe.segment),
        flood_from_peer: join(&recipe.ports, &[]),
        unknown_from_port: join(&recipe.learning, &recipe.segment),
        unknown_from_peer: join(&recipe.learning, &[]),
        fdb_limit: recipe.fdb_limit,
        flood_unknown: recipe.flood,
        ageing_ms: recipe.ageing_ms,
    }
}

#[cfg(test)]
#[path = "publish_tests.rs"]
mod tests;
