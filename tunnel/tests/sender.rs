//! The sender over the memory twin: what arrives is what a slow sender would have sent, and every frame has
//! one outcome.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use common::*;
use packet::{Headers, VnetHdr, Vni, build, flow, tcp_flag};
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::io::{self, IoSlice};
use std::net::SocketAddr;
use tunnel::offload::{MAX_HEADER, plan};
use tunnel::underlay::memory::{MemoryRx, MemoryTx, MemoryWire};
use tunnel::underlay::{Limits, PeerAddr, RECV_BUFFER, UnderlayRx, UnderlayTx};
use tunnel::{Encap, Sender, TxDrop, TxFrame};

struct Lab {
    wire: MemoryWire,
    tx: MemoryTx,
    rx: MemoryRx,
    to: PeerAddr,
}

fn lab() -> Lab {
    let wire = MemoryWire::new();
    let b: SocketAddr = "192.0.2.2:4789".parse().unwrap();
    let rx = wire.rx(b, Encap::Vxlan);
    let tx = wire.tx("192.0.2.1:50000".parse().unwrap());
    Lab { wire, tx, rx, to: PeerAddr { id: 3, addr: b, checksum: true } }
}

fn header() -> [u8; 8] {
    Encap::Vxlan.header(Vni::new(7).unwrap())
}

fn tx_frame(bytes: &[u8], vnet: VnetHdr) -> TxFrame<'_> {
    let headers = Headers::parse(bytes).unwrap();
    let (tos, entropy) = (headers.tos(bytes), flow::hash(&headers, bytes));
    TxFrame { bytes, headers, vnet, encap: header(), tos, entropy }
}

/// All datagrams that wait, and the number of runs they came in.
fn drain(rx: &mut MemoryRx) -> (Vec<(u8, Vec<u8>)>, usize) {
    let mut buf = vec![0; RECV_BUFFER];
    let (mut out, mut runs) = (Vec::new(), 0);
    while let Ok(d) = rx.recv(&mut buf) {
        assert!(!d.truncated);
        runs += 1;
        out.extend(d.ranges().map(|r| (d.tos, buf[r].to_vec())));
    }
    (out, runs)
}

fn slow(frames: &[(Vec<u8>, VnetHdr)], max_l3: usize) -> Vec<(u8, Vec<u8>)> {
    let mut out = Vec::new();
    for (bytes, vnet) in frames {
        let h = build::parse(bytes);
        let Ok(cut) = plan(bytes, &h, vnet, max_l3) else { continue };
        let mut block = [0; MAX_HEADER];
        for k in 0..cut.pieces() {
            let p = cut.write(k, &mut block);
            out.push((h.tos(bytes), [&header()[..], &block[..p.header], &bytes[p.payload]].concat()));
        }
    }
    out
}

/// The datagrams of each flow, in order. Flows may overtake each other.
fn by_flow(list: &[(u8, Vec<u8>)]) -> BTreeMap<u32, Vec<&(u8, Vec<u8>)>> {
    let mut flows: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for datagram in list {
        let inner = &datagram.1[8..];
        flows.entry(flow::hash(&build::parse(inner), inner)).or_default().push(datagram);
    }
    flows
}

