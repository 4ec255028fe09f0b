//! Filling a batch from a port or a tunnel socket.

use super::{BATCH_BYTES, BATCH_FRAMES, Engine};
use crate::datapath::{DropReason, Egress, Frame, HEADROOM, Ingress, PortId};
use crate::io::{IoFault, PortIo};
use packet::{Headers, VNET_HDR_LEN, VnetHdr};
use std::io;
use tunnel::underlay::{UnderlayRx, UnderlayTx};

/// How filling a batch ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Filled {
    /// The source has nothing left; it will announce itself when it has.
    Drained,
    /// The source may have more: come back to it, it will not announce itself.
    More,
    /// The device is gone for good.
    Gone,
}

/// Consecutive transient failures after which a source is left alone until it announces itself.
const MAX_FAILURES: u32 = 8;

impl<P: PortIo, R: UnderlayRx, T: UnderlayTx> Engine<P, R, T> {
    /// Can the batch take nothing more?
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.batch_bytes >= BATCH_BYTES || self.batch.frames.len() >= BATCH_FRAMES || self.batch.is_full()
    }

    /// Reads up to `budget` frames of a port into the batch.
    pub fn fill_from_port(&mut self, id: PortId, budget: usize) -> Filled {
        let Some(slot) = self.ports.get_mut(id.0 as usize).and_then(Option::as_mut) else {
            return Filled::Gone;
        };
        let mut failures = 0;
        for _ in 0..budget {
            if self.batch_bytes >= BATCH_BYTES || self.batch.frames.len() >= BATCH_FRAMES {
                return Filled::More;
            }
            let Some(buffer) = self.batch.spare() else { return Filled::More };
            // The virtio-net header ends where the frame begins.
            let read = match slot.io.read(&mut buffer[HEADROOM - VNET_HDR_LEN..]) {
                Ok(read) => read,
                Err(e) => match IoFault::of(&e) {
                    IoFault::WouldBlock => return Filled::Drained,
                    IoFault::PortGone => {
                        if !std::mem::replace(&mut slot.dead, true) {
                            self.dead.push(id);
                        }
                        return Filled::Gone;
                    }
                    IoFault::Transient => {
                        failures += 1;
                        if failures == MAX_FAILURES {
                            return Filled::Drained;
                        }
                        continue;
                    }
                },
            };
            let len = read.saturating_sub(VNET_HDR_LEN);
            match VnetHdr::parse(&buffer[HEADROOM - VNET_HDR_LEN..HEADROOM - VNET_HDR_LEN + read]) {
                Ok(vnet) => {
                    let buffer = self.batch.commit();
                    self.batch_bytes += len;
                    self.batch.frames.push(Frame {
                        buffer,
                        head: HEADROOM as u32,
                        len: len as u32,
                        vnet,
                        ingress: Ingress::Port(id),
                        headers: Headers::default(),
                        hash: 0,
                    });
                }
                Err(_) => {
                    let counters = self.datapath.counters.of(Egress::Port(id));
                    counters.received += 1;
                    counters.received_bytes += len as u64;
                    counters.drops[DropReason::BadVnet as usize] += 1;
                }
            }
        }
        Filled::More
    }

    /// Receives up to `budget` times from a tunnel socket into the batch; each receive may bring many datagrams.
    pub fn fill_from_underlay(&mut self, socket: usize, budget: usize) -> Filled {
        let Some(rx) = self.rx.get_mut(socket) else { return Filled::Gone };
        let mut failures = 0;
        for _ in 0..budget {
            if self.batch_bytes >= BATCH_BYTES || self.batch.frames.len() >= BATCH_FRAMES {
                return Filled::More;
            }
            let Some(buffer) = self.batch.spare() else { return Filled::More };
            let datagram = match rx.recv(buffer) {
                Ok(datagram) => datagram,
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Filled::Drained,
                // Pending ICMP errors of earlier sends surface here one by one.
                Err(_) => {
                    failures += 1;
                    if failures == MAX_FAILURES {
                        return Filled::Drained;
                    }
                    continue;
                }
            };
            let buffer = self.batch.commit();
            self.batch_bytes += datagram.len;
            let ingress = Ingress::Underlay {
                source: datagram.src.ip().to_canonical(),
                tos: datagram.tos,
                encap: datagram.encap,
            };
            // An empty datagram is one datagram too: it gets its verdict like any other.
            let empty = (datagram.len == 0).then_some(0..0);
            for range in datagram.ranges().chain(empty) {
                self.batch.frames.push(Frame {
                    buffer,
                    head: range.start as u32,
                    len: range.len() as u32,
                    vnet: VnetHdr::default(),
                    ingress,
                    headers: Headers::default(),
                    hash: 0,
                });
            }
        }
        Filled::More
    }
}
