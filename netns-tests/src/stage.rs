//! The processes around the sandbox: each stage gives up or gains one thing, starts the program
//! again as the next stage, waits for it and passes its exit code on.
//!
//! supervise -> (drop, only with LAB_AS_USER=1 as root) -> unshare -> (init, with own process ids) -> inside
//!
//! `init` is process 1 of the sandbox: it buries the processes whose parents were killed.
//!
//! A stage makes no thread, so that it may unshare anything. It dies with its parent, so killing
//! the outermost process ends everything.

use std::ffi::OsString;
use std::fs::File;
use std::io::{Read, Write as _};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, exit};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{CWD, FileType, Mode, makedev, mknodat};
use rustix::io::{FdFlags, fcntl_setfd};
use rustix::mount::{MountPropagationFlags, mount_bind, mount_change};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{
    Gid, Pid, PidfdFlags, Signal, Uid, getuid, pidfd_open, set_parent_process_death_signal,
};
use rustix::thread::{
    UnshareFlags, set_thread_groups, set_thread_res_gid, set_thread_res_uid, unshare_unsafe,
};

use crate::enter::{BIN_DIR, TUN, private_run};
use crate::error::{Context, Error, Kind, Result};
use crate::runtimes::cgroup;

/// Exit code of a stage that found something missing (the one automake's test driver uses).
const EXIT_MISSING: i32 = 77;
/// Exit code of the inner stage where /proc cannot be mounted: start over without own pids.
pub(crate) const EXIT_NO_PIDNS: i32 = 98;
/// The ordinary user of `LAB_AS_USER=1`: nobody.
const NOBODY: u32 = 65534;
/// Longest message that [`crate::enter::keep`] may send.
const MAX_KEEP_MESSAGE: u64 = 64 * 1024;

/// Outermost: runs the stages and turns "missing" into the exit code that the caller expects.
pub(crate) fn supervise() -> ! {
    let as_user = std::env::var("LAB_AS_USER").is_ok_and(|v| v == "1") && getuid().is_root();
    let first = if as_user { "drop" } else { "unshare" };
    let mut env: Vec<(&str, OsString)> = Vec::new();
    if std::env::var_os("SWD_BIN_DIR").is_none()
        && let Some(dir) = default_bin_dir()
    {
        env.push(("SWD_BIN_DIR", dir.into()));
    }
    cgroup::remove_stale();
    let group = cgroup::run_name();
    env.push((cgroup::ENV, group.clone().into()));
    for own_pids in ["1", "0"] {
        env.push(("LAB_PIDNS", own_pids.into()));
        let code = match run_stage(first, &env, true) {
            Ok(code) => code,
            Err(e) => refuse(&e),
        };
        // All that namespaces do not take away by themselves.
        cgroup::remove_run(&group);
        match code {
            EXIT_NO_PIDNS => continue,
            EXIT_MISSING => exit(if crate::enter::may_skip() { 0 } else { 1 }),
            code => exit(code),
        }
    }
    refuse(&Error::failed("/proc could not be mounted, nor done without"))
}

/// As root: private /dev/net/tun that everybody may open, the switch's binaries where everybody
/// can read them, then root is given up for good.
pub(crate) fn drop_root() -> ! {
    die_with_parent();
    let prepare = || -> Result<()> {
        unshare_now(UnshareFlags::NEWNS).context("LAB_AS_USER=1: unshare the mount namespace")?;
        mount_change("/", MountPropagationFlags::REC | MountPropagationFlags::PRIVATE)?;
        private_run(&[])?;
        private_tun()?;
        if let Some(dir) = std::env::var_os("SWD_BIN_DIR").filter(|d| Path::new(d).is_dir()) {
            std::fs::create_dir(BIN_DIR).context(BIN_DIR)?;
            mount_bind(Path::new(&dir), BIN_DIR).context(BIN_DIR)?;
        }
        // The current directory may be one that the user cannot read.
        std::env::set_current_dir("/")?;
        set_thread_groups(&[]).context("drop groups")?;
        let (gid, uid) = (Gid::from_raw(NOBODY), Uid::from_raw(NOBODY));
        set_thread_res_gid(gid, gid, gid).context("drop gid")?;
        set_thread_res_uid(uid, uid, uid).context("drop uid")?;
        Ok(())
    };
    match prepare() {
        // A change of user clears the death signal.
        Ok(()) => die_with_parent(),
        Err(e) => refuse(&e),
    }
    finish(run_stage("unshare", &[], false))
}

