//! A switch learns and counts, is gone without a word, and the next one goes on. Both run on the real control thread
//! and the real engine, with devices in memory and time made by hand.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard};

use ctl::desired::DesiredState;
use packet::{MacAddr, build};
use proptest::prelude::*;
use tunnel::Encap;
use tunnel::underlay::memory::{MemoryRx, MemoryTx, MemoryWire, Packet};

use super::counts::{Counts, Sums};
use super::*;
use crate::control::memory_file::MemoryFile;
use crate::control::program::{Program, ProgramError};
use crate::control::testing::{FakeOpener, network, peer, port, settings};
use crate::control::{Control, Store, fs};
use crate::datapath::{Config, Counters, DropReason, Egress, PortId, STALE_MS, Tables};
use crate::engine::{Command, Engine, Filled, QUANTUM};
use crate::io::{MemoryTap, OpenedPort, PodEnd};
use crate::node::MemoryHost;

const LOCAL: &str = "192.168.77.1:4789";
const REMOTE: &str = "192.168.77.2:4789";

fn mac(n: u32) -> MacAddr {
    let [_, a, b, c] = n.to_be_bytes();
    MacAddr([2, 0, 0, a, b, c])
}

struct Rig {
    engine: Engine<MemoryTap, MemoryRx, MemoryTx>,
    ends: HashMap<PortId, PodEnd>,
    tables: Arc<Tables>,
    now: u64,
}

/// A worker without a thread: what it is told it does at once.
#[derive(Clone)]
struct Worker(Arc<Mutex<Rig>>);

impl Program for Worker {
    fn send(&self, command: Command<OpenedPort>) -> Result<(), ProgramError> {
        let mut rig = self.0.lock().unwrap();
        let now = rig.now;
        let command = match command {
            Command::AddPort { id, caps, .. } => {
                let (port, end) = MemoryTap::pair();
                rig.ends.insert(id, end);
                Command::AddPort { id, port, caps }
            }
            Command::Publish(tables) => {
                rig.tables = tables.clone();
                Command::Publish(tables)
            }
            Command::RemovePort(id) => Command::RemovePort(id),
            Command::Limit(id, limits) => Command::Limit(id, limits),
            Command::Announce(id) => Command::Announce(id),
            Command::Forget(gone) => Command::Forget(gone),
            Command::ForgetNetwork(id) => Command::ForgetNetwork(id),
            Command::Inspect(f) => Command::Inspect(f),
            Command::Hold => Command::Hold,
            Command::Go => Command::Go,
            Command::Stop => Command::Stop,
        };
        rig.engine.apply(command, now);
        Ok(())
    }
}

/// A node with its control thread.
struct Node {
    control: Control,
    worker: Worker,
    wire: MemoryWire,
}

impl Node {
    /// Starts on this state, with what is in the file.
    fn start(dir: &Path, desired: &DesiredState, memory: &MemoryFile) -> Self {
        let mut store = Store::new(Box::new(fs::RealFs::open(dir).unwrap()));
        let generation = store.load().unwrap().generation;
        store.save(desired, generation + 1).unwrap();
        let loaded = store.load().unwrap();
        let wire = MemoryWire::new();
        let local: SocketAddr = LOCAL.parse().unwrap();
        let engine = Engine::new(
            Config { fdb_capacity: 8192, seed: generation },
            vec![wire.rx(local, Encap::Vxlan)],
            wire.tx(local),
        );
        let (ends, tables) = (HashMap::new(), Arc::new(Tables::new(1)));
        let worker = Worker(Arc::new(Mutex::new(Rig { engine, ends, tables, now: 5 })));
        let control = Control::start(
            settings(),
            store,
            loaded,
            Box::new(FakeOpener::default()),
            Box::new(MemoryHost::default()),
            Box::new(worker.clone()),
            Some(memory.try_clone().unwrap()),
        );
        Self { control: control.unwrap(), worker, wire }
    }

