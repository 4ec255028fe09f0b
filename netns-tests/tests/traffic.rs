//! Traffic through the real switch: every pair of pods, both ways of reaching each other, both
//! families inside and outside, every size, with every byte compared and every checksum verified by
//! observers that share no code with the switch. Each test ends with the ledger of every node.

mod common;

use std::net::IpAddr;
use std::time::Duration;

use common::{Host, Mode, Setup, World, add_host, add_network, converse, mtu, path_mtu, start};
use lab::capture::Capture;
use lab::conserve::check;
use lab::flow::{TcpFlow, TcpOptions, tcp, udp_echo};
use lab::impair::Impairment;
use lab::probe::{PingOptions, no_ping, ping, ping_with};
use lab::wire::{Offloads, UPLINK, Underlay, WireOptions};
use lab::{Lab, Node, Result, ensure, tshark, wait};

const MB: u64 = 1_000_000;

fn wire(mtu: u32, offloads: Offloads) -> Underlay {
    Underlay::Veth(WireOptions { mtu, offloads, ..WireOptions::default() })
}

/// All pairs and both families: ping, 50 MB over TCP, UDP of all sizes.
fn every_pair(name: &str, mode: Mode, underlay_v6: bool) -> Result<()> {
    let world = World::build(&Setup {
        underlay_v6,
        underlay: wire(1500, Offloads::WireLike),
        ..Setup::new(name, mode)
    })?;
    for v6 in [false, true] {
        world.converse(&world.near, &world.beside, v6, 50 * MB)?;
        world.converse(&world.near, &world.far, v6, 50 * MB)?;
        world.converse(&world.far, &world.beside, v6, 5 * MB)?;
    }
    check(world.lab.nodes(), &[])
}

fn bridged_over_ipv4() -> Result<()> {
    every_pair("br4", Mode::Bridged, false)
}

fn bridged_over_ipv6() -> Result<()> {
    every_pair("br6", Mode::Bridged, true)
}

fn routed_over_ipv4() -> Result<()> {
    every_pair("rt4", Mode::Routed, false)
}

fn routed_over_ipv6() -> Result<()> {
    every_pair("rt6", Mode::Routed, true)
}

/// tshark reads the underlay of a wire without offloads: whatever is sent has to be complete.
fn wire_checksums(name: &str, mode: Mode, underlay_v6: bool, encap: &str) -> Result<()> {
    let world = World::build(&Setup {
        underlay_v6,
        underlay: wire(1500, Offloads::None),
        peer: &["--encap", encap],
        ..Setup::new(name, mode)
    })?;
    let b = world.b()?;
    ping(world.near.ns(), world.far.ip(false))?;
    let capture = Capture::start(b.ns(), UPLINK)?;
    for v6 in [false, true] {
        world.converse(&world.near, &world.far, v6, 2 * MB)?;
        world.converse(&world.far, &world.near, v6, 2 * MB)?;
    }
    let captured = capture.stop();
    captured.require_good_checksums(5000)?;
    let findings = tshark::check(&captured, &world.lab.dir().join("underlay.pcap"), &[])?;
    ensure!(findings.bad.is_empty(), "tshark: {:?}", &findings.bad[..findings.bad.len().min(20)]);
    ensure!(findings.malformed == 0, "tshark calls {} frames malformed", findings.malformed);
    // An outer and an inner checksum of nearly every frame; fragments have none inside.
    ensure!(findings.good > findings.frames * 2, "tshark verified only {findings:?}");
    check(world.lab.nodes(), &[])
}

fn checksums_of_vxlan_over_ipv4() -> Result<()> {
    wire_checksums("sumv4", Mode::Bridged, false, "vxlan")
}

fn checksums_of_vxlan_over_ipv6() -> Result<()> {
    wire_checksums("sumv6", Mode::Routed, true, "vxlan")
}

fn checksums_of_geneve_over_ipv4() -> Result<()> {
    wire_checksums("sumg4", Mode::Routed, false, "geneve")
}

