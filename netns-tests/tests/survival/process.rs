//! The two processes of a daemon: finding the one that forwards, ending it, and what both of them hold.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::time::Duration;

pub use lab::swd::runs;
use lab::{Context, Error, Node, Ns, Result, ensure, wait};
use rustix::process::{Pid, Signal, kill_process};

/// For states that are reached in milliseconds on a machine with nothing else to do.
pub const SOON: Duration = Duration::from_secs(10);

/// The processes that the monitor has started and that run.
fn children(node: &Node) -> Result<Vec<u32>> {
    Ok(node.swd_pids()?.into_iter().skip(1).filter(|&pid| runs(pid)).collect())
}

/// The switch process of a node, as soon as there is one; never the monitor.
pub fn switch_process(node: &Node) -> Result<u32> {
    wait::until_ok(&format!("a switch process on {}", node.name()), SOON, || {
        children(node)?.first().copied().ok_or_else(|| Error::failed("the monitor has no child"))
    })
}

/// As [`switch_process`], another one than `pid`.
pub fn next_process(node: &Node, pid: u32) -> Result<u32> {
    wait::until_ok(&format!("another switch process on {}", node.name()), SOON, || {
        let others = children(node)?.into_iter().find(|&other| other != pid);
        others.ok_or_else(|| Error::failed(format!("no process but {pid}")))
    })
}

/// Sends a signal to a process of a daemon.
pub fn send(pid: u32, signal: Signal) -> Result<()> {
    let process = i32::try_from(pid).ok().and_then(Pid::from_raw).ok_or("no process id")?;
    kill_process(process, signal).context(format!("signal {signal:?} to process {pid}"))
}

/// Kills the switch process of a node and waits until it is no more. Gives what it was.
pub fn kill_switch(node: &Node) -> Result<u32> {
    let pid = switch_process(node)?;
    send(pid, Signal::KILL)?;
    wait::until(&format!("process {pid} is gone"), SOON, || (!runs(pid)).then_some(()))?;
    Ok(pid)
}

/// All is well: exit code 0 of `swctl status`.
pub fn healthy(node: &Node) -> Result<()> {
    wait::until_ok(&format!("{} is healthy", node.name()), SOON, || {
        let output = node.swctl_output(&["status"])?;
        if output.code == 0 { Ok(()) } else { Err(Error::failed(output.stdout + &output.stderr)) }
    })
}

/// Sockets to peers are opened when there is something to send, one for each class of traffic: so many more or fewer of
/// them are no leak of restarts, which would be more.
const CLASSES: usize = 8;

/// The allocator and the threads that come and go keep a little, in KiB. What grows with each restart is more.
const GROWTH: u64 = 4096;

/// What a daemon holds. Nothing of it may grow with the number of restarts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Held {
    /// Open files of both processes by what they are.
    files: BTreeMap<String, usize>,
    /// Sockets of the switch process.
    sockets: usize,
    /// Threads of the monitor.
    threads: usize,
    /// Memory of the monitor in KiB.
    resident: u64,
    /// Switch processes.
    processes: usize,
    /// Devices of the node.
    devices: Vec<String>,
}

impl Held {
    /// As soon as the monitor does not happen to look at a pod: two looks that are the same, without a namespace.
    pub fn by(node: &Node) -> Result<Self> {
        let mut last = Self::now(node)?;
        wait::until_ok(&format!("the monitor of {} looks at no pod", node.name()), SOON, || {
            let before = std::mem::replace(&mut last, Self::now(node)?);
            let looks = last.files.keys().any(|kind| kind.contains("/netns/"));
            ensure!(before.files == last.files && !looks, "{before:?}, then {last:?}");
            Ok(last.clone())
        })
    }

    fn now(node: &Node) -> Result<Self> {
        let (mut files, mut sockets) = (BTreeMap::new(), 0);
        for (role, pid) in node.swd_pids()?.into_iter().enumerate() {
            let dir = format!("/proc/{pid}/fd");
            for entry in std::fs::read_dir(&dir).context(&dir)? {
                // One that is closed while we look is not open.
                let Ok(target) = std::fs::read_link(entry?.path()) else { continue };
                let target = target.to_string_lossy().into_owned();
                // Sockets and pipes have numbers.
                match (role, target.split(":[").next().unwrap_or(&target)) {
                    (0, kind) => *files.entry(format!("monitor: {kind}")).or_default() += 1,
                    (_, "socket") => sockets += 1,
                    (_, kind) => *files.entry(format!("switch: {kind}")).or_default() += 1,
                }
            }
        }
        let threads = format!("/proc/{}/task", node.swd_pid()?);
        let threads = std::fs::read_dir(&threads).context(&threads)?.count();
        let resident = resident(node.swd_pid()?)?;
        let links = node.ns().ip_json(&["link", "show"])?;
        let devices = links.as_array().into_iter().flatten().map(|link| link["ifname"].to_string()).collect();
        Ok(Self { files, sockets, threads, resident, processes: children(node)?.len(), devices })
    }

