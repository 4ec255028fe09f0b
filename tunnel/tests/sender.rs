//! The sender over the memory twin: what arrives is what a slow sender would have sent, and every frame has
//! one outcome.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use common::*;
use packet::{Headers, VnetHdr, Vni, build, flow, tcp_flag};
use proptest::prelude::*;
use std::net::SocketAddr;
use tunnel::offload::{MAX_HEADER, plan};
use tunnel::underlay::memory::{MemoryRx, MemoryTx, MemoryWire};
use tunnel::underlay::{PeerAddr, RECV_BUFFER, UnderlayRx};
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
        let list = frames.iter().map(|(b, v)| tx_frame(b, *v));
        let report = sender.send(&mut lab.tx, &lab.to, 1450, list);
        let (got, runs) = drain(&mut lab.rx);
        prop_assert_eq!(&got, &slow(&frames, 1450));
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
    let report = sender.send(&mut lab.tx, &lab.to, 1450, small.iter().map(|b| tx_frame(b, none)));
    assert_eq!((report.frames, report.segments, report.sends), (300, 300, 3));
    // A full offload frame of 44 segments fits one send, one of 64 KiB takes two.
    for (len, sends) in [(44 * 1398, 1), (65_000, 2)] {
        let mut frame = tcp(false, (1, 2), 3, 4, tcp_flag::ACK, &payload(len, 1));
        let (_, vnet) = offload(&mut frame, 1398);
        let report = sender.send(&mut lab.tx, &lab.to, 1450, [tx_frame(&frame, vnet)]);
        assert_eq!((report.frames, report.sends), (1, sends));
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
    sender.send(&mut lab.tx, &lab.to, 1000, list);
    assert_eq!(sender.outcomes(), [None, Some(TxDrop::TooBig), Some(TxDrop::BadOffload), None]);

    // The underlay is smaller than was thought: a run is refused, and only that.
    lab.wire.set_mtu(Some(1000));
    let report = sender.send(&mut lab.tx, &lab.to, 1450, list);
    assert_eq!(sender.outcomes(), [None, Some(TxDrop::TooBig), Some(TxDrop::BadOffload), None]);
    assert_eq!((report.frames, report.dropped.too_big, report.dropped.bad_offload), (2, 1, 1));

    lab.wire.set_full(true);
    let report = sender.send(&mut lab.tx, &lab.to, 1450, list);
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
    Sender::new().send(&mut lab.tx, &lab.to, 1450, frames.iter().map(|b| tx_frame(b, VnetHdr::default())));
    let (got, _) = drain(&mut lab.rx);
    assert_eq!(got.len(), 10);
    assert_eq!(got[0], got[1]);
    assert!(got[0].1.ends_with(&payload(64, 1)));
    assert_eq!(lab.wire.counts(), (10, 0));
    // Nobody there: lost, and counted.
    lab.wire.impair(None);
    let nobody = PeerAddr { id: 4, addr: "192.0.2.9:4789".parse().unwrap(), checksum: true };
    let report = Sender::new().send(
        &mut lab.tx,
        &nobody,
        1450,
        frames.iter().map(|b| tx_frame(b, VnetHdr::default())),
    );
    assert_eq!((report.frames, lab.wire.counts()), (10, (20, 10)));
}