    fn rig(&self) -> MutexGuard<'_, Rig> {
        self.worker.0.lock().unwrap()
    }

    async fn id(&self, name: &str) -> PortId {
        self.control.core().await.ids.port_id(name).unwrap()
    }

    /// A pod sends this.
    async fn send(&self, port: &str, frame: &[u8]) {
        let id = self.id(port).await;
        self.rig().ends[&id].send_frame(frame).unwrap();
        self.run();
    }

    /// It comes from the peer.
    fn peer_sends(&self, frame: &[u8]) {
        let header = Encap::Vxlan.header(packet::Vni::new(1).unwrap());
        let bytes = [&header[..], frame].concat();
        let (src, dst) = (REMOTE.parse().unwrap(), LOCAL.parse().unwrap());
        self.wire.inject(Packet { src, dst, tos: 0, segment: bytes.len(), bytes });
        self.run();
    }

    fn run(&self) {
        let mut rig = self.rig();
        let (now, ids) = (rig.now, rig.ends.keys().copied().collect::<Vec<_>>());
        for id in ids {
            while matches!(rig.engine.fill_from_port(id, &mut { QUANTUM }), Filled::Spent | Filled::Full) {
                rig.engine.flush(now);
            }
        }
        while matches!(rig.engine.fill_from_underlay(0, &mut { QUANTUM }), Filled::Spent | Filled::Full) {
            rig.engine.flush(now);
        }
        rig.engine.flush(now);
    }

    /// Time passes.
    fn wait(&self, ms: u64) {
        let mut rig = self.rig();
        rig.now += ms;
        let now = rig.now;
        rig.engine.handle_timeout(now);
    }

    /// How many frames a pod got.
    async fn got(&self, port: &str) -> usize {
        let id = self.id(port).await;
        std::iter::from_fn(|| self.rig().ends[&id].recv()).count()
    }

    async fn counters(&self, port: &str) -> Counters {
        let id = self.id(port).await;
        self.rig().engine.datapath().counters.get(Egress::Port(id)).cloned().unwrap_or_default()
    }

    fn total(&self) -> Counters {
        self.rig().engine.datapath().counters.total()
    }

    fn fdb(&self) -> usize {
        self.rig().engine.datapath().fdb().len()
    }

    /// Both sums and that of held frames.
    fn check(&self) {
        let rig = self.rig();
        let (counters, waiting) =
            (&rig.engine.datapath().counters, rig.engine.datapath().neighbours().waiting() as u64);
        assert!(counters.balanced(), "{counters:?}");
        let total = counters.total();
        assert_eq!(total.held, counters.released + counters.expired + waiting);
        assert_eq!(counters.expired, total.drops[DropReason::NeighbourFailed as usize]);
    }
}

fn learning(name: &str) -> ctl::desired::Port {
    ctl::desired::Port { learning: true, mac_limit: Some(4096), ..port(name, "pods", &[]) }
}

fn state(ports: &[&str]) -> DesiredState {
    DesiredState {
        networks: vec![network("pods", 1, &["10.1.1.0/24"])],
        ports: ports.iter().map(|name| learning(name)).collect(),
        peers: vec![peer("node-b", "192.168.77.2", &[])],
        ..DesiredState::default()
    }
}

fn bridged(from: MacAddr, to: MacAddr) -> Vec<u8> {
    build::ethernet(to, from, 0x88b5, &[0; 46])
}

fn arp(from: MacAddr, ip: &str) -> Vec<u8> {
    let gateway = "10.1.1.1".parse().unwrap();
    build::arp((from, MacAddr::BROADCAST), 1, (from, ip.parse().unwrap()), (MacAddr::ZERO, gateway))
}

const A: u32 = 0xa0;
const B: u32 = 0xb0;
const FAR: u32 = 0xf0;

/// Three ports and a peer have spoken.
async fn a_node_that_has_learned(dir: &Path, memory: &MemoryFile) -> Node {
    let node = Node::start(dir, &state(&["gone", "a", "b", "c"]), memory);
    node.send("a", &bridged(mac(A), mac(1))).await;
    node.send("b", &bridged(mac(B), mac(1))).await;
    node.send("gone", &bridged(mac(0xd0), mac(1))).await;
    node.peer_sends(&bridged(mac(FAR), mac(1)));
    node.send("b", &arp(mac(B), "10.1.1.77")).await;
    assert_eq!(node.fdb(), 4);
    assert!(node.control.keep().await);
    node
}

#[tokio::test]
async fn the_next_one_forwards_at_once_under_other_numbers() {
    let (dir, memory) = (tempfile::tempdir().unwrap(), MemoryFile::create().unwrap());
    let before = a_node_that_has_learned(dir.path(), &memory).await;
    let numbers = (before.id("a").await, before.id("b").await);
    let total = before.total();
    drop(before);
    let node = Node::start(dir.path(), &state(&["c", "b", "a"]), &memory);
    assert_ne!(numbers, (node.id("a").await, node.id("b").await));
    // Nothing behind the port that is no more.
    assert_eq!(node.fdb(), 3);
    for port in ["a", "b", "c"] {
        node.got(port).await;
    }
    node.send("c", &bridged(mac(0xc0), mac(A))).await;
    node.send("a", &bridged(mac(A), mac(B))).await;
    node.peer_sends(&bridged(mac(FAR), mac(B)));
    assert_eq!((node.got("a").await, node.got("b").await, node.got("c").await), (1, 2, 0));
    node.send("a", &bridged(mac(A), mac(FAR))).await;
    assert_eq!((node.got("b").await, node.got("c").await), (0, 0), "flooded");
    let after = node.total();
    assert_eq!((after.received, after.flooded), (total.received + 4, total.flooded));
    // The router knows its neighbour, and asks after a while.
    let routed =
        |n: u8| build::udp((mac(A), gateway(&node)), (ip("10.1.1.50"), ip("10.1.1.77")), (1, 2), &[n]);
    node.send("a", &routed(0)).await;
    assert_eq!((node.got("b").await, node.total().held), (1, 0));
    node.check();
}

