//! What is wrong with an attachment, and whether another could be added.
//!
//! Both are asked every few seconds, or at each start of a pod: they look at one device at most, and never wait for
//! anything here.

use std::collections::BTreeSet;
use std::time::Instant;

use ctl::desired::Port;
use ctl::desired::convert::field;
use ctl::error::ApiError;
use ctl::proto;
use ipnet::IpNet;

use super::super::core::Core;
use super::super::look;
use super::super::reconcile::Actual;
use super::super::{derive, ipam, service};
use crate::io::PortHealth;

/// What keeps an attachment from carrying traffic, or differs from what the runtime believes; a sentence each.
///
/// # Errors
/// [`ctl::error::Reason::PortNotFound`] when it is not declared, [`ctl::error::Reason::InvalidArgument`].
pub fn check(core: &mut Core, request: &proto::CheckAttachmentRequest) -> Result<Vec<String>, ApiError> {
    let name = super::port_name(request.key.as_ref().unwrap_or(&proto::AttachmentKey::default()))?;
    let object = format!("attachment {name}");
    let port = super::find(&core.desired, &name).ok_or_else(|| ApiError::no_port(&name))?.clone();
    let mut problems = Vec::new();
    if let Some(owner) = &port.attachment
        && !request.cni_network.is_empty()
        && owner.cni_network != request.cni_network
    {
        problems
            .push(format!("it belongs to CNI network {}, not {}", owner.cni_network, request.cni_network));
    }
    if !request.netns.is_empty() && request.netns != port.netns {
        problems.push(format!("it is in network namespace {}, not {}", port.netns, request.netns));
    }
    if !request.ips.is_empty() {
        let asked = request.ips.iter().map(|text| field::<IpNet>(&object, text));
        let asked: BTreeSet<IpNet> = asked.collect::<Result<_, _>>()?;
        let own: BTreeSet<IpNet> = port.ips.iter().copied().collect();
        problems.extend(asked.difference(&own).map(|ip| format!("address {ip} is not its own")));
        problems
            .extend(own.difference(&asked).map(|ip| format!("the runtime does not know its address {ip}")));
    }
    problems.extend(device_problem(core, &port));
    problems.extend(mapping_problems(core, &port));
    Ok(problems)
}

/// Why the device of a port carries no traffic, if it does not. The device is looked at now.
fn device_problem(core: &mut Core, port: &Port) -> Option<String> {
    let (spec, place, id) = match core.ports.get(&port.name) {
        None => return Some("its device has not been opened yet".to_owned()),
        Some(Actual::Down(down)) => {
            let why = service::own_words(&format!("port {}", port.name), &down.error.message);
            return Some(format!("it has no device: {why}"));
        }
        Some(Actual::Up(up)) => (up.spec.clone(), up.place, up.id),
    };
    match core.opener.check_port(&spec, place) {
        Err(e) => Some(format!("its device cannot be looked at: {e}")),
        Ok(health) => {
            // Whoever looks next knows that the link was down.
            if health == PortHealth::Down
                && let Some(Actual::Up(up)) = core.ports.get_mut(&port.name)
            {
                up.health = health;
            }
            match look::lost(health) {
                Some(why) => Some(why.to_owned()),
                None if service::cuts_off(health) || look::pod_lacks(health) => {
                    service::health(health, spec.mtu).map(|(why, _)| why)
                }
                None if core.tables().port(id).is_none() => Some("it is not in the tables".to_owned()),
                None => None,
            }
        }
    }
}

/// Why the ports of the node that lead to a port do not, if they do not.
fn mapping_problems(core: &Core, port: &Port) -> Vec<String> {
    if port.mappings.is_empty() {
        return Vec::new();
    }
    let planned = core.plan.problems.iter().filter(|p| p.port == port.name).map(|p| p.text.clone());
    let node = super::node_port(&core.desired, &port.network).filter(|node| core.up(&node.name).is_none());
    let down = node.map(|node| format!("port {} of the node is not up", node.name));
    let refused = core.kernel.problem().map(str::to_owned);
    planned
        .chain(down)
        .chain(refused)
        .map(|why| format!("its port mappings are not in force: {why}"))
        .collect()
}

/// Whether an attachment could be added now, as far as can be told without asking the worker.
pub fn readiness(core: &Core, network: &str, now: Instant) -> proto::Readiness {
    let mut readiness = proto::Readiness { ready: true, ..proto::Readiness::default() };
    let network = match super::network(&core.desired, network) {
        Ok(network) => network,
        Err(e) => {
            hold_back(&mut readiness, false, &e.message, &e.hint);
            return readiness;
        }
    };
    if core.settings.underlay.is_none()
        && let Some(peer) = core.desired.peers.iter().find(|p| derive::applies(p, network))
    {
        let text = format!("peer {} cannot be reached: this switch has no underlay", peer.name);
        hold_back(&mut readiness, true, &text, "start swd with --underlay");
    }
    if let Some(problem) = core.unwritable() {
        let hint = "make room on the disk of the state directory, or see to its permissions";
        hold_back(&mut readiness, false, &format!("the state cannot be written: {problem}"), hint);
    }
    let supplies = core.ipam.supplies(&core.desired, network, now);
    readiness.free_addresses = supplies.iter().map(ipam::Supply::free).min().unwrap_or(0);
    for supply in supplies.iter().filter(|s| s.free() == 0) {
        let e = ipam::exhausted(network, supply, now);
        hold_back(&mut readiness, false, &e.message, &e.hint);
    }
    readiness
}

/// Adds a cause to an answer; the first one's next step counts.
pub fn hold_back(readiness: &mut proto::Readiness, degraded: bool, cause: &str, hint: &str) {
    readiness.ready = false;
    readiness.degraded |= degraded;
    if !readiness.cause.is_empty() {
        readiness.cause.push_str("; ");
    }
    readiness.cause.push_str(cause);
    if readiness.hint.is_empty() {
        hint.clone_into(&mut readiness.hint);
    }
}
