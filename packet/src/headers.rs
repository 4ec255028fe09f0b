//! One pass over a frame's headers.
//!
//! [`Headers::parse`] reads Ethernet, ARP, IPv4, IPv6 (with its extension headers) and the ports of TCP and
//! UDP, copies nothing, and stores offsets. It runs once per frame; every later stage uses its result.
//!
//! Limits: at most [`MAX_EXTENSIONS`] IPv6 extension headers; VLAN tags are not opened (`Net::Other`), because
//! what a tag hides could not be checked against a port's addresses.

use crate::MacAddr;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Bytes of an Ethernet II header.
pub const ETHERNET_LEN: usize = 14;

/// More extension headers than any sender has reason to use; a longer chain is refused, so that the walk is bounded.
pub const MAX_EXTENSIONS: usize = 8;

/// EtherType values (IEEE 802 numbers).
pub mod ether_type {
    /// IPv4.
    pub const IPV4: u16 = 0x0800;
    /// ARP.
    pub const ARP: u16 = 0x0806;
    /// 802.1Q tag.
    pub const VLAN: u16 = 0x8100;
    /// 802.1ad service tag.
    pub const QINQ: u16 = 0x88a8;
    /// IPv6.
    pub const IPV6: u16 = 0x86dd;
}

/// IP protocol numbers.
pub mod ip_proto {
    /// ICMP for IPv4.
    pub const ICMP: u8 = 1;
    /// TCP.
    pub const TCP: u8 = 6;
    /// UDP.
    pub const UDP: u8 = 17;
    /// IPv6 fragment header.
    pub const FRAGMENT: u8 = 44;
    /// ICMPv6.
    pub const ICMPV6: u8 = 58;
}

/// TCP flag bits, as in byte 13 of the header.
pub mod tcp_flag {
    /// No more data.
    pub const FIN: u8 = 0x01;
    /// Open.
    pub const SYN: u8 = 0x02;
    /// Abort.
    pub const RST: u8 = 0x04;
    /// Deliver at once.
    pub const PSH: u8 = 0x08;
    /// Acknowledgement valid.
    pub const ACK: u8 = 0x10;
    /// Urgent pointer valid.
    pub const URG: u8 = 0x20;
    /// ECN echo.
    pub const ECE: u8 = 0x40;
    /// Congestion window reduced.
    pub const CWR: u8 = 0x80;
}

/// What follows the Ethernet header.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Net {
    /// Anything this switch does not look into, tagged frames included.
    #[default]
    Other,
    /// ARP for Ethernet and IPv4, complete.
    Arp,
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

/// Position of a packet among its fragments.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Fragment {
    /// Not fragmented.
    #[default]
    Whole,
    /// The first one: L4 header present, payload incomplete.
    First,
    /// A later one: no L4 header.
    Later,
}

/// Offsets and the few values every stage needs. All offsets are inside the frame that was parsed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Headers {
    /// EtherType as found (0x8100 for a tagged frame).
    pub ether_type: u16,
    /// What the network header is; offsets below are meaningful for `Arp`, `V4` and `V6` only.
    pub net: Net,
    /// Protocol after all extension headers.
    pub proto: u8,
    /// Fragment position.
    pub fragment: Fragment,
    /// TCP flags (0 unless TCP).
    pub tcp_flags: u8,
    /// Start of the L4 header; 0 when there is none (later fragment, truncated, no IP).
    pub l4: u16,
    /// Start of the payload behind a TCP or UDP header; equals `l4` for other protocols, 0 when `l4` is.
    pub payload: u16,
    /// TCP or UDP source port, host order; 0 otherwise.
    pub sport: u16,
    /// TCP or UDP destination port, host order; 0 otherwise.
    pub dport: u16,
    /// End of the IP packet (or ARP body) in the frame: Ethernet padding lies behind it.
    pub end: u32,
}

/// Why a frame cannot be read.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Malformed {
    /// Shorter than the headers it announces.
    #[error("truncated header")]
    Truncated,
    /// IP version field contradicts the EtherType, or the IPv4 header length is under 20.
    #[error("bad IP version or header length")]
    BadHeader,
    /// The IP length field exceeds the frame or is shorter than the headers.
    #[error("bad IP length")]
    BadLength,
    /// Too many or inconsistent IPv6 extension headers.
    #[error("bad IPv6 extension header chain")]
    BadExtension,
    /// ARP that is not Ethernet/IPv4.
    #[error("bad ARP")]
    BadArp,
}

