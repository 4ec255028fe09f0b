//! The independent observer: records every frame on an interface, with the kernel's knowledge of
//! its checksum, while a test runs.
//!
//! Bounded: at most 200,000 frames and 256 MiB; what is beyond, or what the kernel dropped because
//! the machine was busy, is counted in `missed`, so a claim "no bad frame was seen" can be judged.

use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};

use crate::checksum::{self, Sum};
use crate::error::{Context, Error, Result};
use crate::netns::Ns;
use crate::packet_socket::{KernelChecksum, MAX_FRAME, PacketSocket, RawFrame};
use crate::wait;

const MAX_FRAMES: usize = 200_000;
const MAX_BYTES: usize = 256 * 1024 * 1024;

/// A recorded frame.
#[derive(Clone, Debug)]
pub struct Frame {
    /// When it was taken from the socket, since 1970.
    pub time: Duration,
    /// The frame.
    pub raw: RawFrame,
}

#[derive(Debug, Default)]
struct Record {
    frames: Vec<Frame>,
    bytes: usize,
    missed: u64,
}

/// A running capture.
#[derive(Debug)]
pub struct Capture {
    record: Arc<Mutex<Record>>,
    stop: Arc<OwnedFd>,
    thread: Option<JoinHandle<()>>,
}

/// A finished capture.
#[derive(Clone, Debug, Default)]
pub struct Captured {
    /// The frames in order.
    pub frames: Vec<Frame>,
    /// How many more there were.
    pub missed: u64,
}

/// What verification of all checksums in a capture found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ChecksumReport {
    /// Frames whose checksums are all right.
    pub good: u64,
    /// Frames whose transport checksum is not computed yet (offload); their IPv4 header is right.
    pub not_ready: u64,
    /// Frames without a checksum that could be verified (ARP, fragments, unknown protocols).
    pub none: u64,
    /// What is wrong, with the number of the frame: at most 100 entries.
    pub bad: Vec<String>,
}

impl Capture {
    /// Starts to record an interface; it is listening when this returns.
    pub fn start(ns: &Ns, interface: &str) -> Result<Self> {
        let socket = PacketSocket::open(ns, interface, true)?;
        let stop = Arc::new(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?);
        let record = Arc::new(Mutex::new(Record::default()));
        let (stopped, shared) = (stop.clone(), record.clone());
        let thread = std::thread::Builder::new().name("capture".into()).spawn(move || {
            record_frames(&socket, &stopped, &shared);
        })?;
        Ok(Self { record, stop, thread: Some(thread) })
    }

    /// What is recorded so far.
    pub fn so_far(&self) -> Captured {
        match self.record.lock() {
            Ok(record) => Captured { frames: record.frames.clone(), missed: record.missed },
            Err(_) => Captured::default(),
        }
    }

    /// Waits for a frame of which the claim holds, among those recorded already or to come.
    pub fn wait_for(&self, what: &str, limit: Duration, claim: impl Fn(&Frame) -> bool) -> Result<Frame> {
        let mut seen = 0;
        wait::until(&format!("frame seen: {what}"), limit, || {
            let record = self.record.lock().ok()?;
            let found = record.frames.get(seen..)?.iter().find(|f| claim(f)).cloned();
            seen = record.frames.len();
            found
        })
    }

    /// Ends the capture after all frames that have already passed are recorded.
    pub fn stop(mut self) -> Captured {
        self.end();
        self.so_far()
    }

    fn end(&mut self) {
        // Fails only if it was told already.
        let _ = rustix::io::write(&self.stop, &1u64.to_ne_bytes());
        if let Some(thread) = self.thread.take() {
            // The thread does not panic; a poisoned record shows as an empty capture.
            let _ = thread.join();
        }
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        self.end();
    }
}

