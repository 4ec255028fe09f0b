//! Identity and capabilities: given up one by one, then read back from `/proc/self/task/*/status`.
//!
//! The kernel's own account is what is reported. It is read before Landlock closes `/proc`; where it cannot be read,
//! nothing is claimed.

use std::fs;
use std::io;

use rustix::process::{DumpableBehavior, Gid, Resource, Rlimit, Uid};
use rustix::thread::{CapabilitySet, CapabilitySets};

use super::level::Level;

/// Capabilities fit into 64 bits; the kernel answers EINVAL beyond its last one.
const CAPABILITIES: u32 = 64;

/// What went wrong with each step; what did not is not in it.
#[derive(Debug)]
struct Problems {
    no_new_privileges: Option<String>,
    core: Option<String>,
    bounding: Option<String>,
    groups: Option<String>,
    user: Option<String>,
    capabilities: Option<String>,
    dumpable: Option<String>,
}

/// Steps 1 to 6 of the module's list; returns the number of threads that were found.
pub(super) fn give_up(user: Option<(u32, u32)>, level: &mut Level) -> usize {
    let problems = act(user);
    let threads = threads();
    let (count, threads) = match threads {
        Ok(threads) => (threads.len(), Ok(threads)),
        Err(e) => (0, Err(format!("cannot be verified: /proc/self/task: {e}"))),
    };
    let all = |holds: &dyn Fn(&Status) -> Result<String, String>, problem: &Option<String>| {
        let threads = threads.as_ref().map_err(Clone::clone)?;
        let mut detail = Err("no thread was found".to_owned());
        for thread in threads {
            detail = Ok(holds(thread).map_err(|found| match problem {
                Some(problem) => format!("{found}: {problem}"),
                None => found,
            })?);
        }
        detail
    };
    let fact = |holds: bool, is: &str, is_not: &str| {
        if holds { Ok(is.to_owned()) } else { Err(is_not.to_owned()) }
    };
    level.note(
        "no-new-privileges",
        all(&|t| fact(t.no_new_privileges, "set", "not set"), &problems.no_new_privileges),
    );
    let core = rustix::process::getrlimit(Resource::Core);
    level.note(
        "core-dumps",
        fact(core.maximum == Some(0), "never written", "may be written").map_err(|e| join(e, &problems.core)),
    );
    level.note("bounding-set", all(&|t| empty(t.bounding), &problems.bounding));
    level.note("groups", all(&|t| t.check_groups(user), &problems.groups));
    level.note("user", all(&|t| t.check_user(user), &problems.user));
    level.note("capabilities", all(&|t| empty(t.capabilities), &problems.capabilities));
    let dumpable = match rustix::process::dumpable_behavior() {
        Ok(DumpableBehavior::NotDumpable) => Ok("other processes of this user may not trace it".to_owned()),
        Ok(_) => Err(join("others may trace it".to_owned(), &problems.dumpable)),
        Err(e) => Err(e.to_string()),
    };
    level.note("not-dumpable", dumpable);
    count
}

fn say(what: &str) -> impl Fn(rustix::io::Errno) -> String + use<'_> {
    move |e| format!("{what}: {}", io::Error::from(e))
}

fn join(found: String, problem: &Option<String>) -> String {
    match problem {
        Some(problem) => format!("{found}: {problem}"),
        None => found,
    }
}

fn act(user: Option<(u32, u32)>) -> Problems {
    let no_new_privileges = rustix::thread::set_no_new_privs(true).map_err(say("prctl")).err();
    let none = Rlimit { current: Some(0), maximum: Some(0) };
    let core = rustix::process::setrlimit(Resource::Core, none).map_err(say("setrlimit")).err();
    let bounding = empty_bounding_set().map_err(say("prctl")).err();
    // What stays in the ambient set is seen below: it is a subset of the permitted one.
    let _ = rustix::thread::clear_ambient_capability_set();
    let (mut groups, mut own) = (None, None);
    if let Some((uid, gid)) = user {
        let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
        let cleared = rustix::thread::set_thread_groups(&[]).map_err(say("setgroups"));
        let group = rustix::thread::set_thread_res_gid(gid, gid, gid).map_err(say("setresgid"));
        groups = cleared.and(group).err();
        own = rustix::thread::set_thread_res_uid(uid, uid, uid).map_err(say("setresuid")).err();
    }
    let none = CapabilitySet::empty();
    let none = CapabilitySets { effective: none, permitted: none, inheritable: none };
    let capabilities = rustix::thread::set_capabilities(None, none).map_err(say("capset")).err();
    let dumpable =
        rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable).map_err(say("prctl")).err();
    Problems { no_new_privileges, core, bounding, groups, user: own, capabilities, dumpable }
}

/// Takes every capability out; the first refusal is told, the others are tried all the same.
fn empty_bounding_set() -> rustix::io::Result<()> {
    let mut result = Ok(());
    for bit in 0..CAPABILITIES {
        let capability = CapabilitySet::from_bits_retain(1 << bit);
        match rustix::thread::capability_is_in_bounding_set(capability) {
            Ok(true) => {
                let removed = rustix::thread::remove_capability_from_bounding_set(capability);
                result = result.and(removed);
            }
            Ok(false) => {}
            Err(_) => break,
        }
    }
    result
}

fn empty(set: u64) -> Result<String, String> {
    if set == 0 { Ok("empty".to_owned()) } else { Err(format!("{set:#x} are left")) }
}

