//! `swctl fdb`: MAC tables.

use clap::{ArgGroup, Args, Subcommand};
use ctl::desired::{FdbEntry, Place};
use ctl::proto;
use packet::MacAddr;
use serde::Serialize;

use crate::args::{parse_name, parse_text};
use crate::context::{Context, Done, Failure, Outcome};
use crate::print::{Row, or_dash};

#[derive(Debug, Subcommand)]
pub enum Verb {
    /// List entries (default)
    Show(Show),
    /// Add a static entry, which neither ages nor moves
    Add(Add),
    /// Remove one entry, static or learned
    #[command(visible_alias = "delete")]
    Del {
        #[arg(value_parser = parse_text::<MacAddr>)]
        mac: MacAddr,
        /// May be left out when there is one network
        #[arg(long, value_name = "NAME")]
        network: Option<String>,
        /// A missing entry is no error
        #[arg(long)]
        if_exists: bool,
    },
    /// Forget learned entries
    Flush(Filter),
}

impl Default for Verb {
    fn default() -> Self {
        Self::Show(Show::default())
    }
}

#[derive(Args, Debug, Default)]
pub struct Filter {
    /// Only in one network
    #[arg(long, value_name = "NAME")]
    network: Option<String>,
    /// Only behind one port
    #[arg(long, value_name = "NAME")]
    port: Option<String>,
    /// Only behind one peer
    #[arg(long, value_name = "NAME", conflicts_with = "port")]
    peer: Option<String>,
}

#[derive(Args, Debug, Default)]
pub struct Show {
    #[command(flatten)]
    filter: Filter,
    /// Only one address
    #[arg(long, value_parser = parse_text::<MacAddr>)]
    mac: Option<MacAddr>,
    /// Most entries to list; default 100000
    #[arg(long, value_name = "N")]
    limit: Option<u32>,
}

#[derive(Args, Debug)]
#[command(group = ArgGroup::new("place").required(true).args(["port", "peer"]))]
pub struct Add {
    #[arg(value_parser = parse_text::<MacAddr>)]
    mac: MacAddr,
    /// May be left out when there is one network
    #[arg(long, value_name = "NAME", value_parser = parse_name)]
    network: Option<String>,
    /// It is behind this port
    #[arg(long, value_name = "NAME", value_parser = parse_name)]
    port: Option<String>,
    /// It is behind this peer
    #[arg(long, value_name = "NAME", value_parser = parse_name)]
    peer: Option<String>,
    /// An equal entry is no error
    #[arg(long)]
    may_exist: bool,
}

/// A port by its name, a peer with an at sign before it.
pub fn dev(port: Option<&str>, peer: Option<&str>) -> Option<String> {
    port.map(str::to_owned).or_else(|| peer.map(|p| format!("@{p}")))
}

#[derive(Serialize)]
struct View {
    mac: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    ifname: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    dev: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    dst: Option<String>,
    vni: u32,
    network: String,
    flags: Vec<&'static str>,
    state: &'static str,
    used: u32,
    updated: u32,
}

impl Row for View {
    const HEADS: &'static [&'static str] = &["MAC", "PORT/PEER", "DST", "NETWORK", "VNI", "STATE", "UPDATED"];

    fn cells(&self) -> Vec<String> {
        let place = self.dev.clone().unwrap_or_else(|| "(router)".to_owned());
        vec![
            self.mac.clone(),
            place,
            or_dash(self.dst.clone().unwrap_or_default()),
            self.network.clone(),
            self.vni.to_string(),
            self.state.to_owned(),
            if self.state == "learned" { format!("{}s", self.updated) } else { "-".to_owned() },
        ]
    }
}

impl From<proto::FdbInfo> for View {
    fn from(e: proto::FdbInfo) -> Self {
        use proto::fdb_info::Target;
        let (state, flags) = match e.state() {
            proto::FdbState::Learned if e.stale => ("learned", vec!["stale"]),
            proto::FdbState::Learned => ("learned", vec![]),
            proto::FdbState::Static => ("static", vec![]),
            proto::FdbState::Declared => ("permanent", vec![]),
            proto::FdbState::Router => ("permanent", vec!["router"]),
            proto::FdbState::Unspecified => ("unknown", vec![]),
        };
        let dev = match &e.target {
            Some(Target::Port(port)) => dev(Some(port), None),
            Some(Target::Peer(peer)) => dev(None, Some(peer)),
            None => None,
        };
        Self {
            mac: e.mac,
            ifname: dev.clone(),
            dev,
            dst: Some(e.dst).filter(|d| !d.is_empty()),
            vni: e.vni,
            network: e.network,
            flags,
            state,
            used: e.used,
            updated: e.updated,
        }
    }
}

pub fn run(verb: Verb, context: &mut Context) -> Done {
    match verb {
        Verb::Show(args) => show(args, context),
        Verb::Add(args) => add(args, context),
        Verb::Del { mac, network, if_exists } => {
            let network = context.network(network)?;
            let request = proto::DeleteFdbRequest { network, mac: mac.to_string(), if_exists };
            let ack = context.call(async |s| s.delete_fdb(request).await)?;
            context.ack(ack)
        }
        Verb::Flush(filter) => {
            let port = filter.port.map(|name| context.port(name)).transpose()?;
            let request = proto::FlushFdbRequest {
                network: filter.network.unwrap_or_default(),
                port: port.unwrap_or_default(),
                peer: filter.peer.unwrap_or_default(),
            };
            let reply = context.call(async |s| s.flush_fdb(request).await)?;
            context.flushed(reply)
        }
    }
}

fn show(args: Show, context: &mut Context) -> Done {
    let port = args.filter.port.map(|name| context.port(name)).transpose()?;
    let request = proto::ListFdbRequest {
        network: args.filter.network.unwrap_or_default(),
        port: port.unwrap_or_default(),
        peer: args.filter.peer.unwrap_or_default(),
        mac: args.mac.map(|m| m.to_string()).unwrap_or_default(),
        limit: args.limit.unwrap_or(0),
    };
    let reply = context.call(async |s| s.list_fdb(request).await)?;
    let rows: Vec<View> = reply.entries.into_iter().map(View::from).collect();
    context.print.list(&rows)?;
    if rows.len() as u64 != reply.total {
        context.note(&format!("{} of {} entries are listed: raise --limit", rows.len(), reply.total));
    }
    Ok(Outcome::Done)
}

fn add(args: Add, context: &mut Context) -> Done {
    let place = match (args.port, args.peer) {
        (Some(port), None) => Place::Port(port),
        (None, Some(peer)) => Place::Peer(peer),
        _ => return Err(Failure::Usage("expected one of --port and --peer".to_owned())),
    };
    let mut entry = FdbEntry { network: "x".to_owned(), mac: args.mac, place };
    // By itself first, so that a bad address is refused without a connection.
    entry.check().map_err(|_| Failure::Usage(format!("{} is not a unicast address", args.mac)))?;
    entry.network = context.network(args.network)?;
    if let Place::Port(port) = &mut entry.place {
        *port = context.port(std::mem::take(port))?;
    }
    let request = proto::AddFdbRequest { entry: Some(entry.into()), may_exist: args.may_exist };
    let ack = context.call(async |s| s.add_fdb(request).await)?;
    context.ack(ack)
}
