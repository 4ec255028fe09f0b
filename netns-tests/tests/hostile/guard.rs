//! A pod with declared addresses claims to be somebody else, in every way we know: nothing of it
//! reaches another pod, each frame is counted to that port under its reason, and the pod's own
//! honest traffic goes on.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use lab::capture::Capture;
use lab::conserve::check;
use lab::probe::ping;
use lab::rawframe::{self, Arp, ArpKind, BROADCAST, Mac, ethernet};
use lab::wire::UPLINK;
use lab::{Context, Lab, Result, ensure};

use crate::common::{add_host, add_network, converse, start};
use crate::support::{
    Injector, Marker, dropped_exactly, drops, gateway_mac, icmpv6, ipv6, only_markers, own_macs, udp,
};

const ONE: (&str, &str) = ("10.1.1", "fd00:1");
const RANDOM: Mac = [0x06, 0x66, 0x66, 0x66, 0x66, 0x66];
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
const ALL_NODES_MAC: Mac = [0x33, 0x33, 0, 0, 0, 1];

/// The addresses that attacks are made of.
struct Cast {
    evil: (Mac, Ipv4Addr, Ipv6Addr),
    victim: (Mac, Ipv4Addr, Ipv6Addr),
    gateway: (Mac, Ipv4Addr, Ipv6Addr),
    router: Mac,
}

/// What is sent, and the reason for which each of these frames must be dropped.
type Attack = (&'static str, &'static str, Vec<Vec<u8>>);

impl Cast {
    fn to_victim(&self) -> (Mac, Mac) {
        (self.evil.0, self.victim.0)
    }

    fn mac_spoofing(&self) -> Result<Vec<Attack>> {
        let from = |mac: Mac, dst: Mac| {
            udp((mac, dst), self.evil.1.into(), self.victim.1.into(), (1, 2), b"spoofed")
        };
        let (evil, victim) = (self.evil.0, self.victim.0);
        Ok(vec![
            ("another pod's MAC", "spoofed-mac", vec![from(victim, victim)?, from(victim, BROADCAST)?]),
            ("a random MAC", "spoofed-mac", vec![from(RANDOM, victim)?, from(RANDOM, BROADCAST)?]),
            ("the gateway's MAC", "spoofed-mac", vec![from(self.gateway.0, victim)?]),
            ("the router's MAC", "spoofed-mac", vec![from(self.router, victim)?]),
            (
                "a group source",
                "bad-source",
                vec![from([1, 0, 0x5e, 0, 0, 1], victim)?, from(BROADCAST, victim)?],
            ),
            ("a zero source", "bad-source", vec![from([0; 6], victim)?]),
            (
                "MAC of another in ARP",
                "spoofed-mac",
                vec![Arp { eth_src: RANDOM, ..Arp::request(evil, self.evil.1, self.victim.1) }.frame()],
            ),
        ])
    }

    fn ip_spoofing(&self) -> Result<Vec<Attack>> {
        let v4 = |src: [u8; 4], dst: Mac| {
            udp((self.evil.0, dst), Ipv4Addr::from(src).into(), self.victim.1.into(), (1, 2), b"spoofed")
        };
        let v6 = |src: Ipv6Addr, dst: Mac| {
            udp((self.evil.0, dst), src.into(), self.victim.2.into(), (1, 2), b"spoofed")
        };
        let (near, gateway) = (self.victim.0, self.gateway.0);
        let victims = self.victim.1.octets();
        let echo = icmpv6(self.victim.2, self.victim.2, 128, 0, &[0; 8]);
        // A later fragment has no ports, but it has a source.
        let mut fragment = v4(victims, near)?;
        fragment[20..22].copy_from_slice(&[0, 100]);
        let wrong = u16::from_be_bytes([fragment[24], fragment[25]]).wrapping_sub(100);
        fragment[24..26].copy_from_slice(&wrong.to_be_bytes());
        Ok(vec![
            (
                "another pod's IPv4",
                "spoofed-ip",
                vec![v4(victims, near)?, v4(victims, gateway)?, v4(victims, BROADCAST)?],
            ),
            ("the gateway's IPv4", "spoofed-ip", vec![v4(self.gateway.1.octets(), near)?]),
            ("a foreign IPv4", "spoofed-ip", vec![v4([8, 8, 8, 8], near)?, v4([8, 8, 8, 8], gateway)?]),
            (
                "no host's IPv4",
                "spoofed-ip",
                vec![
                    v4([0; 4], near)?,
                    v4([127, 0, 0, 1], near)?,
                    v4([224, 0, 0, 1], near)?,
                    v4([255; 4], near)?,
                ],
            ),
            ("a fragment", "spoofed-ip", vec![fragment]),
            ("another pod's IPv6", "spoofed-ip", vec![v6(self.victim.2, near)?, v6(self.victim.2, gateway)?]),
            ("the gateway's IPv6", "spoofed-ip", vec![v6(self.gateway.2, near)?]),
            (
                "a foreign IPv6",
                "spoofed-ip",
                vec![v6("2001:db8::1".parse()?, near)?, v6("fe80::66".parse()?, near)?],
            ),
            (
                "no host's IPv6",
                "spoofed-ip",
                vec![v6(Ipv6Addr::UNSPECIFIED, near)?, v6(Ipv6Addr::LOCALHOST, near)?],
            ),
            (
                "a spoofed echo",
                "spoofed-ip",
                vec![ipv6(self.to_victim(), (self.victim.2, self.victim.2), 58, &echo)],
            ),
        ])
    }

