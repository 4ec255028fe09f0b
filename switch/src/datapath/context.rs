//! What the stages work with: the tables, the learned state and the output of one `process` call, and the frame
//! at hand. Split into two structs so that a stage can edit the frame while it posts.

use super::counters::CounterTable;
use super::fdb::Fdb;
use super::frame::{Frame, FrameRef, Postbox, Posted};
use super::icmp::Limiter;
use super::neighbour::Neighbours;
use super::tables::{Network, Tables};
use super::verdict::Egress;
use packet::{Headers, MacAddr, VnetHdr, flow};

/// Everything but the frame.
pub struct Context<'a, R> {
    /// Tables in force.
    pub tables: &'a Tables,
    /// The frame's network.
    pub network: &'a Network,
    /// Where the frame came from.
    pub origin: Egress,
    /// Milliseconds of the data path's clock.
    pub now_ms: u64,
    /// Learned MACs.
    pub fdb: &'a mut Fdb,
    /// Learned neighbours.
    pub neighbours: &'a mut Neighbours,
    /// ICMP rate limit.
    pub limiter: &'a mut Limiter,
    /// Counters.
    pub counters: &'a mut CounterTable,
    /// Output.
    pub out: &'a mut Postbox,
    /// Recorder.
    pub rec: &'a mut R,
}

/// The frame at hand.
pub struct Current<'b> {
    /// Its description.
    pub meta: &'b mut Frame,
    /// Its bytes, from the Ethernet header.
    pub bytes: &'b mut [u8],
    /// Its name in the batch.
    pub name: FrameRef,
}

impl<R> Context<'_, R> {
    /// Posts one copy of a frame.
    #[inline]
    pub fn post(&mut self, egress: Egress, frame: FrameRef) {
        self.out.post(egress, Posted { frame, vni: self.network.vni.get() });
    }

    /// Posts copies to a flood list, not back to `except`; returns how many.
    #[inline]
    pub fn post_all(&mut self, list: &[Egress], except: Option<Egress>, frame: FrameRef) -> u32 {
        let mut copies = 0;
        for &egress in list {
            if Some(egress) != except {
                self.post(egress, frame);
                copies += 1;
            }
        }
        copies
    }

    /// Where a frame for a MAC of this network goes: static entries first, then learned ones.
    #[inline(always)]
    #[must_use]
    pub fn locate(&mut self, mac: MacAddr) -> Option<(Egress, bool)> {
        match self.network.statics.get(&mac) {
            Some(&egress) => Some((egress, true)),
            None => self.fdb.forward(self.network.id, mac, self.now_ms).map(|egress| (egress, false)),
        }
    }

    /// Lists for frames whose destination is unknown, from where this frame came.
    #[must_use]
    pub fn unknown_list(&self) -> std::sync::Arc<[Egress]> {
        match self.origin {
            Egress::Port(_) => self.network.unknown_from_port.clone(),
            Egress::Peer(_) => self.network.unknown_from_peer.clone(),
        }
    }

    /// The MAC this switch uses as a source towards an egress: peers must not see the gateway's, which is theirs too.
    #[inline]
    #[must_use]
    pub fn own_mac(&self, towards: Egress) -> MacAddr {
        match towards {
            Egress::Port(_) => self.network.gateway_mac,
            Egress::Peer(_) => self.tables.node.router_mac,
        }
    }

    /// Is that the node's own port?
    #[inline]
    #[must_use]
    pub fn is_node(&self, egress: Egress) -> bool {
        self.network.node.is_some_and(|node| egress == Egress::Port(node.port))
    }

    /// Did the frame come from the node's own port?
    #[inline]
    #[must_use]
    pub fn sent_by_node(&self) -> bool {
        self.is_node(self.origin)
    }

    /// Makes a frame: `fill` writes the Ethernet frame into an empty vector. `None` when the batch has made its
    /// share, or when what was written does not parse (which would be a bug, and must not reach a pod).
    pub fn generate(&mut self, vnet: VnetHdr, fill: impl FnOnce(&mut Vec<u8>)) -> Option<FrameRef> {
        let (number, own) = self.out.generated.make()?;
        fill(&mut own.bytes);
        own.vnet = vnet;
        match Headers::parse(&own.bytes) {
            Ok(headers) => {
                own.hash = flow::hash(&headers, &own.bytes);
                own.headers = headers;
                self.counters.generated += 1;
                Some(FrameRef::Generated(number))
            }
            Err(_) => {
                self.out.generated.unmake();
                None
            }
        }
    }
}
