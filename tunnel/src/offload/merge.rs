//! The merge: packets of one flow that are already there become one offload frame for a port.
//!
//! A pod's stack costs per packet, and every write to a TAP runs it. So consecutive TCP segments and
//! equal-size UDP datagrams of one batch are written as one frame with a virtio-net header, from which the
//! pod's kernel can restore the original packets. Nothing is ever held back to wait for more.
//!
//! Absences: packets of one flow never change order, and no packet is merged that would not come out of a
//! cut the same again (but for the IPv4 identification under DF, which means nothing then). A checksum that is
//! wrong stays visible: its packet goes alone, as it came.
//!
//! Limits: [`MAX_OPEN`](super::MAX_OPEN) flows at once, [`MAX_MERGED`] packets and 65,535 bytes of IP per frame. A flow that
//! finds no place evicts another, which only merges less.

use super::open::{Open, Place};
use super::write::{alone, merged};
use super::{Caps, GroFrame, Output, asks_for_l4, gso_type};
use packet::{Fragment, GsoType, Headers, Net, checksum, flow, ip_proto, tcp_flag};

/// Packets in one offload frame.
pub const MAX_MERGED: usize = 64;

const MAX_IP: usize = 65_535;
/// No next packet.
pub(super) const NONE: u32 = u32::MAX;

/// A run of packets, or a frame that goes alone. Entries are in the order of their first packets.
#[derive(Clone, Copy, Debug)]
pub(super) struct Entry {
    pub first: u32,
    last: u32,
    count: u16,
    /// `None`: never to be extended.
    pub gso: GsoType,
    /// Payload of the first packet.
    pub size: u16,
    /// Payload of all.
    pub total: u32,
    next_seq: u32,
    next_id: u16,
    pub psh: bool,
    /// The first packet's checksums have been looked at and are right.
    verified: bool,
}

/// Merges batch after batch; keeps its buffers between them.
#[derive(Debug, Default)]
pub struct Merger {
    entries: Vec<Entry>,
    /// Next packet of the same entry, by input index.
    next: Vec<u32>,
    open: Open,
}

impl Merger {
    /// An empty merger. Its buffers grow to the size of the largest batch and stay.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Hands the frames `0..count` for one port, in order, to `emit` as writes. `max_l3` is the MTU of the
    /// port; it matters only for frames that must be cut because the port lacks an offload.
    ///
    /// Every frame is a member of exactly one `Refused`, or of one `Write` with `last` set.
    pub fn run<'a>(
        &mut self,
        count: usize,
        frame: impl Fn(usize) -> GroFrame<'a>,
        caps: Caps,
        max_l3: usize,
        mut emit: impl FnMut(Output<'_>),
    ) {
        if count == 1 {
            alone(&frame(0), 0, caps, max_l3, &mut emit);
            return;
        }
        self.entries.clear();
        self.next.clear();
        self.next.resize(count, NONE);
        self.open.clear();
        let mut last = None;
        for i in 0..count {
            self.take(i as u32, &frame, caps, &mut last);
        }
        for entry in &self.entries {
            if entry.count == 1 {
                alone(&frame(entry.first as usize), entry.first, caps, max_l3, &mut emit);
            } else {
                merged(entry, &self.next, &frame, &mut emit);
            }
        }
    }