    fn arp_spoofing(&self) -> Vec<Attack> {
        let (evil, own) = (self.evil.0, self.evil.1);
        let claim = |kind: ArpKind, mac: Mac, ip: Ipv4Addr, dst: Mac| {
            Arp {
                kind,
                eth_src: evil,
                eth_dst: dst,
                sender_mac: mac,
                sender_ip: ip,
                target_mac: self.victim.0,
                target_ip: if dst == BROADCAST { ip } else { self.victim.1 },
            }
            .frame()
        };
        let both = |mac: Mac, ip: Ipv4Addr| {
            let mut frames = Vec::new();
            for kind in [ArpKind::Request, ArpKind::Reply] {
                for dst in [BROADCAST, self.victim.0] {
                    frames.push(claim(kind, mac, ip, dst));
                }
            }
            frames
        };
        let beside: Ipv4Addr = [10, 1, 1, 4].into();
        let mut short = claim(ArpKind::Reply, evil, own, BROADCAST);
        short.truncate(30);
        let mut long_addresses = claim(ArpKind::Reply, evil, own, BROADCAST);
        long_addresses[18] = 8;
        vec![
            ("the victim's address", "spoofed-arp", both(evil, self.victim.1)),
            ("another pod's address", "spoofed-arp", both(evil, beside)),
            ("the gateway's address", "spoofed-arp", both(evil, self.gateway.1)),
            ("a free address", "spoofed-arp", both(evil, [10, 1, 1, 99].into())),
            ("own address at another MAC", "spoofed-arp", both(self.victim.0, own)),
            ("half an ARP", "malformed", vec![short, long_addresses]),
        ]
    }

