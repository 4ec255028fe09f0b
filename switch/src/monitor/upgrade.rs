//! What a monitor does for those who knock: it becomes another program, or leaves everything to another monitor.

use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::process::ExitStatus;
use std::time::Duration;

use super::child::Birth;
use super::door::Caller;
use super::estate::Left;
use super::handover::{Failure, Outcome, Step, hand_over, prepared, retire_for_good};
use super::keeper::Stage;
use super::orders::Order;
use super::succession::Program;
use super::supervise::Monitor;
use super::switch::{Switch, reached};
use super::takeover::{self, Talk, Word};
use crate::io::Opener;
use crate::node::NodeHost;

/// For the new switch process to say that it is done with what could wait.
const SETTLE: Duration = Duration::from_secs(30);
/// For orders beyond those of [`hand_over`].
const ORDER: Duration = Duration::from_secs(5);
/// Less than the other monitor waits for it: two processes must not read at the same time.
const GO: Duration = Duration::from_secs(2);

/// What became of the switch process.
pub(super) enum After {
    /// It forwards as before.
    Same,
    /// It has ended, and no other forwards.
    Ended(ExitStatus),
    /// This one forwards.
    Replaced(Box<Switch>),
    /// One of another monitor forwards.
    Left,
}

/// Has a switch process of another program take over, and becomes that program. Does not return when all goes well.
///
/// # Errors
/// The switch process is no child of this one.
pub(super) async fn become_another<O, H>(
    monitor: &mut Monitor<O, H>,
    old: &mut Switch,
    program: OwnedFd,
    caller: Caller,
) -> io::Result<After>
where
    O: Opener + Send + 'static,
    H: NodeHost + Send + 'static,
{
    let version = monitor.version;
    let tell = |step: Step| {
        tracing::info!("upgrade: {}", step.text());
        caller.step(step.text());
    };
    tell(Step::Rehearse);
    let rehearsed = rehearse(monitor, old, &program).await;
    let (program, new_version) = match rehearsed {
        Ok(rehearsed) => rehearsed,
        Err(failure) => return Ok(stays(&caller, &failure)),
    };
    let birth = Birth { program: program.path(), ..monitor.birth.clone() };
    let before = std::mem::replace(&mut monitor.birth, birth);
    monitor.history.upgrades += 1;
    let outcome = hand_over(old, async |state| monitor.start(Some(state)), tell).await?;
    let (new, pause) = match outcome {
        Outcome::Over(new, pause) => (new, pause),
        Outcome::Stays(failure) => {
            (monitor.birth, monitor.history.upgrades) = (before, monitor.history.upgrades - 1);
            monitor.served.keeper().end_successor(old.tenure);
            return Ok(stays(&caller, &failure));
        }
        Outcome::Lost(status) => {
            (monitor.birth, monitor.history.upgrades) = (before, monitor.history.upgrades - 1);
            monitor.served.keeper().end(old.tenure.next());
            caller
                .failed("the old switch process ended meanwhile, and another one of its version is started");
            return Ok(After::Ended(status));
        }
    };
    monitor.served.keeper().end(old.tenure);
    let paused = format!("from={version} to={new_version} paused_us={}", pause.as_micros());
    tracing::info!(paused_us = pause.as_micros() as u64, from = version, to = new_version, "upgraded");
    tell(Step::Succeed);
    let new = settled(new).await;
    let failed = succeed(monitor, &new, &program, &caller, &paused);
    // The switch process is new, and how others are started too.
    tracing::error!("the monitor stays what it was: {failed}");
    caller.failed(&format!("{}: {failed}; the switch process is the new one", Step::Succeed.text()));
    Ok(After::Replaced(new))
}

fn stays(caller: &Caller, failure: &Failure) -> After {
    tracing::error!("not upgraded: {failure}");
    caller.failed(&failure.to_string());
    After::Same
}

async fn rehearse<O, H>(
    monitor: &Monitor<O, H>,
    old: &Switch,
    program: &OwnedFd,
) -> Result<(Program, String), Failure>
where
    O: Opener + Send + 'static,
    H: NodeHost + Send + 'static,
{
    let failed = |e: io::Error| Failure::new(Step::Rehearse, e);
    let program = Program::new(program).map_err(failed)?;
    let left = {
        let (keeper, parts) = (monitor.served.keeper(), old.parts().map_err(failed)?);
        monitor.left(Some(&parts)).write(&keeper).map_err(failed)?.0
    };
    let args = monitor.birth.args.clone();
    let asking = tokio::task::spawn_blocking(move || {
        let answer = program.rehearse(&args, &left);
        answer.map(|version| (program, version))
    });
    let answer = asking.await.map_err(|e| failed(io::Error::other(e)))?;
    answer.map_err(|text| Failure::new(Step::Rehearse, text))
}

