//! The first inputs of every target: valid ones, made by the frame builders, so that mutations start deep.

mod memory;

use crate::targets::tables;
use ctl::proto;
use packet::{GsoType, Headers, MacAddr, VnetHdr, Vni, build, checksum, ether_type, ip_proto, tcp_flag};
use prost::Message;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use switch::datapath::{gateway_mac, router_mac};
use tunnel::Encap;

/// Names and bytes of a target's seeds.
#[must_use]
pub fn of(target: &str) -> Vec<(String, Vec<u8>)> {
    let named = match target {
        "headers" => frames(),
        "vxlan" => datagrams(Encap::Vxlan),
        "geneve" => datagrams(Encap::Geneve),
        "vnet" => offloads(),
        "process" => lives(),
        "api" => requests(),
        "state" => states(),
        "memory" => memory::seeds(),
        _ => Vec::new(),
    };
    named.into_iter().map(|(name, bytes)| (format!("seed-{name}"), bytes)).collect()
}

type Named = Vec<(String, Vec<u8>)>;

fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address of ours")
}

fn gateway() -> MacAddr {
    gateway_mac(Vni::new(1).expect("a VNI of ours"))
}

/// Frames of port 0 of the `process` tables: bridged, routed, ARP, ND, odd ones.
fn frames() -> Named {
    let (m0, m1) = (tables::mac(0), tables::mac(1));
    let (a, b) = (tables::v4(0), tables::v4(1));
    let (a6, b6) = (tables::v6(0), tables::v6(1));
    let four = (IpAddr::V4(a), IpAddr::V4(b));
    let six = (IpAddr::V6(a6), IpAddr::V6(b6));
    let zero = MacAddr([0; 6]);
    let to = |v4: &str| (four.0, ip(v4));
    let to6 = |v6: &str| (six.0, ip(v6));
    let group = |ip: Ipv6Addr| {
        let o = ip.octets();
        (
            MacAddr([0x33, 0x33, 0xff, o[13], o[14], o[15]]),
            Ipv6Addr::from_octets([0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, o[13], o[14], o[15]]),
        )
    };
    let (gm, gi) = group(b6);
    let mut ttl1 = build::udp((m0, gateway()), to("10.1.2.9"), (1, 33_434), b"probe");
    (ttl1[22], ttl1[24], ttl1[25]) = (1, 0, 0);
    let sum = checksum::finish(checksum::sum(&ttl1[14..34]));
    ttl1[24..26].copy_from_slice(&sum.to_be_bytes());
    let tcp = (1, 1, tcp_flag::ACK);
    let mut fragment = build::udp((m0, m1), four, (1, 2), &[5; 64]);
    fragment[20] = 0x20;
    let mut options = build::ipv4(a, b, ip_proto::UDP, &[0, 1, 0, 2, 0, 8, 0, 0]);
    options.splice(20..20, [7, 4, 4, 0]);
    (options[0], options[3], options[10], options[11]) = (0x46, 32, 0, 0);
    let sum = checksum::finish(checksum::sum(&options[..24]));
    options[10..12].copy_from_slice(&sum.to_be_bytes());
    let chain =
        [60, 0, 1, 4, 0, 0, 0, 0, 44, 0, 1, 4, 0, 0, 0, 0, 17, 0, 0, 1, 0, 0, 0, 9, 0, 1, 0, 2, 0, 8, 0, 0];
    let list: Vec<(&str, Vec<u8>)> = vec![
        ("udp4", build::udp((m0, m1), four, (1111, 2222), b"hello")),
        ("udp6", build::udp((m0, m1), six, (1111, 2222), b"hello")),
        ("tcp4", build::tcp((m0, m1), four, (1, 80), tcp, &[9; 100])),
        ("tcp6", build::tcp((m0, m1), six, (1, 80), tcp, &[9; 100])),
        ("routed4", build::udp((m0, gateway()), to("10.1.2.9"), (1, 2), b"x")),
        ("routed6", build::udp((m0, gateway()), to6("fd00:2::9"), (1, 2), b"x")),
        ("nexthop4", build::udp((m0, gateway()), to("10.5.1.1"), (1, 2), b"x")),
        ("nexthop6", build::udp((m0, gateway()), to6("fd00:5::1"), (1, 2), b"x")),
        ("resolve4", build::udp((m0, gateway()), to("10.1.1.70"), (1, 2), b"x")),
        ("resolve6", build::udp((m0, gateway()), to6("fd00:1::70"), (1, 2), b"x")),
        ("static4", build::udp((m0, gateway()), to("10.1.1.55"), (1, 2), b"x")),
        ("blackhole", build::udp((m0, gateway()), to("10.6.1.1"), (1, 2), b"x")),
        ("unreachable", build::udp((m0, gateway()), to("10.7.1.1"), (1, 2), b"x")),
        ("noroute", build::udp((m0, gateway()), to("10.8.1.1"), (1, 2), b"x")),
        ("ttl1", ttl1),
        ("large", build::udp((m0, gateway()), to("10.1.2.9"), (1, 2), &[1; 1430])),
        ("echo4", build::echo((m0, gateway()), to("10.1.1.1"), 8, 1, 1, b"abcdefgh")),
        ("echo6", build::echo((m0, gateway()), to6("fd00:1::1"), 128, 1, 1, b"abcdefgh")),
        ("broadcast", build::udp((m0, MacAddr::BROADCAST), to("255.255.255.255"), (68, 67), &[1; 20])),
        ("unknown", build::udp((m0, MacAddr([2, 0, 0, 0, 9, 9])), to("10.1.1.99"), (1, 2), b"x")),
        ("arp-gateway", build::arp((m0, MacAddr::BROADCAST), 1, (m0, a), (zero, Ipv4Addr::new(10, 1, 1, 1)))),
        ("arp-port", build::arp((m0, MacAddr::BROADCAST), 1, (m0, a), (zero, b))),
        (
            "arp-unknown",
            build::arp((m0, MacAddr::BROADCAST), 1, (m0, a), (zero, Ipv4Addr::new(10, 1, 1, 70))),
        ),
        (
            "arp-routed",
            build::arp((m0, MacAddr::BROADCAST), 1, (m0, a), (zero, Ipv4Addr::new(10, 1, 1, 200))),
        ),
        ("arp-gratuitous", build::arp((m0, MacAddr::BROADCAST), 1, (m0, a), (zero, a))),
        ("arp-probe", build::arp((m0, MacAddr::BROADCAST), 1, (m0, Ipv4Addr::UNSPECIFIED), (zero, a))),
        ("ns", build::ndp((m0, gm), (a6, gi), 135, b6, Some(m0))),
        (
            "ns-gateway",
            build::ndp(
                (m0, MacAddr([0x33, 0x33, 0xff, 0, 0, 1])),
                (a6, group(Ipv6Addr::new(0xfd00, 1, 0, 0, 0, 0, 0, 1)).1),
                135,
                Ipv6Addr::new(0xfd00, 1, 0, 0, 0, 0, 0, 1),
                Some(m0),
            ),
        ),
        ("dad", build::ndp((m0, group(a6).0), (Ipv6Addr::UNSPECIFIED, group(a6).1), 135, a6, None)),
        ("na", build::ndp((m0, m1), (a6, b6), 136, a6, Some(m0))),
        (
            "ra",
            build::ndp(
                (m0, MacAddr([0x33, 0x33, 0, 0, 0, 1])),
                (m0.link_local_v6(), Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1)),
                134,
                a6,
                Some(m0),
            ),
        ),
        ("fragment", fragment),
        ("options", build::ethernet(m1, m0, ether_type::IPV4, &options)),
        ("extensions", build::ethernet(m1, m0, ether_type::IPV6, &build::ipv6(a6, b6, 0, &chain))),
        ("vlan", build::ethernet(m1, m0, ether_type::VLAN, &[0, 1, 8, 0, 0x45, 0])),
        ("lldp", build::ethernet(MacAddr([1, 0x80, 0xc2, 0, 0, 0xe]), m0, 0x88cc, &[2, 7, 4])),
        ("padded", [build::udp((m0, m1), four, (1, 2), b""), vec![0; 18]].concat()),
    ];
    list.into_iter().map(|(name, frame)| (name.to_owned(), frame)).collect()
}

