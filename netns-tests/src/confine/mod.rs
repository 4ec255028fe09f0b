//! The restrictions of a systemd unit, without systemd: a program is started as that would start it, so that tests show
//! what a unit takes away from a daemon and whether it can do without.
//!
//! The unit file itself is read, and every directive in it has to be known here: either it is re-created, or the list
//! of those without effect has it ([`WITHOUT_EFFECT`]). What systemd does with an eBPF program or a control group is
//! re-created by what it amounts to, e.g. a `/dev` with the permitted devices only. Needs root.
//!
//! The program of the tests starts itself once more ([`crate::enter::enter`]) with `LAB_STAGE=confine` and the
//! arguments `UNIT DIRECTORY PROGRAM [ARGUMENT]...`, gives everything up and becomes PROGRAM. DIRECTORY stands for the
//! unit's state and runtime directories.

mod calls;
mod mounts;

use std::convert::Infallible;
use std::ffi::OsString;
use std::io::Write as _;
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::Command;

use rustix::fs::Mode;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit, umask};

use crate::cmd::Cmd;
use crate::error::{Context, Error, Result};

/// The unit of the repository; `LAB_UNIT` has the path of another one, to see what a line is good for.
const UNIT: &str = include_str!("../../../packaging/systemd/swd.service");

/// What the lab stands in for, what concerns the service manager itself, and what takes nothing away from the daemon.
const WITHOUT_EFFECT: &[&str] = &[
    "Type",
    "ExecStart",
    "NotifyAccess",
    "WatchdogSec",
    "Restart",
    "RestartSec",
    "FileDescriptorStoreMax",
    "TimeoutStartSec",
    "TimeoutStopSec",
    "KillMode",
    "OOMPolicy",
    "StateDirectory",
    "StateDirectoryMode",
    "RuntimeDirectory",
    "RuntimeDirectoryMode",
    "RuntimeDirectoryPreserve",
    // The device of the clock is not among those that /dev has, and its capabilities not in the bounding set.
    "ProtectClock",
    // The capability and the calls are gone by other directives.
    "RestrictRealtime",
    // The daemon has no use for keys.
    "KeyringMode",
    // A control group of its own would be needed; the suite counts the tasks instead.
    "TasksMax",
];

/// Capabilities by number (<linux/capability.h>).
const CAPABILITIES: [&str; 41] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETGID",
    "SETUID",
    "SETPCAP",
    "LINUX_IMMUTABLE",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_ADMIN",
    "NET_RAW",
    "IPC_LOCK",
    "IPC_OWNER",
    "SYS_MODULE",
    "SYS_RAWIO",
    "SYS_CHROOT",
    "SYS_PTRACE",
    "SYS_PACCT",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_NICE",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "MKNOD",
    "LEASE",
    "AUDIT_WRITE",
    "AUDIT_CONTROL",
    "SETFCAP",
    "MAC_OVERRIDE",
    "MAC_ADMIN",
    "SYSLOG",
    "WAKE_ALARM",
    "BLOCK_SUSPEND",
    "AUDIT_READ",
    "PERFMON",
    "BPF",
    "CHECKPOINT_RESTORE",
];

/// The directives of a unit's service.
#[derive(Debug)]
struct Unit(Vec<(String, String)>);

impl Unit {
    fn parse(text: &str) -> Self {
        let mut section = "";
        let mut directives = Vec::new();
        for line in text.lines().map(str::trim).filter(|l| !l.is_empty() && !l.starts_with('#')) {
            if let Some(name) = line.strip_prefix('[') {
                section = name.trim_end_matches(']');
            } else if let (true, Some((key, value))) = (section == "Service", line.split_once('=')) {
                directives.push((key.to_owned(), value.to_owned()));
            }
        }
        Self(directives)
    }

    /// The values of a directive that may be given several times.
    fn all(&self, key: &str) -> Vec<&str> {
        self.0.iter().filter(|(k, _)| k == key).map(|(_, value)| value.as_str()).collect()
    }

    /// The words of a directive that is a list.
    fn words(&self, key: &str) -> Vec<&str> {
        self.all(key).into_iter().flat_map(str::split_whitespace).collect()
    }

    fn is(&self, key: &str, value: &str) -> bool {
        self.all(key).last() == Some(&value)
    }

    fn on(&self, key: &str) -> bool {
        self.is(key, "yes")
    }

    fn number(&self, key: &str) -> Result<Option<u64>> {
        self.all(key).last().map(|n| n.parse().map_err(|_| Error::failed(format!("{key}={n}")))).transpose()
    }
}