/// Waits until the new process has asked for what it still needs. One that ends instead is seen soon enough.
async fn settled(mut new: Box<Switch>) -> Box<Switch> {
    let ready = reached(&mut new.stage, Stage::Ready);
    if !matches!(tokio::time::timeout(SETTLE, ready).await, Ok(true)) {
        tracing::warn!("the new switch process is not ready yet");
    }
    new
}

/// Becomes the program. Returns only when that fails.
fn succeed<O, H>(
    monitor: &Monitor<O, H>,
    new: &Switch,
    program: &Program,
    caller: &Caller,
    words: &str,
) -> io::Error
where
    O: Opener + Send + 'static,
    H: NodeHost + Send + 'static,
{
    // Held until this program is no more: no message of the switch process is half read then.
    let keeper = monitor.served.keeper();
    let work = || -> io::Result<io::Error> {
        let parts = new.parts()?;
        let left = Left { caller: Some((caller, words)), ..monitor.left(Some(&parts)) };
        let (text, fds) = left.write(&keeper)?;
        Ok(program.become_it(&monitor.birth.args, &text, &fds))
    };
    work().unwrap_or_else(|e| e)
}

/// Leaves everything to another monitor, or goes on.
///
/// # Errors
/// The switch process is no child of this one.
pub(super) async fn leave_to<O, H>(
    monitor: &mut Monitor<O, H>,
    old: &mut Switch,
    talk: Talk,
) -> io::Result<After>
where
    O: Opener + Send + 'static,
    H: NodeHost + Send + 'static,
{
    tracing::info!("another monitor wants to take over");
    let (commander, state) = (old.commander.clone(), old.outbox.try_clone()?);
    let steps = async {
        commander.order(Order::Freeze, ORDER).await.map_err(io::Error::other)?;
        let mut talk = give(monitor, talk, state).await?;
        talk = blocking(talk, |talk| talk.expect(&Word::Retire, takeover::PREPARE).map(drop)).await?;
        commander.order(Order::Retire, ORDER).await.map_err(io::Error::other)?;
        blocking(talk, |talk| {
            talk.say(&Word::Retire, None)?;
            talk.expect(&Word::Over, ORDER).map(drop)
        })
        .await
    };
    let done = tokio::select! {
        status = old.process.wait() => return Ok(After::Ended(status?)),
        done = steps => done,
    };
    if let Err(e) = done {
        tracing::error!("the other monitor has not taken over: {e}");
        return match old.commander.order(Order::Resume, ORDER).await {
            Ok(_) => Ok(After::Same),
            Err(e) => {
                tracing::error!("the switch process does not go on: {e}");
                Ok(After::Ended(old.process.kill().await?))
            }
        };
    }
    retire_for_good(old).await?;
    monitor.socket.leave();
    monitor.door.leave();
    tracing::info!("another monitor has everything");
    Ok(After::Left)
}

async fn give<O, H>(monitor: &Monitor<O, H>, talk: Talk, state: OwnedFd) -> io::Result<Talk>
where
    O: Opener + Send + 'static,
    H: NodeHost + Send + 'static,
{
    let (text, fds) = {
        let keeper = monitor.served.keeper();
        let left = monitor.left(None);
        let (text, fds) = left.write(&keeper)?;
        let copies = fds.iter().map(|fd| fd.try_clone_to_owned()).collect::<io::Result<Vec<_>>>()?;
        (text, copies)
    };
    blocking(talk, move |talk| {
        let fds: Vec<_> = fds.iter().map(OwnedFd::as_fd).collect();
        talk.give(&text, &fds, &state)
    })
    .await
}

/// Takes everything over from the monitor at the other end.
///
/// # Errors
/// It has not worked, and the other goes on.
pub(super) async fn from_another<O, H>(
    monitor: &mut Monitor<O, H>,
    talk: Talk,
    state: OwnedFd,
) -> io::Result<Switch>
where
    O: Opener + Send + 'static,
    H: NodeHost + Send + 'static,
{
    let mut new = monitor.start(Some(state))?;
    prepared(&mut new).await.map_err(io::Error::other)?;
    let talk = blocking(talk, |talk| {
        talk.say(&Word::Retire, None)?;
        talk.expect(&Word::Retire, ORDER * 2).map(drop)
    })
    .await?;
    new.commander.order(Order::Go, GO).await.map_err(io::Error::other)?;
    blocking(talk, |talk| talk.say(&Word::Over, None)).await?;
    tracing::info!("everything was taken over from another monitor");
    Ok(new)
}

async fn blocking(
    mut talk: Talk,
    work: impl FnOnce(&mut Talk) -> io::Result<()> + Send + 'static,
) -> io::Result<Talk> {
    let done = tokio::task::spawn_blocking(move || work(&mut talk).map(|()| talk));
    done.await.map_err(io::Error::other)?
}
