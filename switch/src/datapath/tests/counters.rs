//! Counters: packets behind offload frames, and when a peer was last heard.

use super::kit::*;
use super::route::offload_tcp;
use crate::datapath::{DropReason, Egress, Ingress};
use packet::{VnetHdr, build};

fn heard(w: &World, who: Egress) -> Option<u64> {
    w.dp.counters.get(who)?.accepted_ms
}

fn received(w: &World, who: Egress) -> (u64, u64) {
    w.dp.counters.get(who).map_or((0, 0), |c| (c.received, c.received_segments))
}

#[test]
fn a_peer_is_heard_when_a_frame_passes_all_checks_of_its_source() {
    let mut w = World::node();
    let good = build::udp((FAR_MAC, WEB_MAC), (ip("10.1.2.9"), ip("10.1.1.2")), (1, 2), b"x");
    let foreign = build::udp((FAR_MAC, WEB_MAC), (ip("10.1.9.9"), ip("10.1.1.2")), (1, 2), b"x");
    w.peer_in(C, &foreign).silent(DropReason::PeerSource);
    w.peer_in(C, &good[..20]).silent(DropReason::Malformed);
    w.send(underlay(C, 0), &vxlan(77, &good)).silent(DropReason::UnknownVni);
    w.send(underlay(C, 0), &[8, 0]).silent(DropReason::TunnelTruncated);
    assert_eq!((received(&w, peer(C)), heard(&w, peer(C))), ((4, 4), None));

    w.peer_in(C, &good).unicast(port(WEB));
    assert_eq!(heard(&w, peer(C)), Some(w.now));
    let first = w.now;
    w.advance(70);
    w.peer_in(C, &foreign).silent(DropReason::PeerSource);
    assert_eq!(heard(&w, peer(C)), Some(first));
    // What became of an accepted frame later does not matter.
    w.teach(underlay(B, 0), FAR_MAC);
    let onward = build::udp((mac(0x31), FAR_MAC), (ip("10.1.2.9"), ip("10.1.1.30")), (1, 2), b"x");
    w.peer_in(C, &onward).silent(DropReason::SplitHorizon);
    assert_eq!(heard(&w, peer(C)), Some(first + 70));

    // A successor under the same number has not been heard.
    w.dp.forget(peer(C), w.now);
    assert_eq!((heard(&w, peer(C)), w.dp.counters.node.accepted_ms), (None, None));
}

#[test]
fn offload_frames_count_the_packets_they_stand_for() {
    let mut w = World::node();
    // Cut to smaller segments on the way out: what was received stays what it was.
    w.edit_port(DB, |p| p.mtu = 500);
    let mut want = (0, 0);
    for (from, to) in [("10.1.1.2", "10.1.1.3"), ("fd00:1::2", "fd00:1::3")] {
        for (payload, size, packets) in
            [(4000, 1000, 4), (4001, 1000, 5), (999, 1000, 1), (0, 1000, 1), (300, 0, 1)]
        {
            let (frame, vnet) = offload_tcp((WEB_MAC, DB_MAC), from, to, payload, size);
            w.send_vnet(Ingress::Port(WEB), &frame, vnet).unicast(port(DB));
            want = (want.0 + 1, want.1 + packets);
            assert_eq!(received(&w, port(WEB)), want, "{payload} in {size}");
        }
    }
    // Refused by the guard, but received all the same.
    let (frame, vnet) = offload_tcp((WEB_MAC, DB_MAC), "10.1.1.99", "10.1.1.3", 4000, 1000);
    w.send_vnet(Ingress::Port(WEB), &frame, vnet).silent(DropReason::SpoofedIp);
    want = (want.0 + 1, want.1 + 4);
    assert_eq!(received(&w, port(WEB)), want);
    // Without headers there is nothing to count by.
    w.send_vnet(Ingress::Port(WEB), &frame[..30], vnet).silent(DropReason::Malformed);
    w.send_vnet(Ingress::Port(WEB), &frame, VnetHdr { gso_size: 0, ..vnet }).silent(DropReason::BadVnet);
    assert_eq!(received(&w, port(WEB)), (want.0 + 2, want.1 + 2));
    assert_eq!(w.dp.counters.total().received_segments, want.1 + 2);
}

#[test]
fn an_inner_frame_that_nobody_cut_counts_as_what_it_will_be() {
    let mut w = World::node();
    let (body, _) = offload_tcp((FAR_MAC, WEB_MAC), "10.1.1.30", "10.1.1.2", 40_000, 1);
    w.peer_in(B, &body).unicast(port(WEB));
    assert_eq!(received(&w, peer(B)), (1, 40_000_u64.div_ceil(1450 - 40)));
}
