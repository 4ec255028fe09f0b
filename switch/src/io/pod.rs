//! A whole pod in user space: smoltcp behind a [`PodEnd`].
//!
//! smoltcp computes and verifies every checksum itself and knows nothing of offloads, so what the switch
//! wrote is first turned into standard packets: [`expand`] does to a frame what a receiving kernel would
//! make of it on its way out again. It is a plain, slow transcription of that behaviour, kept apart from
//! the tunnel's segmentation on purpose: it is the witness in tests of the latter.
//!
//! Limits: frames of up to 64 KiB; up to 65,535 segments of one frame.

use std::collections::VecDeque;

use packet::{ETHERNET_LEN, GsoType, Headers, VNET_HDR_LEN, VnetHdr, checksum, tcp_flag};
use smoltcp::phy::{Device, DeviceCapabilities, Medium, RxToken, TxToken};
use smoltcp::time::Instant;

use super::memory::PodEnd;

/// A network device for smoltcp, with the switch at its other end.
#[derive(Debug)]
pub struct PodDevice {
    end: PodEnd,
    mtu: usize,
    waiting: VecDeque<Vec<u8>>,
    /// Frames that no kernel could have made sense of.
    pub broken: u64,
}

impl PodDevice {
    /// Wraps a pod's end; `mtu` is that of IP packets.
    #[must_use]
    pub fn new(end: PodEnd, mtu: usize) -> Self {
        Self { end, mtu, waiting: VecDeque::new(), broken: 0 }
    }

    /// The end itself, to look at or to send odd frames by.
    #[must_use]
    pub fn end(&self) -> &PodEnd {
        &self.end
    }

    fn fill(&mut self) {
        while self.waiting.is_empty() {
            let Some(raw) = self.end.recv() else { return };
            match expand(&raw) {
                Some(frames) => self.waiting.extend(frames),
                None => self.broken += 1,
            }
        }
    }
}

impl Device for PodDevice {
    type RxToken<'a> = Received;
    type TxToken<'a> = ToSend<'a>;

    fn receive(&mut self, _: Instant) -> Option<(Received, ToSend<'_>)> {
        self.fill();
        let frame = self.waiting.pop_front()?;
        Some((Received(frame), ToSend(&self.end)))
    }

    fn transmit(&mut self, _: Instant) -> Option<ToSend<'_>> {
        self.end.has_room().then_some(ToSend(&self.end))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut caps = DeviceCapabilities::default();
        caps.medium = Medium::Ethernet;
        caps.max_transmission_unit = self.mtu + ETHERNET_LEN;
        caps
    }
}

/// One standard frame for smoltcp.
#[derive(Debug)]
pub struct Received(Vec<u8>);

impl RxToken for Received {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, f: F) -> R {
        f(&self.0)
    }
}

/// Room for one frame of smoltcp's.
#[derive(Debug)]
pub struct ToSend<'a>(&'a PodEnd);

impl TxToken for ToSend<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, f: F) -> R {
        let mut raw = vec![0; VNET_HDR_LEN + len];
        let result = f(&mut raw[VNET_HDR_LEN..]);
        // A full queue loses the frame, as a TAP's ring does; the end counts it.
        let _ = self.0.send(&raw);
        result
    }
}

