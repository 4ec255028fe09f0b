//! Attachments: the ports of container runtimes, which name a container and an interface and expect the rest.
//!
//! An attachment *is* a port of the desired state, so it is durable, reconciled, listed and counted like every
//! port. Its key is container and interface; what is found in a namespace never decides whose it is, because paths
//! of namespaces are used again. Adding is all or nothing and may be repeated; deleting and collecting succeed when
//! there is nothing to do.
//!
//! Each of these is linear in the number of objects, as every change is: the whole state is checked and written.

mod check;
#[cfg(test)]
mod netns_tests;
mod reap;

use std::collections::HashSet;
use std::net::IpAddr;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use ctl::desired::convert::field;
use ctl::desired::{DesiredState, Network, Place, Port, attachment};
use ctl::error::{ApiError, Reason};
use ctl::proto;
use ipnet::IpNet;
use packet::MacAddr;

use super::core::Core;
use super::{derive, look};

pub use check::{check, hold_back, readiness};
pub use reap::Reaper;

/// Keys of [`Port::metadata`] that begin so are ours.
const RESERVED: &str = "swd/";
/// When an attachment was added, in milliseconds since 1970 by the clock of the node. A tombstone older than that is
/// about an earlier attachment of the same key.
pub const ADDED: &str = "swd/added";
/// Most names that an error lists.
const LISTED: usize = 8;

/// When something happens, by both clocks.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    /// For durations.
    pub now: Instant,
    /// Milliseconds since 1970.
    pub unix_ms: u64,
}

impl Clock {
    /// Now.
    pub fn read() -> Self {
        let unix = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self { now: Instant::now(), unix_ms: u64::try_from(unix.as_millis()).unwrap_or(u64::MAX) }
    }
}

/// The name of an attachment's port.
///
/// # Errors
/// [`Reason::InvalidArgument`] for half a key. What a name cannot be is for [`Port::check`].
pub fn port_name(key: &proto::AttachmentKey) -> Result<String, ApiError> {
    for (what, text) in [("container id", &key.container_id), ("interface name", &key.ifname)] {
        if text.is_empty() {
            return Err(ApiError::invalid("attachment", format!("its {what} is missing")));
        }
    }
    Ok(attachment::port_name(&key.container_id, &key.ifname))
}

/// The key of a port that is an attachment.
pub fn key(port: &Port) -> Option<proto::AttachmentKey> {
    let owner = port.attachment.as_ref()?;
    Some(proto::AttachmentKey { container_id: owner.container_id.clone(), ifname: port.ifname.clone() })
}

/// The port of an attachment.
pub fn find<'a>(desired: &'a DesiredState, name: &str) -> Option<&'a Port> {
    desired.ports.iter().find(|p| p.name == name && p.attachment.is_some())
}

/// The network of that name, or without a name the only one there is.
///
/// # Errors
/// [`Reason::NetworkNotFound`], or [`Reason::InvalidArgument`] when there are several to choose from.
pub fn network<'a>(desired: &'a DesiredState, name: &str) -> Result<&'a Network, ApiError> {
    if !name.is_empty() {
        return desired.networks.iter().find(|n| n.name == name).ok_or_else(|| ApiError::no_network(name));
    }
    match desired.networks.as_slice() {
        [only] => Ok(only),
        [] => Err(ApiError::new(Reason::NetworkNotFound, "there is no network yet")
            .hint("declare one: swctl network add pods --vni 1 --subnet 10.1.1.0/24 --gateway 10.1.1.1")),
        all => {
            let mut names: Vec<&str> = all.iter().take(LISTED).map(|n| n.name.as_str()).collect();
            if all.len() > LISTED {
                names.push("…");
            }
            let text = format!("there are {} networks ({}): name one of them", all.len(), names.join(", "));
            Err(ApiError::new(Reason::InvalidArgument, text)
                .hint("set `network` in the CNI configuration, or in the request"))
        }
    }
}

/// The MAC of an attachment without one of its own. It follows from key and address, so that the next pod with the
/// same address has another and gets no frames that were meant for this one. Of an IPv4 address all four octets are
/// in it, which keeps the MACs of a cluster apart; the rest is 14 bits of hash. IPv6 alone leaves 46 bits of hash.
fn mac(port: &Port) -> MacAddr {
    let v4 = port.ips.iter().find_map(|ip| match ip {
        IpNet::V4(v4) => Some(v4.addr().octets()),
        IpNet::V6(_) => None,
    });
    let first = port.ips.first().map(|ip| ip.addr().to_string()).unwrap_or_default();
    let hash = derive::stable_hash(&format!("{} {first}", port.name));
    let [h0, h1, h2, h3, h4, h5, ..] = (hash ^ hash >> 32).to_le_bytes();
    let [a, b, c, d] = v4.unwrap_or([h2, h3, h4, h5]);
    // Locally administered, unicast; and the second octet 53 is that of gateways and routers.
    MacAddr([h0 & 0xfc | 0x02, if h1 == 0x53 { 0x35 } else { h1 }, a, b, c, d])
}

