//! Ports.

use ctl::desired::{DesiredState, Place, Port};
use ctl::error::ApiError;
use ctl::proto;

use super::super::core::Core;
use super::super::reconcile::Actual;
use super::super::{Control, derive};
use super::{existing, names, networks, required, status};
use crate::datapath::Egress;
use crate::io::Offloads;

fn find<'a>(desired: &'a DesiredState, name: &str) -> Result<&'a Port, ApiError> {
    desired.ports.iter().find(|p| p.name == name).ok_or_else(|| ApiError::no_port(name))
}

/// Offloads in the words of the API.
pub(super) fn offloads(granted: Offloads) -> Vec<String> {
    [
        (granted.csum(), &["csum"][..]),
        (granted.tso(), &["tso4", "tso6", "ecn"]),
        (granted.uso(), &["uso4", "uso6"]),
    ]
    .into_iter()
    .filter(|(granted, _)| *granted)
    .flat_map(|(_, words)| words.iter().map(|&w| w.to_owned()))
    .collect()
}

impl Control {
    pub(super) async fn add_port(&self, request: proto::AddPortRequest) -> Result<proto::Ack, ApiError> {
        let port = Port::try_from(required("port", request.port)?)?;
        let object = format!("port {}", port.name);
        let (ack, epoch) = {
            let mut core = self.core().await;
            let ack = if let Ok(old) = find(&core.desired, &port.name) {
                existing(&object, old, &port, request.may_exist)?;
                core.retry_port(&port.name)?;
                proto::Ack { generation: core.generation, changed: false }
            } else {
                proto::Ack { generation: core.add_port(port)?, changed: true }
            };
            (ack, core.tables().generation)
        };
        self.in_force(&object, epoch).await?;
        Ok(ack)
    }

    pub(super) async fn delete_port(
        &self,
        request: proto::DeletePortRequest,
    ) -> Result<proto::Ack, ApiError> {
        let name = request.name;
        let mut core = self.core().await;
        if let Err(e) = find(&core.desired, &name) {
            return if request.if_exists {
                Ok(proto::Ack { generation: core.generation, changed: false })
            } else {
                Err(e)
            };
        }
        let mut next = core.desired.clone();
        next.ports.retain(|p| p.name != name);
        // A static entry is about the port's devices and worth nothing without it.
        let place = Place::Port(name);
        next.fdb.retain(|e| e.place != place);
        Ok(proto::Ack { generation: core.commit(next)?, changed: true })
    }

    pub(super) async fn list_ports(
        &self,
        request: proto::ListPortsRequest,
    ) -> Result<proto::ListPortsReply, ApiError> {
        let core = self.core().await;
        for name in &request.names {
            find(&core.desired, name)?;
        }
        if !request.network.is_empty() {
            networks::find(&core.desired, &request.network)?;
        }
        let listed = |p: &&Port| {
            (request.names.is_empty() || request.names.contains(&p.name))
                && (request.network.is_empty() || p.network == request.network)
        };
        let mut ports: Vec<&Port> = core.desired.ports.iter().filter(listed).collect();
        ports.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(proto::ListPortsReply { ports: ports.into_iter().map(|p| info(&core, p)).collect() })
    }

    pub(super) async fn port_stats(
        &self,
        request: proto::PortStatsRequest,
    ) -> Result<proto::PortStatsReply, ApiError> {
        let (mut wanted, answer) = {
            let core = self.core().await;
            for name in &request.names {
                find(&core.desired, name)?;
            }
            let listed = |p: &&Port| request.names.is_empty() || request.names.contains(&p.name);
            let wanted: Vec<_> = core
                .desired
                .ports
                .iter()
                .filter(listed)
                .map(|p| (p.name.clone(), core.up(&p.name).map(|up| Egress::Port(up.id))))
                .collect();
            (wanted, core.ask(|i| i.datapath.counters.clone())?)
        };
        let counted = answer.get().await?;
        wanted.sort();
        let ports = wanted
            .into_iter()
            .map(|(name, who)| {
                let counters = who.and_then(|who| counted.get(who)).map(|c| names::counters(c, false));
                proto::PortStat { name, counters: Some(counters.unwrap_or_default()) }
            })
            .collect();
        Ok(proto::PortStatsReply { ports })
    }
}

fn info(core: &Core, port: &Port) -> proto::PortInfo {
    let network = networks::find(&core.desired, &port.network).ok();
    let mut info = proto::PortInfo {
        spec: Some(port.clone().into()),
        state: proto::ObjectState::Pending.into(),
        problem: String::new(),
        mac: derive::port_mac(port).to_string(),
        mtu: network.map_or(0, |n| derive::port_mtu(&core.settings, port, n)),
        vni: network.map_or(0, |n| n.vni.get()),
        netns_path: port.netns_ref().path().display().to_string(),
        ifindex: 0,
        offloads: Vec::new(),
        up_ms: 0,
        worker: 0,
    };
    match core.ports.get(&port.name) {
        None => {}
        Some(Actual::Down(down)) => {
            info.state = proto::ObjectState::Failed.into();
            info.problem = status::own_words(&format!("port {}", port.name), &down.error.message).to_owned();
        }
        Some(Actual::Up(up)) => {
            let state =
                if status::cuts_off(up.health) { proto::ObjectState::Down } else { proto::ObjectState::Up };
            info.state = state.into();
            info.problem =
                status::health(up.health, up.spec.mtu).map(|(problem, _)| problem).unwrap_or_default();
            info.ifindex = up.place.ifindex;
            info.offloads = offloads(up.offloads);
            info.up_ms = up.since.elapsed().as_millis() as u64;
        }
    }
    info
}
