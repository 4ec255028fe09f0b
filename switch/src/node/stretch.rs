//! The node's port on a subnet that other nodes have as well.
//!
//! Every node answers at a subnet's gateway address. Where the subnet is stretched over nodes (a peer without pod
//! CIDRs, or with one that overlaps the subnet), that address is no node's own: what a pod behind the peer answers to
//! it, its own node takes. So the node needs an address that no other has, and only the operator knows which.
//!
//! Pods do not need it, so it is told and nothing is refused.

use std::fmt::Write as _;

use ctl::desired::{DEFAULT_NODE_IFNAME, DesiredState, Network, Peer, Port};
use ipnet::IpNet;

use super::Obstacle;
use crate::control::derive;

/// What is wrong with the addresses of a port of the node, and the command that mends it.
#[must_use]
pub fn obstacle(desired: &DesiredState, port: &Port) -> Option<Obstacle> {
    port.node.as_ref()?;
    let network = desired.networks.iter().find(|n| n.name == port.network)?;
    let addresses = derive::port_ips(port, network);
    let (address, peer) = addresses.iter().find_map(|ip| Some((ip, shares(desired, network, ip)?)))?;
    let subnet = address.trunc();
    Some(Obstacle {
        message: format!(
            "{} is the address of every node on subnet {subnet}, which is also behind peer {}: what pods there answer \
             to this node does not come back",
            address.addr(),
            peer.name
        ),
        hint: format!(
            "with an address that no pod and no other node has: {}",
            command(desired, port, network)
        ),
    })
}

/// The peer with which an address of the node's device is shared, if it is.
fn shares<'a>(desired: &'a DesiredState, network: &Network, ip: &IpNet) -> Option<&'a Peer> {
    let gateway = derive::gateways(network).find(|gateway| gateway.addr() == ip.addr())?;
    desired.peers.iter().find(|peer| derive::stretches(peer, network, &gateway.trunc()))
}

/// Makes the port anew, with a word in place of each address that is shared.
fn command(desired: &DesiredState, port: &Port, network: &Network) -> String {
    let name = &port.name;
    let mut text =
        format!("swctl port del {name} && swctl port add {name} --network {} --node", network.name);
    let node = port.node.clone().unwrap_or_default();
    // Writing to a text cannot fail.
    if node.masquerade {
        text.push_str(" --masquerade");
    }
    for range in &node.no_masquerade {
        let _ = write!(text, " --no-masquerade {range}");
    }
    if port.ifname != DEFAULT_NODE_IFNAME {
        let _ = write!(text, " --ifname {}", port.ifname);
    }
    for ip in derive::port_ips(port, network) {
        let _ = match shares(desired, network, &ip) {
            Some(_) => write!(text, " --ip ADDRESS-IN-{}", ip.trunc()),
            None => write!(text, " --ip {ip}"),
        };
    }
    text
}

#[cfg(test)]
mod tests {
    use ctl::desired::NodePort;

    use super::*;
    use crate::control::testing;

    /// Two subnets, a port of the node with these addresses, and a peer with these pod CIDRs.
    fn state(ips: &[&str], pod_cidrs: &[&str]) -> DesiredState {
        let mut node = testing::port("node", "pods", ips);
        (node.netns, node.ifname) = (String::new(), "swd0".into());
        node.node =
            Some(NodePort { masquerade: true, no_masquerade: vec!["172.16.0.0/12".parse().unwrap()] });
        DesiredState {
            networks: vec![testing::network("pods", 1, &["10.1.0.0/16", "fd00:1::/64"])],
            ports: vec![testing::port("web-0", "pods", &["10.1.1.2/16"]), node],
            peers: vec![testing::peer("node-b", "192.168.77.2", pod_cidrs)],
            ..DesiredState::default()
        }
    }

    fn told(state: &DesiredState) -> Option<Obstacle> {
        assert_eq!(obstacle(state, &state.ports[0]), None, "a pod has its own address");
        obstacle(state, &state.ports[1])
    }

    #[test]
    fn the_gateways_address_is_every_nodes() {
        let both = told(&state(&[], &[])).unwrap();
        assert!(
            both.message.starts_with("10.1.0.1 is the address of every node on subnet 10.1.0.0/16"),
            "{both}"
        );
        assert!(both.message.contains("peer node-b"), "{both}");
        let command = "swctl port del node && swctl port add node --network pods --node --masquerade \
                       --no-masquerade 172.16.0.0/12";
        let expected = format!("{command} --ip ADDRESS-IN-10.1.0.0/16 --ip ADDRESS-IN-fd00:1::/64");
        assert!(both.hint.ends_with(&expected), "{both}");
        // Of one subnet only; also where it was said in so many words.
        let one = told(&state(&["10.1.0.1/16", "fd00:1::1/64"], &["10.1.2.0/24"])).unwrap();
        let expected = format!("{command} --ip ADDRESS-IN-10.1.0.0/16 --ip fd00:1::1/64");
        assert!(one.hint.ends_with(&expected), "{one}");
    }

    #[test]
    fn an_address_of_its_own_or_a_subnet_of_its_own_is_fine() {
        assert_eq!(told(&state(&["10.1.0.250/16", "fd00:1::250/64"], &[])), None);
        assert_eq!(told(&state(&[], &["10.2.0.0/16"])), None);
        assert_eq!(told(&DesiredState { peers: Vec::new(), ..state(&[], &[]) }), None);
        let mut elsewhere = state(&[], &[]);
        elsewhere.networks.push(testing::network("other", 2, &["10.2.0.0/16"]));
        elsewhere.peers[0].network = Some("other".into());
        assert_eq!(told(&elsewhere), None);
    }
}
