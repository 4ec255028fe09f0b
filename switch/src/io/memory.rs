//! A TAP without a kernel: the same calls, the same refusals, two bounded queues in memory.
//!
//! Whole switches run against it in tests, without privileges and with a clock of the test's choosing.
//! What the kernel refuses (frames too short, a virtio-net header that points outside the frame, writes to
//! an interface that is down) is refused here too, with the same error numbers.
//!
//! One difference, on purpose: the kernel delivers every write or drops it in secret, while a full queue
//! here answers `WouldBlock`, so that a test sees it. Limits: as many frames each way as asked for, each
//! of at most [`READ_BUF_LEN`] bytes.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use packet::{ETHERNET_LEN, VNET_HDR_LEN, VnetHdr};

use super::{PortIo, READ_BUF_LEN};

/// Frames each way that [`MemoryTap::pair`] makes room for; a TAP's default queue length.
pub const DEFAULT_CAPACITY: usize = 1000;

/// What passed between a switch and its pod.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct MemoryCounters {
    /// Frames the pod sent and the queue took.
    pub from_pod: u64,
    /// Frames the pod sent into a full queue: lost, as with a TAP's ring.
    pub from_pod_lost: u64,
    /// Frames the switch wrote and the queue took.
    pub to_pod: u64,
    /// Frames the switch wrote into a full queue.
    pub to_pod_refused: u64,
    /// Frames the switch wrote that the kernel would have refused.
    pub to_pod_invalid: u64,
}

#[derive(Debug)]
struct Shared {
    from_pod: VecDeque<Vec<u8>>,
    to_pod: VecDeque<Vec<u8>>,
    capacity: usize,
    up: bool,
    pod_gone: bool,
    switch_gone: bool,
    counters: MemoryCounters,
}

type Handle = Arc<Mutex<Shared>>;

fn lock(shared: &Handle) -> MutexGuard<'_, Shared> {
    // Plain data, whole after every statement: a panic elsewhere does not spoil it.
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The switch's end.
#[derive(Debug)]
pub struct MemoryTap(Handle);

/// The pod's end. When it goes, the switch sees what it would see of a deleted interface.
#[derive(Debug)]
pub struct PodEnd(Handle);

/// Why a frame was not sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum SendError {
    /// The queue is full; the frame is lost.
    #[error("the queue to the switch is full")]
    Full,
    /// The interface is down.
    #[error("the interface is down")]
    Down,
    /// The switch has closed the port.
    #[error("the switch has closed the port")]
    Closed,
    /// No TAP would hand this over.
    #[error("not a frame with a virtio-net header")]
    Invalid,
}

impl MemoryTap {
    /// Both ends, with the default capacity.
    #[must_use]
    pub fn pair() -> (Self, PodEnd) {
        Self::pair_with(DEFAULT_CAPACITY)
    }

    /// Both ends, with room for `capacity` frames each way.
    #[must_use]
    pub fn pair_with(capacity: usize) -> (Self, PodEnd) {
        let shared = Arc::new(Mutex::new(Shared {
            from_pod: VecDeque::new(),
            to_pod: VecDeque::new(),
            capacity,
            up: true,
            pod_gone: false,
            switch_gone: false,
            counters: MemoryCounters::default(),
        }));
        (Self(Arc::clone(&shared)), PodEnd(shared))
    }

    /// Is there something to read?
    #[must_use]
    pub fn is_readable(&self) -> bool {
        let shared = lock(&self.0);
        shared.pod_gone || !shared.from_pod.is_empty()
    }
}

