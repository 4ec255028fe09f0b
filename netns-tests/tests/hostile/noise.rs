//! Noise: frames of a pod that mean nothing or contradict themselves, errors by the thousand, and a
//! wire that loses, doubles, reorders and damages. Nobody else notices, and every frame is counted.

use std::time::{Duration, Instant};

use lab::capture::Capture;
use lab::conserve::{Ledger, check};
use lab::flow::{TcpFlow, TcpOptions, udp_echo};
use lab::impair::{Impairment, Rng};
use lab::probe::{PingOptions, ping, ping_with};
use lab::rawframe::{self, Arp, BROADCAST, Mac, ethernet};
use lab::wire::Underlay;
use lab::{Context, Lab, Result, ensure};

use crate::common::{Host, Mode, Setup, World, add_host, add_network, converse, start};
use crate::support::{
    BURST, Injector, Marker, dropped_exactly, drops, gateway_mac, icmpv6, ipv6, start_alone, udp,
};

const ONE: (&str, &str) = ("10.1.1", "fd00:1");
const FRAMES: usize = 100_000;

/// Honest frames of many kinds, to be mutated.
fn seeds(from: &Injector, host: &Host, to: &Host, gateway: Mac) -> Result<Vec<Vec<u8>>> {
    let victim = to.ns().mac("eth0")?;
    let mut seeds = Vec::new();
    for dst in [victim, gateway, BROADCAST] {
        for v6 in [false, true] {
            for len in [0, 18, 300, 1300] {
                seeds.push(udp((from.mac, dst), host.ip(v6), to.ip(v6), (1000, 7), &vec![7; len])?);
            }
            seeds.push(udp((from.mac, dst), host.ip(v6), to.ip(v6), (1000, 4789), &[8; 60])?);
        }
        // TCP: the header of UDP replaced, the lengths are the same.
        for v6 in [false, true] {
            let mut tcp = udp((from.mac, dst), host.ip(v6), to.ip(v6), (1000, 80), &[0x50; 600])?;
            tcp[if v6 { 20 } else { 23 }] = 6;
            seeds.push(tcp);
        }
    }
    let (own, target) = (host.v6, to.v6);
    let body = [&[0; 4], &target.octets()[..], &[1, 1], &from.mac].concat();
    for kind in [1, 2, 3, 128, 133, 134, 135, 136, 137, 143] {
        let message = icmpv6(own, target, kind, 0, &body);
        seeds.push(ipv6((from.mac, victim), (own, target), 58, &message));
        let behind = [&[58, 0, 1, 4, 0, 0, 0, 0], &message[..]].concat();
        seeds.push(ipv6((from.mac, gateway), (own, target), 0, &behind));
        let fragment = [&[58, 0, 0, 1, 0, 0, 0, 1], &message[..]].concat();
        seeds.push(ipv6((from.mac, victim), (own, target), 44, &fragment));
    }
    seeds.push(Arp::request(from.mac, host.v4, to.v4).frame());
    seeds.push(rawframe::dhcp_offer(from.mac, host.v4, to.v4)?);
    seeds.push(rawframe::link_control(from.mac, 0));
    seeds.push([ethernet(victim, from.mac, 0x8100), vec![0; 60]].concat());
    Ok(seeds)
}

fn mutated(rng: &mut Rng, seeds: &[Vec<u8>]) -> Vec<u8> {
    if rng.chance(0.1) {
        let len = 14 + rng.below(200) as usize;
        return rng.bytes(len);
    }
    let mut frame = seeds[rng.below(seeds.len() as u64) as usize].clone();
    for _ in 0..rng.below(4) {
        // Headers are where it hurts.
        let at = rng.below(frame.len().min(90) as u64) as usize;
        match rng.below(3) {
            0 => frame[at] ^= 1 << rng.below(8),
            1 => frame[at] = [0, 1, 0x7f, 0x80, 0xff][rng.below(5) as usize],
            _ => frame[at] = rng.next_u64() as u8,
        }
    }
    match rng.below(8) {
        0 => frame.truncate(14 + rng.below(frame.len() as u64) as usize),
        1 => {
            let more = rng.below(100) as usize;
            frame.extend(rng.bytes(more));
        }
        _ => {}
    }
    frame
}

