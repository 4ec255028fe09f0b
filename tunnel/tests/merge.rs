//! The merge against a model of what a receiver sees: cutting what was merged gives what came in, in order.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use common::*;
use packet::{Fragment, GsoType, Headers, VNET_HDR_LEN, VnetHdr, build, checksum, ip_proto, tcp_flag};
use proptest::prelude::*;
use tunnel::offload::{
    Caps, CutError, GroFrame, MAX_HEADER, MAX_MERGED, MAX_OPEN, Merger, Output, ingest, plan,
};

const ACK: u8 = tcp_flag::ACK;

struct Written {
    vnet: VnetHdr,
    frame: Vec<u8>,
    members: Vec<usize>,
    last: bool,
}

type In = (Vec<u8>, VnetHdr);

fn run_with(
    merger: &mut Merger,
    frames: &[In],
    caps: Caps,
    mtu: usize,
) -> (Vec<Written>, Vec<(usize, CutError)>) {
    let headers: Vec<_> = frames.iter().map(|f| Headers::parse(&f.0).unwrap()).collect();
    let (mut out, mut refused) = (Vec::new(), Vec::new());
    let get = |i: usize| GroFrame { bytes: &frames[i].0, headers: headers[i], vnet: frames[i].1 };
    merger.run(frames.len(), get, caps, mtu, |o| match o {
        Output::Write { parts, members, last } => {
            let bytes = parts.iter().flat_map(|p| p.to_vec()).collect::<Vec<_>>();
            let members = members.iter().map(|&m| m as usize).collect();
            let vnet = VnetHdr::parse(&bytes).unwrap();
            out.push(Written { vnet, frame: bytes[VNET_HDR_LEN..].to_vec(), members, last });
        }
        Output::Refused { member, error } => refused.push((member as usize, error)),
    });
    (out, refused)
}

fn run(frames: &[In], caps: Caps) -> Vec<Written> {
    let (out, refused) = run_with(&mut Merger::new(), frames, caps, 1500);
    assert!(refused.is_empty(), "{refused:?}");
    out
}

fn plain(frame: Vec<u8>) -> In {
    (frame, VnetHdr::default())
}

/// The packets that a frame stands for.
fn packets(frame: &[u8], vnet: &VnetHdr) -> Vec<Vec<u8>> {
    let h = Headers::parse(frame).unwrap();
    let cut = plan(frame, &h, vnet, 65_535).unwrap();
    let mut block = [0; MAX_HEADER];
    (0..cut.pieces())
        .map(|k| {
            let piece = cut.write(k, &mut block);
            [&block[..piece.header], &frame[piece.payload]].concat()
        })
        .collect()
}

/// Without padding and, under DF, without the identification: what a receiver can tell apart. Both zeros of
/// one's complement arithmetic are one.
fn visible(frame: &[u8]) -> Vec<u8> {
    let h = Headers::parse(frame).unwrap();
    let mut f = frame[..h.end as usize].to_vec();
    if f[12..14] == [8, 0] && f[20] & 0x40 != 0 {
        f[18..20].fill(0);
        f[24..26].fill(0);
    }
    if h.proto == ip_proto::TCP && h.l4 != 0 {
        let at = usize::from(h.l4) + 16;
        if f[at..at + 2] == [0xff; 2] {
            f[at..at + 2].fill(0);
        }
    }
    f
}

fn flow(frame: &[u8]) -> Option<(u8, u16, u16)> {
    let h = Headers::parse(frame).unwrap();
    (h.l4 != 0 && h.fragment == Fragment::Whole).then_some((h.proto, h.sport, h.dport))
}

fn judge(frames: &[In], written: &[Written]) {
    // Every frame once.
    let mut all: Vec<_> = written.iter().filter(|w| w.last).flat_map(|w| w.members.clone()).collect();
    all.sort_unstable();
    assert_eq!(all, (0..frames.len()).collect::<Vec<_>>());
    // No flow reordered, and no write mixes flows.
    let mut seen: std::collections::BTreeMap<_, usize> = Default::default();
    for w in written {
        for &m in &w.members {
            let key = flow(&frames[m].0);
            assert_eq!(key, flow(&frames[w.members[0]].0));
            if key.is_some() {
                assert!(seen.insert(key, m).is_none_or(|before| before <= m), "flow reordered");
            }
        }
    }
    for w in written.iter().filter(|w| w.members.len() > 1) {
        assert!(w.vnet.needs_csum && w.vnet.gso_size > 0 && w.members.len() <= MAX_MERGED);
        let h = build::parse(&w.frame);
        assert_eq!((w.vnet.hdr_len, w.vnet.csum_start, h.end as usize), (h.payload, h.l4, w.frame.len()));
        assert_eq!(checksum::l4_state(&h, &w.frame), checksum::L4Checksum::Partial);
        assert!(h.net == packet::Net::V6 || checksum::verify_ipv4_header(&w.frame[14..]));
        let got = packets(&w.frame, &w.vnet);
        assert_eq!(got.len(), w.members.len());
        for (packet, &m) in got.iter().zip(&w.members) {
            assert_complete(packet);
            let original = &packets(&frames[m].0, &frames[m].1)[0];
            assert!(visible(packet) == visible(original), "not what was sent");
        }
    }
    for w in written.iter().filter(|w| w.members.len() == 1 && w.last) {
        let (bytes, vnet) = &frames[w.members[0]];
        if w.vnet.needs_csum == vnet.needs_csum {
            assert!(w.frame == *bytes, "a frame that goes alone is not touched");
        } else {
            assert!(w.frame == packets(bytes, vnet)[0], "completed");
        }
    }
}

