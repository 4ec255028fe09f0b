//! Destination lookup: where does a bridged frame go?
//!
//! - known unicast: the entry's egress, unless that is where the frame came from (`Reflection`) or both sides
//!   are peers (`SplitHorizon`);
//! - group address: the flood list prepared for this network and kind of origin;
//! - unknown unicast: the part of that list behind which something unknown can be.

use super::context::{Context, Current};
use super::egress;
use super::trace::{Recorder, Step};
use super::verdict::{DropReason, Egress, Verdict};
use packet::Headers;

/// Bridges a frame that guard and learning have passed.
#[inline]
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

/// Sends a copy to everybody who may have to see it.
pub fn flood<R: Recorder>(cx: &mut Context<'_, R>, cur: &Current<'_>, unknown: bool) -> Verdict {
    let network = cx.network;
    let list = match (cx.origin, unknown) {
        (Egress::Port(_), false) => &network.flood_from_port,
        (Egress::Peer(_), false) => &network.flood_from_peer,
        (Egress::Port(_), true) => &network.unknown_from_port,
        (Egress::Peer(_), true) => &network.unknown_from_peer,
    };
    let copies = cx.post_all(list, Some(cx.origin), cur.name);
    cx.rec.step(|| Step::Flooded { copies });
    Verdict::Flood(copies)
}
