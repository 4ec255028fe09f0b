//! Hostile datagrams on the underlay: from nodes that are no peers, and from peers that send what
//! they must not. Crafted in namespaces that own the senders' addresses.

use std::net::{IpAddr, Ipv6Addr, UdpSocket};

use lab::capture::Capture;
use lab::conserve::{Ledger, check};
use lab::impair::Rng;
use lab::rawframe::{Arp, ArpKind, BROADCAST, Mac, ethernet};
use lab::wire::{Underlay, WireOptions};
use lab::{Context, Lab, Node, Result, ensure};

use crate::common::{Host, add_host, add_network, converse, start};
use crate::support::{
    Injector, Marker, dropped_exactly, drops, gateway_mac, icmpv6, ipv6, located, only_markers, own_macs,
    udp, underlay_socket,
};

const VNI: u32 = 1;
const ONE: (&str, &str) = ("10.1.1", "fd00:1");
const INNER: Mac = [2, 0, 0, 0, 0, 0x29];

fn vxlan(flags: u8, vni: u32, inner: &[u8]) -> Vec<u8> {
    [&[flags, 0, 0, 0], &(vni << 8).to_be_bytes(), inner].concat()
}

/// Version and length of options in words, control and critical bits, protocol.
fn geneve(first: u8, bits: u8, protocol: u16, options: &[u8], inner: &[u8]) -> Vec<u8> {
    [&[first, bits], &protocol.to_be_bytes()[..], &(VNI << 8).to_be_bytes(), options, inner].concat()
}

/// Node `a` with the switch; `b` is a VXLAN peer with pod CIDRs, `d` a Geneve peer, `c` is nobody.
struct Scene {
    lab: Lab,
    victim: Host,
    witness: Host,
    beside: Host,
}

/// Sends from one node to a tunnel port of the switch and marks the end.
struct Sender {
    name: &'static str,
    socket: UdpSocket,
    encap: fn(&[u8]) -> Vec<u8>,
    inner_ip: [u8; 4],
}

impl Sender {
    fn on(node: &Node, to: &Node, geneve_port: bool, inner_ip: [u8; 4], name: &'static str) -> Result<Self> {
        let port = if geneve_port { 6081 } else { 4789 };
        let encap: fn(&[u8]) -> Vec<u8> =
            if geneve_port { |inner| geneve(0, 0, 0x6558, &[], inner) } else { |inner| vxlan(8, VNI, inner) };
        Ok(Self { name, socket: underlay_socket(node, to, port)?, encap, inner_ip })
    }

    fn send(&self, datagram: &[u8]) -> Result<()> {
        self.socket.send(datagram).map(drop).context(format!("{} sends {} bytes", self.name, datagram.len()))
    }

    fn mark(&self, marker: &Marker) -> Result<()> {
        let (frame, text) = marker.frame(INNER, self.inner_ip.into())?;
        self.send(&(self.encap)(&frame))?;
        marker.wait(&text).context(self.name)
    }
}

impl Scene {
    fn build(name: &str) -> Result<Self> {
        Self::build_with(name, &[])
    }

    fn build_with(name: &str, swd: &[&str]) -> Result<Self> {
        let lab = Lab::new(name)
            .node("a")
            .node("b")
            .node("c")
            .node("d")
            .underlay(Underlay::Bridge(WireOptions::default()))
            .build()?;
        let a = lab.node("a")?;
        start(a, false, swd)?;
        add_network(a, "pods", VNI, &[ONE], &[])?;
        a.add_peer(lab.node("b")?, false, &["--pod-cidr", "10.1.2.0/24", "--pod-cidr", "fd00:2::/64"])?;
        a.add_peer(lab.node("d")?, false, &["--encap", "geneve"])?;
        let victim = add_host(&lab, a, "victim", ONE, 3, &[])?;
        let witness = add_host(&lab, a, "witness", ONE, 4, &["--learning"])?;
        let beside = add_host(&lab, a, "beside", ONE, 5, &[])?;
        a.settle()?;
        Ok(Self { lab, victim, witness, beside })
    }

    fn listed(&self) -> Result<Sender> {
        Sender::on(self.lab.node("b")?, self.lab.node("a")?, false, [10, 1, 2, 9], "b")
    }

    fn geneve(&self) -> Result<Sender> {
        Sender::on(self.lab.node("d")?, self.lab.node("a")?, true, [10, 1, 1, 9], "d")
    }

