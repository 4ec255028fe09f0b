//! The sandbox: makes sure that tests never touch the machine they run on.
//!
//! [`enter`] starts the program again inside its own network, mount and process namespaces (for an
//! ordinary user: inside a user namespace in which it is root) and returns only there. /run is a
//! private tmpfs, so namespaces, sockets and state directories of the lab are visible only inside;
//! the end of the program is the end of every process and device it made, even after a crash.
//!
//! Environment it reads:
//! - `LAB_AS_USER=1` as root: give up root (uid and gid 65534, no groups, no capabilities) and go
//!   the way of an ordinary user. /dev/net/tun is then a private device node with mode 0666.
//! - `LAB_NO_SKIP=1` or `CI=true`: what the machine does not allow is a failure, not a skip.
//! - `SWD_BIN_DIR`: where `swd` and `swctl` are (default: the directory this program was built to).
//!
//! Exit codes of a program that could not enter: 0 after a SKIPPED line, 1 where skipping is not
//! allowed.

use std::fs::File;
use std::io::Write as _;
use std::os::fd::{AsFd, FromRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use rustix::fs::{Mode, OFlags};
use rustix::io::{FdFlags, fcntl_setfd};
use rustix::mount::{MountFlags, MountPropagationFlags, mount, mount_bind, mount_change};

use crate::error::{Context, Error, Result};
use crate::stage;

/// Home directory of programs the lab runs.
pub const HOME: &str = "/run/lab/home";
/// Directory of the lab's files: state, sockets, logs, captures. Gone with the sandbox.
pub const LAB_DIR: &str = "/run/lab";
/// Where the switch's binaries are bound when their own path is not readable for an ordinary user.
pub(crate) const BIN_DIR: &str = "/run/lab-bin";
/// The device every TAP comes from.
pub(crate) const TUN: &str = "/dev/net/tun";

/// The end of the pipe through which [`keep`] tells the outermost process to leave.
static KEEP: Mutex<Option<OwnedFd>> = Mutex::new(None);

/// What the sandbox could be given.
#[derive(Clone, Debug)]
pub struct Sandbox {
    /// The user who started the program (inside, everybody is uid 0).
    pub outer_uid: u32,
    /// Whether it has its own process ids; without, stray processes of a crash are not cleaned up.
    pub own_pids: bool,
}

/// Enters the sandbox. Call it first in `main`, before any thread exists and before reading
/// arguments: the program is started again with the same arguments. Outside it never returns.
pub fn enter() -> Sandbox {
    match std::env::var("LAB_STAGE").as_deref() {
        Err(_) => stage::supervise(),
        Ok("drop") => stage::drop_root(),
        Ok("unshare") => stage::unshare(),
        Ok("init") => stage::init(),
        Ok("machine") => crate::runtimes::init::main(),
        Ok("confine") => crate::confine::main(),
        Ok(_) => match inside() {
            Ok(sandbox) => sandbox,
            Err(e) => stage::refuse(&e),
        },
    }
}

/// Whether missing things may be skipped on this run.
pub fn may_skip() -> bool {
    let set = |name: &str| std::env::var(name).is_ok_and(|v| !matches!(v.as_str(), "" | "0" | "false"));
    !set("LAB_NO_SKIP") && !set("CI")
}

/// The user who started the program, when called inside.
fn outer_uid() -> u32 {
    std::env::var("LAB_UID").ok().and_then(|v| v.parse().ok()).unwrap_or(0)
}

/// Fails with kind Excused for an ordinary user: the run as root makes the claim.
pub fn need_root(why: &str) -> Result<()> {
    match outer_uid() {
        0 => Ok(()),
        uid => Err(Error::excused(format!("uid {uid} is not root: {why}"))),
    }
}

/// Leaves the lab standing: the program in the foreground ends with `message` on its standard
/// output, and this process goes on in the background until it gets SIGTERM; then this function
/// returns, so that the caller can clean up. `{pid}` in the message becomes the process id by
/// which the sandbox is entered from outside (see [`enter_command`]).
pub fn keep(message: &str) -> Result<()> {
    let Some(fd) = KEEP.lock().map_err(|_| Error::failed("keep: lock"))?.take() else {
        return Err(Error::failed("keep: not inside a sandbox, or kept already"));
    };
    rustix::process::set_parent_process_death_signal(None)?;
    let null = File::options().read(true).write(true).open("/dev/null").context("/dev/null")?;
    std::io::stdout().flush()?;
    File::from(fd).write_all(message.as_bytes()).context("tell the foreground process")?;
    // A pipeline that reads our output must see its end although we live on.
    rustix::stdio::dup2_stdin(&null)?;
    rustix::stdio::dup2_stdout(&null)?;
    rustix::stdio::dup2_stderr(&null)?;
    wait_for_end_signal();
    Ok(())
}

/// The command that opens a shell in a kept sandbox.
pub fn enter_command(sandbox: &Sandbox) -> String {
    let user = if sandbox.outer_uid == 0 { "" } else { " -U --preserve-credentials" };
    let pids = if sandbox.own_pids { " -p" } else { "" };
    format!("nsenter -t {{pid}}{user} -m -n{pids}")
}

/// The signals that end a kept lab. Blocked from the start of the inner process, so that every
/// thread has them blocked and they wait for [`keep`].
fn end_signals() -> libc::sigset_t {
    // SAFETY: sigset_t is plain data that sigemptyset initialises; the calls get valid pointers.
    unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut set);
        for signal in [libc::SIGTERM, libc::SIGINT, libc::SIGHUP] {
            libc::sigaddset(&raw mut set, signal);
        }
        set
    }
}

