//! TCP and UDP conversations between two namespaces, with every byte compared.
//!
//! Both ends run on threads of the calling process, each in its namespace. A TCP flow may be given
//! a number of bytes or run until told to stop, so that a test can restart a daemon, move an
//! address or remove a port under it. A flow without progress for `stall` (default 15 s) fails.

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpStream, UdpSocket};
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::mpsc::channel;
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use socket2::{Domain, Protocol, Socket, Type};

use crate::error::{Context, Error, Result};
use crate::impair::Rng;
use crate::netns::Ns;

/// Length of the repeated pattern: a prime, so that no buffer or segment size divides it and a
/// missing, doubled or shifted piece always shows.
const PATTERN: usize = 1_048_573;
const CHUNK: usize = 128 * 1024;

fn pattern() -> &'static [u8] {
    static BYTES: OnceLock<Vec<u8>> = OnceLock::new();
    BYTES.get_or_init(|| Rng::new(1).bytes(PATTERN))
}

/// The pattern from a position of the stream to its next end or `max`, whichever is nearer.
fn piece(position: u64, max: usize) -> &'static [u8] {
    let at = (position % PATTERN as u64) as usize;
    &pattern()[at..PATTERN.min(at.saturating_add(max))]
}

/// How a TCP flow shall run.
#[derive(Clone, Debug)]
pub struct TcpOptions {
    /// How much to send; `None` sends until [`TcpFlow::finish`].
    pub bytes: Option<u64>,
    /// Congestion control asked for; what was really used is in the report.
    pub congestion: &'static str,
    /// Time without progress after which the flow fails.
    pub stall: Duration,
    /// Time for the connection to be made.
    pub connect: Duration,
}

impl Default for TcpOptions {
    fn default() -> Self {
        Self {
            bytes: Some(10_000_000),
            congestion: "cubic",
            stall: Duration::from_secs(15),
            connect: Duration::from_secs(5),
        }
    }
}

/// What a finished TCP flow has to say. All bytes arrived and were right, or there is no report.
#[derive(Clone, Debug)]
pub struct TcpReport {
    /// Bytes received and compared.
    pub bytes: u64,
    /// Time from the established connection to the receiver's confirmation of the last byte.
    pub seconds: f64,
    /// Segments sent again.
    pub retransmits: u32,
    /// The congestion control in use.
    pub congestion: String,
    /// The maximum segment size in use at the end.
    pub mss: u32,
}

impl TcpReport {
    /// Bits per second.
    pub fn bits_per_second(&self) -> f64 {
        self.bytes as f64 * 8.0 / self.seconds.max(1e-9)
    }
}

/// A TCP flow under way.
#[derive(Debug)]
pub struct TcpFlow {
    received: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    server: JoinHandle<Result<u64>>,
    client: JoinHandle<Result<TcpReport>>,
}

impl TcpFlow {
    /// Starts a flow from a namespace to an address of another. Fails here only if nothing can
    /// listen on the address; all else shows in [`TcpFlow::finish`].
    pub fn start(from: &Ns, to: &Ns, address: IpAddr, options: &TcpOptions) -> Result<Self> {
        let received = Arc::new(AtomicU64::new(0));
        let stop = Arc::new(AtomicBool::new(false));
        let (ready_tx, ready_rx) = channel();
        let (counted, opts) = (received.clone(), options.clone());
        let server = to.spawn(move || {
            let listener = listen(address);
            let listener = match listener {
                Ok((listener, port)) => {
                    // The receiver waits below; it is gone only if the caller has panicked.
                    let _ = ready_tx.send(Ok(port));
                    listener
                }
                Err(e) => {
                    let _ = ready_tx.send(Err(e.clone()));
                    return Err(e);
                }
            };
            serve(&listener, &counted, &opts)
        });
        let port = ready_rx
            .recv()
            .unwrap_or_else(|_| Err(Error::failed("the receiver did not start")))
            .context(format!("listen on {address} in {}", to.name()))?;
        let (stopped, opts) = (stop.clone(), options.clone());
        let client = from.spawn(move || send_stream(SocketAddr::new(address, port), &stopped, &opts));
        Ok(Self { received, stop, server, client })
    }

    /// Bytes received and found right so far.
    pub fn received(&self) -> u64 {
        self.received.load(Relaxed)
    }

    /// Waits until this many more bytes have arrived: "traffic runs".
    pub fn wait_progress(&self, bytes: u64, limit: Duration) -> Result<()> {
        let goal = self.received() + bytes;
        crate::wait::until(&format!("{bytes} more bytes over TCP"), limit, || {
            (self.received() >= goal || self.server.is_finished()).then_some(())
        })?;
        if self.received() < goal {
            return Err(Error::failed("the TCP flow ended before"));
        }
        Ok(())
    }

