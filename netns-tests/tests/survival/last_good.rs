//! A state with which the switch process ends over and over: after a few times the last one that held takes its place,
//! nothing is lost, and whoever looks is told.

use std::time::Duration;

use crate::common::{Mode, Setup, World, note, run};
use crate::process::{Held, SOON, device, healthy, kill_switch, next_process, resets, runs, send};
use crate::talk::Talk;
use lab::conserve::check;
use lab::probe::ping;
use lab::swd::generation;
use lab::{Context, Error, Node, Result, ensure, wait};
use rustix::process::Signal;
use serde_json::Value;

/// Lives of switch processes that make a crash loop.
const LIVES: usize = 5;
/// No crash loop of this test is longer.
const MOST: usize = 12;
const PAUSE: Duration = Duration::from_millis(20);

/// What the daemon says of itself, once there is one that answers.
fn status(node: &Node) -> Result<Value> {
    let output = node.swctl_output(&["-o", "json", "status"])?;
    serde_json::from_str(&output.stdout).context(output.stderr)
}

fn has(node: &Node, network: &str) -> Result<bool> {
    let shown = node.swctl(&["network", "show"])?;
    Ok(shown.as_array().into_iter().flatten().any(|n| n["name"] == network))
}

/// The generation in the header of a file of the state directory, if there is one.
fn generation_of(node: &Node, file: &str) -> Option<u64> {
    let text = std::fs::read_to_string(node.state_dir().join(file)).ok()?;
    text.split(' ').find_map(|word| word.strip_prefix("generation="))?.parse().ok()
}

/// Kills every switch process that runs with this network, as a defect would. Gives how many.
fn end_with(node: &Node, network: &str, most: usize) -> Result<usize> {
    for kills in 0..most {
        if !has(node, network)? {
            return Ok(kills);
        }
        kill_switch(node).context(format!("kill {kills}"))?;
    }
    Ok(most)
}

pub fn a_state_that_does_not_hold() -> Result<()> {
    let world = World::build(&Setup { swd: &["--good-after", "3"], ..Setup::new("good", Mode::Bridged) })?;
    let (a, near, far) = (world.a()?, &world.near, &world.far);
    ping(near.ns(), far.ip(false))?;
    let (held, before) = (Held::by(a)?, device(near.ns())?);
    let talk = Talk::start(near.ns(), far.ns(), far.ip(false), PAUSE, 1)?;
    let good = generation(&status(a)?).ok_or("no generation")?;
    wait::until("the state is proven", SOON * 2, || {
        (generation_of(a, "state.good") == Some(good)).then_some(())
    })?;

    run(a, "network add poison --vni 66")?;
    let poisoned = generation(&status(a)?).ok_or("no generation")?;
    let newer = std::fs::read(a.state_dir().join("state"))?;
    let kills = end_with(a, "poison", MOST)?;
    ensure!(kills == LIVES, "{kills} lives before the last-known-good state");

    talk.moves(3, SOON)?;
    let output = a.swctl_output(&["status"])?;
    ensure!(output.code == 6, "status ends with {}: {}", output.code, output.stdout);
    let kept = a.state_dir().join("state.suspect.0");
    let names = [
        format!("generation {poisoned}"),
        format!("generation {}", poisoned + 1),
        kept.display().to_string(),
    ];
    for word in &names {
        ensure!(output.stdout.contains(word), "no word of {word}: {}", output.stdout);
    }
    ensure!(generation(&status(a)?) == Some(poisoned + 1), "{}", output.stdout);
    ensure!(std::fs::read(&kept)? == newer, "{} is not the state that was in force", kept.display());
    let log = std::fs::read_to_string(a.log())?;
    ensure!(
        log.contains(&format!("the state of generation {good}, which held")),
        "the log does not tell of {good}"
    );

    // What the daemon says is to be done next.
    let document = a.dir().join("newer.json");
    let text = String::from_utf8(newer.clone()).map_err(|e| Error::failed(e.to_string()))?;
    std::fs::write(&document, text.split_once('\n').ok_or("no header")?.1)?;
    run(a, &format!("apply -f {}", document.display()))?;
    ensure!(has(a, "poison")?, "applied, and not there");

    // Nothing is proven since, so it is not done again, and what was kept stays.
    let again = end_with(a, "poison", MOST)?;
    ensure!(again == MOST, "fell back after {again} more");
    ensure!(!a.state_dir().join("state.suspect.1").exists(), "two states were put aside");
    ensure!(std::fs::read(&kept)? == newer, "{} was written to", kept.display());
    let output = a.swctl_output(&["status"])?;
    ensure!(output.code == 6 && output.stdout.contains("state.suspect.0"), "forgotten: {}", output.stdout);

    std::fs::remove_file(&kept)?;
    healthy(a)?;
    run(a, "network del poison")?;
    talk.moves(3, SOON)?;
    ensure!(device(near.ns())? == before, "the device of a pod was made anew");
    ensure!(resets(near.ns())? == 0, "a connection was reset");
    let told = talk.finish()?;
    held.again_by(a)?;
    note(format!(
        "good: {kills} lives with generation {poisoned}, then generation {good} as {}; {} questions answered on one \
         connection, the slowest in {:.0?}; {again} more lives change nothing",
        poisoned + 1,
        told.answered,
        told.slowest
    ));
    check(world.lab.nodes(), &[])
}

/// One that stops before it was ever ready is not waited for, for ever.
pub fn a_start_that_hangs() -> Result<()> {
    let world = World::build(&Setup { swd: &["--start-limit", "2"], ..Setup::new("start", Mode::Bridged) })?;
    let (a, near, far) = (world.a()?, &world.near, &world.far);
    ping(near.ns(), far.ip(false))?;
    // To find one that starts takes a little luck.
    let stopped = wait::until_ok("a process that was stopped while it started", SOON, || {
        let pid = next_process(a, kill_switch(a)?)?;
        send(pid, Signal::STOP)?;
        let ready = std::fs::read_to_string(a.log())?;
        let begun = ready.rfind("; starting another").ok_or("no end in the log")?;
        if ready.get(begun..).is_some_and(|rest| rest.contains(" ready")) {
            send(pid, Signal::CONT)?;
            return Err(Error::failed("it was ready"));
        }
        Ok(pid)
    })?;
    let other = next_process(a, stopped)?;
    wait::until("the one that hung is gone", SOON, || (!runs(stopped)).then_some(()))?;
    healthy(a)?;
    let log = std::fs::read_to_string(a.log())?;
    ensure!(
        log.contains("gave no sign of life for 2 s"),
        "the log does not say why {stopped} was replaced by {other}"
    );
    ping(near.ns(), far.ip(false))?;
    check(world.lab.nodes(), &[])
}
