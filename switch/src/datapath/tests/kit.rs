//! The kit: a node with two networks, and a way to send it one frame and see everything that comes out.
//!
//! The node of [`World::node`]:
//!
//! ```text
//! network 0, VNI 1, 10.1.1.1/24 fd00:1::1/64      network 1, VNI 2, the same subnets
//!   port 0 WEB   declared 10.1.1.2 fd00:1::2        port 4 RED   declared, MAC and addresses of WEB
//!   port 1 DB    declared 10.1.1.3 fd00:1::3        port 5 RED2  declared, MAC and addresses of DB
//!   port 2 VM    learning
//!   port 3 VM2   learning
//! peer 0 B  192.168.77.2, any inner source
//! peer 1 C  192.168.77.3, pod CIDRs 10.1.2.0/24 fd00:2::/64, which network 0 routes to it
//! ```
//!
//! [`World::attached`] gives the node itself (192.168.77.1 and the gateway's addresses) a port into network 0.

use crate::datapath::*;
use ipnet::IpNet;
use packet::{MacAddr, VnetHdr, Vni, checksum, ip_proto};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use tunnel::Encap;

pub const BLUE: NetId = NetId(0);
pub const RED_NET: NetId = NetId(1);
pub const WEB: PortId = PortId(0);
pub const DB: PortId = PortId(1);
pub const VM: PortId = PortId(2);
pub const VM2: PortId = PortId(3);
pub const RED: PortId = PortId(4);
pub const RED2: PortId = PortId(5);
/// The node's own, of [`World::attached`].
pub const NODE: PortId = PortId(6);
pub const B: PeerId = PeerId(0);
pub const C: PeerId = PeerId(1);

/// A locally administered unicast MAC.
pub const fn mac(n: u8) -> MacAddr {
    MacAddr([2, 0, 0, 0, 0, n])
}

pub const WEB_MAC: MacAddr = mac(2);
pub const DB_MAC: MacAddr = mac(3);
pub const VM_MAC: MacAddr = mac(0x20);
pub const VM2_MAC: MacAddr = mac(0x21);
pub const NODE_MAC: MacAddr = mac(0x70);
/// A host behind peer B, on the stretched segment.
pub const FAR_MAC: MacAddr = mac(0x30);

pub fn ip(s: &str) -> IpAddr {
    s.parse().unwrap()
}

pub fn v4(s: &str) -> Ipv4Addr {
    s.parse().unwrap()
}

pub fn v6(s: &str) -> Ipv6Addr {
    s.parse().unwrap()
}

pub fn net(s: &str) -> IpNet {
    s.parse().unwrap()
}

pub fn port(id: PortId) -> Egress {
    Egress::Port(id)
}

pub fn peer(id: PeerId) -> Egress {
    Egress::Peer(id)
}

pub fn gw() -> MacAddr {
    gateway_mac(Vni::new(1).unwrap())
}

/// Gateway MAC of the other network.
pub fn red_gw() -> MacAddr {
    gateway_mac(Vni::new(2).unwrap())
}

/// Router MAC of the node under test.
pub fn own_router() -> MacAddr {
    router_mac(ip("192.168.77.1"))
}

pub fn router_of(id: PeerId) -> MacAddr {
    router_mac(remote(id))
}

pub fn remote(id: PeerId) -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(192, 168, 77, 2 + id.0 as u8))
}

/// From a peer, with this outer TOS byte.
pub fn underlay(id: PeerId, tos: u8) -> Ingress {
    Ingress::Underlay { source: remote(id), tos, encap: Encap::Vxlan }
}

/// An inner frame in its VXLAN header.
pub fn vxlan(vni: u32, frame: &[u8]) -> Vec<u8> {
    [&Encap::Vxlan.header(Vni::new(vni).unwrap())[..], frame].concat()
}

