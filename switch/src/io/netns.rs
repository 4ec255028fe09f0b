//! Finding a pod's network namespace and working inside it.
//!
//! A namespace is named as people name it: by the name `ip netns` knows, by a path (as container runtimes
//! do), or by the id of a process that lives in it. Names can be re-used for another namespace, so the
//! identity that counts is [`NetnsId`], the device and inode number of the namespace file.
//!
//! `setns` changes one thread, for good: work inside a namespace happens on a helper thread that ends with
//! it. Limits: names of up to 255 bytes; process ids up to 4,194,304 (the kernel's largest).

use std::fmt;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::ioctl::{self, Ioctl, IoctlOutput, Opcode, opcode};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// Where `ip netns` keeps its names.
const NAMED: &str = "/run/netns";
/// `PID_MAX_LIMIT` of 64-bit kernels.
const MAX_PID: u32 = 4_194_304;
/// `NSFS_MAGIC` of <linux/magic.h>.
const NSFS_MAGIC: u32 = 0x6e73_6673;
/// `NS_GET_NSTYPE` of <linux/nsfs.h>.
const NS_GET_NSTYPE: Opcode = opcode::none(0xb7, 0x3);

/// How the user named a network namespace.
#[derive(Clone, PartialEq, Eq, Hash, Debug, serde::Serialize, serde::Deserialize)]
pub enum NetnsRef {
    /// A name below `/run/netns`.
    Name(String),
    /// An absolute path to a namespace file.
    Path(PathBuf),
    /// A process that lives in it.
    Pid(u32),
}

/// A namespace itself, whatever it is called.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, serde::Serialize, serde::Deserialize)]
pub struct NetnsId {
    /// Device number of the namespace file system.
    pub dev: u64,
    /// Inode number of the namespace.
    pub ino: u64,
}

/// Why a network namespace cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum NetnsError {
    /// The text names nothing.
    #[error(
        "{0:?} does not name a network namespace: give a name of `ip netns`, an absolute path or a process id"
    )]
    Invalid(String),
    /// Nothing there.
    #[error("network namespace {netns} not found at {path}: {hint}")]
    NotFound {
        /// As the user named it.
        netns: NetnsRef,
        /// Where it was looked for.
        path: PathBuf,
        /// What to do next.
        hint: &'static str,
    },
    /// Something is there, but no network namespace.
    #[error("{path} of network namespace {netns} is not a network namespace: {hint}")]
    NotANamespace {
        /// As the user named it.
        netns: NetnsRef,
        /// What was opened.
        path: PathBuf,
        /// What to do next.
        hint: &'static str,
    },
    /// Not allowed to open or enter it.
    #[error(
        "no permission for network namespace {netns}: {cause}; entering one takes CAP_SYS_ADMIN in the user namespace that owns it, and reading /proc/PID/ns takes the right to trace the process"
    )]
    Permission {
        /// As the user named it.
        netns: NetnsRef,
        /// The kernel's words.
        cause: io::Error,
    },
    /// Anything else.
    #[error("network namespace {netns}: {cause}")]
    Io {
        /// As the user named it.
        netns: NetnsRef,
        /// The kernel's words.
        cause: io::Error,
    },
}

impl FromStr for NetnsRef {
    type Err = NetnsError;

    /// A leading slash makes a path, decimal digits make a process id, all else is a name. A namespace
    /// whose name is a number is reached by its path.
    fn from_str(s: &str) -> Result<Self, NetnsError> {
        let invalid = || NetnsError::Invalid(s.chars().take(300).collect());
        if s.contains('\0') {
            return Err(invalid());
        }
        if s.starts_with('/') {
            return Ok(Self::Path(PathBuf::from(s)));
        }
        if !s.is_empty() && s.bytes().all(|b| b.is_ascii_digit()) {
            let pid = s.parse().ok().filter(|p| (1..=MAX_PID).contains(p));
            return pid.map(Self::Pid).ok_or_else(invalid);
        }
        let good = (1..=255).contains(&s.len())
            && !matches!(s, "." | "..")
            && s.chars().all(|c| c != '/' && !c.is_control());
        if good { Ok(Self::Name(s.to_owned())) } else { Err(invalid()) }
    }
}

