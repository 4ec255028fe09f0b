//! Destination lookup: where does a bridged frame go?
//!
//! - known unicast: the entry's egress, unless that is where the frame came from (`Reflection`) or both sides
//!   are peers (`SplitHorizon`);
//! - group address: the flood list prepared for this network and kind of origin;
//! - unknown unicast: the part of that list behind which something unknown can be.

use super::context::{Context, Current};
use super::parse::packet_size;
use super::trace::{Recorder, Step};
use super::verdict::{DropReason, Egress, Verdict};
use super::{egress, icmp};
use packet::{GsoType, Headers};

/// Bridges a frame that guard and learning have passed.
#[inline(always)]
pub fn bridge<R: Recorder>(cx: &mut Context<'_, R>, cur: &mut Current<'_>) -> Verdict {
    let dst = Headers::dst_mac(cur.bytes);
    cx.rec.step(|| Step::Bridged { dst });
    if dst.is_group() {
        return flood(cx, cur, false);
    }
    match cx.locate(dst) {
        Some((egress, fixed)) => {
            cx.rec.step(|| Step::FdbHit { egress, fixed });
            if let Err(reason) = may_leave(cx.origin, egress) {
                return Verdict::Drop(reason);
            }
            egress::send(cx, cur, egress)
        }
        None if cx.network.flood_unknown => flood(cx, cur, true),
        None => Verdict::Drop(DropReason::UnknownUnicast),
    }
}

/// No reflection, and split horizon.
#[inline]
pub fn may_leave(origin: Egress, egress: Egress) -> Result<(), DropReason> {
    if egress == origin {
        return Err(DropReason::Reflection);
    }
    if matches!((origin, egress), (Egress::Peer(_), Egress::Peer(_))) {
        return Err(DropReason::SplitHorizon);
    }
    Ok(())
}

/// Sends a copy to everybody who may have to see it and for whom it is not too big. The sender of an unknown
/// unicast frame that is too big for somebody is told, as if that were where it had to go.
pub fn flood<R: Recorder>(cx: &mut Context<'_, R>, cur: &mut Current<'_>, unknown: bool) -> Verdict {
    let network = cx.network;
    let list = match (cx.origin, unknown) {
        (Egress::Port(_), false) => &network.flood_from_port,
        (Egress::Peer(_), false) => &network.flood_from_peer,
        (Egress::Port(_), true) => &network.unknown_from_port,
        (Egress::Peer(_), true) => &network.unknown_from_peer,
    };
    // TCP offload frames are cut to fit wherever they go.
    let tcp = matches!(cur.meta.vnet.gso_type, GsoType::Tcp4 | GsoType::Tcp6);
    let packet = if tcp { 0 } else { packet_size(&cur.meta.headers, &cur.meta.vnet) };
    let mut copies = 0;
    let mut short = None;
    let origin = cx.origin;
    for &egress in list.iter().filter(|&&egress| egress != origin) {
        match egress::mtu(cx.tables, egress) {
            Some(mtu) if packet > mtu => short = Some(short.map_or(mtu, |least: u32| least.min(mtu))),
            _ => {
                cx.post(egress, cur.name);
                copies += 1;
            }
        }
    }
    cx.rec.step(|| Step::Flooded { copies });
    if let Some(mtu) = short {
        if unknown {
            icmp::error(cx, cur, icmp::Error::TooBig(mtu));
        }
        if copies == 0 {
            return Verdict::Drop(DropReason::TooBig);
        }
    }
    Verdict::Flood(copies)
}