    /// Waits until a daemon holds this again: clients hang up and devices are closed in their own time.
    pub fn again_by(&self, node: &Node) -> Result<()> {
        wait::until_ok(&format!("{} holds what it held", node.name()), SOON, || {
            let now = Self::now(node)?;
            let Self { sockets, threads, resident, .. } = *self;
            let rest = Self { sockets, threads, resident, ..now.clone() };
            let grown = now.sockets > sockets + CLASSES
                || now.threads > threads + 1
                || now.resident > resident + GROWTH;
            ensure!(rest == *self && !grown, "before {self:?}, now {now:?}");
            Ok(())
        })
    }

    /// Switch processes.
    pub fn processes(&self) -> usize {
        self.processes
    }
}

/// Memory of a process in KiB.
fn resident(pid: u32) -> Result<u64> {
    let path = format!("/proc/{pid}/status");
    let text = std::fs::read_to_string(&path).context(&path)?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let number = line.and_then(|rest| rest.split_whitespace().next()?.parse().ok());
    number.ok_or_else(|| Error::failed(format!("no VmRSS in {path}")))
}

/// The device of a pod: it is the same one as long as its index is, and had carrier all the time if the kernel has
/// counted no change.
pub fn device(ns: &Ns) -> Result<(u64, u64)> {
    let links = ns.ip_json(&["-s", "-s", "link", "show", "dev", "eth0"])?;
    let index = links[0]["ifindex"].as_u64().ok_or("no index of eth0")?;
    let changes =
        links[0]["stats64"]["tx"]["carrier_changes"].as_u64().ok_or("no carrier changes of eth0")?;
    Ok((index, changes))
}

/// Connections that TCP of a namespace has reset or seen reset.
pub fn resets(ns: &Ns) -> Result<u64> {
    let text = ns.run_in(|| std::fs::read_to_string("/proc/thread-self/net/snmp"))??;
    let mut lines = text.lines().filter(|l| l.starts_with("Tcp:"));
    let (names, values) = (lines.next().unwrap_or_default(), lines.next().unwrap_or_default());
    let pairs = names.split_whitespace().zip(values.split_whitespace());
    let counts: Vec<u64> = pairs
        .filter(|(name, _)| ["EstabResets", "OutRsts"].contains(name))
        .filter_map(|(_, value)| value.parse().ok())
        .collect();
    ensure!(counts.len() == 2, "no counts of resets in {}: {text}", ns.name());
    Ok(counts.iter().sum())
}

/// The log of a daemon has nothing in it that is worse than the end of a switch process. Gives how many of these.
pub fn read_log(node: &Node) -> Result<usize> {
    let text = std::fs::read_to_string(node.log()).context(node.log().display())?;
    let bad = text.lines().filter(|l| l.contains(" ERROR ") || l.contains("panicked"));
    let (ends, others): (Vec<&str>, Vec<&str>) = bad.partition(|l| l.contains("; starting another"));
    ensure!(others.is_empty(), "the log of {} has {others:?}", node.name());
    Ok(ends.len())
}

/// Where the slots of the memory file begin, and where the sequence number is in one (`control::memory_file`).
const SLOTS: [u64; 2] = [0, 28 + (64 << 20)];
const SEQUENCE: u64 = 16;

/// How often the memory file was written: the monitor holds it.
pub fn written(node: &Node) -> Result<u64> {
    let dir = format!("/proc/{}/fd", node.swd_pid()?);
    for entry in std::fs::read_dir(&dir).context(&dir)? {
        let path = entry?.path();
        let Ok(target) = std::fs::read_link(&path) else { continue };
        if !target.to_string_lossy().starts_with("/memfd:swd-memory") {
            continue;
        }
        let file = File::open(&path).context(path.display())?;
        let sequence = |slot: u64| {
            let mut bytes = [0; 8];
            file.read_exact_at(&mut bytes, slot + SEQUENCE).map_or(0, |()| u64::from_le_bytes(bytes))
        };
        return Ok(SLOTS.map(sequence).into_iter().max().unwrap_or(0));
    }
    Err(Error::failed(format!("no memory file in {dir}")))
}
