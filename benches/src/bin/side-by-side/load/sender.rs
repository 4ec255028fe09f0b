//! The sending application.

use std::io::{self, ErrorKind};
use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use super::payload::Stamp;
use super::{BURST, Order, Traffic, sys};

/// First port of the receiver's sockets.
pub const TO_PORT: u16 = 20_000;
/// First port of the sender's sockets.
const FROM_PORT: u16 = 30_000;

/// Its sockets, and the number of the next datagram of each flow.
pub struct Sender {
    sockets: Vec<UdpSocket>,
    to: Vec<libc::sockaddr_in>,
    next: Vec<u64>,
    traffic: Traffic,
    run: u32,
    arena: Vec<u8>,
    turn: usize,
}

/// What was sent.
#[derive(Clone, Copy, Debug)]
pub struct Sent {
    /// Datagrams that the kernel took.
    pub datagrams: u64,
    /// Datagrams that it refused, for want of memory or queue.
    pub refused: u64,
    /// How long it took, in seconds.
    pub seconds: f64,
}

/// One call: the socket, and the flows of its datagrams.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Call {
    source: usize,
    first: usize,
    /// Destinations from `first` on; a single one gets the whole burst.
    destinations: usize,
    datagrams: usize,
}

/// The calls of an endless round over all flows.
fn call(turn: usize, order: Order, sources: usize, destinations: usize) -> Call {
    if order == Order::Bursts || destinations == 1 {
        let flow = turn % (sources * destinations);
        let (source, first) = (flow / destinations, flow % destinations);
        return Call { source, first, destinations: 1, datagrams: BURST };
    }
    // As few calls per socket as possible, all of the same length.
    let calls = destinations.div_ceil(BURST);
    let length = destinations.div_ceil(calls);
    let first = turn % calls * length;
    let count = length.min(destinations - first);
    Call { source: turn / calls % sources, first, destinations: count, datagrams: count }
}

impl Sender {
    /// Opens the sockets, in the namespace of the calling thread.
    pub fn open(traffic: Traffic, run: u32, to: Ipv4Addr) -> io::Result<Self> {
        let (sources, destinations) = traffic.geometry();
        let port = |base: u16, n: u32| base + n as u16;
        let sockets = (0..sources)
            .map(|n| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port(FROM_PORT, n))))
            .collect::<io::Result<_>>()?;
        let to = (0..destinations).map(|n| sys::raw(SocketAddrV4::new(to, port(TO_PORT, n)))).collect();
        let next = vec![0; (sources * destinations) as usize];
        let arena = vec![0; BURST * traffic.size];
        Ok(Self { sockets, to, next, traffic, run, arena, turn: 0 })
    }

    /// Sends for this long from `start` on; as fast as it can, or so many datagrams per second.
    pub fn run(&mut self, start: Instant, length: Duration, pace: Option<f64>) -> io::Result<Sent> {
        let mut sent = Sent { datagrams: 0, refused: 0, seconds: 0.0 };
        std::thread::sleep(start.saturating_duration_since(Instant::now()));
        loop {
            let passed = start.elapsed();
            if passed >= length {
                sent.seconds = passed.as_secs_f64();
                return Ok(sent);
            }
            if let Some(pace) = pace {
                let due = pace * passed.as_secs_f64() - (sent.datagrams + sent.refused) as f64;
                if due < BURST as f64 {
                    let wait = (BURST as f64 - due) / pace.max(1.0);
                    std::thread::sleep(Duration::from_secs_f64(wait).min(length - passed));
                    continue;
                }
            }
            let (taken, offered) = self.burst()?;
            sent.datagrams += taken as u64;
            sent.refused += (offered - taken) as u64;
        }
    }

    /// One call. Gives how many datagrams the kernel took, of how many.
    fn burst(&mut self) -> io::Result<(usize, usize)> {
        let call = call(self.turn, self.traffic.order, self.sockets.len(), self.to.len());
        self.turn += 1;
        let Some(socket) = self.sockets.get(call.source) else { return Ok((0, 0)) };
        let nowhere = sys::raw(SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 0));
        let mut batch: [(&[u8], libc::sockaddr_in); BURST] = [(&[], nowhere); BURST];
        let datagrams = self.arena.chunks_exact_mut(self.traffic.size);
        for (n, (datagram, place)) in datagrams.zip(&mut batch).take(call.datagrams).enumerate() {
            let destination = call.first + n % call.destinations;
            let flow = call.source * self.to.len() + destination;
            if let (Some(next), Some(to)) = (self.next.get_mut(flow), self.to.get(destination)) {
                Stamp { run: self.run, flow: flow as u32, seq: *next }.write(datagram);
                // A datagram that is refused leaves a gap, which the receiver takes for what it is.
                *next += 1;
                *place = (datagram, *to);
            }
        }
        let batch = batch.get(..call.datagrams).unwrap_or(&batch);
        match sys::send(socket.as_fd(), batch) {
            Ok(taken) => Ok((taken, batch.len())),
            Err(e) if e.raw_os_error() == Some(libc::ENOBUFS) || e.kind() == ErrorKind::Interrupted => {
                Ok((0, batch.len()))
            }
            Err(e) => Err(e),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    fn round(
        order: Order,
        sources: usize,
        destinations: usize,
        calls: usize,
    ) -> BTreeMap<(usize, usize), usize> {
        let mut flows = BTreeMap::new();
        for turn in 0..calls {
            let call = call(turn, order, sources, destinations);
            assert!(call.datagrams <= BURST && call.first + call.destinations <= destinations, "{call:?}");
            for n in 0..call.datagrams {
                *flows.entry((call.source, call.first + n % call.destinations)).or_insert(0) += 1;
            }
        }
        flows
    }

    #[test]
    fn every_flow_has_its_turn() {
        for (sources, destinations) in [(1, 1), (2, 32), (100, 100), (3, 7)] {
            let flows = sources * destinations;
            let bursts = round(Order::Bursts, sources, destinations, flows);
            assert!(bursts.len() == flows && bursts.values().all(|&n| n == BURST), "{bursts:?}");
            if destinations > 1 {
                let calls = sources * destinations.div_ceil(BURST);
                let turns = round(Order::Interleaved, sources, destinations, calls);
                assert!(turns.len() == flows && turns.values().all(|&n| n == 1), "{turns:?}");
            }
        }
    }
}
