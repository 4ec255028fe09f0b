//! What a port has beyond its device: an owner, limits, ports of the node that lead to it, the node's role.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::text::{Text, many, opt};
use super::{Port, is_default};

/// Limits of a port, seen from the pod: ingress is what it receives. 0 means unlimited, or a burst derived from
/// the rate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Bandwidth {
    /// Bits per second.
    #[serde(default, skip_serializing_if = "is_default")]
    pub ingress_rate: u64,
    /// Bits.
    #[serde(default, skip_serializing_if = "is_default")]
    pub ingress_burst: u64,
    /// Bits per second.
    #[serde(default, skip_serializing_if = "is_default")]
    pub egress_rate: u64,
    /// Bits.
    #[serde(default, skip_serializing_if = "is_default")]
    pub egress_burst: u64,
}

/// The transport protocol of a mapping.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Protocol {
    /// RFC 9293.
    #[default]
    Tcp,
    /// RFC 768.
    Udp,
    /// RFC 9260.
    Sctp,
}

impl Protocol {
    /// As written in documents, in CNI configurations and by nftables.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Sctp => "sctp",
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Protocol {
    type Err = String;

    /// In any case of letters, as runtimes write it.
    fn from_str(text: &str) -> Result<Self, String> {
        [Self::Tcp, Self::Udp, Self::Sctp]
            .into_iter()
            .find(|p| p.as_str().eq_ignore_ascii_case(text))
            .ok_or_else(|| {
                format!("`{}` is not a protocol: expected tcp, udp or sctp", text.escape_default())
            })
    }
}

/// Packets to a port of the node go to the pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PortMapping {
    /// Of the node.
    pub host_port: u16,
    /// Of the pod.
    pub container_port: u16,
    /// Of both.
    #[serde(default, skip_serializing_if = "is_default")]
    pub protocol: Protocol,
    /// Only this address of the node; absent: all.
    #[serde(default, with = "opt", skip_serializing_if = "Option::is_none")]
    pub host_ip: Option<IpAddr>,
}

impl PortMapping {
    /// Would some packet match both?
    #[must_use]
    pub fn collides(&self, other: &Self) -> bool {
        let same = match (self.host_ip, other.host_ip) {
            (Some(a), Some(b)) => a == b,
            _ => true,
        };
        same && self.host_port == other.host_port && self.protocol == other.protocol
    }
}

impl fmt::Display for PortMapping {
    /// As `port add --publish` takes it: `[HOST-IP:]HOST-PORT:PORT/PROTOCOL`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.host_ip {
            Some(IpAddr::V6(ip)) => write!(f, "[{ip}]:")?,
            Some(ip) => write!(f, "{ip}:")?,
            None => {}
        }
        write!(f, "{}:{}/{}", self.host_port, self.container_port, self.protocol)
    }
}

impl FromStr for PortMapping {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let bad = || {
            let shown = text.escape_default();
            format!(
                "`{shown}` is not a mapping: expected [HOST-IP:]HOST-PORT:PORT[/tcp|udp|sctp], such as 8080:80"
            )
        };
        let (rest, protocol) =
            text.split_once('/').map_or((text, Ok(Protocol::Tcp)), |(r, p)| (r, p.parse()));
        let (rest, port) = rest.rsplit_once(':').ok_or_else(bad)?;
        let (ip, host) = rest.rsplit_once(':').map_or((None, rest), |(ip, host)| (Some(ip), host));
        let ip = ip.map(|ip| ip.strip_prefix('[').and_then(|ip| ip.strip_suffix(']')).unwrap_or(ip));
        let number = |text: &str| text.parse::<u16>().ok().filter(|&n| n != 0).ok_or_else(bad);
        Ok(Self {
            host_port: number(host)?,
            container_port: number(port)?,
            protocol: protocol?,
            host_ip: ip.map(IpAddr::parse_text).transpose()?,
        })
    }
}

/// Longest [`Owner::netns_id`]: four numbers and what separates them, with room for more.
const MAX_NETNS_ID: usize = 200;

