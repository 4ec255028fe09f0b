//! From a tunnel datagram to an inner frame: is the sender a listed peer, is the VNI ours, may this peer send
//! from this address?
//!
//! Nothing in the outer header is trusted but the source address, and that only against the peer list.

use super::frame::Ingress;
use super::tables::{Network, Peer, Sources, Tables};
use super::verdict::{DropReason, PeerId};
use packet::{Headers, Net, VnetHdr, ip_proto, read_v4, read_v6};
use std::net::{IpAddr, Ipv4Addr};
use tunnel::DecapError;
use tunnel::ecn::EcnAction;

/// An accepted datagram.
pub struct Opened<'t> {
    /// The sender.
    pub peer: PeerId,
    /// Its entry.
    pub conf: &'t Peer,
    /// The network of the VNI.
    pub network: &'t Network,
    /// Where the inner Ethernet header begins.
    pub at: usize,
}

/// Checks the outer facts and the tunnel header.
///
/// # Errors
/// The drop reason, with the peer it is booked on when the peer is known.
#[inline]
pub fn open<'t>(
    tables: &'t Tables,
    ingress: Ingress,
    datagram: &[u8],
) -> Result<Opened<'t>, (Option<PeerId>, DropReason)> {
    let (known, vni, at) = match ingress {
        Ingress::Underlay { source, encap, .. } => {
            let known = *tables.by_remote.get(&source).ok_or((None, DropReason::UnknownPeer))?;
            let inner = encap.decode(datagram).map_err(|e| (Some(known), reason(e)))?;
            (known, inner.vni, inner.at)
        }
        Ingress::Peer { peer, vni } => (peer, vni, 0),
        Ingress::Port(_) => return Err((None, DropReason::NoPort)),
    };
    let remote = tables.peer(known).ok_or((None, DropReason::UnknownPeer))?.remote;
    let unknown = (Some(known), DropReason::UnknownVni);
    let network = tables.by_vni.get(&vni).and_then(|id| tables.network(*id)).ok_or(unknown)?;
    let peer = tables.peer_on(known, remote, network.id).ok_or(unknown)?;
    let conf = tables.peer(peer).ok_or(unknown)?;
    Ok(Opened { peer, conf, network, at })
}

fn reason(e: DecapError) -> DropReason {
    match e {
        DecapError::Truncated => DropReason::TunnelTruncated,
        DecapError::BadFlags => DropReason::TunnelBadFlags,
        DecapError::BadVersion => DropReason::TunnelBadVersion,
        DecapError::BadOption => DropReason::TunnelBadOption,
        DecapError::UnknownCritical => DropReason::TunnelUnknownCritical,
        DecapError::NotEthernet => DropReason::TunnelNotEthernet,
        DecapError::Control => DropReason::TunnelControl,
    }
}

/// Combines outer and inner ECN (RFC 6040), editing the inner header if it has to learn of congestion.
///
/// # Errors
/// `EcnCongestion`.
#[inline]
pub fn ecn(outer_tos: u8, frame: &mut [u8], headers: &Headers) -> Result<(), DropReason> {
    if !matches!(headers.net, Net::V4 | Net::V6) {
        return Ok(());
    }
    match tunnel::ecn::decap(outer_tos, headers.tos(frame)) {
        EcnAction::Keep => Ok(()),
        EcnAction::Set(ecn) => {
            tunnel::ecn::set_ecn(frame, headers, ecn);
            Ok(())
        }
        EcnAction::Drop => Err(DropReason::EcnCongestion),
    }
}