    fn finish(self, allowed: &[&str]) -> Result<()> {
        for v6 in [false, true] {
            converse(&self.beside, &self.victim, v6, 1_000_000)?;
        }
        check(&self.lab.nodes()[..1], allowed)
    }
}

/// What a node that is no peer sends is not heard, however right it is.
pub fn unknown_peers() -> Result<()> {
    let scene = Scene::build("nopeer")?;
    let (a, c) = (scene.lab.node("a")?, scene.lab.node("c")?);
    let marker = Marker::at(&scene.victim)?;
    let mac = scene.victim.ns().mac("eth0")?;
    let captures = [("victim", &scene.victim), ("witness", &scene.witness)]
        .map(|(name, host)| (name, Capture::start(host.ns(), "eth0")));
    let before = drops(a)?;
    let mut sent = 0;
    let inner =
        |dst: Mac| udp((INNER, dst), [10, 1, 2, 9].into(), scene.victim.ip(false), (1, 2), b"stranger");
    for geneve_port in [false, true] {
        let stranger = Sender::on(c, a, geneve_port, [10, 1, 2, 9], "c")?;
        for dst in [mac, BROADCAST, gateway_mac(a)?] {
            stranger.send(&(stranger.encap)(&inner(dst)?))?;
            sent += 1;
        }
        stranger.send(&[])?;
        stranger.send(b"not a tunnel header at all")?;
        sent += 2;
    }
    // One behind the strangers in each of the two sockets.
    scene.listed()?.mark(&marker)?;
    scene.geneve()?.mark(&marker)?;
    dropped_exactly(a, &before, &[("unknown-peer", "-", sent)])?;
    for (name, capture) in captures {
        only_markers(capture?.stop(), &marker, name)?;
    }
    // Nothing was learned but the source of the markers, at the peer that sent last.
    let fdb = a.swctl(&["fdb", "show"])?;
    let learned = fdb.as_array().into_iter().flatten().filter(|row| row["state"] == "learned").count();
    ensure!(learned == 1 && located(a, INNER)?.as_deref() == Some("@d"), "{fdb}");
    // Once listed, the same node is heard.
    a.add_peer(c, false, &[])?;
    a.settle()?;
    Sender::on(c, a, false, [10, 1, 2, 9], "c")?.mark(&marker)?;
    scene.finish(&["unknown-peer"])
}

