//! Routes: connected subnets, pod CIDRs of peers, and those added by hand.

use std::net::IpAddr;

use ctl::desired::convert::field;
use ctl::desired::text::parse_prefix;
use ctl::desired::{Network, Peer, Route, RouteTarget};
use ctl::error::{ApiError, Reason};
use ctl::proto;
use ipnet::IpNet;

use super::super::core::Core;
use super::super::routes::{NamedRoute, Protocol, RouteKind, routes};
use super::super::{Control, derive};
use super::names::Names;
use super::neighbours::lookup;
use super::objects::{commit, find, unchanged};
use super::{existing, required};
use crate::datapath::{NetId, Target};

fn info(core: &Core, network: &Network, prefix: IpNet, route: &NamedRoute<'_>) -> proto::RouteInfo {
    let mut info = proto::RouteInfo {
        route: None,
        vni: network.vni.get(),
        protocol: match route.protocol {
            Protocol::Kernel => "kernel",
            Protocol::Peer => "peer",
            Protocol::Static => "static",
            Protocol::Node => "node",
        }
        .to_owned(),
        remote: String::new(),
        prefsrc: String::new(),
        mtu: 0,
        port: String::new(),
    };
    let target = match route.kind {
        None => {
            let subnet = network.subnets.iter().find(|s| s.cidr == prefix);
            info.prefsrc = subnet.and_then(|s| s.gateway).map(|g| g.to_string()).unwrap_or_default();
            info.route = Some(proto::Route {
                network: network.name.clone(),
                prefix: prefix.to_string(),
                kind: proto::RouteKind::Connected.into(),
                next_hop: String::new(),
                peer: String::new(),
            });
            return info;
        }
        Some(RouteKind::Node(port)) => {
            info.route = Some(proto::Route {
                network: network.name.clone(),
                prefix: prefix.to_string(),
                kind: proto::RouteKind::Node.into(),
                next_hop: String::new(),
                peer: String::new(),
            });
            info.port = port.to_owned();
            return info;
        }
        Some(RouteKind::Peer(name)) => RouteTarget::Peer(name.to_owned()),
        Some(RouteKind::Declared(target)) => target.clone(),
    };
    if let RouteTarget::Peer(name) = &target
        && let Ok(peer) = find::<Peer>(&core.desired, name)
    {
        info.remote = peer.remote.to_string();
        let mtu = derive::peer_mtu(&core.settings, peer);
        info.mtu = if mtu < derive::network_mtu(&core.settings, network) { mtu } else { 0 };
    }
    info.route = Some(Route { network: network.name.clone(), prefix, target }.into());
    info
}

impl Control {
    pub(super) async fn list_routes(
        &self,
        request: proto::ListRoutesRequest,
    ) -> Result<proto::ListRoutesReply, ApiError> {
        let core = self.core().await;
        let mut networks: Vec<&Network> = match request.network.as_str() {
            "" => core.desired.networks.iter().collect(),
            name => vec![find::<Network>(&core.desired, name)?],
        };
        networks.sort_by(|a, b| a.name.cmp(&b.name));
        let mut listed = Vec::new();
        for network in networks {
            for (prefix, route) in routes(&core.settings, &core.desired, network) {
                listed.push(info(&core, network, prefix, &route));
            }
        }
        Ok(proto::ListRoutesReply { routes: listed })
    }

    pub(super) async fn add_route(&self, request: proto::AddRouteRequest) -> Result<proto::Ack, ApiError> {
        let route = Route::try_from(required("route", request.route)?)?;
        let mut core = self.core().await;
        let same = |r: &&Route| r.network == route.network && r.prefix == route.prefix;
        if let Some(old) = core.desired.routes.iter().find(same) {
            existing(&route.to_string(), old, &route, request.may_exist)?;
            return Ok(unchanged(&core));
        }
        let network = find::<Network>(&core.desired, &route.network)?;
        if network.subnets.iter().any(|s| s.cidr == route.prefix) {
            let text = format!("{route}: it is a subnet of the network, which always counts");
            return Err(ApiError::new(Reason::Conflict, text).hint("route a longer prefix"));
        }
        let mut next = core.desired.clone();
        next.routes.push(route);
        commit(&mut core, next)
    }

    pub(super) async fn delete_route(
        &self,
        request: proto::DeleteRouteRequest,
    ) -> Result<proto::Ack, ApiError> {
        let prefix = parse_prefix(&request.prefix).map_err(|e| ApiError::invalid("route", e))?;
        let network = &request.network;
        let mut core = self.core().await;
        find::<Network>(&core.desired, network)?;
        let mut next = core.desired.clone();
        next.routes.retain(|r| r.network != *network || r.prefix != prefix);
        if next.routes.len() == core.desired.routes.len() {
            if request.if_exists {
                return Ok(unchanged(&core));
            }
            let implied = routes(&core.settings, &core.desired, find::<Network>(&core.desired, network)?);
            let (why, hint) = match implied.get(&prefix).and_then(|r| r.kind) {
                Some(RouteKind::Peer(peer)) => (
                    format!("route {prefix} in network {network} is a pod CIDR of peer {peer}"),
                    "it goes with the peer",
                ),
                Some(RouteKind::Node(port)) => (
                    format!("route {prefix} in network {network} comes with the node's own port {port}"),
                    "it goes with the port",
                ),
                _ if implied.contains_key(&prefix) => (
                    format!("route {prefix} in network {network} is a subnet of the network"),
                    "it goes with the network",
                ),
                _ => (format!("no route {prefix} in network {network}"), "list them: swctl route show"),
            };
            return Err(ApiError::new(Reason::RouteNotFound, why).hint(hint));
        }
        commit(&mut core, next)
    }

    pub(super) async fn get_route(
        &self,
        request: proto::GetRouteRequest,
    ) -> Result<proto::GetRouteReply, ApiError> {
        let ip: IpAddr = field("request", &request.ip)?;
        let (route, names, answer) = {
            let core = self.core().await;
            let network = find::<Network>(&core.desired, &request.network)?;
            let id = core.ids.networks.get(&network.name).and_then(|id| u16::try_from(id).ok()).map(NetId);
            let table = id.and_then(|id| core.tables().network(id));
            let hit = table.and_then(|t| Some((t.id, t.fib.lookup(ip)?)));
            let Some((id, (length, target))) = hit else {
                let text = format!("no route to {ip} in network {}", network.name);
                return Err(ApiError::new(Reason::RouteNotFound, text).hint("list them: swctl route show"));
            };
            let prefix =
                IpNet::new(ip, length).map_err(|e| ApiError::new(Reason::Internal, e.to_string()))?.trunc();
            let all = routes(&core.settings, &core.desired, network);
            let Some(named) = all.get(&prefix) else {
                return Err(ApiError::new(
                    Reason::Internal,
                    format!("route {prefix} is in force but not declared"),
                ));
            };
            let route = info(&core, network, prefix, named);
            let hop = match target {
                Target::Connected => Some(ip),
                Target::NextHop(hop) => Some(hop),
                Target::Peer(_) | Target::Node | Target::Blackhole | Target::Unreachable => None,
            };
            let answer = hop.map(|hop| core.ask(move |i| lookup(i, id, hop))).transpose()?;
            (route, Names::of(&core), answer)
        };
        let neighbour = match answer {
            Some(answer) => answer.get().await?.and_then(|found| found.info(&names)),
            None => None,
        };
        Ok(proto::GetRouteReply { route: Some(route), neighbour })
    }
}
