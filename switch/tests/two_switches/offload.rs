//! Segmentation offload end to end: a hand-made sender hands in 64 KiB frames, a complete TCP or UDP stack on
//! the other side must get every byte with right checksums, whatever its port can take.

use crate::frames::{body, of_proto, offload, received, wait_for};
use crate::host::pattern;
use crate::world::{BRIDGED, POD_MTU, ROUTED, Shape, World, pod_mac};
use packet::{MacAddr, Vni, build, ip_proto, tcp_flag};
use smoltcp::socket::tcp;
use std::net::IpAddr;
use switch::datapath::gateway_mac;
use switch::io::PodEnd;
use tunnel::offload::Caps;

/// A TCP sender without a stack, just enough of it to fill a receiver's window with offload frames.
struct Sender {
    end: PodEnd,
    macs: (MacAddr, MacAddr),
    ips: (IpAddr, IpAddr),
    seq: u32,
    ack: u32,
}

const PORTS: (u16, u16) = (45_678, 80);

impl Sender {
    fn connect(&mut self, world: &mut World) {
        let mss: u16 = if self.ips.0.is_ipv4() { 1410 } else { 1390 };
        let mut l4 = [PORTS.0.to_be_bytes(), PORTS.1.to_be_bytes()].concat();
        l4.extend(self.seq.to_be_bytes());
        l4.extend([0, 0, 0, 0, 0x70, tcp_flag::SYN, 0xff, 0xff, 0, 0, 0, 0]);
        l4.extend([2, 4]);
        l4.extend(mss.to_be_bytes());
        // Window scale 7: without it the receiver could not open more than 64 KiB.
        l4.extend([1, 3, 3, 7]);
        let (kind, packet) = build::ip(self.ips.0, self.ips.1, ip_proto::TCP, l4);
        let syn = build::ethernet(self.macs.1, self.macs.0, kind, &packet);
        // Its checksum is left to the switch's side as well.
        self.end.send(&offload(syn, 0)).unwrap();
        let their_seq = wait_for(world, &self.end, 5000, |h, f| {
            let at = usize::from(h.l4);
            (h.tcp_flags & 0x12 == 0x12)
                .then(|| u32::from_be_bytes([f[at + 4], f[at + 5], f[at + 6], f[at + 7]]))
        });
        self.ack = their_seq.expect("a SYN-ACK").wrapping_add(1);
        self.seq = self.seq.wrapping_add(1);
        self.end.send_frame(&self.frame(tcp_flag::ACK, &[])).unwrap();
    }

    fn frame(&self, flags: u8, data: &[u8]) -> Vec<u8> {
        build::tcp(self.macs, self.ips, PORTS, (self.seq, self.ack, flags), data)
    }

    /// One offload frame of `data`, then its acknowledgement.
    fn push(&mut self, world: &mut World, data: &[u8], mss: u16) {
        self.end.send(&offload(self.frame(tcp_flag::ACK | tcp_flag::PSH, data), mss)).unwrap();
        self.seq = self.seq.wrapping_add(data.len() as u32);
        let want = self.seq;
        let acked = wait_for(world, &self.end, 2000, |h, f| {
            let at = usize::from(h.l4);
            (h.proto == ip_proto::TCP && f[at + 8..at + 12] == want.to_be_bytes()).then_some(())
        });
        assert!(acked.is_some(), "no acknowledgement of {} bytes", data.len());
    }
}

fn stream(shape: Shape, sender: (usize, usize), caps: Caps, v6: bool) {
    let mut world = World::new(shape);
    let plan = world.declared(1, 0);
    let (id, end) = world.open_unpublished(1, plan, caps);
    world.publish(1);
    let (ips, gateways) = (world.ips(1, 0), world.gateways(1));
    world.hosts.push(crate::host::Host::new(1, id, pod_mac(1, 0), ips, gateways, end, POD_MTU as usize));
    let server = world.hosts[0].tcp();
    world.hosts[0].tcp_mut(server).listen(80).unwrap();

    let plan = world.declared(sender.0, sender.1);
    let mac = plan.mac;
    let (_, end) = world.open(sender.0, plan);
    let routed = shape.routed && sender.0 != 1;
    let to = if routed { gateway_mac(Vni::new(1).unwrap()) } else { pod_mac(1, 0) };
    let family = usize::from(v6);
    let ips = (world.ips(sender.0, sender.1)[family], ips[family]);
    let mut sender = Sender { end, macs: (mac, to), ips, seq: 0xffff_8000, ack: 0 };
    sender.connect(&mut world);
    let (headers, mss) = if v6 { (60, 1390) } else { (40, 1410) };
    let sizes = [65_535 - headers, 65_535 - headers, 1, 1410, 1411, 2820, 62_000, 30_001];
    let mut from = 0;
    for size in sizes {
        let data = pattern(42, from, size);
        sender.push(&mut world, &data, mss);
        let socket: &mut tcp::Socket<'_> = world.hosts[0].tcp_mut(server);
        let mut got = vec![0; size];
        assert_eq!(socket.recv_slice(&mut got), Ok(size));
        assert!(got == data, "payload of a frame of {size} bytes");
        from += size as u64;
    }
    world.finish(&[]);
}

