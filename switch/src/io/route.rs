//! Routes and neighbours of a device of ours in the node's own namespace.
//!
//! Every route made here carries [`PROTOCOL`] and lies in the main table. Only routes with that mark and on the
//! device in question are ever listed, replaced or deleted; a prefix that somebody else routes already is
//! refused, with the name of the device that has it.
//!
//! Limits: the main table only; one next hop per route.

use std::net::IpAddr;

use ipnet::IpNet;
use neli::consts::nl::NlmF;
use neli::consts::rtnl::{Nda, Ntf, Nud, RtScope, RtTable, Rta, Rtm, RtmF, Rtn, Rtprot};
use neli::rtnl::{Ndmsg, NdmsgBuilder, Rtattr, Rtmsg, RtmsgBuilder};
use neli::types::Buffer;
use packet::MacAddr;

use super::link::{RTNH_F_ONLINK, attr, family, ip_bytes, number, read_ip};
use super::netlink::{Netlink, NetlinkError};

/// `rtm_protocol` of the routes made here, shown by `ip route` as `proto 83`. No routing daemon in iproute2's
/// list of protocols has this number (0x53 is the letter S).
pub const PROTOCOL: u8 = 0x53;
/// Metric of IPv6 routes: that of a connected prefix, so that the same prefix on another device is noticed
/// instead of silently winning or losing. IPv4 routes have none (0), as connected ones.
const METRIC_V6: u32 = 256;

/// A route by a next hop that is declared to be on the link.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, serde::Serialize, serde::Deserialize)]
pub struct NodeRoute {
    /// Destination, without host bits.
    pub net: IpNet,
    /// Next hop.
    pub via: IpAddr,
    /// Source address of packets that the node itself sends there.
    pub source: IpAddr,
}

impl Netlink {
    /// Adds a route on interface `index`. With `replace` a route of the same prefix gives way without a gap;
    /// the caller has made sure that it is one of ours.
    ///
    /// # Errors
    /// See [`NetlinkError`]; a prefix that is routed already is one, with its device named.
    pub fn add_node_route(
        &mut self,
        index: u32,
        route: &NodeRoute,
        replace: bool,
    ) -> Result<(), NetlinkError> {
        let what = format!("adding a route to {} by {}", route.net, route.via);
        let flags = NlmF::CREATE | if replace { NlmF::REPLACE } else { NlmF::EXCL };
        let body = message(&what, index, route.net, Some(route))?;
        match self.ask::<_, Rtmsg>(&what, Rtm::Newroute, flags, body) {
            Err(e) if e.errno() == Some(libc::EEXIST) && !replace => {
                let holder = self.holder(route.net)?;
                let message = holder.map(|name| format!("{name} has one already"));
                Err(NetlinkError::Refused { what, errno: libc::EEXIST, message })
            }
            other => other.map(drop),
        }
    }

    /// Deletes our route to a prefix. One that is gone already is no error.
    ///
    /// # Errors
    /// See [`NetlinkError`].
    pub fn delete_node_route(&mut self, index: u32, net: IpNet) -> Result<(), NetlinkError> {
        let what = format!("deleting the route to {net}");
        let body = message(&what, index, net, None)?;
        match self.ask::<_, Rtmsg>(&what, Rtm::Delroute, NlmF::empty(), body) {
            Err(e) if e.errno() != Some(libc::ESRCH) => Err(e),
            _ => Ok(()),
        }
    }

    /// Lists our routes on interface `index`, both families. `None` for one that somebody has changed beyond
    /// recognition: the kernel itself takes the source from an IPv6 route when that address is deleted.
    ///
    /// # Errors
    /// See [`NetlinkError`].
    pub fn node_routes(&mut self, index: u32) -> Result<Vec<(IpNet, Option<NodeRoute>)>, NetlinkError> {
        let what = "listing the node's routes";
        let mut routes = Vec::new();
        for any in [IpAddr::from([0; 4]), IpAddr::from([0; 16])] {
            let oif = attr(what, Rta::Oif, index.to_ne_bytes().to_vec())?;
            let body = header(what, any, 0, Rtprot::from(PROTOCOL), RtmF::empty(), vec![oif])?;
            // Where the kernel is too old to select, all routes come, and the rest is left out here.
            let all = self.dump_selected::<_, Rtmsg>(what, Rtm::Getroute, body)?;
            let ours = all.iter().filter(|m| is_ours(m, index));
            routes.extend(ours.filter_map(|m| destination(m, any).map(|net| (net, read_route(m, net)))));
        }
        Ok(routes)
    }