fn checksums_of_geneve_over_ipv6() -> Result<()> {
    wire_checksums("sumg6", Mode::Bridged, true, "geneve")
}

/// What a pod's own stack leaves to the device.
const PLAIN: &[(&str, bool)] = &[("tx", false), ("tso", false), ("gro", false)];

/// Ports with and without offload, pods that use it and pods that do not: a packet socket in the
/// receiving pod sees no wrong checksum, and behind a port without offload none that is left open.
fn offloads(name: &str, mode: Mode, ports: [bool; 3]) -> Result<()> {
    let arg = |on: bool| -> &[&str] { if on { &[] } else { &["--no-offload"] } };
    let world = World::build(&Setup {
        underlay: wire(1500, Offloads::WireLike),
        ports: ports.map(arg),
        ..Setup::new(name, mode)
    })?;
    let (near, beside, far) = (&world.near, &world.beside, &world.far);
    let variants: [&[(&str, bool)]; 3] = [&[], &[("tso", false)], PLAIN];
    for (number, variant) in variants.into_iter().enumerate() {
        for host in [near, beside, far].into_iter().filter(|_| !variant.is_empty()) {
            host.ns().ethtool("eth0", variant)?;
        }
        let v6 = number == 1;
        for (from, to, to_offload) in [(near, beside, ports[1]), (near, far, ports[2]), (far, near, ports[0])]
        {
            let capture = Capture::start(to.ns(), "eth0")?;
            world.converse(from, to, v6, 3 * MB)?;
            world.converse(from, to, !v6, MB)?;
            let arrived = capture.stop().arrived();
            let report = arrived.require_good_checksums(50)?;
            if !to_offload {
                ensure!(report.not_ready == 0 && report.good > 2000, "without offload: {report:?}");
                let largest = arrived.frames.iter().map(|f| f.raw.wire_len).max().unwrap_or(0);
                ensure!(largest <= 1450 + 14, "a frame of {largest} bytes came to a port without offload");
            }
            let findings = tshark::check(&arrived, &world.lab.dir().join("pod.pcap"), &[])?;
            ensure!(findings.bad.is_empty(), "tshark: {:?}", &findings.bad[..findings.bad.len().min(20)]);
        }
    }
    check(world.lab.nodes(), &[])
}

fn offload_everywhere() -> Result<()> {
    offloads("offall", Mode::Bridged, [true, true, true])
}

fn offload_nowhere() -> Result<()> {
    offloads("offno", Mode::Routed, [false, false, false])
}

fn offload_of_the_sender_only() -> Result<()> {
    offloads("offtx", Mode::Bridged, [true, false, false])
}

fn offload_of_the_receiver_only() -> Result<()> {
    offloads("offrx", Mode::Routed, [false, true, true])
}

/// One peer on the same segment, another behind its own subnet.
fn bridged_and_routed_together() -> Result<()> {
    let lab = Lab::new("both")
        .node("a")
        .node("b")
        .node("c")
        .underlay(Underlay::Bridge(WireOptions::default()))
        .build()?;
    let (a, b, c) = (lab.node("a")?, lab.node("b")?, lab.node("c")?);
    let (one, two) = (("10.1.1", "fd00:1"), ("10.1.2", "fd00:2"));
    let of_c = ["--pod-cidr", "10.1.2.0/24", "--pod-cidr", "fd00:2::/64"];
    for (node, other) in [(a, b), (b, a)] {
        start(node, false, &[])?;
        add_network(node, "pods", 1, &[one], &[])?;
        node.add_peer(other, false, &[])?;
        node.add_peer(c, false, &of_c)?;
    }
    start(c, false, &[])?;
    add_network(c, "pods", 1, &[two], &[])?;
    // The subnet of a and b is one; c sends for it to the node of each pod.
    c.add_peer(a, false, &["--pod-cidr", "10.1.1.0/25", "--pod-cidr", "fd00:1::/112"])?;
    c.add_peer(b, false, &["--pod-cidr", "10.1.1.128/25", "--pod-cidr", "fd00:1::200/120"])?;
    let p = add_host(&lab, a, "p", one, 2, &[])?;
    let q = add_host(&lab, b, "q", one, 202, &[])?;
    let r = add_host(&lab, c, "r", two, 2, &[])?;
    for node in lab.nodes() {
        node.settle()?;
    }
    for v6 in [false, true] {
        for (from, to) in [(&p, &q), (&q, &p), (&p, &r), (&r, &p), (&q, &r), (&r, &q)] {
            converse(from, to, v6, 5 * MB)?;
        }
    }
    check(lab.nodes(), &[])
}