#[test]
fn large_tcp_frames_arrive_whole() {
    for v6 in [false, true] {
        for shape in [BRIDGED, ROUTED, Shape { v6: true, ..ROUTED }] {
            stream(shape, (0, 0), Caps::ALL, v6);
            stream(shape, (0, 0), Caps::NONE, v6);
        }
        // On one node the frame crosses as it is, unless the receiver cannot take it.
        stream(BRIDGED, (1, 1), Caps::ALL, v6);
        stream(BRIDGED, (1, 1), Caps::NONE, v6);
        stream(BRIDGED, (1, 1), Caps { csum: true, ..Caps::NONE }, v6);
    }
}

#[test]
fn large_udp_frames_arrive_as_datagrams() {
    for caps in [Caps::ALL, Caps::NONE, Caps { uso: false, ..Caps::ALL }] {
        for (family, size) in [(0, 1400), (1, 1400), (0, 100), (1, 1)] {
            let mut world = World::new(BRIDGED);
            let plan = world.declared(1, 0);
            let (_, to) = world.open_unpublished(1, plan, caps);
            world.publish(1);
            let plan = world.declared(0, 0);
            let (_, from) = world.open(0, plan);
            let data = pattern(1, 0, (size * 45).min(61_000) + size / 2 + 1);
            let ips = (world.ips(0, 0)[family], world.ips(1, 0)[family]);
            let frame = build::udp((pod_mac(0, 0), pod_mac(1, 0)), ips, (9, 10), &data);
            from.send(&offload(frame, size as u16)).unwrap();
            world.sleep(5);
            let got = of_proto(&received(&to), ip_proto::UDP);
            let got: Vec<_> = got.iter().map(|(h, f)| body(h, f)).collect();
            assert!(got == data.chunks(size).collect::<Vec<_>>(), "{caps:?} family {family} size {size}");
            world.finish(&[]);
        }
    }
}

/// What a pod writes with a partial checksum, small frames included, is complete on the other side.
#[test]
fn partial_checksums_are_completed() {
    for caps in [Caps::ALL, Caps::NONE] {
        for family in [0, 1] {
            let mut world = World::new(ROUTED);
            let plan = world.declared(1, 0);
            let (_, to) = world.open_unpublished(1, plan, caps);
            world.publish(1);
            let plan = world.declared(0, 0);
            let (_, from) = world.open(0, plan);
            let ips = (world.ips(0, 0)[family], world.ips(1, 0)[family]);
            let gateway = gateway_mac(Vni::new(1).unwrap());
            for len in (0..40).chain([333, 1000, 1380]) {
                let frame = build::udp((pod_mac(0, 0), gateway), ips, (9, 10), &pattern(9, 0, len));
                from.send(&offload(frame, 0)).unwrap();
                world.sleep(1);
                let got = of_proto(&received(&to), ip_proto::UDP);
                assert_eq!(got.len(), 1, "{len}");
                assert!(body(&got[0].0, &got[0].1) == pattern(9, 0, len));
            }
            world.finish(&[]);
        }
    }
}

