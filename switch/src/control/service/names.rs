//! Names for the numbers in a worker's answer, as they were when it was asked.

use std::collections::HashMap;
use std::net::IpAddr;

use ctl::proto;

use super::super::core::Core;
use crate::datapath::{Egress, NetId};

/// A copy of the numbering.
pub struct Names {
    ports: HashMap<u32, String>,
    peers: HashMap<u32, (String, IpAddr)>,
    networks: HashMap<u32, (String, u32)>,
}

impl Names {
    /// Copies it.
    pub fn of(core: &Core) -> Self {
        let remotes: HashMap<&str, IpAddr> =
            core.desired.peers.iter().map(|p| (p.name.as_str(), p.remote)).collect();
        let vnis: HashMap<&str, u32> =
            core.desired.networks.iter().map(|n| (n.name.as_str(), n.vni.get())).collect();
        let owned = |(id, name): (u32, &str)| (id, name.to_owned());
        Self {
            ports: core.ids.ports.iter().map(owned).collect(),
            peers: core
                .ids
                .peers
                .iter()
                .filter_map(|(id, name)| Some((id, (name.to_owned(), *remotes.get(name)?))))
                .collect(),
            networks: core
                .ids
                .networks
                .iter()
                .filter_map(|(id, name)| Some((id, (name.to_owned(), *vnis.get(name)?))))
                .collect(),
        }
    }

    /// Numbers of the ports and of the peers, in the order of their names.
    pub fn numbers(&self) -> (Vec<u32>, Vec<u32>) {
        let mut ports: Vec<_> = self.ports.keys().copied().collect();
        ports.sort_by_key(|id| &self.ports[id]);
        let mut peers: Vec<_> = self.peers.keys().copied().collect();
        peers.sort_by_key(|id| &self.peers[id].0);
        (ports, peers)
    }

    /// Name and VNI of a network.
    pub fn network(&self, id: NetId) -> Option<(&str, u32)> {
        self.networks.get(&u32::from(id.0)).map(|(name, vni)| (name.as_str(), *vni))
    }

    /// Name of a port or peer.
    pub fn egress(&self, egress: Egress) -> Option<&str> {
        match egress {
            Egress::Port(id) => self.ports.get(&id.0).map(String::as_str),
            Egress::Peer(id) => self.peers.get(&id.0).map(|(name, _)| name.as_str()),
        }
    }

    /// Underlay address of a peer; empty for a port.
    pub fn remote(&self, egress: Egress) -> String {
        self.remote_ip(egress).map(|ip| ip.to_string()).unwrap_or_default()
    }

    /// The same; `None` for a port.
    pub fn remote_ip(&self, egress: Egress) -> Option<IpAddr> {
        match egress {
            Egress::Port(_) => None,
            Egress::Peer(id) => self.peers.get(&id.0).map(|(_, ip)| *ip),
        }
    }

    /// For people: `port web-0`, `peer node-b`.
    pub fn say(&self, egress: Egress) -> String {
        let (kind, number) = match egress {
            Egress::Port(id) => ("port", id.0),
            Egress::Peer(id) => ("peer", id.0),
        };
        match self.egress(egress) {
            Some(name) => format!("{kind} {name}"),
            None => format!("{kind} number {number}, which is gone"),
        }
    }
}

/// Makes the `oneof target { port, peer }` that several messages have.
macro_rules! target {
    ($message:ident, $egress:expr, $names:expr) => {{
        use proto::$message::Target;
        let egress: Egress = $egress;
        $names.egress(egress).map(|name| match egress {
            Egress::Port(_) => Target::Port(name.to_owned()),
            Egress::Peer(_) => Target::Peer(name.to_owned()),
        })
    }};
}
pub(in super::super) use target;

/// Seconds between two times of the data path's clock.
pub fn seconds(now_ms: u64, then_ms: u64) -> u32 {
    u32::try_from(now_ms.saturating_sub(then_ms) / 1000).unwrap_or(u32::MAX)
}

/// Counters in the words of the API.
pub fn counters(c: &crate::datapath::Counters) -> proto::Counters {
    use crate::datapath::DropReason;
    proto::Counters {
        rx_frames: c.received,
        rx_segments: c.received_segments,
        rx_bytes: c.received_bytes,
        rx_drops: c.receive_drops(),
        tx_frames: c.sent,
        tx_segments: c.sent_segments,
        tx_bytes: c.sent_bytes,
        tx_drops: c.send_drops,
        io_errors: c.read_errors + c.drops[DropReason::TxError as usize],
    }
}
