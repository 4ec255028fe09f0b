//! What the tests of this suite share: frames built byte by byte, markers that prove that everything
//! sent before them has been decided, and the difference of two drop ledgers.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket};
use std::time::Duration;

use lab::capture::{Captured, Frame};
use lab::packet_socket::PacketSocket;
use lab::rawframe::{Mac, Udp, ethernet};
use lab::swd::SwdOptions;
use lab::{Context, Error, Node, Ns, Result, ensure, wait};

use crate::common::Host;

pub const LIMIT: Duration = Duration::from_secs(5);
/// Frames sent before a marker is awaited: fewer than any queue on the way holds.
pub const BURST: usize = 128;

/// Starts the switch of a node that has no others to reach.
pub fn start_alone(node: &Node, args: &[&str]) -> Result<()> {
    let args = args.iter().map(|&a| a.to_owned()).collect();
    node.start_swd_with(&SwdOptions { args, ..SwdOptions::default() })
}

/// Drops by reason and by the port or `@peer` they are counted to; "-" for none.
pub type Drops = BTreeMap<(String, String), u64>;

/// The ledger of a node by source.
pub fn drops(node: &Node) -> Result<Drops> {
    let reply = node.swctl(&["drops"])?;
    let rows = reply["drops"].as_array().ok_or_else(|| Error::failed(format!("no drops in {reply}")))?;
    let mut drops = Drops::new();
    for row in rows {
        let reason = row["reason"].as_str().unwrap_or_default();
        for source in row["sources"].as_array().into_iter().flatten() {
            let dev = source["dev"].as_str().unwrap_or("-");
            *drops.entry((reason.into(), dev.into())).or_default() += source["count"].as_u64().unwrap_or(0);
        }
    }
    Ok(drops)
}

/// What has been dropped since.
pub fn since(node: &Node, before: &Drops) -> Result<Drops> {
    let mut now = drops(node)?;
    for (key, count) in &mut now {
        *count -= before.get(key).copied().unwrap_or(0).min(*count);
    }
    now.retain(|_, count| *count > 0);
    Ok(now)
}

/// Fails unless exactly these drops have happened since.
pub fn dropped_exactly(node: &Node, before: &Drops, wanted: &[(&str, &str, u64)]) -> Result<()> {
    let wanted: Drops = wanted.iter().map(|&(r, dev, n)| ((r.to_owned(), dev.to_owned()), n)).collect();
    let found = since(node, before)?;
    ensure!(found == wanted, "dropped {found:?}, wanted {wanted:?}");
    Ok(())
}

/// The switch's own MAC addresses in its only network: the gateway's and the router's.
pub fn own_macs(node: &Node) -> Result<Vec<Mac>> {
    let reply = node.swctl(&["fdb", "show"])?;
    let rows = reply.as_array().cloned().unwrap_or_default();
    let own = rows.iter().filter(|r| r["flags"].as_array().is_some_and(|f| f.iter().any(|f| f == "router")));
    let macs: Vec<Mac> =
        own.filter_map(|r| lab::netns::parse_mac(r["mac"].as_str().unwrap_or_default())).collect();
    ensure!(!macs.is_empty(), "no MAC of the switch in {reply}");
    Ok(macs)
}

/// The gateway's MAC address.
pub fn gateway_mac(node: &Node) -> Result<Mac> {
    let status = node.swctl(&["status"])?;
    let router = status["router_mac"].as_str().and_then(lab::netns::parse_mac);
    let gateway = own_macs(node)?.into_iter().find(|&mac| Some(mac) != router);
    gateway.ok_or_else(|| Error::failed("the switch lists no MAC of the gateway"))
}

/// Where a MAC is in the FDB of a node: the port or `@peer` of its only entry.
pub fn located(node: &Node, mac: Mac) -> Result<Option<String>> {
    let reply = node.swctl(&["fdb", "show", "--mac", &lab::netns::format_mac(mac)])?;
    let rows = reply.as_array().ok_or_else(|| Error::failed(format!("no array: {reply}")))?;
    ensure!(rows.len() <= 1, "several places for one MAC: {reply}");
    Ok(rows.first().and_then(|row| row["dev"].as_str().map(str::to_owned)))
}

