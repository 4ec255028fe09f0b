//! Neighbours: those of declared ports, static ones, and what the worker resolved or heard.

use std::net::IpAddr;

use ctl::desired::Network;
use ctl::error::ApiError;
use ctl::proto;

use super::super::Control;
use super::names::{Names, seconds, target};
use super::objects::find;
use crate::datapath::{Egress, NeighbourEntry, NetId};
use crate::engine::Inspection;

/// A learned entry this old is asked about again when it is used; the data path's limit.
const FRESH_S: u32 = 30;

/// A neighbour as found, numbers not yet replaced by names.
pub(super) struct Found {
    network: NetId,
    ip: IpAddr,
    mac: Option<packet::MacAddr>,
    egress: Option<Egress>,
    fixed: bool,
    age: u32,
    waiting: u32,
}

impl Found {
    fn learned(i: &Inspection<'_>, e: &NeighbourEntry) -> Self {
        Self {
            network: e.network,
            ip: e.ip,
            mac: e.mac,
            egress: e.owner,
            fixed: false,
            age: if e.mac.is_some() { seconds(e.age_ms(i.now_ms), 0) } else { 0 },
            waiting: e.waiting as u32,
        }
    }

    /// In names; `None` when the network is gone.
    pub(super) fn info(&self, names: &Names) -> Option<proto::NeighbourInfo> {
        let (network, vni) = names.network(self.network)?;
        let state = match (self.mac, self.fixed) {
            (_, true) => proto::NeighbourState::Permanent,
            (None, false) => proto::NeighbourState::Incomplete,
            (Some(_), false) if self.age < FRESH_S => proto::NeighbourState::Reachable,
            (Some(_), false) => proto::NeighbourState::Stale,
        };
        Some(proto::NeighbourInfo {
            network: network.to_owned(),
            vni,
            ip: self.ip.to_string(),
            mac: self.mac.map(|m| m.to_string()).unwrap_or_default(),
            state: state.into(),
            target: self.egress.and_then(|e| target!(neighbour_info, e, names)),
            used: self.age,
            updated: self.age,
            queued: self.waiting,
        })
    }
}

fn fixed(i: &Inspection<'_>, only: Option<NetId>) -> Vec<Found> {
    let tables = i.tables.networks.iter().flatten().filter(|n| only.is_none_or(|id| id == n.id));
    tables
        .flat_map(|n| {
            n.neighbours.iter().map(|(&ip, a)| Found {
                network: n.id,
                ip,
                mac: Some(a.mac),
                egress: a.egress,
                fixed: true,
                age: 0,
                waiting: 0,
            })
        })
        .collect()
}

/// What the worker knows of one address.
pub(super) fn lookup(i: &Inspection<'_>, network: NetId, ip: IpAddr) -> Option<Found> {
    let table = i.tables.network(network)?;
    if let Some(a) = table.neighbours.get(&ip) {
        return Some(Found {
            network,
            ip,
            mac: Some(a.mac),
            egress: a.egress,
            fixed: true,
            age: 0,
            waiting: 0,
        });
    }
    i.datapath.neighbours().iter().find(|e| e.network == network && e.ip == ip).map(|e| Found::learned(i, &e))
}

impl Control {
    pub(super) async fn list_neighbours(
        &self,
        request: proto::ListNeighboursRequest,
    ) -> Result<proto::ListNeighboursReply, ApiError> {
        let (names, answer) = {
            let core = self.core().await;
            let only = only(&core, &request.network)?;
            let answer = core.ask(move |i| {
                let mut found = fixed(i, only);
                let learned =
                    i.datapath.neighbours().iter().filter(|e| only.is_none_or(|id| id == e.network));
                found.extend(learned.map(|e| Found::learned(i, &e)));
                found
            })?;
            (Names::of(&core), answer)
        };
        let mut found = answer.get().await?;
        found.sort_by_key(|f| (names.network(f.network).map(|(n, _)| n.to_owned()), f.ip));
        Ok(proto::ListNeighboursReply { neighbours: found.iter().filter_map(|f| f.info(&names)).collect() })
    }

    pub(super) async fn flush_neighbours(
        &self,
        request: proto::FlushNeighboursRequest,
    ) -> Result<proto::FlushReply, ApiError> {
        let answer = {
            let core = self.core().await;
            let only = only(&core, &request.network)?;
            core.ask(move |i| {
                let now_ms = i.now_ms;
                i.datapath.neighbours_mut().forget(now_ms, |e| only.is_none_or(|id| id == e.network))
            })?
        };
        Ok(proto::FlushReply { removed: answer.get().await? })
    }
}

fn only(core: &super::super::core::Core, network: &str) -> Result<Option<NetId>, ApiError> {
    if network.is_empty() {
        return Ok(None);
    }
    find::<Network>(&core.desired, network)?;
    // A declared network always has a number; were there none, this one names nothing.
    let id = core.ids.networks.get(network).and_then(|id| u16::try_from(id).ok());
    Ok(Some(NetId(id.unwrap_or(u16::MAX))))
}