/// The same from a MAC behind a peer, wrapped; first byte the outer TOS.
fn datagrams(encap: Encap) -> Named {
    let header = encap.header(Vni::new(1).expect("a VNI of ours"));
    let mut named: Named = frames()
        .into_iter()
        .map(|(name, frame)| {
            (name, [&[3][..], &header, &behind_peer(frame, "10.1.2.9", "fd00:2::9")].concat())
        })
        .collect();
    let (_, inner) = &frames()[2];
    if encap == Encap::Geneve {
        let options = [2, 0, 0x65, 0x58, 0, 0, 1, 0, 0, 1, 2, 1, 0, 0, 0, 0];
        named.push(("option".into(), [&[0][..], &options, inner].concat()));
    }
    // As a kernel hands over what its device would have done: checksum to be completed, frame uncut.
    for len in [100, 6000] {
        let (frame, _) = partial(build::tcp(
            (MacAddr([2, 0, 0, 0, 8, 8]), tables::mac(0)),
            (ip("10.1.2.9"), tables::v4(0).into()),
            (5, 6),
            (1, 1, tcp_flag::ACK),
            &vec![6; len],
        ));
        named.push((format!("partial-{len}"), [&[0][..], &header, &frame].concat()));
    }
    named
}

/// Gives a frame a source that a peer may have; checksums follow.
fn behind_peer(mut frame: Vec<u8>, v4: &str, v6: &str) -> Vec<u8> {
    frame[6..12].copy_from_slice(&[2, 0, 0, 0, 8, 8]);
    let Ok(h) = Headers::parse(&frame) else { return frame };
    let field = checksum::field_offset(h.proto).filter(|_| h.l4 != 0).map(|at| usize::from(h.l4) + at);
    let l4_from = usize::from(h.l4);
    match (h.net, ip(v4), ip(v6)) {
        (packet::Net::V4, IpAddr::V4(src), _) => {
            frame[26..30].copy_from_slice(&src.octets());
            frame[24..26].fill(0);
            let end = Headers::L3 + usize::from(frame[14] & 15) * 4;
            let sum = checksum::finish(checksum::sum(&frame[14..end]));
            frame[24..26].copy_from_slice(&sum.to_be_bytes());
        }
        (packet::Net::V6, _, IpAddr::V6(src)) => frame[22..38].copy_from_slice(&src.octets()),
        (packet::Net::Arp, IpAddr::V4(src), _) => {
            frame[22..28].copy_from_slice(&[2, 0, 0, 0, 8, 8]);
            frame[28..32].copy_from_slice(&src.octets());
        }
        _ => {}
    }
    if let Some(at) = field.filter(|at| at + 2 <= h.end as usize) {
        frame[at..at + 2].fill(0);
        let pseudo = checksum::pseudo(&h, &frame, h.end - u32::from(h.l4));
        let sum = checksum::finish(checksum::add(pseudo, checksum::sum(&frame[l4_from..h.end as usize])));
        frame[at..at + 2].copy_from_slice(&sum.to_be_bytes());
    }
    frame
}

