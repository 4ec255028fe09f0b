//! Something ends the switch process whenever there is one: starts are held to a pace, and in between and afterwards
//! everything is served.

use std::time::{Duration, Instant};

use crate::common::{Mode, Setup, World, note};
use crate::process::{Held, healthy, kill_switch, read_log};
use lab::conserve::check;
use lab::probe::ping;
use lab::{Context, Result, ensure};

/// Kills before it can have been ready.
const UNBORN: u32 = 5;
/// Kills as soon as it answers.
const KILLS: u32 = 30;
/// Starts that the monitor's pace gives away, and the time in which it wins one back.
const AT_ONCE: u32 = 20;
const REFILL: Duration = Duration::from_millis(500);

pub fn a_crash_loop_is_held_to_its_pace() -> Result<()> {
    let world = World::build(&Setup::new("loop", Mode::Routed))?;
    let (a, near, far) = (world.a()?, &world.near, &world.far);
    // The sockets to peers are opened when there is something to send.
    ping(near.ns(), far.ip(false))?;
    let (held, monitor) = (Held::by(a)?, a.swd_pid()?);
    for number in 0..UNBORN {
        kill_switch(a).context(format!("kill {number} of one that starts"))?;
    }
    healthy(a)?;
    ping(near.ns(), far.ip(false))?;
    let begun = Instant::now();
    let mut slowest = Duration::ZERO;
    for number in 0..KILLS {
        kill_switch(a).context(format!("kill {number}"))?;
        // Nobody is there now. The socket is, so this waits for the next.
        let asked = Instant::now();
        let output = a.swctl_output(&["status"])?;
        ensure!(output.code == 0 || output.code == 6, "after kill {number}: {}", output.stderr);
        slowest = slowest.max(asked.elapsed());
    }
    let lasted = begun.elapsed();
    let least = REFILL * (KILLS - AT_ONCE - 1);
    ensure!(lasted >= least, "{KILLS} starts within {lasted:?}: that is no pace, which takes {least:?}");
    ensure!(a.swd_pid()? == monitor, "the monitor is not the one it was");
    healthy(a)?;
    for v6 in [false, true] {
        ping(near.ns(), far.ip(v6))?;
        ping(near.ns(), world.beside.ip(v6))?;
    }
    held.again_by(a)?;
    let ends = read_log(a)?;
    ensure!(ends == (UNBORN + KILLS) as usize, "{} kills, and the log has {ends} ends", UNBORN + KILLS);
    note(format!(
        "loop: {KILLS} starts in {lasted:.1?}, the slowest answer to swctl status after {slowest:.0?}"
    ));
    check(world.lab.nodes(), &[])
}
