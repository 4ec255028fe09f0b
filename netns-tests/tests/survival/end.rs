//! A daemon that is told to end, or killed with all its parts, leaves nothing, and another starts at once.

use crate::common::{Mode, Setup, World};
use crate::process::{SOON, healthy, runs, send, switch_process};
use lab::probe::ping;
use lab::swd::is_socket;
use lab::{Context, Error, Node, Result, ensure, wait};
use rustix::process::Signal;

/// How a daemon may come to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    TermToMonitor,
    TermToSwitch,
    KillToMonitor,
    /// The switch process hangs when its monitor is killed.
    KillToMonitorOfHung,
}

impl Way {
    const ALL: [Self; 4] =
        [Self::TermToMonitor, Self::TermToSwitch, Self::KillToMonitor, Self::KillToMonitorOfHung];

    /// Does it end in order?
    fn told(self) -> bool {
        matches!(self, Self::TermToMonitor | Self::TermToSwitch)
    }

    fn send(self, monitor: u32, switch: u32) -> Result<()> {
        match self {
            Self::TermToMonitor => send(monitor, Signal::TERM),
            Self::TermToSwitch => send(switch, Signal::TERM),
            Self::KillToMonitor => send(monitor, Signal::KILL),
            Self::KillToMonitorOfHung => {
                send(switch, Signal::STOP)?;
                send(monitor, Signal::KILL)
            }
        }
    }
}

/// The devices of a pod, but for the loopback.
fn devices(world: &World) -> Result<Vec<String>> {
    let links = world.near.ns().ip_json(&["link", "show"])?;
    let names = links.as_array().into_iter().flatten().filter_map(|link| link["ifname"].as_str());
    Ok(names.filter(|name| *name != "lo").map(str::to_owned).collect())
}

/// Waits until the daemon that was started is no more, and its other process neither.
fn both_end(node: &Node, switch: u32) -> Result<()> {
    wait::until_ok("both processes are gone", SOON, || {
        ensure!(node.check_swd().is_err(), "the monitor is there");
        ensure!(!runs(switch), "the switch process is there");
        Ok(())
    })
}

fn ends(world: &World, way: Way) -> Result<()> {
    let a = world.a()?;
    let (monitor, switch) = (a.swd_pid()?, switch_process(a)?);
    ensure!(devices(world)? == ["eth0"], "{:?} at first", devices(world)?);
    way.send(monitor, switch)?;
    both_end(a, switch)?;
    wait::until_ok("the device is gone", SOON, || {
        let left = devices(world)?;
        if left.is_empty() { Ok(()) } else { Err(Error::failed(format!("{left:?}"))) }
    })?;
    // A process that ended already is not told again; this is how it ended.
    let code = a.stop_swd()?;
    if way.told() {
        ensure!(code == 0, "exit code {code}");
        ensure!(!is_socket(&a.socket()), "the socket is left");
    } else {
        ensure!(code == 128 + 9, "exit code {code}");
    }
    a.restart()?;
    healthy(a)?;
    for v6 in [false, true] {
        ping(world.far.ns(), world.near.ip(v6))?;
        ping(world.near.ns(), world.beside.ip(v6))?;
    }
    Ok(())
}

pub fn nothing_of_a_stopped_daemon_stays() -> Result<()> {
    let world = World::build(&Setup::new("end", Mode::Routed))?;
    ping(world.far.ns(), world.near.ip(false))?;
    for way in Way::ALL {
        ends(&world, way).context(format!("{way:?}"))?;
    }
    lab::conserve::check_node(world.a()?, &[])
}
