//! A cgroup of its own for each machine, so that what runtimes make is found again and removed.
//!
//! Cgroups are the one thing a runtime makes that no namespace takes away: directories in the
//! machine's cgroup file systems outlive their processes. Each machine gets a group
//! `swd-lab-PID-N` in every hierarchy (version 1, version 2, or both) with a leaf `init` for its
//! processes, because version 2 allows no processes beside groups with controllers. The group is
//! the root of a cgroup namespace. `PID` is that of the outermost process of the run, which removes
//! what is left at the end.

use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::thread::{UnshareFlags, unshare_unsafe};

use crate::error::{Context, Error, Result};
use crate::wait;

/// Environment variable with the beginning of the names of this run's groups.
pub(crate) const ENV: &str = "LAB_CGROUP";
/// The leaf with the processes.
const LEAF: &str = "init";
/// How long the kernel may take to empty a group whose processes were killed.
const EMPTY_LIMIT: Duration = Duration::from_secs(5);

/// One mounted hierarchy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Hierarchy {
    /// Where it is mounted.
    pub at: PathBuf,
    /// File system type: `cgroup` or `cgroup2`.
    pub kind: String,
    /// Mount options that choose the hierarchy, e.g. `cpu,cpuacct`; empty for version 2.
    pub options: String,
}

/// What the names of all groups begin with; the process id of the run follows.
const PREFIX: &str = "swd-lab-";

/// The beginning of the names of this run's groups; called by the outermost process.
pub(crate) fn run_name() -> String {
    format!("{PREFIX}{}", std::process::id())
}

/// The hierarchies of this machine.
pub(crate) fn hierarchies() -> Result<Vec<Hierarchy>> {
    let path = "/proc/self/mountinfo";
    let found = parse(&std::fs::read_to_string(path).context(path)?);
    if found.is_empty() {
        return Err(Error::missing("no cgroup file system is mounted below /sys/fs/cgroup"));
    }
    Ok(found)
}

/// Reads lines such as `36 25 0:32 / /sys/fs/cgroup/pids rw,relatime - cgroup cgroup rw,pids`.
fn parse(mountinfo: &str) -> Vec<Hierarchy> {
    let mut found: Vec<Hierarchy> = Vec::new();
    for line in mountinfo.lines() {
        let Some((mount, source)) = line.split_once(" - ") else { continue };
        let Some(at) = mount.split(' ').nth(4) else { continue };
        let mut source = source.split(' ');
        let (kind, options) = (source.next().unwrap_or_default(), source.nth(1).unwrap_or_default());
        if !matches!(kind, "cgroup" | "cgroup2") || !Path::new(at).starts_with("/sys/fs/cgroup") {
            continue;
        }
        // Options of version 2 belong to the whole machine and cannot be set in a namespace.
        let chosen = |o: &&str| kind == "cgroup" && !matches!(*o, "rw" | "ro" | "xattr" | "clone_children");
        let options: Vec<&str> =
            options.split(',').filter(chosen).filter(|o| !o.starts_with("release_agent=")).collect();
        let hierarchy = Hierarchy { at: at.into(), kind: kind.to_owned(), options: options.join(",") };
        if !found.contains(&hierarchy) {
            found.push(hierarchy);
        }
    }
    found
}

/// The group of one machine; removed when dropped, which must be after its processes have ended.
#[derive(Debug)]
pub(crate) struct Group {
    name: String,
    hierarchies: Vec<Hierarchy>,
}

