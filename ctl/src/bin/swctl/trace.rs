//! `swctl trace`: the journey of one synthetic packet, across nodes where their sockets are known.
//!
//! Each daemon traces its own part. Where a copy leaves for a peer whose socket was given, the frame is
//! handed to that daemon as if it came from our underlay address, and the numbering goes on. At most
//! [`MAX_HOPS`] daemons are asked, so a loop between nodes ends.

use std::collections::VecDeque;
use std::net::IpAddr;
use std::path::PathBuf;

use clap::{ArgGroup, ValueEnum};
use ctl::client::BlockingClient;
use ctl::error::{ApiError, Reason};
use ctl::proto::{self, TraceVerdict, trace_output::Target, trace_request::From, trace_request::What};
use packet::Vni;
use serde::Serialize;

use crate::args::{parse_name, parse_pair, parse_text};
use crate::context::{Context, Done, Failure, Outcome};

/// Most traces that one command asks for.
const MAX_HOPS: usize = 16;

#[derive(clap::Args, Debug)]
#[command(group = ArgGroup::new("source").required(true).args(["from", "from_peer"]))]
#[command(group = ArgGroup::new("what").required(true).args(["to", "frame"]))]
pub struct Args {
    /// Port it enters from
    #[arg(long, value_name = "PORT", value_parser = parse_name)]
    from: Option<String>,
    /// Peer it enters from, instead of a port
    #[arg(long, value_name = "PEER", requires = "vni", value_parser = parse_name)]
    from_peer: Option<String>,
    /// Network it has in the tunnel
    #[arg(long, conflicts_with = "from")]
    vni: Option<Vni>,
    /// Destination address
    #[arg(long, value_name = "IP", value_parser = parse_text::<IpAddr>)]
    to: Option<IpAddr>,
    /// An Ethernet frame in hexadecimal, instead of a packet to be made up
    #[arg(long, value_name = "HEX", value_parser = parse_hex)]
    frame: Option<Hex>,
    /// Source address; default: that of the port
    #[arg(long, value_name = "IP", requires = "to", value_parser = parse_text::<IpAddr>)]
    src: Option<IpAddr>,
    #[arg(long, value_enum, default_value_t = Proto::Icmp, conflicts_with = "frame")]
    proto: Proto,
    /// Source port; default 40000
    #[arg(long, requires = "to")]
    sport: Option<u16>,
    /// Destination port; default 80
    #[arg(long, requires = "to")]
    dport: Option<u16>,
    /// Time to live; default 64
    #[arg(long, requires = "to", value_parser = clap::value_parser!(u8).range(1..))]
    ttl: Option<u8>,
    /// Length of the IP packet; default: the smallest
    #[arg(long, requires = "to")]
    size: Option<u16>,
    /// Where the daemon of a peer listens, to follow the packet there; repeatable
    #[arg(long = "peer-socket", value_name = "PEER=PATH", value_parser = parse_pair)]
    peer_sockets: Vec<(String, String)>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Proto {
    Icmp,
    Tcp,
    Udp,
}

#[derive(Clone, Debug)]
struct Hex(Vec<u8>);

/// Pairs of digits; spaces, colons and line ends between them are ignored.
fn parse_hex(text: &str) -> Result<Hex, String> {
    let digits: Vec<u8> = text.bytes().filter(|b| !b.is_ascii_whitespace() && *b != b':').collect();
    let value = |b: u8| char::from(b).to_digit(16).and_then(|v| u8::try_from(v).ok());
    let pair = |p: &[u8]| match p {
        [a, b] => Some(value(*a)? << 4 | value(*b)?),
        _ => None,
    };
    let bytes: Option<Vec<u8>> = digits.chunks(2).map(pair).collect();
    match bytes {
        Some(bytes) if bytes.len() >= packet::ETHERNET_LEN => Ok(Hex(bytes)),
        _ => Err(format!("expected at least {} bytes in hexadecimal", packet::ETHERNET_LEN)),
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

#[derive(Serialize)]
struct View {
    packet: String,
    steps: Vec<Step>,
    verdict: &'static str,
    node: String,
    delivered: Vec<Delivery>,
    drop_reason: Option<String>,
    drop_stage: Option<String>,
    hint: Option<String>,
    outputs: Vec<Output>,
}

#[derive(Serialize)]
struct Step {
    node: String,
    stage: String,
    detail: String,
}

#[derive(Clone, Serialize)]
struct Delivery {
    node: String,
    port: String,
}

#[derive(Serialize)]
struct Output {
    node: String,
    dev: Option<String>,
    vni: u32,
    underlay_src: Option<String>,
    underlay_dst: Option<String>,
    frame: String,
}

/// How the journey ended, the strongest of all its branches.
#[derive(Default)]
struct Journey {
    packet: Option<String>,
    steps: Vec<Step>,
    delivered: Vec<Delivery>,
    /// Copies that left for a peer whose daemon was not asked: node, peer.
    sent: Vec<(String, String)>,
    /// Node of the first reply that says so.
    answered: Option<String>,
    queued: Option<String>,
    dropped: Option<(String, proto::TraceReply)>,
    outputs: Vec<Output>,
}

impl Journey {
    /// Takes in one daemon's part and returns the copies that leave its node.
    fn take(&mut self, mut reply: proto::TraceReply) -> Vec<proto::TraceOutput> {
        let node = reply.node.clone();
        self.packet.get_or_insert_with(|| reply.packet.clone());
        for s in std::mem::take(&mut reply.steps) {
            let at = if s.node.is_empty() { node.clone() } else { s.node };
            self.steps.push(Step { node: at, stage: s.stage, detail: s.detail });
        }
        let outputs = std::mem::take(&mut reply.outputs);
        self.outputs.extend(outputs.iter().map(|o| output(&node, o)));
        match reply.verdict() {
            TraceVerdict::Forwarded | TraceVerdict::Flooded => {}
            // Outputs of these are answers, not the packet.
            TraceVerdict::Answered => {
                self.answered.get_or_insert(node);
                return Vec::new();
            }
            TraceVerdict::Queued => {
                self.queued.get_or_insert(node);
                return Vec::new();
            }
            TraceVerdict::Dropped | TraceVerdict::Unspecified => {
                self.dropped.get_or_insert((node, reply));
                return Vec::new();
            }
        }
        let (local, remote): (Vec<_>, Vec<_>) =
            outputs.into_iter().partition(|o| matches!(o.target, Some(Target::Port(_))));
        for o in local {
            if let Some(Target::Port(port)) = o.target {
                self.delivered.push(Delivery { node: node.clone(), port });
            }
        }
        remote
    }

    /// The verdict in words, and whether it is good.
    fn verdict(&self) -> (&'static str, String, bool) {
        let list = |items: Vec<String>| items.join(", ");
        if !self.delivered.is_empty() {
            let ports = self.delivered.iter().map(|d| format!("port {} at {}", d.port, d.node)).collect();
            return ("delivered", format!("DELIVERED to {}", list(ports)), true);
        }
        if let Some((node, reply)) = &self.dropped {
            let (stage, reason) = (&reply.drop_stage, &reply.drop_reason);
            return ("dropped", format!("DROPPED at {node}, stage {stage} ({reason})"), false);
        }
        if !self.sent.is_empty() {
            let peers = self.sent.iter().map(|(node, peer)| format!("peer {peer} by {node}")).collect();
            return ("sent", format!("SENT to {}", list(peers)), true);
        }
        if let Some(node) = &self.answered {
            return ("answered", format!("ANSWERED by {node}"), true);
        }
        match &self.queued {
            Some(node) => ("queued", format!("QUEUED at {node}, until a neighbour answers"), true),
            None => ("dropped", "DROPPED: it has no output".to_owned(), false),
        }
    }
}

fn output(node: &str, o: &proto::TraceOutput) -> Output {
    let text = |t: &str| Some(t.to_owned()).filter(|t| !t.is_empty());
    let dev = match &o.target {
        Some(Target::Port(port)) => Some(port.clone()),
        Some(Target::Peer(peer)) => Some(format!("@{peer}")),
        None => None,
    };
    Output {
        node: node.to_owned(),
        dev,
        vni: o.vni,
        underlay_src: text(&o.underlay_src),
        underlay_dst: text(&o.underlay_dst),
        frame: hex(&o.frame),
    }
}

fn request(args: &Args) -> Result<proto::TraceRequest, Failure> {
    let from = match (&args.from, &args.from_peer) {
        (Some(port), None) => From::Port(port.clone()),
        (None, Some(peer)) => From::Peer(peer.clone()),
        _ => return Err(Failure::Usage("expected one of --from and --from-peer".to_owned())),
    };
    if matches!(args.proto, Proto::Icmp) && (args.sport.is_some() || args.dport.is_some()) {
        return Err(Failure::Usage("--sport and --dport need --proto tcp or udp".to_owned()));
    }
    let text = |ip: Option<IpAddr>| ip.map(|ip| ip.to_string()).unwrap_or_default();
    let proto = match args.proto {
        Proto::Icmp => proto::IpProto::Icmp,
        Proto::Tcp => proto::IpProto::Tcp,
        Proto::Udp => proto::IpProto::Udp,
    };
    let what = match &args.frame {
        Some(Hex(bytes)) => What::Frame(bytes.clone()),
        None => What::Flow(proto::TraceFlow {
            destination: text(args.to),
            source: text(args.src),
            proto: proto.into(),
            sport: args.sport.unwrap_or(0).into(),
            dport: args.dport.unwrap_or(0).into(),
            ttl: args.ttl.unwrap_or(0).into(),
            size: args.size.unwrap_or(0).into(),
        }),
    };
    Ok(proto::TraceRequest { from: Some(from), vni: args.vni.map_or(0, Vni::get), what: Some(what) })
}

fn follow(args: &Args, context: &mut Context) -> Result<Journey, Failure> {
    let mut journey = Journey::default();
    let first = request(args)?;
    let reply = context.call(async |s| s.trace(first).await)?;
    let mut node = reply.node.clone();
    let mut todo: VecDeque<(String, proto::TraceOutput)> =
        journey.take(reply).into_iter().map(|o| (node.clone(), o)).collect();
    let mut asked = 1;
    while let Some((from, copy)) = todo.pop_front() {
        let Some(Target::Peer(peer)) = copy.target else { continue };
        let socket = args.peer_sockets.iter().find(|(name, _)| *name == peer).map(|(_, path)| path);
        let Some(socket) = socket.map(PathBuf::from) else {
            journey.sent.push((from, peer));
            continue;
        };
        if asked == MAX_HOPS {
            let e = ApiError::new(Reason::Limit, format!("the packet crosses more than {MAX_HOPS} nodes"));
            return Err(e.hint("look for a routing loop between the peers").into());
        }
        asked += 1;
        let request = proto::TraceRequest {
            from: Some(From::Underlay(copy.underlay_src)),
            vni: copy.vni,
            what: Some(What::Frame(copy.frame)),
        };
        let reply = BlockingClient::connect(&socket, context.global.timeout)?
            .call(async |s| s.trace(request).await)?;
        node = reply.node.clone();
        todo.extend(journey.take(reply).into_iter().map(|o| (node.clone(), o)));
    }
    Ok(journey)
}

pub fn run(mut args: Args, context: &mut Context) -> Done {
    args.from = args.from.take().map(|name| context.port(name)).transpose()?;
    let mut journey = follow(&args, context)?;
    let (verdict, sentence, good) = journey.verdict();
    let dropped = journey.dropped.take().filter(|_| !good);
    let outcome = if good { Outcome::Done } else { Outcome::Problems };
    if context.print.json {
        let text = |t: &str| Some(t.to_owned()).filter(|t| !t.is_empty());
        let reply = dropped.as_ref().map(|(_, reply)| reply);
        let last = journey.steps.last().map(|s| s.node.clone()).unwrap_or_default();
        context.print.object(&View {
            packet: journey.packet.unwrap_or_default(),
            node: dropped.as_ref().map_or(last, |(node, _)| node.clone()),
            steps: journey.steps,
            verdict,
            delivered: journey.delivered,
            drop_reason: reply.and_then(|r| text(&r.drop_reason)),
            drop_stage: reply.and_then(|r| text(&r.drop_stage)),
            hint: reply.and_then(|r| text(&r.hint)),
            outputs: journey.outputs,
        })?;
        return Ok(outcome);
    }
    if !context.global.no_headers {
        context
            .print
            .line(&format!("synthetic packet  {}  (not sent)", journey.packet.unwrap_or_default()))?;
    }
    let width = |f: fn(&Step) -> &str| journey.steps.iter().map(|s| f(s).chars().count()).max().unwrap_or(0);
    let (node, stage) = (width(|s| &s.node), width(|s| &s.stage));
    for (i, s) in journey.steps.iter().enumerate() {
        let line = format!("{:>2} {:<node$}  {:<stage$}  {}", i + 1, s.node, s.stage, s.detail);
        context.print.line(line.trim_end())?;
    }
    context.print.line(&format!("verdict: {sentence}"))?;
    if let Some((_, reply)) = dropped.filter(|(_, r)| !r.hint.is_empty()) {
        context.print.line(&format!("hint: {}", reply.hint))?;
    }
    Ok(outcome)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_in_hexadecimal() {
        let frame = parse_hex("ff:ff:ff:ff:ff:ff 020000000001 0800\n").unwrap();
        assert_eq!(hex(&frame.0), "ffffffffffff0200000000010800");
        for bad in ["", "ff", "ffffffffffff02000000000108000", "zzffffffffff0200000000010800", "é"] {
            assert!(parse_hex(bad).is_err(), "{bad}");
        }
    }
}
