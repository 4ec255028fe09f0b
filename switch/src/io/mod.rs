//! Where frames come from and go to: the host side of a port.
//!
//! The data path works on bytes in memory; this module turns pods into such bytes. [`Tap`] is the real
//! thing, [`memory`] its twin without a kernel, and both speak [`PortIo`]. What needs privilege (entering
//! a namespace, creating a TAP, configuring it, binding a socket) is behind [`opener::Opener`], which
//! hands back file descriptors, so that the code that parses hostile frames can run without any.
//!
//! Limits: one read is one frame, up to [`READ_BUF_LEN`] bytes with its header; one write takes at most
//! 1,024 parts (the kernel's `UIO_MAXIOV`).

use std::io::{self, IoSlice};

pub mod again;
pub(crate) mod closing;
pub mod events;
pub mod host;
pub mod identity;
pub mod link;
pub mod memory;
pub mod netlink;
pub mod netns;
pub mod node;
pub mod opener;
pub mod pod;
pub mod reserve;
pub mod route;
pub mod sysctl;
pub mod tap;
pub mod watch;
mod wire;

#[cfg(test)]
mod host_tests;
#[cfg(test)]
mod node_tests;
#[cfg(test)]
pub(crate) mod testing;

pub use events::LinkWatch;
pub use host::HostOpener;
pub use identity::NetnsIdentity;
pub use memory::{MemoryTap, PodEnd};
pub use netns::{NetnsError, NetnsId, NetnsRef};
pub use node::NodeLink;
pub use opener::{DeviceName, OpenError, OpenedPort, Opener, PortHealth, PortPlace, PortSpec};
pub use reserve::Reserve;
pub use route::NodeRoute;
pub use tap::{Offloads, Tap};
pub use watch::UnderlayLink;

/// Smallest buffer that never truncates a read: header 10, Ethernet 14, VLAN tag 4, IP packet 65,535,
/// rounded up to a multiple of 32.
pub const READ_BUF_LEN: usize = 65_568;

/// A port's frames, one per call, each led by its ten-byte virtio-net header.
pub trait PortIo {
    /// Takes the next frame the pod sent: a virtio-net header followed by the Ethernet frame.
    ///
    /// A buffer shorter than [`READ_BUF_LEN`] may cut the frame short without a word.
    ///
    /// # Errors
    /// See [`IoFault::of`]; `WouldBlock` when there is none.
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize>;

    /// Hands the pod one frame; the first part begins with the virtio-net header.
    ///
    /// # Errors
    /// See [`IoFault::of`]. A frame that was refused is gone: it is counted, never retried.
    fn write(&mut self, parts: &[IoSlice<'_>]) -> io::Result<usize>;
}

impl<P: PortIo + ?Sized> PortIo for Box<P> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        (**self).read(buf)
    }

    fn write(&mut self, parts: &[IoSlice<'_>]) -> io::Result<usize> {
        (**self).write(parts)
    }
}

/// What a failed read or write says about the port.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum IoFault {
    /// Nothing to read, or no room to write: wait for readiness.
    WouldBlock,
    /// This call failed, the next may not: interrupted, out of memory, interface down, frame refused.
    Transient,
    /// The device is gone and will not come back: close the port.
    PortGone,
}

impl IoFault {
    /// Classifies an error of [`PortIo::read`] or [`PortIo::write`].
    ///
    /// A TAP answers EIO to a write while its interface is down, and EBADFD (or EBADF, ENODEV, ENXIO) to
    /// anything once the interface has been deleted. Only the latter are final. An error this does not
    /// know is taken for a transient one: a port is closed on evidence only.
    #[must_use]
    pub fn of(error: &io::Error) -> Self {
        if error.kind() == io::ErrorKind::WouldBlock {
            return Self::WouldBlock;
        }
        match error.raw_os_error() {
            Some(libc::EBADFD | libc::EBADF | libc::ENODEV | libc::ENXIO) => Self::PortGone,
            _ => Self::Transient,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_deleted_device_is_final() {
        for (errno, fault) in [
            (libc::EAGAIN, IoFault::WouldBlock),
            (libc::EINTR, IoFault::Transient),
            (libc::ENOBUFS, IoFault::Transient),
            (libc::ENOMEM, IoFault::Transient),
            (libc::EIO, IoFault::Transient),
            (libc::EINVAL, IoFault::Transient),
            (libc::EBADFD, IoFault::PortGone),
            (libc::ENODEV, IoFault::PortGone),
        ] {
            assert_eq!(IoFault::of(&io::Error::from_raw_os_error(errno)), fault, "errno {errno}");
        }
        assert_eq!(IoFault::of(&io::ErrorKind::WouldBlock.into()), IoFault::WouldBlock);
        assert_eq!(IoFault::of(&io::Error::other("odd")), IoFault::Transient);
    }
}
