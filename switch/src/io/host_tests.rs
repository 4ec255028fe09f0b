//! The host side against the running kernel, in namespaces of its own (see [`super::testing`]).

use std::io::IoSlice;
use std::net::IpAddr;
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::time::{Duration, Instant};

use packet::{MacAddr, VNET_HDR_LEN, build};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::host::{ALIAS, HostOpener};
use super::identity::NetnsIdentity;
use super::link::{GSO_MAX_SIZE, LinkChange};
use super::netlink::Netlink;
use super::netns::{NetnsId, NetnsRef};
use super::opener::{DeviceName, OpenError, OpenedPort, Opener, PortHealth, PortSpec};
use super::tap::{Offloads, Tap, TapFlags};
use super::testing::{self, contains, sh};
use super::{IoFault, PortIo, READ_BUF_LEN};

const POD_MAC: MacAddr = MacAddr([2, 0, 0, 0, 0, 0x42]);

fn isolated(name: &str, body: impl FnOnce()) {
    testing::isolated(module_path!(), name, &[], body);
}

fn spec() -> PortSpec {
    PortSpec {
        netns: NetnsRef::Name("pod".into()),
        identity: None,
        ifname: "eth0".into(),
        mac: POD_MAC,
        mtu: 1450,
        addresses: vec!["10.1.1.2/24".parse().unwrap(), "fd00:1::2/64".parse().unwrap()],
        gateways: vec!["10.1.1.1".parse().unwrap(), "fd00:1::1".parse().unwrap()],
        default_route: true,
        offload: true,
        node: None,
    }
}

/// Reads frames until one pleases, for at most five seconds.
fn read_until(tap: &mut Tap, mut pleases: impl FnMut(&[u8]) -> bool) {
    let deadline = Instant::now() + Duration::from_secs(5);
    let mut buf = vec![0; READ_BUF_LEN];
    while Instant::now() < deadline {
        match tap.read(&mut buf) {
            Ok(n) if pleases(&buf[VNET_HDR_LEN..n]) => return,
            Ok(_) => {}
            Err(e) if IoFault::of(&e) == IoFault::WouldBlock => {
                let wait = Timespec { tv_sec: 0, tv_nsec: 100_000_000 };
                poll(&mut [PollFd::new(&*tap, PollFlags::IN)], Some(&wait)).unwrap();
            }
            Err(e) => panic!("{e}"),
        }
    }
    panic!("the frame waited for did not come");
}

/// Asks the pod for its address.
fn speaks(tap: &mut Tap) {
    let us = MacAddr([2, 0, 0, 0, 0, 1]);
    let [asker, asked] = ["10.1.1.1", "10.1.1.2"].map(|a| a.parse().unwrap());
    let frame = build::arp((us, MacAddr::BROADCAST), 1, (us, asker), (MacAddr::ZERO, asked));
    let sent = tap.write(&[IoSlice::new(&[0; VNET_HDR_LEN]), IoSlice::new(&frame)]).unwrap();
    assert_eq!(sent, VNET_HDR_LEN + frame.len());
    read_until(tap, |f| f[..6] == us.0 && f[6..12] == POD_MAC.0 && f[12..14] == [8, 6]);
}

/// Opens a port that outlives its descriptor.
fn kept(spec: &PortSpec) -> OpenedPort {
    let port = HostOpener.open_port(spec).unwrap();
    HostOpener.keep_port(spec, port.place(), port.fd.as_fd()).unwrap();
    port
}

fn name(spec: &PortSpec) -> DeviceName {
    DeviceName { netns: spec.netns.clone(), identity: spec.identity.clone(), ifname: spec.ifname.clone() }
}