impl fmt::Display for NetnsRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(n) => f.write_str(n),
            Self::Path(p) => p.display().fmt(f),
            Self::Pid(p) => p.fmt(f),
        }
    }
}

impl fmt::Display for NetnsId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "net:[{}]", self.ino)
    }
}

impl NetnsRef {
    /// The namespace of the thread that opens it.
    #[must_use]
    pub fn own() -> Self {
        Self::Path(PathBuf::from("/proc/thread-self/ns/net"))
    }

    /// The file that stands for the namespace.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        match self {
            Self::Name(n) => Path::new(NAMED).join(n),
            Self::Path(p) => p.clone(),
            Self::Pid(p) => PathBuf::from(format!("/proc/{p}/ns/net")),
        }
    }

    /// Opens the namespace and makes sure that it is one. As long as the descriptor lives, so does the
    /// namespace.
    ///
    /// # Errors
    /// See [`NetnsError`]; each text ends with what to do next.
    pub fn open(&self) -> Result<OwnedFd, NetnsError> {
        let path = self.path();
        // Non-blocking and without a controlling terminal, since the path may lead to a FIFO or a tty.
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
        let fd = rustix::fs::open(&path, flags, Mode::empty()).map_err(|e| self.explain(e))?;
        let magic = rustix::fs::fstatfs(&fd).map_err(|e| self.explain(e))?.f_type;
        if magic as u32 != NSFS_MAGIC {
            let hint = match self {
                Self::Name(_) => {
                    "its mount is gone; `ip netns del` removes the name, `ip netns add` makes it anew"
                }
                Self::Path(_) | Self::Pid(_) => "give the path of a namespace file, such as /proc/PID/ns/net",
            };
            return Err(NetnsError::NotANamespace { netns: self.clone(), path, hint });
        }
        // SAFETY: NS_GET_NSTYPE takes no argument and answers by its return value; the descriptor is of
        // the namespace file system, which is the one that knows it.
        let kind = unsafe { ioctl::ioctl(&fd, GetNsType) }.map_err(|e| self.explain(e))?;
        if kind != libc::CLONE_NEWNET {
            let hint = "it is a namespace of another kind; the file is usually called `net`";
            return Err(NetnsError::NotANamespace { netns: self.clone(), path, hint });
        }
        Ok(fd)
    }

    /// Looks up the namespace's identity as of now.
    ///
    /// # Errors
    /// As [`NetnsRef::open`].
    pub fn id(&self) -> Result<NetnsId, NetnsError> {
        let fd = self.open()?;
        NetnsId::of(fd.as_fd()).map_err(|cause| NetnsError::Io { netns: self.clone(), cause })
    }

    /// Runs `work` inside the namespace; see [`run_in`].
    ///
    /// # Errors
    /// As [`NetnsRef::open`] and [`run_in`].
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T, NetnsError> {
        let fd = self.open()?;
        run_in(fd.as_fd(), work).map_err(|cause| self.blame(cause))
    }

    pub(super) fn blame(&self, cause: io::Error) -> NetnsError {
        let netns = self.clone();
        if cause.kind() == io::ErrorKind::PermissionDenied {
            NetnsError::Permission { netns, cause }
        } else {
            NetnsError::Io { netns, cause }
        }
    }

    fn explain(&self, errno: Errno) -> NetnsError {
        // /proc answers ESRCH or EINVAL for a process that is just ending.
        if errno != Errno::NOENT && errno != Errno::NOTDIR && errno != Errno::SRCH {
            return self.blame(errno.into());
        }
        let hint = match self {
            Self::Name(_) => "`ip netns list` shows those that exist, `ip netns add` makes one",
            Self::Path(_) => "has the pod ended, or is the path of another mount namespace?",
            Self::Pid(_) => "has the process ended?",
        };
        NetnsError::NotFound { netns: self.clone(), path: self.path(), hint }
    }
}

impl NetnsId {
    /// The identity of an open namespace.
    ///
    /// # Errors
    /// As of `fstat`.
    pub fn of(fd: BorrowedFd<'_>) -> io::Result<Self> {
        let stat = rustix::fs::fstat(fd)?;
        Ok(Self { dev: stat.st_dev, ino: stat.st_ino })
    }

