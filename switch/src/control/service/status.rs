//! Health, and waiting for generations.

use std::time::Duration;

use ctl::error::{ApiError, Reason};
use ctl::proto;

use super::super::core::Core;
use super::super::reconcile::Actual;
use super::super::{Control, derive};
use super::drops::ledger;
use crate::io::PortHealth;
use crate::node::stretch;
use crate::sandbox::Measure;

const DEFAULT_WAIT: Duration = Duration::from_secs(10);
const LONGEST_WAIT: Duration = Duration::from_secs(3600);

impl Control {
    pub(super) async fn get_status(&self, _: proto::GetStatusRequest) -> Result<proto::Status, ApiError> {
        let (mut status, answer) = {
            let core = self.core().await;
            let answer = core.ask(|i| (i.tables.generation, i.datapath.counters.clone()))?;
            (describe(&core), answer)
        };
        status.uptime_ms = self.started.elapsed().as_millis() as u64;
        match answer.get().await {
            Ok((epoch, counters)) => {
                status.applied_generation = self.core().await.applied_generation(epoch);
                status.ledger = Some(ledger(&counters));
            }
            // A status must be had even then.
            Err(e) => status.degraded.push(proto::Degraded {
                object: "worker 0".to_owned(),
                message: e.message,
                hint: e.hint,
            }),
        }
        Ok(status)
    }

    pub(super) async fn wait_generation(
        &self,
        request: proto::WaitGenerationRequest,
    ) -> Result<proto::WaitGenerationReply, ApiError> {
        let limit = match request.timeout_ms {
            0 => DEFAULT_WAIT,
            ms => Duration::from_millis(ms.into()).min(LONGEST_WAIT),
        };
        let mut applied = self.applied.clone();
        let wait = async {
            loop {
                let epoch = *applied.borrow_and_update();
                {
                    let core = self.core().await;
                    let reached = core.applied_generation(epoch);
                    if reached >= request.generation {
                        let generation = core.generation;
                        return Ok(proto::WaitGenerationReply { generation, applied_generation: reached });
                    }
                }
                if applied.changed().await.is_err() {
                    return Err(ApiError::new(Reason::Internal, "the switch is stopping"));
                }
            }
        };
        match tokio::time::timeout(limit, wait).await {
            Ok(result) => result,
            Err(_) => {
                let core = self.core().await;
                let applied = core.applied_generation(*self.applied.borrow());
                let text = format!(
                    "generation {} is not in force after {limit:?}: desired is {}, in force {applied}",
                    request.generation, core.generation
                );
                Err(ApiError::new(Reason::Timeout, text)
                    .hint("was that generation ever acknowledged by this node?"))
            }
        }
    }
}

impl Control {
    /// Waits until the worker runs with tables of at least this generation.
    pub(super) async fn in_force(&self, object: &str, epoch: u64) -> Result<(), ApiError> {
        let mut applied = self.applied.clone();
        let reached = applied.wait_for(|e| *e >= epoch);
        match tokio::time::timeout(DEFAULT_WAIT, reached).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(_)) => Err(ApiError::new(Reason::Internal, "the switch is stopping")),
            Err(_) => {
                let text =
                    format!("{object} is declared, but the worker has not taken it over in {DEFAULT_WAIT:?}");
                Err(ApiError::new(Reason::Timeout, text)
                    .hint("is the machine overloaded? see the log of swd"))
            }
        }
    }
}

fn describe(core: &Core) -> proto::Status {
    let settings = &core.settings;
    let degraded = degraded(core);
    let ports_up =
        core.ports.values().filter(|p| matches!(p, Actual::Up(up) if !cuts_off(up.health))).count();
    let peers_up = core.desired.peers.iter().filter(|p| core.ids.peers.get(&p.name).is_some()).count();
    // What every open port was granted; without ports, nothing is known.
    let mut tap: Vec<String> = Vec::new();
    for actual in core.ports.values() {
        if let Actual::Up(up) = actual {
            for word in super::ports::offloads(up.offloads) {
                if !tap.contains(&word) {
                    tap.push(word);
                }
            }
        }
    }
    proto::Status {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        node: settings.node.clone(),
        underlay: settings.underlay.map(|u| u.addr.to_string()).unwrap_or_default(),
        router_mac: derive::own_router_mac(settings).to_string(),
        pid: std::process::id(),
        uptime_ms: 0,
        generation: core.generation,
        applied_generation: 0,
        workers: settings.workers,
        networks: core.desired.networks.len() as u32,
        ports_up: ports_up as u32,
        ports_down: (core.desired.ports.len() - ports_up.min(core.desired.ports.len())) as u32,
        peers_up: peers_up as u32,
        peers_down: (core.desired.peers.len() - peers_up) as u32,
        offload: Some(proto::OffloadFacts {
            tap,
            udp_gso_segments: settings.udp_gso_segments,
            udp_gro: settings.udp_gro,
        }),
        degraded,
        ledger: None,
        watch: core.reach.words(),
        sandbox: settings.sandbox.measures.iter().map(measure).collect(),
        monitor: settings.monitor.as_ref().map(|m| proto::MonitorInfo {
            pid: m.pid,
            restarts: m.history.restarts,
            last_end: m.history.last_end.clone().unwrap_or_default(),
            upgrades: m.history.upgrades,
        }),
    }
}

