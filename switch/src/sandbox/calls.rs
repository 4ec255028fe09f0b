//! The lists: which system calls each kind of thread makes.
//!
//! They were written from the code and compared with what `strace -f -c` counts while the tests run. Whoever lets a
//! thread do something new adds it here; a missing call ends the tests of the worker and of `tests/sandbox.rs`.

use super::seccomp::ThreadKind;

/// One system call, and with which arguments.
#[derive(Clone, Copy, Debug)]
pub(super) struct Call {
    pub number: i64,
    /// It is allowed if all checks of any of these hold; none: whatever its arguments.
    pub ways: &'static [&'static [Check]],
}

/// A condition on one argument, by its position, of which the low 32 bits count.
#[derive(Clone, Copy, Debug)]
pub(super) enum Check {
    Is(u8, u64),
    Bits { argument: u8, mask: u64, value: u64 },
}

/// Calls that get an error instead of an end.
#[derive(Clone, Copy, Debug)]
pub(super) struct Refused {
    pub errno: u32,
    pub calls: &'static [Call],
}

/// Are there lists for this architecture?
pub(super) const SUPPORTED: bool = cfg!(any(target_arch = "x86_64", target_arch = "aarch64"));

const fn any(number: i64) -> Call {
    Call { number, ways: &[] }
}

const fn if_one_of(number: i64, ways: &'static [&'static [Check]]) -> Call {
    Call { number, ways }
}

/// What a thread of this kind may do.
pub(super) fn allowed(kind: ThreadKind) -> impl Iterator<Item = Call> {
    let lists: [&[Call]; 2] = match kind {
        ThreadKind::Forwarding => [EVERY, FORWARDING],
        ThreadKind::Reaper => [EVERY, &[]],
        ThreadKind::Control => [EVERY, CONTROL],
    };
    lists.into_iter().flatten().copied()
}

/// What a thread of this kind is told not to do.
pub(super) fn refused(kind: ThreadKind) -> Refused {
    match kind {
        ThreadKind::Forwarding | ThreadKind::Reaper => Refused { errno: libc::EACCES as u32, calls: PEEKS },
        ThreadKind::Control => Refused { errno: libc::ENOSYS as u32, calls: HIDES_FLAGS },
    }
}

/// `free` of the GNU C library looks at the system's policy of overcommitment (`/proc/sys/vm/overcommit_memory`) before
/// a thread other than the first gives memory back for the first time; with no answer it assumes the usual one. The
/// standard library looks for the names of functions when a panic is to print a backtrace. This is how both open, and
/// how the latter asks where it is. Nothing is ever opened or told; everything but a look ends the process.
const PEEKS: &[Call] = &[
    if_one_of(
        libc::SYS_openat,
        &[&[
            Check::Is(0, libc::AT_FDCWD as u32 as u64),
            Check::Is(2, (libc::O_RDONLY | libc::O_CLOEXEC) as u64),
        ]],
    ),
    any(libc::SYS_getcwd),
    any(libc::SYS_readlinkat),
    #[cfg(target_arch = "x86_64")]
    any(libc::SYS_readlink),
];

/// Its flags are in memory, where a filter cannot see them; the C library then uses the older `clone`.
const HIDES_FLAGS: &[Call] = &[any(libc::SYS_clone3)];

const NOT_EXECUTABLE: &[&[Check]] = &[&[Check::Bits { argument: 2, mask: libc::PROT_EXEC as u64, value: 0 }]];

/// What a thread needs in order to run, free memory, close descriptors, report a panic and end.
const EVERY: &[Call] = &[
    // Wake another thread; say the last words.
    any(libc::SYS_write),
    any(libc::SYS_futex),
    any(libc::SYS_sched_yield),
    // Where the clock cannot be read in user space.
    any(libc::SYS_clock_gettime),
    any(libc::SYS_close),
    // Debug builds of the standard library look before they close.
    if_one_of(libc::SYS_fcntl, &[&[Check::Is(1, libc::F_GETFD as u64)]]),
    // The allocator. Nothing it makes is executable.
    any(libc::SYS_brk),
    if_one_of(libc::SYS_mmap, NOT_EXECUTABLE),
    if_one_of(libc::SYS_mprotect, NOT_EXECUTABLE),
    any(libc::SYS_mremap),
    any(libc::SYS_madvise),
    any(libc::SYS_munmap),
    // A panic names its thread.
    any(libc::SYS_gettid),
    // The end of a thread.
    any(libc::SYS_rt_sigprocmask),
    any(libc::SYS_sigaltstack),
    any(libc::SYS_exit),
];

