//! Reading a frame's headers, and holding its virtio-net header against them.
//!
//! A TAP's virtio-net header was made by the pod's kernel, but a pod with raw sockets has a say in it. After
//! this stage the offload description agrees with the frame: later stages and the tunnel may rely on it.

use super::verdict::DropReason;
use packet::{Fragment, GsoType, Headers, Net, VnetHdr, checksum, ether_type, ip_proto};

/// Parses the headers.
///
/// # Errors
/// `Malformed`, `BadVnet`.
#[inline]
pub fn frame(bytes: &[u8], vnet: &VnetHdr) -> Result<Headers, DropReason> {
    let mut headers = Headers::default();
    frame_into(bytes, vnet, &mut headers)?;
    Ok(headers)
}

/// As [`frame`], to where the headers stay; after an error they have no meaning.
///
/// # Errors
/// `Malformed`, `BadVnet`.
#[inline(always)]
pub fn frame_into(bytes: &[u8], vnet: &VnetHdr, headers: &mut Headers) -> Result<(), DropReason> {
    headers.read(bytes).map_err(|_| DropReason::Malformed)?;
    if vnet.needs_csum || vnet.is_gso() {
        checked_offload(headers, vnet, bytes.len())?;
    }
    Ok(())
}

#[inline]
fn checked_offload(headers: &Headers, vnet: &VnetHdr, len: usize) -> Result<(), DropReason> {
    let field = usize::from(vnet.csum_start) + usize::from(vnet.csum_offset);
    if usize::from(vnet.csum_start) < Headers::L3 || field + 2 > len {
        return Err(DropReason::BadVnet);
    }
    let (net, proto) = match vnet.gso_type {
        GsoType::None => return plain_offload(headers, vnet),
        GsoType::Tcp4 => (Net::V4, ip_proto::TCP),
        GsoType::Tcp6 => (Net::V6, ip_proto::TCP),
        GsoType::UdpL4 => (headers.net, ip_proto::UDP),
    };
    let agrees = vnet.needs_csum
        && vnet.gso_size > 0
        && headers.net == net
        && headers.proto == proto
        && headers.l4 != 0
        && headers.fragment == Fragment::Whole
        && vnet.csum_start == headers.l4
        && checksum::field_offset(proto) == Some(usize::from(vnet.csum_offset));
    if agrees { Ok(()) } else { Err(DropReason::BadVnet) }
}

/// A checksum to complete in a frame that is not cut. It is completed after the guard has looked, so the two bytes
/// that will be written must not be any that the guard relies on: they are our L4 header's own checksum field, or
/// they lie behind all headers (the checksum of a packet inside this one).
fn plain_offload(headers: &Headers, vnet: &VnetHdr) -> Result<(), DropReason> {
    let exact = headers.l4 != 0
        && headers.fragment == Fragment::Whole
        && vnet.csum_start == headers.l4
        && checksum::field_offset(headers.proto) == Some(usize::from(vnet.csum_offset));
    // What neighbour discovery says stands behind its header, and is checked.
    let behind = headers.l4 != 0 && headers.proto != ip_proto::ICMPV6 && vnet.csum_start >= headers.payload;
    // Nothing in it can be checked, and only learning ports may send it.
    let opaque = headers.net == Net::Other;
    if exact || behind || opaque { Ok(()) } else { Err(DropReason::BadVnet) }
}

/// Size in bytes of the largest IP packet that the frame stands for (for anything but IP: of what follows the
/// Ethernet header). For an offload frame that is one segment with its headers.
#[inline]
#[must_use]
pub fn packet_size(headers: &Headers, vnet: &VnetHdr) -> u32 {
    // A tag is part of the link layer's header, not of the packet.
    let tag = if matches!(headers.ether_type, ether_type::VLAN | ether_type::QINQ) { 4 } else { 0 };
    let whole = (headers.end - Headers::L3 as u32).saturating_sub(tag);
    if vnet.is_gso() {
        whole.min(u32::from(headers.payload) - Headers::L3 as u32 + u32::from(vnet.gso_size))
    } else {
        whole
    }
}
