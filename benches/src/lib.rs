//! A data path in the state the benches ask for: filled tables, filled FDB, frames that hit what is to be
//! measured. Everything is made from numbers, so that every run measures the same thing.
#![allow(clippy::expect_used)]

pub mod report;

use packet::{MacAddr, VnetHdr, Vni, build};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use switch::datapath::{
    Adjacency, Batch, Config, Datapath, Egress, Fib, Guard, Ingress, Map, NetId, Network, Node, Off, Peer,
    PeerId, Port, PortId, Postbox, State, Tables, Target, gateway_mac, router_mac,
};
use tunnel::Encap;

/// Seed of every hash in the benches.
pub const SEED: u64 = 0x0123_4567_89ab_cdef;
/// Declared ports in the world.
pub const PORTS: u32 = 64;
/// Peers; the first sends, all are routed to.
const PEERS: u32 = 8;

/// MAC of the n-th declared port.
#[must_use]
pub fn port_mac(n: u32) -> MacAddr {
    MacAddr::from_u64(0x0a58_0000_0000 | u64::from(n))
}

/// Address of the n-th declared port.
#[must_use]
pub fn port_ip(n: u32) -> Ipv4Addr {
    Ipv4Addr::from_bits(0x0a01_0100 + 2 + n)
}

/// The n-th MAC learned behind the peer; spread out, as real ones are.
#[must_use]
pub fn remote_mac(n: u32) -> MacAddr {
    let spread = packet::flow::mix(u64::from(n), 7) & 0xfcff_ffff_ffff;
    MacAddr::from_u64(0x0200_0000_0000 | spread & 0x00ff_ffff_ffff)
}

/// Address inside the n-th of the routed /24s behind the peer.
#[must_use]
pub fn routed_ip(n: u32) -> Ipv4Addr {
    Ipv4Addr::from_bits(0x1400_0000 + (n << 8) + 9)
}

/// A data path with its tables.
pub struct World {
    /// Tables in force.
    pub tables: Tables,
    /// Learned state.
    pub datapath: Datapath,
    /// Reused between batches.
    pub batch: Batch,
    /// Reused between batches.
    pub out: Postbox,
}

/// One network, 64 declared ports, one peer, `fdb` learned MACs behind it and `routes` prefixes towards it.
#[must_use]
pub fn world(fdb: u32, routes: u32) -> World {
    let vni = Vni::new(1).expect("in range");
    let peer = Egress::Peer(PeerId(0));
    let ports: Vec<Egress> = (0..PORTS).map(|n| Egress::Port(PortId(n))).collect();
    let everybody: Vec<Egress> = ports.iter().copied().chain([peer]).collect();
    let gateway: ipnet::IpNet = "10.1.1.1/24".parse().expect("a prefix");
    let mut statics = Map::with_hasher(State::new(SEED));
    let mut neighbours = Map::with_hasher(State::new(SEED));
    for n in 0..PORTS {
        let egress = Egress::Port(PortId(n));
        statics.insert(port_mac(n), egress);
        neighbours.insert(IpAddr::V4(port_ip(n)), Adjacency { mac: port_mac(n), egress: Some(egress) });
    }
    let prefix = |n: u32| {
        let net = Ipv4Addr::from_bits(0x1400_0000 + (n << 8));
        // Neighbouring routes lead to different nodes: equal ones would be stored as one.
        (ipnet::IpNet::V4(ipnet::Ipv4Net::new_assert(net, 24)), Target::Peer(PeerId(n % PEERS)))
    };
    let fib = Fib::new((0..routes).map(prefix).chain([(gateway.trunc(), Target::Connected)]));
    let network = Network {
        id: NetId(0),
        vni,
        gateway_mac: gateway_mac(vni),
        gateways: vec![gateway],
        node: None,
        node_ips: Vec::new(),
        statics,
        neighbours,
        fib,
        flood_from_port: everybody.into(),
        flood_from_peer: ports.into(),
        unknown_from_port: Arc::new([peer]),
        unknown_from_peer: Arc::new([]),
        fdb_limit: u32::MAX,
        flood_unknown: true,
        ageing_ms: 300_000,
    };
    let underlay = IpAddr::V4(Ipv4Addr::new(192, 168, 77, 1));
    let mut tables = Tables::new(SEED);
    tables.generation = 1;
    tables.ports = (0..PORTS)
        .map(|n| {
            Some(Arc::new(Port {
                network: NetId(0),
                mac: port_mac(n),
                guard: Guard::Declared,
                v4: vec![port_ip(n)],
                v6: vec![port_mac(n).link_local_v6()],
                mtu: 1450,
                mac_limit: 1,
            }))
        })
        .collect();
    let remote_of = |n: u32| IpAddr::V4(Ipv4Addr::from_bits(0xc0a8_4d02 + n));
    tables.peers = (0..PEERS)
        .map(|n| {
            Some(Arc::new(Peer {
                remote: remote_of(n),
                port: 4789,
                encap: Encap::Vxlan,
                checksum: true,
                router_mac: router_mac(remote_of(n)),
                mtu: 1450,
                network: None,
                sources: None,
            }))
        })
        .collect();
    tables.networks = vec![Some(Arc::new(network))];
    tables.by_vni.insert(1, NetId(0));
    tables.by_remote.extend((0..PEERS).map(|n| (remote_of(n), PeerId(n))));
    tables.node =
        Node { underlay: Some(underlay), router_mac: router_mac(underlay), tunnel_ports: vec![4789, 6081] };
    let mut datapath = Datapath::new(Config { fdb_capacity: (fdb as usize).max(1024), seed: SEED });
    for n in 0..fdb {
        datapath.fdb_mut().learn(NetId(0), remote_mac(n), peer, u32::MAX, 0);
    }
    World { tables, datapath, batch: Batch::new(64), out: Postbox::default() }
}