fn measure(m: &Measure) -> proto::SandboxMeasure {
    proto::SandboxMeasure { measure: m.measure.clone(), achieved: m.achieved, detail: m.detail.clone() }
}

/// A message about an object, without its name.
pub(in super::super) fn own_words<'a>(object: &str, message: &'a str) -> &'a str {
    message.strip_prefix(object).and_then(|rest| rest.strip_prefix(": ")).unwrap_or(message)
}

/// Can a port in this condition carry no traffic?
pub(in super::super) fn cuts_off(health: PortHealth) -> bool {
    matches!(health, PortHealth::Down | PortHealth::MacChanged { .. })
}

/// A port's condition in words; `None` when it is as it should be.
pub(in super::super) fn health(health: PortHealth, mtu: u32) -> Option<(String, &'static str)> {
    match health {
        PortHealth::Down => {
            Some(("its interface was set down inside the pod".to_owned(), "ip -n NETNS link set IFNAME up"))
        }
        PortHealth::MtuChanged { found } => Some((
            format!("its interface has MTU {found} instead of {mtu}"),
            "declare the MTU with --mtu instead of setting it inside the pod",
        )),
        PortHealth::MacChanged { found } => Some((
            format!("its interface has MAC {found} now, so its frames are dropped"),
            "declare the MAC with --mac instead of setting it inside the pod",
        )),
        PortHealth::PodAddressMissing { addr } => Some((
            format!("its address {addr} was removed inside the pod"),
            "put it back with `ip -n NETNS addr add`, or delete the port and add it again",
        )),
        PortHealth::PodRouteMissing { gateway } => Some((
            format!("its default route by {gateway} was removed inside the pod"),
            "put it back with `ip -n NETNS route add default via`, or declare the port with --no-default-route",
        )),
        PortHealth::AddressMissing { addr } | PortHealth::NextHopMissing { addr } => Some((
            format!("the node has lost {addr} on its device; it is put back"),
            "find out what removes it: `ip monitor`",
        )),
        PortHealth::RouteMissing { net } => Some((
            format!("the node has lost its route to {net}; it is put back"),
            "find out what removes it: `ip monitor route`",
        )),
        PortHealth::Healthy
        | PortHealth::NetnsGone
        | PortHealth::NetnsReplaced
        | PortHealth::IfaceGone
        | PortHealth::IfaceReplaced => None,
    }
}

fn degraded(core: &Core) -> Vec<proto::Degraded> {
    let mut list = Vec::new();
    let mut add =
        |object: String, message: String, hint: String| list.push(proto::Degraded { object, message, hint });
    for (message, hint) in core.state_problems() {
        add("state".to_owned(), message, hint);
    }
    if let Some((message, hint)) = core.ground.problem() {
        add("underlay".to_owned(), message.clone(), hint.clone());
    }
    for network in &core.desired.networks {
        let mtu = derive::network_mtu(&core.settings, network);
        let fits = |p: &&ctl::desired::Peer| {
            derive::applies(p, network) && derive::peer_mtu(&core.settings, p) < mtu
        };
        if let Some(peer) = core.desired.peers.iter().find(fits) {
            let most = derive::peer_mtu(&core.settings, peer);
            add(
                format!("network {}", network.name),
                format!("its MTU is {mtu}, but only {most} bytes reach peer {}", peer.name),
                format!("set its MTU to {most}, or raise that of the underlay"),
            );
        }
    }
    for (name, actual) in &core.ports {
        match actual {
            Actual::Down(down) => {
                let object = format!("port {name}");
                let message = own_words(&object, &down.error.message).to_owned();
                add(object, message, down.error.hint.clone());
            }
            Actual::Up(up) => {
                if let Some((message, hint)) = health(up.health, up.spec.mtu) {
                    add(format!("port {name}"), message, hint.to_owned());
                }
            }
        }
    }
    if let Some(problem) = core.kernel.problem() {
        add("node".to_owned(), problem.to_owned(), String::new());
    }
    for obstacle in core.kernel.obstacles() {
        add("node".to_owned(), obstacle.message.clone(), obstacle.hint.clone());
    }
    for problem in core.plan.problems.iter().filter(|p| core.up(&p.port).is_some()) {
        add(format!("port {}", problem.port), problem.text.clone(), String::new());
    }
    for port in core.desired.ports.iter().filter(|p| core.up(&p.name).is_some()) {
        if let Some(obstacle) = stretch::obstacle(&core.desired, port) {
            add(format!("port {}", port.name), obstacle.message, obstacle.hint);
        }
    }
    for peer in &core.desired.peers {
        if let Some(problem) = derive::peer_problem(&core.settings, peer) {
            add(format!("peer {}", peer.name), problem, String::new());
        }
    }
    list
}
