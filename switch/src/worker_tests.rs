//! The poll loop on real descriptors: socket pairs in place of TAPs. They announce readiness by the same edges, and
//! need no privilege.

use super::*;
use crate::datapath::{
    DropReason, Egress, Fib, Guard, Map, NetId, Network, Peer, PeerId, Port, Tables, gateway_mac,
};
use crate::engine::{FRAME_COST, QUANTUM};
use packet::{MacAddr, VNET_HDR_LEN, Vni, build};
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{AddressFamily, SocketFlags, SocketType};
use std::io::IoSlice;
use std::os::fd::{OwnedFd, RawFd};
use std::sync::atomic::AtomicBool;
use tunnel::offload::Caps;
use tunnel::underlay::TxOptions;

const A: PortId = PortId(0);
const B: PortId = PortId(1);
/// Frames of these tests that one visit reads: more than a batch takes.
const BUDGET: usize = QUANTUM as usize / (FRAME_COST as usize + packet::ETHERNET_LEN + 4) + 1;
/// Long enough for a machine that does many other things. A wake-up that is missed is never made up for: neither
/// timers nor commands make the worker look at a source.
const LIMIT: Duration = Duration::from_secs(20);

/// The switch's end of a port.
struct Pair(OwnedFd);

impl PortIo for Pair {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        Ok(rustix::io::read(&self.0, buf)?)
    }

    fn write(&mut self, parts: &[IoSlice<'_>]) -> io::Result<usize> {
        Ok(rustix::io::writev(&self.0, parts)?)
    }
}

impl AsRawFd for Pair {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

/// The pod's end.
struct Pod(OwnedFd);

impl Pod {
    fn pair() -> (Pair, Self) {
        let (ours, theirs) =
            rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
                .unwrap();
        rustix::io::ioctl_fionbio(&ours, true).unwrap();
        set_socket_timeout(&theirs, Timeout::Recv, Some(LIMIT)).unwrap();
        (Pair(ours), Self(theirs))
    }

    /// Sends frame number `n` from one port's address to another's.
    fn send(&self, from: PortId, to: PortId, n: u32) {
        let frame = build::ethernet(mac(to), mac(from), 0x88b5, &n.to_be_bytes());
        let raw = [&[0; VNET_HDR_LEN][..], &frame].concat();
        assert_eq!(rustix::io::write(&self.0, &raw).unwrap(), raw.len());
    }

    /// The number of the next frame that arrives.
    #[track_caller]
    fn recv(&self) -> u32 {
        let mut raw = [0; 256];
        let read = rustix::io::read(&self.0, &mut raw).expect("a frame within the limit");
        let at = VNET_HDR_LEN + packet::ETHERNET_LEN;
        assert!(read >= at + 4);
        u32::from_be_bytes([raw[at], raw[at + 1], raw[at + 2], raw[at + 3]])
    }
}

fn mac(id: PortId) -> MacAddr {
    MacAddr([2, 0, 0, 0, 0, id.0 as u8 + 1])
}

/// One network with these ports, their addresses known.
fn tables(generation: u64, ports: &[PortId]) -> Arc<Tables> {
    let vni = Vni::new(1).unwrap();
    let mut tables = Tables::new(1);
    tables.generation = generation;
    tables.by_vni.insert(1, NetId(0));
    let mut statics = Map::default();
    for &id in ports {
        statics.insert(mac(id), Egress::Port(id));
        tables.ports.resize(tables.ports.len().max(id.0 as usize + 1), None);
        tables.ports[id.0 as usize] = Some(Arc::new(Port {
            network: NetId(0),
            mac: mac(id),
            guard: Guard::Learning,
            v4: Vec::new(),
            v6: Vec::new(),
            mtu: 1450,
            mac_limit: 8,
        }));
    }
    let nobody: Arc<[Egress]> = Arc::new([]);
    tables.networks.push(Some(Arc::new(Network {
        id: NetId(0),
        vni,
        gateway_mac: gateway_mac(vni),
        gateways: Vec::new(),
        node: None,
        node_ips: Vec::new(),
        statics,
        neighbours: Map::default(),
        fib: Fib::default(),
        flood_from_port: nobody.clone(),
        flood_from_peer: nobody.clone(),
        unknown_from_port: nobody.clone(),
        unknown_from_peer: nobody,
        fdb_limit: 8,
        flood_unknown: false,
        ageing_ms: 0,
    })));
    Arc::new(tables)
}

/// With filters on its threads, as in production: a call that is not allowed ends all tests with SIGSYS.
fn config() -> WorkerConfig {
    let tx = UdpTx::new("127.0.0.1".parse().unwrap(), TxOptions::default());
    WorkerConfig {
        datapath: Config { fdb_capacity: 16, seed: 1 },
        rx: Vec::new(),
        tx,
        pulse: None,
        alarm: None,
        restrict: true,
        held: false,
    }
}

fn add(id: PortId, port: Pair) -> Command<Pair> {
    Command::AddPort { id, port, caps: Caps::NONE }
}

/// A running worker with two pods.
fn running() -> (WorkerHandle<Pair>, Pod, Pod) {
    let worker = start(config()).unwrap();
    let ((a, pod_a), (b, pod_b)) = (Pod::pair(), Pod::pair());
    worker.send(add(A, a)).ok().unwrap();
    worker.send(add(B, b)).ok().unwrap();
    worker.send(Command::Publish(tables(1, &[A, B]))).ok().unwrap();
    (worker, pod_a, pod_b)
}

/// Frames that port A has sent, as far as the worker has read them.
fn read_from_a(worker: &WorkerHandle<Pair>) -> u64 {
    let (tell, told) = bounded(1);
    let look = Box::new(move |i: &mut crate::engine::Inspection<'_>| {
        tell.send(i.datapath.counters.get(Egress::Port(A)).map_or(0, |c| c.received)).unwrap();
    });
    worker.send(Command::Inspect(look)).ok().unwrap();
    told.recv_timeout(LIMIT).unwrap()
}

