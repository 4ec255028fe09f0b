//! A bad wire: joins the TAP uplinks of two or more nodes and loses, delays, reorders, duplicates
//! and corrupts frames on the way, in user space, because not every kernel has netem.
//!
//! One thread moves all frames; it learns which address is behind which TAP and floods the rest.
//! It queues at most 8,192 frames; what does not fit is counted as overflow. All randomness comes
//! from a seed. The parameters may be changed while traffic runs. The TAPs have no offloads, so
//! the nodes' kernels hand over plain frames with complete checksums; expect about 1 Gb/s.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::io::ErrorKind;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use tun_tap::{Iface, Mode};

use crate::error::{Context, Error, Result};
use crate::netns::Ns;

const MAX_QUEUED: usize = 8192;
/// Frames taken from one TAP before the others get their turn.
const BURST: usize = 64;
const MAX_FRAME: usize = 65_600;
/// Learned addresses; far more than any lab has. A full table floods.
const MAX_ADDRESSES: usize = 65_536;

/// What the wire does to frames. The default does nothing.
#[derive(Clone, Debug)]
pub struct Impairment {
    /// Probability that a frame is lost.
    pub loss: f64,
    /// Delay of every frame.
    pub delay: Duration,
    /// Additional delay, evenly distributed from zero to this; reorders as a side effect.
    pub jitter: Duration,
    /// Probability that a frame is held back by `reorder_by`, so that later ones overtake it.
    pub reorder: f64,
    /// How long a frame chosen for reordering is held back.
    pub reorder_by: Duration,
    /// Probability that a frame arrives twice.
    pub duplicate: f64,
    /// Probability that one random bit of the frame is flipped.
    pub corrupt: f64,
    /// Frames longer than this (Ethernet header included) vanish silently, as on a path whose MTU
    /// is smaller than the sender believes.
    pub max_frame: Option<usize>,
}

impl Default for Impairment {
    fn default() -> Self {
        Self {
            loss: 0.0,
            delay: Duration::ZERO,
            jitter: Duration::ZERO,
            reorder: 0.0,
            reorder_by: Duration::from_millis(5),
            duplicate: 0.0,
            corrupt: 0.0,
            max_frame: None,
        }
    }
}

/// What the wire has done so far. `received = lost + too_big + overflow + queued + arrived`, where
/// a flooded or duplicated frame arrives more than once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WireStats {
    /// Frames taken from the nodes.
    pub received: u64,
    /// Frames given to a node.
    pub delivered: u64,
    /// Lost on purpose.
    pub lost: u64,
    /// Held back on purpose.
    pub reordered: u64,
    /// Sent twice on purpose.
    pub duplicated: u64,
    /// Changed on purpose.
    pub corrupted: u64,
    /// Longer than `max_frame`.
    pub too_big: u64,
    /// Dropped because the queue was full: not on purpose.
    pub overflow: u64,
    /// Refused by the receiving TAP, e.g. because it is down: not on purpose.
    pub refused: u64,
}

#[derive(Debug, Default)]
struct Counters {
    received: AtomicU64,
    delivered: AtomicU64,
    lost: AtomicU64,
    reordered: AtomicU64,
    duplicated: AtomicU64,
    corrupted: AtomicU64,
    too_big: AtomicU64,
    overflow: AtomicU64,
    refused: AtomicU64,
}

/// The running wire. Dropping it removes the TAPs.
#[derive(Debug)]
pub struct ImpairedWire {
    impairment: Arc<Mutex<Impairment>>,
    counters: Arc<Counters>,
    stop: Arc<OwnedFd>,
    thread: Option<JoinHandle<()>>,
}

