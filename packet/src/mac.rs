//! Ethernet addresses (IEEE 802, 48 bits).

use std::fmt;
use std::str::FromStr;

/// An Ethernet MAC address, bytes in transmission order.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct MacAddr(pub [u8; 6]);

/// A text that is not six colon-separated hexadecimal bytes.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a MAC address: expected six hexadecimal bytes such as 0a:58:0a:01:01:02")]
pub struct InvalidMac(pub String);

impl MacAddr {
    /// `ff:ff:ff:ff:ff:ff`.
    pub const BROADCAST: Self = Self([0xff; 6]);
    /// `00:00:00:00:00:00`, never a valid source.
    pub const ZERO: Self = Self([0; 6]);

    /// Reads the address at `at`; the caller has checked that six bytes are there.
    #[inline]
    #[must_use]
    pub fn read(bytes: &[u8], at: usize) -> Self {
        let mut mac = [0; 6];
        mac.copy_from_slice(&bytes[at..at + 6]);
        Self(mac)
    }

    /// Group (multicast or broadcast) address: the I/G bit of the first byte is set.
    #[inline]
    #[must_use]
    pub const fn is_group(self) -> bool {
        self.0[0] & 1 != 0
    }

    /// The all-zero address.
    #[inline]
    #[must_use]
    pub const fn is_zero(self) -> bool {
        self.as_u64() == 0
    }

    /// Neither group nor zero: the only kind that may be a source or be learned.
    #[inline]
    #[must_use]
    pub const fn is_unicast(self) -> bool {
        !self.is_group() && !self.is_zero()
    }

    /// `01:80:c2:00:00:00` to `:0f`, which IEEE 802.1D forbids a bridge to forward.
    #[inline]
    #[must_use]
    pub const fn is_link_local_control(self) -> bool {
        self.as_u64() & !0xf == 0x0180_c200_0000
    }

    /// The address as the low 48 bits of an integer, first byte highest.
    #[inline]
    #[must_use]
    pub const fn as_u64(self) -> u64 {
        let m = self.0;
        u64::from_be_bytes([0, 0, m[0], m[1], m[2], m[3], m[4], m[5]])
    }

    /// The reverse of [`MacAddr::as_u64`]; the high 16 bits are ignored.
    #[inline]
    #[must_use]
    pub const fn from_u64(v: u64) -> Self {
        let b = v.to_be_bytes();
        Self([b[2], b[3], b[4], b[5], b[6], b[7]])
    }

    /// The IPv6 link-local address a host derives from this MAC (modified EUI-64, RFC 4291 appendix A).
    #[must_use]
    pub const fn link_local_v6(self) -> std::net::Ipv6Addr {
        let m = self.0;
        std::net::Ipv6Addr::from_octets([
            0xfe,
            0x80,
            0,
            0,
            0,
            0,
            0,
            0,
            m[0] ^ 2,
            m[1],
            m[2],
            0xff,
            0xfe,
            m[3],
            m[4],
            m[5],
        ])
    }
}

impl fmt::Display for MacAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let m = self.0;
        write!(f, "{:02x}:{:02x}:{:02x}:{:02x}:{:02x}:{:02x}", m[0], m[1], m[2], m[3], m[4], m[5])
    }
}

impl fmt::Debug for MacAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for MacAddr {
    type Err = InvalidMac;

    fn from_str(s: &str) -> Result<Self, InvalidMac> {
        let bad = || InvalidMac(s.to_owned());
        let mut out = [0u8; 6];
        let mut parts = s.split(':');
        for byte in &mut out {
            let part = parts.next().ok_or_else(bad)?;
            if part.is_empty() || part.len() > 2 || !part.bytes().all(|b| b.is_ascii_hexdigit()) {
                return Err(bad());
            }
            *byte = u8::from_str_radix(part, 16).map_err(|_| bad())?;
        }
        if parts.next().is_some() { Err(bad()) } else { Ok(Self(out)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_round_trip() {
        let mac: MacAddr = "0a:58:0a:f4:01:0a".parse().unwrap();
        assert_eq!(mac.to_string(), "0a:58:0a:f4:01:0a");
        assert_eq!(MacAddr::from_u64(mac.as_u64()), mac);
        assert_eq!("0:1:2:3:4:f".parse::<MacAddr>().unwrap().0, [0, 1, 2, 3, 4, 15]);
    }

    #[test]
    fn bad_texts_are_refused() {
        for s in
            ["", "0a", "0a:58:0a:f4:01", "0a:58:0a:f4:01:0a:00", "+a:58:0a:f4:01:0a", "0a-58-0a-f4-01-0a"]
        {
            assert!(s.parse::<MacAddr>().is_err(), "{s}");
        }
    }

    #[test]
    fn kinds() {
        assert!(MacAddr::BROADCAST.is_group());
        assert!(MacAddr::ZERO.is_zero() && !MacAddr::ZERO.is_unicast());
        assert!("01:80:c2:00:00:0f".parse::<MacAddr>().unwrap().is_link_local_control());
        assert!(!"01:80:c2:00:00:10".parse::<MacAddr>().unwrap().is_link_local_control());
        let mac: MacAddr = "02:00:00:00:00:01".parse().unwrap();
        assert_eq!(mac.link_local_v6().to_string(), "fe80::ff:fe00:1");
    }
}
