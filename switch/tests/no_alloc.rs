//! The steady state allocates nothing: thousands of batches of every kind of forwarding, through the whole
//! engine, and a counting allocator that stays at zero.
//!
//! The devices here are loops and sinks, because the memory twins keep what they are given. One test in this
//! binary, and the count is per thread, so the test harness cannot disturb it.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use ipnet::IpNet;
use packet::{GsoType, MacAddr, VNET_HDR_LEN, VnetHdr, Vni, build, checksum};
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::io::{self, IoSlice};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use switch::datapath::{
    Adjacency, Config, DropReason, Egress, Fib, Guard, NetId, Network, Node, Peer, PeerId, Port, PortId,
    Tables, Target, gateway_mac, router_mac,
};
use switch::engine::{self, BATCH_BUFFERS, Command, Engine, Rate};
use switch::io::PortIo;
use tunnel::Encap;
use tunnel::offload::Caps;
use tunnel::underlay::{Datagram, Limits, MAX_PAYLOAD_V4, PeerAddr, UnderlayRx, UnderlayTx};

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

struct Counting;

// SAFETY: every call is handed to the system allocator as it came; counting touches a thread-local without a
// destructor, which allocates nothing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.set(ALLOCATIONS.get() + 1);
        // SAFETY: the caller's contract is that of this function.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { System.dealloc(ptr, layout) }
    }

    unsafe fn realloc(&self, ptr: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        ALLOCATIONS.set(ALLOCATIONS.get() + 1);
        // SAFETY: as above.
        unsafe { System.realloc(ptr, layout, size) }
    }
}

#[global_allocator]
static GLOBAL: Counting = Counting;

/// A port that sends one frame again and again while it has credit, and takes everything.
struct Loop {
    raw: Vec<u8>,
    credit: usize,
    written: u64,
}

impl PortIo for Loop {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if self.credit == 0 {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        self.credit -= 1;
        buf[..self.raw.len()].copy_from_slice(&self.raw);
        Ok(self.raw.len())
    }

    fn write(&mut self, parts: &[IoSlice<'_>]) -> io::Result<usize> {
        self.written += 1;
        Ok(parts.iter().map(|p| p.len()).sum())
    }
}

struct LoopRx {
    datagrams: Vec<u8>,
    segment: usize,
    credit: usize,
    src: SocketAddr,
}

impl UnderlayRx for LoopRx {
    fn recv(&mut self, buf: &mut [u8]) -> io::Result<Datagram> {
        if self.credit == 0 {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        self.credit -= 1;
        let len = self.datagrams.len();
        buf[..len].copy_from_slice(&self.datagrams);
        let (segment, src) = (self.segment, self.src);
        Ok(Datagram { len, segment, src, tos: 0, encap: Encap::Vxlan, truncated: false })
    }
}

#[derive(Default)]
struct NullTx {
    sends: u64,
}

impl UnderlayTx for NullTx {
    fn limits(&self, _: &PeerAddr) -> Limits {
        Limits { segments: 128, bytes: MAX_PAYLOAD_V4, lanes: 1 }
    }

