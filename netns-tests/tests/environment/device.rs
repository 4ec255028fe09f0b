//! Devices and namespaces that go and come.

use std::time::Duration;

use crate::common::{Mode, Setup, World, add_host, note};
use crate::event::{Event, Victim};
use crate::process::{Held, healthy};
use crate::state::status;
use lab::conserve::check;
use lab::probe::ping;
use lab::{Lab, Result, ensure};

/// Reasons for which frames of a pod that something happens to are dropped.
pub const DROPS: &[&str] = &["egress-gone", "no-port", "tx-down", "reflection", "spoofed-mac", "spoofed-arp"];

/// Lets these things happen to a pod, one after the other, and looks that it works after each.
fn suffered(name: &str, events: &[Event]) -> Result<()> {
    let world = World::build(&Setup::new(name, Mode::Bridged))?;
    let (lab, a) = (&world.lab, world.a()?);
    let limbo = limbo(lab)?;
    let host = add_host(lab, a, "pod", ("10.1.1", "fd00:1"), 9, &[])?;
    let mut victim = Victim { lab, node: a, host };
    ensure!(status(a)?["watch"] == "events", "{}", status(a)?);
    ping(victim.host.ns(), world.far.ip(false))?;
    let held = Held::by(a)?;
    for &event in events {
        let took = victim.suffer(event, limbo.ns())?;
        tell(event, &took);
        for v6 in [false, true] {
            ping(victim.host.ns(), world.far.ip(v6))?;
            ping(world.near.ns(), victim.host.ip(v6))?;
        }
    }
    healthy(a)?;
    held.again_by(a)?;
    check(lab.nodes(), DROPS)
}

/// A namespace that devices are moved to.
pub fn limbo(lab: &Lab) -> Result<lab::Pod> {
    lab.pod("limbo")
}

pub fn tell(event: Event, took: &[Duration]) {
    let took: Vec<String> = took.iter().map(|d| format!("{} ms", d.as_millis())).collect();
    note(format!("{event:?}: noticed after {}", took.join(", ")));
}

pub fn a_device_that_goes_is_made_again() -> Result<()> {
    suffered("devgoes", &[Event::Deleted, Event::Renamed, Event::Moved, Event::Deleted])
}

pub fn a_namespace_that_comes_back_has_its_port() -> Result<()> {
    suffered("nsback", &[Event::NamespaceGone, Event::NamespaceGone])
}
