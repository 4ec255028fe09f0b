//! The choice between VXLAN and Geneve, and the vocabulary both decoders share.
//!
//! Both headers are eight bytes as sent here (Geneve without options), so their overhead is the same: 50
//! bytes over an IPv4 underlay and 70 over IPv6, counted from the pod's MTU to the underlay's.

use crate::{geneve, vxlan};
use packet::{ETHERNET_LEN, Vni};
use std::fmt;
use std::str::FromStr;

/// How frames to a peer are wrapped.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Default)]
pub enum Encap {
    /// RFC 7348.
    #[default]
    Vxlan,
    /// RFC 8926.
    Geneve,
}

/// A text that names no encapsulation.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not an encapsulation: expected vxlan or geneve")]
pub struct InvalidEncap(pub String);

/// What a good tunnel header says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Inner {
    /// The 24 bits as received; 0 is possible and names no network.
    pub vni: u32,
    /// Offset of the inner Ethernet header; at least [`ETHERNET_LEN`] bytes follow it.
    pub at: usize,
}

/// Why a datagram is refused. [`DecapError::name`] is the drop reason.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, thiserror::Error)]
pub enum DecapError {
    /// Too short for the tunnel header, its options and an inner Ethernet header.
    #[error("shorter than the tunnel header and an inner Ethernet header")]
    Truncated,
    /// VXLAN: no VNI (I bit clear), or a bit of an extension that changes what the payload is.
    #[error("tunnel header flags that cannot be honoured")]
    BadFlags,
    /// A version other than 0.
    #[error("unknown tunnel header version")]
    BadVersion,
    /// Geneve: an option that overruns the option area.
    #[error("malformed tunnel option")]
    BadOption,
    /// Geneve: an option marked critical, and this endpoint knows none.
    #[error("critical tunnel option not understood")]
    UnknownCritical,
    /// Geneve: the payload is not an Ethernet frame.
    #[error("tunnel payload is not Ethernet")]
    NotEthernet,
    /// Geneve: a control packet, never forwarded.
    #[error("tunnel control packet")]
    Control,
}

impl DecapError {
    /// Every variant, for tables of counters.
    pub const ALL: [Self; 7] = [
        Self::Truncated,
        Self::BadFlags,
        Self::BadVersion,
        Self::BadOption,
        Self::UnknownCritical,
        Self::NotEthernet,
        Self::Control,
    ];

    /// The drop reason in counters, traces and documents.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Truncated => "tunnel-truncated",
            Self::BadFlags => "tunnel-bad-flags",
            Self::BadVersion => "tunnel-bad-version",
            Self::BadOption => "tunnel-bad-option",
            Self::UnknownCritical => "tunnel-unknown-critical",
            Self::NotEthernet => "tunnel-not-ethernet",
            Self::Control => "tunnel-control",
        }
    }
}

impl Encap {
    /// Bytes of the tunnel header as this switch sends it.
    pub const HEADER_LEN: usize = 8;

    /// The UDP port registered for it.
    #[must_use]
    pub const fn default_port(self) -> u16 {
        match self {
            Self::Vxlan => vxlan::PORT,
            Self::Geneve => geneve::PORT,
        }
    }

    /// Bytes between the pod MTU and the underlay MTU: outer IP, UDP, tunnel header, inner Ethernet.
    #[must_use]
    pub const fn overhead(self, ip_v6: bool) -> usize {
        (if ip_v6 { 40 } else { 20 }) + 8 + Self::HEADER_LEN + ETHERNET_LEN
    }

    /// The tunnel header to put before a frame of network `vni`.
    #[inline]
    #[must_use]
    pub const fn header(self, vni: Vni) -> [u8; Self::HEADER_LEN] {
        match self {
            Self::Vxlan => vxlan::encode(vni),
            Self::Geneve => geneve::encode(vni),
        }
    }

    /// Reads the tunnel header of one datagram.
    ///
    /// # Errors
    /// See [`DecapError`].
    #[inline]
    pub fn decode(self, datagram: &[u8]) -> Result<Inner, DecapError> {
        match self {
            Self::Vxlan => vxlan::decode(datagram),
            Self::Geneve => geneve::decode(datagram),
        }
    }
}

impl fmt::Display for Encap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Vxlan => "vxlan",
            Self::Geneve => "geneve",
        })
    }
}

impl FromStr for Encap {
    type Err = InvalidEncap;

    fn from_str(s: &str) -> Result<Self, InvalidEncap> {
        match s {
            "vxlan" => Ok(Self::Vxlan),
            "geneve" => Ok(Self::Geneve),
            _ => Err(InvalidEncap(s.to_owned())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn text_and_numbers() {
        for e in [Encap::Vxlan, Encap::Geneve] {
            assert_eq!(e.to_string().parse::<Encap>().unwrap(), e);
            assert_eq!((e.overhead(false), e.overhead(true)), (50, 70));
        }
        assert_eq!((Encap::Vxlan.default_port(), Encap::Geneve.default_port()), (4789, 6081));
        assert!("VXLAN".parse::<Encap>().is_err());
    }

    #[test]
    fn names_are_distinct() {
        let names: std::collections::BTreeSet<_> = DecapError::ALL.iter().map(|e| e.name()).collect();
        assert_eq!(names.len(), DecapError::ALL.len());
    }

    proptest! {
        #[test]
        fn what_is_sent_is_accepted(vni in 1u32..=Vni::MAX, body in proptest::collection::vec(any::<u8>(), 14..80)) {
            let vni = Vni::new(vni).unwrap();
            for encap in [Encap::Vxlan, Encap::Geneve] {
                let datagram = [&encap.header(vni)[..], &body].concat();
                prop_assert_eq!(encap.decode(&datagram), Ok(Inner { vni: vni.get(), at: 8 }));
                prop_assert_eq!(encap.decode(&datagram[..21]), Err(DecapError::Truncated));
            }
        }

        #[test]
        fn any_bytes_are_decoded_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            for encap in [Encap::Vxlan, Encap::Geneve] {
                if let Ok(inner) = encap.decode(&bytes) {
                    prop_assert!(inner.at + ETHERNET_LEN <= bytes.len());
                    prop_assert!(inner.vni <= Vni::MAX);
                }
            }
        }
    }
}
