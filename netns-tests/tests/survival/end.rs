//! A daemon that is told to end, or killed with all its parts, leaves pods their devices and nothing else, and another
//! starts at once. The node's own device stays when nobody could see to it.

use crate::common::{Mode, Setup, World};
use crate::process::{SOON, device, healthy, runs, send, switch_process};
use lab::probe::ping;
use lab::swd::is_socket;
use lab::{Context, Node, Ns, Result, ensure, wait};
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

/// The devices of a namespace, but for the loopback, by name and index.
pub fn devices(ns: &Ns) -> Result<Vec<(String, u64)>> {
    let links = ns.ip_json(&["link", "show"])?;
    let all = links.as_array().into_iter().flatten();
    let named = all.filter_map(|link| Some((link["ifname"].as_str()?.to_owned(), link["ifindex"].as_u64()?)));
    Ok(named.filter(|(name, _)| name != "lo").collect())
}

/// Waits until nobody is at the other end of a pod's device.
pub fn is_unserved(ns: &Ns) -> Result<()> {
    wait::until_ok("the device has no carrier", SOON, || {
        let links = ns.ip_json(&["link", "show", "dev", "eth0"])?;
        ensure!(links[0]["flags"].to_string().contains("NO-CARRIER"), "{links}");
        Ok(())
    })
}

/// Waits until the daemon that was started is no more, and its other process neither.
fn both_end(node: &Node, switch: u32) -> Result<()> {
    wait::until_ok("both processes are gone", SOON, || {
        ensure!(node.check_swd().is_err(), "the monitor is there");
        ensure!(!runs(switch), "the switch process is there");
        Ok(())
    })
}

/// `without` are the devices of the node without its own.
fn ends(world: &World, way: Way, without: &[(String, u64)]) -> Result<()> {
    let (a, near) = (world.a()?, world.near.ns());
    let (monitor, switch) = (a.swd_pid()?, switch_process(a)?);
    let (of_pod, of_node) = (devices(near)?, devices(a.ns())?);
    ensure!(of_node.len() == without.len() + 1, "{of_node:?} at first, without its own {without:?}");
    way.send(monitor, switch)?;
    both_end(a, switch)?;
    is_unserved(near)?;
    ensure!(devices(near)? == of_pod, "{:?}, before {of_pod:?}", devices(near)?);
    let left = devices(a.ns())?;
    ensure!(left == if way.told() { without } else { &of_node }, "{left:?} are left on the node");
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
    ensure!(devices(near)? == of_pod, "{:?}, before {of_pod:?}", devices(near)?);
    ensure!(way.told() || devices(a.ns())? == of_node, "{:?}, before {of_node:?}", devices(a.ns())?);
    ping(a.ns(), world.near.ip(false))?;
    for v6 in [false, true] {
        ping(world.far.ns(), world.near.ip(v6))?;
        ping(world.near.ns(), world.beside.ip(v6))?;
    }
    Ok(())
}

pub fn a_stopped_daemon_leaves_pods_their_devices_and_nothing_else() -> Result<()> {
    let world = World::build(&Setup::new("end", Mode::Routed))?;
    ping(world.far.ns(), world.near.ip(false))?;
    let a = world.a()?;
    let without = devices(a.ns())?;
    a.swctl_text(&["port", "add", "node", "--network", "pods", "--node"])?;
    for way in Way::ALL {
        ends(&world, way, &without).context(format!("{way:?}"))?;
    }
    // This is how to leave nothing at all.
    let (index, _) = device(world.near.ns())?;
    for port in ["near", "beside", "node"] {
        a.swctl_text(&["port", "del", port])?;
    }
    for (ns, left) in [(world.near.ns(), &[][..]), (world.beside.ns(), &[]), (a.ns(), &without)] {
        ensure!(devices(ns)? == left, "{:?} in {}, eth0 was {index}", devices(ns)?, ns.name());
    }
    lab::conserve::check_node(world.a()?, &[])
}
