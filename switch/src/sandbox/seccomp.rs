//! System-call filters, one per kind of thread: what is not on a thread's list ends the process (SIGSYS).
//!
//! A filter is installed by the thread itself when it has everything its work does not need again; it cannot be taken
//! off, and threads that it starts inherit it. The lists are in [`super::calls`]. Calls that are allowed whatever their
//! arguments cost next to nothing: the kernel remembers them in a bitmap (Linux 5.11 and later) and does not run the
//! filter. Those of the hot path are all of that kind.
//!
//! A few calls are made by the C library by itself and are harmless to refuse, such as a look into `/proc` before memory
//! is given back. They get an error instead of an end, from a second, smaller filter; the stricter answer wins.

use std::collections::BTreeMap;
use std::io;

use seccompiler::{
    BackendError, BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, TargetArch,
};

use super::calls::{self, Call, Check};

/// What a thread does, which decides what it may ask of the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ThreadKind {
    /// Reads and writes frames.
    Forwarding,
    /// Closes devices and frees tables.
    Reaper,
    /// Serves the API and writes the state; may start threads.
    Control,
}

impl ThreadKind {
    /// Every kind.
    pub const ALL: [Self; 3] = [Self::Forwarding, Self::Reaper, Self::Control];

    /// One word.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Forwarding => "forwarding",
            Self::Reaper => "reaper",
            Self::Control => "control",
        }
    }

    /// Number of system calls that are allowed, some of them only with certain arguments.
    #[must_use]
    pub fn calls(self) -> usize {
        rules(calls::allowed(self)).len()
    }
}

/// A thread goes on without its filter.
#[derive(Debug, thiserror::Error)]
pub enum SeccompError {
    /// There are lists for x86-64 and 64-bit ARM.
    #[error("not available on {}", std::env::consts::ARCH)]
    Architecture,
    /// A defect of the lists.
    #[error("the filter is wrong: {0}")]
    Compile(#[from] BackendError),
    /// The kernel did not take it.
    #[error("the kernel refused the filter: {0}")]
    Install(#[from] seccompiler::Error),
    /// Signals could not be kept away from the thread.
    #[error("signals cannot be blocked: {0}")]
    Signals(io::Error),
}

/// Puts the filter on the calling thread, and with it no-new-privileges. Threads that do not serve signals block them
/// too: a handler would make calls that are not on their list.
///
/// # Errors
/// See [`SeccompError`]; the thread may then have less than before, never more.
pub fn restrict(kind: ThreadKind) -> Result<(), SeccompError> {
    let arch = TargetArch::try_from(std::env::consts::ARCH).map_err(|_| SeccompError::Architecture)?;
    if !calls::SUPPORTED {
        return Err(SeccompError::Architecture);
    }
    let refused = calls::refused(kind);
    let known: Vec<Call> = calls::allowed(kind).chain(refused.calls.iter().copied()).collect();
    let allow = compile(known.into_iter(), SeccompAction::KillProcess, SeccompAction::Allow, arch)?;
    let refuse = compile(
        refused.calls.iter().copied(),
        SeccompAction::Allow,
        SeccompAction::Errno(refused.errno),
        arch,
    )?;
    if kind != ThreadKind::Control {
        block_signals().map_err(SeccompError::Signals)?;
    }
    seccompiler::apply_filter(&refuse)?;
    seccompiler::apply_filter(&allow)?;
    Ok(())
}

fn compile(
    list: impl Iterator<Item = Call>,
    otherwise: SeccompAction,
    matching: SeccompAction,
    arch: TargetArch,
) -> Result<BpfProgram, BackendError> {
    let mut compiled = BTreeMap::new();
    for (number, ways) in rules(list) {
        let mut any = Vec::new();
        for checks in ways {
            let conditions = checks.iter().map(condition).collect::<Result<_, _>>()?;
            any.push(SeccompRule::new(conditions)?);
        }
        compiled.insert(number, any);
    }
    SeccompFilter::new(compiled, otherwise, matching, arch)?.try_into()
}

/// The ways in which each call is allowed; none of them: in any way.
fn rules(list: impl Iterator<Item = Call>) -> BTreeMap<i64, Vec<&'static [Check]>> {
    let mut rules: BTreeMap<i64, Vec<&'static [Check]>> = BTreeMap::new();
    for call in list {
        rules.entry(call.number).or_default().extend(call.ways);
    }
    rules
}

/// The kernel reads these arguments as 32 bits wide; what is above them in the register does not count for either.
fn condition(check: &Check) -> Result<SeccompCondition, BackendError> {
    let (argument, operator, value) = match *check {
        Check::Is(argument, value) => (argument, SeccompCmpOp::Eq, value),
        Check::Bits { argument, mask, value } => (argument, SeccompCmpOp::MaskedEq(mask), value),
    };
    SeccompCondition::new(argument, SeccompCmpArgLen::Dword, operator, value)
}

/// Keeps every signal away from this thread but those that its own instructions raise.
fn block_signals() -> io::Result<()> {
    const OWN: [libc::c_int; 7] =
        [libc::SIGSEGV, libc::SIGBUS, libc::SIGFPE, libc::SIGILL, libc::SIGTRAP, libc::SIGSYS, libc::SIGABRT];
    let mut set = std::mem::MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: `sigfillset` initialises the set it is given room for, and cannot fail.
    let mut set = unsafe {
        libc::sigfillset(set.as_mut_ptr());
        set.assume_init()
    };
    for signal in OWN {
        // SAFETY: `set` is an initialised set and `signal` the number of a signal.
        unsafe { libc::sigdelset(&mut set, signal) };
    }
    // SAFETY: `set` is an initialised set that is only read, and the old mask is not asked for.
    match unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &set, std::ptr::null_mut()) } {
        0 => Ok(()),
        errno => Err(io::Error::from_raw_os_error(errno)),
    }
}

#[cfg(test)]
#[path = "seccomp_tests.rs"]
mod tests;