/// Number of entries learned behind a port.
pub fn learned(node: &Node, port: &str) -> Result<usize> {
    let reply = node.swctl(&["fdb", "show", "--port", port])?;
    Ok(reply.as_array().into_iter().flatten().filter(|r| r["state"] == "learned").count())
}

/// A socket in a pod that nobody but the test sends to. What arrives there arrived at the pod, and all
/// that was sent before it from the same place has been handled.
#[derive(Debug)]
pub struct Marker {
    socket: UdpSocket,
    at: (IpAddr, u16),
    mac: Mac,
    next: std::cell::Cell<u64>,
}

impl Marker {
    pub fn at(host: &Host) -> Result<Self> {
        let ip = host.ip(false);
        let socket = host.ns().run_in(|| UdpSocket::bind((ip, 0)))?.context("marker socket")?;
        socket.set_read_timeout(Some(LIMIT))?;
        let at = (ip, socket.local_addr()?.port());
        Ok(Self { socket, at, mac: host.ns().mac("eth0")?, next: std::cell::Cell::new(1) })
    }

    /// The frame of the next marker, and the text to wait for.
    pub fn frame(&self, from: Mac, ip: Ipv4Addr) -> Result<(Vec<u8>, String)> {
        let text = format!("marker {}", self.next.replace(self.next.get() + 1));
        let (eth_src, eth_dst, src) = (from, self.mac, (ip.into(), 4444));
        let udp = Udp { eth_src, eth_dst, src, dst: self.at, ttl: 64, payload: text.as_bytes() };
        Ok((udp.frame()?, text))
    }

    /// Waits for a marker; earlier ones are passed over.
    pub fn wait(&self, text: &str) -> Result<()> {
        let mut buffer = [0; 2048];
        for _ in 0..10_000 {
            match self.socket.recv(&mut buffer) {
                Ok(n) if &buffer[..n] == text.as_bytes() => return Ok(()),
                Ok(_) => {}
                Err(e) => return Err(Error::failed(format!("{text} did not arrive: {e}"))),
            }
        }
        Err(Error::failed(format!("{text} did not arrive among 10,000 datagrams")))
    }

    /// As [`Marker::wait`], for one that may get lost: within a quarter of a second.
    pub fn arrives(&self, text: &str) -> Result<bool> {
        self.socket.set_read_timeout(Some(LIMIT / 20))?;
        let arrived = self.wait(text).is_ok();
        self.socket.set_read_timeout(Some(LIMIT))?;
        Ok(arrived)
    }

    /// Whether a captured frame is one of these markers.
    pub fn is(&self, frame: &Frame) -> bool {
        frame.raw.bytes.get(42..49) == Some(b"marker ")
    }
}

/// Sends frames of a pod's port through a packet socket.
#[derive(Debug)]
pub struct Injector {
    socket: PacketSocket,
    pub mac: Mac,
    pub ip: Ipv4Addr,
}

impl Injector {
    pub fn at(host: &Host) -> Result<Self> {
        let socket = PacketSocket::open(host.ns(), "eth0", false)?;
        // It only sends: what it hears must not fill its buffer at the expense of the machine.
        Ok(Self { socket, mac: host.ns().mac("eth0")?, ip: host.v4 })
    }

    /// With a virtio-net header in front of each frame.
    pub fn with_offload_header(self) -> Result<Self> {
        Ok(Self { socket: self.socket.with_offload_header()?, ..self })
    }

    pub fn send(&self, frame: &[u8]) -> Result<()> {
        self.try_send(frame)?.context(format!("send a frame of {} bytes", frame.len()))
    }

    /// Sends; waits while the queue is full; gives the kernel's refusal of the frame itself.
    pub fn try_send(&self, frame: &[u8]) -> Result<std::io::Result<()>> {
        wait::until("room in the port's queue", LIMIT, || match self.socket.send(frame) {
            Err(e) if e.kind() == ErrorKind::WouldBlock || e.raw_os_error() == Some(105) => None,
            result => Some(result),
        })
    }

    /// Sends a marker with this port's own addresses and waits until it has arrived.
    pub fn mark(&self, marker: &Marker) -> Result<()> {
        let (frame, text) = marker.frame(self.mac, self.ip)?;
        self.send(&frame)?;
        marker.wait(&text)
    }
}