/// Two networks with the same subnets and addresses on the same two nodes.
fn networks_are_isolated() -> Result<()> {
    let lab = Lab::new("iso").node("a").node("b").build()?;
    let (a, b) = (lab.node("a")?, lab.node("b")?);
    let one = ("10.1.1", "fd00:1");
    for (node, other) in [(a, b), (b, a)] {
        start(node, false, &[])?;
        add_network(node, "pods", 1, &[one], &[])?;
        add_network(node, "test", 2, &[one], &[])?;
        node.add_peer(other, false, &[])?;
    }
    let host = |node: &Node, name: &str, network: &str, last: u16, mac: &str| -> Result<Host> {
        let (v4, v6) = (format!("10.1.1.{last}/24"), format!("fd00:1::{last}/64"));
        let host = Host {
            pod: lab.pod(name)?,
            v4: [10, 1, 1, last as u8].into(),
            v6: format!("fd00:1::{last}").parse()?,
        };
        node.add_port_with(&host.pod, network, &[&v4, &v6], &["--mac", mac])?;
        Ok(host)
    };
    let p1 = host(a, "p1", "pods", 2, "02:00:00:00:01:02")?;
    let q1 = host(b, "q1", "pods", 3, "02:00:00:00:01:03")?;
    let s1 = host(a, "s1", "pods", 4, "02:00:00:00:01:04")?;
    let p2 = host(a, "p2", "test", 2, "02:00:00:00:02:02")?;
    let q2 = host(b, "q2", "test", 3, "02:00:00:00:02:03")?;
    let capture = Capture::start(q2.ns(), "eth0")?;
    let beside = Capture::start(p2.ns(), "eth0")?;
    for v6 in [false, true] {
        // Each finds the one of its own network, although addresses are the same.
        converse(&p1, &q1, v6, 5 * MB)?;
        converse(&p1, &s1, v6, 5 * MB)?;
        converse(&p2, &q2, v6, 5 * MB)?;
    }
    // Only network pods has 10.1.1.4: nobody hears what test asks, and the other way round.
    no_ping(p2.ns(), s1.ip(false))?;
    no_ping(p1.ns(), [10, 1, 1, 77].into())?;
    ensure!(tcp(p2.ns(), s1.ns(), s1.ip(false), 1000).is_err(), "TCP crossed networks");
    for captured in [capture.stop(), beside.stop()] {
        let strangers = captured.count(|f| f.raw.bytes.get(6..11) == Some(&[2, 0, 0, 0, 1]));
        ensure!(strangers == 0, "{strangers} frames of network pods were seen in test");
        ensure!(captured.missed == 0, "{} frames were not seen", captured.missed);
    }
    check(lab.nodes(), &[])
}

