//! `process`: a whole life of a data path — frames from ports, datagrams from peers and strangers, time that
//! passes, tables that change — and after every batch the invariants that hold for all of them:
//!
//! - one verdict per frame, and as many copies as the verdict says, none of them back to where it came from,
//!   none from peer to peer, none out of its network, none to somebody who is not there;
//! - `in = out + drops`, `posted = sent + transmit drops`, `held = released + expired + waiting`;
//! - no declared port's frame leaves with a source that is not the port's, none of a bounded peer's either;
//! - tables stay within their bounds, group and declared addresses are never learned, timers always progress;
//! - what is sent fits its path, parses, and is something the receiver can make sense of.
//!
//! Input: operations of one byte and their operands, see `Op::read`.

use super::check::{self, CheckedTx};
use super::headers;
use super::tables::{self, GONE, REMOTES};
use crate::input::Input;
use packet::{Headers, Net, VnetHdr, Vni, checksum, ip_proto, read_v4};
use std::cell::RefCell;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use switch::datapath::{
    Batch, Config, CounterTable, Datapath, DropReason, Egress, FrameRef, Guard, Ingress, NetId, Network, Off,
    Origin, Port, Postbox, Posted, Recording, Tables, Verdict,
};
use tunnel::offload::{Caps, GroFrame, Merger, Output};
use tunnel::underlay::PeerAddr;
use tunnel::{Encap, Sender, TxFrame};

const FDB_CAPACITY: usize = 16;
const BUFFERS: usize = 24;
const MAX_OPS: usize = 96;
const STEPS: [u64; 8] = [1, 50, 1000, 3000, 11_000, 31_000, 91_000, 301_000];
/// Between two inputs: long enough that no timer, bucket or age of the last one matters.
const ERA: u64 = 10_000_000;

/// Kept between inputs because it is large; emptied after each.
struct Bench {
    datapath: Datapath,
    tables: [Arc<Tables>; 2],
    batch: Batch,
    out: Postbox,
    /// Frames of the batch repeat others.
    repeats: bool,
    twin: (Batch, Postbox),
    merger: Merger,
    sender: Sender,
    tx: CheckedTx,
    raw: Vec<u8>,
    remotes: [IpAddr; 4],
    now: u64,
}

thread_local! {
    static BENCH: RefCell<Option<Bench>> = const { RefCell::new(None) };
}

impl Bench {
    fn new() -> Self {
        Self {
            datapath: Datapath::new(Config { fdb_capacity: FDB_CAPACITY, seed: 11 }),
            tables: tables::both(),
            batch: Batch::new(BUFFERS),
            out: Postbox::default(),
            repeats: false,
            twin: (Batch::new(BUFFERS), Postbox::default()),
            merger: Merger::new(),
            sender: Sender::new(),
            tx: CheckedTx::new(),
            raw: Vec::new(),
            remotes: REMOTES.map(|r| r.parse().expect("an address of ours")),
            now: 0,
        }
    }
}

enum Op<'a> {
    /// A frame, with its virtio-net header.
    Frame(Ingress, VnetHdr, &'a [u8]),
    /// A frame whose virtio-net header is refused before the data path sees it.
    BadVnet,
    Time(u64),
    Process,
    Swap,
    /// The frame before once more, with one byte changed.
    Again(usize, u8),
}

impl<'a> Op<'a> {
    fn read(input: &mut Input<'a>, remotes: &[IpAddr; 4]) -> Option<Self> {
        let op = input.next()?;
        let body = |input: &mut Input<'a>| {
            let len = usize::from(input.word());
            input.take(len)
        };
        let port = Ingress::Port(switch::datapath::PortId(u32::from(op & 7)));
        Some(match op {
            0..=0x3f => {
                let head = input.take(packet::VNET_HDR_LEN);
                let frame = body(input);
                match VnetHdr::parse(head) {
                    Ok(vnet) => Self::Frame(port, vnet, frame),
                    Err(_) => Self::BadVnet,
                }
            }
            0x40..=0x7f => Self::Frame(port, VnetHdr::default(), body(input)),
            0x80..=0xbf => {
                let encap = if op & 4 == 0 { Encap::Vxlan } else { Encap::Geneve };
                let source = remotes[usize::from(op & 3)];
                let tos = input.byte();
                let ingress = Ingress::Underlay { source, tos, encap };
                Self::Frame(ingress, VnetHdr::default(), body(input))
            }
            0xc0..=0xdf => {
                let peer = switch::datapath::PeerId(u32::from(op & 3));
                let ingress = Ingress::Peer { peer, vni: u32::from(input.byte() & 3) };
                Self::Frame(ingress, VnetHdr::default(), body(input))
            }
            0xe0..=0xef => Self::Time(STEPS[usize::from(op & 7)]),
            0xf0..=0xf7 => Self::Process,
            0xf8..=0xfe => Self::Swap,
            0xff => Self::Again(usize::from(input.byte()), input.byte()),
        })
    }
}