impl PortIo for MemoryTap {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let mut shared = lock(&self.0);
        let Some(frame) = shared.from_pod.pop_front() else {
            return Err(if shared.pod_gone { errno(libc::EBADFD) } else { io::ErrorKind::WouldBlock.into() });
        };
        let len = frame.len().min(buf.len());
        buf[..len].copy_from_slice(&frame[..len]);
        Ok(len)
    }

    fn write(&mut self, parts: &[IoSlice<'_>]) -> io::Result<usize> {
        let mut shared = lock(&self.0);
        if shared.pod_gone {
            return Err(errno(libc::EBADFD));
        }
        if !shared.up {
            return Err(errno(libc::EIO));
        }
        let len: usize = parts.iter().map(|p| p.len()).sum();
        if len > READ_BUF_LEN {
            shared.counters.to_pod_invalid += 1;
            return Err(errno(libc::EINVAL));
        }
        let mut frame = Vec::with_capacity(len);
        parts.iter().for_each(|p| frame.extend_from_slice(p));
        if !kernel_takes(&frame) {
            shared.counters.to_pod_invalid += 1;
            return Err(errno(libc::EINVAL));
        }
        if shared.to_pod.len() >= shared.capacity {
            shared.counters.to_pod_refused += 1;
            return Err(io::ErrorKind::WouldBlock.into());
        }
        shared.to_pod.push_back(frame);
        shared.counters.to_pod += 1;
        Ok(len)
    }
}

impl PodEnd {
    /// Sends what a TAP would hand over: a virtio-net header and a frame.
    ///
    /// # Errors
    /// See [`SendError`].
    pub fn send(&self, raw: &[u8]) -> Result<(), SendError> {
        let mut shared = lock(&self.0);
        if shared.switch_gone {
            return Err(SendError::Closed);
        }
        if !shared.up {
            return Err(SendError::Down);
        }
        if raw.len() < VNET_HDR_LEN + ETHERNET_LEN || raw.len() > READ_BUF_LEN {
            return Err(SendError::Invalid);
        }
        if shared.from_pod.len() >= shared.capacity {
            shared.counters.from_pod_lost += 1;
            return Err(SendError::Full);
        }
        shared.from_pod.push_back(raw.to_vec());
        shared.counters.from_pod += 1;
        Ok(())
    }

    /// Sends a complete standard frame.
    ///
    /// # Errors
    /// See [`SendError`].
    pub fn send_frame(&self, frame: &[u8]) -> Result<(), SendError> {
        let mut raw = vec![0; VNET_HDR_LEN];
        raw.extend_from_slice(frame);
        self.send(&raw)
    }

    /// Takes the next frame the switch wrote, virtio-net header first.
    #[must_use]
    pub fn recv(&self) -> Option<Vec<u8>> {
        lock(&self.0).to_pod.pop_front()
    }

    /// Could [`PodEnd::send`] take one more frame?
    #[must_use]
    pub fn has_room(&self) -> bool {
        let shared = lock(&self.0);
        !shared.switch_gone && shared.up && shared.from_pod.len() < shared.capacity
    }

    /// Sets the interface up or down, as somebody inside the pod might.
    pub fn set_up(&self, up: bool) {
        lock(&self.0).up = up;
    }

    /// What passed so far.
    #[must_use]
    pub fn counters(&self) -> MemoryCounters {
        lock(&self.0).counters
    }
}

impl Drop for MemoryTap {
    fn drop(&mut self) {
        lock(&self.0).switch_gone = true;
    }
}

impl Drop for PodEnd {
    fn drop(&mut self) {
        lock(&self.0).pod_gone = true;
    }
}

/// What `tun_get_user` lets pass.
fn kernel_takes(raw: &[u8]) -> bool {
    let (Ok(vnet), Some(frame)) = (VnetHdr::parse(raw), raw.get(VNET_HDR_LEN..)) else { return false };
    let csum_end = usize::from(vnet.csum_start) + usize::from(vnet.csum_offset) + 2;
    frame.len() >= ETHERNET_LEN
        && (!vnet.needs_csum || csum_end <= frame.len())
        && usize::from(vnet.hdr_len) <= frame.len()
}

fn errno(code: i32) -> io::Error {
    io::Error::from_raw_os_error(code)
}

