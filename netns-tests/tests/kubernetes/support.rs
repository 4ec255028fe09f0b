//! Nodes that come up from their plan files, and pods that a runtime makes through the CNI plugin.
//!
//! Node N has the pods 10.1.N.0/24 and fd00:N::/64, its own port with their first addresses, and the
//! others as peers. `out` is a host on the same wire that has no switch and no way back to pods.

use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use lab::cniclient::{Attached, Container, Plugin};
use lab::plan::{NodePort, Plan, PlannedPeer};
use lab::wire::{Underlay, WireOptions};
use lab::witness::{Testimony, Transport, Witness, ask};
use lab::{Context, Error, Lab, Node, Ns, Pod, Result, ensure};
use serde_json::{Value, json};

/// Name of the network.
pub const NETWORK: &str = "pods";
/// Where witnesses listen.
pub const PORT: u16 = 7000;
/// The host beyond the nodes.
pub const OUT: &str = "out";
/// For states that are reached in milliseconds on a machine with nothing else to do.
pub const SOON: Duration = Duration::from_secs(5);
/// Both families, as `v6`.
pub const FAMILIES: [bool; 2] = [false, true];

/// A lab whose nodes run.
#[derive(Debug)]
pub struct Cluster {
    pub lab: Lab,
}

/// A pod that the plugin attached.
#[derive(Debug)]
pub struct CniPod {
    pub pod: Pod,
    pub attached: Attached,
}

impl CniPod {
    pub fn ns(&self) -> &Ns {
        self.pod.ns()
    }

    pub fn name(&self) -> &str {
        self.pod.name()
    }

    pub fn ip(&self, v6: bool) -> Result<IpAddr> {
        self.attached.ip(v6)
    }

    /// A witness in it, on all its addresses.
    pub fn witness(&self) -> Result<Witness> {
        Witness::everywhere(self.ns(), self.name(), PORT)
    }

    /// Where its witness listens.
    pub fn at(&self, v6: bool) -> Result<SocketAddr> {
        Ok(SocketAddr::new(self.ip(v6)?, PORT))
    }
}

/// The pod ranges of a node.
pub fn ranges(node: &Node) -> [(String, String); 2] {
    let n = node.index();
    [(format!("10.1.{n}.0/24"), format!("10.1.{n}.1")), (format!("fd00:{n}::/64"), format!("fd00:{n}::1"))]
}

/// The address of a node in the pod network.
pub fn node_ip(node: &Node, v6: bool) -> Result<IpAddr> {
    let [v4, six] = ranges(node);
    Ok(if v6 { six.1 } else { v4.1 }.parse()?)
}

/// A witness on a node's own address of the underlay.
pub fn node_witness(node: &Node, v6: bool) -> Result<Witness> {
    Witness::at(node.ns(), node.name(), SocketAddr::new(node.underlay(v6), PORT))
}

/// The plan of a node among others, routed.
pub fn plan_of(node: &Node, all: &[Node]) -> Plan {
    let members = all.iter().filter(|n| n.name() != OUT && n.name() != node.name());
    Plan {
        underlay: node.underlay4().into(),
        network: NETWORK.into(),
        vni: 1,
        subnets: ranges(node).to_vec(),
        ranges: Vec::new(),
        node_port: Some(NodePort { masquerade: true, ..NodePort::default() }),
        peers: members
            .map(|n| PlannedPeer {
                name: n.name().to_owned(),
                remote: n.underlay4().into(),
                pod_cidrs: ranges(n).map(|(cidr, _)| cidr).to_vec(),
            })
            .collect(),
    }
}

impl Cluster {
    /// Nodes of these names, each from its plan file; `out` among them is none.
    pub fn new(name: &str, nodes: &[&str]) -> Result<Self> {
        Self::planned(name, nodes, |_, _| {})
    }

    /// As [`Cluster::new`], with a chance to change each plan.
    pub fn planned(name: &str, nodes: &[&str], edit: impl Fn(&Node, &mut Plan)) -> Result<Self> {
        let underlay =
            if nodes.len() > 1 { Underlay::Bridge(WireOptions::default()) } else { Underlay::default() };
        let mut lab = Lab::new(name).underlay(underlay);
        for node in nodes {
            lab = lab.node(node);
        }
        let cluster = Self { lab: lab.build()? };
        for node in cluster.members() {
            if nodes.len() == 1 {
                // Tunnels end at an address although there is nobody to talk to.
                node.ns().ip([
                    "link add uplink0 type veth peer name nobody0".to_owned(),
                    "link set nobody0 up".to_owned(),
                    "link set uplink0 up".to_owned(),
                    format!("addr add {}/24 dev uplink0", node.underlay4()),
                ])?;
            }
            let mut plan = plan_of(node, cluster.lab.nodes());
            edit(node, &mut plan);
            node.start_planned(&plan)?;
        }
        for node in cluster.members() {
            node.settle()?;
        }
        Ok(cluster)
    }