/// All copies by egress, and the counters.
type Gone = (Vec<(Egress, u32, Vec<u8>, VnetHdr)>, String);

fn gone(batch: &Batch, out: &Postbox, datapath: &Datapath) -> Gone {
    let copies = out.touched().iter().flat_map(|&to| out.list(to).iter().map(move |copy| (to, copy)));
    let bytes = |copy: &Posted| match copy.frame {
        FrameRef::Received(n) => {
            let frame = &batch.frames[usize::from(n)];
            (batch.bytes(frame).to_vec(), frame.vnet)
        }
        FrameRef::Generated(n) => (out.generated.get(n).bytes.clone(), out.generated.get(n).vnet),
    };
    let copies = copies.map(|(to, copy)| {
        let (bytes, vnet) = bytes(copy);
        (to, copy.vni, bytes, vnet)
    });
    (copies.collect(), format!("{:?}", datapath.counters))
}

pub fn run(data: &[u8]) -> u64 {
    // Taken out, so that a panic leaves nothing half-done behind for the next input.
    let mut bench = BENCH.with(|b| b.borrow_mut().take()).unwrap_or_else(Bench::new);
    let signature = bench.live(data);
    BENCH.with(|b| *b.borrow_mut() = Some(bench));
    signature
}

impl Bench {
    fn live(&mut self, data: &[u8]) -> u64 {
        let mut input = Input(data);
        let mut which = 0;
        let mut signature = 0;
        for _ in 0..MAX_OPS {
            let Some(op) = Op::read(&mut input, &self.remotes) else { break };
            match op {
                Op::Frame(ingress, vnet, frame) => {
                    if self.batch.is_full() {
                        self.process(which, &mut signature);
                    }
                    assert!(self.batch.push_copy(frame, vnet, ingress));
                }
                Op::Again(at, change) => {
                    if self.batch.is_full() {
                        self.process(which, &mut signature);
                    }
                    if let Some(&last) = self.batch.frames.last() {
                        let mut bytes = self.batch.bytes(&last).to_vec();
                        bytes.iter_mut().skip(at).take(1).for_each(|byte| *byte ^= change);
                        assert!(self.batch.push_copy(&bytes, last.vnet, last.ingress));
                        self.repeats = true;
                    }
                }
                Op::BadVnet => signature |= 1,
                Op::Process => self.process(which, &mut signature),
                Op::Time(ms) => {
                    self.process(which, &mut signature);
                    self.now += ms;
                    self.time(which);
                }
                Op::Swap => {
                    self.process(which, &mut signature);
                    which ^= 1;
                    if which == 1 {
                        GONE.iter().for_each(|&gone| self.datapath.forget(gone, self.now));
                    }
                    self.state(which);
                }
            }
        }
        self.process(which, &mut signature);
        // Everything that waits is answered or given up within four seconds.
        for _ in 0..5 {
            self.now += 1000;
            self.time(which);
        }
        assert_eq!(self.datapath.neighbours().waiting(), 0);
        self.reset();
        signature
    }

    fn reset(&mut self) {
        self.datapath.fdb_mut().flush(|_| true);
        (0..2).for_each(|n| self.datapath.forget_network(NetId(n)));
        assert!(self.datapath.fdb().is_empty() && self.datapath.neighbours().iter().next().is_none());
        assert!(self.datapath.poll_timeout().is_none());
        self.datapath.counters = CounterTable::default();
        self.now += ERA;
        self.datapath.handle_timeout(&self.tables[0], self.now, &mut self.out);
        assert!(self.out.touched().is_empty());
    }

