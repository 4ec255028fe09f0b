//! ARP (RFC 826): answered from the tables where the answer is known, bridged where it is not.
//!
//! A broadcast to thousands of ports for an address that the control plane knows is a waste and a leak. The
//! gateway's addresses, declared addresses, recently heard ones, and addresses that are routed to a peer or the
//! node although they lie in the subnet are answered here; unicast requests (a host checking a neighbour it knows)
//! go to that neighbour.
//!
//! Nobody speaks against the tables: a claim to the gateway's address, to one of the node's or to a declared one
//! would be flooded and believed. The node alone may ask in the gateway's name, if that address is its own; since
//! whoever heard the question would take the node's MAC for the gateway's, the switch always answers it, and
//! with the gateway's MAC what the tables do not know: the router finds it.

use super::context::{Context, Current};
use super::tables::Target;
use super::trace::{Recorder, Step};
use super::verdict::{DropReason, Egress, Verdict};
use super::{classify, forward, resolve};
use packet::{Headers, MacAddr, read_v4};
use std::net::{IpAddr, Ipv4Addr};

const SENDER_MAC: usize = Headers::L3 + 8;
const SENDER_IP: usize = Headers::L3 + 14;
const TARGET_IP: usize = Headers::L3 + 24;

/// Handles an ARP packet whose source has been checked and learned.
pub fn arp<R: Recorder>(cx: &mut Context<'_, R>, cur: &mut Current<'_>) -> Verdict {
    let op = u16::from_be_bytes([cur.bytes[Headers::L3 + 6], cur.bytes[Headers::L3 + 7]]);
    let sender_mac = MacAddr::read(cur.bytes, SENDER_MAC);
    let sender = read_v4(cur.bytes, SENDER_IP);
    let target = read_v4(cur.bytes, TARGET_IP);
    let dst = Headers::dst_mac(cur.bytes);
    let asks = op == 1 && sender != target;
    let Some(as_gateway) = claim(cx, IpAddr::V4(sender), Some(sender_mac), asks) else {
        return Verdict::Drop(DropReason::SpoofedArp);
    };
    let own = classify::is_own_mac(cx.network, &cx.tables.node, dst);
    if op != 1 {
        return if own { Verdict::Consumed } else { forward::bridge(cx, cur) };
    }
    if sender == target {
        // Gratuitous: an announcement, for everybody to hear.
        return forward::bridge(cx, cur);
    }
    match known(cx, IpAddr::V4(target), dst.is_group() || own || as_gateway) {
        // A host probing for its own declared address: nobody else may have it, and the owner is silent.
        Known::At(mac, _) if mac == sender_mac => Verdict::Consumed,
        Known::At(mac, _) => answer(cx, cur, (mac, target), (sender_mac, sender)),
        Known::Silent => Verdict::Consumed,
        Known::No if as_gateway => answer(cx, cur, (cx.network.gateway_mac, target), (sender_mac, sender)),
        Known::No if own => Verdict::Consumed,
        Known::No if dst.is_group() => forward::flood(cx, cur, true),
        Known::No => forward::bridge(cx, cur),
    }
}

/// Judges what an ARP or ND packet says of its sender, `ip` at `mac`, and remembers it: `None` if it must not say so,
/// true if the node `asks` in the gateway's name.
pub fn claim<R: Recorder>(
    cx: &mut Context<'_, R>,
    ip: IpAddr,
    mac: Option<MacAddr>,
    asks: bool,
) -> Option<bool> {
    let of_node = cx.network.node_ips.contains(&ip);
    if cx.network.is_gateway_ip(ip) {
        return (asks && of_node && cx.sent_by_node()).then_some(true);
    }
    let Some(mac) = mac else { return Some(false) };
    let agrees = match cx.network.neighbours.get(&ip) {
        Some(adjacency) => adjacency.mac == mac,
        None => !of_node || cx.sent_by_node(),
    };
    agrees.then(|| {
        resolve::heard(cx, ip, mac, true);
        false
    })
}

/// What the tables know of an address that somebody asks for.
pub enum Known {
    /// It is at this MAC; true if that is the switch itself.
    At(MacAddr, bool),
    /// It is known, and the asker must not be answered by us (it is on the asker's own side).
    Silent,
    /// Nothing.
    No,
}

/// Looks up an address for an ARP or ND question. `ours_to_answer` is false for questions sent to one host.
pub fn known<R: Recorder>(cx: &Context<'_, R>, ip: IpAddr, ours_to_answer: bool) -> Known {
    if cx.sent_by_node() && cx.network.node_ips.contains(&ip) {
        // It looks for others who have its address; nobody has.
        return Known::Silent;
    }
    if cx.network.is_gateway_ip(ip) {
        return Known::At(cx.network.gateway_mac, true);
    }
    if !ours_to_answer {
        return Known::No;
    }
    if let Some(adjacency) = cx.network.neighbours.get(&ip) {
        return Known::At(adjacency.mac, false);
    }
    if let Egress::Peer(_) = cx.origin {
        // A peer asks about hosts behind us; what is behind other peers is for those to answer.
        return Known::No;
    }
    // The route first: what a learning port merely claims must not take traffic from a peer's pods.
    match cx.network.fib.lookup(ip) {
        Some((_, Target::Peer(_))) => return Known::At(cx.network.gateway_mac, true),
        // The default route leads to the node, and hosts of a learning port may have subnets of their own.
        Some((_, Target::Node)) if cx.network.gateways.iter().any(|g| g.contains(&ip)) => {
            return Known::At(cx.network.gateway_mac, true);
        }
        _ => {}
    }
    match cx.neighbours.answer(cx.network.id, ip, cx.now_ms) {
        Some((_, owner)) if owner == cx.origin => Known::Silent,
        Some((mac, _)) => Known::At(mac, false),
        None => Known::No,
    }
}

/// Turns the request into the reply, in place.
fn answer<R: Recorder>(
    cx: &mut Context<'_, R>,
    cur: &mut Current<'_>,
    (mac, ip): (MacAddr, Ipv4Addr),
    (to_mac, to_ip): (MacAddr, Ipv4Addr),
) -> Verdict {
    cx.rec.step(|| Step::Answered { ip: IpAddr::V4(ip), mac });
    let f = &mut *cur.bytes;
    f[..6].copy_from_slice(&to_mac.0);
    f[6..12].copy_from_slice(&mac.0);
    f[Headers::L3 + 7] = 2;
    f[SENDER_MAC..SENDER_MAC + 6].copy_from_slice(&mac.0);
    f[SENDER_IP..SENDER_IP + 4].copy_from_slice(&ip.octets());
    f[TARGET_IP - 6..TARGET_IP].copy_from_slice(&to_mac.0);
    f[TARGET_IP..TARGET_IP + 4].copy_from_slice(&to_ip.octets());
    cx.post(cx.origin, cur.name);
    Verdict::Reply
}
