//! The desired state as a document and as messages: nothing is lost, nothing unsound is taken.
#![allow(clippy::unwrap_used, clippy::expect_used)] // helpers of tests are tests

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ctl::desired::document::Notation;
use ctl::desired::*;
use ctl::error::Reason;
use ctl::proto;
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use packet::{MacAddr, Vni};
use proptest::collection::{btree_map, vec};
use proptest::option::of;
use proptest::prelude::*;

fn name() -> impl Strategy<Value = String> {
    "[a-zA-Z0-9][a-zA-Z0-9._/-]{0,20}"
}

fn mac() -> impl Strategy<Value = MacAddr> {
    (1u64..1 << 48).prop_map(|v| MacAddr::from_u64(v & !(1 << 40))).prop_filter("zero", |m| m.is_unicast())
}

fn ip() -> impl Strategy<Value = IpAddr> {
    let v4 = any::<u32>().prop_map(|v| IpAddr::V4(Ipv4Addr::from(v)));
    let v6 = any::<u128>().prop_map(|v| IpAddr::V6(Ipv6Addr::from(v)));
    let host = |ip: &IpAddr| !ip.is_multicast() && !ip.is_unspecified() && *ip != Ipv4Addr::BROADCAST;
    prop_oneof![v4, v6].prop_filter("not a host", host)
}

fn net() -> impl Strategy<Value = IpNet> {
    (ip(), 0u8..=128).prop_map(|(ip, len)| match ip {
        IpAddr::V4(ip) => Ipv4Net::new(ip, len.min(32)).unwrap().into(),
        IpAddr::V6(ip) => Ipv6Net::new(ip, len).unwrap().into(),
    })
}

fn prefix() -> impl Strategy<Value = IpNet> {
    net().prop_map(|n| n.trunc())
}

prop_compose! {
    fn network()(
        name in name(), vni in 1u32..1 << 24, ageing_seconds in 1u32..10_000, mtu in of(1280u16..9000),
        fdb_limit in of(1u32..100), flood: bool, cidr in prefix(),
    ) -> Network {
        let subnets = vec![Subnet { cidr, gateway: None }];
        let (ranges, exclude) = (vec![cidr.into()], if flood { vec![cidr.into()] } else { vec![] });
        let vni = Vni::new(vni).unwrap();
        Network { name, vni, ageing_seconds, mtu, fdb_limit, flood, subnets, ranges, exclude }
    }
}

/// Whose mappings have ports of the node of their own.
fn mappings() -> impl Strategy<Value = Vec<PortMapping>> {
    let protocol = prop_oneof![Just(Protocol::Tcp), Just(Protocol::Udp), Just(Protocol::Sctp)];
    vec((1u16.., protocol), 0..3).prop_map(|all| {
        let of = |(n, (container_port, protocol)): (usize, (u16, Protocol))| PortMapping {
            host_port: 1 + n as u16,
            container_port,
            protocol,
            host_ip: None,
        };
        all.into_iter().enumerate().map(of).collect()
    })
}

/// Limits and mappings of a pod, or the part of the node.
fn part() -> impl Strategy<Value = (Option<Bandwidth>, Vec<PortMapping>, Option<NodePort>)> {
    let rates = (1u64.., any::<u64>()).prop_map(|(ingress_rate, ingress_burst)| Bandwidth {
        ingress_rate,
        ingress_burst,
        ..Bandwidth::default()
    });
    let pod = (of(rates), mappings()).prop_map(|(bandwidth, mappings)| (bandwidth, mappings, None));
    let node = vec(prefix(), 0..3).prop_map(|no_masquerade| NodePort { masquerade: true, no_masquerade });
    prop_oneof![4 => pod, 1 => node.prop_map(|node| (None, vec![], Some(node)))]
}

prop_compose! {
    fn port()(
        name in name(), network in name(), netns in "/[a-z/]{0,20}|[a-z][a-z0-9]{0,10}|[1-9][0-9]{0,5}",
        ifname in "[a-z]{1,15}", mac in of(mac()), ip in of(net()), mtu in of(1280u16..9000),
        learning: bool, mac_limit in of(1u32..100), offload: bool, default_route: bool,
        metadata in btree_map("[a-z.]{1,10}", ".{0,20}", 0..3), owned: bool,
        (bandwidth, mappings, node) in part(),
    ) -> Port {
        let ips = ip.into_iter().collect();
        let (netns, learning) = if node.is_some() { (String::new(), false) } else { (netns, learning) };
        let owner = Owner {
            cni_network: network.clone(),
            container_id: name.clone(),
            netns_id: Some("4:4026532177:24:boot".to_owned()),
        };
        let attachment = (owned && node.is_none()).then_some(owner);
        let name = if attachment.is_some() { attachment::port_name(&name, &ifname) } else { name };
        Port {
            name, network, netns, ifname, mac, ips, mtu, learning, mac_limit, offload, default_route, metadata,
            bandwidth, mappings, attachment, node,
        }
    }
}