/// What the kernel says about a thread.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Status {
    /// Real, effective, saved, file system.
    uids: Vec<u32>,
    gids: Vec<u32>,
    groups: Vec<u32>,
    /// Effective, permitted, inheritable and ambient, together.
    capabilities: u64,
    bounding: u64,
    no_new_privileges: bool,
}

impl Status {
    /// Reads the text of a `status` file; what it must say and does not makes it no status.
    fn parse(text: &str) -> Option<Self> {
        let field =
            |name: &str| text.lines().find_map(|l| l.strip_prefix(name)?.strip_prefix(':')).map(str::trim);
        let ids =
            |name| field(name)?.split_whitespace().map(|w| w.parse().ok()).collect::<Option<Vec<u32>>>();
        let set = |name| u64::from_str_radix(field(name)?, 16).ok();
        let status = Self {
            uids: ids("Uid")?,
            gids: ids("Gid")?,
            groups: ids("Groups")?,
            // A kernel before 4.3 has no ambient set.
            capabilities: set("CapEff")? | set("CapPrm")? | set("CapInh")? | set("CapAmb").unwrap_or(0),
            bounding: set("CapBnd")?,
            no_new_privileges: field("NoNewPrivs")? == "1",
        };
        (status.uids.len() == 4 && status.gids.len() == 4).then_some(status)
    }

    fn check_user(&self, wanted: Option<(u32, u32)>) -> Result<String, String> {
        let is = self.uids.first().copied().unwrap_or(0);
        let mixed = self.uids.iter().any(|uid| *uid != is);
        match wanted {
            _ if mixed => Err(format!("it is {:?} at once", self.uids)),
            Some((uid, _)) if uid != is => Err(format!("it is user {is}, not {uid}")),
            _ if is == 0 => Err("it is user 0".to_owned()),
            _ => Ok(format!("user {is}")),
        }
    }

    fn check_groups(&self, wanted: Option<(u32, u32)>) -> Result<String, String> {
        let is = self.gids.first().copied().unwrap_or(0);
        let mixed = self.gids.iter().any(|gid| *gid != is);
        let more: Vec<u32> = self.groups.iter().copied().filter(|group| *group != is).collect();
        match wanted {
            _ if mixed => Err(format!("it is in groups {:?} at once", self.gids)),
            Some((_, gid)) if gid != is => Err(format!("it is in group {is}, not {gid}")),
            _ if !more.is_empty() => Err(format!("it is in groups {more:?} besides {is}")),
            _ if is == 0 => Err("it is in group 0".to_owned()),
            _ => Ok(format!("group {is} only")),
        }
    }
}

/// Every thread of this process.
fn threads() -> io::Result<Vec<Status>> {
    let mut threads = Vec::new();
    for entry in fs::read_dir("/proc/self/task")? {
        let text = match fs::read_to_string(entry?.path().join("status")) {
            // It has ended meanwhile.
            Err(e) if matches!(e.raw_os_error(), Some(libc::ENOENT | libc::ESRCH)) => continue,
            other => other?,
        };
        threads.push(Status::parse(&text).ok_or(io::ErrorKind::InvalidData)?);
    }
    Ok(threads)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "Name:\tswd\nUid:\t7\t7\t7\t7\nGid:\t8\t8\t8\t8\nGroups:\t8 \nThreads:\t1\n\
                        CapInh:\t0000000000000000\nCapPrm:\t0000000000000000\nCapEff:\t0000000000000000\n\
                        CapBnd:\t0000000000000000\nCapAmb:\t0000000000000000\nNoNewPrivs:\t1\n";

    #[test]
    fn the_kernels_account_is_read() {
        let status = Status::parse(TEXT).unwrap();
        assert!(status.no_new_privileges);
        assert_eq!((status.capabilities, status.bounding), (0, 0));
        assert!(status.check_user(Some((7, 8))).is_ok() && status.check_user(None).is_ok());
        assert!(status.check_groups(Some((7, 8))).is_ok() && status.check_groups(None).is_ok());
        assert!(!threads().unwrap().is_empty());
    }

    /// Each line of it can betray what is left.
    #[test]
    fn what_is_left_is_told() {
        let with = |from: &str, to: &str| {
            assert!(TEXT.contains(from));
            Status::parse(&TEXT.replacen(from, to, 1)).unwrap()
        };
        for set in ["CapInh", "CapPrm", "CapEff", "CapAmb"] {
            let left = with(&format!("{set}:\t0000000000000000"), &format!("{set}:\t0000000000001000"));
            assert_eq!(empty(left.capabilities), Err("0x1000 are left".to_owned()), "{set}");
        }
        assert_eq!(with("CapBnd:\t0", "CapBnd:\t1").bounding, 1 << 60);
        assert!(!with("NoNewPrivs:\t1", "NoNewPrivs:\t0").no_new_privileges);
        for uids in ["7\t7\t0\t7", "0\t0\t0\t0", "9\t9\t9\t9"] {
            let status = with("Uid:\t7\t7\t7\t7", &format!("Uid:\t{uids}"));
            assert!(status.check_user(Some((7, 8))).is_err(), "{uids}");
        }
        assert!(with("Uid:\t7\t7\t7\t7", "Uid:\t0\t0\t0\t0").check_user(None).is_err());
        assert!(with("Groups:\t8 ", "Groups:\t8 27 ").check_groups(Some((7, 8))).is_err());
        assert!(with("Gid:\t8\t8", "Gid:\t8\t0").check_groups(Some((7, 8))).is_err());
        for missing in ["Uid", "Gid", "Groups", "CapEff", "CapBnd", "NoNewPrivs"] {
            assert_eq!(Status::parse(&TEXT.replacen(missing, "Other", 1)), None, "{missing}");
        }
    }
}
