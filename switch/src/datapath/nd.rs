//! IPv6 neighbour discovery (RFC 4861): the counterpart of [`super::arp`], with the same rules.

use super::arp::{Known, claim, known};
use super::context::{Context, Current};
use super::reply::ALL_NODES;
use super::trace::{Recorder, Step};
use super::verdict::{DropReason, Verdict};
use super::{classify, forward, reply};
use packet::{Headers, MacAddr, VnetHdr, read_v6};
use std::net::{IpAddr, Ipv6Addr};

/// Handles a solicitation or advertisement that [`classify`] found well formed.
pub fn nd<R: Recorder>(cx: &mut Context<'_, R>, cur: &mut Current<'_>) -> Verdict {
    let headers = cur.meta.headers;
    let at = usize::from(headers.l4);
    let body = &cur.bytes[at..headers.end as usize];
    let solicit = body[0] == 135;
    let target = read_v6(body, 8);
    let src = read_v6(cur.bytes, Headers::L3 + 8);
    let link = option(body, if solicit { 1 } else { 2 });
    let dst = Headers::dst_mac(cur.bytes);
    let own = classify::is_own_mac(cx.network, &cx.tables.node, dst);
    let claimed = if solicit { src } else { target };
    let Some(as_gateway) = claim(cx, IpAddr::V6(claimed), link, solicit) else {
        return Verdict::Drop(DropReason::SpoofedNd);
    };
    if !solicit {
        return if own { Verdict::Consumed } else { forward::bridge(cx, cur) };
    }
    let asker = Headers::src_mac(cur.bytes);
    let to = if src.is_unspecified() { ALL_NODES } else { link.unwrap_or(asker) };
    match known(cx, IpAddr::V6(target), dst.is_group() || own || as_gateway) {
        Known::At(mac, _) if mac == asker => Verdict::Consumed,
        Known::At(mac, router) => answer(cx, (target, mac, router), (src, to)),
        Known::Silent => Verdict::Consumed,
        Known::No if as_gateway => answer(cx, (target, cx.network.gateway_mac, true), (src, to)),
        Known::No if own => Verdict::Consumed,
        Known::No if dst.is_group() => forward::flood(cx, cur, true),
        Known::No => forward::bridge(cx, cur),
    }
}

/// Sends the advertisement that `target` is at `mac`, to the asker.
fn answer<R: Recorder>(
    cx: &mut Context<'_, R>,
    (target, mac, router): (Ipv6Addr, MacAddr, bool),
    (asker, asker_mac): (Ipv6Addr, MacAddr),
) -> Verdict {
    cx.rec.step(|| Step::Answered { ip: IpAddr::V6(target), mac });
    let made = cx.generate(VnetHdr::default(), |out| {
        reply::neighbour_advertisement(out, (mac, asker_mac), target, asker, router, true);
    });
    match made {
        Some(made) => {
            cx.post(cx.origin, made);
            Verdict::Reply
        }
        None => Verdict::Drop(DropReason::NoBuffer),
    }
}

/// The link-layer address option of this kind, if the option list is well formed up to it.
fn option(body: &[u8], kind: u8) -> Option<MacAddr> {
    let mut at = 24;
    while at + 8 <= body.len() {
        let len = usize::from(body[at + 1]) * 8;
        if len == 0 || at + len > body.len() {
            return None;
        }
        if body[at] == kind {
            return Some(MacAddr::read(body, at + 2));
        }
        at += len;
    }
    None
}