/// A virtio-net header in the machine's byte order, mostly nonsense: flags, type, header length,
/// segment size, start and offset of the checksum.
fn offload_header(rng: &mut Rng, len: usize) -> [u8; 10] {
    let mut header = [0; 10];
    header[0] = rng.below(4) as u8;
    header[1] = [0, 0, 1, 3, 4, 5, 0x81, 0x84, 0xff][rng.below(9) as usize];
    let near = |rng: &mut Rng| -> u16 {
        match rng.below(4) {
            0 => rng.next_u64() as u16,
            1 => [0, 1, 14, 34, 54, 66][rng.below(6) as usize],
            2 => rng.below(len as u64 + 2) as u16,
            _ => [34, 54][rng.below(2) as usize],
        }
    };
    header[2..4].copy_from_slice(&near(rng).to_ne_bytes());
    let size = [0, 1, 8, 100, 500, 1400, 0xffff][rng.below(7) as usize];
    header[4..6].copy_from_slice(&u16::to_ne_bytes(size));
    header[6..8].copy_from_slice(&near(rng).to_ne_bytes());
    let offset = if rng.chance(0.7) { [6, 16][rng.below(2) as usize] } else { near(rng) };
    header[8..10].copy_from_slice(&offset.to_ne_bytes());
    header
}

/// Sends markers until one arrives; gives how many did not. One frame with a tiny segment size becomes
/// a thousand in the pod's own kernel, more than its queue takes, and a marker behind it gets lost.
fn marked(from: &Injector, marker: &Marker) -> Result<u64> {
    for lost in 0..20 {
        let (frame, text) = marker.frame(from.mac, from.ip)?;
        from.send(&frame)?;
        if marker.arrives(&text)? {
            return Ok(lost);
        }
    }
    Err(lab::Error::failed("of 20 markers none arrived"))
}

/// 100,000 random and mutated frames from a pod, half of them with offload requests: the daemon lives
/// and has a verdict for each; what another pod gets has no damage that the sender did not put there.
fn fuzz(name: &str, learning: bool, seed: u64) -> Result<()> {
    let lab = Lab::new(name).node("a").node("b").build()?;
    let (a, b) = (lab.node("a")?, lab.node("b")?);
    for (node, other) in [(a, b), (b, a)] {
        start(node, false, &[])?;
        add_network(node, "pods", 1, &[ONE], &[])?;
        node.add_peer(other, false, &[])?;
    }
    let evil = add_host(&lab, a, "evil", ONE, 2, if learning { &["--learning"] } else { &[] })?;
    let victim = add_host(&lab, a, "victim", ONE, 3, &[])?;
    let plain = add_host(&lab, a, "plain", ONE, 4, &["--learning", "--no-offload"])?;
    let far = add_host(&lab, b, "far", ONE, 5, &[])?;
    for node in lab.nodes() {
        node.settle()?;
    }
    ping(far.ns(), victim.ip(false))?;
    let raw = Injector::at(&evil)?;
    let offload = Injector::at(&evil)?.with_offload_header()?;
    let marker = Marker::at(&victim)?;
    let mut rng = Rng::new(seed);
    let mut seeds = seeds(&raw, &evil, &victim, gateway_mac(a)?)?;
    seeds.extend(self::seeds(&raw, &evil, &far, gateway_mac(a)?)?);
    let before = Ledger::read(a)?.account.frames_in;
    let (mut sent, mut refused, mut lost) = (0u64, 0u64, 0u64);
    for n in 0..4 * FRAMES {
        if sent == FRAMES as u64 {
            break;
        }
        let frame = mutated(&mut rng, &seeds);
        let result = if n % 2 == 0 {
            raw.try_send(&frame)?
        } else {
            let header = offload_header(&mut rng, frame.len());
            offload.try_send(&[&header[..], &frame].concat())?
        };
        // The pod's own kernel refuses what contradicts itself too openly.
        match result {
            Ok(()) => sent += 1,
            Err(_) => refused += 1,
        }
        if n % BURST == BURST - 1 {
            lost += marked(&raw, &marker).context(format!("after {n} frames"))?;
        }
    }
    lost += marked(&raw, &marker)?;
    let device = evil.ns().ip_json(&["-s", "link", "show", "dev", "eth0"])?;
    let overflow = device[0]["stats64"]["tx"]["dropped"].as_u64().unwrap_or(0);
    ensure!(overflow >= lost, "{lost} markers lost, but the pod's own queue dropped {overflow}");
    ensure!(sent == FRAMES as u64, "only {sent} were sent, {refused} refused");
    let mut reasons = Vec::new();
    for node in lab.nodes() {
        node.check_swd()?;
        let ledger = Ledger::read(node)?;
        ledger.balanced().context(node.name())?;
        for reason in ["no-port", "tx-error", "tx-oversize", "tx-full", "no-buffer", "tunnel-truncated"] {
            ensure!(ledger.dropped_for(reason) == 0, "{}: {reason}: {:?}", node.name(), ledger.drops);
        }
        if node.name() == "a" {
            let heard = ledger.account.frames_in - before;
            ensure!(heard >= sent * 9 / 10, "{heard} frames came in of {sent}");
            ensure!(ledger.dropped_for("malformed") > 0, "{:?}", ledger.drops);
            ensure!(learning || ledger.dropped_for("spoofed-ip") > 0, "{:?}", ledger.drops);
        }
        reasons.extend(ledger.drops.into_iter().map(|d| d.reason));
    }
    // A learning port may claim what nobody has declared, far's address too: all of that is forgotten.
    for node in lab.nodes() {
        node.swctl_text(&["fdb", "flush"])?;
        node.swctl_text(&["neigh", "flush"])?;
    }
    for host in [&evil, &victim, &plain, &far] {
        host.ns().cmd("ip").args(["neigh", "flush", "dev", "eth0"]).run()?;
    }
    for v6 in [false, true] {
        for to in [&victim, &plain, &far] {
            converse(&evil, to, v6, 1_000_000)?;
        }
    }
    let reasons: Vec<&str> = reasons.iter().map(String::as_str).collect();
    check(lab.nodes(), &reasons)
}