/// Checks of the inner frame that depend on the peer.
///
/// # Errors
/// `Nested`, `PeerSource`.
#[inline]
pub fn admit(
    tables: &Tables,
    network: &Network,
    peer: &Peer,
    frame: &[u8],
    headers: &Headers,
) -> Result<(), DropReason> {
    if is_nested(tables, frame, headers) {
        return Err(DropReason::Nested);
    }
    let Some(sources) = &peer.sources else { return Ok(()) };
    let icmp6 = headers.net == Net::V6 && headers.proto == ip_proto::ICMPV6;
    if icmp6 && headers.l4 != 0 && frame[usize::from(headers.l4)] == ROUTER_ADVERT {
        return Err(DropReason::RouterAdvert);
    }
    // Where this node takes part in the network, the peer's does: its processes talk to pods as well.
    let is_peer = |src: IpAddr| src == peer.remote && network.node.is_some();
    let allowed = match (headers.net, headers.src_ip(frame)) {
        // The gateway is on every node: its ICMP errors about our pods' packets come from there too. Nothing else does,
        // since each node's gateway answers its own pods.
        (Net::V4, Some(src)) => {
            sources.contains(src)
                || is_peer(src)
                || (from_gateway(frame, headers) && network.is_gateway_ip(src))
        }
        // Link-local and unspecified sources belong to the segment, not to a pod: neighbour discovery needs them.
        (Net::V6, Some(IpAddr::V6(src))) => {
            let segment = src.is_unicast_link_local() || src.is_unspecified();
            let own = sources.contains(IpAddr::V6(src)) || is_peer(IpAddr::V6(src));
            (own || (icmp6
                && (segment || from_gateway(frame, headers) && network.is_gateway_ip(IpAddr::V6(src)))))
                && !(icmp6 && claims_foreign(sources, frame, headers))
        }
        // A probe (RFC 5227) carries no sender address; it claims nothing.
        (Net::Arp, _) => {
            let sender = read_v4(frame, Headers::L3 + 14);
            sender == Ipv4Addr::UNSPECIFIED || sources.contains(IpAddr::V4(sender))
        }
        _ => false,
    };
    if allowed { Ok(()) } else { Err(DropReason::PeerSource) }
}

/// Is this a tunnel packet for this node or a peer? Inside a tunnel, and from a pod to the node, such a packet is a
/// loop or a forgery.
#[inline]
#[must_use]
pub fn is_nested(tables: &Tables, frame: &[u8], headers: &Headers) -> bool {
    let to_tunnel = headers.proto == ip_proto::UDP && tables.node.tunnel_ports.contains(&headers.dport);
    let is_vtep = |ip: IpAddr| Some(ip) == tables.node.underlay || tables.by_remote.contains_key(&ip);
    to_tunnel && headers.dst_ip(frame).is_some_and(is_vtep)
}

/// Is this what a gateway says beyond its own node: an ICMP error?
#[inline]
#[must_use]
pub fn from_gateway(frame: &[u8], headers: &Headers) -> bool {
    let kind = match usize::from(headers.l4) {
        0 => None,
        at => frame.get(at).copied(),
    };
    match headers.proto {
        ip_proto::ICMP => matches!(kind, Some(3 | 11 | 12)),
        ip_proto::ICMPV6 => matches!(kind, Some(1..=4)),
        _ => false,
    }
}

/// ICMPv6 type of a router advertisement (RFC 4861).
const ROUTER_ADVERT: u8 = 134;

/// A neighbour advertisement for an address that is neither link-local nor the peer's.
fn claims_foreign(sources: &Sources, frame: &[u8], headers: &Headers) -> bool {
    let at = usize::from(headers.l4);
    if at == 0 || headers.end as usize - at < 24 || frame[at] != 136 {
        return false;
    }
    let target = read_v6(frame, at + 8);
    !target.is_unicast_link_local() && !sources.contains(IpAddr::V6(target))
}

/// Normalises what only the tunnel's other end knows: a partial inner checksum, an unsegmented inner frame.
#[inline]
#[must_use]
pub fn offload(frame: &[u8], headers: &Headers, peer: &Peer) -> VnetHdr {
    tunnel::offload::ingest(frame, headers, peer.mtu as usize)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_are_called_as_the_tunnel_calls_them() {
        for e in DecapError::ALL {
            assert_eq!(reason(e).word(), e.name());
        }
    }
}