    /// The identity of the calling thread's own namespace.
    ///
    /// # Errors
    /// As of `stat`; `/proc` must be mounted.
    pub fn current() -> io::Result<Self> {
        let stat = rustix::fs::stat(c"/proc/thread-self/ns/net")?;
        Ok(Self { dev: stat.st_dev, ino: stat.st_ino })
    }
}

/// Runs `work` inside the namespace `fd`, on a thread made for it and joined before this returns. The namespace
/// that the caller is in already is not entered again, which would take CAP_SYS_ADMIN.
///
/// # Errors
/// The kernel's refusal of `setns` or of the thread, or a panic in `work`.
pub fn run_in<T: Send>(fd: BorrowedFd<'_>, work: impl FnOnce() -> T + Send) -> io::Result<T> {
    std::thread::scope(|scope| {
        let inside = move || -> io::Result<T> {
            // A thread begins in the namespace of the one that made it.
            if NetnsId::of(fd)? != NetnsId::current()? {
                move_into_link_name_space(fd, Some(LinkNameSpaceType::Network))?;
            }
            Ok(work())
        };
        let thread = std::thread::Builder::new().name("swd-netns".into()).spawn_scoped(scope, inside)?;
        thread.join().unwrap_or_else(|_| Err(io::Error::other("work inside the namespace panicked")))
    })
}

/// `NS_GET_NSTYPE`, whose answer is the return value.
struct GetNsType;

// SAFETY: the request has no argument and writes no memory.
unsafe impl Ioctl for GetNsType {
    type Output = libc::c_int;
    const IS_MUTATING: bool = false;

    fn opcode(&self) -> Opcode {
        NS_GET_NSTYPE
    }

    fn as_ptr(&mut self) -> *mut libc::c_void {
        std::ptr::null_mut()
    }

    unsafe fn output_from_ptr(out: IoctlOutput, _: *mut libc::c_void) -> rustix::io::Result<libc::c_int> {
        Ok(out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forms() {
        assert_eq!("web-0".parse::<NetnsRef>().unwrap().path(), Path::new("/run/netns/web-0"));
        assert_eq!("cni-1f:2".parse::<NetnsRef>().unwrap(), NetnsRef::Name("cni-1f:2".into()));
        assert_eq!("/proc/1/ns/net".parse::<NetnsRef>().unwrap(), NetnsRef::Path("/proc/1/ns/net".into()));
        assert_eq!("42".parse::<NetnsRef>().unwrap().path(), Path::new("/proc/42/ns/net"));
        let long = "x".repeat(256);
        for bad in ["", ".", "..", "a/b", "../etc", "0", "99999999", "a\nb", "a\0b", "/a\0", &long] {
            assert!(matches!(bad.parse::<NetnsRef>(), Err(NetnsError::Invalid(_))), "{bad:?}");
        }
        for same in ["web-0", "/proc/1/ns/net", "42"] {
            assert_eq!(same.parse::<NetnsRef>().unwrap().to_string(), same);
        }
    }

    #[test]
    fn absence_is_told_with_the_next_step() {
        let text = |s: &str| s.parse::<NetnsRef>().unwrap().open().unwrap_err().to_string();
        assert!(text("no-such-name").contains("ip netns list"));
        assert!(text("/no/such/path").contains("not found at /no/such/path"));
        assert!(text("4194304").contains("has the process ended?"));
    }

    #[test]
    fn other_things_are_not_namespaces() {
        for path in ["/dev/null", "/proc/self/ns/mnt", "/proc/self/status", "/"] {
            let got = NetnsRef::Path(path.into()).open();
            assert!(matches!(got, Err(NetnsError::NotANamespace { .. })), "{path}: {got:?}");
        }
    }

    #[test]
    fn own_namespace_is_recognised() {
        let own = NetnsRef::Path("/proc/self/ns/net".into());
        assert_eq!(own.id().unwrap(), NetnsId::current().unwrap());
        assert_eq!(NetnsRef::own().id().unwrap(), NetnsId::current().unwrap());
        assert_eq!(NetnsRef::own().run(|| 7).unwrap(), 7, "without a capability");
        assert_eq!(NetnsRef::Pid(std::process::id()).id().unwrap(), NetnsId::current().unwrap());
    }
}
