//! The node's own device against the running kernel, in namespaces of its own (see [`super::testing`]).

use std::io::{BufRead, BufReader, IoSlice};
use std::net::IpAddr;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use packet::{MacAddr, VNET_HDR_LEN, build};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::host::HostOpener;
use super::netlink::Netlink;
use super::netns::NetnsRef;
use super::node::NodeLink;
use super::opener::{OpenError, Opener, PortHealth, PortSpec};
use super::route::NodeRoute;
use super::tap::Tap;
use super::testing::{self, contains, sh};
use super::{PortIo as _, READ_BUF_LEN, sysctl};

const GATEWAY: MacAddr = MacAddr([0x0a, 0x53, 0x57, 0, 0, 1]);
const V4: &str = "169.254.1.1";
const V6: &str = "fe80::853:57ff:fe00:1";

fn isolated(name: &str, body: impl FnOnce()) {
    testing::isolated(module_path!(), name, &[], body);
}

fn route(net: &str, source: &str) -> NodeRoute {
    let source: IpAddr = source.parse().unwrap();
    let via = if source.is_ipv4() { V4 } else { V6 };
    NodeRoute { net: net.parse().unwrap(), via: via.parse().unwrap(), source }
}

fn spec(routes: &[NodeRoute]) -> PortSpec {
    let hop = |ip: &str| (ip.parse().unwrap(), GATEWAY);
    PortSpec {
        netns: NetnsRef::own(),
        identity: None,
        ifname: "swd0".into(),
        mac: MacAddr([0x0a, 0x5b, 0, 0, 0, 1]),
        mtu: 1450,
        addresses: vec!["10.1.1.1/24".parse().unwrap(), "fd00:1::1/64".parse().unwrap()],
        gateways: Vec::new(),
        default_route: false,
        offload: true,
        node: Some(NodeLink { next_hops: vec![hop(V4), hop(V6)], routes: routes.to_vec() }),
    }
}

fn both() -> Vec<NodeRoute> {
    vec![
        route("10.1.1.0/24", "10.1.1.1"),
        route("10.1.2.0/24", "10.1.1.1"),
        route("fd00:1::/64", "fd00:1::1"),
        route("fd00:2::/64", "fd00:1::1"),
    ]
}

/// Waits for a frame that ends with `end`, for at most five seconds; one that asks for an address is a failure.
fn frame_with(tap: &mut Tap, end: &[u8]) -> Vec<u8> {
    let deadline = Instant::now() + Duration::from_secs(5);
    let mut buf = vec![0; READ_BUF_LEN];
    while Instant::now() < deadline {
        let Ok(n) = tap.read(&mut buf) else {
            let wait = Timespec { tv_sec: 0, tv_nsec: 100_000_000 };
            poll(&mut [PollFd::new(&*tap, PollFlags::IN)], Some(&wait)).unwrap();
            continue;
        };
        let frame = &buf[VNET_HDR_LEN..n];
        assert_ne!(frame[12..14], [8, 6], "it asks for nobody");
        if frame.ends_with(end) {
            return frame.to_vec();
        }
    }
    panic!("the frame waited for did not come");
}

/// What the kernel tells of IPv4 routes.
struct Monitor {
    child: Child,
    lines: Receiver<String>,
}

impl Monitor {
    const MARK: &str = "10.97.0.0/16";

    fn start() -> Self {
        let mut child = Command::new("stdbuf")
            .args(["-oL", "ip", "-4", "monitor", "route"])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let (tx, lines) = channel();
        let text = BufReader::new(child.stdout.take().unwrap());
        std::thread::spawn(move || text.lines().map_while(Result::ok).try_for_each(|l| tx.send(l)));
        let monitor = Self { child, lines };
        // It listens when it has heard of something.
        let deadline = Instant::now() + Duration::from_secs(5);
        loop {
            assert!(Instant::now() < deadline, "ip monitor hears nothing");
            sh(&format!("ip route replace {} dev lo", Self::MARK));
            sh(&format!("ip route del {}", Self::MARK));
            if monitor.lines.recv_timeout(Duration::from_millis(100)).is_ok() {
                return monitor;
            }
        }
    }

    /// Everything up to now, without the marks.
    fn events(mut self) -> Vec<String> {
        sh("ip route add 10.96.0.0/16 dev lo");
        sh("ip route del 10.96.0.0/16");
        let mut events = Vec::new();
        while let Ok(line) = self.lines.recv_timeout(Duration::from_secs(5)) {
            if line.starts_with("10.96.0.0/16") {
                self.child.kill().unwrap();
                self.child.wait().unwrap();
                return events;
            }
            if !line.contains(Self::MARK) {
                events.push(line);
            }
        }
        panic!("the end waited for did not come: {events:?}");
    }
}

