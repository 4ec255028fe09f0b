//! Knowing a network namespace again after a restart.
//!
//! A path of a container runtime is used again, most of all `/proc/PID/ns/net`; and so is the inode number that
//! tells namespaces apart while they live, because the kernel gives out again what has become free. Both may be those
//! of another pod by the time a daemon starts again. What is never used again before the machine restarts is the
//! namespace's cookie (`SO_NETNS_COOKIE`, since Linux 5.14), and no namespace outlives the machine's boot. All of them
//! together make the identity. On older kernels it lacks the cookie, and an inode number that came back is not
//! noticed.

use std::fmt;
use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};

use super::netns::NetnsId;

/// The id that the kernel drew at random when it started.
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// A namespace told from all that were before and will be. Opaque: made to be stored and compared.
#[derive(Clone, PartialEq, Eq, Hash, Debug, serde::Serialize, serde::Deserialize)]
pub struct NetnsIdentity(String);

impl NetnsIdentity {
    /// That of the calling thread's namespace.
    ///
    /// # Errors
    /// When `/proc` is not mounted, or the kernel gives no socket.
    pub fn current() -> io::Result<Self> {
        let NetnsId { dev, ino } = NetnsId::current()?;
        // Where it cannot be read it never could.
        let boot = fs::read_to_string(BOOT_ID).unwrap_or_else(|_| "-".to_owned());
        let socket = socket_with(AddressFamily::UNIX, SocketType::DGRAM, SocketFlags::CLOEXEC, None)?;
        let cookie = cookie(socket.as_fd())?;
        Ok(Self(format!("{dev}:{ino}:{cookie}:{}", boot.trim())))
    }

    /// As it was stored. What is none is that of no namespace.
    #[must_use]
    pub fn stored(text: &str) -> Self {
        Self(text.to_owned())
    }
}

impl fmt::Display for NetnsIdentity {
    /// As [`NetnsIdentity::stored`] takes it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Is a socket of the calling thread's namespace? Where the kernel knows no cookies (before 5.14) it is taken to be.
///
/// # Errors
/// When it is no socket, or the kernel gives none.
pub fn is_of_this_netns(other: BorrowedFd<'_>) -> io::Result<bool> {
    let own = socket_with(AddressFamily::UNIX, SocketType::DGRAM, SocketFlags::CLOEXEC, None)?;
    Ok(cookie(other)? == cookie(own.as_fd())?)
}

/// The cookie of a socket's namespace; 0 where the kernel knows none.
fn cookie(socket: BorrowedFd<'_>) -> io::Result<u64> {
    let mut cookie = 0_u64;
    let mut len: libc::socklen_t = 8;
    // SAFETY: the descriptor is open for as long as it is borrowed; `cookie` has the eight bytes that `len` says, and
    // both outlive the call.
    let got = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_NETNS_COOKIE,
            (&raw mut cookie).cast(),
            &raw mut len,
        )
    };
    if got == 0 {
        return Ok(cookie);
    }
    match io::Error::last_os_error() {
        e if e.raw_os_error() == Some(libc::ENOPROTOOPT) => Ok(0),
        e => Err(e),
    }
}

#[cfg(test)]
mod tests {
    use super::super::netns::NetnsRef;
    use super::super::testing::{isolated, sh};
    use super::*;

    #[test]
    fn it_is_the_same_again() {
        let here = NetnsIdentity::current().unwrap();
        assert_eq!(here, NetnsIdentity::current().unwrap());
        assert_eq!(here, NetnsIdentity::stored(&here.to_string()));
        assert_eq!(here.to_string().split(':').count(), 4, "{here}");
    }

    #[test]
    fn a_namespace_of_the_same_name_is_another() {
        isolated(module_path!(), "a_namespace_of_the_same_name_is_another", &["ip"], || {
            let mut seen = Vec::new();
            for _ in 0..20 {
                sh("ip netns add pod");
                let pod = NetnsRef::Name("pod".into());
                let identity = pod.run(NetnsIdentity::current).unwrap().unwrap();
                assert_eq!(pod.run(NetnsIdentity::current).unwrap().unwrap(), identity);
                assert!(!seen.contains(&identity), "{identity} came back");
                seen.push(identity);
                sh("ip netns del pod");
            }
        });
    }
}