#[test]
fn one_that_is_held_reads_nothing_and_leaves_nothing_behind() {
    let worker = start(WorkerConfig { held: true, ..config() }).unwrap();
    let ((a, pod_a), (b, pod_b)) = (Pod::pair(), Pod::pair());
    (0..3).for_each(|n| pod_a.send(A, B, n));
    worker.send(add(A, a)).ok().unwrap();
    worker.send(add(B, b)).ok().unwrap();
    worker.send(Command::Publish(tables(1, &[A, B]))).ok().unwrap();
    let mut sent = 3;
    for _ in 0..50 {
        let before = read_from_a(&worker);
        (sent..sent + 3).for_each(|n| pod_a.send(A, B, n));
        assert_eq!(read_from_a(&worker), before);
        worker.send(Command::Go).ok().unwrap();
        (before as u32..sent + 3).for_each(|n| assert_eq!(pod_b.recv(), n));
        // Read before it is held, or left for later: never neither.
        (sent + 3..sent + 6).for_each(|n| pod_a.send(A, B, n));
        worker.send(Command::Hold).ok().unwrap();
        let read = read_from_a(&worker) as u32;
        (sent + 3..read).for_each(|n| assert_eq!(pod_b.recv(), n));
        sent += 6;
    }
}

/// Sends commands of every kind that arrives while traffic flows, until told to stop.
fn disturb(worker: &WorkerHandle<Pair>, stop: &AtomicBool) -> u64 {
    let mut generation = 1;
    while !stop.load(Ordering::Relaxed) {
        generation += 1;
        worker.send(Command::Publish(tables(generation, &[A, B]))).ok().unwrap();
        let (tell, told) = bounded(1);
        let look =
            Box::new(move |i: &mut crate::engine::Inspection<'_>| tell.send(i.tables.generation).unwrap());
        worker.send(Command::Inspect(look)).ok().unwrap();
        assert_eq!(told.recv_timeout(LIMIT), Ok(generation));
    }
    generation
}

#[test]
fn a_single_frame_always_wakes_the_worker() {
    let (worker, a, b) = running();
    for disturbed in [false, true] {
        let stop = AtomicBool::new(!disturbed);
        std::thread::scope(|scope| {
            let commands = scope.spawn(|| disturb(&worker, &stop));
            for n in 0..5000 {
                a.send(A, B, n);
                assert_eq!(b.recv(), n);
                b.send(B, A, n);
                assert_eq!(a.recv(), n);
            }
            stop.store(true, Ordering::Relaxed);
            assert_eq!(commands.join().unwrap() > 1, disturbed);
        });
    }
}

#[test]
fn bursts_around_the_budget_leave_nothing_behind() {
    let (worker, a, b) = running();
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| disturb(&worker, &stop));
        for round in 0..30 {
            for burst in [1, 2, BUDGET - 1, BUDGET, BUDGET + 1, 2 * BUDGET - 1, 2 * BUDGET] {
                let numbers = || (0..burst as u32).map(|n| round << 16 | n);
                for n in numbers() {
                    a.send(A, B, n);
                    b.send(B, A, n);
                }
                for n in numbers() {
                    assert_eq!((a.recv(), b.recv()), (n, n), "burst of {burst}");
                }
            }
        }
        stop.store(true, Ordering::Relaxed);
    });
}