impl Group {
    /// Makes the group number `n` of this run in every hierarchy.
    pub fn create(n: u32) -> Result<Self> {
        let run = std::env::var(ENV).unwrap_or_else(|_| run_name());
        let group = Self { name: format!("{run}-{n}"), hierarchies: hierarchies()? };
        for hierarchy in &group.hierarchies {
            let dir = hierarchy.at.join(&group.name);
            std::fs::create_dir(&dir).map_err(|e| {
                let dir = dir.display();
                Error::missing(format!(
                    "the cgroup {dir} cannot be made ({e}): runtimes cannot limit containers"
                ))
            })?;
            inherit_cpuset(&hierarchy.at, &dir)?;
            std::fs::create_dir(dir.join(LEAF)).context(dir.display())?;
        }
        Ok(group)
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The files to which a process writes `0` to move itself into the leaf.
    pub fn doors(&self) -> Result<Vec<std::fs::File>> {
        let open = |h: &Hierarchy| {
            let path = h.at.join(&self.name).join(LEAF).join("cgroup.procs");
            std::fs::File::options().write(true).open(&path).context(path.display())
        };
        self.hierarchies.iter().map(open).collect()
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        for hierarchy in &self.hierarchies {
            remove(&hierarchy.at.join(&self.name));
        }
    }
}

/// A new group of version 1's cpuset has no processors until it is given some.
fn inherit_cpuset(parent: &Path, dir: &Path) -> Result<()> {
    for file in ["cpuset.cpus", "cpuset.mems"] {
        let (from, to) = (parent.join(file), dir.join(file));
        if dir.join("cgroup.clone_children").exists() && to.exists() {
            let value = std::fs::read_to_string(&from).context(from.display())?;
            std::fs::write(&to, value).context(to.display())?;
            std::fs::write(dir.join("cgroup.clone_children"), "1").context(dir.display())?;
        }
    }
    Ok(())
}

/// Moves the calling process into the group `name`, makes it the root of a cgroup namespace, and
/// moves on into the leaf.
pub(crate) fn enter(name: &str) -> Result<Vec<Hierarchy>> {
    let all = hierarchies()?;
    let move_to = |dir: &str| -> Result<()> {
        for hierarchy in &all {
            let procs = hierarchy.at.join(dir).join("cgroup.procs");
            std::fs::write(&procs, "0").context(procs.display())?;
        }
        Ok(())
    };
    move_to(name)?;
    // SAFETY: only the cgroup namespace is unshared; descriptors and memory stay as they are.
    unsafe { unshare_unsafe(UnshareFlags::NEWCGROUP) }.context("unshare the cgroup namespace")?;
    move_to(&format!("{name}/{LEAF}"))?;
    Ok(all)
}

/// Removes every group of a run that has ended. What cannot be removed stays: nobody is left to
/// be told, and an empty group does no harm.
pub(crate) fn remove_run(run: &str) {
    let begins = format!("{run}-");
    for hierarchy in hierarchies().unwrap_or_default() {
        for entry in std::fs::read_dir(&hierarchy.at).into_iter().flatten().flatten() {
            if entry.file_name().to_string_lossy().starts_with(&begins) {
                remove(&entry.path());
            }
        }
    }
}

/// Removes what runs have left that were killed before they could do it themselves.
pub(crate) fn remove_stale() {
    for hierarchy in hierarchies().unwrap_or_default() {
        for entry in std::fs::read_dir(&hierarchy.at).into_iter().flatten().flatten() {
            let name = entry.file_name();
            let run = name.to_str().and_then(|n| n.strip_prefix(PREFIX)?.split('-').next());
            if run.is_some_and(|pid| !Path::new("/proc").join(pid).exists()) {
                // Fails while it has processes, of which then somebody else takes care.
                let _ = remove_tree(&entry.path());
            }
        }
    }
}

/// Removes a group and all below it. Its processes are dead, but the kernel may take a moment to
/// let go of the last.
fn remove(dir: &Path) {
    let _ = wait::until("an empty cgroup", EMPTY_LIMIT, || match remove_tree(dir) {
        Err(e) if e.raw_os_error() == Some(libc::EBUSY) => None,
        _ => Some(()),
    });
}

fn remove_tree(dir: &Path) -> std::io::Result<()> {
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            remove_tree(&entry.path())?;
        }
    }
    std::fs::remove_dir(dir)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hierarchies_of_all_layouts() {
        let hybrid = "23 1 0:21 / /sys rw shared:7 - sysfs sysfs rw\n\
            31 28 0:28 / /sys/fs/cgroup/systemd rw shared:1 master:2 - cgroup cgroup rw,xattr,release_agent=/lib/x,name=systemd\n\
            32 28 0:29 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n\
            33 28 0:30 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw,nsdelegate\n\
            34 28 0:29 / /elsewhere rw - cgroup cgroup rw,cpu,cpuacct\nnonsense\n";
        let found = parse(hybrid);
        let shown: Vec<(&str, &str, &str)> = found
            .iter()
            .map(|h| (h.at.to_str().unwrap_or_default(), h.kind.as_str(), h.options.as_str()))
            .collect();
        assert_eq!(
            shown,
            [
                ("/sys/fs/cgroup/systemd", "cgroup", "name=systemd"),
                ("/sys/fs/cgroup/cpu,cpuacct", "cgroup", "cpu,cpuacct"),
                ("/sys/fs/cgroup/unified", "cgroup2", ""),
            ]
        );
        let pure =
            "30 23 0:26 / /sys/fs/cgroup rw shared:9 - cgroup2 cgroup2 rw,nsdelegate,memory_recursiveprot";
        assert_eq!(parse(pure)[0].at, Path::new("/sys/fs/cgroup"));
        assert!(parse("").is_empty());
    }
}