    /// The name of the interface that has the route to exactly `net` in the main table.
    fn holder(&mut self, net: IpNet) -> Result<Option<String>, NetlinkError> {
        let what = "listing routes";
        let body = header(what, net.addr(), 0, Rtprot::Unspec, RtmF::empty(), Vec::new())?;
        let all = self.dump::<_, Rtmsg>(what, Rtm::Getroute, body)?;
        let same = |m: &&Rtmsg| *m.rtm_table() == RtTable::Main && destination(m, net.addr()) == Some(net);
        let Some(index) = all.iter().find(same).and_then(|m| find(m, Rta::Oif)).map(number) else {
            return Ok(None);
        };
        Ok(self.links()?.into_iter().find(|l| l.index == index).map(|l| l.name))
    }

    /// Makes `ip` a neighbour for good on interface `index`, so that the kernel never asks for it.
    ///
    /// # Errors
    /// See [`NetlinkError`].
    pub fn set_neighbour(&mut self, index: u32, ip: IpAddr, mac: MacAddr) -> Result<(), NetlinkError> {
        let what = format!("making {ip} a neighbour");
        let lladdr = attr(&what, Nda::Lladdr, mac.0.to_vec())?;
        let body = neighbour(&what, index, ip, Nud::PERMANENT, vec![lladdr])?;
        let flags = NlmF::CREATE | NlmF::REPLACE;
        self.ask::<_, Ndmsg>(&what, Rtm::Newneigh, flags, body).map(drop)
    }

    /// Takes away the neighbours on interface `index` that have not answered: the kernel asks anew for the next packet,
    /// instead of a second after it has asked last, when there may have been nobody to answer.
    ///
    /// # Errors
    /// See [`NetlinkError`]. One that is gone by now is none.
    pub fn forget_unanswered(&mut self, index: u32) -> Result<(), NetlinkError> {
        let what = "listing neighbours";
        // A `struct ndmsg` of zeros: all families, all interfaces.
        let body = Buffer::from(vec![0; 12]);
        for found in self.dump::<_, Ndmsg>(what, Rtm::Getneigh, body)? {
            let ours = u32::try_from(*found.ndm_index()).is_ok_and(|at| at == index);
            if !ours || !found.ndm_state().intersects(Nud::INCOMPLETE | Nud::FAILED) {
                continue;
            }
            let dst = found.rtattrs().iter().find(|a| *a.rta_type() == Nda::Dst);
            let Some(ip) = dst.and_then(|a| read_ip(a.rta_payload().as_ref())) else { continue };
            let what = format!("forgetting neighbour {ip}");
            let body = neighbour(&what, index, ip, Nud::empty(), Vec::new())?;
            match self.ask::<_, Ndmsg>(&what, Rtm::Delneigh, NlmF::empty(), body) {
                Err(e) if e.errno() != Some(libc::ENOENT) => return Err(e),
                _ => {}
            }
        }
        Ok(())
    }

    /// The MAC of a permanent neighbour on interface `index`, if there is one of this address.
    ///
    /// # Errors
    /// See [`NetlinkError`]. Needs Linux 5.0.
    pub fn permanent_neighbour(&mut self, index: u32, ip: IpAddr) -> Result<Option<MacAddr>, NetlinkError> {
        let what = format!("looking up neighbour {ip}");
        let body = neighbour(&what, index, ip, Nud::empty(), Vec::new())?;
        match self.ask::<_, Ndmsg>(&what, Rtm::Getneigh, NlmF::empty(), body) {
            Err(e) if e.errno() == Some(libc::ENOENT) => Ok(None),
            Err(e) => Err(e),
            Ok(found) => Ok(found.first().filter(|m| m.ndm_state().contains(Nud::PERMANENT)).and_then(|m| {
                let mac = m.rtattrs().iter().find(|a| *a.rta_type() == Nda::Lladdr)?;
                mac.rta_payload().as_ref().try_into().ok().map(MacAddr)
            })),
        }
    }
}