fn frames() -> impl Strategy<Value = Vec<(Vec<u8>, VnetHdr)>> {
    let one = (0u8..5, any::<bool>(), prop_oneof![Just(64usize), 1usize..3000, 20_000usize..65_000], 0u8..3)
        .prop_map(|(kind, v6, len, ecn)| {
            let data = payload(len, kind);
            let mut f = match kind {
                0 | 1 => tcp(v6, (1, 2), 3, 4, tcp_flag::ACK | tcp_flag::PSH, &data),
                _ => udp(v6, (1, 2), &data[..len.min(if kind == 4 { 100 } else { 20_000 })]),
            };
            let vnet = match kind {
                0 => offload(&mut f, 1398).1,
                2 => offload(&mut f, 1200).1,
                3 => partial(&mut f).1,
                _ => VnetHdr::default(),
            };
            if v6 && ecn > 0 {
                f[15] |= ecn << 4;
            }
            (f, vnet)
        });
    proptest::collection::vec(one, 0..40)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    #[test]
    fn equals_a_slow_sender(frames in frames(), segments in 1usize..140, lanes in 1u16..4) {
        let mut lab = lab();
        lab.tx.set_segments(segments);
        lab.tx.set_lanes(lanes);
        let mut sender = Sender::new();
        let list: Vec<_> = frames.iter().map(|(b, v)| tx_frame(b, *v)).collect();
        let report = sender.send(&mut lab.tx, &lab.to, 1450, list.len(), |i| list[i]);
        let (got, runs) = drain(&mut lab.rx);
        let wanted = slow(&frames, 1450);
        prop_assert_eq!(by_flow(&got), by_flow(&wanted));
        prop_assert_eq!(report.sends, runs as u64);
        prop_assert_eq!(report.segments, got.len() as u64);
        prop_assert_eq!(report.bytes, got.iter().map(|(_, b)| b.len() as u64).sum::<u64>());
        prop_assert_eq!(report.frames + report.dropped.total(), frames.len() as u64);
        for ((bytes, vnet), outcome) in frames.iter().zip(sender.outcomes()) {
            let error = plan(bytes, &build::parse(bytes), vnet, 1450).err();
            prop_assert_eq!(*outcome, error.map(TxDrop::from));
        }
    }
}

#[test]
fn runs_are_as_long_as_they_may_be() {
    let mut lab = lab();
    let small: Vec<_> = (0..300).map(|i| udp(false, (1, 2), &payload(64, i as u8))).collect();
    let mut sender = Sender::new();
    let none = VnetHdr::default();
    let report = sender.send(&mut lab.tx, &lab.to, 1450, 300, |i| tx_frame(&small[i], none));
    assert_eq!((report.frames, report.segments, report.sends), (300, 300, 3));
    // A full offload frame of 44 segments fits one send, one of 64 KiB takes two.
    for (len, sends) in [(44 * 1398, 1), (65_000, 2)] {
        let mut frame = tcp(false, (1, 2), 3, 4, tcp_flag::ACK, &payload(len, 1));
        let (_, vnet) = offload(&mut frame, 1398);
        let report = sender.send(&mut lab.tx, &lab.to, 1450, 1, |_| tx_frame(&frame, vnet));
        assert_eq!((report.frames, report.sends), (1, sends));
    }
}

/// Udp of three flows, each with its own sizes, one datagram each in turn.
fn mixed(rounds: u16) -> Vec<Vec<u8>> {
    let one = |round: u16, flow: u16| {
        udp(false, (flow, 7), &payload([64, 512, 1200][usize::from(flow)], round as u8))
    };
    (0..rounds).flat_map(|round| (0..3).map(move |flow| one(round, flow))).collect()
}

#[test]
fn flows_of_different_sizes_do_not_end_each_others_runs() {
    let mut lab = lab();
    let frames = mixed(20);
    let frame = |i: usize| tx_frame(&frames[i], VnetHdr::default());
    let report = Sender::new().send(&mut lab.tx, &lab.to, 1450, frames.len(), frame);
    assert_eq!((report.frames, report.sends), (60, 3));
    // With 16 lanes each flow is somewhere else, and it is the same.
    lab.tx.set_lanes(16);
    let report = Sender::new().send(&mut lab.tx, &lab.to, 1450, frames.len(), frame);
    assert_eq!((report.frames, report.sends), (60, 3));
}

#[test]
fn a_lone_smaller_packet_rides_with_a_run_that_leaves() {
    let mut lab = lab();
    let frames = [udp(false, (1, 2), &payload(900, 0)), udp(false, (3, 4), &payload(10, 0))];
    let frame = |i: usize| tx_frame(&frames[i], VnetHdr::default());
    let report = Sender::new().send(&mut lab.tx, &lab.to, 1450, 2, frame);
    assert_eq!((report.frames, report.sends), (2, 1));
    // Refused with the run it rode with, it is tried alone.
    lab.wire.set_mtu(Some(500));
    let mut sender = Sender::new();
    let report = sender.send(&mut lab.tx, &lab.to, 1450, 2, frame);
    assert_eq!((report.frames, report.sends, sender.outcomes()), (1, 1, &[Some(TxDrop::TooBig), None][..]));
}

