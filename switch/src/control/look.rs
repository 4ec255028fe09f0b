//! Looking at devices, and what follows from what is seen.
//!
//! A port is looked at when an event says that something of it has changed ([`super::notice`]), and in any case every
//! few seconds. A device that is no good is closed and opened anew; what the kernel has taken from one is given back;
//! what a pod has changed by itself is told.

use std::fmt;
use std::time::{Duration, Instant};

use ctl::error::{ApiError, Reason};

use super::agenda::Item;
use super::core::Core;
use super::notice::Watched;
use super::program::ProgramError;
use super::reconcile::{Actual, Down};
use super::refusal;
use crate::datapath::PortId;
use crate::io::PortHealth;

/// Devices looked at once per second where nothing tells of changes: each look takes about 0.1 ms of the control thread,
/// and as much of the monitor.
const LOOKS: usize = 128;
/// The same where events do: whatever they miss is found all the same, and a thousand ports at rest cost next to nothing.
const LOOKS_BESIDES: usize = 16;
/// The same when something happened, so that clients have their turn.
const AT_ONCE: usize = 32;

/// Lines about one port in the log: so many at once, and then one per so much.
pub(super) const LINES: (u32, Duration) = (10, Duration::from_secs(10));
/// Devices opened anew for one port: a pod may delete its own all the time.
pub(super) const LOSSES: (u32, Duration) = (10, Duration::from_millis(500));
/// First pause between two tries for a port whose device was just lost, or for which something is being made.
const HURRY: Duration = Duration::from_millis(10);

impl Core {
    /// Looks at some of the devices in turn, closes those that are no good, and opens what is due.
    pub(super) fn look_after(&mut self, dead: &[PortId], now: Instant) -> Result<(), ProgramError> {
        let up = self.ports.iter().filter(|(_, actual)| matches!(actual, Actual::Up(_)));
        let names: Vec<String> = up.map(|(name, _)| name.clone()).collect();
        let count = names.len();
        let from = self.look_from % count.max(1);
        let most = if self.reach.hears_ports() { LOOKS_BESIDES } else { LOOKS }.min(count);
        self.look_from = from + most;
        let turn: Vec<String> = names.into_iter().cycle().skip(from).take(most).collect();
        self.look_at(&turn, dead, now)?;
        self.look_at_underlay(now)?;
        let plan = std::mem::take(&mut self.plan);
        self.kernel.look_after(&plan, now);
        self.plan = plan;
        Ok(())
    }

    /// Takes the looks that are due because of events.
    pub(super) fn look_where_due(&mut self, now: Instant) -> Result<(), ProgramError> {
        let mut names = Vec::new();
        for item in self.agenda.take(now, AT_ONCE) {
            match item {
                Item::Underlay => self.look_at_underlay(now)?,
                Item::Port(name) => names.push(name),
            }
        }
        self.look_at(&names, &[], now)
    }

    /// When there is something to do before the next regular look.
    pub(super) fn next_look(&self) -> Option<Instant> {
        let retries = self.ports.values().filter_map(|actual| match actual {
            Actual::Down(down) => Some(down.retry_at),
            Actual::Up(_) => None,
        });
        retries.chain(self.agenda.next()).min()
    }

    /// Something that this port lacks may just have appeared.
    pub(super) fn hurry(&mut self, name: &str, now: Instant) {
        if let Some(Actual::Down(down)) = self.ports.get_mut(name) {
            (down.retry_at, down.backoff) = (now, HURRY);
        }
    }

    /// Looks at these ports; `dead` are those whose devices have failed in the worker's hands.
    pub(super) fn look_at(
        &mut self,
        names: &[String],
        dead: &[PortId],
        now: Instant,
    ) -> Result<(), ProgramError> {
        let mut bad: Vec<(String, &'static str)> = Vec::new();
        if !dead.is_empty() {
            let failed =
                self.ports.iter().filter(|(_, a)| matches!(a, Actual::Up(up) if dead.contains(&up.id)));
            bad.extend(failed.map(|(name, _)| (name.clone(), "its device has failed")));
        }
        for name in names {
            if !bad.iter().any(|(known, _)| known == name)
                && let Some(why) = self.look_at_one(name, now)
            {
                bad.push((name.clone(), why));
            }
        }
        for (name, why) in &bad {
            self.say(name, now, format_args!("closing the port: {why}"));
        }
        let names: Vec<String> = bad.iter().map(|(name, _)| name.clone()).collect();
        self.close(&names)?;
        for (name, why) in bad {
            let error = ApiError::new(Reason::NetnsNotFound, format!("port {name}: {why}"));
            let retry_at = if self.losses.take(&name, now).is_some() { now } else { now + LOSSES.1 };
            self.ports.insert(name, Actual::Down(Down { error, retry_at, backoff: HURRY }));
        }
        if self.open_due(now)? {
            self.publish()?;
        }
        Ok(())
    }

    /// Why the device of a port is no good any more, if it is not. What can be mended is.
    fn look_at_one(&mut self, name: &str, now: Instant) -> Option<&'static str> {
        let health = self.found(name, now)?;
        let Some(Actual::Up(up)) = self.ports.get_mut(name) else { return None };
        // The kernel takes addresses and routes away with the link, and with an MTU too small for IPv6. What a pod takes
        // away by itself is told only.
        let by_kernel = up.robbed || matches!(up.health, PortHealth::Down | PortHealth::MtuChanged { .. });
        let mend = if up.spec.node.is_some() {
            health != PortHealth::Healthy
        } else {
            by_kernel && pod_lacks(health)
        };
        let health = if mend && lost(health).is_none() {
            let spec = up.spec.clone();
            self.restore(name, spec);
            self.found(name, now)?
        } else {
            health
        };
        if lost(health).is_some() {
            return lost(health);
        }
        let Some(Actual::Up(up)) = self.ports.get_mut(name) else { return None };
        up.made |= up.watched != Watched::No && health != PortHealth::Down;
        if health == PortHealth::Healthy {
            up.robbed = false;
        }
        if std::mem::replace(&mut up.health, health) != health {
            self.say(name, now, format_args!("port changed: {health:?}"));
        }
        None
    }

    fn found(&mut self, name: &str, now: Instant) -> Option<PortHealth> {
        let Some(Actual::Up(up)) = self.ports.get(name) else { return None };
        match self.opener.check_port(&up.spec, up.place) {
            Ok(health) => Some(health),
            Err(e) => {
                self.say(name, now, format_args!("cannot look at the device: {e}"));
                None
            }
        }
    }

    /// A line in the log about something that others may make happen as often as they like.
    pub(super) fn say(&mut self, about: &str, now: Instant, what: fmt::Arguments<'_>) {
        match self.lines.take(about, now) {
            Some(0) => tracing::warn!(about, "{what}"),
            Some(left_out) => tracing::warn!(about, left_out, "{what}"),
            None => {}
        }
    }
}

/// Why a device is no good any more; `None` while it is there.
pub(super) fn lost(health: PortHealth) -> Option<&'static str> {
    match health {
        PortHealth::NetnsGone => Some("its network namespace is gone"),
        PortHealth::NetnsReplaced => Some(refusal::REPLACED),
        PortHealth::IfaceGone => Some("its device was deleted, renamed or moved to another namespace"),
        PortHealth::IfaceReplaced => Some("another device has its name"),
        _ => None,
    }
}

/// Has a pod lost what its port was opened with?
pub(super) fn pod_lacks(health: PortHealth) -> bool {
    matches!(health, PortHealth::PodAddressMissing { .. } | PortHealth::PodRouteMissing { .. })
}