/// A ping that may not be fragmented and is too large: the sender is told the MTU and remembers it.
fn told_the_mtu(from: &Host, to: IpAddr, size: u16, want: u64) -> Result<()> {
    let options = PingOptions { count: 2, size, dont_fragment: true, ..PingOptions::default() };
    let mut text = String::new();
    let learned = wait::until("the path MTU is learned", Duration::from_secs(5), || {
        let report = ping_with(from.ns(), to, &options).ok()?;
        text.push_str(&report.text);
        path_mtu(from.ns(), to).ok().flatten()
    });
    let learned = match learned {
        Ok(mtu) => mtu,
        Err(e) => return Err(lab::Error::failed(format!("{e}; ping to {to} said: {text}"))),
    };
    ensure!(learned == want, "{} learned {learned} to {to}, wanted {want}: {text}", from.pod.name());
    let told = [format!("(mtu = {want})"), format!("mtu={want}"), format!("mtu = {want}")];
    ensure!(told.iter().any(|t| text.contains(t)), "no ICMP error names {want}: {text}");
    Ok(())
}

/// Far has a smaller MTU than everybody believes.
fn small_port(name: &str, mode: Mode) -> Result<()> {
    let world = World::build(&Setup { ports: [&[], &[], &["--mtu", "1300"]], ..Setup::new(name, mode) })?;
    let (near, far) = (&world.near, &world.far);
    ensure!(mtu(far.ns(), "eth0")? == 1300, "the port has the MTU {}", mtu(far.ns(), "eth0")?);
    ensure!(mtu(near.ns(), "eth0")? == 1450, "the other port has {}", mtu(near.ns(), "eth0")?);
    for v6 in [false, true] {
        ping(near.ns(), far.ip(v6))?;
        // Before anything is learned: TCP agrees on the segment size by itself.
        tcp(near.ns(), far.ns(), far.ip(v6), 5 * MB)?;
        tcp(far.ns(), near.ns(), near.ip(v6), 5 * MB)?;
        told_the_mtu(near, far.ip(v6), 1352, 1300)?;
        world.converse(near, far, v6, 5 * MB)?;
        world.converse(far, near, v6, 5 * MB)?;
    }
    check(world.lab.nodes(), &["too-big"])
}

fn a_small_port_bridged() -> Result<()> {
    small_port("smbr", Mode::Bridged)
}

fn a_small_port_routed() -> Result<()> {
    small_port("smrt", Mode::Routed)
}

/// The receivers announce a larger segment than their ports take, so that only the switch can make
/// the segments fit: offload frames by cutting them smaller, others by telling the sender.
fn large_segments(name: &str, mode: Mode) -> Result<()> {
    let small: &[&str] = &["--mtu", "1300", "--no-offload"];
    let world = World::build(&Setup { ports: [&[], small, small], ..Setup::new(name, mode) })?;
    for to in [&world.beside, &world.far] {
        for v6 in [false, true] {
            let (near, ip) = (world.near.ip(v6), to.ip(v6));
            let length = if v6 { 128 } else { 32 };
            let via = match (mode, ip) {
                (Mode::Bridged, _) => String::new(),
                (Mode::Routed, IpAddr::V4(ip)) => format!("via 10.1.{}.1", ip.octets()[2]),
                (Mode::Routed, IpAddr::V6(ip)) => format!("via fd00:{:x}::1", ip.segments()[1]),
            };
            to.ns().ip([format!("route add {near}/{length} {via} dev eth0 advmss 1380")])?;
            let capture = Capture::start(to.ns(), "eth0")?;
            tcp(world.near.ns(), to.ns(), ip, 5 * MB)?;
            let arrived = capture.stop().arrived();
            arrived.require_good_checksums(3000)?;
            let largest = arrived.frames.iter().map(|f| f.raw.wire_len).max().unwrap_or(0);
            ensure!(largest == 1314, "the largest frame that came to {} had {largest} bytes", to.pod.name());
        }
    }
    check(world.lab.nodes(), &["too-big"])
}

fn large_segments_bridged() -> Result<()> {
    large_segments("cutbr", Mode::Bridged)
}

fn large_segments_routed() -> Result<()> {
    large_segments("cutrt", Mode::Routed)
}