/// The node's routes as `ip` shows them, sorted.
fn routes() -> Vec<String> {
    let text = sh("ip -4 route show") + &sh("ip -6 route show");
    let mut lines: Vec<String> = text.lines().map(|l| l.trim().to_owned()).collect();
    lines.retain(|l| !l.starts_with("fe80::/64"));
    lines.sort();
    lines
}

#[test]
fn device_and_routes_are_as_asked() {
    isolated("device_and_routes_are_as_asked", || {
        sysctl::set("ipv4/conf/all/rp_filter", 1).unwrap();
        let mut opener = HostOpener;
        let spec = spec(&both());
        let port = opener.open_port(&spec).unwrap();
        assert_eq!(
            routes(),
            [
                "10.1.1.0/24 via 169.254.1.1 dev swd0 proto 83 src 10.1.1.1 onlink",
                "10.1.2.0/24 via 169.254.1.1 dev swd0 proto 83 src 10.1.1.1 onlink",
                "fd00:1::/64 via fe80::853:57ff:fe00:1 dev swd0 proto 83 src fd00:1::1 metric 256 onlink pref medium",
                "fd00:2::/64 via fe80::853:57ff:fe00:1 dev swd0 proto 83 src fd00:1::1 metric 256 onlink pref medium",
            ],
            "and none of the prefixes of its addresses"
        );
        let addresses = sh("ip -j addr show swd0");
        contains(
            &addresses,
            &["\"local\":\"10.1.1.1\",\"prefixlen\":32", "\"local\":\"fd00:1::1\",\"prefixlen\":128"],
        );
        assert!(!addresses.contains("tentative") && !addresses.contains("broadcast\":\"10"), "{addresses}");
        let neighbours = sh("ip neigh show dev swd0");
        contains(
            &neighbours,
            &[
                "169.254.1.1 lladdr 0a:53:57:00:00:01 PERMANENT",
                &format!("{V6} lladdr 0a:53:57:00:00:01 PERMANENT"),
            ],
        );
        let setting = |name: &str| sysctl::number(&name.replace("IF", "swd0"));
        assert_eq!(setting("ipv4/conf/IF/rp_filter"), Some(2), "strict was set");
        assert_eq!(setting("ipv4/conf/IF/forwarding"), Some(1));
        assert_eq!(setting("ipv6/conf/IF/forwarding"), Some(1));
        assert_eq!(setting("ipv6/conf/IF/accept_dad"), Some(0));
        assert_eq!(sysctl::number("ipv4/ip_forward"), Some(0), "that of all others is not its business");
        assert_eq!(opener.check_port(&spec, port.place()).unwrap(), PortHealth::Healthy);
        drop(port);
        assert_eq!(routes(), [""; 0], "gone with the device");
    });
}

#[test]
fn the_node_speaks_to_pods_without_asking() {
    isolated("the_node_speaks_to_pods_without_asking", || {
        let port = HostOpener.open_port(&spec(&both())).unwrap();
        let mut tap = Tap::from_fd(port.fd, true).unwrap();
        for (to, from, source, ethertype) in [
            ("10.1.2.9:9", "0.0.0.0:0", &[10, 1, 1, 1][..], [8, 0]),
            (
                "[fd00:2::9]:9",
                "[::]:0",
                &[0xfd, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1][..],
                [0x86, 0xdd],
            ),
        ] {
            let socket = std::net::UdpSocket::bind(from).unwrap();
            socket.send_to(b"hello", to).unwrap();
            let frame = frame_with(&mut tap, b"hello");
            assert_eq!((&frame[..6], &frame[12..14]), (&GATEWAY.0[..], &ethertype[..]));
            let at = if source.len() == 4 { 26 } else { 22 };
            assert_eq!(&frame[at..at + source.len()], source);
        }
    });
}