prop_compose! {
    fn peer()(
        name in name(), remote in ip(), port in of(1u16..), geneve: bool, cidr in of(prefix()),
        router_mac in of(mac()), network in of(name()), checksum: bool,
    ) -> Peer {
        let encap = if geneve { Encap::Geneve } else { Encap::Vxlan };
        Peer { name, remote, port, encap, pod_cidrs: cidr.into_iter().collect(), router_mac, network, checksum }
    }
}

fn route() -> impl Strategy<Value = Route> {
    let target = prop_oneof![
        Just(RouteTarget::Blackhole),
        Just(RouteTarget::Unreachable),
        name().prop_map(RouteTarget::Peer),
    ];
    let any = (name(), prefix(), target);
    let next_hop = (name(), net().prop_map(|n| (n.trunc(), RouteTarget::NextHop(n.addr()))));
    prop_oneof![
        any.prop_map(|(network, prefix, target)| Route { network, prefix, target }),
        next_hop.prop_map(|(network, (prefix, target))| Route { network, prefix, target }),
    ]
}

fn fdb() -> impl Strategy<Value = FdbEntry> {
    let place = prop_oneof![name().prop_map(Place::Port), name().prop_map(Place::Peer)];
    (name(), mac(), place).prop_map(|(network, mac, place)| FdbEntry { network, mac, place })
}

fn neighbour() -> impl Strategy<Value = Neighbour> {
    (name(), ip(), mac()).prop_map(|(network, ip, mac)| Neighbour { network, ip, mac })
}

prop_compose! {
    fn state()(
        networks in vec(network(), 0..3), ports in vec(port(), 0..3), peers in vec(peer(), 0..3),
        routes in vec(route(), 0..3), fdb in vec(fdb(), 0..3), neighbours in vec(neighbour(), 0..3),
    ) -> DesiredState {
        DesiredState { networks, ports, peers, routes, fdb, neighbours, ..Default::default() }
    }
}

proptest! {
    #[test]
    fn documents_and_messages_lose_nothing(state in state()) {
        for notation in [Notation::Toml, Notation::Json] {
            let text = state.to_text(notation).unwrap();
            prop_assert_eq!(&DesiredState::parse(&text, notation).unwrap(), &state, "{}", text);
            prop_assert_eq!(Notation::guess("-", &text), notation);
        }
        let message = proto::DesiredState::from(state.clone());
        prop_assert_eq!(DesiredState::try_from(message).unwrap(), state);
    }

    #[test]
    fn no_text_makes_it_panic(text in ".{0,200}") {
        for notation in [Notation::Toml, Notation::Json] {
            if let Ok(state) = DesiredState::parse(&text, notation) {
                let _ = state.check();
            }
        }
    }

    #[test]
    fn no_message_makes_it_panic(bytes in vec(any::<u8>(), 0..300)) {
        if let Ok(message) = <proto::DesiredState as prost::Message>::decode(bytes.as_slice())
            && let Ok(state) = DesiredState::try_from(message)
        {
            let _ = state.check();
        }
    }

    #[test]
    fn applying_twice_changes_nothing(old in state(), new in state(), prune: bool) {
        let (merged, _) = old.merged(new.clone(), prune);
        let (again, changes) = merged.merged(new, prune);
        if merged.check().is_ok() {
            prop_assert_eq!(&again, &merged);
            prop_assert_eq!(changes, vec![]);
        }
    }

    #[test]
    fn pruning_leaves_the_document(old in state(), new in state()) {
        let (merged, _) = old.merged(new.clone(), true);
        prop_assert_eq!(merged.ports.len(), new.ports.len());
        prop_assert!(new.ports.iter().all(|p| merged.ports.contains(p)));
    }
}

const SOUND: &str = r#"
[[networks]]
name = "pods"
vni = 1
[[networks.subnets]]
cidr = "10.1.1.0/24"
gateway = "10.1.1.1"

[[ports]]
name = "web-0"
network = "pods"
netns = "web-0"
mac = "02:00:00:00:00:02"
ips = ["10.1.1.2/24"]

[[ports]]
name = "web-1"
network = "pods"
netns = "web-1"
ips = ["10.1.1.3/24"]

[[peers]]
name = "node-b"
remote = "192.168.77.2"
pod_cidrs = ["10.1.2.0/24"]

[[routes]]
network = "pods"
prefix = "10.9.0.0/16"
via = "10.1.1.9"

[[fdb]]
network = "pods"
mac = "02:00:00:00:00:09"
peer = "node-b"

[[neighbours]]
network = "pods"
ip = "10.1.1.9"
mac = "02:00:00:00:00:09"
"#;

/// The sound document with one text replaced.
fn broken(from: &str, to: &str) -> (Reason, String) {
    assert!(SOUND.contains(from), "{from}");
    let text = SOUND.replacen(from, to, 1);
    let checked = DesiredState::parse(&text, Notation::Toml).and_then(|s| s.check());
    let e = checked.expect_err(to);
    (e.reason, e.message)
}

