//! Memory runs out: the switch process dies of it, as of any other crash, and not the monitor. What was acknowledged is
//! there again, and what was not is as if it had not been asked for.

use serde_json::json;

use crate::common::note;
use crate::node::{Scarce, heals};
use crate::process::{SOON, kill_switch, runs, switch_process};
use lab::conserve::check;
use lab::{Context, Error, Node, Result, ensure, wait};
use rustix::process::{Pid, Resource, Rlimit, getrlimit, prlimit};

/// What the process may take beyond what it has, in bytes: enough to begin and to talk to clients.
const LEFT: u64 = 1 << 20;
/// Routes of a document that takes more.
const ROUTES: u32 = 20_000;
/// As many documents as may be necessary.
const DOCUMENTS: u32 = 20;

/// Address space of a process in bytes.
fn size(pid: u32) -> Result<u64> {
    let path = format!("/proc/{pid}/status");
    let text = std::fs::read_to_string(&path).context(&path)?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmSize:"));
    let kib = line.and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok());
    Ok(kib.ok_or_else(|| Error::failed(format!("no VmSize in {path}")))? << 10)
}

fn limit(pid: u32, bytes: Option<u64>) -> Result<()> {
    let process = i32::try_from(pid).ok().and_then(Pid::from_raw).ok_or("no process id")?;
    // What it may be raised to stays what it is, for everybody here.
    let Rlimit { maximum, .. } = getrlimit(Resource::As);
    let current = bytes.or(maximum);
    prlimit(Some(process), Resource::As, Rlimit { current, maximum }).context("prlimit")?;
    Ok(())
}

fn oom_score(pid: u32) -> Result<i32> {
    let path = format!("/proc/{pid}/oom_score_adj");
    let text = std::fs::read_to_string(&path).context(&path)?;
    text.trim().parse().map_err(|e| Error::failed(format!("{path}: {e}")))
}

fn routes(node: &Node) -> Result<usize> {
    let reply = node.swctl(&["export"])?;
    Ok(reply["routes"].as_array().map_or(0, Vec::len))
}

/// A document with routes of its own.
fn document(node: &Node, number: u32) -> Result<String> {
    let routes = (0..ROUTES).map(|n| {
        let n = number * ROUTES + n;
        json!({ "network": "pods", "prefix": format!("11.{}.{}.{}/32", n >> 16, n >> 8 & 255, n & 255), "blackhole": true })
    });
    let path = node.dir().join("routes.json");
    let text = json!({ "version": 1, "routes": routes.collect::<Vec<_>>() }).to_string();
    std::fs::write(&path, text).context(path.display())?;
    Ok(path.display().to_string())
}

pub fn no_memory() -> Result<()> {
    let world = Scarce::build("memory", |_| Ok(()))?;
    let a = world.a()?;
    let (monitor, pid) = (a.swd_pid()?, switch_process(a)?);
    let scores = (oom_score(monitor)?, oom_score(pid)?);
    ensure!(scores.0 < scores.1, "monitor and switch process: {scores:?}");
    let stream = world.send()?;
    // The next switch process has the limit of its monitor.
    limit(monitor, Some(size(pid)? + LEFT))?;
    kill_switch(a)?;
    heals(a)?;
    let pid = switch_process(a)?;

    let mut acknowledged = 0;
    let mut failed = None;
    for number in 0..DOCUMENTS {
        let path = document(a, number)?;
        let output = a.swctl_output(&["apply", "-f", &path])?;
        if output.code != 0 {
            failed = Some(output);
            break;
        }
        acknowledged += ROUTES as usize;
    }
    let failed =
        failed.ok_or_else(|| Error::failed(format!("{acknowledged} routes fit into {LEFT} bytes")))?;
    wait::until("the process without memory is gone", SOON, || (!runs(pid)).then_some(()))?;
    heals(a)?;
    ensure!(a.swd_pid()? == monitor, "the monitor is another process");
    // Whoever asked is told that it may or may not have been done.
    let found = routes(a)?;
    ensure!(
        [acknowledged, acknowledged + ROUTES as usize].contains(&found),
        "{found} routes, {acknowledged} of them acknowledged"
    );
    for word in ["daemon", a.socket().to_string_lossy().as_ref()] {
        ensure!(
            failed.stderr.contains(word),
            "exit code {}, and no {word:?} in: {}",
            failed.code,
            failed.stderr
        );
    }
    // What was too much is not any more.
    limit(monitor, None)?;
    kill_switch(a)?;
    heals(a)?;
    let path = document(a, DOCUMENTS)?;
    a.swctl_text(&["apply", "-f", &path])?;
    stream.moves(100, SOON)?;
    let heard = stream.finish()?;
    note(format!(
        "memory: with {acknowledged} routes the switch process died, {found} are there; {} of {} datagrams lost; swctl said: {}",
        heard.lost(),
        heard.sent,
        failed.stderr.trim(),
    ));
    check(world.lab.nodes(), &[])
}