#[derive(Clone, Debug)]
struct Step {
    flow: u16,
    udp: bool,
    len: usize,
    change: u8,
    partial: bool,
    id_gap: bool,
}

fn step() -> impl Strategy<Value = Step> {
    let len = prop_oneof![4 => Just(500usize), 1 => 0usize..700];
    let change = prop_oneof![6 => Just(0u8), 4 => 1u8..18];
    (0u16..3, any::<bool>(), len, change, any::<bool>(), prop::bool::weighted(0.1)).prop_map(
        |(flow, udp, len, change, partial, id_gap)| Step { flow, udp, len, change, partial, id_gap },
    )
}

/// Refreshes checksums after an edit.
fn repair(frame: &mut [u8], v6: bool) {
    let h = Headers::parse(frame).unwrap();
    if !v6 {
        frame[24..26].fill(0);
        let field = checksum::finish(checksum::sum(&frame[14..34]));
        frame[24..26].copy_from_slice(&field.to_be_bytes());
    }
    let (Some(at), true) = (checksum::field_offset(h.proto), h.l4 != 0) else { return };
    let l4 = usize::from(h.l4);
    frame[l4 + at..l4 + at + 2].fill(0);
    let sum = checksum::add(
        checksum::pseudo(&h, frame, h.end - u32::from(h.l4)),
        checksum::sum(&frame[l4..h.end as usize]),
    );
    frame[l4 + at..l4 + at + 2].copy_from_slice(&checksum::finish_udp(sum).to_be_bytes());
}

