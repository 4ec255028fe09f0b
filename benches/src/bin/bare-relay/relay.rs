//! The loop: read what one end has, write it to the other.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd};

use packet::{Headers, VNET_HDR_LEN, VnetHdr, Vni, flow};
use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use switch::datapath::{BUFFER_LEN, HEADROOM};
use switch::io::{PortIo as _, tap};
use tunnel::offload::{Caps, GroFrame, Merger, Output};
use tunnel::underlay::{PeerAddr, TxOptions, UdpRx, UdpTx, UnderlayRx as _};
use tunnel::{Encap, Sender, TxFrame};

/// Reads of one source before what was read is written.
const READS: usize = 64;
/// Bytes of one batch: what is written should still be in the cache. The switch's bound.
const BYTES: usize = 256 * 1024;
/// Network identifier on the wire, for whoever looks on.
const VNI: u32 = 1;

/// One TAP.
pub struct Tap {
    device: tap::Tap,
    caps: Caps,
    merger: Merger,
    /// Write what belongs together as one.
    merge: bool,
}

impl Tap {
    pub fn new(device: tap::Tap, merge: bool) -> Self {
        let granted = device.offloads();
        let caps =
            Caps { csum: granted.csum(), tso4: granted.tso(), tso6: granted.tso(), uso: granted.uso() };
        Self { device, caps, merger: Merger::new(), merge }
    }
}

/// One end of the tunnel.
pub struct Tunnel {
    rx: UdpRx,
    tx: UdpTx,
    to: PeerAddr,
    sender: Sender,
    header: [u8; Encap::HEADER_LEN],
}

impl Tunnel {
    /// Receives runs with `gro`, and sends them with `segment`; otherwise datagram by datagram.
    pub fn open(local: SocketAddr, remote: SocketAddr, gro: bool, segment: bool) -> io::Result<Self> {
        let header = Encap::Vxlan.header(Vni::new(VNI).map_err(io::Error::other)?);
        let to = PeerAddr { id: 0, addr: remote, checksum: true };
        let mut rx = UdpRx::from_fd(UdpRx::bind(local)?, Encap::Vxlan)?;
        rx.set_gro(gro && rx.gro())?;
        let mut tx = UdpTx::new(local.ip(), TxOptions::default());
        tx.set_segmentation(&to, segment);
        Ok(Self { rx, tx, to, sender: Sender::new(), header })
    }
}

/// A frame of a batch: where its bytes are, and what segmentation has to know.
struct Held {
    buffer: usize,
    at: usize,
    len: usize,
    headers: Headers,
    vnet: VnetHdr,
}

/// Buffers, and the frames in them.
struct Batch {
    buffers: Vec<Box<[u8]>>,
    frames: Vec<Held>,
}

impl Batch {
    fn bytes(&self, frame: &Held) -> &[u8] {
        self.buffers.get(frame.buffer).and_then(|b| b.get(frame.at..frame.at + frame.len)).unwrap_or(&[])
    }

    fn hold(&mut self, buffer: usize, at: usize, len: usize, vnet: VnetHdr) {
        let mut frame = Held { buffer, at, len, headers: Headers::default(), vnet };
        // What cannot be parsed is nothing to be merged or cut, and goes as it is.
        frame.headers =
            Headers::parse(self.bytes(&frame)).unwrap_or(Headers { end: len as u32, ..Headers::default() });
        self.frames.push(frame);
    }

    /// Whatever the TAP has, up to the bounds of a batch.
    fn read_tap(&mut self, tap: &mut Tap) -> io::Result<()> {
        self.frames.clear();
        let mut bytes = 0;
        for number in 0..READS {
            let Some(buffer) = self.buffers.get_mut(number).filter(|_| bytes < BYTES) else { break };
            // The frame itself begins aligned, as in the switch: copies to it are a good deal faster.
            let Some(room) = buffer.get_mut(HEADROOM - VNET_HDR_LEN..) else { break };
            let read = match tap.device.read(room) {
                Ok(read) => read,
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => break,
                Err(e) => return Err(e),
            };
            bytes += read;
            if let Ok(vnet) = VnetHdr::parse(room)
                && let Some(len) = read.checked_sub(VNET_HDR_LEN)
            {
                self.hold(number, HEADROOM, len, vnet);
            }
        }
        Ok(())
    }

    /// Whatever the tunnel has, up to the bounds of a batch.
    fn read_tunnel(&mut self, tunnel: &mut Tunnel) {
        self.frames.clear();
        let mut bytes = 0;
        for number in 0..READS {
            let Some(buffer) = self.buffers.get_mut(number).filter(|_| bytes < BYTES) else { break };
            let datagram = match tunnel.rx.recv(buffer) {
                Ok(datagram) => datagram,
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => break,
                // Pending ICMP errors, while the other end is not there yet.
                Err(_) => continue,
            };
            bytes += datagram.len;
            for range in datagram.ranges() {
                if let Some(len) = range.len().checked_sub(Encap::HEADER_LEN) {
                    self.hold(number, range.start + Encap::HEADER_LEN, len, VnetHdr::default());
                }
            }
        }
    }

