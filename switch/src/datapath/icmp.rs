//! ICMP: when an error is due, to whom, how often; and the gateway's echo.
//!
//! Errors are never sent about errors, about later fragments, about packets to a group, or to a source that is
//! no single host (RFC 1122 3.2.2, RFC 4443 2.4(e)). They are limited by two token buckets: one per origin, so
//! that one pod cannot use up everybody's share, and one for the node.

use super::context::{Context, Current};
use super::reply;
use super::trace::{Recorder, Step};
use super::verdict::{DropReason, Egress, PeerId, PortId, Verdict};
use packet::{Fragment, GsoType, Headers, MacAddr, Net, VnetHdr, checksum, ip_proto};
use std::net::IpAddr;

/// Errors per second for the whole node, and how many may come at once (Linux: icmp_msgs_per_sec, icmp_msgs_burst).
const NODE_RATE: Rate = Rate { per_second: 1000, burst: 50 };
/// Errors per second for one port or peer.
const ORIGIN_RATE: Rate = Rate { per_second: 100, burst: 20 };

#[derive(Clone, Copy)]
struct Rate {
    per_second: u64,
    burst: u64,
}

/// A token bucket in thousandths of a token; full at first use.
#[derive(Clone, Copy, Default)]
struct Bucket {
    spent: u64,
    last_ms: u64,
}

impl Bucket {
    fn take(&mut self, rate: Rate, now_ms: u64) -> bool {
        // One token per second is one thousandth per millisecond.
        let earned = now_ms.saturating_sub(self.last_ms).saturating_mul(rate.per_second);
        self.spent = self.spent.saturating_sub(earned);
        self.last_ms = now_ms;
        let fits = self.spent + 1000 <= rate.burst * 1000;
        if fits {
            self.spent += 1000;
        }
        fits
    }
}

/// Rate limit of ICMP errors.
#[derive(Clone, Default)]
pub struct Limiter {
    node: Bucket,
    ports: Vec<Bucket>,
    peers: Vec<Bucket>,
}

impl Limiter {
    fn allow(&mut self, origin: Egress, now_ms: u64) -> bool {
        let (list, at) = match origin {
            Egress::Port(PortId(at)) => (&mut self.ports, at as usize),
            Egress::Peer(PeerId(at)) => (&mut self.peers, at as usize),
        };
        if at >= list.len() {
            list.resize(at + 1, Bucket::default());
        }
        // The origin's own share first: a pod over its limit does not touch the node's.
        list[at].take(ORIGIN_RATE, now_ms) && self.node.take(NODE_RATE, now_ms)
    }
}

/// What to complain about.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Error {
    /// TTL or hop limit exceeded in transit.
    TimeExceeded,
    /// No route.
    NoRoute,
    /// Next hop does not answer.
    HostUnreachable,
    /// An unreachable route.
    Prohibited,
    /// Nothing listens there.
    PortUnreachable,
    /// Does not fit into this MTU (bytes of IP packet).
    TooBig(u32),
}

impl Error {
    /// ICMP type, code and the word after the checksum.
    const fn on_the_wire(self, v4: bool) -> (u8, u8, u32) {
        match (self, v4) {
            (Self::TimeExceeded, true) => (11, 0, 0),
            (Self::TimeExceeded, false) => (3, 0, 0),
            (Self::NoRoute, true) => (3, 0, 0),
            (Self::NoRoute, false) => (1, 0, 0),
            (Self::HostUnreachable, true) => (3, 1, 0),
            (Self::HostUnreachable, false) => (1, 3, 0),
            (Self::Prohibited, true) => (3, 13, 0),
            (Self::Prohibited, false) => (1, 1, 0),
            (Self::PortUnreachable, true) => (3, 3, 0),
            (Self::PortUnreachable, false) => (1, 4, 0),
            (Self::TooBig(mtu), true) => (3, 4, mtu & 0xffff),
            (Self::TooBig(mtu), false) => (2, 0, mtu),
        }
    }
}

/// Sends an error about the current frame back to where it came from, if one is due.
#[cold]
pub fn error<R: Recorder>(cx: &mut Context<'_, R>, cur: &Current<'_>, what: Error) {
    about(cx, what, cur.bytes, &cur.meta.headers);
}

/// Sends an error about a frame that came from `cx.origin` on `cx.network`, if one is due.
#[cold]
pub fn about<R: Recorder>(cx: &mut Context<'_, R>, what: Error, frame: &[u8], headers: &Headers) {
    let (Some(to), Some(original_dst)) = (headers.src_ip(frame), headers.dst_ip(frame)) else { return };
    if !due(frame, headers, to, original_dst, what) {
        return;
    }
    let Some(from) = speaker(cx, to, original_dst, what) else { return };
    if !cx.limiter.allow(cx.origin, cx.now_ms) {
        cx.counters.icmp_limited += 1;
        return;
    }
    let (kind, code, field) = what.on_the_wire(to.is_ipv4());
    let macs = (cx.own_mac(cx.origin), Headers::src_mac(frame));
    let made = cx.generate(VnetHdr::default(), |out| {
        reply::icmp_error(out, macs, (from, to), (kind, code), field, frame, headers);
    });
    if let Some(made) = made {
        cx.rec.step(|| Step::IcmpError { kind, code });
        cx.post(cx.origin, made);
    }
}

