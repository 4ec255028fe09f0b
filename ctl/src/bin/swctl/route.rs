//! `swctl route`: the FIB.

use std::net::IpAddr;

use clap::{ArgGroup, Args, Subcommand};
use ctl::desired::{Route, RouteTarget};
use ctl::proto;
use ipnet::IpNet;
use serde::Serialize;

use crate::args::{parse_name, parse_prefix, parse_text};
use crate::context::{Context, Done, Failure, Outcome};
use crate::neigh;
use crate::print::{Row, or_dash};

#[derive(Debug, Subcommand)]
pub enum Verb {
    /// List routes (default)
    Show {
        /// Only in one network
        #[arg(long, value_name = "NAME")]
        network: Option<String>,
    },
    /// Add a route
    Add(Add),
    /// Delete a route that was added
    #[command(visible_alias = "delete")]
    Del {
        #[arg(value_parser = parse_prefix)]
        prefix: IpNet,
        /// May be left out when there is one network
        #[arg(long, value_name = "NAME")]
        network: Option<String>,
        /// A missing route is no error
        #[arg(long)]
        if_exists: bool,
    },
    /// Look an address up as the data path does
    Get {
        #[arg(value_parser = parse_text::<IpAddr>)]
        ip: IpAddr,
        /// May be left out when there is one network
        #[arg(long, value_name = "NAME")]
        network: Option<String>,
    },
}

impl Default for Verb {
    fn default() -> Self {
        Self::Show { network: None }
    }
}

#[derive(Args, Debug)]
#[command(group = ArgGroup::new("target").required(true).args(["via", "peer", "blackhole", "unreachable"]))]
pub struct Add {
    #[arg(value_parser = parse_prefix)]
    prefix: IpNet,
    /// May be left out when there is one network
    #[arg(long, value_name = "NAME", value_parser = parse_name)]
    network: Option<String>,
    /// To a neighbour on one of the network's subnets
    #[arg(long, value_name = "IP", value_parser = parse_text::<IpAddr>)]
    via: Option<IpAddr>,
    /// Through the tunnel
    #[arg(long, value_name = "NAME", value_parser = parse_name)]
    peer: Option<String>,
    /// Drop silently
    #[arg(long)]
    blackhole: bool,
    /// Drop and answer with an ICMP error
    #[arg(long)]
    unreachable: bool,
    /// An equal route is no error
    #[arg(long)]
    may_exist: bool,
}

#[derive(Serialize)]
struct Metrics {
    mtu: u32,
}

#[derive(Serialize)]
struct View {
    /// Absent for unicast, as in `ip -j route`.
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    kind: Option<&'static str>,
    dst: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    gateway: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    dev: Option<String>,
    protocol: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    scope: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    prefsrc: Option<String>,
    metrics: Vec<Metrics>,
    flags: Vec<&'static str>,
    family: &'static str,
    network: String,
    vni: u32,
}

impl Row for View {
    const HEADS: &'static [&'static str] = &["DST", "VIA", "DEV", "TYPE", "PROTOCOL", "NETWORK", "MTU"];

    fn cells(&self) -> Vec<String> {
        vec![
            self.dst.clone(),
            or_dash(self.gateway.clone().unwrap_or_default()),
            or_dash(self.dev.clone().unwrap_or_default()),
            self.kind.unwrap_or("unicast").to_owned(),
            or_dash(self.protocol.as_str()),
            self.network.clone(),
            self.metrics.first().map_or_else(|| "-".to_owned(), |m| m.mtu.to_string()),
        ]
    }
}

