//! A batch, in which frames may repeat the ones before them, against the same frames one by one, of which none can.

use super::kit::*;
use super::random::{Damage, any_damage, any_frame, any_ingress, damaged};
use crate::datapath::{Batch, Frame, FrameRef, Ingress, Off, PortId, Postbox};
use packet::{MacAddr, VnetHdr, build};
use proptest::prelude::*;
use std::net::IpAddr;

/// All that a data path has of frames: what left by egress in order, what is known of each frame, and its state.
#[derive(Debug, PartialEq)]
struct Seen {
    left: Vec<Output>,
    frames: Vec<String>,
    state: Vec<String>,
}

fn note(batch: &Batch, out: &Postbox, left: &mut Vec<Output>, frames: &mut Vec<String>) {
    left.extend(collect(batch, out));
    // What stays in a dropped frame has no meaning.
    let posted = |n: usize| {
        let name = FrameRef::Received(n as u16);
        out.touched().iter().any(|&to| out.list(to).iter().any(|p| p.frame == name))
    };
    let known = |(n, f): (usize, &Frame)| match posted(n) {
        true => format!("{:?} {:?} {} {} {:?}", f.headers, f.vnet, f.hash, f.len, batch.bytes(f)),
        false => String::new(),
    };
    frames.extend(batch.frames.iter().enumerate().map(known));
}

/// Processes the frames in batches of `size`.
fn run(mut w: World, shots: &[(Ingress, Vec<u8>, VnetHdr)], size: usize) -> Seen {
    let (mut batch, mut out) = (Batch::new(shots.len().max(1)), Postbox::default());
    let (mut left, mut frames) = (Vec::new(), Vec::new());
    for some in shots.chunks(size) {
        batch.clear();
        out.clear();
        for (ingress, bytes, vnet) in some {
            assert!(batch.push_copy(bytes, *vnet, *ingress));
        }
        w.dp.process(&w.tables, w.now, &mut batch, &mut out, &mut Off);
        note(&batch, &out, &mut left, &mut frames);
    }
    w.conserved();
    // Egresses are served in the order of their first copy in a batch; the order that counts is that of each.
    left.sort_by_key(|left| left.to);
    let mut state: Vec<String> = w.dp.fdb().iter().map(|e| format!("{e:?}")).collect();
    state.extend(w.dp.neighbours().iter().map(|e| format!("{e:?}")));
    state.sort_unstable();
    state.push(format!("{:?}", w.dp.counters));
    Seen { left, frames, state }
}

/// Who may send from what, and gets somewhere.
fn honest() -> impl Strategy<Value = (Ingress, u32, MacAddr, IpAddr)> {
    let all = [
        (Ingress::Port(WEB), 0, WEB_MAC, "10.1.1.2"),
        (Ingress::Port(WEB), 0, WEB_MAC, "fd00:1::2"),
        (Ingress::Port(VM), 0, VM_MAC, "10.1.1.20"),
        (Ingress::Port(VM), 0, VM_MAC, "fd00:1::20"),
        (underlay(B, 0), 1, FAR_MAC, "10.1.1.30"),
        (underlay(B, 3), 1, FAR_MAC, "fd00:1::30"),
        (underlay(C, 0), 1, router_of(C), "10.1.2.9"),
        (underlay(C, 2), 1, router_of(C), "fd00:2::9"),
        // Whom a full table does not learn.
        (Ingress::Port(VM2), 0, mac(0x91), "10.1.1.21"),
        (underlay(B, 0), 1, mac(0x92), "10.1.1.31"),
    ];
    prop::sample::select(all.to_vec()).prop_map(|(ingress, vni, mac, from)| (ingress, vni, mac, ip(from)))
}

