//! `swctl port`: the devices of pods.

use std::collections::BTreeMap;

use clap::{Args, Subcommand};
use ctl::desired::{self, check};
use ctl::proto;
use ipnet::IpNet;
use packet::MacAddr;
use serde::Serialize;

use crate::args::{parse_ifname, parse_name, parse_pair, parse_text};
use crate::context::{Context, Done, Failure, Outcome};
use crate::port_options::{Limits, Node, Publish};
use crate::print::{Row, or_dash, span};
use crate::stats::PortStatView;

#[derive(Debug, Subcommand)]
pub enum Verb {
    /// List ports (default)
    Show {
        /// All when none is named
        names: Vec<String>,
        /// Only those of one network
        #[arg(long, value_name = "NAME")]
        network: Option<String>,
    },
    /// Put a device into a network namespace, ready to use
    Add(Box<Add>),
    /// Delete a port and its device
    #[command(visible_alias = "delete")]
    Del {
        name: String,
        /// A missing port is no error
        #[arg(long)]
        if_exists: bool,
    },
    /// Counters; rx is what came from the pod
    Stats {
        /// All when none is named
        names: Vec<String>,
    },
}

impl Default for Verb {
    fn default() -> Self {
        Self::Show { names: Vec::new(), network: None }
    }
}

#[derive(Args, Debug)]
pub struct Add {
    #[arg(value_parser = parse_name)]
    name: String,
    /// Network it belongs to
    #[arg(long, value_name = "NAME", value_parser = parse_name)]
    network: String,
    /// Namespace: a name under /run/netns, a path, or a process id
    #[arg(long, value_name = "NAME|PATH|PID", value_parser = parse_netns, required_unless_present = "node")]
    netns: Option<String>,
    /// Address of the pod with prefix length; repeat for more
    #[arg(long = "ip", value_name = "CIDR", value_parser = parse_text::<IpNet>)]
    ips: Vec<IpNet>,
    /// Name of the device in the namespace; default: eth0, and swd0 for the node's own
    #[arg(long, value_parser = parse_ifname)]
    ifname: Option<String>,
    /// MAC address; default: derived
    #[arg(long, value_parser = parse_text::<MacAddr>)]
    mac: Option<MacAddr>,
    /// Default: that of the network
    #[arg(long)]
    mtu: Option<u16>,
    /// Learn any source address, instead of dropping all but the declared ones
    #[arg(long)]
    learning: bool,
    /// Most MAC addresses learned from the port
    #[arg(long, value_name = "N")]
    mac_limit: Option<u32>,
    /// No segmentation or checksum offload, for pods that read raw frames
    #[arg(long)]
    no_offload: bool,
    /// Install no default routes in the namespace
    #[arg(long)]
    no_default_route: bool,
    /// Free text to keep with the port; repeat for more
    #[arg(long = "metadata", value_name = "KEY=VALUE", value_parser = parse_pair)]
    metadata: Vec<(String, String)>,
    #[command(flatten)]
    limits: Limits,
    #[command(flatten)]
    publish: Publish,
    #[command(flatten)]
    node: Node,
    /// An equal port is no error
    #[arg(long)]
    may_exist: bool,
}

/// The daemon's working directory is not ours: a relative path is made absolute.
fn parse_netns(text: &str) -> Result<String, String> {
    let text = if text.contains('/') && !text.starts_with('/') {
        let path = std::path::absolute(text).map_err(|e| format!("`{text}`: {e}"))?;
        path.into_os_string().into_string().map_err(|p| format!("{} is not UTF-8", p.display()))?
    } else {
        text.to_owned()
    };
    check::netns(&text).map(|()| text)
}

#[derive(Serialize)]
struct View {
    name: String,
    network: String,
    vni: u32,
    netns: String,
    netns_path: String,
    ifname: String,
    ifindex: u32,
    state: &'static str,
    problem: String,
    mac: String,
    ips: Vec<String>,
    mtu: u32,
    learning: bool,
    mac_limit: u32,
    offload: bool,
    offloads: Vec<String>,
    default_route: bool,
    worker: u32,
    up_ms: u64,
    metadata: BTreeMap<String, String>,
    ingress_rate: u64,
    ingress_burst: u64,
    egress_rate: u64,
    egress_burst: u64,
    mappings: Vec<MappingView>,
    container_id: String,
    cni_network: String,
    node: bool,
    masquerade: bool,
    no_masquerade: Vec<String>,
}

/// With the keys of CNI's portMappings.
#[derive(Serialize)]
struct MappingView {
    #[serde(rename = "hostPort")]
    host_port: u32,
    #[serde(rename = "containerPort")]
    container_port: u32,
    protocol: &'static str,
    #[serde(rename = "hostIP")]
    host_ip: String,
}

impl From<proto::PortMapping> for MappingView {
    fn from(m: proto::PortMapping) -> Self {
        Self {
            host_port: m.host_port,
            container_port: m.container_port,
            protocol: match proto::TransportProtocol::try_from(m.protocol) {
                Ok(proto::TransportProtocol::Udp) => "udp",
                Ok(proto::TransportProtocol::Sctp) => "sctp",
                _ => "tcp",
            },
            host_ip: m.host_ip,
        }
    }
}

