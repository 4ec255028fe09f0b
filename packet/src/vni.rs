//! The virtual network identifier of VXLAN (RFC 7348) and Geneve (RFC 8926): 24 bits.

use std::fmt;
use std::str::FromStr;

/// A VNI in `1..=16_777_215`. Zero is legal on the wire but names no network here.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct Vni(u32);

/// A number outside `1..=16777215`, or a text that is no number.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a VNI: expected a number from 1 to 16777215")]
pub struct InvalidVni(pub String);

impl Vni {
    /// The largest VNI.
    pub const MAX: u32 = 0xff_ffff;

    /// Checks the range.
    ///
    /// # Errors
    /// Zero and anything above 24 bits.
    pub fn new(vni: u32) -> Result<Self, InvalidVni> {
        if vni == 0 || vni > Self::MAX { Err(InvalidVni(vni.to_string())) } else { Ok(Self(vni)) }
    }

    /// The number.
    #[inline]
    #[must_use]
    pub const fn get(self) -> u32 {
        self.0
    }
}

impl fmt::Display for Vni {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for Vni {
    type Err = InvalidVni;

    fn from_str(s: &str) -> Result<Self, InvalidVni> {
        s.parse().map_err(|_| InvalidVni(s.to_owned())).and_then(Self::new)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn range() {
        assert!(Vni::new(0).is_err());
        assert!(Vni::new(Vni::MAX + 1).is_err());
        assert_eq!(Vni::new(Vni::MAX).unwrap().get(), Vni::MAX);
        assert_eq!("7".parse::<Vni>().unwrap().get(), 7);
        assert!("-7".parse::<Vni>().is_err());
    }
}