/// Any route of ours to `net`, or exactly one.
fn message(what: &str, index: u32, net: IpNet, exact: Option<&NodeRoute>) -> Result<Rtmsg, NetlinkError> {
    let mut attrs = vec![
        attr(what, Rta::Dst, ip_bytes(net.addr()))?,
        attr(what, Rta::Oif, index.to_ne_bytes().to_vec())?,
    ];
    if net.addr().is_ipv6() {
        attrs.push(attr(what, Rta::Priority, METRIC_V6.to_ne_bytes().to_vec())?);
    }
    let mut flags = RtmF::empty();
    if let Some(route) = exact {
        attrs.push(attr(what, Rta::Gateway, ip_bytes(route.via))?);
        attrs.push(attr(what, Rta::Prefsrc, ip_bytes(route.source))?);
        flags = RtmF::from_bits_retain(RTNH_F_ONLINK);
    }
    header(what, net.addr(), net.prefix_len(), Rtprot::from(PROTOCOL), flags, attrs)
}

fn header(
    what: &str,
    like: IpAddr,
    len: u8,
    protocol: Rtprot,
    flags: RtmF,
    attrs: Vec<Rtattr<Rta, Buffer>>,
) -> Result<Rtmsg, NetlinkError> {
    RtmsgBuilder::default()
        .rtm_family(family(like))
        .rtm_dst_len(len)
        .rtm_src_len(0)
        .rtm_tos(0)
        .rtm_table(RtTable::Main)
        .rtm_protocol(protocol)
        .rtm_scope(RtScope::Universe)
        .rtm_type(Rtn::Unicast)
        .rtm_flags(flags)
        .rtattrs(attrs.into_iter().collect())
        .build()
        .map_err(|e| NetlinkError::unexpected(what, e))
}

fn neighbour(
    what: &str,
    index: u32,
    ip: IpAddr,
    state: Nud,
    mut attrs: Vec<Rtattr<Nda, Buffer>>,
) -> Result<Ndmsg, NetlinkError> {
    attrs.push(attr(what, Nda::Dst, ip_bytes(ip))?);
    NdmsgBuilder::default()
        .ndm_family(family(ip))
        .ndm_index(i32::try_from(index).map_err(|e| NetlinkError::unexpected(what, e))?)
        .ndm_state(state)
        .ndm_flags(Ntf::empty())
        .ndm_type(Rtn::Unspec)
        .rtattrs(attrs.into_iter().collect())
        .build()
        .map_err(|e| NetlinkError::unexpected(what, e))
}

fn find(msg: &Rtmsg, kind: Rta) -> Option<&[u8]> {
    msg.rtattrs().iter().find(|a| *a.rta_type() == kind).map(|a| a.rta_payload().as_ref())
}

fn is_ours(msg: &Rtmsg, index: u32) -> bool {
    *msg.rtm_table() == RtTable::Main
        && *msg.rtm_protocol() == Rtprot::from(PROTOCOL)
        && find(msg, Rta::Oif).map(number) == Some(index)
}

/// `like` tells the family of a destination that is not given because it is everything.
fn destination(msg: &Rtmsg, like: IpAddr) -> Option<IpNet> {
    let addr = match find(msg, Rta::Dst) {
        Some(bytes) => read_ip(bytes)?,
        None if like.is_ipv4() => IpAddr::from([0; 4]),
        None => IpAddr::from([0; 16]),
    };
    IpNet::new(addr, *msg.rtm_dst_len()).ok()
}

fn read_route(msg: &Rtmsg, net: IpNet) -> Option<NodeRoute> {
    Some(NodeRoute {
        net,
        via: find(msg, Rta::Gateway).and_then(read_ip)?,
        source: find(msg, Rta::Prefsrc).and_then(read_ip)?,
    })
}