#[test]
fn more_sizes_than_runs() {
    let mut lab = lab();
    let frames: Vec<_> =
        (0..200u16).map(|i| udp(false, (i, 1), &payload(40 + usize::from(i % 50) * 7, i as u8))).collect();
    let frame = |i: usize| tx_frame(&frames[i], VnetHdr::default());
    let report = Sender::new().send(&mut lab.tx, &lab.to, 1450, frames.len(), frame);
    assert_eq!((report.frames, report.segments), (200, 200));
    let (got, _) = drain(&mut lab.rx);
    let none: Vec<_> = frames.iter().map(|f| (f.clone(), VnetHdr::default())).collect();
    let wanted = slow(&none, 1450);
    assert_eq!(by_flow(&got), by_flow(&wanted));
}

/// Pieces of a datagram have no ports and so another hash than their flow: they stay where they are all the same.
#[test]
fn nothing_overtakes_a_fragment() {
    let mut lab = lab();
    let mut frames = mixed(4);
    let mut piece = udp(false, (1, 7), &payload(1200, 9));
    piece[20..22].copy_from_slice(&0x2000u16.to_be_bytes());
    let sum =
        packet::checksum::finish(packet::checksum::sum(&[&piece[14..24], &[0, 0], &piece[26..34]].concat()));
    piece[24..26].copy_from_slice(&sum.to_be_bytes());
    frames.insert(6, piece.clone());
    let frame = |i: usize| tx_frame(&frames[i], VnetHdr::default());
    Sender::new().send(&mut lab.tx, &lab.to, 1450, frames.len(), frame);
    let (got, _) = drain(&mut lab.rx);
    let at = got.iter().position(|(_, d)| d.ends_with(&piece)).unwrap();
    assert_eq!(at, 6, "{at}");
    assert_eq!(got.len(), 13);
}

/// An egress that takes a number of sends, refuses one for another reason, and then is full.
struct Narrow {
    sends: usize,
    refuse: usize,
    got: Vec<Vec<u8>>,
}

impl UnderlayTx for Narrow {
    fn limits(&self, _: &PeerAddr) -> Limits {
        Limits { segments: 128, bytes: 65_000, lanes: 2 }
    }