#[test]
fn tap_gets_every_offload_and_is_adopted() {
    isolated("tap_gets_every_offload_and_is_adopted", || {
        let tap = Tap::open("t0", TapFlags::default()).unwrap();
        assert_eq!(tap.name(), "t0");
        assert!(tap.offloads().tso(), "{}", tap.offloads());
        assert!(tap.is_attached());
        let again = Tap::open("t0", TapFlags::default()).unwrap_err();
        assert_eq!(again.raw_os_error(), Some(libc::EBUSY));
        let attached = Tap::open("t0", TapFlags { must_create: false, offload: true }).unwrap_err();
        assert_eq!(attached.raw_os_error(), Some(libc::EBUSY));
        let granted = tap.offloads();
        let plain = Tap::from_fd(tap.into_fd(), false).unwrap();
        assert_eq!((plain.offloads(), plain.name()), (Offloads::NONE, "t0"));
        let rich = Tap::from_fd(plain.into_fd(), true).unwrap();
        assert_eq!(rich.offloads(), granted);
        drop(rich);
        assert_eq!(Netlink::open().unwrap().link("t0").unwrap(), None);
        let plain = Tap::open("t0", TapFlags { offload: false, must_create: true }).unwrap();
        assert_eq!(plain.offloads(), Offloads::NONE);
    });
}

#[test]
fn tap_without_our_header_is_not_adopted() {
    isolated("tap_without_our_header_is_not_adopted", || {
        sh("ip tuntap add t1 mode tap");
        assert!(
            Tap::open("t1", TapFlags { offload: true, must_create: false }).is_ok(),
            "flags are set on attach"
        );
        sh("ip tuntap add t2 mode tap multi_queue");
        assert!(Tap::open("t2", TapFlags { offload: true, must_create: false }).is_err());
        sh("ip tuntap add t3 mode tun");
        assert!(Tap::open("t3", TapFlags { offload: true, must_create: false }).is_err());
    });
}

#[test]
fn port_is_ready_to_use() {
    isolated("port_is_ready_to_use", || {
        sh("ip netns add pod");
        let mut opener = HostOpener;
        let port = opener.open_port(&spec()).unwrap();
        assert_eq!(port.netns_id, NetnsRef::Name("pod".into()).id().unwrap());
        assert_ne!(port.netns_id, NetnsId::current().unwrap());
        assert_eq!((port.gso_max_size, port.adopted), (GSO_MAX_SIZE, false));
        let link = sh("ip -n pod -j -d link show eth0");
        let gso = format!("\"gso_max_size\":{GSO_MAX_SIZE}");
        let alias = format!("\"ifalias\":\"{ALIAS}\"");
        contains(
            &link,
            &["\"mtu\":1450", "\"address\":\"02:00:00:00:00:42\"", "\"UP\"", "LOWER_UP", &gso, &alias],
        );
        contains(&link, &["\"txqlen\":1000", &format!("\"ifindex\":{}", port.ifindex)]);
        let addresses = sh("ip -n pod -j addr show eth0");
        contains(&addresses, &["\"local\":\"10.1.1.2\",\"prefixlen\":24", "\"broadcast\":\"10.1.1.255\""]);
        contains(&addresses, &["\"local\":\"fd00:1::2\",\"prefixlen\":64", "\"nodad\":true"]);
        assert!(!addresses.contains("tentative"), "usable at once: {addresses}");
        contains(&sh("ip -n pod -j route show default"), &["\"gateway\":\"10.1.1.1\",\"dev\":\"eth0\""]);
        contains(&sh("ip -n pod -j -6 route show default"), &["\"gateway\":\"fd00:1::1\",\"dev\":\"eth0\""]);
        let place = port.place();
        assert_eq!(opener.check_port(&spec(), place).unwrap(), PortHealth::Healthy);
        let setting = || std::fs::read_to_string("/proc/sys/net/ipv6/conf/eth0/accept_ra");
        assert_eq!(spec().netns.run(setting).unwrap().unwrap(), "0\n");

        let mut tap = Tap::from_fd(port.fd, true).unwrap();
        speaks(&mut tap);
        drop(tap);
        assert_eq!(opener.check_port(&spec(), place).unwrap(), PortHealth::IfaceGone);
    });
}

