//! The file from which a node comes up: `swd --config FILE` with networks, peers and the node's own
//! port under the key `plan`, as an operator or a tool on the node writes it.
//!
//! The same objects can be printed as the document of `swctl apply`, for a plan that changes while the
//! daemon runs. Text is composed here and not by a library on purpose: a key that the switch renames
//! must break the lab as it breaks the files of users.

use std::fmt::Write as _;
use std::net::IpAddr;
use std::path::PathBuf;

use crate::error::{Context, Result};
use crate::node::Node;
use crate::swd::SwdOptions;

/// The plan of one node: one network, its peers, its own port.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Where tunnels end on this node.
    pub underlay: IpAddr,
    /// Name of the network, and of the node's port beside it.
    pub network: String,
    /// Its VNI.
    pub vni: u32,
    /// Subnets with their gateways.
    pub subnets: Vec<(String, String)>,
    /// What is given to containers; all of the subnets if empty.
    pub ranges: Vec<String>,
    /// The node's own port, if it has one.
    pub node_port: Option<NodePort>,
    /// The other nodes.
    pub peers: Vec<PlannedPeer>,
}

/// The node's own port.
#[derive(Clone, Debug, Default)]
pub struct NodePort {
    /// Its addresses; the gateways if empty.
    pub ips: Vec<String>,
    /// Whether what pods send to the outside leaves with the node's address.
    pub masquerade: bool,
    /// Except to these.
    pub no_masquerade: Vec<String>,
}

/// A peer.
#[derive(Clone, Debug)]
pub struct PlannedPeer {
    /// Its name.
    pub name: String,
    /// Where its tunnel ends.
    pub remote: IpAddr,
    /// What is routed to it.
    pub pod_cidrs: Vec<String>,
}

impl Plan {
    /// The document of `swctl apply`.
    pub fn document(&self) -> String {
        format!("version = 1\n{}", self.tables(""))
    }

    /// The configuration file of `swd`. It names the underlay too: nothing else is needed.
    pub fn config(&self, name: &str) -> String {
        format!(
            "node = \"{name}\"\nunderlay = \"{}\"\n[plan]\nversion = 1\n{}",
            self.underlay,
            self.tables("plan.")
        )
    }

    fn tables(&self, prefix: &str) -> String {
        let mut text = String::new();
        // Writing to a string cannot fail.
        let _ = writeln!(
            text,
            "[[{prefix}networks]]\nname = \"{}\"\nvni = {}\nranges = {}",
            self.network,
            self.vni,
            list(&self.ranges)
        );
        for (cidr, gateway) in &self.subnets {
            let _ =
                writeln!(text, "[[{prefix}networks.subnets]]\ncidr = \"{cidr}\"\ngateway = \"{gateway}\"");
        }
        if let Some(port) = &self.node_port {
            let _ = writeln!(
                text,
                "[[{prefix}ports]]\nname = \"node\"\nnetwork = \"{}\"\nifname = \"swd0\"\nips = {}\nnode = {{ masquerade = {}, \
                 no_masquerade = {} }}",
                self.network,
                list(&port.ips),
                port.masquerade,
                list(&port.no_masquerade)
            );
        }
        for peer in &self.peers {
            let _ = writeln!(
                text,
                "[[{prefix}peers]]\nname = \"{}\"\nremote = \"{}\"\npod_cidrs = {}",
                peer.name,
                peer.remote,
                list(&peer.pod_cidrs)
            );
        }
        text
    }
}

fn list(items: &[String]) -> String {
    let quoted: Vec<String> = items.iter().map(|item| format!("\"{item}\"")).collect();
    format!("[{}]", quoted.join(", "))
}

impl Node {
    /// Path of the file written by [`Node::write_plan`].
    pub fn plan_path(&self) -> PathBuf {
        self.dir().join("node.toml")
    }

    /// Writes the node's configuration file; a daemon that runs does not look at it.
    pub fn write_plan(&self, plan: &Plan) -> Result<()> {
        let path = self.plan_path();
        std::fs::write(&path, plan.config(self.name())).context(path.display())
    }

    /// Writes the file and starts the daemon from it. [`Node::restart`] starts it from the file as it
    /// is then.
    pub fn start_planned(&self, plan: &Plan) -> Result<()> {
        self.write_plan(plan)?;
        let config = self.plan_path().display().to_string();
        self.start_swd_with(&SwdOptions {
            underlay: None,
            args: vec!["--config".into(), config],
            ..SwdOptions::default()
        })
    }

    /// `swctl apply` of a plan on the running daemon; what the plan does not have stays.
    pub fn apply_plan(&self, plan: &Plan) -> Result<()> {
        let path = self.dir().join("apply.toml");
        std::fs::write(&path, plan.document()).context(path.display())?;
        self.swctl_text(&["apply", "-f", &path.to_string_lossy()]).map(drop)
    }
}