/// What a peer must not send, each under its name.
pub fn bad_datagrams() -> Result<()> {
    let scene = Scene::build("baddg")?;
    let a = scene.lab.node("a")?;
    let victim = scene.victim.ns().mac("eth0")?;
    let marker = Marker::at(&scene.victim)?;
    let (b, d) = (scene.listed()?, scene.geneve()?);
    b.mark(&marker)?;
    d.mark(&marker)?;
    let witness = Capture::start(scene.witness.ns(), "eth0")?;
    let seen = Capture::start(scene.victim.ns(), "eth0")?;
    let (from_b, to): (IpAddr, IpAddr) = ([10, 1, 2, 9].into(), scene.victim.ip(false));
    let good = udp((INNER, victim), from_b, to, (1, 2), b"inner")?;
    let everybody = udp((INNER, BROADCAST), from_b, to, (1, 2), b"inner")?;
    let from = |mac: Mac, dst: Mac| udp((mac, dst), from_b, to, (1, 2), b"inner");
    let loop_to = |node: &str| -> Result<Vec<u8>> {
        let outer = scene.lab.node(node)?.underlay4();
        udp((INNER, gateway_mac(a)?), from_b, outer.into(), (50_000, 4789), &vxlan(8, VNI, &good))
    };
    let own = own_macs(a)?;
    let mut control = everybody.clone();
    control[..6].copy_from_slice(&[1, 0x80, 0xc2, 0, 0, 0]);
    let malformed = [ethernet(victim, INNER, 0x0800), vec![0x45; 10]].concat();
    let vx = |inner: &[u8]| vxlan(8, VNI, inner);
    let gv =
        |first: u8, bits: u8, protocol: u16, options: &[u8]| geneve(first, bits, protocol, options, &good);
    // Class, type (critical with its top bit), length of the data in words.
    let (plain, critical) = ([1, 1, 3, 1, 0, 0, 0, 0], [1, 1, 0x83, 1, 0, 0, 0, 0]);
    let cases: Vec<(&str, &str, &Sender, Vec<Vec<u8>>)> = vec![
        (
            "another VNI",
            "unknown-vni",
            &b,
            vec![vxlan(8, 999, &everybody), vxlan(8, 0xff_ffff, &good), vxlan(8, 0, &good)],
        ),
        ("no VNI flag", "tunnel-bad-flags", &b, vec![vxlan(0, VNI, &good), vxlan(0xf7, VNI, &good)]),
        (
            "GPE",
            "tunnel-bad-flags",
            &b,
            vec![vxlan(0x0c, VNI, &good), vxlan(0x09, VNI, &good), vxlan(0x18, VNI, &good)],
        ),
        (
            "cut short",
            "tunnel-truncated",
            &b,
            vec![vec![], vec![8], vx(&[])[..7].to_vec(), vx(&[]), vx(&good[..13])],
        ),
        ("a tunnel in the tunnel", "nested", &b, vec![vx(&loop_to("a")?), vx(&loop_to("b")?)]),
        ("half a packet", "malformed", &b, vec![vx(&malformed), vx(&good[..30])]),
        (
            "a pod's MAC",
            "static-move",
            &b,
            vec![vx(&from(scene.beside.ns().mac("eth0")?, victim)?), vx(&from(victim, BROADCAST)?)],
        ),
        (
            "the switch's MAC",
            "spoofed-mac",
            &b,
            own.iter().map(|&mac| Ok(vx(&from(mac, victim)?))).collect::<Result<_>>()?,
        ),
        (
            "no host's MAC",
            "bad-source",
            &b,
            vec![
                vx(&from([0; 6], victim)?),
                vx(&from(BROADCAST, victim)?),
                vx(&from([1, 0, 0x5e, 0, 0, 1], victim)?),
            ],
        ),
        ("link control", "control-frame", &b, vec![vx(&control)]),
        (
            "Geneve: a critical option",
            "tunnel-unknown-critical",
            &d,
            vec![gv(2, 0x40, 0x6558, &critical), gv(2, 0, 0x6558, &critical)],
        ),
        (
            "Geneve: a version",
            "tunnel-bad-version",
            &d,
            vec![gv(0x40, 0, 0x6558, &[]), gv(0xc0, 0, 0x6558, &[])],
        ),
        (
            "Geneve: an option too long",
            "tunnel-bad-option",
            &d,
            vec![gv(2, 0, 0x6558, &[1, 1, 3, 2, 0, 0, 0, 0])],
        ),
        ("Geneve: control", "tunnel-control", &d, vec![gv(0, 0x80, 0x6558, &[])]),
        (
            "Geneve: no Ethernet",
            "tunnel-not-ethernet",
            &d,
            vec![gv(0, 0, 0x0800, &[]), gv(0, 0, 0x86dd, &[])],
        ),
        (
            "Geneve: cut short",
            "tunnel-truncated",
            &d,
            vec![vec![], vec![0; 7], geneve(0, 0, 0x6558, &[], &[]), geneve(63, 0, 0x6558, &plain, &[])],
        ),
    ];
    let mut reasons: Vec<&str> = cases.iter().map(|(_, reason, ..)| *reason).collect();
    let mut wrong = Vec::new();
    for (name, reason, sender, datagrams) in &cases {
        let before = drops(a)?;
        for datagram in datagrams {
            sender.send(datagram).context(name)?;
        }
        sender.mark(&marker).context(name)?;
        let dev = format!("@{}", sender.name);
        if let Err(e) = dropped_exactly(a, &before, &[(reason, &dev, datagrams.len() as u64)]) {
            wrong.push(format!("{name}: {e}"));
        }
    }
    // Congestion that the inner packet cannot carry on (RFC 6040).
    let before = drops(a)?;
    let marked = underlay_socket(scene.lab.node("b")?, a, 4789)?;
    set_tos(&marked, 3)?;
    marked.send(&vx(&good))?;
    b.mark(&marker)?;
    if let Err(e) = dropped_exactly(a, &before, &[("ecn-congestion", "@b", 1)]) {
        wrong.push(format!("congestion: {e}"));
    }
    reasons.push("ecn-congestion");
    ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
    for (name, capture) in [("victim", seen), ("witness", witness)] {
        only_markers(capture.stop(), &marker, name)?;
    }
    // People see the same.
    let text = a.swctl_text(&["drops"])?;
    for reason in &reasons {
        ensure!(text.contains(reason), "swctl drops does not show {reason}:\n{text}");
    }
    // A known option that is not critical is no reason to refuse.
    let (frame, text) = marker.frame(INNER, [10, 1, 1, 9].into())?;
    d.send(&geneve(2, 0, 0x6558, &plain, &frame))?;
    marker.wait(&text)?;
    scene.finish(&reasons)
}

