//! Filling a batch from a port or a tunnel socket.
//!
//! Only `WouldBlock` means that a source is empty. A call that failed for another reason costs credit as any other
//! and leaves the source in the ready ring: readiness is announced by edges, and the frames behind the failure
//! have had theirs. Failures without end would keep the worker busy, which is seen; a source left alone is not.

use super::{BATCH_BYTES, BATCH_FRAMES, Engine};
use crate::datapath::{DropReason, Egress, Frame, HEADROOM, Ingress, PortId};
use crate::io::{IoFault, PortIo};
use packet::{Headers, VNET_HDR_LEN, VnetHdr};
use std::io;
use tunnel::underlay::{UnderlayRx, UnderlayTx};

/// What a frame costs beyond its bytes, in bytes: a call that brings nothing takes as long as copying about this much.
pub const FRAME_COST: i64 = 4000;
/// Credit of one visit: 64 of the smallest frames, or four of the largest, which fill a batch.
pub const QUANTUM: i64 = 64 * (FRAME_COST + 60);
/// What each further datagram of one receive costs.
const DATAGRAM_COST: i64 = 200;

/// How filling a batch ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Filled {
    /// The source has nothing left; it will announce itself when it has.
    Drained,
    /// The credit is used up. The source may have more: come back to it, it will not announce itself.
    Spent,
    /// The batch takes nothing more. The source may have more, and credit.
    Full,
    /// The device is gone for good.
    Gone,
}

