//! Getting a routed packet to its next hop: MAC lookup, solicitation, the queue, and what happens when the
//! answer comes or does not come.

use super::context::{Context, Current};
use super::frame::{Frame, FrameRef, Ingress};
use super::icmp;
use super::neighbour::{Held, Lookup};
use super::tables::Network;
use super::trace::{Recorder, Step};
use super::verdict::{DropReason, Egress, Verdict};
use super::{egress, forward, reply, route};
use packet::{MacAddr, VnetHdr};
use std::net::IpAddr;

/// Forwards a routed packet to `hop` on this network.
#[inline]
pub fn deliver<R: Recorder>(cx: &mut Context<'_, R>, cur: &mut Current<'_>, hop: IpAddr) -> Verdict {
    if let Some(adjacency) = cx.network.neighbours.get(&hop) {
        let mac = adjacency.mac;
        let egress = adjacency.egress;
        cx.rec.step(|| Step::Neighbour { ip: hop, mac });
        return match egress {
            Some(egress) => finish(cx, cur, egress, mac),
            None => to_mac(cx, cur, mac),
        };
    }
    match cx.neighbours.lookup(cx.network.id, hop, cx.now_ms) {
        Lookup::Known(mac) => {
            cx.rec.step(|| Step::Neighbour { ip: hop, mac });
            to_mac(cx, cur, mac)
        }
        Lookup::Stale(mac) => {
            cx.rec.step(|| Step::Neighbour { ip: hop, mac });
            solicit(cx, hop);
            to_mac(cx, cur, mac)
        }
        Lookup::Pending => wait(cx, cur, hop),
        Lookup::Unknown => {
            if !cx.neighbours.begin(cx.network.id, hop, cx.origin, cx.now_ms) {
                return Verdict::Drop(DropReason::NeighbourQueue);
            }
            solicit(cx, hop);
            wait(cx, cur, hop)
        }
    }
}

/// The MAC is known: send where it is, or flood if that has been forgotten.
fn to_mac<R: Recorder>(cx: &mut Context<'_, R>, cur: &mut Current<'_>, mac: MacAddr) -> Verdict {
    match cx.locate(mac) {
        Some((egress, fixed)) => {
            cx.rec.step(|| Step::FdbHit { egress, fixed });
            finish(cx, cur, egress, mac)
        }
        None if cx.network.flood_unknown => {
            // The one source that both pods and peers accept: peers refuse the gateway's.
            route::rewrite(cur, mac, cx.tables.node.router_mac);
            forward::flood(cx, cur, true)
        }
        None => Verdict::Drop(DropReason::UnknownUnicast),
    }
}

/// Split horizon, size, rewrite, post. The size is checked first: an ICMP error must quote the packet as it came.
#[inline]
pub fn finish<R: Recorder>(
    cx: &mut Context<'_, R>,
    cur: &mut Current<'_>,
    egress: Egress,
    mac: MacAddr,
) -> Verdict {
    if matches!((cx.origin, egress), (Egress::Peer(_), Egress::Peer(_))) {
        return Verdict::Drop(DropReason::SplitHorizon);
    }
    if let Err(reason) = egress::fit(cx, cur, egress) {
        return Verdict::Drop(reason);
    }
    route::rewrite(cur, mac, cx.own_mac(egress));
    cx.post(egress, cur.name);
    Verdict::Unicast(egress)
}

#[cold]
fn wait<R: Recorder>(cx: &mut Context<'_, R>, cur: &mut Current<'_>, hop: IpAddr) -> Verdict {
    cx.rec.step(|| Step::Resolving { ip: hop });
    let held = cx.neighbours.hold(cx.network.id, hop, cx.origin, |frame| {
        frame.bytes.extend_from_slice(cur.bytes);
        frame.vnet = cur.meta.vnet;
        frame.headers = cur.meta.headers;
        frame.hash = cur.meta.hash;
    });
    if held { Verdict::Held } else { Verdict::Drop(DropReason::NeighbourQueue) }
}

/// Asks everybody behind whom the address can be.
#[cold]
pub fn solicit<R: Recorder>(cx: &mut Context<'_, R>, ip: IpAddr) {
    let mac = cx.tables.node.router_mac;
    let made = cx.generate(VnetHdr::default(), |out| match ip {
        IpAddr::V4(ip) => reply::arp_request(out, mac, ip),
        IpAddr::V6(ip) => reply::neighbour_solicitation(out, mac, ip),
    });
    if let Some(made) = made {
        let list = cx.unknown_list();
        cx.post_all(&list, None, made);
    }
}

/// Is this something to remember of a neighbour? Nothing is that contradicts or repeats the tables.
pub fn may_be_heard(network: &Network, ip: IpAddr, mac: MacAddr) -> bool {
    mac.is_unicast() && !ip.is_unspecified() && !ip.is_multicast() && !network.neighbours.contains_key(&ip)
}

/// ARP or ND said that `ip` is at `mac`: remember it and send what waited.
pub fn heard<R: Recorder>(cx: &mut Context<'_, R>, ip: IpAddr, mac: MacAddr, create: bool) {
    if !may_be_heard(cx.network, ip, mac) {
        return;
    }
    let waiting = cx.neighbours.confirm((cx.network.id, ip), mac, cx.origin, cx.now_ms, create);
    for held in waiting {
        release(cx, held, mac);
    }
}

/// Sends one held frame, as if it had been routed just now.
fn release<R: Recorder>(cx: &mut Context<'_, R>, mut held: Held, mac: MacAddr) {
    let answered_by = cx.origin;
    let Some((number, own)) = cx.out.generated.make() else {
        cx.counters.expire(held.origin);
        cx.neighbours.recycle(held);
        return;
    };
    std::mem::swap(own, &mut held.frame);
    // The frame is edited where it will be sent from; take it out for that.
    let mut frame = std::mem::take(own);
    let mut meta = Frame {
        buffer: 0,
        head: 0,
        len: frame.bytes.len() as u32,
        vnet: frame.vnet,
        ingress: Ingress::Port(super::PortId(0)),
        headers: frame.headers,
        hash: frame.hash,
    };
    let mut cur = Current { meta: &mut meta, bytes: &mut frame.bytes, name: FrameRef::Generated(number) };
    cx.origin = held.origin.unwrap_or(answered_by);
    let verdict = if cx.tables.exists(cx.origin) {
        finish(cx, &mut cur, answered_by, mac)
    } else {
        Verdict::Drop(DropReason::EgressGone)
    };
    cx.origin = answered_by;
    frame.vnet = meta.vnet;
    *cx.out.generated.get_mut(number) = frame;
    match verdict {
        Verdict::Unicast(_) => cx.counters.released += 1,
        _ => cx.counters.expire(held.origin),
    }
    cx.neighbours.recycle(held);
}

/// Nobody answered: the frames that waited are lost, their sources are told.
pub fn give_up<R: Recorder>(cx: &mut Context<'_, R>, lost: Vec<Held>) {
    for held in lost {
        cx.counters.expire(held.origin);
        if let Some(origin) = held.origin
            && cx.tables.exists(origin)
        {
            cx.origin = origin;
            icmp::about(cx, icmp::Error::HostUnreachable, &held.frame.bytes, &held.frame.headers);
        }
        cx.neighbours.recycle(held);
    }
}

/// Where held frames came from or belong to is gone: they are lost, and there is nobody to tell.
pub fn abandon(counters: &mut super::CounterTable, neighbours: &mut super::Neighbours, lost: Vec<Held>) {
    for held in lost {
        counters.expire(held.origin);
        neighbours.recycle(held);
    }
}
