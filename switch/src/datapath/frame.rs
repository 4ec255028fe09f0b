//! Frames and where their bytes live.
//!
//! A [`Batch`] is what one turn of a worker reads: a few large buffers, and frames that are windows into
//! them. One buffer may hold many frames (a datagram that the kernel merged on receive). Nothing is copied
//! between here and the write. Frames that the switch itself makes — answers, ICMP errors, solicitations,
//! frames released from a neighbour's queue — live in [`Generated`], so that a rewritten original and a new
//! frame can be borrowed at the same time.

use super::verdict::{Egress, PortId};
use packet::{Headers, VnetHdr};
use std::net::IpAddr;

/// Room kept in front of what a device writes: the virtio-net header of a TAP frame ends at this offset.
pub const HEADROOM: usize = 64;
/// Largest Ethernet frame a TAP may hand over (14 + 4 + 65,535), rounded up.
pub const MAX_FRAME: usize = 65_568;
/// Bytes of one receive buffer.
pub const BUFFER_LEN: usize = HEADROOM + MAX_FRAME;
/// Frames the switch may generate while it processes one batch. Beyond that: `NoBuffer`.
pub const MAX_GENERATED: usize = 256;

/// Where a frame entered, as the shell knows it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ingress {
    /// Read from a port's TAP.
    Port(PortId),
    /// Received from the underlay, still encapsulated.
    Underlay {
        /// Outer source address.
        source: IpAddr,
        /// Outer DSCP and ECN.
        tos: u8,
        /// How it is encapsulated, known from the socket it arrived at.
        encap: tunnel::Encap,
    },
    /// Already decapsulated; only `trace` starts here.
    Peer {
        /// The sending peer.
        peer: super::PeerId,
        /// Raw VNI.
        vni: u32,
    },
}

/// One frame of a batch: a window into a buffer plus what is known about it.
#[derive(Clone, Copy, Debug)]
pub struct Frame {
    /// Which buffer.
    pub buffer: u16,
    /// Where the Ethernet header begins in it (before decapsulation: the tunnel header).
    pub head: u32,
    /// Length in bytes, from `head`.
    pub len: u32,
    /// Offload description; `csum_start` counts from the Ethernet header.
    pub vnet: VnetHdr,
    /// Where it came from.
    pub ingress: Ingress,
    /// Filled in by `process`.
    pub headers: Headers,
    /// Flow hash, filled in by `process`.
    pub hash: u32,
}

/// A bounded set of buffers and the frames in them.
pub struct Batch {
    buffers: Vec<Box<[u8]>>,
    used: usize,
    /// The frames, in the order they were received.
    pub frames: Vec<Frame>,
}

impl Batch {
    /// A batch of at most `buffers` receive buffers.
    #[must_use]
    pub fn new(buffers: usize) -> Self {
        Self {
            buffers: (0..buffers).map(|_| vec![0; BUFFER_LEN].into_boxed_slice()).collect(),
            used: 0,
            frames: Vec::with_capacity(buffers * 64),
        }
    }

    /// Forgets all frames; buffers are reused, the most recently used first (they are in the cache).
    pub fn clear(&mut self) {
        self.used = 0;
        self.frames.clear();
    }

    /// The next free buffer, or `None` when the batch is full. It counts as used only after [`Batch::commit`].
    pub fn spare(&mut self) -> Option<&mut [u8]> {
        self.buffers.get_mut(self.used).map(|b| &mut **b)
    }

    /// Marks the spare buffer as used and returns its number.
    pub fn commit(&mut self) -> u16 {
        self.used += 1;
        (self.used - 1) as u16
    }

    /// Are all buffers in use?
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.used == self.buffers.len()
    }

    /// The bytes of a frame.
    #[inline]
    #[must_use]
    pub fn bytes(&self, frame: &Frame) -> &[u8] {
        &self.buffers[usize::from(frame.buffer)][frame.head as usize..(frame.head + frame.len) as usize]
    }

    /// What stands in the buffer from a frame's head on, whether it belongs to the frame or not: good for a guess of
    /// what it will need. `None` at the end of the buffer.
    #[inline]
    pub(super) fn peek<const N: usize>(&self, frame: &Frame) -> Option<&[u8; N]> {
        self.buffers.get(usize::from(frame.buffer))?.get(frame.head as usize..)?.first_chunk()
    }

    /// A frame with its bytes, both to edit.
    #[inline]
    pub fn frame_mut(&mut self, number: usize) -> (&mut Frame, &mut [u8]) {
        let frame = &mut self.frames[number];
        let buffer = &mut self.buffers[usize::from(frame.buffer)];
        let bytes = &mut buffer[frame.head as usize..(frame.head + frame.len) as usize];
        (frame, bytes)
    }

    /// The bytes of a whole buffer, to carve frames out of it.
    #[must_use]
    pub fn buffer(&self, number: u16) -> &[u8] {
        &self.buffers[usize::from(number)]
    }

    /// Adds a frame by copying its bytes: for tests, traces and the fuzz targets.
    pub fn push_copy(&mut self, bytes: &[u8], vnet: VnetHdr, ingress: Ingress) -> bool {
        let Some(buffer) = self.spare() else { return false };
        if bytes.len() > buffer.len() - HEADROOM {
            return false;
        }
        buffer[HEADROOM..HEADROOM + bytes.len()].copy_from_slice(bytes);
        let buffer = self.commit();
        self.frames.push(Frame {
            buffer,
            head: HEADROOM as u32,
            len: bytes.len() as u32,
            vnet,
            ingress,
            headers: Headers::default(),
            hash: 0,
        });
        true
    }
}