impl<P: PortIo, R: UnderlayRx, T: UnderlayTx> Engine<P, R, T> {
    /// Reads frames of a port into the batch while there is credit. The last one may cost more than is left.
    pub fn fill_from_port(&mut self, id: PortId, credit: &mut i64) -> Filled {
        let Some(slot) = self.ports.get_mut(id.0 as usize).and_then(Option::as_mut) else {
            return Filled::Gone;
        };
        self.limited |= self.shapers.limits_egress(id);
        while *credit > 0 {
            if self.batch_bytes >= BATCH_BYTES || self.batch.frames.len() >= BATCH_FRAMES {
                return Filled::Full;
            }
            let Some(buffer) = self.batch.spare() else { return Filled::Full };
            *credit -= FRAME_COST;
            // The virtio-net header ends where the frame begins.
            let read = match slot.io.read(&mut buffer[HEADROOM - VNET_HDR_LEN..]) {
                Ok(read) => read,
                Err(e) => match IoFault::of(&e) {
                    IoFault::WouldBlock => return Filled::Drained,
                    IoFault::PortGone => {
                        self.give_up(id);
                        return Filled::Gone;
                    }
                    IoFault::Transient => {
                        self.datapath.counters.of(Egress::Port(id)).read_errors += 1;
                        continue;
                    }
                },
            };
            let len = read.saturating_sub(VNET_HDR_LEN);
            *credit -= len as i64;
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
                    counters.receive(len as u64, 1);
                    counters.drops[DropReason::BadVnet as usize] += 1;
                }
            }
        }
        Filled::Spent
    }

    /// Receives from a tunnel socket into the batch while there is credit; each receive may bring many datagrams.
    pub fn fill_from_underlay(&mut self, socket: usize, credit: &mut i64) -> Filled {
        let Some(rx) = self.rx.get_mut(socket) else { return Filled::Gone };
        while *credit > 0 {
            if self.batch_bytes >= BATCH_BYTES || self.batch.frames.len() >= BATCH_FRAMES {
                return Filled::Full;
            }
            let Some(buffer) = self.batch.spare() else { return Filled::Full };
            *credit -= FRAME_COST;
            let datagram = match rx.recv(buffer) {
                Ok(datagram) => datagram,
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Filled::Drained,
                // Pending ICMP errors of earlier sends surface here one by one.
                Err(_) => {
                    self.datapath.counters.node.read_errors += 1;
                    continue;
                }
            };
            let buffer = self.batch.commit();
            self.batch_bytes += datagram.len;
            *credit -= datagram.len as i64 + DATAGRAM_COST * datagram.ranges().len() as i64;
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
        Filled::Spent
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::datapath::Config;
    use crate::engine::Command;
    use crate::io::{MemoryTap, PodEnd};
    use std::collections::VecDeque;
    use std::io::IoSlice;
    use tunnel::Encap;
    use tunnel::offload::Caps;
    use tunnel::underlay::Datagram;
    use tunnel::underlay::memory::{MemoryRx, MemoryTx, MemoryWire, Packet};

    /// Fails as told before it does what it wraps.
    struct Flaky<T> {
        inner: T,
        failures: VecDeque<i32>,
    }

    impl<T> Flaky<T> {
        fn fail(&mut self) -> io::Result<()> {
            self.failures.pop_front().map_or(Ok(()), |errno| Err(io::Error::from_raw_os_error(errno)))
        }
    }

    impl PortIo for Flaky<MemoryTap> {
        fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
            self.fail()?;
            self.inner.read(buf)
        }

        fn write(&mut self, parts: &[IoSlice<'_>]) -> io::Result<usize> {
            self.inner.write(parts)
        }
    }

    impl UnderlayRx for Flaky<MemoryRx> {
        fn recv(&mut self, buf: &mut [u8]) -> io::Result<Datagram> {
            self.fail()?;
            self.inner.recv(buf)
        }
    }

    type Twin = Engine<Flaky<MemoryTap>, Flaky<MemoryRx>, MemoryTx>;

    const PORT: PortId = PortId(0);
    /// Calls that one quantum pays for, if they bring nothing.
    const CALLS: usize = QUANTUM as usize / FRAME_COST as usize + 1;

    /// A port and a tunnel socket with three frames each, behind this many failures.
    fn twin(failures: usize) -> (Twin, PodEnd) {
        let errors = [libc::EINTR, libc::ENOMEM, libc::EIO, libc::ECONNREFUSED];
        let failures: VecDeque<i32> = errors.into_iter().cycle().take(failures).collect();
        let local = "192.168.77.1:4789".parse().unwrap();
        let wire = MemoryWire::new();
        let rx = Flaky { inner: wire.rx(local, Encap::Vxlan), failures: failures.clone() };
        let mut engine = Engine::new(Config::default(), vec![rx], wire.tx(local));
        let (tap, pod) = MemoryTap::pair();
        let port = Flaky { inner: tap, failures };
        engine.apply(Command::AddPort { id: PORT, port, caps: Caps::ALL }, 0);
        for n in 0..3 {
            pod.send_frame(&[n; 60]).unwrap();
            let src = "192.168.77.2:50000".parse().unwrap();
            wire.inject(Packet { src, dst: local, tos: 0, bytes: vec![n; 60], segment: 60 });
        }
        (engine, pod)
    }

    #[test]
    fn failures_never_leave_a_source_that_has_something() {
        for failures in [0, 1, 7, 8, 9, CALLS - 1, CALLS, 5 * CALLS + 3] {
            for port in [true, false] {
                let (mut engine, _pod) = twin(failures);
                let mut visits = 0;
                // As the worker does: a source is visited again for as long as it is in the ring.
                loop {
                    visits += 1;
                    let mut credit = QUANTUM;
                    let filled = if port {
                        engine.fill_from_port(PORT, &mut credit)
                    } else {
                        engine.fill_from_underlay(0, &mut credit)
                    };
                    match filled {
                        Filled::Spent => assert!(visits <= failures / CALLS + 1, "visited without end"),
                        Filled::Drained => break,
                        Filled::Full | Filled::Gone => panic!("neither is the case"),
                    }
                }
                assert_eq!(engine.batch.frames.len(), 3, "{failures} failures, port: {port}");
                let counters = &engine.datapath().counters;
                assert_eq!(counters.total().read_errors, failures as u64);
                let of_port = counters.get(Egress::Port(PORT)).map_or(0, |c| c.read_errors);
                assert_eq!(of_port, if port { failures as u64 } else { 0 });
            }
        }
    }
}