/// Counters speak of frames and of the packets behind them, at every place that a frame passes.
#[test]
fn offload_frames_are_counted_in_packets_everywhere() {
    use switch::datapath::{Counters, Egress, PeerId};
    for caps in [Caps::ALL, Caps::NONE] {
        let mut world = World::new(BRIDGED);
        let plan = world.declared(1, 0);
        let (far_id, far) = world.open_unpublished(1, plan, caps);
        world.publish(1);
        let plan = world.declared(0, 1);
        let (beside_id, beside) = world.open_unpublished(0, plan, caps);
        let plan = world.declared(0, 0);
        let (id, from) = world.open(0, plan);
        world.sleep(100);
        let places = [
            (0, Egress::Port(id)),
            (0, Egress::Port(beside_id)),
            (0, Egress::Peer(PeerId(0))),
            (1, Egress::Peer(PeerId(0))),
            (1, Egress::Port(far_id)),
        ];
        let look = |world: &World| -> Vec<Counters> {
            let of = |(node, who): (usize, Egress)| {
                world.nodes[node].engine.datapath().counters.get(who).cloned().unwrap_or_default()
            };
            places.map(of).to_vec()
        };
        let before = look(&world);
        for (node, pod) in [(1, 0), (0, 1)] {
            let ips = (world.ips(0, 0)[0], world.ips(node, pod)[0]);
            let frame =
                build::tcp((pod_mac(0, 0), pod_mac(node, pod)), ips, (9, 10), (1, 1, 0x10), &[5; 5000]);
            from.send(&offload(frame, 1400)).unwrap();
        }
        world.sleep(5);
        assert_eq!((received(&far).len(), received(&beside).len()), (4, 4));
        let moved: Vec<_> = before
            .iter()
            .zip(look(&world))
            .map(|(a, b)| {
                let rx = (b.received - a.received, b.received_segments - a.received_segments);
                (rx, (b.sent - a.sent, b.sent_segments - a.sent_segments))
            })
            .collect();
        // Two frames of four packets each; on the underlay and behind it they are four of one.
        let want = [((2, 8), (0, 0)), ((0, 0), (1, 4)), ((0, 0), (1, 4)), ((4, 4), (0, 0)), ((0, 0), (4, 4))];
        assert_eq!(moved, want, "{caps:?}");
        world.finish(&[]);
    }
}

/// A header that contradicts its frame is dropped by name, and nothing of it leaves.
#[test]
fn contradicting_offload_headers_are_refused() {
    use switch::datapath::DropReason;
    let mut world = World::new(BRIDGED);
    let plans = [(0, 0), (1, 0)].map(|(node, pod)| (node, world.declared(node, pod)));
    let [from, to] = plans.map(|(node, plan)| world.open(node, plan).1);
    let ips = (world.ips(0, 0)[0], world.ips(1, 0)[0]);
    let frame = build::tcp((pod_mac(0, 0), pod_mac(1, 0)), ips, (9, 10), (1, 1, 0x10), &[5; 5000]);
    let good = offload(frame, 1400);
    let mut bad = Vec::new();
    for (at, value) in [(1, 5u8), (1, 4), (1, 3), (4, 0), (0, 0), (6, 20), (8, 6)] {
        let mut raw = good.clone();
        raw[at] = value;
        if at == 4 {
            raw[5] = 0;
        }
        bad.push(raw);
    }
    let mut beyond = good.clone();
    beyond[6..8].copy_from_slice(&60_000u16.to_ne_bytes());
    bad.push(beyond);
    let count = bad.len() as u64;
    for raw in bad {
        from.send(&raw).unwrap();
    }
    world.sleep(5);
    assert!(received(&to).is_empty());
    assert_eq!(world.drops(0, DropReason::BadVnet), count);
    from.send(&good).unwrap();
    world.sleep(5);
    assert_eq!(received(&to).len(), 4);
    world.finish(&[DropReason::BadVnet]);
}

/// The guard has looked at the source; a checksum request must not be able to write over it afterwards.
#[test]

fn a_checksum_request_cannot_rewrite_a_checked_source() {
    use switch::datapath::DropReason;
    let mut world = World::new(BRIDGED);
    let plans = [(0, 0), (1, 0)].map(|(node, pod)| (node, world.declared(node, pod)));
    let [from, to] = plans.map(|(node, plan)| world.open(node, plan).1);
    let mut asked = 0;
    for family in [0, 1] {
        let ips = (world.ips(0, 0)[family], world.ips(1, 0)[family]);
        let frame = build::udp((pod_mac(0, 0), pod_mac(1, 0)), ips, (9, 10), b"who am I");
        let source = if family == 0 { 26 } else { 22 };
        for field in [source, source + 2, 16] {
            let mut raw = offload(frame.clone(), 0);
            raw[6..8].copy_from_slice(&14u16.to_ne_bytes());
            raw[8..10].copy_from_slice(&(field as u16 - 14).to_ne_bytes());
            from.send(&raw).unwrap();
            asked += 1;
        }
    }
    world.sleep(5);
    for frame in received(&to) {
        let headers = packet::Headers::parse(&frame).expect("a frame that parses");
        let source = headers.src_ip(&frame).expect("an IP packet");
        assert!(world.ips(0, 0).contains(&source), "{source} was never declared");
    }
    assert_eq!(world.drops(0, DropReason::BadVnet), asked);
    world.finish(&[DropReason::BadVnet]);
}
