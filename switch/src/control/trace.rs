//! `swctl trace`: one made-up frame through a copy of the data path.
//!
//! The worker hands out a copy of its learned state between two batches; the frame is then processed here, by
//! the same function that forwards, with a recorder attached. Nothing leaves and nothing changes. The copy
//! takes about a millisecond of the worker per 10,000 learned entries.

use std::net::IpAddr;

use ctl::desired::convert::field;
use ctl::error::{ApiError, Reason};
use ctl::proto;
use etherparse::{IpNumber, PacketBuilder};
use packet::{Headers, MacAddr, VnetHdr};

use super::explain::{self, Scene};
use super::service::Names;
use super::{Control, derive};
use crate::datapath::{
    Batch, Datapath, Egress, FrameRef, Ingress, NetId, PeerId, Postbox, Recording, Tables, Verdict,
};

const MAX_SIZE: u32 = 65_535;

/// Where the frame enters.
enum From {
    Port { name: String, id: crate::datapath::PortId, network: NetId, mac: MacAddr, ips: Vec<IpAddr> },
    Peer { id: PeerId, mac: MacAddr, network: Option<NetId> },
}

impl Control {
    pub(super) async fn trace(&self, request: proto::TraceRequest) -> Result<proto::TraceReply, ApiError> {
        let (from, names, node, underlay, answer) = {
            let core = self.core().await;
            let from = entry(&core, &request)?;
            let answer = core.ask(|i| (i.datapath.clone(), i.tables.clone(), i.now_ms))?;
            let underlay = core.settings.underlay.map(|u| u.addr.to_string()).unwrap_or_default();
            (from, Names::of(&core), core.settings.node.clone(), underlay, answer)
        };
        let (mut datapath, tables, now_ms) = answer.get().await?;
        let (frame, note) = match request.what {
            Some(proto::trace_request::What::Frame(frame)) => (frame, None),
            Some(proto::trace_request::What::Flow(flow)) => make(&flow, &from, &datapath, &tables)?,
            None => return Err(ApiError::invalid("trace", "neither a flow nor a frame is given")),
        };
        let (ingress, origin) = match &from {
            From::Port { id, .. } => (Ingress::Port(*id), Egress::Port(*id)),
            From::Peer { id, .. } => (Ingress::Peer { peer: *id, vni: request.vni }, Egress::Peer(*id)),
        };
        let mut batch = Batch::new(1);
        if !batch.push_copy(&frame, VnetHdr::default(), ingress) {
            return Err(ApiError::invalid("trace", format!("a frame of {} bytes is too long", frame.len())));
        }
        let (mut out, mut recording) = (Postbox::default(), Recording::default());
        datapath.process(&tables, now_ms, &mut batch, &mut out, &mut recording);

        let mut scene = Scene { names: &names, tables: &tables, network: None, origin, routed: None };
        let step = |(stage, detail): (&str, String)| proto::TraceStep {
            stage: stage.to_owned(),
            detail,
            node: node.clone(),
        };
        let mut steps: Vec<_> = note.map(|note| step(("trace", note))).into_iter().collect();
        steps.extend(recording.steps.iter().map(|s| step(scene.say(s))));
        let mut reply = proto::TraceReply {
            node: node.clone(),
            packet: explain::packet(&frame),
            steps,
            verdict: 0,
            drop_reason: String::new(),
            drop_stage: String::new(),
            hint: String::new(),
            outputs: outputs(&out, &batch, &tables, &names, &underlay),
            generation: self.core().await.applied_generation(tables.generation),
        };
        use proto::TraceVerdict as V;
        let verdict = match recording.verdicts.first() {
            Some(Verdict::Unicast(_)) => V::Forwarded,
            Some(Verdict::Flood(_)) => V::Flooded,
            Some(Verdict::Reply | Verdict::Consumed) => V::Answered,
            Some(Verdict::Held) => V::Queued,
            Some(Verdict::Drop(reason)) => {
                reply.drop_reason = reason.word().to_owned();
                reply.drop_stage = reason.stage().to_owned();
                reply.hint = explain::hint(*reason).to_owned();
                reply.steps.push(step((
                    reason.stage(),
                    format!("dropped, {}: {}", reason.word(), reason.describe()),
                )));
                V::Dropped
            }
            None => V::Unspecified,
        };
        for output in reply.outputs.iter().filter(|o| !o.underlay_dst.is_empty()) {
            if let Some(detail) = wrapped(output, &out, &tables) {
                reply.steps.push(step(("encap", detail)));
            }
        }
        reply.verdict = verdict.into();
        Ok(reply)
    }
}