    /// Writes the frames, those that belong together as one.
    fn write_tap(&self, tap: &mut Tap, mtu: usize) {
        let frame = |i: usize| {
            let held = &self.frames[i];
            GroFrame { bytes: self.bytes(held), headers: held.headers, vnet: held.vnet }
        };
        let device = &mut tap.device;
        let mut write = |output: Output<'_>| {
            if let Output::Write { parts, .. } = output {
                // A full ring loses the frame, as at any switch.
                let _ = device.write(parts);
            }
        };
        let count = self.frames.len();
        if tap.merge && count > 0 {
            tap.merger.run(count, frame, tap.caps, mtu, write);
        } else {
            (0..count).for_each(|i| tap.merger.run(1, |_| frame(i), tap.caps, mtu, &mut write));
        }
    }

    /// Cuts and sends the frames, in runs.
    fn write_tunnel(&self, tunnel: &mut Tunnel, mtu: usize) {
        let encap = tunnel.header;
        let frame = |i: usize| {
            let held = &self.frames[i];
            let (bytes, headers) = (self.bytes(held), held.headers);
            // Without it all would be one flow, and no run might wait for another.
            let entropy = flow::hash(&headers, bytes);
            TxFrame { bytes, headers, vnet: held.vnet, encap, tos: headers.tos(bytes), entropy }
        };
        // Likewise.
        let _ = tunnel.sender.send(&mut tunnel.tx, &tunnel.to, mtu, self.frames.len(), frame);
    }
}

/// The buffers of the one thread.
pub struct Relay {
    batch: Batch,
    mtu: usize,
}

impl Relay {
    pub fn new(mtu: u32) -> Self {
        let buffers = (0..READS).map(|_| vec![0; BUFFER_LEN].into_boxed_slice()).collect();
        Self { batch: Batch { buffers, frames: Vec::with_capacity(1024) }, mtu: mtu as usize }
    }

    /// Runs until a TAP is gone.
    pub fn between_taps(&mut self, mut a: Tap, mut b: Tap) -> io::Result<()> {
        let ready = Ready::of([a.device.as_fd(), b.device.as_fd()])?;
        loop {
            let [first, second] = ready.wait()?;
            if first {
                self.batch.read_tap(&mut a)?;
                self.batch.write_tap(&mut b, self.mtu);
            }
            if second {
                self.batch.read_tap(&mut b)?;
                self.batch.write_tap(&mut a, self.mtu);
            }
        }
    }

    /// Runs until the TAP is gone.
    pub fn over(&mut self, mut tap: Tap, mut tunnel: Tunnel) -> io::Result<()> {
        let ready = Ready::of([tap.device.as_fd(), tunnel.rx.as_fd()])?;
        loop {
            let [first, second] = ready.wait()?;
            if first {
                self.batch.read_tap(&mut tap)?;
                self.batch.write_tunnel(&mut tunnel, self.mtu);
            }
            if second {
                self.batch.read_tunnel(&mut tunnel);
                self.batch.write_tap(&mut tap, self.mtu);
            }
        }
    }
}

/// Level-triggered: a source with something left announces itself again.
struct Ready(rustix::fd::OwnedFd);

impl Ready {
    fn of(sources: [BorrowedFd<'_>; 2]) -> io::Result<Self> {
        let poll = epoll::create(CreateFlags::CLOEXEC)?;
        for (number, source) in (0..).zip(sources) {
            epoll::add(&poll, source, EventData::new_u64(number), EventFlags::IN)?;
        }
        Ok(Self(poll))
    }

    fn wait(&self) -> io::Result<[bool; 2]> {
        const NONE: Event = Event { flags: EventFlags::empty(), data: EventData::new_u64(0) };
        let mut events = [NONE; 2];
        let count = match epoll::wait(&self.0, &mut events, None) {
            Ok(count) => count,
            Err(rustix::io::Errno::INTR) => 0,
            Err(e) => return Err(e.into()),
        };
        let mut ready = [false; 2];
        for event in events.iter().take(count) {
            if let Some(slot) = ready.get_mut(event.data.u64() as usize) {
                *slot = true;
            }
        }
        Ok(ready)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use packet::{MacAddr, build};

    fn batch(frames: &[Vec<u8>]) -> Batch {
        let mut batch = Batch { buffers: frames.iter().map(|f| f.clone().into()).collect(), frames: vec![] };
        for (number, frame) in frames.iter().enumerate() {
            batch.hold(number, 0, frame.len(), VnetHdr::default());
        }
        batch
    }

    #[test]
    fn frames_are_held_as_they_came_and_nonsense_passes_whole() {
        let macs = (MacAddr([2, 0, 0, 0, 0, 1]), MacAddr([2, 0, 0, 0, 0, 2]));
        let ips = ("10.0.0.1".parse().unwrap(), "10.0.0.2".parse().unwrap());
        let good = build::udp(macs, ips, (1, 2), b"payload");
        let mut cut = good.clone();
        cut.truncate(20);
        let batch = batch(&[good.clone(), cut.clone()]);
        assert_eq!(batch.frames[0].headers, Headers::parse(&good).unwrap());
        assert_eq!(batch.frames[1].headers.end, 20);
        assert_eq!((batch.bytes(&batch.frames[0]), batch.bytes(&batch.frames[1])), (&good[..], &cut[..]));
    }
}
