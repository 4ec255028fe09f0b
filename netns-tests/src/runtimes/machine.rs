//! A machine for container runtimes: a node's network namespace together with mount and process
//! namespaces and cgroups of its own.
//!
//! Runtimes and the daemon talk about network namespaces by path (`/run/netns/cni-...`,
//! `/proc/PID/ns/net`), so both must see the same mounts and the same process ids: on a machine, as
//! in reality, they do. Dropping it kills its first process and with that every process in it,
//! whatever runtimes have left running, and removes its cgroups and files.

use std::io::{BufRead as _, BufReader};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use rustix::fs::{Mode, OFlags, ResolveFlags};
use rustix::thread::{UnshareFlags, unshare_unsafe};

use super::cgroup::Group;
use crate::cmd::{Cmd, Inside, wait_for_exit};
use crate::error::{Context, Error, Result};
use crate::install;
use crate::netns::Ns;

pub(crate) const ENV_DIR: &str = "LAB_MACHINE_DIR";
pub(crate) const ENV_NETNS: &str = "LAB_MACHINE_NETNS";
pub(crate) const ENV_GROUP: &str = "LAB_MACHINE_CGROUP";
/// What the first process says when all is prepared.
pub(crate) const READY: &str = "ready";
/// Directories of the machine that the maker can see too: where, and the name below [`Machine::dir`].
pub(crate) const DIRS: &[(&str, &str)] =
    &[("/etc/cni", "etc-cni"), ("/opt/cni", "opt-cni"), ("/var/lib/cni", "var-lib-cni")];

/// How long all processes of a machine may take to end once they are killed.
const END_LIMIT: Duration = Duration::from_secs(10);

/// Where the machine looks for configurations of CNI networks.
pub const CONF_DIR: &str = "/etc/cni/net.d";
/// Where it looks for CNI plugins first.
pub const BIN_DIR: &str = "/opt/cni/bin";
/// Where Debian's package has the plugins of the CNI project.
pub const STOCK_PLUGINS: &str = "/usr/lib/cni";

/// A running machine.
#[derive(Debug)]
pub struct Machine {
    // Before the group, which can be removed only when its processes are gone.
    init: Init,
    inside: Arc<Inside>,
    ns: Ns,
    dir: PathBuf,
    _group: Group,
}

/// The first process.
#[derive(Debug)]
struct Init(Child);

impl Drop for Init {
    fn drop(&mut self) {
        // Fails only when it has ended already.
        let _ = self.0.kill();
        // It ends when all processes of the machine are reaped. Those that our own side has started and not
        // waited for yet are reaped later: for them nobody must wait here.
        let _ = wait_for_exit(&mut self.0, END_LIMIT);
    }
}

