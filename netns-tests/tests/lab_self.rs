//! Tests of the lab itself, without the switch: whoever doubts a result of another suite looks
//! here first. Runs as root, as an ordinary user, and with `LAB_AS_USER=1` as one made from root.

use std::net::{IpAddr, Ipv4Addr};
use std::process::ExitCode;
use std::time::Duration;

use lab::capture::Capture;
use lab::cmd::Cmd;
use lab::flow::{TcpFlow, TcpOptions, UDP_SIZES, tcp, udp_echo};
use lab::impair::Impairment;
use lab::kernel::{KernelBridge, Remote, RoutedVxlan, VxlanOptions};
use lab::ovs::{Encap, Ovs};
use lab::probe::{IperfOptions, PingOptions, iperf, no_ping, ping, ping_with};
use lab::rawframe::{self, Arp};
use lab::wire::{Offloads, Underlay, WireOptions};
use lab::{Lab, Result, ensure};

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap_or(Ipv4Addr::UNSPECIFIED.into())
}

fn two_nodes(name: &str, underlay: Underlay) -> Result<Lab> {
    Lab::new(name).node("a").node("b").underlay(underlay).build()
}

fn impaired(name: &str, impairment: Impairment) -> Result<Lab> {
    two_nodes(name, Underlay::Impaired { impairment, seed: 7, mtu: 1500 })
}

fn no_offloads() -> Underlay {
    Underlay::Veth(WireOptions { offloads: Offloads::None, ..WireOptions::default() })
}

/// Many small pings, quickly.
fn many(count: u32) -> PingOptions {
    PingOptions {
        count,
        interval: Duration::from_millis(2),
        wait: Duration::from_millis(500),
        ..PingOptions::default()
    }
}

fn namespaces_come_and_go() -> Result<()> {
    let before = lab::netns::list()?;
    {
        let lab = Lab::new("come").node("a").build()?;
        let pod = lab.pod("p")?;
        let inside = pod.ns().run_in(|| std::fs::read_link("/proc/thread-self/ns/net"))??;
        let outside = std::fs::read_link("/proc/thread-self/ns/net")?;
        ensure!(inside != outside, "the pod has our namespace");
        // iproute2 finds it by name, too.
        let text = Cmd::new("ip").args(["-n", "come-p", "link", "show", "lo"]).run()?;
        ensure!(text.contains("LOOPBACK") && text.contains("UP"), "ip -n: {text}");
        ensure!(lab.pod("p").is_err(), "two pods of one name");
        ensure!(lab.pod("../p").is_err(), "a name with a slash");
    }
    let after: Vec<String> = lab::netns::list()?.into_iter().filter(|n| n.starts_with("come-")).collect();
    ensure!(after.is_empty(), "left behind: {after:?} (before: {before:?})");
    Ok(())
}

fn commands_end_in_time_and_errors_speak() -> Result<()> {
    let e = Cmd::new("sleep").arg("30").timeout(Duration::from_millis(50)).run();
    ensure!(e.is_err_and(|e| e.message().contains("did not end within")), "no time limit");
    let e = Cmd::new("ip").args(["link", "show", "no such device"]).run();
    let e = e.err().map(|e| e.message().to_owned()).unwrap_or_default();
    ensure!(e.starts_with("ip link show 'no such device': exit code 1: "), "{e}");
    let e = Cmd::new("no-such-program").run().err();
    ensure!(e.is_some_and(|e| e.kind() == lab::error::Kind::Missing), "a missing program is not 'missing'");
    Ok(())
}

fn daemons_die_with_their_guard() -> Result<()> {
    let log = std::path::Path::new(lab::enter::LAB_DIR).join("sleeper.log");
    let mut daemon = Cmd::new("sleep").arg("1000").daemon("sleeper", &log)?;
    daemon.check_running()?;
    let pid = daemon.pid();
    drop(daemon);
    ensure!(!alive(pid), "{pid} is still there");
    let mut daemon = Cmd::new("sleep").arg("1000").daemon("sleeper", &log)?;
    let code = daemon.terminate(Duration::from_secs(5))?;
    ensure!(code == 128 + 15, "exit code {code}");
    ensure!(daemon.check_running().is_err(), "ended, but said to be running");
    Ok(())
}