/// Frames that stacks send by themselves when an interface comes up: membership reports and duplicate
/// address detection.
pub fn is_start_of_a_stack(frame: &Frame) -> bool {
    let bytes = &frame.raw.bytes;
    let v6 = bytes.get(12..14) == Some(&[0x86, 0xdd]);
    let report = bytes.get(..6) == Some(&[0x33, 0x33, 0, 0, 0, 0x16]);
    let detection = bytes.get(22..38) == Some(&[0; 16]) && bytes.get(54) == Some(&135);
    v6 && (report || detection)
}

/// Fails if the capture saw anything come in but markers and what stacks send by themselves.
pub fn only_markers(captured: Captured, marker: &Marker, what: &str) -> Result<usize> {
    ensure!(captured.missed == 0, "{what}: {} frames were not seen", captured.missed);
    let arrived = captured.arrived();
    let strange: Vec<String> = arrived
        .frames
        .iter()
        .filter(|f| !marker.is(f) && !is_start_of_a_stack(f))
        .map(|f| hex(&f.raw.bytes[..f.raw.bytes.len().min(100)]))
        .collect();
    ensure!(strange.is_empty(), "{what} got {} frames, e.g. {}", strange.len(), strange[0]);
    Ok(arrived.count(|f| marker.is(f)))
}

pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

fn internet_checksum(parts: &[&[u8]]) -> u16 {
    let mut sum = 0u32;
    for part in parts {
        for pair in part.chunks(2) {
            sum += u32::from(u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or(0)]));
        }
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

/// What a stack leaves in the checksum field for the device to complete.
pub fn pseudo_header_sum(src: IpAddr, dst: IpAddr, protocol: u8, len: u16) -> u16 {
    let octets = |ip: IpAddr| match ip {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    };
    !internet_checksum(&[&octets(src), &octets(dst), &[0, protocol], &len.to_be_bytes()])
}

/// An ICMPv6 message with its checksum, without any header before it.
pub fn icmpv6(src: Ipv6Addr, dst: Ipv6Addr, kind: u8, code: u8, body: &[u8]) -> Vec<u8> {
    let mut message = vec![kind, code, 0, 0];
    message.extend_from_slice(body);
    let length = (message.len() as u32).to_be_bytes();
    let sum = internet_checksum(&[&src.octets(), &dst.octets(), &length, &[0, 0, 0, 58], &message]);
    message[2..4].copy_from_slice(&sum.to_be_bytes());
    message
}

/// An IPv6 packet in an Ethernet frame: first next-header value and everything behind the header.
pub fn ipv6(eth: (Mac, Mac), ip: (Ipv6Addr, Ipv6Addr), next: u8, rest: &[u8]) -> Vec<u8> {
    let mut frame = ethernet(eth.1, eth.0, 0x86dd);
    frame.extend_from_slice(&[0x60, 0, 0, 0]);
    frame.extend_from_slice(&(rest.len() as u16).to_be_bytes());
    frame.extend_from_slice(&[next, 255]);
    frame.extend_from_slice(&ip.0.octets());
    frame.extend_from_slice(&ip.1.octets());
    frame.extend_from_slice(rest);
    frame
}

/// A UDP datagram from these addresses, TTL 64.
pub fn udp(eth: (Mac, Mac), src: IpAddr, dst: IpAddr, ports: (u16, u16), payload: &[u8]) -> Result<Vec<u8>> {
    Udp { eth_src: eth.0, eth_dst: eth.1, src: (src, ports.0), dst: (dst, ports.1), ttl: 64, payload }.frame()
}

/// How often a text occurs in the frames: copies of a datagram, even if several went in one frame.
pub fn copies(captured: &Captured, outgoing: bool, text: &[u8]) -> usize {
    let of = |f: &Frame| f.raw.bytes.windows(text.len()).filter(|w| *w == text).count();
    captured.frames.iter().filter(|f| f.raw.outgoing == outgoing).map(of).sum()
}

/// A UDP socket on a node's underlay address, connected to a tunnel port of another node.
pub fn underlay_socket(node: &Node, to: &Node, port: u16) -> Result<UdpSocket> {
    let (own, to) = (node.underlay4(), to.underlay4());
    let ns: &Ns = node.ns();
    let socket = ns.run_in(|| UdpSocket::bind((own, 0)))?.context("underlay socket")?;
    socket.connect((to, port))?;
    Ok(socket)
}
