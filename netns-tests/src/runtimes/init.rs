//! The first process of a machine: makes the machine's mounts, says so, and then only exists.
//!
//! It is this program started again (stage `machine` of [`crate::enter`]) as process 1 of a new
//! process namespace. Its end is the end of every process of the machine; it ends when the other
//! side closes its standard input, so a machine never outlives its maker.
//!
//! What is private to a machine: /proc, /sys, /run (the lab's directory and the binaries are kept),
//! /dev/shm, cgroups, and everything written to /etc, /opt and /var/lib. /etc/cni, /opt/cni and
//! /var/lib/cni are directories that also the maker can see. The machine's own files are read only
//! through overlays and never changed.

use std::ffi::CString;
use std::io::{Read as _, Write as _};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::exit;

use rustix::mount::{MountFlags, MountPropagationFlags, mount, mount_bind, mount_change};
use rustix::thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space, unshare_unsafe};

use super::cgroup::{self, Hierarchy};
use super::machine::{DIRS, ENV_DIR, ENV_GROUP, ENV_NETNS, READY};
use crate::enter::{BIN_DIR, LAB_DIR, private_run};
use crate::error::{Context, Error, Result};

/// Directories below which a machine sees its own changes only.
const OVERLAID: &[&str] = &["/etc", "/opt", "/var/lib"];

/// The stage. Writes [`READY`] or the reason why not to standard output.
pub(crate) fn main() -> ! {
    let (line, code) = match prepare() {
        Ok(()) => (READY.to_owned(), 0),
        Err(e) => (e.to_string(), 1),
    };
    let mut out = std::io::stdout();
    let told = writeln!(out, "{line}").and_then(|()| out.flush());
    if code != 0 || told.is_err() {
        exit(1);
    }
    // SAFETY: ignoring a signal needs no handler. Children that are handed to process 1 are then
    // reaped by the kernel.
    unsafe { libc::signal(libc::SIGCHLD, libc::SIG_IGN) };
    // Nothing is ever written to it: this returns at its end.
    let _ = std::io::stdin().read_to_end(&mut Vec::new());
    exit(0)
}

fn variable(name: &str) -> Result<String> {
    std::env::var(name).map_err(|e| Error::failed(format!("{name}: {e}")))
}

fn prepare() -> Result<()> {
    let dir = PathBuf::from(variable(ENV_DIR)?);
    let netns = variable(ENV_NETNS)?;
    let netns = std::fs::File::open(&netns).context(netns)?;
    move_into_link_name_space(netns.as_fd(), Some(LinkNameSpaceType::Network)).context("enter the node")?;
    let hierarchies = cgroup::enter(&variable(ENV_GROUP)?)?;
    // SAFETY: only the mount namespace is unshared; descriptors and memory stay as they are.
    unsafe { unshare_unsafe(UnshareFlags::NEWNS) }.context("unshare the mount namespace")?;
    mount_change("/", MountPropagationFlags::REC | MountPropagationFlags::PRIVATE)
        .context("make all mounts private")?;
    filesystem("proc", Path::new("/proc"), "")?;
    private_run(&[LAB_DIR, BIN_DIR])?;
    make_dir(Path::new(crate::netns::NETNS_DIR))?;
    filesystem("tmpfs", Path::new("/dev/shm"), "")?;
    filesystem("sysfs", Path::new("/sys"), "")?;
    mount_cgroups(&hierarchies)?;
    for path in OVERLAID {
        overlay(Path::new(path))?;
    }
    for (place, name) in DIRS {
        let (place, source) = (Path::new(place), dir.join(name));
        make_dir(place)?;
        mount_bind(&source, place).context(place.display())?;
    }
    Ok(())
}

fn filesystem(kind: &str, at: &Path, options: &str) -> Result<()> {
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    let data = CString::new(options).map_err(|_| Error::failed("mount options with a zero byte"))?;
    mount(kind, at, kind, flags, Some(data.as_c_str())).context(format!("mount {kind} on {}", at.display()))
}

fn make_dir(path: &Path) -> Result<()> {
    std::fs::create_dir_all(path).context(path.display())
}

/// The same hierarchies in the same places, each with the machine's group as its root.
fn mount_cgroups(hierarchies: &[Hierarchy]) -> Result<()> {
    let root = Path::new("/sys/fs/cgroup");
    if !hierarchies.iter().any(|h| h.at == root) {
        filesystem("tmpfs", root, "")?;
    }
    for hierarchy in hierarchies {
        make_dir(&hierarchy.at)?;
        filesystem(&hierarchy.kind, &hierarchy.at, &hierarchy.options)?;
        // Of controllers mounted together, programs also look for each by its own name.
        let together = hierarchy.options.split(',').filter(|_| hierarchy.options.contains(','));
        for controller in together {
            let link = root.join(controller);
            if !link.exists() {
                std::os::unix::fs::symlink(&hierarchy.at, &link).context(link.display())?;
            }
        }
    }
    Ok(())
}

/// Lets a directory of the system be written to without being changed.
fn overlay(path: &Path) -> Result<()> {
    let name: String = path.to_string_lossy().replace('/', "-");
    let own = Path::new("/run/overlay").join(name.trim_start_matches('-'));
    let (upper, work) = (own.join("upper"), own.join("work"));
    for dir in [&upper, &work] {
        make_dir(dir)?;
    }
    let options =
        format!("lowerdir={},upperdir={},workdir={}", path.display(), upper.display(), work.display());
    let data = CString::new(options).map_err(|_| Error::failed("mount options with a zero byte"))?;
    mount("overlay", path, "overlay", MountFlags::empty(), Some(data.as_c_str())).map_err(|e| {
        let (path, e) = (path.display(), std::io::Error::from(e));
        Error::missing(format!("mount an overlay on {path}: {e}"))
    })
}
