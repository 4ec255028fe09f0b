//! A node with pods, and one more that comes and goes.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use lab::cniclient::{Attached, Container, Plugin};
use lab::plan::{NodePort, Plan};
use lab::witness::{Transport, Witness, ask};
use lab::{Context, Error, Lab, Pod, Result};

/// Programs that are run.
pub const TOOLS: &[&str] = &["ip", "nft", "/usr/lib/cni/bridge"];
/// Where the pod listens that new pods ask.
const PORT: u16 = 7000;
/// How often a new pod asks before the round counts as failed.
const TRIES: u32 = 5;

/// Which plugin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Swd,
    Bridge,
}

impl Kind {
    pub const ALL: [Self; 2] = [Self::Swd, Self::Bridge];
}

/// What is timed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    Add,
    FirstAnswer,
    Check,
    Del,
    Status,
}

impl Step {
    pub const ALL: [Self; 5] = [Self::Add, Self::FirstAnswer, Self::Check, Self::Del, Self::Status];

    pub const fn name(self) -> &'static str {
        match self {
            Self::Add => "ADD",
            Self::FirstAnswer => "ADD to first answer",
            Self::Check => "CHECK",
            Self::Del => "DEL",
            Self::Status => "STATUS",
        }
    }
}

/// A node, its pods, and the one among them that answers.
pub struct Contender {
    kind: Kind,
    _witness: Witness,
    pods: Vec<(Pod, Attached)>,
    lab: Lab,
}

impl Contender {
    /// A node with so many pods.
    pub fn build(kind: Kind, pods: u32) -> Result<Self> {
        let name = match kind {
            Kind::Swd => "swd",
            Kind::Bridge => "bridge",
        };
        let lab = Lab::new(name).node("n").node("peer").build()?;
        let node = lab.node("n")?;
        if kind == Kind::Swd {
            node.start_planned(&Plan {
                underlay: node.underlay4().into(),
                network: "pods".into(),
                vni: 1,
                subnets: vec![("10.1.0.0/16".into(), "10.1.0.1".into())],
                ranges: Vec::new(),
                node_port: Some(NodePort { masquerade: true, ..NodePort::default() }),
                peers: Vec::new(),
            })?;
        }
        let plugin = plugin(kind, &lab)?;
        let mut present = Vec::new();
        for number in 0..pods {
            let (pod, container) = container(&lab, &format!("p{number}"))?;
            let attached = plugin.add(&container)?;
            present.push((pod, attached));
        }
        let (pod, _) = present.first().ok_or("no pods")?;
        let witness = Witness::everywhere(pod.ns(), "first", PORT)?;
        Ok(Self { kind, _witness: witness, pods: present, lab })
    }

    pub const fn name(&self) -> &'static str {
        match self.kind {
            Kind::Swd => "swd-cni",
            Kind::Bridge => "bridge, host-local",
        }
    }

    /// One pod comes, asks another, is checked, and goes.
    pub fn round(&self, number: u32) -> Result<Vec<(Step, Duration)>> {
        let plugin = plugin(self.kind, &self.lab)?;
        let (_, first) = self.pods.first().ok_or("no pods")?;
        let at = SocketAddr::new(first.ip(false)?, PORT);
        let (pod, container) = container(&self.lab, &format!("r{number}"))?;
        let mut times = Vec::new();

        let start = Instant::now();
        let attached = plugin.add(&container)?;
        times.push((Step::Add, start.elapsed()));
        answered(&pod, at)?;
        times.push((Step::FirstAnswer, start.elapsed()));

        let start = Instant::now();
        plugin.check(&attached)?.map_err(|r| Error::failed(format!("CHECK: {r:?}")))?;
        times.push((Step::Check, start.elapsed()));
        if self.kind == Kind::Swd {
            let start = Instant::now();
            plugin.status()?.map_err(|r| Error::failed(format!("STATUS: {r:?}")))?;
            times.push((Step::Status, start.elapsed()));
        }
        let start = Instant::now();
        plugin.del(&attached)?;
        times.push((Step::Del, start.elapsed()));
        Ok(times)
    }
}

fn plugin(kind: Kind, lab: &Lab) -> Result<Plugin<'_>> {
    let node = lab.node("n")?;
    match kind {
        Kind::Swd => Plugin::new(node, "pods"),
        Kind::Bridge => Plugin::stock_bridge(node, "stock", "10.55.0.0/16"),
    }
}

fn container(lab: &Lab, name: &str) -> Result<(Pod, Container)> {
    let pod = lab.pod(name)?;
    let container = Container::new(pod.ns().name(), pod.ns().path());
    Ok((pod, container))
}

/// A datagram that is lost is sent again, and counts as what it is: time that the pod waits.
fn answered(pod: &Pod, at: SocketAddr) -> Result<()> {
    let mut last = None;
    for _ in 0..TRIES {
        match ask(pod.ns(), Transport::Udp, at, 64) {
            Ok(_) => return Ok(()),
            Err(e) => last = Some(e),
        }
    }
    Err(last.unwrap_or_else(|| Error::failed("not asked"))).context(format!("{TRIES} tries"))
}