/// A frame of somebody honest, with what the network is told about it set at random.
fn likely() -> impl Strategy<Value = (Ingress, u32, Vec<u8>, VnetHdr)> {
    let macs = prop::sample::select(vec![WEB_MAC, DB_MAC, VM_MAC, VM2_MAC, FAR_MAC, gw(), own_router()]);
    let hosts = prop::sample::select(vec![
        ("10.1.1.2", "fd00:1::2"),
        ("10.1.1.3", "fd00:1::3"),
        ("10.1.2.9", "fd00:2::9"),
        ("10.1.1.20", "fd00:1::20"),
        ("10.1.1.30", "fd00:1::30"),
    ]);
    let tos = prop::sample::select(vec![0u8, 0, 0, 2, 3, 0xb8]);
    let ttl = prop::sample::select(vec![64u8, 64, 64, 1, 2, 255]);
    let ports = prop::sample::select(vec![2u16, 2, 68, 546, 4789]);
    (honest(), macs, hosts, ports, any::<bool>(), tos, ttl, 0usize..60, 0..3).prop_map(
        |((ingress, vni, mac, from), dst, (v4, v6), port, tcp, tos, ttl, size, offload)| {
            let to = ip(if from.is_ipv4() { v4 } else { v6 });
            let payload = vec![9; size];
            let (mut frame, mut vnet) = match tcp {
                _ if offload == 0 => super::route::offload_tcp(
                    (mac, dst),
                    &from.to_string(),
                    &to.to_string(),
                    size * 100,
                    1300,
                ),
                true => (
                    build::tcp((mac, dst), (from, to), (1, port), (1, 1, 0x10), &payload),
                    VnetHdr::default(),
                ),
                false => (build::udp((mac, dst), (from, to), (1, port), &payload), VnetHdr::default()),
            };
            if vni > 0 {
                // A tunnel carries no offload description.
                vnet = VnetHdr::default();
            }
            header(&mut frame, tos, ttl);
            (ingress, vni, frame, vnet)
        },
    )
}

/// Sets DSCP, ECN and TTL, and the IPv4 checksum.
fn header(frame: &mut [u8], tos: u8, ttl: u8) {
    if frame[14] >> 4 == 4 {
        (frame[15], frame[22]) = (tos, ttl);
        frame[24..26].fill(0);
        let sum = !packet::checksum::sum(&frame[14..34]);
        frame[24..26].copy_from_slice(&sum.to_be_bytes());
    } else {
        frame[14] = 0x60 | tos >> 4;
        frame[15] = tos << 4 | frame[15] & 0xf;
        frame[21] = ttl;
    }
}

/// What is done to one copy of a frame.
#[derive(Debug, Clone)]
enum Touch {
    Nothing,
    Damage(Vec<Damage>),
    /// Another IPv4 header checksum, which only routers look at.
    Checksum,
    /// The packet ends there (bytes from its transport header on), rightly said in its header.
    Shorten(usize),
    /// The packet goes on for this long, rightly said in its header: too long for most.
    Lengthen(usize),
}

fn any_touch() -> impl Strategy<Value = Touch> {
    prop_oneof![
        4 => Just(Touch::Nothing),
        1 => any_damage().prop_map(Touch::Damage),
        1 => Just(Touch::Checksum),
        2 => (0usize..30).prop_map(Touch::Shorten),
        1 => (1300usize..1500).prop_map(Touch::Lengthen),
    ]
}

fn touched(frame: &[u8], touch: &Touch) -> Vec<u8> {
    let mut frame = frame.to_vec();
    match touch {
        Touch::Nothing => {}
        Touch::Damage(damage) => frame = damaged(frame, damage),
        Touch::Checksum => frame.iter_mut().skip(24).take(1).for_each(|byte| *byte ^= 1),
        Touch::Lengthen(by) if frame.len() < 200 && frame.len() >= 54 => {
            frame.resize(frame.len() + by, 5);
            let length = (frame.len() - 14) as u16;
            if frame[12..14] == [8, 0] {
                frame[16..18].copy_from_slice(&length.to_be_bytes());
                let (tos, ttl) = (frame[15], frame[22]);
                header(&mut frame, tos, ttl);
            } else {
                frame[18..20].copy_from_slice(&(length - 40).to_be_bytes());
            }
        }
        Touch::Shorten(to) if frame.len() >= 60 && frame[12..14] == [8, 0] => {
            frame[16..18].copy_from_slice(&(20 + *to as u16).to_be_bytes());
            let (tos, ttl) = (frame[15], frame[22]);
            header(&mut frame, tos, ttl);
        }
        Touch::Shorten(to) if frame.len() >= 80 && frame[12..14] == [0x86, 0xdd] => {
            frame[18..20].copy_from_slice(&(*to as u16).to_be_bytes());
        }
        Touch::Shorten(_) | Touch::Lengthen(_) => {}
    }
    frame
}

