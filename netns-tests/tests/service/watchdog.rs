//! Signs of life: they come as long as the monitor's loop turns, whatever its switch process does, and not a moment
//! longer.

use std::time::Duration;

use crate::common::{Mode, Setup, World};
use crate::process::{healthy, kill_switch, send};
use lab::manager::WATCHDOG;
use lab::probe::ping;
use lab::swd::SwdOptions;
use lab::{Error, Lab, Result, ensure, wait};
use rustix::process::Signal;

const SOON: Duration = Duration::from_secs(10);

pub fn signs_of_life() -> Result<()> {
    let setup = Setup::new("alive", Mode::Routed);
    let world = World::build_on(&setup, |lab: &Lab| lab.node("a")?.manage().map(drop))?;
    let a = world.a()?;
    let manager = a.manager().ok_or("no manager")?;
    ensure!(manager.ready_and_stopping()? == (1, 0), "{:?}", manager.ready_and_stopping()?);
    // Three per interval; a machine with other things to do may swallow some.
    let heard = manager.alive(WATCHDOG * 2)?;
    ensure!((3..=8).contains(&heard), "{heard} signs of life in two intervals");
    let status = |wanted: &str| {
        wait::until_ok(&format!("status {wanted:?}"), SOON, || {
            let status = manager.status()?;
            if status == wanted { Ok(()) } else { Err(Error::failed(status)) }
        })
    };
    status("2 ports, 0 restarts of the switch process")?;
    kill_switch(a)?;
    status("2 ports, 1 restarts of the switch process")?;
    healthy(a)?;
    ensure!(manager.ready_and_stopping()? == (1, 0), "a new switch process is none of its business");

    send(a.swd_pid()?, Signal::STOP)?;
    ensure!(manager.alive(WATCHDOG)? <= 1, "a process that is stopped shows signs of life");
    // What a service manager does then.
    a.kill9()?;
    a.restart()?;
    manager.is_ready(2)?;
    ensure!(manager.alive(WATCHDOG)? > 0, "the next one shows no signs of life");
    healthy(a)?;
    ping(world.far.ns(), world.near.ip(false))?;
    ping(world.near.ns(), world.beside.ip(true))?;
    lab::conserve::check(world.lab.nodes(), &[])
}

/// One process for all shows them too, or it would be ended. What a monitor before it has left is in nobody's way.
pub fn signs_of_life_without_a_monitor() -> Result<()> {
    let lab = Lab::new("single").node("a").build()?;
    let a = lab.node("a")?;
    let manager = a.manage()?;
    a.start_swd_with(&SwdOptions::default())?;
    crate::common::add_network(a, "pods", 1, &[("10.1.1", "fd00:1")], &[])?;
    let pod = lab.pod("pod")?;
    a.add_port(&pod, "pods", &["10.1.1.2/24"])?;
    ensure!(!manager.names()?.is_empty(), "nothing is kept");
    a.kill9()?;
    a.start_swd_with(&SwdOptions { args: vec!["--monitor=false".into()], ..SwdOptions::default() })?;
    manager.is_ready(2)?;
    healthy(a)?;
    let heard = manager.alive(WATCHDOG * 2)?;
    ensure!((3..=8).contains(&heard), "{heard} signs of life in two intervals");
    ensure!(manager.names()?.is_empty(), "it deposits {:?}", manager.names()?);
    ensure!(
        a.stop_swd()? == 0 && manager.ready_and_stopping()? == (2, 1),
        "{:?}",
        manager.ready_and_stopping()?
    );
    Ok(())
}