    fn send(&mut self, _: &PeerAddr, _: u8, _: u16, parts: &[IoSlice<'_>], segment: usize) -> io::Result<()> {
        if self.sends == 0 {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        self.sends -= 1;
        if self.sends == self.refuse {
            return Err(io::Error::from_raw_os_error(libc::EPERM));
        }
        let bytes: Vec<u8> = parts.iter().flat_map(|part| part.iter().copied()).collect();
        self.got.extend(bytes.chunks(segment).map(<[u8]>::to_vec));
        Ok(())
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    /// A frame is called sent when all its packets were taken, and only then; those that wait in other runs when the
    /// egress gets full are called dropped.
    #[test]
    fn outcomes_tell_what_left(frames in frames(), rounds in 0u16..30, sends in 0usize..12, refuse in 0usize..12) {
        let none = VnetHdr::default();
        let frames: Vec<_> = frames.into_iter().chain(mixed(rounds).into_iter().map(|f| (f, none))).collect();
        let mut tx = Narrow { sends, refuse, got: Vec::new() };
        let to = PeerAddr { id: 0, addr: "192.0.2.2:4789".parse().unwrap(), checksum: true };
        let mut sender = Sender::new();
        let report = sender.send(&mut tx, &to, 1450, frames.len(), |i| tx_frame(&frames[i].0, frames[i].1));
        prop_assert_eq!(report.frames + report.dropped.total(), frames.len() as u64);
        prop_assert_eq!(report.segments, tx.got.len() as u64);
        let mut left = BTreeMap::new();
        for datagram in &tx.got {
            *left.entry(&datagram[..]).or_insert(0) += 1;
        }
        // Equal packets cannot be told apart: count them.
        let mut claimed = BTreeMap::new();
        let all: Vec<_> = frames.iter().map(|f| slow(std::slice::from_ref(f), 1450)).collect();
        for (packets, outcome) in all.iter().zip(sender.outcomes()) {
            if outcome.is_none() {
                for (_, packet) in packets {
                    *claimed.entry(&packet[..]).or_insert(0) += 1;
                }
            }
        }
        for (packet, count) in &claimed {
            prop_assert!(left.get(packet).is_some_and(|n| n >= count));
        }
        // What left of frames that were dropped are pieces of offload frames.
        let whole = |i: &usize| sender.outcomes()[*i].is_some() && all[*i].len() == 1;
        for i in (0..frames.len()).filter(whole) {
            let packet = &all[i][0].1[..];
            let twins = (0..frames.len()).filter(|&k| all[k].iter().any(|(_, p)| p[..] == *packet)).count();
            prop_assert!(twins > 1 || !left.contains_key(packet), "frame {} left", i);
        }
    }
}

#[test]
fn every_drop_has_its_reason() {
    let mut lab = lab();
    let mut sender = Sender::new();
    let none = VnetHdr::default();
    let (small, large) = (udp(false, (1, 2), b"x"), udp(false, (1, 2), &payload(1400, 0)));
    let lie = VnetHdr { needs_csum: true, csum_start: 9999, ..none };
    let list =
        [tx_frame(&small, none), tx_frame(&large, none), tx_frame(&small, lie), tx_frame(&small, none)];
    sender.send(&mut lab.tx, &lab.to, 1000, 4, |i| list[i]);
    assert_eq!(sender.outcomes(), [None, Some(TxDrop::TooBig), Some(TxDrop::BadOffload), None]);

    // The underlay is smaller than was thought: a run is refused, and only that.
    lab.wire.set_mtu(Some(1000));
    let report = sender.send(&mut lab.tx, &lab.to, 1450, 4, |i| list[i]);
    assert_eq!(sender.outcomes(), [None, Some(TxDrop::TooBig), Some(TxDrop::BadOffload), None]);
    assert_eq!((report.frames, report.dropped.too_big, report.dropped.bad_offload), (2, 1, 1));

    lab.wire.set_full(true);
    let report = sender.send(&mut lab.tx, &lab.to, 1450, 4, |i| list[i]);
    assert_eq!((report.frames, report.dropped.full + report.dropped.bad_offload), (0, 4));
    assert_eq!(report.sends, 0);
}

#[test]
fn the_wire_impairs_single_datagrams() {
    let mut lab = lab();
    let mut n = 0;
    lab.wire.impair(Some(Box::new(move |packet, out| {
        n += 1;
        if n % 2 == 0 {
            out.push(packet.clone());
            out.push(packet);
        }
    })));
    let frames: Vec<_> = (0..10).map(|i| udp(false, (1, 2), &payload(64, i))).collect();
    let frame = |i: usize| tx_frame(&frames[i], VnetHdr::default());
    Sender::new().send(&mut lab.tx, &lab.to, 1450, 10, frame);
    let (got, _) = drain(&mut lab.rx);
    assert_eq!(got.len(), 10);
    assert_eq!(got[0], got[1]);
    assert!(got[0].1.ends_with(&payload(64, 1)));
    assert_eq!(lab.wire.counts(), (10, 0));
    // Nobody there: lost, and counted.
    lab.wire.impair(None);
    let nobody = PeerAddr { id: 4, addr: "192.0.2.9:4789".parse().unwrap(), checksum: true };
    let report = Sender::new().send(&mut lab.tx, &nobody, 1450, 10, frame);
    assert_eq!((report.frames, lab.wire.counts()), (10, (20, 10)));
}