/// Frames, each several times, some copies a little different.
fn runs() -> impl Strategy<Value = Vec<(Ingress, Vec<u8>, VnetHdr)>> {
    let wild =
        (any_ingress(), any_frame()).prop_map(|((ingress, vni), (frame, vnet))| (ingress, vni, frame, vnet));
    let first = prop_oneof![4 => likely(), 1 => wild];
    let copies = proptest::collection::vec(any_touch(), 1..6);
    let run = (first, copies).prop_map(|((ingress, vni, frame, vnet), copies): (_, Vec<Touch>)| {
        let copy = |touch: Touch| match (ingress, &touch) {
            // Damage reaches the tunnel header as well.
            (Ingress::Underlay { .. }, Touch::Damage(damage)) => {
                (ingress, damaged(vxlan(vni, &frame), damage), VnetHdr::default())
            }
            (Ingress::Underlay { .. }, _) => {
                (ingress, vxlan(vni, &touched(&frame, &touch)), VnetHdr::default())
            }
            // A header that asks for more than there is would be refused.
            (_, Touch::Shorten(_)) => (ingress, touched(&frame, &touch), VnetHdr::default()),
            _ => (ingress, touched(&frame, &touch), vnet),
        };
        copies.into_iter().map(copy).collect::<Vec<_>>()
    });
    proptest::collection::vec(run, 1..12).prop_map(|runs| runs.concat())
}

fn world(attached: bool, full: bool) -> World {
    let mut w = if attached { World::attached_with(32) } else { World::node_with(32) };
    // Most destinations are known.
    w.teach(Ingress::Port(VM), VM_MAC);
    w.teach(underlay(B, 0), FAR_MAC);
    if full {
        w.edit(BLUE, |network| network.fdb_limit = 2);
    }
    w
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 600, max_shrink_iters: 4000, ..ProptestConfig::default() })]

    #[test]
    fn a_batch_is_its_frames_one_by_one(shots in runs(), attached: bool, full: bool, size in 2usize..64) {
        let world = || world(attached, full);
        prop_assert_eq!(run(world(), &shots, size), run(world(), &shots, 1));
    }
}

/// Frames of one flow, of which this many go the short way.
fn short_ways(shots: &[(Ingress, Vec<u8>, VnetHdr)]) -> usize {
    let mut batch = Batch::new(shots.len());
    for (ingress, bytes, vnet) in shots {
        assert!(batch.push_copy(bytes, *vnet, *ingress));
    }
    (0..shots.len()).filter(|&n| crate::datapath::repeat::is_repeated(&batch, n)).count()
}