    fn time(&mut self, which: usize) {
        let tables = self.tables[which].clone();
        self.datapath.handle_timeout(&tables, self.now, &mut self.out);
        assert!(
            self.datapath.poll_timeout().is_none_or(|due| due > self.now),
            "a timer that does not progress"
        );
        self.transmit(&tables);
        self.out.clear();
        self.state(which);
    }

    fn process(&mut self, which: usize, signature: &mut u64) {
        if self.batch.frames.is_empty() {
            return;
        }
        let tables = self.tables[which].clone();
        let short = std::mem::take(&mut self.repeats).then(|| self.unrecorded(&tables));
        let mut recording = Recording::default();
        let posted = self.datapath.counters.posted;
        self.datapath.process(&tables, self.now, &mut self.batch, &mut self.out, &mut recording);
        assert_eq!(recording.verdicts.len(), self.batch.frames.len(), "one verdict per frame");
        if let Some(short) = short {
            assert_eq!(
                short,
                gone(&self.batch, &self.out, &self.datapath),
                "repeated frames went another way"
            );
        }
        let mut copies = vec![Vec::new(); self.batch.frames.len()];
        let mut total = 0;
        for &egress in self.out.touched() {
            assert!(tables.exists(egress), "{egress:?} is not there");
            for copy in self.out.list(egress) {
                total += 1;
                self.copy(&tables, egress, copy);
                if let FrameRef::Received(n) = copy.frame {
                    copies[usize::from(n)].push(egress);
                }
            }
        }
        assert_eq!(self.datapath.counters.posted - posted, total);
        assert_eq!(self.out.copies, total);
        for (n, (&verdict, to)) in recording.verdicts.iter().zip(&copies).enumerate() {
            let frame = self.batch.frames[n];
            let origin = origin(&tables, frame.ingress);
            *signature |= match verdict {
                Verdict::Drop(reason) => 1 << 10 << (reason as u64),
                Verdict::Unicast(egress) => 2 << u64::from(matches!(egress, Egress::Peer(_))),
                Verdict::Flood(_) => 8,
                Verdict::Reply => 16,
                Verdict::Consumed => 32,
                Verdict::Held => 64,
            };
            agrees(verdict, origin, to);
            if matches!(verdict, Verdict::Unicast(_) | Verdict::Flood(_)) && !to.is_empty() {
                let bytes = self.batch.bytes(&frame);
                headers::check(bytes, &frame.headers);
                assert_eq!(Headers::parse(bytes), Ok(frame.headers), "the headers of what leaves");
                source(&tables, frame.ingress, bytes, &frame.headers);
            }
        }
        self.transmit(&tables);
        self.out.clear();
        self.batch.clear();
        self.state(which);
    }

    /// What becomes of the batch when nobody listens: then frames that repeat others take a shorter way.
    fn unrecorded(&mut self, tables: &Tables) -> Gone {
        let (batch, out) = &mut self.twin;
        batch.clear();
        out.clear();
        for frame in &self.batch.frames {
            assert!(batch.push_copy(self.batch.bytes(frame), frame.vnet, frame.ingress));
        }
        let mut datapath = self.datapath.clone();
        datapath.process(tables, self.now, batch, out, &mut Off);
        gone(batch, out, &datapath)
    }

    /// One posted copy: in its network, and if we made it, with right checksums.
    fn copy(&self, tables: &Tables, egress: Egress, copy: &Posted) {
        let network = tables.by_vni.get(&copy.vni).and_then(|id| tables.network(*id)).expect("a VNI of ours");
        if let Egress::Port(id) = egress {
            let port = tables.port(id).expect("it exists");
            assert_eq!(port.network, network.id, "a frame left its network");
        }
        if let FrameRef::Generated(n) = copy.frame {
            let own = self.out.generated.get(n);
            assert_eq!(Headers::parse(&own.bytes), Ok(own.headers));
            let v4 = own.headers.net == Net::V4;
            assert!(!v4 || checksum::verify_ipv4_header(&own.bytes[Headers::L3..]), "IPv4 checksum");
        }
    }

