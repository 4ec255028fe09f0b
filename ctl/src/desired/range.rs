//! Ranges of addresses, from which a node gives to its pods.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use ipnet::IpNet;

use super::text::Text;

/// Addresses of one family from the first to the last, both included.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct AddressRange {
    first: IpAddr,
    last: IpAddr,
}

impl AddressRange {
    /// A range.
    ///
    /// # Errors
    /// When the ends are of different families or in the wrong order.
    pub fn new(first: IpAddr, last: IpAddr) -> Result<Self, String> {
        if first.is_ipv4() != last.is_ipv4() {
            return Err(format!("range {first}-{last}: its ends are of different address families"));
        }
        if first > last {
            return Err(format!("range {first}-{last}: it ends before it begins"));
        }
        Ok(Self { first, last })
    }

    /// The first address.
    #[must_use]
    pub const fn first(&self) -> IpAddr {
        self.first
    }

    /// The last address.
    #[must_use]
    pub const fn last(&self) -> IpAddr {
        self.last
    }

    /// Is the address one of them?
    #[must_use]
    pub fn contains(&self, ip: IpAddr) -> bool {
        self.first.is_ipv4() == ip.is_ipv4() && self.first <= ip && ip <= self.last
    }
}

impl From<IpNet> for AddressRange {
    /// Every address of the prefix.
    fn from(net: IpNet) -> Self {
        Self { first: net.network(), last: net.broadcast() }
    }
}

impl fmt::Display for AddressRange {
    /// `FIRST-LAST`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.first, self.last)
    }
}

impl FromStr for AddressRange {
    type Err = String;

    /// `FIRST-LAST`, a CIDR, or one address.
    fn from_str(text: &str) -> Result<Self, String> {
        let bad = |_| {
            let shown = text.escape_default();
            format!("`{shown}` is not a range: expected a form such as 10.1.1.10-10.1.1.99 or 10.1.1.128/25")
        };
        if let Some((first, last)) = text.split_once('-') {
            return Self::new(
                IpAddr::parse_text(first).map_err(bad)?,
                IpAddr::parse_text(last).map_err(bad)?,
            );
        }
        if text.contains('/') {
            return super::text::parse_prefix(text).map(Self::from);
        }
        let ip = IpAddr::parse_text(text).map_err(bad)?;
        Self::new(ip, ip)
    }
}

impl Text for AddressRange {
    fn parse_text(text: &str) -> Result<Self, String> {
        text.parse()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forms() {
        let of = |text: &str| text.parse::<AddressRange>().map(|r| r.to_string());
        assert_eq!(of("10.1.1.10-10.1.1.99").unwrap(), "10.1.1.10-10.1.1.99");
        assert_eq!(of("10.1.1.128/25").unwrap(), "10.1.1.128-10.1.1.255");
        assert_eq!(of("fd00::5").unwrap(), "fd00::5-fd00::5");
        for bad in ["", "-", "10.1.1.9-10.1.1.1", "10.0.0.1-fd00::1", "10.1.1.1/24", "10.1.1.1-"] {
            assert!(of(bad).is_err(), "{bad}");
        }
    }
}
