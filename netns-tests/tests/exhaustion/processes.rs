//! Descriptors run out, in both processes of a daemon, and tasks cannot.

use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use crate::common::{note, run};
use crate::node::{Scarce, heals, nothing_lost, refused};
use crate::process::{SOON, kill_switch};
use lab::conserve::check;
use lab::{Context, Node, Result, ensure, wait};
use rustix::process::{Pid, Resource, Rlimit, prlimit};

/// Descriptors that each process may have.
const DESCRIPTORS: u64 = 64;
/// More ports than that leaves room for.
const PORTS: usize = 64;
/// Clients that connect and say nothing.
const IDLE: usize = 100;
/// For as long as that is looked at.
const LOOK: Duration = Duration::from_secs(2);

fn bound(pid: u32, resource: Resource, most: u64) -> Result<()> {
    let process = i32::try_from(pid).ok().and_then(Pid::from_raw).ok_or("no process id")?;
    let limit = Rlimit { current: Some(most), maximum: Some(most) };
    prlimit(Some(process), resource, limit).context("prlimit")?;
    Ok(())
}

pub fn no_descriptors() -> Result<()> {
    let world = Scarce::build("files", |_| Ok(()))?;
    let a = world.a()?;
    // The next switch process has the limit of its monitor.
    bound(a.swd_pid()?, Resource::Nofile, DESCRIPTORS)?;
    kill_switch(a)?;
    heals(a)?;
    let stream = world.send()?;
    let crowd = world.lab.pod("crowd")?;
    let add = |n: usize| {
        let netns = crowd.ns().path().display().to_string();
        format!("port add c{n} --network pods --netns {netns} --ifname e{n} --no-default-route")
    };
    let mut ports = 0;
    while a.swctl_output(&add(ports).split_whitespace().collect::<Vec<_>>())?.code == 0 {
        ports += 1;
        ensure!(ports < PORTS, "{ports} ports with {DESCRIPTORS} descriptors");
    }
    ensure!(ports > 0, "no port with {DESCRIPTORS} descriptors");
    refused(a, &add(ports), &["descriptors", "LimitNOFILE"])?;
    heals(a)?;
    run(a, "port del c0")?;
    run(a, &add(0))?;

    let quiet = a.busy(LOOK)?;
    let idle: Vec<_> = (0..IDLE).map(|_| UnixStream::connect(a.socket())).collect::<std::io::Result<_>>()?;
    let asked = Instant::now();
    heals(a)?;
    let answered = asked.elapsed();
    let crowded = a.busy(LOOK)?;
    // Not a claim about speed: one that asks the kernel over and over takes all there is.
    ensure!(
        crowded < quiet + 50.0,
        "{crowded:.1} % of a processor with {IDLE} idle clients, {quiet:.1} % before"
    );
    drop(idle);
    run(a, "network add more --vni 9")?;
    run(a, "network del more")?;
    nothing_lost(stream, "descriptors: none left for ports")?;

    // One that is started now has its ports all the same.
    kill_switch(a)?;
    heals(a)?;
    world.send()?.finish()?;
    let up = a.swctl(&["status"])?["ports_up"].as_u64();
    ensure!(up == Some(ports as u64 + 2), "{up:?} ports of {} came back", ports + 2);
    note(format!(
        "descriptors: {ports} ports with {DESCRIPTORS}, then a sentence; {IDLE} idle clients: status after {answered:.0?}, \
         {crowded:.1} % of a processor ({quiet:.1} % before)"
    ));
    check(world.lab.nodes(), &[])
}

/// Threads of both processes.
fn tasks(node: &Node) -> Result<Vec<usize>> {
    let count = |pid: u32| {
        let dir = format!("/proc/{pid}/task");
        Ok(std::fs::read_dir(&dir).context(dir)?.count())
    };
    node.swd_pids()?.into_iter().map(count).collect()
}

/// Nothing that is asked of a daemon takes another task, so that none can be missing.
pub fn no_more_tasks() -> Result<()> {
    let world = Scarce::build("tasks", |_| Ok(()))?;
    let a = world.a()?;
    let stream = world.send()?;
    let before = tasks(a)?;
    let clients: Vec<_> =
        (0..IDLE).map(|_| UnixStream::connect(a.socket())).collect::<std::io::Result<_>>()?;
    run(a, "network add more --vni 9")?;
    run(a, "network del more")?;
    let pod = world.lab.pod("late")?;
    a.add_port(&pod, "pods", &["10.1.1.9/24"])?;
    run(a, "port del late")?;
    heals(a)?;
    // A device is removed on a thread of its own, which ends when the kernel is done.
    wait::until_ok("no more threads than at first", SOON, || {
        let after = tasks(a)?;
        ensure!(
            after.iter().zip(&before).all(|(now, then)| now <= then),
            "{before:?} at first, {after:?} now"
        );
        Ok(())
    })?;
    drop(clients);
    nothing_lost(stream, "tasks: as many as at first")?;
    check(world.lab.nodes(), &[])
}