/// Leaves the machine's namespaces; an ordinary user by way of a user namespace.
pub(crate) fn unshare() -> ! {
    die_with_parent();
    let uid = getuid().as_raw();
    let mut flags = UnshareFlags::NEWNET | UnshareFlags::NEWNS;
    if own_pids() {
        flags |= UnshareFlags::NEWPID;
    }
    let leave = || -> Result<()> {
        if uid == 0 && unshare_now(flags).is_ok() {
            return Ok(());
        }
        user_namespace().map_err(|e| {
            Error::missing(format!(
                "user namespaces are not allowed for uid {uid} ({e}); look at the settings \
                 user.max_user_namespaces, kernel.unprivileged_userns_clone and \
                 kernel.apparmor_restrict_unprivileged_userns, or run as root"
            ))
        })?;
        unshare_now(flags).map_err(|e| {
            Error::missing(format!(
                "a user namespace was made for uid {uid}, but no network, mount and process namespaces in \
                 it ({e}); AppArmor does this (kernel.apparmor_restrict_unprivileged_userns); or run as root"
            ))
        })
    };
    if let Err(e) = leave() {
        refuse(&e);
    }
    let uid = OsString::from(uid.to_string());
    let next = if own_pids() { "init" } else { "inside" };
    finish(run_stage(next, &[("LAB_UID", uid)], false))
}

/// Process 1 of the sandbox.
pub(crate) fn init() -> ! {
    die_with_parent();
    finish(run_stage("inside", &[], false))
}

fn own_pids() -> bool {
    std::env::var("LAB_PIDNS").as_deref() == Ok("1")
}

/// Makes this process root of a new user namespace with its own user and group only.
fn user_namespace() -> Result<()> {
    let (uid, gid) = (getuid().as_raw(), rustix::process::getgid().as_raw());
    unshare_now(UnshareFlags::NEWUSER)?;
    std::fs::write("/proc/self/setgroups", "deny").context("/proc/self/setgroups")?;
    std::fs::write("/proc/self/uid_map", format!("0 {uid} 1")).context("/proc/self/uid_map")?;
    std::fs::write("/proc/self/gid_map", format!("0 {gid} 1")).context("/proc/self/gid_map")
}

fn unshare_now(flags: UnshareFlags) -> Result<()> {
    // SAFETY: descriptors stay shared (no FILES in any caller's flags).
    unsafe { unshare_unsafe(flags) }.map_err(Into::into)
}

/// Puts a device node of our own, mode 0666, in the place of /dev/net/tun; only this mount
/// namespace sees it. The machine's own node is left as it is.
pub(crate) fn private_tun() -> Result<()> {
    let node = "/run/lab-tun";
    let mode = Mode::from_raw_mode(0o666);
    mknodat(CWD, node, FileType::CharacterDevice, mode, makedev(10, 200))
        .context("make a private tun device node")?;
    std::fs::set_permissions(node, std::fs::Permissions::from_mode(0o666))?;
    if !Path::new(TUN).exists() {
        // No place to bind to: cover /dev/net, never write to the machine's /dev.
        return Err(Error::missing(format!("{TUN} does not exist")));
    }
    mount_bind(node, TUN).context("bind the private tun device node")
}