    fn nd_spoofing(&self) -> Result<Vec<Attack>> {
        let (evil, own) = (self.evil.0, self.evil.2);
        let option = |kind: u8, mac: Mac| [&[kind, 1], &mac[..]].concat();
        let advert = |src: Ipv6Addr, target: Ipv6Addr, mac: Mac| {
            let body = [&[0x20, 0, 0, 0], &target.octets()[..], &option(2, mac)].concat();
            let to_all = icmpv6(src, ALL_NODES, 136, 0, &body);
            let to_one = icmpv6(src, self.victim.2, 136, 0, &body);
            vec![
                ipv6((evil, ALL_NODES_MAC), (src, ALL_NODES), 58, &to_all),
                ipv6(self.to_victim(), (src, self.victim.2), 58, &to_one),
            ]
        };
        let solicit = |src: Ipv6Addr, mac: Mac| {
            let body = [&[0; 4], &self.victim.2.octets()[..], &option(1, mac)].concat();
            vec![ipv6(self.to_victim(), (src, self.victim.2), 58, &icmpv6(src, self.victim.2, 135, 0, &body))]
        };
        let router_solicit = [&[0; 4], &option(1, self.victim.0)[..]].concat();
        let redirect =
            [&[0; 4], &own.octets()[..], &[0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 9]].concat();
        // Behind a fragment header (RFC 6980): next header, reserved, offset 0 and "more", identification.
        let claim = [&[0x20, 0, 0, 0], &self.victim.2.octets()[..], &option(2, evil)].concat();
        let claim = icmpv6(own, ALL_NODES, 136, 0, &claim);
        let first = [&[58, 0, 0, 1, 0, 0, 0, 1], &claim[..]].concat();
        let atomic = [&[58, 0, 0, 0, 0, 0, 0, 1], &claim[..]].concat();
        let solicited = |kind: u8, body: &[u8]| {
            ipv6((evil, ALL_NODES_MAC), (own, ALL_NODES), 58, &icmpv6(own, ALL_NODES, kind, 0, body))
        };
        Ok(vec![
            ("the victim's address", "spoofed-nd", advert(own, self.victim.2, evil)),
            ("the gateway's address", "spoofed-nd", advert(own, self.gateway.2, evil)),
            ("a free address", "spoofed-nd", advert(own, "fd00:1::99".parse()?, evil)),
            ("own address at another MAC", "spoofed-nd", advert(own, own, self.victim.0)),
            ("an advertisement from another", "spoofed-ip", advert(self.victim.2, self.victim.2, evil)),
            ("one from the gateway", "spoofed-ip", advert(self.gateway.2, self.gateway.2, evil)),
            ("a solicitation with another MAC", "spoofed-nd", solicit(own, self.gateway.0)),
            ("a solicitation from another", "spoofed-ip", solicit("fd00:1::4".parse()?, evil)),
            ("a router solicitation with another MAC", "spoofed-nd", vec![solicited(133, &router_solicit)]),
            ("a redirect", "spoofed-nd", vec![solicited(137, &redirect)]),
            (
                "a claim in a first fragment",
                "spoofed-nd",
                vec![ipv6((evil, ALL_NODES_MAC), (own, ALL_NODES), 44, &first)],
            ),
            (
                "a claim in an atomic fragment",
                "spoofed-nd",
                vec![ipv6((evil, ALL_NODES_MAC), (own, ALL_NODES), 44, &atomic)],
            ),
        ])
    }

