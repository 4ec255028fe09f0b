//! The fixed tables of the `process` target: two networks with the same addresses, declared and learning ports,
//! three peers, every kind of route. The second set lacks a port and a peer of the first.

use ipnet::IpNet;
use packet::{MacAddr, Vni};
use std::net::IpAddr;
use std::sync::Arc;
use switch::datapath::{
    Adjacency, Egress, Fib, Guard, NetId, Network, Node, Peer, PeerId, Port, PortId, Sources, Tables, Target,
    gateway_mac, router_mac,
};
use tunnel::Encap;

/// Underlay addresses: this node, the peers, a stranger.
pub const UNDERLAY: &str = "192.168.77.1";
pub const REMOTES: [&str; 4] = ["192.168.77.2", "192.168.77.3", "fd77::4", "192.168.77.99"];
/// The port and the peer that only the first tables have.
pub const GONE: [Egress; 2] = [Egress::Port(PortId(1)), Egress::Peer(PeerId(0))];

/// Network, declared, MTU, MAC limit.
const PORTS: [(u16, bool, u32, u32); 6] = [
    (0, true, 1450, 0),
    (0, true, 1450, 0),
    (0, false, 1300, 4),
    (1, false, 1450, 8),
    (1, true, 1450, 0),
    (0, false, 9000, 2),
];

/// MAC of a port. Ports 0 and 4 share one, in different networks.
pub fn mac(port: u32) -> MacAddr {
    MacAddr([2, 0, 0, 0, 0, if port == 4 { 1 } else { port as u8 + 1 }])
}

pub fn v4(port: u32) -> std::net::Ipv4Addr {
    std::net::Ipv4Addr::new(10, 1, 1, 10 + (port % 4) as u8)
}

pub fn v6(port: u32) -> std::net::Ipv6Addr {
    std::net::Ipv6Addr::new(0xfd00, 1, 0, 0, 0, 0, 0, 10 + (port % 4) as u16)
}

fn net(text: &str) -> IpNet {
    text.parse().expect("a prefix of ours")
}

fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address of ours")
}

pub fn both() -> [Arc<Tables>; 2] {
    [build(&[]), build(&GONE)]
}

fn build(without: &[Egress]) -> Arc<Tables> {
    let mut tables = Tables::new(3);
    tables.generation = 1 + without.len() as u64;
    let underlay = ip(UNDERLAY);
    tables.node =
        Node { underlay: Some(underlay), router_mac: router_mac(underlay), tunnel_ports: vec![4789, 6081] };
    for n in 0..PORTS.len() as u32 {
        let there = !without.contains(&Egress::Port(PortId(n)));
        tables.ports.push(there.then(|| Arc::new(port(n))));
    }
    for n in 0..3u32 {
        if without.contains(&Egress::Peer(PeerId(n))) {
            tables.peers.push(None);
            continue;
        }
        let remote = ip(REMOTES[n as usize]);
        let encap = if n == 1 { Encap::Geneve } else { Encap::Vxlan };
        tables.by_remote.insert(remote, PeerId(n));
        tables.peers.push(Some(Arc::new(Peer {
            remote,
            port: encap.default_port(),
            encap,
            checksum: true,
            router_mac: router_mac(remote),
            mtu: if n == 2 { 1280 } else { 1450 },
            network: None,
            sources: (n == 1).then(|| Arc::new(Sources::new(&[net("10.1.2.0/24"), net("fd00:2::/64")]))),
        })));
    }
    for n in 0..2 {
        tables.by_vni.insert(u32::from(n) + 1, NetId(n));
        let network = network(n, &tables);
        tables.networks.push(Some(Arc::new(network)));
    }
    Arc::new(tables)
}

fn port(n: u32) -> Port {
    let (network, declared, mtu, mac_limit) = PORTS[n as usize];
    Port {
        network: NetId(network),
        mac: mac(n),
        guard: if declared { Guard::Declared } else { Guard::Learning },
        v4: if declared { vec![v4(n)] } else { Vec::new() },
        v6: if declared { vec![v6(n), mac(n).link_local_v6()] } else { Vec::new() },
        mtu,
        mac_limit,
    }
}

fn network(number: u16, tables: &Tables) -> Network {
    let vni = Vni::new(u32::from(number) + 1).expect("a VNI of ours");
    let ports = || {
        let all = tables.ports.iter().enumerate().filter_map(|(n, p)| Some((n as u32, p.as_deref()?)));
        all.filter(|(_, p)| p.network == NetId(number))
    };
    let learning = || ports().filter(|(_, p)| p.guard == Guard::Learning);
    let egress = |(n, _): (u32, &Port)| Egress::Port(PortId(n));
    // Peers 0 and 2 are on the segment, peer 1 is behind a route.
    let peers = || [0, 2].map(PeerId).into_iter().filter(|&p| tables.peer(p).is_some()).map(Egress::Peer);
    let mut network = Network {
        id: NetId(number),
        vni,
        gateway_mac: gateway_mac(vni),
        gateways: vec![net("10.1.1.1/24"), net("fd00:1::1/64")],
        node: None,
        node_ips: Vec::new(),
        statics: Default::default(),
        neighbours: Default::default(),
        fib: Fib::new([
            (net("10.1.1.0/24"), Target::Connected),
            (net("fd00:1::/64"), Target::Connected),
            (net("10.1.2.0/24"), Target::Peer(PeerId(1))),
            (net("fd00:2::/64"), Target::Peer(PeerId(1))),
            (net("10.1.3.0/24"), Target::Peer(PeerId(0))),
            (net("10.5.0.0/16"), Target::NextHop(ip("10.1.1.77"))),
            (net("fd00:5::/32"), Target::NextHop(ip("fd00:1::77"))),
            (net("10.6.0.0/16"), Target::Blackhole),
            (net("10.7.0.0/16"), Target::Unreachable),
            (net("10.1.1.128/25"), Target::Peer(PeerId(1))),
        ]),
        flood_from_port: ports().map(egress).chain(peers()).collect(),
        flood_from_peer: ports().map(egress).collect(),
        unknown_from_port: learning().map(egress).chain(peers()).collect(),
        unknown_from_peer: learning().map(egress).collect(),
        fdb_limit: u32::MAX,
        flood_unknown: number == 0,
        ageing_ms: if number == 0 { 300_000 } else { 10_000 },
    };
    for (n, port) in ports().filter(|(_, p)| p.guard == Guard::Declared) {
        let egress = Some(Egress::Port(PortId(n)));
        network.statics.insert(port.mac, Egress::Port(PortId(n)));
        network.neighbours.insert(v4(n).into(), Adjacency { mac: port.mac, egress });
        network.neighbours.insert(v6(n).into(), Adjacency { mac: port.mac, egress });
    }
    // A static neighbour whose MAC has to be learned.
    network.neighbours.insert(ip("10.1.1.55"), Adjacency { mac: MacAddr([2, 0, 0, 0, 5, 5]), egress: None });
    network
}