fn entry(core: &super::Core, request: &proto::TraceRequest) -> Result<From, ApiError> {
    use proto::trace_request::From as F;
    let network = || core.tables().by_vni.get(&request.vni).copied();
    match &request.from {
        Some(F::Port(name)) => {
            let Some(port) = core.desired.ports.iter().find(|p| p.name == *name) else {
                return Err(ApiError::no_port(name));
            };
            let up = core.up(name).and_then(|up| Some((up.id, core.tables().port(up.id)?.network)));
            let Some((id, network)) = up else {
                return Err(ApiError::new(Reason::Conflict, format!("port {name} is not up"))
                    .hint(format!("see why: swctl port show {name}")));
            };
            let ips = port.ips.iter().map(ipnet::IpNet::addr).collect();
            Ok(From::Port {
                name: name.clone(),
                id,
                network,
                mac: derive::port_mac(&core.settings, port),
                ips,
            })
        }
        Some(F::Peer(name)) => {
            let Some(peer) = core.desired.peers.iter().find(|p| p.name == *name) else {
                return Err(ApiError::no_peer(name));
            };
            // A peer that cannot be reached is to the data path as if it were not listed.
            let id = PeerId(core.ids.peers.get(name).unwrap_or(u32::MAX));
            Ok(From::Peer { id, mac: derive::peer_mac(peer), network: network() })
        }
        Some(F::Underlay(text)) => {
            let ip: IpAddr = field("trace", text)?;
            let id = core.tables().by_remote.get(&ip).copied().unwrap_or(PeerId(u32::MAX));
            Ok(From::Peer { id, mac: crate::datapath::router_mac(ip), network: network() })
        }
        None => Err(ApiError::invalid("trace", "no port, peer or underlay address to start from is given")),
    }
}

/// Makes the frame of a flow; with a note when it is not the frame of the flow itself.
fn make(
    flow: &proto::TraceFlow,
    from: &From,
    datapath: &Datapath,
    tables: &Tables,
) -> Result<(Vec<u8>, Option<String>), ApiError> {
    let dst: IpAddr = field("trace: destination", &flow.destination)?;
    let src = source(flow, from, dst)?;
    if src.is_ipv4() != dst.is_ipv4() {
        return Err(ApiError::invalid("trace", format!("{src} and {dst} are of different address families")));
    }
    let (network, mac) = match from {
        From::Port { network, mac, .. } => (Some(*network), *mac),
        From::Peer { network, mac, .. } => (*network, *mac),
    };
    let network = network.and_then(|id| tables.network(id));
    let gateway = network.map_or(tables.node.router_mac, |n| n.gateway_mac);
    let on_link = network.is_some_and(|n| {
        n.is_gateway_ip(dst) || matches!(n.fib.lookup(dst), Some((_, crate::datapath::Target::Connected)))
    });
    let neighbour = network.and_then(|n| {
        let fixed = n.neighbours.get(&dst).map(|a| a.mac);
        let learned = || datapath.neighbours().iter().find(|e| e.network == n.id && e.ip == dst)?.mac;
        fixed.or_else(learned)
    });
    let dst_mac = match (from, on_link) {
        _ if dst.is_multicast() => group_mac(dst),
        _ if network.is_some_and(|n| n.is_gateway_ip(dst)) => gateway,
        (From::Peer { .. }, _) => neighbour.filter(|_| on_link).unwrap_or(tables.node.router_mac),
        (From::Port { .. }, false) => gateway,
        (From::Port { .. }, true) => match neighbour {
            Some(mac) => mac,
            None => {
                let note = format!(
                    "the pod does not know the MAC of {dst} and asks for it first; this is that frame"
                );
                return Ok((question(mac, src, dst)?, Some(note)));
            }
        },
    };
    Ok((build(flow, (mac, dst_mac), (src, dst))?, None))
}