#[test]
fn host_address_and_gateway_outside_the_prefix() {
    isolated("host_address_and_gateway_outside_the_prefix", || {
        sh("ip netns add pod");
        let own = PortSpec {
            addresses: vec!["10.1.1.2/32".parse().unwrap(), "fd00:1::2/128".parse().unwrap()],
            gateways: vec!["169.254.1.1".parse().unwrap(), "fe80::1".parse().unwrap()],
            offload: false,
            ..spec()
        };
        let port = HostOpener.open_port(&own).unwrap();
        assert_eq!(port.offloads, Offloads::NONE);
        let route = sh("ip -n pod -j route show default");
        contains(&route, &["\"gateway\":\"169.254.1.1\"", "onlink"]);
        contains(&sh("ip -n pod -j -6 route show default"), &["\"gateway\":\"fe80::1\""]);
        contains(&sh("ip -n pod -j link show eth0"), &["\"txqlen\":4000"]);
        // Everything is repeatable.
        let (index, addresses) = (port.ifindex, own.addresses.clone());
        own.netns
            .run(|| {
                let mut netlink = Netlink::open().unwrap();
                netlink.add_address(index, addresses[0]).unwrap();
                netlink.add_default_route(index, "169.254.1.1".parse().unwrap(), &addresses).unwrap();
                netlink.add_default_route(index, "fe80::1".parse().unwrap(), &addresses).unwrap();
                let other: IpAddr = "169.254.1.9".parse().unwrap();
                let e = netlink.add_default_route(index, other, &addresses).unwrap_err();
                assert!(e.to_string().contains("has one already, by 169.254.1.1"), "{e}");
            })
            .unwrap();
    });
}

#[test]
fn ipv6_is_switched_on_where_it_is_needed() {
    isolated("ipv6_is_switched_on_where_it_is_needed", || {
        sh("ip netns add pod");
        let off = || std::fs::write("/proc/sys/net/ipv6/conf/default/disable_ipv6", "1");
        spec().netns.run(off).unwrap().unwrap();
        let _port = HostOpener.open_port(&spec()).unwrap();
        contains(&sh("ip -n pod -j -6 addr show eth0"), &["fd00:1::2"]);
        let v4_only = PortSpec {
            ifname: "eth1".into(),
            addresses: vec!["10.2.1.2/24".parse().unwrap()],
            default_route: false,
            ..spec()
        };
        let _second = HostOpener.open_port(&v4_only).unwrap();
        assert_eq!(sh("ip -n pod -6 addr show eth1"), "", "left as it was");
    });
}

#[test]
fn many_ports_in_one_namespace() {
    isolated("many_ports_in_one_namespace", || {
        sh("ip netns add pod");
        let fds_before = std::fs::read_dir("/proc/self/fd").unwrap().count();
        let open = |n: u8| {
            let own = PortSpec {
                ifname: format!("port{n}"),
                mac: MacAddr([2, 0, 0, 0, 1, n]),
                addresses: vec![format!("10.3.{n}.2/24").parse().unwrap()],
                default_route: false,
                ..spec()
            };
            HostOpener.open_port(&own).unwrap()
        };
        let ports: Vec<_> = (0..64).map(open).collect();
        let count = || spec().netns.run(|| Netlink::open().unwrap().links().unwrap().len()).unwrap();
        assert_eq!(count(), 65);
        assert_eq!(
            std::fs::read_dir("/proc/self/fd").unwrap().count(),
            fds_before + 64,
            "one descriptor each"
        );
        drop(ports);
        assert_eq!(count(), 1);
    });
}