/// Whether a process with this id (of our own process ids) exists.
fn alive(pid: u32) -> bool {
    i32::try_from(pid)
        .ok()
        .and_then(rustix::process::Pid::from_raw)
        .is_some_and(|pid| rustix::process::test_kill_process(pid).is_ok())
}

fn veth_wire() -> Result<()> {
    let lab = two_nodes("veth", Underlay::default())?;
    let (a, b) = (lab.node("a")?, lab.node("b")?);
    for v6 in [false, true] {
        ping(a.ns(), b.underlay(v6))?;
        let report = tcp(a.ns(), b.ns(), b.underlay(v6), 20_000_000)?;
        ensure!(report.bytes == 20_000_000 && report.congestion == "cubic", "{report:?}");
        let report = udp_echo(a.ns(), b.ns(), b.underlay(v6), &UDP_SIZES, 1)?;
        ensure!(report.echoed == UDP_SIZES.len() as u64, "{report:?}");
    }
    no_ping(a.ns(), ip("192.168.77.9"))
}

fn bridge_wire_of_three() -> Result<()> {
    let options = WireOptions { mtu: 1400, txqueuelen: 500, offloads: Offloads::WireLike };
    let lab = Lab::new("three").node("a").node("b").node("c").underlay(Underlay::Bridge(options)).build()?;
    for from in lab.nodes() {
        for to in lab.nodes().iter().filter(|to| to.name() != from.name()) {
            ping(from.ns(), to.underlay4().into())?;
            ping(from.ns(), to.underlay6().into())?;
        }
    }
    let links = lab.node("a")?.ns().ip_json(&["link", "show", "dev", "uplink0"])?;
    ensure!(links[0]["mtu"] == 1400 && links[0]["txqlen"] == 500, "{links}");
    let too_big = PingOptions { size: 1400, dont_fragment: true, ..PingOptions::default() };
    let report = ping_with(lab.node("a")?.ns(), lab.node("b")?.underlay4().into(), &too_big)?;
    ensure!(report.received == 0 && report.errors > 0, "MTU 1400 lets 1428 bytes pass: {report:?}");
    Ok(())
}

fn loss_and_duplicates() -> Result<()> {
    let lab = impaired("loss", Impairment::default())?;
    let (a, b) = (lab.node("a")?, lab.node("b")?);
    let wire = lab.impaired()?;
    ping(a.ns(), b.underlay4().into())?;
    ensure!(wire.stats().lost == 0 && wire.stats().received > 0, "{:?}", wire.stats());
    wire.set(Impairment { loss: 0.2, ..Impairment::default() });
    let report = ping_with(a.ns(), b.underlay4().into(), &many(300))?;
    // Two crossings: 64 % come back, plus or minus 5 standard deviations.
    ensure!((150..=234).contains(&report.received), "20 % loss: {} of 300", report.received);
    wire.set(Impairment { duplicate: 0.5, ..Impairment::default() });
    let report = ping_with(a.ns(), b.underlay4().into(), &many(100))?;
    ensure!(report.received == 100 && report.duplicates > 50, "{report:?}");
    wire.set(Impairment { loss: 1.0, ..Impairment::default() });
    no_ping(a.ns(), b.underlay4().into())
}

fn delay() -> Result<()> {
    let lab = impaired("delay", Impairment { delay: Duration::from_millis(20), ..Impairment::default() })?;
    let (a, b) = (lab.node("a")?, lab.node("b")?);
    let report = ping(a.ns(), b.underlay4().into())?;
    let rtt = report.rtt_avg_ms.unwrap_or(0.0);
    ensure!((40.0..80.0).contains(&rtt), "2 x 20 ms of delay, but {rtt} ms");
    Ok(())
}

fn reordering() -> Result<()> {
    let impairment =
        Impairment { reorder: 0.3, reorder_by: Duration::from_millis(25), ..Impairment::default() };
    let lab = impaired("reorder", Impairment::default())?;
    let (a, b) = (lab.node("a")?, lab.node("b")?);
    ping(a.ns(), b.underlay4().into())?;
    lab.impaired()?.set(impairment);
    let capture = Capture::start(b.ns(), "uplink0")?;
    let report = ping_with(a.ns(), b.underlay4().into(), &many(100))?;
    ensure!(report.received == 100, "{report:?}");
    let captured = capture.stop().arrived();
    // Echo requests: IPv4, protocol 1, type 8; the sequence number is at 40.
    let numbers: Vec<u16> = captured
        .frames
        .iter()
        .map(|f| &f.raw.bytes)
        .filter(|b| b.len() > 42 && b[12..14] == [8, 0] && b[23] == 1 && b[34] == 8)
        .map(|b| u16::from_be_bytes([b[40], b[41]]))
        .collect();
    let swaps = numbers.windows(2).filter(|w| w[0] > w[1]).count();
    ensure!(swaps >= 5, "{swaps} swaps in {numbers:?}");
    Ok(())
}

