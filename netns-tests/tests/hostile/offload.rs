//! A pod may ask the switch to complete a checksum, that is, to write two bytes of the frame after the
//! guard has looked at it. Aimed at an address or a port number that would be a way around the guard:
//! every such request is refused, honest ones are honoured.

use std::net::{IpAddr, Ipv6Addr};

use lab::capture::Capture;
use lab::conserve::check;
use lab::rawframe::{Arp, ArpKind, BROADCAST};
use lab::{Lab, Result, ensure};

use crate::common::{Host, add_host, add_network, converse, start};
use crate::support::{
    Injector, LIMIT, Marker, dropped_exactly, drops, icmpv6, ipv6, only_markers, pseudo_header_sum, udp,
};

const ONE: (&str, &str) = ("10.1.1", "fd00:1");

/// A virtio-net header (in the machine's byte order) that asks for a checksum from `start`, to be
/// written at `offset` behind it, and the frame.
fn asking(start: u16, offset: u16, frame: &[u8]) -> Vec<u8> {
    let (s, o) = (start.to_ne_bytes(), offset.to_ne_bytes());
    [&[1, 0, 0, 0, 0, 0, s[0], s[1], o[0], o[1]], frame].concat()
}

pub fn checksum_requests() -> Result<()> {
    let lab = Lab::new("csum").node("a").node("b").build()?;
    let (a, b) = (lab.node("a")?, lab.node("b")?);
    for (node, other) in [(a, b), (b, a)] {
        start(node, false, &[])?;
        add_network(node, "pods", 1, &[ONE], &[])?;
        node.add_peer(other, false, &[])?;
    }
    let evil = add_host(&lab, a, "evil", ONE, 2, &[])?;
    let plain = add_host(&lab, a, "plain", ONE, 3, &["--no-offload"])?;
    let far = add_host(&lab, b, "far", ONE, 4, &[])?;
    for node in lab.nodes() {
        node.settle()?;
    }
    lab::probe::ping(far.ns(), plain.ip(false))?;
    let (raw, offload) = (Injector::at(&evil)?, Injector::at(&evil)?.with_offload_header()?);
    let marker = Marker::at(&plain)?;
    let captures =
        [("plain", Capture::start(plain.ns(), "eth0")?), ("far", Capture::start(far.ns(), "eth0")?)];
    let before = drops(a)?;
    let mut requests = 0;
    for to in [&plain, &far] {
        for (start, offset, frame) in twisted(&raw, &evil, to)? {
            // The pod's own kernel refuses what it knows to be wrong, newer ones more of it.
            if offload.try_send(&asking(start, offset, &frame))?.is_err() {
                continue;
            }
            requests += 1;
        }
    }
    raw.mark(&marker)?;
    ensure!(requests >= 20, "the kernel let only {requests} requests pass");
    dropped_exactly(a, &before, &[("bad-vnet", "evil", requests)])?;
    for (name, capture) in captures {
        only_markers(capture.stop(), &marker, name)?;
    }

    // An honest request: the pseudo-header sum in UDP's own field.
    for to in [&plain, &far] {
        for v6 in [false, true] {
            let capture = Capture::start(to.ns(), "eth0")?;
            let l4 = if v6 { 54 } else { 34 };
            let mut frame = udp((raw.mac, to.ns().mac("eth0")?), evil.ip(v6), to.ip(v6), (1, 9), b"honest")?;
            let sum = pseudo_header_sum(evil.ip(v6), to.ip(v6), 17, 8 + 6);
            frame[l4 + 6..l4 + 8].copy_from_slice(&sum.to_be_bytes());
            offload.send(&asking(l4 as u16, 6, &frame))?;
            capture.wait_for("an honest request", LIMIT, |f| f.raw.bytes.ends_with(b"honest"))?;
            capture.stop().arrived().require_good_checksums(1)?;
        }
    }
    for v6 in [false, true] {
        converse(&evil, &plain, v6, 1_000_000)?;
        converse(&evil, &far, v6, 1_000_000)?;
    }
    check(&lab.nodes()[..1], &["bad-vnet"])?;
    check(&lab.nodes()[1..], &[])
}

/// Frames that the guard lets pass as they are, with requests that would change what it has checked.
fn twisted(evil: &Injector, own: &Host, to: &Host) -> Result<Vec<(u16, u16, Vec<u8>)>> {
    let dst = to.ns().mac("eth0")?;
    let mut list = Vec::new();
    let v4 = udp((evil.mac, dst), own.ip(false), to.ip(false), (1, 2), b"twisted")?;
    // Lengths, protocol, source, destination of IPv4; then the ports of UDP.
    for offset in [2, 8, 9, 12, 14, 16, 18, 20, 22] {
        list.push((14, offset, v4.clone()));
    }
    for offset in [0, 2, 4] {
        list.push((34, offset, v4.clone()));
    }
    let v6 = udp((evil.mac, dst), own.ip(true), to.ip(true), (1, 2), b"twisted")?;
    for offset in [4, 6, 8, 16, 22, 24, 38, 42] {
        list.push((14, offset, v6.clone()));
    }
    list.push((54, 2, v6));
    // ARP: sender MAC and address.
    let arp = Arp { kind: ArpKind::Reply, ..Arp::request(evil.mac, evil.ip, to.v4) };
    for frame in [arp.frame(), Arp { eth_dst: dst, ..arp }.frame()] {
        for offset in [8, 12, 14, 16, 24] {
            list.push((14, offset, frame.clone()));
        }
        list.push((22, 6, frame));
    }
    // Neighbour discovery: what an honest advertisement is about, and for which MAC.
    let IpAddr::V6(src) = own.ip(true) else { return Ok(list) };
    let all: Ipv6Addr = "ff02::1".parse()?;
    let body = [&[0x20, 0, 0, 0], &src.octets()[..], &[2, 1], &evil.mac].concat();
    let advert = ipv6((evil.mac, [0x33, 0x33, 0, 0, 0, 1]), (src, all), 58, &icmpv6(src, all, 136, 0, &body));
    for offset in [0, 8, 20, 22, 24, 26, 28, 30] {
        list.push((54, offset, advert.clone()));
    }
    list.push((62, 14, advert.clone()));
    list.push((78, 2, advert));
    ensure!(list.iter().all(|(s, o, f)| usize::from(s + o) + 2 <= f.len()), "a request outside its frame");
    ensure!(list.iter().any(|(_, _, f)| f[..6] == BROADCAST), "no broadcast among them");
    Ok(list)
}
