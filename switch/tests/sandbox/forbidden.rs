//! One call that a thread of some kind may not make, each in a process of its own.

use std::io;

use switch::sandbox::{self, ThreadKind};

use crate::Who;
use crate::parent::{Case, directory, signal};

/// What must become of a process that makes a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// Killed with SIGSYS.
    Killed,
    /// It goes on; the call failed with this error.
    Refused(i32),
    /// It goes on, and the call was made.
    Done,
}

use End::{Done, Killed, Refused};
use ThreadKind::{Control, Forwarding, Reaper};

/// Name, kind of thread, end. The calls are in [`make`].
pub const CASES: &[(&str, ThreadKind, End)] = &[
    ("ptrace", Forwarding, Killed),
    ("execve", Forwarding, Killed),
    ("fork", Forwarding, Killed),
    ("open-to-write", Forwarding, Killed),
    ("open-directory", Forwarding, Killed),
    ("open-to-read", Forwarding, Refused(libc::EACCES)),
    ("socket-unix", Forwarding, Killed),
    ("socket-tcp", Forwarding, Killed),
    ("socket-raw", Forwarding, Killed),
    ("socket-udp", Forwarding, Done),
    ("option-filter", Forwarding, Killed),
    ("executable-memory", Forwarding, Killed),
    ("make-executable", Forwarding, Killed),
    ("io-uring", Forwarding, Killed),
    ("setresuid", Forwarding, Killed),
    ("compat-call", Forwarding, Killed),
    ("ptrace", Reaper, Killed),
    ("read", Reaper, Killed),
    ("socket-udp", Reaper, Killed),
    ("open-to-write", Reaper, Killed),
    ("ptrace", Control, Killed),
    ("execve", Control, Killed),
    ("fork", Control, Killed),
    ("socket-tcp", Control, Killed),
    ("socket-udp", Control, Killed),
    ("executable-memory", Control, Killed),
    ("io-uring", Control, Killed),
    ("setresuid", Control, Killed),
    ("mount", Control, Killed),
    ("setns", Control, Killed),
    ("new-namespace", Control, Killed),
    ("terminal-input", Control, Killed),
    ("open-to-write", Control, Done),
    ("thread", Control, Done),
];

pub fn ends_as_it_must(name: &str, kind: ThreadKind, end: End) {
    let dir = directory(Who::User);
    let mut case = Case::start(&format!("{}/{name}", kind.name()), Who::User, dir.path());
    assert!(case.level().is_empty());
    let status = case.end();
    match end {
        Killed => assert_eq!(signal(status), Some(libc::SIGSYS), "{status}"),
        Refused(errno) => assert_eq!(status.code(), Some(100 + errno), "{status}"),
        Done => assert_eq!(status.code(), Some(100), "{status}"),
    }
}

/// Puts the filter on a thread, makes the call, ends with 100 plus the error.
pub fn run(case: &str) {
    let (kind, name) = case.split_once('/').unwrap();
    let kind = *ThreadKind::ALL.iter().find(|k| k.name() == kind).unwrap();
    assert!(CASES.iter().any(|c| (c.0, c.1) == (name, kind)), "{case}");
    let name = name.to_owned();
    crate::child::tell(&sandbox::Level::default());
    io::stdin().read_line(&mut String::new()).unwrap();
    let end = std::thread::spawn(move || {
        sandbox::restrict(kind).unwrap();
        make(&name)
    });
    std::process::exit(100 + end.join().unwrap());
}

/// Makes one call; the error it fails with, or 0.
fn make(name: &str) -> i32 {
    let zero = 0_u64;
    // SAFETY: every pointer that is passed is null or to a live, terminated string; none of these calls writes to
    // memory of ours but `fork`, whose child ends at once.
    let result = unsafe {
        match name {
            "ptrace" => libc::syscall(libc::SYS_ptrace, libc::PTRACE_TRACEME, zero, zero, zero),
            "execve" => libc::syscall(libc::SYS_execve, c"/bin/true".as_ptr(), zero, zero),
            "fork" => libc::syscall(libc::SYS_clone, libc::SIGCHLD, zero, zero, zero, zero),
            "open-to-write" => {
                let flags = libc::O_RDWR | libc::O_CREAT | libc::O_CLOEXEC;
                libc::syscall(libc::SYS_openat, libc::AT_FDCWD, c"own/opened".as_ptr(), flags, 0o600)
            }
            "open-directory" => libc::syscall(
                libc::SYS_openat,
                libc::AT_FDCWD,
                c"own".as_ptr(),
                libc::O_DIRECTORY | libc::O_CLOEXEC,
            ),
            "open-to-read" => libc::syscall(
                libc::SYS_openat,
                libc::AT_FDCWD,
                c"own/file".as_ptr(),
                libc::O_RDONLY | libc::O_CLOEXEC,
            ),
            "socket-unix" => libc::syscall(libc::SYS_socket, libc::AF_UNIX, UDP, 0),
            "socket-tcp" => {
                libc::syscall(libc::SYS_socket, libc::AF_INET, libc::SOCK_STREAM | libc::SOCK_CLOEXEC, 0)
            }
            "socket-raw" => libc::syscall(libc::SYS_socket, libc::AF_PACKET, libc::SOCK_RAW, 0),
            "socket-udp" => libc::syscall(libc::SYS_socket, libc::AF_INET, UDP, libc::IPPROTO_UDP),
            "option-filter" => {
                libc::syscall(libc::SYS_setsockopt, 0, libc::SOL_SOCKET, libc::SO_ATTACH_FILTER, zero, zero)
            }
            "executable-memory" => map(libc::PROT_READ | libc::PROT_EXEC),
            "make-executable" => {
                let page = map(libc::PROT_READ);
                libc::syscall(libc::SYS_mprotect, page, 4096, libc::PROT_READ | libc::PROT_EXEC)
            }
            "io-uring" => libc::syscall(libc::SYS_io_uring_setup, 1, zero),
            "setresuid" => libc::syscall(libc::SYS_setresuid, -1, -1, -1),
            // The number of a call of the ABI with 32-bit pointers: `write`.
            "compat-call" => libc::syscall(0x4000_0001, 1, zero, zero),
            "read" => libc::syscall(libc::SYS_read, 0, zero, zero),
            "mount" => libc::syscall(libc::SYS_mount, zero, zero, zero, zero, zero),
            "setns" => libc::syscall(libc::SYS_setns, -1, 0),
            "new-namespace" => {
                let flags = libc::CLONE_THREAD | libc::CLONE_VM | libc::CLONE_SIGHAND | libc::CLONE_NEWNET;
                libc::syscall(libc::SYS_clone, flags, zero, zero, zero, zero)
            }
            "terminal-input" => libc::syscall(libc::SYS_ioctl, 0, libc::TIOCSTI, zero),
            "thread" => -libc::c_long::from(std::thread::spawn(|| ()).join().is_err()),
            other => panic!("no such case: {other}"),
        }
    };
    if result < 0 { io::Error::last_os_error().raw_os_error().unwrap_or(1) } else { 0 }
}

const UDP: libc::c_int = libc::SOCK_DGRAM | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;

/// A new page.
///
/// # Safety
/// Always safe to call: nothing is mapped over. Unsafe as the system call is.
unsafe fn map(protection: libc::c_int) -> libc::c_long {
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
    // SAFETY: an anonymous mapping at an address of the kernel's choice touches no memory of ours.
    unsafe { libc::syscall(libc::SYS_mmap, 0_u64, 4096, protection, flags, -1, 0_u64) }
}