fn corruption_is_seen_by_both_observers() -> Result<()> {
    lab::install::need(&["tshark"])?;
    let lab = impaired("corrupt", Impairment::default())?;
    let (a, b) = (lab.node("a")?, lab.node("b")?);
    ping(a.ns(), b.underlay4().into())?;
    let clean = Capture::start(b.ns(), "uplink0")?;
    tcp(a.ns(), b.ns(), b.underlay4().into(), 300_000)?;
    let clean = clean.stop();
    clean.require_good_checksums(20)?;
    let findings = lab::tshark::check(&clean, &lab.dir().join("clean.pcap"), &[])?;
    ensure!(findings.bad.is_empty() && findings.good > 20, "clean: {findings:?}");

    lab.impaired()?.set(Impairment { corrupt: 0.2, ..Impairment::default() });
    let dirty = Capture::start(b.ns(), "uplink0")?;
    // No ping here: it takes the time from the payload, and waits by it, wrong checksum or not.
    let frame = rawframe::Udp {
        eth_src: a.ns().mac("uplink0")?,
        eth_dst: b.ns().mac("uplink0")?,
        src: (a.underlay4().into(), 1000),
        dst: (b.underlay4().into(), 2000),
        ttl: 64,
        payload: &[0x5a; 300],
    };
    rawframe::send(a.ns(), "uplink0", &vec![frame.frame()?; 200])?;
    lab::wait::until("all frames crossed", Duration::from_secs(5), || {
        (dirty.so_far().frames.len() >= 200).then_some(())
    })?;
    let dirty = dirty.stop().arrived();
    let ours = dirty.verify();
    ensure!(!ours.bad.is_empty(), "we saw no bad checksum: {ours:?}");
    ensure!(dirty.require_good_checksums(0).is_err(), "bad checksums were accepted");
    let findings = lab::tshark::check(&dirty, &lab.dir().join("dirty.pcap"), &[])?;
    ensure!(!findings.bad.is_empty(), "tshark saw no bad checksum: {findings:?}");
    ensure!(lab.impaired()?.stats().corrupted > 0, "nothing was corrupted");
    Ok(())
}

/// Random payload on a port that is registered for ENIP, or for GTP's tunnels, is not read as theirs.
fn ports_of_others_are_no_findings() -> Result<()> {
    lab::install::need(&["tshark"])?;
    let lab = two_nodes("ports", Underlay::default())?;
    let (a, b) = (lab.node("a")?, lab.node("b")?);
    let capture = Capture::start(b.ns(), "uplink0")?;
    let frame = |port| {
        let frame = rawframe::Udp {
            eth_src: a.ns().mac("uplink0")?,
            eth_dst: b.ns().mac("uplink0")?,
            src: (a.underlay4().into(), 40_000),
            dst: (b.underlay4().into(), port),
            ttl: 64,
            // A GTP header and what may pass for an IPv4 packet with a wrong checksum.
            payload: &[&[0x30, 0xff, 0, 30, 0, 0, 0, 1][..], &[0x45; 30][..]].concat(),
        };
        frame.frame()
    };
    let frames = [frame(44_818)?, frame(2152)?, frame(9)?];
    rawframe::send(a.ns(), "uplink0", &frames)?;
    for frame in &frames {
        capture.wait_for("frame", Duration::from_secs(5), |f| f.raw.bytes == *frame)?;
    }
    let findings = lab::tshark::check(&capture.stop().arrived(), &lab.dir().join("ports.pcap"), &[])?;
    ensure!(findings.malformed == 0 && findings.bad.is_empty() && findings.good >= 6, "{findings:?}");
    Ok(())
}