    /// `last` is the entry that was opened or extended last, with its first packet: mostly it is the one.
    fn take<'a>(
        &mut self,
        i: u32,
        frame: &impl Fn(usize) -> GroFrame<'a>,
        caps: Caps,
        last: &mut Option<(Place, u32, GroFrame<'a>)>,
    ) {
        let f = frame(i as usize);
        let Some(identity) = Identity::of(&f) else {
            self.entries.push(Entry::lone(i));
            return;
        };
        if identity == Identity::Piece {
            // A fragment of some datagram of the same two hosts: nothing of theirs may overtake it.
            self.close_pair(&f, frame);
            self.entries.push(Entry::lone(i));
            return;
        }
        let candidate = candidate(&f, caps);
        let again =
            last.filter(|(place, entry, first)| self.open.holds(*place, *entry) && same_flow(first, &f));
        let (hash, found) = match again {
            Some(found) => (None, Some(found)),
            None => {
                let hash = flow::hash(&f.headers, f.bytes);
                let first = |entry: u32| self.entries.get(entry as usize).map(|e| frame(e.first as usize));
                // There is at most one.
                let found =
                    self.open.find(hash, |entry| first(entry).is_some_and(|first| same_flow(&first, &f)));
                (Some(hash), found.and_then(|(place, entry)| Some((place, entry, first(entry)?))))
            }
        };
        if let Some((place, index, first)) = found {
            if let (Some(c), Some(entry)) = (&candidate, self.entries.get_mut(index as usize))
                && entry.accepts(c, &first, &f)
            {
                entry.verified = entry.verified || intact(&first);
                if entry.verified && intact(&f) {
                    self.next[entry.last as usize] = i;
                    if entry.append(c, i) {
                        self.open.remove(place);
                    }
                    *last = Some((place, index, first));
                    return;
                }
            }
            self.open.remove(place);
        }
        match candidate {
            Some(c) if !c.ends => {
                let hash = hash.unwrap_or_else(|| flow::hash(&f.headers, f.bytes));
                let index = self.entries.len() as u32;
                *last = Some((self.open.add(hash, index), index, f));
                self.entries.push(Entry::start(&c, i));
            }
            _ => self.entries.push(Entry::lone(i)),
        }
    }

    #[cold]
    fn close_pair<'a>(&mut self, f: &GroFrame<'_>, frame: &impl Fn(usize) -> GroFrame<'a>) {
        let entries = &self.entries;
        self.open.remove_where(|entry| {
            entries.get(entry as usize).is_some_and(|entry| {
                let first = frame(entry.first as usize);
                first.headers.net == f.headers.net && addresses(&first) == addresses(f)
            })
        });
    }
}

/// What a frame is to the order of flows.
#[derive(PartialEq, Eq)]
enum Identity {
    /// TCP or UDP with ports.
    Flow,
    /// Part of a TCP or UDP flow that cannot be told.
    Piece,
}

impl Identity {
    #[inline]
    fn of(f: &GroFrame<'_>) -> Option<Self> {
        let h = &f.headers;
        if !matches!(h.net, Net::V4 | Net::V6) || !matches!(h.proto, ip_proto::TCP | ip_proto::UDP) {
            return None;
        }
        Some(if h.l4 != 0 && h.fragment == Fragment::Whole { Self::Flow } else { Self::Piece })
    }
}

/// A packet that may start or extend an entry.
struct Candidate {
    gso: GsoType,
    payload: usize,
    seq: u32,
    id: u16,
    psh: bool,
    /// Nothing may follow it.
    ends: bool,
}

#[inline]
fn candidate(f: &GroFrame<'_>, caps: Caps) -> Option<Candidate> {
    let (b, h) = (f.bytes, &f.headers);
    let l4 = usize::from(h.l4);
    // No IP options and no extension headers: the L4 header is where it is without them.
    if l4 != Headers::L3 + if h.net == Net::V4 { 20 } else { 40 } || f.vnet.is_gso() {
        return None;
    }
    let gso = gso_type(h);
    let payload = (h.end as usize).saturating_sub(usize::from(h.payload));
    if gso == GsoType::None || !caps.takes_gso(gso) || payload == 0 {
        return None;
    }
    if f.vnet.needs_csum && !asks_for_l4(h, &f.vnet) {
        return None;
    }
    let id = if h.net == Net::V4 { be16(b, Headers::L3 + 4) } else { 0 };
    if gso == GsoType::UdpL4 {
        let len = usize::from(be16(b, l4 + 4));
        let good = len == h.end as usize - l4 && be16(b, l4 + 6) != 0;
        return good.then_some(Candidate { gso, payload, seq: 0, id, psh: false, ends: false });
    }
    if h.tcp_flags & !tcp_flag::PSH != tcp_flag::ACK {
        return None;
    }
    let seq = u32::from_be_bytes([b[l4 + 4], b[l4 + 5], b[l4 + 6], b[l4 + 7]]);
    let psh = h.tcp_flags & tcp_flag::PSH != 0;
    Some(Candidate { gso, payload, seq, id, psh, ends: psh })
}

