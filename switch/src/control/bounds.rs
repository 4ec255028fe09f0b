//! How much may be declared, looked at before anything else is: what follows compares objects with each other.
//!
//! A state from disk is not held to these bounds, because it was accepted once. `docs/limits.md` has them all.

use ctl::desired::DesiredState;
use ctl::error::{ApiError, Reason};

use crate::io::opener::MAX_ADDRESSES;

/// Networks are numbered with 16 bits.
const NETWORKS: usize = 65_535;
/// Of ports, routes, static entries and static neighbours, each. More would be no mistake, but nobody has tried.
const OBJECTS: usize = 1 << 20;
/// Of one network. They are compared with each other.
const SUBNETS: usize = 256;
/// Of one network: ranges to give addresses from, and ranges to leave out.
const RANGES: usize = 1024;
/// Of one peer.
const POD_CIDRS: usize = 4096;
/// Of one port.
const MAPPINGS: usize = 1024;

/// Checks how many there are of everything.
///
/// # Errors
/// [`Reason::Limit`].
pub fn check(desired: &DesiredState) -> Result<(), ApiError> {
    let of_all = [
        ("networks", desired.networks.len(), NETWORKS),
        ("ports", desired.ports.len(), OBJECTS),
        ("peers", desired.peers.len(), tunnel::underlay::MAX_PEERS as usize),
        ("routes", desired.routes.len(), OBJECTS),
        ("static FDB entries", desired.fdb.len(), OBJECTS),
        ("static neighbours", desired.neighbours.len(), OBJECTS),
    ];
    for (what, count, most) in of_all {
        within(format_args!("{count} {what}"), count, most)?;
    }
    for network in &desired.networks {
        let (subnets, ranges) = (network.subnets.len(), network.ranges.len() + network.exclude.len());
        within(format_args!("network {}: {subnets} subnets", network.name), subnets, SUBNETS)?;
        within(format_args!("network {}: {ranges} ranges", network.name), ranges, RANGES)?;
    }
    for peer in &desired.peers {
        let cidrs = peer.pod_cidrs.len();
        within(format_args!("peer {}: {cidrs} pod CIDRs", peer.name), cidrs, POD_CIDRS)?;
    }
    for port in &desired.ports {
        let (ips, mappings) = (port.ips.len(), port.mappings.len());
        within(format_args!("port {}: {ips} addresses", port.name), ips, MAX_ADDRESSES)?;
        within(format_args!("port {}: {mappings} port mappings", port.name), mappings, MAPPINGS)?;
    }
    Ok(())
}

fn within(what: std::fmt::Arguments<'_>, count: usize, most: usize) -> Result<(), ApiError> {
    match count > most {
        true => Err(ApiError::new(Reason::Limit, format!("{what}: at most {most}"))),
        false => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing;
    use super::*;

    /// Is refused with these words, and one less of it is not.
    fn refused(words: &str, most: usize, with: impl Fn(usize) -> DesiredState) {
        assert_eq!(check(&with(most)), Ok(()), "{words}");
        let e = check(&with(most + 1)).unwrap_err();
        assert_eq!(e.reason, Reason::Limit);
        assert!(e.message.contains(words) && e.message.contains(&format!("at most {most}")), "{e}");
    }

    #[test]
    fn everything_is_bounded() {
        let state = testing::state();
        let (network, port, peer) = (&state.networks[0], &state.ports[0], &state.peers[0]);
        let (subnet, ip) = (&network.subnets[0], port.ips[0]);
        let of = DesiredState::default;
        refused("networks", NETWORKS, |n| DesiredState { networks: vec![network.clone(); n], ..of() });
        refused("peers", tunnel::underlay::MAX_PEERS as usize, |n| DesiredState {
            peers: vec![peer.clone(); n],
            ..of()
        });
        refused("network pods: 257 subnets", SUBNETS, |n| {
            let network = ctl::desired::Network { subnets: vec![subnet.clone(); n], ..network.clone() };
            DesiredState { networks: vec![network], ..of() }
        });
        refused("network pods: 1025 ranges", RANGES, |n| {
            let range = "10.1.1.5-10.1.1.6".parse().unwrap();
            let network = ctl::desired::Network { exclude: vec![range; n], ..network.clone() };
            DesiredState { networks: vec![network], ..of() }
        });
        refused("pod CIDRs", POD_CIDRS, |n| {
            let peer = ctl::desired::Peer { pod_cidrs: vec![subnet.cidr; n], ..peer.clone() };
            DesiredState { peers: vec![peer], ..of() }
        });
        refused("65 addresses", MAX_ADDRESSES, |n| {
            let port = ctl::desired::Port { ips: vec![ip; n], ..port.clone() };
            DesiredState { ports: vec![port], ..of() }
        });
    }
}
