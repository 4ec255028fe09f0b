//! Devices that nobody declares any more and that this process has not opened.
//!
//! A device outlives the daemon, and a port may be deleted while there is none: its tombstone is found at the start, or
//! the configuration file has another plan. Or the daemon dies between making a deletion durable and carrying it out:
//! changes are made one after the other, so that can only be one of the last, and the state file before it tells of
//! those ports. Or a port could not be opened, because something in its namespace is in the way, and is deleted.
//! In each case the device is removed if it is there, in the namespace it was made for, and held by nobody.

use std::collections::HashSet;

use ctl::desired::{DesiredState, Port};

use super::core::Core;
use super::derive;

impl Core {
    /// Remembers the ports that `next` does not have there and that are not open. The others are closed in due course.
    pub(super) fn note_leftovers(&mut self, next: &DesiredState) {
        let place = |p: &Port| (p.node.is_some(), p.netns.clone(), p.ifname.clone());
        let stay: HashSet<_> = next.ports.iter().map(place).collect();
        let gone =
            self.desired.ports.iter().filter(|p| self.up(&p.name).is_none() && !stay.contains(&place(p)));
        let gone: Vec<_> = gone.filter_map(derive::device_name).collect();
        self.leftovers.extend(gone);
    }

    /// Removes what is remembered, unless another port is declared in its place.
    pub(super) fn discard_leftovers(&mut self) {
        if self.leftovers.is_empty() {
            return;
        }
        let declared: HashSet<_> =
            self.desired.ports.iter().filter_map(derive::device_name).map(|d| (d.netns, d.ifname)).collect();
        for device in std::mem::take(&mut self.leftovers) {
            if declared.contains(&(device.netns.clone(), device.ifname.clone())) {
                continue;
            }
            let (netns, ifname) = (&device.netns, &device.ifname);
            match self.opener.discard_port(&device) {
                Ok(false) => {}
                Ok(true) => {
                    tracing::info!(%netns, ifname, "a device that no port declares any more was removed")
                }
                Err(e) => {
                    tracing::warn!(%netns, ifname, "a device that no port declares any more stays: {e}")
                }
            }
        }
    }
}

#[cfg(test)]
#[path = "leftover_tests.rs"]
mod tests;
