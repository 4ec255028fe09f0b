//! The control cases: each runtime with the stock `bridge` plugin, on a machine where nothing is ours.
//!
//! A failure here is the machine's (its cgroups, its kernel, its packages), and says at which step; with that,
//! a failure of the other tests is ours.

use std::net::IpAddr;
use std::path::{Path, PathBuf};

use lab::runtimes::containerd::Containerd;
use lab::runtimes::cri::PodSpec;
use lab::runtimes::podman::Podman;
use lab::runtimes::{conf, machine::Machine};
use lab::{Context, Error, Lab, Result, ensure, wait};

use crate::support::{Runtime, SOON};

/// The stage on which all of this plays: what runs and is written on a machine stays there, and goes with it.
pub fn a_machine_leaves_nothing() -> Result<()> {
    let lab = Lab::new("machine").node("a").build()?;
    let machine = lab.node("a")?.boot()?;
    let marks = ["/etc/swd-lab-mark", "/opt/swd-lab-mark", "/var/lib/swd-lab-mark", "/run/swd-lab-mark"];
    machine.cmd("touch").args(marks).run()?;
    for mark in marks {
        ensure!(!Path::new(mark).exists(), "{mark} was written to the machine the tests run on");
    }
    machine.cmd("ls").args(marks).run().context("what was written on the machine is not there")?;
    let groups = machine.cmd("cat").arg("/proc/self/cgroup").run()?;
    ensure!(groups.lines().all(|l| l.ends_with(":/init")), "not in the machine's cgroups: {groups}");
    // A process that nobody waits for, as conmon and the shims of containerd are.
    let nap = "86399";
    let setsid = machine.cmd("setsid").args(["--fork", "sleep", nap]);
    setsid.daemon("setsid", &lab.dir().join("nap.log"))?.wait(SOON)?;
    let seen = wait::until("the process runs", SOON, || find_process(nap))?;
    ensure!(machine.processes()?.iter().any(|p| p.contains(nap)), "{:?}", machine.processes()?);
    let groups = std::fs::read_to_string(format!("/proc/{seen}/cgroup"))?;
    let group = groups.lines().find_map(|l| l.rsplit('/').nth(1)).unwrap_or_default().to_owned();
    ensure!(group.starts_with("swd-lab-"), "no group of its own: {groups}");
    drop(lab);
    ensure!(find_process(nap).is_none(), "a process outlived its machine");
    let mut left = Vec::new();
    find_dirs(Path::new("/sys/fs/cgroup"), &group, &mut left)?;
    ensure!(left.is_empty(), "cgroups outlived their machine: {left:?}");
    Ok(())
}

/// The process id of the `sleep` with this argument, in the eyes of the test.
fn find_process(argument: &str) -> Option<u32> {
    let entries = std::fs::read_dir("/proc").ok()?.flatten();
    let pids = entries.filter_map(|e| e.file_name().to_str()?.parse::<u32>().ok());
    pids.into_iter().find(|pid| {
        let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        String::from_utf8_lossy(&line) == format!("sleep\0{argument}\0")
    })
}

/// Directories of a name, at most one below the top of each hierarchy.
fn find_dirs(top: &Path, name: &str, found: &mut Vec<PathBuf>) -> Result<()> {
    for entry in std::fs::read_dir(top)? {
        for path in [entry?.path()].into_iter().flat_map(|dir| [dir.join(name), dir]) {
            if path.is_dir() && path.file_name().is_some_and(|n| n == name) {
                found.push(path);
            }
        }
    }
    Ok(())
}

pub fn podman_runs_with_stock_plugins() -> Result<()> {
    Runtime::Podman.need()
}

pub fn containerd_runs_with_stock_plugins() -> Result<()> {
    Runtime::Containerd.need()
}

fn stock(name: &str) -> Result<Lab> {
    let lab = Lab::new(name).node("a").build()?;
    let machine = lab.node("a")?.boot().context("step 1, make a machine")?;
    conf::put(machine, "10-stock.conflist", &conf::stock_bridge("stock", "10.55.0.0/24"))?;
    Ok(lab)
}

/// podman: two containers, one asks the other.
pub fn podman() -> Result<()> {
    let lab = stock("stock-podman")?;
    let machine = lab.node("a")?.machine()?;
    let podman = Podman::new(machine).context("step 2, podman loads an image")?;
    podman.start("one", &["--network", "stock"], &["serve", "hello"]).context("step 3, run a container")?;
    podman.start("two", &["--network", "stock"], &["hold"]).context("step 3, run a container")?;
    let inspected = podman.inspect("one")?;
    let ip = inspected["NetworkSettings"]["Networks"]["stock"]["IPAddress"].as_str().unwrap_or_default();
    let ask = || podman.exec("two", &["wget", "-q", "-O", "-", &format!("http://{ip}/")]);
    let said = wait::until_ok("a container reaches another", SOON, ask).context("step 4")?;
    ensure!(said == "hello\n", "step 4: {ip} said {said:?}");
    podman.remove_all().context("step 5, remove them")?;
    released(machine)
}

/// containerd: the same by CRI, and a container of `ctr`.
pub fn containerd() -> Result<()> {
    let lab = stock("stock-ctr")?;
    let machine = lab.node("a")?.machine()?;
    let containerd = Containerd::start(machine).context("step 2, start containerd and import an image")?;
    let shown = containerd.ctr_run("by-hand", &["ip", "addr"]).run().context("step 3, ctr run --cni")?;
    ensure!(shown.contains("inet 10.55.0."), "step 3: {shown}");
    let mut cri = containerd.cri().context("step 4, the CRI socket")?;
    let (ready, why) = cri.condition("NetworkReady")?;
    ensure!(ready, "step 4: NetworkReady is false: {why}");
    let one = cri.run_pod(&PodSpec::new("one"), &["serve", "hello"]).context("step 5, run a pod")?;
    let two = cri.run_pod(&PodSpec::new("two"), &["hold"]).context("step 5, run a pod")?;
    let ip: IpAddr = one.ips.first().copied().ok_or("step 5: the pod has no address")?;
    let ask = || {
        let done = cri.exec(&two.container, &["wget", "-q", "-O", "-", &format!("http://{ip}/")])?;
        if done.code == 0 { Ok(done.stdout) } else { Err(Error::failed(done.stderr)) }
    };
    let said = wait::until_ok("a pod reaches another", SOON, ask).context("step 6")?;
    ensure!(said == "hello\n", "step 6: {ip} said {said:?}");
    for pod in [one, two] {
        cri.stop(&pod.sandbox).context("step 7, stop a pod")?;
        cri.remove(&pod.sandbox).context("step 7, remove a pod")?;
    }
    released(machine)?;
    containerd.stop()
}

/// The stock plugin has all its addresses back, and no process is left but the runtime's own.
fn released(machine: &Machine) -> Result<()> {
    let dir = machine.cni_state_dir().join("networks/stock");
    let mut held = Vec::new();
    for entry in std::fs::read_dir(&dir).context(dir.display())? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        if name.parse::<IpAddr>().is_ok() {
            held.push(name);
        }
    }
    ensure!(held.is_empty(), "addresses are still held: {held:?}");
    wait::until_ok("all processes of containers have ended", SOON, || {
        let left: Vec<_> = machine.processes()?.into_iter().filter(|p| !p.contains("containerd")).collect();
        if left.is_empty() { Ok(()) } else { Err(Error::failed(left.join(", "))) }
    })
}