#[test]
fn flows_are_told_apart_by_all_that_decides() {
    for (ingress, vni, mac, from, to) in [
        (Ingress::Port(WEB), 0, WEB_MAC, "10.1.1.2", "10.1.1.3"),
        (Ingress::Port(WEB), 0, WEB_MAC, "fd00:1::2", "fd00:1::3"),
        (underlay(B, 0), 1, FAR_MAC, "10.1.1.30", "10.1.1.3"),
        (underlay(B, 0), 1, FAR_MAC, "fd00:1::30", "fd00:1::3"),
    ] {
        let frame = build::tcp((mac, DB_MAC), (ip(from), ip(to)), (1, 2), (1, 1, 0x10), &[7; 40]);
        let bytes = if vni > 0 { vxlan(vni, &frame) } else { frame };
        let same = |other: Vec<u8>, from: Ingress| {
            short_ways(&[(ingress, bytes.clone(), VnetHdr::default()), (from, other, VnetHdr::default())])
                == 1
        };
        assert!(same(bytes.clone(), ingress));
        let l3 = 14 + if vni > 0 { 8 } else { 0 };
        let v6 = from.contains(':');
        // Length, identification and checksum of the header, and all behind the ports.
        let free: Vec<usize> = if v6 { vec![4, 5] } else { vec![2, 3, 4, 5, 10, 11] };
        let l4 = l3 + if v6 { 40 } else { 20 };
        for at in 0..bytes.len() {
            let mut other = bytes.clone();
            other[at] ^= 0x10;
            let matters = at < l3 || at < l4 && !free.contains(&(at - l3)) || (l4..l4 + 4).contains(&at);
            assert_eq!(same(other, ingress), !matters, "byte {at} of a frame from {from}");
        }
        for from in [Ingress::Port(DB), underlay(B, 1), underlay(C, 0), Ingress::Port(PortId(9))] {
            assert!(!same(bytes.clone(), from), "{from:?}");
        }
        for len in 0..bytes.len() {
            // Ports that are not there are not compared with what an earlier frame left in the buffer.
            assert_eq!(same(bytes[..len].to_vec(), ingress), len >= l4 + 4, "{len} bytes");
        }
    }
}

#[test]
fn fragments_options_and_other_protocols_take_the_long_way() {
    let udp = build::udp((WEB_MAC, DB_MAC), (ip("10.1.1.2"), ip("10.1.1.3")), (1, 2), &[7; 40]);
    let with = |at: usize, value: u8| {
        let mut frame = udp.clone();
        frame[at] = value;
        short_ways(&[
            (Ingress::Port(WEB), frame.clone(), VnetHdr::default()),
            (Ingress::Port(WEB), frame, VnetHdr::default()),
        ])
    };
    assert_eq!(with(20, 0x40), 1, "do not fragment");
    assert_eq!((with(20, 0x20), with(21, 1)), (0, 0), "fragments");
    assert_eq!(with(14, 0x46), 0, "options");
    assert_eq!((with(23, 1), with(23, 58), with(23, 132)), (0, 0, 0), "other protocols");
    assert_eq!(with(12, 0x88), 0, "another EtherType");
}

/// Options that look like a frame are still options: what stands behind them is what is decided by.
#[test]
fn what_stands_in_geneve_options_is_no_frame() {
    let flow = |from: &str, payload: u8| {
        build::udp((router_of(C), WEB_MAC), (ip(from), ip("10.1.1.2")), (1, 2), &[payload; 22])
    };
    // The data of the one option look like a frame of a flow. Its head is in front, where the MACs would be.
    let mut options = flow("10.1.2.9", 7);
    assert_eq!(options.len() % 4, 0);
    let words = (options.len() / 4) as u8;
    options[..4].copy_from_slice(&[0, 1, 0, words - 1]);
    let header = [words, 0, 0x65, 0x58, 0, 0, 1, 0];
    let datagram = |inner: &[u8]| [&header[..], &options, inner].concat();
    let Ingress::Underlay { source, tos, .. } = underlay(C, 0) else { panic!("a tunnel") };
    let ingress = Ingress::Underlay { source, tos, encap: tunnel::Encap::Geneve };
    // Only the first comes from where this peer may send from.
    let (honest, forged) = (flow("10.1.2.9", 1), flow("10.1.1.3", 2));
    let shots = [&honest, &forged].map(|inner| (ingress, datagram(inner), VnetHdr::default()));
    let seen = run(world(false, false), &shots, 2);
    assert_eq!(seen.left.iter().map(|left| &left.bytes).collect::<Vec<_>>(), [&honest]);
    assert_eq!(seen, run(world(false, false), &shots, 1));
}
