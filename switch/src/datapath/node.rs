//! The node's own port: the way between pods and the processes of their node, and by the node's kernel (forwarding,
//! masquerade) between pods and the outside.
//!
//! The node owns addresses of the network, as a rule the gateway's among them. What is sent to the gateway then
//! arrives at the node without a hop being counted, because the node is the gateway: a traceroute shows one hop,
//! and a packet whose TTL is 1 is delivered. What a route leads to the node is forwarded as to any next hop.
//! ARP and neighbour discovery for the gateway stay with the switch, with the gateway's MAC, so that every packet
//! comes by here. What must not enter the node stands in [`super::egress`], which bridged frames pass as well.

use super::context::{Context, Current};
use super::tables::NodeAttachment;
use super::trace::{Recorder, Step};
use super::verdict::{DropReason, Egress, Verdict};
use super::{egress, icmp, resolve, route};
use std::net::IpAddr;

/// Hands over a packet that a route leads to the node.
#[inline]
pub fn forward<R: Recorder>(cx: &mut Context<'_, R>, cur: &mut Current<'_>) -> Verdict {
    match cx.network.node {
        Some(_) if cx.sent_by_node() => reflected(cx, cur),
        Some(node) => resolve::finish(cx, cur, Egress::Port(node.port), node.mac),
        None => {
            icmp::error(cx, cur, icmp::Error::NoRoute);
            Verdict::Drop(DropReason::NoRoute)
        }
    }
}

/// Hands over a packet to `ip`, a gateway address that is the node's. It has arrived: no hop is counted.
#[inline]
pub fn deliver<R: Recorder>(
    cx: &mut Context<'_, R>,
    cur: &mut Current<'_>,
    node: NodeAttachment,
    ip: IpAddr,
) -> Verdict {
    if cx.sent_by_node() {
        return reflected(cx, cur);
    }
    cx.rec.step(|| Step::NodeAddress { ip });
    let to = Egress::Port(node.port);
    if let Err(reason) = egress::fit(cx, cur, to) {
        return Verdict::Drop(reason);
    }
    route::readdress(cur, node.mac, cx.own_mac(to));
    cx.post(to, cur.name);
    Verdict::Unicast(to)
}

/// The node sent it here and our routes lead back: the two would play it to and fro until its TTL ran out. The node
/// is told, because to it this is a destination that nobody has.
#[cold]
fn reflected<R: Recorder>(cx: &mut Context<'_, R>, cur: &mut Current<'_>) -> Verdict {
    icmp::error(cx, cur, icmp::Error::NoRoute);
    Verdict::Drop(DropReason::Reflection)
}