fn set_tos(socket: &UdpSocket, tos: u32) -> Result<()> {
    use std::os::fd::AsRawFd;
    // SAFETY: the option takes an int, of which the call gets a pointer with its true size.
    let set = unsafe {
        let size = size_of::<u32>() as libc::socklen_t;
        libc::setsockopt(socket.as_raw_fd(), libc::IPPROTO_IP, libc::IP_TOS, (&raw const tos).cast(), size)
    };
    if set == 0 { Ok(()) } else { Err(std::io::Error::last_os_error().into()) }
}

/// A peer with pod CIDRs speaks for these alone.
pub fn peer_sources() -> Result<()> {
    let scene = Scene::build("peersrc")?;
    let a = scene.lab.node("a")?;
    let victim = scene.victim.ns().mac("eth0")?;
    let marker = Marker::at(&scene.victim)?;
    let b = scene.listed()?;
    b.mark(&marker)?;
    let captures = [("victim", &scene.victim), ("witness", &scene.witness)]
        .map(|(name, host)| (name, Capture::start(host.ns(), "eth0")));
    let v4 = |src: [u8; 4]| udp((INNER, victim), src.into(), scene.victim.ip(false), (1, 2), b"inner");
    let v6 = |src: Ipv6Addr| udp((INNER, victim), src.into(), scene.victim.ip(true), (1, 2), b"inner");
    let arp = |kind: ArpKind, sender_ip: [u8; 4]| {
        let request = Arp::request(INNER, sender_ip.into(), scene.victim.v4);
        Arp { kind, ..request }.frame()
    };
    let own: Ipv6Addr = "fd00:2::9".parse()?;
    let claim = |target: Ipv6Addr| {
        let all: Ipv6Addr = "ff02::1".parse()?;
        let body = [&[0x20, 0, 0, 0], &target.octets()[..], &[2, 1], &INNER].concat();
        Ok::<_, lab::Error>(ipv6(
            (INNER, [0x33, 0x33, 0, 0, 0, 1]),
            (own, all),
            58,
            &icmpv6(own, all, 136, 0, &body),
        ))
    };
    let odd = [ethernet(BROADCAST, INNER, 0x88cc), vec![0; 50]].concat();
    let frames = vec![
        v4([10, 1, 1, 5])?,
        v4([10, 1, 1, 1])?,
        v4([10, 1, 3, 9])?,
        v4([8, 8, 8, 8])?,
        v6("fd00:1::5".parse()?)?,
        v6("fd00:1::1".parse()?)?,
        v6("2001:db8::1".parse()?)?,
        arp(ArpKind::Request, [10, 1, 1, 5]),
        arp(ArpKind::Reply, [10, 1, 1, 1]),
        claim("fd00:1::5".parse()?)?,
        odd,
    ];
    let before = drops(a)?;
    for frame in &frames {
        b.send(&vxlan(8, VNI, frame))?;
    }
    b.mark(&marker)?;
    dropped_exactly(a, &before, &[("peer-source", "@b", frames.len() as u64)])?;
    for (name, capture) in captures {
        only_markers(capture?.stop(), &marker, name)?;
    }
    // Its own addresses pass.
    let seen = Capture::start(scene.victim.ns(), "eth0")?;
    b.send(&vxlan(8, VNI, &v6(own)?))?;
    b.mark(&marker)?;
    let passed = seen.stop().arrived().count(|f| f.raw.bytes.get(22..38) == Some(&own.octets()));
    ensure!(passed == 1, "{passed} of the peer's own");
    scene.finish(&["peer-source"])
}