impl Cmd {
    /// Starts a daemon as its unit says; `writable` stands for its directories.
    pub(crate) fn confined(self, writable: &std::path::Path) -> Result<Self> {
        let text = match std::env::var_os("LAB_UNIT") {
            Some(path) => std::fs::read_to_string(&path).context(path.display())?,
            None => UNIT.to_owned(),
        };
        let unit = writable.join("swd.service");
        std::fs::write(&unit, text).context(unit.display())?;
        let own = std::env::current_exe().context("own program")?;
        let words = [own.into_os_string(), unit.into_os_string(), writable.as_os_str().to_owned()];
        Ok(self.behind(&words).env("LAB_STAGE", "confine"))
    }
}

/// The stage of the program that gives everything up.
pub(crate) fn main() -> ! {
    let Err(e) = run();
    // Nobody is left to tell if standard error is closed.
    let _ = writeln!(std::io::stderr(), "confine: {e}");
    std::process::exit(126)
}

fn run() -> Result<Infallible> {
    let mut args = std::env::args_os().skip(1);
    let mut next = |what: &str| args.next().ok_or_else(|| Error::failed(format!("no {what}")));
    let (unit, writable) = (PathBuf::from(next("unit")?), PathBuf::from(next("directory")?));
    let (program, rest) = (next("program")?, args.collect::<Vec<OsString>>());
    let unit = Unit::parse(&std::fs::read_to_string(&unit).context(unit.display())?);
    let known = mounts::DIRECTIVES.iter().chain(calls::DIRECTIVES).chain(DIRECTIVES).chain(WITHOUT_EFFECT);
    let known: Vec<&str> = known.copied().collect();
    if let Some((key, value)) = unit.0.iter().find(|(key, _)| !known.contains(&key.as_str())) {
        return Err(Error::failed(format!("{key}={value}: nobody here knows what that takes away")));
    }
    // Programs are asked before there is less to see.
    let filters = calls::filters(&unit)?;
    let program = mounts::apply(&unit, &writable, &PathBuf::from(program))?;
    limits(&unit)?;
    capabilities(&unit)?;
    filters.iter().try_for_each(|filter| {
        seccompiler::apply_filter(filter).map_err(|e| Error::failed(format!("system calls: {e}")))
    })?;
    Err(Command::new(program).args(rest).env_remove("LAB_STAGE").exec().into())
}

/// Re-created in this file.
const DIRECTIVES: &[&str] =
    &["LimitNOFILE", "LimitCORE", "UMask", "OOMScoreAdjust", "CapabilityBoundingSet", "NoNewPrivileges"];

fn limits(unit: &Unit) -> Result<()> {
    for (key, resource) in [("LimitNOFILE", Resource::Nofile), ("LimitCORE", Resource::Core)] {
        if let Some(n) = unit.number(key)? {
            // As systemd does: as close to it as is permitted.
            let n = getrlimit(resource).maximum.map_or(n, |most| most.min(n));
            setrlimit(resource, Rlimit { current: Some(n), maximum: Some(n) }).context(key)?;
        }
    }
    if let Some(mask) = unit.all("UMask").last() {
        let bits = u32::from_str_radix(mask, 8).map_err(|_| Error::failed(format!("UMask={mask}")))?;
        umask(Mode::from_bits_truncate(bits));
    }
    if let Some(adjust) = unit.all("OOMScoreAdjust").last() {
        // Inside a container it may not become less likely, which changes nothing for a test.
        match std::fs::write("/proc/self/oom_score_adj", adjust) {
            Err(e) if e.kind() != std::io::ErrorKind::PermissionDenied => {
                return Err(e).context("OOMScoreAdjust");
            }
            _ => {}
        }
    }
    Ok(())
}

fn capabilities(unit: &Unit) -> Result<()> {
    let kept = unit.words("CapabilityBoundingSet");
    if let Some(unknown) =
        kept.iter().find(|c| !CAPABILITIES.iter().any(|name| c.strip_prefix("CAP_") == Some(name)))
    {
        return Err(Error::failed(format!("capability {unknown}")));
    }
    for (number, name) in (0_u64..).zip(CAPABILITIES) {
        if !kept.iter().any(|c| c.strip_prefix("CAP_") == Some(name)) {
            // SAFETY: prctl(PR_CAPBSET_DROP) takes a number and touches no memory.
            let dropped = unsafe { libc::prctl(libc::PR_CAPBSET_DROP, number, 0, 0, 0) };
            let e = std::io::Error::last_os_error();
            // A kernel may not know the newest ones.
            if dropped != 0 && e.raw_os_error() != Some(libc::EINVAL) {
                return Err(e).context(format!("dropping CAP_{name}"));
            }
        }
    }
    if unit.on("NoNewPrivileges") {
        rustix::thread::set_no_new_privs(true).context("NoNewPrivileges")?;
    }
    Ok(())
}