    /// Ends an endless flow, waits for the end of any, and gives the report. Errors name the side
    /// and what happened: reset, stalled, wrong bytes.
    pub fn finish(self) -> Result<TcpReport> {
        self.stop.store(true, Relaxed);
        let client = join(self.client, "sender");
        let server = join(self.server, "receiver");
        match (client, server) {
            (Ok(report), Ok(bytes)) if report.bytes == bytes => Ok(report),
            (Ok(report), Ok(bytes)) => {
                Err(Error::failed(format!("TCP: {} bytes sent, {bytes} received", report.bytes)))
            }
            (Err(a), Err(b)) => Err(Error::failed(format!("TCP: {a}; {b}"))),
            (Err(e), _) | (_, Err(e)) => Err(Error::failed(format!("TCP: {e}"))),
        }
    }
}

/// Sends so many bytes from one namespace to another and compares them.
pub fn tcp(from: &Ns, to: &Ns, address: IpAddr, bytes: u64) -> Result<TcpReport> {
    TcpFlow::start(from, to, address, &TcpOptions { bytes: Some(bytes), ..TcpOptions::default() })?
        .finish()
        .context(format!("{} to {address}", from.name()))
}

fn join<T>(thread: JoinHandle<Result<T>>, who: &str) -> Result<T> {
    thread.join().unwrap_or_else(|_| Err(Error::failed("panicked"))).context(who)
}

fn listen(address: IpAddr) -> Result<(Socket, u16)> {
    let at = SocketAddr::new(address, 0);
    let socket = Socket::new(Domain::for_address(at), Type::STREAM, Some(Protocol::TCP))?;
    socket.bind(&at.into())?;
    socket.listen(1)?;
    let bound = socket.local_addr()?.as_socket().ok_or("no address")?;
    Ok((socket, bound.port()))
}

fn serve(listener: &Socket, received: &AtomicU64, options: &TcpOptions) -> Result<u64> {
    // On Linux the receive timeout also limits accept.
    listener.set_read_timeout(Some(options.connect + options.stall))?;
    let (socket, _) = listener.accept().context("no connection came")?;
    let mut stream: TcpStream = socket.into();
    stream.set_read_timeout(Some(options.stall))?;
    stream.set_write_timeout(Some(options.stall))?;
    let mut buffer = vec![0; CHUNK];
    let mut position = 0u64;
    loop {
        let n = match stream.read(&mut buffer) {
            Ok(0) => break,
            Ok(n) => n,
            Err(e) if e.kind() == ErrorKind::Interrupted => continue,
            Err(e) => return Err(e).context(format!("after {position} bytes")),
        };
        let mut rest = &buffer[..n];
        while !rest.is_empty() {
            let want = piece(position, rest.len());
            let (now, later) = rest.split_at(want.len());
            if now != want {
                let at = now.iter().zip(want).position(|(a, b)| a != b).unwrap_or(0);
                return Err(Error::failed(format!("wrong byte at {}", position + at as u64)));
            }
            position += want.len() as u64;
            rest = later;
        }
        received.store(position, Relaxed);
    }
    stream.write_all(&position.to_be_bytes()).context("confirm")?;
    Ok(position)
}

fn send_stream(to: SocketAddr, stop: &AtomicBool, options: &TcpOptions) -> Result<TcpReport> {
    let socket = Socket::new(Domain::for_address(to), Type::STREAM, Some(Protocol::TCP))?;
    // Refused where the machine does not allow it to this user; the report says what is used.
    let _ = socket.set_tcp_congestion(options.congestion.as_bytes());
    socket.connect_timeout(&to.into(), options.connect).context(format!("connect to {to}"))?;
    let mut stream: TcpStream = socket.into();
    stream.set_write_timeout(Some(options.stall))?;
    stream.set_read_timeout(Some(options.stall))?;
    let start = Instant::now();
    let mut position = 0u64;
    loop {
        let left = options.bytes.map_or(CHUNK as u64, |all| all.saturating_sub(position));
        if left == 0 || (options.bytes.is_none() && stop.load(Relaxed)) {
            break;
        }
        let max = usize::try_from(left).unwrap_or(CHUNK).min(CHUNK);
        match stream.write(piece(position, max)) {
            Ok(n) => position += n as u64,
            Err(e) if e.kind() == ErrorKind::Interrupted => {}
            Err(e) => return Err(e).context(format!("after {position} bytes")),
        }
    }
    stream.shutdown(Shutdown::Write)?;
    let mut confirmed = [0; 8];
    stream.read_exact(&mut confirmed).context("no confirmation of the last byte")?;
    let seconds = start.elapsed().as_secs_f64();
    let bytes = u64::from_be_bytes(confirmed);
    if bytes != position {
        return Err(Error::failed(format!("{position} bytes sent, {bytes} confirmed")));
    }
    let (retransmits, mss) = tcp_info(&stream)?;
    let congestion = socket2::SockRef::from(&stream).tcp_congestion().unwrap_or_default();
    let congestion = String::from_utf8_lossy(&congestion).trim_end_matches('\0').to_owned();
    Ok(TcpReport { bytes, seconds, retransmits, congestion, mss })
}