/// A frame made by the switch.
#[derive(Default, Clone)]
pub struct OwnFrame {
    /// Ethernet frame.
    pub bytes: Vec<u8>,
    /// Offload description.
    pub vnet: VnetHdr,
    /// Parsed headers.
    pub headers: Headers,
    /// Flow hash.
    pub hash: u32,
}

/// Frames made while one batch is processed. The vectors keep their capacity between batches.
pub struct Generated {
    frames: Vec<OwnFrame>,
    used: usize,
}

impl Generated {
    pub(crate) fn new() -> Self {
        Self { frames: Vec::new(), used: 0 }
    }

    pub(crate) fn clear(&mut self) {
        self.used = 0;
    }

    /// A cleared frame to fill in, with its number; `None` when the batch made its share.
    pub(crate) fn make(&mut self) -> Option<(u16, &mut OwnFrame)> {
        if self.used == MAX_GENERATED {
            return None;
        }
        if self.used == self.frames.len() {
            self.frames.push(OwnFrame::default());
        }
        let frame = &mut self.frames[self.used];
        frame.bytes.clear();
        frame.vnet = VnetHdr::default();
        self.used += 1;
        Some(((self.used - 1) as u16, frame))
    }

    /// How many more may be made.
    pub(crate) fn room(&self) -> usize {
        MAX_GENERATED - self.used
    }

    /// Gives back the frame made last.
    pub(crate) fn unmake(&mut self) {
        self.used -= 1;
    }

    pub(crate) fn get_mut(&mut self, number: u16) -> &mut OwnFrame {
        &mut self.frames[usize::from(number)]
    }

    /// The frame with this number.
    #[must_use]
    pub fn get(&self, number: u16) -> &OwnFrame {
        &self.frames[usize::from(number)]
    }
}

/// Names a frame of the current batch.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FrameRef {
    /// Index into [`Batch::frames`].
    Received(u16),
    /// Number in [`Generated`].
    Generated(u16),
}

/// One copy to be sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Posted {
    /// Which frame.
    pub frame: FrameRef,
    /// The VNI it travels under, for peers.
    pub vni: u32,
}

/// Egress lists of one batch: per port and per peer, in order. Holds frame names, so flooding copies nothing.
pub struct Postbox {
    /// Frames made by the switch.
    pub generated: Generated,
    ports: Vec<Vec<Posted>>,
    peers: Vec<Vec<Posted>>,
    touched: Vec<Egress>,
    /// Copies posted since the last `clear`.
    pub copies: u64,
}

impl Default for Postbox {
    fn default() -> Self {
        Self {
            generated: Generated::new(),
            ports: Vec::new(),
            peers: Vec::new(),
            touched: Vec::new(),
            copies: 0,
        }
    }
}

impl Postbox {
    /// Forgets everything posted.
    pub fn clear(&mut self) {
        while let Some(egress) = self.touched.pop() {
            self.list_mut(egress).clear();
        }
        self.generated.clear();
        self.copies = 0;
    }

    #[inline]
    fn list_mut(&mut self, egress: Egress) -> &mut Vec<Posted> {
        let (lists, at) = match egress {
            Egress::Port(PortId(at)) => (&mut self.ports, at as usize),
            Egress::Peer(super::PeerId(at)) => (&mut self.peers, at as usize),
        };
        if at >= lists.len() {
            lists.resize_with(at + 1, Vec::new);
        }
        &mut lists[at]
    }

    /// Posts one copy.
    #[inline(always)]
    pub(crate) fn post(&mut self, egress: Egress, posted: Posted) {
        self.copies += 1;
        let list = self.list_mut(egress);
        list.push(posted);
        if list.len() == 1 {
            self.touched.push(egress);
        }
    }

    /// Who gets something, in the order of the first copy.
    #[must_use]
    pub fn touched(&self) -> &[Egress] {
        &self.touched
    }

    /// What one egress gets, in order.
    #[must_use]
    pub fn list(&self, egress: Egress) -> &[Posted] {
        let list = match egress {
            Egress::Port(PortId(at)) => self.ports.get(at as usize),
            Egress::Peer(super::PeerId(at)) => self.peers.get(at as usize),
        };
        list.map_or(&[], |l| l)
    }
}