fn tcp_survives_a_bad_wire() -> Result<()> {
    let lab = impaired("bad", Impairment::default())?;
    let (a, b) = (lab.node("a")?, lab.node("b")?);
    ping(a.ns(), b.underlay4().into())?;
    lab.impaired()?.set(Impairment {
        loss: 0.01,
        duplicate: 0.01,
        reorder: 0.02,
        corrupt: 0.005,
        reorder_by: Duration::from_millis(2),
        ..Impairment::default()
    });
    let flow = TcpFlow::start(
        a.ns(),
        b.ns(),
        b.underlay4().into(),
        &TcpOptions { bytes: None, ..TcpOptions::default() },
    )?;
    flow.wait_progress(2_000_000, Duration::from_secs(30))?;
    let report = flow.finish()?;
    ensure!(report.retransmits > 0, "no retransmission on a bad wire: {report:?}");
    Ok(())
}

fn path_mtu_hole() -> Result<()> {
    let lab = impaired("hole", Impairment { max_frame: Some(1314), ..Impairment::default() })?;
    let (a, b) = (lab.node("a")?, lab.node("b")?);
    ping(a.ns(), b.underlay4().into())?;
    let big = PingOptions { size: 1400, dont_fragment: true, ..many(3) };
    let report = ping_with(a.ns(), b.underlay4().into(), &big)?;
    ensure!(report.received == 0 && lab.impaired()?.stats().too_big >= 3, "{report:?}");
    Ok(())
}

fn kernel_bridge() -> Result<()> {
    let lab = Lab::new("kbr").node("a").build()?;
    let bridge = KernelBridge::plain(lab.node("a")?.ns(), 1500)?;
    let (p, q) = (lab.pod("p")?, lab.pod("q")?);
    bridge.attach(&p, &["10.1.1.2/24"], &[])?;
    bridge.attach(&q, &["10.1.1.3/24"], &[])?;
    ping(p.ns(), ip("10.1.1.3"))?;
    let report =
        iperf(p.ns(), q.ns(), ip("10.1.1.3"), &IperfOptions { seconds: 1, ..IperfOptions::default() })?;
    ensure!(report.bits_per_second > 1e8, "{} bit/s, {}", report.bits_per_second, report.congestion);
    let udp = IperfOptions { seconds: 1, udp: Some(64), ..IperfOptions::default() };
    let report = iperf(p.ns(), q.ns(), ip("10.1.1.3"), &udp)?;
    ensure!(report.packets_per_second > 1e3, "{} packets/s", report.packets_per_second);
    Ok(())
}

fn kernel_vxlan_bridged() -> Result<()> {
    for v6 in [false, true] {
        let lab = two_nodes(if v6 { "kvb6" } else { "kvb4" }, Underlay::default())?;
        let mut pods = Vec::new();
        for node in lab.nodes() {
            let bridge = KernelBridge::vxlan(node, &VxlanOptions { v6, ..VxlanOptions::new(7) })?;
            for other in lab.nodes().iter().filter(|n| n.index() != node.index()) {
                bridge.flood_to(other.underlay(v6))?;
            }
            let pod = lab.pod(&format!("p{}", node.index()))?;
            let n = node.index() + 1;
            bridge.attach(&pod, &[&format!("10.1.1.{n}/24"), &format!("fd00:1::{n}/64")], &[])?;
            pods.push(pod);
        }
        overlay_works(pods[0].ns(), pods[1].ns(), ["10.1.1.3", "fd00:1::3"])?;
    }
    Ok(())
}

fn kernel_vxlan_routed() -> Result<()> {
    let lab = two_nodes("kvr", Underlay::default())?;
    let options = VxlanOptions::new(1);
    let mut sides = Vec::new();
    for node in lab.nodes() {
        let n = node.index();
        let side = RoutedVxlan::new(
            node,
            &options,
            &[&format!("10.1.{n}.0/32"), &format!("fd00:{n}::/128")],
            &[&format!("10.1.{n}.1/24"), &format!("fd00:{n}::1/64")],
        )?;
        let pod = lab.pod(&format!("p{n}"))?;
        let gateways = [ip(&format!("10.1.{n}.1")), ip(&format!("fd00:{n}::1"))];
        side.attach(&pod, &[&format!("10.1.{n}.2/24"), &format!("fd00:{n}::2/64")], &gateways)?;
        sides.push((side, pod, node));
    }
    for (from, to) in [(0, 1), (1, 0)] {
        let (side, (other, _, node)) = (&sides[from].0, &sides[to]);
        let n = node.index();
        side.add_remote(&Remote {
            underlay: node.underlay4().into(),
            router_mac: other.router_mac(),
            pod_cidrs: &[&format!("10.1.{n}.0/24"), &format!("fd00:{n}::/64")],
        })?;
    }
    overlay_works(sides[0].1.ns(), sides[1].1.ns(), ["10.1.2.2", "fd00:2::2"])
}