/// In whose name an error is sent: the gateway's where possible.
///
/// The node takes nothing that claims to come from an address of its own, and the gateway's is one as a rule. And
/// on a network without a gateway a source must be told of a size all the same. In both cases the destination
/// speaks: its address is the only one that the source is sure to accept (it looks at the quoted packet, not at who
/// says so).
fn speaker<R>(cx: &Context<'_, R>, to: IpAddr, original_dst: IpAddr, what: Error) -> Option<IpAddr> {
    let by_node = cx.sent_by_node();
    let accepted = |ip: &IpAddr| !(by_node && cx.network.node_ips.contains(ip));
    let stand_in = (by_node || matches!(what, Error::TooBig(_))) && !original_dst.is_multicast();
    let gateway = cx.network.gateway_ip(to).filter(accepted);
    gateway.or_else(|| stand_in.then_some(original_dst).filter(accepted))
}

fn due(frame: &[u8], headers: &Headers, src: IpAddr, dst: IpAddr, what: Error) -> bool {
    if headers.fragment == Fragment::Later || Headers::src_mac(frame).is_group() {
        return false;
    }
    let single = |ip: IpAddr| !ip.is_multicast() && !ip.is_unspecified() && ip != IpAddr::V4([255; 4].into());
    if !single(src) || src.is_loopback() {
        return false;
    }
    // ICMPv6 alone may answer a group address, and only about size (RFC 4443 2.4(e.3)).
    let group = !single(dst) || Headers::dst_mac(frame).is_group();
    if group && !(headers.net == Net::V6 && matches!(what, Error::TooBig(_))) {
        return false;
    }
    let at = usize::from(headers.l4);
    let kind = if at == 0 { None } else { frame.get(at).copied() };
    match headers.proto {
        ip_proto::ICMP if headers.net == Net::V4 => matches!(kind, Some(0 | 8 | 13 | 14)),
        // 137 is a redirect, RFC 4443 2.4(e.2).
        ip_proto::ICMPV6 => matches!(kind, Some(128..=136 | 138..)),
        _ => true,
    }
}

/// A packet to the gateway's own address: echo is answered in place, everything else refused.
pub fn to_gateway<R: Recorder>(cx: &mut Context<'_, R>, cur: &mut Current<'_>) -> Verdict {
    let headers = cur.meta.headers;
    let at = usize::from(headers.l4);
    let v4 = headers.net == Net::V4;
    let request = match headers.proto {
        ip_proto::ICMP if v4 => 8,
        ip_proto::ICMPV6 if !v4 => 128,
        ip_proto::UDP => {
            error(cx, cur, Error::PortUnreachable);
            return Verdict::Drop(DropReason::ToGateway);
        }
        _ => return Verdict::Drop(DropReason::ToGateway),
    };
    let whole = headers.fragment == Fragment::Whole && at != 0 && headers.end as usize >= at + 8;
    if !whole || cur.bytes[at] != request || cur.bytes[at + 1] != 0 || cur.meta.vnet.gso_type != GsoType::None
    {
        return Verdict::Drop(DropReason::ToGateway);
    }
    let partial = cur.meta.vnet.needs_csum;
    echo(cur.bytes, &headers, if v4 { 0 } else { 129 }, partial, cx.own_mac(cx.origin));
    cx.post(cx.origin, cur.name);
    Verdict::Reply
}

/// Turns an echo request into its reply. Swapping addresses leaves every checksum as it is; the new type changes
/// the ICMP checksum by a known amount, unless it is still to be computed.
fn echo(frame: &mut [u8], headers: &Headers, kind: u8, partial: bool, own: MacAddr) {
    let (l3, l4) = (Headers::L3, usize::from(headers.l4));
    let back = Headers::src_mac(frame);
    frame[..6].copy_from_slice(&back.0);
    frame[6..12].copy_from_slice(&own.0);
    let (src, width) = if headers.net == Net::V4 { (l3 + 12, 4) } else { (l3 + 8, 16) };
    for i in 0..width {
        frame.swap(src + i, src + width + i);
    }
    let old = u16::from_be_bytes([frame[l4], 0]);
    frame[l4] = kind;
    if !partial {
        let field = u16::from_be_bytes([frame[l4 + 2], frame[l4 + 3]]);
        let field = checksum::update(field, old, u16::from_be_bytes([kind, 0]));
        frame[l4 + 2..l4 + 4].copy_from_slice(&field.to_be_bytes());
    }
    // A fresh TTL, and the header checksum to match.
    if headers.net == Net::V4 {
        super::route::set_ttl(frame, 64);
    } else {
        frame[l3 + 7] = 64;
    }
}