fn source(flow: &proto::TraceFlow, from: &From, dst: IpAddr) -> Result<IpAddr, ApiError> {
    if !flow.source.is_empty() {
        return field("trace: source", &flow.source);
    }
    match from {
        From::Port { name, ips, .. } => {
            ips.iter().copied().find(|ip| ip.is_ipv4() == dst.is_ipv4()).ok_or_else(|| {
                let family = if dst.is_ipv4() { "IPv4" } else { "IPv6" };
                ApiError::invalid("trace", format!("port {name} has no {family} address"))
                    .hint("give the source address of the packet")
            })
        }
        From::Peer { .. } => Err(ApiError::invalid("trace", "a packet from a peer needs a source address")),
    }
}

fn group_mac(ip: IpAddr) -> MacAddr {
    match ip {
        IpAddr::V4(ip) => {
            let [_, b, c, d] = ip.octets();
            MacAddr([1, 0, 0x5e, b & 0x7f, c, d])
        }
        IpAddr::V6(ip) => {
            let [.., a, b, c, d] = ip.octets();
            MacAddr([0x33, 0x33, a, b, c, d])
        }
    }
}

fn broken(e: impl std::fmt::Display) -> ApiError {
    ApiError::new(Reason::Internal, format!("trace: cannot make the frame: {e}"))
}

/// The ARP request or neighbour solicitation for `dst`.
fn question(mac: MacAddr, src: IpAddr, dst: IpAddr) -> Result<Vec<u8>, ApiError> {
    let mut frame = Vec::new();
    match (src, dst) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => {
            let arp = etherparse::ArpPacket::new(
                etherparse::ArpHardwareId::ETHERNET,
                etherparse::EtherType::IPV4,
                etherparse::ArpOperation::REQUEST,
                &mac.0,
                &src.octets(),
                &[0; 6],
                &dst.octets(),
            )
            .map_err(broken)?;
            PacketBuilder::ethernet2(mac.0, MacAddr::BROADCAST.0)
                .arp(arp)
                .write(&mut frame)
                .map_err(broken)?;
        }
        (IpAddr::V6(src), IpAddr::V6(dst)) => {
            let [.., x, y, z] = dst.octets();
            let group =
                std::net::Ipv6Addr::from_octets([0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, x, y, z]);
            let mut body = dst.octets().to_vec();
            body.extend([1, 1]);
            body.extend(mac.0);
            PacketBuilder::ethernet2(mac.0, group_mac(group.into()).0)
                .ipv6(src.octets(), group.octets(), 255)
                .icmpv6_raw(135, 0, [0; 4])
                .write(&mut frame, &body)
                .map_err(broken)?;
        }
        _ => return Err(broken("mixed address families")),
    }
    Ok(frame)
}