/// An attachment that is declared and whose device is open.
#[derive(Debug, PartialEq, Eq)]
pub struct Added {
    /// Its port.
    pub port: Port,
    /// It was there already.
    pub existed: bool,
}

/// Adds an attachment, or finds that it is there as asked.
///
/// # Errors
/// What is wrong with the request, [`Reason::Conflict`] when the attachment or an address it asks for is there
/// otherwise, [`Reason::Limit`] when there is no address left, and those of [`Core::add_port`]. Then nothing has
/// changed.
pub fn add(core: &mut Core, request: proto::AddAttachmentRequest, clock: Clock) -> Result<Added, ApiError> {
    let name = port_name(request.key.as_ref().unwrap_or(&proto::AttachmentKey::default()))?;
    let object = format!("attachment {name}");
    if let Some(key) = request.metadata.keys().find(|key| key.starts_with(RESERVED)) {
        return Err(ApiError::invalid(&object, format!("metadata `{}` is reserved", key.escape_default())));
    }
    if request.cni_network.is_empty() {
        return Err(ApiError::invalid(&object, "the name of its CNI network is missing"));
    }
    if let Some(old) = find(&core.desired, &name) {
        let old = old.clone();
        agree(&old, request)?;
        revive(core, &name, clock.now)?;
        return added(core, &name, true);
    }
    let network = network(&core.desired, &request.network)?;
    let ips = match request.delegated {
        true => request.ips.iter().map(|text| given(&object, network, text)).collect::<Result<_, _>>()?,
        false => {
            let asked = request.ips.iter().map(|text| asked(&object, text)).collect::<Result<Vec<_>, _>>()?;
            core.ipam.pick(&core.desired, network, &asked, clock.now)?
        }
    };
    if !request.mappings.is_empty() && node_port(&core.desired, &network.name).is_none() {
        let text =
            format!("network {} has no port of the node, which port mappings lead through", network.name);
        return Err(ApiError::invalid(&object, text)
            .hint(format!("give the node one: swctl port add node --network {} --node", network.name)));
    }
    let mut port = declare(request, network.name.clone(), ips)?;
    port.mac.get_or_insert(mac(&port));
    port.metadata.insert(ADDED.to_owned(), clock.unix_ms.to_string());
    core.add_port(port)?;
    added(core, &name, false)
}

/// The answer to adding, from the state as it is now.
fn added(core: &Core, name: &str, existed: bool) -> Result<Added, ApiError> {
    let port = find(&core.desired, name).ok_or_else(|| ApiError::no_port(name))?.clone();
    Ok(Added { port, existed })
}

/// The node's own port in a network.
pub fn node_port<'a>(desired: &'a DesiredState, network: &str) -> Option<&'a Port> {
    desired.ports.iter().find(|p| p.node.is_some() && p.network == network)
}

/// The port of a request, but for what is derived.
fn declare(request: proto::AddAttachmentRequest, network: String, ips: Vec<IpNet>) -> Result<Port, ApiError> {
    let key = request.key.unwrap_or_default();
    let owner = proto::AttachmentOwner {
        cni_network: request.cni_network,
        container_id: key.container_id,
        netns_id: String::new(),
    };
    Port::try_from(proto::Port {
        name: attachment::port_name(&owner.container_id, &key.ifname),
        network,
        netns: request.netns,
        ifname: key.ifname,
        mac: request.mac,
        ips: ips.iter().map(ToString::to_string).collect(),
        mtu: request.mtu,
        default_route: request.default_route,
        metadata: request.metadata,
        bandwidth: request.bandwidth,
        mappings: request.mappings,
        attachment: Some(owner),
        ..proto::Port::default()
    })
}

/// An address with or without prefix length, whose length does not count.
fn asked(object: &str, text: &str) -> Result<IpAddr, ApiError> {
    if text.contains('/') { Ok(field::<IpNet>(object, text)?.addr()) } else { field(object, text) }
}

/// An address from elsewhere: as it is, or with the length of its subnet.
fn given(object: &str, network: &Network, text: &str) -> Result<IpNet, ApiError> {
    if text.contains('/') {
        return field(object, text);
    }
    let ip: IpAddr = field(object, text)?;
    let subnet = network.subnets.iter().find(|s| s.cidr.contains(&ip));
    subnet.and_then(|s| IpNet::new(ip, s.cidr.prefix_len()).ok()).ok_or_else(|| {
        let cause =
            format!("address {ip} needs a prefix length: it is in no subnet of network {}", network.name);
        ApiError::invalid(object, cause)
    })
}