/// Where cargo puts binaries: `target/PROFILE`, one above `deps` for test programs.
fn default_bin_dir() -> Option<PathBuf> {
    let exe = std::env::current_exe().ok()?;
    let dir = exe.parent()?;
    let in_deps = dir.file_name().is_some_and(|n| n == "deps" || n == "examples");
    Some(if in_deps { dir.parent()?.to_owned() } else { dir.to_owned() })
}

/// Says why the sandbox cannot be entered, and ends the process.
pub(crate) fn refuse(e: &Error) -> ! {
    let (word, code) = match e.kind() {
        Kind::Missing if crate::enter::may_skip() => ("SKIPPED (the whole suite)", EXIT_MISSING),
        Kind::Missing => ("FAILED (nothing may be skipped here)", EXIT_MISSING),
        Kind::Failed | Kind::Excused => ("FAILED to enter the sandbox", 1),
    };
    // Nothing is left to do if even standard error is closed.
    let _ = writeln!(std::io::stderr(), "{word}: {e}");
    exit(code)
}

fn finish(result: Result<i32>) -> ! {
    match result {
        Ok(code) => exit(code),
        Err(e) => refuse(&e),
    }
}

/// SIGKILL for this process as soon as its parent ends.
pub(crate) fn die_with_parent() {
    // Cannot fail for a valid signal number.
    let _ = set_parent_process_death_signal(Some(Signal::KILL));
}

/// Starts the next stage and waits for its end. A message from [`crate::enter::keep`] is passed
/// outwards; the outermost stage prints it and leaves.
fn run_stage(stage: &str, env: &[(&str, OsString)], outermost: bool) -> Result<i32> {
    let (keep_rx, keep_tx) = pipe_with(PipeFlags::CLOEXEC)?;
    let mut child = start(stage, env, &keep_tx)?;
    drop(keep_tx);
    let pidfd = pidfd_open(Pid::from_child(&child), PidfdFlags::empty())?;
    let others = if rustix::process::getpid().is_init() { Some(orphans()?) } else { None };
    let mut pipe_open = true;
    loop {
        let mut fds = vec![PollFd::new(&pidfd, PollFlags::IN)];
        if let Some(orphans) = &others {
            bury(orphans, &child);
            fds.push(PollFd::new(orphans, PollFlags::IN));
        }
        let pipe_at = fds.len();
        if pipe_open {
            fds.push(PollFd::new(&keep_rx, PollFlags::IN));
        }
        match poll(&mut fds, None) {
            Ok(_) => {}
            Err(rustix::io::Errno::INTR) => continue,
            Err(e) => return Err(e.into()),
        }
        let ready: Vec<bool> = fds.iter().map(|fd| !fd.revents().is_empty()).collect();
        if pipe_open && ready.get(pipe_at) == Some(&true) {
            pipe_open = false;
            let mut message = String::new();
            File::from(keep_rx.try_clone()?).take(MAX_KEEP_MESSAGE).read_to_string(&mut message)?;
            if !message.is_empty() {
                pass_on(stage, &message, &child, outermost)?;
            }
            continue;
        }
        if ready.first() == Some(&true) {
            let status = child.wait()?;
            return Ok(status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0)));
        }
    }
}

/// A descriptor that can be read when a child has ended or this process is told to, for process 1, whose children are also those of others that
/// were killed. Made once its own child is there, which so has no signal blocked.
fn orphans() -> Result<OwnedFd> {
    // SAFETY: sigset_t is plain data that sigemptyset initialises, the calls get valid pointers, and the descriptor that
    // is returned is nobody else's.
    unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut set);
        libc::sigaddset(&raw mut set, libc::SIGCHLD);
        // The kernel would keep this from a process 1 that does not wait for it.
        libc::sigaddset(&raw mut set, libc::SIGTERM);
        libc::pthread_sigmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut());
        match libc::signalfd(-1, &raw const set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK) {
            -1 => Err(std::io::Error::last_os_error().into()),
            fd => Ok(OwnedFd::from_raw_fd(fd)),
        }
    }
}

