//! Options of `swctl port add` beyond the device: limits, ports of the node, the node's own port.

use clap::Args;
use ctl::desired::{Bandwidth, NodePort, PortMapping};
use ipnet::IpNet;

use crate::args::parse_prefix;

#[derive(Args, Debug)]
pub struct Limits {
    /// Most bits per second towards the pod, such as 50M
    #[arg(long, value_name = "RATE", value_parser = parse_bits, default_value = "0", hide_default_value = true)]
    ingress_rate: u64,
    /// Bits towards the pod that may pass at once after a pause; default: derived
    #[arg(long, value_name = "BITS", value_parser = parse_bits, default_value = "0", hide_default_value = true)]
    ingress_burst: u64,
    /// Most bits per second from the pod
    #[arg(long, value_name = "RATE", value_parser = parse_bits, default_value = "0", hide_default_value = true)]
    egress_rate: u64,
    /// Bits from the pod that may pass at once after a pause; default: derived
    #[arg(long, value_name = "BITS", value_parser = parse_bits, default_value = "0", hide_default_value = true)]
    egress_burst: u64,
}

impl Limits {
    pub fn bandwidth(&self) -> Option<Bandwidth> {
        let bandwidth = Bandwidth {
            ingress_rate: self.ingress_rate,
            ingress_burst: self.ingress_burst,
            egress_rate: self.egress_rate,
            egress_burst: self.egress_burst,
        };
        (bandwidth != Bandwidth::default()).then_some(bandwidth)
    }
}

#[derive(Args, Debug)]
pub struct Publish {
    /// Port of the node that leads to a port of the pod; repeat for more
    #[arg(long = "publish", value_name = "[IP:]PORT:PORT[/PROTO]", value_parser = clap::value_parser!(PortMapping))]
    pub mappings: Vec<PortMapping>,
}

#[derive(Args, Debug)]
pub struct Node {
    /// The node's own port, in the daemon's namespace: its processes reach pods, pods reach the node
    #[arg(long = "node", conflicts_with_all = ["netns", "mappings", "learning"])]
    pub node: bool,
    /// Packets from pods to addresses beyond the cluster leave with the node's address as source
    #[arg(long, requires = "node")]
    masquerade: bool,
    /// Range beyond the cluster that sees pod addresses all the same; repeat for more
    #[arg(long = "no-masquerade", value_name = "CIDR", requires = "masquerade", value_parser = parse_prefix)]
    no_masquerade: Vec<IpNet>,
}

impl Node {
    pub fn role(self) -> Option<NodePort> {
        self.node.then_some(NodePort { masquerade: self.masquerade, no_masquerade: self.no_masquerade })
    }
}

/// A number of bits, with k, M or G for powers of 1,000 as rates are written.
fn parse_bits(text: &str) -> Result<u64, String> {
    let bad = || "expected a number of bits, such as 500k, 50M or 1G".to_owned();
    let (digits, factor) = match text.char_indices().next_back() {
        Some((at, 'k' | 'K')) => (&text[..at], 1_000),
        Some((at, 'm' | 'M')) => (&text[..at], 1_000_000),
        Some((at, 'g' | 'G')) => (&text[..at], 1_000_000_000),
        _ => (text, 1),
    };
    digits.parse::<u64>().ok().and_then(|n| n.checked_mul(factor)).ok_or_else(bad)
}

#[cfg(test)]
mod tests {
    use super::parse_bits;

    #[test]
    fn bits() {
        assert_eq!((parse_bits("50M"), parse_bits("7")), (Ok(50_000_000), Ok(7)));
        assert_eq!((parse_bits("1g"), parse_bits("64k")), (Ok(1_000_000_000), Ok(64_000)));
        for bad in ["", "M", "-1", "1.5M", "1T", "99999999999999999999", "99999999999G"] {
            assert!(parse_bits(bad).is_err(), "{bad}");
        }
    }
}
