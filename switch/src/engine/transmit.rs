//! Sending what a batch posted: per egress, in order, merged for ports and gathered into runs for peers.
//!
//! Every posted copy ends in exactly one counter: sent, or a drop of stage `tx`.

use super::shaper::Direction;
use super::{Engine, Slot, limit};
use crate::datapath::{
    Batch, CounterTable, DropReason, Egress, FrameRef, PeerId, PortId, Postbox, Posted, Tables,
};
use crate::io::{IoFault, PortIo};
use packet::{Headers, VnetHdr, Vni};
use std::io;
use std::net::SocketAddr;
use tunnel::offload::{GroFrame, Merger, Output, segments};
use tunnel::underlay::{PeerAddr, UnderlayRx, UnderlayTx};
use tunnel::{Sender, TxDrop, TxFrame};

/// Finds a posted frame's bytes and description.
pub(super) fn resolve<'a>(
    batch: &'a Batch,
    out: &'a Postbox,
    posted: &Posted,
) -> (&'a [u8], Headers, VnetHdr, u32) {
    match posted.frame {
        FrameRef::Received(number) => {
            let frame = &batch.frames[usize::from(number)];
            (batch.bytes(frame), frame.headers, frame.vnet, frame.hash)
        }
        FrameRef::Generated(number) => {
            let own = out.generated.get(number);
            (&own.bytes, own.headers, own.vnet, own.hash)
        }
    }
}

impl<P: PortIo, R: UnderlayRx, T: UnderlayTx> Engine<P, R, T> {
    /// Sends and forgets everything posted.
    pub(super) fn transmit(&mut self, now_ms: u64) {
        let (batch, out) = (&self.batch, &self.out);
        for &egress in out.touched() {
            let list = out.list(egress);
            match egress {
                Egress::Port(id) => match self.ports.get_mut(id.0 as usize).and_then(Option::as_mut) {
                    Some(slot) => {
                        let mut count = list.len();
                        if let Some(shaper) = self.shapers.get_mut(id, Direction::ToPod) {
                            let counters = &mut self.datapath.counters;
                            count = limit::admit(shaper, counters, (batch, out), id, list, now_ms);
                            self.shapers.schedule(id, Direction::ToPod);
                        }
                        let mut to = ToPort {
                            id,
                            tables: &self.tables,
                            counters: &mut self.datapath.counters,
                            merger: &mut self.merger,
                        };
                        let frame = |i: usize| {
                            let (bytes, headers, vnet, _) = resolve(batch, out, &list[i]);
                            GroFrame { bytes, headers, vnet }
                        };
                        if !to.send(slot, count, frame) && !std::mem::replace(&mut slot.dead, true) {
                            self.dead.push(id);
                        }
                    }
                    None => {
                        let gone = DropReason::EgressGone;
                        self.datapath.counters.of(egress).send_drop(gone, list.len() as u64);
                    }
                },
                Egress::Peer(id) => {
                    let mut to = ToPeer {
                        id,
                        batch,
                        out,
                        tables: &self.tables,
                        counters: &mut self.datapath.counters,
                        sender: &mut self.sender,
                    };
                    to.send(&mut self.tx, list);
                }
            }
        }
        self.out.clear();
    }
}

pub(super) struct ToPort<'a> {
    pub id: PortId,
    pub tables: &'a Tables,
    pub counters: &'a mut CounterTable,
    pub merger: &'a mut Merger,
}

impl ToPort<'_> {
    /// Sends the frames `0..count`. False when the device turned out to be gone.
    pub(super) fn send<'f, P: PortIo>(
        &mut self,
        slot: &mut Slot<P>,
        count: usize,
        frame: impl Fn(usize) -> GroFrame<'f>,
    ) -> bool {
        // A port that is not in the tables any more has no MTU; its frames are on their way out all the same.
        let mtu = self.tables.port(self.id).map_or(usize::MAX, |port| port.mtu as usize);
        let counters = self.counters.of(Egress::Port(self.id));
        let mut alive = true;
        // The first failure among the pieces of one frame.
        let mut failed = None;
        self.merger.run(count, &frame, slot.caps, mtu, |output| match output {
            Output::Write { parts, members, last } => {
                if failed.is_none()
                    && let Err(e) = slot.io.write(parts)
                {
                    failed = Some(reason(&e));
                    alive &= IoFault::of(&e) != IoFault::PortGone;
                }
                if last {
                    match failed.take() {
                        None => {
                            counters.sent += members.len() as u64;
                            for &member in members {
                                let frame = frame(member as usize);
                                counters.sent_bytes += frame.bytes.len() as u64;
                                counters.sent_segments += segments(&frame.headers, &frame.vnet) as u64;
                            }
                        }
                        Some(reason) => counters.send_drop(reason, members.len() as u64),
                    }
                }
            }
            Output::Refused { .. } => counters.send_drop(DropReason::TxOffload, 1),
        });
        alive
    }
}

fn reason(e: &io::Error) -> DropReason {
    match (IoFault::of(e), e.raw_os_error()) {
        (IoFault::WouldBlock, _) | (_, Some(libc::ENOBUFS | libc::ENOMEM)) => DropReason::TxFull,
        (IoFault::PortGone, _) => DropReason::EgressGone,
        (_, Some(libc::EIO)) => DropReason::TxDown,
        _ => DropReason::TxError,
    }
}

struct ToPeer<'a> {
    id: PeerId,
    batch: &'a Batch,
    out: &'a Postbox,
    tables: &'a Tables,
    counters: &'a mut CounterTable,
    sender: &'a mut Sender,
}

impl ToPeer<'_> {
    fn send<T: UnderlayTx>(&mut self, tx: &mut T, list: &[Posted]) {
        let counters = self.counters.of(Egress::Peer(self.id));
        let Some(peer) = self.tables.peer(self.id) else {
            counters.send_drop(DropReason::EgressGone, list.len() as u64);
            return;
        };
        let to = PeerAddr {
            id: self.id.0,
            addr: SocketAddr::new(peer.remote, peer.port),
            checksum: peer.checksum,
        };
        let (batch, out) = (self.batch, self.out);
        let frame = |i: usize| {
            let posted = &list[i];
            let (bytes, headers, vnet, hash) = resolve(batch, out, posted);
            let tos = tunnel::ecn::encap_tos(headers.tos(bytes));
            // Posted VNIs come from networks, so they are in range.
            let encap = Vni::new(posted.vni).map_or([0; 8], |vni| peer.encap.header(vni));
            TxFrame { bytes, headers, vnet, encap, tos, entropy: hash }
        };
        let report = self.sender.send(tx, &to, peer.mtu as usize, list.len(), frame);
        counters.sent += report.frames;
        counters.sent_segments += report.segments;
        let mut bytes = 0;
        for (posted, outcome) in list.iter().zip(self.sender.outcomes()) {
            match outcome {
                None => bytes += resolve(batch, out, posted).0.len() as u64,
                Some(drop) => counters.send_drop(
                    match drop {
                        TxDrop::Full => DropReason::TxFull,
                        TxDrop::TooBig => DropReason::TxOversize,
                        TxDrop::BadOffload => DropReason::TxOffload,
                        TxDrop::Error => DropReason::TxError,
                    },
                    1,
                ),
            }
        }
        counters.sent_bytes += bytes;
    }
}
