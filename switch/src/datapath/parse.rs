//! Reading a frame's headers, and holding its virtio-net header against them.
//!
//! A TAP's virtio-net header was made by the pod's kernel, but a pod with raw sockets has a say in it. After
//! this stage the offload description agrees with the frame: later stages and the tunnel may rely on it.

use super::verdict::DropReason;
use packet::{Fragment, GsoType, Headers, Net, VnetHdr, checksum, ip_proto};

/// Parses the headers.
///
/// # Errors
/// `Malformed`, `BadVnet`.
#[inline]
pub fn frame(bytes: &[u8], vnet: &VnetHdr) -> Result<Headers, DropReason> {
    let headers = Headers::parse(bytes).map_err(|_| DropReason::Malformed)?;
    if vnet.needs_csum || vnet.is_gso() {
        checked_offload(&headers, vnet, bytes.len())?;
    }
    Ok(headers)
}

#[inline]
fn checked_offload(headers: &Headers, vnet: &VnetHdr, len: usize) -> Result<(), DropReason> {
    let field = usize::from(vnet.csum_start) + usize::from(vnet.csum_offset);
    if usize::from(vnet.csum_start) < Headers::L3 || field + 2 > len {
        return Err(DropReason::BadVnet);
    }
    let (net, proto) = match vnet.gso_type {
        GsoType::None => return Ok(()),
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

/// Size in bytes of the largest IP packet that the frame stands for (for anything but IP: of what follows the
/// Ethernet header). For an offload frame that is one segment with its headers.
#[inline]
#[must_use]
pub fn packet_size(headers: &Headers, vnet: &VnetHdr) -> u32 {
    let whole = headers.end - Headers::L3 as u32;
    if vnet.is_gso() {
        whole.min(u32::from(headers.payload) - Headers::L3 as u32 + u32::from(vnet.gso_size))
    } else {
        whole
    }
}