#[test]
fn a_sound_document() {
    DesiredState::parse(SOUND, Notation::Toml).unwrap().check().unwrap();
    assert_eq!(DesiredState::parse("", Notation::Toml).unwrap(), DesiredState::default());
    assert_eq!(DesiredState::parse("{}", Notation::Json).unwrap(), DesiredState::default());
}

#[test]
fn unsound_documents_are_refused_by_name() {
    use Reason::{Conflict, InvalidArgument, NetworkNotFound, PeerNotFound};
    for (from, to, reason, text) in [
        ("vni = 1", "vni = 0", InvalidArgument, "expected a number from 1 to 16777215"),
        ("gateway = \"10.1.1.1\"", "gateway = \"10.1.2.1\"", InvalidArgument, "gateway 10.1.2.1"),
        (
            "gateway = \"10.1.1.1\"",
            "gateway = \"10.1.1.2\"",
            Conflict,
            "10.1.1.2 is the gateway of network pods",
        ),
        ("10.1.1.0/24", "10.1.1.1/24", InvalidArgument, "host bits"),
        ("10.1.1.2/24", "10.2.1.2/24", InvalidArgument, "port web-0: 10.2.1.2 is not a host in a subnet"),
        (
            "10.1.1.3/24",
            "10.1.1.2/24",
            Conflict,
            "port web-1: address 10.1.1.2 already belongs to port web-0",
        ),
        ("10.1.1.3/24", "nonsense", InvalidArgument, "`nonsense` is not a CIDR"),
        ("netns = \"web-1\"", "netns = \"web-0\"", Conflict, "eth0 in namespace web-0 already belongs"),
        ("netns = \"web-1\"", "netns = \"a/b\"", InvalidArgument, "neither a name"),
        ("\"web-1\"", "\"web-0\"", Conflict, "port web-0 is declared twice"),
        ("\"web-1\"", "\"we b\"", InvalidArgument, "cannot be a name"),
        (
            "network = \"pods\"",
            "network = \"none\"",
            NetworkNotFound,
            "port web-0: network none does not exist",
        ),
        ("peer = \"node-b\"", "peer = \"node-c\"", PeerNotFound, "peer node-c does not exist"),
        ("peer = \"node-b\"", "", InvalidArgument, "exactly one of port and peer"),
        ("via = \"10.1.1.9\"", "via = \"10.3.1.9\"", InvalidArgument, "next hop 10.3.1.9 is in no subnet"),
        ("via = \"10.1.1.9\"", "via = \"fd00::9\"", InvalidArgument, "other address family"),
        ("via = \"10.1.1.9\"", "via = \"10.1.1.9\"\nblackhole = true", InvalidArgument, "exactly one of via"),
        ("pod_cidrs", "pod_cidr", InvalidArgument, "unknown field `pod_cidr`"),
        ("[[networks]]", "version = 2\n[[networks]]", InvalidArgument, "version 2 is not understood"),
        ("02:00:00:00:00:02", "03:00:00:00:00:02", InvalidArgument, "not a unicast address"),
        ("remote = \"192.168.77.2\"", "remote = \"224.0.0.1\"", InvalidArgument, "not the address of a host"),
    ] {
        let (found, message) = broken(from, to);
        assert_eq!(found, reason, "{to}: {message}");
        assert!(message.contains(text), "{to}: {message}");
    }
}

#[test]
fn peers_may_share_an_address_only_in_different_networks() {
    let peers = |networks: &[Option<&str>]| {
        let mut state = DesiredState::parse(SOUND, Notation::Toml).unwrap();
        let other = Network { name: "other".into(), vni: Vni::new(2).unwrap(), ..state.networks[0].clone() };
        state.networks.push(other);
        state.fdb.clear();
        let template = state.peers[0].clone();
        let peer = |(i, n): (usize, &Option<&str>)| Peer {
            name: format!("node-{i}"),
            network: n.map(str::to_owned),
            ..template.clone()
        };
        state.peers = networks.iter().enumerate().map(peer).collect();
        state.check().map_err(|e| e.reason)
    };
    assert_eq!(peers(&[Some("pods"), Some("other")]), Ok(()));
    for pair in [[None, None], [None, Some("pods")], [Some("pods"), None], [Some("pods"), Some("pods")]] {
        assert_eq!(peers(&pair), Err(Reason::Conflict), "{pair:?}");
    }
}

#[test]
fn namespaces() {
    let path = |netns: &str| {
        let mut state = DesiredState::parse(SOUND, Notation::Toml).unwrap();
        let mut port = state.ports.remove(0);
        port.netns = netns.to_owned();
        port.netns_ref().path().display().to_string()
    };
    assert_eq!(path("web-0"), "/run/netns/web-0");
    assert_eq!(path("/proc/7/ns/net"), "/proc/7/ns/net");
    assert_eq!(path("4711"), "/proc/4711/ns/net");
    assert_eq!(path("99999999999"), "/run/netns/99999999999");
}