#[test]
fn failure_leaves_nothing_behind() {
    isolated("failure_leaves_nothing_behind", || {
        sh("ip netns add pod");
        let mut opener = HostOpener;
        sh("ip -n pod link add eth0 type veth peer name other");
        let e = opener.open_port(&spec()).unwrap_err();
        assert!(matches!(&e, OpenError::IfaceExists { kind, .. } if kind == "veth"), "{e}");
        sh("ip -n pod link set eth0 name eth9");
        sh("ip -n pod addr add 10.9.9.9/24 dev eth9");
        sh("ip -n pod link set eth9 up");
        sh("ip -n pod link set other up");
        sh("ip -n pod route add default via 10.9.9.1 dev eth9");
        let e = opener.open_port(&spec()).unwrap_err();
        assert!(e.to_string().contains("has one already, by 10.9.9.1"), "{e}");
        assert!(!sh("ip -n pod -j link").contains("\"eth0\""));
        assert!(opener.open_port(&PortSpec { default_route: false, ..spec() }).is_ok());
        sh("ip netns exec pod ip tuntap add foreign mode tap");
        let foreign = PortSpec { ifname: "foreign".into(), ..spec() };
        let e = opener.open_port(&foreign).unwrap_err();
        assert!(matches!(&e, OpenError::IfaceExists { kind, .. } if kind == "tun"), "{e}");
        let own = PortSpec { netns: NetnsRef::Path("/proc/self/ns/net".into()), ..spec() };
        assert!(matches!(opener.open_port(&own), Err(OpenError::OwnNamespace(_))));
    });
}

#[test]
fn kept_port_is_found_again() {
    isolated("kept_port_is_found_again", || {
        sh("ip netns add pod");
        let mut opener = HostOpener;
        let lasting = spec();
        let first = kept(&lasting);
        assert!(!first.adopted && !first.lasting);
        let place = first.place();
        let e = opener.open_port(&lasting).unwrap_err();
        assert!(matches!(e, OpenError::Busy { .. }), "{e}");
        drop(first);
        let left = sh("ip -n pod -j -d link show eth0");
        contains(&left, &["\"persist\":true", "\"user\":\"root\"", "NO-CARRIER"]);
        // Who was asked for while there was nobody to answer is asked for at once, not in a second.
        sh("ip -n pod neigh replace 10.1.1.1 dev eth0 nud failed");
        sh("ip -n pod neigh replace fd00:1::1 dev eth0 nud failed");
        sh("ip -n pod neigh replace 10.1.1.9 lladdr 02:00:00:00:00:09 dev eth0 nud permanent");
        let second = opener.open_port(&PortSpec { mtu: 1400, ..lasting.clone() }).unwrap();
        let neighbours = sh("ip -n pod neigh show dev eth0 nud all");
        assert!(!neighbours.contains("FAILED") && neighbours.contains("10.1.1.9"), "{neighbours}");
        assert!(second.adopted && second.lasting);
        assert_eq!(second.place(), place);
        contains(&sh("ip -n pod -j link show eth0"), &["\"mtu\":1400", "LOWER_UP"]);
        contains(&sh("ip -n pod -j route show default"), &["10.1.1.1"]);
        // Another default route is its pod's own choice by now.
        drop(second);
        let other = PortSpec { gateways: vec!["10.1.1.9".parse().unwrap()], ..lasting.clone() };
        drop(opener.open_port(&other).unwrap());
        contains(&sh("ip -n pod -j route show default"), &["10.1.1.1"]);
        // An adopted port survives a failed attempt to open it.
        sh("ip -n pod route del default");
        let bad = PortSpec { gateways: vec!["10.1.1.2".parse().unwrap()], ..lasting.clone() };
        assert!(opener.open_port(&bad).is_err());
        drop(opener.open_port(&lasting).unwrap());
        contains(&sh("ip -n pod -j route show default"), &["10.1.1.1"]);
        assert_eq!(opener.check_port(&lasting, place).unwrap(), PortHealth::Healthy);
        opener.close_port(&lasting, place).unwrap();
        assert_eq!(opener.check_port(&lasting, place).unwrap(), PortHealth::IfaceGone);
        opener.close_port(&lasting, place).unwrap();
    });
}