fn partial(mut frame: Vec<u8>) -> (Vec<u8>, VnetHdr) {
    let h = build::parse(&frame);
    let field = checksum::field_offset(h.proto).unwrap_or(0);
    let at = usize::from(h.l4) + field;
    let sum = checksum::pseudo(&h, &frame, h.end - u32::from(h.l4));
    frame[at..at + 2].copy_from_slice(&sum.to_be_bytes());
    let vnet = VnetHdr {
        needs_csum: true,
        hdr_len: h.payload,
        csum_start: h.l4,
        csum_offset: field as u16,
        ..VnetHdr::default()
    };
    (frame, vnet)
}

/// Offload frames of port 0, virtio-net header first.
fn offload_frames() -> Named {
    let macs = (tables::mac(0), tables::mac(1));
    let routed = (tables::mac(0), gateway());
    let four: (IpAddr, IpAddr) = (tables::v4(0).into(), tables::v4(1).into());
    let six: (IpAddr, IpAddr) = (tables::v6(0).into(), tables::v6(1).into());
    let flags = tcp_flag::ACK | tcp_flag::PSH | tcp_flag::CWR;
    let tcp = |macs, ips, len| build::tcp(macs, ips, (1, 2), (u32::MAX - 500, 7, flags), &vec![3; len]);
    let udp = |ips, len| build::udp(macs, ips, (1, 2), &vec![4; len]);
    let list = [
        ("tso4", tcp(macs, four, 3000), GsoType::Tcp4, 1410),
        ("tso6", tcp(macs, six, 3000), GsoType::Tcp6, 1390),
        ("tso-routed", tcp(routed, (four.0, ip("10.1.2.9")), 3000), GsoType::Tcp4, 1410),
        ("tso-tiny", tcp(macs, four, 300), GsoType::Tcp4, 1),
        ("uso4", udp(four, 3000), GsoType::UdpL4, 1400),
        ("uso6", udp(six, 500), GsoType::UdpL4, 100),
        ("csum", udp(four, 20), GsoType::None, 0),
        ("csum6", tcp(macs, six, 0), GsoType::None, 0),
    ];
    list.into_iter()
        .map(|(name, frame, gso_type, gso_size)| {
            let (frame, vnet) = partial(frame);
            let vnet = VnetHdr { gso_type, gso_size, ecn: gso_type == GsoType::Tcp4, ..vnet };
            (name.to_owned(), [&vnet.to_bytes()[..], &frame].concat())
        })
        .collect()
}