    /// Sends what was posted, as the engine does, and books it.
    fn transmit(&mut self, tables: &Tables) {
        let Self { datapath, batch, out, merger, sender, tx, raw, .. } = self;
        for &egress in out.touched() {
            let list = out.list(egress);
            let frame = |i: usize| match list[i].frame {
                FrameRef::Received(n) => {
                    let frame = &batch.frames[usize::from(n)];
                    GroFrame { bytes: batch.bytes(frame), headers: frame.headers, vnet: frame.vnet }
                }
                FrameRef::Generated(n) => {
                    let own = out.generated.get(n);
                    GroFrame { bytes: &own.bytes, headers: own.headers, vnet: own.vnet }
                }
            };
            let counters = datapath.counters.of(egress);
            match egress {
                Egress::Port(id) => {
                    let caps = [Caps::ALL, Caps::NONE, Caps { uso: false, ..Caps::ALL }][id.0 as usize % 3];
                    let mtu = tables.port(id).expect("it exists").mtu as usize;
                    merger.run(list.len(), frame, caps, mtu, |output| match output {
                        Output::Write { parts, members, last } => {
                            check::port_write(parts, caps, raw);
                            counters.sent += if last { members.len() as u64 } else { 0 };
                        }
                        Output::Refused { .. } => counters.send_drop(DropReason::TxOffload, 1),
                    });
                }
                Egress::Peer(id) => {
                    let peer = tables.peer(id).expect("it exists");
                    (tx.mtu, tx.encap) = (peer.mtu as usize, peer.encap);
                    let addr = SocketAddr::new(peer.remote, peer.port);
                    let to = PeerAddr { id: id.0, addr, checksum: peer.checksum };
                    // Some frames of one flow, some of others.
                    let frames = |i: usize| {
                        let GroFrame { bytes, headers, vnet } = frame(i);
                        let encap = peer.encap.header(Vni::new(list[i].vni).expect("a VNI of ours"));
                        TxFrame {
                            bytes,
                            headers,
                            vnet,
                            encap,
                            tos: headers.tos(bytes),
                            entropy: i as u32 % 5,
                        }
                    };
                    let report = sender.send(tx, &to, tx.mtu, list.len(), frames);
                    counters.sent += report.frames;
                    let lost = sender.outcomes().iter().flatten().count() as u64;
                    assert_eq!(report.frames + lost, list.len() as u64);
                    assert_eq!(report.dropped.total(), lost);
                    counters.send_drop(DropReason::TxOversize, lost);
                }
            }
        }
    }

    /// What holds between batches.
    fn state(&self, which: usize) {
        let (datapath, tables) = (&self.datapath, &self.tables[which]);
        let (counters, neighbours) = (&datapath.counters, datapath.neighbours());
        assert!(counters.balanced(), "{:?}", counters.total());
        let held = counters.total().held;
        assert_eq!(held, counters.released + counters.expired + neighbours.waiting() as u64, "held frames");
        assert!(datapath.fdb().len() <= FDB_CAPACITY);
        let mut listed = 0;
        for entry in datapath.fdb().iter() {
            listed += 1;
            assert!(entry.mac.is_unicast() && tables.exists(entry.egress), "{entry:?}");
            let network = tables.network(entry.network).expect("it exists");
            assert_eq!(datapath.fdb().lookup(entry.network, entry.mac), Some(entry.egress));
            assert!(entry.mac != network.gateway_mac && entry.mac != tables.node.router_mac);
            if let Egress::Port(id) = entry.egress {
                let port = tables.port(id).expect("it exists");
                assert_eq!((port.guard, port.network), (Guard::Learning, entry.network));
                assert!(datapath.fdb().count(entry.egress) <= port.mac_limit);
            }
        }
        assert_eq!(listed, datapath.fdb().len());
        for entry in neighbours.iter() {
            let network = tables.network(entry.network).expect("it exists");
            assert!(!network.neighbours.contains_key(&entry.ip) || which == 0, "{entry:?}");
            assert!(entry.mac.is_none_or(|mac| mac.is_unicast()));
            assert!(entry.waiting <= 4);
        }
    }
}

/// Where a frame really came from, by the tables.
fn origin(tables: &Tables, ingress: Ingress) -> Option<Origin> {
    match ingress {
        Ingress::Port(id) => tables.port(id).map(|_| Egress::Port(id)),
        Ingress::Underlay { source, .. } => tables.by_remote.get(&source).map(|&id| Egress::Peer(id)),
        Ingress::Peer { peer, .. } => tables.peer(peer).map(|_| Egress::Peer(peer)),
    }
}