/// One copy that left.
#[derive(Clone, PartialEq, Eq)]
pub struct Output {
    pub to: Egress,
    pub vni: u32,
    pub bytes: Vec<u8>,
    pub vnet: VnetHdr,
    /// Made by the switch, not received.
    pub made: bool,
}

impl std::fmt::Debug for Output {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{:?} vni {} made {} {:02x?}",
            self.to,
            self.vni,
            self.made,
            &self.bytes[..self.bytes.len().min(60)]
        )
    }
}

/// All that one frame caused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    pub verdict: Verdict,
    pub outputs: Vec<Output>,
    pub steps: Vec<Step>,
}

impl Outcome {
    /// The only copy.
    #[track_caller]
    pub fn single(&self) -> &Output {
        assert_eq!(self.outputs.len(), 1, "{self:?}");
        &self.outputs[0]
    }

    #[track_caller]
    pub fn dropped(&self, reason: DropReason) {
        assert_eq!(self.verdict, Verdict::Drop(reason), "{self:?}");
    }

    /// Dropped, and nothing was sent on account of it.
    #[track_caller]
    pub fn silent(&self, reason: DropReason) {
        self.dropped(reason);
        assert!(self.outputs.is_empty(), "{self:?}");
    }

    /// Sent to one place, and there is the frame.
    #[track_caller]
    pub fn unicast(&self, to: Egress) -> &Output {
        assert_eq!(self.verdict, Verdict::Unicast(to), "{self:?}");
        let output = self.outputs.iter().find(|o| o.to == to && !o.made).expect("a copy");
        assert_eq!(self.outputs.iter().filter(|o| !o.made).count(), 1, "{self:?}");
        output
    }

    /// Flooded to exactly these, in any order.
    #[track_caller]
    pub fn flooded(&self, to: &[Egress]) {
        let mut got: Vec<_> = self.outputs.iter().filter(|o| !o.made).map(|o| o.to).collect();
        let mut want = to.to_vec();
        got.sort_unstable();
        want.sort_unstable();
        assert_eq!(got, want, "{self:?}");
        assert_eq!(self.verdict, Verdict::Flood(to.len() as u32), "{self:?}");
    }

    /// Answered to `to`; the answer.
    #[track_caller]
    pub fn reply(&self, to: Egress) -> &[u8] {
        assert_eq!(self.verdict, Verdict::Reply, "{self:?}");
        let output = self.single();
        assert_eq!(output.to, to);
        &output.bytes
    }
}

/// Tables, a data path, and the time.
pub struct World {
    pub tables: Tables,
    pub dp: Datapath,
    pub now: u64,
    batches: [Batch; 2],
    posts: [Postbox; 2],
}

impl World {
    /// Nothing configured; FDB for `fdb` entries.
    pub fn empty(fdb: usize) -> Self {
        let mut tables = Tables::new(7);
        tables.node = Node {
            underlay: Some(ip("192.168.77.1")),
            router_mac: own_router(),
            tunnel_ports: vec![4789, 6081],
        };
        Self {
            tables,
            dp: Datapath::new(Config { fdb_capacity: fdb, seed: 42 }),
            now: 1_000_000,
            batches: [Batch::new(1), Batch::new(1)],
            posts: [Postbox::default(), Postbox::default()],
        }
    }

    /// The node of the module text.
    pub fn node() -> Self {
        Self::node_with(1024)
    }

    /// Likewise, with an FDB of this capacity.
    pub fn node_with(fdb: usize) -> Self {
        let mut w = Self::empty(fdb);
        for vni in [1, 2] {
            w.network(vni, &["10.1.1.1/24", "fd00:1::1/64"]);
        }
        w.declared(BLUE, WEB_MAC, &["10.1.1.2", "fd00:1::2"]);
        w.declared(BLUE, DB_MAC, &["10.1.1.3", "fd00:1::3"]);
        w.learning(BLUE, VM_MAC);
        w.learning(BLUE, VM2_MAC);
        w.declared(RED_NET, WEB_MAC, &["10.1.1.2", "fd00:1::2"]);
        w.declared(RED_NET, DB_MAC, &["10.1.1.3", "fd00:1::3"]);
        w.peer(remote(B), None);
        w.peer(remote(C), Some(&["10.1.2.0/24", "fd00:2::/64"]));
        w.routes(BLUE, &blue_routes());
        w.routes(RED_NET, &[("10.1.1.0/24", Target::Connected), ("fd00:1::/64", Target::Connected)]);
        w
    }

