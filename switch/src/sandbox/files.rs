//! Landlock: no files but those of the plan, no TCP, no signals and no abstract sockets of others.
//!
//! It decides when something is opened. Descriptors that the process has already, or is given later, keep the rights
//! they were opened with: TAPs and sockets of the parent work on. A rule follows the directory itself, not its name;
//! a directory that is removed and made again is outside.

use std::path::Path;

use landlock::{
    ABI, Access as _, AccessFs, AccessNet, BitFlags, LandlockStatus, PathBeneath, PathFd, Ruleset,
    RulesetAttr as _, RulesetCreatedAttr as _, RulesetError, RulesetStatus, Scope,
};

use super::Plan;

/// Linux 6.12: files, device ioctls, TCP, scopes. The newest that this was tested with; older kernels do what they can.
const LEVEL: ABI = ABI::V6;

/// Confines this thread and those it will start; `threads` is how many there are already.
pub(super) fn confine(plan: &Plan, threads: usize) -> Result<String, String> {
    let mut missing = Vec::new();
    let status = restrict(plan, &mut missing).map_err(|e| e.to_string())?;
    match (status.ruleset, status.landlock) {
        _ if threads != 1 => Err(format!("it applies to one of {threads} threads")),
        (RulesetStatus::FullyEnforced, _) if missing.is_empty() => {
            Ok(format!("{} paths to write, {} to read", plan.writable.len(), plan.readable.len()))
        }
        (RulesetStatus::FullyEnforced, _) => Ok(format!("closed as well: {}", missing.join("; "))),
        (RulesetStatus::PartiallyEnforced, LandlockStatus::Available { effective_abi, .. }) => {
            Err(format!("in part: this kernel has ABI {} of {}", effective_abi as i32, LEVEL as i32))
        }
        (RulesetStatus::PartiallyEnforced, _) => Err("in part".to_owned()),
        (RulesetStatus::NotEnforced, LandlockStatus::NotEnabled) => {
            Err("this kernel was started without it (lsm=landlock,...)".to_owned())
        }
        (RulesetStatus::NotEnforced, _) => Err("this kernel has none".to_owned()),
    }
}

fn restrict(plan: &Plan, missing: &mut Vec<String>) -> Result<landlock::RestrictionStatus, RulesetError> {
    let read = AccessFs::ReadFile | AccessFs::ReadDir;
    let write = read
        | AccessFs::WriteFile
        | AccessFs::Truncate
        | AccessFs::RemoveFile
        | AccessFs::RemoveDir
        | AccessFs::MakeReg
        | AccessFs::MakeDir
        | AccessFs::MakeSock;
    let mut rules = Ruleset::default()
        .handle_access(AccessFs::from_all(LEVEL))?
        .handle_access(AccessNet::from_all(LEVEL))?
        .scope(Scope::from_all(LEVEL))?
        .create()?;
    for (paths, access) in [(&plan.writable, write), (&plan.readable, read)] {
        for path in paths {
            match PathFd::new(path) {
                Ok(fd) => rules = rules.add_rule(PathBeneath::new(fd, fitting(path, access)))?,
                // What cannot be opened now stays closed.
                Err(e) => missing.push(e.to_string()),
            }
        }
    }
    rules.restrict_self()
}

/// Of these rights, those that what is at `path` can have.
fn fitting(path: &Path, access: BitFlags<AccessFs>) -> BitFlags<AccessFs> {
    if path.is_dir() { access } else { access & AccessFs::from_file(LEVEL) }
}
