//! The node's kernel at work, in namespaces of its own (see [`crate::io::testing`]).
//!
//! The test is the switch: it holds the node's TAP, writes what pods send and reads what they get. Behind the uplink,
//! 192.168.77.1/24, is a namespace with the addresses 192.168.77.9 and 192.0.2.9.

use std::io::IoSlice;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use ctl::desired::Protocol;
use ipnet::IpNet;
use packet::{MacAddr, VNET_HDR_LEN, build};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::plan::{Device, Mapping};
use super::{NftHost, NodeError, NodeHost, NodePlan, nft};
use crate::io::testing::{self, contains, sh};
use crate::io::{
    HostOpener, NetnsRef, NodeLink, NodeRoute, Opener as _, PortIo as _, PortSpec, READ_BUF_LEN, Tap, sysctl,
    tap::TapFlags,
};

const GATEWAY: MacAddr = MacAddr([0x0a, 0x53, 0x57, 0, 0, 1]);
const NODE: MacAddr = MacAddr([0x0a, 0x5b, 0, 0, 0, 1]);
const PATIENCE: Duration = Duration::from_secs(5);

fn isolated(name: &str, body: impl FnOnce()) {
    testing::isolated(module_path!(), name, &["nft", "conntrack", "sysctl"], body);
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn nets(list: &[&str]) -> Vec<IpNet> {
    list.iter().map(|n| n.parse().unwrap()).collect()
}

fn device(ifname: &str, second: u8) -> Device {
    let text = |rest: &str| format!("10.{second}.{rest}");
    let source = ip(&text("1.1"));
    let via = ip("169.254.1.1");
    let mut routes = vec![NodeRoute { net: text("1.0/24").parse().unwrap(), via, source }];
    let mut next_hops = vec![(via, GATEWAY)];
    let mut addresses = nets(&[&text("1.1/24")]);
    let mut subnets = nets(&[&text("1.0/24")]);
    if second == 1 {
        let via = ip("fe80::853:57ff:fe00:1");
        routes.push(NodeRoute { net: "10.1.2.0/24".parse().unwrap(), ..routes[0] });
        routes.push(NodeRoute { net: "fd00:1::/64".parse().unwrap(), via, source: ip("fd00:1::1") });
        next_hops.push((via, GATEWAY));
        addresses.push("fd00:1::1/64".parse().unwrap());
        subnets.push("fd00:1::/64".parse().unwrap());
    }
    Device {
        port: format!("node-{second}"),
        ifname: ifname.into(),
        addresses,
        link: NodeLink { next_hops, routes },
        subnets,
        masquerade: true,
        except: nets(&["192.0.2.128/25"]),
    }
}

fn mapping(protocol: Protocol, at: Option<&str>, host_port: u16, pod: &str) -> Mapping {
    Mapping { protocol, at: at.map(ip), host_port, pod: ip(pod), container_port: 80 }
}

fn plan(mappings: &[Mapping]) -> NodePlan {
    NodePlan {
        devices: vec![device("swd0", 1)],
        mappings: mappings.to_vec(),
        cluster: nets(&["10.1.0.0/16", "192.168.77.2/32", "fd00:1::/64"]),
        untranslated: nets(&["10.1.0.0/16", "192.168.77.2/32", "224.0.0.0/4", "fd00:1::/64", "ff00::/8"]),
        underlay: Some(ip("192.168.77.1")),
        problems: Vec::new(),
    }
}

fn host() -> NftHost {
    NftHost::new("swd").unwrap()
}

/// The switch's end of a device of the node.
struct Wire(Tap);

impl Wire {
    fn open(device: &Device) -> Self {
        let spec = PortSpec {
            netns: NetnsRef::own(),
            identity: None,
            ifname: device.ifname.clone(),
            mac: NODE,
            mtu: 1450,
            addresses: device.addresses.clone(),
            gateways: Vec::new(),
            default_route: false,
            offload: false,
            node: Some(device.link.clone()),
        };
        Self(Tap::from_fd(HostOpener.open_port(&spec).unwrap().fd, false).unwrap())
    }

    /// A pod sends a datagram.
    fn send(&mut self, from: (&str, u16), to: (&str, u16), payload: &[u8]) {
        let frame = build::udp((GATEWAY, NODE), (ip(from.0), ip(to.0)), (from.1, to.1), payload);
        self.0.write(&[IoSlice::new(&[0; VNET_HDR_LEN]), IoSlice::new(&frame)]).unwrap();
    }

    /// The next UDP or ICMP packet to pods: source, destination, and what it carries. Ports are 0 for ICMP.
    fn receive(&mut self) -> (SocketAddr, SocketAddr, Vec<u8>) {
        let deadline = Instant::now() + PATIENCE;
        let mut buf = vec![0; READ_BUF_LEN];
        while Instant::now() < deadline {
            let Ok(n) = self.0.read(&mut buf) else {
                let wait = Timespec { tv_sec: 0, tv_nsec: 100_000_000 };
                poll(&mut [PollFd::new(&self.0, PollFlags::IN)], Some(&wait)).unwrap();
                continue;
            };
            let packet = etherparse::PacketHeaders::from_ethernet_slice(&buf[VNET_HDR_LEN..n]).unwrap();
            let (source, destination): (IpAddr, IpAddr) = match &packet.net {
                Some(etherparse::NetHeaders::Ipv4(ip, _)) => (ip.source.into(), ip.destination.into()),
                Some(etherparse::NetHeaders::Ipv6(ip, _)) => (ip.source.into(), ip.destination.into()),
                _ => continue,
            };
            let ports = match &packet.transport {
                Some(etherparse::TransportHeader::Udp(udp)) => (udp.source_port, udp.destination_port),
                Some(etherparse::TransportHeader::Icmpv4(_)) => (0, 0),
                // Router and listener discovery of the kernel's own.
                _ => continue,
            };
            let payload = packet.payload.slice().to_vec();
            return (SocketAddr::new(source, ports.0), SocketAddr::new(destination, ports.1), payload);
        }
        panic!("nothing came to the pods");
    }

    /// As [`Wire::receive`], in text.
    fn heard(&mut self) -> String {
        let (from, to, payload) = self.receive();
        format!("{from} -> {to}: {}", String::from_utf8_lossy(&payload))
    }
}

/// Makes the uplink and what is behind it.
fn outside() {
    sh("ip netns add outside");
    sh("ip link add uplink type veth peer name eth0 netns outside");
    sh("ip addr add 192.168.77.1/24 dev uplink");
    sh("ip link set uplink up");
    for line in [
        "ip -n outside addr add 192.168.77.9/24 dev eth0",
        "ip -n outside addr add 192.0.2.9/32 dev eth0",
        "ip -n outside addr add 192.0.2.200/32 dev eth0",
        "ip -n outside link set eth0 up",
        "ip -n outside link set lo up",
        "ip -n outside route add 10.0.0.0/8 via 192.168.77.1",
        "ip route add 192.0.2.0/24 via 192.168.77.9",
    ] {
        sh(line);
    }
}

/// A socket behind the uplink.
fn far(addr: &str) -> UdpSocket {
    socket(NetnsRef::Name("outside".into()).run(|| UdpSocket::bind(addr)).unwrap().unwrap())
}

/// A socket on the node.
fn near(addr: &str) -> UdpSocket {
    socket(UdpSocket::bind(addr).unwrap())
}

fn socket(socket: UdpSocket) -> UdpSocket {
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket
}

fn heard(socket: &UdpSocket) -> (SocketAddr, String) {
    let mut buf = [0; 2048];
    let (n, from) = socket.recv_from(&mut buf).unwrap();
    (from, String::from_utf8_lossy(&buf[..n]).into_owned())
}

/// Packets that the counters of a chain have seen, rule by rule.
fn counts(chain: &str) -> Vec<u64> {
    let listing = nft::list("test", &["chain", "inet", "swd", chain]).unwrap();
    let rules = listing["nftables"].as_array().unwrap().iter().filter_map(|o| o["rule"]["expr"].as_array());
    rules.filter_map(|r| r.iter().find_map(|s| s["counter"]["packets"].as_u64())).collect()
}

#[test]
fn the_table_is_as_documented() {
    isolated("the_table_is_as_documented", || {
        let mut plan = plan(&[
            mapping(Protocol::Tcp, None, 8080, "10.1.1.2"),
            mapping(Protocol::Udp, Some("192.168.77.1"), 53, "10.1.1.3"),
            mapping(Protocol::Sctp, None, 9, "fd00:1::2"),
            mapping(Protocol::Tcp, Some("127.0.0.1"), 81, "10.1.1.2"),
        ]);
        plan.devices.push(Device { masquerade: false, ..device("swd1", 2) });
        assert!(host().apply(&plan).unwrap());
        let listed = sh("nft -s list table inet swd");
        // Elements of anonymous sets come in the order of their hashes.
        let sorted = |text: &str| -> Vec<String> {
            let parts = |line: &str| {
                let mut parts: Vec<&str> = line.split([',', '{', '}']).map(str::trim).collect();
                parts.sort_unstable();
                parts.join(" | ")
            };
            text.lines().map(parts).collect()
        };
        assert_eq!(sorted(&listed), sorted(include_str!("captures/table.nft")), "{listed}");
    });
}

#[test]
fn applied_once_verified_and_removed_without_a_trace() {
    isolated("applied_once_verified_and_removed_without_a_trace", || {
        sh("nft add table inet other");
        sh("nft add chain inet other c { type nat hook postrouting priority srcnat ; }");
        sh("nft add rule inet other c counter masquerade");
        let others = sh("nft list ruleset");
        let mut host = host();
        assert!(!host.apply(&NodePlan::default()).unwrap(), "nothing was there");
        assert_eq!(sh("nft list ruleset"), others);
        let first = plan(&[]);
        assert!(host.apply(&first).unwrap());
        let ours = nft::table("swd").unwrap().unwrap();
        assert!(!host.apply(&first).unwrap() && host.verify().unwrap());
        let also = NodePlan { underlay: None, ..first.clone() };
        assert!(!host.apply(&also).unwrap(), "nothing of it shows in the rules");
        contains(&sh("nft list ruleset"), &[&others]);

        // A second daemon's, and a second life of the first.
        let mut second = NftHost::new("swd-b").unwrap();
        assert!(second.apply(&first).unwrap() && host.verify().unwrap());
        second.remove().unwrap();
        assert!(host.verify().unwrap());
        let mut again = self::host();
        assert!(again.apply(&first).unwrap());
        assert_eq!(nft::table("swd").unwrap().unwrap(), ours);
        assert!(host.verify().unwrap(), "the same rules");

        // What others do to it is noticed and undone.
        for harm in ["nft flush ruleset", "nft delete table inet swd", "nft flush chain inet swd postrouting"]
        {
            assert!(host.verify().unwrap(), "{harm}");
            sh(harm);
            assert!(!host.verify().unwrap(), "{harm}");
            assert!(host.apply(&first).unwrap(), "{harm}");
            assert_eq!(nft::table("swd").unwrap().unwrap(), ours);
        }
        // Counters that count are no change.
        sh("ip addr add 192.168.77.1/24 dev lo");
        assert!(host.apply(&plan(&[mapping(Protocol::Tcp, None, 1, "10.1.1.2")])).unwrap());
        assert!(host.apply(&NodePlan::default()).unwrap() && host.verify().unwrap());
        host.remove().unwrap();
        assert_eq!(sh("nft list ruleset"), "");
        let mut leftover = self::host();
        assert!(leftover.apply(&first).unwrap());
        assert!(self::host().apply(&NodePlan::default()).unwrap(), "what an earlier run left goes");
        assert_eq!(sh("nft list ruleset"), "");
    });
}

#[test]
fn a_refused_transaction_changes_nothing() {
    isolated("a_refused_transaction_changes_nothing", || {
        let mut host = host();
        let good = plan(&[]);
        host.apply(&good).unwrap();
        let before = sh("nft list ruleset");
        let bad = NodePlan { cluster: nets(&["10.1.0.0/16", "10.1.1.0/24"]), ..good.clone() };
        let e = host.apply(&bad).unwrap_err();
        assert!(e.to_string().starts_with("setting up the table: nft: "), "{e}");
        assert_eq!(sh("nft list ruleset"), before);
        assert!(host.verify().unwrap() && !host.apply(&good).unwrap());
    });
}

/// Takes twice the ten seconds that are being waited for.
#[test]
fn a_tool_that_does_not_end_is_not_waited_for() {
    isolated("a_tool_that_does_not_end_is_not_waited_for", || {
        let mut host = host();
        host.apply(&plan(&[])).unwrap();
        std::fs::write("/run/stuck", "#!/bin/sh\nexec sleep 1000\n").unwrap();
        sh("chmod 755 /run/stuck");
        let tool = super::program::find("nft").unwrap();
        sh(&format!("mount --bind /run/stuck {}", tool.display()));
        let wanted = plan(&[mapping(Protocol::Tcp, None, 8080, "10.1.1.2")]);
        let start = Instant::now();
        let e = host.apply(&wanted).unwrap_err();
        assert!(matches!(e, NodeError::Stuck { .. }), "{e}");
        assert!(e.to_string().contains("nft did not end within 10s and was killed"), "{e}");
        // The rules of others are given up at once, and not asked for again soon.
        for _ in 0..3 {
            let told = host.obstacles();
            assert!(told.iter().any(|o| o.message.contains("takes too long")), "{told:?}");
        }
        let took = start.elapsed();
        assert!((Duration::from_secs(20)..Duration::from_secs(29)).contains(&took), "{took:?}");
        sh(&format!("umount {}", tool.display()));
        // What became of the transaction is not known, so it is made again.
        assert!(!host.verify().unwrap() && host.apply(&wanted).unwrap() && host.verify().unwrap());
        contains(&sh("nft list ruleset"), &["8080"]);
    });
}

#[test]
fn pods_reach_the_outside_by_the_nodes_address() {
    isolated("pods_reach_the_outside_by_the_nodes_address", || {
        outside();
        let plan = plan(&[]);
        let mut wire = Wire::open(&plan.devices[0]);
        host().apply(&plan).unwrap();
        assert_eq!(sysctl::number("ipv4/ip_forward"), Some(1));
        assert_eq!(sysctl::number("ipv6/conf/all/forwarding"), Some(1));
        let far_away = far("192.0.2.9:7");
        wire.send(("10.1.1.2", 1000), ("192.0.2.9", 7), b"hello");
        let (from, text) = heard(&far_away);
        assert_eq!((from.ip(), text.as_str()), (ip("192.168.77.1"), "hello"));
        far_away.send_to(b"welcome", from).unwrap();
        assert_eq!(wire.heard(), "192.0.2.9:7 -> 10.1.1.2:1000: welcome");
        // Except to the range that is excepted.
        let excepted = far("192.0.2.200:7");
        wire.send(("10.1.1.2", 1000), ("192.0.2.200", 7), b"as I am");
        assert_eq!(heard(&excepted), ("10.1.1.2:1000".parse().unwrap(), "as I am".into()));
        // The node is reached and sees who speaks.
        let node = near("10.1.1.1:7");
        wire.send(("10.1.1.2", 1000), ("10.1.1.1", 7), b"neighbour");
        assert_eq!(heard(&node), ("10.1.1.2:1000".parse().unwrap(), "neighbour".into()));
        node.send_to(b"yes", "10.1.1.2:1000").unwrap();
        assert_eq!(wire.heard(), "10.1.1.1:7 -> 10.1.1.2:1000: yes");
        // By its other address as well, as to and from a peer's.
        let node = near("192.168.77.1:7");
        wire.send(("10.1.2.2", 1000), ("192.168.77.1", 7), b"from another node");
        assert_eq!(heard(&node).0, "10.1.2.2:1000".parse().unwrap());
        // And speaks to itself, by the address of its device, untranslated.
        near("10.1.1.1:9").send_to(b"self", "192.168.77.1:7").unwrap();
        assert_eq!(heard(&node).0, "10.1.1.1:9".parse().unwrap());
    });
}

#[test]
fn without_masquerading_nothing_is_translated_or_set() {
    isolated("without_masquerading_nothing_is_translated_or_set", || {
        outside();
        let mut plan = plan(&[]);
        plan.devices[0].masquerade = false;
        let mut wire = Wire::open(&plan.devices[0]);
        host().apply(&plan).unwrap();
        assert_eq!(sysctl::number("ipv4/ip_forward"), Some(0));
        sysctl::set("ipv4/ip_forward", 1).unwrap();
        let far_away = far("192.0.2.9:7");
        wire.send(("10.1.1.2", 1000), ("192.0.2.9", 7), b"hello");
        assert_eq!(heard(&far_away).0, "10.1.1.2:1000".parse().unwrap());
    });
}

#[test]
fn mappings_lead_to_the_pod() {
    isolated("mappings_lead_to_the_pod", || {
        outside();
        let plan = plan(&[
            mapping(Protocol::Udp, None, 8080, "10.1.1.2"),
            mapping(Protocol::Udp, Some("192.168.77.1"), 8081, "10.1.1.3"),
            mapping(Protocol::Udp, Some("127.0.0.1"), 8082, "10.1.1.4"),
            mapping(Protocol::Udp, None, 8080, "fd00:1::2"),
        ]);
        let mut wire = Wire::open(&plan.devices[0]);
        let mut host = host();
        host.apply(&plan).unwrap();
        // From the outside, whose address the pod sees.
        let client = far("192.0.2.9:5000");
        for (port, pod) in [(8080, "10.1.1.2"), (8081, "10.1.1.3")] {
            client.send_to(b"ask", ("192.168.77.1", port)).unwrap();
            assert_eq!(wire.heard(), format!("192.0.2.9:5000 -> {pod}:80: ask"));
            wire.send((pod, 80), ("192.0.2.9", 5000), b"answer");
            assert_eq!(heard(&client), (SocketAddr::new(ip("192.168.77.1"), port), "answer".into()));
        }
        // From the node, by any of its addresses.
        for (to, port, pod) in [
            ("127.0.0.1", 8080, "10.1.1.2"),
            ("127.0.0.1", 8082, "10.1.1.4"),
            ("192.168.77.1", 8080, "10.1.1.2"),
            ("192.168.77.1", 8081, "10.1.1.3"),
            ("10.1.1.1", 8080, "10.1.1.2"),
        ] {
            let client = near("0.0.0.0:0");
            client.send_to(b"ask", (to, port)).unwrap();
            let (from, at, _) = wire.receive();
            assert_eq!(at, SocketAddr::new(ip(pod), 80), "{to}:{port}");
            assert!(!from.ip().is_loopback(), "{to}:{port} by {from}");
            wire.send((pod, 80), (&from.ip().to_string(), from.port()), b"answer");
            assert_eq!(heard(&client), (SocketAddr::new(ip(to), port), "answer".into()));
        }
        let six = near("[::]:0");
        six.send_to(b"ask", "[fd00:1::1]:8080").unwrap();
        let (from, at, _) = wire.receive();
        assert_eq!((from.ip(), at), (ip("fd00:1::1"), "[fd00:1::2]:80".parse().unwrap()));
        wire.send(("fd00:1::2", 80), ("fd00:1::1", from.port()), b"answer");
        assert_eq!(heard(&six).0, "[fd00:1::1]:8080".parse().unwrap());
        // From pods: the same one, another one, one behind a peer. All are answered by way of the node, and no pod is
        // told of a shorter way.
        for pod in ["10.1.1.2", "10.1.1.9", "10.1.2.9"] {
            for to in ["10.1.1.1", "192.168.77.1"] {
                wire.send((pod, 1000), (to, 8080), b"ask");
                let (from, at, _) = wire.receive();
                assert_eq!(
                    (from.ip(), at),
                    (ip("10.1.1.1"), "10.1.1.2:80".parse().unwrap()),
                    "{pod} to {to}"
                );
                wire.send(("10.1.1.2", 80), ("10.1.1.1", from.port()), b"answer");
                assert_eq!(wire.heard(), format!("{to}:8080 -> {pod}:1000: answer"));
            }
        }
        // From another node, whose pods' answer would not come back this way.
        sh("ip -n outside addr add 192.168.77.2/24 dev eth0");
        far("192.168.77.2:5000").send_to(b"ask", "192.168.77.1:8080").unwrap();
        assert_eq!(wire.receive().0.ip(), ip("10.1.1.1"));
    });
}

#[test]
fn what_is_published_for_the_node_alone_stays_on_it() {
    isolated("what_is_published_for_the_node_alone_stays_on_it", || {
        let plan = plan(&[
            mapping(Protocol::Udp, None, 8080, "10.1.1.2"),
            mapping(Protocol::Udp, Some("127.0.0.1"), 8081, "10.1.1.2"),
        ]);
        let mut wire = Wire::open(&plan.devices[0]);
        host().apply(&plan).unwrap();
        // An uplink whose other end sends what no kernel would.
        let mut lan = Tap::open("lan0", TapFlags::default()).unwrap();
        sh("ip link set lan0 address 02:00:00:00:00:01 up");
        sh("ip addr add 192.0.2.1/24 dev lan0");
        for (to, port, text) in [("127.0.0.1", 8081, "not for you"), ("192.0.2.1", 8080, "welcome")] {
            let macs = (MacAddr([2, 0, 0, 0, 0, 2]), MacAddr([2, 0, 0, 0, 0, 1]));
            let frame = build::udp(macs, (ip("192.0.2.9"), ip(to)), (5000, port), text.as_bytes());
            lan.write(&[IoSlice::new(&[0; VNET_HDR_LEN]), IoSlice::new(&frame)]).unwrap();
        }
        assert_eq!(wire.heard(), "192.0.2.9:5000 -> 10.1.1.2:80: welcome");
    });
}

#[test]
fn pods_do_not_get_at_the_nodes_loopback() {
    isolated("pods_do_not_get_at_the_nodes_loopback", || {
        let plan = plan(&[mapping(Protocol::Udp, None, 8080, "10.1.1.2")]);
        let mut wire = Wire::open(&plan.devices[0]);
        host().apply(&plan).unwrap();
        assert_eq!(sysctl::number("ipv4/conf/swd0/route_localnet"), Some(1));
        let secret = near("127.0.0.1:7000");
        wire.send(("10.1.1.2", 1000), ("127.0.0.1", 7000), b"let me in");
        wire.send(("127.0.0.1", 1000), ("10.1.1.1", 7000), b"it is only you");
        let deadline = Instant::now() + PATIENCE;
        while counts("loopback") != [1, 1] {
            assert!(Instant::now() < deadline, "{:?}", counts("loopback"));
            std::thread::yield_now();
        }
        near("127.0.0.1:0").send_to(b"really", "127.0.0.1:7000").unwrap();
        assert_eq!(heard(&secret).1, "really");
    });
}

#[test]
fn networks_stay_apart() {
    isolated("networks_stay_apart", || {
        let mut plan = plan(&[mapping(Protocol::Udp, None, 8080, "10.2.1.2")]);
        plan.devices.push(device("swd1", 2));
        let mut one = Wire::open(&plan.devices[0]);
        let mut two = Wire::open(&plan.devices[1]);
        host().apply(&plan).unwrap();
        one.send(("10.1.1.2", 1000), ("10.2.1.2", 80), b"trespass");
        // What is published may be asked for.
        one.send(("10.1.1.2", 1000), ("10.1.1.1", 8080), b"customer");
        let (from, at, text) = two.receive();
        assert_eq!((at, text.as_slice()), ("10.2.1.2:80".parse().unwrap(), &b"customer"[..]));
        two.send(("10.2.1.2", 80), (&from.ip().to_string(), from.port()), b"goods");
        assert_eq!(one.heard(), "10.1.1.1:8080 -> 10.1.1.2:1000: goods");
        assert_eq!(counts("between"), [1, 0]);
    });
}

#[test]
fn datagrams_follow_a_mapping_that_moves() {
    isolated("datagrams_follow_a_mapping_that_moves", || {
        outside();
        let to = |pod: &str| plan(&[mapping(Protocol::Udp, None, 53, pod)]);
        let mut wire = Wire::open(&to("10.1.1.2").devices[0]);
        let mut host = host();
        let client = far("192.0.2.9:5000");
        host.apply(&plan(&[])).unwrap();
        // Before there is a mapping the flow is the node's.
        let node = near("0.0.0.0:53");
        client.send_to(b"one", "192.168.77.1:53").unwrap();
        assert_eq!(heard(&node).1, "one");
        for pod in ["10.1.1.2", "10.1.1.3"] {
            host.apply(&to(pod)).unwrap();
            client.send_to(b"two", "192.168.77.1:53").unwrap();
            assert_eq!(wire.heard(), format!("192.0.2.9:5000 -> {pod}:80: two"));
        }
        // A new life of the daemon does not cut what goes on.
        let before = sh("conntrack -L -p udp");
        self::host().apply(&to("10.1.1.3")).unwrap();
        contains(&sh("conntrack -L -p udp"), &["src=10.1.1.3 dst=192.0.2.9"]);
        contains(&before, &["src=10.1.1.3 dst=192.0.2.9"]);
        host.apply(&NodePlan::default()).unwrap();
        client.send_to(b"three", "192.168.77.1:53").unwrap();
        assert_eq!(heard(&node).1, "three");
    });
}

#[test]
fn a_node_that_forwards_still_hears_its_routers() {
    isolated("a_node_that_forwards_still_hears_its_routers", || {
        outside();
        let accept = |name: &str| sysctl::number(&format!("ipv6/conf/{name}/accept_ra"));
        sysctl::set("ipv6/conf/uplink/accept_ra", 1).unwrap();
        sh("ip link add quiet type veth peer name end");
        sysctl::set("ipv6/conf/quiet/accept_ra", 0).unwrap();
        sh("ip -6 route add default via fe80::9 dev uplink proto ra");
        let mut host = host();
        host.apply(&plan(&[])).unwrap();
        assert_eq!((accept("uplink"), accept("quiet")), (Some(2), Some(0)));
        assert_eq!(sysctl::number("ipv6/conf/all/forwarding"), Some(1));
        contains(&sh("ip -6 route show default"), &["via fe80::9"]);
        // Somebody else's choice afterwards is left alone; forwarding, which pods depend on, is put back.
        sysctl::set("ipv6/conf/uplink/accept_ra", 0).unwrap();
        sysctl::set("ipv4/ip_forward", 0).unwrap();
        assert!(host.verify().unwrap());
        assert_eq!((accept("uplink"), sysctl::number("ipv4/ip_forward")), (Some(0), Some(1)));
        host.remove().unwrap();
        assert_eq!(sysctl::number("ipv4/ip_forward"), Some(1), "others may have come to need it");
    });
}

#[test]
fn obstacles_of_this_host_are_found() {
    isolated("obstacles_of_this_host_are_found", || {
        outside();
        let plan = plan(&[mapping(Protocol::Tcp, None, 80, "10.1.1.2")]);
        let mut wire = Wire::open(&plan.devices[0]);
        let mut host = host();
        let messages = |host: &mut NftHost| -> Vec<String> {
            host.obstacles().iter().map(ToString::to_string).collect()
        };
        assert_eq!(messages(&mut host), [""; 0], "nothing is wanted yet");
        host.apply(&plan).unwrap();
        assert_eq!(messages(&mut host), [""; 0]);
        sysctl::set("ipv4/conf/uplink/rp_filter", 1).unwrap();
        sh("nft add table inet fw");
        sh("nft add chain inet fw forward { type filter hook forward priority 0 ; policy drop ; }");
        let found = messages(&mut host);
        assert_eq!(found.len(), 2, "{found:?}");
        contains(&found[0], &["uplink takes only packets", "sysctl -w net.ipv4.conf.uplink.rp_filter=2"]);
        contains(&found[1], &["chain forward of table inet fw drops what swd0 forwards"]);
        // What the hints say mends it, and then pods get out.
        for obstacle in host.obstacles() {
            obstacle.hint.split(" && ").for_each(|line| drop(sh(line)));
        }
        assert_eq!(messages(&mut host), [""; 0]);
        let far_away = far("192.0.2.9:7");
        wire.send(("10.1.1.2", 1000), ("192.0.2.9", 7), b"hello");
        assert_eq!(heard(&far_away).0.ip(), ip("192.168.77.1"));
        // Read-only settings, as in many containers.
        sysctl::set("ipv4/ip_forward", 0).unwrap();
        sh("mount --bind -o ro /proc/sys /proc/sys");
        sh("mount -o remount,bind,ro /proc/sys");
        host.verify().unwrap();
        let found = messages(&mut host);
        contains(&found[0], &["net.ipv4.ip_forward is not 1 and cannot be set"]);
    });
}

#[test]
fn what_is_missing_is_named() {
    isolated("what_is_missing_is_named", || {
        // In an empty directory of programs, and with those of the system hidden.
        sh("mount -t tmpfs none /usr/local/sbin");
        sh("mount -t tmpfs none /usr/sbin");
        let mut host = host();
        assert!(!host.apply(&NodePlan::default()).unwrap(), "who has no port of the node needs no nft");
        let plan = plan(&[]);
        let e = host.apply(&plan).unwrap_err();
        assert!(matches!(e, super::NodeError::NoNft), "{e}");
        contains(&e.to_string(), &["install the package nftables"]);
        let found = host.obstacles();
        assert!(found.iter().any(|o| o.message.starts_with("`nft` is not installed")), "{found:?}");
    });
}