    /// The nodes with a switch.
    pub fn members(&self) -> impl Iterator<Item = &Node> {
        self.lab.nodes().iter().filter(|n| n.name() != OUT)
    }

    pub fn node(&self, name: &str) -> Result<&Node> {
        self.lab.node(name)
    }

    /// ADD of a new pod on a node.
    pub fn add(&self, node: &str, pod: &str) -> Result<CniPod> {
        self.add_with(node, pod, &[])
    }

    /// ADD with capabilities.
    pub fn add_with(&self, node: &str, pod: &str, runtime: &[(&str, Value)]) -> Result<CniPod> {
        let (pod, container) = self.container(pod, runtime)?;
        let attached = self.plugin(node)?.add(&container)?;
        Ok(CniPod { pod, attached })
    }

    /// A sandbox and how it is asked for, before ADD. No two have the same container id.
    pub fn container(&self, pod: &str, runtime: &[(&str, Value)]) -> Result<(Pod, Container)> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let pod = self.lab.pod(pod)?;
        let id = format!("{}-{}", pod.ns().name(), NUMBER.fetch_add(1, Ordering::Relaxed));
        let mut container = Container::new(&id, pod.ns().path());
        container.pod = pod.name().to_owned();
        for (capability, value) in runtime {
            container = container.with(capability, value.clone());
        }
        Ok((pod, container))
    }

    pub fn plugin(&self, node: &str) -> Result<Plugin<'_>> {
        Plugin::new(self.lab.node(node)?, NETWORK)
    }

    /// The end of a test: on every node no frame is unaccounted for, none was dropped for another
    /// reason than those allowed, and nothing is degraded.
    ///
    /// `no-port` is always allowed: a pod's stack reports its multicast groups the moment its device is
    /// there, which is before tables name the port, and may say more while it is removed.
    pub fn check(&self, allowed: &[&str]) -> Result<()> {
        let allowed = [allowed, &["no-port"]].concat();
        for node in self.members() {
            lab::conserve::check_node(node, &allowed)?;
            let status = node.swctl_output(&["-o", "json", "status"])?;
            let status: Value = serde_json::from_str(&status.stdout)?;
            ensure!(status["degraded"] == json!([]), "{} is degraded: {}", node.name(), status["degraded"]);
        }
        Ok(())
    }
}

/// Asks a witness and requires who answers and whom it sees.
pub fn expect(
    from: &Ns,
    transport: Transport,
    to: SocketAddr,
    size: usize,
    name: &str,
    source: IpAddr,
) -> Result<()> {
    let said = ask(from, transport, to, size)?;
    let wanted = Testimony { name: name.to_owned(), source };
    ensure!(said == wanted, "{} asks {to} over {transport:?}: {said:?} instead of {wanted:?}", from.name());
    Ok(())
}

/// What a runtime asks for one port of the node.
pub fn mapping(host_ip: &str, host_port: u16, protocol: &str) -> Value {
    json!({ "hostPort": host_port, "containerPort": PORT, "protocol": protocol, "hostIP": host_ip })
}

/// A remark for whoever reads the output of the suite.
pub fn note(text: &str) {
    use std::io::Write as _;
    // A closed standard error is no reason to fail a test.
    let _ = writeln!(std::io::stderr(), "NOTE {text}");
}

/// Attachments in a node's desired state, by name.
pub fn attachments(node: &Node) -> Result<Vec<String>> {
    let ports = node.swctl(&["port", "show"])?;
    let list = ports.as_array().ok_or("swctl port show prints no list")?;
    let attached = list.iter().filter(|p| p["container_id"].as_str().is_some_and(|id| !id.is_empty()));
    Ok(attached.filter_map(|p| p["name"].as_str().map(str::to_owned)).collect())
}

/// Tombstones that wait for a node's daemon.
pub fn tombstones(node: &Node) -> Result<Vec<String>> {
    let dir = node.dir().join("deleted");
    match std::fs::read_dir(&dir) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
        entries => {
            let names =
                entries.context(dir.display())?.map(|e| Ok(e?.file_name().to_string_lossy().into_owned()));
            names.collect()
        }
    }
}

/// Nothing that a pod had is left in the desired state of a node, and nothing waits to be deleted.
pub fn nothing_left(node: &Node) -> Result<()> {
    let (left, waiting) = (attachments(node)?, tombstones(node)?);
    if left.is_empty() && waiting.is_empty() {
        return Ok(());
    }
    Err(Error::failed(format!("left on {}: attachments {left:?}, tombstones {waiting:?}", node.name())))
}