/// Ping, TCP and datagrams of all sizes, IPv4 and IPv6, from one pod to the other.
fn overlay_works(from: &lab::Ns, to: &lab::Ns, addresses: [&str; 2]) -> Result<()> {
    for address in addresses.map(ip) {
        ping(from, address)?;
        tcp(from, to, address, 5_000_000)?;
        udp_echo(from, to, address, &UDP_SIZES, 4)?;
    }
    Ok(())
}

fn ovs_tunnel(name: &str, encap: Encap) -> Result<()> {
    let lab = two_nodes(name, no_offloads())?;
    let mut running = Vec::new();
    for node in lab.nodes() {
        let ovs = Ovs::start_on(node)?;
        let other = 3 - node.index();
        ovs.add_tunnel("tun0", encap, ip(&format!("192.168.77.{other}")), 7)?;
        let n = node.index() + 1;
        let pod = lab.pod(&format!("p{n}"))?;
        ovs.attach_veth(&pod, &[&format!("10.1.1.{n}/24"), &format!("fd00:1::{n}/64")], &[], 1400)?;
        running.push((ovs, pod));
    }
    overlay_works(running[0].1.ns(), running[1].1.ns(), ["10.1.1.3", "fd00:1::3"])
}

fn ovs_vxlan() -> Result<()> {
    ovs_tunnel("ovsvx", Encap::Vxlan)
}

fn ovs_geneve() -> Result<()> {
    ovs_tunnel("ovsgnv", Encap::Geneve)
}

fn ovs_with_kernel_vxlan() -> Result<()> {
    let lab = two_nodes("ovskrn", no_offloads())?;
    let (a, b) = (lab.node("a")?, lab.node("b")?);
    let ovs = Ovs::start_on(a)?;
    ovs.add_tunnel("tun0", Encap::Vxlan, b.underlay4().into(), 7)?;
    let p = lab.pod("p")?;
    ovs.attach_tap(&p, &["10.1.1.2/24", "fd00:1::2/64"], &[], 1400)?;
    let bridge = KernelBridge::vxlan(b, &VxlanOptions { mtu: Some(1400), ..VxlanOptions::new(7) })?;
    bridge.flood_to(a.underlay4().into())?;
    let q = lab.pod("q")?;
    bridge.attach(&q, &["10.1.1.3/24", "fd00:1::3/64"], &[])?;
    // The kernel's VXLAN device leaves inner checksums to the uplink, which Open vSwitch does not
    // compute: the pod has to.
    q.ns().ethtool("eth0", &[("tx", false)])?;
    overlay_works(p.ns(), q.ns(), ["10.1.1.3", "fd00:1::3"])
}

fn ovs_on_one_node() -> Result<()> {
    let lab = Lab::new("ovs1").node("a").build()?;
    let node = lab.node("a")?;
    let ovs = Ovs::start(node.ns(), &node.dir().join("ovs"))?;
    let (p, q) = (lab.pod("p")?, lab.pod("q")?);
    ovs.attach_tap(&p, &["10.1.1.2/24"], &[], 1500)?;
    ovs.attach_tap(&q, &["10.1.1.3/24"], &[], 1500)?;
    ping(p.ns(), ip("10.1.1.3"))?;
    tcp(p.ns(), q.ns(), ip("10.1.1.3"), 5_000_000)?;
    let flows = ovs.appctl(&["dpctl/dump-flows"])?;
    ensure!(flows.contains("in_port"), "{flows}");
    ensure!(ovs.pid() > 0, "no pid");
    Ok(())
}

