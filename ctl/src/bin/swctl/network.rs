//! `swctl network`: bridge domains.

use std::net::IpAddr;

use clap::{Args, Subcommand};
use ctl::desired::{self, AddressRange, Subnet};
use ctl::proto;
use ipnet::IpNet;
use packet::Vni;
use serde::Serialize;

use crate::args::{parse_name, parse_prefix, parse_text};
use crate::context::{Context, Done, Failure, Outcome};
use crate::print::{Row, or_dash};

#[derive(Debug, Subcommand)]
pub enum Verb {
    /// List networks (default)
    Show {
        /// All when none is named
        names: Vec<String>,
    },
    /// Make a network
    Add(Add),
    /// Delete a network that no port, route or static entry names
    #[command(visible_alias = "delete")]
    Del {
        name: String,
        /// A missing network is no error
        #[arg(long)]
        if_exists: bool,
    },
}

impl Default for Verb {
    fn default() -> Self {
        Self::Show { names: Vec::new() }
    }
}

#[derive(Args, Debug)]
pub struct Add {
    #[arg(value_parser = parse_name)]
    name: String,
    /// VXLAN or Geneve network identifier, 1 to 16777215
    #[arg(long)]
    vni: Vni,
    /// Addresses of the pods; repeat for dual stack
    #[arg(long = "subnet", value_name = "CIDR", value_parser = parse_prefix)]
    subnets: Vec<IpNet>,
    /// Address at which the switch routes, inside one of the subnets; at most one for each
    #[arg(long = "gateway", value_name = "IP", value_parser = parse_text::<IpAddr>)]
    gateways: Vec<IpAddr>,
    /// Lifetime of learned MAC addresses in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = desired::DEFAULT_AGEING_SECONDS)]
    ageing: u32,
    /// MTU of the pods; default: derived from the underlay
    #[arg(long)]
    mtu: Option<u16>,
    /// Most MAC addresses learned
    #[arg(long, value_name = "N")]
    fdb_limit: Option<u32>,
    /// Drop unicast frames to unknown MAC addresses instead of flooding them
    #[arg(long)]
    no_flood: bool,
    /// Addresses that this node may give to containers: FIRST-LAST or a CIDR; default: every host of each subnet
    #[arg(long = "range", value_name = "RANGE", value_parser = parse_text::<AddressRange>)]
    ranges: Vec<AddressRange>,
    /// Of these, addresses never given
    #[arg(long = "exclude", value_name = "RANGE", value_parser = parse_text::<AddressRange>)]
    exclude: Vec<AddressRange>,
    /// An equal network is no error
    #[arg(long)]
    may_exist: bool,
}

#[derive(Serialize)]
struct View {
    name: String,
    vni: u32,
    subnets: Vec<SubnetView>,
    mtu: u32,
    ageing_seconds: u32,
    fdb_limit: u32,
    flood: bool,
    ranges: Vec<String>,
    exclude: Vec<String>,
    ports: u32,
    peers: u32,
    fdb_entries: u32,
    routes: u32,
}

#[derive(Serialize)]
struct SubnetView {
    cidr: String,
    gateway: Option<String>,
}

impl Row for View {
    const HEADS: &'static [&'static str] =
        &["NAME", "VNI", "SUBNET", "GATEWAY", "MTU", "PORTS", "PEERS", "FDB", "ROUTES"];

    fn cells(&self) -> Vec<String> {
        let cidrs: Vec<&str> = self.subnets.iter().map(|s| s.cidr.as_str()).collect();
        let gateways: Vec<&str> = self.subnets.iter().filter_map(|s| s.gateway.as_deref()).collect();
        vec![
            self.name.clone(),
            self.vni.to_string(),
            or_dash(cidrs.join(",")),
            or_dash(gateways.join(",")),
            self.mtu.to_string(),
            self.ports.to_string(),
            self.peers.to_string(),
            self.fdb_entries.to_string(),
            self.routes.to_string(),
        ]
    }
}

impl From<proto::NetworkInfo> for View {
    fn from(n: proto::NetworkInfo) -> Self {
        let spec = n.spec.unwrap_or_default();
        let subnet = |s: proto::Subnet| SubnetView {
            cidr: s.cidr,
            gateway: Some(s.gateway).filter(|g| !g.is_empty()),
        };
        Self {
            name: spec.name,
            vni: spec.vni,
            subnets: spec.subnets.into_iter().map(subnet).collect(),
            mtu: n.mtu,
            ageing_seconds: spec.ageing_seconds,
            fdb_limit: spec.fdb_limit,
            flood: spec.flood.unwrap_or(true),
            ranges: spec.ranges,
            exclude: spec.exclude,
            ports: n.ports,
            peers: n.peers,
            fdb_entries: n.fdb_entries,
            routes: n.routes,
        }
    }
}

pub fn run(verb: Verb, context: &mut Context) -> Done {
    match verb {
        Verb::Show { names } => {
            let request = proto::ListNetworksRequest { names };
            let reply = context.call(async |s| s.list_networks(request).await)?;
            let rows: Vec<View> = reply.networks.into_iter().map(View::from).collect();
            context.print.list(&rows)?;
            Ok(Outcome::Done)
        }
        Verb::Add(args) => {
            let may_exist = args.may_exist;
            let network = network(args)?;
            let request = proto::AddNetworkRequest { network: Some(network.into()), may_exist };
            let ack = context.call(async |s| s.add_network(request).await)?;
            context.ack(ack)
        }
        Verb::Del { name, if_exists } => {
            let request = proto::DeleteNetworkRequest { name, if_exists };
            let ack = context.call(async |s| s.delete_network(request).await)?;
            context.ack(ack)
        }
    }
}

fn network(args: Add) -> Result<desired::Network, Failure> {
    let network = desired::Network {
        name: args.name,
        vni: args.vni,
        ageing_seconds: args.ageing,
        mtu: args.mtu,
        fdb_limit: args.fdb_limit,
        flood: !args.no_flood,
        subnets: pair(args.subnets, &args.gateways)?,
        ranges: args.ranges,
        exclude: args.exclude,
    };
    network.check().map_err(|e| Failure::Usage(e.message))?;
    Ok(network)
}

/// The order of the options does not matter: a gateway belongs to the subnet it lies in.
fn pair(cidrs: Vec<IpNet>, gateways: &[IpAddr]) -> Result<Vec<Subnet>, Failure> {
    let mut subnets: Vec<Subnet> = cidrs.into_iter().map(|cidr| Subnet { cidr, gateway: None }).collect();
    for &gateway in gateways {
        let Some(subnet) = subnets.iter_mut().find(|s| s.cidr.contains(&gateway)) else {
            return Err(Failure::Usage(format!("gateway {gateway} lies in no --subnet")));
        };
        if let Some(first) = subnet.gateway.replace(gateway) {
            let cidr = subnet.cidr;
            return Err(Failure::Usage(format!("subnet {cidr} has two gateways: {first} and {gateway}")));
        }
    }
    Ok(subnets)
}