impl Entry {
    fn lone(i: u32) -> Self {
        Self {
            first: i,
            last: i,
            count: 1,
            gso: GsoType::None,
            size: 0,
            total: 0,
            next_seq: 0,
            next_id: 0,
            psh: false,
            verified: false,
        }
    }

    fn start(c: &Candidate, i: u32) -> Self {
        Self {
            gso: c.gso,
            size: c.payload as u16,
            total: c.payload as u32,
            next_seq: c.seq.wrapping_add(c.payload as u32),
            next_id: c.id.wrapping_add(1),
            psh: c.psh,
            ..Self::lone(i)
        }
    }

    /// Would the packet come out of a cut of the extended entry as it is? Checksums are looked at later.
    #[inline]
    fn accepts(&self, c: &Candidate, first: &GroFrame<'_>, f: &GroFrame<'_>) -> bool {
        let (a, b, h) = (first.bytes, f.bytes, &first.headers);
        let (l3, l4, payload) = (Headers::L3, usize::from(h.l4), usize::from(h.payload));
        if self.gso != c.gso
            || c.payload > usize::from(self.size)
            || payload - l3 + self.total as usize + c.payload > MAX_IP
            || h.payload != f.headers.payload
            || a[..l3] != b[..l3]
        {
            return false;
        }
        let ip = if h.net == Net::V4 {
            // Version, TOS; flags, TTL, protocol. Flags other than DF, and offsets, have been excluded.
            let df = b[l3 + 6] & 0x40 != 0;
            a[l3..l3 + 2] == b[l3..l3 + 2]
                && a[l3 + 6..l3 + 10] == b[l3 + 6..l3 + 10]
                && (df || c.id == self.next_id)
        } else {
            // Version, traffic class, flow label; next header, hop limit.
            a[l3..l3 + 4] == b[l3..l3 + 4] && a[l3 + 6..l3 + 8] == b[l3 + 6..l3 + 8]
        };
        if self.gso == GsoType::UdpL4 {
            return ip;
        }
        // Acknowledgement and header length; window; urgent pointer and options.
        ip && c.seq == self.next_seq
            && a[l4 + 8..l4 + 13] == b[l4 + 8..l4 + 13]
            && a[l4 + 14..l4 + 16] == b[l4 + 14..l4 + 16]
            && a[l4 + 18..payload] == b[l4 + 18..payload]
    }

    /// Adds a packet that was accepted; true if nothing may follow.
    #[inline]
    fn append(&mut self, c: &Candidate, i: u32) -> bool {
        self.last = i;
        self.count += 1;
        self.total += c.payload as u32;
        self.next_seq = self.next_seq.wrapping_add(c.payload as u32);
        self.next_id = self.next_id.wrapping_add(1);
        self.psh |= c.psh;
        c.ends || c.payload < usize::from(self.size) || usize::from(self.count) == MAX_MERGED
    }
}

/// Are the checksums that a merge replaces right?
#[inline]
fn intact(f: &GroFrame<'_>) -> bool {
    (f.headers.net != Net::V4 || checksum::verify_ipv4_header(&f.bytes[Headers::L3..]))
        && (f.vnet.needs_csum || checksum::verify_l4(&f.headers, f.bytes))
}

#[inline]
fn be16(b: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([b[at], b[at + 1]])
}

/// Source and destination of an IP frame.
#[inline]
fn addresses<'a>(f: &GroFrame<'a>) -> &'a [u8] {
    let l3 = Headers::L3;
    if f.headers.net == Net::V4 { &f.bytes[l3 + 12..l3 + 20] } else { &f.bytes[l3 + 8..l3 + 40] }
}

#[inline]
fn same_flow(a: &GroFrame<'_>, b: &GroFrame<'_>) -> bool {
    let (x, y) = (&a.headers, &b.headers);
    (x.net, x.proto, x.sport, x.dport) == (y.net, y.proto, y.sport, y.dport) && addresses(a) == addresses(b)
}
