//! Devices: opened until they are as declared, closed when they are not.
//!
//! Level-triggered: what is declared is compared with what is there, whatever led to the difference. A port
//! that cannot be opened waits 1 s, then twice as long each time up to 30 s, and holds up no other port. What
//! becomes of open ports is seen in [`super::look`].
//!
//! The order in which the worker hears of it: `AddPort`, then at once tables with the port, so that no frame is
//! read before it can be forwarded; tables without the port, then `RemovePort`, then `Forget`. Only after that
//! is its number used again.

use std::collections::HashMap;
use std::os::fd::AsFd as _;
use std::time::{Duration, Instant};

use ctl::desired::{DesiredState, Network, Port};
use ctl::error::{ApiError, Reason};

use super::core::Core;
use super::derive;
use super::notice::Watched;
use super::program::{ProgramError, add_port};
use super::refusal;
use crate::datapath::{Egress, PortId};
use crate::engine::{Command, Limits};
use crate::io::{NetnsIdentity, Offloads, OpenedPort, PortHealth, PortPlace, PortSpec};
use crate::node::plan;

/// Longest wait for the worker before a device is removed all the same.
const WORKER_PATIENCE: Duration = Duration::from_secs(1);

/// First and longest wait before a port is tried again.
pub(super) const BACKOFF: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));

/// After so many opened ports, the first of many need not wait for the last.
const PUBLISH_AFTER: usize = 32;

/// What is there for a declared port.
#[derive(Debug)]
#[allow(clippy::large_enum_variant)] // nearly all are up
pub enum Actual {
    /// A device.
    Up(Up),
    /// None.
    Down(Down),
}

/// An open port.
#[derive(Debug)]
pub struct Up {
    /// Its number.
    pub id: PortId,
    /// What was asked for.
    pub spec: PortSpec,
    /// The network it was opened for.
    pub network: String,
    /// Where it is.
    pub place: PortPlace,
    /// The namespace it is in.
    pub identity: NetnsIdentity,
    /// What the kernel granted.
    pub offloads: Offloads,
    /// When it was opened.
    pub since: Instant,
    /// What was found when it was last looked at.
    pub health: PortHealth,
    /// What it may send and receive, as the worker was told or will be with the device.
    pub limits: Limits,
    /// The kernel may have taken addresses and routes away since it was last as it should be.
    pub robbed: bool,
    /// How it is watched.
    pub watched: Watched,
    /// It was heard or seen to be up since it is watched. Events before that may be about how it was made.
    pub made: bool,
    /// The device, until the worker has it.
    pub device: Option<OpenedPort>,
}

/// A port that could not be opened.
#[derive(Debug)]
pub struct Down {
    /// Why.
    pub error: ApiError,
    /// When to try again.
    pub retry_at: Instant,
    /// How long to wait after that.
    pub backoff: Duration,
}

/// What became of opened devices.
pub(super) struct Handed {
    /// Those that the worker has now.
    pub ports: Vec<PortId>,
    /// None was refused.
    pub all: bool,
}

impl Core {
    /// Opens the device of a port. The worker gets it with the next tables.
    pub(super) fn open(&mut self, desired: &DesiredState, port: &Port) -> Result<Up, ApiError> {
        let object = format!("port {}", port.name);
        let network = desired
            .networks
            .iter()
            .find(|n| n.name == port.network)
            .ok_or_else(|| ApiError::no_network(&port.network))?;
        let spec = self.spec(desired, port, network).map_err(|e| ApiError::invalid(&object, e))?;
        let opened = self.opener.open_port(&spec).map_err(|e| refusal::of(&object, &e))?;
        let (place, identity, offloads) = (opened.place(), opened.identity.clone(), opened.offloads);
        let id = PortId(self.ids.ports.take(&port.name));
        if let Some(opened) = &self.reach.opened {
            opened.notify_one();
        }
        let what = if opened.adopted { "port taken over" } else { "port opened" };
        tracing::info!(port = port.name, netns = %spec.netns, ifname = spec.ifname, offloads = %offloads, "{what}");
        Ok(Up {
            id,
            spec,
            network: port.network.clone(),
            place,
            identity,
            offloads,
            since: Instant::now(),
            health: PortHealth::Healthy,
            robbed: false,
            watched: Watched::No,
            made: false,
            limits: derive::limits(port),
            device: Some(opened),
        })
    }

