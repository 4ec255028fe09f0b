//! The receiving application: counts what arrives at its sockets.

use std::io::{self, ErrorKind};
use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicU64, Ordering::Acquire};
use std::time::{Duration, Instant};

use rustix::event::Timespec;
use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use socket2::{Domain, Socket, Type};

use super::account::Account;
use super::sender::TO_PORT;
use super::{Traffic, sys};

/// Asked for each socket, with privilege if there is any. What the application's own socket loses is counted
/// apart, and should be nothing.
const SOCKET_BUFFER: i32 = 8 << 20;
/// Longest wait for one of the sockets.
const WAIT: Timespec = Timespec { tv_sec: 0, tv_nsec: 10_000_000 };
/// After the last datagram was sent: quiet for so long means that no more will come.
const QUIET: Duration = Duration::from_millis(100);
/// Longest wait for what is still queued.
const PATIENCE: Duration = Duration::from_secs(3);
/// The number of sent datagrams while it is not known.
pub const UNKNOWN: u64 = u64::MAX;

/// Its sockets and books.
pub struct Receiver {
    sockets: Vec<UdpSocket>,
    poll: rustix::fd::OwnedFd,
    buffers: sys::Buffers,
    account: Account,
}

/// What arrived.
#[derive(Clone)]
pub struct Received {
    /// Over the whole run.
    pub account: Account,
    /// Datagrams that arrived between the two moments of the window.
    pub in_window: u64,
    /// Datagrams that reached the sockets and found them full.
    pub socket_drops: u64,
}

impl Receiver {
    /// Opens the sockets, in the namespace of the calling thread.
    pub fn open(traffic: Traffic, run: u32, at: Ipv4Addr) -> io::Result<Self> {
        let (sources, destinations) = traffic.geometry();
        let poll = epoll::create(CreateFlags::CLOEXEC)?;
        let mut sockets = Vec::new();
        for n in 0..destinations {
            let socket = Socket::new(Domain::IPV4, Type::DGRAM.nonblocking().cloexec(), None)?;
            sys::force_receive_buffer(socket.as_fd(), SOCKET_BUFFER);
            socket.bind(&SocketAddrV4::new(at, TO_PORT + n as u16).into())?;
            epoll::add(&poll, &socket, EventData::new_u64(u64::from(n)), EventFlags::IN)?;
            sockets.push(socket.into());
        }
        let account = Account::new(run, sources * destinations, traffic.size);
        Ok(Self { sockets, poll, buffers: sys::Buffers::default(), account })
    }

    /// Receives until all of `sent` is there, or no more comes. `sent` is [`UNKNOWN`] until the sender has ended.
    pub fn run(mut self, window: (Instant, Instant), sent: &AtomicU64) -> io::Result<Received> {
        let drops_before = buffer_errors()?;
        let mut in_window = 0;
        let mut last = Instant::now();
        let mut ended = None;
        loop {
            let before = self.account.received;
            let any = self.drain()?;
            let now = Instant::now();
            if (window.0..window.1).contains(&now) {
                in_window += self.account.received - before;
            }
            if any {
                last = now;
            }
            let sent = sent.load(Acquire);
            if sent != UNKNOWN {
                let since = *ended.get_or_insert(now);
                let a = &self.account;
                let all = a.received + a.corrupted >= sent;
                let quiet = now.duration_since(last.max(since)) >= QUIET;
                if all || quiet || now.duration_since(since) >= PATIENCE {
                    break;
                }
            }
        }
        let socket_drops = buffer_errors()?.saturating_sub(drops_before);
        Ok(Received { account: self.account, in_window, socket_drops })
    }

    /// Waits for sockets with something in them and takes one batch of each. False if there was nothing.
    fn drain(&mut self) -> io::Result<bool> {
        const NONE: Event = Event { flags: EventFlags::empty(), data: EventData::new_u64(0) };
        let mut events = [NONE; 128];
        let count = match epoll::wait(&self.poll, &mut events, Some(&WAIT)) {
            Ok(count) => count,
            Err(rustix::io::Errno::INTR) => 0,
            Err(e) => return Err(e.into()),
        };
        for event in events.iter().take(count) {
            let Some(socket) = self.sockets.get(event.data.u64() as usize) else { continue };
            match self.buffers.receive(socket.as_fd()) {
                Ok(datagrams) => datagrams.for_each(|datagram| self.account.take(datagram)),
                Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
                Err(e) => return Err(e),
            }
        }
        Ok(count > 0)
    }
}

/// `RcvbufErrors` of UDP in the namespace of the calling thread.
fn buffer_errors() -> io::Result<u64> {
    let text = std::fs::read_to_string("/proc/thread-self/net/snmp")?;
    udp_counter(&text, "RcvbufErrors").ok_or_else(|| io::Error::other("no RcvbufErrors in net/snmp"))
}

fn udp_counter(text: &str, name: &str) -> Option<u64> {
    let mut lines = text.lines().filter(|line| line.starts_with("Udp:"));
    let place = lines.next()?.split_whitespace().position(|word| word == name)?;
    lines.next()?.split_whitespace().nth(place)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_are_found_by_name() {
        let text = "Ip: A\nIp: 1\nUdp: InDatagrams NoPorts RcvbufErrors\nUdp: 5 6 7\nUdpLite: RcvbufErrors\n";
        assert_eq!(udp_counter(text, "RcvbufErrors"), Some(7));
        assert_eq!(udp_counter(text, "Nothing"), None);
        assert!(buffer_errors().is_ok());
    }
}