fn forged_frames_are_seen() -> Result<()> {
    let lab = two_nodes("forge", Underlay::default())?;
    let (a, b) = (lab.node("a")?, lab.node("b")?);
    let capture = Capture::start(b.ns(), "uplink0")?;
    let mac = [2, 0, 0, 0, 0, 0x66];
    let frames = [
        Arp::request(mac, Ipv4Addr::new(192, 168, 77, 66), Ipv4Addr::new(192, 168, 77, 2)).frame(),
        rawframe::router_advertisement(mac, "fe80::66".parse()?)?,
        rawframe::dhcp_offer(mac, Ipv4Addr::new(192, 168, 77, 66), Ipv4Addr::new(192, 168, 77, 99))?,
        rawframe::link_control(mac, 0),
        rawframe::Udp {
            eth_src: mac,
            eth_dst: b.ns().mac("uplink0")?,
            src: (ip("10.9.9.9"), 1000),
            dst: (b.underlay4().into(), 2000),
            ttl: 3,
            payload: b"forged",
        }
        .frame()?,
    ];
    rawframe::send(a.ns(), "uplink0", &frames)?;
    for frame in &frames {
        capture.wait_for("forged frame", Duration::from_secs(5), |f| f.raw.bytes == *frame)?;
    }
    let captured = capture.stop().arrived();
    ensure!(captured.count(|f| f.raw.bytes[6..12] == mac) == frames.len(), "not once each");
    captured.require_good_checksums(3)?;
    if lab::install::find("tshark").is_some() {
        let file = lab.dir().join("forged.pcap");
        let findings = lab::tshark::check(&captured, &file, &[])?;
        ensure!(findings.malformed == 0 && findings.bad.is_empty(), "{findings:?}");
        let decoded = lab::tshark::decode(&file, &[])?;
        ensure!(decoded.iter().any(|d| !d["_source"]["layers"]["dhcp"].is_null()), "no DHCP in the decode");
    }
    Ok(())
}

/// Traffic that leaves checksums to the device is told apart from wrong checksums.
fn offloaded_checksums_are_not_wrong() -> Result<()> {
    let lab = two_nodes("offl", Underlay::default())?;
    let (a, b) = (lab.node("a")?, lab.node("b")?);
    ping(a.ns(), b.underlay4().into())?;
    let capture = Capture::start(b.ns(), "uplink0")?;
    tcp(a.ns(), b.ns(), b.underlay4().into(), 2_000_000)?;
    let report = capture.stop().require_good_checksums(1)?;
    ensure!(report.not_ready > 0, "a veth pair computes checksums? {report:?}");
    Ok(())
}

fn cleanup_after_panic() -> Result<()> {
    let run = std::panic::catch_unwind(|| -> Result<u32> {
        let lab =
            two_nodes("panic", Underlay::Impaired { impairment: Impairment::default(), seed: 1, mtu: 1500 })?;
        let node = lab.node("a")?;
        let daemon = node.ns().cmd("sleep").arg("1000").daemon("sleeper", &node.dir().join("s.log"))?;
        let pid = daemon.pid();
        std::panic::resume_unwind(Box::new(pid));
    });
    let pid = match run {
        Err(payload) => *payload.downcast::<u32>().map_err(|_| "another panic")?,
        Ok(result) => result?,
    };
    ensure!(!alive(pid), "process {pid} survived");
    let left: Vec<String> = lab::netns::list()?.into_iter().filter(|n| n.starts_with("panic-")).collect();
    ensure!(left.is_empty(), "namespaces survived: {left:?}");
    Ok(())
}

fn the_sandbox_is_private() -> Result<()> {
    // Everything in /run is ours; uid 0 whoever started it.
    ensure!(rustix::process::getuid().is_root(), "not root inside");
    let entries: Vec<String> = std::fs::read_dir("/run")?
        .filter_map(|e| Some(e.ok()?.file_name().to_string_lossy().into_owned()))
        .collect();
    ensure!(
        entries.iter().all(|e| e == "netns" || e == "openvswitch" || e.starts_with("lab")),
        "/run holds {entries:?}"
    );
    if std::env::var("LAB_AS_USER").is_ok_and(|v| v == "1") {
        let map = std::fs::read_to_string("/proc/self/uid_map")?;
        let fields: Vec<&str> = map.split_whitespace().collect();
        ensure!(fields.first() == Some(&"0") && fields.get(1) != Some(&"0"), "still the real root: {map}");
    }
    Ok(())
}