impl From<proto::RouteInfo> for View {
    fn from(r: proto::RouteInfo) -> Self {
        use proto::RouteKind;
        let route = r.route.unwrap_or_default();
        let text = |t: String| Some(t).filter(|t| !t.is_empty());
        let (kind, dev, scope) = match route.kind() {
            RouteKind::NextHop => (None, Some(route.network.clone()), None),
            RouteKind::Connected => (None, Some(route.network.clone()), Some("link")),
            RouteKind::Peer => (None, Some(format!("@{}", route.peer)), None),
            RouteKind::Node => (None, Some(r.port), None),
            RouteKind::Blackhole => (Some("blackhole"), None, None),
            RouteKind::Unreachable => (Some("unreachable"), None, None),
            RouteKind::Unspecified => (Some("unknown"), None, None),
        };
        let gateway = if route.next_hop.is_empty() { r.remote } else { route.next_hop };
        Self {
            kind,
            family: if route.prefix.contains(':') { "inet6" } else { "inet" },
            dst: if route.prefix.ends_with("/0") { "default".to_owned() } else { route.prefix },
            gateway: text(gateway),
            dev,
            protocol: r.protocol,
            scope,
            prefsrc: text(r.prefsrc),
            metrics: if r.mtu == 0 { Vec::new() } else { vec![Metrics { mtu: r.mtu }] },
            flags: Vec::new(),
            network: route.network,
            vni: r.vni,
        }
    }
}

/// The answer to `get`: the route, and where it leads now.
#[derive(Serialize)]
struct Lookup {
    #[serde(flatten)]
    route: View,
    neighbour: Option<neigh::View>,
}

impl Row for Lookup {
    const HEADS: &'static [&'static str] =
        &["DST", "VIA", "DEV", "TYPE", "PROTOCOL", "NETWORK", "MTU", "NEIGHBOUR", "LLADDR"];

    fn cells(&self) -> Vec<String> {
        let mut cells = self.route.cells();
        let (ip, mac) = match &self.neighbour {
            Some(n) => (n.dst.clone(), n.lladdr.clone().unwrap_or_default()),
            None => Default::default(),
        };
        cells.extend([or_dash(ip), or_dash(mac)]);
        cells
    }
}

pub fn run(verb: Verb, context: &mut Context) -> Done {
    match verb {
        Verb::Show { network } => {
            let request = proto::ListRoutesRequest { network: network.unwrap_or_default() };
            let reply = context.call(async |s| s.list_routes(request).await)?;
            let rows: Vec<View> = reply.routes.into_iter().map(View::from).collect();
            context.print.list(&rows)?;
            Ok(Outcome::Done)
        }
        Verb::Add(args) => add(args, context),
        Verb::Del { prefix, network, if_exists } => {
            let network = context.network(network)?;
            let request = proto::DeleteRouteRequest { network, prefix: prefix.to_string(), if_exists };
            let ack = context.call(async |s| s.delete_route(request).await)?;
            context.ack(ack)
        }
        Verb::Get { ip, network } => {
            let network = context.network(network)?;
            let request = proto::GetRouteRequest { network, ip: ip.to_string() };
            let reply = context.call(async |s| s.get_route(request).await)?;
            let route = View::from(reply.route.unwrap_or_default());
            let neighbour = reply.neighbour.map(neigh::View::from);
            context.print.list(&[Lookup { route, neighbour }])?;
            Ok(Outcome::Done)
        }
    }
}

fn add(args: Add, context: &mut Context) -> Done {
    let target = match (args.via, args.peer) {
        (Some(ip), _) => RouteTarget::NextHop(ip),
        (_, Some(peer)) => RouteTarget::Peer(peer),
        _ if args.blackhole => RouteTarget::Blackhole,
        _ => RouteTarget::Unreachable,
    };
    if let RouteTarget::NextHop(ip) = target
        && ip.is_ipv6() != matches!(args.prefix, IpNet::V6(_))
    {
        return Err(Failure::Usage(format!("{} via {ip}: the address families differ", args.prefix)));
    }
    let route = Route { network: context.network(args.network)?, prefix: args.prefix, target };
    route.check().map_err(|e| Failure::Usage(e.message))?;
    let request = proto::AddRouteRequest { route: Some(route.into()), may_exist: args.may_exist };
    let ack = context.call(async |s| s.add_route(request).await)?;
    context.ack(ack)
}
