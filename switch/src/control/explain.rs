//! What the data path recorded, in sentences with names.

use std::net::IpAddr;

use ipnet::IpNet;
use packet::{Headers, Net, ip_proto};

use super::service::Names;
use crate::datapath::{DropReason, Egress, Guard, NetId, Step, Tables, Target};

/// What the sentences need to know besides the step.
pub struct Scene<'a> {
    /// Names as of the trace.
    pub names: &'a Names,
    /// Tables used.
    pub tables: &'a Tables,
    /// The network of the frame, once known.
    pub network: Option<NetId>,
    /// Where the frame entered.
    pub origin: Egress,
    /// Where it was routed to, once known.
    pub routed: Option<IpAddr>,
}

impl Scene<'_> {
    /// The stage and the sentence of a step.
    pub fn say(&mut self, step: &Step) -> (&'static str, String) {
        let names = self.names;
        match step {
            Step::Decap { origin, network } => {
                self.network = Some(*network);
                let (name, vni) = names.network(*network).unwrap_or(("?", 0));
                (
                    "decap",
                    format!(
                        "from {} ({}), VNI {vni} is network {name}",
                        names.say(*origin),
                        names.remote(*origin)
                    ),
                )
            }
            Step::Guard { guard: Guard::Learning } => {
                ("guard", format!("{} learns: any source may be behind it", names.say(self.origin)))
            }
            Step::Guard { guard: Guard::Declared } => {
                ("guard", format!("source MAC and address are those declared for {}", names.say(self.origin)))
            }
            Step::Guard { guard: Guard::Node } => {
                let port = names.say(self.origin);
                (
                    "guard",
                    format!(
                        "{port} is the node's: any source that is no pod's of this node may send from it"
                    ),
                )
            }
            Step::Learned { mac, moved: false } => {
                ("learn", format!("{mac} is behind {}", names.say(self.origin)))
            }
            Step::Learned { mac, moved: true } => {
                ("learn", format!("{mac} moved to {}", names.say(self.origin)))
            }
            Step::Bridged { dst } if dst.is_group() => {
                ("classify", format!("bridge: {dst} is a group address"))
            }
            Step::Bridged { dst } => ("classify", format!("bridge: destination MAC {dst}")),
            Step::Routed { dst } => {
                self.routed = Some(*dst);
                ("classify", format!("route: sent to the switch's own MAC, destination {dst}"))
            }
            Step::FdbHit { egress, fixed } => {
                let kind = if *fixed { "static" } else { "learned" };
                ("forward", format!("FDB hit ({kind}): {}", self.place(*egress)))
            }
            Step::Flooded { copies } => {
                ("forward", format!("flooded: {}", plural(*copies, "copy", "copies")))
            }
            Step::Fib { length, target } => {
                let prefix = self.routed.and_then(|ip| IpNet::new(ip, *length).ok()).map(|net| net.trunc());
                let prefix = prefix.map_or_else(|| format!("/{length}"), |p| p.to_string());
                let to = match target {
                    Target::Connected => "connected".to_owned(),
                    Target::NextHop(ip) => format!("via {ip}"),
                    Target::Peer(id) => format!("via {}", self.place(Egress::Peer(*id))),
                    Target::Node => "to this node".to_owned(),
                    Target::Blackhole => "blackhole".to_owned(),
                    Target::Unreachable => "unreachable".to_owned(),
                };
                ("route", format!("{prefix} {to}"))
            }
            Step::NodeAddress { ip } => {
                ("node", format!("{ip} is the node's own address: no hop is counted"))
            }
            Step::Neighbour { ip, mac } => ("resolve", format!("{ip} is at {mac}")),
            Step::Resolving { ip } => ("resolve", format!("{ip} is not known: asking, the frame waits")),
            Step::Answered { ip, mac } => (
                if ip.is_ipv4() { "arp" } else { "nd" },
                format!("answered from the tables: {ip} is at {mac}"),
            ),
            Step::IcmpError { kind, code } => {
                ("icmp", format!("error to the source: type {kind} code {code}"))
            }
            Step::Mtu { packet, mtu } if packet <= mtu => ("egress", format!("{packet} bytes fit MTU {mtu}")),
            Step::Mtu { packet, mtu } => ("egress", format!("{packet} bytes exceed MTU {mtu}")),
        }
    }

    fn place(&self, egress: Egress) -> String {
        match egress {
            Egress::Port(_) => self.names.say(egress),
            Egress::Peer(id) => {
                let encap = self.tables.peer(id).map(|p| format!(" ({}, {})", p.remote, p.encap));
                format!("{}{}", self.names.say(egress), encap.unwrap_or_default())
            }
        }
    }
}

