//! Documents name a route's target and an FDB entry's place by which key is there. These are the shapes
//! with all the keys; the checked types hold exactly one.

use std::net::IpAddr;

use ipnet::IpNet;
use packet::MacAddr;
use serde::{Deserialize, Serialize};

use super::text::{one, opt};
use super::{Place, RouteTarget, is_default};

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Route {
    network: String,
    #[serde(with = "one")]
    prefix: IpNet,
    #[serde(default, with = "opt", skip_serializing_if = "Option::is_none")]
    via: Option<IpAddr>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    peer: Option<String>,
    #[serde(default, skip_serializing_if = "is_default")]
    blackhole: bool,
    #[serde(default, skip_serializing_if = "is_default")]
    unreachable: bool,
}

impl TryFrom<Route> for super::Route {
    type Error = String;

    fn try_from(r: Route) -> Result<Self, String> {
        let target = match (r.via, r.peer, r.blackhole, r.unreachable) {
            (Some(ip), None, false, false) => RouteTarget::NextHop(ip),
            (None, Some(peer), false, false) => RouteTarget::Peer(peer),
            (None, None, true, false) => RouteTarget::Blackhole,
            (None, None, false, true) => RouteTarget::Unreachable,
            _ => {
                let what = format!("route {} in network {}", r.prefix, r.network);
                return Err(format!("{what}: expected exactly one of via, peer, blackhole and unreachable"));
            }
        };
        Ok(Self { network: r.network, prefix: r.prefix, target })
    }
}

impl From<super::Route> for Route {
    fn from(r: super::Route) -> Self {
        let mut keys = Self {
            network: r.network,
            prefix: r.prefix,
            via: None,
            peer: None,
            blackhole: false,
            unreachable: false,
        };
        match r.target {
            RouteTarget::NextHop(ip) => keys.via = Some(ip),
            RouteTarget::Peer(peer) => keys.peer = Some(peer),
            RouteTarget::Blackhole => keys.blackhole = true,
            RouteTarget::Unreachable => keys.unreachable = true,
        }
        keys
    }
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct FdbEntry {
    network: String,
    #[serde(with = "one")]
    mac: MacAddr,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    port: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    peer: Option<String>,
}

impl TryFrom<FdbEntry> for super::FdbEntry {
    type Error = String;

    fn try_from(e: FdbEntry) -> Result<Self, String> {
        let place = match (e.port, e.peer) {
            (Some(port), None) => Place::Port(port),
            (None, Some(peer)) => Place::Peer(peer),
            _ => {
                let what = format!("fdb entry {} in network {}", e.mac, e.network);
                return Err(format!("{what}: expected exactly one of port and peer"));
            }
        };
        Ok(Self { network: e.network, mac: e.mac, place })
    }
}

impl From<super::FdbEntry> for FdbEntry {
    fn from(e: super::FdbEntry) -> Self {
        let (port, peer) = match e.place {
            Place::Port(port) => (Some(port), None),
            Place::Peer(peer) => (None, Some(peer)),
        };
        Self { network: e.network, mac: e.mac, port, peer }
    }
}
