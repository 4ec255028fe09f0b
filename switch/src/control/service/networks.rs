//! Networks.

use std::collections::HashMap;

use ctl::desired::{DesiredState, Network};
use ctl::error::{ApiError, Reason};
use ctl::proto;

use super::super::{Control, derive, publish};
use super::{existing, required};
use crate::datapath::NetId;

/// A network by name.
pub(super) fn find<'a>(desired: &'a DesiredState, name: &str) -> Result<&'a Network, ApiError> {
    desired.networks.iter().find(|n| n.name == name).ok_or_else(|| ApiError::no_network(name))
}

/// The first object that names a network.
fn user(desired: &DesiredState, name: &str) -> Option<String> {
    let port = || desired.ports.iter().find(|p| p.network == name).map(|p| format!("port {}", p.name));
    let peer = || {
        desired.peers.iter().find(|p| p.network.as_deref() == Some(name)).map(|p| format!("peer {}", p.name))
    };
    let route = || desired.routes.iter().find(|r| r.network == name).map(|r| format!("route {}", r.prefix));
    let fdb =
        || desired.fdb.iter().find(|e| e.network == name).map(|e| format!("static fdb entry {}", e.mac));
    let neighbour =
        || desired.neighbours.iter().find(|n| n.network == name).map(|n| format!("neighbour {}", n.ip));
    port().or_else(peer).or_else(route).or_else(fdb).or_else(neighbour)
}

impl Control {
    pub(super) async fn add_network(
        &self,
        request: proto::AddNetworkRequest,
    ) -> Result<proto::Ack, ApiError> {
        let network = Network::try_from(required("network", request.network)?)?;
        let mut core = self.core().await;
        if let Ok(old) = find(&core.desired, &network.name) {
            existing(&format!("network {}", network.name), old, &network, request.may_exist)?;
            return Ok(proto::Ack { generation: core.generation, changed: false });
        }
        let mut next = core.desired.clone();
        next.networks.push(network);
        Ok(proto::Ack { generation: core.commit(next)?, changed: true })
    }

    pub(super) async fn delete_network(
        &self,
        request: proto::DeleteNetworkRequest,
    ) -> Result<proto::Ack, ApiError> {
        let name = &request.name;
        let mut core = self.core().await;
        if let Err(e) = find(&core.desired, name) {
            return if request.if_exists {
                Ok(proto::Ack { generation: core.generation, changed: false })
            } else {
                Err(e)
            };
        }
        if let Some(user) = user(&core.desired, name) {
            return Err(ApiError::new(Reason::InUse, format!("network {name} is in use by {user}"))
                .hint("delete what uses it first"));
        }
        let mut next = core.desired.clone();
        next.networks.retain(|n| n.name != *name);
        Ok(proto::Ack { generation: core.commit(next)?, changed: true })
    }

    pub(super) async fn list_networks(
        &self,
        request: proto::ListNetworksRequest,
    ) -> Result<proto::ListNetworksReply, ApiError> {
        let (mut networks, answer) = {
            let core = self.core().await;
            for name in &request.names {
                find(&core.desired, name)?;
            }
            let answer = core.ask(|i| {
                let mut counts: HashMap<NetId, u32> = HashMap::new();
                for entry in i.datapath.fdb().iter() {
                    *counts.entry(entry.network).or_default() += 1;
                }
                counts
            })?;
            let listed = |n: &&Network| request.names.is_empty() || request.names.contains(&n.name);
            let networks: Vec<_> = core
                .desired
                .networks
                .iter()
                .filter(listed)
                .map(|n| {
                    let id = core.ids.networks.get(&n.name).and_then(|id| u16::try_from(id).ok()).map(NetId);
                    let table = id.and_then(|id| core.tables().network(id));
                    let info = proto::NetworkInfo {
                        spec: Some(n.clone().into()),
                        mtu: derive::network_mtu(&core.settings, n),
                        ports: core.desired.ports.iter().filter(|p| p.network == n.name).count() as u32,
                        peers: core.desired.peers.iter().filter(|p| derive::applies(p, n)).count() as u32,
                        fdb_entries: table.map_or(0, |t| t.statics.len() as u32),
                        routes: publish::routes(&core.desired, n).len() as u32,
                    };
                    (n.name.clone(), id, info)
                })
                .collect();
            (networks, answer)
        };
        let counts = answer.get().await?;
        networks.sort_by(|a, b| a.0.cmp(&b.0));
        let networks = networks
            .into_iter()
            .map(|(_, id, mut info)| {
                info.fdb_entries += id.and_then(|id| counts.get(&id)).copied().unwrap_or(0);
                info
            })
            .collect();
        Ok(proto::ListNetworksReply { networks })
    }
}