/// Frames in and out, and the sockets towards peers: those are opened when a peer is first sent to.
const FORWARDING: &[Call] = &[
    any(libc::SYS_read),
    any(libc::SYS_writev),
    any(libc::SYS_recvmsg),
    any(libc::SYS_sendmsg),
    any(libc::SYS_sendmmsg),
    // Signs of life.
    any(libc::SYS_pwrite64),
    any(EPOLL_WAIT),
    any(libc::SYS_epoll_ctl),
    // Hash seeds.
    any(libc::SYS_getrandom),
    // Part of the choice of source ports.
    any(libc::SYS_getpid),
    if_one_of(
        libc::SYS_socket,
        &[
            &[Check::Is(0, libc::AF_INET as u64), UDP_TYPE, UDP_PROTOCOL],
            &[Check::Is(0, libc::AF_INET6 as u64), UDP_TYPE, UDP_PROTOCOL],
        ],
    ),
    any(libc::SYS_bind),
    any(libc::SYS_connect),
    if_one_of(
        libc::SYS_setsockopt,
        &[
            &[Check::Is(1, libc::IPPROTO_IP as u64), Check::Is(2, libc::IP_TOS as u64)],
            &[Check::Is(1, libc::IPPROTO_IP as u64), Check::Is(2, libc::IP_MTU_DISCOVER as u64)],
            &[Check::Is(1, libc::IPPROTO_IPV6 as u64), Check::Is(2, libc::IPV6_TCLASS as u64)],
            &[Check::Is(1, libc::IPPROTO_IPV6 as u64), Check::Is(2, libc::IPV6_MTU_DISCOVER as u64)],
            &[Check::Is(1, libc::IPPROTO_IPV6 as u64), Check::Is(2, libc::IPV6_V6ONLY as u64)],
            &[Check::Is(1, libc::IPPROTO_UDP as u64), Check::Is(2, UDP_NO_CHECK6_TX)],
            &[Check::Is(1, libc::SOL_SOCKET as u64), Check::Is(2, libc::SO_NO_CHECK as u64)],
            &[Check::Is(1, libc::SOL_SOCKET as u64), Check::Is(2, libc::SO_SNDBUF as u64)],
            &[Check::Is(1, libc::SOL_SOCKET as u64), Check::Is(2, libc::SO_SNDBUFFORCE as u64)],
            &[Check::Is(1, libc::SOL_SOCKET as u64), Check::Is(2, libc::SO_RCVBUF as u64)],
        ],
    ),
];

const UDP_TYPE: Check = Check::Is(1, (libc::SOCK_DGRAM | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK) as u64);
const UDP_PROTOCOL: Check = Check::Is(2, libc::IPPROTO_UDP as u64);
/// From `<linux/udp.h>`.
const UDP_NO_CHECK6_TX: u64 = 101;

/// ARM never had the older call.
#[cfg(not(target_arch = "aarch64"))]
const EPOLL_WAIT: i64 = libc::SYS_epoll_wait;
#[cfg(target_arch = "aarch64")]
const EPOLL_WAIT: i64 = libc::SYS_epoll_pwait;

