//! What a port's interface needs from the kernel: name, MAC, MTU, addresses, default routes, and questions
//! about links.
//!
//! Everything is meant to be repeated: setting what is already set is no error. Requests go through one
//! [`Netlink`] socket, in whose namespace they take effect.
//!
//! Limits: an offload frame of a pod is kept to [`GSO_MAX_SIZE`] bytes, so that with the headers of every
//! segment it still fits one UDP segmentation send of 64 KiB.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use neli::attr::Attribute;
use neli::consts::nl::NlmF;
use neli::consts::rtnl::{
    Arphrd, Ifa, IfaF, Iff, Ifla, IflaInfo, RtAddrFamily, RtScope, RtTable, Rta, Rtm, RtmF, Rtn, Rtprot,
};
use neli::rtnl::{
    Ifaddrmsg, IfaddrmsgBuilder, Ifinfomsg, IfinfomsgBuilder, Rtattr, RtattrBuilder, Rtmsg, RtmsgBuilder,
};
use neli::types::{Buffer, RtBuffer};
use packet::MacAddr;

use super::netlink::{Netlink, NetlinkError};

/// Largest offload frame a pod may hand over: 64 KiB less tunnel headers for some 45 segments.
pub const GSO_MAX_SIZE: u32 = 62_000;

/// `IFLA_GSO_IPV4_MAX_SIZE`, Linux 6.3; older kernels ignore it.
const IFLA_GSO_IPV4_MAX_SIZE: Ifla = Ifla::UnrecognizedConst(63);
/// `RTNH_F_ONLINK`: the gateway is on this link whatever the addresses say.
pub(super) const RTNH_F_ONLINK: u32 = 4;

/// A network interface as the kernel reports it.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Link {
    /// Interface index, unique in its namespace.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// Ethernet address, if it has one.
    pub mac: Option<MacAddr>,
    /// Largest IP packet.
    pub mtu: u32,
    /// Administratively up.
    pub up: bool,
    /// Someone holds the other end (for a TAP: a descriptor is attached).
    pub carrier: bool,
    /// The kernel has acted on the carrier: it sends.
    pub running: bool,
    /// Kind of virtual device (`tun`, `veth`, ...).
    pub kind: Option<String>,
    /// Free text, see `ip link set dev X alias`.
    pub alias: Option<String>,
    /// Length of the transmit queue; for a TAP, of its ring.
    pub txqueuelen: u32,
    /// Largest offload frame, IPv6 and, unless the next says otherwise, IPv4.
    pub gso_max_size: u32,
    /// Largest offload frame of IPv4; zero where the kernel does not tell.
    pub gso_ipv4_max_size: u32,
}

/// Changes to an interface; `None` leaves as it is.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct LinkChange<'a> {
    /// New name; the interface must be down, or the kernel 6.0 or later.
    pub name: Option<&'a str>,
    /// Ethernet address.
    pub mac: Option<MacAddr>,
    /// Largest IP packet.
    pub mtu: Option<u32>,
    /// Up or down.
    pub up: Option<bool>,
    /// Length of the transmit queue.
    pub txqueuelen: Option<u32>,
    /// Free text.
    pub alias: Option<&'a str>,
    /// Largest offload frame, IPv4 and IPv6.
    pub gso_max_size: Option<u32>,
}

/// An address of an interface.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Address {
    /// Index of the interface.
    pub index: u32,
    /// Address and prefix length.
    pub net: IpNet,
}

/// A default route of the main table.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DefaultRoute {
    /// Index of the interface.
    pub index: u32,
    /// Next hop, if there is one.
    pub gateway: Option<IpAddr>,
}

impl Netlink {
    /// Finds an interface by name; `None` if there is none.
    ///
    /// # Errors
    /// See [`NetlinkError`].
    pub fn link(&mut self, name: &str) -> Result<Option<Link>, NetlinkError> {
        let what = format!("looking up interface {name}");
        let named = vec![attr(&what, Ifla::Ifname, cstr(name))?];
        self.one_link(&what, ifinfo(&what, 0, Iff::empty(), Iff::empty(), named)?)
    }