pub fn fuzz_from_a_declared_port() -> Result<()> {
    fuzz("fuzzd", false, 1)
}

pub fn fuzz_from_a_learning_port() -> Result<()> {
    fuzz("fuzzl", true, 2)
}

/// Thousands of packets that deserve an error get some: a burst of 20 and 100 a second for one port.
/// Another port's share is its own.
pub fn errors_are_limited() -> Result<()> {
    const COUNT: u64 = 2000;
    let lab = Lab::new("icmp").node("a").build()?;
    let a = lab.node("a")?;
    start_alone(a, &[])?;
    add_network(a, "pods", 1, &[ONE], &[])?;
    let evil = add_host(&lab, a, "evil", ONE, 2, &[])?;
    let other = add_host(&lab, a, "other", ONE, 3, &[])?;
    a.settle()?;
    let (injector, marker, gateway) = (Injector::at(&evil)?, Marker::at(&other)?, gateway_mac(a)?);
    let capture = Capture::start(evil.ns(), "eth0")?;
    let before = drops(a)?;
    let began = Instant::now();
    let mut frames = Vec::new();
    for v6 in [false, true] {
        let to = if v6 { "2001:db8::1".parse()? } else { [10, 9, 9, 9].into() };
        let mut frame = udp((injector.mac, gateway), evil.ip(v6), to, (1, 2), b"too far")?;
        // Hop limit 1; for IPv4 with the header checksum that belongs to it.
        if v6 {
            frame[21] = 1;
        } else {
            let udp = rawframe::Udp {
                eth_src: injector.mac,
                eth_dst: gateway,
                src: (evil.ip(false), 1),
                dst: (to, 2),
                ttl: 1,
                payload: b"too far",
            };
            frame = udp.frame()?;
        }
        frames.push(frame);
    }
    for n in 0..COUNT {
        injector.send(&frames[n as usize % 2])?;
        if n as usize % BURST == BURST - 1 {
            injector.mark(&marker)?;
        }
    }
    // The other port gets its error in the middle of that.
    let hop =
        PingOptions { count: 1, ttl: Some(1), wait: Duration::from_millis(500), ..PingOptions::default() };
    let report = ping_with(other.ns(), [10, 9, 9, 9].into(), &hop)?;
    ensure!(report.text.contains("Time to live exceeded"), "the other port is not told: {}", report.text);
    injector.mark(&marker)?;
    dropped_exactly(a, &before, &[("ttl-exceeded", "evil", COUNT), ("ttl-exceeded", "other", 1)])?;
    let elapsed = began.elapsed();
    let arrived = capture.stop().arrived();
    let errors = arrived.count(|f| {
        let b = &f.raw.bytes;
        let v4 = b.get(12..14) == Some(&[8, 0]) && b.get(23) == Some(&1) && b.get(34) == Some(&11);
        let v6 = b.get(12..14) == Some(&[0x86, 0xdd]) && b.get(20) == Some(&58) && b.get(54) == Some(&3);
        v4 || v6
    });
    let most = 20.0 + 100.0 * elapsed.as_secs_f64() + 1.0;
    ensure!(errors >= 20 && errors as f64 <= most, "{errors} errors in {elapsed:?}, at most {most:.0}");
    arrived.require_good_checksums(20)?;
    for v6 in [false, true] {
        converse(&evil, &other, v6, 1_000_000)?;
    }
    check(lab.nodes(), &["ttl-exceeded"])
}

