//! What a node should forward by, and the tables made of it: the tests' stand-in for the control thread.

use ipnet::IpNet;
use packet::{MacAddr, Vni};
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;
use switch::datapath::{
    Adjacency, Egress, Fib, Guard, NetId, Network, Node, Peer, PeerId, Port, PortId, Sources, Tables, Target,
    gateway_mac, router_mac,
};
use tunnel::Encap;

pub const SEED: u64 = 0xabad_1dea;

pub struct NetPlan {
    pub vni: u32,
    pub gateways: Vec<IpNet>,
    pub routes: Vec<(IpNet, Target)>,
    pub flood_unknown: bool,
    pub ageing_ms: u64,
}

#[derive(Clone)]
pub struct PortPlan {
    pub network: usize,
    pub mac: MacAddr,
    /// Empty: a learning port.
    pub addresses: Vec<IpAddr>,
    pub mtu: u32,
}

pub struct PeerPlan {
    pub remote: IpAddr,
    pub encap: Encap,
    /// Empty: a peer on the segment.
    pub cidrs: Vec<IpNet>,
    pub mtu: u32,
}

pub struct Plan {
    pub underlay: IpAddr,
    pub networks: Vec<NetPlan>,
    pub ports: Vec<Option<PortPlan>>,
    pub peers: Vec<PeerPlan>,
    pub generation: u64,
}

impl Plan {
    pub fn tables(&mut self) -> Arc<Tables> {
        self.generation += 1;
        let mut tables = Tables::new(SEED);
        tables.generation = self.generation;
        tables.node = Node {
            underlay: Some(self.underlay),
            router_mac: router_mac(self.underlay),
            tunnel_ports: vec![Encap::Vxlan.default_port(), Encap::Geneve.default_port()],
        };
        tables.ports = self.ports.iter().map(|p| p.as_ref().map(|p| Arc::new(port(p)))).collect();
        for (n, peer) in self.peers.iter().enumerate() {
            tables.by_remote.insert(peer.remote, PeerId(n as u32));
            tables.peers.push(Some(Arc::new(Peer {
                remote: peer.remote,
                port: peer.encap.default_port(),
                encap: peer.encap,
                checksum: true,
                router_mac: router_mac(peer.remote),
                mtu: peer.mtu,
                network: None,
                sources: (!peer.cidrs.is_empty()).then(|| Arc::new(Sources::new(&peer.cidrs))),
            })));
        }
        for number in 0..self.networks.len() {
            tables.by_vni.insert(self.networks[number].vni, NetId(number as u16));
            tables.networks.push(Some(Arc::new(self.network(number))));
        }
        Arc::new(tables)
    }

    fn network(&self, number: usize) -> Network {
        let plan = &self.networks[number];
        let vni = Vni::new(plan.vni).unwrap();
        let members = || {
            let named = self.ports.iter().enumerate();
            named
                .filter_map(|(n, p)| Some((Egress::Port(PortId(n as u32)), p.as_ref()?)))
                .filter(|(_, p)| p.network == number)
        };
        let peers = || {
            let named = self.peers.iter().enumerate();
            named.filter(|(_, p)| p.cidrs.is_empty()).map(|(n, _)| Egress::Peer(PeerId(n as u32)))
        };
        let unknown = || members().filter(|(_, p)| p.addresses.is_empty()).map(|(e, _)| e);
        let mut network = Network {
            id: NetId(number as u16),
            vni,
            gateway_mac: gateway_mac(vni),
            gateways: plan.gateways.clone(),
            node: None,
            node_ips: Vec::new(),
            statics: Default::default(),
            neighbours: Default::default(),
            fib: Fib::new(Vec::new()),
            flood_from_port: members().map(|(e, _)| e).chain(peers()).collect(),
            flood_from_peer: members().map(|(e, _)| e).collect(),
            unknown_from_port: unknown().chain(peers()).collect(),
            unknown_from_peer: unknown().collect(),
            fdb_limit: u32::MAX,
            flood_unknown: plan.flood_unknown,
            ageing_ms: plan.ageing_ms,
        };
        for (egress, port) in members().filter(|(_, p)| !p.addresses.is_empty()) {
            network.statics.insert(port.mac, egress);
            for &ip in &port.addresses {
                network.neighbours.insert(ip, Adjacency { mac: port.mac, egress: Some(egress) });
            }
        }
        let connected = plan.gateways.iter().map(|g| (g.trunc(), Target::Connected));
        let remote =
            self.peers.iter().enumerate().flat_map(|(n, peer)| {
                peer.cidrs.iter().map(move |&cidr| (cidr, Target::Peer(PeerId(n as u32))))
            });
        network.fib = Fib::new(connected.chain(remote).chain(plan.routes.iter().copied()));
        network
    }
}

fn port(plan: &PortPlan) -> Port {
    let mut v6: Vec<Ipv6Addr> = plan
        .addresses
        .iter()
        .filter_map(|ip| if let IpAddr::V6(ip) = ip { Some(*ip) } else { None })
        .collect();
    v6.push(plan.mac.link_local_v6());
    Port {
        network: NetId(plan.network as u16),
        mac: plan.mac,
        guard: if plan.addresses.is_empty() { Guard::Learning } else { Guard::Declared },
        v4: plan
            .addresses
            .iter()
            .filter_map(|ip| if let IpAddr::V4(ip) = ip { Some(*ip) } else { None })
            .collect(),
        v6,
        mtu: plan.mtu,
        mac_limit: 64,
    }
}