fn offloads() -> Named {
    let plain = frames().into_iter().step_by(3).map(|(name, frame)| (name, [&[0; 11][..], &frame].concat()));
    let cut = offload_frames().into_iter().zip([0u8, 1, 4, 5, 8, 12, 9, 6]);
    plain.chain(cut.map(|((name, raw), choices)| (name, [&[choices][..], &raw].concat()))).collect()
}

/// Operations of the `process` target.
mod op {
    pub fn raw(port: u8, raw: &[u8]) -> Vec<u8> {
        let (vnet, frame) = raw.split_at(packet::VNET_HDR_LEN);
        [&[port][..], vnet, &(frame.len() as u16).to_be_bytes(), frame].concat()
    }

    pub fn port(port: u8, frame: &[u8]) -> Vec<u8> {
        [&[0x40 | port][..], &(frame.len() as u16).to_be_bytes(), frame].concat()
    }

    pub fn underlay(source: u8, tos: u8, datagram: &[u8]) -> Vec<u8> {
        [&[0x80 | source, tos][..], &(datagram.len() as u16).to_be_bytes(), datagram].concat()
    }

    pub fn peer(peer: u8, vni: u8, frame: &[u8]) -> Vec<u8> {
        [&[0xc0 | peer, vni][..], &(frame.len() as u16).to_be_bytes(), frame].concat()
    }

    pub const fn time(step: u8) -> u8 {
        0xe0 | step
    }

    pub const PROCESS: u8 = 0xf0;
    pub const SWAP: u8 = 0xf8;
}

