//! What a unit leaves of the system calls: filters as systemd installs them, from its own tables.

use std::collections::BTreeMap;

use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
    TargetArch, compile_from_json,
};

use super::Unit;
use crate::cmd::Cmd;
use crate::error::{Error, Result};

/// Re-created in this file.
pub const DIRECTIVES: &[&str] = &[
    "SystemCallFilter",
    "SystemCallErrorNumber",
    "SystemCallArchitectures",
    "RestrictNamespaces",
    "RestrictAddressFamilies",
    "RestrictSUIDSGID",
    "LockPersonality",
    "MemoryDenyWriteExecute",
];

/// Namespaces by the word of the unit. Network namespaces are what the daemon enters.
const NAMESPACES: [(&str, i32); 7] = [
    ("mnt", libc::CLONE_NEWNS),
    ("cgroup", libc::CLONE_NEWCGROUP),
    ("uts", libc::CLONE_NEWUTS),
    ("ipc", libc::CLONE_NEWIPC),
    ("user", libc::CLONE_NEWUSER),
    ("pid", libc::CLONE_NEWPID),
    ("net", libc::CLONE_NEWNET),
];

type Rules = BTreeMap<i64, Vec<SeccompRule>>;

fn failed(e: impl std::fmt::Display) -> Error {
    Error::failed(format!("system calls: {e}"))
}

fn arch() -> Result<TargetArch> {
    std::env::consts::ARCH.try_into().map_err(failed)
}

/// The filters, to be applied in this order. All of them refuse the calls of other architectures.
pub fn filters(unit: &Unit) -> Result<Vec<BpfProgram>> {
    if !unit.is("SystemCallErrorNumber", "EPERM") || !unit.is("SystemCallArchitectures", "native") {
        return Err(Error::failed("system calls: only EPERM and native are known here"));
    }
    let refuse = |rules: Rules, errno: i32| -> Result<BpfProgram> {
        let action = SeccompAction::Errno(errno as u32);
        let filter = SeccompFilter::new(rules, SeccompAction::Allow, action, arch()?).map_err(failed)?;
        BpfProgram::try_from(filter).map_err(failed)
    };
    Ok(vec![
        refuse(refused(unit)?, libc::EPERM)?,
        refuse(families(unit)?, libc::EAFNOSUPPORT)?,
        // Its flags are in memory, where a filter cannot look.
        refuse(Rules::from([(libc::SYS_clone3, Vec::new())]), libc::ENOSYS)?,
        allowed(unit)?,
    ])
}

fn condition(argument: u8, op: SeccompCmpOp, value: u64) -> Result<SeccompCondition> {
    SeccompCondition::new(argument, SeccompCmpArgLen::Dword, op, value).map_err(failed)
}

/// All of these bits are set.
fn bits(argument: u8, bits: i32) -> Result<SeccompRule> {
    let bits = u64::from(bits as u32);
    SeccompRule::new(vec![condition(argument, SeccompCmpOp::MaskedEq(bits), bits)?]).map_err(failed)
}

fn refused(unit: &Unit) -> Result<Rules> {
    let mut rules = Rules::new();
    let mut add = |call: i64, rule: SeccompRule| rules.entry(call).or_default().push(rule);
    let kept = unit.words("RestrictNamespaces");
    for (_, flag) in NAMESPACES.iter().filter(|(word, _)| !kept.contains(word)) {
        add(libc::SYS_unshare, bits(0, *flag)?);
        add(libc::SYS_clone, bits(0, *flag)?);
        add(libc::SYS_setns, bits(1, *flag)?);
    }
    // Whatever namespace it is.
    add(libc::SYS_setns, SeccompRule::new(vec![condition(1, SeccompCmpOp::Eq, 0)?]).map_err(failed)?);
    if unit.on("MemoryDenyWriteExecute") {
        add(libc::SYS_mmap, bits(2, libc::PROT_WRITE | libc::PROT_EXEC)?);
        add(libc::SYS_mprotect, bits(2, libc::PROT_EXEC)?);
        add(libc::SYS_pkey_mprotect, bits(2, libc::PROT_EXEC)?);
        add(libc::SYS_shmat, bits(2, libc::SHM_EXEC)?);
    }
    if unit.on("RestrictSUIDSGID") {
        for bit in [libc::S_ISUID, libc::S_ISGID] {
            add(libc::SYS_fchmod, bits(1, bit as i32)?);
            add(libc::SYS_fchmodat, bits(2, bit as i32)?);
            add(libc::SYS_mkdirat, bits(2, bit as i32)?);
        }
    }
    if unit.on("LockPersonality") {
        let other = SeccompRule::new(vec![condition(0, SeccompCmpOp::Ne, 0)?]).map_err(failed)?;
        add(libc::SYS_personality, other);
    }
    Ok(rules)
}

fn families(unit: &Unit) -> Result<Rules> {
    let mut none = Vec::new();
    for word in unit.words("RestrictAddressFamilies") {
        let family = match word {
            "AF_UNIX" => libc::AF_UNIX,
            "AF_INET" => libc::AF_INET,
            "AF_INET6" => libc::AF_INET6,
            "AF_NETLINK" => libc::AF_NETLINK,
            other => return Err(Error::failed(format!("RestrictAddressFamilies={other}"))),
        };
        none.push(condition(0, SeccompCmpOp::Ne, family as u64)?);
    }
    Ok(Rules::from([(libc::SYS_socket, vec![SeccompRule::new(none).map_err(failed)?])]))
}

/// The allow-list of `SystemCallFilter=`: lines add, those that begin with a tilde take away.
fn allowed(unit: &Unit) -> Result<BpfProgram> {
    let table = Table(Cmd::new("systemd-analyze").args(["--no-pager", "syscall-filter"]).run()?);
    let mut names: Vec<String> = Vec::new();
    table.expand("@default", &mut names);
    for line in unit.all("SystemCallFilter") {
        let mut these = Vec::new();
        line.trim_start_matches('~').split_whitespace().for_each(|word| table.expand(word, &mut these));
        if line.starts_with('~') {
            names.retain(|name| !these.contains(name));
        } else {
            names.extend(these);
        }
    }
    names.sort();
    names.dedup();
    // Tables have names of all architectures.
    let here: Vec<&String> = names.iter().filter(|name| program(&[name]).is_ok()).collect();
    crate::ensure!(here.len() > 100, "of {} system calls only {} are known", names.len(), here.len());
    program(&here)
}

fn program<S: AsRef<str>>(names: &[S]) -> Result<BpfProgram> {
    let filter: Vec<_> = names.iter().map(|name| serde_json::json!({ "syscall": name.as_ref() })).collect();
    let json = serde_json::json!({
        "main": { "mismatch_action": { "errno": libc::EPERM }, "match_action": "allow", "filter": filter }
    });
    let mut programs = compile_from_json(json.to_string().as_bytes(), arch()?).map_err(failed)?;
    programs.remove("main").ok_or_else(|| failed("nothing came of it"))
}

/// What `systemd-analyze syscall-filter` prints: names of groups, and indented what is in them.
struct Table(String);

impl Table {
    fn expand(&self, word: &str, names: &mut Vec<String>) {
        if !word.starts_with('@') {
            return names.push(word.to_owned());
        }
        let group = self.0.lines().skip_while(|line| *line != word).skip(1);
        for member in group.take_while(|line| line.starts_with(' ')).map(str::trim) {
            if !member.starts_with('#') {
                self.expand(member, names);
            }
        }
    }
}
