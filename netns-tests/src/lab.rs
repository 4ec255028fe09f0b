//! A whole lab: nodes joined by a wire, and pods (fresh namespaces that somebody attaches).
//!
//! Names of namespaces start with the lab's name, so that labs of parallel tests do not meet; a
//! lab with an empty name has plain names, as a person at the keyboard wants them. Dropping the
//! lab stops its daemons and removes its namespaces.

use std::path::PathBuf;

use crate::enter::LAB_DIR;
use crate::error::{Context, Error, Result};
use crate::impair::{ImpairedWire, not_impaired};
use crate::netns::{Netns, Ns};
use crate::node::Node;
use crate::wire::{Underlay, Wire};

/// What a lab shall have.
#[derive(Clone, Debug, Default)]
pub struct LabBuilder {
    name: String,
    nodes: Vec<String>,
    underlay: Underlay,
}

/// A built lab. Fields are in the order in which things must go away.
#[derive(Debug)]
pub struct Lab {
    nodes: Vec<Node>,
    wire: Wire,
    name: String,
    dir: PathBuf,
}

/// A pod: a network namespace without interfaces other than the loopback.
#[derive(Debug)]
pub struct Pod {
    name: String,
    ns: Netns,
}

impl LabBuilder {
    /// Adds a node. The first gets 192.168.77.1 and fd77::1.
    pub fn node(mut self, name: &str) -> Self {
        self.nodes.push(name.to_owned());
        self
    }

    /// Says how the nodes are joined; a plain veth pair by default.
    pub fn underlay(mut self, underlay: Underlay) -> Self {
        self.underlay = underlay;
        self
    }

    /// Builds it.
    pub fn build(self) -> Result<Lab> {
        let prefix = prefix_of(&self.name);
        let dir = PathBuf::from(LAB_DIR).join(if self.name.is_empty() { "demo" } else { &self.name });
        // State of an earlier lab of the same name must not reach into this one.
        match std::fs::remove_dir_all(&dir) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(e).context(dir.display()),
            _ => {}
        }
        std::fs::create_dir_all(&dir).context(dir.display())?;
        if self.nodes.len() > 250 {
            return Err(Error::failed("a lab has at most 250 nodes"));
        }
        let mut nodes = Vec::new();
        for (i, name) in self.nodes.iter().enumerate() {
            nodes.push(Node::create(&format!("{prefix}{name}"), name, i as u8 + 1, &dir)?);
        }
        let ends: Vec<&Ns> = nodes.iter().map(Node::ns).collect();
        let wire = Wire::build(&self.underlay, &ends, &prefix)?;
        if ends.len() > 1 || !matches!(wire, Wire::Veth) {
            for node in &nodes {
                node.address_uplink(crate::wire::UPLINK)?;
            }
        }
        Ok(Lab { nodes, wire, name: self.name, dir })
    }
}

impl Lab {
    /// Starts the description of a lab. The name must be unique among labs that live together.
    #[expect(clippy::new_ret_no_self, reason = "the builder is how a lab begins")]
    pub fn new(name: &str) -> LabBuilder {
        LabBuilder { name: name.to_owned(), ..LabBuilder::default() }
    }

    /// A node by its name.
    pub fn node(&self, name: &str) -> Result<&Node> {
        self.nodes
            .iter()
            .find(|n| n.name() == name)
            .ok_or_else(|| Error::failed(format!("lab {:?} has no node {name}", self.name)))
    }

    /// All nodes in order.
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// The impaired wire, if the underlay is one.
    pub fn impaired(&self) -> Result<&ImpairedWire> {
        match &self.wire {
            Wire::Impaired(wire) => Ok(wire),
            _ => Err(not_impaired()),
        }
    }

    /// Makes a pod.
    pub fn pod(&self, name: &str) -> Result<Pod> {
        Ok(Pod { name: name.to_owned(), ns: Netns::create(&format!("{}{name}", prefix_of(&self.name)))? })
    }

    /// The directory for the lab's files.
    pub fn dir(&self) -> &std::path::Path {
        &self.dir
    }

    /// The commands with which a person looks around in a lab left standing by
    /// [`crate::enter::keep`].
    pub fn how_to_look_around(&self, sandbox: &crate::enter::Sandbox) -> String {
        let enter = crate::enter::enter_command(sandbox);
        let mut text = format!(
            "The lab stands. It ends with:   kill {{pid}}\nA shell inside:   {enter} bash\nthen for example:\n  ip netns\n"
        );
        for node in &self.nodes {
            let socket = node.socket();
            text.push_str(&format!("  {} --socket {} status\n", node.swctl_path(), socket.display()));
        }
        text
    }
}

impl Pod {
    /// Its name, also used as the name of its port.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its namespace.
    pub fn ns(&self) -> &Ns {
        &self.ns
    }

    /// Takes the namespace's name away while others may still use it.
    pub fn delete(self) {
        self.ns.delete();
    }
}

fn prefix_of(name: &str) -> String {
    if name.is_empty() { String::new() } else { format!("{name}-") }
}