    /// [`World::node_with`] whose node has a port into network 0, the default route and routes to the nodes.
    pub fn attached_with(fdb: usize) -> Self {
        let mut w = Self::node_with(fdb);
        let mut conf = blank_port(BLUE, NODE_MAC, Guard::Node);
        conf.v4 = vec![v4("10.1.1.1"), v4("192.168.77.1")];
        conf.v6 = vec![v6("fd00:1::1"), NODE_MAC.link_local_v6()];
        w.edit(BLUE, |n| {
            n.node = Some(NodeAttachment { port: NODE, mac: NODE_MAC });
            n.node_ips = ["10.1.1.1", "fd00:1::1", "192.168.77.1"].map(ip).into();
            n.statics.insert(NODE_MAC, port(NODE));
            let adjacency = Adjacency { mac: NODE_MAC, egress: Some(port(NODE)) };
            n.neighbours.insert(NODE_MAC.link_local_v6().into(), adjacency);
        });
        assert_eq!(w.tables.ports.len(), NODE.0 as usize);
        w.tables.ports.push(Some(Arc::new(conf)));
        let nodes = [
            ("0.0.0.0/0", Target::Node),
            ("::/0", Target::Node),
            ("192.168.77.1/32", Target::Node),
            ("192.168.77.2/32", Target::Peer(B)),
            ("192.168.77.3/32", Target::Peer(C)),
        ];
        w.routes(BLUE, &[&blue_routes()[..], &nodes].concat());
        w
    }

    /// Likewise, with a table as large as that of [`World::node`].
    pub fn attached() -> Self {
        Self::attached_with(1024)
    }

    pub fn network(&mut self, vni: u32, gateways: &[&str]) -> NetId {
        let id = NetId(self.tables.networks.len() as u16);
        let vni = Vni::new(vni).unwrap();
        self.tables.networks.push(Some(Arc::new(Network {
            id,
            vni,
            gateway_mac: gateway_mac(vni),
            gateways: gateways.iter().map(|g| net(g)).collect(),
            node: None,
            node_ips: Vec::new(),
            statics: Map::default(),
            neighbours: Map::default(),
            fib: Fib::default(),
            flood_from_port: Arc::new([]),
            flood_from_peer: Arc::new([]),
            unknown_from_port: Arc::new([]),
            unknown_from_peer: Arc::new([]),
            fdb_limit: u32::MAX,
            flood_unknown: true,
            ageing_ms: 300_000,
        })));
        self.tables.by_vni.insert(vni.get(), id);
        self.rebuild();
        id
    }

    pub fn edit(&mut self, id: NetId, change: impl FnOnce(&mut Network)) {
        change(Arc::make_mut(self.tables.networks[usize::from(id.0)].as_mut().unwrap()));
        self.tables.generation += 1;
    }

    pub fn edit_port(&mut self, id: PortId, change: impl FnOnce(&mut Port)) {
        change(Arc::make_mut(self.tables.ports[id.0 as usize].as_mut().unwrap()));
    }

    pub fn edit_peer(&mut self, id: PeerId, change: impl FnOnce(&mut Peer)) {
        change(Arc::make_mut(self.tables.peers[id.0 as usize].as_mut().unwrap()));
    }

    pub fn routes(&mut self, id: NetId, routes: &[(&str, Target)]) {
        self.edit(id, |n| n.fib = Fib::new(routes.iter().map(|(p, t)| (net(p), *t))));
    }