/// To whom a port of a container runtime belongs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Owner {
    /// `name` of the CNI network configuration.
    pub cni_network: String,
    /// Key, together with [`Port::ifname`].
    pub container_id: String,
    /// What [`Port::netns`] led to when the attachment was added, in the daemon's own words: it opens the port in no
    /// other namespace. Absent: in the one that is called so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub netns_id: Option<String>,
}

/// The name of an attachment's port.
#[must_use]
pub fn port_name(container_id: &str, ifname: &str) -> String {
    format!("{container_id}/{ifname}")
}

/// The node's own part in a network.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NodePort {
    /// Packets from pods to addresses beyond the cluster leave with the node's address as source.
    #[serde(default, skip_serializing_if = "is_default")]
    pub masquerade: bool,
    /// Ranges beyond the cluster that see pod addresses all the same.
    #[serde(default, with = "many", skip_serializing_if = "Vec::is_empty")]
    pub no_masquerade: Vec<IpNet>,
}

impl Port {
    /// Checks what this file adds to a port.
    ///
    /// # Errors
    /// A sentence.
    pub(super) fn check_extras(&self) -> Result<(), String> {
        if let Some(bandwidth) = self.bandwidth {
            for (rate, burst, what) in [
                (bandwidth.ingress_rate, bandwidth.ingress_burst, "ingress"),
                (bandwidth.egress_rate, bandwidth.egress_burst, "egress"),
            ] {
                if rate == 0 && burst != 0 {
                    return Err(format!("an {what} burst without an {what} rate"));
                }
            }
        }
        for (at, mapping) in self.mappings.iter().enumerate() {
            if mapping.host_port == 0 || mapping.container_port == 0 {
                return Err(format!("mapping {mapping}: port 0 is out of range"));
            }
            if let Some(other) = self.mappings[..at].iter().find(|o| o.collides(mapping)) {
                return Err(format!("mappings {other} and {mapping} claim the same port of the node"));
            }
            if let Some(ip) = mapping.host_ip
                && !self.ips.iter().any(|own| own.addr().is_ipv4() == ip.is_ipv4())
            {
                return Err(format!("mapping {mapping}: the port has no address of that family"));
            }
        }
        if let Some(owner) = &self.attachment {
            let expected = port_name(&owner.container_id, &self.ifname);
            if self.name != expected {
                return Err(format!("the port of this attachment must be named {expected}"));
            }
            let odd = |id: &String| id.is_empty() || id.len() > MAX_NETNS_ID || id.contains(char::is_control);
            if owner.netns_id.as_ref().is_some_and(odd) {
                return Err("the identity of its network namespace is none".to_owned());
            }
        }
        if let Some(node) = &self.node {
            if self.learning || self.attachment.is_some() || !self.mappings.is_empty() {
                return Err("the node's port cannot learn, be mapped to or belong to a container".to_owned());
            }
            if !node.masquerade && !node.no_masquerade.is_empty() {
                return Err("ranges are excepted from masquerading, which is off".to_owned());
            }
            if let Some(bad) = node.no_masquerade.iter().find(|n| n.trunc() != **n) {
                return Err(format!("range {bad} has host bits set"));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mappings_are_read_as_they_are_written() {
        for text in ["8080:80/tcp", "10.0.0.1:53:53/udp", "[fd00::1]:1:65535/sctp"] {
            assert_eq!(text.parse::<PortMapping>().unwrap().to_string(), text);
        }
        let short: PortMapping = "8080:80".parse().unwrap();
        assert_eq!((short.protocol, short.host_ip), (Protocol::Tcp, None));
        for bad in ["", "80", "0:80", "80:0", "80:80/icmp", "x:80:80", "80:65536", "::1:80:80x", "1.2.3.4:80"]
        {
            assert!(bad.parse::<PortMapping>().is_err(), "{bad}");
        }
    }

    #[test]
    fn collisions() {
        let of = |text: &str| text.parse::<PortMapping>().unwrap();
        assert!(of("80:1").collides(&of("80:2")) && of("80:1").collides(&of("10.0.0.1:80:2")));
        assert!(!of("80:1").collides(&of("80:1/udp")) && !of("10.0.0.2:80:1").collides(&of("10.0.0.1:80:1")));
    }
}
