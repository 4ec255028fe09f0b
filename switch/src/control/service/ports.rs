//! Ports.

use ctl::desired::{DesiredState, Network, Place, Port};
use ctl::error::ApiError;
use ctl::proto;

use super::super::core::Core;
use super::super::reconcile::Actual;
use super::super::{Control, derive};
use super::objects::{Counted, counters, declared, delete, find, select};
use super::{required, status};
use crate::datapath::Egress;
use crate::engine::{Inspection, PortLimits, Rate, ShaperStats};
use crate::io::Offloads;

/// A static entry is about the port's devices and worth nothing without it.
fn drop_entries(desired: &mut DesiredState, name: &str) {
    desired.fdb.retain(|e| !matches!(&e.place, Place::Port(port) if port == name));
}

impl Counted for Port {
    fn egress(core: &Core, name: &str) -> Option<Egress> {
        core.up(name).map(|up| Egress::Port(up.id))
    }
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
            let ack = if let Some(ack) = declared(&core, &port, request.may_exist)? {
                core.retry_port(&port.name)?;
                ack
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
        delete::<Port>(&mut *self.core().await, &request.name, request.if_exists, |_, _| None, drop_entries)
    }

    pub(super) async fn list_ports(
        &self,
        request: proto::ListPortsRequest,
    ) -> Result<proto::ListPortsReply, ApiError> {
        let core = self.core().await;
        let mut ports = select::<Port>(&core.desired, &request.names)?;
        if !request.network.is_empty() {
            find::<Network>(&core.desired, &request.network)?;
            ports.retain(|p| p.network == request.network);
        }
        Ok(proto::ListPortsReply { ports: ports.into_iter().map(|p| info(&core, p)).collect() })
    }

    pub(super) async fn port_stats(
        &self,
        request: proto::PortStatsRequest,
    ) -> Result<proto::PortStatsReply, ApiError> {
        let stats = self.stats::<Port, _>(&request.names, stat).await?;
        let named = |(name, stat): (String, proto::PortStat)| proto::PortStat {
            name,
            // Also of a port that the worker does not have.
            counters: Some(stat.counters.unwrap_or_default()),
            ..stat
        };
        Ok(proto::PortStatsReply { ports: stats.into_iter().map(named).collect() })
    }
}

/// All but the name.
fn stat(i: &Inspection<'_>, who: Egress) -> proto::PortStat {
    let limits = match who {
        Egress::Port(id) => i.shapers.of(id, i.now_ms).unwrap_or_default(),
        Egress::Peer(_) => PortLimits::default(),
    };
    proto::PortStat {
        name: String::new(),
        counters: Some(counters(i, who)),
        ingress: limit(limits.limits.ingress, limits.ingress),
        egress: limit(limits.limits.egress, limits.egress),
    }
}

/// One direction that has a limit.
fn limit(rate: Option<Rate>, stats: Option<ShaperStats>) -> Option<proto::LimitStats> {
    let (rate, stats) = (rate?, stats?);
    Some(proto::LimitStats {
        rate: rate.bytes_per_second.saturating_mul(8),
        burst: rate.burst_bytes.saturating_mul(8),
        queued_frames: stats.queued_frames,
        queued_bytes: stats.queued_bytes,
        delayed_frames: stats.delayed_frames,
        pauses: stats.pauses,
        paused_ms: stats.paused_ms,
        dropped_packets: stats.dropped_packets,
    })
}

fn info(core: &Core, port: &Port) -> proto::PortInfo {
    let network = find::<Network>(&core.desired, &port.network).ok();
    let mut info = proto::PortInfo {
        spec: Some(port.clone().into()),
        state: proto::ObjectState::Pending.into(),
        problem: String::new(),
        mac: derive::port_mac(&core.settings, port).to_string(),
        mtu: network.map_or(0, |n| derive::port_mtu(&core.settings, port, n)),
        vni: network.map_or(0, |n| n.vni.get()),
        netns_path: port.netns_ref().path().display().to_string(),
        ifindex: 0,
        offloads: Vec::new(),
        up_ms: 0,
        worker: 0,
        ips: network.map(|n| derive::port_ips(port, n)).iter().flatten().map(ToString::to_string).collect(),
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
