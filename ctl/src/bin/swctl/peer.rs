//! `swctl peer`: remote nodes.

use std::net::{IpAddr, SocketAddr};

use clap::{Args, Subcommand, ValueEnum};
use ctl::desired;
use ctl::desired::text::Text as _;
use ctl::proto;
use ipnet::IpNet;
use packet::MacAddr;
use serde::Serialize;

use crate::args::{parse_name, parse_prefix, parse_text};
use crate::context::{Context, Done, Failure, Outcome};
use crate::port::state_word;
use crate::print::{Row, or_dash, span};
use crate::stats::StatView;

#[derive(Debug, Subcommand)]
pub enum Verb {
    /// List peers (default)
    Show {
        /// All when none is named
        names: Vec<String>,
    },
    /// Make a tunnel to a remote node
    Add(Add),
    /// Delete a peer that no route or static entry names
    #[command(visible_alias = "delete")]
    Del {
        name: String,
        /// A missing peer is no error
        #[arg(long)]
        if_exists: bool,
    },
    /// Counters; rx is what came from the peer
    Stats {
        /// All when none is named
        names: Vec<String>,
    },
}

impl Default for Verb {
    fn default() -> Self {
        Self::Show { names: Vec::new() }
    }
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum Encap {
    Vxlan,
    Geneve,
}

#[derive(Args, Debug)]
pub struct Add {
    #[arg(value_parser = parse_name)]
    name: String,
    /// Underlay address of the remote node, with UDP port where it is not that of the encapsulation
    #[arg(long, value_name = "IP[:PORT]", value_parser = parse_remote)]
    remote: (IpAddr, Option<u16>),
    /// UDP port; default 4789 for VXLAN, 6081 for Geneve
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..))]
    port: Option<u16>,
    /// What is spoken with it
    #[arg(long, value_enum, default_value_t = Encap::Vxlan)]
    encap: Encap,
    /// Pod addresses that live there: routed to it, and the only sources accepted from it; repeatable
    #[arg(long = "pod-cidr", value_name = "CIDR", value_parser = parse_prefix)]
    pod_cidrs: Vec<IpNet>,
    /// Destination MAC of routed frames; default: derived from the remote address
    #[arg(long, value_name = "MAC", value_parser = parse_text::<MacAddr>)]
    router_mac: Option<MacAddr>,
    /// Only for one network; default: for all
    #[arg(long, value_name = "NAME", value_parser = parse_name)]
    network: Option<String>,
    /// Send outer UDP checksums of zero
    #[arg(long)]
    no_checksum: bool,
    /// An equal peer is no error
    #[arg(long)]
    may_exist: bool,
}

fn parse_remote(text: &str) -> Result<(IpAddr, Option<u16>), String> {
    match text.parse::<SocketAddr>() {
        Ok(addr) if addr.port() == 0 => Err("UDP port 0 is out of range".to_owned()),
        Ok(addr) => Ok((addr.ip(), Some(addr.port()))),
        Err(_) => IpAddr::parse_text(text).map(|ip| (ip, None)),
    }
}

#[derive(Serialize)]
struct View {
    name: String,
    remote: String,
    port: u32,
    encap: &'static str,
    pod_cidrs: Vec<String>,
    router_mac: String,
    network: Option<String>,
    checksum: bool,
    mtu: u32,
    state: &'static str,
    problem: String,
    last_rx_ms: Option<u64>,
}

impl Row for View {
    const HEADS: &'static [&'static str] =
        &["NAME", "REMOTE", "PORT", "ENCAP", "STATE", "POD CIDR", "ROUTER MAC", "MTU", "LAST RX", "NETWORK"];

    fn cells(&self) -> Vec<String> {
        let mut cells = vec![
            self.name.clone(),
            self.remote.clone(),
            self.port.to_string(),
            self.encap.to_owned(),
            self.state.to_owned(),
            or_dash(self.pod_cidrs.join(",")),
            or_dash(self.router_mac.as_str()),
            self.mtu.to_string(),
            self.last_rx_ms.map_or_else(|| "never".to_owned(), span),
            self.network.clone().unwrap_or_else(|| "all".to_owned()),
        ];
        if !self.problem.is_empty() {
            cells.push(format!("({})", self.problem));
        }
        cells
    }
}

impl From<proto::PeerInfo> for View {
    fn from(p: proto::PeerInfo) -> Self {
        let spec = p.spec.unwrap_or_default();
        let encap = match spec.encap() {
            proto::Encap::Geneve => desired::Encap::Geneve,
            proto::Encap::Vxlan | proto::Encap::Unspecified => desired::Encap::Vxlan,
        };
        Self {
            name: spec.name,
            remote: spec.remote,
            port: [p.port, spec.port].into_iter().find(|&p| p != 0).unwrap_or(encap.default_port().into()),
            encap: encap.as_str(),
            pod_cidrs: spec.pod_cidrs,
            router_mac: if p.router_mac.is_empty() { spec.router_mac } else { p.router_mac },
            network: Some(spec.network).filter(|n| !n.is_empty()),
            checksum: spec.checksum.unwrap_or(true),
            mtu: p.mtu,
            state: state_word(p.state),
            problem: p.problem,
            last_rx_ms: p.last_rx_ms,
        }
    }
}

pub fn run(verb: Verb, context: &mut Context) -> Done {
    match verb {
        Verb::Show { names } => {
            let request = proto::ListPeersRequest { names };
            let reply = context.call(async |s| s.list_peers(request).await)?;
            let rows: Vec<View> = reply.peers.into_iter().map(View::from).collect();
            context.print.list(&rows)?;
            Ok(Outcome::Done)
        }
        Verb::Add(args) => {
            let may_exist = args.may_exist;
            let peer = peer(args)?;
            let request = proto::AddPeerRequest { peer: Some(peer.into()), may_exist };
            let ack = context.call(async |s| s.add_peer(request).await)?;
            context.ack(ack)
        }
        Verb::Del { name, if_exists } => {
            let request = proto::DeletePeerRequest { name, if_exists };
            let ack = context.call(async |s| s.delete_peer(request).await)?;
            context.ack(ack)
        }
        Verb::Stats { names } => {
            let request = proto::PeerStatsRequest { names };
            let reply = context.call(async |s| s.peer_stats(request).await)?;
            let rows: Vec<StatView> =
                reply.peers.into_iter().map(|p| StatView::new(p.name, p.counters)).collect();
            context.print.list(&rows)?;
            Ok(Outcome::Done)
        }
    }
}

fn peer(args: Add) -> Result<desired::Peer, Failure> {
    let (remote, inline) = args.remote;
    if let (Some(a), Some(b)) = (inline, args.port)
        && a != b
    {
        return Err(Failure::Usage(format!("--remote says UDP port {a}, --port says {b}")));
    }
    let peer = desired::Peer {
        name: args.name,
        remote,
        port: inline.or(args.port),
        encap: match args.encap {
            Encap::Vxlan => desired::Encap::Vxlan,
            Encap::Geneve => desired::Encap::Geneve,
        },
        pod_cidrs: args.pod_cidrs,
        router_mac: args.router_mac,
        network: args.network,
        checksum: !args.no_checksum,
    };
    peer.check().map_err(|e| Failure::Usage(e.message))?;
    Ok(peer)
}