/// A wire that does everything wrong: what arrives is what was sent, and frames are conserved. Without
/// outer checksums a flipped bit can reach any header inside.
fn bad_wire(name: &str, peer: &[&str], allowed: &[&str]) -> Result<()> {
    let underlay = Underlay::Impaired { impairment: Impairment::default(), seed: 11, mtu: 1500 };
    let world = World::build(&Setup { underlay, peer, ..Setup::new(name, Mode::Bridged) })?;
    let (near, far) = (&world.near, &world.far);
    for v6 in [false, true] {
        ping(near.ns(), far.ip(v6))?;
    }
    let wire = world.lab.impaired()?;
    wire.set(Impairment {
        loss: 0.01,
        delay: Duration::from_micros(500),
        jitter: Duration::from_micros(500),
        reorder: 0.02,
        reorder_by: Duration::from_millis(2),
        duplicate: 0.01,
        corrupt: 0.01,
        ..Impairment::default()
    });
    let options =
        TcpOptions { bytes: Some(2_000_000), stall: Duration::from_secs(30), ..TcpOptions::default() };
    let capture = Capture::start(far.ns(), "eth0")?;
    let mut flows = Vec::new();
    for (from, to, v6) in [(near, far, false), (far, near, true), (near, far, true), (far, near, false)] {
        flows.push(TcpFlow::start(from.ns(), to.ns(), to.ip(v6), &options)?);
    }
    // A datagram that comes back changed fails at once; one that is lost is sent again.
    let sizes: Vec<usize> = (1..40).map(|n| n * 36).collect();
    for v6 in [false, true] {
        udp_echo(near.ns(), far.ns(), far.ip(v6), &sizes, 10)?;
    }
    for flow in flows {
        flow.finish()?;
    }
    let captured = capture.stop().arrived();
    if peer.is_empty() {
        // 8 MB in frames of up to 64 KiB.
        captured.require_good_checksums(120)?;
    } else {
        // A damaged packet may arrive as it is, for the pod to refuse; never one that the switch has
        // merged and vouches for.
        let merged = captured.frames.iter().filter(|f| f.raw.wire_len > 1464).cloned().collect();
        let merged = lab::capture::Captured { frames: merged, missed: 0 };
        merged.require_good_checksums(0)?;
    }
    let stats = wire.stats();
    ensure!(
        stats.lost > 0 && stats.corrupted > 10 && stats.duplicated > 0 && stats.reordered > 0,
        "the wire was too good: {stats:?}"
    );
    wire.set(Impairment::default());
    for v6 in [false, true] {
        converse(near, far, v6, 1_000_000)?;
        converse(&world.beside, far, v6, 1_000_000)?;
    }
    check(world.lab.nodes(), allowed)
}

pub fn a_bad_wire() -> Result<()> {
    bad_wire("badw", &[], &[])
}

pub fn a_bad_wire_without_checksums() -> Result<()> {
    // Whatever a flipped bit of the tunnel header, of a MAC address or of a length can cause.
    let damage = [
        "tunnel-bad-flags",
        "tunnel-truncated",
        "unknown-vni",
        "malformed",
        "bad-source",
        "spoofed-mac",
        "static-move",
        "control-frame",
        "bad-ip-checksum",
        "not-ip",
        "martian",
        "no-route",
        "ttl-exceeded",
        "to-gateway",
        "split-horizon",
        "reflection",
        "too-big",
        "nested",
        "ecn-congestion",
    ];
    bad_wire("badz", &["--no-checksum"], &damage)
}