impl Machine {
    /// Makes a machine of a namespace; its files are in `dir`, which must be below the lab's directory.
    pub fn boot(ns: &Ns, dir: &Path) -> Result<Self> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let step = |what: &str| format!("machine {}: {what}", ns.name());
        for name in DIRS.iter().map(|(_, name)| *name).chain(["home", "tmp", "etc-cni/net.d", "opt-cni/bin"])
        {
            let path = dir.join(name);
            std::fs::create_dir_all(&path).context(path.display())?;
        }
        let group = Group::create(NUMBER.fetch_add(1, Ordering::Relaxed)).context(step("cgroups"))?;
        let mut init = Init(start(ns, dir, group.name()).context(step("start its first process"))?);
        let mut line = String::new();
        if let Some(out) = init.0.stdout.take() {
            BufReader::new(out).read_line(&mut line).context(step("its first process"))?;
        }
        if line.trim() != READY {
            return Err(Error::missing(step(line.trim())));
        }
        let pid = init.0.id();
        let open = |name: &str| -> Result<OwnedFd> {
            let path = format!("/proc/{pid}/ns/{name}");
            Ok(std::fs::File::open(&path).context(path)?.into())
        };
        let doors = group.doors()?.into_iter().map(OwnedFd::from).collect();
        let inside = Inside { mount: open("mnt")?, pids: open("pid")?, cgroup: open("cgroup")?, doors };
        let machine =
            Self { init, inside: Arc::new(inside), ns: ns.clone(), dir: dir.to_owned(), _group: group };
        machine.stock_plugins()?;
        Ok(machine)
    }

    /// The plugins of the CNI project in [`BIN_DIR`], for runtimes that look nowhere else.
    fn stock_plugins(&self) -> Result<()> {
        install::need(&["/usr/lib/cni/bridge"])?;
        for entry in std::fs::read_dir(STOCK_PLUGINS).context(STOCK_PLUGINS)? {
            let entry = entry?;
            let link = self.bin_dir().join(entry.file_name());
            std::os::unix::fs::symlink(entry.path(), &link).context(link.display())?;
        }
        Ok(())
    }

    /// A command that will run on it, as root, with a home and a temporary directory of its own.
    pub fn cmd(&self, program: impl AsRef<std::ffi::OsStr>) -> Cmd {
        Cmd::new(program)
            .within(&self.ns)
            .inside(&self.inside)
            .env("HOME", self.dir.join("home"))
            .env("TMPDIR", self.dir.join("tmp"))
    }

    /// Its network namespace.
    pub fn ns(&self) -> &Ns {
        &self.ns
    }

    /// The directory of its files; the same path inside and outside.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The outside view of [`CONF_DIR`].
    pub fn conf_dir(&self) -> PathBuf {
        self.dir.join("etc-cni/net.d")
    }

    /// The outside view of [`BIN_DIR`].
    pub fn bin_dir(&self) -> PathBuf {
        self.dir.join("opt-cni/bin")
    }

    /// The outside view of /var/lib/cni, where libcni and the stock plugins keep their state.
    pub fn cni_state_dir(&self) -> PathBuf {
        self.dir.join("var-lib-cni")
    }

    /// A network namespace that a runtime has made on it, e.g. `/var/run/netns/cni-...`; `name` is for messages.
    pub fn netns(&self, name: &str, path: &Path) -> Result<Ns> {
        let what = || format!("namespace {name}, {} on {}", path.display(), self.ns.name());
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = rustix::fs::open(self.root(), flags, Mode::empty()).context(what())?;
        // Links in the path mean the machine's files, not ours.
        let inner = path.strip_prefix("/").unwrap_or(path);
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        let fd =
            rustix::fs::openat2(root, inner, flags, Mode::empty(), ResolveFlags::IN_ROOT).context(what())?;
        Ok(Ns::of(name, path, fd))
    }

    /// The outside view of its file systems. Absolute links lead out of it.
    fn root(&self) -> PathBuf {
        Path::new("/proc").join(self.init.0.id().to_string()).join("root")
    }

    /// The words in front of a command that make it run on the machine, for people in a lab left standing.
    pub fn enter_command(&self) -> String {
        format!("nsenter -t {} -m -p -n -C", self.init.0.id())
    }

    /// The command lines of all processes on it apart from the first, oldest first.
    pub fn processes(&self) -> Result<Vec<String>> {
        let mut found = Vec::new();
        for entry in std::fs::read_dir(self.root().join("proc"))? {
            let entry = entry?;
            let Some(pid) = entry.file_name().to_str().and_then(|n| n.parse::<u32>().ok()) else { continue };
            // A process may end while we look; a zombie has no command line.
            let line = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
            if pid != 1 && !line.is_empty() {
                let line = String::from_utf8_lossy(&line).replace('\0', " ");
                found.push((pid, format!("{pid} {}", line.trim())));
            }
        }
        found.sort();
        Ok(found.into_iter().map(|(_, line)| line).collect())
    }
}

fn start(ns: &Ns, dir: &Path, group: &str) -> Result<Child> {
    let log = dir.join("machine.log");
    let log = std::fs::File::create(&log).context(log.display())?;
    let mut command = Command::new("/proc/self/exe");
    command
        .env("LAB_STAGE", "machine")
        .env(ENV_DIR, dir)
        .env(ENV_NETNS, ns.path())
        .env(ENV_GROUP, group)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(log);
    // What a thread unshares of process ids concerns its children only.
    std::thread::scope(|scope| {
        let spawn = scope.spawn(|| -> Result<Child> {
            // SAFETY: only the process namespace of future children is unshared.
            unsafe { unshare_unsafe(UnshareFlags::NEWPID) }.context("unshare the process namespace")?;
            Ok(command.spawn()?)
        });
        spawn.join().unwrap_or_else(|_| Err(Error::failed("panicked")))
    })
}
