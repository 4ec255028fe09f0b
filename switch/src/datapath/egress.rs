//! The last stage: may the packet go there, and does it fit?
//!
//! Into the node goes no packet for a tunnel, neither routed nor bridged: the node's kernel would put its own address
//! on it, and a pod could write to any network of a peer that trusts this node.
//!
//! An offload frame counts as one of its segments. TCP that does not fit is given a smaller segment size — the
//! cut happens later, so this costs nothing; everything else is dropped and its source told (RFC 1191, 8201),
//! for bridged frames too: a bridge that drops silently is a hole nobody can see.

use super::context::{Context, Current};
use super::parse::packet_size;
use super::tables::Tables;
use super::trace::{Recorder, Step};
use super::verdict::{DropReason, Egress, Verdict};
use super::{decap, icmp};
use packet::{GsoType, Headers};

/// Checks the size and posts the frame.
#[inline]
pub fn send<R: Recorder>(cx: &mut Context<'_, R>, cur: &mut Current<'_>, egress: Egress) -> Verdict {
    match fit(cx, cur, egress) {
        Ok(()) => {
            cx.post(egress, cur.name);
            Verdict::Unicast(egress)
        }
        Err(reason) => Verdict::Drop(reason),
    }
}

/// Largest IP packet that an egress takes, in bytes.
#[inline]
#[must_use]
pub fn mtu(tables: &Tables, egress: Egress) -> Option<u32> {
    match egress {
        Egress::Port(id) => tables.port(id).map(|p| p.mtu),
        Egress::Peer(id) => tables.peer(id).map(|p| p.mtu),
    }
}

/// Checks the size, shrinking segments if that helps; tells the source if it does not.
///
/// # Errors
/// `TooBig`, `EgressGone`, `Nested`.
#[inline]
pub fn fit<R: Recorder>(
    cx: &mut Context<'_, R>,
    cur: &mut Current<'_>,
    egress: Egress,
) -> Result<(), DropReason> {
    let mtu = mtu(cx.tables, egress).ok_or(DropReason::EgressGone)?;
    if cx.is_node(egress) && nested(cx, cur) {
        return Err(DropReason::Nested);
    }
    let packet = packet_size(&cur.meta.headers, &cur.meta.vnet);
    cx.rec.step(|| Step::Mtu { packet, mtu });
    if packet <= mtu {
        return Ok(());
    }
    too_big(cx, cur, mtu)
}

/// Only what goes to the node comes by here.
#[inline(never)]
fn nested<R: Recorder>(cx: &Context<'_, R>, cur: &Current<'_>) -> bool {
    decap::is_nested(cx.tables, cur.bytes, &cur.meta.headers)
}

/// Shrinks the segments of an offload frame, or tells the source.
#[cold]
fn too_big<R: Recorder>(cx: &mut Context<'_, R>, cur: &mut Current<'_>, mtu: u32) -> Result<(), DropReason> {
    let headers =
        u32::from(cur.meta.headers.payload) - (Headers::L3 as u32).min(u32::from(cur.meta.headers.payload));
    if matches!(cur.meta.vnet.gso_type, GsoType::Tcp4 | GsoType::Tcp6) && mtu > headers {
        cur.meta.vnet.gso_size = (mtu - headers) as u16;
        return Ok(());
    }
    icmp::error(cx, cur, icmp::Error::TooBig(mtu));
    Err(DropReason::TooBig)
}