fn build(
    flow: &proto::TraceFlow,
    macs: (MacAddr, MacAddr),
    ips: (IpAddr, IpAddr),
) -> Result<Vec<u8>, ApiError> {
    let port = |what: &str, v: u32, default: u16| match u16::try_from(v) {
        Ok(0) => Ok(default),
        Ok(v) => Ok(v),
        Err(_) => Err(ApiError::invalid("trace", format!("{what} {v} is out of range: at most 65535"))),
    };
    let (sport, dport) =
        (port("source port", flow.sport, 40_000)?, port("destination port", flow.dport, 80)?);
    let ttl = match u8::try_from(flow.ttl) {
        Ok(0) => 64,
        Ok(ttl) => ttl,
        Err(_) => {
            return Err(ApiError::invalid("trace", format!("TTL {} is out of range: at most 255", flow.ttl)));
        }
    };
    let ethernet = PacketBuilder::ethernet2(macs.0.0, macs.1.0);
    let ip = match ips {
        (IpAddr::V4(src), IpAddr::V4(dst)) => {
            let mut header = etherparse::Ipv4Header::new(0, ttl, IpNumber::TCP, src.octets(), dst.octets())
                .map_err(broken)?;
            header.dont_fragment = true;
            ethernet.ip(etherparse::IpHeaders::Ipv4(header, etherparse::Ipv4Extensions::default()))
        }
        (IpAddr::V6(src), IpAddr::V6(dst)) => ethernet.ipv6(src.octets(), dst.octets(), ttl),
        _ => return Err(broken("mixed address families")),
    };
    let v4 = ips.0.is_ipv4();
    let mut frame = Vec::new();
    let payload = |headers: usize| -> Result<Vec<u8>, ApiError> {
        let least = headers - packet::ETHERNET_LEN;
        match flow.size {
            0 => Ok(Vec::new()),
            n if n > MAX_SIZE => {
                Err(ApiError::invalid("trace", format!("size {n} is out of range: at most {MAX_SIZE}")))
            }
            n if (n as usize) < least => {
                Err(ApiError::invalid("trace", format!("size {n} is less than the headers: {least}")))
            }
            n => Ok(vec![0; n as usize - least]),
        }
    };
    match proto::IpProto::try_from(flow.proto).unwrap_or(proto::IpProto::Unspecified) {
        proto::IpProto::Tcp => {
            let step = ip.tcp(sport, dport, 1, 64_240).syn();
            let payload = payload(step.size(0))?;
            step.write(&mut frame, &payload).map_err(broken)?;
        }
        proto::IpProto::Udp => {
            let step = ip.udp(sport, dport);
            let payload = payload(step.size(0))?;
            step.write(&mut frame, &payload).map_err(broken)?;
        }
        proto::IpProto::Unspecified | proto::IpProto::Icmp if v4 => {
            let step = ip.icmpv4_echo_request(1, 1);
            let payload = payload(step.size(0))?;
            step.write(&mut frame, &payload).map_err(broken)?;
        }
        proto::IpProto::Unspecified | proto::IpProto::Icmp => {
            let step = ip.icmpv6_echo_request(1, 1);
            let payload = payload(step.size(0))?;
            step.write(&mut frame, &payload).map_err(broken)?;
        }
    }
    Ok(frame)
}

/// How a frame to a peer is wrapped.
fn wrapped(output: &proto::TraceOutput, out: &Postbox, tables: &Tables) -> Option<String> {
    let peer = out.touched().iter().find_map(|egress| match egress {
        Egress::Peer(id) => tables.peer(*id).filter(|p| p.remote.to_string() == output.underlay_dst),
        Egress::Port(_) => None,
    })?;
    let outer = output.frame.len() - packet::ETHERNET_LEN.min(output.frame.len())
        + peer.encap.overhead(peer.remote.is_ipv6());
    Some(format!(
        "{} VNI {}, {} > {} port {}, {outer} bytes on the underlay",
        peer.encap, output.vni, output.underlay_src, output.underlay_dst, peer.port
    ))
}

fn outputs(
    out: &Postbox,
    batch: &Batch,
    tables: &Tables,
    names: &Names,
    underlay: &str,
) -> Vec<proto::TraceOutput> {
    let mut list = Vec::new();
    for &egress in out.touched() {
        for posted in out.list(egress) {
            let frame = match posted.frame {
                FrameRef::Received(n) => batch.frames.get(usize::from(n)).map(|f| batch.bytes(f).to_vec()),
                FrameRef::Generated(n) => Some(out.generated.get(n).bytes.clone()),
            };
            let to_peer = match egress {
                Egress::Peer(id) => tables.peer(id).map(|p| p.remote.to_string()),
                Egress::Port(_) => None,
            };
            list.push(proto::TraceOutput {
                target: super::service::target!(trace_output, egress, names),
                vni: posted.vni,
                frame: frame.unwrap_or_default(),
                underlay_src: if to_peer.is_some() { underlay.to_owned() } else { String::new() },
                underlay_dst: to_peer.unwrap_or_default(),
            });
        }
    }
    debug_assert!(list.iter().all(|o| Headers::parse(&o.frame).is_ok()));
    list
}