/// Turns what a switch wrote (virtio-net header and frame) into standard packets with complete checksums.
/// `None` if header and frame contradict each other.
#[must_use]
pub fn expand(raw: &[u8]) -> Option<Vec<Vec<u8>>> {
    let vnet = VnetHdr::parse(raw).ok()?;
    let frame = raw.get(VNET_HDR_LEN..)?;
    if vnet.gso_type == GsoType::None {
        let mut frame = frame.to_vec();
        if vnet.needs_csum {
            complete(&mut frame, vnet.csum_start.into(), vnet.csum_offset.into())?;
        }
        return Some(vec![frame]);
    }
    let tcp = vnet.gso_type != GsoType::UdpL4;
    let l4 = usize::from(vnet.csum_start);
    let field = l4 + usize::from(vnet.csum_offset);
    let l3 = Headers::L3;
    let v4 = frame.get(l3)? >> 4 == 4;
    let fits = match vnet.gso_type {
        GsoType::Tcp4 => v4,
        GsoType::Tcp6 => !v4,
        GsoType::UdpL4 | GsoType::None => true,
    };
    if !fits || l4 < l3 + if v4 { 20 } else { 40 } {
        return None;
    }
    let header_len = if tcp { usize::from(*frame.get(l4 + 12)? >> 4) * 4 } else { 8 };
    if tcp && header_len < 20 {
        return None;
    }
    let payload_at = l4 + header_len;
    let (head, payload) = (frame.get(..payload_at)?, frame.get(payload_at..)?);
    let partial = word(frame, field)?;
    let whole = (frame.len() - l4) as u16;
    let id = word(frame, l3 + 4)?;
    let count = payload.len().div_ceil(vnet.gso_size.into());
    let mut out = Vec::with_capacity(count);
    for (k, part) in payload.chunks(vnet.gso_size.into()).enumerate() {
        let mut segment = [head, part].concat();
        let len = (segment.len() - l4) as u16;
        let l3_len = (segment.len() - l3) as u16;
        if v4 {
            put(&mut segment, l3 + 2, l3_len);
            put(&mut segment, l3 + 4, id.wrapping_add(k as u16));
            put(&mut segment, l3 + 10, 0);
            let sum = checksum::finish(checksum::sum(&segment[l3..l4]));
            put(&mut segment, l3 + 10, sum);
        } else {
            put(&mut segment, l3 + 4, l3_len.checked_sub(40)?);
        }
        if tcp {
            let seq = u32::from_be_bytes(*segment.get(l4 + 4..)?.first_chunk()?);
            let seq = seq.wrapping_add((k * usize::from(vnet.gso_size)) as u32);
            segment[l4 + 4..l4 + 8].copy_from_slice(&seq.to_be_bytes());
            if k + 1 < count {
                segment[l4 + 13] &= !(tcp_flag::FIN | tcp_flag::PSH);
            }
            if k > 0 && vnet.ecn {
                segment[l4 + 13] &= !tcp_flag::CWR;
            }
        } else {
            put(&mut segment, l4 + 4, len);
        }
        // The field holds the pseudo-header sum for the whole length: exchange the length.
        put(&mut segment, field, checksum::add(checksum::add(partial, !whole), len));
        complete(&mut segment, l4, vnet.csum_offset.into())?;
        out.push(segment);
    }
    Some(out)
}

fn complete(frame: &mut [u8], start: usize, offset: usize) -> Option<()> {
    let sum = checksum::sum(frame.get(start..)?);
    frame.get(start + offset..start + offset + 2)?;
    // Zero means "none" in UDP, and all ones is the same sum.
    put(frame, start + offset, checksum::finish_udp(sum));
    Some(())
}

fn word(frame: &[u8], at: usize) -> Option<u16> {
    frame.get(at..)?.first_chunk().map(|b| u16::from_be_bytes(*b))
}