impl Row for View {
    const HEADS: &'static [&'static str] =
        &["NAME", "NETWORK", "STATE", "IFNAME", "IP", "MAC", "MTU", "OFFLOAD", "UP", "NETNS"];

    fn cells(&self) -> Vec<String> {
        let offload = if self.offloads.is_empty() { "-".to_owned() } else { self.offloads.join(",") };
        let mut cells = vec![
            self.name.clone(),
            self.network.clone(),
            self.state.to_owned(),
            self.ifname.clone(),
            or_dash(self.ips.join(",")),
            or_dash(self.mac.as_str()),
            self.mtu.to_string(),
            offload,
            if self.state == "up" { span(self.up_ms) } else { "-".to_owned() },
            if self.node { "(node)".to_owned() } else { self.netns.clone() },
        ];
        if !self.problem.is_empty() {
            cells.push(format!("({})", self.problem));
        }
        cells
    }
}

/// As printed.
pub fn state_word(state: i32) -> &'static str {
    match proto::ObjectState::try_from(state) {
        Ok(proto::ObjectState::Pending) => "pending",
        Ok(proto::ObjectState::Up) => "up",
        Ok(proto::ObjectState::Down) => "down",
        Ok(proto::ObjectState::Failed) => "failed",
        Ok(proto::ObjectState::Unspecified) | Err(_) => "unknown",
    }
}

impl From<proto::PortInfo> for View {
    fn from(p: proto::PortInfo) -> Self {
        let spec = p.spec.unwrap_or_default();
        let bandwidth = spec.bandwidth.unwrap_or_default();
        let owner = spec.attachment.unwrap_or_default();
        let is_node = spec.node.is_some();
        let node = spec.node.unwrap_or_default();
        Self {
            name: spec.name,
            network: spec.network,
            vni: p.vni,
            netns: spec.netns,
            netns_path: p.netns_path,
            ifname: spec.ifname,
            ifindex: p.ifindex,
            state: state_word(p.state),
            problem: p.problem,
            mac: if p.mac.is_empty() { spec.mac } else { p.mac },
            ips: if p.ips.is_empty() { spec.ips } else { p.ips },
            mtu: if p.mtu == 0 { spec.mtu } else { p.mtu },
            learning: spec.learning,
            mac_limit: spec.mac_limit,
            offload: spec.offload.unwrap_or(true),
            offloads: p.offloads,
            default_route: spec.default_route.unwrap_or(true),
            worker: p.worker,
            up_ms: p.up_ms,
            metadata: spec.metadata,
            ingress_rate: bandwidth.ingress_rate,
            ingress_burst: bandwidth.ingress_burst,
            egress_rate: bandwidth.egress_rate,
            egress_burst: bandwidth.egress_burst,
            mappings: spec.mappings.into_iter().map(MappingView::from).collect(),
            container_id: owner.container_id,
            cni_network: owner.cni_network,
            node: is_node,
            masquerade: node.masquerade,
            no_masquerade: node.no_masquerade,
        }
    }
}

pub fn run(verb: Verb, context: &mut Context) -> Done {
    match verb {
        Verb::Show { names, network } => {
            let names = context.ports(names)?;
            let request = proto::ListPortsRequest { names, network: network.unwrap_or_default() };
            let reply = context.call(async |s| s.list_ports(request).await)?;
            let rows: Vec<View> = reply.ports.into_iter().map(View::from).collect();
            context.print.list(&rows)?;
            Ok(Outcome::Done)
        }
        Verb::Add(args) => {
            let may_exist = args.may_exist;
            let port = port(*args)?;
            let request = proto::AddPortRequest { port: Some(port.into()), may_exist };
            let ack = context.call(async |s| s.add_port(request).await)?;
            context.ack(ack)
        }
        Verb::Del { name, if_exists } => {
            let request = proto::DeletePortRequest { name: context.port(name)?, if_exists };
            let ack = context.call(async |s| s.delete_port(request).await)?;
            context.ack(ack)
        }
        Verb::Stats { names } => {
            let request = proto::PortStatsRequest { names: context.ports(names)? };
            let reply = context.call(async |s| s.port_stats(request).await)?;
            let rows: Vec<PortStatView> = reply.ports.into_iter().map(PortStatView::from).collect();
            context.print.list(&rows)?;
            Ok(Outcome::Done)
        }
    }
}

fn port(args: Add) -> Result<desired::Port, Failure> {
    let ifname = if args.node.node { desired::DEFAULT_NODE_IFNAME } else { desired::DEFAULT_IFNAME };
    let port = desired::Port {
        name: args.name,
        network: args.network,
        netns: args.netns.unwrap_or_default(),
        ifname: args.ifname.unwrap_or_else(|| ifname.to_owned()),
        mac: args.mac,
        ips: args.ips,
        mtu: args.mtu,
        learning: args.learning,
        mac_limit: args.mac_limit,
        offload: !args.no_offload,
        default_route: !args.no_default_route,
        metadata: args.metadata.into_iter().collect(),
        bandwidth: args.limits.bandwidth(),
        mappings: args.publish.mappings,
        attachment: None,
        node: args.node.role(),
    };
    port.check().map_err(|e| Failure::Usage(e.message))?;
    Ok(port)
}