/// A sequence of mostly mergeable packets, with every kind of obstacle in it.
fn build_frames(steps: &[Step], v6: bool, df: bool) -> Vec<In> {
    let mut seq = [1000u32, u32::MAX - 1200, 7];
    let mut id = [0u16, 65_534, 5];
    steps
        .iter()
        .enumerate()
        .map(|(i, s)| {
            let f = usize::from(s.flow);
            let data = payload(s.len, i as u8);
            let ports = (s.flow + 1, 80);
            let mut frame = if s.udp { udp(v6, ports, &data) } else { tcp(v6, ports, seq[f], 9, ACK, &data) };
            if !s.udp {
                seq[f] = seq[f].wrapping_add(s.len as u32);
            }
            id[f] = id[f].wrapping_add(1 + u16::from(s.id_gap));
            if !v6 {
                frame[18..20].copy_from_slice(&id[f].to_be_bytes());
                frame[20] = if df { 0x40 } else { 0 };
            }
            let l4 = usize::from(build::parse(&frame).l4);
            match s.change {
                1 if !s.udp => frame[l4 + 13] |= tcp_flag::PSH,
                2 if !s.udp => frame[l4 + 13] |= tcp_flag::FIN,
                3 if !s.udp => frame[l4 + 13] |= tcp_flag::CWR,
                4 if !s.udp => frame[l4 + 13] = tcp_flag::SYN,
                5 if !s.udp => frame[l4 + 11] ^= 1,          // ack
                6 if !s.udp => frame[l4 + 15] ^= 1,          // window
                7 if !s.udp => frame[l4 + 27] ^= 1,          // timestamp
                8 => frame[15] ^= if v6 { 0x10 } else { 2 }, // ECN
                9 => frame[if v6 { 21 } else { 22 }] ^= 1,   // hop limit, TTL
                10 if v6 => frame[16] ^= 1,                  // flow label
                11 if !v6 => frame[20] ^= 0x20,              // more fragments
                12 => frame[5] ^= 1,                         // destination MAC
                13 if !s.udp => frame[l4 + 4] ^= 1,          // sequence
                14 if !v6 => frame[20] ^= 0x40,              // DF
                _ => {}
            }
            repair(&mut frame, v6);
            let whole = build::parse(&frame).fragment == Fragment::Whole;
            match s.change {
                15 => frame[l4 + if s.udp { 6 } else { 16 }] ^= 0x40, // L4 checksum
                16 if !v6 => frame[24] ^= 1,                          // IPv4 checksum
                17 if s.udp && !v6 => frame[l4 + 6..l4 + 8].fill(0),  // no checksum
                _ if s.partial && whole && build::parse(&frame).l4 != 0 => {
                    let (_, vnet) = partial(&mut frame);
                    return (frame, vnet);
                }
                _ => {}
            }
            if i % 7 == 0 {
                frame.extend([0; 5]);
            }
            (frame, VnetHdr::default())
        })
        .collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn a_receiver_sees_what_was_sent(steps in proptest::collection::vec(step(), 0..90), v6: bool, df: bool) {
        let frames = build_frames(&steps, v6, df);
        judge(&frames, &run(&frames, Caps::ALL));
    }

    #[test]
    fn a_port_without_offloads_gets_complete_packets(
        steps in proptest::collection::vec(step(), 0..30), v6: bool,
        csum: bool, tso: bool, uso: bool,
    ) {
        let frames = build_frames(&steps, v6, true);
        let caps = Caps { csum, tso4: tso, tso6: tso, uso };
        let written = run(&frames, caps);
        judge(&frames, &written);
        prop_assert!(written.iter().all(|w| caps.take(&w.vnet)));
    }

    #[test]
    fn damaged_frames_are_merged_rightly_or_not_at_all(
        steps in proptest::collection::vec(step(), 0..20), v6: bool,
        hits in proptest::collection::vec((any::<prop::sample::Index>(), 0usize..90, any::<u8>(), any::<[u8; 10]>()), 0..12),
        caps in 0u8..16,
    ) {
        let mut frames = build_frames(&steps, v6, true);
        for (which, at, bits, vnet) in hits {
            if frames.is_empty() {
                break;
            }
            let (bytes, v) = which.get_mut(&mut frames);
            let at = at.min(bytes.len() - 1);
            bytes[at] ^= bits;
            if bits & 3 == 3 {
                *v = VnetHdr::parse(&vnet).unwrap_or(*v);
            }
        }
        frames.retain(|f| Headers::parse(&f.0).is_ok());
        let caps = Caps { csum: caps & 1 != 0, tso4: caps & 2 != 0, tso6: caps & 4 != 0, uso: caps & 8 != 0 };
        let (written, refused) = run_with(&mut Merger::new(), &frames, caps, 1500);
        let mut all: Vec<_> = written.iter().filter(|w| w.last).flat_map(|w| w.members.clone()).collect();
        all.extend(refused.iter().map(|r| r.0));
        all.sort_unstable();
        prop_assert_eq!(all, (0..frames.len()).collect::<Vec<_>>());
        for w in written.iter().filter(|w| w.members.len() > 1) {
            for (packet, &m) in packets(&w.frame, &w.vnet).iter().zip(&w.members) {
                prop_assert!(visible(packet) == visible(&packets(&frames[m].0, &frames[m].1)[0]));
            }
        }
    }

    #[test]
    fn cut_then_merge_is_the_same(v6: bool, is_tcp: bool, len in 1usize..60_000, size in 1000u16..9000) {
        let data = payload(len, 0);
        let mut frame = if is_tcp { tcp(v6, (1, 2), 3, 4, ACK | tcp_flag::PSH, &data) } else { udp(v6, (1, 2), &data) };
        let (_, vnet) = offload(&mut frame, size);
        let frames: Vec<_> = packets(&frame, &vnet).into_iter().map(plain).collect();
        let written = run(&frames, Caps::ALL);
        prop_assert_eq!(written.len(), 1);
        if frames.len() > 1 {
            prop_assert_eq!(&written[0].frame, &frame);
            prop_assert_eq!(written[0].vnet, vnet);
        }
    }
}

#[test]
fn interleaved_flows_merge_side_by_side() {
    let turns = |flows: u32, frames: u32| -> Vec<_> {
        (0..frames)
            .map(|i| plain(udp(i % 2 == 0, (1000 + (i % flows) as u16, 53), &payload(64, i as u8))))
            .collect()
    };
    let mut merger = Merger::new();
    for _ in 0..3 {
        let frames = turns(64, 4 * 64);
        let (written, _) = run_with(&mut merger, &frames, Caps::ALL, 1500);
        assert_eq!(written.len(), 64);
        judge(&frames, &written);
    }
    // A flow that finds no place near its hash merges less; few do while the table is not half full.
    let frames = turns(256, 4 * 256);
    let (written, _) = run_with(&mut merger, &frames, Caps::ALL, 1500);
    assert!((256..290).contains(&written.len()), "{}", written.len());
    judge(&frames, &written);
    // More flows than there are places still lose nothing.
    let many = turns(MAX_OPEN as u32 + 100, 4 * MAX_OPEN as u32);
    judge(&many, &run(&many, Caps::ALL));
}

