//! What becomes of a frame.
//!
//! Every frame that enters leaves with exactly one [`Verdict`]. A drop carries a [`DropReason`]: one enum
//! variant is one counter, one word in `swctl drops`, one row in `docs/drops.md`. Outcomes that are not
//! drops are never reasons.

use std::fmt;

/// Index of a port in [`super::Tables::ports`]. Reused after removal; learned state of a removed port is flushed first.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct PortId(pub u32);

/// Index of a peer in [`super::Tables::peers`].
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct PeerId(pub u32);

/// Index of a network in [`super::Tables::networks`].
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct NetId(pub u16);

/// Where a frame can be sent.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub enum Egress {
    /// A local port.
    Port(PortId),
    /// A remote node, through the tunnel.
    Peer(PeerId),
}

/// Where a frame came from, once that is known to be legitimate.
pub type Origin = Egress;

/// The outcome of one frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// Sent to one place.
    Unicast(Egress),
    /// Sent to this many places (possibly none: nobody else is there).
    Flood(u32),
    /// Turned into an answer to its sender (ARP, ND, echo).
    Reply,
    /// Meant for the switch itself, and taken.
    Consumed,
    /// Waits for a neighbour to be resolved.
    Held,
    /// Dropped. An ICMP error may have been sent to the source.
    Drop(DropReason),
}