fn tcp_info(stream: &TcpStream) -> Result<(u32, u32)> {
    // SAFETY: tcp_info is plain data for which zeroes are valid; the call gets its true size.
    unsafe {
        let mut info: libc::tcp_info = std::mem::zeroed();
        let mut len = size_of::<libc::tcp_info>() as libc::socklen_t;
        let got = libc::getsockopt(
            stream.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            (&raw mut info).cast(),
            &raw mut len,
        );
        if got != 0 {
            return Err(std::io::Error::last_os_error().into());
        }
        Ok((info.tcpi_total_retrans, info.tcpi_snd_mss))
    }
}

/// Sizes around everything that matters: headers, MTUs, fragments, the maximum of IPv4.
pub const UDP_SIZES: [usize; 18] =
    [1, 2, 17, 64, 511, 1200, 1371, 1372, 1400, 1422, 1423, 1472, 1473, 4000, 9000, 32_768, 65_000, 65_507];

/// What an exchange of datagrams found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UdpReport {
    /// Datagrams that came back right.
    pub echoed: u64,
    /// Datagrams that had to be sent again because nothing came back in time.
    pub again: u64,
}

/// Sends a datagram of each size to an address of another namespace, which sends it back, and
/// compares every byte. A datagram may get lost `tries` - 1 times; a wrong one fails at once.
pub fn udp_echo(from: &Ns, to: &Ns, address: IpAddr, sizes: &[usize], tries: u32) -> Result<UdpReport> {
    let socket = to
        .run_in(|| UdpSocket::bind(SocketAddr::new(address, 0)))?
        .context(format!("bind {address} in {}", to.name()))?;
    let at = socket.local_addr()?;
    let stop = Arc::new(AtomicBool::new(false));
    let stopped = stop.clone();
    let echo = std::thread::spawn(move || echo_until(&socket, &stopped));
    let result = from.run_in(|| exchange(at, sizes, tries))?;
    stop.store(true, Relaxed);
    join(echo, "echo")?;
    result.context(format!("UDP {} to {address}", from.name()))
}

fn echo_until(socket: &UdpSocket, stop: &AtomicBool) -> Result<()> {
    socket.set_read_timeout(Some(Duration::from_millis(50)))?;
    let mut buffer = vec![0; 65_536];
    while !stop.load(Relaxed) {
        match socket.recv_from(&mut buffer) {
            Ok((n, from)) => {
                // A reply that cannot be sent shows as a loss at the other side.
                let _ = socket.send_to(&buffer[..n], from);
            }
            Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
            // An ICMP error for an earlier reply.
            Err(_) => {}
        }
    }
    Ok(())
}

fn exchange(to: SocketAddr, sizes: &[usize], tries: u32) -> Result<UdpReport> {
    let any: SocketAddr = if to.is_ipv4() { ([0; 4], 0).into() } else { ([0u16; 8], 0).into() };
    let socket = UdpSocket::bind(any)?;
    socket.connect(to)?;
    socket.set_read_timeout(Some(Duration::from_millis(500)))?;
    let mut report = UdpReport::default();
    let mut buffer = vec![0; 65_536];
    for (number, &size) in sizes.iter().enumerate() {
        let payload = Rng::new(number as u64 + 1000).bytes(size);
        let mut last = String::from("no reply");
        let mut right = false;
        'tries: for attempt in 0..tries.max(1) {
            report.again += u64::from(attempt > 0);
            if let Err(e) = socket.send(&payload) {
                // E.g. a path MTU that has just been learned: the next attempt is fragmented.
                last = e.to_string();
                continue;
            }
            // Late replies to earlier attempts of other sizes are passed over.
            for _ in 0..16 {
                match socket.recv(&mut buffer) {
                    Ok(n) if buffer[..n] == payload => {
                        right = true;
                        break 'tries;
                    }
                    Ok(n) if n == size => {
                        return Err(Error::failed(format!("datagram of {size} bytes came back changed")));
                    }
                    Ok(n) => last = format!("a datagram of {n} bytes came instead"),
                    Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => break,
                    Err(e) => {
                        last = e.to_string();
                        break;
                    }
                }
            }
        }
        if !right {
            return Err(Error::failed(format!("datagram of {size} bytes: {last} ({tries} tries)")));
        }
        report.echoed += 1;
    }
    Ok(report)
}