/// Whole lives: single frames, then conversations.
fn lives() -> Named {
    let mut named: Named =
        frames().into_iter().map(|(n, f)| (format!("port-{n}"), op::port(0, &f))).collect();
    for (name, raw) in offload_frames() {
        named.push((format!("port-{name}"), op::raw(0, &raw)));
    }
    for (name, frame) in frames().into_iter().step_by(2) {
        let frame = behind_peer(frame, "10.1.2.9", "fd00:2::9");
        let wrapped = |encap: Encap| [&encap.header(Vni::new(1).expect("ours"))[..], &frame].concat();
        named.push((format!("vxlan-{name}"), op::underlay(0, 0, &wrapped(Encap::Vxlan))));
        named.push((format!("geneve-{name}"), op::underlay(5, 3, &wrapped(Encap::Geneve))));
        named.push((format!("peer-{name}"), op::peer(2, 1, &frame)));
    }
    let by_name =
        |name: &str| frames().into_iter().find(|(n, _)| n == name).map(|(_, f)| f).unwrap_or_default();
    let guest = |n: u8| MacAddr([2, 0, 0, 0, 7, n]);
    let say = |n: u8| {
        let from = Ipv4Addr::new(10, 1, 1, 60 + n);
        build::udp((guest(n), MacAddr::BROADCAST), (from.into(), Ipv4Addr::BROADCAST.into()), (1, 2), b"hi")
    };
    let arp_answer = |n: u8, router: MacAddr| {
        let from = Ipv4Addr::new(10, 1, 1, 60 + n);
        build::arp((guest(n), router), 2, (guest(n), from), (router, Ipv4Addr::UNSPECIFIED))
    };
    let own = router_mac(ip(tables::UNDERLAY));
    let resolve = by_name("resolve4");
    // Asked, answered, released; asked again when stale; asked and given up.
    named.push((
        "life-resolve".into(),
        [
            op::port(0, &resolve),
            op::port(0, &resolve),
            vec![op::PROCESS],
            op::port(2, &arp_answer(10, own)),
            vec![op::PROCESS],
            op::port(0, &resolve),
            vec![op::time(5)],
            op::port(0, &resolve),
            vec![op::time(6)],
            op::port(0, &resolve),
            vec![op::time(2), op::time(2), op::time(2)],
        ]
        .concat(),
    ));
    named.push((
        "life-resolve6".into(),
        [
            op::port(0, &by_name("resolve6")),
            op::port(0, &by_name("nexthop6")),
            vec![op::time(2)],
            op::port(
                2,
                &build::ndp(
                    (guest(10), own),
                    (Ipv6Addr::new(0xfd00, 1, 0, 0, 0, 0, 0, 0x70), own.link_local_v6()),
                    136,
                    Ipv6Addr::new(0xfd00, 1, 0, 0, 0, 0, 0, 0x70),
                    Some(guest(10)),
                ),
            ),
            vec![op::time(3), op::time(2)],
        ]
        .concat(),
    ));
    // More addresses than a port may have, moves between ports and peers, ageing.
    named.push((
        "life-learn".into(),
        [
            (0..6).flat_map(|n| op::port(2, &say(n))).collect::<Vec<_>>(),
            vec![op::PROCESS],
            (0..3).flat_map(|n| op::port(5, &say(n))).collect(),
            op::peer(0, 1, &say(4)),
            op::port(3, &say(4)),
            vec![op::time(4)],
            op::port(5, &say(4)),
            vec![op::time(7)],
            op::port(
                0,
                &build::udp(
                    (tables::mac(0), guest(4)),
                    (tables::v4(0).into(), ip("10.1.1.64")),
                    (1, 2),
                    b"x",
                ),
            ),
        ]
        .concat(),
    ));
    // Tables that lose a port and a peer with frames waiting and learned behind them.
    named.push((
        "life-swap".into(),
        [
            op::port(
                1,
                &build::udp(
                    (tables::mac(1), gateway()),
                    (tables::v4(1).into(), ip("10.1.1.70")),
                    (1, 2),
                    b"x",
                ),
            ),
            op::peer(0, 1, &say(1)),
            vec![op::SWAP],
            op::port(1, &by_name("udp4")),
            op::port(0, &by_name("udp4")),
            op::peer(0, 1, &say(1)),
            op::port(
                0,
                &build::udp(
                    (tables::mac(0), gateway()),
                    (tables::v4(0).into(), ip("10.1.3.1")),
                    (1, 2),
                    b"x",
                ),
            ),
            vec![op::time(3), op::SWAP],
            op::port(0, &by_name("udp4")),
        ]
        .concat(),
    ));
    // A run of segments that is merged for a port.
    let segments = (0..6u32).flat_map(|n| {
        let frame = build::tcp(
            (guest(1), tables::mac(0)),
            (ip("10.1.2.9"), tables::v4(0).into()),
            (5, 6),
            (1000 + n * 500, 1, tcp_flag::ACK),
            &[n as u8; 500],
        );
        op::peer(1, 1, &frame)
    });
    named.push(("life-merge".into(), segments.collect()));
    named
}