/// Checks that a request for an attachment that is there asks for what is there. Metadata may differ.
fn agree(old: &Port, request: proto::AddAttachmentRequest) -> Result<(), ApiError> {
    let object = format!("attachment {}", old.name);
    let has = |ip: &IpAddr| old.ips.iter().any(|own| own.addr() == *ip);
    let ips = request.ips.iter().map(|text| asked(&object, text)).collect::<Result<Vec<_>, _>>()?;
    let all = !request.delegated || ips.len() == old.ips.len();
    let network = if request.network.is_empty() { old.network.clone() } else { request.network.clone() };
    let mut same = declare(request, network, old.ips.clone())?;
    same.mac = same.mac.or(old.mac);
    if let (Some(owner), Some(known)) = (&mut same.attachment, &old.attachment) {
        owner.netns_id.clone_from(&known.netns_id);
    }
    let differing: Vec<&str> = [
        ("CNI network", same.attachment != old.attachment),
        ("network", same.network != old.network),
        ("network namespace", same.netns != old.netns),
        ("addresses", !all || !ips.iter().all(has)),
        ("MAC", same.mac != old.mac),
        ("MTU", same.mtu != old.mtu),
        ("default route", same.default_route != old.default_route),
        ("bandwidth", same.bandwidth != old.bandwidth),
        ("port mappings", same.mappings != old.mappings),
    ]
    .into_iter()
    .filter_map(|(what, differs)| differs.then_some(what))
    .collect();
    if differing.is_empty() {
        return Ok(());
    }
    let ips: Vec<String> = old.ips.iter().map(ToString::to_string).collect();
    let text = format!(
        "{object} exists with other {}: it is in network {}, namespace {}, and has {}",
        differing.join(", "),
        old.network,
        old.netns,
        if ips.is_empty() { "no address".to_owned() } else { ips.join(", ") }
    );
    Err(ApiError::new(Reason::Conflict, text).hint(format!("delete it first: swctl port del {}", old.name)))
}

/// Makes sure that the device of an attachment is there, where its runtime says that it is to be.
fn revive(core: &mut Core, name: &str, now: Instant) -> Result<(), ApiError> {
    if let Some(up) = core.up(name) {
        let (id, spec, place) = (up.id, up.spec.clone(), up.place);
        match core.opener.check_port(&spec, place) {
            Ok(health) if look::lost(health).is_some() => core.look_at(&[], &[id], now)?,
            Ok(_) => {}
            Err(e) => tracing::warn!(port = name, "cannot look at the device: {e}"),
        }
    }
    core.add_port_again(name)
}

/// Deletes an attachment; false when there is none.
///
/// # Errors
/// Those of [`Core::commit`]. Then nothing has changed.
pub fn delete(core: &mut Core, key: &proto::AttachmentKey) -> Result<bool, ApiError> {
    let name = port_name(key)?;
    if find(&core.desired, &name).is_none() {
        return Ok(false);
    }
    remove(core, &HashSet::from([name]))?;
    Ok(true)
}

/// Deletes the attachments of a CNI network that are not among the valid ones, and returns their keys. A device that
/// cannot be removed is logged and holds up nothing.
///
/// # Errors
/// Those of [`Core::commit`]. Then nothing has changed.
pub fn collect(
    core: &mut Core,
    request: &proto::CollectAttachmentsRequest,
) -> Result<Vec<proto::AttachmentKey>, ApiError> {
    if request.cni_network.is_empty() {
        return Err(ApiError::invalid("request", "the name of the CNI network is missing"));
    }
    let valid: HashSet<String> =
        request.valid.iter().map(|key| attachment::port_name(&key.container_id, &key.ifname)).collect();
    let of_network =
        |port: &&Port| port.attachment.as_ref().is_some_and(|owner| owner.cni_network == request.cni_network);
    let stale: Vec<&Port> =
        core.desired.ports.iter().filter(of_network).filter(|p| !valid.contains(&p.name)).collect();
    let mut keys: Vec<proto::AttachmentKey> = stale.iter().filter_map(|p| key(p)).collect();
    let names: HashSet<String> = stale.into_iter().map(|p| p.name.clone()).collect();
    remove(core, &names)?;
    keys.sort_by(|a, b| (&a.container_id, &a.ifname).cmp(&(&b.container_id, &b.ifname)));
    Ok(keys)
}

/// Deletes ports, with the static entries that are worth nothing without them, in one change.
fn remove(core: &mut Core, names: &HashSet<String>) -> Result<(), ApiError> {
    if names.is_empty() {
        return Ok(());
    }
    let mut next = core.desired.clone();
    next.ports.retain(|p| !names.contains(&p.name));
    next.fdb.retain(|e| !matches!(&e.place, Place::Port(port) if names.contains(port)));
    core.commit(next)?;
    Ok(())
}

#[cfg(test)]
#[path = "attach_tests.rs"]
mod tests;
