//! Plans from documents as an operator writes them.

use ctl::desired::document::Notation;

use super::*;
use crate::control::testing::settings;

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn nets(list: &[&str]) -> Vec<IpNet> {
    list.iter().map(|n| n.parse().unwrap()).collect()
}

fn state(text: &str) -> DesiredState {
    let state = DesiredState::parse(text, Notation::Toml).unwrap();
    state.check().unwrap();
    state
}

const NETWORK: &str = r#"
[[networks]]
name = "pods"
vni = 1
subnets = [{ cidr = "10.1.1.0/24", gateway = "10.1.1.1" }, { cidr = "fd00:1::/64", gateway = "fd00:1::1" }]

[[ports]]
name = "node"
network = "pods"
ifname = "swd0"
node = { masquerade = true, no_masquerade = ["172.16.0.0/12"] }
"#;

const PEER: &str = r#"
[[peers]]
name = "node-b"
remote = "192.168.77.2"
pod_cidrs = ["10.1.2.0/24", "fd00:2::/64"]
"#;

const POD: &str = r#"
[[ports]]
name = "web-0"
network = "pods"
netns = "web-0"
ips = ["10.1.1.2/24", "fd00:1::2/64"]
"#;

fn with(parts: &[&str]) -> NodePlan {
    of(&settings(), &state(&parts.concat()))
}

fn routes(plan: &NodePlan) -> Vec<String> {
    let routes = plan.devices.iter().flat_map(|d| &d.link.routes);
    routes.map(|r| format!("{} via {} src {}", r.net, r.via, r.source)).collect()
}

fn problems(plan: &NodePlan) -> Vec<String> {
    plan.problems.iter().map(ToString::to_string).collect()
}

fn mappings(plan: &NodePlan) -> Vec<String> {
    let text = |m: &Mapping| {
        let at = m.at.map_or_else(|| "*".to_owned(), |ip| ip.to_string());
        format!("{} {at} {} -> {} {}", m.protocol, m.host_port, m.pod, m.container_port)
    };
    plan.mappings.iter().map(text).collect()
}

#[test]
fn nothing_without_a_port_of_the_node() {
    let network = NETWORK.split("[[ports]]").next().unwrap();
    assert_eq!(
        with(&[network, PEER, POD]),
        NodePlan { underlay: Some(ip("192.168.77.1")), ..NodePlan::default() }
    );
}

#[test]
fn both_families_here_and_behind_peers() {
    let plan = with(&[NETWORK, PEER, POD]);
    assert_eq!(problems(&plan), [""; 0]);
    assert_eq!(
        routes(&plan),
        [
            "10.1.1.0/24 via 169.254.1.1 src 10.1.1.1",
            "fd00:1::/64 via fe80::853:57ff:fe00:1 src fd00:1::1",
            "10.1.2.0/24 via 169.254.1.1 src 10.1.1.1",
            "fd00:2::/64 via fe80::853:57ff:fe00:1 src fd00:1::1",
        ]
    );
    let device = plan.device("node").unwrap();
    assert_eq!((device.ifname.as_str(), device.masquerade), ("swd0", true));
    assert_eq!(device.addresses, nets(&["10.1.1.1/24", "fd00:1::1/64"]));
    assert_eq!(device.except, nets(&["172.16.0.0/12"]));
    let mac = gateway_mac(Vni::new(1).unwrap());
    assert!(device.link.next_hops.iter().all(|(_, m)| *m == mac) && device.link.next_hops.len() == 2);
    assert_eq!(
        plan.cluster,
        nets(&["10.1.1.0/24", "10.1.2.0/24", "192.168.77.2/32", "fd00:1::/64", "fd00:2::/64"])
    );
    for net in ["10.1.2.0/24", "192.168.77.2/32", "224.0.0.0/4", "255.255.255.255/32", "ff00::/8"] {
        assert!(plan.untranslated.contains(&net.parse().unwrap()), "{net}");
    }
    assert!(plan.device("web-0").is_none() && plan.forwards(true) && plan.forwards(false));
}

