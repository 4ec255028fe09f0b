//! What a unit leaves of the file system: a mount namespace in which everything but a few places is read-only, hidden
//! or empty.

use std::fs::File;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use rustix::mount::{MountFlags, MountPropagationFlags, mount, mount_bind, mount_change, mount_remount};
use rustix::thread::{UnshareFlags, unshare_unsafe};

use super::Unit;
use crate::error::{Context, Error, Result};

/// Re-created in this file.
pub const DIRECTIVES: &[&str] = &[
    "ProtectSystem",
    "ProtectHome",
    "PrivateTmp",
    "DevicePolicy",
    "DeviceAllow",
    "ProtectKernelTunables",
    "ReadWritePaths",
    "ProtectKernelModules",
    "ProtectKernelLogs",
    "ProtectControlGroups",
    "ProtectHostname",
    "ProtectProc",
];

/// What `DevicePolicy=closed` leaves.
const DEVICES: [&str; 6] = ["/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom", "/dev/tty"];
/// What `ProtectKernelTunables=yes` makes read-only beside `/sys` and `/proc/sys`.
const TUNABLES: [&str; 4] = ["/proc/sysrq-trigger", "/proc/irq", "/proc/bus", "/proc/fs"];

/// Leaves only that. Gives the path under which the program is found then.
pub fn apply(unit: &Unit, writable: &Path, program: &Path) -> Result<PathBuf> {
    for (key, value) in
        [("ProtectSystem", "strict"), ("DevicePolicy", "closed"), ("ProtectProc", "invisible")]
    {
        if !unit.is(key, value) {
            return Err(Error::failed(format!(
                "{key}={}: only {value} is known here",
                unit.all(key).join(" ")
            )));
        }
    }
    let mut flags = UnshareFlags::NEWNS;
    if unit.on("ProtectHostname") {
        flags |= UnshareFlags::NEWUTS;
    }
    // SAFETY: this process has one thread, and no flag here unshares descriptors.
    unsafe { unshare_unsafe(flags) }.context("a mount namespace")?;
    // Names of namespaces that are made later have to arrive; nothing goes the other way.
    mount_change("/", MountPropagationFlags::REC | MountPropagationFlags::DOWNSTREAM)
        .context("propagation")?;

    mount_bind(writable, writable).context(writable.display())?;
    // A home directory may be where the program is.
    let at = writable.join("program");
    File::create(&at).context(at.display())?;
    mount_bind(program, &at).context(program.display())?;

    let plain = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    mount("proc", "/proc", "proc", plain, Some(c"hidepid=invisible")).context("ProtectProc")?;
    devices(unit)?;
    let mut hidden = Vec::new();
    if unit.on("ProtectHome") {
        hidden.extend(["/home", "/root", "/run/user"]);
    }
    if unit.on("ProtectKernelModules") {
        hidden.extend(["/usr/lib/modules", "/lib/modules"]);
    }
    for dir in hidden.into_iter().filter(|dir| Path::new(dir).is_dir()) {
        mount("tmpfs", dir, "tmpfs", plain, Some(c"mode=0000")).context(dir)?;
    }
    if unit.on("PrivateTmp") {
        for dir in ["/tmp", "/var/tmp"] {
            mount("tmpfs", dir, "tmpfs", MountFlags::NOSUID | MountFlags::NODEV, Some(c"mode=1777"))
                .context(dir)?;
        }
    }
    let mut own = Vec::new();
    if unit.on("ProtectKernelTunables") {
        own.push("/proc/sys");
        own.extend(TUNABLES);
    }
    if unit.on("ProtectKernelLogs") && Path::new("/proc/kmsg").exists() {
        mount_bind("/dev/null", "/proc/kmsg").context("/proc/kmsg")?;
    }
    for place in own.into_iter().chain(unit.words("ReadWritePaths")).filter(|place| Path::new(place).exists())
    {
        mount_bind(place, place).context(place)?;
    }
    read_only(unit, writable)?;
    Ok(at)
}

/// A `/dev` with the permitted devices only. Where systemd counts on control groups the others are there, and refuse.
fn devices(unit: &Unit) -> Result<()> {
    let mut allowed: Vec<(&str, &str)> = DEVICES.iter().map(|dev| (*dev, "rw")).collect();
    for line in unit.all("DeviceAllow") {
        allowed.push(line.split_once(' ').ok_or_else(|| Error::failed(format!("DeviceAllow={line}")))?);
    }
    let stage = Path::new("/tmp");
    mount("tmpfs", stage, "tmpfs", MountFlags::NOSUID, Some(c"mode=0755")).context("a /dev")?;
    for (device, _) in allowed.iter().filter(|(device, access)| Path::new(device).exists() && *access == "rw")
    {
        let at = stage.join(device.trim_start_matches("/dev/"));
        if let Some(dir) = at.parent() {
            std::fs::create_dir_all(dir).context(dir.display())?;
        }
        File::create(&at).context(at.display())?;
        mount_bind(*device, &at).context(device)?;
    }
    for (link, to) in [("fd", ""), ("stdin", "/0"), ("stdout", "/1"), ("stderr", "/2")] {
        symlink(format!("/proc/self/fd{to}"), stage.join(link)).context(link)?;
    }
    rustix::mount::mount_move(stage, "/dev").context("/dev")
}

/// Makes every mount read-only but the places that are to be written.
fn read_only(unit: &Unit, writable: &Path) -> Result<()> {
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").context("mountinfo")?;
    let written = unit.words("ReadWritePaths");
    for line in mounts.lines() {
        let mut fields = line.split(' ').skip(4);
        let (Some(point), Some(options)) = (fields.next(), fields.next()) else { continue };
        // Blanks are written as \040; the lab makes no such directories.
        let point = Path::new(point);
        let stays = point.starts_with(writable)
            || point == Path::new("/proc")
            || point.starts_with("/dev")
            || ["/tmp", "/var/tmp"].iter().any(|tmp| point == Path::new(tmp))
            || written.iter().any(|place| point == Path::new(place));
        let covered = options.split(',').any(|option| option == "ro");
        if stays || covered {
            continue;
        }
        let mut flags = MountFlags::BIND | MountFlags::RDONLY;
        for option in options.split(',') {
            flags |= match option {
                "nosuid" => MountFlags::NOSUID,
                "nodev" => MountFlags::NODEV,
                "noexec" => MountFlags::NOEXEC,
                _ => MountFlags::empty(),
            };
        }
        match mount_remount(point, flags, c"") {
            // Under another mount, where nobody gets at it.
            Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOENT | rustix::io::Errno::ACCESS) => {}
            other => other.context(format!("{} read-only", point.display()))?,
        }
    }
    Ok(())
}