fn gateway(node: &Node) -> MacAddr {
    node.rig().tables.networks[0].as_ref().unwrap().gateway_mac
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

#[tokio::test]
async fn what_is_not_seen_again_is_forgotten() {
    let (dir, memory) = (tempfile::tempdir().unwrap(), MemoryFile::create().unwrap());
    let desired = state(&["gone", "a", "b", "c"]);
    drop(a_node_that_has_learned(dir.path(), &memory).await);
    let node = Node::start(dir.path(), &desired, &memory);
    assert_eq!(node.fdb(), 4);
    let stale = |node: &Node| node.rig().engine.datapath().fdb().iter().filter(|e| e.stale.is_some()).count();
    assert_eq!(stale(&node), 4);
    node.wait(STALE_MS / 2);
    node.send("a", &bridged(mac(A), mac(1))).await;
    assert_eq!(stale(&node), 3);
    node.wait(STALE_MS / 2 + 1000);
    assert_eq!((node.fdb(), stale(&node)), (1, 0));
    node.got("a").await;
    node.send("c", &bridged(mac(0xc0), mac(A))).await;
    assert_eq!((node.got("a").await, node.fdb()), (1, 2));
}

/// Crash after crash keeps nothing alive: ages go on from where they were.
#[tokio::test]
async fn ages_go_on_over_crashes() {
    let (dir, memory) = (tempfile::tempdir().unwrap(), MemoryFile::create().unwrap());
    let mut desired = state(&["gone", "a", "b", "c"]);
    desired.networks[0].ageing_seconds = 45;
    drop(a_node_that_has_learned(dir.path(), &memory).await);
    for (round, left) in [(0, 4), (1, 3), (2, 0)] {
        let node = Node::start(dir.path(), &desired, &memory);
        assert_eq!(node.fdb(), left, "round {round}");
        node.wait(25_000);
        // A frame, so that there is something to remember; its sender is known as of now.
        node.peer_sends(&bridged(mac(FAR), mac(1)));
        node.control
            .core()
            .await
            .ask(|i| i.datapath.fdb_mut().remove(crate::datapath::NetId(0), mac(FAR)))
            .unwrap();
        assert!(node.control.keep().await);
    }
}

#[tokio::test]
async fn counters_never_go_back_and_stay_balanced() {
    let (dir, memory) = (tempfile::tempdir().unwrap(), MemoryFile::create().unwrap());
    let node = a_node_that_has_learned(dir.path(), &memory).await;
    // Frames wait for a neighbour that nobody has found yet.
    for n in 0..3 {
        let to = build::udp((mac(A), gateway(&node)), (ip("10.1.1.50"), ip("10.1.1.99")), (1, 2), &[n]);
        node.send("a", &to).await;
    }
    assert_eq!(node.rig().engine.datapath().neighbours().waiting(), 3);
    node.check();
    assert!(node.control.keep().await);
    let (mut a, mut total) = (node.counters("a").await, node.total());
    let generated = node.rig().engine.datapath().counters.generated;
    // What happened since is lost with the process, on both sides of the sums.
    node.send("c", &bridged(mac(0xc0), MacAddr::BROADCAST)).await;
    drop(node);
    let mut memory = memory;
    for ports in [&["c", "a", "b"][..], &["a"], &["b", "a"]] {
        let node = Node::start(dir.path(), &state(ports), &memory);
        node.check();
        let lost = DropReason::NeighbourFailed as usize;
        (a.drops[lost], total.drops[lost]) = (3, 3);
        let said = |c: &Counters| format!("{c:?}");
        assert_eq!(said(&node.counters("a").await), said(&a), "a port keeps its own");
        let mut now = node.total();
        now.accepted_ms = total.accepted_ms;
        assert_eq!(said(&now), said(&total), "those of ports that went are the node's");
        assert_eq!(node.rig().engine.datapath().counters.generated, generated);
        // And counts on.
        node.send("a", &bridged(mac(A), MacAddr::BROADCAST)).await;
        node.check();
        (a, total) = (node.counters("a").await, node.total());
        assert_eq!(now.received + 1, total.received);
        assert!(node.control.keep().await);
        memory = memory.try_clone().unwrap();
    }
}

#[tokio::test]
async fn quotas_hold_and_the_youngest_stay() {
    let (dir, memory) = (tempfile::tempdir().unwrap(), MemoryFile::create().unwrap());
    let node = Node::start(dir.path(), &state(&["a", "b"]), &memory);
    // More than fits one step, in several seconds.
    for n in 0..1500 {
        node.send("a", &bridged(mac(0x1_0000 + n), mac(1))).await;
        if n % 300 == 299 {
            node.wait(1000);
        }
    }
    assert_eq!(node.fdb(), 1500);
    node.control.stop().await;
    drop(node);
    let whole = Node::start(dir.path(), &state(&["b", "a"]), &memory);
    assert_eq!(whole.fdb(), 1500, "nothing is lost between two steps");
    drop(whole);
    let mut few = state(&["b", "a"]);
    few.ports[1].mac_limit = Some(10);
    let node = Node::start(dir.path(), &few, &memory);
    let id = node.id("a").await;
    let rig = node.rig();
    let fdb = rig.engine.datapath().fdb();
    assert_eq!((fdb.count(Egress::Port(id)), fdb.len()), (10, 10));
    let youngest = |mac: MacAddr| mac.as_u64() & 0xffff_ffff >= 0x1_0000 + 1200;
    assert!(fdb.iter().all(|entry| youngest(entry.mac)), "{:?}", fdb.iter().collect::<Vec<_>>());
}

#[tokio::test]
async fn other_objects_of_the_same_name_get_nothing() {
    let (dir, memory) = (tempfile::tempdir().unwrap(), MemoryFile::create().unwrap());
    let same = state(&["gone", "a", "b", "c"]);
    drop(a_node_that_has_learned(dir.path(), &memory).await);
    let mut moved = same.clone();
    moved.peers[0].remote = ip("192.168.77.3");
    assert_eq!(Node::start(dir.path(), &moved, &memory).fdb(), 3);
    let mut renumbered = same.clone();
    renumbered.networks[0].vni = packet::Vni::new(7).unwrap();
    assert_eq!(Node::start(dir.path(), &renumbered, &memory).fdb(), 0);
    let mut declared = same.clone();
    declared.ports[1] = port("a", "pods", &["10.1.1.2/24"]);
    declared.ports[2].mac = Some(mac(FAR));
    let node = Node::start(dir.path(), &declared, &memory);
    let left: Vec<MacAddr> = node.rig().engine.datapath().fdb().iter().map(|e| e.mac).collect();
    assert!(!left.contains(&mac(A)), "a declared port teaches nothing: {left:?}");
    assert_eq!(Node::start(dir.path(), &same, &memory).fdb(), 4, "a start alone changes nothing");
}

#[tokio::test]
async fn nothing_is_written_while_nothing_happens() {
    let (dir, memory) = (tempfile::tempdir().unwrap(), MemoryFile::create().unwrap());
    let node = a_node_that_has_learned(dir.path(), &memory).await;
    let content = memory.read();
    for _ in 0..3 {
        assert!(!node.control.keep().await);
    }
    assert_eq!(memory.read(), content);
    node.send("a", &bridged(mac(A), mac(B))).await;
    assert!(node.control.keep().await, "a frame was counted");
    assert!(!node.control.keep().await);
    node.rig().engine.datapath_mut().fdb_mut().remove(crate::datapath::NetId(0), mac(A));
    assert!(node.control.keep().await, "an entry went");
}

#[tokio::test]
async fn ports_that_come_and_go_are_named_as_they_are_now() {
    let (dir, memory) = (tempfile::tempdir().unwrap(), MemoryFile::create().unwrap());
    let node = a_node_that_has_learned(dir.path(), &memory).await;
    let gone = node.id("gone").await;
    let next = state(&["a", "b", "c", "new"]);
    node.control.core().await.commit(next.clone()).unwrap();
    assert_eq!(node.id("new").await, gone, "the number is used again");
    node.send("new", &bridged(mac(0xe0), mac(1))).await;
    assert!(node.control.keep().await);
    let total = node.total();
    drop(node);
    let node = Node::start(dir.path(), &next, &memory);
    assert_eq!((node.counters("new").await.received, node.total().received), (1, total.received));
    let new = node.id("new").await;
    assert_eq!(node.rig().engine.datapath().fdb().count(Egress::Port(new)), 1);
    node.check();
}

fn balanced(received: u64) -> Counts {
    let counters = Counters { received, unicast: received, ..Counters::default() };
    Counts::of(&counters, None, &crate::datapath::Neighbours::new(1))
}

fn remembered() -> Remembered {
    let entry = Entry { network: 0, place: 0, mac: mac(A).0, seen_ms: 7 };
    let place = |name: &str, remote| Place { name: name.into(), remote };
    let mut counted = Counted::new(balanced(3), Sums::default());
    counted.places = vec![(place("a", None), balanced(5))];
    Remembered {
        learned: Learned {
            networks: vec![("pods".into(), 1)],
            places: vec![place("a", None), place("node-b", Some(ip("192.168.77.2")))],
            macs: vec![entry, Entry { place: 1, ..entry }],
            neighbours: vec![(ip("fd00::1"), entry)],
        },
        counted,
    }
}

#[test]
fn what_is_written_is_read_and_nothing_else() {
    let bytes = remembered().encode().unwrap();
    assert_eq!(Remembered::decode(&bytes).unwrap(), remembered());
    assert_eq!(remembered().entries(), (2, 1));
    for cut in 0..bytes.len() {
        assert!(Remembered::decode(&bytes[..cut]).is_err(), "cut at {cut}");
    }
    let longer = [&bytes[..], &[0]].concat();
    assert!(matches!(Remembered::decode(&longer), Err(RememberError::Trailing(1))));
    let newer = [&[VERSION + 1], &bytes[1..]].concat();
    assert!(matches!(Remembered::decode(&newer), Err(RememberError::Version(_))));
}

#[test]
fn a_list_is_no_longer_than_it_may_be() {
    let entry = Entry { network: 0, place: 0, mac: [2; 6], seen_ms: 0 };
    let mut many = remembered();
    many.learned.macs = vec![entry; MAX_ENTRIES];
    assert!(Remembered::decode(&many.encode().unwrap()).is_ok());
    many.learned.macs.push(entry);
    assert!(Remembered::decode(&many.encode().unwrap()).is_err());
    // A length that nothing follows takes no memory.
    let lies = [VERSION, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1];
    assert!(Remembered::decode(&lies).is_err());
}

#[test]
fn counters_that_contradict_themselves_begin_anew() {
    let good = remembered().counted;
    assert_eq!(good.counters().unwrap().0.received, 3);
    let broken = |spoil: &dyn Fn(&mut Counted)| {
        let mut counted = good.clone();
        spoil(&mut counted);
        counted.counters().is_none()
    };
    let counted = |c: Counters| Counts::of(&c, None, &crate::datapath::Neighbours::new(1));
    assert!(broken(&|c| c.node = counted(Counters { received: 1, ..Counters::default() })));
    let huge = u64::MAX / 2;
    assert!(broken(&|c| c.node = counted(Counters { received_bytes: huge, ..Counters::default() })));
    assert!(broken(&|c| c.places.push((c.places[0].0.clone(), balanced(u64::MAX / 4)))));
    assert!(broken(&|c| c.node = counted(Counters { send_drops: 1, ..Counters::default() })));
    let mut failed = Counters { received: 1, ..Counters::default() };
    failed.drops[DropReason::NeighbourFailed as usize] = 1;
    assert!(broken(&|c| c.node = counted(failed.clone())), "failed, but never held");
    // A reason that this program does not know.
    let mut dropped = Counters { received: 1, ..Counters::default() };
    dropped.drops[DropReason::NoPort as usize] = 1;
    assert!(!broken(&|c| c.node = counted(dropped.clone())));
    assert!(broken(&|c| {
        c.node = counted(dropped.clone());
        c.reasons[DropReason::NoPort as usize] = "no-such-reason".into();
    }));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, ..ProptestConfig::default() })]

    #[test]
    fn any_bytes_are_read_or_refused(mut bytes in proptest::collection::vec(any::<u8>(), 0..400), ours: bool) {
        if let (true, Some(first)) = (ours, bytes.first_mut()) {
            *first = VERSION;
        }
        if let Ok(remembered) = Remembered::decode(&bytes) {
            let again = Remembered::decode(&remembered.encode().unwrap()).unwrap();
            prop_assert_eq!(again, remembered);
        }
    }

    /// One byte of a real content is another.
    #[test]
    fn a_spoilt_content_is_read_or_refused(at in 0usize..10_000, byte: u8) {
        let mut bytes = remembered().encode().unwrap();
        let at = at % bytes.len();
        bytes[at] = byte;
        if let Ok(remembered) = Remembered::decode(&bytes) {
            let _ = remembered.counted.counters();
        }
    }
}