/// As many copies of the frame itself as its verdict says, and none where it must not go.
fn agrees(verdict: Verdict, origin: Option<Origin>, to: &[Egress]) {
    match verdict {
        Verdict::Unicast(egress) => assert_eq!(to, [egress]),
        Verdict::Flood(copies) => {
            assert_eq!(to.len(), copies as usize);
            let mut sorted = to.to_vec();
            sorted.sort();
            sorted.dedup();
            assert_eq!(sorted.len(), to.len(), "two copies to one egress");
            assert!(!to.iter().any(|&e| Some(e) == origin), "flooded back");
        }
        Verdict::Reply => assert!(to.is_empty() || (to.len() == 1 && Some(to[0]) == origin)),
        Verdict::Consumed | Verdict::Held | Verdict::Drop(_) => {
            assert!(to.is_empty(), "{verdict:?} and {to:?}")
        }
    }
    if matches!(origin, Some(Egress::Peer(_))) && verdict != Verdict::Reply {
        assert!(!to.iter().any(|e| matches!(e, Egress::Peer(_))), "from peer to peer");
    }
}

/// The source of a forwarded frame belongs to whoever sent it.
fn source(tables: &Tables, ingress: Ingress, bytes: &[u8], h: &Headers) {
    let src_mac = Headers::src_mac(bytes);
    assert!(src_mac.is_unicast());
    assert!(!Headers::dst_mac(bytes).is_link_local_control());
    if let Ingress::Port(id) = ingress {
        let port = tables.port(id).expect("it has forwarded");
        let network = tables.network(port.network).expect("it has forwarded");
        if port.guard == Guard::Declared {
            declared(tables, network, port, bytes, h);
        }
    }
    let Some(Egress::Peer(id)) = origin(tables, ingress) else { return };
    let Some(sources) = &tables.peer(id).expect("it has forwarded").sources else { return };
    // Every node has the gateway's address; what it says beyond its own pods are ICMP errors.
    let kind = (h.l4 != 0).then(|| bytes[usize::from(h.l4)]);
    let gateway = |src: IpAddr| {
        let says = match h.proto {
            ip_proto::ICMP => matches!(kind, Some(3 | 11 | 12)),
            ip_proto::ICMPV6 => matches!(kind, Some(1..=4)),
            _ => false,
        };
        says && tables.networks.iter().flatten().any(|n| n.is_gateway_ip(src))
    };
    match (h.net, h.src_ip(bytes)) {
        (Net::Arp, _) => {
            let sender = read_v4(bytes, Headers::L3 + 14);
            assert!(sender.is_unspecified() || sources.contains(sender.into()));
        }
        (_, Some(IpAddr::V6(src))) if h.proto == ip_proto::ICMPV6 => {
            let own = src.is_unspecified() || src.is_unicast_link_local() || sources.contains(src.into());
            assert!(own || gateway(src.into()), "{src} is not that peer's");
        }
        (_, Some(src)) => assert!(sources.contains(src) || gateway(src), "{src} is not that peer's"),
        (_, None) => panic!("neither ARP nor IP from a bounded peer"),
    }
}

fn declared(tables: &Tables, network: &Network, port: &Port, bytes: &[u8], h: &Headers) {
    let src = Headers::src_mac(bytes);
    assert!([port.mac, network.gateway_mac, tables.node.router_mac].contains(&src), "{src} spoofed");
    match (h.net, h.src_ip(bytes)) {
        (Net::Arp, _) => {
            let sender = read_v4(bytes, Headers::L3 + 14);
            assert!(sender.is_unspecified() || port.v4.contains(&sender), "{sender} spoofed in ARP");
        }
        (_, Some(IpAddr::V4(ip))) => assert!(port.v4.contains(&ip), "{ip} spoofed"),
        (_, Some(IpAddr::V6(ip))) => {
            assert!(
                port.v6.contains(&ip) || (ip.is_unspecified() && h.proto == ip_proto::ICMPV6),
                "{ip} spoofed"
            );
            let at = usize::from(h.l4);
            if h.proto == ip_proto::ICMPV6 && at != 0 && at < h.end as usize {
                assert!(!matches!(bytes[at], 134 | 137), "router advertisement or redirect");
            }
        }
        (_, None) => panic!("neither ARP nor IP from a declared port"),
    }
}
