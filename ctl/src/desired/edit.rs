//! The meaning of the single-object requests: adding one object, deleting one object.
//!
//! Both answer a new, checked state, or `None` when the state already is as asked.

use std::fmt;
use std::net::IpAddr;

use ipnet::IpNet;
use packet::MacAddr;

use super::merge::Action;
use super::{DesiredState, Place, RouteTarget};
use crate::error::{ApiError, Reason};

/// One object by its key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ObjectKey<'a> {
    /// By name.
    Network(&'a str),
    /// By name.
    Port(&'a str),
    /// By name.
    Peer(&'a str),
    /// By network and prefix.
    Route(&'a str, IpNet),
    /// By network and address.
    Fdb(&'a str, MacAddr),
    /// By network and address.
    Neighbour(&'a str, IpAddr),
}

impl fmt::Display for ObjectKey<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Network(name) => write!(f, "network {name}"),
            Self::Port(name) => write!(f, "port {name}"),
            Self::Peer(name) => write!(f, "peer {name}"),
            Self::Route(network, prefix) => write!(f, "route {prefix} in network {network}"),
            Self::Fdb(network, mac) => write!(f, "fdb entry {mac} in network {network}"),
            Self::Neighbour(network, ip) => write!(f, "neighbour {ip} in network {network}"),
        }
    }
}

impl DesiredState {
    /// The state with the objects of `document` added, which normally is one.
    ///
    /// # Errors
    /// [`Reason::AlreadyExists`]; with `may_exist` only [`Reason::Conflict`], when there is one of the same
    /// key and other content; and those of [`DesiredState::check`].
    pub fn with(&self, document: Self, may_exist: bool) -> Result<Option<Self>, ApiError> {
        let count = |s: &Self| {
            s.networks.len()
                + s.ports.len()
                + s.peers.len()
                + s.routes.len()
                + s.fdb.len()
                + s.neighbours.len()
        };
        let (asked, before) = (count(&document), count(self));
        let first = ObjectKey::first(&document).map(|k| k.to_string()).unwrap_or_default();
        let (state, changes) = self.merged(document, false);
        if let Some(c) = changes.iter().find(|c| c.action == Action::Update) {
            let reason = if may_exist { Reason::Conflict } else { Reason::AlreadyExists };
            let what = if c.name.is_empty() { c.kind.to_owned() } else { format!("{} {}", c.kind, c.name) };
            return Err(ApiError::new(reason, format!("{what} exists with other content"))
                .hint("compare with swctl export; change it with swctl apply, or delete it first"));
        }
        if count(&state) - before < asked && !may_exist {
            return Err(ApiError::new(Reason::AlreadyExists, format!("{first} exists"))
                .hint("pass --may-exist where that is fine"));
        }
        if changes.is_empty() {
            return Ok(None);
        }
        state.check()?;
        Ok(Some(state))
    }

    /// The state without one object.
    ///
    /// # Errors
    /// The reason for a missing object, unless `if_exists`; [`Reason::InUse`] while another names it.
    pub fn without(&self, key: ObjectKey, if_exists: bool) -> Result<Option<Self>, ApiError> {
        let mut state = self.clone();
        let gone = match key {
            ObjectKey::Network(name) => remove(&mut state.networks, |o| o.name == name),
            ObjectKey::Port(name) => remove(&mut state.ports, |o| o.name == name),
            ObjectKey::Peer(name) => remove(&mut state.peers, |o| o.name == name),
            ObjectKey::Route(network, prefix) => {
                remove(&mut state.routes, |o| o.network == network && o.prefix == prefix)
            }
            ObjectKey::Fdb(network, mac) => remove(&mut state.fdb, |o| o.network == network && o.mac == mac),
            ObjectKey::Neighbour(network, ip) => {
                remove(&mut state.neighbours, |o| o.network == network && o.ip == ip)
            }
        };
        match (gone, self.user_of(key)) {
            (true, None) => Ok(Some(state)),
            (true, Some(user)) => Err(ApiError::new(Reason::InUse, format!("{key} is in use by {user}"))
                .hint(format!("delete {user} first"))),
            (false, _) if if_exists => Ok(None),
            (false, _) => Err(not_found(key)),
        }
    }

    /// The first object that names this one.
    fn user_of(&self, key: ObjectKey) -> Option<String> {
        let port = |p: &super::Port| format!("port {}", p.name);
        let peer = |p: &super::Peer| format!("peer {}", p.name);
        match key {
            ObjectKey::Network(name) => {
                let ports = self.ports.iter().find(|p| p.network == name).map(port);
                let peers = || self.peers.iter().find(|p| p.network.as_deref() == Some(name)).map(peer);
                let routes = || self.routes.iter().find(|r| r.network == name).map(ToString::to_string);
                let fdb = || self.fdb.iter().find(|e| e.network == name).map(ToString::to_string);
                let neigh = || self.neighbours.iter().find(|n| n.network == name).map(ToString::to_string);
                ports.or_else(peers).or_else(routes).or_else(fdb).or_else(neigh)
            }
            ObjectKey::Port(name) => {
                let uses = |p: &Place| matches!(p, Place::Port(port) if port == name);
                self.fdb.iter().find(|e| uses(&e.place)).map(ToString::to_string)
            }
            ObjectKey::Peer(name) => {
                let leads = |t: &RouteTarget| matches!(t, RouteTarget::Peer(peer) if peer == name);
                let uses = |p: &Place| matches!(p, Place::Peer(peer) if peer == name);
                let routes = self.routes.iter().find(|r| leads(&r.target)).map(ToString::to_string);
                routes.or_else(|| self.fdb.iter().find(|e| uses(&e.place)).map(ToString::to_string))
            }
            ObjectKey::Route(..) | ObjectKey::Fdb(..) | ObjectKey::Neighbour(..) => None,
        }
    }
}

impl<'a> ObjectKey<'a> {
    /// That of the first object of a document.
    fn first(s: &'a DesiredState) -> Option<Self> {
        let networks = s.networks.first().map(|o| Self::Network(&o.name));
        let ports = s.ports.first().map(|o| Self::Port(&o.name));
        let peers = s.peers.first().map(|o| Self::Peer(&o.name));
        let routes = s.routes.first().map(|o| Self::Route(&o.network, o.prefix));
        let fdb = s.fdb.first().map(|o| Self::Fdb(&o.network, o.mac));
        let neighbours = s.neighbours.first().map(|o| Self::Neighbour(&o.network, o.ip));
        networks.or(ports).or(peers).or(routes).or(fdb).or(neighbours)
    }
}

fn remove<T>(items: &mut Vec<T>, is: impl Fn(&T) -> bool) -> bool {
    let before = items.len();
    items.retain(|o| !is(o));
    items.len() != before
}

fn not_found(key: ObjectKey) -> ApiError {
    let hint = "pass --if-exists where that is fine";
    match key {
        ObjectKey::Network(name) => ApiError::no_network(name),
        ObjectKey::Port(name) => ApiError::no_port(name),
        ObjectKey::Peer(name) => ApiError::no_peer(name),
        ObjectKey::Route(..) => {
            ApiError::new(Reason::RouteNotFound, format!("{key} was not added")).hint(hint)
        }
        ObjectKey::Fdb(..) => ApiError::new(Reason::FdbNotFound, format!("{key} does not exist")).hint(hint),
        ObjectKey::Neighbour(..) => {
            ApiError::new(Reason::InvalidArgument, format!("{key} does not exist")).hint(hint)
        }
    }
}