impl ImpairedWire {
    /// Makes a TAP named `interface` in each namespace and joins them.
    pub fn join(ends: &[&Ns], interface: &str, impairment: Impairment, seed: u64) -> Result<Self> {
        let mut taps = Vec::new();
        for ns in ends {
            let tap = ns
                .run_in(|| Iface::without_packet_info(interface, Mode::Tap))?
                .context(format!("TAP {interface} in {}", ns.name()))?;
            // SAFETY: the TAP is open for the time of this call.
            let fd = unsafe { BorrowedFd::borrow_raw(tap.as_raw_fd()) };
            rustix::io::ioctl_fionbio(fd, true).context("TAP")?;
            taps.push(tap);
        }
        let impairment = Arc::new(Mutex::new(impairment));
        let counters = Arc::new(Counters::default());
        let stop = Arc::new(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?);
        let (shared, counts, stopped) = (impairment.clone(), counters.clone(), stop.clone());
        let thread = std::thread::Builder::new().name("wire".into()).spawn(move || {
            let mut mover = Mover {
                taps,
                impairment: shared,
                counters: counts,
                rng: Rng::new(seed),
                queue: BinaryHeap::new(),
                sequence: 0,
                addresses: HashMap::new(),
            };
            while mover.turn(&stopped).is_some() {}
        })?;
        Ok(Self { impairment, counters, stop, thread: Some(thread) })
    }

    /// Changes what is done to frames from now on.
    pub fn set(&self, impairment: Impairment) {
        if let Ok(mut current) = self.impairment.lock() {
            *current = impairment;
        }
    }

    /// What was done so far.
    pub fn stats(&self) -> WireStats {
        let c = &self.counters;
        WireStats {
            received: c.received.load(Relaxed),
            delivered: c.delivered.load(Relaxed),
            lost: c.lost.load(Relaxed),
            reordered: c.reordered.load(Relaxed),
            duplicated: c.duplicated.load(Relaxed),
            corrupted: c.corrupted.load(Relaxed),
            too_big: c.too_big.load(Relaxed),
            overflow: c.overflow.load(Relaxed),
            refused: c.refused.load(Relaxed),
        }
    }
}

impl Drop for ImpairedWire {
    fn drop(&mut self) {
        // An eventfd that is full already wakes the thread as well.
        let _ = rustix::io::write(&self.stop, &1u64.to_ne_bytes());
        if let Some(thread) = self.thread.take() {
            // A panic of the wire has shown as lost traffic.
            let _ = thread.join();
        }
    }
}

struct Queued {
    release: Instant,
    sequence: u64,
    to: usize,
    frame: Rc<Vec<u8>>,
}

impl PartialEq for Queued {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}
impl Eq for Queued {}
impl PartialOrd for Queued {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Queued {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.release, self.sequence).cmp(&(other.release, other.sequence))
    }
}

struct Mover {
    taps: Vec<Iface>,
    impairment: Arc<Mutex<Impairment>>,
    counters: Arc<Counters>,
    rng: Rng,
    queue: BinaryHeap<Reverse<Queued>>,
    sequence: u64,
    addresses: HashMap<[u8; 6], usize>,
}

impl Mover {
    /// Waits for frames or for a release time and handles what is there; `None` at the end.
    fn turn(&mut self, stop: &OwnedFd) -> Option<()> {
        let wait = self.queue.peek().map(|Reverse(next)| {
            let left = next.release.saturating_duration_since(Instant::now());
            Timespec { tv_sec: left.as_secs() as i64, tv_nsec: i64::from(left.subsec_nanos()) }
        });
        let mut fds = vec![PollFd::new(stop, PollFlags::IN)];
        for tap in &self.taps {
            // SAFETY: the TAP outlives this borrow; it is owned by self and not closed here.
            let fd = unsafe { BorrowedFd::borrow_raw(tap.as_raw_fd()) };
            fds.push(PollFd::from_borrowed_fd(fd, PollFlags::IN));
        }
        match poll(&mut fds, wait.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(_) => return None,
        }
        let ready: Vec<bool> = fds.iter().map(|fd| fd.revents().contains(PollFlags::IN)).collect();
        if ready.first() == Some(&true) {
            return None;
        }
        let impairment = self.impairment.lock().ok()?.clone();
        for from in (0..self.taps.len()).filter(|i| ready.get(i + 1) == Some(&true)) {
            self.take_from(from, &impairment);
        }
        self.release_due();
        Some(())
    }

