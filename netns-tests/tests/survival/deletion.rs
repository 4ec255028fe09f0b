//! A deleted port: its device is out of the pod's sight when that is acknowledged, and nobody has waited for everything
//! that the kernel does about it afterwards.

use std::time::{Duration, Instant};

use crate::common::{Mode, Setup, World, note};
use crate::end::devices;
use crate::process::{Held, healthy};
use lab::conserve::check;
use lab::harness::setting;
use lab::probe::ping;
use lab::{Result, ensure};

pub fn a_deleted_port_is_gone_when_that_is_acknowledged() -> Result<()> {
    let world = World::build(&Setup::new("deletion", Mode::Routed))?;
    let (a, near) = (world.a()?, world.near.ns());
    ping(world.far.ns(), world.near.ip(false))?;
    let held = Held::by(a)?;
    let (mut took, mut asking) = (Vec::new(), Vec::new());
    for _ in 0..setting("LAB_DELETIONS", 20) {
        let asked = Instant::now();
        a.swctl_text(&["port", "del", "near"])?;
        took.push(asked.elapsed());
        ensure!(devices(near)?.is_empty(), "{:?} are left", devices(near)?);
        world.near.attach(a, &[])?;
        let asked = Instant::now();
        a.swctl_text(&["port", "show"])?;
        asking.push(asked.elapsed());
    }
    ping(world.far.ns(), world.near.ip(true))?;
    healthy(a)?;
    held.again_by(a)?;
    took.sort();
    asking.sort();
    let middle = |times: &[Duration]| times.get(times.len() / 2).copied().unwrap_or_default();
    note(format!(
        "deletion: swctl port del {} times, p50 {:.1?}, max {:.1?}; swctl port show p50 {:.1?}",
        took.len(),
        middle(&took),
        took.last().copied().unwrap_or_default(),
        middle(&asking),
    ));
    check(world.lab.nodes(), &["egress-gone", "no-port"])
}
