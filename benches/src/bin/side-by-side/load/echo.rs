//! Request and response: one datagram under way at a time, and how long each takes there and back.

use std::io::ErrorKind;
use std::net::{Ipv4Addr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use lab::{Context, Error, Result};

use super::flood::Path;
use super::payload::Stamp;

/// Where the responder listens.
const PORT: u16 = 19_999;
/// Bytes of a request and of its response.
const SIZE: usize = 64;
/// A response that takes longer counts as lost.
pub const PATIENCE: Duration = Duration::from_millis(200);
/// Share of the run at its beginning that is not counted.
const WARM_UP: f64 = 0.2;

/// What was measured.
#[derive(Clone, Debug, Default)]
pub struct RoundTrips {
    /// Microseconds of each that was answered.
    pub micros: Vec<f64>,
    /// Requests without an answer.
    pub unanswered: usize,
}

/// Asks again and again for `length`.
pub fn ask(path: Path<'_>, length: Duration) -> Result<RoundTrips> {
    let stop = Arc::new(AtomicBool::new(false));
    let (ready, listening) = channel();
    let (at, stopped) = (path.at, stop.clone());
    let responder = path.to.spawn(move || {
        let socket = UdpSocket::bind((at, PORT)).context("the responder's socket");
        // The asking side waits for this.
        let _ = ready.send(socket.as_ref().map(|_| ()).map_err(Clone::clone));
        respond(&socket?, &stopped)
    });
    let asked = listening
        .recv()
        .unwrap_or_else(|_| Err(Error::failed("the responder did not start")))
        .and_then(|()| path.from.run_in(|| request(at, length))?);
    stop.store(true, Relaxed);
    responder.join().unwrap_or_else(|_| Err(Error::failed("the responder panicked")))?;
    asked
}

fn respond(socket: &UdpSocket, stop: &AtomicBool) -> Result<()> {
    socket.set_read_timeout(Some(Duration::from_millis(20)))?;
    let mut buffer = [0; 2 * SIZE];
    while !stop.load(Relaxed) {
        match socket.recv_from(&mut buffer) {
            Ok((len, from)) => {
                socket.send_to(buffer.get(..len).unwrap_or(&buffer), from).context("respond")?;
            }
            Err(e) if is_timeout(e.kind()) => {}
            Err(e) => return Err(e).context("responder"),
        }
    }
    Ok(())
}

fn request(at: Ipv4Addr, length: Duration) -> Result<RoundTrips> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    socket.connect((at, PORT))?;
    socket.set_read_timeout(Some(PATIENCE))?;
    let mut found = RoundTrips::default();
    let begin = Instant::now();
    let mut seq = 0;
    while begin.elapsed() < length {
        let stamp = Stamp { run: 0, flow: 0, seq };
        seq += 1;
        let mut datagram = [0; SIZE];
        stamp.write(&mut datagram);
        let asked = Instant::now();
        socket.send(&datagram).context("ask")?;
        let answered = answer(&socket, stamp, asked)?;
        // A request that began in the warm-up and is over only now says something about what comes after.
        match (answered, begin.elapsed() >= length.mul_f64(WARM_UP)) {
            (Some(time), true) => found.micros.push(time.as_secs_f64() * 1e6),
            (None, true) => found.unanswered += 1,
            (_, false) => {}
        }
    }
    Ok(found)
}

/// Waits for the response to this request; late ones to earlier requests are passed over.
fn answer(socket: &UdpSocket, stamp: Stamp, asked: Instant) -> Result<Option<Duration>> {
    let mut buffer = [0; 2 * SIZE];
    while asked.elapsed() < PATIENCE {
        match socket.recv(&mut buffer) {
            Ok(len) if buffer.get(..len).and_then(Stamp::read) == Some(stamp) => {
                return Ok(Some(asked.elapsed()));
            }
            Ok(_) => {}
            Err(e) if is_timeout(e.kind()) => {}
            Err(e) => return Err(e).context("wait for the response"),
        }
    }
    Ok(None)
}

fn is_timeout(kind: ErrorKind) -> bool {
    matches!(kind, ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted)
}