    /// The device as it is to be. The plan at hand is that of the desired state, which this may not yet be.
    fn spec(&self, desired: &DesiredState, port: &Port, network: &Network) -> Result<PortSpec, String> {
        if port.node.is_none() {
            return derive::port_spec(&self.settings, port, network, &self.plan);
        }
        derive::port_spec(&self.settings, port, network, &plan::of(&self.settings, desired))
    }

    /// Hands opened devices to the worker. One that is refused loses its number.
    pub(super) fn hand_over(&mut self) -> Result<Handed, ProgramError> {
        let mut handed = Handed { ports: Vec::new(), all: true };
        let mut refused = Vec::new();
        for (name, actual) in &mut self.ports {
            let Actual::Up(up) = actual else { continue };
            let Some(device) = up.device.take() else { continue };
            // Its declaration is durable by now, so somebody will come back for it.
            if !device.lasting
                && let Err(e) = self.opener.keep_port(&up.spec, up.place, device.fd.as_fd())
            {
                tracing::warn!(port = name, "the device will not outlive the daemon: {e}");
            }
            match self.worker.send(add_port(up.id, device)) {
                Ok(()) => {
                    handed.ports.push(up.id);
                    if up.limits != Limits::default() {
                        self.worker.send(Command::Limit(up.id, up.limits))?;
                    }
                }
                Err(ProgramError::Gone) => return Err(ProgramError::Gone),
                Err(e @ ProgramError::Device(_)) => refused.push((name.clone(), e)),
            }
        }
        handed.all = refused.is_empty();
        for (name, e) in refused {
            tracing::error!(port = name, "{e}");
            self.ids.ports.release(&name);
            let error = ApiError::new(Reason::Internal, format!("port {name}: {e}"));
            let down = Down { error, retry_at: Instant::now() + BACKOFF.1, backoff: BACKOFF.1 };
            if let Some(Actual::Up(up)) = self.ports.insert(name.clone(), Actual::Down(down)) {
                self.close_device(&name, &up.spec, up.place);
            }
        }
        Ok(handed)
    }

    /// Tells the worker about limits that were changed on open ports.
    pub(super) fn limit_ports(&mut self) -> Result<(), ProgramError> {
        for port in &self.desired.ports {
            let Some(Actual::Up(up)) = self.ports.get_mut(&port.name) else { continue };
            let limits = derive::limits(port);
            if limits != up.limits {
                up.limits = limits;
                if up.device.is_none() {
                    self.worker.send(Command::Limit(up.id, limits))?;
                }
            }
        }
        Ok(())
    }

    pub(super) fn close_device(&mut self, name: &str, spec: &PortSpec, place: PortPlace) {
        if let Err(e) = self.opener.close_port(spec, place) {
            tracing::warn!(port = name, "removing the device: {e}");
        }
    }

    /// Takes back a port that the worker has not heard of.
    pub(super) fn undo_open(&mut self, name: &str, up: Up) {
        self.ids.ports.release(name);
        drop(up.device);
        self.close_device(name, &up.spec, up.place);
    }

    /// Closes ports that are no longer declared, or declared otherwise.
    pub(super) fn close_stale(&mut self) -> Result<(), ProgramError> {
        let wanted = self.wanted();
        let mut stale = Vec::new();
        let mut gone = Vec::new();
        let mut changed = Vec::new();
        for (name, actual) in &self.ports {
            match (actual, wanted.get(name.as_str())) {
                (Actual::Up(up), Some((spec, network))) if up.network == *network && up.spec == *spec => {}
                (Actual::Up(up), Some((spec, network)))
                    if up.network == *network
                        && up.spec.same_device(spec)
                        && spec.identity.as_ref().is_none_or(|wanted| *wanted == up.identity) =>
                {
                    changed.push((name.clone(), spec.clone()));
                }
                (Actual::Up(_), _) => stale.push(name.clone()),
                (Actual::Down(_), Some(_)) => {}
                (Actual::Down(_), None) => gone.push(name.clone()),
            }
        }
        for name in gone {
            self.ports.remove(&name);
        }
        for (name, spec) in changed {
            self.restore(&name, spec);
        }
        self.close(&stale)
    }

    /// Brings MTU, addresses and routes of a device to what is declared now, while it runs.
    pub(super) fn restore(&mut self, name: &str, spec: PortSpec) {
        let Some(Actual::Up(up)) = self.ports.get_mut(name) else { return };
        match self.opener.restore_port(&spec, up.place) {
            Ok(()) => up.spec = spec,
            // The old routes stay and the next look tries again.
            Err(e) => self.say(name, Instant::now(), format_args!("MTU, addresses and routes: {e}")),
        }
    }

