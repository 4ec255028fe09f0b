//! Nodes, pods and the wire between them under one virtual clock.

use crate::host::Host;
use crate::impair::{Faults, Weather};
use crate::plan::{NetPlan, PeerPlan, Plan, PortPlan, SEED};
use packet::MacAddr;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use switch::datapath::{Config, Counters, DropReason, Egress, PortId};
use switch::engine::{Command, Effect, Engine, Filled, QUANTUM};
use switch::io::{MemoryTap, PodEnd};
use tunnel::Encap;
use tunnel::offload::Caps;
use tunnel::underlay::memory::{MemoryRx, MemoryTx, MemoryWire};

pub const POD_MTU: u32 = 1450;
/// Rounds of one millisecond: more than any exchange without time needs.
const ROUNDS: usize = 40;

/// How the nodes are joined.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    pub nodes: usize,
    /// A subnet per node and routes between them; else one subnet over all nodes.
    pub routed: bool,
    pub encap: Encap,
    /// IPv6 underlay.
    pub v6: bool,
}

pub const BRIDGED: Shape = Shape { nodes: 2, routed: false, encap: Encap::Vxlan, v6: false };
pub const ROUTED: Shape = Shape { nodes: 2, routed: true, encap: Encap::Vxlan, v6: false };

pub struct Switch {
    pub engine: Engine<MemoryTap, MemoryRx, MemoryTx>,
    pub plan: Plan,
}

pub struct World {
    pub shape: Shape,
    pub now: u64,
    pub wire: MemoryWire,
    pub nodes: Vec<Switch>,
    pub hosts: Vec<Host>,
    weather: Weather,
}

pub fn underlay(v6: bool, node: usize) -> IpAddr {
    if v6 {
        Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, node as u16 + 1).into()
    } else {
        Ipv4Addr::new(192, 168, 77, node as u8 + 1).into()
    }
}

pub fn pod_mac(node: usize, pod: usize) -> MacAddr {
    MacAddr([2, 0, 0, 0, node as u8 + 1, pod as u8 + 1])
}

impl World {
    pub fn new(shape: Shape) -> Self {
        let wire = MemoryWire::new();
        let nodes = (0..shape.nodes).map(|node| switch(&wire, shape, node)).collect();
        let mut world = Self { shape, now: 0, wire, nodes, hosts: Vec::new(), weather: Weather::default() };
        (0..shape.nodes).for_each(|node| world.publish(node));
        world
    }

    /// Address of a pod, by node and number on it.
    pub fn ips(&self, node: usize, pod: usize) -> [IpAddr; 2] {
        let (n, p) = (node as u8 + 1, pod as u8 + 10);
        if self.shape.routed {
            [
                Ipv4Addr::new(10, 1, n, p).into(),
                Ipv6Addr::new(0xfd00, n.into(), 0, 0, 0, 0, 0, p.into()).into(),
            ]
        } else {
            let host = n * 16 + p;
            [
                Ipv4Addr::new(10, 1, 1, host).into(),
                Ipv6Addr::new(0xfd00, 1, 0, 0, 0, 0, 0, host.into()).into(),
            ]
        }
    }

    pub fn gateways(&self, node: usize) -> [IpAddr; 2] {
        let nets = &self.nodes[node].plan.networks[0].gateways;
        [nets[0].addr(), nets[1].addr()]
    }

    pub fn impair(&self, faults: Faults, seed: u64) {
        self.weather.apply(&self.wire, faults, seed);
    }

    /// Opens a port and publishes it; returns its number and the pod's end.
    pub fn open(&mut self, node: usize, port: PortPlan) -> (PortId, PodEnd) {
        let (id, end) = self.open_unpublished(node, port, Caps::ALL);
        self.publish(node);
        (id, end)
    }

    pub fn open_unpublished(&mut self, node: usize, port: PortPlan, caps: Caps) -> (PortId, PodEnd) {
        let now = self.now;
        let Switch { engine, plan } = &mut self.nodes[node];
        let id = PortId(plan.ports.len() as u32);
        plan.ports.push(Some(port));
        let (tap, end) = MemoryTap::pair();
        assert!(matches!(engine.apply(Command::AddPort { id, port: tap, caps }, now), Effect::Watch(_)));
        (id, end)
    }

    pub fn declared(&self, node: usize, pod: usize) -> PortPlan {
        let addresses = self.ips(node, pod).to_vec();
        PortPlan { network: 0, mac: pod_mac(node, pod), addresses, mtu: POD_MTU }
    }

    pub fn learning(&self, node: usize, pod: usize) -> PortPlan {
        PortPlan { addresses: Vec::new(), ..self.declared(node, pod) }
    }

    /// A declared port with a whole pod behind it; returns its index in `hosts`.
    pub fn host(&mut self, node: usize, pod: usize) -> usize {
        let plan = self.declared(node, pod);
        self.host_behind(node, pod, plan)
    }

    pub fn host_behind(&mut self, node: usize, pod: usize, plan: PortPlan) -> usize {
        let (mac, ips, gateways) = (plan.mac, self.ips(node, pod), self.gateways(node));
        let (port, end) = self.open(node, plan);
        self.hosts.push(Host::new(node, port, mac, ips, gateways, end, POD_MTU as usize));
        self.hosts.len() - 1
    }

    pub fn apply(&mut self, node: usize, command: Command<MemoryTap>) -> Effect<MemoryTap> {
        self.nodes[node].engine.apply(command, self.now)
    }

    pub fn publish(&mut self, node: usize) {
        let tables = self.nodes[node].plan.tables();
        self.apply(node, Command::Publish(tables));
    }