/// Stand-ins for the switch's binaries, to test how the lab handles them.
const FAKE_SWD: &str = r#"#!/bin/sh
test "$1" = --underlay && test "$3" = --socket && test "$5" = --state-dir || exit 2
if test "$7" = --crash; then echo "cannot bind: fake"; exit 1; fi
echo started >> "$6/starts"
trap 'rm -f "$4"; exit 0' TERM
echo $$ > "$4"
while :; do sleep 1 & wait $!; done
"#;
const FAKE_SWCTL: &str = r#"#!/bin/sh
test -e "$2" && kill -0 "$(cat "$2")" 2>/dev/null || { echo "no daemon" >&2; exit 4; }
case "$*" in
*"port add"*) echo "$*" >> "$2.calls" ;;
*"-o json status"*) echo '{"generation": 3}' ;;
*"wait --generation 3") ;;
*status*) exit 6 ;;
*) echo "unknown port x" >&2; exit 3 ;;
esac
"#;

fn the_daemon_is_handled() -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    let lab = two_nodes("fake", Underlay::default())?;
    let (node, pod) = (lab.node("a")?, lab.pod("web-0")?);
    for (name, text) in [("swd", FAKE_SWD), ("swctl", FAKE_SWCTL)] {
        let path = lab.dir().join(name);
        std::fs::write(&path, text)?;
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755))?;
    }
    ensure!(node.check_swd().is_err(), "a daemon before it was started");
    node.use_binaries(lab.dir());
    let e = node.start_swd(&["--crash"]).err().map(|e| e.to_string()).unwrap_or_default();
    ensure!(e.contains("cannot bind: fake"), "the log is not quoted: {e}");
    node.start_swd(&[])?;
    ensure!(node.start_swd(&[]).is_err(), "two daemons on one node");
    ensure!(lab::swd::generation(&node.swctl(&["status"])?) == Some(3), "no generation");
    node.settle()?;
    node.add_port(&pod, "pods", &["10.1.1.2/24", "fd00:1::2/64"])?;
    let calls = std::fs::read_to_string(node.dir().join("swd.sock.calls"))?;
    let wanted =
        "port add web-0 --network pods --netns /run/netns/fake-web-0 --ip 10.1.1.2/24 --ip fd00:1::2/64";
    ensure!(calls.contains(wanted), "{calls}");
    let output = node.swctl_output(&["port", "show", "x"])?;
    ensure!(output.code == 3 && output.stderr.contains("unknown port x"), "{output:?}");
    ensure!(node.swctl_text(&["port", "show", "x"]).is_err(), "a failed command passes");

    let pid = node.swd_pid()?;
    node.kill9()?;
    ensure!(!alive(pid) && node.check_swd().is_err(), "it survived SIGKILL");
    node.restart()?;
    ensure!(node.swd_pid()? != pid, "the same process");
    ensure!(node.stop_swd()? == 0, "SIGTERM was not a clean end");
    node.restart()?;
    let starts = std::fs::read_to_string(node.state_dir().join("starts"))?;
    ensure!(starts.lines().count() == 3, "{starts}");
    Ok(())
}

fn main() -> ExitCode {
    lab::harness::run(&[
        ("sandbox::private", the_sandbox_is_private),
        ("netns::come_and_go", namespaces_come_and_go),
        ("cmd::limits_and_errors", commands_end_in_time_and_errors_speak),
        ("cmd::daemons_die_with_their_guard", daemons_die_with_their_guard),
        ("swd::is_handled", the_daemon_is_handled),
        ("wire::veth", veth_wire),
        ("wire::bridge_of_three", bridge_wire_of_three),
        ("impair::loss_and_duplicates", loss_and_duplicates),
        ("impair::delay", delay),
        ("impair::reordering", reordering),
        ("impair::corruption_is_seen_by_both_observers", corruption_is_seen_by_both_observers),
        ("impair::ports_of_others_are_no_findings", ports_of_others_are_no_findings),
        ("impair::tcp_survives_a_bad_wire", tcp_survives_a_bad_wire),
        ("impair::path_mtu_hole", path_mtu_hole),
        ("kernel::bridge", kernel_bridge),
        ("kernel::vxlan_bridged", kernel_vxlan_bridged),
        ("kernel::vxlan_routed", kernel_vxlan_routed),
        ("ovs::vxlan", ovs_vxlan),
        ("ovs::geneve", ovs_geneve),
        ("ovs::with_kernel_vxlan", ovs_with_kernel_vxlan),
        ("ovs::on_one_node", ovs_on_one_node),
        ("observe::forged_frames", forged_frames_are_seen),
        ("observe::offloaded_checksums", offloaded_checksums_are_not_wrong),
        ("cleanup::after_panic", cleanup_after_panic),
    ])
}
