//! Frames that no honest stack would send, for tests of the guard: forged ARP, router
//! advertisements, DHCP replies, and UDP from any address to any address.
//!
//! The builders fill in correct lengths and checksums, so that a frame can be dropped only for the
//! reason under test. They cannot fail for arguments that fit a frame; too long a payload is an
//! error.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use etherparse::icmpv6::RouterAdvertisementHeader;
use etherparse::{Icmpv6Type, PacketBuilder};

use crate::error::{Context, Error, Result};
use crate::netns::Ns;
use crate::packet_socket::PacketSocket;

/// A MAC address.
pub type Mac = [u8; 6];
/// All ones.
pub const BROADCAST: Mac = [0xff; 6];

/// Sends frames out of an interface of a namespace, in order.
pub fn send(ns: &Ns, interface: &str, frames: &[Vec<u8>]) -> Result<()> {
    let socket = PacketSocket::open(ns, interface, false)?;
    for frame in frames {
        socket.send(frame).context(format!("send a frame out of {interface} in {}", ns.name()))?;
    }
    Ok(())
}

/// Which ARP message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ArpKind {
    /// Who has `target_ip`?
    Request,
    /// `sender_ip` is at `sender_mac`.
    Reply,
}

/// The contents of an ARP frame, each field free, so that they may contradict each other.
#[derive(Clone, Copy, Debug)]
pub struct Arp {
    /// Request or reply.
    pub kind: ArpKind,
    /// Source of the Ethernet header.
    pub eth_src: Mac,
    /// Destination of the Ethernet header.
    pub eth_dst: Mac,
    /// Sender hardware address.
    pub sender_mac: Mac,
    /// Sender protocol address.
    pub sender_ip: Ipv4Addr,
    /// Target hardware address.
    pub target_mac: Mac,
    /// Target protocol address.
    pub target_ip: Ipv4Addr,
}

impl Arp {
    /// A request with consistent fields.
    pub fn request(mac: Mac, sender_ip: Ipv4Addr, target_ip: Ipv4Addr) -> Self {
        Self {
            kind: ArpKind::Request,
            eth_src: mac,
            eth_dst: BROADCAST,
            sender_mac: mac,
            sender_ip,
            target_mac: [0; 6],
            target_ip,
        }
    }

    /// The frame.
    pub fn frame(&self) -> Vec<u8> {
        let mut frame = ethernet(self.eth_dst, self.eth_src, 0x0806);
        frame.extend_from_slice(&[0, 1, 8, 0, 6, 4, 0, if self.kind == ArpKind::Request { 1 } else { 2 }]);
        frame.extend_from_slice(&self.sender_mac);
        frame.extend_from_slice(&self.sender_ip.octets());
        frame.extend_from_slice(&self.target_mac);
        frame.extend_from_slice(&self.target_ip.octets());
        frame
    }
}

/// An Ethernet header, to build anything on.
pub fn ethernet(dst: Mac, src: Mac, ethertype: u16) -> Vec<u8> {
    let mut frame = Vec::with_capacity(64);
    frame.extend_from_slice(&dst);
    frame.extend_from_slice(&src);
    frame.extend_from_slice(&ethertype.to_be_bytes());
    frame
}

/// A UDP datagram in IPv4 or IPv6.
#[derive(Clone, Copy, Debug)]
pub struct Udp<'a> {
    /// Source of the Ethernet header.
    pub eth_src: Mac,
    /// Destination of the Ethernet header.
    pub eth_dst: Mac,
    /// Source address and port.
    pub src: (IpAddr, u16),
    /// Destination address and port; of the same family as the source.
    pub dst: (IpAddr, u16),
    /// TTL or hop limit.
    pub ttl: u8,
    /// Payload.
    pub payload: &'a [u8],
}

impl Udp<'_> {
    /// The frame.
    pub fn frame(&self) -> Result<Vec<u8>> {
        let ethernet = PacketBuilder::ethernet2(self.eth_src, self.eth_dst);
        let ip = match (self.src.0, self.dst.0) {
            (IpAddr::V4(src), IpAddr::V4(dst)) => ethernet.ipv4(src.octets(), dst.octets(), self.ttl),
            (IpAddr::V6(src), IpAddr::V6(dst)) => ethernet.ipv6(src.octets(), dst.octets(), self.ttl),
            _ => return Err(Error::failed("source and destination are of different families")),
        };
        let mut frame = Vec::new();
        ip.udp(self.src.1, self.dst.1)
            .write(&mut frame, self.payload)
            .map_err(|e| Error::failed(format!("UDP frame: {e}")))?;
        Ok(frame)
    }
}