#[test]
fn bounds() {
    // Count: 64 datagrams per write.
    let frames: Vec<_> = (0..130).map(|i| plain(udp(false, (1, 2), &payload(8, i)))).collect();
    let sizes = |frames: &[In]| run(frames, Caps::ALL).iter().map(|w| w.members.len()).collect::<Vec<_>>();
    assert_eq!(sizes(&frames), [64, 64, 2]);
    // Bytes: at most 65,535 of IP.
    let mut seq = 0u32;
    let frames: Vec<_> = (0..20)
        .map(|i| {
            seq = seq.wrapping_add(8000);
            plain(tcp(false, (1, 2), seq.wrapping_sub(8000), 1, ACK, &payload(8000, i)))
        })
        .collect();
    assert_eq!(sizes(&frames), [8, 8, 4]);
    judge(&frames, &run(&frames, Caps::ALL));
    // Nothing at all.
    assert!(run(&[], Caps::ALL).is_empty());
}

#[test]
fn a_wrong_checksum_stays_visible() {
    for bad in 0..4 {
        let mut frames: Vec<_> =
            (0..4u32).map(|i| plain(tcp(false, (1, 2), i * 100, 1, ACK, &payload(100, i as u8)))).collect();
        frames[bad].0[80] ^= 1;
        let written = run(&frames, Caps::ALL);
        judge(&frames, &written);
        let alone = written.iter().find(|w| w.members.contains(&bad)).unwrap();
        assert_eq!((alone.members.len(), &alone.frame, alone.vnet.needs_csum), (1, &frames[bad].0, false));
    }
}

#[test]
fn fragments_are_not_overtaken() {
    let mut fragment = udp(false, (1, 2), &payload(100, 0));
    fragment[20] = 0x20;
    repair(&mut fragment, false);
    let frames = [
        plain(udp(false, (1, 2), b"a")),
        plain(fragment),
        plain(udp(false, (1, 2), b"b")),
        plain(udp(false, (1, 2), b"c")),
    ];
    let order: Vec<_> = run(&frames, Caps::ALL).iter().map(|w| w.members.clone()).collect();
    assert_eq!(order, [vec![0], vec![1], vec![2, 3]]);
}

#[test]
fn offload_frames_pass_or_are_cut() {
    let mut frame = tcp(false, (1, 2), 3, 4, ACK, &payload(5000, 1));
    let (_, vnet) = offload(&mut frame, 1400);
    let frames = [(frame.clone(), vnet), plain(udp(false, (5, 5), b"x"))];
    let written = run(&frames, Caps::ALL);
    assert_eq!((written.len(), &written[0].frame, written[0].vnet), (2, &frame, vnet));
    let written = run(&frames, Caps { tso4: false, ..Caps::ALL });
    assert_eq!(written.iter().map(|w| w.last).collect::<Vec<_>>(), [false, false, false, true, true]);
    written.iter().for_each(|w| assert_complete(&w.frame));
    let lie = VnetHdr { gso_type: GsoType::Tcp6, ..vnet };
    let (written, refused) = run_with(&mut Merger::new(), &[(frame, lie)], Caps::NONE, 1500);
    assert!(written.is_empty());
    assert_eq!(refused, [(0, CutError::Inconsistent)]);
}

#[test]
fn what_a_kernel_sender_left_undone_is_described() {
    for v6 in [false, true] {
        let data = payload(20_000, 1);
        let complete = tcp(v6, (1, 2), 3, 4, ACK, &data);
        let h = build::parse(&complete);
        assert_eq!(ingest(&complete, &h, 1450), VnetHdr::default());
        let mut huge = complete.clone();
        let (_, want) = partial(&mut huge);
        let vnet = ingest(&huge, &h, 1450);
        let size = (1450 - (h.payload - 14)) as u16;
        let gso_type = if v6 { GsoType::Tcp6 } else { GsoType::Tcp4 };
        assert_eq!(vnet, VnetHdr { gso_type, gso_size: size, ..want });
        packets(&huge, &vnet).iter().for_each(|f| {
            assert_complete(f);
            assert!(f.len() <= 1464);
        });
        assert_eq!(ingest(&huge, &h, 65_535), want);
        // UDP: one datagram, whatever it was.
        let mut huge = udp(v6, (1, 2), &data);
        let (h, want) = partial(&mut huge);
        assert_eq!(ingest(&huge, &h, 1450), want);
    }
}