/// One node's underlay takes less than the other's.
fn unequal_underlays() -> Result<()> {
    let lab = Lab::new("uneq").node("a").node("b").build()?;
    let (a, b) = (lab.node("a")?, lab.node("b")?);
    b.ns().ip([format!("link set {UPLINK} mtu 1400")])?;
    let one = ("10.1.1", "fd00:1");
    for (node, other) in [(a, b), (b, a)] {
        start(node, false, &[])?;
        add_network(node, "pods", 1, &[one], &[])?;
        node.add_peer(other, false, &[])?;
    }
    let near = add_host(&lab, a, "near", one, 2, &[])?;
    let far = add_host(&lab, b, "far", one, 3, &[])?;
    ensure!(mtu(near.ns(), "eth0")? == 1450, "near: {}", mtu(near.ns(), "eth0")?);
    ensure!(mtu(far.ns(), "eth0")? == 1350, "far: {}", mtu(far.ns(), "eth0")?);
    for v6 in [false, true] {
        for (from, to) in [(&near, &far), (&far, &near)] {
            ping(from.ns(), to.ip(v6))?;
            tcp(from.ns(), to.ns(), to.ip(v6), 20 * MB)?;
            udp_echo(from.ns(), to.ns(), to.ip(v6), &[1, 1000, 1270], 2)?;
        }
    }
    check(lab.nodes(), &["too-big"])?;

    // Told with --mtu, nothing is left that does not fit.
    let lab = Lab::new("uneq2").node("a").node("b").build()?;
    let (a, b) = (lab.node("a")?, lab.node("b")?);
    b.ns().ip([format!("link set {UPLINK} mtu 1400")])?;
    for (node, other, args) in [(a, b, ["--mtu", "1350"].as_slice()), (b, a, &[])] {
        start(node, false, args)?;
        add_network(node, "pods", 1, &[one], &[])?;
        node.add_peer(other, false, &[])?;
    }
    let near = add_host(&lab, a, "near", one, 2, &[])?;
    let far = add_host(&lab, b, "far", one, 3, &[])?;
    for v6 in [false, true] {
        converse(&near, &far, v6, 5 * MB)?;
        converse(&far, &near, v6, 5 * MB)?;
    }
    check(lab.nodes(), &[])
}

/// The gateway of every subnet answers, and shows itself to traceroute.
fn the_gateway_shows_itself() -> Result<()> {
    let world = World::build(&Setup::new("gw", Mode::Routed))?;
    let gateway = |v6: bool, side: &str| -> Result<IpAddr> {
        Ok(if v6 { format!("fd00:{side}::1") } else { format!("10.1.{side}.1") }.parse()?)
    };
    for v6 in [false, true] {
        for (host, side) in [(&world.near, "1"), (&world.beside, "11"), (&world.far, "2")] {
            ping(host.ns(), gateway(v6, side)?)?;
            let large = PingOptions { size: 1400, ..PingOptions::default() };
            let report = ping_with(host.ns(), gateway(v6, side)?, &large)?;
            ensure!(report.received == 3, "1400 bytes: {}", report.text);
        }
        // The gateway of another subnet of the same network is here as well.
        ping(world.near.ns(), gateway(v6, "11")?)?;
        ping(world.near.ns(), world.far.ip(v6))?;
        let hop = |ttl: u8| {
            let options = PingOptions { count: 1, ttl: Some(ttl), ..PingOptions::default() };
            ping_with(world.near.ns(), world.far.ip(v6), &options)
        };
        for (ttl, side) in [(1, "1"), (2, "2")] {
            let report = hop(ttl)?;
            let from = format!("From {} ", gateway(v6, side)?);
            let said = report.text.contains("Time to live exceeded") || report.text.contains("Hop limit");
            ensure!(said && report.text.contains(&from), "ttl {ttl}: {}", report.text);
        }
        ensure!(hop(3)?.received == 1, "ttl 3: {}", hop(3)?.text);
    }
    check(world.lab.nodes(), &["ttl-exceeded"])
}