#[test]
fn the_node_hears_senders_it_would_answer_otherwise() {
    isolated("the_node_hears_senders_it_would_answer_otherwise", || {
        sysctl::set("ipv4/conf/all/rp_filter", 1).unwrap();
        sh("ip link add uplink type veth peer name end");
        sh("ip addr add 192.168.77.1/24 dev uplink");
        sh("ip link set uplink up");
        sh("ip link set end up");
        let spec = spec(&both());
        let port = HostOpener.open_port(&spec).unwrap();
        let mut tap = Tap::from_fd(port.fd, true).unwrap();
        let socket = std::net::UdpSocket::bind("10.1.1.1:0").unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        let to = socket.local_addr().unwrap();
        // A process of another node, by its underlay address.
        let peer: IpAddr = "192.168.77.2".parse().unwrap();
        let frame = build::udp((GATEWAY, spec.mac), (peer, to.ip()), (9, to.port()), b"from afar");
        tap.write(&[IoSlice::new(&[0; VNET_HDR_LEN]), IoSlice::new(&frame)]).unwrap();
        let mut buf = [0; 64];
        let (n, from) = socket.recv_from(&mut buf).unwrap();
        assert_eq!((&buf[..n], from.ip()), (&b"from afar"[..], peer));
    });
}

#[test]
fn routes_change_while_the_device_runs() {
    isolated("routes_change_while_the_device_runs", || {
        let mut opener = HostOpener;
        let first = spec(&both());
        let port = opener.open_port(&first).unwrap();
        let place = port.place();
        // Somebody else's route on our device, and ours on somebody else's.
        sh("ip route add 10.99.0.0/16 via 169.254.1.1 dev swd0 onlink");
        sh("ip route add 10.98.0.0/16 dev lo proto 83");
        let mut wanted =
            vec![both()[0], route("10.1.3.0/24", "10.1.1.1"), both()[2], route("fd00:3::/64", "fd00:1::1")];
        let second = spec(&wanted);
        assert!(first.same_device(&second));
        let monitor = Monitor::start();
        opener.restore_port(&second, place).unwrap();
        let events = monitor.events();
        assert!(events.iter().any(|e| e.starts_with("Deleted 10.1.2.0/24")), "{events:?}");
        assert!(events.iter().any(|e| e.starts_with("10.1.3.0/24")), "{events:?}");
        assert!(!events.iter().any(|e| e.contains("10.1.1.0/24")), "what stays is never gone: {events:?}");
        let now = routes();
        assert_eq!(now.len(), 6, "{now:?}");
        for (net, there) in
            [("10.1.1.0/24", true), ("10.1.2.0/24", false), ("10.1.3.0/24", true), ("10.99.0.0/16", true)]
        {
            assert_eq!(now.iter().any(|r| r.starts_with(net)), there, "{net} in {now:?}");
        }
        assert!(now.iter().any(|r| r.starts_with("10.98.0.0/16 dev lo")), "{now:?}");
        contains(&sh("ip -j link show swd0"), &[&format!("\"ifindex\":{}", place.ifindex), "LOWER_UP"]);
        assert_eq!(opener.check_port(&second, place).unwrap(), PortHealth::Healthy);
        assert_eq!(
            opener.check_port(&first, place).unwrap(),
            PortHealth::RouteMissing { net: "10.1.2.0/24".parse().unwrap() }
        );
        // A changed source replaces the route.
        let mut moved = second.clone();
        moved.addresses.push("10.1.1.254/24".parse().unwrap());
        wanted[0] = route("10.1.1.0/24", "10.1.1.254");
        moved.node = spec(&wanted).node;
        let monitor = Monitor::start();
        opener.restore_port(&moved, place).unwrap();
        let events = monitor.events();
        assert!(!events.iter().any(|e| e.starts_with("Deleted")), "replaced in one step: {events:?}");
        contains(
            &routes().join("\n"),
            &["10.1.1.0/24 via 169.254.1.1 dev swd0 proto 83 src 10.1.1.254 onlink"],
        );
        opener.restore_port(&moved, place).unwrap();
        assert_eq!(opener.check_port(&moved, place).unwrap(), PortHealth::Healthy);
        drop(port);
        let e = opener.restore_port(&moved, place).unwrap_err();
        assert!(e.to_string().contains("is not there any more"), "{e}");
    });
}