    /// Finds an interface by its index, whatever it is called by now; `None` if there is none.
    ///
    /// # Errors
    /// See [`NetlinkError`].
    pub fn link_at(&mut self, index: u32) -> Result<Option<Link>, NetlinkError> {
        let what = format!("looking up interface {index}");
        self.one_link(&what, ifinfo(&what, index, Iff::empty(), Iff::empty(), Vec::new())?)
    }

    fn one_link(&mut self, what: &str, body: Ifinfomsg) -> Result<Option<Link>, NetlinkError> {
        match self.ask::<_, Ifinfomsg>(what, Rtm::Getlink, NlmF::empty(), body) {
            Ok(found) => Ok(found.first().map(read_link)),
            Err(e) if e.errno() == Some(libc::ENODEV) => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// Lists all interfaces.
    ///
    /// # Errors
    /// See [`NetlinkError`].
    pub fn links(&mut self) -> Result<Vec<Link>, NetlinkError> {
        let what = "listing interfaces";
        let body = ifinfo(what, 0, Iff::empty(), Iff::empty(), Vec::new())?;
        Ok(self.dump::<_, Ifinfomsg>(what, Rtm::Getlink, body)?.iter().map(read_link).collect())
    }

    /// Changes an interface.
    ///
    /// # Errors
    /// See [`NetlinkError`]; the kernel may have applied a part.
    pub fn change_link(&mut self, index: u32, change: &LinkChange<'_>) -> Result<(), NetlinkError> {
        let what = format!("configuring interface {index}");
        let number = |v: u32| v.to_ne_bytes().to_vec();
        let fields = [
            change.name.map(|n| (Ifla::Ifname, cstr(n))),
            change.mac.map(|m| (Ifla::Address, m.0.to_vec())),
            change.mtu.map(|v| (Ifla::Mtu, number(v))),
            change.txqueuelen.map(|v| (Ifla::Txqlen, number(v))),
            change.alias.map(|a| (Ifla::Ifalias, a.as_bytes().to_vec())),
            change.gso_max_size.map(|v| (Ifla::GsoMaxSize, number(v))),
            change.gso_max_size.map(|v| (IFLA_GSO_IPV4_MAX_SIZE, number(v))),
        ];
        let attrs = fields.into_iter().flatten().map(|(kind, value)| attr(&what, kind, value));
        let attrs = attrs.collect::<Result<Vec<_>, _>>()?;
        let mask = if change.up.is_some() { Iff::UP } else { Iff::empty() };
        let flags = if change.up == Some(true) { Iff::UP } else { Iff::empty() };
        let body = ifinfo(&what, index, flags, mask, attrs)?;
        self.ask::<_, Ifinfomsg>(&what, Rtm::Setlink, NlmF::empty(), body).map(drop)
    }

    /// Deletes an interface. One that is not there is no error.
    ///
    /// # Errors
    /// See [`NetlinkError`].
    pub fn delete_link(&mut self, index: u32) -> Result<(), NetlinkError> {
        let what = format!("deleting interface {index}");
        let body = ifinfo(&what, index, Iff::empty(), Iff::empty(), Vec::new())?;
        match self.ask::<_, Ifinfomsg>(&what, Rtm::Dellink, NlmF::empty(), body) {
            Err(e) if e.errno() != Some(libc::ENODEV) => Err(e),
            _ => Ok(()),
        }
    }

    /// Adds an address, usable at once: without duplicate address detection.
    ///
    /// # Errors
    /// See [`NetlinkError`]; an address that is there already is none.
    pub fn add_address(&mut self, index: u32, net: IpNet) -> Result<(), NetlinkError> {
        let flags = if net.addr().is_ipv6() { IfaF::NODAD.bits().into() } else { 0 };
        self.new_address(index, net, flags)
    }

    /// Adds a single address of the node itself: usable at once, and without a route to its prefix.
    ///
    /// # Errors
    /// See [`NetlinkError`]; an address that is there already is none.
    pub fn add_host_address(&mut self, index: u32, ip: IpAddr) -> Result<(), NetlinkError> {
        self.new_address(index, ip.into(), libc::IFA_F_NODAD | libc::IFA_F_NOPREFIXROUTE)
    }

    fn new_address(&mut self, index: u32, net: IpNet, flags: u32) -> Result<(), NetlinkError> {
        let what = format!("adding address {net} to interface {index}");
        let mut attrs = vec![
            attr(&what, Ifa::Local, ip_bytes(net.addr()))?,
            attr(&what, Ifa::Address, ip_bytes(net.addr()))?,
            attr(&what, Ifa::Flags, flags.to_ne_bytes().to_vec())?,
        ];
        if let IpNet::V4(v4) = net
            && v4.prefix_len() < 31
        {
            attrs.push(attr(&what, Ifa::Broadcast, v4.broadcast().octets().to_vec())?);
        }
        let body = IfaddrmsgBuilder::default()
            .ifa_family(family(net.addr()))
            .ifa_prefixlen(net.prefix_len())
            .ifa_scope(RtScope::Universe)
            .ifa_index(index)
            .rtattrs(attrs.into_iter().collect())
            .build()
            .map_err(|e| NetlinkError::unexpected(&what, e))?;
        let flags = NlmF::CREATE | NlmF::EXCL;
        match self.ask::<_, Ifaddrmsg>(&what, Rtm::Newaddr, flags, body) {
            Err(e) if e.errno() != Some(libc::EEXIST) => Err(e),
            _ => Ok(()),
        }
    }

    /// Deletes an address. One that is not there, or whose interface is gone, is no error.
    ///
    /// # Errors
    /// See [`NetlinkError`].
    pub fn delete_address(&mut self, index: u32, net: IpNet) -> Result<(), NetlinkError> {
        let what = format!("deleting address {net} of interface {index}");
        let body = IfaddrmsgBuilder::default()
            .ifa_family(family(net.addr()))
            .ifa_prefixlen(net.prefix_len())
            .ifa_scope(RtScope::Universe)
            .ifa_index(index)
            .rtattrs([attr(&what, Ifa::Local, ip_bytes(net.addr()))?].into_iter().collect())
            .build()
            .map_err(|e| NetlinkError::unexpected(&what, e))?;
        match self.ask::<_, Ifaddrmsg>(&what, Rtm::Deladdr, NlmF::empty(), body) {
            Err(e) if !matches!(e.errno(), Some(libc::EADDRNOTAVAIL | libc::ENODEV)) => Err(e),
            _ => Ok(()),
        }
    }

    /// Lists the addresses of all interfaces, both families.
    ///
    /// # Errors
    /// See [`NetlinkError`].
    pub fn addresses(&mut self) -> Result<Vec<Address>, NetlinkError> {
        let what = "listing addresses";
        let body = IfaddrmsgBuilder::default()
            .ifa_family(RtAddrFamily::Unspecified)
            .ifa_prefixlen(0)
            .ifa_scope(RtScope::Universe)
            .ifa_index(0)
            .rtattrs(RtBuffer::new())
            .build()
            .map_err(|e| NetlinkError::unexpected(what, e))?;
        Ok(self.dump::<_, Ifaddrmsg>(what, Rtm::Getaddr, body)?.iter().filter_map(read_address).collect())
    }

    /// Adds the default route of the gateway's family. If the gateway is in none of the interface's
    /// prefixes, it is declared to be on the link (as with an address of /32).
    ///
    /// # Errors
    /// See [`NetlinkError`]. The same route already there is none; another default route of the same
    /// metric is, with its interface named.
    pub fn add_default_route(
        &mut self,
        index: u32,
        gateway: IpAddr,
        prefixes: &[IpNet],
    ) -> Result<(), NetlinkError> {
        let what = format!("adding a default route by {gateway} on interface {index}");
        let link_local = matches!(gateway, IpAddr::V6(v6) if v6.is_unicast_link_local());
        let on_link = link_local || prefixes.iter().any(|p| p.contains(&gateway) && p.addr() != gateway);
        let attrs = vec![
            attr(&what, Rta::Gateway, ip_bytes(gateway))?,
            attr(&what, Rta::Oif, index.to_ne_bytes().to_vec())?,
        ];
        let flags = if on_link { RtmF::empty() } else { RtmF::from_bits_retain(RTNH_F_ONLINK) };
        let body = route(&what, family(gateway), flags, attrs)?;
        match self.ask::<_, Rtmsg>(&what, Rtm::Newroute, NlmF::CREATE | NlmF::EXCL, body) {
            Err(e) if e.errno() == Some(libc::EEXIST) => {
                let present = self.default_routes(gateway)?;
                if present.contains(&DefaultRoute { index, gateway: Some(gateway) }) {
                    return Ok(());
                }
                let message = present.first().map(|r| match r.gateway {
                    Some(g) => format!("interface {} has one already, by {g}", r.index),
                    None => format!("interface {} has one already", r.index),
                });
                Err(NetlinkError::Refused { what, errno: libc::EEXIST, message })
            }
            Err(e) => Err(e),
            Ok(_) => Ok(()),
        }
    }

    /// Lists the default routes of the main table, of the family of `like`.
    ///
    /// # Errors
    /// See [`NetlinkError`].
    pub fn default_routes(&mut self, like: IpAddr) -> Result<Vec<DefaultRoute>, NetlinkError> {
        let what = "listing routes";
        let body = route(what, family(like), RtmF::empty(), Vec::new())?;
        let all = self.dump::<_, Rtmsg>(what, Rtm::Getroute, body)?;
        Ok(all.iter().filter_map(read_default_route).collect())
    }
}

pub(super) fn attr<T>(what: &str, kind: T, value: Vec<u8>) -> Result<Rtattr<T, Buffer>, NetlinkError>
where
    T: neli::Size,
{
    RtattrBuilder::default()
        .rta_type(kind)
        .rta_payload(Buffer::from(value))
        .build()
        .map_err(|e| NetlinkError::unexpected(what, e))
}

fn ifinfo(
    what: &str,
    index: u32,
    flags: Iff,
    mask: Iff,
    attrs: Vec<Rtattr<Ifla, Buffer>>,
) -> Result<Ifinfomsg, NetlinkError> {
    let index = i32::try_from(index).map_err(|e| NetlinkError::unexpected(what, e))?;
    IfinfomsgBuilder::default()
        .ifi_family(RtAddrFamily::Unspecified)
        .ifi_type(Arphrd::from(0))
        .ifi_index(index)
        .ifi_flags(flags)
        .ifi_change(mask)
        .rtattrs(attrs.into_iter().collect())
        .build()
        .map_err(|e| NetlinkError::unexpected(what, e))
}

fn route(
    what: &str,
    family: RtAddrFamily,
    flags: RtmF,
    attrs: Vec<Rtattr<Rta, Buffer>>,
) -> Result<Rtmsg, NetlinkError> {
    RtmsgBuilder::default()
        .rtm_family(family)
        .rtm_dst_len(0)
        .rtm_src_len(0)
        .rtm_tos(0)
        .rtm_table(RtTable::Main)
        .rtm_protocol(Rtprot::Static)
        .rtm_scope(RtScope::Universe)
        .rtm_type(Rtn::Unicast)
        .rtm_flags(flags)
        .rtattrs(attrs.into_iter().collect())
        .build()
        .map_err(|e| NetlinkError::unexpected(what, e))
}

fn read_link(msg: &Ifinfomsg) -> Link {
    let flags = *msg.ifi_flags();
    let mut link = Link {
        index: u32::try_from(*msg.ifi_index()).unwrap_or(0),
        up: flags.contains(Iff::UP),
        carrier: flags.contains(Iff::LOWERUP),
        running: flags.contains(Iff::RUNNING),
        ..Link::default()
    };
    for a in msg.rtattrs().iter() {
        let bytes: &[u8] = a.payload().as_ref();
        match *a.rta_type() {
            Ifla::Ifname => link.name = text(bytes),
            Ifla::Ifalias => link.alias = Some(text(bytes)),
            Ifla::Address => link.mac = bytes.try_into().ok().map(MacAddr),
            Ifla::Mtu => link.mtu = number(bytes),
            Ifla::Txqlen => link.txqueuelen = number(bytes),
            Ifla::GsoMaxSize => link.gso_max_size = number(bytes),
            IFLA_GSO_IPV4_MAX_SIZE => link.gso_ipv4_max_size = number(bytes),
            Ifla::Linkinfo => {
                let Ok(inner) = a.get_attr_handle::<IflaInfo>() else { continue };
                let kind = inner.get_attrs().iter().find(|i| *i.rta_type() == IflaInfo::Kind);
                link.kind = kind.map(|k| text(k.payload().as_ref()));
            }
            _ => {}
        }
    }
    link
}

fn read_address(msg: &Ifaddrmsg) -> Option<Address> {
    let find = |kind: Ifa| msg.rtattrs().iter().find(|a| *a.rta_type() == kind);
    // On a point-to-point link IFA_ADDRESS is the other end; IFA_LOCAL, where given, is ours.
    let addr = find(Ifa::Local).or_else(|| find(Ifa::Address)).and_then(|a| read_ip(a.payload().as_ref()))?;
    let net = IpNet::new(addr, *msg.ifa_prefixlen()).ok()?;
    Some(Address { index: *msg.ifa_index(), net })
}

fn read_default_route(msg: &Rtmsg) -> Option<DefaultRoute> {
    if *msg.rtm_dst_len() != 0 || *msg.rtm_table() != RtTable::Main || *msg.rtm_type() != Rtn::Unicast {
        return None;
    }
    let find = |kind: Rta| msg.rtattrs().iter().find(|a| *a.rta_type() == kind);
    let index = find(Rta::Oif).map(|a| number(a.payload().as_ref()))?;
    Some(DefaultRoute { index, gateway: find(Rta::Gateway).and_then(|a| read_ip(a.payload().as_ref())) })
}

pub(super) fn family(ip: IpAddr) -> RtAddrFamily {
    if ip.is_ipv4() { RtAddrFamily::Inet } else { RtAddrFamily::Inet6 }
}

pub(super) fn ip_bytes(ip: IpAddr) -> Vec<u8> {
    match ip {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    }
}

pub(super) fn read_ip(bytes: &[u8]) -> Option<IpAddr> {
    match bytes.len() {
        4 => <[u8; 4]>::try_from(bytes).ok().map(|b| Ipv4Addr::from(b).into()),
        16 => <[u8; 16]>::try_from(bytes).ok().map(|b| Ipv6Addr::from(b).into()),
        _ => None,
    }
}

pub(super) fn number(bytes: &[u8]) -> u32 {
    bytes.first_chunk::<4>().map_or(0, |b| u32::from_ne_bytes(*b))
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).trim_end_matches('\0').to_owned()
}

fn cstr(s: &str) -> Vec<u8> {
    let mut bytes = s.as_bytes().to_vec();
    bytes.push(0);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_is_found_with_its_mtu() {
        let mut netlink = Netlink::open().unwrap();
        let lo = netlink.link("lo").unwrap().unwrap();
        assert_eq!((lo.name.as_str(), lo.index), ("lo", 1));
        assert_eq!(netlink.link("no-such-if").unwrap(), None);
        assert!(netlink.links().unwrap().contains(&lo));
        assert_eq!(netlink.link_at(lo.index).unwrap(), Some(lo));
        assert_eq!(netlink.link_at(i32::MAX as u32).unwrap(), None);
    }

    #[test]
    fn a_refusal_names_the_request() {
        let mut netlink = Netlink::open().unwrap();
        let change = LinkChange { mtu: Some(9000), ..LinkChange::default() };
        let e = netlink.change_link(i32::MAX as u32, &change).unwrap_err();
        assert!(e.to_string().starts_with("configuring interface 2147483647: "), "{e}");
        assert!(netlink.change_link(u32::MAX, &change).is_err());
    }
}
