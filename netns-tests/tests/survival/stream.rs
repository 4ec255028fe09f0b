//! A stream of datagrams at an even pace, each with its number and the time it was sent at: the receiver knows how long
//! nothing came, and how many are missing.

use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use lab::impair::Rng;
use lab::{Context, Error, Ns, Result, ensure, wait};

/// Datagrams are sent so often, as many at a time as the rate asks for.
pub const TICK: Duration = Duration::from_millis(1);
/// Shorter silences are not noted.
const SILENCE: Duration = Duration::from_millis(2);
/// Bytes of a payload: number, time, and noise that follows from the number.
const SIZE: usize = 200;
/// What is sent last arrives within this time.
const LAST: Duration = Duration::from_millis(500);

/// A time in which nothing arrived.
#[derive(Clone, Copy, Debug)]
pub struct Silence {
    from: Instant,
    to: Instant,
}

/// What a receiver has noted.
#[derive(Clone, Debug, Default)]
pub struct Heard {
    /// Datagrams that arrived.
    pub received: u64,
    /// Of these, behind one that was sent after them.
    pub late: u64,
    /// Datagrams that were sent.
    pub sent: u64,
    /// Sends that the kernel refused.
    pub refused: u64,
    /// Longest time from sending to receiving.
    pub slowest: Duration,
    /// In order.
    pub silences: Vec<Silence>,
}

impl Heard {
    /// Datagrams that never arrived.
    pub fn lost(&self) -> u64 {
        self.sent.saturating_sub(self.received)
    }

    /// The longest silence of which a part lies between two moments; at least a tick.
    pub fn longest(&self, from: Instant, to: Instant) -> Duration {
        let there = self.silences.iter().filter(|s| s.to > from && s.from < to);
        there.map(|s| s.to - s.from).max().unwrap_or(TICK)
    }
}

/// A stream under way.
#[derive(Debug)]
pub struct Stream {
    what: String,
    heard: Arc<Mutex<Heard>>,
    received: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    sender: JoinHandle<Result<(u64, u64)>>,
    receiver: JoinHandle<Result<()>>,
    over: Arc<AtomicBool>,
}

impl Stream {
    /// Starts one with so many datagrams per second.
    pub fn start(from: &Ns, to: &Ns, address: IpAddr, rate: u64) -> Result<Self> {
        let what = format!("datagrams from {} to {address}", from.name());
        let socket = to.run_in(|| UdpSocket::bind((address, 0)))?.context(&what)?;
        let at = socket.local_addr()?;
        // More than the kernel's maximum is cut to that: a burst after a silence is long.
        socket2::SockRef::from(&socket).set_recv_buffer_size(8 << 20)?;
        socket.set_read_timeout(Some(LAST))?;
        let epoch = Instant::now();
        let (heard, received) = (Arc::new(Mutex::new(Heard::default())), Arc::new(AtomicU64::new(0)));
        let (stop, over) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
        let (notes, count, ended) = (heard.clone(), received.clone(), over.clone());
        let receiver = std::thread::spawn(move || listen(&socket, epoch, &notes, &count, &ended));
        let stopped = stop.clone();
        let sender = from.spawn(move || send(at, epoch, rate, &stopped));
        Ok(Self { what, heard, received, stop, sender, receiver, over })
    }

    /// Waits until so many more have arrived.
    pub fn moves(&self, more: u64, limit: Duration) -> Result<()> {
        let goal = self.received.load(Relaxed) + more;
        wait::until(&format!("{}: {more} more", self.what), limit, || {
            (self.received.load(Relaxed) >= goal || self.receiver.is_finished()).then_some(())
        })?;
        ensure!(self.received.load(Relaxed) >= goal, "{}: it has ended", self.what);
        Ok(())
    }

    /// What was noted so far; without what only the sender knows.
    pub fn so_far(&self) -> Result<Heard> {
        Ok(self.heard.lock().map_err(|_| Error::failed("the receiver panicked"))?.clone())
    }

    /// Ends it. An error if a datagram arrived changed.
    pub fn finish(self) -> Result<Heard> {
        self.stop.store(true, Relaxed);
        let (sent, refused) =
            self.sender.join().unwrap_or_else(|_| Err(Error::failed("panicked"))).context(&self.what)?;
        self.over.store(true, Relaxed);
        self.receiver.join().unwrap_or_else(|_| Err(Error::failed("panicked"))).context(&self.what)?;
        let heard = self.heard.lock().map_err(|_| Error::failed("the receiver panicked"))?;
        Ok(Heard { sent, refused, ..heard.clone() })
    }
}

/// The noise of a datagram.
fn noise(number: u64) -> Vec<u8> {
    Rng::new(number).bytes(SIZE - 16)
}

/// Gives how many were sent, and how often the kernel refused.
fn send(to: SocketAddr, epoch: Instant, rate: u64, stop: &AtomicBool) -> Result<(u64, u64)> {
    let any: SocketAddr = if to.is_ipv4() { ([0; 4], 0).into() } else { ([0u16; 8], 0).into() };
    let socket = UdpSocket::bind(any)?;
    socket.connect(to)?;
    let (start, mut number, mut refused) = (Instant::now(), 0, 0);
    let mut payload = Vec::with_capacity(SIZE);
    while !stop.load(Relaxed) {
        // Whoever wakes up late sends what is due, so that the rate holds.
        let due = (start.elapsed() + TICK).as_secs_f64() * rate as f64;
        while number < due as u64 {
            payload.clear();
            payload.extend(number.to_be_bytes());
            payload.extend((epoch.elapsed().as_nanos() as u64).to_be_bytes());
            payload.extend(noise(number));
            // An error of one before, such as an ICMP message that says something about it.
            if socket.send(&payload).is_err() {
                refused += 1;
                break;
            }
            number += 1;
        }
        std::thread::sleep(TICK);
    }
    Ok((number, refused))
}

fn listen(
    socket: &UdpSocket,
    epoch: Instant,
    heard: &Mutex<Heard>,
    received: &AtomicU64,
    over: &AtomicBool,
) -> Result<()> {
    let mut buffer = [0; 2 * SIZE];
    let mut last: Option<(u64, Instant)> = None;
    loop {
        let n = match socket.recv(&mut buffer) {
            Ok(n) => n,
            Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                if over.load(Relaxed) {
                    return Ok(());
                }
                continue;
            }
            Err(e) if e.kind() == ErrorKind::Interrupted => continue,
            Err(e) => return Err(e.into()),
        };
        let now = Instant::now();
        let word = |at: usize| -> Result<u64> {
            let bytes = buffer.get(at..at + 8).and_then(|b| b.try_into().ok()).ok_or("a short datagram")?;
            Ok(u64::from_be_bytes(bytes))
        };
        let (number, sent) = (word(0)?, Duration::from_nanos(word(8)?));
        ensure!(
            buffer.get(16..n) == Some(noise(number).as_slice()),
            "datagram {number} of {n} bytes arrived changed"
        );
        let mut heard = heard.lock().map_err(|_| Error::failed("a test panicked"))?;
        heard.received += 1;
        heard.slowest = heard.slowest.max((now - epoch).saturating_sub(sent));
        match last {
            Some((before, _)) if number <= before => heard.late += 1,
            _ => {}
        }
        if let Some((_, at)) = last
            && now - at >= SILENCE
        {
            heard.silences.push(Silence { from: at, to: now });
        }
        last = Some((last.map_or(number, |(before, _)| before.max(number)), now));
        received.store(heard.received, Relaxed);
    }
}
