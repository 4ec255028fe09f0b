//! The FDB: static entries are declared, learned ones are the worker's.

use ctl::desired::convert::field;
use ctl::desired::{FdbEntry, Network, Peer, Place, Port};
use ctl::error::{ApiError, Reason};
use ctl::proto;
use packet::MacAddr;

use super::super::core::Core;
use super::super::{Control, derive};
use super::names::{Names, seconds, target};
use super::objects::{Counted as _, commit, find, unchanged};
use super::{existing, required};
use crate::datapath::{Egress, NetId};

const DEFAULT_LIMIT: usize = 100_000;

/// Which entries are meant; `None`: all.
#[derive(Clone, Copy, Default)]
struct Filter {
    network: Option<NetId>,
    egress: Option<Egress>,
    mac: Option<MacAddr>,
    /// Something is named that has no number, so nothing can match.
    nothing: bool,
}

impl Filter {
    fn new(core: &Core, network: &str, port: &str, peer: &str) -> Result<Self, ApiError> {
        let mut filter = Self::default();
        if !network.is_empty() {
            find::<Network>(&core.desired, network)?;
            filter.network = core.ids.networks.get(network).and_then(|id| u16::try_from(id).ok()).map(NetId);
        }
        if !port.is_empty() {
            find::<Port>(&core.desired, port)?;
            filter.egress = Port::egress(core, port);
            filter.nothing |= filter.egress.is_none();
        }
        if !peer.is_empty() {
            find::<Peer>(&core.desired, peer)?;
            if !port.is_empty() {
                return Err(ApiError::invalid("request", "a port and a peer are given: at most one"));
            }
            filter.egress = Peer::egress(core, peer);
            filter.nothing |= filter.egress.is_none();
        }
        Ok(filter)
    }

    fn takes(&self, network: NetId, mac: MacAddr, egress: Option<Egress>) -> bool {
        !self.nothing
            && self.network.is_none_or(|n| n == network)
            && self.mac.is_none_or(|m| m == mac)
            && (self.egress.is_none() || self.egress == egress)
    }
}

impl Control {
    pub(super) async fn list_fdb(
        &self,
        request: proto::ListFdbRequest,
    ) -> Result<proto::ListFdbReply, ApiError> {
        let limit = match request.limit {
            0 => DEFAULT_LIMIT,
            n => n as usize,
        };
        let (mut entries, names, answer) = {
            let core = self.core().await;
            let mut filter = Filter::new(&core, &request.network, &request.port, &request.peer)?;
            if !request.mac.is_empty() {
                filter.mac = Some(field("request", &request.mac)?);
            }
            let names = Names::of(&core);
            let fixed = fixed(&core, &names, filter);
            let answer = core.ask(move |i| {
                let entries: Vec<_> = i
                    .datapath
                    .fdb()
                    .iter()
                    .filter(|e| filter.takes(e.network, e.mac, Some(e.egress)))
                    .collect();
                (i.now_ms, entries)
            })?;
            (fixed, names, answer)
        };
        let (now_ms, learned) = answer.get().await?;
        for e in learned {
            let Some((network, vni)) = names.network(e.network) else { continue };
            entries.push(proto::FdbInfo {
                network: network.to_owned(),
                vni,
                mac: e.mac.to_string(),
                target: target!(fdb_info, e.egress, names),
                dst: names.remote(e.egress),
                state: proto::FdbState::Learned.into(),
                used: seconds(now_ms, e.used_ms),
                updated: seconds(e.age_ms(now_ms), 0),
                stale: e.stale.is_some(),
            });
        }
        entries.sort_by(|a, b| (&a.network, &a.mac).cmp(&(&b.network, &b.mac)));
        let total = entries.len() as u64;
        entries.truncate(limit);
        Ok(proto::ListFdbReply { entries, total })
    }

    pub(super) async fn add_fdb(&self, request: proto::AddFdbRequest) -> Result<proto::Ack, ApiError> {
        let entry = FdbEntry::try_from(required("entry", request.entry)?)?;
        let mut core = self.core().await;
        let same = |e: &&FdbEntry| e.network == entry.network && e.mac == entry.mac;
        if let Some(old) = core.desired.fdb.iter().find(same) {
            existing(&entry.to_string(), old, &entry, request.may_exist)?;
            return Ok(unchanged(&core));
        }
        let mut next = core.desired.clone();
        let mac = entry.mac;
        let network = entry.network.clone();
        next.fdb.push(entry);
        let generation = core.commit(next)?;
        // A learned entry of the same address is shadowed; without this it would come back later.
        forget(&core, &network, mac)?;
        Ok(proto::Ack { generation, changed: true })
    }