fn wait_for_end_signal() {
    let set = end_signals();
    let mut got = 0;
    // SAFETY: both pointers are to live locals of the right type.
    unsafe {
        libc::sigwait(&raw const set, &raw mut got);
    }
}

/// The innermost stage: mounts, then the program proper.
fn inside() -> Result<Sandbox> {
    stage::die_with_parent();
    let set = end_signals();
    // SAFETY: the set is initialised, the old mask is not asked for. No thread exists yet.
    unsafe {
        libc::pthread_sigmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut());
    }
    if let Some(fd) = std::env::var("LAB_KEEP_FD").ok().and_then(|v| v.parse::<i32>().ok()) {
        // SAFETY: the stage before handed us this descriptor for us alone, see stage::start.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        fcntl_setfd(&fd, FdFlags::CLOEXEC)?;
        *KEEP.lock().map_err(|_| Error::failed("lock"))? = Some(fd);
    }
    let own_pids = std::env::var("LAB_PIDNS").as_deref() == Ok("1");
    let outer_uid = outer_uid();

    mount_change("/", MountPropagationFlags::REC | MountPropagationFlags::PRIVATE)
        .context("make all mounts private")?;
    if own_pids {
        let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
        if mount("proc", "/proc", "proc", flags, None).is_err() {
            // Usual in containers that cover parts of /proc. Go without own process ids.
            std::process::exit(stage::EXIT_NO_PIDNS);
        }
    }
    private_run(&[BIN_DIR])?;
    for dir in [crate::netns::NETNS_DIR, LAB_DIR, HOME] {
        std::fs::create_dir_all(dir).context(dir)?;
    }
    ensure_tun()?;
    crate::cmd::Cmd::new("ip").args(["link", "set", "lo", "up"]).run()?;
    Ok(Sandbox { outer_uid, own_pids })
}

/// Puts a tmpfs over /run, keeping those of the directories `keep` in it that exist.
pub(crate) fn private_run(keep: &[&str]) -> Result<()> {
    let mut kept = Vec::new();
    for dir in keep.iter().filter(|dir| Path::new(dir).is_dir()) {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        kept.push((dir, rustix::fs::open(*dir, flags, Mode::empty()).context(dir)?));
    }
    mount("tmpfs", "/run", "tmpfs", MountFlags::NOSUID, Some(c"mode=0755")).context("mount tmpfs on /run")?;
    for (dir, fd) in kept {
        use std::os::fd::AsRawFd;
        std::fs::create_dir_all(dir).context(dir)?;
        mount_bind(format!("/proc/self/fd/{}", fd.as_fd().as_raw_fd()), *dir).context(dir)?;
    }
    // iproute2 looks in /var/run, which on old or unusual systems is a directory of its own.
    let var_run = Path::new("/var/run");
    if var_run.is_dir() && var_run.canonicalize().is_ok_and(|p| p != Path::new("/run")) {
        mount_bind("/run", var_run).context("bind /run to /var/run")?;
    }
    Ok(())
}

/// Checks that TAPs can be made; as root makes a private device node where the machine has none.
fn ensure_tun() -> Result<()> {
    let why = match File::options().read(true).write(true).open(TUN) {
        Ok(_) => return Ok(()),
        Err(e) => e,
    };
    if why.kind() == std::io::ErrorKind::NotFound && stage::private_tun().is_ok() {
        return Ok(());
    }
    let mode = std::fs::metadata(TUN).map(|m| {
        use std::os::unix::fs::PermissionsExt;
        format!("mode {:04o}", m.permissions().mode() & 0o7777)
    });
    Err(Error::missing(match mode {
        Ok(mode) => format!("{TUN} is not accessible ({why}): {mode}; as root: chmod 0666 {TUN}"),
        Err(_) => format!(
            "{TUN} is not accessible ({why}); as root: mkdir -p /dev/net && mknod -m 0666 {TUN} c 10 200"
        ),
    }))
}

/// The directory of `swd` and `swctl`.
pub fn bin_dir() -> Result<PathBuf> {
    if Path::new(BIN_DIR).is_dir() {
        return Ok(PathBuf::from(BIN_DIR));
    }
    match std::env::var_os("SWD_BIN_DIR") {
        Some(dir) => Ok(PathBuf::from(dir)),
        None => Err(Error::failed("SWD_BIN_DIR is not set: is this the inside of a sandbox?")),
    }
}