#[test]
fn the_device_is_what_the_opener_takes() {
    let plan = with(&[NETWORK, PEER]);
    let device = plan.device("node").unwrap();
    let spec = crate::io::PortSpec {
        netns: crate::io::NetnsRef::own(),
        identity: None,
        ifname: device.ifname.clone(),
        mac: packet::MacAddr([2, 0, 0, 0, 0, 1]),
        mtu: 1450,
        addresses: device.addresses.clone(),
        gateways: Vec::new(),
        default_route: false,
        offload: true,
        node: Some(device.link.clone()),
    };
    spec.validate().unwrap();
}

#[test]
fn an_own_address_is_the_source() {
    let own = NETWORK.replace("ifname = \"swd0\"", "ifname = \"swd0\"\nips = [\"10.1.1.254/24\"]");
    let plan = with(&[&own, PEER]);
    let expected =
        ["10.1.1.0/24 via 169.254.1.1 src 10.1.1.254", "10.1.2.0/24 via 169.254.1.1 src 10.1.1.254"];
    assert_eq!(routes(&plan), expected, "and no IPv6, which the device does not speak");
    let mapped = POD.replace("netns", "mappings = [{ host_port = 80, container_port = 8080 }]\nnetns");
    assert_eq!(mappings(&with(&[&own, &mapped])), ["tcp * 80 -> 10.1.1.2 8080"]);
}

#[test]
fn a_segment_shared_with_peers_is_routed_once() {
    let peer = PEER.replace("\"10.1.2.0/24\", \"fd00:2::/64\"", "\"10.1.1.128/25\"");
    let plan = with(&[NETWORK, &peer]);
    assert_eq!(routes(&plan).len(), 2, "{:?}", routes(&plan));
    assert_eq!(problems(&plan), [""; 0]);
    assert_eq!(plan.cluster, nets(&["10.1.1.0/24", "192.168.77.2/32", "fd00:1::/64"]));
}

#[test]
fn the_underlay_is_never_routed_to_the_switch() {
    let everything = PEER.replace("\"10.1.2.0/24\", \"fd00:2::/64\"", "\"0.0.0.0/0\", \"192.168.0.0/16\"");
    let plan = with(&[NETWORK, &everything]);
    assert_eq!(
        problems(&plan),
        [
            "port node: the node gets no route to 0.0.0.0/0 of peer node-b: it would be the node's default route",
            "port node: the node gets no route to 192.168.0.0/16 of peer node-b: it contains 192.168.77.1, where the \
             tunnel ends",
        ]
    );
    assert_eq!(routes(&plan).len(), 2);
    let other = PEER.replace("\"10.1.2.0/24\", \"fd00:2::/64\"", "\"192.168.77.2/31\"");
    let plan = with(&[NETWORK, &other]);
    assert!(problems(&plan)[0].contains("where the tunnel to peer node-b ends"), "{:?}", problems(&plan));
}

const SECOND: &str = r#"
[[networks]]
name = "other"
vni = 2
subnets = [{ cidr = "10.9.0.0/16", gateway = "10.9.0.1" }]

[[ports]]
name = "node-other"
network = "other"
ifname = "swd1"
node = {}
"#;

#[test]
fn networks_with_the_same_addresses_cannot_both_have_one() {
    let overlapping = SECOND.replace("10.9.0.0/16", "10.1.0.0/16").replace("10.9.0.1", "10.1.0.1");
    let mapped = POD
        .replace("web-0", "db-0")
        .replace("\"pods\"", "\"other\"")
        .replace(", \"fd00:1::2/64\"", "")
        .replace("netns", "mappings = [{ host_port = 80, container_port = 80 }]\nnetns");
    let plan = with(&[NETWORK, &overlapping, &mapped]);
    assert_eq!(plan.devices.len(), 1);
    assert_eq!(
        problems(&plan),
        [
            "port node-other: subnet 10.1.0.0/16 of network other overlaps 10.1.1.0/24, which the node reaches by port \
             node: only one of these networks can have a port of the node",
            "port db-0: mapping 80:80/tcp has no effect, because the node has no port in network other",
        ]
    );
}

#[test]
fn a_peer_of_all_networks_is_reached_by_one() {
    let plan = with(&[NETWORK, SECOND, PEER]);
    assert_eq!(plan.devices.len(), 2);
    assert_eq!(
        problems(&plan),
        [
            "port node-other: the node gets no second route to 10.1.2.0/24 of peer node-b, which it reaches by swd0 \
          already; --network limits a peer to one network"
        ]
    );
    assert_eq!(routes(&plan)[4..], ["10.9.0.0/16 via 169.254.1.1 src 10.9.0.1"]);
    let peer = PEER.replace("[[peers]]", "[[peers]]\nnetwork = \"pods\"");
    assert_eq!(problems(&with(&[NETWORK, SECOND, &peer])), [""; 0]);
}