/// A router advertisement that announces its sender as default router for half an hour.
pub fn router_advertisement(eth_src: Mac, src: Ipv6Addr) -> Result<Vec<u8>> {
    let header = RouterAdvertisementHeader {
        cur_hop_limit: 64,
        managed_address_config: false,
        other_config: false,
        router_lifetime: 1800,
    };
    let all_nodes = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
    // Reachable time and retransmission timer (unspecified), source link-layer address option.
    let mut rest = vec![0; 8];
    rest.extend_from_slice(&[1, 1]);
    rest.extend_from_slice(&eth_src);
    let mut frame = Vec::new();
    PacketBuilder::ethernet2(eth_src, [0x33, 0x33, 0, 0, 0, 1])
        .ipv6(src.octets(), all_nodes.octets(), 255)
        .icmpv6(Icmpv6Type::RouterAdvertisement(header))
        .write(&mut frame, &rest)
        .map_err(|e| Error::failed(format!("router advertisement: {e}")))?;
    Ok(frame)
}

/// An unsolicited neighbour advertisement: "`target` is at `eth_src`".
pub fn neighbour_advertisement(eth_src: Mac, src: Ipv6Addr, target: Ipv6Addr) -> Result<Vec<u8>> {
    let all_nodes = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
    let mut rest = target.octets().to_vec();
    rest.extend_from_slice(&[2, 1]);
    rest.extend_from_slice(&eth_src);
    let mut frame = Vec::new();
    PacketBuilder::ethernet2(eth_src, [0x33, 0x33, 0, 0, 0, 1])
        .ipv6(src.octets(), all_nodes.octets(), 255)
        // Type 136, flag "override".
        .icmpv6_raw(136, 0, [0x20, 0, 0, 0])
        .write(&mut frame, &rest)
        .map_err(|e| Error::failed(format!("neighbour advertisement: {e}")))?;
    Ok(frame)
}

/// A DHCP offer from a server at `server` to everybody.
pub fn dhcp_offer(eth_src: Mac, server: Ipv4Addr, offered: Ipv4Addr) -> Result<Vec<u8>> {
    let mut bootp = vec![2, 1, 6, 0, 0xde, 0xad, 0xbe, 0xef, 0, 0, 0x80, 0];
    bootp.extend_from_slice(&[0; 4]);
    bootp.extend_from_slice(&offered.octets());
    bootp.extend_from_slice(&server.octets());
    // Relay, client hardware address, server name, file.
    bootp.resize(236, 0);
    bootp.extend_from_slice(&[99, 130, 83, 99, 53, 1, 2, 54, 4]);
    bootp.extend_from_slice(&server.octets());
    bootp.push(255);
    Udp {
        eth_src,
        eth_dst: BROADCAST,
        src: (server.into(), 67),
        dst: (Ipv4Addr::BROADCAST.into(), 68),
        ttl: 64,
        payload: &bootp,
    }
    .frame()
}

/// A link-local control frame (e.g. spanning tree, `last` = 0) that no bridge may forward.
pub fn link_control(eth_src: Mac, last: u8) -> Vec<u8> {
    let mut frame = vec![0x01, 0x80, 0xc2, 0, 0, last];
    frame.extend_from_slice(&eth_src);
    // An LLC frame: length, then the header of spanning tree and an empty configuration message.
    frame.extend_from_slice(&38u16.to_be_bytes());
    frame.extend_from_slice(&[0x42, 0x42, 3]);
    frame.resize(14 + 46, 0);
    frame
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checksum::{Sum, verify};

    const MAC: Mac = [2, 0, 0, 0, 0, 9];

    #[test]
    fn forged_frames_have_right_checksums() {
        let link_local: Ipv6Addr = "fe80::9".parse().unwrap();
        let frames = [
            router_advertisement(MAC, link_local).unwrap(),
            neighbour_advertisement(MAC, link_local, "fd00:1::7".parse().unwrap()).unwrap(),
            dhcp_offer(MAC, Ipv4Addr::new(10, 1, 1, 9), Ipv4Addr::new(10, 1, 1, 66)).unwrap(),
        ];
        for frame in frames {
            assert_eq!(verify(&frame, true), Sum::Good);
        }
    }

    #[test]
    fn arp_is_42_bytes_and_mixed_families_are_refused() {
        let arp = Arp::request(MAC, Ipv4Addr::new(10, 0, 0, 1), Ipv4Addr::new(10, 0, 0, 2));
        assert_eq!(arp.frame().len(), 42);
        let mixed = Udp {
            eth_src: MAC,
            eth_dst: MAC,
            src: (Ipv4Addr::LOCALHOST.into(), 1),
            dst: (Ipv6Addr::LOCALHOST.into(), 1),
            ttl: 1,
            payload: &[],
        };
        assert!(mixed.frame().is_err());
    }
}