    /// A port with declared addresses, its link-local one included.
    pub fn declared(&mut self, id: NetId, mac: MacAddr, ips: &[&str]) -> PortId {
        let mut conf = blank_port(id, mac, Guard::Declared);
        conf.v6.push(mac.link_local_v6());
        for address in ips {
            match ip(address) {
                IpAddr::V4(a) => conf.v4.push(a),
                IpAddr::V6(a) => conf.v6.push(a),
            }
        }
        let at = PortId(self.tables.ports.len() as u32);
        let addresses: Vec<IpAddr> =
            conf.v4.iter().map(|a| IpAddr::V4(*a)).chain(conf.v6.iter().map(|a| IpAddr::V6(*a))).collect();
        self.edit(id, |n| {
            n.statics.insert(mac, port(at));
            for address in addresses {
                n.neighbours.insert(address, Adjacency { mac, egress: Some(port(at)) });
            }
        });
        self.tables.ports.push(Some(Arc::new(conf)));
        self.rebuild();
        at
    }

    pub fn learning(&mut self, id: NetId, mac: MacAddr) -> PortId {
        self.tables.ports.push(Some(Arc::new(blank_port(id, mac, Guard::Learning))));
        self.rebuild();
        PortId(self.tables.ports.len() as u32 - 1)
    }

    pub fn peer(&mut self, remote: IpAddr, sources: Option<&[&str]>) -> PeerId {
        let id = PeerId(self.tables.peers.len() as u32);
        let prefixes = sources.map(|s| s.iter().map(|p| net(p)).collect::<Vec<_>>());
        self.tables.peers.push(Some(Arc::new(Peer {
            remote,
            port: 4789,
            encap: Encap::Vxlan,
            checksum: true,
            router_mac: router_mac(remote),
            mtu: 1450,
            network: None,
            sources: prefixes.map(|p| Arc::new(Sources::new(&p))),
        })));
        self.tables.by_remote.insert(remote, id);
        self.rebuild();
        id
    }

    /// Takes a port out of the tables, as publishing without it does. `forget` is a separate step, as in the worker.
    pub fn unplug(&mut self, id: PortId) {
        let gone = self.tables.ports[id.0 as usize].take().unwrap();
        self.edit(gone.network, |n| {
            n.statics.retain(|_, e| *e != port(id));
            n.neighbours.retain(|_, a| a.egress != Some(port(id)));
        });
        self.rebuild();
    }

    /// Flood lists, as publishing computes them.
    fn rebuild(&mut self) {
        let peers: Vec<_> = (0..self.tables.peers.len()).map(|n| peer(PeerId(n as u32))).collect();
        for slot in self.tables.networks.iter_mut().flatten() {
            let mine = |guards: &[Guard]| -> Vec<Egress> {
                let ports = self.tables.ports.iter().enumerate();
                ports
                    .filter(|(_, p)| {
                        p.as_ref().is_some_and(|p| p.network == slot.id && guards.contains(&p.guard))
                    })
                    .map(|(n, _)| port(PortId(n as u32)))
                    .collect()
            };
            let all = mine(&[Guard::Declared, Guard::Learning]);
            let unknown = mine(&[Guard::Learning]);
            let n = Arc::make_mut(slot);
            n.flood_from_port = [&all[..], &peers].concat().into();
            n.flood_from_peer = all.into();
            n.unknown_from_port = [&unknown[..], &peers].concat().into();
            n.unknown_from_peer = unknown.into();
        }
    }

    pub fn port_in(&mut self, id: PortId, frame: &[u8]) -> Outcome {
        self.send(Ingress::Port(id), frame)
    }

    /// From a peer on VNI 1.
    pub fn peer_in(&mut self, id: PeerId, frame: &[u8]) -> Outcome {
        self.send(underlay(id, 0), &vxlan(1, frame))
    }