fn plural(n: u32, one: &str, many: &str) -> String {
    format!("{n} {}", if n == 1 { one } else { many })
}

/// A frame in words.
pub fn packet(frame: &[u8]) -> String {
    let Ok(headers) = Headers::parse(frame) else {
        return format!("a frame of {} bytes that cannot be read", frame.len());
    };
    let macs = format!("{} > {}", Headers::src_mac(frame), Headers::dst_mac(frame));
    let ip = headers.src_ip(frame).zip(headers.dst_ip(frame));
    let size = frame.len() - packet::ETHERNET_LEN.min(frame.len());
    let body = match (headers.net, ip) {
        (Net::Arp, _) => {
            let ip = |at: usize| packet::read_v4(frame, Headers::L3 + at);
            match frame[Headers::L3 + 7] {
                1 => format!("ARP who has {} tell {}", ip(24), ip(14)),
                _ => format!("ARP {} is at {}", ip(14), packet::MacAddr::read(frame, Headers::L3 + 8)),
            }
        }
        (_, Some((src, dst))) => {
            let l4 = usize::from(headers.l4);
            match headers.proto {
                ip_proto::TCP if l4 != 0 => {
                    format!("TCP {} > {}", host(src, headers.sport), host(dst, headers.dport))
                }
                ip_proto::UDP if l4 != 0 => {
                    format!("UDP {} > {}", host(src, headers.sport), host(dst, headers.dport))
                }
                ip_proto::ICMP if l4 != 0 => format!("ICMP {src} > {dst} type {}", frame[l4]),
                ip_proto::ICMPV6 if l4 != 0 => format!("ICMPv6 {src} > {dst} type {}", frame[l4]),
                proto => format!("IP protocol {proto} {src} > {dst}"),
            }
        }
        _ => format!("EtherType {:#06x}", u16::from_be_bytes([frame[12], frame[13]])),
    };
    format!("{macs}, {body}, {size} bytes")
}

fn host(ip: IpAddr, port: u16) -> String {
    std::net::SocketAddr::new(ip, port).to_string()
}

/// What to do about a drop; empty when the reason says all.
pub fn hint(reason: DropReason) -> &'static str {
    use DropReason as R;
    match reason {
        R::NoPort => "is the port up? swctl port show",
        R::UnknownPeer => "declare the sender: swctl peer add",
        R::UnknownVni => "declare the network with this VNI on this node: swctl network add",
        R::PeerSource => "add the address to the peer's --pod-cidr, or declare the peer without one",
        R::SpoofedMac | R::SpoofedIp | R::SpoofedArp | R::SpoofedNd => {
            "declare what the pod may use with --mac and --ip, or declare the port as --learning"
        }
        R::EtherType | R::RouterAdvert | R::DhcpServer => {
            "if the pod is meant to do this, declare the port as --learning"
        }
        R::StaticMove => "the MAC belongs to a declared port or a static entry: swctl fdb show",
        R::SplitHorizon => "peers reach each other directly: declare each on the other's node",
        R::UnknownUnicast => "add a static entry (swctl fdb add), or let the network flood",
        R::NoRoute => "swctl route show; a peer's pods need its --pod-cidr",
        R::Blackhole | R::Unreachable => "swctl route show",
        R::ToGateway => "the gateway answers ARP, ND and echo only",
        R::NeighbourFailed => "is the destination up? swctl port show on its node",
        R::TooBig | R::TxOversize => "lower the network's MTU, or raise the underlay's",
        R::TtlExceeded => "is there a routing loop?",
        R::EgressGone | R::TxDown => "swctl port show, swctl peer show",
        _ => "",
    }
}