#[inline]
fn be16(b: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([b[at], b[at + 1]])
}

impl Headers {
    /// Start of the network header.
    pub const L3: usize = ETHERNET_LEN;

    /// Parses a frame that begins with its Ethernet header.
    ///
    /// # Errors
    /// Says by name what is wrong; see [`Malformed`].
    #[inline]
    pub fn parse(frame: &[u8]) -> Result<Self, Malformed> {
        let mut headers = Self::default();
        headers.read(frame)?;
        Ok(headers)
    }

    /// As [`Headers::parse`], in place of what `self` was; after an error it has no meaning.
    ///
    /// # Errors
    /// Those of [`Headers::parse`].
    #[inline]
    pub fn read(&mut self, frame: &[u8]) -> Result<(), Malformed> {
        if frame.len() < ETHERNET_LEN {
            return Err(Malformed::Truncated);
        }
        let ether_type = be16(frame, 12);
        *self = Self { ether_type, end: frame.len() as u32, ..Self::default() };
        match ether_type {
            ether_type::IPV4 => self.ipv4(frame),
            ether_type::IPV6 => self.ipv6(frame),
            ether_type::ARP => self.arp(frame),
            _ => Ok(()),
        }
    }

    #[inline]
    fn ipv4(&mut self, frame: &[u8]) -> Result<(), Malformed> {
        let Some(ip) = frame.get(Self::L3..) else { return Err(Malformed::Truncated) };
        if ip.len() < 20 {
            return Err(Malformed::Truncated);
        }
        let ihl = usize::from(ip[0] & 0xf) * 4;
        if ip[0] >> 4 != 4 || ihl < 20 {
            return Err(Malformed::BadHeader);
        }
        let total = usize::from(be16(ip, 2));
        if total < ihl || total > ip.len() {
            return Err(Malformed::BadLength);
        }
        self.net = Net::V4;
        self.proto = ip[9];
        self.end = (Self::L3 + total) as u32;
        let frag = be16(ip, 6);
        self.fragment = match (frag & 0x1fff, frag & 0x2000) {
            (0, 0) => Fragment::Whole,
            (0, _) => Fragment::First,
            _ => Fragment::Later,
        };
        if self.fragment != Fragment::Later {
            self.transport(frame, Self::L3 + ihl);
        }
        Ok(())
    }

    fn ipv6(&mut self, frame: &[u8]) -> Result<(), Malformed> {
        let Some(ip) = frame.get(Self::L3..) else { return Err(Malformed::Truncated) };
        if ip.len() < 40 {
            return Err(Malformed::Truncated);
        }
        if ip[0] >> 4 != 6 {
            return Err(Malformed::BadHeader);
        }
        let total = 40 + usize::from(be16(ip, 4));
        if total > ip.len() {
            return Err(Malformed::BadLength);
        }
        self.net = Net::V6;
        self.end = (Self::L3 + total) as u32;
        let ip = &ip[..total];
        let mut next = ip[6];
        let mut at = 40;
        for _ in 0..=MAX_EXTENSIONS {
            let len = match next {
                // Hop-by-hop, routing, destination options (RFC 8200), mobility (RFC 6275).
                0 | 43 | 60 | 135 => match ip.get(at + 1) {
                    Some(&units) => (usize::from(units) + 1) * 8,
                    None => return Err(Malformed::BadExtension),
                },
                ip_proto::FRAGMENT => {
                    let Some(h) = ip.get(at..at + 8) else { return Err(Malformed::BadExtension) };
                    let field = be16(h, 2);
                    if field & 0xfff8 != 0 {
                        self.fragment = Fragment::Later;
                        self.proto = h[0];
                        return Ok(());
                    }
                    if field & 1 != 0 {
                        self.fragment = Fragment::First;
                    }
                    8
                }
                // Authentication header: length in 4-byte units, minus two (RFC 4302).
                51 => match ip.get(at + 1) {
                    Some(&units) => (usize::from(units) + 2) * 4,
                    None => return Err(Malformed::BadExtension),
                },
                _ => {
                    self.proto = next;
                    self.transport(frame, Self::L3 + at);
                    return Ok(());
                }
            };
            if at + len > ip.len() {
                return Err(Malformed::BadExtension);
            }
            next = ip[at];
            at += len;
        }
        Err(Malformed::BadExtension)
    }

