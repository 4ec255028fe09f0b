//! Congestion marks through the tunnel: RFC 6040, normal mode.
//!
//! At encap the outer header takes the inner DSCP and ECN bits (uniform model, RFC 2983). At decap a mark
//! set by the underlay is carried into the inner header; a CE mark on a packet whose sender cannot react to
//! marks is turned into the loss it stands for.

use packet::{Headers, Net, checksum};

/// Not ECN-capable.
pub const NOT_ECT: u8 = 0;
/// ECN-capable, ECT(1).
pub const ECT1: u8 = 1;
/// ECN-capable, ECT(0).
pub const ECT0: u8 = 2;
/// Congestion experienced.
pub const CE: u8 = 3;

/// What decap does to the inner header.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum EcnAction {
    /// The inner field is right as it is.
    Keep,
    /// Write this into the inner field; see [`set_ecn`].
    Set(u8),
    /// CE outside, not ECN-capable inside.
    Drop,
}

/// The outer DSCP and ECN byte for an inner one.
#[inline]
#[must_use]
pub const fn encap_tos(inner_tos: u8) -> u8 {
    inner_tos
}

/// RFC 6040 figure 4. Both arguments are whole TOS bytes; DSCP is ignored (the inner one stands).
#[inline]
#[must_use]
pub const fn decap(outer_tos: u8, inner_tos: u8) -> EcnAction {
    match (inner_tos & 3, outer_tos & 3) {
        (NOT_ECT, CE) => EcnAction::Drop,
        (ECT0 | ECT1, CE) => EcnAction::Set(CE),
        (ECT0, ECT1) => EcnAction::Set(ECT1),
        _ => EcnAction::Keep,
    }
}

/// Writes the ECN field of an IP frame and keeps the IPv4 header checksum right. `frame` is the frame that
/// was parsed; anything but IP is left alone.
#[inline]
pub fn set_ecn(frame: &mut [u8], headers: &Headers, ecn: u8) {
    let l3 = Headers::L3;
    match headers.net {
        Net::V4 => {
            let word = |b: &[u8], at: usize| u16::from_be_bytes([b[at], b[at + 1]]);
            let old = word(frame, l3);
            frame[l3 + 1] = frame[l3 + 1] & !3 | ecn & 3;
            let field = checksum::update(word(frame, l3 + 10), old, word(frame, l3));
            frame[l3 + 10..l3 + 12].copy_from_slice(&field.to_be_bytes());
        }
        Net::V6 => frame[l3 + 1] = frame[l3 + 1] & !0x30 | (ecn & 3) << 4,
        Net::Arp | Net::Other => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use packet::{MacAddr, build};

    #[test]
    fn figure_4() {
        use EcnAction::{Drop, Keep, Set};
        // Rows: inner Not-ECT, ECT(1), ECT(0), CE. Columns: outer in the same order.
        let table = [
            [Keep, Keep, Keep, Drop],
            [Keep, Keep, Keep, Set(CE)],
            [Keep, Set(ECT1), Keep, Set(CE)],
            [Keep, Keep, Keep, Keep],
        ];
        for (inner, row) in table.iter().enumerate() {
            for (outer, want) in row.iter().enumerate() {
                // DSCP bits on either side change nothing.
                assert_eq!(decap(outer as u8 | 0xb8, inner as u8 | 0x28), *want, "{inner} {outer}");
            }
        }
        assert_eq!(encap_tos(0xba), 0xba);
    }

    #[test]
    fn set_ecn_keeps_all_else() {
        let macs = (MacAddr([2, 0, 0, 0, 0, 1]), MacAddr([2, 0, 0, 0, 0, 2]));
        for ips in [("10.0.0.1", "10.0.0.2"), ("fd00::1", "fd00::2")] {
            let ips = (ips.0.parse().unwrap(), ips.1.parse().unwrap());
            let mut frame = build::udp(macs, ips, (1, 2), b"x");
            let headers = build::parse(&frame);
            for ecn in [ECT0, CE, ECT1, NOT_ECT, CE] {
                set_ecn(&mut frame, &headers, ecn);
                assert_eq!(headers.tos(&frame), ecn);
                assert_eq!(build::parse(&frame), headers);
                assert!(ips.0.is_ipv6() || checksum::verify_ipv4_header(&frame[14..]));
                assert!(checksum::verify_l4(&headers, &frame));
            }
        }
    }
}