    pub fn send(&mut self, ingress: Ingress, frame: &[u8]) -> Outcome {
        self.send_vnet(ingress, frame, VnetHdr::default())
    }

    /// Sends one frame twice, through a copy without a recorder and through the data path with one, and checks
    /// what holds for every frame: both agree, every counter adds up, nothing leaves where it must not.
    pub fn send_vnet(&mut self, ingress: Ingress, frame: &[u8], vnet: VnetHdr) -> Outcome {
        let posted = self.dp.counters.posted;
        let mut plain = self.dp.clone();
        let (verdict, unrecorded, plain_steps) = {
            let (batch, out) = (&mut self.batches[0], &mut self.posts[0]);
            batch.clear();
            out.clear();
            assert!(batch.push_copy(frame, vnet, ingress));
            let before = plain.counters.total();
            plain.process(&self.tables, self.now, batch, out, &mut Off);
            let verdict = booked(&before, &plain.counters.total());
            (verdict, collect(batch, out), Vec::<Step>::new())
        };
        assert!(plain_steps.is_empty());
        let (batch, out) = (&mut self.batches[1], &mut self.posts[1]);
        batch.clear();
        out.clear();
        assert!(batch.push_copy(frame, vnet, ingress));
        let mut rec = Recording::default();
        self.dp.process(&self.tables, self.now, batch, out, &mut rec);
        let outputs = collect(batch, out);
        assert_eq!(rec.verdicts.len(), 1, "one verdict per frame");
        assert_eq!(outputs, unrecorded, "recording changes what leaves");
        assert_eq!(same_counter(rec.verdicts[0]), verdict, "recording changes the verdict");
        assert_eq!(self.dp.counters.posted - posted, outputs.len() as u64, "every posted copy is counted");
        let outcome = Outcome { verdict: rec.verdicts[0], outputs, steps: rec.steps };
        self.check(ingress, &outcome);
        outcome
    }

    /// Sends the same frame many times in one batch; the verdicts.
    pub fn burst(&mut self, ingress: Ingress, frame: &[u8], times: usize) -> Vec<Verdict> {
        let (mut batch, out) = (Batch::new(times), &mut self.posts[1]);
        out.clear();
        (0..times).for_each(|_| assert!(batch.push_copy(frame, VnetHdr::default(), ingress)));
        let mut rec = Recording::default();
        self.dp.process(&self.tables, self.now, &mut batch, out, &mut rec);
        self.conserved();
        rec.verdicts
    }

    /// Lets time pass without work.
    pub fn advance(&mut self, ms: u64) {
        self.now += ms;
    }

    /// Lets time pass, then does what is due.
    pub fn tick(&mut self, ms: u64) -> Vec<Output> {
        self.now += ms;
        let (batch, out) = (&mut self.batches[1], &mut self.posts[1]);
        batch.clear();
        out.clear();
        let posted = self.dp.counters.posted;
        self.dp.handle_timeout(&self.tables, self.now, out);
        let outputs = collect(batch, out);
        assert_eq!(self.dp.counters.posted - posted, outputs.len() as u64);
        self.conserved();
        outputs
    }

    /// Teaches the FDB by one frame that goes nowhere in particular.
    pub fn teach(&mut self, ingress: Ingress, source: MacAddr) -> Outcome {
        let frame = packet::build::ethernet(mac(0xee), source, 0x88b5, &[0; 46]);
        match ingress {
            Ingress::Underlay { .. } => self.send(ingress, &vxlan(1, &frame)),
            _ => self.send(ingress, &frame),
        }
    }

    pub fn drops(&self, reason: DropReason) -> u64 {
        self.dp.counters.total().drops[reason as usize]
    }

