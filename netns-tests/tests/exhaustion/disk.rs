//! A file system of one mebibyte that is filled, and then made read-only.

use std::io::Write as _;
use std::path::{Path, PathBuf};

use crate::common::run;
use crate::node::{Scarce, heals, nothing_lost, refused, warns};
use lab::conserve::check;
use lab::{Context, Node, Result, ensure};
use rustix::mount::{MountFlags, UnmountFlags, mount, mount_remount, unmount};

/// A small file system at the state directory of a node; gone when dropped.
struct Small(PathBuf);

impl Small {
    fn at(dir: &Path) -> Result<Self> {
        std::fs::create_dir_all(dir).context(dir.display())?;
        let flags = MountFlags::NOSUID | MountFlags::NODEV;
        mount("tmpfs", dir, "tmpfs", flags, Some(c"size=1m,mode=0700")).context("mounting a small tmpfs")?;
        Ok(Self(dir.to_owned()))
    }

    fn writable(&self, yes: bool) -> Result<()> {
        let flags = if yes { MountFlags::empty() } else { MountFlags::RDONLY };
        mount_remount(&self.0, flags | MountFlags::NOSUID | MountFlags::NODEV, "").context("remounting")
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let _ = unmount(&self.0, UnmountFlags::DETACH);
    }
}

/// Writes until there is no room left.
fn fill(file: &Path) -> Result<()> {
    let mut file = std::fs::File::create(file).context(file.display())?;
    for size in [4096, 1] {
        while file.write_all(&vec![0; size]).is_ok() {}
    }
    Ok(())
}

fn state(node: &Node) -> Result<Vec<u8>> {
    let path = node.state_dir().join("state");
    std::fs::read(&path).context(path.display())
}

pub fn a_disk_that_is_full_or_read_only() -> Result<()> {
    let mut small = None;
    let world = Scarce::build("disk", |a| {
        small = Some(Small::at(&a.state_dir())?);
        Ok(())
    })?;
    let (a, small) = (world.a()?, small.ok_or("nothing is mounted")?);
    let stream = world.send()?;
    let before = state(a)?;

    let filler = a.state_dir().join("filler");
    fill(&filler)?;
    refused(a, "network add more --vni 9", &["the change was not made", "make room on the disk"])?;
    warns(a, &["the last change was not made", "make room on the disk"])?;
    ensure!(state(a)? == before, "the state on disk has changed");
    run(a, "network show pods")?;
    std::fs::remove_file(&filler)?;
    heals(a)?;
    run(a, "network add more --vni 9")?;

    small.writable(false)?;
    let before = state(a)?;
    refused(a, "network del more", &["the change was not made", "mount it read-write"])?;
    warns(a, &["the last change was not made", "mount it read-write"])?;
    ensure!(state(a)? == before, "the state on disk has changed");
    run(a, "network show more")?;
    small.writable(true)?;
    heals(a)?;
    run(a, "network del more")?;
    nothing_lost(stream, "disk: filled up, then read-only")?;
    check(world.lab.nodes(), &[])
}