/// 100,000 datagrams of garbage, half of them behind a right tunnel header: the daemon lives, every frame
/// has its verdict, traffic goes on.
pub fn garbage() -> Result<()> {
    const COUNT: usize = 100_000;
    let scene = Scene::build("garbage")?;
    let (a, c) = (scene.lab.node("a")?, scene.lab.node("c")?);
    let marker = Marker::at(&scene.victim)?;
    let (b, d) = (scene.listed()?, scene.geneve()?);
    let strangers = Sender::on(c, a, false, [10, 1, 2, 9], "c")?;
    let mut rng = Rng::new(2026);
    let before = Ledger::read(a)?.account;
    for n in 0..COUNT {
        let len = rng.below(if n % 16 == 0 { 1472 } else { 120 }) as usize;
        let mut noise = rng.bytes(len);
        if len > 14 && rng.chance(0.5) {
            // A frame as far as its Ethernet header goes.
            noise[6] = noise[6] & 0xfc | 2;
            noise[12..14].copy_from_slice(&[[8, 0], [0x86, 0xdd], [8, 6]][rng.below(3) as usize]);
            noise[14] = [noise[14], 0x45, 0x60][rng.below(3) as usize];
        }
        let sender = [&b, &d, &strangers][rng.below(3) as usize];
        let datagram = if rng.chance(0.5) { (sender.encap)(&noise) } else { noise };
        sender.send(&datagram)?;
        // Few enough at a time for the smallest receive buffer that the system may give.
        if n % 64 == 63 {
            b.mark(&marker)?;
            d.mark(&marker)?;
        }
    }
    b.mark(&marker)?;
    d.mark(&marker)?;
    a.check_swd()?;
    let ledger = Ledger::read(a)?;
    ledger.balanced()?;
    let heard = ledger.account.frames_in - before.frames_in;
    ensure!(heard >= COUNT as u64, "only {heard} of {COUNT} were heard");
    for reason in
        ["unknown-peer", "tunnel-bad-flags", "tunnel-truncated", "unknown-vni", "malformed", "peer-source"]
    {
        ensure!(ledger.dropped_for(reason) > 0, "garbage without any {reason}: {:?}", ledger.drops);
    }
    let unexpected = ["no-port", "bad-vnet", "tx-error", "tx-oversize", "no-buffer"];
    for reason in unexpected {
        ensure!(ledger.dropped_for(reason) == 0, "{reason}: {:?}", ledger.drops);
    }
    let reasons: Vec<&str> = ledger.drops.iter().map(|d| d.reason.as_str()).collect();
    scene.finish(&reasons)
}

/// A peer that sends from 100,000 addresses gets half of the table, and what others have taught stays.
pub fn flood_of_a_peer() -> Result<()> {
    const COUNT: usize = 100_000;
    let scene = Scene::build_with("peerfdb", &["--fdb-limit", "4096"])?;
    let a = scene.lab.node("a")?;
    let marker = Marker::at(&scene.victim)?;
    let (b, d) = (scene.listed()?, scene.geneve()?);
    let dst = scene.victim.ns().mac("eth0")?;
    let from = |mac: Mac, ip: [u8; 4]| udp((mac, dst), ip.into(), scene.victim.ip(false), (1, 2), b"flood");
    let guests: Vec<Mac> = (0..16).map(|n| [0x0a, 0, 0, 0, 0, n]).collect();
    let local = Injector::at(&scene.witness)?;
    for (n, &mac) in guests.iter().enumerate() {
        let ip = [10, 1, 2, 100 + n as u8];
        if n % 2 == 0 {
            b.send(&vxlan(8, VNI, &from(mac, ip)?))?;
        } else {
            local.send(&from(mac, ip)?)?;
        }
    }
    b.mark(&marker)?;
    local.mark(&marker)?;
    let mut rng = Rng::new(77);
    let mut datagram = geneve(0, 0, 0x6558, &[], &from([0; 6], [10, 1, 1, 200])?);
    for n in 0..COUNT {
        let noise = rng.next_u64().to_be_bytes();
        // Eight bytes of tunnel header, then the destination.
        datagram[14..20].copy_from_slice(&[0x0e, noise[1], noise[2], noise[3], noise[4], noise[5]]);
        d.send(&datagram)?;
        if n % 64 == 63 {
            d.mark(&marker)?;
        }
    }
    d.mark(&marker)?;
    let fdb = a.swctl(&["fdb", "show", "--peer", "d"])?;
    let of_d = fdb.as_array().map_or(0, Vec::len);
    ensure!(of_d == 2048, "{of_d} entries of the peer in a table of 4096");
    for (n, &mac) in guests.iter().enumerate() {
        let place = located(a, mac)?;
        let wanted = if n % 2 == 0 { "@b" } else { "witness" };
        ensure!(place.as_deref() == Some(wanted), "guest {n} is at {place:?}, not at {wanted}");
    }
    scene.finish(&[])
}