    /// The sums of the module text of `counters`.
    pub fn conserved(&self) {
        let counters = &self.dp.counters;
        let total = counters.total();
        assert!(total.balanced(), "{total:?}");
        let waiting = self.dp.neighbours().waiting() as u64;
        assert_eq!(
            total.held,
            counters.released + counters.expired + waiting,
            "held frames leave in one way"
        );
        assert_eq!(
            counters.expired,
            total.drops[DropReason::NeighbourFailed as usize],
            "a held frame that is lost is a drop with a reason"
        );
        let listed: usize = self.dp.neighbours().iter().map(|e| e.waiting).sum();
        assert_eq!(listed as u64, waiting);
    }

    fn check(&self, ingress: Ingress, outcome: &Outcome) {
        self.conserved();
        let (origin, network) = match ingress {
            Ingress::Port(id) => (Some(port(id)), self.tables.port(id).map(|p| p.network)),
            Ingress::Underlay { source, .. } => (self.tables.by_remote.get(&source).map(|p| peer(*p)), None),
            Ingress::Peer { peer: id, .. } => (Some(peer(id)), None),
        };
        let received: Vec<_> = outcome.outputs.iter().filter(|o| !o.made).collect();
        let copies = match outcome.verdict {
            Verdict::Unicast(to) => {
                assert_eq!(received[0].to, to);
                1
            }
            Verdict::Flood(n) => n as usize,
            Verdict::Reply => usize::from(!outcome.outputs.iter().any(|o| o.made && Some(o.to) == origin)),
            Verdict::Consumed | Verdict::Held | Verdict::Drop(_) => 0,
        };
        assert_eq!(received.len(), copies, "{outcome:?}");
        let node = self.tables.networks.iter().flatten().find_map(|n| n.node).map(|n| port(n.port));
        let routed = outcome.steps.iter().any(|s| matches!(s, Step::Routed { .. }));
        for output in &outcome.outputs {
            assert!(self.tables.exists(output.to));
            // A network never leaks into another.
            let home = self.tables.by_vni[&output.vni];
            if let Some(network) = network {
                assert_eq!(home, network);
            }
            if let Egress::Port(id) = output.to {
                assert_eq!(self.tables.port(id).unwrap().network, home);
            }
            // Split horizon: nothing received from a peer, or released because of one, goes to another peer.
            if matches!((origin, output.to), (Some(Egress::Peer(_)), Egress::Peer(_))) {
                assert_eq!(Some(output.to), origin, "{outcome:?}");
                assert!(output.made || outcome.verdict == Verdict::Reply, "{outcome:?}");
            }
            // No reflection at layer 2.
            if !output.made && Some(output.to) == origin {
                assert!(routed || outcome.verdict == Verdict::Reply, "{outcome:?}");
            }
            let headers = packet::Headers::parse(&output.bytes).expect("what leaves parses");
            if !output.made && Some(output.to) == node {
                // The node's packets do not come back to it, and no tunnel packet for a node enters it.
                assert!(origin != node || outcome.verdict == Verdict::Reply, "{outcome:?}");
                let vtep = [ip("192.168.77.1"), remote(B), remote(C)];
                let to_node = headers.dst_ip(&output.bytes).is_some_and(|to| vtep.contains(&to));
                let tunnel = headers.proto == ip_proto::UDP && [4789, 6081].contains(&headers.dport);
                assert!(!(tunnel && to_node), "{outcome:?}");
            }
            assert!(packet::Headers::src_mac(&output.bytes).is_unicast(), "{outcome:?}");
            if output.made && headers.net == packet::Net::V4 && !headers_of_held(outcome) {
                assert!(checksum::verify_ipv4_header(&output.bytes[14..]), "{outcome:?}");
                if headers.proto == ip_proto::ICMP {
                    assert_eq!(
                        checksum::sum(&output.bytes[usize::from(headers.l4)..headers.end as usize]),
                        0xffff
                    );
                }
            }
            if let Verdict::Unicast(_) = outcome.verdict {
                let mtu = match output.to {
                    Egress::Port(id) => self.tables.port(id).unwrap().mtu,
                    Egress::Peer(id) => self.tables.peer(id).unwrap().mtu,
                };
                assert!(packet_size(&headers, &output.vnet) <= mtu, "{outcome:?}");
            }
        }
    }
}