#[test]
fn what_is_lost_is_noticed_and_put_back() {
    isolated("what_is_lost_is_noticed_and_put_back", || {
        let mut opener = HostOpener;
        let spec = spec(&both());
        let port = opener.open_port(&spec).unwrap();
        let place = port.place();
        let whole = routes();
        let health = |opener: &mut HostOpener| opener.check_port(&spec, place).unwrap();
        for (harm, expected) in [
            ("ip route del 10.1.2.0/24", PortHealth::RouteMissing { net: "10.1.2.0/24".parse().unwrap() }),
            ("ip -6 route del fd00:2::/64", PortHealth::RouteMissing { net: "fd00:2::/64".parse().unwrap() }),
            (
                "ip route change 10.1.1.0/24 via 169.254.1.9 dev swd0 onlink proto 83 src 10.1.1.1",
                PortHealth::RouteMissing { net: "10.1.1.0/24".parse().unwrap() },
            ),
            ("ip neigh del 169.254.1.1 dev swd0", PortHealth::NextHopMissing { addr: V4.parse().unwrap() }),
            (
                "ip neigh replace fe80::853:57ff:fe00:1 lladdr 02:00:00:00:00:07 dev swd0 nud permanent",
                PortHealth::NextHopMissing { addr: V6.parse().unwrap() },
            ),
            (
                "ip addr del 10.1.1.1/32 dev swd0",
                PortHealth::AddressMissing { addr: "10.1.1.1".parse().unwrap() },
            ),
            (
                "ip addr del fd00:1::1/128 dev swd0",
                PortHealth::AddressMissing { addr: "fd00:1::1".parse().unwrap() },
            ),
        ] {
            sh(harm);
            assert_eq!(health(&mut opener), expected, "{harm}");
            opener.restore_port(&spec, place).unwrap();
            assert_eq!((health(&mut opener), routes()), (PortHealth::Healthy, whole.clone()), "{harm}");
        }
        // Down and up again takes everything away.
        sh("ip link set swd0 down");
        assert_eq!(health(&mut opener), PortHealth::Down);
        sh("ip link set swd0 up");
        assert_ne!(health(&mut opener), PortHealth::Healthy);
        opener.restore_port(&spec, place).unwrap();
        assert_eq!((health(&mut opener), routes()), (PortHealth::Healthy, whole));
    });
}

#[test]
fn a_range_that_is_routed_elsewhere_is_refused() {
    isolated("a_range_that_is_routed_elsewhere_is_refused", || {
        let mut opener = HostOpener;
        sh("ip link add other type veth peer name end");
        sh("ip addr add 10.1.2.9/24 dev other");
        sh("ip -6 addr add fd00:9::9/64 dev other nodad");
        sh("ip link set other up");
        sh("ip link set end up");
        let before = routes();
        let e = opener.open_port(&spec(&both())).unwrap_err();
        assert!(e.to_string().contains("other has one already"), "{e}");
        assert!(!sh("ip -j link").contains("swd0"), "nothing is left");
        assert_eq!(routes(), before);

        // In an update, everything is as it was.
        let first = spec(&[both()[0], both()[2]]);
        let port = opener.open_port(&first).unwrap();
        let before = routes();
        for taken in ["10.1.2.0/24", "fd00:9::/64"] {
            let source = if taken.starts_with('1') { "10.1.1.1" } else { "fd00:1::1" };
            let mut wanted = spec(&[route("10.1.3.0/24", "10.1.1.1"), route(taken, source), both()[2]]);
            wanted.addresses.push("10.1.1.77/24".parse().unwrap());
            let e = opener.restore_port(&wanted, port.place()).unwrap_err();
            assert!(matches!(e, OpenError::Netlink { .. }), "{e}");
            contains(&e.to_string(), &[&format!("adding a route to {taken}"), "other has one already"]);
            assert_eq!(routes(), before);
            assert!(!sh("ip addr").contains("10.1.1.77"));
        }
        assert_eq!(opener.check_port(&first, port.place()).unwrap(), PortHealth::Healthy);
    });
}

#[test]
fn the_node_has_no_device_in_a_pod() {
    isolated("the_node_has_no_device_in_a_pod", || {
        sh("ip netns add pod");
        let pod = PortSpec { netns: NetnsRef::Name("pod".into()), ..spec(&both()) };
        let e = HostOpener.open_port(&pod).unwrap_err();
        assert!(matches!(&e, OpenError::Invalid(text) if text.contains("not the switch's own")), "{e}");
    });
}

#[test]
fn many_routes() {
    isolated("many_routes", || {
        let many: Vec<NodeRoute> =
            (0..2000).map(|n| route(&format!("10.{}.{}.0/24", 2 + n / 256, n % 256), "10.1.1.1")).collect();
        let mut opener = HostOpener;
        let all = spec(&many);
        let port = opener.open_port(&all).unwrap();
        assert_eq!(Netlink::open().unwrap().node_routes(port.ifindex).unwrap().len(), 2000);
        assert_eq!(opener.check_port(&all, port.place()).unwrap(), PortHealth::Healthy);
        opener.restore_port(&spec(&many[..1]), port.place()).unwrap();
        let one = vec![(many[0].net, Some(many[0]))];
        assert_eq!(Netlink::open().unwrap().node_routes(port.ifindex).unwrap(), one);
    });
}
