//! Frames made by hand, and what a pod that keeps no stack sees.

use crate::world::World;
use packet::{GsoType, Headers, MacAddr, VnetHdr, build, checksum, ip_proto};
use std::net::{IpAddr, Ipv4Addr};
use switch::io::PodEnd;
use switch::io::pod::expand;

/// Makes the checksum of a finished frame partial and announces segments of `size` bytes, as a sender with
/// offloads does; the virtio-net header comes first.
pub fn offload(mut frame: Vec<u8>, size: u16) -> Vec<u8> {
    let headers = build::parse(&frame);
    let field = checksum::field_offset(headers.proto).unwrap();
    let at = usize::from(headers.l4) + field;
    let sum = checksum::pseudo(&headers, &frame, headers.end - u32::from(headers.l4));
    frame[at..at + 2].copy_from_slice(&sum.to_be_bytes());
    let gso_type = match (headers.net, headers.proto) {
        _ if size == 0 => GsoType::None,
        (packet::Net::V4, ip_proto::TCP) => GsoType::Tcp4,
        (packet::Net::V6, ip_proto::TCP) => GsoType::Tcp6,
        _ => GsoType::UdpL4,
    };
    let vnet = VnetHdr {
        needs_csum: true,
        gso_type,
        gso_size: size,
        // What a TAP really says here is of no use (the whole linear part).
        hdr_len: frame.len().min(4096) as u16,
        csum_start: headers.l4,
        csum_offset: field as u16,
        ..VnetHdr::default()
    };
    [vnet.to_bytes().to_vec(), frame].concat()
}

/// Everything the switch has written to a pod, as standard packets.
pub fn received(end: &PodEnd) -> Vec<Vec<u8>> {
    std::iter::from_fn(|| end.recv())
        .flat_map(|raw| expand(&raw).expect("a frame that makes sense"))
        .collect()
}

/// The packets among these of one IP protocol, checksums verified.
pub fn of_proto(frames: &[Vec<u8>], proto: u8) -> Vec<(Headers, Vec<u8>)> {
    let parsed = frames.iter().filter_map(|f| Some((Headers::parse(f).ok()?, f.clone())));
    parsed
        .filter(|(h, _)| h.proto == proto)
        .inspect(|(h, f)| assert!(checksum::verify_l4(h, f), "L4 checksum of a packet a pod got"))
        .collect()
}

pub fn body<'f>(headers: &Headers, frame: &'f [u8]) -> &'f [u8] {
    &frame[usize::from(headers.payload)..headers.end as usize]
}

/// A broadcast that asks for an address nobody has.
pub fn broadcast(mac: MacAddr, from: Ipv4Addr) -> Vec<u8> {
    build::udp((mac, MacAddr::BROADCAST), (from.into(), Ipv4Addr::BROADCAST.into()), (7, 7), b"hello all")
}

/// A datagram between two MACs, with bytes that say which one it is.
pub fn note(macs: (MacAddr, MacAddr), ips: (IpAddr, IpAddr), text: &[u8]) -> Vec<u8> {
    build::udp(macs, ips, (1111, 2222), text)
}

/// Did exactly these datagrams (and no others) arrive?
pub fn notes(end: &PodEnd) -> Vec<Vec<u8>> {
    of_proto(&received(end), ip_proto::UDP).iter().map(|(h, f)| body(h, f).to_vec()).collect()
}

/// A frame of at most `limit_ms` whose first match `pick` returns.
pub fn wait_for<T>(
    world: &mut World,
    end: &PodEnd,
    limit_ms: u64,
    mut pick: impl FnMut(&Headers, &[u8]) -> Option<T>,
) -> Option<T> {
    let mut found = None;
    world.until(limit_ms, |_| {
        for frame in received(end) {
            let headers = build::parse(&frame);
            assert!(checksum::verify_l4(&headers, &frame));
            found = found.take().or_else(|| pick(&headers, &frame));
        }
        found.is_some()
    });
    found
}