fn requests() -> Named {
    let state = state();
    let message = proto::DesiredState::from(state.clone());
    let text = |notation| state.to_text(notation).unwrap_or_default().into_bytes();
    use ctl::desired::document::Notation;
    let may_exist = true;
    let mut list: Vec<(&str, u8, Vec<u8>)> = vec![
        (
            "apply",
            6,
            proto::ApplyRequest { state: Some(message.clone()), prune: true, dry_run: false }.encode_to_vec(),
        ),
        ("toml", 7, text(Notation::Toml)),
        ("json", 8, text(Notation::Json)),
        ("mac", 9, b"02:00:00:00:00:0a".to_vec()),
        ("ip", 9, b"fd00:1::2".to_vec()),
        ("cidr", 9, b"10.1.1.0/24".to_vec()),
    ];
    let network = message.networks.first().cloned();
    list.push(("network", 0, proto::AddNetworkRequest { network, may_exist }.encode_to_vec()));
    for (port, name) in message.ports.iter().cloned().zip(["port", "port-learning"]) {
        list.push((name, 1, proto::AddPortRequest { port: Some(port), may_exist }.encode_to_vec()));
    }
    for (peer, name) in message.peers.iter().cloned().zip(["peer", "peer-geneve"]) {
        list.push((name, 2, proto::AddPeerRequest { peer: Some(peer), may_exist }.encode_to_vec()));
    }
    for (route, name) in
        message.routes.iter().cloned().zip(["route", "route-peer", "blackhole", "unreachable"])
    {
        list.push((name, 3, proto::AddRouteRequest { route: Some(route), may_exist }.encode_to_vec()));
    }
    let entry = message.fdb.first().cloned();
    list.push(("fdb", 4, proto::AddFdbRequest { entry, may_exist }.encode_to_vec()));
    if let Some(neighbour) = message.neighbours.first() {
        list.push(("neighbour", 5, neighbour.encode_to_vec()));
    }
    let frame = frames().swap_remove(0).1;
    let trace = proto::TraceRequest {
        from: Some(proto::trace_request::From::Port("web-0".into())),
        what: Some(proto::trace_request::What::Frame(frame)),
        ..proto::TraceRequest::default()
    };
    list.push(("trace", 10, trace.encode_to_vec()));
    list.push((
        "delete",
        11,
        proto::DeletePortRequest { name: "web-0".into(), if_exists: true }.encode_to_vec(),
    ));
    list.push((
        "get-route",
        12,
        proto::GetRouteRequest { network: "pods".into(), ip: "10.1.1.9".into() }.encode_to_vec(),
    ));
    list.push(("export", 13, proto::ExportReply { state: Some(message), generation: 7 }.encode_to_vec()));
    list.into_iter().map(|(name, choice, bytes)| (name.to_owned(), [vec![choice], bytes].concat())).collect()
}

const DOCUMENT: &str = r#"
[[networks]]
name = "pods"
vni = 1
subnets = [{ cidr = "10.1.1.0/24", gateway = "10.1.1.1" }, { cidr = "fd00:1::/64", gateway = "fd00:1::1" }]

[[networks]]
name = "lab"
vni = 70000
ageing_seconds = 10
mtu = 1400
flood = false

[[ports]]
name = "web-0"
network = "pods"
netns = "web"
mac = "02:00:00:00:00:01"
ips = ["10.1.1.10/24", "fd00:1::10/64"]
metadata = { owner = "me" }

[[ports]]
name = "vm"
network = "lab"
netns = "/run/netns/vm"
ifname = "tap0"
learning = true
mac_limit = 8
offload = false

[[peers]]
name = "node-b"
remote = "192.168.77.2"

[[peers]]
name = "node-c"
remote = "fd77::3"
encap = "geneve"
port = 7000
pod_cidrs = ["10.1.3.0/24"]
router_mac = "02:00:00:00:00:33"

[[routes]]
network = "pods"
prefix = "10.5.0.0/16"
via = "10.1.1.77"

[[routes]]
network = "pods"
prefix = "10.8.0.0/16"
peer = "node-c"

[[routes]]
network = "pods"
prefix = "10.6.0.0/16"
blackhole = true

[[routes]]
network = "pods"
prefix = "fd00:7::/48"
unreachable = true

[[fdb]]
network = "pods"
mac = "02:00:00:00:00:42"
peer = "node-b"

[[neighbours]]
network = "pods"
ip = "10.1.1.55"
mac = "02:00:00:00:00:42"
"#;

fn state() -> ctl::desired::DesiredState {
    ctl::desired::DesiredState::parse(DOCUMENT, ctl::desired::document::Notation::Toml)
        .expect("a document of ours")
}

fn states() -> Named {
    let state = state();
    let file = switch::control::state::encode(&state, 42).unwrap_or_default();
    let empty = switch::control::state::encode(&Default::default(), 0).unwrap_or_default();
    let cut = file[..file.len() / 2].to_vec();
    let newer = String::from_utf8_lossy(&file).replacen("swd-state 1", "swd-state 2", 1).into_bytes();
    let json = state.to_text(ctl::desired::document::Notation::Json).unwrap_or_default().into_bytes();
    [("file", file), ("empty", empty), ("cut", cut), ("newer", newer), ("document", json)]
        .map(|(name, bytes)| (name.to_owned(), bytes))
        .into()
}