/// TCP over a wire that loses, delays, reorders, doubles and damages: slower, never wrong.
fn a_bad_wire() -> Result<()> {
    let underlay = Underlay::Impaired { impairment: Impairment::default(), seed: 7, mtu: 1500 };
    let world = World::build(&Setup { underlay, ..Setup::new("bad", Mode::Bridged) })?;
    let (near, far) = (&world.near, &world.far);
    for v6 in [false, true] {
        ping(near.ns(), far.ip(v6))?;
    }
    world.lab.impaired()?.set(Impairment {
        loss: 0.01,
        delay: Duration::from_millis(1),
        reorder: 0.02,
        reorder_by: Duration::from_millis(3),
        duplicate: 0.01,
        corrupt: 0.005,
        ..Impairment::default()
    });
    let options = TcpOptions { bytes: Some(4 * MB), stall: Duration::from_secs(30), ..TcpOptions::default() };
    let mut flows = Vec::new();
    for (from, to, v6) in [(near, far, false), (far, near, true)] {
        flows.push(TcpFlow::start(from.ns(), to.ns(), to.ip(v6), &options)?);
    }
    for flow in flows {
        let report = flow.finish()?;
        ensure!(report.retransmits > 0, "nothing was lost: {report:?}");
    }
    let stats = world.lab.impaired()?.stats();
    ensure!(stats.lost > 0 && stats.corrupted > 0 && stats.duplicated > 0, "{stats:?}");
    // A flipped bit never gets past the outer checksums.
    check(world.lab.nodes(), &[])
}

fn a_jumbo_underlay() -> Result<()> {
    let world = World::build(&Setup {
        underlay: wire(9000, Offloads::WireLike),
        ..Setup::new("jumbo", Mode::Bridged)
    })?;
    let (near, far) = (&world.near, &world.far);
    ensure!(mtu(near.ns(), "eth0")? == 8950, "MTU {}", mtu(near.ns(), "eth0")?);
    for v6 in [false, true] {
        let size = if v6 { 8950 - 48 } else { 8950 - 28 };
        let whole = PingOptions { size, dont_fragment: true, ..PingOptions::default() };
        ping(near.ns(), far.ip(v6))?;
        let report = ping_with(near.ns(), far.ip(v6), &whole)?;
        ensure!(report.received == 3, "{}", report.text);
        world.converse(near, far, v6, 50 * MB)?;
        world.converse(far, near, v6, 5 * MB)?;
    }
    check(world.lab.nodes(), &[])
}

fn main() -> std::process::ExitCode {
    lab::harness::run(&[
        ("bridged_over_ipv4", bridged_over_ipv4),
        ("bridged_over_ipv6", bridged_over_ipv6),
        ("routed_over_ipv4", routed_over_ipv4),
        ("routed_over_ipv6", routed_over_ipv6),
        ("checksums_of_vxlan_over_ipv4", checksums_of_vxlan_over_ipv4),
        ("checksums_of_vxlan_over_ipv6", checksums_of_vxlan_over_ipv6),
        ("checksums_of_geneve_over_ipv4", checksums_of_geneve_over_ipv4),
        ("checksums_of_geneve_over_ipv6", checksums_of_geneve_over_ipv6),
        ("offload_everywhere", offload_everywhere),
        ("offload_nowhere", offload_nowhere),
        ("offload_of_the_sender_only", offload_of_the_sender_only),
        ("offload_of_the_receiver_only", offload_of_the_receiver_only),
        ("bridged_and_routed_together", bridged_and_routed_together),
        ("networks_are_isolated", networks_are_isolated),
        ("a_small_port_bridged", a_small_port_bridged),
        ("a_small_port_routed", a_small_port_routed),
        ("large_segments_bridged", large_segments_bridged),
        ("large_segments_routed", large_segments_routed),
        ("unequal_underlays", unequal_underlays),
        ("the_gateway_shows_itself", the_gateway_shows_itself),
        ("a_bad_wire", a_bad_wire),
        ("a_jumbo_underlay", a_jumbo_underlay),
    ])
}