    fn take_from(&mut self, from: usize, impairment: &Impairment) {
        let mut buffer = [0; MAX_FRAME];
        for _ in 0..BURST {
            match self.taps[from].recv(&mut buffer) {
                Ok(len) if len >= 14 => self.admit(from, &buffer[..len], impairment),
                Ok(_) => {}
                // Would block, or the device is being removed with its namespace.
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(_) => return,
            }
        }
    }

    fn admit(&mut self, from: usize, frame: &[u8], impairment: &Impairment) {
        let c = self.counters.clone();
        c.received.fetch_add(1, Relaxed);
        let (Ok(to_mac), Ok(from_mac)) =
            (<[u8; 6]>::try_from(&frame[..6]), <[u8; 6]>::try_from(&frame[6..12]))
        else {
            return;
        };
        if from_mac[0] & 1 == 0 && self.addresses.len() < MAX_ADDRESSES {
            self.addresses.insert(from_mac, from);
        }
        if impairment.max_frame.is_some_and(|max| frame.len() > max) {
            c.too_big.fetch_add(1, Relaxed);
            return;
        }
        if self.rng.chance(impairment.loss) {
            c.lost.fetch_add(1, Relaxed);
            return;
        }
        let mut frame = frame.to_vec();
        if self.rng.chance(impairment.corrupt) {
            let bit = self.rng.below(frame.len() as u64 * 8) as usize;
            frame[bit / 8] ^= 1 << (bit % 8);
            c.corrupted.fetch_add(1, Relaxed);
        }
        let mut release = Instant::now() + impairment.delay;
        release += impairment.jitter.mul_f64(self.rng.unit());
        if self.rng.chance(impairment.reorder) {
            release += impairment.reorder_by;
            c.reordered.fetch_add(1, Relaxed);
        }
        let copies = if self.rng.chance(impairment.duplicate) {
            c.duplicated.fetch_add(1, Relaxed);
            2
        } else {
            1
        };
        let frame = Rc::new(frame);
        let known = self.addresses.get(&to_mac).copied();
        for to in 0..self.taps.len() {
            if to == from || known.is_some_and(|port| port != to) {
                continue;
            }
            for _ in 0..copies {
                if self.queue.len() >= MAX_QUEUED {
                    c.overflow.fetch_add(1, Relaxed);
                    continue;
                }
                self.sequence += 1;
                self.queue.push(Reverse(Queued {
                    release,
                    sequence: self.sequence,
                    to,
                    frame: frame.clone(),
                }));
            }
        }
    }

    fn release_due(&mut self) {
        let now = Instant::now();
        while self.queue.peek().is_some_and(|Reverse(next)| next.release <= now) {
            let Some(Reverse(due)) = self.queue.pop() else { return };
            match self.taps[due.to].send(&due.frame) {
                Ok(_) => self.counters.delivered.fetch_add(1, Relaxed),
                Err(_) => self.counters.refused.fetch_add(1, Relaxed),
            };
        }
    }
}

/// A small generator (splitmix64): repeatable, good enough to decide about frames and to fill
/// them, of no use for secrets.
#[derive(Clone, Debug)]
pub struct Rng(u64);

impl Rng {
    /// A generator that always gives the same sequence for the same seed.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next 64 bits.
    pub fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Evenly distributed in 0..1.
    pub fn unit(&mut self) -> f64 {
        (self.next_u64() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// Evenly distributed in 0..n; 0 for n = 0.
    pub fn below(&mut self, n: u64) -> u64 {
        self.next_u64().checked_rem(n).unwrap_or(0)
    }

    /// True with this probability. Draws nothing for probability zero.
    pub fn chance(&mut self, probability: f64) -> bool {
        probability > 0.0 && self.unit() < probability
    }

    /// So many bytes.
    pub fn bytes(&mut self, len: usize) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(len + 8);
        while bytes.len() < len {
            bytes.extend_from_slice(&self.next_u64().to_le_bytes());
        }
        bytes.truncate(len);
        bytes
    }
}

/// An error for those who ask for the impairment of a wire that has none.
pub(crate) fn not_impaired() -> Error {
    Error::failed("this lab's underlay is not an impaired wire")
}
