//! IPv6 neighbour discovery (RFC 4861): the counterpart of [`super::arp`], with the same rules.

use super::arp::{Known, known};
use super::context::{Context, Current};
use super::trace::{Recorder, Step};
use super::verdict::{DropReason, Verdict};
use super::{classify, forward, reply, resolve};
use packet::{Headers, MacAddr, VnetHdr, read_v6};
use std::net::IpAddr;

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
    if cx.network.is_gateway_ip(IpAddr::V6(claimed)) {
        return Verdict::Drop(DropReason::SpoofedNd);
    }
    if let Some(mac) = link {
        resolve::heard(cx, IpAddr::V6(claimed), mac, true);
    }
    if !solicit {
        return if own { Verdict::Consumed } else { forward::bridge(cx, cur) };
    }
    let asker = Headers::src_mac(cur.bytes);
    match known(cx, IpAddr::V6(target), dst.is_group() || own) {
        Known::At(mac, _) if mac == asker => Verdict::Consumed,
        Known::At(mac, router) => {
            cx.rec.step(|| Step::Answered { ip: IpAddr::V6(target), mac });
            let to =
                if src.is_unspecified() { MacAddr([0x33, 0x33, 0, 0, 0, 1]) } else { link.unwrap_or(asker) };
            let made = cx.generate(VnetHdr::default(), |out| {
                reply::neighbour_advertisement(out, (mac, to), target, src, router, true);
            });
            match made {
                Some(made) => {
                    cx.post(cx.origin, made);
                    Verdict::Reply
                }
                None => Verdict::Drop(DropReason::NoBuffer),
            }
        }
        Known::Silent => Verdict::Consumed,
        Known::No if own => Verdict::Consumed,
        Known::No if dst.is_group() => forward::flood(cx, cur, true),
        Known::No => forward::bridge(cx, cur),
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
