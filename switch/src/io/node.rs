//! What makes a device the node's own way into a pod network.
//!
//! Such a device has host addresses, and routes to pods by a next hop that is the switch: a link-local address
//! with a permanent neighbour entry, so that the node never asks who has an address. Everything is repeatable.
//! Routes of running traffic are never taken away to be put back: what is missing is added first, what differs is
//! replaced in one step, and only then what is no longer wanted is deleted. A failure on the way takes back what
//! was done.
//!
//! Limits: [`MAX_ROUTES`] routes; the addresses of a device are added to, never taken away (a port whose
//! addresses change is opened anew).

use std::collections::HashMap;
use std::net::IpAddr;

use ipnet::IpNet;
use packet::MacAddr;

use super::link::Address;
use super::netlink::{Netlink, NetlinkError};
use super::opener::{OpenError, PortHealth, PortSpec};
use super::route::NodeRoute;

/// Most routes of one device.
pub const MAX_ROUTES: usize = 16_384;

/// The routes of the node's own device. Its addresses are those of the [`PortSpec`], each by itself (/32, /128),
/// whatever prefix it has there.
#[derive(Clone, PartialEq, Eq, Debug, Default, serde::Serialize, serde::Deserialize)]
pub struct NodeLink {
    /// Next hops and the MAC to send to; link-local, at most one of a family.
    #[serde(with = "super::wire::next_hops")]
    pub next_hops: Vec<(IpAddr, MacAddr)>,
    /// The routes by them.
    pub routes: Vec<NodeRoute>,
}

impl NodeLink {
    pub(super) fn validate(&self, spec: &PortSpec) -> Result<(), OpenError> {
        let invalid = |text: String| Err(OpenError::Invalid(text));
        if spec.default_route {
            return invalid("the node's own device gets no default route".to_owned());
        }
        if self.routes.len() > MAX_ROUTES {
            return invalid(format!("more than {MAX_ROUTES} routes"));
        }
        for route in &self.routes {
            let NodeRoute { net, via, source } = route;
            if net.prefix_len() == 0 || net.trunc() != *net {
                return invalid(format!("{net} is not the range of a pod network"));
            }
            if !self.next_hops.iter().any(|(ip, _)| ip == via) || via.is_ipv4() != net.addr().is_ipv4() {
                return invalid(format!("route to {net}: {via} is no next hop of its family"));
            }
            if !spec.addresses.iter().any(|a| a.addr() == *source) || source.is_ipv4() != via.is_ipv4() {
                return invalid(format!("route to {net}: {source} is no address of the device"));
            }
        }
        Ok(())
    }
}

/// What was done, to be taken back.
enum Done {
    Address(IpAddr),
    Added(IpNet),
    Replaced(NodeRoute),
    Deleted(NodeRoute),
}

/// Gives the device what it lacks and takes from it the routes of ours that are not wanted.
///
/// # Errors
/// See [`NetlinkError`]; then addresses and routes are as before, as far as the kernel lets them be.
pub(super) fn ensure(
    netlink: &mut Netlink,
    index: u32,
    addresses: &[IpNet],
    link: &NodeLink,
) -> Result<(), NetlinkError> {
    let mut done = Vec::new();
    let result = attempt(netlink, index, addresses, link, &mut done);
    if result.is_err() {
        for step in done.into_iter().rev() {
            // The first refusal is the one to tell about.
            let _ = match step {
                Done::Address(ip) => netlink.delete_address(index, IpNet::from(ip)),
                Done::Added(net) => netlink.delete_node_route(index, net),
                Done::Replaced(route) => netlink.add_node_route(index, &route, true),
                Done::Deleted(route) => netlink.add_node_route(index, &route, false),
            };
        }
    }
    result
}

fn attempt(
    netlink: &mut Netlink,
    index: u32,
    addresses: &[IpNet],
    link: &NodeLink,
    done: &mut Vec<Done>,
) -> Result<(), NetlinkError> {
    let present = netlink.addresses()?;
    for ip in addresses.iter().map(IpNet::addr).filter(|ip| !has_address(&present, index, *ip)) {
        netlink.add_host_address(index, ip)?;
        done.push(Done::Address(ip));
    }
    for (ip, mac) in &link.next_hops {
        netlink.set_neighbour(index, *ip, *mac)?;
    }
    let mut stale: HashMap<IpNet, Option<NodeRoute>> = netlink.node_routes(index)?.into_iter().collect();
    for route in &link.routes {
        match stale.remove(&route.net) {
            Some(Some(old)) if old == *route => {}
            Some(old) => {
                netlink.add_node_route(index, route, true)?;
                done.extend(old.map(Done::Replaced));
            }
            None => {
                netlink.add_node_route(index, route, false)?;
                done.push(Done::Added(route.net));
            }
        }
    }
    for (net, old) in stale {
        netlink.delete_node_route(index, net)?;
        done.extend(old.map(Done::Deleted));
    }
    Ok(())
}

/// The first thing that the device lacks; what it has beyond is not looked at.
pub(super) fn lacks(
    netlink: &mut Netlink,
    index: u32,
    addresses: &[IpNet],
    link: &NodeLink,
) -> Result<Option<PortHealth>, NetlinkError> {
    let present = netlink.addresses()?;
    let missing = addresses.iter().map(IpNet::addr).find(|ip| !has_address(&present, index, *ip));
    if let Some(addr) = missing {
        return Ok(Some(PortHealth::AddressMissing { addr }));
    }
    for (ip, mac) in &link.next_hops {
        if netlink.permanent_neighbour(index, *ip)? != Some(*mac) {
            return Ok(Some(PortHealth::NextHopMissing { addr: *ip }));
        }
    }
    let routes: HashMap<IpNet, Option<NodeRoute>> = netlink.node_routes(index)?.into_iter().collect();
    let missing = link.routes.iter().find(|r| routes.get(&r.net) != Some(&Some(**r)));
    Ok(missing.map(|r| PortHealth::RouteMissing { net: r.net }))
}

fn has_address(present: &[Address], index: u32, ip: IpAddr) -> bool {
    present.iter().any(|a| a.index == index && a.net.addr() == ip)
}