fn record_frames(socket: &PacketSocket, stop: &OwnedFd, record: &Mutex<Record>) {
    let mut buffer = vec![0; MAX_FRAME];
    loop {
        let mut fds = [PollFd::new(socket, PollFlags::IN), PollFd::new(stop, PollFlags::IN)];
        match poll(&mut fds, None) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(_) => return,
        }
        let end = !fds[1].revents().is_empty();
        // An error means that the interface is gone or down: nothing more will come now.
        let mut gone = false;
        for _ in 0..MAX_FRAMES {
            match socket.recv(&mut buffer) {
                Ok(Some(raw)) => keep(record, raw),
                Ok(None) => break,
                Err(e) if e.raw_os_error() == Some(libc::ENETDOWN) => break,
                Err(_) => {
                    gone = true;
                    break;
                }
            }
        }
        if end || gone {
            if let (Ok(mut record), Ok(dropped)) = (record.lock(), socket.dropped()) {
                record.missed += u64::from(dropped);
            }
            return;
        }
    }
}

fn keep(record: &Mutex<Record>, raw: RawFrame) {
    let time = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let Ok(mut record) = record.lock() else { return };
    if record.frames.len() >= MAX_FRAMES || record.bytes + raw.bytes.len() > MAX_BYTES {
        record.missed += 1;
        return;
    }
    record.bytes += raw.bytes.len();
    record.frames.push(Frame { time, raw });
}

impl Captured {
    /// Frames of which the claim holds.
    pub fn count(&self, claim: impl Fn(&Frame) -> bool) -> usize {
        self.frames.iter().filter(|f| claim(f)).count()
    }

    /// Only the frames that arrived (not those this end sent).
    pub fn arrived(mut self) -> Self {
        self.frames.retain(|f| !f.raw.outgoing);
        self
    }

    /// Verifies every checksum with our own code.
    pub fn verify(&self) -> ChecksumReport {
        let mut report = ChecksumReport::default();
        for (number, frame) in self.frames.iter().enumerate() {
            let ready = frame.raw.checksum != KernelChecksum::NotReady;
            match checksum::verify(&frame.raw.bytes, ready) {
                Sum::Good if ready => report.good += 1,
                Sum::Good => report.not_ready += 1,
                Sum::None => report.none += 1,
                Sum::Bad(what) => {
                    if report.bad.len() < 100 {
                        report.bad.push(format!("frame {}: {what}", number + 1));
                    }
                }
            }
        }
        report
    }

    /// Fails if a checksum is wrong, or if too little was seen to say so: `at_least` frames with a
    /// verifiable checksum.
    pub fn require_good_checksums(&self, at_least: u64) -> Result<ChecksumReport> {
        let report = self.verify();
        if !report.bad.is_empty() {
            return Err(Error::failed(format!("wrong checksums: {}", report.bad.join("; "))));
        }
        if report.good + report.not_ready < at_least {
            return Err(Error::failed(format!("only {report:?} was seen, wanted at least {at_least}")));
        }
        Ok(report)
    }

    /// Writes the frames as a pcap file (nanoseconds, Ethernet). Frames whose checksum is not
    /// ready are left out unless wanted: any reader would call them wrong.
    pub fn write_pcap(&self, path: &Path, with_not_ready: bool) -> Result<u64> {
        let mut out = Vec::new();
        out.extend_from_slice(&0xa1b2_3c4du32.to_le_bytes());
        out.extend_from_slice(&2u16.to_le_bytes());
        out.extend_from_slice(&4u16.to_le_bytes());
        out.extend_from_slice(&[0; 8]);
        out.extend_from_slice(&(MAX_FRAME as u32).to_le_bytes());
        out.extend_from_slice(&1u32.to_le_bytes());
        let mut written = 0;
        for frame in &self.frames {
            if !with_not_ready && frame.raw.checksum == KernelChecksum::NotReady {
                continue;
            }
            out.extend_from_slice(&(frame.time.as_secs() as u32).to_le_bytes());
            out.extend_from_slice(&frame.time.subsec_nanos().to_le_bytes());
            out.extend_from_slice(&(frame.raw.bytes.len() as u32).to_le_bytes());
            out.extend_from_slice(&(frame.raw.wire_len as u32).to_le_bytes());
            out.extend_from_slice(&frame.raw.bytes);
            written += 1;
        }
        std::fs::write(path, out).context(path.display())?;
        Ok(written)
    }
}