/// An ioctl of the TUN driver on somebody's descriptor; what this kernel does not know is not held against it.
fn tun(tap: &Tap, request: libc::c_ulong, argument: &[u8]) {
    // SAFETY: the descriptor is open, and no request of these tests reads more than the bytes that are given.
    unsafe { libc::ioctl(tap.as_raw_fd(), request as _, argument.as_ptr()) };
}

/// Somebody attaches while nobody serves the port, and leaves everything else than it was.
#[test]
fn what_a_foreign_attacher_changed_is_set_again() {
    isolated("what_a_foreign_attacher_changed_is_set_again", || {
        sh("ip netns add pod");
        let first = kept(&spec());
        let (place, offloads) = (first.place(), first.offloads);
        // One that never was without carrier has not told its state yet.
        let all = || sh("ip -n pod -j -d link show eth0").replace("\"UNKNOWN\"", "\"UP\"");
        let before = all();
        drop(first);
        let attach = || Tap::open("eth0", TapFlags { offload: false, must_create: false }).unwrap();
        let foreign = spec().netns.run(attach).unwrap();
        tun(&foreign, 0x4004_54d8, &12_i32.to_ne_bytes()); // TUNSETVNETHDRSZ
        tun(&foreign, 0x4004_54de, &1_i32.to_ne_bytes()); // TUNSETVNETBE
        // TUNSETTXFILTER: one address, and it is not ours.
        tun(&foreign, 0x4004_54d1, &[0, 0, 1, 0, 2, 2, 2, 2, 2, 2]);
        // SAFETY: TUNSETOWNER takes its argument by value.
        unsafe { libc::ioctl(foreign.as_raw_fd(), 0x4004_54cc, 0) };
        sh("ip -n pod link set eth0 mtu 1300 address 02:00:00:00:00:99 txqueuelen 5 gso_max_size 3000");
        sh("ip -n pod addr add 10.7.7.7/24 dev eth0");
        sh("ip -n pod route del default");
        sh("ip -n pod link set eth0 down");
        let e = HostOpener.open_port(&spec()).unwrap_err();
        assert!(matches!(&e, OpenError::Busy { .. }) && e.to_string().contains("another process"), "{e}");
        drop(foreign);
        let second = HostOpener.open_port(&spec()).unwrap();
        assert_eq!((second.adopted, second.place(), second.offloads), (true, place, offloads));
        assert_eq!(all(), before, "all of it is as it was");
        contains(&sh("ip -n pod -j addr show eth0"), &["10.1.1.2", "fd00:1::2", "10.7.7.7"]);
        assert_eq!(HostOpener.check_port(&spec(), place).unwrap(), PortHealth::Healthy);
        speaks(&mut Tap::from_fd(second.fd, true).unwrap());
    });
}

#[test]
fn a_device_with_other_addresses_is_another_ports() {
    isolated("a_device_with_other_addresses_is_another_ports", || {
        sh("ip netns add pod");
        let first = kept(&spec());
        drop(first.fd);
        let other = PortSpec { addresses: vec!["10.1.1.77/24".parse().unwrap()], ..spec() };
        let second = HostOpener.open_port(&other).unwrap();
        assert!(!second.adopted && second.ifindex != first.ifindex);
        let addresses = sh("ip -n pod -j addr show eth0");
        assert!(!addresses.contains("\"10.1.1.2\"") && addresses.contains("10.1.1.77"), "{addresses}");
        // Of a port that declares none they are the pod's business.
        let free = PortSpec { ifname: "eth1".into(), addresses: Vec::new(), default_route: false, ..spec() };
        let first = kept(&free);
        drop(first.fd);
        sh("ip -n pod addr add 10.8.8.8/24 dev eth1");
        let second = HostOpener.open_port(&free).unwrap();
        assert!(second.adopted && second.ifindex == first.ifindex);
    });
}