#[test]
fn a_network_without_gateway_needs_an_address() {
    let bare = SECOND.replace(", gateway = \"10.9.0.1\"", "");
    assert_eq!(
        problems(&with(&[&bare])),
        ["port node-other: network other has no gateway, so the port needs an --ip of its own"]
    );
    let own = bare.replace("ifname", "ips = [\"10.9.0.9/16\"]\nifname");
    assert_eq!(routes(&with(&[&own])), ["10.9.0.0/16 via 169.254.1.1 src 10.9.0.9"]);
}

#[test]
fn forwarding_is_for_translation_and_mappings() {
    let plan = with(&[SECOND]);
    assert!(!plan.forwards(true) && !plan.forwards(false) && !plan.loopback());
    let plan = with(&[&SECOND.replace("node = {}", "node = { masquerade = true }")]);
    assert!(plan.forwards(true) && !plan.forwards(false));
}

#[test]
fn mappings_of_both_families_and_one() {
    let mapped = POD.replace(
        "netns",
        r#"mappings = [
            { host_port = 80, container_port = 8080 },
            { host_port = 53, container_port = 5353, protocol = "udp", host_ip = "192.0.2.1" },
            { host_port = 54, container_port = 54, host_ip = "0.0.0.0" },
            { host_port = 55, container_port = 55, host_ip = "::" },
            { host_port = 56, container_port = 56, host_ip = "127.0.0.1" },
            { host_port = 57, container_port = 57, host_ip = "::1" },
            { host_port = 4789, container_port = 57, protocol = "udp" },
            { host_port = 6081, container_port = 57, protocol = "udp", host_ip = "192.168.77.1" },
            { host_port = 4789, container_port = 57 },
        ]
        netns"#,
    );
    let plan = with(&[NETWORK, &mapped]);
    assert_eq!(
        mappings(&plan),
        [
            "tcp * 80 -> 10.1.1.2 8080",
            "tcp * 80 -> fd00:1::2 8080",
            "udp 192.0.2.1 53 -> 10.1.1.2 5353",
            "tcp * 54 -> 10.1.1.2 54",
            "tcp * 55 -> fd00:1::2 55",
            "tcp 127.0.0.1 56 -> 10.1.1.2 56",
            "tcp * 4789 -> 10.1.1.2 57",
            "tcp * 4789 -> fd00:1::2 57",
        ]
    );
    assert!(plan.loopback());
    assert_eq!(
        problems(&plan),
        [
            "port web-0: mapping [::1]:57:57/tcp has no effect: the kernel lets no packet with ::1 out to a pod; \
             127.0.0.1 works",
            "port web-0: mapping 4789:57/udp would take the packets of the tunnel (vxlan): choose another port of \
             the node",
            "port web-0: mapping 192.168.77.1:6081:57/udp would take the packets of the tunnel (geneve): choose \
             another port of the node",
        ]
    );
}

#[test]
fn a_mapping_that_serves_nobody_is_told() {
    let v6 = POD.replace("\"10.1.1.2/24\", ", "");
    let mapped = v6.replace("netns", "mappings = [{ host_port = 80, container_port = 80 }]\nnetns");
    let v4_node = NETWORK.replace("ifname = \"swd0\"", "ifname = \"swd0\"\nips = [\"10.1.1.254/24\"]");
    let plan = with(&[&v4_node, &mapped]);
    assert_eq!(plan.mappings, []);
    assert!(problems(&plan)[0].contains("share no address family"), "{:?}", problems(&plan));
}

#[test]
fn names_that_mean_something_else_in_a_rule() {
    for bad in ["swd*", "@swd", "a b"] {
        let text = NETWORK.replace("swd0", bad);
        let Ok(state) = DesiredState::parse(&text, Notation::Toml) else { continue };
        let plan = of(&settings(), &state);
        assert!(plan.devices.is_empty() && problems(&plan)[0].contains("cannot be named in a rule"), "{bad}");
    }
}
