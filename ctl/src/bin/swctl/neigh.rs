//! `swctl neigh`: ARP and ND entries.

use clap::Subcommand;
use ctl::proto;
use serde::Serialize;

use crate::context::{Context, Done, Outcome};
use crate::fdb::dev;
use crate::print::{Row, or_dash};

#[derive(Debug, Subcommand)]
pub enum Verb {
    /// List neighbours (default)
    Show {
        /// Only in one network
        #[arg(long, value_name = "NAME")]
        network: Option<String>,
    },
    /// Forget resolved neighbours
    Flush {
        /// Only in one network
        #[arg(long, value_name = "NAME")]
        network: Option<String>,
    },
}

impl Default for Verb {
    fn default() -> Self {
        Self::Show { network: None }
    }
}

#[derive(Serialize)]
pub struct View {
    pub dst: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    dev: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lladdr: Option<String>,
    state: [&'static str; 1],
    network: String,
    vni: u32,
    used: u32,
    updated: u32,
    queued: u32,
}

impl Row for View {
    const HEADS: &'static [&'static str] = &["IP", "LLADDR", "DEV", "STATE", "NETWORK", "UPDATED"];

    fn cells(&self) -> Vec<String> {
        vec![
            self.dst.clone(),
            or_dash(self.lladdr.clone().unwrap_or_default()),
            or_dash(self.dev.clone().unwrap_or_default()),
            self.state[0].to_owned(),
            self.network.clone(),
            if self.state[0] == "PERMANENT" { "-".to_owned() } else { format!("{}s", self.updated) },
        ]
    }
}

impl From<proto::NeighbourInfo> for View {
    fn from(n: proto::NeighbourInfo) -> Self {
        use proto::NeighbourState as S;
        use proto::neighbour_info::Target;
        let state = match n.state() {
            S::Incomplete => "INCOMPLETE",
            S::Reachable => "REACHABLE",
            S::Stale => "STALE",
            S::Failed => "FAILED",
            S::Permanent => "PERMANENT",
            S::Unspecified => "NONE",
        };
        let dev = match &n.target {
            Some(Target::Port(port)) => dev(Some(port), None),
            Some(Target::Peer(peer)) => dev(None, Some(peer)),
            None => None,
        };
        Self {
            dst: n.ip,
            dev,
            lladdr: Some(n.mac).filter(|m| !m.is_empty()),
            state: [state],
            network: n.network,
            vni: n.vni,
            used: n.used,
            updated: n.updated,
            queued: n.queued,
        }
    }
}

pub fn run(verb: Verb, context: &mut Context) -> Done {
    match verb {
        Verb::Show { network } => {
            let request = proto::ListNeighboursRequest { network: network.unwrap_or_default() };
            let reply = context.call(async |s| s.list_neighbours(request).await)?;
            let rows: Vec<View> = reply.neighbours.into_iter().map(View::from).collect();
            context.print.list(&rows)?;
            Ok(Outcome::Done)
        }
        Verb::Flush { network } => {
            let request = proto::FlushNeighboursRequest { network: network.unwrap_or_default() };
            let reply = context.call(async |s| s.flush_neighbours(request).await)?;
            context.flushed(reply)
        }
    }
}
