//! A user-space pod and what it can do: echo, datagrams, streams.

use crate::impair::Rng;
use crate::world::World;
use packet::MacAddr;
use smoltcp::iface::{Config, Interface, PollResult, SocketHandle, SocketSet};
use smoltcp::phy::ChecksumCapabilities;
use smoltcp::socket::{icmp, tcp, udp};
use smoltcp::time::Instant;
use smoltcp::wire::{
    EthernetAddress, Icmpv4Packet, Icmpv4Repr, Icmpv6Packet, Icmpv6Repr, IpAddress, IpCidr, Ipv4Address,
    Ipv6Address,
};
use std::net::IpAddr;
use switch::datapath::PortId;
use switch::io::PodEnd;
use switch::io::pod::PodDevice;

const STREAM_BUFFER: usize = 200_000;

pub struct Host {
    pub node: usize,
    pub port: PortId,
    pub ips: [IpAddr; 2],
    pub device: PodDevice,
    pub iface: Interface,
    pub sockets: SocketSet<'static>,
    echo: SocketHandle,
    /// Of its echo requests. An echo socket takes requests with its own identifier as well, and then nobody
    /// answers them; so every pod has another one.
    ident: u16,
    seq: u16,
}

fn at(now: u64) -> Instant {
    Instant::from_millis(now as i64)
}

impl Host {
    pub fn new(
        node: usize,
        port: PortId,
        mac: MacAddr,
        ips: [IpAddr; 2],
        gateways: [IpAddr; 2],
        end: PodEnd,
        mtu: usize,
    ) -> Self {
        let mut device = PodDevice::new(end, mtu);
        let mut config = Config::new(EthernetAddress(mac.0).into());
        config.random_seed = mac.as_u64();
        let mut iface = Interface::new(config, &mut device, Instant::ZERO);
        iface.update_ip_addrs(|addrs| {
            addrs.push(IpCidr::new(ips[0].into(), 24)).unwrap();
            addrs.push(IpCidr::new(ips[1].into(), 64)).unwrap();
            addrs.push(IpCidr::new(IpAddress::Ipv6(mac.link_local_v6()), 64)).unwrap();
        });
        if let [IpAddr::V4(v4), IpAddr::V6(v6)] = gateways {
            iface.routes_mut().add_default_ipv4_route(v4).unwrap();
            iface.routes_mut().add_default_ipv6_route(v6).unwrap();
        }
        let mut sockets = SocketSet::new(Vec::new());
        let buffer = || icmp::PacketBuffer::new(vec![icmp::PacketMetadata::EMPTY; 8], vec![0; 16_384]);
        let mut echo = icmp::Socket::new(buffer(), buffer());
        let ident = u16::from_be_bytes([mac.0[4], mac.0[5]]);
        echo.bind(icmp::Endpoint::Ident(ident)).unwrap();
        let echo = sockets.add(echo);
        Self { node, port, ips, device, iface, sockets, echo, ident, seq: 0 }
    }

    pub fn poll(&mut self, now: u64) -> bool {
        let sent = self.device.end().counters().from_pod;
        let result = self.iface.poll(at(now), &mut self.device, &mut self.sockets);
        result == PollResult::SocketStateChanged || self.device.end().counters().from_pod != sent
    }

    pub fn next(&mut self, now: u64) -> Option<u64> {
        Some(self.iface.poll_at(at(now), &self.sockets)?.total_millis() as u64)
    }

    pub fn udp(&mut self, port: u16) -> SocketHandle {
        let buffer = || udp::PacketBuffer::new(vec![udp::PacketMetadata::EMPTY; 256], vec![0; 300_000]);
        let mut socket = udp::Socket::new(buffer(), buffer());
        socket.bind(port).unwrap();
        self.sockets.add(socket)
    }

    pub fn tcp(&mut self) -> SocketHandle {
        let buffer = || tcp::SocketBuffer::new(vec![0; STREAM_BUFFER]);
        self.sockets.add(tcp::Socket::new(buffer(), buffer()))
    }

    pub fn tcp_mut(&mut self, handle: SocketHandle) -> &mut tcp::Socket<'static> {
        self.sockets.get_mut(handle)
    }

    pub fn udp_mut(&mut self, handle: SocketHandle) -> &mut udp::Socket<'static> {
        self.sockets.get_mut(handle)
    }

    fn send_echo(&mut self, to: IpAddr, data: &[u8]) {
        self.seq += 1;
        let (ident, seq_no) = (self.ident, self.seq);
        let caps = ChecksumCapabilities::default();
        match to {
            IpAddr::V4(ip) => {
                let repr = Icmpv4Repr::EchoRequest { ident, seq_no, data };
                let bytes = self.echo_socket().send(repr.buffer_len(), IpAddress::Ipv4(ip)).unwrap();
                repr.emit(&mut Icmpv4Packet::new_unchecked(bytes), &caps);
            }
            IpAddr::V6(ip) => {
                let from = self.iface.get_source_address_ipv6(&ip);
                let repr = Icmpv6Repr::EchoRequest { ident, seq_no, data };
                let bytes = self.echo_socket().send(repr.buffer_len(), IpAddress::Ipv6(ip)).unwrap();
                repr.emit(&from, &ip, &mut Icmpv6Packet::new_unchecked(bytes), &caps);
            }
        }
    }

    fn echo_socket(&mut self) -> &mut icmp::Socket<'static> {
        self.sockets.get_mut(self.echo)
    }

    /// The data of the next echo reply to the last request, if it has arrived.
    fn echo_reply(&mut self, from: IpAddr) -> Option<Vec<u8>> {
        let (own_ident, seq) = (self.ident, self.seq);
        let caps = ChecksumCapabilities::default();
        let own: Ipv6Address = if let IpAddr::V6(ip) = from {
            self.iface.get_source_address_ipv6(&ip)
        } else {
            Ipv6Address::UNSPECIFIED
        };
        let (bytes, source) = self.echo_socket().recv().ok()?;
        if IpAddr::from(source) != from {
            return None;
        }
        match source {
            IpAddress::Ipv4(_) => {
                match Icmpv4Repr::parse(&Icmpv4Packet::new_checked(bytes).ok()?, &caps).ok()? {
                    Icmpv4Repr::EchoReply { ident, seq_no, data } if (ident, seq_no) == (own_ident, seq) => {
                        Some(data.to_vec())
                    }
                    _ => None,
                }
            }
            IpAddress::Ipv6(ip) => {
                match Icmpv6Repr::parse(&ip, &own, &Icmpv6Packet::new_checked(bytes).ok()?, &caps).ok()? {
                    Icmpv6Repr::EchoReply { ident, seq_no, data } if (ident, seq_no) == (own_ident, seq) => {
                        Some(data.to_vec())
                    }
                    _ => None,
                }
            }
        }
    }
}

