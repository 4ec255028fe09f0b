//! Verification of the checksums of a whole frame, written for the observer alone, so that a
//! mistake in the switch's own arithmetic cannot hide itself.
//!
//! Understands Ethernet with up to two VLAN tags, IPv4, IPv6 without extension headers, TCP, UDP,
//! ICMP and ICMPv6. Fragments and everything else have nothing that can be verified. A frame that
//! is longer than its packet (padding) is fine, a shorter one is not.

/// The verdict on one frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Sum {
    /// All that can be verified is right.
    Good,
    /// There is nothing to verify.
    None,
    /// What is wrong.
    Bad(&'static str),
}

/// Verifies a frame. With `transport` false only the IPv4 header is looked at (the transport
/// checksum is left to an offload).
pub fn verify(frame: &[u8], transport: bool) -> Sum {
    let mut at = 12;
    let mut kind = u16_at(frame, at);
    for _ in 0..2 {
        if matches!(kind, Some(0x8100 | 0x88a8)) {
            at += 4;
            kind = u16_at(frame, at);
        }
    }
    let Some(packet) = frame.get(at + 2..) else { return Sum::None };
    match kind {
        Some(0x0800) => ipv4(packet, transport),
        Some(0x86dd) => ipv6(packet, transport),
        _ => Sum::None,
    }
}

fn ipv4(packet: &[u8], transport: bool) -> Sum {
    let header_len = usize::from(packet.first().copied().unwrap_or(0) & 15) * 4;
    let Some(header) = packet.get(..header_len).filter(|h| h.len() >= 20) else {
        return Sum::Bad("IPv4 header cut short");
    };
    if fold(add(0, header)) != 0xffff {
        return Sum::Bad("IPv4 header checksum");
    }
    // A merged frame of more than 64 KiB has the length zero.
    let total = usize::from(u16_at(packet, 2).unwrap_or(0));
    let total = if total == 0 { packet.len() } else { total };
    let Some(payload) = packet.get(header_len..total) else {
        return Sum::Bad("IPv4 packet cut short");
    };
    let fragment = u16_at(packet, 6).unwrap_or(0) & 0x3fff != 0;
    if fragment {
        return Sum::Good;
    }
    upper(&packet[12..20], packet[9], payload, transport)
}

fn ipv6(packet: &[u8], transport: bool) -> Sum {
    if packet.len() < 40 {
        return Sum::Bad("IPv6 header cut short");
    }
    let len = usize::from(u16_at(packet, 4).unwrap_or(0));
    let end = if len == 0 { packet.len() } else { 40 + len };
    let Some(payload) = packet.get(40..end) else {
        return Sum::Bad("IPv6 packet cut short");
    };
    upper(&packet[8..40], packet[6], payload, transport)
}

fn upper(addresses: &[u8], protocol: u8, payload: &[u8], transport: bool) -> Sum {
    let v6 = addresses.len() == 32;
    let (with_pseudo_header, name) = match (protocol, v6) {
        (6, _) => (true, "TCP checksum"),
        (17, _) => (true, "UDP checksum"),
        (58, true) => (true, "ICMPv6 checksum"),
        (1, false) => (false, "ICMP checksum"),
        _ => return if v6 { Sum::None } else { Sum::Good },
    };
    if !transport {
        return Sum::Good;
    }
    let payload = if protocol == 17 {
        let len = usize::from(u16_at(payload, 4).unwrap_or(0));
        match u16_at(payload, 6) {
            None => return Sum::Bad("UDP header cut short"),
            Some(0) if v6 => return Sum::Bad("UDP checksum zero in IPv6"),
            Some(0) => return Sum::Good,
            Some(_) => {}
        }
        match payload.get(..len) {
            Some(datagram) if len >= 8 => datagram,
            _ => return Sum::Bad("UDP length"),
        }
    } else {
        payload
    };
    let mut sum = add(0, payload);
    if with_pseudo_header {
        sum = add(sum, addresses);
        sum += u64::from(protocol) + payload.len() as u64;
    }
    if fold(sum) == 0xffff { Sum::Good } else { Sum::Bad(name) }
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

/// Adds 16-bit big-endian words, an odd last byte as if followed by zero.
pub(crate) fn add(mut sum: u64, bytes: &[u8]) -> u64 {
    let mut words = bytes.chunks_exact(2);
    for word in &mut words {
        sum += u64::from(u16::from_be_bytes([word[0], word[1]]));
    }
    if let [last] = words.remainder() {
        sum += u64::from(u16::from_be_bytes([*last, 0]));
    }
    sum
}

/// Folds to 16 bits; 0xffff for a packet whose checksum field is right.
pub(crate) fn fold(mut sum: u64) -> u16 {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

#[cfg(test)]
mod tests {
    use super::*;
    use etherparse::PacketBuilder;

    fn udp4() -> Vec<u8> {
        let builder = PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2])
            .ipv4([10, 0, 0, 1], [10, 0, 0, 2], 64)
            .udp(1000, 2000);
        let mut frame = Vec::new();
        builder.write(&mut frame, b"seven b").unwrap();
        frame
    }

    #[test]
    fn good_frames_are_good() {
        assert_eq!(verify(&udp4(), true), Sum::Good);
        let builder = PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2])
            .ipv6([1; 16], [2; 16], 64)
            .tcp(1, 2, 3, 4);
        let mut frame = Vec::new();
        builder.write(&mut frame, b"x").unwrap();
        assert_eq!(verify(&frame, true), Sum::Good);
    }

    #[test]
    fn every_flipped_bit_behind_the_ethernet_header_is_noticed() {
        let frame = udp4();
        for bit in 14 * 8..frame.len() * 8 {
            let mut bad = frame.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            // A flipped fragment bit or protocol shows in the header checksum, so all are bad.
            assert!(matches!(verify(&bad, true), Sum::Bad(_)), "bit {bit}");
        }
    }

    #[test]
    fn transport_is_left_out_on_request() {
        let mut frame = udp4();
        let last = frame.len() - 1;
        frame[last] ^= 1;
        assert_eq!(verify(&frame, false), Sum::Good);
        assert_eq!(verify(&frame, true), Sum::Bad("UDP checksum"));
    }

    #[test]
    fn short_input_never_panics() {
        let frame = udp4();
        for len in 0..frame.len() {
            verify(&frame[..len], true);
        }
    }
}