    /// Removes a port as the control thread does: out of the tables, forgotten, closed.
    pub fn close(&mut self, node: usize, id: PortId) {
        self.nodes[node].plan.ports[id.0 as usize] = None;
        self.publish(node);
        self.apply(node, Command::Forget(Egress::Port(id)));
        assert!(matches!(self.apply(node, Command::RemovePort(id)), Effect::Closed(..)));
    }

    /// Lets everything happen that can happen without time passing.
    pub fn settle(&mut self) {
        self.weather.tick(&self.wire, self.now);
        for _ in 0..ROUNDS {
            let mut moved = false;
            for host in &mut self.hosts {
                moved |= host.poll(self.now);
            }
            for node in &mut self.nodes {
                moved |= node.run(self.now);
            }
            if !moved {
                break;
            }
        }
    }

    /// Lets time pass until `done`, in steps to the next event; `false` when that takes longer than `limit_ms`.
    pub fn until(&mut self, limit_ms: u64, mut done: impl FnMut(&mut Self) -> bool) -> bool {
        let deadline = self.now + limit_ms;
        loop {
            self.settle();
            if done(self) {
                return true;
            }
            if self.now >= deadline {
                return false;
            }
            let hosts = self.hosts.iter_mut().filter_map(|h| h.next(self.now)).min();
            let nodes = self.nodes.iter().filter_map(|n| n.engine.poll_timeout()).min();
            let next = [hosts, nodes, self.weather.next_due()].into_iter().flatten().min();
            self.now = next.unwrap_or(deadline).clamp(self.now + 1, deadline);
        }
    }

    pub fn sleep(&mut self, ms: u64) {
        self.until(ms, |_| false);
    }

    pub fn port_counters(&self, node: usize, id: PortId) -> Counters {
        self.nodes[node].engine.datapath().counters.get(Egress::Port(id)).cloned().unwrap_or_default()
    }

    pub fn drops(&self, node: usize, reason: DropReason) -> u64 {
        self.nodes[node].engine.datapath().counters.total().drops[reason as usize]
    }

    /// What must hold at the end of every test: all sums, and no drop that the test did not ask for.
    pub fn finish(&self, allowed: &[DropReason]) {
        for (n, node) in self.nodes.iter().enumerate() {
            let datapath = node.engine.datapath();
            let (counters, total) = (&datapath.counters, datapath.counters.total());
            assert!(counters.balanced(), "node {n}: {total:?}");
            let waiting = datapath.neighbours().waiting() as u64;
            assert_eq!(total.held, counters.released + counters.expired + waiting, "node {n}: held frames");
            for &reason in DropReason::ALL {
                let count = total.drops[reason as usize];
                assert!(count == 0 || allowed.contains(&reason), "node {n}: {count} dropped as {reason}");
            }
        }
        for (n, host) in self.hosts.iter().enumerate() {
            assert_eq!(host.device.broken, 0, "pod {n} got frames that make no sense");
            assert_eq!(host.device.end().counters().to_pod_invalid, 0, "pod {n}");
        }
    }
}

impl Switch {
    /// One turn; was there anything to do?
    fn run(&mut self, now: u64) -> bool {
        let mut moved = false;
        if self.engine.poll_timeout().is_some_and(|due| due <= now) {
            self.engine.handle_timeout(now);
            moved = true;
        }
        for id in (0..self.plan.ports.len()).map(|n| PortId(n as u32)) {
            moved |= self.drain(now, |engine| engine.fill_from_port(id, &mut { QUANTUM }));
        }
        for socket in 0..self.engine.underlay_mut().len() {
            moved |= self.drain(now, |engine| engine.fill_from_underlay(socket, &mut { QUANTUM }));
        }
        moved |= !self.engine.is_idle();
        self.engine.flush(now);
        moved
    }

    fn drain(
        &mut self,
        now: u64,
        mut fill: impl FnMut(&mut Engine<MemoryTap, MemoryRx, MemoryTx>) -> Filled,
    ) -> bool {
        let mut moved = false;
        for _ in 0..10_000 {
            let filled = fill(&mut self.engine);
            moved |= !self.engine.is_idle();
            match filled {
                Filled::Spent => {}
                Filled::Full => self.engine.flush(now),
                Filled::Drained | Filled::Gone => break,
            }
        }
        moved
    }
}

fn switch(wire: &MemoryWire, shape: Shape, node: usize) -> Switch {
    let local = underlay(shape.v6, node);
    let rx = [Encap::Vxlan, Encap::Geneve]
        .map(|encap| wire.rx(SocketAddr::new(local, encap.default_port()), encap))
        .into();
    let tx = wire.tx(SocketAddr::new(local, 50_000));
    let subnet = if shape.routed { node + 1 } else { 1 };
    let cidrs = |subnet: usize| {
        [format!("10.1.{subnet}.0/24"), format!("fd00:{subnet}::/64")].map(|c| c.parse().unwrap())
    };
    let gateways =
        [format!("10.1.{subnet}.1/24"), format!("fd00:{subnet}::1/64")].map(|g| g.parse().unwrap());
    let peers = (0..shape.nodes).filter(|&other| other != node).map(|other| PeerPlan {
        remote: underlay(shape.v6, other),
        encap: shape.encap,
        cidrs: if shape.routed { cidrs(other + 1).into() } else { Vec::new() },
        mtu: POD_MTU,
    });
    let network = NetPlan {
        vni: 1,
        gateways: gateways.into(),
        routes: Vec::new(),
        flood_unknown: true,
        ageing_ms: 300_000,
    };
    Switch {
        engine: Engine::new(Config { fdb_capacity: 1024, seed: SEED }, rx, tx),
        plan: Plan {
            underlay: local,
            networks: vec![network],
            ports: Vec::new(),
            peers: peers.collect(),
            generation: 0,
        },
    }
}
