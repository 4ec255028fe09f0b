//! An endless loop in one thread of a process that was written without one: the thread is stopped by the debugger's
//! interface, and goes on at an instruction that jumps to itself. The instruction is put where the program began, which no
//! thread comes to again.

use std::ffi::c_long;
use std::path::Path;

use lab::{Context, Error, Result};
use nix::sys::ptrace;
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::Pid;

/// In `linux/auxvec.h`: where a program begins.
const AT_ENTRY: usize = 9;
/// One instruction that jumps to itself, and how many bits of a word it takes.
#[cfg(target_arch = "x86_64")]
const LOOP: (c_long, u32) = (0xfeeb, 16);
#[cfg(target_arch = "aarch64")]
const LOOP: (c_long, u32) = (0x1400_0000, 32);

/// A thread of a process by its name.
fn thread(pid: u32, name: &str) -> Result<Pid> {
    for entry in std::fs::read_dir(format!("/proc/{pid}/task")).context(pid)? {
        let path = entry?.path();
        if std::fs::read_to_string(path.join("comm")).is_ok_and(|comm| comm.trim_end() == name) {
            let id = path.file_name().and_then(|id| id.to_str()?.parse().ok());
            return Ok(Pid::from_raw(id.ok_or("no thread id")?));
        }
    }
    Err(Error::failed(format!("process {pid} has no thread {name}")))
}

fn entry(pid: u32) -> Result<usize> {
    let auxv = std::fs::read(Path::new("/proc").join(pid.to_string()).join("auxv")).context(pid)?;
    let words =
        auxv.chunks_exact(size_of::<usize>()).filter_map(|w| w.try_into().ok().map(usize::from_ne_bytes));
    let words: Vec<usize> = words.collect();
    let pair = words.chunks_exact(2).find(|pair| pair[0] == AT_ENTRY);
    pair.map(|pair| pair[1]).ok_or_else(|| Error::failed(format!("process {pid} began nowhere")))
}

/// From now on the thread does nothing but turn round; the others go on.
pub fn spin(pid: u32, name: &str) -> Result<()> {
    let (thread, entry) = (thread(pid, name)?, entry(pid)?);
    let attach = || -> nix::Result<()> {
        ptrace::attach(thread)?;
        waitpid(thread, Some(WaitPidFlag::__WALL))?;
        let word = ptrace::read(thread, entry as ptrace::AddressType)?;
        let mask = (1 << LOOP.1) - 1;
        ptrace::write(thread, entry as ptrace::AddressType, word & !mask | LOOP.0)?;
        go_on_at(thread, entry as u64)?;
        ptrace::detach(thread, None)
    };
    attach().map_err(|e| Error::failed(format!("thread {name} of process {pid}: {e}")))
}

#[cfg(target_arch = "x86_64")]
fn go_on_at(thread: Pid, address: u64) -> nix::Result<()> {
    let mut registers = ptrace::getregs(thread)?;
    registers.rip = address;
    // It was in no system call that would be made again.
    registers.orig_rax = u64::MAX;
    ptrace::setregs(thread, registers)
}

#[cfg(target_arch = "aarch64")]
fn go_on_at(thread: Pid, address: u64) -> nix::Result<()> {
    use ptrace::regset::NT_PRSTATUS;
    let mut registers = ptrace::getregset::<NT_PRSTATUS>(thread)?;
    registers.pc = address;
    ptrace::setregset::<NT_PRSTATUS>(thread, registers)
}