#[cfg(test)]
mod tests {
    use super::super::IoFault;
    use super::*;

    fn write(tap: &mut MemoryTap, raw: &[u8]) -> io::Result<usize> {
        // As a worker does: header and frame from different places.
        let (a, b) = raw.split_at(raw.len().min(VNET_HDR_LEN));
        tap.write(&[IoSlice::new(a), IoSlice::new(b)])
    }

    #[test]
    fn frames_cross_whole_and_in_order() {
        let (mut tap, pod) = MemoryTap::pair();
        let mut buf = vec![0; READ_BUF_LEN];
        assert_eq!(IoFault::of(&tap.read(&mut buf).unwrap_err()), IoFault::WouldBlock);
        assert!(!tap.is_readable());
        pod.send_frame(&[1; 14]).unwrap();
        pod.send_frame(&[2; 60]).unwrap();
        assert_eq!(tap.read(&mut buf).unwrap(), 24);
        assert_eq!(buf[10..24], [1; 14]);
        assert_eq!(tap.read(&mut buf[..30]).unwrap(), 30, "cut short, as a TAP does");
        write(&mut tap, &[0; 74]).unwrap();
        assert_eq!(pod.recv().unwrap(), [0; 74]);
        assert_eq!(pod.recv(), None);
        assert_eq!(pod.counters(), MemoryCounters { from_pod: 2, to_pod: 1, ..MemoryCounters::default() });
    }

    #[test]
    fn full_queues_are_counted() {
        let (mut tap, pod) = MemoryTap::pair_with(1);
        pod.send_frame(&[0; 14]).unwrap();
        assert!(!pod.has_room());
        assert_eq!(pod.send_frame(&[0; 14]), Err(SendError::Full));
        write(&mut tap, &[0; 24]).unwrap();
        assert_eq!(IoFault::of(&write(&mut tap, &[0; 24]).unwrap_err()), IoFault::WouldBlock);
        assert_eq!((pod.counters().from_pod_lost, pod.counters().to_pod_refused), (1, 1));
    }

    #[test]
    fn what_the_kernel_refuses_is_refused() {
        let (mut tap, pod) = MemoryTap::pair();
        let mut beyond = VnetHdr { needs_csum: true, csum_start: 34, csum_offset: 16, ..VnetHdr::default() }
            .to_bytes()
            .to_vec();
        beyond.resize(10 + 51, 0);
        for bad in [&[0; 23][..], &[0; 5], &beyond, &vec![0; READ_BUF_LEN + 1]] {
            assert_eq!(write(&mut tap, bad).unwrap_err().raw_os_error(), Some(libc::EINVAL));
        }
        beyond.push(0);
        assert!(write(&mut tap, &beyond).is_ok());
        assert_eq!(pod.counters().to_pod_invalid, 4);
        assert_eq!(pod.send(&[0; 23]), Err(SendError::Invalid));
    }

    #[test]
    fn down_is_transient_and_deleted_is_final() {
        let (mut tap, pod) = MemoryTap::pair();
        pod.set_up(false);
        assert_eq!(pod.send_frame(&[0; 14]), Err(SendError::Down));
        assert_eq!(IoFault::of(&write(&mut tap, &[0; 24]).unwrap_err()), IoFault::Transient);
        pod.set_up(true);
        pod.send_frame(&[0; 14]).unwrap();
        drop(pod);
        let mut buf = [0; 64];
        assert_eq!(tap.read(&mut buf).unwrap(), 24, "what was sent before still arrives");
        assert_eq!(IoFault::of(&tap.read(&mut buf).unwrap_err()), IoFault::PortGone);
        assert_eq!(IoFault::of(&write(&mut tap, &[0; 24]).unwrap_err()), IoFault::PortGone);
        let (tap, pod) = MemoryTap::pair();
        drop(tap);
        assert_eq!(pod.send_frame(&[0; 14]), Err(SendError::Closed));
    }
}