/// Frames that were held may be released by this one; they were made elsewhere and may be as wrong as they like.
fn headers_of_held(outcome: &Outcome) -> bool {
    outcome.outputs.iter().filter(|o| o.made).count() > 1 || outcome.verdict == Verdict::Consumed
}

/// The number of copies is compared through the copies themselves; counters only know the kind.
fn same_counter(verdict: Verdict) -> Verdict {
    match verdict {
        Verdict::Unicast(_) => Verdict::Unicast(Egress::Port(PortId(0))),
        Verdict::Flood(_) => Verdict::Flood(0),
        other => other,
    }
}

/// Which one counter moved by one.
fn booked(before: &Counters, after: &Counters) -> Verdict {
    let mut moved = Vec::new();
    let mut note = |a: u64, b: u64, verdict| (a..b).for_each(|_| moved.push(verdict));
    note(before.unicast, after.unicast, Verdict::Unicast(Egress::Port(PortId(0))));
    note(before.flooded, after.flooded, Verdict::Flood(0));
    note(before.replied, after.replied, Verdict::Reply);
    note(before.consumed, after.consumed, Verdict::Consumed);
    note(before.held, after.held, Verdict::Held);
    for reason in DropReason::ALL.iter().filter(|r| **r != DropReason::NeighbourFailed) {
        note(before.drops[*reason as usize], after.drops[*reason as usize], Verdict::Drop(*reason));
    }
    assert_eq!(moved.len(), 1, "one frame is booked once: {moved:?}");
    assert_eq!(after.received, before.received + 1);
    moved[0]
}

/// All that left, by egress.
pub fn collect(batch: &Batch, out: &Postbox) -> Vec<Output> {
    let mut outputs = Vec::new();
    for &to in out.touched() {
        for posted in out.list(to) {
            let (bytes, vnet, made) = match posted.frame {
                FrameRef::Received(n) => {
                    let frame = &batch.frames[usize::from(n)];
                    (batch.bytes(frame).to_vec(), frame.vnet, false)
                }
                FrameRef::Generated(n) => {
                    let own = out.generated.get(n);
                    (own.bytes.clone(), own.vnet, true)
                }
            };
            outputs.push(Output { to, vni: posted.vni, bytes, vnet, made });
        }
    }
    outputs
}

/// Routes of network 0.
fn blue_routes() -> [(&'static str, Target); 12] {
    [
        ("10.1.1.0/24", Target::Connected),
        ("fd00:1::/64", Target::Connected),
        ("10.1.2.0/24", Target::Peer(C)),
        ("fd00:2::/64", Target::Peer(C)),
        // Inside the subnet, but living on node C.
        ("10.1.1.128/25", Target::Peer(C)),
        ("fd00:1::c:0/112", Target::Peer(C)),
        ("10.9.0.0/16", Target::NextHop(ip("10.1.1.50"))),
        ("fd00:9::/32", Target::NextHop(ip("fd00:1::50"))),
        ("10.66.0.0/16", Target::Blackhole),
        ("10.67.0.0/16", Target::Unreachable),
        ("fd00:66::/32", Target::Blackhole),
        ("fd00:67::/32", Target::Unreachable),
    ]
}

fn blank_port(network: NetId, mac: MacAddr, guard: Guard) -> Port {
    Port { network, mac, guard, v4: Vec::new(), v6: Vec::new(), mtu: 1450, mac_limit: 16 }
}

/// A UDP frame from WEB to DB's address, addressed to `dst` on layer 2.
pub fn web_udp(dst: MacAddr, to: &str, payload: &[u8]) -> Vec<u8> {
    let from = if to.contains(':') { "fd00:1::2" } else { "10.1.1.2" };
    packet::build::udp((WEB_MAC, dst), (ip(from), ip(to)), (1000, 2000), payload)
}