    fn router_advertisements(&self) -> Result<Vec<Attack>> {
        let (evil, own) = (self.evil.0, self.evil.2);
        // Hop limit, flags, lifetime half an hour, timers; then a prefix that hosts would use.
        let mut body = vec![64, 0, 7, 8, 0, 0, 0, 0, 0, 0, 0, 0, 3, 4, 64, 0xc0];
        body.extend_from_slice(&[0, 0, 0xe, 0x10, 0, 0, 0xe, 0x10, 0, 0, 0, 0]);
        body.extend_from_slice(&Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0).octets());
        let advert = icmpv6(own, ALL_NODES, 134, 0, &body);
        let behind = |next: u8, headers: &[&[u8]]| {
            let rest = [headers.concat(), advert.clone()].concat();
            ipv6((evil, ALL_NODES_MAC), (own, ALL_NODES), next, &rest)
        };
        const PAD: [u8; 6] = [1, 4, 0, 0, 0, 0];
        let options = |next: u8| [&[next, 0], &PAD[..]].concat();
        let mut in_tag = ethernet(ALL_NODES_MAC, evil, 0x8100);
        in_tag.extend_from_slice(&[0, 0]);
        in_tag.extend_from_slice(&behind(58, &[])[12..]);
        let chain: Vec<Vec<u8>> = (0..9).map(|n| options(if n == 8 { 58 } else { 60 })).collect();
        let chain: Vec<&[u8]> = chain.iter().map(Vec::as_slice).collect();
        Ok(vec![
            (
                "plain",
                "router-advert",
                vec![
                    behind(58, &[]),
                    rawframe::router_advertisement(evil, "fe80::66".parse()?)?,
                    rawframe::router_advertisement(evil, own)?,
                ],
            ),
            ("behind hop-by-hop options", "router-advert", vec![behind(0, &[&options(58)])]),
            ("behind destination options", "router-advert", vec![behind(60, &[&options(58)])]),
            ("behind a routing header", "router-advert", vec![behind(43, &[&[58, 0, 4, 0, 0, 0, 0, 0]])]),
            ("behind two headers", "router-advert", vec![behind(0, &[&options(60), &options(58)])]),
            ("in an atomic fragment", "router-advert", vec![behind(44, &[&[58, 0, 0, 0, 0, 0, 0, 1]])]),
            ("in a first fragment", "spoofed-nd", vec![behind(44, &[&[58, 0, 0, 1, 0, 0, 0, 1]])]),
            (
                "behind a fragment and options",
                "spoofed-nd",
                vec![behind(44, &[&[60, 0, 0, 1, 0, 0, 0, 1], &options(58)])],
            ),
            (
                "pushed out of the first fragment",
                "malformed",
                vec![ipv6(
                    (evil, ALL_NODES_MAC),
                    (own, ALL_NODES),
                    44,
                    &[&[60, 0, 0, 1, 0, 0, 0, 1], &options(58)[..]].concat(),
                )],
            ),
            ("behind too many headers", "malformed", vec![behind(60, &chain)]),
            ("in a VLAN tag", "ether-type", vec![in_tag]),
        ])
    }

    fn dhcp_servers(&self) -> Result<Vec<Attack>> {
        let (evil, own4, own6) = self.evil;
        let v6 = |src: Ipv6Addr| {
            let advertise = [2, 0, 0, 1, 0, 2, 0, 4, 0, 3, 0, 1];
            udp((evil, self.victim.0), src.into(), self.victim.2.into(), (547, 546), &advertise)
        };
        let offer = udp(self.to_victim(), own4.into(), self.victim.1.into(), (67, 68), &[2; 240])?;
        let odd_port = udp(self.to_victim(), own4.into(), self.victim.1.into(), (6767, 68), &[2; 240])?;
        Ok(vec![
            (
                "DHCPv4",
                "dhcp-server",
                vec![rawframe::dhcp_offer(evil, own4, [10, 1, 1, 66].into())?, offer, odd_port],
            ),
            (
                "DHCPv4 as the gateway",
                "spoofed-ip",
                vec![rawframe::dhcp_offer(evil, self.gateway.1, [10, 1, 1, 66].into())?],
            ),
            ("DHCPv6", "dhcp-server", vec![v6(own6)?]),
            ("DHCPv6 as the gateway", "spoofed-ip", vec![v6(self.gateway.2)?]),
        ])
    }

    fn link_layer(&self) -> Result<Vec<Attack>> {
        let evil = self.evil.0;
        let mut control: Vec<Vec<u8>> = (0..16).map(|last| rawframe::link_control(evil, last)).collect();
        let mut lldp = ethernet([1, 0x80, 0xc2, 0, 0, 0x0e], evil, 0x88cc);
        lldp.extend_from_slice(&[2, 7, 4, 2, 0, 0, 0, 0, 1, 4, 2, 5, b'e', 6, 2, 0, 120, 0, 0]);
        control.push(lldp);
        let honest = udp(self.to_victim(), self.evil.1.into(), self.victim.1.into(), (1, 2), b"tagged")?;
        let tagged = |tags: &[u16]| {
            let mut frame = honest[..12].to_vec();
            for tag in tags {
                frame.extend_from_slice(&tag.to_be_bytes());
                frame.extend_from_slice(&[0, 7]);
            }
            frame.extend_from_slice(&honest[12..]);
            frame
        };
        let of_type = |kind: u16, dst: Mac| [ethernet(dst, evil, kind), vec![0x45; 60]].concat();
        let odd =
            [0x0000, 0x0026, 0x05ff, 0x0805, 0x22f3, 0x8137, 0x8847, 0x8863, 0x88cc, 0x88f7, 0x9000, 0xffff];
        let truncated =
            |kind: u16, len: usize| [ethernet(self.victim.0, evil, kind), vec![0x45; len]].concat();
        let change = |at: usize, to: u8| {
            let mut frame = honest.clone();
            frame[at] = to;
            frame
        };
        Ok(vec![
            ("link control", "control-frame", control),
            (
                "VLAN tags",
                "ether-type",
                vec![tagged(&[0x8100]), tagged(&[0x88a8]), tagged(&[0x88a8, 0x8100]), tagged(&[0x9100])],
            ),
            (
                "odd types",
                "ether-type",
                odd.iter().flat_map(|&t| [of_type(t, self.victim.0), of_type(t, BROADCAST)]).collect(),
            ),
            (
                "cut short",
                "malformed",
                vec![
                    truncated(0x0800, 0),
                    truncated(0x0800, 19),
                    truncated(0x86dd, 0),
                    truncated(0x86dd, 39),
                    truncated(0x0806, 0),
                    truncated(0x0806, 27),
                ],
            ),
            // Version, header length, total length.
            (
                "lies about itself",
                "malformed",
                vec![change(14, 0x65), change(14, 0x44), change(14, 0x4f), change(16, 0xff)],
            ),
        ])
    }
}