    fn send(&mut self, _: &PeerAddr, _: u8, _: u16, _: &[IoSlice<'_>], _: usize) -> io::Result<()> {
        self.sends += 1;
        Ok(())
    }
}

type Twin = Engine<Loop, LoopRx, NullTx>;

const PORTS: u32 = 4;
const PEER: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 168, 77, 2));

fn mac(n: u32) -> MacAddr {
    MacAddr([2, 0, 0, 0, 0, n as u8 + 1])
}

fn ip(n: u32) -> IpAddr {
    Ipv4Addr::new(10, 1, 1, n as u8 + 10).into()
}

/// Ports 0 and 1 are declared, 2 and 3 learn; one peer on the segment and behind a route.
fn tables() -> Arc<Tables> {
    let mut tables = Tables::new(1);
    let vni = Vni::new(1).unwrap();
    let net: IpNet = "10.1.1.1/24".parse().unwrap();
    let ports: Vec<_> = (0..PORTS).map(|n| Egress::Port(PortId(n))).collect();
    let peer = Egress::Peer(PeerId(0));
    let all: Arc<[Egress]> = ports.iter().copied().chain([peer]).collect();
    let mut network = Network {
        id: NetId(0),
        vni,
        gateway_mac: gateway_mac(vni),
        gateways: vec![net],
        node: None,
        node_ips: Vec::new(),
        statics: Default::default(),
        neighbours: Default::default(),
        fib: Fib::new([
            (net.trunc(), Target::Connected),
            ("10.1.2.0/24".parse().unwrap(), Target::Peer(PeerId(0))),
        ]),
        flood_from_port: all.clone(),
        flood_from_peer: ports.clone().into(),
        unknown_from_port: all.iter().copied().skip(2).collect(),
        unknown_from_peer: ports[2..].into(),
        fdb_limit: u32::MAX,
        flood_unknown: true,
        ageing_ms: 300_000,
    };
    for n in 0..2 {
        let egress = Egress::Port(PortId(n));
        network.statics.insert(mac(n), egress);
        network.neighbours.insert(ip(n), Adjacency { mac: mac(n), egress: Some(egress) });
    }
    for n in 0..PORTS {
        tables.ports.push(Some(Arc::new(Port {
            network: NetId(0),
            mac: mac(n),
            guard: if n < 2 { Guard::Declared } else { Guard::Learning },
            v4: vec![if let IpAddr::V4(ip) = ip(n) { ip } else { unreachable!() }],
            v6: Vec::new(),
            mtu: 1450,
            mac_limit: 100,
        })));
    }
    let underlay = "192.168.77.1".parse().unwrap();
    tables.node =
        Node { underlay: Some(underlay), router_mac: router_mac(underlay), tunnel_ports: vec![4789] };
    tables.by_vni.insert(1, NetId(0));
    tables.by_remote.insert(PEER, PeerId(0));
    tables.peers.push(Some(Arc::new(Peer {
        remote: PEER,
        port: 4789,
        encap: Encap::Vxlan,
        checksum: true,
        router_mac: router_mac(PEER),
        mtu: 1450,
        network: None,
        sources: None,
    })));
    tables.networks.push(Some(Arc::new(network)));
    Arc::new(tables)
}

fn whole(frame: Vec<u8>) -> Vec<u8> {
    [vec![0; VNET_HDR_LEN], frame].concat()
}

fn tso(mut frame: Vec<u8>) -> Vec<u8> {
    let h = build::parse(&frame);
    let at = usize::from(h.l4) + 16;
    let sum = checksum::pseudo(&h, &frame, h.end - u32::from(h.l4));
    frame[at..at + 2].copy_from_slice(&sum.to_be_bytes());
    let vnet = VnetHdr {
        needs_csum: true,
        gso_type: GsoType::Tcp4,
        gso_size: 1410,
        csum_start: h.l4,
        csum_offset: 16,
        ..VnetHdr::default()
    };
    [vnet.to_bytes().to_vec(), frame].concat()
}

/// One turn: the chosen source sends a full batch.
fn turn(engine: &mut Twin, source: Option<PortId>, now: u64) {
    match source {
        Some(id) => {
            engine.port_mut(id).unwrap().credit = BATCH_BUFFERS;
            engine.fill_from_port(id, &mut { i64::MAX });
        }
        None => {
            engine.underlay_mut()[0].credit = 8;
            engine.fill_from_underlay(0, &mut { i64::MAX });
        }
    }
    engine.flush(now);
    if engine.poll_timeout().is_some_and(|due| due <= now) {
        engine.handle_timeout(now);
    }
}

#[test]
fn nothing_is_allocated_in_the_steady_state() {
    let datagram = build::udp((mac(9), mac(2)), ("10.1.1.99".parse().unwrap(), ip(2)), (5, 6), &[7; 1000]);
    let wrapped = [&Encap::Vxlan.header(Vni::new(1).unwrap())[..], &datagram].concat();
    let rx = LoopRx {
        segment: wrapped.len(),
        datagrams: wrapped.repeat(60),
        credit: 0,
        src: SocketAddr::new(PEER, 50_000),
    };
    let mut engine: Twin = Engine::new(Config { fdb_capacity: 1024, seed: 7 }, vec![rx], NullTx::default());
    for n in 0..PORTS {
        let port = Loop { raw: Vec::new(), credit: 0, written: 0 };
        engine.apply(Command::AddPort { id: PortId(n), port, caps: Caps::ALL }, 0);
    }
    engine.apply(Command::Publish(tables()), 0);
    let gateway = gateway_mac(Vni::new(1).unwrap());
    let remote: IpAddr = "10.1.2.5".parse().unwrap();
    let from_0 = |to: MacAddr, dst: IpAddr| build::udp((mac(0), to), (ip(0), dst), (1, 2), &[1; 200]);
    let hosts = (ip(2), ip(3));
    let cases: Vec<(&str, u32, Vec<u8>)> = vec![
        ("L2 hit, static", 0, whole(from_0(mac(1), ip(1)))),
        (
            "L2 hit, offload frame",
            0,
            tso(build::tcp((mac(0), mac(1)), (ip(0), ip(1)), (1, 2), (1, 1, 16), &[3; 30_000])),
        ),
        ("L2 hit, learned", 2, whole(build::udp((mac(2), mac(3)), hosts, (1, 2), &[1; 64]))),
        ("L3 to a local pod", 0, whole(from_0(gateway, ip(1)))),
        ("L3 to a peer", 0, whole(from_0(gateway, remote))),
        (
            "L3 to a peer, offload frame",
            0,
            tso(build::tcp((mac(0), gateway), (ip(0), remote), (1, 2), (1, 1, 16), &[3; 30_000])),
        ),
        ("broadcast", 0, whole(from_0(MacAddr::BROADCAST, Ipv4Addr::BROADCAST.into()))),
        ("unknown unicast", 2, whole(build::udp((mac(2), mac(77)), hosts, (1, 2), &[1; 64]))),
        ("spoofed", 0, whole(build::udp((mac(0), mac(1)), (ip(3), ip(1)), (1, 2), &[1; 64]))),
        ("malformed", 0, whole(from_0(mac(1), ip(1))[..20].to_vec())),
        ("no route, ICMP", 0, whole(from_0(gateway, "10.3.0.1".parse().unwrap()))),
        ("time exceeded", 0, {
            let mut frame = from_0(gateway, remote);
            (frame[22], frame[24], frame[25]) = (1, 0, 0);
            let sum = checksum::finish(checksum::sum(&frame[14..34]));
            frame[24..26].copy_from_slice(&sum.to_be_bytes());
            whole(frame)
        }),
        (
            "ARP answered",
            0,
            whole(build::arp(
                (mac(0), MacAddr::BROADCAST),
                1,
                (mac(0), "10.1.1.10".parse().unwrap()),
                (MacAddr([0; 6]), "10.1.1.1".parse().unwrap()),
            )),
        ),
        (
            "echo answered",
            0,
            whole(build::echo((mac(0), gateway), (ip(0), "10.1.1.1".parse().unwrap()), 8, 1, 1, &[1; 56])),
        ),
        ("waits for a neighbour", 0, whole(from_0(gateway, "10.1.1.200".parse().unwrap()))),
    ];
    // Where the learned ones are: each has sent something.
    for n in [2, 3] {
        engine.port_mut(PortId(n)).unwrap().raw = whole(build::udp(
            (mac(n), MacAddr::BROADCAST),
            (ip(n), Ipv4Addr::BROADCAST.into()),
            (1, 2),
            &[1; 9],
        ));
        turn(&mut engine, Some(PortId(n)), 0);
    }
    let now = Cell::new(1);
    let measure = |engine: &mut Twin, name: &str, source: Option<PortId>| {
        // The neighbour's queue takes its first frames, is asked for, given up and asked for again: the longest
        // cycle there is takes three seconds.
        for _ in 0..400 {
            turn(engine, source, now.get());
            now.set(now.get() + 10);
        }
        let frames = engine.datapath().counters.total().received;
        let before = ALLOCATIONS.get();
        for _ in 0..1000 {
            turn(engine, source, now.get());
            now.set(now.get() + 10);
        }
        let (allocations, frames) =
            (ALLOCATIONS.get() - before, engine.datapath().counters.total().received - frames);
        (name.to_owned(), allocations, frames)
    };
    let mut report = Vec::new();
    for (name, port, raw) in cases {
        engine.port_mut(PortId(port)).unwrap().raw = raw;
        report.push(measure(&mut engine, name, Some(PortId(port))));
    }
    report.push(measure(&mut engine, "decap", None));
    // Four times as much as the limit allows: frames wait, are released, and are lost, offload frames in part.
    let rate = |bytes_per_second| Some(Rate { bytes_per_second, burst_bytes: 3000 });
    let small = whole(from_0(mac(1), ip(1)));
    let large = tso(build::tcp((mac(0), mac(1)), (ip(0), ip(1)), (1, 2), (1, 1, 16), &[3; 30_000]));
    for (name, port, raw, ingress, egress) in [
        ("limited receiver", 1, small.clone(), rate(350_000), None),
        ("limited receiver, offload frames", 1, large.clone(), rate(10_000_000), None),
        ("limited sender", 0, small, None, rate(350_000)),
        ("limited sender, offload frames", 0, large, None, rate(10_000_000)),
    ] {
        engine.port_mut(PortId(0)).unwrap().raw = raw;
        engine.apply(Command::Limit(PortId(port), engine::Limits { ingress, egress }), now.get());
        report.push(measure(&mut engine, name, Some(PortId(0))));
        engine.apply(Command::Limit(PortId(port), engine::Limits::default()), now.get());
    }
    assert!(engine.datapath().counters.balanced());
    let total = engine.datapath().counters.total();
    for reason in [
        DropReason::SpoofedIp,
        DropReason::Malformed,
        DropReason::NoRoute,
        DropReason::TtlExceeded,
        DropReason::RxLimit,
        DropReason::TxLimit,
    ] {
        assert!(total.drops[reason as usize] > 0, "{reason}");
    }
    for (name, allocations, frames) in &report {
        assert!(*frames >= 8_000, "{name}: only {frames} frames");
        // Resolving a neighbour begins once in three seconds, and that may allocate; a frame may not.
        let allowed = if name == "waits for a neighbour" { 10 } else { 0 };
        assert!(*allocations <= allowed, "{name}: {allocations} allocations in {frames} frames");
    }
}