    /// Reads ports. A transport header that does not fit is not an error here: forwarding does not need it,
    /// and the receiver's own stack will refuse the packet.
    #[inline]
    fn transport(&mut self, frame: &[u8], at: usize) {
        let end = self.end as usize;
        let Some(l4) = frame.get(at..end) else { return };
        match self.proto {
            ip_proto::TCP => {
                if l4.len() < 20 {
                    return;
                }
                let len = usize::from(l4[12] >> 4) * 4;
                if len < 20 || len > l4.len() {
                    return;
                }
                self.tcp_flags = l4[13];
                self.payload = (at + len) as u16;
            }
            ip_proto::UDP => {
                if l4.len() < 8 {
                    return;
                }
                self.payload = (at + 8) as u16;
            }
            _ => {
                self.l4 = at as u16;
                self.payload = at as u16;
                return;
            }
        }
        self.l4 = at as u16;
        self.sport = be16(l4, 0);
        self.dport = be16(l4, 2);
    }

    fn arp(&mut self, frame: &[u8]) -> Result<(), Malformed> {
        let Some(arp) = frame.get(Self::L3..Self::L3 + 28) else { return Err(Malformed::Truncated) };
        // Ethernet, IPv4, address lengths 6 and 4 (RFC 826).
        if arp[..6] != [0, 1, 8, 0, 6, 4] {
            return Err(Malformed::BadArp);
        }
        self.net = Net::Arp;
        self.end = (Self::L3 + 28) as u32;
        Ok(())
    }

    /// Source address of an IP packet (`None` for ARP and others). `frame` is the frame that was parsed.
    #[inline]
    #[must_use]
    pub fn src_ip(&self, frame: &[u8]) -> Option<IpAddr> {
        match self.net {
            Net::V4 => Some(IpAddr::V4(read_v4(frame, Self::L3 + 12))),
            Net::V6 => Some(IpAddr::V6(read_v6(frame, Self::L3 + 8))),
            _ => None,
        }
    }

    /// Destination address of an IP packet.
    #[inline]
    #[must_use]
    pub fn dst_ip(&self, frame: &[u8]) -> Option<IpAddr> {
        match self.net {
            Net::V4 => Some(IpAddr::V4(read_v4(frame, Self::L3 + 16))),
            Net::V6 => Some(IpAddr::V6(read_v6(frame, Self::L3 + 24))),
            _ => None,
        }
    }

    /// DSCP and ECN byte of an IP packet; 0 for others.
    #[inline]
    #[must_use]
    pub fn tos(&self, frame: &[u8]) -> u8 {
        match self.net {
            Net::V4 => frame[Self::L3 + 1],
            Net::V6 => (frame[Self::L3] << 4) | (frame[Self::L3 + 1] >> 4),
            _ => 0,
        }
    }

    /// Destination MAC. `frame` is the frame that was parsed.
    #[inline]
    #[must_use]
    pub fn dst_mac(frame: &[u8]) -> MacAddr {
        MacAddr::read(frame, 0)
    }

    /// Source MAC.
    #[inline]
    #[must_use]
    pub fn src_mac(frame: &[u8]) -> MacAddr {
        MacAddr::read(frame, 6)
    }
}

/// Reads an IPv4 address; the caller has checked that four bytes are there.
#[inline]
#[must_use]
pub fn read_v4(b: &[u8], at: usize) -> Ipv4Addr {
    Ipv4Addr::new(b[at], b[at + 1], b[at + 2], b[at + 3])
}

/// Reads an IPv6 address; the caller has checked that sixteen bytes are there.
#[inline]
#[must_use]
pub fn read_v6(b: &[u8], at: usize) -> Ipv6Addr {
    let mut octets = [0; 16];
    octets.copy_from_slice(&b[at..at + 16]);
    Ipv6Addr::from_octets(octets)
}
