//! What was learned before a restart, put back.
//!
//! It comes from a file and is no more than a hint: the tables may have changed meanwhile, and hosts may have moved. So
//! it is held to the rules that a frame would be held to which taught the same now (the guard's, the quotas, the
//! static entries), takes no place from what was learned since, and what comes back is stale: it forwards, and is gone
//! soon unless it is confirmed.

use super::tables::Tables;
use super::verdict::{Egress, NetId};
use super::{Datapath, guard, learn, resolve};
use packet::MacAddr;
use std::net::IpAddr;

/// Something that was known.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Known {
    /// On this network.
    pub network: NetId,
    /// Of this address; `None`: where the MAC is.
    pub ip: Option<IpAddr>,
    /// It is this one.
    pub mac: MacAddr,
    /// Behind this port or peer.
    pub place: Egress,
    /// When it was last seen or confirmed: so long ago, in milliseconds.
    pub age_ms: u64,
}

impl Datapath {
    /// Puts one thing back. False if the tables in force, or what is known already, speak against it. Of what is behind
    /// one port or peer, put the youngest back first.
    pub fn recall(&mut self, tables: &Tables, known: &Known, now_ms: u64) -> bool {
        let &Known { network: id, ip, mac, place, age_ms } = known;
        let (Some(network), Some(quota)) =
            (tables.network(id), learn::quota(tables, self.fdb.capacity(), place))
        else {
            return false;
        };
        if !is_on(tables, place, id) || !mac.is_unicast() || guard::is_switch(network, &tables.node, mac) {
            return false;
        }
        if let Some(ip) = ip {
            return resolve::may_be_heard(network, ip, mac)
                && !network.is_gateway_ip(ip)
                && !network.node_ips.contains(&ip)
                && self.neighbours.restore((id, ip), mac, place, age_ms, now_ms);
        }
        let aged = network.ageing_ms > 0 && age_ms >= network.ageing_ms;
        !aged
            && !network.statics.contains_key(&mac)
            && !learn::full(&self.fdb, network)
            && self.fdb.restore(id, mac, place, quota, age_ms, now_ms)
    }
}

/// Does this port or peer take part in this network?
fn is_on(tables: &Tables, place: Egress, network: NetId) -> bool {
    match place {
        Egress::Port(id) => tables.port(id).is_some_and(|port| port.network == network),
        Egress::Peer(id) => {
            tables.peer(id).is_some_and(|peer| peer.network.is_none_or(|only| only == network))
        }
    }
}