#[test]
fn a_kept_port_is_removed_whatever_it_is_called() {
    isolated("a_kept_port_is_removed_whatever_it_is_called", || {
        sh("ip netns add pod");
        let mut opener = HostOpener;
        let port = kept(&spec());
        let left = || sh("ip -n pod -br link").lines().count();
        sh("ip -n pod link set eth0 name eth7");
        opener.close_port(&spec(), port.place()).unwrap();
        assert_eq!(left(), 1, "it is gone when this returns, whoever holds it");
        drop(port.fd);
        // With the descriptor also from where it was moved to.
        sh("ip netns add elsewhere");
        let port = kept(&spec());
        sh("ip -n pod link set eth0 netns elsewhere");
        opener.close_port(&spec(), port.place()).unwrap();
        contains(&sh("ip -n elsewhere -br link"), &["eth0"]);
        super::closing::let_go(port.fd);
        until(|| !sh("ip -n elsewhere -br link").contains("eth0"));
    });
}

/// Waits for what other threads do, for at most five seconds.
fn until(mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(5);
    while !done() {
        assert!(Instant::now() < deadline, "it did not happen");
        std::thread::yield_now();
    }
}

#[test]
fn leftovers_are_discarded_where_they_were_made_and_nobody_holds_them() {
    isolated("leftovers_are_discarded_where_they_were_made_and_nobody_holds_them", || {
        sh("ip netns add pod");
        let mut opener = HostOpener;
        let there = || sh("ip -n pod -br link").contains("eth0");
        let port = kept(&spec());
        let device = DeviceName { identity: Some(port.identity.clone()), ..name(&spec()) };
        let e = opener.discard_port(&device).unwrap_err();
        assert!(matches!(e, OpenError::Busy { .. }) && there(), "{e}");
        drop(port.fd);
        let another = DeviceName { identity: Some(NetnsIdentity::stored("another")), ..device.clone() };
        assert!(!opener.discard_port(&another).unwrap() && there(), "a namespace that is used again");
        assert!(opener.discard_port(&device).unwrap() && !there());
        assert!(!opener.discard_port(&device).unwrap());
        sh("ip -n pod tuntap add eth0 mode tap");
        assert!(!opener.discard_port(&device).unwrap() && there(), "not ours");
        let nowhere = DeviceName { netns: NetnsRef::Name("gone".into()), ..device };
        assert!(!opener.discard_port(&nowhere).unwrap());
    });
}

#[test]
fn down_is_transient_and_deleted_is_final() {
    isolated("down_is_transient_and_deleted_is_final", || {
        sh("ip netns add pod");
        let mut opener = HostOpener;
        let port = opener.open_port(&spec()).unwrap();
        let place = port.place();
        let mut tap = Tap::from_fd(port.fd, true).unwrap();
        let frame = [0; VNET_HDR_LEN + 60];
        sh("ip -n pod link set eth0 down");
        let e = tap.write(&[IoSlice::new(&frame)]).unwrap_err();
        assert_eq!((e.raw_os_error(), IoFault::of(&e)), (Some(libc::EIO), IoFault::Transient));
        assert_eq!(opener.check_port(&spec(), place).unwrap(), PortHealth::Down);
        sh("ip -n pod link set eth0 up");
        tap.write(&[IoSlice::new(&frame)]).unwrap();
        sh("ip -n pod link set eth0 mtu 1300");
        assert_eq!(opener.check_port(&spec(), place).unwrap(), PortHealth::MtuChanged { found: 1300 });
        sh("ip -n pod link set eth0 mtu 1450 address 02:00:00:00:00:99");
        let found = MacAddr([2, 0, 0, 0, 0, 0x99]);
        assert_eq!(opener.check_port(&spec(), place).unwrap(), PortHealth::MacChanged { found });

        sh("ip -n pod link del eth0");
        let mut polled = [PollFd::new(&tap, PollFlags::IN)];
        let wait = Timespec { tv_sec: 5, tv_nsec: 0 };
        assert_eq!(poll(&mut polled, Some(&wait)).unwrap(), 1, "deletion wakes the poll loop");
        let mut buf = [0; 128];
        let mut drained = 0;
        let e = loop {
            match tap.read(&mut buf) {
                Ok(_) if drained < 1000 => drained += 1,
                Ok(_) => panic!("a deleted device that keeps sending"),
                Err(e) => break e,
            }
        };
        assert_eq!(IoFault::of(&e), IoFault::PortGone, "{e}");
        assert_eq!(IoFault::of(&tap.write(&[IoSlice::new(&frame)]).unwrap_err()), IoFault::PortGone);
        assert!(!tap.is_attached());
        let stale = tap.into_fd();
        assert!(Tap::from_fd(stale, true).is_err());
    });
}