/// What a batch consists of.
#[derive(Clone, Copy, Debug)]
pub enum Kind {
    /// Port to port on one node, both declared.
    LocalHit,
    /// Port to a learned MAC behind the peer, a different one each time.
    RemoteHit,
    /// Broadcast.
    Flood,
    /// Port to the peer by route, a different prefix each time.
    Routed,
    /// VXLAN datagrams from the peer to declared ports; the inner source MAC differs each time.
    Decap,
    /// Spoofed source address: dropped by the guard.
    Drop,
    /// As `LocalHit`, a batch of one flow.
    LocalRun,
    /// As `Routed`, a batch of one flow.
    RoutedRun,
    /// As `Decap`, a batch of one flow.
    DecapRun,
}

impl Kind {
    /// All kinds.
    pub const ALL: [Self; 9] = [
        Self::LocalHit,
        Self::RemoteHit,
        Self::Flood,
        Self::Routed,
        Self::Decap,
        Self::Drop,
        Self::LocalRun,
        Self::RoutedRun,
        Self::DecapRun,
    ];

    /// Name in reports.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::LocalHit => "l2-hit",
            Self::RemoteHit => "l2-hit-learned",
            Self::Flood => "l2-flood",
            Self::Routed => "l3",
            Self::Decap => "decap",
            Self::Drop => "drop",
            Self::LocalRun => "l2-run",
            Self::RoutedRun => "l3-run",
            Self::DecapRun => "decap-run",
        }
    }
}

impl World {
    /// The `n`-th frame of a kind, 64 bytes of UDP payload.
    #[must_use]
    pub fn frame(&self, kind: Kind, n: u32, fdb: u32, routes: u32) -> (Vec<u8>, Ingress) {
        let from = n % PORTS;
        let to = (n + 1) % PORTS;
        let port = Ingress::Port(PortId(from));
        let ip = |ip: Ipv4Addr| IpAddr::V4(ip);
        // Steps through tables in an order no prefetcher follows.
        let stride = |size: u32| (n.wrapping_mul(2_654_435_761)) % size.max(1);
        let udp = |macs, ips| build::udp(macs, ips, (1000 + n as u16 % 512, 53), &[0x55; 64]);
        match kind {
            Kind::LocalHit => {
                (udp((port_mac(from), port_mac(to)), (ip(port_ip(from)), ip(port_ip(to)))), port)
            }
            Kind::RemoteHit => {
                let dst = remote_mac(stride(fdb));
                (udp((port_mac(from), dst), (ip(port_ip(from)), ip(port_ip(200)))), port)
            }
            Kind::Flood => {
                let ips = (ip(port_ip(from)), ip(Ipv4Addr::new(10, 1, 1, 255)));
                (udp((port_mac(from), MacAddr::BROADCAST), ips), port)
            }
            Kind::Routed => {
                let ips = (ip(port_ip(from)), ip(routed_ip(stride(routes))));
                (udp((port_mac(from), gateway_mac(Vni::new(1).expect("in range"))), ips), port)
            }
            Kind::Decap => {
                let ips = (ip(Ipv4Addr::new(10, 1, 1, 250)), ip(port_ip(to)));
                let inner = udp((remote_mac(stride(fdb)), port_mac(to)), ips);
                let datagram = [&tunnel::vxlan::encode(Vni::new(1).expect("in range"))[..], &inner].concat();
                let source = IpAddr::V4(Ipv4Addr::new(192, 168, 77, 2));
                (datagram, Ingress::Underlay { source, tos: 0, encap: Encap::Vxlan })
            }
            Kind::Drop => {
                let ips = (ip(Ipv4Addr::new(8, 8, 8, 8)), ip(port_ip(to)));
                (udp((port_mac(from), port_mac(to)), ips), port)
            }
            // Batches have 64 frames.
            Kind::LocalRun => self.frame(Kind::LocalHit, n / 64, fdb, routes),
            Kind::RoutedRun => self.frame(Kind::Routed, n / 64, fdb, routes),
            Kind::DecapRun => self.frame(Kind::Decap, n / 64, fdb, routes),
        }
    }

    /// `count` batches of `size` frames.
    #[must_use]
    pub fn batches(
        &self,
        kind: Kind,
        count: u32,
        size: u32,
        fdb: u32,
        routes: u32,
    ) -> Vec<Vec<(Vec<u8>, Ingress)>> {
        (0..count).map(|b| (0..size).map(|n| self.frame(kind, b * size + n, fdb, routes)).collect()).collect()
    }

    /// Fills the batch, as a worker's reads would.
    pub fn load(&mut self, frames: &[(Vec<u8>, Ingress)]) {
        self.batch.clear();
        self.out.clear();
        for (bytes, ingress) in frames {
            self.batch.push_copy(bytes, VnetHdr::default(), *ingress);
        }
    }

    /// Processes what is loaded.
    pub fn process(&mut self) {
        self.datapath.process(&self.tables, 1000, &mut self.batch, &mut self.out, &mut Off);
    }
}
