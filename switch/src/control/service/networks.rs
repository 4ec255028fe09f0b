//! Networks.

use std::collections::HashMap;

use ctl::desired::{DesiredState, Network};
use ctl::error::ApiError;
use ctl::proto;

use super::super::routes::routes;
use super::super::{Control, derive};
use super::objects::{declared, delete, push, select};
use super::required;
use crate::datapath::NetId;

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
        match declared(&core, &network, request.may_exist)? {
            Some(ack) => Ok(ack),
            None => push(&mut core, network),
        }
    }

    pub(super) async fn delete_network(
        &self,
        request: proto::DeleteNetworkRequest,
    ) -> Result<proto::Ack, ApiError> {
        delete::<Network>(&mut *self.core().await, &request.name, request.if_exists, user, |_, _| {})
    }

    pub(super) async fn list_networks(
        &self,
        request: proto::ListNetworksRequest,
    ) -> Result<proto::ListNetworksReply, ApiError> {
        let (networks, answer) = {
            let core = self.core().await;
            let listed = select::<Network>(&core.desired, &request.names)?;
            let answer = core.ask(|i| {
                let mut counts: HashMap<NetId, u32> = HashMap::new();
                for entry in i.datapath.fdb().iter() {
                    *counts.entry(entry.network).or_default() += 1;
                }
                counts
            })?;
            let networks: Vec<_> = listed
                .into_iter()
                .map(|n| {
                    let id = core.ids.networks.get(&n.name).and_then(|id| u16::try_from(id).ok()).map(NetId);
                    let table = id.and_then(|id| core.tables().network(id));
                    let info = proto::NetworkInfo {
                        spec: Some(n.clone().into()),
                        mtu: derive::network_mtu(&core.settings, n),
                        ports: core.desired.ports.iter().filter(|p| p.network == n.name).count() as u32,
                        peers: core.desired.peers.iter().filter(|p| derive::applies(p, n)).count() as u32,
                        fdb_entries: table.map_or(0, |t| t.statics.len() as u32),
                        routes: routes(&core.settings, &core.desired, n).len() as u32,
                    };
                    (id, info)
                })
                .collect();
            (networks, answer)
        };
        let counts = answer.get().await?;
        let networks = networks
            .into_iter()
            .map(|(id, mut info)| {
                info.fdb_entries += id.and_then(|id| counts.get(&id)).copied().unwrap_or(0);
                info
            })
            .collect();
        Ok(proto::ListNetworksReply { networks })
    }
}