#[test]
fn namespace_deleted_or_replaced_is_noticed() {
    isolated("namespace_deleted_or_replaced_is_noticed", || {
        sh("ip netns add pod");
        let mut opener = HostOpener;
        let port = opener.open_port(&spec()).unwrap();
        let (place, port_identity) = (port.place(), port.identity.clone());
        sh("ip netns del pod");
        assert_eq!(opener.check_port(&spec(), place).unwrap(), PortHealth::NetnsGone);
        let tap = Tap::from_fd(port.fd, true).unwrap();
        assert!(tap.is_attached(), "our descriptor keeps the namespace alive");
        sh("ip netns add pod");
        assert_eq!(opener.check_port(&spec(), place).unwrap(), PortHealth::NetnsReplaced);
        opener.close_port(&spec(), place).unwrap();
        drop(tap);
        let known = PortSpec { identity: Some(port_identity), ..spec() };
        let e = opener.open_port(&known).unwrap_err();
        assert!(matches!(e, OpenError::Replaced(_)), "{e}");
        assert!(!sh("ip -n pod link").contains("eth0"), "another pod's namespace was touched");
        let now = opener.open_port(&spec()).unwrap();
        let known = PortSpec { identity: Some(now.identity), ..spec() };
        drop(now.fd);
        assert!(opener.open_port(&known).is_ok());
        sh("touch /run/netns/stale");
        let e = NetnsRef::Name("stale".into()).open().unwrap_err();
        assert!(e.to_string().contains("its mount is gone"), "{e}");
    });
}

#[test]
fn links_are_renamed_and_measured() {
    isolated("links_are_renamed_and_measured", || {
        sh("ip link add v0 type veth peer name v1");
        sh("ip addr add 192.168.77.1/24 dev v0");
        sh("ip link set v0 mtu 9000");
        let mut netlink = Netlink::open().unwrap();
        let link = netlink.link("v0").unwrap().unwrap();
        assert_eq!((link.mtu, link.up, link.kind.as_deref()), (9000, false, Some("veth")));
        let change = LinkChange { name: Some("uplink"), up: Some(true), ..LinkChange::default() };
        netlink.change_link(link.index, &change).unwrap();
        assert_eq!(netlink.link("v0").unwrap(), None);
        assert!(netlink.link("uplink").unwrap().unwrap().up);
        assert_eq!(HostOpener.underlay_mtu("192.168.77.1".parse().unwrap()).unwrap(), 9000);
        assert_eq!(HostOpener.underlay_mtu("127.0.0.1".parse().unwrap()).unwrap(), 65_536);
        let e = netlink
            .change_link(link.index, &LinkChange { mtu: Some(1 << 30), ..LinkChange::default() })
            .unwrap_err();
        assert!(e.to_string().contains("mtu greater than device maximum"), "{e}");
        netlink.delete_link(link.index).unwrap();
        netlink.delete_link(link.index).unwrap();
        assert_eq!(netlink.link("uplink").unwrap(), None);
    });
}
