//! Forgetting what conntrack remembers of UDP mappings that changed.
//!
//! A flow keeps the destination that its first packet was given. A TCP connection ends with its pod; datagrams of an
//! asker that keeps asking from the same port would go where the mapping led before, for as long as they keep coming.
//! nftables has no means for that, so the tool `conntrack` is asked.

use std::collections::BTreeSet;
use std::net::IpAddr;

use ctl::desired::Protocol;

use super::plan::Mapping;
use super::program;

/// A UDP port of the node, and whether it is that of IPv4.
pub(super) type UdpPort = (bool, u16);

/// The ports of UDP mappings that came, went, or lead elsewhere.
pub(super) fn changed(old: &[Mapping], new: &[Mapping]) -> Vec<UdpPort> {
    let udp = |of: &[Mapping]| -> BTreeSet<(bool, u16, Option<IpAddr>, IpAddr, u16)> {
        let udp = of.iter().filter(|m| m.protocol == Protocol::Udp);
        udp.map(|m| (m.pod.is_ipv4(), m.host_port, m.at, m.pod, m.container_port)).collect()
    };
    let mut ports: Vec<UdpPort> =
        udp(old).symmetric_difference(&udp(new)).map(|(v4, port, ..)| (*v4, *port)).collect();
    ports.dedup();
    ports
}

/// Forgets the flows to these ports.
///
/// # Errors
/// A sentence with the next step.
pub(super) fn forget(ports: &[UdpPort]) -> Result<(), String> {
    if ports.is_empty() {
        return Ok(());
    }
    let Some(tool) = program::find("conntrack") else {
        return Err("`conntrack` is not installed".to_owned());
    };
    for (v4, port) in ports {
        let family = if *v4 { "ipv4" } else { "ipv6" };
        let port = port.to_string();
        let args = ["-D", "-f", family, "-p", "udp", "--orig-port-dst", &port];
        let output = program::run(tool.clone(), &args, None).map_err(|e| format!("conntrack: {e}"))?;
        let said = String::from_utf8_lossy(&output.stderr);
        // It also fails when there was nothing to forget.
        if !output.status.success() && !said.contains("0 flow entries") {
            return Err(said.lines().next().unwrap_or("conntrack failed without a word").to_owned());
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mapping(protocol: Protocol, host_port: u16, pod: &str) -> Mapping {
        Mapping { protocol, at: None, host_port, pod: pod.parse().unwrap(), container_port: 80 }
    }

    #[test]
    fn only_udp_that_changed() {
        let a = mapping(Protocol::Udp, 53, "10.1.1.2");
        let b = mapping(Protocol::Udp, 53, "10.1.1.3");
        let six = mapping(Protocol::Udp, 53, "fd00::2");
        let tcp = mapping(Protocol::Tcp, 80, "10.1.1.2");
        let all = std::slice::from_ref;
        assert_eq!(changed(&[a.clone(), tcp.clone()], all(&a)), []);
        assert_eq!(changed(all(&a), all(&b)), [(true, 53)]);
        assert_eq!(changed(&[], &[a, six, tcp]), [(false, 53), (true, 53)]);
    }
}