/// Takes the children that have ended, but for the one whose end is waited for elsewhere.
fn bury(orphans: &OwnedFd, child: &Child) {
    // The signal first, so that none comes unnoticed between the last look and the next poll.
    let mut signal = [0_u8; size_of::<libc::signalfd_siginfo>()];
    while rustix::io::read(orphans, &mut signal).is_ok_and(|n| n > 0) {
        // Its number comes first. Whoever keeps a lab waits for it further in.
        if signal.first_chunk().map(|bytes| u32::from_ne_bytes(*bytes)) == Some(libc::SIGTERM as u32) {
            let _ = rustix::process::kill_process(Pid::from_child(child), rustix::process::Signal::TERM);
        }
    }
    // More can be there than signals were. Each turn takes one away, or is the last.
    loop {
        // SAFETY: siginfo_t is plain data; waitid writes one, and with NOHANG leaves it zero if there is no child to tell of.
        let ended = unsafe {
            let mut info: libc::siginfo_t = std::mem::zeroed();
            let look = libc::WEXITED | libc::WNOHANG | libc::WNOWAIT;
            if libc::waitid(libc::P_ALL, 0, &raw mut info, look) != 0 { 0 } else { info.si_pid() }
        };
        if ended == 0 || u32::try_from(ended).is_ok_and(|pid| pid == child.id()) {
            return;
        }
        // SAFETY: no status is asked for.
        unsafe { libc::waitpid(ended, std::ptr::null_mut(), libc::WNOHANG) };
    }
}

fn pass_on(stage: &str, message: &str, child: &Child, outermost: bool) -> Result<()> {
    // Inside, processes see ids that mean nothing outside. This is the first one who knows the other.
    let message = if stage == if own_pids() { "init" } else { "inside" } {
        message.replace("{pid}", &child.id().to_string())
    } else {
        message.to_owned()
    };
    if outermost {
        // A closed standard output must not keep the foreground process alive.
        let _ = std::io::stdout().write_all(message.as_bytes());
        exit(0);
    }
    set_parent_process_death_signal(None)?;
    let fd = std::env::var("LAB_KEEP_FD").ok().and_then(|v| v.parse::<i32>().ok());
    if let Some(fd) = fd {
        // SAFETY: the stage before handed us this descriptor for us alone; it is taken once, as a
        // message comes at most once.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        File::from(fd).write_all(message.as_bytes())?;
    }
    let null = File::options().read(true).write(true).open("/dev/null")?;
    rustix::stdio::dup2_stdin(&null)?;
    rustix::stdio::dup2_stdout(&null)?;
    rustix::stdio::dup2_stderr(&null)?;
    Ok(())
}

fn start(stage: &str, env: &[(&str, OsString)], keep_tx: &OwnedFd) -> Result<Child> {
    // The link, not the path: an ordinary user may be unable to reach the path.
    let mut command = Command::new("/proc/self/exe");
    let mut args = std::env::args_os();
    if let Some(name) = args.next() {
        command.arg0(name);
    }
    command.args(args).env("LAB_STAGE", stage).envs(env.iter().map(|(k, v)| (k, v)));
    let fd = keep_tx.as_fd().as_raw_fd();
    command.env("LAB_KEEP_FD", fd.to_string());
    // An outer stage's own end must not leak into the inner ones, or no end of file is ever seen.
    let own = std::env::var("LAB_KEEP_FD").ok().and_then(|v| v.parse::<i32>().ok());
    // SAFETY: the closure runs between fork and exec; it makes two system calls on descriptors
    // that are open in the child, allocates nothing and takes no lock.
    unsafe {
        command.pre_exec(move || {
            if let Some(own) = own {
                let own = rustix::fd::BorrowedFd::borrow_raw(own);
                fcntl_setfd(own, FdFlags::CLOEXEC)?;
            }
            let fd = rustix::fd::BorrowedFd::borrow_raw(fd);
            fcntl_setfd(fd, FdFlags::empty())?;
            Ok(())
        });
    }
    command.spawn().context(format!("start stage {stage}"))
}