#[test]
fn what_a_pod_sends_before_it_is_published_waits() {
    let worker = start(config()).unwrap();
    let ((a, pod_a), (b, pod_b)) = (Pod::pair(), Pod::pair());
    (0..3).for_each(|n| pod_a.send(A, B, n));
    worker.send(add(A, a)).ok().unwrap();
    worker.send(add(B, b)).ok().unwrap();
    (3..6).for_each(|n| pod_a.send(A, B, n));
    worker.send(Command::Publish(tables(1, &[A, B]))).ok().unwrap();
    (0..6).for_each(|n| assert_eq!(pod_b.recv(), n));
}

/// A port is closed while it has more to read, and its number is given to the next one in the same turn.
#[test]
fn a_port_under_a_used_number_is_not_read_before_it_is_published() {
    let (commands, rx) = bounded(16);
    let begin = Begin { restrict: false, tell: unbounded().0 };
    let mut worker = Worker::new(config(), rx, begin).unwrap();
    let ((old, pod_old), (b, pod_b), (new, pod_new)) = (Pod::pair(), Pod::pair(), Pod::pair());
    let tell = |worker: &mut Worker<Pair>, list: Vec<Command<Pair>>| {
        list.into_iter().for_each(|command| commands.try_send(command).ok().unwrap());
        assert_eq!(worker.obey(0), Some(false));
    };
    tell(&mut worker, vec![add(A, old), add(B, b), Command::Publish(tables(1, &[A, B]))]);
    for n in 0..2 * BUDGET as u32 {
        pod_old.send(A, B, n);
    }
    worker.serve(0);
    (0..BUDGET as u32).for_each(|n| assert_eq!(pod_b.recv(), n));
    pod_new.send(A, B, 7777);
    tell(&mut worker, vec![Command::Publish(tables(2, &[B])), Command::RemovePort(A), add(A, new)]);
    worker.serve(0);
    assert_eq!(worker.engine.datapath().counters.total().drops[DropReason::NoPort as usize], 0);
    tell(&mut worker, vec![Command::Publish(tables(3, &[A, B]))]);
    worker.serve(0);
    assert_eq!(pod_b.recv(), 7777);
}

/// Tunnel frames that arrive while the daemon starts wait for the tables that know their sender.
#[test]
fn what_peers_send_before_the_first_tables_waits() {
    let here: std::net::IpAddr = "127.0.0.1".parse().unwrap();
    let socket = std::net::UdpSocket::bind((here, 0)).unwrap();
    let at = socket.local_addr().unwrap();
    let rx = tunnel::underlay::UdpRx::from_fd(socket.into(), tunnel::Encap::Vxlan).unwrap();
    let worker = start::<Pair>(WorkerConfig { rx: vec![rx], ..config() }).unwrap();
    let (b, pod_b) = Pod::pair();
    let peer = std::net::UdpSocket::bind((here, 0)).unwrap();
    let send = |n: u32| {
        let inner = build::ethernet(mac(B), mac(A), 0x88b5, &n.to_be_bytes());
        let vxlan = [&[8, 0, 0, 0, 0, 0, 1, 0][..], &inner].concat();
        peer.send_to(&vxlan, at).unwrap();
    };
    (0..3).for_each(send);
    // The worker has been awake with these in the socket.
    worker.send(add(B, b)).ok().unwrap();
    let ask = |question: fn(&mut crate::engine::Inspection<'_>) -> u64| {
        let (tell, told) = bounded(1);
        worker.send(Command::Inspect(Box::new(move |i| tell.send(question(i)).unwrap()))).ok().unwrap();
        told.recv_timeout(LIMIT).unwrap()
    };
    for _ in 0..100 {
        assert_eq!(ask(|i| i.datapath.counters.total().received), 0);
    }
    let mut first = Tables::clone(&tables(1, &[B]));
    first.by_remote.insert(here, PeerId(0));
    first.peers.push(Some(Arc::new(Peer {
        remote: here,
        port: 4789,
        encap: tunnel::Encap::Vxlan,
        checksum: true,
        router_mac: MacAddr([2, 0, 0, 0, 0, 9]),
        mtu: 1450,
        network: None,
        sources: None,
    })));
    worker.send(Command::Publish(Arc::new(first))).ok().unwrap();
    (3..6).for_each(send);
    (0..6).for_each(|n| assert_eq!(pod_b.recv(), n));
    assert_eq!(ask(|i| i.datapath.counters.total().drops.iter().sum()), 0);
}

#[path = "worker_filter_tests.rs"]
mod filtered;