    /// Tables without these ports, then no ports.
    pub(super) fn close(&mut self, names: &[String]) -> Result<(), ProgramError> {
        if names.is_empty() {
            return Ok(());
        }
        let mut ids = Vec::new();
        for name in names {
            ids.extend(self.ids.ports.release(name).map(|id| (name.clone(), id)));
        }
        let published = self.publish();
        // The numbers stay taken until the worker was told to forget them.
        for (name, id) in ids {
            let again = self.ids.ports.take_exactly(&name, id);
            debug_assert!(again);
        }
        published?;
        self.retire(names)
    }

    /// Takes ports that no table names from the worker, and removes their devices.
    fn retire(&mut self, names: &[String]) -> Result<(), ProgramError> {
        let mut gone = Vec::new();
        for name in names {
            let Some(Actual::Up(up)) = self.ports.remove(name) else { continue };
            self.worker.send(Command::RemovePort(up.id))?;
            self.worker.send(Command::Forget(Egress::Port(up.id)))?;
            gone.push((name, up));
        }
        if !gone.is_empty() {
            self.wait_for_worker()?;
        }
        for (name, up) in gone {
            self.ids.ports.release(name);
            self.close_device(name, &up.spec, up.place);
            tracing::info!(port = name, "port closed");
        }
        Ok(())
    }

    /// Waits until the worker has carried out what it was told, which takes it one turn: a device must not go
    /// while the worker may still send to it. A worker that does not answer in time cannot be waited for.
    fn wait_for_worker(&self) -> Result<(), ProgramError> {
        let (done, obeyed) = crossbeam_channel::bounded(1);
        self.worker.send(Command::Inspect(Box::new(move |_| {
            let _ = done.send(());
        })))?;
        if obeyed.recv_timeout(WORKER_PATIENCE).is_err() {
            tracing::warn!("the worker did not answer within {WORKER_PATIENCE:?}");
        }
        Ok(())
    }

    /// The devices as they are to be, by port.
    fn wanted(&self) -> HashMap<&str, (PortSpec, &str)> {
        let networks: HashMap<&str, &Network> =
            self.desired.networks.iter().map(|n| (n.name.as_str(), n)).collect();
        let wanted = |p: &Port| {
            derive::port_spec(&self.settings, p, networks.get(p.network.as_str())?, &self.plan).ok()
        };
        self.desired
            .ports
            .iter()
            .filter_map(|p| Some((p.name.as_str(), (wanted(p)?, p.network.as_str()))))
            .collect()
    }

    /// Opens declared ports that have no device and whose time has come; true if there were any.
    pub(super) fn open_due(&mut self, now: Instant) -> Result<bool, ProgramError> {
        let due = |actual: Option<&Actual>| match actual {
            None => true,
            Some(Actual::Up(_)) => false,
            Some(Actual::Down(down)) => down.retry_at <= now,
        };
        let names: Vec<usize> = (0..self.desired.ports.len())
            .filter(|&i| due(self.ports.get(&self.desired.ports[i].name)))
            .collect();
        if names.is_empty() {
            return Ok(false);
        }
        let desired = std::mem::take(&mut self.desired);
        let mut opened = 0;
        for at in names {
            let port = &desired.ports[at];
            let actual = match self.open(&desired, port) {
                Ok(up) => {
                    opened += 1;
                    Actual::Up(up)
                }
                Err(error) => {
                    let (backoff, before) = match self.ports.get(&port.name) {
                        Some(Actual::Down(down)) => (down.backoff, Some(&down.error.message)),
                        _ => (BACKOFF.0, None),
                    };
                    if before != Some(&error.message) {
                        self.say(&port.name, now, format_args!("{error}"));
                    }
                    Actual::Down(Down {
                        error,
                        retry_at: now + backoff,
                        backoff: (backoff * 2).min(BACKOFF.1),
                    })
                }
            };
            self.ports.insert(port.name.clone(), actual);
            if opened % PUBLISH_AFTER == PUBLISH_AFTER - 1 {
                self.publish_for(&desired)?;
            }
        }
        self.desired = desired;
        Ok(opened > 0)
    }
}

#[cfg(test)]
#[path = "reconcile_tests.rs"]
mod tests;