macro_rules! drop_reasons {
    ($($name:ident = $word:literal, $stage:literal, $text:literal;)*) => {
        /// Why a frame was dropped. The text of each variant is what `swctl drops` explains.
        #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
        #[repr(u8)]
        pub enum DropReason { $(#[doc = $text] $name,)* }

        impl DropReason {
            /// All reasons, in the order of the stages that give them.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// The word used in counters, the CLI and the documents.
            #[must_use]
            pub const fn word(self) -> &'static str { match self { $(Self::$name => $word,)* } }

            /// The stage that drops for this reason: a file of the data path, or `tx`.
            #[must_use]
            pub const fn stage(self) -> &'static str { match self { $(Self::$name => $stage,)* } }

            /// One sentence for people.
            #[must_use]
            pub const fn describe(self) -> &'static str { match self { $(Self::$name => $text,)* } }
        }
    };
}

drop_reasons! {
    NoPort = "no-port", "rx", "The frame came from a port that the tables in force do not know (yet).";
    BadVnet = "bad-vnet", "rx", "The virtio-net header contradicts itself or the frame.";
    RxLimit = "rx-limit", "rx", "The port sends more than its egress limit, and its queue is full.";
    Malformed = "malformed", "parse", "A header is truncated or contradicts itself.";
    TunnelTruncated = "tunnel-truncated", "decap", "A tunnel datagram is shorter than its headers.";
    TunnelBadFlags = "tunnel-bad-flags", "decap", "The VXLAN header has no VNI, or flags that change what the payload is.";
    TunnelBadVersion = "tunnel-bad-version", "decap", "The tunnel header has an unknown version.";
    TunnelBadOption = "tunnel-bad-option", "decap", "A Geneve option overruns the option area.";
    TunnelUnknownCritical = "tunnel-unknown-critical", "decap", "A Geneve option is marked critical and is not understood.";
    TunnelNotEthernet = "tunnel-not-ethernet", "decap", "The tunnel's payload is not an Ethernet frame.";
    TunnelControl = "tunnel-control", "decap", "A Geneve control packet, which is never forwarded.";
    UnknownPeer = "unknown-peer", "decap", "The outer source address is no listed peer.";
    UnknownVni = "unknown-vni", "decap", "The VNI names no network of this node.";
    Nested = "nested", "decap", "A tunnel packet for a node, inside a tunnel packet or from a pod by way of this node.";
    EcnCongestion = "ecn-congestion", "decap", "The outer header says congestion, the inner packet cannot carry that (RFC 6040).";
    PeerSource = "peer-source", "decap", "The inner source address does not belong to the sending peer's pod CIDRs.";
    ControlFrame = "control-frame", "guard", "Sent to 01:80:c2:00:00:0x, which a bridge must not forward.";
    BadSource = "bad-source", "guard", "The Ethernet source is a group or zero address.";
    SpoofedMac = "spoofed-mac", "guard", "The Ethernet source is not the port's, or is the gateway's.";
    SpoofedIp = "spoofed-ip", "guard", "The IP source is not one of the port's declared addresses.";
    SpoofedArp = "spoofed-arp", "guard", "ARP claims a MAC or IP that is not the port's.";
    SpoofedNd = "spoofed-nd", "guard", "Neighbour discovery claims an address or MAC that is not the port's, or is a redirect.";
    RouterAdvert = "router-advert", "guard", "A router advertisement from a port that is no router.";
    DhcpServer = "dhcp-server", "guard", "A DHCP server's answer from a port that is no DHCP server.";
    EtherType = "ether-type", "guard", "Neither ARP nor IP, or VLAN-tagged, from a port with declared addresses.";
    StaticMove = "static-move", "learn", "The source MAC belongs to a static entry elsewhere.";
    Reflection = "reflection", "forward", "The destination is where the frame came from.";
    SplitHorizon = "split-horizon", "forward", "From a peer and to a peer: the tunnel never forwards to itself.";
    UnknownUnicast = "unknown-unicast", "forward", "The destination MAC is unknown and this network does not flood unknown unicast.";
    NotIp = "not-ip", "route", "Sent to the gateway's MAC, but not IP.";
    BadIpChecksum = "bad-ip-checksum", "route", "The IPv4 header checksum is wrong.";
    Martian = "martian", "route", "Source or destination may not be routed (loopback, group, link-local, unspecified).";
    TtlExceeded = "ttl-exceeded", "route", "TTL or hop limit ran out; ICMP time exceeded was due.";
    NoRoute = "no-route", "route", "No route to the destination; ICMP unreachable was due.";
    Blackhole = "blackhole", "route", "A blackhole route matched.";
    Unreachable = "unreachable", "route", "An unreachable route matched; ICMP unreachable was due.";
    ToGateway = "to-gateway", "route", "Addressed to the gateway itself, which offers nothing but echo.";
    NeighbourQueue = "neighbour-queue", "neighbour", "Too many frames wait for this neighbour, or for all.";
    NeighbourFailed = "neighbour-failed", "neighbour", "The next hop did not answer ARP or ND; ICMP host unreachable was due.";
    TooBig = "too-big", "egress", "Larger than the MTU of where it goes; ICMP packet too big was due.";
    NoBuffer = "no-buffer", "egress", "No reply buffer was free in this batch.";
    EgressGone = "egress-gone", "tx", "The port or peer disappeared between decision and sending.";
    TxFull = "tx-full", "tx", "The port's or socket's queue was full.";
    TxLimit = "tx-limit", "tx", "The port is sent more than its ingress limit, and its queue is full.";
    TxDown = "tx-down", "tx", "The port's interface is down.";
    TxOversize = "tx-oversize", "tx", "The underlay refused the size: its MTU is smaller than configured.";
    TxOffload = "tx-offload", "tx", "An offload frame that cannot be cut for an egress that needs it cut.";
    TxError = "tx-error", "tx", "The kernel refused the frame.";
}

impl DropReason {
    /// Number of reasons; counters are arrays of this length.
    pub const COUNT: usize = Self::ALL.len();
}

impl fmt::Display for DropReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_unique_and_numbered_in_order() {
        for (i, reason) in DropReason::ALL.iter().enumerate() {
            assert_eq!(*reason as usize, i);
            assert_eq!(DropReason::ALL.iter().filter(|r| r.word() == reason.word()).count(), 1, "{reason}");
            assert!(reason.describe().ends_with('.'));
        }
    }
}