fn put(frame: &mut [u8], at: usize, value: u16) {
    if let Some(field) = frame.get_mut(at..at + 2) {
        field.copy_from_slice(&value.to_be_bytes());
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use packet::{MacAddr, build};
    use smoltcp::iface::{Config, Interface, SocketSet, SocketStorage};
    use smoltcp::socket::tcp;
    use smoltcp::wire::{EthernetAddress, IpAddress, IpCidr, Ipv4Address};

    use super::super::memory::MemoryTap;
    use super::super::{PortIo, READ_BUF_LEN};
    use super::*;

    const MACS: (MacAddr, MacAddr) = (MacAddr([2, 0, 0, 0, 0, 1]), MacAddr([2, 0, 0, 0, 0, 2]));

    fn ips(v4: bool) -> (IpAddr, IpAddr) {
        let (a, b) = if v4 { ("10.0.0.1", "10.0.0.2") } else { ("fd00::1", "fd00::2") };
        (a.parse().unwrap(), b.parse().unwrap())
    }

    /// Makes the checksum of a finished frame partial, as a sender with offloads leaves it.
    fn partial(mut frame: Vec<u8>, mut vnet: VnetHdr) -> Vec<u8> {
        let headers = build::parse(&frame);
        let l4 = usize::from(headers.l4);
        let offset = checksum::field_offset(headers.proto).unwrap();
        let sum = checksum::pseudo(&headers, &frame, (frame.len() - l4) as u32);
        put(&mut frame, l4 + offset, sum);
        vnet.needs_csum = true;
        vnet.csum_start = headers.l4;
        vnet.csum_offset = offset as u16;
        vnet.hdr_len = headers.payload;
        [vnet.to_bytes().to_vec(), frame].concat()
    }

    fn payload(len: usize) -> Vec<u8> {
        (0..len).map(|i| (i * 7 + i / 256) as u8).collect()
    }

    #[test]
    fn a_partial_checksum_is_completed() {
        for v4 in [true, false] {
            let frame = build::udp(MACS, ips(v4), (1, 2), &payload(333));
            assert_eq!(expand(&partial(frame.clone(), VnetHdr::default())).unwrap(), [frame]);
        }
        let bad = VnetHdr { needs_csum: true, csum_start: 60, csum_offset: 6, ..VnetHdr::default() };
        assert_eq!(expand(&[bad.to_bytes().to_vec(), vec![0; 60]].concat()), None);
    }

    #[test]
    fn tcp_is_cut_into_what_would_have_been_sent() {
        for (v4, gso_type) in [(true, GsoType::Tcp4), (false, GsoType::Tcp6)] {
            let data = payload(10_000);
            let fin_psh = tcp_flag::ACK | tcp_flag::PSH | tcp_flag::FIN;
            let whole = build::tcp(MACS, ips(v4), (1, 2), (u32::MAX - 5, 9, fin_psh | tcp_flag::CWR), &data);
            let vnet = VnetHdr { gso_type, gso_size: 1400, ecn: true, ..VnetHdr::default() };
            let got = expand(&partial(whole, vnet)).unwrap();
            assert_eq!(got.len(), 8);
            for (k, (frame, part)) in got.iter().zip(data.chunks(1400)).enumerate() {
                let first = if k == 0 { tcp_flag::CWR } else { 0 };
                let flags = if k == 7 { fin_psh } else { tcp_flag::ACK | first };
                let seq = (u32::MAX - 5).wrapping_add(k as u32 * 1400);
                let mut want = build::tcp(MACS, ips(v4), (1, 2), (seq, 9, flags), part);
                if v4 {
                    let id = word(frame, 18).unwrap();
                    assert_eq!(id, word(&got[0], 18).unwrap().wrapping_add(k as u16));
                    let sum = checksum::update(word(&want, 24).unwrap(), word(&want, 18).unwrap(), id);
                    put(&mut want, 18, id);
                    put(&mut want, 24, sum);
                }
                assert_eq!(*frame, want, "segment {k}");
            }
        }
    }

    #[test]
    fn udp_is_cut_into_datagrams() {
        for v4 in [true, false] {
            let data = payload(2500);
            let vnet = VnetHdr { gso_type: GsoType::UdpL4, gso_size: 1000, ..VnetHdr::default() };
            let got = expand(&partial(build::udp(MACS, ips(v4), (1, 2), &data), vnet)).unwrap();
            assert_eq!(got.len(), 3);
            for (frame, part) in got.iter().zip(data.chunks(1000)) {
                let headers = build::parse(frame);
                assert!(checksum::verify_l4(&headers, frame));
                assert_eq!(frame[usize::from(headers.payload)..], *part);
            }
        }
    }

    #[test]
    fn nonsense_is_no_frame() {
        let vnet = VnetHdr {
            needs_csum: true,
            gso_type: GsoType::Tcp4,
            gso_size: 1,
            csum_start: 34,
            csum_offset: 16,
            ..VnetHdr::default()
        };
        let hdr = vnet.to_bytes();
        for len in 0..80 {
            assert_eq!(expand(&[hdr.to_vec(), vec![0x60; len]].concat()), None, "{len}");
        }
        assert_eq!(expand(&hdr[..9]), None);
    }

    proptest::proptest! {
        #[test]
        fn no_frame_makes_it_panic(
            gso in proptest::sample::select(vec![0u8, 1, 4, 5, 0x81]),
            words: [u8; 8],
            mut frame in proptest::collection::vec(0u8.., 0..200),
            ip in proptest::sample::select(vec![0x45u8, 0x60]),
        ) {
            if let Some(first) = frame.get_mut(14) {
                *first = ip;
            }
            let mut raw = vec![1, gso];
            raw.extend(words.map(|w| w & if w & 1 == 0 { 0x3f } else { 0 }));
            raw.extend(frame);
            let _ = expand(&raw);
        }
    }

    /// Moves everything from one port to another, as a switch with two ports would.
    fn relay(from: &mut MemoryTap, to: &mut MemoryTap, buf: &mut [u8]) {
        while let Ok(n) = from.read(buf) {
            to.write(&[std::io::IoSlice::new(&buf[..n])]).unwrap();
        }
    }

    #[test]
    fn two_pods_talk_tcp() {
        let (mut taps, mut pods) = (Vec::new(), Vec::new());
        for host in [1, 2] {
            let (tap, end) = MemoryTap::pair();
            let mut device = PodDevice::new(end, 1450);
            let mac = EthernetAddress([2, 0, 0, 0, 0, host]);
            let mut iface = Interface::new(Config::new(mac.into()), &mut device, Instant::ZERO);
            let addr = Ipv4Address::new(10, 0, 0, host);
            iface.update_ip_addrs(|a| a.push(IpCidr::new(IpAddress::Ipv4(addr), 24)).unwrap());
            let buffer = || tcp::SocketBuffer::new(vec![0; 20_000]);
            let mut sockets = SocketSet::new(vec![SocketStorage::EMPTY]);
            let handle = sockets.add(tcp::Socket::new(buffer(), buffer()));
            taps.push(tap);
            pods.push((device, iface, sockets, handle));
        }
        {
            let [(_, iface, sockets, handle), (.., server, at)] = pods.as_mut_slice() else { unreachable!() };
            server.get_mut::<tcp::Socket<'_>>(*at).listen(80).unwrap();
            let client = sockets.get_mut::<tcp::Socket<'_>>(*handle);
            client.connect(iface.context(), (Ipv4Address::new(10, 0, 0, 2), 80), 50_000).unwrap();
        }
        let data = payload(100_000);
        let (mut sent, mut got) = (0, Vec::new());
        let mut buf = vec![0; READ_BUF_LEN];
        for now in 0..10_000 {
            for (device, iface, sockets, _) in &mut pods {
                iface.poll(Instant::from_millis(now), device, sockets);
            }
            let [a, b] = taps.as_mut_slice() else { unreachable!() };
            relay(a, b, &mut buf);
            relay(b, a, &mut buf);
            let [(_, _, sockets, handle), (.., server, at)] = pods.as_mut_slice() else { unreachable!() };
            let client = sockets.get_mut::<tcp::Socket<'_>>(*handle);
            if client.can_send() && sent < data.len() {
                sent += client.send_slice(&data[sent..]).unwrap();
            }
            let server = server.get_mut::<tcp::Socket<'_>>(*at);
            while server.can_recv() {
                let n = server.recv_slice(&mut buf).unwrap();
                got.extend_from_slice(&buf[..n]);
            }
            if got.len() == data.len() {
                break;
            }
        }
        assert!(got == data, "{} of {} bytes", got.len(), data.len());
        assert_eq!(pods.iter().map(|p| p.0.broken).sum::<u64>(), 0);
    }
}