    pub(super) async fn delete_fdb(&self, request: proto::DeleteFdbRequest) -> Result<proto::Ack, ApiError> {
        let mac: MacAddr = field("fdb entry", &request.mac)?;
        let network = request.network;
        let (removed, generation) = {
            let mut core = self.core().await;
            find::<Network>(&core.desired, &network)?;
            let mut next = core.desired.clone();
            next.fdb.retain(|e| e.network != network || e.mac != mac);
            if next.fdb.len() < core.desired.fdb.len() {
                return commit(&mut core, next);
            }
            let declared = |p: &&Port| {
                p.network == network && !p.ips.is_empty() && derive::port_mac(&core.settings, p) == mac
            };
            if let Some(port) = core.desired.ports.iter().find(declared) {
                let text =
                    format!("fdb entry {mac} in network {network} is the address of port {}", port.name);
                return Err(ApiError::new(Reason::InUse, text).hint("it goes with the port"));
            }
            (forget(&core, &network, mac)?, core.generation)
        };
        let removed = match removed {
            Some(answer) => answer.get().await?,
            None => false,
        };
        if !removed && !request.if_exists {
            return Err(ApiError::new(
                Reason::FdbNotFound,
                format!("no fdb entry {mac} in network {network}"),
            )
            .hint("list them: swctl fdb show"));
        }
        Ok(proto::Ack { generation, changed: removed })
    }

    pub(super) async fn flush_fdb(
        &self,
        request: proto::FlushFdbRequest,
    ) -> Result<proto::FlushReply, ApiError> {
        let answer = {
            let core = self.core().await;
            let filter = Filter::new(&core, &request.network, &request.port, &request.peer)?;
            core.ask(move |i| i.datapath.fdb_mut().flush(|e| filter.takes(e.network, e.mac, Some(e.egress))))?
        };
        Ok(proto::FlushReply { removed: answer.get().await? })
    }
}

/// Removes a learned entry.
fn forget(
    core: &Core,
    network: &str,
    mac: MacAddr,
) -> Result<Option<super::super::program::Answer<bool>>, ApiError> {
    let Some(id) = core.ids.networks.get(network).and_then(|id| u16::try_from(id).ok()) else {
        return Ok(None);
    };
    Ok(Some(core.ask(move |i| i.datapath.fdb_mut().remove(NetId(id), mac))?))
}

/// The entries that are in the published tables: of declared ports, made by hand, and the switch itself.
fn fixed(core: &Core, names: &Names, filter: Filter) -> Vec<proto::FdbInfo> {
    let mut entries = Vec::new();
    for table in core.tables().networks.iter().flatten() {
        let Some((network, vni)) = names.network(table.id) else { continue };
        let info = |mac: MacAddr, state: proto::FdbState| proto::FdbInfo {
            network: network.to_owned(),
            vni,
            mac: mac.to_string(),
            target: None,
            dst: String::new(),
            state: state.into(),
            used: 0,
            updated: 0,
            stale: false,
        };
        for (&mac, &egress) in &table.statics {
            if filter.takes(table.id, mac, Some(egress)) {
                let by_hand = core.desired.fdb.iter().any(|e| {
                    let (Place::Port(place) | Place::Peer(place)) = &e.place;
                    e.mac == mac && e.network == network && names.egress(egress) == Some(place)
                });
                let state = if by_hand { proto::FdbState::Static } else { proto::FdbState::Declared };
                entries.push(proto::FdbInfo {
                    target: target!(fdb_info, egress, names),
                    dst: names.remote(egress),
                    ..info(mac, state)
                });
            }
        }
        if !table.gateways.is_empty() {
            for mac in [table.gateway_mac, core.tables().node.router_mac] {
                if filter.takes(table.id, mac, None) {
                    entries.push(info(mac, proto::FdbState::Router));
                }
            }
        }
    }
    entries
}