impl World {
    /// One echo with some data, asked up to four times: a pod that has to look for the asker's MAC first loses
    /// its answer, and asks for one MAC a second at most.
    pub fn ping(&mut self, from: usize, to: IpAddr) -> bool {
        self.ping_sized(from, to, 56)
    }

    pub fn ping_sized(&mut self, from: usize, to: IpAddr, size: usize) -> bool {
        let data = pattern(size as u64, 0, size);
        (0..4).any(|_| {
            self.hosts[from].send_echo(to, &data);
            self.until(1100, |world| world.hosts[from].echo_reply(to).is_some_and(|got| got == data))
        })
    }

    /// Sends one datagram and returns what arrived, from whom.
    pub fn datagram(
        &mut self,
        from: (usize, SocketHandle),
        to: (usize, SocketHandle),
        dst: IpAddr,
        data: &[u8],
    ) -> bool {
        let port = self.hosts[to.0].udp_mut(to.1).endpoint().port;
        self.hosts[from.0].udp_mut(from.1).send_slice(data, (IpAddress::from(dst), port)).unwrap();
        self.until(5000, |world| world.hosts[to.0].udp_mut(to.1).recv().is_ok_and(|(got, _)| got == data))
    }
}

/// Bytes of a stream that is different at every offset.
pub fn pattern(seed: u64, from: u64, len: usize) -> Vec<u8> {
    let first = from / 8;
    let words = (first..=(from + len as u64) / 8)
        .flat_map(|n| Rng(seed ^ n.wrapping_mul(0xff51_afd7_ed55_8ccd)).next().to_le_bytes());
    words.skip((from % 8) as usize).take(len).collect()
}

/// A one-way TCP transfer whose every byte is compared.
pub struct Transfer {
    pub from: (usize, SocketHandle),
    pub to: (usize, SocketHandle),
    seed: u64,
    total: u64,
    sent: u64,
    pub received: u64,
}

impl Transfer {
    pub fn start(world: &mut World, from: usize, to: usize, v6: bool, port: u16, total: u64) -> Self {
        let dst = world.hosts[to].ips[usize::from(v6)];
        let server = world.hosts[to].tcp();
        world.hosts[to].tcp_mut(server).listen(port).unwrap();
        let client = world.hosts[from].tcp();
        let Host { iface, sockets, .. } = &mut world.hosts[from];
        let local = 40_000 + port;
        sockets
            .get_mut::<tcp::Socket<'_>>(client)
            .connect(iface.context(), (IpAddress::from(dst), port), local)
            .unwrap();
        Self { from: (from, client), to: (to, server), seed: u64::from(port), total, sent: 0, received: 0 }
    }

    /// Moves bytes; `true` when all have arrived.
    pub fn step(&mut self, world: &mut World) -> bool {
        let client = world.hosts[self.from.0].tcp_mut(self.from.1);
        while client.can_send() && self.sent < self.total {
            let data = pattern(self.seed, self.sent, (self.total - self.sent).min(8192) as usize);
            self.sent += client.send_slice(&data).unwrap() as u64;
        }
        if self.sent == self.total {
            client.close();
        }
        let server = world.hosts[self.to.0].tcp_mut(self.to.1);
        while server.can_recv() {
            let (seed, received) = (self.seed, self.received);
            let n = server
                .recv(|got| {
                    assert!(
                        got == pattern(seed, received, got.len()),
                        "stream differs after {received} bytes"
                    );
                    (got.len(), got.len())
                })
                .unwrap();
            self.received += n as u64;
        }
        self.received == self.total
    }

    pub fn run(mut self, world: &mut World, limit_ms: u64) {
        let done = world.until(limit_ms, |world| self.step(world));
        assert!(done, "{} of {} bytes in {limit_ms} ms", self.received, self.total);
    }
}

/// A pod's IPv4 address as smoltcp has it.
pub fn v4(ip: IpAddr) -> Ipv4Address {
    match ip {
        IpAddr::V4(ip) => ip,
        IpAddr::V6(_) => Ipv4Address::UNSPECIFIED,
    }
}