/// The API on a Unix socket that listens already, the files of the state, the talk with the parent, devices that come
/// from there, and threads.
const CONTROL: &[Call] = &[
    any(libc::SYS_read),
    any(libc::SYS_readv),
    any(libc::SYS_writev),
    any(libc::SYS_recvmsg),
    any(libc::SYS_sendmsg),
    any(libc::SYS_recvfrom),
    any(libc::SYS_sendto),
    any(libc::SYS_accept4),
    any(libc::SYS_shutdown),
    any(libc::SYS_getsockname),
    any(libc::SYS_getpeername),
    any(libc::SYS_getsockopt),
    if_one_of(
        libc::SYS_setsockopt,
        &[
            &[Check::Is(1, libc::SOL_SOCKET as u64), Check::Is(2, libc::SO_RCVTIMEO as u64)],
            &[Check::Is(1, libc::SOL_SOCKET as u64), Check::Is(2, libc::SO_SNDTIMEO as u64)],
        ],
    ),
    // A service manager is told that the daemon is ready or ends.
    if_one_of(libc::SYS_socket, &[&[Check::Is(0, libc::AF_UNIX as u64)]]),
    any(EPOLL_WAIT),
    any(libc::SYS_epoll_ctl),
    any(libc::SYS_epoll_create1),
    any(libc::SYS_eventfd2),
    // Files: Landlock says which.
    any(libc::SYS_openat),
    if_one_of(
        libc::SYS_fcntl,
        &[
            &[Check::Is(1, libc::F_SETFD as u64)],
            &[Check::Is(1, libc::F_GETFL as u64)],
            &[Check::Is(1, libc::F_SETFL as u64)],
            &[Check::Is(1, libc::F_DUPFD_CLOEXEC as u64)],
        ],
    ),
    any(libc::SYS_newfstatat),
    any(libc::SYS_statx),
    any(libc::SYS_lseek),
    any(libc::SYS_pread64),
    any(libc::SYS_pwrite64),
    any(libc::SYS_ftruncate),
    any(libc::SYS_getdents64),
    any(libc::SYS_fsync),
    // The lock of the state directory changes hands in an upgrade.
    any(libc::SYS_flock),
    any(libc::SYS_renameat),
    any(libc::SYS_linkat),
    any(libc::SYS_unlinkat),
    // Devices that were opened elsewhere: what they are, and what they leave to us.
    if_one_of(
        libc::SYS_ioctl,
        &[
            &[Check::Is(1, TUNGETIFF)],
            &[Check::Is(1, TUNSETVNETHDRSZ)],
            &[Check::Is(1, TUNSETOFFLOAD)],
            &[Check::Is(1, libc::FIONBIO)],
        ],
    ),
    any(libc::SYS_getrandom),
    any(libc::SYS_getpid),
    any(libc::SYS_rt_sigaction),
    any(libc::SYS_rt_sigreturn),
    any(libc::SYS_clock_nanosleep),
    any(libc::SYS_restart_syscall),
    // Threads, which put on filters of their own. A process, or a namespace, is something else.
    if_one_of(libc::SYS_clone, &[&[Check::Bits { argument: 0, mask: THREAD | NAMESPACES, value: THREAD }]]),
    any(libc::SYS_set_robust_list),
    any(libc::SYS_rseq),
    any(libc::SYS_sched_getaffinity),
    any(libc::SYS_tgkill),
    if_one_of(
        libc::SYS_prctl,
        &[
            &[Check::Is(0, libc::PR_SET_NAME as u64)],
            &[Check::Is(0, libc::PR_SET_NO_NEW_PRIVS as u64)],
            &[Check::Is(0, PR_GET_AUXV)],
        ],
    ),
    if_one_of(libc::SYS_seccomp, &[&[Check::Is(0, libc::SECCOMP_SET_MODE_FILTER as u64)]]),
    any(libc::SYS_exit_group),
    #[cfg(target_arch = "x86_64")]
    any(libc::SYS_unlink),
    #[cfg(target_arch = "x86_64")]
    any(libc::SYS_rename),
];

const THREAD: u64 = libc::CLONE_THREAD as u64;
const NAMESPACES: u64 = (libc::CLONE_NEWNS
    | libc::CLONE_NEWCGROUP
    | libc::CLONE_NEWUTS
    | libc::CLONE_NEWIPC
    | libc::CLONE_NEWUSER
    | libc::CLONE_NEWPID
    | libc::CLONE_NEWNET) as u64;

/// From `<linux/prctl.h>`: what the kernel told the process at its start, such as where its clock is.
const PR_GET_AUXV: u64 = 0x4155_5856;

// From `<linux/if_tun.h>`.
const TUNGETIFF: u64 = 0x8004_54d2;
const TUNSETVNETHDRSZ: u64 = 0x4004_54d8;
const TUNSETOFFLOAD: u64 = 0x4004_54d0;
