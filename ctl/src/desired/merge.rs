//! The meaning of `apply`: what a document makes of the state that is there.
//!
//! Objects of the document are added, or replace those with the same key. With `prune`, objects that the
//! document does not have are deleted; without, they stay. The same function serves the single-object
//! requests: a document with one object, not pruned. Linear in the size of both.

use std::collections::HashMap;
use std::hash::Hash;

use super::{DesiredState, FdbEntry, Neighbour, Network, Peer, Port, Route, Settings};

/// What happened to an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// It was not there.
    Add,
    /// It was there with other content.
    Update,
    /// It is gone.
    Delete,
}

/// One object that differs between the old state and the new.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// What happened.
    pub action: Action,
    /// `network`, `port`, `peer`, `route`, `fdb`, `neighbour` or `settings`.
    pub kind: &'static str,
    /// Its name, or its network and key.
    pub name: String,
}

impl From<Change> for crate::proto::Change {
    fn from(c: Change) -> Self {
        use crate::proto::ChangeAction;
        let action = match c.action {
            Action::Add => ChangeAction::Add,
            Action::Update => ChangeAction::Update,
            Action::Delete => ChangeAction::Delete,
        };
        Self { action: action.into(), kind: c.kind.to_owned(), name: c.name }
    }
}

/// An object of the desired state and what identifies it.
pub trait Object: Clone + PartialEq {
    /// The word for it in [`Change::kind`].
    const KIND: &'static str;
    /// What identifies it among its kind.
    type Key<'a>: Hash + Eq
    where
        Self: 'a;

    /// Its key.
    fn key(&self) -> Self::Key<'_>;
    /// Its key in words.
    fn label(&self) -> String;
}

macro_rules! named {
    ($($t:ident $kind:literal),*) => {$(
        impl Object for $t {
            const KIND: &'static str = $kind;
            type Key<'a> = &'a str;

            fn key(&self) -> &str { &self.name }
            fn label(&self) -> String { self.name.clone() }
        }
    )*};
}

macro_rules! in_network {
    ($($t:ident $kind:literal $field:ident $key:ty),*) => {$(
        impl Object for $t {
            const KIND: &'static str = $kind;
            type Key<'a> = (&'a str, $key);

            fn key(&self) -> (&str, $key) { (&self.network, self.$field) }
            fn label(&self) -> String { format!("{} {}", self.network, self.$field) }
        }
    )*};
}

named!(Network "network", Port "port", Peer "peer");
in_network!(
    Route "route" prefix ipnet::IpNet,
    FdbEntry "fdb" mac packet::MacAddr,
    Neighbour "neighbour" ip std::net::IpAddr
);

impl DesiredState {
    /// The state after `document` is applied, and the differences. The result is not checked: call
    /// [`DesiredState::check`] before it takes effect.
    #[must_use]
    pub fn merged(&self, document: Self, prune: bool) -> (Self, Vec<Change>) {
        let mut changes = Vec::new();
        // A document that says nothing about settings leaves them, unless it is the whole truth.
        let silent = !prune && document.settings == Settings::default();
        let settings = if silent { self.settings.clone() } else { document.settings };
        if self.settings != settings {
            changes.push(Change { action: Action::Update, kind: "settings", name: String::new() });
        }
        let state = Self {
            version: document.version,
            settings,
            networks: merge(&self.networks, document.networks, prune, &mut changes),
            ports: merge(&self.ports, document.ports, prune, &mut changes),
            peers: merge(&self.peers, document.peers, prune, &mut changes),
            routes: merge(&self.routes, document.routes, prune, &mut changes),
            fdb: merge(&self.fdb, document.fdb, prune, &mut changes),
            neighbours: merge(&self.neighbours, document.neighbours, prune, &mut changes),
        };
        (state, changes)
    }
}

/// Keeps the order of `old`; new objects follow in the order of the document. A key that the document has
/// twice comes out twice, for the check to refuse.
fn merge<T: Object>(old: &[T], new: Vec<T>, prune: bool, changes: &mut Vec<Change>) -> Vec<T> {
    let mut replacements: HashMap<T::Key<'_>, &T> = HashMap::with_capacity(new.len());
    for object in &new {
        replacements.entry(object.key()).or_insert(object);
    }
    let mut note = |action, object: &T| changes.push(Change { action, kind: T::KIND, name: object.label() });
    let mut merged = Vec::with_capacity(old.len() + new.len());
    for object in old {
        match replacements.get(&object.key()) {
            Some(&same) if same == object => merged.push(object.clone()),
            Some(&other) => {
                note(Action::Update, object);
                merged.push(other.clone());
            }
            None if prune => note(Action::Delete, object),
            None => merged.push(object.clone()),
        }
    }
    let known: std::collections::HashSet<T::Key<'_>> = old.iter().map(T::key).collect();
    for object in &new {
        let first = replacements.get(&object.key()).is_some_and(|&r| std::ptr::eq(r, object));
        if !first {
            merged.push(object.clone());
        } else if !known.contains(&object.key()) {
            note(Action::Add, object);
            merged.push(object.clone());
        }
    }
    merged
}