/// A node with the attacker, its victim and a witness that hears what is flooded; another node with a
/// pod of the same segment.
pub fn spoofing() -> Result<()> {
    let lab = Lab::new("spoof").node("a").node("b").build()?;
    let (a, b) = (lab.node("a")?, lab.node("b")?);
    for (node, other) in [(a, b), (b, a)] {
        start(node, false, &[])?;
        add_network(node, "pods", 1, &[ONE], &[])?;
        node.add_peer(other, false, &[])?;
    }
    let evil = add_host(&lab, a, "evil", ONE, 2, &[])?;
    let victim = add_host(&lab, a, "victim", ONE, 3, &[])?;
    let witness = add_host(&lab, a, "witness", ONE, 4, &["--learning"])?;
    let far = add_host(&lab, b, "far", ONE, 5, &[])?;
    for node in lab.nodes() {
        node.settle()?;
    }
    // The far pod's MAC is known on this node from here on.
    ping(far.ns(), victim.ip(false))?;
    let gateway = gateway_mac(a)?;
    let router = own_macs(a)?.into_iter().find(|&mac| mac != gateway).unwrap_or(gateway);
    let cast = Cast {
        evil: (evil.ns().mac("eth0")?, evil.v4, evil.v6),
        victim: (victim.ns().mac("eth0")?, victim.v4, victim.v6),
        gateway: (gateway, [10, 1, 1, 1].into(), "fd00:1::1".parse()?),
        router,
    };
    let families = [
        ("MAC", cast.mac_spoofing()?),
        ("IP", cast.ip_spoofing()?),
        ("ARP", cast.arp_spoofing()),
        ("ND", cast.nd_spoofing()?),
        ("RA", cast.router_advertisements()?),
        ("DHCP", cast.dhcp_servers()?),
        ("link", cast.link_layer()?),
    ];
    let injector = Injector::at(&evil)?;
    let marker = Marker::at(&victim)?;
    let captures = [
        ("victim", Capture::start(victim.ns(), "eth0")?),
        ("witness", Capture::start(witness.ns(), "eth0")?),
        ("far", Capture::start(far.ns(), "eth0")?),
    ];
    let wire = Capture::start(a.ns(), UPLINK)?;
    let mut reasons = Vec::new();
    let mut wrong = Vec::new();
    let mut attacks = 0;
    for (family, list) in families {
        for (name, reason, frames) in list {
            let before = drops(a)?;
            for frame in &frames {
                injector.send(frame).context(format!("{family}: {name}"))?;
            }
            injector.mark(&marker).context(format!("{family}: {name}"))?;
            attacks += 1;
            reasons.push(reason);
            let wanted = [(reason, "evil", frames.len() as u64)];
            if let Err(e) = dropped_exactly(a, &before, &wanted) {
                wrong.push(format!("{family}: {name}: {e}"));
            }
        }
    }
    ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
    for (name, capture) in captures {
        let markers = only_markers(capture.stop(), &marker, name)?;
        ensure!((markers == attacks) == (name == "victim"), "{name} saw {markers} markers of {attacks}");
    }
    let sent = wire.stop();
    let inner = sent.count(|f| f.raw.outgoing && f.raw.bytes.windows(6).any(|w| w == cast.evil.0));
    let own =
        sent.count(|f| f.raw.outgoing && f.raw.bytes.windows(6).any(|w| w == [0x33, 0x33, 0, 0, 0, 0x16]));
    ensure!(inner <= own, "{inner} frames of the attacker left the node, of which {own} are its stack's own");

    // Nobody believes anything of it, and the attacker's honest traffic is as good as ever.
    let neighbours = victim.ns().ip_json(&["neigh", "show"])?;
    let fooled = neighbours.as_array().into_iter().flatten().any(|n| {
        let ip = n["dst"].as_str().and_then(|d| d.parse::<IpAddr>().ok());
        let own = [evil.ip(false), evil.ip(true)].map(Some).contains(&ip);
        n["lladdr"].as_str().and_then(lab::netns::parse_mac) == Some(cast.evil.0) && !own
    });
    ensure!(!fooled, "the victim believes {neighbours}");
    for v6 in [false, true] {
        converse(&evil, &victim, v6, 1_000_000)?;
        converse(&evil, &far, v6, 1_000_000)?;
        ping(evil.ns(), if v6 { cast.gateway.2.into() } else { cast.gateway.1.into() })?;
    }
    check(&lab.nodes()[..1], &reasons)?;
    check(&lab.nodes()[1..], &[])
}
